// Convolution with a kernel of 3 and padding of 1, channels last, by Winograd's F(4 x 4, 3 x 3)
// over the last two axes; in 3D the first axis is summed directly, as products three times as deep.
//
// Behind an upsampling (each value repeated twice along each axis) such a convolution is 4 or 8
// convolutions of the small image, one for each phase of the output: w0, w1 + w2, 0 and 0, w0 + w1,
// w2 along an axis, the first axis of 3D without its zero.
//
// A task owns a block of tiles and some outputs. It transforms its input once into
// v [points, slices, tiles, inputs], multiplies that by the packed weights u, point after point,
// into m [points, slices, tiles, up to 64 outputs], and transforms m into y. v and m stay in the
// second-level cache; u streams past.
#pragma once

#include "product.h"
#include "tasks.h"
#include "transforms.h"

constexpr int64_t kCache = 640 * 1024;  // bytes of v and m
constexpr int64_t kReuse = 24;          // rows of v that at least share a reading of u
constexpr int64_t kLine = 64;           // of the cache
constexpr int64_t kDepth = 16;          // slices in one task

template <typename T>
struct Convolution {
  const Shape s;
  const T* x;
  const uint32_t* u;
  const float* bias;
  T* y;

  const int64_t tiles_y = divided(s.height, kTile), tiles_x = divided(s.width, kTile);
  const int64_t tiles = s.batch * tiles_y * tiles_x;
  const int64_t around = s.taps > 1 ? 1 : 0;  // slices before and after
  const int64_t z_scale = s.taps > 1 ? s.scale : 1;
  const int64_t phases = s.scale * s.scale * z_scale;
  const int64_t phase_vectors = divided(s.outputs, kLanes), vectors = phases * phase_vectors;
  const int64_t words = divided(s.inputs * sizeof(T), 4);
  const int64_t padded = divided(s.inputs, kLanes) * kLanes;

  void run(int threads) const {
    const int64_t slice_blocks = divided(s.depth, kDepth), slices = divided(s.depth, slice_blocks);
    const int64_t v_bytes = kPoints * (slices + 2 * around) * padded * sizeof(T);  // of one tile
    const int64_t m_bytes = kPoints * slices * std::min<int64_t>(vectors, kVectors) * kLanes * 4;
    const int64_t most = std::max(kCache / (v_bytes + m_bytes), divided(kReuse, slices));
    int64_t tile_blocks = divided(tiles, most);
    if (tile_blocks * slice_blocks >= threads)  // as much work for every thread
      tile_blocks = std::min(tiles, divided(tile_blocks, threads) * threads);
    const int64_t splits = std::min(vectors, divided(threads, tile_blocks * slice_blocks));
    const int64_t tasks = tile_blocks * slice_blocks * splits;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t task = 0; task < tasks; ++task) {
      const int64_t rest = task / splits;
      block(part(rest / slice_blocks, tile_blocks, tiles),
            part(rest % slice_blocks, slice_blocks, s.depth), part(task % splits, splits, vectors));
    }
  }

  void block(Range t, Range z, Range o) const {
    const int64_t v_rows = (z.size() + 2 * around) * t.size(), m_rows = z.size() * t.size();
    // A line between points, against strides of powers of two.
    const int64_t v_stride = divided(v_rows * padded * sizeof(T), kLine) * kLine + kLine;
    const int64_t m_stride = (m_rows * kVectors * kLanes + kLanes) * sizeof(float);
    const int64_t blank = divided(padded * sizeof(T), kLine) * kLine;
    char* zeros = scratch<Use::own>(blank + kPoints * (v_stride + m_stride));
    char* v = zeros + blank;
    char* m = v + kPoints * v_stride;
    std::memset(zeros, 0, blank);

    for (int64_t r = 0; r < v_rows; ++r)
      read(t.begin + r % t.size(), z.begin + r / t.size() - around,
           reinterpret_cast<T*>(zeros), reinterpret_cast<T*>(v) + r * padded, v_stride / sizeof(T));

    const int64_t row = padded * sizeof(T) / 4, panel = s.taps * words * kLanes;
    const Product product{m_rows, s.taps, words, row, t.size() * row, kPoints * panel};
    for (int64_t first = o.begin, n; first < o.end; first += n) {
      const int64_t phase = first / phase_vectors;
      n = std::min({int64_t{kVectors}, o.end - first, (phase + 1) * phase_vectors - first});
      const int64_t skipped = phase / 4 * t.size() * row;  // a slice, in the later phases of 3D
      for (int64_t p = 0; p < kPoints; ++p)
        multiply<T, 1>(n, product, reinterpret_cast<uint32_t*>(v + p * v_stride) + skipped,
                    u + (first * kPoints + p) * panel, reinterpret_cast<float*>(m + p * m_stride));
      for (int64_t r = 0; r < m_rows; ++r)
        write(t.begin + r % t.size(), z.begin + r / t.size(), phase, first % phase_vectors, n,
              reinterpret_cast<float*>(m) + r * n * kLanes, m_stride / sizeof(float));
    }
  }

  struct Corner {
    int64_t image, top, left;
  };

  Corner corner(int64_t tile) const {
    return {tile / (tiles_x * tiles_y), tile / tiles_x % tiles_y * kTile, tile % tiles_x * kTile};
  }

  void read(int64_t tile, int64_t z, const T* zeros, T* v, int64_t stride) const {
    if (z < 0 || z >= s.depth) {
      for (int p = 0; p < kPoints; ++p) std::memset(v + p * stride, 0, padded * sizeof(T));
      return;
    }
    const Corner from = corner(tile);
    const T* slice = x + (from.image * s.depth + z) * s.height * s.width * s.inputs;
    const T* source[kPoints];
    for (int p = 0; p < kPoints; ++p) {
      const int64_t i = from.top + p / kSide - 1, j = from.left + p % kSide - 1;
      const bool inside = i >= 0 && i < s.height && j >= 0 && j < s.width;
      source[p] = inside ? slice + (i * s.width + j) * s.inputs : zeros;
    }
    const auto put = [=](int64_t c) {
      return [to = v + c, stride](int p, Floats value) { store(to + p * stride, value); };
    };
    int64_t c = 0;
    for (; c + kWidth <= s.inputs; c += kWidth)
      transform_input<T>(source, c, kWidth, put(c));
    if (c < s.inputs) transform_input<T>(source, c, s.inputs - c, put(c));
  }

  void write(int64_t tile, int64_t z, int64_t phase, int64_t first, int64_t n, const float* m,
             int64_t stride) const {
    const Corner to = corner(tile);
    const int64_t slices = (to.image * s.depth + z) * z_scale + phase / 4;
    const int64_t wide = s.width * s.scale, origin = phase / 2 % 2 * wide + phase % 2;
    T* slice = y + (slices * s.height * s.scale * wide + origin) * s.outputs;
    T* target[kTile * kTile];
    for (int q = 0; q < kTile * kTile; ++q) {
      const int64_t i = to.top + q / kTile, j = to.left + q % kTile;
      const bool inside = i < s.height && j < s.width;
      target[q] = inside ? slice + (i * wide + j) * s.scale * s.outputs : nullptr;
    }
    const int64_t end = std::min((first + n) * kLanes, s.outputs);
    for (int64_t o = first * kLanes; o < end; o += kWidth, m += kWidth) {
      const int64_t some = s.outputs - o;
      if (some >= kWidth)
        transform_output<T>(m, stride, load(bias + o), target, o, kWidth);
      else
        transform_output<T>(m, stride, load(bias + o, some), target, o, some);
    }
  }
};
