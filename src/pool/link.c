/* pool/link.c -- floor 5, pool: a connection's life as decisions.
 *
 *   connecting: GET /system_stats and the socket, side by side. Both good: online.
 *   online until the socket is lost, found deaf, or a request fails; then offline, and after a pause that grows
 *   (base, doubled up to the cap, 30 % jitter) connecting again, without end.
 * The socket keeps its id (clientId) over reconnects, so that prompts under way go on telling us; what that can
 * lead to (an orphaned socket, protocol 3.3) is found by silence after our own POST and cured by a clean close. */
#include "pool/inside.h"
#include <stdio.h>
#include <stdlib.h>

static void get(mp_client *c, purpose why, uint64_t *slot, const char *where) {
    mp_buf path = { 0 };
    mp_buf_puts(&path, where);
    *slot = act(c->pool, c, why, NULL, "GET", &path, NULL, c->pool->o.connect_timeout);
}

static void open_socket(mp_client *c) {
    mp_buf path = { 0 }, hello = { 0 };
    mp_buf_puts(&path, "/ws?clientId=");
    mp_buf_url(&path, mp_str_of(c->sid));
    mp_buf_puts(&hello, "{\"type\":\"feature_flags\",\"data\":{\"supports_preview_metadata\":true}}");
    c->socket_words[0] = 0;
    c->connecting = act(c->pool, c, DO_CONNECT, NULL, NULL, &path, &hello, c->pool->o.connect_timeout);
}

void link_start(mp_client *c, mp_time now) {
    if (c->connecting || c->checking || c->closing || c->removed) return;
    if (!c->down_since) c->down_since = now ? now : 1;
    c->state = MP_CLIENT_CONNECTING;
    c->retry_at = MP_NEVER;
    c->has_stats = c->has_socket = 0;
    c->polling = 0;
    get(c, DO_CHECK, &c->checking, "/system_stats");
    open_socket(c);
    client_rearm(c, now);
}

static void close_socket(mp_client *c, uint64_t conn) {
    mp_pool *p = c->pool;
    c->closing = act(p, c, DO_CLOSE, NULL, NULL, NULL, NULL, p->o.connect_timeout);
    p->actions[p->a_head + p->a_n - 1].conn = conn;
}

static mp_time pause_of(mp_client *c) {
    mp_pool *p = c->pool;
    mp_time t = p->o.reconnect_base / 4;
    for (int i = 0; i < c->failures && t < p->o.reconnect_cap; i++) t = i ? t * 2 : p->o.reconnect_base;
    if (t > p->o.reconnect_cap) t = p->o.reconnect_cap;
    return jitter(p, t);
}

/* Of one that was removed this is the last word. */
void link_told(mp_client *c, mp_time now) {
    mp_event *e = event(c->pool, MP_EV_CLIENT_STATE, NULL, c, now);
    if (c->problem && c->state != MP_CLIENT_ONLINE && !c->removed) event_data(e, c->problem, strlen(c->problem));
    queue_presence(c->pool, now);
}

/* One attempt failed, or an open link was lost. */
static void offline(mp_client *c, const char *why, mp_time now) {
    int was = c->state;
    client_problem(c, why);
    if (c->conn) close_socket(c, c->conn);
    c->conn = 0;
    c->has_socket = c->has_stats = c->polling = 0;
    c->tried = 1;
    c->state = MP_CLIENT_OFFLINE;
    c->status_due = c->poll_at = c->socket_at = MP_NEVER;
    c->survey_wanted = 0;
    if (was == MP_CLIENT_ONLINE && !c->down_since) c->down_since = now;
    if (was == MP_CLIENT_ONLINE) c->lost_at = now;
    c->epoch++;                                      /* what is under way belongs to the link that is lost */
    c->survey = c->freeing = c->looking = 0;
    upload_forget(c, 1);                             /* temp folders are wiped when a server starts */
    client_touch(c);
    /* One that comes up and falls at once, again and again, has not been reached: its pauses go on growing. */
    if (was == MP_CLIENT_ONLINE && (now - c->online_at >= c->pool->o.reconnect_base || MP_MUTANT == 22)) c->failures = 0;
    c->retry_at = now + pause_of(c);
    c->failures++;
    while (c->removed && c->prompts) prompt_gone(c->prompts);            /* nobody will come back for them */
    for (prompt *pr = c->prompts; pr; pr = pr->next) {
        pr->gap = 1;
        pr->history = 0;
        if (pr->taking) pr->taking = pr->deleted = 0;                    /* it may have run meanwhile, and been forgotten since */
    }
    mp_logf(&c->pool->log, !c->pool->closing && !c->removed && (was == MP_CLIENT_ONLINE || c->failures == 1) ? MP_LOG_WARN : MP_LOG_DEBUG, "client %s is offline: %s", c->name, why);
    if (!c->removed) link_told(c, now);              /* else it was said when it was taken out */
    client_rearm(c, now);
}

