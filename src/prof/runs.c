/* prof/runs.c -- floor 4, prof: finished jobs read from profile logs, kept compactly. */
#include "prof/runs_inside.h"
#include "base/scan.h"
#include "graph/hash.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define LINE_BYTES (64u << 20)                       /* a longer line is no profile of ours */

mp_runs *mp_runs_new(void) { return mp_alloc(sizeof(mp_runs)); }

void mp_runs_free(mp_runs *r) {
    text_entry *e, *next;
    if (!r) return;
    HASH_ITER(hh, r->index, e, next) {
        HASH_DEL(r->index, e);
        free(e->text);
        free(e);
    }
    mp_buf_free(&r->texts);
    free(r->runs);
    free(r->nodes);
    free(r->inputs);
    free(r->events);
    free(r->attempts);
    free(r->failures);
    free(r->words);
    free(r->places);
    free(r);
}

/* ---- texts -------------------------------------------------------------------------------------------------------- */

word runs_word(mp_runs *r, mp_str text) {
    text_entry *e;
    if (!text.p) return 0;
    HASH_FIND(hh, r->index, text.p, text.n, e);
    if (e) return e->id;
    e = mp_alloc(sizeof *e);
    e->text = mp_strndup(text.p, text.n);
    e->id = (word)(r->n_words + 1);
    HASH_ADD_KEYPTR(hh, r->index, e->text, text.n, e);
    r->words = mp_grow(r->words, r->n_words, &r->cap_words, sizeof *r->words);
    r->words[r->n_words++] = e->text;
    return e->id;
}

const char *runs_text(const mp_runs *r, word w) { return w ? r->words[w - 1] : NULL; }

static word word_of(mp_runs *r, const mp_json *doc, const char *name) { return runs_word(r, mp_str_of(mp_json_string(mp_json_get(doc, name)))); }
static double number_of(const mp_json *doc, const char *name) { return mp_json_number(mp_json_get(doc, name), NAN); }

/* Members that are there are what they should be: numbers within thirty thousand years, texts that are texts. */
static int sound(const mp_json *doc, const char *const *numbers, const char *const *texts) {
    for (; *numbers; numbers++) {
        const mp_json *v = mp_json_get(doc, *numbers);
        if (v && (mp_json_type(v) != MP_JSON_NUMBER || !(fabs(mp_json_number(v, NAN)) <= 1e15))) return 0;
    }
    for (; *texts; texts++) {
        const mp_json *v = mp_json_get(doc, *texts);
        if (v && !mp_json_string(v)) return 0;
    }
    return 1;
}

static int sound_nodes(const mp_json *nodes) {
    static const char *const numbers[] = { "startedAt", "completedAt", "duration", "rate", "executions", NULL }, *const texts[] = { "nodeId", "type", "title", "status", "error", NULL };
    static const char *const event[] = { "timestamp", "value", "max", NULL }, *const none[] = { NULL };
    for (const mp_json *n = mp_json_first(nodes); n; n = mp_json_next(n)) {
        if (!mp_json_string(mp_json_get(n, "nodeId")) || !sound(n, numbers, texts)) return 0;
        for (const mp_json *e = mp_json_first(mp_json_get(n, "progressEvents")); e; e = mp_json_next(e))
            if (mp_json_type(e) != MP_JSON_OBJECT || mp_json_count(e) < 3 || !sound(e, event, none)) return 0;
    }
    return 1;
}

static int sound_run(const mp_json *doc) {
    static const char *const numbers[] = { "queuedAt", "startedAt", "completedAt", "totalDuration", "queueTime", "executionTime", "uploadTime", "serverQueueTime", "retryTime", "transferTime", NULL };
    static const char *const texts[] = { "label", "jobId", "jobStatus", "client", "structureHash", "promptId", NULL };
    const mp_json *nodes = mp_json_get(doc, "nodes");
    return sound(doc, numbers, texts) && mp_json_type(nodes) == MP_JSON_ARRAY && mp_json_string(mp_json_get(doc, "structureHash")) && mp_json_get(doc, "queuedAt") && mp_json_get(doc, "completedAt") &&
           mp_json_get(doc, "executionTime") && sound_nodes(nodes);
}

