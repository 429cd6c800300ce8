/* world/jobs.c -- floor 6, world: the load of a trial: jobs with every option, and the scripts that have a say in them. */
#include "world/trial.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define PLAIN "{\"1\":{\"class_type\":\"EmptyImage\",\"inputs\":{\"width\":64,\"height\":64,\"batch_size\":1,\"color\":0}}," \
    "\"2\":{\"class_type\":\"SaveImage\",\"inputs\":{\"images\":[\"1\",0],\"filename_prefix\":\"a\"}}}"
#define TWO_OUTPUTS "{\"1\":{\"class_type\":\"EmptyImage\",\"inputs\":{\"width\":64,\"height\":64,\"batch_size\":1,\"color\":7}}," \
    "\"2\":{\"class_type\":\"ImageInvert\",\"inputs\":{\"image\":[\"1\",0]}}," \
    "\"3\":{\"class_type\":\"SaveImage\",\"inputs\":{\"images\":[\"2\",0],\"filename_prefix\":\"c\"}}," \
    "\"4\":{\"class_type\":\"PreviewImage\",\"inputs\":{\"images\":[\"5\",0]}}," \
    "\"5\":{\"class_type\":\"EmptyImage\",\"inputs\":{\"width\":64,\"height\":64,\"batch_size\":1,\"color\":9}}}"
#define UPSCALE "{\"1\":{\"class_type\":\"EmptyImage\",\"inputs\":{\"width\":64,\"height\":64,\"batch_size\":1,\"color\":3}}," \
    "\"2\":{\"class_type\":\"UpscaleModelLoader\",\"inputs\":{\"model_name\":\"esrgan/4x.pth\"}}," \
    "\"3\":{\"class_type\":\"ImageUpscaleWithModel\",\"inputs\":{\"upscale_model\":[\"2\",0],\"image\":[\"1\",0]}}," \
    "\"4\":{\"class_type\":\"SaveImage\",\"inputs\":{\"images\":[\"3\",0],\"filename_prefix\":\"d\"}}}"
#define WITH_PICTURE "{\"1\":{\"class_type\":\"LoadImage\",\"inputs\":{\"image\":\"none.png\"}}," \
    "\"2\":{\"class_type\":\"SaveImage\",\"inputs\":{\"images\":[\"1\",0],\"filename_prefix\":\"e\"}}}"
const char *const trial_shapes[CLASSES] = { PLAIN, TEXT_TO_IMAGE, TWO_OUTPUTS, UPSCALE, WITH_PICTURE };
enum { SAMPLED = 1, DOUBLE = 2, PICTURED = 4 };

static uint64_t dice(mp_world *w, uint64_t n) { return mp_rng_below(mp_world_rng(w), n); }
static uint64_t chance(trial *x, uint64_t n) { return mp_rng_below(&x->opt, n); }


/* ---- scripts -------------------------------------------------------------------------------------------------- */

/* What a hook answers when its script is fine, has no opinion, says wait, raises, or answers nonsense. */
static int wild_route(void *ud, mp_pool *p, mp_job *j, mp_client *const *c, size_t n, int stage) {
    trial *x = ud;
    (void)p, (void)j, (void)c, (void)stage;
    switch (mp_rng_below(&x->wild, 8)) {
    case 0: return MP_ROUTE_HOLD;
    case 1: case 2: return MP_ROUTE_ANY;
    case 3: return (int)n + 7;
    default: return (int)mp_rng_below(&x->wild, n);
    }
}

static int watch_mutate(void *ud, mp_pool *p, mp_job *j, mp_client *c, mp_workflow **w, mp_err *e) {
    (void)p, (void)w, (void)e;
    trial_sent(ud, j, c);
    return 0;
}

static int wild_mutate(void *ud, mp_pool *p, mp_job *j, mp_client *c, mp_workflow **w, mp_err *e) {
    trial *x = ud;
    mp_str json;
    if (mp_rng_below(&x->wild, 60) == 0) {
        x->faulty = 1;
        return mp_fail(e, MP_EPOLICY, "it raised");
    }
    if (mp_rng_below(&x->wild, 10) == 0 && mp_workflow_get(*w, 0, mp_str_of("color"), &json)) {
        *w = mp_workflow_own(*w);
        mp_workflow_set(*w, mp_str_of("1"), mp_str_of("color"), mp_str_of("77"), NULL);
    }
    return watch_mutate(ud, p, j, c, w, e);
}

static int wild_failure(void *ud, mp_pool *p, mp_job *j, mp_client *c, const mp_failure *f, int attempts) {
    trial *x = ud;
    (void)p, (void)j, (void)c, (void)f, (void)attempts;
    switch (mp_rng_below(&x->wild, 20)) {
    case 0: case 1: return MP_AGAIN_YES;
    case 2:
        x->faulty = 1;
        return MP_AGAIN_NO;
    case 3: return 4711;
    default: return MP_AGAIN_ANY;
    }
}

