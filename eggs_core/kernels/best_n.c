/* Written for a compiler that turns loops of constant length into vectors: AT_ONCE groups lie side by side, so that one
   position of a group is compared with another in all of them at once. With AVX2, groups of 4, 8 and 16 are ranked as they
   lie, in registers. */

#include "best_n.h"

#include <string.h>

#ifdef EGGS_X86
#include <immintrin.h>
#endif

#define AT_ONCE 16
#define MAX_M 32
/* Rows of one channel that are written one after the other, and channels of a row that are asked for from memory ahead. */
#define ROWS 64
#define AHEAD 24

/* ---- the best n ---- */

/* `count` groups, AT_ONCE at most. What is left out is added to `lost`. */
INLINE void best_of_few(const int32_t *scores, uint8_t *mask, int count, int n, int m, double *lost) {
    int32_t at[MAX_M][AT_ONCE];
    float of_group[AT_ONCE] = {0};
    if (count < AT_ONCE) memset(at, 0, sizeof at);
    for (int g = 0; g < count; g++)
        for (int k = 0; k < m; k++) at[k][g] = scores[g * m + k];
    for (int first = 0; first < m; first += 4) {
        int32_t bytes[AT_ONCE] = {0}; /* of up to four positions: the first lowest, the order of x86 and most others */
        int last = first + 4 < m ? first + 4 : m;
        for (int k = first; k < last; k++) {
            int32_t beaten[AT_ONCE] = {0}, bits[AT_ONCE];
            float left_out[AT_ONCE];
            for (int i = 0; i < k; i++)
                for (int g = 0; g < AT_ONCE; g++) beaten[g] += at[i][g] >= at[k][g];
            for (int i = k + 1; i < m; i++)
                for (int g = 0; g < AT_ONCE; g++) beaten[g] += at[i][g] > at[k][g];
            for (int g = 0; g < AT_ONCE; g++) bytes[g] |= (beaten[g] < n) << 8 * (k - first);
            for (int g = 0; g < AT_ONCE; g++) bits[g] = at[k][g] & -(beaten[g] >= n);
            memcpy(left_out, bits, sizeof bits);
            for (int g = 0; g < AT_ONCE; g++) of_group[g] += left_out[g];
        }
        for (int g = 0; g < count; g++) memcpy(mask + g * m + first, &bytes[g], (size_t)(last - first));
    }
    for (int g = 0; g < AT_ONCE; g++) lost[g] += of_group[g];
}

INLINE double total(const double *sums) {
    double sum = 0;
    for (int k = 0; k < AT_ONCE; k++) sum += sums[k];
    return sum;
}

INLINE double best_of_many(const int32_t *scores, uint8_t *mask, int64_t groups, int n, int m) {
    double lost[AT_ONCE] = {0};
    int64_t g = 0;
    for (; g + AT_ONCE <= groups; g += AT_ONCE) best_of_few(scores + g * m, mask + g * m, AT_ONCE, n, m, lost);
    if (g < groups) best_of_few(scores + g * m, mask + g * m, (int)(groups - g), n, m, lost);
    return total(lost);
}

INLINE double best(const int32_t *scores, uint8_t *mask, int64_t groups, int n, int m) {
    switch (m) { /* with m known, the loops over a group are unrolled */
    case 4: return best_of_many(scores, mask, groups, n, 4);
    case 8: return best_of_many(scores, mask, groups, n, 8);
    case 16: return best_of_many(scores, mask, groups, n, 16);
    default: return best_of_many(scores, mask, groups, n, m);
    }
}

#ifdef EGGS_X86

/* ---- the best n with AVX2 ---- */

/* -1 for each of the three others of its four that beats a score. An equal one does where it lies further left: it is
   greater than the score less one bit. */
