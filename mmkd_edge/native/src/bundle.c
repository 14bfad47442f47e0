/* Reads a bundle: the archive's digest first, then the manifest, then the native models.
 *
 * The archive is a ZIP of stored members whose comment holds the SHA-256 of everything before the end record
 * (mmkd_edge/bundle/archive.py and bundle.py). The manifest is JSON (mmkd_edge/bundle/manifest.py).
 */
#if defined(__unix__) || defined(__APPLE__)
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#endif
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bundle.h"

#define JSMN_STATIC
#define JSMN_STRICT
#define JSMN_PARENT_LINKS
#include "../third_party/jsmn.h"
#include "rules.h"

enum { END_RECORD = 22, COMMENT = 81, MAX_MEMBERS = 256, MAX_MANIFEST = 1 << 20, MAX_SIGNATURES = 1 << 16, MAX_LIST = 10000,
       MAX_DEPTH = 64, MAX_SCORES = 1024 };
#define MAX_FILE ((long)1 << 30)
#define MAX_TOLERANCE 0.01 /* of golden windows */
enum { SELFTEST_S = 60 };
static const char comment_start[] = "mmkd-edge sha256 ";

void mmkd_error(char *error, size_t error_size, const char *format, ...)
{
    if (!error || !error_size) return;
    va_list values;
    va_start(values, format);
    vsnprintf(error, error_size, format, values);
    va_end(values);
}

typedef struct mmkd_block_of_memory {
    struct mmkd_block_of_memory *next;
    double memory[]; /* aligned for all kinds of numbers */
} block;

void *mmkd_take(block **blocks, size_t size)
{
    block *fresh = calloc(1, sizeof *fresh + size);
    if (!fresh) return NULL;
    fresh->next = *blocks, *blocks = fresh;
    return fresh->memory;
}

void mmkd_release(block *blocks)
{
    for (block *next; blocks; blocks = next) {
        next = blocks->next;
        free(blocks);
    }
}

typedef struct {
    mmkd_bundle *bundle;
    const char *json;
    jsmntok_t *token;
    int tokens;
    int status;
    char *error;
    size_t error_size;
    const mmkd_key *key;
    int32_t keys;
    const char *fault; /* the key whose value breaks its rule */
    uint32_t members;  /* of the archive that were checked */
} reader;

static int fail(reader *r, int status, const char *text)
{
    if (r->status == MMKD_OK) {
        r->status = status;
        mmkd_error(r->error, r->error_size, "%s", text);
    }
    return -1;
}

static void *take(reader *r, size_t size)
{
    void *memory = mmkd_take(&r->bundle->memory, size);
    if (!memory) fail(r, MMKD_NO_MEMORY, "not enough memory");
    return memory;
}

/* ---- the archive */

typedef struct {
    const unsigned char *data;
    size_t size;
    uint32_t crc32, place; /* as the archive has them */
} member;

static int check_archive(reader *r, const unsigned char *data, size_t size)
{
    if (size < END_RECORD + COMMENT || size > (size_t)MAX_FILE) return fail(r, MMKD_DAMAGED, "expected a bundle (.edge)");
    const unsigned char *end = data + size - END_RECORD - COMMENT, *comment = end + END_RECORD;
    if (memcmp(end, "PK\5\6", 4) || mmkd_u16(end + 20) != COMMENT || memcmp(comment, comment_start, sizeof comment_start - 1))
        return fail(r, MMKD_DAMAGED, "expected a bundle (.edge), or it was cut off; copy it again");
    char text[65];
    mmkd_sha256_text(data, size - END_RECORD - COMMENT, text);
    if (memcmp(text, comment + sizeof comment_start - 1, 64))
        return fail(r, MMKD_DAMAGED, "the bundle is damaged: its SHA-256 does not match its content; copy it again");
    return 0;
}

/* The bytes of a member of an archive with its end record at `end`; an empty one if there is none. */
static member find_member(const unsigned char *data, const unsigned char *end, const char *name)
{
    member none = {NULL, 0, 0, 0};
    size_t at = mmkd_u32(end + 16), limit = (size_t)(end - data), length = strlen(name);
    for (uint32_t i = 0; i < mmkd_u16(end + 10) && i < MAX_MEMBERS; i++) {
        if (at > limit || limit - at < 46 || memcmp(data + at, "PK\1\2", 4)) return none;
        const unsigned char *entry = data + at;
        size_t name_size = mmkd_u16(entry + 28), stored = mmkd_u32(entry + 24), start = mmkd_u32(entry + 42);
        at += 46 + name_size + mmkd_u16(entry + 30) + mmkd_u16(entry + 32);
        if (at > limit) return none;
        if (name_size != length || memcmp(entry + 46, name, length)) continue;
        if (mmkd_u16(entry + 10) || start > limit || limit - start < 30 || memcmp(data + start, "PK\3\4", 4)) return none; /* 0: stored */
        start += 30 + mmkd_u16(data + start + 26) + mmkd_u16(data + start + 28);
        if (start > limit || stored > limit - start) return none;
        return (member){data + start, stored, mmkd_u32(entry + 16), i};
    }
    return none;
}

/* ---- the manifest. A token of -1 stands for a value that is not there. */

static int after(const reader *r, int token)
{
    int end = r->token[token].end, next = token + 1;
    while (next < r->tokens && r->token[next].start < end) next++;
    return next;
}

static int is_text(const reader *r, int token, const char *text)
{
    if (token < 0) return 0;
    size_t length = (size_t)(r->token[token].end - r->token[token].start);
    return length == strlen(text) && !memcmp(r->json + r->token[token].start, text, length);
}

static int field(const reader *r, int object, const char *key)
{
    if (object < 0 || r->token[object].type != JSMN_OBJECT) return -1;
    int at = object + 1;
    for (int i = 0; i < r->token[object].size && at + 1 < r->tokens; i++) {
        if (r->token[at].type == JSMN_STRING && is_text(r, at, key)) return at + 1;
        at = after(r, at + 1);
    }
    return -1;
}

static int length_of(const reader *r, int array)
{
    return array >= 0 && r->token[array].type == JSMN_ARRAY ? r->token[array].size : 0;
}

/* A number, in any locale: at most 19 digits count. */
static double number(const reader *r, int token, double otherwise)
{
    if (token < 0 || r->token[token].type != JSMN_PRIMITIVE) return otherwise;
    const char *at = r->json + r->token[token].start, *end = r->json + r->token[token].end;
    int negative = at < end && *at == '-', exponent = 0, power = 0, is_negative_power = 0, digits = 0;
    uint64_t whole = 0;
    at += negative;
    if (at == end || *at < '0' || *at > '9') return otherwise; /* null, true */
    for (int fraction = 0; at < end; at++) {
        if (*at == '.' && !fraction) { fraction = 1; continue; }
        if (*at < '0' || *at > '9') break;
        int counts = digits < 19;
        if (counts) whole = whole * 10 + (uint64_t)(*at - '0');
        if (whole) digits++;
        exponent += (counts ? 0 : 1) - fraction;
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        is_negative_power = at < end && *at == '-';
        if (at < end && (*at == '-' || *at == '+')) at++;
        for (; at < end && *at >= '0' && *at <= '9'; at++) power = power < 10000 ? power * 10 + *at - '0' : power;
    }
    exponent += is_negative_power ? -power : power;
    long double value = (long double)whole, scale = 1, ten = 10;
    for (unsigned left = (unsigned)(exponent < 0 ? -exponent : exponent); left && whole; left >>= 1, ten *= ten)
        if (left & 1) scale *= ten;
    value = exponent < 0 ? value / scale : value * scale;
    return (double)(negative ? -value : value);
}

static uint32_t hex(const char *at, size_t count)
{
    char digits[5] = {0};
    memcpy(digits, at, count);
    return (uint32_t)strtoul(digits, NULL, 16);
}

