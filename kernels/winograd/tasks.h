// What the tasks of one call share: sizes, ranges, memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>

inline int64_t divided(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Shape {
  int64_t batch, depth, height, width, inputs, outputs;
  int64_t taps;   // along the first axis of 3D: 3, upsampled 2; in 2D 1
  int64_t scale;  // of y to x: 1 or 2
};

struct Strides {
  int64_t outputs, inputs, z, y, x;  // of plain weights, in elements
};

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

inline Range part(int64_t i, int64_t parts, int64_t whole) {
  return {i * whole / parts, (i + 1) * whole / parts};
}

struct Freed {
  void operator()(char* p) const { std::free(p); }
};

enum class Use { own, shared };  // by a thread alone, by all threads of a call

template <Use>
char* scratch(int64_t bytes) {  // kept by the thread from call to call
  thread_local std::unique_ptr<char, Freed> kept;
  thread_local int64_t size = 0;
  if (size < bytes) {
    size = divided(bytes, 4096) * 4096;
    kept.reset(static_cast<char*>(std::aligned_alloc(4096, size)));
  }
  return kept.get();
}
