/* net/serve.h -- floor 1, net: an HTTP server of our own, WebSockets by libwebsockets.
 * Sees: base. Seen by: wire. */
#ifndef MP_SERVE_H
#define MP_SERVE_H
#include "net/loop.h"

typedef struct mp_server mp_server;
typedef struct mp_exchange mp_exchange;              /* one request that is owed a reply */
typedef struct mp_peer mp_peer;                      /* one open WebSocket */

typedef struct mp_serve_request { mp_str method, path, content_type, host, origin, range, since, body; } mp_serve_request;     /* path with its query, as it was sent; since: If-Modified-Since */

typedef struct mp_serve_handler {
    /* Reply now or later, once, by mp_serve_reply; until on_request_gone (the peer hung up: no reply any more). */
    void (*on_request)(void *ud, mp_exchange *x, const mp_serve_request *r);
    void (*on_request_gone)(void *ud, mp_exchange *x);
    int (*refuse)(void *ud, mp_str path, mp_str host, mp_str origin);    /* of an upgrade: 0 take it; above 0 the status to answer; -1: no WebSocket is there, it is a request like others; NULL: take all */
    void (*on_open)(void *ud, mp_peer *p, mp_str path);
    void (*on_text)(void *ud, mp_peer *p, mp_str text);
    void (*on_gone)(void *ud, mp_peer *p);           /* p is gone after it */
} mp_serve_handler;

/* Listens on host:port (port 0: any free one). NULL and words when it cannot. */
mp_server *mp_serve_open(mp_loop *l, const char *host, int port, const mp_serve_handler *h, void *ud, mp_err *e);
int mp_serve_port(const mp_server *s);
void mp_serve_close(mp_server *s);                   /* stops listening and drops what is open */
void mp_serve_pause(mp_server *s, int paused);       /* paused: open connections are cut and new ones refused */
/* headers: more lines, each ended by CR LF; NULL: none. content_type NULL: no such line. */
void mp_serve_reply(mp_exchange *x, int status, const char *content_type, const char *headers, const void *body, size_t n);
void mp_peer_send(mp_peer *p, int binary, const void *data, size_t n, int at_once);       /* else with what else comes before the loop turns */
void mp_peer_send_slowly(mp_peer *p, int binary, const void *data, size_t n, mp_time over);        /* its bytes come one after the other, the last when `over` has passed */
void mp_peer_drop(mp_peer *p);                       /* cuts it, without a close frame */
#endif
