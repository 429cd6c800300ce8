/* wire/journal.h -- floor 6, wire: the profile log: one line of JSON per job, appended to a file that several processes may
 * share. Writing happens in another thread; one write under a file lock per batch of lines.
 * Sees: net, pool, prof. Seen by: wire, lua. */
#ifndef MP_JOURNAL_H
#define MP_JOURNAL_H
#include "base/log.h"
#include "net/loop.h"
#include "pool/pool.h"

typedef struct mp_journal mp_journal;

/* Makes the file when it is not there. label: written into every line, or NULL. max_bytes: it is renamed to path.1 (and that to path.2, ...) before it would grow
 * beyond (a single line may be longer); 0: never. keep: so many old ones. NULL and words when the file cannot be opened for writing. */
mp_journal *mp_journal_new(mp_loop *l, const char *path, const char *label, uint64_t max_bytes, int keep, const mp_log *log, mp_err *e);
/* The line of a job that has just ended and has a profile: schema 1. Lines beyond 64 MiB that wait for a slow disk are dropped, counted and logged. */
void mp_journal_job(mp_journal *j, const mp_pool *p, const mp_job *job, const mp_client *c);
int mp_journal_idle(const mp_journal *j);            /* everything given so far is in the file, or was given up with a log line */
/* What waits is written; it may still be under way when this returns, then the loop's end waits for it. NULL is fine. */
void mp_journal_free(mp_journal *j);

/* The write itself, for whoever has the time to wait for it: `n` bytes that end with a line end. A file without a final
 * line end gets one first; a write that falls short is taken back. 0, or MP_EIO with words. */
int mp_journal_append(const char *path, const char *text, size_t n, uint64_t max_bytes, int keep, mp_err *e);
#endif
