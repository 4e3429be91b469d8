// The first stage of multi-tau, of one type of count and of sum: scripts/kernels.py compiles it for each, and a driver has to
// compile no more than the one that is used: 0.33 s, where all of them are 4.9 s (ptxas 12.0 for sm_90, an EPYC core).
#include "dense.cuh"

// frames: (frame, count), `avg` for each sample, one after the other; factors: of each sample.
#define DENSE_FRAMES(name, T, Real)                                                                                      \
    KERNEL_OF(PIXEL_THREADS, PixelBlocks<Real>::NUMBER)                                                                  \
    name(const T *frames, u32 row, u32 avg, const u32 *cells, const Real *factors, u32 done, u32 count, u32 ranks,       \
         double *state, Real *out) {                                                                                     \
        FromFrames<T, Real> from = {frames, row, avg, cells, factors};                                                   \
        stage<Real, 1>(from, done, count, ranks, state, out);                                                            \
    }

#ifndef SPECKLED_HOST
DENSE_FRAMES(NAME, COUNT, REAL)
#endif
