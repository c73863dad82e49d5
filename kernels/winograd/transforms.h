// The transforms of minimal filtering (Winograd; Lavin and Gray 2015), from Toom and Cook's points.
//
// F(2, 3): points 0, 1, -1, infinity. F(4, 3): points 0, +-a, +-c, infinity.
// Row k of B^T holds the coefficients of prod_{l != k} (x - x_l), the last row those of
// prod_l (x - x_l); column k of A^T holds 1, x_k, x_k^2, ...; filters.py makes the same matrices.
#pragma once

#include "vectors.h"

constexpr float kA = 0.66f, kC = 1.54f;  // of the smallest error: see notes.md

template <int M>
INLINE void to_points(const Floats* d, Floats* v);

template <>
INLINE void to_points<2>(const Floats* d, Floats* v) {
  v[0] = d[2] - d[0];
  v[1] = d[2] + d[1];
  v[2] = d[2] - d[1];
  v[3] = d[3] - d[1];
}

template <>
INLINE void to_points<4>(const Floats* d, Floats* v) {
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

template <int M>
INLINE void from_points(const Floats* m, Floats* y);

template <>
INLINE void from_points<2>(const Floats* m, Floats* y) {
  y[0] = m[0] + m[1] + m[2];
  y[1] = m[1] - m[2] + m[3];
}

template <>
INLINE void from_points<4>(const Floats* m, Floats* y) {
  constexpr float a2 = kA * kA, c2 = kC * kC;
  const Floats even_a = m[1] + m[2], odd_a = kA * (m[1] - m[2]);
  const Floats even_c = m[3] + m[4], odd_c = kC * (m[3] - m[4]);
  y[0] = m[0] + even_a + even_c;
  y[1] = odd_a + odd_c;
  y[2] = a2 * even_a + c2 * even_c;
  y[3] = a2 * odd_a + c2 * odd_c + m[5];
}

// B^T d B of one tile: source points at the channels of each place; put(p, values) takes a point.
template <typename T, int MH, int MW, typename Put>
INLINE void transform_input(const T* const* source, int64_t channel, int n, Put put) {
  constexpr int PH = MH + 2, PW = MW + 2;
  Floats half[PW][PH];
  for (int i = 0; i < PH; ++i) {
    Floats row[PW], points[PW];
    for (int j = 0; j < PW; ++j) row[j] = load(source[i * PW + j] + channel, n);
    to_points<MW>(row, points);
    for (int j = 0; j < PW; ++j) half[j][i] = points[j];
  }
  for (int j = 0; j < PW; ++j) {
    Floats points[PH];
    to_points<MH>(half[j], points);
    for (int i = 0; i < PH; ++i) put(i * PW + j, points[i]);
  }
}

// The gradients of both sums, A dy and G^T s; and G w.
template <int M>
INLINE void spread(const Floats* y, Floats* z);

template <>
INLINE void spread<2>(const Floats* y, Floats* z) {
  z[0] = y[0];
  z[1] = y[0] + y[1];
  z[2] = y[0] - y[1];
  z[3] = y[1];
}

template <>
INLINE void spread<4>(const Floats* y, Floats* z) {
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

template <int M>
INLINE void to_taps(const Floats* s, Floats* w);

template <>
INLINE void to_taps<2>(const Floats* s, Floats* w) {
  const Floats even = 0.5f * (s[1] + s[2]);
  w[0] = even - s[0];
  w[1] = 0.5f * (s[1] - s[2]);
  w[2] = even + s[3];
}

template <>
INLINE void to_taps<4>(const Floats* s, Floats* w) {
  const Floats even_a = kGa * (s[1] + s[2]), odd_a = (kA * kGa) * (s[1] - s[2]);
  const Floats even_c = kGc * (s[3] + s[4]), odd_c = (kC * kGc) * (s[3] - s[4]);
  w[0] = kG0 * s[0] + even_a + even_c;
  w[1] = odd_a + odd_c;
  w[2] = (kA * kA) * even_a + (kC * kC) * even_c + s[5];
}

template <int M>
INLINE void from_taps(const Floats* w, Floats* u);

template <>
INLINE void from_taps<2>(const Floats* w, Floats* u) {
  const Floats even = 0.5f * (w[0] + w[2]), odd = 0.5f * w[1];
  u[0] = -w[0];
  u[1] = even + odd;
  u[2] = even - odd;
  u[3] = w[2];
}

template <>
INLINE void from_taps<4>(const Floats* w, Floats* u) {
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
template <typename T, int MH, int MW, typename Put>
INLINE Floats transform_gradient(const T* const* source, int64_t channel, int n, Put put) {
  constexpr int PH = MH + 2, PW = MW + 2;
  Floats half[PW][MH], sum = {};
  for (int i = 0; i < MH; ++i) {
    Floats row[MW], points[PW];
    for (int j = 0; j < MW; ++j) sum += row[j] = load(source[i * MW + j] + channel, n);
    spread<MW>(row, points);
    for (int j = 0; j < PW; ++j) half[j][i] = points[j];
  }
  for (int j = 0; j < PW; ++j) {
    Floats points[PH];
    spread<MH>(half[j], points);
    for (int i = 0; i < PH; ++i) put(i * PW + j, points[i]);
  }
  return sum;
}

// G^T s G; w [3][3].
template <int MH, int MW>
INLINE void transform_products(const float* s, int64_t stride, Floats (&w)[3][3]) {
  constexpr int PH = MH + 2, PW = MW + 2;
  Floats half[3][PW];
  for (int j = 0; j < PW; ++j) {
    Floats column[PH], taps[3];
    for (int i = 0; i < PH; ++i) column[i] = load(s + (i * PW + j) * stride);
    to_taps<MH>(column, taps);
    for (int i = 0; i < 3; ++i) half[i][j] = taps[i];
  }
  for (int i = 0; i < 3; ++i) to_taps<MW>(half[i], w[i]);
}

// G w G^T.
template <int MH, int MW, typename Put>
INLINE void transform_filter(const Floats (&w)[3][3], Put put) {
  constexpr int PH = MH + 2, PW = MW + 2;
  Floats half[PW][3];
  for (int i = 0; i < 3; ++i) {
    Floats points[PW];
    from_taps<MW>(w[i], points);
    for (int j = 0; j < PW; ++j) half[j][i] = points[j];
  }
  for (int j = 0; j < PW; ++j) {
    Floats points[PH];
    from_taps<MH>(half[j], points);
    for (int i = 0; i < PH; ++i) put(i * PW + j, points[i]);
  }
}

// A^T m A + bias of one tile; places outside the image have a null target.
template <typename T, int MH, int MW>
INLINE void transform_output(const float* m, int64_t stride, Floats bias, T* const* target,
                             int64_t channel, int n) {
  constexpr int PH = MH + 2, PW = MW + 2;
  Floats half[MH][PW];
  for (int j = 0; j < PW; ++j) {
    Floats column[PH], y[MH];
    for (int i = 0; i < PH; ++i) column[i] = load(m + (i * PW + j) * stride);
    from_points<MH>(column, y);
    for (int i = 0; i < MH; ++i) half[i][j] = y[i];
  }
  for (int i = 0; i < MH; ++i) {
    Floats y[MW];
    from_points<MW>(half[i], y);
    for (int j = 0; j < MW; ++j)
      if (T* place = target[i * MW + j]) store(place + channel, y[j] + bias, n);
  }
}