/* A text in UTF-8 without its escapes; jsmn has checked that four hexadecimal digits follow \u. */
static const char *text(reader *r, int token)
{
    if (token < 0 || r->token[token].type != JSMN_STRING) return "";
    const char *at = r->json + r->token[token].start, *end = r->json + r->token[token].end;
    char *copy = take(r, (size_t)(end - at) + 1), *to = copy;
    if (!copy) return "";
    while (at < end) {
        if (*at != '\\') { *to++ = *at++; continue; }
        char kind = at[1];
        at += 2;
        const char *plain = strchr("b\bf\fn\nr\rt\t", kind);
        if (kind != 'u') { *to++ = plain && *plain >= 'b' ? plain[1] : kind; continue; }
        uint32_t code = hex(at, 4);
        at += 4;
        if (code >= 0xd800 && code < 0xdc00 && end - at >= 6 && at[0] == '\\' && at[1] == 'u') {
            code = 0x10000 + ((code - 0xd800) << 10 | (hex(at + 2, 4) & 0x3ff));
            at += 6;
        }
        if (code < 0x80) *to++ = (char)code;
        else {
            int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
            static const unsigned char lead[] = {0, 0xc0, 0xe0, 0xf0};
            *to++ = (char)(lead[more] | code >> 6 * more);
            while (more--) *to++ = (char)(0x80 | (code >> 6 * more & 0x3f));
        }
    }
    return copy;
}

static const char *const *texts(reader *r, int array, int32_t *count)
{
    *count = length_of(r, array);
    if (*count < 1 || *count > MAX_LIST) {
        fail(r, MMKD_DAMAGED, "manifest.json: expected a list of names");
        return NULL;
    }
    const char **list = take(r, (size_t)*count * sizeof *list);
    for (int32_t i = 0, at = array + 1; list && i < *count; i++, at = after(r, at)) list[i] = text(r, at);
    return list;
}

static mmkd_numbers numbers(reader *r, int array)
{
    int32_t count = length_of(r, array);
    if (count < 1 || count > MAX_LIST) return (mmkd_numbers){NULL, 0};
    double *list = take(r, (size_t)count * sizeof *list);
    for (int32_t i = 0, at = array + 1; list && i < count; i++, at = after(r, at)) list[i] = number(r, at, 0);
    return (mmkd_numbers){list, list ? count : 0};
}

static int range(const reader *r, int array, double *low, double *high)
{
    if (length_of(r, array) != 2) return 0;
    *low = number(r, array + 1, -INFINITY);
    *high = number(r, after(r, array + 1), INFINITY);
    return 1;
}

/* The first artifact of this format and of precision fp32; any format if it is NULL. */
static int find_artifact(const reader *r, int artifacts, const char *format)
{
    for (int32_t i = 0, at = artifacts + 1; i < length_of(r, artifacts); i++, at = after(r, at))
        if (is_text(r, field(r, at, "precision"), "fp32") && (!format || is_text(r, field(r, at, "format"), format)))
            return at;
    return -1;
}

/* A member that the manifest names, with its hash. */
static member named_member(reader *r, const unsigned char *data, size_t size, int entry)
{
    member file = find_member(data, data + size - END_RECORD - COMMENT, text(r, field(r, entry, "file"))), none = {NULL, 0, 0, 0};
    char digest[65];
    if (!file.data) fail(r, MMKD_DAMAGED, "the bundle lacks a member that its manifest names; export it again");
    if (!file.data) return file;
    mmkd_sha256_text(file.data, file.size, digest);
    if (is_text(r, field(r, entry, "sha256"), digest)) return file;
    fail(r, MMKD_DAMAGED, "the bundle is damaged: a member has another SHA-256 than its manifest names; copy it again");
    return none;
}

static mmkd_model *open_model(reader *r, const unsigned char *data, size_t size, int artifact)
{
    if (artifact < 0) return NULL;
    mmkd_model *model = NULL;
    char reason[160] = "";
    member file = named_member(r, data, size, artifact);
    if (!file.data) return NULL;
    int status = mmkd_model_open(file.data, file.size, MMKD_ISA_BEST, &model, reason, sizeof reason);
    if (status != MMKD_OK) fail(r, status, reason[0] ? reason : "not enough memory");
    return model;
}

/* Whether the step model has the states that the manifest describes, and its step. */
static int has_states(reader *r, const mmkd_model *model, int streaming)
{
    int list = field(r, streaming, "states"), count = length_of(r, list);
    mmkd_facts facts = mmkd_model_facts(model);
    if (facts.step != number(r, field(r, streaming, "stride"), 0) || facts.states != count) return 0;
    for (int i = 0, at = list + 1; i < count; i++, at = after(r, at)) {
        char name[16];
        int32_t shape[4], axis, sizes = mmkd_state(model, i, name, shape, &axis);
        int given = field(r, at, "shape");
        if (strcmp(text(r, field(r, at, "name")), name) || length_of(r, given) != sizes) return 0;
        for (int32_t k = 0; k < sizes; k++)
            if (number(r, given + 1 + k, 0) != shape[k]) return 0;
        if (number(r, field(r, at, "axis"), -1) != axis) return 0;
    }
    return 1;
}

/* Whether the native model derives its windows from the sensor of the manifest. */
static int has_derivation(reader *r, const mmkd_model *model, int derived)
{
    const mmkd_derivation *d = &model->derivation;
    int source = field(r, derived, "source");
    if (derived < 0 || !d->samples) return derived < 0 && !d->samples;
    return number(r, field(r, derived, "samples"), 0) == d->samples && number(r, field(r, source, "samples"), 0) == d->whole &&
           length_of(r, field(r, source, "channels")) == d->channels && number(r, field(r, source, "rate_hz"), 0) == d->limits[0];
}

static void read_over_time(reader *r, int over_time, mmkd_entry *entry)
{
    int rules = field(r, over_time, "rules"), at = rules + 1;
    entry->prior = numbers(r, field(r, over_time, "prior"));
    for (; entry->hop_rules < length_of(r, rules) && entry->hop_rules < MMKD_MAX_HOP_RULES; at = after(r, at))
        entry->hop_rule[entry->hop_rules++] = (mmkd_hop_rule){
            number(r, field(r, at, "hop_fraction"), 1), number(r, field(r, at, "dwell_s"), 1), number(r, field(r, at, "exponent"), 1)};
}

