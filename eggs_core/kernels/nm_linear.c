/* The packed form is read once and never unpacked as a whole: a few weights at a time are spread to their columns in a
   register, zeros between them, and multiplied with as many inputs. So what is infinite or NaN in the input meets the
   zeros, as in a dense product. With one token the time is that of reading the packed bytes from memory.

   A kernel takes TOKENS tokens, so that weights are spread once for all of them, and ROWS rows, so that inputs are loaded
   once for all of those. It keeps CHUNKS sums for each, of columns that follow each other, so that they need not wait. What
   the next rows take is meanwhile asked for from memory in one stream, from their first byte to their last: where memory is
   fast it gives up to a quarter more than if each row were asked for by itself. */

#include "packed.h"

#include <stdlib.h>

#ifdef EGGS_HAS_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18
#endif

#define MAX_ROWS 4
#define MAX_TOKENS 8
#define MAX_CHUNKS 2
/* Rows worked on before the next tokens: their packed weights stay in the second-level cache meanwhile. */
#define BLOCK_ROWS 24
/* Tokens from which `eggs_linear_blocks` is faster: than these kernels with AMX; than torch without it. */
#define FROM_WITH_AMX 5
#define FROM 17

/* Multiplies as many rows of W, from `row` on, with as many tokens of x, (tokens, columns), as the kernel is for, to
   sums[r * tokens + t]. Rows beyond the last of W are the last once more. x is float32, but for the kernels of
   EGGS_AVX512_BF16, which take bfloat16 as it is. */
typedef void kernel(const eggs_packed *W, int64_t row, const void *x, float *sums);

#define ARGUMENTS const eggs_packed *W, int64_t row, const void *x, float *sums

/* ---- portable: a row at a time ---- */

static inline void portable(ARGUMENTS, const int tokens) {
    const float *X = x;
    const void *values = values_of(W, row);
    const uint8_t *mask = mask_of(W, row);
    const eggs_stored in = stored_in(W);
    int64_t i = 0;
    uint32_t bits = 0;
    for (int t = 0; t < tokens; t++) sums[t] = 0;
    for (int64_t c = 0; c < W->columns; c++, bits >>= 1) {
        if (c % 8 == 0) bits = bits_at(in, mask, c, least(8, W->columns - c));
        float w = bits & 1 ? load(values, i++, W->dtype) : 0.0f;
        for (int t = 0; t < tokens; t++) sums[t] += w * X[t * W->columns + c];
    }
}

#ifdef EGGS_X86

/* Bytes of the first-level cache, which some processors have more of. */
#define FIRST_CACHE (32 << 10)

/* Where the values and the mask of the rows begin that come after those of a kernel; and whether the first-level cache has
   room for them beside the rows and inputs at hand. Where it has none they would push these out, which takes up to a third
   of the speed, and so they come no nearer than the second. */
typedef struct {
    const char *values, *mask;
    int near;
} next_rows;

/* Where the rows of a kernel have their masks, and, counted from the first of these rows on, their values. How far the values
   can be read from there, and the mask of the last of these rows from its beginning. */
#define FIND_ROWS                                                                                                     \
    const void *values = values_of(W, row);                                                                           \
    const uint8_t *mask[MAX_ROWS];                                                                                    \
    int64_t i[MAX_ROWS], there = kept_of(W) * (W->rows - row);                                                        \
    const int64_t readable = mask_readable(W, least(row + rows, W->rows) - 1);                                        \
    const eggs_stored in = stored_in(W);                                                                              \
    const int64_t size = rows * kept_of(W) * size_of(W->dtype), inputs = tokens * W->columns * (int64_t)sizeof *X;    \
    const next_rows next = {(const char *)values + size, (const char *)mask_of(W, row + rows),                        \
                            2 * (size + rows * W->mask_apart) + inputs <= FIRST_CACHE};                               \
    UNROLLED for (int r = 0; r < rows; r++) {                                                                         \
        int64_t real = least(r, W->rows - row - 1);                                                                   \
        mask[r] = mask_of(W, row + real), i[r] = real * kept_of(W);                                                   \
    }
#define EVERY_SUM UNROLLED for (int r = 0; r < rows; r++) UNROLLED for (int t = 0; t < tokens; t++)

