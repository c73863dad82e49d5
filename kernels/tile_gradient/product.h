// Products of tiles: 16 x 16 sums of pairs of bfloat16, by AMX where the processor has it.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#ifdef __AVX512F__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in the header itself: gcc's bug 105593
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

typedef uint32_t Word;  // two bfloat16

constexpr int64_t SIDE = 16, TILE = SIDE * SIDE, BLOCK = 4 * TILE;

inline float widened(Word bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

// Not initialised, from the start of a cache line: a tile whose rows lie across two lines takes
// twice as long.
template <typename T>
class Rows {
    std::unique_ptr<T[], decltype(&free)> values;

public:
    explicit Rows(int64_t size)
        : values(static_cast<T*>(aligned_alloc(64, (size * sizeof(T) + 63) / 64 * 64)), &free) {
        if (!values) throw std::bad_alloc();
    }
    T* at(int64_t index) const { return values.get() + index; }
};

#ifdef __AMX_BF16__
constexpr int HAS_TILES = 1;

// This thread's tiles are set up for us, and left as they were found.
class Tiles {
    alignas(64) char before[64];

public:
    Tiles() {
        alignas(64) char ours[64] = {1};     // palette
        for (int tile = 0; tile < 8; ++tile) {
            ours[16 + 2 * tile] = 4 * SIDE;  // bytes of a row
            ours[48 + tile] = SIDE;          // rows
        }
        _tile_storeconfig(before);
        _tile_loadconfig(ours);
    }
    ~Tiles() { _tile_loadconfig(before); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

// sums [2 x 2 tiles] += (a, a + a_next) (b, b + b_next), which stay in tiles 0 to 3 until stored.
class Product {
    float* sums;

public:
    Product(float* sums, bool fresh) : sums(sums) {
        if (fresh) {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            return;
        }
        _tile_loadd(0, sums, 64);
        _tile_loadd(1, sums + TILE, 64);
        _tile_loadd(2, sums + 2 * TILE, 64);
        _tile_loadd(3, sums + 3 * TILE, 64);
    }
    void add(const Word* a, int64_t a_next, const Word* b, int64_t b_next, int64_t tiles) {
        for (int64_t k = 0; k < tiles * TILE; k += TILE) {
            _tile_loadd(4, a + k, 64);
            _tile_loadd(6, b + k, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, b + b_next + k, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, a + a_next + k, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    void store() {
        _tile_stored(0, sums, 64);
        _tile_stored(1, sums + TILE, 64);
        _tile_stored(2, sums + 2 * TILE, 64);
        _tile_stored(3, sums + 3 * TILE, 64);
    }
};

#else
constexpr int HAS_TILES = 0;

struct Tiles {
    Tiles() {}
};

class Product {
    float* sums;

public:
    Product(float* sums, bool fresh) : sums(sums) {
        if (fresh) std::fill_n(sums, BLOCK, 0.0f);
    }
    void add(const Word* a, int64_t a_next, const Word* b, int64_t b_next, int64_t tiles) {
        for (int64_t k = 0; k < tiles * TILE; k += TILE) {
            one(a + k, b + k, sums);
            one(a + k, b + b_next + k, sums + TILE);
            one(a + a_next + k, b + k, sums + 2 * TILE);
            one(a + a_next + k, b + b_next + k, sums + 3 * TILE);
        }
    }
    void store() {}

private:
    static void one(const Word* a, const Word* b, float* sum) {
        for (int64_t o = 0; o < SIDE; ++o)
            for (int64_t k = 0; k < SIDE; ++k) {
                float low = widened(a[o * SIDE + k] << 16);
                float high = widened(a[o * SIDE + k] & 0xffff0000);
                for (int64_t c = 0; c < SIDE; ++c) {
                    Word word = b[k * SIDE + c];
                    float second = high * widened(word & 0xffff0000);
                    sum[o * SIDE + c] += low * widened(word << 16) + second;
                }
            }
    }
};

#endif
