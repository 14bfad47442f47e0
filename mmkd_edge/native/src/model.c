/* Reads the tensors of a .native file and checks every number before compute.c relies on it.
 *
 * The file: "MMKDNAT1", uint32 tensors, uint32 zero, then for each tensor 24 bytes of name, uint32 kind (0 float32,
 * 1 int32, 2 bytes, 3 int8), uint32 dimensions (2), 4 uint32 sizes (the last two zero), uint64 offset from the start of the file;
 * then the tensors, each at a multiple of 64. Little-endian.
 */
#include <math.h>
#include <string.h>
#ifndef MMKD_NO_HEAP
#include <stdlib.h>
#endif

#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#endif

#include "model.h"

enum { FLOAT = 0, WHOLE = 1, TEXT = 2, SMALL = 3 };
enum { HEADER = 16, ENTRY = 56, NAME = 24, MAX_TENSORS = 512, MAX_SIZE = 1 << 20, MAX_RATIO = 1600 };
enum { CAUSAL_KERNEL = 5, MAX_INTERVAL_DEPTH = 4, MAX_TREES = 1024, MAX_NODES = 1 << 18, MAX_WALK = 64 };
#define MAX_BYTES ((size_t)1 << 30)
#define MAX_SCRATCH ((size_t)1 << 31)
#define MAX_OPERATIONS 17179869184.0 /* 2^34 a window: at worst a few seconds of one core */

typedef struct {
    const unsigned char *data; /* aligned to 64 */
    size_t size;
    uint32_t tensors;
    char *error;
    size_t error_size;
    int failed;
    int64_t panel;
    uint64_t bytes; /* of the tensors so far */
} reader;

/* Join texts, and a number below 1,000 between them unless it is negative: without printf, which some boards lack. */
static const char *joined(char *to, size_t size, const char *prefix, int number, const char *suffix)
{
    char digits[4] = {0}, *end = to + size - 1, *at = to;
    int length = number < 0 ? 0 : number < 10 ? 1 : number < 100 ? 2 : 3;
    for (int i = length - 1; i >= 0; i--, number /= 10) digits[i] = (char)('0' + number % 10);
    const char *const parts[] = {prefix, digits, suffix};
    for (int i = 0; i < 3; i++)
        for (const char *from = parts[i]; *from && at < end; from++) *at++ = *from;
    *at = 0;
    return to;
}

static const void *fail(reader *r, const char *name, const char *what)
{
    if (!r->failed && r->error && r->error_size) {
        size_t used = strlen(joined(r->error, r->error_size, name, -1, ": "));
        joined(r->error + used, r->error_size - used, what, -1, "");
    }
    r->failed = 1;
    return NULL;
}

/* The entry of this name in the table; NULL if there is none. */
static const unsigned char *find(const reader *r, const char *name)
{
    for (uint32_t i = 0; i < r->tensors; i++) {
        const unsigned char *entry = r->data + HEADER + (size_t)i * ENTRY;
        if (!strncmp((const char *)entry, name, NAME)) return entry;
    }
    return NULL;
}

/* The tensor of this name and these sizes; NULL after the first failure. */
static const void *tensor(reader *r, const char *name, uint32_t kind, int64_t first, int64_t second)
{
    if (r->failed) return NULL;
    const unsigned char *entry = find(r, name);
    if (!entry) return fail(r, name, "expected this tensor, found none");
    uint32_t rows = mmkd_u32(entry + 32), columns = mmkd_u32(entry + 36);
    uint64_t offset = mmkd_u32(entry + 48) | (uint64_t)mmkd_u32(entry + 52) << 32;
    uint64_t bytes = (kind == TEXT || kind == SMALL ? 1 : 4) * (uint64_t)rows * columns;
    if (mmkd_u32(entry + 24) != kind || mmkd_u32(entry + 28) != 2 || rows != (uint64_t)first || columns != (uint64_t)second)
        return fail(r, name, "does not have the sizes that the model needs");
    if (offset % 64 || offset > r->size || bytes > r->size - offset) return fail(r, name, "lies outside of the file");
    if ((r->bytes += bytes) > r->size) return fail(r, name, "shares its bytes with other tensors");
    const float *values = (const float *)(const void *)(r->data + offset);
    for (uint64_t n = 0; kind == FLOAT && n < bytes / 4; n++)
        if (!isfinite(values[n])) return fail(r, name, "expected finite numbers");
    return values;
}

