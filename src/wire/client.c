/* wire/client.c -- floor 6, wire: carries a pool's actions to real servers and reports back. */
#include "wire/wire.h"
#include "net/http.h"
#include "net/ws.h"
#include "wire/journal.h"
#include <stdlib.h>
#include <uthash.h>

typedef struct remote {                              /* what we know of one client */
    mp_client *client;
    mp_wire_client o;
    char **headers;
    UT_hash_handle hh;
} remote;

typedef struct task {                                /* one action under way, or one open socket */
    mp_wire *wire;
    mp_client *client;
    uint64_t id;
    mp_http *http;
    mp_ws *ws;
    uint64_t closes;                                 /* CLOSE action to report when this socket has ended */
    char *hello;
    char *body;                                      /* a large reply on its way through the thread pool */
    size_t n_body;
    mp_json *doc;
    mp_file *file;                                   /* being uploaded */
    int reported;
    struct task *next, **prev;
} task;

struct mp_wire {
    mp_loop *loop;
    mp_pool *pool;
    mp_journal *journal;                             /* NULL: no profile log */
    mp_timer *timer, *calm;                          /* calm: when to look whether there is time for previews */
    void (*on_event)(void *, const mp_event *);
    void *ud;
    remote *remotes;
    task *tasks;
    int pumping, again, closing;
    int calming, looks;                              /* calm is set; looks at which there was no time yet */
    size_t heard;                                    /* messages since the last look */
};

static void report(mp_wire *w, uint64_t id, int code, int status, const char *body, size_t n, const char *words) {
    mp_result r = { code, status, mp_str_make(body, n), NULL, words };
    mp_pool_done(w->pool, id, &r, mp_loop_now(w->loop));
}

static task *task_new(mp_wire *w, mp_client *c, uint64_t id) {
    task *t = mp_alloc(sizeof *t);
    t->wire = w;
    t->client = c;
    t->id = id;
    t->next = w->tasks;
    t->prev = &w->tasks;
    if (t->next) t->next->prev = &t->next;
    w->tasks = t;
    return t;
}

static void task_free(task *t) {
    if (t->wire) {
        *t->prev = t->next;
        if (t->next) t->next->prev = t->prev;
    }
    mp_json_free(t->doc);
    mp_file_unref(t->file);
    free(t->body);
    free(t->hello);
    free(t);
}

/* ---- HTTP ------------------------------------------------------------------------------------------------ */

#define LARGE 65536                                  /* bytes of a reply that are parsed off the loop */

static void parse(void *ud) {
    task *t = ud;
    t->doc = mp_json_parse(t->body, t->n_body, NULL);
}

static void on_parsed(void *ud) {
    task *t = ud;
    mp_wire *w = t->wire;
    if (w) {
        mp_result result = { 0, 200, mp_str_make(t->body, t->n_body), t->doc, NULL };
        mp_pool_done(w->pool, t->id, &result, mp_loop_now(w->loop));
    }
    task_free(t);
    if (w) mp_wire_pump(w);
}

static void on_reply(void *ud, const mp_http_reply *r) {
    task *t = ud;
    mp_wire *w = t->wire;
    uint64_t id = t->id;
    t->http = NULL;
    if (r->code == 0 && r->status == 200 && r->n > LARGE && !w->closing) {
        t->body = mp_strndup(r->body, r->n);
        t->n_body = r->n;
        mp_loop_work(w->loop, parse, on_parsed, t);
        return;
    }
    task_free(t);
    report(w, id, r->code, r->status, r->body, r->n, r->message);
    mp_wire_pump(w);
}

static remote *remote_of(mp_wire *w, const mp_client *c) {
    remote *r;
    HASH_FIND_PTR(w->remotes, &c, r);
    return r;
}

static void field(mp_http_part *parts, size_t *n, const char *name, const char *text) {
    if (!text || !*text) return;
    parts[*n] = (mp_http_part){ .name = name, .data = text, .n = strlen(text) };
    ++*n;
}

/* An upload as a form (protocol 2.9). */
static size_t form_of(const mp_file *f, mp_http_part *parts) {
    size_t n = 0;
    field(parts, &n, "type", f->type);
    field(parts, &n, "subfolder", f->subfolder);
    field(parts, &n, "overwrite", f->overwrite ? "true" : NULL);
    field(parts, &n, "original_ref", f->mask_of);
    parts[n] = (mp_http_part){ .name = "image", .filename = f->name, .type = "application/octet-stream", .path = f->path, .data = f->bytes, .n = f->n, .borrowed = 1 };
    return n + 1;
}

