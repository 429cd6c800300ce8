/* net/serve.c -- floor 1, net: an HTTP and WebSocket server over libwebsockets.
 *
 * Traps cured here:
 *   - The library's own listeners cannot be closed one by one and share ports silently: we own the listening
 *     socket, accept ourselves and hand each connection over.
 *   - While a reply is owed the library spins if the peer pipelines or hangs up: receiving is paused until then,
 *     and its timeout is taken off.
 *   - Bodies without Content-Length are not decoded: answered 411. */
#include "net/serve.h"
#include "base/buf.h"
#include "net/inside.h"
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_BODY (128u << 20)

typedef struct chunk { struct chunk *next; int binary; size_t n; unsigned char p[]; } chunk;

struct mp_exchange {
    mp_server *server;
    struct lws *wsi;
    char *method, *path, *type, *host, *origin, *range, *since;
    mp_buf body, reply;
    size_t sent;
    int owed, over, paused;                           /* owed: the handler has it and has not replied */
    mp_exchange *next, **prev;
};

struct mp_peer {
    mp_server *server;
    struct lws *wsi;
    chunk *first, *last;
    mp_buf message;
    int drop;
    mp_peer *next, **prev;
};

/* What the library keeps per connection. */
typedef struct { mp_exchange *x; mp_peer *peer; } session;

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
    struct lws **open;                               /* every connection, idle kept-alive ones too */
    size_t n_open, cap_open;
    mp_server *next, **prev;
};

const struct lws_protocols serve_protocols[] = { { "moonpool-serve", serve_callback, sizeof(session), 16384, 0, NULL, 0 }, { NULL, NULL, 0, 0, 0, NULL, 0 } };

/* ---- listening ------------------------------------------------------------------------------------------------- */

