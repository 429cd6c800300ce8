/* world/load.c -- floor 6, world: what happens in a trial: a cluster, a load with every option, a plan of faults, all
 * from one seed. Every fault ends, so every job must end. */
#include "world/trial.h"
#include <stdio.h>
#include <stdlib.h>

static uint64_t die(trial *x, uint64_t n) { return mp_rng_below(&x->r, n); }
static uint64_t dice(mp_world *w, uint64_t n) { return mp_rng_below(mp_world_rng(w), n); }

/* ---- clients ---------------------------------------------------------------------------------------------------- */

static void unpause(mp_world *w, void *ud, size_t i) {
    trial *x = ud;
    if (i == MAX_SIMS) {
        x->paused = 0;
        mp_pool_pause(mp_world_pool(w), 0, mp_world_now(w));
    } else if (mp_world_client(w, i)) mp_pool_pause_client(mp_world_pool(w), mp_world_client(w, i), 0, mp_world_now(w));
}

static void rejoin(mp_world *w, void *ud, size_t i) {
    trial *x = ud;
    if (mp_world_client(w, i)) mp_world_at(w, mp_world_now(w) + MP_MS(5000), rejoin, ud, i);
    else {
        x->changed = mp_world_now(w);
        mp_world_join(w, i, &x->client[i]);
    }
}

static void down(trial *x, size_t i, mp_time until) {
    x->at[i].life++;
    mp_world_down(x->w, i, until);
}

static void restart(mp_world *w, void *ud, size_t i) {
    down(ud, i, mp_world_now(w));
}

/* ---- the cluster --------------------------------------------------------------------------------------------------- */

static char *replace(const char *text, const char *what, const char *by) {
    const char *at = strstr(text, what);
    return at ? mp_format("%.*s%s%s", (int)(at - text), text, by, at + strlen(what)) : mp_strdup(text);
}

/* Catalogues differ: one server lacks a model, another spells its path with backslashes. Sim 0 has everything. */
static char *catalogue(trial *x, size_t i) {
    char *full = replace(mp_sim_builtin_catalogue(), "\"4x-ultra.pth\"", die(x, 3) == 0 ? "\"esrgan\\\\4x.pth\"" : "\"esrgan/4x.pth\""), *text;
    if (i == 0 || die(x, 5) || x->crowd < CLASSES) return full;
    x->missing[i] = 1;
    x->faulty = 1;                                   /* what is refused there runs elsewhere, which shows as retries */
    text = replace(full, "\"sd15.safetensors\",", "");
    free(full);
    return text;
}

/* A server and a client for it, drawn from the trial's own numbers. */
static void add_sim(trial *x) {
    static const char *const versions[] = { "0.18.1", "0.18.1", "0.3.75", "0.3.64", "2024-10", "2024-10" }, *const caches[] = { NULL, NULL, "lru", "none" };
    size_t i = mp_world_sims(x->w), n = 0;
    mp_client_opts *c = &x->client[i];
    for (int k = 0; k < CLASSES; k++)
        if (die(x, 8) == 0 || (i == 0 && k == x->crowd)) {
            x->affinity[i][k] = 1;
            x->claims[i][n++] = mp_workflow_hash(x->wf[k]);
        }
    snprintf(x->names[i], sizeof x->names[i], "sim%zu", i);
    c->affinity = x->claims[i];
    c->slots = 1 + (int)die(x, 3);
    c->priority = (double)die(x, 3);
    char *text = catalogue(x, i);
    mp_sim_opts s = { .version = versions[die(x, 6)], .cache = caches[die(x, 4)], .no_orphans = die(x, 2) == 0, .speed = 0.5 + 4 * mp_rng_unit(&x->r), .vram_gb = 6 + (double)die(x, 18), .previews = die(x, 2) == 0,
                      .overhead = MP_MS(die(x, 5)), .catalogue = text };
    mp_world_add_sim(x->w, &s, c);
    mp_sim_watch(mp_world_sim(x->w, i), trial_begun, x);
    free(text);
}

static void build(trial *x) {
    size_t sims = x->crowd < CLASSES ? 2 : 1 + die(x, die(x, 3) ? 5 : MAX_SIMS);
    while (sims--) add_sim(x);
}

/* ---- faults ----------------------------------------------------------------------------------------------------- */

enum { F_CUT, F_DOWN, F_STALL, F_ERROR, F_DARK, F_OOM, F_LONG_DOWN, F_WEDGE, F_ORPHAN, F_MUTE, F_LOSE, F_SLOW, F_NO_SOCKET, F_FREEZE, F_CLOCK, F_DEAF, F_LATE,
       F_CLEAR, F_FOREIGN, F_PAUSE, F_PAUSE_ALL, F_REMOVE, F_DRAIN, F_BREAK, F_ADD, F_KINDS };

