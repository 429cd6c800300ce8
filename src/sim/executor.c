/* sim/executor.c -- floor 5, sim: one worker runs one prompt after the other (protocol 3.7, 5.2, 5.3).
 * A run is a little machine that does one thing each time its moment comes: start, cache keys, a node, a step. */
#include "sim/inside.h"
#include <stdio.h>
#include <stdlib.h>

static double speed(const mp_sim *s) { return s->o.speed > 0 ? s->o.speed : 1; }

static void message(mp_sim *s, run *r, int to_all, mp_buf *b) {
    const char *sid = r->j->client_id;
    if (!sid && !to_all) mp_buf_free(b);
    else emit(s, sid, b);
}

/* {"type": T, "data": { ...caller..., and the prompt id at the end */
static void head(mp_buf *b, const char *type) { mp_buf_printf(b, "{\"type\": \"%s\", \"data\": {", type); }
static void tail(mp_buf *b, run *r) {
    mp_buf_puts(b, "\"prompt_id\": ");
    mp_buf_json(b, mp_str_of(r->j->id));
}

/* Messages that also go into the history, with a timestamp. `data` is what stands before the timestamp. */
static void stamped(mp_sim *s, run *r, const char *type, mp_buf *data, mp_time now, int to_all) {
    mp_buf b = { 0 };
    mp_buf_printf(data, ", \"timestamp\": %lld", (long long)wall_ms(s, now));
    if (r->messages.n) mp_buf_puts(&r->messages, ", ");
    mp_buf_printf(&r->messages, "[\"%s\", {%s}]", type, data->p);
    head(&b, type);
    mp_buf_str(&b, mp_buf_view(data));
    mp_buf_puts(&b, "}}");
    mp_buf_free(data);
    message(s, r, to_all, &b);
}

static void number(mp_buf *b, double v, int is_float) {
    if (is_float) mp_buf_printf(b, "%.1f", v);
    else mp_buf_double(b, v);
}

static void progress_state(mp_sim *s, run *r) {
    if (!s->v->progress_state) return;
    mp_buf b = { 0 };
    head(&b, "progress_state");
    tail(&b, r);
    mp_buf_puts(&b, ", \"nodes\": {");
    for (size_t i = 0, any = 0; i < r->n; i++) {
        node *n = &r->nodes[i];
        if (!n->touched) continue;
        int whole = n->max > 1;
        if (any++) mp_buf_puts(&b, ", ");
        mp_buf_json(&b, mp_str_of(n->id));
        mp_buf_puts(&b, ": {\"value\": ");
        number(&b, n->value, !whole);
        mp_buf_puts(&b, ", \"max\": ");
        number(&b, n->max, !whole);
        mp_buf_printf(&b, ", \"state\": \"%s\", \"node_id\": ", n->state == N_DONE || n->state == N_CACHED ? "finished" : "running");
        mp_buf_json(&b, mp_str_of(n->id));
        mp_buf_puts(&b, ", ");
        tail(&b, r);
        mp_buf_puts(&b, ", \"display_node_id\": ");
        mp_buf_json(&b, mp_str_of(n->id));
        mp_buf_puts(&b, ", \"parent_node_id\": null, \"real_node_id\": ");
        mp_buf_json(&b, mp_str_of(n->id));
        mp_buf_puts(&b, "}");
    }
    mp_buf_puts(&b, "}}}");
    message(s, r, 1, &b);
}

static void executing(mp_sim *s, run *r, const node *n) {
    mp_buf b = { 0 };
    head(&b, "executing");
    mp_buf_puts(&b, "\"node\": ");
    if (n) {
        mp_buf_json(&b, mp_str_of(n->id));
        mp_buf_puts(&b, ", \"display_node\": ");
        mp_buf_json(&b, mp_str_of(n->id));
    } else mp_buf_puts(&b, "null");
    mp_buf_puts(&b, ", ");
    tail(&b, r);
    mp_buf_puts(&b, "}}");
    message(s, r, 0, &b);
}

