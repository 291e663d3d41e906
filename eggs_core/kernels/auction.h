/* Assignments by auction. */
#ifndef EGGS_AUCTION_H
#define EGGS_AUCTION_H

#include <stdint.h>

#include "levels.h"

/* `count` problems, each of `size` rows that bid for as many columns, at cost (size, size) and, in the end, price (size), which
   comes with the prices to begin with; owner (size): the row that gets a column. A bid raises a price by step[i] more than
   needed, and by twice as much after every so many bids a row. */
void eggs_auction(const float *cost, int64_t count, int64_t size, double *price, const double *step, int64_t bids,
                  int64_t *owner, eggs_level level, int threads);

#endif
