// The transforms of minimal filtering (Winograd; Lavin and Gray 2015), from Toom and Cook's points.
//
// F(4, 3): points 0, +-a, +-c, infinity.
// Row k of B^T holds the coefficients of prod_{l != k} (x - x_l), the last row those of
// prod_l (x - x_l); column k of A^T holds 1, x_k, x_k^2, ...; filters.py makes the same matrices.
#pragma once

#include "vectors.h"

constexpr int kTile = 4, kSide = kTile + 2;  // outputs and points of a tile along an axis
constexpr int kPoints = kSide * kSide;
constexpr float kA = 0.66f, kC = 1.54f;  // of the smallest error: see notes.md

INLINE void to_points(const Floats* d, Floats* v) {
  constexpr float a2 = kA * kA, c2 = kC * kC;
  const Floats even_a = d[4] - c2 * d[2], odd_a = kA * (d[3] - c2 * d[1]);
  const Floats even_c = d[4] - a2 * d[2], odd_c = kC * (d[3] - a2 * d[1]);
  v[0] = d[4] - (a2 + c2) * d[2] + (a2 * c2) * d[0];
  v[1] = even_a + odd_a;
  v[2] = even_a - odd_a;
  v[3] = even_c + odd_c;
  v[4] = even_c - odd_c;
  v[5] = d[5] - (a2 + c2) * d[3] + (a2 * c2) * d[1];
}

INLINE void from_points(const Floats* m, Floats* y) {
  constexpr float a2 = kA * kA, c2 = kC * kC;
  const Floats even_a = m[1] + m[2], odd_a = kA * (m[1] - m[2]);
  const Floats even_c = m[3] + m[4], odd_c = kC * (m[3] - m[4]);
  y[0] = m[0] + even_a + even_c;
  y[1] = odd_a + odd_c;
  y[2] = a2 * even_a + c2 * even_c;
  y[3] = a2 * odd_a + c2 * odd_c + m[5];
}

// B^T d B of one tile: source points at the channels of each place; put(p, values) takes a point.
template <typename T, typename Put>
INLINE void transform_input(const T* const* source, int64_t channel, int n, Put put) {
  Floats half[kSide][kSide];
  for (int i = 0; i < kSide; ++i) {
    Floats row[kSide], points[kSide];
    for (int j = 0; j < kSide; ++j) row[j] = load(source[i * kSide + j] + channel, n);
    to_points(row, points);
    for (int j = 0; j < kSide; ++j) half[j][i] = points[j];
  }
  for (int j = 0; j < kSide; ++j) {
    Floats points[kSide];
    to_points(half[j], points);
    for (int i = 0; i < kSide; ++i) put(i * kSide + j, points[i]);
  }
}

// The gradients of both sums, A dy and G^T s; and G w.
INLINE void spread(const Floats* y, Floats* z) {
  constexpr float a2 = kA * kA, c2 = kC * kC;
  const Floats even_a = y[0] + a2 * y[2], odd_a = kA * (y[1] + a2 * y[3]);
  const Floats even_c = y[0] + c2 * y[2], odd_c = kC * (y[1] + c2 * y[3]);
  z[0] = y[0];
  z[1] = even_a + odd_a;
  z[2] = even_a - odd_a;
  z[3] = even_c + odd_c;
  z[4] = even_c - odd_c;
  z[5] = y[3];
}

// 1 / p'(x) at 0, at +-a, at +-c.
constexpr float kG0 = 1 / (kA * kA * kC * kC);
constexpr float kGa = 1 / (2 * kA * kA * (kA * kA - kC * kC));
constexpr float kGc = 1 / (2 * kC * kC * (kC * kC - kA * kA));

INLINE void to_taps(const Floats* s, Floats* w) {
  const Floats even_a = kGa * (s[1] + s[2]), odd_a = (kA * kGa) * (s[1] - s[2]);
  const Floats even_c = kGc * (s[3] + s[4]), odd_c = (kC * kGc) * (s[3] - s[4]);
  w[0] = kG0 * s[0] + even_a + even_c;
  w[1] = odd_a + odd_c;
  w[2] = (kA * kA) * even_a + (kC * kC) * even_c + s[5];
}

INLINE void from_taps(const Floats* w, Floats* u) {
  const Floats even_a = kGa * (w[0] + (kA * kA) * w[2]), odd_a = (kA * kGa) * w[1];
  const Floats even_c = kGc * (w[0] + (kC * kC) * w[2]), odd_c = (kC * kGc) * w[1];
  u[0] = kG0 * w[0];
  u[1] = even_a + odd_a;
  u[2] = even_a - odd_a;
  u[3] = even_c + odd_c;
  u[4] = even_c - odd_c;
  u[5] = w[2];
}

// A dy A^T of one tile; returns the sum of dy.
template <typename T, typename Put>
INLINE Floats transform_gradient(const T* const* source, int64_t channel, int n, Put put) {
  Floats half[kSide][kTile], sum = {};
  for (int i = 0; i < kTile; ++i) {
    Floats row[kTile], points[kSide];
    for (int j = 0; j < kTile; ++j) sum += row[j] = load(source[i * kTile + j] + channel, n);
    spread(row, points);
    for (int j = 0; j < kSide; ++j) half[j][i] = points[j];
  }
  for (int j = 0; j < kSide; ++j) {
    Floats points[kSide];
    spread(half[j], points);
    for (int i = 0; i < kSide; ++i) put(i * kSide + j, points[i]);
  }
  return sum;
}

// G^T s G; w [3][3].
INLINE void transform_products(const float* s, int64_t stride, Floats (&w)[3][3]) {
  Floats half[3][kSide];
  for (int j = 0; j < kSide; ++j) {
    Floats column[kSide], taps[3];
    for (int i = 0; i < kSide; ++i) column[i] = load(s + (i * kSide + j) * stride);
    to_taps(column, taps);
    for (int i = 0; i < 3; ++i) half[i][j] = taps[i];
  }
  for (int i = 0; i < 3; ++i) to_taps(half[i], w[i]);
}

// G w G^T.
template <typename Put>
INLINE void transform_filter(const Floats (&w)[3][3], Put put) {
  Floats half[kSide][3];
  for (int i = 0; i < 3; ++i) {
    Floats points[kSide];
    from_taps(w[i], points);
    for (int j = 0; j < kSide; ++j) half[j][i] = points[j];
  }
  for (int j = 0; j < kSide; ++j) {
    Floats points[kSide];
    from_taps(half[j], points);
    for (int i = 0; i < kSide; ++i) put(i * kSide + j, points[i]);
  }
}

// A^T m A + bias of one tile; places outside the image have a null target.
template <typename T>
INLINE void transform_output(const float* m, int64_t stride, Floats bias, T* const* target,
                             int64_t channel, int n) {
  Floats half[kTile][kSide];
  for (int j = 0; j < kSide; ++j) {
    Floats column[kSide], y[kTile];
    for (int i = 0; i < kSide; ++i) column[i] = load(m + (i * kSide + j) * stride);
    from_points(column, y);
    for (int i = 0; i < kTile; ++i) half[i][j] = y[i];
  }
  for (int i = 0; i < kTile; ++i) {
    Floats y[kTile];
    from_points(half[i], y);
    for (int j = 0; j < kTile; ++j)
      if (T* place = target[i * kTile + j]) store(place + channel, y[j] + bias, n);
  }
}
