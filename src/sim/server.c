/* sim/server.c -- floor 5, sim: life, sockets, the queue, time and faults of a simulated server. */
#include "sim/inside.h"
#include <stdlib.h>

#define FLAGS "\"supports_preview_metadata\": true, \"max_upload_size\": 104857600"

#define FRONTEND(version, templates) ", \"required_frontend_version\": " version ", \"installed_templates_version\": null, \"required_templates_version\": " templates

static const traits versions[] = {
    { .version = "0.18.1", .reported = "0.18.1", .os = "linux", .frontend = FRONTEND("\"1.42.8\"", "\"0.9.36\""),
      .features = "{" FLAGS ", \"extension\": {\"manager\": {\"supports_v4\": true}}, \"node_replacements\": true, \"assets\": false}",
      .unions = 1, .empty_object = 1, .progress_state = 1, .own_ids = 1, .targeted_interrupt = 1, .lists_told = 1, .create_time = 1,
      .preview_method = 1, .jobs = 1, .throttled = 1, .missing_node_type = 1 },
    { .version = "0.3.75", .reported = "0.3.75", .os = "posix", .frontend = FRONTEND("null", "null"), .features = "{" FLAGS "}",
      .unions = 1, .empty_object = 1, .progress_state = 1, .own_ids = 1, .targeted_interrupt = 1, .lists_told = 1, .create_time = 1 },
    { .version = "0.3.64", .reported = "0.3.64", .os = "posix", .frontend = FRONTEND("null", "null"), .features = "{" FLAGS "}",
      .unions = 1, .empty_object = 1, .progress_state = 1, .own_ids = 1, .targeted_interrupt = 1, .none_keeps = 1 },
    { .version = "2024-10", .reported = "unknown", .os = "posix" }
};

static int good_ms(const mp_json *j) {
    double v = mp_json_number(j, -1);
    return mp_json_type(j) == MP_JSON_NUMBER && v >= 0 && v <= 1e9;
}

/* 0, or words about the first cost that is none. */
static int check_costs(const mp_json *costs, mp_err *e) {
    if (mp_json_type(costs) != MP_JSON_OBJECT) return mp_fail(e, MP_EINVAL, "costs are an object: class -> ms, or {\"ms\":, \"step_ms\":}");
    for (const mp_json *c = mp_json_first(costs); c; c = mp_json_next(c)) {
        int good = good_ms(c);
        if (mp_json_type(c) == MP_JSON_OBJECT) {
            good = 1;
            for (const mp_json *m = mp_json_first(c); m; m = mp_json_next(m)) good &= good_ms(m) && (strcmp(mp_json_name(m), "ms") == 0 || strcmp(mp_json_name(m), "step_ms") == 0);
        }
        if (!good) return mp_fail(e, MP_EINVAL, "the cost of \"%s\": ms from 0 to 1e9, or {\"ms\":, \"step_ms\":}, expected", mp_json_name(c));
    }
    return 0;
}

/* Every class of a catalogue is an object with inputs: a workflow, for instance, is none. */
static int check_catalogue(const mp_json *catalogue, mp_err *e) {
    if (mp_json_type(catalogue) != MP_JSON_OBJECT) return mp_fail(e, MP_EINVAL, "a catalogue is the JSON object that GET /object_info gives");
    for (const mp_json *c = mp_json_first(catalogue); c; c = mp_json_next(c))
        if (mp_json_type(mp_json_get(c, "input")) != MP_JSON_OBJECT) return mp_fail(e, MP_EINVAL, "a catalogue is what GET /object_info gives; in this one \"%s\" has no \"input\"", mp_json_name(c));
    return 0;
}

mp_sim *mp_sim_new(const mp_sim_opts *o, uint64_t seed, mp_time now, mp_err *e) {
    const traits *v = NULL;
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++)
        if (strcmp(versions[i].version, o->version ? o->version : "0.18.1") == 0) v = &versions[i];
    if (!v) return mp_fail(e, MP_EINVAL, "no such version: \"%s\" (there are 0.18.1, 0.3.75, 0.3.64 and 2024-10)", o->version), NULL;
    static const char *const caches[] = { "classic", "lru", "none" };
    int cache = 0;
    while (cache < 3 && strcmp(caches[cache], o->cache ? o->cache : "classic") != 0) cache++;
    if (cache == 3) return mp_fail(e, MP_EINVAL, "no such cache: \"%s\" (there are classic, lru and none)", o->cache), NULL;
    const char *text = o->catalogue ? o->catalogue : mp_sim_catalogue;
    mp_json *catalogue = mp_json_parse(text, strlen(text), e), *costs = NULL;
    if (!catalogue) return NULL;
    if (check_catalogue(catalogue, e) || (o->costs && (!(costs = mp_json_parse(o->costs, strlen(o->costs), e)) || check_costs(costs, e)))) {
        mp_json_free(catalogue);
        mp_json_free(costs);
        return NULL;
    }
    mp_sim *s = mp_alloc(sizeof *s);
    s->o = *o;
    s->v = v;
    s->cache_mode = cache;
    s->catalogue = catalogue;
    s->costs = costs;
    s->name = mp_strdup(o->name ? o->name : "Moonpool Simulated GPU");
    s->at = s->idle_since = now;
    mp_rng_seed(&s->rng, seed);
    s->letters = seed;
    return s;
}

