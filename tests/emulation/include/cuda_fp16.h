// A stand-in for CUDA's header, by the compiler's own float16.
#pragma once

#include <cuda_runtime.h>

struct __half {
  uint16_t bits;
};

inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
inline uint16_t __half_as_ushort(__half value) { return value.bits; }

inline float __half2float(__half value) {
  _Float16 half;
  memcpy(&half, &value, 2);
  return half;
}

inline __half __float2half_rn(float value) {
  _Float16 half = static_cast<_Float16>(value);
  __half result;
  memcpy(&result, &half, 2);
  return result;
}
