/* What the packed kernels are held against: a dense product in bfloat16 with one token, and a plain read of memory.
   Built by benchmarks/layers.py for the machine at hand, which must have AVX-512 with BF16, or AVX2. */

#include <immintrin.h>
#include <stdint.h>

/* How far ahead of a read its memory is asked for: without asking, two cores reach two thirds of what they can. */
#define AHEAD (32 << 10)

#ifdef __AVX512BF16__

#define STEP 32
typedef __m512 sums;
static inline sums zero(void) { return _mm512_setzero_ps(); }
static inline sums add_product(sums to, const uint16_t *w, const uint16_t *x) {
    return _mm512_dpbf16_ps(to, (__m512bh)_mm512_loadu_si512(w), (__m512bh)_mm512_loadu_si512(x));
}
static inline float total(sums of) { return _mm512_reduce_add_ps(of); }

#else

/* Of 16 pairs the even and the odd ones: a bfloat16 is the upper half of a float32. */
#define STEP 16
typedef struct {
    __m256 even, odd;
} sums;
static inline sums zero(void) { return (sums){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline __m256 even_of(__m256i pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
static inline __m256 odd_of(__m256i pairs) {
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000)));
}
static inline sums add_product(sums to, const uint16_t *w, const uint16_t *x) {
    __m256i W = _mm256_loadu_si256((const __m256i *)w), X = _mm256_loadu_si256((const __m256i *)x);
    return (sums){_mm256_fmadd_ps(even_of(W), even_of(X), to.even), _mm256_fmadd_ps(odd_of(W), odd_of(X), to.odd)};
}
static inline float total(sums of) {
    float lanes[8], all = 0;
    _mm256_storeu_ps(lanes, _mm256_add_ps(of.even, of.odd));
    for (int i = 0; i < 8; i++) all += lanes[i];
    return all;
}

#endif

/* y (rows) float32 = W (rows, columns) x (columns); rows a multiple of 4, columns of 32. */
void dense(const uint16_t *W, const uint16_t *x, float *y, int64_t rows, int64_t columns, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row += 4) {
        const uint16_t *w = W + row * columns;
        sums a = zero(), b = zero(), c = zero(), d = zero();
        for (int64_t i = 0; i < columns; i += STEP) {
            /* The next four rows, in one stream from their first byte on, a line for each STEP of a row. */
            for (int r = 0; r < 4; r++) _mm_prefetch((const char *)(w + 4 * columns + 4 * i + r * STEP), _MM_HINT_T1);
            a = add_product(a, w + i, x + i);
            b = add_product(b, w + columns + i, x + i);
            c = add_product(c, w + 2 * columns + i, x + i);
            d = add_product(d, w + 3 * columns + i, x + i);
        }
        y[row] = total(a);
        y[row + 1] = total(b);
        y[row + 2] = total(c);
        y[row + 3] = total(d);
    }
}

/* Reads `bytes` bytes, a multiple of 256 for each thread, and returns their sum by 32 bits so that none is left out. */
int32_t read_all(const char *from, int64_t bytes, int threads) {
    int32_t all = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : all)
    for (int thread = 0; thread < threads; thread++) {
        const char *p = from + bytes / threads * thread;
        __m256i sum[8];
        int32_t lanes[8];
        for (int k = 0; k < 8; k++) sum[k] = _mm256_setzero_si256();
        for (int64_t i = 0; i < bytes / threads; i += 256) {
            for (int line = 0; line < 256; line += 64) _mm_prefetch(p + i + AHEAD + line, _MM_HINT_T1);
            for (int k = 0; k < 8; k++)
                sum[k] = _mm256_add_epi32(sum[k], _mm256_loadu_si256((const __m256i *)(p + i + 32 * k)));
        }
        for (int k = 1; k < 8; k++) sum[0] = _mm256_add_epi32(sum[0], sum[k]);
        _mm256_storeu_si256((__m256i *)lanes, sum[0]);
        for (int k = 0; k < 8; k++) all += lanes[k];
    }
    return all;
}
