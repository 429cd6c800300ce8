/* world/load.h -- floor 6, world: from a seed, a cluster, a load, a plan of faults, and what must hold.
 * Sees: world. Seen by: tests. */
#ifndef MP_LOAD_H
#define MP_LOAD_H
#include "world/world.h"

typedef struct mp_trial {
    uint64_t seed;
    int faults;                                      /* 0: none, all else equal */
    void (*log)(void *ud, const char *line);
    void *log_ud;
    /* out */
    size_t jobs, completed, failed, canceled, retries;
    char broken[256];                                /* the first invariant that did not hold, or "" */
    char digest[65];
} mp_trial;

/* Runs one trial to its end. 0: everything held. */
int mp_trial_run(mp_trial *t);
#endif
