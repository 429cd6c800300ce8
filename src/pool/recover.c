/* pool/recover.c -- floor 5, pool: prompts out of sight. GET /queue first, then GET /history/{id}: in that order a
 * prompt is found in one of them, because it moves from one to the other in one step (protocol 3.3). Absent from
 * both: lost, or, when its POST's fate is unknown, perhaps still to come, so it counts as lost after `settle` only. */
#include "pool/inside.h"
#include <stdlib.h>

static const char *server_id(const prompt *pr) { return pr->real ? pr->real : pr->id; }

prompt *prompt_by_id(mp_client *c, mp_str id) {
    for (prompt *pr = c->prompts; pr; pr = pr->next)
        if (mp_str_is(id, pr->id) || (pr->real && mp_str_is(id, pr->real))) return pr;
    return NULL;
}

void prompt_gone(prompt *pr) {
    mp_client *c = pr->client;
    prompt **at = &c->prompts;
    while (*at != pr) at = &(*at)->next;
    *at = pr->next;
    c->load--;
#if MP_MUTANT == 7
    if (pr->verdict == MP_END_ERROR) c->load++;
#endif
    if (c->posting == pr) c->posting = NULL;
    if (!c->prompts) {
        c->poll_at = c->status_due = MP_NEVER;
    }
    c->pool->dirty = 1;
    for (size_t i = 0; i < pr->n_outputs; i++) {
        free(pr->outputs[i].node);
        free(pr->outputs[i].json);
    }
    free(pr->outputs);
    free(pr->real);
    mp_workflow_unref(pr->w);
    mp_failure_clear(&pr->failure);
    free(pr);
}

/* ---- ends ------------------------------------------------------------------------------------------------ */

static void remember_run(mp_client *c, prompt *pr, mp_time now) {
    mp_time began = pr->job && pr->job->profile ? mp_profile_started(pr->job->profile) : pr->posted;
    client_ran(c, pr, began == MP_NEVER ? -1 : now - began);
    memcpy(c->last_hash, pr->hash, sizeof c->last_hash);
    mp_workflow_unref(c->last);
    c->last = mp_workflow_ref(pr->w);
}

void prompt_conclude(prompt *pr, mp_time now) {
    mp_client *c = pr->client;
    mp_pool *p = c->pool;
    mp_job *j = pr->job;
    mp_failure f = pr->failure;
    mp_end how = pr->verdict;
    memset(&pr->failure, 0, sizeof pr->failure);
    if (how == MP_END_SUCCESS) remember_run(c, pr, now);
    if (j) {
        struct tail *t = job_tail(j);
        for (size_t i = 0; i < t->n_outputs; i++) {  /* of an earlier attempt that failed */
            free(t->outputs[i].node);
            free(t->outputs[i].json);
        }
        free(t->outputs);
        t->outputs = pr->outputs;
        t->n_outputs = pr->n_outputs;
        pr->outputs = NULL;
        pr->n_outputs = 0;
    }
    if (j && how == MP_END_SUCCESS) {
        mp_failure_clear(&job_tail(j)->failure);     /* what earlier attempts left */
        job_end(p, j, MP_JOB_COMPLETED, NULL, now);
    } else if (j) attempt_failed(p, j, c, &f, now);
    prompt_gone(pr);
    mp_failure_clear(&f);
    client_rearm(c, now);
}

/* The prompt is lost or given up: the job goes on elsewhere. `tomb`: the server may still know it. */
static void let_go(prompt *pr, mp_fail_kind kind, const char *words, int tomb, mp_time now) {
    mp_client *c = pr->client;
    mp_job *j = pr->job;
    mp_failure f = { 0 };
    mp_failure_set(&f, kind, "%s: %s", c->name, words);
    pr->job = NULL;
    if (j) attempt_failed(c->pool, j, c, &f, now);
    mp_failure_clear(&f);
#if MP_MUTANT == 8
    tomb = 0;
#endif
    if (tomb) prompt_kill(pr, now);
    else prompt_gone(pr);
}

