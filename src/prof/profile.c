/* prof/profile.c -- floor 4, prof: the record of one job, fed by messages as they arrive. */
#include "prof/record.h"
#include "base/scan.h"
#include <stdlib.h>

/* ---- records -------------------------------------------------------------------------------------- */

static void record_init(record *r, const char *id) {
    memset(r, 0, sizeof *r);
    r->id = id;
    r->real = NO_PARENT;
    r->started = r->ended = r->open = r->wait_from = NONE;
    r->stride = 1;
}

static void record_free(record *r) {
    free(r->own_id);
    free(r->display);
    free(r->error);
    free(r->events);
}

static void leave_out(mp_profile *p, const mp_workflow *w) {
    if (!p->n_left_out && !mp_workflow_bypassed(w)) return;
    p->n_left_out = 0;
    for (size_t i = 0; i < p->n_submitted; i++) {
        p->nodes[i].left_out = mp_workflow_is_bypassed(w, mp_str_of(p->nodes[i].id));
        p->n_left_out += (size_t)p->nodes[i].left_out;
    }
}

static void reset_nodes(mp_profile *p) {
    for (size_t i = 0; i < p->n; i++) record_free(&p->nodes[i]);
    p->n = p->n_submitted;
    for (size_t i = 0; i < p->n; i++) record_init(&p->nodes[i], mp_workflow_node(p->w, i)->id);
    leave_out(p, p->w);
    p->n_intervals = 0;
    p->n_entries = 0;
    p->n_open = 0;
    mp_buf_clear(&p->snapshot);
    p->has_state = 0;
    p->inferred = 0;
    p->last_found = 0;
}

mp_profile *mp_profile_new(mp_workflow *w, mp_time now, int limit) {
    mp_profile *p = mp_alloc(sizeof *p);
    p->w = mp_workflow_ref(w);
    p->n_submitted = p->cap = mp_workflow_count(w);
    p->nodes = mp_alloc(p->cap * sizeof *p->nodes);
    p->queued = p->ready = now;
    p->upload = p->sent = p->started = p->completed = p->ended = NONE;
    p->limit = limit < 2 ? 2 : limit;
    reset_nodes(p);
    return p;
}

void mp_profile_free(mp_profile *p) {
    if (!p) return;
    for (size_t i = 0; i < p->n; i++) record_free(&p->nodes[i]);
    for (size_t i = 0; i < p->n_attempts; i++) {
        attempt *a = &p->attempts[i];
        free(a->client);
        free(a->prompt_id);
        free(a->outcome);
        free(a->error);
    }
    mp_buf_free(&p->snapshot);
    free(p->entries);
    mp_workflow_unref(p->w);
    mp_workflow_unref(p->sent_as);
    free(p->nodes);
    free(p->intervals);
    free(p->attempts);
    free(p);
}

/* Ids are a few characters long: shorter than any call. */
static int is_id(mp_str id, const char *z) {
    size_t i = 0;
    while (i < id.n && z[i] && id.p[i] == z[i]) i++;
    return i == id.n && !z[i];
}

/* The record of a node by id; a new one under `real` for ids that were not submitted. NULL: bounded away. */
static record *find(mp_profile *p, mp_str id, mp_str real) {
    if (!id.n) return NULL;
    if (p->last_found < p->n && is_id(id, p->nodes[p->last_found].id)) return &p->nodes[p->last_found];
    long i = mp_workflow_index(p->w, id);
    for (size_t k = p->n_submitted; i < 0 && k < p->n; k++)
        if (is_id(id, p->nodes[k].id)) i = (long)k;
    if (i < 0) {
        if (!real.n || mp_str_eq(real, id)) real = mp_str_make(id.p, strcspn(id.p, ".") < id.n ? strcspn(id.p, ".") : id.n);
        long parent = mp_workflow_index(p->w, real);
        if (parent < 0 || p->n >= p->n_submitted + MP_WORKFLOW_NODES) return NULL;
        p->nodes = mp_grow(p->nodes, p->n, &p->cap, sizeof *p->nodes);
        record *r = &p->nodes[p->n];
        char *own = mp_strndup(id.p, id.n);
        record_init(r, own);
        r->own_id = own;
        r->real = (uint32_t)parent;
        i = (long)p->n++;
    }
    p->last_found = (size_t)i;
    return &p->nodes[i];
}

