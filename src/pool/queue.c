/* pool/queue.c -- floor 5, pool: what waits, in groups of jobs that may run on the same set of clients, so that work
 * per decision does not grow with the queue. A group's jobs are ordered by rank, then arrival.
 *
 *   general   most jobs: any client may run them
 *   shape     a structural hash that some client claims, or that some client does not get
 *   special   jobs narrowed further: excluded clients, clients they failed on, variants, others that may help out
 *
 * A claimed shape's group is reached through the clients that claim it; `others` lists all but those and the general
 * one. A shape's waiting jobs are linked, so that they can move when it is claimed or blocked. */
#include "pool/inside.h"
#include <stdlib.h>

/* Of a job in its group's line: by rank, then arrival. */
static int64_t line_key(const mp_job *j) { return MP_MUTANT == 1 ? 0 : mp_heap_key(-j->rank); }

/* ---- groups ------------------------------------------------------------------------------------------------ */

static void key_of(const mp_job *j, group_key *k) {
    const struct wishes *x = j->wishes;
    uint64_t set = MIXED;
    int special = j->fallback;
    memset(k, 0, sizeof *k);
    if (x && (x->exclude || x->n_variants)) {
        special = 1;
        for (char **name = x->exclude; name && *name; name++) set = mix(set, *name, strlen(*name) + 1);
        for (size_t i = 0; i < x->n_variants; i++) set = mix(set, &x->variants[i].s, sizeof(shape *));
    }
    if (j->tail && j->tail->n_avoid) {
        special = 1;
        for (size_t i = 0; i < j->tail->n_avoid; i++) {
            const shunned *a = &j->tail->avoid[i];
            set = mix(mix(mix(set, &a->serial, sizeof a->serial), &a->s, sizeof a->s), &a->hard, sizeof a->hard);
        }
    }
    if (special) {
        k->kind = G_SPECIAL;
        k->s = j->s;
        k->set = set ^ (uint64_t)j->fallback;
    } else if (j->s->n_claimants || j->s->blocks || j->s->softs) {
        k->kind = G_SHAPE;
        k->s = j->s;
    }
}

static int is_other(const group *g) { return g->key.kind == G_SPECIAL || (g->key.kind == G_SHAPE && !g->key.s->n_claimants); }

static void place_other(mp_pool *p, group *g) {
    int there = g->other_at != MP_HEAP_OUT, should = g->jobs.n && is_other(g);
    if (there == should) return;
    if (should) {
        p->others = mp_grow(p->others, p->n_others, &p->cap_others, sizeof *p->others);
        g->other_at = p->n_others;
        p->others[p->n_others++] = g;
    } else {
        group *last = p->others[--p->n_others];
        p->others[g->other_at] = last;
        last->other_at = g->other_at;
        g->other_at = MP_HEAP_OUT;
    }
}

void group_fresh(mp_pool *p, group *g) {
    p->dirty = 1;
    if (g->fresh) return;
    g->fresh = 1;
    p->fresh_groups = mp_grow(p->fresh_groups, p->n_fresh_groups, &p->cap_fresh_groups, sizeof *p->fresh_groups);
    p->fresh_groups[p->n_fresh_groups++] = g;
}

static group *group_of(mp_pool *p, const mp_job *j) {
    group_key key;
    group *g;
    key_of(j, &key);
    if (key.kind == G_GENERAL && p->general) return p->general;
    if (key.kind == G_SHAPE && key.s->group) return key.s->group;
    HASH_FIND(hh, p->groups, &key, sizeof key, g);
    if (g) return g;
    g = mp_alloc(sizeof *g);
    g->key = key;
    if (key.s) shape_ref(key.s);
    if (key.kind == G_SHAPE) key.s->group = g;
    if (key.kind == G_GENERAL) p->general = g;
    g->nobody_since = g->check_at = MP_NEVER;
    g->other_at = MP_HEAP_OUT;
    g->roster = p->roster - 1;
    mp_line_init(&g->jobs, offsetof(mp_job, heap_at));
    HASH_ADD(hh, p->groups, key, sizeof key, g);
    p->n_empty++;
    return g;
}

/* Only outside of dispatch: it holds groups in lists. */
static void group_drop(mp_pool *p, group *g) {
    place_other(p, g);
    if (g->fresh)
        for (size_t i = 0; i < p->n_fresh_groups; i++)
            if (p->fresh_groups[i] == g) { p->fresh_groups[i] = p->fresh_groups[--p->n_fresh_groups]; break; }
    HASH_DEL(p->groups, g);
    if (!g->jobs.n) p->n_empty--;
    if (g->key.kind == G_SHAPE) g->key.s->group = NULL;
    if (g == p->general) p->general = NULL;
    mp_line_close(&g->jobs);
    shape_unref(p, g->key.s);
    free(g);
}

