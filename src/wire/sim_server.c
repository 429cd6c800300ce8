/* wire/sim_server.c -- floor 6, wire: a simulated server behind a real port.
 * With a delay, everything in either direction waits in a list of its own, in order. */
#include "wire/sim_server.h"
#include "net/serve.h"
#include <stdlib.h>

typedef struct link { uint64_t tag; mp_exchange *x; mp_peer *p; struct link *next; } link;

typedef struct held {                                /* on its way in (sim-bound) or out */
    mp_time t;
    int out;
    mp_sim_out o;
    uint64_t tag;
    char *texts[8];                                  /* method, path, type, host, origin, range, since, body */
    size_t n_body;
    int what;                                        /* in: 0 request, 1 open, 2 text, 3 gone */
    struct held *next;
} held;

struct mp_sim_server {
    mp_loop *loop;
    mp_sim *sim;
    mp_server *server;
    mp_timer *timer;
    uint64_t next_tag;
    link *links;
    mp_time delay, up_at;
    held *first, *last;
    int pumping, doomed;                             /* doomed: closed by its observer; goes when the sim has done its step */
};

static link *by_tag(mp_sim_server *s, uint64_t tag) {
    link *l = s->links;
    while (l && l->tag != tag) l = l->next;
    return l;
}

static link *link_new(mp_sim_server *s, mp_exchange *x, mp_peer *p) {
    link *l = mp_alloc(sizeof *l);
    *l = (link){ ++s->next_tag, x, p, s->links };
    s->links = l;
    return l;
}

static void link_drop(mp_sim_server *s, const link *gone) {
    for (link **at = &s->links; *at; at = &(*at)->next) {
        if (*at != gone) continue;
        *at = gone->next;
        free((void *)gone);
        return;
    }
}

static link *by_peer(mp_sim_server *s, const mp_peer *p) {
    link *l = s->links;
    while (l && l->p != p) l = l->next;
    return l;
}

/* ---- out ------------------------------------------------------------------------------------------------------ */

static void put(mp_sim_server *s, mp_sim_out *o) {
    link *l = by_tag(s, o->tag);
    if (l && o->kind == MP_SIM_REPLY && l->x) {
        mp_serve_reply(l->x, o->status, o->content_type, o->headers, o->body, o->n);
        link_drop(s, l);
    } else if (l && l->p && o->over) mp_peer_send_slowly(l->p, o->kind == MP_SIM_BINARY, o->body, o->n, o->over);
    else if (l && l->p && (o->kind == MP_SIM_TEXT || o->kind == MP_SIM_BINARY)) mp_peer_send(l->p, o->kind == MP_SIM_BINARY, o->body, o->n, 1);
    else if (l && l->p && o->kind == MP_SIM_CLOSE) mp_peer_drop(l->p);
    free(o->body);
    free(o->headers);
}

static held *hold(mp_sim_server *s) {
    held *h = mp_alloc(sizeof *h);
    h->t = mp_loop_now(s->loop) + s->delay;
    if (s->first) s->last->next = h;
    else s->first = h;
    return s->last = h;
}

static void held_free(held *h) {
    for (int i = 0; i < 8; i++) free(h->texts[i]);
    free(h);
}

static void release(mp_sim_server *s, mp_time now) {
    while (s->first && s->first->t <= now) {
        held *h = s->first;
        s->first = h->next;
        if (h->out) put(s, &h->o);
        else if (h->what == 0) {
            mp_sim_request r = { h->tag, mp_str_of(h->texts[0]), mp_str_of(h->texts[1]), mp_str_of(h->texts[2]), mp_str_of(h->texts[3]), mp_str_of(h->texts[4]), mp_str_of(h->texts[5]), mp_str_of(h->texts[6]), mp_str_make(h->texts[7], h->n_body) };
            mp_sim_ask(s->sim, &r, now);
        } else if (h->what == 1) mp_sim_connect(s->sim, h->tag, mp_str_of(h->texts[0]), now);
        else if (h->what == 2) mp_sim_text(s->sim, h->tag, mp_str_of(h->texts[0]), now);
        else mp_sim_disconnect(s->sim, h->tag, now);
        held_free(h);
    }
}

/* At once, not when the sim has done all that was due: a peer is to see each thing when it happens. */
static void on_out(void *ud) {
    mp_sim_server *s = ud;
    mp_sim_out o;
    while (mp_sim_take(s->sim, &o)) {
        if (!s->delay) { put(s, &o); continue; }
        held *h = hold(s);
        h->out = 1;
        h->o = o;
    }
}

void mp_sim_server_pump(mp_sim_server *s) {
    if (s->pumping) return;
    s->pumping = 1;
    mp_time now = mp_loop_now(s->loop);
    release(s, now);
    mp_sim_tick(s->sim, now);
    mp_time next = mp_sim_next(s->sim);
    if (s->first && s->first->t < next) next = s->first->t;
    if (s->up_at && s->up_at <= now) { s->up_at = 0; mp_serve_pause(s->server, 0); }
    if (s->up_at && s->up_at < next) next = s->up_at;
    mp_timer_set(s->timer, next);
    s->pumping = 0;
    if (s->doomed) mp_sim_server_close(s);
}

