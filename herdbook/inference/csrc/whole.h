// Inputs rounded to whole numbers of 8 bits, each token by its own scale, and their products with weights of 8 bits.
//
// Sums are whole numbers, so exact in any order. The formulas are those of quantized.py's `round_inputs`.

#pragma once

#include <algorithm>
#include <cmath>

#include "vectors.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
constexpr long WHOLE = 64;  // inputs at a time
using Bytes = __m512i;
INLINE Bytes load_bytes(const int8_t* p) { return _mm512_loadu_si512(p); }
// The dot product takes one side without a sign: weights are read as 128 more than they are.
INLINE Bytes load_weights(const int8_t* p, long left) {
    const __m512i values = left >= WHOLE ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8((1ULL << left) - 1, p);
    return _mm512_xor_si512(values, _mm512_set1_epi8(-128));
}
INLINE ivec add_dot(ivec sums, Bytes weights, Bytes inputs) {
    return (ivec)_mm512_dpbusd_epi32((__m512i)sums, weights, inputs);
}
constexpr int32_t TOO_MUCH = 128;  // what a weight was read as beyond itself
#else
constexpr long WHOLE = LANES;
using Bytes = ivec;
INLINE Bytes load_bytes(const int8_t* p) {
    bvec bytes;
    std::memcpy(&bytes, p, sizeof bytes);
    return whole(bytes);
}
INLINE Bytes load_weights(const int8_t* p, long left) {
    if (left >= WHOLE) return load_bytes(p);
    int8_t pad[LANES] = {};
    std::memcpy(pad, p, left);
    return load_bytes(pad);
}
INLINE ivec add_dot(ivec sums, Bytes weights, Bytes inputs) { return sums + weights * inputs; }
constexpr int32_t TOO_MUCH = 0;
#endif

// Rounds K inputs of a token to `out`, a row of `stride` bytes: zeros behind them, and at its end the scale and what the
// sums have too much.
template <class X>
static void round_inputs(const X* x, long k_end, int8_t* out, long stride) {
    vec most = {};
    lanes(k_end, [&](long i, int n) {
        const vec size = (vec)((ivec)load_some(x + i, n) & 0x7FFFFFFF);
        most = size > most ? size : most;
    });
    float largest = 0;
    for (int i = 0; i < LANES; ++i) largest = std::max(largest, most[i]);
    float scale = largest / 127.5f;
    if (scale == 0) scale = 1.1920929e-07f;
    ivec sums = {};
    std::memset(out + k_end, 0, stride - k_end);
    lanes(k_end, [&](long i, int n) {
        vec v = load_some(x + i, n) / scale;
        v = (v + 12582912.0f) - 12582912.0f;  // to the nearest, ties to even
        v = v > 127.0f ? vec{} + 127.0f : v < -128.0f ? vec{} - 128.0f : v;
        int32_t numbers[LANES];
        const ivec rounded = __builtin_convertvector(v, ivec);
        std::memcpy(numbers, &rounded, sizeof numbers);
        for (int j = 0; j < n; ++j) out[i + j] = int8_t(numbers[j]);
        sums += rounded;  // zeros where there are no inputs
    });
    const int32_t total = sum(sums) * TOO_MUCH;
    std::memcpy(out + stride - 8, &scale, 4), std::memcpy(out + stride - 4, &total, 4);
}

// What a sum of whole numbers means for a row of inputs, but for the weights' scale.
INLINE float meant(const int8_t* x, long stride, int32_t sum) {
    float scale;
    int32_t total;
    std::memcpy(&scale, x + stride - 8, 4), std::memcpy(&total, x + stride - 4, 4);
    return float(sum - total) * scale;
}
