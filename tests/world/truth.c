/* tests/world/truth.c -- profiles against what the simulated servers did: which nodes ran, how often, were cached, failed
 * or were never reached, and when each began and ended, to the microsecond. Every kind of node that tells time in its own
 * way, servers with and without progress_state, with and without lost connections.
 *   truth [--seeds N] [--first K] [--log] */
#include "world/world.h"
#include "base/json.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define JOBS 60
#define SIMS 4
#define NODES 64                                     /* that one prompt may have, expanded ones too */

static const char *const versions[SIMS] = { "0.18.1", "0.3.75", "0.3.64", "2024-10" };
static const char extras[] =
    ", \"RecAsync\": {\"input\": {\"required\": {\"seconds\": [\"FLOAT\", {}], \"steps\": [\"INT\", {}], \"seed\": [\"INT\", {}], \"fail\": [\"BOOLEAN\", {}]}}, \"output\": [\"IMAGE\"], \"output_is_list\": [false], \"output_node\": false}"
    ", \"RecSlow\": {\"input\": {\"required\": {\"seconds\": [\"FLOAT\", {}], \"steps\": [\"INT\", {}], \"preview\": [\"BOOLEAN\", {}], \"deaf\": [\"BOOLEAN\", {}], \"seed\": [\"INT\", {}]}, \"optional\": {\"image\": [\"IMAGE\"]}}, \"output\": [\"IMAGE\"], \"output_is_list\": [false], \"output_node\": false}"
    ", \"RecLazy\": {\"input\": {\"required\": {\"use_b\": [\"BOOLEAN\", {}], \"a\": [\"IMAGE\", {\"lazy\": true}], \"b\": [\"IMAGE\", {\"lazy\": true}]}}, \"output\": [\"IMAGE\"], \"output_is_list\": [false], \"output_node\": false}"
    ", \"RecList\": {\"input\": {\"required\": {\"count\": [\"INT\", {}], \"seed\": [\"INT\", {}]}}, \"output\": [\"IMAGE\", \"INT\"], \"output_is_list\": [true, true], \"output_node\": false}"
    ", \"RecExpand\": {\"input\": {\"required\": {\"copies\": [\"INT\", {}], \"seed\": [\"INT\", {}], \"inner_output\": [\"BOOLEAN\", {}], \"inner_fail\": [\"BOOLEAN\", {}]}}, \"output\": [\"IMAGE\"], \"output_is_list\": [false], \"output_node\": false}"
    ", \"RecFail\": {\"input\": {\"required\": {\"message\": [\"STRING\", {}]}, \"optional\": {\"image\": [\"IMAGE\"]}}, \"output\": [\"IMAGE\"], \"output_is_list\": [false], \"output_node\": false}"
    ", \"RecBlock\": {\"input\": {\"required\": {\"message\": [\"STRING\", {}], \"silent\": [\"BOOLEAN\", {}]}}, \"output\": [\"IMAGE\"], \"output_is_list\": [false], \"output_node\": false}"
    ", \"RecChanged\": {\"input\": {\"required\": {\"size\": [\"INT\", {}]}}, \"output\": [\"IMAGE\"], \"output_is_list\": [false], \"output_node\": false}}";

#define SLOW(id, seconds, seed) "\"" id "\": {\"class_type\": \"RecSlow\", \"inputs\": {\"seconds\": " seconds ", \"steps\": 4, \"preview\": false, \"deaf\": false, \"seed\": " seed "}}"
#define SHOW(id, from) "\"" id "\": {\"class_type\": \"PreviewImage\", \"inputs\": {\"images\": [\"" from "\", 0]}}"

