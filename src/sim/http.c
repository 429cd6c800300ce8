/* sim/http.c -- floor 5, sim: the routes of a ComfyUI server (protocol section 2). Every route exists twice, plain
 * and under /api; malformed JSON is 500, an unknown id in the history is {} with 200, errors are plain text. */
#include "sim/inside.h"
#include <stdlib.h>
#include <strings.h>

#define JSON "application/json; charset=utf-8"
#define TEXT "text/plain; charset=utf-8"
#define NOTHING "application/octet-stream"

static void json(mp_sim *s, uint64_t tag, int status, mp_buf *b) {
    reply(s, tag, status, JSON, b->p ? b->p : "", b->n);
    mp_buf_free(b);
}

void trouble(mp_sim *s, uint64_t tag) {
    static const char words[] = "500 Internal Server Error\n\nServer got itself in trouble";
    reply(s, tag, 500, TEXT, words, sizeof words - 1);
}

static void empty(mp_sim *s, uint64_t tag, int status) { reply(s, tag, status, NOTHING, "", 0); }

/* ---- /prompt ------------------------------------------------------------------------------------------------ */

static void no_prompt(mp_sim *s, uint64_t tag) {
    mp_buf b = { 0 };
    if (s->v->empty_object)
        mp_buf_puts(&b, "{\"error\": {\"type\": \"no_prompt\", \"message\": \"No prompt provided\", \"details\": \"No prompt provided\", \"extra_info\": {}}, \"node_errors\": {}}");
    else mp_buf_puts(&b, "{\"error\": \"no prompt\", \"node_errors\": []}");
    json(s, tag, 400, &b);
}

/* Python's float() over what JSON gives; 0: it would raise. */
static int to_float(const mp_json *v, double *out) {
    const char *z = mp_json_string(v);
    char *end;
    if (mp_json_type(v) == MP_JSON_NUMBER) { *out = mp_json_number(v, 0); return 1; }
    if (!z) return 0;
    *out = strtod(z, &end);
    return end != z && !*end;
}

/* What only older servers answer with 400: an empty list, and a node that is a text. 1: answered. */
static int shape_old(mp_sim *s, const mp_json *prompt, uint64_t tag) {
    mp_buf b = { 0 };
    int text = 0;
    for (const mp_json *n = mp_json_type(prompt) == MP_JSON_OBJECT ? mp_json_first(prompt) : NULL; n; n = mp_json_next(n)) text |= mp_json_string(n) != NULL;
    if (mp_json_type(prompt) == MP_JSON_ARRAY && !mp_json_first(prompt))
        mp_buf_puts(&b, "{\"error\": {\"type\": \"prompt_no_outputs\", \"message\": \"Prompt has no outputs\", \"details\": \"\"");
    else if (text) {
        const mp_json *n = mp_json_first(prompt);
        while (!mp_json_string(n)) n = mp_json_next(n);
        mp_buf_puts(&b, "{\"error\": {\"type\": \"invalid_prompt\", \"message\": \"Cannot execute because a node is missing the class_type property.\", \"details\": ");
        char *details = mp_format("Node ID '#%s'", mp_json_name(n));
        mp_buf_json(&b, mp_str_of(details));
        free(details);
    } else return 0;
    mp_buf_printf(&b, ", \"extra_info\": {}}, \"node_errors\": %s}", s->v->empty_object ? "{}" : "[]");
    json(s, tag, 400, &b);
    return 1;
}

static int shape_ok(const mp_json *prompt) {
    if (mp_json_type(prompt) != MP_JSON_OBJECT) return 0;
    for (const mp_json *n = mp_json_first(prompt); n; n = mp_json_next(n))
        if (mp_json_type(n) != MP_JSON_OBJECT) return 0;
    return 1;
}

static char *text_of(const mp_json *v) {
    mp_buf b = { 0 };
    if (!v || mp_json_type(v) == MP_JSON_NULL) return NULL;
    if (mp_json_string(v)) return mp_strdup(mp_json_string(v));
    mp_json_write(&b, v);
    return mp_buf_take(&b, NULL);
}

