/* pool/client.c -- floor 5, pool: a client's record: slots, what it claims, what it ran, what it refused. */
#include "pool/inside.h"
#include <stdio.h>
#include <stdlib.h>

#define KNOWN_HASHES 1000                            /* hashes remembered per client */

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

int wake_before(const void *a, const void *b) {
    const mp_client *x = a, *y = b;
    return x->wake != y->wake ? x->wake < y->wake : x->serial < y->serial;
}

static int well_formed(const char *url) {
    const char *host = strncmp(url, "http://", 7) == 0 ? url + 7 : strncmp(url, "https://", 8) == 0 ? url + 8 : NULL;
    return host && *host && *host != '/' && !strpbrk(url, " \t\r\n\"<>\\");
}

mp_client *mp_pool_add_client(mp_pool *p, const char *url, const mp_client_opts *o, mp_time now, mp_err *e) {
    size_t n = strlen(url);
    if (p->locked) return mp_fail(e, MP_EBUSY, "a policy runs: clients may not be added from inside it"), NULL;
    if (p->closing) return mp_fail(e, MP_EGONE, "the pool is shutting down"), NULL;
    if (!well_formed(url)) return mp_fail(e, MP_EINVAL, "\"%s\" is no server address; it should look like http://gpu1:8188", url), NULL;
    while (n && url[n - 1] == '/') n--;
    mp_client **at = &p->clients;
    for (; *at; at = &(*at)->next)
        if (strlen((*at)->url) == n && strncmp((*at)->url, url, n) == 0 && !(*at)->removed)
            return mp_fail(e, MP_EINVAL, "the pool has %s already", (*at)->url), NULL;
    mp_client *c = mp_alloc(sizeof *c);
    char sid[MP_UUID_SIZE];
    mp_uuid(&p->rng, sid);
    c->pool = p;
    c->serial = ++p->next_client;
    c->url = mp_strndup(url, n);
    c->name = o && o->name ? mp_strdup(o->name) : host_of(c->url);
    c->sid = o && o->client_id ? mp_strdup(o->client_id) : mp_format("moonpool-%s", sid);
    c->tags = copy_list(o ? o->tags : NULL);
    c->affinity = copy_list(o ? o->affinity : NULL);
    c->priority = o ? o->priority : 0;
    c->slots = o && o->slots ? o->slots : 2;
    c->retry_at = c->status_due = c->poll_at = c->wedged_until = MP_NEVER;
    c->queue_remaining = -1;
    c->wake = MP_NEVER;
    c->wake_at = MP_HEAP_OUT;
    *at = c;
    p->n_clients++;
    mp_heap_push(&p->wakes, c);
    link_start(c, now);
    if (c->affinity[0]) queue_regroup(p, now);
    else queue_presence(p, now);
    dispatch(p, now);
    return c;
}

/* Its record stays until the pool is freed, because actions under way still name it. */
int mp_pool_remove_client(mp_pool *p, mp_client *c, mp_time now) {
    if (p->locked) return MP_EBUSY;
    if (c->removed) return MP_EGONE;
    c->removed = 1;
    give_up_all(c, MP_FAIL_LOST, "its client was removed", 0, now);      /* what it still holds is deleted there first */
    p->n_clients--;
    queue_regroup(p, now);
    client_rearm(c, now);
    dispatch(p, now);
    return 0;
}

void client_free(mp_client *c) {
    known *k, *next;
    while (c->prompts) prompt_gone(c->prompts);
    early_clear(c);
    HASH_ITER(hh, c->known, k, next) {
        HASH_DEL(c->known, k);
        free(k->reason);
        free(k);
    }
    free(c->early);
    mp_workflow_unref(c->last);
    free_list(c->tags);
    free_list(c->affinity);
    free(c->url);
    free(c->name);
    free(c->sid);
    free(c->problem);
    free(c->version);
    free(c->stats);
    free(c);
}

int client_open(const mp_client *c) { return c->state == MP_CLIENT_ONLINE && !c->removed && !c->wedged && !c->closing; }

int client_claims(const mp_client *c, const char *hash) {
    for (char **h = c->affinity; *h; h++)
        if (strcmp(*h, hash) == 0) return 1;
    return 0;
}

int pool_claimed(const mp_pool *p, const char *hash) {
    for (const mp_client *c = p->clients; c; c = c->next)
        if (!c->removed && client_claims(c, hash)) return 1;
    return 0;
}

int mp_client_may_run(const mp_pool *p, const mp_client *c, const char *hash) {
    known *k = client_known((mp_client *)c, hash, 0);
    if (c->removed || (k && k->reason)) return 0;
    return MP_MUTANT == 2 || client_claims(c, hash) || !pool_claimed(p, hash);
}

known *client_known(mp_client *c, const char *hash, int make) {
    known *k;
    HASH_FIND_STR(c->known, hash, k);
    if (k || !make) return k;
    if (HASH_COUNT(c->known) >= KNOWN_HASHES) {      /* the oldest goes; a block would only be learnt again */
        known *oldest = c->known;
        HASH_DEL(c->known, oldest);
        free(oldest->reason);
        free(oldest);
    }
    k = mp_alloc(sizeof *k);
    memcpy(k->hash, hash, strlen(hash) + 1);
    HASH_ADD_STR(c->known, hash, k);
    return k;
}

/* One run of a hash took this long: the typical time follows by a quarter each run. */
void client_ran(mp_client *c, const prompt *pr, mp_time took) {
    known *k = client_known(c, pr->hash, 1);
    if (took >= 0) k->typical = k->runs ? k->typical + (took - k->typical) / 4 : took;
    k->runs++;
}

void client_unwedge(mp_client *c, int moved, mp_time now) {
    if (moved) c->strikes = 0;
    if (!c->wedged) return;
    c->wedged = 0;
    c->wedged_until = MP_NEVER;
    queue_presence(c->pool, now);
}

void client_problem(mp_client *c, const char *words) {
    char *old = c->problem;
    c->problem = mp_strdup(words);
    free(old);
}

/* ---- reading -------------------------------------------------------------------------------------------- */

mp_client *mp_pool_client(const mp_pool *p, uint32_t serial) {
    for (mp_client *c = p->clients; c; c = c->next)
        if (c->serial == serial) return c->removed ? NULL : c;
    return NULL;
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
const char *mp_client_last_hash(const mp_client *c) { return c->last_hash; }
const mp_workflow *mp_client_last_workflow(const mp_client *c) { return c->last; }

mp_time mp_client_typical(const mp_client *c, const char *hash) {
    known *k = client_known((mp_client *)c, hash, 0);
    return k && k->runs ? k->typical : 0;
}

mp_time mp_client_expected(const mp_client *c, mp_time now) {
    mp_time left = 0;
    for (const prompt *pr = c->prompts; pr; pr = pr->next) {
        mp_time typical = mp_client_typical(c, pr->hash), ran = pr->at == AT_RUNNING ? now - pr->heard : 0;
        if (typical > ran) left += typical - ran;
    }
    return left;
}
