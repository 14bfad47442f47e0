/* The steps of a causal transformer: the same as networks/step.py. */
#ifndef MMKD_STEPS_H
#define MMKD_STEPS_H

#include "transformer.h"

/* Scratch of a causal encoder, and the states of a window that is computed step by step. */
static void place_steps(const mmkd_model *model, arena *from, encoder *b)
{
    const mmkd_transformer *t = &model->transformer;
    int64_t channels = model->channels;
    b->views = take(from, (t->reach + t->step) * t->views);
    b->log_bands = take(from, channels * t->bands);
    b->statistics = take(from, t->statistics);
    place_stages(t, from, b, 3);
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

/* Spectrum (b->log_bands) and statistics (b->statistics) of the window that ends with the new block. */
static void summarise(const mmkd_transformer *t, int64_t channels, int64_t slot, const float *const *state,
                      float *const *news, encoder *b)
{
    const float *running = b->running;
    float *sums = b->total, *peaks = b->total + t->sums;
    memcpy(sums, news[MMKD_SUMS], (size_t)t->sums * sizeof(float));
    memcpy(peaks, news[MMKD_PEAKS], (size_t)(2 * channels) * sizeof(float));
    for (int64_t j = 0; j < t->slots; j++) {
        if (j == slot) continue;
        for (int64_t i = 0; i < t->sums; i++) sums[i] += state[MMKD_SUMS][j * t->sums + i];
        for (int64_t i = 0; i < 2 * channels; i++) {
            float peak = state[MMKD_PEAKS][j * 2 * channels + i];
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
            const float *m = j < t->slots ? state[MMKD_MOMENTS] + j * 3 * channels : news[MMKD_MOMENTS];
            heard += m[c] < 1 ? m[c] : 1;
            for (int64_t d = 0; d < channels; d++)
                whole[c * channels + d] += sqrtf(m[c] * m[d]) * (m[channels + c] - running[channels + c]) *
                                           (m[channels + d] - running[channels + d]);
        }
        heard = heard < 1 ? 1 : heard;
        for (int64_t f = 0; f < t->bands; f++)
            b->log_bands[c * t->bands + f] = logf(power[c * t->bands + f] / (heard * spread * spread) + 1e-3f);
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
static void attend_slots(const mmkd_transformer *t, int64_t depth, int64_t slot, int64_t filled, const float *there,
                   const float *keys, const float *values, float *new_keys, float *new_values, encoder *b)
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

/* The new block behind the samples before it in b->both, and its count, mean and squared distance of each channel. */
static const float *take_block(const mmkd_model *model, encoder *b, const float *values, const float *present,
                               const float *history, float *now)
{
    const mmkd_transformer *t = &model->transformer;
    int64_t channels = model->channels, row = 2 * channels;
    memcpy(b->both, history, (size_t)(t->history * row) * sizeof(float));
    float *block = b->both + t->history * row;
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
    return block;
}

/* Cosines and sines of the newest samples, and of their presence. */
static void filter_tones(const mmkd_transformer *t, int64_t channels, encoder *b)
{
    int64_t row = 2 * channels, taps_row = mmkd_padded(t->taps), tone_row = mmkd_padded(2 * t->bands);
    const float *last = b->both + (t->history + t->step - t->taps) * row;
    for (int64_t c = 0; c < row; c++)
        for (int64_t i = 0; i < t->taps; i++) b->rows[c * taps_row + i] = last[i * row + c];
    product(b->rows, taps_row, t->filters, tone_row, 0, b->tones, tone_row, row, t->taps, whole_vecs(2 * t->bands));
}

/* Views of the new block behind those that the stem still needs; `series` takes what the next step needs. */
static void view_block(const mmkd_transformer *t, int64_t channels, const float *block, const float *before, float *series,
                       encoder *b)
{
    int64_t row = 2 * channels;
    memcpy(b->views, before, (size_t)(t->reach * t->views) * sizeof(float));
    for (int64_t i = 0; i < t->step; i++)
        for (int64_t c = 0; c < channels; c++) {
            float x = block[i * row + c], there = block[i * row + channels + c], *to = b->views + (t->reach + i) * t->views;
            to[c] = x;
            to[channels + c] = (x - b->running[channels + c]) * there / b->running[2 * channels + c];
            to[2 * channels + c] = there;
        }
    memcpy(series, b->views + t->step * t->views, (size_t)(t->reach * t->views) * sizeof(float));
}

/* The time tokens of the window, weighed by the samples in their slots, and the other two become the embedding. */
static void pool_slots(const mmkd_transformer *t, const shared *s, int64_t slot, const float *there, const float *before,
                       float *token, encoder *b, float *embedding)
{
    int64_t width = t->width, wide = whole_vecs(width);
    float seen = there[t->slots];
    normalise(b->tokens, t->norm_weight, t->norm_bias, width, token);
    for (int64_t d = 0; d < width; d++) b->pooled[d] = there[t->slots] * token[d];
    for (int64_t j = 0; j < t->slots; j++) {
        if (j == slot) continue;
        seen += there[j];
        for (int64_t d = 0; d < width; d++) b->pooled[d] += there[j] * before[j * width + d];
    }
    for (int64_t d = 0; d < width; d++) b->pooled[d] /= seen < 1 ? 1 : seen;
    for (int64_t i = 1; i < 3; i++)
        normalise(b->tokens + i * wide, t->norm_weight, t->norm_bias, width, b->pooled + i * width);
    mix(t, s, b, embedding);
}

static void encode_step(const mmkd_model *model, const shared *s, encoder *b, const float *values, const float *present,
                        int64_t slot, int64_t filled, const float *const *state, float *const *news, float *embedding)
{
    const mmkd_transformer *t = &model->transformer;
    int64_t channels = model->channels, width = t->width, wide = whole_vecs(width), pool = MMKD_FRONT_STATES + 2 * t->depth;
    float *now = news[MMKD_MOMENTS];
    const float *block = take_block(model, b, values, present, state[MMKD_HISTORY], now);
    memcpy(news[MMKD_HISTORY], b->both + t->step * 2 * channels, (size_t)(t->history * 2 * channels) * sizeof(float));
    running_statistics(t, channels, slot, state[MMKD_MOMENTS], now, b->running);
    filter_tones(t, channels, b);
    leave_behind(t, channels, b->both, now, b->tones, b->running, news[MMKD_SUMS], news[MMKD_PEAKS]);
    summarise(t, channels, slot, state, news, b);
    view_block(t, channels, block, state[MMKD_SERIES], news[MMKD_SERIES], b);
    convolve_stem(t, s, b);
    memcpy(b->tokens, b->stage_out, (size_t)wide * sizeof(float));
    apply(s, &t->spectrum, b->log_bands, 0, b->tokens + wide, wide, 1);
    apply(s, &t->summary, b->statistics, 0, b->tokens + 2 * wide, wide, 1);
    float there[MMKD_MAX_SLOTS + 1] = {0};
    for (int64_t j = 0; j <= t->slots; j++) {
        const float *m = j < t->slots ? state[MMKD_MOMENTS] + j * 3 * channels : now;
        float count = 0;
        for (int64_t c = 0; c < channels; c++) count += m[c];
        there[j] = count < 1 ? count : 1;
    }
    for (int64_t depth = 0; depth < t->depth; depth++) {
        const mmkd_block *layer = &t->block[depth];
        int64_t pair = MMKD_FRONT_STATES + 2 * depth;
        normalise_tokens(b, layer->norm, width, 3);
        apply(s, &layer->project, b->normed, wide, b->project, whole_vecs(3 * width), 3);
        attend_slots(t, depth, slot, filled, there, state[pair], state[pair + 1], news[pair], news[pair + 1], b);
        finish_block(s, b, layer, width, 3);
    }
    pool_slots(t, s, slot, there, state[pool], news[pool], b, embedding);
}

/* A whole window of a causal student: its blocks, one step after the other. */
static void encode_steps(const mmkd_model *model, const shared *s, encoder *b, const float *values, const float *present,
                         float *embedding)
{
    const mmkd_transformer *t = &model->transformer;
    int64_t channels = model->channels, lead = t->slots * t->step - model->samples, states = mmkd_states(model);
    for (int64_t n = 0; n < states; n++) memset(b->state[n], 0, (size_t)mmkd_state_floats(model, n) * sizeof(float));
    for (int64_t number = 0; number < t->slots; number++) {
        int64_t at = number * t->step - lead, missing = at < 0 ? -at : 0, size = (t->step - missing) * channels;
        const float *const from[] = {values, present};
        float *const to[] = {s->values, s->present}; /* not used otherwise; the first block begins with missing samples */
        for (int part = 0; part < 2; part++) {
            memset(to[part], 0, (size_t)(missing * channels) * sizeof(float));
            memcpy(to[part] + missing * channels, from[part] + (at + missing) * channels, (size_t)size * sizeof(float));
        }
        encode_step(model, s, b, s->values, s->present, number, number, (const float *const *)b->state, b->news, embedding);
        mmkd_keep(model, b->state, b->news, number);
    }
}

#endif
