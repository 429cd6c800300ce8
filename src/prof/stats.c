/* prof/stats.c -- floor 4, prof: the sums of one profile, computed once when it is closed.
 * sum of node durations = executionTime - gap + overlap, exactly, because all are whole microseconds of the same
 * intervals: union = sum - overlap, gap = executionTime - union. */
#include "prof/record.h"
#include <stdlib.h>

mp_time record_duration(const mp_profile *p, size_t node) {
    mp_time d = NONE;
    for (size_t i = 0; i < p->n_intervals; i++)
        if (p->intervals[i].node == node) d = (d == NONE ? 0 : d) + p->intervals[i].to - p->intervals[i].from;
    return d;
}

static int by_start(const void *a, const void *b) {
    const interval *x = a, *y = b;
    return x->from < y->from ? -1 : x->from > y->from ? 1 : x->node < y->node ? -1 : x->node > y->node;
}

/* They stand in the order of their ends: where nodes ran one after another that is the order already. */
static void sort_intervals(mp_profile *p) {
    size_t i = 1;
    while (i < p->n_intervals && by_start(&p->intervals[i - 1], &p->intervals[i]) <= 0) i++;
    if (i < p->n_intervals) qsort(p->intervals, p->n_intervals, sizeof *p->intervals, by_start);
}

void mp_stats(mp_profile *p) {
    mp_time sum = 0, joined = 0, reach = NONE;
    sort_intervals(p);
    for (size_t i = 0; i < p->n_intervals; i++) {
        const interval *v = &p->intervals[i];
        if (v->node >= p->n_submitted) continue;
        sum += v->to - v->from;
        mp_time from = v->from > reach ? v->from : reach;
        if (v->to > from) joined += v->to - from;
        if (v->to > reach) reach = v->to;
    }
    p->sum = sum;
    p->overlap = sum - joined;
    p->gap = p->started == NONE ? 0 : p->completed - p->started - joined;
}

size_t mp_stats_slowest(const mp_profile *p, uint32_t out[5]) {
    size_t n = 0;
    mp_time d[5];
    for (uint32_t i = 0; i < p->n_submitted; i++) {
        mp_time t = record_duration(p, i);
        if (t == NONE) continue;
        size_t at = n;
        while (at > 0 && d[at - 1] < t) at--;
        if (at >= 5) continue;
        if (n < 5) n++;
        for (size_t k = n - 1; k > at; k--) { d[k] = d[k - 1]; out[k] = out[k - 1]; }
        d[at] = t;
        out[at] = i;
    }
    return n;
}

/* From the node that ended last, back each time to the one among its inputs that ended last. */
size_t mp_stats_critical(const mp_profile *p, uint32_t *out, size_t cap) {
    long at = -1;
    size_t n = 0;
    for (size_t i = 0; i < p->n_submitted; i++)
        if (p->nodes[i].ended != NONE && (at < 0 || p->nodes[i].ended > p->nodes[at].ended)) at = (long)i;
    while (at >= 0 && n < cap) {
        const mp_node *node = mp_workflow_node(p->w, (size_t)at);
        long before = -1;
        out[n++] = (uint32_t)at;
        for (size_t i = 0; i < node->n_inputs; i++) {
            if (!node->inputs[i].is_link) continue;
            long k = (long)node->inputs[i].link;
            if (p->nodes[k].ended != NONE && (before < 0 || p->nodes[k].ended > p->nodes[before].ended)) before = k;
        }
        at = before;
    }
    for (size_t i = 0; i < n / 2; i++) {
        uint32_t x = out[i];
        out[i] = out[n - 1 - i];
        out[n - 1 - i] = x;
    }
    return n;
}
