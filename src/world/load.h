/* world/load.h -- floor 6, world: the fault campaign: from a seed, a cluster, a load, a plan of faults, and what must
 * hold all the while.
 * Sees: world. Seen by: tests. */
#ifndef MP_LOAD_H
#define MP_LOAD_H
#include "world/world.h"

#define MP_TRIAL_FAULTS 48

typedef struct mp_trial {
    uint64_t seed;
    int faults;                                      /* 0: none, all else equal */
    uint64_t skip;                                   /* bit i: leave out fault i of the plan (shrinking) */
    size_t limit;                                    /* jobs at most; 0: as planned */
    void (*log)(void *ud, const char *line);
    void *log_ud;
    /* out */
    size_t jobs, planned, completed, failed, canceled, retries, taken_back;   /* planned: faults in the plan */
    char broken[300];                                /* the first invariant that did not hold, or "" */
    char digest[65];
} mp_trial;

/* Runs one trial to its end. 0: everything held. */
int mp_trial_run(mp_trial *t);
/* A broken trial with as few faults and jobs as still break it, as `breaks` tells, which runs it again and again. */
void mp_trial_shrink(mp_trial *t, int (*breaks)(mp_trial *t));
#endif