static void job_number(mp_buf *b, const job *j) {           /* the client's is a float, the server's own a whole number */
    if (j->number_given) { mp_buf_double(b, j->number); if (j->number == (double)(long long)j->number) mp_buf_puts(b, ".0"); }
    else mp_buf_printf(b, "%lld", (long long)j->number);
}

static void post_prompt(mp_sim *s, const mp_sim_request *r, mp_time now) {
    mp_json *body = mp_json_parse(r->body.p, r->body.n, NULL);
    const mp_json *prompt = mp_json_get(body, "prompt"), *extra = mp_json_get(body, "extra_data"), *id = mp_json_get(body, "prompt_id"), *n = mp_json_get(body, "number");
    mp_buf errors = { 0 }, error = { 0 }, b = { 0 };
    double number = (double)s->counter;
    if (!body) { trouble(s, r->tag); return; }
    if (!n) s->counter++;                            /* also for prompts that are refused */
    if (mp_json_true(mp_json_get(body, "front"))) number = -number;
    if (!prompt) no_prompt(s, r->tag);
    else if (!s->v->missing_node_type && shape_old(s, prompt, r->tag)) {}
    else if (!shape_ok(prompt) || (extra && mp_json_type(extra) != MP_JSON_OBJECT) || (n && !to_float(n, &number))) trouble(s, r->tag);
    else {
        job *j = mp_alloc(sizeof *j);
        s->targets = s->v->targeted_interrupt ? mp_json_get(body, "partial_execution_targets") : NULL;
        if (validate(s, prompt, &j->outputs, &j->n_outputs, &errors, &error)) {
            char uuid[MP_UUID_SIZE];
            mp_uuid(&s->rng, uuid);
            j->id = s->v->own_ids && id ? text_of(id) : NULL;
            if (!j->id) j->id = mp_strdup(s->v->own_ids && id ? "None" : uuid);
            j->client_id = text_of(mp_json_get(body, "client_id"));
            j->number = number;
            j->number_given = n != NULL;
            j->body = body;
            j->prompt = j->made = coerce(s, prompt);
            j->extra = extra;
            j->created = now;
            mp_buf_puts(&b, "{\"prompt_id\": ");
            mp_buf_json(&b, mp_str_of(j->id));
            mp_buf_puts(&b, ", \"number\": ");
            job_number(&b, j);
            mp_buf_printf(&b, ", \"node_errors\": %s}", errors.p);
            int twin = 0;                            /* Python's heap then compares the prompts, which raises: 500, and it runs */
            for (size_t i = 0; i < s->n_queue; i++) twin |= s->queue[i]->number == j->number && strcmp(s->queue[i]->id, j->id) == 0;
            queue_put(s, j);                         /* the worker may start before the reply is sent */
            if (!twin) emit_status(s);
            if (!s->run && s->at < now) s->at = now;
            if (s->o.early) work_till(s, now);
            if (twin) trouble(s, r->tag);
            else json(s, r->tag, 200, &b);
            mp_buf_free(&b);
            body = NULL;
        } else {
            int early = !strstr(error.p, "prompt_outputs_failed_validation"), list = !s->v->empty_object && early;   /* older servers: [] */
            mp_buf_printf(&b, "{\"error\": %s, \"node_errors\": %s}", error.p, list ? "[]" : errors.n ? errors.p : "{}");
            json(s, r->tag, 400, &b);
            free(j);
        }
    }
    mp_json_free(body);
    mp_buf_free(&errors);
    mp_buf_free(&error);
}

/* ---- queue, history ------------------------------------------------------------------------------------------ */

