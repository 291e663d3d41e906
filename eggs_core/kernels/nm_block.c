/* Products with many tokens, in bfloat16: a block of rows is unpacked to memory that stays in the second-level cache, and
   multiplied from there in tiles. So a weight is spread to its column once for up to CHUNK tokens, and each load of a weight
   or of an input serves several products. With AMX a tile is 16 rows by 16 tokens, in the processor's own tile registers;
   without it is 4 rows by up to 6 tokens. */

#include "amx.h"
#include "packed.h"

#include <stdlib.h>

#ifdef EGGS_X86

/* Columns of a step: what a register holds of a row. */
#define STEP 32
/* Columns and rows that are unpacked at a time. */
#define BLOCK_COLUMNS 2048
#define BLOCK_ROWS 128
/* Tokens up to which memory sets the time, and rows are read whole, some at a time: in one stream. */
#define FEW 32
#define FEW_ROWS 32
/* Tokens that are multiplied with a block before the next ones: their sums stay in the second-level cache. */
#define CHUNK 512

/* Numbers between the steps of a row. A line more than the rows take, so that they fall to different sets of a cache. */
#define APART(ROWS) (((ROWS) + 1) * STEP)

/* A block of the matrix, unpacked: weights[step * APART(rows) + row * STEP + column], zeros beyond the last column. Its sums,
   sums[row * tokens + token], are added to. */

typedef struct {
    const uint16_t *weights;
    int64_t rows, columns;
    float *sums;
    int64_t tokens;
} block;

/* ---- in registers ---- */

#define TILE_ROWS 4
#define TILE_TOKENS 6

/* The sums of each of four vectors. */
TARGET_BF16 INLINE __m128 four_sums(const __m512 v[TILE_ROWS]) {
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    __m128 low = _mm_add_ps(_mm512_castps512_ps128(all), _mm512_extractf32x4_ps(all, 1));
    return _mm_add_ps(low, _mm_add_ps(_mm512_extractf32x4_ps(all, 2), _mm512_extractf32x4_ps(all, 3)));
}

/* Adds what STEP columns of TILE_ROWS rows, at w, give with some tokens, at x; `inside` says which columns there are. */
TARGET_BF16 INLINE void add_step(__m512 acc[TILE_TOKENS][TILE_ROWS], const uint16_t *w, const uint16_t *x, int64_t stride,
                                 __mmask32 inside, const int tokens) {
    __m512i weights[TILE_ROWS];
    UNROLLED for (int r = 0; r < TILE_ROWS; r++) weights[r] = _mm512_loadu_si512(w + r * STEP);
    UNROLLED for (int t = 0; t < tokens; t++) {
        __m512i inputs = _mm512_maskz_loadu_epi16(inside, x + t * stride);
        UNROLLED for (int r = 0; r < TILE_ROWS; r++)
            acc[t][r] = _mm512_dpbf16_ps(acc[t][r], (__m512bh)weights[r], (__m512bh)inputs);
    }
}

/* TILE_ROWS rows from `row` on, with `tokens` tokens from `token` on. x has rows of `stride` numbers. */
TARGET_BF16 INLINE void tile(const block *B, int64_t row, const uint16_t *x, int64_t stride, int64_t token,
                             const int tokens) {
    __m512 acc[TILE_TOKENS][TILE_ROWS];
    UNROLLED for (int t = 0; t < tokens; t++)
        UNROLLED for (int r = 0; r < TILE_ROWS; r++) acc[t][r] = _mm512_setzero_ps();
    const uint16_t *w = B->weights + row * STEP;
    const int64_t left = B->columns % STEP;
    x += token * stride;
    for (int64_t step = 0; step < B->columns / STEP; step++, w += APART(B->rows), x += STEP)
        add_step(acc, w, x, stride, 0xffffffffu, tokens);
    if (left) add_step(acc, w, x, stride, (1u << left) - 1, tokens);
    UNROLLED for (int t = 0; t < tokens; t++) {
        float sums[TILE_ROWS];
        _mm_storeu_ps(sums, four_sums(acc[t]));
        for (int r = 0; r < TILE_ROWS; r++) B->sums[(row + r) * B->tokens + token + t] += sums[r];
    }
}

TARGET_BF16 static void by_registers(const block *B, const uint16_t *x, int64_t stride, int64_t tokens) {
    int64_t groups = ceiling(tokens, TILE_TOKENS);
    for (int64_t g = 0; g < groups; g++) {
        int64_t t = tokens * g / groups, count = tokens * (g + 1) / groups - t;
        for (int64_t row = 0; row < B->rows; row += TILE_ROWS) switch (count) {
                case 1: tile(B, row, x, stride, t, 1); break;
                case 2: tile(B, row, x, stride, t, 2); break;
                case 3: tile(B, row, x, stride, t, 3); break;
                case 4: tile(B, row, x, stride, t, 4); break;
                case 5: tile(B, row, x, stride, t, 5); break;
                default: tile(B, row, x, stride, t, 6);
            }
    }
}

