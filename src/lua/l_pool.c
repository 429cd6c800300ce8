/* lua/l_pool.c -- floor 7, lua: the pool for scripts. What waits is in lua/moonpool/init.lua. */
#include "lua/inside.h"
#include "comfy/message.h"
#include "moonpool.h"
#include "wire/journal.h"
#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define POOL "moonpool.pool"

static const char *const event_names[MP_EV_COUNT] = {
    "job:queued", "job:accepted", "job:started", "job:progress", "job:preview", "job:output", "job:completed", "job:failed", "job:canceled",
    "job:retrying", "job:taken_back", "client:state", "client:blocked_workflow", "client:unblocked_workflow", "client:message"
};

l_pool *l_check_pool(lua_State *L, int i) {
    l_pool *lp = l_self(L, i, POOL);
    luaL_argcheck(L, lp->pool, i, "the pool is closed");
    return lp;
}

static void push_pool(lua_State *L, l_pool *lp) {
    lua_getfield(L, LUA_REGISTRYINDEX, "moonpool.pools");
    lua_rawgetp(L, -1, lp);
    lua_remove(L, -2);
}

/* (pool, event): handler(pool, name, job id, client serial, node, value, max, overall, data, format, delay_ms). All that may
 * raise happens in here, inside a protected call: above us are libraries that no error may cross. Of a preview value and
 * max are its width and height. */
static int tell_event(lua_State *L) {
    l_pool *lp = lua_touserdata(L, 1);
    const mp_event *e = lua_touserdata(L, 2);
    double value = e->value, max = e->max;
    luaL_checkstack(L, 20, NULL);
    if (e->kind == MP_EV_JOB_PREVIEW) {
        int w = 0, h = 0;
        mp_image_size(mp_str_make(e->data, e->n_data), &w, &h);
        value = w;
        max = h;
        l_push_job_id(L, mp_pool_job(lp->pool, e->job), e->job);
        l_host_preview(lp->ctx, &(moonpool_image){ luaL_optstring(L, -1, ""), e->node, e->format, e->data, e->n_data, w, h });
        lua_pop(L, 1);
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, lp->handler);
    push_pool(L, lp);
    lua_pushstring(L, event_names[e->kind]);
    lua_pushinteger(L, (lua_Integer)e->job);
    lua_pushinteger(L, e->client);
    lua_pushstring(L, e->node);
    lua_pushnumber(L, value);
    lua_pushnumber(L, max);
    lua_pushnumber(L, e->overall);
    lua_pushlstring(L, e->data ? e->data : "", e->n_data);
    lua_pushstring(L, e->format);
    lua_pushnumber(L, (double)e->delay / 1000);
    lua_call(L, 11, 0);
    return 0;
}

static void on_event(void *ud, const mp_event *e) {
    l_pool *lp = ud;
    lua_State *L = lp->ctx->L;
    if (lp->handler == LUA_NOREF || !lua_checkstack(L, 20)) return;
    int top = lua_gettop(L);
    lua_pushcfunction(L, tell_event);
    lua_pushlightuserdata(L, lp);
    lua_pushlightuserdata(L, (void *)e);
    l_pcall(L, 2, 0, "event handler");
    lua_settop(L, top);
}

typedef struct { l_pool *lp; int level; const char *line; } log_line;

static int tell_line(lua_State *L) {
    const log_line *l = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, l->lp->handler);
    push_pool(L, l->lp);
    lua_pushliteral(L, "log");
    lua_pushstring(L, mp_log_name(l->level));
    lua_pushstring(L, l->line);
    lua_call(L, 4, 0);
    return 0;
}

/* Lines go to the log by its level, and to listeners of "warn" and so on by the event handler, which only notes them:
 * the pool may be in the middle of something. */
static void on_log(void *ud, int level, const char *line) {
    l_pool *lp = ud;
    lua_State *L = lp->ctx->L;
    if (level >= lp->log_shown) l_write_log(lp->ctx, level, line);
    if (!lp->log_told || lp->handler == LUA_NOREF || !lua_checkstack(L, 20)) return;
    int top = lua_gettop(L);
    log_line l = { lp, level, line };
    lua_pushcfunction(L, tell_line);
    lua_pushlightuserdata(L, &l);
    l_pcall(L, 1, 0, "log listener");
    lua_settop(L, top);
}

/* ---- making ------------------------------------------------------------------------------------------------------ */

typedef struct { mp_pool_opts o; double max_queued, retention, seed, log_bytes; const char *log_level, *profile_log, *label; int log_keep, policy_instructions, policy_faults; double policy_memory_mb; } pool_args;

