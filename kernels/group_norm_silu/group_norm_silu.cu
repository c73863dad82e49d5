// Group norm, scale and shift, SiLU on channels-last maps [B, S, C], forward and backward.
// A block takes a chunk of the rows of one sample; a thread takes N neighbouring channels of
// every `down`-th row. All sums have a fixed order: no atomics.
#include <algorithm>

#include "call.h"
#include "errors.h"

namespace {

constexpr int THREADS = 256, WARPS = THREADS / 32;

template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
    T values[N];
};

// A block is one of `chunks` of a sample's rows; its threads are `down` rows of `across`.
struct Cut {
    int64_t rows;
    int chunks, across, down;

    __device__ int64_t sample() const { return int(blockIdx.x) / chunks; }
    __device__ int chunk() const { return int(blockIdx.x) % chunks; }
    __device__ int64_t first_row() const { return chunk() * rows; }
    __device__ int64_t size(int k, int64_t space) const {
        return min(rows, space - k * rows);
    }
    __device__ int row() const { return int(threadIdx.x) / across; }
    __device__ int column() const { return int(threadIdx.x) % across; }
};

__device__ float warp_sum(float value) {
    for (int lane = 16; lane; lane /= 2) value += __shfl_xor_sync(0xffffffff, value, lane);
    return value;
}

struct Moments {
    float count, mean, m2;
};

// One warp joins the moments part(0), part(1), ...; the first is not empty.
template <typename Part>
__device__ Moments joined(int parts, Part part) {
    float center = part(0).mean, count = 0, sum = 0, m2 = 0;
    for (int i = threadIdx.x % 32; i < parts; i += 32) {
        Moments one = part(i);
        count += one.count;
        sum += one.count * (one.mean - center);
    }
    count = warp_sum(count);
    float mean = center + warp_sum(sum) / count;
    for (int i = threadIdx.x % 32; i < parts; i += 32) {
        Moments one = part(i);
        m2 += one.m2 + one.count * (one.mean - mean) * (one.mean - mean);
    }
    return {count, mean, warp_sum(m2)};
}

// partial [B, chunks, G]: mean and sum of squared deviations of a chunk's groups. A thread sums
// x minus its own first value: sum (x - x_first)^2 is at most (rows + 1) times that about the
// mean, which bounds what is lost.
template <typename T, int N>
__global__ void __launch_bounds__(THREADS, 2)
    chunk_moments(const T* __restrict__ x, float2* __restrict__ partial, Shape s, Cut cut) {
    extern __shared__ float shared[];  // [down, C] mean, [down, C] m2
    float *means = shared, *m2s = shared + cut.down * s.channels;
    int64_t size = cut.size(cut.chunk(), s.space);
    const T* map = x + (cut.sample() * s.space + cut.first_row()) * s.channels;
    if (cut.row() < cut.down) {
        for (int c = cut.column() * N; c < s.channels; c += cut.across * N) {
            float center[N], sum[N] = {}, square[N] = {}, count = 0;
            for (int i = 0; i < N; ++i)
                center[i] = cut.row() < size ? widen(map[cut.row() * s.channels + c + i]) : 0;
#pragma unroll 4
            for (int64_t r = cut.row(); r < size; r += cut.down) {
                auto pack = *reinterpret_cast<const Pack<T, N>*>(map + r * s.channels + c);
                for (int i = 0; i < N; ++i) {
                    float d = widen(pack.values[i]) - center[i];
                    sum[i] += d;
                    square[i] += d * d;
                }
                count += 1;
            }
            for (int i = 0; i < N; ++i) {
                float mean = sum[i] / fmaxf(count, 1);
                means[cut.row() * s.channels + c + i] = center[i] + mean;
                m2s[cut.row() * s.channels + c + i] = fmaxf(square[i] - sum[i] * mean, 0);
            }
        }
    }
    __syncthreads();
    for (int g = threadIdx.x / 32; g < s.groups; g += WARPS) {
        Moments all = joined(cut.down * s.each(), [&](int i) -> Moments {
            int row = i / s.each(), at = row * int(s.channels) + g * s.each() + i % s.each();
            int64_t count = row < size ? (size - row + cut.down - 1) / cut.down : 0;
            return {float(count), means[at], m2s[at]};
        });
        if (threadIdx.x % 32 == 0)
            partial[blockIdx.x * s.groups + g] = make_float2(all.mean, all.m2);
    }
}

