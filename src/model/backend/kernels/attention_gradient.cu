// The gradients of attention over packed rows on tensor cores (sm_80 and later), after FlashAttention-2 (arXiv 2307.08691,
// algorithm 2): scores are computed again from the logarithms of their sums, so that none are stored. One kernel takes
// tiles of queries, another tiles of keys, so that nothing is added up by several blocks and the result is always the same.
//
// With S = q k^T / sqrt(width), P = softmax(S), O = P v and g the gradient of O:
// of v: P^T g; of S: D = P (g v^T - delta), delta = sum over columns of g O; of q: D k / sqrt(width); of k: D^T q / sqrt(width).

#include "attention.cuh"

// Of each warp: so many rows of the tile that the block keeps.
constexpr uint32_t SIXTEEN = 16;
// Rows of the tile that a block keeps.
constexpr uint32_t OWN = WARPS * SIXTEEN;

template <uint32_t N>
__device__ __forceinline__ void clear(float (&x)[N][4]) {
#pragma unroll
    for (uint32_t n = 0; n < N; n++) {
        x[n][0] = x[n][1] = x[n][2] = x[n][3] = 0.0f;
    }
}

// sums (16, 8 N) += own (16 rows of a shared tile, from `first` on) x other^T (8 N rows of a shared tile), both of D columns.
template <uint32_t D, uint32_t N>
__device__ __forceinline__ void product(float (&sums)[N][4], const Half *own, uint32_t first, const Half *other) {
    const uint32_t lane = threadIdx.x % WARP;
#pragma unroll
    for (uint32_t d = 0; d < D / 16u; d++) {
        uint32_t a[4];
        load_matrices(a, own + place<D>(first + lane % 16u, d * 2u + lane / 16u));
#pragma unroll
        for (uint32_t n = 0; n < N / 2u; n++) {
            uint32_t b[4]; // two eights of the other rows
            load_matrices(b, other + place<D>(n * 16u + lane % 8u + lane / 16u * 8u, d * 2u + lane / 8u % 2u));
            multiply_add(sums[2u * n], a, b[0], b[1]);
            multiply_add(sums[2u * n + 1u], a, b[2], b[3]);
        }
    }
}

// sums (16, D) += factors (16, 8 N), rounded to bf16, x other (8 N rows of a shared tile of D columns).
template <uint32_t D, uint32_t N>
__device__ __forceinline__ void weighted(float (&sums)[D / 8u][4], const float (&factors)[N][4], const Half *other) {
    const uint32_t lane = threadIdx.x % WARP;
#pragma unroll
    for (uint32_t key = 0; key < N / 2u; key++) {
        const float *const low = factors[2u * key], *const high = factors[2u * key + 1u];
        const uint32_t a[4] = {packed(low[0], low[1]), packed(low[2], low[3]), packed(high[0], high[1]),
                               packed(high[2], high[3])};
#pragma unroll
        for (uint32_t n = 0; n < D / 16u; n++) {
            uint32_t b[4]; // two eights of columns
            load_matrices_transposed(b, other + place<D>(key * 16u + lane % 16u, n * 2u + lane / 16u));
            multiply_add(sums[2u * n], a, b[0], b[1]);
            multiply_add(sums[2u * n + 1u], a, b[2], b[3]);
        }
    }
}

// Writes a warp's rows of sums (16, D), times `factor`: those below `count`, and columns below `width`.
template <uint32_t D>
__device__ __forceinline__ void write(Half *out, const float (&sums)[D / 8u][4], uint32_t first, uint32_t count,
                                      uint32_t width, uint32_t stride, float factor) {
    const uint32_t lane = threadIdx.x % WARP;
#pragma unroll
    for (uint32_t half = 0; half < 2u; half++) {
        const uint32_t row = first + half * 8u + lane / 4u;
#pragma unroll
        for (uint32_t n = 0; n < D / 8u; n++) {
            const uint32_t column = n * 8u + lane % 4u * 2u;
            if (row < count && column < width) {
                *(uint32_t *)(out + (uint64_t)row * stride + column) =
                    packed(sums[n][2u * half] * factor, sums[n][2u * half + 1u] * factor);
            }
        }
    }
}

