/* prof/runs_inside.h -- floor 4, prof: the inside of many runs, shared by the files that answer questions about them.
 * Texts are numbers: each is kept once, 0 is none.
 * Sees: prof/runs.h. Seen by: runs.c, slow.c, cachewhy.c, progress.c, compare.c. */
#ifndef MP_RUNS_INSIDE_H
#define MP_RUNS_INSIDE_H
#include "prof/runs.h"
#include <uthash.h>

typedef uint32_t word;
typedef struct { word name, value; int32_t link; } run_input;        /* link: place of the node in its run, -1: a value */
typedef struct { double t, value, max; } run_event;                  /* t: ms since the epoch */

/* What explains that a node ran: cachewhy.c. */
typedef enum { WHY_NONE, WHY_FIRST, WHY_INPUT, WHY_ANCESTOR, WHY_EVICTED, WHY_OTHER_CLIENT, WHY_UNFINISHED, WHY_NEVER_CACHED, WHY_UNKNOWN, WHY_COUNT } why;

typedef struct run_node {
    word id, type, title;
    mp_node_status status;
    int ran;
    double took;                                     /* ms; NAN: not known */
    size_t first_input, n_inputs, first_event, n_events;
    uint64_t signature;                              /* of its class and inputs, all the way up */
    why reason;
    int repeated;                                    /* the same had been executed before */
    word input, before, after, ancestor, other;
} run_node;

typedef struct run {
    size_t text, n_text;                             /* its line, in `texts` */
    word label, client, hash, models;
    double queued, started, completed, execution, upload, server_queue;                       /* ms; NAN: not known */
    int good, cold;                                  /* cold: its client ran other models, or nothing, before */
    size_t first_node, n_nodes, first_attempt, n_attempts;
} run;

/* One execution on a client: what came before it, and when it ran; ms since the epoch, never NAN. */
typedef struct { word client, hash; double queued, upload, sent, started, ended; } run_attempt;
typedef struct { word client, hash; double at; } run_failure;         /* an attempt that failed, begun or not */

typedef struct text_entry { word id; char *text; UT_hash_handle hh; } text_entry;

struct mp_runs {
    mp_buf texts;
    run *runs;
    run_node *nodes;
    run_input *inputs;
    run_event *events;
    run_attempt *attempts;
    run_failure *failures;
    char **words;                                    /* by number, from 1 */
    text_entry *index;
    size_t n, cap, n_nodes, cap_nodes, n_inputs, cap_inputs, n_events, cap_events, n_attempts, cap_attempts, n_failures, cap_failures, n_words, cap_words, bad, newer;
    struct { uint32_t line, at; } *places;           /* by word: the node of that id in the line being read */
    size_t n_places;
    uint32_t lines;
    int explained;
};

typedef struct { double *v; size_t n, cap; } figures;                /* the owner frees v */
void figures_push(figures *f, double v);
void figures_sort(double *v, size_t n);
word runs_word(mp_runs *r, mp_str text);
const char *runs_text(const mp_runs *r, word w);     /* NULL: none */
/* Sorts the values (n of them) and writes count, total, mean, p50, p90, p99, max as members. */
void sink_figures(const mp_sink *out, double *v, size_t n);
void sink_text(const mp_sink *out, const char *name, const char *z);
#define OBJECT(out, name) (out)->open((out)->ud, name, 0)
#define ARRAY(out, name) (out)->open((out)->ud, name, 1)
#define CLOSE(out) (out)->close((out)->ud)
#define NUMBER(out, name, v) (out)->number((out)->ud, name, v)
#endif
