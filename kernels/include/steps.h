// What solver_step and add_noise do to one element.
#pragma once

#include "scalar.h"

namespace ddiff {

struct Row {  // of a plan's table
  float p, q, a, b, c, d, w, e;
};

// Classifier-free guidance of a prediction with a label by one without.
DDIFF_INLINE float guided(float scale, float labelled, float unlabelled) {
  return fused(1.0f + scale, labelled, -scale * unlabelled);
}

constexpr int COLUMNS = sizeof(Row) / sizeof(float);

// x_0 = clamp(p x + q pred); returns a x + b x_0 + c previous + e before + d noise.
// A NaN stays one.
DDIFF_INLINE float solver_step(const Row& row, float limit, float x, float pred, float previous,
                               float before, float noise, float& x_0) {
  float estimate = fused(row.p, x, row.q * pred);
  estimate = estimate < -limit ? -limit : estimate;
  estimate = estimate > limit ? limit : estimate;
  x_0 = estimate;
  const float rest = fused(row.e, before, row.d * noise);
  return fused(row.a, x, fused(row.b, estimate, fused(row.c, previous, rest)));
}

struct Mix {  // of one sample: x_t = alpha x_0 + sigma eps, target = e eps + s x_0
  float alpha, sigma, e, s;
};

DDIFF_INLINE float add_noise(const Mix& mix, float x_0, float eps, float& target) {
  target = fused(mix.e, eps, mix.s * x_0);
  return fused(mix.alpha, x_0, mix.sigma * eps);
}

}  // namespace ddiff
