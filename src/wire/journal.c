/* wire/journal.c -- floor 6, wire: the profile log, appended to by another thread. */
#include "wire/journal.h"
#include "base/buf.h"
#include "base/json.h"
#include "prof/profile.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define WAITING_BYTES (64u << 20)

struct mp_journal {
    mp_loop *loop;
    char *path, *label;
    uint64_t max_bytes;
    int keep;
    mp_log log;
    mp_buf waiting, writing;                         /* writing: the other thread's while `busy` */
    size_t lost;
    int busy, closing, failed;
    mp_err error;
};

/* ---- the file -------------------------------------------------------------------------------------------------------- */

/* The file that `path` names, locked. Whoever waited for the lock may hold one that was renamed meanwhile. */
static int open_locked(const char *path, struct stat *s, mp_err *e) {
    for (;;) {
        struct stat now;
        int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0) return mp_fail(e, MP_EIO, "%s: %s", path, strerror(errno));
        while (flock(fd, LOCK_EX) != 0) {
            if (errno == EINTR) continue;
            mp_fail(e, MP_EIO, "%s: cannot be locked: %s", path, strerror(errno));
            close(fd);
            return MP_EIO;
        }
        if (fstat(fd, s) == 0 && stat(path, &now) == 0 && now.st_ino == s->st_ino && now.st_dev == s->st_dev) return fd;
        close(fd);
    }
}

/* path.1 becomes path.2 and so on; the oldest goes. The lock of `path` is held, so nobody else does the same. */
static void rotate(const char *path, int keep) {
    char *from, *to;
    for (int i = keep; i > 0; i--) {
        from = i > 1 ? mp_format("%s.%d", path, i - 1) : mp_strdup(path);
        to = mp_format("%s.%d", path, i);
        rename(from, to);
        free(from);
        free(to);
    }
    if (keep <= 0) unlink(path);
}

static int torn(int fd, off_t size) {
    char last = '\n';
    return size > 0 && pread(fd, &last, 1, size - 1) == 1 && last != '\n';
}

/* How much of the lines fits: all, or whole ones up to the bound; the first one in any case when `least`. */
static size_t fitting(const char *text, size_t n, uint64_t room, int least) {
    size_t fit = 0;
    if (n <= room) return n;
    for (const char *end; fit < n && (end = memchr(text + fit, '\n', n - fit)) != NULL && ((size_t)(end + 1 - text) <= room || (least && !fit));) fit = (size_t)(end + 1 - text);
    return fit;
}

/* One write of as many lines as fit; how many bytes of `text` it took goes to *took. */
static int append_some(const char *path, const char *text, size_t n, uint64_t max_bytes, int keep, size_t *took, mp_err *e) {
    struct stat s;
    int fd = open_locked(path, &s, e), plain = fd >= 0 && S_ISREG(s.st_mode);
    size_t fit = n;
    if (plain && max_bytes) {
        fit = fitting(text, n, (uint64_t)s.st_size < max_bytes ? max_bytes - (uint64_t)s.st_size : 0, s.st_size == 0);
        if (!fit) {                                  /* full: the lock goes with the old file */
            rotate(path, keep);
            close(fd);
            fd = open_locked(path, &s, e);
            fit = fitting(text, n, max_bytes, 1);
        }
    }
    if (fd < 0) return MP_EIO;
    char *whole = NULL;
    *took = n = fit;
    if (plain && torn(fd, s.st_size)) {              /* somebody died in the middle of a line */
        whole = mp_alloc(n + 1);
        whole[0] = '\n';
        memcpy(whole + 1, text, n++);
        text = whole;
    }
    ssize_t got;
    do got = write(fd, text, n);
    while (got < 0 && errno == EINTR);
    int rc = 0;
    if (got != (ssize_t)n) {
        int why = got < 0 ? errno : ENOSPC;
        if (got > 0 && ftruncate(fd, s.st_size) != 0) why = errno;
        rc = mp_fail(e, MP_EIO, "%s: %s", path, strerror(why));
    }
    close(fd);                                       /* gives the lock back */
    free(whole);
    return rc;
}

int mp_journal_append(const char *path, const char *text, size_t n, uint64_t max_bytes, int keep, mp_err *e) {
    for (size_t took; n; text += took, n -= took) {
        int rc = append_some(path, text, n, max_bytes, keep, &took, e);
        if (rc) return rc;
    }
    return 0;
}