static void begin(mp_profile *p, record *r, mp_time now) {
    if (r->open != NONE) return;
    p->n_open++;
    if (r->started == NONE) r->started = now;
    r->open = now;
    r->wait_from = NONE;
    r->status = MP_NODE_EXECUTING;
}

static void cut(mp_profile *p, record *r, mp_time to) {
    if (r->open == NONE) return;
    p->intervals = mp_grow(p->intervals, p->n_intervals, &p->cap_intervals, sizeof *p->intervals);
    p->intervals[p->n_intervals++] = (interval){ (uint32_t)(r - p->nodes), r->open, to };
    p->n_open--;
    r->open = NONE;
    r->wait_from = NONE;
    r->ended = to;
}

static void finish(mp_profile *p, record *r, mp_node_status status, mp_time now) {
    cut(p, r, status == MP_NODE_FAILED && r->wait_from != NONE ? r->wait_from : now);        /* stopped while it waited */
    r->status = status;
}

static void fail(mp_profile *p, record *r, const char *error, mp_time now) {
    finish(p, r, MP_NODE_FAILED, now);
    if (r->started != NONE && r->ended == NONE) r->ended = now;
    free(r->error);
    r->error = mp_strdup(error);
}

/* Only as good as the memory: all open nodes end now with this status (failed: with words). */
static void finish_open(mp_profile *p, mp_node_status status, const char *error, mp_time now) {
    for (size_t i = 0; i < p->n; i++) {
        record *r = &p->nodes[i];
        if (r->status != MP_NODE_EXECUTING) continue;
        if (status == MP_NODE_FAILED) fail(p, r, error, now);
        else finish(p, r, status, now);
    }
}

/* ---- progress ------------------------------------------------------------------------------------- */

/* Keeps at most `limit` events: when full, every second one goes and from then on only every stride-th is kept,
 * so that what remains is spread evenly. The first stays; the newest is held apart and put behind at the end. */
static void keep_event(mp_profile *p, record *r, progress_event e) {
    r->last = e;
    if (r->seen++ % r->stride) return;
    if (r->n_events == (uint32_t)p->limit - 1) {
        uint32_t k = 0;
        for (uint32_t i = 0; i < r->n_events; i += 2) r->events[k++] = r->events[i];
        r->n_events = k;
        r->stride *= 2;
        if ((r->seen - 1) % r->stride) return;
    }
    size_t cap = r->cap_events;
    r->events = mp_grow(r->events, r->n_events, &cap, sizeof *r->events);
    r->cap_events = (uint32_t)cap;
    r->events[r->n_events++] = e;
}

static void progress(mp_profile *p, record *r, double value, double max, mp_time now) {
    if (r->first_progress == 0 && r->seen == 0) {
        r->first_progress = now;
        r->first_value = value;
    } else r->steps += value > r->value ? value - r->value : value < r->value ? value : 0;
    r->last_progress = now;
    r->value = value;
    r->max = max;
    keep_event(p, r, (progress_event){ now, value, max });
}

/* ---- messages ------------------------------------------------------------------------------------- */

static void on_cached(mp_profile *p, const mp_msg *m) {
    mp_scan s = mp_scan_of(m->nodes);
    mp_str id;
    char scratch[256];
    for (int first = 1; m->nodes.n && mp_msg_next_cached(&s, first, &id, scratch, sizeof scratch); first = 0) {
        long i = mp_workflow_index(p->w, id);
        if (i < 0) continue;
        p->nodes[i].listed = 1;
        p->nodes[i].status = MP_NODE_CACHED;
    }
}

/* The submitted node that a record belongs to. */
static uint32_t root_of(const mp_profile *p, const record *r) { return r->real == NO_PARENT ? (uint32_t)(r - p->nodes) : r->real; }

/* Whether `node` needs what `of` makes, directly or not: then it does not run beside it, it waits. */
static int needs(const mp_workflow *w, uint32_t node, uint32_t of) {
    size_t count = mp_workflow_count(w), n = 1;
    unsigned char *seen = mp_alloc(count);
    uint32_t *todo = mp_alloc(count * sizeof *todo);
    int found = 0;
    todo[0] = node;
    seen[node] = 1;
    while (n && !found) {
        const mp_node *at = mp_workflow_node(w, todo[--n]);
        for (size_t i = 0; i < at->n_inputs; i++) {
            if (!at->inputs[i].is_link || seen[at->inputs[i].link]) continue;
            seen[at->inputs[i].link] = 1;
            todo[n++] = at->inputs[i].link;
            found |= at->inputs[i].link == of;
        }
    }
    free(todo);
    free(seen);
    return found;
}

