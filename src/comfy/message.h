/* comfy/message.h -- floor 3, comfy: one frame from a server as a value.
 * Every mp_str points into the frame or into the message itself: valid as long as both are.
 * Rules: protocol sections 3.6 (JSON) and 4 (binary).
 * Sees: base. Seen by: prof, pool, wire, sim tests, lua. */
#ifndef MP_MESSAGE_H
#define MP_MESSAGE_H
#include "base/err.h"
#include "base/scan.h"

typedef enum {
    MP_MSG_STATUS, MP_MSG_FEATURES, MP_MSG_START, MP_MSG_CACHED, MP_MSG_EXECUTING, MP_MSG_PROGRESS, MP_MSG_STATE,
    MP_MSG_EXECUTED, MP_MSG_SUCCESS, MP_MSG_ERROR, MP_MSG_BLOCKED, MP_MSG_INTERRUPTED, MP_MSG_PREVIEW, MP_MSG_TEXT,
    MP_MSG_OTHER                                     /* a type we do not know: packs add their own */
} mp_msg_kind;

typedef struct mp_msg {
    mp_msg_kind kind;
    mp_str type;                                     /* as sent; "b_preview", "b_preview_with_metadata", "b_text" for binary */
    mp_str prompt_id;                                /* empty: none */
    mp_str node, display_node, real_node, node_type; /* node.p NULL with EXECUTING: the job has left the executor */
    double value, max, timestamp;                    /* timestamp in ms since the epoch, 0: none */
    long queue_remaining;                            /* STATUS; -1: none */
    mp_str sid;                                      /* STATUS on connect */
    mp_str exception_type;                           /* ERROR, BLOCKED */
    mp_str exception_message;                        /* undecoded text between its quotes */
    mp_str output;                                   /* EXECUTED: JSON text, empty when null */
    mp_str nodes;                                    /* CACHED: array text; STATE: object text */
    mp_str data;                                     /* the JSON text of `data`; empty for binary */
    mp_str image;                                    /* PREVIEW: encoded picture; TEXT: the text */
    const char *format;                              /* PREVIEW: "jpeg", "png" or "webp", by its first bytes */
    char scratch[320];                               /* decoded names that had escapes */
    size_t used;
} mp_msg;

typedef struct mp_node_state {                       /* one entry of STATE */
    mp_str node, display_node, real_node;
    double value, max;
    int finished;
    uint32_t head;                                   /* bytes from the entry's start to its first number; 0: not told */
    char scratch[192];
    size_t used;
} mp_node_state;

/* A text frame. 0, or MP_EPARSE with words; `m` is then not usable. */
int mp_decode_text(mp_str frame, mp_msg *m, mp_err *e);
/* A binary frame. Unknown event types are MP_MSG_OTHER; lengths that lie are MP_EPARSE. */
int mp_decode_binary(mp_str frame, mp_msg *m, mp_err *e);
/* Walks m->nodes of a CACHED message: start with mp_scan_of(m->nodes) and first = 1. */
int mp_msg_next_cached(mp_scan *s, int first, mp_str *id, char *scratch, size_t cap);
/* Walks m->nodes of a STATE message likewise. */
int mp_msg_next_state(mp_scan *s, int first, mp_node_state *st);
/* An entry whose first `head` bytes are known to be as before: reads its numbers and its state only. 0: not that shape. */
int mp_msg_reread_state(mp_scan *s, uint32_t head, mp_node_state *st);
/* Width and height of a PNG, JPEG or WebP, from its head. 0, or -1: it does not tell. */
int mp_image_size(mp_str image, int *width, int *height);
#endif
