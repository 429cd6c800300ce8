/* base/log.h -- floor 0, base: levelled log lines handed to whoever owns the output.
 * Sees: base. Seen by: all. */
#ifndef MP_LOG_H
#define MP_LOG_H
#include "base/base.h"

enum { MP_LOG_DEBUG, MP_LOG_INFO, MP_LOG_WARN, MP_LOG_ERROR, MP_LOG_SILENT };
typedef void (*mp_log_fn)(void *ud, int level, const char *line);
typedef struct mp_log { int level; mp_log_fn fn; void *ud; } mp_log;   /* fn NULL: nothing is written */

void mp_logf(const mp_log *l, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
const char *mp_log_name(int level);
int mp_log_level(const char *name);            /* -1 for an unknown name */
#endif