static void do_http(mp_wire *w, mp_action *a) {
    mp_err e = { 0 };
    if (a->file && mp_file_check(a->file, &e)) { report(w, a->id, MP_EIO, 0, NULL, 0, e.msg); return; }
    remote *r = remote_of(w, a->client);
    char *url = mp_format("%s%s", mp_client_url(a->client), a->path);
    mp_http_opts o = { .method = a->method, .url = url, .body = a->body, .n_body = a->n_body, .timeout = a->timeout, .connect_timeout = mp_pool_options(w->pool)->connect_timeout };
    if (r) {
        o.headers = (const char *const *)r->headers;
        o.userpwd = r->o.userpwd;
        o.insecure = r->o.insecure;
        o.ca_file = r->o.ca_file;
    }
    task *t = task_new(w, a->client, a->id);
    mp_http_part parts[5];
    if (a->file) {
        t->file = mp_file_ref(a->file);
        o.silence = mp_pool_options(w->pool)->request_timeout;
        o.n_parts = form_of(a->file, parts);
        o.parts = parts;
    }
    t->http = mp_http_start(w->loop, &o, on_reply, t, &e);
    free(url);
    if (t->http) return;
    uint64_t id = t->id;
    task_free(t);
    report(w, id, MP_EREFUSED, 0, NULL, 0, e.msg);
}

/* ---- sockets ----------------------------------------------------------------------------------------------- */

static void on_open(void *ud) {
    task *t = ud;
    if (!t->wire) return;
    t->reported = 1;
    if (t->hello) mp_ws_send(t->ws, 0, t->hello, strlen(t->hello));
    report(t->wire, t->id, 0, 101, NULL, 0, NULL);
    mp_wire_pump(t->wire);
}

static void on_message(void *ud, int binary, const char *p, size_t n) {
    task *t = ud;
    if (!t->wire) return;
    t->wire->heard++;
    mp_pool_frame(t->wire->pool, t->client, t->id, binary, mp_str_make(p, n), mp_loop_now(t->wire->loop));
    mp_wire_pump(t->wire);
}

static void on_close(void *ud, int code, int status, const char *words) {
    task *t = ud;
    mp_wire *w = t->wire;
    (void)code;
    if (!w) { task_free(t); return; }
    if (!t->reported) report(w, t->id, status && status != 101 ? 0 : MP_ENET, status, NULL, 0, words);
    else mp_pool_lost(w->pool, t->client, t->id, words, mp_loop_now(w->loop));
    if (t->closes) report(w, t->closes, 0, 0, NULL, 0, NULL);
    task_free(t);
    mp_wire_pump(w);
}

static void do_connect(mp_wire *w, mp_action *a) {
    mp_err e = { 0 };
    remote *r = remote_of(w, a->client);
    char *url = mp_format("%s%s", mp_client_url(a->client), a->path);
    mp_ws_opts o = { .url = url, .timeout = a->timeout, .inactivity = mp_pool_options(w->pool)->inactivity, .on_open = on_open, .on_message = on_message, .on_close = on_close };
    if (r) {
        o.headers = (const char *const *)r->headers;
        o.userpwd = r->o.userpwd;
        o.insecure = r->o.insecure;
        o.ca_file = r->o.ca_file;
        o.max_message = r->o.max_message;
    }
    task *t = task_new(w, a->client, a->id);
    t->hello = a->body;
    a->body = NULL;
    t->ws = mp_ws_open(w->loop, &o, t, &e);
    free(url);
    if (t->ws) return;
    uint64_t id = t->id;
    task_free(t);
    report(w, id, MP_EREFUSED, 0, NULL, 0, e.msg);
}

static void do_close(mp_wire *w, mp_action *a) {
    for (task *t = w->tasks; t; t = t->next)
        if (t->ws && t->id == a->conn && !t->closes) {
            t->closes = a->id;
            mp_ws_close(t->ws, 1000, "");
            return;
        }
    report(w, a->id, 0, 0, NULL, 0, NULL);           /* it has ended by itself */
}

static void remote_free(remote *r) {
    for (size_t i = 0; r->headers && r->headers[i]; i++) free(r->headers[i]);
    free(r->headers);
    free((char *)r->o.userpwd);
    free((char *)r->o.ca_file);
    free(r);
}

static void do_forget(mp_wire *w, mp_action *a) {
    remote *r = remote_of(w, a->client);
    if (r) {
        HASH_DEL(w->remotes, r);
        remote_free(r);
    }
    report(w, a->id, 0, 0, NULL, 0, NULL);
}

/* ---- the profile log ----------------------------------------------------------------------------------------- */

void mp_wire_journal(mp_wire *w, mp_journal *j) { w->journal = j; }
int mp_wire_written(const mp_wire *w) { return !w->journal || mp_journal_idle(w->journal); }

static void write_down(mp_wire *w, const mp_event *e) {
    if (!w->journal || !mp_event_ends(e->kind)) return;
    const mp_job *j = mp_pool_job(w->pool, e->job);
    if (j && mp_job_profile(j)) mp_journal_job(w->journal, w->pool, j, mp_pool_client_was(w->pool, e->client));
}

