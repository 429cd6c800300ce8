/* base/scan.h -- floor 0, base: reads JSON in place, one value at a time, without allocating.
 * For frames that come by the thousand; documents go through json.h.
 * Sees: base. Seen by: all. */
#ifndef MP_SCAN_H
#define MP_SCAN_H
#include "base/base.h"

/* bad: malformed; everything returns 0 from then on. escaped: a string with escapes was read; whoever cares clears it. */
typedef struct mp_scan { const char *p, *end; int bad, escaped; } mp_scan;

/* What is read of every frame, some twenty times each, is inline. */
int mp_scan_fail(mp_scan *s);                        /* marks it as malformed; 0 */
int mp_scan_escaped(mp_scan *s, mp_str *raw);        /* a string with escapes, or without an end; s stands behind its quote */

static inline mp_scan mp_scan_of(mp_str text) { return (mp_scan){ text.p, text.p + text.n, 0, 0 }; }

static inline void mp_scan_blank(mp_scan *s) {
    const char *p = s->p;                            /* the cursor stays in a register while it moves, here and below */
    while (p < s->end && *p <= ' ' && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')) p++;
    s->p = p;
}

static inline int mp_scan_eat(mp_scan *s, char c) {
    mp_scan_blank(s);
    if (s->p >= s->end || *s->p != c) return 0;
    s->p++;
    return 1;
}

/* The kind of the next value: '{' '[' '"' 't' 'f' 'n' (null), '0' (number), 0 at the end or on rubbish. */
static inline char mp_scan_peek(mp_scan *s) {
    mp_scan_blank(s);
    if (s->p >= s->end) return 0;
    char c = *s->p;
    if (c == '-' || (c >= '0' && c <= '9') || c == 'N' || c == 'I') return '0';
    return c == '{' || c == '"' || c == '[' || c == 't' || c == 'f' || c == 'n' ? c : 0;
}

/* Consumes '{' or '['; 0: something else stands there. */
static inline int mp_scan_open(mp_scan *s, char bracket) { return mp_scan_eat(s, bracket); }

/* Both kinds of list: 1 with the cursor on the next element, 0 behind the closing bracket. */
static inline int mp_scan_next(mp_scan *s, char close) {
    if (s->bad || mp_scan_eat(s, close)) return 0;
    mp_scan_eat(s, ',');                             /* the first element has none before it */
    mp_scan_blank(s);
    return s->p < s->end ? 1 : mp_scan_fail(s);
}

/* Sixteen bytes at a time. mp_scan_mark: the place of the first byte that a comparison has marked, 16: none. */
typedef signed char mp_sixteen __attribute__((vector_size(16)));
static inline size_t mp_scan_mark(mp_sixteen marks) {
#ifdef __SSE2__
    typedef char bytes __attribute__((vector_size(16)));
    return (size_t)__builtin_ctz((unsigned)__builtin_ia32_pmovmskb128((bytes)marks) | 1u << 16);
#else
    uint64_t half[2];
    memcpy(half, &marks, 16);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return half[0] ? (size_t)__builtin_ctzll(half[0]) / 8 : half[1] ? 8 + (size_t)__builtin_ctzll(half[1]) / 8 : 16;
#else
    return half[0] ? (size_t)__builtin_clzll(half[0]) / 8 : half[1] ? 8 + (size_t)__builtin_clzll(half[1]) / 8 : 16;
#endif
#endif
}

/* The first quote or backslash. */
static inline const char *mp_scan_special(const char *p, const char *end) {
    for (; end - p >= 16; p += 16) {
        mp_sixteen v;
        memcpy(&v, p, 16);
        size_t at = mp_scan_mark((v == '"') | (v == '\\'));
        if (at < 16) return p + at;
    }
    while (p < end && *p != '"' && *p != '\\') p++;
    return p;
}

/* Between the quotes, undecoded; 0 if it is no string. */
static inline int mp_scan_string(mp_scan *s, mp_str *raw) {
    if (!mp_scan_eat(s, '"')) return 0;
    const char *p = s->p, *quick = mp_scan_special(p, s->end);
    if (quick >= s->end || *quick != '"') return mp_scan_escaped(s, raw);
    *raw = mp_str_make(p, (size_t)(quick - p));
    s->p = quick + 1;
    return 1;
}

/* Next member of the open object: 1 and its name (undecoded, between the quotes), or 0 behind the last;
 * its value must then be consumed. Spaced as Python does it, and without escapes, it is read in one go. */
static inline int mp_scan_member(mp_scan *s, mp_str *name) {
    const char *p = s->p, *end = s->end;
    if (end - p > 2 && p[0] == ',' && p[1] == ' ') p += 2;
    else if (p < end && *p == '}') { s->p = p + 1; return 0; }
    if (p < end && *p == '"') {
        const char *quick = mp_scan_special(++p, end);
        if (end - quick > 2 && quick[0] == '"' && quick[1] == ':') {
            *name = mp_str_make(p, (size_t)(quick - p));
            s->p = quick + 2 + (quick[2] == ' ');
            return 1;
        }
    }
    if (!mp_scan_next(s, '}')) return 0;
    return mp_scan_string(s, name) && mp_scan_eat(s, ':') ? 1 : mp_scan_fail(s);
}

static inline int mp_scan_item(mp_scan *s) { return mp_scan_next(s, ']'); }        /* the same for an open array */

int mp_scan_number(mp_scan *s, double *v);           /* NaN and Infinity count as numbers */
int mp_scan_skip(mp_scan *s, mp_str *raw);           /* any value; raw (may be NULL) is its text */
/* Decodes the escapes of an undecoded string into out (at most cap - 1 bytes, terminated); its length,
 * or -1 when it does not fit or an escape is wrong. Lone surrogates become U+FFFD. */
long mp_scan_unescape(mp_str raw, char *out, size_t cap);
#endif
