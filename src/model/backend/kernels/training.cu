// What training computes between its products, with the gradients: RMS norms, gated activations, the residual stream,
// cross-entropies, sums of rows by an index, and steps of AdamW. Arithmetic is in f32, long sums in f64. The order of a sum
// depends on the shapes alone.
//
// Some kernels have a wide form for rows whose width and places are multiples of a pack: a thread reads so much at once.

#include "device.cuh"

constexpr uint32_t THREADS = 256, THREADS_MAX = 1024;
constexpr uint32_t WARPS_MAX = THREADS_MAX / WARP;

// The lowest finite number.
constexpr float LOWEST = -3.402823466e38f;
constexpr uint32_t NONE = 0xffffffffu;

// Numbers of a pack where formats are mixed: one, or 16 bytes of f32.
constexpr uint32_t FOUR = 4;

// The sums of a and of b over the threads of a block, as `summed`, at the cost of one; `scratch` has two places for each warp.
__device__ __forceinline__ void both_summed(float &a, float &b, float *scratch) {
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    for (uint32_t distance = WARP / 2; distance > 0; distance /= 2) {
        a += __shfl_xor_sync(0xffffffffu, a, distance);
        b += __shfl_xor_sync(0xffffffffu, b, distance);
    }
    __syncthreads(); // what was in `scratch` before has been read
    if (lane == 0) {
        scratch[2 * warp] = a, scratch[2 * warp + 1] = b;
    }
    __syncthreads();
    a = b = 0.0f;
    for (uint32_t other = 0; other < warps; other++) {
        a += scratch[2 * other], b += scratch[2 * other + 1];
    }
}

// The sum of `x` over the threads of a block, a power of two, for its first thread. All threads must come here, once.
__device__ __forceinline__ double total(double x, double *scratch) {
    scratch[threadIdx.x] = x;
    for (uint32_t half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            scratch[threadIdx.x] += scratch[threadIdx.x + half];
        }
    }
    return scratch[0];
}

// The gradients of RMS norms. With s = 1 / sqrt(mean(x^2) + eps), that of x is s (g w - x s^2 mean(g w x)), plus what is
// carried unless that is null; and that of the gain w is the sum over rows of g x s. A block takes `chunk` rows.
//
// x, grad and carried (rows, width) have rows at their strides; out (rows, width) is the gradient of x. With `has_gain` rows of
// out follow that have each block's share of the gain's gradient. Shared memory: two numbers for each warp of the largest
// block, then with `has_gain` those of a row.
template <uint32_t N, typename G>
__device__ void rms_gradient(const float *x, const float *gain, const G *grad, const float *carried, float *out,
                             uint32_t rows, uint32_t width, uint32_t chunk, uint32_t has_gain, uint32_t x_stride,
                             uint32_t grad_stride, uint32_t carried_stride, float eps) {
    SHARED_BYTES(bytes);
    float *const scratch = (float *)bytes;
    float *const of_gain = scratch + 2 * THREADS / WARP; // each thread reads and writes its own columns only
    const uint32_t first = threadIdx.x * N, step = blockDim.x * N;
    if (has_gain != 0) {
        for (uint32_t at = first; at < width; at += step) {
#pragma unroll
            for (uint32_t i = 0; i < N; i++) {
                of_gain[at + i] = 0.0f;
            }
        }
    }
    const uint64_t from = (uint64_t)blockIdx.x * chunk, until = min(from + chunk, (uint64_t)rows);
    for (uint64_t row = from; row < until; row++) {
        const float *const xs = x + row * x_stride, *const others = carried + (carried != nullptr ? row * carried_stride : 0);
        const G *const grads = grad + row * grad_stride;
        float squares = 0.0f, along = 0.0f;
        for (uint32_t at = first; at < width; at += step) {
            const Pack<float, N> values = pack<N>(xs, at);
            const Pack<G, N> slopes = pack<N>(grads, at);
#pragma unroll
            for (uint32_t i = 0; i < N; i++) {
                squares += values.at[i] * values.at[i];
                along += widened(slopes.at[i]) * gain[at + i] * values.at[i];
            }
        }
        both_summed(squares, along, scratch);
        const float scale = 1.0f / sqrtf(squares / (float)width + eps);
        along *= scale * scale / (float)width;
        for (uint32_t at = first; at < width; at += step) {
            const Pack<float, N> values = pack<N>(xs, at);
            const Pack<G, N> slopes = pack<N>(grads, at);
            Pack<float, N> results{};
            if (carried != nullptr) {
                results = pack<N>(others, at);
            }
#pragma unroll
            for (uint32_t i = 0; i < N; i++) {
                const float slope = widened(slopes.at[i]);
                results.at[i] += scale * (slope * gain[at + i] - values.at[i] * along);
                if (has_gain != 0) {
                    of_gain[at + i] += slope * values.at[i] * scale;
                }
            }
            *(Pack<float, N> *)(out + row * width + at) = results;
        }
    }
    if (has_gain != 0) {
        out += ((uint64_t)rows + blockIdx.x) * width;
        for (uint32_t at = first; at < width; at += step) {
#pragma unroll
            for (uint32_t i = 0; i < N; i++) {
                out[at + i] = of_gain[at + i];
            }
        }
    }
}

