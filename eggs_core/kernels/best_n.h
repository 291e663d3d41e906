/* The best N of every M scores, and sums of what a mask keeps. */
#ifndef EGGS_BEST_N_H
#define EGGS_BEST_N_H

#include <stdint.h>

#include "levels.h"

/* Scores that are added up in one order, whatever the threads. */
#define EGGS_SUMMED 65536

/* mask (groups, m): 1 for the n largest of every group of scores (groups, m), of equals those further left, else 0. Scores
   are the bits of float32 of at least 0, which are of the same order. n and m are at most 32. */
void eggs_best_n(const int32_t *scores, uint8_t *mask, int64_t groups, int n, int m, eggs_level level, int threads);

/* sums[i]: of those of the i-th EGGS_SUMMED of `count` scores whose mask is `kept`, 0 or 1. */
void eggs_masked_sums(const float *scores, const uint8_t *mask, int64_t count, int kept, double *sums, eggs_level level,
                      int threads);

#endif
