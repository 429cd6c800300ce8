/* tests/chaos/proxy.c -- a TCP proxy that misbehaves to order; it stands between the pool and its servers.
 *   chaosproxy LISTEN:TARGET ...     ports of 127.0.0.1; route 1 is the first. "ready" is printed when all listen.
 * Commands are lines of standard input, whose end ends the program:
 *   cut N             resets every connection of route N
 *   cut N BYTES       its connections, new ones too, end after so many more bytes towards the client
 *   delay N MS        bytes wait that long, each way, in order
 *   half N up|down    bytes towards the server (up) or the client (down) are thrown away; the sockets stay open
 *   fin N up|down     each of its connections ends in that direction, as when the sender has finished, and goes on in the other;
 *                     what still comes for that direction is thrown away
 *   drop N on|off     new connections are refused
 *   heal N            the end of all these; connections whose bytes were thrown away are reset, as what would
 *                     follow could only mislead
 *   stats             prints the number of connections and of bytes
 * Memory is bounded: WINDOW bytes per direction, then it stops reading; CONNECTIONS per route, then it resets. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#define ROUTES 64
#define CONNECTIONS 256
#define PIECE 16384
#define WINDOW (4 * PIECE)

typedef struct chunk { struct chunk *next; uint64_t due; size_t n; int end; char p[]; } chunk;   /* end: the sender has finished */
typedef struct conn conn;
typedef struct route route;

typedef struct flow {                                /* one direction of a connection */
    conn *c;
    uv_tcp_t *from, *to;
    chunk *first, *last, *writing;
    size_t held;
    int reading, ended, over;                        /* ended: nothing is taken any more; over: its end was passed on */
    uv_timer_t timer;
    uv_write_t write;
    uv_shutdown_t shutdown;
} flow;

struct conn {
    route *r;
    uv_tcp_t client, server;
    uv_connect_t connect;
    flow up, down;
    long budget;                                     /* bytes left towards the client; -1: no bound */
    int closing, handles, lossy;                     /* lossy: bytes of it were thrown away */
    conn *next, **prev;
};

struct route {
    uv_tcp_t *listener;                              /* NULL: refuses */
    int port, target, up_void, down_void;
    uint64_t delay;
    long budget;
    conn *conns;
    size_t n_conns;
};

static route routes[ROUTES];
static int n_routes;
static unsigned long long bytes;
static uv_loop_t *loop;

static void fail(const char *what, int rc) {
    printf("error: %s: %s\n", what, uv_strerror(rc));
    fflush(stdout);
    exit(1);
}

static void *alloc(size_t n) {
    void *p = calloc(1, n);
    if (!p) fail("memory", UV_ENOMEM);
    return p;
}

/* ---- the end of a connection ------------------------------------------------------------------------------ */

static void flow_free(flow *f) {
    for (chunk *k = f->first, *next; k; k = next) {
        next = k->next;
        free(k);
    }
    free(f->writing);
}

static void on_closed(uv_handle_t *h) {
    conn *c = h->data;
    if (--c->handles) return;
    flow_free(&c->up);
    flow_free(&c->down);
    free(c);
}

/* With a reset both ends see an error; else what was written arrives before the end. */
static void finish(conn *c, int reset) {
    uv_tcp_t *ends[] = { &c->client, &c->server };
    if (c->closing) return;
    c->closing = 1;
    *c->prev = c->next;
    if (c->next) c->next->prev = c->prev;
    c->r->n_conns--;
    for (int i = 0; i < 2; i++)
        if (!reset || uv_tcp_close_reset(ends[i], on_closed) != 0) uv_close((uv_handle_t *)ends[i], on_closed);
    uv_close((uv_handle_t *)&c->up.timer, on_closed);
    uv_close((uv_handle_t *)&c->down.timer, on_closed);
}

/* ---- passing on -------------------------------------------------------------------------------------------- */

static void pump(flow *f);
static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b);

static void on_alloc(uv_handle_t *h, size_t wish, uv_buf_t *b) {
    chunk *k = alloc(sizeof *k + PIECE);
    (void)h;
    (void)wish;
    *b = uv_buf_init(k->p, PIECE);
}

static void read_more(flow *f) {
    if (f->reading || f->c->closing || f->held >= WINDOW) return;
    f->reading = 1;
    uv_read_start((uv_stream_t *)f->from, on_alloc, on_read);
}

static void on_due(uv_timer_t *t) {
    conn *c = t->data;
    pump(t == &c->up.timer ? &c->up : &c->down);
}

static void on_written(uv_write_t *w, int status) {
    flow *f = w->data;
    conn *c = f->c;
    f->held -= f->writing->n;
    free(f->writing);
    f->writing = NULL;
    if (c->closing) return;
    if (status < 0) { finish(c, 1); return; }
    if (f == &c->down && c->budget == 0) { finish(c, 0); return; }
    read_more(f);
    pump(f);
}