static int wild_admit(void *ud, mp_pool *p, mp_job *j, char *why, size_t cap) {
    trial *x = ud;
    (void)p, (void)j;
    if (mp_rng_below(&x->wild, 30)) return 1;
    if (mp_rng_below(&x->wild, 2)) snprintf(why, cap, "not today");
    return 0;
}

static int wild_rank(void *ud, mp_pool *p, mp_job *j, double *rank) {
    static const double odd[] = { HUGE_VAL, -HUGE_VAL, 1e300, -0.0, NAN, 2.5 };
    trial *x = ud;
    (void)p, (void)j;
    x->ranked = mp_rng_below(&x->wild, 4) == 0;
    if (x->ranked) *rank = x->rank = odd[mp_rng_below(&x->wild, 6)];
    return x->ranked;
}

void trial_scripts(trial *x, int wild) {
    x->policy = (mp_policy){ .ud = x, .mutate = watch_mutate };
    if (!wild) return;
    x->wild_routes = 1;
    x->policy.route = wild_route;
    x->policy.mutate = wild_mutate;
    x->policy.on_failure = wild_failure;
    x->policy.admit = wild_admit;
    if (!x->flat) x->policy.rank = wild_rank;
}

/* ---- jobs ------------------------------------------------------------------------------------------------------ */

static void wish(trial *x, mp_world *w, tracked *k, mp_job_opts *o, const char *list[2], double *value, mp_workflow **variant) {
    size_t sims = mp_world_sims(w), at = dice(w, sims);
    list[0] = x->names[at];
    switch (dice(w, 8)) {                            /* 1 and 5 may go wrong */
    case 0:
        o->prefer = list;
        k->preferred = (int)at;
        break;
    case 1:
        if (sims < 2 || x->calm) break;
        o->exclude = list;
        k->excluded = (int)at;
        x->faulty = 1;                               /* perhaps nobody is left who may run it */
        break;
    case 2:
        o->overrides = list;
        k->raised = (int)at;
        *value = 5;
        o->override_values = value;
        break;
    case 3:
        k->variant = (int)dice(w, PICTURED);
        if (k->kind == PICTURED) { k->variant = -1; break; }
        *variant = x->wf[k->variant];
        o->variants = variant;
        o->n_variants = 1;
        break;
    case 4:
        o->delay = MP_MS(dice(w, 5000));
        k->ready = mp_world_now(w) + o->delay;
        break;
    case 5:
        if (x->calm) break;
        o->total = MP_MS(1000 + dice(w, dice(w, 2) ? 20000 : 60000));
        x->faulty = 1;                               /* it may run out */
        break;
    case 6: o->max_attempts = 1; break;
    default: o->execution_start = MP_MS(5000); break;
    }
    k->odd = 1;
}

#define EXTRA "{\"extra_pnginfo\":{\"workflow\":{\"nodes\":[]}},\"preview_method\":\"auto\"}"
#define METADATA "{\"order\":17}"

/* What may be asked for with any job, and must show again. */
static void options(trial *x, tracked *k, mp_job_opts *o) {
    static const char *const lists[] = { "[\"2\"]", "[\"3\",\"9\"]" };
    if (chance(x, 8) == 0) o->front = 1;
    if (chance(x, 8) == 0) o->metadata = METADATA;
    if ((k->extra = chance(x, 6) == 0)) o->extra_data = EXTRA;
    if ((k->included = chance(x, 8) == 0)) o->include = lists[chance(x, 2)];
    if (chance(x, 8) == 0) o->retry_delay = MP_MS(chance(x, 3000));
    if (chance(x, 4) == 0) o->profiling = (int)chance(x, 2);
    if (chance(x, 3) == 0) o->partial_outputs = 1;
    if (chance(x, 6) == 0) snprintf(k->name, sizeof k->name, "job %d", (int)chance(x, 40));
    if (*k->name) o->id = k->name;
    if (x->calm) return;
    int bound = (int)chance(x, 30);
    mp_time t = MP_MS(3000 + chance(x, 17000));
    if (bound == 0) o->node_silence = t;
    if (bound == 1) o->unreachable = t;
    if (bound == 2) o->no_client = t;
    if (bound == 3) o->request_timeout = t;
    if (bound == 0) x->faulty = 1;                   /* loading a model may take longer */
}

