#include "steps.h"
#include "tiles.h"

using namespace ddiff;

extern "C" void ddiff_add_noise(const float* x_0, const float* coefficients,
                                const int64_t* samples, int64_t key, int64_t draw, float* x_t,
                                float* target, int64_t batch, int64_t size) {
  const bool past_cache = batch * size > CACHED;
  for_tiles(batch, size, [=](int64_t sample, int64_t first, int count) {
    alignas(64) float n[VALUES], noised[VALUES], wanted[VALUES];
    const int64_t at = sample * size + first;
    Mix mix;
    memcpy(&mix, coefficients + 4 * sample, sizeof mix);
    tile_normals(key, samples[sample], uint32_t(draw), uint32_t(first / 4), n);
    for (int i = 0; i < count; ++i) noised[i] = add_noise(mix, x_0[at + i], n[i], wanted[i]);
    store(x_t + at, noised, count, past_cache);
    store(target + at, wanted, count, past_cache);
  });
}