static const float *floats(reader *r, const char *name, int64_t rows, int64_t columns)
{
    return (const float *)tensor(r, name, FLOAT, rows, columns);
}

/* A matrix of float32, or of int8 with the scales of its columns in `name`.s. */
static mmkd_linear matrix(reader *r, const char *name, const char *suffix, int64_t in, int64_t out)
{
    char text[NAME], scale[NAME];
    mmkd_linear layer = {0, 0, in, out, 0, 0};
    const unsigned char *entry = find(r, joined(text, sizeof text, name, -1, suffix));
    if (!entry || mmkd_u32(entry + 24) != SMALL) {
        layer.weight = floats(r, text, in, mmkd_padded(out));
    } else {
        layer.small = (const int8_t *)tensor(r, text, SMALL, in, mmkd_padded(out));
        layer.scale = floats(r, joined(scale, sizeof scale, name, -1, ".s"), 1, mmkd_padded(out));
        r->panel = in > r->panel ? in : r->panel;
    }
    return layer;
}

static mmkd_linear linear(reader *r, const char *name, int64_t in, int64_t out)
{
    char text[NAME];
    mmkd_linear layer = matrix(r, name, ".w", in, out);
    layer.bias = floats(r, joined(text, sizeof text, name, -1, ".b"), 1, mmkd_padded(out));
    return layer;
}

static int in_range(reader *r, const char *name, int64_t value, int64_t low, int64_t high)
{
    if (value >= low && value <= high) return 1;
    fail(r, name, "is out of its range");
    return 0;
}

/* Sizes that follow from the stem of a causal student; returns the rows that a step gives the stem, 0 on failure. */
static int64_t read_causal(reader *r, mmkd_model *model, const int32_t *stem)
{
    mmkd_transformer *t = &model->transformer;
    int64_t channels = model->channels, step = 1, field = 1;
    for (int64_t s = 0; s < t->stages; s++) {
        if (!in_range(r, "stride", stem[2 * s], 1, model->samples)) return 0;
        field += (CAUSAL_KERNEL - 1) * step;
        step *= stem[2 * s];
        if (!in_range(r, "step", step, 1, model->samples)) return 0;
    }
    t->step = step, t->reach = field - step, t->slots = (model->samples + step - 1) / step;
    if (!in_range(r, "slots", t->slots, 2, MMKD_MAX_SLOTS) || !in_range(r, "reach", t->reach, 1, MAX_SIZE) ||
        !in_range(r, "taps", t->taps, 1, t->step * t->slots))
        return 0;
    t->history = t->taps > t->step ? t->taps - t->step : 1;
    t->views = 3 * channels;
    t->sums = channels * (8 + t->bands + channels);
    t->statistics = channels * (11 + channels);
    t->filters = floats(r, "t.filters", t->taps, mmkd_padded(2 * t->bands));
    t->relative = floats(r, "t.relative", t->depth * t->heads, t->slots);
    return t->reach + t->step;
}

