// Products of a few or many tokens with the rows of a matrix, in tiles whose sums stay in registers.
//
// Weights are of the model's type or whole numbers of 8 or 4 bits; bfloat16 dot products are used where the CPU has
// them. Each sum is taken in one order whatever tile it falls into. Letter: K inputs of a product.

#pragma once

#include <omp.h>

#include <algorithm>
#include <type_traits>

#include "vectors.h"

// Tokens of a tile: its sums must fit the registers.
constexpr int ROWS = LANES == 16 ? 6 : LANES == 8 ? 2 : 4;
constexpr int COLUMNS = 4;       // outputs of a tile
constexpr long TOKENS = 8 * ROWS;  // tokens that pass by a weight before the next weight is read

#if defined(__AVX512BF16__)
template <class T>
using Input = T;  // what weights of type T are multiplied with
#else
template <class T>
using Input = float;
#endif

// A row of weights, in the forms it may have: `row + k`, K inputs from the k-th, k a whole number of vectors.
struct Eight {  // whole numbers of 8 bits; the scale is for the sum
    const int8_t* values;
};
struct Four {  // of 4 bits, two halves of 16 in each 16 bytes, less 8; a scale per group
    const uint8_t* values;
    const float* scales;
    long group;
};

template <class W>
INLINE vec load_row(const W* row, long k, int some) { return load_some(row + k, some); }
INLINE vec load_row(Eight row, long k, int some) { return load_some(row.values + k, some); }
INLINE vec load_row(Four row, long k, int) {
    bvec bytes;
    std::memcpy(&bytes, row.values + k / 32 * 16 + k % 16, sizeof bytes);
    bytes = (k % 32 < 16 ? bytes : bytes >> 4) & 15;
    return widen(bytes - 8) * row.scales[k / row.group];
}

// Where a row's weights begin, and the bytes they take.
template <class W>
static inline const void* start_of(const W* row) { return row; }
static inline const void* start_of(Eight row) { return row.values; }
static inline const void* start_of(Four row) { return row.values; }
template <class W>
static inline long bytes_of(const W*, long k_end) { return k_end * sizeof(W); }
static inline long bytes_of(Eight, long k_end) { return k_end; }
static inline long bytes_of(Four, long k_end) { return k_end / 2; }

#if defined(__AVX512BF16__)
// `load_row` of 32 inputs as bfloat16.
INLINE __m512bh load_pair(const bf16* row, long k) {
    __m512bh out;
    std::memcpy(&out, row + k, sizeof out);
    return out;
}
template <class Row>
INLINE __m512bh load_pair(Row row, long k) {
    return _mm512_cvtne2ps_pbh((__m512)load_row(row, k + 16, 16), (__m512)load_row(row, k, 16));
}
#endif

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
constexpr bool LOOKS_UP = true;
// 32 weights of 4 bits as bfloat16, looked up, before their scale.
INLINE __m512bh look_up(const uint8_t* values) {
    alignas(64) static const bf16 meaning[32] = {0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040, 0xC000, 0xBF80,
                                                 0x0000, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0};
    const __m128i both = _mm_loadu_si128((const __m128i*)values), low = _mm_set1_epi8(15);
    const __m256i halves = _mm256_set_m128i(_mm_and_si128(_mm_srli_epi16(both, 4), low), _mm_and_si128(both, low));
    return (__m512bh)_mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(halves), _mm512_load_si512(meaning));
}

// Each group's sum by itself, scaled when the group is done.
template <int M, int N>
INLINE void add_groups(const bf16* x, long stride, const Four* w, long k_end, vec (&acc)[M][N]) {
    for (long start = 0, number = 0; start < k_end; start += w[0].group, ++number) {
        vec part[M][N] = {};
        for (long k = start; k < start + w[0].group; k += 32) {
            __m512bh row[N];
            for (int n = 0; n < N; ++n) row[n] = look_up(w[n].values + k / 2);
            for (int m = 0; m < M; ++m) {
                __m512bh in;
                std::memcpy(&in, x + m * stride + k, 64);
                for (int n = 0; n < N; ++n) part[m][n] = (vec)_mm512_dpbf16_ps((__m512)part[m][n], in, row[n]);
            }
        }
        for (int m = 0; m < M; ++m)
            for (int n = 0; n < N; ++n) acc[m][n] += part[m][n] * w[n].scales[number];
    }
}
#else
constexpr bool LOOKS_UP = false;
#endif

template <class X, class Row, int M, int N>
INLINE void tile(const X* x, long stride, const Row* w, long k_end, float (&out)[M][N]) {
    vec acc[M][N] = {};
    long k = 0;
#if defined(__AVX512BF16__)
#if defined(__AVX512BW__)
    if constexpr (std::is_same_v<X, bf16> && std::is_same_v<Row, Four>) {
        add_groups<M, N>(x, stride, w, k_end, acc);
        k = k_end;
    } else
#endif
    if constexpr (std::is_same_v<X, bf16>) {
        for (; k + 32 <= k_end; k += 32) {
            __m512bh row[N];
            for (int n = 0; n < N; ++n) row[n] = load_pair(w[n], k);
            for (int m = 0; m < M; ++m) {
                __m512bh in;
                std::memcpy(&in, x + m * stride + k, 64);
                for (int n = 0; n < N; ++n) acc[m][n] = (vec)_mm512_dpbf16_ps((__m512)acc[m][n], in, row[n]);
            }
        }
    }
#endif
    lanes(k_end - k, [&](long i, int some) {
        vec row[N];
        for (int n = 0; n < N; ++n) row[n] = load_row(w[n], k + i, some);
        for (int m = 0; m < M; ++m) {
            vec in = load_some(x + m * stride + k + i, some);
            for (int n = 0; n < N; ++n) acc[m][n] += in * row[n];
        }
    });
    for (int m = 0; m < M; ++m) {
        if constexpr (N == 4)
            sum4(acc[m], out[m]);
        else
            for (int n = 0; n < N; ++n) out[m][n] = sum(acc[m][n]);
    }
}

