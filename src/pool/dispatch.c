/* pool/dispatch.c -- floor 5, pool: a slot is free: which job goes where, and how it is sent.
 * Stage one gives idle clients their first prompt, stage two gives busy ones their next, so that it is there when
 * the one before it ends. Within a stage jobs go by rank, then arrival; clients in built-in order, unless the
 * policy has an opinion. One POST per client is under way at a time: the order on the server is ours. */
#include "pool/inside.h"
#include <stdlib.h>

static int free_in(const mp_client *c, int stage) {
    if (!client_open(c) || c->posting) return 0;
#if MP_MUTANT == 4
    return stage == 1 ? c->load == 0 : c->load > 0;
#endif
    return stage == 1 ? c->load == 0 : c->load > 0 && c->load < c->slots;
}

static int avoids(const mp_job *j, const mp_client *c) {
    for (size_t i = 0; j->tail && i < j->tail->n_avoid; i++)
        if (j->tail->avoid[i] == c->serial) return 1;
    return 0;
}

/* Somebody who did not fail this job yet is online, free or not: then the others stay avoided. */
int has_fresh(const mp_pool *p, const mp_job *j, const char *hash) {
    for (const mp_client *c = p->clients; c; c = c->next)
        if (client_open(c) && !avoids(j, c) && mp_client_may_run(p, c, hash)) return 1;
    return 0;
}

static int better(const mp_client *a, const mp_client *b, int stage, mp_time now) {
    if (stage == 2) {
        mp_time x = mp_client_expected(a, now), y = mp_client_expected(b, now);
        if (x != y) return x < y;
    }
    return a->priority != b->priority ? a->priority > b->priority : a->serial < b->serial;
}

static size_t candidates(mp_pool *p, const mp_job *j, int stage, mp_client **out, mp_time now) {
    const char *hash = mp_workflow_hash(j->w);
    int fresh = j->tail && j->tail->n_avoid ? has_fresh(p, j, hash) : 0;
    size_t n = 0;
    for (mp_client *c = p->clients; c; c = c->next) {
        if (!free_in(c, stage) || !mp_client_may_run(p, c, hash) || (fresh && avoids(j, c))) continue;
        size_t at = n < MP_ROUTE_CANDIDATES ? n++ : MP_ROUTE_CANDIDATES;
        while (at > 0 && better(c, out[at - 1], stage, now)) {
            if (at < MP_ROUTE_CANDIDATES) out[at] = out[at - 1];
            at--;
        }
        if (at < MP_ROUTE_CANDIDATES) out[at] = c;
    }
    return n;
}

/* ---- sending ------------------------------------------------------------------------------------------- */

typedef struct { seed found[64]; size_t n; } open_seeds;

static void note_seed(void *ud, size_t node, mp_str input) {
    open_seeds *s = ud;
    if (s->n < 64) s->found[s->n++] = (seed){ (uint32_t)node, mp_strndup(input.p, input.n), 0 };
}

/* Every -1 gets a number, drawn once per job and kept for its retries. 0..2^50, as the web frontend draws them. */
static mp_workflow *fill_seeds(mp_pool *p, mp_job *j, mp_workflow *w) {
    open_seeds s = { .n = 0 };
    mp_workflow_open_seeds(w, note_seed, &s);
    if (!s.n) return w;
    struct tail *t = job_tail(j);
    w = mp_workflow_own(w);
    for (size_t i = 0; i < s.n; i++) {
        seed *known_seed = NULL;
        for (size_t k = 0; k < t->n_seeds; k++)
            if (t->seeds[k].node == s.found[i].node && strcmp(t->seeds[k].input, s.found[i].input) == 0) known_seed = &t->seeds[k];
        if (!known_seed) {
            t->seeds = mp_realloc(t->seeds, (t->n_seeds + 1) * sizeof *t->seeds);
            known_seed = &t->seeds[t->n_seeds++];
            *known_seed = (seed){ s.found[i].node, mp_strdup(s.found[i].input), mp_rng_below(&p->rng, (1ull << 50) + 1) };
        }
        char text[24];
        int n = snprintf(text, sizeof text, "%llu", (unsigned long long)known_seed->value);
        mp_workflow_set(w, mp_str_of(mp_workflow_node(w, known_seed->node)->id), mp_str_of(known_seed->input), mp_str_make(text, (size_t)n), NULL);
        free(s.found[i].input);
    }
    return w;
}

