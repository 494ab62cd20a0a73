// Learning picture by picture: one launch for a whole run of pictures.
//
// Since J is fixed, all that the blocks must tell one another for a picture is y: c numbers of every share
// of granule cells. So each block keeps its cells, with W, the square average, mu and J in shared memory
// where they fit, and all blocks meet once per picture. A sweep over the cells updates by the error of the
// last picture and responds to the next one.
#pragma once

#include <type_traits>

#include "cuda_learn.h"

namespace cerebsim {
namespace cuda {

constexpr int64_t MOST_OUTPUTS_ALONE = 1024;  // whose errors are in shared memory
constexpr int64_t MOST_FIBERS_ALONE = 4096;   // of two pictures in shared memory

// Numbers of a granule cell that a block keeps: W, square average, mu, threshold, z twice, and J.
inline int64_t numbers_alone(const Wiring& J, int64_t c) { return 2 * c + 4 + 2 * J.k; }
// Numbers of shared memory of `learn_alone`; cells: those that a block keeps there.
inline int64_t shared_numbers_alone(const Wiring& J, int64_t c, int64_t cells) {
    return cells * numbers_alone(J, c) + 2 * J.d + c + WARPS * 16;
}

__global__ void clear(unsigned* number) { *number = 0; }

// The sum over a warp, in a fixed order, for all its lanes.
__device__ __forceinline__ float sum_of_warp(float value) {
#pragma unroll
    for (int i = LANES / 2; i > 0; i /= 2) value += __shfl_xor_sync(0xffffffffu, value, i);
    return value;
}

// What a run of pictures is learned with: rows order[*at] ... order[*at + N - 1], and those of y.
struct Run {
    const float* x;
    const float* t;
    const int64_t* order;
    const int64_t* at;
    int64_t N;
    float* W;
    int64_t c;
    float* mu;
    float* square_avg;
    Rule rule;
    float* y;
    float* z;           // (2, m) for work, unless the cells are in shared memory
    float* parts;       // (2, shares, c) for work
    unsigned* arrived;  // 0
    int share, shares;
};

// The granule cells of a block, in shared memory or where they lie: rows of `stride` numbers.
template <class Place>
struct Kept {
    float *W, *square_avg, *mu, *z;
    const float *weights, *thresholds;
    const int* offsets;
    Place stride;
};

// z of a cell: mu moves after the last picture or before this one, and is subtracted.
template <bool KEPT, class Place>
__device__ __forceinline__ void hear(const Wiring& J, const Run& run, const Kept<Place>& at, Place l, const float* row,
                                     int64_t n) {
    const bool known = KEPT || J.thresholds;
    float u = known ? -at.thresholds[l] : 0.0f;
    for (int r = 0; r < J.k; ++r) {
        const Place synapse = r * at.stride + l;
        const int p = KEPT ? at.offsets[synapse] : index_at(J, synapse);
        u += at.weights[synapse] * row[p];
    }
    const float h = relu(u), step = 1 - run.rule.ltd_decay;
    float centre = 0;
    if (run.mu) {
        centre = at.mu[l];
        if (n > 0 && !run.rule.ltd_before) centre += step * at.z[(n % 2 ? 0 : at.stride) + l];
        if (run.rule.ltd_before) centre += step * (h - centre);
        at.mu[l] = centre;
    }
    at.z[(n % 2 ? at.stride : 0) + l] = h - centre;
}

// Learns run.N pictures; see reference.learn_ for batches of one. KEPT: the block's cells are in shared memory.
//
// Of a cell and picture: k gathers with bank conflicts, 4 c numbers of W and the square average through shared
// memory, c square roots and divisions. At m = 200,000, k = 4, c = 10 on 132 multiprocessors that predicts
// some 3 microseconds, and two more to meet.
template <int C, bool KEPT>
__global__ void __launch_bounds__(THREADS, 1) learn_alone(Wiring J, Run run) {
    using Place = std::conditional_t<KEPT, int, int64_t>;
    run.order += *run.at;
    run.y += *run.at * run.c;
    const int c = static_cast<int>(run.c);
    const int lane = lane_of_warp(), warp = warp_of_block();
    const int share = run.share, turns = (run.shares + static_cast<int>(gridDim.x) - 1) / static_cast<int>(gridDim.x);
    float* memory = shared_memory();
    float* errors = memory;  // (c)
    memory += c;
    float* sums = memory;  // (WARPS, C)
    memory += WARPS * 16;
    float* rows = memory;  // (2, d)
    memory += 2 * J.d;

    // Calls work(turn, cell in at, granule cell) for the cells of this thread.
    const auto for_cells = [&](int turn, const auto& work) {
        const int s = static_cast<int>(blockIdx.x) + turn * static_cast<int>(gridDim.x);
        for (int o = static_cast<int>(threadIdx.x); o < share; o += THREADS) {
            const int64_t g = static_cast<int64_t>(s) * share + o;
            if (s < run.shares && g < J.m) work(KEPT ? static_cast<Place>(turn * share + o) : static_cast<Place>(g), g);
        }
    };

    Kept<Place> at{run.W, run.square_avg, run.mu, run.z, J.weights, J.thresholds, nullptr,
                   static_cast<Place>(J.m)};
    if (KEPT) {
        at.stride = turns * share;
        const auto take = [&](int numbers) {
            float* piece = memory;
            memory += numbers * at.stride;
            return piece;
        };
        at.W = take(c);
        at.square_avg = take(c);
        at.mu = take(1);
        at.z = take(2);
        const int k = static_cast<int>(J.k);
        float *thresholds = take(1), *weights = take(k);
        int* offsets = reinterpret_cast<int*>(take(k));
        for (int turn = 0; turn < turns; ++turn)
            for_cells(turn, [&](Place l, int64_t g) {
                for (int j = 0; j < c; ++j) {
                    at.W[j * at.stride + l] = run.W[j * J.m + g];
                    if (run.square_avg) at.square_avg[j * at.stride + l] = run.square_avg[j * J.m + g];
                }
                if (run.mu) at.mu[l] = run.mu[g];
                thresholds[l] = J.thresholds ? J.thresholds[g] : 0.0f;
                for (int r = 0; r < k; ++r) {
                    weights[r * at.stride + l] = J.weights[r * J.m + g];
                    offsets[r * at.stride + l] = index_at(J, r * J.m + g);
                }
            });
        at.weights = weights;
        at.thresholds = thresholds;
        at.offsets = offsets;
    }
    const auto bring = [&](int64_t n) {  // x of picture n, while the others arrive
        if (n >= run.N) return;
        const float* from = run.x + run.order[n] * J.d;
        for (int64_t p = threadIdx.x; p < J.d; p += THREADS) rows[n % 2 * J.d + p] = from[p];
    };
    bring(0);
    __syncthreads();

    for (int64_t n = 0; n <= run.N; ++n) {
        float* parts = run.parts + n % 2 * run.shares * c;
        for (int turn = 0; turn < turns; ++turn) {
            if (n < run.N) {
                for_cells(turn, [&](Place l, int64_t) { hear<KEPT>(J, run, at, l, rows + n % 2 * J.d, n); });
            } else if (run.mu && !run.rule.ltd_before) {
                for_cells(turn, [&](Place l, int64_t) {
                    at.mu[l] += (1 - run.rule.ltd_decay) * at.z[(n % 2 ? 0 : at.stride) + l];
                });
            }
            for (int j0 = 0; j0 < c; j0 += C) {
                float y[C] = {};
                for_cells(turn, [&](Place l, int64_t) {
                    const float last = n > 0 ? at.z[(n % 2 ? 0 : at.stride) + l] : 0.0f;
                    const float now = n < run.N ? at.z[(n % 2 ? at.stride : 0) + l] : 0.0f;
#pragma unroll
                    for (int j = 0; j < C; ++j) {
                        if (j0 + j >= c) continue;
                        const Place synapse = (j0 + j) * at.stride + l;
                        if (n > 0)
                            descend(run.rule, errors[j0 + j] * last, run.square_avg, at.square_avg + synapse,
                                    at.W + synapse);
                        y[j] += at.W[synapse] * now;
                    }
                });
                if (n == run.N) continue;
#pragma unroll
                for (int j = 0; j < C; ++j) {
                    const float sum = sum_of_warp(y[j]);
                    if (lane == 0) sums[warp * C + j] = sum;
                }
                __syncthreads();
                const int s = static_cast<int>(blockIdx.x) + turn * static_cast<int>(gridDim.x);
                const int j = j0 + static_cast<int>(threadIdx.x);
                if (threadIdx.x < C && j < c && s < run.shares) {
                    float sum = 0;
                    for (int w = 0; w < WARPS; ++w) sum += sums[w * C + threadIdx.x];
                    parts[s * c + j] = sum;
                }
                __syncthreads();
            }
        }
        if (n == run.N) break;
        grid_arrive(run.arrived);
        bring(n + 1);
        grid_wait(run.arrived, static_cast<unsigned>(n + 1));
        for (int j = warp; j < c; j += WARPS) {
            float sum = 0;
            for (int s = lane; s < run.shares; s += LANES) sum += __ldcg(parts + s * c + j);
            sum = sum_of_warp(sum);
            if (lane > 0) continue;
            errors[j] = run.rule.error_factor * (sum - run.t[run.order[n] * c + j]);
            if (blockIdx.x == 0) run.y[n * c + j] = sum;
        }
        __syncthreads();
    }
    if (KEPT) {
        for (int turn = 0; turn < turns; ++turn)
            for_cells(turn, [&](Place l, int64_t g) {
                for (int j = 0; j < c; ++j) {
                    run.W[j * J.m + g] = at.W[j * at.stride + l];
                    if (run.square_avg) run.square_avg[j * J.m + g] = at.square_avg[j * at.stride + l];
                }
                if (run.mu) run.mu[g] = at.mu[l];
            });
    }
}

}  // namespace cuda
}  // namespace cerebsim
