// What the kernels share: number formats, sums over a block, and the instructions of a warp.
//
// `.ci/kernels` compiles the kernels as C++ with `host.hpp` in place of CUDA, where the same names are plain C++.
#pragma once

#ifdef KERNELS_ON_HOST
#include "host.hpp"
#else
#include <cstdint>
#define SHARED_BYTES(name) extern __shared__ __align__(16) unsigned char name[]
#endif

constexpr uint32_t WARP = 32;

// A bf16 as its bits: the upper half of an f32.
struct Half {
    uint16_t bits;
};

__device__ __forceinline__ float widened(float x) { return x; }
__device__ __forceinline__ float widened(Half x) {
    union {
        uint32_t bits;
        float value;
    } word;
    word.bits = (uint32_t)x.bits << 16;
    return word.value;
}

__device__ __forceinline__ void store(float &to, float x) { to = x; }
// To the nearest bf16, ties to even; a NaN stays one.
__device__ __forceinline__ void store(Half &to, float x) {
    union {
        float value;
        uint32_t bits;
    } word;
    word.value = x;
    const uint32_t rounded = word.bits + 0x7fffu + ((word.bits >> 16) & 1u);
    to.bits = (uint16_t)((x != x ? word.bits | 0x400000u : rounded) >> 16);
}

// Neighbours that are read and written together.
template <typename T, uint32_t N>
struct alignas(sizeof(T) * N) Pack {
    T at[N];
};

// Numbers of a pack of one format: one, or 16 bytes of them.
template <typename T, bool WIDE>
constexpr uint32_t PACK = WIDE ? 16u / sizeof(T) : 1u;

// N neighbours from `at` on.
template <uint32_t N, typename T>
__device__ __forceinline__ Pack<T, N> pack(const T *numbers, uint32_t at) {
    return *(const Pack<T, N> *)(numbers + at);
}

// Set in the number of a key whose row lies in the store.
constexpr uint32_t KEPT = 1u << 31;

// The row of a key or a value by its number in a list: a row of `fresh`, or one of the store.
template <typename T>
__device__ __forceinline__ const T *row_of(const T *fresh, const T *kept, uint32_t row, uint32_t stride,
                                           uint32_t kept_stride) {
    return (row & KEPT) != 0 ? kept + (uint64_t)(row & ~KEPT) * kept_stride : fresh + (uint64_t)row * stride;
}

// Two bf16 in a word, the first in the lower half.
__device__ __forceinline__ uint32_t packed(float first, float second) {
#if !defined(KERNELS_ON_HOST) && __CUDA_ARCH__ >= 800
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
    return word;
#else
    Half halves[2];
    store(halves[0], first), store(halves[1], second);
    return (uint32_t)halves[1].bits << 16 | halves[0].bits;
#endif
}

// The sum of `x` over the threads of a block, in one order whatever the block does else; `scratch` has a place for
// each warp. All threads must come here.
__device__ __forceinline__ float summed(float x, float *scratch) {
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    for (uint32_t distance = WARP / 2; distance > 0; distance /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, distance);
    }
    __syncthreads(); // what was in `scratch` before has been read
    if (lane == 0) {
        scratch[warp] = x;
    }
    __syncthreads();
    float sum = 0.0f;
    for (uint32_t other = 0; other < warps; other++) {
        sum += scratch[other];
    }
    return sum;
}
