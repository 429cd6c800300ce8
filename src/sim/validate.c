/* sim/validate.c -- floor 5, sim: what POST /prompt refuses, and with what words (protocol 2.1).
 * The real server walks from each output node up through its links; a node is judged once. */
#include "sim/inside.h"
#include <math.h>
#include <stdlib.h>

typedef struct verdict { const char *id, *class_type; int state, good; char *errors; mp_buf dependents; UT_hash_handle hh; } verdict;   /* state 1: being judged */
typedef struct { mp_sim *s; const mp_json *prompt, *link, *link_def; verdict *seen; mp_buf errors; int cycle; } judge;

int is_link(const mp_json *v) { return mp_json_type(v) == MP_JSON_ARRAY && mp_json_count(v) == 2 && mp_json_string(mp_json_first(v)); }

static void text(mp_buf *b, const char *name, const char *words) {
    mp_buf_printf(b, "\"%s\": ", name);
    mp_buf_json(b, mp_str_of(words));
}

static void value_member(mp_buf *b, const char *name, const mp_json *v) {
    mp_buf_printf(b, ", \"%s\": ", name);
    mp_json_write(b, v);
}

/* One entry of errors; `extra` is what follows {"input_name": ... in extra_info, or NULL. */
static void error(mp_buf *b, const char *type, const char *message, const char *details, const char *input, mp_buf *extra) {
    if (b->n) mp_buf_puts(b, ", ");
    mp_buf_puts(b, "{");
    text(b, "type", type);
    mp_buf_puts(b, ", ");
    text(b, "message", message);
    mp_buf_puts(b, ", ");
    text(b, "details", details);
    mp_buf_puts(b, ", \"extra_info\": {");
    if (input) text(b, "input_name", input);
    if (extra) mp_buf_str(b, mp_buf_view(extra));
    mp_buf_puts(b, "}}");
    if (extra) mp_buf_free(extra);
}

static const mp_json *type_of(const mp_json *def) { return mp_json_first(def); }
static const mp_json *options_of(const mp_json *def) { return mp_json_at(def, 1); }

/* [type, options]: the second is {} when the class did not give one. */
static void config(mp_buf *b, const mp_json *def) {
    mp_buf_puts(b, ", \"input_config\": [");
    mp_json_write(b, type_of(def));
    mp_buf_puts(b, ", ");
    if (options_of(def)) mp_json_write(b, options_of(def));
    else mp_buf_puts(b, "{}");
    mp_buf_puts(b, "]");
}

/* A value as Python prints it, for the words of an error. */
static void python(mp_buf *b, const mp_json *v) {
    const char *z = mp_json_string(v);
    if (z) mp_buf_puts(b, z);
    else if (mp_json_type(v) == MP_JSON_BOOL) mp_buf_puts(b, mp_json_true(v) ? "True" : "False");
    else if (mp_json_type(v) == MP_JSON_NULL) mp_buf_puts(b, "None");
    else if (isnan(mp_json_number(v, 0))) mp_buf_puts(b, "nan");
    else if (isinf(mp_json_number(v, 0))) mp_buf_puts(b, mp_json_number(v, 0) < 0 ? "-inf" : "inf");
    else mp_json_write(b, v);
}

static void python_float(mp_buf *b, double v) {
    size_t from = b->n;
    mp_buf_double(b, v);
    if (isfinite(v) && !strpbrk(b->p + from, ".e")) mp_buf_puts(b, ".0");
}

/* int() and float() of Python, as far as JSON values reach them; long double holds all 64-bit integers exactly.
 * 0: not convertible; *why gets the words. */
