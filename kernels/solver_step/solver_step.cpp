#include "steps.h"
#include "tiles.h"

namespace ddiff {

constexpr float ZEROS[VALUES] = {};

template <bool GUIDED, class T>
DDIFF_INLINE void tile_step(const Row& row, float limit, float* x, const T* pred,
                            const T* unlabelled, const float* previous, const float* before,
                            const float* noise, float* x_0, int count) {
#pragma omp simd
  for (int i = 0; i < count; ++i) {
    float g = widen(pred[i]);
    if constexpr (GUIDED) g = guided(row.w, g, widen(unlabelled[i]));
    x[i] = solver_step(row, limit, x[i], g, previous[i], before[i], noise[i], x_0[i]);
  }
}

template <bool GUIDED, class T>
void run(float* x, const T* pred, float* x_0, float* x_0_before, Row row, uint32_t draw,
         const int64_t* samples, int64_t key, float limit, bool noisy, int64_t batch,
         int64_t size) {
  const bool reads = x_0 && row.c != 0;  // before the first step x_0 may hold anything
  const bool reads_before = x_0_before && row.e != 0;
  const bool past_cache = batch * size > CACHED;
  noisy = noisy && row.d != 0;
  for_tiles(batch, size, [=](int64_t sample, int64_t first, int count) {
    alignas(64) float n[VALUES], fresh[VALUES], before[VALUES];
    const int64_t at = sample * size + first;
    if (reads_before) memcpy(before, x_0_before + at, count * sizeof(float));
    if (x_0_before) memcpy(x_0_before + at, x_0 + at, count * sizeof(float));
    if (noisy) tile_normals(key, samples[sample], draw, uint32_t(first / 4), n);
    float* estimate = reads ? x_0 + at : fresh;
    tile_step<GUIDED>(row, limit, x + at, pred + at, pred + at + batch * size,
                      reads ? estimate : ZEROS, reads_before ? before : ZEROS, noisy ? n : ZEROS,
                      estimate, count);
    if (x_0 && !reads) store(x_0 + at, fresh, count, past_cache);
  });
}

template <class... Rest>
void run_typed(bool is_guided, int type, float* x, const void* pred, Rest... rest) {
  auto with = [=](auto* typed) {
    if (is_guided)
      run<true>(x, typed, rest...);
    else
      run<false>(x, typed, rest...);
  };
  if (type == 0) with(static_cast<const float*>(pred));
  if (type == 1) with(static_cast<const Bfloat16*>(pred));
  if (type == 2) with(static_cast<const Float16*>(pred));
}

}  // namespace ddiff

// Returns 1, and does nothing, where the table has no such row.
extern "C" int ddiff_solver_step(float* x, const void* pred, int type, bool is_guided, float* x_0,
                                 const float* table, int64_t rows, const int64_t* step,
                                 const int64_t* samples, int64_t key, float limit,
                                 bool noisy, float* x_0_before, int64_t batch, int64_t size) {
  if (*step < 0 || *step >= rows) return 1;
  ddiff::Row row;
  memcpy(&row, table + ddiff::COLUMNS * *step, sizeof row);
  ddiff::run_typed(is_guided, type, x, pred, x_0, x_0_before, row, uint32_t(*step + 1), samples,
                   key, limit, noisy, batch, size);
  return 0;
}

// x_t and the target of training, with their noise, in one pass.
extern "C" int ddiff_add_noise(const float* x_0, const float* coefficients,
                               const int64_t* samples, int64_t key, int64_t draw, float* x_t,
                               float* target, int64_t batch, int64_t size) {
  const bool past_cache = batch * size > ddiff::CACHED;
  ddiff::for_tiles(batch, size, [=](int64_t sample, int64_t first, int count) {
    alignas(64) float n[ddiff::VALUES], noised[ddiff::VALUES], wanted[ddiff::VALUES];
    const int64_t at = sample * size + first;
    ddiff::Mix mix;
    memcpy(&mix, coefficients + 4 * sample, sizeof mix);
    ddiff::tile_normals(key, samples[sample], uint32_t(draw), uint32_t(first / 4), n);
    for (int i = 0; i < count; ++i) noised[i] = ddiff::add_noise(mix, x_0[at + i], n[i], wanted[i]);
    ddiff::store(x_t + at, noised, count, past_cache);
    ddiff::store(target + at, wanted, count, past_cache);
  });
  return 0;
}