/* `as`: the id it was run under; another one when the answer comes from the cache and nodes were renumbered since. */
static void executed(mp_sim *s, run *r, const node *n, const char *ui, const char *as) {
    mp_buf b = { 0 };
    head(&b, "executed");
    mp_buf_puts(&b, "\"node\": ");
    mp_buf_json(&b, mp_str_of(n->id));
    mp_buf_puts(&b, ", \"display_node\": ");
    mp_buf_json(&b, mp_str_of(n->id));
    mp_buf_printf(&b, ", \"output\": %s, ", ui ? ui : "null");
    tail(&b, r);
    mp_buf_puts(&b, "}}");
    message(s, r, 0, &b);
    if (!ui) return;
    for (int k = 0; k < 2; k++) {
        mp_buf *to = k ? &r->meta : &r->outputs;
        if (to->n) mp_buf_puts(to, ", ");
        mp_buf_json(to, mp_str_of(n->id));
        if (!k) { mp_buf_printf(to, ": %s", ui); continue; }
        mp_buf_puts(to, ": {\"node_id\": ");
        mp_buf_json(to, mp_str_of(as));
        mp_buf_puts(to, ", \"display_node\": ");
        mp_buf_json(to, mp_str_of(as));
        mp_buf_puts(to, ", \"parent_node\": null, \"real_node_id\": ");
        mp_buf_json(to, mp_str_of(as));
        mp_buf_puts(to, "}");
    }
}

/* ---- cache ----------------------------------------------------------------------------------------------- */

static node *node_by_id(run *r, const char *id) {
    for (size_t i = 0; i < r->n; i++)
        if (strcmp(r->nodes[i].id, id) == 0) return &r->nodes[i];
    return NULL;
}

static int by_name(const void *a, const void *b) { return strcmp(mp_json_name(*(const mp_json *const *)a), mp_json_name(*(const mp_json *const *)b)); }

/* Class, literal inputs, and recursively the same of all ancestors; the id is not part of it (protocol 5.3). */
static void key_of(mp_sim *s, run *r, node *n) {
    mp_buf b = { 0 };
    if (n->keyed) return;
    n->keyed = 1;
    mp_buf_puts(&b, n->class_type);
    size_t count = mp_json_count(n->inputs), k = 0;
    const mp_json **sorted = mp_alloc(count * sizeof *sorted + 1);       /* the order of inputs does not matter */
    for (const mp_json *i = mp_json_first(n->inputs); i; i = mp_json_next(i)) sorted[k++] = i;
    if (k) qsort(sorted, k, sizeof *sorted, by_name);
    for (k = 0; k < count; k++) {
        const mp_json *i = sorted[k];
        node *from = is_link(i) ? node_by_id(r, mp_json_string(mp_json_first(i))) : NULL;
        mp_buf_printf(&b, "\n%s=", mp_json_name(i));
        if (from) {
            key_of(s, r, from);
            mp_buf_printf(&b, "%s:", from->key);
            mp_json_write(&b, mp_json_at(i, 1));
        } else mp_json_write(&b, i);
    }
    free(sorted);
    const char *image = strcmp(n->class_type, "LoadImage") == 0 ? mp_json_string(mp_json_get(n->inputs, "image")) : NULL;
    file *f = image ? file_find(s, "input", "", image) : NULL;
    if (f && f->bytes) {
        char sum[MP_DIGEST_HEX];
        mp_sha256_hex(f->bytes, f->n, sum);
        mp_buf_puts(&b, sum);
    }
    mp_sha256_hex(b.p, b.n, n->key);
    mp_buf_free(&b);
}

static cached *lookup(mp_sim *s, const node *n) {
    cached *c;
    HASH_FIND_STR(s->cache, n->key, c);
    return c;
}

