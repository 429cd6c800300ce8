/* world/bounds.c -- floor 6, world: what must not take longer than the pool's options say. Not one sum for a whole job: each state that
 * a job can be in has its own bound, so that a bound that is ignored shows where it is ignored.
 * All is seen from outside: what servers do, what came over the wire, what the pool tells everybody. */
#include "world/trial.h"
#include <stdlib.h>

#define ID(k) (unsigned long long)(k)->id

static mp_time later_of(mp_time a, mp_time b) { return a > b ? a : b; }

/* ---- what is seen ---------------------------------------------------------------------------------------------------- */

static int there(const trial *x, const mp_client *c) { return mp_pool_client(mp_world_pool(x->w), mp_client_serial(c)) != NULL; }
static int is_online(const mp_client *c) { return c && mp_client_get_state(c) == MP_CLIENT_ONLINE; }

/* A minute, twice as long each time, a quarter of an hour at most. */
static mp_time rest_of(const place *p) {
    mp_time t = MP_MS(60000);
    for (int n = 1; n < p->rests && t < MP_MS(900000); n++) t *= 2;
    return t < MP_MS(900000) ? t : MP_MS(900000);
}

/* Somebody who rests is there, until it has hung for longer than its rest and than any node may be silent. */
static int is_present(const trial *x, const place *p, const mp_client *c) {
    mp_time hopeless = p->rest + later_of(rest_of(p), mp_pool_options(mp_world_pool(x->w))->node_silence) + MP_MS(60000);
    return there(x, c) && !mp_client_draining(c) && ((is_online(c) && (!p->rest || mp_world_now(x->w) < hopeless)) || !mp_client_tried(c));
}

static void seen(moment *m, int is, mp_time now) {
    if (is || m->is) m->last = now;
    m->is = is;
}

static void see_rest(const trial *x, place *p, const mp_client *c) {
    if (p->who != mp_client_serial(c)) {
        p->who = mp_client_serial(c);
        p->rests = 0;
        p->rest = 0;
    }
    if (!is_online(c)) return;
    if (!mp_client_problem(c)) p->rest = 0;
    else if (!p->rest) {
        p->rest = mp_world_now(x->w);
        p->rests++;
    }
}

/* What runs there, and whether it is a prompt of this client's: one that was removed may have left some. */
static void see_work(trial *x, size_t i, place *p, mp_time now) {
    const char *mark;
    sent *s = NULL;
    seen(&p->ran, mp_sim_running(mp_world_sim(x->w, i), &mark), now);
    if (mark) HASH_FIND_STR(x->sent, mark, s);
    seen(&p->others, p->ran.is && (!s || s->who != p->who), now);
}

static void left(void *ud, const char *mark) {
    trial *x = ud;
    sent *s;
    HASH_FIND_STR(x->sent, mark, s);
    if (s && s->who == x->at[s->sim].who) broke(x, "sim%zu was let go of, and holds a prompt of job %llx", s->sim, (unsigned long long)s->job);
}

/* Who is taken out while it can be reached is let go of only when nothing of ours is left there. */
static void see_link(trial *x, size_t i, place *p, const mp_client *c, mp_time now) {
    if (is_online(c) == p->online) return;
    p->online = is_online(c);
    p->since = now;
    const char *why = c && !p->online && !there(x, c) ? mp_client_problem(c) : NULL;
    if (why && strcmp(why, "removed") == 0) mp_sim_marks(mp_world_sim(x->w, i), left, x);
}

void trial_places(trial *x) {
    mp_time now = mp_world_now(x->w);
    for (size_t i = 0; i < mp_world_sims(x->w); i++) {
        const mp_client *c = mp_world_client(x->w, i);
        place *p = &x->at[i];
        see_link(x, i, p, c, now);
        if (c) see_rest(x, p, c);
        see_work(x, i, p, now);
        seen(&p->posting, mp_world_posting(x->w, i), now);
        seen(&p->late, mp_world_asked(x->w, i) < now - x->slack, now);
        seen(&p->loaded, c && mp_client_load(c), now);
        seen(&p->polled, c && mp_client_polling(c), now);
        seen(&p->present, c && is_present(x, p, c), now);
    }
}

