/* sim/server.h -- floor 5, sim: a ComfyUI server without a GPU, as a state machine.
 *
 * It is told requests, frames and time, and answers replies and messages, drained by its owner after each call or as
 * they go out. No I/O, no clock, no randomness of its own. Honest to protocol sections 1 to 5 as far as text-to-image
 * and image-to-image workflows meet them; requests are read as leniently as the real server reads them.
 * Sees: comfy, graph, base. Seen by: wire, world, lua. */
#ifndef MP_SIM_H
#define MP_SIM_H
#include "base/buf.h"
#include "base/err.h"
#include "base/rng.h"

typedef struct mp_sim mp_sim;

typedef struct mp_sim_opts {
    const char *version;                             /* "0.18.1" (also NULL), "0.3.75", "0.3.64" or "2024-10" */
    const char *name;                                /* device name; NULL: "Moonpool Simulated GPU" */
    const char *catalogue;                           /* text of a saved GET /object_info; NULL: the built-in one */
    const char *costs;                               /* JSON object: class -> ms, or {"ms":, "step_ms":}; NULL: defaults */
    double speed;                                    /* work runs this many times as fast; 0: 1 */
    double vram_gb, load_gb_s;                       /* VRAM for models (0: 24) and how fast they load (0: 2.5 GB/s) */
    int any_node;                                    /* accept every class, at `any_ms`; ends of the graph are outputs */
    double any_ms;                                   /* 0: 50 */
    double noise;                                    /* standard deviation of what a node takes, as a share of it: 0 (always the same) to 1 */
    const char *cache;                               /* "classic" (also NULL): what the prompt before had; "lru"; "none" */
    int cache_size;                                  /* lru: results kept; 0: 100 */
    int random_errors;                               /* of one node, in an order that each server draws for itself */
    int no_orphans;                                  /* without the fault of 3.3: a late close takes no newer socket along */
    int early;                                       /* what a prompt tells at once is told before the reply to its POST */
    int previews;                                    /* samplers send previews */
    mp_time overhead;                                /* between two jobs: clean-up */
    mp_time history;                                 /* from the last word of a job to its entry in the history; till then it runs */
    mp_time epoch;                                   /* add to an instant for microseconds since the Unix epoch */
} mp_sim_opts;

const char *mp_sim_builtin_catalogue(void);          /* JSON text, as GET /object_info gives it */
mp_sim *mp_sim_new(const mp_sim_opts *o, uint64_t seed, mp_time now, mp_err *e);
void mp_sim_free(mp_sim *s);

typedef struct mp_sim_request {
    uint64_t tag;                                    /* the reply carries it */
    mp_str method, path, content_type, host, origin, range, since, body;       /* path with query; since: If-Modified-Since */
} mp_sim_request;
void mp_sim_ask(mp_sim *s, const mp_sim_request *r, mp_time now);

/* A WebSocket to /ws was opened with this clientId, as it stands in the URL (may be empty). Its frames carry `tag`. */
void mp_sim_connect(mp_sim *s, uint64_t tag, mp_str client_id, mp_time now);
int mp_sim_origin_ok(mp_str host, mp_str origin);    /* the origin rule (protocol 1.4); 0: 403 */
void mp_sim_text(mp_sim *s, uint64_t tag, mp_str text, mp_time now);
void mp_sim_disconnect(mp_sim *s, uint64_t tag, mp_time now);

typedef enum { MP_SIM_REPLY, MP_SIM_TEXT, MP_SIM_BINARY, MP_SIM_CLOSE } mp_sim_out_kind;
typedef struct mp_sim_out {
    mp_sim_out_kind kind;
    uint64_t tag;
    int status;                                      /* REPLY */
    const char *content_type;
    char *body;                                      /* the taker's to free */
    size_t n;
    char *headers;                                   /* REPLY: more lines, each ended by CR LF, or NULL; the taker's to free */
    mp_time over;                                    /* TEXT, BINARY: its bytes are to come one after the other, for so long */
} mp_sim_out;
int mp_sim_take(mp_sim *s, mp_sim_out *out);         /* 0: nothing left */
/* Calls fn for each thing as it goes out, in the middle of a call: it may take it, and nothing else. */
void mp_sim_on_out(mp_sim *s, void (*fn)(void *ud), void *ud);
mp_time mp_sim_next(const mp_sim *s);
void mp_sim_tick(mp_sim *s, mp_time now);

/* Faults, to order. */
void mp_sim_drop(mp_sim *s, mp_time now);            /* all sockets are cut; work goes on */
void mp_sim_restart(mp_sim *s, mp_time now);         /* queue, history, cache, counters, sockets gone; files stay */
void mp_sim_stall(mp_sim *s, mp_time until);         /* answers nothing and does nothing till then; nothing is lost */
void mp_sim_wedge(mp_sim *s);                        /* the worker dies: prompts are accepted, none runs, till a restart */
void mp_sim_deafen(mp_sim *s, int interrupts);       /* so many interrupts are lost */
void mp_sim_late(mp_sim *s);                         /* the next interrupt hits whatever runs after its prompt */
void mp_sim_frames(mp_sim *s, int times, size_t bytes, mp_time over);        /* so many frames are as long as this at least, and slow */
void mp_sim_clock(mp_sim *s, mp_time step);          /* its wall clock is set */
/* Calls fn with extra_data.moonpool of every prompt that begins here. */
void mp_sim_watch(mp_sim *s, void (*fn)(void *ud, const char *mark), void *ud);
/* Calls fn with what the worker does to each node as it does it: the truth that a profile is held against. `mark` is
 * extra_data.moonpool of the prompt, `root` the submitted node that an expanded one came from (else the node itself). */
typedef enum { MP_SIM_BEGINS, MP_SIM_WAITS, MP_SIM_ENDS, MP_SIM_CACHED, MP_SIM_STOPS } mp_sim_deed;  /* WAITS: for a lazy input; STOPS: failed, or stopped with the prompt */
void mp_sim_observe(mp_sim *s, void (*fn)(void *ud, const char *mark, const char *node, const char *root, mp_sim_deed what, mp_time now), void *ud);
/* Calls fn with extra_data.moonpool of every prompt that waits or runs here. */
void mp_sim_marks(const mp_sim *s, void (*fn)(void *ud, const char *mark), void *ud);
/* The next `times` runs of `class_type` (NULL: any node) raise; type NULL: RuntimeError. */
void mp_sim_fail(mp_sim *s, const char *class_type, int times, const char *type, const char *message);

typedef struct mp_sim_record { size_t requests, prompts, executed, cached, failed, interrupted, frees, uploads, gaps; const mp_time *gap; } mp_sim_record;
void mp_sim_get_record(const mp_sim *s, mp_sim_record *r);   /* gap: worker idle between two prompts, oldest first */
mp_str mp_sim_file(mp_sim *s, const char *name);     /* bytes of a file in its input folder; empty: none */
size_t mp_sim_waiting(const mp_sim *s);              /* pending and running */
int mp_sim_running(const mp_sim *s, const char **mark);          /* 1: a prompt runs, and its extra_data.moonpool, or NULL */
#endif
