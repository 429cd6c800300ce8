/* pool/recover.c -- floor 5, pool: prompts out of sight. GET /queue first, then GET /history/{id}: in that order a
 * prompt is found in one of them, because it moves from one to the other in one step (protocol 3.3). Absent from
 * both: lost, or, when its POST's fate is unknown, perhaps still to come, so it counts as lost after `settle` only. */
#include "pool/inside.h"
#include <stdlib.h>

static const char *server_id(const prompt *pr) { return pr->real ? pr->real : pr->id; }

prompt *prompt_by_id(mp_client *c, mp_str id) {
    for (prompt *pr = c->prompts; pr; pr = pr->next)
        if ((id.n == sizeof pr->id - 1 && memcmp(id.p, pr->id, sizeof pr->id - 1) == 0) || (pr->real && mp_str_is(id, pr->real))) return pr;
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
    if (!c->prompts) c->poll_at = c->status_due = MP_NEVER;
    client_touch(c);
    outputs_free(pr->outputs, pr->n_outputs);
    pictures_free(pr->pictures, pr->n_pictures);
    free(pr->cached);
    free(pr->real);
    mp_workflow_unref(pr->w);
    mp_failure_free(pr->failure);
    pr->k->users--;
    shape_unref(c->pool, pr->s);
    mp_slab_give(&c->pool->prompts, pr);
}

/* ---- ends ------------------------------------------------------------------------------------------------ */

static void remember_run(mp_client *c, prompt *pr, mp_time now) {
    client_ran(c, pr, pr->began == MP_NEVER ? -1 : now - pr->began);
    c->bad = 0;
    shape *old = c->last_shape;
    c->last_shape = shape_ref(pr->s);
    shape_unref(c->pool, old);
    shape_learn_models(pr->s, pr->w);
    mp_workflow_unref(c->last);
    c->last = mp_workflow_ref(pr->w);
    if (!pr->job || !pr->job->profile || pr->gap) return;
    if (!pr->s->forecast) pr->s->forecast = mp_forecast_new();
    mp_forecast_learn(pr->s->forecast, pr->job->profile, now);
}

mp_failure *prompt_failure(prompt *pr) {
    if (!pr->failure) pr->failure = mp_alloc(sizeof *pr->failure);
    return pr->failure;
}

