/* pool/retry.c -- floor 5, pool: an attempt failed: elsewhere, later, or ended.
 *   connection, lost       not the job's fault: again at once, no attempt used up, at most MAX_LOSSES times
 *   client_incompatible    again at once elsewhere; never again on this client for this workflow, if a class or a
 *                          model is missing there, else for this job only
 *   workflow_invalid       ended
 *   interrupted            ended, canceled: somebody at the server wanted it so
 *   the rest               up to max_attempts, with a delay that doubles (30 % jitter), away from this client; the
 *                          workflow rests there for a while (block.c), and after memory ran out it is asked to /free
 * The policy's on_failure may overrule, but never beyond MAX_LOSSES tries in all. */
#include "pool/inside.h"
#include <stdlib.h>

#define BAD_IN_A_ROW 3
#define FREE_BOUND MP_MS(2000)                       /* a healthy server answers at once; work does not wait for others */

static void avoid(mp_pool *p, mp_job *j, const mp_client *c, const shape *s, int hard) {
    struct tail *t = job_tail(p, j);
    for (size_t i = 0; i < t->n_avoid; i++)
        if (t->avoid[i].serial == c->serial && t->avoid[i].s == s && t->avoid[i].hard == hard) return;
    t->avoid = mp_realloc(t->avoid, (t->n_avoid + 1u) * sizeof *t->avoid);
    t->avoid[t->n_avoid++] = (shunned){ s, c->serial, hard };
}

mp_time jitter(mp_pool *p, mp_time t) { return t + (mp_time)((mp_rng_unit(&p->rng) * 0.6 - 0.3) * (double)t); }

static mp_time delay_of(mp_pool *p, const mp_job *j) {
    mp_time d = j->wishes && j->wishes->retry_delay >= 0 ? j->wishes->retry_delay : p->o.retry_delay;
    for (int i = 1; i < j->attempts && d < MP_MS(3600000); i++) d *= 2;
    return jitter(p, d);
}

/* Before the next try there the server is asked to give its memory back (protocol 5.6). */
static void free_memory(mp_pool *p, mp_client *c) {
    mp_buf path = { 0 }, body = { 0 };
    if (c->freeing || c->state != MP_CLIENT_ONLINE || MP_MUTANT == 17) return;
    mp_buf_puts(&path, "/free");
    mp_buf_puts(&body, "{\"unload_models\":true,\"free_memory\":true}");
    c->freeing = act(p, c, DO_FREE, NULL, "POST", &path, &body, p->o.request_timeout < FREE_BOUND ? p->o.request_timeout : FREE_BOUND);
    client_touch(c);
}

/* The job's own fault, or one that it shares with all others there? A client that fails whatever it gets does not
 * use up the attempts of jobs that others may run. */
static int clients_fault(mp_pool *p, mp_job *j, mp_client *c, const mp_failure *f) {
    if (f->kind != MP_FAIL_NODE && f->kind != MP_FAIL_MEMORY && f->kind != MP_FAIL_SERVER) return 0;
    if (++c->bad <= BAD_IN_A_ROW) return 0;
    for (const mp_client *o = p->clients; o; o = o->next)
        if (o != c && client_open(o) && job_may_run(o, j) && !job_wants_not(j, o) && o->bad <= BAD_IN_A_ROW) return 1;
    return 0;
}

/* What to do by class alone: 1 again, 0 end. *delay is set when again. */
static int again(mp_pool *p, mp_job *j, const mp_failure *f, mp_time *delay) {
    *delay = 0;
    switch (f->kind) {
    case MP_FAIL_CONNECTION: case MP_FAIL_LOST: case MP_FAIL_INCOMPATIBLE:
        j->attempts--;
        return ++j->losses <= MAX_LOSSES + (f->kind == MP_FAIL_INCOMPATIBLE ? p->n_clients + mp_workflow_count(j->w) : 0);      /* each client may refuse it once, or each of its names */
    case MP_FAIL_INVALID: case MP_FAIL_INTERRUPTED: case MP_FAIL_CANCELED: case MP_FAIL_POLICY: return 0;
    default:
        *delay = MP_MUTANT == 30 ? 0 : delay_of(p, j);
        return j->attempts < j->max_attempts;
    }
}

/* Something that the workflow and this client did together: not there again, if it can be helped. */
static int own_fault(const mp_failure *f) { return f->kind == MP_FAIL_NODE || f->kind == MP_FAIL_MEMORY || f->kind == MP_FAIL_SERVER || f->kind == MP_FAIL_TIMEOUT; }

/* A client that it has not been to and may go to, now or when it is there again: who waits for that in vain ends by no_client. */
static int anybody_else(const mp_pool *p, const mp_job *j) {
    for (const mp_client *c = p->clients; c; c = c->next)
        if (!c->removed && !c->draining && job_may_run(c, j) && !job_avoids(j, c)) return 1;
    return 0;
}

void attempt_failed(mp_pool *p, mp_job *j, mp_client *c, mp_failure *f, mp_time now) {
    mp_time delay;
    int opinion = MP_AGAIN_ANY, retry = again(p, j, f, &delay), fails_all = clients_fault(p, j, c, f);
    shape *s = shape_ref(j->prompt ? j->prompt->s : j->s);
    if (fails_all) {
        j->attempts--;
        retry = ++j->losses <= MAX_LOSSES;
    }
    if (p->policy && p->policy->on_failure && f->kind != MP_FAIL_CANCELED) {
        p->locked++;
        opinion = p->policy->on_failure(p->policy->ud, p, j, c, f, j->attempts);
        p->locked--;
    }
    if (opinion == MP_AGAIN_NO) retry = 0;
    if (opinion == MP_AGAIN_YES && !retry) retry = ++j->losses <= MAX_LOSSES;
    if (j->profile) mp_profile_end_attempt(j->profile, mp_failure_name(f->kind), f->message, now);
    int spelled = f->kind == MP_FAIL_INCOMPATIBLE && !f->by_shape && block_may_spell(c, f);
    if (f->kind == MP_FAIL_INCOMPATIBLE && !f->by_shape && !spelled) {           /* a value of this job's own: its hash must not suffer for it */
        avoid(p, j, c, j->wishes && j->wishes->n_variants ? s : NULL, 1);
        retry = retry && anybody_else(p, j);
    } else if (own_fault(f) || (f->kind == MP_FAIL_LOST && j->losses > 1)) avoid(p, j, c, NULL, 0);    /* a server that forgets twice will again */
    if (f->kind == MP_FAIL_MEMORY) free_memory(p, c);
    if (f->kind == MP_FAIL_NODE || f->kind == MP_FAIL_MEMORY || f->kind == MP_FAIL_SERVER) block_failed(c, s, f, now);
    if (!retry) {
        job_end(p, j, f->kind == MP_FAIL_INTERRUPTED ? MP_JOB_CANCELED : MP_JOB_FAILED, f, now);
    } else {
        job_failed_by(p, j, f);
        if (wanted(p, MP_EV_JOB_RETRYING)) {
            mp_event *e = event(p, MP_EV_JOB_RETRYING, j, c, now);
            e->delay = delay;
            e->will_retry = 1;
            event_data(e, f->message, strlen(f->message));
        }
        job_requeue(p, j, delay, now);
    }
    if (f->kind == MP_FAIL_INCOMPATIBLE && (f->by_shape || spelled)) block_hard(c, s, f, now);
    shape_unref(p, s);
}