/* ---- in the background -------------------------------------------------------------------------------------------------- */

static void write_batch(void *ud) {
    mp_journal *j = ud;
    j->failed = mp_journal_append(j->path, j->writing.p, j->writing.n, j->max_bytes, j->keep, &j->error);
}

static void on_written(void *ud);

static void start(mp_journal *j) {
    if (j->busy || !j->waiting.n) return;
    mp_buf empty = j->writing;
    j->writing = j->waiting;
    j->waiting = empty;
    mp_buf_clear(&j->waiting);
    j->busy = 1;
    mp_loop_work(j->loop, write_batch, on_written, j);
}

static void destroy(mp_journal *j) {
    mp_buf_free(&j->waiting);
    mp_buf_free(&j->writing);
    free(j->path);
    free(j->label);
    free(j);
}

static void on_written(void *ud) {
    mp_journal *j = ud;
    j->busy = 0;
    if (!j->closing) {                               /* else the log belongs to a pool that is gone */
        if (j->failed) mp_logf(&j->log, MP_LOG_ERROR, "profile log: %s; what was to be written is lost", j->error.msg);
        if (j->lost) mp_logf(&j->log, MP_LOG_ERROR, "profile log: %zu lines lost, %s is too slow", j->lost, j->path);
        j->lost = 0;
        start(j);
        return;
    }
    if (j->waiting.n) mp_journal_append(j->path, j->waiting.p, j->waiting.n, j->max_bytes, j->keep, NULL);
    destroy(j);
}

mp_journal *mp_journal_new(mp_loop *l, const char *path, const char *label, uint64_t max_bytes, int keep, const mp_log *log, mp_err *e) {
    int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
    if (fd < 0) {
        mp_fail(e, MP_EIO, "%s: %s", path, strerror(errno));
        return NULL;
    }
    close(fd);
    mp_journal *j = mp_alloc(sizeof *j);
    j->loop = l;
    j->path = mp_strdup(path);
    j->label = mp_strdup(label);
    j->max_bytes = max_bytes;
    j->keep = keep;
    j->log = *log;
    return j;
}

static void member(mp_buf *b, const char *name, const char *text) {
    if (!text) return;
    mp_buf_printf(b, ",\"%s\":", name);
    mp_buf_json(b, mp_str_of(text));
}

void mp_journal_job(mp_journal *j, const mp_pool *p, const mp_job *job, const mp_client *c) {
    size_t before = j->waiting.n;
    mp_buf *b = &j->waiting;
    const char *stats = c ? mp_client_stats(c) : NULL, *words = mp_job_failure(job) ? mp_job_failure(job)->message : NULL;
    char id[20];
    if (before > WAITING_BYTES) { j->lost++; return; }
    snprintf(id, sizeof id, "%llx", (unsigned long long)mp_job_id(job));
    mp_buf_puts(b, "{\"schema\":1");
    member(b, "label", j->label);
    member(b, "jobId", mp_job_name(job) ? mp_job_name(job) : id);
    member(b, "jobStatus", mp_job_status_name(mp_job_status(job)));
    member(b, "jobError", words);
    member(b, "clientUrl", mp_job_client_url(job));
    if (c) member(b, "serverVersion", mp_client_version(c));
    mp_json *doc = stats ? mp_json_parse(stats, strlen(stats), NULL) : NULL;
    member(b, "device", mp_json_string(mp_json_get(mp_json_at(mp_json_get(doc, "devices"), 0), "name")));
    mp_json_free(doc);
    if (mp_job_metadata(job)) mp_buf_printf(b, ",\"metadata\":%s", mp_job_metadata(job));
    mp_profile_log(b, mp_job_profile(job), mp_pool_options(p)->epoch);
    mp_buf_putc(b, '\n');
    start(j);
}

int mp_journal_idle(const mp_journal *j) { return !j->busy && !j->waiting.n; }

void mp_journal_free(mp_journal *j) {
    if (!j) return;
    j->closing = 1;
    if (j->busy) return;                             /* on_written frees it */
    if (j->waiting.n) mp_journal_append(j->path, j->waiting.p, j->waiting.n, j->max_bytes, j->keep, NULL);
    destroy(j);
}
