/* Statistics of intervals: the features of networks/intervals.py, of W channels at a time. */
#ifndef MMKD_INTERVALS_H
#define MMKD_INTERVALS_H

#include "layers.h"

typedef struct {
    float *filled, *column, *sorted, *parts, *features; /* filled: (C, padded(T)); columns: (rows, W) */
    int64_t leaf; /* rows in which the shortest intervals are sorted: a power of two */
} surveyor;

static void place_intervals(const mmkd_model *model, arena *from, surveyor *b)
{
    const mmkd_intervals *v = &model->intervals;
    for (b->leaf = 1; b->leaf < model->samples >> (v->depths - 1);) b->leaf *= 2;
    b->filled = take(from, model->channels * mmkd_padded(model->samples));
    b->column = take(from, model->samples * PANEL_LANES);
    b->sorted = take(from, (b->leaf << (v->depths - 1)) * PANEL_LANES);
    b->parts = take(from, model->channels * mmkd_padded(2 * v->bins));
    b->features = take(from, v->features);
}

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
static void describe_columns(const mmkd_intervals *v, surveyor *b, int64_t length, float *to, int64_t row, int64_t columns)
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

static void measure(const mmkd_model *model, const shared *s, surveyor *b, float *embedding)
{
    const mmkd_intervals *v = &model->intervals;
    int64_t samples = model->samples, channels = model->channels, row = mmkd_padded(samples), parts = mmkd_padded(2 * v->bins);
    int64_t per_view = MMKD_STATISTICS * (((int64_t)1 << v->depths) - 1), per_channel = 2 * per_view + v->bins;
    for (int64_t c = 0; c < channels; c++) { /* a missing sample takes the mean */
        const float *there = s->present + c * s->span + s->reach;
        float count = 0, mean = standardise(s, c, v->mean[c], v->scale[c], row, b->filled + c * row, &count);
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
    apply(s, &v->basis, b->filled, row, b->parts, parts, channels);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < v->bins; i++)
            b->features[c * per_channel + 2 * per_view + i] = logf(power_of(b->parts + c * parts + i, v->bins) + 1e-6f);
    for (int64_t i = 0; i < v->features; i++)
        embedding[i] = clampf((b->features[i] - v->feature_mean[i]) * v->feature_scale[i], -most, most);
}

#endif
