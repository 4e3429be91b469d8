// Sums of dense frames, and all of their multi-tau but the first stage: see dense.cuh and dense_frames.cu.
#include "dense.cuh"
#include "dense_sums.cuh"

// The other stages.
#define DENSE_STAGE(name, Real)                                                                                          \
    KERNEL_OF(PIXEL_THREADS, PixelBlocks<Real>::NUMBER)                                                                  \
    name(const Real *samples, u32 done, u32 count, u32 ranks, double *state, Real *out) {                                \
        FromStage<Real> from = {samples};                                                                                \
        stage<Real, 5>(from, done, count, ranks, state, out);                                                            \
    }

DENSE_STAGE(dense_stage_f32, float)
DENSE_STAGE(dense_stage_f64, double)

// From a pixel's state to its means of later times earlier, later, earlier, for the levels of one stage.
//
// places: of each rank. sums: (place, channel, delay), of which those of these levels are written.
template <typename Real>
DEVICE void finish(double *numbers, u32 ranks, const u32 *places, const Level *levels, u32 level_count, u32 delays,
                   double *sums) {
    u32 rank = blockIdx.x * blockDim.x + threadIdx.x;
    if (rank >= ranks) return;
    State<Real> state = {numbers, rank, ranks};
    double *own = sums + u64(places[rank]) * 3 * delays;
    for (u32 l = 0; l < level_count; ++l) {
        const Level &level = levels[l];
        Sum<Real> product, late_sum, early_sum;
        late_sum.load(state, l, LATE - PRODUCTS);
        early_sum.load(state, l, EARLY - PRODUCTS);
        for (u32 k = 0; k < level.lags; ++k) {
            u32 lag = level.first_lag + k;
            double late = 0, early = 0;
            for (u32 t = lag; t < min(LAGS, level.samples); ++t) late += state.at(l, HEAD + t);
            for (u32 t = 0; t < LAGS - lag; ++t) early += state.at(l, RING + t);
            late += late_sum.all();
            early += early_sum.all();
            product.load(state, l, lag - 1);
            own[level.first + k] = product.all() * level.products[k];
            own[delays + level.first + k] = late * level.means[k];
            own[2 * delays + level.first + k] = early * level.means[k];
        }
    }
}

#define DENSE_FINISH(name, Real)                                                                                         \
    KERNEL name(double *state, u32 ranks, const u32 *places, const Level *levels, u32 level_count, u32 delays,           \
                double *sums) {                                                                                          \
        finish<Real>(state, ranks, places, levels, level_count, delays, sums);                                           \
    }

DENSE_FINISH(dense_finish_f32, float)
DENSE_FINISH(dense_finish_f64, double)

// Sums of `frames` raw frames of `row` cells, a count each: of each frame over the cells that are wanted, by warps of
// cells; of each cell. A thread takes CELLS cells.
//
// wanted: of each cell, not 0 if it shows a pixel that is correlated. saturation: a value that marks a pixel that is left
// out, or one beyond T; saturated: the first frame, counted from `first`, in which each wanted cell has it. bad: the first
// frame and wanted cell with a value that cannot be counts, as frame * 2^32 + cell. frame_sums: (frame, warp), are
// written. sums: (segment, cell), are added to; one frame is of segment frame / per_segment, the rest of one more.
#define DENSE_SUMS(name, T)                                                                                              \
    KERNEL name(const T *data, u32 row, u32 frames, u32 first, const u8 *wanted, u64 saturation, u32 per_segment,        \
                u32 segments, u32 *saturated, u64 *bad, double *sums, double *frame_sums) {                              \
        add_all(data, {row, frames, first, wanted, saturation, per_segment, segments, saturated, bad, sums, frame_sums}); \
    }

DENSE_SUMS(dense_sums_u2, u2)
DENSE_SUMS(dense_sums_u8, u8)
DENSE_SUMS(dense_sums_u16, u16)
DENSE_SUMS(dense_sums_u32, u32)
DENSE_SUMS(dense_sums_i16, short)
DENSE_SUMS(dense_sums_i32, int)
DENSE_SUMS(dense_sums_f32, float)

// Adds the warps' sums of `avg` raw frames each, a block for each: always in the same order. Shared memory: 8 bytes a warp.
KERNEL dense_frame_totals(const double *frame_sums, u32 warps, u32 avg, double *totals) {
    SHARED(shared);
    double *partial = reinterpret_cast<double *>(shared);
    const double *own = frame_sums + u64(blockIdx.x) * avg * warps;
    double sum = 0;
    for (u64 k = threadIdx.x; k < u64(avg) * warps; k += blockDim.x) sum += own[k];
    sum = warp_sum(sum);
    if (lane() == 0) partial[threadIdx.x / WARP] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    double total = 0;
    for (u32 k = 0; k < blockDim.x / WARP; ++k) total += partial[k];
    totals[blockIdx.x] = total;
}

// From frames' sums over `pixels` to the factor that makes the mean of a frame of `avg` raw ones 1; 1 / avg for a frame
// without counts.
template <typename Real> DEVICE void frame_factors(const double *totals, u32 frames, u32 pixels, u32 avg, Real *factors) {
    u32 frame = blockIdx.x * blockDim.x + threadIdx.x;
    if (frame >= frames) return;
    double sum = totals[frame];
    factors[frame] = Real((sum > 0.0 ? double(pixels) * double(avg) / sum : 1.0) / double(avg));
}

#define DENSE_FACTORS(name, Real)                                                                                        \
    KERNEL name(const double *totals, u32 frames, u32 pixels, u32 avg, Real *factors) {                                  \
        frame_factors<Real>(totals, frames, pixels, avg, factors);                                                       \
    }

DENSE_FACTORS(dense_factors_f32, float)
DENSE_FACTORS(dense_factors_f64, double)

// Sums of pieces of places in each segment, a block a piece, its threads over the segments.
//
// sums: (segment, cell). pieces: first place of each, and the end. cells: of each place, NONE of one that is left out.
// out: (piece, segment).
KERNEL dense_segments(const double *sums, u32 row, u32 segments, const u32 *pieces, const u32 *cells, double *out) {
    for (u32 segment = threadIdx.x; segment < segments; segment += blockDim.x) {
        double sum = 0;
        for (u32 place = pieces[blockIdx.x]; place < pieces[blockIdx.x + 1]; ++place) {
            if (cells[place] != NONE) sum += sums[u64(segment) * row + cells[place]];
        }
        out[u64(blockIdx.x) * segments + segment] = sum;
    }
}

// Adds the rows of (row, cell) to the first of them.
KERNEL dense_cell_totals(double *sums, u32 row, u32 rows) {
    u32 cell = blockIdx.x * blockDim.x + threadIdx.x;
    if (cell >= row) return;
    double sum = sums[cell];
    for (u32 k = 1; k < rows; ++k) sum += sums[u64(k) * row + cell];
    sums[cell] = sum;
}
