// The CUDA backend: which kernels a call starts, with which tiles, and where in the workspace everything lies.
#include "cuda.h"

#include "cuda_alone.h"
#include "cuda_fire.h"
#include "cuda_plan.h"

namespace cerebsim {
namespace cuda {
namespace {

// Rows of `width` numbers to tiles of P; see the kernel.
void turn_rows(const float* in, const int64_t* order, const int64_t* at, int64_t rows, int64_t per_step,
               int64_t slots_per_step, int64_t width, int P, float* out, Stream stream) {
    const int64_t slots = ceil_div(rows, per_step) * slots_per_step;
    const auto columns = static_cast<unsigned>(std::min<int64_t>(ceil_div(width, LANES), 1024));
    launch(turn, dim3(static_cast<unsigned>(slots / LANES), columns), THREADS, 4 * LANES * PADDED, stream, in, order,
           at, rows, per_step, slots_per_step, width, P, out);
}

// How `respond` takes a call: pictures in tiles of 32 V, in shared memory or not, so many at a time.
struct ResponsePlan {
    int V;
    bool shared;
    int64_t shares, slots, outputs;  // slots of pictures, and outputs, at a time

    ResponsePlan(const Wiring& J, int64_t B, int64_t c) : shares(shares_of(J.m)) {
        const int64_t have = device().shared_bytes;
        const bool two = respond_bytes<2, 4, 16>(J.d) <= have && B > LANES;
        shared = two || respond_bytes<1, 4, 16>(J.d) <= have;
        V = two ? 2 : 1;
        outputs = std::min<int64_t>(c, 64);
        const int64_t most = ENOUGH / std::max(J.d, shares * outputs) / tile() * tile();
        slots = std::min(round_up(B, tile()), std::max(most, tile()));
    }
    int64_t tile() const { return LANES * V; }
    int64_t parts() const { return shares * outputs * slots; }
};

// parts (shares, outputs, slots) for the tiles xt.
void start_respond(const ResponsePlan& plan, const Wiring& J, const float* xt, int64_t slots, const float* W,
                   const float* mu, int64_t outputs, float* parts, Stream stream) {
    with_outputs(outputs, [&](auto C) {
        const int64_t tiles = slots / plan.tile(), blocks_of_outputs = ceil_div(outputs, C());
        const int64_t blocks = blocks_per_tile(tiles * blocks_of_outputs, plan.shares, share_of(J.m), J.d);
        const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(blocks),
                        static_cast<unsigned>(blocks_of_outputs));
        const auto start = [&](auto kernel, int64_t bytes) {
            launch(kernel, grid, THREADS, bytes, stream, J, xt, slots, W, mu, static_cast<int>(outputs),
                   static_cast<int>(share_of(J.m)), static_cast<int>(plan.shares), parts);
        };
        if (!plan.shared) return start(respond<1, 2, C(), false>, respond_bytes<1, 2, C()>(0));
        with_fan_in(J.k, [&](auto K) {
            if (plan.V == 2) return start(respond<2, K(), C(), true>, respond_bytes<2, K(), C()>(J.d));
            return start(respond<1, K(), C(), true>, respond_bytes<1, K(), C()>(J.d));
        });
    });
}

// Starts `fire` for the tiles xt, in shared memory where they fit.
template <class Use>
void start_fire(const Wiring& J, const float* xt, int64_t tiles, int64_t cell0, int64_t end, const Use& use,
                Stream stream) {
    const int64_t pieces = ceil_div(end - cell0, WARPS * LANES);
    const int64_t blocks = blocks_per_tile(tiles, pieces, WARPS * LANES, J.d);
    const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(blocks));
    const auto start = [&](auto kernel, int64_t bytes) {
        launch(kernel, grid, THREADS, bytes, stream, J, xt, static_cast<int>(cell0), static_cast<int>(end), use);
    };
    if (fire_bytes<Use, 4>(J.d) > device().shared_bytes) return start(fire<Use, 2, false>, fire_bytes<Use, 2>(0));
    with_fan_in(J.k, [&](auto K) { start(fire<Use, K(), true>, fire_bytes<Use, K()>(J.d)); });
}

// grad_x from g, which fill(first picture, pictures, slots, first cell, g) gives as a Use of `fire`.
template <class Fill>
void backward_x(const Wiring& J, const Inverse& inverse, const float* x, int64_t B, int64_t c, float* grad_x,
                Workspace& workspace, Stream stream, const Fill& fill) {
    check_sizes(J);
    const int64_t slots = backward_slots(J, B, c);
    float* xt = workspace.take(slots * J.d);
    float* g = workspace.take(slots * std::min(J.m, INVERSE_CELLS));
    for (int64_t b0 = 0; b0 < B; b0 += slots) {
        const int64_t n = std::min(slots, B - b0), tiles = ceil_div(n, LANES);
        turn_rows(x + b0 * J.d, nullptr, nullptr, n, n, tiles * LANES, J.d, LANES, xt, stream);
        for (int64_t cell0 = 0; cell0 < J.m; cell0 += INVERSE_CELLS) {
            const int64_t end = std::min(J.m, cell0 + INVERSE_CELLS);
            start_fire(J, xt, tiles, cell0, end, fill(b0, n, tiles * LANES, cell0, g), stream);
            launch(gather_fibers, dim3(static_cast<unsigned>(J.d), static_cast<unsigned>(tiles)), SUM_WARPS * LANES,
                   4 * SUM_WARPS * LANES, stream, inverse.starts + cell0 / INVERSE_CELLS * J.d, inverse.cells,
                   inverse.weights, g, cell0, tiles * LANES, n, J.d, cell0 == 0, grad_x + b0 * J.d);
        }
    }
}

// Starts `correlate`; null grad_W in `to` for learning.
void start_correlate(const Wiring& J, const float* x, const int64_t* order, const int64_t* at, int64_t B,
                     const float* mu, int64_t c, const float* errors, const Plasticity& to, Stream stream) {
    const Device here = device();
    with_outputs(c, [&](auto C) {
        const auto blocks = static_cast<unsigned>(std::min(ceil_div(J.m, THREADS), here.processors));
        const auto start = [&](auto kernel, int64_t pictures, int64_t bytes) {
            launch(kernel, dim3(blocks), THREADS, bytes, stream, J, x, order, at, B, pictures, mu, c, errors, to);
        };
        for (int64_t pictures : {2 * SUMMED, SUMMED})
            if (correlate_bytes<C()>(J.d, pictures) <= here.shared_bytes)
                return start(correlate<C(), true>, pictures, correlate_bytes<C()>(J.d, pictures));
        start(correlate<C(), false>, 2 * SUMMED, correlate_bytes<C()>(0, 2 * SUMMED));
    });
}

}  // namespace

