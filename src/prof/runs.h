/* prof/runs.h -- floor 4, prof: many finished jobs, read from profile logs, and what can be said of them together. The
 * answers are documents, written into a sink; the words are for others to find.
 * Sees: base, graph, prof. Seen by: lua. */
#ifndef MP_RUNS_H
#define MP_RUNS_H
#include "prof/profile.h"

typedef struct mp_runs mp_runs;

mp_runs *mp_runs_new(void);
void mp_runs_free(mp_runs *r);                       /* NULL is fine */
/* Adds the lines of a log. Lines that are no profile of schema 1 are counted and left out. 0, or MP_EIO. */
int mp_runs_load(mp_runs *r, const char *path, mp_err *e);
void mp_runs_add(mp_runs *r, mp_str line);
/* To be called after the last one was added: puts them in the order of their starts, tells cold runs from warm ones. */
void mp_runs_ready(mp_runs *r);
/* Only those with this label (NULL: all) stay. Number left. */
size_t mp_runs_only(mp_runs *r, const char *label);
size_t mp_runs_count(const mp_runs *r);
size_t mp_runs_completed(const mp_runs *r);          /* of those */
size_t mp_runs_bad(const mp_runs *r, size_t *newer); /* lines left out; newer: those of a schema we do not know */
mp_str mp_runs_text(const mp_runs *r, size_t i);     /* the line as it was read */

typedef enum { MP_BY_NODE, MP_BY_CLASS, MP_BY_CLIENT, MP_BY_WORKFLOW } mp_by;

/* {runs, total, rows = {{structureHash, nodeId, type, title, client, count, cached, failed, total, share, mean, p50, p90, p99,
 * max, cold = {...}, warm = {...}}}}: times in ms, of executions (clients and workflows: of whole runs), most time first.
 * Quantiles between two values are interpolated. A run is cold when its client ran other models, or nothing, before it. */
void mp_runs_slow(const mp_runs *r, mp_by by, const mp_sink *out);
/* {runs, ran, cached, hitRate, nodes = {{structureHash, nodeId, type, title, ran, cached, hitRate, distinct, repeated, wasted,
 * reasons = {input = n, ...}}}}: repeated: executions with inputs that had been executed before, all the way up; wasted:
 * the time of those, where another order or another client would have spared it; most of it first. */
void mp_runs_cache(mp_runs *r, const mp_sink *out);
/* Of run i: {{nodeId, type, reason, input, old, new, ancestor, other}}, one for each node that ran. Reasons:
 *   first         nothing like it ran before in this log
 *   input         its own input changed: old and new value
 *   ancestor      a node that it needs ran: because of its input (old, new), or because that one is never cached
 *   evicted       the same ran on this client, and another workflow (other: its hash) in between
 *   other_client  the same ran, but on another client (other)
 *   unfinished    the run before on this client did not come to its end
 *   never_cached  it is never answered from the cache in this log
 *   unknown       what was compared is equal, and nothing was in between; a restart, a full cache, another pool */
void mp_runs_why(mp_runs *r, size_t i, const mp_sink *out);
/* {rows = {{type, nodes, first, last, median, slowest, share}}, timeLeft = {runs, median, p90}}: steps per second, medians over
 * all nodes of a class that reported; share of the execution; error of the time left at half way, as a share of it. */
void mp_runs_progress(const mp_runs *r, const mp_sink *out);
/* {from, to, clients = {{client, runs, busy, utilization, idle, noWork, blocked, elsewhere, held, transfer, network}}}: ms, of every attempt
 * that was begun. Idle before an execution by what it was doing: waiting in the pool (held), being uploaded, on its way; and
 * before it was there: whether nothing waited in the pool (noWork), only workflows that had failed here and were not tried
 * here again (blocked), or something that went elsewhere (resting, affinity, policy). */
void mp_runs_clients(const mp_runs *r, const mp_sink *out);
/* Two sets, per workflow and per node class, cold and warm apart; see compare.c for the method.
 * {rows = {{kind, structureHash, type, temperature, countA, countB, medianA, medianB, change, low, high, p90A, p90B, p90Change,
 * p90Low, p90High, p, q, detectable, verdict}}}; changes are shares (0.1: ten per cent slower). */
void mp_runs_compare(const mp_runs *a, const mp_runs *b, uint64_t seed, const mp_sink *out);

/* The method on two lists of times alone: fills the numbers of a row. */
typedef struct mp_comparison {
    size_t n_a, n_b;
    double median_a, median_b, change, low, high, p90_a, p90_b, p90_change, p90_low, p90_high, p, detectable;
} mp_comparison;
void mp_compare(double *a, size_t n_a, double *b, size_t n_b, uint64_t seed, mp_comparison *c);      /* sorts both lists */
double mp_quantile(const double *sorted, size_t n, double q);    /* n > 0; between two values interpolated */
#endif
