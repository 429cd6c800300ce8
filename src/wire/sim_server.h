/* wire/sim_server.h -- floor 6, wire: a simulated server behind a real port.
 * Sees: net, sim. Seen by: lua. */
#ifndef MP_SIM_SERVER_H
#define MP_SIM_SERVER_H
#include "net/loop.h"
#include "sim/server.h"

typedef struct mp_sim_server mp_sim_server;

/* Listens on host:port (0: any free one); the options' epoch is set here. */
mp_sim_server *mp_sim_server_open(mp_loop *l, const char *host, int port, const mp_sim_opts *o, uint64_t seed, mp_err *e);
void mp_sim_server_close(mp_sim_server *s);          /* NULL is fine; by its observer: when the step is done */
int mp_sim_server_busy(const mp_sim_server *s);      /* in the middle of a step: its observer may look, not change */
int mp_sim_server_port(const mp_sim_server *s);
mp_sim *mp_sim_server_sim(mp_sim_server *s);
/* Faults on the network side; call mp_sim_server_pump after using the sim directly. */
void mp_sim_server_pump(mp_sim_server *s);
void mp_sim_server_down(mp_sim_server *s, mp_time duration);     /* restart that takes this long: connections refused meanwhile */
void mp_sim_server_delay(mp_sim_server *s, mp_time each_way);    /* holds every request, reply and frame this long */
#endif