/* ---- AMX ---- */

/* The inputs of a group of SIDE tokens as AMX takes them: of every pair of columns, those two numbers of each token; zeros
   for the tokens and columns that there are not. */
static void pair_up(const uint16_t *x, int64_t columns, int64_t tokens, uint16_t *pairs) {
    const int64_t padded = ceiling(columns, STEP) * STEP;
    for (int64_t t = 0; t < SIDE; t += 4) {
        int64_t c = 0;
        for (; t + 4 <= tokens && c + 8 <= columns; c += 8)
            transpose_4_by_4(x + t * columns + c, 2 * columns, pairs + c * SIDE + t * 2, 4 * SIDE);
        for (; c < padded; c++)
            for (int64_t i = t; i < t + 4; i++)
                pairs[(c / 2 * SIDE + i) * 2 + c % 2] = i < tokens && c < columns ? x[i * columns + c] : 0;
    }
}

#ifdef EGGS_HAS_AMX

/* Two tiles of rows and `groups`, one or two, of tokens. */
TARGET_AMX INLINE void amx_tile(const block *B, int64_t row, const uint16_t *pairs, int64_t stride, int64_t group,
                                const int groups) {
    float *sums = B->sums + row * B->tokens + group * SIDE;
    const int64_t row_bytes = B->tokens * 4;
    _tile_loadd(0, sums, row_bytes);
    _tile_loadd(1, sums + SIDE * B->tokens, row_bytes);
    if (groups == 2) {
        _tile_loadd(2, sums + SIDE, row_bytes);
        _tile_loadd(3, sums + SIDE * B->tokens + SIDE, row_bytes);
    }
    const uint16_t *w = B->weights + row * STEP, *x = pairs + group * SIDE * stride;
    for (int64_t c = 0; c < B->columns; c += STEP, w += APART(B->rows), x += STEP * SIDE) {
        _tile_loadd(4, w, 64);
        _tile_loadd(6, x, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, w + SIDE * STEP, 64);
        _tile_dpbf16ps(1, 5, 6);
        if (groups == 2) {
            _tile_loadd(7, x + SIDE * stride, 64);
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums, row_bytes);
    _tile_stored(1, sums + SIDE * B->tokens, row_bytes);
    if (groups == 2) {
        _tile_stored(2, sums + SIDE, row_bytes);
        _tile_stored(3, sums + SIDE * B->tokens + SIDE, row_bytes);
    }
}

TARGET_AMX static void by_amx(const block *B, const uint16_t *pairs, int64_t stride, int64_t groups) {
    WRITTEN;
    for (int64_t group = 0; group < groups; group += 2)
        for (int64_t row = 0; row < B->rows; row += 2 * SIDE) {
            if (group + 1 < groups)
                amx_tile(B, row, pairs, stride, group, 2);
            else
                amx_tile(B, row, pairs, stride, group, 1);
        }
}

#else /* no level says that there is AMX */
static void by_amx(const block *B, const uint16_t *pairs, int64_t stride, int64_t groups) {
    (void)B, (void)pairs, (void)stride, (void)groups;
}
#endif

/* ---- both ---- */

/* Eight sums as bfloat16, to the nearest, ties to even. NaN stays NaN, as its lower bits come from bfloat16 and are zero. */
TARGET_BF16 INLINE __m128i rounded(__m256 sums) {
    __m256i bits = _mm256_castps_si256(sums), last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    bits = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), last);
    return _mm256_cvtepi32_epi16(_mm256_srli_epi32(bits, 16));
}

/* The sums of eight rows with eight tokens, plus the bias of the rows, as y has them: tokens `stride` numbers apart. */
TARGET_BF16 INLINE void store_8_by_8(const block *B, int64_t row, int64_t token, const float *bias, uint16_t *y,
                                     int64_t stride) {
    __m128i a[8], b[8];
    UNROLLED for (int r = 0; r < 8; r++) {
        __m256 sums = _mm256_loadu_ps(B->sums + (row + r) * B->tokens + token);
        a[r] = rounded(_mm256_add_ps(sums, _mm256_set1_ps(bias[r])));
    }
    /* A transposition: each round of three has a number and that of four rows further down take turns. */
    UNROLLED for (int round = 0; round < 3; round++) {
        UNROLLED for (int i = 0; i < 4; i++) {
            b[2 * i] = _mm_unpacklo_epi16(a[i], a[i + 4]);
            b[2 * i + 1] = _mm_unpackhi_epi16(a[i], a[i + 4]);
        }
        UNROLLED for (int i = 0; i < 8; i++) a[i] = b[i];
    }
    UNROLLED for (int t = 0; t < 8; t++) _mm_storeu_si128((void *)(y + t * stride), a[t]);
}

