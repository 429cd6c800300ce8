/* pool/frame.c -- floor 5, pool: messages move the job's state and feed its profile. */
#include "pool/inside.h"
#include <stdlib.h>

/* Once per kind of garbage and client. */
static void complain(mp_client *c, const char *what) {
    unsigned h = 5381;
    for (const char *z = what; *z; z++) h = h * 33 + (unsigned char)*z;
    unsigned bit = 1u << h % 32;
    c->pool->stats.malformed++;
    if (c->complained & bit) return;
    c->complained |= bit;
    mp_logf(&c->pool->log, MP_LOG_WARN, "client %s sent %s (further ones are counted, not logged)", c->name, what);
}

static const mp_job *shown(const prompt *pr) { return pr && pr->job ? pr->job : NULL; }

static void emit_message(mp_client *c, const mp_msg *m, mp_time now) {
    if (!wanted(c->pool, MP_EV_CLIENT_MESSAGE)) return;
    prompt *pr = prompt_by_id(c, m->prompt_id);
    mp_event *e = event(c->pool, MP_EV_CLIENT_MESSAGE, shown(pr), c, now);
    e->node = mp_strndup(m->type.p, m->type.n);
    event_data(e, m->data.p, m->data.n);
}

static void emit_progress(mp_client *c, prompt *pr, const mp_msg *m, mp_time now) {
    if (!wanted(c->pool, MP_EV_JOB_PROGRESS)) return;
    mp_event *e = event(c->pool, MP_EV_JOB_PROGRESS, pr->job, c, now);
    e->node = mp_strndup(m->node.p, m->node.n);
    e->value = m->value;
    e->max = m->max;
    e->overall = mp_job_progress(pr->job, now);
}

/* SaveImageWebsocket sends its pictures as PNG previews and announces nothing (protocol 4). A frame without a node is of
 * the node that reported progress just before. */
static void keep_picture(prompt *pr, const mp_msg *m) {
    long at = m->node.n ? mp_workflow_index(pr->w, m->node) : pr->speaker;
    if (at < 0 || strcmp(m->format, "png") != 0 || strcmp(mp_workflow_node(pr->w, (size_t)at)->class_type, "SaveImageWebsocket") != 0) return;
    if (pr->picture_bytes + m->image.n > PICTURE_BYTES) return;
    pr->picture_bytes += m->image.n;
    pr->pictures = mp_realloc(pr->pictures, (pr->n_pictures + 1) * sizeof *pr->pictures);
    pr->pictures[pr->n_pictures++] = (picture){ mp_strdup(mp_workflow_node(pr->w, (size_t)at)->id), mp_strndup(m->image.p, m->image.n), m->image.n, m->format };
}

/* A preview without an id belongs to what runs here of ours (protocol 4). */
static void preview(mp_client *c, prompt *pr, const mp_msg *m, mp_time now) {
    for (prompt *q = c->prompts; q && !pr && !m->prompt_id.n; q = q->next)
        if (q->at == AT_RUNNING) pr = q;
    if (pr && pr->job) keep_picture(pr, m);
    if (!pr || !pr->job || !wanted(c->pool, MP_EV_JOB_PREVIEW)) return;
    mp_event *e = event(c->pool, MP_EV_JOB_PREVIEW, pr->job, c, now);
    const char *running = pr->job->profile && !m->node.n ? mp_profile_running(pr->job->profile) : NULL;
    e->node = running ? mp_strdup(running) : m->node.n ? mp_strndup(m->node.p, m->node.n) : NULL;
    e->format = m->format;
    event_data(e, m->image.p, m->image.n);
    previews_bound(c->pool);
}

