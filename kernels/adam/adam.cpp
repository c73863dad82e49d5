#include <algorithm>
#include <vector>

#include "element.h"
#include "tiles.h"

namespace ddiff {

constexpr int64_t BLOCK = 8192;  // elements of one tensor, to a task

// body(tensor, first element, elements, number of the block): all tensors' blocks over threads.
template <class Body>
void for_blocks(const int64_t* sizes, int64_t count, Body body) {
  std::vector<int64_t> first(count + 1);
  int64_t elements = 0;
  for (int64_t i = 0; i < count; ++i) {
    first[i + 1] = first[i] + (sizes[i] + BLOCK - 1) / BLOCK;
    elements += sizes[i];
  }
#pragma omp parallel for schedule(static) if (elements >= ONE_THREAD)
  for (int64_t block = 0; block < first[count]; ++block) {
    int64_t i = std::upper_bound(first.begin(), first.end(), block) - first.begin() - 1;
    int64_t from = (block - first[i]) * BLOCK;
    body(i, from, std::min(BLOCK, sizes[i] - from), block);
  }
}

typedef float Lanes16 __attribute__((vector_size(64)));
constexpr int SUMS = 8;  // side by side, so that they hide each other's latency

inline double sum_of_squares(const float* x, int64_t count) {
  Lanes16 sums[SUMS] = {}, value;
  int64_t i = 0;
  for (; i + 16 * SUMS <= count; i += 16 * SUMS)
    DDIFF_UNROLL
    for (int k = 0; k < SUMS; ++k) {
      memcpy(&value, x + i + 16 * k, sizeof value);
      sums[k] += value * value;
    }
  double total = 0;
  for (; i < count; ++i) total += double(x[i]) * x[i];
  for (const Lanes16& sum : sums)
    for (int lane = 0; lane < 16; ++lane) total += sum[lane];
  return total;
}

inline void adam(const Factors& f, float* __restrict p, const float* __restrict g,
                 float* __restrict m, float* __restrict v, float* __restrict average, int count) {
  alignas(64) float roots[TILE] = {};
  for (int i = 0; i < count; ++i) {
    follow(f, p[i], g[i], m[i], v[i]);
    roots[i] = v[i];
  }
  take_roots(roots);
  for (int i = 0; i < count; ++i) move(f, p[i], m[i], roots[i], average[i]);
}

inline void average_alone(float rate, const float* __restrict p, float* __restrict average,
                          int64_t count) {
  for (int64_t i = 0; i < count; ++i) average[i] = fused(rate, p[i] - average[i], average[i]);
}

}  // namespace ddiff

extern "C" int64_t ddiff_grad_norm_blocks(const int64_t* sizes, int64_t count) {
  int64_t blocks = 0;
  for (int64_t i = 0; i < count; ++i) blocks += (sizes[i] + ddiff::BLOCK - 1) / ddiff::BLOCK;
  return blocks;
}

// The same number whatever the number of threads: a sum a block, and these in their order.
extern "C" void ddiff_grad_norm(const float* const* g, const int64_t* sizes, int64_t count,
                                float* norm) {
  std::vector<double> sums(ddiff_grad_norm_blocks(sizes, count));
  ddiff::for_blocks(sizes, count, [&](int64_t i, int64_t from, int64_t n, int64_t block) {
    sums[block] = ddiff::sum_of_squares(g[i] + from, n);
  });
  double total = 0;
  for (double sum : sums) total += sum;
  *norm = float(std::sqrt(total));
}

extern "C" void ddiff_adam(float* const* p, const float* const* g, float* const* m,
                           float* const* v, float* const* average, const float* const* steps,
                           const int64_t* sizes, int64_t count, const float* norm,
                           const float* found_inf, const ddiff::Options* options) {
  using namespace ddiff;
  const bool skip = found_inf && *found_inf != 0;
  const float scale = clip(norm, options->max_norm);
  for_blocks(sizes, count, [=](int64_t i, int64_t at, int64_t n, int64_t) {
    if (skip) return average_alone(options->rate, p[i] + at, average[i] + at, n);
    const Factors f = factors(*options, scale, *steps[i]);
    for (int64_t j = at; j < at + n; j += TILE)
      adam(f, p[i] + j, g[i] + j, m[i] + j, v[i] + j, average[i] + j,
           int(std::min<int64_t>(TILE, at + n - j)));
  });
}
