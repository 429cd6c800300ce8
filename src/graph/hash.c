/* graph/hash.c -- floor 2, graph: the structural hash of a workflow. */
#include "graph/hash.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

int mp_graph_is_model(mp_str f) {
    static const char *const suffixes[] = { ".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx",
                                            ".pkl", ".npz", ".vae", ".yaml", ".yml" };
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        size_t n = strlen(suffixes[i]);
        if (f.n >= n && strncasecmp(f.p + f.n - n, suffixes[i], n) == 0) return 1;
    }
    return 0;
}

/* A canonical decimal integer 0..4294967294: such names come first in a JavaScript object (ECMA-262, array index). */
static int array_index(const char *z, uint32_t *v) {
    if (!*z || (z[0] == '0' && z[1]) || strlen(z) > 10) return 0;
    uint64_t x = 0;
    for (const char *p = z; *p; p++) {
        if (*p < '0' || *p > '9') return 0;
        x = x * 10 + (uint64_t)(*p - '0');
    }
    *v = (uint32_t)x;
    return x <= 4294967294u;
}

/* UTF-16 code unit order of two UTF-8 strings: byte order, but for U+E000..U+FFFF behind the supplementary planes. */
static int utf16_compare(const char *a, const char *b) {
    while (*a && *a == *b) { a++; b++; }
    unsigned char x = (unsigned char)*a, y = (unsigned char)*b;
    if (x >= 0xee && y >= 0xee && (x >= 0xf0) != (y >= 0xf0)) return x >= 0xf0 ? -1 : 1;
    return (int)x - (int)y;
}

static int by_name(const void *a, const void *b) {
    const mp_json *const *x = a, *const *y = b;
    uint32_t i = 0, j = 0;
    int p = array_index(mp_json_name(*x), &i), q = array_index(mp_json_name(*y), &j);
    if (p != q) return q - p;
    if (p) return i < j ? -1 : i > j;
    return utf16_compare(mp_json_name(*x), mp_json_name(*y));
}

/* JavaScript's Number.prototype.toString (ECMA-262, 6.1.6.1.20), as JSON.stringify uses it. */
static void js_number(mp_buf *b, double v) {
    if (!isfinite(v)) { mp_buf_puts(b, "null"); return; }
    if (v == 0) { mp_buf_putc(b, '0'); return; }
    char t[40], digits[24];
    int precision = 0, k = 0;
    for (; precision < 17; precision++) {
        snprintf(t, sizeof t, "%.*e", precision, fabs(v));
        if (strtod(t, NULL) == fabs(v)) break;
    }
    for (const char *p = t; *p && *p != 'e'; p++)
        if (*p != '.') digits[k++] = *p;
    while (k > 1 && digits[k - 1] == '0') k--;
    int n = atoi(strchr(t, 'e') + 1) + 1;                /* value = 0.digits * 10^n */
    if (v < 0) mp_buf_putc(b, '-');
    if (n >= k && n <= 21) {
        mp_buf_add(b, digits, (size_t)k);
        for (int i = k; i < n; i++) mp_buf_putc(b, '0');
    } else if (n > 0 && n <= 21) {
        mp_buf_printf(b, "%.*s.%.*s", n, digits, k - n, digits + n);
    } else if (n > -6 && n <= 0) {
        mp_buf_puts(b, "0.");
        for (int i = n; i < 0; i++) mp_buf_putc(b, '0');
        mp_buf_add(b, digits, (size_t)k);
    } else {
        mp_buf_putc(b, digits[0]);
        if (k > 1) mp_buf_printf(b, ".%.*s", k - 1, digits + 1);
        mp_buf_printf(b, "e%c%d", n > 0 ? '+' : '-', abs(n - 1));
    }
}

