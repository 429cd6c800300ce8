/* pool/pool.c -- floor 5, pool: life, time and the reports of actions. */
#include "pool/inside.h"
#include <stdlib.h>

#define SLAB 16384

void mp_pool_defaults(mp_pool_opts *o) {
    *o = (mp_pool_opts){
        .connect_timeout = MP_MS(10000), .request_timeout = MP_MS(30000), .unreachable = MP_MS(120000), .no_client = MP_MS(60000),
        .node_silence = MP_MS(300000), .cold_silence = MP_MS(900000), .total = 0, .retry_delay = MP_MS(1000),
        .reconnect_base = MP_MS(1000), .reconnect_cap = MP_MS(15000), .poll = MP_MS(10000), .settle = MP_MS(5000), .recheck = MP_MS(5000),
        .execution_start = MP_MS(60000), .cooldown = MP_MS(60000), .catalogue = MP_MS(60000), .inactivity = MP_MS(60000), .affinity_fallback = 0, .max_failures = 1, .take_backs = 1, .max_previews = 32,
        .max_attempts = 3, .progress_limit = 256, .profiling = 1, .max_queued = 1000000, .completed_retention = 1000
    };
}

mp_pool *mp_pool_new(const mp_pool_opts *o, uint64_t seed_value, const mp_policy *policy, const mp_log *log) {
    mp_pool *p = mp_alloc(sizeof *p);
    p->o = *o;
    p->policy = policy;
    if (log) p->log = *log;
    mp_rng_seed(&p->rng, seed_value);
    mp_slab_init(&p->jobs, sizeof(mp_job), SLAB);
    mp_slab_init(&p->tails, sizeof(struct tail), SLAB);
    mp_slab_init(&p->prompts, sizeof(prompt), SLAB);
    mp_slab_init(&p->requests, sizeof(under_way), SLAB);
    p->check_at = MP_NEVER;
    p->least_no_client = o->no_client ? o->no_client : MP_NEVER;
    mp_heap_init(&p->delayed, offsetof(mp_job, heap_at));
    mp_heap_init(&p->deadlines, offsetof(struct wishes, deadline_at));
    mp_heap_init(&p->wakes, offsetof(mp_client, wake_at));
    return p;
}

void mp_pool_free(mp_pool *p) {
    if (!p) return;
    mp_action a;
    mp_event e;
    under_way *u, *next;
    p->freeing = 1;
    while (mp_pool_take_action(p, &a)) { free(a.path); free(a.body); mp_file_unref(a.file); }
    while (mp_pool_take_event(p, &e) || mp_pool_take_preview(p, &e)) mp_event_clear(&e);
    free(p->previews);
    HASH_ITER(hh, p->under_way, u, next) {
        HASH_DEL(p->under_way, u);
        shape_unref(p, u->s);
        mp_file_unref(u->file);
        mp_slab_give(&p->requests, u);
    }
    queue_free(p);
    job_free_all(p);
    HASH_CLEAR(hh, p->by_serial);
    HASH_CLEAR(hh_url, p->by_url);
    for (mp_client *c = p->clients, *after; c; c = after) {
        after = c->next;
        client_free(c);
    }
    free(p->free);
    free(p->fresh);
    free(p->touched);
    mp_heap_close(&p->wakes);
    mp_slab_close(&p->jobs);
    mp_slab_close(&p->tails);
    mp_slab_close(&p->prompts);
    mp_slab_close(&p->requests);
    free(p->actions);
    free(p->events);
    free(p);
}

void mp_pool_want(mp_pool *p, uint32_t mask) { p->mask = mask; }
const mp_pool_opts *mp_pool_options(const mp_pool *p) { return &p->o; }

int mp_pool_shutdown(mp_pool *p, int drain, mp_time now) {
    if (p->locked) return MP_EBUSY;
    p->closing = 1;
    for (size_t i = 0; !drain && i < p->n_slots; i++)
        if (p->slots[i] && !mp_job_ended(p->slots[i])) mp_pool_cancel(p, p->slots[i], now);
    return 0;
}

int mp_pool_pause(mp_pool *p, int on, mp_time now) {
    if (p->locked) return MP_EBUSY;
    p->paused = on != 0;
    p->dirty = 1;
    dispatch(p, now);
    return 0;
}

int mp_pool_paused(const mp_pool *p) { return p->paused; }

int mp_pool_quiet(const mp_pool *p) {
    if (p->stats.pending || p->stats.assigned || p->stats.running) return 0;
    for (const mp_client *c = p->clients; c; c = c->next) {
        int away = c->state != MP_CLIENT_ONLINE && (c->removed || c->failures > 1);          /* it was tried again, and could not be reached */
        if (c->prompts && !away && !c->wedged) return 0;     /* nor is there an end to wait for where one hangs */
    }
    return 1;
}

void mp_pool_tick(mp_pool *p, mp_time now) {
    if (p->locked) return;
    mp_client *c;
    for (size_t rounds = 0; (c = mp_heap_top(&p->wakes)) && c->wake <= now && rounds < 4 * p->n_clients + 16; rounds++) {
        link_tick(c, now);
        recover_tick(c, now);
        client_rearm(c, now);
    }
    queue_tick(p, now);
    dispatch(p, now);
}

mp_time mp_pool_next(const mp_pool *p) {
    const mp_client *c = mp_heap_top(&p->wakes);
    mp_time t = queue_next(p);
    return c && c->wake < t ? c->wake : t;
}

void mp_pool_done(mp_pool *p, uint64_t action, const mp_result *r, mp_time now) {
    under_way *u = action_under_way(p, action);
    if (!u) return;                                  /* reported before, or never ours */
    HASH_DEL(p->under_way, u);
    mp_client *c = u->client;
    c->actions--;
    p->stale = r->code && u->epoch != c->epoch;
    switch (u->why) {
    case DO_CONNECT: link_connected(c, action, r, now); break;
    case DO_CHECK: link_checked(c, r, now); break;
    case DO_CLOSE: link_closed(c, now); break;
    case DO_POST: posted(c, u->prompt, r, now); break;
    case DO_SURVEY: surveyed(c, action, r, now); break;
    case DO_HISTORY: historied(c, action, u->prompt, r, now); break;
    case DO_DELETE: case DO_INTERRUPT: prompt_killed(c, u->prompt, u->why, r, now); break;
    case DO_UPLOAD: uploaded(c, u->prompt, u->file, r, now); break;
    case DO_LOOK: block_looked(c, action, u->s, r, now); break;
    case DO_FREE:
        if (c->freeing == action) c->freeing = 0;
        link_freed(c, now);
        break;
    case DO_FORGET: break;
    }
    p->stale = 0;
    if (u->why == DO_FORGET) client_gone(c);
    else if (c->removed || c->draining) client_settle(c, now);
    mp_file_unref(u->file);
    mp_slab_give(&p->requests, u);
    dispatch(p, now);
}

void mp_pool_lost(mp_pool *p, mp_client *c, uint64_t conn, const char *why, mp_time now) {
    if (conn != c->conn) return;
    link_down(c, why, now);
    if (c->removed) client_settle(c, now);
    dispatch(p, now);
}

void mp_pool_get_stats(const mp_pool *p, mp_pool_stats *s) {
    *s = p->stats;
    s->clients = p->n_clients;
    s->online = 0;
    for (const mp_client *c = p->clients; c; c = c->next) s->online += !c->removed && c->state == MP_CLIENT_ONLINE;
}
