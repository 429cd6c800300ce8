/* comfy/failure.c -- floor 3, comfy: what kind of failure something is. */
#include "comfy/failure.h"
#include "base/scan.h"
#include "graph/hash.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

void mp_failure_clear(mp_failure *f) {
    free(f->message);
    free(f->node);
    free(f->node_type);
    free(f->input);
    free(f->value);
    free(f->details);
    memset(f, 0, sizeof *f);
}

void mp_failure_free(mp_failure *f) {
    if (f) mp_failure_clear(f);
    free(f);
}

void mp_failure_copy(mp_failure *to, const mp_failure *from) {
    mp_failure_clear(to);
    *to = *from;
    to->message = mp_strdup(from->message);
    to->node = mp_strdup(from->node);
    to->node_type = mp_strdup(from->node_type);
    to->input = mp_strdup(from->input);
    to->value = mp_strdup(from->value);
    to->details = mp_strdup(from->details);
}

void mp_failure_set(mp_failure *f, mp_fail_kind kind, const char *fmt, ...) {
    char text[600];
    va_list ap;
    mp_failure_clear(f);
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    f->kind = kind;
    f->message = mp_strdup(text);
}

const char *mp_failure_name(mp_fail_kind k) {
    static const char *const names[] = { "none", "connection", "client_incompatible", "workflow_invalid", "node_error", "out_of_memory",
                                         "server", "timeout", "lost", "interrupted", "canceled", "no_clients", "policy" };
    return names[k];
}

static char *json_text(const mp_json *j) {
    mp_buf b = { 0 };
    mp_json_write(&b, j);
    return mp_buf_take(&b, NULL);
}

static const char *or_empty(const char *z) { return z ? z : ""; }

/* What one entry of node_errors says about whether another server might take it. */
static mp_fail_kind kind_of(const char *type) {
    static const char *const elsewhere[] = { "value_not_in_list", "missing_node_type", "custom_validation_failed" };
    for (size_t i = 0; type && i < sizeof elsewhere / sizeof *elsewhere; i++)
        if (strcmp(type, elsewhere[i]) == 0) return MP_FAIL_INCOMPATIBLE;
    return MP_FAIL_INVALID;
}

/* The first error of the first node, in words. Invalid wins over incompatible: no other server would help. */
static void from_node_errors(const mp_json *errors, mp_failure *f) {
    mp_fail_kind kind = MP_FAIL_NONE;
    for (const mp_json *n = mp_json_first(errors); n; n = mp_json_next(n))
        for (const mp_json *x = mp_json_first(mp_json_get(n, "errors")); x; x = mp_json_next(x)) {
            mp_fail_kind k = kind_of(mp_json_string(mp_json_get(x, "type")));
            if (kind == MP_FAIL_INVALID || k == kind) continue;
            const char *class_type = or_empty(mp_json_string(mp_json_get(n, "class_type")));
            mp_failure_set(f, k, "node \"%s\" (%s): %s: %s", mp_json_name(n), class_type,
                           or_empty(mp_json_string(mp_json_get(x, "message"))), or_empty(mp_json_string(mp_json_get(x, "details"))));
            f->node = mp_strdup(mp_json_name(n));
            f->node_type = mp_strdup(class_type);
            const char *type = mp_json_string(mp_json_get(x, "type")), *value = mp_json_string(mp_json_get(mp_json_get(x, "extra_info"), "received_value"));
            int choice = type && strcmp(type, "value_not_in_list") == 0 && value;
            f->by_shape = choice && mp_graph_is_model(mp_str_of(value));
            if (choice) {
                f->input = mp_strdup(mp_json_string(mp_json_get(mp_json_get(x, "extra_info"), "input_name")));
                f->value = mp_strdup(value);
            }
            kind = k;
        }
}

/* A class that is not there. Newer servers name it; older ones only the node, as "Node ID '#12'" (protocol 2.1). */
static void missing_class(const mp_json *info, const char *details, mp_failure *f) {
    const char *at = details ? strstr(details, "'#") : NULL, *id = mp_json_string(mp_json_get(info, "node_id"));
    f->by_shape = 1;
    f->node_type = mp_strdup(mp_json_string(mp_json_get(info, "class_type")));
    f->node = id ? mp_strdup(id) : at ? mp_strndup(at + 2, strcspn(at + 2, "'")) : NULL;
}

