/* A window, or the samples of a stream, becomes a prediction: the steps and the words of mmkd_edge/predict and stream. */
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bundle.h"

enum { REASON = 1024, NAMES = 160, INTERVALS = 64, FEWEST_INTERVALS = 8, MAX_HOP = 1 << 24, MAX_GAP_WINDOWS = 64 };
static const double degraded_fraction = 0.02, sum_tolerance = 0.01, gap_periods = 2.5, rate_factor = 1.5, snap = 0.01;

/* Rows at the student's rate between samples with their own times; see mmkd_edge/stream/resample.py. */
typedef struct {
    double origin;              /* time of row 0 */
    int64_t next;               /* row */
    int32_t times;
    double time[INTERVALS + 1]; /* of the last samples, the oldest first */
} grid;

struct mmkd_predictor {
    const mmkd_entry *entry;
    mmkd_options options;
    int32_t samples, channels, labels;
    mmkd_student input; /* what comes: the student's own samples, or those of the sensor that it is derived from */
    float low, high, input_low, input_high; /* of valid values */
    double least_probability; /* of a label in the set; below 0 without label sets */
    double limit_s;           /* longest time between two samples of one line */
    float *window, *derived, *values, *present, *logits, *probabilities;
    double *mean, *std;
    int32_t *set;
    struct mmkd_block_of_memory *memory;
    void *scratch;
    int lacks_memory;
    char reason[REASON];
    int32_t condition;
    float *rows, *fresh, *row_before, *row_after, *row_suspect, *row_now; /* a stream's; rows: the last window, a ring */
    int64_t count, due;
    int32_t timed; /* -1 before the first push */
    int has_line, has_suspect, restarted;
    double last, suspect;
    grid grid;
    float *block, **states, **news, *step_probabilities, step_novelty; /* of a causal student's steps */
    int32_t filled, has_step;
    int64_t step;
    double *belief;            /* (K,) of a stream, where answers are filtered */
    const mmkd_hop_rule *rule; /* how; NULL for single answers */
    int64_t answered;          /* the row count at the last answer that counted; -1 before the first */
};

/* ---- words */

/* A number with a point in every locale; kind: printf's 'f' or 'g'. */
static const char *formatted(char to[32], char kind, int precision, double value)
{
    snprintf(to, 32, kind == 'f' ? "%.*f" : "%.*g", precision, value);
    for (char *at = to; *at; at++)
        if (!strchr("0123456789+-einfa", *at)) *at = '.';
    return to;
}

/* So many digits of a number, in a text of the calling block. */
#define DIGITS(value, count) formatted((char[32]){0}, 'g', count, value)

/* Join a fault to those before: the graver condition, its reason first. */
__attribute__((format(printf, 3, 4))) static void join(mmkd_predictor *p, int32_t condition, const char *format, ...)
{
    char before[REASON], reason[REASON];
    va_list values;
    va_start(values, format);
    vsnprintf(reason, sizeof reason, format, values);
    va_end(values);
    memcpy(before, p->reason, sizeof before);
    int is_graver = p->condition > condition;
    const char *first = is_graver ? before : reason, *second = is_graver ? reason : before;
    size_t used = (size_t)snprintf(p->reason, sizeof p->reason, "%.*s", REASON - 1, first);
    if (used < REASON - 3 && *second) snprintf(p->reason + used, sizeof p->reason - used, "; %.*s", REASON / 2, second);
    if (!is_graver) p->condition = condition;
}

static const char *names(const mmkd_predictor *p, char *to, const char *is_named)
{
    size_t used = 0;
    to[0] = 0;
    for (int32_t c = 0; c < p->channels && used < NAMES - 1; c++) {
        if (!is_named[c]) continue;
        const char *name = p->entry->channel[c], quote = strchr(name, '\'') && !strchr(name, '"') ? '"' : '\'';
        int more = snprintf(to + used, NAMES - used, "%s%c%s%c", used ? ", " : "", quote, name, quote);
        used += more > 0 ? (size_t)more : 0;
    }
    return to;
}

const char *mmkd_condition_name(int32_t condition)
{
    static const char *const name[] = {"ok", "degraded", "unknown", "stale", "warming_up", "invalid"};
    return condition < 0 || condition > MMKD_INVALID ? "" : name[condition];
}

/* ---- one window */

static int is_within(float low, float x, float high) { return x >= low && x <= high; }

