/* sim/executor.c -- floor 5, sim: one worker runs one prompt after the other (protocol 3.7, 5.2, 5.3).
 * A run is a little machine that does one thing each time its moment comes: start, cache keys, a step of a node. Nodes
 * are called once per list element; lazy ones come twice; expanded ones wait for what they became; asynchronous ones
 * work side by side. */
#include "sim/inside.h"
#include <stdio.h>
#include <stdlib.h>

static double speed(const mp_sim *s) { return s->o.speed > 0 ? s->o.speed : 1; }

/* The node of the prompt that it came from: what clients are shown. */
static const node *root_of(const node *n) {
    while (n->parent) n = n->parent;
    return n;
}

static void did(mp_sim *s, const run *r, const node *n, mp_sim_deed what, mp_time now) {
    const char *mark = s->on_deed ? mp_json_string(mp_json_get(r->j->extra, "moonpool")) : NULL;
    if (mark) s->on_deed(s->on_deed_ud, mark, n->id, root_of(n)->id, what, now);
}

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

/* From now on every progress_state has it, behind those that were there. */
static void touch(run *r, node *n) {
    if (n->touched) return;
    n->touched = 1;
    r->listed = mp_grow(r->listed, r->n_listed, &r->cap_listed, sizeof *r->listed);
    r->listed[r->n_listed++] = n;
}

static void progress_state(mp_sim *s, run *r) {
    if (!s->v->progress_state) return;
    mp_buf b = { 0 };
    head(&b, "progress_state");
    tail(&b, r);
    mp_buf_puts(&b, ", \"nodes\": {");
    for (size_t i = 0; i < r->n_listed; i++) {
        const node *n = r->listed[i];
        if (i) mp_buf_puts(&b, ", ");
        mp_buf_json(&b, mp_str_of(n->id));
        mp_buf_puts(&b, ": {\"value\": ");
        number(&b, n->value, !n->whole);
        mp_buf_puts(&b, ", \"max\": ");
        number(&b, n->max, !n->whole);
        mp_buf_printf(&b, ", \"state\": \"%s\", \"node_id\": ", n->state == N_DONE || n->state == N_CACHED ? "finished" : "running");
        mp_buf_json(&b, mp_str_of(n->id));
        mp_buf_puts(&b, ", ");
        tail(&b, r);
        mp_buf_puts(&b, ", \"display_node_id\": ");
        mp_buf_json(&b, mp_str_of(root_of(n)->id));
        mp_buf_puts(&b, ", \"parent_node_id\": ");
        if (n->parent) mp_buf_json(&b, mp_str_of(n->parent->id));
        else mp_buf_puts(&b, "null");
        mp_buf_puts(&b, ", \"real_node_id\": ");
        mp_buf_json(&b, mp_str_of(root_of(n)->id));
        mp_buf_puts(&b, "}");
    }
    mp_buf_puts(&b, "}}}");
    message(s, r, 1, &b);
}

static void executing(mp_sim *s, run *r, const node *n) {
    mp_buf b = { 0 };
    r->shown = n ? root_of(n)->id : NULL;
    head(&b, "executing");
    mp_buf_puts(&b, "\"node\": ");
    if (n) {
        mp_buf_json(&b, mp_str_of(n->id));
        mp_buf_puts(&b, ", \"display_node\": ");
        mp_buf_json(&b, mp_str_of(r->shown));
    } else mp_buf_puts(&b, "null");
    mp_buf_puts(&b, ", ");
    tail(&b, r);
    mp_buf_puts(&b, "}}");
    message(s, r, 0, &b);
}

void to_outputs(run *r, node *n, const char *ui, const char *as) {
    const char *shown = n->parent ? root_of(n)->id : as;
    if (!ui || n->told) return;
    n->told = 1;
    if (r->outputs.n) mp_buf_puts(&r->outputs, ", ");
    mp_buf_json(&r->outputs, mp_str_of(n->id));
    mp_buf_printf(&r->outputs, ": %s", ui);
    if (r->meta.n) mp_buf_puts(&r->meta, ", ");
    mp_buf_json(&r->meta, mp_str_of(n->id));
    mp_buf_puts(&r->meta, ": {\"node_id\": ");
    mp_buf_json(&r->meta, mp_str_of(as));
    mp_buf_puts(&r->meta, ", \"display_node\": ");
    mp_buf_json(&r->meta, mp_str_of(shown));
    mp_buf_puts(&r->meta, ", \"parent_node\": ");
    if (n->parent) mp_buf_json(&r->meta, mp_str_of(n->parent->id));
    else mp_buf_puts(&r->meta, "null");
    mp_buf_puts(&r->meta, ", \"real_node_id\": ");
    mp_buf_json(&r->meta, mp_str_of(shown));
    mp_buf_puts(&r->meta, "}");
}

