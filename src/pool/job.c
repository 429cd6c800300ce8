/* pool/job.c -- floor 5, pool: the job's record, and the only place where its state changes.
 *
 *   pending -> assigned -> running -> completed | failed | canceled
 * Back to pending by job_requeue only (a retry, or the prompt was lost). An ended job never changes again. */
#include "pool/inside.h"
#include <stdlib.h>

void mp_job_defaults(mp_job_opts *o) {
    memset(o, 0, sizeof *o);
    o->profiling = -1;
    o->retry_delay = -1;
}

/* ---- ids: low half a slot, high half its generation, so that a stale id finds nothing ----------------- */

static void slot_take(mp_pool *p, mp_job *j) {
    if (!p->n_free) {
        p->slots = mp_grow(p->slots, p->n_slots, &p->cap_slots, sizeof *p->slots);
        p->generations = mp_grow(p->generations, p->n_slots, &p->cap_gen, sizeof *p->generations);
        p->generations[p->n_slots] = 0;
        p->free_slots = mp_grow(p->free_slots, p->n_free, &p->cap_free, sizeof *p->free_slots);
        p->free_slots[p->n_free++] = (uint32_t)p->n_slots++;
    }
    uint32_t s = p->free_slots[--p->n_free];
    p->slots[s] = j;
    j->id = (uint64_t)++p->generations[s] << 32 | s;
}

mp_job *mp_pool_job(const mp_pool *p, uint64_t id) {
    uint32_t s = (uint32_t)id;
    return s < p->n_slots && p->slots[s] && p->slots[s]->id == id ? p->slots[s] : NULL;
}

struct tail *job_tail(mp_pool *p, mp_job *j) {
    if (!j->tail) j->tail = mp_slab_take(&p->tails);
    return j->tail;
}

void job_failed_by(mp_pool *p, mp_job *j, const mp_failure *f) {
    struct tail *t = job_tail(p, j);
    if (!f) {
        mp_failure_free(t->failure);
        t->failure = NULL;
        return;
    }
    if (!t->failure) t->failure = mp_alloc(sizeof *t->failure);
    mp_failure_copy(t->failure, f);
}

void outputs_free(output *v, size_t n) {
    for (size_t i = 0; i < n; i++) free(v[i].node);
    free(v);
}

void pictures_free(picture *v, size_t n) {
    for (size_t i = 0; i < n; i++) {
        free(v[i].node);
        free(v[i].bytes);
    }
    free(v);
}

static char **copy_names(const char *const *list) {
    size_t n = 0;
    while (list && list[n]) n++;
    if (!n) return NULL;
    char **v = mp_alloc((n + 1) * sizeof *v);
    for (size_t i = 0; i < n; i++) v[i] = mp_strdup(list[i]);
    return v;
}

static void free_names(char **v) {
    for (size_t i = 0; v && v[i]; i++) free(v[i]);
    free(v);
}

/* What few jobs have: only when one of these options is given. */
static void wishes_of(mp_pool *p, mp_job *j, const mp_job_opts *o) {
    mp_time total = MP_MUTANT == 27 ? MP_NEVER : o->total ? o->total : p->o.total ? p->o.total : MP_NEVER;
    if (!o->id && !o->include && !o->prefer && !o->exclude && !o->overrides && !o->n_variants && !o->execution_start && o->retry_delay < 0 && !o->node_silence &&
        !o->unreachable && !o->no_client && !o->request_timeout && total == MP_NEVER) return;
    struct wishes *x = j->wishes = mp_alloc(sizeof *x);
    x->job = j;
    x->include = mp_strdup(o->include);
    x->prefer = copy_names(o->prefer);
    x->exclude = copy_names(o->exclude);
    x->execution_start = o->execution_start;
    x->retry_delay = o->retry_delay;
    x->node_silence = o->node_silence;
    x->unreachable = o->unreachable;
    x->no_client = o->no_client;
    x->request_timeout = o->request_timeout;
    if (x->no_client && x->no_client < p->least_no_client) p->least_no_client = x->no_client;
    x->deadline = total == MP_NEVER ? MP_NEVER : j->queued + total;
    x->deadline_at = MP_HEAP_OUT;
    while (o->overrides && o->overrides[x->n_overrides]) x->n_overrides++;
    x->overrides = mp_alloc(x->n_overrides * sizeof *x->overrides + 1);
    for (size_t i = 0; i < x->n_overrides; i++) x->overrides[i] = (priority_for){ mp_strdup(o->overrides[i]), o->override_values[i] };
    x->n_variants = o->n_variants;
    x->variants = mp_alloc(x->n_variants * sizeof *x->variants + 1);
    for (size_t i = 0; i < x->n_variants; i++) x->variants[i] = (variant){ mp_workflow_ref(o->variants[i]), shape_of(p, mp_workflow_hash(o->variants[i])) };
    x->name = mp_strdup(o->id);
    if (x->name) HASH_ADD_KEYPTR(hh, p->named, x->name, strlen(x->name), x);
}