/* Fill values and presence from rows of raw values. */
static void prepare(const mmkd_predictor *p, const float *rows, int64_t count, float *values, float *present)
{
    for (int64_t i = 0; i < count * p->channels; i++) {
        float x = rows[i];
        int there = is_within(p->low, x, p->high);
        if (there && p->entry->is_per_group) {
            int64_t c = i % p->channels;
            x = (float)(((double)x - p->mean[c]) / p->std[c]);
            there = isfinite(x);
        }
        present[i] = there ? 1.0f : 0.0f;
        values[i] = there ? x : 0.0f;
    }
}

static void judge_age(mmkd_predictor *p, double age_s)
{
    if (isnan(age_s) || !(p->options.stale_s > 0) || fabs(age_s) <= p->options.stale_s) return;
    join(p, MMKD_STALE, "the newest sample is %s s %s", DIGITS(fabs(age_s), 3),
         age_s < 0 ? "in the future: the clocks disagree" : "old");
}

/* The most samples in a row of one value; marks the channels with at least `shortest` of them and counts these.
 * least: the fewest of any channel. */
static int32_t find_runs(const mmkd_predictor *p, const float *rows, double shortest, char *is_named, int32_t *count, int32_t *least)
{
    int32_t longest = 0;
    *count = 0, *least = p->samples;
    for (int32_t c = 0; c < p->channels; c++) {
        int32_t run = 0, most = 0;
        for (int32_t i = 0; i < p->samples; i++) {
            int64_t at = (int64_t)i * p->channels + c;
            run = i && rows[at] == rows[at - p->channels] ? run + 1 : 1;
            most = run > most ? run : most;
        }
        is_named[c] = most >= shortest;
        *count += is_named[c];
        *least = most < *least ? most : *least;
        longest = most > longest ? most : longest;
    }
    return longest;
}

/* What mmkd_edge.SensorChecks looks for. */
static void judge_sensor(mmkd_predictor *p, const float *rows)
{
    char what[NAMES], is_named[1024] = {0};
    int32_t count = 0, least = 0;
    double rate = p->entry->facts.rate_hz, flat_at = 0;
    for (int32_t c = 0; p->options.flat && c < p->channels; c++) {
        float low = NAN, high = NAN;
        for (int32_t i = 0; i < p->samples; i++) {
            low = fminf(low, rows[(int64_t)i * p->channels + c]);
            high = fmaxf(high, rows[(int64_t)i * p->channels + c]);
        }
        is_named[c] = low == high;
        if (is_named[c] && !count++) flat_at = low;
    }
    if (count && count == p->channels) {
        join(p, MMKD_INVALID, "every channel is flat: the sensor is dead");
    } else if (count) {
        join(p, MMKD_DEGRADED, "channel %s is flat at %s", names(p, what, is_named), DIGITS(flat_at, 6));
    } else if (p->options.stuck_s > 0) {
        double shortest = nearbyint(p->options.stuck_s * rate);
        int32_t longest = find_runs(p, rows, shortest < 2 ? 2 : shortest, is_named, &count, &least);
        int32_t condition = count == p->channels && least == p->samples ? MMKD_INVALID : MMKD_DEGRADED;
        if (count)
            join(p, condition, "channel %s repeated one value for %s s", names(p, what, is_named), DIGITS(longest / rate, 6));
    }
}

/* The root mean square of a window over its usual one; see mmkd_edge/predict/novelty.py. */
static void judge_magnitude(mmkd_predictor *p)
{
    const mmkd_entry *e = p->entry;
    double total = 0;
    int32_t channels = 0;
    for (int32_t c = 0; c < e->usual.count; c++) {
        double sum = 0, count = 0;
        for (int32_t i = 0; i < p->samples; i++) {
            double x = p->values[(int64_t)i * p->channels + c];
            sum += x * x;
            count += p->present[(int64_t)i * p->channels + c];
        }
        if (count < 1) continue;
        double ratio = sqrt(sum / count) / e->usual.number[c];
        total += ratio * ratio;
        channels++;
    }
    double size = channels ? sqrt(total / channels) : NAN;
    if (!(size < e->lowest || size > e->highest)) return;
    join(p, MMKD_UNKNOWN, "%.64s has %s times its usual size in training, expected %s to %s times; check its unit and scale",
         e->facts.modality, DIGITS(size, 3), DIGITS(e->lowest, 2), DIGITS(e->highest, 2));
}

static double judge_novelty(mmkd_predictor *p, mmkd_numbers scores, double score)
{
    if (!scores.count) return NAN;
    int32_t larger = 0;
    for (int32_t i = scores.count - 1; i >= 0 && scores.number[i] >= score; i--) larger++;
    double value = (1.0 + larger) / (1.0 + scores.count);
    if (p->options.unknown_level > 0 && value <= p->options.unknown_level)
        join(p, MMKD_UNKNOWN, "unlike what training saw: p-value %s, at most %s is unknown", DIGITS(value, 2),
             DIGITS(p->options.unknown_level, 6));
    return value;
}

