/* world/trial.h -- floor 6, world: the inside of a trial, shared by load.c (what happens), jobs.c (the load and its scripts),
 * invariant.c (what must hold) and bounds.c (what must not take longer) only. */
#ifndef MP_WORLD_TRIAL_H
#define MP_WORLD_TRIAL_H
#include "world/load.h"
#include <uthash.h>

#define MAX_JOBS 300
#define MAX_SIMS 12
#define CLASSES 5
#define PICTURES 4
#define TEXT_TO_IMAGE "{\"4\":{\"class_type\":\"CheckpointLoaderSimple\",\"inputs\":{\"ckpt_name\":\"sd15.safetensors\"}}," \
    "\"5\":{\"class_type\":\"EmptyLatentImage\",\"inputs\":{\"width\":512,\"height\":512,\"batch_size\":1}}," \
    "\"6\":{\"class_type\":\"CLIPTextEncode\",\"inputs\":{\"text\":\"x\",\"clip\":[\"4\",1]}}," \
    "\"3\":{\"class_type\":\"KSampler\",\"inputs\":{\"seed\":-1,\"steps\":8,\"cfg\":7,\"sampler_name\":\"euler\",\"scheduler\":\"normal\",\"denoise\":1," \
    "\"model\":[\"4\",0],\"positive\":[\"6\",0],\"negative\":[\"6\",0],\"latent_image\":[\"5\",0]}}," \
    "\"8\":{\"class_type\":\"VAEDecode\",\"inputs\":{\"samples\":[\"3\",0],\"vae\":[\"4\",2]}}," \
    "\"9\":{\"class_type\":\"SaveImage\",\"inputs\":{\"images\":[\"8\",0],\"filename_prefix\":\"b\"}}}"

/* The last moment of something that comes and goes: between two steps all stays as the first of them found it. */
typedef struct moment { mp_time last; int is; } moment;

typedef struct tracked {
    mp_job *j;                                       /* pinned; NULL: never accepted */
    uint64_t id;
    int ends, starts, retries, sends, disturbed, doomed, odd, stopped;       /* odd: has wishes, so others may go before it; stopped: we canceled it */
    double priority;
    int picture, kind, excluded, variant, preferred, raised;  /* index of a sim, -1; index of a second class, -1; raised: has priority 5 for this job */
    mp_time queued, bound, ready;                    /* bound: its total, else MP_NEVER */
    mp_time silence, patience;                       /* what it may take at most until it is given up where nothing is heard; where nothing begins */
    mp_time lined;                                   /* in line since, as last looked; 0: not */
    moment attended;                                 /* somebody was there who may run it */
    size_t sim;                                      /* where its prompt is, or was last */
    char name[24];                                   /* the user's own id, or "" */
    int attempts, given_back;                        /* attempts: as many at most; given_back: how often it was taken back */
    mp_time pause;                                   /* before its second attempt */
    int profiled, extra, included, halved, unranked; /* options that must show again; halved: one of its two outputs is refused; unranked: its script answered no number */
    mp_time nobody, away;                            /* how long nobody may be there for it; its client may be out of reach */
    char own[37];                                    /* the prompt id that we gave it, "" before its POST */
} tracked;

/* A prompt that was posted, by the id that we gave it. */
typedef struct sent {
    char mark[37];
    uint64_t job;
    size_t sim;
    mp_time dead;                                    /* nobody wants it since; 0: wanted */
    uint32_t who, life;                              /* the client's serial; of its sim, when it began */
    int begun, taken;
    UT_hash_handle hh;
} sent;

/* What is seen of a server and its client. */
typedef struct place {
    mp_time since;                                   /* it is online, or is not */
    moment posting, late, loaded, ran, others, polled, present;  /* others: a prompt of somebody else's runs; late: a request has waited for longer than it should */
    mp_time rest, stop, free;                        /* rest: begun; stop, free: the last interrupt was sent; the last /free */
    mp_time silence, patience;                       /* the most that its jobs grant */
    uint32_t who, life;                              /* who: the client's serial; life: goes up with each restart */
    int online, jobs, running, rests, draining;      /* draining: what is there may end there */
} place;

typedef struct trial {
    mp_trial *t;
    mp_world *w;
    mp_rng r;
    mp_workflow *wf[CLASSES];
    mp_file *picture[PICTURES];                      /* different contents under the same name */
    tracked jobs[MAX_JOBS];
    size_t n, unfinished, doomed;
    mp_client_opts client[MAX_SIMS];
    const char *claims[MAX_SIMS][CLASSES + 1];
    mp_time idle_since[MAX_SIMS], stray_since[MAX_SIMS], away[MAX_SIMS][2], slack, frozen, oom_at[MAX_SIMS];
    int affinity[MAX_SIMS][CLASSES], missing[MAX_SIMS], roams[MAX_SIMS];     /* roams: its client came or went */
    uint32_t away_who[MAX_SIMS];                     /* of which client away[] tells when it was last lost, latest first */
    size_t must_free[MAX_SIMS], passed[CLASSES + 1]; /* POST /free the sim must have seen; how often a group was passed over */
    int flat, wild_routes;                           /* all jobs have the same priority; scripts choose */
    int calm;                                        /* no job wishes for anything that may go wrong */
    int ranked;                                      /* a script has just given this: */
    double rank;
    char names[MAX_SIMS][32];
    int crowd;                                       /* the class that most jobs are of, which sim 0 claims; CLASSES: none */
    int faulty, strays, paused, helped;              /* helped: others may help out where a hash is claimed */
    mp_client *looking;
    place at[MAX_SIMS];
    uint64_t sending[MAX_SIMS];                      /* the job whose prompt goes there next */
    sent *sent;
    size_t first, sends;                             /* first: jobs before have ended */
    mp_time looked, changed;                         /* at all bounds; who may run what: clients came or went, were blocked or no longer */
    mp_rng opt;                                      /* what the pool's options are drawn from */
    mp_policy policy;
    mp_rng wild;                                     /* what the scripts answer */
} trial;

/* jobs.c */
extern const char *const trial_shapes[CLASSES];
void trial_scripts(trial *x, int wild);              /* wild: hooks that raise, and answer nonsense */
void trial_submit(mp_world *w, void *ud, size_t kind);
void trial_cancel(mp_world *w, void *ud, size_t which);
void trial_reprioritize(mp_world *w, void *ud, size_t which);

/* invariant.c */
void broke(trial *x, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
tracked *tracked_by(trial *x, uint64_t id);

void trial_event(void *ud, const mp_event *e);
void trial_step(void *ud);
void trial_sent(trial *x, mp_job *j, mp_client *c);  /* a job is about to be sent there */
void trial_begun(void *ud, const char *mark);        /* a prompt has begun on some server */
void trial_posted(void *ud, size_t i, const char *path, const char *body);
void trial_forget(trial *x);
void trial_over(trial *x, int quiet);

/* bounds.c */
void trial_places(trial *x);                         /* every step: what is seen of servers and clients */
void trial_bounds(trial *x);                         /* now and then: whether something takes longer than it may */
#endif
