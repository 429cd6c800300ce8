/* world/invariant.c -- floor 6, world: what must hold at every step of a trial, and at its end. */
#include "world/trial.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void broke(trial *x, const char *fmt, ...) {
    if (x->t->broken[0]) return;
    va_list ap;
    va_start(ap, fmt);
    int n = snprintf(x->t->broken, sizeof x->t->broken, "at %lld ms: ", x->w ? (long long)(mp_world_now(x->w) / 1000) : 0);
    vsnprintf(x->t->broken + n, sizeof x->t->broken - (size_t)n, fmt, ap);
    va_end(ap);
}

tracked *tracked_by(trial *x, uint64_t id) {
    for (size_t i = 0; i < x->n; i++)
        if (x->jobs[i].id == id) return &x->jobs[i];
    return NULL;
}

static size_t sim_of(const mp_client *c) { return (size_t)atoi(mp_client_url(c) + strlen("http://sim")); }
#define ID(k) (unsigned long long)(k)->id

/* ---- the end of a job -------------------------------------------------------------------------------------- */

static void check_sums(trial *x, const tracked *k, const mp_profile *p) {
    mp_buf b = { 0 };
    mp_profile_json(&b, p, 0);
    mp_json *d = mp_json_parse(b.p, b.n, NULL);
    double sum = 0;
#define N(name) mp_json_number(mp_json_get(d, name), 0)
    for (const mp_json *n = mp_json_first(mp_json_get(d, "nodes")); n; n = mp_json_next(n)) sum += mp_json_number(mp_json_get(n, "duration"), 0);
    double off = N("totalDuration") - N("queueTime") - N("executionTime"), parts = N("queueTime") - N("poolQueueTime") - N("uploadTime") - N("serverQueueTime") - N("retryTime");
    double nodes = sum - N("executionTime") + N("gapTime") - N("overlapTime");
    if (off * off > 1e-6 || parts * parts > 1e-6 || nodes * nodes > 1e-6 || N("gapTime") < 0 || N("poolQueueTime") < 0 || N("serverQueueTime") < 0 || N("retryTime") < 0 || N("executionTime") < 0)
        broke(x, "the profile of job %llx does not add up (%g %g %g)", ID(k), off, parts, nodes);
    mp_json_free(d);
    mp_buf_free(&b);
}

/* The picture that the server worked on is the one that was attached. */
static void check_picture(trial *x, const tracked *k, const mp_job *j) {
    mp_str json, bytes;
    char name[80] = "";
    size_t sim = (size_t)atoi(mp_job_client_url(j) + strlen("http://sim"));
    if (!mp_workflow_get(mp_job_sent(j), 0, mp_str_of("image"), &json)) return;
    snprintf(name, sizeof name, "%.*s", (int)json.n - 2, json.p + 1);
    bytes = mp_sim_file(mp_world_sim(x->w, sim), name);
    if (!mp_str_eq(bytes, mp_str_make(x->picture[k->picture]->bytes, x->picture[k->picture]->n))) broke(x, "job %llx worked on \"%s\", which is another picture", ID(k), name);
}

static void end_of(trial *x, tracked *k, mp_event_kind how) {
    mp_job *j = mp_pool_job(mp_world_pool(x->w), k->id);
    if (++k->ends > 1) broke(x, "job %llx ended %d times", ID(k), k->ends);
    x->unfinished--;
    if (how == MP_EV_JOB_COMPLETED) x->t->completed++;
    else if (how == MP_EV_JOB_FAILED) x->t->failed++;
    else x->t->canceled++;
    if (!j) { broke(x, "job %llx is gone at its end", ID(k)); return; }
    if (how == MP_EV_JOB_COMPLETED && !mp_job_outputs(j)) broke(x, "job %llx completed without outputs", ID(k));
    if (how != MP_EV_JOB_COMPLETED && !mp_job_failure(j)) broke(x, "job %llx ended without a reason", ID(k));
    if (k->doomed && !k->halved && how == MP_EV_JOB_COMPLETED) broke(x, "job %llx completed with a value that no server takes", ID(k));
    if (k->doomed && how == MP_EV_JOB_FAILED) x->doomed++;
    if (how == MP_EV_JOB_COMPLETED && mp_job_outputs(j) < (k->kind == 2 && k->variant < 0 && !k->halved ? 2u : 1u)) broke(x, "job %llx completed without all its outputs", ID(k));
    if (how == MP_EV_JOB_COMPLETED && k->kind == 4) check_picture(x, k, j);
    if (how == MP_EV_JOB_CANCELED && !k->stopped) broke(x, "job %llx was canceled by nobody", ID(k));
    if (!x->policy.on_failure && mp_job_attempts(j) > k->attempts) broke(x, "job %llx has had %d attempts", ID(k), mp_job_attempts(j));
    if (!mp_job_profile(j) != !k->profiled) broke(x, "job %llx has %s profile", ID(k), k->profiled ? "no" : "a");
    if (!mp_job_include(j) != !k->included) broke(x, "job %llx does not show the outputs that were asked for", ID(k));
    if (*k->name && (!mp_job_name(j) || strcmp(mp_job_name(j), k->name) != 0)) broke(x, "job %llx has lost its name", ID(k));
    if (mp_job_profile(j)) check_sums(x, k, mp_job_profile(j));
}

