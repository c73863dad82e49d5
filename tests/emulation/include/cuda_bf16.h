// A stand-in for CUDA's header: bfloat16 is the upper half of a float32, to nearest, ties to even.
#pragma once

#include <cuda_runtime.h>

struct __nv_bfloat16 {
  uint16_t bits;
};

inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  if (value != value) return {0x7fff};
  uint32_t bits;
  memcpy(&bits, &value, 4);
  uint32_t rest = bits & 0xffff, upper = bits >> 16;
  return {uint16_t(upper + (rest > 0x8000 || (rest == 0x8000 && upper % 2)))};
}
