/* world/trial.h -- floor 6, world: the inside of a trial, shared by load.c (what happens) and invariant.c (what must
 * hold) only. */
#ifndef MP_WORLD_TRIAL_H
#define MP_WORLD_TRIAL_H
#include "world/load.h"

#define MAX_JOBS 300
#define MAX_SIMS 12
#define CLASSES 5
#define PICTURES 4

typedef struct tracked {
    mp_job *j;                                       /* pinned; NULL: never accepted */
    uint64_t id;
    int ends, starts, retries, sends, disturbed, doomed, odd, stopped;       /* odd: has wishes, so others may go before it; stopped: we canceled it */
    double priority;
    int picture, kind, excluded, variant, preferred;          /* index of a sim, -1; index of a second class, -1 */
    mp_time queued, bound, ready;
    char begun[37], taken[37];                       /* prompt ids: begun last; taken back last */
} tracked;

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
    int crowd;                                       /* the class that most jobs are of, which sim 0 claims; CLASSES: none */
    int faulty, strays, paused, helped;              /* helped: others may help out where a hash is claimed */
    mp_client *looking;
    mp_policy policy;
    mp_rng wild;                                     /* what the scripts answer */
} trial;

void broke(trial *x, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
tracked *tracked_by(trial *x, uint64_t id);

/* invariant.c */
void trial_event(void *ud, const mp_event *e);
void trial_step(void *ud);
void trial_sent(trial *x, mp_job *j, mp_client *c);  /* a job is about to be sent there */
void trial_begun(void *ud, const char *mark);        /* a prompt has begun on some server */
void trial_over(trial *x, int quiet);
#endif
