// What a layer computes between its products, each in one read and one write: norms with the residual stream, rotary
// angles, gated activations, and the last steps of the quality head; and copies of rows by their indices. Arithmetic is in f32.
//
// Each kernel has a wide form for rows whose width and places are multiples of 16 bytes: a thread reads so much at once.

#include "device.cuh"

constexpr uint32_t THREADS = 256;

// The norm of a row of x (width): RMS, or with a bias LayerNorm.
template <uint32_t N, typename T, typename W, typename U>
__device__ void normed(const T *x, const W *weight, const W *bias, U *out, uint32_t width, float eps) {
    __shared__ float scratch[THREADS / WARP];
    const uint32_t first = threadIdx.x * N, step = THREADS * N;
    float sum = 0.0f;
    if (bias != nullptr) {
        for (uint32_t at = first; at < width; at += step) {
            const Pack<T, N> values = pack<N>(x, at);
#pragma unroll
            for (uint32_t i = 0; i < N; i++) {
                sum += widened(values.at[i]);
            }
        }
        sum = summed(sum, scratch);
    }
    const float mean = sum / (float)width; // of an RMS norm 0
    float squares = 0.0f;
    for (uint32_t at = first; at < width; at += step) {
        const Pack<T, N> values = pack<N>(x, at);
#pragma unroll
        for (uint32_t i = 0; i < N; i++) {
            const float off = widened(values.at[i]) - mean;
            squares += off * off;
        }
    }
    const float scale = 1.0f / sqrtf(summed(squares, scratch) / (float)width + eps);
    for (uint32_t at = first; at < width; at += step) {
        const Pack<T, N> values = pack<N>(x, at);
        Pack<U, N> results;
#pragma unroll
        for (uint32_t i = 0; i < N; i++) {
            const float scaled = (widened(values.at[i]) - mean) * scale * widened(weight[at + i]);
            store(results.at[i], bias != nullptr ? scaled + widened(bias[at + i]) : scaled);
        }
        *(Pack<U, N> *)(out + at) = results;
    }
}

// Rows of x, `stride` numbers apart; weight and bias (width), the bias null for RMS; out (rows, width).
template <uint32_t N, typename T, typename W, typename U>
__device__ void norm(const T *x, const W *weight, const W *bias, U *out, uint32_t width, uint32_t stride, float eps) {
    normed<N>(x + (uint64_t)blockIdx.x * stride, weight, bias, out + (uint64_t)blockIdx.x * width, width, eps);
}

// x + update, and its norm: out (2, rows, width).
template <uint32_t N, typename T>
__device__ void add_norm(const T *x, const T *update, const T *weight, const T *bias, T *out, uint32_t width,
                         uint32_t x_stride, uint32_t update_stride, float eps) {
    x += (uint64_t)blockIdx.x * x_stride, update += (uint64_t)blockIdx.x * update_stride;
    out += (uint64_t)blockIdx.x * width;
    for (uint32_t at = threadIdx.x * N; at < width; at += THREADS * N) {
        const Pack<T, N> values = pack<N>(x, at), updates = pack<N>(update, at);
        Pack<T, N> sums;
#pragma unroll
        for (uint32_t i = 0; i < N; i++) {
            store(sums.at[i], widened(values.at[i]) + widened(updates.at[i]));
        }
        *(Pack<T, N> *)(out + at) = sums;
    }
    // each thread reads what it wrote itself
    normed<N>((const T *)out, weight, bias, out + (uint64_t)gridDim.x * width, width, eps);
}

