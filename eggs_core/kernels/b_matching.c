/* Written for a compiler that turns loops of constant length into vectors: AT_ONCE rows lie side by side. */

#include "b_matching.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#define AT_ONCE 16
#define MAX_M 32
/* Of which the cheapest exchange is looked for at once; and rows that are asked for from memory ahead. */
#define ROWS 64
#define AHEAD 8
#define NONE ((int64_t)1 << 60)

/* One problem. */
typedef struct {
    const int64_t *P, *need;
    int64_t rows;
    int n, m;
} problem;

/* ---- the largest of every row ---- */

/* values[k]: of column k in rows `first` and on, with multipliers; of rows beyond the last, those of the last. */
INLINE void load(const problem *p, const int64_t *multipliers, int64_t first, int64_t values[MAX_M][AT_ONCE]) {
    for (int k = 0; k < p->m; k++) {
        const int64_t *scores = p->P + k * p->rows;
        if (first + AT_ONCE <= p->rows)
            for (int i = 0; i < AT_ONCE; i++) values[k][i] = scores[first + i] + multipliers[k];
        else
            for (int i = 0; i < AT_ONCE; i++) values[k][i] = scores[least(first + i, p->rows - 1)] + multipliers[k];
    }
}

/* held[i]: the i-th largest of every row, for the first `count` of them. */
INLINE void largest(int64_t values[MAX_M][AT_ONCE], int m, int count, int64_t held[MAX_M][AT_ONCE]) {
    for (int k = 0; k < m; k++) {
        int64_t value[AT_ONCE];
        memcpy(value, values[k], sizeof value);
        int known = (int)least(k, count);
        for (int i = 0; i < known; i++)
            for (int j = 0; j < AT_ONCE; j++) {
                int64_t other = held[i][j];
                held[i][j] = other > value[j] ? other : value[j];
                value[j] = other > value[j] ? value[j] : other;
            }
        if (k < count) memcpy(held[k], value, sizeof value);
    }
}

/* ---- multipliers ---- */

/* The k-th smallest of `count` values, from 0, by Hoare's selection; reorders them. */
static int64_t kth_smallest(int64_t *values, int64_t count, int64_t k) {
    int64_t low = 0, high = count - 1;
    while (low < high) {
        int64_t pivot = values[low + (high - low) / 2], i = low, j = high;
        while (i <= j) {
            while (values[i] < pivot) i++;
            while (values[j] > pivot) j--;
            if (i <= j) {
                int64_t value = values[i];
                values[i++] = values[j], values[j--] = value;
            }
        }
        if (k <= j)
            high = j;
        else if (k >= i)
            low = i;
        else
            break;
    }
    return values[k];
}

/* thresholds (m, rows): at which multiplier a column enters the n of a row. */
INLINE void raise_multipliers(const problem *p, int64_t *multipliers, int rounds, int64_t *thresholds) {
    memset(multipliers, 0, (size_t)p->m * sizeof *multipliers);
    for (int round = 0; round < rounds; round++) {
        for (int64_t first = 0; first < p->rows; first += AT_ONCE) {
            int64_t values[MAX_M][AT_ONCE], held[MAX_M][AT_ONCE];
            int64_t count = least(AT_ONCE, p->rows - first);
            load(p, multipliers, first, values);
            largest(values, p->m, p->n + 1, held);
            for (int k = 0; k < p->m; k++) {
                int64_t threshold[AT_ONCE];
                for (int j = 0; j < AT_ONCE; j++)
                    threshold[j] = (values[k][j] >= held[p->n - 1][j] ? held[p->n][j] : held[p->n - 1][j]) -
                                   values[k][j] + multipliers[k];
                memcpy(thresholds + k * p->rows + first, threshold, (size_t)count * sizeof *threshold);
            }
        }
        int64_t lacking[MAX_M], all = 0;
        for (int k = 0; k < p->m; k++) {
            int64_t edges = 0;
            for (int64_t r = 0; r < p->rows; r++) edges += thresholds[k * p->rows + r] <= multipliers[k];
            lacking[k] = p->need[k] - edges;
            if (lacking[k] > 0) all += lacking[k];
        }
        if (all < p->m) return;
        for (int k = 0; k < p->m; k++)
            if (lacking[k] > 0)
                multipliers[k] = kth_smallest(thresholds + k * p->rows, p->rows, least(p->need[k], p->rows) - 1);
    }
}

/* ---- exchanges ---- */