static void read_entry(reader *r, const unsigned char *data, size_t size, int object, mmkd_entry *entry)
{
    int modality = field(r, object, "modality"), task = field(r, object, "task"), kind = field(r, task, "kind");
    int artifacts = field(r, object, "artifacts"), native = find_artifact(r, artifacts, "native");
    int streaming = field(r, object, "streaming"), magnitude = field(r, field(r, object, "group_reference"), "magnitude");
    mmkd_student *facts = &entry->facts;
    facts->modality = text(r, field(r, modality, "name"));
    facts->unit = text(r, field(r, modality, "unit"));
    facts->recorded = text(r, field(r, field(r, field(r, modality, "derived"), "source"), "name"));
    double samples = number(r, field(r, modality, "samples"), 0);
    facts->samples = samples >= 1 && samples <= 1 << 24 ? (int32_t)samples : 0;
    facts->rate_hz = number(r, field(r, modality, "rate_hz"), 0);
    entry->channel = texts(r, field(r, modality, "channels"), &facts->channels);
    entry->label = texts(r, field(r, task, "labels"), &facts->labels);
    facts->task = is_text(r, kind, "multi_label") ? MMKD_MULTI_LABEL
                  : is_text(r, kind, "regression") ? MMKD_REGRESSION
                  : is_text(r, kind, "normal") ? MMKD_NORMAL : MMKD_CLASSIFICATION;
    entry->on_from = number(r, field(r, task, "threshold"), 0.5);
    entry->has_target_range = range(r, field(r, task, "range"), &entry->target_low, &entry->target_high);
    entry->has_range = range(r, field(r, modality, "range"), &entry->low, &entry->high);
    int sort = field(r, modality, "kind");
    entry->is_series = sort < 0 || is_text(r, sort, "series");
    entry->is_per_group = is_text(r, field(r, modality, "normalise"), "per_group");
    entry->novelty = numbers(r, field(r, field(r, native, "novelty"), "scores"));
    if (facts->task == MMKD_NORMAL) {
        facts->labels = facts->labels > 0; /* the others name known faults */
        int normal = field(r, object, "normal");
        entry->novelty = numbers(r, field(r, normal, "scores"));
        entry->level = number(r, field(r, normal, "level"), 1), entry->groups = (int32_t)number(r, field(r, normal, "groups"), 1);
    }
    read_over_time(r, field(r, object, "over_time"), entry);
    entry->novelty_tolerance = number(r, field(r, field(r, native, "novelty"), "tolerance"), 0);
    entry->golden = text(r, field(r, field(r, object, "golden"), "file"));
    entry->golden_sha256 = text(r, field(r, field(r, object, "golden"), "sha256"));
    entry->step_novelty = numbers(r, field(r, field(r, find_artifact(r, artifacts, NULL), "novelty"), "scores"));
    entry->true_probabilities = numbers(r, field(r, field(r, native, "confidence"), "true_probabilities"));
    entry->usual = numbers(r, field(r, magnitude, "usual"));
    entry->lowest = number(r, field(r, magnitude, "lowest"), 0);
    entry->highest = number(r, field(r, magnitude, "highest"), INFINITY);
    entry->model = open_model(r, data, size, native);
    int step = find_artifact(r, field(r, streaming, "artifacts"), "native");
    int is_same = is_text(r, field(r, step, "sha256"), text(r, field(r, native, "sha256"))); /* a causal student's */
    entry->step = is_same ? entry->model : open_model(r, data, size, step);
    facts->has_native = entry->model != NULL;
    if (r->status != MMKD_OK) return;
    if (!(facts->rate_hz > 0) || !facts->samples || (entry->usual.count && entry->usual.count != facts->channels))
        fail(r, MMKD_DAMAGED, "manifest.json: the modality makes no sense; export the bundle again");
    mmkd_model *const models[] = {entry->model, entry->step};
    for (int i = 0; i < 2; i++) {
        if (!models[i]) continue;
        mmkd_facts model = mmkd_model_facts(models[i]);
        if (model.samples != facts->samples || model.channels != facts->channels || model.outputs != facts->labels ||
            model.task != facts->task || strcmp(mmkd_model_modality(models[i]), facts->modality))
            fail(r, MMKD_DAMAGED, "the native model is of another student than the manifest; export the bundle again");
        if (i ? !has_states(r, models[i], streaming) : !has_derivation(r, models[i], field(r, modality, "derived")))
            fail(r, MMKD_DAMAGED, "the native model has another derivation or other states than the manifest; export the bundle again");
        if (i == 1) facts->step = model.step;
        else if ((facts->recorded_samples = model.recorded_samples))
            facts->recorded_channels = model.recorded_channels, facts->recorded_rate_hz = models[i]->derivation.limits[0];
    }
}

/* ---- JSON as strict as mmkd_edge/bundle/strict_json.py; jsmn alone takes `[1 2]`, `1abc` and bytes that are no UTF-8 */

static const char *skip_space(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) at++;
    return at;
}

static const char *skip_digits(const char *at, const char *end)
{
    const char *first = at;
    while (at < end && *at >= '0' && *at <= '9') at++;
    return at > first ? at : NULL;
}

static const char *skip_number(const char *at, const char *end)
{
    at += at < end && *at == '-';
    at = at < end && *at == '0' ? at + 1 : skip_digits(at, end);
    if (at && at < end && *at == '.') at = skip_digits(at + 1, end);
    if (at && at < end && (*at == 'e' || *at == 'E')) {
        at++;
        at = skip_digits(at + (at < end && (*at == '-' || *at == '+')), end);
    }
    return at;
}

/* The code of \uXXXX; -1 if it is none. */
static long escaped_code(const char *at, const char *end)
{
    if (end - at < 6 || at[0] != '\\' || at[1] != 'u') return -1;
    for (int i = 2; i < 6; i++)
        if (!at[i] || !strchr("0123456789abcdefABCDEF", at[i])) return -1;
    return (long)hex(at + 2, 4);
}

/* The end of an escape or of a character in UTF-8 (RFC 3629, section 4). */
static const char *skip_character(const char *at, const char *end)
{
    const unsigned char *byte = (const unsigned char *)at;
    if (*at == '\\') {
        long code = escaped_code(at, end), low = code >= 0xd800 && code < 0xdc00 ? escaped_code(at + 6, end) : 0;
        if (code >= 0xdc00 && code < 0xe000) return NULL; /* half a surrogate pair */
        if (code >= 0 && low) return low >= 0xdc00 && low < 0xe000 ? at + 12 : NULL;
        if (code >= 0) return at + 6;
        return end - at > 1 && at[1] && strchr("\"\\/bfnrt", at[1]) ? at + 2 : NULL;
    }
    if (*byte < 0x80) return *byte < 0x20 ? NULL : at + 1;
    int more = *byte < 0xc2 || *byte > 0xf4 ? 0 : *byte < 0xe0 ? 1 : *byte < 0xf0 ? 2 : 3;
    if (!more || end - at <= more) return NULL;
    for (int i = 1; i <= more; i++)
        if ((byte[i] & 0xc0) != 0x80) return NULL;
    if ((*byte == 0xe0 && byte[1] < 0xa0) || (*byte == 0xed && byte[1] > 0x9f) || (*byte == 0xf0 && byte[1] < 0x90) ||
        (*byte == 0xf4 && byte[1] > 0x8f)) return NULL;
    return at + more + 1;
}

static const char *skip_value(const char *at, const char *end, int depth)
{
    if (at >= end) return NULL;
    if (*at == '"') {
        for (at++; at && at < end && *at != '"';) at = skip_character(at, end);
        return at && at < end ? at + 1 : NULL;
    }
    if (*at != '{' && *at != '[') {
        static const char *const words[] = {"true", "false", "null"};
        for (int i = 0; i < 3; i++)
            if ((size_t)(end - at) >= strlen(words[i]) && !memcmp(at, words[i], strlen(words[i]))) return at + strlen(words[i]);
        return skip_number(at, end);
    }
    const char close = *at == '{' ? '}' : ']';
    at = skip_space(at + 1, end);
    if (at < end && *at == close) return at + 1;
    while (at && at < end && depth < MAX_DEPTH) {
        if (close == '}') {
            at = *at == '"' ? skip_value(at, end, depth) : NULL;
            at = at ? skip_space(at, end) : NULL;
            at = at && at < end && *at == ':' ? skip_space(at + 1, end) : NULL;
        }
        at = at ? skip_value(at, end, depth + 1) : NULL;
        at = at ? skip_space(at, end) : NULL;
        if (at && at < end && *at == close) return at + 1;
        at = at && at < end && *at == ',' ? skip_space(at + 1, end) : NULL;
    }
    return NULL;
}

static int is_json(const char *at, size_t size)
{
    const char *end = at + size, *rest = skip_value(skip_space(at, end), end, 0);
    return rest && skip_space(rest, end) == end;
}

/* Whether no character could repaint a screen or make one name look like another: mmkd_edge/errors.py. */
static int is_printable(reader *r, int token)
{
    const char *start = r->json + r->token[token].start, *end = r->json + r->token[token].end;
    for (const char *at = start; end - at >= 6; at++)
        if (!memcmp(at, "\\u0000", 6)) return 0;
    for (const unsigned char *at = (const unsigned char *)text(r, token); *at; at++) {
        if (*at < 0x20 || *at == 0x7f || (*at == 0xc2 && at[1] < 0xa0) || (*at == 0xd8 && at[1] == 0x9c)) return 0;
        if (*at != 0xe2) continue;
        if (at[1] == 0x80 && (at[2] == 0x8e || at[2] == 0x8f || (at[2] >= 0xa8 && at[2] <= 0xae))) return 0;
        if (at[1] == 0x81 && at[2] >= 0xa6 && at[2] <= 0xa9) return 0;
    }
    return 1;
}