static void refused(const mp_json *doc, int status, mp_failure *f) {
    const mp_json *error = mp_json_get(doc, "error"), *errors = mp_json_get(doc, "node_errors");
    const char *type = mp_json_string(mp_json_get(error, "type"));
    if (mp_json_type(errors) == MP_JSON_OBJECT) from_node_errors(errors, f);
    if (!f->kind && type && (strcmp(type, "missing_node_type") == 0 || strcmp(type, "invalid_prompt") == 0))
        mp_failure_set(f, MP_FAIL_INCOMPATIBLE, "%s (%s)", or_empty(mp_json_string(mp_json_get(error, "message"))), or_empty(mp_json_string(mp_json_get(error, "details"))));
    if (f->kind == MP_FAIL_INCOMPATIBLE && !f->node) missing_class(mp_json_get(error, "extra_info"), mp_json_string(mp_json_get(error, "details")), f);
    if (!f->kind && error) {
        const char *words = mp_json_string(error) ? mp_json_string(error) : mp_json_string(mp_json_get(error, "message"));
        const char *details = mp_json_string(mp_json_get(error, "details"));
        mp_failure_set(f, MP_FAIL_INVALID, "%s%s%s", or_empty(words), details && *details ? ": " : "", or_empty(details));
    }
    if (!f->kind) mp_failure_set(f, MP_FAIL_SERVER, "POST /prompt was answered with status %d and a body that is not ComfyUI's", status);
    f->details = json_text(doc);
}

/* {"prompt_id": "...", "number": n, "node_errors": {}}: what nearly every reply is. */
static char *plainly_accepted(mp_str body) {
    mp_scan s = mp_scan_of(body);
    mp_str key, id = { 0 };
    int clean = 0;
    if (!mp_scan_open(&s, '{')) return NULL;
    while (mp_scan_member(&s, &key)) {
        mp_str value;
        if (mp_str_is(key, "prompt_id")) { if (!mp_scan_string(&s, &id)) return NULL; }
        else if (!mp_scan_skip(&s, &value)) return NULL;
        else if (mp_str_is(key, "node_errors")) clean = mp_str_is(value, "{}");
    }
    return !s.bad && clean && id.n && !memchr(id.p, '\\', id.n) ? mp_strndup(id.p, id.n) : NULL;
}

void mp_failure_of_prompt_reply(int status, mp_str body, mp_failure *f, char **prompt_id) {
    mp_failure_clear(f);
    if (status == 200 && (*prompt_id = plainly_accepted(body)) != NULL) return;
    mp_json *doc = mp_json_parse(body.p, body.n, NULL);
    const char *id = mp_json_string(mp_json_get(doc, "prompt_id"));
    if (status == 200 && id) {
        const mp_json *errors = mp_json_get(doc, "node_errors");
        *prompt_id = mp_strdup(id);
        if (mp_json_first(errors) && mp_json_type(errors) == MP_JSON_OBJECT) {
            from_node_errors(errors, f);
            if (!f->kind) mp_failure_set(f, MP_FAIL_INVALID, "some outputs were refused");
            f->partial = 1;
            f->details = json_text(errors);
        }
    } else if (status == 400 && doc) refused(doc, status, f);
    else if (status == 413) mp_failure_set(f, MP_FAIL_INCOMPATIBLE, "the workflow is larger than this server accepts (status 413)");
    else if (status == 401 || status == 403) mp_failure_set(f, MP_FAIL_SERVER, "the server refused us (status %d): credentials are missing or wrong", status);
    else if (status >= 300 && status < 400) mp_failure_set(f, MP_FAIL_SERVER, "POST /prompt was redirected (status %d): the address leads elsewhere, perhaps to a login page", status);
    else if (status == 200) mp_failure_set(f, MP_FAIL_SERVER, "POST /prompt was answered with status 200 but no prompt id: this is no ComfyUI server");
    else mp_failure_set(f, MP_FAIL_SERVER, "POST /prompt was answered with status %d", status);
    mp_json_free(doc);
}

static int contains(const char *text, const char *word) { return text && strcasestr(text, word) != NULL; }

void mp_failure_of_error(mp_str data, mp_failure *f) {
    mp_json *doc = mp_json_parse(data.p, data.n, NULL);
    const char *type = mp_json_string(mp_json_get(doc, "exception_type")), *message = or_empty(mp_json_string(mp_json_get(doc, "exception_message")));
    const char *node = mp_json_string(mp_json_get(doc, "node_id")), *node_type = mp_json_string(mp_json_get(doc, "node_type"));
    /* torch names the exception differently from release to release: protocol 3.6 */
    int memory = contains(type, "OutOfMemory") || contains(message, "ran out of memory on your GPU");
    size_t n = strcspn(message, "\n");
    mp_failure_set(f, memory ? MP_FAIL_MEMORY : MP_FAIL_NODE, "node \"%s\" (%s): %s: %.*s", or_empty(node), or_empty(node_type), or_empty(type), (int)(n > 400 ? 400 : n), message);
    f->node = mp_strdup(node);
    f->node_type = mp_strdup(node_type);
    f->details = doc ? json_text(doc) : NULL;
    mp_json_free(doc);
}
