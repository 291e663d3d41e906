/* Runs every kernel on memory of exactly the size that it may touch, and compares it with sums in double. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auction.h"
#include "b_matching.h"
#include "best_n.h"
#include "gram.h"
#include "nearest.h"
#include "nm_linear.h"
#include "pairs.h"

static const int PATTERNS[][2] = {{2, 4}, {4, 8}, {1, 4}, {3, 4}, {1, 2}, {5, 8}, {8, 16}, {3, 5}, {7, 24}, {1, 32}, {31, 32}, {1, 1}};
static const int GROUPS[] = {1, 2, 3, 7, 8, 9, 16, 17, 33, 64, 65, 129};

/* Small integers, which all three dtypes and every order of summation hold exactly. */
static int number(void) { return rand() % 7 - 3; }

static void put(void *to, int64_t i, int value, eggs_dtype dtype) {
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if (dtype == EGGS_F32)
        ((float *)to)[i] = f;
    else if (dtype == EGGS_BF16)
        ((uint16_t *)to)[i] = (uint16_t)(bits >> 16);
    else
        ((uint16_t *)to)[i] = value == 0 ? 0 : (uint16_t)((bits >> 16 & 0x8000) | (((bits & 0x7fffffff) - (112u << 23)) >> 13));
}

static double get(const void *from, int64_t i, eggs_dtype dtype) {
    if (dtype == EGGS_F32) return ((const float *)from)[i];
    uint16_t half = ((const uint16_t *)from)[i];
    if (dtype == EGGS_BF16) {
        uint32_t bits = (uint32_t)half << 16;
        float f;
        memcpy(&f, &bits, 4);
        return f;
    }
    int exponent = half >> 10 & 31, mantissa = half & 1023;
    double magnitude = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return half & 0x8000 ? -magnitude : magnitude;
}

static void check(int n, int m, int groups, int rows, int tokens, eggs_dtype dtype, eggs_level level) {
    int64_t columns = (int64_t)m * groups, kept = (int64_t)n * groups, size = dtype == EGGS_F32 ? 4 : 2;
    int parities = m == 2 || m == 4 || m == 8;
    int64_t stride = ((parities ? columns - groups : columns) + 7) / 8, all = (columns + 7) / 8;
    void *values = malloc((size_t)(rows * kept * size)), *x = malloc((size_t)(tokens * columns * size));
    void *bias = malloc((size_t)(rows * size)), *y = malloc((size_t)(tokens * rows * size));
    void *dense = malloc((size_t)(rows * columns * size));
    uint8_t *mask = calloc((size_t)(rows * stride), 1), *mask_of_all = malloc((size_t)all);
    int *W = calloc((size_t)(rows * columns), sizeof(int)), *X = calloc((size_t)(tokens * columns), sizeof(int));
    for (int64_t r = 0, i = 0; r < rows; r++)
        for (int64_t g = 0, at = 0; g < groups; g++)
            for (int k = 0, left = n; k < m; k++) {
                int kept = rand() % (m - k) < left; /* n of the m, each choice as likely */
                left -= kept;
                int stored = parities ? (n - left) % 2 : kept;
                if (!parities || k < m - 1) mask[r * stride + at / 8] |= (uint8_t)(stored << at % 8), at++;
                if (kept) put(values, i++, W[r * columns + g * m + k] = number(), dtype);
            }
    for (int64_t i = 0; i < tokens * columns; i++) put(x, i, X[i] = number(), dtype);
    for (int r = 0; r < rows; r++) put(bias, r, r % 5 - 2, dtype);
    eggs_packed packed = {values, mask, stride, rows, columns, n, m, dtype};
    eggs_unpack(&packed, 0, rows, dense, level, 2);
    for (int64_t i = 0; i < rows * columns; i++)
        if (get(dense, i, dtype) != W[i]) exit(3);
    memset(mask_of_all, 0xff, (size_t)all);
    eggs_packed whole = {dense, mask_of_all, 0, rows, columns, 1, 1, dtype}, *both[] = {&packed, &whole};
    for (int form = 0; form < 2; form++) {
        if (eggs_linear(both[form], x, tokens % 2 ? bias : NULL, y, tokens, level, 2)) exit(2);
        for (int t = 0; t < tokens; t++)
            for (int64_t r = 0; r < rows; r++) {
                double sum = tokens % 2 ? r % 5 - 2 : 0;
                for (int64_t c = 0; c < columns; c++) sum += W[r * columns + c] * X[t * columns + c];
                double off = fabs(get(y, t * rows + r, dtype) - sum), allowed = dtype == EGGS_F32 ? 0 : fabs(sum) / 256;
                if (off > allowed) {
                    fprintf(stderr, "%d:%d groups %d level %d dtype %d form %d: %g for %g\n", n, m, groups, level,
                            dtype, form, get(y, t * rows + r, dtype), sum);
                    exit(1);
                }
            }
    }
    free(mask_of_all);
    free(values), free(x), free(bias), free(y), free(dense), free(mask), free(W), free(X);
}

