// What a policy needs to know of each row of logits: the summary of `summary.rs`, on the device where the logits lie. One
// block of threads takes one row.

#include "device.cuh"

constexpr uint32_t THREADS = 256;
// Words of an ask: key (2), step, position, purpose, temperature (2, an f64), top-k (0 is none), top-p and min-p (f32; 1 and 0
// are none), the row of unguided logits, the weight of the difference to it (f32; 1 is no guidance), then from where to where
// in `tokens` the row's biases stand, and the tokens that may be drawn (none are all), then the weight of credit and the power
// of the favourite's probability (f32; a weight of 0 is no credit).
constexpr uint32_t ASK = 18;
// The bits of a bias's token that say that the logit is scaled (divided by the bias above 0, multiplied elsewhere), and that
// the number is the token's credit. What is left is the token.
constexpr uint32_t SCALE = 0x80000000u;
constexpr uint32_t CREDIT = 0x40000000u;
constexpr uint32_t TOKEN = ~(SCALE | CREDIT);
// Words of an answer: token, whether all logits are finite, then as f32 the token's logit, the largest, the second largest, the
// sum of exp(l - largest), the sum of exp(l - largest) (l - largest); then the most probable token without credit, all ones if
// there is no credit, and its probability as f32.
constexpr uint32_t ANSWER = 9;
constexpr uint32_t NONE = 0xffffffffu;

// The lowest finite number: what a banned token's logit is.
constexpr float LOWEST = -3.402823466e38f;
// Further below the maximum nothing counts.
constexpr float FLOOR = -200.0f;

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

// The winner so far, or a token that beats it; among equals the lower token wins.
__device__ void prefer(Summary &s, uint32_t token, float logit, double score) {
    if (score > s.score || (score == s.score && token < s.drawn)) {
        s.score = score, s.drawn = token, s.drawn_logit = logit;
    }
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
    prefer(s, token, logit, (double)logit + temperature * -log(-log(u)));
}

// What is asked about a row, and where its logits are.
template <typename T>
struct Row {
    const T *own, *unguided;
    float weight;
    const uint32_t *bias_tokens;
    const float *biases;
    uint32_t bias_count, size, mask;
    // of credit: 0 for none; then the most probable token without it, and what its credit gains
    float credit_weight;
    uint32_t favourite;
    float gain;
};

// The logit of a token, guidance, then biases, then credit applied; the tokens of `bias_tokens` ascend.
template <typename T>
__device__ float logit_of(const Row<T> &row, uint32_t token) {
    float logit = widened(row.own[token]);
    if (row.weight != 1.0f) {
        const float unguided = widened(row.unguided[token]);
        logit = unguided + row.weight * (logit - unguided);
    }
    float credit = token == row.favourite ? row.gain : 0.0f;
    if (row.bias_count > 0) {
        uint32_t from = 0, until = row.bias_count;
        while (from < until) {
            const uint32_t middle = (from + until) / 2u;
            if ((row.bias_tokens[middle] & TOKEN) < token) {
                from = middle + 1u;
            } else {
                until = middle;
            }
        }
        for (; from < row.bias_count && (row.bias_tokens[from] & TOKEN) == token; from++) {
            const float bias = row.biases[from];
            if (row.bias_tokens[from] & CREDIT) {
                credit += bias;
            } else if (row.bias_tokens[from] & SCALE) {
                logit = logit > 0.0f ? logit / bias : logit * bias;
            } else {
                logit = bias == -INFINITY ? LOWEST : logit + bias;
            }
        }
    }
    return row.credit_weight > 0.0f && credit > 0.0f ? logit + row.credit_weight * log1pf(credit) : logit;
}

// The order in which a filter takes tokens, from the highest key down: by logit, among equals the lower token first. Tokens
// have 20 bits.
constexpr uint32_t TOKEN_BITS = 20;
__device__ uint64_t key_of(float logit, uint32_t token) {
    union {
        float value;
        uint32_t bits;
    } word;
    word.value = logit;
    const uint32_t ordered = word.bits & 0x80000000u ? ~word.bits : word.bits | 0x80000000u;
    return ((uint64_t)ordered << TOKEN_BITS) | (((1u << TOKEN_BITS) - 1u) - token);
}

