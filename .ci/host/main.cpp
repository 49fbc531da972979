// Runs kernels on the CPU for a test that asks through standard input, and answers with what they wrote.
//
// A call: the length of the kernel's name and the name; grid (3), threads, number of buffers, number of numbers, how many of
// the last buffers the kernel changes (if none, the last buffer is what it writes); for each buffer its length in bytes and,
// if it is not one to write, its bytes (a length of all ones is a null pointer); the numbers. The answer is the buffer that
// was written, or those that were changed. All words are u32, little endian.

#include "host.hpp"

#include "device.cuh"
#include "warp.cuh"
#include "attention.cuh"

namespace attention {
#include "attention.cu"
}
namespace attention_gradient {
#include "attention_gradient.cu"
}
namespace attention_mma {
#include "attention_mma.cu"
}
namespace layers {
#include "layers.cu"
}
namespace summary {
#include "summary.cu"
}
namespace training {
#include "training.cu"
}

#include <map>
#include <string>

static void read(void *to, size_t bytes) {
    if (bytes > 0 && std::fread(to, 1, bytes, stdin) != bytes) {
        std::fprintf(stderr, "a call is cut short\n");
        std::exit(1);
    }
}

static uint32_t word() {
    uint32_t word;
    read(&word, 4);
    return word;
}

// The length of a null pointer.
constexpr uint32_t NONE = 0xffffffff;

// What a kernel is called with.
struct Call {
    std::vector<std::vector<uint64_t>> buffers;
    std::vector<uint32_t> numbers;
    size_t next_buffer = 0, next_number = 0;

    // Of buffer `n`, aligned as CUDA aligns memory; null if it is empty.
    void *start(size_t n) {
        auto &buffer = buffers.at(n);
        return buffer.empty() ? nullptr : (void *)(((uintptr_t)buffer.data() + 15) / 16 * 16);
    }

    template <typename T>
    T argument() {
        if constexpr (std::is_pointer_v<T>) {
            return (T)start(next_buffer++);
        } else {
            static_assert(sizeof(T) == 4);
            return std::bit_cast<T>(numbers.at(next_number++));
        }
    }
};

using Kernel = std::function<void(Call &)>;

template <typename... Arguments>
static Kernel kernel(void (*function)(Arguments...)) {
    return [function](Call &call) {
        std::tuple<Arguments...> arguments{call.argument<Arguments>()...}; // from left to right
        host::body = [function, arguments] { std::apply(function, arguments); };
        for (uint32_t y = 0; y < host::grid.y; y++) {
            for (uint32_t x = 0; x < host::grid.x; x++) {
                host::block = {x, y, 0};
                std::memset(host::shared, 0xff, host::SHARED_MAX); // NaN in every format
                host::run_block();
            }
        }
        if (call.next_buffer != call.buffers.size() || call.next_number != call.numbers.size()) {
            std::fprintf(stderr, "a call has more arguments than the kernel takes\n");
            std::exit(1);
        }
    };
}

#define KERNEL(file, name) {#name, kernel(file::name)}