// Of a tile of queries.
template <uint32_t D>
__device__ __forceinline__ void of_queries(const Half *q, const Half *k, const Half *v, const Half *grad,
                                           const float *log_sums, const float *deltas, const uint32_t *tiles, Half *out,
                                           uint32_t width, uint32_t sharing, uint32_t q_stride, uint32_t k_stride,
                                           uint32_t v_stride, uint32_t grad_stride, float scale, float factor) {
    SHARED_BYTES(bytes);
    Half *const queries = (Half *)bytes;        // (OWN, D)
    Half *const grads = queries + OWN * D;      // (OWN, D)
    Half *const keys = grads + OWN * D;         // twice (KEYS, D)
    Half *const values = keys + 2u * KEYS * D;  // twice (KEYS, D)
    const uint32_t lane = threadIdx.x % WARP, first = threadIdx.x / WARP * SIXTEEN, head = blockIdx.y, heads = gridDim.y;
    const uint32_t first_query = tiles[blockIdx.x * TILE], count = tiles[blockIdx.x * TILE + 1u];
    const uint32_t first_key = tiles[blockIdx.x * TILE + 2u], key_count = tiles[blockIdx.x * TILE + 3u];
    k += head / sharing * width + (uint64_t)first_key * k_stride;
    v += head / sharing * width + (uint64_t)first_key * v_stride;

    const auto fetch_keys = [&](uint32_t stage, uint32_t start) {
        const uint32_t left = key_count - start;
        fetch<D>(keys + stage * KEYS * D, Neighbours{k + (uint64_t)start * k_stride, k_stride}, KEYS, left, width);
        fetch<D>(values + stage * KEYS * D, Neighbours{v + (uint64_t)start * v_stride, v_stride}, KEYS, left, width);
    };
    fetch<D>(queries, Neighbours{q + (uint64_t)first_query * q_stride + head * width, q_stride}, OWN, count, width);
    fetch<D>(grads, Neighbours{grad + (uint64_t)first_query * grad_stride + head * width, grad_stride}, OWN, count, width);
    fetch_keys(0, 0);
    end_group();

    // of this lane's queries: rows lane / 4 and lane / 4 + 8
    float log_sum[2], delta[2];
#pragma unroll
    for (uint32_t half = 0; half < 2u; half++) {
        const uint32_t row = first + half * 8u + lane / 4u;
        const uint64_t at = (uint64_t)(first_query + row) * heads + head;
        log_sum[half] = row < count ? log_sums[at] : INFINITY;
        delta[half] = row < count ? deltas[at] : 0.0f;
    }
    float sums[D / 8u][4];
    clear(sums);
    uint32_t stage = 0;
    for (uint32_t start = 0; start < key_count; start += KEYS, stage ^= 1u) {
        if (start + KEYS < key_count) {
            fetch_keys(stage ^ 1u, start + KEYS);
        }
        end_group();
        wait_for_groups<1>(); // this tile is there, the next one may be under way
        __syncthreads();
        const Half *const k_tile = keys + stage * KEYS * D, *const v_tile = values + stage * KEYS * D;
        float scores[KEYS / 8u][4], slopes[KEYS / 8u][4];
        clear(scores), clear(slopes);
        product<D>(scores, queries, first, k_tile);
        product<D>(slopes, grads, first, v_tile);
#pragma unroll
        for (uint32_t n = 0; n < KEYS / 8u; n++) {
#pragma unroll
            for (uint32_t i = 0; i < 4u; i++) {
                const uint32_t key = start + n * 8u + lane % 4u * 2u + i % 2u;
                const float share = power_of_two(scores[n][i] * scale - log_sum[i / 2u]);
                slopes[n][i] = key < key_count ? share * (slopes[n][i] - delta[i / 2u]) : 0.0f;
            }
        }
        weighted<D>(sums, slopes, k_tile);
        __syncthreads(); // before the tile is overwritten
    }
    out += (uint64_t)first_query * heads * width + head * width;
    write<D>(out, sums, first, count, width, heads * width, factor);
}

