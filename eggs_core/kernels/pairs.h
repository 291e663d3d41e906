/* Sums over pairs of rows. */
#ifndef EGGS_PAIRS_H
#define EGGS_PAIRS_H

#include <stdint.h>

#include "levels.h"

/* sums (a, b): over the `length` numbers of each row of A (a, length) and of B (b, length), of the larger of the two. */
void eggs_sums_of_larger(const float *A, int64_t a, const float *B, int64_t b, int64_t length, float *sums, eggs_level level,
                         int threads);

#endif
