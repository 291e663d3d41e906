/* Rows are added up a few pairs at a time, so that what is loaded of one serves several. */

#include "pairs.h"

#ifdef EGGS_X86
#include <immintrin.h>
#endif

#define ROWS_OF_A 4
#define ROWS_OF_B 2

static void pairs_portable(const float *A, int64_t a, const float *B, int64_t b, int64_t length, float *sums, int64_t stride) {
    for (int64_t i = 0; i < a; i++)
        for (int64_t j = 0; j < b; j++) {
            float sum = 0;
            for (int64_t k = 0; k < length; k++) {
                float x = A[i * length + k], y = B[j * length + k];
                sum += x > y ? x : y;
            }
            sums[i * stride + j] = sum;
        }
}

#ifdef EGGS_X86

TARGET_AVX2 INLINE float total(__m256 sum) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* All pairs of `a` rows with `b`, both known to the compiler, which holds the sums in registers. */
TARGET_AVX2 INLINE void pairs_of(const float *A, const int a, const float *B, const int b, int64_t length, float *sums,
                                 int64_t stride) {
    __m256 sum[ROWS_OF_A][ROWS_OF_B];
    int64_t whole = length / 8 * 8;
    for (int i = 0; i < a; i++)
        for (int j = 0; j < b; j++) sum[i][j] = _mm256_setzero_ps();
    for (int64_t k = 0; k < whole; k += 8)
        for (int i = 0; i < a; i++)
            for (int j = 0; j < b; j++) {
                __m256 x = _mm256_loadu_ps(A + i * length + k), y = _mm256_loadu_ps(B + j * length + k);
                sum[i][j] = _mm256_add_ps(sum[i][j], _mm256_max_ps(x, y));
            }
    for (int i = 0; i < a; i++)
        for (int j = 0; j < b; j++) {
            float all = total(sum[i][j]);
            for (int64_t k = whole; k < length; k++) {
                float x = A[i * length + k], y = B[j * length + k];
                all += x > y ? x : y;
            }
            sums[i * stride + j] = all;
        }
}

TARGET_AVX2 static void pairs_avx2(const float *A, int64_t a, const float *B, int64_t b, int64_t length, float *sums,
                                   int64_t stride) {
    int64_t j = 0;
    if (a == ROWS_OF_A)
        for (; j + ROWS_OF_B <= b; j += ROWS_OF_B) pairs_of(A, ROWS_OF_A, B + j * length, ROWS_OF_B, length, sums + j, stride);
    for (; j < b; j++)
        for (int64_t i = 0; i < a; i++) pairs_of(A + i * length, 1, B + j * length, 1, length, sums + i * stride + j, stride);
}

#endif

void eggs_sums_of_larger(const float *A, int64_t a, const float *B, int64_t b, int64_t length, float *sums, eggs_level level,
                         int threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < a; i += ROWS_OF_A)
        UP_TO_AVX2(pairs)(A + i * length, least(ROWS_OF_A, a - i), B, b, length, sums + i * b, b);
}
