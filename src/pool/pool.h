/* pool/pool.h -- floor 5, pool: the job pool as a state machine. No I/O, no clock, no randomness of its own.
 *
 * It is told what happened and when, and fills two queues that its owner drains after every call: actions (do
 * this, report once under its id) and events (for observers). Instants must never go backwards.
 * Sees: prof, comfy, graph, base. Seen by: wire, world, lua. */
#ifndef MP_POOL_H
#define MP_POOL_H
#include "base/json.h"
#include "base/log.h"
#include "base/rng.h"
#include "comfy/failure.h"
#include "comfy/message.h"
#include "pool/policy.h"
#include "prof/profile.h"

typedef struct mp_pool mp_pool;
typedef struct mp_job mp_job;
typedef struct mp_client mp_client;

typedef struct mp_pool_opts {                        /* times in microseconds; 0 switches a bound off */
    mp_time connect_timeout, request_timeout;        /* one connection attempt; one HTTP request */
    mp_time unreachable, no_client, node_silence, cold_silence, total;
    mp_time inactivity;                              /* of a socket, pings included; the owner's to see to */
    mp_time retry_delay, reconnect_base, reconnect_cap, poll, settle, recheck;
    mp_time execution_start;                         /* a prompt was taken, nothing runs there, and it does not begin */
    mp_time cooldown, catalogue;                     /* rest of a client from a workflow that failed there; looking again at what was missing */
    mp_time affinity_fallback;                       /* waited so long: clients without affinity may help; 0: never */
    int max_attempts, progress_limit, profiling;
    int max_failures;                                /* in a row, of one workflow on one client, before the cooldown; 0: none */
    int take_backs;                                  /* how often a job may be moved off a client it only waits on */
    int max_previews;                                /* previews that wait to be taken; older ones go */
    size_t max_queued, completed_retention;
    mp_time epoch;                                   /* add to an instant for microseconds since the Unix epoch */
} mp_pool_opts;
void mp_pool_defaults(mp_pool_opts *o);

typedef struct mp_client_opts {
    const char *name, *client_id;                    /* NULL: the host and port; a fresh UUID */
    const char *const *tags, *const *affinity;       /* NULL-ended; affinity: structural hashes */
    const char *api_key;                             /* of Comfy.org, for the prompts sent there; NULL: none */
    double priority;
    int slots;                                       /* prompts there at once, 1..64; 0: 2 */
} mp_client_opts;

typedef struct mp_job_opts {
    double priority;
    const char *metadata, *extra_data;               /* JSON text or NULL */
    int max_attempts, profiling, partial_outputs, front;    /* max_attempts 0, profiling -1: the pool's */
    mp_time node_silence, total, execution_start, unreachable, no_client;    /* 0: the pool's; MP_NEVER: off */
    mp_time request_timeout;                         /* of its POST; of its uploads, ten times that; 0: the pool's */
    mp_time delay;                                   /* not to be sent before so long */
    mp_time retry_delay;                             /* -1: the pool's */
    const char *id;                                  /* the user's own; NULL: none. A second submit gives the first job */
    const char *include;                             /* JSON list of the nodes whose outputs the result shows, or NULL */
    const char *const *prefer, *const *exclude;      /* clients by name or URL, NULL-ended: go first; never */
    const char *const *overrides;                    /* clients by name or URL, NULL-ended, whose priority for this job ... */
    const double *override_values;                   /* ... is this */
    mp_workflow *const *variants;                    /* more workflows; whichever can be sent first is */
    size_t n_variants;
} mp_job_opts;
void mp_job_defaults(mp_job_opts *o);

typedef enum { MP_JOB_PENDING, MP_JOB_ASSIGNED, MP_JOB_RUNNING, MP_JOB_COMPLETED, MP_JOB_FAILED, MP_JOB_CANCELED, MP_JOB_NO_CLIENTS } mp_job_state;
typedef enum { MP_CLIENT_CONNECTING, MP_CLIENT_ONLINE, MP_CLIENT_OFFLINE } mp_client_state;

