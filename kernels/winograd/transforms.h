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

// B^T d B of one tile: source points at the channels of each place; point p goes to v + p stride.
template <typename T, int MH, int MW>
INLINE void transform_input(const T* const* source, int64_t channel, int n, T* v, int64_t stride) {
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
    for (int i = 0; i < PH; ++i) store(v + (i * PW + j) * stride, points[i]);
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
