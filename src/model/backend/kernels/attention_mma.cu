// Attention over packed rows on tensor cores (sm_80 and later), in bf16 with scores and sums in f32, after
// FlashAttention-2 (arXiv 2307.08691): a block of threads holds some queries of one head and goes once over their
// keys, with a running maximum and a running sum, so that no scores are stored.
//
// A row's numbers do not depend on the other rows: each query meets its keys in tiles that begin at its row's first key.

#include "attention.cuh"

// M: sixteens of queries of a warp. D: width of a head, filled up.
template <uint32_t D, uint32_t M>
__device__ __forceinline__ void attend(const Half *q, const Half *k, const Half *v, const Half *kept_k,
                                       const Half *kept_v, const uint32_t *rows, const uint32_t *tiles,
                                       const uint32_t *limits, Half *out, float *log_sums, uint32_t width,
                                       uint32_t sharing, uint32_t q_stride, uint32_t k_stride, uint32_t v_stride, uint32_t kept_stride,
                                       uint32_t out_stride, float scale) {
    constexpr uint32_t QUERIES = WARPS * M * 16u;
    SHARED_BYTES(bytes);
    Half *const queries = (Half *)bytes;                 // (QUERIES, D)
    Half *const keys = queries + QUERIES * D;            // twice (KEYS, D)
    Half *const values = keys + 2u * KEYS * D;           // twice (KEYS, D)

    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, head = blockIdx.y;
    const uint32_t first_query = tiles[blockIdx.x * TILE], query_count = tiles[blockIdx.x * TILE + 1u];
    const uint32_t first_key = tiles[blockIdx.x * TILE + 2u];
    if (query_count == 0) {
        return;
    }
    q += (uint64_t)first_query * q_stride + head * width;
    const uint32_t kv_head = (head / sharing) * width;
    k += kv_head, v += kv_head, kept_k += kv_head, kept_v += kv_head;
    out += (uint64_t)first_query * out_stride + head * width;
    limits += first_query;

    // keys that any query of the tile sees; a limit never falls from one query to the next
    const uint32_t key_count = limits[query_count - 1u];
    // of this lane's queries: rows lane / 4 and lane / 4 + 8 of each sixteen
    uint32_t limit[M][2];
    uint32_t least = key_count;
    for (uint32_t m = 0; m < M; m++) {
        for (uint32_t half = 0; half < 2u; half++) {
            const uint32_t row = (warp * M + m) * 16u + half * 8u + lane / 4u;
            limit[m][half] = row < query_count ? limits[row] : 0u;
            least = min(least, row < query_count ? limit[m][half] : key_count);
        }
    }

    // the keys and values of a tile that begins at key `start`
    const auto fetch_keys = [&](uint32_t stage, uint32_t start) {
        Half *const to_keys = keys + stage * KEYS * D, *const to_values = values + stage * KEYS * D;
        const uint32_t first = first_key + start, count = key_count - start;
        if (rows == nullptr) {
            fetch<D>(to_keys, Neighbours{k + (uint64_t)first * k_stride, k_stride}, KEYS, count, width);
            fetch<D>(to_values, Neighbours{v + (uint64_t)first * v_stride, v_stride}, KEYS, count, width);
        } else {
            fetch<D>(to_keys, Listed{k, kept_k, rows + first, k_stride, kept_stride}, KEYS, count, width);
            fetch<D>(to_values, Listed{v, kept_v, rows + first, v_stride, kept_stride}, KEYS, count, width);
        }
    };
    fetch<D>(queries, Neighbours{q, q_stride}, QUERIES, query_count, width);
    fetch_keys(0, 0);
    end_group();

    float mixed[M][D / 8u][4]; // (16, D) of each sixteen
    float largest[M][2], sum[M][2];
#pragma unroll
    for (uint32_t m = 0; m < M; m++) {
#pragma unroll
        for (uint32_t n = 0; n < D / 8u; n++) {
            mixed[m][n][0] = mixed[m][n][1] = mixed[m][n][2] = mixed[m][n][3] = 0.0f;
        }
        largest[m][0] = largest[m][1] = -INFINITY;
        sum[m][0] = sum[m][1] = 0.0f;
    }

    uint32_t stage = 0;
    for (uint32_t start = 0; start < key_count; start += KEYS, stage ^= 1u) {
        const uint32_t next = start + KEYS;
        if (next < key_count) {
            fetch_keys(stage ^ 1u, next);
        }
        end_group();
        wait_for_groups<1>(); // this tile is there, the next one may be under way
        __syncthreads();
        const Half *const k_tile = keys + stage * KEYS * D, *const v_tile = values + stage * KEYS * D;

        float scores[M][KEYS / 8u][4]; // (16, KEYS) of each sixteen
#pragma unroll
        for (uint32_t m = 0; m < M; m++) {
#pragma unroll
            for (uint32_t n = 0; n < KEYS / 8u; n++) {
                scores[m][n][0] = scores[m][n][1] = scores[m][n][2] = scores[m][n][3] = 0.0f;
            }
        }
#pragma unroll
        for (uint32_t d = 0; d < D / 16u; d++) {
            uint32_t a[M][4];
#pragma unroll
            for (uint32_t m = 0; m < M; m++) {
                load_matrices(a[m], queries + place<D>((warp * M + m) * 16u + lane % 16u, d * 2u + lane / 16u));
            }
#pragma unroll
            for (uint32_t n = 0; n < KEYS / 16u; n++) {
                uint32_t b[4]; // two eights of keys
                load_matrices(b, k_tile + place<D>(n * 16u + lane % 8u + lane / 16u * 8u, d * 2u + lane / 8u % 2u));
#pragma unroll
                for (uint32_t m = 0; m < M; m++) {
                    multiply_add(scores[m][2u * n], a[m], b[0], b[1]);
                    multiply_add(scores[m][2u * n + 1u], a[m], b[2], b[3]);
                }
            }
        }

#pragma unroll
        for (uint32_t m = 0; m < M; m++) {
            if (start + KEYS > least) {
#pragma unroll
                for (uint32_t n = 0; n < KEYS / 8u; n++) {
#pragma unroll
                    for (uint32_t i = 0; i < 4u; i++) {
                        const uint32_t key = start + n * 8u + lane % 4u * 2u + i % 2u;
                        scores[m][n][i] = key < limit[m][i / 2u] ? scores[m][n][i] : -INFINITY;
                    }
                }
            }
            float shrink[2];
#pragma unroll
            for (uint32_t half = 0; half < 2u; half++) {
                float highest = largest[m][half];
#pragma unroll
                for (uint32_t n = 0; n < KEYS / 8u; n++) {
                    highest = fmaxf(highest, fmaxf(scores[m][n][2u * half], scores[m][n][2u * half + 1u]));
                }
                highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1u));
                highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2u));
                // a query that sees nothing yet has no maximum
                const float base = highest == -INFINITY ? 0.0f : highest * scale;
                shrink[half] = power_of_two(largest[m][half] * scale - base);
                largest[m][half] = highest;
                float mass = 0.0f;
