//! Products of frames: each block of them is computed once.

use super::super::device::{Arg, Buffer, Device, Grid, Kernel};
use super::super::twotime::{COLS, GRAM_SHARED, GRAM_THREADS, PLAIN, PLAIN_SHARED, ROWS};
use super::*;

/// Columns of the matrix: twotime.cu's DEPTH.
const DEPTH: usize = 32;

/// One in f16.
const HALF_ONE: u16 = 15 << 10;

/// Rows of the products that are computed: first, number.
type Band = (usize, usize);

/// Products of the frames of a band with all frames, whose counts are all 1, from blocks of the given size.
fn products_of_ones(device: &TestDevice, frames: usize, (first, rows): Band) -> Vec<f64> {
    let digits = Buffer::of(device, &vec![HALF_ONE; frames.next_multiple_of(ROWS) * DEPTH]).expect("memory");
    let (groups, out) = (groups(device), Buffer::<_, f64>::zeros(device, rows * frames).expect("memory"));
    let weights = Buffer::of(device, &vec![1.0; frames]).expect("memory");
    let numbers = [1, DEPTH, frames, first, rows].map(|number| Arg::U32(number as u32));
    let arguments: Vec<_> = [digits.arg(), Arg::U64(digits.len() as u64)]
        .into_iter()
        .chain(numbers)
        .chain([groups.arg(), Arg::U32(1), weights.arg(), Arg::U32(DEPTH as u32), out.arg()])
        .collect();
    let blocks = (rows.div_ceil(ROWS) * frames.div_ceil(COLS)) as u32;
    let grid = Grid { blocks, threads: GRAM_THREADS, shared: GRAM_SHARED };
    device.launch(Kernel::GramDigits, grid, &arguments).expect("runs");
    out.read(device).expect("is there")
}

/// One, of all columns.
fn groups(device: &TestDevice) -> Buffer<TestDevice, u32> {
    Buffer::of(device, &[0, DEPTH as u32]).expect("memory")
}

/// Frames in more blocks than follow one another in a group, and in fewer; bands that begin anywhere.
#[test]
fn each_block_of_products_is_computed_once() {
    let small = [(1, (0, 1)), (127, (0, 127)), (65, (0, 65)), (300, (128, 172)), (513, (256, 128))];
    // 14 by 27 blocks, of which 12 by 22 follow one another
    let large = [(1_700, (0, 1_700)), (1_700, (1_536, 164)), (1_450, (128, 1_300))];
    let few = if are_few() { 0 } else { large.len() };
    for (frames, band) in small.into_iter().chain(large.into_iter().take(few)) {
        let found = products_of_ones(&TestDevice::new(PLENTY, 3), frames, band);
        for (at, product) in found.into_iter().enumerate() {
            let (frame, later) = (band.0 + at / frames, at % frames);
            assert!(later < frame || product == DEPTH as f64, "{product} of {frame}, {later} of {frames}");
        }
    }
}

/// Float32 is multiplied and added in float64, column after column: the same bits as here.
#[test]
fn products_of_float32_are_those_of_float64() {
    let frames = 200;
    let (first, rows) = (64, 136);
    let padded = frames_of_floats(frames);
    let device = TestDevice::new(PLENTY, 5);
    let values = Buffer::of(&device, &padded).expect("memory");
    let (groups, out) = (groups(&device), Buffer::<_, f64>::zeros(&device, rows * frames).expect("memory"));
    let weights = Buffer::of(&device, &vec![1.0; frames]).expect("memory");
    let numbers = [DEPTH, frames, first, rows].map(|number| Arg::U32(number as u32));
    let arguments: Vec<_> = [values.arg()]
        .into_iter()
        .chain(numbers)
        .chain([groups.arg(), Arg::U32(1), weights.arg(), out.arg()])
        .collect();
    let blocks = (rows.div_ceil(PLAIN) * frames.div_ceil(PLAIN)) as u32;
    let grid = Grid { blocks, threads: GRAM_THREADS, shared: PLAIN_SHARED };
    device.launch(Kernel::GramF32, grid, &arguments).expect("runs");
    let row = |frame: usize| &padded[frame * DEPTH..(frame + 1) * DEPTH];
    for (at, found) in out.read(&device).expect("is there").into_iter().enumerate() {
        let (frame, later) = (first + at / frames, at % frames);
        let pairs = std::iter::zip(row(frame), row(later));
        let wanted: f64 = if std::env::var_os(GPU).is_some() {
            // a GPU rounds a product and its sum once
            pairs.fold(0.0, |sum, (&a, &b)| f64::from(a).mul_add(f64::from(b), sum))
        } else {
            pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        assert!(later < frame || found == wanted, "{found} instead of {wanted} of {frame}, {later}");
    }
}

/// Rows of columns, filled up as the matrix is.
fn frames_of_floats(frames: usize) -> Vec<f32> {
    let value = counts(3, 0.7, 1000);
    let numbers = (0..frames.next_multiple_of(ROWS) * DEPTH).map(|at| (at / DEPTH, at % DEPTH));
    numbers.map(|(frame, column)| if frame < frames { (value(frame, column) * 0.3) as f32 } else { 0.0 }).collect()
}
