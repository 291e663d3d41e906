/* The best N of every M scores, projections on them, and sums of what a mask keeps. */
#ifndef EGGS_BEST_N_H
#define EGGS_BEST_N_H

#include <stdint.h>

#include "levels.h"

/* Scores, and groups of them, that are added up in one order, whatever the threads. */
#define EGGS_SCORES 65536
#define EGGS_GROUPS 4096

/* Scores are the bits of float32 of at least 0, which as integers are of the same order. */

/* mask (groups, m): 1 for the n largest of every group of scores (groups, m), of equals those further left, else 0; lost[i]:
   the sum of what the i-th EGGS_GROUPS groups lose by it. m is at most 32. */
void eggs_best_n(const int32_t *scores, uint8_t *mask, int64_t groups, int n, int m, double *lost, eggs_level level,
                 int threads);

/* Makes Y (groups, m), finite, its projection D, the n largest of each group by size; and rest, or where that is NULL
   rest_bf16, target - (D - shrink (Y - D)). */
void eggs_project(float *Y, const float *target, int64_t groups, int n, int m, float shrink, float *rest,
                  uint16_t *rest_bf16, eggs_level level, int threads);

/* sums[i]: of those of the i-th EGGS_SCORES of `count` scores whose mask is 1. */
void eggs_kept_sums(const int32_t *scores, const uint8_t *mask, int64_t count, double *sums, eggs_level level,
                    int threads);

/* by (count, rows): how far each of `count` channels of scores (rows, columns) is below the n-th largest score of its group, in
   every row; -1 where it is kept itself by the mask, which is that of eggs_best_n. */
void eggs_shortfalls(const int32_t *scores, const uint8_t *mask, int64_t rows, int64_t columns, int n, int m,
                     const int64_t *channels, int64_t count, float *by, eggs_level level, int threads);

#endif
