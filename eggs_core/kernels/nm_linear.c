/* The packed form is read once and never unpacked as a whole: a few weights at a time are spread to their columns in a
   register, zeros between them, and multiplied with as many inputs. So what is infinite or NaN in the input meets the
   zeros, as in a dense product. With one token the time is that of reading the packed bytes from memory.

   A kernel takes a row at a time, so that memory is read in one stream, and TOKENS tokens, so that weights are spread once
   for all of them. It keeps CHUNKS sums for each, of columns that follow each other, so that they need not wait. */

#include "nm_linear.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define EGGS_X86 1
#include <immintrin.h>
#endif

#define UNROLLED _Pragma("GCC unroll 8")
#define MAX_TOKENS 8
#define MAX_CHUNKS 4
/* How far ahead, in bytes, values are asked for from memory: the processor's own guess stops at the end of a page. */
#define AHEAD (16 << 10)
/* Rows worked on before the next tokens: their packed weights stay in the second-level cache meanwhile. */
#define BLOCK_ROWS 16

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- numbers ---- */

static inline float bf16_to_float(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

static inline uint16_t float_to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40); /* NaN stays NaN */
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);                 /* to the nearest, ties to even */
}

static inline float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff, bits;
    float value;
    if (rest >= 0x7c00) {
        bits = sign | 0x7f800000u | (rest & 0x3ff) << 13;
    } else if (rest >= 0x400) {
        bits = sign | ((rest << 13) + (112u << 23));
    } else {
        value = (float)rest * (1.0f / 16777216.0f); /* a subnormal half: rest * 2^-24, which a float has exactly */
        memcpy(&bits, &value, 4);
        bits |= sign;
    }
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint16_t float_to_half(float value) {
    uint32_t bits, sign, rest;
    memcpy(&bits, &value, 4);
    sign = bits >> 16 & 0x8000;
    rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u) return (uint16_t)(sign | 0x7e00);
    if (rest >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); /* 65520 and above round to infinity */
    if (rest < 0x38800000u) { /* below 2^-14: adding 0.5 leaves the multiple of 2^-24 in the last bits */
        float shifted;
        uint32_t shifted_bits;
        memcpy(&shifted, &rest, 4);
        shifted += 0.5f;
        memcpy(&shifted_bits, &shifted, 4);
        return (uint16_t)(sign | (shifted_bits - 0x3f000000u));
    }
    return (uint16_t)(sign | ((rest - (112u << 23) + 0xfffu + (rest >> 13 & 1)) >> 13));
}

static inline float load(const void *from, int64_t i, eggs_dtype dtype) {
    if (dtype == EGGS_F32) return ((const float *)from)[i];
    uint16_t bits = ((const uint16_t *)from)[i];
    return dtype == EGGS_BF16 ? bf16_to_float(bits) : half_to_float(bits);
}

static inline void store(void *to, int64_t i, float value, eggs_dtype dtype) {
    if (dtype == EGGS_F32)
        ((float *)to)[i] = value;
    else
        ((uint16_t *)to)[i] = dtype == EGGS_BF16 ? float_to_bf16(value) : float_to_half(value);
}

static inline int64_t size_of(eggs_dtype dtype) { return dtype == EGGS_F32 ? 4 : 2; }

/* Values of a row. */
static inline int64_t kept_of(const eggs_packed *W) { return W->columns / W->m * W->n; }

static inline const void *values_of(const eggs_packed *W, int64_t row) {
    return (const char *)W->values + row * kept_of(W) * size_of(W->dtype);
}

static inline const uint8_t *mask_of(const eggs_packed *W, int64_t row) {
    return W->mask + row * ((W->columns + 7) / 8);
}

/* Mask bits of the columns from c on, `count` of them at most 32, where c is a multiple of 8. */
static inline uint32_t bits_at(const uint8_t *mask, int64_t c, int64_t count) {
    uint32_t bits = 0;
    if (count > 24)
        memcpy(&bits, mask + c / 8, 4); /* the order of x86, and of every machine that this is likely to meet */
    else
        for (int64_t i = 0; i < (count + 7) / 8; i++) bits |= (uint32_t)mask[c / 8 + i] << 8 * i;
    return count == 32 ? bits : bits & ((1u << count) - 1);
}

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

#define TARGET_AVX2 __attribute__((target("avx2,fma,f16c,popcnt")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,popcnt")))
#define TARGET_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi2,avx512bf16,popcnt")))
#define INLINE static inline __attribute__((always_inline))

/* ---- AVX2: eight columns at a time ---- */

