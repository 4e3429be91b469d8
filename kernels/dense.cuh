// Multi-tau of dense frames, for dense.cu and dense_frames.cu: a thread a pixel, which reads its counts once, frame after frame.
//
// A stage takes a series and correlates STAGE levels of it at once, each from the one below, and leaves the series of the
// level above, which has a 2^STAGE-th of the samples and is the next stage's. The last eight samples of each level are in
// registers. Between launches, when the frames come in several blocks, a pixel's state is in memory: see State.
//
// Products are added in `Real`: in double one after the other; in float over some steps, then in double. A sample's number
// in its series decides when, and what is not yet in double stays in the state, so that the sums do not depend on how the
// frames were cut into blocks. Nothing is subtracted, so that no digit is lost: `late` has the samples from the eighth on,
// `early` those that are followed by eight, and the others are kept.
#pragma once
#include "common.cuh"

// Levels of a stage.
const u32 STAGE = 4;

// Samples that a stage takes at once: its coarsest level then gets two.
const u32 STEP = 1 << STAGE;

// Steps that are added in float before they are in double.
const u32 STEPS = 4;

// Largest lag; earlier samples that are remembered.
const u32 LAGS = 8;

// A pixel's state of a level: the last samples, the first samples, its sums (products of each lag, late, early), the
// sample whose other half is to come, and, of float, what is not yet in the sums: two numbers in each slot.
const u32 RING = 0, HEAD = LAGS, PRODUCTS = 2 * LAGS, LATE = 3 * LAGS, EARLY = LATE + 1, HALF = LATE + 2, PARTS = LATE + 3;

// Sums of a level, which follow one another from PRODUCTS on.
const u32 SUMS = LAGS + 2;

template <typename Real> struct Slots;
template <> struct Slots<double> { static const u32 NUMBER = PARTS; };
template <> struct Slots<float> { static const u32 NUMBER = PARTS + SUMS / 2; };

// Threads of a block of pixels, and such blocks that a multiprocessor is to run at once: as many as their registers allow
// without spilling more than a few bytes (ptxas 12.0 for sm_90: 168 registers in float, 222 in double).
const u32 PIXEL_THREADS = 128;
template <typename Real> struct PixelBlocks;
template <> struct PixelBlocks<double> { static const u32 NUMBER = 2; };
template <> struct PixelBlocks<float> { static const u32 NUMBER = 3; };

// The state of a pixel, one of `ranks`. It is kept as (level, slot, pixel).
template <typename Real> struct State {
    double *numbers;
    u32 rank, ranks;

    DEVICE double &at(u32 level, u32 slot) const {
        return numbers[u64(level * Slots<Real>::NUMBER + slot) * ranks + rank];
    }

    // What is not yet in a sum.
    DEVICE float &part(u32 level, u32 sum) const {
        return reinterpret_cast<float *>(&at(level, PARTS + sum / 2))[sum % 2];
    }
};

// A sum while a thread works on it.
template <typename Real> struct Sum;

template <> struct Sum<double> {
    double total;

    DEVICE void load(const State<double> &state, u32 level, u32 sum) { total = state.at(level, PRODUCTS + sum); }
    DEVICE void store(const State<double> &state, u32 level, u32 sum) const { state.at(level, PRODUCTS + sum) = total; }
    DEVICE void add(double value) { total += value; }
    DEVICE void flush() {}
    DEVICE double all() const { return total; }
};

template <> struct Sum<float> {
    float part;
    double total;

    DEVICE void load(const State<float> &state, u32 level, u32 sum) {
        total = state.at(level, PRODUCTS + sum);
        part = state.part(level, sum);
    }
    DEVICE void store(const State<float> &state, u32 level, u32 sum) const {
        state.at(level, PRODUCTS + sum) = total;
        state.part(level, sum) = part;
    }
    DEVICE void add(float value) { part += value; }
    DEVICE void flush() {
        total += double(part);
        part = 0;
    }
    DEVICE double all() const { return total + double(part); }
};

// One level while a thread works on it. LEAST: the first lag, 1 or 5.
template <typename Real, u32 LEAST> struct Run {
    Real ring[LAGS];
    // Of each lag; those before LEAST are not used.
    Sum<Real> products[LAGS];
    Sum<Real> late, early;

    DEVICE void load(const State<Real> &state, u32 level) {
#pragma unroll
        for (u32 k = 0; k < LAGS; ++k) {
            ring[k] = Real(state.at(level, RING + k));
            if (k + 1 >= LEAST) products[k].load(state, level, k);
        }
        late.load(state, level, LATE - PRODUCTS);
        early.load(state, level, EARLY - PRODUCTS);
    }

    DEVICE void store(const State<Real> &state, u32 level) const {
#pragma unroll
        for (u32 k = 0; k < LAGS; ++k) {
            state.at(level, RING + k) = ring[k];
            if (k + 1 >= LEAST) products[k].store(state, level, k);
        }
        late.store(state, level, LATE - PRODUCTS);
        early.store(state, level, EARLY - PRODUCTS);
    }

    DEVICE void flush() {
#pragma unroll
        for (u32 k = LEAST - 1; k < LAGS; ++k) products[k].flush();
        late.flush();
        early.flush();
    }

    // The next N samples, none of which is one of the first eight.
    template <u32 N> DEVICE void push(const Real (&samples)[N]) {
        Real all[LAGS + N];
#pragma unroll
        for (u32 k = 0; k < LAGS; ++k) all[k] = ring[k];
#pragma unroll
        for (u32 k = 0; k < N; ++k) all[LAGS + k] = samples[k];
#pragma unroll
        for (u32 k = 0; k < N; ++k) {
#pragma unroll
            for (u32 lag = LEAST; lag <= LAGS; ++lag) products[lag - 1].add(samples[k] * all[LAGS + k - lag]);
            late.add(samples[k]);
            early.add(all[k]);
        }
#pragma unroll
        for (u32 k = 0; k < LAGS; ++k) ring[k] = all[N + k];
    }

    // The next sample, which is number `time` of its level.
    DEVICE void push_one(Real sample, u32 time, const State<Real> &state, u32 level) {
        Real one[1] = {sample};
        Sum<Real> before = late;
        push(one);
        if (time < LAGS) {
            late = before;
            state.at(level, HEAD + time) = sample;
        }
    }
};

