/* sim/cost.c -- floor 5, sim: how long a node takes, in time of the simulated GPU at speed 1.
 * Loosely those of a mid-range card with a small diffusion model; what matters is that they depend on what a
 * user can change: size, steps, batch, and which model is in VRAM. */
#include "sim/inside.h"
#include <stdlib.h>

typedef struct { const char *class_type; double ms, step_ms, megapixel_ms; } rate;

static const rate rates[] = {
    { "CheckpointLoaderSimple", 30, 0, 0 }, { "LoraLoader", 25, 0, 0 }, { "VAELoader", 20, 0, 0 }, { "UpscaleModelLoader", 20, 0, 0 },
    { "CLIPTextEncode", 35, 0, 0 }, { "KSampler", 10, 30, 0 }, { "KSamplerAdvanced", 10, 30, 0 }, { "VAEDecode", 20, 0, 180 },
    { "VAEEncode", 15, 0, 120 }, { "SaveImage", 15, 0, 80 }, { "PreviewImage", 10, 0, 60 }, { "LoadImage", 12, 0, 20 },
    { "ImageScale", 3, 0, 15 }, { "ImageUpscaleWithModel", 40, 0, 400 }, { "LatentUpscale", 4, 0, 4 }, { "ImageBlur", 4, 0, 20 }
};

static double literal(const mp_json *inputs, const char *name, double otherwise) {
    const mp_json *v = mp_json_get(inputs, name);
    if (mp_json_string(v)) return strtod(mp_json_string(v), NULL);       /* "24" is taken as 24 */
    return mp_json_type(v) == MP_JSON_NUMBER ? mp_json_number(v, otherwise) : otherwise;
}

/* The nearest node upstream that names a width and a height; depth is bounded by the prompt's size. */
static int find_size(const mp_json *prompt, const mp_json *n, int depth, int *w, int *h, int *batch) {
    const mp_json *inputs = mp_json_get(n, "inputs");
    double x = literal(inputs, "width", 0), y = literal(inputs, "height", 0);
    if (x > 0 && y > 0) {
        *w = (int)x;
        *h = (int)y;
        *batch = (int)literal(inputs, "batch_size", 1);
        return 1;
    }
    for (const mp_json *i = mp_json_first(inputs); i && depth < 64; i = mp_json_next(i))
        if (is_link(i) && find_size(prompt, mp_json_get(prompt, mp_json_string(mp_json_first(i))), depth + 1, w, h, batch)) return 1;
    return 0;
}

void size_of(const mp_json *prompt, const node *n, int *w, int *h, int *batch) {
    *w = *h = 512;
    *batch = 1;
    find_size(prompt, mp_json_get(prompt, n->id), 0, w, h, batch);
    if (*w > 4096) *w = 4096;
    if (*h > 4096) *h = 4096;
    if (*batch < 1 || *batch > 64) *batch = 1;
}

/* The model file that a sampler, decoder or encoder works with: the first one named upstream. */
static const char *model_of(const mp_json *prompt, const mp_json *n, int depth) {
    const mp_json *inputs = mp_json_get(n, "inputs");
    static const char *const names[] = { "ckpt_name", "unet_name", "model_name", "vae_name" };
    for (size_t k = 0; k < sizeof names / sizeof *names; k++)
        if (mp_json_string(mp_json_get(inputs, names[k]))) return mp_json_string(mp_json_get(inputs, names[k]));
    for (const mp_json *i = mp_json_first(inputs); i && depth < 64; i = mp_json_next(i)) {
        const char *found = is_link(i) ? model_of(prompt, mp_json_get(prompt, mp_json_string(mp_json_first(i))), depth + 1) : NULL;
        if (found) return found;
    }
    return NULL;
}

/* 2 to 7 GB, by name: the same file is always the same size. */
static double model_gb(const char *name) {
    unsigned h = 2166136261u;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 16777619u;
    return 2.0 + (double)(h % 500) / 100;
}

/* Makes the model resident, evicting what was used longest ago; seconds it took (0: it was there). Models are moved
 * to the GPU by the node that uses them, not by their loader (protocol 5.5). */
static double model_use(mp_sim *s, const char *name) {
    double gb = model_gb(name), held = gb, vram = s->o.vram_gb > 0 ? s->o.vram_gb : 24;
    for (model *m = s->models; m; m = m->next)
        if (strcmp(m->name, name) == 0) { m->used = ++s->uses; return 0; }
        else held += m->gb;
    while (held > vram && s->models) {
        model **oldest = &s->models;
        for (model **m = &s->models; *m; m = &(*m)->next)
            if ((*m)->used < (*oldest)->used) oldest = m;
        model *gone = *oldest;
        *oldest = gone->next;
        held -= gone->gb;
        free(gone->name);
        free(gone);
    }
    model *m = mp_alloc(sizeof *m);
    *m = (model){ mp_strdup(name), gb, ++s->uses, s->models };
    s->models = m;
    return gb / (s->o.load_gb_s > 0 ? s->o.load_gb_s : 2.5);
}

/* No two runs of a node take the same; one node in a run is as slow as all of its steps. */
static double luck(mp_sim *s) {
    double sum = mp_rng_unit(&s->rng) + mp_rng_unit(&s->rng) + mp_rng_unit(&s->rng) - 1.5;       /* about normal; its deviation is 1/2 */
    double by = 1 + s->o.noise * 2 * sum;
    return by > 0.05 ? by : 0.05;
}

void node_cost(mp_sim *s, const mp_json *prompt, const node *n, mp_time *once, int *steps, mp_time *per_step) {
    double speed = s->o.speed > 0 ? s->o.speed : 1, ms = 5, step_ms = 0, mp_ms = 0;
    int w, h, batch, known = n->def != NULL;
    const mp_json *own = mp_json_get(s->costs, n->class_type);
    size_of(prompt, n, &w, &h, &batch);
    double size = (double)w * h * batch / 1e6, area = (double)w * h * batch / (512.0 * 512.0);
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
        if (strcmp(rates[i].class_type, n->class_type) == 0) { ms = rates[i].ms; step_ms = rates[i].step_ms * area; mp_ms = rates[i].megapixel_ms; known = 1; }
    if (!known || (s->o.any_node && s->o.any_ms > 0 && !own && step_ms == 0 && ms == 5)) ms = s->o.any_ms > 0 ? s->o.any_ms : 50;
    *steps = 0;
    if (mp_json_get(n->inputs, "steps")) *steps = (int)(literal(n->inputs, "steps", 0) * literal(n->inputs, "denoise", 1) + 0.5);
    if (*steps < 0 || *steps > 10000) *steps = 0;
    if (own) {                                       /* the user's figures are whole: no loading, no size */
        ms = mp_json_type(own) == MP_JSON_NUMBER ? mp_json_number(own, 0) : mp_json_number(mp_json_get(own, "ms"), 0);
        step_ms = mp_json_number(mp_json_get(own, "step_ms"), 0);
        mp_ms = 0;
    } else if (step_ms > 0 || mp_ms > 100) {
        const char *file_name = model_of(prompt, mp_json_get(prompt, n->id), 0);
        if (file_name) ms += 1000 * model_use(s, file_name);
    }
    if (s->o.noise > 0) speed /= luck(s);
    *once = (mp_time)((ms + mp_ms * size) * 1000 / speed);
    *per_step = (mp_time)(step_ms * 1000 / speed);
    if (!step_ms && *steps && !own) { *per_step = *once / *steps; *once = 0; }
}
