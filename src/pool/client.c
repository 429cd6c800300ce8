/* pool/client.c -- floor 5, pool: a client's record: slots, what it claims, what it ran, what it refused. */
#include "pool/inside.h"
#include <stdio.h>
#include <stdlib.h>

static char **copy_list(const char *const *list) {
    size_t n = 0;
    while (list && list[n]) n++;
    char **v = mp_alloc((n + 1) * sizeof *v);
    for (size_t i = 0; i < n; i++) v[i] = mp_strdup(list[i]);
    return v;
}

static void free_list(char **v) {
    for (size_t i = 0; v && v[i]; i++) free(v[i]);
    free(v);
}

/* "http://gpu1:8188/comfy" -> "gpu1:8188" */
static char *host_of(const char *url) {
    const char *host = strstr(url, "://");
    host = host ? host + 3 : url;
    size_t n = strcspn(host, "/?#");
    for (size_t i = 0; i < n; i++)
        if (host[i] == '@') { host += i + 1; n -= i + 1; i = 0; }
    return mp_strndup(host, n);
}

static int well_formed(const char *url) {
    const char *host = strncmp(url, "http://", 7) == 0 ? url + 7 : strncmp(url, "https://", 8) == 0 ? url + 8 : NULL;
    if (!host || !*host || *host == '/' || strpbrk(url, " \t\r\n\"<>\\")) return 0;
    const char *end = host + strcspn(host, "/?#"), *colon = NULL;
    for (const char *z = host; z < end; z++)
        if (*z == ':') colon = z;
        else if (*z == ']') colon = NULL;            /* those of [::1] */
    if (!colon || colon + 1 == end) return 1;
    char *after;
    unsigned long port = strtoul(colon + 1, &after, 10);
    return after == end && port >= 1 && port <= 65535;
}

static void claim_all(mp_pool *p, mp_client *c, mp_time now) {
    size_t n = 0;
    while (c->affinity[n]) n++;
    c->claims = mp_alloc((n + 1) * sizeof *c->claims);
    for (size_t i = 0; i < n; i++) {
        shape *s = shape_of(p, c->affinity[i]);
        if (client_claims(c, s)) { shape_unref(p, s); continue; }
        c->claims[c->n_claims++] = s;
        shape_claim(p, s, c);
        shape_changed(p, s, now);
    }
}

mp_client *mp_pool_add_client(mp_pool *p, const char *url, const mp_client_opts *o, mp_time now, mp_err *e) {
    size_t n = strlen(url);
    mp_client *c;
    if (p->locked) return mp_fail(e, MP_EBUSY, "a policy runs: clients may not be added from inside it"), NULL;
    if (p->closing) return mp_fail(e, MP_EGONE, "the pool is shutting down"), NULL;
    if (!well_formed(url)) return mp_fail(e, MP_EINVAL, "\"%s\" is no server address; it should look like http://gpu1:8188", url), NULL;
    while (n && url[n - 1] == '/') n--;
    HASH_FIND(hh_url, p->by_url, url, n, c);
    if (c) return mp_fail(e, MP_EINVAL, "the pool has %s already", c->url), NULL;
    c = mp_alloc(sizeof *c);
    char sid[MP_UUID_SIZE];
    mp_uuid(&p->rng, sid);
    c->pool = p;
    c->serial = ++p->next_client;
    c->url = mp_strndup(url, n);
    c->name = o && o->name ? mp_strdup(o->name) : host_of(c->url);
    c->called = mp_alloc(sizeof *c->called);
    *c->called = (called){ 1, c->name, c->url };
    c->sid = o && o->client_id ? mp_strdup(o->client_id) : mp_format("moonpool-%s", sid);
    c->api_key = o ? mp_strdup(o->api_key) : NULL;
    c->tags = copy_list(o ? o->tags : NULL);
    c->affinity = copy_list(o ? o->affinity : NULL);
    c->priority = o ? o->priority : 0;
    c->slots = o && o->slots ? o->slots : 2;
    c->retry_at = c->status_due = c->poll_at = c->wedged_until = c->socket_at = c->block_at = c->start_asked = MP_NEVER;
    c->queue_remaining = -1;
    c->wake = MP_NEVER;
    c->wake_at = c->free_at = MP_HEAP_OUT;
    c->before = p->last_client;
    if (c->before) c->before->next = c;
    else p->clients = c;
    p->last_client = c;
    HASH_ADD(hh, p->by_serial, serial, sizeof c->serial, c);
    HASH_ADD_KEYPTR(hh_url, p->by_url, c->url, n, c);
    p->n_clients++;
    mp_heap_push(&p->wakes, c, c->wake, c->serial);
    claim_all(p, c, now);
    link_start(c, now);
    queue_presence(p, now);
    dispatch(p, now);
    return c;
}