static void check_masks(int n, int m, int groups, eggs_level level) {
    int64_t count = (int64_t)m * groups;
    float *scores = malloc((size_t)count * 4);
    int32_t *bits = malloc((size_t)count * 4);
    uint8_t *mask = malloc((size_t)count);
    double kept = 0, all = 0, lost[2], sum;
    for (int64_t i = 0; i < count; i++) scores[i] = (float)(rand() % 5);
    memcpy(bits, scores, (size_t)count * 4);
    int64_t rows = least(groups, 2 * EGGS_ROWS);
    while (groups % rows) rows--;
    int64_t columns = count / rows;
    uint8_t *edges = malloc((size_t)(2 * columns));
    int64_t *degree = malloc((size_t)columns * 8);
    lost[1] = 0;
    eggs_best_n(bits, mask, rows, columns, n, m, lost, edges, degree, level, 2);
    for (int64_t c = 0; c < columns; c++) {
        for (int64_t r = 0; r < rows; r++) degree[c] -= mask[r * columns + c];
        if (degree[c]) exit(15);
    }
    free(edges), free(degree);
    for (int64_t i = 0; i < count; i++) {
        int beaten = 0;
        for (int64_t j = i / m * m; j < i / m * m + m; j++)
            beaten += scores[j] > scores[i] || (scores[j] == scores[i] && j < i);
        if (mask[i] != (beaten < n)) exit(4);
        kept += mask[i] ? scores[i] : 0, all += scores[i];
    }
    float *Y = malloc((size_t)count * 4), *rest = malloc((size_t)count * 4);
    uint16_t *rounded = malloc((size_t)count * 2);
    for (int half = 0; half < 2; half++) {
        for (int64_t i = 0; i < count; i++) Y[i] = i % 2 ? scores[i] : -scores[i];
        eggs_project(Y, scores, groups, n, m, 1, half ? (void *)rounded : rest, half, level, 2);
        for (int64_t i = 0; i < count; i++) {
            float y = i % 2 ? scores[i] : -scores[i], found = rest[i];
            if (half) memcpy(&found, &(uint32_t){(uint32_t)rounded[i] << 16}, 4);
            if (Y[i] != (mask[i] ? y : 0) || found != scores[i] + y - 2 * Y[i]) exit(14);
        }
    }
    free(Y), free(rest), free(rounded);
    eggs_kept_sums(bits, mask, count, &sum, level, 2);
    if (sum != kept || lost[0] + lost[1] != all - kept) exit(5);
    int64_t channels[] = {0, m - 1, count - 1}; /* of one row, and of as many as there are groups */
    for (rows = 1; rows <= groups; rows += groups > 1 ? groups - 1 : 1) {
        float *by = malloc((size_t)(3 * rows) * 4);
        int64_t *row = malloc((size_t)(3 * rows) * 8);
        channels[2] = count / rows - 1;
        if (eggs_nearest(bits, mask, rows, count / rows, n, m, channels, 3, rows, by, row, level, 2)) exit(6);
        for (int i = 0; i < 3; i++)
            for (int64_t r = 0; r < rows; r++) {
                int64_t own = row[i * rows + r] * (count / rows) + channels[i];
                float least = INFINITY;
                for (int64_t j = own / m * m; j < own / m * m + m; j++)
                    if (mask[j] && scores[j] < least) least = scores[j];
                if (by[i * rows + r] != (mask[own] ? -1 : least - scores[own])) exit(6);
                if (r && by[i * rows + r] < by[i * rows + r - 1]) exit(16);
            }
        free(by), free(row);
    }
    free(scores), free(bits), free(mask);
}