/* ---- actions ---------------------------------------------------------------------------------------- */
/* FORGET: the client is gone for good: drop what is kept for it, report, and never name it again. */
typedef enum { MP_ACT_CONNECT, MP_ACT_CLOSE, MP_ACT_HTTP, MP_ACT_UPLOAD, MP_ACT_FORGET } mp_action_kind;
typedef struct mp_action {
    uint64_t id;                                     /* never reused; report it once: ok, failed or aborted */
    mp_action_kind kind;
    mp_client *client;
    uint64_t conn;                                   /* CLOSE: the CONNECT action whose socket to close */
    const char *method;                              /* HTTP: "GET" or "POST" */
    char *path, *body;                               /* CONNECT: path of the socket, and the first text to send */
    size_t n_body;
    mp_file *file;                                   /* UPLOAD: to be sent as a form (protocol 2.9); the taker's reference */
    mp_time timeout;
} mp_action;
typedef struct mp_result {                           /* of an action */
    int code;                                        /* 0, or MP_EREFUSED (certainly not sent), MP_ENET, MP_ETIMEOUT, MP_ETLS, MP_EABORT; UPLOAD: MP_EIO when the file itself cannot be read */
    int status;                                      /* HTTP status; CONNECT: 101, or what the server said instead */
    mp_str body;
    const mp_json *doc;                              /* the body as JSON when the owner has parsed it already (off the loop); borrowed */
    const char *message;                             /* words for code != 0, or NULL */
} mp_result;

/* ---- events ------------------------------------------------------------------------------------------ */
typedef enum {
    MP_EV_JOB_QUEUED, MP_EV_JOB_ACCEPTED, MP_EV_JOB_STARTED, MP_EV_JOB_PROGRESS, MP_EV_JOB_PREVIEW, MP_EV_JOB_OUTPUT,
    MP_EV_JOB_COMPLETED, MP_EV_JOB_FAILED, MP_EV_JOB_CANCELED, MP_EV_JOB_RETRYING, MP_EV_JOB_TAKEN_BACK, MP_EV_CLIENT_STATE, MP_EV_CLIENT_BLOCKED,
    MP_EV_CLIENT_UNBLOCKED, MP_EV_CLIENT_MESSAGE, MP_EV_COUNT
} mp_event_kind;
typedef struct mp_event {
    mp_event_kind kind;
    uint64_t job;                                    /* 0: none */
    uint32_t client;                                 /* serial, 0: none */
    mp_time t, delay;                                /* delay: RETRYING */
    double value, max, overall;
    int will_retry;
    const char *format;                              /* PREVIEW: "jpeg", "png", "webp" */
    char *node, *data;                               /* owned; data: picture, output JSON, message data, or words; node of BLOCKED: the hash; of TAKEN_BACK: our id of the prompt, data the server's */
    size_t n_data;
} mp_event;

/* ---- life ---------------------------------------------------------------------------------------------- */
/* policy and log may be NULL; both are borrowed for the pool's life. */
mp_pool *mp_pool_new(const mp_pool_opts *o, uint64_t seed, const mp_policy *policy, const mp_log *log);
void mp_pool_free(mp_pool *p);
void mp_pool_want(mp_pool *p, uint32_t event_mask);  /* bit (1 << kind): which optional events to make */
/* Stops taking jobs. drain: those there finish; else all are canceled. Done when mp_pool_quiet. */
int mp_pool_shutdown(mp_pool *p, int drain, mp_time now);
int mp_pool_quiet(const mp_pool *p);                 /* no job unfinished, no prompt of ours known on any server */
int mp_pool_pause(mp_pool *p, int on, mp_time now);  /* nothing new is sent; what is on servers goes on */
int mp_pool_paused(const mp_pool *p);

int mp_pool_take_action(mp_pool *p, mp_action *a);   /* 0: none left; path, body and file are the caller's to free */
static inline int mp_event_ends(mp_event_kind k) { return k == MP_EV_JOB_COMPLETED || k == MP_EV_JOB_FAILED || k == MP_EV_JOB_CANCELED; }
int mp_pool_take_event(mp_pool *p, mp_event *e);     /* 0: none left; mp_event_clear when done */
/* Previews wait apart, the newest max_previews of them: to be taken when there is nothing better to do. Those of a job
 * whose attempt has ended come with the other events, before its end. */
