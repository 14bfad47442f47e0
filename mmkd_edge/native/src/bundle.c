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
    member none = {NULL, 0};
    size_t at = mmkd_u32(end + 16), limit = (size_t)(end - data), length = strlen(name);
    for (uint32_t i = 0; i < mmkd_u16(end + 10) && i < MAX_MEMBERS; i++) {
        if (at > limit || limit - at < 46 || memcmp(data + at, "PK\1\2", 4)) return none;
        const unsigned char *entry = data + at;
        size_t name_size = mmkd_u16(entry + 28), stored = mmkd_u32(entry + 24), start = mmkd_u32(entry + 42);
        at += 46 + name_size + mmkd_u16(entry + 30) + mmkd_u16(entry + 32);
        if (at > limit) return none;
        if (name_size != length || memcmp(entry + 46, name, length)) continue;
        if (mmkd_u16(entry + 10) || start > limit || limit - start < 30) return none; /* 0: stored as it is */
        start += 30 + mmkd_u16(data + start + 26) + mmkd_u16(data + start + 28);
        if (start > limit || stored > limit - start) return none;
        return (member){data + start, stored};
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
    member file = find_member(data, data + size - END_RECORD - COMMENT, text(r, field(r, entry, "file"))), none = {NULL, 0};
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
    entry->is_series = is_text(r, field(r, modality, "kind"), "series");
    entry->is_per_group = is_text(r, field(r, modality, "normalise"), "per_group");
    entry->novelty = numbers(r, field(r, field(r, native, "novelty"), "scores"));
    if (facts->task == MMKD_NORMAL) {
        facts->labels = facts->labels > 0; /* the others name known faults */
        int normal = field(r, object, "normal");
        entry->novelty = numbers(r, field(r, normal, "scores"));
        entry->level = number(r, field(r, normal, "level"), 1), entry->groups = (int32_t)number(r, field(r, normal, "groups"), 1);
    }
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

/* What a value must be: t a text, h a SHA-256, n a number, + one above 0, 0 one of at least 0, f one of 0 to 1, < one between
 * them, i a whole number of at least 0, 1 one of at least 1, o an object, [x a list of one x or more; ?x may be absent. */
typedef struct {
    const char *key, *kind;
} rule;

static int fits(const reader *r, int token, const char *kind)
{
    if (*kind == '[') {
        for (int i = 0, at = token + 1; i < length_of(r, token); i++, at = after(r, at))
            if (!fits(r, at, kind + 1)) return 0;
        return length_of(r, token) > 0;
    }
    const char *at = r->json + r->token[token].start;
    size_t length = (size_t)(r->token[token].end - r->token[token].start);
    if (*kind == 'o') return r->token[token].type == JSMN_OBJECT;
    if (*kind == 't') return r->token[token].type == JSMN_STRING;
    if (*kind == 'h') {
        for (size_t i = 0; i < length; i++)
            if (!at[i] || !strchr("0123456789abcdef", at[i])) return 0;
        return r->token[token].type == JSMN_STRING && length == 64;
    }
    double value = number(r, token, NAN);
    int is_whole = skip_digits(at + (*at == '-'), at + length) == at + length && value <= 1e15;
    return isfinite(value) && (*kind == 'n' || (*kind == '+' && value > 0) || (*kind == '0' && value >= 0) ||
                               (*kind == 'f' && value >= 0 && value <= 1) || (*kind == '<' && value > 0 && value < 1) ||
                               (*kind == 'i' && is_whole && value >= 0) || (*kind == '1' && is_whole && value >= 1));
}

/* Whether an object has all keys of the rules, as they must be, and no other key. */
static int obeys(const reader *r, int object, const rule *rules)
{
    int matched = 0;
    if (object < 0 || r->token[object].type != JSMN_OBJECT) return 0;
    for (; rules->key; rules++) {
        int may_lack = *rules->kind == '?', value = field(r, object, rules->key);
        if (value < 0 ? !may_lack : !fits(r, value, rules->kind + may_lack)) return 0;
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
    reader s = {r->bundle, NULL, NULL, 0, MMKD_OK, r->error, r->error_size, r->key, r->keys};
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
    for (int32_t i = 0; i < length_of(r, models) && r->status == MMKD_OK; i++, at = after(r, at)) {
        r->bundle->count = i + 1; /* also one that fails is closed */
        read_entry(r, data, size, at, &r->bundle->entry[i]);
    }
}

static int open_bundle(const void *data, size_t size, const mmkd_key *keys, int32_t count, mmkd_bundle **bundle,
                       char *error, size_t error_size)
{
    reader r = {NULL, NULL, NULL, 0, MMKD_OK, error, error_size, keys, count};
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

/* mmkd_edge/bundle/reference.py: Reference, Commissioned; manifest.py: Normal */
static const rule reference_rules[] = {{"format_version", "?1"}, {"modality", "t"}, {"mean", "[n"}, {"std", "[+"},
                                       {"normal", "o"}, {"commissioned", "o"}, {NULL, NULL}};
static const rule normal_rules[] = {{"scores", "[+"}, {"windows", "1"}, {"groups", "i"}, {"hours", "0"}, {"level", "<"},
                                    {"window_rate", "f"}, {"groups_above", "f"}, {NULL, NULL}};
static const rule commissioned_rules[] = {{"model_id", "t"}, {"student_sha256", "h"}, {"source", "t"}, {"ended_utc", "t"},
                                          {"minutes", "n"}, {"unlike", "n"}, {"judgement", "?t"}, {NULL, NULL}};

int mmkd_commission_file(mmkd_bundle *bundle, int32_t student, const char *path, char *error, size_t error_size)
{
    static const char refusal[] = "expected normal running of one machine, recorded with this student; run mmkd-edge commission with this bundle";
    reader r = {bundle, NULL, NULL, 0, MMKD_OK, error, error_size, NULL, 0};
    size_t size = 0;
    member file = {read_file(path, "a reference (.json)", &size, error, error_size), 0};
    if (!(file.size = size)) return MMKD_NO_FILE;
    mmkd_entry *e = student >= 0 && student < bundle->count ? &bundle->entry[student] : NULL;
    if (file.size > MAX_MANIFEST) fail(&r, MMKD_DAMAGED, refusal);
    else if (!parse(&r, file, refusal)) {
        int normal = field(&r, 0, "normal"), commissioned = field(&r, 0, "commissioned");
        mmkd_numbers scores = numbers(&r, field(&r, normal, "scores"));
        int is_sound = obeys(&r, 0, reference_rules) && obeys(&r, normal, normal_rules) &&
                       obeys(&r, commissioned, commissioned_rules) && number(&r, field(&r, 0, "format_version"), 1) == 1 &&
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

/* Copy `count` little-endian values of `width` bytes from an array of the archive, from value `first` on. */
static int copy_values(member npz, const char *name, const char *kind, size_t first, size_t count, size_t width, void *to)
{
    if (npz.size < END_RECORD) return 0;
    member file = find_member(npz.data, npz.data + npz.size - END_RECORD, name);
    if (file.size < 10 || memcmp(file.data, "\x93NUMPY\1", 7)) return 0;
    size_t header = 10 + mmkd_u16(file.data + 8);
    char text[200] = "", start[40];
    if (file.size < header || (header - 10) >= sizeof text || (file.size - header) / width < first + count) return 0;
    memcpy(text, file.data + 10, header - 10);
    snprintf(start, sizeof start, "{'descr': '%s', 'fortran_order': False", kind);
    memcpy(to, file.data + header + first * width, count * width);
    return !strncmp(text, start, strlen(start));
}

static int are_finite(const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i])) return 0;
    return 1;
}

static double larger(double one, double other) { return isnan(one) || other <= one ? one : other; } /* NaN is the largest */

static int test_student(const unsigned char *data, size_t size, const mmkd_entry *e, double *largest, char *error, size_t error_size)
{
    const size_t cells = (size_t)e->facts.samples * (size_t)e->facts.channels, outputs = (size_t)e->facts.labels;
    const size_t scratch = mmkd_model_facts(e->model).scratch_bytes / sizeof(float);
    member npz = find_member(data, data + size - END_RECORD - COMMENT, e->golden);
    char digest[65] = "";
    if (npz.data) mmkd_sha256_text(npz.data, npz.size, digest);
    double tolerance = 0, worst = 0, scale = 0;
    float *memory = calloc(2 * cells + 4 * outputs + 2 + scratch + 16, sizeof *memory);
    if (!memory) {
        mmkd_error(error, error_size, "not enough memory");
        return MMKD_NO_MEMORY;
    }
    float *values = memory, *present = values + cells, *expected = present + cells, *got = expected + 2 * outputs;
    float *novelty = got + 2 * outputs, *place = novelty + 2;
    place += (64 - (uintptr_t)place % 64) % 64 / sizeof(float);
    int status = !strcmp(digest, e->golden_sha256) && copy_values(npz, "tolerance.npy", "<f8", 0, 1, 8, &tolerance) && tolerance > 0 &&
                 tolerance <= MAX_TOLERANCE ? MMKD_OK : MMKD_DAMAGED;
    size_t count = 0;
    for (; e->facts.task >= MMKD_REGRESSION && copy_values(npz, "probabilities.npy", "<f4", count, 1, 4, expected); count++)
        scale = fabs(expected[0]) > scale ? fabs(expected[0]) : scale;
    const clock_t begun = clock();
    for (count = 0; !status && (!count || (clock() - begun) / CLOCKS_PER_SEC < SELFTEST_S) &&
                    copy_values(npz, "windows.npy", "<f4", count * cells, cells, 4, values); count++) {
        for (size_t i = 0; i < cells; i++) {
            int there = isfinite(values[i]) && (!e->has_range || e->is_per_group || (values[i] >= e->low && values[i] <= e->high));
            present[i] = there ? 1.0f : 0.0f;
            values[i] = there ? values[i] : 0.0f;
        }
        if (!copy_values(npz, "logits.npy", "<f4", count * outputs, outputs, 4, expected) ||
            !copy_values(npz, "probabilities.npy", "<f4", count * outputs, outputs, 4, expected + outputs) ||
            !are_finite(expected, 2 * outputs)) status = MMKD_DAMAGED;
        mmkd_run(e->model, place, values, present, got, got + outputs, novelty);
        double apart = 0;
        for (size_t k = 0; k < 2 * outputs; k++) {
            double difference = fabs((double)got[k] - expected[k]) / (k >= outputs && scale > 0 ? scale : 1);
            apart = larger(apart, difference);
        }
        worst = larger(worst, apart);
        double limit = tolerance;
        const char *what = "answer";
        if (apart <= limit && e->novelty.count && copy_values(npz, "novelty.npy", "<f4", count, 1, 4, novelty + 1)) {
            apart = fabs((double)novelty[1] - novelty[0]) / (1.0 + novelty[1]);
            limit = e->novelty_tolerance, what = "novelty";
            if (!are_finite(novelty + 1, 1)) status = MMKD_DAMAGED;
        }
        if (!status && !(apart <= limit)) {
            mmkd_error(error, error_size, "student '%.64s': golden window %d: expected the stored %s within %.0e, got a difference "
                       "of %.0e; this processor computes another result than at export: do not use it", e->facts.modality,
                       (int)count, what, limit, apart);
            status = MMKD_DIFFERS;
        }
    }
    if (status == MMKD_DAMAGED || (!status && !count)) {
        mmkd_error(error, error_size, "%.64s: expected golden windows; export the bundle again", e->golden);
        status = MMKD_DAMAGED;
    }
    *largest = larger(*largest, worst);
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