static void on_executing(mp_profile *p, const mp_msg *m, mp_time now) {
    record *r = find(p, m->node, m->display_node);
    if (!r) return;
    size_t at = (size_t)(r - p->nodes);
    uint32_t root = root_of(p, r);
    if (m->display_node.n && !r->display && !is_id(m->display_node, r->id)) r->display = mp_strndup(m->display_node.p, m->display_node.n);
    if (!p->has_state) {                             /* one node at a time: whoever else runs has ended */
        for (size_t i = 0; p->n_open && i < p->n; i++)
            if (i != at && i != root && p->nodes[i].open != NONE) finish(p, &p->nodes[i], MP_NODE_COMPLETED, now);
        if (root != at) begin(p, &p->nodes[root], now);
    } else if (r->open != NONE && r->announced && r->wait_from != NONE) {
        cut(p, r, r->wait_from);                     /* announced again: since then it waited for a lazy input */
    } else if (r->open == NONE || !r->announced) {
        r->executions++;
    }
    if (!p->has_state && !r->announced) r->executions++;
    for (size_t i = 0; p->has_state && p->n_open > (size_t)(r->open != NONE) && i < p->n; i++) {
        record *o = &p->nodes[i];
        if (o->open != NONE && i != at && root_of(p, o) != root && o->wait_from == NONE && needs(p->w, root_of(p, o), root)) o->wait_from = now;
    }
    r->announced++;
    r->listed = 0;
    begin(p, r, now);
    r->wait_from = NONE;
}

/* How many of n bytes are equal. */
static size_t same_bytes_of(const char *a, const char *b, size_t n) {
    size_t i = 0;
    for (uint64_t x, y; i + 8 <= n; i += 8) {
        memcpy(&x, a + i, 8);
        memcpy(&y, b + i, 8);
        if (x != y) break;
    }
    while (i < n && a[i] == b[i]) i++;
    return i;
}

/* Each progress_state repeats all nodes touched so far, and most of it is, byte for byte, the one before. Returns how
 * many entries need not be read again: those that end before the first difference. */
static size_t repeated(mp_profile *p, mp_str nodes, size_t *same_bytes) {
    size_t n = nodes.n < p->snapshot.n ? nodes.n : p->snapshot.n, same = 0, k = p->n_entries;
    *same_bytes = 0;
    if (!n) return 0;
    size_t guess = p->same > 8 ? p->same - 8 : 0;    /* a number that moves on changes about where it did the last time */
    if (guess <= n && memcmp(nodes.p, p->snapshot.p, guess) == 0) same = guess;
    else for (size_t block = 1024; block >= 16; block /= 4)
        while (same + block <= n && memcmp(nodes.p + same, p->snapshot.p + same, block) == 0) same += block;
    same += same_bytes_of(nodes.p + same, p->snapshot.p + same, n - same);
    while (k > 0 && p->entries[k].start > same) k--; /* entries[k].start is also where entry k - 1 ends */
    *same_bytes = p->same = same;
    return k;
}

static void state_of(mp_profile *p, record *r, const mp_node_state *st, mp_time now) {
    if (!st->finished) {
        if (r->status == MP_NODE_PENDING || r->status == MP_NODE_CACHED) begin(p, r, now);
        int news = st->value != r->value || st->max != r->max;
        if (news && st->value > 0 && r->status == MP_NODE_EXECUTING) {
            progress(p, r, st->value, st->max, now);
            r->unclaimed = 1;
        }
    } else if (r->status == MP_NODE_EXECUTING) {
        finish(p, r, MP_NODE_COMPLETED, now);
    } else if (r->status == MP_NODE_PENDING) {
        r->status = MP_NODE_CACHED;                  /* finished without having run: a twin was first (protocol 3.6) */
    }
}

