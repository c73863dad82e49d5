// As many values at a time as fit a register of the processor, in gcc's vector types.
#pragma once
#include <type_traits>

#include "call.h"

#ifdef __AVX512F__
#define LANES 16
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in the header itself: gcc's bug 105593
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Shorts __attribute__((vector_size(2 * LANES)));

template <typename To, typename T>
inline To copied(const T* from) {
    To result;
    memcpy(&result, from, sizeof(To));
    return result;
}

template <typename T>
inline float load(const T* x, float) {
    return widen(*x);
}

template <typename T>
inline void store(T* y, float value) {
    *y = narrow<T>(value);
}

inline Lanes load(const float* x, Lanes) { return copied<Lanes>(x); }

template <typename T>
inline Words load_bits(const T* x) {
#ifdef __AVX512F__  // gcc 12 makes five instructions of the conversion
    return (Words)_mm512_cvtepu16_epi32(copied<__m256i>(x));
#else
    return __builtin_convertvector(copied<Shorts>(x), Words);
#endif
}

inline Lanes load(const Bfloat* x, Lanes) { return bfloat_to_float<Lanes>(load_bits(x)); }

inline Lanes load(const Half* x, Lanes) { return half_to_float<Lanes>(load_bits(x)); }

inline void store(float* y, Lanes value) { memcpy(y, &value, sizeof(value)); }

inline void store(Bfloat* y, Lanes value) {
#ifdef __AVX512BF16__
    auto bits = _mm512_cvtneps_pbh(value);
#else
    Shorts bits = __builtin_convertvector(float_to_bfloat<Words>(value), Shorts);
#endif
    memcpy(y, &bits, sizeof(bits));
}

inline void store(Half* y, Lanes value) {
    Shorts bits = __builtin_convertvector(float_to_half<Words>(value), Shorts);
    memcpy(y, &bits, sizeof(bits));
}

// 1 / (1 + e^-z), for a result in T.
template <typename T>
inline float sigmoid(float z) {
    return 1 / one_plus_exp(z);
}

template <typename T>
inline Lanes sigmoid(Lanes z) {
#ifdef __AVX512F__  // half the time of the portable arithmetic
    constexpr bool COARSE = std::is_same<T, Bfloat>::value;  // 1.4e-4 is a 14th of its rounding
    Lanes t = _mm512_max_ps(_mm512_set1_ps(-87), z) * -LOG2_E;  // of not a number: itself
    Lanes rest = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF);    // t - floor(t)
    Lanes power = COARSE ? coarse_power_of_two(rest) : power_of_two(rest);
    Lanes sum = _mm512_scalef_ps(power, t) + 1.0f, guess = _mm512_rcp14_ps(sum);
    return COARSE ? guess : guess + guess * (1.0f - sum * guess);  // Newton's step
#else
    return 1.0f / portable_one_plus_exp<Words>(z);
#endif
}

// body(c, zero) for c = 0 .. size - 1, where the type of `zero` says how many values at once.
template <typename Body>
inline void for_each_value(int64_t size, Body body) {
    for (int64_t c = 0; c + LANES <= size; c += LANES) body(c, Lanes());
    for (int64_t c = size / LANES * LANES; c < size; ++c) body(c, 0.0f);
}
