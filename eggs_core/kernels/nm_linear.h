/* Products with weights in the packed N:M form, and the way back to a dense matrix. docs/packed-format.md. */
#ifndef EGGS_NM_LINEAR_H
#define EGGS_NM_LINEAR_H

#include <stdint.h>

#include "levels.h"

typedef enum { EGGS_F32 = 0, EGGS_F16 = 1, EGGS_BF16 = 2 } eggs_dtype;

/* A matrix of `rows` rows and `columns` columns of which every row keeps n of each m, m dividing columns. Its values lie
   row by row, from left to right; a row of the mask says which columns are kept, in the form of docs/packed-format.md. The
   mask of the next row begins `mask_apart` bytes further: 0 where all rows have one, as a dense matrix does, of which each
   1 of 1 is kept. */
typedef struct {
    const void *values;
    const uint8_t *mask;
    int64_t mask_apart, rows, columns, n, m;
    eggs_dtype dtype;
} eggs_packed;

/* y (tokens, rows) = x (tokens, columns) times the transposed matrix, plus bias (rows) unless that is NULL; all of the
   matrix's dtype, with sums in float32. Each row is summed in one order, whatever the threads. Returns 0, or -1 where
   there is no memory. */
int eggs_linear(const eggs_packed *W, const void *x, const void *bias, void *y, int64_t tokens, eggs_level level,
                int threads);

/* The dense matrix, (last - first, columns), of the rows from `first` to before `last`. */
void eggs_unpack(const eggs_packed *W, int64_t first, int64_t last, void *dense, eggs_level level, int threads);

#endif
