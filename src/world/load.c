/* world/load.c -- floor 6, world: from a seed, a cluster, a load, a plan of faults, and what must hold.
 * Every fault ends, so every job must end: exactly once, within its bounds, where it may run, in its order. */
#include "world/load.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_JOBS 80
#define CLASSES 3

typedef struct { mp_job *j; uint64_t id; int ends, attempts_seen, disturbed, doomed; double priority; int kind; mp_time queued; } tracked;

typedef struct trial {
    mp_trial *t;
    mp_world *w;
    mp_workflow *wf[CLASSES];
    tracked jobs[MAX_JOBS];
    size_t n, unfinished;
    mp_time idle_since[12], stray_since[12];
    int affinity[12][CLASSES];
    int faulty, strays, claimed[CLASSES];
    size_t doomed;
    mp_client *looking;
} trial;

static void broke(trial *x, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void broke(trial *x, const char *fmt, ...) {
    if (x->t->broken[0]) return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(x->t->broken, sizeof x->t->broken, fmt, ap);
    va_end(ap);
}

#define PLAIN "{\"1\":{\"class_type\":\"EmptyImage\",\"inputs\":{\"width\":64,\"height\":64,\"batch_size\":1,\"color\":0}}," \
    "\"2\":{\"class_type\":\"SaveImage\",\"inputs\":{\"images\":[\"1\",0],\"filename_prefix\":\"a\"}}}"
#define TEXT_TO_IMAGE "{\"4\":{\"class_type\":\"CheckpointLoaderSimple\",\"inputs\":{\"ckpt_name\":\"sd15.safetensors\"}}," \
    "\"5\":{\"class_type\":\"EmptyLatentImage\",\"inputs\":{\"width\":512,\"height\":512,\"batch_size\":1}}," \
    "\"6\":{\"class_type\":\"CLIPTextEncode\",\"inputs\":{\"text\":\"x\",\"clip\":[\"4\",1]}}," \
    "\"3\":{\"class_type\":\"KSampler\",\"inputs\":{\"seed\":-1,\"steps\":8,\"cfg\":7,\"sampler_name\":\"euler\",\"scheduler\":\"normal\",\"denoise\":1," \
    "\"model\":[\"4\",0],\"positive\":[\"6\",0],\"negative\":[\"6\",0],\"latent_image\":[\"5\",0]}}," \
    "\"8\":{\"class_type\":\"VAEDecode\",\"inputs\":{\"samples\":[\"3\",0],\"vae\":[\"4\",2]}}," \
    "\"9\":{\"class_type\":\"SaveImage\",\"inputs\":{\"images\":[\"8\",0],\"filename_prefix\":\"b\"}}}"
#define TWO_OUTPUTS "{\"1\":{\"class_type\":\"EmptyImage\",\"inputs\":{\"width\":64,\"height\":64,\"batch_size\":1,\"color\":7}}," \
    "\"2\":{\"class_type\":\"ImageInvert\",\"inputs\":{\"image\":[\"1\",0]}}," \
    "\"3\":{\"class_type\":\"SaveImage\",\"inputs\":{\"images\":[\"2\",0],\"filename_prefix\":\"c\"}}," \
    "\"4\":{\"class_type\":\"PreviewImage\",\"inputs\":{\"images\":[\"1\",0]}}}"
static const char *const shapes[CLASSES] = { PLAIN, TEXT_TO_IMAGE, TWO_OUTPUTS };

static tracked *find(trial *x, uint64_t id) {
    for (size_t i = 0; i < x->n; i++)
        if (x->jobs[i].id == id) return &x->jobs[i];
    return NULL;
}

/* ---- what must hold ------------------------------------------------------------------------------------------------ */

static void end_of(trial *x, tracked *k, mp_event_kind how) {
    mp_job *j = mp_pool_job(mp_world_pool(x->w), k->id);
    if (++k->ends > 1) broke(x, "job %llx ended %d times", (unsigned long long)k->id, k->ends);
    if (mp_world_now(x->w) - k->queued > MP_MS(900000)) broke(x, "job %llx took %lld s to end", (unsigned long long)k->id, (long long)(mp_world_now(x->w) - k->queued) / 1000000);
    x->unfinished--;
    if (how == MP_EV_JOB_COMPLETED) x->t->completed++;
    else if (how == MP_EV_JOB_FAILED) x->t->failed++;
    else x->t->canceled++;
    if (!j) { broke(x, "job %llx is gone at its end", (unsigned long long)k->id); return; }
    if (how == MP_EV_JOB_COMPLETED && !mp_job_outputs(j)) broke(x, "job %llx completed without outputs", (unsigned long long)k->id);
    if (how != MP_EV_JOB_COMPLETED && !mp_job_failure(j)) broke(x, "job %llx ended without a reason", (unsigned long long)k->id);
    if (k->doomed && how == MP_EV_JOB_COMPLETED) broke(x, "job %llx completed with a value that no server takes", (unsigned long long)k->id);
    if (k->doomed && how == MP_EV_JOB_FAILED) x->doomed++;
    if (how == MP_EV_JOB_FAILED && mp_job_failure(j)->kind == MP_FAIL_NONE) broke(x, "job %llx failed of nothing", (unsigned long long)k->id);
    mp_profile *p = mp_job_profile(j);
    mp_buf b = { 0 };
    mp_profile_json(&b, p, 0);
    mp_json *d = mp_json_parse(b.p, b.n, NULL);
    double sum = 0;
#define N(name) mp_json_number(mp_json_get(d, name), 0)
    for (const mp_json *n = mp_json_first(mp_json_get(d, "nodes")); n; n = mp_json_next(n)) sum += mp_json_number(mp_json_get(n, "duration"), 0);
    double off = N("totalDuration") - N("queueTime") - N("executionTime"), parts = N("queueTime") - N("poolQueueTime") - N("uploadTime") - N("serverQueueTime") - N("retryTime");
    double nodes = sum - N("executionTime") + N("gapTime") - N("overlapTime");
    if (off * off > 1e-6 || parts * parts > 1e-6 || nodes * nodes > 1e-6 || N("gapTime") < 0 || N("poolQueueTime") < 0 || N("serverQueueTime") < 0 || N("retryTime") < 0 || N("executionTime") < 0)
        broke(x, "the profile of job %llx does not add up (%g %g %g)", (unsigned long long)k->id, off, parts, nodes);
    mp_json_free(d);
    mp_buf_free(&b);
}

/* A job was sent: was it its turn, and may it run there? */
static void sent(trial *x, tracked *k) {
    mp_job *j = mp_pool_job(mp_world_pool(x->w), k->id);
    const char *url = mp_job_client_url(j);
    size_t sim = (size_t)atoi(url + strlen("http://sim"));
    if (x->claimed[k->kind] && !x->affinity[sim][k->kind]) broke(x, "job %llx was sent to sim%zu, which its hash is not for", (unsigned long long)k->id, sim);
    if (mp_job_attempts(j) != 1 || k->disturbed) return;
    for (size_t i = 0; i < x->n; i++) {
        tracked *o = &x->jobs[i];
        mp_job *other = o->ends ? NULL : mp_pool_job(mp_world_pool(x->w), o->id);
        if (!other || o == k || o->kind != k->kind || o->disturbed || mp_job_status(other) != MP_JOB_PENDING || mp_job_attempts(other)) continue;
        if (o->priority > k->priority || (o->priority == k->priority && o->queued < k->queued)) broke(x, "job %llx overtook job %llx", (unsigned long long)k->id, (unsigned long long)o->id);
    }
}

static void on_event(void *ud, const mp_event *e) {
    trial *x = ud;
    tracked *k = e->job ? find(x, e->job) : NULL;
    if (!k) return;
    if (e->kind == MP_EV_JOB_RETRYING) { x->t->retries++; k->disturbed = 1; }
    if (e->kind == MP_EV_JOB_COMPLETED || e->kind == MP_EV_JOB_FAILED || e->kind == MP_EV_JOB_CANCELED) end_of(x, k, e->kind);
}

static void stray(void *ud, const char *mark) {
    trial *x = ud;
    if (!mp_client_holds(x->looking, mark)) x->strays++;
}

static void on_step(void *ud) {
    trial *x = ud;
    mp_pool *p = mp_world_pool(x->w);
    mp_time now = mp_world_now(x->w);
    int waiting[CLASSES] = { 0 };
    for (size_t i = 0; i < x->n; i++) {
        tracked *k = &x->jobs[i];
        mp_job *j = k->ends ? NULL : mp_pool_job(p, k->id);
        if (!j) continue;
        if (mp_job_status(j) == MP_JOB_PENDING && !k->disturbed) waiting[k->kind] = 1;
        if (mp_job_attempts(j) > k->attempts_seen && mp_job_status(j) == MP_JOB_ASSIGNED) sent(x, k);
        k->attempts_seen = mp_job_attempts(j);
    }
    for (size_t i = 0; i < mp_world_sims(x->w); i++) {
        mp_client *c = mp_world_client(x->w, i);
        x->looking = c;
        x->strays = 0;
        mp_sim_marks(mp_world_sim(x->w, i), stray, x);
        if (!x->strays) x->stray_since[i] = 0;
        else if (!x->stray_since[i]) x->stray_since[i] = now;
        else if (now - x->stray_since[i] > MP_MS(500)) broke(x, "sim%zu holds a prompt of ours that the pool has forgotten", i);
        int load = mp_client_load(c), could = 0;
        if (load < 0 || load > mp_client_slots(c)) broke(x, "sim%zu holds %d prompts with %d slots", i, load, mp_client_slots(c));
        for (int k = 0; k < CLASSES; k++) could |= waiting[k] && mp_client_may_run(p, c, mp_workflow_hash(x->wf[k]));
        int idle = mp_client_get_state(c) == MP_CLIENT_ONLINE && !mp_client_problem(c) && load == 0 && could;
        if (!idle) x->idle_since[i] = 0;
        else if (!x->idle_since[i]) x->idle_since[i] = now;
        else if (now - x->idle_since[i] > MP_MS(110)) broke(x, "sim%zu idles while work waits that it may run", i);
    }
}

/* ---- load and faults ------------------------------------------------------------------------------------------------- */

static void submit(mp_world *w, void *ud, size_t arg) {
    trial *x = ud;
    mp_rng *r = mp_world_rng(w);
    mp_job_opts o;
    tracked *k = &x->jobs[x->n];
    mp_job_defaults(&o);
    k->kind = (int)arg;
    o.priority = k->priority = (double)mp_rng_below(r, 3);
    mp_workflow *wf = mp_workflow_clone(x->wf[arg]);
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)mp_rng_below(r, 1000));
    mp_workflow_set(wf, mp_str_of(arg == 1 ? "3" : "1"), mp_str_of(arg == 1 ? "seed" : "color"), mp_str_of(text), NULL);
    k->doomed = arg == 1 && mp_rng_below(r, 12) == 0;                    /* a value no server takes */
    if (k->doomed) mp_workflow_set(wf, mp_str_of("3"), mp_str_of("steps"), mp_str_of("0"), NULL);
    mp_job *j = mp_pool_submit(mp_world_pool(w), wf, &o, mp_world_now(w), NULL);
    mp_workflow_unref(wf);
    if (!j) return;
    k->j = j;
    k->id = mp_job_id(j);
    k->queued = mp_world_now(w);
    mp_job_pin(j);
    x->n++;
    x->unfinished++;
    if (mp_job_status(j) == MP_JOB_ASSIGNED) { k->attempts_seen = 1; sent(x, k); }
}