static void unclaim_all(mp_client *c, mp_time now) {
    mp_pool *p = c->pool;
    size_t n = c->n_claims;
    c->n_claims = 0;                                 /* jobs that move look at what is claimed */
    for (size_t i = 0; i < n; i++) {
        shape *s = c->claims[i];
        shape_unclaim(p, s, c);
        if (!s->n_claimants) shape_changed(p, s, now);
        shape_unref(p, s);
    }
}

/* Its URL is free for another one from now on; its record stays until nothing names it any more. */
static void take_out(mp_client *c, mp_time now) {
    mp_pool *p = c->pool;
    c->removed = 1;
    HASH_DELETE(hh_url, p->by_url, c);
    unclaim_all(c, now);
    for (known *k = c->known; k; k = k->next) {
        if (!k->block) continue;
        shape *s = shape_ref(k->s);
        block_clear(c, k);
        shape_changed(p, s, now);
        shape_unref(p, s);
    }
    give_up_all(c, MP_FAIL_LOST, "its client was removed", 0, now);      /* what it still holds is deleted there first */
    while (c->state != MP_CLIENT_ONLINE && c->prompts) prompt_gone(c->prompts);      /* nobody will come back for them */
    p->n_clients--;
    client_touch(c);
    link_told(c, now);
    client_rearm(c, now);
}

int mp_pool_remove_client(mp_pool *p, mp_client *c, int drain, mp_time now) {
    if (p->locked) return MP_EBUSY;
    if (c->removed) return MP_EGONE;
    if (drain) {
        c->draining = 1;
        unclaim_all(c, now);                         /* else jobs for it would wait for it to come back */
        client_touch(c);
        queue_presence(p, now);
        client_rearm(c, now);
    } else take_out(c, now);
    dispatch(p, now);
    return 0;
}

int mp_pool_pause_client(mp_pool *p, mp_client *c, int on, mp_time now) {
    if (p->locked) return MP_EBUSY;
    if (c->removed) return MP_EGONE;
    c->paused = on != 0;
    client_touch(c);
    for (group *g = p->groups; g; g = g->hh.next) group_fresh(p, g);     /* soft rules look at who is open */
    dispatch(p, now);
    return 0;
}

/* A draining client without work is taken out; one that was taken out and holds nothing is let go for good. */
void client_settle(mp_client *c, mp_time now) {
    mp_pool *p = c->pool;
    if (c->draining && !c->removed) {
        for (prompt *pr = c->prompts; pr; pr = pr->next)
            if (pr->job) return;
        take_out(c, now);
    }
    if (!c->removed || c->prompts || c->actions || c->conn || c->forgotten || p->freeing) return;
    c->forgotten = 1;
    act(p, c, DO_FORGET, NULL, NULL, NULL, NULL, 0);
}

void client_gone(mp_client *c) {
    mp_pool *p = c->pool;
    if (c->before) c->before->next = c->next;
    else p->clients = c->next;
    if (c->next) c->next->before = c->before;
    else p->last_client = c->before;
    if (p->look_from == c) p->look_from = NULL;
    HASH_DEL(p->by_serial, c);
    mp_heap_remove(&p->wakes, c);
    client_free(c);
}

void called_unref(called *x) {
    if (!x || --x->refs) return;
    free(x->name);
    free(x->url);
    free(x);
}

void client_free(mp_client *c) {
    mp_pool *p = c->pool;
    while (c->prompts) prompt_gone(c->prompts);
    if (c->free_at != MP_HEAP_OUT || c->touched || c->fresh) client_forget_places(c);
    early_clear(c);
    for (size_t i = 0; i < c->n_claims; i++) {
        shape_unclaim(p, c->claims[i], c);
        shape_unref(p, c->claims[i]);
    }
    known_drop_all(c);
    spelling *sp, *next;
    HASH_ITER(hh, c->spellings, sp, next) {
        HASH_DEL(c->spellings, sp);
        spelling_free(sp);
    }
    upload_forget(c, 0);
    shape_unref(p, c->last_shape);
    free(c->claims);
    free(c->early);
    mp_workflow_unref(c->last);
    free_list(c->tags);
    free_list(c->affinity);
    called_unref(c->called);
    free(c->sid);
    free(c->api_key);
    free(c->problem);
    free(c->version);
    free(c->stats);
    free(c);
}