/* %1$d is a number that decides what is new: the same number again, and all of it may come from the cache. */
static const struct { const char *name, *text; int modern; } kinds[] = {
    { "a chain", "{\"1\": {\"class_type\": \"EmptyImage\", \"inputs\": {\"width\": 64, \"height\": 64, \"batch_size\": 1, \"color\": %1$d}}, \"2\": {\"class_type\": \"ImageInvert\", \"inputs\": {\"image\": [\"1\", 0]}}, " SHOW("3", "2") "}", 0 },
    { "a sampler", "{\"4\": {\"class_type\": \"CheckpointLoaderSimple\", \"inputs\": {\"ckpt_name\": \"sd15.safetensors\"}}, \"5\": {\"class_type\": \"EmptyLatentImage\", \"inputs\": {\"width\": 512, \"height\": 512, \"batch_size\": 1}},"
      " \"6\": {\"class_type\": \"CLIPTextEncode\", \"inputs\": {\"text\": \"a\", \"clip\": [\"4\", 1]}}, \"3\": {\"class_type\": \"KSampler\", \"inputs\": {\"seed\": %1$d, \"steps\": 9, \"cfg\": 7, \"sampler_name\": \"euler\","
      " \"scheduler\": \"normal\", \"denoise\": 1, \"model\": [\"4\", 0], \"positive\": [\"6\", 0], \"negative\": [\"6\", 0], \"latent_image\": [\"5\", 0]}},"
      " \"8\": {\"class_type\": \"VAEDecode\", \"inputs\": {\"samples\": [\"3\", 0], \"vae\": [\"4\", 2]}}, \"9\": {\"class_type\": \"SaveImage\", \"inputs\": {\"images\": [\"8\", 0], \"filename_prefix\": \"x\"}}}", 0 },
    { "asynchronous nodes", "{\"1\": {\"class_type\": \"RecAsync\", \"inputs\": {\"seconds\": 0.6, \"steps\": 3, \"seed\": %1$d, \"fail\": false}}, \"2\": {\"class_type\": \"RecAsync\", \"inputs\": {\"seconds\": 0.4, \"steps\": 2, \"seed\": 1%1$d, \"fail\": false}},"
      " \"3\": {\"class_type\": \"ImageBatch\", \"inputs\": {\"image1\": [\"1\", 0], \"image2\": [\"2\", 0]}}, " SHOW("4", "3") "}", 1 },
    { "one asynchronous node fails", "{\"1\": {\"class_type\": \"RecAsync\", \"inputs\": {\"seconds\": 0.6, \"steps\": 3, \"seed\": %1$d, \"fail\": false}}, \"2\": {\"class_type\": \"RecAsync\", \"inputs\": {\"seconds\": 0.4, \"steps\": 2, \"seed\": 1%1$d, \"fail\": true}},"
      " \"3\": {\"class_type\": \"ImageBatch\", \"inputs\": {\"image1\": [\"1\", 0], \"image2\": [\"2\", 0]}}, " SHOW("4", "3") "}", 1 },
    { "a lazy node", "{" SLOW("1", "0.2", "%1$d") ", " SLOW("2", "0.3", "1%1$d") ", \"3\": {\"class_type\": \"RecLazy\", \"inputs\": {\"use_b\": true, \"a\": [\"1\", 0], \"b\": [\"2\", 0]}}, " SHOW("4", "3") "}", 0 },
    { "a list", "{\"1\": {\"class_type\": \"RecList\", \"inputs\": {\"count\": 3, \"seed\": %1$d}}, \"2\": {\"class_type\": \"ImageInvert\", \"inputs\": {\"image\": [\"1\", 0]}}, " SHOW("3", "2") "}", 0 },
    { "expansion", "{\"10\": {\"class_type\": \"RecExpand\", \"inputs\": {\"copies\": 3, \"seed\": %1$d, \"inner_output\": true, \"inner_fail\": false}}, " SHOW("11", "10") "}", 0 },
    { "expansion that fails inside", "{\"10\": {\"class_type\": \"RecExpand\", \"inputs\": {\"copies\": 2, \"seed\": %1$d, \"inner_output\": false, \"inner_fail\": true}}, " SHOW("11", "10") "}", 0 },
    { "a failing node", "{" SLOW("1", "0.2", "%1$d") ", \"2\": {\"class_type\": \"RecFail\", \"inputs\": {\"message\": \"it broke\", \"image\": [\"1\", 0]}}, " SHOW("3", "2") "}", 0 },
    { "a blocked output", "{" SLOW("1", "0.1", "%1$d") ", \"2\": {\"class_type\": \"RecBlock\", \"inputs\": {\"message\": \"stop\", \"silent\": false}}, " SHOW("3", "2") ", " SHOW("4", "1") "}", 0 },
    { "twins", "{\"1\": {\"class_type\": \"EmptyImage\", \"inputs\": {\"width\": 32, \"height\": 32, \"batch_size\": 1, \"color\": %1$d}}, \"2\": {\"class_type\": \"EmptyImage\", \"inputs\": {\"width\": 32, \"height\": 32, \"batch_size\": 1, \"color\": %1$d}},"
      " \"3\": {\"class_type\": \"ImageBatch\", \"inputs\": {\"image1\": [\"1\", 0], \"image2\": [\"2\", 0]}}, " SHOW("4", "3") "}", 0 },
    { "never cached", "{\"1\": {\"class_type\": \"RecChanged\", \"inputs\": {\"size\": 16}}, " SLOW("2", "0.2", "%1$d") ", " SHOW("3", "1") ", " SHOW("4", "2") "}", 0 },
    { "long enough to be interrupted", "{" SLOW("1", "2.5", "%1$d") ", " SHOW("2", "1") "}", 0 },
};
#define KINDS (sizeof kinds / sizeof *kinds)

