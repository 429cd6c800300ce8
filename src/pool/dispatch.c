/* pool/dispatch.c -- floor 5, pool: a slot is free: which job goes where, and how it is sent.
 * Stage one gives idle clients their first prompt, stage two gives busy ones their next, so that it is there when
 * the one before it ends. Within a stage jobs go by rank, then arrival; clients in built-in order, unless the
 * policy has an opinion. One POST per client is under way at a time: the order on the server is ours. */
#include "pool/inside.h"
#include <stdlib.h>

/* ---- which clients have a slot, kept up to date by touching them ------------------------------------------------- */

static int stage_of(const mp_client *c) {
    if (!client_open(c) || c->posting || c->freeing) return 0;
#if MP_MUTANT == 4
    return c->load == 0 ? 1 : 2;
#endif
    return c->load == 0 ? 1 : c->load < c->slots && MP_MUTANT != 26 ? 2 : 0;
}

void client_touch(mp_client *c) {
    mp_pool *p = c->pool;
    p->dirty = 1;
    if (c->touched) return;
    c->touched = 1;
    p->touched = mp_grow(p->touched, p->n_touched, &p->cap_touched, sizeof *p->touched);
    p->touched[p->n_touched++] = c;
}

static void into_free(mp_pool *p, mp_client *c) {
    if (c->free_at != MP_HEAP_OUT) return;
    p->free = mp_grow(p->free, p->n_free_clients, &p->cap_free_clients, sizeof *p->free);
    c->free_at = p->n_free_clients;
    p->free[p->n_free_clients++] = c;
}

static void out_of_free(mp_pool *p, mp_client *c) {
    if (c->free_at == MP_HEAP_OUT) return;
    mp_client *last = p->free[--p->n_free_clients];
    p->free[c->free_at] = last;
    last->free_at = c->free_at;
    c->free_at = MP_HEAP_OUT;
}

static void drop_from(mp_client **v, size_t *n, const mp_client *c) {
    for (size_t i = 0; i < *n; i++)
        if (v[i] == c) { v[i] = v[--*n]; return; }
}

void client_forget_places(mp_client *c) {
    mp_pool *p = c->pool;
    out_of_free(p, c);
    drop_from(p->touched, &p->n_touched, c);
    drop_from(p->fresh, &p->n_fresh, c);
    if (c->open) p->n_open--;
}

static void look_at_touched(mp_pool *p, mp_time now) {
    for (size_t i = 0; i < p->n_touched; i++) {
        mp_client *c = p->touched[i];
        if (c->posting && c->posting->held && c->posting->job && upload_next(c->posting, now)) post(c->posting, now);
        int open = client_open(c), was = c->stage, busy = c->load > 0;
        if (busy != c->busy && c->state == MP_CLIENT_ONLINE && !c->removed && (p->mask >> MP_EV_CLIENT_STATE & 1)) event(p, MP_EV_CLIENT_STATE, NULL, c, now);
        c->busy = (uint8_t)busy;
        c->touched = 0;
        if (open != c->open) {
            c->open = open;
            p->n_open += open ? 1 : (size_t)-1;
            p->roster++;
        }
        c->stage = stage_of(c);
        if (!c->stage) { out_of_free(p, c); continue; }
        into_free(p, c);
        if (c->fresh || c->stage == was) continue;      /* else what it can do is no news */
        c->fresh = 1;
        p->fresh = mp_grow(p->fresh, p->n_fresh, &p->cap_fresh, sizeof *p->fresh);
        p->fresh[p->n_fresh++] = c;
    }
    p->n_touched = 0;
}

/* ---- candidates -------------------------------------------------------------------------------------------------- */

int mp_client_stuck(const mp_client *c) {
    int dead = 0;
    for (const prompt *pr = c->prompts; pr; pr = pr->next) dead += !pr->job;
    return dead >= c->slots;
}

int has_fresh(const mp_pool *p, const mp_job *j) {
    for (const mp_client *c = p->clients; c; c = c->next)
        if (client_open(c) && !mp_client_stuck(c) && job_may_run(c, j) && !job_wants_not(j, c)) return 1;
    return 0;
}

#define NOT_ASKED (-1)                               /* most often there is one candidate, and nobody asks */
typedef struct { mp_client *c; double priority; mp_time finish; int warm; } candidate;