static void cancel(mp_world *w, void *ud, size_t arg) {
    trial *x = ud;
    if (arg >= x->n || x->jobs[arg].ends) return;
    mp_job *j = mp_pool_job(mp_world_pool(w), x->jobs[arg].id);
    x->jobs[arg].disturbed = 1;
    if (j) mp_pool_cancel(mp_world_pool(w), j, mp_world_now(w));
}

static void restart(mp_world *w, void *ud, size_t i) {
    (void)ud;
    mp_world_down(w, i, mp_world_now(w));
}

static void fault(mp_world *w, void *ud, size_t arg) {
    trial *x = ud;
    mp_rng *r = mp_world_rng(w);
    size_t i = mp_rng_below(r, mp_world_sims(w));
    mp_time now = mp_world_now(w), span = MP_MS(mp_rng_below(r, 20000));
    switch (arg) {
    case 0: mp_world_cut(w, i, mp_rng_below(r, 2) ? 0 : span); break;
    case 1: mp_world_down(w, i, now + span); break;
    case 2: mp_sim_stall(mp_world_sim(w, i), now + span); break;
    case 3: mp_sim_fail(mp_world_sim(w, i), mp_rng_below(r, 2) ? NULL : "SaveImage", 1 + (int)mp_rng_below(r, 2), NULL, NULL); break;
    case 4: mp_world_dark(w, i, now + span); break;
    case 5: mp_sim_fail(mp_world_sim(w, i), "KSampler", 1, "torch.OutOfMemoryError", "Allocation on device"); break;
    case 6: mp_world_down(w, i, now + MP_MS(1200000)); break;            /* far beyond every bound */
    case 7:
        mp_sim_wedge(mp_world_sim(w, i));
        mp_world_at(w, now + MP_MS(1200000), restart, x, i);
        break;
    default: mp_world_cut(w, i, MP_MS(2000)); break;
    }
    x->faulty = 1;
}