void prompt_output(prompt *pr, mp_str node, mp_str json) {
    size_t i = 0;
    if (MP_MUTANT == 25 && pr->n_outputs) return;
    while (i < pr->n_outputs && !mp_str_is(node, pr->outputs[i].node)) i++;
    size_t before = i < pr->n_outputs ? pr->outputs[i].n : 0;
    if (i == OUTPUT_NODES || pr->output_bytes - before + json.n > OUTPUT_BYTES) {
        complain(pr->client, "more outputs of one prompt than are kept");
        return;
    }
    pr->output_bytes += json.n - before;
    output o = { mp_alloc(node.n + json.n + 2), NULL, (uint32_t)json.n, prompt_cached(pr, node) };
    o.json = o.node + node.n + 1;
    if (node.n) memcpy(o.node, node.p, node.n);
    memcpy(o.json, json.p, json.n);
    if (i < pr->n_outputs) free(pr->outputs[i].node);                /* announced again: the newest stands */
    else pr->outputs = mp_realloc(pr->outputs, ++pr->n_outputs * sizeof *pr->outputs);
    pr->outputs[i] = o;
}

static void add_output(mp_client *c, prompt *pr, const mp_msg *m, mp_time now) {
    if (!m->output.n) return;
    size_t before = pr->n_outputs;
    prompt_output(pr, m->node, m->output);
    if (pr->n_outputs == before || !pr->job || !wanted(c->pool, MP_EV_JOB_OUTPUT)) return;
    mp_event *e = event(c->pool, MP_EV_JOB_OUTPUT, pr->job, c, now);
    e->node = mp_strndup(m->node.p, m->node.n);
    event_data(e, m->output.p, m->output.n);
}

static void verdict(prompt *pr, mp_end how, const mp_msg *m, mp_time now) {
    if (pr->verdict) return;                         /* the first one counts (protocol 12) */
    pr->verdict = how;
    pr->verdict_at = now;
    if (how == MP_END_ERROR) mp_failure_of_error(m->data, prompt_failure(pr));
    if (how == MP_END_INTERRUPTED) prompt_interrupted(pr, now);
}

/* The end is `executing` with node null. What was missed meanwhile, and a missing verdict, only history can tell. */
void prompt_left(prompt *pr, mp_time now) {
    if (pr->client->posting == pr) { pr->over = 1; return; }         /* the reply may yet say that some of it was refused */
    if (pr->verdict && !(pr->gap && pr->verdict == MP_END_SUCCESS)) prompt_conclude(pr, now);
    else prompt_ask_history(pr, now);
}

/* Most messages only put off what a client is looked at for; these may bring a look nearer: the first of a prompt, those that say how
 * it ends, and any when looks had become rare. */
static int brings_nearer(const mp_client *c, const prompt *pr, const mp_msg *m) {
    if (pr->at != AT_RUNNING || c->wedged || c->poll_step != client_poll(c)) return 1;
    return m->kind == MP_MSG_SUCCESS || m->kind == MP_MSG_ERROR || m->kind == MP_MSG_INTERRUPTED || (m->kind == MP_MSG_EXECUTING && !m->node.p);
}

/* One that was sent later runs, and an earlier one still waits: perhaps somebody deleted it. */
static int overtook(const mp_client *c, const prompt *pr) {
    for (const prompt *q = c->prompts; q != pr; q = q->next)
        if (q->at == AT_WAITING && q->job && !(pr->job && pr->job->front)) return 1;
    return 0;
}

