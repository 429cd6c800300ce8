/* wire/transfer.c -- floor 6, wire: a reply's body streamed into a file. */
#include "wire/transfer.h"
#include "base/buf.h"
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define WAITING (8u << 20)                           /* bytes in memory before the server has to wait */

typedef struct transfer {
    mp_loop *loop;
    mp_http *http;
    char *path, *beside, *words;
    FILE *f;
    mp_buf waiting, writing;
    int busy, paused, ended, good;
    mp_http_reply reply;
    char *message, *body;
    void (*done)(void *, const mp_http_reply *, const char *);
    void *ud;
} transfer;

static void next(transfer *t);

void mp_make_folders(char *path) {
    for (char *p = path + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            mkdir(path, 0777);
            *p = '/';
        }
}

char *mp_beside(const char *path) {
    static atomic_uint last;                         /* states may be in threads of one process */
    static _Atomic uint64_t own;                     /* drawn once: processes in other containers may have our number */
    uint64_t drawn = 0, none = 0;
    const char *slash = strrchr(path, '/');
    if (!atomic_load(&own)) {
        if (getentropy(&drawn, sizeof drawn) != 0) drawn = (uint64_t)getpid();
        atomic_compare_exchange_strong(&own, &none, drawn | 1);
    }
    return mp_format("%.*smoonpool-%016llx-%u.part", slash ? (int)(slash + 1 - path) : 0, path, (unsigned long long)atomic_load(&own), atomic_fetch_add(&last, 1) + 1);
}

static void trouble(transfer *t) { if (!t->words) t->words = mp_strdup(strerror(errno)); }

static void write_work(void *ud) {
    transfer *t = ud;
    if (!t->f) {
        mp_make_folders(t->path);
        if (!(t->f = fopen(t->beside, "wb"))) { trouble(t); return; }
    }
    if (t->writing.n && fwrite(t->writing.p, 1, t->writing.n, t->f) != t->writing.n) trouble(t);
}

static void close_work(void *ud) {
    transfer *t = ud;
    if (t->good && !t->f && !t->words) write_work(t);                    /* an empty file is a file */
    if (t->f && fclose(t->f) != 0) trouble(t);       /* a full disk may show only here */
    if (t->good && !t->words && rename(t->beside, t->path) != 0) trouble(t);
    if (t->f && (!t->good || t->words)) unlink(t->beside);
}

static void closed(void *ud) {
    transfer *t = ud;
    t->done(t->ud, &t->reply, t->words);
    mp_buf_free(&t->waiting);
    mp_buf_free(&t->writing);
    free(t->message);
    free(t->body);
    free(t->words);
    free(t->path);
    free(t->beside);
    free(t);
}

static void written(void *ud) {
    transfer *t = ud;
    t->busy = 0;
    mp_buf_clear(&t->writing);
    next(t);
    if (t->paused && !t->ended && (t->words || t->waiting.n < WAITING / 2)) {    /* with words it is told to stop */
        t->paused = 0;
        mp_http_resume(t->http);
    }
}

static void next(transfer *t) {
    if (t->busy) return;
    if (t->waiting.n && !t->words) {
        mp_buf swap = t->writing;
        t->writing = t->waiting;
        t->waiting = swap;
        t->busy = 1;
        mp_loop_work(t->loop, write_work, written, t);
    } else if (t->ended) {
        t->busy = 1;
        mp_loop_work(t->loop, close_work, closed, t);
    }
}

static int on_data(void *ud, const char *p, size_t n) {
    transfer *t = ud;
    if (t->words) return MP_HTTP_STOP;
    if (t->waiting.n > WAITING) {
        t->paused = 1;
        return MP_HTTP_PAUSE;
    }
    mp_buf_add(&t->waiting, p, n);
    next(t);
    return 0;
}

static void on_reply(void *ud, const mp_http_reply *r) {
    transfer *t = ud;
    t->http = NULL;
    t->ended = 1;
    t->good = r->code == 0 && r->status >= 200 && r->status < 300;
    t->reply = *r;
    t->reply.headers = t->reply.content_type = "";
    t->reply.message = t->message = mp_strdup(r->message);
    t->reply.body = t->body = mp_strndup(r->body, r->n);
    next(t);
}

int mp_transfer_start(mp_loop *l, const mp_http_opts *o, const char *path, void (*done)(void *, const mp_http_reply *, const char *), void *ud, mp_err *e) {
    transfer *t = mp_alloc(sizeof *t);
    mp_http_opts with = *o;
    with.on_data = on_data;
    t->loop = l;
    t->path = mp_strdup(path);
    t->beside = mp_beside(path);
    t->done = done;
    t->ud = ud;
    t->http = mp_http_start(l, &with, on_reply, t, e);
    if (t->http) return 0;
    free(t->path);
    free(t->beside);
    free(t);
    return e ? e->code : MP_EINVAL;
}
