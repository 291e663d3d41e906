/* b-matchings of many small problems, as eggs_core/b_matching.py defines and solves them: the same steps, and to the bit the
   same results. */
#ifndef EGGS_B_MATCHING_H
#define EGGS_B_MATCHING_H

#include <stdint.h>

#include "levels.h"

/* P (count, m, rows), of which n of every row are kept; need (count, m). m is at most 32, and n less than m. */
typedef struct {
    const int64_t *P, *need;
    int64_t count, rows;
    int n, m;
} eggs_problems;

/* multipliers (count, m): close below the smallest best. Ends after `rounds` rounds. Returns -1 if memory ran out, else 0. */
int eggs_raise_multipliers(const eggs_problems *problems, int64_t *multipliers, int rounds, eggs_level level, int threads);

/* kept (count, m, rows): 1 for what the best choice keeps, else 0; edges (count, m) and sums (count,): of that; multipliers
   (count, m): from some close below the best to the best. Where not all columns can have what they need, some are left short.
   Returns as above. */
int eggs_solve(const eggs_problems *problems, int64_t *multipliers, uint8_t *kept, int64_t *edges, int64_t *sums,
               eggs_level level, int threads);

/* bounds (count,): what no choice exceeds. */
void eggs_bounds(const eggs_problems *problems, const int64_t *multipliers, int64_t *bounds, eggs_level level, int threads);

/* A layer (rows, columns), with the mask of the best n of every m. */
typedef struct {
    const float *scores;
    const uint8_t *mask;
    int64_t columns;
    int n, m;
} eggs_layer;

/* P (problems, m, size) of so many groups, each with the first counts[i] of `rows` (problems, size): scores in units, with
   `units` in the largest of a group. What is beyond are rows with `fixed` in their first n. `edges` (problems, m) and best
   (problems,): those that the mask keeps, and their sum. */
void eggs_take(const eggs_layer *layer, const int64_t *groups, const int64_t *rows, const int64_t *counts, int64_t problems,
               int64_t size, int64_t fixed, double units, int64_t *P, double *unit, int64_t *edges, int64_t *best,
               int threads);

/* The opposite: to `mask` (rows, columns) what is kept (problems, m, size) in these rows, of the groups that are `solved`. */
void eggs_put(uint8_t *mask, int64_t columns, int m, const int64_t *groups, const int64_t *rows, const int64_t *counts,
              const uint8_t *solved, int64_t problems, int64_t size, const uint8_t *kept, int threads);

#endif
