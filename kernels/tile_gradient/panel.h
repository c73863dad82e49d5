// Some lines of both maps, packed as the tiles read them: two samples share a word, and a line's
// index k runs over its places, and for each over the pairs of samples.
#pragma once
#include <algorithm>
#include <vector>

#include "product.h"

struct Maps {
    const uint16_t *x, *dy;  // [N, D, H, W, C], [N, D, H, W, O]
    int64_t batch, depth, height, width, inputs, outputs, depth_taps;
};

// Sixteen channels of two samples; `right` is null where there is no second one.
inline void load_pairs(const uint16_t* left, const uint16_t* right, int64_t channels, Word* to) {
#ifdef __AVX512F__
    if (channels >= SIDE && right) {
        __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)left));
        __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)right));
        _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        return;
    }
#endif
    channels = std::min(channels, SIDE);
    for (int64_t c = 0; c < channels; ++c) to[c] = left[c] | Word(right ? right[c] : 0) << 16;
    std::fill(to + channels, to + SIDE, 0);
}

// Rows of a tile become its columns.
inline void transpose(Word* tile) {
#ifdef __AVX512F__
    __m512i rows[SIDE];
    for (int i = 0; i < SIDE; ++i) rows[i] = _mm512_loadu_si512(tile + i * SIDE);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#pragma GCC unroll 4
    for (int step = 8; step; step /= 2) {  // exchanges the off-diagonal quarters of each block
        __m512i bit = _mm512_set1_epi32(step), sixteen = _mm512_set1_epi32(16);
        __mmask16 odd = _mm512_test_epi32_mask(lane, bit);
        __m512i upper = _mm512_mask_add_epi32(lane, odd, _mm512_sub_epi32(lane, bit), sixteen);
        __m512i lower = _mm512_mask_add_epi32(_mm512_add_epi32(lane, bit), odd, lane, sixteen);
#pragma GCC unroll 16
        for (int i = 0; i < SIDE; ++i)
            if (!(i & step)) {
                __m512i a = rows[i], b = rows[i + step];
                rows[i] = _mm512_permutex2var_epi32(a, upper, b);
                rows[i + step] = _mm512_permutex2var_epi32(a, lower, b);
            }
    }
    for (int i = 0; i < SIDE; ++i) _mm512_storeu_si512(tile + i * SIDE, rows[i]);
#else
    for (int64_t i = 0; i < SIDE; ++i)
        for (int64_t j = 0; j < i; ++j) std::swap(tile[i * SIDE + j], tile[j * SIDE + i]);
#endif
}

// Lines of the output that are worked on together.
struct Lines {
    int64_t first, count;
};

struct Panel {
    const Maps& maps;
    int64_t row_words, margin;     // margin: rows of x before a line that it meets
    int64_t pairs;                 // of samples
    int64_t lines;                 // of the output
    int64_t tiles_o, tiles_c;      // even numbers of tiles of 16 channels
    int64_t line_tiles;            // along a line
    int64_t most;                  // of them in a panel
    int64_t stride_c;              // words from tile to tile of inputs
    Rows<Word> x, dy;
    std::vector<float> line_sums;  // [line, outputs]

    Panel(const Maps& maps, int64_t bytes)
        : maps(maps),
          row_words((maps.width + 2) * ((maps.batch + 1) / 2) * SIDE),
          margin(maps.depth_taps == 3 ? maps.height + 1 : 1),
          pairs((maps.batch + 1) / 2),
          lines(maps.depth * maps.height),
          tiles_o(up(maps.outputs, 2 * SIDE) / SIDE),
          tiles_c(up(maps.inputs, 2 * SIDE) / SIDE),
          line_tiles(up(maps.width * pairs, SIDE) / SIDE),
          most(std::clamp<int64_t>(bytes / line_bytes(), 1, lines)),
          stride_c((most + 2 * margin) * row_words + TILE),
          x(tiles_c * stride_c),
          dy(tiles_o * most * line_tiles * TILE),
          line_sums(most * tiles_o * SIDE) {
        for (int64_t c = 0; c < tiles_c; ++c) std::fill_n(x.at((c + 1) * stride_c - TILE), TILE, 0);
    }

    int64_t rows(Lines now) const { return now.count + 2 * margin; }

    // Row `row` of the panel is line first + row - margin of x, a column of zeros on either side.
    void pack_inputs(Lines now, int64_t c, int64_t row) {
        int64_t line = now.first + row - margin, channels = maps.inputs - c * SIDE;
        Word* to = x.at(c * stride_c + row * row_words);
        if (line < 0 || line >= lines || channels <= 0) {
            std::fill_n(to, row_words, 0);
            return;
        }
        std::fill_n(to, pairs * SIDE, 0);
        to += pairs * SIDE;
        for (int64_t w = 0; w < maps.width; ++w)
            for (int64_t p = 0; p < pairs; ++p, to += SIDE)
                pair(maps.x, maps.inputs, p, line * maps.width + w, c * SIDE, to);
        std::fill_n(to, pairs * SIDE, 0);
    }

    void pack_outputs(Lines now, int64_t o, int64_t l) {
        Word* to = outputs(o, l);
        float* sums = line_sums.data() + (l * tiles_o + o) * SIDE;
        std::fill_n(sums, SIDE, 0.0f);
        if (maps.outputs <= o * SIDE) {
            std::fill_n(to, line_tiles * TILE, 0);
            return;
        }
        int64_t place = (now.first + l) * maps.width, end = maps.width * pairs;
        for (int64_t k = 0; k < line_tiles * SIDE; k += SIDE, to += TILE) {
            for (int64_t i = 0; i < SIDE; ++i) {
                Word* row = to + i * SIDE;
                if (k + i >= end) {
                    std::fill_n(row, SIDE, 0);
                    continue;
                }
                pair(maps.dy, maps.outputs, (k + i) % pairs, place + (k + i) / pairs, o * SIDE,
                     row);
                for (int64_t c = 0; c < SIDE; ++c)
                    sums[c] += widened(row[c] << 16) + widened(row[c] & 0xffff0000);
            }
            transpose(to);
        }
    }

    Word* outputs(int64_t o, int64_t l) const { return dy.at((o * most + l) * line_tiles * TILE); }

    // Where line l meets this tap of the inputs; null outside the map.
    const Word* inputs(Lines now, int64_t c, int64_t l, int64_t tap) const {
        int64_t line = now.first + l, across = tap / 3 % 3 - 1;
        int64_t along = maps.depth_taps == 3 ? tap / 9 - 1 : 0;
        int64_t h = line % maps.height + across, d = line / maps.height + along;
        if (h < 0 || h >= maps.height || d < 0 || d >= maps.depth) return nullptr;
        int64_t row = l + margin + along * maps.height + across;
        return x.at(c * stride_c + row * row_words + tap % 3 * pairs * SIDE);
    }

    static int64_t up(int64_t size, int64_t multiple) {
        return (size + multiple - 1) / multiple * multiple;
    }

    int64_t line_bytes() const { return 4 * (tiles_c * row_words + tiles_o * line_tiles * TILE); }

    void pair(const uint16_t* map, int64_t channels, int64_t p, int64_t place, int64_t c,
              Word* to) const {
        int64_t sample = lines * maps.width * channels;
        const uint16_t* left = map + 2 * p * sample + place * channels + c;
        load_pairs(left, 2 * p + 1 < maps.batch ? left + sample : nullptr, channels - c, to);
    }
};
