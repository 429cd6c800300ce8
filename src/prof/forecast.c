/* prof/forecast.c -- floor 4, prof: how long a workflow takes, learnt from its earlier runs. */
#include "prof/forecast.h"
#include "prof/record.h"
#include <math.h>
#include <stdlib.h>

#define MEMORY 8                                     /* a run's weight never falls below one in so many */

typedef struct { char *id; double mean; } usual;
struct mp_forecast {
    usual *nodes;
    size_t n, cap, runs;
    double total, variance, other;                   /* other: time of the execution that no node accounts for */
};

mp_forecast *mp_forecast_new(void) { return mp_alloc(sizeof(mp_forecast)); }

void mp_forecast_free(mp_forecast *f) {
    if (!f) return;
    for (size_t i = 0; i < f->n; i++) free(f->nodes[i].id);
    free(f->nodes);
    free(f);
}

/* Nodes mostly come in the same order: looked for from `i` on, round. */
static usual *find(const mp_forecast *f, const char *id, size_t i) {
    for (size_t k = 0; k < f->n; k++) {
        usual *u = &f->nodes[(i + k) % f->n];
        if (strcmp(u->id, id) == 0) return u;
    }
    return NULL;
}

static mp_time ran(const mp_profile *p, size_t i, mp_time now) {
    const record *r = &p->nodes[i];
    if (r->status == MP_NODE_EXECUTING) return r->open != NONE ? now - r->open : 0;
    mp_time d = record_duration(p, i);
    return d == NONE ? 0 : d;
}

void mp_forecast_learn(mp_forecast *f, const mp_profile *p, mp_time now) {
    double weight = 1.0 / (double)(f->runs < MEMORY ? f->runs + 1 : MEMORY), nodes = 0;
    if (p->started == NONE || p->inferred) return;
    double total = (double)(now - p->started), off = total - f->total;
    for (size_t i = 0; i < p->n_submitted; i++) {
        const record *r = &p->nodes[i];
        double d = (double)ran(p, i, now);
        if (r->status != MP_NODE_COMPLETED || r->started == NONE) continue;  /* cached: says nothing about running it */
        usual *u = find(f, r->id, i);
        nodes += d;
        if (u) { u->mean += (d - u->mean) * weight; continue; }
        f->nodes = mp_grow(f->nodes, f->n, &f->cap, sizeof *f->nodes);
        f->nodes[f->n++] = (usual){ mp_strdup(r->id), d };
    }
    f->other += ((total > nodes ? total - nodes : 0) - f->other) * weight;
    f->variance += (f->runs ? off * off - f->variance : 0) * weight;
    f->total += off * weight;
    f->runs++;
}

mp_time mp_forecast_total(const mp_forecast *f) { return f && f->runs ? (mp_time)f->total : 0; }

/* What a node that runs still needs: by its own steps once there are two reports (1), else by what is usual (0). */
static int rest_of(const record *r, double usual_time, double elapsed, mp_time now, double *rest) {
    double done = r->value - r->first_value, took = (double)(r->last_progress - r->first_progress);
    int told = done > 0 && took > 0 && r->max > r->value && r->max < 1e12;
    *rest = told ? took / done * (r->max - r->value) - (double)(now - r->last_progress) : usual_time - elapsed;
    if (*rest < 0) *rest = 0;
    return told;
}

int mp_forecast_left(const mp_forecast *f, const mp_profile *p, mp_time now, mp_time *left, mp_time *low, mp_time *high) {
    double pending = 0, running = 0, done = 0, usual_done = 0, rest_of_it, open = 0;      /* open: usual time of what may vary as much as ever */
    if (!f || !f->runs || p->started == NONE) return 0;
    for (size_t i = 0; i < p->n_submitted; i++) {
        const record *r = &p->nodes[i];
        const usual *u = find(f, r->id, i);
        double usual_time = u ? u->mean : 0, d = (double)ran(p, i, now);
        if (r->status == MP_NODE_PENDING) pending += usual_time;
        else if (r->status == MP_NODE_EXECUTING) {
            if (!rest_of(r, usual_time, d, now, &rest_of_it)) open += usual_time;
            running += rest_of_it;
        } else if (r->status == MP_NODE_COMPLETED && u) { done += d; usual_done += usual_time; }
    }
    double pace = usual_done > 0.1 * f->total ? done / usual_done : 1;   /* this run against the usual one */
    pace = pace < 0.2 ? 0.2 : pace > 5 ? 5 : pace;
    double rest = running + pending * pace;
    rest += f->total > 0 ? f->other * (rest / f->total < 1 ? rest / f->total : 1) : 0;
    if (!(rest >= 0 && rest < 1e15)) rest = 1e15;    /* thirty years: what came in makes no sense */
    open += pending + f->other;
    double spread = 1.645 * sqrt(f->variance * (open < f->total ? open / f->total : 1)) + 0.05 * rest;
    *left = (mp_time)rest;
    *low = (mp_time)(rest > spread ? rest - spread : 0);
    *high = (mp_time)(rest + (spread < 1e15 ? spread : 1e15));
    return 1;
}
