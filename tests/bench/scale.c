/* tests/bench/scale.c -- a pool at its size: 1,000 clients, 1,000 workflows, 1,000,000 queued jobs, in virtual time. The
 * other side is the smallest honest conversation of a server: a reply to each request, seven frames a prompt. Prints
 *   <case> <CPU us per submit, its workflow included> <us in the pool per job, from submit to end> <CPU us per job after submit, the
 *   other side included> <bytes per queued job> */
#include "base/heap.h"
#include "bench/scale.h"
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct remote { mp_client *c; uint64_t conn; mp_time free_at; } remote;
typedef struct happening { mp_time t; uint64_t seq, action; remote *r; size_t at; char id[40]; int what; } happening;
enum { REPLY, BEGIN, END };

static mp_heap soon;
static uint64_t seq;
static mp_pool *pool;
static remote *remotes;

static double cpu_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* Time in the pool's own calls, without the other side's, and without what looking at the clock for it costs: by the wall's clock,
 * which is quick to ask, and then the share of it that was CPU time. */
static double in_pool;
static size_t looks;
static double wall_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}
#define POOL(call) do { double from = wall_us(); call; in_pool += wall_us() - from; looks++; } while (0)

/* What a call that does nothing takes by this clock. */
static double clock_us(void) {
    in_pool = 0;
    for (int i = 0; i < 100000; i++) POOL((void)0);
    return in_pool / 100000;
}

static void later(remote *r, int what, uint64_t action, const char *id, mp_time t) {
    happening *h = mp_alloc(sizeof *h);
    *h = (happening){ t, ++seq, action, r, MP_HEAP_OUT, "", what };
    if (id) memcpy(h->id, id, 36);
    mp_heap_push(&soon, h, t, h->seq);
}

static void frame(const remote *r, const char *text, mp_time now) { POOL(mp_pool_frame(pool, r->c, r->conn, 0, mp_str_of(text), now)); }

static void say(const remote *r, const char *fmt, const char *id, mp_time now) {
    char text[200];
    snprintf(text, sizeof text, fmt, id);
    frame(r, text, now);
}

static void happen(const happening *h) {
    const remote *r = h->r;
    char body[120];
    mp_result ok = { .status = 200 };
    switch (h->what) {
    case REPLY:
        snprintf(body, sizeof body, "{\"prompt_id\": \"%s\", \"number\": 1, \"node_errors\": {}}", h->id);
        ok.body = mp_str_of(body);
        POOL(mp_pool_done(pool, h->action, &ok, h->t));
        break;
    case BEGIN:
        say(r, "{\"type\": \"execution_start\", \"data\": {\"prompt_id\": \"%s\", \"timestamp\": 1}}", h->id, h->t);
        say(r, "{\"type\": \"execution_cached\", \"data\": {\"nodes\": [], \"prompt_id\": \"%s\", \"timestamp\": 1}}", h->id, h->t);
        say(r, "{\"type\": \"executing\", \"data\": {\"node\": \"2\", \"display_node\": \"2\", \"prompt_id\": \"%s\"}}", h->id, h->t);
        break;
    default:
        say(r, "{\"type\": \"executed\", \"data\": {\"node\": \"2\", \"display_node\": \"2\", \"output\": {\"images\": []}, \"prompt_id\": \"%s\"}}", h->id, h->t);
        say(r, "{\"type\": \"execution_success\", \"data\": {\"prompt_id\": \"%s\", \"timestamp\": 2}}", h->id, h->t);
        frame(r, "{\"type\": \"status\", \"data\": {\"status\": {\"exec_info\": {\"queue_remaining\": 1}}}}", h->t);
        say(r, "{\"type\": \"executing\", \"data\": {\"node\": null, \"prompt_id\": \"%s\"}}", h->id, h->t);
        break;
    }
}

static remote *remote_of(const mp_client *c) { return &remotes[mp_client_serial(c) - 1]; }

static void answer(mp_action *a, mp_time now) {
    static const char stats[] = "{\"system\": {\"comfyui_version\": \"0.18.1\"}, \"devices\": []}";
    mp_result r = { .status = 200, .body = { stats, sizeof stats - 1 } };
    remote *to = remote_of(a->client);
    const char *id = a->body ? strstr(a->body, "\"prompt_id\":\"") : NULL;
    if (a->kind == MP_ACT_CONNECT) {
        to->conn = a->id;
        r.status = 101;
        mp_pool_done(pool, a->id, &r, now);
    } else if (id) {
        mp_time took = MP_MS(1000) + (mp_time)(a->id * 2654435761u % 100000);
        id += 13;
        mp_time begin = to->free_at > now + 500 ? to->free_at : now + 500;
        later(to, REPLY, a->id, id, now + 400);
        later(to, BEGIN, 0, id, begin);
        to->free_at = begin + took;
        later(to, END, 0, id, to->free_at);
    } else mp_pool_done(pool, a->id, &r, now);
    free(a->path);
    free(a->body);
}