static void of_prompt(mp_client *c, prompt *pr, const mp_msg *m, mp_time now) {
    c->moved = now;
    client_unwedge(c, 1, now);
    c->poll_step = client_poll(c);
    c->poll_at = now + c->poll_step;
    pr->taking = 0;                                  /* it lives: it stays */
    if (pr->began == MP_NEVER) pr->began = now;
    if (pr->job && pr->job->profile) mp_profile_message(pr->job->profile, m, now);
    if (pr->at != AT_RUNNING) {
        if (pr->at == AT_UNKNOWN) pr->settled = now;
        pr->at = AT_RUNNING;
        if (overtook(c, pr)) survey_want(c, now);
        if (pr->job) job_running(c->pool, pr->job, now);
    }
    if ((m->kind == MP_MSG_PROGRESS || m->kind == MP_MSG_EXECUTING) && m->node.n && pr->streams) pr->speaker = mp_workflow_index(pr->w, m->node);
    switch (m->kind) {
    case MP_MSG_CACHED:
        free(pr->cached);
        pr->cached = m->nodes.n > 2 ? mp_strndup(m->nodes.p, m->nodes.n) : NULL;      /* more than [] */
        break;
    case MP_MSG_PROGRESS: if (pr->job) emit_progress(c, pr, m, now); break;
    case MP_MSG_EXECUTED: add_output(c, pr, m, now); break;
    case MP_MSG_SUCCESS: verdict(pr, MP_END_SUCCESS, m, now); break;
    case MP_MSG_ERROR: verdict(pr, MP_END_ERROR, m, now); break;
    case MP_MSG_INTERRUPTED: verdict(pr, MP_END_INTERRUPTED, m, now); break;
    case MP_MSG_EXECUTING: if (!m->node.p) prompt_left(pr, now); break;
    default: break;
    }
}

static void message(mp_client *c, const mp_msg *m, mp_time now) {
    prompt *pr = m->prompt_id.n ? prompt_by_id(c, m->prompt_id) : NULL;
    int rearm = pr && brings_nearer(c, pr, m);
    c->heard = now;
    c->status_due = MP_NEVER;
    emit_message(c, m, now);
    if (m->kind == MP_MSG_STATUS) {
        if (m->queue_remaining >= 0 && m->queue_remaining < c->queue_remaining) c->moved = now;   /* or somebody deleted: no proof of work */
        if (m->queue_remaining >= 0) c->queue_remaining = m->queue_remaining;
    } else if (m->kind == MP_MSG_PREVIEW) preview(c, pr, m, now);
    else if (pr) of_prompt(c, pr, m, now);
    if (rearm) client_rearm(c, now);
}

/* While a POST's reply is awaited from a server that may choose ids itself, messages of ids we do not know are kept. */
static int keep_early(mp_client *c, const mp_msg *m, int binary, mp_str frame, mp_time now) {
    if (!c->posting || c->posting->at != AT_POSTING || c->own_ids == 1 || !m->prompt_id.n || prompt_by_id(c, m->prompt_id)) return 0;
#if MP_MUTANT == 6
    return 0;
#endif
    if (c->n_early == EARLY_FRAMES) { c->posting->gap = 1; return 1; }
    if (!c->early) c->early = mp_alloc(EARLY_FRAMES * sizeof *c->early);
    c->early[c->n_early++] = (early_frame){ now, binary, mp_strndup(frame.p, frame.n), frame.n };
    return 1;
}

void early_clear(mp_client *c) {
    for (size_t i = 0; i < c->n_early; i++) free(c->early[i].p);
    c->n_early = 0;
}

void early_replay(mp_client *c, prompt *pr, mp_time now) {
    char id[MP_UUID_SIZE];
    memcpy(id, pr->id, sizeof id);
    for (size_t i = 0; i < c->n_early; i++) {
        early_frame *f = &c->early[i];
        mp_msg m;
        int rc = f->binary ? mp_decode_binary(mp_str_make(f->p, f->n), &m, NULL) : mp_decode_text(mp_str_make(f->p, f->n), &m, NULL);
        prompt *at = prompt_by_id(c, mp_str_of(id));
        if (rc == 0 && at && at->real && mp_str_is(m.prompt_id, at->real)) of_prompt(c, at, &m, f->t > now ? now : f->t);
    }
    early_clear(c);
}

void mp_pool_frame(mp_pool *p, mp_client *c, uint64_t conn, int binary, mp_str frame, mp_time now) {
    mp_msg m;
    mp_err e;
    if (conn != c->conn || c->removed) return;
    if ((binary ? mp_decode_binary(frame, &m, &e) : mp_decode_text(frame, &m, &e)) != 0) {
        complain(c, e.msg);
        return;
    }
    if (!keep_early(c, &m, binary, frame, now)) message(c, &m, now);
    dispatch(p, now);
}
