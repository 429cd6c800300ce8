/* sim/jobs.c -- floor 5, sim: GET /api/jobs and /api/jobs/{id} (protocol 2.13; servers from 0.6.0 on). */
#include "sim/inside.h"
#include <stdlib.h>

#define TYPE "application/json; charset=utf-8"

typedef struct { const job *j; const entry *e; mp_json *doc; const char *status; double created, took; } item;       /* j: queued or running; e: ended */

static const char *status_of(const mp_json *doc) {
    const mp_json *status = mp_json_get(doc, "status");
    for (const mp_json *m = mp_json_first(mp_json_get(status, "messages")); m; m = mp_json_next(m))
        if (strcmp(mp_json_string(mp_json_at(m, 0)), "execution_interrupted") == 0) return "cancelled";
    return mp_json_true(mp_json_get(status, "completed")) ? "completed" : "failed";
}

static double stamp(const mp_json *doc, int last) {
    double t = 0;
    for (const mp_json *m = mp_json_first(mp_json_get(mp_json_get(doc, "status"), "messages")); m; m = mp_json_next(m)) {
        t = mp_json_number(mp_json_get(mp_json_at(m, 1), "timestamp"), 0);
        if (!last) break;
    }
    return t;
}

/* Files among the outputs; the first of them goes to *first, with its node and kind. */
static int count_files(const mp_json *outputs, const mp_json **first, const char **at_node, const char **kind) {
    int n = 0;
    *first = NULL;
    for (const mp_json *o = mp_json_first(outputs); o; o = mp_json_next(o))
        for (const mp_json *k = mp_json_first(o); k; k = mp_json_next(k))
            for (const mp_json *f = mp_json_type(k) == MP_JSON_ARRAY ? mp_json_first(k) : NULL; f; f = mp_json_next(f)) {
                if (!mp_json_string(mp_json_get(f, "filename"))) continue;
                if (!n++) { *first = f; *at_node = mp_json_name(o); *kind = mp_json_name(k); }
            }
    return n;
}

/* extra_pnginfo.workflow.id. 0: one of them is no object, of which the server knows no end but a 500 (protocol 2.13). */
static int workflow_id(const item *x, const mp_json **id) {
    const mp_json *extra = x->j ? x->j->extra : mp_json_at(mp_json_get(x->doc, "prompt"), 3), *info = mp_json_get(extra, "extra_pnginfo"), *flow = mp_json_get(info, "workflow");
    *id = mp_json_get(flow, "id");
    return (!info || mp_json_type(info) == MP_JSON_OBJECT) && (!flow || mp_json_type(flow) == MP_JSON_OBJECT);
}

static void write_item(mp_sim *s, mp_buf *b, const item *x, int whole) {
    const mp_json *entry_doc = x->doc, *first = NULL, *flow;
    const char *in_node, *kind;
    mp_buf_puts(b, "{\"id\": ");
    mp_buf_json(b, mp_str_of(x->j ? x->j->id : x->e->id));
    mp_buf_printf(b, ", \"status\": \"%s\", \"priority\": ", x->status);
    mp_buf_double(b, x->j ? x->j->number : x->e->number);
    mp_buf_printf(b, ", \"create_time\": %.0f", x->created);
    if (x->doc) {
        mp_buf_printf(b, ", \"execution_start_time\": %.0f, \"execution_end_time\": %.0f", stamp(x->doc, 0), stamp(x->doc, 1));
        for (const mp_json *m = mp_json_first(mp_json_get(mp_json_get(entry_doc, "status"), "messages")); m; m = mp_json_next(m))
            if (strcmp(mp_json_string(mp_json_at(m, 0)), "execution_error") == 0) {
                mp_buf_puts(b, ", \"execution_error\": ");
                mp_json_write(b, mp_json_at(m, 1));
            }
    }
    mp_buf_printf(b, ", \"outputs_count\": %d", count_files(mp_json_get(entry_doc, "outputs"), &first, &in_node, &kind));
    if (first) {
        mp_buf_puts(b, ", \"preview_output\": ");
        mp_json_write(b, first);
        b->n--;                                      /* the closing brace */
        mp_buf_puts(b, ", \"nodeId\": ");
        mp_buf_json(b, mp_str_of(in_node));
        mp_buf_puts(b, ", \"mediaType\": ");
        mp_buf_json(b, mp_str_of(kind));
        mp_buf_puts(b, "}");
    }
    if (workflow_id(x, &flow) && flow && mp_json_type(flow) != MP_JSON_NULL) {
        mp_buf_puts(b, ", \"workflow_id\": ");
        mp_json_write(b, flow);
    }
    if (whole && x->doc) {
        const mp_json *prompt = mp_json_get(x->doc, "prompt");
        mp_buf_puts(b, ", \"outputs\": ");
        mp_json_write(b, mp_json_get(x->doc, "outputs"));
        mp_buf_puts(b, ", \"execution_status\": ");
        mp_json_write(b, mp_json_get(x->doc, "status"));
        mp_buf_puts(b, ", \"workflow\": {\"prompt\": ");
        mp_json_write(b, mp_json_at(prompt, 2));
        mp_buf_puts(b, ", \"extra_data\": ");
        mp_json_write(b, mp_json_at(prompt, 3));
        mp_buf_puts(b, "}");
    }
    mp_buf_puts(b, "}");
    (void)s;
}