/* ---- who has nobody? ------------------------------------------------------------------------------------------- */

static int present(const mp_client *c) { return ((c->state == MP_CLIENT_ONLINE && !c->hopeless) || !c->tried) && !c->removed && !c->draining; }

/* Somebody is there, or may be in a moment (its first attempt to connect is not decided yet). */
static int anybody(const mp_pool *p, const group *g) {
    const mp_job *j = g->jobs.top.x;
    if (g->key.kind == G_SHAPE && g->key.s->n_claimants) {
        for (size_t i = 0; i < g->key.s->n_claimants; i++)
            if (present(g->key.s->claimants[i]) && job_may_run(g->key.s->claimants[i], j)) return 1;
        return 0;
    }
    for (const mp_client *c = p->clients; c; c = c->next)
        if (present(c) && job_may_run(c, j)) return 1;
    return 0;
}

/* How long it may wait with nobody there; MP_NEVER: as long as it takes. */
static mp_time no_client_of(const mp_pool *p, const mp_job *j) {
    return j->wishes && j->wishes->no_client ? j->wishes->no_client : p->o.no_client ? p->o.no_client : MP_NEVER;
}

static mp_time after(mp_time t, mp_time bound) { return bound == MP_NEVER ? MP_NEVER : t + bound; }

static void check_by(mp_pool *p, group *g, mp_time t) {
    if (t < g->check_at) g->check_at = t;
    if (t < p->check_at) p->check_at = t;
}

static void presence(mp_pool *p, group *g, mp_time now) {
    if (!g->jobs.n) return;
    if (anybody(p, g)) g->nobody_since = MP_NEVER;
    else if (g->nobody_since == MP_NEVER) {
        g->nobody_since = now;
        check_by(p, g, after(now, p->least_no_client));
    }
}

/* ---- in and out -------------------------------------------------------------------------------------------------- */

static void link_shape(mp_job *j) {
    j->before = NULL;
    j->next = j->s->waiting;
    if (j->next) j->next->before = j;
    j->s->waiting = j;
}

static void unlink_shape(mp_job *j) {
    if (j->before) j->before->next = j->next;
    else j->s->waiting = j->next;
    if (j->next) j->next->before = j->before;
    j->next = j->before = NULL;
}

/* It waits for clients that claim its workflow (or one of its variants), and others may help out some day. */
static int may_fall_back(const mp_pool *p, const mp_job *j) {
    const struct wishes *x = j->wishes;
    if (!p->o.affinity_fallback || j->fallback) return 0;
    int claimed = j->s->n_claimants > 0;
    for (size_t i = 0; x && i < x->n_variants; i++) claimed |= x->variants[i].s->n_claimants > 0;
    return claimed;
}

static void into(mp_pool *p, group *g, mp_job *j, mp_time now) {
    j->group = g;
    mp_line_push(&g->jobs, j, line_key(j), j->seq);
    if (g->jobs.n == 1) p->n_empty--;
    place_other(p, g);
    if (g->jobs.n == 1) { g->nobody_since = MP_NEVER; presence(p, g, now); }
    else if (g->nobody_since != MP_NEVER) check_by(p, g, after(now, no_client_of(p, j)));
    if (may_fall_back(p, j)) check_by(p, g, j->ready + p->o.affinity_fallback);
    if (g->jobs.top.x == j || g->jobs.n == 1) group_fresh(p, g);
}

static void out_of(mp_pool *p, mp_job *j) {
    group *g = j->group;
    mp_line_remove(&g->jobs, j, line_key(j), j->seq);
    j->group = NULL;
    if (!g->jobs.n) {
        g->passed = 0;
        p->n_empty++;
    }
    place_other(p, g);
}

void queue_push(mp_pool *p, mp_job *j, mp_time now) {
    link_shape(j);
    into(p, group_of(p, j), j, now);
}

/* With another rank; since when nobody is there for it does not change by that. */
void queue_rerank(mp_pool *p, mp_job *j, double rank, mp_time now) {
    mp_time since = j->group->nobody_since;
    queue_remove(p, j);
    j->rank = rank;
    queue_push(p, j, now);
    if (since >= j->group->nobody_since) return;
    j->group->nobody_since = since;
    check_by(p, j->group, after(j->ready > since ? j->ready : since, no_client_of(p, j)));
}

