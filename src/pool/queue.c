/* pool/queue.c -- floor 5, pool: what waits, in groups of jobs that may run on the same set of clients.
 * A group's jobs are ordered by rank, then arrival. Most jobs are in the general group (""); a hash that some
 * client claims or refuses has its own; so has a job that failed somewhere and should go elsewhere. */
#include "pool/inside.h"
#include <stdio.h>
#include <stdlib.h>

static int first_in_line(const void *a, const void *b) {
    const mp_job *x = a, *y = b;
#if MP_MUTANT == 1
    return x->seq < y->seq;
#endif
    return x->rank != y->rank ? x->rank > y->rank : x->seq < y->seq;
}

int delayed_before(const void *a, const void *b) {
    const mp_job *x = a, *y = b;
    return x->wake != y->wake ? x->wake < y->wake : x->seq < y->seq;
}

int deadline_before(const void *a, const void *b) {
    const mp_job *x = a, *y = b;
    return x->deadline != y->deadline ? x->deadline < y->deadline : x->seq < y->seq;
}

static int special(const mp_pool *p, const char *hash) {
    if (pool_claimed(p, hash)) return 1;
    for (mp_client *c = p->clients; c; c = c->next) {
        known *k = client_known(c, hash, 0);
        if (k && k->reason) return 1;
    }
    return 0;
}

static void key_of(const mp_pool *p, const mp_job *j, char key[MP_DIGEST_HEX]) {
    const char *hash = mp_workflow_hash(j->w);
    if (j->tail && j->tail->n_avoid) snprintf(key, MP_DIGEST_HEX, "!%llx", (unsigned long long)j->id);
    else if (special(p, hash)) memcpy(key, hash, MP_DIGEST_HEX);
    else key[0] = 0;
}

static int may_run(const mp_pool *p, const mp_client *c, const char *hash) { return mp_client_may_run(p, c, hash); }

/* Somebody is there, or may be in a moment (its first attempt to connect is not decided yet). */
static int anybody(const mp_pool *p, const group *g) {
    const mp_job *j = mp_heap_top(&g->jobs);
    const char *hash = mp_workflow_hash(j->w);
    for (const mp_client *c = p->clients; c; c = c->next)
        if (((c->state == MP_CLIENT_ONLINE && !c->wedged) || !c->tried) && !c->removed && may_run(p, c, hash)) return 1;
    return 0;
}

static void presence(mp_pool *p, group *g, mp_time now) {
    if (!g->jobs.n) return;
    if (anybody(p, g)) g->nobody_since = g->check_at = MP_NEVER;
    else if (g->nobody_since == MP_NEVER) {
        g->nobody_since = now;
        g->check_at = now + (p->o.no_client ? p->o.no_client : MP_NEVER - now);
    }
}

void queue_push(mp_pool *p, mp_job *j, mp_time now) {
    char key[MP_DIGEST_HEX] = "";
    group *g;
    key_of(p, j, key);
    HASH_FIND_STR(p->groups, key, g);
    if (!g) {
        g = mp_alloc(sizeof *g);
        memcpy(g->key, key, sizeof key);
        g->nobody_since = g->check_at = MP_NEVER;
        mp_heap_init(&g->jobs, offsetof(mp_job, heap_at), first_in_line);
        HASH_ADD_STR(p->groups, key, g);
    }
    j->group = g;
    j->parked = 0;
    mp_heap_push(&g->jobs, j);
    if (g->jobs.n == 1) presence(p, g, now);
    else if (g->nobody_since != MP_NEVER && p->o.no_client && now + p->o.no_client < g->check_at) g->check_at = now + p->o.no_client;
    p->dirty = 1;
}

static void group_drop(mp_pool *p, group *g) {
    HASH_DEL(p->groups, g);
    mp_heap_close(&g->jobs);
    free(g);
}

void queue_remove(mp_pool *p, mp_job *j) {
    if (!j->group) {
        mp_heap_remove(&p->delayed, j);
        if (!j->parked) p->stats.delayed--;
        return;
    }
    group *g = j->group;
    mp_heap_remove(&g->jobs, j);
    j->group = NULL;
    if (!g->jobs.n) group_drop(p, g);
}

void queue_park(mp_pool *p, mp_job *j, mp_time now) {
    queue_remove(p, j);
    j->parked = 1;
    j->wake = now + p->o.recheck;
    mp_heap_push(&p->delayed, j);
}

static void unpark(mp_pool *p, mp_time now) {
    for (size_t i = 0; i < p->delayed.n;) {
        mp_job *j = p->delayed.v[i];
        if (!j->parked) { i++; continue; }
        mp_heap_remove(&p->delayed, j);
        queue_push(p, j, now);
        i = 0;
    }
}

/* All jobs that wait in groups, in a list of the caller's; count. */
static mp_job **all_waiting(mp_pool *p, size_t *n) {
    size_t total = 0, k = 0;
    for (group *g = p->groups; g; g = g->hh.next) total += g->jobs.n;
    mp_job **v = mp_alloc(total * sizeof *v + 1);
    for (group *g = p->groups; g; g = g->hh.next)
        for (size_t i = 0; i < g->jobs.n; i++) v[k++] = g->jobs.v[i];
    *n = total;
    return v;
}