/* The n largest of every row with multipliers, of equals the first; and the edges of every column. */
INLINE void keep_largest(const problem *p, const int64_t *multipliers, uint8_t *kept, int64_t *edges) {
    memset(edges, 0, (size_t)p->m * sizeof *edges);
    for (int64_t first = 0; first < p->rows; first += AT_ONCE) {
        int64_t values[MAX_M][AT_ONCE], held[MAX_M][AT_ONCE], equal[AT_ONCE];
        int64_t count = least(AT_ONCE, p->rows - first);
        load(p, multipliers, first, values);
        largest(values, p->m, p->n, held);
        for (int j = 0; j < AT_ONCE; j++) equal[j] = p->n;
        for (int k = 0; k < p->m; k++)
            for (int j = 0; j < AT_ONCE; j++) equal[j] -= values[k][j] > held[p->n - 1][j];
        for (int k = 0; k < p->m; k++)
            for (int j = 0; j < count; j++) {
                int level = values[k][j] == held[p->n - 1][j];
                int wanted = values[k][j] > held[p->n - 1][j] || (level && equal[j] > 0);
                equal[j] -= level;
                kept[k * p->rows + first + j] = (uint8_t)wanted;
                edges[k] += wanted;
            }
    }
}

/* The cheapest exchange within one row that moves an edge from column a to column b: its cost, and that row. Of what a column
   cannot give in a row, or take, the score is such that the difference is too large to be a cost. */
typedef struct {
    int64_t cost[MAX_M][MAX_M], row[MAX_M][MAX_M];
    int64_t *given, *taken; /* (m, rows) */
} exchanges;

INLINE void set_kept(const problem *p, uint8_t *kept, int column, int64_t row, int wanted, exchanges *direct) {
    int64_t at = column * p->rows + row;
    kept[at] = (uint8_t)wanted;
    direct->given[at] = wanted ? p->P[at] : NONE / 2;
    direct->taken[at] = wanted ? -NONE / 2 : p->P[at];
}

INLINE void look_for_exchange(const problem *p, int a, int b, exchanges *direct) {
    const int64_t *given = direct->given + a * p->rows, *taken = direct->taken + b * p->rows;
    int64_t cost = NONE / 4, row = 0;
    for (int64_t first = 0; first < p->rows; first += ROWS) {
        int64_t lowest = NONE / 4, last = least(first + ROWS, p->rows);
        for (int64_t r = first; r < last; r++) lowest = least(lowest, given[r] - taken[r]);
        if (lowest < cost) cost = lowest, row = first;
    }
    if (cost < NONE / 4)
        while (given[row] - taken[row] != cost) row++;
    direct->cost[a][b] = cost < NONE / 4 ? cost : NONE, direct->row[a][b] = row;
}

/* After changes in some rows: looks only at what these rows concern. */
INLINE void look_again(const problem *p, const int64_t *moved, int count, exchanges *direct) {
    uint8_t stale[MAX_M][MAX_M];
    for (int a = 0; a < p->m; a++)
        for (int b = 0; b < p->m; b++) {
            stale[a][b] = 0;
            for (int i = 0; i < count; i++) stale[a][b] |= direct->row[a][b] == moved[i];
        }
    for (int i = 0; i < count; i++)
        for (int a = 0; a < p->m; a++)
            for (int b = 0; b < p->m; b++) {
                int64_t loss = direct->given[a * p->rows + moved[i]] - direct->taken[b * p->rows + moved[i]];
                if (loss < NONE / 4 && loss < direct->cost[a][b])
                    direct->cost[a][b] = loss, direct->row[a][b] = moved[i];
            }
    for (int a = 0; a < p->m; a++)
        for (int b = 0; b < p->m; b++)
            if (stale[a][b]) look_for_exchange(p, a, b, direct);
}

/* Floyd and Warshall's algorithm over direct costs: the least cost of a way from a to b, and what follows a on it. */
INLINE void cheapest_paths(const exchanges *direct, int m, int64_t cost[MAX_M][MAX_M], int64_t following[MAX_M][MAX_M]) {
    for (int a = 0; a < m; a++)
        for (int b = 0; b < m; b++) cost[a][b] = a == b ? 0 : direct->cost[a][b], following[a][b] = b;
    for (int k = 0; k < m; k++)
        for (int a = 0; a < m; a++) {
            int64_t first_part = cost[a][k], next = following[a][k];
            for (int b = 0; b < m; b++) {
                int64_t through = first_part + cost[k][b];
                following[a][b] = through < cost[a][b] ? next : following[a][b];
                cost[a][b] = through < cost[a][b] ? through : cost[a][b];
            }
        }
}

