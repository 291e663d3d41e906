/* The packed form as kernels read it: its numbers, where they lie, and how they are spread to their columns. */
#ifndef EGGS_PACKED_H
#define EGGS_PACKED_H

#include "nm_linear.h"

#include <string.h>

#ifdef EGGS_X86
#include <immintrin.h>
#endif

/* How far ahead, in bytes, values are asked for from memory: the processor's own guess stops at the end of a page. */
#define AHEAD (16 << 10)

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
    return W->mask + row * W->mask_apart;
}

/* ---- masks ---- */

/* Where m is 2, 4 or 8, what is stored of a group are the running parities of its bits, from the first to each: without the
   last of them, which is that of n. So a bit is the parity there and the one before it, added without carry. */
static inline int in_parities(const eggs_packed *W) { return W->m == 2 || W->m == 4 || W->m == 8; }

/* Stored bits of so many columns. */
static inline int64_t stored_bits(const eggs_packed *W, int64_t columns) {
    return in_parities(W) ? columns - columns / W->m : columns;
}

/* Stored bytes of a row. */
static inline int64_t mask_bytes(const eggs_packed *W) { return ceiling(stored_bits(W, W->columns), 8); }

/* Bytes from the mask of a row to the end of all masks; where all rows have one, to its end. */
static inline int64_t mask_readable(const eggs_packed *W, int64_t row) {
    return (W->rows - 1 - row) * W->mask_apart + mask_bytes(W);
}

/* By what is stored of eight columns: their mask bits; and where each finds its value among those kept, NOTHING where it has
   none: for 32-bit values; and for the bytes of 16-bit ones, to 16 bits, and to the upper half of 32. */
#define NOTHING 0x80
typedef struct {
    uint8_t mask[256];
    int32_t spread_32[256][8];
    uint8_t spread_16[256][16], spread_high[256][32];
} eggs_eights;

/* For m 2, 4, 8 and any other, and n even and odd. */
extern eggs_eights eggs_eights_of[4][2];
#define EGGS_PLAIN (&eggs_eights_of[3][0]) /* by the mask bits themselves */

static inline const eggs_eights *eights_of(const eggs_packed *W) {
    return &eggs_eights_of[!in_parities(W) ? 3 : W->m == 2 ? 0 : W->m == 4 ? 1 : 2][W->n & 1];
}

/* How the masks of a matrix are stored: found once, as a loop that writes would find it anew for each eight columns. */
typedef struct {
    const eggs_eights *eights;
    int64_t width, end; /* stored bits of eight columns, and bytes of a row */
} eggs_stored;

static inline eggs_stored stored_in(const eggs_packed *W) {
    return (eggs_stored){eights_of(W), stored_bits(W, 8), mask_bytes(W)};
}

/* Mask bits of the columns from c on, `count` of them at most 32, where c is a multiple of 8; `mask` is that of the row. Reads
   no byte beyond it. */
static inline uint32_t bits_at(eggs_stored in, const uint8_t *mask, int64_t c, int64_t count) {
    uint64_t bits = 0;
    for (int64_t i = 0; i < count; i += 8) {
        int64_t at = (c + i) / 8 * in.width;
        uint32_t stored = mask[at / 8];
        if (at % 8 + in.width > 8 && at / 8 + 1 < in.end) stored |= (uint32_t)mask[at / 8 + 1] << 8;
        bits |= (uint64_t)in.eights->mask[stored >> at % 8 & ((1u << in.width) - 1)] << i;
    }
    return (uint32_t)(bits & ((UINT64_C(1) << count) - 1));
}

#ifdef EGGS_X86

/* How the mask bits of up to 64 columns come from what is stored of them: laid where `deposit` has ones, and added without
   carry to themselves a place further, where `carry` has ones, and to `last`. */
typedef struct {
    uint64_t deposit, carry, last;
} eggs_parities;

static inline eggs_parities parities_of(const eggs_packed *W) {
    if (!in_parities(W)) return (eggs_parities){~UINT64_C(0), 0, 0};
    const uint64_t first = ~UINT64_C(0) / ((UINT64_C(1) << W->m) - 1), last = first << (W->m - 1);
    return (eggs_parities){~last, ~UINT64_C(0), W->n & 1 ? last : 0};
}

/* What is stored from bit `at` on, 57 bits at least. */
static inline uint64_t stored_at(const uint8_t *mask, int64_t at) {
    uint64_t stored;
    memcpy(&stored, mask + at / 8, 8);
    return stored >> at % 8;
}

TARGET_AVX512 INLINE uint64_t bits_of_64(const uint8_t *mask, eggs_parities by) {
    uint64_t stored = _pdep_u64(stored_at(mask, 0), by.deposit);
    return stored ^ (stored << 1 & by.carry) ^ by.last;
}

/* ---- AVX2: eight columns at a time ---- */

/* Up to eight values, of which what is stored of the mask says the columns, as float32 with zeros between. */
TARGET_AVX2 INLINE __m256 in_their_columns(__m256 packed, const int32_t places[8]) {
    __m256i from = _mm256_loadu_si256((const __m256i *)places);
    __m256 none = _mm256_castsi256_ps(_mm256_slli_epi32(from, 24)), spread = _mm256_permutevar8x32_ps(packed, from);
    return _mm256_blendv_ps(spread, _mm256_setzero_ps(), none);
}

/* Bytes of an entry of the table that spreads values of a dtype, and that table. */
static inline int spread_bytes(eggs_dtype dtype) { return dtype == EGGS_F16 ? 16 : 32; }