static void executed(mp_sim *s, run *r, node *n, const char *ui, const char *as) {
    mp_buf b = { 0 };
    int kept = n->state != N_CACHED || !s->v->lists_told || r->j->client_id;     /* 0.3.68 to 0.27: told to nobody, it is not kept either */
    head(&b, "executed");
    mp_buf_puts(&b, "\"node\": ");
    mp_buf_json(&b, mp_str_of(n->id));
    mp_buf_puts(&b, ", \"display_node\": ");
    mp_buf_json(&b, mp_str_of(root_of(n)->id));
    mp_buf_printf(&b, ", \"output\": %s, ", ui ? ui : "null");
    tail(&b, r);
    mp_buf_puts(&b, "}}");
    message(s, r, 0, &b);
    if (kept) to_outputs(r, n, ui, as);
}

node *node_by_id(run *r, const char *id) {
    for (size_t i = 0; id && i < r->n; i++)
        if (strcmp(r->nodes[i]->id, id) == 0) return r->nodes[i];
    return NULL;
}

static node *source_of(run *r, const mp_json *input) { return is_link(input) ? node_by_id(r, mp_json_string(mp_json_first(input))) : NULL; }

/* ---- a run ----------------------------------------------------------------------------------------------- */

static node *add_node(mp_sim *s, run *r, const char *id, const mp_json *doc) {
    node *n = mp_alloc(sizeof *n);
    n->id = mp_strdup(id);
    n->class_type = mp_json_string(mp_json_get(doc, "class_type"));
    n->inputs = mp_json_get(doc, "inputs");
    n->def = class_def(s, n->class_type);
    n->max = 1;
    r->nodes = mp_grow(r->nodes, r->n, &r->cap, sizeof *r->nodes);
    r->nodes[r->n++] = n;
    return n;
}

void run_start(mp_sim *s, job *j, mp_time now) {
    run *r = mp_alloc(sizeof *r);
    mp_buf b = { 0 };
    r->j = j;
    for (const mp_json *n = mp_json_first(j->prompt); n; n = mp_json_next(n)) {
        node *at = add_node(s, r, mp_json_name(n), n);
        at->is_output = is_output_class(s, j->prompt, at->id, at->class_type);
        for (size_t k = 0; k < j->n_outputs; k++) at->requested |= strcmp(j->outputs[k], at->id) == 0;
    }
    r->n_prompt = r->n;
    r->began = now;
    s->run = r;
    s->interrupt = s->late_interrupt == 2 && now - s->idle_since < MP_MS(1000);           /* an interrupt sent before this moment is lost (protocol 2.5) */
    if (s->late_interrupt == 2) s->late_interrupt = 0;
    const char *mark = mp_json_string(mp_json_get(j->extra, "moonpool"));
    if (s->on_start && mark) s->on_start(s->on_start_ud, mark);
    s->record.prompts++;
    tail(&b, r);
    stamped(s, r, "execution_start", &b, now, 0);
    r->phase = R_CACHED;
    s->at = now + (s->o.early ? 0 : (mp_time)(1000 / speed(s)));         /* keys are computed */
}

static void exec_free(exec *x) {
    for (size_t i = 0; i < x->n_in; i++) {
        free(x->in[i].v);
        free(x->in[i].own.text);
    }
    for (size_t i = 0; i < 8; i++) mp_buf_free(&x->ui[i]);
    free(x->in);
    free(x);
}

static void drop_active(run *r, exec *x) {
    exec **at = &r->active;
    while (*at != x) at = &(*at)->next;
    *at = x->next;
    exec_free(x);
}

void run_free(run *r) {
    if (!r) return;
    while (r->active) drop_active(r, r->active);
    for (size_t i = 0; i < r->n; i++) {
        node *n = r->nodes[i];
        result_free(n->res);
        mp_json_free(n->own);
        free(n->answer);
        free(n->id);
        free(n);
    }
    job_drop(r->j);
    free(r->nodes);
    free(r->listed);
    mp_buf_free(&r->outputs);
    mp_buf_free(&r->messages);
    mp_buf_free(&r->meta);
    free(r);
}

const char *run_shows(const run *r) { return r && r->active ? r->shown : NULL; }

static int lazy(const node *n, const char *input) {
    static const char *const groups[] = { "required", "optional" };
    for (int i = 0; i < 2; i++) {
        const mp_json *d = mp_json_get(mp_json_get(mp_json_get(n->def, "input"), groups[i]), input);
        if (d) return mp_json_true(mp_json_get(mp_json_at(d, 1), "lazy"));
    }
    return 0;
}

static void from_cache(mp_sim *s, node *n, const cached *c) {
    n->state = N_CACHED;
    n->res = c->res;
    n->res->refs++;
    s->record.cached++;
}

static void want(mp_sim *s, run *r, node *n) {
    if (n->state != N_IDLE) return;
    cached *c = n->parent ? NULL : cache_find(s, n);
    n->state = N_WANTED;
    if (c) {
        from_cache(s, n, c);
        if (!n->is_output) return;
        touch(r, n);
        n->whole = 1;
        n->value = n->max;
        executed(s, r, n, c->res->ui, c->res->id);
        progress_state(s, r);
        return;
    }
    for (const mp_json *i = mp_json_first(n->inputs); i; i = mp_json_next(i)) {
        node *from = source_of(r, i);
        if (from && !lazy(n, mp_json_name(i))) want(s, r, from);
    }
}

