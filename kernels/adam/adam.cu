#include <cuda_runtime.h>

#include "element.h"
#include "grid.h"

namespace ddiff {

constexpr int PER_THREAD = 16;  // elements, four at a time
constexpr int BLOCK = PER_THREAD * THREADS;
constexpr int TENSORS = 56;  // a launch: the arguments of a kernel have 4 KB

struct Part {  // of a step: the tensors of one launch, and where the blocks of each begin
  float *p[TENSORS], *m[TENSORS], *v[TENSORS], *average[TENSORS];
  const float *g[TENSORS], *step[TENSORS];
  int64_t size[TENSORS];
  int first[TENSORS + 1];
  int count;
};

inline int64_t blocks_of(int64_t size) { return (size + BLOCK - 1) / BLOCK; }

// The tensor that a block belongs to.
template <class Lists>
__device__ __forceinline__ int owner(const Lists& lists, int block) {
  int low = 0, high = lists.count;
  while (high - low > 1) {
    int middle = (low + high) / 2;
    (lists.first[middle] <= block ? low : high) = middle;
  }
  return low;
}

// body(first element) for the blocks of four that this thread has of a tensor.
template <class Body>
__device__ __forceinline__ void for_fours(int64_t from, int64_t size, Body body) {
  DDIFF_UNROLL
  for (int i = 0; i < PER_THREAD / 4; ++i) {
    int64_t at = from + 4 * (i * THREADS + int64_t(threadIdx.x));
    if (at < size) body(at);
  }
}

template <bool VECTOR>
__global__ void __launch_bounds__(THREADS)
    adam_kernel(const __grid_constant__ Part part, const __grid_constant__ Options options,
                const float* norm, const float* found_inf) {
  const int i = owner(part, blockIdx.x);
  const bool skip = found_inf && *found_inf != 0;
  const Factors f = factors(options, clip(norm, options.max_norm), *part.step[i]);
  const int64_t size = part.size[i];
  for_fours(int64_t(blockIdx.x - part.first[i]) * BLOCK, size, [&](int64_t at) {
    float p[4], g[4], m[4], v[4], average[4];
    const int64_t left = size - at;
    const bool whole = VECTOR && left >= 4;
    auto read = [&](const float* from, float(&to)[4]) {
      whole ? load<true>(from + at, left, to) : load<false>(from + at, left, to);
    };
    auto write = [&](float* to, const float(&from)[4]) {
      whole ? store<true>(to + at, left, from) : store<false>(to + at, left, from);
    };
    read(part.p[i], p);
    read(part.average[i], average);
    if (skip) {
      DDIFF_UNROLL
      for (int k = 0; k < 4; ++k) average[k] = fused(f.rate, p[k] - average[k], average[k]);
      write(part.average[i], average);
      return;
    }
    read(part.g[i], g);
    read(part.m[i], m);
    read(part.v[i], v);
    DDIFF_UNROLL
    for (int k = 0; k < 4; ++k) {
      follow(f, p[k], g[k], m[k], v[k]);
      move(f, p[k], m[k], sqrtf(v[k]), average[k]);
    }
    write(part.p[i], p);
    write(part.m[i], m);
    write(part.v[i], v);
    write(part.average[i], average);
  });
}

struct Gradients {  // of one launch of the norm
  const float* g[TENSORS];
  int64_t size[TENSORS];
  int first[TENSORS + 1];
  int count;
};

// The sum over a block of threads, in thread 0, always in the same order.
template <class T>
__device__ __forceinline__ T sum_over_block(T value) {
  __shared__ T sums[THREADS / 32];
  for (int offset = 16; offset; offset /= 2) value += __shfl_down_sync(~0u, value, offset);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  T total = 0;
  if (threadIdx.x == 0)
    for (T sum : sums) total += sum;
  return total;
}

__global__ void __launch_bounds__(THREADS)
    squares_kernel(const __grid_constant__ Gradients part, float* sums) {
  const int i = owner(part, blockIdx.x);
  const int64_t size = part.size[i];
  const bool vector = reinterpret_cast<uintptr_t>(part.g[i]) % 16 == 0;
  float sum = 0;
  for_fours(int64_t(blockIdx.x - part.first[i]) * BLOCK, size, [&](int64_t at) {
    float g[4];
    const int64_t left = size - at;
    vector && left >= 4 ? load<true>(part.g[i] + at, left, g)
                        : load<false>(part.g[i] + at, left, g);
    DDIFF_UNROLL
    for (int k = 0; k < 4; ++k) sum = fused(g[k], g[k], sum);
  });
  sum = sum_over_block(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(THREADS)
    root_kernel(const float* sums, int64_t count, float* norm) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += THREADS) sum += sums[i];
  sum = sum_over_block(sum);
  if (threadIdx.x == 0) *norm = float(sqrt(sum));
}

// fill(lists, its own number, a tensor's), then launch(lists, blocks), as often as it takes.
template <class Lists, class Fill, class Launch>
int for_launches(const int64_t* sizes, int64_t count, Fill fill, Launch launch) {
  Lists lists;
  lists.count = 0, lists.first[0] = 0;
  for (int64_t i = 0; i < count; ++i) {
    lists.size[lists.count] = sizes[i];
    fill(lists, lists.count, i);
    ++lists.count;
    lists.first[lists.count] = lists.first[lists.count - 1] + int(blocks_of(sizes[i]));
    if (lists.count < TENSORS && i + 1 < count) continue;
    launch(lists, lists.first[lists.count]);
    if (int status = cudaGetLastError()) return status;
    lists.count = 0;
  }
  return cudaSuccess;
}

}  // namespace ddiff