typedef struct { char id[40], root[40]; int begins, cached, stopped, ended, lazy; mp_time from, to, open, sum; } did;
typedef struct { char mark[40]; int started; mp_time begun, over; did nodes[NODES]; size_t n; } course;

typedef struct {
    mp_world *w;
    uint64_t seed;
    mp_time delay;
    int cuts, log;
    course *courses;                                 /* one for each prompt that began */
    size_t n_courses, cap_courses, ended, exact, nodes;
    int kind[JOBS];
    uint64_t id[JOBS];
    char broken[400];
} trial;

static void broke(trial *x, const char *fmt, ...) {
    va_list ap;
    if (x->broken[0]) return;
    va_start(ap, fmt);
    vsnprintf(x->broken, sizeof x->broken, fmt, ap);
    va_end(ap);
}

static course *course_of(trial *x, const char *mark) {
    for (size_t i = x->n_courses; i-- > 0;)
        if (strcmp(x->courses[i].mark, mark) == 0) return &x->courses[i];
    return NULL;
}

/* ---- what the server did ---------------------------------------------------------------------------------------------- */

static void on_deed(void *ud, const char *mark, const char *node, const char *root, mp_sim_deed what, mp_time now) {
    trial *x = ud;
    course *c = course_of(x, mark);
    if (!c) {
        x->courses = mp_grow(x->courses, x->n_courses, &x->cap_courses, sizeof *x->courses);
        c = &x->courses[x->n_courses++];
        memset(c, 0, sizeof *c);
        snprintf(c->mark, sizeof c->mark, "%s", mark);
    }
    size_t i = 0;
    while (i < c->n && strcmp(c->nodes[i].id, node) != 0) i++;
    if (i == NODES) { broke(x, "a prompt of more than %d nodes", NODES); return; }
    did *d = &c->nodes[i];
    if (i == c->n) {
        c->n++;
        memset(d, 0, sizeof *d);
        snprintf(d->id, sizeof d->id, "%s", node);
        snprintf(d->root, sizeof d->root, "%s", root);
        d->from = d->to = d->open = -1;
    }
    c->over = now;
    switch (what) {
    case MP_SIM_CACHED: d->cached = 1; break;
    case MP_SIM_BEGINS:
        d->begins += !d->lazy;
        d->lazy = 0;
        if (d->from < 0) d->from = now;
        d->open = now;
        break;
    case MP_SIM_WAITS: d->lazy = 1; /* fall through */
    case MP_SIM_ENDS: case MP_SIM_STOPS:
        if (d->open >= 0) { d->sum += now - d->open; d->to = now; }
        d->open = -1;
        d->ended = what == MP_SIM_ENDS;
        d->stopped = what == MP_SIM_STOPS;
        break;
    }
}

