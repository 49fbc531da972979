// Defines CUDA's keywords for C++ and runs the kernel on the cases of tests/data/summary_cases.bin.
// See .ci/kernels.

#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <thread>
#include <vector>

using std::isfinite;

#define __device__ static inline
#define __global__
#define __shared__ static

struct Place {
    uint32_t x;
};
static thread_local Place blockIdx, threadIdx;
static std::unique_ptr<std::barrier<>> together;
static void __syncthreads() { together->arrive_and_wait(); }

#include "summary.cu"

static std::vector<uint32_t> words;
static size_t at = 0;
static std::vector<uint32_t> take(size_t count) {
    if (at + count > words.size()) {
        std::fprintf(stderr, "the cases are cut short\n");
        std::exit(1);
    }
    at += count;
    return {words.begin() + at - count, words.begin() + at};
}

static float number_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

int main(int, char **arguments) {
    std::ifstream file(arguments[1], std::ios::binary);
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
    words.resize(bytes.size() / 4);
    std::memcpy(words.data(), bytes.data(), words.size() * 4);
    int rows_checked = 0, wrong = 0;
    double furthest = 0.0;
    while (at < words.size()) {
        auto sizes = take(5);
        uint32_t rows = sizes[0], width = sizes[1], size = sizes[2], mask = sizes[3];
        auto asks = take(rows * ASK), bias_ends = take(rows), bias_tokens = take(sizes[4]), bias_bits = take(sizes[4]);
        auto logit_bits = take((size_t)rows * width), expected = take(rows * 5);
        std::vector<float> biases, logits;
        for (uint32_t bits : bias_bits) biases.push_back(number_of(bits));
        std::vector<uint16_t> halves;
        for (uint32_t bits : logit_bits) logits.push_back(number_of(bits)), halves.push_back(bits >> 16);
        for (bool is_half : {false, true}) {
            std::vector<uint32_t> answers(rows * ANSWER);
            together = std::make_unique<std::barrier<>>(THREADS);
            std::vector<std::thread> threads;
            for (uint32_t thread = 0; thread < THREADS; thread++) {
                threads.emplace_back([&, thread] {
                    for (uint32_t row = 0; row < rows; row++) {
                        blockIdx.x = row, threadIdx.x = thread;
                        auto rest = [&](auto kernel, auto *numbers) {
                            kernel(numbers, width, size, mask, asks.data(), bias_ends.data(), bias_tokens.data(),
                                   biases.data(), answers.data());
                        };
                        is_half ? rest(summarise_bf16, halves.data()) : rest(summarise_f32, logits.data());
                        __syncthreads(); // here all blocks share one memory, unlike on a GPU
                    }
                });
            }
            for (auto &thread : threads) thread.join();
            for (uint32_t row = 0; row < rows; row++) {
                const uint32_t *answer = &answers[row * ANSWER], *wanted = &expected[row * 5];
                rows_checked++;
                bool right = answer[1] == wanted[1];
                if (wanted[1] == 1 && right) {
                    float logit = number_of(answer[2]), largest = number_of(answer[3]), second = number_of(answer[4]);
                    double mass = number_of(answer[5]), moment = number_of(answer[6]);
                    double found[3] = {std::exp((double)logit - largest) / mass,
                                       1.0 / mass - std::exp((double)second - largest) / mass,
                                       std::fmax(std::log(mass) - moment / mass, 0.0)};
                    right = answer[0] == wanted[0];
                    for (int i = 0; i < 3; i++) {
                        double off = std::fabs(found[i] - number_of(wanted[2 + i])) / std::fmax(1.0, std::fabs(found[i]));
                        furthest = std::fmax(furthest, off);
                        right = right && off < 1e-5;
                    }
                }
                if (!right) {
                    wrong++;
                    std::printf("size %u, row %u, %s: token %u, finite %u; expected %u, %u\n", size, row,
                                is_half ? "bf16" : "f32", answer[0], answer[1], wanted[0], wanted[1]);
                }
            }
        }
    }
    std::printf("kernels: %d rows, %d wrong, furthest off %.1e\n", rows_checked, wrong, furthest);
    return wrong == 0 && rows_checked > 0 ? 0 : 1;
}
