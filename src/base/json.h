/* base/json.h -- floor 0, base: JSON documents; the door to cJSON.
 * Numbers keep their exact text, so that every integer from -2^63 to 2^64-1 (and beyond) goes from text to
 * text unchanged. NaN, Infinity and -Infinity are accepted: real servers send them (protocol 1.5).
 * Sees: base, cJSON. Seen by: all. */
#ifndef MP_JSON_H
#define MP_JSON_H
#include "base/buf.h"
#include "base/err.h"

typedef struct cJSON mp_json;
typedef enum { MP_JSON_NONE, MP_JSON_NULL, MP_JSON_BOOL, MP_JSON_NUMBER, MP_JSON_STRING, MP_JSON_ARRAY, MP_JSON_OBJECT } mp_json_kind;

#define MP_JSON_DEPTH 200                        /* levels; deeper text is refused */

/* NULL and words with the place (line and column) when the text is no JSON. The caller frees. */
mp_json *mp_json_parse(const char *p, size_t n, mp_err *e);
void mp_json_free(mp_json *j);                   /* NULL is fine */

mp_json_kind mp_json_type(const mp_json *j);     /* NULL: MP_JSON_NONE */
const mp_json *mp_json_get(const mp_json *obj, const char *name);       /* NULL: absent, or obj is no object */
const mp_json *mp_json_at(const mp_json *array, size_t i);              /* linear; walk with first and next */
const mp_json *mp_json_first(const mp_json *j);  /* first member or item */
const mp_json *mp_json_next(const mp_json *item);
const char *mp_json_name(const mp_json *member);      /* "" for an item of an array */
size_t mp_json_count(const mp_json *j);
const char *mp_json_string(const mp_json *j);    /* NULL if it is no string */
double mp_json_number(const mp_json *j, double otherwise);
int mp_json_true(const mp_json *j);
/* The number's own text, or "" when it is no number. `tmp` is used for short ones. */
const char *mp_json_literal(const mp_json *j, char tmp[40]);
/* Compact text: strings escaped as JSON demands, numbers as they were read. */
void mp_json_write(mp_buf *b, const mp_json *j);
#endif
