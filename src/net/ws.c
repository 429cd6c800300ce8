/* net/ws.c -- floor 1, net: WebSocket client over libwebsockets.
 *
 * Traps cured here:
 *   - Never leave CLIENT_RECEIVE with non-zero: while a frame larger than the receive buffer arrives that overflows
 *     the library's heap, with the remote side's data. A flag is set and the close happens in CLIENT_WRITEABLE.
 *   - The connect call would resolve names in this thread: they are resolved before, in the thread pool.
 *   - A handshake that fails ends in one of four callbacks, by version and by phase: all lead to end_once.
 *   - A peer that vanishes has no close code: reported as 1006. One that never answers our close is cut after 5 s.
 *   - TLS is verified unless told otherwise, by explicit flags; why it refused stands only in the library's log.
 *   - Redirects would be followed with our headers: they are not. No Origin is sent, as a wrong one gives 403. */
#include "net/ws.h"
#include "base/buf.h"
#include "net/inside.h"
#include <ctype.h>
#include <stdlib.h>

typedef struct frame { struct frame *next; int binary; size_t n; unsigned char p[]; } frame;   /* p starts with LWS_PRE bytes of room */

struct mp_ws {
    mp_loop *loop;
    mp_ws_opts o;
    void *ud;
    char *host, *path, *headers, *auth, *ca;
    int port, tls, open, ended, closing, code, status, in_callback;
    struct lws *wsi;
    uv_getaddrinfo_t resolve;
    int resolving;
    struct addrinfo *addresses, *next_address;
    mp_buf message;
    frame *first, *last;
    char words[200], reason[120];
    uv_timer_t later;                                /* reports from the next turn; bounds the handshake */
    mp_ws *next, **prev;
};

static void end_once(mp_ws *w);
static void try_next(mp_ws *w);

static void say(mp_ws *w, const char *words) { snprintf(w->words, sizeof w->words, "%s", words); }

/* ---- address -------------------------------------------------------------------------------------------------- */

