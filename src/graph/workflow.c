/* graph/workflow.c -- floor 2, graph: a workflow in the API format as a value.
 * The base keeps the whole canonical text and, for every input, the place of its value in it. Writing a
 * changed workflow copies the text and puts the changed values in their places; no tree is printed. */
#include "graph/workflow.h"
#include "graph/bypass.h"
#include "graph/check.h"
#include "graph/hash.h"
#include "graph/png.h"
#include "base/scan.h"
#include "base/slab.h"
#include <stdlib.h>
#include <uthash.h>

typedef struct { const char *id; uint32_t index; UT_hash_handle hh; } node_index;
typedef struct { uint32_t node; int32_t at; int open; mp_str input; } seed_input;      /* at: which of its inputs; open: -1 as submitted */

typedef struct {
    size_t refs;
    char *text;
    size_t n_text;
    mp_slab overlays;                                /* where the workflows of this base stand */
    mp_node *nodes;
    size_t n_nodes;
    size_t *inputs_end;                              /* per node: where the closing brace of its inputs is */
    char *names;                                     /* ids, classes, titles, input names: one block of zero-ended words */
    node_index *index_items, *index;
    seed_input *seeds;
    size_t n_seeds;
    int streams;                                     /* has a SaveImageWebsocket */
    char hash[MP_DIGEST_HEX];
} base_t;

/* A changed input: `n` bytes at `at` of the overlay's text stand for `old` bytes at `place` of the base's. An input that the base does
 * not have (input -1) brings its name, which follows its value. */
typedef struct { uint32_t node; int32_t input; uint32_t at, n, n_name, place, old; } change;
typedef struct { char *alias, *id; } output;
typedef struct { int32_t node; char *input; mp_file *file; } attachment;

struct mp_workflow {
    uint32_t refs;
    uint16_t n_changes, n_outputs, n_attachments, n_bypassed;
    uint32_t n_text;
    base_t *base;
    change *changes;                                 /* by place, and their text behind them in the same block: `room`, or when it is too
                                                        small one of exact size. Jobs hold these by the hundred thousand: what is cold
                                                        is read line by line */
    output *outputs;
    attachment *attachments;
    mp_bypass *bypassed;
    char *hash;                                      /* NULL: not known yet, or the base's (see same_hash) */
    uint32_t n_open;                                 /* seeds that are -1 */
    uint8_t same_hash;                               /* no change so far matters to the hash */
    uint8_t alone;                                   /* the first of its base: many bases never have another, and need no block */
    change room[4];
};

/* ---- building a base ---------------------------------------------------------------------------- */

static char *word(char **at, const char *z) {
    size_t n = strlen(z) + 1;
    char *to = memcpy(*at, z, n);
    *at += n;
    return to;
}

static size_t names_size(const mp_json *root) {
    size_t n = 0;
    for (const mp_json *c = mp_json_first(root); c; c = mp_json_next(c)) {
        const char *title = mp_json_string(mp_json_get(mp_json_get(c, "_meta"), "title"));
        n += strlen(mp_json_name(c)) + strlen(mp_json_string(mp_json_get(c, "class_type"))) + 3 + (title ? strlen(title) : 0);
        for (const mp_json *i = mp_json_first(mp_json_get(c, "inputs")); i; i = mp_json_next(i)) n += strlen(mp_json_name(i)) + 1;
    }
    return n;
}

static int is_seed(mp_str input) { return mp_str_is(input, "seed") || mp_str_is(input, "noise_seed"); }

/* Offsets go into .p while the text still moves; fixed up to pointers by the caller. */
static mp_str span(size_t from, size_t to) { return mp_str_make((const char *)(uintptr_t)from, to - from); }