static void read_transformer(reader *r, mmkd_model *model)
{
    mmkd_transformer *t = &model->transformer;
    const int32_t *sizes = (const int32_t *)tensor(r, "t.sizes", WHOLE, 1, 10);
    if (!sizes) return;
    t->width = sizes[0], t->heads = sizes[1], t->depth = sizes[2], t->stages = sizes[4], t->bands = sizes[5];
    t->bins = sizes[6], t->has_movement = sizes[7] != 0, t->is_causal = sizes[8] != 0, t->taps = sizes[9];
    int64_t hidden = sizes[3], channels = model->channels, samples = model->samples;
    if (!in_range(r, "width", t->width, 1, 4096) || !in_range(r, "heads", t->heads, 1, t->width) ||
        !in_range(r, "depth", t->depth, 1, MMKD_MAX_BLOCKS) || !in_range(r, "hidden", hidden, 1, 16384) ||
        !in_range(r, "stages", t->stages, 1, MMKD_MAX_STAGES) || !in_range(r, "bands", t->bands, 1, 4096) ||
        !in_range(r, "bins", t->bins, 1, samples))
        return;
    if (t->is_causal && (model->has_convolutions || model->has_intervals)) {
        fail(r, "t.sizes", "expected whole windows beside other members");
        return;
    }
    if (t->width % t->heads) { fail(r, "heads", "expected a divisor of the width"); return; }
    t->views = (3 + t->has_movement) * channels;
    t->statistics = (13 + t->has_movement) * channels + channels * channels;
    t->mean = floats(r, "t.mean", 1, channels);
    t->scale = floats(r, "t.scale", 1, channels);
    t->movement = floats(r, "t.movement", 1, channels);
    if (!t->is_causal) {
        t->basis = matrix(r, "t.basis", "", samples, 2 * t->bins);
        t->pooling = matrix(r, "t.pooling", "", t->bins, t->bands);
    }
    const int32_t *stem = (const int32_t *)tensor(r, "t.stem", WHOLE, t->stages, 2);
    int64_t length = samples, in = (3 + (t->has_movement && !t->is_causal)) * channels;
    char text[NAME], part[NAME];
    if (t->is_causal && stem && !(length = read_causal(r, model, stem))) return;
    for (int64_t s = 0; s < t->stages && stem; s++) {
        int64_t stride = stem[2 * s], out = stem[2 * s + 1];
        if (!in_range(r, "stride", stride, 1, length > 1 ? length : 1) || !in_range(r, "channels", out, 1, 4096)) return;
        int64_t kernel = t->is_causal ? CAUSAL_KERNEL : 2 * stride + 1;
        t->stage[s].stride = stride;
        t->stage[s].length = length = t->is_causal ? (length - kernel) / stride + 1 : (length + stride - 1) / stride;
        t->stage[s].linear = linear(r, joined(text, NAME, "t.stem", (int)s, ""), kernel * in, out);
        in = out;
    }
    if (in != t->width) { fail(r, "t.stem", "expected the width of the tokens"); return; }
    t->tokens = length + MMKD_EXTRA_TOKENS;
    if (t->is_causal && length != 1) { fail(r, "t.stem", "expected one token of a step"); return; }
    t->spectrum = linear(r, "t.spectrum", channels * t->bands, t->width);
    t->summary = linear(r, "t.statistics", t->statistics, t->width);
    if (!t->is_causal) t->position = floats(r, "t.position", t->tokens, t->width);
    for (int64_t n = 0; n < t->depth; n++) {
        mmkd_block *block = &t->block[n];
        const char *const norms[] = {".n1.w", ".n1.b", ".n2.w", ".n2.b"};
        for (int i = 0; i < 4; i++) block->norm[i] = floats(r, joined(text, NAME, "t.", (int)n, norms[i]), 1, t->width);
        block->project = linear(r, joined(part, NAME, "t.", (int)n, ".project"), t->width, 3 * t->width);
        block->out = linear(r, joined(part, NAME, "t.", (int)n, ".out"), t->width, t->width);
        block->up = linear(r, joined(part, NAME, "t.", (int)n, ".up"), t->width, hidden);
        block->down = linear(r, joined(part, NAME, "t.", (int)n, ".down"), hidden, t->width);
    }
    t->norm_weight = floats(r, "t.norm.w", 1, t->width);
    t->norm_bias = floats(r, "t.norm.b", 1, t->width);
    t->mix = linear(r, "t.mix", 3 * t->width, t->width);
}

