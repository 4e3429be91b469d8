// All kernels over the shim, as one library: what the tests' device launches by name.

#include "run.h"

#include <cstdlib>
#include <utility>

#include "../dense.cu"
#include "../dense_frames.cu"
#include "../events.cu"
#include "../reduce.cu"
#include "../selftest.cu"
#include "../twotime.cu"

// scripts/kernels.py has the same list.
DENSE_FRAMES(dense_u2_f32, u2, float)
DENSE_FRAMES(dense_u8_f32, u8, float)
DENSE_FRAMES(dense_u16_f32, u16, float)
DENSE_FRAMES(dense_u32_f32, u32, float)
DENSE_FRAMES(dense_i16_f32, short, float)
DENSE_FRAMES(dense_i32_f32, int, float)
DENSE_FRAMES(dense_f32_f32, float, float)
DENSE_FRAMES(dense_u2_f64, u2, double)
DENSE_FRAMES(dense_u8_f64, u8, double)
DENSE_FRAMES(dense_u16_f64, u16, double)
DENSE_FRAMES(dense_u32_f64, u32, double)
DENSE_FRAMES(dense_i16_f64, short, double)
DENSE_FRAMES(dense_i32_f64, int, double)
DENSE_FRAMES(dense_f32_f64, float, double)

namespace {

template <typename... Arguments, size_t... Index>
void call(void (*kernel)(Arguments...), void **arguments, std::index_sequence<Index...>) {
    kernel(*static_cast<Arguments *>(arguments[Index])...);
}

template <typename... Arguments> void call_all(void (*kernel)(Arguments...), void **arguments) {
    call(kernel, arguments, std::index_sequence_for<Arguments...>());
}

template <auto kernel> void body(void **arguments) { call_all(kernel, arguments); }

template <typename... Arguments> constexpr size_t arity(void (*)(Arguments...)) { return sizeof...(Arguments); }

struct Named {
    const char *name;
    shim::Body body;
    size_t arguments;
    // Whether it may do twice what it does between two waits: see run_grid.
    bool repeats;
};

#define NAMED(kernel) {#kernel, body<kernel>, arity(kernel), true}
// One that adds to memory between exchanges.
#define NAMED_ONCE(kernel) {#kernel, body<kernel>, arity(kernel), false}

const Named KERNELS[] = {
    NAMED(events_count),
    NAMED(scan_blocks),
    NAMED(scan_totals),
    NAMED(scan_add),
    NAMED(events_file),
    NAMED(events_sort),
    NAMED(events_multitau),
    NAMED(reduce_pieces),
    NAMED(dense_finish_f32),
    NAMED(dense_finish_f64),
    NAMED(dense_frame_totals),
    NAMED(dense_factors_f32),
    NAMED(dense_factors_f64),
    NAMED(dense_segments),
    NAMED(dense_cell_totals),
    NAMED(dense_stage_f32),
    NAMED(dense_stage_f64),
    NAMED_ONCE(dense_sums_u2),
    NAMED(dense_u2_f32),
    NAMED(dense_u2_f64),
    NAMED_ONCE(dense_sums_u8),
    NAMED(dense_u8_f32),
    NAMED(dense_u8_f64),
    NAMED_ONCE(dense_sums_u16),
    NAMED(dense_u16_f32),
    NAMED(dense_u16_f64),
    NAMED_ONCE(dense_sums_u32),
    NAMED(dense_u32_f32),
    NAMED(dense_u32_f64),
    NAMED_ONCE(dense_sums_i16),
    NAMED(dense_i16_f32),
    NAMED(dense_i16_f64),
    NAMED_ONCE(dense_sums_i32),
    NAMED(dense_i32_f32),
    NAMED(dense_i32_f64),
    NAMED_ONCE(dense_sums_f32),
    NAMED(dense_f32_f32),
    NAMED(dense_f32_f64),
    NAMED(columns_u2),
    NAMED(columns_u8),
    NAMED(columns_u16),
    NAMED(columns_u32),
    NAMED(columns_i16),
    NAMED(columns_i32),
    NAMED(columns_f32),
    NAMED(events_most),
    NAMED(columns_events),
    NAMED(group_totals),
    NAMED(group_totals_f32),
    NAMED(gram_digits),
    NAMED(gram_f32),
    NAMED(map_rows),
    NAMED(diagonal_pieces),
    NAMED(diagonal_totals),
    NAMED(self_test_write),
    NAMED(self_test_check),
};

}  // namespace

// Memory with a guard behind it, where a sanitizer watches; it holds garbage.
extern "C" void *speckled_allocate(size_t bytes) {
    void *memory = malloc(bytes == 0 ? 1 : bytes);
    if (memory != nullptr) memset(memory, 0xa5, bytes);
    return memory;
}

extern "C" void speckled_free(void *memory) { free(memory); }

// How many arguments a kernel takes; -1 if there is none.
extern "C" int speckled_arguments(const char *name) {
    for (const Named &named : KERNELS) {
        if (strcmp(named.name, name) == 0) return int(named.arguments);
    }
    return -1;
}

// 0, or 1 if there is no such kernel.
extern "C" int speckled_launch(const char *name, unsigned int seed, unsigned int blocks, unsigned int threads,
                               size_t shared_bytes, void **arguments) {
    for (const Named &named : KERNELS) {
        if (strcmp(named.name, name) == 0) {
            shim::run_grid(named.body, arguments, seed, {blocks, 1, 1}, {threads, 1, 1}, shared_bytes,
                           named.repeats);
            return 0;
        }
    }
    return 1;
}