INLINE void ask_for_line(const char *line, int near) {
    if (near)
        _mm_prefetch(line, _MM_HINT_T0);
    else
        _mm_prefetch(line, _MM_HINT_T1);
}

/* Asks for as much of the next rows as a step reads of these: of their values and masks, from the first of their bytes on.
   Of each of these rows `read` bytes of values were read, and `stored` of the mask; a step reads `step` of values, at most
   `most`. */
INLINE void ask_for(next_rows next, int64_t read, int64_t stored, int64_t step, const int64_t most, const int rows) {
    UNROLLED for (int r = 0; r < rows; r++) UNROLLED for (int64_t line = 0; line < most; line += 64)
        ask_for_line(next.values + rows * read + r * step + line, next.near);
    ask_for_line(next.mask + rows * stored, next.near);
}

/* ---- AVX2: eight columns at a time ---- */

TARGET_AVX2 INLINE float sum_of_eight(__m256 v) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* Steps of 32 columns, for as long as whole loads stay within the matrix. Moves i past their values, and returns the columns
   done. With `steady` every eight columns keep as many, which need not be counted: where m divides 8. */
TARGET_AVX2 INLINE int64_t avx2_steps(const eggs_packed *W, const void *values, const uint8_t *const *mask, int64_t *i,
                                      const float *X, __m256 acc[MAX_ROWS][MAX_TOKENS][MAX_CHUNKS], const int rows,
                                      const int tokens, const int chunks, const eggs_dtype dtype, const int steady,
                                      int64_t there, next_rows next, int64_t readable) {
    const char *spread = spread_of(eights_of(W), dtype);
    const int64_t width = stored_bits(W, 8), step = 8 * W->n / W->m, bytes = 32 * W->n / W->m * size_of(dtype);
    const uint64_t eight = ((UINT64_C(1) << width) - 1) * spread_bytes(dtype);
    int64_t c = 0, passed = 0;
    for (int64_t at = 0; c + 32 <= W->columns && i[rows - 1] + passed + 32 <= there && at / 8 + 8 <= readable; c += 32) {
        uint64_t stored[MAX_ROWS];
        ask_for(next, (i[0] + passed) * size_of(dtype), at / 8, bytes, 32 * size_of(dtype), rows);
        UNROLLED for (int r = 0; r < rows; r++) stored[r] = stored_at(mask[r], at) * spread_bytes(dtype);
        at += 4 * width;
        UNROLLED for (int k = 0; k < 4; k++) {
            __m256 w[MAX_ROWS];
            UNROLLED for (int r = 0; r < rows; r++) {
                w[r] = weights_of_8(values, i[r] + passed, spread + (stored[r] & eight), dtype);
                if (!steady) i[r] += __builtin_popcountll(stored[r] & eight);
                stored[r] >>= width;
            }
            if (steady) passed += step;
            UNROLLED for (int t = 0; t < tokens; t++) {
                __m256 inputs = _mm256_loadu_ps(X + t * W->columns + c + 8 * k);
                UNROLLED for (int r = 0; r < rows; r++)
                    acc[r][t][k % chunks] = _mm256_fmadd_ps(w[r], inputs, acc[r][t][k % chunks]);
            }
        }
    }
    UNROLLED for (int r = 0; r < rows; r++) i[r] += passed;
    return c;
}

TARGET_AVX2 INLINE void avx2(ARGUMENTS, const int rows, const int tokens, const int chunks, const eggs_dtype dtype) {
    const float *X = x;
    FIND_ROWS
    __m256 acc[MAX_ROWS][MAX_TOKENS][MAX_CHUNKS];
    EVERY_SUM UNROLLED for (int k = 0; k < chunks; k++) acc[r][t][k] = _mm256_setzero_ps();
    int64_t c = 8 % W->m == 0
                    ? avx2_steps(W, values, mask, i, X, acc, rows, tokens, chunks, dtype, 1, there, next, readable)
                    : avx2_steps(W, values, mask, i, X, acc, rows, tokens, chunks, dtype, 0, there, next, readable);
    for (; c < W->columns; c += 8) {
        int64_t columns = least(8, W->columns - c);
        __m256i inside = first_of_eight((int)columns);
        UNROLLED for (int r = 0; r < rows; r++) {
            uint32_t bits = bits_at(in, mask[r], c, columns);
            int count = __builtin_popcount(bits);
            __m256 w = in_their_columns(eight(values, i[r], count, dtype), EGGS_PLAIN->spread_32[bits]);
            i[r] += count;
            UNROLLED for (int t = 0; t < tokens; t++) {
                __m256 inputs = _mm256_maskload_ps(X + t * W->columns + c, inside);
                acc[r][t][0] = _mm256_fmadd_ps(w, inputs, acc[r][t][0]);
            }
        }
    }
    EVERY_SUM {
        UNROLLED for (int k = 1; k < chunks; k++) acc[r][t][0] = _mm256_add_ps(acc[r][t][0], acc[r][t][k]);
        sums[r * tokens + t] = sum_of_eight(acc[r][t][0]);
    }
}

