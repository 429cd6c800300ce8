/* base/json.c -- floor 0, base: JSON documents; the door to cJSON.
 *
 * cJSON keeps numbers as doubles and refuses NaN. Literals that a double would change are therefore
 * blanked to a `0` of the same length in a copy of the text, and after parsing text and tree are walked
 * together: the n-th number of the text is the n-th number of the tree. Such an item becomes a raw item
 * that holds its literal. Text without such literals is parsed as it is, without a copy. */
#include "base/json.h"
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>

static int digit(char c) { return c >= '0' && c <= '9'; }

/* Length of the number literal at p (up to end), and whether a double prints it back unchanged. */
static size_t literal_at(const char *p, const char *end, int *exact) {
    const char *q = p;
    size_t digits = 0, zeros = 0;
    int fraction = 0, exponent = 0;
    for (; q < end && (digit(*q) || *q == '-' || *q == '+' || *q == '.' || *q == 'e' || *q == 'E'); q++) {
        digits += digit(*q) != 0;
        if (*q == '.') fraction = 1;
        if (*q == 'e' || *q == 'E') exponent = 1;
        if (*q == '0' && digits == zeros + 1) zeros++;
    }
    *exact = digits <= 15 && !exponent && !(fraction && (q[-1] == '0' || zeros > 4)) && !(p[0] == '-' && digits == zeros);
    return (size_t)(q - p);
}

static size_t word_at(const char *p, const char *end) {
    static const char *const words[] = { "NaN", "Infinity", "-Infinity" };
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(words[i]);
        if ((size_t)(end - p) >= n && memcmp(p, words[i], n) == 0) return n;
    }
    return 0;
}

typedef struct { const char *p, *end; } walk;

/* The next number literal of the text outside of strings; 0 at the end. Depth is measured on the way. */
static int next_number(walk *w, mp_str *lit, int *exact, int *depth, int *deepest) {
    while (w->p < w->end) {
        char c = *w->p;
        if (c == '"') {
            for (w->p++; w->p < w->end && *w->p != '"'; w->p++)
                if (*w->p == '\\') w->p++;
            if (w->p < w->end) w->p++;
            continue;
        }
        if (c == '{' || c == '[') { if (++*depth > *deepest) *deepest = *depth; }
        else if (c == '}' || c == ']') --*depth;
        size_t n = c == 'N' || c == 'I' || c == '-' ? word_at(w->p, w->end) : 0;
        *exact = 0;
        if (!n && (digit(c) || c == '-')) n = literal_at(w->p, w->end, exact);
        if (n) {
            *lit = mp_str_make(w->p, n);
            w->p += n;
            return 1;
        }
        w->p++;
    }
    return 0;
}

/* cJSON would take the blanked copy of `1-2` or `1.2.3`; a literal must be a number by RFC 8259. */
static int well_formed(mp_str l) {
    const char *p = l.p, *end = l.p + l.n;
    if (word_at(p, end) == l.n) return 1;
    if (p < end && *p == '-') p++;
    if (p >= end || !digit(*p)) return 0;
    if (*p == '0' && p + 1 < end && digit(p[1])) return 0;
    while (p < end && digit(*p)) p++;
    if (p < end && *p == '.') {
        if (++p >= end || !digit(*p)) return 0;
        while (p < end && digit(*p)) p++;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        if (++p < end && (*p == '+' || *p == '-')) p++;
        if (p >= end || !digit(*p)) return 0;
        while (p < end && digit(*p)) p++;
    }
    return p == end;
}

static int place_error(mp_err *e, const char *text, const char *at, const char *what) {
    int line = 1, column = 1;
    for (const char *p = text; p < at; p++) {
        if (*p == '\n') { line++; column = 1; } else column++;
    }
    return mp_fail(e, MP_EPARSE, "no valid JSON: %s at line %d, column %d", what, line, column);
}

/* Gives every number item whose literal is not exact its literal; document order. */
static void restore(cJSON *item, walk *w) {
    for (; item; item = item->next) {
        if (cJSON_IsNumber(item)) {
            mp_str lit = { 0 };
            int exact = 1, depth = 0, deepest = 0;
            if (!next_number(w, &lit, &exact, &depth, &deepest) || exact) continue;
            item->type = cJSON_Raw;
            item->valuestring = mp_strndup(lit.p, lit.n);
        } else if (item->child) restore(item->child, w);
    }
}