static void on_state(mp_profile *p, const mp_msg *m, mp_time now) {
    mp_scan s = mp_scan_of(m->nodes);
    mp_node_state st;
    size_t same, known = p->n_entries, k = repeated(p, m->nodes, &same);
    p->has_state = 1;
    if (!m->nodes.n) return;
    if (k) s.p = m->nodes.p + p->entries[k].start;
    else if (!mp_scan_open(&s, '{')) return;
    p->snapshot.n = same;                            /* so much of it stays */
    if (!p->snapshot.cap) mp_buf_room(&p->snapshot, 2000);            /* most never need more */
    mp_buf_add(&p->snapshot, m->nodes.p + same, m->nodes.n - same);
    for (;; k++) {
        if (k == p->cap_entries) p->entries = mp_grow(p->entries, k, &p->cap_entries, sizeof *p->entries);
        struct entry_place *e = &p->entries[k];
        uint32_t start = (uint32_t)(s.p - m->nodes.p);
        /* The entry with the difference is most often one whose numbers have moved on. */
        if (k < known && e->start == start && e->head && same >= (size_t)start + e->head && mp_msg_reread_state(&s, e->head, &st)) {
            state_of(p, &p->nodes[e->record], &st, now);
            continue;
        }
        e->start = start;
        if ((s.p < s.end && *s.p == '}') || !mp_msg_next_state(&s, 0, &st)) break;
        if (k < known && e->head) p->last_found = e->record;         /* entries keep their places: it is looked at first */
        record *r = find(p, st.node, st.real_node);
        e->head = r ? st.head : 0;
        e->record = r ? (uint32_t)(r - p->nodes) : 0;
        if (!r) continue;
        state_of(p, r, &st, now);
        if (st.display_node.n && !r->display && !is_id(st.display_node, r->id)) r->display = mp_strndup(st.display_node.p, st.display_node.n);
    }
    p->n_entries = k;
}

static void on_progress(mp_profile *p, const mp_msg *m, mp_time now) {
    record *r = find(p, m->node, m->display_node);
    if (!r) return;
    if (r->unclaimed && r->value == m->value && r->max == m->max) {
        r->unclaimed = 0;                            /* the same step as the progress_state just before */
        return;
    }
    r->unclaimed = 0;
    progress(p, r, m->value, m->max, now);
}

static void on_executed(mp_profile *p, const mp_msg *m) {
    record *r = find(p, m->node, m->display_node);
    if (r && r->status == MP_NODE_PENDING) r->status = MP_NODE_CACHED;   /* an old output, announced again */
}

static char *decoded(mp_str raw) {
    char *z = mp_alloc(raw.n + 8);
    if (mp_scan_unescape(raw, z, raw.n + 8) < 0) memcpy(z, raw.p, raw.n);
    return z;
}

static void on_failed(mp_profile *p, const mp_msg *m, mp_time now) {
    record *r = find(p, m->node, m->real_node);
    char *words = m->kind == MP_MSG_INTERRUPTED ? mp_strdup("interrupted") : decoded(m->exception_message);
    if (r) {
        begin(p, r, now);                               /* no-op when it runs: the usual case */
        if (r->started == now && r->ended == NONE && !r->announced) r->started = NONE;
        fail(p, r, words, now);
        for (size_t i = p->n_submitted; i < p->n; i++)       /* it failed inside: the open inner node is where */
            if (p->nodes[i].status == MP_NODE_EXECUTING && p->nodes[i].real == root_of(p, r)) fail(p, &p->nodes[i], words, now);
    }
    finish_open(p, MP_NODE_FAILED, m->kind == MP_MSG_INTERRUPTED ? "interrupted" : "stopped because another node failed", now);
    free(words);
}

static void on_blocked(mp_profile *p, const mp_msg *m) {
    record *r = find(p, m->node, m->real_node);
    if (!r) return;
    free(r->error);
    r->error = decoded(m->exception_message);
}

void mp_profile_message(mp_profile *p, const mp_msg *m, mp_time now) {
    if (p->closed || p->ended != NONE) return;
    switch (m->kind) {
    case MP_MSG_START: if (p->started == NONE) p->started = now; return;
    case MP_MSG_CACHED: on_cached(p, m); break;
    case MP_MSG_EXECUTING: if (m->node.n) on_executing(p, m, now); break;
    case MP_MSG_PROGRESS: on_progress(p, m, now); break;
    case MP_MSG_STATE: on_state(p, m, now); break;
    case MP_MSG_EXECUTED: on_executed(p, m); break;
    case MP_MSG_BLOCKED: on_blocked(p, m); break;
    case MP_MSG_ERROR: case MP_MSG_INTERRUPTED: on_failed(p, m, now); break;
    case MP_MSG_SUCCESS: finish_open(p, MP_NODE_COMPLETED, NULL, now); break;
    default: return;
    }
    if (p->started == NONE) {                        /* its start was missed: execution began no later than now */
        p->started = now;
        p->inferred |= INFERRED_START;
    }
}

