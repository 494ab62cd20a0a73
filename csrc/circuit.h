// The contract of the native code: plain structs, raw pointers and sizes; no Python, no torch.
//
// Sizes, everywhere: B pictures, d mossy fibres, m granule cells, k inputs of a granule cell (fan-in),
// c Purkinje cells. All matrices are dense and row-major: x (B, d), W (c, m), indices and weights (k, m).
//
// What every function guarantees: a picture's results do not depend, bit for bit, on the other
// pictures of the batch, on its place among them or on the number of threads. Granule cells are
// summed in chunks that depend on m alone, and the chunks in a fixed order.
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <vector>

namespace cerebsim {

// J, the fixed synapses from mossy fibres to granule cells: h = relu(sum_r weights[r] x[indices[r]] - threshold).
struct Wiring {
    int64_t d, m, k;
    const void* indices;      // (k, m), in [0, d)
    bool wide;                // indices are int32, else int16
    const float* weights;     // (k, m)
    const float* thresholds;  // (m), or null for 0
};

// x holds a NaN or an infinity; `picture` is the first row that does.
struct NotFinite : std::runtime_error {
    explicit NotFinite(int64_t row) : std::runtime_error("not finite"), picture(row) {}
    int64_t picture;
};

// h (B, m) = relu(J^T x - threshold)
void granule(const Wiring& J, const float* x, int64_t B, float* h, int threads);

// grad_x (B, d) = J (grad_h * [h > 0])
void granule_backward(const Wiring& J, const float* x, int64_t B, const float* grad_h, float* grad_x,
                      int threads);

// y (B, c) = W (relu(J^T x - threshold) - mu); mu (m) may be null for 0. h is never stored. fired (ceil(m / 32), B),
// unless it is null, becomes what `circuit_backward_x` needs of h: bit g % 32 of fired[g / 32, b] is h[b, g] > 0.
void circuit(const Wiring& J, const float* x, int64_t B, const float* W, const float* mu, int64_t c,
             uint32_t* fired, float* y, int threads);

// grad_x (B, d) = J ((W^T grad_y) * [h > 0]); where fired is null h is computed again.
void circuit_backward_x(const Wiring& J, const float* x, int64_t B, const float* W, int64_t c,
                        const float* grad_y, const uint32_t* fired, float* grad_x, int threads);

// grad_W (c, m) = grad_y^T (h - mu); mu may be null for 0. h is computed again.
void circuit_backward_W(const Wiring& J, const float* x, int64_t B, const float* mu, int64_t c, const float* grad_y,
                        float* grad_W, int threads);

// The delta rule (paper eq. 4), alone or through RMSprop.
struct Rule {
    float error_factor;   // dL/dy = error_factor / B (y - t)
    float learning_rate;
    float decay;          // of RMSprop's square average
    float rms_eps;        // outside the square root
    float ltd_decay;      // beta
    bool ltd_before;      // mu moves before it is subtracted, else after
};

// Called now and then, and once at the end, with the number of pictures learned whole; false asks to stop.
using Tick = std::function<bool(int64_t done)>;

// Learns the rows order[0] ... order[N - 1] of x and t, batch by batch, in place: mu, then y = W (h - mu),
// the error e = error_factor / B (y - t), dW = e^T (h - mu), and W. mu null: no centring. square_avg null:
// the plain delta rule. y (N, c) are the outputs before each update, in the order of learning. Returns how
// many pictures were learned whole.
int64_t learn(const Wiring& J, const float* x, const float* t, const int64_t* order, int64_t N, int64_t batch,
              float* W, int64_t c, float* mu, float* square_avg, const Rule& rule, float* y, int threads,
              const Tick& tick);

// The instruction set that the kernels run with: "avx512", "avx2" or "baseline"; all that this machine
// can run, the best and usual one first; and another one from now on, for all threads, so that each can
// be tested. Results of two sets differ by rounding.
const char* instruction_set();
std::vector<const char*> instruction_sets();
void use_instruction_set(const char* name);

}  // namespace cerebsim
