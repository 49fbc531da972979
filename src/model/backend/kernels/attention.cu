// Attention over packed rows in plain arithmetic, for any GPU and any width: a block of threads holds some queries of one
// head and goes once over their keys, with a running maximum and a running sum, so that no scores are stored.
//
// A row's numbers do not depend on the other rows: each query meets its keys in tiles that begin at its row's first key.

#include "device.cuh"

constexpr uint32_t THREADS = 128;
// Queries of a block, and keys that are looked at together.
constexpr uint32_t QUERIES = 16, KEYS = 32;
// Numbers of a head at most.
constexpr uint32_t WIDTH_MAX = 256;
// Columns of the result that a thread holds at most.
constexpr uint32_t COLUMNS_MAX = WIDTH_MAX / THREADS;

// The number of a key's row: of those that `rows` name, or if it is null the key's own.
__device__ __forceinline__ uint32_t row_number(const uint32_t *rows, uint32_t key) {
    return rows == nullptr ? key : rows[key];
}

template <typename T>
__device__ void attend_plain(const T *q, const T *k, const T *v, const T *kept_k, const T *kept_v, const uint32_t *rows,
                             const uint32_t *tiles, const uint32_t *limits, T *out, uint32_t width, uint32_t sharing,
                             uint32_t q_stride, uint32_t k_stride, uint32_t v_stride, uint32_t kept_stride,
                             uint32_t out_stride, float scale, uint32_t parts) {
    __shared__ float queries[QUERIES][WIDTH_MAX];
    __shared__ float scores[QUERIES][KEYS];
    __shared__ float shrinks[QUERIES], sums[QUERIES];

    const uint32_t thread = threadIdx.x, head = blockIdx.y;
    const uint32_t *const tile = tiles + blockIdx.x / parts * 4u;
    const uint32_t skipped = blockIdx.x % parts * QUERIES; // queries of the tile that other blocks take
    if (skipped >= tile[1]) {
        return;
    }
    const uint32_t first_query = tile[0] + skipped, query_count = min(tile[1] - skipped, QUERIES);
    const uint32_t first_key = tile[2];
    q += (uint64_t)first_query * q_stride + head * width;
    const uint32_t kv_head = (head / sharing) * width;
    k += kv_head, v += kv_head, kept_k += kv_head, kept_v += kv_head;
    out += (uint64_t)first_query * out_stride + head * width;
    limits += first_query;
    const uint32_t key_count = limits[query_count - 1u]; // a limit never falls from one query to the next

    for (uint32_t at = thread; at < QUERIES * width; at += THREADS) {
        const uint32_t row = at / width;
        queries[row][at % width] = row < query_count ? widened(q[(uint64_t)row * q_stride + at % width]) : 0.0f;
    }
    float mixed[QUERIES][COLUMNS_MAX];
#pragma unroll
    for (uint32_t row = 0; row < QUERIES; row++) {
#pragma unroll
        for (uint32_t column = 0; column < COLUMNS_MAX; column++) {
            mixed[row][column] = 0.0f;
        }
    }
    // eight threads have a query, each four of its keys
    const uint32_t row = thread / 8u, part = thread % 8u;
    const uint32_t limit = row < query_count ? limits[row] : 0u;
    float largest = -INFINITY, sum = 0.0f;
    __syncthreads();

    for (uint32_t start = 0; start < key_count; start += KEYS) {
        float own[KEYS / 8u], highest = largest;
#pragma unroll
        for (uint32_t i = 0; i < KEYS / 8u; i++) {
            const uint32_t key = start + i * 8u + part;
            own[i] = -INFINITY;
            if (key < limit) {
                const T *const own_key = row_of(k, kept_k, row_number(rows, first_key + key), k_stride, kept_stride);
                float score = 0.0f;
                for (uint32_t column = 0; column < width; column++) {
                    score += queries[row][column] * widened(own_key[column]);
                }
                own[i] = score * scale;
            }
            highest = fmaxf(highest, own[i]);
        }
        for (uint32_t distance = 4u; distance > 0; distance /= 2u) {
            highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, distance));
        }
        const float base = highest == -INFINITY ? 0.0f : highest; // a query that sees nothing yet has no maximum
        const float shrink = exp2f(largest - base);
        float mass = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < KEYS / 8u; i++) {
            const float weight = exp2f(own[i] - base);
            scores[row][i * 8u + part] = weight;
            mass += weight;
        }
        for (uint32_t distance = 4u; distance > 0; distance /= 2u) {
            mass += __shfl_xor_sync(0xffffffffu, mass, distance);
        }
        largest = highest, sum = sum * shrink + mass;
        if (part == 0) {
            shrinks[row] = shrink;
        }
        __syncthreads();
        const uint32_t keys = min(KEYS, key_count - start);
#pragma unroll
        for (uint32_t i = 0; i < COLUMNS_MAX; i++) {
            const uint32_t column = thread + i * THREADS;
            if (column < width) {
#pragma unroll
                for (uint32_t query = 0; query < QUERIES; query++) {
                    mixed[query][i] *= shrinks[query];
                }
                for (uint32_t key = 0; key < keys; key++) {
                    const uint32_t from = row_number(rows, first_key + start + key);
                    const float value = widened(row_of(v, kept_v, from, v_stride, kept_stride)[column]);
#pragma unroll
                    for (uint32_t query = 0; query < QUERIES; query++) {
                        mixed[query][i] += scores[query][key] * value;
                    }
                }
            }
        }
        __syncthreads(); // before the scores are overwritten
    }
    if (part == 0) {
        sums[row] = sum;
    }
    __syncthreads();
#pragma unroll
    for (uint32_t i = 0; i < COLUMNS_MAX; i++) {
        const uint32_t column = thread + i * THREADS;
#pragma unroll
        for (uint32_t query = 0; query < QUERIES; query++) {
            if (column < width && query < query_count) {
                store(out[(uint64_t)query * out_stride + column],
                      sums[query] == 0.0f ? 0.0f : mixed[query][i] / sums[query]);
            }
        }
    }
}

// q (queries, heads * width), k and v (tokens, kv heads * width), kept_k and kept_v (slots, kv heads * width) of the store,
// rows `*_stride` numbers apart; each kv head is shared by `sharing` query heads. `rows` (keys): of each key its token, or
// with the highest bit set its slot; if it is null, keys are tokens. `tiles` (tiles, 4): a tile's first query, their number,
// the first key of their row, the number of keys; each tile has `parts` blocks. `limits` (queries): so many keys, from its
// row's first on, a query sees. `scale` is log2(e) / sqrt(width).
#define PLAIN(name, T)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        name(const T *q, const T *k, const T *v, const T *kept_k, const T *kept_v, const uint32_t *rows,               \
             const uint32_t *tiles, const uint32_t *limits, T *out, uint32_t width, uint32_t sharing,                  \
             uint32_t q_stride, uint32_t k_stride, uint32_t v_stride, uint32_t kept_stride, uint32_t out_stride,       \
             float scale, uint32_t parts) {                                                                            \
        attend_plain(q, k, v, kept_k, kept_v, rows, tiles, limits, out, width, sharing, q_stride, k_stride, v_stride,  \
                     kept_stride, out_stride, scale, parts);                                                           \
    }

PLAIN(attention_f32, float)
PLAIN(attention_bf16, Half)
