/* Computes one window, or one step. Compiled once for each instruction set: MMKD_NAME is the table of its functions, MMKD_W
 * the floats of a vector. The members are headers, so that all of it is one unit for the compiler. */
#define MMKD_IS_COMPUTE
#include "convolutions.h"
#include "intervals.h"
#include "steps.h"
#include "transformer.h"
#include "trees.h"

#ifndef MMKD_NAME
#define MMKD_NAME mmkd_compute_base
#endif

typedef struct {
    shared all;
    encoder transformer;
    convolver convolutions;
    surveyor intervals;
    float *votes, *embedding, *apart, *head, *distance;
} scratch;

static size_t place(const mmkd_model *model, float *base, scratch *b)
{
    arena from = {base, 0};
    b->all.reach = model->has_convolutions ? mmkd_padded(model->convolutions.reach) : 0;
    b->all.span = mmkd_padded(model->samples + 2 * b->all.reach + 3 * MMKD_LANES);
    b->all.values = take(&from, model->channels * b->all.span);
    b->all.present = take(&from, model->channels * b->all.span);
    if (model->transformer.is_causal) place_steps(model, &from, &b->transformer);
    else if (model->has_transformer) place_transformer(model, &from, &b->transformer);
    if (model->has_convolutions) place_convolutions(model, &from, &b->all, &b->convolutions);
    if (model->has_intervals) place_intervals(model, &from, &b->intervals);
    if (model->has_trees) b->votes = take(&from, model->outputs);
    b->embedding = take(&from, model->embedding);
    b->apart = take(&from, model->embedding);
    b->head = take(&from, model->outputs);
    b->distance = take(&from, model->has_novelty ? model->novelty.out : 1);
    b->all.panel = take(&from, model->panel * 3 * PANEL_LANES);
    return from.used;
}

static size_t count_floats(const mmkd_model *model)
{
    scratch b = {0};
    return place(model, 0, &b);
}

/* From the embedding to the answers. */
static void answer(const mmkd_model *model, scratch *b, float *logits, float *probabilities, float *novelty)
{
    apply(&b->all, &model->head, b->embedding, 0, b->head, 0, 1);
    if (model->has_trees) add_votes(model, b->intervals.features, b->votes, b->head);
    float *apart = b->apart, far = 0, inside = 0, nearest = FLT_MAX;
    if (model->has_novelty) {
        for (int64_t i = 0; i < model->embedding; i++) apart[i] = b->embedding[i] - model->novelty_middle[i];
        apply(&b->all, &model->novelty, apart, 0, b->distance, 0, 1);
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

static void run(const mmkd_model *model, float *memory, const float *values, const float *present, float *logits,
                float *probabilities, float *novelty)
{
    scratch b = {0};
    place(model, memory, &b);
    shared *all = &b.all;
    if (model->transformer.is_causal) {
        encode_steps(model, all, &b.transformer, values, present, b.embedding);
    } else {
        memset(all->values, 0, (size_t)(model->channels * all->span) * sizeof(float));
        memset(all->present, 0, (size_t)(model->channels * all->span) * sizeof(float));
        for (int64_t i = 0; i < model->samples; i++)
            for (int64_t c = 0; c < model->channels; c++) {
                all->values[c * all->span + all->reach + i] = values[i * model->channels + c];
                all->present[c * all->span + all->reach + i] = present[i * model->channels + c];
            }
        float *next = b.embedding + model->transformer.width;
        if (model->has_transformer) encode(model, all, &b.transformer, b.embedding);
        if (model->has_convolutions) convolve(model, all, &b.convolutions, next);
        if (model->has_intervals) measure(model, all, &b.intervals, next + model->convolutions.features);
    }
    answer(model, &b, logits, probabilities, novelty);
}

static void step(const mmkd_model *model, float *memory, const float *values, const float *present, int64_t slot,
                 const float *const *states, float *const *news, float *logits, float *probabilities, float *novelty)
{
    scratch b = {0};
    place(model, memory, &b);
    encode_step(model, &b.all, &b.transformer, values, present, slot, model->transformer.slots, states, news, b.embedding);
    answer(model, &b, logits, probabilities, novelty);
}

const mmkd_computing MMKD_NAME = {run, step, count_floats};
