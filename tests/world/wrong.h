/* tests/world/wrong.h -- what is wrong, in words, for tests that give NULL when all is well. */
#ifndef WORLD_WRONG_H
#define WORLD_WRONG_H
#include <stdarg.h>
#include <stdio.h>

static const char *wrong(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static const char *wrong(const char *fmt, ...) {     /* good until the next one */
    static char words[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(words, sizeof words, fmt, ap);
    va_end(ap);
    return words;
}
#endif