/* ---- history -------------------------------------------------------------------------------------- */

/* Everything the outputs needed and that was not cached has run, but nobody saw when. Lazy inputs make this an
 * upper bound, which is why INFERRED_NODES is set. */
static void mark_ran(mp_profile *p, uint32_t node) {
    record *r = &p->nodes[node];
    if (r->status == MP_NODE_COMPLETED && r->unclaimed < 0) return;
    if (r->status == MP_NODE_CACHED || r->status == MP_NODE_FAILED) return;
    if (r->status != MP_NODE_COMPLETED) p->inferred |= INFERRED_NODES;
    r->status = MP_NODE_COMPLETED;
    r->unclaimed = -1;
    const mp_node *n = mp_workflow_node(p->w, node);
    for (size_t i = 0; i < n->n_inputs; i++)
        if (n->inputs[i].is_link) mark_ran(p, n->inputs[i].link);
}

void mp_profile_history(mp_profile *p, const mp_history *h, mp_time now) {
    if (p->closed || p->ended != NONE) return;
    mp_time took = h->ended > h->started && h->started > 0 ? (mp_time)((h->ended - h->started) * 1000) : NONE;
    mp_time end = now;
    for (size_t i = 0; i < p->n; i++)                /* nothing seen may lie behind the end */
        if (p->nodes[i].ended > end) end = p->nodes[i].ended;
    if (p->started != NONE && took != NONE && p->started + took < end) end = p->started + took;
    if (p->started == NONE) {
        mp_time from = p->sent != NONE ? p->sent : p->ready;
        p->started = took == NONE || end - took < from ? from : end - took;
        p->inferred |= INFERRED_START;
    }
    for (size_t i = 0; i < p->n; i++) {
        if (p->nodes[i].ended > end) end = p->nodes[i].ended;
        if (p->nodes[i].open > end) end = p->nodes[i].open;
    }
    p->inferred |= INFERRED_END;
    for (const mp_json *c = mp_json_first(h->cached); c; c = mp_json_next(c)) {
        long i = mp_json_string(c) ? mp_workflow_index(p->w, mp_str_of(mp_json_string(c))) : -1;
        if (i >= 0 && p->nodes[i].status == MP_NODE_PENDING) p->nodes[i].status = MP_NODE_CACHED;
    }
    const char *at = mp_json_string(mp_json_get(h->error, "node_id"));
    if (h->end == MP_END_SUCCESS) {
        for (size_t i = 0; i < p->n; i++)
            if (p->nodes[i].status == MP_NODE_EXECUTING) { p->inferred |= INFERRED_NODES; finish(p, &p->nodes[i], MP_NODE_COMPLETED, end); }
        for (const mp_json *c = mp_json_first(h->outputs); c; c = mp_json_next(c)) {
            long i = mp_workflow_index(p->w, mp_str_of(mp_json_name(c)));
            if (i >= 0) mark_ran(p, (uint32_t)i);
        }
    } else {
        const char *words = h->end == MP_END_INTERRUPTED ? "interrupted" : mp_json_string(mp_json_get(h->error, "exception_message"));
        record *r = at ? find(p, mp_str_of(at), mp_str_of(at)) : NULL;
        for (const mp_json *c = mp_json_first(mp_json_get(h->error, "executed")); c; c = mp_json_next(c)) {
            record *done = mp_json_string(c) ? find(p, mp_str_of(mp_json_string(c)), mp_str_of("")) : NULL;
            if (!done || done->status == MP_NODE_COMPLETED || done->status == MP_NODE_CACHED) continue;
            p->inferred |= INFERRED_NODES;
            finish(p, done, MP_NODE_COMPLETED, end);
        }
        r = at ? find(p, mp_str_of(at), mp_str_of(at)) : r;
        if (r) fail(p, r, words ? words : "failed", end);
        finish_open(p, MP_NODE_FAILED, h->end == MP_END_INTERRUPTED ? "interrupted" : "stopped because another node failed", end);
    }
    p->completed = end;
}