/* From which column to which an edge is to be moved next; 0 where no move is wanted. */
INLINE int next_move(int64_t cost[MAX_M][MAX_M], const int64_t *spare, int m, int *start, int *end) {
    int64_t cheapest = NONE;
    int short_of = 0;
    for (int b = 0; b < m; b++) short_of |= spare[b] < 0;
    for (int a = 0; a < m; a++)
        for (int b = 0; b < m; b++)
            if (spare[a] > 0 && (!short_of || spare[b] < 0) && cost[a][b] < cheapest)
                cheapest = cost[a][b], *start = a, *end = b;
    return cheapest < 0 || (short_of && cheapest < NONE / 2);
}

/* The sum of what is kept, of which columns have so many `edges`. space (2, m, rows) is for what columns give and take. */
INLINE int64_t solve(const problem *p, int64_t *multipliers, uint8_t *kept, int64_t *edges, int64_t *space) {
    exchanges direct = {.given = space, .taken = space + p->m * p->rows};
    int64_t cost[MAX_M][MAX_M], following[MAX_M][MAX_M], spare[MAX_M], moved[MAX_M];
    int start = 0, end = 0, any = 0;
    keep_largest(p, multipliers, kept, spare);
    for (int k = 0; k < p->m; k++) {
        spare[k] -= p->need[k];
        for (int64_t r = 0; r < p->rows; r++) set_kept(p, kept, k, r, kept[k * p->rows + r], &direct);
    }
    for (int a = 0; a < p->m; a++)
        for (int b = 0; b < p->m; b++) look_for_exchange(p, a, b, &direct);
    cheapest_paths(&direct, p->m, cost, following);
    while (next_move(cost, spare, p->m, &start, &end)) {
        int count = 0;
        spare[start]--, spare[end]++;
        while (start != end) {
            int entered = (int)following[start][end];
            int64_t row = direct.row[start][entered];
            set_kept(p, kept, start, row, 0, &direct), set_kept(p, kept, entered, row, 1, &direct);
            moved[count++] = row;
            start = entered;
        }
        look_again(p, moved, count, &direct);
        cheapest_paths(&direct, p->m, cost, following);
    }
    for (int a = 0; a < p->m; a++) any |= spare[a] > 0;
    int64_t fetched[MAX_M], lowest = INT64_MAX;
    for (int b = 0; b < p->m; b++) {
        fetched[b] = any ? NONE : cost[0][b];
        for (int a = 0; a < p->m; a++)
            if (spare[a] > 0 && cost[a][b] < fetched[b]) fetched[b] = cost[a][b];
        lowest = least(lowest, fetched[b]);
    }
    for (int b = 0; b < p->m; b++) {
        multipliers[b] = any ? fetched[b] : fetched[b] - lowest;
        if (multipliers[b] < 0) multipliers[b] = 0;
    }
    int64_t sum = 0;
    for (int k = 0; k < p->m; k++) edges[k] = spare[k] + p->need[k];
    for (int64_t i = 0; i < p->m * p->rows; i++) sum += kept[i] ? p->P[i] : 0;
    return sum;
}

/* ---- bounds ---- */

INLINE int64_t bound(const problem *p, const int64_t *multipliers) {
    int64_t sums[AT_ONCE] = {0}, sum = 0;
    for (int64_t first = 0; first < p->rows; first += AT_ONCE) {
        int64_t values[MAX_M][AT_ONCE], held[MAX_M][AT_ONCE];
        int64_t count = least(AT_ONCE, p->rows - first);
        load(p, multipliers, first, values);
        largest(values, p->m, p->n, held);
        for (int i = 0; i < p->n; i++)
            for (int j = 0; j < AT_ONCE; j++) sums[j] += j < count ? held[i][j] : 0;
    }
    for (int j = 0; j < AT_ONCE; j++) sum += sums[j];
    for (int k = 0; k < p->m; k++) sum -= p->need[k] * multipliers[k];
    return sum;
}

/* ---- levels ---- */

/* Each with memory of (2, m, rows). */
#define AT_LEVEL(NAME, TARGET)                                                                                          \
    TARGET static void raise_##NAME(const problem *p, int64_t *multipliers, int rounds, int64_t *space) {              \
        raise_multipliers(p, multipliers, rounds, space);                                                              \
    }                                                                                                                  \
    TARGET static int64_t solve_##NAME(const problem *p, int64_t *multipliers, uint8_t *kept, int64_t *edges,          \
                                       int64_t *space) {                                                               \
        return solve(p, multipliers, kept, edges, space);                                                              \
    }                                                                                                                  \
    TARGET static int64_t bound_##NAME(const problem *p, const int64_t *multipliers) { return bound(p, multipliers); }

