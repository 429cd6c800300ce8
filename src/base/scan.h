/* base/scan.h -- floor 0, base: reads JSON in place, one value at a time, without allocating.
 * For frames that come by the thousand; documents go through json.h.
 * Sees: base. Seen by: all. */
#ifndef MP_SCAN_H
#define MP_SCAN_H
#include "base/base.h"

typedef struct mp_scan { const char *p, *end; int bad; } mp_scan;   /* bad: malformed; everything returns 0 from then on */

mp_scan mp_scan_of(mp_str text);
/* The kind of the next value: '{' '[' '"' 't' 'f' 'n' (null), '0' (number), 0 at the end or on rubbish. */
char mp_scan_peek(mp_scan *s);
int mp_scan_open(mp_scan *s, char bracket);          /* consumes '{' or '['; 0: something else stands there */
/* Next member of the open object: 1 and its name (undecoded, between the quotes), or 0 behind the last;
 * its value must then be consumed. */
int mp_scan_member(mp_scan *s, mp_str *name);
int mp_scan_item(mp_scan *s);                        /* the same for an open array */
int mp_scan_string(mp_scan *s, mp_str *raw);         /* between the quotes, undecoded; 0 if it is no string */
int mp_scan_number(mp_scan *s, double *v);           /* NaN and Infinity count as numbers */
int mp_scan_skip(mp_scan *s, mp_str *raw);           /* any value; raw (may be NULL) is its text */
/* Decodes the escapes of an undecoded string into out (at most cap - 1 bytes, terminated); its length,
 * or -1 when it does not fit or an escape is wrong. Lone surrogates become U+FFFD. */
long mp_scan_unescape(mp_str raw, char *out, size_t cap);
#endif