static void fault(mp_world *w, void *ud, size_t kind) {
    trial *x = ud;
    size_t i = dice(w, mp_world_sims(w));
    mp_time now = mp_world_now(w), span = MP_MS(dice(w, 20000));
    mp_sim *s = mp_world_sim(w, i);
    mp_client *c = mp_world_client(w, i);
    switch (kind) {
    case F_CUT: mp_world_cut(w, i, dice(w, 2) ? 0 : span); break;
    case F_DOWN: down(x, i, now + span); break;
    case F_STALL: mp_sim_stall(s, now + span); break;
    case F_ERROR: mp_sim_fail(s, dice(w, 2) ? NULL : "SaveImage", 1 + (int)dice(w, 2), NULL, NULL); break;
    case F_DARK: mp_world_dark(w, i, now + span); break;
    case F_OOM: mp_sim_fail(s, "KSampler", 1, "torch.OutOfMemoryError", "Allocation on device"); break;
    case F_LONG_DOWN: down(x, i, now + MP_MS(6000000)); break;  /* far beyond every bound */
    case F_WEDGE:
        mp_sim_wedge(s);
        mp_world_at(w, now + MP_MS(1200000), restart, x, i);
        break;
    case F_MUTE: mp_world_mute(w, i, now + span); break;
    case F_LOSE: mp_world_lose_replies(w, i, 1 + (int)dice(w, 3)); break;
    case F_BREAK: mp_world_break(w, i, now + 2 * span); break;
    case F_SLOW: mp_world_slow(w, i, now + span, MP_MS(dice(w, 6000))); break;
    case F_NO_SOCKET:
        mp_world_no_socket(w, i, now + 2 * span);
        mp_world_cut(w, i, 0);
        break;
    case F_FREEZE:
        mp_world_freeze(w, now + span);
        x->frozen = now + span;
        break;
    case F_CLOCK: mp_sim_clock(s, MP_MS(dice(w, 7200000)) - MP_MS(3600000)); break;
    case F_DEAF: mp_sim_deafen(s, 1 + (int)dice(w, 2)); break;
    case F_LATE: mp_sim_late(s); break;
    case F_CLEAR: mp_world_foreign(w, i, "POST", "/queue", "{\"clear\":true}"); break;
    case F_FOREIGN: mp_world_foreign(w, i, "POST", "/prompt", "{\"client_id\":\"other\",\"prompt\":" TEXT_TO_IMAGE "}"); break;
    case F_PAUSE:
        if (c) mp_pool_pause_client(mp_world_pool(w), c, 1, now);
        mp_world_at(w, now + span, unpause, x, i);
        break;
    case F_PAUSE_ALL:
        x->paused = 1;
        mp_pool_pause(mp_world_pool(w), 1, now);
        mp_world_at(w, now + span, unpause, x, MAX_SIMS);
        break;
    case F_REMOVE: case F_DRAIN:
        x->roams[i] = 1;
        x->changed = now;
        x->at[i].draining = kind == F_DRAIN;
        if (c) mp_pool_remove_client(mp_world_pool(w), c, kind == F_DRAIN, now);
        mp_world_at(w, now + span, rejoin, x, i);
        break;
    case F_ADD:                                      /* somebody really new: another server */
        x->changed = now;
        if (mp_world_sims(w) < MAX_SIMS) add_sim(x);
        break;
    default: mp_world_cut(w, i, MP_MS(2000)); break;
    }
    x->faulty = 1;
}

static void plan(trial *x) {
    size_t jobs = x->crowd < CLASSES ? MAX_JOBS : die(x, 5) ? 5 + die(x, 55) : 60 + die(x, MAX_JOBS - 60);
    mp_time t = mp_world_now(x->w), spread = MP_MS(die(x, 20000));
    for (size_t i = 0; i < jobs; i++) {
        mp_time at = t + (spread ? (mp_time)die(x, (uint64_t)spread) : 0);
        size_t kind = x->crowd < CLASSES && die(x, 2) ? (size_t)x->crowd : die(x, CLASSES);
        int stop = die(x, 10) == 0, again = die(x, 10) == 0;
        mp_time when = t + MP_MS(die(x, 30000));
        size_t whom = die(x, jobs);
        if (x->t->limit && i >= x->t->limit) continue;
        mp_world_at(x->w, at, trial_submit, x, kind);
        if (stop) mp_world_at(x->w, when, trial_cancel, x, whom);
        if (again) mp_world_at(x->w, when, trial_reprioritize, x, whom);
    }
    size_t faults = x->t->faults && x->crowd == CLASSES ? die(x, die(x, 4) ? 12 : MP_TRIAL_FAULTS) : 0;
    for (size_t i = 0; i < faults; i++) {
        mp_time at = t + MP_MS(die(x, 30000));
        size_t kind = die(x, F_KINDS);
        if (!(x->t->skip >> i & 1)) mp_world_at(x->w, at, fault, x, kind);
    }
    x->t->jobs = jobs;
    x->t->planned = faults;
}


