// Runs a kernel's grid in the calling thread.
#pragma once

#include "shim.h"

namespace shim {

// Calls a kernel with its arguments, each given by its address, as cuLaunchKernel takes them.
typedef void (*Body)(void **arguments);

// `seed` decides the order of blocks and threads. `repeats`: what a thread does between two waits may be done twice, but for
// atomics, so that it can be run ahead; not where it adds to memory.
void run_grid(Body body, void **arguments, unsigned int seed, dim3 grid_size, dim3 block_size, size_t shared_bytes,
              bool repeats);

}  // namespace shim
