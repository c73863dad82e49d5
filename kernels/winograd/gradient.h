// Gradient of the weights and of the bias, in the points of Winograd's F(4 x 4, 3 x 3):
// dw = G^T (sum over tiles of (A dy A^T) * (B^T d B)) G.
//
// Tiles come in panels, so that v and z, the points of x and of dy, need little memory and are
// found in a cache. A task has some outputs and some inputs: for every point it multiplies
// z [outputs, tiles] by v [tiles, inputs], and adds the transformed sums to dw. Panels depend on
// the sizes alone, so sums do not depend on the number of threads.
#pragma once

#include "product.h"
#include "tasks.h"
#include "transforms.h"

constexpr int64_t kPanel = 2 << 20;  // bytes of v and z
constexpr int64_t kSums = 64;        // products that are at least summed before a transform
constexpr int64_t kRowVectors = 3;   // of outputs in one task, at most


template <typename T>
struct WeightGradient {
  static constexpr int64_t kPer = 4 / sizeof(T);  // tiles in a word
  const Shape s;
  const T *x, *dy;
  const Strides to;
  float *dw, *db;

  const int64_t tiles_y = divided(s.height, kTile), tiles_x = divided(s.width, kTile);
  const int64_t tiles = s.batch * tiles_y * tiles_x, groups = divided(tiles, kPer);
  const int64_t ins = divided(s.inputs, kLanes), outs = divided(s.outputs, kLanes);
  const int64_t panels = divided(groups, most());
  const int64_t words = divided(groups, panels) * s.depth;  // of a panel
  const int64_t point = (words + 1) * kLanes;  // a line between points, as in the convolution

  int64_t most() const {  // groups of tiles, all slices, in a panel
    const int64_t bytes = kPoints * s.depth * (ins + outs) * kLanes * 4;
    return std::max(kPanel / bytes, divided(kSums, s.depth));
  }

  void run(int threads) const {
    const int64_t maps = (ins + outs) * kPoints * point, blank = std::max(ins, outs) * kLanes;
    char* shared = scratch<Use::shared>((maps + blank + words * outs * kLanes) * 4);
    uint32_t* v = reinterpret_cast<uint32_t*>(shared);
    uint32_t *z = v + ins * kPoints * point, *zeros = v + maps;
    float* sums = reinterpret_cast<float*>(zeros + blank);  // of dy [words, outputs]
    std::memset(zeros, 0, blank * 4);

    const int64_t columns = divided(ins, kVectors);
    int64_t rows = kRowVectors;
    while (rows > 1 && s.taps * columns * divided(outs, rows) < 4 * threads) --rows;
    const int64_t blocks = divided(outs, rows), tasks = s.taps * columns * blocks;
#pragma omp parallel num_threads(threads)
    for (int64_t panel = 0; panel < panels; ++panel) {
      const Range g = part(panel, panels, groups);
      const int64_t count = g.size() * s.depth;
#pragma omp for schedule(dynamic, 2)
      for (int64_t k = 0; k < count; ++k)
        read(g.begin + k % g.size(), k / g.size(), reinterpret_cast<T*>(zeros), v + k * kLanes,
             z + k * kLanes, sums + k * outs * kLanes);
#pragma omp for schedule(static) nowait
      for (int64_t o = 0; o < outs; ++o) add_bias(o, count, sums, panel > 0);
#pragma omp for schedule(dynamic)
      for (int64_t task = 0; task < tasks; ++task)
        block(task / columns / blocks, part(task / columns % blocks, blocks, outs),
              part(task % columns, columns, ins), g.size(), v, z, panel > 0);
    }
  }