void link_down(mp_client *c, const char *why, mp_time now) {
    c->conn = 0;
    if (c->state == MP_CLIENT_ONLINE || c->has_socket) offline(c, why && *why ? why : "the connection was lost", now);
}

void link_reset(mp_client *c, const char *why, mp_time now) {
    if (c->state == MP_CLIENT_OFFLINE || c->pool->stale) return;
    offline(c, why, now);
    if (c->failures <= 1) c->retry_at = now;         /* as soon as the close has been reported; not again and again */
    client_rearm(c, now);
}

static void online(mp_client *c, mp_time now) {
    if (!c->has_stats || (!c->has_socket && !c->polling)) return;
    c->state = MP_CLIENT_ONLINE;
    c->socket_at = c->polling ? now + jitter(c->pool, c->pool->o.reconnect_base / 4) : MP_NEVER;
    if (c->polling) c->poll_at = now;
    c->tried = 1;
    /* With prompts there, the link has proven itself only when their whereabouts are known: see surveyed. */
    if (c->prompts) c->moved += c->moved <= c->lost_at ? now - c->lost_at : 0;          /* it could not be heard meanwhile; the socket may have been first */
    else {
        c->down_since = 0;
        c->moved = now;
    }
    c->heard = c->online_at = now;
    if (!c->prompts) client_unwedge(c, 0, now);      /* a prompt that hangs there still is no better for a new connection */
    mp_logf(&c->pool->log, c->polling ? MP_LOG_WARN : MP_LOG_INFO, "client %s is online (ComfyUI %s)%s%s", c->name, c->version ? c->version : "unknown",
            c->polling ? ", asked instead of listened to: " : "", c->polling ? c->socket_words : "");
    client_touch(c);
    block_recheck(c, now);
    link_told(c, now);
    for (prompt *pr = c->prompts; pr; pr = pr->next)
        if (!pr->job) pr->due = now;
    if (c->prompts) survey_want(c, now);
    client_rearm(c, now);
}

void link_connected(mp_client *c, uint64_t action, const mp_result *r, mp_time now) {
    int stale = action != c->connecting;
    if (!stale) c->connecting = 0;
    if (r->code == 0 && r->status == 101) {
        if (c->polling && !stale && !c->removed) {   /* a socket at last */
            c->conn = action;
            c->has_socket = 1;
            c->polling = c->deaf = 0;
            c->socket_at = MP_NEVER;
            for (prompt *pr = c->prompts; pr; pr = pr->next) pr->gap = 1;        /* what was said so far was said to nobody */
            if (c->prompts) survey_want(c, now);
        } else if (stale || c->state != MP_CLIENT_CONNECTING || c->removed) {        /* the other half failed meanwhile */
            if (!c->closing) close_socket(c, action);
        } else {
            c->conn = action;
            c->has_socket = 1;
            c->deaf = 0;
            online(c, now);
        }
    } else if (c->polling && !stale) c->socket_at = now + jitter(c->pool, c->pool->o.reconnect_base);         /* still none to be had */
    else if (c->state == MP_CLIENT_CONNECTING && !stale) {
        char *words = c->socket_words;
        if (r->status) snprintf(words, sizeof c->socket_words, "its WebSocket was refused with status %d", r->status);
        else snprintf(words, sizeof c->socket_words, "%s", r->message ? r->message : "its WebSocket could not be opened");
        c->refused_us = r->status == 401 || r->status == 403;
        if (c->checking) { client_rearm(c, now); return; }           /* its answer to HTTP says better what it is */
        if (c->has_stats && ++c->deaf >= DEAF_ATTEMPTS && !c->refused_us) {
            c->polling = 1;
            online(c, now);
        } else offline(c, words, now);
    }
    client_rearm(c, now);
}