static int to_number(const mp_json *v, int integer, long double *out, mp_buf *why) {
    const char *z = mp_json_string(v);
    char tmp[40];
    if (mp_json_type(v) == MP_JSON_NUMBER) {
        const char *literal = mp_json_literal(v, tmp);
        *out = strpbrk(literal, ".eENI") ? (long double)mp_json_number(v, 0) : strtold(literal, NULL);       /* a double is one, with its 53 bits */
        if (integer && !isfinite(*out)) { mp_buf_printf(why, "cannot convert float %s to integer", isnan(*out) ? "NaN" : "infinity"); return 0; }
        if (integer) *out = truncl(*out);
        return 1;
    }
    if (mp_json_type(v) == MP_JSON_BOOL) { *out = mp_json_true(v); return 1; }
    if (z) {
        char *end;
        *out = strtold(z, &end);
        while (*end == ' ') end++;
        if (end != z && !*end && !(integer && strpbrk(z, ".eE"))) return 1;
        if (integer) mp_buf_printf(why, "invalid literal for int() with base 10: '%s'", z);
        else mp_buf_printf(why, "could not convert string to float: '%s'", z);
        return 0;
    }
    mp_buf_printf(why, "%s() argument must be a string%s, not '%s'", integer ? "int" : "float", integer ? ", a bytes-like object or a real number" : " or a real number",
                  mp_json_type(v) == MP_JSON_NULL ? "NoneType" : mp_json_type(v) == MP_JSON_ARRAY ? "list" : "dict");
    return 0;
}

/* A converted number as Python writes it. */
static void number_text(mp_buf *b, long double x, int integer) {
    if (!integer) python_float(b, (double)x);
    else mp_buf_printf(b, "%.0Lf", x);
}

static void check_range(mp_buf *errs, const char *input, const mp_json *def, long double x, int integer) {
    static const struct { const char *bound, *type, *words; } ends[] = { { "min", "value_smaller_than_min", "smaller than min of" }, { "max", "value_bigger_than_max", "bigger than max of" } };
    for (int k = 0; k < 2; k++) {
        const mp_json *bound = mp_json_get(options_of(def), ends[k].bound);
        mp_buf none = { 0 };
        long double limit = 0;
        if (!bound || !to_number(bound, 0, &limit, &none) || (k == 0 ? x >= limit : x <= limit) || isnan(x)) continue;
        mp_buf words = { 0 }, extra = { 0 };
        mp_buf_puts(&words, "Value ");
        number_text(&words, x, integer);
        mp_buf_printf(&words, " %s ", ends[k].words);
        number_text(&words, limit, integer);
        config(&extra, def);
        mp_buf_puts(&extra, ", \"received_value\": ");           /* what it was converted to */
        if (isinf(x)) mp_buf_puts(&extra, x < 0 ? "-Infinity" : "Infinity");
        else number_text(&extra, x, integer);
        error(errs, ends[k].type, words.p, input, input, &extra);
        mp_buf_free(&words);
        return;
    }
}

/* ---- what the server makes of a value before it runs (protocol 2.1, coercions) -------------------------------------- */

static int truthy(const mp_json *v) {
    const char *z = mp_json_string(v);
    if (z) return *z != 0;
    if (mp_json_type(v) == MP_JSON_NUMBER) return mp_json_number(v, 0) != 0;
    return mp_json_type(v) == MP_JSON_BOOL ? mp_json_true(v) : mp_json_count(v) > 0;
}

static void coerced(mp_buf *b, const char *type, const mp_json *v) {
    int integer = type && strcmp(type, "INT") == 0;
    long double x;
    mp_buf why = { 0 };
    if (type && (integer || strcmp(type, "FLOAT") == 0) && to_number(v, integer, &x, &why)) number_text(b, x, integer);
    else if (type && strcmp(type, "STRING") == 0 && !mp_json_string(v)) {
        mp_buf text = { 0 };
        py_repr(&text, v);
        mp_buf_json(b, mp_buf_view(&text));
        mp_buf_free(&text);
    } else if (type && strcmp(type, "BOOLEAN") == 0) mp_buf_puts(b, truthy(v) ? "true" : "false");
    else mp_json_write(b, v);
    mp_buf_free(&why);
}

