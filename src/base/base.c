/* base/base.c -- floor 0, base: memory that must be there.
 * Sees: libc. Seen by: all. */
#include "base/base.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void *must(void *p) {
    if (!p) {
        fputs("moonpool: out of memory\n", stderr);
        abort();
    }
    return p;
}

/* calloc does not draw on the C library's per-thread cache, malloc does; large blocks come zeroed from the system.
 * The barrier keeps the compiler from making one calloc of the two again. */
void *mp_alloc(size_t n) {
    if (!n || n > 1024) return must(calloc(1, n ? n : 1));
    void *p = must(malloc(n));
    __asm__("" : "+r"(p));
    return memset(p, 0, n);
}
void *mp_aligned(size_t to, size_t n) { return must(aligned_alloc(to, n)); }
void *mp_realloc(void *p, size_t n) { return must(realloc(p, n ? n : 1)); }
char *mp_strdup(const char *z) { return z ? mp_strndup(z, strlen(z)) : NULL; }

char *mp_strndup(const char *p, size_t n) {
    char *z = must(malloc(n + 1));
    if (n) memcpy(z, p, n);
    z[n] = 0;
    return z;
}

char *mp_format(const char *fmt, ...) {
    char most[200];
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(most, sizeof most, fmt, ap);
    va_end(ap);
    char *z = must(malloc((size_t)n + 1));
    if ((size_t)n < sizeof most) memcpy(z, most, (size_t)n + 1);
    else vsnprintf(z, (size_t)n + 1, fmt, again);
    va_end(again);
    return z;
}

void *mp_grow(void *items, size_t n, size_t *cap, size_t size) {
    if (n < *cap) return items;
    *cap = *cap ? *cap * 2 : 8;
    return mp_realloc(items, *cap * size);
}
