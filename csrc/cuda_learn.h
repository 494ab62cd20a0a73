// The gradient to W, and learning. A batch takes three kernels: `respond`, with mu as it was; `collect`,
// which turns that into y and the errors; and `correlate`, which moves mu, the square average and W. Which
// rows a batch has stands in a counter on the device, *at, so that all of it can be replayed as a graph.
#pragma once

#include "cuda_circuit.h"

namespace cerebsim {
namespace cuda {

// y (B, c) and errors (B, c) of a batch from parts (shares, outputs, slots) of W (h - mu), mu still unmoved;
// a block takes one output. Where mu moves first, by step (mean h - mu), y sinks by step times the mean of
// W (h - mu) over the batch: the same algebra without another sweep over the cells. t has a row for every
// picture; error_sums (c) are over the batch. order and y: from row *at on.
__global__ void __launch_bounds__(SUM_WARPS* LANES)
    collect(const float* parts, int64_t shares, int64_t outputs, int64_t slots, int64_t B, int64_t c, int64_t j0,
            const float* t, const int64_t* order, const int64_t* at, float step, float scale, float* y, float* errors,
            float* error_sums) {
    order += *at;
    y += *at * c;
    float* sums = shared_memory();  // (SUM_WARPS, LANES), then LANES more
    float* lanes = sums + SUM_WARPS * LANES;
    const int lane = lane_of_warp();
    const int64_t j = j0 + blockIdx.x;
    float total = 0;
    for (int64_t b = lane; b < (B + LANES - 1) / LANES * LANES; b += LANES) {
        const float sum = sum_of_shares(parts, shares, outputs * slots, blockIdx.x * slots + b, sums);
        if (warp_of_block() > 0 || b >= B) continue;
        y[b * c + j] = sum;
        total += sum;
    }
    if (warp_of_block() > 0) return;
    lanes[lane] = total;
    __syncwarp();
    float mean = 0;
    for (int i = 0; i < LANES; ++i) mean += lanes[i];
    mean /= static_cast<float>(B);
    __syncwarp();
    total = 0;
    for (int64_t b = lane; b < B; b += LANES) {
        const float value = y[b * c + j] - step * mean;
        const float error = scale * (value - t[order[b] * c + j]);
        y[b * c + j] = value;
        errors[b * c + j] = error;
        total += error;
    }
    lanes[lane] = total;
    __syncwarp();
    if (lane > 0) return;
    total = 0;
    for (int i = 0; i < LANES; ++i) total += lanes[i];
    error_sums[j] = total;
}

constexpr int OCTET = 8;          // pictures that a thread takes at a time
constexpr int SUMMED = 4 * OCTET;  // pictures summed by themselves before they join the sum over the batch

// What becomes of the gradient to W.
struct Plasticity {
    float* grad_W;            // where it is stored; or null, and
    float* W;                 // W descends,
    float* square_avg;        // by RMSprop unless this is null,
    float* mu;                // and mu moves unless this is null.
    const float* error_sums;  // (c)
    Rule rule;
};

// W of one granule cell and output descends by its gradient dW, by RMSprop or plainly.
__device__ __forceinline__ void descend(const Rule& rule, float dW, bool rmsprop, float* square_avg, float* W) {
    float step = dW;
    if (rmsprop) {
        const float s = *square_avg + (1 - rule.decay) * (dW * dW - *square_avg);
        *square_avg = s;
        step = dW / (sqrtf(s) + rule.rms_eps);
    }
    *W -= rule.learning_rate * step;
}

__global__ void advance(int64_t* at, int64_t rows) {
    if (threadIdx.x == 0) *at += rows;
}

template <int C>
int64_t correlate_bytes(int64_t d_shared, int64_t pictures) {
    return 4 * (d_shared * pictures + pictures * ((C + 3) / 4 * 4));
}

// dW (c, m) = errors (B, c)^T (h - mu). The lanes of a warp are granule cells here, since the sum is over
// pictures, and so is the mean of h; a block keeps `pictures` rows of x in shared memory as (quads of
// pictures, d, 4), so that a synapse of four pictures is one load, at the price of bank conflicts. The rows
// are order[*at] and on, or the first B where there is no order.
//
// Of 32 cells and 4 pictures: k loads of 16 bytes per lane, about 11 cycles of shared memory each by the
// chance of conflicts; C / 4 broadcasts per picture; 4 (k + C + 2) multiply-adds.
template <int C, bool SHARED>
__global__ void __launch_bounds__(THREADS, 1)
    correlate(Wiring J, const float* x, const int64_t* order, const int64_t* at, int64_t B, int64_t pictures,
              const float* mu, int64_t c, const float* errors, Plasticity to) {
    if (order) order += *at;
    constexpr int WIDTH = (C + 3) / 4 * 4;
    float* xs = shared_memory();
    float* es = SHARED ? xs + J.d * pictures : xs;  // (pictures, WIDTH)
    const auto row = [&](int64_t b) { return (order ? order[b] : b) * J.d; };
    bool loaded = false;  // x is kept from one group of cells to the next where all pictures fit

    for (int64_t group = blockIdx.x; group * THREADS < J.m; group += gridDim.x) {
        const int64_t g = group * THREADS + threadIdx.x;
        const bool there = g < J.m;
        const float threshold = J.thresholds && there ? J.thresholds[g] : 0.0f;
        const float centre = mu && there ? mu[g] : 0.0f;
        float moved = 0;  // how far mu moves
        for (int64_t j0 = 0; j0 < c; j0 += C) {
            float dW[C] = {}, h_sum = 0;
            for (int64_t b0 = 0; b0 < B; b0 += pictures) {
                __syncthreads();  // all threads have read what the memory held before
                if (SHARED && !loaded) {
                    for (int64_t q = 0; q < pictures / 4 && b0 + 4 * q < B; ++q)
                        for (int64_t p = threadIdx.x; p < J.d; p += THREADS) {
                            float four[4];
#pragma unroll
                            for (int i = 0; i < 4; ++i)
                                four[i] = b0 + 4 * q + i < B ? x[row(b0 + 4 * q + i) + p] : 0.0f;
                            store<4>(xs + (q * J.d + p) * 4, four);
                        }
                    loaded = B <= pictures;
                }
                for (int64_t i = threadIdx.x; i < pictures * WIDTH; i += THREADS) {
                    const int64_t b = b0 + i / WIDTH, j = j0 + i % WIDTH;
                    es[i] = b < B && j < c ? errors[b * c + j] : 0.0f;
                }
                __syncthreads();
                for (int64_t s0 = 0; s0 < pictures && b0 + s0 < B; s0 += SUMMED) {
                    float part[C] = {}, h_part = 0;
                    for (int64_t o = s0; o < s0 + SUMMED && b0 + o < B; o += OCTET) {
                        float u[OCTET];
#pragma unroll
                        for (int i = 0; i < OCTET; ++i) u[i] = -threshold;
                        for (int64_t r = 0; r < J.k; ++r) {
                            const int64_t p = there ? index_at(J, r * J.m + g) : 0;
                            const float weight = there ? J.weights[r * J.m + g] : 0.0f;
                            if (SHARED) {
                                // The second quad is read where it holds no picture too; what is there is not used.
#pragma unroll
                                for (int q = 0; q < OCTET / 4; ++q) {
                                    const auto four = load<4>(xs + ((o / 4 + q) * J.d + p) * 4);
#pragma unroll
                                    for (int i = 0; i < 4; ++i) u[4 * q + i] += weight * four.at[i];
                                }
                            } else {
#pragma unroll
                                for (int i = 0; i < OCTET; ++i)
                                    if (b0 + o + i < B) u[i] += weight * x[row(b0 + o + i) + p];
                            }
                        }
#pragma unroll
                        for (int i = 0; i < OCTET; ++i) {
                            if (b0 + o + i >= B) continue;
                            const float z = relu(u[i]) - centre;
                            h_part += z;
#pragma unroll
                            for (int j = 0; j < WIDTH; j += 4) {
                                const auto four = load<4>(es + (o + i) * WIDTH + j);
#pragma unroll
                                for (int a = 0; a < 4 && j + a < C; ++a) part[j + a] += four.at[a] * z;
                            }
                        }
                    }
                    h_sum += h_part;
#pragma unroll
                    for (int j = 0; j < C; ++j) dW[j] += part[j];
                }
            }
            moved = (1 - to.rule.ltd_decay) * (h_sum / static_cast<float>(B));
#pragma unroll
            for (int j = 0; j < C; ++j) {
                if (!there || j0 + j >= c) continue;
                const bool before = to.mu && to.rule.ltd_before;
                const float gradient = before ? dW[j] - to.error_sums[j0 + j] * moved : dW[j];
                const int64_t synapse = (j0 + j) * J.m + g;
                if (to.grad_W)
                    to.grad_W[synapse] = gradient;
                else
                    descend(to.rule, gradient, to.square_avg, to.square_avg + synapse, to.W + synapse);
            }
        }
        if (to.mu && there) to.mu[g] = centre + moved;
    }
}

}  // namespace cuda
}  // namespace cerebsim
