// What the attention kernels on tensor cores share: tiles, and rows of bf16 in shared memory.
#pragma once
#include "warp.cuh"

constexpr uint32_t WARPS = 4, THREADS = WARPS * WARP;
// Keys that are looked at together.
constexpr uint32_t KEYS = 64;

// Words of a tile of queries: its first query, their number (0 is no tile), the first key of their row, the number of keys.
constexpr uint32_t TILE = 4;

// The place of 16 bytes in shared rows of D bf16. Neighbouring rows are shifted, so that a matrix is read without two
// lanes waiting for one bank.
template <uint32_t D>
__device__ __forceinline__ uint32_t place(uint32_t row, uint32_t chunk) {
    return row * D + ((chunk ^ (row & 7u)) * 8u);
}

// Rows that are neighbours.
struct Neighbours {
    const Half *start;
    uint32_t stride;
};

// Rows that a list names.
struct Listed {
    const Half *start, *kept;
    const uint32_t *rows;
    uint32_t stride, kept_stride;
};

__device__ __forceinline__ const Half *row_at(const Neighbours &from, uint32_t row) {
    return from.start + (uint64_t)row * from.stride;
}

__device__ __forceinline__ const Half *row_at(const Listed &from, uint32_t row) {
    return row_of(from.start, from.kept, from.rows[row], from.stride, from.kept_stride);
}

// Begins to copy `count` rows (of `most`) of `width` numbers from global to shared memory, filled up with zeros.
template <uint32_t D, typename Rows>
__device__ __forceinline__ void fetch(Half *to, const Rows &from, uint32_t most, uint32_t count, uint32_t width) {
    for (uint32_t at = threadIdx.x; at < most * (D / 8u); at += THREADS) {
        const uint32_t row = at / (D / 8u), chunk = at % (D / 8u);
        const bool is_there = row < count && chunk * 8u < width;
        copy_later(to + place<D>(row, chunk), is_there ? row_at(from, row) + chunk * 8u : from.start, is_there);
    }
}
