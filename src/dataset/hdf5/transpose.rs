//! The bit transposition of bitshuffle, both ways: pure byte shuffling, no headers, no compression.
//!
//! A block of `n` elements (a multiple of 8) of `elem` bytes is stored as `8 * elem` rows of `n / 8` bytes: row
//! `8 * b + i` holds bit `i` of byte `b` of every element, the first element in the lowest bit. The eight rows of
//! a byte are a plane. The AVX2 path and the portable one give the same bytes; the processor chooses.

use std::ops::Range;

/// Elements of `dst` from the bit rows `src`.
///
/// # Panics
/// If the lengths differ or are no multiple of 8 elements.
pub(super) fn untranspose(src: &[u8], dst: &mut [u8], elem: usize) {
    check(src, dst, elem);
    #[cfg(target_arch = "x86_64")]
    if matches!(elem, 1 | 2 | 4) && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, as the line above asked.
        unsafe { avx2::untranspose(src, dst, elem) };
        return;
    }
    untranspose_columns(src, dst, elem, 0..src.len() / (8 * elem));
}

/// Bit rows of `dst` from the elements `src`: the inverse of [`untranspose`].
///
/// # Panics
/// If the lengths differ or are no multiple of 8 elements.
pub(super) fn transpose(src: &[u8], dst: &mut [u8], elem: usize) {
    check(src, dst, elem);
    let stride = src.len() / (8 * elem);
    for (column, group) in src.chunks_exact(8 * elem).enumerate() {
        for byte in 0..elem {
            let bits = std::array::from_fn(|j| group[j * elem + byte]);
            for (i, row) in transpose8(bits).into_iter().enumerate() {
                dst[(8 * byte + i) * stride + column] = row;
            }
        }
    }
}

fn check(src: &[u8], dst: &[u8], elem: usize) {
    assert!(elem > 0 && src.len() == dst.len() && src.len().is_multiple_of(8 * elem), "not whole groups of 8 elements");
}

/// The portable path for some columns; a column is a byte of each row and gives eight elements.
fn untranspose_columns(src: &[u8], dst: &mut [u8], elem: usize, columns: Range<usize>) {
    let stride = src.len() / (8 * elem);
    for column in columns {
        let group = &mut dst[column * 8 * elem..][..8 * elem];
        for byte in 0..elem {
            let bits = std::array::from_fn(|i| src[(8 * byte + i) * stride + column]);
            for (j, value) in transpose8(bits).into_iter().enumerate() {
                group[j * elem + byte] = value;
            }
        }
    }
}

