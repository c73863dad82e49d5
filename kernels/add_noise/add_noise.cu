#include "grid.h"
#include "steps.h"

namespace ddiff {

template <bool VECTOR>
__global__ void __launch_bounds__(THREADS)
    add_noise_kernel(const float* x_0, const float* coefficients, const int64_t* samples,
                     int64_t key, uint32_t draw, float* x_t, float* target, int64_t batch,
                     int64_t size) {
  for_blocks(batch, size, [=](int64_t sample, int64_t first) {
    const int64_t at = sample * size + first, left = size - first;
    const float* c = coefficients + 4 * sample;
    const Mix mix = {c[0], c[1], c[2], c[3]};
    float x[4], n[4], wanted[4];
    load<VECTOR>(x_0 + at, left, x);
    block_normals(key, samples[sample], draw, uint32_t(first / 4), n);
    DDIFF_UNROLL
    for (int i = 0; i < 4; ++i) x[i] = add_noise(mix, x[i], n[i], wanted[i]);
    store<VECTOR>(x_t + at, left, x);
    store<VECTOR>(target + at, left, wanted);
  });
}

}  // namespace ddiff

extern "C" int ddiff_add_noise(const float* x_0, const float* coefficients,
                               const int64_t* samples, int64_t key, int64_t draw, float* x_t,
                               float* target, int64_t batch, int64_t size, void* stream) {
  using namespace ddiff;
  const bool vector = size % 4 == 0 && aligned(x_0, 16) && aligned(x_t, 16) && aligned(target, 16);
  auto kernel = vector ? add_noise_kernel<true> : add_noise_kernel<false>;
  kernel<<<grid_for(batch, size), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(
      x_0, coefficients, samples, key, uint32_t(draw), x_t, target, batch, size);
  return cudaGetLastError();
}