// Rotates the halves of each head: out (tokens, heads, width), where the first `q_heads` heads come from q and the others
// from k, with the angles (tokens, width / 2) of their tokens, times `sign`: 1, or -1 to rotate back.
template <uint32_t N, typename T>
__device__ void rotate(const T *q, const T *k, const float *cosines, const float *sines, T *out, uint32_t heads,
                       uint32_t q_heads, uint32_t width, uint32_t q_stride, uint32_t k_stride, float sign) {
    const uint32_t half = width / 2u;
    const uint64_t token = blockIdx.x;
    cosines += token * half, sines += token * half;
    for (uint32_t at = threadIdx.x * N; at < heads * half; at += THREADS * N) {
        const uint32_t head = at / half, pair = at % half;
        const T *const from =
            head < q_heads ? q + token * q_stride + head * width : k + token * k_stride + (head - q_heads) * width;
        T *const to = out + (token * heads + head) * width;
        const Pack<T, N> a = pack<N>(from, pair), b = pack<N>(from, pair + half);
        Pack<T, N> low, high;
#pragma unroll
        for (uint32_t i = 0; i < N; i++) {
            const float cosine = cosines[pair + i], sine = sign * sines[pair + i];
            store(low.at[i], widened(a.at[i]) * cosine - widened(b.at[i]) * sine);
            store(high.at[i], widened(a.at[i]) * sine + widened(b.at[i]) * cosine);
        }
        *(Pack<T, N> *)(to + pair) = low;
        *(Pack<T, N> *)(to + pair + half) = high;
    }
}

// silu(gate) * up: out (rows, width).
template <uint32_t N, typename T>
__device__ void gated(const T *gate, const T *up, T *out, uint32_t width, uint32_t gate_stride, uint32_t up_stride) {
    const uint64_t row = blockIdx.x;
    gate += row * gate_stride, up += row * up_stride, out += row * width;
    for (uint32_t at = (blockIdx.y * THREADS + threadIdx.x) * N; at < width; at += gridDim.y * THREADS * N) {
        const Pack<T, N> gates = pack<N>(gate, at), ups = pack<N>(up, at);
        Pack<T, N> results;
#pragma unroll
        for (uint32_t i = 0; i < N; i++) {
            const float x = widened(gates.at[i]);
            store(results.at[i], x / (1.0f + expf(-x)) * widened(ups.at[i]));
        }
        *(Pack<T, N> *)(out + at) = results;
    }
}

// Rows of x, `stride` numbers apart, by their indices: out (rows, width).
template <uint32_t N, typename T>
__device__ void gather(const T *x, const uint32_t *index, T *out, uint32_t width, uint32_t stride) {
    x += (uint64_t)index[blockIdx.x] * stride, out += (uint64_t)blockIdx.x * width;
    for (uint32_t at = threadIdx.x * N; at < width; at += THREADS * N) {
        *(Pack<T, N> *)(out + at) = pack<N>(x, at);
    }
}

// Copies keys and values of tokens into slots of the store: rows of k and v, `k_stride` and `v_stride` numbers apart, to
// rows of kept_k and kept_v, `kept_stride` apart. `kept` (rows, 2): a token, and its slot plus 1; 0 is no slot.
template <uint32_t N, typename T>
__device__ void keep(const T *k, const T *v, const uint32_t *kept, T *kept_k, T *kept_v, uint32_t width,
                     uint32_t k_stride, uint32_t v_stride, uint32_t kept_stride) {
    const uint64_t token = kept[2u * blockIdx.x], slot = kept[2u * blockIdx.x + 1u];
    if (slot == 0) {
        return;
    }
    k += token * k_stride, v += token * v_stride;
    kept_k += (slot - 1u) * kept_stride, kept_v += (slot - 1u) * kept_stride;
    for (uint32_t at = threadIdx.x * N; at < width; at += THREADS * N) {
        *(Pack<T, N> *)(kept_k + at) = pack<N>(k, at);
        *(Pack<T, N> *)(kept_v + at) = pack<N>(v, at);
    }
}

#define NORM(name, T, W, U, WIDE)                                                                                      \
    extern "C" __global__ void name(const T *x, const W *weight, const W *bias, U *out, uint32_t width,                 \
                                    uint32_t stride, float eps) {                                                      \
        norm<PACK<T, WIDE>>(x, weight, bias, out, width, stride, eps);                                          \
    }
