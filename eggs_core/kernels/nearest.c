/* Goes down the rows with a few channels, whose lines it asks for from memory ahead, and sorts what it found of each. */

#include "nearest.h"

#include <stdlib.h>
#include <string.h>

#include "fours.h"

/* Channels at once; rows that are asked for from memory ahead; and by how much what is found of a channel is longer than
   there are rows: else that of all channels may fall into the same set of a cache. */
#define CHANNELS 8
#define AHEAD 4
#define APART 16
#define DIGIT_BITS 11
#define DIGITS (1 << DIGIT_BITS)

/* ---- what channels fall short by ---- */

/* Of `count` channels in one row, by[i * stride]. */
typedef void short_in_row(const int32_t *scores, const uint8_t *mask, int n, int m, const int64_t *channels, int64_t count,
                          float *by, int64_t stride);

INLINE float difference(int32_t threshold_bits, int32_t score_bits) {
    float threshold, score;
    memcpy(&threshold, &threshold_bits, 4), memcpy(&score, &score_bits, 4);
    return threshold - score;
}

static void short_in_row_portable(const int32_t *scores, const uint8_t *mask, int n, int m, const int64_t *channels,
                                  int64_t count, float *by, int64_t stride) {
    (void)n;
    for (int64_t i = 0; i < count; i++) {
        int64_t channel = channels[i], group = channel - channel % m;
        int32_t lowest = INT32_MAX;
        for (int k = 0; k < m; k++) {
            int32_t other = scores[group + k] | (mask[group + k] ? 0 : INT32_MAX);
            lowest = other < lowest ? other : lowest;
        }
        by[i * stride] = mask[channel] ? -1.0f : difference(lowest, scores[channel]);
    }
}

#ifdef EGGS_X86

TARGET_AVX2 INLINE int32_t lowest_of_four(__m128i s) {
    s = _mm_min_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_min_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* Ranks the group once more instead of reading the mask, which would take as many lines of memory again. */
TARGET_AVX2 INLINE void short_in_row_of_four(const int32_t *scores, int n, const int64_t *channels, int64_t count, float *by,
                                             int64_t stride) {
    for (int64_t i = 0; i < count; i++) {
        int64_t channel = channels[i];
        __m128i s = _mm_loadu_si128((const __m128i *)(scores + (channel & -4)));
        __m128i beaten = _mm256_castsi256_si128(beaten_in_four(_mm256_castsi128_si256(s)));
        __m128i kept = _mm_cmpgt_epi32(beaten, _mm_set1_epi32(-n));
        int32_t threshold = lowest_of_four(_mm_or_si128(s, _mm_andnot_si128(kept, _mm_set1_epi32(INT32_MAX))));
        int itself = _mm_movemask_ps(_mm_castsi128_ps(kept)) >> (channel & 3) & 1;
        by[i * stride] = itself ? -1.0f : difference(threshold, scores[channel]);
    }
}

/* Of groups of a multiple of four. */
TARGET_AVX2 INLINE void short_in_row_of_fours(const int32_t *scores, const uint8_t *mask, const int m,
                                              const int64_t *channels, int64_t count, float *by, int64_t stride) {
    for (int64_t i = 0; i < count; i++) {
        int64_t channel = channels[i], group = channel & -m;
        __m128i lowest = _mm_set1_epi32(INT32_MAX);
        for (int k = 0; k < m; k += 4) {
            int32_t bytes;
            memcpy(&bytes, mask + group + k, 4);
            __m128i others = _mm_add_epi32(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(bytes)), _mm_set1_epi32(-1));
            __m128i score = _mm_loadu_si128((const __m128i *)(scores + group + k));
            lowest = _mm_min_epi32(lowest, _mm_or_si128(score, _mm_srli_epi32(others, 1)));
        }
        by[i * stride] = mask[channel] ? -1.0f : difference(lowest_of_four(lowest), scores[channel]);
    }
}

TARGET_AVX2 static void short_in_row_avx2(const int32_t *scores, const uint8_t *mask, int n, int m, const int64_t *channels,
                                          int64_t count, float *by, int64_t stride) {
    switch (m) {
    case 4: short_in_row_of_four(scores, n, channels, count, by, stride); break;
    case 8: short_in_row_of_fours(scores, mask, 8, channels, count, by, stride); break;
    case 16: short_in_row_of_fours(scores, mask, 16, channels, count, by, stride); break;
    default: short_in_row_portable(scores, mask, n, m, channels, count, by, stride);
    }
}

