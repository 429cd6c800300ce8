/* lua/l_profile.c -- floor 7, lua: a profile as plain Lua tables, straight from the visitor; many of them, and answers. */
#include "lua/inside.h"
#include "prof/runs.h"
#include <math.h>

typedef struct { lua_State *L; int depth; lua_Integer next[64]; } builder;   /* next: place in an array, 0: an object */

static void put(builder *b, const char *name) {
    if (b->depth == 0) return;                       /* the document itself stays on the stack */
    if (name) lua_setfield(b->L, -2, name);
    else lua_rawseti(b->L, -2, b->next[b->depth - 1]++);
}

/* A nested table is stored in its parent at once and stays on the stack while it is filled. */
static void on_open(void *ud, const char *name, int array) {
    builder *b = ud;
    luaL_checkstack(b->L, 4, NULL);
    lua_newtable(b->L);
    if (array) luaL_setmetatable(b->L, "moonpool.array");
    if (b->depth) {
        lua_pushvalue(b->L, -1);
        if (name) lua_setfield(b->L, -3, name);
        else lua_rawseti(b->L, -3, b->next[b->depth - 1]++);
    }
    b->next[b->depth++] = array ? 1 : 0;
}
static void on_close(void *ud) {
    builder *b = ud;
    if (--b->depth) lua_pop(b->L, 1);
}
static void on_number(void *ud, const char *name, double v) {
    builder *b = ud;
    if (v < 1e15 && v > -1e15 && v == (double)(lua_Integer)v) lua_pushinteger(b->L, (lua_Integer)v);
    else lua_pushnumber(b->L, v);
    put(b, name);
}
static void on_string(void *ud, const char *name, mp_str s) { builder *b = ud; lua_pushlstring(b->L, s.p, s.n); put(b, name); }
static void on_boolean(void *ud, const char *name, int v) { builder *b = ud; lua_pushboolean(b->L, v); put(b, name); }
static void on_json(void *ud, const char *name, mp_str s) { builder *b = ud; l_push_json_text(b->L, s.p, s.n); put(b, name); }

#define LUA_SINK(b) { &(b), on_open, on_close, on_number, on_string, on_boolean, on_json }

void l_push_profile(lua_State *L, const mp_profile *p, mp_time epoch) {
    builder b = { L, 0, { 0 } };
    mp_sink s = LUA_SINK(b);
    mp_profile_visit(p, epoch, &s);
}

/* ---- many of them, from logs: moonpool.profiles (lua/moonpool/profiles.lua has the words) ------------------------- */

#define RUNS "moonpool.runs"
static mp_runs *check_runs(lua_State *L, int i) { return *(mp_runs **)l_self(L, i, RUNS); }

/* runs(): an empty set */
static int runs_new(lua_State *L) {
    mp_runs **at = lua_newuserdatauv(L, sizeof *at, 0);
    *at = mp_runs_new();
    luaL_setmetatable(L, RUNS);
    return 1;
}

static int runs_free(lua_State *L) {
    mp_runs **at = luaL_checkudata(L, 1, RUNS);
    mp_runs_free(*at);
    *at = NULL;
    return 0;
}

/* runs:_load(path) -> true, or nil, err; runs:_add(line); runs:_ready(label or nil) */
static int runs_load(lua_State *L) {
    mp_err e;
    if (mp_runs_load(check_runs(L, 1), luaL_checkstring(L, 2), &e)) return l_fail(L, e.code, e.msg, NULL);
    lua_pushboolean(L, 1);
    return 1;
}
static int runs_add(lua_State *L) {
    size_t n;
    const char *line = luaL_checklstring(L, 2, &n);
    mp_runs_add(check_runs(L, 1), mp_str_make(line, n));
    return 0;
}
static int runs_ready(lua_State *L) {
    mp_runs_ready(check_runs(L, 1));
    mp_runs_only(check_runs(L, 1), luaL_optstring(L, 2, NULL));
    return 0;
}

/* runs:skipped() -> lines left out, of them those of a newer schema */
static int runs_skipped(lua_State *L) {
    size_t newer;
    lua_pushinteger(L, (lua_Integer)mp_runs_bad(check_runs(L, 1), &newer));
    lua_pushinteger(L, (lua_Integer)newer);
    return 2;
}

static int runs_completed(lua_State *L) { lua_pushinteger(L, (lua_Integer)mp_runs_completed(check_runs(L, 1))); return 1; }
static int runs_len(lua_State *L) { lua_pushinteger(L, (lua_Integer)mp_runs_count(check_runs(L, 1))); return 1; }

static size_t place_of(lua_State *L, mp_runs *r) {
    lua_Integer i = luaL_checkinteger(L, 2);
    luaL_argcheck(L, i >= 1 && (size_t)i <= mp_runs_count(r), 2, "no run of that number");
    return (size_t)i - 1;
}

