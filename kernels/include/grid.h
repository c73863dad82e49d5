// On a GPU: a thread a block of four elements, and their loads and stores.
#pragma once

#include <cuda_runtime.h>

#include "errors.h"
#include "philox.h"

namespace ddiff {

constexpr int THREADS = 256;

// x: blocks of a sample, y: samples. Larger tensors go round with a stride of the grid.
inline dim3 grid_for(int64_t batch, int64_t size) {
  int64_t x = (size + 4 * THREADS - 1) / (4 * THREADS);
  return dim3(unsigned(x < 65536 ? x : 65536), unsigned(batch < 65535 ? batch : 65535));
}

// body(sample, first element) for every block of four elements of [batch, size].
template <class Body>
__device__ __forceinline__ void for_blocks(int64_t batch, int64_t size, Body body) {
  const int64_t start = 4 * (int64_t(blockIdx.x) * THREADS + threadIdx.x);
  const int64_t stride = 4 * int64_t(gridDim.x) * THREADS;
  for (int64_t sample = blockIdx.y; sample < batch; sample += gridDim.y)
    for (int64_t first = start; first < size; first += stride) body(sample, first);
}

template <class T>
struct alignas(4 * sizeof(T)) Four {
  T value[4];
};

// VECTOR: the address is that of a Four and all four exist; else `left` of them do.
template <bool VECTOR, class T>
__device__ __forceinline__ void load(const T* from, int64_t left, float (&to)[4]) {
  if constexpr (VECTOR) {
    const Four<T> four = *reinterpret_cast<const Four<T>*>(from);
DDIFF_UNROLL
    for (int i = 0; i < 4; ++i) to[i] = widen(four.value[i]);
  } else {
DDIFF_UNROLL
    for (int i = 0; i < 4; ++i) to[i] = i < left ? widen(from[i]) : 0.0f;
  }
}

template <bool VECTOR>
__device__ __forceinline__ void store(float* to, int64_t left, const float (&from)[4]) {
  if constexpr (VECTOR) {
    *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
  } else {
DDIFF_UNROLL
    for (int i = 0; i < 4; ++i)
      if (i < left) to[i] = from[i];
  }
}

inline bool aligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

}  // namespace ddiff
