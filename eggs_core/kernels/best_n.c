/* Written for a compiler that turns loops of constant length into vectors: AT_ONCE groups lie side by side, so that one
   position of a group is compared with another in all of them at once. */

#include "best_n.h"

#include <string.h>

#define AT_ONCE 16
#define MAX_M 32
/* Groups that a thread takes at a time. */
#define BLOCK 4096

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- the best n ---- */

/* `count` groups, AT_ONCE at most. */
INLINE void best_of_few(const int32_t *scores, uint8_t *mask, int count, int n, int m) {
    int32_t at[MAX_M][AT_ONCE];
    for (int g = 0; g < count; g++)
        for (int k = 0; k < m; k++) at[k][g] = scores[g * m + k];
    for (int first = 0; first < m; first += 4) {
        int32_t bytes[AT_ONCE] = {0}; /* of up to four positions: the first lowest, the order of x86 and most others */
        int last = first + 4 < m ? first + 4 : m;
        for (int k = first; k < last; k++) {
            int32_t beaten[AT_ONCE] = {0};
            for (int i = 0; i < k; i++)
                for (int g = 0; g < AT_ONCE; g++) beaten[g] += at[i][g] >= at[k][g];
            for (int i = k + 1; i < m; i++)
                for (int g = 0; g < AT_ONCE; g++) beaten[g] += at[i][g] > at[k][g];
            for (int g = 0; g < AT_ONCE; g++) bytes[g] |= (beaten[g] < n) << 8 * (k - first);
        }
        for (int g = 0; g < count; g++) memcpy(mask + g * m + first, &bytes[g], (size_t)(last - first));
    }
}

INLINE void best_of_many(const int32_t *scores, uint8_t *mask, int64_t groups, int n, int m) {
    int64_t g = 0;
    for (; g + AT_ONCE <= groups; g += AT_ONCE) best_of_few(scores + g * m, mask + g * m, AT_ONCE, n, m);
    if (g < groups) best_of_few(scores + g * m, mask + g * m, (int)(groups - g), n, m);
}

INLINE void best(const int32_t *scores, uint8_t *mask, int64_t groups, int n, int m) {
    switch (m) { /* with m known, the loops over a group are unrolled */
    case 4: best_of_many(scores, mask, groups, n, 4); break;
    case 8: best_of_many(scores, mask, groups, n, 8); break;
    case 16: best_of_many(scores, mask, groups, n, 16); break;
    default: best_of_many(scores, mask, groups, n, m);
    }
}

/* ---- sums ---- */

INLINE double sum(const float *scores, const uint8_t *mask, int64_t count, int kept) {
    double sums[AT_ONCE] = {0}, total = 0;
    int64_t i = 0;
    for (; i + AT_ONCE <= count; i += AT_ONCE)
        for (int k = 0; k < AT_ONCE; k++) sums[k] += mask[i + k] == kept ? scores[i + k] : 0.0f;
    for (int k = 0; i + k < count; k++) sums[k] += mask[i + k] == kept ? scores[i + k] : 0.0f;
    for (int k = 0; k < AT_ONCE; k++) total += sums[k];
    return total;
}

/* ---- levels ---- */

#define AT_LEVEL(NAME, TARGET)                                                                                        \
    TARGET static void best_##NAME(const int32_t *scores, uint8_t *mask, int64_t groups, int n, int m) {              \
        best(scores, mask, groups, n, m);                                                                             \
    }                                                                                                                 \
    TARGET static double sum_##NAME(const float *scores, const uint8_t *mask, int64_t count, int kept) {              \
        return sum(scores, mask, count, kept);                                                                        \
    }

AT_LEVEL(portable, )
#ifdef EGGS_X86
AT_LEVEL(avx2, TARGET_AVX2)
#define CHOSEN(NAME) (level >= EGGS_AVX2 ? NAME##_avx2 : NAME##_portable)
#else
#define CHOSEN(NAME) NAME##_portable
#endif

void eggs_best_n(const int32_t *scores, uint8_t *mask, int64_t groups, int n, int m, eggs_level level, int threads) {
    (void)level;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < groups; first += BLOCK)
        CHOSEN(best)(scores + first * m, mask + first * m, least(BLOCK, groups - first), n, m);
}

void eggs_masked_sums(const float *scores, const uint8_t *mask, int64_t count, int kept, double *sums, eggs_level level,
                      int threads) {
    (void)level;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < count; first += EGGS_SUMMED)
        sums[first / EGGS_SUMMED] = CHOSEN(sum)(scores + first, mask + first, least(EGGS_SUMMED, count - first), kept);
}
