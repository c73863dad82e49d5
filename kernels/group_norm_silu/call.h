// What Python hands over: __init__.py packs the fields of Call in this order.
#pragma once
#include "math.h"

enum Type { FLOAT32, BFLOAT16, FLOAT16 };

// a = weight (1 + scale), b = bias (1 + scale) + shift; scale and shift may be absent (null).
struct Affine {
    const float *weight, *bias;
    const void *scale, *shift;
    int64_t scale_stride, shift_stride;  // from sample to sample
    int64_t type;                        // of scale and shift

    SHARED float load(const void* values, int64_t i) const {
        if (type == FLOAT32) return static_cast<const float*>(values)[i];
        if (type == BFLOAT16) return widen(static_cast<const Bfloat*>(values)[i]);
        return widen(static_cast<const Half*>(values)[i]);
    }
    SHARED float factor(int64_t sample, int64_t c) const {
        return scale ? 1 + load(scale, sample * scale_stride + c) : 1;
    }
    SHARED float a(int64_t sample, int64_t c) const { return weight[c] * factor(sample, c); }
    SHARED float b(int64_t sample, int64_t c) const {
        return bias[c] * factor(sample, c) +
               (shift ? load(shift, sample * shift_stride + c) : 0);
    }
};

struct Shape {
    int64_t batch, space, channels, groups;

    SHARED int each() const { return int(channels) / int(groups); }  // channels in a group
};

struct Call {
    const void *x, *dy;  // [B, S, C]; dy, da and db in backward only
    void* out;           // y or dx
    float *mean, *rstd;  // [B, G]
    float *da, *db;      // [B, C]
    Affine affine;
    Shape shape;
    int64_t type, silu;
    double eps;
    float* workspace;  // from here on: CUDA only
    int64_t chunks;    // of a sample, at most
    void* stream;
};
