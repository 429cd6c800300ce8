/* tests/world/bounds.c -- the pool's own bounds in virtual time, to the microsecond, with a server that answers as it is told. Prints a line for
 * each, or what was wrong first.
 *   pauses    between attempts to connect: a quarter of the base, the base, doubled up to the cap, each give or take 30 %, without end
 *   silences  node_silence and cold_silence count from the last word of a prompt; total from submit, whatever is said
 *   words     a socket counts as deaf five seconds after a POST, or after an end that was found by asking, without a word; not before
 *   settles   a prompt whose POST's fate is unknown counts as lost after settle; one that was taken and is nowhere, at the first look
 *   rests     a server that begins nothing rests for a minute, then twice as long each time up to a quarter of an hour, till something moves
 *   left      the time that a job still needs: exact for runs that are all the same, of others in its range nine times of ten at least */
#include "base/rng.h"
#include "pool/pool.h"
#include "wrong.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { NOWHERE, WAITING, RUNNING, ENDED };              /* ENDED: and in the history */

typedef struct {                                     /* a pool with one client, and the server behind it */
    mp_pool *p;
    mp_client *c;
    mp_time now;
    int up;                                          /* it takes connections; else it refuses them */
    uint64_t conn;
    char prompt[MP_UUID_SIZE];                       /* the newest, and ... */
    int where;                                       /* ... where it is */
    int becomes, lost;                               /* where a POST brings it; lost: nowhere, and there is no reply */
    mp_time posted, retried;                         /* the newest */
    size_t posts;
    uint64_t closed;                                 /* the newest socket that we closed */
    mp_time tried;                                   /* the newest attempt to connect */
    mp_time allowed;                                 /* for the newest POST */
    size_t tries, ended;                             /* ended: jobs */
    mp_time ended_at;
    mp_event_kind how;
} play;

static void answer(play *x, const mp_action *a) {
    mp_result r = { 0 };
    mp_buf b = { 0 };
    if (a->kind == MP_ACT_CONNECT) {
        x->tried = x->now;
        x->tries++;
        if (x->up) x->conn = a->id;
        r.status = 101;
    }
    if (a->kind == MP_ACT_CLOSE) x->closed = a->conn;
    if (!x->up && a->kind != MP_ACT_CLOSE) r = (mp_result){ .code = MP_EREFUSED, .message = "refused" };
    else if (a->kind == MP_ACT_HTTP) {
        const char *id = a->body ? strstr(a->body, "\"prompt_id\":\"") : NULL;
        r.status = 200;
        if (strcmp(a->path, "/system_stats") == 0) mp_buf_puts(&b, "{\"system\":{\"comfyui_version\":\"0.18.1\"}}");
        else if (strcmp(a->path, "/prompt") == 0) {
            x->allowed = a->timeout;
            snprintf(x->prompt, sizeof x->prompt, "%.36s", id + 13);
            x->posted = x->now;
            x->posts++;
            x->where = x->lost ? NOWHERE : x->becomes;
            if (x->lost) r = (mp_result){ .code = MP_ENET, .message = "the connection broke" };
            mp_buf_printf(&b, "{\"prompt_id\":\"%s\",\"number\":1,\"node_errors\":{}}", x->prompt);
        } else if (strcmp(a->path, "/queue") == 0 && strcmp(a->method, "GET") == 0) {
            mp_buf_puts(&b, "{\"queue_running\":[");
            if (x->where == RUNNING) mp_buf_printf(&b, "[1,\"%s\",{},{},[]]", x->prompt);
            mp_buf_puts(&b, "],\"queue_pending\":[");
            if (x->where == WAITING) mp_buf_printf(&b, "[1,\"%s\",{},{},[]]", x->prompt);
            mp_buf_puts(&b, "]}");
        } else if (strncmp(a->path, "/history", 8) == 0 && x->where == ENDED) {
            mp_buf_printf(&b, "{\"%s\":{\"prompt\":[1,\"%s\",{},{},[]],\"outputs\":{},", x->prompt, x->prompt);
            mp_buf_puts(&b, "\"status\":{\"status_str\":\"success\",\"completed\":true,\"messages\":[]}}}");
        } else mp_buf_puts(&b, "{}");
        if (strcmp(a->path, "/queue") == 0 && strcmp(a->method, "POST") == 0 && x->where == WAITING) x->where = NOWHERE;
        r.body = mp_buf_view(&b);
    }
    mp_pool_done(x->p, a->id, &r, x->now);
    mp_buf_free(&b);
}

