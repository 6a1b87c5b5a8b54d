// Products of a few or many tokens with the rows of a matrix, in tiles whose sums stay in registers.
//
// Weights are of the model's type or whole numbers of 8 or 4 bits; dot products of bfloat16 and of 8 bits are used where
// the CPU has them. Each sum is taken in one order whatever tile it falls into. Letter: K inputs of a product.

#pragma once

#include <omp.h>

#include <algorithm>
#include <type_traits>

#include "rows.h"
#include "vectors.h"
#include "whole.h"

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
struct Eight {  // whole numbers of 8 bits; the scale is for the sum; inputs as they are, or rounded to 8 bits (whole.h)
    const int8_t* values;
};
struct Four {  // of 4 bits, less 8: of 128, i, 32 + i, 64 + i and 96 + i share word i; a scale per group
    const uint8_t* values;
    const float* scales;
    long group;
    static long bytes(long inputs) { return (inputs + 127) / 128 * 64; }  // of a row
};

template <class W>
INLINE vec load_row(const W* row, long k, int some) { return load_some(row + k, some); }
INLINE vec load_row(Eight row, long k, int some) { return load_some(row.values + k, some); }
INLINE vec load_row(Four row, long k, int) {
    hvec words;
    std::memcpy(&words, row.values + k / 128 * 64 + k % 32 * 2, sizeof words);
    const ivec numbers = (ivec)__builtin_convertvector(words >> int(k % 128 / 32 * 4) & 15, uvec) - 8;
    return __builtin_convertvector(numbers, vec) * row.scales[k / row.group];
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

// Asks for the memory `ahead` bytes behind a row's k-th weight. It comes as far as the second cache: the first has
// room for little beside the tokens.
template <class Row>
INLINE void ask_for(Row row, long k, long ahead) {
    __builtin_prefetch(static_cast<const char*>(start_of(row)) + bytes_of(row, k) + ahead, 0, 2);
}

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
// The lowest 4 bits of each word as a weight in bfloat16, before its scale. A look-up heeds 5 bits, so each stands twice.
INLINE __m512bh look_up(__m512i words) {
    alignas(64) static const bf16 meaning[32] = {
        0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040, 0xC000, 0xBF80, 0x0000, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0,
        0x40C0, 0x40E0, 0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040, 0xC000, 0xBF80, 0x0000, 0x3F80, 0x4000, 0x4040,
        0x4080, 0x40A0, 0x40C0, 0x40E0};
    return (__m512bh)_mm512_permutexvar_epi16(words, _mm512_load_si512(meaning));
}

// Each group's sum by itself, scaled when the group is done.
template <bool ASK, int M, int N>
INLINE void add_groups(const bf16* x, long stride, const Four* w, long k_end, long ahead, vec (&acc)[M][N]) {
    vec part[M][N] = {};
    long left = w[0].group, number = 0;
    for (long start = 0; start < k_end; start += 128) {
        __m512i words[N];
        for (int n = 0; n < N; ++n) words[n] = _mm512_loadu_si512(w[n].values + start / 2);
        for (int n = 0; ASK && n < N; ++n) ask_for(w[n], start, ahead);
        for (long k = start; k < start + 128 && k < k_end; k += 32) {
            __m512bh row[N];
            for (int n = 0; n < N; ++n) row[n] = look_up(words[n]), words[n] = _mm512_srli_epi16(words[n], 4);
            for (int m = 0; m < M; ++m) {
                __m512bh in;
                std::memcpy(&in, x + m * stride + k, 64);
                for (int n = 0; n < N; ++n) part[m][n] = (vec)_mm512_dpbf16_ps((__m512)part[m][n], in, row[n]);
            }
            if (left -= 32) continue;
            for (int m = 0; m < M; ++m)
                for (int n = 0; n < N; ++n) acc[m][n] += part[m][n] * w[n].scales[number], part[m][n] = vec{};
            left = w[0].group, ++number;
        }
    }
}
#else
constexpr bool LOOKS_UP = false;
#endif

// What sums of inputs of type X are kept in.
template <class X>
using Sum = std::conditional_t<std::is_same_v<X, int8_t>, int32_t, float>;
template <class X>
using Sums = std::conditional_t<std::is_same_v<X, int8_t>, ivec, vec>;

// Adds the products of M tokens with N rows to `acc`. ASK: meanwhile the memory is asked for that lies `ahead` bytes on.
template <bool ASK, class X, class Row, int M, int N>
INLINE void add_products(const X* x, long stride, const Row* w, long k_end, long ahead, vec (&acc)[M][N]) {
    long k = 0;
#if defined(__AVX512BF16__)
#if defined(__AVX512BW__)
    if constexpr (std::is_same_v<X, bf16> && std::is_same_v<Row, Four>) {
        add_groups<ASK, M, N>(x, stride, w, k_end, ahead, acc);
        k = k_end;
    } else
#endif
    if constexpr (std::is_same_v<X, bf16>) {
        for (; k + 32 <= k_end; k += 32) {
            __m512bh row[N];
            for (int n = 0; n < N; ++n) row[n] = load_pair(w[n], k);
            for (int n = 0; ASK && n < N; ++n) ask_for(w[n], k, ahead);
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
        for (int n = 0; ASK && n < N; ++n) ask_for(w[n], k + i, ahead);
        for (int m = 0; m < M; ++m) {
            vec in = load_some(x + m * stride + k + i, some);
            for (int n = 0; n < N; ++n) acc[m][n] += in * row[n];
        }
    });
}

template <bool ASK, int M, int N>
INLINE void add_products(const int8_t* x, long stride, const Eight* w, long k_end, long ahead, ivec (&acc)[M][N]) {
    auto step = [&](long k, long left) __attribute__((always_inline)) {
        Bytes row[N];
        for (int n = 0; n < N; ++n) row[n] = load_weights(w[n].values + k, left);
        for (int n = 0; ASK && n < N; ++n) ask_for(w[n], k, ahead);
        for (int m = 0; m < M; ++m) {
            const Bytes in = load_bytes(x + m * stride + k);
            for (int n = 0; n < N; ++n) acc[m][n] = add_dot(acc[m][n], row[n], in);
        }
    };
    long k = 0;
    for (; k + WHOLE <= k_end; k += WHOLE) step(k, WHOLE);
    if (k < k_end) step(k, k_end - k);
}

// The sums of M tokens with N rows. FIRST: these rows come from memory, which is fastest in one stream, so one row is
// read after the other, and the rows behind them are asked for; the next tokens find the rows at hand, and read all N
// side by side. One token has too few sums at work in one row, and takes all N at once from the start.
template <bool FIRST, class X, class Row, int M, int N>
INLINE void tile(const X* x, long stride, const Row* w, long k_end, long ahead, Sum<X> (&out)[M][N]) {
    Sums<X> acc[M][N] = {};
    if constexpr (FIRST && N > 1 && M == 1) {
        add_products<true>(x, stride, w, k_end, ahead, acc);
    } else if constexpr (FIRST && N > 1) {
        for (int n = 0; n < N; ++n) {
            Sums<X> part[M][1] = {};
            add_products<true>(x, stride, w + n, k_end, ahead, part);
            for (int m = 0; m < M; ++m) acc[m][n] = part[m][0];
        }
    } else {
        add_products<false>(x, stride, w, k_end, 0, acc);
    }
    for (int m = 0; m < M; ++m) {
        if constexpr (N == 4)
            sum4(acc[m], out[m]);
        else
            for (int n = 0; n < N; ++n) out[m][n] = sum(acc[m][n]);
    }
}

// Where sums go: stored or added, each multiplied by its column's scale where there are scales.
struct Output {
    float* to;  // (tokens, width)
    long width;
    bool add = false;
    const float* scales = nullptr;

    template <int N>
    INLINE void put(const Output& o, long token, long column, const float (&sums)[N]) {
        typedef float some __attribute__((vector_size(4 * N)));
        float* to = o.to + token * o.width + column;
        some v, other;
        std::memcpy(&v, sums, sizeof v);
        if (o.scales) {
            std::memcpy(&other, o.scales + column, sizeof v), v *= other;
            asm("" : "+m"(v));  // rounded here, whatever N is: not joined with the sum below
        }
        if (o.add) std::memcpy(&other, to, sizeof v), v += other;
        std::memcpy(to, &v, sizeof v);
    }
};

template <bool FIRST, int M, int N, class X, class Row>
INLINE void put_tile(const X* x, long stride, const Row* w, long k_end, long ahead, long token, long column, Output to) {
    Sum<X> out[M][N];
    tile<FIRST, X, Row, M, N>(x + token * stride, stride, w, k_end, ahead, out);
    for (int m = 0; m < M; ++m) {
        if constexpr (std::is_same_v<X, int8_t>) {
            float scaled[N];
            for (int n = 0; n < N; ++n) scaled[n] = meant(x + (token + m) * stride, stride, out[m][n]);
            Output::put(to, token + m, column, scaled);
        } else {
            Output::put(to, token + m, column, out[m]);
        }
    }
}

// Tokens `from` … `end`, fewer than a tile holds.
template <bool FIRST, int N, class X, class Row>
static void last_tile(const X* x, long stride, const Row* w, long k_end, long ahead, long from, long end, long column,
                      Output to) {
    switch (end - from) {
        case 5: return put_tile<FIRST, 5, N>(x, stride, w, k_end, ahead, from, column, to);
        case 4: return put_tile<FIRST, 4, N>(x, stride, w, k_end, ahead, from, column, to);
        case 3: return put_tile<FIRST, 3, N>(x, stride, w, k_end, ahead, from, column, to);
        case 2: return put_tile<FIRST, 2, N>(x, stride, w, k_end, ahead, from, column, to);
        case 1: return put_tile<FIRST, 1, N>(x, stride, w, k_end, ahead, from, column, to);
    }
}

// The products of tokens `from` … `end` with N rows of weights, which are columns `column` … of the output.
template <int N, class X, class Row>
static void strip(const X* x, long stride, const Row* w, long k_end, long ahead, long from, long end, long column,
                  Output to) {
    constexpr int rows = LOOKS_UP && std::is_same_v<Row, Four> ? 3 : ROWS;  // twice the sums are at work there
    if (end - from < rows) return last_tile<true, N>(x, stride, w, k_end, ahead, from, end, column, to);
    long token = from + rows;
    put_tile<true, rows, N>(x, stride, w, k_end, ahead, from, column, to);
    for (; token + rows <= end; token += rows) put_tile<false, rows, N>(x, stride, w, k_end, 0, token, column, to);
    last_tile<false, N>(x, stride, w, k_end, 0, token, end, column, to);
}

struct Share {  // a thread's part of `count` things, in whole groups of `group`
    long from, to;
    Share(long count, long group) {
        long groups = (count + group - 1) / group, me = omp_get_thread_num(), all = omp_get_num_threads();
        from = std::min(count, groups * me / all * group);
        to = std::min(count, groups * (me + 1) / all * group);
    }
};

// This thread's share of x · wᵀ; `row_of` gives the rows of w.
template <class X, class RowOf>
static void multiply_rows(const X* x, long stride, long tokens, RowOf row_of, long columns, long k_end, Output to) {
    using Row = decltype(row_of(0));
    Share mine(columns, COLUMNS);
    const long ahead = COLUMNS * bytes_of(row_of(0), k_end);
    for (long from = 0; from < tokens; from += TOKENS) {
        long end = std::min(tokens, from + TOKENS), n = mine.from;
        // These products of one token are as fast as weights arrive: fastest in one stream, which nobody has to ask for.
        constexpr bool singly = std::is_pointer_v<Row> || std::is_same_v<X, int8_t>;
        for (; (end - from > 1 || !singly) && n + COLUMNS <= mine.to; n += COLUMNS) {
            Row rows[COLUMNS];
            for (int i = 0; i < COLUMNS; ++i) rows[i] = row_of(n + i);
            strip<COLUMNS>(x, stride, rows, k_end, n + 2 * COLUMNS <= mine.to ? ahead : 0, from, end, n, to);
        }
        for (; n < mine.to; ++n) {
            Row row = row_of(n);
            strip<1>(x, stride, &row, k_end, 0, from, end, n, to);
        }
    }
}

struct Matrix {            // (outputs, inputs), as torch's modules hold it
    const void* values;    // of the model's type where there are no scales
    const float* scales;   // one per row of 8 bits, or one per group of 4
    int64_t group;         // inputs that share a scale; 0: a row of 8 bits; -1: one whose inputs are rounded too
};

// This thread's share of the products of tokens `first` … `first + tokens` of x with the rows of w.
template <class T>
static void multiply(const Rows<Input<T>>& x, long first, long tokens, const Matrix& w, long columns, long k_end, Output to) {
    const Input<T>* in = x[first];
    if (!w.scales) {
        const T* values = static_cast<const T*>(w.values);
        multiply_rows(in, x.stride, tokens, [&](long n) { return values + n * k_end; }, columns, k_end, to);
    } else if (!w.group) {
        const int8_t* values = static_cast<const int8_t*>(w.values);
        to.scales = w.scales;
        multiply_rows(in, x.stride, tokens, [&](long n) { return Eight{values + n * k_end}; }, columns, k_end, to);
    } else if (w.group < 0) {
        static thread_local Rows<int8_t> rounded;
        rounded.fit(tokens, k_end);
        for (long t = 0; t < tokens; ++t) round_inputs(in + t * x.stride, k_end, rounded[t], rounded.stride);
        const int8_t* values = static_cast<const int8_t*>(w.values);
        to.scales = w.scales;
        multiply_rows(rounded[0], rounded.stride, tokens, [&](long n) { return Eight{values + n * k_end}; }, columns, k_end, to);
    } else {
        const uint8_t* values = static_cast<const uint8_t*>(w.values);
        auto row = [&](long n) { return Four{values + n * Four::bytes(k_end), w.scales + n * (k_end / w.group), w.group}; };
        multiply_rows(in, x.stride, tokens, row, columns, k_end, to);
    }
}
