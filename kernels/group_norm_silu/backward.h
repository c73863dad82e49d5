// The gradients of y = silu(z), z = a n + b, n = (x - mean) rstd, on the CPU: with sums over S
// da = sum dz n and db = sum dz, and with means over a group
// dx = rstd (a dz - mean(a dz) - n mean(a dz n)).
#pragma once
#include "lanes.h"
#include "plan.h"

template <bool SILU, typename T, typename V>
V output_gradient(V dy, V z) {
    return SILU ? dy * silu_slope(z, sigmoid<T>(z)) : dy;
}

// rows: mean, gain = a rstd, b of every column; adds sum dz (x - mean) and sum dz, float32.
template <bool SILU, typename T>
void add_gradients(const T* x, const T* dy, int64_t columns, int64_t width, const float* rows,
                   float* da, float* db) {
    const float *mean = rows, *gain = rows + width, *offset = rows + 2 * width;
    for_each_value(columns, [=](int64_t c, auto zero) {
        auto u = load(x + c, zero) - load(mean + c, zero);
        auto z = u * load(gain + c, zero) + load(offset + c, zero);
        auto dz = output_gradient<SILU, T>(load(dy + c, zero), z);
        store(da + c, load(da + c, zero) + dz * u);
        store(db + c, load(db + c, zero) + dz);
    });
}

// dx = gain dz + p u + q with u = x - mean; rows: mean, gain, b, p, q of every column.
template <bool SILU, typename T>
void transform_gradient(const T* x, const T* dy, T* dx, int64_t size, int64_t width,
                        const float* rows) {
    const float *mean = rows, *gain = rows + width, *offset = rows + 2 * width;
    const float *p = rows + 3 * width, *q = rows + 4 * width;
    for (int64_t i = 0; i < size; i += width)
        for_each_value(std::min(width, size - i), [=](int64_t c, auto zero) {
            auto u = load(x + i + c, zero) - load(mean + c, zero);
            auto z = u * load(gain + c, zero) + load(offset + c, zero);
            auto dz = output_gradient<SILU, T>(load(dy + i + c, zero), z);
            auto rest = load(p + c, zero) * u + load(q + c, zero);
            store(dx + i + c, load(gain + c, zero) * dz + rest);
        });
}

template <bool SILU, typename T>
struct Backward {
    const Call& call;
    Plan plan{call.shape};
    const T *x = static_cast<const T*>(call.x), *dy = static_cast<const T*>(call.dy);
    T* dx = static_cast<T*>(call.out);
    int64_t width = plan.width;
    Rows<float> sums{plan, 2};          // of a tile: dz (x - mean), dz
    Rows<double> totals{plan, 2};       // of a chunk
    Rows<float> coefficients{plan, 5};  // mean, gain, b, p, q

    void first(int64_t slot, int64_t b, int64_t k) {
        float *s = sums.at(slot, k), *rows = coefficients.at(slot, k);
        double* total = totals.at(slot, k);
        for (int64_t g = 0, c = 0; g < plan.groups; ++g)
            for (; c < (g + 1) * plan.each(); ++c) {
                rows[c] = call.mean[b * plan.groups + g];
                rows[width + c] = call.affine.a(b, c) * call.rstd[b * plan.groups + g];
                rows[2 * width + c] = call.affine.b(b, c);
            }
        for (int row = 0; row < 3; ++row) plan.repeat(rows + row * width);
        std::fill_n(total, 2 * width, 0.0);
        int64_t start = plan.start(b, k);
        for_each_tile(plan.size(k), width, [&](int64_t at, int64_t n, int64_t count, int64_t) {
            std::fill_n(s, 2 * width, 0.0f);
            for (int64_t i = start + at; i < start + at + n * width; i += width)
                add_gradients<SILU>(x + i, dy + i, count, width, rows, s, s + width);
            for (int64_t c = 0; c < 2 * width; ++c) total[c] += s[c];
        });
    }

    void middle(int64_t slot, int64_t b) {
        for (int64_t g = 0; g < plan.groups; ++g) {
            double rstd = call.rstd[b * plan.groups + g], mean_a = 0, mean_b = 0;
            for (int64_t c = g * plan.each(); c < (g + 1) * plan.each(); ++c) {
                double a = call.affine.a(b, c) / (double(plan.space) * plan.each());
                double da = rstd * total(slot, c), db = total(slot, width + c);
                call.da[b * plan.channels + c] = float(da);
                call.db[b * plan.channels + c] = float(db);
                mean_a += a * da;
                mean_b += a * db;
            }
            for (int64_t k = 0; k < plan.chunks; ++k) {
                float* p = coefficients.at(slot, k) + 3 * width + g * plan.each();
                std::fill_n(p, plan.each(), float(-rstd * rstd * mean_a));
                std::fill_n(p + width, plan.each(), float(-rstd * mean_b));
            }
        }
        for (int64_t k = 0; k < plan.chunks; ++k)
            for (int row = 3; row < 5; ++row)
                plan.repeat(coefficients.at(slot, k) + row * width);
    }

    double total(int64_t slot, int64_t start) const {  // over the chunks and their copies
        double sum = 0;
        for (int64_t k = 0; k < plan.chunks; ++k)
            for (int64_t j = 0; j < plan.copies; ++j)
                sum += totals.at(slot, k)[start + j * plan.channels];
        return sum;
    }

    void last(int64_t slot, int64_t b, int64_t k) {
        int64_t start = plan.start(b, k);
        const float* rows = coefficients.at(slot, k);
        transform_gradient<SILU>(x + start, dy + start, dx + start, plan.size(k), width, rows);
    }
};