static void read_convolutions(reader *r, mmkd_model *model)
{
    mmkd_convolutions *c = &model->convolutions;
    const int32_t *sizes = (const int32_t *)tensor(r, "c.sizes", WHOLE, 1, 4);
    if (!sizes) return;
    c->kernels = sizes[0], c->features = sizes[1], c->stride = sizes[2];
    int64_t listed = sizes[3];
    if (!in_range(r, "kernels", c->kernels, 1, MAX_SIZE) || !in_range(r, "features", c->features, 1, MAX_SIZE) ||
        !in_range(r, "stride", c->stride, 1, model->samples) || !in_range(r, "listed", listed, 1, MAX_SIZE))
        return;
    c->positions = (model->samples + c->stride - 1) / c->stride;
    c->mean = floats(r, "c.mean", 1, model->channels);
    c->scale = floats(r, "c.scale", 1, model->channels);
    c->slope = floats(r, "c.slope", 1, c->features);
    c->offset = floats(r, "c.offset", 1, c->features);
    c->feature_mean = floats(r, "c.feature_mean", 1, c->features);
    c->feature_scale = floats(r, "c.feature_scale", 1, c->features);
    c->kernel = (const mmkd_kernel *)tensor(r, "c.kernel", WHOLE, c->kernels, sizeof(mmkd_kernel) / 4);
    c->channel = (const int32_t *)tensor(r, "c.channel", WHOLE, 1, listed);
    if (r->failed) return;
    int64_t feature = 0, longest = (model->samples - 1) / 8;
    for (int64_t i = 0; i < listed; i++)
        if (!in_range(r, "c.channel", c->channel[i], 0, model->channels - 1)) return;
    for (int64_t n = 0; n < c->kernels; n++) {
        const mmkd_kernel *k = c->kernel + n;
        if (!in_range(r, "dilation", k->dilation, 1, longest > 1 ? longest : 1) ||
            !in_range(r, "c.kernel", k->first_feature, feature, feature) ||
            !in_range(r, "c.kernel", k->features, 1, c->features - feature) ||
            !in_range(r, "c.kernel", k->channels, 1, listed) ||
            !in_range(r, "c.kernel", k->first_channel, 0, listed - k->channels))
            return;
        for (int i = 0; i < 3; i++)
            if (!in_range(r, "places", k->places[i], 0, 8)) return;
        feature += k->features;
        c->reach = 4 * k->dilation > c->reach ? 4 * k->dilation : c->reach;
    }
    if (feature != c->features) fail(r, "c.kernel", "expected every feature once");
}

static void read_intervals(reader *r, mmkd_model *model)
{
    mmkd_intervals *v = &model->intervals;
    const int32_t *sizes = (const int32_t *)tensor(r, "i.sizes", WHOLE, 1, 4);
    if (!sizes || !in_range(r, "depth", sizes[0], 0, MAX_INTERVAL_DEPTH) || !in_range(r, "bins", sizes[1], 1, model->samples) ||
        !in_range(r, "depth", (model->samples - 1) >> sizes[0], 1, MAX_SIZE))
        return;
    v->depths = sizes[0] + 1, v->bins = sizes[1];
    v->features = model->channels * (2 * MMKD_STATISTICS * (((int64_t)1 << v->depths) - 1) + v->bins);
    if (!in_range(r, "i.sizes", sizes[2], v->features, v->features)) return;
    v->mean = floats(r, "i.mean", 1, model->channels);
    v->scale = floats(r, "i.scale", 1, model->channels);
    v->basis = matrix(r, "i.basis", "", model->samples, 2 * v->bins);
    v->feature_mean = floats(r, "i.feature_mean", 1, v->features);
    v->feature_scale = floats(r, "i.feature_scale", 1, v->features);
}

/* Trees lie one after the other, each in pre-order: one pass sees every node once, and how deep it is. */
static void read_trees(reader *r, mmkd_model *model)
{
    mmkd_trees *f = &model->trees;
    const int32_t *sizes = (const int32_t *)tensor(r, "f.sizes", WHOLE, 1, 3);
    const float *weight = floats(r, "f.scale", 1, 1);
    if (!sizes || !weight || !in_range(r, "trees", sizes[0], 1, MAX_TREES) ||
        !in_range(r, "nodes", sizes[1], 0, MAX_NODES) || !in_range(r, "leaves", sizes[2], 1, 2 * MAX_NODES))
        return;
    f->count = sizes[0], f->weight = *weight;
    f->root = (const int32_t *)tensor(r, "f.roots", WHOLE, 1, f->count);
    f->node = (const mmkd_node *)tensor(r, "f.nodes", WHOLE, sizes[1], sizeof(mmkd_node) / 4);
    f->leaf = floats(r, "f.leaves", sizes[2], model->outputs);
    int32_t next = 0, waiting[MAX_WALK], walk_to[MAX_WALK], count = 0, walk = 0;
    for (int64_t tree = 0; tree < f->count && !r->failed; tree++)
        for (int32_t at = f->root[tree], is_done = 0; !is_done && !r->failed;)
            if (at < 0) { /* a leaf: go on where a node's right side waits */
                in_range(r, "f.nodes", at, -sizes[2], -1);
                is_done = !count--;
                if (is_done) count = walk = 0;
                else at = waiting[count], walk = walk_to[count];
            } else if (in_range(r, "f.nodes", at, next, sizes[1] - 1 < next ? sizes[1] - 1 : next) &&
                       in_range(r, "f.nodes", ++walk, 1, MAX_WALK)) {
                const mmkd_node *node = f->node + next++;
                in_range(r, "f.nodes", node->feature, 0, model->intervals.features - 1);
                if (!isfinite(node->threshold)) fail(r, "f.nodes", "expected finite numbers");
                walk_to[count] = walk, waiting[count++] = node->next[1], at = node->next[0];
            }
    if (!r->failed && next != sizes[1]) fail(r, "f.nodes", "expected every node once");
}

