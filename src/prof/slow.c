/* prof/slow.c -- floor 4, prof: where the time goes, over many runs; and what each client did with its own. */
#include "prof/runs_inside.h"
#include <math.h>
#include <stdlib.h>

typedef struct { word a, b; } row_key;
typedef struct row {
    row_key key;
    word hash, id, type, title, client;
    figures cold, warm;
    double total;
    size_t cached, failed;
    UT_hash_handle hh;
} row;

static row *row_of(row **all, word a, word b) {
    row_key key = { a, b };
    row *x;
    HASH_FIND(hh, *all, &key, sizeof key, x);
    if (x) return x;
    x = mp_alloc(sizeof *x);
    x->key = key;
    HASH_ADD(hh, *all, key, sizeof key, x);
    return x;
}

static void note(row *x, double took, int cold) {
    if (isnan(took)) return;
    x->total += took;
    figures_push(cold ? &x->cold : &x->warm, took);
}

static void note_run(const mp_runs *r, row **all, const run *x, mp_by by) {
    if (by == MP_BY_CLIENT || by == MP_BY_WORKFLOW) {
        row *at = row_of(all, by == MP_BY_CLIENT ? x->client : x->hash, 0);
        at->client = by == MP_BY_CLIENT ? x->client : 0;
        at->hash = by == MP_BY_WORKFLOW ? x->hash : 0;
        at->failed += !x->good;
        note(at, x->execution, x->cold);
        return;
    }
    for (size_t i = 0; i < x->n_nodes; i++) {
        const run_node *n = &r->nodes[x->first_node + i];
        row *at = by == MP_BY_NODE ? row_of(all, x->hash, n->id) : row_of(all, n->type, 0);
        at->type = n->type;
        if (by == MP_BY_NODE) { at->hash = x->hash; at->id = n->id; at->title = n->title; }
        at->cached += n->status == MP_NODE_CACHED;
        at->failed += n->status == MP_NODE_FAILED;
        if (n->ran) note(at, n->took, x->cold);
    }
}

static int most_first(const void *a, const void *b) {
    const row *x = *(row *const *)a, *y = *(row *const *)b;
    if (x->total != y->total) return x->total > y->total ? -1 : 1;
    return x->key.a != y->key.a ? (x->key.a < y->key.a ? -1 : 1) : x->key.b < y->key.b ? -1 : x->key.b > y->key.b;
}

static void write_row(const mp_runs *r, const mp_sink *out, const row *x, double total) {
    figures all = { 0 };
    for (size_t i = 0; i < x->cold.n; i++) figures_push(&all, x->cold.v[i]);
    for (size_t i = 0; i < x->warm.n; i++) figures_push(&all, x->warm.v[i]);
    OBJECT(out, NULL);
    sink_text(out, "structureHash", runs_text(r, x->hash));
    sink_text(out, "nodeId", runs_text(r, x->id));
    sink_text(out, "type", runs_text(r, x->type));
    sink_text(out, "title", runs_text(r, x->title));
    sink_text(out, "client", runs_text(r, x->client));
    sink_figures(out, all.v, all.n);
    NUMBER(out, "cached", (double)x->cached);
    NUMBER(out, "failed", (double)x->failed);
    NUMBER(out, "share", total > 0 ? x->total / total : 0);
    OBJECT(out, "cold");
    sink_figures(out, x->cold.v, x->cold.n);
    CLOSE(out);
    OBJECT(out, "warm");
    sink_figures(out, x->warm.v, x->warm.n);
    CLOSE(out);
    CLOSE(out);
    free(all.v);
}

void mp_runs_slow(const mp_runs *r, mp_by by, const mp_sink *out) {
    row *all = NULL, *x, *next;
    double total = 0;
    size_t n = 0, begun = 0;
    for (size_t i = 0; i < r->n; i++) {
        if (isnan(r->runs[i].started)) continue;
        begun++;
        if (!isnan(r->runs[i].execution)) total += r->runs[i].execution;
        note_run(r, &all, &r->runs[i], by);
    }
    row **v = mp_alloc(HASH_COUNT(all) * sizeof *v + 1);
    HASH_ITER(hh, all, x, next) v[n++] = x;
    if (n) qsort(v, n, sizeof *v, most_first);
    OBJECT(out, NULL);
    NUMBER(out, "runs", (double)begun);
    NUMBER(out, "total", total);
    ARRAY(out, "rows");
    for (size_t i = 0; i < n; i++) write_row(r, out, v[i], total);
    CLOSE(out);
    CLOSE(out);
    free(v);
    HASH_ITER(hh, all, x, next) {
        HASH_DEL(all, x);
        free(x->cold.v);
        free(x->warm.v);
        free(x);
    }
}

