/* prof/progress.c -- floor 4, prof: how fast samplers go, and how well the time left can be told. */
#include "prof/runs_inside.h"
#include <math.h>
#include <stdlib.h>

typedef struct sampler { word type; figures first, last, median, slowest, share; UT_hash_handle hh; } sampler;

static double quantile_of(figures *l, double q) {
    if (!l->n) return NAN;
    figures_sort(l->v, l->n);
    return mp_quantile(l->v, l->n, q);
}

/* Steps per second between each two reports of a node; reports that go back begin anew. */
static void pace(const mp_runs *r, const run *x, const run_node *n, sampler *s) {
    figures rates = { 0 };
    for (size_t i = 1; i < n->n_events; i++) {
        const run_event *a = &r->events[n->first_event + i - 1], *b = a + 1;
        if (b->value > a->value && b->t > a->t) figures_push(&rates, (b->value - a->value) * 1000 / (b->t - a->t));
    }
    if (rates.n) {
        figures_push(&s->first, rates.v[0]);
        figures_push(&s->last, rates.v[rates.n - 1]);
        figures_push(&s->median, quantile_of(&rates, 0.5));
        figures_push(&s->slowest, rates.v[0]);               /* sorted now */
        if (x->execution > 0 && !isnan(n->took)) figures_push(&s->share, n->took / x->execution);
    }
    free(rates.v);
}

static void number(const mp_sink *out, const char *name, double v) { if (!isnan(v)) NUMBER(out, name, v); }

static void write_sampler(const mp_runs *r, const mp_sink *out, sampler *s) {
    OBJECT(out, NULL);
    sink_text(out, "type", runs_text(r, s->type));
    NUMBER(out, "nodes", (double)s->median.n);
    number(out, "first", quantile_of(&s->first, 0.5));
    number(out, "last", quantile_of(&s->last, 0.5));
    number(out, "median", quantile_of(&s->median, 0.5));
    number(out, "slowest", quantile_of(&s->slowest, 0));
    number(out, "share", quantile_of(&s->share, 0.5));
    CLOSE(out);
}

/* What the runs before would have said at half way: their usual time, less what has passed. */
typedef struct usual { word hash; double mean; size_t runs; UT_hash_handle hh; } usual;

static void time_left(const mp_runs *r, const mp_sink *out) {
    usual *all = NULL, *u, *next;
    figures off = { 0 };
    for (size_t i = 0; i < r->n; i++) {
        const run *x = &r->runs[i];
        if (!x->good || x->cold || isnan(x->execution) || x->execution <= 0) continue;
        HASH_FIND(hh, all, &x->hash, sizeof x->hash, u);
        if (!u) {
            u = mp_alloc(sizeof *u);
            u->hash = x->hash;
            HASH_ADD(hh, all, hash, sizeof u->hash, u);
        }
        if (u->runs >= 5) {
            double left = u->mean - x->execution / 2, real = x->execution / 2;
            figures_push(&off, fabs((left > 0 ? left : 0) - real) / real);
        }
        u->mean += (x->execution - u->mean) / (double)(u->runs < 8 ? u->runs + 1 : 8);
        u->runs++;
    }
    OBJECT(out, "timeLeft");
    NUMBER(out, "runs", (double)off.n);
    number(out, "median", quantile_of(&off, 0.5));
    number(out, "p90", quantile_of(&off, 0.9));
    CLOSE(out);
    free(off.v);
    HASH_ITER(hh, all, u, next) { HASH_DEL(all, u); free(u); }
}

void mp_runs_progress(const mp_runs *r, const mp_sink *out) {
    sampler *all = NULL, *s, *next;
    for (size_t i = 0; i < r->n; i++)
        for (size_t k = 0; k < r->runs[i].n_nodes; k++) {
            const run_node *n = &r->nodes[r->runs[i].first_node + k];
            if (n->n_events < 2) continue;
            HASH_FIND(hh, all, &n->type, sizeof n->type, s);
            if (!s) {
                s = mp_alloc(sizeof *s);
                s->type = n->type;
                HASH_ADD(hh, all, type, sizeof s->type, s);
            }
            pace(r, &r->runs[i], n, s);
        }
    OBJECT(out, NULL);
    ARRAY(out, "rows");
    for (sampler *x = all; x; x = x->hh.next) write_sampler(r, out, x);
    HASH_ITER(hh, all, s, next) {
        HASH_DEL(all, s);
        free(s->first.v);
        free(s->last.v);
        free(s->median.v);
        free(s->slowest.v);
        free(s->share.v);
        free(s);
    }
    CLOSE(out);
    time_left(r, out);
    CLOSE(out);
}