static void judge_missing(mmkd_predictor *p, const float *rows, double *fraction)
{
    int64_t count = (int64_t)p->samples * p->channels, missing = 0, infinite = 0, outside = 0;
    char dead[1024] = {0}; /* a model has at most 1,024 channels */
    int any_dead = 0;
    for (int32_t c = 0; c < p->channels; c++) {
        int64_t there = 0;
        for (int32_t i = 0; i < p->samples; i++) there += p->present[(int64_t)i * p->channels + c] > 0;
        missing += p->samples - there;
        any_dead |= dead[c] = !there;
    }
    *fraction = (double)missing / (double)count;
    char text[REASON], what[NAMES];
    if (missing == count) snprintf(text, sizeof text, "all values are missing");
    else if (any_dead) snprintf(text, sizeof text, "channel %s is missing", names(p, what, dead));
    else if ((double)missing >= degraded_fraction * (double)count)
        snprintf(text, sizeof text, "%s%% of the values are missing", formatted((char[32]){0}, 'f', 1, 100 * *fraction));
    else return;
    for (int64_t i = 0; i < count; i++) {
        infinite += isinf(rows[i]) != 0;
        outside += isfinite(rows[i]) && !is_within(p->low, rows[i], p->high);
    }
    size_t used = strlen(text);
    if (infinite) used += (size_t)snprintf(text + used, sizeof text - used, ": %lld infinite", (long long)infinite);
    if (outside)
        snprintf(text + used, sizeof text - used, "%s %lld outside %s to %s", infinite ? "," : ":", (long long)outside,
                 DIGITS(p->entry->has_range ? p->entry->low : p->low, 6),
                 DIGITS(p->entry->has_range ? p->entry->high : p->high, 6));
    join(p, missing == count ? MMKD_INVALID : MMKD_DEGRADED, "%s", text);
}

static void judge_answer(mmkd_predictor *p, const float *probabilities)
{
    double sum = 0;
    int is_between = 1, task = p->entry->facts.task;
    for (int32_t k = 0; k < p->labels; k++) {
        sum += probabilities[k];
        is_between &= probabilities[k] >= 0 && probabilities[k] <= (task ? 1.0f : INFINITY);
    }
    static const char *const fault[] = {"is not a distribution", "has others than probabilities", "is not a number",
                                        "is not a number"};
    int is_right = task < MMKD_REGRESSION ? is_between : isfinite(probabilities[0]);
    if (is_right && (task != MMKD_CLASSIFICATION || fabs(sum - 1) <= sum_tolerance)) return;
    p->condition = MMKD_INVALID;
    snprintf(p->reason, sizeof p->reason, "the model's answer %s", fault[task]);
}

static void choose_set(mmkd_predictor *p, mmkd_prediction *to)
{
    int is_set = p->least_probability >= 0, is_labels = p->entry->facts.task == MMKD_MULTI_LABEL;
    double least = is_labels ? p->entry->on_from : p->least_probability;
    for (int32_t k = 0; (is_set || is_labels) && k < p->labels; k++) {
        if (to->probabilities[k] < least) continue;
        int32_t at = to->set_size++;
        for (; is_set && at && to->probabilities[p->set[at - 1]] < to->probabilities[k]; at--) p->set[at] = p->set[at - 1];
        p->set[at] = k;
    }
    if (is_set && !to->set_size) p->set[to->set_size++] = to->index;
}

static void no_answer(const mmkd_predictor *p, double fraction, double age_s, mmkd_prediction *to)
{
    *to = (mmkd_prediction){p->condition, -1, "", 0, NULL, NAN, NAN, fraction, age_s, p->set, 0, p->reason,
                            p->entry->facts.modality};
}

