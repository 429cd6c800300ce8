/* base/err.h -- floor 0, base: an error as a kind and one sentence.
 * Sees: base. Seen by: all. */
#ifndef MP_ERR_H
#define MP_ERR_H

/* Results of functions that can fail: 0, or one of these. */
enum {
    MP_OK = 0, MP_EINVAL = -1, MP_ENOMEM = -2, MP_EBUSY = -3, MP_EFULL = -4, MP_EGONE = -5,
    MP_EPARSE = -6, MP_ELIMIT = -7, MP_EIO = -8, MP_ENET = -9, MP_ETIMEOUT = -10, MP_EABORT = -11,
    MP_ETLS = -12, MP_EREFUSED = -13, MP_EPOLICY = -14
};

typedef struct mp_err {
    int code;
    char msg[480];
} mp_err;

/* Fills `e` (may be NULL) and returns `code`, so that `return mp_fail(e, ...)` reads well. */
int mp_fail(mp_err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The short name of a code, as scripts see it in err.kind: "parse", "limit", "timeout", ... */
const char *mp_err_kind(int code);
#endif
