/* Computes one window. Compiled once for each instruction set: MMKD_NAME is the function's suffix, MMKD_W the floats
 * of a vector. Vectors are the compilers' own (GCC, Clang); loops over them need no intrinsics. */
#include <float.h> /* not INFINITY: -ffast-math excludes it */
#include <math.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define MMKD_IS_COMPUTE
#include "model.h"

#ifndef MMKD_W
#define MMKD_W 4
#endif
#ifndef MMKD_NAME
#define MMKD_NAME mmkd_compute_base
#endif

#define W MMKD_W
#ifdef MMKD_ONE_ISA
#define PANEL_LANES W
#else
#define PANEL_LANES MMKD_LANES
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * W), aligned(4), may_alias));

INLINE vec load(const float *from) { return *(const vec *)from; }
INLINE void store(float *to, vec value) { *(vec *)to = value; }
INLINE vec splat(float value) { return value - (vec){0}; }
/* Compilers do not see the smaller and the larger of two in a selection: one instruction in place of four. */
#if defined(__AVX512F__) && MMKD_W == 16
#define ONE_OF(kind, a, b) (vec)_mm512_##kind##_ps((__m512)a, (__m512)b)
#elif defined(__AVX__) && MMKD_W == 8
#define ONE_OF(kind, a, b) (vec)_mm256_##kind##_ps((__m256)a, (__m256)b)
#elif defined(__SSE2__) && MMKD_W == 4
#define ONE_OF(kind, a, b) (vec)_mm_##kind##_ps((__m128)a, (__m128)b)
#elif defined(__ARM_NEON) && MMKD_W == 4
#define ONE_OF(kind, a, b) (vec)v##kind##q_f32((float32x4_t)a, (float32x4_t)b)
#else
#define ONE_OF(kind, a, b) kind##_of_each(a, b)
INLINE vec min_of_each(vec a, vec b) { for (int i = 0; i < W; i++) a[i] = a[i] < b[i] ? a[i] : b[i]; return a; }
INLINE vec max_of_each(vec a, vec b) { for (int i = 0; i < W; i++) a[i] = a[i] > b[i] ? a[i] : b[i]; return a; }
#endif
INLINE vec min_vec(vec a, vec b) { return ONE_OF(min, a, b); }
INLINE vec max_vec(vec a, vec b) { return ONE_OF(max, a, b); }
INLINE vec clamp_vec(vec x, float low, float high) { return min_vec(max_vec(x, splat(low)), splat(high)); }
INLINE float sum_vec(vec x)
{
#if defined(__SSE2__) && (W == 4 || defined(__AVX__))
#if W == 4
    __m128 part = (__m128)x;
#elif W == 8
    __m128 part = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
#else
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256((__m512)x), _mm512_extractf32x8_ps((__m512)x, 1));
    __m128 part = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#endif
    part = _mm_add_ps(part, _mm_movehl_ps(part, part));
    return _mm_cvtss_f32(_mm_add_ss(part, _mm_shuffle_ps(part, part, 1)));