static void drain(play *x) {
    mp_action a;
    mp_event e;
    while (mp_pool_take_action(x->p, &a)) {
        answer(x, &a);
        free(a.path);
        free(a.body);
    }
    for (; mp_pool_take_event(x->p, &e); mp_event_clear(&e)) {
        if (e.kind == MP_EV_JOB_RETRYING) x->retried = e.t;
        if (mp_event_ends(e.kind)) {
            x->ended++;
            x->ended_at = e.t;
            x->how = e.kind;
        }
    }
}

/* Ticks as asked for, until nothing is to be done before `until` or, with `tries`, so many attempts to connect were made. */
static void go_on(play *x, mp_time until, size_t tries) {
    for (drain(x); mp_pool_next(x->p) <= until && (!tries || x->tries < tries); drain(x)) {
        if (mp_pool_next(x->p) > x->now) x->now = mp_pool_next(x->p);
        mp_pool_tick(x->p, x->now);
    }
    if (!tries) x->now = until;
}

static void open_play(play *x, const mp_pool_opts *o, uint64_t seed, int up) {
    memset(x, 0, sizeof *x);
    x->now = MP_MS(1000);
    x->up = up;
    x->becomes = RUNNING;
    x->p = mp_pool_new(o, seed, NULL, NULL);
    mp_pool_want(x->p, 1u << MP_EV_JOB_RETRYING);
    x->c = mp_pool_add_client(x->p, "http://there", NULL, x->now, NULL);
}

/* ---- pauses ------------------------------------------------------------------------------------------------------------------------- */

enum { TRIES = 40, SEEDS = 200 };

static mp_time pause_due(const mp_pool_opts *o, int n) {             /* the n-th, without its jitter */
    mp_time t = n ? o->reconnect_base : o->reconnect_base / 4;
    for (int i = 1; i < n && t < o->reconnect_cap; i++) t *= 2;
    return t < o->reconnect_cap ? t : o->reconnect_cap;
}

/* One more attempt fails: how long the pool waited before it, in parts of what was due. */
static double next_ratio(play *x, mp_time due) {
    mp_time before = x->tried;
    go_on(x, MP_NEVER - 1, x->tries + 1);
    drain(x);
    return (double)(x->tried - before) / (double)due;
}

static const char *pauses_of(const mp_pool_opts *o) {
    double least[TRIES], most[TRIES];
    for (int n = 0; n < TRIES; n++) { least[n] = 9; most[n] = 0; }
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        play x;
        open_play(&x, o, seed, 0);
        drain(&x);
        for (int n = 0; n < TRIES; n++) {
            double ratio = next_ratio(&x, pause_due(o, n));
            if (ratio < 0.7 || ratio > 1.3) return wrong("seed %llu: pause %d is %.3f of %lld us", (unsigned long long)seed, n + 1, ratio, (long long)pause_due(o, n));
            least[n] = ratio < least[n] ? ratio : least[n];
            most[n] = ratio > most[n] ? ratio : most[n];
        }
        mp_pool_free(x.p);
    }
    for (int n = 0; n < TRIES; n++)                  /* of 200 even draws one comes this near to each end, but once in 10^7 times */
        if (least[n] > 0.75 || most[n] < 1.25) return wrong("pause %d: only %.3f to %.3f of what is due, in %d seeds", n + 1, least[n], most[n], SEEDS);
    return NULL;
}