static void read_derivation(reader *r, mmkd_model *model)
{
    static const int32_t most[] = {MAX_SIZE, 1024, MAX_SIZE, MAX_RATIO, MAX_RATIO, 10 * MAX_RATIO, MAX_SIZE, MAX_SIZE, 24};
    mmkd_derivation *d = &model->derivation;
    const int32_t *sizes = (const int32_t *)tensor(r, "d.sizes", WHOLE, 1, 9);
    for (int i = 0; sizes && i < 9; i++) in_range(r, "d.sizes", sizes[i], i != 5 && i != 8, most[i]);
    if (r->failed) return;
    d->whole = sizes[0], d->channels = sizes[1], d->samples = sizes[2], d->up = sizes[3], d->down = sizes[4];
    d->half = sizes[5], d->burst = sizes[6], d->period = sizes[7], d->bits = sizes[8];
    in_range(r, "d.sizes", d->samples, 1, d->whole);
    in_range(r, "d.sizes", d->whole * d->channels, 1, MAX_SIZE);
    in_range(r, "d.sizes", d->samples * d->up / d->down, model->samples, model->samples);
    d->channel = (const int32_t *)tensor(r, "d.channels", WHOLE, 1, model->channels);
    d->taps = floats(r, "d.taps", 1, 2 * d->half + 1);
    const double *limit = d->limits = (const double *)tensor(r, "d.limits", WHOLE, 1, 10);
    if (r->failed) return;
    for (int64_t c = 0; c < model->channels; c++) in_range(r, "d.channels", d->channel[c], 0, d->channels - 1);
    if (!(limit[0] > 0 && isfinite(limit[0]) && limit[1] < limit[2] && limit[3] < limit[4]) ||
        (d->bits && !isfinite(limit[4] - limit[3])))
        fail(r, "d.limits", "expected a rate and two ranges");
}

static void read_model(reader *r, mmkd_model *model)
{
    if (r->size < HEADER || memcmp(r->data, "MMKDNAT1", 8)) { fail(r, "file", "expected a native model"); return; }
    r->tensors = mmkd_u32(r->data + 8);
    if (r->tensors > MAX_TENSORS || r->size < HEADER + (size_t)r->tensors * ENTRY) {
        fail(r, "file", "ends before its tensors");
        return;
    }
    const int32_t *sizes = (const int32_t *)tensor(r, "sizes", WHOLE, 1, 8);
    const float *scales = floats(r, "scales", 1, 3);
    model->modality = (const char *)tensor(r, "modality", TEXT, 1, MMKD_NAME_BYTES);
    if (!sizes || !scales || !model->modality) return;
    if (!memchr(model->modality, 0, MMKD_NAME_BYTES)) { fail(r, "modality", "expected a text that ends"); return; }
    model->samples = sizes[0], model->channels = sizes[1], model->outputs = sizes[2], model->task = sizes[3];
    model->has_transformer = sizes[4] != 0, model->has_convolutions = sizes[5] != 0;
    model->has_intervals = sizes[7] != 0, model->has_trees = sizes[7] == 3;
    int64_t centres = sizes[6];
    model->has_novelty = centres > 0;
    model->sharpness = scales[0], model->target_mean = scales[1], model->target_std = scales[2];
    if (!in_range(r, "samples", model->samples, 1, MAX_SIZE) || !in_range(r, "channels", model->channels, 1, 1024) ||
        !in_range(r, "samples", model->samples * model->channels, 1, MAX_SIZE) ||
        !in_range(r, "outputs", model->outputs, 1, 4096) || !in_range(r, "task", model->task, 0, 3) ||
        !in_range(r, "centres", centres, model->task == MMKD_NORMAL, 4096) || !in_range(r, "sizes", sizes[7], 0, 3))
        return;
    if (!(sizes[4] || sizes[5] || sizes[7]) || sizes[7] == 2) { fail(r, "sizes", "expected a member, found none"); return; }
    if (model->has_transformer) read_transformer(r, model);
    if (model->has_convolutions) read_convolutions(r, model);
    if (model->has_intervals) read_intervals(r, model);
    if (model->has_trees) read_trees(r, model);
    if (find(r, "d.sizes")) read_derivation(r, model);
    if (r->failed) return;
    model->embedding = model->transformer.width + model->convolutions.features + model->intervals.features;
    model->head = linear(r, "head", model->embedding, model->outputs);
    if (model->has_novelty) {
        model->novelty = linear(r, "novelty", model->embedding, centres);
        model->novelty_middle = floats(r, "novelty.middle", 1, model->embedding);
        model->novelty_squares = floats(r, "novelty.squares", 1, model->embedding);
    }
}

