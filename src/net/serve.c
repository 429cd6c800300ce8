/* net/serve.c -- floor 1, net: an HTTP server of our own, because a simulated server has to see requests as they were sent
 * (libwebsockets merges slashes, decodes once and does not take bodies in chunks); WebSockets are libwebsockets'.
 *
 * One request is read at a time and never more of it than is its own: the head is looked at where it waits in the kernel.
 * An upgrade is left there, unread, and the socket handed over; what a peer pipelines waits there for its turn.
 *
 * Traps of the library cured here: its own listeners cannot be closed one by one and share ports silently, so we own the
 * listening socket and accept ourselves; its callback says when to write, a turn of the loop later: a message that may not
 * wait, and finds nothing before it, is written where it is sent. */
#include "net/serve.h"
#include "base/buf.h"
#include "net/inside.h"
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_HEAD 16384
#define MAX_BODY (128u << 20)
#define KEEP_MS 75000                                 /* an idle connection, as ComfyUI's */
#define BYE_MS 2000

typedef struct chunk { struct chunk *next; int binary; size_t n; mp_time over; unsigned char p[]; } chunk;      /* over: written in pieces, for so long */

/* A connection and the request it is at. */
struct mp_exchange {
    mp_server *server;
    int fd, events, handles, partial;                /* partial: part of a head is there, and only more of it wakes us */
    int pieces, last, over, half;                    /* pieces: the body comes in chunks; last: nothing after it; half: the peer sends no more */
    enum { HEAD, BODY, OWED, REPLY, BYE } state;     /* OWED: the handler has it and has not replied; BYE: reads what is left, or a reset would overtake the reply */
    enum { SIZE, EXTENSION, DATA, DATA_CR, DATA_LF, TRAILER } piece;
    uv_poll_t poll;
    uv_timer_t idle;
    mp_serve_request r;                              /* slices of head and body */
    mp_buf head, body, reply;
    size_t left, sent;                               /* left: of the body, or of a chunk */
    mp_exchange *next, **prev;
};

struct mp_peer {
    mp_server *server;
    struct lws *wsi;
    char *path;
    chunk *first, *last;
    mp_buf message, frame;                           /* frame: the one that is written in pieces */
    size_t written;
    mp_time since;
    mp_timer *pace;
    int adopting, dead, open, drop;                  /* adopting: inside the call that hands it over; dead: it ended there */
    mp_peer *next, **prev;
};

struct mp_server {
    mp_loop *loop;
    mp_serve_handler h;
    void *ud;
    int fd, port, paused;
    uv_poll_t poll;
    uv_timer_t rest;                                 /* out of descriptors: pause accepting for a moment */
    int closed, handles;
    mp_exchange *exchanges;
    mp_peer *peers;
    mp_server *next, **prev;
};

const struct lws_protocols serve_protocols[] = { { "moonpool-serve", serve_callback, 0, 16384, 0, NULL, 0 }, { NULL, NULL, 0, 0, 0, NULL, 0 } };

/* ---- listening ------------------------------------------------------------------------------------------------- */

static void on_accept(uv_poll_t *p, int status, int events);
static void exchange_new(mp_server *s, int fd);
static void drop(mp_exchange *x);

static void on_rested(uv_timer_t *t) {
    mp_server *s = t->data;
    if (!s->closed) uv_poll_start(&s->poll, UV_READABLE, on_accept);
}

