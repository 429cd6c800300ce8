/* comfy/reply.c -- floor 3, comfy: what a server answers, read leniently. */
#include "comfy/reply.h"
#include <stdio.h>

/* Item of queue or history: [number, prompt_id, prompt, extra_data, outputs]. */
static int ours(const mp_json *item, const char *id, const char **real) {
    const char *at = mp_json_string(mp_json_at(item, 1));
    const char *mark = mp_json_string(mp_json_get(mp_json_at(item, 3), "moonpool"));
    if (!at || (strcmp(at, id) != 0 && !(mark && strcmp(mark, id) == 0))) return 0;
    if (real) *real = at;
    return 1;
}

static void read_messages(const mp_json *messages, mp_history *h) {
    for (const mp_json *m = mp_json_first(messages); m; m = mp_json_next(m)) {
        const char *name = mp_json_string(mp_json_at(m, 0));
        const mp_json *data = mp_json_at(m, 1);
        if (!name) continue;
        double t = mp_json_number(mp_json_get(data, "timestamp"), 0);
        if (strcmp(name, "execution_start") == 0) h->started = t;
        else if (strcmp(name, "execution_cached") == 0) h->cached = mp_json_get(data, "nodes");
        else if (strcmp(name, "execution_success") == 0) { h->ended = t; if (!h->end) h->end = MP_END_SUCCESS; }
        else if (strcmp(name, "execution_error") == 0) { h->end = MP_END_ERROR; h->ended = t; h->error = data; }
        else if (strcmp(name, "execution_interrupted") == 0) { h->end = MP_END_INTERRUPTED; h->ended = t; h->error = data; }
    }
}

int mp_reply_history(const mp_json *doc, const char *id, mp_history *h) {
    const mp_json *entry = mp_json_get(doc, id);
    memset(h, 0, sizeof *h);
    for (const mp_json *c = entry ? NULL : mp_json_first(doc); c && !entry; c = mp_json_next(c))
        if (ours(mp_json_get(c, "prompt"), id, NULL)) entry = c;
    if (mp_json_type(entry) != MP_JSON_OBJECT) return 0;
    const mp_json *status = mp_json_get(entry, "status");
    h->outputs = mp_json_get(entry, "outputs");
    read_messages(mp_json_get(status, "messages"), h);
    if (!h->end) {
        const char *word = mp_json_string(mp_json_get(status, "status_str"));
        h->end = word && strcmp(word, "error") == 0 ? MP_END_ERROR : MP_END_SUCCESS;
    }
    return 1;
}

mp_place mp_reply_queue(const mp_json *doc, const char *id, const char **real) {
    for (const mp_json *c = mp_json_first(mp_json_get(doc, "queue_running")); c; c = mp_json_next(c))
        if (ours(c, id, real)) return MP_PLACE_RUNNING;
    for (const mp_json *c = mp_json_first(mp_json_get(doc, "queue_pending")); c; c = mp_json_next(c))
        if (ours(c, id, real)) return MP_PLACE_PENDING;
    return MP_PLACE_ABSENT;
}

const char *mp_reply_running(const mp_json *doc) { return mp_json_string(mp_json_at(mp_json_at(mp_json_get(doc, "queue_running"), 0), 1)); }

int mp_reply_is_queue(const mp_json *doc) {
    return mp_json_type(mp_json_get(doc, "queue_running")) == MP_JSON_ARRAY && mp_json_type(mp_json_get(doc, "queue_pending")) == MP_JSON_ARRAY;
}

int mp_reply_version(const char *text, int v[3]) {
    v[0] = v[1] = v[2] = 0;
    if (text && *text == 'v') text++;
    return text && sscanf(text, "%d.%d.%d", &v[0], &v[1], &v[2]) >= 2;
}
