/* net/http.h -- floor 1, net: HTTP requests over libcurl: keep-alive, TLS, proxies, multipart, streaming.
 * Names are resolved in a thread of curl's; redirects are not followed; only http and https are spoken.
 * Sees: base. Seen by: wire, lua. */
#ifndef MP_HTTP_H
#define MP_HTTP_H
#include "net/loop.h"

typedef struct mp_http mp_http;

typedef struct mp_http_part {
    const char *name, *filename, *type, *path;       /* path: streamed from this file instead of data */
    const void *data;
    size_t n;
    int borrowed;                                    /* data stays valid until `done` was called: it is streamed, not copied */
} mp_http_part;

enum { MP_HTTP_STOP = 1, MP_HTTP_PAUSE = 2 };

typedef struct mp_http_opts {
    const char *method, *url;
    const char *const *headers;                      /* "Name: value", NULL-ended, or NULL */
    const char *userpwd;                             /* "user:password" for Basic, or NULL */
    const void *body;                                /* copied */
    size_t n_body;
    const mp_http_part *parts;                       /* multipart/form-data instead of body; data is copied, unless borrowed */
    size_t n_parts;
    mp_time timeout, connect_timeout;                /* 0: 60 s; 10 s */
    mp_time silence;                                 /* no byte for once to twice as long, in either direction: MP_ETIMEOUT; 0: no bound */
    size_t max_body;                                 /* a longer reply is cut off with MP_ELIMIT; 0: 256 MiB */
    int insecure;                                    /* do not verify TLS */
    const char *ca_file;
    /* Takes the body of a 2xx reply piece by piece instead of gathering it: 0, MP_HTTP_STOP, or MP_HTTP_PAUSE (this piece
     * comes again after mp_http_resume). NULL: gathered. */
    int (*on_data)(void *ud, const char *p, size_t n);
} mp_http_opts;

typedef struct mp_http_reply {
    int code;                                        /* 0; MP_EREFUSED: certainly not sent; MP_ENET, MP_ETIMEOUT, MP_ETLS, MP_ELIMIT, MP_EABORT */
    int status;
    const char *body, *content_type, *headers, *message;     /* headers: as received; message: words when code != 0 */
    size_t n;
} mp_http_reply;

/* Calls `done` once, later, also after mp_http_cancel (MP_EABORT). NULL: the options are wrong, `done` is not called. */
mp_http *mp_http_start(mp_loop *l, const mp_http_opts *o, void (*done)(void *ud, const mp_http_reply *r), void *ud, mp_err *e);
void mp_http_cancel(mp_http *h);
void mp_http_resume(mp_http *h);                     /* not from inside on_data */
#endif