/* Two problems, of which the second needs no edges: a choice that has what is needed, and keeps what no choice exceeds. */
static void check_matchings(int n, int m, int64_t rows, eggs_level level) {
    size_t of_one = (size_t)(m * rows), of_all = 2 * of_one;
    int64_t *P = malloc(of_all * 8), *need = malloc((size_t)m * 16), *multipliers = malloc((size_t)m * 16);
    int64_t *found = malloc((size_t)m * 16), bounds[2], sums[2];
    uint8_t *kept = malloc(of_all);
    for (size_t i = 0; i < of_all; i++) P[i] = rand() % 50;
    for (int k = 0; k < 2 * m; k++) need[k] = k < m ? n * rows / m : 0;
    eggs_problems problems = {P, need, 2, rows, n, m};
    if (eggs_raise_multipliers(&problems, multipliers, 100, level, 2)) exit(7);
    if (eggs_solve(&problems, multipliers, kept, found, sums, level, 2)) exit(7);
    eggs_bounds(&problems, multipliers, bounds, level, 2);
    for (int i = 0; i < 2; i++) {
        int64_t value = 0;
        for (int k = 0; k < m; k++) {
            int64_t edges = 0;
            for (int64_t r = 0; r < rows; r++) {
                size_t at = i * of_one + (size_t)(k * rows + r);
                edges += kept[at], value += kept[at] ? P[at] : 0;
            }
            if (edges < need[i * m + k] || edges != found[i * m + k]) exit(8);
        }
        if (value != bounds[i] || value != sums[i]) exit(9);
    }
    free(P), free(need), free(multipliers), free(found), free(kept);
}

/* A group of a layer of `rows`, of which all rows are taken and one more is to fill up: whole scores, in units of 1. Then the
   opposite of its mask is put there. */
static void check_take_and_put(int n, int m, int64_t rows) {
    int64_t columns = 2 * m, groups[] = {1}, counts[] = {rows}, size = rows + 1, best, *row = malloc((size_t)size * 8);
    int64_t *P = malloc((size_t)(m * size) * 8), *edges = malloc((size_t)m * 8), wanted = 5 * n;
    float *scores = malloc((size_t)(rows * columns) * 4);
    uint8_t *mask = malloc((size_t)(rows * columns));
    double unit;
    for (int64_t i = 0; i < rows * columns; i++) scores[i] = (float)(rand() % 4), mask[i] = i % m < n;
    for (int64_t r = 0; r < size; r++) row[r] = r % rows;
    scores[m] = 4;
    eggs_layer layer = {scores, mask, columns, n, m};
    eggs_take(&layer, groups, row, counts, 1, size, 5, 4, P, &unit, edges, &best, 2);
    for (int k = 0; k < m; k++) {
        for (int64_t r = 0; r < rows; r++) {
            if ((float)P[k * size + r] != scores[r * columns + m + k]) exit(10);
            wanted += k < n ? P[k * size + r] : 0;
        }
        if (P[k * size + rows] != (k < n ? 5 : 0) || edges[k] != (k < n ? size : 0)) exit(11);
    }
    if (unit != 1 || best != wanted) exit(12);
    uint8_t *kept = malloc((size_t)(m * size)), solved[] = {0};
    for (int64_t i = 0; i < m * size; i++) kept[i] = i / size >= n;
    eggs_put(mask, columns, m, groups, row, counts, solved, 1, size, kept, 2);
    for (int64_t i = 0; i < rows * columns; i++)
        if (mask[i] != (i % m < n)) exit(21);
    solved[0] = 1;
    eggs_put(mask, columns, m, groups, row, counts, solved, 1, size, kept, 2);
    for (int64_t i = 0; i < rows * columns; i++)
        if (mask[i] != ((i % m < n) ^ (i % columns >= m))) exit(22);
    free(row), free(P), free(edges), free(scores), free(mask), free(kept);
}

/* Two problems: every column has a row of its own, and none would rather have another by more than its step. */
static void check_auction(int64_t size, eggs_level level) {
    size_t entries = (size_t)(2 * size * size);
    float *cost = malloc(entries * 4);
    double *price = calloc((size_t)(2 * size), 8), step[] = {0.01, 1};
    int64_t *owner = malloc((size_t)(2 * size) * 8);
    for (size_t i = 0; i < entries; i++) cost[i] = (float)(rand() % 50);
    eggs_auction(cost, 2, size, price, step, 1000, owner, level, 2);
    for (int64_t c = 0; c < 2 * size; c++) {
        const float *of_row = cost + (c / size * size + owner[c]) * size;
        for (int64_t other = 0; other < size; other++) {
            if (other < c % size && owner[c / size * size + other] == owner[c]) exit(17);
            double dearer = of_row[c % size] + price[c] - of_row[other] - price[c / size * size + other];
            if (dearer > step[c / size] + 1e-9) exit(18);
        }
    }
    free(cost), free(price), free(owner);
}

