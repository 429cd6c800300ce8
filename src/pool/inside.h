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
#include "base/line.h"
#include "comfy/reply.h"
#include "base/scan.h"
#include "base/slab.h"
#include "comfy/request.h"
#include "prof/forecast.h"
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
#define TAKE_BACK_LOOKS 256                          /* clients looked at per idle client */
#define PICTURE_BYTES (256u << 20)                   /* kept of one prompt */
#define OUTPUT_NODES 10000                           /* so many nodes of one prompt may have outputs, */
#define OUTPUT_BYTES (64u << 20)                     /* of so many bytes together */
#define PREVIEW_BYTES (64u << 20)                    /* of all previews that wait, but for the newest */
#define STORED_FILES 10000                           /* files remembered per client */
#define STRAY_INTERRUPT MP_MS(30000)                 /* one of ours may hit the next prompt so long (protocol 2.5) */
#define STATUS_DUE MP_MS(5000)                       /* after a POST a status broadcast must come, if nothing else, or the socket is orphaned */
#define PASSED_OVER 64                               /* a group is passed over so often at most by others of equal rank */
#define DEAF_ATTEMPTS 2                              /* without a socket, before we go on by asking */
#define KILL_AGAIN MP_MS(2000)                       /* between looks at a prompt that should go away */

typedef struct { char *node, *json; uint32_t n; int cached; } output;                            /* one block, node its beginning */
typedef struct { char *node, *bytes; size_t n; const char *format; } picture;         /* that came over the socket, of a node that saves so */
typedef struct { char *node, *input; uint64_t value; } seed;
/* A client that a job does not go to: s: only for this one of its variants; NULL: for all. hard: it would only refuse it again. */
typedef struct { const struct shape *s; uint32_t serial; int hard; } shunned;
typedef struct { mp_time t; int binary; char *p; size_t n; } early_frame;
typedef struct group group;

#define MIXED 1469598103934665603u                   /* a digest to begin with: FNV-1a */
static inline uint64_t mix(uint64_t h, const void *p, size_t n) {
    for (size_t i = 0; i < n; i++) h = (h ^ ((const unsigned char *)p)[i]) * 1099511628211u;
    return h;
}

/* What the pool knows of a structural hash. Lives as long as a job, a claim or a client's memory uses it. */
typedef struct shape {
    uint32_t refs, blocks, softs;                    /* clients there with a hard block; with a cooldown */
    int has_models;
    mp_client **claimants;                           /* clients there that claim it */
    mp_job *waiting;                                 /* those in groups, a list */
    group *group;                                    /* its own, when it is claimed or blocked somewhere; NULL when empty */
    mp_forecast *forecast;
    size_t n_claimants, cap_claimants;
    char hash[MP_DIGEST_HEX];
    uint64_t *models;                                /* digests of the file names it uses */
    size_t n_models;
    UT_hash_handle hh;
} shape;

typedef struct block {                               /* a client does not get a workflow */
    char *reason, *class_type, *input, *value;       /* what to look for in its catalogue; class NULL: nothing */
    mp_time until;                                   /* cooldown: its end; else the next look */
    int hard, looking;                               /* hard: a class or a model is missing; looking: not settled yet */
    int by_value;                                    /* only a value of one job was refused: nothing is left of it once it is settled */
} block;

typedef struct known {                               /* what a client knows of a shape */
    shape *s;
    mp_time typical;
    uint8_t refusals;                                /* hard blocks so far */
    uint32_t runs, fails, users;                     /* fails: in a row; users: prompts there that hold on to it */
    int claims;
    block *block;
    struct known *next, *before;                     /* of the same client, by age */
} known;
typedef struct { const shape *s; known *k; } known_slot;

typedef struct { char *from, *to; UT_hash_handle hh; } spelling;     /* a name as the job has it, and as this server spells it; the same: it has none */

typedef struct { char key[MP_DIGEST_HEX]; char *name; int temp; UT_hash_handle hh; } stored;      /* a file that is on a server, under this name */

typedef enum { AT_UPLOADING, AT_POSTING, AT_UNKNOWN, AT_WAITING, AT_RUNNING } place;   /* UNKNOWN: the POST's reply was lost */