#define MS(field) offsetof(pool_args, o) + offsetof(mp_pool_opts, field), 0, 1e12
#define PAUSE(field) offsetof(pool_args, o) + offsetof(mp_pool_opts, field), 1, 1e12        /* 0 would mean: without end, at once */
static const opt pool_opts[] = {
    { "connect_timeout_ms", OPT_MS, PAUSE(connect_timeout) }, { "request_timeout_ms", OPT_MS, PAUSE(request_timeout) },
    { "unreachable_ms", OPT_MS, MS(unreachable) }, { "no_client_ms", OPT_MS, MS(no_client) }, { "node_silence_ms", OPT_MS, MS(node_silence) },
    { "cold_silence_ms", OPT_MS, MS(cold_silence) }, { "total_ms", OPT_MS, MS(total) }, { "retry_delay_ms", OPT_MS, MS(retry_delay) },
    { "reconnect_base_ms", OPT_MS, PAUSE(reconnect_base) }, { "reconnect_cap_ms", OPT_MS, PAUSE(reconnect_cap) }, { "poll_ms", OPT_MS, PAUSE(poll) },
    { "inactivity_ms", OPT_MS, offsetof(pool_args, o) + offsetof(mp_pool_opts, inactivity), 2000, 6e7 },
    { "execution_start_ms", OPT_MS, MS(execution_start) }, { "cooldown_ms", OPT_MS, MS(cooldown) }, { "catalogue_ms", OPT_MS, MS(catalogue) },
    { "affinity_fallback_ms", OPT_MS, MS(affinity_fallback) }, { "monitoring", OPT_ANY, NO_PLACE, 0, 0 }, { "monitoring_interval_ms", OPT_ANY, NO_PLACE, 0, 0 },
    { "max_failures_before_block", OPT_INT, offsetof(pool_args, o) + offsetof(mp_pool_opts, max_failures), 0, 1000000 },
    { "take_backs", OPT_INT, offsetof(pool_args, o) + offsetof(mp_pool_opts, take_backs), 0, 255 },
    { "settle_ms", OPT_MS, MS(settle) }, { "recheck_ms", OPT_MS, PAUSE(recheck) },
    { "max_attempts", OPT_INT, offsetof(pool_args, o) + offsetof(mp_pool_opts, max_attempts), 1, 1000 },
    { "progress_limit", OPT_INT, offsetof(pool_args, o) + offsetof(mp_pool_opts, progress_limit), 2, 100000 },
    { "profiling", OPT_BOOL, offsetof(pool_args, o) + offsetof(mp_pool_opts, profiling), 0, 0 },
    { "max_queued", OPT_NUMBER, offsetof(pool_args, max_queued), 1, 1e9 },
    { "completed_retention", OPT_NUMBER, offsetof(pool_args, retention), 0, 1e9 },
    { "seed", OPT_NUMBER, offsetof(pool_args, seed), 0, 9e15 },
    { "profile_log", OPT_TEXT, offsetof(pool_args, profile_log), 0, 0 }, { "profile_label", OPT_TEXT, offsetof(pool_args, label), 0, 0 },
    { "profile_log_bytes", OPT_NUMBER, offsetof(pool_args, log_bytes), 0, 1e15 }, { "profile_log_keep", OPT_INT, offsetof(pool_args, log_keep), 0, 1000 },
    { "log_level", OPT_TEXT, offsetof(pool_args, log_level), 0, 0 }, { "policy", OPT_ANY, NO_PLACE, 0, 0 },
    { "policy_instructions", OPT_INT, offsetof(pool_args, policy_instructions), 1000, 1e9 }, { "policy_memory_mb", OPT_NUMBER, offsetof(pool_args, policy_memory_mb), 1, 1e6 },
    { "policy_faults", OPT_INT, offsetof(pool_args, policy_faults), 1, 1e9 }, { NULL, 0, 0, 0, 0 }
};

static uint64_t fresh_seed(void) {
    uint64_t v = 0;
    FILE *f = fopen("/dev/urandom", "rb");
    if (!f || fread(&v, sizeof v, 1, f) != 1) v = (uint64_t)time(NULL) * 1000003u;
    if (f) fclose(f);
    return v;
}

l_pool *l_bare_pool(lua_State *L, int policy, uint64_t seed, l_limits limits, int log_shown) {
    l_pool *lp = lua_newuserdatauv(L, sizeof *lp, 1);
    int at = lua_gettop(L);
    memset(lp, 0, sizeof *lp);
    lp->ctx = l_context(L);
    lp->limits = limits;
    lp->handler = LUA_NOREF;
    lp->log = (mp_log){ MP_LOG_DEBUG, on_log, lp };
    lp->log_shown = log_shown;
    luaL_setmetatable(L, POOL);
    lua_newtable(L);
    lua_setiuservalue(L, at, 1);
    lua_getfield(L, LUA_REGISTRYINDEX, "moonpool.pools");
    lua_pushvalue(L, at);
    lua_rawsetp(L, -2, lp);
    if (!lua_isboolean(L, policy)) lp->policy = l_policy_new(L, policy, lp, seed ^ 0x5851f42d4c957f2du);
    else if (lua_toboolean(L, policy)) luaL_error(L, "pool: option 'policy': a name, file, table of functions, a list of these, or false (none) expected");
    lua_settop(L, at);
    l_policy_hooks(lp->policy, &lp->hooks);
    return lp;
}

