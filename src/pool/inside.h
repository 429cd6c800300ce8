/* pool/inside.h -- floor 5, pool: the inside, shared by the files of this room only.
 *
 * Three kinds of record:
 *   job      what was submitted. Its state changes in job.c only.
 *   client   a server and our link to it (link.c), and the prompts on it.
 *   prompt   one attempt of a job on a client. It outlives the job's interest: a prompt without a job is a
 *            tombstone that is deleted or interrupted there as soon as the client can be reached (recover.c).
 * A prompt holds a slot of its client until it is known to be gone. */
#ifndef MP_POOL_INSIDE_H
#define MP_POOL_INSIDE_H
#include "base/digest.h"
#include "base/heap.h"
#include "comfy/reply.h"
#include "comfy/request.h"
#include "pool/pool.h"
#include <stdio.h>
#include <uthash.h>

/* Planted faults for the campaign (tests/world): a build with -DMP_MUTANT=n breaks rule n. */
#ifndef MP_MUTANT
#define MP_MUTANT 0
#endif

#define MAX_LOSSES 10                                /* a job lost this often, without fault of its own, is given up */
#define EARLY_FRAMES 256                             /* frames kept while a POST's reply is awaited (protocol 2.1, race) */
#define AFTER_VERDICT MP_MS(3000)                    /* from a verdict to `executing null`; then the history is asked */
#define STATUS_DUE MP_MS(5000)                       /* after a POST a status broadcast must come, else the socket is orphaned */
#define KILL_AGAIN MP_MS(2000)                       /* between looks at a prompt that should go away */

typedef struct { char *node, *json; } output;
typedef struct { uint32_t node; char *input; uint64_t value; } seed;
typedef struct { mp_time t; int binary; char *p; size_t n; } early_frame;
typedef struct { char hash[MP_DIGEST_HEX]; mp_time typical; uint32_t runs; char *reason; UT_hash_handle hh; } known;   /* reason: it refused that workflow */

typedef enum { AT_POSTING, AT_UNKNOWN, AT_WAITING, AT_RUNNING } place;   /* UNKNOWN: the POST's reply was lost */

typedef struct prompt {
    struct prompt *next;
    mp_client *client;
    mp_job *job;                                     /* NULL: a tombstone */
    char id[MP_UUID_SIZE];
    char *real;                                      /* the server's id when it chose one */
    place at;
    mp_end verdict;
    int gap;                                         /* messages may have been missed: outputs come from the history */
    int deleted;                                     /* tombstone: a delete was sent (and answered) */
    int interrupting, kills;                         /* kills: interrupts sent so far */
    mp_time posted, settled, verdict_at, heard, due; /* settled: when the reply (or its loss) came; due: next look */
    uint64_t history;                                /* action under way, 0: none */
    int history_tries;
    mp_workflow *w;                                  /* as sent */
    output *outputs;
    size_t n_outputs;
    mp_failure failure;
    char hash[MP_DIGEST_HEX];
} prompt;

struct mp_client {
    mp_pool *pool;
    uint32_t serial;
    char *url, *name, *sid, *problem, *version, *stats;
    char **tags, **affinity;
    double priority;
    int slots, load, wedged, removed, tried, own_ids;/* own_ids: 1 known to take our ids, 0 not known, -1 not */
    mp_client_state state;
    int has_stats, has_socket;
    char socket_words[200];                          /* why the socket failed, while the other half is still under way */
    uint64_t conn, connecting, checking, closing;    /* action ids; conn: of the open socket */
    int strikes;                                     /* silences in a row */
    int failures;                                    /* connection attempts since it was last online */
    mp_time wedged_until, retry_at, down_since, heard, moved, status_due, poll_at, poll_step, survey_sent;
    long queue_remaining;
    uint64_t survey;                                 /* GET /queue under way */
    uint32_t epoch;                                  /* goes up with each loss of the link */
    int survey_wanted;
    prompt *prompts, *posting;
    early_frame *early;
    size_t n_early;
    known *known;
    char last_hash[MP_DIGEST_HEX];
    mp_workflow *last;
    mp_time wake;
    size_t wake_at;                                  /* place in pool->wakes */
    unsigned complained;                             /* kinds of garbage already logged */
    mp_client *next;
};

typedef struct group {                               /* jobs that may run on the same set of clients */
    char key[MP_DIGEST_HEX];                         /* structural hash, or "" for general jobs */
    mp_heap jobs;
    mp_time nobody_since, check_at;                  /* MP_NEVER: somebody is there */
    int exhausted;                                   /* dispatch: no candidate in this stage */
    UT_hash_handle hh;
} group;

struct mp_job {
    uint64_t id, seq;
    mp_workflow *w;
    double priority, rank;
    uint8_t state, profiling, partial, front, delivered, parked;   /* parked: the policy said wait */
    uint16_t attempts, max_attempts, losses;
    uint32_t pins;
    mp_time queued, ready, wake, deadline;           /* ready: free to be sent; wake: when it leaves the delayed heap */
    mp_time node_silence;
    size_t heap_at, deadline_at;
    group *group;
    prompt *prompt;
    char *metadata, *extra_data;
    mp_profile *profile;
    struct tail *tail;                               /* what only jobs that were sent or have ended need */
    mp_job *next_ended, *before_ended;
};

struct tail {
    mp_workflow *sent;
    char *prompt_id, *client, *client_url;
    mp_failure failure;
    output *outputs;
    size_t n_outputs;
    seed *seeds;
    size_t n_seeds;
    uint32_t *avoid;                                 /* serials of clients it failed on */
    size_t n_avoid;
};