/* The bytes that a text in base64 (RFC 4648, section 4) stands for; -1 if it is none. */
static long base64_bytes(const char *at)
{
    size_t length = strlen(at), padding = length && at[length - 1] == '=';
    padding += padding && length > 1 && at[length - 2] == '=';
    for (size_t i = 0; i + padding < length; i++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", at[i])) return -1;
    return length % 4 ? -1 : (long)(length / 4 * 3 - padding);
}

static int fits_text(reader *r, int token, char kind, const char *words)
{
    const char *at = r->json + r->token[token].start;
    size_t length = (size_t)(r->token[token].end - r->token[token].start);
    if (r->token[token].type != JSMN_STRING) return 0;
    if (kind == 'p') return is_printable(r, token);
    if (kind == 'x') return base64_bytes(text(r, token)) >= 0;
    if (kind == 'e') {
        const char *word = text(r, token), *found = *word ? strstr(words, word) : NULL;
        return found && found[strlen(word)] == ' ' && (found == words || found[-1] == ' ');
    }
    for (size_t i = 0; i < length && kind == 'h'; i++)
        if (!at[i] || !strchr("0123456789abcdef", at[i])) return 0;
    return kind == 't' || length == 64;
}

static int fits_number(const reader *r, int token, char kind, int most)
{
    const char *at = r->json + r->token[token].start, *end = r->json + r->token[token].end;
    double value = number(r, token, NAN);
    if (!isfinite(value) || (most && value > most)) return 0;
    switch (kind) {
    case 'n': return 1;
    case '+': return value > 0;
    case '0': return value >= 0;
    case 'f': return value >= 0 && value <= 1;
    case '<': return value > 0 && value < 1;
    case 'r': return 0;
    }
    double least = kind == '2' ? 2 : kind == '1' || kind == 's' ? 1 : kind == 'i' ? 0 : -1e15;
    return skip_digits(at + (*at == '-'), end) == end && value >= least && value <= (kind == 's' ? 1 << 30 : 1e15);
}

static int obeys(reader *r, int object, const rule *rules);

static int fits(reader *r, int token, const char *kind, const rule *rule, int most)
{
    const jsmntok_t *t = r->token + token;
    if (*kind == '~') return (t->type == JSMN_PRIMITIVE && r->json[t->start] == 'n') || fits(r, token, kind + 1, rule, most);
    if (*kind == '[' || *kind == '(') {
        if (t->type != JSMN_ARRAY || t->size < (*kind == '[') || (most && t->size > most)) return 0;
        for (int i = 0, at = token + 1; i < t->size; i++, at = after(r, at))
            if (!fits(r, at, kind + 1, rule, 0)) return 0;
        return 1;
    }
    if (*kind == 'r') {
        double low = NAN, high = NAN;
        return range(r, token, &low, &high) && fits_number(r, token + 1, 'n', 0) && fits_number(r, token + 2, 'n', 0) && low < high;
    }
    if (*kind == 'm') {
        for (int i = 0, at = token + 1; i < t->size && t->type == JSMN_OBJECT; i++, at += 2)
            if (r->token[at + 1].type != JSMN_STRING || field(r, token, text(r, at)) != at + 1) return 0;
        return t->type == JSMN_OBJECT;
    }
    if (*kind == 'b') return t->type == JSMN_PRIMITIVE && strchr("tf", r->json[t->start]);
    if (*kind == 'o') return obeys(r, token, rule->inner);
    return strchr("tphex", *kind) ? fits_text(r, token, *kind, rule->inner) : fits_number(r, token, *kind, most);
}

/* Whether an object has all keys of the rules, as they must be, and no other key. */
static int obeys(reader *r, int object, const rule *rules)
{
    int matched = 0;
    if (object < 0 || r->token[object].type != JSMN_OBJECT) return 0;
    for (; rules->key; rules++) {
        int may_lack = *rules->kind == '?', value = field(r, object, rules->key);
        if (value < 0 ? !may_lack : !fits(r, value, rules->kind + may_lack, rules, rules->most)) {
            if (!r->fault) r->fault = rules->key;
            return 0;
        }
        matched += value >= 0;
    }
    return matched == r->token[object].size;
}

static int is_rising(mmkd_numbers list)
{
    for (int32_t i = 1; i < list.count; i++)
        if (list.number[i] < list.number[i - 1]) return 0;
    return list.count > 0;
}

/* Parse a member of JSON, an object; its tokens are freed by the caller. */
static int parse(reader *r, member file, const char *refusal)
{
    r->json = (const char *)file.data;
    if (!is_json(r->json, file.size)) return fail(r, MMKD_DAMAGED, refusal);
    jsmn_parser parser;
    jsmn_init(&parser);
    int count = jsmn_parse(&parser, r->json, file.size, NULL, 0);
    if (count > 0 && !(r->token = calloc((size_t)count, sizeof *r->token))) return fail(r, MMKD_NO_MEMORY, "not enough memory");
    jsmn_init(&parser);
    r->tokens = count > 0 ? jsmn_parse(&parser, r->json, file.size, r->token, (unsigned)count) : 0;
    return r->tokens < 1 || r->token[0].type != JSMN_OBJECT ? fail(r, MMKD_DAMAGED, refusal) : 0;
}

/* Why a signature of the manifest does not count; NULL if it does. */
static const char *signature_fault(const reader *r, const char *id, const char *digits, const unsigned char manifest[32])
{
    unsigned char signature[64];
    char own_id[65];
    for (int32_t i = 0; i < r->keys; i++) {
        mmkd_sha256_text(r->key[i].ed25519, sizeof r->key[i].ed25519, own_id);
        own_id[16] = 0;
        if (strcmp(own_id, id)) continue;
        if (strlen(digits) != 2 * sizeof signature) return "has signed something else";
        for (size_t n = 0; n < sizeof signature; n++) signature[n] = (unsigned char)hex(digits + 2 * n, 2);
        return mmkd_is_signed(r->key + i, manifest, signature) ? NULL : "has signed something else";
    }
    return "is not among them";
}

static int check_signed(reader *r, member manifest, member file)
{
    unsigned char digest[32];
    char reasons[300] = "";
    if (!file.data || file.size > MAX_SIGNATURES)
        return fail(r, MMKD_UNTRUSTED, "the bundle is not signed, and one of the given keys must have; export it with --sign");
    mmkd_sha256(manifest.data, manifest.size, digest);
    reader s = {r->bundle, NULL, NULL, 0, MMKD_OK, r->error, r->error_size, r->key, r->keys, NULL, 0};
    int is_signed = 0;
    if (!parse(&s, file, "signature.json is not valid JSON; sign the bundle again")) {
        int list = field(&s, 0, "signatures"), at = list + 1;
        for (int32_t i = 0; i < length_of(&s, list) && !is_signed; i++, at = after(&s, at)) {
            const char *id = text(&s, field(&s, at, "key_id"));
            const char *fault = signature_fault(&s, id, text(&s, field(&s, at, "ed25519")), digest);
            size_t used = strlen(reasons);
            is_signed = !fault;
            if (fault) snprintf(reasons + used, sizeof reasons - used, "%skey %.16s %s", used ? "; " : "", id, fault);
        }
    }
    free(s.token);
    r->status = s.status;
    if (is_signed || r->status != MMKD_OK) return r->status;
    r->status = MMKD_UNTRUSTED;
    mmkd_error(r->error, r->error_size, "no given key has signed the bundle: %s; have it signed by one that counts", reasons);
    return -1;
}

/* ---- what the rules of single values do not say: mmkd_edge/bundle/manifest_json.py */

static int are_unique(const char *const *list, int count)
{
    for (int i = 0; i < count; i++)
        for (int j = 0; j < i; j++)
            if (list[i][0] == list[j][0] && !strcmp(list[i], list[j])) return 0;
    return 1;
}

static int are_names(reader *r, int array)
{
    int32_t count = 0;
    const char *const *list = texts(r, array, &count);
    return list && are_unique(list, count);
}

/* 1 to 64 letters, digits, '_', '-' or '.'; what letters are beyond ASCII, Python knows. */
static int is_name(const char *at)
{
    int length = 0;
    if (*at == '-' || *at == '.') return 0;
    for (; *at; at++) {
        int is_plain = (*at >= '0' && *at <= '9') || ((*at | 32) >= 'a' && (*at | 32) <= 'z') || strchr("_-.", *at);
        if (!is_plain && !(*at & 0x80)) return 0;
        length += (*at & 0xc0) != 0x80;
    }
    return length > 0 && length <= 64;
}

static int is_rising_list(reader *r, int array, int strictly)
{
    mmkd_numbers list = numbers(r, array);
    for (int32_t i = 1; i < list.count; i++)
        if (list.number[i] < list.number[i - 1] || (strictly && list.number[i] == list.number[i - 1])) return 0;
    return 1;
}

static int is_tensor(reader *r, int tensor, const char *name, const char *suffix, const char *type, const double *sizes, int count)
{
    const char *got = text(r, field(r, tensor, "name"));
    size_t length = strlen(name);
    int shape = field(r, tensor, "shape");
    if (strncmp(got, name, length) || strcmp(got + length, suffix)) return 0;
    if (strcmp(text(r, field(r, tensor, "dtype")), type) || length_of(r, shape) != count) return 0;
    for (int i = 0; i < count; i++)
        if (number(r, shape + 1 + i, -1) != sizes[i]) return 0;
    return 1;
}

static int check_modality(reader *r, int modality, int depth)
{
    int kind = field(r, modality, "kind"), size = field(r, modality, "height"), limits = field(r, modality, "range");
    const int is_video = !strcmp(text(r, kind), "video"), channels = length_of(r, field(r, modality, "channels"));
    double height = number(r, size, 1), width = number(r, field(r, modality, "width"), 1), low = 0, high = 0;
    if (!is_name(text(r, field(r, modality, "name"))) || !are_names(r, field(r, modality, "channels"))) return 0;
    if ((size >= 0) != is_video || (field(r, modality, "width") >= 0) != is_video) return 0;
    if (range(r, limits, &low, &high) && !(low >= -3.4028235e38 && high <= 3.4028235e38)) return 0;
    if (number(r, field(r, modality, "samples"), 0) * height * width * channels > 1 << 24) return 0;
    int derived = field(r, modality, "derived");
    return depth || derived < 0 || check_modality(r, field(r, derived, "source"), 1);
}

static int check_task(reader *r, int task)
{
    const char *kind = text(r, field(r, task, "kind"));
    const int is_regression = !strcmp(kind, "regression"), is_class = !*kind || !strcmp(kind, "classification");
    const int labels = field(r, task, "labels"), count = length_of(r, labels);
    for (int i = 0, at = labels + 1; i < count; i++, at = after(r, at))
        if (r->token[at].start == r->token[at].end) return 0;
    if (!is_regression && (field(r, task, "unit") >= 0 || field(r, task, "range") >= 0)) return 0;
    if (strcmp(kind, "multi_label") && field(r, task, "threshold") >= 0) return 0;
    return are_names(r, labels) && (is_regression ? count == 1 : count >= 1 + is_class);
}

/* Artifacts of a student, or with `step` of its steps. */
static int check_artifacts(reader *r, int list, const char *name, const char *kind, int has_novelty, int step)
{
    char seen[16][32] = {{0}};
    const size_t length = strlen(name);
    const char *files[16];
    for (int i = 0, at = list + 1; i < length_of(r, list); i++, at = after(r, at)) {
        const char *precision = text(r, field(r, at, "precision")), *format = text(r, field(r, at, "format"));
        const double most = step || !strcmp(precision, "fp32") ? MAX_TOLERANCE : !strcmp(precision, "fp16") ? 1 : 8;
        int novelty = field(r, at, "novelty"), confidence = field(r, at, "confidence");
        const char *file = text(r, field(r, at, "file"));
        snprintf(seen[i], sizeof seen[i], "/%s.%.8s.%.8s", step ? "step" : "model", precision, format);
        files[i] = seen[i];
        if (strncmp(file, name, length) || strcmp(file + length, seen[i])) return 0;
        if (number(r, field(r, field(r, at, "parity"), "tolerance"), 0) > most) return 0;
        if (novelty >= 0 && (step || !has_novelty || number(r, field(r, novelty, "tolerance"), 0) > most ||
                             !is_rising_list(r, field(r, novelty, "scores"), 0))) return 0;
        if (!step && confidence >= 0 && r->token[confidence].type == JSMN_OBJECT &&
            ((*kind && strcmp(kind, "classification")) || !is_rising_list(r, field(r, confidence, "true_probabilities"), 0))) return 0;
    }
    return are_unique(files, length_of(r, list));
}

static int check_tensors(reader *r, int model, int has_novelty)
{
    int modality = field(r, model, "modality"), task = field(r, model, "task"), labels = field(r, task, "labels");
    const char *name = text(r, field(r, modality, "name")), *kind = text(r, field(r, task, "kind"));
    const int is_number = !strcmp(kind, "regression") || !strcmp(kind, "normal"), height = field(r, modality, "height");
    const int first = field(r, model, "inputs") + 1, logits = field(r, model, "outputs") + 1, is_video = height >= 0;
    double channels = length_of(r, field(r, modality, "channels")), width = number(r, field(r, modality, "width"), 0);
    double samples = number(r, field(r, modality, "samples"), 0), one = 1;
    double window[] = {1, samples, is_video ? number(r, height, 0) : channels, width, channels};
    double present[] = {1, samples, is_video ? 1 : channels}, answer[] = {1, is_number ? one : length_of(r, labels)}, score[] = {1, 1};
    int second = after(r, logits);
    return length_of(r, first - 1) == 2 && length_of(r, logits - 1) >= 2 &&
           is_tensor(r, first, name, "", is_video ? "uint8" : "float32", window, is_video ? 5 : 3) &&
           is_tensor(r, after(r, first), name, "_present", "float32", present, 3) &&
           is_tensor(r, logits, "logits", "", "float32", answer, 2) &&
           is_tensor(r, second, is_number ? "value" : "probabilities", "", "float32", answer, 2) &&
           (!has_novelty || is_tensor(r, after(r, second), "novelty", "", "float32", score, 2));
}

static int check_streaming(reader *r, int streaming, const char *name, double samples)
{
    static const char *const taken[] = {"slot", "logits", "probabilities", "value", "novelty"};
    const char *names[256];
    int states = field(r, streaming, "states"), count = length_of(r, states);
    for (int i = 0, at = states + 1; i < count; i++, at = after(r, at)) {
        int shape = field(r, at, "shape"), axis = field(r, at, "axis");
        double values = 1, slots = number(r, field(r, streaming, "slots"), 0), along = number(r, axis, -1);
        for (int k = 0; k < length_of(r, shape); k++) values *= number(r, shape + 1 + k, 0);
        names[i] = text(r, field(r, at, "name"));
        for (int k = 0; k < 5; k++)
            if (!strcmp(names[i], taken[k])) return 0;
        if (!is_name(names[i]) || !strcmp(names[i], name) || values > 1 << 24) return 0;
        if (!(fabs(number(r, field(r, at, "initial"), 0)) <= 3.4028235e38)) return 0;
        if (along >= 0 && (along >= length_of(r, shape) || number(r, shape + 1 + (int)along, 0) != slots)) return 0;
    }
    return number(r, field(r, streaming, "stride"), 0) <= samples && are_unique(names, count) &&
           check_artifacts(r, field(r, streaming, "artifacts"), name, "", 0, 1);
}

static int check_statistics(reader *r, int model, int channels, int labels)
{
    int statistics = field(r, model, "statistics"), group = field(r, model, "group_reference"), list = field(r, statistics, "channels");
    for (int i = 0, at = list + 1; i < length_of(r, list); i++, at = after(r, at)) {
        int edges = field(r, at, "edges");
        if (!is_rising_list(r, edges, 1) || length_of(r, field(r, at, "fractions")) != length_of(r, edges) + 1) return 0;
    }
    if (statistics >= 0 && r->token[statistics].type == JSMN_OBJECT &&
        (length_of(r, list) != channels || length_of(r, field(r, statistics, "label_fractions")) != labels)) return 0;
    if (group < 0 || r->token[group].type != JSMN_OBJECT) return 1;
    int features = 2 * channels + (channels <= 16 ? channels * (channels - 1) / 2 : 0), usual = field(r, field(r, group, "magnitude"), "usual");
    const int rows[] = {field(r, group, "centres"), field(r, group, "spreads")};
    for (int k = 0; k < 2; k++)
        for (int i = 0, at = rows[k] + 1; i < length_of(r, rows[k]); i++, at = after(r, at))
            if (length_of(r, at) != features) return 0;
    return length_of(r, field(r, group, "scales")) == channels && length_of(r, rows[0]) == length_of(r, rows[1]) &&
           (usual < 0 || length_of(r, usual) == channels);
}

static int check_over_time(reader *r, int over_time, const char *kind, int labels)
{
    int rules = field(r, over_time, "rules");
    if (over_time < 0) return 1;
    for (int i = 0, at = rules + 1; i < length_of(r, rules); i++, at = after(r, at)) {
        int delay = field(r, at, "delay"), single = field(r, at, "single_delay");
        if (length_of(r, delay) != 2 || length_of(r, single) != 2 || !is_rising_list(r, delay, 0) || !is_rising_list(r, single, 0) ||
            !(number(r, field(r, at, "hop_fraction"), 0) > 0)) return 0;
    }
    return (!*kind || !strcmp(kind, "classification")) && length_of(r, field(r, over_time, "prior")) == labels;
}

/* The first key of a student whose value does not fit the others; NULL if all do. */
static const char *model_fault(reader *r, int model)
{
    int modality = field(r, model, "modality"), task = field(r, model, "task"), streaming = field(r, model, "streaming");
    const char *name = text(r, field(r, model, "name")), *kind = text(r, field(r, task, "kind"));
    const int channels = length_of(r, field(r, modality, "channels")), normal = field(r, model, "normal");
    const int has_novelty = length_of(r, field(r, model, "outputs")) > 2, is_normal = !strcmp(kind, "normal");
    const int labels = is_normal || !strcmp(kind, "regression") ? 0 : length_of(r, field(r, task, "labels"));
    const char *file = text(r, field(r, field(r, model, "golden"), "file")), *hashes = text(r, field(r, model, "training_hashes"));
    size_t length = strlen(name);
    if (!is_name(name)) return "name";
    if (!check_modality(r, modality, 0)) return "modality";
    if (!check_task(r, task)) return "task";
    if (!check_tensors(r, model, has_novelty)) return "inputs or outputs";
    if (!check_artifacts(r, field(r, model, "artifacts"), name, kind, has_novelty, 0)) return "artifacts";
    if (strncmp(file, name, length) || strcmp(file + length, "/golden.npz")) return "golden";
    if (!check_statistics(r, model, channels, labels)) return "statistics or group_reference";
    if (is_normal != (normal >= 0) || !is_rising_list(r, field(r, normal, "scores"), 0)) return "normal";
    if (!check_over_time(r, field(r, model, "over_time"), kind, labels)) return "over_time";
    if (streaming >= 0 && r->token[streaming].type == JSMN_OBJECT &&
        !check_streaming(r, streaming, name, number(r, field(r, modality, "samples"), 0))) return "streaming";
    return base64_bytes(hashes) % 8 || base64_bytes(hashes) > 8 * 8192 ? "training_hashes" : NULL;
}

/* Whether a member is in the archive, with its size and hash, in the order of the manifest. */
static int check_member(reader *r, const unsigned char *data, size_t size, int entry)
{
    member file = named_member(r, data, size, entry);
    if (r->status == MMKD_OK && (file.place != ++r->members || (double)file.size != number(r, field(r, entry, "size_bytes"), 0)))
        fail(r, MMKD_DAMAGED, "the bundle is damaged: a member has another size or place than in its manifest; copy it again");
    return r->status == MMKD_OK;
}

static int check_members(reader *r, const unsigned char *data, size_t size, int list)
{
    for (int i = 0, at = list + 1; i < length_of(r, list); i++, at = after(r, at))
        if (!check_member(r, data, size, at)) return 0;
    return 1;
}

static void check_manifest(reader *r, const unsigned char *data, size_t size)
{
    int models = field(r, 0, "models"), files = field(r, 0, "files"), one = files + 1;
    const unsigned char *end = data + size - END_RECORD - COMMENT;
    const char *names[MMKD_MAX_STUDENTS], *fault = NULL;
    if (!obeys(r, 0, manifest_rules)) fault = r->fault ? r->fault : "an unknown key";
    else if (!*text(r, field(r, 0, "model_id")) || number(r, field(r, 0, "release"), 0) > 1e12) fault = "model_id or release";
    else if (length_of(r, files) != 2 || strcmp(text(r, field(r, one, "file")), "report.json") ||
             strcmp(text(r, field(r, after(r, one), "file")), "README.md")) fault = "files";
    int is_whole = !fault && check_members(r, data, size, files);
    for (int i = 0, at = models + 1; is_whole && !fault && i < length_of(r, models); i++, at = after(r, at)) {
        names[i] = text(r, field(r, at, "name"));
        fault = are_unique(names, i + 1) ? model_fault(r, at) : "name";
        is_whole = !fault && check_members(r, data, size, field(r, at, "artifacts")) &&
                   check_members(r, data, size, field(r, field(r, at, "streaming"), "artifacts")) &&
                   check_member(r, data, size, field(r, at, "golden"));
    }
    if (is_whole && mmkd_u16(end + 10) != r->members + 1 + (find_member(data, end, "signature.json").place == r->members + 1))
        fail(r, MMKD_DAMAGED, "the bundle has a member that its manifest does not name; export it again");
    if (!fault || r->status != MMKD_OK) return;
    r->status = MMKD_DAMAGED;
    mmkd_error(r->error, r->error_size, "manifest.json: %s: expected another value; export the bundle again", fault);
}

static void read_bundle(reader *r, const unsigned char *data, size_t size)
{
    if (check_archive(r, data, size)) return;
    const unsigned char *end = data + size - END_RECORD - COMMENT;
    member manifest = find_member(data, end, "manifest.json");
    if (!manifest.data || manifest.size > MAX_MANIFEST) fail(r, MMKD_DAMAGED, "the bundle has no manifest.json; export it again");
    if (r->status != MMKD_OK) return;
    if (r->keys && check_signed(r, manifest, find_member(data, end, "signature.json"))) return;
    if (parse(r, manifest, "manifest.json is not valid JSON; export the bundle again")) return;
    if (number(r, field(r, 0, "format_version"), 0) != 1)
        fail(r, MMKD_DAMAGED, "the bundle has another format version; use the release of mmkd-edge that made it");
    int models = field(r, 0, "models"), at = models + 1;
    if (length_of(r, models) < 1 || length_of(r, models) > MMKD_MAX_STUDENTS)
        fail(r, MMKD_DAMAGED, "manifest.json: expected 1 to 16 students");
    if (r->status == MMKD_OK) check_manifest(r, data, size);
    for (int32_t i = 0; i < length_of(r, models) && r->status == MMKD_OK; i++, at = after(r, at)) {
        r->bundle->count = i + 1; /* also one that fails is closed */
        read_entry(r, data, size, at, &r->bundle->entry[i]);
    }
}

static int open_bundle(const void *data, size_t size, const mmkd_key *keys, int32_t count, mmkd_bundle **bundle,
                       char *error, size_t error_size)
{
    reader r = {NULL, NULL, NULL, 0, MMKD_OK, error, error_size, keys, count, NULL, 0};
    *bundle = NULL;
    if ((r.bundle = calloc(1, sizeof *r.bundle))) read_bundle(&r, data, size);
    else fail(&r, MMKD_NO_MEMORY, "not enough memory");
    free(r.token);
    if (r.status == MMKD_OK) *bundle = r.bundle;
    else mmkd_close(r.bundle);
    return r.status;
}

int mmkd_open(const void *data, size_t size, mmkd_bundle **bundle, char *error, size_t error_size)
{
    return open_bundle(data, size, NULL, 0, bundle, error, error_size);
}

static int are_keys(const mmkd_key *keys, int32_t count, mmkd_bundle **bundle, char *error, size_t error_size)
{
    *bundle = NULL;
    if (keys && count > 0) return 1;
    mmkd_error(error, error_size, "keys: expected at least one public key, got none; pass the keys that may sign, or call mmkd_open for "
               "unsigned bundles");
    return 0;
}

int mmkd_open_signed(const void *data, size_t size, const mmkd_key *keys, int32_t count, mmkd_bundle **bundle, char *error,
                     size_t error_size)
{
    if (!are_keys(keys, count, bundle, error, error_size)) return MMKD_UNTRUSTED;
    return open_bundle(data, size, keys, count, bundle, error, error_size);
}

/* Open a regular file; a FIFO without a writer would block for ever. */
static FILE *open_regular(const char *path)
{
#if defined(__unix__) || defined(__APPLE__)
    struct stat facts;
    int descriptor = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    FILE *file = descriptor < 0 || fstat(descriptor, &facts) || !S_ISREG(facts.st_mode) ? NULL : fdopen(descriptor, "rb");
    if (!file && descriptor >= 0) close(descriptor);
    return file;
#else
    return fopen(path, "rb");
#endif
}

/* The file's bytes, to be freed; NULL if they cannot be read. */
static unsigned char *read_file(const char *path, const char *what, size_t *size, char *error, size_t error_size)
{
    errno = 0;
    FILE *file = open_regular(path);
    long length = -1;
    if (file && !fseek(file, 0, SEEK_END)) length = ftell(file);
    unsigned char *data = length > 0 && length <= MAX_FILE ? malloc((size_t)length) : NULL;
    int is_read = file && data && !fseek(file, 0, SEEK_SET) && fread(data, 1, (size_t)length, file) == (size_t)length;
    if (file) fclose(file);
    if (is_read) *size = (size_t)length;
    else mmkd_error(error, error_size, "%s: expected %s that can be read, got: %s", path, what,
                    errno ? strerror(errno) : file ? "an empty or too large file" : "a folder, FIFO or device");
    if (is_read) return data;
    free(data);
    return NULL;
}

static int open_bundle_file(const char *path, const mmkd_key *keys, int32_t count, mmkd_bundle **bundle, char *error,
                            size_t error_size)
{
    size_t size = 0;
    unsigned char *data = read_file(path, "a bundle (.edge)", &size, error, error_size);
    *bundle = NULL;
    int status = data ? open_bundle(data, size, keys, count, bundle, error, error_size) : MMKD_NO_FILE;
    free(data);
    return status;
}

int mmkd_open_file_signed(const char *path, const mmkd_key *keys, int32_t count, mmkd_bundle **bundle, char *error,
                          size_t error_size)
{
    if (!are_keys(keys, count, bundle, error, error_size)) return MMKD_UNTRUSTED;
    return open_bundle_file(path, keys, count, bundle, error, error_size);
}

int mmkd_open_file(const char *path, mmkd_bundle **bundle, char *error, size_t error_size)
{
    return open_bundle_file(path, NULL, 0, bundle, error, error_size);
}

int mmkd_commission_file(mmkd_bundle *bundle, int32_t student, const char *path, char *error, size_t error_size)
{
    static const char refusal[] = "expected normal running of one machine, recorded with this student; run mmkd-edge commission with this bundle";
    reader r = {bundle, NULL, NULL, 0, MMKD_OK, error, error_size, NULL, 0, NULL, 0};
    size_t size = 0;
    member file = {read_file(path, "a reference (.json)", &size, error, error_size), 0, 0, 0};
    if (!(file.size = size)) return MMKD_NO_FILE;
    mmkd_entry *e = student >= 0 && student < bundle->count ? &bundle->entry[student] : NULL;
    if (file.size > MAX_MANIFEST) fail(&r, MMKD_DAMAGED, refusal);
    else if (!parse(&r, file, refusal)) {
        int normal = field(&r, 0, "normal"), commissioned = field(&r, 0, "commissioned");
        mmkd_numbers scores = numbers(&r, field(&r, normal, "scores"));
        int is_sound = obeys(&r, 0, reference_rules) && number(&r, field(&r, 0, "format_version"), 1) == 1 &&
                       is_rising(scores) && scores.count <= MAX_SCORES;
        if (!is_sound || !e || e->facts.task != MMKD_NORMAL || !is_text(&r, field(&r, 0, "modality"), e->facts.modality) ||
            length_of(&r, field(&r, 0, "mean")) != e->facts.channels || length_of(&r, field(&r, 0, "std")) != e->facts.channels ||
            !is_text(&r, field(&r, commissioned, "student_sha256"), e->golden_sha256)) fail(&r, MMKD_MISUSE, refusal);
        else e->novelty = scores, e->level = number(&r, field(&r, normal, "level"), 0),
             e->groups = (int32_t)fmin(number(&r, field(&r, normal, "groups"), 0), 1e9);
    }
    free(r.token);
    free((void *)file.data);
    return r.status;
}

/* ---- golden windows: an archive of .npy files (numpy.lib.format, version 1.0), written by mmkd_edge/bundle/golden.py */

/* PKWARE APPNOTE 6.3.10, section 4.4.7 */
static uint32_t crc32_of(const unsigned char *data, size_t size)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    uint32_t crc = ~0u;
    for (size_t i = 0; i < size; i++) {
        crc = table[(crc ^ data[i]) & 15] ^ crc >> 4;
        crc = table[(crc ^ data[i] >> 4) & 15] ^ crc >> 4;
    }
    return ~crc;
}

