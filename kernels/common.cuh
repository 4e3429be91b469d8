// What all kernels share: names of types, the warp, sums whose order is fixed.
//
// The same sources are compiled for a device (scripts/build-kernels) and, for tests, by a C++ compiler over host/shim.h,
// which runs a block's threads one by one. So a kernel uses nothing of CUDA that the shim does not have, takes all
// shared memory as one piece whose size its launch gives, and adds floating-point numbers in a fixed order: no atomics
// on them.
#pragma once

#ifdef SPECKLED_HOST
#include "host/shim.h"
#else
#define KERNEL extern "C" __global__ void
// One of so many threads a block, of which a multiprocessor is to run so many blocks at once.
#define KERNEL_OF(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define DEVICE __device__ __forceinline__
// The block's shared memory.
#define SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Threads of a warp, and all of them.
const u32 WARP = 32;
const u32 ALL = 0xffffffffu;

// No sample, no place.
const u32 NONE = 0xffffffffu;

DEVICE u32 lane() { return threadIdx.x % WARP; }

// The warp's number in the grid.
DEVICE u32 warp_index() { return blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP; }

// Those of a ballot that are in lanes before this one.
DEVICE u32 before(u32 ballot) { return __popc(ballot & ((1u << lane()) - 1u)); }

// Sum over the warp, the same in all lanes and in every run.
template <typename T> DEVICE T warp_sum(T value) {
    for (u32 distance = WARP / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(ALL, value, distance);
    }
    return value;
}

// Four counts of two bits, the first in the lowest.
struct u2 {
    u8 four;
};

// Count `k` of frames.
template <typename T> DEVICE T count_at(const T *counts, u64 k) { return counts[k]; }
DEVICE u8 count_at(const u2 *counts, u64 k) { return counts[k / 4].four >> (k % 4 * 2) & 3; }

// A level of the delay scheme, as correlate::delays has it, and what turns its sums into means in frame units.
struct Level {
    u32 samples, first, first_lag, lags;
    double products[8], means[8];
};
