/* pool/event.c -- floor 5, pool: the two queues that the owner drains: actions and events. */
#include "pool/inside.h"
#include <stdlib.h>

/* Ids count up: they are their own hash. */
under_way *action_under_way(mp_pool *p, uint64_t id) {
    under_way *u;
    HASH_FIND_BYHASHVALUE(hh, p->under_way, &id, sizeof id, (unsigned)id, u);
    return u;
}

uint64_t act(mp_pool *p, mp_client *c, purpose why, const char *id, const char *method, mp_buf *path, mp_buf *body, mp_time timeout) {
    under_way *u = mp_alloc(sizeof *u);
    u->id = ++p->next_action;
    u->why = why;
    u->client = c;
    u->epoch = c->epoch;
    c->actions++;
    if (id) memcpy(u->prompt, id, strlen(id) + 1);
    HASH_ADD_BYHASHVALUE(hh, p->under_way, id, sizeof u->id, (unsigned)u->id, u);
    if (p->a_head + p->a_n == p->a_cap && p->a_head) {               /* slide down before growing */
        memmove(p->actions, p->actions + p->a_head, p->a_n * sizeof *p->actions);
        p->a_head = 0;
    }
    p->actions = mp_grow(p->actions, p->a_head + p->a_n, &p->a_cap, sizeof *p->actions);
    mp_action *a = &p->actions[p->a_head + p->a_n++];
    memset(a, 0, sizeof *a);
    a->id = u->id;
    a->kind = why == DO_CONNECT ? MP_ACT_CONNECT : why == DO_CLOSE ? MP_ACT_CLOSE : why == DO_FORGET ? MP_ACT_FORGET : why == DO_UPLOAD ? MP_ACT_UPLOAD : MP_ACT_HTTP;
    a->client = c;
    a->method = method;
    a->timeout = timeout;
    if (path) a->path = mp_buf_take(path, NULL);
    if (body) a->body = mp_buf_take(body, &a->n_body);
    return u->id;
}

int mp_pool_take_action(mp_pool *p, mp_action *a) {
    if (!p->a_n) { p->a_head = 0; return 0; }
    *a = p->actions[p->a_head++];
    p->a_n--;
    return 1;
}

/* The ends of jobs are always told: somebody may wait for them. */
int wanted(const mp_pool *p, mp_event_kind k) {
    return k == MP_EV_JOB_COMPLETED || k == MP_EV_JOB_FAILED || k == MP_EV_JOB_CANCELED || k == MP_EV_CLIENT_STATE || (p->mask >> k & 1);
}

/* A script that is slow gets the newest previews: the oldest that waits goes. */
static void drop_preview(mp_pool *p) {
    for (size_t i = 0; i < p->e_n; i++) {
        mp_event *e = &p->events[p->e_head + i];
        if (e->kind != MP_EV_JOB_PREVIEW) continue;
        mp_event_clear(e);
        memmove(e, e + 1, (p->e_n - i - 1) * sizeof *e);
        p->e_n--;
        p->e_previews--;
        return;
    }
}

mp_event *event(mp_pool *p, mp_event_kind k, const mp_job *j, const mp_client *c, mp_time now) {
    mp_event *last = p->e_n ? &p->events[p->e_head + p->e_n - 1] : NULL;
    if (k == MP_EV_JOB_PROGRESS && last && last->kind == k && last->job == j->id) {      /* nobody has seen it: the newer one stands */
        mp_event_clear(last);
        last->t = now;
        return last;
    }
    if (k == MP_EV_JOB_PREVIEW) {
        if (p->e_previews >= (size_t)p->o.max_previews) drop_preview(p);
        p->e_previews++;
    }
    if (p->e_head + p->e_n == p->e_cap && p->e_head) {
        memmove(p->events, p->events + p->e_head, p->e_n * sizeof *p->events);
        p->e_head = 0;
    }
    p->events = mp_grow(p->events, p->e_head + p->e_n, &p->e_cap, sizeof *p->events);
    mp_event *e = &p->events[p->e_head + p->e_n++];
    memset(e, 0, sizeof *e);
    e->kind = k;
    e->job = j ? j->id : 0;
    e->client = c ? c->serial : 0;
    e->t = now;
    return e;
}

void event_data(mp_event *e, const void *p, size_t n) {
    e->data = mp_strndup(p, n);
    e->n_data = n;
}

int mp_pool_take_event(mp_pool *p, mp_event *e) {
    if (!p->e_n) { p->e_head = 0; return 0; }
    *e = p->events[p->e_head++];
    p->e_n--;
    if (e->kind == MP_EV_JOB_PREVIEW && p->e_previews) p->e_previews--;
    return 1;
}

void mp_event_clear(mp_event *e) {
    free(e->node);
    free(e->data);
    e->node = e->data = NULL;
}
