/* world/plan.c -- floor 6, world: a load on clients that take a given time, in virtual time. */
#include "world/plan.h"
#include "base/heap.h"
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#define BEGIN MP_MS(1000)                            /* of the load; until then all clients have come up */
#define IDLE_TICKS 20000                             /* of the pool alone, in a row: more than a day of looking again */
#define EVER ((mp_time)1 << 52)                      /* some 140 years: for bounds that nothing may reach here */

typedef enum { ARRIVE, ASKED, ANSWER, SAY, DONE } what;
typedef struct happening { mp_time t; uint64_t seq; what kind; struct server *s; uint64_t action; size_t job, at; char *text; } happening;
typedef struct waiting { char id[40]; size_t job; struct waiting *next; } waiting;
typedef struct server {
    mp_plan_client *own;
    mp_client *client;
    uint64_t conn;
    waiting *queue;                                  /* the first one runs when `runs` */
    int runs, last_kind;
} server;

typedef struct planning {
    mp_plan *p;
    mp_pool *pool;
    mp_heap soon;
    uint64_t seq;
    mp_time now;
    server *servers;
    mp_workflow **kinds;
    size_t ended, next;                              /* next: the job that arrives next */
} planning;

static happening *later(planning *x, what kind, server *s, mp_time t) {
    happening *h = mp_alloc(sizeof *h);
    h->t = t;
    h->seq = ++x->seq;
    h->kind = kind;
    h->s = s;
    h->at = MP_HEAP_OUT;
    mp_heap_push(&x->soon, h, t, h->seq);
    return h;
}

static void answer(planning *x, server *s, uint64_t action, char *body) {
    happening *h = later(x, ANSWER, s, x->now + x->p->delay);
    h->action = action;
    h->text = body;
}

static void say(planning *x, server *s, char *text) { later(x, SAY, s, x->now + x->p->delay)->text = text; }

/* ---- a server ---------------------------------------------------------------------------------------------------- */

static void tell_status(planning *x, server *s) {
    size_t n = 0;
    for (const waiting *w = s->queue; w; w = w->next) n++;
    say(x, s, mp_format("{\"type\": \"status\", \"data\": {\"status\": {\"exec_info\": {\"queue_remaining\": %zu}}}}", n));
}

static void start_next(planning *x, server *s) {
    waiting *w = s->queue;
    if (!w || s->runs) return;
    mp_plan_job *j = &x->p->jobs[w->job];
    mp_time took = j->service + (x->p->cold && s->last_kind != j->kind ? x->p->cold[j->kind] : 0);
    took = (mp_time)((double)took / s->own->speed);
    s->runs = 1;
    s->last_kind = j->kind;
    j->begun = x->now - BEGIN;
    j->client = (int)(s - x->servers);
    s->own->busy += took;
    s->own->ran++;
    say(x, s, mp_format("{\"type\": \"execution_start\", \"data\": {\"prompt_id\": \"%s\", \"timestamp\": 1}}", w->id));
    say(x, s, mp_format("{\"type\": \"execution_cached\", \"data\": {\"nodes\": [], \"prompt_id\": \"%s\", \"timestamp\": 1}}", w->id));
    say(x, s, mp_format("{\"type\": \"executing\", \"data\": {\"node\": \"1\", \"display_node\": \"1\", \"prompt_id\": \"%s\"}}", w->id));
    later(x, DONE, s, x->now + took);
}

static void finish(planning *x, server *s) {
    waiting *w = s->queue;
    x->p->jobs[w->job].ended = x->now - BEGIN;
    say(x, s, mp_format("{\"type\": \"executed\", \"data\": {\"node\": \"1\", \"display_node\": \"1\", \"output\": {\"images\": []}, \"prompt_id\": \"%s\"}}", w->id));
    say(x, s, mp_format("{\"type\": \"execution_success\", \"data\": {\"prompt_id\": \"%s\", \"timestamp\": 2}}", w->id));
    s->queue = w->next;
    s->runs = 0;
    tell_status(x, s);
    say(x, s, mp_format("{\"type\": \"executing\", \"data\": {\"node\": null, \"prompt_id\": \"%s\"}}", w->id));
    free(w);
    start_next(x, s);
}

static void list_queue(mp_buf *b, const waiting *from, const waiting *to) {
    for (int any = 0; from && from != to; from = from->next) mp_buf_printf(b, "%s[0, \"%s\", {}, {}, []]", any++ ? ", " : "", from->id);
}

