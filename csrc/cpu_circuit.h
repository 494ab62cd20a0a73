// The forward and backward kernels of the CPU backend; see cpu_vectors.h for how data lie.

namespace cerebsim {
namespace ISA {

constexpr int64_t GROUP = 4;  // tiles in flight: bounds the workspace whatever B is

// The pictures of one group, turned into tiles of so many rows.
struct Turned {
    Tiles tiles;
    int64_t rows;
    Array<float> values;
    Turned(int64_t most, int64_t rows_, bool lone)
        : tiles{most, lone}, rows(rows_), values(tiles.count() * TILE * rows_) {}
    float* tile(int64_t t) const { return values.data() + t * TILE * rows; }
};
static void turn(const float* pictures, int64_t n, Turned& to) {
    to.tiles.B = n;
    for (int64_t t = 0; t < to.tiles.count(); ++t) {
        const int64_t lanes = width(to.tiles.vectors(t));
        transpose(pictures + t * TILE * to.rows, to.tiles.pictures(t), to.rows, to.rows, to.tile(t), lanes, lanes);
    }
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
    Turned xt(std::min(B, GROUP * TILE), J.d, true);
    for (int64_t first = 0; first < B; first += GROUP * TILE) {
        turn(x + first * J.d, std::min(B - first, GROUP * TILE), xt);
        work(first, xt);
    }
}
// Calls work(chunk, tile, thread) for every chunk and tile, on all threads.
template <class Work>
INLINE void for_chunks(int threads, int64_t m, Tiles tiles, const Work& work) {
    // Tile by tile: what stays in the cache is the tile, what streams is J and W.
    const int64_t chunks = chunks_of(m);
    run_tasks(threads, chunks * tiles.count(),
              [&](int64_t task, int thread) { work(task % chunks, task / chunks, thread); });
}

// What each thread works in.
static std::vector<Array<float>> workspaces(int threads, int64_t size) {
    std::vector<Array<float>> all;
    for (int i = 0; i < threads; ++i) all.emplace_back(size);
    return all;
}

static void granule(const Wiring& J, const float* x, int64_t B, float* h, int threads) {
    const auto work = workspaces(threads, BLOCK * TILE);
    for_groups(J, x, B, [&](int64_t b0, const Turned& xt) {
        for_chunks(threads, J.m, xt.tiles, [&](int64_t chunk, int64_t t, int thread) {
            float* turned = work[thread].data();
            const int V = xt.tiles.vectors(t);
            for_blocks(chunk_of(J.m, chunk), [&](int64_t first, int64_t n) {
                gather(J, first, n, V, xt.tile(t), nullptr, {}, turned);
                float* out = h + (b0 + t * TILE) * J.m + first;
                const int64_t pictures = xt.tiles.pictures(t);
                for (int64_t b = 0; b < pictures; b += 8) {
                    // The rows are m apart, more streams than a processor foresees.
                    for (int64_t next = b + 8; next < std::min(b + 16, pictures); ++next)
                        for (int64_t g = 0; g < n; g += 16) __builtin_prefetch(out + next * J.m + g, 1);
                    transpose(turned + b, n, std::min<int64_t>(8, pictures - b), width(V), out + b * J.m, n, J.m);
                }
            });
        });
    });
}

static void circuit(const Wiring& J, const float* x, int64_t B, const float* W, const float* mu, int64_t c,
                    uint32_t* fired, float* y, int threads) {
    const auto work = workspaces(threads, BLOCK * TILE);
    const int64_t size = c * TILE;
    Array<float> parts(chunks_of(J.m) * GROUP * size);  // y (c, L V) of a tile, summed over the cells of a chunk
    for_groups(J, x, B, [&](int64_t b0, const Turned& xt) {
        for_chunks(threads, J.m, xt.tiles, [&](int64_t chunk, int64_t t, int thread) {
            float* part = parts.data() + (chunk * GROUP + t) * size;
            const Fired bits{fired ? fired + b0 + t * TILE : nullptr, B, xt.tiles.pictures(t)};
            std::memset(part, 0, size * sizeof(float));
            for_blocks(chunk_of(J.m, chunk), [&](int64_t first, int64_t n) {
                read(J, first, n, xt.tiles.vectors(t), xt.tile(t), W, mu, c, bits, work[thread].data(), part);
            });
        });
        // The chunks are added in their order.
        for (int64_t t = 0; t < xt.tiles.count(); ++t) {
            const int64_t lanes = width(xt.tiles.vectors(t));
            float* sum = parts.data() + t * size;
            for (int64_t chunk = 1; chunk < chunks_of(J.m); ++chunk) {
                const float* more = sum + chunk * GROUP * size;
                for (int64_t i = 0; i < size; i += LANES) store(sum + i, load(sum + i) + load(more + i));
            }
            transpose(sum, c, xt.tiles.pictures(t), lanes, y + (b0 + t * TILE) * c, c, c);
        }
    });
}

// grad_x from grad_h, of which fill(first picture, tile, first cell, n, V, grad_h) writes a block (n, L V).
template <class Fill>
INLINE void backward_x(const Wiring& J, const float* x, int64_t B, const uint32_t* fired, int threads, float* grad_x,
                       const Fill& fill) {
    const auto work = workspaces(threads, BLOCK * TILE);
    const int64_t size = J.d * TILE, group = std::min(GROUP, Tiles{B, true}.count());
    Array<float> parts(chunks_of(J.m) * group * size);  // grad_x (d, L V) of a tile, summed over the cells of a chunk
    for_groups(J, x, B, [&](int64_t b0, const Turned& xt) {
        for_chunks(threads, J.m, xt.tiles, [&](int64_t chunk, int64_t t, int thread) {
            float* grad_h = work[thread].data();
            const int V = xt.tiles.vectors(t);
            float* part = parts.data() + (chunk * group + t) * size;
            const Known bits{fired ? fired + b0 + t * TILE : nullptr, B, xt.tiles.pictures(t)};
            std::memset(part, 0, J.d * width(V) * sizeof(float));
            for_blocks(chunk_of(J.m, chunk), [&](int64_t first, int64_t n) {
                fill(b0, t, first, n, V, grad_h);
                scatter(J, first, n, V, xt.tile(t), bits, grad_h, part);
            });
        });
        // The chunks are added in their order, a few mossy fibres at a time.
        const int64_t strip = 64, strips = (J.d + strip - 1) / strip;
        run_tasks(threads, xt.tiles.count() * strips, [&](int64_t task, int) {
            const int64_t t = task / strips, p0 = task % strips * strip, np = std::min(strip, J.d - p0);
            const int64_t lanes = width(xt.tiles.vectors(t));
            float* sum = parts.data() + t * size + p0 * lanes;
            for (int64_t chunk = 1; chunk < chunks_of(J.m); ++chunk) {
                const float* more = sum + chunk * group * size;
                for (int64_t i = 0; i < np * lanes; ++i) sum[i] += more[i];
            }
            transpose(sum, np, xt.tiles.pictures(t), lanes, grad_x + (b0 + t * TILE) * J.d + p0, np, J.d);
        });
    });
}

static void granule_backward(const Wiring& J, const float* x, int64_t B, const float* grad_h, float* grad_x,
                             int threads) {
    const Tiles tiles{B, true};
    const auto given = [&](int64_t b0, int64_t t, int64_t first, int64_t n, int V, float* block) {
        const int64_t b = b0 + t * TILE;
        transpose(grad_h + b * J.m + first, tiles.pictures(b / TILE), n, J.m, block, width(V), width(V));
    };
    backward_x(J, x, B, nullptr, threads, grad_x, given);
}

static void circuit_backward_x(const Wiring& J, const float* x, int64_t B, const float* W, int64_t c,
                               const float* grad_y, const uint32_t* fired, float* grad_x, int threads) {
    Turned gt(B, c, true);
    turn(grad_y, B, gt);
    const auto returned = [&](int64_t b0, int64_t t, int64_t first, int64_t n, int V, float* block) {
        const float* errors = gt.tile(b0 / TILE + t);
        if (V) return product<true>({W + first, 1, J.m}, errors, n, c, V, block);
        std::memset(block, 0, n * sizeof(float));
        for (int64_t j = 0; j < c; ++j)
            for (int64_t g = 0; g < n; ++g) block[g] += W[j * J.m + first + g] * errors[j];
    };
    backward_x(J, x, B, fired, threads, grad_x, returned);
}

// dW (c, 64) = errors (B, c)^T h of up to 64 cells. totals (64), if wanted, are the sums of h over the
// pictures. h (64, L V) and turned (L V, 64) are for work.
INLINE void correlate(const Wiring& J, int64_t first, int64_t n, Tiles tiles, const float* xt, const float* errors,
                      int64_t c, float* h, float* turned, float* dW, float* totals) {
    std::memset(dW, 0, c * BLOCK * sizeof(float));
    if (totals) std::memset(totals, 0, BLOCK * sizeof(float));
    for (int64_t t = 0; t < tiles.count(); ++t) {
        const int V = tiles.vectors(t);
        gather(J, first, n, V, xt + t * TILE * J.d, nullptr, {}, h);
        const int64_t rounded = (tiles.pictures(t) + 7) / 8 * 8;  // whole squares are quicker
        transpose(h, n, std::min(rounded, width(V)), width(V), turned, BLOCK, BLOCK);
        product<false>({errors + t * TILE * c, 1, c}, turned, c, tiles.pictures(t), BLOCK / LANES, dW);
        if (totals)
            for (int64_t b = 0; b < tiles.pictures(t); ++b)
                for (int64_t g = 0; g < BLOCK; ++g) totals[g] += turned[b * BLOCK + g];
    }
}

static void circuit_backward_W(const Wiring& J, const float* x, int64_t B, const float* mu, int64_t c,
                               const float* grad_y, float* grad_W, int threads) {
    const auto work = workspaces(threads, BLOCK * (2 * TILE + c));
    run_tasks(threads, c, [&](int64_t j, int) {
        float total = 0;
        for (int64_t b = 0; b < B; ++b) total += grad_y[b * c + j];
        float* row = grad_W + j * J.m;
        for (int64_t g = 0; g < J.m; ++g) row[g] = mu ? -total * mu[g] : 0;
    });
    for_groups(J, x, B, [&](int64_t b0, const Turned& xt) {
        run_tasks(threads, chunks_of(J.m), [&](int64_t chunk, int thread) {
            float *h = work[thread].data(), *turned = h + BLOCK * TILE, *dW = turned + BLOCK * TILE;
            for_blocks(chunk_of(J.m, chunk), [&](int64_t first, int64_t n) {
                correlate(J, first, n, xt.tiles, xt.tile(0), grad_y + b0 * c, c, h, turned, dW, nullptr);
                for (int64_t j = 0; j < c; ++j)
                    for (int64_t g = 0; g < n; ++g) grad_W[j * J.m + first + g] += dW[j * BLOCK + g];
            });
        });
    });
}

}  // namespace ISA
}  // namespace cerebsim