// How many sums ddiff_grad_norm needs room for.
extern "C" int64_t ddiff_grad_norm_blocks(const int64_t* sizes, int64_t count) {
  int64_t blocks = 0;
  for (int64_t i = 0; i < count; ++i) blocks += ddiff::blocks_of(sizes[i]);
  return blocks;
}

extern "C" int ddiff_grad_norm(const float* const* g, const int64_t* sizes, int64_t count,
                               float* norm, float* sums, void* stream) {
  using namespace ddiff;
  auto on = static_cast<cudaStream_t>(stream);
  float* next = sums;
  int status = for_launches<Gradients>(
      sizes, count, [=](Gradients& lists, int to, int64_t i) { lists.g[to] = g[i]; },
      [&](const Gradients& lists, int blocks) {
        squares_kernel<<<blocks, THREADS, 0, on>>>(lists, next);
        next += blocks;
      });
  if (status) return status;
  root_kernel<<<1, THREADS, 0, on>>>(sums, next - sums, norm);
  return cudaGetLastError();
}

extern "C" int ddiff_adam(float* const* p, const float* const* g, float* const* m,
                          float* const* v, float* const* average, const float* const* steps,
                          const int64_t* sizes, int64_t count, const float* norm,
                          const float* found_inf, const ddiff::Options* options, void* stream) {
  using namespace ddiff;
  bool vector = true;
  auto fill = [&](Part& part, int to, int64_t i) {
    part.p[to] = p[i], part.g[to] = g[i], part.m[to] = m[i], part.v[to] = v[i];
    part.average[to] = average[i], part.step[to] = steps[i];
    for (const float* x : {part.p[to], part.m[to], part.v[to], part.average[to]})
      vector = vector && aligned(x, 16);
    vector = vector && aligned(g[i], 16);
  };
  return for_launches<Part>(sizes, count, fill, [&](const Part& part, int blocks) {
    auto kernel = vector ? adam_kernel<true> : adam_kernel<false>;
    kernel<<<blocks, THREADS, 0, static_cast<cudaStream_t>(stream)>>>(part, *options, norm,
                                                                      found_inf);
    vector = true;
  });
}