TARGET_AVX2 INLINE __m256i beaten_in_four(__m256i s) {
    const __m256i of_1 = _mm256_setr_epi32(0, 0, 0, -1, 0, 0, 0, -1);
    const __m256i of_2 = _mm256_setr_epi32(0, 0, -1, -1, 0, 0, -1, -1);
    const __m256i of_3 = _mm256_setr_epi32(0, -1, -1, -1, 0, -1, -1, -1);
    __m256i by_1 = _mm256_cmpgt_epi32(_mm256_shuffle_epi32(s, 0x39), _mm256_add_epi32(s, of_1));
    __m256i by_2 = _mm256_cmpgt_epi32(_mm256_shuffle_epi32(s, 0x4e), _mm256_add_epi32(s, of_2));
    __m256i by_3 = _mm256_cmpgt_epi32(_mm256_shuffle_epi32(s, 0x93), _mm256_add_epi32(s, of_3));
    return _mm256_add_epi32(_mm256_add_epi32(by_1, by_2), by_3);
}

/* -1 for each four of `other`, a half of the register each, that is greater than a score. */
TARGET_AVX2 INLINE __m256i below_four(__m256i s, __m256i other) {
    __m256i by_0 = _mm256_cmpgt_epi32(other, s), by_1 = _mm256_cmpgt_epi32(_mm256_shuffle_epi32(other, 0x39), s);
    __m256i by_2 = _mm256_cmpgt_epi32(_mm256_shuffle_epi32(other, 0x4e), s);
    __m256i by_3 = _mm256_cmpgt_epi32(_mm256_shuffle_epi32(other, 0x93), s);
    return _mm256_add_epi32(_mm256_add_epi32(by_0, by_1), _mm256_add_epi32(by_2, by_3));
}

TARGET_AVX2 INLINE __m256i halves_exchanged(__m256i s) { return _mm256_permute2x128_si256(s, s, 1); }

TARGET_AVX2 INLINE __m256i below_eight(__m256i s, __m256i other) {
    return _mm256_add_epi32(below_four(s, other), below_four(s, halves_exchanged(other)));
}

/* -1 for each of the seven others of its eight that beats a score. */
TARGET_AVX2 INLINE __m256i beaten_in_eight(__m256i s) {
    __m256i less = _mm256_add_epi32(s, _mm256_setr_epi32(0, 0, 0, 0, -1, -1, -1, -1));
    return _mm256_add_epi32(beaten_in_four(s), below_four(less, halves_exchanged(s)));
}

/* The same for two registers with a group of sixteen. */
TARGET_AVX2 INLINE void beaten_in_sixteen(const __m256i s[2], __m256i beaten[2]) {
    __m256i less = _mm256_add_epi32(s[1], _mm256_set1_epi32(-1));
    beaten[0] = _mm256_add_epi32(beaten_in_eight(s[0]), below_eight(s[0], s[1]));
    beaten[1] = _mm256_add_epi32(beaten_in_eight(s[1]), below_eight(less, s[0]));
}

/* Groups of m = 4, 8 or 16, 32 scores at a time. Adds what is left out to `lost`. Returns the groups done. */
TARGET_AVX2 INLINE int64_t best_of_registers(const int32_t *scores, uint8_t *mask, int64_t groups, int n, const int m,
                                             double *lost) {
    const __m256i enough = _mm256_set1_epi32(-n), in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    int64_t done = groups * m / 32 * 32;
    for (int64_t i = 0; i < done; i += 32) {
        __m256i s[4], beaten[4], kept[4];
        __m256 left_out[4];
        for (int k = 0; k < 4; k++) s[k] = _mm256_loadu_si256((const __m256i *)(scores + i + 8 * k));
        if (m == 16)
            for (int k = 0; k < 4; k += 2) beaten_in_sixteen(s + k, beaten + k);
        else
            for (int k = 0; k < 4; k++) beaten[k] = m == 4 ? beaten_in_four(s[k]) : beaten_in_eight(s[k]);
        for (int k = 0; k < 4; k++) {
            kept[k] = _mm256_cmpgt_epi32(beaten[k], enough);
            left_out[k] = _mm256_castsi256_ps(_mm256_andnot_si256(kept[k], s[k]));
        }
        __m256i pairs = _mm256_packs_epi32(kept[0], kept[1]), others = _mm256_packs_epi32(kept[2], kept[3]);
        __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(pairs, others), in_order);
        _mm256_storeu_si256((__m256i *)(mask + i), _mm256_abs_epi8(bytes));
        __m256 sum = _mm256_add_ps(_mm256_add_ps(left_out[0], left_out[1]), _mm256_add_ps(left_out[2], left_out[3]));
        low = _mm256_add_pd(low, _mm256_cvtps_pd(_mm256_castps256_ps128(sum)));
        high = _mm256_add_pd(high, _mm256_cvtps_pd(_mm256_extractf128_ps(sum, 1)));
    }
    double sums[4];
    _mm256_storeu_pd(sums, _mm256_add_pd(low, high));
    *lost += sums[0] + sums[1] + sums[2] + sums[3];
    return done / m;
}

