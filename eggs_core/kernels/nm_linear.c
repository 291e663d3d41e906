/* The packed form is read once and never unpacked as a whole: a few weights at a time are spread to their columns in a
   register, zeros between them, and multiplied with as many inputs. So what is infinite or NaN in the input meets the
   zeros, as in a dense product. With one token the time is that of reading the packed bytes from memory.

   A kernel takes a row at a time, so that memory is read in one stream, and TOKENS tokens, so that weights are spread once
   for all of them. It keeps CHUNKS sums for each, of columns that follow each other, so that they need not wait. */

#include "packed.h"

#include <stdlib.h>

#ifdef EGGS_HAS_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18
#endif

#define UNROLLED _Pragma("GCC unroll 8")
#define MAX_TOKENS 8
#define MAX_CHUNKS 4
/* Rows worked on before the next tokens: their packed weights stay in the second-level cache meanwhile. */
#define BLOCK_ROWS 16
/* Tokens from which `eggs_linear_blocks` is faster: than these kernels with AMX; than torch without it. */
#define FROM_WITH_AMX 5
#define FROM 17

/* Multiplies one row of W with as many tokens of x, (tokens, columns), as the kernel is for. x is float32, but for the
   kernels of EGGS_AVX512_BF16, which take bfloat16 as it is. */
typedef void kernel(const eggs_packed *W, int64_t row, const void *x, float *sums);

#define ARGUMENTS const eggs_packed *W, int64_t row, const void *x, float *sums

/* ---- portable ---- */

static inline void portable(ARGUMENTS, const int tokens) {
    const float *X = x;
    const void *values = values_of(W, row);
    const uint8_t *mask = mask_of(W, row);
    int64_t i = 0;
    for (int t = 0; t < tokens; t++) sums[t] = 0;
    for (int64_t c = 0; c < W->columns; c++) {
        float w = mask[c / 8] >> c % 8 & 1 ? load(values, i++, W->dtype) : 0.0f;
        for (int t = 0; t < tokens; t++) sums[t] += w * X[t * W->columns + c];
    }
}

#ifdef EGGS_X86

/* ---- AVX2: eight columns at a time ---- */

TARGET_AVX2 INLINE float sum_of_eight(__m256 v) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

TARGET_AVX2 INLINE void avx2(ARGUMENTS, const int tokens, const int chunks, const eggs_dtype dtype) {
    const float *X = x;
    const void *values = values_of(W, row);
    const uint8_t *mask = mask_of(W, row);
    __m256 acc[MAX_TOKENS][MAX_CHUNKS];
    UNROLLED for (int t = 0; t < tokens; t++)
        UNROLLED for (int k = 0; k < chunks; k++) acc[t][k] = _mm256_setzero_ps();
    int64_t i = 0, c = 0, there = kept_of(W) * (W->rows - row); /* values of this row and those after it */
    for (; c + 8 * chunks <= W->columns && i + 8 * chunks <= there; c += 8 * chunks) {
        _mm_prefetch((const char *)values + i * size_of(dtype) + AHEAD, _MM_HINT_T1);
        UNROLLED for (int k = 0; k < chunks; k++) {
            uint32_t bits = mask[c / 8 + k];
            __m256 w = weights_of_8(values, i, bits, dtype);
            i += __builtin_popcount(bits);
            UNROLLED for (int t = 0; t < tokens; t++) {
                const float *at = X + t * W->columns + c + 8 * k;
                acc[t][k] = _mm256_fmadd_ps(w, _mm256_loadu_ps(at), acc[t][k]);
            }
        }
    }
    for (; c < W->columns; c += 8) {
        int64_t columns = least(8, W->columns - c);
        __m256i inside = first_of_eight((int)columns);
        uint32_t bits = bits_at(mask, c, columns);
        int count = __builtin_popcount(bits);
        __m256 w = in_their_columns(eight(values, i, count, dtype), bits);
        i += count;
        UNROLLED for (int t = 0; t < tokens; t++) {
            __m256 inputs = _mm256_maskload_ps(X + t * W->columns + c, inside);
            acc[t][0] = _mm256_fmadd_ps(w, inputs, acc[t][0]);
        }
    }
    UNROLLED for (int t = 0; t < tokens; t++) {
        UNROLLED for (int k = 1; k < chunks; k++) acc[t][0] = _mm256_add_ps(acc[t][0], acc[t][k]);
        sums[t] = sum_of_eight(acc[t][0]);
    }
}

/* ---- AVX-512: sixteen columns at a time ---- */