static void remember(mp_sim *s, const node *n, const char *ui) {
    cached *c = mp_alloc(sizeof *c);
    memcpy(c->key, n->key, sizeof c->key);
    c->ui = mp_strdup(ui);
    c->id = mp_strdup(n->id);
    HASH_ADD_STR(s->cache, key, c);
}

static void forget_one(mp_sim *s, cached *c) {
    HASH_DEL(s->cache, c);
    free(c->ui);
    free(c->id);
    free(c);
}

void cache_clear(mp_sim *s) {
    while (s->cache) forget_one(s, s->cache);
}

/* The classic cache: whatever this prompt does not contain goes. */
static void evict(mp_sim *s, run *r) {
    cached *c, *next;
    HASH_ITER(hh, s->cache, c, next) {
        int keep = 0;
        for (size_t i = 0; i < r->n && !keep; i++) keep = strcmp(r->nodes[i].key, c->key) == 0;
        /* cppcheck-suppress uninitvar ; set by HASH_ITER */
        if (!keep) forget_one(s, c);
    }
}

/* ---- a run ----------------------------------------------------------------------------------------------- */

void run_start(mp_sim *s, job *j, mp_time now) {
    run *r = mp_alloc(sizeof *r);
    mp_buf b = { 0 };
    size_t i = 0;
    r->j = j;
    r->n = mp_json_count(j->prompt);
    r->nodes = mp_alloc(r->n * sizeof *r->nodes);
    for (const mp_json *n = mp_json_first(j->prompt); n; n = mp_json_next(n), i++) {
        node *at = &r->nodes[i];
        at->id = mp_json_name(n);
        at->class_type = mp_json_string(mp_json_get(n, "class_type"));
        at->inputs = mp_json_get(n, "inputs");
        at->def = class_def(s, at->class_type);
        at->is_output = is_output_class(s, j->prompt, at->id, at->class_type);
        at->max = 1;
        for (size_t k = 0; k < j->n_outputs; k++) at->requested |= strcmp(j->outputs[k], at->id) == 0;
    }
    s->run = r;
    s->interrupt = s->late_interrupt == 2 && now - s->idle_since < MP_MS(1000);           /* an interrupt sent before this moment is lost (protocol 2.5) */
    if (s->late_interrupt == 2) s->late_interrupt = 0;
    const char *mark = mp_json_string(mp_json_get(j->extra, "moonpool"));
    if (s->on_start && mark) s->on_start(s->on_start_ud, mark);
    s->record.prompts++;
    tail(&b, r);
    stamped(s, r, "execution_start", &b, now, 0);
    r->phase = R_CACHED;
    s->at = now + (mp_time)(1000 / speed(s));
}

void run_free(run *r) {
    if (!r) return;
    job_drop(r->j);
    free(r->nodes);
    mp_buf_free(&r->outputs);
    mp_buf_free(&r->messages);
    mp_buf_free(&r->meta);
    free(r);
}

static void want(mp_sim *s, run *r, node *n) {
    if (n->state != N_IDLE) return;
    cached *c = lookup(s, n);
    n->state = N_WANTED;
    if (c) {
        n->state = N_CACHED;
        s->record.cached++;
        if (!n->is_output) return;
        n->touched = 1;
        n->value = n->max;
        executed(s, r, n, c->ui, c->id);
        progress_state(s, r);
        return;
    }
    for (const mp_json *i = mp_json_first(n->inputs); i; i = mp_json_next(i)) {
        node *from = is_link(i) ? node_by_id(r, mp_json_string(mp_json_first(i))) : NULL;
        if (from) want(s, r, from);
    }
}