int64_t granule_bytes(const Wiring& J, int64_t B) {
    Workspace workspace;
    workspace.take(slots_at_a_time(B, J.d) * J.d);
    return workspace.bytes();
}

void granule(const Wiring& J, const float* x, int64_t B, float* h, void* workspace, Stream stream) {
    check_sizes(J);
    const int64_t slots = slots_at_a_time(B, J.d);
    float* xt = Workspace(workspace).take(slots * J.d);
    for (int64_t b0 = 0; b0 < B; b0 += slots) {
        const int64_t n = std::min(slots, B - b0), tiles = ceil_div(n, LANES);
        turn_rows(x + b0 * J.d, nullptr, nullptr, n, n, tiles * LANES, J.d, LANES, xt, stream);
        start_fire(J, xt, tiles, 0, J.m, Activity{h + b0 * J.m, J.m, n}, stream);
    }
}

int64_t granule_backward_bytes(const Wiring& J, int64_t B) {
    Workspace workspace;
    const int64_t slots = backward_slots(J, B, 1);
    workspace.take(slots * J.d);
    workspace.take(slots * std::min(J.m, INVERSE_CELLS));
    return workspace.bytes();
}

void granule_backward(const Wiring& J, const Inverse& inverse, const float* x, int64_t B, const float* grad_h,
                      float* grad_x, void* workspace, Stream stream) {
    Workspace pieces(workspace);
    backward_x(J, inverse, x, B, 1, grad_x, pieces, stream,
               [&](int64_t b0, int64_t n, int64_t slots, int64_t cell0, float* g) {
                   return GivenGradient{grad_h + b0 * J.m, J.m, n, cell0, slots, g};
               });
}

