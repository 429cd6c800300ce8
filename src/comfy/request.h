/* comfy/request.h -- floor 3, comfy: what we ask of a server: paths and bodies (protocol section 2).
 * Sees: base, graph. Seen by: pool, world, lua. */
#ifndef MP_REQUEST_H
#define MP_REQUEST_H
#include "graph/workflow.h"

typedef struct mp_prompt_opts {
    const char *client_id, *prompt_id;
    const char *extra_data;                          /* JSON object text, or NULL; members are kept beside ours */
    const char *api_key;                             /* of Comfy.org, for the nodes that need one; NULL: none */
    int front;
} mp_prompt_opts;

/* Body of POST /prompt: the workflow under our own id, which also goes into extra_data.moonpool, so that the
 * prompt is found in queue and history of servers that choose ids themselves. */
void mp_request_prompt(mp_buf *body, const mp_workflow *w, const mp_prompt_opts *o);
void mp_request_delete(mp_buf *body, const char *prompt_id);      /* POST /queue */
void mp_request_interrupt(mp_buf *body, const char *prompt_id);   /* POST /interrupt */
void mp_request_history(mp_buf *path, const char *prompt_id);
/* Path of GET /view for one output file. */
void mp_request_view(mp_buf *path, mp_str filename, mp_str subfolder, mp_str type);
#endif