#else
    float part[W];
    memcpy(part, &x, sizeof part);
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
#endif
}
INLINE float clampf(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

/* exp for |x| below 87: 2^n times a polynomial of the rest (coefficients of Cephes' expf). */
INLINE vec exp_vec(vec x)
{
    x = clamp_vec(x, -87.0f, 87.0f);
    const vec shift = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    vec rounded = x * 1.44269504f + shift;
    ivec n = (ivec)rounded - (ivec)shift;
    vec whole = __builtin_convertvector(n, vec);
    vec r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    vec value = p * r * r + r + 1.0f;
    return value * (vec)((n + 127) << 23);
}

/* erf within 4e-7: the odd rational approximation of Eigen and XLA. */
INLINE vec erf_vec(vec x)
{
    x = clamp_vec(x, -3.832506856900711f, 3.832506856900711f);
    vec square = x * x;
    vec p = square * -2.72614225801306e-10f + 2.77068142495902e-08f;
    p = p * square - 2.10102402082508e-06f;
    p = p * square - 5.69250639462346e-05f;
    p = p * square - 7.34990630326855e-04f;
    p = p * square - 2.95459980854025e-03f;
    p = p * square - 1.60960333262415e-02f;
    vec q = square * -1.45660718464996e-05f - 2.13374055278905e-04f;
    q = q * square - 1.68282697438203e-03f;
    q = q * square - 7.37332916720468e-03f;
    q = q * square - 1.42647390514189e-02f;
    return x * p / q;
}

INLINE vec gelu_vec(vec x) { return x * 0.5f * (erf_vec(x * 0.70710678f) + 1.0f); }

/* ---- products */

/* c (rows, n) = a (rows, k) b (k, n) + bias, of R rows and V vectors of columns. Strides are in floats. */
INLINE void tile(const float *restrict a, int64_t a_row, const float *restrict b, int64_t b_row,
                 const float *bias, float *c, int64_t c_row, int64_t k, const int R, const int V)
{
    vec sum[4][4];
    for (int v = 0; v < V; v++) {
        vec start = bias ? load(bias + v * W) : splat(0);
        for (int r = 0; r < R; r++) sum[r][v] = start;
    }
    for (int64_t i = 0; i < k; i++) {
        vec right[4];
        for (int v = 0; v < V; v++) right[v] = load(b + i * b_row + v * W);
        for (int r = 0; r < R; r++) {
            const vec left = splat(a[r * a_row + i]);
            for (int v = 0; v < V; v++) sum[r][v] += left * right[v];
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store(c + r * c_row + v * W, sum[r][v]);
}

/* As `tile` for any number of rows; n is a multiple of W. */
INLINE void strip(const float *a, int64_t a_row, const float *b, int64_t b_row, const float *bias, float *c, int64_t c_row,
                  int64_t rows, int64_t k, const int V)
{
    int64_t row = 0;
    for (; row + 4 <= rows; row += 4) tile(a + row * a_row, a_row, b, b_row, bias, c + row * c_row, c_row, k, 4, V);
    a += row * a_row, c += row * c_row;
    if (rows - row == 3) tile(a, a_row, b, b_row, bias, c, c_row, k, 3, V);
    if (rows - row == 2) tile(a, a_row, b, b_row, bias, c, c_row, k, 2, V);
    if (rows - row == 1) tile(a, a_row, b, b_row, bias, c, c_row, k, 1, V);
}

static void product(const float *a, int64_t a_row, const float *b, int64_t b_row, const float *bias, float *c,
                    int64_t c_row, int64_t rows, int64_t k, int64_t n)
{
    for (int64_t col = 0; col < n;) {
        const float *start = bias ? bias + col : 0;
        int64_t left = (n - col) / W;
        if (left >= 3) strip(a, a_row, b + col, b_row, start, c + col, c_row, rows, k, 3);
        else if (left == 2) strip(a, a_row, b + col, b_row, start, c + col, c_row, rows, k, 2);
        else strip(a, a_row, b + col, b_row, start, c + col, c_row, rows, k, 1);
        col += left >= 3 ? 3 * W : left * W;
    }
}

/* Columns that are computed, and rows of scratch: whole vectors, at most mmkd_padded. */
INLINE int64_t whole_vecs(int64_t count) { return (count + W - 1) / W * W; }

static void gelu(float *x, int64_t count)
{
    for (int64_t i = 0; i < count; i += W) store(x + i, gelu_vec(load(x + i)));
}

/* Layer normalisation of one token (width,). */
static void normalise(const float *x, const float *gain, const float *shift, int64_t width, float *to)
{
    float mean = 0, square = 0;
    for (int64_t d = 0; d < width; d++) mean += x[d];
    mean /= (float)width;
    for (int64_t d = 0; d < width; d++) square += (x[d] - mean) * (x[d] - mean);
    float per = 1 / sqrtf(square / (float)width + 1e-5f);
    for (int64_t d = 0; d < width; d++) to[d] = (x[d] - mean) * per * gain[d] + shift[d];
}

/* Squared size of a frequency whose cosine and sine lie `bins` apart. */
INLINE float power_of(const float *part, int64_t bins) { return part[0] * part[0] + part[bins] * part[bins]; }

static float dot(const float *a, const float *b, int64_t count)
{
    float sum = 0;
    for (int64_t i = 0; i < count; i++) sum += a[i] * b[i];
    return sum;
}

/* ---- scratch */

typedef struct {
    float *values, *present; /* (C, span): rows of channels, zeros beyond the window */
    int64_t span, reach;     /* span of a row; samples of zeros before the window */
    /* transformer */
    float *views;                 /* (pad + T + pad, views) channels last */
    float *local;                 /* (C, padded(T)) */
    float *spectrum, *power, *bands, *statistics;
    float *stage, *stage_out;     /* what a convolution of the stem reads, with zeros on both sides, and gives */
    float *tokens, *normed, *project, *hidden, *mixed, *scores, *key, *value_rows, *bias, *pooled;
    int64_t mixed_row;
    /* causal steps */
    float *both, *rows, *tones, *running, *total, *logits_of_keys;
    float *state[MMKD_FRONT_STATES + 2 * MMKD_MAX_BLOCKS + 1], *news[MMKD_FRONT_STATES + 2 * MMKD_MAX_BLOCKS + 1];
    /* convolutions */
    float *phase, *nine, *answer, *mass;
    int64_t phase_row;
    /* intervals and trees */
    float *filled, *column, *sorted, *parts, *features, *votes; /* filled: (C, padded(T)); columns: (rows, W) */
    int64_t leaf; /* rows in which the shortest intervals are sorted: a power of two */
    float *embedding, *head, *distance;
    float *panel; /* int8 weights as floats: model->panel rows of 3 vectors */
} buffers;

typedef struct {
    float *base;
    size_t used;
} arena;

static float *take(arena *from, int64_t count)
{
    float *place = from->base ? from->base + from->used : 0;
    from->used += (size_t)mmkd_padded(count > 0 ? count : 1);
    return place;
}

/* Scratch of the stem (its longest input, with zeros on both sides unless it is causal, and its longest output) and of
 * the blocks for `count` tokens. */
static void place_stages(const mmkd_transformer *t, arena *from, buffers *b, int64_t count)
{
    int64_t most_in = 0, most_out = 0;
    for (int64_t s = 0; s < t->stages; s++) {
        int64_t pad = t->is_causal || s + 1 == t->stages ? 0 : t->stage[s + 1].stride, length = t->stage[s].length;
        int64_t in = (length + 2 * pad) * t->stage[s].linear.out, out = length * mmkd_padded(t->stage[s].linear.out);
        most_in = in > most_in ? in : most_in;
        most_out = out > most_out ? out : most_out;
    }
    b->stage = take(from, most_in);
    b->stage_out = take(from, most_out);
    b->tokens = take(from, count * mmkd_padded(t->width));
    b->normed = take(from, count * mmkd_padded(t->width));
    b->project = take(from, count * mmkd_padded(3 * t->width));
    b->hidden = take(from, count * mmkd_padded(t->block[0].up.out));
    b->mixed_row = mmkd_padded(t->width) + mmkd_padded(t->width / t->heads); /* the last head writes whole vectors */
    b->mixed = take(from, count * b->mixed_row);
    b->pooled = take(from, mmkd_padded(3 * t->width));
}

/* Scratch of a causal encoder, and the states of a window that is computed step by step. */
static void place_causal(const mmkd_model *model, arena *from, buffers *b)
{
    const mmkd_transformer *t = &model->transformer;
    int64_t channels = model->channels;
    b->both = take(from, (t->history + t->step) * 2 * channels);
    b->rows = take(from, 2 * channels * mmkd_padded(t->taps));
    b->tones = take(from, 2 * channels * mmkd_padded(2 * t->bands));
    b->running = take(from, 3 * channels);
    b->total = take(from, t->sums + 2 * channels);
    b->logits_of_keys = take(from, 3 * mmkd_padded(t->slots + 1));
    for (int64_t n = 0; n < mmkd_states(model); n++) {
        b->state[n] = take(from, mmkd_state_floats(model, n));
        b->news[n] = take(from, mmkd_news_floats(model, n));
    }
}

static size_t place(const mmkd_model *model, float *base, buffers *b)
{
    arena from = {base, 0};
    const mmkd_transformer *t = &model->transformer;
    int64_t samples = model->samples, channels = model->channels, count = t->tokens;
    b->reach = model->has_convolutions ? mmkd_padded(model->convolutions.reach) : 0;
    b->span = mmkd_padded(samples + 2 * b->reach + 3 * MMKD_LANES);
    b->values = take(&from, channels * b->span);
    b->present = take(&from, channels * b->span);
    if (model->has_transformer) {
        b->views = take(&from, (t->is_causal ? t->reach + t->step : samples + 2 * t->stage[0].stride) * t->views);
        b->bands = take(&from, (t->is_causal ? 0 : channels * mmkd_padded(t->bands)) + mmkd_padded(channels * t->bands));
        b->statistics = take(&from, mmkd_padded(t->statistics));
        place_stages(t, &from, b, t->is_causal ? 3 : count);
    }
    if (t->is_causal) place_causal(model, &from, b);
    else if (model->has_transformer) {
        b->local = take(&from, channels * mmkd_padded(samples));
        b->spectrum = take(&from, channels * mmkd_padded(2 * t->bins));
        b->power = take(&from, channels * mmkd_padded(t->bins));
        b->scores = take(&from, count * mmkd_padded(count));
        b->key = take(&from, t->width / t->heads * mmkd_padded(count));
        b->value_rows = take(&from, count * mmkd_padded(t->width / t->heads));
        b->bias = take(&from, mmkd_padded(count));
    }
    if (model->has_convolutions) {
        const mmkd_convolutions *c = &model->convolutions;
        int64_t row = mmkd_padded(c->positions);
        b->phase_row = mmkd_padded(b->span / c->stride + 1) + 2 * MMKD_LANES;
        b->phase = take(&from, channels * c->stride * b->phase_row);
        b->nine = take(&from, channels * row);
        b->answer = take(&from, row);
        b->mass = take(&from, 2 * row);
    }
    if (model->has_intervals) {
        const mmkd_intervals *v = &model->intervals;
        for (b->leaf = 1; b->leaf < samples >> (v->depths - 1);) b->leaf *= 2;
        b->filled = take(&from, channels * mmkd_padded(samples));
        b->column = take(&from, samples * PANEL_LANES);
        b->sorted = take(&from, (b->leaf << (v->depths - 1)) * PANEL_LANES);
        b->parts = take(&from, channels * mmkd_padded(2 * v->bins));
        b->features = take(&from, v->features);
        b->votes = take(&from, model->outputs);
    }
    b->embedding = take(&from, mmkd_padded(model->embedding) + mmkd_padded(model->embedding));
    b->head = take(&from, mmkd_padded(model->outputs));
    b->distance = take(&from, mmkd_padded(model->has_novelty ? model->novelty.out : 1));
    b->panel = take(&from, model->panel * 3 * PANEL_LANES);
    return from.used;
}

/* ---- layers */

/* c = a W + bias for int8 weights: a few columns and rows of W at a time become floats. */
static void apply_small(const buffers *b, const mmkd_linear *layer, const float *a, int64_t a_row, float *c, int64_t c_row,
                        int64_t rows)
{
    typedef int8_t few __attribute__((vector_size(W), aligned(1), may_alias));
    int64_t n = whole_vecs(layer->out), row = mmkd_padded(layer->out);
    for (int64_t col = 0; col < n; col += 3 * W) {
        int64_t columns = n - col < 3 * W ? n - col : 3 * W;
        for (int64_t from = 0; from < layer->in; from += MMKD_MAX_PANEL) {
            int64_t count = layer->in - from < MMKD_MAX_PANEL ? layer->in - from : MMKD_MAX_PANEL;
            for (int64_t v = 0; v < columns; v += W) {
                vec scale = load(layer->scale + col + v);
                const int8_t *small = layer->small + from * row + col + v;
                for (int64_t i = 0; i < count; i++)
                    store(b->panel + i * 3 * W + v,
                          __builtin_convertvector(__builtin_convertvector(*(const few *)(small + i * row), ivec), vec) * scale);
            }
            if (!from) {
                const float *bias = layer->bias ? layer->bias + col : 0;
                product(a, a_row, b->panel, 3 * W, bias, c + col, c_row, rows, count, columns);
            } else /* each row goes on from its sum */
                for (int64_t r = 0; r < rows; r++) {
                    float *sum = c + col + r * c_row;
                    product(a + from + r * a_row, 0, b->panel, 3 * W, sum, sum, 0, 1, count, columns);
                }
        }
    }
}

static void apply(const buffers *b, const mmkd_linear *layer, const float *a, int64_t a_row, float *c, int64_t c_row,
                  int64_t rows)
{
    int64_t row = mmkd_padded(layer->out), n = whole_vecs(layer->out);
    if (layer->small) apply_small(b, layer, a, a_row, c, c_row, rows);
    else product(a, a_row, layer->weight, row, layer->bias, c, c_row, rows, layer->in, n);
}

/* ---- transformer: the same steps as networks/encoder.py, in its order */

enum { LEVELS = 6 };
/* exp(-4 level) of the levels -1.5, -0.75, -0.25, 0.25, 0.75 and 1.5: one exp serves them all. */
static const float sharp_levels[LEVELS] = {403.428793f, 20.0855369f, 2.71828183f, 0.367879441f, 0.0497870684f, 0.00247875218f};
static const float most = 8.0f;

/* Convolutions of the stem as products: the rows that a kernel sees lie one after the other. */
static void convolve_stem(const mmkd_transformer *t, buffers *b)
{
    const float *in = b->views;
    int64_t in_row = t->views;
    for (int64_t s = 0; s < t->stages; s++) {
        const mmkd_stage *stage = &t->stage[s];
        int64_t out = stage->linear.out, out_row = whole_vecs(out), pad = 0;
        apply(b, &stage->linear, in, stage->stride * in_row, b->stage_out, out_row, stage->length);
        gelu(b->stage_out, stage->length * out_row);
        if (s + 1 == t->stages) return;
        if (!t->is_causal) pad = t->stage[s + 1].stride * out;
        memset(b->stage, 0, (size_t)pad * sizeof(float));
        for (int64_t p = 0; p < stage->length; p++)
            memcpy(b->stage + pad + p * out, b->stage_out + p * out_row, (size_t)out * sizeof(float));
        memset(b->stage + pad + stage->length * out, 0, (size_t)pad * sizeof(float));
        in = b->stage;
        in_row = out;
    }
}

/* Normalise tokens into b->normed, before a half of a block; add what it made of them. */
static void normalise_tokens(buffers *b, const float *const norm[2], int64_t width, int64_t count)
{
    int64_t wide = whole_vecs(width);
    for (int64_t i = 0; i < count; i++) normalise(b->tokens + i * wide, norm[0], norm[1], width, b->normed + i * wide);
}

static void add_to_tokens(buffers *b, int64_t count)
{
    for (int64_t i = 0; i < count; i += W) store(b->tokens + i, load(b->tokens + i) + load(b->normed + i));
}

/* From what the heads have mixed to the end of a block. */
static void finish_block(buffers *b, const mmkd_block *block, int64_t width, int64_t count)
{
    int64_t wide = whole_vecs(width), hidden_row = whole_vecs(block->up.out);
    apply(b, &block->out, b->mixed, b->mixed_row, b->normed, wide, count);
    add_to_tokens(b, count * wide);
    normalise_tokens(b, block->norm + 2, width, count);
    apply(b, &block->up, b->normed, wide, b->hidden, hidden_row, count);
    gelu(b->hidden, count * hidden_row);
    apply(b, &block->down, b->hidden, hidden_row, b->normed, wide, count);
    add_to_tokens(b, count * wide);
}

/* Views of one channel into b->views, its statistics into b->statistics. */
static void look_at_channel(const mmkd_model *model, buffers *b, int64_t channel)
{
    const mmkd_transformer *t = &model->transformer;
    int64_t samples = model->samples, channels = model->channels, row = whole_vecs(samples);
    const float *x = b->values + channel * b->span + b->reach, *there = b->present + channel * b->span + b->reach;
    float *scaled = b->local + channel * row; /* becomes the local view at the end */
    float *view = b->views + t->stage[0].stride * t->views;
    vec total = splat(0), count_sum = splat(0);
    for (int64_t i = 0; i < row; i += W) {
        vec p = load(there + i);
        vec s = clamp_vec((load(x + i) - t->mean[channel]) * t->scale[channel], -most, most) * p;
        store(scaled + i, s);
        total += s;
        count_sum += p;
    }
    float seen = sum_vec(count_sum), count = seen < 1 ? 1 : seen, mean = sum_vec(total) / count;
    vec below[LEVELS], again = splat(0);
    for (int level = 0; level < LEVELS; level++) below[level] = splat(0);
    for (int64_t i = 0; i < row; i += W) {
        vec p = load(there + i), s = load(scaled + i), e = exp_vec(s * 4.0f);
        for (int level = 0; level < LEVELS; level++) below[level] += p / (e * sharp_levels[level] + 1.0f);
        again += (s - mean) * p;
    }
    for (int64_t i = 0; i < samples; i++) view[i * t->views + channel] = scaled[i];
    float rest = sum_vec(again) / count, unit = t->has_movement ? t->movement[channel] : 1.0f;
    vec squares = splat(0);
    for (int64_t i = 0; i < row; i += W) {
        vec moved = (load(scaled + i) - mean - rest) * load(there + i) * unit;
        squares += moved * moved;
        store(scaled + i, moved);
    }
    float spread = sqrtf(sum_vec(squares) / count + (t->has_movement ? 1e-3f : 1e-4f)), per = 1 / spread;
    float step = 0, pairs = 0, slope = 0, before = 0, middle = t->has_movement ? 0 : mean + rest;
    float lowest = 3 * most, highest = -3 * most;
    for (int64_t i = 0; i < samples; i++) {
        float now = t->has_movement ? clampf(scaled[i], -most, most) : scaled[i], away = (1 - there[i]) * 2 * most;
        lowest = now + away < lowest ? now + away : lowest;
        highest = now - away > highest ? now - away : highest;
    }
    for (int64_t i = 0; i < samples; i++) {
        float now = t->has_movement ? clampf(scaled[i], -most, most) : scaled[i], both = i ? there[i] * there[i - 1] : 0;
        step += fabsf(now - before) * both;
        pairs += both;
        slope += now * (2.0f * (float)i / (float)(samples > 1 ? samples - 1 : 1) - 1.0f);
        if (t->has_movement) view[i * t->views + 2 * channels + channel] = now;
        before = now;
    }
    vec third = splat(0), fourth = splat(0);
    for (int64_t i = 0; i < row; i += W) {
        vec local = load(scaled + i) * per, two = local * local;
        third += two * local;
        fourth += two * two;
        store(scaled + i, local);
    }
    for (int64_t i = 0; i < samples; i++) {
        view[i * t->views + channels + channel] = scaled[i];
        view[i * t->views + t->views - channels + channel] = there[i];
    }
    lowest = lowest + middle < most ? lowest + middle : most;
    highest = highest + middle > -most ? highest + middle : -most;
    step /= pairs < 1 ? 1 : pairs;
    const float statistics[] = {mean, logf(spread), lowest, highest, t->has_movement ? logf(step + 1e-2f) : step,
                                sum_vec(third) / count, logf(sum_vec(fourth) / count + 1e-2f), slope / count};
    float *out = b->statistics + channel;
    for (int i = 0; i < 7 + t->has_movement; i++, out += channels) *out = statistics[i];
    out += channel * (LEVELS - 1);
    for (int level = 0; level < LEVELS; level++) out[level] = sum_vec(below[level]) / count;
}

static void encode(const mmkd_model *model, buffers *b, float *embedding)
{
    const mmkd_transformer *t = &model->transformer;
    int64_t samples = model->samples, channels = model->channels, row = whole_vecs(samples);
    int64_t width = t->width, wide = whole_vecs(width), time_tokens = t->tokens - MMKD_EXTRA_TOKENS;
    for (int64_t c = 0; c < channels; c++) look_at_channel(model, b, c);
    float *products = b->statistics + t->statistics - channels * channels;
    for (int64_t c = 0; c < channels; c++)
        for (int64_t d = 0; d <= c; d++)
            products[c * channels + d] = products[d * channels + c] =
                dot(b->local + c * row, b->local + d * row, row) / (float)samples;
    int64_t parts = mmkd_padded(2 * t->bins), bins = mmkd_padded(t->bins), bands = mmkd_padded(t->bands);
    apply(b, &t->basis, b->local, row, b->spectrum, parts, channels);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < t->bins; i++) b->power[c * bins + i] = power_of(b->spectrum + c * parts + i, t->bins);
    apply(b, &t->pooling, b->power, bins, b->bands, bands, channels);
    float *log_power = b->bands + mmkd_padded(channels * bands);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < t->bands; i++) log_power[c * t->bands + i] = logf(b->bands[c * bands + i] + 1e-3f);

    int64_t pad = t->stage[0].stride * t->views;
    memset(b->views, 0, (size_t)pad * sizeof(float));
    memset(b->views + pad + samples * t->views, 0, (size_t)pad * sizeof(float));
    convolve_stem(t, b);
    memcpy(b->tokens, b->stage_out, (size_t)(time_tokens * wide) * sizeof(float));
    apply(b, &t->spectrum, log_power, 0, b->tokens + time_tokens * wide, wide, 1);
    apply(b, &t->summary, b->statistics, 0, b->tokens + (time_tokens + 1) * wide, wide, 1);
    for (int64_t i = 0; i < t->tokens; i++)
        for (int64_t d = 0; d < width; d++) b->tokens[i * wide + d] += t->position[i * width + d];

    /* A token without a present sample is masked. */
    int64_t stride = 1, any = 0;
    for (int64_t s = 0; s < t->stages; s++) stride *= t->stage[s].stride;
    for (int64_t i = 0; i < time_tokens; i++) {
        float sum = 0;
        for (int64_t c = 0; c < channels; c++) {
            const float *there = b->present + c * b->span + b->reach;
            for (int64_t p = i * stride; p < (i + 1) * stride && p < samples; p++) sum += there[p];
        }
        b->bias[i] = sum > 0 ? 0.0f : -1e4f;
        any |= sum > 0;
    }
    b->bias[time_tokens] = b->bias[time_tokens + 1] = any ? 0.0f : -1e4f;
    int64_t keys = whole_vecs(t->tokens), head = width / t->heads, head_row = whole_vecs(head);
    for (int64_t i = t->tokens; i < keys; i++) b->bias[i] = -1e30f;

    for (int64_t depth = 0; depth < t->depth; depth++) {
        const mmkd_block *block = &t->block[depth];
        int64_t project_row = whole_vecs(3 * width);
        normalise_tokens(b, block->norm, width, t->tokens);
        apply(b, &block->project, b->normed, wide, b->project, project_row, t->tokens);
        const float scale = 1 / sqrtf((float)head);
        memset(b->key, 0, (size_t)(head * keys) * sizeof(float));
        memset(b->value_rows, 0, (size_t)(t->tokens * head_row) * sizeof(float));
        for (int64_t h = 0; h < t->heads; h++) {
            const float *query = b->project + h * head;
            for (int64_t i = 0; i < t->tokens; i++) {
                const float *from = b->project + i * project_row + h * head;
                for (int64_t d = 0; d < head; d++) {
                    b->key[d * keys + i] = from[width + d] * scale;
                    b->value_rows[i * head_row + d] = from[2 * width + d];
                }
            }
            product(query, project_row, b->key, keys, b->bias, b->scores, keys, t->tokens, head, keys);
            for (int64_t i = 0; i < t->tokens; i++) {
                float *score = b->scores + i * keys;
                vec total = splat(0);
                float top = score[0];
                for (int64_t j = 1; j < keys; j++) top = score[j] > top ? score[j] : top;
                for (int64_t j = 0; j < keys; j += W) {
                    vec e = exp_vec(load(score + j) - top);
                    store(score + j, e);
                    total += e;
                }
                float per = 1 / sum_vec(total);
                for (int64_t j = 0; j < keys; j += W) store(score + j, load(score + j) * per);
            }
            /* Heads in ascending order: what one writes beyond its columns the next one overwrites. */
            product(b->scores, keys, b->value_rows, head_row, 0, b->mixed + h * head, b->mixed_row, t->tokens,
                    t->tokens, head_row);
        }
        finish_block(b, block, width, t->tokens);
    }

    float with_samples = 0;
    memset(b->pooled, 0, (size_t)mmkd_padded(3 * width) * sizeof(float));
    for (int64_t i = 0; i < t->tokens; i++) {
        if (i < time_tokens && b->bias[i] != 0) continue;
        normalise(b->tokens + i * wide, t->norm_weight, t->norm_bias, width, b->normed);
        float *to = b->pooled + (i < time_tokens ? 0 : (i - time_tokens + 1) * width);
        for (int64_t d = 0; d < width; d++) to[d] += b->normed[d];
        with_samples += i < time_tokens;
    }
    for (int64_t d = 0; d < width; d++) b->pooled[d] /= with_samples < 1 ? 1 : with_samples;
    apply(b, &t->mix, b->pooled, 0, b->normed, wide, 1);
    gelu(b->normed, wide);
    memcpy(embedding, b->normed, (size_t)width * sizeof(float));
}

/* ---- causal steps: the same as networks/step.py */

/* Count, mean and squared distance of each channel over the blocks of a window, the new one included. */
static void running_statistics(const mmkd_transformer *t, int64_t channels, int64_t slot, const float *moments,
                               const float *now, float *running)
{
    for (int64_t c = 0; c < channels; c++) {
        float count = 0, sum = 0, squares = 0;
        for (int64_t j = 0; j <= t->slots; j++) {
            if (j == slot) continue;
            const float *m = j < t->slots ? moments + j * 3 * channels : now;
            count += m[c];
            sum += m[c] * m[channels + c];
            squares += m[2 * channels + c];
        }
        count = count < 1 ? 1 : count;
        float centre = sum / count;
        for (int64_t j = 0; j <= t->slots; j++) {
            if (j == slot) continue;
            const float *m = j < t->slots ? moments + j * 3 * channels : now;
            squares += m[c] * (m[channels + c] - centre) * (m[channels + c] - centre);
        }
        running[c] = count;
        running[channels + c] = centre;
        running[2 * channels + c] = sqrtf(squares / count + 1e-4f);
    }
}

/* What a block leaves behind: sums and peaks. `both` has the samples before it in front. */
static void leave_behind(const mmkd_transformer *t, int64_t channels, const float *both, const float *now,
                         const float *tones, const float *running, float *sums, float *peaks)
{
    int64_t row = 2 * channels, tone_row = mmkd_padded(2 * t->bands);
    float *below = sums + 2 * channels, *power = below + LEVELS * channels, *products = power + t->bands * channels;
    const float *block = both + t->history * row;
    memset(sums, 0, (size_t)t->sums * sizeof(float));
    memset(peaks, 0, (size_t)(2 * channels) * sizeof(float));
    for (int64_t i = 0; i < t->step; i++)
        for (int64_t c = 0; c < channels; c++) {
            float x = block[i * row + c], there = block[i * row + channels + c];
            float before = block[(i - 1) * row + c], pair = there * block[(i - 1) * row + channels + c];
            sums[c] += fabsf(x - before) * pair;
            sums[channels + c] += pair;
            float sharp = expf(x * 4.0f);
            for (int64_t level = 0; level < LEVELS; level++)
                below[c * LEVELS + level] += there / (1 + sharp * sharp_levels[level]);
            float down = (2 * most - x) * there, up = (2 * most + x) * there;
            peaks[c] = down > peaks[c] ? down : peaks[c];
            peaks[channels + c] = up > peaks[channels + c] ? up : peaks[channels + c];
            for (int64_t d = 0; d < channels; d++)
                products[c * channels + d] += (x - now[channels + c]) * there *
                                              (block[i * row + d] - now[channels + d]) * block[i * row + channels + d];
        }
    for (int64_t c = 0; c < channels; c++)
        for (int64_t f = 0; f < t->bands; f++) {
            const float *value = tones + c * tone_row, *presence = tones + (channels + c) * tone_row;
            float real = value[f] - running[channels + c] * presence[f];
            float imaginary = value[t->bands + f] - running[channels + c] * presence[t->bands + f];
            power[c * t->bands + f] = real * real + imaginary * imaginary;
        }
}

/* Spectrum (b->bands) and statistics (b->statistics) of the window that ends with the new block. */
static void summarise(const mmkd_transformer *t, int64_t channels, int64_t slot, const float *const *state,
                      float *const *news, buffers *b)
{
    const float *running = b->running;
    float *sums = b->total, *peaks = b->total + t->sums;
    memcpy(sums, news[2], (size_t)t->sums * sizeof(float));
    memcpy(peaks, news[3], (size_t)(2 * channels) * sizeof(float));
    for (int64_t j = 0; j < t->slots; j++) {
        if (j == slot) continue;
        for (int64_t i = 0; i < t->sums; i++) sums[i] += state[2][j * t->sums + i];
        for (int64_t i = 0; i < 2 * channels; i++) {
            float peak = state[3][j * 2 * channels + i];
            peaks[i] = peak > peaks[i] ? peak : peaks[i];
        }
    }
    const float *below = sums + 2 * channels, *power = below + LEVELS * channels;
    const float *products = power + t->bands * channels;
    float *out = b->statistics, *whole = out + (5 + LEVELS) * channels;
    memcpy(whole, products, (size_t)(channels * channels) * sizeof(float));
    for (int64_t c = 0; c < channels; c++) {
        float spread = running[2 * channels + c], heard = 0;
        for (int64_t j = 0; j <= t->slots; j++) {
            if (j == slot) continue;
            const float *m = j < t->slots ? state[1] + j * 3 * channels : news[1];
            heard += m[c] < 1 ? m[c] : 1;
            for (int64_t d = 0; d < channels; d++)
                whole[c * channels + d] += sqrtf(m[c] * m[d]) * (m[channels + c] - running[channels + c]) *
                                           (m[channels + d] - running[channels + d]);
        }
        heard = heard < 1 ? 1 : heard;
        for (int64_t f = 0; f < t->bands; f++)
            b->bands[c * t->bands + f] = logf(power[c * t->bands + f] / (heard * spread * spread) + 1e-3f);
        float low = 2 * most - peaks[c], high = peaks[channels + c] - 2 * most;
        float pairs = sums[channels + c] < 1 ? 1 : sums[channels + c];
        const float statistics[] = {running[channels + c], logf(spread), low > most ? most : low, high < -most ? -most : high,
                                    sums[c] / pairs};
        for (int i = 0; i < 5; i++) out[i * channels + c] = statistics[i];
        for (int64_t level = 0; level < LEVELS; level++)
            out[5 * channels + c * LEVELS + level] = below[c * LEVELS + level] / running[c];
    }
    for (int64_t c = 0; c < channels; c++)
        for (int64_t d = 0; d < channels; d++)
            whole[c * channels + d] /=
                running[2 * channels + c] * running[2 * channels + d] * (float)(t->step * t->slots);
}

/* The newest three tokens ask the kept time tokens, those of the first `filled` slots, and the newest one. */
static void attend(const mmkd_transformer *t, int64_t depth, int64_t slot, int64_t filled, const float *there,
                   const float *keys, const float *values, float *new_keys, float *new_values, buffers *b)
{
    int64_t width = t->width, head = width / t->heads, row = whole_vecs(3 * width);
    const float scale = 1 / sqrtf((float)head);
    memcpy(new_keys, b->project + width, (size_t)width * sizeof(float));
    memcpy(new_values, b->project + 2 * width, (size_t)width * sizeof(float));
    for (int64_t h = 0; h < t->heads; h++) {
        const float *codes = t->relative + (depth * t->heads + h) * t->slots;
        for (int64_t q = 0; q < 3; q++) {
            const float *query = b->project + q * row + h * head;
            float *score = b->logits_of_keys, top = -FLT_MAX, total = 0, *mixed = b->mixed + q * b->mixed_row + h * head;
            for (int64_t j = 0; j <= t->slots; j++) {
                if (j == slot || (j >= filled && j < t->slots)) continue;
                const float *key = j < t->slots ? keys + (h * t->slots + j) * head : new_keys + h * head;
                int64_t age = j == t->slots ? 0 : j < slot ? slot - j : slot - j + t->slots;
                score[j] = dot(query, key, head) * scale + codes[t->slots - 1 - age] + (there[j] - 1.0f) * 1e4f;
                top = score[j] > top ? score[j] : top;
            }
            for (int64_t d = 0; d < head; d++) mixed[d] = 0;
            for (int64_t j = 0; j <= t->slots; j++) {
                if (j == slot || (j >= filled && j < t->slots)) continue;
                const float *value = j < t->slots ? values + (h * t->slots + j) * head : new_values + h * head;
                float weight = expf(score[j] - top);
                total += weight;
                for (int64_t d = 0; d < head; d++) mixed[d] += weight * value[d];
            }
            for (int64_t d = 0; d < head; d++) mixed[d] /= total;
        }
    }
}

static void step_encode(const mmkd_model *model, buffers *b, const float *values, const float *present, int64_t slot,
                        int64_t filled, const float *const *state, float *const *news, float *embedding)
{
    const mmkd_transformer *t = &model->transformer;
    int64_t channels = model->channels, row = 2 * channels, width = t->width, wide = whole_vecs(width);
    memcpy(b->both, state[0], (size_t)(t->history * row) * sizeof(float));
    float *block = b->both + t->history * row, *now = news[1];
    memset(now, 0, (size_t)(3 * channels) * sizeof(float));
    for (int64_t i = 0; i < t->step; i++)
        for (int64_t c = 0; c < channels; c++) {
            float there = present[i * channels + c];
            float x = clampf((values[i * channels + c] - t->mean[c]) * t->scale[c], -most, most) * there;
            block[i * row + c] = x;
            block[i * row + channels + c] = there;
            now[c] += there;
            now[channels + c] += x;
        }
    for (int64_t c = 0; c < channels; c++) {
        now[channels + c] /= now[c] < 1 ? 1 : now[c];
        for (int64_t i = 0; i < t->step; i++) {
            float rest = (block[i * row + c] - now[channels + c]) * block[i * row + channels + c];
            now[2 * channels + c] += rest * rest;
        }
    }
    memcpy(news[0], b->both + t->step * row, (size_t)(t->history * row) * sizeof(float));
    running_statistics(t, channels, slot, state[1], now, b->running);
    int64_t taps_row = mmkd_padded(t->taps), tone_row = mmkd_padded(2 * t->bands);
    const float *last = b->both + (t->history + t->step - t->taps) * row;
    for (int64_t c = 0; c < row; c++)
        for (int64_t i = 0; i < t->taps; i++) b->rows[c * taps_row + i] = last[i * row + c];
    product(b->rows, taps_row, t->filters, tone_row, 0, b->tones, tone_row, row, t->taps, whole_vecs(2 * t->bands));
    leave_behind(t, channels, b->both, now, b->tones, b->running, news[2], news[3]);
    summarise(t, channels, slot, state, news, b);

    memcpy(b->views, state[4], (size_t)(t->reach * t->views) * sizeof(float));
    for (int64_t i = 0; i < t->step; i++)
        for (int64_t c = 0; c < channels; c++) {
            float x = block[i * row + c], there = block[i * row + channels + c], *to = b->views + (t->reach + i) * t->views;
            to[c] = x;
            to[channels + c] = (x - b->running[channels + c]) * there / b->running[2 * channels + c];
            to[2 * channels + c] = there;
        }
    memcpy(news[4], b->views + t->step * t->views, (size_t)(t->reach * t->views) * sizeof(float));
    convolve_stem(t, b);
    memcpy(b->tokens, b->stage_out, (size_t)wide * sizeof(float));
    apply(b, &t->spectrum, b->bands, 0, b->tokens + wide, wide, 1);
    apply(b, &t->summary, b->statistics, 0, b->tokens + 2 * wide, wide, 1);

    float there[MMKD_MAX_SLOTS + 1] = {0};
    for (int64_t j = 0; j <= t->slots; j++) {
        const float *m = j < t->slots ? state[1] + j * 3 * channels : now;
        float count = 0;
        for (int64_t c = 0; c < channels; c++) count += m[c];
        there[j] = count < 1 ? count : 1;
    }
    for (int64_t depth = 0; depth < t->depth; depth++) {
        const mmkd_block *layer = &t->block[depth];
        int64_t project_row = whole_vecs(3 * width), pair = MMKD_FRONT_STATES + 2 * depth;
        normalise_tokens(b, layer->norm, width, 3);
        apply(b, &layer->project, b->normed, wide, b->project, project_row, 3);
        attend(t, depth, slot, filled, there, state[pair], state[pair + 1], news[pair], news[pair + 1], b);
        finish_block(b, layer, width, 3);
    }
    int64_t pool = MMKD_FRONT_STATES + 2 * t->depth;
    float seen = there[t->slots], *token = news[pool];
    normalise(b->tokens, t->norm_weight, t->norm_bias, width, token);
    for (int64_t d = 0; d < width; d++) b->pooled[d] = there[t->slots] * token[d];
    for (int64_t j = 0; j < t->slots; j++) {
        if (j == slot) continue;
        seen += there[j];
        for (int64_t d = 0; d < width; d++) b->pooled[d] += there[j] * state[pool][j * width + d];
    }
    for (int64_t d = 0; d < width; d++) b->pooled[d] /= seen < 1 ? 1 : seen;
    for (int64_t i = 1; i < 3; i++)
        normalise(b->tokens + i * wide, t->norm_weight, t->norm_bias, width, b->pooled + i * width);
    apply(b, &t->mix, b->pooled, 0, b->normed, wide, 1);
    gelu(b->normed, wide);
    memcpy(embedding, b->normed, (size_t)width * sizeof(float));
}

/* A whole window of a causal student: its blocks, one step after the other. */
static void encode_causal(const mmkd_model *model, buffers *b, const float *values, const float *present,
                          float *embedding)
{
    const mmkd_transformer *t = &model->transformer;
    int64_t channels = model->channels, lead = t->slots * t->step - model->samples, states = mmkd_states(model);
    for (int64_t n = 0; n < states; n++) memset(b->state[n], 0, (size_t)mmkd_state_floats(model, n) * sizeof(float));
    for (int64_t number = 0; number < t->slots; number++) {
        int64_t at = number * t->step - lead, missing = at < 0 ? -at : 0, size = (t->step - missing) * channels;
        const float *const from[] = {values, present};
        float *const to[] = {b->values, b->present}; /* not used otherwise; the first block begins with missing samples */
        for (int part = 0; part < 2; part++) {
            memset(to[part], 0, (size_t)(missing * channels) * sizeof(float));
            memcpy(to[part] + missing * channels, from[part] + (at + missing) * channels, (size_t)size * sizeof(float));
        }
        step_encode(model, b, b->values, b->present, number, number, (const float *const *)b->state, b->news, embedding);
        mmkd_keep(model, b->state, b->news, number);
    }
}

/* ---- convolutions: the features of networks/convolutions.py; a kernel's answer is computed once for all its features */

/* Sums of `features` ramps of one kernel's answer. Between the two places every position counts once. */
INLINE void ramps(const mmkd_convolutions *c, const float *answer, const float *mass, int64_t row, int64_t whole_from,
                  int64_t whole_to, int32_t first, float *to, const int features)
{
    vec sum[4], slope[4], offset[4];
    for (int n = 0; n < features; n++) {
        sum[n] = splat(0);
        slope[n] = splat(c->slope[first + n]);
        offset[n] = splat(c->offset[first + n]);
    }
    for (int part = 0; part < 2; part++)
        for (int64_t i = part ? whole_to : 0; i < (part ? row : whole_from); i += W)
            for (int n = 0; n < features; n++)
                sum[n] += clamp_vec(load(answer + i) * slope[n] + offset[n], 0.0f, 1.0f) * load(mass + i);
    for (int64_t i = whole_from; i < whole_to; i += W)
        for (int n = 0; n < features; n++) sum[n] += clamp_vec(load(answer + i) * slope[n] + offset[n], 0.0f, 1.0f);
    for (int n = 0; n < features; n++) to[first + n] = sum_vec(sum[n]);
}

static void convolve(const mmkd_model *model, buffers *b, float *embedding)
{
    const mmkd_convolutions *c = &model->convolutions;
    int64_t channels = model->channels, samples = model->samples, stride = c->stride, count = c->positions;
    int64_t row = mmkd_padded(count), long_row = b->phase_row, dilation = -1;
    /* Of every stride-th sample from each phase on, so that a position is the next number. */
    for (int64_t ch = 0; ch < channels; ch++)
        for (int64_t phase = 0; phase < stride; phase++) {
            float *to = b->phase + (ch * stride + phase) * long_row;
            const float *x = b->values + ch * b->span, *there = b->present + ch * b->span;
            for (int64_t i = 0; i < long_row; i++) {
                int64_t at = i * stride + phase, inside = at >= b->reach && at < b->reach + samples;
                to[i] = inside ? clampf((x[at] - c->mean[ch]) * c->scale[ch], -most, most) * there[at] : 0.0f;
            }
        }
    float present = 0;
    for (int64_t ch = 0; ch < channels; ch++)
        for (int64_t i = 0; i < samples; i++) present += b->present[ch * b->span + b->reach + i];
    int all_there = present == (float)(samples * channels);
    int64_t counted_to[2] = {-1, -1}, counted_from[2] = {-1, -1}; /* of kernels without and with padding */
    float totals[2] = {0, 0};
    for (int64_t number = 0; number < c->kernels; number++) {
        const mmkd_kernel *kernel = c->kernel + number;
        const int32_t *reads = c->channel + kernel->first_channel;
        if (kernel->dilation != dilation) {
            dilation = kernel->dilation;
            for (int64_t ch = 0; ch < channels; ch++)
                for (int64_t i = 0; i < row; i += W) {
                    vec sum = splat(0);
                    for (int64_t tap = 0; tap < 9; tap++) {
                        int64_t at = b->reach + (tap - 4) * dilation;
                        sum += load(b->phase + (ch * stride + at % stride) * long_row + at / stride + i);
                    }
                    store(b->nine + ch * row + i, sum);
                }
        }
        int64_t edge = kernel->padded ? 0 : 4 * dilation, first = (edge + stride - 1) / stride;
        int64_t last = samples - edge <= 0 ? 0 : (samples - edge - 1) / stride + 1; /* beyond the last position */
        const float *from[3];
        for (int place = 0; place < 3; place++) {
            int64_t at = b->reach + (kernel->places[place] - 4) * dilation;
            from[place] = b->phase + at % stride * long_row + at / stride;
        }
        for (int64_t i = 0; i < row; i += W) {
            vec sum = splat(0);
            for (int32_t r = 0; r < kernel->channels; r++) {
                int64_t shift = reads[r] * stride * long_row + i;
                sum += (load(from[0] + shift) + load(from[1] + shift) + load(from[2] + shift)) * 3.0f -
                       load(b->nine + reads[r] * row + i);
            }
            store(b->answer + i, sum);
        }
        /* How much each position counts: without gaps all from the first to the last, for many kernels the same ones. */
        int kind = kernel->padded != 0;
        float *mass = b->mass + kind * row, total = totals[kind];
        if (!all_there || first != counted_from[kind] || last != counted_to[kind]) {
            counted_from[kind] = first, counted_to[kind] = last, total = 0;
            for (int64_t i = 0; i < row; i++) {
                float there = i >= first && i < last;
                if (there && !all_there) {
                    there = 0;
                    for (int32_t r = 0; r < kernel->channels; r++)
                        there += b->present[reads[r] * b->span + b->reach + i * stride];
                    there /= (float)kernel->channels;
                }
                mass[i] = there;
                total += there;
            }
            totals[kind] = total;
        }
        float per = 1 / (total < 1 ? 1 : total), seen = total < 1 ? total : 1;
        int64_t whole_from = all_there ? (first + W - 1) / W * W : row, whole_to = all_there ? last / W * W : row;
        int32_t f = kernel->first_feature, end = f + kernel->features;
        whole_to = whole_to < whole_from ? whole_from : whole_to;
        whole_from = whole_from < row ? whole_from : row, whole_to = whole_to < row ? whole_to : row;
        for (; f + 4 <= end; f += 4) ramps(c, b->answer, mass, row, whole_from, whole_to, f, embedding, 4);
        for (; f < end; f++) ramps(c, b->answer, mass, row, whole_from, whole_to, f, embedding, 1);
        for (f = kernel->first_feature; f < end; f++)
            embedding[f] = (embedding[f] * per - c->feature_mean[f] * seen) * c->feature_scale[f];
    }
}

/* ---- intervals: the features of networks/intervals.py, of W channels at a time */

/* Merge sorted runs in the columns of (rows, W) into longer ones: Batcher's odd-even merges. All are powers of two. */
static void sort_columns(float *x, int64_t rows, int64_t run, int64_t longer)
{
    for (; run < longer; run *= 2)
        for (int64_t apart = run; apart; apart /= 2)
            for (int64_t from = apart & (run - 1); from + apart < rows; from += 2 * apart) {
                if ((from ^ (from + apart)) & -2 * run) continue; /* of two merges */
                for (int64_t i = from * W; i < (from + apart) * W; i += W) {
                    vec a = load(x + i), b = load(x + i + apart * W);
                    store(x + i, min_vec(a, b));
                    store(x + i + apart * W, max_vec(a, b));
                }
            }
}

/* Statistics of an interval of `count` rows into the features of each of `columns` columns, which lie `row` apart. */
static void describe_interval(const float *x, const float *sorted, int64_t count, float *to, int64_t row, int64_t columns)
{
    const float n = (float)count, square = n * (n * n - 1) / 12;
    vec sum = splat(0), squares = splat(0), slope = splat(0), out[MMKD_STATISTICS];
    for (int64_t i = 0; i < count; i++) sum += load(x + i * W);
    const vec mean = sum / n;
    for (int64_t i = 0; i < count; i++) {
        vec rest = load(x + i * W) - mean;
        squares += rest * rest;
        slope += rest * ((float)i - (n - 1) / 2);
    }
    out[0] = mean, out[1] = squares / n, out[2] = slope / (square > 1 ? square : 1);
    for (int64_t quarter = 0; quarter <= 4; quarter++) { /* from the smallest to the largest */
        const int64_t at = quarter * (count - 1) / 4, next = at + 1 < count ? at + 1 : at;
        const vec low = load(sorted + at * W);
        out[3 + quarter] = low + (load(sorted + next * W) - low) * ((float)(quarter * (count - 1) % 4) / 4);
    }
    for (int64_t c = 0; c < columns; c++)
        for (int64_t i = 0; i < MMKD_STATISTICS; i++) to[c * row + i] = i == 1 ? sqrtf(out[i][c]) : out[i][c];
}

/* Features of every interval of the first columns in b->column, (length, W), of which the last ones count. */
static void describe_columns(const mmkd_intervals *v, buffers *b, int64_t length, float *to, int64_t row, int64_t columns)
{
    int64_t last = v->depths - 1, count = length >> last, rows = b->leaf;
    const float *x = b->column + (length - (count << last)) * W;
    for (int64_t i = 0; i < rows << last; i++) {
        int64_t from = i / rows * count + i % rows;
        store(b->sorted + i * W, i % rows < count ? load(x + from * W) : splat(FLT_MAX));
    }
    for (int64_t depth = last, sorted = 1; depth >= 0; depth--, count *= 2, sorted = rows, rows *= 2) {
        sort_columns(b->sorted, b->leaf << last, sorted, rows);
        for (int64_t i = 0; i < (int64_t)1 << depth; i++)
            describe_interval(x + i * count * W, b->sorted + i * rows * W, count,
                              to + (((int64_t)1 << depth) - 1 + i) * MMKD_STATISTICS, row, columns);
    }
}

static void measure(const mmkd_model *model, buffers *b, float *embedding)
{
    const mmkd_intervals *v = &model->intervals;
    int64_t samples = model->samples, channels = model->channels, row = mmkd_padded(samples), parts = mmkd_padded(2 * v->bins);
    int64_t per_view = MMKD_STATISTICS * (((int64_t)1 << v->depths) - 1), per_channel = 2 * per_view + v->bins;
    for (int64_t c = 0; c < channels; c++) { /* a missing sample takes the mean */
        const float *x = b->values + c * b->span + b->reach, *there = b->present + c * b->span + b->reach;
        vec total = splat(0), count = splat(0);
        for (int64_t i = 0; i < row; i += W) {
            vec p = load(there + i), u = clamp_vec((load(x + i) - v->mean[c]) * v->scale[c], -most, most) * p;
            store(b->filled + c * row + i, u);
            total += u, count += p;
        }
        const float seen = sum_vec(count), mean = sum_vec(total) / (seen < 1 ? 1 : seen);
        for (int64_t i = 0; i < samples; i++) b->filled[c * row + i] += (1 - there[i]) * mean;
    }
    for (int64_t first = 0; first < channels; first += W) {
        int64_t count = channels - first < W ? channels - first : W;
        float *to = b->features + first * per_channel;
        for (int64_t c = 0; c < count; c++)
            for (int64_t i = 0; i < samples; i++) b->column[i * W + c] = b->filled[(first + c) * row + i];
        describe_columns(v, b, samples, to, per_channel, count);
        for (int64_t i = 0; i < (samples - 1) * W; i += W) store(b->column + i, load(b->column + i + W) - load(b->column + i));
        describe_columns(v, b, samples - 1, to + per_view, per_channel, count);
    }
    for (int64_t c = 0; c < channels; c++) {
        float *x = b->filled + c * row, mean = 0;
        for (int64_t i = 0; i < samples; i++) mean += x[i] / (float)samples;
        for (int64_t i = 0; i < samples; i++) x[i] -= mean;
    }
    apply(b, &v->basis, b->filled, row, b->parts, parts, channels);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < v->bins; i++)
            b->features[c * per_channel + 2 * per_view + i] = logf(power_of(b->parts + c * parts + i, v->bins) + 1e-6f);
    for (int64_t i = 0; i < v->features; i++)
        embedding[i] = clampf((b->features[i] - v->feature_mean[i]) * v->feature_scale[i], -most, most);
}

