// Granule cells on the CPU: how they hear a tile of pictures and are read out, and the way back.
//
// A cell's k synapses are k multiply-adds of whole vectors of pictures (see cpu_vectors.h), and index
// and weight are read once for all of them; only where there is a single picture are the cells the
// lanes. Cells are taken in blocks whose h fits the first-level cache; J, W and mu are read where they
// lie, since the processor foresees such streams.

namespace cerebsim {
namespace ISA {

constexpr int BLOCK = 64;        // granule cells taken at a time
constexpr int WORD = 32;         // granule cells of a word of bits

// Into how many fixed shares the granule cells are split, each summed by itself: as many as threads may
// want, few enough that adding them up is little of the work.
INLINE int64_t chunks_of(int64_t m) { return std::clamp<int64_t>(m / 2048, 1, 16); }

// The granule cells [begin, end) of a chunk; chunks are whole blocks and depend on m alone.
struct Span {
    int64_t begin, end;
};
INLINE Span chunk_of(int64_t m, int64_t chunk) {
    const int64_t chunks = chunks_of(m), size = ((m + chunks - 1) / chunks + BLOCK - 1) / BLOCK * BLOCK;
    return {std::min(m, chunk * size), std::min(m, (chunk + 1) * size)};
}

// Calls work(first cell, number) for up to 64 cells of a span at a time.
template <class Work>
INLINE void for_blocks(Span span, const Work& work) {
    for (int64_t first = span.begin; first < span.end; first += BLOCK)
        work(first, std::min<int64_t>(BLOCK, span.end - first));
}

// Which granule cells fire, h > 0, for the pictures of a tile: bit g % 32 of at[g / 32 * B + picture].
// at is null where that is neither kept nor known.
template <class Word>
struct Bits {
    Word* at;
    int64_t B, pictures;
    explicit operator bool() const { return at; }
    Word* of(int64_t g) const { return at + g / WORD * B; }  // the words of cells g ... g + 31
};
using Fired = Bits<uint32_t>;
using Known = Bits<const uint32_t>;

// The synapses of the granule cells from `first` on. Index is int16_t or int32_t.
template <class Index>
struct Synapses {
    Synapses(const Wiring& J, int64_t first)
        : m(J.m), indices(static_cast<const Index*>(J.indices) + first), weights(J.weights + first),
          thresholds(J.thresholds ? J.thresholds + first : nullptr) {}
    const int64_t m;
    const Index* indices;
    const float* weights;
    const float* thresholds;

