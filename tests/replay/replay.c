/* tests/replay/replay.c -- reads recorded traffic, decodes every frame and reply, and says what it concluded.
 *   replay FILE...            one line a file; exit 1 if anything is unexplained
 *   replay --profile FILE     the profiles of its jobs, a JSON array, in the order the jobs were posted */
#include "comfy/failure.h"
#include "prof/profile.h"
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    char *id, *client_id;
    mp_workflow *w;
    mp_profile *p;
    const char *end;                                 /* NULL: still open */
    int done, gone, success;                         /* gone: deleted, or nobody watched it to its end */
} job;

typedef struct { char name[8]; char sid[128]; } conn;

static job jobs[512];
static conn conns[32];
static int n_jobs, n_conns, frames, replies, bad, unknown, strangers, refused, broken_profile;
static const char *why;

static char *slurp(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    mp_buf b = { 0 };
    if (!f) { perror(path); exit(2); }
    for (size_t got; (got = fread(mp_buf_room(&b, 65536), 1, 65536, f)) > 0;) b.n += got;
    fclose(f);
    return mp_buf_take(&b, n);
}

static size_t unbase64(const char *z, char *out) {
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned v = 0;
    int bits = 0;
    size_t n = 0;
    for (; *z && *z != '='; z++) {
        const char *at = strchr(set, *z);
        if (!at) continue;
        v = v << 6 | (unsigned)(at - set);
        if ((bits += 6) >= 8) out[n++] = (char)(v >> (bits -= 8));
    }
    return n;
}

static job *find(mp_str id) {
    for (int i = n_jobs - 1; i >= 0; i--)
        if (mp_str_is(id, jobs[i].id)) return &jobs[i];
    return NULL;
}

static const char *field(const mp_json *line, const char *name) {
    const char *z = mp_json_string(mp_json_get(line, name));
    return z ? z : "";
}

static mp_time at(const mp_json *line, const char *name) { return (mp_time)(mp_json_number(mp_json_get(line, name), 0) * 1000); }

static char *write_json(const mp_json *j) {
    mp_buf b = { 0 };
    mp_json_write(&b, j);
    return mp_buf_take(&b, NULL);
}

/* First pass: every accepted prompt becomes a job. */
static void posted(const mp_json *line) {
    const char *path = field(line, "path");
    if (strcmp(field(line, "method"), "POST") != 0 || (strcmp(path, "/prompt") != 0 && strcmp(path, "/api/prompt") != 0)) return;
    const mp_json *reply = mp_json_get(line, "response_json");
    mp_json *own = NULL;
    const mp_json *request = mp_json_get(line, "request_json");
    const char *text = mp_json_string(mp_json_get(line, "request_text"));
    if (!request && text) request = own = mp_json_parse(text, strlen(text), NULL);
    char *body = write_json(reply), *id = NULL;
    mp_failure f = { 0 };
    int status = (int)mp_json_number(mp_json_get(line, "status"), 0);
    mp_failure_of_prompt_reply(status, mp_str_of(body), &f, &id);
    const mp_json *before = mp_json_get(request, "prompt_id");
    if (status == 500 && mp_json_string(before)) {       /* same id and number twice: 500, and it runs all the same */
        free(id);
        id = mp_strdup(mp_json_string(before));
    }
    if (id && !find(mp_str_of(id)) && n_jobs < 512) {
        char *prompt = write_json(mp_json_get(request, "prompt"));
        mp_err e = { 0 };
        job *j = &jobs[n_jobs];
        memset(j, 0, sizeof *j);
        j->w = mp_workflow_parse(prompt, strlen(prompt), &e);
        j->id = id;
        j->client_id = mp_strdup(mp_json_string(mp_json_get(request, "client_id")));
        id = NULL;
        n_jobs++;
        if (j->w) {
            mp_time sent = at(line, "t_sent_ms");
            j->p = mp_profile_new(j->w, sent, 64);
            mp_profile_attempt(j->p, j->w, "recorded", sent, sent);
            mp_profile_sent(j->p, sent);
            mp_profile_prompt(j->p, j->id);
        }
        free(prompt);
    } else if (f.kind) refused++;
    mp_failure_clear(&f);
    free(body);
    free(id);
    mp_json_free(own);
}

static void end_job(job *j, const char *how, mp_time now) {
    if (j->done) return;
    j->done = 1;
    if (!j->end) j->end = how;
    if (!j->p) return;
    mp_profile_end_attempt(j->p, strcmp(j->end, "success") == 0 ? "completed" : j->end, NULL, now);
    mp_profile_close(j->p, now);
}