static void on_cached(mp_sim *s, run *r, mp_time now) {
    mp_buf b = { 0 };
    for (size_t i = 0; i < r->n; i++)                /* the real worker dies of it, outside of any node: protocol 3.7, wedged worker */
        if (mp_json_type(r->nodes[i]->inputs) != MP_JSON_OBJECT) { s->wedged = 1; return; }
    for (size_t i = 0; i < r->n; i++) key_of(s, r, r->nodes[i]);
    cache_evict(s, r);
    mp_buf_puts(&b, "\"nodes\": [");
    for (size_t i = 0, any = 0; i < r->n; i++) {
        if (!cache_find(s, r->nodes[i])) continue;
        if (any++) mp_buf_puts(&b, ", ");
        mp_buf_json(&b, mp_str_of(r->nodes[i]->id));
        did(s, r, r->nodes[i], MP_SIM_CACHED, now);
    }
    mp_buf_puts(&b, "], ");
    tail(&b, r);
    stamped(s, r, "execution_cached", &b, now, 0);
    for (size_t i = 0; i < r->n; i++)
        if (r->nodes[i]->requested) want(s, r, r->nodes[i]);
    r->phase = R_NODES;
    s->at = now;
}

static int waits(const node *n) { return n->state == N_WANTED || n->state == N_RUNNING || n->state == N_EXPANDED; }

static int ready(run *r, const node *n) {
    for (const mp_json *i = mp_json_first(n->inputs); i; i = mp_json_next(i)) {
        const node *from = source_of(r, i);
        if (from && waits(from)) return 0;           /* lazy inputs that nobody asked for do not wait for anything */
    }
    return 1;
}

/* Output and asynchronous nodes first, then list order (protocol 5.2); NULL: nothing is ready. */
static node *pick(run *r) {
    node *any = NULL;
    for (size_t i = 0; i < r->n; i++) {
        node *n = r->nodes[i];
        if (n->state != N_WANTED || !ready(r, n)) continue;
        const behaviour *how = behaviour_of(n->class_type);
        if (n->is_output || (how && how->async)) return n;
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
        if (r->nodes[i]->state != N_DONE) continue;
        if (any++) mp_buf_puts(b, ", ");
        mp_buf_json(b, mp_str_of(r->nodes[i]->id));
    }
    mp_buf_puts(b, "]");
}

/* Clients are told the node of the prompt, also when it happened inside of what that became. */
static void where(run *r, const node *n, mp_buf *b) {
    tail(b, r);
    mp_buf_puts(b, ", \"node_id\": ");
    mp_buf_json(b, mp_str_of(root_of(n)->id));
    mp_buf_puts(b, ", \"node_type\": ");
    mp_buf_json(b, mp_str_of(root_of(n)->class_type));
    mp_buf_puts(b, ", ");
    executed_list(r, b);
}

static void end(mp_sim *s, run *r, int verdict, mp_time now) {
    for (size_t i = 0; verdict && i < r->n; i++) {
        const node *n = r->nodes[i];
        if (n->state == N_RUNNING || n->state == N_EXPANDED || (n->state == N_WANTED && n->visits)) did(s, r, n, MP_SIM_STOPS, now);
    }
    while (r->active) drop_active(r, r->active);     /* the others are given up without a word */
    r->verdict = verdict;
    r->phase = R_END;
    s->at = now + s->o.history;
}

/* ---- failing ------------------------------------------------------------------------------------------------ */

static void show_value(mp_buf *b, const value *v) {
    if (v->kind == V_PLAIN) mp_buf_puts(b, v->text);
    else mp_buf_puts(b, "\"tensor([[[[0.0000, 0.0000, 0.0000]]]])\"");
}

/* Name -> list of what arrived, over all calls; hidden inputs too (protocol 3.6). */
static void current_inputs(mp_buf *b, const run *r, const exec *x) {
    const behaviour *how = behaviour_of(x->n->class_type);
    int any = 0;
    mp_buf_puts(b, "\"current_inputs\": {");
    for (size_t i = 0; i < x->n_in && !(how && how->async); i++) {
        if (any++) mp_buf_puts(b, ", ");
        mp_buf_json(b, mp_str_of(x->in[i].name));
        mp_buf_puts(b, ": [");
        for (size_t k = 0; k < x->in[i].n; k++) {
            if (k) mp_buf_puts(b, ", ");
            show_value(b, x->in[i].v[k]);
        }
        mp_buf_puts(b, "]");
    }
    if (how && how->hidden) {
        const mp_json *info = mp_json_get(r->j->extra, "extra_pnginfo");
        mp_buf text = { 0 };
        py_repr(&text, r->j->prompt);
        mp_buf_puts(b, any ? ", \"prompt\": [" : "\"prompt\": [");
        mp_buf_json(b, mp_buf_view(&text));
        mp_buf_puts(b, "], \"extra_pnginfo\": [");
        mp_buf_clear(&text);
        py_repr(&text, info);
        if (info) mp_buf_json(b, mp_buf_view(&text));
        else mp_buf_puts(b, "null");
        mp_buf_puts(b, "]");
        mp_buf_free(&text);
    }
    mp_buf_puts(b, "}");
}