double wall_ms(const mp_sim *s, mp_time now) { return (double)((now + s->o.epoch) / 1000); }

/* The proleptic Gregorian calendar, with years that begin in March. */
date date_of(long clock) {
    long z = clock / 86400 + 719468, era = z / 146097, doe = z % 146097;
    long yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365, doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    date t = { 0, (int)(mp < 10 ? mp + 3 : mp - 9), (int)(doy - (153 * mp + 2) / 5 + 1), (int)(clock / 3600 % 24), (int)(clock / 60 % 60), (int)(clock % 60), (int)((clock / 86400 + 4) % 7) };
    t.year = (int)(yoe + era * 400 + (t.month <= 2));
    return t;
}

/* ---- what goes out ---------------------------------------------------------------------------------------------- */

static void push(mp_sim *s, mp_sim_out o) {
    if (s->out_head + s->out_n == s->out_cap && s->out_head) {
        memmove(s->out, s->out + s->out_head, s->out_n * sizeof *s->out);
        s->out_head = 0;
    }
    s->out = mp_grow(s->out, s->out_head + s->out_n, &s->out_cap, sizeof *s->out);
    s->out[s->out_head + s->out_n++] = o;
    if (s->on_out) s->on_out(s->on_out_ud);
}

void mp_sim_on_out(mp_sim *s, void (*fn)(void *), void *ud) {
    s->on_out = fn;
    s->on_out_ud = ud;
}

int mp_sim_take(mp_sim *s, mp_sim_out *out) {
    if (!s->out_n) { s->out_head = 0; return 0; }
    *out = s->out[s->out_head++];
    s->out_n--;
    return 1;
}

void reply(mp_sim *s, uint64_t tag, int status, const char *type, const char *body, size_t n) { reply_with(s, tag, status, type, NULL, body, n); }

void reply_with(mp_sim *s, uint64_t tag, int status, const char *type, char *headers, const char *body, size_t n) {
    push(s, (mp_sim_out){ .kind = MP_SIM_REPLY, .tag = tag, .status = status, .content_type = type, .body = mp_strndup(body, n), .n = n, .headers = headers });
}

conn *conn_of(mp_sim *s, const char *sid) {
    for (conn *c = s->conns; c; c = c->next)
        if (c->in_table && strcmp(c->sid, sid) == 0) return c;
    return NULL;
}

/* Python's encoder writes everything outside of ASCII as \\u escapes. */
static void ascii(mp_buf *text) {
    size_t i = 0;
    while (i < text->n && (unsigned char)text->p[i] < 0x80) i++;
    if (i == text->n) return;
    mp_buf b = { 0 };
    for (i = 0; i < text->n;) {
        const unsigned char *p = (const unsigned char *)text->p + i;
        size_t len = p[0] < 0x80 ? 1 : p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
        if (len == 1 || i + len > text->n) { mp_buf_putc(&b, (char)p[0]); i++; continue; }
        uint32_t u = len == 4 ? p[0] & 7u : len == 3 ? p[0] & 15u : p[0] & 31u;
        for (size_t k = 1; k < len; k++) u = u << 6 | (p[k] & 63u);
        if (u >= 0x10000) mp_buf_printf(&b, "\\u%04x\\u%04x", 0xd800 + ((u - 0x10000) >> 10), 0xdc00 + ((u - 0x10000) & 0x3ff));
        else mp_buf_printf(&b, "\\u%04x", u);
        i += len;
    }
    mp_buf_free(text);
    *text = b;
}

