/* sim/behave.c -- floor 5, sim: what classes do beyond making an opaque picture after some time: lists, lazy inputs,
 * expansion, blocking, failing, asynchronous work. The Rec* classes are those that the recordings of real servers
 * were made with; a catalogue that has them gets their behaviour. */
#include "sim/inside.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- arguments of a call --------------------------------------------------------------------------------------- */

const value *arg(const exec *x, const char *name) {
    for (size_t i = 0; i < x->n_in; i++) {
        if (strcmp(x->in[i].name, name) != 0) continue;
        if (!x->in[i].n) return NULL;
        return x->in[i].v[x->call < x->in[i].n ? x->call : x->in[i].n - 1];      /* shorter lists repeat their last */
    }
    return NULL;
}

double arg_number(const exec *x, const char *name, double otherwise) {
    const value *v = arg(x, name);
    if (!v || v->kind != V_PLAIN) return otherwise;
    char *end;
    double d = strtod(v->text, &end);
    return end != v->text ? d : strcmp(v->text, "true") == 0 ? 1 : strcmp(v->text, "false") == 0 ? 0 : otherwise;
}

int arg_true(const exec *x, const char *name) {
    const value *v = arg(x, name);
    return v && v->kind == V_PLAIN && strcmp(v->text, "true") == 0;
}

const char *arg_text(const exec *x, const char *name, mp_buf *b) {
    const value *v = arg(x, name);
    mp_json *j = v && v->kind == V_PLAIN ? mp_json_parse(v->text, strlen(v->text), NULL) : NULL;
    const char *z = mp_json_string(j);
    mp_buf_clear(b);
    if (z) mp_buf_puts(b, z);
    else if (j) mp_json_write(b, j);
    mp_json_free(j);
    return b->n ? b->p : v ? "" : NULL;
}

static uint64_t arg_seed(const exec *x) {
    const value *v = arg(x, "seed");
    return v && v->kind == V_PLAIN ? strtoull(v->text, NULL, 10) : 0;
}

void ui_add(exec *x, const char *key, const char *json) {
    size_t i = 0;
    while (i < x->n_ui && strcmp(x->ui_key[i], key) != 0) i++;
    if (i == 8) return;
    if (i == x->n_ui) x->ui_key[x->n_ui++] = key;
    if (x->ui[i].n && *json) mp_buf_puts(&x->ui[i], ", ");
    mp_buf_puts(&x->ui[i], json);
}

/* A value as Python's repr() prints it. */
void py_repr(mp_buf *b, const mp_json *j) {
    const char *z = mp_json_string(j);
    int object = mp_json_type(j) == MP_JSON_OBJECT;
    if (z) {
        char quote = strchr(z, '\'') && !strchr(z, '"') ? '"' : '\'';
        mp_buf_putc(b, quote);
        for (; *z; z++) {
            if (*z == quote || *z == '\\') mp_buf_putc(b, '\\');
            if (*z == '\n') mp_buf_puts(b, "\\n");
            else mp_buf_putc(b, *z);
        }
        mp_buf_putc(b, quote);
    } else if (object || mp_json_type(j) == MP_JSON_ARRAY) {
        mp_buf_putc(b, object ? '{' : '[');
        for (const mp_json *c = mp_json_first(j); c; c = mp_json_next(c)) {
            if (c != mp_json_first(j)) mp_buf_puts(b, ", ");
            if (object) mp_buf_printf(b, "'%s': ", mp_json_name(c));
            py_repr(b, c);
        }
        mp_buf_putc(b, object ? '}' : ']');
    } else if (mp_json_type(j) == MP_JSON_BOOL) mp_buf_puts(b, mp_json_true(j) ? "True" : "False");
    else if (!j || mp_json_type(j) == MP_JSON_NULL) mp_buf_puts(b, "None");
    else mp_json_write(b, j);
}

/* ---- time ------------------------------------------------------------------------------------------------------- */

static double speed(const mp_sim *s) { return s->o.speed > 0 ? s->o.speed : 1; }

static void no_time(mp_sim *s, exec *x, mp_time *once) { (void)s; x->steps = 0; *once = 0; }

static void seconds_time(mp_sim *s, exec *x, mp_time *once) {
    double all = arg_number(x, "seconds", 1) * 1e6 / speed(s);
    int steps = (int)arg_number(x, "steps", 1);
    mp_buf b = { 0 };
    const char *format = arg_text(x, "format", &b);
    x->preview = arg_true(x, "preview") ? 1 : -1;    /* by its own input, whatever the server's options say */
    x->png = format && strcmp(format, "PNG") == 0;
    x->deaf = arg_true(x, "deaf");
    x->steps = x->deaf ? 0 : steps;
    x->step_cost = (mp_time)(steps > 0 ? all / steps : 0);
    *once = x->deaf ? (mp_time)all : 0;
    mp_buf_free(&b);
}

static void text_time(mp_sim *s, exec *x, mp_time *once) {
    x->steps = 0;
    *once = s->v->progress_state ? (mp_time)(100000 / speed(s)) : 0;
}

