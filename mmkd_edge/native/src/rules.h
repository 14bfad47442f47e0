/* What each object of a manifest, and of a reference of one machine, must have: mmkd_edge/bundle/manifest.py, statistics.py
 * and reference.py, mmkd_edge/spec.py.
 *
 * A kind: t a text, p one without control characters, h a SHA-256, b true or false, e one of the words of `inner`, n a number,
 * + one above 0, 0 one of at least 0, f one of 0 to 1, < one between them, w a whole number, i one of at least 0, 1 one of at
 * least 1, 2 one of at least 2, s 1 to 2^30, o an object as `inner` says, m one of texts, x base64. [x is a list of one x or
 * more, (x of any length, both of at most `most`; r is low and high. ?x may be absent, and ~x may be null. */
#ifndef MMKD_RULES_H
#define MMKD_RULES_H

typedef struct rule {
    const char *key, *kind;
    const void *inner;
    int most;
} rule;

#define END_OF_RULES {NULL, NULL, NULL, 0}

static const rule file_rules[] = {{"file", "p", NULL, 0}, {"sha256", "h", NULL, 0}, {"size_bytes", "s", NULL, 0}, END_OF_RULES};
static const rule tensor_rules[] = {{"name", "p", NULL, 0}, {"dtype", "e", "float32 float16 int8 uint8 ", 0},
                                    {"shape", "(w", NULL, 0}, END_OF_RULES};
static const rule recorded_rules[] = {
    {"name", "p", NULL, 0}, {"kind", "?e", "series audio video ", 0}, {"channels", "[p", NULL, 0}, {"unit", "?p", NULL, 0},
    {"rate_hz", "+", NULL, 0}, {"samples", "1", NULL, 1 << 24}, {"height", "?1", NULL, 0}, {"width", "?1", NULL, 0},
    {"range", "?~r", NULL, 0}, {"normalise", "?e", "none per_group ", 0}, END_OF_RULES};
static const rule derived_rules[] = {{"source", "o", recorded_rules, 0}, {"text", "t", NULL, 0}, {"samples", "w", NULL, 0},
                                     {"taps", "?x", NULL, 0}, END_OF_RULES};
static const rule modality_rules[] = {
    {"name", "p", NULL, 0}, {"kind", "?e", "series audio video ", 0}, {"channels", "[p", NULL, 0}, {"unit", "?p", NULL, 0},
    {"rate_hz", "+", NULL, 0}, {"samples", "1", NULL, 1 << 24}, {"height", "?1", NULL, 0}, {"width", "?1", NULL, 0},
    {"range", "?~r", NULL, 0}, {"normalise", "?e", "none per_group ", 0}, {"derived", "?o", derived_rules, 0},
    {"parts", "?(o", recorded_rules, 0}, END_OF_RULES};
static const rule task_rules[] = {
    {"kind", "?e", "classification multi_label regression normal ", 0}, {"labels", "[p", NULL, 10000}, {"unit", "?p", NULL, 0},
    {"range", "?r", NULL, 0}, {"threshold", "?<", NULL, 0}, END_OF_RULES};
static const rule parity_rules[] = {{"windows", "i", NULL, 0}, {"max_abs_error", "0", NULL, 0}, {"mean_abs_error", "0", NULL, 0},
                                    {"label_agreement", "f", NULL, 0}, {"tolerance", "0", NULL, 0}, END_OF_RULES};
static const rule confidence_rules[] = {{"temperature", "+", NULL, 0}, {"true_probabilities", "[f", NULL, 1024}, END_OF_RULES};
static const rule novelty_rules[] = {{"scores", "[0", NULL, 1024}, {"max_error", "0", NULL, 0}, {"tolerance", "0", NULL, 0},
                                     END_OF_RULES};
static const rule artifact_rules[] = {
    {"file", "p", NULL, 0}, {"format", "e", "onnx tflite native ", 0}, {"precision", "e", "fp32 fp16 int8 ", 0},
    {"opset", "1", NULL, 1000}, {"sha256", "h", NULL, 0}, {"size_bytes", "s", NULL, 0}, {"parity", "o", parity_rules, 0},
    {"confidence", "?~o", confidence_rules, 0}, {"unjudged", "?b", NULL, 0}, {"novelty", "?o", novelty_rules, 0}, END_OF_RULES};
static const rule state_rules[] = {{"name", "p", NULL, 0}, {"shape", "[1", NULL, 6}, {"axis", "?~i", NULL, 5},
                                   {"initial", "?n", NULL, 0}, END_OF_RULES};
static const rule streaming_rules[] = {{"stride", "1", NULL, 0}, {"memory", "1", NULL, 0}, {"slots", "1", NULL, 0},
                                       {"states", "[o", state_rules, 256}, {"artifacts", "[o", artifact_rules, 6}, END_OF_RULES};
