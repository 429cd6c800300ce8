/* net/ws.h -- floor 1, net: WebSocket client over libwebsockets.
 * Names are resolved in a worker thread; messages are gathered up to a bound; the server is pinged every 30 s.
 * Sees: base. Seen by: wire, lua. */
#ifndef MP_WS_H
#define MP_WS_H
#include "net/loop.h"

typedef struct mp_ws mp_ws;

typedef struct mp_ws_opts {
    const char *url;                                 /* ws://, wss://, http:// or https:// */
    const char *const *headers;                      /* "Name: value", NULL-ended, or NULL */
    const char *userpwd;
    mp_time timeout;                                 /* for the handshake; 0: 10 s */
    mp_time inactivity;                              /* lost after so long without a byte, pings included; whole seconds, 2 to 60,000; 0: 60 s */
    size_t max_message;                              /* 0: 64 MiB; a longer one closes the socket (1009) */
    int insecure;
    const char *ca_file;
    void (*on_open)(void *ud);
    void (*on_message)(void *ud, int binary, const char *p, size_t n);
    /* The end, once, whatever came before: never opened (status as the server said, or 0), lost (code 1006), closed. */
    void (*on_close)(void *ud, int code, int status, const char *words);
} mp_ws_opts;

/* NULL: the options are wrong, nothing will be called. Else on_close comes exactly once, later; w is gone after it. */
mp_ws *mp_ws_open(mp_loop *l, const mp_ws_opts *o, void *ud, mp_err *e);
void mp_ws_send(mp_ws *w, int binary, const void *p, size_t n);      /* copied, sent in order */
void mp_ws_close(mp_ws *w, int code, const char *reason);            /* clean close; the peer has 5 s to answer */
#endif
