// What a policy needs to know of each row of logits, in one read: the summary of `summary.rs`, on the device where the
// logits lie. One block of threads takes one row. `summary.ptx` is made of this by `just kernels`.
//
// Also compiled as C++ by `.ci/kernels`, which runs it with a thread for each CUDA thread and holds it against the numbers
// of `summary.rs`: it uses nothing but shared memory and barriers.

#ifndef KERNELS_ON_HOST
#include <cstdint>
#endif

#define THREADS 256
// Words of an ask: key (2), step, position, purpose, temperature (2, an f64), reserved.
#define ASK 8
// Words of an answer: token, whether all logits are finite, then as f32 the token's logit, the largest, the second largest, the
// sum of exp(l - largest), the sum of exp(l - largest) (l - largest), reserved.
#define ANSWER 8

// The lowest finite number: what a banned token's logit is.
#define LOWEST (-3.402823466e38f)
// Further below the maximum nothing counts.
#define FLOOR (-200.0f)

struct Summary {
    float largest, second, mass, moment;
    uint32_t likeliest, finite;
    // the winner of the draw
    double score;
    float drawn_logit;
    uint32_t drawn;
};

// Nothing read yet.
__device__ Summary nothing() {
    Summary s;
    s.largest = -INFINITY, s.second = -INFINITY, s.mass = 0.0f, s.moment = 0.0f;
    s.likeliest = 0xffffffffu, s.finite = 1u;
    s.score = -INFINITY, s.drawn_logit = 0.0f, s.drawn = 0xffffffffu;
    return s;
}

// The same sums, relative to a larger maximum.
__device__ void raise(Summary &s, float largest) {
    if (s.mass > 0.0f) {
        float up = fminf(largest - s.largest, -FLOOR);
        float shrink = expf(-up);
        s.moment = shrink * (s.moment - up * s.mass);
        s.mass = shrink * s.mass;
    }
    s.largest = largest;
}

__device__ void take(Summary &s, uint32_t token, float logit) {
    if (!isfinite(logit)) {
        s.finite = 0u;
        return;
    }
    if (logit > s.largest) {
        s.second = s.largest;
        raise(s, logit);
        s.likeliest = token;
    } else {
        s.second = fmaxf(s.second, logit);
    }
    float below = fmaxf(logit - s.largest, FLOOR);
    float weight = expf(below);
    s.mass += weight;
    s.moment += weight * below;
}

// Both together; among equals the lower token wins.
__device__ Summary merged(Summary a, Summary b) {
    Summary winner = a, other = b;
    if (b.largest > a.largest || (b.largest == a.largest && b.likeliest < a.likeliest)) {
        winner = b, other = a;
    }
    Summary s = winner;
    s.second = fmaxf(winner.second, other.largest);
    if (other.mass > 0.0f) {
        raise(other, winner.largest);
        s.mass += other.mass;
        s.moment += other.moment;
    }
    s.finite = a.finite & b.finite;
    bool first = a.score > b.score || (a.score == b.score && a.drawn < b.drawn);
    s.score = first ? a.score : b.score;
    s.drawn = first ? a.drawn : b.drawn;
    s.drawn_logit = first ? a.drawn_logit : b.drawn_logit;
    return s;
}

// Philox4x32-10 (Salmon et al., SC 2011).
__device__ void philox(uint32_t counter[4], uint32_t key0, uint32_t key1) {
    for (int round = 0; round < 10; round++) {
        uint64_t left = (uint64_t)0xD2511F53u * counter[0], right = (uint64_t)0xCD9E8D57u * counter[2];
        uint32_t c0 = (uint32_t)(right >> 32) ^ counter[1] ^ key0, c2 = (uint32_t)(left >> 32) ^ counter[3] ^ key1;
        counter[1] = (uint32_t)right, counter[3] = (uint32_t)left;
        counter[0] = c0, counter[2] = c2;
        key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
    }
}

// A uniform in (0, 1) of 53 bits from two words.
__device__ double uniform(uint32_t low, uint32_t high) {
    uint64_t bits = (((uint64_t)high << 32) | low) >> 11;
    return fmin(((double)bits + 0.5) / 9007199254740992.0, 1.0 - 1.1102230246251565e-16);
}

