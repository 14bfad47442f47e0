/* Gives bytes to the parsers of the native engine, and runs what they accept: .native files, and bundles, whose digest
 * is mended first. With libFuzzer, or with -DMMKD_FILES for the files that the arguments name. */
#define _POSIX_C_SOURCE 200112L
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../mmkd_edge/native/src/bundle.h"

enum { END_RECORD = 22, COMMENT = 81, MAX_SAMPLES = 4096 };

static void run_model(const uint8_t *data, size_t size)
{
    char error[100];
    mmkd_model *model;
    if (mmkd_model_open(data, size, MMKD_ISA_BEST, &model, error, sizeof error)) return;
    mmkd_facts facts = mmkd_model_facts(model);
    size_t cells = (size_t)facts.samples * (size_t)facts.channels;
    if (facts.samples <= MAX_SAMPLES && facts.scratch_bytes < 1 << 28) {
        float *values = calloc(2 * cells + 2 * (size_t)facts.outputs + 1, sizeof *values);
        void *scratch = NULL;
        if (values && !posix_memalign(&scratch, 64, facts.scratch_bytes)) { /* not a byte more: the sanitizer looks */
            float *outputs = values + 2 * cells;
            mmkd_run(model, scratch, values, values + cells, outputs, outputs + facts.outputs, outputs + 2 * facts.outputs);
        }
        free(scratch);
        free(values);
    }
    size_t recorded = (size_t)facts.recorded_samples * (size_t)facts.recorded_channels;
    if (recorded && facts.samples <= MAX_SAMPLES && recorded <= MAX_SAMPLES) {
        float *samples = calloc(recorded, sizeof *samples), *window = calloc(cells, sizeof *window);
        if (samples && window) mmkd_derive(model, samples, window);
        free(samples);
        free(window);
    }
    mmkd_model_close(model);
}

static void receive(const mmkd_prediction *prediction, void *user) { *(double *)user += prediction->probability; }

static void run_bundle(const uint8_t *data, size_t size)
{
    char error[100];
    uint8_t digest[32], *copy = malloc(size + 1);
    mmkd_bundle *bundle;
    mmkd_predictor *predictor;
    if (!copy) return;
    memcpy(copy, data, size);
    if (size >= END_RECORD + COMMENT) {
        mmkd_sha256(copy, size - END_RECORD - COMMENT, digest);
        for (int i = 0; i < 64; i++) copy[size - 64 + (size_t)i] = (uint8_t)"0123456789abcdef"[digest[i / 2] >> (i % 2 ? 0 : 4) & 15];
    }
    if (!mmkd_open(copy, size, &bundle, error, sizeof error)) {
        mmkd_student facts = mmkd_describe(bundle, 0);
        double total = 0;
        if (facts.samples <= MAX_SAMPLES && !mmkd_predictor_open(bundle, NULL, &predictor, error, sizeof error)) {
            float *rows = calloc((size_t)facts.samples * (size_t)facts.channels, sizeof *rows);
            if (rows) mmkd_push(predictor, rows, facts.samples, NULL, NAN, receive, &total);
            free(rows);
            mmkd_predictor_close(predictor);
        }
        mmkd_close(bundle);
    }
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 1 && data[0] == 'P') run_bundle(data, size);
    else run_model(data, size);
    return 0;
}

#ifdef MMKD_FILES
int main(int count, char **arguments)
{
    for (int i = 1; i < count; i++) {
        FILE *file = fopen(arguments[i], "rb");
        if (!file) return 1;
        fseek(file, 0, SEEK_END);
        size_t size = (size_t)ftell(file);
        uint8_t *data = malloc(size + 1);
        rewind(file);
        if (!data || fread(data, 1, size, file) != size) return 1;
        fclose(file);
        LLVMFuzzerTestOneInput(data, size);
        free(data);
    }
    return 0;
}
#endif
