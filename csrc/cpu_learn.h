// Learning on the CPU. Batch after batch needs two things of every granule cell: the update by the
// errors of the last batch, and the response to the next one. Both are done in one sweep over the
// cells, so that J, W, mu and the square average pass through the processor once per batch; the only
// thing that the threads tell one another is y, once per sweep.

namespace cerebsim {
namespace ISA {

struct Learner {
    const Wiring& J;
    const float* x;
    const float* t;
    const int64_t* order;
    const int64_t N, batch;
    float* W;
    const int64_t c;
    float* mu;
    float* square_avg;
    const Rule& rule;
    float* y;

    bool one() const { return batch == 1; }
    int64_t chunks() const { return chunks_of(J.m); }
    int64_t steps() const { return (N + batch - 1) / batch; }
    int64_t pictures(int64_t step) const { return std::min(batch, N - step * batch); }
    Tiles tiles(int64_t step) const { return Tiles{pictures(step), one()}; }
    int64_t most() const { return std::min(batch, N); }  // pictures in the largest batch there is
    int64_t part_size() const { return c * LANES + (one() ? 0 : Tiles{most(), false}.count() * c * TILE); }
};

// What one thread works in.
struct LearnerWorkspace {
    Array<float> h{BLOCK * TILE}, turned{BLOCK * TILE}, sums{BLOCK * LANES}, dW, errors, error_sums;
    LearnerWorkspace(const Learner& a) : dW(a.c * BLOCK), errors(a.most() * a.c), error_sums(a.c) {}
};

// mean (64) of h over the pictures, from sums (64, L) over the lanes; sums may be overwritten.
INLINE void mean_of(float* sums, float* scratch, int64_t pictures, float* mean) {
    transpose(sums, BLOCK, LANES, LANES, scratch, BLOCK, BLOCK);
    for (int64_t g = 0; g < BLOCK; ++g) {
        float sum = 0;
        for (int64_t lane = 0; lane < LANES; ++lane) sum += scratch[lane * BLOCK + g];
        mean[g] = sum / static_cast<float>(pictures);
    }
}

// dW (c, 64) of the cells first ... first + n for the batch whose errors are at hand.
static void weight_gradient(const Learner& a, int64_t step, int64_t first, int64_t n, const float* xt,
                            LearnerWorkspace& at, float* mean) {
    float* dW = at.dW.data();
    if (a.one()) {
        float* h = at.h.data();
        gather_one(a.J, first, n, xt, h);
        for (int64_t g = 0; g < BLOCK; ++g) mean[g] = h[g];
        if (a.mu) subtract(h, a.mu + first, n);
        for (int64_t j = 0; j < a.c; ++j)
            for (int64_t g = 0; g < BLOCK; ++g) dW[j * BLOCK + g] = at.errors.data()[j] * h[g];
        return;
    }
    const bool averaging = a.mu && !a.rule.ltd_before;
    correlate(a.J, first, n, a.tiles(step), xt, at.errors.data(), a.c, at.h.data(), at.turned.data(), dW,
              averaging ? mean : nullptr);
    if (averaging)
        for (int64_t g = 0; g < BLOCK; ++g) mean[g] /= static_cast<float>(a.pictures(step));
    if (a.mu)
        for (int64_t j = 0; j < a.c; ++j)
            for (int64_t g = 0; g < n; ++g) dW[j * BLOCK + g] -= at.error_sums.data()[j] * a.mu[first + g];
}

// W and the square average of the cells first ... first + n, by dW (c, 64).
static void descend(const Learner& a, int64_t first, int64_t n, const float* dW) {
    const float rate = a.rule.learning_rate, keep = 1 - a.rule.decay, eps = a.rule.rms_eps;
    for (int64_t j = 0; j < a.c; ++j) {
        const float* __restrict gradient = dW + j * BLOCK;
        float* __restrict W = a.W + j * a.J.m + first;
        if (!a.square_avg) {
            for (int64_t g = 0; g < n; ++g) W[g] -= rate * gradient[g];
            continue;
        }
        float* __restrict square = a.square_avg + j * a.J.m + first;
        for (int64_t g = BLOCK; g < 2 * BLOCK; g += LANES) {
            __builtin_prefetch(W + g);
            __builtin_prefetch(square + g);
        }
        for (int64_t g = 0; g < n; ++g) {
            const float grad = gradient[g];
            const float s = square[g] + keep * (grad * grad - square[g]);
            square[g] = s;
            W[g] -= rate * grad / (std::sqrt(s) + eps);
        }
    }
}

INLINE void move_average(const Learner& a, int64_t first, int64_t n, const float* __restrict mean) {
    const float step = 1 - a.rule.ltd_decay;
    float* __restrict mu = a.mu + first;
    for (int64_t g = 0; g < n; ++g) mu[g] += step * (mean[g] - mu[g]);
}

// Adds the share of the cells first ... first + n to part: y of the batch, and W mu; moves mu.
static void respond(const Learner& a, int64_t step, int64_t first, int64_t n, const float* xt, LearnerWorkspace& at,
                    float* part) {
    float* y_lanes = part;
    if (a.one()) {
        float* h = at.h.data();
        gather_one(a.J, first, n, xt, h);
        if (a.mu && a.rule.ltd_before) move_average(a, first, n, h);
        if (a.mu) subtract(h, a.mu + first, n);
        return read_lanes(a.W + first, a.J.m, h, n, a.c, y_lanes);
    }
    float* y_pictures = part + a.c * LANES;
    const Tiles tiles = a.tiles(step);
    const bool averaging = a.mu && a.rule.ltd_before;
    if (averaging) std::memset(at.sums.data(), 0, BLOCK * LANES * sizeof(float));
    for (int64_t tile = 0; tile < tiles.count(); ++tile) {
        const int V = tiles.vectors(tile);
        const float* h = at.h.data();
        // Not yet centred: mu moves by all of the batch before it is subtracted, below.
        read(a.J, first, n, V, xt + tile * TILE * a.J.d, a.W, nullptr, a.c, {}, at.h.data(),
             y_pictures + tile * a.c * TILE);
        if (!averaging) continue;
        float present[TILE];  // a lane without a picture does not count
        for (int64_t b = 0; b < TILE; ++b) present[b] = b < tiles.pictures(tile) ? 1.0f : 0.0f;
        for (int64_t g = 0; g < n; ++g) {
            Lanes sum = load(at.sums.data() + g * LANES);
            for (int v = 0; v < V; ++v) sum += load(h + (g * V + v) * LANES) * load(present + v * LANES);
            store(at.sums.data() + g * LANES, sum);
        }
    }
    if (averaging) {
        float mean[BLOCK];
        mean_of(at.sums.data(), at.turned.data(), a.pictures(step), mean);
        move_average(a, first, n, mean);
    }
    if (!a.mu) return;
    read_lanes(a.W + first, a.J.m, a.mu + first, n, a.c, y_lanes);
}

// One chunk of a sweep: updates by batch step - 1 and responds to batch step, where there are such.
static void learn_chunk(const Learner& a, Span span, int64_t step, bool last, const float* x_before,
                        const float* x_now, LearnerWorkspace& at, float* part) {
    if (!last) std::memset(part, 0, a.part_size() * sizeof(float));
    for_blocks(span, [&](int64_t first, int64_t n) {
        if (step > 0) {
            float mean[BLOCK];
            weight_gradient(a, step - 1, first, n, x_before, at, mean);
            descend(a, first, n, at.dW.data());
            if (a.mu && !a.rule.ltd_before) move_average(a, first, n, mean);
        }
        if (!last) respond(a, step, first, n, x_now, at, part);
    });
}

// y and the errors of a batch from the parts of all chunks, added in their order.
static void collect(const Learner& a, int64_t step, const float* parts, bool keep, LearnerWorkspace& at) {
    const int64_t pictures = a.pictures(step);
    const Tiles tiles = a.tiles(step);
    const float scale = a.rule.error_factor / static_cast<float>(pictures);
    std::fill_n(at.error_sums.data(), a.c, 0.0f);
    for (int64_t j = 0; j < a.c; ++j) {
        float lanes = 0;
        for (int64_t chunk = 0; chunk < a.chunks(); ++chunk)
            for (int64_t lane = 0; lane < LANES; ++lane) lanes += parts[chunk * a.part_size() + j * LANES + lane];
        for (int64_t b = 0; b < pictures; ++b) {
            float y = a.one() ? lanes : -lanes;
            if (!a.one())
                for (int64_t chunk = 0; chunk < a.chunks(); ++chunk)
                    y += parts[chunk * a.part_size() + a.c * LANES + b / TILE * a.c * TILE +
                               j * tiles.vectors(b / TILE) * LANES + b % TILE];
            const int64_t place = step * a.batch + b;
            const float error = scale * (y - a.t[a.order[place] * a.c + j]);
            at.errors.data()[b * a.c + j] = error;
            at.error_sums.data()[j] += error;
            if (keep) a.y[place * a.c + j] = y;
        }
    }
}

static int64_t learn(const Wiring& J, const float* x, const float* t, const int64_t* order, int64_t N, int64_t batch,
                     float* W, int64_t c, float* mu, float* square_avg, const Rule& rule, float* y, int threads,
                     const Tick& tick) {
    for (int64_t i = 0; i < N; ++i) check_finite(x, order[i], order[i] + 1, J.d);
    const Learner a{J, x, t, order, N, batch, W, c, mu, square_avg, rule, y};
    if (N == 0) return 0;
    std::vector<LearnerWorkspace> at;
    at.reserve(threads);
    for (int i = 0; i < threads; ++i) at.emplace_back(a);

    // The batches before, now and next: the next one is turned while the sweep runs.
    std::vector<Turned> turned;
    for (int i = 0; i < 3 && !a.one(); ++i) turned.emplace_back(a.most(), J.d, false);
    Array<float> rows(a.one() ? 0 : a.most() * J.d);
    const auto pictures_of = [&](int64_t step) -> const float* {
        return a.one() ? x + order[step] * J.d : turned[step % 3].tile(0);
    };
    const auto prepare = [&](int64_t step) {
        if (a.one() || step >= a.steps()) return;
        for (int64_t b = 0; b < a.pictures(step); ++b)
            std::memcpy(rows.data() + b * J.d, x + order[step * a.batch + b] * J.d, J.d * sizeof(float));
        turn(rows.data(), a.pictures(step), turned[step % 3]);
    };
    prepare(0);

    Array<float> parts(2 * a.chunks() * a.part_size());
    std::atomic<int64_t> next[2] = {{0}, {0}};
    Barrier barrier;
    int64_t end = a.steps();  // written by thread 0 before a barrier, read by all after it
    auto told = std::chrono::steady_clock::now();

    run_threads(threads, [&](int thread, int team) {
        for (int64_t step = 0;; ++step) {
            const bool last = step == end;
            float* part = parts.data() + step % 2 * a.chunks() * a.part_size();
            if (thread == 0) next[(step + 1) % 2].store(0, std::memory_order_relaxed);
            if (thread == team - 1) prepare(step + 1);
            for (int64_t chunk; (chunk = next[step % 2].fetch_add(1, std::memory_order_relaxed)) < a.chunks();)
                learn_chunk(a, chunk_of(J.m, chunk), step, last, step > 0 ? pictures_of(step - 1) : nullptr,
                            last ? nullptr : pictures_of(step), at[thread], part + chunk * a.part_size());
            if (last) break;
            const auto now = std::chrono::steady_clock::now();
            if (thread == 0 && tick && now - told > std::chrono::milliseconds(200)) {
                told = now;
                if (!tick(std::min(N, step * a.batch))) end = step + 1;
            }
            barrier.wait(team);
            collect(a, step, part, thread == 0, at[thread]);
        }
    });
    const int64_t done = std::min(N, end * a.batch);
    if (tick) tick(done);
    return done;
}

}  // namespace ISA
}  // namespace cerebsim
