// The contract of the CUDA backend: what circuit.h promises, for pointers to the memory of the current
// device, in the order of a stream.
//
// Nothing here allocates, waits or reads device memory, so a call can be captured in a CUDA graph: the
// caller gives as many bytes of workspace as the function beside each says. Granule cells are summed in
// shares that depend on m alone, and the shares in a fixed order, so that a picture's results do not depend,
// bit for bit, on the other pictures of the batch or on the number of multiprocessors.
#pragma once

#include "circuit.h"

namespace cerebsim {
namespace cuda {

// Offsets into a tile, in bytes, and numbers of cells are 32-bit: larger circuits raise.
constexpr int64_t MOST_FIBERS = (1 << 23) - 1;
constexpr int64_t MOST_CELLS = (1 << 30) - 1;

using Stream = void*;  // a cudaStream_t; null is the default stream

// J read from the mossy fibres, in chunks of INVERSE_CELLS granule cells: in chunk q fibre p drives the
// synapses starts[q d + p] ... starts[q d + p + 1] - 1, with their granule cells and weights.
constexpr int64_t INVERSE_CELLS = 1 << 18;
struct Inverse {
    const int64_t* starts;   // (chunks d + 1)
    const int32_t* cells;    // (k m), in [0, m)
    const float* weights;    // (k m)
};

// h (B, m) = relu(J^T x - threshold)
int64_t granule_bytes(const Wiring& J, int64_t B);
void granule(const Wiring& J, const float* x, int64_t B, float* h, void* workspace, Stream stream);

// grad_x (B, d) = J (grad_h * [h > 0])
int64_t granule_backward_bytes(const Wiring& J, int64_t B);
void granule_backward(const Wiring& J, const Inverse& inverse, const float* x, int64_t B, const float* grad_h,
                      float* grad_x, void* workspace, Stream stream);

// y (B, c) = W (relu(J^T x - threshold) - mu); mu may be null for 0.
int64_t circuit_bytes(const Wiring& J, int64_t B, int64_t c);
void circuit(const Wiring& J, const float* x, int64_t B, const float* W, const float* mu, int64_t c, float* y,
             void* workspace, Stream stream);

// grad_x (B, d) = J ((W^T grad_y) * [h > 0])
int64_t circuit_backward_x_bytes(const Wiring& J, int64_t B, int64_t c);
void circuit_backward_x(const Wiring& J, const Inverse& inverse, const float* x, int64_t B, const float* W, int64_t c,
                        const float* grad_y, float* grad_x, void* workspace, Stream stream);

// grad_W (c, m) = grad_y^T (h - mu); mu may be null for 0. Needs no workspace.
void circuit_backward_W(const Wiring& J, const float* x, int64_t B, const float* mu, int64_t c, const float* grad_y,
                        float* grad_W, Stream stream);

// Learns the next N rows of x and t in an order, batch by batch, as cerebsim::learn: order[*at] ...
// order[*at + N - 1], whose outputs are the same rows of y; then *at, which lies on the device, moves on by N.
// So a call that was captured in a CUDA graph learns other rows each time it is replayed. Batches are only put
// in the stream's queue; a sequence may be cut into calls at whole batches without changing a bit.
int64_t learn_bytes(const Wiring& J, int64_t N, int64_t batch, int64_t c);
void learn(const Wiring& J, const float* x, const float* t, const int64_t* order, int64_t* at, int64_t N,
           int64_t batch, float* W, int64_t c, float* mu, float* square_avg, const Rule& rule, float* y,
           void* workspace, Stream stream);
// Whether a call of learn is one kernel that stays on the device for all N rows, and not a few for every batch.
bool learns_in_one_kernel(const Wiring& J, int64_t batch, int64_t c);

}  // namespace cuda
}  // namespace cerebsim
