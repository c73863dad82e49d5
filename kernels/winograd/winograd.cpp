// Entries of the library; see convolution.h, gradient.h, packing.h.

#include "convolution.h"
#include "gradient.h"
#include "packing.h"

namespace {

// body(T{}, tile height, tile width), constants both; 1 where there is no such tile.
template <typename Body>
int by_tile(int is_bf16, int mh, int mw, Body body) {
  const auto typed = [&](auto h, auto w) {
    is_bf16 ? body(bf16{}, h, w) : body(float{}, h, w);
    return 0;
  };
  constexpr std::integral_constant<int, 2> two;
  constexpr std::integral_constant<int, 4> four;
  if (mh == 2 && mw == 2) return typed(two, two);
  if (mh == 2 && mw == 4) return typed(two, four);
  if (mh == 4 && mw == 4) return typed(four, four);
  return 1;
}

}  // namespace

// Every entry returns 0, or 1 where there is no such tile. x, y, dy: float32, or bfloat16 where
// is_bf16. Plain weights: [outputs, inputs, taps, 3, 3] float32 with any strides, in elements.

// x -> y; u: as ddiff.kernels.winograd.pack lays it out.
extern "C" int ddiff_winograd(const void* x, const uint32_t* u, const float* bias, void* y,
                              int is_bf16, int mh, int mw, int64_t batch, int64_t depth,
                              int64_t height, int64_t width, int64_t inputs, int64_t outputs,
                              int64_t taps, int64_t scale, int threads) {
  const Shape s{batch, depth, height, width, inputs, outputs, taps, scale};
  return by_tile(is_bf16, mh, mw, [&](auto t, auto h, auto w) {
    using T = decltype(t);
    Convolution<T, h, w>{s, static_cast<const T*>(x), u, bias, static_cast<T*>(y)}.run(threads);
  });
}

// x -> y by plain weights.
extern "C" int ddiff_winograd_plain(const void* x, const float* weight, const Strides* strides,
                                    const float* bias, void* y, int is_bf16, int mh, int mw,
                                    int64_t batch, int64_t depth, int64_t height, int64_t width,
                                    int64_t inputs, int64_t outputs, int64_t taps, int threads) {
  const Shape s{batch, depth, height, width, inputs, outputs, taps, 1};
  return by_tile(is_bf16, mh, mw, [&](auto t, auto h, auto w) {
    using T = decltype(t);
    const Packing<T, h, w> packing{inputs, outputs, taps, *strides, weight};
    uint32_t* u = reinterpret_cast<uint32_t*>(scratch<Use::shared>(packing.bytes()));
    packing.run(u, threads);
    Convolution<T, h, w>{s, static_cast<const T*>(x), u, bias, static_cast<T*>(y)}.run(threads);
  });
}

// x, dy -> dw, a plain weight, and db [outputs].
extern "C" int ddiff_winograd_gradient(const void* x, const void* dy, float* dw,
                                       const Strides* strides, float* db, int is_bf16, int mh,
                                       int mw, int64_t batch, int64_t depth, int64_t height,
                                       int64_t width, int64_t inputs, int64_t outputs,
                                       int64_t taps, int threads) {
  const Shape s{batch, depth, height, width, inputs, outputs, taps, 1};
  return by_tile(is_bf16, mh, mw, [&](auto t, auto h, auto w) {
    using T = decltype(t);
    WeightGradient<T, h, w>{s,        static_cast<const T*>(x), static_cast<const T*>(dy),
                            *strides, dw,                       db}
        .run(threads);
  });
}
