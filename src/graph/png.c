/* graph/png.c -- floor 2, graph: text chunks of a PNG file (PNG specification, 11.3.3). */
#include "graph/png.h"

int mp_png_is(const char *p, size_t n) { return n >= 8 && memcmp(p, "\x89PNG\r\n\x1a\n", 8) == 0; }

/* Behind the keyword of an iTXt chunk: compression flag and method, language, translated keyword, text. */
static int itxt(mp_str rest, mp_str *text) {
    if (rest.n < 2 || rest.p[0] != 0) return 0;
    size_t at = 2;
    for (int i = 0; i < 2; i++) {
        const char *zero = memchr(rest.p + at, 0, rest.n - at);
        if (!zero) return 0;
        at = (size_t)(zero - rest.p) + 1;
    }
    *text = mp_str_make(rest.p + at, rest.n - at);
    return 1;
}

int mp_png_text(const char *p, size_t n, const char *keyword, mp_str *text) {
    size_t k = strlen(keyword) + 1;
    if (!mp_png_is(p, n)) return 0;
    for (size_t at = 8; n - at >= 12;) {
        size_t len = mp_be32(p + at);
        const char *type = p + at + 4, *data = p + at + 8;
        if (len > n - at - 12) return 0;
        if (len >= k && memcmp(data, keyword, k) == 0) {
            mp_str rest = mp_str_make(data + k, len - k);
            if (memcmp(type, "tEXt", 4) == 0) { *text = rest; return 1; }
            if (memcmp(type, "iTXt", 4) == 0 && itxt(rest, text)) return 1;
        }
        at += 12 + len;
    }
    return 0;
}
