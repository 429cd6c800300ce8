/* comfy/reply.h -- floor 3, comfy: what a server answers, read leniently: queue, history, prompt, system_stats.
 * Sees: base. Seen by: pool, replay, lua. */
#ifndef MP_REPLY_H
#define MP_REPLY_H
#include "base/json.h"

/* How a finished prompt ended, by its history entry (protocol 2.6: trust the messages, not status_str). */
typedef enum { MP_END_NONE, MP_END_SUCCESS, MP_END_ERROR, MP_END_INTERRUPTED } mp_end;

typedef struct mp_history {
    mp_end end;
    double started, ended;                           /* server ms since the epoch; 0: not told */
    const mp_json *outputs, *cached, *error;         /* borrowed from the document; NULL when absent */
} mp_history;

/* Entry `id` of a /history reply, or the entry whose extra_data.moonpool is `id` (servers that choose ids). 0: not there. */
int mp_reply_history(const mp_json *doc, const char *id, mp_history *h);

typedef enum { MP_PLACE_ABSENT, MP_PLACE_PENDING, MP_PLACE_RUNNING } mp_place;
/* Where our prompt is in a /queue reply, by prompt id or by extra_data.moonpool; `real` gets the server's id. */
mp_place mp_reply_queue(const mp_json *doc, const char *id, const char **real);
/* The id of the prompt that runs, or NULL. */
const char *mp_reply_running(const mp_json *doc);
int mp_reply_is_queue(const mp_json *doc);

/* Numbers of a version text ("0.18.1"); 0 for a text that is no version. */
int mp_reply_version(const char *text, int v[3]);
#endif