static int split(mp_ws *w, const char *url, mp_err *e) {
    static const struct { const char *scheme; int tls; } schemes[] = { { "ws://", 0 }, { "http://", 0 }, { "wss://", 1 }, { "https://", 1 } };
    const char *p = NULL;
    for (int i = 0; i < 4 && !p; i++)
        if (strncmp(url, schemes[i].scheme, strlen(schemes[i].scheme)) == 0) { p = url + strlen(schemes[i].scheme); w->tls = schemes[i].tls; }
    if (!p) return mp_fail(e, MP_EINVAL, "\"%s\" is no ws or wss address", url);
    size_t n = strcspn(p, "/?#");
    const char *at = memchr(p, '@', n), *path = p + n;
    if (at) { n -= (size_t)(at + 1 - p); p = at + 1; }
    const char *colon = n && *p == '[' ? memchr(p, ']', n) : p;
    colon = colon ? memchr(colon, ':', n - (size_t)(colon - p)) : NULL;
    w->port = colon ? atoi(colon + 1) : w->tls ? 443 : 80;
    size_t hn = colon ? (size_t)(colon - p) : n;
    if (hn > 1 && *p == '[') { p++; hn -= 2; }
    w->host = mp_strndup(p, hn);
    w->path = mp_format("%s%s", *path == '/' ? "" : "/", path);
    return hn && w->port > 0 && w->port < 65536 ? 0 : mp_fail(e, MP_EINVAL, "\"%s\" names no host", url);
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

static void on_later_closed(uv_handle_t *h) {
    mp_ws *w = h->data;
    while (w->first) {
        frame *f = w->first;
        w->first = f->next;
        free(f);
    }
    mp_buf_free(&w->message);
    free(w->host);
    free(w->path);
    free(w->headers);
    free(w->auth);
    free(w->ca);
    free(w);
}

static void end_once(mp_ws *w) {
    if (w->ended) return;
    w->ended = 1;
    if (w->wsi) lws_set_opaque_user_data(w->wsi, NULL);
    w->wsi = NULL;
    if (w->resolving) uv_cancel((uv_req_t *)&w->resolve);
    if (w->addresses) uv_freeaddrinfo(w->addresses);
    w->addresses = NULL;
    *w->prev = w->next;
    if (w->next) w->next->prev = w->prev;
    uv_timer_stop(&w->later);
    w->o.on_close(w->ud, w->code ? w->code : 1006, w->status, w->words[0] ? w->words : w->open ? "the connection was lost" : "no connection");
    if (!w->resolving) uv_close((uv_handle_t *)&w->later, on_later_closed);
}

static void on_later(uv_timer_t *t) {
    mp_ws *w = t->data;
    if (!w->open && !w->words[0]) say(w, "the connection attempt timed out");
    if (w->wsi) {                                    /* let the library close it; we have told already */
        struct lws *wsi = w->wsi;
        lws_set_timeout(wsi, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_ASYNC);
        lws_cancel_service(w->loop->lws);
    }
    end_once(w);
}

static void fail_later(mp_ws *w, const char *words) {
    say(w, words);
    uv_timer_start(&w->later, on_later, 0, 0);
}

static void connect_to(mp_ws *w, const char *address) {
    struct lws_client_connect_info i;
    char host[300];
    memset(&i, 0, sizeof i);
    snprintf(host, sizeof host, strchr(w->host, ':') ? "[%s]:%d" : "%s:%d", w->host, w->port);
    i.context = w->loop->lws;
    i.vhost = w->tls ? loop_tls(w->loop, w->ca) : w->loop->client_vhost;
    if (!i.vhost) { fail_later(w, "the CA file cannot be used"); return; }
    i.address = address;
    i.port = w->port;
    i.path = w->path;
    i.host = w->port == (w->tls ? 443 : 80) ? w->host : host;
    i.origin = NULL;                                 /* an Origin other than the host is refused (protocol 1.4) */
    i.protocol = NULL;
    i.local_protocol_name = "moonpool";
    i.opaque_user_data = w;
    i.ssl_connection = LCCSCF_HTTP_NO_FOLLOW_REDIRECT;
    if (w->tls) i.ssl_connection |= LCCSCF_USE_SSL;
    if (w->tls && w->o.insecure) i.ssl_connection |= LCCSCF_ALLOW_SELFSIGNED | LCCSCF_ALLOW_EXPIRED | LCCSCF_ALLOW_INSECURE | LCCSCF_SKIP_SERVER_CERT_HOSTNAME_CHECK;
    i.alpn = "http/1.1";
    i.retry_and_idle_policy = loop_pings(w->loop, w->o.inactivity ? w->o.inactivity : MP_MS(60000));
    i.pwsi = &w->wsi;
    w->in_callback = 1;                              /* one version calls back from inside the call, the other only returns NULL */
    struct lws *wsi = lws_client_connect_via_info(&i);
    w->in_callback = 0;
    if (!wsi) {
        w->wsi = NULL;
        if (!w->words[0]) say(w, "it could not be connected");
        uv_timer_start(&w->later, on_later, 0, 0);
    } else lws_cancel_service(w->loop->lws);         /* else its connect timeout is never looked at */
}

static void try_next(mp_ws *w) {
    char text[64];
    struct addrinfo *a = w->next_address;
    if (!a) { fail_later(w, w->words[0] ? w->words : "the name has no address"); return; }
    w->next_address = a->ai_next;
    uv_ip_name(a->ai_addr, text, sizeof text);
    w->words[0] = 0;
    connect_to(w, text);
}

static void on_resolved(uv_getaddrinfo_t *r, int status, struct addrinfo *list) {
    mp_ws *w = r->data;
    w->resolving = 0;
    if (w->ended) {
        if (list) uv_freeaddrinfo(list);
        uv_close((uv_handle_t *)&w->later, on_later_closed);
        return;
    }
    if (status < 0) {
        snprintf(w->words, sizeof w->words, "the name %.100s could not be resolved: %s", w->host, uv_strerror(status));
        uv_timer_start(&w->later, on_later, 0, 0);
        return;
    }
    w->addresses = w->next_address = list;
    try_next(w);
}

mp_ws *mp_ws_open(mp_loop *l, const mp_ws_opts *o, void *ud, mp_err *e) {
    if (l->closing || loop_lws(l, e) != 0) return NULL;
    mp_ws *w = mp_alloc(sizeof *w);
    mp_buf h = { 0 };
    int wrong = split(w, o->url, e);
    for (size_t i = 0; o->headers && o->headers[i]; i++) mp_buf_printf(&h, "%s\r\n", o->headers[i]);
    w->loop = l;
    w->o = *o;
    w->ud = ud;
    w->headers = h.n ? mp_buf_take(&h, NULL) : NULL;
    w->ca = mp_strdup(o->ca_file);
    if (o->userpwd) {
        char b64[400];
        lws_b64_encode_string(o->userpwd, (int)strlen(o->userpwd), b64, sizeof b64);
        w->auth = mp_format("Basic %s", b64);
    }
    if (!w->o.max_message) w->o.max_message = 64u << 20;
    w->later.data = w;
    uv_timer_init(&l->uv, &w->later);
    w->later.data = w;
    if (wrong) {
        uv_close((uv_handle_t *)&w->later, on_later_closed);
        return NULL;
    }
    w->next = l->wss;
    w->prev = &l->wss;
    if (w->next) w->next->prev = &w->next;
    l->wss = w;
    uv_update_time(&l->uv);
    uv_timer_start(&w->later, on_later, (uint64_t)((o->timeout ? o->timeout : MP_MS(10000)) / 1000), 0);
    struct addrinfo hints;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    if (uv_ip4_addr(w->host, w->port, &v4) == 0 || uv_ip6_addr(w->host, w->port, &v6) == 0) {
        connect_to(w, w->host);
        return w;
    }
    w->resolve.data = w;
    w->resolving = 1;
    if (uv_getaddrinfo(&l->uv, &w->resolve, on_resolved, w->host, NULL, &hints) != 0) { w->resolving = 0; fail_later(w, "no name could be resolved"); }
    return w;
}

void mp_ws_send(mp_ws *w, int binary, const void *p, size_t n) {
    frame *f = mp_alloc(sizeof *f + LWS_PRE + n);
    f->binary = binary;
    f->n = n;
    if (n) memcpy(f->p + LWS_PRE, p, n);
    if (w->last && w->first) w->last->next = f;
    else w->first = f;
    w->last = f;
    if (w->open && w->wsi) lws_callback_on_writable(w->wsi);
}

void mp_ws_close(mp_ws *w, int code, const char *reason) {
    if (w->ended || w->closing) return;
    snprintf(w->reason, sizeof w->reason, "%s", reason ? reason : "");
    if (!w->open) {
        w->code = 1006;
        fail_later(w, "closed before it was open");
        return;
    }
    w->closing = code ? code : 1000;
    lws_callback_on_writable(w->wsi);
    uv_timer_start(&w->later, on_later, 5000, 0);    /* the peer may never answer */
}

void ws_close_all(mp_loop *l) {
    while (l->wss) {
        mp_ws *w = l->wss;
        if (w->wsi) lws_set_timeout(w->wsi, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_ASYNC);
        say(w, "the loop is closing");
        end_once(w);
    }
}

/* ---- the library's callback ---------------------------------------------------------------------------------------- */

static void on_receive(mp_ws *w, struct lws *wsi, const char *in, size_t len) {
    int first = lws_is_first_fragment(wsi), whole = lws_is_final_fragment(wsi) && lws_remaining_packet_payload(wsi) == 0;
    if (w->closing || w->ended) return;              /* the rest of what we no longer want */
    if (w->message.n + len > w->o.max_message) {
        mp_buf_free(&w->message);
        snprintf(w->words, sizeof w->words, "a message of more than %zu bytes", w->o.max_message);
        w->closing = 1009;                           /* not from here: from WRITEABLE, see the head of this file */
        lws_callback_on_writable(wsi);
        return;
    }
    if (first && whole) { w->o.on_message(w->ud, lws_frame_is_binary(wsi), in, len); return; }
    if (!w->message.n && lws_remaining_packet_payload(wsi) < w->o.max_message) mp_buf_room(&w->message, len + lws_remaining_packet_payload(wsi));
    mp_buf_add(&w->message, in, len);
    if (!whole) return;
    mp_buf m = w->message;
    memset(&w->message, 0, sizeof w->message);
    w->o.on_message(w->ud, lws_frame_is_binary(wsi), m.p, m.n);
    mp_buf_free(&m);
}

static int on_writable(mp_ws *w, struct lws *wsi) {
    while (w->first && !w->closing) {
        frame *f = w->first;
        if (lws_write(wsi, f->p + LWS_PRE, f->n, f->binary ? LWS_WRITE_BINARY : LWS_WRITE_TEXT) < (int)f->n) return -1;
        w->first = f->next;
        free(f);
        if (w->first && lws_send_pipe_choked(wsi)) { lws_callback_on_writable(wsi); return 0; }
    }
    if (!w->closing) return 0;
    lws_close_reason(wsi, (enum lws_close_status)w->closing, (unsigned char *)w->reason, strlen(w->reason));
    return -1;
}

/* Non-zero: they do not fit into the library's buffer; the handshake is given up. */
static int put_headers(mp_ws *w, struct lws *wsi, unsigned char **p, unsigned char *end) {
    int full = 0;
    if (w->auth) full |= lws_add_http_header_by_name(wsi, (const unsigned char *)"authorization:", (const unsigned char *)w->auth, (int)strlen(w->auth), p, end);
    for (char *line = w->headers, *nl; line && (nl = strstr(line, "\r\n")) != NULL; line = nl + 2) {
        char name[200];
        char *colon = memchr(line, ':', (size_t)(nl - line));
        if (!colon || (size_t)(colon - line) > sizeof name - 2) continue;
        snprintf(name, sizeof name, "%.*s:", (int)(colon - line), line);
        for (char *c = name; *c; c++) *c = (char)tolower((unsigned char)*c);
        do colon++; while (*colon == ' ');
        full |= lws_add_http_header_by_name(wsi, (const unsigned char *)name, (const unsigned char *)colon, (int)(nl - colon), p, end);
    }
    return full;
}

int ws_callback(struct lws *wsi, enum lws_callback_reasons why, void *user, void *in, size_t len) {
    mp_ws *w = wsi ? lws_get_opaque_user_data(wsi) : NULL;
    (void)user;
    if (!w) return lws_callback_http_dummy(wsi, why, user, in, len);
    switch (why) {
    case LWS_CALLBACK_CLIENT_APPEND_HANDSHAKE_HEADER: {
        unsigned char **p = in;
        if (put_headers(w, wsi, p, *p + len)) return -1;
        break;
    }
    case LWS_CALLBACK_CLIENT_ESTABLISHED:
        w->open = 1;
        w->status = 101;
        uv_timer_stop(&w->later);
        w->o.on_open(w->ud);
        if (w->first && !w->ended) lws_callback_on_writable(wsi);
        break;
    case LWS_CALLBACK_CLIENT_RECEIVE: on_receive(w, wsi, in, len); return 0;
    case LWS_CALLBACK_CLIENT_WRITEABLE: return on_writable(w, wsi);
    case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
        if (len >= 2) {
            const unsigned char *c = in;
            w->code = c[0] << 8 | c[1];
            snprintf(w->words, sizeof w->words, "closed by the server (%d) %.*s", w->code, (int)(len - 2 > 120 ? 120 : len - 2), (const char *)in + 2);
        }
        break;
    case LWS_CALLBACK_CLIENT_CONNECTION_ERROR: case LWS_CALLBACK_CLOSED_CLIENT_HTTP: case LWS_CALLBACK_CLIENT_CLOSED: case LWS_CALLBACK_WSI_DESTROY:
        if (!w->open && !w->status) w->status = (int)lws_http_client_http_response(wsi);
        if (!w->open && !w->words[0] && w->status > 0 && w->status != 101) snprintf(w->words, sizeof w->words, "the handshake was refused with status %d", w->status);
        if (!w->open && !w->words[0]) snprintf(w->words, sizeof w->words, "%s%s%.100s", in && len ? (const char *)in : "no connection", w->tls && *process_newest_error() ? ": " : "", w->tls ? process_newest_error() : "");
        w->wsi = NULL;
        lws_set_opaque_user_data(wsi, NULL);
        if (!w->open && w->next_address && !w->in_callback && !w->ended) { w->status = 0; try_next(w); break; }
        if (w->in_callback) uv_timer_start(&w->later, on_later, 0, 0);   /* report from the next turn */
        else { if (w->closing && !w->code) w->code = w->closing; end_once(w); }
        break;
    default: break;
    }
    return lws_callback_http_dummy(wsi, why, user, in, len);
}