/* pool(options) -> pool. Options are checked; nothing is connected yet. */
static int pool_new(lua_State *L) {
    pool_args a = { .seed = -1, .log_level = "warn", .log_keep = 3, .policy_instructions = L_LIMITS.instructions, .policy_faults = L_LIMITS.faults, .policy_memory_mb = 64 };
    mp_journal *journal = NULL;
    mp_err e;
    lua_settop(L, 1);
    mp_pool_defaults(&a.o);
    a.max_queued = (double)a.o.max_queued;
    a.retention = (double)a.o.completed_retention;
    l_options(L, 1, pool_opts, &a, "pool");
    if (a.profile_log && lua_getfield(L, 1, "profiling") == LUA_TNIL) a.o.profiling = 1;
    lua_settop(L, 1);
    int level = mp_log_level(a.log_level);
    if (level < 0) return luaL_error(L, "pool: option 'log_level': debug, info, warn, error or silent expected, got '%s'", a.log_level);
    mp_loop *loop = l_loop(L);
    a.o.max_queued = (size_t)a.max_queued;
    a.o.completed_retention = (size_t)a.retention;
    a.o.epoch = mp_loop_epoch(loop);
    uint64_t seed = a.seed >= 0 ? (uint64_t)a.seed : fresh_seed();
    if (!lua_istable(L, 1) || lua_getfield(L, 1, "policy") == LUA_TNIL) lua_pushliteral(L, "default");
    l_pool *lp = l_bare_pool(L, lua_gettop(L), seed, (l_limits){ a.policy_instructions, a.policy_faults, (size_t)(a.policy_memory_mb * (1 << 20)) }, level);
    lp->pool = mp_pool_new(&a.o, seed, &lp->hooks, &lp->log);
    lp->wire = mp_wire_new(loop, lp->pool, on_event, lp);
    if (a.profile_log && !(journal = mp_journal_new(loop, a.profile_log, a.label, (uint64_t)a.log_bytes, a.log_keep, &lp->log, &e))) return luaL_error(L, "pool: option 'profile_log': %s", e.msg);
    mp_wire_journal(lp->wire, journal);
    return 1;
}

static int load_again(lua_State *L) {
    l_policy_new(L, 2, lua_touserdata(L, 1), fresh_seed());
    return 0;
}

/* pool:_reload(policy): the new one when it loads; else raises, and the old one stays. */
static int pool_reload(lua_State *L) {
    l_pool *lp = l_check_pool(L, 1);
    lua_settop(L, 2);
    if (lp->routed) return luaL_error(L, "a policy runs: it may not be loaded again from inside it");
    if (lua_isboolean(L, 2)) return 0;
    if (lua_isnil(L, 2)) { lua_pushliteral(L, "default"); lua_replace(L, 2); }
    struct l_policy *old = lp->policy;
    lp->policy = NULL;
    lua_pushcfunction(L, load_again);
    lua_pushlightuserdata(L, lp);
    lua_pushvalue(L, 2);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) {
        l_policy_free(lp->policy);
        lp->policy = old;
        return lua_error(L);
    }
    l_policy_free(old);
    l_policy_hooks(lp->policy, &lp->hooks);
    return 0;
}

/* Safe twice. What is on servers stays there: shutdown before closing is the polite way. */
static int pool_free(lua_State *L) {
    l_pool *lp = luaL_checkudata(L, 1, POOL);
    if (lp->routed) return luaL_error(L, "a policy runs: the pool may not be closed from inside it");
    if (lp->pool) {
        int handler = lp->handler;
        mp_pool *pool = lp->pool;
        lp->handler = LUA_NOREF;
        mp_wire_free(lp->wire);
        lp->wire = NULL;
        lp->pool = NULL;
        mp_pool_free(pool);
        luaL_unref(L, LUA_REGISTRYINDEX, handler);
    }
    l_policy_free(lp->policy);
    lp->policy = NULL;
    return 0;
}

/* ---- clients --------------------------------------------------------------------------------------------------------- */

mp_time l_now(const l_pool *lp) { return lp->now ? *lp->now : mp_loop_now(lp->ctx->loop); }

/* The strings of the list in field `name`, NULL-ended; workflows stand for their hashes. Anchored by the options table. */
static const char **list_of(lua_State *L, int t, const char *name, int workflows) {
    if (!lua_istable(L, t) || lua_getfield(L, t, name) == LUA_TNIL) { lua_pushnil(L); return NULL; }
    if (!lua_istable(L, -1)) luaL_error(L, "add_client: option '%s': a list expected, got %s", name, luaL_typename(L, -1));
    size_t n = lua_rawlen(L, -1);
    const char **v = lua_newuserdatauv(L, (n + 1) * sizeof *v, 0);
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, -2, (lua_Integer)i + 1);
        mp_workflow *w = workflows ? l_test_workflow(L, -1) : NULL;
        if (w) v[i] = mp_workflow_hash(w);
        else if (lua_type(L, -1) == LUA_TSTRING) v[i] = lua_tostring(L, -1);
        else luaL_error(L, "add_client: option '%s': item %d: a %s expected, got %s", name, (int)i + 1, workflows ? "workflow or structural hash" : "string", luaL_typename(L, -1));
        lua_pop(L, 1);
    }
    v[n] = NULL;
    return v;                                        /* on the stack's top, so it lives as long as the call */
}

