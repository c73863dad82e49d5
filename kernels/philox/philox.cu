#include "grid.h"

namespace ddiff {

template <bool VECTOR>
__global__ void __launch_bounds__(THREADS)
    normal_kernel(const int64_t* samples, const int64_t* step, int64_t key, int64_t batch,
                  int64_t size, float* out) {
  const uint32_t draw = uint32_t(*step);
  for_blocks(batch, size, [=](int64_t sample, int64_t first) {
    float n[4];
    block_normals(key, samples[sample], draw, uint32_t(first / 4), n);
    store<VECTOR>(out + sample * size + first, size - first, n);
  });
}

}  // namespace ddiff

extern "C" int ddiff_normal(const int64_t* samples, const int64_t* step, int64_t key,
                            int64_t batch, int64_t size, float* out, void* stream) {
  using namespace ddiff;
  const bool vector = size % 4 == 0;  // what torch allocates is aligned
  auto kernel = vector ? normal_kernel<true> : normal_kernel<false>;
  kernel<<<grid_for(batch, size), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(
      samples, step, key, batch, size, out);
  return cudaGetLastError();
}
