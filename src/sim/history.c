/* sim/history.c -- floor 5, sim: what is kept of prompts that have ended (protocol 2.6): the newest 10,000, oldest first. */
#include "sim/inside.h"
#include <stdlib.h>

static void drop(mp_sim *s, entry **at) {
    entry *gone = *at;
    *at = gone->next;
    free(gone->id);
    free(gone->json);
    free(gone);
    s->n_history--;
}

void history_remove(mp_sim *s, const char *id) {
    for (entry **at = &s->history; *at;)
        if (id && strcmp((*at)->id, id) != 0) at = &(*at)->next;
        else drop(s, at);
}

/* Older servers list every node of the prompt that has something to show, also one that this run never came to (protocol
 * 2.7). */
static void unexecuted(const mp_sim *s, run *r) {
    for (size_t i = 0; !s->v->lists_told && i < r->n_prompt; i++) {
        cached *c;
        HASH_FIND_STR(s->cache, r->nodes[i]->key, c);
        if (c) to_outputs(r, r->nodes[i], c->res->ui, c->res->id);
    }
}

static void write_entry(mp_sim *s, mp_buf *b, const run *r) {
    const job *j = r->j;
    mp_buf_puts(b, "{\"prompt\": ");
    queue_item(s, b, j);
    mp_buf_printf(b, ", \"outputs\": {%s}, \"status\": {\"status_str\": \"%s\", \"completed\": %s, \"messages\": [%s]}, \"meta\": {%s}}",
                  r->outputs.p ? r->outputs.p : "", r->verdict ? "error" : "success", r->verdict ? "false" : "true", r->messages.p, r->meta.p ? r->meta.p : "");
}

void history_add(mp_sim *s, run *r, mp_time now) {
    const job *j = r->j;
    entry *e = mp_alloc(sizeof *e), **at = &s->history;
    mp_buf b = { 0 };
    unexecuted(s, r);
    write_entry(s, &b, r);
    *e = (entry){ .number = j->number, .created = j->created, .began = r->began, .ended = now };
    e->id = mp_strdup(j->id);
    e->json = mp_buf_take(&b, NULL);
    history_remove(s, j->id);                        /* the same id again replaces the old entry */
    while (*at) at = &(*at)->next;
    *at = e;
    if (++s->n_history > SIM_HISTORY) drop(s, &s->history);
}
