/* base/json.c -- floor 0, base: JSON documents; the door to cJSON.
 *
 * cJSON keeps numbers as doubles and refuses NaN. Literals that a double would change are therefore
 * blanked to a `0` of the same length in a copy of the text, and after parsing text and tree are walked
 * together: the n-th number of the text is the n-th number of the tree. Such an item becomes a raw item
 * that holds its literal. Text without such literals is parsed as it is, without a copy. What cJSON's strings cannot
 * hold (\u0000, and surrogates without their other half) is read as U+FFFD. */
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

typedef struct { const char *p, *end; int in_string; } walk;

static long hex4(const char *p, const char *end) {
    long v = 0;
    for (int i = 0; i < 4; i++) {
        if (p + i >= end) return -1;
        char c = p[i];
        int d = digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

/* At a \u: 0 fine, 1 a NUL or a lone surrogate, which cJSON cannot hold, -1 malformed. */
static int odd_escape(const char *p, const char *end) {
    long c = hex4(p + 2, end);
    if (c < 0) return -1;
    if (c >= 0xd800 && c < 0xdc00) return p + 12 <= end && p[6] == '\\' && p[7] == 'u' && hex4(p + 8, end) >= 0xdc00 && hex4(p + 8, end) < 0xe000 ? 0 : 1;
    return c == 0 || (c >= 0xdc00 && c < 0xe000);
}

/* The next literal to look at outside of strings: a number, or an odd escape (then *exact is -1) or a malformed place
 * (then *exact is -2). 0 at the end. Depth is measured on the way. */
static int next_number(walk *w, mp_str *lit, int *exact, int *depth, int *deepest) {
    while (w->p < w->end) {
        char c = *w->p;
        if (c == '"' || w->in_string) {
            for (w->p += !w->in_string, w->in_string = 1; w->p < w->end && *w->p != '"'; w->p++) {
                if (*w->p != '\\') continue;
                int odd = w->p + 1 < w->end && w->p[1] == 'u' ? odd_escape(w->p, w->end) : 0;
                int pair = !odd && w->p + 1 < w->end && w->p[1] == 'u' && hex4(w->p + 2, w->end) >= 0xd800 && hex4(w->p + 2, w->end) < 0xdc00;
                if (odd) {
                    *lit = mp_str_make(w->p, 6);
                    *exact = odd < 0 ? -2 : -1;
                    w->p += odd < 0 ? 1 : 6;
                    return 1;
                }
                w->p += pair ? 11 : 1;
            }
            w->in_string = 0;
            if (w->p < w->end) w->p++;
            continue;
        }
        if ((unsigned char)c < 0x20 && c != '\t' && c != '\n' && c != '\r') {
            *lit = mp_str_make(w->p++, 1);
            *exact = -2;
            return 1;
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

static int name_char(char c) { return digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' || c == '_'; }

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

static int blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/* Where a name should stand cJSON reports the place behind what it found there. */
static const char *error_place(const char *text, const char *end) {
    if (end < text + 2 || blank(end[-1]) || strchr("{[,:\"", end[-1])) return end;
    const char *p = end - 2;
    while (p > text && blank(*p)) p--;
    return *p == '{' || *p == ',' ? end - 1 : end;
}

/* Gives every number item whose literal is not exact its literal; document order. */
static void restore(cJSON *item, walk *w) {
    for (; item; item = item->next) {
        if (cJSON_IsNumber(item)) {
            mp_str lit = { 0 };
            int exact = 1, depth = 0, deepest = 0;
            do if (!next_number(w, &lit, &exact, &depth, &deepest)) return; while (exact < 0);
            if (exact) continue;
            item->type = cJSON_Raw;
            item->valuestring = mp_strndup(lit.p, lit.n);
        } else if (item->child) restore(item->child, w);
    }
}

mp_json *mp_json_parse(const char *p, size_t n, mp_err *e) {
    walk w = { p, p + n, 0 };
    char *copy = NULL;
    mp_str lit;
    int exact, depth = 0, deepest = 0;
    while (next_number(&w, &lit, &exact, &depth, &deepest)) {
        const char *behind = lit.p + lit.n;
        int glued = exact >= 0 && ((lit.p > p && name_char(lit.p[-1])) || (behind < p + n && name_char(*behind)));
        if (exact == -2 || glued || (exact >= 0 && !well_formed(lit))) {
            place_error(e, p, lit.p, exact == -2 ? "a malformed escape or a control character" : "a malformed number");
            free(copy);
            return NULL;
        }
        if (exact == 1) continue;
        if (!copy) copy = mp_strndup(p, n);
        if (exact == -1) { memcpy(copy + (lit.p - p), "\\ufffd", 6); continue; }
        memset(copy + (lit.p - p), ' ', lit.n);
        copy[lit.p - p] = '0';
    }
    cJSON *j = NULL;
    const char *end = NULL, *text = copy ? copy : p;
    if (deepest > MP_JSON_DEPTH) mp_fail(e, MP_ELIMIT, "JSON nested deeper than %d levels", MP_JSON_DEPTH);
    else if (!(j = cJSON_ParseWithLengthOpts(text, n, &end, 0)))
        place_error(e, p, end && end >= text && end <= text + n ? p + (error_place(text, end) - text) : p, n ? "unexpected text" : "nothing");
    if (j) {
        while (end < text + n && strchr(" \t\r\n", *end) && *end) end++;
        if (end < text + n) {
            place_error(e, p, p + (end - text), "text behind the value");
            cJSON_Delete(j);
            j = NULL;
        }
    }
    if (j && copy) {
        walk again = { p, p + n, 0 };
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
const char *mp_json_name(const mp_json *member) { return member->string ? member->string : ""; }
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