TARGET_AVX512 INLINE void avx512(ARGUMENTS, const int tokens, const int chunks, const eggs_dtype dtype) {
    const float *X = x;
    const void *values = values_of(W, row);
    const uint8_t *mask = mask_of(W, row);
    __m512 acc[MAX_TOKENS][MAX_CHUNKS];
    UNROLLED for (int t = 0; t < tokens; t++)
        UNROLLED for (int k = 0; k < chunks; k++) acc[t][k] = _mm512_setzero_ps();
    int64_t i = 0;
    for (int64_t c = 0; c < W->columns; c += 16 * chunks) {
        __builtin_prefetch((const char *)values + i * size_of(dtype) + AHEAD);
        UNROLLED for (int k = 0; k < chunks; k++) {
            int64_t columns = least(16, W->columns - c - 16 * k);
            if (columns <= 0) break;
            __mmask16 inside = (__mmask16)((1u << columns) - 1);
            uint32_t bits = bits_at(mask, c + 16 * k, columns);
            int count = __builtin_popcount(bits);
            __m512 w = _mm512_maskz_expand_ps((__mmask16)bits, sixteen(values, i, count, dtype));
            i += count;
            UNROLLED for (int t = 0; t < tokens; t++) {
                const float *at = X + t * W->columns + c + 16 * k;
                acc[t][k] = _mm512_fmadd_ps(w, _mm512_maskz_loadu_ps(inside, at), acc[t][k]);
            }
        }
    }
    UNROLLED for (int t = 0; t < tokens; t++) {
        UNROLLED for (int k = 1; k < chunks; k++) acc[t][0] = _mm512_add_ps(acc[t][0], acc[t][k]);
        sums[t] = _mm512_reduce_add_ps(acc[t][0]);
    }
}

/* ---- AVX-512 with VBMI2 and BF16: thirty-two columns at a time, bfloat16 only ---- */

TARGET_BF16 INLINE __m512 add_product(__m512 acc, __m512i w, const uint16_t *x) {
    return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)_mm512_loadu_si512(x));
}

/* Where m divides 32, every 32 columns keep `step` values, at most `width`. Takes them for as long as whole loads stay
   within the row. Returns the columns done. */
TARGET_BF16 INLINE int64_t by_steps(const eggs_packed *W, const uint16_t *values, const uint8_t *mask,
                                    const uint16_t *X, __m512 acc[MAX_TOKENS][MAX_CHUNKS], const int tokens,
                                    const int chunks, const int width) {
    int64_t step = 32 * W->n / W->m, kept = kept_of(W);
    int64_t loads = kept < width ? 0 : least(W->columns / 32, (kept - width) / step + 1);
    int64_t whole = loads / chunks * chunks * 32;
    for (int64_t c = 0; c < whole; c += 32 * chunks) {
        const char *ahead = (const char *)values + AHEAD;
        UNROLLED for (int line = 0; line < 2 * chunks * width; line += 64) _mm_prefetch(ahead + line, _MM_HINT_T1);
        _mm_prefetch((const char *)mask + c / 8 + AHEAD / 8, _MM_HINT_T1);
        UNROLLED for (int k = 0; k < chunks; k++) {
            __m512i w = weights_of_32(values + k * step, mask + c / 8 + 4 * k, width);
            UNROLLED for (int t = 0; t < tokens; t++)
                acc[t][k] = add_product(acc[t][k], w, X + t * W->columns + c + 32 * k);
        }
        values += chunks * step;
    }
    return whole;
}

TARGET_BF16 INLINE void avx512_bf16(ARGUMENTS, const int tokens, const int chunks) {
    const uint16_t *X = x, *values = values_of(W, row);
    const uint8_t *mask = mask_of(W, row);
    __m512 acc[MAX_TOKENS][MAX_CHUNKS];
    UNROLLED for (int t = 0; t < tokens; t++)
        UNROLLED for (int k = 0; k < chunks; k++) acc[t][k] = _mm512_setzero_ps();
    int64_t done = 0;
    if (32 % W->m == 0) {
        done = 2 * W->n <= W->m ? by_steps(W, values, mask, X, acc, tokens, chunks, 16)
                                : by_steps(W, values, mask, X, acc, tokens, chunks, 32);
        values += done / W->m * W->n;
    }
    for (int64_t c = done; c < W->columns; c += 32) {
        int64_t columns = least(32, W->columns - c);
        __mmask32 inside = columns == 32 ? 0xffffffffu : (1u << columns) - 1;
        __m512i w = next_weights(&values, mask, c, columns);
        UNROLLED for (int t = 0; t < tokens; t++) {
            __m512i inputs = _mm512_maskz_loadu_epi16(inside, X + t * W->columns + c);
            acc[t][0] = _mm512_dpbf16_ps(acc[t][0], (__m512bh)w, (__m512bh)inputs);
        }
    }
    UNROLLED for (int t = 0; t < tokens; t++) {
        UNROLLED for (int k = 1; k < chunks; k++) acc[t][0] = _mm512_add_ps(acc[t][0], acc[t][k]);
        sums[t] = _mm512_reduce_add_ps(acc[t][0]);
    }
}

