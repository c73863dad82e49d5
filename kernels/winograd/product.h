// Small matrix products: rows of transformed tiles times packed weights, sums held in registers.
#pragma once

#include <algorithm>

#include "vectors.h"

#ifdef __AVX512F__
constexpr int kRows = 6, kVectors = 4;  // 24 of 32 registers hold sums
#else
constexpr int kRows = kWidth == 8 ? 6 : 3, kVectors = 1;  // 12 of 16
#endif

struct Product {
  int64_t rows, taps, depth;  // depth: words of one row and tap
  int64_t row, tap;           // strides of v, in words; Step: that of the depth
  int64_t vector;             // stride of u from one vector of outputs to the next, in words
};

// m [R][N][16] = sum over taps and depth of v [R] u [N][16].
template <typename T, int Step, int R, int N>
void block(const Product& s, const uint32_t* v, const uint32_t* u, float* m) {
  constexpr int S = kLanes / kWidth, NS = N * S;
  Floats sum[R][NS];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < NS; ++n) sum[r][n] = Floats{};
  for (int64_t tap = 0; tap < s.taps; ++tap, v += s.tap, u += s.depth * kLanes) {
    for (int64_t k = 0; k < s.depth; ++k) {
      Words b[NS];
#pragma GCC unroll 4
      for (int n = 0; n < NS; ++n)
        std::memcpy(&b[n], u + n / S * s.vector + k * kLanes + n % S * kWidth, sizeof b[n]);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Words a = Words{} + v[r * s.row + k * Step];
#pragma GCC unroll 4
        for (int n = 0; n < NS; ++n) sum[r][n] = dot<T>(sum[r][n], a, b[n]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < NS; ++n) store(m + r * N * kLanes + n * kWidth, sum[r][n]);
}

template <typename T, int Step, int N, int R = kRows>
void some_rows(int rows, const Product& s, const uint32_t* v, const uint32_t* u, float* m) {
  if constexpr (R > 1)
    if (rows < R) return some_rows<T, Step, N, R - 1>(rows, s, v, u, m);
  block<T, Step, R, N>(s, v, u, m);
}

// All rows, in groups as even as they come.
template <typename T, int Step, int N = kVectors>
void multiply(int vectors, const Product& s, const uint32_t* v, const uint32_t* u, float* m) {
  if constexpr (N > 1)
    if (vectors < N) return multiply<T, Step, N - 1>(vectors, s, v, u, m);
  const int64_t groups = (s.rows + kRows - 1) / kRows;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t from = g * s.rows / groups, to = (g + 1) * s.rows / groups;
    some_rows<T, Step, N>(to - from, s, v + from * s.row, u, m + from * N * kLanes);
  }
}