/* ---- what the profile says --------------------------------------------------------------------------------------------- */

static mp_time at(const mp_json *n, const char *name) {
    const mp_json *v = mp_json_get(n, name);
    return v ? (mp_time)llround(mp_json_number(v, 0) * 1000) : -1;
}

static const mp_json *node_in(const mp_json *list, const char *id) {
    for (const mp_json *n = mp_json_first(list); n; n = mp_json_next(n))
        if (strcmp(mp_json_string(mp_json_get(n, "nodeId")), id) == 0) return n;
    return NULL;
}

static void compare_node(trial *x, const mp_json *doc, const did *d, const char *what, int exact) {
    const mp_json *list = mp_json_get(doc, "nodes");
    const mp_json *n = node_in(strcmp(d->id, d->root) == 0 ? list : mp_json_get(node_in(list, d->root), "inner"), d->id);
    if (!n) { if (exact) broke(x, "%s: nothing is said of node %s", what, d->id); return; }
    const char *status = mp_json_string(mp_json_get(n, "status")), *want = d->stopped ? "failed" : d->begins ? "completed" : d->cached ? "cached" : "pending";
    if (!exact) return;
    if (strcmp(status, want) != 0) broke(x, "%s: node %s is %s, and was %s", what, d->id, status, want);
    if (!d->begins) return;
    if (mp_json_number(mp_json_get(n, "executions"), 0) != d->begins) broke(x, "%s: node %s ran %d times, not %g", what, d->id, d->begins, mp_json_number(mp_json_get(n, "executions"), 0));
    mp_time from = at(n, "startedAt") - x->delay, to = at(n, "completedAt") - x->delay, took = at(n, "duration");
    if (from != d->from || to != d->to || took != d->sum)
        broke(x, "%s: node %s from %lld to %lld in %lld us, and was %lld, %lld, %lld", what, d->id, (long long)from, (long long)to, (long long)took, (long long)d->from, (long long)d->to, (long long)d->sum);
    x->nodes++;
}

static void compare(trial *x, size_t k, const mp_job *j) {
    const char *prompt = mp_job_prompt_id(j);
    course *c = prompt ? course_of(x, prompt) : NULL;
    mp_buf b = { 0 };
    char what[200];
    mp_profile_json(&b, mp_job_profile(j), 0);
    mp_json *doc = mp_json_parse(b.p, b.n, NULL);
    int exact = mp_json_true(mp_json_get(doc, "exact"));
    if (x->log) puts(b.p);
    snprintf(what, sizeof what, "job %zu (%s) at %s", k, kinds[x->kind[k]].name, mp_job_client_url(j) ? mp_job_client_url(j) : "nobody");
    if (!exact && !x->cuts) broke(x, "%s: not exact, though nothing was lost", what);
    for (size_t i = 0; c && i < c->n; i++) compare_node(x, doc, &c->nodes[i], what, exact);
    for (const mp_json *n = mp_json_first(mp_json_get(doc, "nodes")); c && exact && n; n = mp_json_next(n)) {
        size_t i = 0;
        while (i < c->n && strcmp(c->nodes[i].id, mp_json_string(mp_json_get(n, "nodeId"))) != 0) i++;
        if (i == c->n && strcmp(mp_json_string(mp_json_get(n, "status")), "pending") != 0) broke(x, "%s: node %s is %s, and nothing was done with it", what, mp_json_string(mp_json_get(n, "nodeId")), mp_json_string(mp_json_get(n, "status")));
    }
    x->exact += (size_t)exact;
    mp_json_free(doc);
    mp_buf_free(&b);
}

