#include "grid.h"
#include "steps.h"

namespace ddiff {

struct Arguments {
  float* x;
  const void* pred;
  float* x_0;  // null where the plan does not need it
  const float* table;
  int64_t rows;
  const int64_t *step, *samples;
  int64_t key;
  float limit;
  bool noisy;
  float* x_0_before;  // null where the plan does not need it
  int64_t batch, size;
};

template <class T, bool GUIDED, bool VECTOR>
__global__ void __launch_bounds__(THREADS) step_kernel(const Arguments a) {
  const int64_t step = *a.step;
  if (step < 0 || step >= a.rows) return;
  const float* t = a.table + COLUMNS * step;
  const Row row = {t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7]};
  const bool reads = a.x_0 && row.c != 0;  // before the first step x_0 may hold anything
  const bool noisy = a.noisy && row.d != 0;
  const T* pred = static_cast<const T*>(a.pred);
  for_blocks(a.batch, a.size, [&](int64_t sample, int64_t first) {
    const int64_t at = sample * a.size + first, left = a.size - first;
    float x[4], g[4], unlabelled[4], previous[4] = {}, before[4] = {}, n[4] = {}, x_0[4];
    load<VECTOR>(a.x + at, left, x);
    load<VECTOR>(pred + at, left, g);
    if constexpr (GUIDED) load<VECTOR>(pred + a.batch * a.size + at, left, unlabelled);
    if (reads) load<VECTOR>(a.x_0 + at, left, previous);
    if (noisy) block_normals(a.key, a.samples[sample], uint32_t(step + 1), uint32_t(first / 4), n);
    if (a.x_0_before) {  // after the noise, which needs the registers
      if (row.e != 0) load<VECTOR>(a.x_0_before + at, left, before);
      load<VECTOR>(a.x_0 + at, left, x_0);
      store<VECTOR>(a.x_0_before + at, left, x_0);
    }
    DDIFF_UNROLL
    for (int i = 0; i < 4; ++i) {
      if constexpr (GUIDED) g[i] = guided(row.w, g[i], unlabelled[i]);
      x[i] = solver_step(row, a.limit, x[i], g[i], previous[i], before[i], n[i], x_0[i]);
    }
    store<VECTOR>(a.x + at, left, x);
    if (a.x_0) store<VECTOR>(a.x_0 + at, left, x_0);
  });
}

template <class T, bool GUIDED>
int launch(const Arguments& a, cudaStream_t stream) {
  // with size a multiple of four, samples and halves keep the alignment of their tensor
  const bool vector = a.size % 4 == 0 && aligned(a.x, 16) && aligned(a.pred, 4 * sizeof(T)) &&
                      aligned(a.x_0, 16) && aligned(a.x_0_before, 16);
  auto kernel = vector ? step_kernel<T, GUIDED, true> : step_kernel<T, GUIDED, false>;
  kernel<<<grid_for(a.batch, a.size), THREADS, 0, stream>>>(a);
  return cudaGetLastError();
}

template <bool GUIDED>
int launch_typed(int type, const Arguments& a, cudaStream_t stream) {
  if (type == 0) return launch<float, GUIDED>(a, stream);
  if (type == 1) return launch<Bfloat16, GUIDED>(a, stream);
  return launch<Float16, GUIDED>(a, stream);
}

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

// Does nothing where the table has no such row: the host cannot know the step without waiting.
extern "C" int ddiff_solver_step(float* x, const void* pred, int type, bool is_guided, float* x_0,
                                 const float* table, int64_t rows, const int64_t* step,
                                 const int64_t* samples, int64_t key, float limit,
                                 bool noisy, float* x_0_before, int64_t batch, int64_t size,
                                 void* stream) {
  using namespace ddiff;
  const Arguments a = {x,   pred,  x_0,   table,      rows,  step, samples,
                       key, limit, noisy, x_0_before, batch, size};
  auto on = static_cast<cudaStream_t>(stream);
  return is_guided ? launch_typed<true>(type, a, on) : launch_typed<false>(type, a, on);
}

extern "C" int ddiff_add_noise(const float* x_0, const float* coefficients,
                               const int64_t* samples, int64_t key, int64_t draw, float* x_t,
                               float* target, int64_t batch, int64_t size, void* stream) {
  using namespace ddiff;
  const bool vector = size % 4 == 0 && aligned(x_0, 16);  // what torch allocates is aligned
  auto kernel = vector ? add_noise_kernel<true> : add_noise_kernel<false>;
  kernel<<<grid_for(batch, size), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(
      x_0, coefficients, samples, key, uint32_t(draw), x_t, target, batch, size);
  return cudaGetLastError();
}