static item *all_items(mp_sim *s, size_t *n) {
    size_t k = 0;
    item *v = mp_alloc((s->n_queue + s->n_history + 1) * sizeof *v + 1);
    for (size_t i = 0; i < s->n_queue; i++) v[k++] = (item){ s->queue[i], NULL, NULL, "pending", wall_ms(s, s->queue[i]->created), 0 };
    if (s->run) v[k++] = (item){ s->run->j, NULL, NULL, "in_progress", wall_ms(s, s->run->j->created), 0 };
    for (const entry *e = s->history; e; e = e->next) {
        mp_json *doc = mp_json_parse(e->json, strlen(e->json), NULL);
        v[k++] = (item){ NULL, e, doc, status_of(doc), wall_ms(s, e->created), (double)(e->ended - e->began) };
    }
    *n = k;
    return v;
}

static void items_free(item *v, size_t n) {
    for (size_t i = 0; i < n; i++) mp_json_free(v[i].doc);
    free(v);
}

static int newest(const void *a, const void *b) { const item *x = a, *y = b; return x->created < y->created ? 1 : x->created > y->created ? -1 : 0; }
static int oldest(const void *a, const void *b) { return newest(b, a); }
static int longest(const void *a, const void *b) { const item *x = a, *y = b; return x->took < y->took ? 1 : x->took > y->took ? -1 : 0; }
static int shortest(const void *a, const void *b) { return longest(b, a); }

static void answer(mp_sim *s, uint64_t tag, int status, mp_buf *b) {
    reply(s, tag, status, TYPE, b->p, b->n);
    mp_buf_free(b);
}

/* Comma-separated words of `wanted` that are no status: into b. */
static void unknown_words(mp_buf *b, const char *wanted) {
    static const char *const known[] = { "pending", "in_progress", "completed", "failed", "cancelled" };
    char *copy = mp_strdup(wanted), *save = NULL;
    for (char *w = strtok_r(copy, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
        int ok = 0;
        for (int i = 0; i < 5; i++) ok |= strcmp(w, known[i]) == 0;
        if (!ok) mp_buf_printf(b, "%s%s", b->n ? ", " : "", w);
    }
    free(copy);
}

static int among(const char *wanted, const char *status) { return !wanted || !*wanted || strstr(wanted, status); }

static int belongs(const item *x, const char *flow) {
    const mp_json *id;
    workflow_id(x, &id);
    return !flow || !*flow || (mp_json_string(id) && strcmp(mp_json_string(id), flow) == 0);
}

/* The page of the list that was asked for, into b. 0: it cannot be made. */
static int write_page(mp_sim *s, mp_buf *b, const item *v, size_t n, const char *wanted, const char *flow, size_t offset, size_t limit) {
    const mp_json *id;
    size_t total = 0, shown = 0;
    mp_buf_puts(b, "{\"jobs\": [");
    for (size_t i = 0; i < n; i++) {
        if (!among(wanted, v[i].status)) continue;
        if (!workflow_id(&v[i], &id)) return 0;
        if (!belongs(&v[i], flow) || total++ < offset || shown >= limit) continue;
        if (shown++) mp_buf_puts(b, ", ");
        write_item(s, b, &v[i], 0);
    }
    mp_buf_printf(b, "], \"pagination\": {\"offset\": %zu, \"limit\": ", offset);
    if (limit != SIZE_MAX) mp_buf_printf(b, "%zu", limit);
    else mp_buf_puts(b, "null");
    mp_buf_printf(b, ", \"total\": %zu, \"has_more\": %s}}", total, offset + shown < total ? "true" : "false");
    return 1;
}

void jobs_list(mp_sim *s, const mp_sim_request *r) {
    char *wanted = query_arg(r->path, "status"), *by = query_arg(r->path, "sort_by"), *order = query_arg(r->path, "sort_order"), *max = query_arg(r->path, "limit");
    char *skip = query_arg(r->path, "offset"), *flow = query_arg(r->path, "workflow_id");
    size_t n;
    mp_buf b = { 0 }, wrong = { 0 };
    if (wanted) unknown_words(&wrong, wanted);
    if (wrong.n) {
        char *words = mp_format("Invalid status value(s): %s. Valid values: pending, in_progress, completed, failed, cancelled", wrong.p);
        mp_buf_puts(&b, "{\"error\": ");
        mp_buf_json(&b, mp_str_of(words));
        mp_buf_puts(&b, "}");
        free(words);
        answer(s, r->tag, 400, &b);
    } else {
        item *v = all_items(s, &n);
        int up = order && strcmp(order, "asc") == 0, took = by && strcmp(by, "execution_duration") == 0;
        qsort(v, n, sizeof *v, took ? up ? shortest : longest : up ? oldest : newest);
        if (write_page(s, &b, v, n, wanted, flow, skip ? strtoul(skip, NULL, 10) : 0, max ? strtoul(max, NULL, 10) : SIZE_MAX)) answer(s, r->tag, 200, &b);
        else trouble(s, r->tag);
        items_free(v, n);
    }
    mp_buf_free(&b);
    mp_buf_free(&wrong);
    free(wanted);
    free(by);
    free(order);
    free(max);
    free(skip);
    free(flow);
}

void jobs_one(mp_sim *s, const mp_sim_request *r, const char *id) {
    const mp_json *flow;
    size_t n;
    item *v = all_items(s, &n), *found = NULL;
    mp_buf b = { 0 };
    for (size_t i = 0; i < n; i++)
        if (strcmp(v[i].j ? v[i].j->id : v[i].e->id, id) == 0) found = &v[i];
    if (found && !workflow_id(found, &flow)) trouble(s, r->tag);
    else {
        if (found) write_item(s, &b, found, 1);
        else mp_buf_puts(&b, "{\"error\": \"Job not found\"}");
        answer(s, r->tag, found ? 200 : 404, &b);
    }
    items_free(v, n);
}
