// Threads are started per call: 10-20 us each, against kernels of a millisecond; nothing outlives
// the call, so a fork (DataLoader workers) finds no broken pool.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace cerebsim {

// While it lives, this thread takes numbers below 1e-38 for 0. The averages of cells that fell silent
// decay through that range for thousands of steps, and x86 handles each such number a hundred times
// slower than others.
class TinyIsZero {
public:
#if defined(__SSE__)
    TinyIsZero() : before_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(before_ | 0x8040); }
    ~TinyIsZero() { __builtin_ia32_ldmxcsr(before_); }

private:
    unsigned before_;
#endif
};

// Runs work(0) ... work(threads - 1) at the same time; work must not throw.
template <class Work>
void run_threads(int threads, const Work& task) {
    const auto work = [&task](int thread) {
        const TinyIsZero here;
        task(thread);
    };
    std::atomic<int> gate{0};  // 1: go, 2: a thread could not be started, go home
    std::vector<std::thread> team;
    try {
        team.reserve(threads > 1 ? threads - 1 : 0);
        for (int i = 1; i < threads; ++i)
            team.emplace_back([&gate, &work, i] {
                int state;
                while ((state = gate.load(std::memory_order_acquire)) == 0) std::this_thread::yield();
                if (state == 1) work(i);
            });
    } catch (...) {
        gate.store(2, std::memory_order_release);
        for (auto& t : team) t.join();
        throw;
    }
    gate.store(1, std::memory_order_release);
    work(0);
    for (auto& t : team) t.join();
}

// Runs task(0, thread) ... task(n - 1, thread), each once, on whichever thread is free.
template <class Task>
void run_tasks(int threads, int64_t n, const Task& task) {
    std::atomic<int64_t> next{0};
    if (threads > n) threads = static_cast<int>(n);
    run_threads(threads, [&](int thread) {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) task(i, thread);
    });
}

// All threads wait for the last; spins, since the wait is shorter than a system call.
class Barrier {
public:
    explicit Barrier(int threads) : threads_(threads) {}
    void wait() {
        const unsigned round = round_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
            if (spins > 4096) std::this_thread::yield();  // more threads than cores
    }

private:
    const int threads_;
    std::atomic<int> arrived_{0};
    std::atomic<unsigned> round_{0};
};

}  // namespace cerebsim
