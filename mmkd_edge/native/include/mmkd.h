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

#define MMKD_ABI 5

typedef struct mmkd_model mmkd_model;

enum mmkd_status {
    MMKD_OK = 0,
    MMKD_DAMAGED = 1,     /* the tensors are not those of a model */
    MMKD_NO_MEMORY = 2,
    MMKD_UNKNOWN_ISA = 3, /* this build or this processor lacks the instructions */
    MMKD_NO_FILE = 4,     /* the file cannot be read */
    MMKD_MISUSE = 5,      /* an argument does not fit */
    MMKD_UNTRUSTED = 6,   /* no given key has signed the bundle */
    MMKD_DIFFERS = 7      /* golden windows get other answers than at export */
};

/* Instruction sets that a model can run on; MMKD_ISA_BEST is the fastest that this processor has. */
enum mmkd_isa {
    MMKD_ISA_BEST = 0,
    MMKD_ISA_BASE = 1, /* SSE2, NEON, or what the compiler makes of 128-bit vectors */
    MMKD_ISA_AVX2 = 2,
    MMKD_ISA_AVX512 = 3
};

/* What a student answers: one of its labels, each label on or off, a number, or the score of normal data. */
enum mmkd_task { MMKD_CLASSIFICATION = 0, MMKD_MULTI_LABEL = 1, MMKD_REGRESSION = 2, MMKD_NORMAL = 3 };

/* Sizes of a model's input and outputs. */
typedef struct mmkd_facts {
    int32_t samples;      /* T of the window (T, C) */
    int32_t channels;     /* C */
    int32_t outputs;      /* K */
    int32_t has_novelty;
    int32_t task;         /* enum mmkd_task */
    int32_t isa;          /* enum mmkd_isa in use */
    int32_t step;         /* samples of a step of a causal student, else 0 */
    int32_t states;       /* number of its states, else 0 */
    int32_t recorded_samples, recorded_channels; /* of the window that mmkd_derive takes, else 0 */
    size_t scratch_bytes; /* what one scratch takes */
} mmkd_facts;

/* MMKD_ABI of the library; if it is not this header's, compile the program again. */
MMKD_API int mmkd_abi_version(void);

/* ---- Bundles: what most programs need. `error` takes one line of text; it may be NULL. */

typedef struct mmkd_bundle mmkd_bundle;       /* an opened .edge file; immutable, shared by threads */
typedef struct mmkd_predictor mmkd_predictor; /* one student and one stream; for one thread at a time */

/* What a prediction is worth; the numbers grow with the fault. */
enum mmkd_condition {
    MMKD_FINE = 0,
    MMKD_DEGRADED = 1,   /* values are missing, or samples come at a wrong rate */
    MMKD_UNKNOWN = 2,    /* the window is unlike everything in training */
    MMKD_STALE = 3,      /* the samples are old, or from the future */
    MMKD_WARMING_UP = 4, /* a stream has no full window yet: no answer */
    MMKD_INVALID = 5     /* nothing supports an answer */
};

typedef struct mmkd_student {
    const char *modality;  /* the texts live as long as the bundle */
    const char *unit;
    int32_t samples;       /* T of a window (T, C) */
    int32_t channels;      /* C */
    double rate_hz;
    int32_t labels;        /* K */
    int32_t task;          /* enum mmkd_task */
    int32_t step;          /* samples of a step of a causal student, else 0 */
    int32_t has_native;    /* whether it can be opened here */
    const char *recorded;  /* the sensor that a derived one is computed from, "acc" of "acc@25Hz"; else "", and 0 below */
    int32_t recorded_samples, recorded_channels; /* its newest samples count */
    double recorded_rate_hz;
} mmkd_student;

/* Zero stands for the default. */
typedef struct mmkd_options {
    int32_t student;         /* number in the bundle, from 0: the best first */
    double unknown_level;    /* fraction of usual windows that may be reported as unknown; 0 reports none */
    double error_level;      /* label sets miss the true label at most this often; 0 makes none */
    double stale_s;          /* largest age of a window; 0 is no limit */
    int32_t hop;             /* streams: samples between two predictions; 0 takes a window's */
    double gap_s;            /* streams: a longer time between samples is a gap; at most 64 windows; 0: 2.5 periods */
    const double *reference_mean, *reference_std; /* (C,): of the machine, for a modality normalised per group */
    int32_t flat;            /* 1: look for channels with one value */
    double stuck_s;          /* look for channels that repeat one value for so long */
    int32_t recorded;        /* 1: windows and samples are the recorded sensor's, from which each window is derived */
    int32_t single_answers;  /* streams, 1: labels are each window's own, not filtered over successive answers */
} mmkd_options;

