/* tests/bench/scale.h -- the size bench, with and without a policy in Lua. */
#ifndef BENCH_SCALE_H
#define BENCH_SCALE_H
#include "pool/pool.h"

typedef struct scale_case {
    const char *name;
    size_t clients, workflows, jobs;
    int affinity, profiling;
    void (*made)(void *ud, mp_pool *p);              /* a policy in Lua has to know the pool; and frees it at the end */
    void (*unmade)(void *ud);
    void *ud;
} scale_case;

void scale_run(const scale_case *k, const mp_policy *policy);
#endif
