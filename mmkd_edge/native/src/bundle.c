/* Reads a bundle: the archive's digest first, then the manifest, then the native models.
 *
 * The archive is a ZIP of stored members whose comment holds the SHA-256 of everything before the end record
 * (mmkd_edge/bundle/archive.py and bundle.py). The manifest is JSON (mmkd_edge/bundle/manifest.py).
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bundle.h"

#define JSMN_STATIC
#define JSMN_STRICT
#define JSMN_PARENT_LINKS
#include "../third_party/jsmn.h"

enum { END_RECORD = 22, COMMENT = 81, MAX_MEMBERS = 256, MAX_MANIFEST = 1 << 20, MAX_LIST = 10000 };
#define MAX_FILE ((long)1 << 30)
static const char comment_start[] = "mmkd-edge sha256 ";

void mmkd_error(char *error, size_t error_size, const char *format, ...)
{
    if (!error || !error_size) return;
    va_list values;
    va_start(values, format);
    vsnprintf(error, error_size, format, values);
    va_end(values);
}

/* ---- SHA-256 (FIPS 180-4, section 6.2) */

static uint32_t turned(uint32_t x, int bits) { return x >> bits | x << (32 - bits); }

static void hash_block(uint32_t hash[8], const unsigned char *block)
{
    static const uint32_t constants[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    uint32_t w[64];
    for (int i = 0; i < 16; i++, block += 4)
        w[i] = (uint32_t)block[0] << 24 | (uint32_t)block[1] << 16 | (uint32_t)block[2] << 8 | block[3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (turned(a, 7) ^ turned(a, 18) ^ a >> 3) + w[i - 7] + (turned(b, 17) ^ turned(b, 19) ^ b >> 10);
    }
    uint32_t a = hash[0], b = hash[1], c = hash[2], d = hash[3], e = hash[4], f = hash[5], g = hash[6], h = hash[7];
    for (int i = 0; i < 64; i++) {
        uint32_t first = h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + constants[i] + w[i];
        uint32_t second = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
    }
    const uint32_t after[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; i++) hash[i] += after[i];
}

void mmkd_sha256(const unsigned char *data, size_t size, unsigned char digest[32])
{
    uint32_t hash[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    unsigned char last[128] = {0};
    size_t left = size % 64, blocks = left < 56 ? 1 : 2;
    uint64_t bits = (uint64_t)size * 8;
    for (size_t i = 0; i + 64 <= size; i += 64) hash_block(hash, data + i);
    if (left) memcpy(last, data + size - left, left);
    last[left] = 0x80;
    for (int i = 0; i < 8; i++) last[blocks * 64 - 1 - (size_t)i] = (unsigned char)(bits >> 8 * i);
    for (size_t i = 0; i < blocks; i++) hash_block(hash, last + 64 * i);
    for (int i = 0; i < 32; i++) digest[i] = (unsigned char)(hash[i / 4] >> (24 - i % 4 * 8));
}

/* ---- memory that is freed with the bundle */

typedef struct mmkd_block_of_memory {
    struct mmkd_block_of_memory *next;
} block;

typedef struct {
    mmkd_bundle *bundle;
    const char *json;
    jsmntok_t *token;
    int tokens;
    int status;
    char *error;
    size_t error_size;
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
    block *fresh = calloc(1, sizeof *fresh + size);
    if (!fresh) {
        fail(r, MMKD_NO_MEMORY, "not enough memory");
        return NULL;
    }
    fresh->next = r->bundle->memory;
    r->bundle->memory = fresh;
    return fresh + 1;
}

/* ---- the archive */

static uint32_t u16(const unsigned char *at) { return (uint32_t)at[0] | (uint32_t)at[1] << 8; }
static uint32_t u32(const unsigned char *at) { return u16(at) | u16(at + 2) << 16; }

typedef struct {
    const unsigned char *data;
    size_t size;
} member;

static int check_archive(reader *r, const unsigned char *data, size_t size)
{
    if (size < END_RECORD + COMMENT || size > (size_t)MAX_FILE) return fail(r, MMKD_DAMAGED, "expected a bundle (.edge)");
    const unsigned char *end = data + size - END_RECORD - COMMENT, *comment = end + END_RECORD;
    if (memcmp(end, "PK\5\6", 4) || u16(end + 20) != COMMENT || memcmp(comment, comment_start, sizeof comment_start - 1))
        return fail(r, MMKD_DAMAGED, "expected a bundle (.edge), or it was cut off; copy it again");
    unsigned char digest[32];
    char text[65];
    mmkd_sha256(data, size - END_RECORD - COMMENT, digest);
    for (int i = 0; i < 32; i++) snprintf(text + 2 * i, 3, "%02x", digest[i]);
    if (memcmp(text, comment + sizeof comment_start - 1, 64))
        return fail(r, MMKD_DAMAGED, "the bundle is damaged: its SHA-256 does not match its content; copy it again");
    return 0;
}

/* The bytes of a member; an empty one if there is none. */
static member find_member(const unsigned char *data, size_t size, const char *name)
{
    const unsigned char *end = data + size - END_RECORD - COMMENT;
    member none = {NULL, 0};
    size_t at = u32(end + 16), limit = (size_t)(end - data), length = strlen(name);
    for (uint32_t i = 0; i < u16(end + 10) && i < MAX_MEMBERS; i++) {
        if (at > limit || limit - at < 46 || memcmp(data + at, "PK\1\2", 4)) return none;
        const unsigned char *entry = data + at;
        size_t name_size = u16(entry + 28), stored = u32(entry + 24), start = u32(entry + 42);
        at += 46 + name_size + u16(entry + 30) + u16(entry + 32);
        if (at > limit) return none;
        if (name_size != length || memcmp(entry + 46, name, length)) continue;
        if (u16(entry + 10) || start > limit || limit - start < 30) return none; /* 0: stored as it is */
        start += 30 + u16(data + start + 26) + u16(data + start + 28);
        if (start > limit || stored > limit - start) return none;
        member result = {data + start, stored};
        return result;
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

static uint32_t hex(const char *at)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        char c = at[i];
        value = value << 4 | (uint32_t)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
    }
    return value & 0xffff;
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
        uint32_t code = hex(at);
        at += 4;
        if (code >= 0xd800 && code < 0xdc00 && end - at >= 6 && at[0] == '\\' && at[1] == 'u') {
            code = 0x10000 + ((code - 0xd800) << 10 | (hex(at + 2) & 0x3ff));
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
    mmkd_numbers none = {NULL, 0};
    int32_t count = length_of(r, array);
    if (count < 1 || count > MAX_LIST) return none;
    double *list = take(r, (size_t)count * sizeof *list);
    for (int32_t i = 0, at = array + 1; list && i < count; i++, at = after(r, at)) list[i] = number(r, at, 0);
    mmkd_numbers result = {list, list ? count : 0};
    return result;
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

static mmkd_model *open_model(reader *r, const unsigned char *data, size_t size, int artifact)
{
    if (artifact < 0) return NULL;
    mmkd_model *model = NULL;
    char reason[160] = "";
    member file = find_member(data, size, text(r, field(r, artifact, "file")));
    if (!file.data) {
        fail(r, MMKD_DAMAGED, "the bundle lacks a member that its manifest names; export it again");
        return NULL;
    }
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
    double samples = number(r, field(r, modality, "samples"), 0);
    facts->samples = samples >= 1 && samples <= 1 << 24 ? (int32_t)samples : 0;
    facts->rate_hz = number(r, field(r, modality, "rate_hz"), 0);
    entry->channel = texts(r, field(r, modality, "channels"), &facts->channels);
    entry->label = texts(r, field(r, task, "labels"), &facts->labels);
    facts->task = is_text(r, kind, "multi_label") ? MMKD_MULTI_LABEL
                  : is_text(r, kind, "regression") ? MMKD_REGRESSION : MMKD_CLASSIFICATION;
    entry->on_from = number(r, field(r, task, "threshold"), 0.5);
    entry->has_target_range = range(r, field(r, task, "range"), &entry->target_low, &entry->target_high);
    entry->has_range = range(r, field(r, modality, "range"), &entry->low, &entry->high);
    entry->is_per_group = is_text(r, field(r, modality, "normalise"), "per_group");
    entry->novelty = numbers(r, field(r, field(r, native, "novelty"), "scores"));
    entry->step_novelty = numbers(r, field(r, field(r, find_artifact(r, artifacts, NULL), "novelty"), "scores"));
    entry->true_probabilities = numbers(r, field(r, field(r, native, "confidence"), "true_probabilities"));
    entry->usual = numbers(r, field(r, magnitude, "usual"));
    entry->lowest = number(r, field(r, magnitude, "lowest"), 0);
    entry->highest = number(r, field(r, magnitude, "highest"), INFINITY);
    entry->model = open_model(r, data, size, native);
    entry->step = open_model(r, data, size, find_artifact(r, field(r, streaming, "artifacts"), "native"));
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
    }
}

static void read_bundle(reader *r, const unsigned char *data, size_t size)
{
    if (check_archive(r, data, size)) return;
    member manifest = find_member(data, size, "manifest.json");
    if (!manifest.data || manifest.size > MAX_MANIFEST) {
        fail(r, MMKD_DAMAGED, "the bundle has no manifest.json; export it again");
        return;
    }
    r->json = (const char *)manifest.data;
    jsmn_parser parser;
    jsmn_init(&parser);
    int count = jsmn_parse(&parser, r->json, manifest.size, NULL, 0);
    if (count > 0 && !(r->token = calloc((size_t)count, sizeof *r->token))) {
        fail(r, MMKD_NO_MEMORY, "not enough memory");
        return;
    }
    jsmn_init(&parser);
    r->tokens = count > 0 ? jsmn_parse(&parser, r->json, manifest.size, r->token, (unsigned)count) : 0;
    if (r->tokens < 1 || r->token[0].type != JSMN_OBJECT) {
        fail(r, MMKD_DAMAGED, "manifest.json is not valid JSON; export the bundle again");
        return;
    }
    if (number(r, field(r, 0, "format_version"), 0) != 1) {
        fail(r, MMKD_DAMAGED, "the bundle has another format version; use the release of mmkd-edge that made it");
        return;
    }
    int models = field(r, 0, "models"), at = models + 1;
    if (length_of(r, models) < 1 || length_of(r, models) > MMKD_MAX_STUDENTS)
        fail(r, MMKD_DAMAGED, "manifest.json: expected 1 to 16 students");
    for (int32_t i = 0; i < length_of(r, models) && r->status == MMKD_OK; i++, at = after(r, at)) {
        r->bundle->count = i + 1; /* also one that fails is closed */
        read_entry(r, data, size, at, &r->bundle->entry[i]);
    }
}

int mmkd_open(const void *data, size_t size, mmkd_bundle **bundle, char *error, size_t error_size)
{
    reader r = {NULL, NULL, NULL, 0, MMKD_OK, error, error_size};
    *bundle = NULL;
    if (!(r.bundle = calloc(1, sizeof *r.bundle))) return MMKD_NO_MEMORY;
    read_bundle(&r, data, size);
    free(r.token);
    if (r.status == MMKD_OK) *bundle = r.bundle;
    else mmkd_close(r.bundle);
    return r.status;
}

int mmkd_open_file(const char *path, mmkd_bundle **bundle, char *error, size_t error_size)
{
    *bundle = NULL;
    FILE *file = fopen(path, "rb");
    long size = -1;
    if (file && !fseek(file, 0, SEEK_END)) size = ftell(file);
    unsigned char *data = size > 0 && size <= MAX_FILE ? malloc((size_t)size) : NULL;
    int is_read = data && !fseek(file, 0, SEEK_SET) && fread(data, 1, (size_t)size, file) == (size_t)size;
    if (file) fclose(file);
    int status = is_read ? mmkd_open(data, (size_t)size, bundle, error, error_size) : MMKD_NO_FILE;
    if (!is_read) mmkd_error(error, error_size, "%s: expected a bundle (.edge) that can be read", path);
    free(data);
    return status;
}

void mmkd_close(mmkd_bundle *bundle)
{
    if (!bundle) return;
    for (int32_t i = 0; i < bundle->count; i++) {
        mmkd_model_close(bundle->entry[i].model);
        mmkd_model_close(bundle->entry[i].step);
    }
    while (bundle->memory) {
        block *next = bundle->memory->next;
        free(bundle->memory);
        bundle->memory = next;
    }
    free(bundle);
}

int32_t mmkd_students(const mmkd_bundle *bundle) { return bundle->count; }

mmkd_student mmkd_describe(const mmkd_bundle *bundle, int32_t student)
{
    mmkd_student none = {"", "", 0, 0, 0, 0, 0, 0, 0};
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
