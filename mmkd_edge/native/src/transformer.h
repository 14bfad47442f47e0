/* The transformer: the same steps as networks/encoder.py, in its order. */
#ifndef MMKD_TRANSFORMER_H
#define MMKD_TRANSFORMER_H

#include "layers.h"

enum { LEVELS = 6 };
/* exp(-4 level) of the levels -1.5, -0.75, -0.25, 0.25, 0.75 and 1.5: one exp serves them all. */
static const float sharp_levels[LEVELS] = {403.428793f, 20.0855369f, 2.71828183f, 0.367879441f, 0.0497870684f, 0.00247875218f};

/* Scratch of an encoder; of a causal one it also holds the states of a window that is computed step by step. */
typedef struct {
    float *views;             /* (pad + T + pad, views) channels last */
    float *local;             /* (C, padded(T)) */
    float *spectrum, *power, *bands, *log_bands, *statistics;
    float *stage, *stage_out; /* what a convolution of the stem reads, with zeros on both sides, and gives */
    float *tokens, *normed, *project, *hidden, *mixed, *scores, *key, *value_rows, *bias, *pooled;
    int64_t mixed_row;
    /* of a causal encoder */
    float *both, *rows, *tones, *running, *total, *logits_of_keys;
    float *state[MMKD_FRONT_STATES + 2 * MMKD_MAX_BLOCKS + 1], *news[MMKD_FRONT_STATES + 2 * MMKD_MAX_BLOCKS + 1];
} encoder;

/* Scratch of the stem (its longest input, with zeros on both sides unless it is causal, and its longest output) and of
 * the blocks for `count` tokens. */
static void place_stages(const mmkd_transformer *t, arena *from, encoder *b, int64_t count)
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

static void place_transformer(const mmkd_model *model, arena *from, encoder *b)
{
    const mmkd_transformer *t = &model->transformer;
    int64_t samples = model->samples, channels = model->channels, count = t->tokens;
    b->views = take(from, (samples + 2 * t->stage[0].stride) * t->views);
    b->bands = take(from, channels * mmkd_padded(t->bands));
    b->log_bands = take(from, channels * t->bands);
    b->statistics = take(from, t->statistics);
    place_stages(t, from, b, count);
    b->local = take(from, channels * mmkd_padded(samples));
    b->spectrum = take(from, channels * mmkd_padded(2 * t->bins));
    b->power = take(from, channels * mmkd_padded(t->bins));
    b->scores = take(from, count * mmkd_padded(count));
    b->key = take(from, t->width / t->heads * mmkd_padded(count));
    b->value_rows = take(from, count * mmkd_padded(t->width / t->heads));
    b->bias = take(from, count);
}

/* Convolutions of the stem as products: the rows that a kernel sees lie one after the other. */
static void convolve_stem(const mmkd_transformer *t, const shared *s, encoder *b)
{
    const float *in = b->views;
    int64_t in_row = t->views;
    for (int64_t n = 0; n < t->stages; n++) {
        const mmkd_stage *stage = &t->stage[n];
        int64_t out = stage->linear.out, out_row = whole_vecs(out), pad = 0;
        apply(s, &stage->linear, in, stage->stride * in_row, b->stage_out, out_row, stage->length);
        gelu(b->stage_out, stage->length * out_row);
        if (n + 1 == t->stages) return;
        if (!t->is_causal) pad = t->stage[n + 1].stride * out;
        memset(b->stage, 0, (size_t)pad * sizeof(float));
        for (int64_t p = 0; p < stage->length; p++)
            memcpy(b->stage + pad + p * out, b->stage_out + p * out_row, (size_t)out * sizeof(float));
        memset(b->stage + pad + stage->length * out, 0, (size_t)pad * sizeof(float));
        in = b->stage;
        in_row = out;
    }
}

/* Normalise tokens into b->normed, before a half of a block; add what it made of them. */
static void normalise_tokens(encoder *b, const float *const norm[2], int64_t width, int64_t count)
{
    int64_t wide = whole_vecs(width);
    for (int64_t i = 0; i < count; i++) normalise(b->tokens + i * wide, norm[0], norm[1], width, b->normed + i * wide);
}

static void add_to_tokens(encoder *b, int64_t count)
{
    for (int64_t i = 0; i < count; i += W) store(b->tokens + i, load(b->tokens + i) + load(b->normed + i));
}

/* From what the heads have mixed to the end of a block. */
static void finish_block(const shared *s, encoder *b, const mmkd_block *block, int64_t width, int64_t count)
{
    int64_t wide = whole_vecs(width), hidden_row = whole_vecs(block->up.out);
    apply(s, &block->out, b->mixed, b->mixed_row, b->normed, wide, count);
    add_to_tokens(b, count * wide);
    normalise_tokens(b, block->norm + 2, width, count);
    apply(s, &block->up, b->normed, wide, b->hidden, hidden_row, count);
    gelu(b->hidden, count * hidden_row);
    apply(s, &block->down, b->hidden, hidden_row, b->normed, wide, count);
    add_to_tokens(b, count * wide);
}

/* The pooled tokens become the embedding. */
static void mix(const mmkd_transformer *t, const shared *s, encoder *b, float *embedding)
{
    int64_t wide = whole_vecs(t->width);
    apply(s, &t->mix, b->pooled, 0, b->normed, wide, 1);
    gelu(b->normed, wide);
    memcpy(embedding, b->normed, (size_t)t->width * sizeof(float));
}