int main() {
    const std::map<std::string, Kernel> kernels{
        KERNEL(attention, attention_f32),
        KERNEL(attention, attention_bf16),
        KERNEL(attention_gradient, attention_delta),
        KERNEL(attention_gradient, attention_gradient_queries_64),
        KERNEL(attention_gradient, attention_gradient_queries_128),
        KERNEL(attention_gradient, attention_gradient_keys_64),
        KERNEL(attention_gradient, attention_gradient_keys_128),
        KERNEL(attention_mma, attention_mma_sums_64),
        KERNEL(attention_mma, attention_mma_sums_128),
        KERNEL(attention_mma, attention_mma_64_short),
        KERNEL(attention_mma, attention_mma_64_long),
        KERNEL(attention_mma, attention_mma_128_short),
        KERNEL(attention_mma, attention_mma_128_long),
        KERNEL(layers, norm_f32),
        KERNEL(layers, norm_f32_wide),
        KERNEL(layers, norm_bf16),
        KERNEL(layers, norm_bf16_wide),
        KERNEL(layers, norm_bf16_f32),
        KERNEL(layers, norm_f32_bf16),
        KERNEL(layers, norm_f32_bf16_wide),
        KERNEL(layers, add_norm_f32),
        KERNEL(layers, add_norm_f32_wide),
        KERNEL(layers, add_norm_bf16),
        KERNEL(layers, add_norm_bf16_wide),
        KERNEL(layers, rotate_f32),
        KERNEL(layers, rotate_f32_wide),
        KERNEL(layers, rotate_bf16),
        KERNEL(layers, rotate_bf16_wide),
        KERNEL(layers, gated_f32),
        KERNEL(layers, gated_f32_wide),
        KERNEL(layers, gated_bf16),
        KERNEL(layers, gated_bf16_wide),
        KERNEL(layers, gather_f32),
        KERNEL(layers, gather_f32_wide),
        KERNEL(layers, gather_bf16),
        KERNEL(layers, gather_bf16_wide),
        KERNEL(layers, keep_f32),
        KERNEL(layers, keep_f32_wide),
        KERNEL(layers, keep_bf16),
        KERNEL(layers, keep_bf16_wide),
        KERNEL(layers, scored),
        KERNEL(summary, summarise_f32),
        KERNEL(summary, summarise_bf16),
        KERNEL(training, rms_gradient_f32),
        KERNEL(training, rms_gradient_f32_wide),
        KERNEL(training, rms_gradient_bf16),
        KERNEL(training, rms_gradient_bf16_wide),
        KERNEL(training, column_sums),
        KERNEL(training, row_sums),
        KERNEL(training, swiglu_gradient_f32),
        KERNEL(training, swiglu_gradient_f32_wide),
        KERNEL(training, swiglu_gradient_bf16),
        KERNEL(training, swiglu_gradient_bf16_wide),
        KERNEL(training, added_f32),
        KERNEL(training, added_f32_wide),
        KERNEL(training, added_bf16),
        KERNEL(training, added_bf16_wide),
        KERNEL(training, cross_entropy_f32),
        KERNEL(training, cross_entropy_f32_wide),
        KERNEL(training, cross_entropy_bf16),
        KERNEL(training, cross_entropy_bf16_wide),
        KERNEL(training, cross_entropy_gradient_f32),
        KERNEL(training, cross_entropy_gradient_f32_wide),
        KERNEL(training, cross_entropy_gradient_bf16),
        KERNEL(training, cross_entropy_gradient_bf16_wide),
        KERNEL(training, scatter_f32),
        KERNEL(training, scatter_f32_wide),
        KERNEL(training, scatter_bf16),
        KERNEL(training, scatter_bf16_wide),
        KERNEL(training, squares),
        KERNEL(training, adam),
    };
    uint32_t length;
    while (std::fread(&length, 4, 1, stdin) == 1) {
        std::string name(length, ' ');
        read(name.data(), length);
        uint32_t shape[7];
        read(shape, sizeof shape);
        host::grid = {shape[0], shape[1], shape[2]}, host::size = {shape[3], 1, 1};
        Call call;
        std::vector<uint32_t> lengths;
        for (uint32_t i = 0; i < shape[4]; i++) {
            const uint32_t bytes = word();
            lengths.push_back(bytes);
            call.buffers.emplace_back(bytes == NONE ? 0 : bytes / 8 + 4);
            if (bytes == NONE) continue;
            if (i + 1 < shape[4] || shape[6] > 0) read(call.start(i), bytes);
            else std::memset(call.start(i), 0xff, bytes);
        }
        call.numbers.resize(shape[5]);
        read(call.numbers.data(), call.numbers.size() * 4);
        const auto found = kernels.find(name);
        if (found == kernels.end()) {
            std::fprintf(stderr, "there is no kernel %s\n", name.c_str());
            return 1;
        }
        found->second(call);
        for (uint32_t i = shape[4] - max(shape[6], 1u); i < shape[4]; i++) {
            std::fwrite(call.start(i), 1, lengths[i], stdout);
        }
        std::fflush(stdout);
    }
}