/* For every byte of mask bits, where each of eight columns finds its value among those kept. */
static uint8_t spread[256][8];
/* The same for the bytes of 16-bit values, NOTHING where a column has none: to 16 bits, and to the upper half of 32. */
static uint8_t spread_16[256][16], spread_high[256][32];
#define NOTHING 0x80

__attribute__((constructor)) static void fill_spread(void) {
    for (int byte = 0; byte < 256; byte++)
        for (int column = 0, kept = 0; column < 8; column++) {
            int here = byte >> column & 1;
            uint8_t low = (uint8_t)(here ? 2 * kept : NOTHING), high = (uint8_t)(here ? 2 * kept + 1 : NOTHING);
            spread[byte][column] = (uint8_t)kept;
            memcpy(&spread_16[byte][2 * column], (uint8_t[]){low, high}, 2);
            memcpy(&spread_high[byte][4 * column], (uint8_t[]){NOTHING, NOTHING, low, high}, 4);
            kept += here;
        }
}

/* Up to eight values, of which this byte of the mask says the columns, as float32 with zeros between. */
TARGET_AVX2 INLINE __m256 in_their_columns(__m256 packed, uint32_t bits) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i from = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)spread[bits]));
    __m256i kept = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), bit), bit);
    return _mm256_and_ps(_mm256_permutevar8x32_ps(packed, from), _mm256_castsi256_ps(kept));
}

/* The weights of eight columns with these mask bits, from value i on, as float32. Reads eight values. */
TARGET_AVX2 INLINE __m256 weights_of_8(const void *values, int64_t i, uint32_t bits, eggs_dtype dtype) {
    if (dtype == EGGS_F32) return in_their_columns(_mm256_loadu_ps((const float *)values + i), bits);
    __m128i packed = _mm_loadu_si128((const __m128i *)((const uint16_t *)values + i));
    if (dtype == EGGS_F16) return in_their_columns(_mm256_cvtph_ps(packed), bits);
    __m256i bytes = _mm256_loadu_si256((const __m256i *)spread_high[bits]);
    return _mm256_castsi256_ps(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(packed), bytes));
}

/* `count` values, up to eight, as float32; reads no further. */
TARGET_AVX2 INLINE __m256 eight(const void *values, int64_t i, int count, eggs_dtype dtype) {
    if (dtype == EGGS_F32) {
        __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes);
        return _mm256_maskload_ps((const float *)values + i, there);
    }
    __m128i bits = _mm_setzero_si128();
    memcpy(&bits, (const uint16_t *)values + i, (size_t)count * 2);
    if (dtype == EGGS_F16) return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

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
        __m256i inside =
            _mm256_cmpgt_epi32(_mm256_set1_epi32((int)columns), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
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

TARGET_AVX512 INLINE __m512 sixteen(const void *values, int64_t i, int count, eggs_dtype dtype) {
    __mmask16 there = (__mmask16)((1u << count) - 1);
    if (dtype == EGGS_F32) return _mm512_maskz_loadu_ps(there, (const float *)values + i);
    __m256i bits = _mm256_maskz_loadu_epi16(there, (const uint16_t *)values + i);
    if (dtype == EGGS_F16) return _mm512_cvtph_ps(bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

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

/* Keeps a load out of the instruction that spreads it: from memory that one is slow. */
#define IN_REGISTER(v) __asm__("" : "+v"(v))

TARGET_BF16 INLINE __m512 add_product(__m512 acc, __m512i w, const uint16_t *x) {
    return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)_mm512_loadu_si512(x));
}

/* The weights of 32 columns with these mask bits, from `width` values on: 16, or 32. */
TARGET_BF16 INLINE __m512i weights_of_32(const uint16_t *values, const uint8_t *mask, const int width) {
    uint32_t bits;
    memcpy(&bits, mask, 4);
    __m512i packed = width == 16 ? _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)values))
                                 : _mm512_loadu_si512(values);
    IN_REGISTER(packed);
    return _mm512_maskz_expand_epi16(bits, packed);
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
        uint32_t bits = bits_at(mask, c, columns);
        int count = __builtin_popcount(bits);
        __mmask32 there = count == 32 ? 0xffffffffu : (1u << count) - 1;
        __m512i packed = _mm512_maskz_loadu_epi16(there, values);
        IN_REGISTER(packed);
        __m512i w = _mm512_maskz_expand_epi16(bits, packed);
        values += count;
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