typedef struct { const char *name, *client_id, *user, *password, *ca_file, *api_key, *bearer; double priority, max_message; int slots, insecure; } client_args;
static const opt client_opts[] = {
    { "name", OPT_TEXT, offsetof(client_args, name), 0, 0 }, { "client_id", OPT_TEXT, offsetof(client_args, client_id), 0, 0 },
    { "user", OPT_TEXT, offsetof(client_args, user), 0, 0 }, { "password", OPT_TEXT, offsetof(client_args, password), 0, 0 },
    { "ca_file", OPT_TEXT, offsetof(client_args, ca_file), 0, 0 }, { "priority", OPT_NUMBER, offsetof(client_args, priority), -1e9, 1e9 },
    { "max_message", OPT_NUMBER, offsetof(client_args, max_message), 1024, 4e9 }, { "slots", OPT_INT, offsetof(client_args, slots), 1, 64 },
    { "insecure", OPT_BOOL, offsetof(client_args, insecure), 0, 0 }, { "tags", OPT_ANY, NO_PLACE, 0, 0 }, { "affinity", OPT_ANY, NO_PLACE, 0, 0 },
    { "headers", OPT_ANY, NO_PLACE, 0, 0 }, { "api_key", OPT_TEXT, offsetof(client_args, api_key), 0, 0 }, { "bearer", OPT_TEXT, offsetof(client_args, bearer), 0, 0 },
    { NULL, 0, 0, 0, 0 }
};

/* One more header line behind those of the option; kept alive by the stack's top. */
static const char **with_bearer(lua_State *L, const char **headers, const char *token) {
    size_t n = 0;
    while (headers && headers[n]) n++;
    if (strpbrk(token, "\r\n")) luaL_error(L, "add_client: option 'bearer': a token may not contain line ends");
    const char **v = lua_newuserdatauv(L, (n + 2) * sizeof *v, 1);
    for (size_t i = 0; i < n; i++) v[i] = headers[i];
    v[n] = lua_pushfstring(L, "Authorization: Bearer %s", token);
    v[n + 1] = NULL;
    lua_setiuservalue(L, -2, 1);
    return v;
}

static int hex(char c) { return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1; }

/* "anna:p%40ss" as it stands in an address -> anna:p@ss, on the stack's top. What is no escape, or one of NUL, stays. */
static const char *unescaped(lua_State *L, const char *z, const char *end) {
    mp_buf *b = l_box(L);
    for (; z < end; z++) {
        int high = *z == '%' && end - z > 2 ? hex(z[1]) : -1, low = high < 0 ? -1 : hex(z[2]);
        mp_buf_putc(b, low < 0 || high + low == 0 ? *z : (char)(high << 4 | low));
        if (low >= 0 && high + low) z += 2;
    }
    return lua_pushlstring(L, b->p ? b->p : "", b->n);
}

/* pool:add_client(url, options) -> client, or nil, err */
static int pool_add_client(lua_State *L) {
    l_pool *lp = l_check_pool(L, 1);
    const char *url = luaL_checkstring(L, 2);
    client_args a = { 0 };
    mp_err e = { 0 };
    lua_settop(L, 3);
    l_options(L, 3, client_opts, &a, "add_client");
    mp_client_opts o = { .name = a.name, .client_id = a.client_id, .priority = a.priority, .slots = a.slots, .api_key = a.api_key };
    o.tags = list_of(L, 3, "tags", 0);
    o.affinity = list_of(L, 3, "affinity", 1);
    const char **headers = l_headers(L, 3, "add_client", 0);
    if (a.client_id && !*a.client_id) return luaL_error(L, "add_client: option 'client_id': a string of one byte or more expected");
    if (a.bearer) headers = with_bearer(L, headers, a.bearer);
    if (a.ca_file && access(a.ca_file, R_OK) != 0) return luaL_error(L, "add_client: option 'ca_file': %s: %s", a.ca_file, strerror(errno));
    const char *userpwd = a.user ? lua_pushfstring(L, "%s:%s", a.user, a.password ? a.password : "") : NULL;
    const char *host = strstr(url, "://"), *end = host ? host + 3 + strcspn(host + 3, "/?#") : NULL, *at = end;
    while (at && at > host && *at != '@') at--;      /* the last one: a password may hold another */
    if (at && *at == '@') {                          /* http://user:password@host: kept apart, so that no text shows it */
        if (!userpwd) userpwd = unescaped(L, host + 3, at);
        if (!strchr(userpwd, ':')) userpwd = lua_pushfstring(L, "%s:", userpwd);
        lua_pushlstring(L, url, (size_t)(host - url) + 3);
        lua_pushstring(L, at + 1);
        lua_concat(L, 2);
        url = lua_tostring(L, -1);
    }
    mp_wire_client w = { .headers = headers, .userpwd = userpwd, .ca_file = a.ca_file, .insecure = a.insecure, .max_message = (size_t)a.max_message };
    mp_client *c = mp_pool_add_client(lp->pool, url, &o, l_now(lp), &e);
    if (!c) return l_fail(L, e.code, e.msg, NULL);
    mp_wire_client_opts(lp->wire, c, &w);
    mp_wire_pump(lp->wire);
    l_push_client(L, lp, c);
    return 1;
}

