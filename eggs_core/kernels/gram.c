/* Tokens are taken in pairs, as the instruction multiplies them: a number of 32 bits holds what two tokens have in a column.
   Columns lie in panels, pair after pair, so that all is read in order. */

#include "gram.h"

#include <stdlib.h>
#include <string.h>

#ifdef EGGS_X86
#include <immintrin.h>

/* Columns of a panel, and of one whose products with a panel are held in registers. */
#define PANEL 48
#define VECTORS (PANEL / 16)
#define ROWS 8
/* Pairs of which two panels stay in the first cache, and such that are taken at a time. */
#define PAIRS 128
#define PAIRS_AT_A_TIME (2 * PAIRS)

/* Of one panel, of which `width` columns are there. */
static void pack(const uint16_t *X, int64_t tokens, int64_t columns, int64_t width, uint32_t *panel) {
    for (int64_t t = 0; t < tokens; t += 2, panel += PANEL) {
        const uint16_t *first = X + t * columns, *second = first + columns;
        for (int64_t c = 0; c < width; c++) panel[c] = first[c] | (t + 1 < tokens ? (uint32_t)second[c] << 16 : 0);
        memset(panel + width, 0, (size_t)(PANEL - width) * sizeof *panel);
    }
}

/* ROWS columns of one panel with all of another: `rows` of the former are there, and of the latter those in `there`. */
TARGET_BF16 static void multiply(const uint32_t *left, const uint32_t *right, int64_t pairs, int64_t rows,
                                 const __mmask16 there[VECTORS], float *gram, int64_t columns) {
    __m512 sums[ROWS][VECTORS];
    for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < VECTORS; v++) sums[i][v] = _mm512_setzero_ps();
    for (int64_t t = 0; t < pairs; t++, left += PANEL, right += PANEL) {
        __m512bh of_right[VECTORS];
        for (int v = 0; v < VECTORS; v++) of_right[v] = (__m512bh)_mm512_loadu_si512(right + 16 * v);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) {
            __m512bh of_left = (__m512bh)_mm512_set1_epi32((int)left[i]);
            for (int v = 0; v < VECTORS; v++) sums[i][v] = _mm512_dpbf16_ps(sums[i][v], of_left, of_right[v]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < VECTORS; v++)
            if (i < rows) {
                float *at = gram + i * columns + 16 * v;
                _mm512_mask_storeu_ps(at, there[v], _mm512_add_ps(sums[i][v], _mm512_maskz_loadu_ps(there[v], at)));
            }
}

/* Panels of some pairs: the rows that one panel is multiplied with begin at `left`, those of the other at `right`. */
static void add_panels(const uint32_t *left, const uint32_t *right, int64_t pairs, int64_t first, int64_t second,
                       int64_t columns, float *gram) {
    __mmask16 there[VECTORS];
    for (int v = 0; v < VECTORS; v++) {
        int64_t width = columns - second - 16 * v;
        there[v] = width >= 16 ? 0xffff : width > 0 ? (__mmask16)((1 << width) - 1) : 0;
    }
    for (int64_t i = 0; i < PANEL && first + i < columns; i += ROWS)
        multiply(left + i, right, pairs, least(ROWS, columns - first - i), there, gram + (first + i) * columns + second,
                 columns);
}

int eggs_add_gram(const uint16_t *X, int64_t tokens, int64_t columns, float *gram, int threads) {
    int64_t panels = (columns + PANEL - 1) / PANEL, size = PAIRS_AT_A_TIME * PANEL;
    uint32_t *packed = malloc((size_t)(panels * size) * sizeof *packed);
    if (packed == NULL) return -1;
    for (int64_t start = 0; start < tokens; start += 2 * PAIRS_AT_A_TIME) {
        int64_t count = least(2 * PAIRS_AT_A_TIME, tokens - start), pairs = (count + 1) / 2;
#pragma omp parallel num_threads(threads)
        {
#pragma omp for schedule(static)
            for (int64_t p = 0; p < panels; p++)
                pack(X + start * columns + p * PANEL, count, columns, least(PANEL, columns - p * PANEL), packed + p * size);
#pragma omp for schedule(dynamic)
            for (int64_t right = panels - 1; right >= 0; right--)
                for (int64_t t = 0; t < pairs; t += PAIRS)
                    for (int64_t left = 0; left <= right; left++)
                        add_panels(packed + left * size + t * PANEL, packed + right * size + t * PANEL,
                                   least(PAIRS, pairs - t), left * PANEL, right * PANEL, columns, gram);
        }
    }
    free(packed);
    return 0;
}
#else
int eggs_add_gram(const uint16_t *X, int64_t tokens, int64_t columns, float *gram, int threads) {
    (void)X, (void)tokens, (void)columns, (void)gram, (void)threads;
    return -1;
}
#endif