static mp_time finish_of(candidate *a, mp_time now) {
    if (a->finish == NOT_ASKED) a->finish = mp_client_expected(a->c, now);
    return a->finish;
}

/* Built-in order: warm for this workflow; then, for second slots, who is done first; then priority; then arrival. */
static int better(candidate *a, candidate *b, mp_time now) {
    if (a->warm != b->warm && MP_MUTANT != 32) return a->warm > b->warm;
    mp_time x = finish_of(a, now), y = finish_of(b, now);
    if (x != y) return x < y;
    return a->priority != b->priority ? a->priority > b->priority : a->c->serial < b->c->serial;
}

static int prefers(const mp_job *j, const mp_client *c) {
    for (char **name = j->wishes->prefer; *name; name++)
        if (client_is(c, *name)) return 1;
    return 0;
}

#define LONGEST 4

/* Those that got nothing for the longest time, first. */
static void note_longest(mp_client **v, size_t *n, mp_client *c) {
    size_t at = *n < LONGEST ? (*n)++ : LONGEST;
    for (; at > 0 && c->sent < v[at - 1]->sent; at--)
        if (at < LONGEST) v[at] = v[at - 1];
    if (at < LONGEST) v[at] = c;
}

/* Of more than 16 the last places are theirs, so that a policy that wants to can give everybody work. */
static size_t mix_in(candidate *best, size_t n, mp_client **longest, size_t n_longest) {
    size_t sure = n - LONGEST;
    n = sure;
    for (size_t i = 0; i < n_longest; i++) {
        size_t k = 0;
        while (k < sure && best[k].c != longest[i]) k++;
        if (k == sure) best[n++].c = longest[i];
    }
    return n;
}

/* The best 16 that have a slot in this stage and may run the job. `preferred`: only those it prefers. */
static size_t gather(mp_pool *p, const mp_job *j, int stage, int preferred, mp_client **out, mp_time now) {
    candidate best[MP_ROUTE_CANDIDATES + 1];         /* not cleared: for every prompt that is sent */
    int soft = (j->tail && j->tail->n_avoid) || j->s->softs || (j->wishes && j->wishes->n_variants);
    int fresh = soft && has_fresh(p, j);
    int claimed = j->group->key.kind == G_SHAPE && j->s->n_claimants && j->s->n_claimants < p->n_free_clients;
    size_t total = claimed ? j->s->n_claimants : p->n_free_clients, n = 0, n_longest = 0, found = 0;
    mp_client *longest[LONGEST];
    int crowd = total > MP_ROUTE_CANDIDATES;         /* who holds the models must be among those that are offered */
    for (size_t i = 0; i < total; i++) {
        mp_client *c = claimed ? j->s->claimants[i] : p->free[i];
        if (c->stage != stage || !job_may_run(c, j) || (fresh && job_wants_not(j, c)) || (preferred && !prefers(j, c))) continue;
        candidate x = { c, j->wishes ? mp_client_priority_for(c, j) : c->priority, stage == 2 ? NOT_ASKED : 0, c->last_shape == j->s ? 2 : crowd && c->last_shape ? mp_client_warmth(c, j) : 0 };
        found++;
        if (crowd) note_longest(longest, &n_longest, c);
        size_t at = n < MP_ROUTE_CANDIDATES ? n++ : MP_ROUTE_CANDIDATES;
        for (; at > 0 && better(&x, &best[at - 1], now); at--) best[at] = best[at - 1];
        best[at] = x;
    }
    if (found > n) n = mix_in(best, n, longest, n_longest);
    for (size_t i = 0; i < n; i++) out[i] = best[i].c;      /* cppcheck-suppress uninitvar ; the first n are set */
    return n;
}

static size_t candidates(mp_pool *p, const mp_job *j, int stage, mp_client **out, mp_time now) {
    size_t n = 0;
#if MP_MUTANT != 12
    if (j->wishes && j->wishes->prefer) n = gather(p, j, stage, 1, out, now);
#endif
    return n ? n : gather(p, j, stage, 0, out, now);
}

/* ---- sending ------------------------------------------------------------------------------------------- */

typedef struct { const mp_workflow *w; seed found[64]; size_t n; } open_seeds;

static void note_seed(void *ud, size_t node, mp_str input) {
    open_seeds *s = ud;
    if (s->n < 64) s->found[s->n++] = (seed){ mp_strdup(mp_workflow_node(s->w, node)->id), mp_strndup(input.p, input.n), 0 };
}

