// Sums of raw dense frames, for dense.cu: of each frame over its wanted cells, and of each cell over the frames of a segment.
// Knows nothing of bins or correlations.
//
// A thread takes four cells of each frame, as words of 32 bits: neighbouring threads read neighbouring words. A frame that
// does not begin at a word is read cell by cell, into the same words. Whole numbers are added as such and are exact.
#pragma once
#include "common.cuh"

// Cells of a thread.
const u32 CELLS = 4;

// Frames whose words a thread asks for before it uses the first of them, so that it does not wait for each.
const u32 AHEAD = 4;

// Whether a value cannot be counts.
DEVICE bool is_bad(u32) { return false; }
DEVICE bool is_bad(int value) { return value < 0; }
DEVICE bool is_bad(float value) { return !(value - value == 0.0f); }

// Whether a value marks a pixel that is left out; only unsigned ones do.
DEVICE bool is_saturated(u32 value, u64 mark) { return value == mark; }
DEVICE bool is_saturated(int, u64) { return false; }
DEVICE bool is_saturated(float, u64) { return false; }

// A word as the number that it is.
DEVICE float float_of(u32 word) {
#ifdef SPECKLED_HOST
    return shim::from_bits<float>(word);
#else
    return __uint_as_float(word);
#endif
}

// What a thread looks for in a word.
struct Watch {
    // The bits of the cells that are wanted.
    u32 wanted;
    // The bits of the cells in which `mark` means nothing.
    u32 unmarked;
    // The saturation value, in each cell.
    u32 mark;
};

// Two counts of 16 bits, or four of 8: whether one of them is zero. One above such a count may be taken for zero, too.
DEVICE bool has_zero_pair(u32 word) { return ((word - 0x00010001u) & ~word & 0x80008000u) != 0; }
DEVICE bool has_zero_byte(u32 word) { return ((word - 0x01010101u) & ~word & 0x80808080u) != 0; }

// The sum of two counts of 16 bits.
DEVICE u32 pair_sum(u32 pair) { return (pair & 0xffffu) + (pair >> 16); }

// A word of counts, and the sums of its cells over some frames:
//   CELLS    cells of a word
//   RUN      frames that the sums have room for
//   Value    a count
//   Total    what holds the sum of a warp's cells of a frame
//   begin    continues the sum of a cell that is in memory
//   leave    adds the sum of a cell to memory
//   add      adds a frame
//   total    sum of a frame's cells; those that are not wanted are zero
//   suspect  whether a wanted cell is bad or may carry the mark
//   at       a cell
template <typename T> struct Word;

template <> struct Word<u8> {
    static const u32 CELLS = 4, RUN = 256;
    static_assert(RUN * 255u < 1u << 16, "sums of bytes have 16 bits");
    typedef u32 Value;
    typedef u32 Total;
    // Sums of the cells 0 and 2, and 1 and 3: 16 bits each.
    u32 even = 0, odd = 0;

    DEVICE void begin(u32, double) {}
    DEVICE void leave(u32 cell, double &to) const { to += double((cell % 2 == 0 ? even : odd) >> (cell / 2 * 16) & 0xffffu); }
    DEVICE void add(u32 word) {
        even += word & 0x00ff00ffu;
        odd += (word >> 8) & 0x00ff00ffu;
    }
    DEVICE static u32 total(u32 word) { return pair_sum((word & 0x00ff00ffu) + ((word >> 8) & 0x00ff00ffu)); }
    DEVICE static bool suspect(u32 word, const Watch &watch) { return has_zero_byte((word ^ watch.mark) | watch.unmarked); }
    DEVICE static Value at(u32 word, u32 cell) { return word >> (cell * 8) & 0xffu; }
};

// Each count in a byte, once it was read.
template <> struct Word<u2> : Word<u8> {};

template <> struct Word<u16> {
    static const u32 CELLS = 2, RUN = 65536;
    static_assert(u64(RUN) * 65535u < u64(1) << 32, "sums of 16 bits have 32");
    typedef u32 Value;
    typedef u32 Total;
    u32 sums[2] = {0, 0};

    DEVICE void begin(u32, double) {}
    DEVICE void leave(u32 cell, double &to) const { to += double(sums[cell]); }
    DEVICE void add(u32 word) {
        sums[0] += word & 0xffffu;
        sums[1] += word >> 16;
    }
    DEVICE static u32 total(u32 word) { return pair_sum(word); }
    DEVICE static bool suspect(u32 word, const Watch &watch) { return has_zero_pair((word ^ watch.mark) | watch.unmarked); }
    DEVICE static Value at(u32 word, u32 cell) { return word >> (cell * 16) & 0xffffu; }
};