static void plan(trial *x, mp_rng *r) {
    size_t jobs = 5 + mp_rng_below(r, MAX_JOBS - 5);
    mp_time t = mp_world_now(x->w), spread = MP_MS(mp_rng_below(r, 20000));
    for (size_t i = 0; i < jobs; i++) {
        mp_world_at(x->w, t + (spread ? (mp_time)mp_rng_below(r, (uint64_t)spread) : 0), submit, x, mp_rng_below(r, CLASSES));
        if (mp_rng_below(r, 10) == 0) mp_world_at(x->w, t + MP_MS(mp_rng_below(r, 30000)), cancel, x, mp_rng_below(r, MAX_JOBS));
    }
    size_t faults = x->t->faults ? mp_rng_below(r, 12) : 0;
    for (size_t i = 0; i < faults; i++) mp_world_at(x->w, t + MP_MS(mp_rng_below(r, 30000)), fault, x, mp_rng_below(r, 9));
    x->t->jobs = jobs;
}

static mp_client_opts client_opts(trial *x, mp_rng *r, size_t i, const char **hashes) {
    mp_client_opts c = { 0 };
    size_t n = 0;
    for (int k = 0; k < CLASSES; k++)
        if (mp_rng_below(r, 6) == 0) {
            x->affinity[i][k] = x->claimed[k] = 1;
            hashes[n++] = mp_workflow_hash(x->wf[k]);
        }
    hashes[n] = NULL;
    c.affinity = hashes;
    c.slots = 1 + (int)mp_rng_below(r, 3);
    return c;
}