/* ---- jobs that wait --------------------------------------------------------------------------------------------------- */

static int may_run(const trial *x, const tracked *k, size_t i) {
    const mp_client *c = mp_world_client(x->w, i);
    const mp_pool *p = mp_world_pool(x->w);
    if (!c || !there(x, c) || k->excluded == (int)i) return 0;
    return x->helped || mp_client_may_run(p, c, mp_workflow_hash(x->wf[k->kind])) || (k->variant >= 0 && mp_client_may_run(p, c, mp_workflow_hash(x->wf[k->variant])));
}

/* Nobody is there who may run it: no_client_ms. */
static void check_nobody(trial *x, tracked *k, mp_time now) {
    const mp_pool_opts *o = mp_pool_options(mp_world_pool(x->w));
    int attended = 0;
    if (!mp_job_in_line(k->j)) { k->lined = 0; return; }
    if (!k->lined) k->lined = now;
    for (size_t i = 0; i < mp_world_sims(x->w) && !attended; i++) attended = x->at[i].present.last > k->attended.last && may_run(x, k, i) ? 1 + x->at[i].present.is : 0;
    if (attended) k->attended.last = now;
    seen(&k->attended, attended == 2, now);
    mp_time from = later_of(later_of(k->lined, k->attended.last), later_of(x->changed, x->frozen)), bound = k->nobody;
    if (x->helped) bound += k->nobody + 2 * o->affinity_fallback;     /* others may help, and then there is nobody of them either */
    if (now - from > bound + x->slack) broke(x, "job %llx waits for %lld ms though nobody is there who may run it", ID(k), (long long)(now - from) / 1000);
}

/* ---- jobs that are somewhere --------------------------------------------------------------------------------------------- */

static void count_there(trial *x, tracked *k, mp_job_state s, mp_time now) {
    place *p = &x->at[k->sim];
    mp_time from = later_of(p->since, x->frozen), bound = k->away;
    k->lined = 0;
    p->jobs++;
    p->running += s == MP_JOB_RUNNING;
    p->silence = later_of(p->silence, k->silence);
    p->patience = later_of(p->patience, k->patience);
    if (!mp_world_client(x->w, k->sim)) broke(x, "job %llx is on sim%zu, which is gone", ID(k), k->sim);
    if (!p->online && now - later_of(from, p->posting.last) > bound + x->slack) broke(x, "job %llx is on sim%zu, which is out of reach for %lld ms", ID(k), k->sim, (long long)(now - from) / 1000);
}

/* Nothing is heard of what is there: node_silence_ms. Nothing begins there though nothing runs: execution_start_ms. */
static void check_silence(trial *x, size_t i, mp_time now) {
    place *p = &x->at[i];
    const mp_client *c = mp_world_client(x->w, i);
    if (!p->jobs || !p->online) return;
    mp_time from = later_of(later_of(p->since, p->posting.last), later_of(mp_world_heard(x->w, i), x->frozen));
    const mp_pool_opts *o = mp_pool_options(mp_world_pool(x->w));
    mp_time seen_to_run = p->polled.last || p->others.last ? 4 * later_of(o->cold_silence, o->node_silence) + 4 * o->poll : 0;      /* by asking, now and then: counts for so long */
    if (now - later_of(from + p->silence + seen_to_run, p->late.last) > 4 * x->slack) broke(x, "sim%zu has not said a word about its %d jobs for %lld ms", i, p->jobs, (long long)(now - from) / 1000);
    from = later_of(from, later_of(p->ran.last, p->late.last));
    if (!p->running && mp_client_load(c) == p->jobs && now - from > p->patience + MP_MS(3000) + 4 * x->slack)
        broke(x, "sim%zu runs nothing for %lld ms, and its %d jobs stay there", i, (long long)(now - from) / 1000, p->jobs);
}