static inline const char *spread_of(const eggs_eights *eights, eggs_dtype dtype) {
    return dtype == EGGS_F32   ? (const char *)eights->spread_32
           : dtype == EGGS_F16 ? (const char *)eights->spread_16
                               : (const char *)eights->spread_high;
}

/* The weights of eight columns, spread by this entry of the table, from value i on, as float32. Reads eight values. */
TARGET_AVX2 INLINE __m256 weights_of_8(const void *values, int64_t i, const void *spread, eggs_dtype dtype) {
    if (dtype == EGGS_F32) return in_their_columns(_mm256_loadu_ps((const float *)values + i), spread);
    __m128i packed = _mm_loadu_si128((const __m128i *)((const uint16_t *)values + i));
    if (dtype == EGGS_F16)
        return _mm256_cvtph_ps(_mm_shuffle_epi8(packed, _mm_loadu_si128(spread)));
    __m256i bytes = _mm256_loadu_si256(spread);
    return _mm256_castsi256_ps(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(packed), bytes));
}

/* The first `count` of eight. */
TARGET_AVX2 INLINE __m256i first_of_eight(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* `count` values, up to eight, as float32; reads no further. */
TARGET_AVX2 INLINE __m256 eight(const void *values, int64_t i, int count, eggs_dtype dtype) {
    if (dtype == EGGS_F32) return _mm256_maskload_ps((const float *)values + i, first_of_eight(count));
    __m128i bits = _mm_setzero_si128();
    memcpy(&bits, (const uint16_t *)values + i, (size_t)count * 2);
    if (dtype == EGGS_F16) return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

/* ---- AVX-512: sixteen columns at a time ---- */

TARGET_AVX512 INLINE __m512 sixteen(const void *values, int64_t i, int count, eggs_dtype dtype) {
    __mmask16 there = (__mmask16)((1u << count) - 1);
    if (dtype == EGGS_F32) return _mm512_maskz_loadu_ps(there, (const float *)values + i);
    __m256i bits = _mm256_maskz_loadu_epi16(there, (const uint16_t *)values + i);
    if (dtype == EGGS_F16) return _mm512_cvtph_ps(bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

/* Keeps a load out of the instruction that spreads it: from memory that one is slow. */
#define IN_REGISTER(v) __asm__("" : "+v"(v))

/* The weights of 16 columns with these mask bits, from value i on, as float32. Reads 16 values. */
TARGET_AVX512 INLINE __m512 weights_of_16(const void *values, int64_t i, uint16_t bits, eggs_dtype dtype) {
    __m512 packed;
    if (dtype == EGGS_F32) {
        packed = _mm512_loadu_ps((const float *)values + i);
        IN_REGISTER(packed);
    } else {
        __m256i halves = _mm256_loadu_si256((const __m256i *)((const uint16_t *)values + i));
        packed = dtype == EGGS_F16 ? _mm512_cvtph_ps(halves)
                                   : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
    }
    return _mm512_maskz_expand_ps(bits, packed);
}

/* ---- AVX-512 with VBMI2 and BF16: thirty-two columns at a time, 16-bit values only ---- */

/* Steps of 64 columns in which whole loads, of `width` values for each half and of eight bytes of the mask, stay within the
   `columns` of a row, and the `readable` bytes of the mask. Where m divides 32. */
static inline int64_t whole_steps(const eggs_packed *W, int64_t columns, int64_t width, int64_t readable) {
    const int64_t kept = columns / W->m * W->n, step = 32 * W->n / W->m, bytes = stored_bits(W, 64) / 8;
    if (kept < width || readable < 8) return 0;
    return least(least(columns / 32, (kept - width) / step + 1) / 2, (readable - 8) / bytes + 1);
}

/* The weights of 32 columns with these mask bits, from `width` values on: 16, or 32. */
TARGET_BF16 INLINE __m512i weights_of_32(const uint16_t *values, uint32_t bits, const int width) {
    __m512i packed = width == 16 ? _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)values))
                                 : _mm512_loadu_si512(values);
    IN_REGISTER(packed);
    return _mm512_maskz_expand_epi16(bits, packed);
}

/* The weights of up to 32 columns from c on, which a step of 32 begins with; reads no further. Moves `values` past them. */
TARGET_BF16 INLINE __m512i next_weights(eggs_stored in, const uint16_t **values, const uint8_t *mask, int64_t c,
                                        int64_t columns) {
    uint32_t bits = bits_at(in, mask, c, columns);
    int count = __builtin_popcount(bits);
    __m512i packed = _mm512_maskz_loadu_epi16(count == 32 ? 0xffffffffu : (1u << count) - 1, *values);
    IN_REGISTER(packed);
    *values += count;
    return _mm512_maskz_expand_epi16(bits, packed);
}

#endif /* EGGS_X86 */

/* Columns `first`, a multiple of m and of 32, to before `first + columns` of a row of 16-bit values, 32 of them at a time,
   each `stride` numbers after the last: whole steps, with zeros beyond the last column. From EGGS_AVX512_BF16 on. */
void eggs_unpack_steps(const eggs_packed *W, int64_t row, int64_t first, int64_t columns, uint16_t *dense, int64_t stride);

/* `eggs_linear` for many tokens, all bfloat16. From EGGS_AVX512_BF16 on. */
int eggs_linear_blocks(const eggs_packed *W, const uint16_t *x, const uint16_t *bias, uint16_t *y, int64_t tokens,
                       eggs_level level, int threads);

#endif