static void add_node(base_t *b, mp_buf *t, char **names, const mp_json *c, size_t k) {
    mp_node *n = &b->nodes[k];
    const mp_json *meta = mp_json_get(c, "_meta"), *inputs = mp_json_get(c, "inputs");
    const char *title = mp_json_string(mp_json_get(meta, "title"));
    n->id = word(names, mp_json_name(c));
    n->class_type = word(names, mp_json_string(mp_json_get(c, "class_type")));
    n->title = title ? word(names, title) : NULL;
    n->n_inputs = mp_json_count(inputs);
    n->inputs = mp_alloc(n->n_inputs * sizeof *n->inputs);
    if (k) mp_buf_putc(t, ',');
    mp_buf_json(t, mp_str_of(n->id));
    mp_buf_puts(t, ":{\"class_type\":");
    mp_buf_json(t, mp_str_of(n->class_type));
    mp_buf_puts(t, ",\"inputs\":{");
    b->streams |= strcmp(n->class_type, "SaveImageWebsocket") == 0;
    size_t i = 0;
    for (const mp_json *v = mp_json_first(inputs); v; v = mp_json_next(v), i++) {
        mp_input *in = &n->inputs[i];
        in->name = mp_str_of(word(names, mp_json_name(v)));
        if (i) mp_buf_putc(t, ',');
        mp_buf_json(t, in->name);
        mp_buf_putc(t, ':');
        size_t from = t->n;
        mp_json_write(t, v);
        in->value = span(from, t->n);
        in->is_link = mp_json_type(v) == MP_JSON_ARRAY && mp_json_count(v) == 2;
        if (is_seed(in->name)) {
            b->seeds = mp_realloc(b->seeds, (b->n_seeds + 1) * sizeof *b->seeds);
            b->seeds[b->n_seeds++] = (seed_input){ (uint32_t)k, (int32_t)(in - n->inputs), mp_str_is(mp_str_make(t->p + from, t->n - from), "-1"), in->name };
        }
    }
    b->inputs_end[k] = t->n;
    mp_buf_putc(t, '}');
    if (mp_json_type(meta) == MP_JSON_OBJECT) {
        mp_buf_puts(t, ",\"_meta\":");
        size_t from = t->n;
        mp_json_write(t, meta);
        n->meta = span(from, t->n);
    }
    mp_buf_putc(t, '}');
}

static void fix_links(base_t *b, const mp_json *root) {
    const mp_json *c = mp_json_first(root);
    for (size_t k = 0; k < b->n_nodes; k++, c = mp_json_next(c)) {
        mp_node *n = &b->nodes[k];
        n->meta.p = n->meta.n ? b->text + (uintptr_t)n->meta.p : NULL;
        const mp_json *v = mp_json_first(mp_json_get(c, "inputs"));
        for (size_t i = 0; i < n->n_inputs; i++, v = mp_json_next(v)) {
            n->inputs[i].value.p = b->text + (uintptr_t)n->inputs[i].value.p;
            if (!n->inputs[i].is_link) continue;
            node_index *to;
            HASH_FIND_STR(b->index, mp_json_string(mp_json_first(v)), to);
            n->inputs[i].link = to->index;
        }
    }
}

static base_t *base_new(const mp_json *root) {
    base_t *b = mp_alloc(sizeof *b);
    mp_buf t = { 0 };
    size_t k = 0;
    b->refs = 1;
    mp_slab_init(&b->overlays, sizeof(mp_workflow), 4096);
    b->n_nodes = mp_json_count(root);
    b->nodes = mp_alloc(b->n_nodes * sizeof *b->nodes);
    b->inputs_end = mp_alloc(b->n_nodes * sizeof *b->inputs_end);
    b->index_items = mp_alloc(b->n_nodes * sizeof *b->index_items);
    char *names = b->names = mp_alloc(names_size(root));
    mp_buf_putc(&t, '{');
    for (const mp_json *c = mp_json_first(root); c; c = mp_json_next(c), k++) {
        add_node(b, &t, &names, c, k);
        node_index *x = &b->index_items[k];
        x->id = b->nodes[k].id;
        x->index = (uint32_t)k;
        HASH_ADD_KEYPTR(hh, b->index, x->id, strlen(x->id), x);
    }
    mp_buf_putc(&t, '}');
    b->text = mp_buf_take(&t, &b->n_text);
    fix_links(b, root);
    mp_graph_hash(root, b->hash);
    return b;
}

static void base_unref(base_t *b) {
    if (--b->refs) return;
    mp_slab_close(&b->overlays);
    for (size_t i = 0; i < b->n_nodes; i++) free(b->nodes[i].inputs);
    HASH_CLEAR(hh, b->index);
    free(b->nodes);
    free(b->inputs_end);
    free(b->index_items);
    free(b->names);
    free(b->seeds);
    free(b->text);
    free(b);
}