#pragma unroll
                for (uint32_t n = 0; n < KEYS / 8u; n++) {
#pragma unroll
                    for (uint32_t i = 2u * half; i < 2u * half + 2u; i++) {
                        scores[m][n][i] = power_of_two(scores[m][n][i] * scale - base);
                        mass += scores[m][n][i];
                    }
                }
                sum[m][half] = sum[m][half] * shrink[half] + mass; // of this lane's keys
            }
#pragma unroll
            for (uint32_t n = 0; n < D / 8u; n++) {
                mixed[m][n][0] *= shrink[0], mixed[m][n][1] *= shrink[0];
                mixed[m][n][2] *= shrink[1], mixed[m][n][3] *= shrink[1];
            }
        }

#pragma unroll
        for (uint32_t key = 0; key < KEYS / 16u; key++) {
            uint32_t a[M][4]; // the scores of 16 keys, as the left factor of a product
#pragma unroll
            for (uint32_t m = 0; m < M; m++) {
                const float *const low = scores[m][2u * key], *const high = scores[m][2u * key + 1u];
                a[m][0] = packed(low[0], low[1]), a[m][1] = packed(low[2], low[3]);
                a[m][2] = packed(high[0], high[1]), a[m][3] = packed(high[2], high[3]);
            }
#pragma unroll
            for (uint32_t n = 0; n < D / 16u; n++) {
                uint32_t b[4]; // two eights of columns
                load_matrices_transposed(b, v_tile + place<D>(key * 16u + lane % 16u, n * 2u + lane / 16u));
#pragma unroll
                for (uint32_t m = 0; m < M; m++) {
                    multiply_add(mixed[m][2u * n], a[m], b[0], b[1]);
                    multiply_add(mixed[m][2u * n + 1u], a[m], b[2], b[3]);
                }
            }
        }
        __syncthreads(); // before the tile is overwritten
    }