// Bits of a key that one read of the row decides, and what they can be.
constexpr uint32_t DIGIT = 3;
constexpr uint32_t DIGITS = 8;
constexpr uint32_t KEY_BITS = 54; // a multiple of DIGIT, at least 32 + TOKEN_BITS

// Counts and masses of the tokens by the next digit of their keys. Masses are whole numbers, so that their sum does not
// depend on the order.
struct Tally {
    uint64_t mass[DIGITS];
    uint32_t count[DIGITS];
};

constexpr float MASS_ONE = 1099511627776.0f; // 2^40
__device__ uint64_t mass_of(float logit, float largest, float temperature) {
    return (uint64_t)(expf((logit - largest) / temperature) * MASS_ONE);
}

// Counts and masses of the tokens from `floor` on whose keys begin with `prefix`, by the digit above `shift`.
template <typename T>
__device__ void tally(Tally &all, const Row<T> &row, uint64_t floor, uint64_t prefix, uint32_t shift, float largest,
                      float temperature, Tally *shared) {
    Tally own;
#pragma unroll
    for (uint32_t digit = 0; digit < DIGITS; digit++) {
        own.mass[digit] = 0, own.count[digit] = 0;
    }
    for (uint32_t token = threadIdx.x; token < row.size; token += THREADS) {
        const float logit = logit_of(row, token);
        const uint64_t key = key_of(logit, token);
        if (token == row.mask || key < floor || key >> (shift + DIGIT) != prefix) {
            continue;
        }
        const uint64_t mass = mass_of(logit, largest, temperature);
        const uint32_t next = (uint32_t)(key >> shift) % DIGITS;
#pragma unroll
        for (uint32_t digit = 0; digit < DIGITS; digit++) {
            own.mass[digit] += next == digit ? mass : 0u;
            own.count[digit] += next == digit ? 1u : 0u;
        }
    }
    __syncthreads(); // what was in `shared` before has been read
    shared[threadIdx.x] = own;
    __syncthreads();
    for (uint32_t stride = THREADS / 2u; stride > 0; stride /= 2u) {
        if (threadIdx.x < stride) {
            for (uint32_t digit = 0; digit < DIGITS; digit++) {
                shared[threadIdx.x].mass[digit] += shared[threadIdx.x + stride].mass[digit];
                shared[threadIdx.x].count[digit] += shared[threadIdx.x + stride].count[digit];
            }
        }
        __syncthreads();
    }
    all = shared[0];
}

// The key of the token with which the tokens from `floor` on, taken from the highest down, reach `wanted`: a number of tokens,
// or the share `wanted_share` of their mass. All threads get the same.
template <typename T>
__device__ uint64_t reach(const Row<T> &row, uint64_t floor, uint32_t wanted_count, float wanted_share, float largest,
                          float temperature, Tally *shared) {
    uint64_t prefix = 0, wanted = wanted_count;
    for (uint32_t shift = KEY_BITS - DIGIT;; shift -= DIGIT) {
        Tally all;
        tally(all, row, floor, prefix, shift, largest, temperature, shared);
        if (wanted_count == 0 && shift == KEY_BITS - DIGIT) {
            uint64_t mass = 0;
            for (uint32_t digit = 0; digit < DIGITS; digit++) {
                mass += all.mass[digit];
            }
            wanted = (uint64_t)ceil((double)wanted_share * (double)mass);
        }
        uint32_t chosen = 0, count = 0;
        for (uint32_t digit = DIGITS; digit-- > 0;) {
            if (all.count[digit] == 0) {
                continue;
            }
            chosen = digit, count = all.count[digit];
            const uint64_t here = wanted_count == 0 ? all.mass[digit] : all.count[digit];
            if (here >= wanted) {
                break;
            }
            wanted -= here;
        }
        prefix = prefix << DIGIT | chosen;
        // the only token, none because of logits that are no numbers, or all bits are known
        if (count <= 1u || shift == 0) {
            return prefix << shift;
        }
    }
}

