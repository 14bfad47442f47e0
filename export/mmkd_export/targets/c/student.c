#include "student.h"

#include <math.h>
#include <stdint.h>

#include "engine/src/model.h"

extern const uint32_t student_tensors[];
const char *const student_labels[STUDENT_OUTPUTS] = {$labels};
const char *const student_channels[STUDENT_CHANNELS] = {$names};

const float student_scores[] = {$score_values};

static mmkd_model model;
static float scratch[$scratch] __attribute__((aligned(64)));
static float values[STUDENT_SAMPLES * STUDENT_CHANNELS], present[STUDENT_SAMPLES * STUDENT_CHANNELS];
static float last_novelty;

static int open_student(void)
{
    static int is_open;
    is_open = is_open || !mmkd_model_place(student_tensors, $bytes, MMKD_ISA_BASE, &model, 0, 0);
    return is_open;
}

int student_predict(const float *window, float *answers, float *novelty)
{
    float logits[STUDENT_OUTPUTS];
    int best = 0, any = 0;
    if (!open_student()) return -1;
    for (int i = 0; i < STUDENT_SAMPLES * STUDENT_CHANNELS; i++) {
        int there = isfinite(window[i]) && window[i] >= ${low}f && window[i] <= ${high}f;
        present[i] = there ? 1.0f : 0.0f;
        values[i] = there ? window[i] : 0.0f;
        any |= there;
    }
    mmkd_run(&model, scratch, values, present, logits, answers, &last_novelty);
    if (model.task == MMKD_NORMAL) last_novelty = answers[0];
    if (novelty) *novelty = last_novelty;
    for (int k = 1; k < STUDENT_OUTPUTS; k++)
        if (answers[k] > answers[best]) best = k;
    return any ? best : -1;
}

int student_is_unknown(double level)
{
    static const float usual[STUDENT_CHANNELS] = {$usual}; /* root mean squares */
    float total = 0;
    int channels = 0, larger = 0;
    for (int c = 0; c < STUDENT_CHANNELS; c++) {
        float sum = 0, count = 0;
        for (int i = c; i < STUDENT_SAMPLES * STUDENT_CHANNELS; i += STUDENT_CHANNELS) {
            sum += values[i] * values[i];
            count += present[i];
        }
        if (count < 1) continue;
        total += sum / count / (usual[c] * usual[c]);
        channels++;
    }
    float size = channels ? sqrtf(total / channels) : NAN;
    while (larger < STUDENT_SCORES && student_scores[STUDENT_SCORES - 1 - larger] >= last_novelty) larger++;
    return size < ${lowest}f || size > ${highest}f || (1.0 + larger) / (1.0 + STUDENT_SCORES) <= level;
}
$recorded_c