#pragma unroll
    for (uint32_t m = 0; m < M; m++) {
#pragma unroll
        for (uint32_t half = 0; half < 2u; half++) {
            float mass = sum[m][half];
            mass += __shfl_xor_sync(0xffffffffu, mass, 1u);
            mass += __shfl_xor_sync(0xffffffffu, mass, 2u);
            const float share = mass == 0.0f ? 0.0f : 1.0f / mass;
            const uint32_t row = (warp * M + m) * 16u + half * 8u + lane / 4u;
            if (log_sums != nullptr && row < query_count && lane % 4u == 0) {
                log_sums[(uint64_t)(first_query + row) * gridDim.y + head] = largest[m][half] * scale + log2f(mass);
            }
#pragma unroll
            for (uint32_t n = 0; n < D / 8u; n++) {
                const uint32_t column = n * 8u + lane % 4u * 2u;
                if (row < query_count && column < width) {
                    *(uint32_t *)(out + (uint64_t)row * out_stride + column) =
                        packed(mixed[m][n][2u * half] * share, mixed[m][n][2u * half + 1u] * share);
                }
            }
        }
    }
}

// q (queries, heads * width), k and v (tokens, kv heads * width), kept_k and kept_v (slots, kv heads * width) of the store,
// rows `*_stride` numbers apart; each kv head is shared by `sharing` query heads. `rows` (keys): of each key its token, or
// with the highest bit set its slot; if it is null, keys are tokens. `tiles` (blocks, 4); `limits` (queries): so many keys,
// from its row's first on, a query sees. `scale` is log2(e) / sqrt(width). Width and strides are multiples of 8.
#define ATTENTION(name, D, M)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        name(const Half *q, const Half *k, const Half *v, const Half *kept_k, const Half *kept_v, const uint32_t *rows,\
             const uint32_t *tiles, const uint32_t *limits, Half *out, uint32_t width, uint32_t sharing,               \
             uint32_t q_stride, uint32_t k_stride, uint32_t v_stride, uint32_t kept_stride, uint32_t out_stride,       \
             float scale) {                                                                                            \
        attend<D, M>(q, k, v, kept_k, kept_v, rows, tiles, limits, out, nullptr, width, sharing, q_stride, k_stride,   \
                     v_stride, kept_stride, out_stride, scale);                                                                  \
    }

ATTENTION(attention_mma_64_short, 64u, 1u)
ATTENTION(attention_mma_64_long, 64u, 2u)
ATTENTION(attention_mma_128_short, 128u, 1u)
ATTENTION(attention_mma_128_long, 128u, 2u)

// The same of keys that are tokens, with the logarithms of the sums, log_sums (queries, heads), to base 2: those of
// exp(q k^T / sqrt(width)). For training.
#define ATTENTION_SUMS(name, D)                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        name(const Half *q, const Half *k, const Half *v, const uint32_t *tiles, const uint32_t *limits, Half *out,    \
             float *log_sums, uint32_t width, uint32_t sharing, uint32_t q_stride, uint32_t k_stride,                  \
             uint32_t v_stride, uint32_t out_stride, float scale) {                                                    \
        attend<D, 1u>(q, k, v, nullptr, nullptr, nullptr, tiles, limits, out, log_sums, width, sharing, q_stride,      \
                      k_stride, v_stride, 0, out_stride, scale);                                                       \
    }

ATTENTION_SUMS(attention_mma_sums_64, 64u)
ATTENTION_SUMS(attention_mma_sums_128, 128u)
