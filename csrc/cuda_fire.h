// Granule cells one by one: h, and the gradient to x. The gradient g to h of a chunk of cells and some
// pictures is written where the L2 cache holds it, and gathered from there for every mossy fibre by the
// inverse of the wiring, so that there are no atomics and the order of summation is fixed.
#pragma once

#include "cuda_circuit.h"

namespace cerebsim {
namespace cuda {

// What `fire` does with the activity of granule cells. A warp takes LANES cells, from `first` on, for a tile
// of LANES pictures: begin(first), then use(first + i, i, u) for CELLS of them at a time, then end(first).
// fetch and settle are what gather is given as prepare and settle.

// h (B, m)
struct Activity {
    float* h;
    int64_t m, B;
    static constexpr int BYTES = 4 * LANES * PADDED;  // of shared memory for a warp

    struct Warp {
        const Activity& to;
        int64_t picture0;
        float* square;  // (pictures, cells)
        __device__ __forceinline__ void begin(int) {}
        __device__ __forceinline__ void fetch(int) {}
        __device__ __forceinline__ void settle() {}
        __device__ __forceinline__ void use(int, int i, const float (&u)[CELLS][1]) {
#pragma unroll
            for (int g = 0; g < CELLS; ++g) square[lane_of_warp() * PADDED + i + g] = relu(u[g][0]);
        }
        __device__ __forceinline__ void end(int first) {
            __syncwarp();
            const int g = first + lane_of_warp();
#pragma unroll 8
            for (int b = 0; b < LANES; ++b)
                if (picture0 + b < to.B && g < to.m)
                    to.h[(picture0 + b) * to.m + g] = square[b * PADDED + lane_of_warp()];
            __syncwarp();
        }
    };
};

// g (cells, slots) = grad_h (B, m) * [h > 0] of the cells cell0 ... of one chunk
struct GivenGradient {
    const float* grad_h;
    int64_t m, B, cell0, slots;
    float* g;
    static constexpr int BYTES = 4 * LANES * PADDED;

    struct Warp {
        const GivenGradient& to;
        int64_t picture0;
        float* square;
        __device__ __forceinline__ void begin(int first) {
            const int cell = first + lane_of_warp();
#pragma unroll 8
            for (int b = 0; b < LANES; ++b)
                square[b * PADDED + lane_of_warp()] =
                    picture0 + b < to.B && cell < to.m ? to.grad_h[(picture0 + b) * to.m + cell] : 0.0f;
            __syncwarp();
        }
        __device__ __forceinline__ void fetch(int) {}
        __device__ __forceinline__ void settle() {}
        __device__ __forceinline__ void use(int first, int i, const float (&u)[CELLS][1]) {
#pragma unroll
            for (int g = 0; g < CELLS; ++g)
                if (first + g < to.m)
                    to.g[(first + g - to.cell0) * to.slots + picture0 + lane_of_warp()] =
                        u[g][0] > 0 ? square[lane_of_warp() * PADDED + i + g] : 0.0f;
        }
        __device__ __forceinline__ void end(int) { __syncwarp(); }
    };
};

// g (cells, slots) = (W^T grad_y) * [h > 0]; gt (tiles, c, LANES) is grad_y in tiles
template <int C>
struct ErrorsSentBack {
    const float* W;
    const float* gt;
    int64_t m, cell0, slots;
    int c;
    float* g;
    static constexpr int BYTES = sizeof(Readout<C>);

    struct Warp {
        const ErrorsSentBack& to;
        int64_t picture0;
        Readout<C>* readout;
        float carried[Readout<C>::LOADS];
        float errors[C];