static seed *known_seed(struct tail *t, const seed *wanted) {
    for (size_t k = 0; k < t->n_seeds; k++)
        if (strcmp(t->seeds[k].node, wanted->node) == 0 && strcmp(t->seeds[k].input, wanted->input) == 0) return &t->seeds[k];
    return NULL;
}

/* Every -1 gets a number, drawn once per job and kept for its retries. 0..2^50, as the web frontend draws them. */
static mp_workflow *fill_seeds(mp_pool *p, mp_job *j, mp_workflow *w) {
    open_seeds s;                                    /* not cleared: 64 of them for every prompt */
    s.w = w;
    s.n = 0;
    mp_workflow_open_seeds(w, note_seed, &s);
    if (!s.n) return w;
    struct tail *t = job_tail(p, j);
    w = mp_workflow_own(w);
    for (size_t i = 0; i < s.n; i++) {
        seed *one = known_seed(t, &s.found[i]);
        if (!one) {
            t->seeds = mp_realloc(t->seeds, (t->n_seeds + 1u) * sizeof *t->seeds);
            one = &t->seeds[t->n_seeds++];
            *one = (seed){ mp_strdup(s.found[i].node), mp_strdup(s.found[i].input), mp_rng_below(&p->rng, (1ull << 50) + 1) };
        }
        char text[24];
        int n = snprintf(text, sizeof text, "%llu", (unsigned long long)one->value);
        mp_workflow_set(w, mp_str_of(one->node), mp_str_of(one->input), mp_str_make(text, (size_t)n), NULL);
        free(s.found[i].node);
        free(s.found[i].input);
    }
    return w;
}

/* What is sent: a fresh copy of what was submitted, as this server spells it, mutated, with its seeds. NULL and words:
 * the script failed. */
static mp_workflow *to_send(mp_pool *p, mp_job *j, mp_client *c, mp_workflow *submitted, mp_err *e) {
    mp_workflow *w = mp_workflow_ref(submitted);
    if (p->policy && p->policy->mutate) {
        p->locked++;
        int rc = p->policy->mutate(p->policy->ud, p, j, c, &w, e);
        p->locked--;
        if (rc) {
            mp_workflow_unref(w);
            return NULL;
        }
    }
    return fill_seeds(p, j, respell(c, w));
}

void post(prompt *pr, mp_time now) {
    mp_client *c = pr->client;
    mp_pool *p = c->pool;
    mp_buf path = { 0 }, body = { 0 };
    mp_prompt_opts o = { c->sid, pr->id, pr->job->extra_data, c->api_key, pr->job->front };
    pr->at = AT_POSTING;
    pr->posted = now;
    mp_buf_puts(&path, "/prompt");
    mp_buf_room(&body, 500);                         /* what the smallest take, so that it does not grow in steps */
    mp_request_prompt(&body, pr->w, &o);
    act(p, c, DO_POST, pr->id, "POST", &path, &body, request_bound(p, pr->job));
    job_posted(p, pr->job, pr, now);
}

static void send(mp_pool *p, mp_job *j, mp_client *c, mp_time now) {
    mp_err e = { 0 };
    shape *s;
    mp_workflow *w = to_send(p, j, c, job_workflow_for(j, c, &s), &e);
    queue_remove(p, j);
    if (!w) {
        mp_failure f = { 0 };
        mp_failure_set(&f, MP_FAIL_POLICY, "mutate: %s", e.msg);
        job_end(p, j, MP_JOB_FAILED, &f, now);
        mp_failure_clear(&f);
        return;
    }
    c->sent = ++p->sent;
    prompt *pr = mp_slab_take(&p->prompts), **at = &c->prompts;
    mp_uuid(&p->rng, pr->id);
    pr->client = c;
    pr->job = j;
    pr->w = w;
    pr->s = shape_ref(s);
    pr->at = AT_UPLOADING;
    pr->speaker = -1;
    pr->streams = mp_workflow_streams(w);
    pr->posted = now;
    pr->settled = pr->verdict_at = pr->due = pr->began = MP_NEVER;
    pr->k = client_known(c, s, 1);
    pr->k->users++;
    pr->silence = silence_bound(pr);
    pr->patience = begin_bound(pr);
    pr->unreachable = unreachable_bound(pr);
    while (*at) at = &(*at)->next;
    *at = pr;
    if (c->load++ == 0) c->moved = now;
    c->posting = pr;
    j->attempts++;
    job_assigned(p, j, pr, now);
    pr->reused = upload_reused(pr);
    if (upload_next(pr, now)) post(pr, now);
    client_rearm(c, now);
    client_touch(c);
}