template <int M, int N, class X, class Row, class Emit>
static inline void emit_tile(const X* x, long stride, const Row* w, long k_end, long token, Emit emit) {
    float out[M][N];
    tile<X, Row, M, N>(x + token * stride, stride, w, k_end, out);
    for (int m = 0; m < M; ++m) emit(token + m, out[m]);
}

// The products of tokens `from` … `to` with N rows of weights; `emit` gets each token's N sums.
template <int N, class X, class Row, class Emit>
static inline void strip(const X* x, long k_end, const Row* w, long from, long to, Emit emit) {
    constexpr int rows = LOOKS_UP && std::is_same_v<Row, Four> ? 3 : ROWS;  // twice the sums are at work there
    long token = from;
    for (; token + rows <= to; token += rows) emit_tile<rows, N>(x, k_end, w, k_end, token, emit);
    switch (to - token) {
        case 5: return emit_tile<5, N>(x, k_end, w, k_end, token, emit);
        case 4: return emit_tile<4, N>(x, k_end, w, k_end, token, emit);
        case 3: return emit_tile<3, N>(x, k_end, w, k_end, token, emit);
        case 2: return emit_tile<2, N>(x, k_end, w, k_end, token, emit);
        case 1: return emit_tile<1, N>(x, k_end, w, k_end, token, emit);
    }
}

struct Share {  // a thread's part of `count` things, in whole groups of `group`
    long from, to;
    Share(long count, long group) {
        long groups = (count + group - 1) / group, me = omp_get_thread_num(), all = omp_get_num_threads();
        from = std::min(count, groups * me / all * group);
        to = std::min(count, groups * (me + 1) / all * group);
    }
};

// A tile reads four rows side by side: four short streams, which the processor does not foresee where rows are shorter
// than a page. So the next tile's memory is asked for in its order; where many tokens pass by before it is needed, only
// one level nearer, as the nearest has room for little else.
static inline void ask_for(const void* p, long bytes, bool soon) {
    const char* from = static_cast<const char*>(p);
    if (soon)
        for (long i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 3);
    else
        for (long i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

// This thread's share of x · wᵀ: `emit(token, column, sum)`; `row_of` gives the rows of w.
template <class X, class RowOf, class Emit>
static void multiply_rows(const X* x, long tokens, RowOf row_of, long columns, long k_end, Emit emit) {
    using Row = decltype(row_of(0));
    Share mine(columns, COLUMNS);
    for (long from = 0; from < tokens; from += TOKENS) {
        long to = std::min(tokens, from + TOKENS), n = mine.from;
        // One token's products are as fast as its weights arrive, and they arrive fastest in one stream.
        for (; to - from > 1 && n + COLUMNS <= mine.to; n += COLUMNS) {
            if (n + 2 * COLUMNS <= mine.to) {
                Row next = row_of(n + COLUMNS);
                ask_for(start_of(next), COLUMNS * bytes_of(next, k_end), to - from <= ROWS);
            }
            Row rows[COLUMNS];
            for (int i = 0; i < COLUMNS; ++i) rows[i] = row_of(n + i);
            strip<COLUMNS>(x, k_end, rows, from, to, [&](long token, const float* out) {
                for (int i = 0; i < COLUMNS; ++i) emit(token, n + i, out[i]);
            });
        }
        for (; n < mine.to; ++n) {
            Row row = row_of(n);
            strip<1>(x, k_end, &row, from, to, [&](long token, const float* out) { emit(token, n, out[0]); });
        }
    }
}

struct Matrix {            // (outputs, inputs), as torch's modules hold it
    const void* values;    // of the model's type where there are no scales
    const float* scales;   // one per row of 8 bits, or one per group of 4
    int64_t group;         // inputs that share a scale; 0: a row of 8 bits
};

// An `emit` of whatever kind behind one type, so that products of rounded weights are compiled once, not per use.
struct Sink {
    void* to;
    void (*call)(void*, long, long, float);
    void operator()(long token, long n, float v) const { call(to, token, n, v); }
};

template <class X>
__attribute__((noinline)) static void multiply_rounded(const X* x, long tokens, const Matrix& w, long columns, long k_end, Sink emit) {
    if (!w.group) {
        const int8_t* values = static_cast<const int8_t*>(w.values);
        multiply_rows(x, tokens, [&](long n) { return Eight{values + n * k_end}; }, columns, k_end,
                      [&](long token, long n, float v) { emit(token, n, v * w.scales[n]); });
    } else {
        const uint8_t* values = static_cast<const uint8_t*>(w.values);
        auto row = [&](long n) { return Four{values + n * k_end / 2, w.scales + n * (k_end / w.group), w.group}; };
        multiply_rows(x, tokens, row, columns, k_end, emit);
    }
}

template <class T, class Emit>
static void multiply(const Input<T>* x, long tokens, const Matrix& w, long columns, long k_end, Emit emit) {
    if (!w.scales) {
        const T* values = static_cast<const T*>(w.values);
        return multiply_rows(x, tokens, [&](long n) { return values + n * k_end; }, columns, k_end, emit);
    }
    Sink sink{&emit, [](void* to, long token, long n, float v) { (*static_cast<Emit*>(to))(token, n, v); }};
    multiply_rounded(x, tokens, w, columns, k_end, sink);
}