/* ---- AVX-512: sixteen columns at a time ---- */

/* As `avx2_steps`, by 64 columns; steady where m divides 16. */
TARGET_AVX512 INLINE int64_t avx512_steps(const eggs_packed *W, const void *values, const uint8_t *const *mask, int64_t *i,
                                          const float *X, __m512 acc[MAX_ROWS][MAX_TOKENS][MAX_CHUNKS], const int rows,
                                          const int tokens, const int chunks, const eggs_dtype dtype, const int steady,
                                          int64_t there, next_rows next, int64_t readable) {
    const int64_t stored = stored_bits(W, 64) / 8, step = 16 * W->n / W->m, bytes = 64 * W->n / W->m * size_of(dtype);
    const eggs_parities by = parities_of(W);
    int64_t c = 0, passed = 0;
    for (int64_t at = 0; c + 64 <= W->columns && i[rows - 1] + passed + 64 <= there && at + 8 <= readable; c += 64) {
        uint64_t bits[MAX_ROWS];
        ask_for(next, (i[0] + passed) * size_of(dtype), at, bytes, 64 * size_of(dtype), rows);
        UNROLLED for (int r = 0; r < rows; r++) bits[r] = bits_of_64(mask[r] + at, by);
        at += stored;
        UNROLLED for (int k = 0; k < 4; k++) {
            __m512 w[MAX_ROWS];
            UNROLLED for (int r = 0; r < rows; r++) {
                uint16_t here = (uint16_t)(bits[r] >> 16 * k);
                w[r] = weights_of_16(values, i[r] + passed, here, dtype);
                if (!steady) i[r] += __builtin_popcount(here);
            }
            if (steady) passed += step;
            UNROLLED for (int t = 0; t < tokens; t++) {
                __m512 inputs = _mm512_loadu_ps(X + t * W->columns + c + 16 * k);
                UNROLLED for (int r = 0; r < rows; r++)
                    acc[r][t][k % chunks] = _mm512_fmadd_ps(w[r], inputs, acc[r][t][k % chunks]);
            }
        }
    }
    UNROLLED for (int r = 0; r < rows; r++) i[r] += passed;
    return c;
}

TARGET_AVX512 INLINE void avx512(ARGUMENTS, const int rows, const int tokens, const int chunks, const eggs_dtype dtype) {
    const float *X = x;
    FIND_ROWS
    __m512 acc[MAX_ROWS][MAX_TOKENS][MAX_CHUNKS];
    EVERY_SUM UNROLLED for (int k = 0; k < chunks; k++) acc[r][t][k] = _mm512_setzero_ps();
    int64_t c = 16 % W->m == 0
                    ? avx512_steps(W, values, mask, i, X, acc, rows, tokens, chunks, dtype, 1, there, next, readable)
                    : avx512_steps(W, values, mask, i, X, acc, rows, tokens, chunks, dtype, 0, there, next, readable);
    for (; c < W->columns; c += 16) {
        int64_t columns = least(16, W->columns - c);
        __mmask16 inside = (__mmask16)((1u << columns) - 1);
        UNROLLED for (int r = 0; r < rows; r++) {
            uint32_t bits = bits_at(in, mask[r], c, columns);
            int count = __builtin_popcount(bits);
            __m512 w = _mm512_maskz_expand_ps((__mmask16)bits, sixteen(values, i[r], count, dtype));
            i[r] += count;
            UNROLLED for (int t = 0; t < tokens; t++) {
                __m512 inputs = _mm512_maskz_loadu_ps(inside, X + t * W->columns + c);
                acc[r][t][0] = _mm512_fmadd_ps(w, inputs, acc[r][t][0]);
            }
        }
    }
    EVERY_SUM {
        UNROLLED for (int k = 1; k < chunks; k++) acc[r][t][0] = _mm512_add_ps(acc[r][t][0], acc[r][t][k]);
        sums[r * tokens + t] = _mm512_reduce_add_ps(acc[r][t][0]);
    }
}