enum { WALKS = 4 };

/* Add the trees' weighted logits to the head's. */
static void add_votes(const mmkd_model *model, buffers *b)
{
    const mmkd_trees *f = &model->trees;
    const float n = (float)f->count, outputs = (float)model->outputs;
    memset(b->votes, 0, (size_t)model->outputs * sizeof(float));
    for (int64_t tree = 0; tree < f->count; tree += WALKS) { /* several at once: a walk waits for memory */
        int64_t at[WALKS], walks = f->count - tree < WALKS ? f->count - tree : WALKS, is_inside = 1;
        for (int64_t n = 0; n < walks; n++) at[n] = f->root[tree + n];
        while (is_inside) {
            is_inside = 0;
            for (int64_t n = 0; n < walks; n++) {
                if (at[n] < 0) continue;
                const mmkd_node *node = f->node + at[n];
                at[n] = node->next[!(b->features[node->feature] <= node->threshold)];
                is_inside |= at[n] >= 0;
            }
        }
        for (int64_t n = 0; n < walks; n++)
            for (int64_t k = 0; k < model->outputs; k++) b->votes[k] += f->leaf[(-1 - at[n]) * model->outputs + k];
    }
    for (int64_t k = 0; k < model->outputs; k++) { /* one more vote is spread evenly: no fraction is 0 */
        const float sum = b->votes[k];
        if (model->task == MMKD_CLASSIFICATION) b->head[k] += f->weight * logf((sum + 1 / outputs) / (n + 1));
        else if (model->task == MMKD_MULTI_LABEL) b->head[k] += f->weight * logf((sum + 0.5f) / (n - sum + 0.5f));
        else b->head[k] += f->weight * sum / n;
    }
}