/* ---- making and sharing -------------------------------------------------------------------------- */

mp_workflow *mp_workflow_parse(const char *p, size_t n, mp_err *e) {
    if (n > MP_WORKFLOW_BYTES) return mp_fail(e, MP_ELIMIT, "a workflow of %zu bytes is over the limit of %u", n, MP_WORKFLOW_BYTES), NULL;
    mp_json *root = mp_json_parse(p, n, e);
    mp_workflow *w = NULL;
    if (root && mp_graph_check(root, e) == 0) {
        base_t *b = base_new(root);
        w = mp_alloc(sizeof *w);
        w->alone = 1;
        w->refs = 1;
        w->same_hash = 1;
        w->base = b;
        for (size_t i = 0; i < w->base->n_seeds; i++) w->n_open += w->base->seeds[i].open != 0;
    }
    mp_json_free(root);
    return w;
}

mp_workflow *mp_workflow_from_file(const char *bytes, size_t n, mp_err *e) {
    mp_str text;
    if (!mp_png_is(bytes, n)) return mp_workflow_parse(bytes, n, e);
    if (mp_png_text(bytes, n, "prompt", &text)) return mp_workflow_parse(text.p, text.n, e);
    if (mp_png_text(bytes, n, "workflow", &text))
        mp_fail(e, MP_EINVAL, "this picture holds a workflow in the UI format only (chunk \"workflow\"), not the prompt that made it");
    else mp_fail(e, MP_EINVAL, "this picture holds no workflow: it has no text chunk \"prompt\"");
    return NULL;
}

mp_workflow *mp_workflow_ref(mp_workflow *w) { w->refs++; return w; }

void mp_workflow_unref(mp_workflow *w) {
    if (!w || --w->refs) return;
    for (size_t i = 0; i < w->n_outputs; i++) {
        free(w->outputs[i].alias);
        free(w->outputs[i].id);
    }
    for (size_t i = 0; i < w->n_attachments; i++) {
        free(w->attachments[i].input);
        mp_file_unref(w->attachments[i].file);
    }
    if (w->changes != w->room) free(w->changes);
    free(w->outputs);
    for (size_t i = 0; i < w->n_bypassed; i++) {
        free(w->bypassed[i].id);
        free(w->bypassed[i].info);
    }
    free(w->attachments);
    free(w->bypassed);
    free(w->hash);
    base_t *b = w->base;
    if (w->alone) free(w);
    else mp_slab_give(&b->overlays, w);
    base_unref(b);
}

static size_t block_size(const mp_workflow *w) { return w->n_changes * sizeof *w->changes + w->n_text; }
/* Its block, with room for so many bytes; what was in it still is. */
static change *changes_for(mp_workflow *w, size_t n) {
    change *old = w->changes;
    if (n <= sizeof w->room && (!old || old == w->room)) return w->changes = w->room;
    w->changes = mp_realloc(old == w->room ? NULL : old, n);
    if (old == w->room) memcpy(w->changes, old, block_size(w) < n ? block_size(w) : n);
    return w->changes;
}

static char *text_of(const mp_workflow *w) { return (char *)(w->changes + w->n_changes); }
static mp_str value_of(const mp_workflow *w, const change *c) { return mp_str_make(text_of(w) + c->at, c->n); }
static mp_str name_of(const mp_workflow *w, const change *c) { return mp_str_make(text_of(w) + c->at + c->n, c->n_name); }

