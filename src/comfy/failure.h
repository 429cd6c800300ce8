/* comfy/failure.h -- floor 3, comfy: what kind of failure something is, and what may be done about it.
 * Sees: base. Seen by: pool, lua. */
#ifndef MP_FAILURE_H
#define MP_FAILURE_H
#include "base/json.h"

typedef enum {
    MP_FAIL_NONE,
    MP_FAIL_CONNECTION,      /* the server could not be reached; not the job's fault, no attempt used up */
    MP_FAIL_INCOMPATIBLE,    /* this server lacks a node class or a file: not this client for this workflow */
    MP_FAIL_INVALID,         /* no server would take it: never again */
    MP_FAIL_NODE,            /* a node raised: may pass elsewhere or later */
    MP_FAIL_MEMORY,          /* a node ran out of memory: may pass elsewhere or later */
    MP_FAIL_SERVER,          /* the server answered, but not as ComfyUI does (5xx, HTML, 401, ...) */
    MP_FAIL_TIMEOUT,         /* nothing was heard for too long, or the whole took too long */
    MP_FAIL_LOST,            /* absent from queue and history: restarted, or somebody deleted it */
    MP_FAIL_INTERRUPTED,     /* somebody else stopped it on the server */
    MP_FAIL_CANCELED,        /* we were asked to */
    MP_FAIL_NO_CLIENTS,      /* nobody there who may run it */
    MP_FAIL_POLICY           /* a script said no */
} mp_fail_kind;

typedef struct mp_failure {
    mp_fail_kind kind;
    int by_shape;                                    /* INCOMPATIBLE: a class or a model file is missing, so it holds for the whole structural hash */
    int partial;                                     /* 200 with node_errors: some outputs will not be made */
    char *message;                                   /* one sentence; owned */
    char *node, *node_type;                          /* where it happened, or NULL; owned */
    char *input, *value;                             /* INCOMPATIBLE: which choice is missing there, or NULL; owned */
    char *details;                                   /* JSON text from the server, or NULL; owned */
} mp_failure;

void mp_failure_clear(mp_failure *f);                /* safe twice */
void mp_failure_free(mp_failure *f);                 /* one from mp_alloc, and what it owns; NULL is fine */
void mp_failure_copy(mp_failure *to, const mp_failure *from);
void mp_failure_set(mp_failure *f, mp_fail_kind kind, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
const char *mp_failure_name(mp_fail_kind k);         /* "connection", "client_incompatible", "workflow_invalid", ... */

/* Reads the reply to POST /prompt: MP_FAIL_NONE when accepted. prompt_id (owned by the caller) gets the server's
 * id when there is one. Shapes of every version: protocol 2.1. */
void mp_failure_of_prompt_reply(int status, mp_str body, mp_failure *f, char **prompt_id);
/* From the data of an execution_error (text of a JSON object). */
void mp_failure_of_error(mp_str data, mp_failure *f);
#endif
