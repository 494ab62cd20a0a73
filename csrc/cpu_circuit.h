// The forward and backward kernels of the CPU backend; see cpu_block.h for how data lie.

namespace cerebsim {
namespace ISA {

constexpr int64_t GROUP = 4;  // tiles in flight: bounds the workspace whatever B is

// What one thread works in.
struct Workspace {
    Block block;
    Array<float> h, grad_h, turned, W;
    Workspace(const Wiring& J, int64_t c)
        : block(J), h(BLOCK * TILE), grad_h(BLOCK * TILE), turned(BLOCK * TILE), W(c * BLOCK) {}
};
static std::vector<Workspace> workspaces(const Wiring& J, int64_t c, int threads) {
    std::vector<Workspace> all;
    all.reserve(threads);
    for (int i = 0; i < threads; ++i) all.emplace_back(J, c);
    return all;
}

// The pictures of one group, turned into tiles of width rows.
struct Turned {
    Tiles tiles;
    int64_t width;
    Array<float> values;
    Turned(int64_t most, int64_t width_) : tiles{0}, width(width_), values(Tiles{most}.count() * TILE * width_) {}
    float* tile(int64_t t) const { return values.data() + t * TILE * width; }
};
static void turn(const float* rows, int64_t n, Turned& to) {
    to.tiles.B = n;
    for (int64_t t = 0; t < to.tiles.count(); ++t)
        transpose(rows + t * TILE * to.width, to.tiles.pictures(t), to.width, to.width, to.tile(t),
                  to.tiles.vectors(t) * LANES, to.tiles.vectors(t) * LANES);
}

static void check_finite(const float* x, int64_t first, int64_t last, int64_t d) {
    for (int64_t b = first; b < last; ++b) {
        bool odd = false;
        for (int64_t p = 0; p < d; ++p) {
            uint32_t bits;
            std::memcpy(&bits, x + b * d + p, sizeof bits);
            odd |= (bits & 0x7f800000u) == 0x7f800000u;
        }
        if (odd) throw NotFinite(b);
    }
}

// Calls work(first picture, turned pictures) for one group of pictures after another.
template <class Work>
INLINE void for_groups(const Wiring& J, const float* x, int64_t B, const Work& work) {
    check_finite(x, 0, B, J.d);
    Turned xt(std::min(B, GROUP * TILE), J.d);
    for (int64_t first = 0; first < B; first += GROUP * TILE) {
        turn(x + first * J.d, std::min(B - first, GROUP * TILE), xt);
        work(first, xt);
    }
}
// Calls work(chunk, tile, thread) for every chunk and tile, on all threads.
template <class Work>
INLINE void for_chunks(int threads, Tiles tiles, const Work& work) {
    // Tile by tile: what stays in the cache is the tile, what streams is J and W.
    run_tasks(threads, CHUNKS * tiles.count(),
              [&](int64_t task, int thread) { work(task % CHUNKS, task / CHUNKS, thread); });
}

static void granule(const Wiring& J, const float* x, int64_t B, float* h, int threads) {
    auto all = workspaces(J, 0, threads);
    for_groups(J, x, B, [&](int64_t b0, const Turned& xt) {
        for_chunks(threads, xt.tiles, [&](int64_t chunk, int64_t t, int thread) {
            Workspace& at = all[thread];
            const int V = xt.tiles.vectors(t);
            const Span span = chunk_of(J.m, chunk);
            for (int64_t first = span.begin; first < span.end; first += BLOCK) {
                pack(at.block, first, span.end);
                gather(at.block, V, xt.tile(t), at.h.data());
                transpose(at.h.data(), at.block.n, xt.tiles.pictures(t), V * LANES,
                          h + (b0 + t * TILE) * J.m + first, at.block.n, J.m);
            }
        });
    });
}

// y_lanes (c, 16) += W z, with the cells of a block as lanes; W (c, 64) at a stride, z (64).
INLINE void read_lanes(const float* W, int64_t stride, const float* z, int64_t c, float* y_lanes) {
    for (int64_t j = 0; j < c; ++j) {
        Lanes sum = load(y_lanes + j * LANES);
        for (int64_t g = 0; g < BLOCK; g += LANES) sum += load(W + j * stride + g) * load(z + g);
        store(y_lanes + j * LANES, sum);
    }
}

static void circuit(const Wiring& J, const float* x, int64_t B, const float* W, const float* mu, int64_t c, float* y,
                    int threads) {
    auto all = workspaces(J, c, threads);
    // Of a tile and a chunk of cells: y (c, 16 V), and W mu with its sum still over 16 lanes.
    const int64_t size = c * (TILE + LANES);
    Array<float> parts(CHUNKS * GROUP * size);
    for_groups(J, x, B, [&](int64_t b0, const Turned& xt) {
        for_chunks(threads, xt.tiles, [&](int64_t chunk, int64_t t, int thread) {
            Workspace& at = all[thread];
            const int V = xt.tiles.vectors(t);
            const Span span = chunk_of(J.m, chunk);
            float* part = parts.data() + (chunk * GROUP + t) * size;
            std::memset(part, 0, size * sizeof(float));
            for (int64_t first = span.begin; first < span.end; first += BLOCK) {
                pack(at.block, first, span.end);
                pack_readout(W, J.m, c, first, at.block.n, at.W.data());
                gather(at.block, V, xt.tile(t), at.h.data());
                product<false>({at.W.data(), BLOCK, 1}, at.h.data(), c, at.block.n, V, part);
                if (!mu) continue;
                float centre[BLOCK] = {};
                std::memcpy(centre, mu + first, at.block.n * sizeof(float));
                read_lanes(at.W.data(), BLOCK, centre, c, part + c * TILE);
            }
        });
        // The chunks are added in their order.
        for (int64_t t = 0; t < xt.tiles.count(); ++t) {
            const int64_t lanes = xt.tiles.vectors(t) * LANES;
            float* sum = parts.data() + t * size;
            for (int64_t chunk = 1; chunk < CHUNKS; ++chunk) {
                const float* more = sum + chunk * GROUP * size;
                for (int64_t i = 0; i < size; i += LANES) store(sum + i, load(sum + i) + load(more + i));
            }
            for (int64_t j = 0; j < c; ++j) {
                float centre = 0;
                for (int64_t lane = 0; lane < LANES; ++lane) centre += sum[c * TILE + j * LANES + lane];
                for (int64_t b = 0; b < xt.tiles.pictures(t); ++b)
                    y[(b0 + t * TILE + b) * c + j] = sum[j * lanes + b] - centre;
            }
        }
    });
}

// grad_x from grad_h, which fill(first picture, tile, first cell, V, workspace) writes (64, 16 V).
template <class Fill>
INLINE void backward_x(const Wiring& J, const float* x, int64_t B, std::vector<Workspace>& all, float* grad_x,
                       const Fill& fill) {
    const int threads = static_cast<int>(all.size());
    const int64_t size = J.d * TILE, group = std::min(GROUP, Tiles{B}.count());
    Array<float> parts(CHUNKS * group * size);  // grad_x (d, 16 V) of a tile, summed over the cells of a chunk
    for_groups(J, x, B, [&](int64_t b0, const Turned& xt) {
        for_chunks(threads, xt.tiles, [&](int64_t chunk, int64_t t, int thread) {
            Workspace& at = all[thread];
            const int V = xt.tiles.vectors(t);
            const Span span = chunk_of(J.m, chunk);
            float* part = parts.data() + (chunk * group + t) * size;
            std::memset(part, 0, J.d * V * LANES * sizeof(float));
            for (int64_t first = span.begin; first < span.end; first += BLOCK) {
                pack(at.block, first, span.end);
                gather(at.block, V, xt.tile(t), at.h.data());
                fill(b0, t, first, V, at);
                scatter(at.block, V, at.h.data(), at.grad_h.data(), part);
            }
        });
        // The chunks are added in their order, a few mossy fibres at a time.
        const int64_t strip = 64, strips = (J.d + strip - 1) / strip;
        run_tasks(threads, xt.tiles.count() * strips, [&](int64_t task, int) {
            const int64_t t = task / strips, p0 = task % strips * strip, np = std::min(strip, J.d - p0);
            const int64_t lanes = xt.tiles.vectors(t) * LANES;
            float* sum = parts.data() + t * size + p0 * lanes;
            for (int64_t chunk = 1; chunk < CHUNKS; ++chunk) {
                const float* more = sum + chunk * group * size;
                for (int64_t i = 0; i < np * lanes; i += LANES) store(sum + i, load(sum + i) + load(more + i));
            }
            transpose(sum, np, xt.tiles.pictures(t), lanes, grad_x + (b0 + t * TILE) * J.d + p0, np, J.d);
        });
    });
}

static void granule_backward(const Wiring& J, const float* x, int64_t B, const float* grad_h, float* grad_x,
                             int threads) {
    auto all = workspaces(J, 0, threads);
    const Tiles tiles{B};
    backward_x(J, x, B, all, grad_x, [&](int64_t b0, int64_t t, int64_t first, int V, Workspace& at) {
        const int64_t b = b0 + t * TILE;
        transpose(grad_h + b * J.m + first, tiles.pictures(b / TILE), at.block.n, J.m, at.grad_h.data(), V * LANES,
                  V * LANES);
    });
}

static void circuit_backward_x(const Wiring& J, const float* x, int64_t B, const float* W, int64_t c,
                               const float* grad_y, float* grad_x, int threads) {
    auto all = workspaces(J, c, threads);
    Turned gt(B, c);
    turn(grad_y, B, gt);
    backward_x(J, x, B, all, grad_x, [&](int64_t b0, int64_t t, int64_t first, int V, Workspace& at) {
        pack_readout(W, J.m, c, first, at.block.n, at.W.data());
        product<true>({at.W.data(), 1, BLOCK}, gt.tile(b0 / TILE + t), at.block.n, c, V, at.grad_h.data());
    });
}

// dW (c, 64) = errors (B, c)^T h of a packed block. Leaves the h of the last tile in `turned`, (64, 64).
// totals (64), if wanted, are the sums of h over the pictures.
INLINE void correlate(const Block& block, Tiles tiles, const float* xt, const float* errors, int64_t c, float* h,
                      float* turned, float* dW, float* totals) {
    std::memset(dW, 0, c * BLOCK * sizeof(float));
    if (totals) std::memset(totals, 0, BLOCK * sizeof(float));
    for (int64_t t = 0; t < tiles.count(); ++t) {
        const int V = tiles.vectors(t);
        gather(block, V, xt + t * TILE * block.J.d, h);
        transpose(h, BLOCK, V * LANES, V * LANES, turned, BLOCK, BLOCK);
        product<false>({errors + t * TILE * c, 1, c}, turned, c, tiles.pictures(t), BLOCK / LANES, dW);
        if (totals)
            for (int64_t b = 0; b < tiles.pictures(t); ++b)
                for (int64_t g = 0; g < BLOCK; ++g) totals[g] += turned[b * BLOCK + g];
    }
}

static void circuit_backward_W(const Wiring& J, const float* x, int64_t B, int64_t c, const float* grad_y,
                               float* grad_W, int threads) {
    auto all = workspaces(J, c, threads);
    std::memset(grad_W, 0, c * J.m * sizeof(float));
    for_groups(J, x, B, [&](int64_t b0, const Turned& xt) {
        run_tasks(threads, CHUNKS, [&](int64_t chunk, int thread) {
            Workspace& at = all[thread];
            const Span span = chunk_of(J.m, chunk);
            for (int64_t first = span.begin; first < span.end; first += BLOCK) {
                pack(at.block, first, span.end);
                correlate(at.block, xt.tiles, xt.tile(0), grad_y + b0 * c, c, at.h.data(), at.turned.data(),
                          at.W.data(), nullptr);
                for (int64_t j = 0; j < c; ++j)
                    for (int64_t g = 0; g < at.block.n; ++g)
                        grad_W[j * J.m + first + g] += at.W.data()[j * BLOCK + g];
            }
        });
    });
}

}  // namespace ISA
}  // namespace cerebsim
