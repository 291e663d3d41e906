/* Written for a compiler that turns loops of constant length into vectors: AT_ONCE groups lie side by side, so that one
   position of a group is compared with another in all of them at once. */

#include "best_n.h"

#include <string.h>

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

INLINE void short_of_rows(const int32_t *scores, const uint8_t *mask, int64_t rows, int64_t columns, int m,
                          const int64_t *channels, int64_t count, int64_t first, int64_t last, float *by) {
    for (int64_t r = first; r < last; r++)
        for (int64_t i = 0; i < count; i++) {
            int64_t own = r * columns + channels[i], group = own - channels[i] % m;
            int64_t soon = r * columns + channels[least(i + AHEAD, count - 1)];
            __builtin_prefetch(scores + soon), __builtin_prefetch(mask + soon);
            int32_t bits = INT32_MAX;
            float threshold, score;
            for (int k = 0; k < m; k++) {
                int32_t other = scores[group + k] | (mask[group + k] ? 0 : INT32_MAX);
                bits = other < bits ? other : bits;
            }
            memcpy(&threshold, &bits, 4), memcpy(&score, scores + own, 4);
            by[i * rows + r] = mask[own] ? -1.0f : threshold - score;
        }
}

/* ---- levels ---- */

#define AT_LEVEL(NAME, TARGET)                                                                                        \
    TARGET static double best_##NAME(const int32_t *scores, uint8_t *mask, int64_t groups, int n, int m) {            \
        return best(scores, mask, groups, n, m);                                                                      \
    }                                                                                                                 \
    TARGET static double sum_##NAME(const int32_t *scores, const uint8_t *mask, int64_t count) {            \
        return sum(scores, mask, count);                                                                        \
    }

AT_LEVEL(portable, )
#ifdef EGGS_X86
AT_LEVEL(avx2, TARGET_AVX2)
#define CHOSEN(NAME) (level >= EGGS_AVX2 ? NAME##_avx2 : NAME##_portable)
#else
#define CHOSEN(NAME) NAME##_portable
#endif

void eggs_shortfalls(const int32_t *scores, const uint8_t *mask, int64_t rows, int64_t columns, int m,
                     const int64_t *channels, int64_t count, float *by, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < rows; first += ROWS) {
        int64_t last = least(first + ROWS, rows);
        switch (m) {
        case 4: short_of_rows(scores, mask, rows, columns, 4, channels, count, first, last, by); break;
        case 8: short_of_rows(scores, mask, rows, columns, 8, channels, count, first, last, by); break;
        case 16: short_of_rows(scores, mask, rows, columns, 16, channels, count, first, last, by); break;
        default: short_of_rows(scores, mask, rows, columns, m, channels, count, first, last, by);
        }
    }
}

void eggs_best_n(const int32_t *scores, uint8_t *mask, int64_t groups, int n, int m, double *lost, eggs_level level,
                 int threads) {
    if (m <= 8) level = EGGS_PORTABLE; /* of short groups compilers put side by side no faster with AVX2, or slower */
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