/* ---- what a window costs, in operations: from the sizes alone, so that a hostile file is refused before it computes */

static double of_layer(const mmkd_linear *layer, int64_t rows)
{
    return 2.0 * (double)layer->in * (double)mmkd_padded(layer->out) * (double)rows;
}

static double of_transformer(const mmkd_model *model)
{
    const mmkd_transformer *t = &model->transformer;
    int64_t rows = t->is_causal ? 3 : t->tokens, columns = t->is_causal ? t->slots + 1 : t->tokens;
    double channels = (double)model->channels, samples = (double)(t->is_causal ? t->step : model->samples), total = 0;
    for (int64_t s = 0; s < t->stages; s++) total += of_layer(&t->stage[s].linear, t->stage[s].length);
    for (int64_t n = 0; n < t->depth; n++) {
        const mmkd_block *block = &t->block[n];
        total += of_layer(&block->project, rows) + of_layer(&block->out, rows) + of_layer(&block->up, rows) + of_layer(&block->down, rows);
        total += (double)rows * (double)columns * (4 * (double)t->width + 20 * (double)t->heads);
    }
    total += of_layer(&t->spectrum, 1) + of_layer(&t->summary, 1) + of_layer(&t->mix, 1) + samples * channels * (100 + 4 * channels);
    if (!t->is_causal) return total + of_layer(&t->basis, 2 * model->channels) + of_layer(&t->pooling, 2 * model->channels);
    total += 4 * channels * (double)t->taps * (double)mmkd_padded(2 * t->bands);
    total += (double)t->slots * ((double)t->sums + channels * (10 + 6 * channels));
    return total * (double)t->slots;
}

static double of_convolutions(const mmkd_model *model)
{
    const mmkd_convolutions *c = &model->convolutions;
    double channels = (double)model->channels, each = 0;
    for (int64_t n = 0; n < c->kernels; n++) {
        const mmkd_kernel *k = c->kernel + n;
        each += 8 * (double)k->channels + 4 * (double)k->features + 8;
        if (!n || k->dilation != k[-1].dilation) each += 10 * channels;
    }
    return each * (double)mmkd_padded(c->positions);
}

static double operations(const mmkd_model *model)
{
    const mmkd_intervals *v = &model->intervals;
    const mmkd_derivation *d = &model->derivation;
    double cells = (double)model->samples * (double)model->channels;
    double total = of_layer(&model->head, 1) + of_layer(&model->novelty, 1) + 10 * (double)model->embedding;
    if (model->has_transformer) total += of_transformer(model);
    if (model->has_convolutions) total += of_convolutions(model);
    if (model->has_intervals) total += of_layer(&v->basis, model->channels) + 300 * (double)v->depths * cells; /* sorted by merges */
    if (model->has_trees) total += (double)model->trees.count * (4.0 * MAX_WALK + (double)model->outputs);
    return d->samples ? total + 6 * cells * (double)(2 * d->half / d->up + 1) : total;
}

/* The fastest instruction set that processor and system have; not by __builtin_cpu_supports, which finds none in
 * libraries that ziglang links. */
static int best_isa(void)
{
#if defined(__x86_64__) && !defined(MMKD_ONE_ISA)
    const unsigned fma_and_osxsave = 1u << 12 | 1u << 27, avx2 = 1u << 5;
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    unsigned a, b, c, d, saved, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & fma_and_osxsave) != fma_and_osxsave) return MMKD_ISA_BASE;
    __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if ((saved & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & avx2)) return MMKD_ISA_BASE;
    return (saved & 0xe6) == 0xe6 && (b & avx512) == avx512 ? MMKD_ISA_AVX512 : MMKD_ISA_AVX2;
#else
    return MMKD_ISA_BASE;
