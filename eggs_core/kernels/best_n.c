/* Written for a compiler that turns loops of constant length into vectors: AT_ONCE groups lie side by side, so that one
   position of a group is compared with another in all of them at once. With AVX2, groups of 4, 8 and 16 are ranked as they
   lie, in registers; with AVX-512, groups of 16 are sorted, sixteen side by side. */

#include "best_n.h"

#include <string.h>

#include "fours.h"

#define AT_ONCE 16
#define MAX_M 32
/* Columns whose edges a thread adds up, and groups that it projects, before the next. */
#define COLUMNS 1024
#define GROUPS 4096

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

/* ---- the best n with AVX-512 ---- */

/* Sixteen registers of sixteen become their columns. */
TARGET_AVX512 INLINE void transpose(__m512i s[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) t[i] = _mm512_unpacklo_epi32(s[i], s[i + 1]), t[i + 1] = _mm512_unpackhi_epi32(s[i], s[i + 1]);
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; k++) {
            s[i + 2 * k] = _mm512_unpacklo_epi64(t[i + k], t[i + k + 2]);
            s[i + 2 * k + 1] = _mm512_unpackhi_epi64(t[i + k], t[i + k + 2]);
        }
    for (int i = 0; i < 16; i += 8)
        for (int k = 0; k < 4; k++) {
            t[i + k] = _mm512_shuffle_i32x4(s[i + k], s[i + k + 4], 0x88);
            t[i + k + 4] = _mm512_shuffle_i32x4(s[i + k], s[i + k + 4], 0xdd);
        }
    for (int k = 0; k < 8; k++) {
        s[k] = _mm512_shuffle_i32x4(t[k], t[k + 8], 0x88);
        s[k + 8] = _mm512_shuffle_i32x4(t[k], t[k + 8], 0xdd);
    }
}

/* Of those k apart, in parts of 2p, the larger comes first. With p and k known to the compiler, all of s is in registers. */
TARGET_AVX512 INLINE void in_order(__m512i s[16], const int p, const int k) {
#pragma GCC unroll 16
    for (int i = k % p; i < 16 - k; i++)
        if ((i - k % p) / k % 2 == 0 && i / (2 * p) == (i + k) / (2 * p)) {
            __m512i other = s[i + k];
            s[i + k] = _mm512_min_epi32(s[i], other), s[i] = _mm512_max_epi32(s[i], other);
        }
}

/* The largest first, by Batcher's merge exchange (Knuth, "The Art of Computer Programming", volume 3, 5.2.2). */
TARGET_AVX512 INLINE void sort(__m512i s[16]) {
    in_order(s, 1, 1);
    in_order(s, 2, 2), in_order(s, 2, 1);
    in_order(s, 4, 4), in_order(s, 4, 2), in_order(s, 4, 1);
    in_order(s, 8, 8), in_order(s, 8, 4), in_order(s, 8, 2), in_order(s, 8, 1);
}

/* Of more than n bits, as many of those that `level` has too are cleared from the highest on. */
static uint32_t without_last(uint32_t kept, uint32_t level, int n) {
    for (int i = 15; __builtin_popcount(kept) > n; i--) kept &= ~(level & 1u << i);
    return kept;
}

/* Groups of 16, sixteen at a time. Adds what is left out to `lost`. Returns the groups done. */
TARGET_AVX512 static int64_t best_of_sixteen(const int32_t *scores, uint8_t *mask, int64_t groups, int n, double *lost) {
    __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
    int64_t done = groups / 16 * 16;
    for (int64_t g = 0; g < done; g += 16) {
        __m512i sorted[16];
        int32_t of_rank[16][16];
        for (int k = 0; k < 16; k++) sorted[k] = _mm512_loadu_si512(scores + (g + k) * 16);
        transpose(sorted), sort(sorted);
        for (int k = 0; k < 16; k++) _mm512_storeu_si512(of_rank[k], sorted[k]);
        for (int first = 0; first < 16; first += 4) {
            __m512 left_out = _mm512_setzero_ps();
            for (int k = first; k < first + 4; k++) {
                __m512i s = _mm512_loadu_si512(scores + (g + k) * 16), least_kept = _mm512_set1_epi32(of_rank[n - 1][k]);
                uint32_t kept = _mm512_cmpge_epi32_mask(s, least_kept);
                if (__builtin_popcount(kept) > n) kept = without_last(kept, _mm512_cmpeq_epi32_mask(s, least_kept), n);
                _mm_storeu_si128((__m128i *)(mask + (g + k) * 16), _mm_maskz_set1_epi8((__mmask16)kept, 1));
                left_out = _mm512_mask_add_ps(left_out, (__mmask16)~kept, left_out, _mm512_castsi512_ps(s));
            }
            low = _mm512_add_pd(low, _mm512_cvtps_pd(_mm512_castps512_ps256(left_out)));
            high = _mm512_add_pd(high, _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(left_out), 1))));
        }
    }
    *lost += _mm512_reduce_add_pd(_mm512_add_pd(low, high));
    return done;
}