int mp_pool_take_preview(mp_pool *p, mp_event *e);   /* the oldest; 0: none; mp_event_clear when done */
size_t mp_pool_previews(const mp_pool *p);           /* so many wait */
void mp_event_clear(mp_event *e);
mp_time mp_pool_next(const mp_pool *p);              /* when mp_pool_tick must be called at the latest */

/* ---- what happened ------------------------------------------------------------------------------------- */
void mp_pool_tick(mp_pool *p, mp_time now);
void mp_pool_done(mp_pool *p, uint64_t action, const mp_result *r, mp_time now);
/* A frame of the socket that action `conn` (CONNECT) opened. */
void mp_pool_frame(mp_pool *p, mp_client *c, uint64_t conn, int binary, mp_str frame, mp_time now);
void mp_pool_lost(mp_pool *p, mp_client *c, uint64_t conn, const char *why, mp_time now);

/* ---- clients ------------------------------------------------------------------------------------------- */
mp_client *mp_pool_add_client(mp_pool *p, const char *url, const mp_client_opts *o, mp_time now, mp_err *e);
/* Its jobs go elsewhere, or (drain) are finished there first. c must not be named again after MP_ACT_FORGET. */
int mp_pool_remove_client(mp_pool *p, mp_client *c, int drain, mp_time now);
int mp_pool_pause_client(mp_pool *p, mp_client *c, int on, mp_time now);
mp_client *mp_pool_client(const mp_pool *p, uint32_t serial);        /* NULL: never there, or removed */
mp_client *mp_pool_client_was(const mp_pool *p, uint32_t serial);   /* also one that was removed just now */
size_t mp_pool_clients(const mp_pool *p, mp_client **out, size_t cap);   /* number there, at most cap written */
uint32_t mp_client_serial(const mp_client *c);
const char *mp_client_url(const mp_client *c);
const char *mp_client_name(const mp_client *c);
const char *mp_client_sid(const mp_client *c);
const char *mp_client_problem(const mp_client *c);                   /* why it is not online, or NULL */
const char *mp_client_version(const mp_client *c);                   /* as /system_stats says, or NULL */
const char *mp_client_stats(const mp_client *c);                     /* last /system_stats text, or NULL */
mp_client_state mp_client_get_state(const mp_client *c);
int mp_client_slots(const mp_client *c);
int mp_client_load(const mp_client *c);                              /* our prompts there */
int mp_client_holds(const mp_client *c, const char *prompt_id);      /* a prompt of ours there, or a tombstone, by our own id */
int mp_client_tried(const mp_client *c);                             /* its first connection attempt is decided */
double mp_client_priority(const mp_client *c);
const char *const *mp_client_tags(const mp_client *c);               /* NULL-ended */
const char *const *mp_client_affinity(const mp_client *c);
const char *mp_client_last_hash(const mp_client *c);                 /* "" when none ran */
const mp_workflow *mp_client_last_workflow(const mp_client *c);
mp_time mp_client_typical(const mp_client *c, const char *hash);     /* 0: not known */
mp_time mp_client_expected(const mp_client *c, mp_time now);         /* until what is there has ended, as far as known */
int mp_client_may_run(const mp_pool *p, const mp_client *c, const char *hash);
int mp_client_paused(const mp_client *c);
int mp_client_draining(const mp_client *c);
int mp_client_stuck(const mp_client *c);                             /* all its slots are held by prompts that nobody wants and that it keeps */
int mp_client_polling(const mp_client *c);                           /* online without a socket: it is asked instead */
/* What this client is to a job that waits: 2 it ran that workflow last, 1 it holds its models, 0 neither. */
int mp_client_warmth(const mp_client *c, const mp_job *j);
mp_time mp_client_finish(const mp_client *c, const mp_job *j, mp_time now);      /* expected, from now, with the job behind what is there */
double mp_client_priority_for(const mp_client *c, const mp_job *j);
/* Workflows this client does not get, and why; until MP_NEVER: until what is missing is there. */
void mp_client_blocks(const mp_client *c, void (*fn)(void *ud, const char *hash, const char *reason, mp_time until), void *ud);