mp_workflow *mp_workflow_clone(const mp_workflow *w) {
    mp_workflow *c = mp_slab_take(&w->base->overlays);
    memcpy(c, w, offsetof(mp_workflow, room));
    c->alone = 0;
    c->refs = 1;
    c->base->refs++;
    c->hash = mp_strdup(w->hash);
    c->changes = NULL;
    if (w->n_changes) memcpy(changes_for(c, block_size(w)), w->changes, block_size(w));
    c->outputs = w->n_outputs ? mp_alloc(w->n_outputs * sizeof *c->outputs) : NULL;
    for (size_t i = 0; i < w->n_outputs; i++) c->outputs[i] = (output){ mp_strdup(w->outputs[i].alias), mp_strdup(w->outputs[i].id) };
    c->bypassed = w->n_bypassed ? mp_alloc(w->n_bypassed * sizeof *c->bypassed) : NULL;
    for (size_t i = 0; i < w->n_bypassed; i++) c->bypassed[i] = (mp_bypass){ mp_strdup(w->bypassed[i].id), mp_strdup(w->bypassed[i].info) };
    c->attachments = w->n_attachments ? mp_alloc(w->n_attachments * sizeof *c->attachments) : NULL;
    for (size_t i = 0; i < w->n_attachments; i++) c->attachments[i] = (attachment){ w->attachments[i].node, mp_strdup(w->attachments[i].input), mp_file_ref(w->attachments[i].file) };
    return c;
}

mp_workflow *mp_workflow_own(mp_workflow *w) {
    if (w->refs == 1) return w;
    mp_workflow *c = mp_workflow_clone(w);
    mp_workflow_unref(w);
    return c;
}

/* ---- nodes and inputs ---------------------------------------------------------------------------- */

size_t mp_workflow_count(const mp_workflow *w) { return w->base->n_nodes; }
const mp_node *mp_workflow_node(const mp_workflow *w, size_t i) { return &w->base->nodes[i]; }

long mp_workflow_index(const mp_workflow *w, mp_str id) {
    node_index *x;
    HASH_FIND(hh, w->base->index, id.p, id.n, x);
    return x ? (long)x->index : -1;
}

static int32_t input_index(const mp_node *n, mp_str name) {
    for (size_t i = 0; i < n->n_inputs; i++)
        if (mp_str_eq(n->inputs[i].name, name)) return (int32_t)i;
    return -1;
}

static change *changed(const mp_workflow *w, uint32_t node, int32_t input, mp_str name) {
    for (size_t i = 0; i < w->n_changes; i++) {
        change *c = &w->changes[i];
        if (c->node == node && c->input == input && (input >= 0 || mp_str_eq(name, name_of(w, c)))) return c;
    }
    return NULL;
}

int mp_workflow_get(const mp_workflow *w, size_t node, mp_str input, mp_str *json) {
    const mp_node *n = &w->base->nodes[node];
    int32_t i = input_index(n, input);
    change *c = changed(w, (uint32_t)node, i, input);
    if (!c && i < 0) return 0;
    *json = c ? value_of(w, c) : n->inputs[i].value;
    return 1;
}

int mp_workflow_input_at(const mp_workflow *w, size_t node, size_t i, mp_str *name, mp_str *json) {
    const mp_node *n = &w->base->nodes[node];
    if (i < n->n_inputs) {
        *name = n->inputs[i].name;
        return mp_workflow_get(w, node, *name, json);
    }
    i -= n->n_inputs;
    for (size_t k = 0; k < w->n_changes; k++) {
        change *c = &w->changes[k];
        if (c->node != node || c->input >= 0 || i-- > 0) continue;
        *name = name_of(w, c);
        *json = value_of(w, c);
        return 1;
    }
    return 0;
}

static int canonical_equal(mp_str a, const mp_json *b) {
    mp_buf x = { 0 }, y = { 0 };
    mp_json *ja = mp_json_parse(a.p, a.n, NULL);
    mp_graph_canonical(&x, ja);
    mp_graph_canonical(&y, b);
    int same = mp_str_eq(mp_buf_view(&x), mp_buf_view(&y));
    mp_buf_free(&x);
    mp_buf_free(&y);
    mp_json_free(ja);
    return same;
}