/* SaveImageWebsocket reports once per picture, from 0, each with the picture itself (protocol 4). */
static void websocket_time(mp_sim *s, exec *x, mp_time *once) {
    const value *v = arg(x, "images");
    (void)s;
    x->steps = v && v->kind == V_IMAGE ? v->batch : 1;
    x->step_cost = MP_MS(1);
    x->preview = 2;
    x->png = 1;
    *once = 0;
}

/* ---- what comes out --------------------------------------------------------------------------------------------- */

static value image(int w, int h, int batch, uint64_t look) { return (value){ V_IMAGE, w, h, batch, look, NULL }; }
static value plain(char *text) { return (value){ V_PLAIN, 0, 0, 0, 0, text }; }

static void pass(const exec *x, const char *name, result *res) {
    const value *v = arg(x, name);
    value out = v ? *v : image(16, 16, 1, arg_seed(x) + 7);
    if (v) out.text = mp_strdup(v->text);
    slot_add(res, 0, out);
}

static void slow_outputs(const exec *x, result *res) { pass(x, "image", res); }
static void sized_outputs(const exec *x, result *res) { int n = (int)arg_number(x, "size", 16); slot_add(res, 0, image(n, n, 1, 3)); }
static void lazy_outputs(const exec *x, result *res) { pass(x, arg_true(x, "use_b") ? "b" : "a", res); }
static void blend_outputs(const exec *x, result *res) { pass(x, "image1", res); }

static void seed_outputs(const exec *x, result *res) {
    const value *v = arg(x, "seed");
    slot_add(res, 0, plain(mp_strdup(v && v->kind == V_PLAIN ? v->text : "0")));
}

static void text_outputs(const exec *x, result *res) {
    const value *v = arg(x, "text");
    slot_add(res, 0, plain(mp_strdup(v && v->kind == V_PLAIN ? v->text : "\"\"")));
}

static void float_outputs(const exec *x, result *res) {
    static const char *const names[] = { "nan", "NaN", "inf", "Infinity", "-inf", "-Infinity" };
    mp_buf b = { 0 };
    const char *which = arg_text(x, "which", &b), *text = "1.0";
    for (int i = 0; which && i < 6; i += 2)
        if (strcmp(which, names[i]) == 0) text = names[i + 1];
    slot_add(res, 0, plain(mp_strdup(text)));
    mp_buf_free(&b);
}

static void list_outputs(const exec *x, result *res) {
    int count = (int)arg_number(x, "count", 3);
    for (int i = 0; i < count; i++) {
        slot_add(res, 0, image(16, 16, 1, arg_seed(x) + (uint64_t)i));
        slot_add(res, 1, plain(mp_format("%llu", (unsigned long long)(arg_seed(x) + (uint64_t)i))));
    }
}

static void batch_outputs(const exec *x, result *res) {
    const value *a = arg(x, "image1"), *b = arg(x, "image2");
    if (a) slot_add(res, 0, image(a->width, a->height, a->batch + (b ? b->batch : 0), a->look));
}

static void block_outputs(const exec *x, result *res) {
    mp_buf b = { 0 };
    const char *words = arg_true(x, "silent") ? NULL : arg_text(x, "message", &b);
    slot_add(res, 0, (value){ V_BLOCKER, 0, 0, 0, 0, mp_strdup(words) });
    mp_buf_free(&b);
}

/* ---- what it shows ------------------------------------------------------------------------------------------------- */

static void images_ui(mp_sim *s, run *r, exec *x) { save_images(s, r, x); }

static void one(exec *x, const char *key, const char *name) {
    const value *v = arg(x, name);
    ui_add(x, key, v && v->kind == V_PLAIN ? v->text : "null");
}

static void seed_ui(mp_sim *s, run *r, exec *x) {
    const value *v = arg(x, "seed");
    mp_buf text = { 0 };
    (void)s, (void)r;
    mp_buf_json(&text, mp_str_of(v && v->kind == V_PLAIN ? v->text : "0"));
    ui_add(x, "text", text.p);
    mp_buf_free(&text);
    one(x, "seed", "seed");
    one(x, "flag", "flag");
    one(x, "number", "number");
    one(x, "said", "text");
    one(x, "signed", "signed");
}

static void any_ui(mp_sim *s, run *r, exec *x) {
    (void)s, (void)r;
    ui_add(x, "text", "\"one\", \"two\"");
    ui_add(x, "tuple", "true");
    ui_add(x, "values", arg_true(x, "nan") ? "1, 2.5, null, NaN" : "1, 2.5, null, 0.0");
    ui_add(x, "images", "");
    ui_add(x, "gifs", "{\"filename\": \"clip_00001.mp4\", \"subfolder\": \"video\", \"type\": \"output\", \"format\": \"video/h264-mp4\", \"frame_rate\": 8.0}");
}

static void text_ui(mp_sim *s, run *r, exec *x) {
    (void)s, (void)r;
    one(x, "text", "text");
}

