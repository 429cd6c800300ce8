/* graph/bypass.c -- floor 2, graph: a prompt without some of its nodes. */
#include "graph/bypass.h"
#include <strings.h>

static const mp_bypass *find(const mp_bypass *list, size_t n, const char *id) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i].id, id) == 0) return &list[i];
    return NULL;
}

static int is_link(const mp_json *v) { return mp_json_type(v) == MP_JSON_ARRAY && mp_json_count(v) == 2 && mp_json_string(mp_json_first(v)); }

static const char *type_of_input(const mp_json *def, const char *name) {
    static const char *const groups[] = { "required", "optional" };
    for (int i = 0; i < 2; i++) {
        const mp_json *d = mp_json_get(mp_json_get(mp_json_get(def, "input"), groups[i]), name);
        if (d) return mp_json_string(mp_json_first(d));
    }
    return NULL;
}

static int compatible(const char *a, const char *b) { return !a || !b || !*a || !*b || strcmp(a, "*") == 0 || strcmp(b, "*") == 0 || strcasecmp(a, b) == 0; }

/* The link that output `slot` of this bypassed node stands for: the input at the same place if its type fits, else the
 * first of exactly that type, else the first that fits. NULL: none. */
static const mp_json *stands_for(const mp_json *node, const mp_json *def, size_t slot) {
    const char *want = mp_json_string(mp_json_at(mp_json_get(def, "output"), slot));
    const mp_json *same_place = NULL, *same_type = NULL, *fits = NULL;
    size_t at = 0;
    for (const mp_json *i = mp_json_first(mp_json_get(node, "inputs")); i; i = mp_json_next(i)) {
        if (!is_link(i)) continue;
        const char *type = def ? type_of_input(def, mp_json_name(i)) : NULL;
        int ok = compatible(type, want);
        if (at++ == slot && ok) same_place = i;
        if (type && want && !same_type && strcasecmp(type, want) == 0) same_type = i;
        if (ok && !fits) fits = i;
    }
    return same_place ? same_place : same_type ? same_type : def ? fits : at == 1 ? fits : NULL;
}

/* Follows a link through bypassed nodes. NULL: it leads nowhere. */
static const mp_json *resolve(const mp_json *root, const mp_json *link, const mp_bypass *list, size_t n) {
    for (size_t steps = 0; link && steps <= n; steps++) {
        const char *id = mp_json_string(mp_json_first(link));
        const mp_bypass *b = find(list, n, id);
        if (!b) return link;
        mp_json *def = b->info ? mp_json_parse(b->info, strlen(b->info), NULL) : NULL;
        link = stands_for(mp_json_get(root, id), def, (size_t)mp_json_number(mp_json_at(link, 1), 0));
        mp_json_free(def);
    }
    return NULL;
}

static void write_inputs(mp_buf *out, const mp_json *root, const mp_json *inputs, const mp_bypass *list, size_t n) {
    int any = 0;
    mp_buf_putc(out, '{');
    for (const mp_json *i = mp_json_first(inputs); i; i = mp_json_next(i)) {
        const mp_json *v = is_link(i) ? resolve(root, i, list, n) : i;
        if (!v) continue;
        if (any++) mp_buf_putc(out, ',');
        mp_buf_json(out, mp_str_of(mp_json_name(i)));
        mp_buf_putc(out, ':');
        mp_json_write(out, v);
    }
    mp_buf_putc(out, '}');
}

void mp_bypass_write(mp_buf *out, const mp_json *root, const mp_bypass *list, size_t n) {
    int any = 0;
    mp_buf_putc(out, '{');
    for (const mp_json *node = mp_json_first(root); node; node = mp_json_next(node)) {
        if (find(list, n, mp_json_name(node))) continue;
        if (any++) mp_buf_putc(out, ',');
        mp_buf_json(out, mp_str_of(mp_json_name(node)));
        mp_buf_puts(out, ":{");
        for (const mp_json *m = mp_json_first(node); m; m = mp_json_next(m)) {
            if (m != mp_json_first(node)) mp_buf_putc(out, ',');
            mp_buf_json(out, mp_str_of(mp_json_name(m)));
            mp_buf_putc(out, ':');
            if (strcmp(mp_json_name(m), "inputs") == 0) write_inputs(out, root, m, list, n);
            else mp_json_write(out, m);
        }
        mp_buf_putc(out, '}');
    }
    mp_buf_putc(out, '}');
}
