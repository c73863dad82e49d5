// y = silu(a (x - mean) rstd + b) on the CPU.
#pragma once
#include <cmath>

#include "lanes.h"
#include "plan.h"

template <int ROWS, typename T>
void add_rows(const T* x, const T* shift, int64_t columns, int64_t width, float* s1, float* s2) {
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) {
        float center = widen(shift[c]), sum = 0, square = 0;
        for (int r = 0; r < ROWS; ++r) {
            float d = widen(x[r * width + c]) - center;
            sum += d;
            square += d * d;
        }
        s1[c] += sum;
        s2[c] += square;
    }
}

// Mean and sum of squared deviations of every column. A tile's sums are of x minus its first
// row: sum (x - x_first)^2 is at most (rows + 1) times that about the mean, so no large mean and
// no outlier costs more than that factor of precision. Tiles join in float64 (Chan et al. 1983).
template <typename T>
void moments(const T* x, int64_t size, int64_t width, float* s1, float* s2, double* mean,
             double* m2) {
    std::fill_n(mean, width, 0.0);
    std::fill_n(m2, width, 0.0);
    for_each_tile(size, width, [&](int64_t offset, int64_t rows, int64_t columns, int64_t before) {
        const T* tile = x + offset;
        std::fill_n(s1, columns, 0.0f);
        std::fill_n(s2, columns, 0.0f);
        int64_t r = 0;
        for (; r + 8 <= rows; r += 8)
            add_rows<8>(tile + r * width, tile, columns, width, s1, s2);
        for (; r < rows; ++r) add_rows<1>(tile + r * width, tile, columns, width, s1, s2);
        double n = rows, part = n / (before + n), between = before * part, inverse = 1 / n;
#pragma omp simd
        for (int64_t c = 0; c < columns; ++c) {
            double sum = s1[c], delta = widen(tile[c]) + sum * inverse - mean[c];
            mean[c] += delta * part;
            m2[c] += s2[c] - sum * sum * inverse + delta * delta * between;
        }
    });
}

template <bool SILU, typename T>
void transform(const T* x, T* y, int64_t size, int64_t width, const float* gain,
               const float* offset) {
    for (int64_t i = 0; i < size; i += width)
        for_each_value(std::min(width, size - i), [=](int64_t c, auto zero) {
            auto z = load(x + i + c, zero) * load(gain + c, zero) + load(offset + c, zero);
            store(y + i + c, SILU ? z * sigmoid<T>(z) : z);
        });
}

template <bool SILU, typename T>
struct Forward {
    const Call& call;
    Plan plan{call.shape};
    const T* x = static_cast<const T*>(call.x);
    T* y = static_cast<T*>(call.out);
    int64_t width = plan.width;
    Rows<float> sums{plan, 2};      // of a tile
    Rows<double> columns{plan, 3};  // mean, sum of squared deviations, count
    Rows<float> coefficients{plan, 2};

    void first(int64_t slot, int64_t b, int64_t k) {
        float* s = sums.at(slot, k);
        double* mean = columns.at(slot, k);
        const T* start = x + plan.start(b, k);
        int64_t size = plan.size(k), rest = size % width;
        moments(start, size, width, s, s + width, mean, mean + width);
        std::fill_n(mean + 2 * width, width, double(size / width));
        std::fill_n(mean + 2 * width, rest, double(size / width + 1));
    }

    void middle(int64_t slot, int64_t b) {
        float* gain = coefficients.at(slot, 0);
        for (int64_t g = 0; g < plan.groups; ++g) {
            double sum = 0, m2 = 0, count = double(plan.space) * plan.each();
            for_each_column(plan, g, [&](int64_t k, int64_t c) {
                const double* column = columns.at(slot, k) + c;
                sum += column[2 * width] * column[0];
            });
            double mean = sum / count;
            for_each_column(plan, g, [&](int64_t k, int64_t c) {
                const double* column = columns.at(slot, k) + c;
                double delta = column[0] - mean;
                m2 += column[width] + column[2 * width] * delta * delta;
            });
            double rstd = 1 / std::sqrt(m2 / count + call.eps);
            call.mean[b * plan.groups + g] = float(mean);
            call.rstd[b * plan.groups + g] = float(rstd);
            for (int64_t c = g * plan.each(); c < (g + 1) * plan.each(); ++c) {
                double a = rstd * call.affine.a(b, c);
                gain[c] = float(a);
                gain[width + c] = float(call.affine.b(b, c) - mean * a);
            }
        }
        plan.repeat(gain);
        plan.repeat(gain + width);
    }

    void last(int64_t slot, int64_t b, int64_t k) {
        const float* gain = coefficients.at(slot, 0);
        int64_t start = plan.start(b, k);
        transform<SILU>(x + start, y + start, plan.size(k), width, gain, gain + width);
    }
};
