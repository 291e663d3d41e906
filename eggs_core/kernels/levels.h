/* What the kernels may use of a processor, and what all of them use. */
#ifndef EGGS_LEVELS_H
#define EGGS_LEVELS_H

#include <stdint.h>

/* What a processor has, each with all before it. */
typedef enum { EGGS_PORTABLE = 0, EGGS_AVX2 = 1, EGGS_AVX512 = 2, EGGS_AVX512_BF16 = 3, EGGS_AMX = 4 } eggs_level;

/* The highest level of the processor at hand. */
eggs_level eggs_best_level(void);

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 8")

#if defined(__x86_64__) && defined(__GNUC__)
#define EGGS_X86 1
#define TARGET_AVX2 __attribute__((target("avx2,fma,f16c,bmi2,popcnt")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,bmi2,popcnt")))
#define TARGET_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi2,avx512bf16,bmi2,popcnt")))
#if defined(__linux__) && __has_include(<amxbf16intrin.h>)
#define EGGS_HAS_AMX 1
#define TARGET_AMX __attribute__((target("amx-tile,amx-bf16")))
#endif
#endif

/* COPY(NAME, TARGET), for every level up to AVX-512; and of a function with such copies the one for `level`, or of one that
   has none beyond AVX2. */
#ifdef EGGS_X86
#define FOR_LEVELS(COPY) COPY(portable, ) COPY(avx2, TARGET_AVX2) COPY(avx512, TARGET_AVX512)
#define UP_TO_AVX2(NAME) (level >= EGGS_AVX2 ? NAME##_avx2 : NAME##_portable)
#define UP_TO_AVX512(NAME) (level >= EGGS_AVX512 ? NAME##_avx512 : UP_TO_AVX2(NAME))
#else
#define FOR_LEVELS(COPY) COPY(portable, )
#define UP_TO_AVX2(NAME) ((void)level, NAME##_portable)
#define UP_TO_AVX512(NAME) UP_TO_AVX2(NAME)
#endif

#endif