/* ---- choosing ------------------------------------------------------------------------------------------ */

/* How many open clients may run it: few ones go first among equals. */
static uint32_t capable(mp_pool *p, group *g) {
    const mp_job *j = g->jobs.top.x;
    if (g->roster == p->roster) return g->capable;
    g->roster = p->roster;
    g->capable = 0;
    if (g->key.kind == G_GENERAL) g->capable = (uint32_t)p->n_open;
    else if (g->key.kind == G_SHAPE && g->key.s->n_claimants) {
        for (size_t i = 0; i < g->key.s->n_claimants; i++) g->capable += g->key.s->claimants[i]->open && job_may_run(g->key.s->claimants[i], j);
    } else
        for (const mp_client *c = p->clients; c; c = c->next) g->capable += c->open && job_may_run(c, j);
    return g->capable;
}

static int goes_before(mp_pool *p, group *a, group *b) {
    const mp_heap_entry *x = &a->jobs.top, *y = &b->jobs.top;      /* rank, then arrival; the jobs themselves are cold */
    if (x->first != y->first) return x->first < y->first;
    int pa = a->passed >= PASSED_OVER, pb = b->passed >= PASSED_OVER;
    if (MP_MUTANT != 13 && pa != pb) return pa;
    uint32_t m = capable(p, a), n = capable(p, b);
    return m != n && MP_MUTANT != 29 ? m < n : x->then < y->then;
}

typedef struct { mp_pool *p; group *best; uint64_t round; } search;

static void consider(search *f, group *g) {
    if (!g || !g->jobs.n || g->exhausted == f->round) return;
    if (!f->best) f->best = g;
    else if (f->best != g && goes_before(f->p, g, f->best)) f->best = g;
}

static void consider_all(search *f, const mp_client *c) {
    consider(f, f->p->general);
    for (size_t i = 0; i < c->n_claims; i++) consider(f, c->claims[i]->group);
    for (size_t i = 0; i < f->p->n_others; i++) consider(f, f->p->others[i]);
}

/* What waits and could have gone instead, at the same rank, was passed over. */
static void pass_over(const mp_pool *p, group *g, const group *chosen, int64_t rank) {
    if (!g || g == chosen || !g->jobs.n || g->exhausted == p->round || g->jobs.top.first != rank) return;
    g->passed++;
}

static void pass_over_all(mp_pool *p, const mp_client *c, group *chosen) {
    int64_t rank = chosen->jobs.top.first;
    chosen->passed = 0;
    pass_over(p, p->general, chosen, rank);
    for (size_t i = 0; i < c->n_claims; i++) pass_over(p, c->claims[i]->group, chosen, rank);
    for (size_t i = 0; i < p->n_others; i++)
        if (job_may_run(c, p->others[i]->jobs.top.x)) pass_over(p, p->others[i], chosen, rank);
}

/* The group to serve next: of those with new jobs, and of those that a newly free client may serve. The rest has
 * been looked at before, and nothing has changed for it. */