// The sum of each column of x (rows, width): out (width). A block of 32 warps takes 32 columns.
extern "C" __global__ void __launch_bounds__(1024) column_sums(const float *x, float *out, uint32_t rows, uint32_t width) {
    __shared__ float sums[WARP][WARP + 1];
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, first = blockIdx.x * WARP;
    float sum = 0.0f;
    if (first + lane < width) {
#pragma unroll 4
        for (uint32_t row = warp; row < rows; row += WARP) {
            sum += x[(uint64_t)row * width + first + lane];
        }
    }
    sums[warp][lane] = sum;
    __syncthreads();
    sum = sums[lane][warp]; // of another column: each warp adds up its own
    for (uint32_t distance = WARP / 2; distance > 0; distance /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    }
    if (lane == 0 && first + warp < width) {
        out[first + warp] = sum;
    }
}

// The sum of each row of x (rows, width), or its square root: out (rows).
extern "C" __global__ void __launch_bounds__(1024) row_sums(const float *x, float *out, uint32_t width, uint32_t is_root) {
    __shared__ double scratch[THREADS_MAX];
    x += (uint64_t)blockIdx.x * width;
    double sum = 0.0;
#pragma unroll 4
    for (uint32_t at = threadIdx.x; at < width; at += blockDim.x) {
        sum += (double)x[at];
    }
    sum = total(sum, scratch);
    if (threadIdx.x == 0) {
        out[blockIdx.x] = (float)(is_root != 0 ? sqrt(sum) : sum);
    }
}

// Where a thread works whose block takes THREADS packs of N numbers of rows: a row, and a place in it.
struct Place {
    uint64_t row;
    uint32_t at;
};

template <uint32_t N>
__device__ __forceinline__ Place place(uint32_t width) {
    const uint32_t item = blockIdx.x * THREADS + threadIdx.x, packs = width / N;
    return {item / packs, item % packs * N};
}

// The gradients of silu(gate) * up: out (2, rows, width), that of gate first. With s the sigmoid of the gate x they are
// g up s (1 + x (1 - s)) and g x s.
template <uint32_t N, typename T>
__device__ void swiglu_gradient(const T *gate, const T *up, const T *grad, T *out, uint32_t rows, uint32_t width,
                                uint32_t gate_stride, uint32_t up_stride, uint32_t grad_stride) {
    const auto [row, at] = place<N>(width);
    if (row >= rows) {
        return;
    }
    const Pack<T, N> gates = pack<N>(gate + row * gate_stride, at), ups = pack<N>(up + row * up_stride, at);
    const Pack<T, N> grads = pack<N>(grad + row * grad_stride, at);
    Pack<T, N> of_gate, of_up;
#pragma unroll
    for (uint32_t i = 0; i < N; i++) {
        const float x = widened(gates.at[i]), slope = widened(grads.at[i]), s = 1.0f / (1.0f + expf(-x));
        store(of_gate.at[i], slope * widened(ups.at[i]) * s * (1.0f + x * (1.0f - s)));
        store(of_up.at[i], slope * x * s);
    }
    out += row * width + at;
    *(Pack<T, N> *)out = of_gate;
    *(Pack<T, N> *)(out + (uint64_t)rows * width) = of_up;
}

