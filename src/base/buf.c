/* base/buf.c -- floor 0, base: a growing byte buffer and the few ways we write text into it. */
#include "base/buf.h"
#include "base/scan.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void mp_buf_free(mp_buf *b) {
    free(b->p);
    memset(b, 0, sizeof *b);
}

void mp_buf_clear(mp_buf *b) {
    b->n = 0;
    if (b->p) b->p[0] = 0;
}

char *mp_buf_room(mp_buf *b, size_t n) {
    if (b->n + n + 1 > b->cap) {
        size_t cap = b->cap ? b->cap : 64;
        while (cap < b->n + n + 1) cap *= 2;
        b->p = mp_realloc(b->p, cap);
        b->cap = cap;
    }
    return b->p + b->n;
}

void mp_buf_add(mp_buf *b, const void *p, size_t n) {
    char *to = mp_buf_room(b, n);
    if (n) memcpy(to, p, n);
    b->n += n;
    b->p[b->n] = 0;
}


void mp_buf_printf(mp_buf *b, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *to = mp_buf_room(b, (size_t)n);
    vsnprintf(to, (size_t)n + 1, fmt, again);
    va_end(again);
    b->n += (size_t)n;
}

void mp_buf_u32be(mp_buf *b, uint32_t v) {
    unsigned char x[4] = { (unsigned char)(v >> 24), (unsigned char)(v >> 16), (unsigned char)(v >> 8), (unsigned char)v };
    mp_buf_add(b, x, 4);
}

char *mp_buf_take(mp_buf *b, size_t *n) {
    mp_buf_room(b, 0)[0] = 0;
    char *p = b->p;
    if (n) *n = b->n;
    memset(b, 0, sizeof *b);
    return p;
}

void mp_buf_double(mp_buf *b, double v) {
    if (isnan(v)) { mp_buf_puts(b, "NaN"); return; }
    if (isinf(v)) { mp_buf_puts(b, v < 0 ? "-Infinity" : "Infinity"); return; }
    char t[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(t, sizeof t, "%.*g", digits, v);
        if (strtod(t, NULL) == v) break;
    }
    mp_buf_puts(b, t);
}

/* Length of the valid UTF-8 sequence at p (1 to 4), or 0. Rejects overlong forms,
 * surrogates and values above U+10FFFF (RFC 3629). */
static size_t utf8_len(const unsigned char *p, size_t n) {
    if (p[0] < 0x80) return 1;
    size_t len = p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : p[0] >= 0xe0 ? 3 : p[0] >= 0xc2 ? 2 : 0;
    if (p[0] >= 0xf5 || !len || len > n) return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0)) return 0;
    if ((p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] >= 0x90)) return 0;
    return len;
}

/* ASCII that stands for itself between quotes. */
static const unsigned char plain[256] = {
    [' '] = 1, ['!'] = 1, ['#' ... '['] = 1, [']' ... '~'] = 1, [127] = 1,
};

void mp_buf_json(mp_buf *b, mp_str s) {
    const unsigned char *p = (const unsigned char *)s.p;
    mp_buf_putc(b, '"');
    for (size_t i = 0; i < s.n;) {
        size_t run = i, len = 1;
        for (size_t at = 16; at == 16 && s.n - run >= 16; run += at) {     /* sixteen at a time while all stand for themselves */
            mp_sixteen v;
            memcpy(&v, p + run, 16);
            at = mp_scan_mark((v < ' ') | (v == '"') | (v == '\\'));     /* signed: UTF-8 is marked as well */
        }
        while (run < s.n && (len = plain[p[run]] ? 1 : p[run] >= 0x80 ? utf8_len(p + run, s.n - run) : 0) != 0) run += len;
        if (run > i) mp_buf_add(b, p + i, run - i);
        i = run;
        if (i >= s.n) break;
        unsigned char c = p[i++];
        switch (c) {
        case '"': mp_buf_puts(b, "\\\""); break;
        case '\\': mp_buf_puts(b, "\\\\"); break;
        case '\b': mp_buf_puts(b, "\\b"); break;
        case '\t': mp_buf_puts(b, "\\t"); break;
        case '\n': mp_buf_puts(b, "\\n"); break;
        case '\f': mp_buf_puts(b, "\\f"); break;
        case '\r': mp_buf_puts(b, "\\r"); break;
        default:
            if (c < 0x20) mp_buf_printf(b, "\\u%04x", c);
            else mp_buf_puts(b, "\xef\xbf\xbd");
        }
    }
    mp_buf_putc(b, '"');
}

void mp_buf_url(mp_buf *b, mp_str s) {
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("-._~", c))) mp_buf_putc(b, (char)c);
        else mp_buf_printf(b, "%%%02X", c);
    }
}