TARGET_AVX512 static double best_avx512(const int32_t *scores, uint8_t *mask, int64_t groups, int n, int m) {
    double lost = 0;
    int64_t done = m == 16 ? best_of_sixteen(scores, mask, groups, n, &lost) : 0;
    return lost + best_avx2(scores + done * m, mask + done * m, groups - done, n, m);
}

#endif

/* Of every column in some rows of a mask. */
INLINE void count_edges(const uint8_t *mask, int64_t rows, int64_t columns, uint8_t *edges) {
    memcpy(edges, mask, (size_t)columns);
    for (int64_t r = 1; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) edges[c] += mask[r * columns + c];
}

/* ---- projections ---- */

/* The upper half of the nearest number's bits, of two as near the even one; x is finite. */
INLINE uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* `count` numbers, in whole groups; `mask` tells those of the projection. */
INLINE void project(float *restrict Y, const float *target, const uint8_t *mask, int64_t count, float shrink,
                    void *restrict rest, int bf16) {
    for (int64_t i = 0; i < count; i++) {
        float y = Y[i], kept = mask[i] ? y : 0;
        float left = target[i] + shrink * y - (1 + shrink) * kept;
        Y[i] = kept;
        if (bf16)
            ((uint16_t *)rest)[i] = to_bf16(left);
        else
            ((float *)rest)[i] = left;
    }
}

INLINE void sizes(const float *Y, int64_t count, int32_t *bits) {
    memcpy(bits, Y, (size_t)count * sizeof *bits);
    for (int64_t i = 0; i < count; i++) bits[i] &= INT32_MAX;
}

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

/* ---- levels ---- */

/* Numbers that are projected at a time: what is made of them stays in the first cache. */
#define AT_A_TIME 2048

#define PROJECT_AT_LEVEL(NAME, TARGET)                                                                                  \
    TARGET static void project_##NAME(float *Y, const float *target, int64_t groups, int n, int m, float shrink,        \
                                      void *rest, int bf16) {                                                           \
        int32_t bits[AT_A_TIME];                                                                                        \
        uint8_t mask[AT_A_TIME];                                                                                        \
        int64_t size = AT_A_TIME / m;                                                                                   \
        for (int64_t g = 0; g < groups; g += size) {                                                                    \
            int64_t few = least(size, groups - g), first = g * m;                                                       \
            sizes(Y + first, few * m, bits);                                                                            \
            best_##NAME(bits, mask, few, n, m);                                                                         \
            project(Y + first, target + first, mask, few * m, shrink, (char *)rest + first * (bf16 ? 2 : 4), bf16);     \
        }                                                                                                               \
    }

static void count_edges_portable(const uint8_t *mask, int64_t rows, int64_t columns, uint8_t *edges) {
    count_edges(mask, rows, columns, edges);
}

static double best_portable(const int32_t *scores, uint8_t *mask, int64_t groups, int n, int m) {
    return best(scores, mask, groups, n, m);
}

static double sum_portable(const int32_t *scores, const uint8_t *mask, int64_t count) { return sum(scores, mask, count); }

#ifdef EGGS_X86
TARGET_AVX2 static void count_edges_avx2(const uint8_t *mask, int64_t rows, int64_t columns, uint8_t *edges) {
    count_edges(mask, rows, columns, edges);
}

TARGET_AVX2 static double sum_avx2(const int32_t *scores, const uint8_t *mask, int64_t count) {
    return sum(scores, mask, count);
}

#endif

FOR_LEVELS(PROJECT_AT_LEVEL)

void eggs_best_n(const int32_t *scores, uint8_t *mask, int64_t rows, int64_t columns, int n, int m, double *lost,
                 uint8_t *edges, int64_t *degree, eggs_level level, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < rows; first += EGGS_ROWS) {
        int64_t at = first * columns, count = least(EGGS_ROWS, rows - first), block = first / EGGS_ROWS;
        lost[block] = UP_TO_AVX512(best)(scores + at, mask + at, count * columns / m, n, m);
        UP_TO_AVX2(count_edges)(mask + at, count, columns, edges + block * columns);
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < columns; first += COLUMNS) {
        int64_t last = least(first + COLUMNS, columns);
        memset(degree + first, 0, (size_t)(last - first) * sizeof *degree);
        for (int64_t at = 0; at < rows; at += EGGS_ROWS)
            for (int64_t c = first; c < last; c++) degree[c] += edges[at / EGGS_ROWS * columns + c];
    }
}

void eggs_kept_sums(const int32_t *scores, const uint8_t *mask, int64_t count, double *sums, eggs_level level,
                    int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < count; first += EGGS_SCORES)
        sums[first / EGGS_SCORES] = UP_TO_AVX2(sum)(scores + first, mask + first, least(EGGS_SCORES, count - first));
}

void eggs_project(float *Y, const float *target, int64_t groups, int n, int m, float shrink, void *rest, int bf16,
                  eggs_level level, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < groups; first += GROUPS)
        UP_TO_AVX512(project)(Y + first * m, target + first * m, least(GROUPS, groups - first), n, m, shrink,
                            (char *)rest + first * m * (bf16 ? 2 : 4), bf16);
}
