/* net/loop.c -- floor 1, net: the loop, its timers, its worker threads, and the libwebsockets context.
 * libwebsockets looks at its own timers only after I/O; whoever arms one of its timeouts calls lws_cancel_service.
 * A clean end: destroy the context, some turns of the loop, destroy it again, close the loop. But the library (4.1) then
 * closes the descriptor of its own wake-up twice, and between the two another thread may have been given that number. So a
 * loop with a context is not destroyed: it is emptied and kept for the next one that is asked for (`kept`). Only when
 * something of it would not go away is it destroyed after all.
 *
 * Settings that cure traps of the library: no extensions are given, so permessage-deflate is never offered; the retry
 * policy and names are static, because their pointers are kept; vhosts without listeners, one for clients and one for
 * servers, because requests are bound to a vhost by port and Host; lws_service and its own timers are never used;
 * read sizes of 16 KB keep one talkative peer from holding up the others; the context is never destroyed in a callback. */
#include "net/inside.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct mp_timer { uv_timer_t t; mp_loop *loop; void (*fn)(void *); void *ud; mp_timer *next, **prev; };
typedef struct { uv_work_t w; mp_loop *loop; void (*work)(void *); void (*done)(void *); void *ud; } job;

static mp_time clock_us(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (mp_time)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void on_async(uv_async_t *a) { (void)a; }

static mp_loop *kept;                                /* under the lock of process_enter; linked by next_kept */

/* How many descriptors the loop waits for, or -1. */
static int watched(const mp_loop *l) {
    char path[64], line[256];
    int n = 0;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", uv_backend_fd(&l->uv));
    FILE *f = fopen(path, "r");
    if (!f) return -1;
    while (fgets(line, sizeof line, f)) n += strncmp(line, "tfd:", 4) == 0;
    fclose(f);
    return n;
}

#define OWN_DESCRIPTORS 3                            /* libuv's wake-up and signals, libwebsockets' wake-up */

/* Everything of others has been told to go; when it is gone, the loop waits for its next owner. 0: it is not gone. */
static int keep(mp_loop *l) {
    int n = -1;
    for (int i = 0; i < 100; i++) {
        lws_cancel_service(l->lws);
        uv_run(&l->uv, UV_RUN_NOWAIT);
        if (i >= 20 && !l->works && (n = watched(l)) <= OWN_DESCRIPTORS) break;
    }
    if (l->works || n < 0 || n > OWN_DESCRIPTORS) return 0;
    http_free(l);
    for (int i = 0; i < 10; i++) uv_run(&l->uv, UV_RUN_NOWAIT);
    l->kick.data = NULL;
    l->multi = NULL;
    process_enter();
    l->next_kept = kept;
    kept = l;
    process_leave();
    return 1;
}

mp_loop *mp_loop_new(mp_err *e) {
    process_enter();
    mp_loop *old = kept;
    if (old) kept = old->next_kept;
    if (old && http_init(old, e) == 0) {
        old->epoch = clock_us(CLOCK_REALTIME) - clock_us(CLOCK_MONOTONIC);
        old->closing = 0;
        process_leave();
        return old;
    }
    if (old) {                                       /* no handle to be had: the next one may be luckier */
        old->next_kept = kept;
        kept = old;
        process_leave();
        return NULL;
    }
    process_leave();
    mp_loop *l = mp_alloc(sizeof *l);
    process_enter();
    int rc = uv_loop_init(&l->uv);
    if (rc == 0) {
        l->uv.data = l;
        uv_async_init(&l->uv, &l->async, on_async);
        uv_unref((uv_handle_t *)&l->async);
        l->epoch = clock_us(CLOCK_REALTIME) - clock_us(CLOCK_MONOTONIC);
        rc = http_init(l, e);
    } else mp_fail(e, MP_EIO, "no event loop: %s", uv_strerror(rc));
    process_leave();
    if (rc == 0) return l;
    free(l);
    return NULL;
}

static const struct lws_protocols client_protocols[] = { { "moonpool", ws_callback, 0, 16384, 0, NULL, 0 }, { NULL, NULL, 0, 0, 0, NULL, 0 } };

static void client_vhost(struct lws_context_creation_info *i, const char *name, int tls) {
    i->port = CONTEXT_PORT_NO_LISTEN;
    i->protocols = client_protocols;
    i->vhost_name = name;
    i->http_proxy_address = ":0";                    /* else http_proxy of the environment is used, and no_proxy is not */
    if (tls) i->options |= LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
    else i->options &= ~(uint64_t)LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
}

/* Apart, because it reads all certificates of the system: some 75 ms and 3 MB that plain connections need not pay. */
/* One for each CA file in use, made when first asked for; the first is for the system's own CAs. */
struct lws_vhost *loop_tls(mp_loop *l, const char *ca_file) {
    struct lws_context_creation_info i;
    size_t k = 0;
    while (k < l->n_tls && strcmp(l->tls[k].ca_file, ca_file ? ca_file : "") != 0) k++;
    if (k < l->n_tls) return l->tls[k].vhost;
    char *name = mp_format("client-tls-%zu", k);
    memset(&i, 0, sizeof i);
    i.options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS | LWS_SERVER_OPTION_LIBUV;
    client_vhost(&i, name, 1);
    i.client_ssl_ca_filepath = ca_file;
    process_enter();
    struct lws_vhost *v = lws_create_vhost(l->lws, &i);
    process_leave();
    if (!v) { free(name); return NULL; }
    l->tls = mp_realloc(l->tls, (k + 1) * sizeof *l->tls);
    l->tls[k].ca_file = mp_strdup(ca_file ? ca_file : "");
    l->tls[k].name = name;
    l->tls[k].vhost = v;
    l->n_tls++;
    return v;
}

const lws_retry_bo_t *loop_pings(mp_loop *l, mp_time inactivity) {
    mp_time s = inactivity / MP_MS(1000);
    uint16_t hang_up = (uint16_t)(s < 2 ? 2 : s > 60000 ? 60000 : s);
    struct pings *p = l->pings;
    while (p && p->policy.secs_since_valid_hangup != hang_up) p = p->next;
    if (p) return &p->policy;
    p = mp_alloc(sizeof *p);
    p->policy.secs_since_valid_hangup = hang_up;
    p->policy.secs_since_valid_ping = (uint16_t)(hang_up / 3 ? hang_up / 3 : 1);
    p->next = l->pings;
    l->pings = p;
    return &p->policy;
}

int loop_lws(mp_loop *l, mp_err *e) {
    static const lws_retry_bo_t no_pings = { .secs_since_valid_ping = 0xfffe, .secs_since_valid_hangup = 0xffff };       /* as ComfyUI: protocol 3.1 */
    if (l->lws) return 0;
    struct lws_context_creation_info i;
    void *loops[1] = { &l->uv };
    memset(&i, 0, sizeof i);
    i.options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS | LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
    i.foreign_loops = loops;
    i.fd_limit_per_thread = 4096;                    /* else tables by ulimit and linear scans at each connect */
    i.max_http_header_data = 16384;
    i.pt_serv_buf_size = 16384;
    i.retry_and_idle_policy = &no_pings;
    process_enter();
    l->lws = lws_create_context(&i);
    if (l->lws) {
        client_vhost(&i, "client", 0);
        l->client_vhost = lws_create_vhost(l->lws, &i);
        i.port = CONTEXT_PORT_NO_LISTEN_SERVER;
        i.protocols = serve_protocols;
        i.vhost_name = "server";
        l->server_vhost = lws_create_vhost(l->lws, &i);
    }
    process_leave();
    return l->lws && l->client_vhost && l->server_vhost ? 0 : mp_fail(e, MP_EIO, "libwebsockets gave no context (is its libuv plugin installed?)");
}

static void close_leftover(uv_handle_t *h, void *arg) {
    (void)arg;
    if (!uv_is_closing(h)) uv_close(h, NULL);
}

void mp_loop_free(mp_loop *l) {
    if (!l) return;
    l->closing = 1;
    serve_close_all(l);
    ws_close_all(l);
    http_close_all(l);
    while (l->timers) mp_timer_free(l->timers);
    for (int i = 0; i < 200 && l->works; i++) uv_run(&l->uv, UV_RUN_ONCE);
    if (l->lws && keep(l)) return;
    process_enter();
    if (l->lws) {
        lws_context_destroy(l->lws);
        for (int i = 0; i < 10; i++) uv_run(&l->uv, UV_RUN_NOWAIT);
        lws_context_destroy(l->lws);                 /* the second call frees it; without it, it leaks */
    }
    http_free(l);
    uv_close((uv_handle_t *)&l->async, NULL);
    for (int i = 0; i < 10; i++) uv_run(&l->uv, UV_RUN_NOWAIT);
    if (uv_loop_close(&l->uv) == UV_EBUSY) {
        uv_walk(&l->uv, close_leftover, NULL);
        for (int i = 0; i < 10; i++) uv_run(&l->uv, UV_RUN_NOWAIT);
        uv_loop_close(&l->uv);
    }
    process_leave();
    for (size_t i = 0; i < l->n_tls; i++) {
        free(l->tls[i].ca_file);
        free(l->tls[i].name);
    }
    while (l->pings) {
        struct pings *next = l->pings->next;
        free(l->pings);
        l->pings = next;
    }
    free(l->tls);
    free(l);
}

mp_time mp_loop_now(const mp_loop *l) { (void)l; return clock_us(CLOCK_MONOTONIC); }
mp_time mp_loop_epoch(const mp_loop *l) { return l->epoch; }
int mp_loop_fd(const mp_loop *l) { return uv_backend_fd(&l->uv); }
void mp_loop_wake(mp_loop *l) { uv_async_send(&l->async); }

int mp_loop_timeout_ms(const mp_loop *l) {
    uv_update_time((uv_loop_t *)&l->uv);
    return uv_backend_timeout(&l->uv);
}

static void on_wait_over(uv_timer_t *t) { (void)t; }

/* The only place that waits. The bound is a timer of the loop's own, so that nothing else needs to know of it. */
int mp_loop_step(mp_loop *l, int wait_ms) {
    if (l->stepping) return MP_EBUSY;
    l->stepping = 1;
    if (wait_ms <= 0) uv_run(&l->uv, UV_RUN_NOWAIT);
    else {
        if (!l->kick.data) { uv_timer_init(&l->uv, &l->kick); l->kick.data = l; }
        uv_update_time(&l->uv);
        uv_timer_start(&l->kick, on_wait_over, (uint64_t)wait_ms, 0);
        uv_run(&l->uv, UV_RUN_ONCE);
        uv_timer_stop(&l->kick);
    }
    l->stepping = 0;
    return 0;
}

/* ---- timers ---------------------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *t) {
    mp_timer *x = t->data;
    x->fn(x->ud);
}

mp_timer *mp_timer_new(mp_loop *l, void (*fn)(void *), void *ud) {
    mp_timer *t = mp_alloc(sizeof *t);
    uv_timer_init(&l->uv, &t->t);
    t->t.data = t;
    t->loop = l;
    t->fn = fn;
    t->ud = ud;
    t->next = l->timers;
    t->prev = &l->timers;
    if (t->next) t->next->prev = &t->next;
    l->timers = t;
    return t;
}

/* At least 1 ms: a timer re-armed with 0 in its own callback would starve all I/O. */
void mp_timer_set(mp_timer *t, mp_time at) {
    if (at == MP_NEVER) { uv_timer_stop(&t->t); return; }
    mp_time wait = at - mp_loop_now(t->loop);
    uint64_t ms = wait <= 1000 ? 1 : (uint64_t)((wait + 999) / 1000);
    if (ms > 86400000) ms = 86400000;
    uv_update_time(&t->loop->uv);
    uv_timer_start(&t->t, on_timer, ms, 0);
}

static void on_timer_closed(uv_handle_t *h) { free(h->data); }

void mp_timer_free(mp_timer *t) {
    if (!t) return;
    *t->prev = t->next;
    if (t->next) t->next->prev = t->prev;
    uv_close((uv_handle_t *)&t->t, on_timer_closed);
}

/* ---- files of others ---------------------------------------------------------------------------------------- */

struct mp_watch { uv_poll_t poll; void (*fn)(void *); void *ud; };

static void on_readable(uv_poll_t *p, int status, int events) {
    mp_watch *w = p->data;
    (void)status;
    (void)events;
    w->fn(w->ud);
}

static void on_watch_closed(uv_handle_t *h) { free(h->data); }

mp_watch *mp_watch_new(mp_loop *l, int fd, void (*fn)(void *), void *ud) {
    mp_watch *w = mp_alloc(sizeof *w);
    if (uv_poll_init(&l->uv, &w->poll, fd) != 0) { free(w); return NULL; }
    w->poll.data = w;
    w->fn = fn;
    w->ud = ud;
    uv_poll_start(&w->poll, UV_READABLE | UV_DISCONNECT, on_readable);
    return w;
}

void mp_watch_free(mp_watch *w) {
    if (!w) return;
    uv_poll_stop(&w->poll);
    uv_close((uv_handle_t *)&w->poll, on_watch_closed);
}

/* ---- work -------------------------------------------------------------------------------------------------- */

static void on_work(uv_work_t *w) { job *j = w->data; j->work(j->ud); }
static void on_work_done(uv_work_t *w, int status) {
    job *j = w->data;
    (void)status;
    j->loop->works--;
    j->done(j->ud);
    free(j);
}

void mp_loop_work(mp_loop *l, void (*work)(void *), void (*done)(void *), void *ud) {
    job *j = mp_alloc(sizeof *j);
    *j = (job){ .loop = l, .work = work, .done = done, .ud = ud };
    j->w.data = j;
    l->works++;
    uv_queue_work(&l->uv, &j->w, on_work, on_work_done);
}
