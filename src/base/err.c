/* base/err.c -- floor 0, base: an error as a kind and one sentence. */
#include "base/err.h"
#include <stdarg.h>
#include <stdio.h>

int mp_fail(mp_err *e, int code, const char *fmt, ...) {
    if (!e) return code;
    va_list ap;
    va_start(ap, fmt);
    e->code = code;
    vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    return code;
}

const char *mp_err_kind(int code) {
    switch (code) {
    case MP_OK: return "ok";
    case MP_EINVAL: return "invalid";
    case MP_ENOMEM: return "memory";
    case MP_EBUSY: return "busy";
    case MP_EFULL: return "full";
    case MP_EGONE: return "gone";
    case MP_EPARSE: return "parse";
    case MP_ELIMIT: return "limit";
    case MP_EIO: return "io";
    case MP_ENET: return "connection";
    case MP_ETIMEOUT: return "timeout";
    case MP_EABORT: return "aborted";
    case MP_ETLS: return "tls";
    case MP_EPOLICY: return "policy";
    case MP_EREFUSED: return "connection";           /* scripts need not know that nothing was sent */
    default: return "error";
    }
}