/* ---- from b->embedding to the answers */

static void answer(const mmkd_model *model, buffers *b, float *logits, float *probabilities, float *novelty)
{
    apply(b, &model->head, b->embedding, 0, b->head, 0, 1);
    if (model->has_trees) add_votes(model, b);
    float *apart = b->embedding + mmkd_padded(model->embedding), far = 0, inside = 0, nearest = FLT_MAX;
    if (model->has_novelty) {
        for (int64_t i = 0; i < model->embedding; i++) apart[i] = b->embedding[i] - model->novelty_middle[i];
        apply(b, &model->novelty, apart, 0, b->distance, 0, 1);
        for (int64_t i = 0; i < model->novelty.out; i++) {
            nearest = b->distance[i] < nearest ? b->distance[i] : nearest;
            inside += b->distance[i] * b->distance[i];
        }
        for (int64_t i = 0; i < model->embedding; i++) far += apart[i] * apart[i] * model->novelty_squares[i];
    }
    if (model->task == MMKD_NORMAL) b->head[0] += logf(far - inside > 1e-6f ? far - inside : 1e-6f);
    else if (novelty && model->has_novelty) *novelty = far + nearest > 0 ? far + nearest : 0;
    float top = -FLT_MAX, total = 0;
    for (int64_t k = 0; k < model->outputs; k++) {
        logits[k] = b->head[k];
        float sharp = b->head[k] * model->sharpness;
        top = sharp > top ? sharp : top;
        probabilities[k] = sharp;
    }
    for (int64_t k = 0; k < model->outputs; k++) {
        float sharp = probabilities[k];
        if (model->task == MMKD_CLASSIFICATION) total += probabilities[k] = expf(sharp - top);
        else if (model->task == MMKD_MULTI_LABEL) probabilities[k] = 1 / (1 + expf(-sharp));
        else probabilities[k] = model->task == MMKD_NORMAL ? expf(sharp) : sharp * model->target_std + model->target_mean;
    }
    if (model->task == MMKD_CLASSIFICATION)
        for (int64_t k = 0; k < model->outputs; k++) probabilities[k] /= total;
}

