// How the CPU's work is cut into threads, tiles and columns.
#pragma once
#include <omp.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "call.h"

constexpr int64_t TILE = 32;      // wide rows whose sums are made in float32
constexpr int64_t GRAIN = 32768;  // fewer values than this are no work for two threads

// `copies` rows of C channels make one wide row, a multiple of 16 values. A sample is one
// thread's, read from memory once where it fits the cache, or, where that would leave threads
// idle, cut into `chunks` of whole tiles, so that its result depends on neither batch nor threads.
struct Plan : Shape {
    int64_t width, copies, chunks, threads, slots, rows;

    explicit Plan(Shape shape) : Shape(shape), copies(1), chunks(1) {
        while (copies * channels < 128 || copies * channels % 16) ++copies;
        width = copies * channels;
        threads = batch * space * channels < GRAIN ? 1 : omp_get_max_threads();
        if (batch % threads && batch < 4 * threads) {
            int64_t pieces = std::max<int64_t>(1, 4 * space * channels / GRAIN);
            chunks = std::min(threads / std::gcd(batch, threads), pieces);
        }
        slots = chunks == 1 ? threads : batch;
        rows = divided_up(divided_up(space, chunks), TILE * copies) * TILE * copies;
    }
    static int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
    int64_t start(int64_t b, int64_t k) const {
        return (b * space + std::min(space, k * rows)) * channels;
    }
    int64_t size(int64_t k) const { return start(0, k + 1) - start(0, k); }
    void repeat(float* row) const {
        for (int64_t c = channels; c < width; ++c) row[c] = row[c - channels];
    }
};

// Some wide rows for every chunk that is in work; a slot is a thread, or a sample in chunks.
template <typename T>
class Rows {
    int64_t chunks, size;
    std::vector<T> values;

public:
    Rows(const Plan& plan, int64_t rows)
        : chunks(plan.chunks), size(rows * plan.width), values(plan.slots * chunks * size) {}
    T* at(int64_t slot, int64_t k) { return values.data() + (slot * chunks + k) * size; }
    const T* at(int64_t slot, int64_t k) const {
        return values.data() + (slot * chunks + k) * size;
    }
};

// work.first(slot, b, chunk), then .middle(slot, b), then .last(slot, b, chunk), for each sample.
template <typename Work>
void for_each_sample(Work& work) {
    int64_t batch = work.plan.batch, chunks = work.plan.chunks, threads = work.plan.threads;
    if (chunks == 1) {
#pragma omp parallel for schedule(static) if (threads > 1)
        for (int64_t b = 0; b < batch; ++b) {
            int64_t slot = threads > 1 ? omp_get_thread_num() : 0;
            work.first(slot, b, 0);
            work.middle(slot, b);
            work.last(slot, b, 0);
        }
        return;
    }
#pragma omp parallel
    {
#pragma omp for collapse(2) schedule(static)
        for (int64_t b = 0; b < batch; ++b)
            for (int64_t k = 0; k < chunks; ++k) work.first(b, b, k);
#pragma omp for schedule(static)
        for (int64_t b = 0; b < batch; ++b) work.middle(b, b);
#pragma omp for collapse(2) schedule(static)
        for (int64_t b = 0; b < batch; ++b)
            for (int64_t k = 0; k < chunks; ++k) work.last(b, b, k);
    }
}

// `size` values as tiles of whole wide rows, and one of the part that is left:
// visit(offset, rows, columns, rows before).
template <typename Visit>
void for_each_tile(int64_t size, int64_t width, Visit visit) {
    for (int64_t offset = 0; offset < size;) {
        int64_t whole = std::min(TILE, (size - offset) / width);
        int64_t rows = whole ? whole : 1, columns = whole ? width : size - offset;
        visit(offset, rows, columns, offset / width);
        offset += rows * columns;
    }
}

// Columns of the wide rows of all chunks that belong to group g: visit(chunk, column).
template <typename Visit>
void for_each_column(const Plan& plan, int64_t g, Visit visit) {
    int64_t each = plan.each();
    for (int64_t k = 0; k < plan.chunks; ++k)
        for (int64_t start = g * each; start < plan.width; start += plan.channels)
            for (int64_t c = start; c < start + each; ++c) visit(k, c);
}
