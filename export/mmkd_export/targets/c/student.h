/* One student of mmkd-edge: $model_id. Made by mmkd-export --target c; `make test` runs its self-test. */
#ifndef STUDENT_H
#define STUDENT_H

#ifdef __cplusplus
extern "C" {
#endif

enum { STUDENT_SAMPLES = $samples, STUDENT_CHANNELS = $channels, STUDENT_OUTPUTS = $outputs };

extern const char *const student_labels[STUDENT_OUTPUTS];
extern const char *const student_channels[STUDENT_CHANNELS]; /* $unit at $rate Hz */

/* Answer for one window of raw values, (STUDENT_SAMPLES, STUDENT_CHANNELS), the oldest sample first.
 * NaN, and values outside of $low to $high, count as missing.
 * answers: STUDENT_OUTPUTS numbers: $answers. novelty: $novelty, or NULL.
 * Returns the number of the label with the largest answer, or -1 if every value is missing. For one thread. */
int student_predict(const float *window, float *answers, float *novelty);

enum { STUDENT_SCORES = $scores };
extern const float student_scores[]; /* $scores_are, rising */
#define STUDENT_LEVEL $level /* EdgePredictor's, unless it is opened with another unknown_level */

/* 1 if mmkd-edge calls the window of the last student_predict unknown: $sizes,
 * or its p-value, (1 + scores as large as its novelty) / (1 + all scores), is at most `level`. $levels */
int student_is_unknown(double level);
$recorded_h
#ifdef __cplusplus
}
#endif

#endif