static void raise(mp_sim *s, run *r, exec *x, const char *type, const char *message, int deep, mp_time now) {
    mp_buf b = { 0 };
    s->record.failed++;
    where(r, x->n, &b);
    mp_buf_puts(&b, ", \"exception_message\": ");
    int memory = strstr(type, "OutOfMemory") != NULL;
    static const char tips[] = "\nThis error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before you might have accidentally set the batch_size to a large number.";
    char *words = mp_format("%s%s", message, !s->v->features ? "" : memory ? tips : "\n");
    mp_buf_json(&b, mp_str_of(words));
    free(words);
    mp_buf_puts(&b, ", \"exception_type\": ");
    mp_buf_json(&b, mp_str_of(type));
    mp_buf_puts(&b, ", \"traceback\": [");
    for (int i = 0; i < deep; i++) mp_buf_printf(&b, "%s\"  File \\\"execution.py\\\", line %d, in execute\\n\"", i ? ", " : "", 300 + i);
    mp_buf_puts(&b, "], ");
    current_inputs(&b, r, x);
    mp_buf_puts(&b, ", \"current_outputs\": [");
    for (size_t i = 0; i < r->n; i++) {
        if (i) mp_buf_puts(&b, ", ");
        mp_buf_json(&b, mp_str_of(r->nodes[i]->id));
    }
    mp_buf_puts(&b, "]");
    stamped(s, r, "execution_error", &b, now, 0);
    while (memory && s->models) {                    /* all models are unloaded (protocol 5.6) */
        model *m = s->models;
        s->models = m->next;
        free(m->name);
        free(m);
    }
    end(s, r, 1, now);
}

/* A warning, not an end: what is behind a blocker is not called (protocol 3.6). */
static void tell_blocked(mp_sim *s, run *r, const node *n, const char *words) {
    mp_buf b = { 0 };
    char *text = mp_format("Execution Blocked: %s", words);
    head(&b, "execution_error");
    where(r, n, &b);
    mp_buf_puts(&b, ", \"exception_message\": ");
    mp_buf_json(&b, mp_str_of(text));
    mp_buf_puts(&b, ", \"exception_type\": \"ExecutionBlocked\", \"traceback\": [], \"current_inputs\": [], \"current_outputs\": []}}");
    message(s, r, 1, &b);
    free(text);
}

/* The flag is looked at before each call and at each progress report that is sent (protocol 2.5). */
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

/* ---- calling a node --------------------------------------------------------------------------------------------- */

/* The arguments as they arrived: a literal is a list of one; a link brings what its slot holds. */
static exec *gather(run *r, node *n) {
    exec *x = mp_alloc(sizeof *x);
    size_t count = mp_json_count(n->inputs);
    x->n = n;
    x->calls = 1;
    x->in = mp_alloc(count * sizeof *x->in + 1);
    for (const mp_json *i = mp_json_first(n->inputs); i; i = mp_json_next(i)) {
        const node *from = source_of(r, i);
        size_t k = x->n_in;
        if (from && !from->res) continue;            /* lazy, and not there yet */
        x->in[k].name = mp_json_name(i);
        if (from) {
            size_t at = from->def ? (size_t)mp_json_number(mp_json_at(i, 1), 0) : 0;     /* a class nobody knows gives the same everywhere */
            const slot *o = at < from->res->n_slots ? &from->res->slots[at] : NULL;
            x->in[k].n = o ? o->n : 0;
            x->in[k].v = mp_alloc((x->in[k].n + 1) * sizeof *x->in[k].v);
            for (size_t v = 0; v < x->in[k].n; v++) x->in[k].v[v] = &o->v[v];
            if (x->in[k].n > x->calls) x->calls = x->in[k].n;
        } else {
            const mp_json *wrapped = mp_json_get(i, "__value__");
            mp_buf b = { 0 };
            mp_json_write(&b, wrapped ? wrapped : i);
            x->in[k].own = (value){ V_PLAIN, 0, 0, 0, 0, mp_buf_take(&b, NULL) };
            x->in[k].n = 1;
            x->in[k].v = mp_alloc(sizeof *x->in[k].v);
        }
        x->n_in++;
    }
    for (size_t k = 0; k < x->n_in; k++)             /* the array does not move any more */
        if (x->in[k].own.text) x->in[k].v[0] = &x->in[k].own;
    return x;
}

static const value *blocker(const exec *x) {
    for (size_t i = 0; i < x->n_in; i++) {
        const value *v = arg(x, x->in[i].name);
        if (v && v->kind == V_BLOCKER) return v;
    }
    return NULL;
}

static void say_text(mp_sim *s, const node *n, const char *text) {
    for (conn *c = s->conns; c && s->v->progress_state; c = c->next) {
        mp_buf b = { 0 };
        if (!c->in_table) continue;
        mp_buf_u32be(&b, 3);
        mp_buf_u32be(&b, (uint32_t)strlen(n->id));
        mp_buf_puts(&b, n->id);
        mp_buf_puts(&b, text);
        emit_binary(s, c, &b);
    }
}