static void on_accept(uv_poll_t *p, int status, int events) {
    mp_server *s = p->data;
    (void)status;
    (void)events;
    for (int i = 0; i < 64 && !s->closed; i++) {
        int fd = accept4(s->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), one = 1;
        if (fd < 0) {
            if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {        /* no descriptors, no memory: later */
                uv_poll_stop(&s->poll);
                uv_timer_start(&s->rest, on_rested, 200, 0);
            }
            return;
        }
        if (s->paused) { close(fd); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        exchange_new(s, fd);
    }
}

static int listen_on(const char *host, int port, mp_err *e) {
    struct addrinfo hints, *list = NULL;
    char service[16];
    int fd = -1, one = 1;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV;
    snprintf(service, sizeof service, "%d", port);
    int rc = getaddrinfo(strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, service, &hints, &list);
    if (rc) return mp_fail(e, MP_EINVAL, "cannot listen on \"%s\": %s (a numeric address is needed)", host, gai_strerror(rc)), -1;
    if ((fd = socket(list->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, list->ai_addr, list->ai_addrlen) != 0 || listen(fd, 128) != 0) {
        mp_fail(e, MP_EIO, "cannot listen on %s:%d: %s", host, port, strerror(errno));
        if (fd >= 0) close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    return fd;
}

mp_server *mp_serve_open(mp_loop *l, const char *host, int port, const mp_serve_handler *h, void *ud, mp_err *e) {
    if (loop_lws(l, e) != 0) return NULL;
    int fd = listen_on(host, port, e);
    if (fd < 0) return NULL;
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    mp_server *s = mp_alloc(sizeof *s);
    s->loop = l;
    s->h = *h;
    s->ud = ud;
    s->fd = fd;
    getsockname(fd, (struct sockaddr *)&a, &n);
    s->port = ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port : ((struct sockaddr_in *)&a)->sin_port);
    uv_poll_init(&l->uv, &s->poll, fd);
    uv_timer_init(&l->uv, &s->rest);
    s->poll.data = s->rest.data = s;
    s->handles = 2;
    uv_poll_start(&s->poll, UV_READABLE, on_accept);
    s->next = l->servers;
    s->prev = &l->servers;
    if (s->next) s->next->prev = &s->next;
    l->servers = s;
    return s;
}

int mp_serve_port(const mp_server *s) { return s->port; }

void mp_serve_pause(mp_server *s, int paused) {
    s->paused = paused;
    if (!paused) return;
    while (s->exchanges) drop(s->exchanges);
    for (const mp_peer *p = s->peers; p; p = p->next)
        if (p->wsi) lws_set_timeout(p->wsi, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_ASYNC);
    lws_cancel_service(s->loop->lws);
}

static void kill_wsi(struct lws *wsi) {
    lws_set_opaque_user_data(wsi, NULL);
    lws_set_timeout(wsi, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_ASYNC);
}

static void peer_free(mp_peer *p) {
    *p->prev = p->next;
    if (p->next) p->next->prev = p->prev;
    while (p->first) {
        chunk *c = p->first;
        p->first = c->next;
        free(c);
    }
    mp_timer_free(p->pace);
    mp_buf_free(&p->message);
    mp_buf_free(&p->frame);
    free(p->path);
    free(p);
}

static void on_handle_closed(uv_handle_t *h) {
    mp_server *s = h->data;
    if (--s->handles == 0) free(s);
}

void mp_serve_close(mp_server *s) {
    if (!s || s->closed) return;
    s->closed = 1;
    while (s->exchanges) drop(s->exchanges);
    while (s->peers) {
        mp_peer *p = s->peers;
        if (p->wsi) kill_wsi(p->wsi);
        if (p->open) s->h.on_gone(s->ud, p);
        peer_free(p);
    }
    *s->prev = s->next;
    if (s->next) s->next->prev = s->prev;
    uv_poll_stop(&s->poll);
    close(s->fd);
    uv_close((uv_handle_t *)&s->poll, on_handle_closed);
    uv_close((uv_handle_t *)&s->rest, on_handle_closed);
    lws_cancel_service(s->loop->lws);
}

void serve_close_all(mp_loop *l) {
    while (l->servers) mp_serve_close(l->servers);
}

/* ---- HTTP -------------------------------------------------------------------------------------------------------- */

static void on_io(uv_poll_t *p, int status, int events);

static void watch(mp_exchange *x, int events) {
    if (x->fd >= 0 && x->events != events) uv_poll_start(&x->poll, x->events = events, on_io);
}

static void on_idle(uv_timer_t *t) { drop(t->data); }

static void exchange_new(mp_server *s, int fd) {
    mp_exchange *x = mp_alloc(sizeof *x);
    x->server = s;
    x->fd = fd;
    uv_poll_init(&s->loop->uv, &x->poll, fd);
    uv_timer_init(&s->loop->uv, &x->idle);
    x->poll.data = x->idle.data = x;
    x->handles = 2;
    x->next = s->exchanges;
    x->prev = &s->exchanges;
    if (x->next) x->next->prev = &x->next;
    s->exchanges = x;
    uv_timer_start(&x->idle, on_idle, KEEP_MS, 0);
    watch(x, UV_READABLE | UV_DISCONNECT);
}

static void on_exchange_closed(uv_handle_t *h) {
    mp_exchange *x = h->data;
    if (--x->handles) return;
    mp_buf_free(&x->head);
    mp_buf_free(&x->body);
    mp_buf_free(&x->reply);
    free(x);
}

/* The connection ends here. Its memory stays until the loop has let go of it, so callers may still look at x->fd. */
static void drop(mp_exchange *x) {
    if (!x->prev) return;
    *x->prev = x->next;
    if (x->next) x->next->prev = x->prev;
    x->prev = NULL;
    uv_close((uv_handle_t *)&x->poll, on_exchange_closed);
    uv_close((uv_handle_t *)&x->idle, on_exchange_closed);
    if (x->fd >= 0) close(x->fd);
    x->fd = -1;
    if (x->state == OWED) x->server->h.on_request_gone(x->server->ud, x);
}

static void answer(mp_exchange *x, int status, const char *text) {
    x->state = OWED;
    mp_serve_reply(x, status, "text/plain; charset=utf-8", NULL, text, strlen(text));
}

static void request_whole(mp_exchange *x) {
    x->state = OWED;
    x->r.body = mp_buf_view(&x->body);
    if (x->over) answer(x, 413, "too large");
    else x->server->h.on_request(x->server->ud, x, &x->r);
    if (x->state == OWED) watch(x, UV_DISCONNECT);
}

/* What of a head decides how it goes on. */
typedef struct { int keep, expects, upgrade, connects, key; size_t lengths; } head_facts;

static int is_name(const char *z) {
    for (; *z; z++)
        if (*z <= ' ' || *z == 127) return 0;        /* signed: not ASCII */
    return 1;
}

/* One line; 0, or -1: two readers could take it for different things (RFC 9112, 6.3). */
static int header_line(mp_exchange *x, const char *name, mp_str v, head_facts *f) {
    mp_serve_request *r = &x->r;
    if (!*name || !is_name(name)) return -1;
    if (!strcasecmp(name, "content-type")) r->content_type = v;
    else if (!strcasecmp(name, "host")) r->host = v;
    else if (!strcasecmp(name, "origin")) r->origin = v;
    else if (!strcasecmp(name, "range")) r->range = v;
    else if (!strcasecmp(name, "if-modified-since")) r->since = v;
    else if (!strcasecmp(name, "upgrade")) f->upgrade = !strcasecmp(v.p, "websocket");
    else if (!strcasecmp(name, "sec-websocket-key")) f->key = v.n > 0;
    else if (!strcasecmp(name, "connection")) {
        f->connects = strcasestr(v.p, "upgrade") != NULL;
        f->keep = strcasestr(v.p, "close") ? 0 : strcasestr(v.p, "keep-alive") ? 1 : f->keep;
    } else if (!strcasecmp(name, "expect")) f->expects = !strcasecmp(v.p, "100-continue");
    else if (!strcasecmp(name, "transfer-encoding")) {
        if (x->pieces || strcasecmp(v.p, "chunked") != 0) return -1;
        x->pieces = 1;
    } else if (!strcasecmp(name, "content-length")) {
        if (f->lengths++ || !v.n || v.n > 15 || strspn(v.p, "0123456789") != v.n) return -1;
        x->left = strtoull(v.p, NULL, 10);
    }
    return x->pieces && f->lengths ? -1 : 0;
}

/* Slices the head, which ends in an empty line, each slice ended by a zero byte. -1: it is no request. */
static int parse_head(mp_exchange *x, head_facts *f) {
    mp_serve_request *r = &x->r;
    char *z = x->head.p;
    if (strlen(z) != x->head.n) return -1;           /* a zero byte: nothing below looks beyond the text */
    char *line = strstr(z, "\r\n");
    char *target = memchr(z, ' ', (size_t)(line - z)), *version = target ? memchr(target + 1, ' ', (size_t)(line - target - 1)) : NULL;
    if (!version || strncmp(version + 1, "HTTP/1.", 7) != 0 || version + 9 != line) return -1;
    f->keep = version[8] != '0';
    *target++ = *version = *line = 0;
    if (strncasecmp(target, "http://", 7) == 0) target += 7 + strcspn(target + 7, "/");     /* as a proxy is asked */
    if ((*target != '/' && strcmp(target, "*") != 0) || !is_name(z)) return -1;
    r->method = mp_str_of(z);
    r->path = mp_str_of(target);
    x->left = 0;
    x->pieces = x->over = 0;
    for (char *next; strncmp(line += 2, "\r\n", 2) != 0; line = next) {
        next = strstr(line, "\r\n");
        char *colon = memchr(line, ':', (size_t)(next - line)), *value = colon, *end = next;
        if (!colon) return -1;
        value++;
        while (*value == ' ' || *value == '\t') value++;
        while (end > value && (end[-1] == ' ' || end[-1] == '\t')) end--;
        *colon = *end = 0;
        if (header_line(x, line, mp_str_make(value, (size_t)(end - value)), f) != 0) return -1;
    }
    x->piece = SIZE;
    x->sent = 0;
    x->last = !f->keep;
    return f->expects && (x->left || x->pieces) && send(x->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

/* The socket becomes libwebsockets', which finds the request in it. */
static void hand_over(mp_exchange *x) {
    mp_server *s = x->server;
    mp_peer *p = mp_alloc(sizeof *p);
    lws_adopt_desc_t d;
    p->server = s;
    p->path = mp_strdup(x->r.path.p);
    p->next = s->peers;
    p->prev = &s->peers;
    if (p->next) p->next->prev = &p->next;
    s->peers = p;
    memset(&d, 0, sizeof d);
    d.vh = s->loop->server_vhost;
    d.type = LWS_ADOPT_SOCKET | LWS_ADOPT_HTTP;
    d.fd.sockfd = x->fd;
    d.opaque = p;
    x->fd = -1;
    drop(x);
    p->adopting = 1;
    p->wsi = lws_adopt_descriptor_vhost_via_info(&d);            /* closes the socket itself when it cannot */
    p->adopting = 0;
    if (p->dead) peer_free(p);                       /* else, without a wsi, it may still be told of its end: it waits for that, or for the server's */
}

/* A head was taken from the socket and is turned down: 1, there may be another. */
static int turn_down(mp_exchange *x, int status, const char *text) {
    x->last |= status == 400 || x->left || x->pieces;
    answer(x, status, text);
    return x->state == HEAD;
}

/* Steps of reading return 1 when they got on and the next may be tried at once. */
static int read_head(mp_exchange *x) {
    char z[MAX_HEAD];
    head_facts f = { 0 };
    ssize_t n = recv(x->fd, z, sizeof z, MSG_PEEK);
    int one = 1, more = (int)n + 1;
    if (n <= 0) { if (n == 0 || errno != EAGAIN) drop(x); return 0; }
    if (n >= 2 && z[0] == '\r' && z[1] == '\n') return recv(x->fd, z, 2, 0) == 2;   /* an empty line before it (RFC 9112, 2.2) */
    const char *end = memmem(z, (size_t)n, "\r\n\r\n", 4);
    if (!end && n < MAX_HEAD) { x->partial = 1; setsockopt(x->fd, SOL_SOCKET, SO_RCVLOWAT, &more, sizeof more); return 0; }
    if (x->partial) { x->partial = 0; setsockopt(x->fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one); }
    uv_timer_stop(&x->idle);
    mp_buf_clear(&x->head);
    mp_buf_add(&x->head, z, end ? (size_t)(end - z) + 4 : (size_t)n);
    memset(&x->r, 0, sizeof x->r);
    int bad = !end || parse_head(x, &f) != 0;
    if (!bad && f.upgrade && f.connects && f.key && mp_str_is(x->r.method, "GET") && !x->left && !x->pieces) {
        int status = x->server->h.refuse ? x->server->h.refuse(x->server->ud, mp_str_make(x->r.path.p, strcspn(x->r.path.p, "?")), x->r.host, x->r.origin) : 0;
        if (!status) { hand_over(x); return 0; }
        if (status > 0) { recv(x->fd, z, x->head.n, 0); return turn_down(x, status, ""); }
    }
    recv(x->fd, z, x->head.n, 0);
    if (bad) return turn_down(x, 400, "Bad Request");
    if (!x->left && !x->pieces) { request_whole(x); return x->state == HEAD; }
    x->state = BODY;
    return 1;
}

static void body_add(mp_exchange *x, const char *p, size_t n) {
    if (x->body.n + n > MAX_BODY) x->over = 1;
    else mp_buf_add(&x->body, p, n);
}

/* Of n bytes those that belong to the body; x->left is what is still to come of a chunk. -1: that is no chunk. */
static ssize_t take_pieces(mp_exchange *x, const char *z, size_t n, int *whole) {
    size_t i = 0;
    while (i < n && !*whole) {
        char c = z[i];
        if (x->piece == DATA) {
            size_t k = n - i < x->left ? n - i : x->left;
            body_add(x, z + i, k);
            i += k;
            if (!(x->left -= k)) x->piece = DATA_CR;
            continue;
        }
        i++;
        switch (x->piece) {
        case SIZE: {                                 /* x->sent: digits so far */
            int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
            if (digit >= 0 && x->left < MAX_BODY) { x->left = x->left << 4 | (size_t)digit; x->sent++; break; }
            if (!x->sent || (c != '\r' && c != ';' && c != ' ' && c != '\t')) return -1;
            x->piece = EXTENSION;
            break;
        }
        case EXTENSION:
            if (c == '\n') { x->piece = x->left ? DATA : TRAILER; x->sent = 0; }
            break;
        case DATA_CR:
            if (c != '\r') return -1;
            x->piece = DATA_LF;
            break;
        case DATA_LF:
            if (c != '\n') return -1;
            x->piece = SIZE;
            x->sent = 0;
            break;
        default:                                     /* lines after the last chunk; x->sent: characters of this one */
            if (c == '\n') { *whole = x->sent == 0; x->sent = 0; }
            else if (c != '\r') x->sent++;
        }
    }
    return (ssize_t)i;
}

static int read_body(mp_exchange *x) {
    char z[65536];
    ssize_t n = recv(x->fd, z, x->pieces || x->left > sizeof z ? sizeof z : x->left, x->pieces ? MSG_PEEK : 0);
    int whole = 0;
    if (n <= 0) { if (n == 0 || errno != EAGAIN) drop(x); return 0; }
    if (x->pieces) {
        ssize_t used = take_pieces(x, z, (size_t)n, &whole);
        recv(x->fd, z, (size_t)(used < 0 ? n : used), 0);
        if (used < 0) return turn_down(x, 400, "Bad Request");
    } else {
        body_add(x, z, (size_t)n);
        whole = !(x->left -= (size_t)n);
    }
    if (whole) request_whole(x);
    return x->state <= BODY;
}

static void write_reply(mp_exchange *x) {
    while (x->sent < x->reply.n) {
        ssize_t n = send(x->fd, x->reply.p + x->sent, x->reply.n - x->sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) { drop(x); return; }
        if (n < 0) { watch(x, x->half ? UV_WRITABLE : UV_WRITABLE | UV_DISCONNECT); return; }
        x->sent += (size_t)n;
    }
    mp_buf_free(&x->body);
    mp_buf_free(&x->reply);
    x->state = x->last ? BYE : HEAD;
    if (x->last) shutdown(x->fd, SHUT_WR);
    uv_timer_start(&x->idle, on_idle, x->last ? BYE_MS : KEEP_MS, 0);
    watch(x, UV_READABLE | UV_DISCONNECT);
}

static void read_rest(mp_exchange *x) {
    char z[65536];
    ssize_t n;
    do n = recv(x->fd, z, sizeof z, 0);
    while (n > 0 && x->half);
    if (n == 0 || (n < 0 && errno != EAGAIN)) drop(x);
}

/* At most two steps at a time, so that one talkative peer does not hold up the others; when the peer sends no more, all that is
 * there. A reply that is on its way is still sent then; one that is owed is not, as ComfyUI's. */
static void on_io(uv_poll_t *p, int status, int events) {
    mp_exchange *x = p->data;
    int gone = events & UV_DISCONNECT;
    if (status < 0) { drop(x); return; }
    x->half |= gone != 0;
    if (x->state == REPLY && events & UV_WRITABLE) write_reply(x);
    else if (x->state == BYE && events & UV_READABLE) read_rest(x);
    else if (events & UV_READABLE)
        for (int i = 0, on = 1; on && x->fd >= 0 && x->state < OWED && (i < 2 || gone); i++) on = x->state == HEAD ? read_head(x) : read_body(x);
    if (!gone || x->fd < 0) return;
    if (x->state == REPLY) { x->last = 1; watch(x, UV_WRITABLE); }
    else drop(x);
}

static const char *reason_of(int status) {
    switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 206: return "Partial Content";
    case 302: return "Found";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 411: return "Length Required";
    case 413: return "Payload Too Large";
    case 416: return "Range Not Satisfiable";
    case 500: return "Internal Server Error";
    default: return "Status";
    }
}

void mp_serve_reply(mp_exchange *x, int status, const char *type, const char *headers, const void *body, size_t n) {
    if (x->state != OWED) return;
    x->state = REPLY;
    mp_buf_room(&x->reply, n + 512 + (headers ? strlen(headers) : 0));
    mp_buf_printf(&x->reply, "HTTP/1.1 %d %s\r\n", status, reason_of(status));
    if (type) mp_buf_printf(&x->reply, "Content-Type: %s\r\n", type);
    mp_buf_printf(&x->reply, "Content-Length: %zu\r\nConnection: %s\r\n%s\r\n", n, x->last ? "close" : "keep-alive", headers ? headers : "");
    if (!mp_str_is(x->r.method, "HEAD")) mp_buf_add(&x->reply, body, n);
    x->sent = 0;
    write_reply(x);
}

/* ---- WebSocket ------------------------------------------------------------------------------------------------------ */

static void shift(mp_peer *p) {
    chunk *c = p->first;
    p->first = c->next;
    free(c);
}

static void on_pace(void *ud);

/* One frame for the whole message, as ComfyUI's. Meanwhile the peer is not read: the library would answer a ping in the midst
 * of it. */
static void begin_pieces(mp_peer *p, const chunk *c) {
    unsigned char head[10] = { (unsigned char)(c->binary ? 0x82 : 0x81) };
    int wide = c->n < 126 ? 0 : c->n < 65536 ? 2 : 8;
    head[1] = (unsigned char)(wide == 0 ? c->n : wide == 2 ? 126 : 127);
    for (int i = 0; i < wide; i++) head[2 + i] = (unsigned char)(c->n >> 8 * (wide - 1 - i));
    mp_buf_add(&p->frame, head, 2 + (size_t)wide);
    mp_buf_add(&p->frame, c->p + LWS_PRE, c->n);
    p->written = 0;
    p->since = mp_loop_now(p->server->loop);
    if (!p->pace) p->pace = mp_timer_new(p->server->loop, on_pace, p);
    lws_rx_flow_control(p->wsi, 0);
}

/* What is due of the first message by now. -1: the peer has gone. */
static int write_pieces(mp_peer *p) {
    chunk *c = p->first;
    if (!p->frame.n) begin_pieces(p, c);
    mp_time now = mp_loop_now(p->server->loop), spent = now - p->since;
    size_t due = spent >= c->over ? p->frame.n : 1 + (size_t)((double)(p->frame.n - 1) * (double)spent / (double)c->over);
    while (p->written < due) {
        ssize_t n = send(lws_get_socket_fd(p->wsi), p->frame.p + p->written, due - p->written, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN) return -1;
        if (n <= 0) break;
        p->written += (size_t)n;
    }
    if (p->written < p->frame.n) { mp_timer_set(p->pace, now + (c->over > MP_MS(64) ? c->over / 64 : MP_MS(1))); return 0; }
    mp_buf_clear(&p->frame);
    shift(p);
    lws_rx_flow_control(p->wsi, 1);
    if (p->first) lws_callback_on_writable(p->wsi);
    return 0;
}

static void on_pace(void *ud) {
    mp_peer *p = ud;
    if (!p->drop && write_pieces(p) != 0) mp_peer_drop(p);
}

static int on_ws_writable(struct lws *wsi, mp_peer *p) {
    while (p->first && !p->drop) {
        chunk *c = p->first;
        if (c->over) return write_pieces(p);
        if (lws_write(wsi, c->p + LWS_PRE, c->n, c->binary ? LWS_WRITE_BINARY : LWS_WRITE_TEXT) < (int)c->n) return -1;
        shift(p);
        if (p->first && lws_send_pipe_choked(wsi)) { lws_callback_on_writable(wsi); return 0; }
    }
    return p->drop ? -1 : 0;
}

static chunk *queue(mp_peer *p, int binary, const void *data, size_t n) {
    chunk *c = mp_alloc(sizeof *c + LWS_PRE + n);
    c->binary = binary;
    c->n = n;
    if (n) memcpy(c->p + LWS_PRE, data, n);
    if (p->first) p->last->next = c;
    else p->first = c;
    return p->last = c;
}

void mp_peer_send(mp_peer *p, int binary, const void *data, size_t n, int at_once) {
    const chunk *c = queue(p, binary, data, n);
    if (!at_once || c != p->first || lws_partial_buffered(p->wsi)) lws_callback_on_writable(p->wsi);
    else if (on_ws_writable(p->wsi, p) != 0) mp_peer_drop(p);
}

/* Begun by the library's callback only: till then it may owe a pong. */
void mp_peer_send_slowly(mp_peer *p, int binary, const void *data, size_t n, mp_time over) {
    queue(p, binary, data, n)->over = over;
    lws_callback_on_writable(p->wsi);
}

void mp_peer_drop(mp_peer *p) {
    p->drop = 1;
    lws_set_timeout(p->wsi, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_ASYNC);
    lws_cancel_service(p->server->loop->lws);
}

static void on_ws_receive(struct lws *wsi, mp_peer *p, const char *in, size_t len) {
    if (p->drop || p->message.n + len > (4u << 20)) { p->drop = 1; lws_callback_on_writable(wsi); return; }
    mp_buf_add(&p->message, in, len);
    if (!lws_is_final_fragment(wsi) || lws_remaining_packet_payload(wsi)) return;
    mp_buf m = p->message;
    memset(&p->message, 0, sizeof p->message);
    p->server->h.on_text(p->server->ud, p, mp_buf_view(&m));
    mp_buf_free(&m);
}

int serve_callback(struct lws *wsi, enum lws_callback_reasons why, void *user, void *in, size_t len) {
    mp_peer *p = wsi ? lws_get_opaque_user_data(wsi) : NULL;
    if (!p) return lws_callback_http_dummy(wsi, why, user, in, len);
    switch (why) {
    case LWS_CALLBACK_ESTABLISHED:
        p->open = 1;
        p->server->h.on_open(p->server->ud, p, mp_str_of(p->path));
        return 0;
    case LWS_CALLBACK_RECEIVE: on_ws_receive(wsi, p, in, len); return 0;
    case LWS_CALLBACK_SERVER_WRITEABLE: return on_ws_writable(wsi, p);
    case LWS_CALLBACK_WSI_DESTROY:                   /* also of one that never opened */
        lws_set_opaque_user_data(wsi, NULL);
        if (p->open) p->server->h.on_gone(p->server->ud, p);
        if (p->adopting) p->dead = 1;
        else peer_free(p);
        return 0;
    default: return lws_callback_http_dummy(wsi, why, user, in, len);
    }
}
