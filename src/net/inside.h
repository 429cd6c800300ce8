/* net/inside.h -- floor 1, net: shared by the files of this room only. */
#ifndef MP_NET_INSIDE_H
#define MP_NET_INSIDE_H
#include "net/loop.h"
#include <curl/curl.h>
#include <libwebsockets.h>
#include <uv.h>

struct mp_http;
struct mp_ws;
struct mp_server;

struct mp_loop {
    uv_loop_t uv;
    uv_async_t async;
    uv_timer_t curl_timer, kick;
    struct lws_context *lws;
    struct lws_vhost *client_vhost, *server_vhost;
    struct tls_vhost { char *ca_file, *name; struct lws_vhost *vhost; } *tls;    /* the library keeps the name */
    size_t n_tls;
    struct pings { lws_retry_bo_t policy; struct pings *next; } *pings;       /* the library keeps pointers to them */
    CURLM *multi;
    int stepping, closing, curl_due, works;
    mp_time epoch;
    struct mp_http *https;
    struct mp_ws *wss;
    struct mp_server *servers;
    struct mp_timer *timers;
    CURL *idle[16];                                  /* easy handles for reuse */
    int n_idle;
    struct mp_loop *next_kept;
};

int loop_lws(mp_loop *l, mp_err *e);                 /* makes the context when first needed */
struct lws_vhost *loop_tls(mp_loop *l, const char *ca_file);              /* the vhost of wss, made when first needed; NULL: none to be had */
const lws_retry_bo_t *loop_pings(mp_loop *l, mp_time inactivity);         /* hangs up after so long without a byte, asks after a third of it */
void http_close_all(mp_loop *l);
void ws_close_all(mp_loop *l);
void serve_close_all(mp_loop *l);
int http_init(mp_loop *l, mp_err *e);
void http_free(mp_loop *l);
int ws_callback(struct lws *wsi, enum lws_callback_reasons why, void *user, void *in, size_t len);
int serve_callback(struct lws *wsi, enum lws_callback_reasons why, void *user, void *in, size_t len);
extern const struct lws_protocols serve_protocols[];
/* process.c: what is process-wide anyway */
void process_enter(void);
void process_leave(void);
const char *process_newest_error(void);              /* the newest line of the library's own log in this thread */
#endif