// Of a tile of keys, and of its values. QUERIES: those that are looked at together.
template <uint32_t D, uint32_t QUERIES>
__device__ __forceinline__ void of_keys(const Half *q, const Half *k, const Half *v, const Half *grad,
                                        const float *log_sums, const float *deltas, const uint32_t *tiles, Half *out,
                                        uint32_t width, uint32_t sharing, uint32_t tokens, uint32_t q_stride,
                                        uint32_t k_stride, uint32_t v_stride, uint32_t grad_stride, float scale,
                                        float factor) {
    SHARED_BYTES(bytes);
    Half *const keys = (Half *)bytes;                 // (OWN, D)
    Half *const values = keys + OWN * D;              // (OWN, D)
    Half *const queries = values + OWN * D;           // twice (QUERIES, D)
    Half *const grads = queries + 2u * QUERIES * D;   // twice (QUERIES, D)
    float *const sums_of = (float *)(grads + 2u * QUERIES * D); // twice (QUERIES), then the same of deltas
    float *const deltas_of = sums_of + 2u * QUERIES;
    const uint32_t lane = threadIdx.x % WARP, first = threadIdx.x / WARP * SIXTEEN, kv_head = blockIdx.y;
    const uint32_t kv_heads = gridDim.y, heads = kv_heads * sharing;
    const uint32_t first_key = tiles[blockIdx.x * TILE], count = tiles[blockIdx.x * TILE + 1u];
    const uint32_t first_query = tiles[blockIdx.x * TILE + 2u], query_count = tiles[blockIdx.x * TILE + 3u];

    // the queries of all heads that share the keys, tile by tile
    const uint32_t tiles_of_head = (query_count + QUERIES - 1u) / QUERIES, all = tiles_of_head * sharing;
    const auto fetch_queries = [&](uint32_t stage, uint32_t tile) {
        const uint32_t head = kv_head * sharing + tile / tiles_of_head, start = tile % tiles_of_head * QUERIES;
        const uint32_t left = query_count - start;
        const uint64_t token = first_query + start;
        fetch<D>(queries + stage * QUERIES * D, Neighbours{q + token * q_stride + head * width, q_stride}, QUERIES, left,
                 width);
        fetch<D>(grads + stage * QUERIES * D, Neighbours{grad + token * grad_stride + head * width, grad_stride}, QUERIES,
                 left, width);
        for (uint32_t row = threadIdx.x; row < QUERIES; row += THREADS) {
            const uint64_t at = (token + row) * heads + head;
            sums_of[stage * QUERIES + row] = row < left ? log_sums[at] : INFINITY;
            deltas_of[stage * QUERIES + row] = row < left ? deltas[at] : 0.0f;
        }
    };
    fetch<D>(keys, Neighbours{k + (uint64_t)first_key * k_stride + kv_head * width, k_stride}, OWN, count, width);
    fetch<D>(values, Neighbours{v + (uint64_t)first_key * v_stride + kv_head * width, v_stride}, OWN, count, width);
    fetch_queries(0, 0);
    end_group();

    float of_keys[D / 8u][4], of_values[D / 8u][4];
    clear(of_keys), clear(of_values);
    for (uint32_t tile = 0; tile < all; tile++) {
        const uint32_t stage = tile % 2u;
        if (tile + 1u < all) {
            fetch_queries(stage ^ 1u, tile + 1u);
        }
        end_group();
        wait_for_groups<1>(); // this tile is there, the next one may be under way
        __syncthreads();
        const Half *const q_tile = queries + stage * QUERIES * D, *const grad_tile = grads + stage * QUERIES * D;
        float scores[QUERIES / 8u][4], slopes[QUERIES / 8u][4]; // (keys, queries)
        clear(scores);
        product<D>(scores, keys, first, q_tile);
#pragma unroll
        for (uint32_t n = 0; n < QUERIES / 8u; n++) {
#pragma unroll
            for (uint32_t i = 0; i < 4u; i++) {
                const uint32_t query = stage * QUERIES + n * 8u + lane % 4u * 2u + i % 2u;
                scores[n][i] = power_of_two(scores[n][i] * scale - sums_of[query]);
            }
        }
        weighted<D>(of_values, scores, grad_tile);
        clear(slopes);
        product<D>(slopes, values, first, grad_tile);
#pragma unroll
        for (uint32_t n = 0; n < QUERIES / 8u; n++) {
#pragma unroll
            for (uint32_t i = 0; i < 4u; i++) {
                const uint32_t query = stage * QUERIES + n * 8u + lane % 4u * 2u + i % 2u;
                scores[n][i] *= slopes[n][i] - deltas_of[query];
            }
        }
        weighted<D>(of_keys, scores, q_tile);
        __syncthreads(); // before the tile is overwritten
    }
    const uint32_t stride = kv_heads * width;
    out += (uint64_t)first_key * stride + kv_head * width;
    write<D>(out, of_keys, first, count, width, stride, factor);
    write<D>(out + (uint64_t)tokens * stride, of_values, first, count, width, stride, 1.0f);
}