static void begin_call(mp_sim *s, run *r, exec *x, mp_time now) {
    const behaviour *how = behaviour_of(x->n->class_type);
    mp_time once = 0;
    x->step = x->shown_step = x->steps = 0;
    x->step_cost = 0;
    x->shown_at = now - MP_MS(1000);
    if (blocker(x)) once = 0;
    else if (how && how->time && !mp_json_get(s->costs, x->n->class_type)) how->time(s, x, &once);       /* the user's figures go before */
    else node_cost(s, r->j->prompt, x->n, &once, &x->steps, &x->step_cost);
    if (how && how->text && once) {                  /* it speaks twice, and reports nothing */
        say_text(s, x->n, "working on it");
        x->steps = 2;
        x->step_cost = once / 2;
        once = 0;
    }
    x->at = now + once + (x->steps ? x->step_cost : 0);
}

static void start(mp_sim *s, run *r, node *n, mp_time now) {
    const behaviour *how = behaviour_of(n->class_type);
    cached *twin = n->parent ? NULL : cache_find(s, n);
    touch(r, n);
    if (twin) {                                      /* an equal node ran first, in this very prompt */
        from_cache(s, n, twin);
        n->value = n->max;
        n->whole = 1;
        did(s, r, n, MP_SIM_CACHED, now);
        executed(s, r, n, twin->res->ui, twin->res->id);
        progress_state(s, r);
        return;
    }
    n->state = N_RUNNING;
    did(s, r, n, MP_SIM_BEGINS, now);
    progress_state(s, r);
    executing(s, r, n);
    if (interrupted(s, r, n, now)) return;
    for (const mp_json *i = mp_json_first(n->inputs); i; i = mp_json_next(i)) {  /* lazy inputs that are cached are there */
        node *from = source_of(r, i);
        cached *c = from && from->state == N_IDLE ? cache_find(s, from) : NULL;
        if (c) from_cache(s, from, c);
    }
    exec *x = gather(r, n);
    const char *asks = how && how->asks ? how->asks(x) : NULL;
    node *from = asks ? source_of(r, mp_json_get(n->inputs, asks)) : NULL;
    if (from && n->visits++ == 0) {                  /* it comes again when that has run */
        want(s, r, from);
        n->state = N_WANTED;
        did(s, r, n, MP_SIM_WAITS, now);
        exec_free(x);
        return;
    }
    x->next = r->active;
    r->active = x;
    begin_call(s, r, x, now);
}

/* ---- progress ------------------------------------------------------------------------------------------------------- */

static void preview(mp_sim *s, run *r, const exec *x, int with_metadata) {
    for (conn *c = s->conns; c; c = c->next) {
        int own = r->j->client_id && strcmp(c->sid, r->j->client_id) == 0;
        mp_buf b = { 0 };
        if (!c->in_table || (r->j->client_id && !own) || (own && c->metadata) != with_metadata) continue;
        if (with_metadata) {
            const node *n = x->n;
            mp_buf m = { 0 };
            mp_buf_puts(&m, "{\"node_id\": ");
            mp_buf_json(&m, mp_str_of(n->id));
            mp_buf_puts(&m, ", ");
            tail(&m, r);
            mp_buf_puts(&m, ", \"display_node_id\": ");
            mp_buf_json(&m, mp_str_of(root_of(n)->id));
            mp_buf_puts(&m, ", \"parent_node_id\": ");
            if (n->parent) mp_buf_json(&m, mp_str_of(n->parent->id));
            else mp_buf_puts(&m, "null");
            mp_buf_puts(&m, ", \"real_node_id\": ");
            mp_buf_json(&m, mp_str_of(root_of(n)->id));
            mp_buf_printf(&m, ", \"image_type\": \"image/%s\"}", x->png ? "png" : "jpeg");
            mp_buf_u32be(&b, 4);
            mp_buf_u32be(&b, (uint32_t)m.n);
            mp_buf_str(&b, mp_buf_view(&m));
            mp_buf_free(&m);
        } else {
            mp_buf_u32be(&b, 1);
            mp_buf_u32be(&b, x->png ? 2 : 1);
        }
        if (x->png) {
            const value *v = arg(x, "images");
            png_make(&b, v && v->kind == V_IMAGE ? v->width : 16, v && v->kind == V_IMAGE ? v->height : 16, (v ? v->look : 1) + (uint64_t)x->step * 7919, NULL, NULL);
        } else mp_buf_add(&b, sim_jpeg, sim_jpeg_size);
        emit_binary(s, c, &b);
    }
}

static int wants_previews(const mp_sim *s, const run *r) {
    const char *method = s->v->preview_method ? mp_json_string(mp_json_get(r->j->extra, "preview_method")) : NULL;
    return method ? strcmp(method, "none") != 0 && strcmp(method, "default") != 0 : s->o.previews;
}