/* Answer for prepared rows. The faults so far are in the predictor. */
static void answer(mmkd_predictor *p, const float *rows, double age_s, int is_stepped, mmkd_prediction *to)
{
    const mmkd_entry *e = p->entry;
    float novelty = 0, *probabilities = is_stepped ? p->step_probabilities : p->probabilities;
    if (p->options.recorded) mmkd_derive(e->model, rows, p->derived), rows = p->derived;
    prepare(p, rows, p->samples, p->values, p->present);
    judge_sensor(p, rows);
    judge_magnitude(p);
    if (is_stepped) novelty = p->step_novelty;
    else mmkd_run(e->model, p->scratch, p->values, p->present, p->logits, probabilities, &novelty);
    if (e->facts.task == MMKD_NORMAL) novelty = probabilities[0];
    double fraction = 0, value = judge_novelty(p, is_stepped ? e->step_novelty : e->novelty, novelty);
    judge_missing(p, rows, &fraction);
    if (p->condition != MMKD_INVALID) judge_answer(p, probabilities);
    no_answer(p, fraction, age_s, to);
    if (p->condition == MMKD_INVALID) return;
    to->novelty = value;
    to->index = 0;
    to->label = e->label[0];
    if (e->facts.task == MMKD_NORMAL && !(value > p->options.unknown_level)) to->index = -1, to->label = "";
    if (e->facts.task >= MMKD_REGRESSION) {
        double number = probabilities[0];
        if (e->has_target_range) number = number < e->target_low ? e->target_low : number > e->target_high ? e->target_high : number;
        to->value = number;
        return;
    }
    for (int32_t k = 1; k < p->labels; k++)
        if (probabilities[k] > probabilities[to->index]) to->index = k;
    to->label = e->label[to->index];
    to->probability = probabilities[to->index];
    to->probabilities = probabilities;
    choose_set(p, to);
}

static void begin_prediction(mmkd_predictor *p)
{
    p->condition = MMKD_FINE;
    memset(p->reason, 0, sizeof p->reason);
}

int mmkd_predict(mmkd_predictor *p, const float *window, int32_t samples, int32_t channels, double age_s,
                 mmkd_prediction *prediction)
{
    const mmkd_student *in = &p->input;
    int is_whole = p->options.recorded && samples == p->entry->model->derivation.whole;
    begin_prediction(p);
    if (!window) {
        join(p, MMKD_INVALID, "modality '%.64s': expected a window, got NULL; of an absent sensor use mmkd_predict_first", in->modality);
        no_answer(p, 0, age_s, prediction);
        return MMKD_MISUSE;
    }
    if ((samples != in->samples && !is_whole) || channels != in->channels) {
        join(p, MMKD_INVALID, "modality '%.64s': expected shape (T, C)=(%d, %d), got (%d, %d)", in->modality,
             (int)in->samples, (int)in->channels, (int)samples, (int)channels);
        no_answer(p, 0, age_s, prediction);
        return MMKD_MISUSE;
    }
    judge_age(p, age_s);
    answer(p, window + (int64_t)(samples - in->samples) * channels, age_s, 0, prediction);
    return MMKD_OK;
}

int mmkd_predict_first(mmkd_predictor *const *predictors, const mmkd_window *windows, int32_t count, mmkd_prediction *prediction)
{
    char silent[REASON] = "";
    mmkd_prediction first = {0};
    for (int32_t n = 0; n < count; n++) {
        mmkd_predictor *p = predictors[n];
        const mmkd_window *w = windows + n;
        if (w->values) {
            if (mmkd_predict(p, w->values, w->samples, w->channels, w->age_s, prediction)) return MMKD_MISUSE;
        } else {
            begin_prediction(p);
            join(p, MMKD_INVALID, "modality '%.64s' is absent", p->entry->facts.modality);
            no_answer(p, 1, w->age_s, prediction);
        }
        if (prediction->index >= 0 || !isnan(prediction->novelty) || prediction->condition == MMKD_STALE) {
            if (!n) return MMKD_OK;
            join(p, MMKD_DEGRADED, "'%.64s' answers in place of %.900s", p->entry->facts.modality, silent);
            prediction->condition = p->condition;
            return MMKD_OK;
        }
        size_t used = strlen(silent);
        snprintf(silent + used, REASON - used, "%s%.64s: %.*s", used ? "; " : "", p->entry->facts.modality, REASON / 2, p->reason);
        if (!n) first = *prediction;
    }
    if (count < 1) return MMKD_MISUSE;
    *prediction = first;
    memcpy(predictors[0]->reason, silent, sizeof silent);
    return MMKD_OK;
}

/* ---- steps of a causal student */

static void begin_steps(mmkd_predictor *p)
{
    int32_t stride = p->input.step;
    if (!stride) return;
    p->has_step = 0, p->step = 0;
    p->filled = (stride - p->input.samples % stride) % stride; /* the first block begins with missing samples */
    for (int64_t i = 0; i < (int64_t)stride * p->input.channels; i++) p->block[i] = NAN;
    for (int64_t n = 0; n < mmkd_states(p->entry->step); n++)
        memset(p->states[n], 0, (size_t)mmkd_state_floats(p->entry->step, n) * sizeof(float));
}

