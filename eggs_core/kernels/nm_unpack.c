/* The way back from the packed form to dense rows. */

#include "packed.h"

eggs_eights eggs_eights_of[4][2];

/* What is stored of a mask of eight columns where a group is m, up to 8, and n odd or not; -1 where a group has not n. */
static int stored_of(int mask, int m, int odd) {
    int stored = 0, bits = 0, parity = 0;
    for (int column = 0; column < 8; column++) {
        parity ^= mask >> column & 1;
        if (column % m < m - 1) {
            stored |= parity << bits++;
        } else {
            if (parity != odd) return -1;
            parity = 0;
        }
    }
    return stored;
}

static void fill(eggs_eights *eights, int stored, int mask) {
    eights->mask[stored] = (uint8_t)mask;
    for (int column = 0, kept = 0; column < 8; column++) {
        int here = mask >> column & 1;
        uint8_t low = (uint8_t)(here ? 2 * kept : NOTHING), high = (uint8_t)(here ? 2 * kept + 1 : NOTHING);
        eights->spread_32[stored][column] = here ? kept : NOTHING;
        memcpy(&eights->spread_16[stored][2 * column], (uint8_t[]){low, high}, 2);
        memcpy(&eights->spread_high[stored][4 * column], (uint8_t[]){NOTHING, NOTHING, low, high}, 4);
        kept += here;
    }
}

__attribute__((constructor)) static void fill_all(void) {
    for (int mask = 0; mask < 256; mask++)
        for (int odd = 0; odd < 2; odd++) {
            for (int kind = 0; kind < 3; kind++) {
                int stored = stored_of(mask, 2 << kind, odd);
                if (stored >= 0) fill(&eggs_eights_of[kind][odd], stored, mask);
            }
            fill(&eggs_eights_of[3][odd], mask, mask);
        }
}

static void unpack_row(const eggs_packed *W, int64_t row, void *dense) {
    const uint8_t *mask = mask_of(W, row);
    int64_t size = size_of(W->dtype);
    const char *value = values_of(W, row);
    memset(dense, 0, (size_t)(W->columns * size));
    const eggs_stored in = stored_in(W);
    uint32_t bits = 0;
    for (int64_t c = 0; c < W->columns; c++, bits >>= 1) {
        if (c % 8 == 0) bits = bits_at(in, mask, c, least(8, W->columns - c));
        if (bits & 1) {
            memcpy((char *)dense + c * size, value, (size_t)size);
            value += size;
        }
    }
}

#ifdef EGGS_X86
/* Steps of 32 columns for as long as whole loads stay within the matrix; then one by one. */
TARGET_AVX2 INLINE void unpack_row_avx2(const eggs_packed *W, int64_t row, char *dense, const int64_t size) {
    const char *value = values_of(W, row), *end = values_of(W, W->rows);
    const uint8_t *mask = mask_of(W, row);
    const int64_t columns = W->columns, readable = mask_readable(W, row);
    const eggs_stored in = stored_in(W);
    int64_t c = 0;
    for (int64_t at = 0; c + 32 <= columns && end - value >= 32 * size && at / 8 + 8 <= readable; at += 4 * in.width) {
        uint64_t stored = stored_at(mask, at);
        _mm_prefetch(value + AHEAD, _MM_HINT_T1);
        UNROLLED for (int k = 0; k < 4; k++, c += 8, stored >>= in.width) {
            uint64_t eight = stored & ((1u << in.width) - 1);
            if (size == 4) {
                __m256 packed = _mm256_loadu_ps((const float *)value);
                _mm256_storeu_ps((float *)dense + c, in_their_columns(packed, in.eights->spread_32[eight]));
            } else {
                __m128i from = _mm_loadu_si128((const __m128i *)in.eights->spread_16[eight]);
                __m128i w = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)value), from);
                _mm_storeu_si128((__m128i *)((uint16_t *)dense + c), w);
            }
            value += __builtin_popcount(in.eights->mask[eight]) * size;
        }
    }
    uint32_t bits = 0;
    for (; c < columns; c++, bits >>= 1) {
        if (c % 8 == 0) bits = bits_at(in, mask, c, least(8, columns - c));
        if (bits & 1)
            memcpy(dense + c * size, value, (size_t)size);
        else
            memset(dense + c * size, 0, (size_t)size);
        value += (bits & 1) * size;
    }
}

TARGET_AVX2 static void unpack_row_of_16_bits_avx2(const eggs_packed *W, int64_t row, void *dense) {
    unpack_row_avx2(W, row, dense, 2);
}

TARGET_AVX2 static void unpack_row_of_32_bits_avx2(const eggs_packed *W, int64_t row, void *dense) {
    unpack_row_avx2(W, row, dense, 4);
}

/* By whole loads, where m divides 32 and they stay within the row. Returns the columns done. */
TARGET_BF16 INLINE int64_t unpack_by_steps(const eggs_packed *W, const uint16_t *values, const uint8_t *mask,
                                           int64_t columns, int64_t readable, uint16_t *dense, int64_t stride,
                                           const int width) {
    const int64_t step = 32 * W->n / W->m, bytes = stored_bits(W, 64) / 8;
    const int64_t whole = whole_steps(W, columns, width, readable);
    const eggs_parities by = parities_of(W);
    for (int64_t i = 0; i < whole; i++, values += 2 * step, dense += 2 * stride) {
        _mm_prefetch((const char *)values + AHEAD, _MM_HINT_T1);
        if (width == 32) _mm_prefetch((const char *)values + AHEAD + 64, _MM_HINT_T1);
        uint64_t bits = bits_of_64(mask + i * bytes, by);
        _mm512_storeu_si512(dense, weights_of_32(values, (uint32_t)bits, width));
        _mm512_storeu_si512(dense + stride, weights_of_32(values + step, (uint32_t)(bits >> 32), width));
    }
    return 64 * whole;
}

TARGET_BF16 INLINE void unpack_steps(const eggs_packed *W, int64_t row, int64_t first, int64_t columns, uint16_t *dense,
                                     int64_t stride, const int whole) {
    const uint16_t *values = (const uint16_t *)values_of(W, row) + first / W->m * W->n;
    const uint8_t *mask = mask_of(W, row);
    const eggs_stored in = stored_in(W);
    int64_t done = 0;
    if (32 % W->m == 0) {
        const int64_t at = stored_bits(W, first) / 8, readable = mask_readable(W, row) - at;
        done = 2 * W->n <= W->m ? unpack_by_steps(W, values, mask + at, columns, readable, dense, stride, 16)
                                : unpack_by_steps(W, values, mask + at, columns, readable, dense, stride, 32);
        values += done / W->m * W->n;
    }
    for (int64_t c = done; c < columns; c += 32) {
        int64_t left = least(32, columns - c);
        __mmask32 inside = left == 32 || whole ? 0xffffffffu : (1u << left) - 1;
        _mm512_mask_storeu_epi16(dense + c / 32 * stride, inside, next_weights(in, &values, mask, first + c, left));
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