void give_up_all(mp_client *c, mp_fail_kind kind, const char *words, int keep, mp_time now) {
    for (prompt *pr = c->prompts, *next; pr; pr = next) {
        next = pr->next;
        if (!pr->job || (keep && pr->at == AT_RUNNING)) continue;
        let_go(pr, kind, words, 1, now);
    }
}

/* ---- tombstones --------------------------------------------------------------------------------------------- */

static void send_delete(prompt *pr, mp_time now) {
    mp_client *c = pr->client;
    mp_buf path = { 0 }, body = { 0 };
    mp_buf_puts(&path, "/queue");
    mp_request_delete(&body, server_id(pr));
    pr->deleted = 1;
    pr->due = now + c->pool->o.request_timeout;
    act(c->pool, c, DO_DELETE, pr->id, "POST", &path, &body, c->pool->o.request_timeout);
}

/* Only after /queue has shown that ours is what runs: older servers interrupt whatever runs (protocol 2.5). */
static void send_interrupt(prompt *pr, mp_time now) {
    mp_client *c = pr->client;
    mp_buf path = { 0 }, body = { 0 };
    mp_buf_puts(&path, "/interrupt");
    mp_request_interrupt(&body, server_id(pr));
    pr->interrupting = 1;
    pr->kills++;
    pr->due = now + c->pool->o.request_timeout;
    act(c->pool, c, DO_INTERRUPT, pr->id, "POST", &path, &body, c->pool->o.request_timeout);
}

void prompt_kill(prompt *pr, mp_time now) {
    pr->job = NULL;
    pr->deleted = 0;
    pr->due = now;
    if (pr->client->state == MP_CLIENT_ONLINE && pr->at != AT_POSTING) send_delete(pr, now);
    client_rearm(pr->client, now);
}

void prompt_killed(mp_client *c, const char *id, purpose why, const mp_result *r, mp_time now) {
    prompt *pr = prompt_by_id(c, mp_str_of(id));
    if (r->code) {
        if (pr) { pr->deleted = why == DO_DELETE ? 0 : pr->deleted; pr->interrupting = 0; pr->due = now + KILL_AGAIN; }
        link_reset(c, r->message ? r->message : "a request failed", now);
        return;
    }
    if (!pr) return;
    pr->interrupting = 0;
    if (why == DO_DELETE) survey_want(c, now);
    else pr->due = now + (KILL_AGAIN << (pr->kills < 5 && pr->kills > 0 ? pr->kills - 1 : 4));        /* 2 s, 4 s, ... 32 s */
    client_rearm(c, now);
}

/* A tombstone, by where the survey found it. */
static void bury(prompt *pr, mp_place where, mp_time now) {
    mp_time settle = pr->client->pool->o.settle;
    if (where == MP_PLACE_RUNNING && !pr->interrupting) send_interrupt(pr, now);
    else if (where == MP_PLACE_PENDING && pr->deleted) {             /* not obeyed: again, but not at once */
        pr->deleted = 0;
        pr->due = now + (KILL_AGAIN << (pr->kills < 4 ? pr->kills++ : 4));
    } else if (where == MP_PLACE_PENDING) send_delete(pr, now);
    else if (where == MP_PLACE_ABSENT) {
        if (pr->at == AT_UNKNOWN && now - pr->settled < settle) pr->due = now + KILL_AGAIN;
        else prompt_gone(pr);
    }
}

/* ---- the survey ---------------------------------------------------------------------------------------------- */

void survey_want(mp_client *c, mp_time now) {
    mp_buf path = { 0 };
    c->survey_wanted = 1;
    if (c->state != MP_CLIENT_ONLINE || c->survey) return;
    c->survey_wanted = 0;
    c->survey_sent = now;
    mp_buf_puts(&path, "/queue");
    c->survey = act(c->pool, c, DO_SURVEY, NULL, "GET", &path, NULL, c->pool->o.request_timeout);
}

