/* graph/workflow.h -- floor 2, graph: a workflow in the API format as a value.
 * A workflow is an immutable, shared base (text, nodes, spans of the inputs) and a small overlay of changed
 * inputs, so a thousand jobs of one workflow hold one base. Reference-counted; a workflow with more than one
 * owner is never changed: mp_workflow_own gives the caller its own copy first.
 * Sees: base. Seen by: comfy, prof, pool, sim and above. */
#ifndef MP_WORKFLOW_H
#define MP_WORKFLOW_H
#include "base/json.h"
#include "graph/file.h"

typedef struct mp_workflow mp_workflow;

typedef struct mp_input { mp_str name, value; int is_link; uint32_t link; } mp_input;   /* link: index of the node linked to */
typedef struct mp_node {
    const char *id, *class_type, *title;             /* title: _meta.title, or NULL */
    mp_str meta;                                     /* text of _meta, or empty */
    mp_input *inputs;
    size_t n_inputs;
} mp_node;

#define MP_WORKFLOW_NODES 10000                      /* nodes accepted in one workflow */
#define MP_WORKFLOW_BYTES (64u << 20)                /* bytes of text accepted */

/* From text in the API format. NULL with words that say what it is instead (UI format, wrapper) or where it is
 * broken (`node "12": input "model" links to node "4", which does not exist`). One owner: the caller. */
mp_workflow *mp_workflow_parse(const char *p, size_t n, mp_err *e);
/* From the bytes of a file: JSON text, or a PNG that ComfyUI wrote (its `prompt` chunk). */
mp_workflow *mp_workflow_from_file(const char *bytes, size_t n, mp_err *e);
mp_workflow *mp_workflow_ref(mp_workflow *w);
void mp_workflow_unref(mp_workflow *w);              /* NULL is fine */
mp_workflow *mp_workflow_clone(const mp_workflow *w);
/* The caller's only reference becomes one that nobody else has; `w` is given up. */
mp_workflow *mp_workflow_own(mp_workflow *w);

size_t mp_workflow_count(const mp_workflow *w);
const mp_node *mp_workflow_node(const mp_workflow *w, size_t i);       /* values in .inputs are the base's */
long mp_workflow_index(const mp_workflow *w, mp_str id);               /* -1: no such node */

/* Sets one input (added if the node has none of that name) to a JSON value given as text. The workflow must be
 * owned alone. Refuses unknown nodes, text that is no JSON, and links that point nowhere. */
int mp_workflow_set(mp_workflow *w, mp_str node, mp_str input, mp_str json, mp_err *e);
/* The value's text as it would be sent; 0 when the node has no such input. Valid until the next change. */
int mp_workflow_get(const mp_workflow *w, size_t node, mp_str input, mp_str *json);
/* Input i of a node, counting added ones behind the base's; 0 behind the last. */
int mp_workflow_input_at(const mp_workflow *w, size_t node, size_t i, mp_str *name, mp_str *json);

/* Names node `id` as an output, under `alias` (NULL: under its id). */
int mp_workflow_output(mp_workflow *w, mp_str alias, mp_str id, mp_err *e);
size_t mp_workflow_outputs(const mp_workflow *w);
void mp_workflow_output_at(const mp_workflow *w, size_t i, const char **alias, const char **id);

/* The workflow needs `file` (a reference is taken) on the server that runs it. With a node its input gets the name that
 * the server gives the file; node empty: it only has to be there. */
int mp_workflow_attach(mp_workflow *w, mp_str node, mp_str input, mp_file *file, mp_err *e);
size_t mp_workflow_attachments(const mp_workflow *w);
mp_file *mp_workflow_attachment(const mp_workflow *w, size_t i, long *node, const char **input);     /* node -1: none */

int mp_workflow_is_bypassed(const mp_workflow *w, mp_str id);
size_t mp_workflow_bypassed(const mp_workflow *w);                    /* how many are */
/* Leaves node `id` out of what is sent, as the editor's bypass does (protocol 6.6); info: its class's definition as JSON
 * text, or NULL (graph/bypass.h). Again: as it was. */
int mp_workflow_bypass(mp_workflow *w, mp_str id, const char *info, mp_err *e);
int mp_workflow_reinstate(mp_workflow *w, mp_str id, mp_err *e);

void mp_workflow_write(mp_buf *b, const mp_workflow *w);               /* the text that is sent */
/* The structural hash (64 hex digits); computed once per base and only again where a change matters. */
const char *mp_workflow_hash(const mp_workflow *w);
/* Calls fn for every model file named by an input (the suffixes of the structural hash). */
void mp_workflow_models(const mp_workflow *w, void (*fn)(void *ud, mp_str file), void *ud);
int mp_workflow_streams(const mp_workflow *w);       /* whether a node sends its pictures over the socket: SaveImageWebsocket */
/* Calls fn for every input `seed` or `noise_seed` whose value is -1. */
void mp_workflow_open_seeds(const mp_workflow *w, void (*fn)(void *ud, size_t node, mp_str input), void *ud);
#endif