/* What is sent: a fresh copy of what was submitted, mutated, with its seeds. NULL and words: the script failed. */
static mp_workflow *to_send(mp_pool *p, mp_job *j, mp_client *c, mp_err *e) {
    mp_workflow *w = mp_workflow_ref(j->w);
    if (p->policy && p->policy->mutate) {
        p->locked++;
        int rc = p->policy->mutate(p->policy->ud, p, j, c, &w, e);
        p->locked--;
        if (rc) {
            mp_workflow_unref(w);
            return NULL;
        }
    }
    return fill_seeds(p, j, w);
}

static void send(mp_pool *p, mp_job *j, mp_client *c, mp_time now) {
    mp_err e = { 0 };
    mp_workflow *w = to_send(p, j, c, &e);
    queue_remove(p, j);
    if (!w) {
        mp_failure f = { 0 };
        mp_failure_set(&f, MP_FAIL_POLICY, "mutate: %s", e.msg);
        job_end(p, j, MP_JOB_FAILED, &f, now);
        mp_failure_clear(&f);
        return;
    }
    prompt *pr = mp_alloc(sizeof *pr), **at = &c->prompts;
    mp_uuid(&p->rng, pr->id);
    pr->client = c;
    pr->job = j;
    pr->w = w;
    pr->at = AT_POSTING;
    pr->posted = pr->heard = now;
    pr->settled = pr->verdict_at = pr->due = MP_NEVER;
    memcpy(pr->hash, mp_workflow_hash(j->w), MP_DIGEST_HEX);
    while (*at) at = &(*at)->next;
    *at = pr;
    if (c->load++ == 0) c->moved = now;
    c->posting = pr;
    j->attempts++;
    mp_buf path = { 0 }, body = { 0 };
    mp_prompt_opts o = { c->sid, pr->id, j->extra_data, j->front };
    mp_buf_puts(&path, "/prompt");
    mp_request_prompt(&body, w, &o);
    act(p, c, DO_POST, pr->id, "POST", &path, &body, p->o.request_timeout);
    job_assigned(p, j, pr, now);
    client_rearm(c, now);
}

/* ---- choosing ------------------------------------------------------------------------------------------ */

static int any_free(const mp_pool *p, int stage) {
    for (const mp_client *c = p->clients; c; c = c->next)
        if (free_in(c, stage)) return 1;
    return 0;
}

/* The group whose first job goes before all others, among those not exhausted. */
static group *foremost(mp_pool *p) {
    group *best = NULL;
    for (group *g = p->groups; g; g = g->hh.next) {
        if (g->exhausted || !g->jobs.n) continue;
        if (!best || best->jobs.before(mp_heap_top(&g->jobs), mp_heap_top(&best->jobs))) best = g;
    }
    return best;
}

static int choose(mp_pool *p, mp_job *j, mp_client **c, size_t n, int stage) {
    int pick = MP_ROUTE_ANY;
    if (p->policy && p->policy->route) {
        p->locked++;
        pick = p->policy->route(p->policy->ud, p, j, c, n, stage);
        p->locked--;
    }
    return pick == MP_ROUTE_HOLD ? pick : pick >= 0 && (size_t)pick < n ? pick : 0;
}

