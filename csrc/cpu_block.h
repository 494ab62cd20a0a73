// The pieces that every CPU kernel is made of.
//
// Pictures lie side by side in the lanes of vectors: a tile holds, for every mossy fibre, its values in
// up to four vectors of pictures next to one another, so that a granule cell's k synapses are k
// multiply-adds of whole vectors, and index and weight are read once for all of them. Only where there
// is a single picture are the cells the lanes. Granule cells are taken in blocks whose h fits the
// first-level cache; J, W and mu are read where they lie, since the processor foresees such streams.
//
// Vectors are the compiler's own (GCC and clang), no intrinsics. This file and the kernels on top of
// it are compiled once for every instruction set, in a namespace of its own (ISA, see cpu.cpp).
// In shapes, L stands for LANES. Products feed sums in one way only, so that contraction to fma is the same in every kernel.

#define INLINE static inline __attribute__((always_inline))
#define OUTLINE static __attribute__((noinline))  // once per instruction set, not once per caller

namespace cerebsim {
namespace ISA {

constexpr int LANES = FLOATS;    // as many as the instruction set has: wider vectors would live in memory
constexpr int TILE = 4 * LANES;  // pictures in a full tile
constexpr int BLOCK = 64;        // granule cells taken at a time
constexpr int64_t CHUNKS = 16;   // fixed shares of the granule cells, each summed by itself

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef float LooseLanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float Four __attribute__((vector_size(16)));
typedef float LooseFour __attribute__((vector_size(16), aligned(4), may_alias));
typedef float Eight __attribute__((vector_size(32)));
typedef float LooseEight __attribute__((vector_size(32), aligned(4), may_alias));

INLINE Lanes load(const float* p) { return *reinterpret_cast<const LooseLanes*>(p); }
INLINE void store(float* p, Lanes v) { *reinterpret_cast<LooseLanes*>(p) = v; }
INLINE Lanes splat(float v) { return Lanes{} + v; }

INLINE Lanes load_some(const float* p, int64_t n) {
    if (n >= LANES) return load(p);
    float padded[LANES] = {};
    if (n > 0) std::memcpy(padded, p, n * sizeof(float));
    return load(padded);
}
INLINE void store_some(float* p, Lanes v, int64_t n) {
    if (n >= LANES) return store(p, v);
    float padded[LANES];
    store(padded, v);
    if (n > 0) std::memcpy(p, padded, n * sizeof(float));
}

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
INLINE Eight join(Four a, Four b) { return SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7); }
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Places<sizeof(a)>{__VA_ARGS__})
template <int SIZE>
using Places __attribute__((vector_size(SIZE))) = int32_t;
INLINE Eight join(Four a, Four b) {
    Eight both;
    std::memcpy(&both, &a, sizeof a);
    std::memcpy(reinterpret_cast<char*>(&both) + sizeof a, &b, sizeof b);
    return both;
}
#endif

