/* Scores of a group of four, ranked in a register. */
#ifndef EGGS_FOURS_H
#define EGGS_FOURS_H

#include "levels.h"

#ifdef EGGS_X86
#include <immintrin.h>

/* -1 for each of the three others of its four that beats a score. An equal one does where it lies further left: it is
   greater than the score less one bit. */
TARGET_AVX2 INLINE __m256i beaten_in_four(__m256i s) {
    const __m256i of_1 = _mm256_setr_epi32(0, 0, 0, -1, 0, 0, 0, -1);
    const __m256i of_2 = _mm256_setr_epi32(0, 0, -1, -1, 0, 0, -1, -1);
    const __m256i of_3 = _mm256_setr_epi32(0, -1, -1, -1, 0, -1, -1, -1);
    __m256i by_1 = _mm256_cmpgt_epi32(_mm256_shuffle_epi32(s, 0x39), _mm256_add_epi32(s, of_1));
    __m256i by_2 = _mm256_cmpgt_epi32(_mm256_shuffle_epi32(s, 0x4e), _mm256_add_epi32(s, of_2));
    __m256i by_3 = _mm256_cmpgt_epi32(_mm256_shuffle_epi32(s, 0x93), _mm256_add_epi32(s, of_3));
    return _mm256_add_epi32(_mm256_add_epi32(by_1, by_2), by_3);
}

#endif
#endif