static const char *type_of_input(const mp_json *def, const char *name) {
    static const char *const groups[] = { "required", "optional" };
    for (int i = 0; i < 2; i++) {
        const mp_json *d = mp_json_get(mp_json_get(mp_json_get(def, "input"), groups[i]), name);
        if (d) return mp_json_string(type_of(d));
    }
    return NULL;
}

mp_json *coerce(mp_sim *s, const mp_json *prompt) {
    mp_buf b = { 0 };
    mp_buf_putc(&b, '{');
    for (const mp_json *n = mp_json_first(prompt); n; n = mp_json_next(n)) {
        const mp_json *def = class_def(s, mp_json_string(mp_json_get(n, "class_type")));
        if (n != mp_json_first(prompt)) mp_buf_puts(&b, ", ");
        mp_buf_json(&b, mp_str_of(mp_json_name(n)));
        mp_buf_puts(&b, ": {");
        for (const mp_json *m = mp_json_first(n); m; m = mp_json_next(m)) {
            if (m != mp_json_first(n)) mp_buf_puts(&b, ", ");
            mp_buf_json(&b, mp_str_of(mp_json_name(m)));
            mp_buf_puts(&b, ": ");
            if (strcmp(mp_json_name(m), "inputs") != 0 || mp_json_type(m) != MP_JSON_OBJECT) { mp_json_write(&b, m); continue; }
            mp_buf_putc(&b, '{');
            for (const mp_json *i = mp_json_first(m); i; i = mp_json_next(i)) {
                const mp_json *v = s->v->empty_object && mp_json_get(i, "__value__") ? mp_json_get(i, "__value__") : i;
                if (i != mp_json_first(m)) mp_buf_puts(&b, ", ");
                mp_buf_json(&b, mp_str_of(mp_json_name(i)));
                mp_buf_puts(&b, ": ");
                if (is_link(i) || (v == i && mp_json_type(v) == MP_JSON_ARRAY)) mp_json_write(&b, i);
                else coerced(&b, type_of_input(def, mp_json_name(i)), v);
            }
            mp_buf_putc(&b, '}');
        }
        mp_buf_putc(&b, '}');
    }
    mp_buf_putc(&b, '}');
    mp_json *doc = mp_json_parse(b.p, b.n, NULL);
    mp_buf_free(&b);
    return doc;
}

static void check_combo(mp_sim *s, mp_buf *errs, const char *input, const mp_json *def, const mp_json *v) {
    const mp_json *list = mp_json_type(type_of(def)) == MP_JSON_ARRAY ? type_of(def) : mp_json_get(options_of(def), "options");
    if (!list || s->o.any_node || mp_json_true(mp_json_get(options_of(def), "multiselect"))) return;
    if (list != type_of(def) && !s->v->missing_node_type) return;        /* new-style combos: checked since 0.8.0 */
    mp_buf have = { 0 }, want = { 0 }, details = { 0 }, extra = { 0 };
    mp_json_write(&want, v);
    for (const mp_json *c = mp_json_first(list); c; c = mp_json_next(c)) {
        mp_buf_clear(&have);
        mp_json_write(&have, c);
        if (mp_str_eq(mp_buf_view(&have), mp_buf_view(&want))) goto found;
    }
    size_t n = mp_json_count(list);
    mp_buf_printf(&details, "%s: '", input);
    python(&details, v);
    mp_buf_puts(&details, "' not in ");
    if (n > 20) {
        mp_buf_printf(&details, "(list of length %zu)", n);
        mp_buf_puts(&extra, ", \"input_config\": null");
    } else {
        mp_buf_puts(&details, "[");
        for (const mp_json *c = mp_json_first(list); c; c = mp_json_next(c)) {
            mp_buf_puts(&details, c == mp_json_first(list) ? (mp_json_string(c) ? "'" : "") : (mp_json_string(c) ? ", '" : ", "));
            python(&details, c);
            if (mp_json_string(c)) mp_buf_puts(&details, "'");
        }
        mp_buf_puts(&details, "]");
        config(&extra, def);
    }
    value_member(&extra, "received_value", v);
    error(errs, "value_not_in_list", "Value not in list", details.p, input, &extra);
found:
    mp_buf_free(&have);
    mp_buf_free(&want);
    mp_buf_free(&details);
}