/* One report of a progress bar. Since 0.9.2 thinned: first, last, with a preview, or 100 ms and 0.5 % since the last. */
static int report(mp_sim *s, run *r, exec *x, mp_time now) {
    int previews = x->preview ? x->preview > 0 : wants_previews(s, r), from_zero = x->preview == 2;
    node *n = x->n;
    n->whole = 1;
    n->value = x->step - from_zero;
    n->max = x->steps;
    if (s->v->throttled && !previews && x->step > 1 && x->step < x->steps &&
        (now - x->shown_at < MP_MS(100) || x->step - x->shown_step < 0.005 * x->steps)) return 0;
    x->shown_at = now;
    x->shown_step = x->step;
    if (interrupted(s, r, n, now)) return 1;
    progress_state(s, r);
    if (previews) preview(s, r, x, 1);
    mp_buf b = { 0 };
    head(&b, "progress");
    mp_buf_printf(&b, "\"value\": %d, \"max\": %d, ", x->step - from_zero, x->steps);
    tail(&b, r);
    mp_buf_puts(&b, ", \"node\": ");
    if (s->v->progress_state) mp_buf_json(&b, mp_str_of(n->id));
    else if (r->j->client_id) mp_buf_json(&b, mp_str_of(root_of(n)->id));
    else mp_buf_puts(&b, "null");
    mp_buf_puts(&b, "}}");
    message(s, r, 1, &b);
    if (previews) preview(s, r, x, 0);
    return 0;
}

/* The server itself replaces some words in a prefix; dates follow its clock, in UTC here. */
static char *fill(const mp_sim *s, const char *prefix, int w, int h, int i, mp_time now) {
    date t = date_of((long)(wall_ms(s, now) / 1000));
    const struct { const char *word; int v; const char *fmt; } words[] = {
        { "%width%", w, "%d" }, { "%height%", h, "%d" }, { "%batch_num%", i, "%d" }, { "%year%", t.year, "%d" }, { "%month%", t.month, "%02d" }, { "%day%", t.day, "%02d" },
        { "%hour%", t.hour, "%02d" }, { "%minute%", t.minute, "%02d" }, { "%second%", t.second, "%02d" }
    };
    mp_buf b = { 0 };
    for (const char *p = prefix; *p;) {
        size_t k = 0;
        while (k < 9 && strncmp(p, words[k].word, strlen(words[k].word)) != 0) k++;
        if (k == 9) { mp_buf_putc(&b, *p++); continue; }
        char text[16];
        snprintf(text, sizeof text, words[k].fmt, words[k].v);
        mp_buf_puts(&b, text);
        p += strlen(words[k].word);
    }
    return mp_buf_take(&b, NULL);
}

/* PreviewImage draws five letters once per node. */
static void letters(const mp_sim *s, const node *n, char out[24]) {
    uint64_t h = 1469598103934665603u ^ s->letters;
    for (const char *z = n->id; *z; z++) h = (h ^ (unsigned char)*z) * 1099511628211u;
    char *o = out + sprintf(out, "ComfyUI_temp_");
    for (int i = 0; i < 5; i++, h /= 26) *o++ = (char)('a' + h % 26);
    *o = 0;
}

/* <prefix>_<5 digits>_.png, one above the highest there (protocol 5.7); the prefix may contain a folder. */
void save_images(mp_sim *s, run *r, exec *x) {
    const node *n = x->n;
    const value *v = arg(x, "images");
    mp_buf text = { 0 };
    const char *prefix = arg_text(x, "filename_prefix", &text);
    int temp = strcmp(n->class_type, "PreviewImage") == 0, w, h, batch;
    char sub[256] = "", stem[256], name[300], own[24];
    letters(s, n, own);
    if (!prefix || strstr(prefix, "..")) prefix = temp ? own : n->class_type;
    if (v && v->kind == V_IMAGE) { w = v->width; h = v->height; batch = v->batch; }
    else size_of(r->j->prompt, n, &w, &h, &batch);
    for (int i = 0; i < batch; i++) {
        char *filled = fill(s, prefix, w, h, i, x->at);
        const char *slash = strrchr(filled, '/');
        if (slash) snprintf(sub, sizeof sub, "%.*s", (int)(slash - filled), filled);
        snprintf(stem, sizeof stem, "%s", slash ? slash + 1 : filled);
        free(filled);
        int k = 1;
        do snprintf(name, sizeof name, "%s_%05d_.png", stem, k++); while (file_find(s, temp ? "temp" : "output", sub, name));
        file *f = file_add(s, temp ? "temp" : "output", sub, name);
        mp_buf prompt = { 0 }, info = { 0 }, item = { 0 };
        f->width = w;
        f->height = h;
        f->made = x->at;
        memcpy(&f->look, n->key, sizeof f->look);
        f->look = f->look * 0x9e3779b97f4a7c15u + (uint64_t)(x->call * 64 + (size_t)i) * 7919;
        mp_json_write(&prompt, r->j->prompt);
        f->prompt = mp_buf_take(&prompt, NULL);
        const mp_json *pnginfo = mp_json_get(r->j->extra, "extra_pnginfo");
        if (mp_json_type(pnginfo) == MP_JSON_OBJECT) { mp_json_write(&info, pnginfo); f->pnginfo = mp_buf_take(&info, NULL); }
        mp_buf_puts(&item, "{\"filename\": ");
        mp_buf_json(&item, mp_str_of(name));
        mp_buf_puts(&item, ", \"subfolder\": ");
        mp_buf_json(&item, mp_str_of(sub));
        mp_buf_printf(&item, ", \"type\": \"%s\"}", temp ? "temp" : "output");
        ui_add(x, "images", item.p);
        mp_buf_free(&item);
    }
    mp_buf_free(&text);
}