static void on_cached(mp_sim *s, run *r, mp_time now) {
    mp_buf b = { 0 };
    for (size_t i = 0; i < r->n; i++) key_of(s, r, &r->nodes[i]);
    evict(s, r);
    mp_buf_puts(&b, "\"nodes\": [");
    for (size_t i = 0, any = 0; i < r->n; i++) {
        if (!lookup(s, &r->nodes[i])) continue;
        if (any++) mp_buf_puts(&b, ", ");
        mp_buf_json(&b, mp_str_of(r->nodes[i].id));
    }
    mp_buf_puts(&b, "], ");
    tail(&b, r);
    stamped(s, r, "execution_cached", &b, now, 0);
    for (size_t i = 0; i < r->n; i++)
        if (r->nodes[i].requested) want(s, r, &r->nodes[i]);
    r->phase = R_NEXT;
    s->at = now;
}

static int ready(run *r, const node *n) {
    for (const mp_json *i = mp_json_first(n->inputs); i; i = mp_json_next(i)) {
        node *from = is_link(i) ? node_by_id(r, mp_json_string(mp_json_first(i))) : NULL;
        if (from && from->state == N_WANTED) return 0;
    }
    return 1;
}

/* Output nodes first, then list order (protocol 5.2); NULL: nothing left. */
static node *pick(run *r) {
    node *any = NULL;
    for (size_t i = 0; i < r->n; i++) {
        node *n = &r->nodes[i];
        if (n->state != N_WANTED || !ready(r, n)) continue;
        if (n->is_output) return n;
        if (!any) any = n;
    }
    return any;
}

static sim_failure *failing(mp_sim *s, const node *n) {
    for (sim_failure *f = s->failures; f; f = f->next)
        if (f->times > 0 && (!f->class_type || strcmp(f->class_type, n->class_type) == 0)) return f;
    return NULL;
}

static void executed_list(run *r, mp_buf *b) {
    mp_buf_puts(b, "\"executed\": [");
    for (size_t i = 0, any = 0; i < r->n; i++) {
        if (r->nodes[i].state != N_DONE) continue;
        if (any++) mp_buf_puts(b, ", ");
        mp_buf_json(b, mp_str_of(r->nodes[i].id));
    }
    mp_buf_puts(b, "]");
}

static void where(run *r, const node *n, mp_buf *b) {
    tail(b, r);
    mp_buf_puts(b, ", \"node_id\": ");
    mp_buf_json(b, mp_str_of(n->id));
    mp_buf_puts(b, ", \"node_type\": ");
    mp_buf_json(b, mp_str_of(n->class_type));
    mp_buf_puts(b, ", ");
    executed_list(r, b);
}

static void end(mp_sim *s, run *r, int verdict, mp_time now) {
    r->verdict = verdict;
    r->phase = R_END;
    s->at = now;
}

static void raise(mp_sim *s, run *r, const node *n, sim_failure *f, mp_time now) {
    mp_buf b = { 0 };
    f->times--;
    s->record.failed++;
    where(r, n, &b);
    mp_buf_puts(&b, ", \"exception_message\": ");
    int memory = strstr(f->type, "OutOfMemory") != NULL;
    static const char tips[] = "\nThis error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before you might have accidentally set the batch_size to a large number.";
    char *words = mp_format("%s%s", f->message, !s->v->features ? "" : memory ? tips : "\n");
    mp_buf_json(&b, mp_str_of(words));
    free(words);
    mp_buf_puts(&b, ", \"exception_type\": ");
    mp_buf_json(&b, mp_str_of(f->type));
    mp_buf_puts(&b, ", \"traceback\": [\"  File \\\"execution.py\\\", in execute\\n\"], \"current_inputs\": {");
    for (const mp_json *i = mp_json_first(n->inputs); i; i = mp_json_next(i)) {
        if (i != mp_json_first(n->inputs)) mp_buf_puts(&b, ", ");
        mp_buf_json(&b, mp_str_of(mp_json_name(i)));
        mp_buf_puts(&b, ": [");
        if (is_link(i)) mp_buf_puts(&b, "\"<object text>\"");
        else mp_json_write(&b, i);
        mp_buf_puts(&b, "]");
    }
    mp_buf_puts(&b, "}, \"current_outputs\": [");
    for (size_t i = 0; i < r->n; i++) {
        if (i) mp_buf_puts(&b, ", ");
        mp_buf_json(&b, mp_str_of(r->nodes[i].id));
    }
    mp_buf_puts(&b, "]");
    stamped(s, r, "execution_error", &b, now, 0);
    if (memory)                                      /* all models are unloaded (protocol 5.6) */
        while (s->models) {
            model *m = s->models;
            s->models = m->next;
            free(m->name);
            free(m);
        }
    end(s, r, 1, now);
}