static void message(const mp_msg *m, const conn *c, mp_time now) {
    if (m->kind == MP_MSG_OTHER) { unknown++; why = "unknown message type"; }
    if (!m->prompt_id.n) return;
    job *j = find(m->prompt_id);
    if (!j) { strangers++; return; }
    if (j->client_id && strcmp(j->client_id, c->sid) != 0) return;       /* somebody else's view of it */
    if (j->p) mp_profile_message(j->p, m, now);
    if (m->kind == MP_MSG_ERROR) j->end = "node_error";
    if (m->kind == MP_MSG_INTERRUPTED) j->end = "interrupted";
    if (m->kind == MP_MSG_SUCCESS) j->end = "success";
    if (m->kind != MP_MSG_EXECUTING || m->node.p) return;
    if (j->end) end_job(j, j->end, now);
    else j->gone = 1;                                /* left the executor without a verdict: only history can tell */
}

static void from_history(const mp_json *doc, mp_time now) {
    for (int i = 0; i < n_jobs; i++) {
        mp_history h;
        if (jobs[i].done || !mp_reply_history(doc, jobs[i].id, &h)) continue;
        if (jobs[i].p) mp_profile_history(jobs[i].p, &h, now);
        jobs[i].end = h.end == MP_END_SUCCESS ? "success" : h.end == MP_END_INTERRUPTED ? "interrupted" : "node_error";
        end_job(&jobs[i], jobs[i].end, now);
    }
}

static void http(const mp_json *line, mp_time now) {
    const char *path = field(line, "path");
    const mp_json *request = mp_json_get(line, "request_json"), *reply = mp_json_get(line, "response_json");
    const char *text = mp_json_string(mp_json_get(line, "response_text"));
    mp_json *own = NULL;
    replies++;
    if (!reply && text && strstr(field(line, "content_type"), "json")) {
        mp_err e = { 0 };
        if (!(own = mp_json_parse(text, strlen(text), &e))) { bad++; why = "a reply that is no JSON"; }
        reply = own;
    }
    if (strncmp(path, "/history", 8) == 0 || strncmp(path, "/api/history", 12) == 0) from_history(reply, now);
    if (strstr(path, "/queue") && request)
        for (int i = 0; i < n_jobs; i++) {
            int hit = mp_json_true(mp_json_get(request, "clear"));
            for (const mp_json *c = mp_json_first(mp_json_get(request, "delete")); c; c = mp_json_next(c))
                if (mp_json_string(c) && strcmp(mp_json_string(c), jobs[i].id) == 0) hit = 1;
            if (hit && !jobs[i].done) jobs[i].gone = 1;
        }
    mp_json_free(own);
}

static int watched(const job *j) {
    for (int i = 0; i < n_conns; i++)
        if (j->client_id && strcmp(conns[i].sid, j->client_id) == 0) return 1;
    return 0;
}

static conn *connection(const char *name) {
    for (int i = 0; i < n_conns; i++)
        if (strcmp(conns[i].name, name) == 0) return &conns[i];
    if (n_conns == 32) return NULL;
    snprintf(conns[n_conns].name, sizeof conns->name, "%s", name);
    return &conns[n_conns++];
}

static void websocket(const mp_json *line, mp_time now, char *scratch) {
    conn *c = connection(field(line, "conn"));
    const char *text = mp_json_string(mp_json_get(line, "text")), *binary = mp_json_string(mp_json_get(line, "binary_base64"));
    const char *event = field(line, "event"), *sid = strstr(field(line, "path"), "clientId=");
    mp_msg m;
    mp_err e;
    int rc = 0;
    if (!c) return;
    if (strcmp(event, "open") == 0 && sid) snprintf(c->sid, sizeof c->sid, "%s", sid + 9);
    if (strcmp(event, "close") == 0)                 /* whoever closed: nobody watches these jobs any more */
        for (int i = 0; i < n_jobs; i++)
            if (jobs[i].client_id && strcmp(jobs[i].client_id, c->sid) == 0) jobs[i].gone = 1;
    if (text) rc = mp_decode_text(mp_str_of(text), &m, &e);
    else if (binary) rc = mp_decode_binary(mp_str_make(scratch, unbase64(binary, scratch)), &m, &e);
    else return;
    frames++;
    if (rc) { bad++; why = "a malformed frame"; return; }
    if (m.sid.n) snprintf(c->sid, sizeof c->sid, "%.*s", (int)m.sid.n, m.sid.p);
    message(&m, c, now);
}

/* The sums of the schema must hold for every job: total = queue + execution, nodes add up, counts add up. */
static int sums_hold(const mp_profile *p) {
    mp_buf b = { 0 };
    mp_profile_json(&b, p, 0);
    mp_json *j = mp_json_parse(b.p, b.n, NULL);
    const mp_json *s = mp_json_get(j, "summary");
    double sum = 0;
#define N(obj, name) mp_json_number(mp_json_get(obj, name), 0)
    for (const mp_json *n = mp_json_first(mp_json_get(j, "nodes")); n; n = mp_json_next(n)) sum += N(n, "duration");
    double total = N(j, "totalDuration") - N(j, "queueTime") - N(j, "executionTime");
    double parts = N(j, "queueTime") - N(j, "poolQueueTime") - N(j, "uploadTime") - N(j, "serverQueueTime") - N(j, "retryTime");
    double nodes = sum - N(j, "executionTime") + N(j, "gapTime") - N(j, "overlapTime");
    double count = N(s, "totalNodes") - N(s, "executedNodes") - N(s, "cachedNodes") - N(s, "failedNodes") - N(s, "pendingNodes");
    int ok = j && total * total < 1e-6 && parts * parts < 1e-6 && nodes * nodes < 1e-6 && count == 0 && N(j, "gapTime") >= 0;
    mp_json_free(j);
    mp_buf_free(&b);
    return ok;
}