static char *show_queue(const server *s) {
    mp_buf b = { 0 };
    const waiting *pending = s->runs ? s->queue->next : s->queue;
    mp_buf_puts(&b, "{\"queue_running\": [");
    list_queue(&b, s->queue, pending);
    mp_buf_puts(&b, "], \"queue_pending\": [");
    list_queue(&b, pending, NULL);
    mp_buf_puts(&b, "]}");
    return mp_buf_take(&b, NULL);
}

static void delete_from(server *s, const char *body) {
    for (waiting **at = s->runs ? &s->queue->next : &s->queue; *at; at = &(*at)->next) {
        waiting *w = *at;
        if (!strstr(body, w->id)) continue;
        *at = w->next;
        free(w);
        return;
    }
}

static void take_prompt(planning *x, server *s, uint64_t action, const char *body) {
    const char *id = strstr(body, "\"prompt_id\":\""), *job = strstr(body, "\"plan\":");
    waiting *w = mp_alloc(sizeof *w), **at = &s->queue;
    memcpy(w->id, id + 13, 36);
    w->job = (size_t)strtoull(job + 7, NULL, 10);
    while (*at) at = &(*at)->next;
    *at = w;
    answer(x, s, action, mp_format("{\"prompt_id\": \"%s\", \"number\": 1, \"node_errors\": {}}", w->id));
    tell_status(x, s);
    start_next(x, s);
}

/* The path, a blank, and the body of a request have arrived. */
static void asked(planning *x, server *s, uint64_t action, const char *text) {
    const char *body = strchr(text, ' ') + 1;
    if (strncmp(text, "/prompt ", 8) == 0 && *body) take_prompt(x, s, action, body);
    else if (strncmp(text, "/queue ", 7) == 0 && *body) { delete_from(s, body); answer(x, s, action, mp_strdup("")); tell_status(x, s); }
    else if (strncmp(text, "/queue ", 7) == 0) answer(x, s, action, show_queue(s));
    else if (strncmp(text, "/system_stats ", 14) == 0) answer(x, s, action, mp_strdup("{\"system\": {\"comfyui_version\": \"0.18.1\"}, \"devices\": []}"));
    else answer(x, s, action, mp_strdup("{}"));
}

/* ---- the pool ------------------------------------------------------------------------------------------------------- */

static void do_action(planning *x, mp_action *a) {
    server *s = &x->servers[mp_client_serial(a->client) - 1];
    mp_result ok = { .status = 200 };
    if (a->kind == MP_ACT_CONNECT) {
        s->conn = a->id;
        ok.status = 101;
        mp_pool_done(x->pool, a->id, &ok, x->now);
    } else if (a->kind == MP_ACT_HTTP) {
        happening *h = later(x, ASKED, s, x->now + x->p->delay);
        h->action = a->id;
        h->text = mp_format("%s %s", a->path, a->body ? a->body : "");
    } else mp_pool_done(x->pool, a->id, &ok, x->now);
    free(a->path);
    free(a->body);
    mp_file_unref(a->file);
}

static void drain(planning *x) {
    mp_action a;
    mp_event e;
    for (int again = 1; again;) {
        again = 0;
        while (mp_pool_take_action(x->pool, &a)) { do_action(x, &a); again = 1; }
        while (mp_pool_take_event(x->pool, &e)) {
            if (mp_event_ends(e.kind)) {
                x->ended++;
                mp_job_delivered(x->pool, mp_pool_job(x->pool, e.job));
            }
            mp_event_clear(&e);
            again = 1;
        }
    }
}

static int arrive(planning *x, mp_err *e) {
    mp_job_opts o;
    char extra[40];
    mp_plan_job *j = &x->p->jobs[x->next];
    mp_job_defaults(&o);
    o.profiling = 0;
    snprintf(extra, sizeof extra, "{\"plan\":%zu}", x->next);
    o.extra_data = extra;
    j->begun = j->ended = -1;
    if (!mp_pool_submit(x->pool, x->kinds[j->kind], &o, x->now, e)) {
        if (e->code != MP_EPOLICY) return e->code;
        x->ended++;                                  /* the policy does not want it: it is not run */
    }
    if (++x->next < x->p->n_jobs) later(x, ARRIVE, NULL, BEGIN + x->p->jobs[x->next].arrival);
    return 0;
}