/* ---- the pump ------------------------------------------------------------------------------------------------ */

static void tell_events(mp_wire *w) {
    mp_event e;
    while (mp_pool_take_event(w->pool, &e)) {
        write_down(w, &e);
        w->on_event(w->ud, &e);
        mp_event_clear(&e);
        w->again = 1;
    }
}

/* Events may make new actions and the other way round; a pump inside a pump only asks for another round. What is told of a client
 * comes before it is forgotten. */
void mp_wire_pump(mp_wire *w) {
    mp_action a;
    if (!w) return;                                  /* a plan's pool has none */
    if (w->pumping || w->closing) { w->again = 1; return; }
    w->pumping = 1;
    do {
        w->again = 0;
        while (mp_pool_take_action(w->pool, &a)) {
            if (a.kind == MP_ACT_HTTP || a.kind == MP_ACT_UPLOAD) do_http(w, &a);
            else if (a.kind == MP_ACT_CONNECT) do_connect(w, &a);
            else if (a.kind == MP_ACT_FORGET) { tell_events(w); do_forget(w, &a); }
            else do_close(w, &a);
            free(a.path);
            free(a.body);
            mp_file_unref(a.file);
        }
        tell_events(w);
    } while (w->again);
    w->pumping = 0;
    mp_timer_set(w->timer, mp_pool_next(w->pool));
    if (w->calming || !mp_pool_previews(w->pool)) return;
    w->calming = 1;
    mp_timer_set(w->calm, mp_loop_now(w->loop));
}

#define CALM_LOOKS 50                                /* a millisecond apart, or as long as the script takes */

/* One preview when nothing else has come meanwhile, or when it has waited long enough: a script that takes longer for
 * them than they take to come must not fall behind with all the rest. */
static void on_calm(void *ud) {
    mp_wire *w = ud;
    mp_event e;
    w->calming = 0;
    if ((!w->heard || ++w->looks >= CALM_LOOKS) && mp_pool_take_preview(w->pool, &e)) {
        w->looks = 0;
        w->pumping++;
        w->on_event(w->ud, &e);
        w->pumping--;
        mp_event_clear(&e);
    }
    w->heard = 0;
    mp_wire_pump(w);
}

static void on_timer(void *ud) {
    mp_wire *w = ud;
    mp_pool_tick(w->pool, mp_loop_now(w->loop));
    mp_wire_pump(w);
}

mp_wire *mp_wire_new(mp_loop *l, mp_pool *p, void (*on_event)(void *, const mp_event *), void *ud) {
    mp_wire *w = mp_alloc(sizeof *w);
    w->loop = l;
    w->pool = p;
    w->on_event = on_event;
    w->ud = ud;
    w->timer = mp_timer_new(l, on_timer, w);
    w->calm = mp_timer_new(l, on_calm, w);
    return w;
}

void mp_wire_client_opts(mp_wire *w, mp_client *c, const mp_wire_client *o) {
    remote *r = mp_alloc(sizeof *r), *old = remote_of(w, c);
    size_t n = 0;
    if (old) {
        HASH_DEL(w->remotes, old);
        remote_free(old);
    }
    while (o->headers && o->headers[n]) n++;
    r->client = c;
    r->o = *o;
    r->headers = mp_alloc((n + 1) * sizeof *r->headers);
    for (size_t i = 0; i < n; i++) r->headers[i] = mp_strdup(o->headers[i]);
    r->o.headers = (const char *const *)r->headers;
    r->o.userpwd = mp_strdup(o->userpwd);
    r->o.ca_file = mp_strdup(o->ca_file);
    HASH_ADD_PTR(w->remotes, client, r);
}

const mp_wire_client *mp_wire_opts_of(mp_wire *w, const mp_client *c) {
    remote *r = remote_of(w, c);
    return r ? &r->o : NULL;
}

void mp_wire_free(mp_wire *w) {
    remote *r, *next;
    if (!w) return;
    w->closing = 1;
    for (task *t = w->tasks, *after; t; t = after) {
        after = t->next;
        if (t->http) mp_http_cancel(t->http);        /* reports and frees t */
    }
    for (task *t = w->tasks, *after; t; t = after) { /* sockets end on later turns: their tasks stop naming us */
        after = t->next;
        t->wire = NULL;
        if (t->ws) mp_ws_close(t->ws, 1001, "");
    }
    HASH_ITER(hh, w->remotes, r, next) {
        HASH_DEL(w->remotes, r);
        remote_free(r);
    }
    mp_timer_free(w->timer);
    mp_timer_free(w->calm);
    mp_journal_free(w->journal);
    free(w);
}
