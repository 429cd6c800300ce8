/* world/world.h -- floor 6, world: pool and simulated servers joined over a heap of timed events, in virtual time.
 * From one seed everything follows: the same seed gives the same log, byte for byte.
 * Sees: pool, sim, prof, comfy, graph, base. Seen by: lua, tests. */
#ifndef MP_WORLD_H
#define MP_WORLD_H
#include "pool/pool.h"
#include "sim/server.h"

typedef struct mp_world mp_world;

typedef struct mp_world_opts {
    uint64_t seed;
    mp_pool_opts pool;
    const mp_policy *policy;
    mp_time delay_min, delay_max;                    /* one way, per message */
    void (*log)(void *ud, const char *line);         /* every action, result and event; NULL: not written */
    void *log_ud;
} mp_world_opts;

mp_world *mp_world_new(const mp_world_opts *o);
void mp_world_free(mp_world *w);
mp_pool *mp_world_pool(mp_world *w);
mp_time mp_world_now(const mp_world *w);
mp_rng *mp_world_rng(mp_world *w);

/* A server at http://sim<i>, and a client for it in the pool. Index of the server. */
size_t mp_world_add_sim(mp_world *w, const mp_sim_opts *o, const mp_client_opts *c);
mp_sim *mp_world_sim(mp_world *w, size_t i);
mp_client *mp_world_client(mp_world *w, size_t i);               /* NULL: removed */
size_t mp_world_sims(const mp_world *w);
int mp_world_posting(const mp_world *w, size_t i);               /* a prompt, or a file for one, is on its way there */
mp_time mp_world_heard(const mp_world *w, size_t i);             /* when its last frame came; 0: none did */
mp_time mp_world_asked(const mp_world *w, size_t i);             /* when the oldest action under way there was given; MP_NEVER: none is */

/* Calls fn at time t (as part of the order of events). */
void mp_world_at(mp_world *w, mp_time t, void (*fn)(mp_world *w, void *ud, size_t arg), void *ud, size_t arg);
/* Network faults of server i. */
void mp_world_cut(mp_world *w, size_t i, mp_time linger);        /* socket lost for the pool now; the server notices after linger */
void mp_world_down(mp_world *w, size_t i, mp_time until);        /* killed: connections refused; comes back empty */
void mp_world_dark(mp_world *w, size_t i, mp_time until);        /* everything to and from it is lost */

void mp_world_mute(mp_world *w, size_t i, mp_time until);        /* its messages stop, its replies and its work go on */
void mp_world_lose_replies(mp_world *w, size_t i, int n);        /* the next n replies never come */
void mp_world_slow(mp_world *w, size_t i, mp_time until, mp_time by);    /* its replies take so much longer */
void mp_world_break(mp_world *w, size_t i, mp_time until);       /* connections end in the middle of its replies, but of those that say it is there */
void mp_world_no_socket(mp_world *w, size_t i, mp_time until);   /* WebSockets are refused, HTTP works */
void mp_world_freeze(mp_world *w, mp_time until);                /* the pool's process is stopped; all comes late */
/* A request of somebody else's, straight to server i. */
void mp_world_foreign(mp_world *w, size_t i, const char *method, const char *path, const char *body);
/* Server i joins the pool (again) under the URL it always has. NULL: it is there. */
mp_client *mp_world_join(mp_world *w, size_t i, const mp_client_opts *c);

/* Called with every event of the pool, and after every step. */
void mp_world_watch(mp_world *w, void (*on_event)(void *ud, const mp_event *e), void (*on_step)(void *ud), void *ud);
/* Called with path and body of every POST that the pool makes, as it leaves; ud as for mp_world_watch. */
void mp_world_on_post(mp_world *w, void (*fn)(void *ud, size_t i, const char *path, const char *body));
/* Runs until `until` or until nothing is left to happen and the pool is quiet. 1: quiet. */
int mp_world_run(mp_world *w, mp_time until);
const char *mp_world_digest(mp_world *w, char out[65]);          /* over the log so far */
#endif
