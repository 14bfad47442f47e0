/* mmkd: runs the students of an mmkd-edge bundle. C99, no dependencies, no global state.
 *
 * A model is immutable and may be shared by threads; each thread has a scratch of its own. `mmkd_run` does not
 * allocate, print or touch files. Numbers are float32 unless said otherwise.
 */
#ifndef MMKD_H
#define MMKD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define MMKD_API __declspec(dllexport)
#else
#define MMKD_API __attribute__((visibility("default")))
#endif

#define MMKD_ABI 1

typedef struct mmkd_model mmkd_model;

enum mmkd_status {
    MMKD_OK = 0,
    MMKD_DAMAGED = 1,     /* the tensors are not those of a model */
    MMKD_NO_MEMORY = 2,
    MMKD_UNKNOWN_ISA = 3  /* this build or this processor lacks the instructions */
};

/* Instruction sets that a model can run on; MMKD_ISA_BEST is the fastest that this processor has. */
enum mmkd_isa {
    MMKD_ISA_BEST = 0,
    MMKD_ISA_BASE = 1, /* SSE2, NEON, or what the compiler makes of 128-bit vectors */
    MMKD_ISA_AVX2 = 2,
    MMKD_ISA_AVX512 = 3
};

/* Sizes of a model's input and outputs. */
typedef struct mmkd_facts {
    int32_t samples;      /* T of the window (T, C) */
    int32_t channels;     /* C */
    int32_t outputs;      /* K */
    int32_t has_novelty;
    int32_t task;         /* 0 classification, 1 several labels, 2 a number */
    int32_t isa;          /* enum mmkd_isa in use */
    int32_t step;         /* samples of a step of a causal student, else 0 */
    int32_t states;       /* number of its states, else 0 */
    size_t scratch_bytes; /* what one scratch takes */
} mmkd_facts;

MMKD_API int mmkd_abi_version(void);
/* Hash of the sources that this library was built from. */
MMKD_API const char *mmkd_sources(void);

/* Copy the tensors of a .native file into a new model. `error`, of `error_size` bytes, takes one line of text.
 * Returns an enum mmkd_status; *model is NULL unless it is MMKD_OK. */
MMKD_API int mmkd_model_open(const void *data, size_t size, int isa, mmkd_model **model, char *error,
                             size_t error_size);
MMKD_API void mmkd_model_close(mmkd_model *model);
MMKD_API mmkd_facts mmkd_model_facts(const mmkd_model *model);
/* Name of the sensor whose windows the model takes, UTF-8; valid until the model is closed. */
MMKD_API const char *mmkd_model_modality(const mmkd_model *model);

/* Name (at most 15 characters) and sizes of a state of a causal student, and along which of its 4 axes the slots lie:
 * -1 for none. Returns its dimensions, or 0 if there is no such state. */
MMKD_API int mmkd_state(const mmkd_model *model, int32_t number, char name[16], int32_t shape[4], int32_t *axis);

/* Compute one window.
 * values, present: (T, C), rows of channels; values are finite and 0 where present is 0, present is 0 or 1.
 * scratch: scratch_bytes, aligned to 64.
 * logits, probabilities: (K,). novelty: one number, or NULL. */
MMKD_API void mmkd_run(const mmkd_model *model, void *scratch, const float *values, const float *present,
                       float *logits, float *probabilities, float *novelty);

/* Compute one step of a causal student: `step` samples (S, C), with the states in the order of the bundle's manifest.
 * slot: number of the step from 0, modulo the slots. news: takes what is new of each state: one slot, or all of it. */
MMKD_API void mmkd_step(const mmkd_model *model, void *scratch, const float *values, const float *present,
                        int32_t slot, const float *const *states, float *const *news, float *logits,
                        float *probabilities, float *novelty);

#ifdef __cplusplus
}
#endif
#endif