/* ---- how it fails ---------------------------------------------------------------------------------------------------- */

static int fail_raises(const exec *x, const char **type, char **message) {
    mp_buf b = { 0 };
    const char *words = arg_text(x, "message", &b);
    *type = "RuntimeError";
    *message = mp_strdup(words ? words : "it broke");
    mp_buf_free(&b);
    return 1;
}

static int memory_raises(const exec *x, const char **type, char **message) {
    *type = "torch.cuda.OutOfMemoryError";
    *message = mp_format("CUDA out of memory. Tried to allocate %.2f GiB. GPU 0 has a total capacity of 23.99 GiB of which 1.17 GiB is free.", arg_number(x, "gib", 2));
    return 1;
}

static int async_raises(const exec *x, const char **type, char **message) {
    if (!arg_true(x, "fail")) return 0;
    *type = "RuntimeError";
    *message = mp_strdup("asynchronous node broke");
    return 1;
}

/* ---- lazy inputs, expansion --------------------------------------------------------------------------------------------- */

static const char *lazy_asks(const exec *x) {
    const char *name = arg_true(x, "use_b") ? "b" : "a";
    return arg(x, name) ? NULL : name;
}

static char *expands(const exec *x, char **answer) {
    int copies = (int)arg_number(x, "copies", 2), k = 1;
    const char *id = x->n->id;
    mp_buf b = { 0 };
    mp_buf_printf(&b, "{\"%s.0.0.1\": {\"class_type\": \"EmptyImage\", \"inputs\": {\"width\": 16, \"height\": 16, \"batch_size\": 1, \"color\": %llu}}", id, (unsigned long long)(arg_seed(x) % 16777216));
    for (; k <= copies; k++)
        mp_buf_printf(&b, ", \"%s.0.0.%d\": {\"class_type\": \"RecSlow\", \"inputs\": {\"seconds\": 0.1, \"steps\": 2, \"preview\": false, \"deaf\": false, \"seed\": %d, \"image\": [\"%s.0.0.%d\", 0]}}", id, k + 1, k, id, k);
    *answer = mp_format("%s.0.0.%d", id, k);
    if (arg_true(x, "inner_output")) mp_buf_printf(&b, ", \"%s.0.0.%d\": {\"class_type\": \"PreviewImage\", \"inputs\": {\"images\": [\"%s\", 0]}}", id, k + 1, *answer);
    if (arg_true(x, "inner_fail")) {
        mp_buf_printf(&b, ", \"%s.0.0.%d\": {\"class_type\": \"RecFail\", \"inputs\": {\"message\": \"inner node broke\", \"image\": [\"%s\", 0]}}", id, k + 1, *answer);
        free(*answer);
        *answer = mp_format("%s.0.0.%d", id, k + 1);
    }
    mp_buf_puts(&b, "}");
    return mp_buf_take(&b, NULL);
}

static const behaviour table[] = {
    { .name = "SaveImage", .ui = images_ui, .hidden = 1, .embeds = 1 }, { .name = "PreviewImage", .ui = images_ui, .hidden = 1, .embeds = 1 },
    { .name = "SaveImageWebsocket", .time = websocket_time, .never_cached = 1, .no_ui = 1 },
    { .name = "ImageBatch", .outputs = batch_outputs }, { .name = "ImageBlend", .outputs = blend_outputs },
    { .name = "RecSlow", .time = seconds_time, .outputs = slow_outputs }, { .name = "RecSlowOutput", .time = seconds_time, .outputs = slow_outputs, .no_ui = 1 },
    { .name = "RecFail", .time = no_time, .raises = fail_raises }, { .name = "RecOOM", .time = no_time, .raises = memory_raises },
    { .name = "RecExpand", .time = no_time, .expand = expands }, { .name = "RecModel", .time = no_time, .outputs = sized_outputs },
    { .name = "RecV3", .time = no_time, .outputs = sized_outputs }, { .name = "RecChanged", .time = no_time, .outputs = sized_outputs, .never_cached = 1 },
    { .name = "RecSeed", .time = no_time, .outputs = seed_outputs, .ui = seed_ui }, { .name = "RecFloat", .time = no_time, .outputs = float_outputs },
    { .name = "RecBlock", .time = no_time, .outputs = block_outputs }, { .name = "RecLazy", .time = no_time, .outputs = lazy_outputs, .asks = lazy_asks },
    { .name = "RecList", .time = no_time, .outputs = list_outputs }, { .name = "RecSink", .time = no_time, .no_ui = 1 }, { .name = "RecCheck", .time = no_time, .no_ui = 1 },
    { .name = "RecUi", .time = no_time, .ui = any_ui }, { .name = "RecText", .time = text_time, .outputs = text_outputs, .ui = text_ui, .key_has_id = 1, .hidden = 1, .text = 1 },
    { .name = "RecAsync", .time = seconds_time, .outputs = slow_outputs, .raises = async_raises, .async = 1 }
};

const behaviour *behaviour_of(const char *class_type) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, class_type) == 0) return &table[i];
    return NULL;
}