/* ---- clients that rest ------------------------------------------------------------------------------------------------------ */

/* As long as prompts that hang are there a minute more each time. */
static void check_rest(trial *x, size_t i, mp_time now) {
    place *p = &x->at[i];
    if (!p->online || !p->rest || !mp_world_client(x->w, i)) return;
    mp_time due = p->rest + rest_of(p), hung = later_of(p->loaded.last, p->ran.last);
    if (hung > due) due = hung + MP_MS(60000);
    if (now > later_of(due, later_of(p->since, x->frozen)) + x->slack) broke(x, "sim%zu rests for %lld s, longer than it should", i, (long long)(now - p->rest) / 1000000);
}

/* ---- prompts that nobody wants any more --------------------------------------------------------------------------------------- */

/* A few requests, and for an interrupt that was not obeyed up to 32 s between two. */
#define SOON MP_MS(5000)
#define AGAIN MP_MS(40000)

/* One of a job that has ended or is elsewhere: where it waits it is deleted, where it runs it is interrupted. */
static void check_tomb(void *ud, const char *mark) {
    trial *x = ud;
    sent *s;
    HASH_FIND_STR(x->sent, mark, s);
    tracked *k = s ? tracked_by(x, s->job) : NULL;
    if (!k) return;
    const place *p = &x->at[s->sim];
    const char *running;
    mp_time now = mp_world_now(x->w);
    mp_job_state state = mp_job_status(k->j);
    if ((state == MP_JOB_ASSIGNED || state == MP_JOB_RUNNING) && strcmp(k->own, mark) == 0) { s->dead = 0; return; }
    if (!s->dead) s->dead = now;
    if (s->who != p->who || !p->online) return;      /* nobody is there to see to it */
    mp_time from = later_of(later_of(s->dead, p->since), later_of(later_of(p->posting.last, p->late.last), x->frozen));
    mp_sim_running(mp_world_sim(x->w, s->sim), &running);
    int runs = running && strcmp(running, mark) == 0;
    if (!runs && now - from > SOON) broke(x, "sim%zu keeps a prompt of job %llx that waits, and nobody deletes it", s->sim, ID(k));
    if (runs && p->stop < s->dead && now - from > SOON) broke(x, "sim%zu runs a prompt of job %llx that nobody wants, and is not interrupted", s->sim, ID(k));
    if (runs && now - later_of(from, p->stop) > AGAIN) broke(x, "sim%zu runs a prompt of job %llx that nobody wants, and is not interrupted again", s->sim, ID(k));
}

void trial_bounds(trial *x) {
    mp_time now = x->looked = mp_world_now(x->w);
    while (x->first < x->n && x->jobs[x->first].ends) x->first++;
    for (size_t i = 0; i < mp_world_sims(x->w); i++) x->at[i].jobs = x->at[i].running = 0, x->at[i].silence = x->at[i].patience = 0;
    for (size_t i = x->first; i < x->n; i++) {
        tracked *k = &x->jobs[i];
        if (k->ends) continue;
        mp_job_state s = mp_job_status(k->j);
        if (k->bound != MP_NEVER && now - later_of(k->queued + k->bound, x->frozen) > x->slack) broke(x, "job %llx has a bound of %lld ms, which is over", ID(k), (long long)k->bound / 1000);
        if (s == MP_JOB_ASSIGNED || s == MP_JOB_RUNNING) count_there(x, k, s, now);
        else check_nobody(x, k, now);
    }
    for (size_t i = 0; i < mp_world_sims(x->w); i++) {
        check_silence(x, i, now);
        if (mp_world_client(x->w, i)) mp_sim_marks(mp_world_sim(x->w, i), check_tomb, x);
        check_rest(x, i, now);
    }
}