static void exception(mp_buf *errs, int inner, const char *details, const char *kind, const char *input, const mp_json *def, const mp_json *link);

static void check_literal(mp_sim *s, mp_buf *errs, const char *class_type, const char *input, const mp_json *def, const mp_json *v) {
    const char *type = mp_json_string(type_of(def));
    int integer = type && strcmp(type, "INT") == 0;
    if (strcmp(class_type, "LoadImage") == 0 && strcmp(input, "image") == 0) {       /* its own validator looks for the file */
        const char *name = mp_json_string(v);
        if (s->o.any_node || (name && file_find(s, "input", "", name))) return;
        char *details = mp_format("%s - Invalid image file: %s", input, name ? name : "");
        error(errs, "custom_validation_failed", "Custom validation failed for node", details, input, NULL);
        free(details);
        return;
    }
    if (strcmp(class_type, "RecCheck") == 0 && strcmp(input, "text") == 0) {         /* the recording pack's own validator */
        const char *word = mp_json_string(v);
        if (word && strcmp(word, "raise") == 0) exception(errs, 0, "the validation itself broke", "ValueError", input, def, v);
        if (!word || strcmp(word, "bad") != 0) return;
        error(errs, "custom_validation_failed", "Custom validation failed for node", "text - text must be 'ok', not 'bad'", input, NULL);
        return;
    }
    if (integer || (type && strcmp(type, "FLOAT") == 0)) {
        mp_buf why = { 0 };
        long double x;
        if (to_number(v, integer, &x, &why)) check_range(errs, input, def, x, integer);
        else {
            mp_buf details = { 0 }, extra = { 0 };
            char *message = mp_format("Failed to convert an input value to a %s value", type);
            mp_buf_printf(&details, "%s, ", input);
            python(&details, v);
            mp_buf_printf(&details, ", %s", why.p);
            config(&extra, def);
            value_member(&extra, "received_value", v);
            mp_buf_puts(&extra, ", ");
            text(&extra, "exception_message", why.p);
            error(errs, "invalid_input_type", message, details.p, input, &extra);
            mp_buf_free(&details);
            free(message);
        }
        mp_buf_free(&why);
        return;
    }
    if (mp_json_type(type_of(def)) == MP_JSON_ARRAY || (type && strcmp(type, "COMBO") == 0)) check_combo(s, errs, input, def, v);
}

static size_t one_type(const char **list) {          /* the next of "A,B"; 0: there is no more */
    *list += strspn(*list, ", ");
    return strcspn(*list, ", ");
}

/* Types that may be linked (protocol 2.10): equal, unions with one in common (since 0.3.7), a star, or a combo list into COMBO. */
static int fits(const mp_sim *s, const char *got, const char *want) {
    size_t n, k;
    if (strcmp(got, want) == 0 || strcmp(got, "*") == 0 || strcmp(want, "*") == 0) return 1;
    for (const char *g = got; s->v->unions && (n = one_type(&g)) > 0; g += n)
        for (const char *w = want; (k = one_type(&w)) > 0; w += k)
            if (n == k && strncmp(g, w, n) == 0) return 1;
    return 0;
}

static int judge_node(judge *g, const char *id);

