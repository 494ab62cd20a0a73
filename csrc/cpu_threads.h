// The threads of a call are OpenMP's, which torch uses too: between its operations they wait awake
// for the next, and threads of our own would share the processors with them. OpenMP's do not survive
// a fork (multiprocessing, DataLoader workers). There, and where the compiler has no OpenMP, a call
// starts its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#include <pthread.h>
#endif

namespace cerebsim {

#ifdef _OPENMP
inline bool forked = false;  // this process is the child of one that had loaded us
inline const int forks_are_noticed = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

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

// Runs task(0, team) ... task(team - 1, team) at the same time, the first of them on this thread;
// task must not throw. The team may be smaller than `threads`, if OpenMP says so.
template <class Task>
void run_threads(int threads, const Task& task) {
    const auto work = [&task](int thread, int team) {
        const TinyIsZero here;
        task(thread, team);
    };
    if (threads <= 1) return work(0, 1);  // none, where there is nothing to do
#ifdef _OPENMP
    if (!forked) {
#pragma omp parallel num_threads(threads)
        work(omp_get_thread_num(), omp_get_num_threads());
        return;
    }
#endif
    std::atomic<int> gate{0};  // 1: go, 2: a thread could not be started, go home
    std::vector<std::thread> started;
    try {
        started.reserve(threads - 1);
        for (int i = 1; i < threads; ++i)
            started.emplace_back([&gate, &work, i, threads] {
                int state;
                while ((state = gate.load(std::memory_order_acquire)) == 0) std::this_thread::yield();
                if (state == 1) work(i, threads);
            });
    } catch (...) {
        gate.store(2, std::memory_order_release);
        for (auto& t : started) t.join();
        throw;
    }
    gate.store(1, std::memory_order_release);
    work(0, threads);
    for (auto& t : started) t.join();
}

// Runs task(0, thread) ... task(n - 1, thread), each once, on whichever thread is free.
template <class Task>
void run_tasks(int threads, int64_t n, const Task& task) {
    std::atomic<int64_t> next{0};
    if (threads > n) threads = static_cast<int>(n);
    run_threads(threads, [&](int thread, int) {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) task(i, thread);
    });
}

// All of so many threads wait for the last; spins, since the wait is shorter than a system call.
class Barrier {
public:
    void wait(int threads) {
        const unsigned round = round_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
            if (spins > 4096) std::this_thread::yield();  // more threads than cores
    }

private:
    std::atomic<int> arrived_{0};
    std::atomic<unsigned> round_{0};
};

}  // namespace cerebsim