static void clear(void) {
    for (int i = 0; i < n_jobs; i++) {
        mp_profile_free(jobs[i].p);
        mp_workflow_unref(jobs[i].w);
        free(jobs[i].id);
        free(jobs[i].client_id);
    }
    memset(conns, 0, sizeof conns);
    n_jobs = n_conns = frames = replies = bad = unknown = strangers = refused = broken_profile = 0;
    why = NULL;
}

static int replay(const char *path, int profiles) {
    size_t n;
    char *text = slurp(path, &n), *scratch = mp_alloc(n + 1);
    int failed;
    clear();
    for (int pass = 0; pass < 2; pass++)
        for (char *p = text, *nl; p < text + n; p = nl + 1) {
            mp_err e = { 0 };
            if (!(nl = strchr(p, '\n'))) nl = text + n;
            mp_json *line = mp_json_parse(p, (size_t)(nl - p), &e);
            if (!line) { if (pass && nl > p) { bad++; why = "a line that is no JSON"; } continue; }
            int is_http = strcmp(field(line, "dir"), "http") == 0;
            mp_time now = at(line, "t_ms");
            if (!pass && is_http) posted(line);
            if (pass && is_http) http(line, now);
            if (pass && strcmp(field(line, "dir"), "ws") == 0) websocket(line, now, scratch);
            mp_json_free(line);
        }
    int ok = 0, error = 0, stopped = 0, gone = 0, open = 0;
    size_t executed = 0, cached = 0, nfailed = 0;
    for (int i = 0; i < n_jobs; i++) {
        job *j = &jobs[i];
        if (!j->done && (j->gone || !watched(j))) gone++;
        else if (!j->done) { open++; why = "a job without an end"; }
        else if (strcmp(j->end, "success") == 0) ok++;
        else if (strcmp(j->end, "interrupted") == 0) stopped++;
        else error++;
        if (!j->p) continue;
        if (!j->done) { mp_profile_end_attempt(j->p, "lost", NULL, mp_profile_started(j->p) == MP_NEVER ? 0 : mp_profile_started(j->p)); mp_profile_close(j->p, 0); continue; }
        if (!sums_hold(j->p)) { broken_profile++; why = "a profile that does not add up"; }
        mp_buf b = { 0 };
        mp_profile_json(&b, j->p, 0);
        mp_json *doc = mp_json_parse(b.p, b.n, NULL);
        const mp_json *s = mp_json_get(doc, "summary");
        executed += (size_t)N(s, "executedNodes");
        cached += (size_t)N(s, "cachedNodes");
        nfailed += (size_t)N(s, "failedNodes");
        mp_json_free(doc);
        mp_buf_free(&b);
    }
    failed = bad || unknown || open || broken_profile;
    if (profiles) {
        mp_buf b = { 0 };
        int any = 0;
        for (int i = 0; i < n_jobs; i++) {
            if (!jobs[i].p || !jobs[i].done) continue;
            mp_buf_puts(&b, any++ ? ",\n" : "[");
            mp_profile_json(&b, jobs[i].p, 0);
        }
        mp_buf_puts(&b, any ? "]\n" : "[]\n");
        fwrite(b.p, 1, b.n, stdout);
        mp_buf_free(&b);
    } else {
        const char *slash = strrchr(path, '/');
        printf("%s %-28s jobs %2d: %d ok %d failed %d interrupted %d gone, %d refused; nodes %zu run %zu cached %zu failed; frames %d replies %d malformed %d unknown %d foreign %d%s%s\n",
               failed ? "FAIL" : "ok  ", slash ? slash + 1 : path, n_jobs, ok, error, stopped, gone, refused, executed, cached, nfailed, frames, replies, bad, unknown, strangers,
               failed ? ": " : "", failed ? why : "");
    }
    free(text);
    free(scratch);
    return failed;
}

int main(int argc, char **argv) {
    int failed = 0, profiles = argc > 2 && strcmp(argv[1], "--profile") == 0;
    if (argc < 2) { fputs("usage: replay [--profile] FILE...\n", stderr); return 2; }
    for (int i = 1 + profiles; i < argc; i++) failed += replay(argv[i], profiles);
    clear();
    if (!profiles) printf("%d files, %d with something unexplained\n", argc - 1, failed);
    return failed != 0;
}