/* Words for an answer to /system_stats that no ComfyUI server would give. */
static void not_comfy(const mp_result *r, char *words, size_t cap) {
    size_t blank = strspn(r->body.n ? r->body.p : "", " \r\n\t");
    int html = r->body.n > blank && r->body.p[blank] == '<';
    if (r->status == 401 || r->status == 403) snprintf(words, cap, "it refused us (status %d): credentials are missing or wrong", r->status);
    else if (r->status >= 300 && r->status < 400) snprintf(words, cap, "it redirects elsewhere (status %d), perhaps to a login page", r->status);
    else if (r->status != 200) snprintf(words, cap, "GET /system_stats was answered with status %d", r->status);
    else snprintf(words, cap, "it answers HTTP but is no ComfyUI server (GET /system_stats gave %s)", html ? "an HTML page" : "something else than its JSON");
}

void link_checked(mp_client *c, const mp_result *r, mp_time now) {
    c->checking = 0;
    if (c->removed && c->has_socket) offline(c, "removed", now);
    if (c->state != MP_CLIENT_CONNECTING || c->removed) { client_rearm(c, now); return; }
    mp_json *doc = r->code == 0 && r->status == 200 ? mp_json_parse(r->body.p, r->body.n, NULL) : NULL;
    const mp_json *system = mp_json_get(doc, "system");
    if (mp_json_type(system) == MP_JSON_OBJECT) {
        const char *version = mp_json_string(mp_json_get(system, "comfyui_version"));
        free(c->version);
        free(c->stats);
        c->version = mp_strdup(version ? version : "unknown");
        c->stats = mp_strndup(r->body.p, r->body.n);
        c->has_stats = 1;
        if (c->socket_words[0] && ++c->deaf >= DEAF_ATTEMPTS && !c->refused_us) c->polling = 1;     /* HTTP works: go on by asking */
        if (c->socket_words[0] && !c->polling) offline(c, c->socket_words, now);
        else online(c, now);
    } else {
        char words[200];
        if (r->code) snprintf(words, sizeof words, "%s", r->message ? r->message : "it could not be reached");
        else not_comfy(r, words, sizeof words);
        offline(c, words, now);
    }
    mp_json_free(doc);
    client_rearm(c, now);
}

void link_freed(mp_client *c, mp_time now) {
    client_touch(c);
    client_rearm(c, now);
}

void link_closed(mp_client *c, mp_time now) {
    c->closing = 0;
    client_touch(c);
    client_rearm(c, now);
}

/* While the pool closes only as long as there is something to finish. */
int link_wanted(const mp_client *c) {
    const mp_pool *p = c->pool;
    return !p->closing || c->prompts || p->stats.pending || p->stats.assigned || p->stats.running;
}

void link_tick(mp_client *c, mp_time now) {
    int wanted_there = link_wanted(c);
    if (c->state == MP_CLIENT_OFFLINE && c->retry_at <= now && wanted_there) link_start(c, now);
    if (c->state != MP_CLIENT_ONLINE) give_up_unreachable(c, now);
    if (c->state == MP_CLIENT_ONLINE && c->polling && c->socket_at <= now && !c->connecting) {
        c->socket_at = MP_NEVER;
        open_socket(c);
    }
    if (c->state == MP_CLIENT_ONLINE && c->status_due <= now) link_reset(c, "its WebSocket is deaf: not a word after a prompt was sent", now);
}
