// What CUDA's errors mean, for messages.
#pragma once

#include <cuda_runtime.h>

extern "C" const char* ddiff_error_text(int status) {
  return cudaGetErrorString(static_cast<cudaError_t>(status));
}
