// How work is cut for the GPU: shares of granule cells, slabs of pictures, blocks, and the workspace.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <type_traits>

#include "cuda.h"
#include "cuda_cells.h"

namespace cerebsim {
namespace cuda {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

template <int N>
using Number = std::integral_constant<int, N>;

// work(K), the number of synapses that `gather` stages of a cell at a time.
template <class Work>
void with_fan_in(int64_t k, const Work& work) {
    if (k <= 2) return work(Number<2>());
    return work(Number<4>());
}
// work(C), the number of outputs that are summed at a time.
template <class Work>
void with_outputs(int64_t c, const Work& work) {
    if (c <= 10) return work(Number<10>());
    return work(Number<16>());
}

// The shares of granule cells that `respond` sums by themselves: 132 at most, the multiprocessors of an H100,
// and whole turns of the warps of a block. A function of m alone.
inline int64_t share_of(int64_t m) { return round_up(ceil_div(m, 132), WARPS * CELLS); }
inline int64_t shares_of(int64_t m) { return ceil_div(m, share_of(m)); }

// Into how many blocks the work on each of `tiles` tiles is cut, if all tiles have `pieces` pieces of work of
// `cells` granule cells and a block first loads d rows: the least time by a rough count of cycles.
inline int64_t blocks_per_tile(int64_t tiles, int64_t pieces, int64_t cells, int64_t d) {
    const int64_t processors = device().processors, most = std::min<int64_t>(pieces, 2 * processors);
    int64_t best = 1, least = INT64_MAX;
    for (int64_t blocks = 1; blocks <= most; ++blocks) {
        const int64_t cycles = ceil_div(tiles * blocks, processors) * (4 * d + ceil_div(pieces, blocks) * cells * 13);
        if (cycles < least) least = cycles, best = blocks;
    }
    return best;
}

// Cuts a workspace into pieces, and counts the bytes.
class Workspace {
   public:
    explicit Workspace(void* start = nullptr) : start_(static_cast<char*>(start)) {}
    float* take(int64_t numbers) {
        float* piece = reinterpret_cast<float*>(start_ + bytes_);
        bytes_ += round_up(4 * numbers, 256);
        return piece;
    }
    int64_t bytes() const { return bytes_; }

   private:
    char* start_;
    int64_t bytes_ = 0;
};

constexpr int64_t ENOUGH = 1 << 24;  // numbers that a piece of workspace holds, unless one tile needs more

inline void check_sizes(const Wiring& J) {
    if (J.d > MOST_FIBERS || J.m > MOST_CELLS)
        throw std::runtime_error("more mossy fibres or granule cells than the CUDA kernels take");
}

constexpr int64_t MOST_TILES = 65535;  // what the second side of a grid may have

// Pictures that granule and the gradients take at a time: x, grad_y and g of a chunk of cells are bounded.
inline int64_t slots_at_a_time(int64_t B, int64_t widest) {
    const int64_t most = std::clamp<int64_t>(ENOUGH / widest / LANES, 1, MOST_TILES) * LANES;
    return std::min(round_up(B, LANES), most);
}
// The width of g in slots is half as much, so that a chunk of 2^18 cells and 32 pictures stays in the L2 cache.
inline int64_t backward_slots(const Wiring& J, int64_t B, int64_t c) {
    return slots_at_a_time(B, std::max({J.d, c, 2 * std::min(J.m, INVERSE_CELLS)}));
}

}  // namespace cuda
}  // namespace cerebsim
