// The pieces that every CPU kernel is made of.
//
// Pictures lie side by side in vectors of 16 lanes: a tile holds, for every mossy fibre, its values
// in up to 64 pictures next to one another, so that a granule cell's k synapses are k multiply-adds
// of whole vectors, and index and weight are read once for all of them. Granule cells are taken in
// blocks of 64, whose wiring and readout are packed first.
//
// Vectors are the compiler's own (GCC and clang), no intrinsics. This file and the kernels on top of
// it are compiled once for every instruction set, in a namespace of its own (ISA, see cpu.cpp).
// Products feed sums in one way only, so that contraction to fma is the same in every kernel.

#define INLINE static inline __attribute__((always_inline))
#define OUTLINE static __attribute__((noinline))  // once per instruction set, not once per caller

namespace cerebsim {
namespace ISA {

constexpr int LANES = 16;
constexpr int TILE = 4 * LANES;  // pictures in a full tile
constexpr int BLOCK = 64;        // granule cells packed at a time
constexpr int64_t CHUNKS = 16;   // fixed shares of the granule cells, each summed by itself

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef float LooseLanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
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

// out[j][i] = in[i][j], 8 x 8, in three rounds of exchanges that x86 has as single instructions.
INLINE void transpose8(const float* in, int64_t in_stride, float* out, int64_t out_stride) {
    Eight a[8], b[8];
    for (int i = 0; i < 8; ++i) a[i] = *reinterpret_cast<const LooseEight*>(in + i * in_stride);
    for (int i = 0; i < 8; i += 2) {
        b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int q = 0; q < 8; q += 4)
        for (int i = 0; i < 2; ++i) {
            a[q + 2 * i] = __builtin_shufflevector(b[q + i], b[q + i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            a[q + 2 * i + 1] = __builtin_shufflevector(b[q + i], b[q + i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int i = 0; i < 4; ++i) {
        b[i] = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        b[i + 4] = __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    for (int i = 0; i < 8; ++i) *reinterpret_cast<LooseEight*>(out + i * out_stride) = b[i];
}

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

// How B pictures lie in tiles of 64: the last tile has as many vectors as it needs.
struct Tiles {
    int64_t B;
    int64_t count() const { return (B + TILE - 1) / TILE; }
    int64_t pictures(int64_t tile) const { return std::min<int64_t>(TILE, B - tile * TILE); }
    int vectors(int64_t tile) const { return static_cast<int>((pictures(tile) + LANES - 1) / LANES); }
};

// out (cols, width) = in (rows, cols) transposed, for any sizes; columns from rows to width are 0.
OUTLINE void transpose(const float* in, int64_t rows, int64_t cols, int64_t in_stride, float* out, int64_t width,
                       int64_t out_stride) {
    for (int64_t i = 0; i < width; i += 8)
        for (int64_t j = 0; j < cols; j += 8) {
            const int64_t ni = std::clamp<int64_t>(rows - i, 0, 8), nj = std::min<int64_t>(8, cols - j);
            if (ni == 8 && nj == 8) {
                transpose8(in + i * in_stride + j, in_stride, out + j * out_stride + i, out_stride);
                continue;
            }
            for (int64_t b = 0; b < nj; ++b)
                for (int64_t a = 0; a < std::min<int64_t>(8, width - i); ++a)
                    out[(j + b) * out_stride + i + a] = a < ni ? in[(i + a) * in_stride + j + b] : 0;
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

// Asks for memory that the next block will read.
INLINE void prefetch(const void* p, int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(static_cast<const char*>(p) + line);
}

// The wiring of up to 64 granule cells, packed. The usual few synapses stay in rows, as in memory;
// many are turned, so that the synapses of one cell lie together.
struct Block {
    explicit Block(const Wiring& wiring)
        : J(wiring), in_rows(J.k == 1 || J.k == 2 || J.k == 4), offsets(J.k * BLOCK), weights(J.k * BLOCK) {}

    const Wiring& J;
    const bool in_rows;
    int64_t n = 0;           // cells in the block
    float bias[BLOCK] = {};  // -threshold
    Array<int32_t> offsets;  // of a mossy fibre's row in a tile of one vector
    Array<float> weights;
};
template <class From, class To>
INLINE void pack_rows(const From* from, const Block& block, To factor, To* to) {
    const int64_t m = block.J.m, k = block.J.k, n = block.n;
    if (block.in_rows)
        for (int64_t r = 0; r < k; ++r) {
            prefetch(from + r * m + BLOCK, BLOCK * sizeof(From));
            for (int64_t g = 0; g < n; ++g) to[r * BLOCK + g] = from[r * m + g] * factor;
        }
    else
        for (int64_t r = 0; r < k; ++r)
            for (int64_t g = 0; g < n; ++g) to[g * k + r] = from[r * m + g] * factor;
}
INLINE void pack(Block& block, int64_t first, int64_t end) {
    const Wiring& J = block.J;
    block.n = std::min<int64_t>(BLOCK, end - first);
    if (J.wide)
        pack_rows(static_cast<const int32_t*>(J.indices) + first, block, LANES, block.offsets.data());
    else
        pack_rows(static_cast<const int16_t*>(J.indices) + first, block, LANES, block.offsets.data());
    pack_rows(J.weights + first, block, 1.0f, block.weights.data());
    if (J.thresholds)
        for (int64_t g = 0; g < block.n; ++g) block.bias[g] = -J.thresholds[first + g];
}

// h (n, 16 V) of a block for one tile: relu(sum_r weight[r] x[offset[r]] - threshold).
// K is the fan-in, or 0 for any.
template <int V, int K>
INLINE void gather_k(const Block& block, const float* tile, float* h) {
    const int64_t across = K ? BLOCK : 1, along = K ? 1 : block.J.k, k = K ? K : block.J.k;
    const int32_t* offsets = block.offsets.data();
    const float* weights = block.weights.data();
    for (int64_t g = 0; g < block.n; ++g) {
        Lanes u[V];
        for (int v = 0; v < V; ++v) u[v] = splat(block.bias[g]);
#pragma GCC unroll 4
        for (int64_t r = 0; r < k; ++r) {
            const float* row = tile + static_cast<int64_t>(offsets[r * across + g * along]) * V;
            const Lanes weight = splat(weights[r * across + g * along]);
            for (int v = 0; v < V; ++v) u[v] += weight * load(row + v * LANES);
        }
        for (int v = 0; v < V; ++v) store(h + (g * V + v) * LANES, u[v] > 0 ? u[v] : Lanes{});
    }
}

// The same synapses backwards: grad_tile[offset[r]] += weight[r] grad_h[g] where h[g] > 0.
template <int V, int K>
INLINE void scatter_k(const Block& block, const float* h, const float* grad_h, float* grad_tile) {
    const int64_t across = K ? BLOCK : 1, along = K ? 1 : block.J.k, k = K ? K : block.J.k;
    const int32_t* offsets = block.offsets.data();
    const float* weights = block.weights.data();
    for (int64_t g = 0; g < block.n; ++g) {
        Lanes active[V];
        for (int v = 0; v < V; ++v) {
            const int64_t at = (g * V + v) * LANES;
            active[v] = load(h + at) > 0 ? load(grad_h + at) : Lanes{};
        }
#pragma GCC unroll 4
        for (int64_t r = 0; r < k; ++r) {
            float* row = grad_tile + static_cast<int64_t>(offsets[r * across + g * along]) * V;
            const Lanes weight = splat(weights[r * across + g * along]);
            for (int v = 0; v < V; ++v) store(row + v * LANES, load(row + v * LANES) + weight * active[v]);
        }
    }
}

#define WITH_FAN_IN(NUMBER, CALL) \
    {                             \
        constexpr int K = NUMBER; \
        CALL;                     \
        break;                    \
    }
#define FOR_FAN_IN(CALL)              \
    switch (block.J.k) {              \
        case 1: WITH_FAN_IN(1, CALL)  \
        case 2: WITH_FAN_IN(2, CALL)  \
        case 4: WITH_FAN_IN(4, CALL)  \
        default: WITH_FAN_IN(0, CALL) \
    }
OUTLINE void gather(const Block& block, int V, const float* tile, float* h) {
    FOR_FAN_IN(FOR_VECTORS(V, (gather_k<VECTORS, K>(block, tile, h))))
}
OUTLINE void scatter(const Block& block, int V, const float* h, const float* grad_h, float* grad_tile) {
    FOR_FAN_IN(FOR_VECTORS(V, (scatter_k<VECTORS, K>(block, h, grad_h, grad_tile))))
}
#undef FOR_FAN_IN
#undef WITH_FAN_IN
#undef FOR_VECTORS
#undef WITH_VECTORS

// W[:, first : first + n] -> (c, 64), then zeros
INLINE void pack_readout(const float* W, int64_t m, int64_t c, int64_t first, int64_t n, float* packed) {
    for (int64_t j = 0; j < c; ++j) {
        const float* row = W + j * m + first;
        prefetch(row + BLOCK, BLOCK * sizeof(float));
        for (int64_t g = 0; g < BLOCK; g += LANES) store(packed + j * BLOCK + g, load_some(row + g, n - g));
    }
}

// A matrix whose entry (r, i) stands at p[r * across + i * along].
struct Strided {
    const float* p;
    int64_t across, along;
};

// sum (R, 16 V) += sum_{i < n} left (R, n) right (n, 16 V), in registers; FRESH: the sum starts at 0.
template <bool FRESH, int R, int V>
INLINE void product_tile(Strided left, const float* right, int64_t n, float* sum, int64_t stride) {
    Lanes acc[R][V];
#pragma GCC unroll 10
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) acc[r][v] = FRESH ? Lanes{} : load(sum + r * stride + v * LANES);
    for (int64_t i = 0; i < n; ++i) {
        Lanes b[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) b[v] = load(right + i * stride + v * LANES);
#pragma GCC unroll 10
        for (int r = 0; r < R; ++r) {
            const Lanes a = splat(left.p[r * left.across + i * left.along]);
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) acc[r][v] += a * b[v];
        }
    }
#pragma GCC unroll 10
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) store(sum + r * stride + v * LANES, acc[r][v]);
}
template <bool FRESH, int V>
INLINE void product_rows(Strided left, const float* right, int64_t rows, int64_t n, float* sum, int64_t stride) {
    int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        product_tile<FRESH, ROWS, V>({left.p + r * left.across, left.across, left.along}, right, n, sum + r * stride, stride);
    for (; r < rows; ++r)
        product_tile<FRESH, 1, V>({left.p + r * left.across, left.across, left.along}, right, n, sum + r * stride, stride);
}
// The same for any number of rows and of vectors; right and sum have rows of 16 V.
template <bool FRESH>
OUTLINE void product(Strided left, const float* right, int64_t rows, int64_t n, int V, float* sum) {
    int v = 0;
    for (; v + COLUMNS <= V; v += COLUMNS)
        product_rows<FRESH, COLUMNS>(left, right + v * LANES, rows, n, sum + v * LANES, V * LANES);
    for (; v < V; ++v) product_rows<FRESH, 1>(left, right + v * LANES, rows, n, sum + v * LANES, V * LANES);
}

}  // namespace ISA
}  // namespace cerebsim
