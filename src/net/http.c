/* net/http.c -- floor 1, net: HTTP requests over libcurl, driven by uv_poll.
 * curl is never called from its own timer callback: that only notes when; a timer of the loop acts on the next turn. */
#include "net/http.h"
#include "base/buf.h"
#include "net/inside.h"
#include <stdlib.h>
#include <stdio.h>
#include <strings.h>
#include <sys/ioctl.h>
#ifdef __linux__
#include <linux/sockios.h>
#endif

typedef struct { const char *p; size_t n, at; } borrowed;         /* at: how much of it curl has taken */

struct mp_http {
    mp_loop *loop;
    CURL *easy;
    struct curl_slist *headers;
    curl_mime *mime;
    mp_buf body, head;
    borrowed sent;                                   /* the body, ours */
    size_t max_body;
    int over, canceled, paused;
    struct watch *watch;
    char words[CURL_ERROR_SIZE];
    int (*on_data)(void *, const char *, size_t);
    void (*done)(void *, const mp_http_reply *);
    void *ud;
    mp_http *next, **prev;
};

typedef struct { uv_poll_t poll; mp_loop *loop; curl_socket_t fd; } sock;

/* Looks now and then whether a request has moved. */
typedef struct watch { uv_timer_t timer; mp_http *h; uint64_t every; curl_off_t moved; } watch;

static void finish(mp_http *h, CURLcode rc);

static void collect(mp_loop *l) {
    CURLMsg *m;
    int left;
    while ((m = curl_multi_info_read(l->multi, &left)) != NULL) {
        mp_http *h;
        if (m->msg != CURLMSG_DONE) continue;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &h);
        finish(h, m->data.result);
    }
}

static void on_timeout(uv_timer_t *t) {
    mp_loop *l = t->data;
    int running;
    curl_multi_socket_action(l->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    collect(l);
}

static int want_timer(CURLM *m, long ms, void *ud) {
    mp_loop *l = ud;
    (void)m;
    if (ms < 0) uv_timer_stop(&l->curl_timer);
    else uv_timer_start(&l->curl_timer, on_timeout, (uint64_t)ms, 0);
    return 0;
}

static void on_poll(uv_poll_t *p, int status, int events) {
    sock *s = p->data;
    mp_loop *l = s->loop;
    /* An error of poll is a reset that curl must read for itself, else it would not retry on a fresh connection. */
    int running, flags = status < 0 ? CURL_CSELECT_IN | CURL_CSELECT_OUT : (events & UV_READABLE ? CURL_CSELECT_IN : 0) | (events & UV_WRITABLE ? CURL_CSELECT_OUT : 0);
    curl_multi_socket_action(l->multi, s->fd, flags, &running);
    collect(l);
}

static void on_sock_closed(uv_handle_t *h) { free(h->data); }

static int want_socket(CURL *easy, curl_socket_t fd, int what, void *ud, void *at) {
    mp_loop *l = ud;
    sock *s = at;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (!s) return 0;
        curl_multi_assign(l->multi, fd, NULL);
        uv_poll_stop(&s->poll);
        uv_close((uv_handle_t *)&s->poll, on_sock_closed);
        return 0;
    }
    if (!s) {
        s = mp_alloc(sizeof *s);
        s->loop = l;
        s->fd = fd;
        uv_poll_init_socket(&l->uv, &s->poll, fd);
        s->poll.data = s;
        curl_multi_assign(l->multi, fd, s);
    }
    uv_poll_start(&s->poll, (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0), on_poll);
    return 0;
}

int http_init(mp_loop *l, mp_err *e) {
    if (!(l->multi = curl_multi_init())) return mp_fail(e, MP_ENOMEM, "libcurl gave no handle");
    uv_timer_init(&l->uv, &l->curl_timer);
    l->curl_timer.data = l;
    curl_multi_setopt(l->multi, CURLMOPT_TIMERFUNCTION, want_timer);
    curl_multi_setopt(l->multi, CURLMOPT_TIMERDATA, l);
    curl_multi_setopt(l->multi, CURLMOPT_SOCKETFUNCTION, want_socket);
    curl_multi_setopt(l->multi, CURLMOPT_SOCKETDATA, l);
    curl_multi_setopt(l->multi, CURLMOPT_MAXCONNECTS, 1024L);
    curl_multi_setopt(l->multi, CURLMOPT_MAX_HOST_CONNECTIONS, 128L);
    curl_multi_setopt(l->multi, CURLMOPT_PIPELINING, CURLPIPE_NOTHING);
    return 0;
}