/// Bit `j` of byte `i` becomes bit `i` of byte `j`: three rounds that swap the off-diagonal 1 x 1, 2 x 2 and 4 x 4.
fn transpose8(bytes: [u8; 8]) -> [u8; 8] {
    let mut x = u64::from_le_bytes(bytes);
    for (shift, mask) in [(7, 0x00aa_00aa_00aa_00aa), (14, 0x0000_cccc_0000_cccc), (28, 0x0000_0000_f0f0_f0f0)] {
        let swap = (x ^ x >> shift) & mask;
        x ^= swap ^ swap << shift;
    }
    x.to_le_bytes()
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    //! 256 elements at a time: eight rows of 32 bytes become eight registers of elements, without a branch.

    use std::arch::x86_64::*;

    /// Bytes of a row that are taken at a time.
    const STEP: usize = 32;

    type Rows = [__m256i; 8];

    /// As [`super::untranspose`], for elements of 1, 2 or 4 bytes.
    #[target_feature(enable = "avx2")]
    pub(super) fn untranspose(src: &[u8], dst: &mut [u8], elem: usize) {
        let stride = src.len() / (8 * elem);
        let whole = stride / STEP * STEP;
        let mut planes = [None; 4];
        for (plane, bytes) in planes.iter_mut().zip(src.chunks_exact((8 * stride).max(1))) {
            *plane = (!is_zero(bytes)).then_some(bytes);
        }
        for column in (0..whole).step_by(STEP) {
            let out = &mut dst[column * 8 * elem..][..STEP * 8 * elem];
            match elem {
                1 => store1(gather(planes[0], stride, column), out),
                2 => store2([0, 1].map(|p| gather(planes[p], stride, column)), out),
                _ => store4([0, 1, 2, 3].map(|p| gather(planes[p], stride, column)), out),
            }
        }
        super::untranspose_columns(src, dst, elem, whole..stride);
    }

    /// Photon counts leave the upper planes empty, and nothing needs to be shuffled there.
    #[target_feature(enable = "avx2")]
    fn is_zero(bytes: &[u8]) -> bool {
        bytes.chunks(256).all(|part| part.iter().fold(0, |any, &byte| any | byte) == 0)
    }

    /// One plane's bytes of 256 elements. Register `i` holds those of columns `2i` and `2i + 1` in its lower lane
    /// and of `16 + 2i` and `17 + 2i` in its upper one.
    #[target_feature(enable = "avx2")]
    fn gather(plane: Option<&[u8]>, stride: usize, column: usize) -> Rows {
        let Some(plane) = plane else {
            return [_mm256_setzero_si256(); 8];
        };
        interleave(exchange(std::array::from_fn(|i| load(&plane[i * stride + column..][..STEP]))))
    }

    /// Transposes the 8 x 8 bits at every byte position across the registers.
    #[target_feature(enable = "avx2")]
    fn exchange(mut r: Rows) -> Rows {
        for i in [0, 2, 4, 6] {
            (r[i], r[i + 1]) = swap_bits::<1>(r[i], r[i + 1], _mm256_set1_epi8(0x55));
        }
        for i in [0, 1, 4, 5] {
            (r[i], r[i + 2]) = swap_bits::<2>(r[i], r[i + 2], _mm256_set1_epi8(0x33));
        }
        for i in [0, 1, 2, 3] {
            (r[i], r[i + 4]) = swap_bits::<4>(r[i], r[i + 4], _mm256_set1_epi8(0x0f));
        }
        r
    }

    /// Swaps the bits of `low` above the mask with those of `high` under it.
    #[target_feature(enable = "avx2")]
    fn swap_bits<const SHIFT: i32>(low: __m256i, high: __m256i, mask: __m256i) -> (__m256i, __m256i) {
        let swap = _mm256_and_si256(_mm256_xor_si256(_mm256_srli_epi64::<SHIFT>(low), high), mask);
        (_mm256_xor_si256(low, _mm256_slli_epi64::<SHIFT>(swap)), _mm256_xor_si256(high, swap))
    }

    /// Byte `m` of register `k` becomes byte `k` of the 8-byte group `m`.
    #[target_feature(enable = "avx2")]
    fn interleave(r: Rows) -> Rows {
        let bytes = |a, b| (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
        let words = |a, b| (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
        let quads = |a, b| (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let ((a0, a1), (b0, b1)) = (bytes(r[0], r[1]), bytes(r[2], r[3]));
        let ((c0, c1), (d0, d1)) = (bytes(r[4], r[5]), bytes(r[6], r[7]));
        let ((e0, e1), (e2, e3)) = (words(a0, b0), words(a1, b1));
        let ((f0, f1), (f2, f3)) = (words(c0, d0), words(c1, d1));
        let ((g0, g1), (g2, g3)) = (quads(e0, f0), quads(e1, f1));
        let ((g4, g5), (g6, g7)) = (quads(e2, f2), quads(e3, f3));
        [g0, g1, g2, g3, g4, g5, g6, g7]
    }

    #[target_feature(enable = "avx2")]
    fn store1(r: Rows, out: &mut [u8]) {
        for (i, pair) in r.chunks_exact(2).enumerate() {
            store_lanes(pair[0], pair[1], out, i * 32, 128 + i * 32);
        }
    }

    #[target_feature(enable = "avx2")]
    fn store2([low, high]: [Rows; 2], out: &mut [u8]) {
        for i in 0..8 {
            let (a, b) = (_mm256_unpacklo_epi8(low[i], high[i]), _mm256_unpackhi_epi8(low[i], high[i]));
            store_lanes(a, b, out, i * 32, 256 + i * 32);
        }
    }

    #[target_feature(enable = "avx2")]
    fn store4([p0, p1, p2, p3]: [Rows; 4], out: &mut [u8]) {
        for i in 0..8 {
            let (a, b) = (_mm256_unpacklo_epi8(p0[i], p1[i]), _mm256_unpackhi_epi8(p0[i], p1[i]));
            let (c, d) = (_mm256_unpacklo_epi8(p2[i], p3[i]), _mm256_unpackhi_epi8(p2[i], p3[i]));
            store_lanes(_mm256_unpacklo_epi16(a, c), _mm256_unpackhi_epi16(a, c), out, i * 64, 512 + i * 64);
            store_lanes(_mm256_unpacklo_epi16(b, d), _mm256_unpackhi_epi16(b, d), out, i * 64 + 32, 544 + i * 64);
        }
    }

    /// The lower lanes of both go to `low`, the upper ones to `high`.
    #[target_feature(enable = "avx2")]
    fn store_lanes(a: __m256i, b: __m256i, out: &mut [u8], low: usize, high: usize) {
        store(_mm256_permute2x128_si256::<0x20>(a, b), &mut out[low..][..STEP]);
        store(_mm256_permute2x128_si256::<0x31>(a, b), &mut out[high..][..STEP]);
    }

    #[target_feature(enable = "avx2")]
    fn load(bytes: &[u8]) -> __m256i {
        assert_eq!(bytes.len(), STEP);
        // SAFETY: 32 bytes can be read, as asserted; the load needs no alignment.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx2")]
    fn store(value: __m256i, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), STEP);
        // SAFETY: 32 bytes can be written, as asserted; the store needs no alignment.
        unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), value) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn portable(src: &[u8], elem: usize) -> Vec<u8> {
        let mut out = vec![0xaa; src.len()];
        untranspose_columns(src, &mut out, elem, 0..src.len() / (8 * elem));
        out
    }

    #[test]
    fn rows_are_bits_of_the_elements() {
        // Eight 16-bit elements, of which the third has bit 9 set: row 9, bit 2.
        let mut src = [0; 16];
        src[2 * 2 + 1] = 0x02;
        let mut rows = [0; 16];
        transpose(&src, &mut rows, 2);
        let mut expected = [0; 16];
        expected[9] = 1 << 2;
        assert_eq!(rows, expected);
    }

    proptest! {
        #[test]
        fn both_paths_undo_the_transposition(
            bytes in proptest::collection::vec(any::<u8>(), 0..6000),
            elem in prop_oneof![Just(1_usize), Just(2), Just(3), Just(4), Just(8)],
            empty_upper in any::<bool>(),
        ) {
            let mut bytes = bytes;
            bytes.truncate(bytes.len() / (8 * elem) * 8 * elem);
            if empty_upper {
                bytes.chunks_exact_mut(elem).for_each(|e| e[1..].fill(0));
            }
            let mut rows = vec![0; bytes.len()];
            transpose(&bytes, &mut rows, elem);
            let mut out = vec![0xaa; bytes.len()];
            untranspose(&rows, &mut out, elem);
            prop_assert_eq!(&out, &bytes);
            prop_assert_eq!(&portable(&rows, elem), &bytes);
        }
    }
}