static void exception(mp_buf *errs, int inner, const char *details, const char *kind, const char *input, const mp_json *def, const mp_json *link) {
    mp_buf extra = { 0 };
    if (inner) {
        config(&extra, def);
        mp_buf_puts(&extra, ", ");
        text(&extra, "exception_message", details);
        mp_buf_puts(&extra, ", ");
    }
    text(&extra, "exception_type", kind);
    mp_buf_puts(&extra, ", \"traceback\": [\"  File \\\"execution.py\\\", in validate_inputs\\n\"]");
    if (inner) value_member(&extra, "linked_node", link);
    error(errs, inner ? "exception_during_inner_validation" : "exception_during_validation",
          inner ? "Exception when validating inner node" : "Exception when validating node", details, inner ? input : NULL, &extra);
}

/* 1: fine; 0: an error was added; -1: it raised (the caller reports), words in `raised`. */
static int check_link(judge *g, mp_buf *errs, const char *input, const mp_json *def, const mp_json *v, char **raised, const char **kind) {
    const mp_json *to = mp_json_first(v), *at_slot = mp_json_next(to);
    const char *id = mp_json_string(to), *want = mp_json_string(type_of(def));
    const mp_json *at = id ? mp_json_get(g->prompt, id) : NULL;
    char tmp[40];
    *kind = "KeyError";
    if (!id) { *raised = mp_strdup(mp_json_literal(to, tmp)); return -1; }
    if (!at) { *raised = mp_format("'%s'", id); return -1; }
    const char *class_type = mp_json_string(mp_json_get(at, "class_type"));
    const mp_json *made = mp_json_get(class_def(g->s, class_type), "output");
    if (class_def(g->s, class_type)) {
        const mp_json *out = mp_json_at(made, (size_t)mp_json_number(at_slot, 1e9));
        *kind = mp_json_type(at_slot) == MP_JSON_NUMBER ? "IndexError" : "TypeError";
        if (!out) { *raised = mp_strdup(mp_json_type(at_slot) == MP_JSON_NUMBER ? "tuple index out of range" : "tuple indices must be integers or slices, not str"); return -1; }
        const char *got = mp_json_string(out) ? mp_json_string(out) : "COMBO";
        if (want && !fits(g->s, got, want)) {
            mp_buf extra = { 0 };
            char *details = g->s->v->unions ? mp_format("%s, received_type(%s) mismatch input_type(%s)", input, got, want) : mp_format("%s, %s != %s", input, got, want);
            config(&extra, def);
            mp_buf_puts(&extra, ", ");
            text(&extra, "received_type", got);
            value_member(&extra, "linked_node", v);
            error(errs, "return_type_mismatch", "Return type mismatch between linked nodes", details, input, &extra);
            free(details);
            return 0;
        }
    }
    const mp_json *outer = g->link, *outer_def = g->link_def;
    g->link = v;                                     /* by which input the node is reached: a fault of it names that */
    g->link_def = def;
    int good = judge_node(g, id);
    g->link = outer;
    g->link_def = outer_def;
    return good;
}

static void check_input(judge *g, mp_buf *errs, const char *id, const char *class_type, const mp_json *def, int required, int *good) {
    const char *input = mp_json_name(def);
    const mp_json *inputs = mp_json_get(mp_json_get(g->prompt, id), "inputs"), *v = mp_json_get(inputs, input);
    size_t before = errs->n;
    int wrapped = g->s->v->empty_object && mp_json_get(v, "__value__") != NULL;      /* a literal, whatever it looks like */
    if (wrapped) v = mp_json_get(v, "__value__");
    if (!v) {
        if (required) error(errs, "required_input_missing", "Required input is missing", input, input, NULL);
    } else if (mp_json_type(v) == MP_JSON_ARRAY && !wrapped) {
        if (mp_json_count(v) != 2) {
            mp_buf extra = { 0 };
            config(&extra, def);
            value_member(&extra, "received_value", v);
            error(errs, "bad_linked_input", "Bad linked input, must be a length-2 list of [node_id, slot_index]", input, input, &extra);
        } else {
            char *raised = NULL;
            const char *kind;
            int rc = check_link(g, errs, input, def, v, &raised, &kind);
            if (rc == -1) exception(errs, 0, raised, kind, input, def, v);
            if (rc != 1) *good = 0;
            free(raised);
        }
    } else check_literal(g->s, errs, class_type, input, def, v);
    if (errs->n > before) *good = 0;
}

