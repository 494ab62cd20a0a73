// Two ceilings of this machine, in float32: multiply-adds per second from registers, and bytes per
// second read and written by a copy of arrays that no cache holds. Usage: peak THREADS
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
typedef float Lanes __attribute__((vector_size(4 * LANES)));

// Enough independent sums to cover the latency of two multiply-add units, few enough for registers.
constexpr int SUMS = 12;

static double seconds(int threads, const std::function<void(int)>& work) {
    auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> pool;
    for (int i = 0; i < threads; i++) pool.emplace_back(work, i);
    for (auto& thread : pool) thread.join();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

static float multiply_add(long repeats) {
    Lanes sum[SUMS], a, b;
    for (int j = 0; j < LANES; j++) a[j] = 0.999f, b[j] = 0.001f * j;
    for (auto& s : sum) s = b;
    for (long i = 0; i < repeats; i++) {
#pragma GCC unroll 12
        for (int s = 0; s < SUMS; s++) sum[s] = sum[s] * a + b;
    }
    float total = 0;
    for (auto& s : sum) total += s[0] + s[LANES - 1];
    return total;
}

int main(int argc, char** argv) {
    const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
    const long repeats = 40'000'000;
    const size_t bytes = size_t(256) << 20;
    std::vector<float> kept(threads);
    std::vector<std::vector<char>> from(threads), to(threads);
    for (int i = 0; i < threads; i++) from[i].assign(bytes, 1), to[i].assign(bytes, 2);

    double fma = 1e9, copy = 1e9;
    for (int round = 0; round < 3; round++) {
        fma = std::min(fma, seconds(threads, [&](int i) { kept[i] = multiply_add(repeats); }));
        copy = std::min(copy, seconds(threads, [&](int i) {
            std::memcpy(to[i].data(), from[i].data(), bytes);
        }));
    }
    float shown = to[0][bytes / 2];
    for (float value : kept) shown += value;
    std::fprintf(stderr, "%g\n", shown);  // keeps the work from being optimised away
    std::printf("%.0f %.0f\n", double(repeats) * SUMS * LANES * threads / fma,
                2.0 * bytes * threads / copy);
}
