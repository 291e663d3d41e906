/* The best N of every M scores, projections on them, and sums of what a mask keeps. */
#ifndef EGGS_BEST_N_H
#define EGGS_BEST_N_H

#include <stdint.h>

#include "levels.h"

/* Scores, and rows of them, that are added up in one order, whatever the threads. */
#define EGGS_SCORES 65536
#define EGGS_ROWS 32

/* Scores are the bits of float32 of at least 0, which as integers are of the same order. */

/* mask (rows, columns): 1 for the n largest of every group of m scores (rows, columns), of equals those further left, else 0;
   degree (columns): the rows that keep a column. Of the i-th EGGS_ROWS rows, lost[i]: the sum of what they lose by it, and
   edges[i], (columns): those that keep a column. m is at most 32. */
void eggs_best_n(const int32_t *scores, uint8_t *mask, int64_t rows, int64_t columns, int n, int m, double *lost,
                 uint8_t *edges, int64_t *degree, eggs_level level, int threads);

/* Makes Y (groups, m), finite, its projection D, the n largest of each group by size; and rest, bfloat16 or float32,
   target - (D - shrink (Y - D)). */
void eggs_project(float *Y, const float *target, int64_t groups, int n, int m, float shrink, void *rest, int bf16,
                  eggs_level level, int threads);

/* sums[i]: of those of the i-th EGGS_SCORES of `count` scores whose mask is 1. */
void eggs_kept_sums(const int32_t *scores, const uint8_t *mask, int64_t count, double *sums, eggs_level level,
                    int threads);

#endif