static int check_value(const mp_workflow *w, mp_str node, mp_str input, const mp_json *v, mp_err *e) {
    if (mp_json_type(v) != MP_JSON_ARRAY || mp_json_count(v) != 2) return 0;
    const char *to = mp_json_string(mp_json_first(v));
    if (!to) return mp_fail(e, MP_EINVAL, "node \"%.*s\": input \"%.*s\": a list of two is a link, and a link names its node by a string; wrap a literal list as {\"__value__\": [...]}", (int)node.n, node.p, (int)input.n, input.p);
    double slot = mp_json_number(mp_json_next(mp_json_first(v)), -1);
    if (slot < 0 || slot > 1e6 || slot != (double)(long)slot)
        return mp_fail(e, MP_EINVAL, "node \"%.*s\": input \"%.*s\": the slot of its link is no whole number from 0", (int)node.n, node.p, (int)input.n, input.p);
    if (mp_workflow_index(w, mp_str_of(to)) < 0)
        return mp_fail(e, MP_EINVAL, "node \"%.*s\": input \"%.*s\" links to node \"%s\", which does not exist", (int)node.n, node.p, (int)input.n, input.p, to);
    if (mp_str_is(node, to)) return mp_fail(e, MP_EINVAL, "node \"%s\": input \"%.*s\" links to node \"%s\", which is itself", to, (int)input.n, input.p, to);
    return 0;
}

static void hash_is_open(mp_workflow *w) {
    w->same_hash = 0;
    free(w->hash);
    w->hash = NULL;
}

static void drop_change(mp_workflow *w, change *c) {
    char *text = text_of(w);
    uint32_t from = c->at, n = c->n + c->n_name;
    memmove(text + from, text + from + n, w->n_text - from - n);
    w->n_text -= n;
    for (size_t i = 0; i < w->n_changes; i++)
        if (w->changes[i].at > from) w->changes[i].at -= n;
    memmove(c, c + 1, (size_t)((char *)text + w->n_text - (char *)(c + 1)));
    w->n_changes--;
}

/* As change number `i`. `text`: the value, and behind it the name of an input that the base does not have. */
static void insert_change(mp_workflow *w, size_t i, change c, mp_str text) {
    changes_for(w, block_size(w) + sizeof c + text.n);
    memmove(w->changes + i + 1, w->changes + i, block_size(w) - i * sizeof c);
    c.at = w->n_text;
    w->changes[i] = c;
    w->n_changes++;
    memcpy(text_of(w) + c.at, text.p, text.n);
    w->n_text += (uint32_t)text.n;
}

/* Among the changes by place; behind those of the same one, so that new inputs keep their order. */
static size_t rank_of(const mp_workflow *w, size_t place) {
    size_t i = w->n_changes;
    while (i && w->changes[i - 1].place > place) i--;
    return i;
}

int mp_workflow_set(mp_workflow *w, mp_str node, mp_str input, mp_str json, mp_err *e) {
    long at = mp_workflow_index(w, node);
    if (at < 0) return mp_fail(e, MP_EINVAL, "the workflow has no node \"%.*s\"", (int)node.n, node.p);
    mp_json *v = mp_json_parse(json.p, json.n, e);
    if (!v) return MP_EPARSE;
    mp_buf text = { 0 };
    int rc = check_value(w, node, input, v, e);
    if (rc == 0 && w->n_changes == UINT16_MAX) rc = mp_fail(e, MP_ELIMIT, "more than %d changed inputs", UINT16_MAX);
    if (rc == 0) mp_json_write(&text, v);
    if (rc == 0 && text.n + input.n > UINT32_MAX - block_size(w)) rc = mp_fail(e, MP_ELIMIT, "the changed inputs of one workflow have over %u bytes", UINT32_MAX);
    if (rc == 0) {
        mp_str old;
        const mp_node *n = &w->base->nodes[at];
        int32_t i = input_index(n, input);
        change *c = changed(w, (uint32_t)at, i, input), new = { .node = (uint32_t)at, .input = i, .n = (uint32_t)text.n };
        int known = mp_workflow_get(w, (size_t)at, input, &old);
        if (!known || !canonical_equal(old, v)) hash_is_open(w);
        if (is_seed(input)) w->n_open += (uint32_t)mp_str_is(mp_buf_view(&text), "-1") - (uint32_t)(known && mp_str_is(old, "-1"));
        if (i < 0) {
            new.place = (uint32_t)w->base->inputs_end[at];
            new.n_name = (uint32_t)input.n;
            mp_buf_str(&text, input);                /* which may be of the block that changes now */
        } else {
            new.place = (uint32_t)(n->inputs[i].value.p - w->base->text);
            new.old = (uint32_t)n->inputs[i].value.n;
        }
        size_t rank = c ? (size_t)(c - w->changes) : rank_of(w, new.place);
        if (c) drop_change(w, c);
        insert_change(w, rank, new, mp_buf_view(&text));
    }
    mp_buf_free(&text);
    mp_json_free(v);
    return rc;
}