/* Blanks behind it make a frame long: they are nothing to JSON, nor to a picture. Takes the body. */
static void frame(mp_sim *s, mp_sim_out_kind kind, const conn *c, char *body, size_t n) {
    mp_sim_out o = { .kind = kind, .tag = c->tag, .body = body, .n = n };
    if (s->odd_frames > 0) {
        s->odd_frames--;
        o.over = s->odd_over;
        if (n < s->odd_bytes) {
            o.body = mp_realloc(body, o.n = s->odd_bytes);
            memset(o.body + n, ' ', o.n - n);
        }
    }
    push(s, o);
}

static void say(mp_sim *s, const conn *c, mp_buf *text) {
    size_t n;
    char *body = mp_buf_take(text, &n);
    frame(s, MP_SIM_TEXT, c, body, n);
}

void emit(mp_sim *s, const char *sid, mp_buf *text) {
    ascii(text);
    for (conn *c = s->conns; c; c = c->next)
        if (c->in_table && (!sid || strcmp(c->sid, sid) == 0)) frame(s, MP_SIM_TEXT, c, mp_strndup(text->p, text->n), text->n);
    mp_buf_free(text);
}

void emit_binary(mp_sim *s, const conn *c, mp_buf *bytes) {
    size_t n;
    char *body = mp_buf_take(bytes, &n);
    frame(s, MP_SIM_BINARY, c, body, n);
}

size_t mp_sim_waiting(const mp_sim *s) { return s->n_queue + (s->run != NULL); }

static void status_text(mp_sim *s, mp_buf *b, const char *sid) {
    mp_buf_printf(b, "{\"type\": \"status\", \"data\": {\"status\": {\"exec_info\": {\"queue_remaining\": %zu}}", mp_sim_waiting(s));
    if (sid) {
        mp_buf_puts(b, ", \"sid\": ");
        mp_buf_json(b, mp_str_of(sid));
    }
    mp_buf_puts(b, "}}");
}

void emit_status(mp_sim *s) {
    mp_buf b = { 0 };
    status_text(s, &b, NULL);
    emit(s, NULL, &b);
}

/* ---- the queue: Python's heapq over (number, id) ------------------------------------------------------------------ */

static int before(const job *a, const job *b) { return a->number != b->number ? a->number < b->number : strcmp(a->id, b->id) < 0; }

void queue_put(mp_sim *s, job *j) {
    s->queue = mp_grow(s->queue, s->n_queue, &s->cap_queue, sizeof *s->queue);
    size_t i = s->n_queue++;
    for (; i && before(j, s->queue[(i - 1) / 2]); i = (i - 1) / 2) s->queue[i] = s->queue[(i - 1) / 2];
    s->queue[i] = j;
}

static void sift(mp_sim *s, size_t i) {
    job *j = s->queue[i];
    for (size_t c; (c = 2 * i + 1) < s->n_queue; i = c) {
        if (c + 1 < s->n_queue && before(s->queue[c + 1], s->queue[c])) c++;
        if (!before(s->queue[c], j)) break;
        s->queue[i] = s->queue[c];
    }
    s->queue[i] = j;
}

job *queue_pop(mp_sim *s) {
    if (!s->n_queue) return NULL;
    job *j = s->queue[0], *last = s->queue[--s->n_queue];
    if (s->n_queue) { s->queue[0] = last; sift(s, 0); }
    return j;
}

int queue_delete(mp_sim *s, const char *id) {
    for (size_t i = 0; i < s->n_queue; i++) {
        if (strcmp(s->queue[i]->id, id) != 0) continue;
        job_drop(s->queue[i]);
        memmove(s->queue + i, s->queue + i + 1, (--s->n_queue - i) * sizeof *s->queue);
        for (size_t k = s->n_queue / 2; k-- > 0;) sift(s, k);        /* heapify, as the server does */
        return 1;
    }
    return 0;
}

void job_drop(job *j) {
    for (size_t i = 0; i < j->n_outputs; i++) free(j->outputs[i]);
    free(j->outputs);
    free(j->id);
    free(j->client_id);
    mp_json_free(j->body);
    mp_json_free(j->made);
    free(j);
}

/* ---- sockets (protocol 3.1 to 3.3) --------------------------------------------------------------------------------- */