static void one_surveyed(prompt *pr, const mp_json *doc, mp_time now) {
    mp_client *c = pr->client;
    const char *real = NULL;
    if (pr->at == AT_POSTING || pr->settled == MP_NEVER || pr->settled > c->survey_sent) return;
    mp_place where = mp_reply_queue(doc, server_id(pr), &real);
    if (where != MP_PLACE_ABSENT && strcmp(real, server_id(pr)) != 0) {
        free(pr->real);
        pr->real = mp_strdup(real);
        c->own_ids = -1;
    }
    if (where == MP_PLACE_RUNNING && pr->at != AT_RUNNING) {
        pr->at = AT_RUNNING;
        pr->gap = 1;                                 /* it began and nobody told us */
        if (pr->job) job_running(c->pool, pr->job, now);
    } else if (where == MP_PLACE_PENDING && pr->at == AT_UNKNOWN) pr->at = AT_WAITING;
    if (!pr->job) bury(pr, where, now);
    else if (where == MP_PLACE_ABSENT) prompt_ask_history(pr, now);
}

/* The reply's document: parsed by the owner, or here; then *own is to be freed. NULL: none. */
static const mp_json *doc_of(const mp_result *r, mp_json **own) {
    *own = r->code == 0 && r->status == 200 && !r->doc ? mp_json_parse(r->body.p, r->body.n, NULL) : NULL;
    return r->code || r->status != 200 ? NULL : r->doc ? r->doc : *own;
}

void surveyed(mp_client *c, uint64_t action, const mp_result *r, mp_time now) {
    mp_json *own;
    if (action != c->survey) return;                 /* of a link that was lost since */
    const mp_json *doc = doc_of(r, &own);
    c->survey = 0;
    if (!mp_reply_is_queue(doc)) {
        char words[120];
        snprintf(words, sizeof words, "GET /queue was answered with status %d and no queue", r->status);
        if (r->code) snprintf(words, sizeof words, "%s", r->message ? r->message : "GET /queue failed");
        if (c->state == MP_CLIENT_ONLINE) link_reset(c, words, now);
    } else {
        if (c->state == MP_CLIENT_ONLINE) { c->failures = 0; c->down_since = 0; }
        for (prompt *pr = c->prompts, *next; pr; pr = next) {
            next = pr->next;
            one_surveyed(pr, doc, now);
        }
        if (c->survey_wanted) survey_want(c, now);
    }
    mp_json_free(own);
    client_rearm(c, now);
}

/* ---- the history ---------------------------------------------------------------------------------------------- */

void prompt_ask_history(prompt *pr, mp_time now) {
    mp_client *c = pr->client;
    mp_buf path = { 0 };
    if (pr->history || c->state != MP_CLIENT_ONLINE) return;
    /* A server that chose the id and whose reply was lost: the entry is found by our mark only. */
    if (pr->at == AT_UNKNOWN && !pr->real && c->own_ids != 1) mp_buf_puts(&path, "/history?max_items=200");
    else mp_request_history(&path, server_id(pr));
    pr->due = MP_NEVER;
    pr->history = act(c->pool, c, DO_HISTORY, pr->id, "GET", &path, NULL, c->pool->o.request_timeout);
    (void)now;
}

static void outputs_from(prompt *pr, const mp_json *outputs) {
    for (const mp_json *o = mp_json_first(outputs); o; o = mp_json_next(o)) {
        int known_one = 0;
        mp_buf b = { 0 };
        for (size_t i = 0; i < pr->n_outputs; i++)
            if (strcmp(pr->outputs[i].node, mp_json_name(o)) == 0) known_one = 1;
        if (known_one) continue;
        mp_json_write(&b, o);
        pr->outputs = mp_realloc(pr->outputs, (pr->n_outputs + 1) * sizeof *pr->outputs);
        pr->outputs[pr->n_outputs++] = (output){ mp_strdup(mp_json_name(o)), mp_buf_take(&b, NULL) };
    }
}

