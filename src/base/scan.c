/* base/scan.c -- floor 0, base: reads JSON in place, one value at a time, without allocating.
 * Skipping a value counts brackets only; it does not prove that what is inside is well formed. */
#include "base/scan.h"
#include <math.h>
#include <stdlib.h>

mp_scan mp_scan_of(mp_str text) {
    mp_scan s = { text.p, text.p + text.n, 0 };
    return s;
}

static void blank(mp_scan *s) {
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\t' || *s->p == '\r')) s->p++;
}

static int fail(mp_scan *s) {
    s->bad = 1;
    s->p = s->end;
    return 0;
}

static int eat(mp_scan *s, char c) {
    blank(s);
    if (s->p >= s->end || *s->p != c) return 0;
    s->p++;
    return 1;
}

char mp_scan_peek(mp_scan *s) {
    blank(s);
    if (s->p >= s->end) return 0;
    char c = *s->p;
    if (c == '-' || (c >= '0' && c <= '9') || c == 'N' || c == 'I') return '0';
    return c == '{' || c == '"' || c == '[' || c == 't' || c == 'f' || c == 'n' ? c : 0;
}

int mp_scan_open(mp_scan *s, char bracket) { return eat(s, bracket); }

/* Both kinds of list: 1 with the cursor on the next element, 0 behind the closing bracket. */
static int next(mp_scan *s, char close) {
    if (s->bad || eat(s, close)) return 0;
    eat(s, ',');                                     /* the first element has none before it */
    blank(s);
    return s->p < s->end ? 1 : fail(s);
}

int mp_scan_item(mp_scan *s) { return next(s, ']'); }

int mp_scan_member(mp_scan *s, mp_str *name) {
    if (!next(s, '}')) return 0;
    if (!mp_scan_string(s, name) || !eat(s, ':')) return fail(s);
    return 1;
}

/* The first quote or backslash, eight bytes at a time. */
static const char *special(const char *p, const char *end) {
    const uint64_t ones = 0x0101010101010101u, highs = 0x8080808080808080u;
    for (; end - p >= 8; p += 8) {
        uint64_t v, q, b;
        memcpy(&v, p, 8);
        q = v ^ ones * '"';
        b = v ^ ones * '\\';
        if (((q - ones) & ~q & highs) | ((b - ones) & ~b & highs)) break;
    }
    while (p < end && *p != '"' && *p != '\\') p++;
    return p;
}

int mp_scan_string(mp_scan *s, mp_str *raw) {
    if (!eat(s, '"')) return 0;
    const char *start = s->p, *quick = special(start, s->end);
    if (quick < s->end && *quick == '"') {             /* without escapes: nearly all of them */
        *raw = mp_str_make(start, (size_t)(quick - start));
        s->p = quick + 1;
        return 1;
    }
    for (const char *q = start; (q = memchr(q, '"', (size_t)(s->end - q))) != NULL; q++) {
        const char *b = q;
        while (b > start && b[-1] == '\\') b--;
        if ((q - b) % 2) continue;                   /* this quote is escaped */
        *raw = mp_str_make(start, (size_t)(q - start));
        s->p = q + 1;
        return 1;
    }
    return fail(s);
}

int mp_scan_number(mp_scan *s, double *v) {
    if (mp_scan_peek(s) != '0') return 0;
    char t[64];
    size_t n = 0;
    const char *p = s->p;
    int small = 1;                                   /* plain short integers need no strtod */
    for (; p + n < s->end && n < sizeof t - 1 && (strchr("+-.eE", p[n]) || (p[n] >= '0' && p[n] <= '9') || (p[n] >= 'A' && p[n] <= 'z')) && p[n]; n++) {
        t[n] = p[n];
        if (p[n] < '0' || p[n] > '9') small = 0;
    }
    t[n] = 0;
    s->p += n;
    if (small && n < 16) {
        int64_t x = 0;
        for (size_t i = 0; i < n; i++) x = x * 10 + (t[i] - '0');
        *v = (double)x;
        return 1;
    }
    char *end;
    *v = strtod(t, &end);                            /* knows nan and infinity too */
    return *end || end == t ? fail(s) : 1;
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
            if (p >= end) return fail(s);
            char c = *p++;
            if (c == '"') {                          /* names and ids are short: looking at each byte beats memchr */
                while (p < end && *p != '"') p += *p == '\\' ? 2 : 1;
                if (p++ >= end) return fail(s);
            } else if (c == '{' || c == '[') depth++;
            else if (c == '}' || c == ']') depth--;
        } while (depth > 0);
        s->p = p;
    } else if (kind) {
        size_t n = kind == 'f' ? 5 : 4;
        if ((size_t)(s->end - s->p) < n || memcmp(s->p, kind == 'f' ? "false" : kind == 't' ? "true" : "null", n) != 0) return fail(s);
        s->p += n;
    } else return fail(s);
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