/* The numbers of an array of the archive, if its header is the one that numpy writes; NULL for another. */
static const unsigned char *array_of(member npz, const char *name, const char *kind, const char *shape, size_t bytes)
{
    char expected[160];
    member file = find_member(npz.data, npz.data + npz.size - END_RECORD, name);
    if (file.size < 10 || memcmp(file.data, "\x93NUMPY\1", 8)) return NULL;
    size_t header = 10 + (size_t)mmkd_u16(file.data + 8);
    int length = snprintf(expected, sizeof expected, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", kind, shape);
    if (file.size < header || file.size - header != bytes || header < 11 + (size_t)length) return NULL;
    if (memcmp(file.data + 10, expected, (size_t)length) || file.data[header - 1] != '\n') return NULL;
    for (size_t at = 10 + (size_t)length; at < header - 1; at++)
        if (file.data[at] != ' ') return NULL;
    return crc32_of(file.data, file.size) == file.crc32 ? file.data + header : NULL;
}

/* All arrays of the golden windows of a student, in their places in the archive. */
typedef struct {
    size_t count;
    const unsigned char *windows, *logits, *probabilities, *novelty;
    double tolerance;
} golden;

/* Whether the arrays are those of this student, as mmkd_edge/bundle/golden.py reads them. */
static int read_golden(member npz, const mmkd_entry *e, golden *g)
{
    const size_t cells = (size_t)e->facts.samples * (size_t)e->facts.channels, outputs = (size_t)e->facts.labels;
    const int has_novelty = mmkd_model_facts(e->model).has_novelty, task = e->facts.task;
    if (npz.size < END_RECORD || memcmp(npz.data + npz.size - END_RECORD, "PK\5\6", 4)) return 0;
    member windows = find_member(npz.data, npz.data + npz.size - END_RECORD, "windows.npy");
    if (windows.size < 10 || mmkd_u16(npz.data + npz.size - END_RECORD + 10) != (uint32_t)(6 + has_novelty)) return 0;
    if (windows.size < 10 + (size_t)mmkd_u16(windows.data + 8)) return 0;
    const size_t n = g->count = (windows.size - 10 - mmkd_u16(windows.data + 8)) / 4 / cells;
    char all[60], each[40], one[30], single[40];
    snprintf(all, sizeof all, "(%zu, %d, %d)", n, (int)e->facts.samples, (int)e->facts.channels);
    snprintf(each, sizeof each, "(%zu, %d)", n, (int)outputs);
    snprintf(one, sizeof one, "(%zu,)", n);
    snprintf(single, sizeof single, "(%zu, 1)", n);
    const int several = task == MMKD_MULTI_LABEL, is_value = task == MMKD_REGRESSION;
    const unsigned char *tolerance = array_of(npz, "tolerance.npy", "<f8", "()", 8);
    g->windows = array_of(npz, "windows.npy", "<f4", all, 4 * n * cells);
    g->logits = array_of(npz, "logits.npy", "<f4", each, 4 * n * outputs);
    g->probabilities = array_of(npz, "probabilities.npy", "<f4", each, 4 * n * outputs);
    g->novelty = has_novelty ? array_of(npz, "novelty.npy", "<f4", single, 4 * n) : NULL;
    if (!n || !tolerance || !g->windows || !g->logits || !g->probabilities || (has_novelty && !g->novelty) ||
        !array_of(npz, "judge.npy", "|b1", one, n) ||
        !array_of(npz, "labels.npy", several ? "|u1" : is_value ? "<f4" : "<i8", several ? each : one,
                  n * (several ? outputs : is_value ? 4 : 8))) return 0;
    memcpy(&g->tolerance, tolerance, sizeof g->tolerance);
    return g->tolerance > 0 && g->tolerance <= MAX_TOLERANCE;
}

static int are_finite(const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i])) return 0;
    return 1;
}

