#include "tiles.h"

using namespace ddiff;

extern "C" {

int ddiff_normal(const int64_t* samples, const int64_t* step, int64_t key, int64_t batch,
                 int64_t size, float* out) {
  const bool past_cache = batch * size > CACHED;
  for_tiles(batch, size, [=](int64_t sample, int64_t first, int count) {
    alignas(64) float n[VALUES];
    tile_normals(key, samples[sample], uint32_t(*step), uint32_t(first / 4), n);
    store(out + sample * size + first, n, count, past_cache);
  });
  return 0;
}

// For the tests: the words themselves, [batch, blocks, 4].
void ddiff_words(const int64_t* samples, int64_t step, int64_t key, int64_t batch, int64_t blocks,
                 int64_t* out) {
  for_tiles(batch, 4 * blocks, [=](int64_t sample, int64_t first, int count) {
    alignas(64) uint32_t r[4][TILE];
    tile_words(key, samples[sample], uint32_t(step), uint32_t(first / 4), r);
    int64_t* to = out + 4 * sample * blocks + first;
    for (int i = 0; i < count; ++i) to[i] = r[i % 4][i / 4];
  });
}

// For the tests: one block alone, as a GPU's thread computes it.
void ddiff_block_normals(int64_t key, int64_t sample, int64_t step, int64_t block, float* out) {
  float n[4];
  block_normals(key, sample, uint32_t(step), uint32_t(block), n);
  memcpy(out, n, sizeof n);
}

}  // extern "C"