static void build(trial *x, mp_rng *r) {
    size_t sims = 1 + mp_rng_below(r, 6);
    for (size_t i = 0; i < sims; i++) {
        const char *hashes[CLASSES + 1];
        mp_client_opts c = client_opts(x, r, i, hashes);
        mp_sim_opts s = { .version = mp_rng_below(r, 3) ? "0.18.1" : "2024-10", .speed = 0.5 + 4 * mp_rng_unit(r), .vram_gb = 8, .previews = mp_rng_below(r, 2) == 0, .overhead = MP_MS(mp_rng_below(r, 5)) };
        mp_world_add_sim(x->w, &s, &c);
    }
}

int mp_trial_run(mp_trial *t) {
    trial x = { .t = t };
    mp_world_opts o = { .seed = t->seed, .delay_min = MP_MS(1), .log = t->log, .log_ud = t->log_ud };
    mp_rng r;
    mp_rng_seed(&r, t->seed * 2654435761u + 17);
    o.delay_max = MP_MS(1 + mp_rng_below(&r, 40));
    mp_pool_defaults(&o.pool);
    o.pool.node_silence = MP_MS(30000);
    o.pool.cold_silence = MP_MS(45000);
    o.pool.unreachable = MP_MS(25000);
    o.pool.request_timeout = MP_MS(4000 + mp_rng_below(&r, 20000));
    t->broken[0] = 0;
    t->completed = t->failed = t->canceled = t->retries = 0;
    x.w = mp_world_new(&o);
    for (int k = 0; k < CLASSES; k++) x.wf[k] = mp_workflow_parse(shapes[k], strlen(shapes[k]), NULL);
    mp_world_watch(x.w, on_event, on_step, &x);
    mp_pool_want(mp_world_pool(x.w), 1u << MP_EV_JOB_RETRYING | 1u << MP_EV_JOB_OUTPUT);
    build(&x, &r);
    plan(&x, &r);
    mp_time bound = mp_world_now(x.w) + MP_MS(3600000);
    int quiet = mp_world_run(x.w, bound);
    if (!quiet) broke(&x, "not quiet after an hour: %zu jobs unfinished", x.unfinished);
    size_t ran = 0;
    for (size_t i = 0; i < x.n; i++)
        if (x.jobs[i].ends != 1) broke(&x, "job %llx ended %d times", (unsigned long long)x.jobs[i].id, x.jobs[i].ends);
    for (size_t i = 0; i < mp_world_sims(x.w); i++) {
        mp_sim_record rec;
        mp_sim_get_record(mp_world_sim(x.w, i), &rec);
        ran += rec.prompts;
        if (mp_sim_waiting(mp_world_sim(x.w, i))) broke(&x, "sim%zu still holds prompts of ours", i);
        if (quiet && mp_client_load(mp_world_client(x.w, i))) broke(&x, "a slot of sim%zu was never given back", i);
    }
    if (!x.faulty && t->failed != x.doomed) broke(&x, "%zu jobs failed though nothing went wrong", t->failed - x.doomed);
    if (!x.faulty && ran > x.n) broke(&x, "%zu prompts ran for %zu jobs though nothing went wrong", ran, x.n);
    mp_world_digest(x.w, t->digest);
    for (int k = 0; k < CLASSES; k++) mp_workflow_unref(x.wf[k]);
    mp_world_free(x.w);
    return t->broken[0] ? 1 : 0;
}
