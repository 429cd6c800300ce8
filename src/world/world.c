/* world/world.c -- floor 6, world: the event heap and the joints. */
#include "world/world.h"
#include "base/digest.h"
#include "base/heap.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

typedef enum { E_ASK, E_ANSWER, E_FRAME, E_LOST, E_TEXT, E_GONE, E_TIMEOUT, E_CALL, E_OPEN, E_SHUT } kind;

typedef struct ev {
    mp_time t;
    uint64_t seq, id;                                /* id: the action, or the socket (the CONNECT action's id) */
    size_t sim, heap_at, arg;
    kind kind;
    int status, code, binary, form;
    char *a, *b;                                     /* texts, owned */
    size_t n;
    void (*fn)(mp_world *, void *, size_t);
    void *ud;
} ev;

typedef struct pending { uint64_t id; mp_time t; size_t sim; uint32_t life; int http, check, post; struct pending *next; } pending;    /* actions not reported yet; check: GET /system_stats; post: a prompt, or a file for one */

typedef struct server {
    mp_sim *sim;
    mp_client *client;
    mp_time up_at, dark, last_out;                   /* up_at: refuses connections until then */
    mp_time mute, slow, slow_by, no_socket, breaks;
    mp_time heard;                                   /* the last frame came */
    int lose, posts;                                 /* replies to be lost; actions under way that bring a prompt */
    uint32_t life;                                   /* goes up with every death: replies of an old life are lost */
    uint64_t socket;                                 /* the open one, 0: none */
} server;

struct mp_world {
    mp_world_opts o;
    mp_pool *pool;
    mp_rng rng;
    mp_time now, frozen;
    mp_heap heap;
    uint64_t seq;
    server *s;
    size_t n, cap;
    pending *pending;
    void (*on_event)(void *, const mp_event *);
    void (*on_step)(void *);
    void (*on_post)(void *, size_t, const char *, const char *);
    void *ud;
    char digest[MP_DIGEST_HEX];
    size_t steps;
};