static void extra_data(mp_sim *s, mp_buf *b, const job *j) {
    int any = 0;
    mp_buf_putc(b, '{');
    for (const mp_json *x = mp_json_first(j->extra); x; x = mp_json_next(x)) {
        if (s->v->create_time && (strcmp(mp_json_name(x), "api_key_comfy_org") == 0 || strcmp(mp_json_name(x), "auth_token_comfy_org") == 0)) continue;
        if (any++) mp_buf_puts(b, ", ");
        mp_buf_json(b, mp_str_of(mp_json_name(x)));
        mp_buf_puts(b, ": ");
        mp_json_write(b, x);
    }
    if (j->client_id) {
        mp_buf_puts(b, any++ ? ", \"client_id\": " : "\"client_id\": ");
        mp_buf_json(b, mp_str_of(j->client_id));
    }
    if (s->v->create_time) mp_buf_printf(b, "%s\"create_time\": %lld", any ? ", " : "", (long long)wall_ms(s, j->created));
    mp_buf_putc(b, '}');
}

void queue_item(mp_sim *s, mp_buf *b, const job *j) {
    mp_buf_putc(b, '[');
    job_number(b, j);
    mp_buf_puts(b, ", ");
    mp_buf_json(b, mp_str_of(j->id));
    mp_buf_puts(b, ", ");
    mp_json_write(b, j->prompt);
    mp_buf_puts(b, ", ");
    extra_data(s, b, j);
    mp_buf_puts(b, ", [");
    for (size_t i = 0; i < j->n_outputs; i++) {
        if (i) mp_buf_puts(b, ", ");
        mp_buf_json(b, mp_str_of(j->outputs[i]));
    }
    mp_buf_puts(b, "]]");
}

static void get_queue(mp_sim *s, uint64_t tag) {
    mp_buf b = { 0 };
    mp_buf_puts(&b, "{\"queue_running\": [");
    if (s->run) queue_item(s, &b, s->run->j);
    mp_buf_puts(&b, "], \"queue_pending\": [");
    for (size_t i = 0; i < s->n_queue; i++) {        /* heap order, as the real one shows it */
        if (i) mp_buf_puts(&b, ", ");
        queue_item(s, &b, s->queue[i]);
    }
    mp_buf_puts(&b, "]}");
    json(s, tag, 200, &b);
}

static void post_queue(mp_sim *s, const mp_sim_request *r) {
    mp_json *body = mp_json_parse(r->body.p, r->body.n, NULL);
    if (!body) { trouble(s, r->tag); return; }
    if (mp_json_true(mp_json_get(body, "clear"))) {
        while (s->n_queue) job_drop(queue_pop(s));
        emit_status(s);
    }
    for (const mp_json *d = mp_json_first(mp_json_get(body, "delete")); d; d = mp_json_next(d)) {
        if (!mp_json_string(d) || !queue_delete(s, mp_json_string(d))) continue;
        emit_status(s);
        if (!s->n_queue) emit_status(s);             /* deleting the last one that waits tells twice */
    }
    mp_json_free(body);
    empty(s, r->tag, 200);
}

static void post_interrupt(mp_sim *s, const mp_sim_request *r) {
    mp_json *body = r->body.n ? mp_json_parse(r->body.p, r->body.n, NULL) : NULL;
    if (body && mp_json_type(body) != MP_JSON_OBJECT && s->v->targeted_interrupt) { mp_json_free(body); trouble(s, r->tag); return; }
    const char *id = s->v->targeted_interrupt ? mp_json_string(mp_json_get(body, "prompt_id")) : NULL;
    int hits = s->run && (!id || strcmp(id, s->run->j->id) == 0);
    if (hits && s->lost_interrupts > 0) s->lost_interrupts--;
    else if (hits && s->late_interrupt == 1) s->late_interrupt = 2;      /* the flag is set when the next one runs, if that is soon */
    else if (hits) s->interrupt = 1;
    mp_json_free(body);
    empty(s, r->tag, 200);
}