/* The flag is looked at before each node and at each progress report that is sent (protocol 2.5). */
static int interrupted(mp_sim *s, run *r, const node *n, mp_time now) {
    mp_buf b = { 0 };
    if (!s->interrupt) return 0;
    s->interrupt = 0;
    s->record.interrupted++;
    where(r, n, &b);
    stamped(s, r, "execution_interrupted", &b, now, 1);
    end(s, r, 2, now);
    return 1;
}

static void next_node(mp_sim *s, run *r, mp_time now) {
    node *n = pick(r);
    cached *twin;
    if (!n) {
        mp_buf b = { 0 };
        tail(&b, r);
        stamped(s, r, "execution_success", &b, now, 0);
        end(s, r, 0, now);
        return;
    }
    r->at = (size_t)(n - r->nodes);
    n->touched = 1;
    if ((twin = lookup(s, n)) != NULL) {             /* an equal node ran first, in this very prompt */
        n->state = N_CACHED;
        n->value = n->max;
        s->record.cached++;
        executed(s, r, n, twin->ui, twin->id);
        progress_state(s, r);
        return;
    }
    if (s->v->progress_state) progress_state(s, r);
    executing(s, r, n);
    if (interrupted(s, r, n, now)) return;
    mp_time once;
    node_cost(s, r->j->prompt, n, &once, &r->steps, &r->step_cost);
    r->step = r->shown_step = 0;
    r->shown_at = now - MP_MS(1000);
    r->rest = r->steps ? 0 : once;
    if (r->steps) s->at = now + once + r->step_cost;
    else s->at = now + once;
    r->phase = R_STEP;
}

static void preview(mp_sim *s, run *r, const node *n, int with_metadata) {
    for (conn *c = s->conns; c; c = c->next) {
        int own = r->j->client_id && strcmp(c->sid, r->j->client_id) == 0;
        mp_buf b = { 0 };
        if (!c->in_table || (r->j->client_id && !own) || (own && c->metadata) != with_metadata) continue;
        if (with_metadata) {
            mp_buf m = { 0 };
            mp_buf_puts(&m, "{\"node_id\": ");
            mp_buf_json(&m, mp_str_of(n->id));
            mp_buf_puts(&m, ", ");
            tail(&m, r);
            mp_buf_puts(&m, ", \"display_node_id\": ");
            mp_buf_json(&m, mp_str_of(n->id));
            mp_buf_puts(&m, ", \"parent_node_id\": null, \"real_node_id\": ");
            mp_buf_json(&m, mp_str_of(n->id));
            mp_buf_puts(&m, ", \"image_type\": \"image/jpeg\"}");
            mp_buf_u32be(&b, 4);
            mp_buf_u32be(&b, (uint32_t)m.n);
            mp_buf_str(&b, mp_buf_view(&m));
            mp_buf_free(&m);
        } else {
            mp_buf_u32be(&b, 1);
            mp_buf_u32be(&b, 1);
        }
        mp_buf_add(&b, sim_jpeg, sim_jpeg_size);
        emit_binary(s, c, &b);
    }
}

static int wants_previews(const mp_sim *s, const run *r) {
    const char *method = s->v->preview_method ? mp_json_string(mp_json_get(r->j->extra, "preview_method")) : NULL;
    return method ? strcmp(method, "none") != 0 && strcmp(method, "default") != 0 : s->o.previews;
}