static size_t drain(mp_time now) {
    mp_action a;
    mp_event e;
    size_t ended = 0;
    for (int more;;) {
        POOL(more = mp_pool_take_action(pool, &a));
        if (!more) break;
        answer(&a, now);
    }
    for (int more;;) {
        POOL(more = mp_pool_take_event(pool, &e));
        if (!more) break;
        if (e.kind == MP_EV_JOB_COMPLETED) {
            POOL(mp_job_delivered(pool, mp_pool_job(pool, e.job)));
            ended++;
        }
        if (e.kind == MP_EV_JOB_FAILED) { fprintf(stderr, "a job failed: %s\n", e.data); exit(1); }
        mp_event_clear(&e);
    }
    return ended;
}

static size_t in_use(void) {
    struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
}

static mp_workflow *workflow(size_t i) {
    char text[400];
    int n = snprintf(text, sizeof text, "{\"1\":{\"class_type\":\"CheckpointLoaderSimple\",\"inputs\":{\"ckpt_name\":\"model-%zu.safetensors\"}},"
                     "\"2\":{\"class_type\":\"KSampler\",\"inputs\":{\"model\":[\"1\",0],\"seed\":0,\"steps\":20,\"text\":\"a lighthouse\"}}}", i);
    return mp_workflow_parse(text, (size_t)n, NULL);
}

void scale_run(const scale_case *k, const mp_policy *policy) {
    mp_pool_opts o;
    mp_time now = MP_MS(1);
    mp_workflow **w = mp_alloc(k->workflows * sizeof *w);
    mp_pool_defaults(&o);
    o.max_queued = 10000000;
    o.take_backs = 0;                                /* the other side keeps no queue from which anything could be deleted */
    mp_heap_init(&soon, offsetof(happening, at));
    remotes = mp_alloc(k->clients * sizeof *remotes);
    pool = mp_pool_new(&o, 7, policy, NULL);
    if (k->made) k->made(k->ud, pool);
    for (size_t i = 0; i < k->workflows; i++) w[i] = workflow(i);
    for (size_t i = 0; i < k->clients; i++) {
        char url[40];
        const char *mine[3] = { mp_workflow_hash(w[i % k->workflows]), mp_workflow_hash(w[(i * 7 + 1) % k->workflows]), NULL };
        mp_client_opts c = { .affinity = k->affinity ? mine : NULL };
        snprintf(url, sizeof url, "http://c%zu", i);
        remotes[i].c = mp_pool_add_client(pool, url, &c, now, NULL);
        drain(now);
    }
    mp_pool_pause(pool, 1, now);                     /* submit first: else the two would not be told apart */
    size_t before = in_use();
    double clock = clock_us(), t0 = cpu_us(), w0 = wall_us();
    in_pool = 0;
    looks = 0;
    for (size_t i = 0; i < k->jobs; i++) {
        mp_job_opts jo;
        char seed[24];
        mp_job_defaults(&jo);
        jo.profiling = k->profiling;
        jo.priority = (double)(i % 3);
        mp_workflow *job = mp_workflow_clone(w[i * 31 % k->workflows]);
        snprintf(seed, sizeof seed, "%zu", i);
        mp_workflow_set(job, mp_str_of("2"), mp_str_of("seed"), mp_str_of(seed), NULL);
        mp_workflow_set(job, mp_str_of("2"), mp_str_of("text"), mp_str_of("\"another text\""), NULL);
        POOL(mp_pool_submit(pool, job, &jo, now, NULL));
        mp_workflow_unref(job);
    }
    double t1 = cpu_us();
    size_t bytes = in_use() - before, ended = 0;
    POOL(mp_pool_pause(pool, 0, now));
    ended += drain(now);
    happening *h;
    while (ended < k->jobs && (h = mp_heap_pop(&soon)) != NULL) {
        now = h->t;
        happen(h);
        free(h);
        POOL(if (mp_pool_next(pool) <= now) mp_pool_tick(pool, now));
        ended += drain(now);
    }
    double t2 = cpu_us();
    in_pool = (in_pool - clock * (double)looks) * (t2 - t0) / (wall_us() - w0);        /* without the time in which others ran */
    if (ended < k->jobs) { fprintf(stderr, "only %zu of %zu jobs ended\n", ended, k->jobs); exit(1); }
    printf("%s %.2f %.2f %.2f %.0f\n", k->name, (t1 - t0) / (double)k->jobs, in_pool / (double)k->jobs, (t2 - t1) / (double)k->jobs, (double)bytes / (double)k->jobs);
    fflush(stdout);
    while ((h = mp_heap_pop(&soon)) != NULL) free(h);
    mp_heap_close(&soon);
    for (size_t i = 0; i < k->workflows; i++) mp_workflow_unref(w[i]);
    free(w);
    if (k->unmade) k->unmade(k->ud);
    else mp_pool_free(pool);
    free(remotes);
}
