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

enum class State { Runs, AtBlock, AtWarp, AtExchange, Ended };

// An exchange in a warp orders no memory: what a lane reads between two barriers it may read as late as when all others have
// come to the second one. Of so many fibers one runs again from the first barrier on when the others are there: what it reads
// then must be what it read before.
const unsigned int LATE = 4;

// Where a fiber goes on; swapcontext would ask the system each time.
typedef void *Jump[5];

struct Fiber {
    ucontext_t begin;
    Jump jump;
    unsigned char *stack;
    State state;
    bool begun;
    Place place;
    // What it has left for its warp in each exchange since the last barrier, and in how many it took part.
    std::vector<uint64_t> given;
    size_t exchanges;
    // As the address sanitizer keeps it for one that does not run.
    void *watched;
    // What it was at the last barrier, if it is one that runs again.
    struct {
        Jump jump;
        std::vector<unsigned char> stack;
    } before;
    enum class Course { Once, First, Again } course;
};

// One grid, on one thread of the system.
struct Grid {
    // What it does may be done twice between two waits.
    bool repeats;
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

// What a fiber has on its stack while it waits: from below the saved pointer on, where a function may keep something too.
unsigned char *top_of_stack(const Fiber &fiber) { return static_cast<unsigned char *>(fiber.jump[2]) - 128; }

void keep(Fiber &fiber) {
    memcpy(fiber.before.jump, fiber.jump, sizeof(Jump));
    fiber.before.stack.assign(top_of_stack(fiber), fiber.stack + STACK);
}

void go_back(Fiber &fiber) {
    memcpy(fiber.jump, fiber.before.jump, sizeof(Jump));
    fiber.exchanges = 0;
    memcpy(top_of_stack(fiber), fiber.before.stack.data(), fiber.before.stack.size());
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

// Runs those of a range of threads again that are late; they come to the same barrier.
void run_again(size_t first, size_t end, State barrier) {
    for (size_t k = first; k < end; ++k) {
        Fiber &fiber = grid->fibers[k];
        bool is_late = fiber.course == Fiber::Course::First && fiber.state == barrier;
        // without an exchange nobody was ahead of it: the order of fibers is what shows a missing barrier
        if (!is_late || fiber.exchanges == 0) continue;
        size_t exchanges = fiber.exchanges;
        go_back(fiber);
        fiber.course = Fiber::Course::Again;
        run(fiber);
        if (fiber.state != barrier || fiber.exchanges != exchanges) refuse("it goes another way when it reads late");
        fiber.course = Fiber::Course::Once;
    }
}

// Lets those of a range of threads go on who wait in a state, if all others of it have ended; tells who.
unsigned int release(size_t first, size_t end, State state) {
    unsigned int lanes = 0;
    for (size_t k = first; k < end; ++k) {
        State found = grid->fibers[k].state;
        if (found != state && found != State::Ended) return 0;
    }
    if (state != State::AtExchange) run_again(first, end, state);
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
        size_t end = std::min(first + 32, threads);
        unsigned int lanes = release(first, end, State::AtWarp) | release(first, end, State::AtExchange);
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
    fiber.course = Fiber::Course::Once;
    getcontext(&fiber.begin);
    fiber.begin.uc_stack.ss_sp = fiber.stack;
    fiber.begin.uc_stack.ss_size = STACK;
    fiber.begin.uc_link = &grid->end;
    makecontext(&fiber.begin, enter, 0);
    grid->ready.push_back(&fiber);
}

// Runs a fiber up to its next wait. Behind a barrier it may become one that runs again at the next.
void turn(Fiber &fiber) {
    if (fiber.begun && fiber.state != State::AtExchange) {
        fiber.exchanges = 0;
        bool is_late = !FIBERS_ARE_WATCHED && grid->repeats && grid->random() % LATE == 0;
        if (is_late) keep(fiber);
        fiber.course = is_late ? Fiber::Course::First : Fiber::Course::Once;
    }
    run(fiber);
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
        turn(*next);
        if (grid->ready.empty()) release_all();
    }
    for (Fiber &fiber : grid->fibers) {
        if (fiber.state != State::Ended) refuse("threads wait for others that do not come: a barrier in a branch");
    }
}

}  // namespace

void wait_for_block() { wait_in(State::AtBlock); }

void wait_for_warp() { wait_in(State::AtWarp); }

void did_once() {
    if (grid->running->course == Fiber::Course::Again) refuse("it goes another way when it reads late");
    grid->running->course = Fiber::Course::Once;
}

void give(unsigned int mask, uint64_t value) {
    Fiber *self = grid->running;
    size_t exchange = self->exchanges++;
    if (self->course == Fiber::Course::Again) {
        // this exchange is over
        if (exchange >= self->given.size() || self->given[exchange] != value) {
            refuse("it gives something else when it reads late: others wrote over what it reads");
        }
        return;
    }
    self->given.resize(exchange);
    self->given.push_back(value);
    wait_in(State::AtExchange);
    if (grid->lanes[own() / 32] != mask) refuse("an exchange in a warp names other lanes than take part");
}

uint64_t given(unsigned int lane) {
    const Fiber &from = grid->fibers[own() / 32 * 32 + lane];
    return from.given[grid->running->exchanges - 1];
}

unsigned char *shared_memory() { return grid->shared.get(); }

void refuse(const char *why) {
    fprintf(stderr, "kernel in block %u, thread %u: %s\n", place.block.x, place.thread.x, why);
    abort();
}

void run_grid(Body body, void **arguments, unsigned int seed, dim3 grid_size, dim3 block_size, size_t shared_bytes,
              bool repeats) {
    Grid here{};
    here.repeats = repeats;
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
