// Sums over places in a fixed order: starts of lists, and what bins need of their pixels.
#include "common.cuh"

// Numbers that a block of `scan_blocks` scans, per thread.
const u32 PER_THREAD = 4;

// Exclusive sums within each block's numbers, and their total. Shared memory: 4 bytes a thread.
KERNEL scan_blocks(const u32 *numbers, u32 length, u32 *sums, u32 *totals) {
    SHARED(shared);
    u32 *partial = reinterpret_cast<u32 *>(shared);
    u32 first = (blockIdx.x * blockDim.x + threadIdx.x) * PER_THREAD;
    u32 own[PER_THREAD], total = 0;
    for (u32 k = 0; k < PER_THREAD; ++k) {
        own[k] = total;
        total += first + k < length ? numbers[first + k] : 0;
    }
    partial[threadIdx.x] = total;
    __syncthreads();
    for (u32 distance = 1; distance < blockDim.x; distance *= 2) {
        u32 left = threadIdx.x >= distance ? partial[threadIdx.x - distance] : 0;
        __syncthreads();
        partial[threadIdx.x] += left;
        __syncthreads();
    }
    for (u32 k = 0; k < PER_THREAD; ++k) {
        if (first + k < length) sums[first + k] = partial[threadIdx.x] - total + own[k];
    }
    if (threadIdx.x == blockDim.x - 1) totals[blockIdx.x] = partial[threadIdx.x];
}

// Exclusive sums of the totals, in place, by one block. Shared memory: 4 bytes a thread.
KERNEL scan_totals(u32 *totals, u32 length) {
    SHARED(shared);
    u32 *partial = reinterpret_cast<u32 *>(shared);
    u32 carry = 0;
    for (u32 base = 0; base < length; base += blockDim.x) {
        u32 k = base + threadIdx.x;
        u32 own = k < length ? totals[k] : 0;
        partial[threadIdx.x] = own;
        __syncthreads();
        for (u32 distance = 1; distance < blockDim.x; distance *= 2) {
            u32 left = threadIdx.x >= distance ? partial[threadIdx.x - distance] : 0;
            __syncthreads();
            partial[threadIdx.x] += left;
            __syncthreads();
        }
        if (k < length) totals[k] = carry + partial[threadIdx.x] - own;
        carry += partial[blockDim.x - 1];
        __syncthreads();
    }
}

// Adds to each block's sums what came before it; writes the sum of all behind the last.
KERNEL scan_add(const u32 *numbers, u32 length, const u32 *totals, u32 per_block, u32 *sums) {
    u32 k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= length) return;
    sums[k] += totals[k / per_block];
    if (k == length - 1) sums[length] = sums[k] + numbers[k];
}

// A pixel's g2; 0 where a mean is 0 (no pair can then have counts).
DEVICE double pixel_g2(double g2, double later, double earlier) {
    double product = later * earlier;
    return product > 0.0 ? g2 / product : 0.0;
}

// Sums over pieces: neighbouring places of the same static and dynamic bin, few enough to be added one after the other.
// A block a piece, its threads over the delays.
//
// sums: (place, channel, delay). pieces: first place of each, and the end. out: (piece, 5, delay): G2, later, earlier,
// g2 - 1 and its square; shifted by 1, where g2 lives, so that the variance keeps its digits.
KERNEL reduce_pieces(const double *sums, u32 delays, const u32 *pieces, double *out) {
    const u32 CHANNELS = 3;
    double *own = out + u64(blockIdx.x) * 5 * delays;
    for (u32 delay = threadIdx.x; delay < delays; delay += blockDim.x) {
        double totals[5] = {};
        for (u32 place = pieces[blockIdx.x]; place < pieces[blockIdx.x + 1]; ++place) {
            const double *pixel = sums + u64(place) * CHANNELS * delays + delay;
            double g2 = pixel[0], later = pixel[delays], earlier = pixel[2 * delays];
            double shifted = pixel_g2(g2, later, earlier) - 1.0;
            totals[0] += g2;
            totals[1] += later;
            totals[2] += earlier;
            totals[3] += shifted;
            totals[4] += shifted * shifted;
        }
        for (u32 k = 0; k < 5; ++k) own[k * delays + delay] = totals[k];
    }
}