/* runs:slow("node"|"class"|"client"|"workflow"), :cache(), :why(i), :progress(), :clients(), :compare(other, seed) */
static int runs_slow(lua_State *L) {
    static const char *const names[] = { "node", "class", "client", "workflow", NULL };
    mp_runs *r = check_runs(L, 1);
    int by = luaL_checkoption(L, 2, "class", names);
    builder b = { L, 0, { 0 } };
    mp_sink s = LUA_SINK(b);
    mp_runs_slow(r, (mp_by)by, &s);
    return 1;
}
static int runs_cache(lua_State *L) { builder b = { L, 0, { 0 } }; mp_sink s = LUA_SINK(b); mp_runs_cache(check_runs(L, 1), &s); return 1; }
static int runs_progress(lua_State *L) { builder b = { L, 0, { 0 } }; mp_sink s = LUA_SINK(b); mp_runs_progress(check_runs(L, 1), &s); return 1; }
static int runs_clients(lua_State *L) { builder b = { L, 0, { 0 } }; mp_sink s = LUA_SINK(b); mp_runs_clients(check_runs(L, 1), &s); return 1; }
static int runs_why(lua_State *L) {
    mp_runs *r = check_runs(L, 1);
    size_t i = place_of(L, r);
    builder b = { L, 0, { 0 } };
    mp_sink s = LUA_SINK(b);
    mp_runs_why(r, i, &s);
    return 1;
}
static int runs_compare(lua_State *L) {
    mp_runs *a = check_runs(L, 1), *other = check_runs(L, 2);
    uint64_t seed = (uint64_t)luaL_optinteger(L, 3, 1);
    builder b = { L, 0, { 0 } };
    mp_sink s = LUA_SINK(b);
    mp_runs_compare(a, other, seed, &s);
    return 1;
}

/* A number gives the run of that place as it was logged, a name a method. */
static int runs_index(lua_State *L) {
    mp_runs *r = check_runs(L, 1);
    if (lua_isinteger(L, 2)) {
        lua_Integer i = lua_tointeger(L, 2);
        if (i < 1 || (size_t)i > mp_runs_count(r)) return 0;
        mp_str t = mp_runs_text(r, (size_t)i - 1);
        l_push_json_text(L, t.p, t.n);
        return 1;
    }
    luaL_getmetafield(L, 1, "methods");
    lua_pushvalue(L, 2);
    lua_gettable(L, -2);
    return 1;
}

/* compare(list, list, seed) -> the figures of one row, from two lists of numbers */
static double *numbers_of(lua_State *L, int i, size_t *n) {
    luaL_checktype(L, i, LUA_TTABLE);
    *n = lua_rawlen(L, i);
    double *v = lua_newuserdatauv(L, *n * sizeof *v + 1, 0);
    for (size_t k = 0; k < *n; k++) {
        lua_rawgeti(L, i, (lua_Integer)k + 1);
        v[k] = luaL_checknumber(L, -1);
        luaL_argcheck(L, isfinite(v[k]) && v[k] >= 0, i, "finite numbers from 0 expected");
        lua_pop(L, 1);
    }
    return v;
}
static int compare_lists(lua_State *L) {
    mp_comparison c;
    size_t n_a, n_b;
    uint64_t seed = (uint64_t)luaL_optinteger(L, 3, 1);
    double *a = numbers_of(L, 1, &n_a), *b = numbers_of(L, 2, &n_b);
    mp_compare(a, n_a, b, n_b, seed, &c);
    struct { const char *name; double v; } fields[] = { { "medianA", c.median_a }, { "medianB", c.median_b }, { "change", c.change }, { "low", c.low }, { "high", c.high }, { "p", c.p }, { "detectable", c.detectable },
        { "p90A", c.p90_a }, { "p90B", c.p90_b }, { "p90Change", c.p90_change }, { "p90Low", c.p90_low }, { "p90High", c.p90_high } };
    lua_newtable(L);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) { lua_pushnumber(L, fields[i].v); lua_setfield(L, -2, fields[i].name); }
    return 1;
}

void l_open_profile(lua_State *L) {
    static const luaL_Reg methods[] = { { "_load", runs_load }, { "_add", runs_add }, { "_ready", runs_ready }, { "skipped", runs_skipped }, { "completed", runs_completed }, { "slow", runs_slow }, { "cache", runs_cache },
                                        { "progress", runs_progress }, { "clients", runs_clients }, { "why", runs_why }, { "compare", runs_compare }, { NULL, NULL } };
    static const luaL_Reg meta[] = { { "__index", runs_index }, { "__len", runs_len }, { "__gc", runs_free }, { NULL, NULL } };
    l_class(L, RUNS, methods, meta);
    lua_pushcfunction(L, runs_new);
    lua_setfield(L, -2, "runs");
    lua_pushcfunction(L, compare_lists);
    lua_setfield(L, -2, "compare");
}