/* One report of a progress bar. Since 0.9.2 thinned: first, last, with a preview, or 100 ms and 0.5 % since the last. */
static int report(mp_sim *s, run *r, node *n, mp_time now) {
    int previews = wants_previews(s, r);
    n->value = r->step;
    n->max = r->steps;
    if (s->v->throttled && !previews && r->step > 1 && r->step < r->steps &&
        (now - r->shown_at < MP_MS(100) || r->step - r->shown_step < 0.005 * r->steps)) return 0;
    r->shown_at = now;
    r->shown_step = r->step;
    if (interrupted(s, r, n, now)) return 1;
    progress_state(s, r);
    if (previews) preview(s, r, n, 1);
    mp_buf b = { 0 };
    head(&b, "progress");
    mp_buf_printf(&b, "\"value\": %d, \"max\": %d, ", r->step, r->steps);
    tail(&b, r);
    mp_buf_puts(&b, ", \"node\": ");
    if (r->j->client_id || s->v->progress_state) mp_buf_json(&b, mp_str_of(n->id));
    else mp_buf_puts(&b, "null");
    mp_buf_puts(&b, "}}");
    message(s, r, 1, &b);
    if (previews) preview(s, r, n, 0);
    return 0;
}

/* The server itself replaces %width% and %height% in a prefix. */
static char *fill(const char *prefix, int w, int h) {
    mp_buf b = { 0 };
    for (const char *p = prefix; *p;) {
        if (strncmp(p, "%width%", 7) == 0) { mp_buf_printf(&b, "%d", w); p += 7; }
        else if (strncmp(p, "%height%", 8) == 0) { mp_buf_printf(&b, "%d", h); p += 8; }
        else mp_buf_putc(&b, *p++);
    }
    return mp_buf_take(&b, NULL);
}

/* <prefix>_<5 digits>_.png, one above the highest there (protocol 5.7); the prefix may contain a folder. */
static char *save(mp_sim *s, run *r, const node *n) {
    const char *prefix = mp_json_string(mp_json_get(n->inputs, "filename_prefix"));
    int temp = strcmp(n->class_type, "PreviewImage") == 0, w, h, batch;
    char sub[256] = "", stem[256], name[300];
    mp_buf ui = { 0 };
    if (!prefix || strstr(prefix, "..")) prefix = temp ? "ComfyUI_temp_moonp" : n->class_type;
    size_of(r->j->prompt, n, &w, &h, &batch);
    char *filled = fill(prefix, w, h);
    const char *slash = strrchr(filled, '/');
    if (slash) snprintf(sub, sizeof sub, "%.*s", (int)(slash - filled), filled);
    snprintf(stem, sizeof stem, "%s", slash ? slash + 1 : filled);
    free(filled);
    mp_buf_puts(&ui, "{\"images\": [");
    for (int i = 0; i < batch; i++) {
        int k = 1;
        do snprintf(name, sizeof name, "%s_%05d_.png", stem, k++); while (file_find(s, temp ? "temp" : "output", sub, name));
        file *f = file_add(s, temp ? "temp" : "output", sub, name);
        mp_buf prompt = { 0 }, info = { 0 };
        f->width = w;
        f->height = h;
        memcpy(&f->look, n->key, sizeof f->look);
        f->look = f->look * 0x9e3779b97f4a7c15u + (uint64_t)i * 7919;
        mp_json_write(&prompt, r->j->prompt);
        f->prompt = mp_buf_take(&prompt, NULL);
        const mp_json *pnginfo = mp_json_get(r->j->extra, "extra_pnginfo");
        if (pnginfo) { mp_json_write(&info, pnginfo); f->pnginfo = mp_buf_take(&info, NULL); }
        mp_buf_puts(&ui, i ? ", {\"filename\": " : "{\"filename\": ");
        mp_buf_json(&ui, mp_str_of(name));
        mp_buf_puts(&ui, ", \"subfolder\": ");
        mp_buf_json(&ui, mp_str_of(sub));
        mp_buf_printf(&ui, ", \"type\": \"%s\"}", temp ? "temp" : "output");
    }
    mp_buf_puts(&ui, "]}");
    return mp_buf_take(&ui, NULL);
}