    // Where the mossy fibre of synapse r of cell g begins in a tile of V vectors.
    template <int V, class Float>
    Float* row(Float* tile, int64_t r, int64_t g) const {
        Float* p = tile + static_cast<int64_t>(indices[r * m + g]) * (V * LANES);
#ifdef __GNUC__
        asm("" : "+r"(p));  // a plain pointer keeps each multiply-add one instruction with its load
#endif
        return p;
    }
};

// h (L V) of cell g for one tile: relu(sum_r weight[r] x[index[r]] - threshold).
template <int V, class Index>
INLINE void activity(const Synapses<Index>& J, int64_t k, int64_t g, const float* tile, Lanes (&h)[V]) {
    for (int v = 0; v < V; ++v) h[v] = J.thresholds ? splat(-J.thresholds[g]) : Lanes{};
#pragma GCC unroll 4
    for (int64_t r = 0; r < k; ++r) {
        const float* row = J.template row<V>(tile, r, g);
        const Lanes weight = splat(J.weights[r * J.m + g]);
        for (int v = 0; v < V; ++v) h[v] += weight * load(row + v * LANES);
    }
    for (int v = 0; v < V; ++v) h[v] = h[v] > 0 ? h[v] : Lanes{};
}

// z (n, L V) = h - mu; without mu z is h. FIRED: bits (V) say h > 0 of up to 32 cells.
template <int V, bool FIRED, class Index>
INLINE void gather_n(const Synapses<Index> J, int64_t k, int64_t n, const float* tile, const float* mu, float* z,
                     Words* bits) {
    Words fired[V] = {}, bit = Words{} + 1;
    for (int64_t g = 0; g < n; ++g) {
        Lanes u[V];
        activity<V>(J, k, g, tile, u);
        if (FIRED) {
            for (int v = 0; v < V; ++v) fired[v] = u[v] > 0 ? fired[v] | bit : fired[v];
            bit += bit;
        }
        const Lanes centre = mu ? splat(mu[g]) : Lanes{};
        for (int v = 0; v < V; ++v) store(z + (g * V + v) * LANES, u[v] - centre);
    }
    if (FIRED)
        for (int v = 0; v < V; ++v) bits[v] = fired[v];
}

// The same synapses backwards: grad_tile[index[r]] += weight[r] grad_h[g] where h[g] > 0. KNOWN: as bits (V) of up
// to 32 cells say; else h is worked out on the way.
template <int V, bool KNOWN, class Index>
INLINE void scatter_n(const Synapses<Index> J, int64_t k, int64_t n, const float* tile, const Words* bits,
                      const float* grad_h, float* grad_tile) {
    Words fired[V], bit = Words{} + 1;
    if (KNOWN)
        for (int v = 0; v < V; ++v) fired[v] = bits[v];
    for (int64_t g = 0; g < n; ++g) {
        Lanes u[V];
        const float* grad = grad_h + g * V * LANES;
        if (KNOWN) {
            for (int v = 0; v < V; ++v) u[v] = (fired[v] & bit) != 0 ? load(grad + v * LANES) : Lanes{};
            bit += bit;
        } else {
            activity<V>(J, k, g, tile, u);
            for (int v = 0; v < V; ++v) u[v] = u[v] > 0 ? load(grad + v * LANES) : Lanes{};
        }
#pragma GCC unroll 4
        for (int64_t r = 0; r < k; ++r) {
            float* row = J.template row<V>(grad_tile, r, g);
            const Lanes weight = splat(J.weights[r * J.m + g]);
            for (int v = 0; v < V; ++v) store(row + v * LANES, load(row + v * LANES) + weight * u[v]);
        }
    }
}

// CALL with the `synapses` from `first` on, whichever type their indices have.
#define FOR_INDEX(J, first, CALL)                   \
    if (J.wide) {                                   \
        const Synapses<int32_t> synapses(J, first); \
        CALL;                                       \
    } else {                                        \
        const Synapses<int16_t> synapses(J, first); \
        CALL;                                       \
    }

// One picture: h (n) of n cells, h beyond them up to 64 is 0.
template <class Index>
INLINE void gather_lanes(const Synapses<Index> J, int64_t k, int64_t n, const float* __restrict x,
                         float* __restrict h) {
    for (int64_t g = 0; g < BLOCK; ++g) h[g] = 0;
    if (J.thresholds)
        for (int64_t g = 0; g < n; ++g) h[g] = -J.thresholds[g];
    for (int64_t r = 0; r < k; ++r) {
        const Index* __restrict index = J.indices + r * J.m;
        const float* __restrict weight = J.weights + r * J.m;
        for (int64_t g = 0; g < BLOCK; g += LANES) {
            __builtin_prefetch(index + BLOCK + g);
            __builtin_prefetch(weight + BLOCK + g);
        }
        for (int64_t g = 0; g < n; ++g) h[g] += weight[g] * x[static_cast<int32_t>(index[g])];
    }
    for (int64_t g = 0; g < BLOCK; ++g) h[g] = h[g] > 0 ? h[g] : 0;
}
OUTLINE void gather_one(const Wiring& J, int64_t first, int64_t n, const float* x, float* h) {
    FOR_INDEX(J, first, gather_lanes(synapses, J.k, n, x, h))
}
// grad_x += J (grad_h * [h > 0]) of one picture: `cells` (n) are those that fire.
template <class Index>
INLINE void scatter_lanes(const Synapses<Index> J, int64_t k, int64_t n, const int32_t* cells, const float* grad_h,
                          float* grad_x) {
    for (int64_t r = 0; r < k; ++r)  // more streams than a processor foresees
        for (int64_t g = 0; g < BLOCK; g += 16) {
            __builtin_prefetch(J.indices + r * J.m + BLOCK + g);
            __builtin_prefetch(J.weights + r * J.m + BLOCK + g);
        }
    for (int64_t i = 0; i < n; ++i) {
        const int64_t g = cells[i];
        for (int64_t r = 0; r < k; ++r) grad_x[J.indices[r * J.m + g]] += J.weights[r * J.m + g] * grad_h[g];
    }
}
OUTLINE void scatter_one(const Wiring& J, int64_t first, int64_t n, const float* x, Known fired, const float* grad_h,
                         float* grad_x) {
    float h[BLOCK];
    if (fired)
        for (int64_t g = 0; g < n; g += WORD) {
            const uint32_t word = *fired.of(first + g);
            for (int i = 0; i < WORD; ++i) h[g + i] = static_cast<float>(word >> i & 1);
        }
    else
        gather_one(J, first, n, x, h);
    int32_t cells[BLOCK];
    int64_t firing = 0;
    for (int64_t g = 0; g < n; ++g) {
        cells[firing] = static_cast<int32_t>(g);
        firing += h[g] > 0;
    }
    FOR_INDEX(J, first, scatter_lanes(synapses, J.k, firing, cells, grad_h, grad_x))
}
INLINE void keep_one(int64_t first, int64_t n, const float* h, Fired fired) {
    for (int64_t g = 0; g < n; g += WORD) {
        uint32_t word = 0;
        for (int64_t i = g; i < std::min(n, g + WORD); ++i) word |= uint32_t(h[i] > 0) << (i - g);
        *fired.of(first + g) = word;
    }
}
INLINE void subtract(float* __restrict h, const float* __restrict mu, int64_t n) {
    for (int64_t g = 0; g < n; ++g) h[g] -= mu[g];
}
// y (R) += W (R, n) h, cell by cell as a tile of pictures adds up: R sums at a time, since each waits for itself.
template <int R>
INLINE void read_rows(const float* W, int64_t m, const float* h, int64_t n, float* y) {
    float sums[R];
    for (int r = 0; r < R; ++r) sums[r] = y[r];
    for (int64_t g = 0; g < n; ++g) {
        const float* weights = W + g;
#ifdef __GNUC__
        asm("" : "+r"(weights));  // or compilers shuffle cells into vectors: slower, and not fma
#endif
#pragma GCC unroll 10
        for (int r = 0; r < R; ++r) sums[r] += weights[r * m] * h[g];
    }
    for (int r = 0; r < R; ++r) y[r] = sums[r];
}
OUTLINE void read_one(const float* W, int64_t m, const float* h, int64_t n, int64_t c, float* y) {
    for (; c >= 10; c -= 10, W += 10 * m, y += 10) read_rows<10>(W, m, h, n, y);
    for (; c > 0; --c, W += m, ++y) read_rows<1>(W, m, h, n, y);
}

// CALL with `synapses` of the index's type, the usual small fan-ins as constants K, and VECTORS.
#define WITH_FAN_IN(NUMBER, CALL)     \
    {                                 \
        const int64_t K = NUMBER;     \
        CALL;                         \
        break;                        \
    }
#define FOR_FAN_IN(k, CALL)           \
    switch (k) {                      \
        case 1: WITH_FAN_IN(1, CALL)  \
        case 2: WITH_FAN_IN(2, CALL)  \
        case 4: WITH_FAN_IN(4, CALL)  \
        default: WITH_FAN_IN(k, CALL) \
    }
#define FOR_SYNAPSES(J, first, V, CALL) FOR_INDEX(J, first, FOR_FAN_IN(J.k, FOR_VECTORS(V, CALL)))

// z (n, L V) = h - mu of n cells from `first` on, a multiple of 64, for one tile; z (n) if V is 0. mu may be null
// for 0.
OUTLINE void gather(const Wiring& J, int64_t first, int64_t n, int V, const float* tile, const float* mu, Fired fired,
                    float* z) {
    if (mu) mu += first;
    if (V == 0) {
        gather_one(J, first, n, tile, z);
        if (fired) keep_one(first, n, z, fired);
        if (mu) subtract(z, mu, n);
        return;
    }
    if (!fired) {
        FOR_SYNAPSES(J, first, V, (gather_n<VECTORS, false>(synapses, K, n, tile, mu, z, nullptr)))
        return;
    }
    for (; n > 0; n -= WORD, first += WORD, z += WORD * V * LANES) {
        Words bits[TILE / LANES];
        const int64_t some = std::min<int64_t>(n, WORD);
        FOR_SYNAPSES(J, first, V, (gather_n<VECTORS, true>(synapses, K, some, tile, mu, z, bits)))
        std::memcpy(fired.of(first), bits, fired.pictures * sizeof(uint32_t));
        if (mu) mu += WORD;
    }
}
// grad_tile += J (grad_h * [h > 0]), of the same shapes.
OUTLINE void scatter(const Wiring& J, int64_t first, int64_t n, int V, const float* tile, Known fired,
                     const float* grad_h, float* grad_tile) {
    if (V == 0) return scatter_one(J, first, n, tile, fired, grad_h, grad_tile);
    if (!fired) {
        FOR_SYNAPSES(J, first, V, (scatter_n<VECTORS, false>(synapses, K, n, tile, nullptr, grad_h, grad_tile)))
        return;
    }
    for (; n > 0; n -= WORD, first += WORD, grad_h += WORD * V * LANES) {
        Words bits[TILE / LANES] = {};
        const int64_t some = std::min<int64_t>(n, WORD);
        std::memcpy(bits, fired.of(first), fired.pictures * sizeof(uint32_t));
        FOR_SYNAPSES(J, first, V, (scatter_n<VECTORS, true>(synapses, K, some, tile, bits, grad_h, grad_tile)))
    }
}

// y (c, L V) += W z for a tile and n cells from `first` on, where z = h - mu, or h if mu is null; z (n, L V)
// is left behind.
INLINE void read(const Wiring& J, int64_t first, int64_t n, int V, const float* tile, const float* W,
                 const float* mu, int64_t c, Fired fired, float* z, float* y) {
    gather(J, first, n, V, tile, mu, fired, z);
    if (V == 0) return read_one(W + first, J.m, z, n, c, y);
    product<false>({W + first, J.m, 1}, z, c, n, V, y);
}
#undef FOR_SYNAPSES
#undef FOR_INDEX
#undef FOR_FAN_IN
#undef WITH_FAN_IN
#undef FOR_VECTORS
#undef WITH_VECTORS

// lanes (c, L) += W z with n cells as lanes; W (c, n) at a stride of m.
INLINE void read_lanes(const float* W, int64_t m, const float* z, int64_t n, int64_t c, float* lanes) {
    for (int64_t j = 0; j < c; ++j) {
        Lanes sum = load(lanes + j * LANES);
        if (n == BLOCK)
            for (int64_t g = 0; g < BLOCK; g += LANES) sum += load(W + j * m + g) * load(z + g);
        else
            for (int64_t g = 0; g < n; g += LANES) sum += load_some(W + j * m + g, n - g) * load_some(z + g, n - g);
        store(lanes + j * LANES, sum);
    }
}

}  // namespace ISA
}  // namespace cerebsim