static int pool_clients(lua_State *L) {
    l_pool *lp = l_check_pool(L, 1);
    size_t n = mp_pool_clients(lp->pool, NULL, 0);
    mp_client **v = lua_newuserdatauv(L, (n + 1) * sizeof *v, 0);
    mp_pool_clients(lp->pool, v, n);
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        l_push_client(L, lp, v[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int pool_client_by(lua_State *L) {
    l_pool *lp = l_check_pool(L, 1);
    uint32_t serial = (uint32_t)luaL_checkinteger(L, 2);
    mp_client *c = mp_pool_client(lp->pool, serial), *was = mp_pool_client_was(lp->pool, serial);
    if (c) { l_push_client(L, lp, c); return 1; }
    lua_pushnil(L);                                  /* removed just now: nil, and what it was */
    lua_pushstring(L, was ? mp_client_name(was) : NULL);
    lua_pushstring(L, was ? mp_client_url(was) : NULL);
    return 3;
}

/* pool:clients_for(workflow) -> the clients that may run it */
static int pool_may_run(lua_State *L) {
    l_pool *lp = l_check_pool(L, 1);
    const char *hash = mp_workflow_hash(l_check_workflow(L, 2));
    mp_client *v[1024];
    size_t n = mp_pool_clients(lp->pool, v, 1024), k = 0;
    lua_newtable(L);
    for (size_t i = 0; i < n && i < 1024; i++) {
        if (!mp_client_may_run(lp->pool, v[i], hash)) continue;
        l_push_client(L, lp, v[i]);
        lua_rawseti(L, -2, (lua_Integer)++k);
    }
    return 1;
}

/* ---- jobs ---------------------------------------------------------------------------------------------------------------- */

static const opt job_opts[] = {
    { "priority", OPT_NUMBER, offsetof(mp_job_opts, priority), -1e15, 1e15 }, { "max_attempts", OPT_INT, offsetof(mp_job_opts, max_attempts), 1, 1000 },
    { "profiling", OPT_BOOL, offsetof(mp_job_opts, profiling), 0, 0 }, { "partial_outputs", OPT_BOOL, offsetof(mp_job_opts, partial_outputs), 0, 0 },
    { "front", OPT_BOOL, offsetof(mp_job_opts, front), 0, 0 }, { "node_silence_ms", OPT_MS, offsetof(mp_job_opts, node_silence), 0, 1e12 },
    { "total_ms", OPT_MS, offsetof(mp_job_opts, total), 0, 1e12 }, { "execution_start_ms", OPT_MS, offsetof(mp_job_opts, execution_start), 0, 1e12 },
    { "unreachable_ms", OPT_MS, offsetof(mp_job_opts, unreachable), 0, 1e12 }, { "no_client_ms", OPT_MS, offsetof(mp_job_opts, no_client), 0, 1e12 },
    { "request_timeout_ms", OPT_MS, offsetof(mp_job_opts, request_timeout), 1, 1e12 },
    { "delay_ms", OPT_MS, offsetof(mp_job_opts, delay), 0, 1e12 }, { "retry_delay_ms", OPT_MS, offsetof(mp_job_opts, retry_delay), 0, 1e12 },
    { "job_id", OPT_TEXT, offsetof(mp_job_opts, id), 0, 0 }, { "preferred_clients", OPT_ANY, NO_PLACE, 0, 0 }, { "excluded_clients", OPT_ANY, NO_PLACE, 0, 0 },
    { "priority_overrides", OPT_ANY, NO_PLACE, 0, 0 }, { "include_outputs", OPT_ANY, NO_PLACE, 0, 0 }, { "metadata", OPT_ANY, NO_PLACE, 0, 0 }, { "extra_data", OPT_ANY, NO_PLACE, 0, 0 },
    { NULL, 0, 0, 0, 0 }
};

/* The JSON of a field, as a Lua string on the stack's top; NULL when it is absent. `ours`: a member that is left out, because it is
 * ours to write: what was copied from a server's history has it. */
static const char *json_field(lua_State *L, int t, const char *name, const char *ours) {
    if (!lua_istable(L, t) || lua_getfield(L, t, name) == LUA_TNIL) { lua_pushnil(L); return NULL; }
    if (!lua_istable(L, -1)) luaL_error(L, "submit: option '%s': a table expected, got %s", name, luaL_typename(L, -1));
    if (ours && lua_getfield(L, -1, ours) != LUA_TNIL) {
        lua_newtable(L);
        for (lua_pushnil(L); lua_next(L, -4); lua_pop(L, 1))
            if (lua_type(L, -2) != LUA_TSTRING || strcmp(lua_tostring(L, -2), ours) != 0) { lua_pushvalue(L, -2); lua_pushvalue(L, -2); lua_rawset(L, -5); }
    } else if (ours) lua_pop(L, 1);
    int value = lua_gettop(L);
    mp_buf *b = l_box(L);                            /* memory may run out below */
    l_to_json(L, value, b, name);
    lua_pushlstring(L, b->p, b->n);
    mp_buf_free(b);
    return lua_tostring(L, -1);
}

/* The value at i names a client: a name, a URL, or a client of this pool. NULL: neither. */
static const char *client_named(lua_State *L, int i, const l_pool *lp) {
    if (lua_type(L, i) == LUA_TSTRING) return lua_tostring(L, i);
    const mp_client *c = l_test_client(L, i, lp);
    return c ? mp_client_url(c) : NULL;
}

/* A list of clients as NULL-ended names, kept alive by the stack's top and the option table. */
static const char **clients_field(lua_State *L, int t, const char *name, const l_pool *lp) {
    if (lua_getfield(L, t, name) == LUA_TNIL) return NULL;
    if (!lua_istable(L, -1)) luaL_error(L, "submit: option '%s': a list of clients expected, got %s", name, luaL_typename(L, -1));
    size_t n = lua_rawlen(L, -1);
    const char **v = lua_newuserdatauv(L, (n + 1) * sizeof *v, 0);
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, -2, (lua_Integer)i + 1);
        v[i] = client_named(L, -1, lp);
        if (!v[i]) luaL_error(L, "submit: option '%s': item %d: a name, a URL or a client expected, got %s", name, (int)i + 1, luaL_typename(L, -1));
        lua_pop(L, 1);
    }
    v[n] = NULL;
    return v;
}

/* {[client] = number} */
static void overrides_field(lua_State *L, int t, mp_job_opts *o, const l_pool *lp) {
    size_t n = 0, k = 0;
    if (lua_getfield(L, t, "priority_overrides") == LUA_TNIL) return;
    if (!lua_istable(L, -1)) luaL_error(L, "submit: option 'priority_overrides': a table of client = number expected, got %s", luaL_typename(L, -1));
    int from = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, from); lua_pop(L, 1)) n++;
    const char **names = lua_newuserdatauv(L, (n + 1) * sizeof *names, 0);
    double *values = lua_newuserdatauv(L, (n + 1) * sizeof *values, 0);
    for (lua_pushnil(L); lua_next(L, from); lua_pop(L, 1)) {
        names[k] = client_named(L, -2, lp);
        if (!names[k] || lua_type(L, -1) != LUA_TNUMBER) luaL_error(L, "submit: option 'priority_overrides': names, URLs or clients as keys and numbers as values expected");
        values[k++] = lua_tonumber(L, -1);
        if (!(values[k - 1] >= -1e9 && values[k - 1] <= 1e9)) luaL_error(L, "submit: option 'priority_overrides': %s: a number from -1e9 to 1e9 expected, got %s", names[k - 1], luaL_tolstring(L, -1, NULL));
    }
    names[k] = NULL;
    o->overrides = names;
    o->override_values = values;
}

