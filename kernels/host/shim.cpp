// Runs grids: see shim.h. The kernels' entry points, and what tests call, are in kernels.cpp.

#include "shim.h"
#include "run.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define FIBERS_ARE_WATCHED 1
#else
#define FIBERS_ARE_WATCHED 0
#endif

namespace shim {

thread_local Place place;

namespace {

// Kernels have small frames; the sanitizers make them larger.
const size_t STACK = 64 << 10;

enum class State { Runs, AtBlock, AtWarp, Ended };

// Where a fiber goes on; swapcontext would ask the system each time.
typedef void *Jump[5];

struct Fiber {
    ucontext_t begin;
    Jump jump;
    unsigned char *stack;
    State state;
    bool begun;
    Place place;
    // What it has left for its warp: the last two values, since one lane may be an exchange ahead of another.
    uint64_t given[2];
    unsigned int exchanges;
    // As the address sanitizer keeps it for one that does not run.
    void *watched;
};

// One grid, on one thread of the system.
struct Grid {
    Body body;
    void **arguments;
    std::vector<Fiber> fibers;
    std::vector<Fiber *> ready;
    // Of each warp, the lanes that took part in the last wait.
    std::vector<unsigned int> lanes;
    std::unique_ptr<unsigned char[]> shared;
    ucontext_t end;
    Jump scheduler;
    Fiber *running;
    std::minstd_rand random;
    const void *stack;
    size_t stack_size;
    void *watched;
};

thread_local Grid *grid = nullptr;

// Of functions that leave for another stack: the sanitizer would ask the system about each such leave.
#define SWITCHES __attribute__((noinline, no_sanitize_address))

// Stacks, kept from grid to grid.
thread_local std::vector<std::unique_ptr<unsigned char[]>> stacks;

unsigned char *stack_of(size_t thread) {
    while (stacks.size() <= thread) stacks.emplace_back(new unsigned char[STACK]);
    unsigned char *stack = stacks[thread].get();
#if FIBERS_ARE_WATCHED
    // whoever had it before has left its marks
    __asan_unpoison_memory_region(stack, STACK);
#endif
    return stack;
}

SWITCHES void jump(void **to) { __builtin_longjmp(to, 1); }

SWITCHES void back_to_the_scheduler() {
    Fiber *self = grid->running;
#if FIBERS_ARE_WATCHED
    void **watched = self->state == State::Ended ? nullptr : &self->watched;
    __sanitizer_start_switch_fiber(watched, grid->stack, grid->stack_size);
#endif
    if (!__builtin_setjmp(self->jump)) jump(grid->scheduler);
#if FIBERS_ARE_WATCHED
    __sanitizer_finish_switch_fiber(grid->running->watched, nullptr, nullptr);
#endif
}

void enter() {
#if FIBERS_ARE_WATCHED
    __sanitizer_finish_switch_fiber(nullptr, &grid->stack, &grid->stack_size);
#endif
    grid->body(grid->arguments);
    grid->running->state = State::Ended;
    back_to_the_scheduler();
}

SWITCHES void go_on(Fiber &fiber) {
    if (fiber.begun) jump(fiber.jump);
    fiber.begun = true;
    setcontext(&fiber.begin);
}

SWITCHES void run(Fiber &fiber) {
    grid->running = &fiber;
    fiber.state = State::Runs;
    place = fiber.place;
#if FIBERS_ARE_WATCHED
    __sanitizer_start_switch_fiber(&grid->watched, fiber.stack, STACK);
#endif
    if (!__builtin_setjmp(grid->scheduler)) go_on(fiber);
#if FIBERS_ARE_WATCHED
    __sanitizer_finish_switch_fiber(grid->watched, nullptr, nullptr);
#endif
}

void wait_in(State state) {
    grid->running->state = state;
    back_to_the_scheduler();
}

size_t own() { return grid->running - grid->fibers.data(); }

// Lets those of a range of threads go on who wait in a state, if all others of it have ended; tells who.
unsigned int release(size_t first, size_t end, State state) {
    unsigned int lanes = 0;
    for (size_t k = first; k < end; ++k) {
        State found = grid->fibers[k].state;
        if (found != state && found != State::Ended) return 0;
    }
    for (size_t k = first; k < end; ++k) {
        if (grid->fibers[k].state != state) continue;
        grid->ready.push_back(&grid->fibers[k]);
        lanes |= 1u << (k - first) % 32;
    }
    return lanes;
}

void release_all() {
    size_t threads = grid->fibers.size();
    for (size_t first = 0; first < threads; first += 32) {
        unsigned int lanes = release(first, std::min(first + 32, threads), State::AtWarp);
        if (lanes != 0) grid->lanes[first / 32] = lanes;
    }
    if (grid->ready.empty()) release(0, threads, State::AtBlock);
}

void begin(Fiber &fiber, size_t thread, const Place &block) {
    fiber.stack = stack_of(thread);
    unsigned int width = block.block_size.x;
    fiber.place = block;
    fiber.place.thread = {unsigned(thread) % width, unsigned(thread) / width, 0};
    fiber.begun = false;
    fiber.exchanges = 0;
    getcontext(&fiber.begin);
    fiber.begin.uc_stack.ss_sp = fiber.stack;
    fiber.begin.uc_stack.ss_size = STACK;
    fiber.begin.uc_link = &grid->end;
    makecontext(&fiber.begin, enter, 0);
    grid->ready.push_back(&fiber);
}

void run_block(const Place &block, size_t shared_bytes) {
    // exactly so many bytes, so that the sanitizer sees the first that is not among them
    grid->shared.reset(new unsigned char[shared_bytes]);
    memset(grid->shared.get(), 0xa5, shared_bytes);
    for (size_t k = 0; k < grid->fibers.size(); ++k) begin(grid->fibers[k], k, block);
    while (!grid->ready.empty()) {
        std::swap(grid->ready[grid->random() % grid->ready.size()], grid->ready.back());
        Fiber *next = grid->ready.back();
        grid->ready.pop_back();
        run(*next);
        if (grid->ready.empty()) release_all();
    }
    for (Fiber &fiber : grid->fibers) {
        if (fiber.state != State::Ended) refuse("threads wait for others that do not come: a barrier in a branch");
    }
}

}  // namespace

void wait_for_block() { wait_in(State::AtBlock); }

void wait_for_warp() { wait_in(State::AtWarp); }

void give(unsigned int mask, uint64_t value) {
    Fiber *self = grid->running;
    self->given[++self->exchanges % 2] = value;
    wait_for_warp();
    if (grid->lanes[own() / 32] != mask) refuse("an exchange in a warp names other lanes than take part");
}

uint64_t given(unsigned int lane) {
    const Fiber &from = grid->fibers[own() / 32 * 32 + lane];
    return from.given[grid->running->exchanges % 2];
}

unsigned char *shared_memory() { return grid->shared.get(); }

void refuse(const char *why) {
    fprintf(stderr, "kernel in block %u, thread %u: %s\n", place.block.x, place.thread.x, why);
    abort();
}

void run_grid(Body body, void **arguments, unsigned int seed, dim3 grid_size, dim3 block_size, size_t shared_bytes) {
    Grid here{};
    here.body = body;
    here.arguments = arguments;
    here.fibers.resize(size_t(block_size.x) * block_size.y);
    here.lanes.resize((here.fibers.size() + 31) / 32);
    here.random.seed(seed + 1);
    grid = &here;
    std::vector<dim3> blocks;
    for (unsigned int y = 0; y < grid_size.y; ++y) {
        for (unsigned int x = 0; x < grid_size.x; ++x) blocks.push_back({x, y, 0});
    }
    for (size_t k = blocks.size(); k > 1; --k) std::swap(blocks[k - 1], blocks[here.random() % k]);
    for (dim3 block : blocks) run_block({{0, 0, 0}, block, block_size, grid_size}, shared_bytes);
    grid = nullptr;
}

}  // namespace shim