template <> struct Word<short> {
    static const u32 CELLS = 2, RUN = 65536;
    static_assert(u64(RUN) * 32768u <= u64(1) << 31, "sums of 16 bits have 32, of which one is the sign");
    typedef int Value;
    typedef u32 Total;
    int sums[2] = {0, 0};

    DEVICE void begin(u32, double) {}
    DEVICE void leave(u32 cell, double &to) const { to += double(sums[cell]); }
    DEVICE void add(u32 word) {
        sums[0] += at(word, 0);
        sums[1] += at(word, 1);
    }
    // of counts that are not bad
    DEVICE static u32 total(u32 word) { return pair_sum(word); }
    DEVICE static bool suspect(u32 word, const Watch &watch) { return (word & watch.wanted & 0x80008000u) != 0; }
    DEVICE static Value at(u32 word, u32 cell) { return short(word >> (cell * 16) & 0xffffu); }
};

template <> struct Word<u32> {
    static const u32 CELLS = 1, RUN = 0xffffffffu;
    typedef u32 Value;
    typedef u64 Total;
    u64 sum = 0;

    DEVICE void begin(u32, double) {}
    DEVICE void leave(u32, double &to) const { to += double(sum); }
    DEVICE void add(u32 word) { sum += word; }
    DEVICE static u64 total(u32 word) { return word; }
    DEVICE static bool suspect(u32 word, const Watch &watch) { return ((word ^ watch.mark) | watch.unmarked) == 0; }
    DEVICE static Value at(u32 word, u32) { return word; }
};

template <> struct Word<int> {
    static const u32 CELLS = 1, RUN = 0xffffffffu;
    typedef int Value;
    typedef u64 Total;
    long long sum = 0;

    DEVICE void begin(u32, double) {}
    DEVICE void leave(u32, double &to) const { to += double(sum); }
    DEVICE void add(u32 word) { sum += int(word); }
    // of counts that are not bad
    DEVICE static u64 total(u32 word) { return word; }
    DEVICE static bool suspect(u32 word, const Watch &watch) { return is_bad(int(word & watch.wanted)); }
    DEVICE static Value at(u32 word, u32) { return int(word); }
};

template <> struct Word<float> {
    static const u32 CELLS = 1, RUN = 0xffffffffu;
    typedef float Value;
    typedef double Total;
    double sum = 0;

    // numbers that are not whole are added in the order of the frames, however these are cut into blocks
    DEVICE void begin(u32, double before) { sum = before; }
    DEVICE void leave(u32, double &to) const { to = sum; }
    DEVICE void add(u32 word) { sum += double(float_of(word)); }
    DEVICE static double total(u32 word) { return double(float_of(word)); }
    DEVICE static bool suspect(u32 word, const Watch &watch) { return is_bad(float_of(word & watch.wanted)); }
    DEVICE static Value at(u32 word, u32) { return float_of(word); }
};

// The bits of a cell of a word, for cells of `CELLS` a word.
template <typename T> DEVICE u32 cell_bits(u32 cell) {
    const u32 BITS = 32 / Word<T>::CELLS;
    return (0xffffffffu >> (32 - BITS)) << (cell * BITS);
}

// Frames of whole words.
template <typename T> struct WholeWords {
    const u32 *words;
    u32 number;

    DEVICE u32 at(u32 frame, u32 word) const { return word < number ? words[u64(frame) * number + word] : 0; }
};

// Frames of any number of cells.
template <typename T> struct AnyCells {
    const T *cells;
    u32 row;

    DEVICE u32 at(u32 frame, u32 word) const {
        const u32 BITS = 32 / Word<T>::CELLS;
        u32 found = 0;
#pragma unroll
        for (u32 k = 0; k < Word<T>::CELLS; ++k) {
            u32 cell = word * Word<T>::CELLS + k;
            if (cell < row) found |= (u32(cells[u64(frame) * row + cell]) & cell_bits<T>(0)) << (k * BITS);
        }
        return found;
    }
};

// Frames of four counts of two bits a byte: each gets a byte of its own.
struct Quarters {
    const u2 *bytes;
    u32 number;

    DEVICE u32 at(u32 frame, u32 word) const {
        u32 found = word < number ? bytes[u64(frame) * number + word].four : 0;
        found = (found | found << 12) & 0x000f000fu;
        return (found | found << 6) & 0x03030303u;
    }
};

// What is asked for: see dense_sums in dense.cu.
struct Asked {
    u32 row, frames, first;
    const u8 *wanted;
    u64 saturation;
    u32 per_segment, segments;
    u32 *saturated;
    u64 *bad;
    double *sums, *frame_sums;
};

