/* Tokens are taken in pairs, as the instructions multiply them: a number of 32 bits holds what two tokens have in a column.
   Columns lie in panels, pair after pair, so that all is read in order. */

#include "gram.h"

#include "amx.h"

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

/* A panel of `whole` columns, of which `width` are there. */
INLINE void pack(const uint16_t *X, int64_t tokens, int64_t columns, int64_t width, uint32_t *panel, const int64_t whole) {
    for (int64_t t = 0; t < tokens; t += 2, panel += whole) {
        const uint16_t *first = X + t * columns, *second = first + columns;
        for (int64_t c = 0; c < width; c++) panel[c] = first[c] | (t + 1 < tokens ? (uint32_t)second[c] << 16 : 0);
        memset(panel + width, 0, (size_t)(whole - width) * sizeof *panel);
    }
}

/* ---- in registers ---- */

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

static int by_registers(const uint16_t *X, int64_t tokens, int64_t columns, float *gram, int threads) {
    int64_t panels = ceiling(columns, PANEL), size = PAIRS_AT_A_TIME * PANEL;
    uint32_t *packed = malloc((size_t)(panels * size) * sizeof *packed);
    if (packed == NULL) return -1;
    for (int64_t start = 0; start < tokens; start += 2 * PAIRS_AT_A_TIME) {
        int64_t count = least(2 * PAIRS_AT_A_TIME, tokens - start), pairs = ceiling(count, 2);
#pragma omp parallel num_threads(threads)
        {
#pragma omp for schedule(static)
            for (int64_t p = 0; p < panels; p++)
                pack(X + start * columns + p * PANEL, count, columns, least(PANEL, columns - p * PANEL), packed + p * size,
                     PANEL);
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

/* ---- AMX ---- */

#ifdef EGGS_HAS_AMX

#define AMX_PANEL (2 * SIDE)
/* Pairs taken at a time, a multiple of SIDE. */
#define AMX_PAIRS 512
/* Panels that stay in the second-level cache while one after the other comes to be multiplied with them. */
#define AMX_PANELS 4

/* A panel's pairs, SIDE after SIDE, column by column. */
static void transpose(const uint32_t *panel, int64_t pairs, uint32_t *to) {
    for (int64_t t = 0; t < pairs; t += SIDE, panel += SIDE * AMX_PANEL, to += SIDE * AMX_PANEL)
        for (int64_t i = 0; i < SIDE; i += 4)
            for (int64_t c = 0; c < AMX_PANEL; c += 4)
                transpose_4_by_4(panel + i * AMX_PANEL + c, 4 * AMX_PANEL, to + c * SIDE + i, 4 * SIDE);
}

/* The columns of one panel, transposed, with those of another. */
TARGET_AMX static void amx_multiply(const uint32_t *left, const uint32_t *right, int64_t pairs, float *sums) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    WRITTEN;
    for (int64_t t = 0; t < pairs; t += SIDE, left += SIDE * AMX_PANEL, right += SIDE * AMX_PANEL) {
        _tile_loadd(4, left, 4 * SIDE);
        _tile_loadd(5, left + SIDE * SIDE, 4 * SIDE);
        _tile_loadd(6, right, 4 * AMX_PANEL);
        _tile_loadd(7, right + SIDE, 4 * AMX_PANEL);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, 4 * AMX_PANEL);
    _tile_stored(1, sums + SIDE, 4 * AMX_PANEL);
    _tile_stored(2, sums + SIDE * AMX_PANEL, 4 * AMX_PANEL);
    _tile_stored(3, sums + SIDE * AMX_PANEL + SIDE, 4 * AMX_PANEL);
}

/* Panels whose columns begin at `first` and at `second`. */
TARGET_BF16 static void amx_add_panels(const uint32_t *left, const uint32_t *right, int64_t pairs, int64_t first,
                                       int64_t second, int64_t columns, float *gram) {
    float sums[AMX_PANEL * AMX_PANEL] __attribute__((aligned(64)));
    const int64_t rows = least(AMX_PANEL, columns - first), width = least(AMX_PANEL, columns - second);
    amx_multiply(left, right, pairs, sums);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < width; c++) gram[(first + i) * columns + second + c] += sums[i * AMX_PANEL + c];
}

static int64_t whole_tiles(int64_t pairs) { return ceiling(pairs, SIDE) * SIDE; }

static int by_amx(const uint16_t *X, int64_t tokens, int64_t columns, float *gram, int threads) {
    const int64_t panels = ceiling(columns, AMX_PANEL);
    const int64_t size = whole_tiles(least(AMX_PAIRS, ceiling(tokens, 2))) * AMX_PANEL;
    uint32_t *packed = aligned_alloc(64, (size_t)(2 * panels * size) * sizeof *packed), *transposed = packed + panels * size;
    if (packed == NULL) return -1;
    for (int64_t start = 0; start < tokens; start += 2 * AMX_PAIRS) {
        const int64_t count = least(2 * AMX_PAIRS, tokens - start), there = ceiling(count, 2), pairs = whole_tiles(there);
#pragma omp parallel num_threads(threads)
        {
#pragma omp for schedule(static)
            for (int64_t p = 0; p < panels; p++) {
                uint32_t *panel = packed + p * size;
                const int64_t width = least(AMX_PANEL, columns - p * AMX_PANEL);
                pack(X + start * columns + p * AMX_PANEL, count, columns, width, panel, AMX_PANEL);
                memset(panel + there * AMX_PANEL, 0, (size_t)((pairs - there) * AMX_PANEL) * sizeof *panel);
                transpose(panel, pairs, transposed + p * size);
            }
            configure_tiles();
#pragma omp for schedule(dynamic)
            for (int64_t end = panels; end > 0; end -= AMX_PANELS)
                for (int64_t left = 0; left < end; left++)
                    for (int64_t right = end > AMX_PANELS ? end - AMX_PANELS : 0; right < end; right++)
                        if (left <= right)
                            amx_add_panels(transposed + left * size, packed + right * size, pairs, left * AMX_PANEL,
                                           right * AMX_PANEL, columns, gram);
            release_tiles();
        }
    }
    free(packed);
    return 0;
}

#else /* no level says that there is AMX */
static int by_amx(const uint16_t *X, int64_t tokens, int64_t columns, float *gram, int threads) {
    (void)X, (void)tokens, (void)columns, (void)gram, (void)threads;
    return -1;
}
#endif

int eggs_add_gram(const uint16_t *X, int64_t tokens, int64_t columns, float *gram, eggs_level level, int threads) {
    return (level == EGGS_AMX ? by_amx : by_registers)(X, tokens, columns, gram, threads);
}

#else
int eggs_add_gram(const uint16_t *X, int64_t tokens, int64_t columns, float *gram, eggs_level level, int threads) {
    (void)X, (void)tokens, (void)columns, (void)gram, (void)level, (void)threads;
    return -1;
}
#endif