static void on_shutdown(uv_shutdown_t *s, int status) {
    conn *c = ((flow *)s->data)->c;
    (void)status;
    if (!c->closing && c->up.over && c->down.over) finish(c, 0);
}

/* Writes what is due, one chunk at a time, so that the order stays and the window counts. */
static void pump(flow *f) {
    conn *c = f->c;
    chunk *k = f->first;
    if (c->closing || f->writing || !k) return;
    if (k->due > uv_now(loop)) {
        uv_timer_start(&f->timer, on_due, k->due - uv_now(loop), 0);
        return;
    }
    f->first = k->next;
    if (k->end) {
        free(k);
        f->over = 1;
        f->shutdown.data = f;
        if (uv_shutdown(&f->shutdown, (uv_stream_t *)f->to, on_shutdown) != 0) finish(c, 1);
        return;
    }
    size_t n = k->n;
    if (f == &c->down && c->budget >= 0) {
        if ((size_t)c->budget < n) n = (size_t)c->budget;
        c->budget -= (long)n;
        if (!n) {                                    /* nothing more may pass */
            free(k);
            finish(c, 0);
            return;
        }
    }
    uv_buf_t b = uv_buf_init(k->p, (unsigned)n);
    bytes += n;
    f->writing = k;
    f->write.data = f;
    if (uv_write(&f->write, (uv_stream_t *)f->to, &b, 1, on_written) != 0) finish(c, 1);
}

static void put(flow *f, chunk *k) {
    uint64_t due = uv_now(loop) + f->c->r->delay;
    k->due = f->first && f->last->due > due ? f->last->due : due;
    if (f->first) f->last->next = k;
    else f->first = k;
    f->last = k;
    f->held += k->n;
    if (f->held >= WINDOW && f->reading) {
        f->reading = 0;
        uv_read_stop((uv_stream_t *)f->from);
    }
    pump(f);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b) {
    conn *c = s->data;
    flow *f = s == (uv_stream_t *)&c->client ? &c->up : &c->down;
    chunk *k = b->base ? (chunk *)(void *)(b->base - offsetof(chunk, p)) : NULL;
    int thrown = f == &c->up ? c->r->up_void : c->r->down_void;
    if (n == 0 || (n < 0 && n != UV_EOF)) {
        free(k);
        if (n < 0) finish(c, 1);                     /* a reset is passed on as one */
        return;
    }
    if (thrown || f->ended) {
        c->lossy |= thrown;
        free(k);
        return;
    }
    if (n == UV_EOF && !k) k = alloc(sizeof *k);
    k->end = f->ended = n == UV_EOF;
    k->n = k->end ? 0 : (size_t)n;
    chunk *small = realloc(k, sizeof *k + k->n);     /* many small pieces shall not hold a buffer each */
    put(f, small ? small : k);
}

/* ---- new connections ------------------------------------------------------------------------------------------- */

static void on_connected(uv_connect_t *r, int status) {
    conn *c = r->data;
    if (c->closing) return;
    if (status < 0) { finish(c, 1); return; }
    read_more(&c->up);
    read_more(&c->down);
}

static void flow_init(flow *f, conn *c, uv_tcp_t *from, uv_tcp_t *to) {
    f->c = c;
    f->from = from;
    f->to = to;
    uv_timer_init(loop, &f->timer);
    f->timer.data = c;
}

static void on_connection(uv_stream_t *listener, int status) {
    route *r = listener->data;
    struct sockaddr_in to;
    if (status < 0) return;
    conn *c = alloc(sizeof *c);
    c->r = r;
    c->budget = r->budget;
    c->handles = 4;
    uv_tcp_init(loop, &c->client);
    uv_tcp_init(loop, &c->server);
    c->client.data = c->server.data = c->connect.data = c;
    flow_init(&c->up, c, &c->client, &c->server);
    flow_init(&c->down, c, &c->server, &c->client);
    c->next = r->conns;
    c->prev = &r->conns;
    if (c->next) c->next->prev = &c->next;
    r->conns = c;
    r->n_conns++;
    uv_ip4_addr("127.0.0.1", r->target, &to);
    int rc = uv_accept(listener, (uv_stream_t *)&c->client);
    if (rc == 0 && r->n_conns > CONNECTIONS) rc = UV_EMFILE;
    if (rc == 0) rc = uv_tcp_connect(&c->connect, &c->server, (const struct sockaddr *)&to, on_connected);
    if (rc) { finish(c, 1); return; }
    uv_tcp_nodelay(&c->client, 1);
    uv_tcp_nodelay(&c->server, 1);
}

static void on_listener_closed(uv_handle_t *h) { free(h); }

static void refuse(route *r) {
    if (r->listener) uv_close((uv_handle_t *)r->listener, on_listener_closed);
    r->listener = NULL;
}

static void listen_again(route *r) {
    struct sockaddr_in at;
    if (r->listener) return;
    r->listener = alloc(sizeof *r->listener);
    uv_tcp_init(loop, r->listener);
    r->listener->data = r;
    uv_ip4_addr("127.0.0.1", r->port, &at);
    int rc = uv_tcp_bind(r->listener, (const struct sockaddr *)&at, 0);
    if (rc == 0) rc = uv_listen((uv_stream_t *)r->listener, 128, on_connection);
    if (rc) fail("listen", rc);
}