typedef struct prompt {                              /* what every message reads stands first, as in the client */
    struct prompt *next;
    mp_client *client;
    mp_job *job;                                     /* NULL: a tombstone */
    char id[MP_UUID_SIZE];
    uint8_t at, verdict;                             /* a place; an mp_end */
    uint8_t accepted;                                /* that was told */
    uint8_t gap;                                     /* messages may have been missed: outputs come from the history */
    uint8_t over;                                    /* it has left the executor before the reply to its POST */
    mp_time began, settled, verdict_at, due;         /* settled: when the reply (or its loss) came; due: next look */
    mp_time silence, patience, unreachable;          /* how long nothing may be heard of it; it may wait where nothing runs; its client may be away */
    char *real;                                      /* the server's id when it chose one */
    int taking;                                      /* being taken back: a delete was sent while it only waits */
    int streams;                                     /* has nodes that send their pictures over the socket */
    long speaker;                                    /* the node that spoke last, for pictures that name none; -1 */
    mp_workflow *w;                                  /* as sent */
    shape *s;
    known *k;                                        /* what its client knows of it */
    output *outputs;
    size_t n_outputs, output_bytes;
    char *cached;                                    /* the text of execution_cached's list */
    mp_time posted;
    int deleted;                                     /* tombstone: a delete was sent (and answered) */
    int interrupting, kills;                         /* kills: interrupts sent so far */
    size_t uploaded;                                 /* files sent for it */
    int held;                                        /* its file would replace one that another prompt there still needs */
    double shown;                                    /* progress, as told so far */
    mp_time taken_at, stop_again;                    /* stop_again: no further interrupt before */
    size_t reused;                                   /* attached files that were on the server before */
    uint64_t history;                                /* action under way, 0: none */
    int history_tries;
    picture *pictures;
    size_t n_pictures, picture_bytes;
    mp_failure *failure;                             /* NULL: none */
} prompt;

typedef struct { uint32_t refs; char *name, *url; } called;          /* how a client is called: jobs that ran there know it when it is gone */
void called_unref(called *x);

struct mp_client {                                   /* what every message reads stands first: of 1,000 clients none is in the cache */
    mp_pool *pool;
    uint64_t conn, freeing, closing;                 /* action ids; conn: of the open socket; freeing: POST /free under way */
    prompt *prompts, *posting;
    uint32_t serial;
    mp_client_state state;
    int load, slots;
    uint8_t wedged, removed, draining, paused, polling, has_socket, fresh, touched, busy;      /* busy: as last told */
    int8_t own_ids;                                  /* 1 known to take our ids, 0 not known, -1 not */
    uint8_t stage, open;                             /* dispatch: 0 no slot free, 1 idle, 2 a further slot; open: as last seen */
    int strikes;                                     /* silences in a row */
    mp_time heard, moved, status_due, poll_at, poll_step;
    mp_time start_from, start_asked;                 /* nothing runs there since; next look */
    mp_time wake, survey_sent, block_at, socket_at;
    mp_time answered;                                /* when the last look that was answered was sent */
    uint64_t connecting;
    long queue_remaining;
    uint64_t survey;                                 /* GET /queue under way */
    int survey_wanted, start_looks;                  /* start_looks: at /queue that found nothing running */
    size_t actions;                                  /* under way, of any kind */
    size_t wake_at;                                  /* place in pool->wakes */
    size_t free_at;                                  /* place in pool->free */
    double priority;
    shape *last_shape;                               /* what ran last; NULL: nothing yet */
    shape **claims;                                  /* what it is for */
    size_t n_claims, n_early;
    known *last_known;
    known_slot *known_at;                            /* client_known */
    size_t n_known, known_cap;
    known *known;
    mp_workflow *last;
    called *called;
    char *name, *url;                                /* of `called` */
    char *sid, *api_key;
    spelling *spellings;
    early_frame *early;
    uint64_t checking, looking;                      /* looking: GET /object_info under way */
    mp_time fetching;                                /* a take-back for it is under way */
    uint64_t sent;                                   /* goes up with each prompt sent anywhere: when it got its last */
    int bad;                                         /* failures in a row, of any job */
    mp_time stopped_at;                              /* the last interrupt was sent */
    mp_time wedged_until, wedged_at, retry_at, down_since, lost_at, online_at;
    mp_time others_since;                            /* what runs there is one prompt of somebody else's, since then; 0: it is not */
    uint64_t others;                                 /* digest of its id */
    int hopeless;                                    /* its rest ended, and what hung still hangs: nobody counts on it */
    char *problem, *version, *stats;
    char **tags, **affinity;
    int tried, has_stats, deaf, refused_us;          /* deaf: attempts in a row that gave HTTP but no socket */
    int forgotten;                                   /* FORGET is under way */
    int failures;                                    /* connections in a row that did not come up, or did not hold */
    uint32_t epoch;                                  /* goes up with each loss of the link */
    char socket_words[200];                          /* why the socket failed, while the other half is still under way */
    stored *stored;
    unsigned complained;                             /* kinds of garbage already logged */
    mp_client *next, *before;
    UT_hash_handle hh, hh_url;
};