/* ---- attempts ------------------------------------------------------------------------------------- */

void mp_profile_attempt(mp_profile *p, mp_workflow *sent, const char *client, mp_time ready, mp_time now) {
    mp_profile_wait(p, ready);
    mp_workflow_unref(p->sent_as);
    p->sent_as = mp_workflow_ref(sent);
    leave_out(p, sent);                              /* a script may have bypassed others */
    p->attempts = mp_grow(p->attempts, p->n_attempts, &p->cap_attempts, sizeof *p->attempts);
    p->attempts[p->n_attempts++] = (attempt){ mp_strdup(client), NULL, NULL, NULL, now, NONE, NONE, NONE };
}

void mp_profile_rebase(mp_profile *p, mp_workflow *w) {
    if (p->w == w) return;
    for (size_t i = 0; i < p->n; i++) record_free(&p->nodes[i]);
    p->n = 0;
    mp_workflow_ref(w);
    mp_workflow_unref(p->w);
    p->w = w;
    p->n_submitted = mp_workflow_count(w);
    if (p->cap < p->n_submitted) {
        p->cap = p->n_submitted;
        p->nodes = mp_realloc(p->nodes, p->cap * sizeof *p->nodes);
    }
    reset_nodes(p);
}

void mp_profile_upload(mp_profile *p, mp_time now) { if (p->upload == NONE) p->upload = now; }

void mp_profile_sent(mp_profile *p, mp_time now) {
    p->sent = now;
    if (p->n_attempts) p->attempts[p->n_attempts - 1].sent = now;
}

void mp_profile_prompt(mp_profile *p, const char *id) {
    if (!p->n_attempts) return;
    attempt *a = &p->attempts[p->n_attempts - 1];
    free(a->prompt_id);
    a->prompt_id = mp_strdup(id);
}

void mp_profile_end_attempt(mp_profile *p, const char *outcome, const char *error, mp_time now) {
    if (p->closed || p->ended != NONE || !p->n_attempts) return;
    attempt *a = &p->attempts[p->n_attempts - 1];
    if (a->outcome) return;                          /* over already; the job ended while it waited for the next one */
    int good = strcmp(outcome, "completed") == 0;
    mp_time end = p->completed != NONE ? p->completed : now;
    finish_open(p, good ? MP_NODE_COMPLETED : MP_NODE_FAILED, strcmp(outcome, "canceled") == 0 ? "interrupted" : outcome, end);
    a->outcome = mp_strdup(outcome);
    a->error = mp_strdup(error);
    a->started = p->started;
    a->ended = p->ended = p->completed = end;
}

void mp_profile_wait(mp_profile *p, mp_time ready) {
    reset_nodes(p);
    p->ready = ready;
    p->upload = p->sent = p->started = p->completed = p->ended = NONE;
}

void mp_profile_close(mp_profile *p, mp_time now) {
    if (p->closed) return;
    if (p->completed == NONE) p->completed = now;
    if (p->ready > p->completed) p->ready = p->completed;        /* ended while it still waited for its next try */
    if (p->ended == NONE) p->ended = now;
    p->closed = 1;
    mp_stats(p);
}

void mp_profile_transfer(mp_profile *p, mp_time d) { p->transfer += d; }
mp_time mp_profile_started(const mp_profile *p) { return p->started == NONE ? MP_NEVER : p->started; }

const char *mp_profile_running(const mp_profile *p) {
    for (size_t i = 0; i < p->n_submitted; i++)
        if (p->nodes[i].status == MP_NODE_EXECUTING) return p->nodes[i].id;
    return NULL;
}

double mp_profile_overall(const mp_profile *p) {
    double done = 0;
    for (size_t i = 0; i < p->n_submitted; i++) {
        const record *r = &p->nodes[i];
        if (r->status == MP_NODE_COMPLETED || r->status == MP_NODE_CACHED) done += 1;
        else if (r->status == MP_NODE_EXECUTING && r->max > 0) done += r->value < r->max ? r->value / r->max : 1;
    }
    return p->n_submitted > p->n_left_out ? done / (double)(p->n_submitted - p->n_left_out) : 0;
}
