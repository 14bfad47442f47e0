/* What the members of a model share: their scratch, layers, and samples on the scale of training. */
#ifndef MMKD_LAYERS_H
#define MMKD_LAYERS_H

#include "model.h"
#include "vectors.h"

#ifdef MMKD_ONE_ISA
#define PANEL_LANES W
#else
#define PANEL_LANES MMKD_LANES
#endif

static const float most = 8.0f; /* standard deviations of a sample that count */

typedef struct {
    float *base;
    size_t used;
} arena;

/* What each member reads. */
typedef struct {
    float *values, *present; /* (C, span): rows of channels, zeros beyond the window */
    int64_t span, reach;     /* span of a row; samples of zeros before the window */
    float *panel;            /* int8 weights as floats: model->panel rows of 3 vectors */
} shared;

static float *take(arena *from, int64_t count)
{
    float *place = from->base ? from->base + from->used : 0;
    from->used += (size_t)mmkd_padded(count > 0 ? count : 1);
    return place;
}

/* ---- layers */

/* c = a W + bias for int8 weights: a few columns and rows of W at a time become floats. */
static void apply_small(const shared *s, const mmkd_linear *layer, const float *a, int64_t a_row, float *c, int64_t c_row,
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
                    store(s->panel + i * 3 * W + v,
                          __builtin_convertvector(__builtin_convertvector(*(const few *)(small + i * row), ivec), vec) * scale);
            }
            if (!from) {
                const float *bias = layer->bias ? layer->bias + col : 0;
                product(a, a_row, s->panel, 3 * W, bias, c + col, c_row, rows, count, columns);
            } else /* each row goes on from its sum */
                for (int64_t r = 0; r < rows; r++) {
                    float *sum = c + col + r * c_row;
                    product(a + from + r * a_row, 0, s->panel, 3 * W, sum, sum, 0, 1, count, columns);
                }
        }
    }
}

static void apply(const shared *s, const mmkd_linear *layer, const float *a, int64_t a_row, float *c, int64_t c_row,
                  int64_t rows)
{
    int64_t row = mmkd_padded(layer->out), n = whole_vecs(layer->out);
    if (layer->small) apply_small(s, layer, a, a_row, c, c_row, rows);
    else product(a, a_row, layer->weight, row, layer->bias, c, c_row, rows, layer->in, n);
}

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

/* A channel's samples on the scale of training, 0 where missing, into `to`, `row` of them. Returns their mean; count: of
 * those that are there, at least 1. */
INLINE float standardise(const shared *s, int64_t channel, float middle, float scale, int64_t row, float *to, float *count)
{
    const float *x = s->values + channel * s->span + s->reach, *there = s->present + channel * s->span + s->reach;
    vec total = splat(0), seen = splat(0);
    for (int64_t i = 0; i < row; i += W) {
        vec p = load(there + i), u = clamp_vec((load(x + i) - middle) * scale, -most, most) * p;
        store(to + i, u);
        total += u, seen += p;
    }
    const float sum = sum_vec(seen);
    *count = sum < 1 ? 1 : sum;
    return sum_vec(total) / *count;
}

#endif