/* ---- the end of a call, and of a node --------------------------------------------------------------------------------- */

static void plain_outputs(run *r, const exec *x, result *res) {
    const node *n = x->n;
    const value *v = NULL;
    int w, h, batch;
    for (size_t i = 0; i < x->n_in && !v; i++) {     /* pictures keep the size of the first that came in */
        v = arg(x, x->in[i].name);
        if (v && v->kind != V_IMAGE) v = NULL;
    }
    size_of(r->j->prompt, n, &w, &h, &batch);
    if (v && !mp_json_get(n->inputs, "width") && !mp_json_get(n->inputs, "samples")) { w = v->width; h = v->height; batch = v->batch; }
    uint64_t look;
    memcpy(&look, n->key[0] ? n->key : n->id, sizeof look < strlen(n->key[0] ? n->key : n->id) ? sizeof look : 1);
    for (size_t i = 0; i < res->n_slots; i++) slot_add(res, i, (value){ V_IMAGE, w, h, batch, look + x->call, NULL });
}

/* What the call itself would raise, before the node's own words: 1, and the message is the taker's to free. */
static int cannot_call(const exec *x, const char **type, char **message) {
    const value *v = arg(x, "images");
    for (size_t i = 0; i < x->n_in; i++) {
        if (x->in[i].n) continue;                    /* an empty list: called without that argument */
        *type = "TypeError";
        *message = mp_format("%s.%s() missing 1 required positional argument: '%s'", x->n->class_type, strcmp(x->n->class_type, "ImageInvert") == 0 ? "invert" : "execute", x->in[i].name);
        return 1;
    }
    if (!v || v->kind != V_PLAIN || !x->n->is_output) return 0;
    *type = "AttributeError";
    *message = mp_format("'%s' object has no attribute 'shape'", v->text[0] == '"' ? "str" : strpbrk(v->text, ".eE") ? "float" : "int");
    return 2;
}

/* What SaveImage says where extra_pnginfo is no object: it goes through it as through one. 0 or 2, as cannot_call. */
static int cannot_embed(const run *r, const char **type, char **message) {
    static const char *const names[] = { "", "NoneType", "bool", "int", "str", "list", "dict" };     /* by mp_json_kind */
    const mp_json *info = mp_json_get(r->j->extra, "extra_pnginfo"), *first = mp_json_first(info);
    mp_json_kind kind = mp_json_type(info);
    *type = "TypeError";
    if (kind == MP_JSON_ARRAY && first) *message = mp_format("list indices must be integers or slices, not %s", names[mp_json_type(first)]);
    else if (kind == MP_JSON_STRING && *mp_json_string(info)) *message = mp_strdup("string indices must be integers, not 'str'");
    else if (kind == MP_JSON_NUMBER || kind == MP_JSON_BOOL) *message = mp_format("'%s' object is not iterable", names[kind]);
    return *message ? 2 : 0;
}

static char *ui_of(exec *x) {
    mp_buf b = { 0 };
    mp_buf_putc(&b, '{');
    for (size_t i = 0; i < x->n_ui; i++) mp_buf_printf(&b, "%s\"%s\": [%s]", i ? ", " : "", x->ui_key[i], x->ui[i].p ? x->ui[i].p : "");
    mp_buf_putc(&b, '}');
    return mp_buf_take(&b, NULL);
}

static void finish_node(mp_sim *s, run *r, exec *x, mp_time now) {
    node *n = x->n;
    did(s, r, n, MP_SIM_ENDS, now);
    if (x->n_ui) n->res->ui = ui_of(x);
    if (n->res->ui) executed(s, r, n, n->res->ui, n->id);
    n->state = N_DONE;
    n->value = n->max;
    s->record.executed++;
    cache_keep(s, n);
    cache_used(s, r, n);
    progress_state(s, r);
}

static void expand(mp_sim *s, run *r, exec *x, const behaviour *how) {
    node *n = x->n;
    char *text = how->expand(x, &n->answer);
    n->own = mp_json_parse(text, strlen(text), NULL);
    n->state = N_EXPANDED;
    free(text);
    for (const mp_json *d = mp_json_first(n->own); d; d = mp_json_next(d)) {
        node *inner = add_node(s, r, mp_json_name(d), d);
        inner->parent = n;
        inner->is_output = mp_json_true(mp_json_get(inner->def, "output_node"));
        snprintf(inner->key, sizeof inner->key, "%.20s%.40s", n->key, inner->id);
        inner->keyed = 1;
    }
    for (size_t i = 0; i < r->n; i++)
        if (r->nodes[i]->parent == n && (r->nodes[i]->is_output || strcmp(r->nodes[i]->id, n->answer) == 0)) want(s, r, r->nodes[i]);
}