static void found_in_history(prompt *pr, const mp_history *h, mp_time now) {
    mp_client *c = pr->client;
    int deaf = !pr->gap && !pr->verdict && c->state == MP_CLIENT_ONLINE;
    if (pr->job && pr->job->profile) mp_profile_history(pr->job->profile, h, now);
    outputs_from(pr, h->outputs);
    if (!pr->verdict) {
        pr->verdict = h->end;
        if (h->end == MP_END_ERROR) {
            mp_buf b = { 0 };
            mp_json_write(&b, h->error);
            mp_failure_of_error(mp_buf_view(&b), &pr->failure);
            mp_buf_free(&b);
        } else if (h->end == MP_END_INTERRUPTED) mp_failure_set(&pr->failure, MP_FAIL_INTERRUPTED, "interrupted on the server, not by us");
    }
    if (pr->job) job_running(c->pool, pr->job, now);
    prompt_conclude(pr, now);
    if (deaf) link_reset(c, "its WebSocket is deaf: a prompt ended without a word", now);
}

static void not_in_history(prompt *pr, mp_time now) {
    mp_client *c = pr->client;
    mp_time settle = c->pool->o.settle;
    if (pr->verdict && ++pr->history_tries < 5) pr->due = now + MP_MS(1000);
    else if (pr->verdict) prompt_conclude(pr, now);  /* its messages said how it ended; only the entry is gone */
    else if (pr->at == AT_UNKNOWN && now - pr->settled < settle) pr->due = now + MP_MS(1000);
    else let_go(pr, MP_FAIL_LOST, "the server knows nothing of the prompt any more (restarted, or deleted by somebody)", pr->at == AT_UNKNOWN, now);
}

void historied(mp_client *c, uint64_t action, const char *id, const mp_result *r, mp_time now) {
    prompt *pr = prompt_by_id(c, mp_str_of(id));
    mp_history h;
    if (!pr || pr->history != action) return;
    pr->history = 0;
    if (r->code) {
        pr->due = now + KILL_AGAIN;
        link_reset(c, r->message ? r->message : "GET /history failed", now);
        return;
    }
    mp_json *own;
    const mp_json *doc = doc_of(r, &own);
    if (!pr->job) prompt_gone(pr);                   /* became a tombstone meanwhile; it is out of the queue */
    else if (mp_json_type(doc) != MP_JSON_OBJECT && ++pr->history_tries < 5) pr->due = now + KILL_AGAIN;
    else if (mp_json_type(doc) != MP_JSON_OBJECT && pr->verdict) prompt_conclude(pr, now);
    else if (mp_json_type(doc) != MP_JSON_OBJECT) let_go(pr, MP_FAIL_LOST, "its history cannot be read", 1, now);
    else if (mp_reply_history(doc, server_id(pr), &h)) found_in_history(pr, &h, now);
    else not_in_history(pr, now);
    mp_json_free(own);
    client_rearm(c, now);
}

/* ---- time ------------------------------------------------------------------------------------------------------ */

/* Who is to blame for the silence: what runs, else what waits longest. */
static prompt *silent_one(mp_client *c) {
    prompt *first = NULL;
    for (prompt *pr = c->prompts; pr; pr = pr->next) {
        if (!pr->job || pr->at == AT_POSTING) continue;
        if (pr->at == AT_RUNNING) return pr;
        if (!first) first = pr;
    }
    return first;
}

static mp_time silence_due(mp_client *c) {
    prompt *pr = silent_one(c);
    if (!pr) return MP_NEVER;
    known *k = client_known(c, pr->hash, 0);
    const mp_pool_opts *o = &c->pool->o;
    mp_time bound = pr->job->node_silence ? pr->job->node_silence : k && k->runs ? o->node_silence : o->node_silence ? (o->cold_silence > o->node_silence ? o->cold_silence : o->node_silence) : 0;
#if MP_MUTANT == 9
    bound = 0;
#endif
    return bound && bound != MP_NEVER ? c->moved + bound : MP_NEVER;
}

