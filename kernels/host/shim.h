// CUDA as far as the kernels use it, for a C++ compiler: a block's threads are fibers of one thread of the system, which
// run until they wait for each other. Between two waits they run in a random order, so that a kernel that lacks a
// barrier computes something else; so do the blocks of a grid. Exchanges in a warp (shuffles, ballots) are no barriers for
// memory: see RUN_AHEAD in shim.cpp. Memory that is shared or new holds garbage. For tests.
#pragma once

#include <cstdint>
#include <cstring>

struct dim3 {
    unsigned int x, y, z;
};

namespace shim {

// Who runs.
struct Place {
    dim3 thread, block, block_size, grid_size;
};
extern thread_local Place place;

// Waits for all threads of the block, or of the warp, that have not ended.
void wait_for_block();
void wait_for_warp();

// What was done cannot be done again: an atomic.
void did_once();

// Leaves a value for the warp and waits until all its lanes have; `mask` must name those that have not ended. It stays
// until the next one is left. Unlike wait_for_warp it orders no memory.
void give(unsigned int mask, uint64_t value);
// What a lane has left.
uint64_t given(unsigned int lane);

unsigned char *shared_memory();

template <typename T> uint64_t bits(T value) {
    static_assert(sizeof(T) <= 8, "a value of at most 8 bytes");
    uint64_t out = 0;
    memcpy(&out, &value, sizeof(T));
    return out;
}

template <typename T> T from_bits(uint64_t value) {
    T out;
    memcpy(&out, &value, sizeof(T));
    return out;
}

// Ends the process: the kernel did what has no meaning.
[[noreturn]] void refuse(const char *why);

template <typename T> T exchange(unsigned int mask, T value, unsigned int from) {
    give(mask, bits(value));
    if (!(mask >> from & 1)) refuse("it takes from a lane that gives nothing");
    return from_bits<T>(given(from));
}

inline unsigned int own_lane() { return place.thread.x % 32; }

}  // namespace shim

#define KERNEL extern "C" void
#define KERNEL_OF(threads, blocks) extern "C" void
#define DEVICE inline
#define SHARED(name) unsigned char *name = shim::shared_memory()

#define threadIdx (shim::place.thread)
#define blockIdx (shim::place.block)
#define blockDim (shim::place.block_size)
#define gridDim (shim::place.grid_size)

inline void __syncthreads() { shim::wait_for_block(); }
inline void __syncwarp() { shim::wait_for_warp(); }

template <typename T> T __shfl_sync(unsigned int mask, T value, unsigned int from) {
    return shim::exchange(mask, value, from % 32);
}

template <typename T> T __shfl_xor_sync(unsigned int mask, T value, unsigned int distance) {
    return shim::exchange(mask, value, shim::own_lane() ^ distance);
}

// As on a device, lanes without one that far below keep their own.
template <typename T> T __shfl_up_sync(unsigned int mask, T value, unsigned int distance) {
    unsigned int own = shim::own_lane();
    return shim::exchange(mask, value, own < distance ? own : own - distance);
}

// As on a device, lanes without one that far above keep their own.
template <typename T> T __shfl_down_sync(unsigned int mask, T value, unsigned int distance) {
    unsigned int own = shim::own_lane();
    return shim::exchange(mask, value, own + distance > 31 ? own : own + distance);
}

inline unsigned int __ballot_sync(unsigned int mask, int predicate) {
    shim::give(mask, predicate != 0);
    unsigned int out = 0;
    for (unsigned int lane = 0; lane < 32; ++lane) {
        if (mask >> lane & 1 && shim::given(lane)) out |= 1u << lane;
    }
    return out;
}

inline int __popc(unsigned int value) { return __builtin_popcount(value); }
inline int __clz(unsigned int value) { return value == 0 ? 32 : __builtin_clz(value); }

template <typename T> T atomicAdd(T *address, T value) {
    shim::did_once();
    T before = *address;
    *address = before + value;
    return before;
}

template <typename T> T atomicMin(T *address, T value) {
    shim::did_once();
    T before = *address;
    *address = value < before ? value : before;
    return before;
}

template <typename T> T atomicMax(T *address, T value) {
    shim::did_once();
    T before = *address;
    *address = value > before ? value : before;
    return before;
}

template <typename T> T min(T a, T b) { return b < a ? b : a; }
template <typename T> T max(T a, T b) { return a < b ? b : a; }
