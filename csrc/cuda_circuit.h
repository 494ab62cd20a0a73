// The forward kernel: from a tile of pictures to the outputs, without h.
#pragma once

#include "cuda_cells.h"

namespace cerebsim {
namespace cuda {

// The outputs of C Purkinje cells of CELLS granule cells on their way to all lanes. Rows of an odd number of
// 16 bytes, so that storing them has no bank conflict either.
template <int C>
struct alignas(16) Readout {
    static constexpr int STRIDE = (C + 3) / 4 % 2 ? (C + 3) / 4 * 4 : (C + 3) / 4 * 4 + 4;
    static constexpr int LOADS = (CELLS * C + LANES - 1) / LANES;
    float W[CELLS * STRIDE];
    float mu[CELLS];

    // The numbers W (first output + j, first + g) that this lane carries.
    __device__ __forceinline__ static void fetch(const float* W, int64_t m, int first, int end, int outputs,
                                                 float (&carried)[LOADS]) {
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            const int number = lane_of_warp() + i * LANES, g = number % CELLS, j = number / CELLS;
            carried[i] = first + g < end && j < C && j < outputs ? W[j * m + first + g] : 0.0f;
        }
    }
    __device__ __forceinline__ void settle(const float (&carried)[LOADS]) {
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            const int number = lane_of_warp() + i * LANES, g = number % CELLS, j = number / CELLS;
            if (j < C) W[g * STRIDE + j] = carried[i];
        }
    }
    // The C weights of granule cell g, then padding.
    __device__ __forceinline__ void row(int g, float (&weights)[STRIDE]) const {
#pragma unroll
        for (int j = 0; j < C; j += 4) {
            const auto four = load<4>(W + g * STRIDE + j);
#pragma unroll
            for (int i = 0; i < 4; ++i) weights[j + i] = four.at[i];
        }
    }
};

constexpr int SUMMED_AT_ONCE = 2;  // outputs whose warps' sums are in shared memory together

// Bytes of shared memory of `respond`.
template <int V, int K, int C>
int64_t respond_bytes(int64_t d_shared) {
    const int64_t staged = WARPS * (sizeof(Stage<K>) + sizeof(Readout<C>));
    return 4 * d_shared * LANES * V + staged + 4 * WARPS * SUMMED_AT_ONCE * LANES * V;
}

// parts (shares, outputs, slots): W (h - mu) summed over the granule cells of each share, for every slot of
// xt (tiles, d, LANES V). A block takes one tile, C outputs and every gridDim.y-th share; its warps take the
// cells of a share in turns and add up their sums in the order of the warps.
//
// Of a cell and 64 pictures: 2 k loads of 128 bytes from shared memory, 2 k / 4 + C / 4 + 1 broadcasts and
// (k + C + 2) multiply-adds. At k = 4, C = 10 that predicts 13 cycles of shared memory and 8 of arithmetic.
template <int V, int K, int C, bool SHARED>
__global__ void __launch_bounds__(THREADS, 1)
    respond(Wiring J, const float* xt, int64_t slots, const float* W, const float* mu, int outputs, int share,
            int shares, float* parts) {
    constexpr int P = LANES * V;
    float* memory = shared_memory();
    const float* tile = xt + static_cast<int64_t>(blockIdx.x) * J.d * P;
    if (SHARED) {
        copy_in(memory, tile, J.d * P);
        tile = memory;
        memory += J.d * P;
    }
    float* sums = memory;  // (WARPS, SUMMED_AT_ONCE, P)
    memory += WARPS * SUMMED_AT_ONCE * P;
    const int lane = lane_of_warp(), warp = warp_of_block();
    auto& readout = reinterpret_cast<Readout<C>*>(memory)[warp];
    auto& stage = reinterpret_cast<Stage<K>*>(memory + WARPS * sizeof(Readout<C>) / sizeof(float))[warp];
    const int j0 = static_cast<int>(blockIdx.z) * C, left = outputs - j0;
    const int m = static_cast<int>(J.m);
    W += j0 * J.m;

    for (int s = static_cast<int>(blockIdx.y); s < shares; s += static_cast<int>(gridDim.y)) {
        const int end = m - s * share < share ? m : (s + 1) * share;
        float y[C][V] = {};
        for (int first = s * share + warp * CELLS; first < end; first += WARPS * CELLS) {
            float u[CELLS][V], carried[Readout<C>::LOADS], centre = 0;
            gather<V, K>(
                J, first, end, tile, stage, u,
                [&] {
                    Readout<C>::fetch(W, J.m, first, end, left, carried);
                    if (mu && lane < CELLS && first + lane < end) centre = mu[first + lane];
                },
                [&] {
                    readout.settle(carried);
                    if (lane < CELLS) readout.mu[lane] = centre;
                });
#pragma unroll
            for (int g = 0; g < CELLS; ++g) {
                float weights[Readout<C>::STRIDE];
                readout.row(g, weights);
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    const float z = relu(u[g][v]) - readout.mu[g];
#pragma unroll
                    for (int j = 0; j < C; ++j) y[j][v] += weights[j] * z;
                }
            }
        }
#pragma unroll
        for (int j = 0; j < C; j += SUMMED_AT_ONCE) {
#pragma unroll
            for (int i = 0; i < SUMMED_AT_ONCE; ++i)
                store<V>(sums + (warp * SUMMED_AT_ONCE + i) * P + lane * V, y[j + i]);
            __syncthreads();
            const int number = static_cast<int>(threadIdx.x), i = number / P, picture = number % P;
            if (i < SUMMED_AT_ONCE && j + i < left) {
                float sum = 0;
                for (int w = 0; w < WARPS; ++w) sum += sums[(w * SUMMED_AT_ONCE + i) * P + picture];
                const int64_t row = static_cast<int64_t>(s) * outputs + j0 + j + i;
                parts[row * slots + static_cast<int64_t>(blockIdx.x) * P + picture] = sum;
            }
            __syncthreads();
        }
    }
}

constexpr int SUM_WARPS = 8;

// The sum of parts (shares, stride) at `at`, one number per lane, for the lanes of warp 0: warps take the
// shares in turns and add up in their order. sums: SUM_WARPS LANES numbers of shared memory.
__device__ __forceinline__ float sum_of_shares(const float* parts, int64_t shares, int64_t stride, int64_t at,
                                               float* sums) {
    float sum = 0;
#pragma unroll 4
    for (int64_t s = warp_of_block(); s < shares; s += SUM_WARPS) sum += parts[s * stride + at];
    __syncthreads();  // warp 0 has read the sums before these
    sums[threadIdx.x] = sum;
    __syncthreads();
    sum = 0;
    if (warp_of_block() == 0)
        for (int w = 0; w < SUM_WARPS; ++w) sum += sums[w * LANES + lane_of_warp()];
    return sum;
}

// y (B, c) from parts (shares, outputs, slots), the first of whose outputs is y's column j0.
__global__ void __launch_bounds__(SUM_WARPS* LANES)
    add_shares(const float* parts, int64_t shares, int64_t outputs, int64_t slots, int64_t B, int64_t c, int64_t j0,
               float* y) {
    const int64_t b = static_cast<int64_t>(blockIdx.x) * LANES + lane_of_warp();
    const int64_t j = blockIdx.y;
    const float sum = sum_of_shares(parts, shares, outputs * slots, j * slots + b, shared_memory());
    if (warp_of_block() == 0 && b < B) y[b * c + j0 + j] = sum;
}

}  // namespace cuda
}  // namespace cerebsim