void queue_move(mp_pool *p, mp_job *j, mp_time now) {
    group *to = group_of(p, j);
    to->roster = p->roster - 1;                      /* who is blocked has changed: its clients are counted anew */
    if (to == j->group) {
        if (may_fall_back(p, j)) check_by(p, to, j->ready + p->o.affinity_fallback);
        place_other(p, to);
        group_fresh(p, to);
        return;
    }
    out_of(p, j);
    into(p, to, j, now);
}

void queue_delay(mp_pool *p, mp_job *j, mp_time until) {
    j->wake = until;
    mp_heap_push(&p->delayed, j, until, j->seq);
    p->stats.delayed++;
}

void queue_remove(mp_pool *p, mp_job *j) {
    if (j->parked) {
        list_remove(&p->parked, j);
        j->parked = 0;
        p->stats.parked--;
    } else if (!j->group) {
        mp_heap_remove(&p->delayed, j);
        p->stats.delayed--;
    } else {
        unlink_shape(j);
        out_of(p, j);
    }
}

/* All park for the same time, so the list is in the order of waking. */
void queue_park(mp_pool *p, mp_job *j, mp_time now) {
    queue_remove(p, j);
    j->parked = 1;
    j->wake = now + p->o.recheck;
    list_add(&p->parked, j);
    p->stats.parked++;
}

static void unpark(mp_pool *p, mp_job *j, mp_time now) {
    queue_remove(p, j);
    queue_push(p, j, now);
}

/* ---- ends in the queue ---------------------------------------------------------------------------------------------- */

/* Every client that is there has refused this workflow for good: waiting would not help. */
static int refused_by_all(mp_pool *p, const mp_job *j, mp_failure *f) {
    const char *words = NULL;
    size_t n = 0;
    if (j->wishes && j->wishes->n_variants) return 0;
    for (mp_client *c = p->clients; c; c = c->next) {
        known *k = client_known(c, j->s, 0);
        if (c->removed || (j->s->n_claimants && !j->fallback && !client_claims(c, j->s))) continue;
        if (!k || !k->block || !k->block->hard || k->block->looking) return 0;
        words = k->block->reason;
        n++;
    }
    if (!n) return 0;
    if (j->tail && j->tail->failure && j->tail->failure->kind == MP_FAIL_INCOMPATIBLE) mp_failure_copy(f, j->tail->failure);   /* with node and details */
    if (!f->kind || n > 1) {
        char *message = mp_format("%s%s", n > 1 ? "no client takes this workflow; the last said: " : "", words);
        f->kind = MP_FAIL_INCOMPATIBLE;
        free(f->message);
        f->message = message;
    }
    return 1;
}

static const char *why_not(mp_client *c, const mp_job *j) {
    known *k = client_known(c, j->s, 0);
    for (char **name = j->wishes ? j->wishes->exclude : NULL; name && *name; name++)
        if (client_is(c, *name)) return "excluded for this job";
    if (k && k->block && k->block->hard) return k->block->reason;
    if (job_refused(j, c, j->s)) return "refused it";
    if (j->s->n_claimants && !client_claims(c, j->s)) return "has no affinity for this workflow";
    if (c->draining) return "is being removed";
    return c->problem ? c->problem : "not connected";
}

static void missing_where(mp_pool *p, const mp_job *j, mp_failure *f) {
    mp_buf b = { 0 };
    for (mp_client *c = p->clients; c && b.n < 400; c = c->next)
        if (!c->removed) mp_buf_printf(&b, "%s%s: %s", b.n ? "; " : "", c->name, why_not(c, j));
    mp_failure_set(f, MP_FAIL_NO_CLIENTS, "no client that could run it for %g s%s%s", (double)no_client_of(p, j) / 1e6, b.n ? ": " : ": the pool has no clients", b.n ? b.p : "");
    mp_buf_free(&b);
}

static void end_refused(mp_pool *p, group *g, mp_time now) {
    mp_failure f = { 0 };
    while (g->jobs.n && refused_by_all(p, g->jobs.top.x, &f)) {
        job_end(p, g->jobs.top.x, MP_JOB_FAILED, &f, now);
        mp_failure_clear(&f);
    }
    mp_failure_clear(&f);
}