// x + update: out (rows, width).
template <uint32_t N, typename U>
__device__ void added(const float *x, const U *update, float *out, uint32_t rows, uint32_t width, uint32_t x_stride,
                      uint32_t update_stride) {
    const auto [row, at] = place<N>(width);
    if (row >= rows) {
        return;
    }
    Pack<float, N> sums = pack<N>(x + row * x_stride, at);
    const Pack<U, N> updates = pack<N>(update + row * update_stride, at);
#pragma unroll
    for (uint32_t i = 0; i < N; i++) {
        sums.at[i] += widened(updates.at[i]);
    }
    *(Pack<float, N> *)(out + row * width + at) = sums;
}

// Of logits: the largest, the sum of exp(logit - largest), and the first place of the largest.
struct Mass {
    float largest, mass;
    uint32_t first;
};

// Of the logits of both.
__device__ __forceinline__ Mass merged(Mass a, Mass b) {
    Mass both;
    both.largest = a.largest < b.largest ? b.largest : a.largest;
    both.mass = a.mass * expf(a.largest - both.largest) + b.mass * expf(b.largest - both.largest);
    both.first = a.largest == b.largest ? min(a.first, b.first) : a.largest < b.largest ? b.first : a.first;
    return both;
}

// Of the logits of all lanes of a warp.
__device__ __forceinline__ Mass merged_by_warp(Mass own) {
    for (uint32_t distance = WARP / 2; distance > 0; distance /= 2) {
        Mass other;
        other.largest = __shfl_xor_sync(0xffffffffu, own.largest, distance);
        other.mass = __shfl_xor_sync(0xffffffffu, own.mass, distance);
        other.first = __shfl_xor_sync(0xffffffffu, own.first, distance);
        own = merged(own, other);
    }
    return own;
}

// Of a row of logits (width), read once. A NaN or an infinite logit makes the mass NaN.
template <uint32_t N, typename T>
__device__ Mass mass_of(const T *logits, uint32_t width) {
    __shared__ float largest[WARPS_MAX], mass[WARPS_MAX];
    __shared__ uint32_t first[WARPS_MAX];
    Mass own{LOWEST, 0.0f, NONE};
    for (uint32_t at = threadIdx.x * N; at < width; at += blockDim.x * N) {
        const Pack<T, N> values = pack<N>(logits, at);
        float highest = own.largest;
#pragma unroll
        for (uint32_t i = 0; i < N; i++) {
            const float logit = widened(values.at[i]);
            if (logit > highest) {
                highest = logit, own.first = at + i;
            }
        }
        if (highest > own.largest) {
            own.mass *= expf(own.largest - highest), own.largest = highest;
        }
#pragma unroll
        for (uint32_t i = 0; i < N; i++) {
            own.mass += expf(widened(values.at[i]) - highest);
        }
    }
    own = merged_by_warp(own);
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    if (lane == 0) {
        largest[warp] = own.largest, mass[warp] = own.mass, first[warp] = own.first;
    }
    __syncthreads();
    return merged_by_warp(lane < warps ? Mass{largest[lane], mass[lane], first[lane]} : Mass{LOWEST, 0.0f, NONE});
}

// Of each row of logits, `stride` numbers apart: weight x cross-entropy and cross-entropy in nats, and whether the target is
// the first of the most probable tokens: out (3, rows). A block takes a row. A target that is no token gives NaN.
template <uint32_t N, typename T>
__device__ void cross_entropy(const T *logits, const uint32_t *targets, const float *weights, float *out, uint32_t width,
                              uint32_t stride) {
    const uint64_t row = blockIdx.x, rows = gridDim.x;
    logits += row * stride;
    const Mass of = mass_of<N>(logits, width);
    if (threadIdx.x == 0) {
        const uint32_t target = targets[row];
        const float logit = target < width ? widened(logits[target]) : widened(Half{0x7fc0});
        const float nats = logf(of.mass) + (of.largest - logit);
        out[row] = weights[row] * nats;
        out[rows + row] = nats;
        out[2 * rows + row] = of.first == target ? 1.0f : 0.0f;
    }
}

