/* What bundle.c reads of a bundle, and predict.c answers by. */
#ifndef MMKD_BUNDLE_H
#define MMKD_BUNDLE_H

#include "model.h"

enum { MMKD_MAX_STUDENTS = 16, MMKD_MAX_HOP_RULES = 4 };

/* Rising numbers. */
typedef struct {
    const double *number;
    int32_t count;
} mmkd_numbers;

/* How a stream at one hop, in windows, filters its answers. */
typedef struct {
    double hop_fraction, dwell_s, exponent;
} mmkd_hop_rule;

typedef struct {
    mmkd_student facts;
    const char *const *label, *const *channel;
    int is_series, has_range, is_per_group, has_target_range;
    double low, high, on_from, target_low, target_high;
    mmkd_numbers novelty, step_novelty, true_probabilities;
    double level;   /* of normal data: p-values up to it are unknown, and the groups that support no lower one */
    int32_t groups; /* 0 of other tasks, or if unknown */
    mmkd_numbers usual; /* (C,): magnitudes in training; count is 0 without limits */
    double lowest, highest;
    mmkd_numbers prior; /* (K,): of answers over time; count is 0 without hop rules */
    mmkd_hop_rule hop_rule[MMKD_MAX_HOP_RULES];
    int32_t hop_rules;
    mmkd_model *model, *step; /* step: the model itself if its bytes are the same */
    const char *golden, *golden_sha256; /* member with golden windows */
    double novelty_tolerance;
} mmkd_entry;

struct mmkd_bundle {
    struct mmkd_block_of_memory *memory;
    int32_t count;
    mmkd_entry entry[MMKD_MAX_STUDENTS];
};

/* Copy text of printf's kinds into `error`. */
__attribute__((format(printf, 3, 4))) void mmkd_error(char *error, size_t error_size, const char *format, ...);
void mmkd_sha256(const unsigned char *data, size_t size, unsigned char digest[32]);
void mmkd_sha256_text(const unsigned char *data, size_t size, char text[65]); /* hexadecimal digits, and a zero */
/* Zeroed memory, or NULL; mmkd_release frees all of a chain. */
void *mmkd_take(struct mmkd_block_of_memory **blocks, size_t size);
void mmkd_release(struct mmkd_block_of_memory *blocks);
int mmkd_is_signed(const mmkd_key *key, const unsigned char manifest_sha256[32], const unsigned char signature[64]);

#endif