/* ---- commands ---------------------------------------------------------------------------------------------------- */

static void cut(route *r, const char *arg) {
    long left = *arg ? atol(arg) : -1;
    if (*arg) r->budget = left;
    for (conn *c = r->conns, *next; c; c = next) {
        next = c->next;
        if (!*arg) finish(c, 1);
        else c->budget = left;
    }
}

static void fin(route *r, int up) {
    for (conn *c = r->conns, *next; c; c = next) {
        next = c->next;
        flow *f = up ? &c->up : &c->down;
        if (f->ended) continue;
        chunk *k = alloc(sizeof *k);
        k->end = f->ended = 1;
        put(f, k);
    }
}

static void heal(route *r) {
    r->up_void = r->down_void = 0;
    r->delay = 0;
    r->budget = -1;
    listen_again(r);
    for (conn *c = r->conns, *next; c; c = next) {
        next = c->next;
        c->budget = -1;
        if (c->lossy) finish(c, 1);
    }
}

static void command(const char *line) {
    char verb[16] = "", arg[32] = "";
    int n = 0, words = sscanf(line, "%15s %d %31s", verb, &n, arg);
    route *r = words >= 2 && n >= 1 && n <= n_routes ? &routes[n - 1] : NULL;
    if (words == 1 && strcmp(verb, "stats") == 0) {
        size_t all = 0;
        for (int i = 0; i < n_routes; i++) all += routes[i].n_conns;
        printf("connections %zu, bytes %llu\n", all, bytes);
    } else if (r && strcmp(verb, "cut") == 0) cut(r, arg);
    else if (r && strcmp(verb, "delay") == 0 && *arg) r->delay = strtoull(arg, NULL, 10);
    else if (r && strcmp(verb, "half") == 0 && strcmp(arg, "up") == 0) r->up_void = 1;
    else if (r && strcmp(verb, "half") == 0 && strcmp(arg, "down") == 0) r->down_void = 1;
    else if (r && strcmp(verb, "fin") == 0 && strcmp(arg, "up") == 0) fin(r, 1);
    else if (r && strcmp(verb, "fin") == 0 && strcmp(arg, "down") == 0) fin(r, 0);
    else if (r && strcmp(verb, "drop") == 0 && strcmp(arg, "on") == 0) refuse(r);
    else if (r && strcmp(verb, "drop") == 0 && strcmp(arg, "off") == 0) listen_again(r);
    else if (r && strcmp(verb, "heal") == 0) heal(r);
    else printf("error: no such command: %s\n", line);
    fflush(stdout);
}

static char input[4096];
static size_t n_input;

static void on_input_alloc(uv_handle_t *h, size_t wish, uv_buf_t *b) {
    (void)h;
    (void)wish;
    *b = uv_buf_init(input + n_input, (unsigned)(sizeof input - 1 - n_input));
}

static void close_all(uv_handle_t *h, void *ud) {
    (void)ud;
    if (!uv_is_closing(h)) uv_close(h, NULL);
}

static void on_input(uv_stream_t *s, ssize_t n, const uv_buf_t *b) {
    (void)b;
    if (n < 0) {                                     /* whoever gave the commands is gone: so are we */
        for (int i = 0; i < n_routes; i++) {
            refuse(&routes[i]);
            while (routes[i].conns) finish(routes[i].conns, 1);
        }
        uv_walk(loop, close_all, NULL);
        return;
    }
    n_input += (size_t)n;
    input[n_input] = 0;
    char *from = input;
    for (char *nl; (nl = strchr(from, '\n')) != NULL; from = nl + 1) {
        *nl = 0;
        command(from);
    }
    n_input -= (size_t)(from - input);
    memmove(input, from, n_input);
    if (n_input < sizeof input - 1) return;
    printf("error: a line without an end\n");
    uv_close((uv_handle_t *)s, NULL);
}

int main(int argc, char **argv) {
    uv_pipe_t in;
    loop = uv_default_loop();
    for (int i = 1; i < argc && n_routes < ROUTES; i++) {
        route *r = &routes[n_routes++];
        r->budget = -1;
        if (sscanf(argv[i], "%d:%d", &r->port, &r->target) != 2) {
            fprintf(stderr, "usage: chaosproxy LISTEN:TARGET ...\n");
            return 2;
        }
        listen_again(r);
    }
    uv_pipe_init(loop, &in, 0);
    int rc = uv_pipe_open(&in, 0);
    if (rc == 0) rc = uv_read_start((uv_stream_t *)&in, on_input_alloc, on_input);
    if (rc) fail("standard input", rc);
    puts("ready");
    fflush(stdout);
    uv_run(loop, UV_RUN_DEFAULT);
    uv_loop_close(loop);
    return 0;
}
