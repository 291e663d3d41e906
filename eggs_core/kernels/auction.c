/* Written for a compiler that turns loops of constant length into vectors: AT_ONCE columns lie side by side. */

#include "auction.h"

#include <math.h>

#define AT_ONCE 16

/* The cheapest column for a row at these prices, of equals the first; what it costs, and what the next one does. */
INLINE int64_t cheapest(const float *cost, const double *price, int64_t size, double *lowest, double *next) {
    double low[AT_ONCE], second[AT_ONCE];
    int64_t block[AT_ONCE] = {0}, found = 0;
    for (int i = 0; i < AT_ONCE; i++) low[i] = second[i] = INFINITY;
    for (int64_t first = 0; first < size; first += AT_ONCE) {
        double total[AT_ONCE];
        if (first + AT_ONCE <= size)
            for (int i = 0; i < AT_ONCE; i++) total[i] = cost[first + i] + price[first + i];
        else
            for (int i = 0; i < AT_ONCE; i++) total[i] = first + i < size ? cost[first + i] + price[first + i] : INFINITY;
        for (int i = 0; i < AT_ONCE; i++) {
            double dearer = total[i] < low[i] ? low[i] : total[i];
            block[i] = total[i] < low[i] ? first : block[i];
            low[i] = total[i] < low[i] ? total[i] : low[i];
            second[i] = dearer < second[i] ? dearer : second[i];
        }
    }
    *lowest = *next = INFINITY;
    for (int i = 0; i < AT_ONCE; i++) {
        double dearer = fmax(low[i], *lowest);
        if (low[i] < *lowest || (low[i] == *lowest && block[i] + i < found)) *lowest = low[i], found = block[i] + i;
        *next = fmin(*next, fmin(dearer, second[i]));
    }
    return found;
}

/* Who is outbid bids next (Bertsekas, "Auction algorithms for network flow problems", 1992). */
INLINE void auction(const float *cost, int64_t size, double *price, double step, int64_t bids, int64_t *owner) {
    int64_t made = 0;
    for (int64_t i = 0; i < size; i++) owner[i] = -1;
    for (int64_t first = 0; first < size; first++)
        for (int64_t row = first; row >= 0;) {
            double lowest, next;
            int64_t column = cheapest(cost + row * size, price, size, &lowest, &next), outbid = owner[column];
            price[column] += next - lowest + step;
            owner[column] = row, row = outbid;
            if (++made % (bids * size) == 0) step *= 2;
        }
}

/* ---- levels ---- */

#define AT_LEVEL(NAME, TARGET)                                                                                          \
    TARGET static void auction_##NAME(const float *cost, int64_t size, double *price, double step, int64_t bids,        \
                                      int64_t *owner) {                                                                 \
        auction(cost, size, price, step, bids, owner);                                                                  \
    }

FOR_LEVELS(AT_LEVEL)

void eggs_auction(const float *cost, int64_t count, int64_t size, double *price, const double *step, int64_t bids,
                  int64_t *owner, eggs_level level, int threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < count; i++)
        UP_TO_AVX512(auction)(cost + i * size * size, size, price + i * size, step[i], bids, owner + i * size);
}