/* ---- one line ------------------------------------------------------------------------------------------------------- */

static mp_node_status status_of(const mp_json *n) {
    const char *z = mp_json_string(mp_json_get(n, "status"));
    for (int i = 0; z && i <= MP_NODE_FAILED; i++)
        if (strcmp(z, mp_node_status_names[i]) == 0) return (mp_node_status)i;
    return MP_NODE_PENDING;
}

/* Where each node of this line stands, by its id: links may name one that comes later. */
static void note_places(mp_runs *r, const mp_json *nodes) {
    uint32_t at = 0;
    r->lines++;
    for (const mp_json *n = mp_json_first(nodes); n; n = mp_json_next(n), at++) {
        word id = word_of(r, n, "nodeId");
        if (id > r->n_places) {
            size_t more = r->n_words + 1024;
            r->places = mp_realloc(r->places, more * sizeof *r->places);
            memset(r->places + r->n_places, 0, (more - r->n_places) * sizeof *r->places);
            r->n_places = more;
        }
        r->places[id - 1].line = r->lines;
        r->places[id - 1].at = at;
    }
}

/* A link is a list of an id and a slot; what it is linked to may come later in the list. */
static void add_inputs(mp_runs *r, run_node *n, const mp_json *doc) {
    n->first_input = r->n_inputs;
    for (const mp_json *i = mp_json_first(doc); i; i = mp_json_next(i)) {
        const char *to = mp_json_type(i) == MP_JSON_ARRAY && mp_json_count(i) == 2 ? mp_json_string(mp_json_first(i)) : NULL;
        mp_buf b = { 0 };
        word id = to ? runs_word(r, mp_str_of(to)) : 0;
        int32_t link = id && id <= r->n_places && r->places[id - 1].line == r->lines ? (int32_t)r->places[id - 1].at : -1;
        mp_json_write(&b, i);
        r->inputs = mp_grow(r->inputs, r->n_inputs, &r->cap_inputs, sizeof *r->inputs);
        r->inputs[r->n_inputs++] = (run_input){ runs_word(r, mp_str_of(mp_json_name(i))), runs_word(r, mp_buf_view(&b)), link };
        mp_buf_free(&b);
    }
    n->n_inputs = r->n_inputs - n->first_input;
}

static void add_node(mp_runs *r, const mp_json *doc) {
    run_node n = { .id = word_of(r, doc, "nodeId"), .type = word_of(r, doc, "type"), .title = word_of(r, doc, "title"), .status = status_of(doc),
                   .took = number_of(doc, "duration"), .first_event = r->n_events };
    n.ran = (n.status == MP_NODE_COMPLETED || n.status == MP_NODE_FAILED) && !(mp_json_number(mp_json_get(doc, "executions"), 1) < 1);
    if (!(n.took >= 0)) n.took = NAN;
    add_inputs(r, &n, mp_json_get(doc, "inputs"));
    for (const mp_json *e = mp_json_first(mp_json_get(doc, "progressEvents")); e; e = mp_json_next(e)) {
        r->events = mp_grow(r->events, r->n_events, &r->cap_events, sizeof *r->events);
        r->events[r->n_events++] = (run_event){ number_of(e, "timestamp"), number_of(e, "value"), number_of(e, "max") };
    }
    n.n_events = r->n_events - n.first_event;
    r->nodes = mp_grow(r->nodes, r->n_nodes, &r->cap_nodes, sizeof *r->nodes);
    r->nodes[r->n_nodes++] = n;
}

