/* base/log.c -- floor 0, base: levelled log lines. */
#include "base/log.h"
#include <stdarg.h>
#include <stdio.h>

static const char *const names[] = { "debug", "info", "warn", "error", "silent" };

void mp_logf(const mp_log *l, int level, const char *fmt, ...) {
    if (!l || !l->fn || level < l->level) return;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    l->fn(l->ud, level, line);
}

const char *mp_log_name(int level) { return names[level]; }

int mp_log_level(const char *name) {
    for (int i = 0; i <= MP_LOG_SILENT; i++)
        if (strcmp(name, names[i]) == 0) return i;
    return -1;
}