static void on_event(void *ud, const mp_event *e) {
    trial *x = ud;
    if (!mp_event_ends(e->kind)) return;
    for (size_t k = 0; k < JOBS; k++)
        if (x->id[k] == e->job) compare(x, k, mp_pool_job(mp_world_pool(x->w), e->job));
    x->ended++;
}

/* ---- a trial ---------------------------------------------------------------------------------------------------------- */

static void interrupt(mp_world *w, void *ud, size_t sim) { (void)ud; mp_world_foreign(w, sim, "POST", "/interrupt", "{}"); }
static void cut(mp_world *w, void *ud, size_t sim) { (void)ud; mp_world_cut(w, sim, MP_MS(50)); }

static void submit(mp_world *w, void *ud, size_t k) {
    trial *x = ud;
    char text[2000];
    const char *old[] = { "http://sim2", "http://sim3", NULL };       /* asynchronous nodes came later than progress_state */
    mp_job_opts o;
    mp_rng *rng = mp_world_rng(w);
    x->kind[k] = (int)mp_rng_below(rng, KINDS);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    int n = snprintf(text, sizeof text, kinds[x->kind[k]].text, (int)mp_rng_below(rng, 4) + 1);
#pragma GCC diagnostic pop
    mp_err e;
    mp_workflow *wf = mp_workflow_parse(text, (size_t)n, &e);
    mp_job_defaults(&o);
    o.profiling = 1;
    o.max_attempts = 1 + (int)mp_rng_below(rng, 2);
    if (kinds[x->kind[k]].modern) o.exclude = old;
    mp_job *j = wf ? mp_pool_submit(mp_world_pool(w), wf, &o, mp_world_now(w), &e) : NULL;
    if (!j) broke(x, "job %zu: %s", k, e.msg);
    else x->id[k] = mp_job_id(j);
    mp_workflow_unref(wf);
}

static int run(uint64_t seed, int log, size_t totals[4]) {
    trial x = { .seed = seed, .cuts = seed % 4 == 3, .log = log, .delay = seed % 2 ? 0 : MP_MS(7) };
    mp_buf catalogue = { 0 };
    mp_world_opts o = { .seed = seed, .delay_min = x.delay, .delay_max = x.delay };
    mp_pool_defaults(&o.pool);
    x.w = mp_world_new(&o);
    mp_world_watch(x.w, on_event, NULL, &x);
    mp_buf_puts(&catalogue, mp_sim_builtin_catalogue());
    while (catalogue.n && catalogue.p[catalogue.n - 1] != '}') catalogue.n--;
    catalogue.n--;
    mp_buf_puts(&catalogue, extras);
    for (size_t i = 0; i < SIMS; i++) {
        static const char *const caches[] = { "classic", "lru", "none" };
        mp_sim_opts s = { .version = versions[i], .catalogue = catalogue.p, .speed = 1, .cache = caches[(seed + i) % 3] };
        mp_client_opts c = { 0 };
        mp_sim_observe(mp_world_sim(x.w, mp_world_add_sim(x.w, &s, &c)), on_deed, &x);
    }
    mp_rng *rng = mp_world_rng(x.w);
    for (size_t k = 0; k < JOBS; k++) mp_world_at(x.w, MP_MS(1500) + (mp_time)mp_rng_below(rng, 10000000), submit, &x, k);
    for (int i = 0; i < 6; i++) mp_world_at(x.w, MP_MS(2000) + (mp_time)mp_rng_below(rng, 15000000), interrupt, NULL, mp_rng_below(rng, SIMS));
    for (int i = 0; x.cuts && i < 8; i++) mp_world_at(x.w, MP_MS(2000) + (mp_time)mp_rng_below(rng, 15000000), cut, NULL, mp_rng_below(rng, SIMS));
    if (!mp_world_run(x.w, MP_MS(3600000)) || x.ended != JOBS) broke(&x, "%zu of %d jobs ended", x.ended, JOBS);
    totals[0] += x.ended;
    totals[1] += x.exact;
    totals[2] += x.nodes;
    if (x.broken[0]) printf("seed %llu: %s\n  repeat with: truth --first %llu --seeds 1 --log\n", (unsigned long long)seed, x.broken, (unsigned long long)seed);
    mp_world_free(x.w);
    mp_buf_free(&catalogue);
    free(x.courses);
    return x.broken[0] != 0;
}