/* ---- sending ------------------------------------------------------------------------------------------------- */

static int claimed_by_others(const trial *x, size_t sim, int kind) {
    for (size_t i = 0; i < mp_world_sims(x->w); i++) {
        const mp_client *c = i != sim && x->affinity[i][kind] ? mp_world_client(x->w, i) : NULL;
        if (c && mp_pool_client(mp_world_pool(x->w), mp_client_serial(c)) && !mp_client_draining(c)) return 1;     /* there, and not being taken out */
    }
    return 0;
}

/* The groups that the pool forms while nothing is blocked: claimed hashes, and the rest. */
static size_t group_of(const trial *x, int kind) {
    for (size_t i = 0; i < mp_world_sims(x->w); i++)
        if (x->affinity[i][kind]) return (size_t)kind;
    return CLASSES;
}

static void count_passed(trial *x, const tracked *k, const mp_client *c) {
    int waits[CLASSES + 1] = { 0 };
    if (x->faulty || x->helped || x->wild_routes || !x->flat) return;
    for (size_t i = 0; i < x->n; i++)
        if (!x->jobs[i].ends && !x->jobs[i].odd && mp_job_in_line(x->jobs[i].j) && mp_client_takes(c, x->jobs[i].j)) waits[group_of(x, x->jobs[i].kind)] = 1;
    for (size_t g = 0; g <= CLASSES; g++) {
        x->passed[g] = waits[g] && g != group_of(x, k->kind) ? x->passed[g] + 1 : 0;
        if (x->passed[g] > 64 + mp_world_sims(x->w)) broke(x, "a group was passed over %zu times", x->passed[g]);
    }
}

static void no_rest(void *ud, const char *hash, const char *reason, mp_time until) {
    const char **at = ud;
    (void)reason;
    if (until != MP_NEVER && strcmp(hash, at[0]) == 0) at[1] = hash;
}

static int rests(const mp_client *c, const char *hash) {
    const char *at[2] = { hash, NULL };
    mp_client_blocks(c, no_rest, at);
    return at[1] != NULL;
}

static int works(const trial *x, const mp_client *c, const tracked *k, size_t i) {
    const char *hash = mp_workflow_hash(x->wf[k->kind]);
    return c && mp_client_get_state(c) == MP_CLIENT_ONLINE && !mp_client_problem(c) && !mp_client_stuck(c) && !mp_client_paused(c) && !mp_client_draining(c) && k->excluded != (int)i &&
           mp_pool_client(mp_world_pool(x->w), mp_client_serial(c)) && mp_client_may_run(mp_world_pool(x->w), c, hash) && !rests(c, hash);
}

/* A free slot, the first or a further one: prompts go out one after the other. */
static int has_slot(const trial *x, size_t i, const mp_client *c) {
    return mp_client_load(c) < mp_client_slots(c) && !mp_world_posting(x->w, i) && !x->paused && mp_client_get_state(c) == MP_CLIENT_ONLINE && !mp_client_problem(c) &&
           !mp_client_paused(c) && !mp_client_draining(c);
}