/* max alone: the newest ones; with offset (from the oldest, 0.3.60 on): a window. -1: not given. */
static void get_history(mp_sim *s, uint64_t tag, const char *id, long max, long offset) {
    mp_buf b = { 0 };
    size_t skip = !id && max >= 0 && (size_t)max < s->n_history ? s->n_history - (size_t)max : 0, shown = 0;
    if (offset >= 0) skip = (size_t)offset;
    mp_buf_putc(&b, '{');
    for (entry *e = s->history; e; e = e->next) {
        if (skip) { skip--; continue; }
        if (id && strcmp(e->id, id) != 0) continue;
        if (max >= 0 && shown++ >= (size_t)max) break;
        if (b.n > 1) mp_buf_puts(&b, ", ");
        mp_buf_json(&b, mp_str_of(e->id));
        mp_buf_printf(&b, ": ");
        mp_buf_puts(&b, e->json);
    }
    mp_buf_putc(&b, '}');
    json(s, tag, 200, &b);
}

static void post_history(mp_sim *s, const mp_sim_request *r) {
    mp_json *body = mp_json_parse(r->body.p, r->body.n, NULL);
    if (!body) { trouble(s, r->tag); return; }
    if (mp_json_true(mp_json_get(body, "clear"))) history_remove(s, NULL);
    for (const mp_json *d = mp_json_first(mp_json_get(body, "delete")); d; d = mp_json_next(d))
        if (mp_json_string(d)) history_remove(s, mp_json_string(d));
    mp_json_free(body);
    empty(s, r->tag, 200);
}

/* ---- information ---------------------------------------------------------------------------------------------- */

/* The choices of LoadImage are the files there are, read anew each time. */
static void definition(mp_sim *s, mp_buf *b, const mp_json *def) {
    mp_buf t = { 0 }, list = { 0 };
    mp_json_write(&t, def);
    if (!mp_json_get(def, "input_order")) {          /* the built-in classes leave out what follows from the rest */
        t.n--;                                       /* the closing brace */
        mp_buf_puts(&t, ",\"input_order\":{\"required\":[");
        const mp_json *in = mp_json_get(mp_json_get(def, "input"), "required");
        for (const mp_json *i = mp_json_first(in); i; i = mp_json_next(i)) {
            if (i != mp_json_first(in)) mp_buf_putc(&t, ',');
            mp_buf_json(&t, mp_str_of(mp_json_name(i)));
        }
        mp_buf_puts(&t, "]},\"output_is_list\":[");
        for (size_t i = 0; i < mp_json_count(mp_json_get(def, "output")); i++) mp_buf_puts(&t, i ? ",false" : "false");
        mp_buf_puts(&t, "]}");
    }
    if (strcmp(mp_json_name(def), "LoadImage") != 0) {
        mp_buf_str(b, mp_buf_view(&t));
        mp_buf_free(&t);
        return;
    }
    for (file *f = s->files; f; f = f->hh.next) {
        if (strncmp(f->key, "input/", 6) != 0 || strchr(f->key + 6, '/')) continue;
        if (list.n) mp_buf_puts(&list, ", ");
        mp_buf_json(&list, mp_str_of(f->key + 6));
    }
    char *at = strstr(t.p, "\"image\":[["), *close = at ? strchr(at, ']') : NULL;
    if (close) {
        mp_buf_add(b, t.p, (size_t)(at - t.p) + 10);
        mp_buf_str(b, mp_buf_view(&list));
        mp_buf_puts(b, close);
    } else mp_buf_str(b, mp_buf_view(&t));
    mp_buf_free(&t);
    mp_buf_free(&list);
}

static void object_info(mp_sim *s, uint64_t tag, const char *only) {
    mp_buf b = { 0 };
    mp_buf_putc(&b, '{');
    for (const mp_json *d = mp_json_first(s->catalogue); d; d = mp_json_next(d)) {
        if (only && strcmp(mp_json_name(d), only) != 0) continue;
        if (b.n > 1) mp_buf_puts(&b, ", ");
        mp_buf_json(&b, mp_str_of(mp_json_name(d)));
        mp_buf_puts(&b, ": ");
        definition(s, &b, d);
    }
    mp_buf_putc(&b, '}');
    json(s, tag, 200, &b);
}

