// CUDA's words as plain C++, so that the kernels run without a GPU. The threads of a block take turns on one thread of the
// CPU. Each warp runs up to the next barrier of the block before another does, and warps and lanes come in another order each
// time, so that a barrier that is missing shows.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <ucontext.h>
#include <vector>

using std::isfinite, std::min, std::max;

#define __device__ static
#define __global__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define SHARED_BYTES(name) unsigned char *const name = host::shared

struct Place {
    uint32_t x = 0, y = 0, z = 0;
};

namespace host {
constexpr uint32_t LANES = 32, THREADS_MAX = 1024, SHARED_MAX = 227 * 1024, STACK = 128 * 1024;

alignas(16) inline unsigned char shared[SHARED_MAX];
inline Place block, grid, size;

// A thread of the block: where it stopped, and the barrier that it waits at.
struct Fiber {
    std::unique_ptr<unsigned char[]> stack;
    ucontext_t start;
    jmp_buf place;
    Place thread;
    bool is_begun = false, is_done = false;
    enum { READY, WARP, BLOCK } waits = READY;
};
inline Fiber fibers[THREADS_MAX];
inline uint32_t current = 0;
inline jmp_buf scheduler;
inline std::function<void()> body;
inline std::mt19937 order(1);

inline void begin() {
    body();
    fibers[current].is_done = true;
    _longjmp(scheduler, 1);
}

// Gives the turn away until the barrier opens.
inline void wait(decltype(Fiber::waits) barrier) {
    Fiber &fiber = fibers[current];
    fiber.waits = barrier;
    if (_setjmp(fiber.place) == 0) _longjmp(scheduler, 1);
}

inline void resume(uint32_t thread) {
    current = thread;
    Fiber &fiber = fibers[thread];
    if (_setjmp(scheduler) != 0) return;
    if (fiber.is_begun) _longjmp(fiber.place, 1);
    fiber.is_begun = true;
    setcontext(&fiber.start);
}

// Opens the barriers at which all threads of a range wait that have not ended.
inline bool open(uint32_t from, uint32_t until, decltype(Fiber::waits) barrier) {
    bool is_any = false;
    for (uint32_t i = from; i < until; i++) {
        if (!fibers[i].is_done && fibers[i].waits != barrier) return false;
        is_any |= !fibers[i].is_done;
    }
    for (uint32_t i = from; i < until; i++) fibers[i].waits = Fiber::READY;
    return is_any;
}

// Runs the lanes of a warp as far as they come without the other warps, so that these find it far ahead.
inline void run_warp(uint32_t from, uint32_t until) {
    uint32_t lanes[LANES];
    do {
        for (uint32_t i = 0; i < until - from; i++) lanes[i] = from + i;
        std::shuffle(lanes, lanes + (until - from), order);
        for (uint32_t i = 0; i < until - from; i++) {
            if (!fibers[lanes[i]].is_done && fibers[lanes[i]].waits == Fiber::READY) resume(lanes[i]);
        }
    } while (open(from, until, Fiber::WARP));
}

inline void run_block() {
    const uint32_t threads = size.x;
    for (uint32_t i = 0; i < threads; i++) {
        Fiber &fiber = fibers[i];
        if (!fiber.stack) fiber.stack = std::make_unique<unsigned char[]>(STACK);
        fiber.is_begun = fiber.is_done = false, fiber.waits = Fiber::READY, fiber.thread.x = i;
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.get(), fiber.start.uc_stack.ss_size = STACK;
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, begin, 0);
    }
    const uint32_t warps = (threads + LANES - 1) / LANES;
    std::vector<uint32_t> turns(warps);
    for (uint32_t warp = 0; warp < warps; warp++) turns[warp] = warp;
    do {
        std::shuffle(turns.begin(), turns.end(), order);
        for (uint32_t warp : turns) run_warp(warp * LANES, std::min((warp + 1) * LANES, threads));
    } while (open(0, threads, Fiber::BLOCK));
    for (uint32_t i = 0; i < threads; i++) {
        if (!fibers[i].is_done) {
            std::fprintf(stderr, "the threads of a block wait at different barriers\n");
            std::exit(1);
        }
    }
}

// What the lanes of a warp do together: each leaves its arguments, the last to come does the work of all.
struct Lane {
    const void *in;
    uint32_t *words;
    float *floats;
    uint32_t b0, b1, number;
};
inline Lane lanes[THREADS_MAX];
inline uint32_t came[THREADS_MAX / LANES];