typedef enum { DO_CONNECT, DO_CLOSE, DO_CHECK, DO_POST, DO_SURVEY, DO_HISTORY, DO_DELETE, DO_INTERRUPT } purpose;
typedef struct under_way { uint64_t id; uint32_t epoch; purpose why; mp_client *client; char prompt[MP_UUID_SIZE]; UT_hash_handle hh; } under_way;

struct mp_pool {
    mp_pool_opts o;
    mp_rng rng;
    const mp_policy *policy;
    mp_log log;
    int locked, closing, dirty, stale;               /* stale: a failure of a link that is gone is being reported */
    uint32_t mask;
    uint64_t next_action, next_seq;
    uint32_t next_client;
    mp_client *clients;
    size_t n_clients;
    mp_job **slots;                                  /* jobs by the low half of their id */
    uint32_t *generations, *free_slots;
    size_t n_slots, cap_slots, cap_gen, n_free, cap_free;
    group *groups;
    mp_heap delayed, deadlines, wakes;
    under_way *under_way;
    mp_action *actions;
    size_t a_head, a_n, a_cap;
    mp_event *events;
    size_t e_head, e_n, e_cap;
    struct ended { mp_job *first, *last; size_t n; } undelivered, delivered;     /* jobs that have ended, oldest first */
    mp_pool_stats stats;
};

/* event.c */
uint64_t act(mp_pool *p, mp_client *c, purpose why, const char *prompt, const char *method, mp_buf *path, mp_buf *body, mp_time timeout);
int wanted(const mp_pool *p, mp_event_kind k);
mp_event *event(mp_pool *p, mp_event_kind k, const mp_job *j, const mp_client *c, mp_time now);
void event_data(mp_event *e, const void *p, size_t n);

/* job.c: the only place where a job's state changes */
void job_assigned(mp_pool *p, mp_job *j, prompt *pr, mp_time now);
void job_running(mp_pool *p, mp_job *j, mp_time now);
void job_requeue(mp_pool *p, mp_job *j, mp_time delay, mp_time now);
void job_end(mp_pool *p, mp_job *j, mp_job_state s, const mp_failure *f, mp_time now);
struct tail *job_tail(mp_job *j);
void job_free_all(mp_pool *p);

/* queue.c */
void queue_push(mp_pool *p, mp_job *j, mp_time now);
void queue_remove(mp_pool *p, mp_job *j);
void queue_tick(mp_pool *p, mp_time now);
mp_time queue_next(const mp_pool *p);
void queue_park(mp_pool *p, mp_job *j, mp_time now); /* until clients change or recheck */
void queue_regroup(mp_pool *p, mp_time now);         /* affinity or blocks changed: jobs may belong elsewhere */
void queue_presence(mp_pool *p, mp_time now);        /* clients came or went: who has nobody? */
void queue_free(mp_pool *p);
int delayed_before(const void *a, const void *b);
int deadline_before(const void *a, const void *b);

/* client.c */
int client_open(const mp_client *c);                 /* online and taking work */
int client_claims(const mp_client *c, const char *hash);
int pool_claimed(const mp_pool *p, const char *hash);
known *client_known(mp_client *c, const char *hash, int make);
void client_ran(mp_client *c, const prompt *pr, mp_time took);
void client_unwedge(mp_client *c, int moved, mp_time now);           /* it works again, or gets another chance */
void client_problem(mp_client *c, const char *words);
void client_free(mp_client *c);
int wake_before(const void *a, const void *b);

/* link.c */
void link_start(mp_client *c, mp_time now);
void link_down(mp_client *c, const char *why, mp_time now);
void link_reset(mp_client *c, const char *why, mp_time now);         /* the socket is deaf: close it, then connect again */
void link_connected(mp_client *c, uint64_t action, const mp_result *r, mp_time now);
void link_checked(mp_client *c, const mp_result *r, mp_time now);
void link_closed(mp_client *c, mp_time now);
int link_wanted(const mp_client *c);
void link_tick(mp_client *c, mp_time now);
void client_rearm(mp_client *c, mp_time now);

/* dispatch.c */
void dispatch(mp_pool *p, mp_time now);
void posted(mp_client *c, const char *id, const mp_result *r, mp_time now);
int has_fresh(const mp_pool *p, const mp_job *j, const char *hash);   /* an open client that has not failed this job */

/* recover.c */
void survey_want(mp_client *c, mp_time now);
void surveyed(mp_client *c, uint64_t action, const mp_result *r, mp_time now);
void historied(mp_client *c, uint64_t action, const char *id, const mp_result *r, mp_time now);
void prompt_ask_history(prompt *pr, mp_time now);
void prompt_kill(prompt *pr, mp_time now);           /* makes it a tombstone */
void prompt_killed(mp_client *c, const char *id, purpose why, const mp_result *r, mp_time now);
void prompt_conclude(prompt *pr, mp_time now);       /* its end is known: verdict and failure are set */
void prompt_gone(prompt *pr);                        /* off the client; frees it */
void recover_tick(mp_client *c, mp_time now);
void give_up_all(mp_client *c, mp_fail_kind kind, const char *words, int keep, mp_time now);
prompt *prompt_by_id(mp_client *c, mp_str id);

/* retry.c */
void attempt_failed(mp_pool *p, mp_job *j, mp_client *c, mp_failure *f, mp_time now);

/* frame.c */
void frame_message(mp_client *c, const mp_msg *m, mp_time now);
void early_replay(mp_client *c, prompt *pr, mp_time now);
void early_clear(mp_client *c);
#endif