NORM(norm_f32, float, float, float, false)
NORM(norm_f32_wide, float, float, float, true)
NORM(norm_bf16, Half, Half, Half, false)
NORM(norm_bf16_wide, Half, Half, Half, true)
NORM(norm_bf16_f32, Half, float, float, false)
NORM(norm_f32_bf16, float, float, Half, false)
NORM(norm_f32_bf16_wide, float, float, Half, true)

#define ADD_NORM(name, T, WIDE)                                                                                        \
    extern "C" __global__ void name(const T *x, const T *update, const T *weight, const T *bias, T *out,                \
                                    uint32_t width, uint32_t x_stride, uint32_t update_stride, float eps) {            \
        add_norm<PACK<T, WIDE>>(x, update, weight, bias, out, width, x_stride, update_stride, eps);             \
    }
ADD_NORM(add_norm_f32, float, false)
ADD_NORM(add_norm_f32_wide, float, true)
ADD_NORM(add_norm_bf16, Half, false)
ADD_NORM(add_norm_bf16_wide, Half, true)

#define ROTATE(name, T, WIDE)                                                                                          \
    extern "C" __global__ void name(const T *q, const T *k, const float *cosines, const float *sines, T *out,           \
                                    uint32_t heads, uint32_t q_heads, uint32_t width, uint32_t q_stride,               \
                                    uint32_t k_stride, float sign) {                                                   \
        rotate<PACK<T, WIDE>>(q, k, cosines, sines, out, heads, q_heads, width, q_stride, k_stride, sign);      \
    }
ROTATE(rotate_f32, float, false)
ROTATE(rotate_f32_wide, float, true)
ROTATE(rotate_bf16, Half, false)
ROTATE(rotate_bf16_wide, Half, true)

#define GATED(name, T, WIDE)                                                                                           \
    extern "C" __global__ void name(const T *gate, const T *up, T *out, uint32_t width, uint32_t gate_stride,           \
                                    uint32_t up_stride) {                                                              \
        gated<PACK<T, WIDE>>(gate, up, out, width, gate_stride, up_stride);                                     \
    }
GATED(gated_f32, float, false)
GATED(gated_f32_wide, float, true)
GATED(gated_bf16, Half, false)
GATED(gated_bf16_wide, Half, true)

#define GATHER(name, T, WIDE)                                                                                          \
    extern "C" __global__ void name(const T *x, const uint32_t *index, T *out, uint32_t width, uint32_t stride) {       \
        gather<PACK<T, WIDE>>(x, index, out, width, stride);                                                           \
    }
GATHER(gather_f32, float, false)
GATHER(gather_f32_wide, float, true)
GATHER(gather_bf16, Half, false)
GATHER(gather_bf16_wide, Half, true)

#define KEEP(name, T, WIDE)                                                                                            \
    extern "C" __global__ void name(const T *k, const T *v, const uint32_t *kept, T *kept_k, T *kept_v,                \
                                    uint32_t width, uint32_t k_stride, uint32_t v_stride, uint32_t kept_stride) {      \
        keep<PACK<T, WIDE>>(k, v, kept, kept_k, kept_v, width, k_stride, v_stride, kept_stride);                       \
    }
KEEP(keep_f32, float, false)
KEEP(keep_f32_wide, float, true)
KEEP(keep_bf16, Half, false)
KEEP(keep_bf16_wide, Half, true)

// gelu(x + bias) w + c of rows x (rows, width): out (rows).
extern "C" __global__ void scored(const float *x, const float *bias, const float *weight, const float *last, float *out,
                                  uint32_t width) {
    __shared__ float scratch[THREADS / WARP];
    const float *const row = x + (uint64_t)blockIdx.x * width;
    float sum = 0.0f;
    for (uint32_t at = threadIdx.x; at < width; at += THREADS) {
        const float inner = row[at] + bias[at];
        sum += 0.5f * inner * (1.0f + erff(inner * 0.7071067811865476f)) * weight[at];
    }
    sum = summed(sum, scratch);
    if (threadIdx.x == 0) {
        out[blockIdx.x] = sum + last[0];
    }
}