/* ---- AVX-512 with VBMI2 and BF16: thirty-two columns at a time, bfloat16 only ---- */

/* Where m divides 32, every 32 columns keep `step` values, at most `width`. Takes them for as long as whole loads stay
   within the row, and moves i past them. Returns the columns done. */
TARGET_BF16 INLINE int64_t by_steps(const eggs_packed *W, const uint16_t *values, const uint8_t *const *mask, int64_t *i,
                                    const uint16_t *X, __m512 acc[MAX_ROWS][MAX_TOKENS][MAX_CHUNKS], const int rows,
                                    const int tokens, const int chunks, const int width, next_rows next, int64_t readable) {
    const int64_t step = 32 * W->n / W->m, bytes = stored_bits(W, 64) / 8;
    const int64_t whole = 64 * whole_steps(W, W->columns, width, readable);
    const eggs_parities by = parities_of(W);
    for (int64_t c = 0, at = 0, stored = 0; c < whole; c += 64, at += 2 * step, stored += bytes) {
        uint64_t bits[MAX_ROWS];
        ask_for(next, 2 * at, stored, 4 * step, 4 * width, rows);
        UNROLLED for (int r = 0; r < rows; r++) bits[r] = bits_of_64(mask[r] + stored, by);
        UNROLLED for (int k = 0; k < 2; k++) {
            __m512i w[MAX_ROWS];
            UNROLLED for (int r = 0; r < rows; r++)
                w[r] = weights_of_32(values + i[r] + at + k * step, (uint32_t)(bits[r] >> 32 * k), width);
            UNROLLED for (int t = 0; t < tokens; t++) {
                __m512i inputs = _mm512_loadu_si512(X + t * W->columns + c + 32 * k);
                UNROLLED for (int r = 0; r < rows; r++)
                    acc[r][t][k % chunks] = _mm512_dpbf16_ps(acc[r][t][k % chunks], (__m512bh)w[r], (__m512bh)inputs);
            }
        }
    }
    UNROLLED for (int r = 0; r < rows; r++) i[r] += whole / W->m * W->n;
    return whole;
}

TARGET_BF16 INLINE void avx512_bf16(ARGUMENTS, const int rows, const int tokens, const int chunks) {
    const uint16_t *X = x;
    FIND_ROWS
    __m512 acc[MAX_ROWS][MAX_TOKENS][MAX_CHUNKS];
    EVERY_SUM UNROLLED for (int k = 0; k < chunks; k++) acc[r][t][k] = _mm512_setzero_ps();
    int64_t done = 0;
    (void)there;
    if (32 % W->m == 0)
        done = 2 * W->n <= W->m ? by_steps(W, values, mask, i, X, acc, rows, tokens, chunks, 16, next, readable)
                                : by_steps(W, values, mask, i, X, acc, rows, tokens, chunks, 32, next, readable);
    UNROLLED for (int r = 0; r < rows; r++) {
        const uint16_t *left = (const uint16_t *)values + i[r];
        for (int64_t c = done; c < W->columns; c += 32) {
            int64_t columns = least(32, W->columns - c);
            __mmask32 inside = columns == 32 ? 0xffffffffu : (1u << columns) - 1;
            __m512i w = next_weights(in, &left, mask[r], c, columns);
            UNROLLED for (int t = 0; t < tokens; t++) {
                __m512i inputs = _mm512_maskz_loadu_epi16(inside, X + t * W->columns + c);
                acc[r][t][0] = _mm512_dpbf16_ps(acc[r][t][0], (__m512bh)w, (__m512bh)inputs);
            }
        }
    }
    EVERY_SUM {
        UNROLLED for (int k = 1; k < chunks; k++) acc[r][t][0] = _mm512_add_ps(acc[r][t][0], acc[r][t][k]);
        sums[r * tokens + t] = _mm512_reduce_add_ps(acc[r][t][0]);
    }
}

