/* prof/cachewhy.c -- floor 4, prof: why a node ran again instead of being answered from its server's cache.
 * A server keeps the results of the prompt before (protocol 5.3), so a node is compared with the last run of the same
 * workflow on the same client: its own inputs, then those of all that it needs. What is equal and ran all the same was
 * evicted by what ran in between, or was never there. */
#include "prof/runs_inside.h"
#include <math.h>
#include <stdlib.h>

static const char *const words[WHY_COUNT] = { NULL, "first", "input", "ancestor", "evicted", "other_client", "unfinished", "never_cached", "unknown" };

/* ---- signatures --------------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h, uint64_t v) {
    h ^= v;
    h *= 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

/* Of a node and all that it needs. A loop, which no server runs, ends at the node that is being looked at. */
static uint64_t sign(mp_runs *r, const run *x, size_t i, int deep) {
    run_node *n = &r->nodes[x->first_node + i];
    if (n->signature || deep > 10000) return n->signature;
    uint64_t h = mix(0x6d6f6f6e, n->type);
    n->signature = 1;
    for (size_t k = 0; k < n->n_inputs; k++) {
        const run_input *in = &r->inputs[n->first_input + k];
        h = mix(h, in->name);
        if (in->link >= 0) {
            const char *text = runs_text(r, in->value), *comma = text ? strrchr(text, ',') : NULL;
            h = mix(mix(h, sign(r, x, (size_t)in->link, deep + 1)), comma ? strtoull(comma + 1, NULL, 10) : 0);
        } else h = mix(h, in->value);
    }
    return n->signature = h ? h : 1;
}

/* ---- one node, against the run before ---------------------------------------------------------------------------- */

static const run_node *same_node(const mp_runs *r, const run *before, const run *x, size_t i) {
    word id = r->nodes[x->first_node + i].id;
    if (i < before->n_nodes && r->nodes[before->first_node + i].id == id) return &r->nodes[before->first_node + i];
    for (size_t k = 0; k < before->n_nodes; k++)
        if (r->nodes[before->first_node + k].id == id) return &r->nodes[before->first_node + k];
    return NULL;
}

/* The first own input that differs, with both values; values that are links count by whom they name. */
static int changed_input(const mp_runs *r, const run_node *n, const run_node *old, run_node *told) {
    for (size_t k = 0; k < n->n_inputs; k++) {
        const run_input *in = &r->inputs[n->first_input + k];
        word was = 0;
        for (size_t m = 0; m < old->n_inputs; m++)
            if (r->inputs[old->first_input + m].name == in->name) was = r->inputs[old->first_input + m].value;
        if (was == in->value) continue;
        told->input = in->name;
        told->before = was;
        told->after = in->value;
        return 1;
    }
    return 0;
}

/* The nearest node that it needs and that differs, or, when none does, that ran all the same: level by level. */
static int changed_ancestor(const mp_runs *r, const run *x, const run *before, size_t i, run_node *told, unsigned char *seen, uint32_t *line) {
    size_t head = 0, n = 1;
    word ran = 0;
    memset(seen, 0, x->n_nodes);
    line[0] = (uint32_t)i;
    seen[i] = 1;
    for (; head < n; head++) {
        const run_node *at = &r->nodes[x->first_node + line[head]];
        const run_node *old = same_node(r, before, x, line[head]);
        if (head) {
            if (!old || changed_input(r, at, old, told)) { told->ancestor = at->id; return 1; }
            if (at->ran) ran = at->id;               /* the farthest of those is what began it */
        }
        for (size_t k = 0; k < at->n_inputs; k++) {
            int32_t to = r->inputs[at->first_input + k].link;
            if (to < 0 || seen[to]) continue;
            seen[to] = 1;
            line[n++] = (uint32_t)to;
        }
    }
    told->ancestor = ran;
    return ran != 0;
}

typedef struct { uint64_t signature; word client; UT_hash_handle hh; } executed;
typedef struct { uint64_t place; size_t at; UT_hash_handle hh; } last_run;       /* place: client and hash, or either alone */
typedef struct { uint64_t node; size_t cached; UT_hash_handle hh; } hits;        /* node: hash and id */

static uint64_t pair(word a, word b) { return (uint64_t)a << 32 | b; }

static why judge(const mp_runs *r, const run *x, size_t i, const run *same, const run *last, const executed *known, run_node *n, unsigned char *seen, uint32_t *line) {
    const run_node *old = same ? same_node(r, same, x, i) : NULL;
    if (!old) {
        if (known && known->client != x->client) { n->other = known->client; return WHY_OTHER_CLIENT; }
        return known ? WHY_UNKNOWN : WHY_FIRST;
    }
    if (changed_input(r, n, old, n)) return WHY_INPUT;
    if (changed_ancestor(r, x, same, i, n, seen, line)) {
        if (n->input || same == last) return WHY_ANCESTOR;           /* else what it needs was evicted too */
        n->ancestor = 0;
    }
    if (old->status != MP_NODE_COMPLETED && old->status != MP_NODE_CACHED) return WHY_UNFINISHED;
    if (same != last) { n->other = last->hash; return WHY_EVICTED; }
    return WHY_UNKNOWN;                                  /* or never cached: told apart when all were seen */
}

