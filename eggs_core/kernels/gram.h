/* Gram matrices of bfloat16. */
#ifndef EGGS_GRAM_H
#define EGGS_GRAM_H

#include <stdint.h>

#include "levels.h"

/* Adds XᵀX of X (tokens, columns) bfloat16, summed up in float32, to `gram` (columns, columns): on and above the diagonal, and
   to some of what is below. For levels with BF16 alone. Returns other than 0 where memory ran out. */
int eggs_add_gram(const uint16_t *X, int64_t tokens, int64_t columns, float *gram, eggs_level level, int threads);

#endif
