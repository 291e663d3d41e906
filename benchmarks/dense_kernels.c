/* What the packed kernels are held against: a dense product in bfloat16 with one token, and a plain read of memory.
   Built by benchmarks/layers.py for the machine at hand, which must have AVX-512 with BF16. */

#include <immintrin.h>
#include <stdint.h>

/* How far ahead of a read its memory is asked for: without asking, two cores reach two thirds of what they can. */
#define AHEAD (32 << 10)

/* y (rows) float32 = W (rows, columns) x (columns); rows a multiple of 4, columns of 32. */
void dense(const uint16_t *W, const uint16_t *x, float *y, int64_t rows, int64_t columns, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row += 4) {
        const uint16_t *w = W + row * columns;
        __m512 a = _mm512_setzero_ps(), b = a, c = a, d = a;
        for (int64_t i = 0; i < columns; i += 32) {
            for (int r = 4; r < 8; r++) _mm_prefetch((const char *)(w + r * columns + i), _MM_HINT_T1);
            __m512bh X = (__m512bh)_mm512_loadu_si512(x + i);
            a = _mm512_dpbf16_ps(a, (__m512bh)_mm512_loadu_si512(w + i), X);
            b = _mm512_dpbf16_ps(b, (__m512bh)_mm512_loadu_si512(w + columns + i), X);
            c = _mm512_dpbf16_ps(c, (__m512bh)_mm512_loadu_si512(w + 2 * columns + i), X);
            d = _mm512_dpbf16_ps(d, (__m512bh)_mm512_loadu_si512(w + 3 * columns + i), X);
        }
        y[row] = _mm512_reduce_add_ps(a);
        y[row + 1] = _mm512_reduce_add_ps(b);
        y[row + 2] = _mm512_reduce_add_ps(c);
        y[row + 3] = _mm512_reduce_add_ps(d);
    }
}

/* Reads `bytes` bytes, a multiple of 256 for each thread, and returns their sum by 32 bits so that none is left out. */
int32_t read_all(const char *from, int64_t bytes, int threads) {
    int32_t total = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : total)
    for (int thread = 0; thread < threads; thread++) {
        const char *p = from + bytes / threads * thread;
        __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
        for (int64_t i = 0; i < bytes / threads; i += 256) {
            for (int line = 0; line < 256; line += 64) _mm_prefetch(p + i + AHEAD + line, _MM_HINT_T1);
            a = _mm512_add_epi32(a, _mm512_loadu_si512(p + i));
            b = _mm512_add_epi32(b, _mm512_loadu_si512(p + i + 64));
            c = _mm512_add_epi32(c, _mm512_loadu_si512(p + i + 128));
            d = _mm512_add_epi32(d, _mm512_loadu_si512(p + i + 192));
        }
        total += _mm512_reduce_add_epi32(_mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d)));
    }
    return total;
}
