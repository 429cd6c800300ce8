/* prof/compare.c -- floor 4, prof: is one set of runs slower than another?
 *
 * For each workflow (its executions) and each node class (its durations), cold and warm runs apart:
 *   - the change of the median and of the 90th percentile, each with a 95 % interval by bootstrap (percentile method, 1,000
 *     resamples; of more than 100 values the resampled quantile is drawn from its normal approximation);
 *   - a two-sided rank test with normal scores (van der Waerden), which under normal noise is as sharp as Student's and
 *     does not mind outliers;
 *   - over all rows the p-values are corrected for their number (Benjamini and Hochberg, 1995): q.
 * A row is slower or faster when q is below 0.05, same when not, too few when a side has less than five values.
 * detectable: the change that would have been found four times of five, 2.8 standard errors of the change. */
#include "prof/runs_inside.h"
#include "base/rng.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define RESAMPLES 1000
#define LARGE 100
#define LEAST 5
#define LEVEL 0.05

/* ---- the test ----------------------------------------------------------------------------------------------------- */

/* The standard normal quantile (Acklam's rational approximation, relative error below 1.2e-9). */
static double normal_quantile(double p) {
    static const double a[] = { -3.969683028665376e+01, 2.209460984245205e+02, -2.759285104469687e+02, 1.383577518672690e+02, -3.066479806614716e+01, 2.506628277459239e+00 };
    static const double b[] = { -5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02, 6.680131188771972e+01, -1.328068155288572e+01 };
    static const double c[] = { -7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00, -2.549732539343734e+00, 4.374664141464968e+00, 2.938163982698783e+00 };
    static const double d[] = { 7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00, 3.754408661907416e+00 };
    if (p < 0.02425) {
        double q = sqrt(-2 * log(p));
        return (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) / ((((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1);
    }
    if (p > 1 - 0.02425) return -normal_quantile(1 - p);
    double q = p - 0.5, r = q * q;
    return (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5]) * q / (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1);
}

/* Both lists sorted. Equal values share the mean of their scores' ranks. */
static double rank_test(const double *a, size_t n_a, const double *b, size_t n_b) {
    size_t n = n_a + n_b, i = 0, k = 0;
    double of_b = 0, all = 0, squares = 0;
    while (i < n_a || k < n_b) {
        double v = k >= n_b || (i < n_a && a[i] <= b[k]) ? a[i] : b[k];
        size_t from = i + k, mine = 0, its = 0;
        while (i < n_a && a[i] == v) { i++; mine++; }
        while (k < n_b && b[k] == v) { k++; its++; }
        double rank = (double)from + ((double)(mine + its) + 1) / 2, score = normal_quantile(rank / ((double)n + 1));
        all += score * (double)(mine + its);
        squares += score * score * (double)(mine + its);
        of_b += score * (double)its;
    }
    double mean = all / (double)n, spread = squares - all * mean;
    double variance = (double)n_a * (double)n_b / ((double)n * ((double)n - 1)) * spread;
    return variance > 0 ? erfc(fabs(of_b - (double)n_b * mean) / sqrt(variance) / sqrt(2)) : 1;
}

/* ---- the intervals -------------------------------------------------------------------------------------------------- */

/* The value of that rank among n draws of which each value was drawn so often. */
static double ranked(const double *v, const unsigned char *drawn, size_t rank) {
    size_t i = 0, passed = drawn[0];
    while (passed <= rank) passed += drawn[++i];
    return v[i];
}

static double drawn_quantile(mp_rng *rng, const double *v, size_t n, double q) {
    if (n > LARGE) {
        double z = normal_quantile((mp_rng_unit(rng) * 0.999999) + 5e-7), at = q + z * sqrt(q * (1 - q) / (double)n);
        return mp_quantile(v, n, at < 0 ? 0 : at > 1 ? 1 : at);
    }
    unsigned char drawn[LARGE] = { 0 };              /* v is sorted, so the draws need not be */
    for (size_t i = 0; i < n; i++) drawn[mp_rng_u64(rng) % n]++;
    double at = q * (double)(n - 1);
    size_t low = (size_t)at;
    double first = ranked(v, drawn, low), then = low + 1 < n ? ranked(v, drawn, low + 1) : first;
    return first + (then - first) * (at - (double)low);
}

/* The change of a quantile, and where it lies; gives the standard error. */
static double interval(mp_rng *rng, const double *a, size_t n_a, const double *b, size_t n_b, double q, double *low, double *high) {
    double v[RESAMPLES], sum = 0, squares = 0;
    for (int i = 0; i < RESAMPLES; i++) {
        double from = drawn_quantile(rng, a, n_a, q), to = drawn_quantile(rng, b, n_b, q);
        v[i] = from > 0 ? to / from - 1 : 0;
        sum += v[i];
        squares += v[i] * v[i];
    }
    figures_sort(v, RESAMPLES);
    *low = mp_quantile(v, RESAMPLES, 0.025);
    *high = mp_quantile(v, RESAMPLES, 0.975);
    double variance = squares / RESAMPLES - sum / RESAMPLES * (sum / RESAMPLES);
    return variance > 0 ? sqrt(variance) : 0;
}

static double change(double from, double to) { return from > 0 ? to / from - 1 : 0; }

void mp_compare(double *a, size_t n_a, double *b, size_t n_b, uint64_t seed, mp_comparison *c) {
    mp_rng rng;
    memset(c, 0, sizeof *c);
    c->n_a = n_a;
    c->n_b = n_b;
    c->p = 1;
    figures_sort(a, n_a);
    figures_sort(b, n_b);
    if (n_a) { c->median_a = mp_quantile(a, n_a, 0.5); c->p90_a = mp_quantile(a, n_a, 0.9); }
    if (n_b) { c->median_b = mp_quantile(b, n_b, 0.5); c->p90_b = mp_quantile(b, n_b, 0.9); }
    if (n_a < LEAST || n_b < LEAST) return;
    mp_rng_seed(&rng, seed);
    c->change = change(c->median_a, c->median_b);
    c->p90_change = change(c->p90_a, c->p90_b);
    c->detectable = 2.8 * interval(&rng, a, n_a, b, n_b, 0.5, &c->low, &c->high);
    interval(&rng, a, n_a, b, n_b, 0.9, &c->p90_low, &c->p90_high);
    c->p = rank_test(a, n_a, b, n_b);
}

/* ---- two sets --------------------------------------------------------------------------------------------------------- */

typedef struct series {
    char *key;                                       /* kind, temperature and name */
    const char *name;
    int workflow, cold;
    figures side[2];
    mp_comparison c;
    double q;
    UT_hash_handle hh;
} series;

static void note(series **all, int workflow, int cold, const char *name, int side, double took) {
    char *key = mp_format("%d%d%s", workflow, cold, name);
    series *s;
    HASH_FIND_STR(*all, key, s);
    if (!s) {
        s = mp_alloc(sizeof *s);
        s->key = key;
        s->name = key + 2;
        s->workflow = workflow;
        s->cold = cold;
        HASH_ADD_KEYPTR(hh, *all, s->key, strlen(s->key), s);
    } else free(key);
    figures_push(&s->side[side], took);
}

static void gather(const mp_runs *r, int side, series **all) {
    for (size_t i = 0; i < r->n; i++) {
        const run *x = &r->runs[i];
        if (!x->good || isnan(x->execution)) continue;
        note(all, 1, x->cold, runs_text(r, x->hash), side, x->execution);
        for (size_t k = 0; k < x->n_nodes; k++) {
            const run_node *n = &r->nodes[x->first_node + k];
            if (n->ran && n->status == MP_NODE_COMPLETED && !isnan(n->took) && n->type) note(all, 0, x->cold, runs_text(r, n->type), side, n->took);
        }
    }
}

static int by_p(const void *a, const void *b) {
    double x = (*(series *const *)a)->c.p, y = (*(series *const *)b)->c.p;
    return x < y ? -1 : x > y;
}

static int tested(const series *s) { return s->c.n_a >= LEAST && s->c.n_b >= LEAST; }

static void correct(series **v, size_t n) {
    double least = 1;
    if (n) qsort(v, n, sizeof *v, by_p);
    for (size_t i = n; i-- > 0;) {
        double q = v[i]->c.p * (double)n / (double)(i + 1);
        if (q < least) least = q;
        v[i]->q = least;
    }
}

static const char *verdict(const series *s) {
    if (!tested(s)) return "too few";
    return s->q >= LEVEL || s->c.median_a == s->c.median_b ? "same" : s->c.median_b > s->c.median_a ? "slower" : "faster";
}

static int in_order(const void *a, const void *b) {
    const series *x = *(series *const *)a, *y = *(series *const *)b;
    if (x->workflow != y->workflow) return y->workflow - x->workflow;
    int named = strcmp(x->name, y->name);
    return named ? named : x->cold - y->cold;
}

static void write_row(const mp_sink *out, const series *s) {
    const mp_comparison *c = &s->c;
    OBJECT(out, NULL);
    sink_text(out, "kind", s->workflow ? "workflow" : "class");
    sink_text(out, s->workflow ? "structureHash" : "type", s->name);
    sink_text(out, "temperature", s->cold ? "cold" : "warm");
    NUMBER(out, "countA", (double)c->n_a);
    NUMBER(out, "countB", (double)c->n_b);
    if (c->n_a) NUMBER(out, "medianA", c->median_a);
    if (c->n_b) NUMBER(out, "medianB", c->median_b);
    if (c->n_a) NUMBER(out, "p90A", c->p90_a);
    if (c->n_b) NUMBER(out, "p90B", c->p90_b);
    if (tested(s)) {
        NUMBER(out, "change", c->change);
        NUMBER(out, "low", c->low);
        NUMBER(out, "high", c->high);
        NUMBER(out, "p90Change", c->p90_change);
        NUMBER(out, "p90Low", c->p90_low);
        NUMBER(out, "p90High", c->p90_high);
        NUMBER(out, "p", c->p);
        NUMBER(out, "q", s->q);
        NUMBER(out, "detectable", c->detectable);
    }
    sink_text(out, "verdict", verdict(s));
    CLOSE(out);
}

void mp_runs_compare(const mp_runs *a, const mp_runs *b, uint64_t seed, const mp_sink *out) {
    series *all = NULL, *s, *next;
    size_t n = 0, tests = 0;
    gather(a, 0, &all);
    gather(b, 1, &all);
    series **v = mp_alloc(HASH_COUNT(all) * sizeof *v + 1), **t = mp_alloc(HASH_COUNT(all) * sizeof *t + 1);
    HASH_ITER(hh, all, s, next) v[n++] = s;
    if (n) qsort(v, n, sizeof *v, in_order);
    for (size_t i = 0; i < n; i++) {
        mp_compare(v[i]->side[0].v, v[i]->side[0].n, v[i]->side[1].v, v[i]->side[1].n, seed + i, &v[i]->c);
        if (tested(v[i])) t[tests++] = v[i];
    }
    correct(t, tests);
    OBJECT(out, NULL);
    ARRAY(out, "rows");
    for (size_t i = 0; i < n; i++) write_row(out, v[i]);
    CLOSE(out);
    CLOSE(out);
    free(v);
    free(t);
    HASH_ITER(hh, all, s, next) {
        HASH_DEL(all, s);
        free(s->key);
        free(s->side[0].v);
        free(s->side[1].v);
        free(s);
    }
}