static double larger(double one, double other) { return isnan(one) || other <= one ? one : other; } /* NaN is the largest */

/* How far apart stored and computed answers are, relative to `scale` for the second half; NaN is the largest. */
static double distance(const float *expected, const float *got, size_t outputs, double scale)
{
    double apart = 0;
    for (size_t k = 0; k < 2 * outputs; k++)
        apart = larger(apart, fabs((double)got[k] - expected[k]) / (k >= outputs && scale > 0 ? scale : 1));
    return apart;
}

/* Answer the golden windows; `memory` has room for a window, its presence, the answers and the scratch. */
static int test_windows(const golden *g, const mmkd_entry *e, float *memory, double *largest, char *error, size_t error_size)
{
    const size_t cells = (size_t)e->facts.samples * (size_t)e->facts.channels, outputs = (size_t)e->facts.labels;
    float *values = memory, *present = values + cells, *expected = present + cells, *got = expected + 2 * outputs;
    float *novelty = got + 2 * outputs, *place = novelty + 2;
    place += (64 - (uintptr_t)place % 64) % 64 / sizeof(float);
    double scale = 0;
    for (size_t i = 0; i < g->count * outputs; i++) {
        memcpy(expected, g->probabilities + 4 * i, 4), memcpy(expected + 1, g->logits + 4 * i, 4);
        if (!are_finite(expected, 2)) return MMKD_DAMAGED;
        scale = e->facts.task >= MMKD_REGRESSION && fabs(expected[0]) > scale ? fabs(expected[0]) : scale;
    }
    for (size_t i = 0; i < g->count && g->novelty; i++) {
        memcpy(novelty, g->novelty + 4 * i, 4);
        if (!are_finite(novelty, 1) || !(*novelty >= 0)) return MMKD_DAMAGED;
    }
    const clock_t begun = clock();
    for (size_t count = 0; count < g->count && (!count || (clock() - begun) / CLOCKS_PER_SEC < SELFTEST_S); count++) {
        memcpy(values, g->windows + 4 * count * cells, 4 * cells);
        memcpy(expected, g->logits + 4 * count * outputs, 4 * outputs);
        memcpy(expected + outputs, g->probabilities + 4 * count * outputs, 4 * outputs);
        for (size_t i = 0; i < cells; i++) {
            int there = isfinite(values[i]) && (!e->has_range || e->is_per_group || (values[i] >= e->low && values[i] <= e->high));
            present[i] = there ? 1.0f : 0.0f;
            values[i] = there ? values[i] : 0.0f;
        }
        mmkd_run(e->model, place, values, present, got, got + outputs, novelty);
        double apart = distance(expected, got, outputs, scale), limit = g->tolerance;
        *largest = larger(*largest, apart);
        const char *what = "answer";
        if (apart <= limit && e->novelty.count && g->novelty) {
            memcpy(novelty + 1, g->novelty + 4 * count, 4);
            apart = fabs((double)novelty[1] - novelty[0]) / (1.0 + novelty[1]);
            limit = e->novelty_tolerance, what = "novelty";
        }
        if (apart <= limit) continue;
        mmkd_error(error, error_size, "student '%.64s': golden window %d: expected the stored %s within %.0e, got a difference "
                   "of %.0e; this processor computes another result than at export: do not use it", e->facts.modality,
                   (int)count, what, limit, apart);
        return MMKD_DIFFERS;
    }
    return MMKD_OK;
}