static void put_step(mmkd_predictor *p, const float *row)
{
    const mmkd_model *model = p->entry->step;
    int32_t stride = p->input.step;
    memcpy(p->block + (int64_t)p->filled * p->input.channels, row, (size_t)p->input.channels * sizeof(float));
    if (++p->filled < stride) return;
    p->filled = 0;
    prepare(p, p->block, stride, p->values, p->present);
    int64_t slot = p->step++ % model->transformer.slots;
    mmkd_step(model, p->scratch, p->values, p->present, (int32_t)slot, (const float *const *)p->states, p->news,
              p->logits, p->step_probabilities, &p->step_novelty);
    mmkd_keep(model, p->states, p->news, slot);
    p->has_step = 1;
}

/* ---- streams */

/* The rule of the nearest hop; see mmkd_edge/stream/over_time.py. */
static const mmkd_hop_rule *choose_rule(const mmkd_predictor *p)
{
    const mmkd_entry *e = p->entry;
    const mmkd_hop_rule *best = NULL;
    double fraction = (double)p->options.hop / p->input.samples, nearest = INFINITY;
    for (int32_t i = 0; i < e->hop_rules && !p->options.single_answers; i++) {
        double apart = fabs(log(e->hop_rule[i].hop_fraction / fraction));
        if (apart < nearest) nearest = apart, best = &e->hop_rule[i];
    }
    return best;
}

/* Let earlier answers of the stream weigh in on the label. */
static void follow(mmkd_predictor *p, mmkd_prediction *to)
{
    const mmkd_hop_rule *rule = p->rule;
    if (!rule || to->index < 0 || to->condition > MMKD_DEGRADED) return;
    double stay = 0, exponent = rule->exponent, total = 0;
    if (p->answered >= 0) {
        double elapsed_s = (double)(p->count - p->answered) / p->input.rate_hz;
        double window_s = p->input.samples / p->input.rate_hz;
        stay = exp(-elapsed_s / rule->dwell_s);
        exponent *= fmin(elapsed_s / (rule->hop_fraction * window_s), 1);
    }
    for (int32_t k = 0; k < p->labels; k++) {
        double answer = fmax(to->probabilities[k], FLT_MIN);
        p->belief[k] = (stay * p->belief[k] + (1 - stay) / p->labels) * pow(answer / p->entry->prior.number[k], exponent);
        total += p->belief[k];
    }
    to->index = 0;
    for (int32_t k = 0; k < p->labels; k++) {
        p->belief[k] /= total;
        if (p->belief[k] > p->belief[to->index]) to->index = k;
    }
    to->label = p->entry->label[to->index], to->probability = p->belief[to->index];
    p->answered = p->count;
}

static void begin_line(mmkd_predictor *p)
{
    p->count = 0, p->answered = -1;
    int32_t hop = p->options.hop, first = p->input.samples % hop;
    p->due = first ? first : hop < p->input.samples ? hop : p->input.samples;
    begin_steps(p);
}

void mmkd_reset(mmkd_predictor *p)
{
    p->timed = -1;
    p->has_line = p->has_suspect = p->restarted = 0;
    p->grid.next = 0;
    begin_line(p);
}

static double row_time(const mmkd_predictor *p, int64_t number)
{
    return p->grid.origin + (double)number / p->input.rate_hz;
}

static void judge_rate(mmkd_predictor *p)
{
    const grid *g = &p->grid;
    double interval[INTERVALS] = {0}, declared = p->input.rate_hz;
    if (g->times <= FEWEST_INTERVALS) return;
    for (int32_t i = 1; i < g->times; i++) { /* sorted */
        int32_t at = i - 1;
        for (; at && interval[at - 1] > g->time[i] - g->time[i - 1]; at--) interval[at] = interval[at - 1];
        interval[at] = g->time[i] - g->time[i - 1];
    }
    double rate = 1 / interval[(g->times - 1) / 2];
    if (rate >= declared / rate_factor && rate <= declared * rate_factor) return;
    join(p, MMKD_DEGRADED, "samples come at %s Hz, expected %s Hz", DIGITS(rate, 3), DIGITS(declared, 6));
}

