/* base/scan.c -- floor 0, base: reads JSON in place, one value at a time, without allocating.
 * Skipping a value counts brackets only; it does not prove that what is inside is well formed. */
#include "base/scan.h"
#include <math.h>
#include <stdlib.h>

int mp_scan_fail(mp_scan *s) {
    s->bad = 1;
    s->p = s->end;
    return 0;
}

int mp_scan_escaped(mp_scan *s, mp_str *raw) {
    s->escaped = 1;
    const char *start = s->p;
    for (const char *q = start; (q = memchr(q, '"', (size_t)(s->end - q))) != NULL; q++) {
        const char *b = q;
        while (b > start && b[-1] == '\\') b--;
        if ((q - b) % 2) continue;                   /* this quote is escaped */
        *raw = mp_str_make(start, (size_t)(q - start));
        s->p = q + 1;
        return 1;
    }
    return mp_scan_fail(s);
}

int mp_scan_number(mp_scan *s, double *v) {
    if (mp_scan_peek(s) != '0') return 0;
    const char *p = s->p;
    int64_t x = 0;
    while (p < s->end && *p >= '0' && *p <= '9' && p - s->p < 16) x = x * 10 + (*p++ - '0');
    if (p > s->p && p < s->end && (*p == ',' || *p == '}' || *p == ']')) {      /* plain short integers need no strtod */
        s->p = p;
        *v = (double)x;
        return 1;
    }
    char t[64];
    size_t n = 0;
    for (p = s->p; p + n < s->end && n < sizeof t - 1 && (strchr("+-.eE", p[n]) || (p[n] >= '0' && p[n] <= '9') || (p[n] >= 'A' && p[n] <= 'z')) && p[n]; n++) t[n] = p[n];
    t[n] = 0;
    s->p += n;
    char *end;
    *v = strtod(t, &end);                            /* knows nan and infinity too */
    return *end || end == t ? mp_scan_fail(s) : 1;
}

/* The first quote, brace or bracket, sixteen bytes at a time. A bracket is a brace but for one bit. */
static const char *structural(const char *p, const char *end) {
    for (; end - p >= 16; p += 16) {
        mp_sixteen v, w;
        memcpy(&v, p, 16);
        w = v | 0x20;
        size_t at = mp_scan_mark((v == '"') | (w == '{') | (w == '}'));
        if (at < 16) return p + at;
    }
    while (p < end && *p != '"' && *p != '{' && *p != '[' && *p != '}' && *p != ']') p++;
    return p;
}

int mp_scan_skip(mp_scan *s, mp_str *raw) {
    char kind = mp_scan_peek(s);
    const char *start = s->p;
    mp_str ignored;
    double v;
    if (kind == '"') mp_scan_string(s, &ignored);
    else if (kind == '0') mp_scan_number(s, &v);
    else if (kind == '{' || kind == '[') {
        long depth = 0;
        const char *p = s->p, *end = s->end;
        do {
            p = structural(p, end);
            if (p >= end) return mp_scan_fail(s);
            char c = *p++;
            if (c == '"') {
                while ((p = mp_scan_special(p, end)) < end && *p == '\\') p += 2;
                if (p++ >= end) return mp_scan_fail(s);
            } else depth += c == '{' || c == '[' ? 1 : -1;
        } while (depth > 0);
        s->p = p;
    } else if (kind) {
        size_t n = kind == 'f' ? 5 : 4;
        if ((size_t)(s->end - s->p) < n || memcmp(s->p, kind == 'f' ? "false" : kind == 't' ? "true" : "null", n) != 0) return mp_scan_fail(s);
        s->p += n;
    } else return mp_scan_fail(s);
    if (s->bad) return 0;
    if (raw) *raw = mp_str_make(start, (size_t)(s->p - start));
    return 1;
}

static long hex4(const char *p, const char *end) {
    long v = 0;
    if (end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

static size_t put_utf8(char *o, long c) {
    if (c < 0x80) { o[0] = (char)c; return 1; }
    if (c < 0x800) { o[0] = (char)(0xc0 | c >> 6); o[1] = (char)(0x80 | (c & 63)); return 2; }
    if (c < 0x10000) {
        o[0] = (char)(0xe0 | c >> 12); o[1] = (char)(0x80 | (c >> 6 & 63)); o[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    o[0] = (char)(0xf0 | c >> 18); o[1] = (char)(0x80 | (c >> 12 & 63)); o[2] = (char)(0x80 | (c >> 6 & 63)); o[3] = (char)(0x80 | (c & 63));
    return 4;
}

long mp_scan_unescape(mp_str raw, char *out, size_t cap) {
    size_t n = 0;
    const char *p = raw.p, *end = raw.p + raw.n;
    while (p < end) {
        if (n + 5 > cap) return -1;
        if (*p != '\\') { out[n++] = *p++; continue; }
        if (++p >= end) return -1;
        static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
        const char *at = strchr(from, *p);
        if (at && *p) { out[n++] = to[at - from]; p++; continue; }
        if (*p++ != 'u') return -1;
        long c = hex4(p, end);
        if (c < 0) return -1;
        p += 4;
        if (c >= 0xd800 && c < 0xdc00 && end - p >= 6 && p[0] == '\\' && p[1] == 'u') {
            long d = hex4(p + 2, end);
            if (d >= 0xdc00 && d < 0xe000) { c = 0x10000 + ((c - 0xd800) << 10) + (d - 0xdc00); p += 6; }
        }
        if (c >= 0xd800 && c < 0xe000) c = 0xfffd;
        n += put_utf8(out + n, c);
    }
    if (n >= cap) return -1;
    out[n] = 0;
    return (long)n;
}