int client_open(const mp_client *c) {
    return c->state == MP_CLIENT_ONLINE && !c->removed && !c->draining && (!c->paused || MP_MUTANT == 16) && !c->wedged && !c->closing;
}

int client_is(const mp_client *c, const char *name) { return strcmp(c->name, name) == 0 || strcmp(c->url, name) == 0; }

void client_unwedge(mp_client *c, int moved, mp_time now) {
    if (moved) c->strikes = 0;
    if (!c->wedged) return;
    c->wedged = c->hopeless = 0;
    c->wedged_until = MP_NEVER;
    client_touch(c);
    queue_presence(c->pool, now);
}

void client_problem(mp_client *c, const char *words) {
    char *old = c->problem;
    c->problem = mp_strdup(words);
    free(old);
}

/* ---- reading -------------------------------------------------------------------------------------------- */

mp_client *mp_pool_client_was(const mp_pool *p, uint32_t serial) {
    mp_client *c;
    HASH_FIND(hh, p->by_serial, &serial, sizeof serial, c);
    return c;
}

mp_client *mp_pool_client(const mp_pool *p, uint32_t serial) {
    mp_client *c = mp_pool_client_was(p, serial);
    return c && !c->removed ? c : NULL;
}

size_t mp_pool_clients(const mp_pool *p, mp_client **out, size_t cap) {
    size_t n = 0;
    for (mp_client *c = p->clients; c; c = c->next) {
        if (c->removed) continue;
        if (n < cap) out[n] = c;
        n++;
    }
    return n;
}

uint32_t mp_client_serial(const mp_client *c) { return c->serial; }
const char *mp_client_url(const mp_client *c) { return c->url; }
const char *mp_client_name(const mp_client *c) { return c->name; }
const char *mp_client_sid(const mp_client *c) { return c->sid; }
const char *mp_client_problem(const mp_client *c) { return c->state == MP_CLIENT_ONLINE && !c->wedged ? NULL : c->problem; }
const char *mp_client_version(const mp_client *c) { return c->version; }
const char *mp_client_stats(const mp_client *c) { return c->stats; }
mp_client_state mp_client_get_state(const mp_client *c) { return c->state; }
int mp_client_slots(const mp_client *c) { return c->slots; }
int mp_client_load(const mp_client *c) { return c->load; }
int mp_client_holds(const mp_client *c, const char *id) { return prompt_by_id((mp_client *)c, mp_str_of(id)) != NULL; }
int mp_client_tried(const mp_client *c) { return c->tried; }
double mp_client_priority(const mp_client *c) { return c->priority; }
const char *const *mp_client_tags(const mp_client *c) { return (const char *const *)c->tags; }
const char *const *mp_client_affinity(const mp_client *c) { return (const char *const *)c->affinity; }
const char *mp_client_last_hash(const mp_client *c) { return c->last_shape ? c->last_shape->hash : ""; }
int mp_client_paused(const mp_client *c) { return c->paused; }
int mp_client_draining(const mp_client *c) { return c->draining; }
int mp_client_polling(const mp_client *c) { return c->state == MP_CLIENT_ONLINE && c->polling; }
const mp_workflow *mp_client_last_workflow(const mp_client *c) { return c->last; }

static mp_time typical(const mp_client *c, const shape *s) {
    known *k = client_known((mp_client *)c, (shape *)s, 0);
    return k && k->runs ? k->typical : 0;
}

mp_time mp_client_typical(const mp_client *c, const char *hash) {
    shape *s = shape_find(c->pool, hash);
    return s ? typical(c, s) : 0;
}

mp_time mp_client_expected(const mp_client *c, mp_time now) {
    mp_time left = 0;
    for (const prompt *pr = c->prompts; pr; pr = pr->next) {
        mp_time t = pr->k->runs ? pr->k->typical : 0, ran = pr->at == AT_RUNNING && pr->began != MP_NEVER ? now - pr->began : 0;
        if (t > ran) left += t - ran;
    }
    return left;
}

mp_time mp_client_finish(const mp_client *c, const mp_job *j, mp_time now) { return mp_client_expected(c, now) + typical(c, j->s); }

double mp_client_priority_for(const mp_client *c, const mp_job *j) {
    for (size_t i = 0; j->wishes && i < j->wishes->n_overrides; i++)
        if (client_is(c, j->wishes->overrides[i].client)) return j->wishes->overrides[i].priority;
    return c->priority;
}

int mp_client_warmth(const mp_client *c, const mp_job *j) {
    shape *s;
    mp_workflow *w = job_workflow_for(j, c, &s);
    if (c->last_shape == s) return 2;
    return c->last_shape && shape_holds(c->last_shape, s, w);
}