// A token's logit with noise, where that might beat the best so far.
__device__ void draw(Summary &s, uint32_t token, float logit, double temperature, double u) {
    if (!isfinite(logit)) {
        return;
    }
    // -ln(-ln u) < -ln(1 - u) <= -log2(1 - u) ln 2, and the exponent bounds the logarithm
    int exponent;
    frexp(1.0 - u, &exponent);
    if ((double)logit + temperature * ((1 - exponent) * 0.6931471805599453 + 1e-12) < s.score) {
        return;
    }
    double score = (double)logit + temperature * -log(-log(u));
    if (score > s.score) {
        s.score = score, s.drawn = token, s.drawn_logit = logit;
    }
}

__device__ float number(const float *numbers, uint64_t at) { return numbers[at]; }

// bf16 is the upper half of an f32.
__device__ float number(const uint16_t *numbers, uint64_t at) {
    union {
        uint32_t bits;
        float value;
    } widened;
    widened.bits = (uint32_t)numbers[at] << 16;
    return widened.value;
}

template <typename T>
__device__ void summarise(const T *logits, uint32_t width, uint32_t size, uint32_t mask, const uint32_t *asks,
                          const uint32_t *bias_ends, const uint32_t *bias_tokens, const float *biases,
                          uint32_t *answers) {
    __shared__ Summary shared[THREADS];
    const uint32_t row = blockIdx.x, thread = threadIdx.x;
    const uint32_t *ask = asks + (uint64_t)row * ASK;
    const uint64_t start = (uint64_t)row * width;
    const uint32_t bias_start = row == 0 ? 0u : bias_ends[row - 1], bias_end = bias_ends[row];
    union {
        uint64_t bits;
        double value;
    } temperature;
    temperature.bits = ((uint64_t)ask[6] << 32) | ask[5];

    Summary s = nothing();
    // two neighbours at a time, for a block of random words serves both
    for (uint32_t pair = thread; pair * 2u < size; pair += THREADS) {
        uint32_t words[4] = {pair, ask[3], ask[2], ask[4]};
        if (temperature.value > 0.0) {
            philox(words, ask[0], ask[1]);
        }
        for (uint32_t half = 0; half < 2u; half++) {
            const uint32_t token = pair * 2u + half;
            if (token >= size || token == mask) {
                continue;
            }
            float logit = number(logits, start + token);
            for (uint32_t bias = bias_start; bias < bias_end; bias++) {
                if (bias_tokens[bias] == token) {
                    logit = biases[bias] == -INFINITY ? LOWEST : logit + biases[bias];
                }
            }
            take(s, token, logit);
            if (temperature.value > 0.0) {
                draw(s, token, logit, temperature.value, uniform(words[2u * half], words[2u * half + 1u]));
            }
        }
    }
    shared[thread] = s;
    __syncthreads();
    for (uint32_t stride = THREADS / 2; stride > 0; stride /= 2) {
        if (thread < stride) {
            shared[thread] = merged(shared[thread], shared[thread + stride]);
        }
        __syncthreads();
    }
    if (thread == 0) {
        s = shared[0];
        const bool is_drawn = temperature.value > 0.0;
        float *numbers = (float *)(answers + (uint64_t)row * ANSWER);
        answers[(uint64_t)row * ANSWER] = is_drawn ? s.drawn : s.likeliest;
        answers[(uint64_t)row * ANSWER + 1] = s.finite;
        numbers[2] = is_drawn ? s.drawn_logit : s.largest;
        numbers[3] = s.largest;
        numbers[4] = s.second;
        numbers[5] = s.mass;
        numbers[6] = s.moment;
        numbers[7] = 0.0f;
    }
}

extern "C" __global__ void summarise_f32(const float *logits, uint32_t width, uint32_t size, uint32_t mask,
                                         const uint32_t *asks, const uint32_t *bias_ends, const uint32_t *bias_tokens,
                                         const float *biases, uint32_t *answers) {
    summarise(logits, width, size, mask, asks, bias_ends, bias_tokens, biases, answers);
}

extern "C" __global__ void summarise_bf16(const uint16_t *logits, uint32_t width, uint32_t size, uint32_t mask,
                                          const uint32_t *asks, const uint32_t *bias_ends, const uint32_t *bias_tokens,
                                          const float *biases, uint32_t *answers) {
    summarise(logits, width, size, mask, asks, bias_ends, bias_tokens, biases, answers);
}