/* It gets a second prompt, and another client that takes this job has none. */
static void check_stage(trial *x, const tracked *k, const mp_client *c) {
    for (size_t i = 0; i < mp_world_sims(x->w) && mp_client_load(c) && !x->wild_routes; i++) {
        const mp_client *o = mp_world_client(x->w, i);
        int freed = !x->oom_at[i] || mp_world_now(x->w) - x->oom_at[i] > MP_MS(2000);
        if (o && o != c && mp_client_load(o) == 0 && freed && has_slot(x, i, o) && mp_client_takes(o, k->j)) broke(x, "job %llx goes to sim%zu, which has another, though sim%zu has none", ID(k), k->sim, i);
    }
}

/* Among idle clients: who ran this workflow last, then priority, then who was there first. */
static int fits_better(const trial *x, const mp_client *a, const mp_client *b, const tracked *k) {
    int warm = mp_client_warmth(a, k->j) == 2, warm_b = mp_client_warmth(b, k->j) == 2;
    double p = (int)sim_of(a) == k->raised ? 5 : x->client[sim_of(a)].priority, q = (int)sim_of(b) == k->raised ? 5 : x->client[sim_of(b)].priority;
    return warm != warm_b ? warm > warm_b : p != q ? p > q : mp_client_serial(a) < mp_client_serial(b);
}

static void check_choice(trial *x, const tracked *k, const mp_client *c) {
    if (mp_client_load(c) || x->wild_routes || k->preferred >= 0 || k->variant >= 0) return;
    for (size_t i = 0; i < mp_world_sims(x->w); i++) {
        const mp_client *o = mp_world_client(x->w, i);
        int freed = !x->oom_at[i] || mp_world_now(x->w) - x->oom_at[i] > MP_MS(2000);
        if (o && o != c && mp_client_load(o) == 0 && freed && has_slot(x, i, o) && mp_client_takes(o, k->j) && fits_better(x, o, c, k)) broke(x, "job %llx goes to sim%zu, though sim%zu is free and fits better", ID(k), k->sim, i);
    }
}

static void check_wishes(trial *x, const tracked *k, const mp_client *c) {
    mp_client *liked = k->preferred >= 0 ? mp_world_client(x->w, (size_t)k->preferred) : NULL;
    if (mp_world_now(x->w) < k->ready) broke(x, "job %llx is sent before its delay is over", ID(k));
    if (liked && liked != c && !k->disturbed && !x->faulty && !x->wild_routes && works(x, liked, k, (size_t)k->preferred) && mp_client_load(liked) == 0)
        broke(x, "job %llx prefers sim%d, which is idle", ID(k), k->preferred);
    if (k->variant >= 0 || x->helped || !rests(c, mp_workflow_hash(x->wf[k->kind]))) return;
    for (size_t i = 0; i < mp_world_sims(x->w) && !k->disturbed; i++)
        if (works(x, mp_world_client(x->w, i), k, i)) broke(x, "job %llx goes where its workflow rests, though sim%zu could run it", ID(k), i);
}

static void check_freed(trial *x, mp_client *c, size_t sim) {
    mp_sim_record r;
    mp_sim_get_record(mp_world_sim(x->w, sim), &r);
    if (x->must_free[sim] > r.frees && mp_world_now(x->w) - x->oom_at[sim] < MP_MS(2000)) broke(x, "sim%zu ran out of memory and gets a prompt without having been asked to free it", sim);
    (void)c;
}

static size_t capable(const trial *x, const tracked *k) {
    size_t n = 0;
    for (size_t i = 0; i < mp_world_sims(x->w); i++) {
        const mp_client *c = mp_world_client(x->w, i);
        n += c && k->excluded != (int)i && mp_client_get_state(c) == MP_CLIENT_ONLINE &&
             (mp_client_may_run(mp_world_pool(x->w), c, mp_workflow_hash(x->wf[k->kind])) || (k->variant >= 0 && mp_client_may_run(mp_world_pool(x->w), c, mp_workflow_hash(x->wf[k->variant]))));
    }
    return n;
}

/* Of equal rank, and nothing odd about either: the first of its class goes first; and where nothing goes wrong, the one with the
 * fewest clients, then the first; until somebody may have been passed over too often. */
static int goes_before(const trial *x, const tracked *o, const tracked *k) {
    if (!x->faulty && !x->helped && x->sends < 64) {
        size_t m = capable(x, o), n = capable(x, k);
        return m != n ? m < n : o < k;
    }
    return o->kind == k->kind && !k->disturbed && !k->odd && k->sends == 1 && !x->helped && !o->disturbed && !o->odd && !o->sends && o->queued < k->queued;
}