// The sums of neighbouring samples.
template <typename Real, u32 N> DEVICE void halve(const Real (&samples)[2 * N], Real (&out)[N]) {
#pragma unroll
    for (u32 k = 0; k < N; ++k) out[k] = samples[2 * k] + samples[2 * k + 1];
}

// Where a stage's samples come from: (frame, count), of which `avg` make a sample, which is scaled. cells: which count of
// a frame is that of a rank.
template <typename T, typename Real> struct FromFrames {
    const T *frames;
    u32 row, avg;
    const u32 *cells;
    const Real *factors;

    DEVICE Real at(u32 sample, u32 rank, u32) const {
        u64 own = u64(sample) * avg * row + cells[rank];
        Real sum = Real(count_at(frames, own));
        for (u32 k = 1; k < avg; ++k) sum += Real(count_at(frames, own + u64(k) * row));
        return sum * factors[sample];
    }
};

// The series that the stage below has left: (sample, rank).
template <typename Real> struct FromStage {
    const Real *samples;

    DEVICE Real at(u32 sample, u32 rank, u32 ranks) const { return samples[u64(sample) * ranks + rank]; }
};

// The levels of a stage, for one pixel. LEAST: the first lag of the finest.
template <typename Real, u32 LEAST> struct Pixel {
    Run<Real, LEAST> finest;
    Run<Real, 5> second, third, fourth;
    // Samples of which the other half is to come.
    Real halves[STAGE];
    State<Real> state;

    DEVICE void load(const State<Real> &from) {
        state = from;
        finest.load(state, 0);
        second.load(state, 1);
        third.load(state, 2);
        fourth.load(state, 3);
        for (u32 k = 0; k < STAGE; ++k) halves[k] = Real(state.at(k, HALF));
    }

    DEVICE void store() const {
        finest.store(state, 0);
        second.store(state, 1);
        third.store(state, 2);
        fourth.store(state, 3);
        for (u32 k = 0; k < STAGE; ++k) state.at(k, HALF) = halves[k];
    }

    // Step number `step` is complete.
    DEVICE void end_step(u32 step) {
        if (step % STEPS != STEPS - 1) return;
        finest.flush();
        second.flush();
        third.flush();
        fourth.flush();
    }

    // Sample number `time`, wherever it is; returns whether it completes one of the next stage, which is in halves[3].
    DEVICE bool one(Real sample, u32 time) {
        finest.push_one(sample, time, state, 0);
        halves[0] += sample;
        if (time % 2 != 1) return false;
        second.push_one(halves[0], time / 2, state, 1);
        halves[1] += halves[0];
        halves[0] = 0;
        if (time % 4 != 3) return false;
        third.push_one(halves[1], time / 4, state, 2);
        halves[2] += halves[1];
        halves[1] = 0;
        if (time % 8 != 7) return false;
        fourth.push_one(halves[2], time / 8, state, 3);
        halves[3] += halves[2];
        halves[2] = 0;
        return time % STEP == STEP - 1;
    }

    // The next STEP samples, none of which is one of a level's first eight; returns their sum.
    DEVICE Real step(const Real (&samples)[STEP]) {
        Real x1[STEP / 2], x2[STEP / 4], x3[STEP / 8], x4[1];
        halve(samples, x1);
        halve(x1, x2);
        halve(x2, x3);
        halve(x3, x4);
        finest.push(samples);
        second.push(x1);
        third.push(x2);
        fourth.push(x3);
        return x4[0];
    }
};

// Correlates `count` samples of each pixel; `done` were before. out: (sample, rank), the sums of STEP samples each that
// are complete now.
template <typename Real, u32 LEAST, typename From>
DEVICE void stage(const From &from, u32 done, u32 count, u32 ranks, double *state, Real *out) {
    u32 rank = blockIdx.x * blockDim.x + threadIdx.x;
    if (rank >= ranks) return;
    Pixel<Real, LEAST> pixel;
    pixel.load({state, rank, ranks});
    // one by one: the first eight samples of the coarsest level, and at both ends what is no whole step
    const u32 CAREFUL = LAGS << (STAGE - 1);
    u32 careful = min((max(done, CAREFUL) + STEP - 1) / STEP * STEP - done, count);
    u32 last = careful + (count - careful) / STEP * STEP;
    u32 sample = 0;
    const u32 ends[2] = {careful, count};
    for (u32 end : ends) {
        for (; sample < end; ++sample) {
            if (!pixel.one(from.at(sample, rank, ranks), done + sample)) continue;
            out[u64((done + sample) / STEP - done / STEP) * ranks + rank] = pixel.halves[STAGE - 1];
            pixel.halves[STAGE - 1] = 0;
            pixel.end_step((done + sample) / STEP);
        }
        for (; sample < last; sample += STEP) {
            Real samples[STEP];
#pragma unroll
            for (u32 k = 0; k < STEP; ++k) samples[k] = from.at(sample + k, rank, ranks);
            out[u64((done + sample) / STEP - done / STEP) * ranks + rank] = pixel.step(samples);
            pixel.end_step((done + sample) / STEP);
        }
    }
    pixel.store();
}
