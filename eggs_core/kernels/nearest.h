/* The rows in which channels are nearest to being kept. */
#ifndef EGGS_NEAREST_H
#define EGGS_NEAREST_H

#include <stdint.h>

#include "levels.h"

/* by (channels, size), rising, and row (channels, size): how far each of `count` channels of scores (rows, columns) is below the
   n-th largest score of its group, -1 where it is kept itself, in the `size` rows in which that is least; of equals in those
   further up. Scores are the bits of float32 of at least 0, and the mask is that of eggs_best_n. Returns other than 0 where
   memory ran out. */
int eggs_nearest(const int32_t *scores, const uint8_t *mask, int64_t rows, int64_t columns, int n, int m,
                 const int64_t *channels, int64_t count, int64_t size, float *by, int64_t *row, eggs_level level,
                 int threads);

#endif
