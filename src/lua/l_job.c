/* lua/l_job.c -- floor 7, lua: handles of jobs and clients, as scripts and policies see them: {pool, id}. A stale
 * one raises. A handle in the user's state pins its job's record; a policy's does not. */
#include "lua/inside.h"
#include <stdlib.h>

#define JOB "moonpool.job"
#define CLIENT "moonpool.client"

typedef struct { l_pool *lp; uint64_t id; int pinned; } l_job;
typedef struct { l_pool *lp; uint32_t serial; } l_client;

/* The handle keeps the pool's userdata alive through its user value; a policy's state has none, and dies first. */
static void anchor(lua_State *L, l_pool *lp) {
    if (lua_getfield(L, LUA_REGISTRYINDEX, "moonpool.pools") == LUA_TTABLE) {
        lua_rawgetp(L, -1, lp);
        lua_remove(L, -2);
    }
    lua_setiuservalue(L, -2, 1);
}

void l_push_job(lua_State *L, l_pool *lp, uint64_t id, int pin) {
    l_job *u = lua_newuserdatauv(L, sizeof *u, 1);
    *u = (l_job){ lp, id, 0 };
    luaL_setmetatable(L, JOB);
    anchor(L, lp);
    mp_job *j = mp_pool_job(lp->pool, id);
    if (j && pin) { mp_job_pin(j); u->pinned = 1; }
}

mp_client *l_test_client(lua_State *L, int i, const l_pool *lp) {
    const l_client *u = luaL_testudata(L, i, CLIENT);
    return u && u->lp == lp && lp->pool ? mp_pool_client(lp->pool, u->serial) : NULL;
}

void l_push_client(lua_State *L, l_pool *lp, const mp_client *c) {
    l_client *u = lua_newuserdatauv(L, sizeof *u, 1);
    *u = (l_client){ lp, mp_client_serial(c) };
    luaL_setmetatable(L, CLIENT);
    anchor(L, lp);
}

int l_client_is(lua_State *L, int i, const l_pool *lp, uint32_t serial) {
    const l_client *u = luaL_testudata(L, i, CLIENT);
    return u && u->lp == lp && u->serial == serial;
}

static mp_job *check_job(lua_State *L, int i, l_pool **lp) {
    l_job *u = l_self(L, i, JOB);
    mp_job *j = u->lp->pool ? mp_pool_job(u->lp->pool, u->id) : NULL;
    if (!j) luaL_error(L, "this job is gone: its record was dropped, or its pool was closed");
    *lp = u->lp;
    return j;
}

static mp_client *check_client(lua_State *L, int i, l_pool **lp) {
    l_client *u = l_self(L, i, CLIENT);
    mp_client *c = u->lp->pool ? mp_pool_client(u->lp->pool, u->serial) : NULL;
    if (!c) luaL_error(L, "this client is gone: it was removed, or its pool was closed");
    *lp = u->lp;
    return c;
}

static void push_id(lua_State *L, uint64_t id) {
    char t[24];
    lua_pushlstring(L, t, (size_t)snprintf(t, sizeof t, "%llx", (unsigned long long)id));
}

void l_push_job_id(lua_State *L, const mp_job *j, uint64_t id) {
    if (j && mp_job_name(j)) lua_pushstring(L, mp_job_name(j));
    else push_id(L, id);
}

static void push_failure(lua_State *L, const mp_job *j) {
    const mp_failure *f = mp_job_failure(j);
    if (!f || (!mp_job_ended(j) && !f->kind)) { lua_pushnil(L); return; }
    lua_createtable(L, 0, 5);
    lua_pushstring(L, mp_failure_name(f->kind));
    lua_setfield(L, -2, "kind");
    lua_pushstring(L, f->message);
    lua_setfield(L, -2, "message");
    lua_pushstring(L, mp_job_client(j));
    lua_setfield(L, -2, "client");
    if (f->node) { lua_pushstring(L, f->node); lua_setfield(L, -2, "node"); }
    if (f->node_type) { lua_pushstring(L, f->node_type); lua_setfield(L, -2, "node_type"); }
    if (f->details) { l_push_json_text(L, f->details, strlen(f->details)); lua_setfield(L, -2, "details"); }
    luaL_setmetatable(L, "moonpool.error");
}

