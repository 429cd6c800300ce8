/* net/loop.h -- floor 1, net: one event loop under HTTP, WebSocket and server; libuv, with libwebsockets as a guest.
 * A loop belongs to one thread. Everything calls back from mp_loop_step only, never from the call that starts it.
 * Sees: base. Seen by: wire, lua. */
#ifndef MP_LOOP_H
#define MP_LOOP_H
#include "base/base.h"
#include "base/err.h"

typedef struct mp_loop mp_loop;
typedef struct mp_timer mp_timer;

mp_loop *mp_loop_new(mp_err *e);
/* Closes whatever is still open (their callbacks are told MP_EABORT) and frees the loop. */
void mp_loop_free(mp_loop *l);
/* Waits at most wait_ms for something to happen, does what is due, returns. wait_ms bounds the waiting, not the work.
 * MP_EBUSY from inside a callback of the same loop. */
int mp_loop_step(mp_loop *l, int wait_ms);
int mp_loop_fd(const mp_loop *l);                    /* readable when a step has something to do */
int mp_loop_timeout_ms(const mp_loop *l);            /* how long a host may wait before it must step; -1: for ever */
void mp_loop_wake(mp_loop *l);                       /* ends a wait; the one call that any thread may make */

mp_time mp_loop_now(const mp_loop *l);               /* monotonic */
mp_time mp_loop_epoch(const mp_loop *l);             /* add to an instant for microseconds since the Unix epoch */

mp_timer *mp_timer_new(mp_loop *l, void (*fn)(void *ud), void *ud);
void mp_timer_set(mp_timer *t, mp_time at);          /* MP_NEVER: off. Rounded up to whole milliseconds */
void mp_timer_free(mp_timer *t);

typedef struct mp_watch mp_watch;
/* Calls fn whenever fd can be read without waiting (its end included). NULL: fd is of a kind that is always readable, a plain
 * file for instance. The fd stays its owner's. */
mp_watch *mp_watch_new(mp_loop *l, int fd, void (*fn)(void *ud), void *ud);
void mp_watch_free(mp_watch *w);                     /* before the loop; NULL is fine */

/* Runs `work` in another thread, then `done` here. */
void mp_loop_work(mp_loop *l, void (*work)(void *ud), void (*done)(void *ud), void *ud);
#endif