int64_t circuit_bytes(const Wiring& J, int64_t B, int64_t c) {
    const ResponsePlan plan(J, B, c);
    Workspace workspace;
    workspace.take(plan.slots * J.d);
    workspace.take(plan.parts());
    return workspace.bytes();
}

void circuit(const Wiring& J, const float* x, int64_t B, const float* W, const float* mu, int64_t c, float* y,
             void* workspace, Stream stream) {
    check_sizes(J);
    const ResponsePlan plan(J, B, c);
    Workspace pieces(workspace);
    float* xt = pieces.take(plan.slots * J.d);
    float* parts = pieces.take(plan.parts());
    for (int64_t b0 = 0; b0 < B; b0 += plan.slots) {
        const int64_t n = std::min(plan.slots, B - b0), slots = round_up(n, plan.tile());
        turn_rows(x + b0 * J.d, nullptr, nullptr, n, n, slots, J.d, static_cast<int>(plan.tile()), xt, stream);
        for (int64_t j0 = 0; j0 < c; j0 += plan.outputs) {
            const int64_t outputs = std::min(plan.outputs, c - j0);
            start_respond(plan, J, xt, slots, W + j0 * J.m, mu, outputs, parts, stream);
            launch(add_shares, dim3(static_cast<unsigned>(slots / LANES), static_cast<unsigned>(outputs)),
                   SUM_WARPS * LANES, 4 * SUM_WARPS * LANES, stream, parts, plan.shares, outputs, slots, n, c, j0,
                   y + b0 * c);
        }
    }
}

int64_t circuit_backward_x_bytes(const Wiring& J, int64_t B, int64_t c) {
    Workspace workspace;
    const int64_t slots = backward_slots(J, B, c);
    workspace.take(slots * c);
    workspace.take(slots * J.d);
    workspace.take(slots * std::min(J.m, INVERSE_CELLS));
    return workspace.bytes();
}

void circuit_backward_x(const Wiring& J, const Inverse& inverse, const float* x, int64_t B, const float* W, int64_t c,
                        const float* grad_y, float* grad_x, void* workspace, Stream stream) {
    Workspace pieces(workspace);
    float* gt = pieces.take(backward_slots(J, B, c) * c);
    with_outputs(c, [&](auto C) {
        backward_x(J, inverse, x, B, c, grad_x, pieces, stream,
                   [&](int64_t b0, int64_t n, int64_t slots, int64_t cell0, float* g) {
                       if (cell0 == 0) turn_rows(grad_y + b0 * c, nullptr, nullptr, n, n, slots, c, LANES, gt, stream);
                       return ErrorsSentBack<C()>{W, gt, J.m, cell0, slots, static_cast<int>(c), g};
                   });
    });
}

void circuit_backward_W(const Wiring& J, const float* x, int64_t B, const float* mu, int64_t c, const float* grad_y,
                        float* grad_W, Stream stream) {
    check_sizes(J);
    Plasticity to{};
    to.grad_W = grad_W;
    start_correlate(J, x, nullptr, nullptr, B, mu, c, grad_y, to, stream);
}

namespace {
// Steps whose pictures are turned at a time.
int64_t steps_at_a_time(const ResponsePlan& plan, const Wiring& J, int64_t N, int64_t batch) {
    const int64_t slots = round_up(std::min(batch, N), plan.tile());
    return std::clamp<int64_t>(ENOUGH / (slots * J.d), 1, ceil_div(N, batch));
}
// The pieces of learn's workspace, in their order.
struct LearnPieces {
    float *xt, *parts, *errors, *error_sums;
    LearnPieces(Workspace& workspace, const ResponsePlan& plan, const Wiring& J, int64_t N, int64_t batch, int64_t c) {
        const int64_t most = std::min(batch, N), slots = round_up(most, plan.tile());
        xt = workspace.take(steps_at_a_time(plan, J, N, batch) * slots * J.d);
        parts = workspace.take(plan.shares * plan.outputs * slots);
        errors = workspace.take(most * c);
        error_sums = workspace.take(c);
    }
};
}  // namespace

bool learns_in_one_kernel(const Wiring& J, int64_t batch, int64_t c) {
    return batch == 1 && c <= MOST_OUTPUTS_ALONE && J.d <= MOST_FIBERS_ALONE;
}