// The words of a thread.
template <typename T> struct Own {
    static const u32 WORDS = CELLS / Word<T>::CELLS;
    u32 first;
    Watch watch[WORDS];
    Word<T> sums[WORDS];

    DEVICE u32 word(u32 k) const { return first + k * WARP; }
    DEVICE u32 cell(u32 k, u32 within) const { return word(k) * Word<T>::CELLS + within; }

    DEVICE void watch_for(const Asked &asked) {
        first = warp_index() * WARP * WORDS + lane();
        const u32 LARGEST = cell_bits<T>(0);
        u32 mark = 0;
        for (u32 c = 0; c < Word<T>::CELLS; ++c) mark |= (u32(asked.saturation) & LARGEST) << (c * (32 / Word<T>::CELLS));
        for (u32 k = 0; k < WORDS; ++k) {
            u32 wanted = 0;
            for (u32 c = 0; c < Word<T>::CELLS; ++c) {
                if (cell(k, c) < asked.row && asked.wanted[cell(k, c)] != 0) wanted |= cell_bits<T>(c);
            }
            watch[k] = {wanted, asked.saturation <= LARGEST ? ~wanted : 0xffffffffu, mark};
        }
    }

    DEVICE void begin(const Asked &asked, double *to) {
        for (u32 k = 0; k < WORDS; ++k) {
            sums[k] = Word<T>();
            for (u32 c = 0; c < Word<T>::CELLS; ++c) {
                if (cell(k, c) < asked.row) sums[k].begin(c, to[cell(k, c)]);
            }
        }
    }

    DEVICE void leave(const Asked &asked, double *to) const {
        for (u32 k = 0; k < WORDS; ++k) {
            for (u32 c = 0; c < Word<T>::CELLS; ++c) {
                if (cell(k, c) < asked.row) sums[k].leave(c, to[cell(k, c)]);
            }
        }
    }

    // Looks closely at frames in which a word is suspect: these are few, so that reading them again costs nothing.
    template <typename Words> DEVICE void report(const Words &from, const Asked &asked, u32 frame, u32 end) const {
#pragma unroll 1
        for (; frame < end; ++frame) {
            for (u32 k = 0; k < WORDS; ++k) {
                u32 found = from.at(frame, word(k));
                for (u32 c = 0; c < Word<T>::CELLS; ++c) {
                    if ((watch[k].wanted & cell_bits<T>(c)) == 0) continue;
                    typename Word<T>::Value value = Word<T>::at(found, c);
                    u32 number = asked.first + frame;
                    if (is_saturated(value, asked.saturation)) atomicMin(&asked.saturated[cell(k, c)], number);
                    if (is_bad(value)) atomicMin(asked.bad, u64(number) << 32 | cell(k, c));
                }
            }
        }
    }

    // Adds a frame; returns whether one of its words is suspect.
    DEVICE bool add(const Asked &asked, const u32 (&found)[WORDS], u32 frame) {
        bool suspect = false;
        typename Word<T>::Total total = 0;
#pragma unroll
        for (u32 k = 0; k < WORDS; ++k) {
            suspect |= Word<T>::suspect(found[k], watch[k]);
            sums[k].add(found[k]);
            total += Word<T>::total(found[k] & watch[k].wanted);
        }
        total = warp_sum(total);
        u32 warps = gridDim.x * (blockDim.x / WARP);
        if (lane() == 0) asked.frame_sums[u64(frame) * warps + warp_index()] = double(total);
        return suspect;
    }

    // Adds N frames.
    template <u32 N, typename Words> DEVICE void add_some(const Words &from, const Asked &asked, u32 frame) {
        u32 found[N][WORDS];
#pragma unroll
        for (u32 k = 0; k < N * WORDS; ++k) found[k / WORDS][k % WORDS] = from.at(frame + k / WORDS, word(k % WORDS));
        bool suspect = false;
#pragma unroll
        for (u32 k = 0; k < N; ++k) suspect |= add(asked, found[k], frame + k);
        if (suspect) report(from, asked, frame, frame + N);
    }
};

// The first frame behind `frame` that is of another segment, at most `most` frames on.
DEVICE u32 end_of_run(const Asked &asked, u32 frame, u32 segment, u32 most) {
    u64 end = u64(frame) + most;
    if (segment < asked.segments) end = min(end, u64(segment + 1) * asked.per_segment - asked.first);
    return u32(min(end, u64(asked.frames)));
}

template <typename T, typename Words> DEVICE void add_frames(const Words &from, const Asked &asked) {
    Own<T> own;
    own.watch_for(asked);
    for (u32 frame = 0; frame < asked.frames;) {
        u32 segment = min((asked.first + frame) / asked.per_segment, asked.segments);
        u32 end = end_of_run(asked, frame, segment, Word<T>::RUN);
        double *to = asked.sums + u64(segment) * asked.row;
        own.begin(asked, to);
        for (; frame + AHEAD <= end; frame += AHEAD) own.template add_some<AHEAD>(from, asked, frame);
        for (; frame < end; ++frame) own.template add_some<1>(from, asked, frame);
        own.leave(asked, to);
    }
}

// The same for each type of count.
template <typename T> DEVICE void add_all(const T *data, const Asked &asked) {
    u32 bytes = asked.row * u32(sizeof(T));
    if (bytes % sizeof(u32) == 0) {
        add_frames<T>(WholeWords<T>{reinterpret_cast<const u32 *>(data), bytes / u32(sizeof(u32))}, asked);
    } else {
        add_frames<T>(AnyCells<T>{data, asked.row}, asked);
    }
}

DEVICE void add_all(const u2 *data, const Asked &asked) { add_frames<u2>(Quarters{data, asked.row / 4}, asked); }
