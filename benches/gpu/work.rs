//! What a kernel cannot do without: the bytes of the GPU's memory that it reads and writes at least, by formula, from the
//! size of a case. A kernel's bytes in its seconds, beside what a copy reaches, say how far it is from its bound.

/// Bytes of state of a pixel in a stage of dense multi-tau, by the bytes of a number in which products are added first:
/// dense.cuh's STAGE and Slots.
fn state_bytes(real: f64) -> f64 {
    let slots = if real < 8.0 { 32.0 } else { 27.0 };
    4.0 * slots * 8.0
}

/// Bytes that a warp sums of a frame: dense_sums.cuh's words, one a thread; of packed cells a byte.
const WARP_BYTES: f64 = 32.0 * 4.0;

/// Samples that a stage hands to the next: dense.cuh's STEP.
const STEP: f64 = 16.0;

/// Events that are sorted in shared memory: events.cu's SORT_TILE.
const TILE: f64 = 512.0;

/// Channels of a correlation: G2, later mean, earlier mean.
const CHANNELS: f64 = 3.0;

/// The size of a case.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Work {
    /// Pixels that are correlated.
    pub(crate) pixels: f64,
    /// Raw frames.
    pub(crate) raw: f64,
    /// Frames of the analysis: each the sum of some raw ones.
    pub(crate) frames: f64,
    /// Bytes of a raw frame.
    pub(crate) frame_bytes: f64,
    /// Bytes of a number in which products are added first.
    pub(crate) real: f64,
    pub(crate) events: f64,
    /// Of the longest series.
    pub(crate) delays: f64,
    /// Series that are correlated: the whole, and its parts.
    pub(crate) series: f64,
}

impl Work {
    /// Bytes of all starts of a kernel; None where nobody has counted them.
    pub(crate) fn bytes(&self, kernel: &str, starts: f64) -> Option<f64> {
        let Self { pixels, raw, frames, frame_bytes, real, events, delays, series } = *self;
        let correlations = pixels * CHANNELS * delays * 8.0;
        // a reading and a writing of the state each time
        let state = 2.0 * state_bytes(real) * pixels * starts;
        // the whole and, if there are any, the parts together
        let passes = if series > 1.0 { 2.0 } else { 1.0 };
        // the warps' sums of all frames
        let by_warp = raw * (frame_bytes.max(pixels) / WARP_BYTES) * 8.0;
        Some(match kernel {
            // places and sums of pixels, which are looked up, are counted once
            "events_count" => 8.0 * events + (4.0 + 8.0 + 4.0) * pixels,
            "events_file" => (8.0 + 8.0) * events + 4.0 * pixels,
            // once to see whether they are sorted, twice for a tile, twice for each merge beyond one
            "events_sort" => (8.0 + 16.0 * (1.0 + (events / pixels / TILE).log2().ceil().max(0.0))) * events,
            "events_multitau" => 8.0 * events * series + correlations * series,
            "reduce_pieces" => correlations * series,
            "dense_frame_totals" => by_warp,
            "dense_stage_f32" | "dense_stage_f64" => {
                // all stages above the first: a series of which each has a sixteenth
                passes * frames / (STEP - 1.0) * pixels * real + state
            }
            "dense_finish_f32" | "dense_finish_f64" => state / 2.0 + correlations * series,
            "gram_digits" => 2.0 * pixels * frames,
            "gram_f32" => 4.0 * pixels * frames,
            "group_totals" => 2.0 * pixels * frames,
            "group_totals_f32" => 4.0 * pixels * frames,
            "map_rows" => (8.0 + 4.0) * frames * frames,
            // the whole map, and a fifth of it in five blocks
            "diagonal_pieces" => 4.0 * frames * frames / 2.0 * 1.2,
            name if name.starts_with("dense_sums_") => {
                frame_bytes * raw + by_warp + (1.0 + 8.0 + 8.0) * pixels * starts
            }
            // by segment, of which there are few
            "dense_segments" | "dense_cell_totals" | "dense_factors_f32" | "dense_factors_f64" => return None,
            "columns_f32" => frame_bytes * raw + 4.0 * pixels * frames,
            name if name.starts_with("columns_") => frame_bytes * raw + 2.0 * pixels * frames,
            name if name.starts_with("dense_") => passes * (frame_bytes * raw + frames / STEP * pixels * real) + state,
            _ => return None,
        })
    }
}