static void push_outputs(lua_State *L, const mp_job *j) {
    const char *node, *json;
    lua_createtable(L, 0, (int)mp_job_outputs(j));
    for (size_t i = 0; i < mp_job_outputs(j); i++) {
        mp_job_output(j, i, &node, &json);
        l_push_json_text(L, json, strlen(json));
        lua_setfield(L, -2, node);
    }
}

/* What the workflow named: alias -> node id. */
static void push_aliases(lua_State *L, const mp_job *j) {
    const char *alias, *id;
    const mp_workflow *w = mp_job_sent(j) ? mp_job_sent(j) : mp_job_workflow(j);         /* of variants the one that was sent */
    lua_newtable(L);
    for (size_t i = 0; i < mp_workflow_outputs(w); i++) {
        mp_workflow_output_at(w, i, &alias, &id);
        lua_pushstring(L, id);
        lua_setfield(L, -2, alias);
    }
}

static void push_seeds(lua_State *L, const mp_job *j) {
    const char *node, *input;
    uint64_t v;
    lua_newtable(L);
    for (size_t i = 0; i < mp_job_seeds(j); i++) {
        mp_job_seed(j, i, &node, &input, &v);
        lua_createtable(L, 0, 3);
        lua_pushstring(L, node);
        lua_setfield(L, -2, "node");
        lua_pushstring(L, input);
        lua_setfield(L, -2, "input");
        lua_pushinteger(L, (lua_Integer)v);
        lua_setfield(L, -2, "seed");
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

static void add_model(void *ud, mp_str file) {
    lua_State *L = ud;
    lua_pushlstring(L, file.p, file.n);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
}


typedef struct { const char *name; void (*push)(lua_State *L, l_pool *lp, const mp_job *j); } job_field;

static void f_id(lua_State *L, l_pool *lp, const mp_job *j) { (void)lp; l_push_job_id(L, j, mp_job_id(j)); }
static void f_status(lua_State *L, l_pool *lp, const mp_job *j) { (void)lp; lua_pushstring(L, mp_job_status_name(mp_job_status(j))); }
static void f_ended(lua_State *L, l_pool *lp, const mp_job *j) { (void)lp; lua_pushboolean(L, mp_job_ended(j)); }
static void f_priority(lua_State *L, l_pool *lp, const mp_job *j) { (void)lp; lua_pushnumber(L, mp_job_priority(j)); }
static void f_attempts(lua_State *L, l_pool *lp, const mp_job *j) { (void)lp; lua_pushinteger(L, mp_job_attempts(j)); }
static void f_waited(lua_State *L, l_pool *lp, const mp_job *j) { lua_pushnumber(L, (double)(l_now(lp) - mp_job_queued(j)) / 1000); }
static void f_hash(lua_State *L, l_pool *lp, const mp_job *j) { (void)lp; lua_pushstring(L, mp_workflow_hash(mp_job_workflow(j))); }
static void f_models(lua_State *L, l_pool *lp, const mp_job *j) { (void)lp; lua_newtable(L); mp_workflow_models(mp_job_workflow(j), add_model, L); }
static void f_prompt(lua_State *L, l_pool *lp, const mp_job *j) { (void)lp; lua_pushstring(L, mp_job_prompt_id(j)); }
static void f_client(lua_State *L, l_pool *lp, const mp_job *j) { (void)lp; lua_pushstring(L, mp_job_client(j)); }
static void f_url(lua_State *L, l_pool *lp, const mp_job *j) { (void)lp; lua_pushstring(L, mp_job_client_url(j)); }
static void f_error(lua_State *L, l_pool *lp, const mp_job *j) { (void)lp; push_failure(L, j); }
static void f_outputs(lua_State *L, l_pool *lp, const mp_job *j) { (void)lp; push_outputs(L, j); }
static void f_aliases(lua_State *L, l_pool *lp, const mp_job *j) { (void)lp; push_aliases(L, j); }
static void f_seeds(lua_State *L, l_pool *lp, const mp_job *j) { (void)lp; push_seeds(L, j); }
static void f_metadata(lua_State *L, l_pool *lp, const mp_job *j) {
    const char *m = mp_job_metadata(j);
    (void)lp;
    if (m) l_push_json_text(L, m, strlen(m));
    else lua_pushnil(L);
}
static void f_sent(lua_State *L, l_pool *lp, const mp_job *j) {
    mp_workflow *w = mp_job_sent(j);
    (void)lp;
    if (w) l_push_workflow(L, mp_workflow_ref(w));
    else lua_pushnil(L);
}
static void f_profile(lua_State *L, l_pool *lp, const mp_job *j) {
    mp_profile *p = mp_job_profile(j);
    if (p) l_push_profile(L, p, mp_pool_options(lp->pool)->epoch);
    else lua_pushnil(L);
}

static void f_progress(lua_State *L, l_pool *lp, const mp_job *j) { lua_pushnumber(L, mp_job_progress(j, l_now(lp))); }
static void f_include(lua_State *L, l_pool *lp, const mp_job *j) {
    (void)lp;
    if (mp_job_include(j)) l_push_json_text(L, mp_job_include(j), strlen(mp_job_include(j)));
    else lua_pushnil(L);
}
static void f_cached(lua_State *L, l_pool *lp, const mp_job *j) {        /* nodes whose answer is an earlier one */
    (void)lp;
    lua_newtable(L);
    for (size_t i = 0; i < mp_job_outputs(j); i++) {
        const char *node, *json;
        if (!mp_job_output_cached(j, i)) continue;
        mp_job_output(j, i, &node, &json);
        lua_pushboolean(L, 1);
        lua_setfield(L, -2, node);
    }
}

static void f_pictures(lua_State *L, l_pool *lp, const mp_job *j) {
    (void)lp;
    lua_newtable(L);
    for (size_t i = 0; i < mp_job_pictures(j); i++) {
        const char *node;
        mp_str p = mp_job_picture(j, i, &node);
        lua_createtable(L, 0, 2);
        lua_pushstring(L, node);
        lua_setfield(L, -2, "node");
        lua_pushlstring(L, p.p, p.n);
        lua_setfield(L, -2, "data");
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

static const job_field job_fields[] = {
    { "progress", f_progress }, { "include", f_include }, { "cached_outputs", f_cached }, { "pictures", f_pictures },
    { "id", f_id }, { "status", f_status }, { "ended", f_ended }, { "priority", f_priority }, { "attempts", f_attempts }, { "waited_ms", f_waited },
    { "structure_hash", f_hash }, { "models", f_models }, { "prompt_id", f_prompt }, { "client", f_client }, { "client_url", f_url }, { "error", f_error },
    { "raw_outputs", f_outputs }, { "aliases", f_aliases }, { "auto_seeds", f_seeds }, { "metadata", f_metadata }, { "sent", f_sent }, { "profile", f_profile }
};

static int method(lua_State *L, const char *k) {
    luaL_getmetafield(L, 1, "methods");
    lua_getfield(L, -1, k);
    return 1;
}

static int job_index(lua_State *L) {
    const char *k = luaL_checkstring(L, 2);
    l_pool *lp;
    for (size_t i = 0; i < sizeof job_fields / sizeof *job_fields; i++)
        if (strcmp(job_fields[i].name, k) == 0) {
            mp_job *j = check_job(L, 1, &lp);
            job_fields[i].push(L, lp, j);
            return 1;
        }
    if (strcmp(k, "pool") == 0) { lua_getiuservalue(L, 1, 1); return 1; }
    return method(L, k);
}

static int job_cancel(lua_State *L) {
    l_pool *lp;
    mp_job *j = check_job(L, 1, &lp);
    int rc = mp_pool_cancel(lp->pool, j, l_now(lp));
    if (rc == MP_EBUSY) return luaL_error(L, "a policy runs: nothing may be canceled from inside it");
    mp_wire_pump(lp->wire);
    lua_pushboolean(L, rc == 0);
    return 1;
}

/* job:set_priority(n) -> true, or false when it no longer waits */
static int job_set_priority(lua_State *L) {
    l_pool *lp;
    mp_job *j = check_job(L, 1, &lp);
    double priority = luaL_checknumber(L, 2);
    luaL_argcheck(L, priority >= -1e15 && priority <= 1e15, 2, "a number from -1e15 to 1e15 expected");
    int rc = mp_pool_set_priority(lp->pool, j, priority, l_now(lp));
    if (rc == MP_EBUSY) return luaL_error(L, "a policy runs: no priority may be changed from inside it");
    mp_wire_pump(lp->wire);
    lua_pushboolean(L, rc == 0);
    return 1;
}

/* job:time_left() -> milliseconds until its end, and a range that holds nine times of ten; nothing while that is unknown */
static int job_time_left(lua_State *L) {
    l_pool *lp;
    mp_time t[3];
    mp_job *j = check_job(L, 1, &lp);
    if (!mp_job_left(j, l_now(lp), &t[0], &t[1], &t[2])) return 0;
    for (int i = 0; i < 3; i++) lua_pushnumber(L, (double)t[i] / 1000);
    return 3;
}

static int job_delivered(lua_State *L) {
    l_pool *lp;
    mp_job_delivered((check_job(L, 1, &lp), lp->pool), check_job(L, 1, &lp));
    return 0;
}

static int job_key(lua_State *L) {
    l_job *u = luaL_checkudata(L, 1, JOB);
    lua_pushinteger(L, (lua_Integer)u->id);
    return 1;
}

static int job_gc(lua_State *L) {
    l_job *u = luaL_checkudata(L, 1, JOB);
    if (u->pinned) {
        u->pinned = 0;
        mp_job *j = u->lp->pool ? mp_pool_job(u->lp->pool, u->id) : NULL;
        if (j) mp_job_unpin(u->lp->pool, j);
    }
    return 0;
}

static int job_eq(lua_State *L) {
    l_job *a = luaL_testudata(L, 1, JOB), *b = luaL_testudata(L, 2, JOB);
    lua_pushboolean(L, a && b && a->lp == b->lp && a->id == b->id);
    return 1;
}

static int job_text(lua_State *L) {
    l_job *u = luaL_checkudata(L, 1, JOB);
    mp_job *j = u->lp->pool ? mp_pool_job(u->lp->pool, u->id) : NULL;
    l_push_job_id(L, j, u->id);
    lua_pushfstring(L, "job %s (%s)", lua_tostring(L, -1), j ? mp_job_status_name(mp_job_status(j)) : "gone");
    return 1;
}

/* ---- clients ------------------------------------------------------------------------------------------------------ */

static void push_list(lua_State *L, const char *const *v) {
    lua_newtable(L);
    for (int i = 0; v[i]; i++) {
        lua_pushstring(L, v[i]);
        lua_rawseti(L, -2, i + 1);
    }
}

static void push_devices(lua_State *L, const mp_client *c) {
    const char *text = mp_client_stats(c);
    mp_json *j = text ? mp_json_parse(text, strlen(text), NULL) : NULL;
    lua_newtable(L);
    int i = 0;
    for (const mp_json *d = mp_json_first(mp_json_get(j, "devices")); d; d = mp_json_next(d)) {
        lua_newtable(L);
        lua_pushstring(L, mp_json_string(mp_json_get(d, "name")));
        lua_setfield(L, -2, "name");
        lua_pushnumber(L, mp_json_number(mp_json_get(d, "vram_total"), 0));
        lua_setfield(L, -2, "vram_total");
        lua_pushnumber(L, mp_json_number(mp_json_get(d, "vram_free"), 0));
        lua_setfield(L, -2, "vram_free");
        lua_rawseti(L, -2, ++i);
    }
    mp_json_free(j);
}

typedef struct { lua_State *L; mp_time now, epoch; } block_list;

static void add_block(void *ud, const char *hash, const char *reason, mp_time until) {
    const block_list *l = ud;
    lua_createtable(l->L, 0, 3);
    lua_pushstring(l->L, hash);
    lua_setfield(l->L, -2, "structure_hash");
    lua_pushstring(l->L, reason);
    lua_setfield(l->L, -2, "reason");
    if (until != MP_NEVER) {
        lua_pushnumber(l->L, (double)(until > l->now ? until - l->now : 0) / 1000);
        lua_setfield(l->L, -2, "until_ms");
    }
    lua_rawseti(l->L, -2, (lua_Integer)lua_rawlen(l->L, -2) + 1);
}

enum { C_NAME, C_URL, C_CLIENT_ID, C_STATE, C_ONLINE, C_TRIED, C_PRIORITY, C_SLOTS, C_QUEUED, C_FREE_SLOTS, C_LAST_HASH, C_VERSION, C_PROBLEM, C_TAGS, C_AFFINITY, C_DEVICES, C_MODELS,
       C_EXPECTED, C_WARM, C_FINISH, C_INDEX, C_PAUSED, C_DRAINING, C_POLLING, C_BLOCKED };
static const char *const client_names[] = { "name", "url", "client_id", "state", "online", "tried", "priority", "slots", "queued", "free_slots", "last_hash", "version", "problem", "tags",
    "affinity", "devices", "models", "expected_ms", "warm", "finish_ms", "index", "paused", "draining", "polling", "blocked", NULL };

static void client_field(lua_State *L, l_pool *lp, const mp_client *c, int field) {
    static const char *const states[] = { "connecting", "online", "offline" };
    const mp_job *j = lp->routed;
    int online = mp_client_get_state(c) == MP_CLIENT_ONLINE;
    switch (field) {
    case C_NAME: lua_pushstring(L, mp_client_name(c)); break;
    case C_URL: lua_pushstring(L, mp_client_url(c)); break;
    case C_CLIENT_ID: lua_pushstring(L, mp_client_sid(c)); break;
    case C_STATE: lua_pushstring(L, online ? (mp_client_load(c) ? "busy" : "idle") : states[mp_client_get_state(c)]); break;
    case C_ONLINE: lua_pushboolean(L, online); break;
    case C_TRIED: lua_pushboolean(L, mp_client_tried(c)); break;
    case C_PRIORITY: lua_pushnumber(L, j ? mp_client_priority_for(c, j) : mp_client_priority(c)); break;
    case C_SLOTS: lua_pushinteger(L, mp_client_slots(c)); break;
    case C_QUEUED: lua_pushinteger(L, mp_client_load(c)); break;
    case C_FREE_SLOTS: lua_pushinteger(L, mp_client_slots(c) - mp_client_load(c)); break;
    case C_LAST_HASH: lua_pushstring(L, mp_client_last_hash(c)); break;
    case C_VERSION: lua_pushstring(L, mp_client_version(c)); break;
    case C_PROBLEM: lua_pushstring(L, mp_client_problem(c)); break;
    case C_TAGS: push_list(L, mp_client_tags(c)); break;
    case C_AFFINITY: push_list(L, mp_client_affinity(c)); break;
    case C_DEVICES: push_devices(L, c); break;
    case C_MODELS:
        lua_newtable(L);
        if (mp_client_last_workflow(c)) mp_workflow_models(mp_client_last_workflow(c), add_model, L);
        break;
    case C_EXPECTED: lua_pushnumber(L, (double)mp_client_expected(c, l_now(lp)) / 1000); break;
    case C_WARM:                                     /* to the job of this hook; outside of hooks there is none */
        if (j) lua_pushinteger(L, mp_client_warmth(c, j));
        else lua_pushnil(L);
        break;
    case C_FINISH: lua_pushnumber(L, (double)(j ? mp_client_finish(c, j, l_now(lp)) : mp_client_expected(c, l_now(lp))) / 1000); break;
    case C_INDEX: lua_pushinteger(L, mp_client_serial(c)); break;
    case C_PAUSED: lua_pushboolean(L, mp_client_paused(c)); break;
    case C_DRAINING: lua_pushboolean(L, mp_client_draining(c)); break;
    case C_POLLING: lua_pushboolean(L, mp_client_polling(c)); break;
    case C_BLOCKED:
        lua_newtable(L);
        mp_client_blocks(c, add_block, &(block_list){ L, l_now(lp), 0 });
        break;
    }
}

/* The client that is the first argument, for what policies ask by the thousand: upvalue 1 is the metatable of clients, so that
 * nothing is looked up. */
static const mp_client *quick_client(lua_State *L, l_pool **lp) {
    const l_client *u = lua_getmetatable(L, 1) && lua_rawequal(L, -1, lua_upvalueindex(1)) ? lua_touserdata(L, 1) : NULL;
    const mp_client *c = u && u->lp->pool ? mp_pool_client(u->lp->pool, u->serial) : NULL;
    if (!c) return check_client(L, 1, lp);
    *lp = u->lp;
    return c;
}

/* Upvalues: the metatable of clients; the numbers of the fields by name; the methods. */
static int client_index(lua_State *L) {
    l_pool *lp;
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(2)) == LUA_TNUMBER) {
        int field = (int)lua_tointeger(L, -1);
        const mp_client *c = quick_client(L, &lp);
        client_field(L, lp, c, field);
        return 1;
    }
    luaL_checkstring(L, 2);
    lua_pushvalue(L, 2);
    if (lua_gettable(L, lua_upvalueindex(3)) != LUA_TNIL) return 1;
    if (strcmp(lua_tostring(L, 2), "pool") == 0) { lua_getiuservalue(L, 1, 1); return 1; }
    check_client(L, 1, &lp);
    return 0;
}

/* client:typical_ms(hash): how long that hash usually runs there, or nil */
static int client_typical(lua_State *L) {
    l_pool *lp;
    mp_client *c = check_client(L, 1, &lp);
    mp_time t = mp_client_typical(c, luaL_checkstring(L, 2));
    if (!t) return 0;
    lua_pushnumber(L, (double)t / 1000);
    return 1;
}

/* client:standing() -> warm, priority, finish_ms: what the default policy compares, in one call */
static int client_standing(lua_State *L) {
    l_pool *lp;
    const mp_client *c = quick_client(L, &lp);
    client_field(L, lp, c, C_WARM);
    client_field(L, lp, c, C_PRIORITY);
    client_field(L, lp, c, C_FINISH);
    return 3;
}

/* headers, userpwd, insecure, ca_file and the pool's bounds for requests of the script's own */
static int client_access(lua_State *L) {
    l_pool *lp;
    mp_client *c = check_client(L, 1, &lp);
    if (lp->ctx->callbacks > 0 && L != lp->ctx->L && lua_getfield(L, LUA_REGISTRYINDEX, "moonpool.entry") != LUA_TNIL) return luaL_error(L, "a policy may not see credentials");
    if (!lp->wire) return luaL_error(L, "a plan has no servers that could be asked");
    const mp_wire_client *o = mp_wire_opts_of(lp->wire, c);
    const mp_pool_opts *bounds = mp_pool_options(lp->pool);
    lua_newtable(L);
    lua_pushnumber(L, (double)bounds->request_timeout / 1000);
    lua_setfield(L, -2, "request_timeout_ms");
    lua_pushnumber(L, (double)bounds->connect_timeout / 1000);
    lua_setfield(L, -2, "connect_timeout_ms");
    if (!o) return 1;
    if (o->headers) push_list(L, o->headers);
    else lua_newtable(L);
    lua_setfield(L, -2, "header_lines");
    if (o->userpwd) { lua_pushstring(L, o->userpwd); lua_setfield(L, -2, "userpwd"); }
    if (o->ca_file) { lua_pushstring(L, o->ca_file); lua_setfield(L, -2, "ca_file"); }
    lua_pushboolean(L, o->insecure);
    lua_setfield(L, -2, "insecure");
    return 1;
}

static int client_remove(lua_State *L) {
    l_pool *lp;
    mp_client *c = check_client(L, 1, &lp);
    int drain = 0;
    static const opt opts[] = { { "drain", OPT_BOOL, 0, 0, 0 }, { NULL, 0, 0, 0, 0 } };
    l_options(L, 2, opts, &drain, "client:remove");
    int rc = mp_pool_remove_client(lp->pool, c, drain, l_now(lp));
    if (rc == MP_EBUSY) return luaL_error(L, "a policy runs: no client may be removed from inside it");
    mp_wire_pump(lp->wire);
    lua_pushboolean(L, rc == 0);
    return 1;
}

static int client_pause(lua_State *L) {
    l_pool *lp;
    mp_client *c = check_client(L, 1, &lp);
    if (mp_pool_pause_client(lp->pool, c, lua_toboolean(L, 2), l_now(lp)) == MP_EBUSY) return luaL_error(L, "a policy runs: no client may be paused from inside it");
    mp_wire_pump(lp->wire);
    return 0;
}

static int client_eq(lua_State *L) {
    l_client *a = luaL_testudata(L, 1, CLIENT), *b = luaL_testudata(L, 2, CLIENT);
    lua_pushboolean(L, a && b && a->lp == b->lp && a->serial == b->serial);
    return 1;
}

static int client_text(lua_State *L) {
    l_pool *lp;
    lua_pushfstring(L, "client %s", mp_client_name(check_client(L, 1, &lp)));
    return 1;
}

static int client_serial(lua_State *L) {
    l_client *u = luaL_checkudata(L, 1, CLIENT);
    lua_pushinteger(L, u->serial);
    return 1;
}

void l_open_job(lua_State *L) {
    static const luaL_Reg jm[] = { { "cancel", job_cancel }, { "set_priority", job_set_priority }, { "time_left", job_time_left }, { "_delivered", job_delivered }, { "_key", job_key }, { NULL, NULL } };
    static const luaL_Reg jx[] = { { "__index", job_index }, { "__gc", job_gc }, { "__close", job_gc }, { "__eq", job_eq }, { "__tostring", job_text }, { NULL, NULL } };
    static const luaL_Reg cm[] = { { "typical_ms", client_typical }, { "_access", client_access }, { "remove", client_remove }, { "_pause", client_pause }, { "_serial", client_serial }, { NULL, NULL } };
    static const luaL_Reg cx[] = { { "__eq", client_eq }, { "__tostring", client_text }, { NULL, NULL } };
    l_class(L, JOB, jm, jx);
    l_class(L, CLIENT, cm, cx);
    luaL_getmetatable(L, CLIENT);
    lua_getfield(L, -1, "methods");
    lua_pushvalue(L, -2);
    lua_pushcclosure(L, client_standing, 1);
    lua_setfield(L, -2, "standing");
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    lua_newtable(L);
    for (int i = 0; client_names[i]; i++) {
        lua_pushinteger(L, i);
        lua_setfield(L, -2, client_names[i]);
    }
    lua_getfield(L, -3, "methods");
    lua_pushcclosure(L, client_index, 3);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