/* Jobs that may run on the same set of clients. */
typedef enum { G_GENERAL, G_SHAPE, G_SPECIAL } group_kind;
typedef struct { shape *s; uint64_t set; uint64_t kind; } group_key;     /* set: digest of what else narrows it */
struct group {                                       /* what dispatch compares stands first */
    mp_line jobs;
    uint64_t exhausted;                              /* dispatch: the round in which it had no candidate */
    uint32_t roster, capable;                        /* capable clients, counted when the roster was so */
    int passed, fresh;                               /* passed: others of equal rank went before it so often */
    size_t other_at;                                 /* place in pool->others, or MP_HEAP_OUT */
    group_key key;
    mp_time nobody_since, check_at;                  /* MP_NEVER: somebody is there */
    UT_hash_handle hh;
};

typedef struct { char *client; double priority; } priority_for;
typedef struct { mp_workflow *w; shape *s; } variant;

struct wishes {                                      /* what few jobs have */
    char *name, *include;
    char **prefer, **exclude;                        /* NULL-ended */
    priority_for *overrides;
    size_t n_overrides;
    variant *variants;                               /* besides the job's own workflow */
    size_t n_variants;
    mp_time execution_start, retry_delay, node_silence, unreachable, no_client, request_timeout;   /* as given: 0 the pool's */
    mp_time deadline;                                /* or MP_NEVER */
    size_t deadline_at;
    mp_job *job;
    UT_hash_handle hh;
};

struct mp_job {                                      /* what is read of every job stands first: waiting jobs are cold memory */
    uint64_t id, seq;
    mp_workflow *w;
    shape *s;
    double rank;
    uint8_t state, profiling, partial, front, delivered, parked, taken, fallback;    /* parked: the policy said wait; fallback: others may help */
    uint16_t attempts, max_attempts, losses;
    uint32_t pins;
    size_t heap_at;
    group *group;
    prompt *prompt;
    char *metadata, *extra_data;
    mp_profile *profile;
    struct wishes *wishes;
    struct tail *tail;                               /* what only jobs that were sent or have ended need */
    mp_job *next, *before;                           /* in the list it is in: waiting of a shape, parked, or ended */
    double priority;
    mp_time queued, ready, wake;                     /* ready: free to be sent; wake: when it leaves the delayed heap */
};

struct tail {
    mp_workflow *sent;
    char id[MP_UUID_SIZE], *real;                    /* of the last attempt's prompt; real: when the server chose another */
    called *where;                                   /* its client, NULL: not sent yet */
    mp_failure *failure;                             /* of the last attempt that failed; NULL: none */
    output *outputs;
    picture *pictures;
    seed *seeds;
    shunned *avoid;                                  /* clients it failed on */
    uint32_t n_outputs, n_pictures, n_seeds, n_avoid;
};

typedef enum { DO_CONNECT, DO_CLOSE, DO_CHECK, DO_POST, DO_SURVEY, DO_HISTORY, DO_DELETE, DO_INTERRUPT, DO_FREE, DO_LOOK, DO_UPLOAD, DO_FORGET } purpose;
typedef struct under_way { uint64_t id; uint32_t epoch; purpose why; mp_client *client; char prompt[MP_UUID_SIZE]; shape *s; mp_file *file; UT_hash_handle hh; } under_way;
typedef struct job_list { mp_job *first, *last; size_t n; } job_list;