// The lowest key that a filter leaves.
template <typename T>
__device__ uint64_t floor_of(const Row<T> &row, uint32_t top_k, float top_p, float min_p, float temperature,
                             void *shared) {
    float largest = -INFINITY;
    for (uint32_t token = threadIdx.x; token < row.size; token += THREADS) {
        largest = token == row.mask ? largest : fmaxf(largest, logit_of(row, token));
    }
    float *const maxima = (float *)shared;
    maxima[threadIdx.x] = largest;
    __syncthreads();
    for (uint32_t stride = THREADS / 2u; stride > 0; stride /= 2u) {
        if (threadIdx.x < stride) {
            maxima[threadIdx.x] = fmaxf(maxima[threadIdx.x], maxima[threadIdx.x + stride]);
        }
        __syncthreads();
    }
    largest = maxima[0];
    uint64_t floor = 0;
    if (top_k > 0 && top_k < row.size) {
        floor = reach(row, floor, top_k, 0.0f, largest, temperature, (Tally *)shared);
    }
    if (top_p < 1.0f) {
        floor = reach(row, floor, 0u, top_p, largest, temperature, (Tally *)shared);
    }
    if (min_p > 0.0f) {
        const uint64_t least = key_of(largest + temperature * logf(min_p), (1u << TOKEN_BITS) - 1u);
        floor = floor < least ? least : floor;
    }
    __syncthreads(); // before `shared` is used for something else
    return floor;
}

__device__ float number_of(uint32_t bits) {
    union {
        uint32_t bits;
        float value;
    } word;
    word.bits = bits;
    return word.value;
}

// What all threads have read together; only the first thread may use it.
__device__ Summary reduced(const Summary &own, Summary *summaries) {
    const uint32_t thread = threadIdx.x;
    summaries[thread] = own;
    __syncthreads();
    for (uint32_t stride = THREADS / 2u; stride > 0; stride /= 2u) {
        if (thread < stride) {
            summaries[thread] = merged(summaries[thread], summaries[thread + stride]);
        }
        __syncthreads();
    }
    return summaries[0];
}

// The most probable token, of those from `first` to below `end` in `tokens` if there are any, and its probability. All threads
// get the same.
template <typename T>
__device__ uint32_t favourite_of(const Row<T> &row, const uint32_t *tokens, uint32_t first, uint32_t end, float *probability,
                                 void *shared) {
    Summary s = nothing();
    for (uint32_t token = threadIdx.x; token < row.size; token += THREADS) {
        if (token != row.mask) {
            take(s, token, logit_of(row, token));
        }
    }
    for (uint32_t at = first + threadIdx.x; at < end; at += THREADS) {
        const float logit = logit_of(row, tokens[at]);
        if (isfinite(logit)) {
            prefer(s, tokens[at], logit, (double)logit);
        }
    }
    s = reduced(s, (Summary *)shared);
    __syncthreads(); // before `shared` is used for something else
    const bool is_listed = end > first;
    *probability = fminf(expf((is_listed ? s.drawn_logit : s.largest) - s.largest) / s.mass, 1.0f);
    return is_listed ? s.drawn : s.likeliest;
}