static void remember(last_run **all, uint64_t place, size_t at) {
    last_run *l;
    HASH_FIND(hh, *all, &place, sizeof place, l);
    if (!l) {
        l = mp_alloc(sizeof *l);
        l->place = place;
        HASH_ADD(hh, *all, place, sizeof place, l);
    }
    l->at = at;
}

static const run *recall(const mp_runs *r, const last_run *all, uint64_t place) {
    const last_run *l;
    HASH_FIND(hh, all, &place, sizeof place, l);
    return l ? &r->runs[l->at] : NULL;
}

static void explain(mp_runs *r) {
    executed *done = NULL, *e, *e_next;
    last_run *places = NULL, *l, *l_next;
    hits *found = NULL, *h, *h_next;
    size_t widest = 1;
    if (r->explained) return;
    r->explained = 1;
    for (size_t i = 0; i < r->n; i++) {
        const run *x = &r->runs[i];
        if (x->n_nodes > widest) widest = x->n_nodes;
        for (size_t k = 0; k < x->n_nodes; k++) {
            uint64_t key = pair(x->hash, r->nodes[x->first_node + k].id);
            HASH_FIND(hh, found, &key, sizeof key, h);
            if (!h) {
                h = mp_alloc(sizeof *h);
                h->node = key;
                HASH_ADD(hh, found, node, sizeof key, h);
            }
            h->cached += r->nodes[x->first_node + k].status == MP_NODE_CACHED;
        }
    }
    unsigned char *seen = mp_alloc(widest);
    uint32_t *line = mp_alloc(widest * sizeof *line);
    for (size_t i = 0; i < r->n; i++) {
        const run *x = &r->runs[i];
        if (isnan(x->started)) continue;
        const run *same = recall(r, places, pair(x->client, x->hash)), *last = recall(r, places, pair(x->client, 0));
        for (size_t k = 0; k < x->n_nodes; k++) {
            run_node *n = &r->nodes[x->first_node + k];
            uint64_t s = sign(r, x, k, 0);
            n->reason = WHY_NONE;
            n->input = n->before = n->after = n->ancestor = n->other = 0;
            if (!n->ran) continue;
            HASH_FIND(hh, done, &s, sizeof s, e);
            n->repeated = e != NULL;
            n->reason = judge(r, x, k, same, last, e, n, seen, line);
            uint64_t key = pair(x->hash, n->id);
            HASH_FIND(hh, found, &key, sizeof key, h);
            if (n->reason == WHY_UNKNOWN && same && same == last && !h->cached) n->reason = WHY_NEVER_CACHED;
        }
        for (size_t k = 0; k < x->n_nodes; k++) {    /* after all of the run were judged: twins are no repetition */
            const run_node *n = &r->nodes[x->first_node + k];
            if (!n->ran || n->status != MP_NODE_COMPLETED) continue;
            HASH_FIND(hh, done, &n->signature, sizeof n->signature, e);
            if (e) { e->client = x->client; continue; }
            e = mp_alloc(sizeof *e);
            e->signature = n->signature;
            e->client = x->client;
            HASH_ADD(hh, done, signature, sizeof e->signature, e);
        }
        remember(&places, pair(x->client, x->hash), i);
        remember(&places, pair(x->client, 0), i);
    }
    free(seen);
    free(line);
    HASH_ITER(hh, done, e, e_next) { HASH_DEL(done, e); free(e); }
    HASH_ITER(hh, places, l, l_next) { HASH_DEL(places, l); free(l); }
    HASH_ITER(hh, found, h, h_next) { HASH_DEL(found, h); free(h); }
}

/* ---- the answers -------------------------------------------------------------------------------------------------------- */

void mp_runs_why(mp_runs *r, size_t i, const mp_sink *out) {
    explain(r);
    const run *x = &r->runs[i];
    ARRAY(out, NULL);
    for (size_t k = 0; k < x->n_nodes; k++) {
        const run_node *n = &r->nodes[x->first_node + k];
        if (n->reason == WHY_NONE) continue;
        OBJECT(out, NULL);
        sink_text(out, "nodeId", runs_text(r, n->id));
        sink_text(out, "type", runs_text(r, n->type));
        sink_text(out, "reason", words[n->reason]);
        sink_text(out, "input", runs_text(r, n->input));
        sink_text(out, "old", runs_text(r, n->before));
        sink_text(out, "new", runs_text(r, n->after));
        sink_text(out, "ancestor", runs_text(r, n->ancestor));
        sink_text(out, "other", runs_text(r, n->other));
        CLOSE(out);
    }
    CLOSE(out);
}