typedef struct mmkd_prediction {
    int32_t condition;          /* enum mmkd_condition */
    int32_t index;              /* of the label; -1 without an answer, and of windows unlike normal data */
    const char *label;          /* "" without an answer */
    double probability;         /* of the label; a stream may filter both over successive answers */
    const float *probabilities; /* (K,); NULL without an answer, and of a number */
    double value;               /* of a number, in its unit; the score of normal data; else NaN */
    double novelty;             /* p-value among validation windows, or among normal ones; NaN without */
    double missing_fraction;
    double input_age_s;         /* NaN if unknown */
    const int32_t *set;         /* labels of the label set, the most probable first; labels that are on */
    int32_t set_size;
    const char *reason;         /* why the condition is not MMKD_FINE */
    const char *modality;       /* which student answered */
} mmkd_prediction;            /* its pointers hold until the predictor's next call */

typedef struct mmkd_window {
    const float *values; /* (samples, channels) of raw values, NaN where missing; NULL if the sensor is absent */
    int32_t samples, channels;
    double age_s;        /* of its newest sample, or NaN */
} mmkd_window;

typedef struct mmkd_key {
    unsigned char ed25519[32]; /* the public key of a .pub file */
} mmkd_key;

typedef void (*mmkd_receiver)(const mmkd_prediction *prediction, void *user);

/* Verify an archive's digest and read it; `data` is copied. mmkd_open_file reads the file first. */
MMKD_API int mmkd_open(const void *data, size_t size, mmkd_bundle **bundle, char *error, size_t error_size);
MMKD_API int mmkd_open_file(const char *path, mmkd_bundle **bundle, char *error, size_t error_size);
/* The same, refused unless one of `count` keys has signed the bundle; no keys are refused too. */
MMKD_API int mmkd_open_signed(const void *data, size_t size, const mmkd_key *keys, int32_t count, mmkd_bundle **bundle,
                              char *error, size_t error_size);
MMKD_API int mmkd_open_file_signed(const char *path, const mmkd_key *keys, int32_t count, mmkd_bundle **bundle,
                                   char *error, size_t error_size);
/* Answer the golden windows of every student, as many as take a minute of processor time, and compare with the answers
 * at export: MMKD_OK within their tolerance.
 * largest: takes the largest difference of a logit or probability; may be NULL. */
MMKD_API int mmkd_selftest_file(const char *path, double *largest, char *error, size_t error_size);
/* After the last of its predictors. */
MMKD_API void mmkd_close(mmkd_bundle *bundle);
MMKD_API int32_t mmkd_students(const mmkd_bundle *bundle);
MMKD_API mmkd_student mmkd_describe(const mmkd_bundle *bundle, int32_t student);
MMKD_API const char *mmkd_label(const mmkd_bundle *bundle, int32_t student, int32_t index);
MMKD_API const char *mmkd_channel(const mmkd_bundle *bundle, int32_t student, int32_t index);

/* Let the scores of a file of `mmkd-edge commission`, of one machine's normal running, take the place of the student's.
 * Before its first predictor; opening the bundle again undoes it. */
MMKD_API int mmkd_commission_file(mmkd_bundle *bundle, int32_t student, const char *path, char *error, size_t error_size);
/* options: NULL for the defaults. */
MMKD_API int mmkd_predictor_open(const mmkd_bundle *bundle, const mmkd_options *options, mmkd_predictor **predictor,
                                 char *error, size_t error_size);
MMKD_API void mmkd_predictor_close(mmkd_predictor *predictor);
/* Answer for one window (samples, channels) of raw values, NaN where missing. age_s: of its newest sample, or NaN.
 * Returns MMKD_MISUSE, and the reason in the prediction, for NULL or other sizes than the student's. Does not allocate. */
MMKD_API int mmkd_predict(mmkd_predictor *predictor, const float *window, int32_t samples, int32_t channels,
                          double age_s, mmkd_prediction *prediction);
/* Answer with the first predictor whose sensor works, for windows of one moment; a later one's answer is degraded, and
 * its reason has why. The prediction is the predictor's that answered, or of the first if no sensor works. */
MMKD_API int mmkd_predict_first(mmkd_predictor *const *predictors, const mmkd_window *windows, int32_t count,
                                mmkd_prediction *prediction);
/* Take the next samples of a stream, (count, channels); `receive` gets every prediction that becomes due.
 * times_s: one for each sample on a clock of your choice, or NULL if they come at exactly the student's rate.
 * now_s: this moment on the same clock, or NaN. Returns MMKD_MISUSE for NULL samples, and for samples with times
 * after others without, or the reverse, since the last mmkd_reset. Does not allocate. */
MMKD_API int mmkd_push(mmkd_predictor *predictor, const float *samples, int32_t count, const double *times_s,
                       double now_s, mmkd_receiver receive, void *user);
/* Forget all samples. */
MMKD_API void mmkd_reset(mmkd_predictor *predictor);
/* "ok", "degraded", "unknown", "stale", "warming_up" or "invalid". */
MMKD_API const char *mmkd_condition_name(int32_t condition);

/* ---- One model: what the functions above, and mmkd-edge in Python, are made of. */

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

/* Compute a derived sensor's window (T, C) from the newest recorded samples (recorded_samples, recorded_channels), to the
 * bit as mmkd-edge does. NaN, infinite values and those outside the recorded sensor's range are missing: NaN. */
MMKD_API void mmkd_derive(const mmkd_model *model, const float *recorded, float *window);

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