/* Every attempt that was begun; a line that does not list them has one. */
static void add_attempts(mp_runs *r, run *x, const mp_json *list) {
    static const char *const numbers[] = { "assignedAt", "sentAt", "startedAt", "endedAt", NULL }, *const texts[] = { "client", "outcome", NULL };
    double before = x->queued;
    x->first_attempt = r->n_attempts;
    for (const mp_json *a = mp_json_first(list); a; a = mp_json_next(a)) {
        run_attempt t = { word_of(r, a, "client"), x->hash, before, 0, number_of(a, "sentAt"), number_of(a, "startedAt"), number_of(a, "endedAt") };
        const char *outcome = mp_json_string(mp_json_get(a, "outcome"));
        int last = !mp_json_next(a);
        if (!sound(a, numbers, texts) || !t.client) continue;
        if (outcome && strcmp(outcome, "completed") != 0 && strcmp(outcome, "canceled") != 0 && !isnan(t.ended)) {
            r->failures = mp_grow(r->failures, r->n_failures, &r->cap_failures, sizeof *r->failures);
            r->failures[r->n_failures++] = (run_failure){ t.client, x->hash, t.ended };
        }
        if (!isnan(t.ended)) before = t.ended;
        if (isnan(t.started) || isnan(t.ended) || t.ended < t.started) continue;
        if (isnan(t.sent) || t.sent > t.started) t.sent = t.started;
        t.upload = last && x->upload > 0 ? t.sent - x->upload : t.sent;
        r->attempts = mp_grow(r->attempts, r->n_attempts, &r->cap_attempts, sizeof *r->attempts);
        r->attempts[r->n_attempts++] = t;
    }
    if (r->n_attempts == x->first_attempt && !isnan(x->started) && x->client) {
        double sent = x->started - (x->server_queue > 0 ? x->server_queue : 0);
        r->attempts = mp_grow(r->attempts, r->n_attempts, &r->cap_attempts, sizeof *r->attempts);
        r->attempts[r->n_attempts++] = (run_attempt){ x->client, x->hash, x->queued, sent - (x->upload > 0 ? x->upload : 0), sent, x->started, x->completed > x->started ? x->completed : x->started };
    }
    x->n_attempts = r->n_attempts - x->first_attempt;
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* The model files that a run names, as one word: who names the same ones finds them loaded. */
static word models_of(mp_runs *r, const run *x) {
    char *found[32] = { NULL }, tmp[300];
    size_t n = 0;
    mp_buf b = { 0 };
    for (size_t i = 0; i < x->n_nodes; i++) {
        const run_node *node = &r->nodes[x->first_node + i];
        for (size_t k = 0; k < node->n_inputs && n < 32; k++) {
            const char *v = runs_text(r, r->inputs[node->first_input + k].value);
            size_t len = strlen(v);
            if (len < 3 || len > sizeof tmp || v[0] != '"' || mp_scan_unescape(mp_str_make(v + 1, len - 2), tmp, sizeof tmp) < 0) continue;
            if (mp_graph_is_model(mp_str_of(tmp))) found[n++] = mp_strdup(tmp);
        }
    }
    if (n) qsort(found, n, sizeof *found, by_text);
    for (size_t i = 0; i < n; i++) {
        if (!i || strcmp(found[i], found[i - 1]) != 0) mp_buf_printf(&b, "%s\n", found[i]);
    }
    for (size_t i = 0; i < n; i++) free(found[i]);
    word w = n ? runs_word(r, mp_buf_view(&b)) : 0;
    mp_buf_free(&b);
    return w;
}

void mp_runs_add(mp_runs *r, mp_str line) {
    mp_json *doc = line.n < LINE_BYTES ? mp_json_parse(line.p, line.n, NULL) : NULL;
    const mp_json *nodes = mp_json_get(doc, "nodes");
    double schema = mp_json_number(mp_json_get(doc, "schema"), 0);
    run x = { .label = word_of(r, doc, "label"), .client = word_of(r, doc, "client"), .hash = word_of(r, doc, "structureHash"), .queued = number_of(doc, "queuedAt"),
              .started = number_of(doc, "startedAt"), .completed = number_of(doc, "completedAt"), .execution = number_of(doc, "executionTime"),
              .upload = number_of(doc, "uploadTime"), .server_queue = number_of(doc, "serverQueueTime"), .first_node = r->n_nodes };
    if (schema != 1 || !sound_run(doc)) {
        r->bad++;
        r->newer += schema > 1;
        mp_json_free(doc);
        return;
    }
    const char *status = mp_json_string(mp_json_get(doc, "jobStatus"));
    x.good = status && strcmp(status, "completed") == 0;
    if (!(x.execution >= 0)) x.execution = NAN;
    note_places(r, nodes);
    for (const mp_json *n = mp_json_first(nodes); n; n = mp_json_next(n)) add_node(r, n);
    x.n_nodes = r->n_nodes - x.first_node;
    x.models = models_of(r, &x);
    add_attempts(r, &x, mp_json_get(doc, "attempts"));
    x.text = r->texts.n;
    x.n_text = line.n;
    mp_buf_str(&r->texts, line);
    r->runs = mp_grow(r->runs, r->n, &r->cap, sizeof *r->runs);
    r->runs[r->n++] = x;
    mp_json_free(doc);
}

int mp_runs_load(mp_runs *r, const char *path, mp_err *e) {
    FILE *f = fopen(path, "rb");
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    if (!f) return mp_fail(e, MP_EIO, "%s: %s", path, strerror(errno));
    errno = 0;
    while ((n = getline(&line, &cap, f)) > 0) {
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) n--;
        if (n > 0) mp_runs_add(r, mp_str_make(line, (size_t)n));
    }
    int trouble = ferror(f) ? errno : 0;
    free(line);
    fclose(f);
    return trouble ? mp_fail(e, MP_EIO, "%s: %s", path, strerror(trouble)) : 0;
}