/* After an output failed: it depends on every node found faulty so far, as the real server has it. */
static void add_dependents(judge *g, const char *output) {
    for (verdict *v = g->seen; v; v = v->hh.next) {
        if (!v->errors) continue;
        if (v->dependents.n) mp_buf_puts(&v->dependents, ", ");
        mp_buf_json(&v->dependents, mp_str_of(output));
    }
}

static void write_errors(judge *g) {
    for (verdict *v = g->seen; v; v = v->hh.next) {
        if (!v->errors) continue;
        if (g->errors.n) mp_buf_puts(&g->errors, ", ");
        mp_buf_json(&g->errors, mp_str_of(v->id));
        mp_buf_printf(&g->errors, ": {\"errors\": [%s], \"dependent_outputs\": [%s], \"class_type\": ", v->errors, v->dependents.p ? v->dependents.p : "");
        mp_buf_json(&g->errors, mp_str_of(v->class_type));
        mp_buf_puts(&g->errors, "}");
    }
}

typedef struct { const mp_json *def; int required; uint64_t order; } wanted;

static int by_order(const void *a, const void *b) {
    const wanted *x = a, *y = b;
    return x->order < y->order ? -1 : x->order > y->order;
}

/* In the order of the catalogue, or in one that each server process draws for itself (protocol 2.1: a Python set). */
static wanted *inputs_of(const mp_sim *s, const mp_json *required, const mp_json *optional, size_t *count) {
    size_t n = 0;
    wanted *list = mp_alloc((mp_json_count(required) + mp_json_count(optional) + 1) * sizeof *list);
    for (int i = 0; i < 2; i++)
        for (const mp_json *d = mp_json_first(i ? optional : required); d; d = mp_json_next(d), n++) {
            list[n] = (wanted){ d, !i, s->letters * 0x9e3779b97f4a7c15u };
            for (const char *p = mp_json_name(d); s->o.random_errors && *p; p++) list[n].order = (list[n].order ^ (unsigned char)*p) * 1099511628211u;
        }
    if (s->o.random_errors) qsort(list, n, sizeof *list, by_order);
    *count = n;
    return list;
}

/* What Python says to `name in inputs` and `inputs[name]` where the inputs are no object; NULL: nothing, and they have none of these. */
static const char *unreadable(const mp_json *inputs, const wanted *list, size_t n) {
    const char *z = mp_json_string(inputs);
    char tmp[40];
    switch (n ? mp_json_type(inputs) : MP_JSON_OBJECT) {
    case MP_JSON_NULL: return "argument of type 'NoneType' is not iterable";
    case MP_JSON_BOOL: return "argument of type 'bool' is not iterable";
    case MP_JSON_NUMBER: return strpbrk(mp_json_literal(inputs, tmp), ".eENI") ? "argument of type 'float' is not iterable" : "argument of type 'int' is not iterable";
    case MP_JSON_STRING:
        for (size_t i = 0; i < n; i++)
            if (strstr(z, mp_json_name(list[i].def))) return "string indices must be integers, not 'str'";
        return NULL;
    case MP_JSON_ARRAY:
        for (const mp_json *x = mp_json_first(inputs); x; x = mp_json_next(x))
            for (size_t i = 0; mp_json_string(x) && i < n; i++)
                if (strcmp(mp_json_string(x), mp_json_name(list[i].def)) == 0) return "list indices must be integers or slices, not str";
        return NULL;
    default: return NULL;
    }
}