eggs_level eggs_best_level(void) {
#ifdef EGGS_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512bf16") ? EGGS_AVX512_BF16
                                                                                             : EGGS_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
        return EGGS_AVX2;
#endif
    return EGGS_PORTABLE;
}

int eggs_linear(const eggs_packed *W, const void *x, const void *bias, void *y, int64_t tokens, eggs_level level,
                int threads) {
    int as_bf16 = level == EGGS_AVX512_BF16 && W->dtype == EGGS_BF16;
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

/* ---- the way back ---- */

static void unpack_row(const eggs_packed *W, int64_t row, void *dense) {
    const uint8_t *mask = mask_of(W, row);
    int64_t size = size_of(W->dtype);
    const char *value = values_of(W, row);
    memset(dense, 0, (size_t)(W->columns * size));
    for (int64_t c = 0; c < W->columns; c++)
        if (mask[c / 8] >> c % 8 & 1) {
            memcpy((char *)dense + c * size, value, (size_t)size);
            value += size;
        }
}

#ifdef EGGS_X86
/* Eight columns at a time for as long as whole loads stay within the row; then one by one. */
TARGET_AVX2 static void unpack_row_of_16_bits_avx2(const eggs_packed *W, int64_t row, uint16_t *dense) {
    const uint16_t *values = values_of(W, row), *end = values + kept_of(W);
    const uint8_t *mask = mask_of(W, row);
    int64_t c = 0;
    for (; c + 8 <= W->columns && end - values >= 8; c += 8) {
        uint32_t bits = mask[c / 8];
        _mm_prefetch((const char *)values + AHEAD, _MM_HINT_T1);
        __m128i from = _mm_loadu_si128((const __m128i *)spread_16[bits]);
        __m128i w = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)values), from);
        _mm_storeu_si128((__m128i *)(dense + c), w);
        values += __builtin_popcount(bits);
    }
    for (; c < W->columns; c++) dense[c] = mask[c / 8] >> c % 8 & 1 ? *values++ : 0;
}

/* By whole loads and stores, where m divides 32 and they stay within the row. Returns the columns done. */
TARGET_BF16 INLINE int64_t unpack_by_steps(const eggs_packed *W, const uint16_t *values, const uint8_t *mask,
                                           uint16_t *dense, const int width) {
    int64_t step = 32 * W->n / W->m, kept = kept_of(W);
    int64_t loads = kept < width ? 0 : least(W->columns / 32, (kept - width) / step + 1);
    for (int64_t i = 0; i < loads; i++) {
        _mm_prefetch((const char *)(values + i * step) + AHEAD, _MM_HINT_T1);
        _mm512_storeu_si512(dense + 32 * i, weights_of_32(values + i * step, mask + 4 * i, width));
    }
    return 32 * loads;
}

TARGET_BF16 static inline void unpack_row_of_16_bits(const eggs_packed *W, int64_t row, uint16_t *dense) {
    const uint16_t *values = values_of(W, row);
    const uint8_t *mask = mask_of(W, row);
    int64_t done = 0;
    if (32 % W->m == 0) {
        done = 2 * W->n <= W->m ? unpack_by_steps(W, values, mask, dense, 16)
                                : unpack_by_steps(W, values, mask, dense, 32);
        values += done / W->m * W->n;
    }
    for (int64_t c = done; c < W->columns; c += 32) {
        int64_t columns = least(32, W->columns - c);
        __mmask32 inside = columns == 32 ? 0xffffffffu : (1u << columns) - 1;
        uint32_t bits = bits_at(mask, c, columns);
        int count = __builtin_popcount(bits);
        __mmask32 there = count == 32 ? 0xffffffffu : (1u << count) - 1;
        __m512i w = _mm512_maskz_expand_epi16(bits, _mm512_maskz_loadu_epi16(there, values));
        _mm512_mask_storeu_epi16(dense + c, inside, w);
        values += count;
    }
}
#endif

void eggs_unpack(const eggs_packed *W, int64_t first, int64_t last, void *dense, eggs_level level, int threads) {
    int64_t size = size_of(W->dtype) * W->columns;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = first; row < last; row++) {
        char *to = (char *)dense + (row - first) * size;
#ifdef EGGS_X86
        if (level == EGGS_AVX512_BF16 && W->dtype != EGGS_F32) {
            unpack_row_of_16_bits(W, row, (uint16_t *)to);
            continue;
        }
        if (level >= EGGS_AVX2 && W->dtype != EGGS_F32) {
            unpack_row_of_16_bits_avx2(W, row, (uint16_t *)to);
            continue;
        }
#endif
        unpack_row(W, row, to);
    }
}