void prompt_conclude(prompt *pr, mp_time now) {
    mp_client *c = pr->client;
    mp_pool *p = c->pool;
    mp_job *j = pr->job;
    mp_end how = pr->verdict;
    if (how == MP_END_SUCCESS) remember_run(c, pr, now);
    if (!j && how == MP_END_SUCCESS) {               /* recorded, never delivered: its job ended, or ran elsewhere */
        p->stats.late++;
        mp_logf(&p->log, MP_LOG_INFO, "client %s: prompt %s ended well after it had been given up; its result is not used", c->name, server_id(pr));
    }
    if (j) {
        struct tail *t = job_tail(p, j);
        outputs_free(t->outputs, t->n_outputs);      /* of an earlier attempt that failed */
        t->outputs = pr->outputs;
        t->n_outputs = (uint32_t)pr->n_outputs;
        pr->outputs = NULL;
        pr->n_outputs = 0;
        pictures_free(t->pictures, t->n_pictures);
        t->pictures = pr->pictures;
        t->n_pictures = (uint32_t)pr->n_pictures;
        pr->pictures = NULL;
        pr->n_pictures = 0;
    }
    if (j && how == MP_END_SUCCESS) {
        job_failed_by(p, j, NULL);                   /* what earlier attempts left */
        job_end(p, j, MP_JOB_COMPLETED, NULL, now);
    } else if (j) attempt_failed(p, j, c, prompt_failure(pr), now);
    prompt_gone(pr);
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

/* It only waited there and is gone without a trace: it goes to whoever is free now. */
static void taken_back(prompt *pr, mp_time now) {
    mp_pool *p = pr->client->pool;
    mp_job *j = pr->job;
    pr->job = NULL;
    j->attempts--;
    j->taken++;
    p->stats.taken_back++;
    if (j->profile) mp_profile_end_attempt(j->profile, "taken_back", NULL, now);
    if (wanted(p, MP_EV_JOB_TAKEN_BACK)) {
        mp_event *e = event(p, MP_EV_JOB_TAKEN_BACK, j, pr->client, now);
        e->node = mp_strdup(pr->id);
        event_data(e, server_id(pr), strlen(server_id(pr)));
    }
    job_requeue(p, j, 0, now);
    prompt_gone(pr);
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
    c->stopped_at = now;
    pr->kills++;
    pr->due = now + c->pool->o.request_timeout;
    act(c->pool, c, DO_INTERRUPT, pr->id, "POST", &path, &body, c->pool->o.request_timeout);
}

void prompt_kill(prompt *pr, mp_time now) {
    pr->job = NULL;
    if (pr->at == AT_UPLOADING && pr->held) { prompt_gone(pr); return; } /* nothing of it is on its way anywhere */
    pr->deleted = 0;
    pr->due = now;
    if (pr->client->state == MP_CLIENT_ONLINE && pr->at > AT_POSTING) send_delete(pr, now);
    if (mp_client_stuck(pr->client))                 /* who waits for it instead of another may look again */
        for (group *g = pr->client->pool->groups; g; g = g->hh.next) group_fresh(pr->client->pool, g);
    client_rearm(pr->client, now);
}

void prompt_killed(mp_client *c, const char *id, purpose why, const mp_result *r, mp_time now) {
    prompt *pr = prompt_by_id(c, mp_str_of(id));
    if (r->code) {
        if (pr && why == DO_DELETE) pr->deleted = 0;
        if (pr && why == DO_INTERRUPT) pr->interrupting = 0;
        if (pr) pr->due = now + KILL_AGAIN;
        link_reset(c, r->message ? r->message : "a request failed", now);
        return;
    }
    if (!pr) return;
    if (why == DO_INTERRUPT) pr->interrupting = 0;
    if (why == DO_DELETE) survey_want(c, now);
    else pr->due = pr->stop_again = now + (KILL_AGAIN << (pr->kills < 5 && pr->kills > 0 ? pr->kills - 1 : 4));        /* 2 s, 4 s, ... 32 s */
    client_rearm(c, now);
}

/* A tombstone, by where the survey found it. */
static void bury(prompt *pr, mp_place where, mp_time now) {
    mp_time settle = pr->client->pool->o.settle;
    if (where == MP_PLACE_RUNNING) {                 /* an answer that was under way meanwhile is no reason to ask twice */
        if (!pr->interrupting && now >= pr->stop_again && MP_MUTANT != 28) send_interrupt(pr, now);
        else if (!pr->interrupting) pr->due = pr->stop_again;
    } else if (where == MP_PLACE_PENDING && pr->deleted) {             /* not obeyed: again, but not at once */
        pr->deleted = 0;
        pr->due = now + (KILL_AGAIN << (pr->kills < 4 ? pr->kills++ : 4));
    } else if (where == MP_PLACE_PENDING) send_delete(pr, now);
    else if (where == MP_PLACE_ABSENT) {
        if (pr->at == AT_UNKNOWN && now - pr->settled < settle) pr->due = now + KILL_AGAIN;
        else prompt_gone(pr);
    }
}

/* ---- the survey ---------------------------------------------------------------------------------------------- */

mp_time client_poll(const mp_client *c) { return c->polling && c->pool->o.poll > MP_MS(1000) ? MP_MS(1000) : c->pool->o.poll; }

/* Whether the server said that this node's answer is an earlier one. */
int prompt_cached(const prompt *pr, mp_str node) {
    mp_str id;
    char scratch[256];
    if (!pr->cached) return 0;
    mp_scan s = mp_scan_of(mp_str_of(pr->cached));
    for (int first = 1; mp_msg_next_cached(&s, first, &id, scratch, sizeof scratch); first = 0)
        if (mp_str_eq(id, node)) return 1;
    return 0;
}

void survey_want(mp_client *c, mp_time now) {
    mp_buf path = { 0 };
    c->survey_wanted = 1;
    if (c->state != MP_CLIENT_ONLINE || c->survey) return;
    c->survey_wanted = 0;
    c->survey_sent = now;
    mp_buf_puts(&path, "/queue");
    c->survey = act(c->pool, c, DO_SURVEY, NULL, "GET", &path, NULL, c->pool->o.request_timeout);
}

/* What may run for so long without our hearing of it can only hang; 0: nothing counts as that. */
static mp_time longest(const mp_client *c) {
    const mp_pool_opts *o = &c->pool->o;
    return 4 * (o->cold_silence > o->node_silence ? o->cold_silence : o->node_silence);
}

/* A prompt of somebody else's has run there for so long that it must hang. */
static int others_hang(const mp_client *c, mp_time now) {
    mp_time bound = longest(c);
    return c->others_since && bound && now - c->others_since >= bound;
}

/* Somebody else's prompt runs there and ours wait behind it: they are not silent, it is not their turn. But one prompt of theirs may
 * hang as one of ours may. */
static void others_run(mp_client *c, const char *id, mp_time now) {
    uint64_t h = id ? mix(MIXED, id, strlen(id)) : 0;
    for (const prompt *pr = c->prompts; pr && id; pr = pr->next)
        if (pr->at == AT_RUNNING || strcmp(id, server_id(pr)) == 0) id = NULL;
    if (!id) { c->others_since = 0; return; }
    if (!c->others_since || c->others != h) { c->others_since = now; c->others = h; }
    if (!others_hang(c, now)) c->moved = now;
}

static void one_surveyed(prompt *pr, const mp_json *doc, mp_time now) {
    mp_client *c = pr->client;
    const char *real = NULL;
    if (pr->at <= AT_POSTING || pr->settled == MP_NEVER || pr->settled > c->survey_sent) return;
    mp_place where = mp_reply_queue(doc, server_id(pr), &real);
    if (where != MP_PLACE_ABSENT && strcmp(real, server_id(pr)) != 0) {
        free(pr->real);
        pr->real = mp_strdup(real);
        c->own_ids = -1;
    }
    /* Without a socket being seen to run is all that can be heard of it; but not for ever. */
    if (c->polling && where == MP_PLACE_RUNNING && (pr->began == MP_NEVER || !longest(c) || now - pr->began < longest(c))) c->moved = now;
    if (pr->taking && where != MP_PLACE_ABSENT && pr->taken_at <= c->survey_sent && MP_MUTANT != 15) {     /* it runs, or was not deleted: it stays */
        pr->taking = pr->deleted = 0;
        pr->due = MP_NEVER;
    }
#if MP_MUTANT == 15
    if (pr->taking && pr->job) { taken_back(pr, now); return; }
#endif
    if (where == MP_PLACE_RUNNING && pr->at != AT_RUNNING) {
        pr->at = AT_RUNNING;
        if (pr->began == MP_NEVER) pr->began = now;
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
        if (c->state == MP_CLIENT_ONLINE) c->down_since = 0;
        c->answered = c->survey_sent;
        others_run(c, mp_reply_running(doc), now);
        if (mp_reply_running(doc)) c->start_from = now;
        else c->start_looks++;
        for (prompt *pr = c->prompts, *next; pr; pr = next) {
            next = pr->next;
            one_surveyed(pr, doc, now);
        }
        if (c->survey_wanted) survey_want(c, now);
        if (c->prompts && c->poll_at == MP_NEVER) {  /* after a lost link or reply this is the first that is known of them */
            c->poll_step = client_poll(c);
            c->poll_at = now + c->poll_step;
        }
        if (c->wedged && !c->prompts && c->online_at > c->wedged_at) client_unwedge(c, 0, now);        /* it was restarted: what hung is gone */
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

/* Whose doing was it? An interrupt that we sent for a prompt of ours that was over may hit the one after it. */
void prompt_interrupted(prompt *pr, mp_time now) {
    mp_client *c = pr->client;
    if (c->stopped_at && now - c->stopped_at < STRAY_INTERRUPT && MP_MUTANT != 19) mp_failure_set(prompt_failure(pr), MP_FAIL_LOST, "%s: hit by an interrupt meant for the prompt before it", c->name);
    else mp_failure_set(prompt_failure(pr), MP_FAIL_INTERRUPTED, "interrupted on the server, not by us");
}

static void outputs_from(prompt *pr, const mp_json *outputs) {
    if (mp_json_type(outputs) != MP_JSON_OBJECT) return;
    for (const mp_json *o = mp_json_first(outputs); o; o = mp_json_next(o)) {
        int known_one = 0;
        mp_buf b = { 0 };
        for (size_t i = 0; i < pr->n_outputs; i++)
            if (strcmp(pr->outputs[i].node, mp_json_name(o)) == 0) known_one = 1;
        if (known_one) continue;
        mp_json_write(&b, o);
        prompt_output(pr, mp_str_of(mp_json_name(o)), mp_buf_view(&b));
        mp_buf_free(&b);
    }
}

static void found_in_history(prompt *pr, const mp_history *h, mp_time now) {
    mp_client *c = pr->client;
    int deaf = !pr->gap && !pr->verdict && c->has_socket && c->state == MP_CLIENT_ONLINE;
    if (pr->job && pr->job->profile) mp_profile_history(pr->job->profile, h, now);
    if (h->cached && !pr->cached) {
        mp_buf b = { 0 };
        mp_json_write(&b, h->cached);
        pr->cached = mp_buf_take(&b, NULL);
    }
    outputs_from(pr, h->outputs);
    if (!pr->verdict) {
        pr->verdict = h->end;
        if (h->end == MP_END_ERROR) {
            mp_buf b = { 0 };
            mp_json_write(&b, h->error);
            mp_failure_of_error(mp_buf_view(&b), prompt_failure(pr));
            mp_buf_free(&b);
        } else if (h->end == MP_END_INTERRUPTED) prompt_interrupted(pr, now);
    }
    if (pr->job) job_running(c->pool, pr->job, now);
    prompt_conclude(pr, now);
    if (deaf && c->status_due == MP_NEVER) {         /* the history may have overtaken the words; if none comes at all, it is deaf */
        c->status_due = now + STATUS_DUE;
        client_rearm(c, now);
    }
}

static void not_in_history(prompt *pr, mp_time now) {
    mp_client *c = pr->client;
    mp_time settle = c->pool->o.settle;
    if (pr->verdict && ++pr->history_tries < 5) pr->due = now + MP_MS(1000);
    else if (pr->verdict) prompt_conclude(pr, now);  /* its messages said how it ended; only the entry is gone */
    else if (pr->at == AT_UNKNOWN && now - pr->settled < settle) pr->due = now + MP_MS(1000);
    else if (pr->taking) taken_back(pr, now);
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

static mp_time sooner(mp_time a, mp_time b) { return a < b ? a : b; }

/* ---- time ------------------------------------------------------------------------------------------------------ */

/* What the prompts of a client wait for, in one look: it is taken after everything that touches the client. */
typedef struct {
    prompt *silent;                                  /* who is to blame for silence: what runs, else what waits longest; perhaps a tombstone */
    prompt *first;                                   /* the first that waits to begin; NULL when anything of ours runs */
    mp_time due;                                     /* the next of their own looks */
} outlook;

static outlook look_over(const mp_client *c) {
    outlook o = { NULL, NULL, MP_NEVER };
    int runs = 0;
    for (prompt *pr = c->prompts; pr; pr = pr->next) {
        if (pr->at <= AT_POSTING) continue;
        o.due = sooner(o.due, pr->due);
        if (pr->verdict && pr->verdict_at != MP_NEVER) o.due = sooner(o.due, pr->verdict_at + AFTER_VERDICT);
        runs |= pr->at == AT_RUNNING;
        if (!pr->job && pr->silence == MP_NEVER) continue;           /* nobody waits for it, and it may be silent: it is not to blame */
        if ((pr->job && !o.silent) || (pr->at == AT_RUNNING && (!o.silent || o.silent->at != AT_RUNNING))) o.silent = pr;
        if (pr->job && pr->at == AT_WAITING && !o.first) o.first = pr;
    }
    if (runs) o.first = NULL;
    return o;
}

/* How long nothing may be heard of it: noted once, when it is sent. */
mp_time silence_bound(const prompt *pr) {
    const mp_pool_opts *o = &pr->client->pool->o;
    mp_time cold = o->cold_silence > o->node_silence ? o->cold_silence : o->node_silence;
    const struct wishes *x = pr->job->wishes;
    mp_time bound = x && x->node_silence ? x->node_silence : pr->k->runs ? o->node_silence : o->node_silence ? cold : 0;
#if MP_MUTANT == 9
    bound = 0;
#endif
    return bound ? bound : MP_NEVER;
}

/* How long it may wait where nothing runs: noted with the other. */
mp_time begin_bound(const prompt *pr) {
    const struct wishes *x = pr->job->wishes;
    mp_time bound = x && x->execution_start ? x->execution_start : pr->client->pool->o.execution_start;
    return bound ? bound : MP_NEVER;
}

/* MP_NEVER also while a look is under way that may say why a prompt waits; and while the client rests anyway. */
mp_time unreachable_bound(const prompt *pr) {
    const struct wishes *x = pr->job->wishes;
    mp_time bound = x && x->unreachable ? x->unreachable : pr->client->pool->o.unreachable;
    return bound && MP_MUTANT != 3 ? bound : MP_NEVER;
}

static mp_time away_due(const mp_client *c, const prompt *pr) { return pr->job && c->down_since && pr->unreachable != MP_NEVER ? c->down_since + pr->unreachable : MP_NEVER; }

void give_up_unreachable(mp_client *c, mp_time now) {
    for (prompt *pr = c->prompts, *next; pr; pr = next) {
        next = pr->next;
        if (away_due(c, pr) <= now) let_go(pr, MP_FAIL_CONNECTION, "its client could not be reached", 1, now);
    }
}

/* MP_NEVER also while a look is under way that may say why a prompt waits, and there was none since its time is over; while it is looked
 * for in the history; and while the client rests anyway. */
static mp_time silence_due(const mp_client *c, const outlook *o) {
    if (!o->silent || o->silent->silence == MP_NEVER || o->silent->history || (!o->silent->job && c->wedged)) return MP_NEVER;
    mp_time due = c->moved + o->silent->silence;
    return o->silent->at != AT_RUNNING && c->survey && c->answered < due ? MP_NEVER : due;
}

/* By when the first that waits should begin: nothing of ours runs there, and as far as we know nothing of others. */
static mp_time begin_due(const mp_client *c, const outlook *o) {
    const prompt *first = o->first;
    if (!first || first->patience == MP_NEVER) return MP_NEVER;
    mp_time from = first->settled > c->moved ? first->settled : c->moved;
    if (c->start_from > from) from = c->start_from;
    return from + first->patience;
}

/* Out of work for a minute, then twice as long each time up to a quarter of an hour; what it holds goes elsewhere. guilty: may be a tombstone. */
static void rest(mp_client *c, prompt *guilty, const char *why, mp_fail_kind kind, const char *words, mp_time now) {
    mp_time t = MP_MS(60000);
    for (int i = 0; i < c->strikes && t < MP_MS(900000); i++) t *= 2;
    if (t > MP_MS(900000)) t = MP_MS(900000);
    c->wedged = 1;
    c->strikes++;
    c->wedged_until = now + (MP_MUTANT == 31 ? 10 * t : t);
    c->wedged_at = now;
    c->moved = now;
    client_touch(c);
    client_problem(c, why);
    mp_logf(&c->pool->log, MP_LOG_WARN, "client %s: %s; its prompts go elsewhere", c->name, why);
    if (guilty->job) let_go(guilty, kind, words, 1, now);
    give_up_all(c, MP_FAIL_LOST, "waited behind a prompt that hangs", 0, now);
    queue_presence(c->pool, now);
}

static void silenced(mp_client *c, prompt *pr, mp_time now) {
    if (pr->at != AT_RUNNING && c->answered < c->moved + pr->silence) survey_want(c, now);     /* whose turn is it there? */
    else if (pr->at != AT_RUNNING && c->others_since) rest(c, pr, "somebody else's prompt hangs there", MP_FAIL_LOST, "it waited too long behind somebody else's prompt (node_silence_ms)", now);
    else rest(c, pr, "nothing was heard of its work for too long", MP_FAIL_TIMEOUT, "nothing was heard of the prompt for too long (node_silence_ms)", now);
}

/* A prompt that hangs there still is proof enough for another rest; and when it has hung for as long as any node may be silent, nobody
 * who waits is told any more that this client is there. Of somebody else's only a look tells whether it does. */
static void rested(mp_client *c, mp_time now) {
    if (!c->prompts && !others_hang(c, now)) { client_unwedge(c, 0, now); return; }
    if (!c->prompts) survey_want(c, now);
    c->wedged_until = now + MP_MS(60000);
    if (c->hopeless || now - c->wedged_at < c->pool->o.node_silence) return;
    c->hopeless = 1;
    queue_presence(c->pool, now);
}

/* Two looks at /queue must find nothing running before a server counts as wedged. */
static void begin_tick(mp_client *c, mp_time now) {
    outlook o = look_over(c);
    if (begin_due(c, &o) > now) { c->start_looks = 0; c->start_asked = MP_NEVER; return; }
    if (c->start_looks >= 2) {
        c->start_looks = 0;
        rest(c, o.first, "it takes prompts and begins none", MP_FAIL_TIMEOUT, "taken, but not begun while nothing ran there (execution_start_ms)", now);
    } else if (c->start_asked == MP_NEVER || c->start_asked <= now) {
        if (c->start_asked == MP_NEVER) c->start_looks = 0;
        c->start_asked = now + MP_MS(1000);
        survey_want(c, now);
    }
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
        if (pr->at > AT_POSTING) prompt_tick(pr, now);
    }
    if (c->poll_at <= now) {
        c->poll_step = c->polling ? client_poll(c) : c->poll_step < 3 * c->pool->o.poll ? c->poll_step * 2 : c->poll_step;
        c->poll_at = now + c->poll_step;
        survey_want(c, now);
    }
    begin_tick(c, now);
    block_tick(c, now);
    outlook o = look_over(c);
    if (silence_due(c, &o) <= now) silenced(c, o.silent, now);
    if (c->wedged && c->wedged_until <= now) rested(c, now);
}

/* ---- take-back -------------------------------------------------------------------------------------------------- */

/* How long that shape takes on that client, guessed from others (and then slower, because models must be loaded). */
static mp_time guess(const known *k, shape *s) {
    if (k && k->runs && k->typical) return k->typical;
    mp_time mean = mp_forecast_total(s->forecast);
    return mean + mean / 2;
}

/* When this prompt will have ended where it is, from now. 0: it runs, or nobody knows. */
static mp_time ends_there(const prompt *pr, mp_time now) {
    mp_time left = 0, t;
    for (const prompt *q = pr->client->prompts; q; q = q->next) {
        if (!(t = guess(q->k, q->s))) return 0;
        if (q->at == AT_RUNNING && q->began != MP_NEVER) t = t > now - q->began ? t - (now - q->began) : 0;
        left += t;
        if (q == pr) break;
    }
    return left;
}

static int may_be_taken(const prompt *pr, const mp_client *idle) {
    const mp_job *j = pr->job;
    return j && pr->at == AT_WAITING && !pr->taking && !pr->verdict && pr->client != idle && pr->client->state == MP_CLIENT_ONLINE && !pr->client->polling &&
           j->taken < idle->pool->o.take_backs && job_may_run(idle, j) && !job_wants_not(j, idle);
}

int take_back(mp_client *idle, mp_time now) {
    mp_pool *p = idle->pool;
    prompt *best = NULL;
    mp_time most = MP_MS(100);                       /* less is not worth the requests */
    if (!p->o.take_backs || p->closing || p->paused || idle->fetching > now) return 0;
    mp_client *c = p->look_from && !p->look_from->removed ? p->look_from : p->clients;
    for (size_t looked = 0; c && looked < p->n_clients && looked < TAKE_BACK_LOOKS; looked++, c = c->next ? c->next : p->clients) {
        p->look_from = c;
        if (c->load < 2) continue;
        for (prompt *pr = c->prompts; pr; pr = pr->next) {
            if (!may_be_taken(pr, idle)) continue;
            mp_time there = ends_there(pr, now), here = guess(client_known(idle, pr->s, 0), pr->s);
            if (there && here && there - here > most + here / 10) { best = pr; most = there - here; }
        }
    }
    if (!best) return 0;
    idle->fetching = now + MP_MS(2000);
    best->taking = 1;
    best->taken_at = now;
    send_delete(best, now);
    client_rearm(best->client, now);
    return 1;
}

/* When this client must be looked at again. Called after everything that touches it. */
void client_rearm(mp_client *c, mp_time now) {
    mp_pool *p = c->pool;
    mp_time t = MP_NEVER;
    if (c->removed || c->draining) client_touch(c);  /* settled from dispatch: callers may be walking its prompts */
    if (c->removed && !c->prompts && c->state == MP_CLIENT_ONLINE) {
        link_reset(c, "removed", now);
        return;
    }
    if (c->state == MP_CLIENT_OFFLINE && !c->connecting && !c->checking && !c->closing && !c->removed && link_wanted(c)) t = c->retry_at;
    for (prompt *pr = c->state != MP_CLIENT_ONLINE ? c->prompts : NULL; pr; pr = pr->next) t = sooner(t, away_due(c, pr));
    if (c->state == MP_CLIENT_ONLINE) {
        t = sooner(t, sooner(c->status_due, c->poll_at));
        outlook o = look_over(c);
        mp_time begin = begin_due(c, &o);
        t = sooner(t, sooner(o.due, silence_due(c, &o)));
        t = sooner(t, sooner(c->block_at, c->connecting ? MP_NEVER : c->socket_at));
        t = sooner(t, c->start_asked != MP_NEVER && begin <= now && c->start_looks < 2 ? c->start_asked : begin);
        if (c->wedged) t = sooner(t, c->wedged_until);
    }
    if (t == c->wake || (t > c->wake && c->wake > now)) return;      /* too early a look costs less than moving it each time */
    mp_heap_remove(&p->wakes, c);
    c->wake = t;
    mp_heap_push(&p->wakes, c, t, c->serial);
}