static void note(mp_world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note(mp_world *w, const char *fmt, ...) {
    char line[600], all[700 + MP_DIGEST_HEX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    int n = snprintf(all, sizeof all, "%s%lld %s", w->digest, (long long)w->now, line);
    mp_sha256_hex(all, (size_t)n, w->digest);
    if (w->o.log) w->o.log(w->o.log_ud, all + strlen(w->digest));
}

mp_world *mp_world_new(const mp_world_opts *o) {
    mp_world *w = mp_alloc(sizeof *w);
    w->o = *o;
    mp_rng_seed(&w->rng, o->seed);
    w->pool = mp_pool_new(&o->pool, mp_rng_u64(&w->rng), o->policy, NULL);
    mp_heap_init(&w->heap, offsetof(ev, heap_at));
    memset(w->digest, '0', 64);
    w->now = MP_MS(1000);
    return w;
}

static void ev_free(ev *e) {
    free(e->a);
    free(e->b);
    free(e);
}

void mp_world_free(mp_world *w) {
    ev *e;
    if (!w) return;
    while ((e = mp_heap_pop(&w->heap))) ev_free(e);
    while (w->pending) {
        pending *p = w->pending;
        w->pending = p->next;
        free(p);
    }
    mp_pool_free(w->pool);
    for (size_t i = 0; i < w->n; i++) mp_sim_free(w->s[i].sim);
    mp_heap_close(&w->heap);
    free(w->s);
    free(w);
}

mp_pool *mp_world_pool(mp_world *w) { return w->pool; }
mp_time mp_world_now(const mp_world *w) { return w->now; }
mp_rng *mp_world_rng(mp_world *w) { return &w->rng; }
mp_sim *mp_world_sim(mp_world *w, size_t i) { return w->s[i].sim; }
mp_client *mp_world_client(mp_world *w, size_t i) { return w->s[i].client; }
size_t mp_world_sims(const mp_world *w) { return w->n; }
int mp_world_posting(const mp_world *w, size_t i) { return w->s[i].posts > 0; }
mp_time mp_world_heard(const mp_world *w, size_t i) { return w->s[i].heard; }
void mp_world_on_post(mp_world *w, void (*fn)(void *, size_t, const char *, const char *)) { w->on_post = fn; }

mp_time mp_world_asked(const mp_world *w, size_t i) {
    mp_time t = MP_NEVER;
    for (const pending *p = w->pending; p; p = p->next)
        if (p->sim == i && p->t < t) t = p->t;
    return t;
}

void mp_world_watch(mp_world *w, void (*on_event)(void *, const mp_event *), void (*on_step)(void *), void *ud) {
    w->on_event = on_event;
    w->on_step = on_step;
    w->ud = ud;
}

static ev *later(mp_world *w, kind k, size_t sim, uint64_t id, mp_time t) {
    ev *e = mp_alloc(sizeof *e);
    e->t = t;
    e->seq = ++w->seq;
    e->kind = k;
    e->sim = sim;
    e->id = id;
    mp_heap_push(&w->heap, e, t, e->seq);
    return e;
}

void mp_world_at(mp_world *w, mp_time t, void (*fn)(mp_world *, void *, size_t), void *ud, size_t arg) {
    ev *e = later(w, E_CALL, 0, 0, t);
    e->fn = fn;
    e->ud = ud;
    e->arg = arg;
}

static mp_time delay(mp_world *w) {
    mp_time d = w->o.delay_max - w->o.delay_min;
    return w->o.delay_min + (d > 0 ? (mp_time)mp_rng_below(&w->rng, (uint64_t)d + 1) : 0);
}

mp_client *mp_world_join(mp_world *w, size_t i, const mp_client_opts *c) {
    char url[40];
    if (w->s[i].client) return NULL;
    snprintf(url, sizeof url, "http://sim%zu", i);
    return w->s[i].client = mp_pool_add_client(w->pool, url, c, w->now, NULL);
}

size_t mp_world_add_sim(mp_world *w, const mp_sim_opts *o, const mp_client_opts *c) {
    w->s = mp_grow(w->s, w->n, &w->cap, sizeof *w->s);
    server *s = &w->s[w->n++];
    memset(s, 0, sizeof *s);
    s->sim = mp_sim_new(o, mp_rng_u64(&w->rng), w->now, NULL);
    mp_world_join(w, w->n - 1, c);
    return w->n - 1;
}

static size_t index_of(const mp_world *w, const mp_client *c) {
    size_t i = 0;
    while (w->s[i].client != c) i++;
    return i;
}

/* ---- reports to the pool, each action once ------------------------------------------------------------------------- */

static pending **find(mp_world *w, uint64_t id) {
    pending **p = &w->pending;
    while (*p && (*p)->id != id) p = &(*p)->next;
    return p;
}

static void report(mp_world *w, uint64_t id, int code, int status, const char *body, size_t n) {
    pending **at = find(w, id), *p = *at;
    if (!p) return;
    *at = p->next;
    w->s[p->sim].posts -= p->post;
    free(p);
    mp_result r = { code, status, mp_str_make(body, n), NULL, code == MP_EREFUSED ? "connection refused" : code == MP_ETIMEOUT ? "timed out" : code ? "the connection broke" : NULL };
    note(w, "done %llu code %d status %d bytes %zu", (unsigned long long)id, code, status, n);
    mp_pool_done(w->pool, id, &r, w->now);
}

static void report_later(mp_world *w, size_t sim, uint64_t id, int code, int status, char *body, size_t n, mp_time t) {
    ev *e = later(w, E_ANSWER, sim, id, t);
    e->code = code;
    e->status = status;
    e->a = body;
    e->n = n;
}

/* ---- from the pool -------------------------------------------------------------------------------------------------- */

#define FORM "multipart/form-data; boundary=MOONPOOL"

static char *form_of(const mp_file *f, size_t *n) {
    const char *fields[] = { "type", f->type, "subfolder", f->subfolder, "overwrite", f->overwrite ? "true" : "" };
    mp_buf b = { 0 };
    for (int i = 0; i < 6; i += 2)
        if (*fields[i + 1]) mp_buf_printf(&b, "--MOONPOOL\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\n%s\r\n", fields[i], fields[i + 1]);
    mp_buf_printf(&b, "--MOONPOOL\r\nContent-Disposition: form-data; name=\"image\"; filename=\"%s\"\r\n\r\n", f->name);
    mp_buf_add(&b, f->bytes, f->n);
    mp_buf_puts(&b, "\r\n--MOONPOOL--\r\n");
    return mp_buf_take(&b, n);
}

static void do_action(mp_world *w, mp_action *a) {
    size_t i = index_of(w, a->client);
    pending *p = mp_alloc(sizeof *p);
    *p = (pending){ a->id, w->now, i, w->s[i].life, a->kind == MP_ACT_HTTP, a->path && strcmp(a->path, "/system_stats") == 0, 0, w->pending };
    p->post = a->file || (a->path && strcmp(a->path, "/prompt") == 0);
    w->s[i].posts += p->post;
    if (w->on_post && a->body && a->kind == MP_ACT_HTTP) w->on_post(w->ud, i, a->path, a->body);
    w->pending = p;
    note(w, "act %llu kind %d sim%zu %s %s body %zu", (unsigned long long)a->id, a->kind, i, a->method ? a->method : "", a->path ? a->path : "", a->n_body);
    if (a->kind == MP_ACT_FORGET) {
        w->s[i].client = NULL;
        report_later(w, i, a->id, 0, 0, NULL, 0, w->now);
    } else if (a->kind == MP_ACT_CLOSE) {
        later(w, E_SHUT, i, a->conn, w->now + delay(w));
        report_later(w, i, a->id, 0, 0, NULL, 0, w->now + 2 * w->o.delay_max);
    } else {
        ev *e = later(w, a->kind == MP_ACT_CONNECT ? E_OPEN : E_ASK, i, a->id, w->now + delay(w));
        e->a = a->path;
        e->b = a->body;
        e->n = a->n_body;
        e->status = a->method && strcmp(a->method, "POST") == 0;
        e->form = a->file != NULL;
        if (a->file) e->b = form_of(a->file, &e->n);
        a->path = a->body = NULL;
        later(w, E_TIMEOUT, i, a->id, w->now + a->timeout);
    }
    free(a->path);
    free(a->body);
    mp_file_unref(a->file);
}

/* ---- from the servers ------------------------------------------------------------------------------------------------ */

static void drain_sim(mp_world *w, size_t i) {
    mp_sim_out o;
    server *s = &w->s[i];
    while (mp_sim_take(s->sim, &o)) {
        mp_time t = w->now + delay(w) + o.over;
        int lost = w->now < s->dark;
        free(o.headers);
        if (o.kind == MP_SIM_REPLY) {
            if (w->now < s->slow) t += s->slow_by;
            if (o.tag && s->lose > 0 && !lost) { s->lose--; lost = 1; }
            pending *p = o.tag ? *find(w, o.tag) : NULL;
            if (!lost && p && !p->check && w->now < s->breaks) {
                report_later(w, i, o.tag, MP_ENET, 0, NULL, 0, t);
                lost = 1;
            }
            if (lost || !o.tag) free(o.body);
            else report_later(w, i, o.tag, 0, o.status, o.body, o.n, t);
            continue;
        }
        if (t < s->last_out) t = s->last_out;        /* one socket: frames stay in order */
        s->last_out = t;
        if (lost || (w->now < s->mute && o.kind != MP_SIM_CLOSE)) { free(o.body); continue; }
        ev *e = later(w, o.kind == MP_SIM_CLOSE ? E_LOST : E_FRAME, i, o.tag, t);
        e->binary = o.kind == MP_SIM_BINARY;
        e->a = o.body;
        e->n = o.n;
    }
}

static void step_sims(mp_world *w) {
    for (size_t i = 0; i < w->n; i++) {
        mp_sim_tick(w->s[i].sim, w->now);
        drain_sim(w, i);
    }
}

static void drain_pool(mp_world *w) {
    mp_action a;
    mp_event e;
    while (mp_pool_take_action(w->pool, &a)) do_action(w, &a);
    while (mp_pool_take_event(w->pool, &e) || mp_pool_take_preview(w->pool, &e)) {
        note(w, "event %d job %llx client %u %s", e.kind, (unsigned long long)e.job, e.client, e.kind == MP_EV_JOB_FAILED && e.data ? e.data : "");
        if (w->on_event) w->on_event(w->ud, &e);
        mp_event_clear(&e);
    }
}

/* ---- faults ------------------------------------------------------------------------------------------------------------ */

void mp_world_cut(mp_world *w, size_t i, mp_time linger) {
    server *s = &w->s[i];
    if (!s->socket) return;
    note(w, "fault: cut sim%zu", i);
    later(w, E_LOST, i, s->socket, w->now);
    later(w, E_GONE, i, s->socket, w->now + linger);
}

void mp_world_down(mp_world *w, size_t i, mp_time until) {
    server *s = &w->s[i];
    note(w, "fault: down sim%zu", i);
    mp_sim_restart(s->sim, w->now);
    drain_sim(w, i);
    s->up_at = until;
    s->life++;
    for (pending *p = w->pending; p; p = p->next)
        if (p->sim == i && p->life < s->life) report_later(w, i, p->id, MP_ENET, 0, NULL, 0, w->now + delay(w));
}

void mp_world_dark(mp_world *w, size_t i, mp_time until) {
    note(w, "fault: dark sim%zu", i);
    w->s[i].dark = until;
}

void mp_world_mute(mp_world *w, size_t i, mp_time until) { note(w, "fault: mute sim%zu", i); w->s[i].mute = until; }
void mp_world_lose_replies(mp_world *w, size_t i, int n) { note(w, "fault: sim%zu loses %d replies", i, n); w->s[i].lose = n; }
void mp_world_break(mp_world *w, size_t i, mp_time until) { note(w, "fault: sim%zu breaks off", i); w->s[i].breaks = until; }
void mp_world_no_socket(mp_world *w, size_t i, mp_time until) { note(w, "fault: no socket at sim%zu", i); w->s[i].no_socket = until; }
void mp_world_freeze(mp_world *w, mp_time until) { note(w, "fault: frozen"); w->frozen = until; }

void mp_world_slow(mp_world *w, size_t i, mp_time until, mp_time by) {
    note(w, "fault: slow sim%zu", i);
    w->s[i].slow = until;
    w->s[i].slow_by = by;
}

void mp_world_foreign(mp_world *w, size_t i, const char *method, const char *path, const char *body) {
    mp_sim_request r = { 0, mp_str_of(method), mp_str_of(path), mp_str_of("application/json"), mp_str_of(""), mp_str_of(""), mp_str_of(""), mp_str_of(""), mp_str_of(body) };
    if (w->now < w->s[i].up_at) return;
    note(w, "foreign: %s %s at sim%zu", method, path, i);
    mp_sim_ask(w->s[i].sim, &r, w->now);
}

/* ---- events -------------------------------------------------------------------------------------------------------------- */

static void on_ask(mp_world *w, ev *e, server *s) {
    if (w->now < s->dark) return;                    /* its timeout will report it */
    if (w->now < s->up_at) { report_later(w, e->sim, e->id, MP_EREFUSED, 0, NULL, 0, w->now + delay(w)); return; }
    pending *p = *find(w, e->id);
    if (p) p->life = s->life;
    mp_sim_request r = { e->id, mp_str_of(e->status ? "POST" : "GET"), mp_str_of(e->a), mp_str_of(e->form ? FORM : "application/json"), mp_str_of(""), mp_str_of(""), mp_str_of(""), mp_str_of(""), mp_str_make(e->b, e->n) };
    mp_sim_ask(s->sim, &r, w->now);
}

static void on_open(mp_world *w, ev *e, server *s) {
    const char *id = strstr(e->a, "clientId=");
    if (w->now < s->dark) return;
    if (w->now < s->up_at) { report_later(w, e->sim, e->id, MP_EREFUSED, 0, NULL, 0, w->now + delay(w)); return; }
    if (w->now < s->no_socket) { report_later(w, e->sim, e->id, 0, 404, NULL, 0, w->now + delay(w)); return; }
    s->socket = e->id;
    mp_time t = w->now + delay(w);
    if (t < s->last_out) t = s->last_out;
    s->last_out = t;
    report_later(w, e->sim, e->id, 0, 101, NULL, 0, t);
    mp_sim_connect(s->sim, e->id, mp_str_of(id ? id + 9 : ""), w->now);
    ev *hello = later(w, E_TEXT, e->sim, e->id, t + delay(w));
    hello->a = e->b;
    hello->n = e->n;
    e->b = NULL;
}

static void on(mp_world *w, ev *e) {
    server *s = w->n ? &w->s[e->sim] : NULL;
    if ((e->kind == E_FRAME || e->kind == E_LOST) && !s->client) return;
    switch (e->kind) {
    case E_ASK: on_ask(w, e, s); break;
    case E_OPEN: on_open(w, e, s); break;
    case E_ANSWER: report(w, e->id, e->code, e->status, e->a, e->n); break;
    case E_TIMEOUT: report(w, e->id, MP_ETIMEOUT, 0, NULL, 0); break;
    case E_FRAME:
        s->heard = w->now;
        mp_pool_frame(w->pool, s->client, e->id, e->binary, mp_str_make(e->a, e->n), w->now);
        break;
    case E_LOST:
        if (s->socket == e->id) s->socket = 0;
        mp_pool_lost(w->pool, s->client, e->id, "the connection was lost", w->now);
        break;
    case E_TEXT: mp_sim_text(s->sim, e->id, mp_str_make(e->a, e->n), w->now); break;
    case E_GONE: mp_sim_disconnect(s->sim, e->id, w->now); break;
    case E_SHUT:
        if (s->socket == e->id) s->socket = 0;
        mp_sim_disconnect(s->sim, e->id, w->now);
        break;
    case E_CALL: e->fn(w, e->ud, e->arg); break;
    }
}

static mp_time next_moment(const mp_world *w) {
    const ev *e = mp_heap_top(&w->heap);
    mp_time t = mp_pool_next(w->pool);
    if (e && e->t < t) t = e->t;
    for (size_t i = 0; i < w->n; i++) {
        mp_time x = mp_sim_next(w->s[i].sim);
        if (x < t) t = x;
    }
    return t < w->frozen ? w->frozen : t;
}

int mp_world_run(mp_world *w, mp_time until) {
    drain_pool(w);
    for (;;) {
        mp_time t = next_moment(w);
        if (t > until || t == MP_NEVER) {
            if (until != MP_NEVER && t > until) w->now = until;
            return mp_pool_quiet(w->pool);
        }
        if (t > w->now) w->now = t;
        ev *e = mp_heap_top(&w->heap);
        if (e && e->t <= w->now) {
            mp_heap_pop(&w->heap);
            on(w, e);
            ev_free(e);
        }
        step_sims(w);
        if (mp_pool_next(w->pool) <= w->now) mp_pool_tick(w->pool, w->now);
        drain_pool(w);
        step_sims(w);
        if (w->on_step) w->on_step(w->ud);
        if (++w->steps > 20000000) return 0;         /* a loop without time would hang the caller */
    }
}

const char *mp_world_digest(mp_world *w, char out[65]) {
    memcpy(out, w->digest, 65);
    return out;
}
