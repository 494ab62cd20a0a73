// Vectors, tiles of pictures, and the products and transposes that the CPU kernels are made of.
//
// Pictures lie side by side in the lanes of vectors: a tile holds, for every mossy fibre, its values in
// up to four vectors of pictures next to one another. In shapes, L stands for LANES.
//
// Vectors are the compiler's own (GCC and clang), no intrinsics. This file and the kernels on top of
// it are compiled once for every instruction set, in a namespace of its own (ISA, see cpu.cpp).
// Products feed sums in one way only, so that contraction to fma is the same in every kernel.

#define INLINE static inline __attribute__((always_inline))
#define OUTLINE static __attribute__((noinline))  // once per instruction set, not once per caller

namespace cerebsim {
namespace ISA {

constexpr int LANES = FLOATS;    // as many as the instruction set has: wider vectors would live in memory
constexpr int TILE = 4 * LANES;  // pictures in a full tile

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
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
// A row of out is written whole before the next eight are begun, since they may be far apart.
OUTLINE void transpose(const float* in, int64_t rows, int64_t cols, int64_t in_stride, float* out, int64_t wide,
                       int64_t out_stride) {
    for (int64_t j = 0; j < cols; j += 8)
        for (int64_t i = 0; i < wide; i += 8) {
            const int64_t ni = std::clamp<int64_t>(rows - i, 0, 8), nj = std::min<int64_t>(8, cols - j);
            const float* from = in + i * in_stride + j;
            float* to = out + j * out_stride + i;
            if (ni == 8 && nj == 8) {
                transpose8(from, in_stride, to, out_stride);
                continue;
            }
            for (int64_t b = 0; b < nj; ++b)
                for (int64_t a = 0; a < std::min<int64_t>(8, wide - i); ++a)
                    to[b * out_stride + a] = a < ni ? from[a * in_stride + b] : 0;
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

// A matrix whose entry (r, i) stands at p[r * across + i * along].
struct Strided {
    const float* p;
    int64_t across, along;
};

// sum (R, L V) += sum_{i < n} left (R, n) right (n, L V), in registers; FRESH: the sum starts at 0.
template <bool FRESH, int R, int V>
INLINE void product_tile(Strided left, const float* right, int64_t n, float* sum, int64_t stride) {
    Lanes sums[R][V];
#pragma GCC unroll 10
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sums[r][v] = FRESH ? Lanes{} : load(sum + r * stride + v * LANES);
    for (int64_t i = 0; i < n; ++i) {
        Lanes b[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) b[v] = load(right + i * stride + v * LANES);
#pragma GCC unroll 10
        for (int r = 0; r < R; ++r) {
            const Lanes a = splat(left.p[r * left.across + i * left.along]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sums[r][v] += a * b[v];
        }
    }
#pragma GCC unroll 10
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) store(sum + r * stride + v * LANES, sums[r][v]);
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

}  // namespace ISA
}  // namespace cerebsim