#define BY_DTYPE(NAME, ROWS, TOKENS, CHUNKS)                                                                          \
    switch (W->dtype) {                                                                                               \
        case EGGS_F32: NAME(W, row, x, sums, ROWS, TOKENS, CHUNKS, EGGS_F32); break;                                  \
        case EGGS_F16: NAME(W, row, x, sums, ROWS, TOKENS, CHUNKS, EGGS_F16); break;                                  \
        case EGGS_BF16: NAME(W, row, x, sums, ROWS, TOKENS, CHUNKS, EGGS_BF16); break;                                \
    }

#endif /* EGGS_X86 */

/* A copy of each kernel for one, two and four tokens, by rows and chunks. Rows, which divide BLOCK_ROWS, share the loads of x,
   which comes from the second-level cache; with AVX2 there are 16 registers for all sums. Only where x takes half as much
   are eight tokens at once faster than four and four. */
#define COPIES_AVX2(COPY) COPY(1, 4, 2) COPY(2, 4, 1) COPY(4, 3, 1)
#define COPIES_AVX512(COPY) COPY(1, 4, 2) COPY(2, 4, 2) COPY(4, 4, 1)
#define COPIES_BF16(COPY) COPIES_AVX512(COPY) COPY(8, 3, 1)

#define PORTABLE(TOKENS, ROWS, CHUNKS) static void portable_##TOKENS(ARGUMENTS) { portable(W, row, x, sums, TOKENS); }
COPIES_AVX512(PORTABLE)
#ifdef EGGS_X86
#define AVX2(TOKENS, ROWS, CHUNKS)                                                                                    \
    TARGET_AVX2 static void avx2_##TOKENS(ARGUMENTS) { BY_DTYPE(avx2, ROWS, TOKENS, CHUNKS) }
#define AVX512(TOKENS, ROWS, CHUNKS)                                                                                  \
    TARGET_AVX512 static void avx512_##TOKENS(ARGUMENTS) { BY_DTYPE(avx512, ROWS, TOKENS, CHUNKS) }
#define AVX512_BF16(TOKENS, ROWS, CHUNKS)                                                                             \
    TARGET_BF16 static void avx512_bf16_##TOKENS(ARGUMENTS) { avx512_bf16(W, row, x, sums, ROWS, TOKENS, CHUNKS); }
COPIES_AVX2(AVX2)
COPIES_AVX512(AVX512)
COPIES_BF16(AVX512_BF16)
#endif

/* By level and the logarithm of the tokens; the last one is not everywhere. */
static const struct {
    kernel *multiply;
    int rows;
} kernels[][4] = {
#define ENTRY(LEVEL, TOKENS, ROWS) {LEVEL##_##TOKENS, ROWS},
#define OF_PORTABLE(TOKENS, ROWS, CHUNKS) ENTRY(portable, TOKENS, 1)
#define OF_AVX2(TOKENS, ROWS, CHUNKS) ENTRY(avx2, TOKENS, ROWS)
#define OF_AVX512(TOKENS, ROWS, CHUNKS) ENTRY(avx512, TOKENS, ROWS)
#define OF_BF16(TOKENS, ROWS, CHUNKS) ENTRY(avx512_bf16, TOKENS, ROWS)
    {COPIES_AVX512(OF_PORTABLE)},
#ifdef EGGS_X86
    {COPIES_AVX2(OF_AVX2)},
    {COPIES_AVX512(OF_AVX512)},
    {COPIES_BF16(OF_BF16)},
#endif
};

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
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("bmi2")) {
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
            int log2 = left >= 8 && kernels[level][3].rows ? 3 : left >= 4 ? 2 : left >= 2 ? 1 : 0;
            int at_once = 1 << log2, rows = kernels[level][log2].rows;
            for (int64_t row = block * BLOCK_ROWS; row < end; row += rows) {
                float sums[MAX_ROWS * MAX_TOKENS];
                kernels[level][log2].multiply(W, row, (const char *)x + token * size_of_x, sums);
                for (int r = 0; r < rows && row + r < end; r++) {
                    float b = bias == NULL ? 0.0f : load(bias, row + r, W->dtype);
                    for (int t = 0; t < at_once; t++)
                        store(y, (token + t) * W->rows + row + r, sums[r * at_once + t] + b, W->dtype);
                }
            }
            token += at_once;
        }
    }
    free(wide);
    return 0;
}

