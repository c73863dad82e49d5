// float32 lanes as wide as the processor's registers: gcc's vectors, and intrinsics where bfloat16
// has them.
#pragma once

#include <cstdint>
#include <cstring>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kLanes = 16;  // outputs that the packed weights keep together; a multiple of kWidth

typedef float Floats __attribute__((vector_size(4 * kWidth)));
typedef uint32_t Words __attribute__((vector_size(4 * kWidth)));  // float32, or pairs of bfloat16
typedef uint16_t Halves __attribute__((vector_size(2 * kWidth)));
using bf16 = uint16_t;

INLINE Floats load(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

INLINE Floats load(const bf16* p) {
  Halves h;
  std::memcpy(&h, p, sizeof h);
  return (Floats)(__builtin_convertvector(h, Words) << 16);
}

INLINE void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }

INLINE void store(uint32_t* p, Words v) { std::memcpy(p, &v, sizeof v); }

INLINE void store(bf16* p, Floats v) {
#ifdef __AVX512BF16__
  const __m256bh h = _mm512_cvtneps_pbh((__m512)v);
#else
  const Words u = (Words)v;
  const Words rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;  // to nearest, ties to even
  const Words nan = (Words)(v != v);
  const Halves h = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), Halves);
#endif
  std::memcpy(p, &h, sizeof h);
}

// The first n lanes only; the others are zero.
template <typename T>
INLINE Floats load(const T* p, int n) {
  if (n >= kWidth) return load(p);
  T some[kWidth] = {};
  std::memcpy(some, p, n * sizeof(T));
  return load(some);
}

template <typename T>
INLINE void store(T* p, Floats v, int n) {
  if (n >= kWidth) return store(p, v);
  T some[kWidth];
  store(some, v);
  std::memcpy(p, some, n * sizeof(T));
}

// order[i] numbers the values of a, then those of b.
INLINE Floats shuffled(Floats a, Floats b, Words order) {
#ifdef __clang__  // it has no shuffle whose order is a variable
  Floats mixed;
  for (int i = 0; i < kWidth; ++i) mixed[i] = order[i] < kWidth ? a[order[i]] : b[order[i] - kWidth];
  return mixed;
#else
  return __builtin_shuffle(a, b, order);
#endif
}

// Rows become columns: log2(kWidth) times, the first half of the rows meets the second.
INLINE void transpose(Floats* rows) {
  Words low, high;
  for (int i = 0; i < kWidth; ++i) {
    low[i] = i / 2 + i % 2 * kWidth;
    high[i] = low[i] + kWidth / 2;
  }
  for (int stage = 1; stage < kWidth; stage *= 2) {
    Floats mixed[kWidth];
    for (int i = 0; i < kWidth / 2; ++i) {
      mixed[2 * i] = shuffled(rows[i], rows[i + kWidth / 2], low);
      mixed[2 * i + 1] = shuffled(rows[i], rows[i + kWidth / 2], high);
    }
    std::memcpy(rows, mixed, sizeof mixed);
  }
}

// bfloat16 of a in the low halves, of b in the high ones.
INLINE Words paired(Floats a, Floats b) {
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
  Words order = {};
  for (int i = 0; i < kWidth; ++i) order[i] = i | (i + kWidth) << 16;
  return (Words)_mm512_permutexvar_epi16((__m512i)order,
                                         (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a));
#else
  bf16 low[kWidth], high[kWidth];
  store(low, a);
  store(high, b);
  return (Words)load(low) >> 16 | (Words)load(high);
#endif
}

// sum + a b for float32; sum + a.low b.low + a.high b.high for pairs of bfloat16.
template <typename T>
INLINE Floats dot(Floats sum, Words a, Words b);

template <>
INLINE Floats dot<float>(Floats sum, Words a, Words b) {
  return sum + (Floats)a * (Floats)b;
}

template <>
INLINE Floats dot<bf16>(Floats sum, Words a, Words b) {
#ifdef __AVX512BF16__
  return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
  sum += (Floats)(a << 16) * (Floats)(b << 16);
  return sum + (Floats)(a & 0xffff0000) * (Floats)(b & 0xffff0000);
#endif
}