void queue_regroup(mp_pool *p, mp_time now) {
    size_t n;
    mp_job **v = all_waiting(p, &n);
    char key[MP_DIGEST_HEX];
    for (size_t i = 0; i < n; i++) {
        key_of(p, v[i], key);
        if (strcmp(key, v[i]->group->key) == 0) continue;
        queue_remove(p, v[i]);
        queue_push(p, v[i], now);
    }
    free(v);
    queue_presence(p, now);
}

/* Every client that is there has refused this workflow: waiting would not help. */
static int refused_by_all(mp_pool *p, const mp_job *j, mp_failure *f) {
    const char *hash = mp_workflow_hash(j->w), *words = NULL;
    size_t n = 0;
    for (mp_client *c = p->clients; c; c = c->next) {
        known *k = client_known(c, hash, 0);
        if (c->removed) continue;
        if (pool_claimed(p, hash) && !client_claims(c, hash)) continue;
        if (!k || !k->reason) return 0;
        words = k->reason;
        n++;
    }
    if (!n) return 0;
    if (j->tail && j->tail->failure.kind == MP_FAIL_INCOMPATIBLE) mp_failure_copy(f, &j->tail->failure);   /* with node and details */
    if (!f->kind || n > 1) {
        char *message = mp_format("%s%s", n > 1 ? "no client takes this workflow; the last said: " : "", words);
        f->kind = MP_FAIL_INCOMPATIBLE;
        free(f->message);
        f->message = message;
    }
    return 1;
}

static void missing_where(mp_pool *p, const mp_job *j, mp_failure *f) {
    mp_buf b = { 0 };
    const char *hash = mp_workflow_hash(j->w);
    for (mp_client *c = p->clients; c && b.n < 400; c = c->next) {
        known *k = client_known(c, hash, 0);
        if (c->removed) continue;
        mp_buf_printf(&b, "%s%s: %s", b.n ? "; " : "", c->name, k && k->reason ? k->reason : pool_claimed(p, hash) && !client_claims(c, hash) ? "has no affinity for this workflow"
                      : c->problem ? c->problem : "not connected");
    }
    mp_failure_set(f, MP_FAIL_NO_CLIENTS, "no client that could run it for %.0f s%s%s", (double)p->o.no_client / 1e6, b.n ? ": " : ": the pool has no clients", b.n ? b.p : "");
    mp_buf_free(&b);
}

void queue_presence(mp_pool *p, mp_time now) {
    unpark(p, now);
    group *g, *next;
    HASH_ITER(hh, p->groups, g, next) presence(p, g, now);
    p->dirty = 1;
    for (;;) {                                       /* ends jobs, so groups may vanish: look anew after each group */
        mp_failure f = { 0 };
        mp_job *victim = NULL;
        HASH_ITER(hh, p->groups, g, next)
            if (!victim && g->key[0] && g->nobody_since != MP_NEVER && refused_by_all(p, mp_heap_top(&g->jobs), &f)) victim = mp_heap_top(&g->jobs);
        if (!victim) break;
        job_end(p, victim, MP_JOB_FAILED, &f, now);
        mp_failure_clear(&f);
    }
}

static void fail_abandoned(mp_pool *p, group *g, mp_time now) {
    size_t n = g->jobs.n, k = 0;
    mp_job **v = mp_alloc(n * sizeof *v);
    mp_time next = MP_NEVER;
    for (size_t i = 0; i < n; i++) {
        mp_job *j = g->jobs.v[i];
        mp_time since = j->ready > g->nobody_since ? j->ready : g->nobody_since;
        if (since + p->o.no_client <= now) v[k++] = j;
        else if (since + p->o.no_client < next) next = since + p->o.no_client;
    }
    g->check_at = next;
    for (size_t i = 0; i < k; i++) {                 /* the group dies with its last job, after which v is all we touch */
        mp_failure f = { 0 };
        missing_where(p, v[i], &f);
        job_end(p, v[i], MP_JOB_FAILED, &f, now);
        mp_failure_clear(&f);
    }
    free(v);
}

void queue_tick(mp_pool *p, mp_time now) {
    mp_job *j;
    while ((j = mp_heap_top(&p->delayed)) && j->wake <= now) {
        mp_heap_pop(&p->delayed);
        if (!j->parked) p->stats.delayed--;
        queue_push(p, j, now);
    }
    while ((j = mp_heap_top(&p->deadlines)) && j->deadline <= now) {
        prompt *pr = j->prompt;
        mp_failure f = { 0 };
        mp_failure_set(&f, MP_FAIL_TIMEOUT, "not finished within total_ms (%.0f ms)", (double)(j->deadline - j->queued) / 1000);
        job_end(p, j, MP_JOB_FAILED, &f, now);
        if (pr) prompt_kill(pr, now);
        mp_failure_clear(&f);
    }
    group *g, *next;
    HASH_ITER(hh, p->groups, g, next)
        if (g->check_at <= now) fail_abandoned(p, g, now);
}

mp_time queue_next(const mp_pool *p) {
    mp_time t = MP_NEVER;
    const mp_job *d = mp_heap_top(&p->delayed), *l = mp_heap_top(&p->deadlines);
    if (d) t = d->wake;
    if (l && l->deadline < t) t = l->deadline;
    for (group *g = p->groups; g; g = g->hh.next)
        if (g->check_at < t) t = g->check_at;
    return t;
}

void queue_free(mp_pool *p) {
    group *g, *next;
    HASH_ITER(hh, p->groups, g, next) group_drop(p, g);
    mp_heap_close(&p->delayed);
    mp_heap_close(&p->deadlines);
}