static void wishes_free(mp_pool *p, struct wishes *x) {
    if (!x) return;
    if (x->name) HASH_DEL(p->named, x);
    for (size_t i = 0; i < x->n_overrides; i++) free(x->overrides[i].client);
    for (size_t i = 0; i < x->n_variants; i++) {
        mp_workflow_unref(x->variants[i].w);
        shape_unref(p, x->variants[i].s);
    }
    free_names(x->prefer);
    free_names(x->exclude);
    free(x->overrides);
    free(x->variants);
    free(x->include);
    free(x->name);
    free(x);
}

mp_job *mp_pool_job_named(const mp_pool *p, const char *id) {
    struct wishes *x;
    HASH_FIND_STR(p->named, id, x);
    return x ? x->job : NULL;
}

static void job_free(mp_pool *p, mp_job *j) {
    uint32_t s = (uint32_t)j->id;
    p->slots[s] = NULL;
    p->free_slots = mp_grow(p->free_slots, p->n_free, &p->cap_free, sizeof *p->free_slots);
    p->free_slots[p->n_free++] = s;
    struct tail *t = j->tail;
    if (t) {
        for (size_t i = 0; i < t->n_seeds; i++) {
            free(t->seeds[i].node);
            free(t->seeds[i].input);
        }
        mp_workflow_unref(t->sent);
        mp_failure_free(t->failure);
        outputs_free(t->outputs, t->n_outputs);
        pictures_free(t->pictures, t->n_pictures);
        free(t->real);
        called_unref(t->where);
        free(t->seeds);
        free(t->avoid);
        mp_slab_give(&p->tails, t);
    }
    mp_profile_free(j->profile);
    wishes_free(p, j->wishes);
    shape_unref(p, j->s);
    mp_workflow_unref(j->w);
    free(j->metadata);
    free(j->extra_data);
    mp_slab_give(&p->jobs, j);
}

void job_free_all(mp_pool *p) {
    for (size_t i = 0; i < p->n_slots; i++)
        if (p->slots[i]) job_free(p, p->slots[i]);
    free(p->slots);
    free(p->generations);
    free(p->free_slots);
}

mp_time request_bound(const mp_pool *p, const mp_job *j) { return j && j->wishes && j->wishes->request_timeout ? j->wishes->request_timeout : p->o.request_timeout; }

/* ---- submit ------------------------------------------------------------------------------------------- */

static int refused_by_policy(mp_pool *p, mp_job *j, mp_err *e) {
    char why[300] = "";
    double rank;
    int no = 0;
    p->locked++;
    if (p->policy && p->policy->admit && !p->policy->admit(p->policy->ud, p, j, why, sizeof why))
        no = mp_fail(e, MP_EPOLICY, "refused by the policy%s%s", *why ? ": " : "", why);
    else if (p->policy && p->policy->rank && p->policy->rank(p->policy->ud, p, j, &rank)) j->rank = rank;
    p->locked--;
    return no;
}

mp_job *mp_pool_submit(mp_pool *p, mp_workflow *w, const mp_job_opts *o, mp_time now, mp_err *e) {
    size_t waiting = p->stats.pending + p->stats.assigned + p->stats.running;
    if (p->locked) return mp_fail(e, MP_EBUSY, "a policy runs: nothing may be submitted from inside it"), NULL;
    if (p->closing) return mp_fail(e, MP_EGONE, "the pool is shutting down"), NULL;
    mp_job *same = o->id ? mp_pool_job_named(p, o->id) : NULL;
    if (same) return same;
    if (waiting >= p->o.max_queued && MP_MUTANT != 20) return mp_fail(e, MP_EFULL, "the pool holds %zu unfinished jobs, its limit (max_queued)", waiting), NULL;
    mp_job *j = mp_slab_take(&p->jobs);
    j->w = mp_workflow_ref(w);
    j->priority = j->rank = o->priority;
    j->s = shape_of(p, mp_workflow_hash(w));
    j->queued = now;
    j->ready = now + o->delay;
    j->seq = ++p->next_seq;
    j->max_attempts = (uint16_t)(o->max_attempts ? o->max_attempts : p->o.max_attempts);
    j->profiling = o->profiling < 0 ? p->o.profiling != 0 : o->profiling != 0;
    j->partial = o->partial_outputs != 0;
    j->front = o->front != 0;
    j->metadata = mp_strdup(o->metadata);
    j->extra_data = mp_strdup(o->extra_data);
    j->heap_at = MP_HEAP_OUT;
    slot_take(p, j);
    wishes_of(p, j, o);
    if (refused_by_policy(p, j, e)) {
        job_free(p, j);
        return NULL;
    }
    if (j->wishes && j->wishes->deadline != MP_NEVER) mp_heap_push(&p->deadlines, j->wishes, j->wishes->deadline, j->seq);
    p->stats.pending++;
    if (wanted(p, MP_EV_JOB_QUEUED)) event(p, MP_EV_JOB_QUEUED, j, NULL, now);
    if (o->delay > 0 && MP_MUTANT != 18) queue_delay(p, j, j->ready);
    else queue_push(p, j, now);
    dispatch(p, now);
    return j;
}