static void on_accept(uv_poll_t *p, int status, int events);

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
            if (errno == EMFILE || errno == ENFILE) {
                uv_poll_stop(&s->poll);
                uv_timer_start(&s->rest, on_rested, 200, 0);
            }
            return;
        }
        if (s->paused) { close(fd); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        lws_adopt_desc_t d;
        memset(&d, 0, sizeof d);
        d.vh = s->loop->server_vhost;
        d.type = LWS_ADOPT_SOCKET | LWS_ADOPT_HTTP;
        d.fd.sockfd = fd;
        d.opaque = s;
        struct lws *wsi = lws_adopt_descriptor_vhost_via_info(&d);       /* closes fd itself when it cannot */
        if (!wsi) continue;
        s->open = mp_grow(s->open, s->n_open, &s->cap_open, sizeof(struct lws *));
        s->open[s->n_open++] = wsi;
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
static void forget_wsi(mp_server *s, const struct lws *wsi) {
    for (size_t i = 0; i < s->n_open; i++)
        if (s->open[i] == wsi) { s->open[i] = s->open[--s->n_open]; return; }
}

void mp_serve_pause(mp_server *s, int paused) {
    s->paused = paused;
    for (size_t i = 0; paused && i < s->n_open; i++) lws_set_timeout(s->open[i], PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_ASYNC);
    if (paused) lws_cancel_service(s->loop->lws);
}

static void kill_wsi(struct lws *wsi) {
    lws_set_opaque_user_data(wsi, NULL);
    lws_set_timeout(wsi, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_ASYNC);
}

static void exchange_free(mp_exchange *x) {
    *x->prev = x->next;
    if (x->next) x->next->prev = x->prev;
    mp_buf_free(&x->body);
    mp_buf_free(&x->reply);
    free(x->method);
    free(x->path);
    free(x->type);
    free(x->host);
    free(x->origin);
    free(x->range);
    free(x->since);
    free(x);
}

static void peer_free(mp_peer *p) {
    *p->prev = p->next;
    if (p->next) p->next->prev = p->prev;
    while (p->first) {
        chunk *c = p->first;
        p->first = c->next;
        free(c);
    }
    mp_buf_free(&p->message);
    free(p);
}

static void on_handle_closed(uv_handle_t *h) {
    mp_server *s = h->data;
    if (--s->handles == 0) free(s);
}

static session *session_of(struct lws *wsi) { return lws_wsi_user(wsi); }

void mp_serve_close(mp_server *s) {
    if (!s || s->closed) return;
    s->closed = 1;
    while (s->exchanges) {
        mp_exchange *x = s->exchanges;
        session_of(x->wsi)->x = NULL;
        kill_wsi(x->wsi);
        if (x->owed) s->h.on_request_gone(s->ud, x);
        exchange_free(x);
    }
    while (s->peers) {
        mp_peer *p = s->peers;
        session_of(p->wsi)->peer = NULL;
        kill_wsi(p->wsi);
        s->h.on_gone(s->ud, p);
        peer_free(p);
    }
    while (s->n_open) kill_wsi(s->open[--s->n_open]);
    free(s->open);
    s->open = NULL;
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

static char *header(struct lws *wsi, enum lws_token_indexes token) {
    int n = lws_hdr_total_length(wsi, token);
    char *z = mp_alloc((size_t)n + 2);
    if (n > 0) lws_hdr_copy(wsi, z, n + 1, token);
    return z;
}

/* The library has decoded path and arguments; they are encoded again, so that nobody decodes twice. */
static char *path_of(struct lws *wsi, mp_str uri) {
    mp_buf b = { 0 };
    char arg[4096];
    for (size_t i = 0; i < uri.n; i++) {
        if (uri.p[i] == '/') mp_buf_putc(&b, '/');
        else mp_buf_url(&b, mp_str_make(uri.p + i, 1));
    }
    for (int i = 0, n; (n = lws_hdr_copy_fragment(wsi, arg, sizeof arg, WSI_TOKEN_HTTP_URI_ARGS, i)) >= 0; i++) {
        const char *eq = memchr(arg, '=', (size_t)n);
        mp_buf_putc(&b, i ? '&' : '?');
        mp_buf_url(&b, mp_str_make(arg, eq ? (size_t)(eq - arg) : (size_t)n));
        if (!eq) continue;
        mp_buf_putc(&b, '=');
        mp_buf_url(&b, mp_str_make(eq + 1, (size_t)n - (size_t)(eq - arg) - 1));
    }
    return mp_buf_take(&b, NULL);
}

static const char *method_of(struct lws *wsi) {
    static const struct { enum lws_token_indexes token; const char *name; } methods[] = {
        { WSI_TOKEN_GET_URI, "GET" }, { WSI_TOKEN_POST_URI, "POST" }, { WSI_TOKEN_OPTIONS_URI, "OPTIONS" }, { WSI_TOKEN_PUT_URI, "PUT" },
        { WSI_TOKEN_DELETE_URI, "DELETE" }, { WSI_TOKEN_PATCH_URI, "PATCH" }, { WSI_TOKEN_HEAD_URI, "HEAD" }
    };
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (lws_hdr_total_length(wsi, methods[i].token) > 0) return methods[i].name;
    return NULL;
}

static void request_done(mp_exchange *x) {
    mp_serve_request r = { mp_str_of(x->method), mp_str_of(x->path), mp_str_of(x->type), mp_str_of(x->host), mp_str_of(x->origin), mp_str_of(x->range), mp_str_of(x->since), mp_buf_view(&x->body) };
    x->owed = 1;
    lws_set_timeout(x->wsi, NO_PENDING_TIMEOUT, 0);
    session *at = session_of(x->wsi);
    struct lws *wsi = x->wsi;
    if (x->over) mp_serve_reply(x, 413, "text/plain", NULL, "too large", 9);
    else x->server->h.on_request(x->server->ud, x, &r);
    /* Only when the reply is late: paused and made writable in one callback, the connection would never be written. */
    if (at->x == x && x->owed) { x->paused = 1; lws_rx_flow_control(wsi, 0); }
}

static int on_http(mp_server *s, struct lws *wsi, session *at, mp_str uri) {
    const char *method = method_of(wsi);
    if (!method) return -1;
    mp_exchange *x = mp_alloc(sizeof *x);
    x->server = s;
    x->wsi = wsi;
    x->method = mp_strdup(method);
    x->path = path_of(wsi, uri);
    x->type = header(wsi, WSI_TOKEN_HTTP_CONTENT_TYPE);
    x->host = header(wsi, WSI_TOKEN_HOST);
    x->origin = header(wsi, WSI_TOKEN_ORIGIN);
    x->range = header(wsi, WSI_TOKEN_HTTP_RANGE);
    x->since = header(wsi, WSI_TOKEN_HTTP_IF_MODIFIED_SINCE);
    x->next = s->exchanges;
    x->prev = &s->exchanges;
    if (x->next) x->next->prev = &x->next;
    s->exchanges = x;
    at->x = x;
    char *length = header(wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH);
    int body = atol(length) > 0, chunked = lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_TRANSFER_ENCODING) > 0;
    free(length);
    if (chunked) {
        x->owed = 1;
        mp_serve_reply(x, 411, "text/plain", NULL, "411: Length Required", 20);
    } else if (!body) request_done(x);
    return 0;
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
    if (!x->owed) return;
    x->owed = 0;
    mp_buf_room(&x->reply, LWS_PRE + n + 512 + (headers ? strlen(headers) : 0));
    x->reply.n = LWS_PRE;
    mp_buf_printf(&x->reply, "HTTP/1.1 %d %s\r\n", status, reason_of(status));
    if (type) mp_buf_printf(&x->reply, "Content-Type: %s\r\n", type);
    mp_buf_printf(&x->reply, "Content-Length: %zu\r\nConnection: keep-alive\r\n%s\r\n", n, headers ? headers : "");
    if (strcmp(x->method, "HEAD") != 0) mp_buf_add(&x->reply, body, n);
    x->sent = LWS_PRE;
    if (x->paused) lws_rx_flow_control(x->wsi, 1);
    lws_callback_on_writable(x->wsi);
}

static int on_http_writable(struct lws *wsi, session *at) {
    mp_exchange *x = at->x;
    if (!x || !x->reply.n) return 0;
    while (x->sent < x->reply.n) {
        size_t n = x->reply.n - x->sent > 65536 ? 65536 : x->reply.n - x->sent;
        if (lws_write(wsi, (unsigned char *)x->reply.p + x->sent, n, LWS_WRITE_HTTP_HEADERS) < (int)n) return -1;
        x->sent += n;
        if (x->sent < x->reply.n && lws_send_pipe_choked(wsi)) { lws_callback_on_writable(wsi); return 0; }
    }
    at->x = NULL;
    exchange_free(x);
    return lws_http_transaction_completed(wsi) ? -1 : 0;
}

/* 0: go on. An upgrade to something else than WebSocket, or one the handler refuses, gets its answer here. */
static int confirm(mp_server *s, struct lws *wsi, const char *to) {
    if (!to || strcmp(to, "websocket") != 0 || !s->h.refuse) return 0;
    char *host = header(wsi, WSI_TOKEN_HOST), *origin = header(wsi, WSI_TOKEN_ORIGIN), *path = header(wsi, WSI_TOKEN_GET_URI);
    int status = s->h.refuse(s->ud, mp_str_of(path), mp_str_of(host), mp_str_of(origin));
    free(host);
    free(origin);
    free(path);
    if (!status) return 0;
    lws_return_http_status(wsi, (unsigned)status, NULL);
    return 1;
}

/* ---- WebSocket ------------------------------------------------------------------------------------------------------ */

static void on_established(mp_server *s, struct lws *wsi, session *at) {
    mp_peer *p = mp_alloc(sizeof *p);
    char *uri = header(wsi, WSI_TOKEN_GET_URI), *path = path_of(wsi, mp_str_of(uri));
    p->server = s;
    p->wsi = wsi;
    p->next = s->peers;
    p->prev = &s->peers;
    if (p->next) p->next->prev = &p->next;
    s->peers = p;
    at->peer = p;
    at->x = NULL;
    s->h.on_open(s->ud, p, mp_str_of(path));
    free(uri);
    free(path);
}

void mp_peer_send(mp_peer *p, int binary, const void *data, size_t n) {
    chunk *c = mp_alloc(sizeof *c + LWS_PRE + n);
    c->binary = binary;
    c->n = n;
    if (n) memcpy(c->p + LWS_PRE, data, n);
    if (p->first) p->last->next = c;
    else p->first = c;
    p->last = c;
    lws_callback_on_writable(p->wsi);
}

void mp_peer_drop(mp_peer *p) {
    p->drop = 1;
    lws_set_timeout(p->wsi, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_ASYNC);
    lws_cancel_service(p->server->loop->lws);
}

static int on_ws_writable(struct lws *wsi, mp_peer *p) {
    while (p->first && !p->drop) {
        chunk *c = p->first;
        if (lws_write(wsi, c->p + LWS_PRE, c->n, c->binary ? LWS_WRITE_BINARY : LWS_WRITE_TEXT) < (int)c->n) return -1;
        p->first = c->next;
        free(c);
        if (p->first && lws_send_pipe_choked(wsi)) { lws_callback_on_writable(wsi); return 0; }
    }
    return p->drop ? -1 : 0;
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
    session *at = user;
    mp_server *s = wsi ? lws_get_opaque_user_data(wsi) : NULL;
    if (!s) return lws_callback_http_dummy(wsi, why, user, in, len);
    switch (why) {
    case LWS_CALLBACK_WSI_DESTROY: forget_wsi(s, wsi); return 0;
    case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE: return confirm(s, wsi, in);
    case LWS_CALLBACK_HTTP: return on_http(s, wsi, at, mp_str_make(in, len));
    case LWS_CALLBACK_HTTP_BODY:
        if (!at->x) return -1;
        if (at->x->body.n + len > MAX_BODY) at->x->over = 1;
        else mp_buf_add(&at->x->body, in, len);
        return 0;
    case LWS_CALLBACK_HTTP_BODY_COMPLETION:
        if (at->x) request_done(at->x);
        return 0;
    case LWS_CALLBACK_HTTP_WRITEABLE: return on_http_writable(wsi, at);
    case LWS_CALLBACK_CLOSED_HTTP:
        if (at && at->x) {
            mp_exchange *x = at->x;
            at->x = NULL;
            if (x->owed) s->h.on_request_gone(s->ud, x);
            exchange_free(x);
        }
        return 0;
    case LWS_CALLBACK_ESTABLISHED: on_established(s, wsi, at); return 0;
    case LWS_CALLBACK_RECEIVE:
        if (at->peer) on_ws_receive(wsi, at->peer, in, len);
        return 0;
    case LWS_CALLBACK_SERVER_WRITEABLE: return at->peer ? on_ws_writable(wsi, at->peer) : -1;
    case LWS_CALLBACK_CLOSED:
        if (at && at->peer) {
            mp_peer *p = at->peer;
            at->peer = NULL;
            s->h.on_gone(s->ud, p);
            peer_free(p);
        }
        return 0;
    default: return lws_callback_http_dummy(wsi, why, user, in, len);
    }
}
