// Philox 4x32-10 (Salmon et al. 2011) and normal numbers from its words (Box and Muller 1958).
#pragma once

#include "scalar.h"

namespace ddiff {

struct Product {
  uint32_t high, low;
};

DDIFF_INLINE Product multiply(uint32_t word, uint32_t by) {
  uint64_t product = uint64_t(word) * by;
  return {uint32_t(product >> 32), uint32_t(product)};
}

// Ten rounds over the counter in `c`. A Word is one number, or the same word of many blocks.
template <class Word>
DDIFF_INLINE void philox(Word (&c)[4], uint64_t key) {
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  DDIFF_UNROLL
  for (int round = 0; round < 10; ++round) {
    auto p = multiply(c[0], 0xD2511F53u), q = multiply(c[2], 0xCD9E8D57u);
    c[0] = q.high ^ c[1] ^ k0;
    c[1] = q.low;
    c[2] = p.high ^ c[3] ^ k1;
    c[3] = p.low;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// -2 ln u, u = (r + 1/2) 2^-32 rounded. With u = 2^e (1 + f), 1 + f in [sqrt 1/2, sqrt 2),
// ln(1 + f) = f - f^2 / 2 + f^3 P(f); P is minimax, the relative error of ln 3e-8.
DDIFF_INLINE float squared_radius(uint32_t r) {
  float u = fused(float(r), 0x1p-32f, 0x1p-33f);
  uint32_t bits = as_bits(u) - 0x3f3504f3u;
  float e = float(int32_t(bits) >> 23);
  float f = as_float((bits & 0x7fffffu) + 0x3f3504f3u) - 1.0f;
  float P = 0.0870043859f;
  P = fused(P, f, -0.142674893f);
  P = fused(P, f, 0.149147674f);
  P = fused(P, f, -0.165775850f);
  P = fused(P, f, 0.199630633f);
  P = fused(P, f, -0.250013381f);
  P = fused(P, f, 0.333339095f);
  float log1p = fused(f * f, fused(P, f, -0.5f), f);
  return -2.0f * fused(e, 0.693147181f, log1p);
}

// cos and sin of 2 pi v, v = r 2^-32 rounded. With v = quarter / 4 + w, |w| <= 1/8 (both exact):
// minimax polynomials in w^2, errors 3e-8 and 1e-9.
DDIFF_INLINE void turn(uint32_t r, float& cosine, float& sine) {
  float v = float(r) * 0x1p-32f;
  float shifted = fused(v, 4.0f, 0x1.8p23f);  // round(4 v) in the last bits of its mantissa
  uint32_t quarter = as_bits(shifted);
  float w = fused(shifted - 0x1.8p23f, -0.25f, v);
  float z = w * w;
  float c = fused(fused(fused(-83.6659201f, z, 64.9232286f), z, -19.7391673f), z, 1.0f);
  float s = fused(fused(fused(-75.2400634f, z, 81.5881246f), z, -41.3416280f), z, 6.28318522f) * w;
  bool odd = quarter & 1;
  uint32_t c_sign = (quarter + 1) << 30 & 0x80000000u, s_sign = quarter << 30 & 0x80000000u;
  cosine = as_float(as_bits(odd ? s : c) ^ c_sign);
  sine = as_float(as_bits(odd ? c : s) ^ s_sign);
}

// The four normal numbers of a block from the roots of squared_radius(r0) and (r2), and r1, r3.
DDIFF_INLINE void box_muller(float radius0, uint32_t r1, float radius2, uint32_t r3,
                             float (&n)[4]) {
  turn(r1, n[0], n[1]);
  turn(r3, n[2], n[3]);
  n[0] *= radius0;
  n[1] *= radius0;
  n[2] *= radius2;
  n[3] *= radius2;
}

// The four normal numbers of one block of a sample's stream.
DDIFF_INLINE void block_normals(uint64_t key, uint64_t sample, uint32_t step, uint32_t block,
                                float (&n)[4]) {
  uint32_t r[4] = {block, uint32_t(sample), uint32_t(sample >> 32), step};
  philox(r, key);
  box_muller(sqrtf(squared_radius(r[0])), r[1], sqrtf(squared_radius(r[2])), r[3], n);
}

}  // namespace ddiff