/* ---- once its node is known, no event allocates ---------------------------------------------------------------------------- */

static size_t allocations;
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n) { allocations++; return __real_malloc(n); }
void *__wrap_calloc(size_t n, size_t size) { allocations++; return __real_calloc(n, size); }
void *__wrap_realloc(void *p, size_t n) { allocations++; return __real_realloc(p, n); }

static int hear(mp_profile *p, const char *text, mp_time now) {
    mp_msg m;
    return mp_decode_text(mp_str_of(text), &m, NULL) == 0 && (mp_profile_message(p, &m, now), 1);
}

/* What is kept of progress grows to its bound and is thinned there; that is all that may be asked for. */
static int steady(void) {
    static const char wf[] = "{\"1\": {\"class_type\": \"A\", \"inputs\": {}}, \"2\": {\"class_type\": \"B\", \"inputs\": {\"x\": [\"1\", 0]}}}";
    mp_workflow *w = mp_workflow_parse(wf, sizeof wf - 1, NULL);
    size_t before = allocations;
    mp_profile *p = mp_profile_new(w, 0, 256);
    int bad = allocations == before;                 /* else nothing is counted */
    mp_profile_attempt(p, w, "steady", 0, 0);
    bad |= !hear(p, "{\"type\": \"execution_start\", \"data\": {\"prompt_id\": \"p\", \"timestamp\": 1}}", 1);
    for (int i = 1; i <= 4000 && !bad; i++) {
        char state[400], plain[200];
        snprintf(state, sizeof state, "{\"type\": \"progress_state\", \"data\": {\"prompt_id\": \"p\", \"nodes\": {\"1\": {\"value\": 1.0, \"max\": 1.0, \"state\": \"finished\", \"node_id\": \"1\"},"
                 " \"2\": {\"value\": %d.0, \"max\": 4000.0, \"state\": \"running\", \"node_id\": \"2\"}}}}", i);
        snprintf(plain, sizeof plain, "{\"type\": \"progress\", \"data\": {\"value\": %d, \"max\": 4000, \"prompt_id\": \"p\", \"node\": \"2\"}}", i);
        if (i == 600) before = allocations;          /* both nodes are known, and the list is full */
        bad |= !hear(p, state, i * 1000) || !hear(p, "{\"type\": \"executing\", \"data\": {\"node\": \"2\", \"display_node\": \"2\", \"prompt_id\": \"p\"}}", i * 1000 + 1) || !hear(p, plain, i * 1000 + 2);
    }
    if (allocations != before) printf("steady: %zu allocations in 10,200 events of nodes that are known\n", allocations - before);
    bad |= allocations != before;
    mp_profile_free(p);
    mp_workflow_unref(w);
    return bad;
}

int main(int argc, char **argv) {
    uint64_t seeds = 60, first = 1;
    int log = 0;
    size_t bad = 0, totals[4] = { 0 };
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--log") == 0) log = 1;
        else if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc) seeds = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--first") == 0 && i + 1 < argc) first = strtoull(argv[++i], NULL, 10);
        else { fprintf(stderr, "usage: truth [--seeds N] [--first K] [--log]\n"); return 2; }
    }
    bad += (size_t)steady();
    for (uint64_t s = first; s < first + seeds; s++) bad += (size_t)run(s, log, totals);
    printf("truth: %zu jobs in %llu seeds, %zu with exact profiles, %zu nodes compared: %s\n", totals[0], (unsigned long long)seeds, totals[1], totals[2], bad ? "BROKEN" : "all as the servers did it");
    return bad != 0;
}
