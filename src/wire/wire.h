/* wire/wire.h -- floor 6, wire: carries a pool's actions to real servers and reports back.
 * Decides nothing: what is sent when is the pool's business.
 * Sees: net, pool, prof, comfy. Seen by: lua. */
#ifndef MP_WIRE_H
#define MP_WIRE_H
#include "net/loop.h"
#include "pool/pool.h"

typedef struct mp_wire mp_wire;
struct mp_journal;

typedef struct mp_wire_client {                      /* how a client is reached; all copied */
    const char *const *headers;
    const char *userpwd, *ca_file;
    int insecure;
    size_t max_message;                              /* bytes of one frame, 0: 64 MiB */
} mp_wire_client;

/* The pool is borrowed and must outlive the wire. on_event gets every event of the pool; it may call into the pool. */
mp_wire *mp_wire_new(mp_loop *l, mp_pool *p, void (*on_event)(void *ud, const mp_event *e), void *ud);
void mp_wire_free(mp_wire *w);                       /* aborts what is under way; the pool hears of it */
/* Before or right after mp_pool_add_client; the options hold for all requests of this client. */
void mp_wire_client_opts(mp_wire *w, mp_client *c, const mp_wire_client *o);
const mp_wire_client *mp_wire_opts_of(mp_wire *w, const mp_client *c);
/* Every job that ends with a profile is written there; the journal is the wire's from then on. */

void mp_wire_journal(mp_wire *w, struct mp_journal *j);
int mp_wire_written(const mp_wire *w);               /* what was to be written has been */
/* To be called after every call into the pool that may have left actions or events. Cheap when there are none. */
void mp_wire_pump(mp_wire *w);
#endif