/* No job of higher rank waits that this client takes, whatever it is. */
static void check_turn(trial *x, const tracked *k, const mp_client *c) {
    for (size_t i = x->first; i < x->n; i++) {
        const tracked *o = &x->jobs[i];
        if (o->ends || o == k || o->priority < k->priority || o->unranked || k->unranked || !mp_job_in_line(o->j) || !mp_client_takes(c, o->j)) continue;
        if (o->priority > k->priority || goes_before(x, o, k)) broke(x, "job %llx goes to sim%zu before job %llx", ID(k), k->sim, ID(o));
    }
}

/* Was it its turn, and may it run there? */
void trial_sent(trial *x, mp_job *j, mp_client *c) {
    tracked *k = tracked_by(x, mp_job_id(j));
    size_t sim = sim_of(c);
    x->sending[sim] = mp_job_id(j);
    if (!k) return;                                  /* sent from within its own submit: nobody waits before it */
    if (k->excluded == (int)sim) broke(x, "job %llx goes to sim%zu, which it excludes", ID(k), sim);
    if (k->variant < 0 && !x->helped && !x->affinity[sim][k->kind] && claimed_by_others(x, sim, k->kind)) broke(x, "job %llx goes to sim%zu, which its hash is not for", ID(k), sim);
    if (mp_client_paused(c) || mp_client_draining(c) || x->paused) broke(x, "job %llx goes to sim%zu, which is paused", ID(k), sim);
    k->own[0] = 0;
    k->sim = sim;
    k->lined = 0;
    check_wishes(x, k, c);
    check_stage(x, k, c);
    if (mp_client_takes(c, j)) check_choice(x, k, c);
    check_freed(x, c, sim);
    count_passed(x, k, c);
    k->sends++;
    x->sends++;
    check_turn(x, k, c);
}

/* The pool posts to a server: a prompt, of the job that it said last, or something about one. */
void trial_posted(void *ud, size_t i, const char *path, const char *body) {
    trial *x = ud;
    const char *mark = strcmp(path, "/prompt") == 0 ? strstr(body, "\"moonpool\":\"") : NULL;
    if (strcmp(path, "/interrupt") == 0) x->at[i].stop = mp_world_now(x->w);
    if (strcmp(path, "/free") == 0) x->at[i].free = mp_world_now(x->w);
    tracked *k = mark ? tracked_by(x, x->sending[i]) : NULL;
    if (!k) return;
    snprintf(k->own, sizeof k->own, "%.36s", mark + strlen("\"moonpool\":\""));
    k->sim = i;
    if (k->extra && !strstr(body, "\"preview_method\":\"auto\"")) broke(x, "job %llx is sent without its extra data", ID(k));
    sent *s;
    HASH_FIND_STR(x->sent, k->own, s);
    if (s) { broke(x, "job %llx is sent twice as %s", ID(k), k->own); return; }
    s = mp_alloc(sizeof *s);
    memcpy(s->mark, k->own, sizeof s->mark);
    s->job = k->id;
    s->sim = i;
    s->who = mp_client_serial(mp_world_client(x->w, i));
    HASH_ADD_STR(x->sent, mark, s);
}

void trial_forget(trial *x) {
    sent *s, *next;
    HASH_ITER(hh, x->sent, s, next) {
        HASH_DEL(x->sent, s);
        free(s);
    }
}

void trial_begun(void *ud, const char *mark) {
    trial *x = ud;
    sent *s;
    HASH_FIND_STR(x->sent, mark, s);
    tracked *k = s ? tracked_by(x, s->job) : NULL;
    if (!k) return;
    if (s->taken) broke(x, "job %llx was taken back, and the prompt runs", ID(k));
    if (s->begun++) broke(x, "prompt %s of job %llx runs twice", mark, ID(k));
    s->life = x->at[s->sim].life;
    if (k->ends || strcmp(k->own, mark) != 0) return;
    k->starts++;
    if (k->starts > 1 + k->retries) broke(x, "job %llx runs %d times after %d retries", ID(k), k->starts, k->retries);
}

/* It only waited there, as far as the server goes that is there now. */
static void check_taken(trial *x, tracked *k, const char *mark) {
    sent *s;
    HASH_FIND_STR(x->sent, mark, s);
    if (!s) { broke(x, "job %llx was taken back as %s, which was never sent", ID(k), mark); return; }
    s->taken = 1;
    if (s->begun && s->life == x->at[s->sim].life) broke(x, "job %llx was taken back while it ran", ID(k));
}