void queue_presence(mp_pool *p, mp_time now) {
    group *g, *next;
    while (p->parked.first) unpark(p, p->parked.first, now);
    HASH_ITER(hh, p->groups, g, next) {
        presence(p, g, now);
        if (g->nobody_since != MP_NEVER && g->key.kind != G_GENERAL) end_refused(p, g, now);
        if (g->jobs.n) group_fresh(p, g);
    }
}

/* Jobs that had nobody for too long end; those that waited long enough for their own clients may go to others. */
static void group_check(mp_pool *p, group *g, mp_time now) {
    size_t n = g->jobs.n, k = 0;
    mp_job **v = mp_alloc((n + 1) * sizeof *v);
    mp_line_all(&g->jobs, (void **)v);
    mp_time next = MP_NEVER, fallback = n && may_fall_back(p, g->jobs.top.x) ? p->o.affinity_fallback : 0;
    int abandoned = g->nobody_since != MP_NEVER;
    for (size_t i = 0; i < n; i++) {
        mp_job *j = v[i];
        mp_time due = MP_NEVER;
        if (abandoned) due = after(j->ready > g->nobody_since ? j->ready : g->nobody_since, no_client_of(p, j));
        if (fallback && j->ready + fallback < due) due = j->ready + fallback;
        if (due <= now) v[k++] = j;
        else if (due < next) next = due;
    }
    if (fallback && next < now + fallback / 4) next = now + fallback / 4;        /* not once per job */
    g->check_at = MP_NEVER;
    if (next != MP_NEVER) check_by(p, g, next);
    for (size_t i = 0; i < k; i++) {
        mp_job *j = v[i];
        if (fallback && j->ready + fallback <= now) {
            j->fallback = 1;
            queue_move(p, j, now);
            continue;
        }
        mp_failure f = { 0 };
        missing_where(p, j, &f);
        job_end(p, j, MP_JOB_FAILED, &f, now);
        mp_failure_clear(&f);
    }
    free(v);
}

static void check_groups(mp_pool *p, mp_time now) {
    group *g, *next;
    p->check_at = MP_NEVER;
    HASH_ITER(hh, p->groups, g, next) {
        if (!g->jobs.n) { group_drop(p, g); continue; }
        if (g->check_at <= now) group_check(p, g, now);
        else if (g->check_at < p->check_at) p->check_at = g->check_at;
    }
}

void queue_tick(mp_pool *p, mp_time now) {
    mp_job *j;
    while ((j = mp_heap_top(&p->delayed)) && j->wake <= now) {
        queue_remove(p, j);
        queue_push(p, j, now);
    }
    while ((j = p->parked.first) && j->wake <= now) unpark(p, j, now);
    struct wishes *x;
    while ((x = mp_heap_top(&p->deadlines)) && x->deadline <= now) {
        j = x->job;
        prompt *pr = j->prompt;
        mp_failure f = { 0 };
        mp_failure_set(&f, MP_FAIL_TIMEOUT, "not finished within total_ms (%.0f ms)", (double)(x->deadline - j->queued) / 1000);
        job_end(p, j, MP_JOB_FAILED, &f, now);
        if (pr) prompt_kill(pr, now);
        mp_failure_clear(&f);
    }
    if (p->check_at <= now || (p->n_empty > 256 && p->n_empty > HASH_COUNT(p->groups) / 2)) check_groups(p, now);
}

mp_time queue_next(const mp_pool *p) {
    mp_time t = p->check_at;
    const mp_job *d = mp_heap_top(&p->delayed);
    const struct wishes *l = mp_heap_top(&p->deadlines);
    if (d && d->wake < t) t = d->wake;
    if (p->parked.first && p->parked.first->wake < t) t = p->parked.first->wake;
    if (l && l->deadline < t) t = l->deadline;
    return t;
}

void queue_free(mp_pool *p) {
    group *g, *next;
    HASH_ITER(hh, p->groups, g, next) group_drop(p, g);
    free(p->others);
    free(p->fresh_groups);
    mp_heap_close(&p->delayed);
    mp_heap_close(&p->deadlines);
}

void mp_pool_queues(const mp_pool *p, void (*fn)(void *, const char *, const char *, size_t), void *ud) {
    group *g, *next;
    HASH_ITER(hh, p->groups, g, next)
        if (g->jobs.n) fn(ud, g->key.kind == G_GENERAL ? "" : g->key.s->hash, g->key.kind == G_SPECIAL ? "special" : is_other(g) || g->key.kind == G_GENERAL ? "general" : "affinity", g->jobs.n);
}