template <typename T>
__device__ void summarise(const T *logits, const uint32_t *asks, const uint32_t *tokens, const float *biases,
                          uint32_t *answers, uint32_t width, uint32_t size, uint32_t mask) {
    static_assert(sizeof(Summary) <= sizeof(Tally), "both use the same memory");
    __shared__ uint64_t shared[sizeof(Tally) / 8u * THREADS];
    const uint32_t thread = threadIdx.x;
    const uint32_t *const ask = asks + (uint64_t)blockIdx.x * ASK;
    Row<T> row;
    row.own = logits + (uint64_t)blockIdx.x * width, row.unguided = logits + (uint64_t)ask[10] * width;
    row.weight = number_of(ask[11]);
    row.bias_tokens = tokens + ask[12], row.biases = biases + ask[12], row.bias_count = ask[13] - ask[12];
    row.size = size, row.mask = mask;
    row.credit_weight = 0.0f, row.favourite = NONE, row.gain = 0.0f;
    union {
        uint64_t bits;
        double value;
    } word;
    word.bits = ((uint64_t)ask[6] << 32) | ask[5];
    const double temperature = word.value;
    const bool is_drawn = temperature > 0.0, is_listed = ask[15] > ask[14];
    const uint32_t top_k = ask[7];
    const float top_p = number_of(ask[8]), min_p = number_of(ask[9]);

    float favourite_probability = 0.0f;
    if (number_of(ask[16]) > 0.0f) {
        const uint32_t favourite = favourite_of(row, tokens, ask[14], ask[15], &favourite_probability, shared);
        row.favourite = favourite, row.gain = powf(favourite_probability, number_of(ask[17]));
        row.credit_weight = number_of(ask[16]);
    }

    const bool is_filtered = is_drawn && !is_listed && (top_k > 0 || top_p < 1.0f || min_p > 0.0f);
    uint64_t floor = 0;
    if (is_filtered) {
        floor = floor_of(row, top_k, top_p, min_p, (float)temperature, shared);
    }

    Summary s = nothing();
    // two neighbours at a time, for a block of random words serves both
    for (uint32_t pair = thread; pair * 2u < size; pair += THREADS) {
        uint32_t words[4] = {pair, ask[3], ask[2], ask[4]};
        const bool is_random = is_drawn && !is_listed;
        if (is_random) {
            philox(words, ask[0], ask[1]);
        }
        for (uint32_t half = 0; half < 2u; half++) {
            const uint32_t token = pair * 2u + half;
            if (token >= size || token == mask) {
                continue;
            }
            const float logit = logit_of(row, token);
            take(s, token, logit);
            if (is_random && (!is_filtered || key_of(logit, token) >= floor)) {
                draw(s, token, logit, temperature, uniform(words[2u * half], words[2u * half + 1u]));
            }
        }
    }
    for (uint32_t at = ask[14] + thread; at < ask[15]; at += THREADS) {
        const uint32_t token = tokens[at], half = token % 2u;
        const float logit = logit_of(row, token);
        if (is_drawn) {
            uint32_t words[4] = {token / 2u, ask[3], ask[2], ask[4]};
            philox(words, ask[0], ask[1]);
            draw(s, token, logit, temperature, uniform(words[2u * half], words[2u * half + 1u]));
        } else if (isfinite(logit)) {
            prefer(s, token, logit, (double)logit);
        }
    }
    s = reduced(s, (Summary *)shared);
    if (thread == 0) {
        const bool is_chosen = is_drawn || is_listed;
        uint32_t *const answer = answers + (uint64_t)blockIdx.x * ANSWER;
        float *const numbers = (float *)answer;
        answer[0] = is_chosen ? s.drawn : s.likeliest;
        answer[1] = s.finite;
        numbers[2] = is_chosen ? s.drawn_logit : s.largest;
        numbers[3] = s.largest;
        numbers[4] = s.second;
        numbers[5] = s.mass;
        numbers[6] = s.moment;
        answer[7] = row.favourite;
        numbers[8] = favourite_probability;
    }
}

// Logits (rows, width), of which the first `size` are tokens'; asks (options, ASK); `tokens` and `biases` as the asks name
// them, one bias for each token that has one; answers (options, ANSWER).
#define SUMMARISE(name, T)                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        name(const T *logits, const uint32_t *asks, const uint32_t *tokens, const float *biases, uint32_t *answers,     \
             uint32_t width, uint32_t size, uint32_t mask) {                                                            \
        summarise(logits, asks, tokens, biases, answers, width, size, mask);                                            \
    }
SUMMARISE(summarise_f32, float)
SUMMARISE(summarise_bf16, Half)