/* ---- events ---------------------------------------------------------------------------------------------------- */

static void expect_free(trial *x, uint32_t serial) {
    mp_sim_record r;
    for (size_t i = 0; i < mp_world_sims(x->w); i++) {
        const mp_client *c = mp_world_client(x->w, i);
        if (!c || mp_client_serial(c) != serial || mp_client_get_state(c) != MP_CLIENT_ONLINE) continue;
        mp_time ago = mp_world_now(x->w) - x->at[i].free;
        if (ago > 0 && ago < MP_MS(2000)) continue;  /* it is being asked anyway */
        mp_sim_get_record(mp_world_sim(x->w, i), &r);
        x->must_free[i] = r.frees + 1;
        x->oom_at[i] = mp_world_now(x->w);
    }
}

/* Somebody who is reached and lost again at once is not tried again at once, whatever is lost. */
static void check_pauses(trial *x, size_t i, const mp_event *e) {
    mp_time *last = x->away[i], now = mp_world_now(x->w), least = mp_pool_options(mp_world_pool(x->w))->reconnect_base * 7 / 10;
    if (!e->data) return;
    if (!x->faulty) broke(x, "sim%zu is offline though nothing went wrong: %s", i, e->data);
    if (x->away_who[i] != e->client) last[0] = last[1] = 0;
    if (last[1] && now - last[1] < least && now > x->frozen) broke(x, "sim%zu is tried again and again without a pause", i);
    x->away_who[i] = e->client;
    last[1] = last[0];
    last[0] = now;
}

/* As often as its options say, after a pause that doubles, and not for a reason that is none. */
static void check_retry(trial *x, tracked *k, const mp_event *e) {
    const mp_failure *f = mp_job_failure(k->j);
    size_t losses = 10 + 2 * MAX_SIMS;               /* without fault of its own; each client may refuse it, too */
    if ((size_t)k->retries > (size_t)k->attempts + losses) broke(x, "job %llx is tried %d times", ID(k), k->retries);
    if (x->policy.on_failure) return;
    int of_it = f && f->message && e->data && strcmp(f->message, e->data) == 0;          /* else it has failed again within this step */
    if (of_it && (f->kind == MP_FAIL_NODE || f->kind == MP_FAIL_MEMORY || f->kind == MP_FAIL_TIMEOUT) && e->delay < k->pause * 7 / 10) broke(x, "job %llx is tried again after %lld ms, not %lld", ID(k), (long long)e->delay / 1000, (long long)k->pause / 1000);
    if (e->delay > 0) k->ready = e->t + e->delay;
    for (size_t i = 0; i < mp_world_sims(x->w); i++)
        if (x->at[i].who == e->client && x->at[i].draining && e->data && strstr(e->data, "was removed")) broke(x, "job %llx is driven from sim%zu, which drains", ID(k), i);
}

void trial_event(void *ud, const mp_event *e) {
    trial *x = ud;
    tracked *k = e->job ? tracked_by(x, e->job) : NULL;
    for (size_t i = 0; e->kind == MP_EV_CLIENT_STATE && i < mp_world_sims(x->w); i++) {
        if (!mp_world_client(x->w, i) || mp_client_serial(mp_world_client(x->w, i)) != e->client) continue;
        x->must_free[i] = 0;                         /* what was under way is lost with the link */
        check_pauses(x, i, e);
    }
    if (e->kind == MP_EV_CLIENT_BLOCKED || e->kind == MP_EV_CLIENT_UNBLOCKED) x->changed = mp_world_now(x->w);
    if (!k) return;
    if ((e->kind == MP_EV_JOB_RETRYING || e->kind == MP_EV_JOB_FAILED) && e->data && strstr(e->data, "OutOfMemory")) expect_free(x, e->client);
    switch (e->kind) {
    case MP_EV_JOB_RETRYING:
        x->t->retries++;
        k->retries++;
        k->disturbed = 1;
        check_retry(x, k, e);
        k->lined = 0;
        break;
    case MP_EV_JOB_TAKEN_BACK:
        x->t->taken_back++;
        k->disturbed = 1;
        if (++k->given_back > mp_pool_options(mp_world_pool(x->w))->take_backs) broke(x, "job %llx is taken back %d times", ID(k), k->given_back);
        check_taken(x, k, e->node);
        k->lined = 0;
        break;
    case MP_EV_JOB_COMPLETED: case MP_EV_JOB_FAILED: case MP_EV_JOB_CANCELED: end_of(x, k, e->kind); break;
    default: break;
    }
}

