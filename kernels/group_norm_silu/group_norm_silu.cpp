// Group norm, scale and shift, SiLU on channels-last maps [B, S, C], forward and backward.
#include <cmath>

#include "lanes.h"
#include "plan.h"

// Forward: y = silu(a (x - mean) rstd + b).

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

// Backward: the gradients of y = silu(z), z = a n + b, n = (x - mean) rstd: with sums over S
// da = sum dz n and db = sum dz, and with means over a group
// dx = rstd (a dz - mean(a dz) - n mean(a dz n)).

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

namespace {

template <template <bool, typename> class Work>
int run(const Call& call) {
    auto with = [&](auto value) {
        using T = decltype(value);
        if (call.silu) {
            Work<true, T> work{call};
            for_each_sample(work);
        } else {
            Work<false, T> work{call};
            for_each_sample(work);
        }
    };
    if (call.type == FLOAT32) with(float());
    if (call.type == BFLOAT16) with(Bfloat());
    if (call.type == FLOAT16) with(Half());
    return 0;
}

}  // namespace

extern "C" int ddiff_group_norm_silu(const Call* call) { return run<Forward>(*call); }

extern "C" int ddiff_group_norm_silu_backward(const Call* call) { return run<Backward>(*call); }