void dispatch(mp_pool *p, mp_time now) {
    mp_client *c[MP_ROUTE_CANDIDATES];
    while (p->dirty && !p->locked) {
        p->dirty = 0;
        for (int stage = 1; stage <= 2; stage++) {
            for (group *g = p->groups; g; g = g->hh.next) g->exhausted = 0;
            for (group *g; p->groups && any_free(p, stage) && (g = foremost(p)) != NULL;) {
                mp_job *j = mp_heap_top(&g->jobs);
                size_t n = candidates(p, j, stage, c, now);
                if (!n) { g->exhausted = 1; continue; }
                int pick = choose(p, j, c, n, stage);
                if (pick == MP_ROUTE_HOLD) queue_park(p, j, now);
                else send(p, j, c[pick], now);
            }
        }
    }
}

/* ---- the reply ----------------------------------------------------------------------------------------- */

static void refused(mp_client *c, prompt *pr, mp_failure *f, mp_time now) {
    if (pr->job) attempt_failed(c->pool, pr->job, c, f, now);        /* first: the job still names its prompt */
    prompt_gone(pr);
}

static void accepted(mp_client *c, prompt *pr, const char *id, mp_time now) {
    mp_pool *p = c->pool;
    mp_job *j = pr->job;
    int silent = pr->heard == pr->posted;
    if (pr->at != AT_RUNNING) pr->at = AT_WAITING;
    pr->settled = now;
    if (silent) c->status_due = now + STATUS_DUE;
    c->poll_step = p->o.poll;
    c->poll_at = now + c->poll_step;
    if (j && wanted(p, MP_EV_JOB_ACCEPTED)) {
        mp_event *e = event(p, MP_EV_JOB_ACCEPTED, j, c, now);
        event_data(e, id, strlen(id));
    }
    if (strcmp(id, pr->id) != 0) {
        c->own_ids = -1;
        pr->real = mp_strdup(id);
        if (j) {
            struct tail *t = job_tail(j);
            free(t->prompt_id);
            t->prompt_id = mp_strdup(id);
            if (j->profile) mp_profile_prompt(j->profile, id);
        }
        early_replay(c, pr, now);                    /* may conclude and free pr */
        return;
    }
    c->own_ids = 1;
    early_clear(c);
}

void posted(mp_client *c, const char *id, const mp_result *r, mp_time now) {
    mp_pool *p = c->pool;
    prompt *pr = prompt_by_id(c, mp_str_of(id));
    mp_failure f = { 0 };
    char *given = NULL;
    if (c->posting == pr) c->posting = NULL;
    p->dirty = 1;
    if (!pr) return;                                 /* messages were faster and have ended it */
    if (r->code == MP_EREFUSED) {
        mp_failure_set(&f, MP_FAIL_CONNECTION, "%s could not be reached", c->name);
        refused(c, pr, &f, now);
        link_reset(c, r->message ? r->message : "it refuses connections", now);
    } else if (r->code || r->status == 502 || r->status == 504) {
        /* It may have arrived, or may still (a proxy gave up waiting, not the server): look before anything else. */
#if MP_MUTANT == 5
        mp_failure_set(&f, MP_FAIL_CONNECTION, "the reply was lost");
        refused(c, pr, &f, now);
        return;
#endif
        if (pr->at == AT_POSTING) pr->at = AT_UNKNOWN;
        pr->settled = now;
        pr->gap = 1;
        if (!pr->job) pr->due = now;
        survey_want(c, now);
    } else {
        mp_failure_of_prompt_reply(r->status, r->body, &f, &given);
        int all = !f.kind || (f.partial && pr->job && pr->job->partial);
        if (given && all) accepted(c, pr, given, now);
        else if (given) {                            /* some outputs were refused, and this job wants all or nothing */
            mp_job *j = pr->job;
            accepted(c, pr, given, now);
            pr = prompt_by_id(c, mp_str_of(id));
            if (pr && pr->job) prompt_kill(pr, now);
            if (j && j->prompt && pr && j->prompt == pr) attempt_failed(p, j, c, &f, now);
        } else refused(c, pr, &f, now);
        pr = prompt_by_id(c, mp_str_of(id));
        if (pr && !pr->job && !pr->deleted) prompt_kill(pr, now);        /* canceled while the POST was under way */
    }
    mp_failure_clear(&f);
    free(given);
    client_rearm(c, now);
}