static void advance(mmkd_predictor *p, const float *row, double now_s, mmkd_receiver receive, void *user)
{
    size_t bytes = (size_t)p->input.channels * sizeof(float);
    memcpy(p->rows + p->count % p->input.samples * p->input.channels, row, bytes);
    p->count++;
    if (p->input.step) put_step(p, row);
    if (p->count != p->due) return;
    p->due += p->options.hop;
    mmkd_prediction prediction;
    double age_s = p->timed > 0 ? now_s - row_time(p, p->count - 1) : NAN;
    begin_prediction(p);
    if (p->count < p->input.samples) {
        join(p, MMKD_WARMING_UP, "%s%lld of %d samples are there", p->restarted ? "the time line began anew: " : "",
             (long long)p->count, (int)p->input.samples);
        no_answer(p, 1 - (double)p->count / p->input.samples, age_s, &prediction);
    } else {
        if (p->timed > 0) judge_rate(p);
        judge_age(p, age_s);
        int64_t oldest = p->count % p->input.samples; /* of the ring */
        memcpy(p->window, p->rows + oldest * p->input.channels, (size_t)(p->input.samples - oldest) * bytes);
        memcpy(p->window + (p->input.samples - oldest) * p->input.channels, p->rows, (size_t)oldest * bytes);
        answer(p, p->window, age_s, p->has_step, &prediction);
        follow(p, &prediction);
    }
    if (receive) receive(&prediction, user);
}

static void begin_grid(mmkd_predictor *p, double time, const float *row, double now_s, mmkd_receiver receive, void *user)
{
    p->restarted = p->grid.next > 0;
    begin_line(p);
    memset(&p->grid, 0, sizeof p->grid);
    p->grid.origin = p->grid.time[0] = time;
    p->grid.next = p->grid.times = 1;
    memcpy(p->row_after, row, (size_t)p->input.channels * sizeof(float));
    memcpy(p->fresh, row, (size_t)p->input.channels * sizeof(float));
    advance(p, p->fresh, now_s, receive, user);
}

/* Take the next sample of a line, and the rows that it completes. */
static void put(mmkd_predictor *p, double time, const float *row, double now_s, mmkd_receiver receive, void *user)
{
    grid *g = &p->grid;
    size_t bytes = (size_t)p->input.channels * sizeof(float);
    double rate = p->input.rate_hz, gap_s = p->options.gap_s;
    double before = g->time[g->times - 1];
    if (g->times > INTERVALS) memmove(g->time, g->time + 1, INTERVALS * sizeof *g->time);
    else g->times++;
    g->time[g->times - 1] = time;
    memcpy(p->row_before, p->row_after, bytes);
    memcpy(p->row_after, row, bytes);
    while (row_time(p, g->next) <= time + snap / rate) {
        double point = row_time(p, g->next), from_before = point - before, to_after = fabs(time - point);
        double weight = from_before / (time - before);
        weight = weight < 1 ? weight : 1;
        int is_close = (from_before < to_after ? from_before : to_after) <= 0.5 / rate * (1 + snap);
        for (int32_t c = 0; c < p->input.channels; c++) {
            float low = p->row_before[c], high = p->row_after[c];
            int is_joined = time - before <= gap_s && isfinite(low) && isfinite(high);
            p->fresh[c] = is_joined ? (float)(low * (1 - weight) + high * weight)
                          : is_close ? (weight < 0.5 ? low : high) : NAN;
        }
        g->next++;
        advance(p, p->fresh, now_s, receive, user);
    }
}

/* Place a sample into the line of time: duplicates, late samples and single strays are left out; see TimeLine. */
static void place(mmkd_predictor *p, double time, const float *row, double now_s, mmkd_receiver receive, void *user)
{
    double ahead = time - p->last, limit = p->limit_s, again = time - p->suspect;
    int is_next = ahead > 0 && ahead <= limit;
    if (!isfinite(time)) return;
    if (!p->has_line) {
        p->has_line = 1, p->last = time;
        begin_grid(p, time, row, now_s, receive, user);
    } else if (is_next || (p->has_suspect && again > 0 && again <= limit)) {
        p->last = time, p->has_suspect = 0;
        if (!is_next) begin_grid(p, p->suspect, p->row_suspect, now_s, receive, user);
        put(p, time, row, now_s, receive, user);
    } else if (ahead > 0 || ahead < -limit) {
        p->suspect = time, p->has_suspect = 1;
        memcpy(p->row_suspect, row, (size_t)p->input.channels * sizeof(float));
    }
}

int mmkd_push(mmkd_predictor *p, const float *samples, int32_t count, const double *times_s, double now_s,
              mmkd_receiver receive, void *user)
{
    if (count < 0 || (count > 0 && !samples)) return MMKD_MISUSE;
    if (count > 0 && p->timed >= 0 && p->timed != (times_s != NULL)) return MMKD_MISUSE;
    if (count > 0) p->timed = times_s != NULL;
    for (int32_t i = 0; i < count; i++) {
        const float *row = samples + (int64_t)i * p->input.channels;
        if (!times_s) {
            advance(p, row, NAN, receive, user);
            continue;
        }
        for (int32_t c = 0; c < p->input.channels; c++) p->row_now[c] = is_within(p->input_low, row[c], p->input_high) ? row[c] : NAN;
        place(p, times_s[i], p->row_now, now_s, receive, user);
    }
    return MMKD_OK;
}