typedef struct tally {
    uint64_t node;
    word hash, id, type, title;
    size_t ran, cached, distinct, repeated, reasons[WHY_COUNT];
    double wasted;
    UT_hash_handle hh;
} tally;
typedef struct { uint64_t node, signature; } seen_key;
typedef struct { seen_key key; UT_hash_handle hh; } seen_entry;

static int most_wasted(const void *a, const void *b) {
    const tally *x = *(tally *const *)a, *y = *(tally *const *)b;
    if (x->wasted != y->wasted) return x->wasted > y->wasted ? -1 : 1;
    if (x->ran != y->ran) return x->ran > y->ran ? -1 : 1;
    return x->node < y->node ? -1 : x->node > y->node;
}

static void count(mp_runs *r, tally **all, seen_entry **distinct) {
    for (size_t i = 0; i < r->n; i++) {
        const run *x = &r->runs[i];
        if (isnan(x->started)) continue;
        for (size_t k = 0; k < x->n_nodes; k++) {
            const run_node *n = &r->nodes[x->first_node + k];
            if (!n->ran && n->status != MP_NODE_CACHED) continue;
            uint64_t key = pair(x->hash, n->id);
            tally *t;
            HASH_FIND(hh, *all, &key, sizeof key, t);
            if (!t) {
                t = mp_alloc(sizeof *t);
                t->node = key;
                t->hash = x->hash;
                t->id = n->id;
                t->type = n->type;
                t->title = n->title;
                HASH_ADD(hh, *all, node, sizeof key, t);
            }
            if (!n->ran) { t->cached++; continue; }
            seen_key both = { key, n->signature };
            seen_entry *s;
            HASH_FIND(hh, *distinct, &both, sizeof both, s);
            if (!s) {
                s = mp_alloc(sizeof *s);
                s->key = both;
                HASH_ADD(hh, *distinct, key, sizeof both, s);
                t->distinct++;
            }
            t->ran++;
            t->repeated += (size_t)n->repeated;
            t->reasons[n->reason]++;
            int avoidable = n->repeated && (n->reason == WHY_EVICTED || n->reason == WHY_OTHER_CLIENT || n->reason == WHY_INPUT || n->reason == WHY_ANCESTOR);
            if (avoidable && !isnan(n->took)) t->wasted += n->took;
        }
    }
}

static void write_tally(const mp_runs *r, const mp_sink *out, const tally *t) {
    OBJECT(out, NULL);
    sink_text(out, "structureHash", runs_text(r, t->hash));
    sink_text(out, "nodeId", runs_text(r, t->id));
    sink_text(out, "type", runs_text(r, t->type));
    sink_text(out, "title", runs_text(r, t->title));
    NUMBER(out, "ran", (double)t->ran);
    NUMBER(out, "cached", (double)t->cached);
    NUMBER(out, "hitRate", (double)t->cached / (double)(t->ran + t->cached));
    NUMBER(out, "distinct", (double)t->distinct);
    NUMBER(out, "repeated", (double)t->repeated);
    NUMBER(out, "wasted", t->wasted);
    OBJECT(out, "reasons");
    for (int k = 1; k < WHY_COUNT; k++)
        if (t->reasons[k]) NUMBER(out, words[k], (double)t->reasons[k]);
    CLOSE(out);
    CLOSE(out);
}

void mp_runs_cache(mp_runs *r, const mp_sink *out) {
    tally *all = NULL, *t, *t_next;
    seen_entry *distinct = NULL, *s, *s_next;
    size_t n = 0, ran = 0, cached = 0, begun = 0;
    explain(r);
    count(r, &all, &distinct);
    for (size_t i = 0; i < r->n; i++) begun += !isnan(r->runs[i].started);
    tally **v = mp_alloc(HASH_COUNT(all) * sizeof *v + 1);
    for (tally *x = all; x; x = x->hh.next) {
        v[n++] = x;
        ran += x->ran;
        cached += x->cached;
    }
    if (n) qsort(v, n, sizeof *v, most_wasted);
    OBJECT(out, NULL);
    NUMBER(out, "runs", (double)begun);
    NUMBER(out, "ran", (double)ran);
    NUMBER(out, "cached", (double)cached);
    NUMBER(out, "hitRate", ran + cached ? (double)cached / (double)(ran + cached) : 0);
    ARRAY(out, "nodes");
    for (size_t i = 0; i < n; i++) write_tally(r, out, v[i]);
    CLOSE(out);
    CLOSE(out);
    free(v);
    HASH_ITER(hh, all, t, t_next) { HASH_DEL(all, t); free(t); }
    HASH_ITER(hh, distinct, s, s_next) { HASH_DEL(distinct, s); free(s); }
}