TARGET_AVX2 static double best_avx2(const int32_t *scores, uint8_t *mask, int64_t groups, int n, int m) {
    double lost = 0;
    int64_t done = 0;
    if (m == 4) done = best_of_registers(scores, mask, groups, n, 4, &lost);
    if (m == 8) done = best_of_registers(scores, mask, groups, n, 8, &lost);
    if (m == 16) done = best_of_registers(scores, mask, groups, n, 16, &lost);
    return lost + best(scores + done * m, mask + done * m, groups - done, n, m);
}

#endif

/* ---- sums ---- */

/* `scores` as their bits: a number that is left out has all of them cleared, which takes no branch. */
INLINE double sum(const int32_t *scores, const uint8_t *mask, int64_t count) {
    double sums[AT_ONCE] = {0};
    for (int64_t i = 0; i < count; i += AT_ONCE) {
        int32_t bits[AT_ONCE] = {0};
        float wanted[AT_ONCE];
        if (i + AT_ONCE <= count)
            for (int k = 0; k < AT_ONCE; k++) bits[k] = scores[i + k] & -(int32_t)mask[i + k];
        else
            for (int k = 0; i + k < count; k++) bits[k] = scores[i + k] & -(int32_t)mask[i + k];
        memcpy(wanted, bits, sizeof bits);
        for (int k = 0; k < AT_ONCE; k++) sums[k] += wanted[k];
    }
    return total(sums);
}

/* ---- what channels fall short by ---- */

/* bits[i]: of the least score that is kept of the group of channel i, in one row. */
typedef void least_kept(const int32_t *scores, const uint8_t *mask, int m, const int64_t *channels, int64_t count,
                        int32_t *bits);

static void least_kept_portable(const int32_t *scores, const uint8_t *mask, int m, const int64_t *channels, int64_t count,
                                int32_t *bits) {
    for (int64_t i = 0; i < count; i++) {
        int64_t group = channels[i] - channels[i] % m;
        bits[i] = INT32_MAX;
        for (int k = 0; k < m; k++) {
            int32_t other = scores[group + k] | (mask[group + k] ? 0 : INT32_MAX);
            bits[i] = other < bits[i] ? other : bits[i];
        }
    }
}

#ifdef EGGS_X86

/* Of groups of a multiple of four. */
TARGET_AVX2 INLINE void least_kept_of_fours(const int32_t *scores, const uint8_t *mask, const int m,
                                            const int64_t *channels, int64_t count, int32_t *bits) {
    for (int64_t i = 0; i < count; i++) {
        int64_t group = channels[i] & -m;
        __m128i lowest = _mm_set1_epi32(INT32_MAX);
        for (int k = 0; k < m; k += 4) {
            int32_t bytes;
            memcpy(&bytes, mask + group + k, 4);
            __m128i others = _mm_add_epi32(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(bytes)), _mm_set1_epi32(-1));
            __m128i score = _mm_loadu_si128((const __m128i *)(scores + group + k));
            lowest = _mm_min_epi32(lowest, _mm_or_si128(score, _mm_srli_epi32(others, 1)));
        }
        lowest = _mm_min_epi32(lowest, _mm_shuffle_epi32(lowest, 0x4e));
        bits[i] = _mm_cvtsi128_si32(_mm_min_epi32(lowest, _mm_shuffle_epi32(lowest, 0xb1)));
    }
}

