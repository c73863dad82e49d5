// What one step does to one element of one parameter.
#pragma once

#include "scalar.h"

namespace ddiff {

struct Options {  // of a step; rate is 1 - decay, of either moment and of the average
  float max_norm, lr, rate1, log_beta1, beta2, rate2, log_beta2, eps, l2, shrink, rate;
};

struct Factors {  // of a tensor in a step
  float clip, l2, shrink, rate1, beta2, rate2, root, eps, size, rate;
};

// What brings a gradient of this norm down to max_norm; not a number where the norm is none.
DDIFF_INLINE float clip(const float* norm, float max_norm) {
  if (!norm) return 1.0f;
  float ratio = max_norm / (*norm + 1e-6f);
  return ratio > 1.0f ? 1.0f : ratio;
}

// 1 - beta^step as -expm1(step log beta), which keeps its digits where beta is near 1.
DDIFF_INLINE Factors factors(const Options& o, float clip, float step) {
  float root = 1.0f / sqrtf(-expm1f(step * o.log_beta2));
  float size = o.lr / -expm1f(step * o.log_beta1);
  return {clip, o.l2, o.shrink, o.rate1, o.beta2, o.rate2, root, o.eps, size, o.rate};
}

// m: the gradient's average, v: its square's.
DDIFF_INLINE void follow(const Factors& f, float p, float g, float& m, float& v) {
  g = fused(f.l2, p, f.clip * g);
  m = fused(f.rate1, g - m, m);
  v = fused(f.beta2, v, f.rate2 * g * g);
}

DDIFF_INLINE void move(const Factors& f, float& p, float m, float root_of_v, float& average) {
  p = f.shrink * p - f.size * m / fused(f.root, root_of_v, f.eps);
  average = fused(f.rate, p - average, average);
}

}  // namespace ddiff