/* The members of an object in JavaScript's order; sorted: all by name, else only the array indices move. */
static const mp_json **members(const mp_json *obj, size_t *n, int sorted) {
    size_t all = mp_json_count(obj), k = 0;
    const mp_json **v = mp_alloc(all * sizeof *v + 1);
    uint32_t i;
    for (const mp_json *c = mp_json_first(obj); c; c = mp_json_next(c))
        if (sorted || array_index(mp_json_name(c), &i)) v[k++] = c;
    if (k) qsort(v, k, sizeof *v, by_name);
    for (const mp_json *c = mp_json_first(obj); c && !sorted; c = mp_json_next(c))
        if (!array_index(mp_json_name(c), &i)) v[k++] = c;
    *n = all;
    return v;
}

static void verbatim(mp_buf *b, const mp_json *j) {
    switch (mp_json_type(j)) {
    case MP_JSON_NUMBER: js_number(b, mp_json_number(j, 0)); return;
    case MP_JSON_ARRAY:
        mp_buf_putc(b, '[');
        for (const mp_json *c = mp_json_first(j); c; c = mp_json_next(c)) {
            if (c != mp_json_first(j)) mp_buf_putc(b, ',');
            verbatim(b, c);
        }
        mp_buf_putc(b, ']');
        return;
    case MP_JSON_OBJECT: {
        size_t n;
        const mp_json **v = members(j, &n, 0);
        mp_buf_putc(b, '{');
        for (size_t i = 0; i < n; i++) {
            if (i) mp_buf_putc(b, ',');
            mp_buf_json(b, mp_str_of(mp_json_name(v[i])));
            mp_buf_putc(b, ':');
            verbatim(b, v[i]);
        }
        mp_buf_putc(b, '}');
        free(v);
        return;
    }
    default: mp_json_write(b, j);
    }
}

static void object(mp_buf *b, const mp_json *obj, void (*member)(mp_buf *, const mp_json *)) {
    size_t n;
    const mp_json **v = members(obj, &n, 1);
    mp_buf_putc(b, '{');
    for (size_t i = 0; i < n; i++) {
        if (i) mp_buf_putc(b, ',');
        mp_buf_json(b, mp_str_of(mp_json_name(v[i])));
        mp_buf_putc(b, ':');
        member(b, v[i]);
    }
    mp_buf_putc(b, '}');
    free(v);
}

void mp_graph_canonical(mp_buf *b, const mp_json *v) {
    switch (mp_json_type(v)) {
    case MP_JSON_NONE: case MP_JSON_NULL: mp_buf_puts(b, "null"); break;
    case MP_JSON_BOOL: mp_buf_puts(b, "\"boolean\""); break;
    case MP_JSON_NUMBER: mp_buf_puts(b, "\"number\""); break;
    case MP_JSON_STRING: {
        mp_str s = mp_str_of(mp_json_string(v));
        mp_buf_json(b, mp_graph_is_model(s) ? s : mp_str_of(""));
        break;
    }
    case MP_JSON_ARRAY: verbatim(b, v); break;
    case MP_JSON_OBJECT: object(b, v, mp_graph_canonical); break;
    }
}

static void node(mp_buf *b, const mp_json *n) {
    if (mp_json_type(n) != MP_JSON_OBJECT) { verbatim(b, n); return; }
    const mp_json *class_type = mp_json_get(n, "class_type"), *inputs = mp_json_get(n, "inputs");
    mp_buf_puts(b, "{\"class_type\":");
    if (class_type) verbatim(b, class_type);
    else mp_buf_puts(b, "null");
    mp_buf_puts(b, ",\"inputs\":");
    if (mp_json_type(inputs) == MP_JSON_OBJECT) object(b, inputs, mp_graph_canonical);
    else mp_buf_puts(b, "{}");
    mp_buf_putc(b, '}');
}

void mp_graph_hash(const mp_json *root, char out[MP_DIGEST_HEX]) {
    mp_buf b = { 0 };
    object(&b, root, node);
    mp_sha256_hex(b.p, b.n, out);
    mp_buf_free(&b);
}