/* ---- clients ------------------------------------------------------------------------------------------------------------ */

typedef struct { double from, to; } span;
typedef struct { span *v; size_t n; } spans;         /* in order, and none touches another */
typedef struct { word hash; span s; } block;
typedef struct { double busy, no_work, blocked, elsewhere, held, transfer, network, reach; size_t runs; spans open; int blocks; } day;

static double overlap(double a, double b, double from, double to) {
    double low = a > from ? a : from, high = b < to ? b : to;
    return high > low ? high - low : 0;
}

static int by_begin(const void *a, const void *b) { double x = ((const span *)a)->from, y = ((const span *)b)->from; return x < y ? -1 : x > y; }
static int by_start(const void *a, const void *b) { double x = ((const run_attempt *)a)->started, y = ((const run_attempt *)b)->started; return x < y ? -1 : x > y; }

static int by_hash(const void *a, const void *b) {
    const block *x = a, *y = b;
    return x->hash != y->hash ? (x->hash < y->hash ? -1 : 1) : x->s.from != y->s.from ? (x->s.from < y->s.from ? -1 : 1) : 0;
}

/* How long each workflow that failed on client c was kept away from it: till it was tried there again. By hash, then in order;
 * the taker's to free. */
static block *blocks_of(const mp_runs *r, word c, const run_attempt *v, size_t n, size_t *count) {
    block *b = NULL, *tries = NULL;                  /* a try: when it began, and since when its job had been waiting */
    size_t cap = 0, n_b = 0, cap_tries = 0, n_tries = 0, at = 0, used = 0;
    for (size_t i = 0; i < r->n_failures; i++) {
        const run_failure *f = &r->failures[i];
        if (f->client != c) continue;
        b = mp_grow(b, n_b, &cap, sizeof *b);
        b[n_b++] = (block){ f->hash, { f->at, INFINITY } };
    }
    for (size_t i = 0; i < n; i++) {
        if (v[i].client != c) continue;
        tries = mp_grow(tries, n_tries, &cap_tries, sizeof *tries);
        tries[n_tries++] = (block){ v[i].hash, { v[i].started, v[i].queued } };
    }
    if (n_b) qsort(b, n_b, sizeof *b, by_hash);
    if (n_tries) qsort(tries, n_tries, sizeof *tries, by_hash);
    for (size_t i = 0; i < n_b; i++) {
        while (at < n_tries && by_hash(&tries[at], &b[i]) < 0) at++;
        if (at < n_tries && tries[at].hash == b[i].hash) b[i].s.to = tries[at].s.to > b[i].s.from ? tries[at].s.to : b[i].s.from;
        if (used && b[used - 1].hash == b[i].hash && b[i].s.from <= b[used - 1].s.to) { if (b[i].s.to > b[used - 1].s.to) b[used - 1].s.to = b[i].s.to; }
        else b[used++] = b[i];
    }
    free(tries);
    *count = used;
    return b;
}

