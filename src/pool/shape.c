/* pool/shape.c -- floor 5, pool: structural hashes: who claims them, who may run them, what clients know of them. */
#include "pool/inside.h"
#include <stdlib.h>

#define KNOWN_SHAPES 500                             /* remembered per client, besides claims and blocks */

/* A digest is its own hash: any of its digits are as good as all. Elsewhere a user may have given something else for one. */
static unsigned hash_value(const char *hash, size_t n) {
    uint64_t digits = 0;
    memcpy(&digits, hash, n < 8 ? n : 8);
    return (unsigned)(digits * 0x9e3779b97f4a7c15u >> 32);
}

shape *shape_find(const mp_pool *p, const char *hash) {
    shape *s;
    size_t n = strlen(hash);
    HASH_FIND_BYHASHVALUE(hh, p->shapes, hash, n, hash_value(hash, n), s);
    return s;
}

shape *shape_ref(shape *s) { s->refs++; return s; }

shape *shape_of(mp_pool *p, const char *hash) {
    shape *s = shape_find(p, hash);
    if (s) return shape_ref(s);
    s = mp_alloc(sizeof *s);
    snprintf(s->hash, sizeof s->hash, "%s", hash);
    s->refs = 1;
    size_t n = strlen(s->hash);
    HASH_ADD_KEYPTR_BYHASHVALUE(hh, p->shapes, s->hash, n, hash_value(s->hash, n), s);
    return s;
}

void shape_unref(mp_pool *p, shape *s) {
    if (!s || --s->refs) return;
    HASH_DEL(p->shapes, s);
    mp_forecast_free(s->forecast);
    free(s->claimants);
    free(s->models);
    free(s);
}

/* ---- models: part of the structural hash, so they are the same for all workflows of a shape ------------------ */

static void add_model(void *ud, mp_str file) {
    shape *s = ud;
    s->models = mp_realloc(s->models, (s->n_models + 1) * sizeof *s->models);
    s->models[s->n_models++] = mix(MIXED, file.p, file.n);
}

void shape_learn_models(shape *s, const mp_workflow *w) {
    if (s->has_models) return;
    s->has_models = 1;
    mp_workflow_models(w, add_model, s);
}

int shape_holds(const shape *held, shape *s, const mp_workflow *w) {
    shape_learn_models(s, w);
    for (size_t i = 0, k; i < s->n_models; i++) {
        for (k = 0; k < held->n_models && held->models[k] != s->models[i]; k++) {}
        if (k == held->n_models) return 0;
    }
    return s->n_models > 0;
}

/* ---- claims ------------------------------------------------------------------------------------------------ */

void shape_claim(mp_pool *p, shape *s, mp_client *c) {
    known *k = client_known(c, s, 1);
    (void)p;
    if (k->claims) return;
    k->claims = 1;
    s->claimants = mp_grow(s->claimants, s->n_claimants, &s->cap_claimants, sizeof *s->claimants);
    s->claimants[s->n_claimants++] = c;
}

void shape_unclaim(mp_pool *p, shape *s, mp_client *c) {
    known *k = client_known(c, s, 0);
    (void)p;
    if (!k || !k->claims) return;
    k->claims = 0;
    size_t i = 0;
    while (s->claimants[i] != c) i++;
    memmove(s->claimants + i, s->claimants + i + 1, (--s->n_claimants - i) * sizeof *s->claimants);
}

/* Its jobs may belong to another group now: claimed and blocked shapes have one of their own. */
void shape_changed(mp_pool *p, shape *s, mp_time now) {
    for (mp_job *j = s->waiting, *next; j; j = next) {
        next = j->next;
        queue_move(p, j, now);
    }
}

int client_claims(const mp_client *c, const shape *s) {
    if (s->n_claimants <= 8) {
        for (size_t i = 0; i < s->n_claimants; i++)
            if (s->claimants[i] == c) return 1;
        return 0;
    }
    const known *k = client_known((mp_client *)c, (shape *)s, 0);
    return k && k->claims;
}

/* ---- who may run what ---------------------------------------------------------------------------------------- */

int shape_may_run(const mp_client *c, const shape *s, int fallback) {
    if (c->removed) return 0;
    if (s->blocks) {
        const known *k = client_known((mp_client *)c, (shape *)s, 0);
        if (k && k->block && k->block->hard) return 0;
    }
#if MP_MUTANT == 2
    return 1;
#endif
    return fallback || !s->n_claimants || client_claims(c, s);
}

static int shunned_by(const mp_job *j, const mp_client *c, const shape *s, int hard) {
    for (size_t i = 0; j->tail && i < j->tail->n_avoid; i++) {
        const shunned *a = &j->tail->avoid[i];
        if (a->serial == c->serial && (!a->s || a->s == s) && a->hard >= hard) return 1;
    }
    return 0;
}

int job_refused(const mp_job *j, const mp_client *c, const shape *s) { return shunned_by(j, c, s, 1); }

int job_may_run(const mp_client *c, const mp_job *j) {
    const struct wishes *x = j->wishes;
    if (x) {
#if MP_MUTANT != 10
        for (char **name = x->exclude; name && *name; name++)
            if (client_is(c, *name)) return 0;
#endif
        for (size_t i = 0; i < x->n_variants; i++)
            if (shape_may_run(c, x->variants[i].s, j->fallback) && !job_refused(j, c, x->variants[i].s)) return 1;
    }
    return shape_may_run(c, j->s, j->fallback) && !job_refused(j, c, j->s);
}