static int test_student(const unsigned char *data, size_t size, const mmkd_entry *e, double *largest, char *error, size_t error_size)
{
    const size_t cells = (size_t)e->facts.samples * (size_t)e->facts.channels, outputs = (size_t)e->facts.labels;
    const size_t scratch = mmkd_model_facts(e->model).scratch_bytes / sizeof(float);
    member npz = find_member(data, data + size - END_RECORD - COMMENT, e->golden);
    golden windows;
    char digest[65] = "";
    if (npz.data) mmkd_sha256_text(npz.data, npz.size, digest);
    float *memory = calloc(2 * cells + 4 * outputs + 2 + scratch + 16, sizeof *memory);
    if (!memory) mmkd_error(error, error_size, "not enough memory");
    if (!memory) return MMKD_NO_MEMORY;
    int status = MMKD_DAMAGED;
    if (!strcmp(digest, e->golden_sha256) && read_golden(npz, e, &windows))
        status = test_windows(&windows, e, memory, largest, error, error_size);
    if (status == MMKD_DAMAGED) mmkd_error(error, error_size, "%.64s: expected golden windows; export the bundle again", e->golden);
    free(memory);
    return status;
}

int mmkd_selftest_file(const char *path, double *largest, char *error, size_t error_size)
{
    double worst = 0;
    size_t size = 0;
    mmkd_bundle *bundle = NULL;
    unsigned char *data = read_file(path, "a bundle (.edge)", &size, error, error_size);
    int status = data ? mmkd_open(data, size, &bundle, error, error_size) : MMKD_NO_FILE, tested = 0;
    for (int32_t i = 0; !status && i < bundle->count; i++) {
        if (!bundle->entry[i].model) continue;
        status = test_student(data, size, &bundle->entry[i], &worst, error, error_size);
        tested = 1;
    }
    if (!status && !tested) {
        mmkd_error(error, error_size, "the bundle has no native model; export it again with --target native");
        status = MMKD_MISUSE;
    }
    if (largest) *largest = worst;
    mmkd_close(bundle);
    free(data);
    return status;
}

void mmkd_close(mmkd_bundle *bundle)
{
    if (!bundle) return;
    for (int32_t i = 0; i < bundle->count; i++) {
        mmkd_model_close(bundle->entry[i].model);
        if (bundle->entry[i].step != bundle->entry[i].model) mmkd_model_close(bundle->entry[i].step);
    }
    mmkd_release(bundle->memory);
    free(bundle);
}

int32_t mmkd_students(const mmkd_bundle *bundle) { return bundle->count; }

mmkd_student mmkd_describe(const mmkd_bundle *bundle, int32_t student)
{
    mmkd_student none = {.modality = "", .unit = "", .recorded = ""};
    return student < 0 || student >= bundle->count ? none : bundle->entry[student].facts;
}

const char *mmkd_label(const mmkd_bundle *bundle, int32_t student, int32_t index)
{
    mmkd_student facts = mmkd_describe(bundle, student);
    return index < 0 || index >= facts.labels ? "" : bundle->entry[student].label[index];
}

const char *mmkd_channel(const mmkd_bundle *bundle, int32_t student, int32_t index)
{
    mmkd_student facts = mmkd_describe(bundle, student);
    return index < 0 || index >= facts.channels ? "" : bundle->entry[student].channel[index];
}
