/* prof/encode.c -- floor 4, prof: a profile as the document of the schema, written into any sink. */
#include "prof/record.h"
#include "base/digest.h"
#include "base/scan.h"
#include "graph/hash.h"
#include <stdlib.h>

typedef struct { const mp_sink *s; const mp_profile *p; mp_time epoch; int inputs; } out;

const char *const mp_node_status_names[] = { "pending", "executing", "completed", "cached", "failed" };

static void num(out *o, const char *name, double v) { o->s->number(o->s->ud, name, v); }
static void text(out *o, const char *name, const char *z) { if (z) o->s->string(o->s->ud, name, mp_str_of(z)); }
static void duration(out *o, const char *name, mp_time t) { if (t != NONE) num(o, name, (double)t / 1000); }
static void instant(out *o, const char *name, mp_time t) { if (t != NONE) num(o, name, (double)(t + o->epoch) / 1000); }
static void flag(out *o, const char *name, int v) { o->s->boolean(o->s->ud, name, v); }
static void open_object(out *o, const char *name) { o->s->open(o->s->ud, name, 0); }
static void open_array(out *o, const char *name) { o->s->open(o->s->ud, name, 1); }
static void done(out *o) { o->s->close(o->s->ud); }

static void event(out *o, const progress_event *e) {
    open_object(o, NULL);
    instant(o, "timestamp", e->t);
    num(o, "value", e->value);
    num(o, "max", e->max);
    done(o);
}

static void progress_events(out *o, const record *r) {
    if (!r->seen) return;
    open_array(o, "progressEvents");
    for (uint32_t i = 0; i < r->n_events; i++) event(o, &r->events[i]);
    int last_kept = r->n_events && r->events[r->n_events - 1].t == r->last.t && r->events[r->n_events - 1].value == r->last.value;
    if (!last_kept) event(o, &r->last);
    done(o);
    num(o, "progressDropped", (double)(r->seen - r->n_events - !last_kept));
    mp_time span = r->last_progress - r->first_progress;
    if (r->steps > 0 && span > 0) num(o, "rate", r->steps * 1e6 / (double)span);
}

/* Whether the node itself names a model file: it read one from disk if it ran at all. */
static int names_model(const mp_node *n) {
    for (size_t i = 0; i < n->n_inputs; i++) {
        mp_str v = n->inputs[i].value;
        if (v.n > 2 && v.p[0] == '"' && mp_graph_is_model(mp_str_make(v.p + 1, v.n - 2))) return 1;
    }
    return 0;
}

#define SHOWN 100                                    /* bytes of a long value that are kept */

/* A long value as a shorter string: its beginning, cut at a whole character, and a digest of all of it. */
static void shortened(mp_buf *b, mp_str v) {
    char hex[MP_DIGEST_HEX];
    const char *p = v.p[0] == '"' ? v.p + 1 : v.p;
    size_t n = SHOWN;
    while (n && ((unsigned char)p[n] & 0xc0) == 0x80) n--;
    mp_str text = mp_str_make(p, n);
    char *z = mp_alloc(n + 8);
    if (v.p[0] == '"') {                             /* escapes: none may be cut */
        for (size_t back = 0; back < 12 && n; back++, n--) {
            long got = mp_scan_unescape(mp_str_make(p, n), z, SHOWN + 8);
            if (got < 0) continue;
            text = mp_str_make(z, (size_t)got);
            break;
        }
    }
    mp_sha256_hex(v.p, v.n, hex);
    mp_buf_json(b, text);
    b->n--;
    mp_buf_printf(b, "... #%.12s\"", hex);
    free(z);
}

static void inputs(out *o, size_t i) {
    const mp_workflow *w = o->p->sent_as ? o->p->sent_as : o->p->w;
    long at = mp_workflow_index(w, mp_str_of(o->p->nodes[i].id));
    mp_str name, json;
    if (at < 0) return;
    open_object(o, "inputs");
    for (size_t k = 0; mp_workflow_input_at(w, (size_t)at, k, &name, &json); k++) {
        mp_buf b = { 0 };
        char *z = mp_strndup(name.p, name.n);
        if (json.n > 2 * SHOWN) {
            shortened(&b, json);
            json = mp_buf_view(&b);
        }
        o->s->json(o->s->ud, z, json);
        mp_buf_free(&b);
        free(z);
    }
    done(o);
}

