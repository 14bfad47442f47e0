/* The tensors of a model after they were checked: what compute.c and the members read. */
#ifndef MMKD_MODEL_H
#define MMKD_MODEL_H

#include "../include/mmkd.h"

#if defined(__FAST_MATH__) && !defined(MMKD_IS_COMPUTE)
#error "compile compute.c alone with -ffast-math: elsewhere NaN stands for a missing value"
#endif

enum { MMKD_MAX_STAGES = 16, MMKD_MAX_BLOCKS = 16, MMKD_LANES = 16, MMKD_EXTRA_TOKENS = 2 };
enum { MMKD_NAME_BYTES = 256, MMKD_MAX_SLOTS = 1024, MMKD_MAX_PANEL = 256, MMKD_STATISTICS = 8 };
/* States of a causal student; keys and values of each block follow, then tokens. */
enum { MMKD_HISTORY, MMKD_MOMENTS, MMKD_SUMS, MMKD_PEAKS, MMKD_SERIES, MMKD_FRONT_STATES };

static inline uint32_t mmkd_u16(const unsigned char *at) { return (uint32_t)at[0] | (uint32_t)at[1] << 8; }
static inline uint32_t mmkd_u32(const unsigned char *at) { return mmkd_u16(at) | mmkd_u16(at + 2) << 16; }

/* Columns of every weight are padded to whole vectors of the widest kind. */
static inline int64_t mmkd_padded(int64_t count) { return (count + MMKD_LANES - 1) / MMKD_LANES * MMKD_LANES; }

/* y = x W + b, W as (in, padded(out)), b as (padded(out),), or NULL. W is `weight`, or `small` times the column's `scale`. */
typedef struct {
    const float *weight, *bias;
    int64_t in, out;
    const int8_t *small;
    const float *scale;
} mmkd_linear;

typedef struct {
    mmkd_linear linear; /* in = kernel * channels */
    int64_t stride, length; /* positions of the output */
} mmkd_stage;

typedef struct {
    const float *norm[4]; /* weight and bias before attention, weight and bias before feed-forward */
    mmkd_linear project, out, up, down;
} mmkd_block;

typedef struct {
    int64_t width, heads, depth, tokens, stages, bands, statistics, views;
    int has_movement;
    const float *mean, *scale, *movement; /* (C,): scale is 1 / std, movement is std / movement */
    mmkd_linear basis, pooling;           /* (T, 2 F), (F, bands) */
    int64_t bins;
    mmkd_stage stage[MMKD_MAX_STAGES];
    mmkd_linear spectrum, summary;
    const float *position; /* (tokens, width) */
    mmkd_block block[MMKD_MAX_BLOCKS];
    const float *norm_weight, *norm_bias;
    mmkd_linear mix;
    /* of a causal student alone */
    int is_causal;
    int64_t step, slots, taps, reach, history, sums; /* step: samples of a block; slots: blocks of a window */
    const float *filters;  /* (taps, padded(2 bands)) */
    const float *relative; /* (depth * heads, slots), the newest last */
} mmkd_transformer;

/* One convolutional kernel of nine weights, -1 and 2 at three places, and its features. */
typedef struct {
    int32_t dilation, padded, first_feature, features;
    int32_t places[3];
    int32_t first_channel, channels; /* in `channel` of mmkd_convolutions */
} mmkd_kernel;

typedef struct {
    int64_t kernels, features, stride, positions;
    const float *mean, *scale; /* (C,) */
    const mmkd_kernel *kernel; /* sorted by dilation */
    const int32_t *channel;
    const float *slope, *offset;               /* (F,): of the ramp */
    const float *feature_mean, *feature_scale; /* (F,): scale is 1 / std */
    int64_t reach;                             /* 4 times the largest dilation */
} mmkd_convolutions;

/* Statistics over dyadic intervals of every channel and of its differences, and its spectrum. */
typedef struct {
    int64_t depths, bins, features;
    const float *mean, *scale;                 /* (C,): scale is 1 / std */
    mmkd_linear basis;                         /* (T, 2 bins): cosines, sines */
    const float *feature_mean, *feature_scale; /* (F,): scale is 1 / std */
} mmkd_intervals;

/* Goes on to next[0] if a feature is at most the threshold, else to next[1]; below 0 that is leaf -1 - next. */
typedef struct {
    int32_t feature;
    float threshold;
    int32_t next[2];
} mmkd_node;

typedef struct {
    int64_t count;
    const int32_t *root; /* (trees,): a node or a leaf, as in mmkd_node */
    const mmkd_node *node;
    const float *leaf; /* (leaves, K) */
    float weight;
} mmkd_trees;

/* How a derived sensor's window follows from a recorded one: mmkd_edge/derive.py. */
typedef struct {
    int64_t whole, channels, samples, up, down, half, burst, period, bits; /* samples: the newest of the whole window's */
    const int32_t *channel; /* (C,) */
    const float *taps;      /* (2 half + 1,) */
    const double *limits;   /* rate and range of the recorded sensor, range of the derived one */
} mmkd_derivation;

struct mmkd_model {
    void *memory;
    const char *modality;
    int isa;
    int64_t samples, channels, outputs, embedding;
    int task, has_transformer, has_convolutions, has_intervals, has_trees, has_novelty;
    float sharpness, target_mean, target_std;
    mmkd_transformer transformer;
    mmkd_convolutions convolutions;
    mmkd_intervals intervals;
    mmkd_trees trees;
    mmkd_derivation derivation; /* samples is 0 if the sensor is recorded */
    mmkd_linear head;
    mmkd_linear novelty; /* (E, centres) and |c|^2; of normal data (E, components) and 0 */
    const float *novelty_middle, *novelty_squares;
    size_t scratch_floats;
    int64_t panel; /* rows of the int8 weights that are turned into floats at once; 0 without any */
    const struct mmkd_computing *computing;
};

/* Check tensors that stay where they are, at a multiple of 64 bytes, and make `model` refer to them: nothing is copied or
 * allocated. For microcontrollers, whose tensors are constants of the program. */
int mmkd_model_place(const void *data, size_t size, int isa, mmkd_model *model, char *error, size_t error_size);

/* What each instruction set computes: a window; a step of a causal student. And the floats of scratch that these take. */
typedef struct mmkd_computing {
    void (*run)(const mmkd_model *, float *, const float *, const float *, float *, float *, float *);
    void (*step)(const mmkd_model *, float *, const float *, const float *, int64_t, const float *const *,
                 float *const *, float *, float *, float *);
    size_t (*count_floats)(const mmkd_model *);
} mmkd_computing;

/* Each instruction set compiles compute.c once, with the members; with MMKD_ONE_ISA there is the first alone. */
extern const mmkd_computing mmkd_compute_base, mmkd_compute_avx2, mmkd_compute_avx512;
/* Floats of a state of a causal student, and of what a step adds to it. */
int64_t mmkd_state_floats(const mmkd_model *model, int64_t number);
int64_t mmkd_news_floats(const mmkd_model *model, int64_t number);
/* Put what is new of a causal student's states into their slot. */
void mmkd_keep(const mmkd_model *model, float *const *states, float *const *news, int64_t slot);
static inline int64_t mmkd_states(const mmkd_model *model)
{
    return model->transformer.is_causal ? MMKD_FRONT_STATES + 2 * model->transformer.depth + 1 : 0;
}

#endif