/* ---- states ------------------------------------------------------------------------------------------- */

static size_t *counter(mp_pool *p, mp_job_state s) {
    switch (s) {
    case MP_JOB_ASSIGNED: return &p->stats.assigned;
    case MP_JOB_RUNNING: return &p->stats.running;
    case MP_JOB_COMPLETED: return &p->stats.completed;
    case MP_JOB_FAILED: return &p->stats.failed;
    case MP_JOB_CANCELED: return &p->stats.canceled;
    default: return &p->stats.pending;
    }
}

static void become(mp_pool *p, mp_job *j, mp_job_state s) {
    --*counter(p, j->state);
    ++*counter(p, s);
    j->state = (uint8_t)s;
}

void job_assigned(mp_pool *p, mp_job *j, prompt *pr, mp_time now) {
    struct tail *t = job_tail(p, j);
    become(p, j, MP_JOB_ASSIGNED);
    j->prompt = pr;
    mp_workflow_unref(t->sent);
    t->sent = mp_workflow_ref(pr->w);
    memcpy(t->id, pr->id, sizeof t->id);
    free(t->real);
    t->real = NULL;
    if (t->where != pr->client->called) {
        called_unref(t->where);
        t->where = pr->client->called;
        t->where->refs++;
    }
    if (!j->profiling) return;
    mp_workflow *w = j->w;
    for (size_t i = 0; j->wishes && i < j->wishes->n_variants; i++)
        if (j->wishes->variants[i].s == pr->s) w = j->wishes->variants[i].w;
    if (!j->profile) j->profile = mp_profile_new(w, j->queued, p->o.progress_limit);
    else mp_profile_rebase(j->profile, w);
    mp_profile_attempt(j->profile, pr->w, pr->client->name, j->ready, now);
    mp_profile_prompt(j->profile, pr->id);
}

void job_posted(mp_pool *p, mp_job *j, prompt *pr, mp_time now) {
    struct tail *t = job_tail(p, j);
    (void)p;
    if (t->sent != pr->w) {                          /* its inputs have got the names of uploaded files */
        mp_workflow_unref(t->sent);
        t->sent = mp_workflow_ref(pr->w);
    }
    if (j->profile) mp_profile_sent(j->profile, now);
}

/* Once per prompt, by whatever proves it first: the reply, or a message that was faster. */
void job_accepted(mp_pool *p, mp_job *j, mp_time now) {
    prompt *pr = j->prompt;
    const char *id = pr->real ? pr->real : pr->id;
    if (pr->accepted) return;
    pr->accepted = 1;
    if (wanted(p, MP_EV_JOB_ACCEPTED)) event_data(event(p, MP_EV_JOB_ACCEPTED, j, pr->client, now), id, strlen(id));
}

void job_running(mp_pool *p, mp_job *j, mp_time now) {
    if (j->state != MP_JOB_ASSIGNED) return;
    job_accepted(p, j, now);
    become(p, j, MP_JOB_RUNNING);
    if (wanted(p, MP_EV_JOB_STARTED)) event(p, MP_EV_JOB_STARTED, j, j->prompt->client, now);
}

void job_requeue(mp_pool *p, mp_job *j, mp_time delay, mp_time now) {
    become(p, j, MP_JOB_PENDING);
    j->prompt = NULL;
    j->ready = now + delay;
    if (j->profile) mp_profile_wait(j->profile, j->ready);
    if (delay > 0) queue_delay(p, j, j->ready);
    else queue_push(p, j, now);
    p->dirty = 1;
}