/* A link that held for as long as the base begins anew; one that came up and fell at once goes on as if it had not. */
static const char *pauses_after(const mp_pool_opts *o, mp_time held, int from) {
    play x;
    open_play(&x, o, 7, 0);
    drain(&x);
    for (int n = 0; n < 3; n++) next_ratio(&x, 1);
    x.up = 1;
    next_ratio(&x, 1);
    if (mp_client_get_state(x.c) != MP_CLIENT_ONLINE) return wrong("it does not come online");
    go_on(&x, x.now + held, 0);
    x.up = 0;
    x.tried = x.now;
    mp_pool_lost(x.p, x.c, x.conn, "cut", x.now);
    for (int n = from; n < from + 3; n++) {
        double ratio = next_ratio(&x, pause_due(o, n));
        if (ratio < 0.7 || ratio > 1.3) return wrong("a link that held for %lld us: pause %d is %.3f of %lld us", (long long)held, n - from + 1, ratio, (long long)pause_due(o, n));
    }
    mp_pool_free(x.p);
    return NULL;
}

static const char *try_pauses(void) {
    mp_pool_opts usual, other;
    const char *bad;
    mp_pool_defaults(&usual);
    mp_pool_defaults(&other);
    other.reconnect_base = MP_MS(50);
    other.reconnect_cap = MP_MS(700);
    if (usual.reconnect_base != MP_MS(1000) || usual.reconnect_cap != MP_MS(15000)) return "the defaults are not those of the README";
    if ((bad = pauses_of(&usual)) || (bad = pauses_of(&other))) return bad;
    if ((bad = pauses_after(&usual, usual.reconnect_base, 0)) || (bad = pauses_after(&usual, usual.reconnect_base - 1, 4))) return bad;
    printf("pauses: %d in each of %d seeds, twice\n", TRIES, SEEDS);
    return NULL;
}

/* ---- silences ----------------------------------------------------------------------------------------------------------------------- */