template <typename T, int N>
__global__ void __launch_bounds__(THREADS, 2)
    transform(const T* __restrict__ x, T* __restrict__ y, const float2* __restrict__ partial,
              float* __restrict__ mean, float* __restrict__ rstd, Affine affine, Shape s, Cut cut,
              bool silu, float eps) {
    extern __shared__ float shared[];  // [G] mean, [G] rstd
    int64_t b = cut.sample(), size = cut.size(cut.chunk(), s.space);
    for (int g = threadIdx.x / 32; g < s.groups; g += WARPS) {
        Moments all = joined(cut.chunks, [&](int k) -> Moments {
            float2 part = partial[(b * cut.chunks + k) * s.groups + g];
            return {float(cut.size(k, s.space) * s.each()), part.x, part.y};
        });
        float inverse = 1 / sqrtf(all.m2 / all.count + eps);
        if (threadIdx.x % 32) continue;
        shared[g] = all.mean;
        shared[s.groups + g] = inverse;
        if (cut.chunk()) continue;
        mean[b * s.groups + g] = all.mean;
        rstd[b * s.groups + g] = inverse;
    }
    __syncthreads();
    if (cut.row() >= cut.down) return;
    for (int c = cut.column() * N; c < s.channels; c += cut.across * N) {
        float gain[N], offset[N];
        for (int i = 0; i < N; ++i) {
            int g = (c + i) / s.each();
            gain[i] = shared[s.groups + g] * affine.a(b, c + i);
            offset[i] = affine.b(b, c + i) - shared[g] * gain[i];
        }
        int64_t start = (b * s.space + cut.first_row()) * s.channels + c;
#pragma unroll 4
        for (int64_t r = cut.row(); r < size; r += cut.down) {
            auto pack = *reinterpret_cast<const Pack<T, N>*>(x + start + r * s.channels);
            for (int i = 0; i < N; ++i) {
                float z = widen(pack.values[i]) * gain[i] + offset[i];
                pack.values[i] = narrow<T>(silu ? z / one_plus_exp(z) : z);
            }
            *reinterpret_cast<Pack<T, N>*>(y + start + r * s.channels) = pack;
        }
    }
}

__device__ float output_gradient(float dy, float z, bool silu) {
    return silu ? dy * silu_slope(z, 1.0f / one_plus_exp(z)) : dy;
}

// partial [B, chunks, 2, C]: sums over a chunk of dz (x - mean) and of dz.
template <typename T, int N>
__global__ void __launch_bounds__(THREADS, 2)
    chunk_gradients(const T* __restrict__ dy, const T* __restrict__ x,
                    const float* __restrict__ mean, const float* __restrict__ rstd,
                    float* __restrict__ partial, Affine affine, Shape s, Cut cut, bool silu) {
    extern __shared__ float shared[];  // [down, 2, C]
    int64_t b = cut.sample(), size = cut.size(cut.chunk(), s.space);
    int64_t start = (b * s.space + cut.first_row()) * s.channels;
    if (cut.row() < cut.down) {
        for (int c = cut.column() * N; c < s.channels; c += cut.across * N) {
            float center[N], gain[N], offset[N], da[N] = {}, db[N] = {};
            for (int i = 0; i < N; ++i) {
                int64_t g = b * s.groups + (c + i) / s.each();
                center[i] = mean[g];
                gain[i] = rstd[g] * affine.a(b, c + i);
                offset[i] = affine.b(b, c + i);
            }
#pragma unroll 2
            for (int64_t r = cut.row(); r < size; r += cut.down) {
                int64_t at = start + r * s.channels + c;
                auto value = *reinterpret_cast<const Pack<T, N>*>(x + at);
                auto gradient = *reinterpret_cast<const Pack<T, N>*>(dy + at);
                for (int i = 0; i < N; ++i) {
                    float u = widen(value.values[i]) - center[i], z = u * gain[i] + offset[i];
                    float dz = output_gradient(widen(gradient.values[i]), z, silu);
                    da[i] += dz * u;
                    db[i] += dz;
                }
            }
            for (int i = 0; i < N; ++i) {
                shared[2 * cut.row() * s.channels + c + i] = da[i];
                shared[(2 * cut.row() + 1) * s.channels + c + i] = db[i];
            }
        }
    }
    __syncthreads();
    for (int c = threadIdx.x; c < 2 * s.channels; c += THREADS) {
        float sum = 0;
        for (int row = 0; row < cut.down; ++row) sum += shared[2 * row * s.channels + c];
        partial[blockIdx.x * 2 * s.channels + c] = sum;
    }
}

