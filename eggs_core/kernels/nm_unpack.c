/* The way back from the packed form to dense rows. */

#include "packed.h"

#ifdef EGGS_X86
int32_t eggs_spread_32[256][8];
uint8_t eggs_spread_16[256][16], eggs_spread_high[256][32];

__attribute__((constructor)) static void fill_spread(void) {
    for (int byte = 0; byte < 256; byte++)
        for (int column = 0, kept = 0; column < 8; column++) {
            int here = byte >> column & 1;
            uint8_t low = (uint8_t)(here ? 2 * kept : NOTHING), high = (uint8_t)(here ? 2 * kept + 1 : NOTHING);
            eggs_spread_32[byte][column] = here ? kept : NOTHING;
            memcpy(&eggs_spread_16[byte][2 * column], (uint8_t[]){low, high}, 2);
            memcpy(&eggs_spread_high[byte][4 * column], (uint8_t[]){NOTHING, NOTHING, low, high}, 4);
            kept += here;
        }
}
#endif

static void unpack_row(const eggs_packed *W, int64_t row, void *dense) {
    const uint8_t *mask = mask_of(W, row);
    int64_t size = size_of(W->dtype);
    const char *value = values_of(W, row);
    memset(dense, 0, (size_t)(W->columns * size));
    for (int64_t c = 0; c < W->columns; c++)
        if (mask[c / 8] >> c % 8 & 1) {
            memcpy((char *)dense + c * size, value, (size_t)size);
            value += size;
        }
}

#ifdef EGGS_X86
/* Eight columns at a time for as long as whole loads stay within the row; then one by one. */
TARGET_AVX2 INLINE void unpack_row_avx2(const eggs_packed *W, int64_t row, char *dense, const int64_t size) {
    const char *value = values_of(W, row), *end = value + kept_of(W) * size;
    const uint8_t *mask = mask_of(W, row);
    int64_t c = 0;
    for (; c + 8 <= W->columns && end - value >= 8 * size; c += 8) {
        uint32_t bits = mask[c / 8];
        _mm_prefetch(value + AHEAD, _MM_HINT_T1);
        if (size == 4) {
            _mm256_storeu_ps((float *)dense + c, in_their_columns(_mm256_loadu_ps((const float *)value), bits));
        } else {
            __m128i from = _mm_loadu_si128((const __m128i *)eggs_spread_16[bits]);
            __m128i w = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)value), from);
            _mm_storeu_si128((__m128i *)((uint16_t *)dense + c), w);
        }
        value += __builtin_popcount(bits) * size;
    }
    for (; c < W->columns; c++) {
        int kept = mask[c / 8] >> c % 8 & 1;
        if (kept)
            memcpy(dense + c * size, value, (size_t)size);
        else
            memset(dense + c * size, 0, (size_t)size);
        value += kept * size;
    }
}

TARGET_AVX2 static void unpack_row_of_16_bits_avx2(const eggs_packed *W, int64_t row, void *dense) {
    unpack_row_avx2(W, row, dense, 2);
}

TARGET_AVX2 static void unpack_row_of_32_bits_avx2(const eggs_packed *W, int64_t row, void *dense) {
    unpack_row_avx2(W, row, dense, 4);
}

/* By whole loads, where m divides 32 and they stay within the row. Returns the columns done. */
TARGET_BF16 INLINE int64_t unpack_by_steps(const uint16_t *values, const uint8_t *mask, int64_t columns, int64_t kept,
                                           int64_t step, uint16_t *dense, int64_t stride, const int width) {
    int64_t loads = kept < width ? 0 : least(columns / 32, (kept - width) / step + 1);
    for (int64_t i = 0; i < loads; i++) {
        _mm_prefetch((const char *)(values + i * step) + AHEAD, _MM_HINT_T1);
        _mm512_storeu_si512(dense + i * stride, weights_of_32(values + i * step, mask + 4 * i, width));
    }
    return 32 * loads;
}

TARGET_BF16 INLINE void unpack_steps(const eggs_packed *W, int64_t row, int64_t first, int64_t columns, uint16_t *dense,
                                     int64_t stride, const int whole) {
    const uint16_t *values = (const uint16_t *)values_of(W, row) + first / W->m * W->n;
    const uint8_t *mask = mask_of(W, row) + first / 8;
    int64_t kept = columns / W->m * W->n, step = 32 * W->n / W->m, done = 0;
    if (32 % W->m == 0) {
        done = 2 * W->n <= W->m ? unpack_by_steps(values, mask, columns, kept, step, dense, stride, 16)
                                : unpack_by_steps(values, mask, columns, kept, step, dense, stride, 32);
        values += done / W->m * W->n;
    }
    for (int64_t c = done; c < columns; c += 32) {
        int64_t left = least(32, columns - c);
        __mmask32 inside = left == 32 || whole ? 0xffffffffu : (1u << left) - 1;
        _mm512_mask_storeu_epi16(dense + c / 32 * stride, inside, next_weights(&values, mask, c, left));
    }
}

TARGET_BF16 static void unpack_row_of_16_bits(const eggs_packed *W, int64_t row, uint16_t *dense) {
    unpack_steps(W, row, 0, W->columns, dense, 32, 0);
}

TARGET_BF16 void eggs_unpack_steps(const eggs_packed *W, int64_t row, int64_t first, int64_t columns, uint16_t *dense,
                                   int64_t stride) {
    unpack_steps(W, row, first, columns, dense, stride, 1);
}
#endif

static void unpack(const eggs_packed *W, int64_t row, void *dense, eggs_level level) {
#ifdef EGGS_X86
    if (level >= EGGS_AVX2) {
        if (W->dtype == EGGS_F32)
            unpack_row_of_32_bits_avx2(W, row, dense);
        else if (level >= EGGS_AVX512_BF16)
            unpack_row_of_16_bits(W, row, dense);
        else
            unpack_row_of_16_bits_avx2(W, row, dense);
        return;
    }
#else
    (void)level;
#endif
    unpack_row(W, row, dense);
}

void eggs_unpack(const eggs_packed *W, int64_t first, int64_t last, void *dense, eggs_level level, int threads) {
    int64_t size = size_of(W->dtype) * W->columns;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = first; row < last; row++) unpack(W, row, (char *)dense + (row - first) * size, level);
}
