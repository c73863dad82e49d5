// For C++ and CUDA: number formats, the arithmetic of one value, and what Python hands over.
#pragma once
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define SHARED __host__ __device__ __forceinline__
#else
#define SHARED inline
#endif

struct Bfloat {
    uint16_t bits;
};

struct Half {
    uint16_t bits;
};

template <typename To, typename From>
SHARED To bit_cast(From value) {
    static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
    To result;
    memcpy(&result, &value, sizeof(To));
    return result;
}

// What follows holds for one value or many: V is float and W uint32_t, or both are vectors.

template <typename V, typename W>
SHARED V bfloat_to_float(W bits) {
    return bit_cast<V>(bits << 16);
}

template <typename W, typename V>
SHARED W float_to_bfloat(V value) {  // to nearest, ties to even
    W bits = bit_cast<W>(value), rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded;  // not a number
}

template <typename V, typename W>
SHARED V half_to_float(W bits) {
    W magnitude = (bits & 0x7fff) << 13;
    W finite = bit_cast<W>(bit_cast<V>(magnitude) * 0x1p112f);
    W result = magnitude < 0x0f800000 ? finite : finite | 0x7f800000;  // infinity, not a number
    return bit_cast<V>(result | (bits & 0x8000) << 16);
}

template <typename W, typename V>
SHARED W float_to_half(V value) {  // to nearest, ties to even
    W bits = bit_cast<W>(value), magnitude = bits & 0x7fffffff;
    W normal = (magnitude + 0xc8000fff + (magnitude >> 13 & 1)) >> 13;  // bias 127 to 15
    W subnormal = bit_cast<W>(bit_cast<V>(magnitude) + 0.5f) - 0x3f000000;
    W infinite = W() + 0x7c00, none = infinite | 0x0200;
    W result = magnitude < 0x38800000 ? subnormal : normal;
    result = magnitude < 0x47800000 ? result : infinite;
    return (magnitude > 0x7f800000 ? none : result) | (bits >> 16 & 0x8000);
}

constexpr float LOG2_E = 1.44269504f;

template <typename V>
SHARED V power_of_two(V x) {  // x in [0, 1]; minimax of degree 5, relative error 8e-8
    V power = 1.877576671e-03f * x + 8.989340340e-03f;
    power = power * x + 5.582631759e-02f;
    power = power * x + 2.401536173e-01f;
    power = power * x + 6.931530731e-01f;
    return power * x + 9.999999251e-01f;
}

template <typename V>
SHARED V coarse_power_of_two(V x) {  // the same of degree 3, relative error 7.5e-5
    V power = 7.802452269e-02f * x + 2.260671554e-01f;
    power = power * x + 6.958335405e-01f;
    return power * x + 9.999252186e-01f;
}

// 1 + e^-z: sigmoid(z) = 1 / (1 + e^-z), silu(z) = z / (1 + e^-z).
template <typename W, typename V>
SHARED V portable_one_plus_exp(V z) {
    W bits = bit_cast<W>(z), size = bits & 0x7fffffff, most = W() + 0x42ae0000;  // 87
    size = size < most ? size : most;
    V t = bit_cast<V>(size | (bits & 0x80000000)) * -LOG2_E, shifted = t - 0.5f + 12582912.0f;
    W rest = bit_cast<W>(power_of_two(t - (shifted - 12582912.0f)));  // t - floor(t)
    return bit_cast<V>(rest + (bit_cast<W>(shifted) << 23)) + 1;      // 1.5 2^23: its last bits
}

// The derivative of silu(z) = z sigmoid(z).
template <typename V>
SHARED V silu_slope(V z, V sigmoid) {
    return sigmoid + z * sigmoid * (1.0f - sigmoid);
}

SHARED float widen(float value) { return value; }

SHARED float widen(Bfloat value) { return bfloat_to_float<float>(uint32_t(value.bits)); }

SHARED float widen(Half value) {
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half(value.bits));
#else
    return half_to_float<float>(uint32_t(value.bits));
#endif
}

template <typename T>
SHARED T narrow(float value);

template <>
SHARED float narrow<float>(float value) {
    return value;
}

template <>
SHARED Bfloat narrow<Bfloat>(float value) {
#ifdef __CUDA_ARCH__
    return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
    return {uint16_t(float_to_bfloat<uint32_t>(value))};
#endif
}

template <>
SHARED Half narrow<Half>(float value) {
#ifdef __CUDA_ARCH__
    return {__half_as_ushort(__float2half_rn(value))};
#else
    return {uint16_t(float_to_half<uint32_t>(value))};
#endif
}

SHARED float one_plus_exp(float z) {
#ifdef __CUDA_ARCH__
    return 1 + __expf(-z);
#else
    return portable_one_plus_exp<uint32_t>(z);
#endif
}

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

// The fields that __init__.py packs, in this order.
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
};