static group *foremost(mp_pool *p, int stage) {
    search f = { p, NULL, p->round };
    for (size_t i = 0; i < p->n_fresh; i++)
        if (p->fresh[i]->stage == stage) consider_all(&f, p->fresh[i]);
    for (size_t i = 0; p->n_free_clients && i < p->n_fresh_groups; i++) consider(&f, p->fresh_groups[i]);
    return f.best;
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

static void serve_stage(mp_pool *p, int stage, mp_time now) {
    mp_client *c[MP_ROUTE_CANDIDATES];
    p->round++;
    for (group *g; (g = foremost(p, stage)) != NULL;) {
        mp_job *j = g->jobs.top.x;
        size_t n = candidates(p, j, stage, c, now);
        if (!n) { g->exhausted = p->round; continue; }
        int pick = choose(p, j, c, n, stage);
        if (pick == MP_ROUTE_HOLD) { queue_park(p, j, now); continue; }
        pass_over_all(p, c[pick], g);
        send(p, j, c[pick], now);
        look_at_touched(p, now);
    }
}

void dispatch(mp_pool *p, mp_time now) {
    for (size_t i = 0; i < p->n_touched; i++) client_settle(p->touched[i], now);
    while (p->dirty && !p->locked && !p->paused) {
        p->dirty = 0;
        look_at_touched(p, now);
#if MP_MUTANT == 14
        if (p->n_fresh_groups) p->n_fresh = 0;
#endif
        for (int stage = 1; stage <= 2; stage++) serve_stage(p, stage, now);
        for (size_t i = 0; i < p->n_fresh; i++) p->fresh[i]->fresh = 0;
        for (size_t i = 0; i < p->n_fresh_groups; i++) p->fresh_groups[i]->fresh = 0;
        size_t idle = p->n_fresh;
        p->n_fresh = p->n_fresh_groups = 0;
        for (size_t i = 0; i < idle; i++)
            if (p->fresh[i]->stage == 1) take_back(p->fresh[i], now);
    }
}

/* ---- the reply ----------------------------------------------------------------------------------------- */

/* The server no longer has a file that it was given: all are sent again, and the job is not to blame. */
static void file_lost(mp_client *c, const prompt *pr, mp_failure *f) {
    if (f->kind != MP_FAIL_INCOMPATIBLE || f->by_shape || !pr->reused || !f->node || !upload_feeds(pr, f->node)) return;
    upload_forget(c, 0);
    f->kind = MP_FAIL_CONNECTION;
}

static void refused(mp_client *c, prompt *pr, mp_failure *f, mp_time now) {
    long at = f->node && !f->node_type ? mp_workflow_index(pr->w, mp_str_of(f->node)) : -1;
    if (at >= 0) f->node_type = mp_strdup(mp_workflow_node(pr->w, (size_t)at)->class_type);      /* older servers name only the node */
    file_lost(c, pr, f);
    if (pr->job) attempt_failed(c->pool, pr->job, c, f, now);        /* first: the job still names its prompt */
    prompt_gone(pr);
}

static void accepted(mp_client *c, prompt *pr, const char *id, mp_time now) {
    mp_pool *p = c->pool;
    mp_job *j = pr->job;
    if (pr->at != AT_RUNNING) pr->at = AT_WAITING;
    pr->settled = now;
    if (c->heard <= pr->posted && c->has_socket) c->status_due = now + STATUS_DUE;       /* any word since proves the socket */
    c->poll_step = client_poll(c);
    c->poll_at = now + c->poll_step;
    if (strcmp(id, pr->id) != 0) {
        c->own_ids = -1;
        pr->real = mp_strdup(id);
        if (j) {
            job_accepted(p, j, now);
            job_tail(p, j)->real = mp_strdup(id);
            if (j->profile) mp_profile_prompt(j->profile, id);
        }
        early_replay(c, pr, now);                    /* may conclude and free pr */
        return;
    }
    if (j) job_accepted(p, j, now);
    c->own_ids = 1;
    early_clear(c);
    for (size_t i = 0; c->load > 1 && i < p->n_free_clients; i++)        /* somebody became idle while it was being sent */
        if (p->free[i]->stage == 1 && take_back(p->free[i], now)) break;
}

void posted(mp_client *c, const char *id, const mp_result *r, mp_time now) {
    mp_pool *p = c->pool;
    prompt *pr = prompt_by_id(c, mp_str_of(id));
    mp_failure f = { 0 };
    char *given = NULL;
    if (c->posting == pr) c->posting = NULL;
    client_touch(c);
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
            file_lost(c, pr, &f);
            pr->job = NULL;                          /* before anything else: early messages may be of its end */
            if (j) attempt_failed(p, j, c, &f, now);
            accepted(c, pr, given, now);
        } else refused(c, pr, &f, now);
        pr = prompt_by_id(c, mp_str_of(id));
        if (pr && !pr->job && !pr->deleted && !pr->over) prompt_kill(pr, now);       /* canceled while the POST was under way */
    }
    pr = prompt_by_id(c, mp_str_of(id));
    if (pr && pr->over) prompt_left(pr, now);        /* messages were faster */
    mp_failure_clear(&f);
    free(given);
    client_rearm(c, now);
}
