// An emulator of a GPU for the tests: compiled with g++ -include, the kernels of csrc/cuda.cu run on a CPU,
// with their own indexing, barriers and shuffles. Threads of a block are fibers; all lanes of a warp meet at
// __syncwarp and __shfl_sync, all threads of a block at __syncthreads, and where some do not come, or come to
// another meeting, the emulator says so. Shared memory starts as NaN and is guarded at its end.
#pragma once

#define CUDA_ON_HOST

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cerebsim {
namespace cuda {

// The device that is emulated; the tests change it, and no result may.
struct Device {
    int64_t processors;
    int64_t shared_bytes;
};
inline Device emulated{132, 227 << 10};
inline Device device() { return emulated; }
extern "C" __attribute__((visibility("default"), used)) inline void emulate(int64_t processors, int64_t shared_bytes) {
    emulated = {processors, shared_bytes};
}

enum State { RUNNING, AT_WARP, AT_BLOCK, AT_GRID, DONE };

// A block and its threads.
class Block {
   public:
    void start(dim3 block, int threads, int64_t shared_bytes, const std::function<void()>& kernel) {
        block_ = block;
        threads_ = threads;
        kernel_ = &kernel;
        while (fibers_.size() < static_cast<size_t>(threads)) fibers_.push_back(std::make_unique<Fiber>());
        shared_.assign(shared_bytes / 4 + GUARD, std::numeric_limits<float>::quiet_NaN());
        states_.assign(threads, RUNNING);
        exchange_.resize(threads);
    }
    // Until all threads are done, or wait for the other blocks.
    State run() {
        do {
            for (int first = 0; first < threads_; first += 32) run_warp(first);
            for (State state : states_)
                if (state != states_[0]) throw std::runtime_error("a block did not meet with all its threads");
        } while (states_[0] == AT_BLOCK);
        const float guard = std::numeric_limits<float>::quiet_NaN();
        for (int64_t i = 0; i < GUARD; ++i)
            if (std::memcmp(&guard, &shared_[shared_.size() - 1 - i], sizeof(float)) != 0)
                throw std::runtime_error("shared memory was written past its end");
        return states_[0];
    }
    void meet(State where) {
        states_[thread_] = where;
        if (_setjmp(fibers_[thread_]->place) == 0) _longjmp(scheduler_, 1);
    }
    template <class T>
    T exchange(T value, int lane) {
        static_assert(sizeof(T) <= 8, "one register or two");
        std::memcpy(&exchange_[thread_], &value, sizeof(T));
        meet(AT_WARP);
        std::memcpy(&value, &exchange_[thread_ / 32 * 32 + lane], sizeof(T));
        meet(AT_WARP);
        return value;
    }
    float* shared() { return shared_.data(); }
    int lane() const { return thread_ % 32; }

   private:
    static constexpr int64_t GUARD = 1 << 10;
    struct Fiber {
        bool born = false;
        jmp_buf place;
        ucontext_t start;
        std::unique_ptr<char[]> stack{new char[STACK]};
        static constexpr size_t STACK = 1 << 15;
    };

    void run_warp(int first) {
        if (states_[first] == DONE) return;
        do {
            for (thread_ = first; thread_ < first + 32; ++thread_) resume();
            for (int lane = 1; lane < 32; ++lane)
                if (states_[first + lane] != states_[first]) throw std::runtime_error("a warp went apart");
        } while (states_[first] == AT_WARP);
    }
    // Lets the current thread run until it meets. Only its first start goes through the system.
    void resume() {
        current = this;
        blockIdx = block_;
        threadIdx.x = thread_;
        Fiber& fiber = *fibers_[thread_];
        if (_setjmp(scheduler_) != 0) return;
        if (fiber.born) _longjmp(fiber.place, 1);
        fiber.born = true;
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.get();
        fiber.start.uc_stack.ss_size = Fiber::STACK;
        makecontext(&fiber.start, &Block::live, 0);
        setcontext(&fiber.start);
    }
    static void live() {  // what a thread does: kernel after kernel
        for (;;) {
            (*current->kernel_)();
            current->meet(DONE);
        }
    }

   public:
    static Block* current;  // the one that runs

   private:
    int threads_ = 0;
    std::vector<std::unique_ptr<Fiber>> fibers_;
    std::vector<State> states_;
    std::vector<uint64_t> exchange_;
    std::vector<float> shared_;
    const std::function<void()>* kernel_ = nullptr;
    dim3 block_;
    jmp_buf scheduler_;
    int thread_ = 0;
};
inline Block* Block::current = nullptr;

inline float* shared_memory() { return Block::current->shared(); }
inline void grid_arrive(unsigned*) { Block::current->meet(AT_BLOCK); }
inline void grid_wait(unsigned*, unsigned) { Block::current->meet(AT_GRID); }

inline std::vector<std::unique_ptr<Block>> blocks;  // kept from launch to launch: threads are slow to make

template <class... Parameters, class... Arguments>
void launch_as(bool together, void (*kernel)(Parameters...), dim3 grid, int threads, int64_t shared_bytes, void*,
               const Arguments&... arguments) {
    const std::tuple<std::remove_reference_t<Parameters>...> kept(arguments...);
    const std::function<void()> run = [&] { std::apply(kernel, kept); };
    if (shared_bytes > (227 << 10)) throw std::runtime_error("too much shared memory");
    if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535 || threads > 1024 || threads % 32)
        throw std::runtime_error("no such grid");
    gridDim = grid;
    blockDim = dim3(threads);
    size_t number = 0;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                if (blocks.size() == number) blocks.push_back(std::make_unique<Block>());
                Block& block = *blocks[number];
                block.start(dim3(x, y, z), threads, shared_bytes, run);
                if (together) ++number;
                if (!together && block.run() != DONE) throw std::runtime_error("blocks cannot meet");
            }
    if (!together) return;
    if (static_cast<int64_t>(number) > emulated.processors) throw std::runtime_error("too many blocks");
    for (State all = RUNNING; all != DONE;) {
        all = blocks[0]->run();
        for (size_t i = 1; i < number; ++i)
            if (blocks[i]->run() != all) throw std::runtime_error("some blocks did not meet the others");
    }
}
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, int64_t shared_bytes, void* stream,
            const Arguments&... arguments) {
    launch_as(false, kernel, grid, threads, shared_bytes, stream, arguments...);
}

}  // namespace cuda
}  // namespace cerebsim

inline void __syncthreads() { cerebsim::cuda::Block::current->meet(cerebsim::cuda::AT_BLOCK); }
inline void __syncwarp() { cerebsim::cuda::Block::current->meet(cerebsim::cuda::AT_WARP); }
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
    return cerebsim::cuda::Block::current->exchange(value, lane);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return cerebsim::cuda::Block::current->exchange(value, cerebsim::cuda::Block::current->lane() ^ mask);
}
inline float __ldcg(const float* from) { return *from; }