void http_free(mp_loop *l) {
    while (l->n_idle) curl_easy_cleanup(l->idle[--l->n_idle]);
    curl_multi_cleanup(l->multi);
    uv_close((uv_handle_t *)&l->curl_timer, NULL);
    if (l->kick.data) uv_close((uv_handle_t *)&l->kick, NULL);
}

/* ---- one request ------------------------------------------------------------------------------------------- */

static size_t on_body(char *p, size_t size, size_t n, void *ud) {
    mp_http *h = ud;
    long status = 0;
    n *= size;
    curl_easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &status);
    if (h->on_data && status >= 200 && status < 300) {
        int rc = h->on_data(h->ud, p, n);
        h->paused = rc == MP_HTTP_PAUSE;
        return rc == MP_HTTP_PAUSE ? CURL_WRITEFUNC_PAUSE : rc ? 0 : n;
    }
    if (h->body.n + n > h->max_body) { h->over = 1; return 0; }
    mp_buf_add(&h->body, p, n);
    return n;
}

static size_t on_head(char *p, size_t size, size_t n, void *ud) {
    mp_http *h = ud;
    n *= size;
    if (h->head.n + n > 65536) return 0;
    if (n > 5 && memcmp(p, "HTTP/", 5) == 0) mp_buf_clear(&h->head);     /* after a 100 the real ones follow */
    mp_buf_add(&h->head, p, n);
    return n;
}

static int code_of(const mp_http *h, CURLcode rc) {
    switch (rc) {
    case CURLE_OK: return 0;
    case CURLE_COULDNT_RESOLVE_HOST: case CURLE_COULDNT_RESOLVE_PROXY: case CURLE_COULDNT_CONNECT: return MP_EREFUSED;
    case CURLE_OPERATION_TIMEDOUT: {
        long sent = 0;                               /* bytes of the request; the connect time is 0 on a reused connection */
        curl_easy_getinfo(h->easy, CURLINFO_REQUEST_SIZE, &sent);
        return sent > 0 ? MP_ETIMEOUT : MP_EREFUSED;
    }
    case CURLE_PEER_FAILED_VERIFICATION: case CURLE_SSL_CONNECT_ERROR: case CURLE_SSL_CACERT_BADFILE: case CURLE_SSL_CERTPROBLEM: case CURLE_SSL_CIPHER: return MP_ETLS;
    case CURLE_WRITE_ERROR: return h->over ? MP_ELIMIT : MP_EABORT;
    default: return MP_ENET;
    }
}

static void detach(mp_http *h) {
    *h->prev = h->next;
    if (h->next) h->next->prev = h->prev;
    curl_multi_remove_handle(h->loop->multi, h->easy);
}

static void on_watch_closed(uv_handle_t *t) { free(t->data); }

static void unwatch(mp_http *h) {
    if (!h->watch) return;
    uv_close((uv_handle_t *)&h->watch->timer, on_watch_closed);
    h->watch = NULL;
}

static void release(mp_http *h) {
    mp_loop *l = h->loop;
    unwatch(h);
    if (h->mime || l->n_idle == 16) curl_easy_cleanup(h->easy);
    else {
        curl_easy_reset(h->easy);
        l->idle[l->n_idle++] = h->easy;
    }
    curl_mime_free(h->mime);
    curl_slist_free_all(h->headers);
    mp_buf_free(&h->body);
    mp_buf_free(&h->head);
    free((char *)h->sent.p);
    free(h);
}

/* A connection that ends in the middle of the head looks like an empty reply to curl: it must not count as one. */
static int head_whole(const mp_http *h) { return h->head.n >= 4 && memcmp(h->head.p + h->head.n - 4, "\r\n\r\n", 4) == 0; }

