// The yardstick of `python -m ddiff.kernels`: a threaded copy whose stores pass by the caches, so
// that a line that is only written is not read first. torch's copy_ reads it.

#include <cstring>

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace {

constexpr long kBlock = 1 << 16;  // bytes to a task

#ifdef __SSE2__
void copy_block(char* out, const char* in) {
#ifdef __AVX512F__
  using Word = __m512i;
  auto move = [](Word* to, const Word* from) { _mm512_stream_si512(to, _mm512_loadu_si512(from)); };
#elif defined(__AVX__)
  using Word = __m256i;
  auto move = [](Word* to, const Word* from) {
    _mm256_stream_si256(to, _mm256_loadu_si256(from));
  };
#else
  using Word = __m128i;
  auto move = [](Word* to, const Word* from) { _mm_stream_si128(to, _mm_loadu_si128(from)); };
#endif
  for (long i = 0; i < kBlock / long(sizeof(Word)); ++i)
    move(reinterpret_cast<Word*>(out) + i, reinterpret_cast<const Word*>(in) + i);
}
#else
void copy_block(char* out, const char* in) { std::memcpy(out, in, kBlock); }
#endif

}  // namespace

// Both 64-byte aligned, as torch's allocations are.
extern "C" void ddiff_stream_copy(char* out, const char* in, long bytes) {
  const long blocks = bytes / kBlock;
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (long block = 0; block < blocks; ++block)
      copy_block(out + block * kBlock, in + block * kBlock);
#ifdef __SSE2__
    _mm_sfence();
#endif
  }
  std::memcpy(out + blocks * kBlock, in + blocks * kBlock, bytes - blocks * kBlock);
}