/* ---- opening */

/* The range of the widest channel: a thousand standard deviations either way, in two digits, rounded outwards. */
static double outwards(double value)
{
    if (value == 0 || !isfinite(value)) return value;
    double step = pow(10, floor(log10(fabs(value))) - 1);
    return ceil(value / step - 1e-9) * step;
}

static int check_options(mmkd_predictor *p, char *error, size_t error_size)
{
    const mmkd_entry *e = p->entry;
    mmkd_options *o = &p->options;
    const char *modality = e->facts.modality;
    int32_t windows = e->true_probabilities.count, scores = e->groups ? e->groups : e->novelty.count;
    double longest_gap_s = MAX_GAP_WINDOWS * p->input.samples / p->input.rate_hz;
    double shortest = 1 / e->facts.rate_hz, longest = e->facts.samples / e->facts.rate_hz;
    if (o->stuck_s != 0 && !(o->stuck_s > shortest && o->stuck_s <= longest))
        mmkd_error(error, error_size, "stuck_s: expected more than one sample and at most one window of '%.64s', %s to %s s; got %s",
                   modality, DIGITS(shortest, 6), DIGITS(longest, 6), DIGITS(o->stuck_s, 6));
    else if (!e->is_series)
        mmkd_error(error, error_size, "student '%.64s': the C library answers for series alone; for sound and video use mmkd-edge in "
                   "Python with ort, openvino, litert or trt, or mmkd-run", modality);
    else if (!e->model)
        mmkd_error(error, error_size, "student '%.64s': the bundle has no native model; export it again with --target native", modality);
    else if (e->is_per_group && !(o->reference_mean && o->reference_std))
        mmkd_error(error, error_size, "modality '%.64s' is normalised per group: expected reference_mean and reference_std", modality);
    else if (o->recorded && !e->facts.recorded_samples)
        mmkd_error(error, error_size, "recorded: expected a student of a derived sensor, got '%.64s'", modality);
    else if (o->hop < 0 || o->hop > MAX_HOP)
        mmkd_error(error, error_size, "hop: expected 1 to %d samples, got %d", (int)MAX_HOP, (int)o->hop);
    else if (p->input.step && o->hop % p->input.step)
        mmkd_error(error, error_size, "hop: expected a multiple of %d, the samples of one step of this causal student, got %d",
                   (int)p->input.step, (int)o->hop);
    else if (!(o->gap_s <= longest_gap_s))
        mmkd_error(error, error_size, "gap_s: expected at most %d windows of '%.64s', %s s, got %s", (int)MAX_GAP_WINDOWS, p->input.modality,
                   DIGITS(longest_gap_s, 6), DIGITS(o->gap_s, 6));
    else if (o->unknown_level != 0 && !(o->unknown_level * (1 + scores) >= 1 && o->unknown_level < 1 && scores))
        mmkd_error(error, error_size, "unknown_level: expected at least %s, because %d %s calibrated it",
                   DIGITS(1.0 / (1 + scores), 2), (int)scores, e->groups ? "groups" : "windows");
    else if (o->error_level != 0 && !(floor((windows + 1) * o->error_level + 1e-9) >= 1 && o->error_level < 1 && windows))
        mmkd_error(error, error_size, "error_level: expected at least %s, because %d windows calibrated it",
                   DIGITS(1.0 / (1 + windows), 2), (int)windows);
    else
        return 1;
    return 0;
}

/* What values are valid: in the sensor's range, or near the reference of a machine of its own. */
static void set_limits(mmkd_predictor *p)
{
    const mmkd_entry *e = p->entry;
    double low = e->has_range ? e->low : -INFINITY, high = e->has_range ? e->high : INFINITY;
    if (e->is_per_group) {
        memcpy(p->mean, p->options.reference_mean, (size_t)p->channels * sizeof *p->mean);
        memcpy(p->std, p->options.reference_std, (size_t)p->channels * sizeof *p->std);
        if (!e->has_range) {
            low = INFINITY, high = -INFINITY;
            for (int32_t c = 0; c < p->channels; c++)
                low = fmin(low, p->mean[c] - 1000 * p->std[c]), high = fmax(high, p->mean[c] + 1000 * p->std[c]);
            low = -outwards(-low), high = outwards(high);
        }
    }
    p->low = low < -3.4028234e38 ? -3.4028234e38f : (float)low;
    p->high = high > 3.4028234e38 ? 3.4028234e38f : (float)high;
    p->input_low = p->options.recorded ? (float)e->model->derivation.limits[1] : p->low;
    p->input_high = p->options.recorded ? (float)e->model->derivation.limits[2] : p->high;
    p->options.reference_mean = p->options.reference_std = NULL;
}