static void on_timer(void *ud) { mp_sim_server_pump(ud); }

/* ---- in ---------------------------------------------------------------------------------------------------------- */

static void on_request(void *ud, mp_exchange *x, const mp_serve_request *r) {
    mp_sim_server *s = ud;
    link *l = link_new(s, x, NULL);
    if (s->delay) {
        const mp_str *texts[] = { &r->method, &r->path, &r->content_type, &r->host, &r->origin, &r->range, &r->since, &r->body };
        held *h = hold(s);
        h->tag = l->tag;
        h->n_body = r->body.n;
        for (int i = 0; i < 8; i++) h->texts[i] = mp_strndup(texts[i]->p, texts[i]->n);
    } else {
        mp_sim_request q = { l->tag, r->method, r->path, r->content_type, r->host, r->origin, r->range, r->since, r->body };
        s->pumping = 1;
        mp_sim_ask(s->sim, &q, mp_loop_now(s->loop));
        s->pumping = 0;
    }
    mp_sim_server_pump(s);
}

static void on_request_gone(void *ud, mp_exchange *x) {
    mp_sim_server *s = ud;
    for (link *l = s->links; l; l = l->next)
        if (l->x == x) { link_drop(s, l); return; }
}

static void in(mp_sim_server *s, int what, uint64_t tag, mp_str text) {
    held *h = hold(s);
    h->what = what;
    h->tag = tag;
    h->texts[0] = mp_strndup(text.p ? text.p : "", text.n);
    mp_sim_server_pump(s);
}

static int refuse(void *ud, mp_str path, mp_str host, mp_str origin) {
    (void)ud;
    if (!mp_str_is(path, "/ws") && !mp_str_is(path, "/api/ws")) return -1;
    return mp_sim_origin_ok(host, origin) ? 0 : 403;
}

static void on_open(void *ud, mp_peer *p, mp_str path) {
    mp_sim_server *s = ud;
    link *l = link_new(s, NULL, p);
    const char *id = path.n ? memmem(path.p, path.n, "clientId=", 9) : NULL;
    mp_str sid = id ? mp_str_make(id + 9, (size_t)(path.p + path.n - id) - 9) : mp_str_make(NULL, 0);
    const char *amp = sid.n ? memchr(sid.p, '&', sid.n) : NULL;
    if (amp) sid.n = (size_t)(amp - sid.p);
    in(s, 1, l->tag, sid);
}

static void on_text(void *ud, mp_peer *p, mp_str text) {
    mp_sim_server *s = ud;
    link *l = by_peer(s, p);
    if (l) in(s, 2, l->tag, text);
}

static void on_gone(void *ud, mp_peer *p) {
    mp_sim_server *s = ud;
    link *l = by_peer(s, p);
    if (!l) return;
    uint64_t tag = l->tag;
    link_drop(s, l);
    in(s, 3, tag, mp_str_make("", 0));
}

mp_sim_server *mp_sim_server_open(mp_loop *l, const char *host, int port, const mp_sim_opts *o, uint64_t seed, mp_err *e) {
    static const mp_serve_handler handler = { on_request, on_request_gone, refuse, on_open, on_text, on_gone };
    mp_sim_opts opts = *o;
    opts.epoch = mp_loop_epoch(l);
    mp_sim_server *s = mp_alloc(sizeof *s);
    s->loop = l;
    s->sim = mp_sim_new(&opts, seed, mp_loop_now(l), e);
    s->server = s->sim ? mp_serve_open(l, host ? host : "127.0.0.1", port, &handler, s, e) : NULL;
    if (!s->server) {
        mp_sim_free(s->sim);
        free(s);
        return NULL;
    }
    s->timer = mp_timer_new(l, on_timer, s);
    mp_sim_on_out(s->sim, on_out, s);
    return s;
}

void mp_sim_server_close(mp_sim_server *s) {
    if (!s) return;
    if (s->pumping) { s->doomed = 1; return; }
    s->pumping = 1;                                  /* nothing more goes out */
    mp_serve_close(s->server);
    mp_timer_free(s->timer);
    while (s->first) {
        held *h = s->first;
        s->first = h->next;
        if (h->out) { free(h->o.body); free(h->o.headers); }
        held_free(h);
    }
    while (s->links) link_drop(s, s->links);
    mp_sim_free(s->sim);
    free(s);
}

int mp_sim_server_busy(const mp_sim_server *s) { return s->pumping; }
int mp_sim_server_port(const mp_sim_server *s) { return mp_serve_port(s->server); }
mp_sim *mp_sim_server_sim(mp_sim_server *s) { return s->sim; }
void mp_sim_server_delay(mp_sim_server *s, mp_time each_way) { s->delay = each_way; }

void mp_sim_server_down(mp_sim_server *s, mp_time duration) {
    mp_time now = mp_loop_now(s->loop);
    mp_sim_restart(s->sim, now);
    mp_serve_pause(s->server, 1);
    s->up_at = now + duration;
    mp_sim_server_pump(s);
}