static void say(play *x, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(play *x, const char *fmt, ...) {
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    mp_pool_frame(x->p, x->c, x->conn, 0, mp_str_of(text), x->now);
    drain(x);
}

static void begins(play *x) { say(x, "{\"type\":\"execution_start\",\"data\":{\"prompt_id\":\"%s\",\"timestamp\":1}}", x->prompt); }
static void node(play *x, const char *id) { say(x, "{\"type\":\"executing\",\"data\":{\"node\":\"%s\",\"display_node\":\"%s\",\"prompt_id\":\"%s\"}}", id, id, x->prompt); }
static void step(play *x, int n) { say(x, "{\"type\":\"progress\",\"data\":{\"value\":%d,\"max\":20,\"prompt_id\":\"%s\",\"node\":\"1\"}}", n, x->prompt); }

static void ends(play *x) {
    x->where = NOWHERE;
    say(x, "{\"type\":\"execution_success\",\"data\":{\"prompt_id\":\"%s\",\"timestamp\":1}}", x->prompt);
    say(x, "{\"type\":\"executing\",\"data\":{\"node\":null,\"prompt_id\":\"%s\"}}", x->prompt);
}

static mp_job *submit(play *x, const char *class_type, mp_time silence, mp_time total) {
    char text[200];
    mp_job_opts o;
    snprintf(text, sizeof text, "{\"1\":{\"class_type\":\"%s\",\"inputs\":{}},\"2\":{\"class_type\":\"Show\",\"inputs\":{\"images\":[\"1\",0]}}}", class_type);
    mp_workflow *w = mp_workflow_parse(text, strlen(text), NULL);
    mp_job_defaults(&o);
    o.max_attempts = 1;
    o.node_silence = silence;
    o.total = total;
    mp_job *j = mp_pool_submit(x->p, w, &o, x->now, NULL);
    mp_workflow_unref(w);
    drain(x);
    return j;
}

/* Nothing more is said: the job fails at `due`, not a microsecond before or after. */
static const char *fails_at(play *x, const char *what, mp_time due) {
    size_t before = x->ended;
    go_on(x, due - 1, 0);
    if (x->ended != before) return wrong("%s: ended %lld us too early", what, (long long)(due - x->ended_at));
    go_on(x, due + MP_MS(3600000), 0);
    if (x->ended == before) return wrong("%s: goes on for ever", what);
    if (x->ended_at != due) return wrong("%s: ended %lld us too late", what, (long long)(x->ended_at - due));
    return x->how == MP_EV_JOB_FAILED ? NULL : wrong("%s: did not fail", what);
}

/* Half an hour without a word, and the prompt still is waited for. */
static const char *waits(play *x, const char *what) {
    size_t before = x->ended;
    go_on(x, x->now + MP_MS(1800000), 0);
    return x->ended == before ? NULL : wrong("%s: given up after %lld us", what, (long long)(x->ended_at - x->now + MP_MS(1800000)));
}

static mp_pool_opts bounds(mp_time node_silence, mp_time cold_silence, mp_time total) {
    mp_pool_opts o;
    mp_pool_defaults(&o);
    o.node_silence = node_silence;
    o.cold_silence = cold_silence;
    o.total = total;
    return o;
}

static void open_run(play *x, const mp_pool_opts *o, mp_time silence, mp_time total) {
    open_play(x, o, 1, 1);
    drain(x);
    submit(x, "A", silence, total);
    begins(x);
}

/* One that was run here before, and is begun again. */
static void open_warm(play *x, const mp_pool_opts *o) {
    open_run(x, o, 0, 0);
    ends(x);
    submit(x, "A", 0, 0);
    begins(x);
}

static const char *try_silences(void) {
    static const mp_time S = MP_MS(1000);
    mp_pool_opts o, usual;
    const char *bad = NULL;
    play x;
    int cases = 0;
#define CASE(open, check) do { open; if ((bad = check)) return bad; mp_pool_free(x.p); cases++; } while (0)
    mp_pool_defaults(&usual);
    CASE(open_run(&x, &usual, 0, 0), fails_at(&x, "the default, for a first run", x.now + 900 * S));
    CASE(open_warm(&x, &usual), fails_at(&x, "the default", x.now + 300 * S));

    o = bounds(20 * S, 50 * S, 0);
    CASE(open_run(&x, &o, 0, 0), fails_at(&x, "a first run", x.now + 50 * S));
    CASE(open_warm(&x, &o), fails_at(&x, "a further run", x.now + 20 * S));
    CASE((open_warm(&x, &o), ends(&x), submit(&x, "B", 0, 0), begins(&x)), fails_at(&x, "the first run of another workflow", x.now + 50 * S));
    CASE((open_run(&x, &o, 7 * S, 0)), fails_at(&x, "a first run with a bound of its own", x.now + 7 * S));

    /* Every word restarts it: twenty times as long as the bound, and it still runs. */
    open_warm(&x, &o);
    for (int i = 0; i < 20; i++) {
        go_on(&x, x.now + 20 * S - 1, 0);
        if (x.ended != 1) return wrong("a run that speaks: given up after word %d", i);
        if (i % 2) node(&x, i % 4 == 1 ? "1" : "2");
        else step(&x, i + 1);
    }
    CASE((void)0, fails_at(&x, "a run that spoke", x.now + 20 * S));

    o = bounds(50 * S, 20 * S, 0);
    CASE(open_run(&x, &o, 0, 0), fails_at(&x, "a first run with cold_silence below node_silence", x.now + 50 * S));
    o = bounds(0, 20 * S, 0);
    CASE(open_run(&x, &o, 0, 0), waits(&x, "node_silence 0, a first run"));
    CASE(open_warm(&x, &o), waits(&x, "node_silence 0"));
    o = bounds(20 * S, 0, 0);
    CASE(open_run(&x, &o, 0, 0), fails_at(&x, "cold_silence 0", x.now + 20 * S));
    o = bounds(20 * S, 20 * S, 0);
    CASE(open_run(&x, &o, MP_NEVER, 0), waits(&x, "a job without the bound"));

    o = bounds(0, 0, 30 * S);
    open_run(&x, &o, 0, 0);
    mp_time begun = x.now;
    for (int i = 1; i < 15; i++) {
        go_on(&x, begun + 2 * i * S, 0);
        step(&x, i);
    }
    CASE((void)0, fails_at(&x, "total", begun + 30 * S));
    CASE(open_run(&x, &o, 0, 9 * S), fails_at(&x, "a job with a total of its own", x.now + 9 * S));
    CASE(open_run(&x, &o, 0, MP_NEVER), waits(&x, "a job without a total"));
    o = bounds(0, 0, 0);
    CASE(open_run(&x, &o, 0, 0), waits(&x, "no bound at all"));
    printf("silences: %d bounds kept to the microsecond\n", cases);
    return NULL;
}

/* ---- bounds of one job ---------------------------------------------------------------------------------------------------------------- */

static mp_job *submit_with(play *x, mp_time no_client, mp_time unreachable, mp_time request) {
    static const char text[] = "{\"1\":{\"class_type\":\"Show\",\"inputs\":{}}}";
    mp_job_opts o;
    mp_workflow *w = mp_workflow_parse(text, sizeof text - 1, NULL);
    mp_job_defaults(&o);
    o.no_client = no_client;
    o.unreachable = unreachable;
    o.request_timeout = request;
    mp_job *j = mp_pool_submit(x->p, w, &o, x->now, NULL);
    mp_workflow_unref(w);
    drain(x);
    return j;
}

/* Nobody is there for three jobs of one queue: the first has a bound of its own, the second that of the pool, the third none. */
static const char *nobody(play *x, mp_time pools) {
    static const mp_time S = MP_MS(1000);
    mp_pool_opts o;
    mp_pool_defaults(&o);
    o.no_client = pools;
    open_play(x, &o, 1, 0);
    mp_time from = x->now;
    submit_with(x, 5 * S, 0, 0);
    submit_with(x, 0, 0, 0);
    submit_with(x, MP_NEVER, 0, 0);
    go_on(x, from + 5 * S - 1, 0);
    if (x->ended) return wrong("no_client of one job: it ended %lld us too early", (long long)(from + 5 * S - x->ended_at));
    go_on(x, from + 5 * S, 0);
    if (x->ended != 1) return wrong("no_client of one job: %zu have ended when its time is over", x->ended);
    go_on(x, from + 60 * S - 1, 0);
    if (x->ended != 1) return wrong("no_client of one job took others along");
    go_on(x, from + 600 * S, 0);
    return x->ended == (pools ? 2 : 1) ? NULL : wrong("no_client: %zu of three have ended", x->ended);
}

/* Its client is lost while it runs there: it is let go at its own time, else at the pool's. */
static const char *away(play *x, mp_time own, mp_time due) {
    mp_pool_opts o;
    mp_pool_defaults(&o);
    o.no_client = 0;
    open_play(x, &o, 1, 1);
    drain(x);
    mp_job *j = submit_with(x, 0, own, 0);
    begins(x);
    x->up = 0;
    mp_pool_lost(x->p, x->c, x->conn, "cut", x->now);
    mp_time from = x->now;
    go_on(x, from + due - 1, 0);
    if (mp_job_status(j) != MP_JOB_RUNNING) return wrong("unreachable: it was let go too early");
    go_on(x, from + due, 0);
    return mp_job_status(j) == MP_JOB_RUNNING ? wrong("unreachable: it is not let go after %lld us", (long long)due) : NULL;
}

static const char *try_one_job(void) {
    static const mp_time S = MP_MS(1000);
    const char *bad = NULL;
    mp_pool_opts o;
    play x;
    int cases = 0;
    mp_pool_defaults(&o);
    CASE((void)0, nobody(&x, 60 * S));
    CASE((void)0, nobody(&x, 0));
    CASE((void)0, away(&x, 0, 120 * S));
    CASE((void)0, away(&x, 3 * S, 3 * S));
    CASE((open_play(&x, &o, 1, 1), drain(&x), submit_with(&x, 0, 0, 0)), x.allowed == 30 * S ? NULL : "a POST is not allowed what the pool says");
    CASE((open_play(&x, &o, 1, 1), drain(&x), submit_with(&x, 0, 0, 7 * S)), x.allowed == 7 * S ? NULL : "a POST is not allowed what its job says");
    printf("one job: %d bounds of its own\n", cases);
    return NULL;
}

/* ---- words, and none ------------------------------------------------------------------------------------------------------------------ */

static void speaks(play *x) { say(x, "{\"type\":\"status\",\"data\":{\"status\":{\"exec_info\":{\"queue_remaining\":1}}}}"); }

/* Its socket is closed and opened anew at this instant, once; MP_NEVER: not for a minute. */
static const char *opens_anew(play *x, const char *what, mp_time due) {
    uint64_t old = x->conn;
    size_t before = x->tries;
    go_on(x, (due == MP_NEVER ? x->now + MP_MS(60000) : due) - 1, 0);
    if (x->tries != before) return wrong("%s: its socket is opened anew after all", what);
    if (due == MP_NEVER) return NULL;
    go_on(x, due, 0);
    if (x->tries != before + 1 || x->closed != old || x->conn == old) return wrong("%s: its socket is not closed and opened anew", what);
    return mp_client_get_state(x->c) == MP_CLIENT_ONLINE ? NULL : wrong("%s: it is not online again", what);
}

/* One that is sent when something was heard before, but not since. */
static void open_unheard(play *x, const mp_pool_opts *o) {
    open_play(x, o, 1, 1);
    drain(x);
    go_on(x, x->now + MP_MS(7000), 0);
    speaks(x);
    go_on(x, x->now + MP_MS(7000), 0);
    submit(x, "A", 0, 0);
}

/* The end is found by the first look, ten seconds after the POST; nothing was said of it. */
static void open_found(play *x, const mp_pool_opts *o) {
    open_unheard(x, o);
    begins(x);
    x->where = ENDED;
    go_on(x, x->now + o->poll, 0);
}

static const char *try_words(void) {
    mp_pool_opts o;
    const char *bad = NULL;
    play x;
    int cases = 0;
    mp_pool_defaults(&o);
    CASE(open_unheard(&x, &o), opens_anew(&x, "not a word after a POST", x.now + MP_MS(5000)));
    CASE((open_unheard(&x, &o), go_on(&x, x.now + MP_MS(4999), 0), speaks(&x)), opens_anew(&x, "a word after a POST", MP_NEVER));
    CASE(open_found(&x, &o), x.ended == 1 ? opens_anew(&x, "an end without a word", x.now + MP_MS(5000)) : wrong("an end that was not told is not found"));
    CASE((open_found(&x, &o), go_on(&x, x.now + 5, 0), ends(&x)), opens_anew(&x, "a history that overtook the words", MP_NEVER));
    printf("words: %d times, to the microsecond\n", cases);
    return NULL;
}

/* ---- fates ---------------------------------------------------------------------------------------------------------------------------- */

/* It is sent again at this instant; MP_NEVER: never, and ends well. */
static const char *sent_again(play *x, const char *what, mp_time due) {
    size_t before = x->posts;
    x->lost = 0;
    if (before != 1) return wrong("%s: sent again at once", what);
    if (due == MP_NEVER) {
        go_on(x, x->now + MP_MS(10000), 0);
        begins(x);
        ends(x);
        go_on(x, x->now + MP_MS(10000), 0);          /* how it ended is looked up, for there may have been more to hear */
        if (x->posts != before) return wrong("%s: sent again", what);
        return x->ended == 1 && x->how == MP_EV_JOB_COMPLETED ? NULL : wrong("%s: does not complete", what);
    }
    go_on(x, due - 1, 0);
    if (x->posts != before) return wrong("%s: sent again %lld us too early", what, (long long)(due - x->posted));
    go_on(x, due + MP_MS(100000), 0);
    if (x->posts == before) return wrong("%s: never sent again", what);
    return x->posted == due ? NULL : wrong("%s: sent again %lld us too late", what, (long long)(x->posted - due));
}

static void open_lost(play *x, const mp_pool_opts *o) {
    open_play(x, o, 1, 1);
    drain(x);
    x->lost = 1;
    submit(x, "A", 0, 0);
}

static const char *try_settles(void) {
    mp_pool_opts o, longer;
    const char *bad = NULL;
    play x;
    int cases = 0;
    mp_pool_defaults(&o);
    longer = o;
    longer.settle = MP_MS(9000);
    if (o.settle != MP_MS(5000)) return "the default is not that of the README";
    CASE(open_lost(&x, &o), sent_again(&x, "a POST that never arrived", x.now + MP_MS(5000)));
    CASE(open_lost(&x, &longer), sent_again(&x, "settle 9 s", x.now + MP_MS(9000)));
    CASE((open_lost(&x, &o), go_on(&x, x.now + MP_MS(4500), 0), x.where = RUNNING), sent_again(&x, "a POST that arrived late", MP_NEVER));
    CASE((open_unheard(&x, &o), speaks(&x), x.where = NOWHERE), sent_again(&x, "one that was taken and is nowhere", x.now + o.poll));
    printf("settles: %d fates\n", cases);
    return NULL;
}

/* ---- rests ----------------------------------------------------------------------------------------------------------------------------- */

static void submit_often(play *x) {                  /* with attempts enough, and no pause between them */
    static const char text[] = "{\"1\":{\"class_type\":\"A\",\"inputs\":{}},\"2\":{\"class_type\":\"Show\",\"inputs\":{\"images\":[\"1\",0]}}}";
    mp_job_opts o;
    mp_workflow *w = mp_workflow_parse(text, sizeof text - 1, NULL);
    mp_job_defaults(&o);
    o.max_attempts = 20;
    o.retry_delay = 0;
    mp_pool_submit(x->p, w, &o, x->now, NULL);
    mp_workflow_unref(w);
    drain(x);
}

/* It takes the prompt and does not begin it: how long until it gets the next one, from when it lost this. */
static mp_time one_rest(play *x) {
    size_t before = x->posts;
    for (int i = 0; i < 3600 && x->posts == before; i++) go_on(x, x->now + MP_MS(1000), 0);
    return x->posts == before ? MP_NEVER : x->posted - x->retried;
}

static const char *try_rests(void) {
    static const int due[] = { 60, 120, 240, 480, 900, 900 };
    mp_pool_opts o;
    play x;
    mp_pool_defaults(&o);
    open_play(&x, &o, 1, 1);
    drain(&x);
    x.becomes = WAITING;
    submit_often(&x);
    for (int i = 0; i < 6; i++) {
        mp_time t = one_rest(&x);
        if (t != due[i] * MP_MS(1000)) return wrong("rest %d takes %.3f s, due are %d", i + 1, (double)t / 1e6, due[i]);
    }
    x.where = RUNNING;
    begins(&x);
    ends(&x);
    if (x.ended != 1 || x.how != MP_EV_JOB_COMPLETED) return "what is begun at last does not complete";
    submit_often(&x);
    mp_time t = one_rest(&x);
    if (t != MP_MS(60000)) return wrong("after something moved there a rest takes %.3f s", (double)t / 1e6);
    mp_pool_free(x.p);
    printf("rests: 60 s to 900 s, and 60 s again when something has moved\n");
    return NULL;
}

/* ---- the time left ------------------------------------------------------------------------------------------------------------------- */

typedef struct { mp_time left, low, high, was; } estimate;
typedef struct { const char *what; int silent, asked; } way;         /* silent: steps are taken and not told; asked: behind this one */

/* A run of 20 steps, and a node after them that says nothing. */
static const char *run(play *x, const way *y, mp_time each, mp_time after, estimate *e) {
    mp_time asked = x->now;
    int known = 0;
    mp_job *j = submit(x, "A", 0, 0);
    begins(x);
    node(x, "1");
    for (int i = 0; i <= 20; i++) {
        if (i) go_on(x, x->now + each, 0);
        if (i && !y->silent) step(x, i);
        if (i != y->asked) continue;
        asked = x->now;
        e->left = -1;
        known = mp_job_left(j, x->now, &e->left, &e->low, &e->high);
    }
    node(x, "2");
    go_on(x, x->now + after, 0);
    ends(x);
    e->was = x->now - asked;
    return known && !(e->low >= 0 && e->low <= e->left && e->left <= e->high) ? "a range that is none" : NULL;
}

static int near(mp_time a, double b) { return (double)a >= b - 2 && (double)a <= b + 2; }

static const char *same_runs(void) {
    static const way half = { "", 0, 10 };
    mp_pool_opts o;
    mp_time left, low, high;
    estimate e;
    play x;
    mp_pool_defaults(&o);
    open_play(&x, &o, 1, 1);
    drain(&x);
    for (int i = 0; i < 4; i++) {
        if (run(&x, &half, MP_MS(500), MP_MS(3000), &e)) return "a range that is none";
        if (i == 0 && e.left >= 0) return "something is told of the first run";
    }
    if (e.left != e.was) return wrong("of equal runs: %lld us left, and it were %lld", (long long)e.left, (long long)e.was);
    if (!near(e.low, 0.95 * (double)e.left) || !near(e.high, 1.05 * (double)e.left)) return wrong("of equal runs: %lld to %lld us, around %lld", (long long)e.low, (long long)e.high, (long long)e.left);
    mp_job *j = submit(&x, "A", 0, 0);               /* not begun: all of it is left */
    if (!mp_job_left(j, x.now, &left, &low, &high) || !near(left, 13e6)) return wrong("of equal runs: %lld us left of one that has not begun", (long long)left);
    if (!(low > left / 2 && low < left && high > left && high < 2 * left)) return wrong("of one that has not begun: %lld to %lld us, around %lld", (long long)low, (long long)high, (long long)left);
    mp_pool_free(x.p);
    return NULL;
}

enum { RUNS = 2000, LEARN = 20 };

/* Each step takes 0.35 to 0.65 s in one run, what follows 2 to 4 s. */
static const char *other_runs(const way *y) {
    const char *bad;
    mp_pool_opts o;
    estimate e;
    mp_rng r;
    play x;
    int held = 0;
    double width = 0;
    mp_pool_defaults(&o);
    mp_rng_seed(&r, 5);
    open_play(&x, &o, 1, 1);
    drain(&x);
    for (int i = -LEARN; i < RUNS; i++) {
        if ((bad = run(&x, y, MP_MS(350) + (mp_time)mp_rng_below(&r, 300000), MP_MS(2000) + (mp_time)mp_rng_below(&r, 2000000), &e))) return bad;
        if (i < 0) continue;
        held += e.low <= e.was && e.was <= e.high;
        width += (double)(e.high - e.low) / (double)e.was / RUNS;
    }
    mp_pool_free(x.p);
    if (held < RUNS * 9 / 10) return wrong("asked %s: in its range %d times of %d only", y->what, held, RUNS);
    if (width > 0.9) return wrong("asked %s: a range of %.0f %% of the time", y->what, 100 * width);
    printf("left: asked %s, in its range %d times of %d, which is %.0f %% of the time wide\n", y->what, held, RUNS, 100 * width);
    return NULL;
}

static const char *try_left(void) {
    static const way ways[] = { { "half way", 0, 10 }, { "at the beginning", 1, 0 }, { "half way, without a word of steps", 1, 10 } };
    const char *bad = same_runs();
    for (size_t i = 0; i < 3 && !bad; i++) bad = other_runs(&ways[i]);
    return bad;
}

int main(void) {
    const char *bad;
    if ((bad = try_pauses())) return printf("pauses: %s\n", bad), 1;
    if ((bad = try_silences())) return printf("silences: %s\n", bad), 1;
    if ((bad = try_one_job())) return printf("one job: %s\n", bad), 1;
    if ((bad = try_words())) return printf("words: %s\n", bad), 1;
    if ((bad = try_settles())) return printf("settles: %s\n", bad), 1;
    if ((bad = try_rests())) return printf("rests: %s\n", bad), 1;
    if ((bad = try_left())) return printf("left: %s\n", bad), 1;
    return 0;
}