void mp_sim_connect(mp_sim *s, uint64_t tag, mp_str id, mp_time now) {
    (void)now;
    conn *c = mp_alloc(sizeof *c), *old;
    char uuid[MP_UUID_SIZE];
    mp_uuid(&s->rng, uuid);
    c->tag = tag;
    for (char *z = uuid, *o = uuid;; z++)            /* an invented one is 32 hex digits */
        if (*z != '-' && !(*o++ = *z)) break;
    c->sid = id.n ? url_decode(id, 1) : mp_strdup(uuid);
    if ((old = conn_of(s, c->sid)) != NULL) old->in_table = 0;       /* not closed, only silent from now on */
    c->in_table = 1;
    c->next = s->conns;
    s->conns = c;
    mp_buf b = { 0 };
    status_text(s, &b, c->sid);
    say(s, c, &b);
    const char *shown = run_shows(s->run);
    if (shown && s->run->j->client_id && strcmp(s->run->j->client_id, c->sid) == 0) {
        mp_buf_puts(&b, "{\"type\": \"executing\", \"data\": {\"node\": ");
        mp_buf_json(&b, mp_str_of(shown));
        mp_buf_puts(&b, "}}");
        say(s, c, &b);
    }
}

void mp_sim_text(mp_sim *s, uint64_t tag, mp_str text, mp_time now) {
    (void)now;
    conn *c = s->conns;
    while (c && c->tag != tag) c = c->next;
    mp_json *j = c && !c->spoke && s->v->features ? mp_json_parse(text.p, text.n, NULL) : NULL;
    if (mp_json_type(j) == MP_JSON_OBJECT) {
        const char *type = mp_json_string(mp_json_get(j, "type"));
        c->spoke = 1;                                /* only the first message counts */
        if (type && strcmp(type, "feature_flags") == 0) {
            mp_buf b = { 0 };
            mp_buf_printf(&b, "{\"type\": \"feature_flags\", \"data\": %s}", s->v->features);
            c->metadata = mp_json_true(mp_json_get(mp_json_get(j, "data"), "supports_preview_metadata"));
            say(s, c, &b);
        }
    }
    mp_json_free(j);
}

/* The clean-up goes by sid: it takes the entry of a newer socket with the same sid along (the orphan trap). */
void mp_sim_disconnect(mp_sim *s, uint64_t tag, mp_time now) {
    (void)now;
    for (conn **at = &s->conns; *at; at = &(*at)->next) {
        if ((*at)->tag != tag) continue;
        conn *gone = *at, *entry_now = conn_of(s, gone->sid);
        if (entry_now && (entry_now == gone || !s->o.no_orphans)) entry_now->in_table = 0;
        *at = gone->next;
        free(gone->sid);
        free(gone);
        return;
    }
}

/* ---- requests and time ---------------------------------------------------------------------------------------------- */

static mp_str keep(mp_str t) { return mp_str_make(t.n ? mp_strndup(t.p, t.n) : NULL, t.n); }

void mp_sim_ask(mp_sim *s, const mp_sim_request *r, mp_time now) {
    s->record.requests++;
    if (now >= s->stalled) { serve(s, r, now); return; }
    s->held = mp_grow(s->held, s->n_held, &s->cap_held, sizeof *s->held);
    s->held[s->n_held++] = (mp_sim_request){ r->tag, keep(r->method), keep(r->path), keep(r->content_type), keep(r->host), keep(r->origin), keep(r->range), keep(r->since), keep(r->body) };
}

static void drop_held(mp_sim_request *h) {
    free((char *)h->method.p);
    free((char *)h->path.p);
    free((char *)h->content_type.p);
    free((char *)h->host.p);
    free((char *)h->origin.p);
    free((char *)h->range.p);
    free((char *)h->since.p);
    free((char *)h->body.p);
}

mp_time mp_sim_next(const mp_sim *s) {
    mp_time t = (s->run || s->n_queue) && !s->wedged ? s->at : MP_NEVER;
    if (s->n_held && s->stalled < t) t = s->stalled;
    return t != MP_NEVER && t < s->stalled ? s->stalled : t;
}

static void pop(mp_sim *s, mp_time now) {
    job *j = queue_pop(s);
    if (s->record.prompts && s->record.gaps < SIM_GAPS) {
        s->gaps = mp_grow(s->gaps, s->record.gaps, &s->cap_gaps, sizeof *s->gaps);
        s->gaps[s->record.gaps++] = now - s->idle_since;
    }
    mp_buf b = { 0 };
    mp_buf_printf(&b, "{\"type\": \"status\", \"data\": {\"status\": {\"exec_info\": {\"queue_remaining\": %zu}}}}", s->n_queue + 1);
    emit(s, NULL, &b);
    run_start(s, j, now);
}

void work_till(mp_sim *s, mp_time now) {
    while ((s->run || s->n_queue) && s->at <= now && !s->wedged) {
        mp_time moment = s->at > s->stalled ? s->at : s->stalled;
        if (moment > now) moment = now;
        if (!s->run) pop(s, moment);
        else run_step(s, moment);
    }
}