/* The sums of rows from `first` on, plus the bias, to y (tokens, rows of W). */
TARGET_BF16 static void put(const eggs_packed *W, int64_t first, const block *B, int64_t tokens, const uint16_t *bias,
                            uint16_t *y) {
    const int64_t rows = least(B->rows, W->rows - first);
    for (int64_t row = 0; row < rows; row += 8) {
        float b[8] = {0};
        const int64_t count = least(8, rows - row);
        for (int64_t r = 0; r < count && bias != NULL; r++) b[r] = bf16_to_float(bias[first + row + r]);
        int64_t t = 0;
        uint16_t *to = y + first + row;
        if (count == 8)
            for (; t + 8 <= tokens; t += 8) store_8_by_8(B, row, t, b, to + t * W->rows, W->rows);
        for (; t < tokens; t++)
            for (int64_t r = 0; r < count; r++)
                to[t * W->rows + r] = float_to_bf16(B->sums[(row + r) * B->tokens + t] + b[r]);
    }
}

/* The sums of rows from `first` on with all tokens. x is (tokens, columns), or those numbers in pairs. */
static void multiply(const eggs_packed *W, int64_t first, int64_t block_columns, const uint16_t *x, int64_t tokens,
                     eggs_level level, uint16_t *weights, block *B) {
    const int64_t rows = least(B->rows, W->rows - first), stride = ceiling(W->columns, STEP) * STEP;
    memset(B->sums, 0, sizeof(float) * (size_t)(B->rows * B->tokens));
    for (int64_t c = 0; c < W->columns; c += block_columns) {
        B->columns = least(block_columns, W->columns - c);
        for (int64_t r = 0; r < rows; r++)
            eggs_unpack_steps(W, first + r, c, B->columns, weights + r * STEP, APART(B->rows));
        if (level == EGGS_AMX)
            by_amx(B, x + c * SIDE, stride, ceiling(tokens, SIDE));
        else
            by_registers(B, x + c, W->columns, tokens);
    }
}

/* Columns that are unpacked at a time, which begin with a whole group and a whole step. */
static int64_t columns_of_a_block(int64_t m) {
    int64_t both = m;
    while (both % STEP) both += m;
    return BLOCK_COLUMNS / both * both;
}

int eggs_linear_blocks(const eggs_packed *W, const uint16_t *x, const uint16_t *bias, uint16_t *y, int64_t tokens,
                       eggs_level level, int threads) {
    const int64_t stride = ceiling(W->columns, STEP) * STEP, block_rows = tokens <= FEW ? FEW_ROWS : BLOCK_ROWS;
    const int64_t block_columns = tokens <= FEW ? stride : least(stride, columns_of_a_block(W->m));
    const int64_t chunk = least(tokens, CHUNK), padded = ceiling(chunk, SIDE) * SIDE;
    const size_t size = sizeof(uint16_t) * (size_t)(block_columns / STEP * APART(block_rows));
    uint16_t *pairs = NULL;
    int failed = 0;
    if (level == EGGS_AMX && !(pairs = aligned_alloc(64, sizeof(uint16_t) * (size_t)(padded * stride)))) return -1;
#pragma omp parallel num_threads(threads)
    {
        uint16_t *weights = aligned_alloc(64, size);
        float *sums = aligned_alloc(64, sizeof(float) * (size_t)(block_rows * padded));
        if (weights == NULL || sums == NULL) {
#pragma omp atomic write
            failed = 1;
        } else {
            memset(weights, 0, size); /* rows beyond the last are multiplied too */
        }
#pragma omp barrier
        if (!failed) {
            block B = {weights, block_rows, 0, sums, padded};
            if (level == EGGS_AMX) configure_tiles();
            for (int64_t from = 0; from < tokens; from += chunk) {
                const int64_t count = least(chunk, tokens - from);
                const uint16_t *inputs = x + from * W->columns;
                if (level == EGGS_AMX) {
#pragma omp for schedule(static)
                    for (int64_t t = 0; t < count; t += SIDE)
                        pair_up(inputs + t * W->columns, W->columns, count - t, pairs + t * stride);
                    inputs = pairs;
                }
#pragma omp for schedule(static)
                for (int64_t first = 0; first < W->rows; first += block_rows) {
                    multiply(W, first, block_columns, inputs, count, level, weights, &B);
                    put(W, first, &B, count, bias, y + from * W->rows);
                }
            }
            if (level == EGGS_AMX) release_tiles();
        }
        free(weights), free(sums);
    }
    free(pairs);
    return failed ? -1 : 0;
}

#endif
