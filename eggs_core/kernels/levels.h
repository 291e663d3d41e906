/* What the kernels may use of a processor, and what all of them use. */
#ifndef EGGS_LEVELS_H
#define EGGS_LEVELS_H

#include <stdint.h>

/* What a processor has, each with all before it. */
typedef enum { EGGS_PORTABLE = 0, EGGS_AVX2 = 1, EGGS_AVX512 = 2, EGGS_AVX512_BF16 = 3, EGGS_AMX = 4 } eggs_level;

/* The highest level of the processor at hand. */
eggs_level eggs_best_level(void);

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

#define INLINE static inline __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GNUC__)
#define EGGS_X86 1
#define TARGET_AVX2 __attribute__((target("avx2,fma,f16c,popcnt")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,popcnt")))
#define TARGET_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi2,avx512bf16,popcnt")))
#if defined(__linux__) && __has_include(<amxbf16intrin.h>)
#define EGGS_HAS_AMX 1
#define TARGET_AMX __attribute__((target("amx-tile,amx-bf16")))
#endif
#endif

#endif
