/* base/base.h -- floor 0, base: the few types every room shares.
 * Sees: libc. Seen by: all. */
#ifndef MP_BASE_H
#define MP_BASE_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A point in time or a duration, in microseconds. Points are on a clock that its
 * owner chose (monotonic on the wire, virtual in the world), never read here. */
typedef int64_t mp_time;
#define MP_NEVER INT64_MAX
#define MP_MS(ms) ((mp_time)(ms) * 1000)

/* Bytes that belong to somebody else; not terminated. p may be NULL when n is 0. */
typedef struct mp_str { const char *p; size_t n; } mp_str;

static inline mp_str mp_str_of(const char *z) { mp_str s = { z, z ? strlen(z) : 0 }; return s; }
static inline mp_str mp_str_make(const char *p, size_t n) { mp_str s = { p, n }; return s; }
static inline int mp_str_eq(mp_str a, mp_str b) { return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0); }
static inline int mp_str_is(mp_str a, const char *z) { return mp_str_eq(a, mp_str_of(z)); }

static inline uint32_t mp_be32(const char *p) {      /* the four bytes there, the highest first */
    const unsigned char *u = (const unsigned char *)p;
    return (uint32_t)u[0] << 24 | (uint32_t)u[1] << 16 | (uint32_t)u[2] << 8 | u[3];
}

/* Memory that must be there: on exhaustion these say so on stderr and abort, because a
 * pool that lost a job for lack of a few bytes would break its only promise. */
void *mp_alloc(size_t n);                    /* zeroed */
void *mp_aligned(size_t to, size_t n);       /* its address a multiple of `to`, a power of two that n is a multiple of; free() it */
void *mp_realloc(void *p, size_t n);
char *mp_strdup(const char *z);              /* NULL stays NULL */
char *mp_strndup(const char *p, size_t n);
char *mp_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));   /* caller frees */

/* Room for one more element in a growing array: returns `items`, grown when needed. */
void *mp_grow(void *items, size_t n, size_t *cap, size_t size);
#endif