/* Views of one channel into b->views, its statistics into b->statistics. */
static void look_at_channel(const mmkd_model *model, const shared *s, encoder *b, int64_t channel)
{
    const mmkd_transformer *t = &model->transformer;
    int64_t samples = model->samples, channels = model->channels, row = whole_vecs(samples);
    const float *there = s->present + channel * s->span + s->reach;
    float *scaled = b->local + channel * row; /* becomes the local view at the end */
    float *view = b->views + t->stage[0].stride * t->views, count = 0;
    const float mean = standardise(s, channel, t->mean[channel], t->scale[channel], row, scaled, &count);
    vec below[LEVELS], again = splat(0);
    for (int level = 0; level < LEVELS; level++) below[level] = splat(0);
    for (int64_t i = 0; i < row; i += W) {
        vec p = load(there + i), x = load(scaled + i), e = exp_vec(x * 4.0f);
        for (int level = 0; level < LEVELS; level++) below[level] += p / (e * sharp_levels[level] + 1.0f);
        again += (x - mean) * p;
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

/* Sizes of the frequency bands of every channel's local view, as logarithms. */
static void measure_bands(const mmkd_transformer *t, const shared *s, encoder *b, int64_t channels, int64_t row)
{
    int64_t parts = mmkd_padded(2 * t->bins), bins = mmkd_padded(t->bins), bands = mmkd_padded(t->bands);
    apply(s, &t->basis, b->local, row, b->spectrum, parts, channels);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < t->bins; i++) b->power[c * bins + i] = power_of(b->spectrum + c * parts + i, t->bins);
    apply(s, &t->pooling, b->power, bins, b->bands, bands, channels);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < t->bands; i++) b->log_bands[c * t->bands + i] = logf(b->bands[c * bands + i] + 1e-3f);
}

/* A token without a present sample is masked. */
static void mask_tokens(const mmkd_model *model, const shared *s, encoder *b)
{
    const mmkd_transformer *t = &model->transformer;
    int64_t stride = 1, any = 0, time_tokens = t->tokens - MMKD_EXTRA_TOKENS;
    for (int64_t n = 0; n < t->stages; n++) stride *= t->stage[n].stride;
    for (int64_t i = 0; i < time_tokens; i++) {
        float sum = 0;
        for (int64_t c = 0; c < model->channels; c++) {
            const float *there = s->present + c * s->span + s->reach;
            for (int64_t p = i * stride; p < (i + 1) * stride && p < model->samples; p++) sum += there[p];
        }
        b->bias[i] = sum > 0 ? 0.0f : -1e4f;
        any |= sum > 0;
    }
    b->bias[time_tokens] = b->bias[time_tokens + 1] = any ? 0.0f : -1e4f;
    for (int64_t i = t->tokens; i < whole_vecs(t->tokens); i++) b->bias[i] = -1e30f;
}

/* Scores of keys become weights that sum to 1. */
INLINE void weigh(float *score, int64_t keys)
{
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

/* Every token asks all that are not masked; what the heads mix is in b->mixed. */
static void attend(const mmkd_transformer *t, encoder *b)
{
    int64_t width = t->width, head = width / t->heads, head_row = whole_vecs(head);
    int64_t keys = whole_vecs(t->tokens), project_row = whole_vecs(3 * width);
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
        for (int64_t i = 0; i < t->tokens; i++) weigh(b->scores + i * keys, keys);
        /* Heads in ascending order: what one writes beyond its columns the next one overwrites. */
        product(b->scores, keys, b->value_rows, head_row, 0, b->mixed + h * head, b->mixed_row, t->tokens, t->tokens, head_row);
    }
}

/* The mean of the time tokens that are not masked, and the other two, become the embedding. */
static void pool_tokens(const mmkd_transformer *t, const shared *s, encoder *b, float *embedding)
{
    int64_t width = t->width, wide = whole_vecs(width), time_tokens = t->tokens - MMKD_EXTRA_TOKENS;
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
    mix(t, s, b, embedding);
}

static void encode(const mmkd_model *model, const shared *s, encoder *b, float *embedding)
{
    const mmkd_transformer *t = &model->transformer;
    int64_t samples = model->samples, channels = model->channels, row = whole_vecs(samples);
    int64_t width = t->width, wide = whole_vecs(width), time_tokens = t->tokens - MMKD_EXTRA_TOKENS;
    for (int64_t c = 0; c < channels; c++) look_at_channel(model, s, b, c);
    float *products = b->statistics + t->statistics - channels * channels;
    for (int64_t c = 0; c < channels; c++)
        for (int64_t d = 0; d <= c; d++)
            products[c * channels + d] = products[d * channels + c] =
                dot(b->local + c * row, b->local + d * row, row) / (float)samples;
    measure_bands(t, s, b, channels, row);
    int64_t pad = t->stage[0].stride * t->views;
    memset(b->views, 0, (size_t)pad * sizeof(float));
    memset(b->views + pad + samples * t->views, 0, (size_t)pad * sizeof(float));
    convolve_stem(t, s, b);
    memcpy(b->tokens, b->stage_out, (size_t)(time_tokens * wide) * sizeof(float));
    apply(s, &t->spectrum, b->log_bands, 0, b->tokens + time_tokens * wide, wide, 1);
    apply(s, &t->summary, b->statistics, 0, b->tokens + (time_tokens + 1) * wide, wide, 1);
    for (int64_t i = 0; i < t->tokens; i++)
        for (int64_t d = 0; d < width; d++) b->tokens[i * wide + d] += t->position[i * width + d];
    mask_tokens(model, s, b);
    for (int64_t depth = 0; depth < t->depth; depth++) {
        const mmkd_block *block = &t->block[depth];
        normalise_tokens(b, block->norm, width, t->tokens);
        apply(s, &block->project, b->normed, wide, b->project, whole_vecs(3 * width), t->tokens);
        attend(t, b);
        finish_block(s, b, block, width, t->tokens);
    }
    pool_tokens(t, s, b, embedding);
}

#endif
