/* pool/policy.h -- floor 5, pool: the pool's only call outward. All functions are optional; none may wait, and
 * while one runs every entry of the pool answers MP_EBUSY. What a function does not decide, the pool decides.
 * Sees: comfy, graph. Seen by: pool, world, lua. */
#ifndef MP_POLICY_H
#define MP_POLICY_H
#include "comfy/failure.h"
#include "graph/workflow.h"

struct mp_pool;
struct mp_job;
struct mp_client;

enum { MP_ROUTE_HOLD = -1, MP_ROUTE_ANY = -2 };      /* leave it queued; no opinion */
enum { MP_AGAIN_ANY, MP_AGAIN_YES, MP_AGAIN_NO };    /* no opinion; try again; give up */
#define MP_ROUTE_CANDIDATES 16

typedef struct mp_policy {
    void *ud;
    /* 1: let it in; 0: refuse it, with one sentence in `why`. */
    int (*admit)(void *ud, struct mp_pool *p, struct mp_job *j, char *why, size_t cap);
    /* 1: *rank is set (higher goes first); 0: the job's priority stands. Called once, at submit. */
    int (*rank)(void *ud, struct mp_pool *p, struct mp_job *j, double *rank);
    /* One of c[0..n-1] by index, MP_ROUTE_HOLD or MP_ROUTE_ANY. n is at most MP_ROUTE_CANDIDATES. */
    int (*route)(void *ud, struct mp_pool *p, struct mp_job *j, struct mp_client *const *c, size_t n, int stage);
    /* May change the inputs of *w, a fresh copy of what was submitted (own it first). 0, or an error: the job fails. */
    int (*mutate)(void *ud, struct mp_pool *p, struct mp_job *j, struct mp_client *c, mp_workflow **w, mp_err *e);
    int (*on_failure)(void *ud, struct mp_pool *p, struct mp_job *j, struct mp_client *c, const mp_failure *f, int attempts);
} mp_policy;
#endif