#endif
}

#ifndef MMKD_SOURCES
#define MMKD_SOURCES ""
#endif

int mmkd_abi_version(void) { return MMKD_ABI; }

const char *mmkd_sources(void) { return MMKD_SOURCES; }

int mmkd_model_place(const void *data, size_t size, int isa, mmkd_model *model, char *error, size_t error_size)
{
    reader r = {data, size, 0, error, error_size, 0, 0, 0};
    memset(model, 0, sizeof *model);
    if (size > MAX_BYTES || (uintptr_t)data % 64) fail(&r, "file", "is larger than 1 GiB, or not at a multiple of 64");
    else read_model(&r, model);
    if (r.failed) return MMKD_DAMAGED;
    const int best = best_isa();
    model->isa = isa == MMKD_ISA_BEST ? best : isa;
    if (model->isa < MMKD_ISA_BASE || model->isa > best) {
        fail(&r, "isa", "this processor or this build lacks these instructions");
        return MMKD_UNKNOWN_ISA;
    }
    model->computing = &mmkd_compute_base;
#if defined(__x86_64__) && !defined(MMKD_ONE_ISA)
    if (model->isa == MMKD_ISA_AVX2) model->computing = &mmkd_compute_avx2;
    if (model->isa == MMKD_ISA_AVX512) model->computing = &mmkd_compute_avx512;
#endif
    model->panel = r.panel < MMKD_MAX_PANEL ? r.panel : MMKD_MAX_PANEL;
    model->scratch_floats = model->computing->count_floats(model);
    if (!(operations(model) <= MAX_OPERATIONS)) fail(&r, "file", "needs more than 17 thousand million operations a window");
    if (model->scratch_floats > MAX_SCRATCH / sizeof(float)) fail(&r, "file", "needs more than 2 GiB to compute in");
    return r.failed ? MMKD_DAMAGED : MMKD_OK;
}

#ifndef MMKD_NO_HEAP
int mmkd_model_open(const void *data, size_t size, int isa, mmkd_model **result, char *error, size_t error_size)
{
    *result = NULL;
    mmkd_model *model = calloc(1, sizeof *model);
    unsigned char *memory = model && size <= MAX_BYTES ? malloc(size + 64) : NULL;
    if (!model || (!memory && size <= MAX_BYTES)) {
        free(model);
        return MMKD_NO_MEMORY;
    }
    unsigned char *place = memory ? memory + (64 - (uintptr_t)memory % 64) % 64 : NULL;
    if (memory) memcpy(place, data, size);
    int status = mmkd_model_place(place, size, isa, model, error, error_size);
    model->memory = memory;
    if (status == MMKD_OK) *result = model;
    else mmkd_model_close(model);
    return status;
}

void mmkd_model_close(mmkd_model *model)
{
    if (model) free(model->memory);
    free(model);
}
#endif

mmkd_facts mmkd_model_facts(const mmkd_model *model)
{
    return (mmkd_facts){(int32_t)model->samples, (int32_t)model->channels, (int32_t)model->outputs,
                        model->has_novelty && model->task != MMKD_NORMAL, model->task, model->isa, (int32_t)model->transformer.step,
                        (int32_t)mmkd_states(model), (int32_t)model->derivation.samples,
                        (int32_t)model->derivation.channels, model->scratch_floats * sizeof(float)};
}

const char *mmkd_model_modality(const mmkd_model *model) { return model->modality; }

int64_t mmkd_news_floats(const mmkd_model *model, int64_t number)
{
    const mmkd_transformer *t = &model->transformer;
    int64_t channels = model->channels;
    const int64_t front[] = {t->history * 2 * channels, 3 * channels, t->sums, 2 * channels, t->reach * t->views};
    return number < MMKD_FRONT_STATES ? front[number] : t->width;
}

int64_t mmkd_state_floats(const mmkd_model *model, int64_t number)
{
    int is_whole = number == MMKD_HISTORY || number == MMKD_SERIES;
    return mmkd_news_floats(model, number) * (is_whole ? 1 : model->transformer.slots);
}