void list_add(job_list *l, mp_job *j) {
    j->before = l->last;
    j->next = NULL;
    if (l->last) l->last->next = j;
    else l->first = j;
    l->last = j;
    l->n++;
}

void list_remove(job_list *l, mp_job *j) {
    if (j->before) j->before->next = j->next;
    else l->first = j->next;
    if (j->next) j->next->before = j->before;
    else l->last = j->before;
    l->n--;
}

/* Drops the oldest records over the limits. A pinned one steps back to the end of its line, so that it cannot keep
 * those behind it; a few are looked at per call. */
static void evict_from(mp_pool *p, job_list *l, size_t keep) {
    for (int looked = 0; l->n > keep && looked < 4; looked++) {
        mp_job *j = l->first;
        list_remove(l, j);
        if (j->pins) list_add(l, j);
        else job_free(p, j);
    }
}

static void evict(mp_pool *p) {
    if (p->o.completed_retention) evict_from(p, &p->delivered, p->o.completed_retention);
    if (p->undelivered.n > p->o.max_queued) evict_from(p, &p->undelivered, p->o.max_queued);
}

void job_end(mp_pool *p, mp_job *j, mp_job_state s, const mp_failure *f, mp_time now) {
    prompt *pr = j->prompt;
    mp_client *c = pr ? pr->client : NULL;
    if (j->heap_at != MP_HEAP_OUT || j->parked) queue_remove(p, j);
    if (j->wishes && j->wishes->deadline_at != MP_HEAP_OUT) mp_heap_remove(&p->deadlines, j->wishes);
    become(p, j, s);
    j->prompt = NULL;
    if (f) job_failed_by(p, j, f);
    if (j->profiling) {
        if (!j->profile) j->profile = mp_profile_new(j->w, j->queued, p->o.progress_limit);
        const char *outcome = s == MP_JOB_COMPLETED || !f ? "completed" : s == MP_JOB_CANCELED ? "canceled" : mp_failure_name(f->kind);
        mp_profile_end_attempt(j->profile, outcome, f ? f->message : NULL, now);
        mp_profile_close(j->profile, now);
    }
    mp_event *e = event(p, s == MP_JOB_COMPLETED ? MP_EV_JOB_COMPLETED : s == MP_JOB_FAILED ? MP_EV_JOB_FAILED : MP_EV_JOB_CANCELED, j, c, now);
    if (f && f->message) event_data(e, f->message, strlen(f->message));
    list_add(&p->undelivered, j);
    evict(p);
    p->dirty = 1;
}

/* ---- cancel -------------------------------------------------------------------------------------------- */

int mp_pool_set_priority(mp_pool *p, mp_job *j, double priority, mp_time now) {
    double rank = priority;
    if (p->locked) return MP_EBUSY;
    if (j->state != MP_JOB_PENDING) return MP_EGONE;
    j->priority = priority;
    p->locked++;
    if (!p->policy || !p->policy->rank || !p->policy->rank(p->policy->ud, p, j, &rank)) rank = priority;
    p->locked--;
    if (j->group) queue_rerank(p, j, rank, now);
    else j->rank = rank;
    dispatch(p, now);
    return 0;
}

int mp_pool_cancel(mp_pool *p, mp_job *j, mp_time now) {
    if (p->locked) return MP_EBUSY;
    if (mp_job_ended(j)) return MP_EGONE;
    mp_failure f = { 0 };
    mp_failure_set(&f, MP_FAIL_CANCELED, "canceled");
    prompt *pr = j->prompt;
    job_end(p, j, MP_JOB_CANCELED, &f, now);
    if (pr) prompt_kill(pr, now);
    mp_failure_clear(&f);
    dispatch(p, now);
    return 0;
}

/* ---- reading ------------------------------------------------------------------------------------------- */

void mp_job_pin(mp_job *j) { j->pins++; }
void mp_job_unpin(mp_pool *p, mp_job *j) { j->pins--; evict(p); }

void mp_job_delivered(mp_pool *p, mp_job *j) {
    if (j->delivered || !mp_job_ended(j)) return;
    j->delivered = 1;
    list_remove(&p->undelivered, j);
    list_add(&p->delivered, j);
    evict(p);
}

mp_job *mp_pool_undelivered(mp_pool *p) { return p->undelivered.first; }

uint64_t mp_job_id(const mp_job *j) { return j->id; }
const char *mp_job_name(const mp_job *j) { return j->wishes ? j->wishes->name : NULL; }
const char *mp_job_include(const mp_job *j) { return j->wishes ? j->wishes->include : NULL; }
int mp_job_output_cached(const mp_job *j, size_t i) { return j->tail->outputs[i].cached; }