/* The first block of that hash that ends behind `from`, or the first of a later hash. */
static size_t first_block(const block *b, size_t n, word hash, double from) {
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (b[middle].hash < hash || (b[middle].hash == hash && b[middle].s.to <= from)) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* When at least one job waited in the pool that was not kept away by one of the blocks. */
static spans waiting(const run_attempt *v, size_t n, const block *b, size_t n_blocks) {
    span *out = NULL;
    size_t k = 0, cap = 0, used = 0;
    for (size_t i = 0; i < n; i++) {
        double from = v[i].queued, to = v[i].upload;
        for (size_t j = first_block(b, n_blocks, v[i].hash, from); j < n_blocks && b[j].hash == v[i].hash && b[j].s.from < to; j++) {
            if (b[j].s.from > from) {
                out = mp_grow(out, k, &cap, sizeof *out);
                out[k++] = (span){ from, b[j].s.from };
            }
            from = b[j].s.to;
        }
        if (to <= from) continue;
        out = mp_grow(out, k, &cap, sizeof *out);
        out[k++] = (span){ from, to };
    }
    if (k) qsort(out, k, sizeof *out, by_begin);
    for (size_t i = 0; i < k; i++) {
        if (used && out[i].from <= out[used - 1].to) { if (out[i].to > out[used - 1].to) out[used - 1].to = out[i].to; }
        else out[used++] = out[i];
    }
    return (spans){ out, used };
}

/* How much of from..to lies in the spans. */
static double covered(spans w, double from, double to) {
    const span *v = w.v;
    size_t low = 0, high = w.n;
    double sum = 0;
    while (low < high) {                             /* the first that ends behind `from` */
        size_t middle = (low + high) / 2;
        if (v[middle].to <= from) low = middle + 1;
        else high = middle;
    }
    for (; low < w.n && v[low].from < to; low++) sum += overlap(from, to, v[low].from, v[low].to);
    return sum;
}

static void idle(day *d, spans all, double from, double to) {
    if (to <= from) return;
    double waited = covered(all, from, to), others = d->blocks ? covered(d->open, from, to) : waited;
    d->elsewhere += others;
    d->blocked += waited - others;
    d->no_work += to - from - waited;
}

void mp_runs_clients(const mp_runs *r, const mp_sink *out) {
    day *days = mp_alloc((r->n_words + 1) * sizeof *days);
    run_attempt *v = mp_alloc(r->n_attempts * sizeof *v + 1);
    double from = INFINITY, to = -INFINITY;
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) {
        const run *x = &r->runs[i];
        for (size_t k = 0; k < x->n_attempts; k++) v[n++] = r->attempts[x->first_attempt + k];
        if (x->n_attempts && x->queued < from) from = x->queued;
        for (size_t k = 0; k < x->n_attempts; k++)
            if (v[n - 1 - k].ended > to) to = v[n - 1 - k].ended;
    }
    if (n) qsort(v, n, sizeof *v, by_start);
    spans all = waiting(v, n, NULL, 0);
    for (size_t i = 0; i < r->n_failures; i++) {
        day *d = &days[r->failures[i].client];
        size_t count;
        if (d->blocks++) continue;
        block *b = blocks_of(r, r->failures[i].client, v, n, &count);
        d->open = waiting(v, n, b, count);
        free(b);
    }
    for (size_t i = 0; i < n; i++) {
        const run_attempt *x = &v[i];
        day *d = &days[x->client];
        double gap = d->runs++ ? d->reach : from, seen = x->queued > gap ? x->queued : gap;
        idle(d, all, gap, seen < x->started ? seen : x->started);
        d->held += overlap(gap, x->started, x->queued, x->upload);
        d->transfer += overlap(gap, x->started, x->upload > x->queued ? x->upload : x->queued, x->sent);
        d->network += overlap(gap, x->started, x->sent > x->queued ? x->sent : x->queued, x->started);
        d->busy += overlap(x->started, x->ended, gap, x->ended);
        if (x->ended > d->reach || d->runs == 1) d->reach = x->ended;
    }
    OBJECT(out, NULL);
    if (to >= from) {
        NUMBER(out, "from", from);
        NUMBER(out, "to", to);
    }
    ARRAY(out, "clients");
    for (word c = 1; c <= r->n_words; c++) {
        day *d = &days[c];
        if (!d->runs) continue;
        idle(d, all, d->reach, to);
        OBJECT(out, NULL);
        sink_text(out, "client", runs_text(r, c));
        NUMBER(out, "runs", (double)d->runs);
        NUMBER(out, "busy", d->busy);
        NUMBER(out, "utilization", to > from ? d->busy / (to - from) : 0);
        NUMBER(out, "idle", to - from - d->busy);
        NUMBER(out, "noWork", d->no_work);
        NUMBER(out, "blocked", d->blocked);
        NUMBER(out, "elsewhere", d->elsewhere);
        NUMBER(out, "held", d->held);
        NUMBER(out, "transfer", d->transfer);
        NUMBER(out, "network", d->network);
        CLOSE(out);
    }
    CLOSE(out);
    CLOSE(out);
    for (word c = 1; c <= r->n_words; c++) free(days[c].open.v);
    free(all.v);
    free(days);
    free(v);
}