static void run(const mmkd_model *model, float *scratch, const float *values, const float *present, float *logits,
                float *probabilities, float *novelty)
{
    buffers b = {0};
    place(model, scratch, &b);
    if (model->transformer.is_causal) {
        encode_causal(model, &b, values, present, b.embedding);
    } else {
        memset(b.values, 0, (size_t)(model->channels * b.span) * sizeof(float));
        memset(b.present, 0, (size_t)(model->channels * b.span) * sizeof(float));
        for (int64_t i = 0; i < model->samples; i++)
            for (int64_t c = 0; c < model->channels; c++) {
                b.values[c * b.span + b.reach + i] = values[i * model->channels + c];
                b.present[c * b.span + b.reach + i] = present[i * model->channels + c];
            }
        if (model->has_transformer) encode(model, &b, b.embedding);
        float *next = b.embedding + model->transformer.width;
        if (model->has_convolutions) convolve(model, &b, next);
        if (model->has_intervals) measure(model, &b, next + model->convolutions.features);
    }
    answer(model, &b, logits, probabilities, novelty);
}

static void step(const mmkd_model *model, float *scratch, const float *values, const float *present, int64_t slot,
                 const float *const *states, float *const *news, float *logits, float *probabilities, float *novelty)
{
    buffers b = {0};
    place(model, scratch, &b);
    step_encode(model, &b, values, present, slot, model->transformer.slots, states, news, b.embedding);
    answer(model, &b, logits, probabilities, novelty);
}