        __device__ __forceinline__ Warp(const ErrorsSentBack& to_, int64_t picture0_, float* memory)
            : to(to_), picture0(picture0_), readout(reinterpret_cast<Readout<C>*>(memory)) {
            load_errors(0);
        }
        __device__ __forceinline__ void load_errors(int j0) {
            const float* from = to.gt + picture0 * to.c + static_cast<int64_t>(j0) * LANES + lane_of_warp();
#pragma unroll
            for (int j = 0; j < C; ++j) errors[j] = j0 + j < to.c ? from[j * LANES] : 0.0f;
        }
        __device__ __forceinline__ void begin(int) {}
        __device__ __forceinline__ void fetch(int first) {
            Readout<C>::fetch(to.W, to.m, first, static_cast<int>(to.m), to.c, carried);
        }
        __device__ __forceinline__ void settle() { readout->settle(carried); }
        __device__ __forceinline__ void add(float (&sums)[CELLS]) const {
#pragma unroll
            for (int g = 0; g < CELLS; ++g) {
                float weights[Readout<C>::STRIDE];
                readout->row(g, weights);
#pragma unroll
                for (int j = 0; j < C; ++j) sums[g] += weights[j] * errors[j];
            }
        }
        __device__ __forceinline__ void use(int first, int, const float (&u)[CELLS][1]) {
            float sums[CELLS] = {};
            add(sums);
            if (to.c > C) {  // the errors of all outputs do not fit the registers
                for (int j0 = C; j0 < to.c; j0 += C) {
                    load_errors(j0);
                    Readout<C>::fetch(to.W + j0 * to.m, to.m, first, static_cast<int>(to.m), to.c - j0, carried);
                    __syncwarp();
                    readout->settle(carried);
                    __syncwarp();
                    add(sums);
                }
                load_errors(0);
            }
#pragma unroll
            for (int g = 0; g < CELLS; ++g)
                if (first + g < to.m)
                    to.g[(first + g - to.cell0) * to.slots + picture0 + lane_of_warp()] = u[g][0] > 0 ? sums[g] : 0.0f;
        }
        __device__ __forceinline__ void end(int) {}
    };
};

template <class Use, int K>
int64_t fire_bytes(int64_t d_shared) {
    return 4 * d_shared * LANES + WARPS * (sizeof(Stage<K>) + Use::BYTES);
}

// Works out the granule cells cell0 ... end - 1 for a tile of xt (tiles, d, LANES) and hands them to Use. A
// block takes one tile and, with the gridDim.y - 1 others of that tile, LANES cells per warp in turns; a
// cell's numbers do not depend on who works them out.
template <class Use, int K, bool SHARED>
__global__ void __launch_bounds__(THREADS, 1) fire(Wiring J, const float* xt, int cell0, int end, Use use) {
    float* memory = shared_memory();
    const float* tile = xt + static_cast<int64_t>(blockIdx.x) * J.d * LANES;
    if (SHARED) {
        copy_in(memory, tile, J.d * LANES);
        tile = memory;
        memory += J.d * LANES;
    }
    const int warp = warp_of_block();
    auto& stage = reinterpret_cast<Stage<K>*>(memory)[warp];
    memory += WARPS * sizeof(Stage<K>) / sizeof(float) + warp * Use::BYTES / sizeof(float);
    typename Use::Warp mine{use, static_cast<int64_t>(blockIdx.x) * LANES, memory};

    const int stride = static_cast<int>(gridDim.y) * WARPS * LANES;
    for (int first = cell0 + (static_cast<int>(blockIdx.y) * WARPS + warp) * LANES; first < end; first += stride) {
        mine.begin(first);
        for (int i = 0; i < LANES && first + i < end; i += CELLS) {
            float u[CELLS][1];
            gather<1, K>(
                J, first + i, end, tile, stage, u, [&] { mine.fetch(first + i); }, [&] { mine.settle(); });
            mine.use(first + i, i, u);
        }
        mine.end(first);
    }
}

// grad_x (B, d) of a tile of LANES pictures and one mossy fibre, from g (cells, slots) of a chunk of granule
// cells: the chunk's synapses of that fibre, in their order. The first chunk sets grad_x, the others add.
__global__ void __launch_bounds__(SUM_WARPS* LANES)
    gather_fibers(const int64_t* starts, const int32_t* cells, const float* weights, const float* g, int64_t cell0,
                  int64_t slots, int64_t B, int64_t d, bool fresh, float* grad_x) {
    float* sums = shared_memory();
    const int64_t p = blockIdx.x, b = static_cast<int64_t>(blockIdx.y) * LANES + lane_of_warp();
    const int lane = lane_of_warp(), warp = warp_of_block();
    const int64_t begin = starts[p], n = starts[p + 1] - begin;
    const int64_t last = begin + n * (warp + 1) / SUM_WARPS;
    const float* mine = g - cell0 * slots + b;
    float sum = 0;
    for (int64_t s = begin + n * warp / SUM_WARPS; s < last; s += LANES) {
        const bool there = s + lane < last;
        const int64_t cell = there ? cells[s + lane] : cell0;
        const float weight = there ? weights[s + lane] : 0.0f;
#pragma unroll 8
        for (int i = 0; i < LANES; ++i) {
            const float* from = mine + __shfl_sync(0xffffffffu, cell, i) * slots;
            const float w = __shfl_sync(0xffffffffu, weight, i);
            if (s + i < last) sum += w * *from;
        }
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (warp > 0 || b >= B) return;
    sum = fresh ? 0.0f : grad_x[b * d + p];
    for (int w = 0; w < SUM_WARPS; ++w) sum += sums[w * LANES + lane];
    grad_x[b * d + p] = sum;
}

}  // namespace cuda
}  // namespace cerebsim
