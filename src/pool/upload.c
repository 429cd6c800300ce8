/* pool/upload.c -- floor 5, pool: the files that a prompt needs go first, each once per client and content. What the
 * server calls them is what the prompt then says (protocol 2.9). */
#include "pool/inside.h"
#include <stdlib.h>

static stored *find(const mp_client *c, const char *key) {
    stored *u;
    HASH_FIND_STR(c->stored, key, u);
    return u;
}

static void drop(mp_client *c, stored *u) {
    HASH_DEL(c->stored, u);
    free(u->name);
    free(u);
}

void upload_forget(mp_client *c, int only_temp) {
    stored *u, *next;
    HASH_ITER(hh, c->stored, u, next)
        if (!only_temp || u->temp) drop(c, u);
}

/* The first file that this client does not hold; NULL: all are there. */
static mp_file *missing(const prompt *pr) {
    long node;
    const char *input;
    for (size_t i = 0; i < mp_workflow_attachments(pr->w); i++) {
        mp_file *f = mp_workflow_attachment(pr->w, i, &node, &input);
#if MP_MUTANT == 23
        if (i >= pr->uploaded) return f;
        continue;
#endif
        if (!find(pr->client, f->key)) return f;
    }
    return NULL;
}

size_t upload_reused(const prompt *pr) {
    long node;
    const char *input;
    size_t n = 0;
    for (size_t i = 0; i < mp_workflow_attachments(pr->w); i++) n += find(pr->client, mp_workflow_attachment(pr->w, i, &node, &input)->key) != NULL;
    return n;
}

/* Whether a file is attached to that node. */
int upload_feeds(const prompt *pr, const char *id) {
    long node;
    const char *input;
    for (size_t i = 0; i < mp_workflow_attachments(pr->w); i++) {
        mp_workflow_attachment(pr->w, i, &node, &input);
        if (node >= 0 && strcmp(mp_workflow_node(pr->w, (size_t)node)->id, id) == 0) return 1;
    }
    return 0;
}

/* Another prompt of ours there still needs the file that this one would replace. */
static int in_use(const prompt *pr, const mp_file *f) {
    long node;
    const char *input;
    for (const prompt *o = pr->client->prompts; f->overwrite && o; o = o->next)
        for (size_t i = 0; o != pr && o->job && i < mp_workflow_attachments(o->w); i++) {
            const mp_file *g = mp_workflow_attachment(o->w, i, &node, &input);
            if (strcmp(g->name, f->name) == 0 && strcmp(g->subfolder, f->subfolder) == 0 && strcmp(g->key, f->key) != 0) return 1;
        }
    return 0;
}

/* The inputs get the names under which the server keeps the files. */
static void name_inputs(prompt *pr) {
    long node;
    const char *input;
    pr->w = mp_workflow_own(pr->w);
    for (size_t i = 0; i < mp_workflow_attachments(pr->w); i++) {
        mp_file *f = mp_workflow_attachment(pr->w, i, &node, &input);
        mp_buf text = { 0 };
        if (node < 0) continue;
        mp_buf_json(&text, mp_str_of(MP_MUTANT == 24 ? f->name : find(pr->client, f->key)->name));
        mp_workflow_set(pr->w, mp_str_of(mp_workflow_node(pr->w, (size_t)node)->id), mp_str_of(input), mp_buf_view(&text), NULL);
        mp_buf_free(&text);
    }
}

/* 1: nothing is missing, the prompt may be posted. */
int upload_next(prompt *pr, mp_time now) {
    mp_client *c = pr->client;
    mp_file *f = missing(pr);
    if (!f) {
        if (mp_workflow_attachments(pr->w)) name_inputs(pr);
        return 1;
    }
    if ((pr->held = in_use(pr, f))) return 0;        /* until that one is gone: dispatch looks again */
    mp_buf path = { 0 };
    mp_buf_puts(&path, f->mask_of ? "/upload/mask" : "/upload/image");
    if (pr->job && pr->job->profile) mp_profile_upload(pr->job->profile, now);
    mp_time bound = 10 * request_bound(c->pool, pr->job) + (mp_time)f->n * 16;        /* 64 KB a second is slow */
    act(c->pool, c, DO_UPLOAD, pr->id, "POST", &path, NULL, bound);
    mp_action *a = &c->pool->actions[c->pool->a_head + c->pool->a_n - 1];
    action_under_way(c->pool, a->id)->file = mp_file_ref(f);                        /* one for the owner of the action, one for us to know what it was */
    a->file = mp_file_ref(f);
    pr->uploaded++;
    return 0;
}

/* "subfolder/name", or NULL when the reply names nothing. */
static char *name_given(const mp_result *r) {
    mp_json *doc = r->code == 0 && r->status == 200 ? mp_json_parse(r->body.p, r->body.n, NULL) : NULL;
    const char *name = mp_json_string(mp_json_get(doc, "name")), *sub = mp_json_string(mp_json_get(doc, "subfolder"));
    char *whole = name && *name ? mp_format("%s%s%s", sub ? sub : "", sub && *sub ? "/" : "", name) : NULL;
    mp_json_free(doc);
    return whole;
}

void uploaded(mp_client *c, const char *id, mp_file *f, const mp_result *r, mp_time now) {
    prompt *pr = prompt_by_id(c, mp_str_of(id));
    char *name = name_given(r);
    if (name && !find(c, f->key)) {
        stored *u = mp_alloc(sizeof *u);
        if (HASH_COUNT(c->stored) >= STORED_FILES) drop(c, c->stored);         /* the oldest; it would only be sent again */
        memcpy(u->key, f->key, sizeof u->key);
        u->temp = strcmp(f->type, "temp") == 0;
        u->name = strcmp(f->type, "input") == 0 ? mp_strdup(name) : mp_format("%s [%s]", name, f->type);
        for (stored *o = c->stored, *next; f->overwrite && o; o = next) {        /* what it replaced is no longer there */
            next = o->hh.next;
            if (strcmp(o->name, u->name) == 0) drop(c, o);
        }
        HASH_ADD_STR(c->stored, key, u);
    }
    if (pr && !pr->job) prompt_gone(pr);             /* canceled meanwhile; nothing of it is on the server */
    else if (pr && name && upload_next(pr, now)) post(pr, now);
    else if (pr && !name) {
        mp_failure why = { 0 };
        if (r->code == MP_EIO) mp_failure_set(&why, MP_FAIL_INVALID, "%s", r->message ? r->message : "an attached file cannot be read");
        else if (r->code) mp_failure_set(&why, MP_FAIL_CONNECTION, "%s: the upload of %s failed: %s", c->name, f->name, r->message ? r->message : "the connection broke");
        else mp_failure_set(&why, MP_FAIL_SERVER, "%s: the upload of %s was answered with status %d", c->name, f->name, r->status);
        attempt_failed(c->pool, pr->job, c, &why, now);
        prompt_gone(pr);
        mp_failure_clear(&why);
        if (r->code && r->code != MP_EIO) link_reset(c, r->message ? r->message : "an upload failed", now);
    }
    free(name);
    client_touch(c);
    client_rearm(c, now);
}