/* Bounds of all lengths, so that each is the one that bites in some seeds. */
static void options(trial *x, mp_pool_opts *o) {
    mp_rng *r = &x->opt;
    mp_pool_defaults(o);
    o->node_silence = MP_MS(30000);
    o->cold_silence = MP_MS(45000);
    o->unreachable = MP_MS(25000);
    if (mp_rng_below(r, 5) == 0) {
        o->node_silence = MP_MS(3000 + mp_rng_below(r, 7000));
        o->cold_silence = MP_MS(8000 + mp_rng_below(r, 12000));
        x->faulty = 1;                               /* loading a model may take longer */
    }
    if (mp_rng_below(r, 3) == 0) o->execution_start = MP_MS(3000 + mp_rng_below(r, 12000));
    if (mp_rng_below(r, 4) == 0) o->no_client = MP_MS(2000 + mp_rng_below(r, 18000));
    if (mp_rng_below(r, 4) == 0) o->unreachable = MP_MS(3000 + mp_rng_below(r, 10000));
    o->profiling = mp_rng_below(r, 3) != 0;
    if (mp_rng_below(r, 12) == 0) {
        o->total = MP_MS(5000 + mp_rng_below(r, 60000));
        x->faulty = 1;                               /* it may run out */
    }
}

int mp_trial_run(mp_trial *t) {
    trial *x = mp_alloc(sizeof *x);
    mp_world_opts o = { .seed = t->seed, .delay_min = MP_MS(1), .log = t->log, .log_ud = t->log_ud };
    x->t = t;
    mp_rng_seed(&x->r, t->seed * 2654435761u + 17);
    mp_rng_seed(&x->wild, t->seed + 99);
    mp_rng_seed(&x->opt, t->seed + 7919);
    o.delay_max = MP_MS(1 + die(x, 40));
    x->slack = 2 * o.delay_max + MP_MS(10);
    options(x, &o.pool);
    x->calm = mp_rng_below(&x->opt, 3) == 0;
    o.pool.request_timeout = MP_MS(4000 + die(x, 20000));
    x->flat = die(x, 4) == 0;
    x->crowd = x->flat && die(x, 5) == 0 ? (int)die(x, CLASSES) : CLASSES;
    o.pool.affinity_fallback = die(x, 4) || x->crowd < CLASSES ? 0 : MP_MS(1000 + die(x, 20000));
    o.pool.take_backs = (int)die(x, 3);
    if (x->crowd == CLASSES && die(x, 6) == 0) o.pool.max_queued = 1 + die(x, 20);
    trial_scripts(x, x->crowd == CLASSES && die(x, 4) == 0);
    o.policy = &x->policy;
    t->broken[0] = 0;
    t->completed = t->failed = t->canceled = t->retries = t->taken_back = 0;
    x->w = mp_world_new(&o);
    for (int k = 0; k < CLASSES; k++) x->wf[k] = mp_workflow_parse(trial_shapes[k], strlen(trial_shapes[k]), NULL);
    for (int i = 0; i < PICTURES; i++) {
        char text[40];
        snprintf(text, sizeof text, "picture number %d", i);
        x->picture[i] = mp_file_new(text, strlen(text), NULL, "in.png", "", "input", NULL, 0, NULL);
    }
    mp_world_watch(x->w, trial_event, trial_step, x);
    mp_world_on_post(x->w, trial_posted);
    mp_pool_want(mp_world_pool(x->w), 1u << MP_EV_JOB_RETRYING | 1u << MP_EV_JOB_OUTPUT | 1u << MP_EV_JOB_TAKEN_BACK | 1u << MP_EV_CLIENT_BLOCKED | 1u << MP_EV_CLIENT_UNBLOCKED);
    build(x);
    x->helped = o.pool.affinity_fallback != 0;
    plan(x);
    trial_over(x, mp_world_run(x->w, mp_world_now(x->w) + MP_MS(14400000)));
    mp_world_digest(x->w, t->digest);
    for (int k = 0; k < CLASSES; k++) mp_workflow_unref(x->wf[k]);
    for (int i = 0; i < PICTURES; i++) mp_file_unref(x->picture[i]);
    mp_world_free(x->w);
    trial_forget(x);
    free(x);
    return t->broken[0] ? 1 : 0;
}

void mp_trial_shrink(mp_trial *t, int (*breaks)(mp_trial *)) {
    mp_trial least = *t;
    least.log = NULL;
    for (size_t i = 0; i < least.planned && i < 64; i++) {
        mp_trial try = least;
        try.skip |= 1ull << i;
        if (breaks(&try)) least = try;
    }
    size_t step = least.limit ? least.limit : least.jobs;
    for (size_t jobs = step; (step /= 2) > 0;) {
        mp_trial try = least;
        try.limit = jobs - step;
        if (try.limit && breaks(&try)) { least = try; jobs -= step; }
    }
    least.log = t->log;
    *t = least;
}
