// The weights' gradient of a convolution with a kernel of 3, padding 1, stride 1: bfloat16 maps
// [N, D, H, W, channels], float32 sums, as products of 16 x 16 tiles.
#include <omp.h>

#include <algorithm>
#include <vector>

#include "panel.h"
#include "product.h"

namespace {

constexpr int64_t PANEL = 2 << 20;  // bytes of packed maps, about, that the products come back to
constexpr int64_t RUN = 8;         // tiles that are summed before sums are stored, about

struct Gradient {
    const Maps& maps;
    Panel panel;
    int64_t taps, per_block, blocks_o, blocks_c, group;
    Rows<float> sums;  // [blocks_o, blocks_c, taps, 4 tiles]
    std::vector<double> db;

    explicit Gradient(const Maps& maps)
        : maps(maps),
          panel(maps, PANEL),
          taps(maps.depth_taps * 9),
          per_block(taps * BLOCK),
          blocks_o(panel.tiles_o / 2),
          blocks_c(panel.tiles_c / 2),
          group(std::max<int64_t>(1, RUN / panel.line_tiles)),
          sums(blocks_o * blocks_c * per_block),
          db(panel.tiles_o * SIDE) {}

    // Adds what these lines give to three taps, a line of the kernel, of a block of 32 outputs x 32
    // inputs. Some tiles stay in the first cache for all three.
    void add(Lines now, int64_t block, int64_t tap) {
        int64_t o = block / blocks_c * 2, c = block % blocks_c * 2;
        int64_t next_o = panel.outputs(1, 0) - panel.outputs(0, 0), shift = panel.pairs * SIDE;
        float* sum = sums.at(block * per_block + tap * BLOCK);
        bool fresh = now.first == 0;
        for (int64_t line = 0; line < now.count; line += group) {
            const Word *a[RUN], *b[RUN];
            int64_t met = 0, end = std::min(line + group, now.count);
            for (int64_t l = line; l < end; ++l)
                if ((b[met] = panel.inputs(now, c, l, tap))) a[met++] = panel.outputs(o, l);
            if (!met) continue;
            for (int64_t k = 0; k < panel.line_tiles; k += RUN)
                for (int64_t along = 0; along < 3; ++along) {
                    Product product(sum + along * BLOCK, fresh && k == 0);
                    for (int64_t l = 0; l < met; ++l)
                        product.add(a[l] + k * TILE, next_o, b[l] + k * TILE + along * shift,
                                    panel.stride_c, std::min(RUN, panel.line_tiles - k));
                    product.store();
                }
            fresh = false;
        }
        if (fresh) std::fill_n(sum, 3 * BLOCK, 0.0f);  // no line of the first panel meets it
    }

    void write(int64_t block, float* dw, const int64_t* strides) const {
        int64_t first_o = block / blocks_c * 2 * SIDE, first_c = block % blocks_c * 2 * SIDE;
        int64_t outputs = std::min(2 * SIDE, maps.outputs - first_o);
        int64_t inputs = std::min(2 * SIDE, maps.inputs - first_c);
        for (int64_t tap = 0; tap < taps; ++tap) {
            const float* sum = sums.at(block * per_block + tap * BLOCK);
            float* to = dw + tap / 9 * strides[2] + tap / 3 % 3 * strides[3] + tap % 3 * strides[4];
            for (int64_t o = 0; o < outputs; ++o)
                for (int64_t c = 0; c < inputs; c += SIDE) {
                    const float* from = sum + (o / SIDE * 2 + c / SIDE) * TILE + o % SIDE * SIDE;
                    float* row = to + (first_o + o) * strides[0] + (first_c + c) * strides[1];
                    int64_t count = std::min(SIDE, inputs - c);
                    if (strides[1] == 1)
                        std::copy_n(from, count, row);
                    else
                        for (int64_t i = 0; i < count; ++i) row[i * strides[1]] = from[i];
                }
        }
    }
};

}  // namespace

// Whether products are made by AMX, and not by the portable loops.
extern "C" int ddiff_has_tiles() { return HAS_TILES; }

// strides: of dw, for outputs, inputs and three axes of taps.
extern "C" void ddiff_tile_gradient(const void* x, const void* dy, float* dw,
                                    const int64_t* strides, float* db, int64_t batch,
                                    int64_t depth, int64_t height, int64_t width, int64_t inputs,
                                    int64_t outputs, int64_t depth_taps, int64_t threads) {
    Maps maps{static_cast<const uint16_t*>(x), static_cast<const uint16_t*>(dy),
              batch, depth, height, width, inputs, outputs, depth_taps};
    Gradient work(maps);
    Panel& panel = work.panel;
    int64_t blocks = work.blocks_o * work.blocks_c;
#pragma omp parallel num_threads(threads)
    {
        Tiles configured;
        for (int64_t first = 0; first < panel.lines; first += panel.most) {
            Lines now{first, std::min(panel.most, panel.lines - first)};
#pragma omp for collapse(2) schedule(static) nowait
            for (int64_t c = 0; c < panel.tiles_c; ++c)
                for (int64_t row = 0; row < panel.rows(now); ++row) panel.pack_inputs(now, c, row);
#pragma omp for collapse(2) schedule(static)
            for (int64_t o = 0; o < panel.tiles_o; ++o)
                for (int64_t line = 0; line < now.count; ++line) panel.pack_outputs(now, o, line);
#pragma omp for schedule(static) nowait
            for (int64_t c = 0; c < panel.tiles_o * SIDE; ++c)
                for (int64_t line = 0; line < now.count; ++line)
                    work.db[c] += panel.line_sums[line * panel.tiles_o * SIDE + c];
#pragma omp for collapse(2) schedule(static)
            for (int64_t block = 0; block < blocks; ++block)
                for (int64_t tap = 0; tap < work.taps; tap += 3) work.add(now, block, tap);
        }
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; ++block) work.write(block, dw, strides);
    }
    for (int64_t o = 0; o < outputs; ++o) db[o] = float(work.db[o]);
}