const mmkd_computing MMKD_NAME = {run, step};

#ifdef MMKD_SIZES
size_t mmkd_scratch_floats(const mmkd_model *model)
{
    buffers b = {0};
    return place(model, 0, &b);
}

int64_t mmkd_news_floats(const mmkd_model *model, int64_t number)
{
    const mmkd_transformer *t = &model->transformer;
    int64_t channels = model->channels;
    const int64_t front[] = {t->history * 2 * channels, 3 * channels, t->sums, 2 * channels, t->reach * t->views};
    return number < MMKD_FRONT_STATES ? front[number] : t->width;
}

int64_t mmkd_state_floats(const mmkd_model *model, int64_t number)
{
    int is_whole = number == 0 || number == 4;
    return mmkd_news_floats(model, number) * (is_whole ? 1 : model->transformer.slots);
}

void mmkd_keep(const mmkd_model *model, float *const *states, float *const *news, int64_t slot)
{
    const mmkd_transformer *t = &model->transformer;
    for (int64_t n = 0, count = mmkd_states(model); n < count; n++) { /* keys and values are (heads, slots, head) */
        int64_t heads = n < MMKD_FRONT_STATES || n == count - 1 ? 1 : t->heads, size = mmkd_news_floats(model, n) / heads;
        int64_t at = n == 0 || n == 4 ? 0 : slot;
        for (int64_t h = 0; h < heads; h++)
            memcpy(states[n] + (h * t->slots + at) * size, news[n] + h * size, (size_t)size * sizeof(float));
    }
}
#endif
