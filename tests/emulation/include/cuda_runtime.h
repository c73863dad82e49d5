// A stand-in for CUDA's header: as much of it as the kernels use, run by emulator.cpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(8) float2 {
  float x, y;
};

struct alignas(16) float4 {
  float x, y, z, w;
};

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

template <class T>
inline T min(T a, T b) {
  return b < a ? b : a;
}

template <class T>
inline T max(T a, T b) {
  return a < b ? b : a;
}

inline float __expf(float x) { return exp2f(x * 1.44269504f); }

typedef void* cudaStream_t;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
};

namespace emulation {

struct Place {  // of the thread that runs
  dim3 thread, block, threads, blocks;
};

const Place& here();
void* shared_memory();
void barrier(int line);
uint32_t shuffled(uint32_t value, unsigned members, int lanes, int line);
cudaError_t last_error();
const char* words(cudaError_t error);
void run(const char* kernel, dim3 blocks, dim3 threads, size_t shared,
         const std::function<void()>& thread);

template <class T>
T* shared() {
  return static_cast<T*>(shared_memory());
}

template <class T>
T shuffle_xor(unsigned members, T value, int lanes, int line) {
  static_assert(sizeof(T) == 4, "values of four bytes");
  uint32_t bits;
  memcpy(&bits, &value, 4);
  bits = shuffled(bits, members, lanes, line);
  memcpy(&value, &bits, 4);
  return value;
}

// kernel<<<blocks, threads, shared, stream>>>(arguments...), whose arguments are copied.
template <class... P>
auto launch(const char* name, void (*kernel)(P...), dim3 blocks, dim3 threads, size_t shared = 0,
            cudaStream_t = nullptr) {
  return [=](P... arguments) {
    run(name, blocks, threads, shared, [=] { kernel(arguments...); });
  };
}

}  // namespace emulation

#define threadIdx (::emulation::here().thread)
#define blockIdx (::emulation::here().block)
#define blockDim (::emulation::here().threads)
#define gridDim (::emulation::here().blocks)
#define __syncthreads() ::emulation::barrier(__LINE__)
#define __shfl_xor_sync(members, value, lanes) \
  ::emulation::shuffle_xor(members, value, lanes, __LINE__)

inline cudaError_t cudaGetLastError() { return emulation::last_error(); }
inline const char* cudaGetErrorString(cudaError_t error) { return emulation::words(error); }