/* ---- outputs -------------------------------------------------------------------------------------- */

int mp_workflow_output(mp_workflow *w, mp_str alias, mp_str id, mp_err *e) {
    if (mp_workflow_index(w, id) < 0) return mp_fail(e, MP_EINVAL, "the workflow has no node \"%.*s\" to name as output", (int)id.n, id.p);
    if (!alias.p) alias = id;
    for (size_t i = 0; i < w->n_outputs; i++)
        if (mp_str_is(alias, w->outputs[i].alias)) {
            free(w->outputs[i].id);
            w->outputs[i].id = mp_strndup(id.p, id.n);
            return 0;
        }
    w->outputs = mp_realloc(w->outputs, (w->n_outputs + 1u) * sizeof *w->outputs);
    w->outputs[w->n_outputs++] = (output){ mp_strndup(alias.p, alias.n), mp_strndup(id.p, id.n) };
    return 0;
}

size_t mp_workflow_outputs(const mp_workflow *w) { return w->n_outputs; }
void mp_workflow_output_at(const mp_workflow *w, size_t i, const char **alias, const char **id) {
    *alias = w->outputs[i].alias;
    *id = w->outputs[i].id;
}

/* ---- attachments ---------------------------------------------------------------------------------- */

int mp_workflow_attach(mp_workflow *w, mp_str node, mp_str input, mp_file *file, mp_err *e) {
    long at = node.n ? mp_workflow_index(w, node) : -1;
    if (node.n && at < 0) return mp_fail(e, MP_EINVAL, "the workflow has no node \"%.*s\" to attach a file to", (int)node.n, node.p);
    for (size_t i = 0; i < w->n_attachments; i++) {  /* one would replace the other on the server */
        const attachment *a = &w->attachments[i];
        int replaced = node.n && a->node == at && mp_str_is(input, a->input);
        if (!replaced && (a->file->overwrite || file->overwrite) && strcmp(a->file->key, file->key) != 0 && strcmp(a->file->name, file->name) == 0 &&
            strcmp(a->file->subfolder, file->subfolder) == 0 && strcmp(a->file->type, file->type) == 0)
            return mp_fail(e, MP_EINVAL, "two different files called \"%s\" for one workflow, and one would replace the other (override)", file->name);
    }
    for (size_t i = 0; node.n && i < w->n_attachments; i++) {        /* the newest stands */
        attachment *a = &w->attachments[i];
        if (a->node != at || !mp_str_is(input, a->input)) continue;
        mp_file_ref(file);
        mp_file_unref(a->file);
        a->file = file;
        return 0;
    }
    if (w->n_attachments == 1000) return mp_fail(e, MP_ELIMIT, "more than 1000 files for one workflow");
    w->attachments = mp_realloc(w->attachments, (w->n_attachments + 1u) * sizeof *w->attachments);
    w->attachments[w->n_attachments++] = (attachment){ (int32_t)at, mp_strndup(input.p, input.n), mp_file_ref(file) };
    return 0;
}

size_t mp_workflow_attachments(const mp_workflow *w) { return w->n_attachments; }

mp_file *mp_workflow_attachment(const mp_workflow *w, size_t i, long *node, const char **input) {
    *node = w->attachments[i].node;
    *input = w->attachments[i].input;
    return w->attachments[i].file;
}

/* ---- bypass ----------------------------------------------------------------------------------------- */

static long bypassed_at(const mp_workflow *w, mp_str id) {
    for (size_t i = 0; i < w->n_bypassed; i++)
        if (mp_str_is(id, w->bypassed[i].id)) return (long)i;
    return -1;
}

int mp_workflow_is_bypassed(const mp_workflow *w, mp_str id) { return bypassed_at(w, id) >= 0; }
size_t mp_workflow_bypassed(const mp_workflow *w) { return w->n_bypassed; }

