/* prof/profile.h -- floor 4, prof: the record of one job, fed by messages as they arrive.
 *
 * Where a node's time comes from (protocol 5.4): servers with progress_state tell start and end of every node;
 * older ones only which node is next, so a node ends when the next one begins. A node that asks for lazy inputs
 * is announced twice; what lies between the announcement of the needed node and its own second one was waiting
 * and is not counted. Expanded nodes live under the submitted node they came from.
 * Sees: base, graph, comfy. Seen by: pool, lua, replay. */
#ifndef MP_PROFILE_H
#define MP_PROFILE_H
#include "base/json.h"
#include "comfy/message.h"
#include "comfy/reply.h"
#include "graph/workflow.h"

typedef struct mp_profile mp_profile;

typedef enum { MP_NODE_PENDING, MP_NODE_EXECUTING, MP_NODE_COMPLETED, MP_NODE_CACHED, MP_NODE_FAILED } mp_node_status;
extern const char *const mp_node_status_names[MP_NODE_FAILED + 1];

/* A job queued at `now`. The workflow is kept by reference. progress_limit: events kept per node (2 or more). */
mp_profile *mp_profile_new(mp_workflow *w, mp_time now, int progress_limit);
void mp_profile_free(mp_profile *p);                 /* NULL is fine */

/* One attempt's life. `ready` is when the job was free to be sent (after delays); the rest are `now`. */
void mp_profile_attempt(mp_profile *p, mp_workflow *sent, const char *client, mp_time ready, mp_time now);
/* The next attempt sends another workflow (a variant). Does nothing when it is the same. */
void mp_profile_rebase(mp_profile *p, mp_workflow *w);
void mp_profile_upload(mp_profile *p, mp_time now);  /* first byte of the first upload */
void mp_profile_sent(mp_profile *p, mp_time now);
void mp_profile_prompt(mp_profile *p, const char *prompt_id);
void mp_profile_message(mp_profile *p, const mp_msg *m, mp_time now);
/* What a history entry tells of an attempt whose messages we missed; marks what is inferred. */
void mp_profile_history(mp_profile *p, const mp_history *h, mp_time now);
/* The attempt is over: outcome "completed", or a failure's name with its words. Nodes still open are closed. */
void mp_profile_end_attempt(mp_profile *p, const char *outcome, const char *error, mp_time now);
/* Between two attempts: it will be free to be sent at `ready`; the last attempt's nodes are forgotten. */
void mp_profile_wait(mp_profile *p, mp_time ready);
void mp_profile_close(mp_profile *p, mp_time now);   /* the job is over; the numbers are added up once */
void mp_profile_transfer(mp_profile *p, mp_time duration);     /* fetching the outputs, after the end */

/* Progress of the whole job, 0..1: the share of nodes that are done, the running one counted by its steps. */
double mp_profile_overall(const mp_profile *p);
mp_time mp_profile_started(const mp_profile *p);     /* MP_NEVER: not begun */
const char *mp_profile_running(const mp_profile *p); /* id of a node that runs, or NULL */

/* Something that takes a document piece by piece: JSON text, or Lua tables. */
typedef struct mp_sink {
    void *ud;
    void (*open)(void *ud, const char *name, int array);       /* name NULL inside an array */
    void (*close)(void *ud);
    void (*number)(void *ud, const char *name, double v);
    void (*string)(void *ud, const char *name, mp_str s);
    void (*boolean)(void *ud, const char *name, int v);
    void (*json)(void *ud, const char *name, mp_str text);     /* a ready JSON value */
} mp_sink;

/* The document of the profile schema. `epoch` is what to add to a time for microseconds since the Unix epoch. */
void mp_profile_visit(const mp_profile *p, mp_time epoch, const mp_sink *sink);
void mp_profile_json(mp_buf *b, const mp_profile *p, mp_time epoch);
/* The same behind members that are in `b` already ("{..."), with the inputs of each node as they were sent. Long values
 * are shortened and carry a digest, so that what differs stays different. */
void mp_profile_log(mp_buf *b, const mp_profile *p, mp_time epoch);
#endif