static int happen(planning *x, happening *h, mp_err *e) {
    mp_result ok = { .status = 200 };
    switch (h->kind) {
    case ARRIVE: return arrive(x, e);
    case ASKED: asked(x, h->s, h->action, h->text); break;
    case ANSWER:
        ok.body = mp_str_of(h->text);
        mp_pool_done(x->pool, h->action, &ok, x->now);
        break;
    case SAY: mp_pool_frame(x->pool, h->s->client, h->s->conn, 0, mp_str_of(h->text), x->now); break;
    case DONE: finish(x, h->s); break;
    }
    return 0;
}

static int run(planning *x, mp_err *e) {
    int rc = 0, idle = 0;
    while (x->ended < x->p->n_jobs && !rc) {
        happening *h = mp_heap_top(&x->soon);
        mp_time next = mp_pool_next(x->pool);
        if (!h && (next == MP_NEVER || ++idle > IDLE_TICKS)) return mp_fail(e, MP_EINVAL, "the plan came to a stop: %zu of %zu jobs wait, and nobody takes them", x->p->n_jobs - x->ended, x->p->n_jobs);
        if (h && h->t <= next) {
            idle = 0;
            mp_heap_pop(&x->soon);
            x->now = h->t;
            rc = happen(x, h, e);
            free(h->text);
            free(h);
        } else {
            x->now = next;
            mp_pool_tick(x->pool, x->now);
        }
        if (x->now > EVER) return mp_fail(e, MP_EINVAL, "the plan does not end");
        drain(x);
    }
    return rc;
}

static mp_workflow *workflow_of(size_t kind) {
    char *text = mp_format("{\"1\": {\"class_type\": \"Plan\", \"inputs\": {\"model\": \"kind-%zu.safetensors\"}}}", kind);
    mp_workflow *w = mp_workflow_parse(text, strlen(text), NULL);
    free(text);
    return w;
}

int mp_plan_run(mp_plan *p, mp_err *e) {
    planning x = { .p = p };
    mp_pool_opts o;
    mp_pool_defaults(&o);
    o.max_queued = p->n_jobs + 1;
    o.profiling = 0;
    o.node_silence = o.cold_silence = o.no_client = o.unreachable = o.execution_start = o.total = 0;
    o.poll = o.inactivity = EVER;
    x.now = 1;
    x.pool = mp_pool_new(&o, p->seed, p->policy, NULL);
    if (p->made) p->made(p->ud, x.pool, &x.now);
    mp_heap_init(&x.soon, offsetof(happening, at));
    x.servers = mp_alloc(p->n_clients * sizeof *x.servers + 1);
    x.kinds = mp_alloc(p->n_kinds * sizeof *x.kinds + 1);
    for (size_t i = 0; i < p->n_kinds; i++) x.kinds[i] = workflow_of(i);
    for (size_t i = 0; i < p->n_clients; i++) {
        char url[40];
        mp_client_opts c = { .priority = p->clients[i].priority, .slots = p->clients[i].slots };
        snprintf(url, sizeof url, "http://plan%zu", i);
        p->clients[i].busy = 0;
        p->clients[i].ran = 0;
        x.servers[i].own = &p->clients[i];
        x.servers[i].last_kind = -1;
        x.servers[i].client = mp_pool_add_client(x.pool, url, &c, x.now, e);
        drain(&x);
    }
    if (p->n_jobs) later(&x, ARRIVE, NULL, BEGIN + p->jobs[0].arrival);
    int rc = run(&x, e);
    mp_pool_stats s;
    mp_pool_get_stats(x.pool, &s);
    p->taken_back = s.taken_back;
    p->makespan = 0;
    for (size_t i = 0; i < p->n_jobs && !rc; i++)
        if (p->jobs[i].ended - p->jobs[0].arrival > p->makespan) p->makespan = p->jobs[i].ended - p->jobs[0].arrival;
    if (p->made) p->made(p->ud, NULL, NULL);
    for (happening *h; (h = mp_heap_pop(&x.soon)) != NULL; free(h)) free(h->text);
    mp_heap_close(&x.soon);
    for (size_t i = 0; i < p->n_clients; i++)
        for (waiting *w = x.servers[i].queue, *next; w; w = next) {
            next = w->next;
            free(w);
        }
    for (size_t i = 0; i < p->n_kinds; i++) mp_workflow_unref(x.kinds[i]);
    mp_pool_free(x.pool);
    free(x.kinds);
    free(x.servers);
    return rc;
}
