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

// Learns the N rows order[0] ... order[N - 1] of x and t, batch by batch, as cerebsim::learn. Batches are
// only put in the stream's queue; a sequence may be cut into calls at whole batches without changing a bit.
int64_t learn_bytes(const Wiring& J, int64_t N, int64_t batch, int64_t c);
void learn(const Wiring& J, const float* x, const float* t, const int64_t* order, int64_t N, int64_t batch, float* W,
           int64_t c, float* mu, float* square_avg, const Rule& rule, float* y, void* workspace, Stream stream);

}  // namespace cuda
}  // namespace cerebsim