static void node(out *o, size_t i) {
    const mp_profile *p = o->p;
    const record *r = &p->nodes[i];
    if (r->left_out) return;
    int submitted = r->real == NO_PARENT, ran = r->started != NONE || r->status == MP_NODE_COMPLETED;
    open_object(o, NULL);
    text(o, "nodeId", r->id);
    if (submitted) {
        const mp_node *n = mp_workflow_node(p->w, i);
        text(o, "type", n->class_type);
        text(o, "title", n->title);
        if (n->meta.n) o->s->json(o->s->ud, "meta", n->meta);
        if (ran && names_model(n)) flag(o, "modelLoad", 1);
        if (o->inputs) inputs(o, i);
    } else {
        text(o, "parentNode", p->nodes[r->real].id);
        text(o, "realNode", p->nodes[r->real].id);
    }
    text(o, "displayNode", r->display ? r->display : r->id);
    instant(o, "startedAt", r->started);
    instant(o, "completedAt", r->ended);
    mp_time d = record_duration(p, i);
    duration(o, "duration", d == NONE && r->status == MP_NODE_CACHED ? 0 : d);
    flag(o, "cached", r->status == MP_NODE_CACHED);
    text(o, "status", mp_node_status_names[r->status]);
    text(o, "error", r->error);
    num(o, "executions", r->executions > 0 ? r->executions : ran);
    progress_events(o, r);
    int any = 0;
    for (size_t k = p->n_submitted; submitted && k < p->n; k++) {
        if (p->nodes[k].real != i) continue;
        if (!any++) open_array(o, "inner");
        node(o, k);
    }
    if (any) done(o);
    done(o);
}

static void summary(out *o) {
    const mp_profile *p = o->p;
    size_t count[5] = { 0 };
    uint32_t slow[5];
    for (size_t i = 0; i < p->n_submitted; i++) count[p->nodes[i].status] += !p->nodes[i].left_out;
    open_object(o, "summary");
    num(o, "totalNodes", (double)(p->n_submitted - p->n_left_out));
    num(o, "executedNodes", (double)(count[MP_NODE_COMPLETED] + count[MP_NODE_EXECUTING]));
    num(o, "cachedNodes", (double)count[MP_NODE_CACHED]);
    num(o, "failedNodes", (double)count[MP_NODE_FAILED]);
    num(o, "pendingNodes", (double)count[MP_NODE_PENDING]);
    open_array(o, "slowestNodes");
    size_t n = mp_stats_slowest(p, slow);
    for (size_t i = 0; i < n; i++) {
        const mp_node *at = mp_workflow_node(p->w, slow[i]);
        open_object(o, NULL);
        text(o, "nodeId", at->id);
        text(o, "type", at->class_type);
        text(o, "title", at->title);
        duration(o, "duration", record_duration(p, slow[i]));
        done(o);
    }
    done(o);
    open_array(o, "progressNodes");
    for (size_t i = 0; i < p->n_submitted; i++)
        if (p->nodes[i].seen) text(o, NULL, p->nodes[i].id);
    done(o);
    done(o);
}

static void attempts(out *o) {
    const mp_profile *p = o->p;
    open_array(o, "attempts");
    for (size_t i = 0; i < p->n_attempts; i++) {
        const attempt *a = &p->attempts[i];
        open_object(o, NULL);
        text(o, "client", a->client);
        text(o, "promptId", a->prompt_id);
        instant(o, "assignedAt", a->assigned);
        instant(o, "sentAt", a->sent);
        instant(o, "startedAt", a->started);
        instant(o, "endedAt", a->ended);
        text(o, "outcome", a->outcome);
        text(o, "error", a->error);
        done(o);
    }
    done(o);
}