// One block a sample: da, db [B, C], and p = -rstd^2 mean(a da), q = -rstd mean(a db) [B, G].
__global__ void __launch_bounds__(THREADS, 2)
    join_gradients(const float* __restrict__ partial, const float* __restrict__ rstd,
                   float* __restrict__ da, float* __restrict__ db, float2* __restrict__ pq,
                   Affine affine, Shape s, int chunks) {
    extern __shared__ float shared[];  // [2, C]: a da, a db
    int64_t b = blockIdx.x;
    for (int c = threadIdx.x; c < s.channels; c += THREADS) {
        const float* part = partial + b * chunks * 2 * s.channels + c;
        float sum_a = 0, sum_b = 0, a = affine.a(b, c);
        for (int k = 0; k < chunks; ++k) {
            sum_a += part[2 * k * s.channels];
            sum_b += part[(2 * k + 1) * s.channels];
        }
        sum_a *= rstd[b * s.groups + c / s.each()];
        da[b * s.channels + c] = sum_a;
        db[b * s.channels + c] = sum_b;
        shared[c] = a * sum_a;
        shared[s.channels + c] = a * sum_b;
    }
    __syncthreads();
    for (int g = threadIdx.x / 32; g < s.groups; g += WARPS) {
        float mean_a = 0, mean_b = 0, scale = rstd[b * s.groups + g];
        for (int c = g * s.each() + threadIdx.x % 32; c < (g + 1) * s.each(); c += 32) {
            mean_a += shared[c];
            mean_b += shared[s.channels + c];
        }
        scale /= float(s.space * s.each());
        mean_a = -rstd[b * s.groups + g] * scale * warp_sum(mean_a);
        mean_b = -scale * warp_sum(mean_b);
        if (threadIdx.x % 32 == 0) pq[b * s.groups + g] = make_float2(mean_a, mean_b);
    }
}

// dx = a rstd dz + p u + q with u = x - mean.
template <typename T, int N>
__global__ void __launch_bounds__(THREADS, 2)
    transform_gradient(const T* __restrict__ dy, const T* __restrict__ x, T* __restrict__ dx,
                       const float* __restrict__ mean, const float* __restrict__ rstd,
                       const float2* __restrict__ pq, Affine affine, Shape s, Cut cut,
                       bool silu) {
    if (cut.row() >= cut.down) return;
    int64_t b = cut.sample(), size = cut.size(cut.chunk(), s.space);
    int64_t start = (b * s.space + cut.first_row()) * s.channels;
    for (int c = cut.column() * N; c < s.channels; c += cut.across * N) {
        float center[N], gain[N], offset[N];
        float2 rest[N];
        for (int i = 0; i < N; ++i) {
            int64_t g = b * s.groups + (c + i) / s.each();
            center[i] = mean[g];
            gain[i] = rstd[g] * affine.a(b, c + i);
            offset[i] = affine.b(b, c + i);
            rest[i] = pq[g];
        }
        for (int64_t r = cut.row(); r < size; r += cut.down) {
            int64_t at = start + r * s.channels + c;
            auto value = *reinterpret_cast<const Pack<T, N>*>(x + at);
            auto gradient = *reinterpret_cast<const Pack<T, N>*>(dy + at);
            for (int i = 0; i < N; ++i) {
                float u = widen(value.values[i]) - center[i], z = u * gain[i] + offset[i];
                float dz = output_gradient(widen(gradient.values[i]), z, silu);
                value.values[i] = narrow<T>(gain[i] * dz + (rest[i].x * u + rest[i].y));
            }
            *reinterpret_cast<Pack<T, N>*>(dx + at) = value;
        }
    }
}