mp_job_state mp_job_status(const mp_job *j) {
    return j->state == MP_JOB_PENDING && j->group && j->group->nobody_since != MP_NEVER ? MP_JOB_NO_CLIENTS : (mp_job_state)j->state;
}

int mp_job_in_line(const mp_job *j) { return j->group != NULL; }
int mp_job_ended(const mp_job *j) { return j->state == MP_JOB_COMPLETED || j->state == MP_JOB_FAILED || j->state == MP_JOB_CANCELED; }

const char *mp_job_status_name(mp_job_state s) {
    static const char *const names[] = { "pending", "assigned", "running", "completed", "failed", "canceled", "no_clients" };
    return names[s];
}

mp_workflow *mp_job_workflow(const mp_job *j) { return j->w; }
mp_workflow *mp_job_sent(const mp_job *j) { return j->tail ? j->tail->sent : NULL; }
double mp_job_priority(const mp_job *j) { return j->priority; }
const char *mp_job_metadata(const mp_job *j) { return j->metadata; }
int mp_job_attempts(const mp_job *j) { return j->attempts; }
mp_time mp_job_queued(const mp_job *j) { return j->queued; }
const char *mp_job_prompt_id(const mp_job *j) { return !j->tail || !j->tail->where ? NULL : j->tail->real ? j->tail->real : j->tail->id; }
const char *mp_job_client(const mp_job *j) { return j->tail && j->tail->where ? j->tail->where->name : NULL; }
const char *mp_job_client_url(const mp_job *j) { return j->tail && j->tail->where ? j->tail->where->url : NULL; }
const mp_failure *mp_job_failure(const mp_job *j) { return j->tail ? j->tail->failure : NULL; }
mp_profile *mp_job_profile(const mp_job *j) { return j->profile; }
size_t mp_job_outputs(const mp_job *j) { return j->tail ? j->tail->n_outputs : 0; }

void mp_job_output(const mp_job *j, size_t i, const char **node, const char **json) {
    *node = j->tail->outputs[i].node;
    *json = j->tail->outputs[i].json;
}

size_t mp_job_pictures(const mp_job *j) { return j->tail ? j->tail->n_pictures : 0; }

mp_str mp_job_picture(const mp_job *j, size_t i, const char **node) {
    *node = j->tail->pictures[i].node;
    return mp_str_make(j->tail->pictures[i].bytes, j->tail->pictures[i].n);
}

size_t mp_job_seeds(const mp_job *j) { return j->tail ? j->tail->n_seeds : 0; }

void mp_job_seed(const mp_job *j, size_t i, const char **node, const char **input, uint64_t *value) {
    const seed *s = &j->tail->seeds[i];
    *node = s->node;
    *input = s->input;
    *value = s->value;
}

/* ---- how far it is --------------------------------------------------------------------------------------- */

int mp_job_left(const mp_job *j, mp_time now, mp_time *left, mp_time *low, mp_time *high) {
    const prompt *pr = j->prompt;
    if (!pr || !j->profile) return 0;
    if (mp_forecast_left(pr->s->forecast, j->profile, now, left, low, high)) return 1;
    mp_time total = mp_forecast_total(pr->s->forecast);
    if (!total || j->state != MP_JOB_ASSIGNED) return 0;
    *left = *low = *high = 0;
    for (const prompt *q = pr->client->prompts; q && q != pr; q = q->next) {     /* it waits there behind others */
        mp_time t = mp_client_typical(q->client, q->s->hash), ran = q->began != MP_NEVER ? now - q->began : 0;
        *left += t > ran ? t - ran : 0;
    }
    *left += total;
    *low = *left - *left / 4;
    *high = *left + *left / 2;
    return 1;
}

static double progress_of(const mp_job *j, mp_time now) {
    mp_time left, low, high;
    if (!mp_forecast_left(j->prompt->s->forecast, j->profile, now, &left, &low, &high)) return mp_profile_overall(j->profile);
    double ran = (double)(now - mp_profile_started(j->profile));
    return ran + (double)left > 0 ? ran / (ran + (double)left) : 0;
}

/* Never goes back within an attempt: what is learnt on the way may only slow it down. */
double mp_job_progress(const mp_job *j, mp_time now) {
    if (j->state == MP_JOB_COMPLETED) return 1;
    if (!j->profile || !j->prompt || mp_profile_started(j->profile) == MP_NEVER) return 0;
    double v = progress_of(j, now);
    if (v > j->prompt->shown) j->prompt->shown = v < 1 ? v : 1;
    return j->prompt->shown;
}