/* Small integers, whose sums are exact in any order. */
static void check_pairs(int64_t a, int64_t b, int64_t length, eggs_level level) {
    float *A = malloc((size_t)(a * length) * 4), *B = malloc((size_t)(b * length) * 4), *sums = malloc((size_t)(a * b) * 4);
    for (int64_t i = 0; i < a * length; i++) A[i] = (float)number();
    for (int64_t i = 0; i < b * length; i++) B[i] = (float)number();
    eggs_sums_of_larger(A, a, B, b, length, sums, level, 2);
    for (int64_t i = 0; i < a; i++)
        for (int64_t j = 0; j < b; j++) {
            float sum = 0;
            for (int64_t k = 0; k < length; k++) sum += fmaxf(A[i * length + k], B[j * length + k]);
            if (sums[i * b + j] != sum) exit(13);
        }
    free(A), free(B), free(sums);
}

/* Small integers. */
static void check_gram(int64_t tokens, int64_t columns, eggs_level level) {
    uint16_t *X = malloc((size_t)(tokens * columns) * 2);
    float *gram = malloc((size_t)(columns * columns) * 4);
    for (int64_t i = 0; i < tokens * columns; i++) put(X, i, number(), EGGS_BF16);
    for (int64_t i = 0; i < columns * columns; i++) gram[i] = 1;
    if (eggs_add_gram(X, tokens, columns, gram, level, 2)) exit(19);
    for (int64_t i = 0; i < columns; i++)
        for (int64_t j = i; j < columns; j++) {
            float sum = 1;
            for (int64_t t = 0; t < tokens; t++) sum += get(X, t * columns + i, EGGS_BF16) * get(X, t * columns + j, EGGS_BF16);
            if (gram[i * columns + j] != sum) exit(20);
        }
    free(X), free(gram);
}

int main(void) {
    eggs_level best = eggs_best_level();
    for (int64_t tokens = 1; tokens < 700; tokens = 3 * tokens + 1)
        for (size_t g = 0; g < sizeof GROUPS / sizeof *GROUPS; g++)
            for (eggs_level level = EGGS_AVX512_BF16; level <= best; level++) check_gram(tokens, GROUPS[g], level);
    for (eggs_level level = EGGS_PORTABLE; level <= best; level++)
        for (size_t p = 0; p < sizeof PATTERNS / sizeof *PATTERNS; p++)
            for (size_t g = 0; g < sizeof GROUPS / sizeof *GROUPS; g++)
                check_masks(PATTERNS[p][0], PATTERNS[p][1], GROUPS[g], level);
    for (eggs_level level = EGGS_PORTABLE; level <= best; level++)
        for (size_t p = 0; p < sizeof PATTERNS / sizeof *PATTERNS; p++)
            for (size_t g = 0; g < sizeof GROUPS / sizeof *GROUPS; g++)
                if (PATTERNS[p][0] < PATTERNS[p][1])
                    check_matchings(PATTERNS[p][0], PATTERNS[p][1], GROUPS[g], level);
    for (eggs_level level = EGGS_PORTABLE; level <= best; level++)
        for (int64_t length = 1; length < 26; length += 4)
            for (int64_t a = 1; a < 10; a++) check_pairs(a, 10 - a, length, level);
    for (eggs_level level = EGGS_PORTABLE; level <= best; level++)
        for (size_t g = 0; g < sizeof GROUPS / sizeof *GROUPS; g++) check_auction(GROUPS[g], level);
    for (size_t p = 0; p < sizeof PATTERNS / sizeof *PATTERNS; p++)
        for (size_t g = 0; g < sizeof GROUPS / sizeof *GROUPS; g++)
            check_take_and_put(PATTERNS[p][0], PATTERNS[p][1], GROUPS[g]);
    for (eggs_level level = EGGS_PORTABLE; level <= best; level++)
        for (eggs_dtype dtype = EGGS_F32; dtype <= EGGS_BF16; dtype++)
            for (size_t p = 0; p < sizeof PATTERNS / sizeof *PATTERNS; p++)
                for (size_t g = 0; g < sizeof GROUPS / sizeof *GROUPS; g++)
                    check(PATTERNS[p][0], PATTERNS[p][1], GROUPS[g], 1 + (int)(g * 3 % 7), 1 + (int)((g + p) % 17) * (g % 3 ? 1 : 3), dtype, level);
    printf("levels 0 to %d\n", best);
    return 0;
}
