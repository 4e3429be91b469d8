// Sums of dense frames, and all of their multi-tau but the first stage: see dense.cuh and dense_frames.cu.
#include "dense.cuh"

// The other stages.
#define DENSE_STAGE(name, Real)                                                                                          \
    KERNEL name(const Real *samples, u32 done, u32 count, u32 ranks, double *state, Real *out) {                         \
        FromStage<Real> from = {samples};                                                                                \
        stage<Real, 5>(from, done, count, ranks, state, out);                                                            \
    }

DENSE_STAGE(dense_stage_f32, float)
DENSE_STAGE(dense_stage_f64, double)

// From a pixel's state to its means of later times earlier, later, earlier, for the levels of one stage.
//
// places: of each rank. sums: (place, channel, delay), of which those of these levels are written.
KERNEL dense_finish(double *state, u32 ranks, const u32 *places, const Level *levels, u32 level_count, u32 delays,
                    double *sums) {
    u32 rank = blockIdx.x * blockDim.x + threadIdx.x;
    if (rank >= ranks) return;
    double *own = sums + u64(places[rank]) * 3 * delays;
    for (u32 l = 0; l < level_count; ++l) {
        const Level &level = levels[l];
        for (u32 k = 0; k < level.lags; ++k) {
            u32 lag = level.first_lag + k;
            double late = 0, early = 0;
            for (u32 t = lag; t < min(LAGS, level.samples); ++t) late += state_of(state, l, HEAD + t, rank, ranks);
            for (u32 t = 0; t < LAGS - lag; ++t) early += state_of(state, l, RING + t, rank, ranks);
            late += state_of(state, l, LATE, rank, ranks);
            early += state_of(state, l, EARLY, rank, ranks);
            own[level.first + k] = state_of(state, l, PRODUCTS + lag - 1, rank, ranks) * level.products[k];
            own[delays + level.first + k] = late * level.means[k];
            own[2 * delays + level.first + k] = early * level.means[k];
        }
    }
}

// Whether a value cannot be counts.
DEVICE bool is_bad(u32) { return false; }
DEVICE bool is_bad(int value) { return value < 0; }
DEVICE bool is_bad(float value) { return !(value - value == 0.0f); }

// Whether a value marks a pixel that is left out; only unsigned ones do.
DEVICE bool is_saturated(u32 value, u64 mark) { return value == mark; }
DEVICE bool is_saturated(int, u64) { return false; }
DEVICE bool is_saturated(float, u64) { return false; }

// A value as the widest of its kind.
DEVICE u32 widened(u8 value) { return value; }
DEVICE u32 widened(u16 value) { return value; }
DEVICE u32 widened(u32 value) { return value; }
DEVICE int widened(short value) { return value; }
DEVICE int widened(int value) { return value; }
DEVICE float widened(float value) { return value; }

// Sums of `frames` raw frames of `row` cells, a count each: of each frame over the cells that have a place, by warps of
// cells; of each cell.
//
// saturation: a value that marks a pixel that is left out, or one beyond T; saturated: the first frame, counted from
// `first`, in which each cell has it. bad: the first frame and cell with a value that cannot be counts, as
// frame * 2^32 + cell. frame_sums: (warp of cells, frame). segment_sums: (place, segment); one frame is of segment
// frame / per_segment, the rest of none.
template <typename T>
DEVICE void sums(const T *data, u32 row, u32 frames, u32 first, const u32 *places, u64 saturation, u32 per_segment,
                 u32 segments, u32 *saturated, u64 *bad, double *cell_sums, double *segment_sums, double *frame_sums) {
    u32 cell = blockIdx.x * blockDim.x + threadIdx.x;
    bool inside = cell < row;
    u32 place = inside ? places[cell] : NONE;
    double total = 0, part = 0;
    for (u32 frame = 0; frame < frames; ++frame) {
        auto value = inside ? count_at(data, u64(frame) * row + cell) : decltype(count_at(data, 0))(0);
        if (place != NONE) {
            if (is_saturated(widened(value), saturation)) atomicMin(&saturated[cell], first + frame);
            if (is_bad(widened(value))) atomicMin(bad, u64(first + frame) << 32 | cell);
        }
        double count = double(value);
        total += count;
        part += count;
        u32 segment = (first + frame) / per_segment;
        bool ends = (first + frame + 1) % per_segment == 0 || frame + 1 == frames;
        if (ends) {
            if (place != NONE && segment < segments) segment_sums[u64(place) * segments + segment] += part;
            part = 0;
        }
        double sum = warp_sum(place != NONE ? count : 0.0);
        if (lane() == 0) frame_sums[u64(warp_index()) * frames + frame] = sum;
    }
    if (inside) cell_sums[cell] += total;
}

#define DENSE_SUMS(name, T)                                                                                              \
    KERNEL name(const T *data, u32 row, u32 frames, u32 first, const u32 *places, u64 saturation, u32 per_segment,       \
                u32 segments, u32 *saturated, u64 *bad, double *cell_sums, double *segment_sums, double *frame_sums) {   \
        sums<T>(data, row, frames, first, places, saturation, per_segment, segments, saturated, bad, cell_sums,          \
                segment_sums, frame_sums);                                                                               \
    }

DENSE_SUMS(dense_sums_u2, u2)
DENSE_SUMS(dense_sums_u8, u8)
DENSE_SUMS(dense_sums_u16, u16)
DENSE_SUMS(dense_sums_u32, u32)
DENSE_SUMS(dense_sums_i16, short)
DENSE_SUMS(dense_sums_i32, int)
DENSE_SUMS(dense_sums_f32, float)

// Adds the warps' sums of each frame, in their order; a block a frame, of one warp.
KERNEL dense_frame_totals(const double *frame_sums, u32 warps, u32 frames, double *totals) {
    double sum = 0;
    for (u32 k = lane(); k < warps; k += WARP) sum += frame_sums[u64(k) * frames + blockIdx.x];
    sum = warp_sum(sum);
    if (lane() == 0) totals[blockIdx.x] = sum;
}