/* Any node: its links must still lead somewhere. */
static void judge_links(judge *g, mp_buf *errs, const mp_json *inputs, int *good) {
    for (const mp_json *i = mp_json_first(inputs); i; i = mp_json_next(i)) {
        char *raised = NULL;
        const char *kind;
        if (mp_json_type(i) != MP_JSON_ARRAY || mp_json_count(i) != 2) continue;
        mp_json *any = mp_json_parse("[\"*\"]", 5, NULL);
        int rc = check_link(g, errs, mp_json_name(i), any, i, &raised, &kind);
        if (rc == -1) exception(errs, 0, raised, kind, mp_json_name(i), any, i);
        if (rc != 1) *good = 0;
        free(raised);
        mp_json_free(any);
    }
}

static int judge_node(judge *g, const char *id) {
    verdict *v;
    HASH_FIND_STR(g->seen, id, v);
    if (v) {
        if (v->state == 1) g->cycle = 1;
        return v->state == 1 ? 0 : v->good;
    }
    v = mp_alloc(sizeof *v);
    v->id = id;
    v->state = 1;
    v->good = 1;
    HASH_ADD_KEYPTR(hh, g->seen, v->id, strlen(v->id), v);
    const mp_json *n = mp_json_get(g->prompt, id), *inputs = mp_json_get(n, "inputs");
    const char *class_type = mp_json_string(mp_json_get(n, "class_type"));
    const mp_json *def = class_def(g->s, class_type), *input = mp_json_get(def, "input");
    size_t k;
    wanted *list = inputs_of(g->s, mp_json_get(input, "required"), mp_json_get(input, "optional"), &k);
    const char *words = inputs ? unreadable(inputs, list, k) : "'inputs'";
    mp_buf errs = { 0 };
    v->class_type = class_type;
    if (words) {
        exception(&errs, g->link != NULL, words, inputs ? "TypeError" : "KeyError", g->link ? mp_json_name(g->link) : NULL, g->link_def, g->link);
        v->good = 0;
    }
    for (size_t i = 0; !words && i < k; i++) check_input(g, &errs, id, class_type, list[i].def, list[i].required, &v->good);
    if (!def && mp_json_type(inputs) == MP_JSON_OBJECT) judge_links(g, &errs, inputs, &v->good);
    free(list);
    if (errs.n) v->errors = mp_buf_take(&errs, NULL);
    mp_buf_free(&errs);
    v->state = 2;
    return v->good;
}

static void top_error(mp_buf *b, const char *type, const char *message, const char *details, const char *extra) {
    mp_buf_puts(b, "{");
    text(b, "type", type);
    mp_buf_puts(b, ", ");
    text(b, "message", message);
    mp_buf_puts(b, ", ");
    text(b, "details", details);
    mp_buf_printf(b, ", \"extra_info\": %s}", extra);
}

/* Every node of the prompt must have a class that is there; also those that lead nowhere. */
static int classes_known(mp_sim *s, const mp_json *prompt, mp_buf *err) {
    for (const mp_json *n = mp_json_first(prompt); n; n = mp_json_next(n)) {
        const char *c = mp_json_string(mp_json_get(n, "class_type")), *title = mp_json_string(mp_json_get(mp_json_get(n, "_meta"), "title"));
        if (c && (class_def(s, c) || s->o.any_node)) continue;
        char *details = mp_format("Node ID '#%s'", mp_json_name(n)), *words;
        mp_buf extra = { 0 };
        if (!s->v->missing_node_type) {
            words = c ? mp_format("Cannot execute because node %s does not exist.", c) : mp_strdup("Cannot execute because a node is missing the class_type property.");
            mp_buf_puts(&extra, "{}");
        } else {
            words = c ? mp_format("Node '%s' not found. The custom node may not be installed.", title ? title : c)
                      : mp_format("Node 'ID #%s' has no class_type. The workflow may be corrupted or a custom node is missing.", mp_json_name(n));
            mp_buf_puts(&extra, "{");
            text(&extra, "node_id", mp_json_name(n));
            mp_buf_puts(&extra, ", \"class_type\": ");
            if (c) mp_buf_json(&extra, mp_str_of(c)); else mp_buf_puts(&extra, "null");
            mp_buf_puts(&extra, ", \"node_title\": ");
            if (c) mp_buf_json(&extra, mp_str_of(title ? title : c)); else mp_buf_puts(&extra, "null");
            mp_buf_puts(&extra, "}");
        }
        top_error(err, s->v->missing_node_type ? "missing_node_type" : "invalid_prompt", words, details, extra.p);
        mp_buf_free(&extra);
        free(words);
        free(details);
        return 0;
    }
    return 1;
}