int mp_workflow_bypass(mp_workflow *w, mp_str id, const char *info, mp_err *e) {
    if (mp_workflow_index(w, id) < 0) return mp_fail(e, MP_EINVAL, "the workflow has no node \"%.*s\" to bypass", (int)id.n, id.p);
    long at = bypassed_at(w, id);
    if (at < 0) {
        w->bypassed = mp_realloc(w->bypassed, (w->n_bypassed + 1u) * sizeof *w->bypassed);
        at = w->n_bypassed++;
        w->bypassed[at] = (mp_bypass){ mp_strndup(id.p, id.n), NULL };
    }
    free(w->bypassed[at].info);
    w->bypassed[at].info = mp_strdup(info);
    hash_is_open(w);
    return 0;
}

int mp_workflow_reinstate(mp_workflow *w, mp_str id, mp_err *e) {
    long at = bypassed_at(w, id);
    if (at < 0) return mp_fail(e, MP_EINVAL, "node \"%.*s\" is not bypassed", (int)id.n, id.p);
    free(w->bypassed[at].id);
    free(w->bypassed[at].info);
    w->bypassed[at] = w->bypassed[--w->n_bypassed];
    hash_is_open(w);
    return 0;
}

/* ---- text and hash -------------------------------------------------------------------------------- */

static void write_all(mp_buf *out, const mp_workflow *w) {
    const base_t *b = w->base;
    size_t from = 0;
    for (size_t i = 0; i < w->n_changes; i++) {
        const change *c = &w->changes[i];
        mp_buf_add(out, b->text + from, c->place - from);
        from = c->place + c->old;
        if (c->input < 0) {
            if (b->nodes[c->node].n_inputs || (i && c[-1].place == c->place)) mp_buf_putc(out, ',');
            mp_buf_json(out, name_of(w, c));
            mp_buf_putc(out, ':');
        }
        mp_buf_str(out, value_of(w, c));
    }
    mp_buf_add(out, b->text + from, b->n_text - from);
}

void mp_workflow_write(mp_buf *out, const mp_workflow *w) {
    if (!w->n_bypassed) { write_all(out, w); return; }
    mp_buf text = { 0 };
    write_all(&text, w);
    mp_json *root = mp_json_parse(text.p, text.n, NULL);
    mp_bypass_write(out, root, w->bypassed, w->n_bypassed);
    mp_json_free(root);
    mp_buf_free(&text);
}

const char *mp_workflow_hash(const mp_workflow *w) {
    if (w->same_hash) return w->base->hash;
    if (!w->hash) {
        mp_buf t = { 0 };
        mp_workflow_write(&t, w);
        mp_json *root = mp_json_parse(t.p, t.n, NULL);
        ((mp_workflow *)w)->hash = mp_alloc(MP_DIGEST_HEX);
        mp_graph_hash(root, w->hash);
        mp_json_free(root);
        mp_buf_free(&t);
    }
    return w->hash;
}

void mp_workflow_models(const mp_workflow *w, void (*fn)(void *ud, mp_str file), void *ud) {
    mp_str name, json;
    char file[1024];
    for (size_t k = 0; k < w->base->n_nodes; k++)
        for (size_t i = 0; mp_workflow_input_at(w, k, i, &name, &json); i++) {
            if (json.n < 2 || json.p[0] != '"') continue;
            long n = mp_scan_unescape(mp_str_make(json.p + 1, json.n - 2), file, sizeof file);
            if (n > 0 && mp_graph_is_model(mp_str_make(file, (size_t)n))) fn(ud, mp_str_make(file, (size_t)n));
        }
}

int mp_workflow_streams(const mp_workflow *w) { return w->base->streams; }

void mp_workflow_open_seeds(const mp_workflow *w, void (*fn)(void *ud, size_t node, mp_str input), void *ud) {
    for (size_t i = 0; w->n_open && i < w->base->n_seeds; i++) {
        const seed_input *s = &w->base->seeds[i];
        const change *c = changed(w, s->node, s->at, s->input);
        if (c ? mp_str_is(value_of(w, c), "-1") : s->open) fn(ud, s->node, s->input);
    }
    for (size_t i = 0; w->n_open && i < w->n_changes; i++) {         /* seeds that the base does not have */
        const change *c = &w->changes[i];
        if (is_seed(name_of(w, c)) && mp_str_is(value_of(w, c), "-1")) fn(ud, c->node, name_of(w, c));
    }
}