static void finish(mp_http *h, CURLcode rc) {
    mp_http_reply r = { 0 };
    long status = 0;
    char *type = NULL;
    curl_easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(h->easy, CURLINFO_CONTENT_TYPE, &type);
    r.code = h->canceled ? MP_EABORT : code_of(h, rc);
    if (!r.code && status && !head_whole(h)) {
        r.code = MP_ENET;
        snprintf(h->words, sizeof h->words, "the connection ended in the middle of the reply's head");
    }
    r.status = (int)status;
    r.body = h->body.p ? h->body.p : "";
    r.n = h->body.n;
    r.headers = h->head.p ? h->head.p : "";
    r.content_type = type ? type : "";
    long os = 0;
    curl_easy_getinfo(h->easy, CURLINFO_OS_ERRNO, &os);
    size_t used = strlen(h->words);
    if (rc == CURLE_COULDNT_CONNECT && os && used < sizeof h->words) snprintf(h->words + used, sizeof h->words - used, " (%s)", strerror((int)os));
    if (rc == CURLE_SEND_FAIL_REWIND) snprintf(h->words, sizeof h->words, "the connection was lost while the request was under way");
    if (r.code) r.message = h->canceled ? "canceled" : h->over ? "the reply is larger than the limit" : h->words[0] ? h->words : curl_easy_strerror(rc);
    detach(h);
    h->done(h->ud, &r);
    release(h);
}

/* What curl has handed over and the network has not taken yet: it moves though curl sees nothing. */
static curl_off_t unsent(const mp_http *h) {
    int n = 0;
#ifdef SIOCOUTQ
    curl_socket_t fd = CURL_SOCKET_BAD;
    if (curl_easy_getinfo(h->easy, CURLINFO_ACTIVESOCKET, &fd) != CURLE_OK || fd == CURL_SOCKET_BAD || ioctl(fd, SIOCOUTQ, &n) != 0) n = 0;
#else
    (void)h;
#endif
    return n;
}

static void on_watch(uv_timer_t *t) {
    watch *w = t->data;
    mp_http *h = w->h;
    curl_off_t up = 0, down = 0;
    curl_easy_getinfo(h->easy, CURLINFO_SIZE_UPLOAD_T, &up);
    curl_easy_getinfo(h->easy, CURLINFO_SIZE_DOWNLOAD_T, &down);
    curl_off_t moved = up + down + (curl_off_t)h->head.n - unsent(h);
    if (h->paused || moved != w->moved) {            /* paused: it is us who do not read */
        w->moved = moved;
        return;
    }
    snprintf(h->words, sizeof h->words, "no byte came for %llu ms", (unsigned long long)w->every);
    finish(h, CURLE_OPERATION_TIMEDOUT);
}

static void watch_over(mp_http *h, mp_time silence) {
    watch *w = h->watch = mp_alloc(sizeof *w);
    w->h = h;
    w->every = silence > MP_MS(1) ? (uint64_t)(silence / 1000) : 1;
    w->timer.data = w;
    uv_timer_init(&h->loop->uv, &w->timer);
    uv_timer_start(&w->timer, on_watch, w->every, w->every);
}

static void headers_of(mp_http *h, const mp_http_opts *o) {
    int typed = 0;
    h->headers = curl_slist_append(NULL, "Expect:");             /* no 100-continue round trip */
    for (size_t i = 0; o->headers && o->headers[i]; i++) {
        h->headers = curl_slist_append(h->headers, o->headers[i]);
        typed |= strncasecmp(o->headers[i], "content-type:", 13) == 0;
    }
    if (o->n_body && !typed && !o->n_parts) h->headers = curl_slist_append(h->headers, "Content-Type: application/json");
    curl_easy_setopt(h->easy, CURLOPT_HTTPHEADER, h->headers);
}

static borrowed *borrow(const mp_http_part *part) {
    borrowed *b = mp_alloc(sizeof *b);
    *b = (borrowed){ part->data, part->n, 0 };
    return b;
}

static size_t read_borrowed(char *to, size_t size, size_t n, void *ud) {
    borrowed *b = ud;
    size_t k = size * n < b->n - b->at ? size * n : b->n - b->at;
    memcpy(to, b->p + b->at, k);
    b->at += k;
    return k;
}

static int seek_borrowed(void *ud, curl_off_t to, int from) {
    borrowed *b = ud;
    if (from != SEEK_SET || to < 0 || (size_t)to > b->n) return CURL_SEEKFUNC_FAIL;
    b->at = (size_t)to;
    return CURL_SEEKFUNC_OK;
}

/* A kept connection that dies after the body went out and before a byte came back: curl would send the body again by
 * itself, and a prompt would run twice. It asks for a rewind first, which is refused; whoever asked finds out what the
 * server has. Credentials and redirects rewind before anything was taken amiss, so they still may. */
static int seek_sent(void *ud, curl_off_t to, int from) {
    mp_http *h = ud;
    long status = 0;
    curl_easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &status);
    return status == 0 ? CURL_SEEKFUNC_FAIL : seek_borrowed(&h->sent, to, from);
}