/* "message: details" of the errors attached directly to output nodes. */
static void output_details(const judge *g, const mp_json *bad_outputs, mp_buf *out) {
    char *all = mp_format("{%s}", g->errors.p ? g->errors.p : "");
    mp_json *doc = mp_json_parse(all, strlen(all), NULL);
    for (const mp_json *o = mp_json_first(bad_outputs); o; o = mp_json_next(o))
        for (const mp_json *e = mp_json_first(mp_json_get(mp_json_get(doc, mp_json_string(o)), "errors")); e; e = mp_json_next(e))
            mp_buf_printf(out, "%s%s: %s", out->n ? "\n" : "", mp_json_string(mp_json_get(e, "message")), mp_json_string(mp_json_get(e, "details")));
    mp_json_free(doc);
    free(all);
}

static int targeted(const mp_json *targets, const char *id) {
    for (const mp_json *t = mp_json_first(targets); t; t = mp_json_next(t))
        if (mp_json_string(t) && strcmp(mp_json_string(t), id) == 0) return 1;
    return 0;
}

int validate(mp_sim *s, const mp_json *prompt, char ***outputs, size_t *n_outputs, mp_buf *node_errors, mp_buf *err) {
    judge g = { .s = s, .prompt = prompt };
    mp_buf bad = { 0 }, details = { 0 };
    size_t any = 0;
    *outputs = NULL;
    *n_outputs = 0;
    if (!classes_known(s, prompt, err)) return 0;
    for (const mp_json *n = mp_json_first(prompt); n; n = mp_json_next(n)) {
        if (!is_output_class(s, prompt, mp_json_name(n), mp_json_string(mp_json_get(n, "class_type")))) continue;
        if (s->targets && !targeted(s->targets, mp_json_name(n))) continue;
        any++;
        if (judge_node(&g, mp_json_name(n))) {
            *outputs = mp_realloc(*outputs, (*n_outputs + 1) * sizeof **outputs);
            (*outputs)[(*n_outputs)++] = mp_strdup(mp_json_name(n));
        } else {
            add_dependents(&g, mp_json_name(n));
            mp_buf_puts(&bad, bad.n ? "," : "[");
            mp_buf_json(&bad, mp_str_of(mp_json_name(n)));
        }
    }
    write_errors(&g);
    if (bad.n) mp_buf_puts(&bad, "]");
    mp_buf_puts(node_errors, "{");
    if (!g.cycle || *n_outputs) mp_buf_str(node_errors, mp_buf_view(&g.errors));
    mp_buf_puts(node_errors, "}");
    if (!any) top_error(err, "prompt_no_outputs", "Prompt has no outputs", "", "{}");
    else if (!*n_outputs) {
        mp_json *list = mp_json_parse(bad.p, bad.n, NULL);
        if (!g.cycle) output_details(&g, list, &details);
        top_error(err, "prompt_outputs_failed_validation", "Prompt outputs failed validation", details.p ? details.p : "", "{}");
        mp_json_free(list);
    }
    verdict *v, *next;
    HASH_ITER(hh, g.seen, v, next) {
        HASH_DEL(g.seen, v);
        free(v->errors);
        mp_buf_free(&v->dependents);
        free(v);
    }
    mp_buf_free(&g.errors);
    mp_buf_free(&bad);
    mp_buf_free(&details);
    return *n_outputs > 0;
}