static void finish_node(mp_sim *s, run *r, node *n, mp_time now) {
    sim_failure *f = failing(s, n);
    if (f) { raise(s, r, n, f, now); return; }
    char *ui = n->is_output ? save(s, r, n) : NULL;
    if (ui) executed(s, r, n, ui, n->id);
    n->state = N_DONE;
    n->value = n->max;
    s->record.executed++;
    remember(s, n, ui);
    free(ui);
    progress_state(s, r);
    r->phase = R_NEXT;
    s->at = now;
}

static void step(mp_sim *s, run *r, mp_time now) {
    node *n = &r->nodes[r->at];
    if (r->steps && r->step < r->steps) {
        r->step++;
        if (report(s, r, n, now)) return;
        if (r->step < r->steps) { s->at = now + r->step_cost; return; }
    }
    finish_node(s, r, n, now);
}

/* ---- history --------------------------------------------------------------------------------------------- */

static void to_history(mp_sim *s, run *r) {
    mp_buf b = { 0 };
    job *j = r->j;
    mp_buf_puts(&b, "{\"prompt\": [");
    job_number(&b, j);
    mp_buf_puts(&b, ", ");
    mp_buf_json(&b, mp_str_of(j->id));
    mp_buf_puts(&b, ", ");
    mp_json_write(&b, j->prompt);
    mp_buf_puts(&b, ", ");
    extra_data(s, &b, j);
    mp_buf_puts(&b, ", [");
    for (size_t i = 0; i < j->n_outputs; i++) {
        if (i) mp_buf_puts(&b, ", ");
        mp_buf_json(&b, mp_str_of(j->outputs[i]));
    }
    mp_buf_printf(&b, "]], \"outputs\": {%s}, \"status\": {\"status_str\": \"%s\", \"completed\": %s, \"messages\": [%s]}, \"meta\": {%s}}",
                  r->outputs.p ? r->outputs.p : "", r->verdict ? "error" : "success", r->verdict ? "false" : "true", r->messages.p, r->meta.p ? r->meta.p : "");
    entry *e = mp_alloc(sizeof *e), **at = &s->history;
    for (; *at && strcmp((*at)->id, j->id) != 0; at = &(*at)->next) {}
    if (*at) {                                       /* the same id again replaces the old entry */
        entry *old = *at;
        *at = old->next;
        free(old->id);
        free(old->json);
        free(old);
        s->n_history--;
    }
    e->id = mp_strdup(j->id);
    e->json = mp_buf_take(&b, NULL);
    for (at = &s->history; *at; at = &(*at)->next) {}
    *at = e;
    if (++s->n_history > SIM_HISTORY) {
        e = s->history;
        s->history = e->next;
        free(e->id);
        free(e->json);
        free(e);
        s->n_history--;
    }
}

void run_step(mp_sim *s, mp_time now) {
    run *r = s->run;
    switch (r->phase) {
    case R_CACHED: on_cached(s, r, now); return;
    case R_NEXT: next_node(s, r, now); return;
    case R_STEP: step(s, r, now); return;
    case R_END:                                      /* flags of /free are obeyed between two prompts */
        if (s->free_nodes) cache_clear(s);
        s->free_nodes = 0;
        /* history first, then status, then the end (protocol 3.6) */
        to_history(s, r);
        s->run = NULL;
        emit_status(s);
        executing(s, r, NULL);
        run_free(r);
        s->idle_since = now;
        s->at = now + s->o.overhead;
        return;
    }
}