/* The further workflows of a list at t, from the second one on. */
static void variants_of(lua_State *L, int t, mp_job_opts *o) {
    size_t n = lua_rawlen(L, t) - 1;
    mp_workflow **v = lua_newuserdatauv(L, (n + 1) * sizeof *v, 0);
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, t, (lua_Integer)i + 2);
        if (!(v[i] = l_test_workflow(L, -1))) luaL_error(L, "submit_variants: item %d: a workflow expected, got %s", (int)i + 2, luaL_typename(L, -1));
        lua_pop(L, 1);
    }
    o->variants = v;
    o->n_variants = n;
}

static mp_time off_or(mp_time given) { return given == 0 ? MP_NEVER : given < 0 ? 0 : given; }        /* a bound of 0 switches it off */

static int is_output(const mp_workflow *w, const char *name) {
    const char *alias, *id;
    for (size_t i = 0; i < mp_workflow_outputs(w); i++) {
        mp_workflow_output_at(w, i, &alias, &id);
        if (alias && strcmp(alias, name) == 0) return 1;
    }
    return mp_workflow_index(w, mp_str_of(name)) >= 0;
}

/* pool:_submit(workflow or list of them, options) -> job, or nil, err (kind "full", "invalid", "gone") */
static int pool_submit(lua_State *L) {
    l_pool *lp = l_check_pool(L, 1);
    mp_job_opts o;
    mp_err e = { 0 };
    lua_settop(L, 3);
    mp_job_defaults(&o);
    mp_workflow *w;
    if (lua_istable(L, 2)) {
        if (lua_rawlen(L, 2) == 0) return luaL_error(L, "submit_variants: a list of workflows expected, got an empty table");
        variants_of(L, 2, &o);
        lua_rawgeti(L, 2, 1);
        if (!(w = l_test_workflow(L, -1))) return luaL_error(L, "submit_variants: item 1: a workflow expected, got %s", luaL_typename(L, -1));
    } else w = l_check_workflow(L, 2);
    luaL_checkstack(L, 40, NULL);
    if (!lua_isnil(L, 3)) {
        o.node_silence = o.total = o.execution_start = o.unreachable = o.no_client = -1;
        l_options(L, 3, job_opts, &o, "submit");
        o.node_silence = off_or(o.node_silence);
        o.total = off_or(o.total);
        o.execution_start = off_or(o.execution_start);
        o.unreachable = off_or(o.unreachable);
        o.no_client = off_or(o.no_client);
        o.metadata = json_field(L, 3, "metadata", NULL);
        o.extra_data = json_field(L, 3, "extra_data", "moonpool");
        o.include = json_field(L, 3, "include_outputs", NULL);
        o.prefer = clients_field(L, 3, "preferred_clients", lp);
        o.exclude = clients_field(L, 3, "excluded_clients", lp);
        overrides_field(L, 3, &o, lp);
        if (o.extra_data && o.extra_data[0] != '{') return luaL_error(L, "submit: option 'extra_data': names expected as keys");
        for (size_t i = 1; o.include && lua_getfield(L, 3, "include_outputs") && i <= lua_rawlen(L, -1); i++) {
            if (lua_rawgeti(L, -1, (lua_Integer)i) != LUA_TSTRING) return luaL_error(L, "submit: option 'include_outputs': item %d: a node id expected, got %s", (int)i, luaL_typename(L, -1));
            if (!lua_istable(L, 2) && !is_output(w, lua_tostring(L, -1))) return luaL_error(L, "submit: option 'include_outputs': item %d: the workflow has no node \"%s\", and no output of that name", (int)i, lua_tostring(L, -1));
            lua_pop(L, 2);
        }
        if (o.include && o.include[0] != '[') return luaL_error(L, "submit: option 'include_outputs': a list of node ids expected");
        if (o.id && (!*o.id || strlen(o.id) > 200)) return luaL_error(L, "submit: option 'job_id': 1 to 200 bytes expected");
    }
    mp_job *j = mp_pool_submit(lp->pool, w, &o, l_now(lp), &e);
    if (e.code == MP_EBUSY) return luaL_error(L, "%s", e.msg);
    if (!j) return l_fail(L, e.code, e.msg, NULL);
    uint64_t id = mp_job_id(j);
    mp_job_pin(j);                                   /* it may end inside the pump */
    mp_wire_pump(lp->wire);
    l_push_job(L, lp, id, 1);
    mp_job_unpin(lp->pool, j);
    return 1;
}