/* ---- jobs ---------------------------------------------------------------------------------------------- */
/* Takes its own reference to w. NULL: MP_EFULL, MP_EBUSY, refused by the policy, closing. */
mp_job *mp_pool_submit(mp_pool *p, mp_workflow *w, const mp_job_opts *o, mp_time now, mp_err *e);
int mp_pool_cancel(mp_pool *p, mp_job *j, mp_time now);              /* 0, MP_EGONE when it has ended, MP_EBUSY */
int mp_job_in_line(const mp_job *j);                                 /* waits, neither delayed nor parked */
int mp_client_takes(const mp_client *c, const mp_job *j);            /* by its claims, blocks, rests and the job's own wishes */
int mp_pool_set_priority(mp_pool *p, mp_job *j, double priority, mp_time now);   /* while it is queued; MP_EGONE after */
mp_job *mp_pool_job(const mp_pool *p, uint64_t id);                  /* NULL: evicted or never there */
mp_job *mp_pool_job_named(const mp_pool *p, const char *id);         /* by the user's own id */
const char *mp_job_name(const mp_job *j);                            /* the user's own id, or NULL */
void mp_job_pin(mp_job *j);                                          /* keeps the record after the end */
void mp_job_unpin(mp_pool *p, mp_job *j);
void mp_job_delivered(mp_pool *p, mp_job *j);                        /* its result was handed out: may be evicted */
mp_job *mp_pool_undelivered(mp_pool *p);                             /* the first ended one whose result nobody got yet, or NULL */
uint64_t mp_job_id(const mp_job *j);
mp_job_state mp_job_status(const mp_job *j);
int mp_job_ended(const mp_job *j);
const char *mp_job_status_name(mp_job_state s);
mp_workflow *mp_job_workflow(const mp_job *j);                       /* as submitted; borrowed */
mp_workflow *mp_job_sent(const mp_job *j);                           /* as sent last; NULL: never sent */
double mp_job_priority(const mp_job *j);
const char *mp_job_metadata(const mp_job *j);                        /* JSON text or NULL */
int mp_job_attempts(const mp_job *j);
mp_time mp_job_queued(const mp_job *j);
const char *mp_job_prompt_id(const mp_job *j);                       /* of the last attempt, or NULL */
const char *mp_job_client(const mp_job *j);                          /* name of the last client, or NULL */
const char *mp_job_client_url(const mp_job *j);
const mp_failure *mp_job_failure(const mp_job *j);                   /* NULL: none */
mp_profile *mp_job_profile(const mp_job *j);
size_t mp_job_outputs(const mp_job *j);
void mp_job_output(const mp_job *j, size_t i, const char **node, const char **json);
size_t mp_job_pictures(const mp_job *j);                             /* PNG that came over the socket (SaveImageWebsocket) */
mp_str mp_job_picture(const mp_job *j, size_t i, const char **node);
size_t mp_job_seeds(const mp_job *j);
void mp_job_seed(const mp_job *j, size_t i, const char **node, const char **input, uint64_t *value);
const char *mp_job_include(const mp_job *j);                         /* JSON list, or NULL */
int mp_job_output_cached(const mp_job *j, size_t i);                 /* that node was not run: its answer is an earlier one */
double mp_job_progress(const mp_job *j, mp_time now);                /* 0..1, by time where earlier runs tell, else by nodes */
int mp_job_left(const mp_job *j, mp_time now, mp_time *left, mp_time *low, mp_time *high);   /* 0: not known */
/* Queue position among pending jobs is not kept; numbers are. */
typedef struct mp_pool_stats { size_t pending, assigned, running, delayed, parked, completed, failed, canceled, clients, online, malformed, taken_back, late; } mp_pool_stats;      /* late: results of prompts that had been given up */
void mp_pool_get_stats(const mp_pool *p, mp_pool_stats *s);
/* Each queue that holds something: type "general", "affinity" or "special"; hash "" when it is not of one workflow. */
void mp_pool_queues(const mp_pool *p, void (*fn)(void *ud, const char *hash, const char *type, size_t pending), void *ud);
const mp_pool_opts *mp_pool_options(const mp_pool *p);
#endif