static void times(out *o) {
    const mp_profile *p = o->p;
    mp_time begun = p->started != NONE ? p->started : p->completed;
    mp_time sent = p->sent != NONE ? p->sent : begun, upload = p->upload != NONE ? p->upload : sent;
    duration(o, "totalDuration", p->completed - p->queued);
    duration(o, "queueTime", begun - p->queued);
    duration(o, "executionTime", p->completed - begun);
    instant(o, "queuedAt", p->queued);
    instant(o, "startedAt", p->started);
    instant(o, "completedAt", p->completed);
    duration(o, "poolQueueTime", upload - p->ready);
    duration(o, "uploadTime", sent - upload);
    duration(o, "serverQueueTime", begun - sent);
    duration(o, "retryTime", p->ready - p->queued);
    duration(o, "transferTime", p->transfer);
    duration(o, "gapTime", p->gap);
    duration(o, "overlapTime", p->overlap);
}

static void exactness(out *o) {
    static const char *const names[] = { "startedAt", "completedAt", "nodes", "outcome" };
    flag(o, "exact", o->p->inferred == 0);
    if (!o->p->inferred) return;
    open_array(o, "inferred");
    for (int i = 0; i < 4; i++)
        if (o->p->inferred & (1u << i)) text(o, NULL, names[i]);
    done(o);
}

static void members(out *o) {
    const mp_profile *p = o->p;
    if (p->n_attempts) {
        text(o, "promptId", p->attempts[p->n_attempts - 1].prompt_id);
        text(o, "client", p->attempts[p->n_attempts - 1].client);
    }
    text(o, "structureHash", mp_workflow_hash(p->w));
    if (p->sent_as) text(o, "sentHash", mp_workflow_hash(p->sent_as));
    times(o);
    exactness(o);
    open_array(o, "nodes");
    for (size_t i = 0; i < p->n_submitted; i++) node(o, i);
    done(o);
    summary(o);
    uint32_t *path = mp_alloc(p->n_submitted * sizeof *path + 1);
    size_t n = mp_stats_critical(p, path, p->n_submitted);
    open_array(o, "criticalPath");
    for (size_t i = 0; i < n; i++) text(o, NULL, p->nodes[path[i]].id);
    done(o);
    free(path);
    attempts(o);
}

void mp_profile_visit(const mp_profile *p, mp_time epoch, const mp_sink *sink) {
    out o = { sink, p, epoch, 0 };
    open_object(&o, NULL);
    members(&o);
    done(&o);
}

/* ---- the JSON sink ---------------------------------------------------------------------------------- */

typedef struct { mp_buf *b; int depth, fresh; unsigned char array[64]; } writer;

static void head(writer *w, const char *name) {
    if (!w->fresh) mp_buf_putc(w->b, ',');
    w->fresh = 0;
    if (!name) return;
    mp_buf_json(w->b, mp_str_of(name));
    mp_buf_putc(w->b, ':');
}
static void json_open(void *ud, const char *name, int array) {
    writer *w = ud;
    head(w, name);
    w->array[w->depth++] = (unsigned char)array;
    w->fresh = 1;
    mp_buf_putc(w->b, array ? '[' : '{');
}
static void json_close(void *ud) {
    writer *w = ud;
    mp_buf_putc(w->b, w->array[--w->depth] ? ']' : '}');
    w->fresh = 0;
}
static void json_number(void *ud, const char *name, double v) { writer *w = ud; head(w, name); mp_buf_double(w->b, v); }
static void json_string(void *ud, const char *name, mp_str s) { writer *w = ud; head(w, name); mp_buf_json(w->b, s); }
static void json_boolean(void *ud, const char *name, int v) { writer *w = ud; head(w, name); mp_buf_puts(w->b, v ? "true" : "false"); }
static void json_text(void *ud, const char *name, mp_str s) { writer *w = ud; head(w, name); mp_buf_str(w->b, s); }

void mp_profile_json(mp_buf *b, const mp_profile *p, mp_time epoch) {
    writer w = { b, 0, 1, { 0 } };
    mp_sink s = { &w, json_open, json_close, json_number, json_string, json_boolean, json_text };
    mp_profile_visit(p, epoch, &s);
}

void mp_profile_log(mp_buf *b, const mp_profile *p, mp_time epoch) {
    writer w = { b, 1, 0, { 0 } };
    mp_sink s = { &w, json_open, json_close, json_number, json_string, json_boolean, json_text };
    out o = { &s, p, epoch, 1 };
    members(&o);
    done(&o);
}