#endif

/* ---- the least of them ---- */

/* Of 32 bits of a float, unsigned integers of the same order. */
INLINE uint32_t to_key(int32_t bits) { return (uint32_t)bits ^ (bits < 0 ? UINT32_MAX : 1u << 31); }
INLINE int32_t to_bits(uint32_t key) { return (int32_t)(key ^ (key >> 31 ? 1u << 31 : UINT32_MAX)); }

INLINE int64_t digit(uint64_t key, int number) { return (int64_t)(key >> (32 + number * DIGIT_BITS)) & (DIGITS - 1); }

/* By one digit, those that are equal in it in the order in which they were. */
static void by_digit(const uint64_t *pairs, int64_t count, int number, uint64_t *sorted) {
    int64_t place[DIGITS] = {0}, before = 0;
    for (int64_t i = 0; i < count; i++) place[digit(pairs[i], number)]++;
    for (int d = 0; d < DIGITS; d++) {
        int64_t equal = place[d];
        place[d] = before, before += equal;
    }
    for (int64_t i = 0; i < count; i++) sorted[place[digit(pairs[i], number)]++] = pairs[i];
}

/* Pairs of a key, in the upper half, and a row: leaves out what the highest digit tells to be beyond the least `size` of them,
   and sorts the others by radix, the lowest digit first (Knuth, "The Art of Computer Programming", volume 3, 5.2.5). */
static void sort_least(uint64_t *pairs, int64_t count, int64_t size, uint64_t *sorted) {
    int64_t equal[DIGITS] = {0}, enough = 0, left = 0, last = -1;
    for (int64_t i = 0; i < count; i++) equal[digit(pairs[i], 2)]++;
    while (enough < size) enough += equal[++last];
    for (int64_t i = 0; i < count; i++) {
        pairs[left] = pairs[i];
        left += digit(pairs[i], 2) <= last;
    }
    by_digit(pairs, left, 0, sorted);
    by_digit(sorted, left, 1, pairs);
    by_digit(pairs, left, 2, sorted);
}

/* ---- both ---- */

/* In all rows, of a few channels: found[i * (rows + APART) + r]. */
static void short_in_rows(const int32_t *scores, const uint8_t *mask, int64_t rows, int64_t columns, int n, int m,
                          const int64_t *channels, int64_t count, float *found, short_in_row *in_row) {
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < count && r + AHEAD < rows; i++) {
            int64_t soon = (r + AHEAD) * columns + channels[i];
            __builtin_prefetch(scores + soon);
            if (m != 4) __builtin_prefetch(mask + soon);
        }
        in_row(scores + r * columns, mask + r * columns, n, m, channels, count, found + r, rows + APART);
    }
}

/* Of one channel, with memory for pairs (2, rows). */
static void least_of(const float *found, int64_t rows, int64_t size, float *by, int64_t *row, uint64_t *pairs) {
    for (int64_t r = 0; r < rows; r++) {
        int32_t bits;
        memcpy(&bits, found + r, 4);
        pairs[r] = (uint64_t)to_key(bits) << 32 | (uint64_t)r;
    }
    sort_least(pairs, rows, size, pairs + rows);
    for (int64_t i = 0; i < size; i++) {
        int32_t bits = to_bits((uint32_t)(pairs[rows + i] >> 32));
        memcpy(by + i, &bits, 4);
        row[i] = (int64_t)(uint32_t)pairs[rows + i];
    }
}

int eggs_nearest(const int32_t *scores, const uint8_t *mask, int64_t rows, int64_t columns, int n, int m,
                 const int64_t *channels, int64_t count, int64_t size, float *by, int64_t *row, eggs_level level,
                 int threads) {
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *found = malloc((size_t)(CHANNELS * (rows + APART)) * sizeof *found);
        uint64_t *pairs = malloc((size_t)(2 * rows) * sizeof *pairs);
        failed = found == NULL || pairs == NULL;
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < count; first += CHANNELS) {
            int64_t few = failed ? 0 : least(CHANNELS, count - first);
            short_in_rows(scores, mask, rows, columns, n, m, channels + first, few, found, UP_TO_AVX2(short_in_row));
            for (int64_t i = 0; i < few; i++)
                least_of(found + i * (rows + APART), rows, size, by + (first + i) * size, row + (first + i) * size, pairs);
        }
        free(found), free(pairs);
    }
    return failed ? -1 : 0;
}