// The sums over the columns of each head of grad x mixed, rows of (tokens, heads * width): out (tokens, heads).
extern "C" __global__ void attention_delta(const Half *grad, const Half *mixed, float *out, uint32_t heads,
                                           uint32_t width, uint32_t grad_stride, uint32_t mixed_stride) {
    const uint64_t token = blockIdx.x;
    const uint32_t lane = threadIdx.x % WARP;
    for (uint32_t head = threadIdx.x / WARP; head < heads; head += blockDim.x / WARP) {
        float sum = 0.0f;
        for (uint32_t at = lane; at < width; at += WARP) {
            sum += widened(grad[token * grad_stride + head * width + at]) *
                   widened(mixed[token * mixed_stride + head * width + at]);
        }
        for (uint32_t distance = WARP / 2; distance > 0; distance /= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, distance);
        }
        if (lane == 0) {
            out[token * heads + head] = sum;
        }
    }
}

// q and grad (tokens, heads * width), k and v (tokens, kv heads * width), rows `*_stride` numbers apart; each kv head is
// shared by `sharing` heads. log_sums, to base 2, and deltas: (tokens, heads). `tiles` (blocks, 4): the first token of a
// tile and their number, the first of the row and their number. `scale` is log2(e) / sqrt(width), `factor` 1 / sqrt(width).
// Width and strides are multiples of 8. out: (tokens, heads * width).
#define OF_QUERIES(name, D)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        name(const Half *q, const Half *k, const Half *v, const Half *grad, const float *log_sums,                     \
             const float *deltas, const uint32_t *tiles, Half *out, uint32_t width, uint32_t sharing,                  \
             uint32_t q_stride, uint32_t k_stride, uint32_t v_stride, uint32_t grad_stride, float scale,               \
             float factor) {                                                                                           \
        of_queries<D>(q, k, v, grad, log_sums, deltas, tiles, out, width, sharing, q_stride, k_stride, v_stride,       \
                      grad_stride, scale, factor);                                                                     \
    }

// The same of keys and values: out (2, tokens, kv heads * width).
#define OF_KEYS(name, D, QUERIES)                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        name(const Half *q, const Half *k, const Half *v, const Half *grad, const float *log_sums,                     \
             const float *deltas, const uint32_t *tiles, Half *out, uint32_t width, uint32_t sharing,                  \
             uint32_t tokens, uint32_t q_stride, uint32_t k_stride, uint32_t v_stride, uint32_t grad_stride,           \
             float scale, float factor) {                                                                              \
        of_keys<D, QUERIES>(q, k, v, grad, log_sums, deltas, tiles, out, width, sharing, tokens, q_stride, k_stride,   \
                            v_stride, grad_stride, scale, factor);                                                     \
    }

OF_QUERIES(attention_gradient_queries_64, 64u)
OF_QUERIES(attention_gradient_queries_128, 128u)
OF_KEYS(attention_gradient_keys_64, 64u, 64u)
OF_KEYS(attention_gradient_keys_128, 128u, 32u)