/* ---- every step ---------------------------------------------------------------------------------------------------- */

static void stray(void *ud, const char *mark) {
    trial *x = ud;
    if (!mp_client_holds(x->looking, mark)) x->strays++;
}

static int somebody_waits(const trial *x, const mp_client *c) {
    for (size_t i = 0; i < x->n; i++) {
        const tracked *k = &x->jobs[i];
        if (!k->ends && mp_job_in_line(k->j) && mp_client_takes(c, k->j)) return 1;
    }
    return 0;
}

static void check_idle(trial *x, size_t i, const mp_client *c, const mp_pool_stats *s) {
    mp_time now = mp_world_now(x->w);
    int could = s->pending > s->delayed + s->parked && has_slot(x, i, c) && somebody_waits(x, c);
    if (!could || now <= x->frozen || (x->oom_at[i] && now - x->oom_at[i] <= MP_MS(2000))) x->idle_since[i] = 0;
    else if (!x->idle_since[i]) x->idle_since[i] = now;
    else if (now - x->idle_since[i] > x->slack) broke(x, "sim%zu has %d of %d slots free while work waits that it may run", i, mp_client_slots(c) - mp_client_load(c), mp_client_slots(c));
}

void trial_step(void *ud) {
    trial *x = ud;
    mp_pool *p = mp_world_pool(x->w);
    mp_time now = mp_world_now(x->w);
    mp_pool_stats s;
    mp_pool_get_stats(p, &s);
    trial_places(x);
    if (now - x->looked >= MP_MS(50)) trial_bounds(x);
    if (s.pending + s.assigned + s.running > mp_pool_options(p)->max_queued) broke(x, "%zu unfinished jobs, more than max_queued", s.pending + s.assigned + s.running);
    for (size_t i = 0; i < mp_world_sims(x->w); i++) {
        mp_client *c = x->looking = mp_world_client(x->w, i);
        if (!c) { x->idle_since[i] = x->stray_since[i] = 0; continue; }
        x->strays = 0;
        if (!x->roams[i]) mp_sim_marks(mp_world_sim(x->w, i), stray, x);
        if (!x->strays || now <= x->frozen) x->stray_since[i] = 0;
        else if (!x->stray_since[i]) x->stray_since[i] = now;
        else if (now - x->stray_since[i] > MP_MS(500)) broke(x, "sim%zu holds a prompt of ours that the pool has forgotten", i);
        int load = mp_client_load(c);
        if (load < 0 || load > mp_client_slots(c)) broke(x, "sim%zu holds %d prompts with %d slots", i, load, mp_client_slots(c));
        check_idle(x, i, c, &s);
    }
}

/* ---- the end of the trial -------------------------------------------------------------------------------------------- */

void trial_over(trial *x, int quiet) {
    size_t ran = 0;
    if (!quiet) broke(x, "not quiet after the last bound: %zu jobs unfinished", x->unfinished);
    for (size_t i = 0; i < x->n; i++)
        if (x->jobs[i].ends != 1) broke(x, "job %llx ended %d times", ID(&x->jobs[i]), x->jobs[i].ends);
    for (size_t i = 0; i < mp_world_sims(x->w); i++) {
        mp_sim_record rec;
        const mp_client *c = mp_world_client(x->w, i);
        mp_sim_get_record(mp_world_sim(x->w, i), &rec);
        ran += rec.prompts;
        if (!x->faulty && rec.uploads > PICTURES) broke(x, "sim%zu was sent %zu files, though there are only %d", i, rec.uploads, PICTURES);
        if (mp_sim_waiting(mp_world_sim(x->w, i)) && !x->roams[i]) broke(x, "sim%zu still holds prompts of ours", i);
        if (quiet && c && mp_client_load(c)) broke(x, "a slot of sim%zu was never given back", i);
    }
    if (!x->faulty && x->t->failed != x->doomed) broke(x, "%zu jobs failed though nothing went wrong", x->t->failed - x->doomed);
    if (!x->faulty && ran > x->n) broke(x, "%zu prompts ran for %zu jobs though nothing went wrong", ran, x->n);
}
