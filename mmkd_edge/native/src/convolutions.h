/* Convolutions: the features of networks/convolutions.py; a kernel's answer is computed once for all its features. */
#ifndef MMKD_CONVOLUTIONS_H
#define MMKD_CONVOLUTIONS_H

#include "layers.h"

typedef struct {
    float *phase, *nine, *answer, *mass; /* (C, stride, phase_row), (C, row), (row,), (2, row) */
    int64_t row, phase_row;
} convolver;

/* Which positions count in one half of `mass`, and their sum. */
typedef struct {
    int64_t first, last;
    float total;
} counted;

static void place_convolutions(const mmkd_model *model, arena *from, const shared *s, convolver *b)
{
    const mmkd_convolutions *c = &model->convolutions;
    b->row = mmkd_padded(c->positions);
    b->phase_row = mmkd_padded(s->span / c->stride + 1) + 2 * MMKD_LANES;
    b->phase = take(from, model->channels * c->stride * b->phase_row);
    b->nine = take(from, model->channels * b->row);
    b->answer = take(from, b->row);
    b->mass = take(from, 2 * b->row);
}

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

/* Of every stride-th sample from each phase on, so that a position is the next number. */
static void take_phases(const mmkd_model *model, const shared *s, convolver *b)
{
    const mmkd_convolutions *c = &model->convolutions;
    int64_t stride = c->stride, row = b->phase_row;
    for (int64_t ch = 0; ch < model->channels; ch++)
        for (int64_t phase = 0; phase < stride; phase++) {
            float *to = b->phase + (ch * stride + phase) * row;
            const float *x = s->values + ch * s->span, *there = s->present + ch * s->span;
            for (int64_t i = 0; i < row; i++) {
                int64_t at = i * stride + phase, inside = at >= s->reach && at < s->reach + model->samples;
                to[i] = inside ? clampf((x[at] - c->mean[ch]) * c->scale[ch], -most, most) * there[at] : 0.0f;
            }
        }
}

static int has_all_samples(const mmkd_model *model, const shared *s)
{
    float present = 0;
    for (int64_t ch = 0; ch < model->channels; ch++)
        for (int64_t i = 0; i < model->samples; i++) present += s->present[ch * s->span + s->reach + i];
    return present == (float)(model->samples * model->channels);
}

/* Sums of nine samples so far apart, around each position of every channel. */
static void sum_nine(const mmkd_model *model, const shared *s, convolver *b, int64_t dilation)
{
    const int64_t stride = model->convolutions.stride, row = b->row, phase_row = b->phase_row, reach = s->reach;
    const float *phase = b->phase;
    for (int64_t ch = 0; ch < model->channels; ch++)
        for (int64_t i = 0; i < row; i += W) {
            vec sum = splat(0);
            for (int64_t tap = 0; tap < 9; tap++) {
                int64_t at = reach + (tap - 4) * dilation;
                sum += load(phase + (ch * stride + at % stride) * phase_row + at / stride + i);
            }
            store(b->nine + ch * row + i, sum);
        }
}

/* A kernel's answer at each position: its weights are 2 at three places and -1 at the other six. */
INLINE void answer_kernel(const mmkd_kernel *kernel, const int32_t *reads, int64_t stride, const shared *s, convolver *b)
{
    const int64_t row = b->row, phase_row = b->phase_row;
    const float *from[3], *nine = b->nine;
    for (int place = 0; place < 3; place++) {
        int64_t at = s->reach + (kernel->places[place] - 4) * kernel->dilation;
        from[place] = b->phase + at % stride * phase_row + at / stride;
    }
    for (int64_t i = 0; i < row; i += W) {
        vec sum = splat(0);
        for (int32_t r = 0; r < kernel->channels; r++) {
            int64_t shift = reads[r] * stride * phase_row + i;
            sum += (load(from[0] + shift) + load(from[1] + shift) + load(from[2] + shift)) * 3.0f -
                   load(nine + reads[r] * row + i);
        }
        store(b->answer + i, sum);
    }
}

/* How much each position counts: without gaps all from the first to the last, for many kernels the same ones. */
INLINE void weigh_positions(const mmkd_kernel *kernel, const int32_t *reads, int64_t stride, const shared *s, int all_there,
                            int64_t row, float *mass, counted now, counted *known)
{
    if (all_there && now.first == known->first && now.last == known->last) return;
    for (int64_t i = 0; i < row; i++) {
        float there = i >= now.first && i < now.last;
        if (there && !all_there) {
            there = 0;
            for (int32_t r = 0; r < kernel->channels; r++) there += s->present[reads[r] * s->span + s->reach + i * stride];
            there /= (float)kernel->channels;
        }
        mass[i] = there;
        now.total += there;
    }
    *known = now;
}

static void convolve(const mmkd_model *model, const shared *s, convolver *b, float *embedding)
{
    const mmkd_convolutions *c = &model->convolutions;
    int64_t samples = model->samples, stride = c->stride, row = b->row, dilation = -1;
    counted known[2] = {{-1, -1, 0}, {-1, -1, 0}}; /* of kernels without and with padding */
    take_phases(model, s, b);
    int all_there = has_all_samples(model, s);
    for (int64_t number = 0; number < c->kernels; number++) {
        const mmkd_kernel *kernel = c->kernel + number;
        const int32_t *reads = c->channel + kernel->first_channel;
        if (kernel->dilation != dilation) sum_nine(model, s, b, dilation = kernel->dilation);
        answer_kernel(kernel, reads, stride, s, b);
        int64_t edge = kernel->padded ? 0 : 4 * dilation, first = (edge + stride - 1) / stride;
        int64_t last = samples - edge <= 0 ? 0 : (samples - edge - 1) / stride + 1; /* beyond the last position */
        int kind = kernel->padded != 0;
        float *mass = b->mass + kind * row;
        weigh_positions(kernel, reads, stride, s, all_there, row, mass, (counted){first, last, 0}, &known[kind]);
        float total = known[kind].total, per = 1 / (total < 1 ? 1 : total), seen = total < 1 ? total : 1;
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

#endif