/* An expanded node ends when all that it became has run; its own output is that of one of them. */
static void close_expanded(mp_sim *s, run *r, mp_time now) {
    for (size_t i = 0; i < r->n; i++) {
        node *n = r->nodes[i], *answer = n->state == N_EXPANDED ? node_by_id(r, n->answer) : NULL;
        int open = 0;
        for (size_t k = 0; answer && k < r->n; k++) open |= r->nodes[k]->parent == n && waits(r->nodes[k]);
        if (!answer || open || !answer->res) continue;
        n->res = result_new(n);
        for (size_t k = 0; answer->res->n_slots && k < answer->res->slots[0].n; k++) {
            value v = answer->res->slots[0].v[k];
            v.text = mp_strdup(v.text);
            slot_add(n->res, 0, v);
        }
        n->state = N_DONE;
        n->value = n->max;
        s->record.executed++;
        did(s, r, n, MP_SIM_ENDS, now);
        cache_keep(s, n);
        cache_used(s, r, n);
        progress_state(s, r);
    }
}

static void finish_call(mp_sim *s, run *r, exec *x, mp_time now) {
    node *n = x->n;
    const behaviour *how = behaviour_of(n->class_type);
    const value *block = blocker(x);
    sim_failure *f = failing(s, n);
    const char *type = NULL;
    char *message = NULL;
    int odd = !block && !f ? cannot_call(x, &type, &message) : 0;
    if (!block && !f && !odd && how && how->embeds) odd = cannot_embed(r, &type, &message);
    x->at = now;
    if (block) {
        if (block->text) tell_blocked(s, r, n, block->text);
    } else if (f) {
        f->times--;
        raise(s, r, x, f->type, f->message, 5, now);
        return;
    } else if (odd || (how && how->raises && how->raises(x, &type, &message))) {
        raise(s, r, x, type, message, odd == 1 || (how && how->async) ? 4 : 5, now);
        free(message);
        return;
    }
    if (!n->res) n->res = result_new(n);
    if (block)
        for (size_t i = 0; i < n->res->n_slots; i++) slot_add(n->res, i, (value){ V_BLOCKER, 0, 0, 0, 0, NULL });
    else if (how && how->outputs) how->outputs(x, n->res);
    else if (!(how && how->expand)) plain_outputs(r, x, n->res);
    if (!block && how && how->ui) how->ui(s, r, x);
    else if (!block && n->is_output && !(how && how->no_ui)) save_images(s, r, x);
    if (++x->call < x->calls) {
        if (!interrupted(s, r, n, now)) begin_call(s, r, x, now);
        return;
    }
    if (how && how->expand && !block) {
        result_free(n->res);
        n->res = NULL;
        expand(s, r, x, how);
    } else finish_node(s, r, x, now);
    drop_active(r, x);
}

static void work(mp_sim *s, run *r, exec *x, mp_time now) {
    const behaviour *how = behaviour_of(x->n->class_type);
    if (x->step < x->steps) {
        x->step++;
        if (how && how->text) { if (x->step == 1) say_text(s, x->n, "nearly there: \xc3\xa9 \xc3\xbc \xe6\xbc\xa2 \xf0\x9f\x98\x80"); }
        else if (report(s, r, x, now)) return;
        if (x->step < x->steps) { x->at = now + x->step_cost; return; }
    }
    finish_call(s, r, x, now);
}

/* ---- the worker ------------------------------------------------------------------------------------------------------- */

static exec *next_due(const run *r) {
    exec *first = NULL;
    for (exec *x = r->active; x; x = x->next)
        if (!first || x->at <= first->at) first = x;
    return first;
}

static int busy(const run *r) {                      /* with a node that is not asynchronous */
    for (const exec *x = r->active; x; x = x->next) {
        const behaviour *how = behaviour_of(x->n->class_type);
        if (!how || !how->async) return 1;
    }
    return 0;
}

static void run_nodes(mp_sim *s, run *r, mp_time now) {
    node *n = busy(r) ? NULL : pick(r);
    exec *x = n ? NULL : next_due(r);
    if (n) start(s, r, n, now);                      /* what can start does so before what is under way goes on */
    else if (x && x->at <= now) work(s, r, x, now);
    if (r->phase != R_NODES) return;
    close_expanded(s, r, now);
    x = next_due(r);
    if (!busy(r) && pick(r)) s->at = now;
    else if (x) s->at = x->at > now ? x->at : now;
    else {
        mp_buf b = { 0 };
        tail(&b, r);
        stamped(s, r, "execution_success", &b, now, 0);
        end(s, r, 0, now);
    }
}

/* ---- the next step --------------------------------------------------------------------------------------- */

void run_step(mp_sim *s, mp_time now) {
    run *r = s->run;
    switch (r->phase) {
    case R_CACHED: on_cached(s, r, now); return;
    case R_NODES: run_nodes(s, r, now); return;
    case R_END:                                      /* flags of /free are obeyed between two prompts */
        if (s->free_nodes) cache_clear(s);
        s->free_nodes = 0;
        /* history first, then status, then the end (protocol 3.6) */
        history_add(s, r, now);
        s->run = NULL;
        emit_status(s);
        executing(s, r, NULL);
        run_free(r);
        s->idle_since = now;
        s->at = now + s->o.overhead;
        return;
    }
}