static void body_of(mp_http *h, const mp_http_opts *o) {
    const char *method = o->method ? o->method : "GET";
    if (o->n_parts) {
        h->mime = curl_mime_init(h->easy);
        for (size_t i = 0; i < o->n_parts; i++) {
            curl_mimepart *p = curl_mime_addpart(h->mime);
            curl_mime_name(p, o->parts[i].name);
            if (o->parts[i].path) curl_mime_filedata(p, o->parts[i].path);
            else if (o->parts[i].borrowed) curl_mime_data_cb(p, (curl_off_t)o->parts[i].n, read_borrowed, seek_borrowed, free, borrow(&o->parts[i]));
            else curl_mime_data(p, o->parts[i].data, o->parts[i].n);
            if (o->parts[i].filename) curl_mime_filename(p, o->parts[i].filename);
            if (o->parts[i].type) curl_mime_type(p, o->parts[i].type);
        }
        curl_easy_setopt(h->easy, CURLOPT_MIMEPOST, h->mime);
        return;
    }
    if (strcmp(method, "GET") == 0) return;
    if (strcmp(method, "HEAD") == 0) { curl_easy_setopt(h->easy, CURLOPT_NOBODY, 1L); return; }
    h->sent = (borrowed){ mp_strndup(o->n_body ? o->body : "", o->n_body), o->n_body, 0 };
    curl_easy_setopt(h->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)o->n_body);
    curl_easy_setopt(h->easy, CURLOPT_POST, 1L);
    curl_easy_setopt(h->easy, CURLOPT_READFUNCTION, read_borrowed);
    curl_easy_setopt(h->easy, CURLOPT_READDATA, &h->sent);
    curl_easy_setopt(h->easy, CURLOPT_SEEKFUNCTION, seek_sent);
    curl_easy_setopt(h->easy, CURLOPT_SEEKDATA, h);
    if (strcmp(method, "POST") != 0) curl_easy_setopt(h->easy, CURLOPT_CUSTOMREQUEST, method);
}

mp_http *mp_http_start(mp_loop *l, const mp_http_opts *o, void (*done)(void *, const mp_http_reply *), void *ud, mp_err *e) {
    if (l->closing) return mp_fail(e, MP_EGONE, "the loop is closing"), NULL;
    if (strncmp(o->url, "http://", 7) != 0 && strncmp(o->url, "https://", 8) != 0) return mp_fail(e, MP_EINVAL, "\"%s\" is no http or https address", o->url), NULL;
    mp_http *h = mp_alloc(sizeof *h);
    h->loop = l;
    h->easy = l->n_idle ? l->idle[--l->n_idle] : curl_easy_init();
    h->done = done;
    h->ud = ud;
    h->on_data = o->on_data;
    h->max_body = o->max_body ? o->max_body : 256u << 20;
    CURL *c = h->easy;
    curl_easy_setopt(c, CURLOPT_URL, o->url);
    curl_easy_setopt(c, CURLOPT_PRIVATE, h);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, h->words);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, h);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_head);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, h);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)((o->timeout ? o->timeout : MP_MS(60000)) / 1000));
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)((o->connect_timeout ? o->connect_timeout : MP_MS(10000)) / 1000));
    curl_easy_setopt(c, CURLOPT_USERAGENT, "moonpool");
    if (o->userpwd) { curl_easy_setopt(c, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC); curl_easy_setopt(c, CURLOPT_USERPWD, o->userpwd); }
    if (o->ca_file) curl_easy_setopt(c, CURLOPT_CAINFO, o->ca_file);
    if (o->insecure) { curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 0L); curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 0L); }
    headers_of(h, o);
    body_of(h, o);
    h->next = l->https;
    h->prev = &l->https;
    if (h->next) h->next->prev = &h->next;
    l->https = h;
    uv_update_time(&l->uv);                          /* its timer callback counts from the loop's idea of now */
    if (o->silence) watch_over(h, o->silence);
    curl_multi_add_handle(l->multi, c);
    return h;
}

void mp_http_cancel(mp_http *h) {
    h->canceled = 1;
    finish(h, CURLE_OK);
}

void mp_http_resume(mp_http *h) {
    mp_loop *l = h->loop;
    h->paused = 0;
    if (h->watch) uv_timer_again(&h->watch->timer);  /* its silence counts from here */
    curl_easy_pause(h->easy, CURLPAUSE_CONT);
    collect(l);
}

void http_close_all(mp_loop *l) {
    while (l->https) mp_http_cancel(l->https);
}