#define BY_DTYPE(NAME, TOKENS, CHUNKS)                                                                                \
    switch (W->dtype) {                                                                                               \
        case EGGS_F32: NAME(W, row, x, sums, TOKENS, CHUNKS, EGGS_F32); break;                                        \
        case EGGS_F16: NAME(W, row, x, sums, TOKENS, CHUNKS, EGGS_F16); break;                                        \
        case EGGS_BF16: NAME(W, row, x, sums, TOKENS, CHUNKS, EGGS_BF16); break;                                      \
    }

#endif /* EGGS_X86 */

/* A copy of each kernel for one, two, four and eight tokens; with AVX2 there are 16 registers for their sums. */
#define COPIES(COPY) COPY(1, 4) COPY(2, 4) COPY(4, 2) COPY(8, 2)
#define COPIES_AVX2(COPY) COPY(1, 4) COPY(2, 4) COPY(4, 2) COPY(8, 1)
#define NAMES(LEVEL) {LEVEL##_1, LEVEL##_2, LEVEL##_4, LEVEL##_8}

#define PORTABLE(TOKENS, CHUNKS) static void portable_##TOKENS(ARGUMENTS) { portable(W, row, x, sums, TOKENS); }
COPIES(PORTABLE)
#ifdef EGGS_X86
#define AVX2(TOKENS, CHUNKS) TARGET_AVX2 static void avx2_##TOKENS(ARGUMENTS) { BY_DTYPE(avx2, TOKENS, CHUNKS) }
#define AVX512(TOKENS, CHUNKS) TARGET_AVX512 static void avx512_##TOKENS(ARGUMENTS) { BY_DTYPE(avx512, TOKENS, CHUNKS) }
#define AVX512_BF16(TOKENS, CHUNKS)                                                                                   \
    TARGET_BF16 static void avx512_bf16_##TOKENS(ARGUMENTS) { avx512_bf16(W, row, x, sums, TOKENS, CHUNKS); }
COPIES_AVX2(AVX2)
COPIES(AVX512)
COPIES(AVX512_BF16)
static kernel *const kernels[][4] = {NAMES(portable), NAMES(avx2), NAMES(avx512), NAMES(avx512_bf16)};
#else
static kernel *const kernels[][4] = {NAMES(portable)};
#endif

/* ---- choice ---- */

#ifdef EGGS_X86
/* Whether the processor has AMX for bfloat16, and the system lets this process use its registers. */
static int amx(void) {
#ifdef EGGS_HAS_AMX
    unsigned int a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & bit_AMX_BF16) || !(d & bit_AMX_TILE)) return 0;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return 0;
#endif
}
#endif

eggs_level eggs_best_level(void) {
#ifdef EGGS_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        if (!__builtin_cpu_supports("avx512vbmi2") || !__builtin_cpu_supports("avx512bf16")) return EGGS_AVX512;
        return amx() ? EGGS_AMX : EGGS_AVX512_BF16;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
        return EGGS_AVX2;
#endif
    return EGGS_PORTABLE;
}

int eggs_linear(const eggs_packed *W, const void *x, const void *bias, void *y, int64_t tokens, eggs_level level,
                int threads) {
    int as_bf16 = level >= EGGS_AVX512_BF16 && W->dtype == EGGS_BF16;
#ifdef EGGS_X86
    if (as_bf16 && tokens >= (level == EGGS_AMX ? FROM_WITH_AMX : FROM))
        return eggs_linear_blocks(W, x, bias, y, tokens, level, threads);
    if (level == EGGS_AMX) level = EGGS_AVX512_BF16;
#endif
    float *wide = NULL;
    if (!as_bf16) {
        if (level == EGGS_AVX512_BF16) level = EGGS_AVX512;
        if (W->dtype != EGGS_F32) {
            wide = malloc(sizeof(float) * (size_t)(tokens * W->columns) + 1);
            if (wide == NULL) return -1;
            for (int64_t i = 0; i < tokens * W->columns; i++) wide[i] = load(x, i, W->dtype);
            x = wide;
        }
    }
    int64_t size_of_x = (as_bf16 ? 2 : 4) * W->columns;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t block = 0; block < (W->rows + BLOCK_ROWS - 1) / BLOCK_ROWS; block++) {
        int64_t end = least((block + 1) * BLOCK_ROWS, W->rows);
        for (int64_t token = 0; token < tokens;) {
            int64_t left = tokens - token;
            int log2 = left >= 8 ? 3 : left >= 4 ? 2 : left >= 2 ? 1 : 0, at_once = 1 << log2;
            for (int64_t row = block * BLOCK_ROWS; row < end; row++) {
                float sums[MAX_TOKENS], b = bias == NULL ? 0.0f : load(bias, row, W->dtype);
                kernels[level][log2](W, row, (const char *)x + token * size_of_x, sums);
                for (int t = 0; t < at_once; t++) store(y, (token + t) * W->rows + row, sums[t] + b, W->dtype);
            }
            token += at_once;
        }
    }
    free(wide);
    return 0;
}

