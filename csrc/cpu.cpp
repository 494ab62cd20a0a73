// The CPU backend: the kernels compiled for every instruction set, and the choice between them.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <vector>

#include "circuit.h"
#include "cpu_threads.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace cerebsim {
namespace {
struct Kernels {
    decltype(&granule) granule_;
    decltype(&granule_backward) granule_backward_;
    decltype(&circuit) circuit_;
    decltype(&circuit_backward_x) circuit_backward_x_;
    decltype(&circuit_backward_W) circuit_backward_W_;
    decltype(&learn) learn_;
};
}  // namespace
}  // namespace cerebsim

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed to inlined functions only

// The floats of a vector, and how many vectors of sums a product keeps in registers.
#define FLOATS 4
#if defined(__SSE2__)
#define SUMS 10  // of 16 registers
#else
#define SUMS 20  // of 32
#endif
#define ISA baseline
#include "cpu_kernels.h"
#undef ISA

#if defined(__x86_64__) && defined(__GNUC__)
#define X86_DISPATCH
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#undef FLOATS
#define FLOATS 8
#define ISA avx2
#include "cpu_kernels.h"
#undef ISA

#undef FLOATS
#undef SUMS
#define FLOATS 16
#define SUMS 20
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#endif
#define ISA avx512
#include "cpu_kernels.h"
#undef ISA
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

namespace cerebsim {
namespace {

struct Choice {
    const char* name;
    const Kernels* kernels;
};

// What this machine can run, the best first.
const std::vector<Choice>& choices() {
    static const std::vector<Choice> all = [] {
        std::vector<Choice> able;
#ifdef X86_DISPATCH
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
            able.push_back({"avx512", &avx512::kernels});
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
            able.push_back({"avx2", &avx2::kernels});
#endif
        able.push_back({"baseline", &baseline::kernels});
        return able;
    }();
    return all;
}
std::atomic<const Choice*> chosen{nullptr};
const Choice& choice() {
    const Choice* one = chosen.load(std::memory_order_relaxed);
    return one ? *one : choices().front();
}

// No more threads than the work is worth: a thread costs as much as some 20,000 multiply-adds.
int worth(int threads, int64_t multiply_adds) {
    return static_cast<int>(std::clamp<int64_t>(multiply_adds / 50000, 1, std::max(threads, 1)));
}

// Asks for large pages under n floats that are about to be written. A large tensor is new memory, and in
// pages of 4 KB the system's work on them takes longer than ours. A wish: where it is refused nothing changes.
void wish_large_pages(float* p, int64_t n) {
#ifdef MADV_HUGEPAGE
    constexpr uintptr_t LARGE = 2 << 20;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(p) + LARGE - 1) / LARGE * LARGE;
    const uintptr_t end = reinterpret_cast<uintptr_t>(p + n) / LARGE * LARGE;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)p, (void)n;
#endif
}

}  // namespace

const char* instruction_set() { return choice().name; }

std::vector<const char*> instruction_sets() {
    std::vector<const char*> names;
    for (const Choice& one : choices()) names.push_back(one.name);
    return names;
}

void use_instruction_set(const char* name) {
    for (const Choice& one : choices())
        if (std::strcmp(one.name, name) == 0) return chosen.store(&one);
    throw std::invalid_argument(std::string("this machine cannot run ") + name);
}

void granule(const Wiring& J, const float* x, int64_t B, float* h, int threads) {
    wish_large_pages(h, B * J.m);
    choice().kernels->granule_(J, x, B, h, worth(threads, B * J.m * J.k));
}

void granule_backward(const Wiring& J, const float* x, int64_t B, const float* grad_h, float* grad_x, int threads) {
    choice().kernels->granule_backward_(J, x, B, grad_h, grad_x, worth(threads, 2 * B * J.m * J.k));
}

void circuit(const Wiring& J, const float* x, int64_t B, const float* W, const float* mu, int64_t c,
             uint32_t* fired, float* y, int threads) {
    choice().kernels->circuit_(J, x, B, W, mu, c, fired, y, worth(threads, B * J.m * (J.k + c)));
}

void circuit_backward_x(const Wiring& J, const float* x, int64_t B, const float* W, int64_t c, const float* grad_y,
                        const uint32_t* fired, float* grad_x, int threads) {
    const int team = worth(threads, B * J.m * (2 * J.k + c));
    choice().kernels->circuit_backward_x_(J, x, B, W, c, grad_y, fired, grad_x, team);
}

void circuit_backward_W(const Wiring& J, const float* x, int64_t B, const float* mu, int64_t c, const float* grad_y,
                        float* grad_W, int threads) {
    choice().kernels->circuit_backward_W_(J, x, B, mu, c, grad_y, grad_W, worth(threads, B * J.m * (J.k + c)));
}

int64_t learn(const Wiring& J, const float* x, const float* t, const int64_t* order, int64_t N, int64_t batch,
              float* W, int64_t c, float* mu, float* square_avg, const Rule& rule, float* y, int threads,
              const Tick& tick) {
    const int team = worth(threads, std::min(N, batch) * J.m * (2 * J.k + 2 * c));
    return choice().kernels->learn_(J, x, t, order, N, batch, W, c, mu, square_avg, rule, y, team, tick);
}

}  // namespace cerebsim
