/* prof/record.h -- floor 4, prof: the inside of a profile, shared by its three files only.
 * Sees: prof/profile.h. Seen by: profile.c, stats.c, encode.c. */
#ifndef MP_PROF_RECORD_H
#define MP_PROF_RECORD_H
#include "prof/profile.h"

#define NONE (-1)                                    /* a time that is not known */
#define NO_PARENT UINT32_MAX

typedef struct { mp_time t; double value, max; } progress_event;

typedef struct record {
    const char *id;                                  /* the workflow's, or own_id */
    char *own_id, *display, *error;
    uint32_t real;                                   /* NO_PARENT for submitted nodes, else the submitted node it came from */
    mp_node_status status;
    mp_time started, ended, open, wait_from;         /* open: start of the interval that runs */
    int announced, executions, unclaimed, listed;    /* listed: in execution_cached */
    int left_out;                                    /* bypassed: not sent, and not shown */
    double value, max, steps, first_value;
    mp_time first_progress, last_progress;
    progress_event *events;
    progress_event last;                             /* the newest one, kept also when thinned away */
    uint32_t n_events, cap_events, stride, seen;
} record;

typedef struct { uint32_t node; mp_time from, to; } interval;

typedef struct {
    char *client, *prompt_id, *outcome, *error;
    mp_time assigned, sent, started, ended;
} attempt;

struct mp_profile {
    mp_workflow *w, *sent_as;
    size_t n_submitted, n, cap, n_left_out, n_open;  /* n_open: nodes that run */
    record *nodes;                                   /* submitted ones first, expanded ones behind */
    interval *intervals;
    size_t n_intervals, cap_intervals;
    attempt *attempts;
    size_t n_attempts, cap_attempts;
    mp_time queued, ready, upload, sent, started, completed, ended, transfer;
    int limit, has_state, closed;
    unsigned inferred;                               /* bits of enum below */
    size_t last_found;
    mp_buf snapshot;                                 /* the newest progress_state, to skip what it repeats */
    size_t same;                                     /* bytes that it had in common with the one before: with the next one too, most often */
    struct entry_place { uint32_t start, head, record; } *entries;       /* where each of its entries begins, and whose it is */
    size_t n_entries, cap_entries;
    /* sums, filled by mp_stats */
    mp_time sum, gap, overlap;
};

enum { INFERRED_START = 1, INFERRED_END = 2, INFERRED_NODES = 4, INFERRED_OUTCOME = 8 };

mp_time record_duration(const mp_profile *p, size_t node);           /* NONE: it never ran, or its times are not known */
void mp_stats(mp_profile *p);                                        /* sum, gap, overlap of the submitted nodes */
size_t mp_stats_slowest(const mp_profile *p, uint32_t out[5]);
size_t mp_stats_critical(const mp_profile *p, uint32_t *out, size_t cap);   /* first to last */
#endif