TARGET_AVX2 static void least_kept_avx2(const int32_t *scores, const uint8_t *mask, int m, const int64_t *channels,
                                        int64_t count, int32_t *bits) {
    switch (m) {
    case 4: least_kept_of_fours(scores, mask, 4, channels, count, bits); break;
    case 8: least_kept_of_fours(scores, mask, 8, channels, count, bits); break;
    case 16: least_kept_of_fours(scores, mask, 16, channels, count, bits); break;
    default: least_kept_portable(scores, mask, m, channels, count, bits);
    }
}

#endif

static void short_of_rows(const int32_t *scores, const uint8_t *mask, int64_t rows, int64_t columns, int m,
                          const int64_t *channels, int64_t count, int64_t first, int64_t last, float *by,
                          least_kept *least_of) {
    int32_t bits[AHEAD];
    for (int64_t r = first; r < last; r++) {
        const int32_t *row = scores + r * columns;
        const uint8_t *kept = mask + r * columns;
        for (int64_t start = 0; start < count; start += AHEAD) {
            int64_t size = least(AHEAD, count - start);
            for (int64_t i = start + AHEAD; i < least(start + 2 * AHEAD, count); i++)
                __builtin_prefetch(row + channels[i]), __builtin_prefetch(kept + channels[i]);
            least_of(row, kept, m, channels + start, size, bits);
            for (int64_t i = 0; i < size; i++) {
                float threshold, score;
                int64_t channel = channels[start + i];
                memcpy(&threshold, bits + i, 4), memcpy(&score, row + channel, 4);
                by[(start + i) * rows + r] = kept[channel] ? -1.0f : threshold - score;
            }
        }
    }
}

/* ---- levels ---- */

static double best_portable(const int32_t *scores, uint8_t *mask, int64_t groups, int n, int m) {
    return best(scores, mask, groups, n, m);
}

static double sum_portable(const int32_t *scores, const uint8_t *mask, int64_t count) { return sum(scores, mask, count); }

#ifdef EGGS_X86
TARGET_AVX2 static double sum_avx2(const int32_t *scores, const uint8_t *mask, int64_t count) {
    return sum(scores, mask, count);
}

#define CHOSEN(NAME) (level >= EGGS_AVX2 ? NAME##_avx2 : NAME##_portable)
#else
#define CHOSEN(NAME) NAME##_portable
#endif

void eggs_shortfalls(const int32_t *scores, const uint8_t *mask, int64_t rows, int64_t columns, int m,
                     const int64_t *channels, int64_t count, float *by, eggs_level level, int threads) {
    (void)level;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < rows; first += ROWS)
        short_of_rows(scores, mask, rows, columns, m, channels, count, first, least(first + ROWS, rows), by,
                      CHOSEN(least_kept));
}

void eggs_best_n(const int32_t *scores, uint8_t *mask, int64_t groups, int n, int m, double *lost, eggs_level level,
                 int threads) {
    (void)level;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < groups; first += EGGS_GROUPS)
        lost[first / EGGS_GROUPS] =
            CHOSEN(best)(scores + first * m, mask + first * m, least(EGGS_GROUPS, groups - first), n, m);
}

void eggs_kept_sums(const int32_t *scores, const uint8_t *mask, int64_t count, double *sums, eggs_level level,
                    int threads) {
    (void)level;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < count; first += EGGS_SCORES)
        sums[first / EGGS_SCORES] = CHOSEN(sum)(scores + first, mask + first, least(EGGS_SCORES, count - first));
}