/* The first variant, in the order given, that this client may run and has not refused; one that it ran last goes before. */
mp_workflow *job_workflow_for(const mp_job *j, const mp_client *c, shape **s) {
    const struct wishes *x = j->wishes;
    mp_workflow *w = NULL;
    *s = NULL;
    size_t n = x ? x->n_variants + 1 : 1;
    for (size_t k = 0; k < 2 * n && !(w && k == n); k++) {           /* twice: one that failed there is still better than one that it refused */
        size_t i = k % n;
        shape *at = i ? x->variants[i - 1].s : j->s;
        if (!shape_may_run(c, at, j->fallback) || (w && at != c->last_shape) || shunned_by(j, c, at, k >= n)) continue;
        w = i ? x->variants[i - 1].w : j->w;
        *s = at;
        if (at == c->last_shape) break;
    }
    if (!w) { w = j->w; *s = j->s; }
    return w;
}

static int rests(const mp_client *c, const shape *s) {
    const known *k = s->softs ? client_known((mp_client *)c, (shape *)s, 0) : NULL;
    return MP_MUTANT != 21 && k && k->block && !k->block->hard;
}

static const shape *would_run(const mp_job *j, const mp_client *c) {
    shape *s = j->s;
    if (j->wishes && j->wishes->n_variants) job_workflow_for(j, c, &s);
    return s;
}

int job_avoids(const mp_job *j, const mp_client *c) { return shunned_by(j, c, would_run(j, c), 0); }

int job_wants_not(const mp_job *j, const mp_client *c) {
    const shape *s = would_run(j, c);
    return shunned_by(j, c, s, 0) || rests(c, s);
}

int mp_client_takes(const mp_client *c, const mp_job *j) { return job_may_run(c, j) && !job_wants_not(j, c); }

int mp_client_may_run(const mp_pool *p, const mp_client *c, const char *hash) {
    const shape *s = shape_find(p, hash);
    return s ? shape_may_run(c, s, 0) : !c->removed;
}

/* ---- what a client knows ---------------------------------------------------------------------------------------- */

/* Found by the address of the shape in an open table, half empty, without gaps in a run; listed by age. Looked at for
 * each prompt, and cold: a slot says whose it is, so that only the one wanted is touched. */
static size_t home(const mp_client *c, const shape *s) { return (size_t)(((uintptr_t)s >> 4) * 0x9e3779b97f4a7c15u >> 32) & (c->known_cap - 1); }

static size_t slot_of(const mp_client *c, const shape *s) {
    size_t i = home(c, s);
    while (c->known_at[i].s && c->known_at[i].s != s) i = (i + 1) & (c->known_cap - 1);
    return i;
}

static void known_grow(mp_client *c) {
    free(c->known_at);
    c->known_cap = c->known_cap ? c->known_cap * 2 : 8;
    c->known_at = mp_alloc(c->known_cap * sizeof *c->known_at);
    for (known *k = c->known; k; k = k->next) c->known_at[slot_of(c, k->s)] = (known_slot){ k->s, k };
}

static void known_clear(mp_client *c, known *k) {
    size_t hole = slot_of(c, k->s), mask = c->known_cap - 1;
    block_clear(c, k);
    for (size_t i = (hole + 1) & mask; c->known_at[i].s; i = (i + 1) & mask)      /* who would not be found past the hole moves into it */
        if (((i - home(c, c->known_at[i].s)) & mask) >= ((i - hole) & mask)) {
            c->known_at[hole] = c->known_at[i];
            hole = i;
        }
    c->known_at[hole] = (known_slot){ NULL, NULL };
    if (k->before) k->before->next = k->next;
    else c->known = k->next;
    if (k->next) k->next->before = k->before;
    else c->last_known = k->before;
    c->n_known--;
    shape_unref(c->pool, k->s);
    memset(k, 0, sizeof *k);
}

known *client_known(mp_client *c, shape *s, int make) {
    known *k = c->known_cap ? c->known_at[slot_of(c, s)].k : NULL;
    if (k || !make) return k;
    if (c->n_known >= KNOWN_SHAPES) {                /* in the place of the oldest that is only a memory */
        for (k = c->known; k && (k->claims || k->block || k->users);) k = k->next;
        if (k) known_clear(c, k);
    }
    if (2 * (c->n_known + 1) > c->known_cap) known_grow(c);
    if (!k) k = mp_alloc(sizeof *k);
    k->s = shape_ref(s);
    k->before = c->last_known;
    if (k->before) k->before->next = k;
    else c->known = k;
    c->last_known = k;
    c->n_known++;
    c->known_at[slot_of(c, s)] = (known_slot){ s, k };
    return k;
}

void known_drop_all(mp_client *c) {
    for (known *k; (k = c->known) != NULL; free(k)) known_clear(c, k);
    free(c->known_at);
    c->known_at = NULL;
    c->known_cap = 0;
}

/* One run of a shape took this long: the typical time follows by a quarter each run. */
void client_ran(mp_client *c, const prompt *pr, mp_time took) {
    known *k = pr->k;
    (void)c;
    if (took >= 0) k->typical = k->runs ? k->typical + (took - k->typical) / 4 : took;
    k->runs++;
    k->fails = 0;
    k->refusals = 0;
}
