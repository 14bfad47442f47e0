#include "student.h"

#include <math.h>
#include <stdint.h>

#include "engine/src/model.h"

extern const uint32_t student_tensors[];
const char *const student_labels[STUDENT_OUTPUTS] = {$labels};
const char *const student_channels[STUDENT_CHANNELS] = {$names};

static mmkd_model model;
static float scratch[$scratch] __attribute__((aligned(64)));
static float values[STUDENT_SAMPLES * STUDENT_CHANNELS], present[STUDENT_SAMPLES * STUDENT_CHANNELS];

static int open_student(void)
{
    static int is_open;
    is_open = is_open || !mmkd_model_place(student_tensors, $bytes, MMKD_ISA_BASE, &model, 0, 0);
    return is_open;
}

int student_predict(const float *window, float *answers, float *novelty)
{
    float logits[STUDENT_OUTPUTS], none = 0;
    int best = 0, any = 0;
    if (!open_student()) return -1;
    for (int i = 0; i < STUDENT_SAMPLES * STUDENT_CHANNELS; i++) {
        int there = isfinite(window[i]) && window[i] >= ${low}f && window[i] <= ${high}f;
        present[i] = there ? 1.0f : 0.0f;
        values[i] = there ? window[i] : 0.0f;
        any |= there;
    }
    mmkd_run(&model, scratch, values, present, logits, answers, novelty ? novelty : &none);
    for (int k = 1; k < STUDENT_OUTPUTS; k++)
        if (answers[k] > answers[best]) best = k;
    return any ? best : -1;
}
$recorded_c