static void *take(mmkd_predictor *p, int64_t count, size_t size)
{
    void *memory = mmkd_take(&p->memory, (size_t)count * size);
    p->lacks_memory |= !memory;
    return memory;
}

int mmkd_predictor_open(const mmkd_bundle *bundle, const mmkd_options *options, mmkd_predictor **predictor, char *error,
                        size_t error_size)
{
    static const mmkd_options defaults;
    *predictor = NULL;
    int32_t student = options ? options->student : 0;
    if (student < 0 || student >= bundle->count) {
        mmkd_error(error, error_size, "student: expected 0 to %d, got %d", (int)bundle->count - 1, (int)student);
        return MMKD_MISUSE;
    }
    const mmkd_entry *e = &bundle->entry[student];
    mmkd_predictor fresh = {.entry = e, .options = options ? *options : defaults, .least_probability = -1}, *p = &fresh;
    p->samples = e->facts.samples, p->channels = e->facts.channels, p->labels = e->facts.labels;
    mmkd_student *in = &p->input;
    *in = e->facts;
    if (p->options.recorded)
        in->modality = in->recorded, in->samples = in->recorded_samples, in->channels = in->recorded_channels,
        in->rate_hz = in->recorded_rate_hz, in->step = 0;
    if (!p->options.hop) p->options.hop = in->step ? in->samples / in->step * in->step : in->samples;
    if (!check_options(p, error, error_size)) return MMKD_MISUSE;
    if (e->facts.task == MMKD_NORMAL && !(p->options.unknown_level > 0)) p->options.unknown_level = e->level;
    if (!(p->options.gap_s > 0)) p->options.gap_s = gap_periods / in->rate_hz;
    p->limit_s = fmax(in->samples / in->rate_hz, p->options.gap_s);
    if (p->options.error_level > 0)
        p->least_probability = e->true_probabilities.number[(int)floor((e->true_probabilities.count + 1) * p->options.error_level + 1e-9) - 1];
    int64_t cells = (int64_t)p->samples * p->channels, stride = in->step, states = e->step ? mmkd_states(e->step) : 0;
    size_t scratch = mmkd_model_facts(e->model).scratch_bytes, step_scratch = e->step ? mmkd_model_facts(e->step).scratch_bytes : 0;
    p->scratch = take(p, (int64_t)(scratch > step_scratch ? scratch : step_scratch) + 64, 1);
    p->scratch = (void *)(((uintptr_t)p->scratch + 63) & ~(uintptr_t)63);
    const int64_t window = cells + (stride + 1) * p->channels, one = in->channels, outputs = p->labels, rows = in->samples * one;
    const struct { float **to; int64_t count; } arrays[] = {
        {&p->window, rows}, {&p->derived, cells}, {&p->values, window}, {&p->present, window}, {&p->rows, rows}, {&p->fresh, one},
        {&p->row_before, one}, {&p->row_after, one}, {&p->row_suspect, one}, {&p->row_now, one}, {&p->logits, outputs},
        {&p->probabilities, outputs}, {&p->step_probabilities, outputs}, {&p->block, stride * one}};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) *arrays[i].to = take(p, arrays[i].count, sizeof(float));
    p->set = take(p, p->labels, sizeof *p->set), p->mean = take(p, p->channels, 2 * sizeof *p->mean);
    p->belief = take(p, p->labels, sizeof *p->belief);
    p->states = take(p, 2 * states, sizeof *p->states);
    for (int64_t n = 0; !p->lacks_memory && n < 2 * states; n++) /* what is new follows the states */
        p->states[n] = take(p, n < states ? mmkd_state_floats(e->step, n) : mmkd_news_floats(e->step, n - states), sizeof(float));
    mmkd_predictor *kept = take(p, 1, sizeof *kept);
    if (p->lacks_memory) {
        mmkd_release(p->memory);
        mmkd_error(error, error_size, "not enough memory");
        return MMKD_NO_MEMORY;
    }
    p->rule = choose_rule(p);
    p->std = p->mean + p->channels, p->news = p->states + states;
    set_limits(p);
    mmkd_reset(p);
    *kept = fresh;
    *predictor = kept;
    return MMKD_OK;
}

void mmkd_predictor_close(mmkd_predictor *p)
{
    if (p) mmkd_release(p->memory); /* it is in there itself */
}