/* The number that the text of an id stands for; 0, which no job has, for any other text. */
static uint64_t key_of(const char *id) { return id[strspn(id, "0123456789abcdef")] ? 0 : strtoull(id, NULL, 16); }

static int pool_job(lua_State *L) {
    l_pool *lp = l_check_pool(L, 1);
    mp_job *named = lua_type(L, 2) == LUA_TSTRING ? mp_pool_job_named(lp->pool, lua_tostring(L, 2)) : NULL;
    uint64_t id = named ? mp_job_id(named) : lua_isinteger(L, 2) ? (uint64_t)lua_tointeger(L, 2) : key_of(luaL_checkstring(L, 2));
    if (!mp_pool_job(lp->pool, id)) return 0;
    l_push_job(L, lp, id, 1);
    return 1;
}

/* pool:_name(key) -> the id that scripts know the job by */
static int pool_name(lua_State *L) {
    l_pool *lp = l_check_pool(L, 1);
    uint64_t id = (uint64_t)luaL_checkinteger(L, 2);
    const mp_job *j = mp_pool_job(lp->pool, id);
    l_push_job_id(L, j, id);
    return 1;
}

static int pool_pause(lua_State *L) {
    l_pool *lp = l_check_pool(L, 1);
    if (mp_pool_pause(lp->pool, lua_toboolean(L, 2), l_now(lp)) == MP_EBUSY) return luaL_error(L, "a policy runs: the pool may not be paused from inside it");
    mp_wire_pump(lp->wire);
    return 0;
}

static void add_queue(void *ud, const char *hash, const char *type, size_t pending) {
    lua_State *L = ud;
    lua_createtable(L, 0, 3);
    lua_pushstring(L, hash);
    lua_setfield(L, -2, "workflow_hash");
    lua_pushstring(L, type);
    lua_setfield(L, -2, "type");
    lua_pushinteger(L, (lua_Integer)pending);
    lua_setfield(L, -2, "pending");
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
}

static int pool_undelivered(lua_State *L) {
    l_pool *lp = l_check_pool(L, 1);
    mp_job *j = mp_pool_undelivered(lp->pool);
    if (!j) return 0;
    l_push_job(L, lp, mp_job_id(j), 1);
    return 1;
}