static void system_stats(mp_sim *s, uint64_t tag) {
    mp_buf b = { 0 };
    double vram = (s->o.vram_gb > 0 ? s->o.vram_gb : 24) * 1073741824.0, used = 0;
    for (model *m = s->models; m; m = m->next) used += m->gb * 1073741824.0;
    if (used > vram) used = vram;
    mp_buf_printf(&b, "{\"system\": {\"os\": \"%s\", \"ram_total\": 68719476736, \"ram_free\": 51539607552, \"comfyui_version\": \"%s\", \"python_version\": \"3.11.2 (main)\", "
                      "\"pytorch_version\": \"2.6.0\", \"embedded_python\": false, \"argv\": [\"main.py\"]%s}, \"devices\": [{\"name\": ", s->v->os, s->v->reported,
                  s->v->frontend ? s->v->frontend : "");
    mp_buf_json(&b, mp_str_of(s->name));
    mp_buf_printf(&b, ", \"type\": \"cuda\", \"index\": 0, \"vram_total\": %.0f, \"vram_free\": %.0f, \"torch_vram_total\": %.0f, \"torch_vram_free\": 0}]}", vram, vram - used, used);
    json(s, tag, 200, &b);
}

static void features(mp_sim *s, uint64_t tag) {
    if (s->v->features) reply(s, tag, 200, JSON, s->v->features, strlen(s->v->features));
    else reply(s, tag, 404, TEXT, "404: Not Found", 14);
}

static void free_memory(mp_sim *s, const mp_sim_request *r) {
    mp_json *body = mp_json_parse(r->body.p, r->body.n, NULL);
    if (!body) { trouble(s, r->tag); return; }
    s->record.frees++;
    int nodes = mp_json_true(mp_json_get(body, "free_memory"));
    while (s->models && (nodes || mp_json_true(mp_json_get(body, "unload_models")))) {
        model *m = s->models;
        s->models = m->next;
        free(m->name);
        free(m);
    }
    if (nodes && s->run) s->free_nodes = 1;
    else if (nodes) cache_clear(s);
    mp_json_free(body);
    empty(s, r->tag, 200);
}

/* What the sim did, for benches and specs; a real server has no such route. */
static void record(mp_sim *s, uint64_t tag) {
    mp_buf b = { 0 };
    mp_buf_printf(&b, "{\"prompts\": %zu, \"executed\": %zu, \"cached\": %zu, \"failed\": %zu, \"interrupted\": %zu, \"frees\": %zu, \"uploads\": %zu, \"gaps_ms\": [", s->record.prompts, s->record.executed, s->record.cached,
                  s->record.failed, s->record.interrupted, s->record.frees, s->record.uploads);
    for (size_t i = 0; i < s->record.gaps; i++) mp_buf_printf(&b, "%s%.3f", i ? ", " : "", (double)s->gaps[i] / 1000);
    mp_buf_puts(&b, "]}");
    json(s, tag, 200, &b);
}

/* ---- routes ----------------------------------------------------------------------------------------------------- */

/* The origin rule (protocol 1.4): only for loopback hosts, ports dropped where one side has none. */
int mp_sim_origin_ok(mp_str host, mp_str origin) {
    if (!origin.n || !host.n) return 1;
    const char *net = memmem(origin.p, origin.n, "://", 3);
    mp_str o = net ? mp_str_make(net + 3, (size_t)(origin.p + origin.n - net) - 3) : origin, h = host;
    int loopback = h.n >= 9 && (strncasecmp(h.p, "127.0.0.1", 9) == 0 || strncasecmp(h.p, "localhost", 9) == 0);
    const char *op = memchr(o.p, ':', o.n), *hp = memchr(h.p, ':', h.n);
    if (!op && hp) h.n = (size_t)(hp - h.p);
    if (!hp && op) o.n = (size_t)(op - o.p);
    return !loopback || (o.n == h.n && strncasecmp(o.p, h.p, h.n) == 0);
}

static int is(const char *path, const char *route) { return strcmp(path, route) == 0; }

static int whole_number(const char *z, long *out) {
    char *end;
    *out = strtol(z, &end, 10);
    return end != z && !*end;
}