static void silenced(mp_client *c, mp_time now) {
    prompt *pr = silent_one(c);
    mp_time rest = MP_MS(60000);                     /* out of work for a minute, then twice as long each time */
    for (int i = 0; i < c->strikes && rest < MP_MS(900000); i++) rest *= 2;
    c->wedged = 1;
    c->strikes++;
    c->wedged_until = now + rest;
    c->moved = now;
    client_problem(c, "nothing was heard of its work for too long");
    mp_logf(&c->pool->log, MP_LOG_WARN, "client %s: nothing was heard of its work for too long; its prompts go elsewhere", c->name);
    let_go(pr, MP_FAIL_TIMEOUT, "nothing was heard of the prompt for too long (node_silence_ms)", 1, now);
    give_up_all(c, MP_FAIL_LOST, "waited behind a prompt that hangs", 0, now);
    queue_presence(c->pool, now);
}

static void prompt_tick(prompt *pr, mp_time now) {
    mp_client *c = pr->client;
    if (pr->due <= now) {
        pr->due = MP_NEVER;
        if (pr->job) survey_want(c, now);
        else if (!pr->deleted) send_delete(pr, now);
        else survey_want(c, now);
    }
    if (pr->verdict && pr->verdict_at != MP_NEVER && pr->verdict_at + AFTER_VERDICT <= now) {
        pr->verdict_at = MP_NEVER;
        if (pr->job) prompt_ask_history(pr, now);
        else survey_want(c, now);
    }
}

void recover_tick(mp_client *c, mp_time now) {
    if (c->state != MP_CLIENT_ONLINE) return;
    for (prompt *pr = c->prompts, *next; pr; pr = next) {
        next = pr->next;
        if (pr->at != AT_POSTING) prompt_tick(pr, now);
    }
    if (c->poll_at <= now) {
        c->poll_step = c->poll_step < 3 * c->pool->o.poll ? c->poll_step * 2 : c->poll_step;
        c->poll_at = now + c->poll_step;
        survey_want(c, now);
    }
    if (silence_due(c) <= now) silenced(c, now);
    if (c->wedged && c->wedged_until <= now) {       /* a prompt that hangs there still is proof enough */
        if (c->prompts) c->wedged_until = now + MP_MS(60000);
        else client_unwedge(c, 0, now);
    }
}

static mp_time sooner(mp_time a, mp_time b) { return a < b ? a : b; }

/* When this client must be looked at again. Called after everything that touches it. */
void client_rearm(mp_client *c, mp_time now) {
    mp_pool *p = c->pool;
    mp_time t = MP_NEVER;
    int busy = c->connecting || c->checking || c->closing;
    if (c->removed && !c->prompts && c->state == MP_CLIENT_ONLINE) {
        link_reset(c, "removed", now);
        return;
    }
    if (c->state == MP_CLIENT_OFFLINE && !busy && !c->removed && link_wanted(c)) t = c->retry_at;
    if (c->state != MP_CLIENT_ONLINE && c->prompts && p->o.unreachable && c->down_since)
        for (prompt *pr = c->prompts; pr; pr = pr->next)
            if (pr->job) t = sooner(t, c->down_since + p->o.unreachable);
    if (c->state == MP_CLIENT_ONLINE) {
        t = sooner(t, sooner(c->status_due, c->poll_at));
        t = sooner(t, silence_due(c));
        if (c->wedged) t = sooner(t, c->wedged_until);
        for (prompt *pr = c->prompts; pr; pr = pr->next) {
            if (pr->at == AT_POSTING) continue;
            t = sooner(t, pr->due);
            if (pr->verdict && pr->verdict_at != MP_NEVER) t = sooner(t, pr->verdict_at + AFTER_VERDICT);
        }
    }
    if (t == c->wake) return;
    mp_heap_remove(&p->wakes, c);
    c->wake = t;
    mp_heap_push(&p->wakes, c);
}
