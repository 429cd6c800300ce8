/* graph/check.c -- floor 2, graph: what is wrong with a document that should be a workflow, and where.
 * Order: what kind of document it is, then each node in turn, then loops. */
#include "graph/check.h"
#include "graph/workflow.h"
#include <stdlib.h>
#include <uthash.h>

typedef struct { const char *id; const mp_json *json; int state; UT_hash_handle hh; } entry;   /* state: 0 new, 1 on the path, 2 done */

static int document(const mp_json *root, mp_err *e) {
    if (mp_json_type(root) != MP_JSON_OBJECT) return mp_fail(e, MP_EINVAL, "a workflow is a JSON object of nodes, this is something else");
    if (mp_json_type(mp_json_get(root, "nodes")) == MP_JSON_ARRAY)
        return mp_fail(e, MP_EINVAL, "this is a workflow in the UI format (it has \"nodes\"%s); export it with \"Export (API)\" in ComfyUI",
                       mp_json_get(root, "links") ? " and \"links\"" : "");
    const mp_json *inner = mp_json_get(root, "prompt");
    if (inner && !mp_json_get(inner, "class_type"))
        return mp_fail(e, MP_EINVAL, "this is a wrapper around a workflow; the workflow itself is its member \"prompt\"");
    if (!mp_json_first(root)) return mp_fail(e, MP_EINVAL, "the workflow is empty: it has no nodes");
    if (mp_json_count(root) > MP_WORKFLOW_NODES)
        return mp_fail(e, MP_ELIMIT, "the workflow has %zu nodes, more than the limit of %d", mp_json_count(root), MP_WORKFLOW_NODES);
    return 0;
}

static int link(entry *all, const char *id, const char *input, const mp_json *value, mp_err *e) {
    const mp_json *to = mp_json_first(value), *slot = mp_json_next(to);
    entry *found;
    const char *target = mp_json_string(to);
    if (!target)
        return mp_fail(e, MP_EINVAL, "node \"%s\": input \"%s\": a link names its node by a string ([\"4\", 0]); a literal list must be written {\"__value__\": [...]}", id, input);
    double n = mp_json_number(slot, -1);
    if (n < 0 || n > 1e6 || n != (double)(long)n) return mp_fail(e, MP_EINVAL, "node \"%s\": input \"%s\": the slot of its link is no whole number from 0", id, input);
    if (strcmp(target, id) == 0) return mp_fail(e, MP_EINVAL, "node \"%s\": input \"%s\" links to node \"%s\", which is itself", id, input, target);
    HASH_FIND_STR(all, target, found);
    if (!found) return mp_fail(e, MP_EINVAL, "node \"%s\": input \"%s\" links to node \"%s\", which does not exist", id, input, target);
    return 0;
}

static int is_link(const mp_json *v) { return mp_json_type(v) == MP_JSON_ARRAY && mp_json_count(v) == 2; }

static int node(entry *all, const mp_json *n, mp_err *e) {
    const char *id = mp_json_name(n);
    if (mp_json_type(n) != MP_JSON_OBJECT) return mp_fail(e, MP_EINVAL, "node \"%s\" is no object", id);
    const mp_json *class_type = mp_json_get(n, "class_type"), *inputs = mp_json_get(n, "inputs");
    if (!class_type) return mp_fail(e, MP_EINVAL, "node \"%s\" has no class_type", id);
    if (!mp_json_string(class_type) || !*mp_json_string(class_type)) return mp_fail(e, MP_EINVAL, "node \"%s\": class_type is no text", id);
    if (inputs && mp_json_type(inputs) != MP_JSON_OBJECT) return mp_fail(e, MP_EINVAL, "node \"%s\": inputs is no object", id);
    for (const mp_json *i = mp_json_first(inputs); i; i = mp_json_next(i))
        if (is_link(i) && link(all, id, mp_json_name(i), i, e) != 0) return e ? e->code : MP_EINVAL;
    return 0;
}

/* Depth-first over links with a stack of our own, as a chain may be thousands of nodes long. */
static int loops(entry *all, mp_err *e) {
    size_t cap = HASH_COUNT(all), n;
    struct frame { entry *at; const mp_json *input; } *stack = mp_alloc(cap * sizeof *stack);
    int rc = 0;
    for (entry *root = all; root && rc == 0; root = root->hh.next) {
        if (root->state) continue;
        n = 0;
        root->state = 1;
        stack[n++] = (struct frame){ root, mp_json_first(mp_json_get(root->json, "inputs")) };
        while (n && rc == 0) {
            struct frame *f = &stack[n - 1];
            while (f->input && !is_link(f->input)) f->input = mp_json_next(f->input);
            if (!f->input) { f->at->state = 2; n--; continue; }
            entry *to;
            const char *target = mp_json_string(mp_json_first(f->input));
            f->input = mp_json_next(f->input);
            HASH_FIND_STR(all, target, to);
            if (to->state == 1) rc = mp_fail(e, MP_EINVAL, "nodes \"%s\" and \"%s\" are in a loop: each needs the other's output", f->at->id, to->id);
            else if (to->state == 0) {
                to->state = 1;
                stack[n++] = (struct frame){ to, mp_json_first(mp_json_get(to->json, "inputs")) };
            }
        }
    }
    free(stack);
    return rc;
}

int mp_graph_check(const mp_json *root, mp_err *e) {
    int rc = document(root, e);
    entry *all = NULL, *tmp, *at, *twin;
    for (const mp_json *n = mp_json_first(root); n && rc == 0; n = mp_json_next(n)) {
        HASH_FIND_STR(all, mp_json_name(n), twin);
        if (twin) { rc = mp_fail(e, MP_EINVAL, "node \"%s\" is there twice", mp_json_name(n)); break; }
        at = mp_alloc(sizeof *at);
        at->id = mp_json_name(n);
        at->json = n;
        HASH_ADD_KEYPTR(hh, all, at->id, strlen(at->id), at);
    }
    for (const mp_json *n = mp_json_first(root); n && rc == 0; n = mp_json_next(n)) rc = node(all, n, e);
    if (rc == 0) rc = loops(all, e);
    HASH_ITER(hh, all, at, tmp) {
        HASH_DEL(all, at);
        free(at);
    }
    return rc;
}