static void get(mp_sim *s, const mp_sim_request *r, const char *path) {
    mp_buf b = { 0 };
    char *max = query_arg(r->path, "max_items"), *from = query_arg(r->path, "offset");
    long limit = -1, skip = -1;
    if (is(path, "/prompt")) { mp_buf_printf(&b, "{\"exec_info\": {\"queue_remaining\": %zu}}", mp_sim_waiting(s)); json(s, r->tag, 200, &b); }
    else if (is(path, "/queue")) get_queue(s, r->tag);
    else if (is(path, "/history")) {
        if ((max && !whole_number(max, &limit)) || (s->v->targeted_interrupt && from && !whole_number(from, &skip))) trouble(s, r->tag);
        else get_history(s, r->tag, NULL, limit, s->v->targeted_interrupt ? skip : -1);
    }
    else if (strncmp(path, "/history/", 9) == 0) get_history(s, r->tag, path + 9, -1, -1);
    else if (is(path, "/view")) view(s, r);
    else if (is(path, "/ws")) {
        static const char words[] = "No WebSocket UPGRADE hdr: None\n Can \"Upgrade\" only to \"WebSocket\".";
        reply(s, r->tag, 400, TEXT, words, sizeof words - 1);
    }
    else if (is(path, "/object_info")) object_info(s, r->tag, NULL);
    else if (strncmp(path, "/object_info/", 13) == 0) object_info(s, r->tag, path + 13);
    else if (is(path, "/system_stats")) system_stats(s, r->tag);
    else if (is(path, "/features")) features(s, r->tag);
    else if (is(path, "/embeddings") || is(path, "/extensions")) reply(s, r->tag, 200, JSON, "[]", 2);
    else if (is(path, "/moonpool/record")) record(s, r->tag);
    else if (is(path, "/")) reply(s, r->tag, 200, "text/html; charset=utf-8", "<!DOCTYPE html><title>Moonpool simulated ComfyUI</title>\n", 57);
    else reply(s, r->tag, 404, TEXT, "404: Not Found", 14);
    free(max);
    free(from);
}

void serve(mp_sim *s, const mp_sim_request *r, mp_time now) {
    size_t n = 0;
    while (n < r->path.n && r->path.p[n] != '?') n++;
    char *path = mp_strndup(r->path.p, n), *p = path;
    int api = strncmp(p, "/api/", 5) == 0;
    if (api) p += 4;
    char *whole = url_decode(mp_str_of(p), 0);
    p = whole;
    if (mp_str_is(r->method, "OPTIONS")) empty(s, r->tag, 200);
    else if (!mp_sim_origin_ok(r->host, r->origin)) empty(s, r->tag, 403);
    else if (r->body.n > SIM_BODY) reply(s, r->tag, 413, TEXT, "Maximum request body size exceeded", 34);
    else if (strncmp(path, "//", 2) == 0 || strstr(p, "//")) reply(s, r->tag, 404, TEXT, "404: Not Found", 14);
    else if (api && s->v->jobs && mp_str_is(r->method, "GET") && strcmp(p, "/jobs") == 0) jobs_list(s, r);
    else if (api && s->v->jobs && mp_str_is(r->method, "GET") && strncmp(p, "/jobs/", 6) == 0) jobs_one(s, r, p + 6);
    else if (mp_str_is(r->method, "GET") || mp_str_is(r->method, "HEAD")) get(s, r, p);
    else if (!mp_str_is(r->method, "POST")) reply(s, r->tag, 405, TEXT, "405: Method Not Allowed", 23);
    else if (is(p, "/prompt")) post_prompt(s, r, now);
    else if (is(p, "/queue")) post_queue(s, r);
    else if (is(p, "/interrupt")) post_interrupt(s, r);
    else if (is(p, "/history")) post_history(s, r);
    else if (is(p, "/free")) free_memory(s, r);
    else if (is(p, "/upload/image")) upload(s, r, 0, now);
    else if (is(p, "/upload/mask")) upload(s, r, 1, now);
    else reply(s, r->tag, 405, TEXT, "405: Method Not Allowed", 23);
    free(whole);
    free(path);
}
