// Entries of the library; see convolution.h, gradient.h, packing.h.

#include "convolution.h"
#include "gradient.h"
#include "packing.h"

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
