/* base/buf.h -- floor 0, base: a growing byte buffer, always terminated by a zero byte.
 * Sees: base. Seen by: all. */
#ifndef MP_BUF_H
#define MP_BUF_H
#include "base/base.h"

typedef struct mp_buf { char *p; size_t n, cap; } mp_buf;    /* all zero: empty and valid */

void mp_buf_free(mp_buf *b);                     /* empty again; safe twice */
void mp_buf_clear(mp_buf *b);                    /* keeps the memory */
char *mp_buf_room(mp_buf *b, size_t n);          /* space for n more bytes; the caller adds to b->n */
void mp_buf_add(mp_buf *b, const void *p, size_t n);
static inline void mp_buf_str(mp_buf *b, mp_str s) { mp_buf_add(b, s.p, s.n); }
static inline void mp_buf_puts(mp_buf *b, const char *z) { mp_buf_add(b, z, strlen(z)); }       /* inline: most are literals */
static inline void mp_buf_putc(mp_buf *b, char c) { mp_buf_add(b, &c, 1); }
void mp_buf_printf(mp_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void mp_buf_u32be(mp_buf *b, uint32_t v);
/* The bytes, now the caller's to free; the buffer is empty afterwards. Never NULL. */
char *mp_buf_take(mp_buf *b, size_t *n);
static inline mp_str mp_buf_view(const mp_buf *b) { return mp_str_make(b->p, b->n); }

/* A double in the fewest digits that read back as the same double. */
void mp_buf_double(mp_buf *b, double v);
/* A JSON string with quotes, escaped; bytes that are not UTF-8 become U+FFFD. */
void mp_buf_json(mp_buf *b, mp_str s);
/* Percent-encodes everything but unreserved characters (RFC 3986, 2.3). */
void mp_buf_url(mp_buf *b, mp_str s);
#endif