mp_json *mp_json_parse(const char *p, size_t n, mp_err *e) {
    walk w = { p, p + n };
    char *copy = NULL;
    mp_str lit;
    int exact, depth = 0, deepest = 0;
    while (next_number(&w, &lit, &exact, &depth, &deepest)) {
        if (!well_formed(lit)) {
            place_error(e, p, lit.p, "a malformed number");
            free(copy);
            return NULL;
        }
        if (exact) continue;
        if (!copy) copy = mp_strndup(p, n);
        memset(copy + (lit.p - p), ' ', lit.n);
        copy[lit.p - p] = '0';
    }
    cJSON *j = NULL;
    const char *end = NULL, *text = copy ? copy : p;
    if (deepest > MP_JSON_DEPTH) mp_fail(e, MP_ELIMIT, "JSON nested deeper than %d levels", MP_JSON_DEPTH);
    else if (!(j = cJSON_ParseWithLengthOpts(text, n, &end, 0)))
        place_error(e, p, end && end >= text && end <= text + n ? p + (end - text) : p, n ? "unexpected text" : "nothing");
    if (j) {
        while (end < text + n && strchr(" \t\r\n", *end) && *end) end++;
        if (end < text + n) {
            place_error(e, p, p + (end - text), "text behind the value");
            cJSON_Delete(j);
            j = NULL;
        }
    }
    if (j && copy) {
        walk again = { p, p + n };
        restore(j, &again);
    }
    free(copy);
    return j;
}

void mp_json_free(mp_json *j) { cJSON_Delete(j); }

mp_json_kind mp_json_type(const mp_json *j) {
    if (!j) return MP_JSON_NONE;
    switch (j->type & 0xff) {
    case cJSON_NULL: return MP_JSON_NULL;
    case cJSON_True: case cJSON_False: return MP_JSON_BOOL;
    case cJSON_Number: case cJSON_Raw: return MP_JSON_NUMBER;
    case cJSON_String: return MP_JSON_STRING;
    case cJSON_Array: return MP_JSON_ARRAY;
    case cJSON_Object: return MP_JSON_OBJECT;
    default: return MP_JSON_NONE;
    }
}

const mp_json *mp_json_get(const mp_json *obj, const char *name) {
    return mp_json_type(obj) == MP_JSON_OBJECT ? cJSON_GetObjectItemCaseSensitive(obj, name) : NULL;
}
const mp_json *mp_json_at(const mp_json *a, size_t i) { return mp_json_type(a) == MP_JSON_ARRAY ? cJSON_GetArrayItem(a, (int)i) : NULL; }
const mp_json *mp_json_first(const mp_json *j) { return j && (cJSON_IsArray(j) || cJSON_IsObject(j)) ? j->child : NULL; }
const mp_json *mp_json_next(const mp_json *item) { return item->next; }
const char *mp_json_name(const mp_json *member) { return member->string; }
size_t mp_json_count(const mp_json *j) { return mp_json_first(j) ? (size_t)cJSON_GetArraySize(j) : 0; }
const char *mp_json_string(const mp_json *j) { return mp_json_type(j) == MP_JSON_STRING ? j->valuestring : NULL; }
int mp_json_true(const mp_json *j) { return j && cJSON_IsTrue(j); }

double mp_json_number(const mp_json *j, double otherwise) {
    if (mp_json_type(j) != MP_JSON_NUMBER) return otherwise;
    return cJSON_IsRaw(j) ? strtod(j->valuestring, NULL) : j->valuedouble;
}

const char *mp_json_literal(const mp_json *j, char tmp[40]) {
    if (mp_json_type(j) != MP_JSON_NUMBER) return "";
    if (cJSON_IsRaw(j)) return j->valuestring;
    snprintf(tmp, 40, "%.15g", j->valuedouble);
    return tmp;
}

void mp_json_write(mp_buf *b, const mp_json *j) {
    char tmp[40];
    switch (mp_json_type(j)) {
    case MP_JSON_NONE: case MP_JSON_NULL: mp_buf_puts(b, "null"); break;
    case MP_JSON_BOOL: mp_buf_puts(b, cJSON_IsTrue(j) ? "true" : "false"); break;
    case MP_JSON_NUMBER: mp_buf_puts(b, mp_json_literal(j, tmp)); break;
    case MP_JSON_STRING: mp_buf_json(b, mp_str_of(j->valuestring)); break;
    case MP_JSON_ARRAY: case MP_JSON_OBJECT: {
        int object = cJSON_IsObject(j);
        mp_buf_putc(b, object ? '{' : '[');
        for (const mp_json *c = j->child; c; c = c->next) {
            if (c != j->child) mp_buf_putc(b, ',');
            if (object) { mp_buf_json(b, mp_str_of(c->string)); mp_buf_putc(b, ':'); }
            mp_json_write(b, c);
        }
        mp_buf_putc(b, object ? '}' : ']');
        break;
    }
    }
}