// factor x weight x (softmax - 1 at the target) of each row of logits: out (rows, width). A block takes a row.
template <uint32_t N, typename T>
__device__ void cross_entropy_gradient(const T *logits, const uint32_t *targets, const float *weights, T *out,
                                       uint32_t width, uint32_t stride, float factor) {
    const uint64_t row = blockIdx.x;
    logits += row * stride, out += row * width;
    const Mass of = mass_of<N>(logits, width);
    const uint32_t target = targets[row];
    const float scale = factor * weights[row], share = scale / of.mass;
    for (uint32_t at = threadIdx.x * N; at < width; at += blockDim.x * N) {
        const Pack<T, N> values = pack<N>(logits, at);
        Pack<T, N> results;
#pragma unroll
        for (uint32_t i = 0; i < N; i++) {
            const float p = expf(widened(values.at[i]) - of.largest) * share;
            store(results.at[i], at + i == target ? p - scale : p);
        }
        *(Pack<T, N> *)(out + at) = results;
    }
}

// Sums of rows of x, `stride` numbers apart: row i of out (lists, width) is the sum of the rows that `sources` names from
// starts[i] to starts[i + 1], in this order; without sources, of the rows of these numbers themselves.
template <uint32_t N, typename T>
__device__ void scatter(const T *x, const uint32_t *starts, const uint32_t *sources, float *out, uint32_t width,
                        uint32_t stride) {
    const uint32_t at = (blockIdx.y * blockDim.x + threadIdx.x) * N;
    if (at >= width) {
        return;
    }
    Pack<float, N> sums{};
    const uint32_t until = starts[blockIdx.x + 1];
#pragma unroll 4
    for (uint32_t place = starts[blockIdx.x]; place < until; place++) {
        const uint32_t row = sources != nullptr ? sources[place] : place;
        const Pack<T, N> values = pack<N>(x + (uint64_t)row * stride, at);
#pragma unroll
        for (uint32_t i = 0; i < N; i++) {
            sums.at[i] += widened(values.at[i]);
        }
    }
    *(Pack<float, N> *)(out + (uint64_t)blockIdx.x * width + at) = sums;
}

// Sums of squares of x (count): out (blocks), whose sum is that of all.
extern "C" __global__ void squares(const float *x, float *out, uint32_t count) {
    constexpr uint32_t EACH = 8; // so many in f32 before they are added up in f64
    __shared__ double scratch[THREADS];
    double sum = 0.0;
    const uint64_t step = (uint64_t)gridDim.x * THREADS * EACH;
    for (uint64_t from = (uint64_t)blockIdx.x * THREADS * EACH + threadIdx.x; from < count; from += step) {
        float some = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < EACH; i++) {
            const uint64_t at = from + i * THREADS;
            const float number = at < count ? x[at] : 0.0f;
            some += number * number;
        }
        sum += (double)some;
    }
    sum = total(sum, scratch);
    if (threadIdx.x == 0) {
        out[blockIdx.x] = (float)sum;
    }
}

// A step of AdamW: changes state (4, count), which has the parameters, the first and the second moments, and the averages of
// the parameters. Gradients (count), of this norm (1), are scaled down to `clip` at most; if the norm is not finite, nothing
// changes. `rate` is the learning rate / (1 - beta1^steps), `unbias` is 1 - beta2^steps; the first `decayed` parameters decay.
extern "C" __global__ void adam(const float *gradients, const float *norm, float *state, uint32_t count, uint32_t decayed,
                                float rate, float beta1, float beta2, float unbias, float decay, float clip, float average,
                                float epsilon) {
    const uint64_t at = (uint64_t)blockIdx.x * THREADS + threadIdx.x, row = count;
    if (at >= count || !isfinite(norm[0])) {
        return;
    }
    const float gradient = gradients[at] * min(clip / norm[0], 1.0f);
    const float first = state[row + at] * beta1 + gradient * (1.0f - beta1);
    const float second = state[2 * row + at] * beta2 + gradient * gradient * (1.0f - beta2);
    const float change = first * rate / (sqrtf(second / unbias) + epsilon);
    const float parameter = state[at] * (at < decayed ? decay : 1.0f) - change;
    state[3 * row + at] = state[3 * row + at] * average + parameter * (1.0f - average);
    state[2 * row + at] = second;
    state[row + at] = first;
    state[at] = parameter;
}

