// A self-test of a GPU's memory: a pattern is written and read again, and what differs is counted.
#include "common.cuh"

// A number that looks random: splitmix64's finalizer.
DEVICE u64 mixed(u64 x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

KERNEL self_test_write(u64 *memory, u64 numbers, u64 seed) {
    for (u64 k = u64(blockIdx.x) * blockDim.x + threadIdx.x; k < numbers; k += u64(gridDim.x) * blockDim.x) {
        memory[k] = mixed(seed + k);
    }
}

KERNEL self_test_check(const u64 *memory, u64 numbers, u64 seed, u32 *wrong) {
    for (u64 k = u64(blockIdx.x) * blockDim.x + threadIdx.x; k < numbers; k += u64(gridDim.x) * blockDim.x) {
        if (memory[k] != mixed(seed + k)) atomicAdd(wrong, 1u);
    }
}