static int pool_stats(lua_State *L) {
    l_pool *lp = l_check_pool(L, 1);
    mp_pool_stats s;
    mp_pool_get_stats(lp->pool, &s);
    struct { const char *name; size_t v; } fields[] = {
        { "pending", s.pending }, { "assigned", s.assigned }, { "running", s.running }, { "delayed", s.delayed }, { "completed", s.completed },
        { "failed", s.failed }, { "canceled", s.canceled }, { "clients", s.clients }, { "online", s.online }, { "malformed", s.malformed }, { "parked", s.parked }, { "taken_back", s.taken_back }, { "late", s.late },
        { "unfinished", s.pending + s.assigned + s.running }
    };
    lua_createtable(L, 0, 11);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        lua_pushinteger(L, (lua_Integer)fields[i].v);
        lua_setfield(L, -2, fields[i].name);
    }
    lua_pushboolean(L, mp_pool_paused(lp->pool));
    lua_setfield(L, -2, "paused");
    lua_newtable(L);
    mp_pool_queues(lp->pool, add_queue, L);
    lua_setfield(L, -2, "queues");
    return 1;
}

static int pool_stop(lua_State *L) {
    l_pool *lp = l_check_pool(L, 1);
    if (mp_pool_shutdown(lp->pool, lua_toboolean(L, 2), l_now(lp)) == MP_EBUSY) return luaL_error(L, "a policy runs: the pool may not be shut down from inside it");
    mp_wire_pump(lp->wire);
    return 0;
}

/* Nothing is left to be done, and the profile log is written. */
static int pool_quiet(lua_State *L) {
    l_pool *lp = l_check_pool(L, 1);
    lua_pushboolean(L, mp_pool_quiet(lp->pool) && mp_wire_written(lp->wire));
    return 1;
}

static int pool_handler(lua_State *L) {
    l_pool *lp = l_check_pool(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    luaL_unref(L, LUA_REGISTRYINDEX, lp->handler);
    lua_settop(L, 2);
    lp->handler = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

/* pool:_want{names}: which optional events to make */
static int pool_want(lua_State *L) {
    l_pool *lp = l_check_pool(L, 1);
    uint32_t mask = 0;
    luaL_checktype(L, 2, LUA_TTABLE);
    for (int i = 0; i < MP_EV_COUNT; i++) {
        lua_getfield(L, 2, event_names[i]);
        if (lua_toboolean(L, -1)) mask |= 1u << i;
        lua_pop(L, 1);
    }
    mp_pool_want(lp->pool, mask);
    lua_getfield(L, 2, "log");
    lp->log_told = lua_toboolean(L, -1);
    return 0;
}

/* pool:_log(level, line): a line of the pool's own */
static int pool_log(lua_State *L) {
    l_pool *lp = l_check_pool(L, 1);
    mp_logf(&lp->log, mp_log_level(luaL_checkstring(L, 2)), "%s", luaL_checkstring(L, 3));
    return 0;
}

static int pool_state(lua_State *L) {
    luaL_checkudata(L, 1, POOL);
    lua_getiuservalue(L, 1, 1);
    return 1;
}

static int pool_closed(lua_State *L) {
    l_pool *lp = luaL_checkudata(L, 1, POOL);
    lua_pushboolean(L, lp->pool == NULL);
    return 1;
}

static int pool_transfer(lua_State *L) {
    l_pool *lp = l_check_pool(L, 1);
    mp_job *j = mp_pool_job(lp->pool, (uint64_t)luaL_checkinteger(L, 2));
    if (j && mp_job_profile(j)) mp_profile_transfer(mp_job_profile(j), (mp_time)(luaL_checknumber(L, 3) * 1000));
    return 0;
}

static int pool_index(lua_State *L) {
    luaL_getmetafield(L, 1, "methods");
    lua_pushvalue(L, 2);
    lua_gettable(L, -2);
    return 1;
}

void l_open_pool(lua_State *L) {
    static const luaL_Reg methods[] = {
        { "add_client", pool_add_client }, { "clients", pool_clients }, { "_client", pool_client_by }, { "clients_for", pool_may_run }, { "_submit", pool_submit }, { "job", pool_job },
        { "stats", pool_stats }, { "_undelivered", pool_undelivered }, { "_stop", pool_stop }, { "_quiet", pool_quiet }, { "_handler", pool_handler }, { "_want", pool_want },
        { "_reload", pool_reload }, { "_state", pool_state }, { "_closed", pool_closed }, { "_free", pool_free }, { "_transfer", pool_transfer }, { "_name", pool_name }, { "_pause", pool_pause }, { "_log", pool_log }, { NULL, NULL }
    };
    static const luaL_Reg meta[] = { { "__index", pool_index }, { "__gc", pool_free }, { NULL, NULL } };
    l_class(L, POOL, methods, meta);
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_setfield(L, LUA_REGISTRYINDEX, "moonpool.pools");
    lua_pushcfunction(L, pool_new);
    lua_setfield(L, -2, "pool");
}