#define RMS_GRADIENT(name, G, N)                                                                                       \
    extern "C" __global__ void name(const float *x, const float *gain, const G *grad, const float *carried,            \
                                    float *out, uint32_t rows, uint32_t width, uint32_t chunk, uint32_t has_gain,      \
                                    uint32_t x_stride, uint32_t grad_stride, uint32_t carried_stride, float eps) {     \
        rms_gradient<N>(x, gain, grad, carried, out, rows, width, chunk, has_gain, x_stride, grad_stride,              \
                        carried_stride, eps);                                                                          \
    }
RMS_GRADIENT(rms_gradient_f32, float, 1)
RMS_GRADIENT(rms_gradient_f32_wide, float, FOUR)
RMS_GRADIENT(rms_gradient_bf16, Half, 1)
RMS_GRADIENT(rms_gradient_bf16_wide, Half, FOUR)

#define SWIGLU_GRADIENT(name, T, WIDE)                                                                                 \
    extern "C" __global__ void name(const T *gate, const T *up, const T *grad, T *out, uint32_t rows, uint32_t width,  \
                                    uint32_t gate_stride, uint32_t up_stride, uint32_t grad_stride) {                  \
        swiglu_gradient<PACK<T, WIDE>>(gate, up, grad, out, rows, width, gate_stride, up_stride, grad_stride);         \
    }
SWIGLU_GRADIENT(swiglu_gradient_f32, float, false)
SWIGLU_GRADIENT(swiglu_gradient_f32_wide, float, true)
SWIGLU_GRADIENT(swiglu_gradient_bf16, Half, false)
SWIGLU_GRADIENT(swiglu_gradient_bf16_wide, Half, true)

#define ADDED(name, U, N)                                                                                              \
    extern "C" __global__ void name(const float *x, const U *update, float *out, uint32_t rows, uint32_t width,        \
                                    uint32_t x_stride, uint32_t update_stride) {                                       \
        added<N>(x, update, out, rows, width, x_stride, update_stride);                                                \
    }
ADDED(added_f32, float, 1)
ADDED(added_f32_wide, float, FOUR)
ADDED(added_bf16, Half, 1)
ADDED(added_bf16_wide, Half, FOUR)

#define CROSS_ENTROPY(name, T, WIDE)                                                                                   \
    extern "C" __global__ void __launch_bounds__(1024)                                                                 \
        name(const T *logits, const uint32_t *targets, const float *weights, float *out, uint32_t width,               \
             uint32_t stride) {                                                                                        \
        cross_entropy<PACK<T, WIDE>>(logits, targets, weights, out, width, stride);                                    \
    }
CROSS_ENTROPY(cross_entropy_f32, float, false)
CROSS_ENTROPY(cross_entropy_f32_wide, float, true)
CROSS_ENTROPY(cross_entropy_bf16, Half, false)
CROSS_ENTROPY(cross_entropy_bf16_wide, Half, true)

#define CROSS_ENTROPY_GRADIENT(name, T, WIDE)                                                                          \
    extern "C" __global__ void __launch_bounds__(1024)                                                                 \
        name(const T *logits, const uint32_t *targets, const float *weights, T *out, uint32_t width,                   \
             uint32_t stride, float factor) {                                                                          \
        cross_entropy_gradient<PACK<T, WIDE>>(logits, targets, weights, out, width, stride, factor);                   \
    }
CROSS_ENTROPY_GRADIENT(cross_entropy_gradient_f32, float, false)
CROSS_ENTROPY_GRADIENT(cross_entropy_gradient_f32_wide, float, true)
CROSS_ENTROPY_GRADIENT(cross_entropy_gradient_bf16, Half, false)
CROSS_ENTROPY_GRADIENT(cross_entropy_gradient_bf16_wide, Half, true)

#define SCATTER(name, T, N)                                                                                            \
    extern "C" __global__ void name(const T *x, const uint32_t *starts, const uint32_t *sources, float *out,           \
                                    uint32_t width, uint32_t stride) {                                                 \
        scatter<N>(x, starts, sources, out, width, stride);                                                            \
    }
SCATTER(scatter_f32, float, 1)
SCATTER(scatter_f32_wide, float, FOUR)
SCATTER(scatter_bf16, Half, 1)
SCATTER(scatter_bf16_wide, Half, FOUR)
