/* world/plan.h -- floor 6, world: what a pool would do with this load on these clients: the real pool and the chosen policy in
 * virtual time, against servers that take a given time for each job. The servers speak as much of the protocol as the pool
 * asks of them (a reply to each request, the messages of a prompt, the queue, deletes), and nothing ever fails.
 * Sees: pool, comfy, graph, base. Seen by: lua, tests. */
#ifndef MP_PLAN_H
#define MP_PLAN_H
#include "pool/pool.h"

typedef struct mp_plan_job {
    mp_time arrival, service;                        /* since the begin; on a client of speed 1, warm */
    int kind;                                        /* which workflow, from 0: warm and cold go by it */
    mp_time begun, ended;                            /* out: execution, on the server */
    int client;                                      /* out */
} mp_plan_job;

typedef struct mp_plan_client {
    double speed, priority;                          /* speed: 2 takes half the time; above 0 */
    int slots;                                       /* 0: the pool's default */
    mp_time busy;                                    /* out */
    size_t ran;                                      /* out */
} mp_plan_client;

typedef struct mp_plan {
    mp_plan_job *jobs;
    size_t n_jobs;
    mp_plan_client *clients;
    size_t n_clients;
    const mp_time *cold;                             /* by kind: what the first run after another kind takes on top; NULL: nothing */
    size_t n_kinds;
    mp_time delay;                                   /* one way, per message */
    uint64_t seed;
    const mp_policy *policy;                         /* NULL: the built-in choice */
    void (*made)(void *ud, mp_pool *pool, const mp_time *now);       /* the pool is there, and NULL when it goes; may be NULL */
    void *ud;
    mp_time makespan;                                /* out: from the first arrival to the last end */
    size_t taken_back;                               /* out */
} mp_plan;

/* Jobs in the order of their arrivals. 0, or an error with words. */
int mp_plan_run(mp_plan *p, mp_err *e);
#endif