// out[j][i] = in[i][j], 4 x 4, and the same again in every further quarter of wider vectors.
template <class Vector>
INLINE void turn4(Vector (&a)[4]) {
    Vector b[4];
    if constexpr (sizeof(Vector) == sizeof(Four))
        for (int i = 0; i < 4; i += 2) {
            b[i] = SHUFFLE(a[i], a[i + 1], 0, 4, 1, 5);
            b[i + 1] = SHUFFLE(a[i], a[i + 1], 2, 6, 3, 7);
        }
    else
        for (int i = 0; i < 4; i += 2) {
            b[i] = SHUFFLE(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
            b[i + 1] = SHUFFLE(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
        }
    for (int i = 0; i < 2; ++i)
        if constexpr (sizeof(Vector) == sizeof(Four)) {
            a[2 * i] = SHUFFLE(b[i], b[i + 2], 0, 1, 4, 5);
            a[2 * i + 1] = SHUFFLE(b[i], b[i + 2], 2, 3, 6, 7);
        } else {
            a[2 * i] = SHUFFLE(b[i], b[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            a[2 * i + 1] = SHUFFLE(b[i], b[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
}
// out[j][i] = in[i][j], 8 x 8.
INLINE void transpose8(const float* in, int64_t in_stride, float* out, int64_t out_stride) {
    const auto quarter = [&](int i, int j) {
        return Four(*reinterpret_cast<const LooseFour*>(in + i * in_stride + j));
    };
    for (int j = 0; j < 8; j += 4) {
        if constexpr (LANES >= 8) {
            Eight a[4];
            for (int i = 0; i < 4; ++i)
                a[i] = join(quarter(i, j), quarter(i + 4, j));
            turn4(a);
            for (int i = 0; i < 4; ++i) *reinterpret_cast<LooseEight*>(out + (j + i) * out_stride) = a[i];
        } else {
            for (int half = 0; half < 8; half += 4) {
                Four a[4];
                for (int i = 0; i < 4; ++i) a[i] = quarter(half + i, j);
                turn4(a);
                for (int i = 0; i < 4; ++i) *reinterpret_cast<LooseFour*>(out + (j + i) * out_stride + half) = a[i];
            }
        }
    }
}
#undef SHUFFLE

// Uninitialised memory on a cache line's boundary.
template <class T>
class Array {
public:
    explicit Array(int64_t n) : p_(static_cast<T*>(::operator new(std::max<int64_t>(n, 1) * sizeof(T), LINE))) {}
    T* data() const { return p_.get(); }

private:
    static constexpr std::align_val_t LINE{64};
    struct Free {
        void operator()(T* p) const { ::operator delete(p, LINE); }
    };
    std::unique_ptr<T, Free> p_;
};

// How B pictures lie in tiles: the last tile has as many vectors as it needs. With `lone`, a tile
// of one picture is a plain row and has 0 vectors; everything below that takes V knows what to do.
struct Tiles {
    int64_t B;
    bool lone;
    int64_t count() const { return (B + TILE - 1) / TILE; }
    int64_t pictures(int64_t tile) const { return std::min<int64_t>(TILE, B - tile * TILE); }
    int vectors(int64_t tile) const {
        return lone && pictures(tile) == 1 ? 0 : static_cast<int>((pictures(tile) + LANES - 1) / LANES);
    }
};
INLINE int64_t width(int V) { return V ? V * LANES : 1; }

// out (cols, wide) = in (rows, cols) transposed, for any sizes; columns from rows to wide are 0.
OUTLINE void transpose(const float* in, int64_t rows, int64_t cols, int64_t in_stride, float* out, int64_t wide,
                       int64_t out_stride) {
    for (int64_t i = 0; i < wide; i += 8)
        for (int64_t j = 0; j < cols; j += 8) {
            const int64_t ni = std::clamp<int64_t>(rows - i, 0, 8), nj = std::min<int64_t>(8, cols - j);
            const float* from = in + i * in_stride + j;
            float* to = out + j * out_stride + i;
            if (ni == 8 && nj == 8) {
                transpose8(from, in_stride, to, out_stride);
                continue;
            }
            float padded[64] = {}, turned[64];
            if (nj == 8 && wide - i >= 8) {  // rows are missing, as where c is 10
                for (int64_t a = 0; a < ni; ++a) std::memcpy(padded + a * 8, from + a * in_stride, 32);
                transpose8(padded, 8, to, out_stride);
                continue;
            }
            for (int64_t a = 0; a < ni; ++a) std::memcpy(padded + a * 8, from + a * in_stride, nj * sizeof(float));
            transpose8(padded, 8, turned, 8);
            for (int64_t b = 0; b < nj; ++b)
                std::memcpy(to + b * out_stride, turned + b * 8, std::min<int64_t>(8, wide - i) * sizeof(float));
        }
}

// Calls F<V> for V vectors of a tile.
#define WITH_VECTORS(NUMBER, CALL) \
    {                              \
        constexpr int VECTORS = NUMBER; \
        CALL;                      \
        break;                     \
    }
#define FOR_VECTORS(V, CALL)            \
    switch (V) {                        \
        case 1: WITH_VECTORS(1, CALL)   \
        case 2: WITH_VECTORS(2, CALL)   \
        case 3: WITH_VECTORS(3, CALL)   \
        default: WITH_VECTORS(4, CALL)  \
    }

// The granule cells [begin, end) of a chunk; chunks are whole blocks and depend on m alone.
struct Span {
    int64_t begin, end;
};
INLINE Span chunk_of(int64_t m, int64_t chunk) {
    const int64_t size = ((m + CHUNKS - 1) / CHUNKS + BLOCK - 1) / BLOCK * BLOCK;
    return {std::min(m, chunk * size), std::min(m, (chunk + 1) * size)};
}

// Calls work(first cell, number) for up to 64 cells of a span at a time.
template <class Work>
INLINE void for_blocks(Span span, const Work& work) {
    for (int64_t first = span.begin; first < span.end; first += BLOCK)
        work(first, std::min<int64_t>(BLOCK, span.end - first));
}

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

// h (n, L V) of n cells for one tile; h (n) if V is 0, with the cells as lanes.
template <int V, class Index>
INLINE void gather_n(const Synapses<Index> J, int64_t k, int64_t n, const float* tile, float* h) {
    for (int64_t g = 0; g < n; ++g) {
        Lanes u[V];
        activity<V>(J, k, g, tile, u);
        for (int v = 0; v < V; ++v) store(h + (g * V + v) * LANES, u[v]);
    }
}

// z (n, L V) = h - mu, and y (R, L V) += W z with z still in registers; W (R, n) at a stride of m. Without
// mu z is h.
template <int R, int V, class Index>
INLINE void read_n(const Synapses<Index> J, int64_t k, int64_t n, const float* tile, const float* W,
                   const float* mu, float* z, float* y) {
    Lanes sum[R + 1][V];  // R may be 0
#pragma GCC unroll 10
    for (int j = 0; j < R; ++j)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[j][v] = load(y + (j * V + v) * LANES);
    for (int64_t g = 0; g < n; ++g) {
        Lanes u[V];
        activity<V>(J, k, g, tile, u);
        const Lanes centre = mu ? splat(mu[g]) : Lanes{};
        for (int v = 0; v < V; ++v) u[v] -= centre;
        for (int v = 0; v < V; ++v) store(z + (g * V + v) * LANES, u[v]);
#pragma GCC unroll 10
        for (int j = 0; j < R; ++j) {
            const Lanes weight = splat(W[j * J.m + g]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sum[j][v] += weight * u[v];
        }
    }
#pragma GCC unroll 10
    for (int j = 0; j < R; ++j)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) store(y + (j * V + v) * LANES, sum[j][v]);
}

// The same synapses backwards: grad_tile[index[r]] += weight[r] grad_h[g] where h[g] > 0; h is worked
// out on the way.
template <int V, class Index>
INLINE void scatter_n(const Synapses<Index> J, int64_t k, int64_t n, const float* tile, const float* grad_h,
                      float* grad_tile) {
    for (int64_t g = 0; g < n; ++g) {
        Lanes u[V];
        activity<V>(J, k, g, tile, u);
        for (int v = 0; v < V; ++v) u[v] = u[v] > 0 ? load(grad_h + (g * V + v) * LANES) : Lanes{};
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
OUTLINE void scatter_one(const Wiring& J, int64_t first, int64_t n, const float* x, const float* grad_h,
                         float* grad_x) {
    float h[BLOCK];
    gather_one(J, first, n, x, h);
    for (int64_t g = 0; g < n; ++g) h[g] = h[g] > 0 ? grad_h[g] : 0;
    FOR_INDEX(J, first, for (int64_t g = 0; g < n; ++g)
                            for (int64_t r = 0; r < J.k; ++r)
                                grad_x[synapses.indices[r * J.m + g]] += synapses.weights[r * J.m + g] * h[g])
}
INLINE void subtract(float* __restrict h, const float* __restrict mu, int64_t n) {
    for (int64_t g = 0; g < n; ++g) h[g] -= mu[g];
}
// y (c) += W h with the Purkinje cells as lanes, so that it adds up cell by cell as a tile does; y has room
// for whole vectors.
OUTLINE void read_one(const float* W, int64_t m, const float* h, int64_t n, int64_t c, float* y) {
    float turned[BLOCK * LANES];
    for (int64_t j = 0; j < c; j += LANES) {
        transpose(W + j * m, std::min<int64_t>(LANES, c - j), n, m, turned, LANES, LANES);
        Lanes sum = load(y + j);
        for (int64_t g = 0; g < n; ++g) sum += load(turned + g * LANES) * splat(h[g]);
        store(y + j, sum);
    }
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

OUTLINE void gather(const Wiring& J, int64_t first, int64_t n, int V, const float* tile, float* h) {
    if (V == 0) return gather_one(J, first, n, tile, h);
    FOR_SYNAPSES(J, first, V, (gather_n<VECTORS>(synapses, K, n, tile, h)))
}
OUTLINE void scatter(const Wiring& J, int64_t first, int64_t n, int V, const float* tile, const float* grad_h,
                     float* grad_tile) {
    if (V == 0) return scatter_one(J, first, n, tile, grad_h, grad_tile);
    FOR_SYNAPSES(J, first, V, (scatter_n<VECTORS>(synapses, K, n, tile, grad_h, grad_tile)))
}

// A matrix whose entry (r, i) stands at p[r * across + i * along].
struct Strided {
    const float* p;
    int64_t across, along;
};

// sum (R, L V) += sum_{i < n} left (R, n) right (n, L V), in registers; FRESH: the sum starts at 0.
template <bool FRESH, int R, int V>
INLINE void product_tile(Strided left, const float* right, int64_t n, float* sum, int64_t stride) {
    Lanes acc[R][V];
#pragma GCC unroll 10
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[r][v] = FRESH ? Lanes{} : load(sum + r * stride + v * LANES);
    for (int64_t i = 0; i < n; ++i) {
        Lanes b[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) b[v] = load(right + i * stride + v * LANES);
#pragma GCC unroll 10
        for (int r = 0; r < R; ++r) {
            const Lanes a = splat(left.p[r * left.across + i * left.along]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[r][v] += a * b[v];
        }
    }
#pragma GCC unroll 10
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) store(sum + r * stride + v * LANES, acc[r][v]);
}
// How many rows a product of V vectors takes at a time.
constexpr int rows_at_once(int V) { return std::min(10, SUMS / V); }

template <bool FRESH, int V>
OUTLINE void product_rows(Strided left, const float* right, int64_t rows, int64_t n, float* sum, int64_t stride) {
    const auto take = [&](auto number) {
        constexpr int R = decltype(number)::value;
        for (; rows >= R; rows -= R, left.p += R * left.across, sum += R * stride)
            product_tile<FRESH, R, V>(left, right, n, sum, stride);
    };
    take(std::integral_constant<int, rows_at_once(V)>());
    take(std::integral_constant<int, std::min(4, rows_at_once(V))>());
    take(std::integral_constant<int, 1>());
}
// The same for any number of rows and of vectors; right and sum have rows of L V.
template <bool FRESH>
INLINE void product(Strided left, const float* right, int64_t rows, int64_t n, int V, float* sum) {
    for (int v = 0; v < V; v += 4, right += TILE, sum += TILE)
        FOR_VECTORS(V - v, (product_rows<FRESH, VECTORS>(left, right, rows, n, sum, V * LANES)))
}

// y (c, L V) += W z for a tile and n cells from `first` on, where z = h - mu, or h if mu is null; z (n, L V)
// is left behind.
OUTLINE void read(const Wiring& J, int64_t first, int64_t n, int V, const float* tile, const float* W,
                  const float* mu, int64_t c, float* z, float* y) {
    const float* centres = mu ? mu + first : nullptr;
    if (V == 0) {
        gather_one(J, first, n, tile, z);
        if (mu) subtract(z, centres, n);
        return read_one(W + first, J.m, z, n, c, y);
    }
    const int64_t done = c >= rows_at_once(V) ? rows_at_once(V) : 0;
    if (done)
        FOR_SYNAPSES(J, first, V,
                     (read_n<rows_at_once(VECTORS), VECTORS>(synapses, K, n, tile, W + first, centres, z, y)))
    else
        FOR_SYNAPSES(J, first, V, (read_n<0, VECTORS>(synapses, K, n, tile, W + first, centres, z, y)))
    product<false>({W + done * J.m + first, J.m, 1}, z, c - done, n, V, y + done * V * LANES);
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
