// Entries of the library, and the packing of plain weights; see convolution.h and gradient.h.

#include "convolution.h"
#include "gradient.h"

// Plain weights to the layout of the products, rounded to nearest.
template <typename T>
struct Packing {
  static constexpr int64_t kPer = 4 / sizeof(T);  // inputs in a word
  const int64_t inputs, outputs, taps;
  const Strides from;
  const float* w;

  const int64_t words = divided(inputs, kPer), vectors = divided(outputs, kLanes);

  int64_t bytes() const { return vectors * kPoints * taps * words * kLanes * 4; }  // of u

  void run(uint32_t* u, int threads) const {
    const int64_t blocks = divided(inputs, kWidth);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t task = 0; task < vectors * taps * blocks; ++task)
      for (int64_t l = 0; l < kLanes; l += kWidth)
        block(task / blocks / taps, l, task / blocks % taps, task % blocks * kWidth, u);
  }

  // kWidth outputs of as many inputs.
  void block(int64_t vector, int64_t lane, int64_t tap, int64_t input, uint32_t* u) const {
    const int64_t output = vector * kLanes + lane;
    const int ins = int(std::min<int64_t>(kWidth, inputs - input));
    const int outs = int(std::clamp<int64_t>(outputs - output, 0, kWidth));
    const float* at = w + output * from.outputs + input * from.inputs + tap * from.z;
    Floats plain[kWidth][3][3];
    for (int y = 0; y < 3; ++y)
      for (int x = 0; x < 3; ++x) {
        Floats rows[kWidth];
        read(at + y * from.y + x * from.x, ins, outs, rows);
        for (int c = 0; c < kWidth; ++c) plain[c][y][x] = rows[c];
      }
    u += ((vector * kPoints * taps + tap) * words + input / kPer) * kLanes + lane;
    const int64_t point = taps * words * kLanes;
    for (int c = 0; c < ins; c += kPer, u += kLanes) {
      if constexpr (kPer == 1) {
        transform_filter(
            plain[c], [&](int p, Floats value) { store(u + p * point, (Words)value); });
      } else {
        Floats first[kPoints];
        transform_filter(plain[c], [&](int p, Floats value) { first[p] = value; });
        transform_filter(plain[c + 1], [&](int p, Floats value) {
          store(u + p * point, paired(first[p], value));
        });
      }
    }
  }

  // One tap: rows of inputs, lanes of outputs; zero past the last of either.
  void read(const float* at, int ins, int outs, Floats* rows) const {
    if (from.outputs == 1) {
      for (int c = 0; c < kWidth; ++c) rows[c] = load(at + c * from.inputs, c < ins ? outs : 0);
    } else if (from.inputs == 1) {
      for (int o = 0; o < kWidth; ++o) rows[o] = load(at + o * from.outputs, o < outs ? ins : 0);
      transpose(rows);
    } else {
      for (int c = 0; c < kWidth; ++c)
        for (int o = 0; o < kWidth; ++o)
          rows[c][o] = c < ins && o < outs ? at[c * from.inputs + o * from.outputs] : 0;
    }
  }
};

// x, y, dy: float32, or bfloat16 where is_bf16. Plain weights: [outputs, inputs, taps, 3, 3]
// float32 with any strides, in elements.

// body(T{})
template <typename Body>
void by_type(int is_bf16, Body body) {
  is_bf16 ? body(bf16{}) : body(float{});
}

// x -> y; u: as ddiff.kernels.winograd.pack lays it out.
extern "C" void ddiff_winograd(const void* x, const uint32_t* u, const float* bias, void* y,
                               int is_bf16, const Shape* s, int threads) {
  by_type(is_bf16, [&](auto t) {
    using T = decltype(t);
    Convolution<T>{*s, static_cast<const T*>(x), u, bias, static_cast<T*>(y)}.run(threads);
  });
}

// x -> y by plain weights.
extern "C" void ddiff_winograd_plain(const void* x, const float* weight, const Strides* strides,
                                     const float* bias, void* y, int is_bf16, const Shape* s,
                                     int threads) {
  by_type(is_bf16, [&](auto t) {
    using T = decltype(t);
    const Packing<T> packing{s->inputs, s->outputs, s->taps, *strides, weight};
    uint32_t* u = reinterpret_cast<uint32_t*>(scratch<Use::shared>(packing.bytes()));
    packing.run(u, threads);
    Convolution<T>{*s, static_cast<const T*>(x), u, bias, static_cast<T*>(y)}.run(threads);
  });
}

// x, dy -> dw, a plain weight, and db [outputs].
extern "C" void ddiff_winograd_gradient(const void* x, const void* dy, float* dw,
                                        const Strides* strides, float* db, int is_bf16,
                                        const Shape* s, int threads) {
  by_type(is_bf16, [&](auto t) {
    using T = decltype(t);
    const T *in = static_cast<const T*>(x), *out = static_cast<const T*>(dy);
    WeightGradient<T>{*s, in, out, *strides, dw, db}.run(threads);
  });
}