inline void together(Lane lane, void (*work)(Lane *)) {
    const uint32_t warp = current / LANES;
    lanes[current] = lane;
    if (++came[warp] == LANES) {
        came[warp] = 0;
        work(&lanes[warp * LANES]);
    }
    wait(Fiber::WARP);
}

inline float bf16(uint32_t word, uint32_t half) { return std::bit_cast<float>((word >> (16 * half)) << 16); }
} // namespace host

#define threadIdx (host::fibers[host::current].thread)
#define blockIdx host::block
#define gridDim host::grid
#define blockDim host::size

static inline void __syncthreads() { host::wait(host::Fiber::BLOCK); }
static inline void __syncwarp() { host::wait(host::Fiber::WARP); }

static inline uint32_t exchanged(uint32_t value, uint32_t from) {
    uint32_t result = from;
    host::Lane lane{};
    lane.words = &result, lane.number = value;
    host::together(lane, [](host::Lane *lanes) {
        for (uint32_t i = 0; i < host::LANES; i++) *lanes[i].words = lanes[*lanes[i].words].number;
    });
    return result;
}
template <typename T>
static inline T __shfl_xor_sync(uint32_t, T value, uint32_t distance) {
    static_assert(sizeof(T) == 4);
    return std::bit_cast<T>(exchanged(std::bit_cast<uint32_t>(value), threadIdx.x % host::LANES ^ distance));
}

struct Half;

template <bool TRANSPOSED>
static inline void load_any(uint32_t (&to)[4], const Half *row) {
    host::Lane lane{};
    lane.in = row, lane.words = to;
    host::together(lane, [](host::Lane *lanes) {
        for (uint32_t i = 0; i < 4 * host::LANES; i++) {
            const uint32_t matrix = i / host::LANES, to = i % host::LANES, a = to / 4, b = to % 4 * 2;
            auto at = [&](uint32_t row, uint32_t column) {
                return (uint32_t)((const uint16_t *)lanes[matrix * 8 + row].in)[column];
            };
            lanes[to].words[matrix] = TRANSPOSED ? at(b, a) | at(b + 1, a) << 16 : at(a, b) | at(a, b + 1) << 16;
        }
    });
}
static inline void load_matrices(uint32_t (&to)[4], const Half *row) { load_any<false>(to, row); }
static inline void load_matrices_transposed(uint32_t (&to)[4], const Half *row) { load_any<true>(to, row); }

static inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    uint32_t left[4] = {a[0], a[1], a[2], a[3]};
    host::Lane lane{};
    lane.words = left, lane.floats = c, lane.b0 = b0, lane.b1 = b1;
    host::together(lane, [](host::Lane *lanes) {
        float a[16][16], b[16][8];
        for (uint32_t i = 0; i < host::LANES; i++) {
            const uint32_t group = i / 4, pair = i % 4 * 2;
            for (uint32_t half = 0; half < 2; half++) {
                for (uint32_t word = 0; word < 4; word++) {
                    a[group + word % 2 * 8][pair + half + word / 2 * 8] = host::bf16(lanes[i].words[word], half);
                }
                b[pair + half][group] = host::bf16(lanes[i].b0, half);
                b[pair + half + 8][group] = host::bf16(lanes[i].b1, half);
            }
        }
        for (uint32_t i = 0; i < host::LANES; i++) {
            for (uint32_t word = 0; word < 4; word++) {
                const uint32_t row = i / 4 + word / 2 * 8, column = i % 4 * 2 + word % 2;
                float sum = lanes[i].floats[word];
                for (uint32_t k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
                lanes[i].floats[word] = sum;
            }
        }
    });
}

// A copy that does not wait is one that arrives at once.
static inline void copy_later(void *to, const void *from, bool is_there) {
    if (((uintptr_t)to | (is_there ? (uintptr_t)from : 0)) % 16 != 0) {
        std::fprintf(stderr, "a copy of 16 bytes from or to an odd address\n");
        std::exit(1);
    }
    if (is_there) std::memcpy(to, from, 16);
    else std::memset(to, 0, 16);
}
static inline void end_group() {}
template <int OPEN>
static inline void wait_for_groups() {}
static inline float power_of_two(float x) { return std::exp2(x); }