namespace {
// The pieces of learn's workspace where batches are single pictures.
struct AlonePieces {
    float *z, *parts, *arrived;
    AlonePieces(Workspace& workspace, const Wiring& J, int64_t c) {
        z = workspace.take(2 * J.m);
        parts = workspace.take(2 * shares_of(J.m) * c);
        arrived = workspace.take(1);
    }
};

void start_learn_alone(const Wiring& J, Run run, void* workspace, Stream stream) {
    Workspace cut(workspace);
    const AlonePieces pieces(cut, J, run.c);
    run.z = pieces.z;
    run.parts = pieces.parts;
    run.arrived = reinterpret_cast<unsigned*>(pieces.arrived);
    run.share = static_cast<int>(share_of(J.m));
    run.shares = static_cast<int>(shares_of(J.m));
    const Device here = device();
    const int64_t blocks = std::min<int64_t>(run.shares, here.processors);
    const int64_t kept = 4 * shared_numbers_alone(J, run.c, ceil_div(run.shares, blocks) * run.share);
    launch(clear, dim3(1), LANES, 0, stream, run.arrived);
    with_outputs(run.c, [&](auto C) {
        const auto start = [&](auto kernel, int64_t bytes) {
            launch_as(true, kernel, dim3(static_cast<unsigned>(blocks)), THREADS, bytes, stream, J, run);
        };
        if (kept <= here.shared_bytes) return start(learn_alone<C(), true>, kept);
        start(learn_alone<C(), false>, 4 * shared_numbers_alone(J, run.c, 0));
    });
}
}  // namespace

int64_t learn_bytes(const Wiring& J, int64_t N, int64_t batch, int64_t c) {
    Workspace workspace;
    if (learns_in_one_kernel(J, batch, c))
        AlonePieces(workspace, J, c);
    else
        LearnPieces(workspace, ResponsePlan(J, batch, c), J, N, batch, c);
    return workspace.bytes();
}

void learn(const Wiring& J, const float* x, const float* t, const int64_t* order, int64_t* at, int64_t N,
           int64_t batch, float* W, int64_t c, float* mu, float* square_avg, const Rule& rule, float* y,
           void* workspace, Stream stream) {
    check_sizes(J);
    if (learns_in_one_kernel(J, batch, c)) {
        const Run run{x, t, order, at, N, W, c, mu, square_avg, rule, y, nullptr, nullptr, nullptr, 0, 0};
        start_learn_alone(J, run, workspace, stream);
        return launch(advance, dim3(1), LANES, 0, stream, at, N);
    }
    const ResponsePlan plan(J, batch, c);  // of whole batches, so that the last one is summed as they are
    Workspace cut(workspace);
    const LearnPieces pieces(cut, plan, J, N, batch, c);
    const int64_t slots = round_up(std::min(batch, N), plan.tile());
    const int64_t at_a_time = steps_at_a_time(plan, J, N, batch) * batch;
    const float step = mu && rule.ltd_before ? 1 - rule.ltd_decay : 0.0f;
    const Plasticity to{nullptr, W, square_avg, mu, pieces.error_sums, rule};
    for (int64_t n0 = 0; n0 < N; n0 += batch) {
        if (n0 % at_a_time == 0)
            turn_rows(x, order + n0, at, std::min(at_a_time, N - n0), batch, slots, J.d, static_cast<int>(plan.tile()),
                      pieces.xt, stream);
        const int64_t B = std::min(batch, N - n0);
        const float* xt = pieces.xt + n0 % at_a_time / batch * slots * J.d;
        for (int64_t j0 = 0; j0 < c; j0 += plan.outputs) {
            const int64_t outputs = std::min(plan.outputs, c - j0);
            start_respond(plan, J, xt, slots, W + j0 * J.m, mu, outputs, pieces.parts, stream);
            launch(collect, dim3(static_cast<unsigned>(outputs)), SUM_WARPS * LANES, 4 * (SUM_WARPS + 1) * LANES,
                   stream, pieces.parts, plan.shares, outputs, slots, B, c, j0, t, order + n0, at, step,
                   rule.error_factor / static_cast<float>(B), y + n0 * c, pieces.errors, pieces.error_sums);
        }
        start_correlate(J, x, order + n0, at, B, mu, c, pieces.errors, to, stream);
    }
    launch(advance, dim3(1), LANES, 0, stream, at, N);
}

}  // namespace cuda
}  // namespace cerebsim