/* How long it may take, by its own bounds or the pool's. */
static void bounds(tracked *k, const mp_job_opts *o, const mp_pool_opts *p) {
    k->bound = o->total ? o->total : p->total ? p->total : MP_NEVER;
    k->silence = o->node_silence ? o->node_silence : p->cold_silence > p->node_silence ? p->cold_silence : p->node_silence;
    k->patience = o->execution_start ? o->execution_start : p->execution_start;
    k->nobody = o->no_client ? o->no_client : p->no_client;
    k->away = o->unreachable ? o->unreachable : p->unreachable;
    k->attempts = o->max_attempts ? o->max_attempts : p->max_attempts;
    k->pause = o->retry_delay >= 0 ? o->retry_delay : p->retry_delay;
    k->profiled = o->profiling < 0 ? p->profiling : o->profiling;
}

/* A value that no server takes: of the whole workflow, or of one of its two outputs, which some jobs do without. */
static void doom(trial *x, mp_world *w, tracked *k, mp_workflow *wf, const mp_job_opts *o) {
    k->doomed = k->kind == SAMPLED && dice(w, 12) == 0;
    if (k->doomed) mp_workflow_set(wf, mp_str_of("3"), mp_str_of("steps"), mp_str_of("0"), NULL);
    if (k->kind != DOUBLE || chance(x, 8) || k->variant >= 0) return;
    mp_workflow_set(wf, mp_str_of("5"), mp_str_of("width"), mp_str_of("0"), NULL);
    k->halved = 1;
    k->doomed = !o->partial_outputs;
}

/* The id that a job was given by its user finds that job. Its tracked record, or NULL: it is new. */
static tracked *named(trial *x, const char *name) {
    for (size_t i = 0; *name && i < x->n; i++)
        if (strcmp(x->jobs[i].name, name) == 0) return &x->jobs[i];
    return NULL;
}

/* A script may have given it another rank than its priority. */
static void rank(trial *x, tracked *k) {
    if (!x->ranked) return;
    x->ranked = 0;
    k->priority = x->rank;
    k->unranked = isnan(x->rank);
}

void trial_submit(mp_world *w, void *ud, size_t kind) {
    trial *x = ud;
    mp_job_opts o;
    tracked *k = &x->jobs[x->n];
    const char *list[2] = { NULL, NULL };
    double value;
    mp_workflow *variant;
    if (x->n == MAX_JOBS) return;
    *k = (tracked){ .kind = (int)kind, .excluded = -1, .variant = -1, .preferred = -1, .raised = -1 };
    mp_job_defaults(&o);
    o.priority = k->priority = x->flat ? 0 : (double)dice(w, 3);
    mp_workflow *wf = mp_workflow_clone(x->wf[kind]);
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)dice(w, 1000));
    if (kind == PICTURED) {
        k->picture = (int)dice(w, PICTURES);
        mp_workflow_attach(wf, mp_str_of("1"), mp_str_of("image"), x->picture[k->picture], NULL);
    } else mp_workflow_set(wf, mp_str_of(kind == SAMPLED ? "3" : "1"), mp_str_of(kind == SAMPLED ? "seed" : "color"), mp_str_of(text), NULL);
    if (x->crowd == CLASSES) options(x, k, &o);
    doom(x, w, k, wf, &o);
    if (dice(w, 4) == 0 && !k->doomed && !k->halved && x->crowd == CLASSES) wish(x, w, k, &o, list, &value, &variant);
    k->queued = mp_world_now(w);
    bounds(k, &o, mp_pool_options(mp_world_pool(w)));
    tracked *same = named(x, k->name);
    x->ranked = 0;
    mp_job *j = mp_pool_submit(mp_world_pool(w), wf, &o, mp_world_now(w), NULL);
    mp_workflow_unref(wf);
    if (same && same->j != j) broke(x, "another job than the first was given for the id \"%s\"", k->name);
    if (!j || same) return;
    rank(x, k);
    k->j = j;
    k->id = mp_job_id(j);
    k->sends = mp_job_attempts(j);
    if (mp_job_client_url(j)) k->sim = (size_t)atoi(mp_job_client_url(j) + strlen("http://sim"));
    mp_job_pin(j);
    x->n++;
    x->unfinished++;
}

void trial_cancel(mp_world *w, void *ud, size_t arg) {
    trial *x = ud;
    if (arg >= x->n || x->jobs[arg].ends) return;
    x->jobs[arg].disturbed = x->jobs[arg].stopped = 1;
    mp_pool_cancel(mp_world_pool(w), x->jobs[arg].j, mp_world_now(w));
}

void trial_reprioritize(mp_world *w, void *ud, size_t arg) {
    trial *x = ud;
    if (arg >= x->n || x->jobs[arg].ends || x->flat) return;
    tracked *k = &x->jobs[arg];
    double priority = (double)dice(w, 5);
    x->ranked = 0;
    if (mp_pool_set_priority(mp_world_pool(w), k->j, priority, mp_world_now(w)) != 0) return;
    k->priority = priority;
    k->unranked = 0;
    rank(x, k);
}