struct mp_pool {
    mp_pool_opts o;
    mp_rng rng;
    mp_slab jobs, tails, prompts, requests;          /* where those records stand */
    const mp_policy *policy;
    mp_log log;
    int locked, closing, dirty, stale, paused, freeing;      /* stale: a failure of a link that is gone is being reported */
    uint32_t mask;
    uint64_t next_action, next_seq, sent;
    uint32_t next_client, roster;                    /* roster: goes up when a client opens or closes */
    mp_client *clients, *last_client, *by_serial, *by_url;
    mp_client *look_from;                            /* where the next take-back begins to look */
    size_t n_clients, n_open;
    mp_job **slots;                                  /* jobs by the low half of their id */
    uint32_t *generations, *free_slots;
    size_t n_slots, cap_slots, cap_gen, n_free, cap_free;
    shape *shapes;
    struct wishes *named;
    group *groups, *general;
    group **others;                                  /* groups that are neither the general one nor reached through a claim */
    size_t n_others, cap_others, n_empty;            /* n_empty: groups without a job, dropped when there are many */
    mp_client **free, **fresh, **touched;            /* with a free slot; such since the last dispatch; to be looked at by it */
    size_t n_free_clients, cap_free_clients, n_fresh, cap_fresh, n_touched, cap_touched;
    group **fresh_groups;
    size_t n_fresh_groups, cap_fresh_groups;
    uint64_t round;
    mp_time check_at;                                /* the earliest of the groups */
    mp_time least_no_client;                         /* the smallest bound that the pool or a job has had */
    mp_heap delayed, deadlines, wakes;
    job_list parked;
    under_way *under_way;
    mp_action *actions;
    size_t a_head, a_n, a_cap;
    mp_event *events;
    size_t e_head, e_n, e_cap;
    mp_event *previews;                              /* oldest first, at most max_previews */
    size_t n_previews;
    job_list undelivered, delivered;                 /* jobs that have ended, oldest first */
    mp_pool_stats stats;
};

/* shape.c */
shape *shape_of(mp_pool *p, const char *hash);       /* made when it is new; one reference for the caller */
shape *shape_find(const mp_pool *p, const char *hash);
shape *shape_ref(shape *s);
void shape_unref(mp_pool *p, shape *s);
void shape_claim(mp_pool *p, shape *s, mp_client *c);
void shape_unclaim(mp_pool *p, shape *s, mp_client *c);
void shape_changed(mp_pool *p, shape *s, mp_time now);               /* claimed or blocked, or no longer so: its jobs may belong elsewhere */
void shape_learn_models(shape *s, const mp_workflow *w);
int shape_holds(const shape *held, shape *s, const mp_workflow *w);  /* the models of s are among those of held */
known *client_known(mp_client *c, shape *s, int make);
void known_drop_all(mp_client *c);
void client_ran(mp_client *c, const prompt *pr, mp_time took);
int client_claims(const mp_client *c, const shape *s);
int shape_may_run(const mp_client *c, const shape *s, int fallback); /* hard rules only */
int job_may_run(const mp_client *c, const mp_job *j);
int job_refused(const mp_job *j, const mp_client *c, const shape *s);  /* a value of it, there */
int job_avoids(const mp_job *j, const mp_client *c);                 /* it failed there */
int job_wants_not(const mp_job *j, const mp_client *c);              /* soft: it failed there, or the workflow rests there */
mp_workflow *job_workflow_for(const mp_job *j, const mp_client *c, shape **s);       /* the variant that client would run */

/* block.c */
void block_hard(mp_client *c, shape *s, const mp_failure *f, mp_time now);
int block_may_spell(const mp_client *c, const mp_failure *f);        /* what it refused may be there under another spelling */
void block_failed(mp_client *c, shape *s, const mp_failure *f, mp_time now);         /* one failure: perhaps a cooldown */
void block_lift(mp_client *c, known *k, mp_time now);
void block_clear(mp_client *c, known *k);            /* without a word */
void block_looked(mp_client *c, uint64_t action, shape *s, const mp_result *r, mp_time now);
void block_tick(mp_client *c, mp_time now);
void block_recheck(mp_client *c, mp_time now);       /* it is online again: perhaps with other files */
void spelling_free(spelling *sp);
mp_workflow *respell(mp_client *c, mp_workflow *w);  /* file names as this server spells them */

/* event.c */
under_way *action_under_way(mp_pool *p, uint64_t id);         /* NULL: none, or reported */
uint64_t act(mp_pool *p, mp_client *c, purpose why, const char *prompt, const char *method, mp_buf *path, mp_buf *body, mp_time timeout);
int wanted(const mp_pool *p, mp_event_kind k);
mp_event *event(mp_pool *p, mp_event_kind k, const mp_job *j, const mp_client *c, mp_time now);
void event_data(mp_event *e, const void *p, size_t n);
void previews_bound(mp_pool *p);                     /* the oldest go when those that wait are too large together */

/* job.c: the only place where a job's state changes */
void job_assigned(mp_pool *p, mp_job *j, prompt *pr, mp_time now);
void job_posted(mp_pool *p, mp_job *j, prompt *pr, mp_time now);      /* its POST leaves now */
void job_accepted(mp_pool *p, mp_job *j, mp_time now);
void job_running(mp_pool *p, mp_job *j, mp_time now);
void job_requeue(mp_pool *p, mp_job *j, mp_time delay, mp_time now);
void job_end(mp_pool *p, mp_job *j, mp_job_state s, const mp_failure *f, mp_time now);
struct tail *job_tail(mp_pool *p, mp_job *j);
void job_failed_by(mp_pool *p, mp_job *j, const mp_failure *f);       /* keeps a copy; NULL: forgets the one before */
void job_free_all(mp_pool *p);
void outputs_free(output *v, size_t n);
void pictures_free(picture *v, size_t n);
void list_add(job_list *l, mp_job *j);
void list_remove(job_list *l, mp_job *j);