/* ---- in order ----------------------------------------------------------------------------------------------------------- */

static double moment(const run *x) { return isnan(x->started) ? x->completed : x->started; }

static int by_moment(const void *a, const void *b) {
    const run *x = a, *y = b;
    double s = moment(x), t = moment(y);
    return s != t ? (s < t ? -1 : 1) : x->text < y->text ? -1 : x->text > y->text;
}

void mp_runs_ready(mp_runs *r) {
    word *last = mp_alloc((r->n_words + 1) * sizeof *last);          /* by client: the models of its last run */
    if (r->n) qsort(r->runs, r->n, sizeof *r->runs, by_moment);
    for (size_t i = 0; i < r->n; i++) {
        run *x = &r->runs[i];
        if (isnan(x->started)) continue;
        x->cold = x->models && last[x->client] != x->models;
        if (x->models) last[x->client] = x->models;
    }
    free(last);
    r->explained = 0;
}

size_t mp_runs_only(mp_runs *r, const char *label) {
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) {
        const char *own = runs_text(r, r->runs[i].label);
        if (!label || (own && strcmp(own, label) == 0)) r->runs[n++] = r->runs[i];
    }
    r->explained = 0;
    return r->n = n;
}

size_t mp_runs_count(const mp_runs *r) { return r->n; }
size_t mp_runs_completed(const mp_runs *r) {
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) n += (size_t)r->runs[i].good;
    return n;
}

mp_str mp_runs_text(const mp_runs *r, size_t i) { return mp_str_make(r->texts.p + r->runs[i].text, r->runs[i].n_text); }

size_t mp_runs_bad(const mp_runs *r, size_t *newer) {
    if (newer) *newer = r->newer;
    return r->bad;
}

/* ---- figures -------------------------------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) { double x = *(const double *)a, y = *(const double *)b; return x < y ? -1 : x > y; }

void figures_sort(double *v, size_t n) { if (n) qsort(v, n, sizeof *v, by_value); }

void figures_push(figures *f, double v) {
    f->v = mp_grow(f->v, f->n, &f->cap, sizeof *f->v);
    f->v[f->n++] = v;
}

double mp_quantile(const double *v, size_t n, double q) {
    double at = q * (double)(n - 1);
    size_t i = (size_t)at;
    return i + 1 < n ? v[i] + (v[i + 1] - v[i]) * (at - (double)i) : v[n - 1];
}

void sink_figures(const mp_sink *out, double *v, size_t n) {
    double total = 0;
    NUMBER(out, "count", (double)n);
    if (!n) return;
    figures_sort(v, n);
    for (size_t i = 0; i < n; i++) total += v[i];
    NUMBER(out, "total", total);
    NUMBER(out, "mean", total / (double)n);
    NUMBER(out, "p50", mp_quantile(v, n, 0.5));
    NUMBER(out, "p90", mp_quantile(v, n, 0.9));
    NUMBER(out, "p99", mp_quantile(v, n, 0.99));
    NUMBER(out, "max", v[n - 1]);
}

void sink_text(const mp_sink *out, const char *name, const char *z) {
    if (z) out->string(out->ud, name, mp_str_of(z));
}