  // One word: a group's tiles in one slice.
  void read(int64_t group, int64_t slice, const T* zeros, uint32_t* v, uint32_t* z,
            float* sum) const {
    const T *in[kPer][kPoints], *out[kPer][kTile * kTile];
    for (int64_t i = 0; i < kPer; ++i) {
      const int64_t tile = group * kPer + i, image = tile / (tiles_x * tiles_y);
      const int64_t top = tile / tiles_x % tiles_y * kTile, left = tile % tiles_x * kTile;
      const int64_t origin = (image * s.depth + slice) * s.height * s.width;
      const auto place = [&](const T* map, int64_t channels, int64_t y, int64_t x) {
        const bool inside = y >= 0 && y < s.height && x >= 0 && x < s.width && tile < tiles;
        return inside ? map + (origin + y * s.width + x) * channels : zeros;
      };
      for (int p = 0; p < kPoints; ++p)
        in[i][p] = place(x, s.inputs, top + p / kSide - 1, left + p % kSide - 1);
      for (int q = 0; q < kTile * kTile; ++q)
        out[i][q] = place(dy, s.outputs, top + q / kTile, left + q % kTile);
    }
    each_vector(s.inputs, [&](int64_t c, int n) {
      transformed(v, c, [&](int64_t i, auto put) {
        transform_input<T>(in[i], c, n, put);
      });
    });
    each_vector(s.outputs, [&](int64_t o, int n) {
      Floats total = {};
      transformed(z, o, [&](int64_t i, auto put) {
        total += transform_gradient<T>(out[i], o, n, put);
      });
      store(sum + o, total);
    });
  }

  template <typename Body>
  static INLINE void each_vector(int64_t channels, Body body) {
    int64_t c = 0;
    for (; c + kWidth <= channels; c += kWidth) body(c, kWidth);
    if (c < channels) body(c, int(channels - c));
  }

  // Points of the tiles of a word, by transform(tile, put).
  template <typename Transform>
  INLINE void transformed(uint32_t* map, int64_t channel, Transform transform) const {
    uint32_t* to = map + channel / kLanes * kPoints * point + channel % kLanes;
    if constexpr (kPer == 1) {
      transform(0, [=](int p, Floats value) { store(to + p * point, (Words)value); });
    } else {
      Floats first[kPoints];
      transform(0, [&](int p, Floats value) { first[p] = value; });
      transform(1, [&](int p, Floats value) { store(to + p * point, paired(first[p], value)); });
    }
  }

  void add_bias(int64_t o, int64_t count, const float* sums, bool more) const {
    float total[kLanes] = {};
    for (int64_t k = 0; k < count; ++k)
      for (int i = 0; i < kLanes; ++i) total[i] += sums[(k * outs + o) * kLanes + i];
    for (int64_t i = 0; i < std::min<int64_t>(kLanes, s.outputs - o * kLanes); ++i)
      db[o * kLanes + i] = total[i] + (more ? db[o * kLanes + i] : 0);
  }

  void block(int64_t tap, Range o, Range c, int64_t size, const uint32_t* v, const uint32_t* z,
             bool more) const {
    // dy of slice z meets x of slice z + shift.
    const int64_t shift = s.taps > 1 ? tap - 1 : 0;
    const int64_t depth = (s.depth - std::abs(shift)) * size;
    v += std::max<int64_t>(shift, 0) * size * kLanes;
    z += std::max<int64_t>(-shift, 0) * size * kLanes;
    const int64_t n = c.size(), row = n * kLanes;
    const int64_t all = std::min(o.end * kLanes, s.outputs) - o.begin * kLanes;
    const int64_t stride = all * row + kLanes;
    float* m = reinterpret_cast<float*>(scratch<Use::own>(kPoints * stride * sizeof(float)));
    for (int64_t p = 0; p < kPoints; ++p)
      for (int64_t r = 0; r < all; r += kLanes)
        multiply<T, kLanes>(
            n, Product{std::min<int64_t>(kLanes, all - r), 1, depth, 1, 0, kPoints * point},
            z + ((o.begin + r / kLanes) * kPoints + p) * point, v + (c.begin * kPoints + p) * point,
            m + p * stride + r * row);
    for (int64_t r = 0; r < all; ++r)
      for (int64_t i = 0; i < row; i += kWidth)
        write(m + r * row + i, stride, o.begin * kLanes + r, c.begin * kLanes + i, tap, more);
  }

  void write(const float* m, int64_t stride, int64_t o, int64_t c, int64_t tap, bool more) const {
    const int n = int(std::min<int64_t>(kWidth, s.inputs - c));
    if (n <= 0) return;
    Floats w[3][3];
    transform_products(m, stride, w);
    float* target = dw + o * to.outputs + c * to.inputs + tap * to.z;
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 3; ++j) {
        float* place = target + i * to.y + j * to.x;
        if (to.inputs == 1) {
          store(place, more ? w[i][j] + load(place, n) : w[i][j], n);
        } else {
          for (int l = 0; l < n; ++l)
            place[l * to.inputs] = w[i][j][l] + (more ? place[l * to.inputs] : 0);
        }
      }
  }
};
