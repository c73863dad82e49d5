// Scalars that C++ and CUDA compute alike.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define DDIFF_INLINE __host__ __device__ __forceinline__
#define DDIFF_UNROLL _Pragma("unroll")
#else
#define DDIFF_INLINE inline __attribute__((always_inline))
#define DDIFF_UNROLL _Pragma("GCC unroll 16")
#endif

namespace ddiff {

DDIFF_INLINE float fused(float a, float b, float c) {
#if defined(__CUDA_ARCH__) || defined(__FP_FAST_FMAF)
  return fmaf(a, b, c);
#else
  return a * b + c;  // without the instruction fmaf is a slow function
#endif
}

DDIFF_INLINE float as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

DDIFF_INLINE uint32_t as_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

struct Bfloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

DDIFF_INLINE float widen(float value) { return value; }

DDIFF_INLINE float widen(Bfloat16 value) { return as_float(uint32_t(value.bits) << 16); }

DDIFF_INLINE float widen(Float16 value) {
  // the product moves the exponent's bias from 15 to 127 and makes subnormals normal
  float scaled = as_float(uint32_t(value.bits & 0x7fff) << 13) * 0x1p112f;
  uint32_t special = scaled >= 65536.0f ? 0x7f800000u : 0u;  // infinity or not a number
  return as_float(as_bits(scaled) | special | uint32_t(value.bits & 0x8000) << 16);
}

}  // namespace ddiff
