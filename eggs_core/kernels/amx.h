/* Tiles of AMX: every one is SIDE rows of 64 bytes. */
#ifndef EGGS_AMX_H
#define EGGS_AMX_H

#include "levels.h"

#define SIDE 16

#ifdef EGGS_X86
#include <immintrin.h>

/* 4 by 4 numbers of 32 bits, rows so many bytes apart. */
INLINE void transpose_4_by_4(const void *from, int64_t from_apart, void *to, int64_t to_apart) {
    const char *f = from;
    char *t = to;
    __m128 a = _mm_loadu_ps((const void *)f), b = _mm_loadu_ps((const void *)(f + from_apart));
    __m128 c = _mm_loadu_ps((const void *)(f + 2 * from_apart)), d = _mm_loadu_ps((const void *)(f + 3 * from_apart));
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps((void *)t, a), _mm_storeu_ps((void *)(t + to_apart), b);
    _mm_storeu_ps((void *)(t + 2 * to_apart), c), _mm_storeu_ps((void *)(t + 3 * to_apart), d);
}
#endif

#ifdef EGGS_HAS_AMX

/* What is in memory by now: the compiler does not know what instructions on tiles read of it. */
#define WRITTEN __asm__ volatile("" ::: "memory")

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64))) tile_config;

TARGET_AMX static inline void configure_tiles(void) {
    tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) config.row_bytes[i] = 64, config.rows[i] = SIDE;
    WRITTEN;
    _tile_loadconfig(&config);
}

TARGET_AMX static inline void release_tiles(void) { _tile_release(); }

#else /* no level says that there is AMX */
static inline void configure_tiles(void) {}
static inline void release_tiles(void) {}
#endif

#endif