void mmkd_keep(const mmkd_model *model, float *const *states, float *const *news, int64_t slot)
{
    const mmkd_transformer *t = &model->transformer;
    for (int64_t n = 0, count = mmkd_states(model); n < count; n++) { /* keys and values are (heads, slots, head) */
        int64_t heads = n < MMKD_FRONT_STATES || n == count - 1 ? 1 : t->heads, size = mmkd_news_floats(model, n) / heads;
        int64_t at = n == MMKD_HISTORY || n == MMKD_SERIES ? 0 : slot;
        for (int64_t h = 0; h < heads; h++)
            memcpy(states[n] + (h * t->slots + at) * size, news[n] + h * size, (size_t)size * sizeof(float));
    }
}

int mmkd_state(const mmkd_model *model, int32_t number, char name[16], int32_t shape[4], int32_t *axis)
{
    static const char *const front[] = {"history", "moments", "sums", "peaks", "series"};
    const mmkd_transformer *t = &model->transformer;
    int32_t slots = (int32_t)t->slots, last = (int32_t)mmkd_states(model) - 1;
    if (number < 0 || number > last) return 0;
    int32_t new_values = (int32_t)mmkd_news_floats(model, number);
    shape[0] = 1;
    if (number >= MMKD_FRONT_STATES && number < last) {
        int32_t pair = number - MMKD_FRONT_STATES;
        joined(name, 16, pair % 2 ? "values_" : "keys_", (int)(pair / 2) % 100, "");
        shape[1] = (int32_t)t->heads, shape[2] = slots, shape[3] = (int32_t)(t->width / t->heads);
        *axis = 2;
        return 4;
    }
    joined(name, 16, number == last ? "tokens" : front[number], -1, "");
    int32_t columns = number == MMKD_HISTORY ? 2 * (int32_t)model->channels : number == MMKD_SERIES ? (int32_t)t->views : new_values;
    *axis = number == MMKD_HISTORY || number == MMKD_SERIES ? -1 : 1;
    shape[1] = *axis < 0 ? new_values / columns : slots;
    shape[2] = columns;
    return 3;
}

void mmkd_derive(const mmkd_model *model, const float *recorded, float *window)
{
#pragma STDC FP_CONTRACT OFF
    const mmkd_derivation *d = &model->derivation;
    const double *recorded_range = d->limits + 1, low = d->limits[3], high = d->limits[4];
    const double step = (high - low) / (double)(((int64_t)1 << d->bits) - 1);
    for (int64_t i = 0; i < model->samples * model->channels; i++) {
        int64_t row = i / model->channels, middle = row * d->down + d->half, from = middle - 2 * d->half;
        double total = d->half ? 0.0 : -0.0, weight = 0, inside = 0; /* without a filter a zero keeps its sign */
        for (int64_t n = from > 0 ? (from + d->up - 1) / d->up : 0; n < d->samples && n * d->up <= middle; n++) {
            double factor = d->taps[middle - n * d->up], x = recorded[n * d->channels + d->channel[i % model->channels]];
            inside += factor;
            if (!(x >= recorded_range[0] && x <= recorded_range[1])) continue;
            total += factor * x;
            weight += factor;
        }
        double value = weight >= 0.5 * inside && row % d->period < d->burst ? total / weight : NAN;
        value = value < low ? low : value > high ? high : value;
        window[i] = (float)(d->bits ? low + floor((value - low) / step + 0.5) * step : value);
    }
}

/* Tiny numbers count as zero from a call with 1 to one with 0 and what the first returned: they would take a hundred
 * times as long. */
static uint64_t flush_to_zero(int is_on, uint64_t before)
{
#if defined(__x86_64__)
    if (is_on) before = _mm_getcsr();
    _mm_setcsr((unsigned)before | (is_on ? 0x8040 : 0));
#elif defined(__aarch64__)
    if (is_on) __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | (uint64_t)is_on << 24));
#else
    (void)is_on;
#endif
    return before;
}

void mmkd_run(const mmkd_model *model, void *scratch, const float *values, const float *present, float *logits,
              float *probabilities, float *novelty)
{
    uint64_t before = flush_to_zero(1, 0);
    model->computing->run(model, (float *)scratch, values, present, logits, probabilities, novelty);
    flush_to_zero(0, before);
}

void mmkd_step(const mmkd_model *model, void *scratch, const float *values, const float *present, int32_t slot,
               const float *const *states, float *const *news, float *logits, float *probabilities, float *novelty)
{
    uint64_t before = flush_to_zero(1, 0);
    model->computing->step(model, (float *)scratch, values, present, slot, states, news, logits, probabilities, novelty);
    flush_to_zero(0, before);
}