FOR_LEVELS(AT_LEVEL)

INLINE problem number(const eggs_problems *all, int64_t i) {
    return (problem){all->P + i * all->m * all->rows, all->need + i * all->m, all->rows, all->n, all->m};
}

/* WORK for every problem, `one`, number i, with `space` for (2, m, rows) numbers. */
#define FOR_EACH_PROBLEM(WORK)                                                                                         \
    int failed = 0;                                                                                                    \
    _Pragma("omp parallel num_threads(threads) reduction(| : failed)") {                                               \
        int64_t *space = malloc((size_t)(2 * all->m * all->rows) * sizeof *space);                                     \
        failed = space == NULL;                                                                                        \
        _Pragma("omp for schedule(dynamic)") for (int64_t i = 0; i < all->count; i++) {                                \
            problem one = number(all, i);                                                                              \
            if (!failed) WORK;                                                                                         \
        }                                                                                                              \
        free(space);                                                                                                   \
    }                                                                                                                  \
    return failed ? -1 : 0;

int eggs_raise_multipliers(const eggs_problems *all, int64_t *multipliers, int rounds, eggs_level level, int threads) {
    FOR_EACH_PROBLEM(UP_TO_AVX512(raise)(&one, multipliers + i * all->m, rounds, space))
}

int eggs_solve(const eggs_problems *all, int64_t *multipliers, uint8_t *kept, int64_t *edges, int64_t *sums,
               eggs_level level, int threads) {
    FOR_EACH_PROBLEM(sums[i] = UP_TO_AVX512(solve)(&one, multipliers + i * all->m, kept + i * all->m * all->rows,
                                                   edges + i * all->m, space))
}

void eggs_bounds(const eggs_problems *all, const int64_t *multipliers, int64_t *bounds, eggs_level level, int threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < all->count; i++) {
        problem one = number(all, i);
        bounds[i] = UP_TO_AVX512(bound)(&one, multipliers + i * all->m);
    }
}

/* ---- out of a layer, and back ---- */

void eggs_take(const eggs_layer *layer, const int64_t *groups, const int64_t *rows, const int64_t *counts, int64_t problems,
               int64_t size, int64_t fixed, double units, int64_t *P, double *unit, int64_t *edges, int64_t *best,
               int threads) {
    int n = layer->n, m = layer->m;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < problems; i++) {
        const float *scores = layer->scores + groups[i] * m;
        const uint8_t *mask = layer->mask + groups[i] * m;
        const int64_t *row = rows + i * size;
        float highest = FLT_MIN;
        for (int64_t r = 0; r < counts[i]; r++) {
            int64_t soon = row[least(r + AHEAD, counts[i] - 1)] * layer->columns;
            __builtin_prefetch(scores + soon), __builtin_prefetch(mask + soon);
            for (int k = 0; k < m; k++) {
                float score = scores[row[r] * layer->columns + k];
                highest = score > highest ? score : highest;
            }
        }
        unit[i] = highest / units;
        best[i] = 0;
        for (int k = 0; k < m; k++) edges[i * m + k] = 0;
        for (int64_t r = 0; r < size; r++)
            for (int k = 0; k < m; k++) {
                int64_t at = row[r] * layer->columns + k, score, kept;
                if (r < counts[i])
                    /* Rounded to even by a sum that has no bits for fractions. */
                    score = (int64_t)(scores[at] / unit[i] + 0x1p52 - 0x1p52), kept = mask[at];
                else
                    score = k < n ? fixed : 0, kept = k < n;
                P[(i * m + k) * size + r] = score;
                edges[i * m + k] += kept, best[i] += kept ? score : 0;
            }
    }
}

void eggs_put(uint8_t *mask, int64_t columns, int m, const int64_t *groups, const int64_t *rows, const int64_t *counts,
              const uint8_t *solved, int64_t problems, int64_t size, const uint8_t *kept, int threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < problems; i++)
        for (int64_t r = 0; solved[i] && r < counts[i]; r++) {
            const int64_t *row = rows + i * size;
            __builtin_prefetch(mask + row[least(r + AHEAD, counts[i] - 1)] * columns + groups[i] * m, 1);
            for (int k = 0; k < m; k++) mask[row[r] * columns + groups[i] * m + k] = kept[(i * m + k) * size + r];
        }
}