static const rule channel_rules[] = {{"mean", "n", NULL, 0}, {"std", "0", NULL, 0}, {"missing_fraction", "f", NULL, 0},
                                     {"edges", "(n", NULL, 9}, {"fractions", "[f", NULL, 10}, END_OF_RULES};
static const rule statistics_rules[] = {{"windows", "1", NULL, 0}, {"channels", "(o", channel_rules, 0},
                                        {"label_fractions", "(f", NULL, 0}, END_OF_RULES};
static const rule magnitude_rules[] = {{"usual", "(+", NULL, 0}, {"lowest", "0", NULL, 0}, {"highest", "+", NULL, 0},
                                       {"outside_rate", "f", NULL, 0}, END_OF_RULES};
static const rule group_rules[] = {
    {"between", "e", "groups recordings blocks ", 0}, {"groups", "2", NULL, 0}, {"windows", "2", NULL, 0},
    {"fewest_windows", "2", NULL, 0}, {"false_alarm_rate", "<", NULL, 0}, {"scales", "(+", NULL, 0},
    {"centres", "[(n", NULL, 64}, {"spreads", "[(+", NULL, 64}, {"largest_misfit", "n", NULL, 0}, {"largest_axes", "+", NULL, 0},
    {"largest_levels", "+", NULL, 0}, {"magnitude", "?o", magnitude_rules, 0}, END_OF_RULES};
static const rule adapted_rules[] = {
    {"from_sha256", "h", NULL, 0}, {"dataset", "p", NULL, 0}, {"dataset_sha256", "h", NULL, 0}, {"method", "p", NULL, 0},
    {"teacher_sha256", "~h", NULL, 0}, {"labels", "i", NULL, 0}, {"gain_points", "n", NULL, 0},
    {"forgotten_points", "n", NULL, 0}, END_OF_RULES};
static const rule normal_rules[] = {
    {"scores", "[+", NULL, 1024}, {"windows", "1", NULL, 0}, {"groups", "i", NULL, 0}, {"hours", "0", NULL, 0},
    {"level", "<", NULL, 0}, {"window_rate", "f", NULL, 0}, {"groups_above", "f", NULL, 0}, END_OF_RULES};
static const rule hop_rules[] = {
    {"hop_fraction", "f", NULL, 0}, {"dwell_s", "+", NULL, 0}, {"exponent", "+", NULL, 0}, {"gain_points", "n", NULL, 0},
    {"delay", "(0", NULL, 2}, {"single_delay", "(0", NULL, 2}, END_OF_RULES};
static const rule over_time_rules[] = {{"prior", "(+", NULL, 0}, {"rules", "[o", hop_rules, 4}, {"changes", "i", NULL, 0},
                                       END_OF_RULES};
static const rule model_rules[] = {
    {"name", "p", NULL, 0}, {"modality", "o", modality_rules, 0}, {"task", "o", task_rules, 0}, {"inputs", "[o", tensor_rules, 2},
    {"outputs", "[o", tensor_rules, 3}, {"preset", "p", NULL, 0}, {"parameters", "i", NULL, 0}, {"mflops", "0", NULL, 0},
    {"validation_metric", "p", NULL, 0}, {"validation_score", "n", NULL, 0}, {"dataset_name", "p", NULL, 0},
    {"dataset_sha256", "h", NULL, 0}, {"teacher_sha256", "?~h", NULL, 0}, {"artifacts", "[o", artifact_rules, 16},
    {"golden", "o", file_rules, 0}, {"statistics", "?~o", statistics_rules, 0}, {"group_reference", "?~o", group_rules, 0},
    {"streaming", "?~o", streaming_rules, 0}, {"adapted", "?[o", adapted_rules, 1000}, {"fold", "?~i", NULL, 0},
    {"training_hashes", "?x", NULL, 0}, {"normal", "?o", normal_rules, 0}, {"over_time", "?o", over_time_rules, 0},
    {"members", "?(p", NULL, 0}, {"twin_of", "?p", NULL, 0}, END_OF_RULES};
static const rule manifest_rules[] = {
    {"format_version", "1", NULL, 0}, {"model_id", "p", NULL, 0}, {"models", "[o", model_rules, 16}, {"tools", "m", NULL, 0},
    {"licence", "t", NULL, 0}, {"files", "[o", file_rules, 2}, {"release", "?i", NULL, 0}, END_OF_RULES};
static const rule commissioned_rules[] = {
    {"model_id", "t", NULL, 0}, {"student_sha256", "h", NULL, 0}, {"source", "t", NULL, 0}, {"ended_utc", "t", NULL, 0},
    {"minutes", "n", NULL, 0}, {"unlike", "n", NULL, 0},
    {"judgement", "?t", NULL, 0}, END_OF_RULES};
static const rule reference_rules[] = {
    {"format_version", "?1", NULL, 0}, {"modality", "t", NULL, 0}, {"mean", "[n", NULL, 0}, {"std", "[+", NULL, 0},
    {"normal", "o", normal_rules, 0}, {"commissioned", "o", commissioned_rules, 0}, END_OF_RULES};

#endif