/* queue.c */
void queue_push(mp_pool *p, mp_job *j, mp_time now);
void queue_rerank(mp_pool *p, mp_job *j, double rank, mp_time now);
void queue_remove(mp_pool *p, mp_job *j);
void queue_move(mp_pool *p, mp_job *j, mp_time now); /* to the group it belongs to now */
void queue_delay(mp_pool *p, mp_job *j, mp_time until);
void queue_tick(mp_pool *p, mp_time now);
mp_time queue_next(const mp_pool *p);
void queue_park(mp_pool *p, mp_job *j, mp_time now); /* until clients change or recheck */
void queue_presence(mp_pool *p, mp_time now);        /* clients came or went: who has nobody? */
void queue_free(mp_pool *p);
void group_fresh(mp_pool *p, group *g);

/* client.c */
int client_open(const mp_client *c);                 /* online and taking work */
int client_is(const mp_client *c, const char *name_or_url);
void client_forget_places(mp_client *c);             /* it will be freed */
void client_touch(mp_client *c);                     /* its slots or its state may have changed */
void client_unwedge(mp_client *c, int moved, mp_time now);           /* it works again, or gets another chance */
void client_problem(mp_client *c, const char *words);
void client_settle(mp_client *c, mp_time now);       /* removed and idle: let it go for good */
void client_gone(mp_client *c);                      /* FORGET was reported */
void client_free(mp_client *c);

/* link.c */
void link_start(mp_client *c, mp_time now);
void link_told(mp_client *c, mp_time now);           /* its state changed: to observers, and to jobs that nobody could run */
void link_down(mp_client *c, const char *why, mp_time now);
void link_reset(mp_client *c, const char *why, mp_time now);         /* the socket is deaf: close it, then connect again */
void link_connected(mp_client *c, uint64_t action, const mp_result *r, mp_time now);
void link_checked(mp_client *c, const mp_result *r, mp_time now);
void link_closed(mp_client *c, mp_time now);
int link_wanted(const mp_client *c);
void link_freed(mp_client *c, mp_time now);          /* POST /free was answered, or not */
void link_tick(mp_client *c, mp_time now);
void client_rearm(mp_client *c, mp_time now);

/* dispatch.c */
void dispatch(mp_pool *p, mp_time now);
void post(prompt *pr, mp_time now);
void posted(mp_client *c, const char *id, const mp_result *r, mp_time now);
int has_fresh(const mp_pool *p, const mp_job *j);    /* an open client that it does not want to avoid */

/* recover.c */
mp_time client_poll(const mp_client *c);             /* between two looks */
int prompt_cached(const prompt *pr, mp_str node);
void prompt_output(prompt *pr, mp_str node, mp_str json);             /* the newest of a node stands */
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
void prompt_interrupted(prompt *pr, mp_time now);
mp_failure *prompt_failure(prompt *pr);              /* to be set */
mp_time silence_bound(const prompt *pr);
mp_time begin_bound(const prompt *pr);
mp_time unreachable_bound(const prompt *pr);
void give_up_unreachable(mp_client *c, mp_time now); /* those whose client has been away for too long */
mp_time request_bound(const mp_pool *p, const mp_job *j);     /* of one request for it */
prompt *prompt_by_id(mp_client *c, mp_str id);
mp_time jitter(mp_pool *p, mp_time t);               /* give or take 30 % */
int take_back(mp_client *idle, mp_time now);         /* nothing waits for this client: fetch a prompt that only waits elsewhere */

/* upload.c */
int upload_next(prompt *pr, mp_time now);
size_t upload_reused(const prompt *pr);
int upload_feeds(const prompt *pr, const char *id);
void uploaded(mp_client *c, const char *id, mp_file *f, const mp_result *r, mp_time now);
void upload_forget(mp_client *c, int only_temp);

/* retry.c */
void attempt_failed(mp_pool *p, mp_job *j, mp_client *c, mp_failure *f, mp_time now);

/* frame.c */
void prompt_left(prompt *pr, mp_time now);           /* it has left the executor */
void early_replay(mp_client *c, prompt *pr, mp_time now);
void early_clear(mp_client *c);
#endif
