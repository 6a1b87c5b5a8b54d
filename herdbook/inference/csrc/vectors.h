// Vectors of floats by GCC's extensions, bfloat16, and the exponential function; shared by the other files.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

// What holds vectors in registers must not become a call: its arguments would go through memory.
#define INLINE static inline __attribute__((always_inline))

using bf16 = uint16_t;
typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));
typedef uint32_t uvec __attribute__((vector_size(LANES * 4)));
typedef uint16_t hvec __attribute__((vector_size(LANES * 2)));
typedef int8_t bvec __attribute__((vector_size(LANES)));

INLINE float single(float x) { return x; }
INLINE float single(bf16 x) {
    uint32_t bits = uint32_t(x) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

INLINE vec load(const float* p) {
    vec out;
    std::memcpy(&out, p, sizeof out);
    return out;
}
INLINE vec load(const bf16* p) {
    hvec half;
    std::memcpy(&half, p, sizeof half);
    return (vec)(__builtin_convertvector(half, uvec) << 16);
}

INLINE ivec whole(bvec bytes) {
#if defined(__AVX512F__)
    return (ivec)_mm512_cvtepi8_epi32((__m128i)bytes);
#else  // step by step: compilers take a leap from 8 bits to 32 lane by lane
    typedef int16_t svec __attribute__((vector_size(LANES * 2)));
    return __builtin_convertvector(__builtin_convertvector(bytes, svec), ivec);
#endif
}
INLINE vec widen(bvec bytes) { return __builtin_convertvector(whole(bytes), vec); }
INLINE vec load(const int8_t* p) {
    bvec bytes;
    std::memcpy(&bytes, p, sizeof bytes);
    return widen(bytes);
}

INLINE void put(float* p, vec x) { std::memcpy(p, &x, sizeof x); }
INLINE void put(bf16* p, vec x) {  // to the nearest, ties to even
    uvec bits = (uvec)x;
    hvec half = __builtin_convertvector((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, hvec);
    std::memcpy(p, &half, sizeof half);
}

// Of floats, or of whole numbers.
template <class V>
INLINE auto sum(V x) {
    decltype(x[0] + 0) lane[LANES];
    std::memcpy(lane, &x, sizeof lane);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
    return lane[0];
}

#if defined(__clang__)
template <class V, class E>
INLINE void sum4(const V (&x)[4], E* out) {
    for (int i = 0; i < 4; ++i) out[i] = sum(x[i]);
}
#else
// Which lanes a shuffle takes, known when this is compiled.
struct Lanes {
    int32_t of[LANES];
};
template <int S>  // the first (second: + half) half of each segment of two vectors of S segments
constexpr Lanes halves(bool second) {
    Lanes out{};
    const int width = LANES / S, half = width / 2;
    for (int i = 0; i < LANES; ++i)
        out.of[i] = (i / half < S ? 0 : LANES) + i / half % S * width + i % half + (second ? half : 0);
    return out;
}
template <int HALF>  // of each group of 2 HALF lanes the other half
constexpr Lanes swapped() {
    Lanes out{};
    for (int i = 0; i < LANES; ++i) out.of[i] = i ^ HALF;
    return out;
}
constexpr Lanes fourths() {  // the first lane of each fourth
    Lanes out{};
    for (int i = 0; i < LANES; ++i) out.of[i] = i % 4 * (LANES / 4);
    return out;
}
static inline __attribute__((always_inline)) ivec mask(const Lanes& lanes) {
    ivec out;
    std::memcpy(&out, lanes.of, sizeof out);
    return out;
}

// Two vectors of S segments each become one of 2 S segments: of each segment its halves are added.
template <int S, class V>
INLINE V fold(V a, V b) {
    static constexpr Lanes low = halves<S>(false), high = halves<S>(true);
    return __builtin_shuffle(a, b, mask(low)) + __builtin_shuffle(a, b, mask(high));
}
template <int HALF, class V>
INLINE V fold_within(V a) {
    if constexpr (HALF == 0) {
        return a;
    } else {
        static constexpr Lanes other = swapped<HALF>();
        return fold_within<HALF / 2>(a + __builtin_shuffle(a, mask(other)));
    }
}

// Four sums at once, each in the order in which `sum` adds.
template <class V, class E>
INLINE void sum4(const V (&x)[4], E* out) {
    V all = fold<2>(fold<1>(x[0], x[1]), fold<1>(x[2], x[3]));
    all = fold_within<LANES / 8>(all);
    static constexpr Lanes first = fourths();
    all = __builtin_shuffle(all, mask(first));
    std::memcpy(out, &all, 4 * sizeof(E));
}
#endif

INLINE vec exponential(vec x) {  // relative error below 2e-7 (Cephes' polynomial)
    x = x < -87.0f ? vec{} - 87.0f : x;
    vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // rounds to a whole number
    vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vec p = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r +
             1.6666665459e-1f) * r + 5.0000001201e-1f;
    vec y = p * r * r + r + 1.0f;
    return y * (vec)((__builtin_convertvector(n, ivec) + 127) << 23);
}

// Lanes at a time over `count` numbers; the last, broken group goes through a padded copy of itself, so that each
// number's result does not depend on where it stands.
template <class Body>
INLINE void lanes(long count, Body body) {
    long i = 0;
    for (; i + LANES <= count; i += LANES) body(i, LANES);
    if (i < count) body(i, int(count - i));
}
template <class T>
INLINE vec load_some(const T* p, int n) {
    if (n == LANES) return load(p);
    T pad[LANES] = {};
    std::memcpy(pad, p, n * sizeof(T));
    return load(pad);
}
template <class T>
INLINE void put_some(T* p, vec x, int n) {
    if (n == LANES) return put(p, x);
    T pad[LANES];
    put(pad, x);
    std::memcpy(p, pad, n * sizeof(T));
}