struct Launch {
    Cut cut;
    unsigned blocks;
    size_t shared;  // two values of each channel for every row of threads
};

Launch launch(const Call& call, int lanes) {
    Shape s = call.shape;
    Launch result;
    result.cut.across = int(std::min<int64_t>(s.channels / lanes, THREADS));
    result.cut.down = THREADS / result.cut.across;
    result.cut.rows = (s.space + call.chunks - 1) / call.chunks;
    result.cut.chunks = int((s.space + result.cut.rows - 1) / result.cut.rows);
    result.blocks = unsigned(s.batch * result.cut.chunks);
    result.shared = 2 * sizeof(float) * result.cut.down * s.channels;
    return result;
}

template <typename T, int N>
void forward(const Call& call, cudaStream_t stream) {
    Launch l = launch(call, N);
    auto x = static_cast<const T*>(call.x);
    auto partial = reinterpret_cast<float2*>(call.workspace);
    chunk_moments<T, N><<<l.blocks, THREADS, l.shared, stream>>>(x, partial, call.shape, l.cut);
    size_t shared = 2 * sizeof(float) * call.shape.groups;
    transform<T, N><<<l.blocks, THREADS, shared, stream>>>(
        x, static_cast<T*>(call.out), partial, call.mean, call.rstd, call.affine, call.shape,
        l.cut, call.silu, float(call.eps));
}

template <typename T, int N>
void backward(const Call& call, cudaStream_t stream) {
    Launch l = launch(call, N);
    Shape s = call.shape;
    auto x = static_cast<const T*>(call.x), dy = static_cast<const T*>(call.dy);
    auto pq = reinterpret_cast<float2*>(call.workspace);  // [B, G], before the partial sums
    float* partial = call.workspace + 2 * s.batch * s.groups;
    chunk_gradients<T, N><<<l.blocks, THREADS, l.shared, stream>>>(
        dy, x, call.mean, call.rstd, partial, call.affine, s, l.cut, call.silu);
    join_gradients<<<unsigned(s.batch), THREADS, 2 * sizeof(float) * s.channels, stream>>>(
        partial, call.rstd, call.da, call.db, pq, call.affine, s, l.cut.chunks);
    transform_gradient<T, N><<<l.blocks, THREADS, 0, stream>>>(
        dy, x, static_cast<T*>(call.out), call.mean, call.rstd, pq, call.affine, s, l.cut,
        call.silu);
}

// run(value, lanes): loads of 16 bytes where the channels and the addresses allow them.
template <typename Run>
int for_type(const Call& call, Run run) {
    auto with = [&](auto value) {
        constexpr int N = 16 / sizeof(value);
        auto addresses = uintptr_t(call.x) | uintptr_t(call.dy);  // torch aligns what it allocates
        if (call.shape.channels % N == 0 && addresses % 16 == 0)
            run(value, std::integral_constant<int, N>());
        else
            run(value, std::integral_constant<int, 1>());
    };
    if (call.type == FLOAT32) with(float());
    if (call.type == BFLOAT16) with(Bfloat());
    if (call.type == FLOAT16) with(Half());
    return cudaGetLastError();
}

}  // namespace

extern "C" int ddiff_group_norm_silu(const Call* call, void* stream) {
    return for_type(*call, [&](auto value, auto lanes) {
        forward<decltype(value), lanes.value>(*call, static_cast<cudaStream_t>(stream));
    });
}

extern "C" int ddiff_group_norm_silu_backward(const Call* call, void* stream) {
    return for_type(*call, [&](auto value, auto lanes) {
        backward<decltype(value), lanes.value>(*call, static_cast<cudaStream_t>(stream));
    });
}