void mp_sim_tick(mp_sim *s, mp_time now) {
    if (now < s->stalled) return;
    size_t n = s->n_held;
    for (size_t i = 0; i < n; i++) {
        serve(s, &s->held[i], now);
        drop_held(&s->held[i]);
    }
    s->n_held = 0;
    work_till(s, now);
}

/* ---- faults ----------------------------------------------------------------------------------------------------------- */

void mp_sim_drop(mp_sim *s, mp_time now) {
    while (s->conns) {
        push(s, (mp_sim_out){ .kind = MP_SIM_CLOSE, .tag = s->conns->tag });
        mp_sim_disconnect(s, s->conns->tag, now);
    }
}

static void forget(mp_sim *s) {
    while (s->n_queue) job_drop(queue_pop(s));
    run_free(s->run);
    s->run = NULL;
    history_remove(s, NULL);
    cache_clear(s);
    while (s->models) {
        model *m = s->models;
        s->models = m->next;
        free(m->name);
        free(m);
    }
    for (size_t i = 0; i < s->n_held; i++) drop_held(&s->held[i]);
    s->n_held = 0;
}

void mp_sim_restart(mp_sim *s, mp_time now) {
    file *f, *next;
    mp_sim_drop(s, now);
    forget(s);
    HASH_ITER(hh, s->files, f, next)                 /* the temp folder is wiped at start; outputs stay */
        if (strncmp(f->key, "temp/", 5) == 0) file_free(s, f);
    s->counter = 0;
    s->interrupt = s->wedged = 0;
    s->at = s->idle_since = now;
}

void mp_sim_wedge(mp_sim *s) { s->wedged = 1; }

void mp_sim_deafen(mp_sim *s, int n) { s->lost_interrupts = n; }
void mp_sim_late(mp_sim *s) { s->late_interrupt = 1; }
void mp_sim_clock(mp_sim *s, mp_time step) { s->o.epoch += step; }

void mp_sim_frames(mp_sim *s, int times, size_t bytes, mp_time over) {
    s->odd_frames = times;
    s->odd_bytes = bytes;
    s->odd_over = over;
}

void mp_sim_watch(mp_sim *s, void (*fn)(void *, const char *), void *ud) {
    s->on_start = fn;
    s->on_start_ud = ud;
}

void mp_sim_observe(mp_sim *s, void (*fn)(void *, const char *, const char *, const char *, mp_sim_deed, mp_time), void *ud) {
    s->on_deed = fn;
    s->on_deed_ud = ud;
}

void mp_sim_marks(const mp_sim *s, void (*fn)(void *, const char *), void *ud) {
    for (size_t i = 0; i <= s->n_queue; i++) {
        const job *j = i < s->n_queue ? s->queue[i] : s->run ? s->run->j : NULL;
        const char *mark = j ? mp_json_string(mp_json_get(j->extra, "moonpool")) : NULL;
        if (mark) fn(ud, mark);
    }
}

int mp_sim_running(const mp_sim *s, const char **mark) {
    if (mark) *mark = s->run ? mp_json_string(mp_json_get(s->run->j->extra, "moonpool")) : NULL;
    return s->run != NULL;
}

void mp_sim_stall(mp_sim *s, mp_time until) { if (until > s->stalled) s->stalled = until; }

void mp_sim_fail(mp_sim *s, const char *class_type, int times, const char *type, const char *message) {
    sim_failure *f = mp_alloc(sizeof *f);
    *f = (sim_failure){ mp_strdup(class_type), mp_strdup(type ? type : "RuntimeError"), mp_strdup(message ? message : "it broke"), times, s->failures };
    s->failures = f;
}

void mp_sim_get_record(const mp_sim *s, mp_sim_record *r) {
    *r = s->record;
    r->gap = s->gaps;
}

void mp_sim_free(mp_sim *s) {
    if (!s) return;
    mp_sim_out o;
    forget(s);
    while (s->conns) mp_sim_disconnect(s, s->conns->tag, 0);
    while (mp_sim_take(s, &o)) { free(o.body); free(o.headers); }
    while (s->failures) {
        sim_failure *f = s->failures;
        s->failures = f->next;
        free(f->class_type);
        free(f->type);
        free(f->message);
        free(f);
    }
    files_free(s);
    mp_json_free(s->catalogue);
    mp_json_free(s->costs);
    free(s->name);
    free(s->queue);
    free(s->held);
    free(s->out);
    free(s->gaps);
    free(s);
}
