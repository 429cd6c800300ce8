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
    under_way *u = mp_slab_take(&p->requests);
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
    return mp_event_ends(k) || k == MP_EV_CLIENT_STATE || (p->mask >> k & 1);
}

/* ---- previews: they wait apart, for a moment when there is nothing better to do ----------------------------------- */

static void shift_previews(mp_pool *p, size_t i) {
    memmove(p->previews + i, p->previews + i + 1, (--p->n_previews - i) * sizeof *p->previews);
}

/* Room for one more. A script that is slow gets the newest: the oldest that waits goes. */
static mp_event *preview_room(mp_pool *p) {
    if (!p->previews) p->previews = mp_alloc((size_t)p->o.max_previews * sizeof *p->previews);
    if (p->n_previews == (size_t)p->o.max_previews) {
        mp_event_clear(&p->previews[0]);
        shift_previews(p, 0);
    }
    return &p->previews[p->n_previews++];
}

void previews_bound(mp_pool *p) {
    size_t bytes = 0;
    for (size_t i = 0; i < p->n_previews; i++) bytes += p->previews[i].n_data;
    while (p->n_previews > 1 && bytes > PREVIEW_BYTES) {
        bytes -= p->previews[0].n_data;
        mp_event_clear(&p->previews[0]);
        shift_previews(p, 0);
    }
}

int mp_pool_take_preview(mp_pool *p, mp_event *e) {
    if (!p->n_previews) return 0;
    *e = p->previews[0];
    shift_previews(p, 0);
    return 1;
}

size_t mp_pool_previews(const mp_pool *p) { return p->n_previews; }

/* What an attempt showed is told before how it ended. */
static int preview_before(mp_pool *p, mp_event *e) {
    const mp_event *next = &p->events[p->e_head];
    int ends = mp_event_ends(next->kind) || next->kind == MP_EV_JOB_RETRYING || next->kind == MP_EV_JOB_TAKEN_BACK;
    for (size_t i = 0; ends && i < p->n_previews; i++)
        if (p->previews[i].job == next->job) {
            *e = p->previews[i];
            shift_previews(p, i);
            return 1;
        }
    return 0;
}

/* ---- events --------------------------------------------------------------------------------------------------- */

mp_event *event(mp_pool *p, mp_event_kind k, const mp_job *j, const mp_client *c, mp_time now) {
    mp_event *last = p->e_n ? &p->events[p->e_head + p->e_n - 1] : NULL;
    if (k == MP_EV_JOB_PROGRESS && last && last->kind == k && last->job == j->id) {      /* nobody has seen it: the newer one stands */
        mp_event_clear(last);
        last->t = now;
        return last;
    }
    if (k != MP_EV_JOB_PREVIEW && p->e_head + p->e_n == p->e_cap && p->e_head) {
        memmove(p->events, p->events + p->e_head, p->e_n * sizeof *p->events);
        p->e_head = 0;
    }
    mp_event *e;
    if (k == MP_EV_JOB_PREVIEW) e = preview_room(p);
    else {
        p->events = mp_grow(p->events, p->e_head + p->e_n, &p->e_cap, sizeof *p->events);
        e = &p->events[p->e_head + p->e_n++];
    }
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
    if (p->n_previews && preview_before(p, e)) return 1;
    *e = p->events[p->e_head++];
    p->e_n--;
    return 1;
}

void mp_event_clear(mp_event *e) {
    free(e->node);
    free(e->data);
    e->node = e->data = NULL;
}
