// Granule cells on the GPU: how a warp works out the activity of a few of them for a tile of pictures.
//
// The lanes of a warp are pictures. The mossy activity of a tile lies as (d, pictures), in shared memory
// where it fits, so that a synapse is one load without bank conflicts at an address that all lanes share;
// index, weight and threshold are the same for all lanes and come through a small stage in shared memory,
// where they are read as 16-byte broadcasts.
#pragma once

#include <cstdint>

#include "circuit.h"
#include "cuda_launch.h"

namespace cerebsim {
namespace cuda {

constexpr int LANES = 32;
constexpr int WARPS = 16;  // of a block; part of the order of summation
constexpr int THREADS = WARPS * LANES;
constexpr int CELLS = 8;  // granule cells that a warp takes at a time
constexpr int PADDED = LANES + 1;  // a square of this width is turned without bank conflicts

// N numbers that are loaded and stored in one piece.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
    T at[N];
};
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load(const T* from) {
    return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <int N>
__device__ __forceinline__ void store(float* to, const float (&values)[N]) {
    Pack<float, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) pack.at[i] = values[i];
    *reinterpret_cast<Pack<float, N>*>(to) = pack;
}

__device__ __forceinline__ int lane_of_warp() { return static_cast<int>(threadIdx.x) % LANES; }
__device__ __forceinline__ int warp_of_block() { return static_cast<int>(threadIdx.x) / LANES; }

// A NaN stays one, so that bad input shows.
__device__ __forceinline__ float relu(float u) {
#ifdef __CUDA_ARCH__
    float h;
    asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(h) : "f"(u));  // one instruction; fmaxf would drop the NaN
    return h;
#else
    return u < 0 ? 0.0f : u;
#endif
}

__device__ __forceinline__ int index_at(const Wiring& J, int64_t synapse) {
    return J.wide ? static_cast<const int32_t*>(J.indices)[synapse] : static_cast<const int16_t*>(J.indices)[synapse];
}

// Synapses of CELLS granule cells on their way to all lanes: K of each cell, offsets into the tile in bytes.
template <int K>
struct alignas(16) Stage {
    int offsets[CELLS * K];
    float weights[CELLS * K];
    float thresholds[CELLS];
};

// u (CELLS, V) = J^T x - threshold of the cells first ... first + CELLS - 1 for this lane's V pictures of a
// tile (d, LANES V); cells from `end` on have no synapses and u = 0. prepare() loads to registers what more
// the caller needs and settle() stores it to shared memory, so that all loads are under way together.
template <int V, int K, class Prepare, class Settle>
__device__ __forceinline__ void gather(const Wiring& J, int first, int end, const float* tile, Stage<K>& stage,
                                       float (&u)[CELLS][V], const Prepare& prepare, const Settle& settle) {
    constexpr int ROW = LANES * V * sizeof(float);
    const int lane = lane_of_warp(), g = lane % CELLS, r = lane / CELLS;
    const bool there = first + g < end;
    for (int r0 = 0; r0 < J.k; r0 += K) {
        const bool synapse = r < K && there && r0 + r < J.k;
        const int64_t at = (r0 + r) * J.m + first + g;
        const int offset = synapse ? index_at(J, at) * ROW : 0;
        const float weight = synapse ? J.weights[at] : 0.0f;
        const float threshold = J.thresholds && there ? J.thresholds[first + g] : 0.0f;
        if (r0 == 0) prepare();
        __syncwarp();  // all lanes have read what the stage held before
        if (r < K) {
            stage.offsets[g * K + r] = offset;
            stage.weights[g * K + r] = weight;
        }
        if (r == 0) stage.thresholds[g] = threshold;
        if (r0 == 0) settle();
        __syncwarp();
        if (r0 == 0) {
            const auto low = load<4>(stage.thresholds), high = load<4>(stage.thresholds + 4);
#pragma unroll
            for (int i = 0; i < CELLS; ++i)
#pragma unroll
                for (int v = 0; v < V; ++v) u[i][v] = i < 4 ? -low.at[i % 4] : -high.at[i % 4];
        }
        const char* mine = reinterpret_cast<const char*>(tile + lane * V);
#pragma unroll
        for (int i = 0; i < CELLS; ++i) {
            const auto offsets = load<K>(stage.offsets + i * K);
            const auto weights = load<K>(stage.weights + i * K);
#pragma unroll
            for (int s = 0; s < K; ++s) {
                const auto x = load<V>(reinterpret_cast<const float*>(mine + offsets.at[s]));
#pragma unroll
                for (int v = 0; v < V; ++v) u[i][v] += weights.at[s] * x.at[v];
            }
        }
    }
}

// Copies n numbers, a multiple of 4 at a multiple of 16 bytes, to shared memory; all threads of the block.
__device__ __forceinline__ void copy_in(float* to, const float* from, int64_t n) {
#pragma unroll 8
    for (int64_t i = 4 * static_cast<int64_t>(threadIdx.x); i < n; i += 4 * THREADS)
        *reinterpret_cast<Pack<float, 4>*>(to + i) = load<4>(from + i);
    __syncthreads();
}

// Turns rows of `width` numbers into tiles: out (tiles, width, P) from in (rows, width), P a multiple of 32.
// Slot s of a step's tiles holds row order[*at + step per_step + s], or row step per_step + s where there is
// no order; slots beyond the step's rows hold 0. A block takes 32 slots and 32 columns at a time.
__global__ void __launch_bounds__(THREADS)
    turn(const float* in, const int64_t* order, const int64_t* at, int64_t rows, int64_t per_step,
         int64_t slots_per_step, int64_t width, int P, float* out) {
    if (order) order += *at;
    float* square = shared_memory();  // (LANES, PADDED)
    const int column = lane_of_warp();
    const int64_t slot0 = static_cast<int64_t>(blockIdx.x) * LANES;
    const int64_t step = slot0 / slots_per_step, place0 = slot0 % slots_per_step;
    const int64_t stride = static_cast<int64_t>(gridDim.y) * LANES;
    for (int64_t p0 = static_cast<int64_t>(blockIdx.y) * LANES; p0 < width; p0 += stride) {
        for (int i = warp_of_block(); i < LANES; i += WARPS) {
            const int64_t place = place0 + i, picture = step * per_step + place;
            float value = 0;
            if (place < per_step && picture < rows && p0 + column < width)
                value = in[(order ? order[picture] : picture) * width + p0 + column];
            square[i * PADDED + column] = value;
        }
        __syncthreads();
        for (int i = warp_of_block(); i < LANES && p0 + i < width; i += WARPS)
            out[slot0 / P * P * width + (p0 + i) * P + slot0 % P + column] = square[column * PADDED + i];
        __syncthreads();
    }
}

}  // namespace cuda
}  // namespace cerebsim
