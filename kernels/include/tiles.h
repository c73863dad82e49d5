// On a CPU: tiles of a batch over threads, and the generator a tile at a time.
#pragma once

#include "philox.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace ddiff {

constexpr int TILE = 64;          // blocks of a sample
constexpr int VALUES = 4 * TILE;  // and their elements

// A word of several blocks, each in 64 bits, of which the upper 32 may hold anything.
#ifdef __AVX512F__
typedef uint64_t Lanes __attribute__((vector_size(64)));
inline Lanes times(Lanes a, uint32_t by) {
  // maskz: gcc 12 warns of the plain intrinsic's own code
  return (Lanes)_mm512_maskz_mul_epu32(0xff, (__m512i)a, _mm512_set1_epi64(by));
}
#elif defined(__AVX2__)
typedef uint64_t Lanes __attribute__((vector_size(32)));
inline Lanes times(Lanes a, uint32_t by) {
  return (Lanes)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(by));
}
#else
typedef uint64_t Lanes __attribute__((vector_size(16)));
inline Lanes times(Lanes a, uint32_t by) { return (a & 0xffffffffu) * by; }
#endif
constexpr int WIDTH = sizeof(Lanes) / sizeof(uint64_t);
constexpr int CHAINS = 4;  // independent, so that they hide each other's latency

struct Word {
  Lanes chain[CHAINS];
};

struct Products {
  Word high, low;
};

DDIFF_INLINE Word operator^(Word a, const Word& b) {
  for (int i = 0; i < CHAINS; ++i) a.chain[i] ^= b.chain[i];
  return a;
}

DDIFF_INLINE Word operator^(Word a, uint32_t b) {
  for (int i = 0; i < CHAINS; ++i) a.chain[i] ^= uint64_t(b);
  return a;
}

DDIFF_INLINE Products multiply(const Word& word, uint32_t by) {
  Products p;
  for (int i = 0; i < CHAINS; ++i) {
    p.low.chain[i] = times(word.chain[i], by);
    p.high.chain[i] = p.low.chain[i] >> 32;
  }
  return p;
}

// Words of the blocks first .. first + TILE - 1 of one sample's stream.
inline void tile_words(uint64_t key, uint64_t sample, uint32_t step, uint32_t first,
                       uint32_t (&r)[4][TILE]) {
  Lanes lane;
  for (int i = 0; i < WIDTH; ++i) lane[i] = i;
  for (int j = 0; j < TILE; j += CHAINS * WIDTH) {
    Word c[4];
    for (int i = 0; i < CHAINS; ++i) {
      c[0].chain[i] = lane + uint64_t(first + j + i * WIDTH);
      c[1].chain[i] = Lanes{} + (sample & 0xffffffffu);
      c[2].chain[i] = Lanes{} + (sample >> 32);
      c[3].chain[i] = Lanes{} + uint64_t(step);
    }
    philox(c, key);
    for (int w = 0; w < 4; ++w)
      for (int i = 0; i < CHAINS; ++i)
        for (int l = 0; l < WIDTH; ++l) r[w][j + i * WIDTH + l] = uint32_t(c[w].chain[i][l]);
  }
}

// gcc keeps a loop with sqrtf scalar, for errno's sake.
inline void take_roots(float (&x)[TILE]) {
#if defined(__AVX512F__)
  for (int j = 0; j < TILE; j += 16)
    _mm512_store_ps(x + j, _mm512_maskz_sqrt_ps(0xffff, _mm512_load_ps(x + j)));
#elif defined(__AVX2__)
  for (int j = 0; j < TILE; j += 8) _mm256_store_ps(x + j, _mm256_sqrt_ps(_mm256_load_ps(x + j)));
#else
  for (int j = 0; j < TILE; ++j) x[j] = sqrtf(x[j]);
#endif
}

// The normal numbers of the same blocks, in the order of their elements.
inline void tile_normals(uint64_t key, uint64_t sample, uint32_t step, uint32_t first,
                         float (&n)[VALUES]) {
  alignas(64) uint32_t r[4][TILE];
  alignas(64) float radius0[TILE], radius2[TILE];
  tile_words(key, sample, step, first, r);
  for (int j = 0; j < TILE; ++j) radius0[j] = squared_radius(r[0][j]);
  for (int j = 0; j < TILE; ++j) radius2[j] = squared_radius(r[2][j]);
  take_roots(radius0);
  take_roots(radius2);
  for (int j = 0; j < TILE; ++j) {
    float four[4];
    box_muller(radius0[j], r[1][j], radius2[j], r[3][j], four);
    for (int i = 0; i < 4; ++i) n[4 * j + i] = four[i];
  }
}

// Writes a tile; past the cache where it would only wash out what is needed there.
DDIFF_INLINE void store(float* out, const float (&tile)[VALUES], int count, bool past_cache) {
#if defined(__AVX2__)
  if (past_cache && count == VALUES && reinterpret_cast<uintptr_t>(out) % 64 == 0) {
    for (int j = 0; j < VALUES; j += 8) _mm256_stream_ps(out + j, _mm256_load_ps(tile + j));
    return;
  }
#endif
  (void)past_cache;
  memcpy(out, tile, count * sizeof(float));
}

// Outputs larger than this will not be found in the cache by whoever reads them.
constexpr int64_t CACHED = 4 << 20;  // elements
constexpr int64_t ONE_THREAD = 1 << 15;

// body(sample, first element of the tile, elements in it) for all of [batch, size].
template <class Body>
void for_tiles(int64_t batch, int64_t size, Body body) {
  const int64_t tiles = (size + VALUES - 1) / VALUES;
#pragma omp parallel if (batch * size >= ONE_THREAD)
  {
#pragma omp for schedule(static)
    for (int64_t t = 0; t < batch * tiles; ++t) {
      int64_t first = t % tiles * VALUES, left = size - first;
      body(t / tiles, first, int(left < VALUES ? left : VALUES));
    }
#ifdef __AVX2__
    _mm_sfence();  // what went past the cache is seen by all
#endif
  }
}

}  // namespace ddiff
