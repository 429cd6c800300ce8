/* lua/l_sim.c -- floor 7, lua: simulated servers on real ports, and faults to order. */
#include "lua/inside.h"
#include "wire/sim_server.h"
#include <stdlib.h>

#define SIM "moonpool.sim"
typedef struct { mp_sim_server *s; l_ctx *ctx; int observer; } l_sim;

typedef struct { mp_sim_opts o; const char *host; int port; double delay, seed, overhead; } sim_args;
static const opt sim_opts[] = {
    { "version", OPT_TEXT, offsetof(sim_args, o) + offsetof(mp_sim_opts, version), 0, 0 }, { "name", OPT_TEXT, offsetof(sim_args, o) + offsetof(mp_sim_opts, name), 0, 0 },
    { "catalogue", OPT_TEXT, offsetof(sim_args, o) + offsetof(mp_sim_opts, catalogue), 0, 0 }, { "costs", OPT_ANY, NO_PLACE, 0, 0 },
    { "speed", OPT_NUMBER, offsetof(sim_args, o) + offsetof(mp_sim_opts, speed), 0.001, 1e6 }, { "vram_gb", OPT_NUMBER, offsetof(sim_args, o) + offsetof(mp_sim_opts, vram_gb), 0.1, 1e5 },
    { "load_gb_s", OPT_NUMBER, offsetof(sim_args, o) + offsetof(mp_sim_opts, load_gb_s), 0.001, 1e6 },
    { "any_node", OPT_BOOL, offsetof(sim_args, o) + offsetof(mp_sim_opts, any_node), 0, 0 }, { "any_ms", OPT_NUMBER, offsetof(sim_args, o) + offsetof(mp_sim_opts, any_ms), 0, 1e9 },
    { "noise", OPT_NUMBER, offsetof(sim_args, o) + offsetof(mp_sim_opts, noise), 0, 1 },
    { "cache", OPT_TEXT, offsetof(sim_args, o) + offsetof(mp_sim_opts, cache), 0, 0 }, { "cache_size", OPT_INT, offsetof(sim_args, o) + offsetof(mp_sim_opts, cache_size), 1, 1e6 },
    { "random_errors", OPT_BOOL, offsetof(sim_args, o) + offsetof(mp_sim_opts, random_errors), 0, 0 },
    { "no_orphans", OPT_BOOL, offsetof(sim_args, o) + offsetof(mp_sim_opts, no_orphans), 0, 0 },
    { "early", OPT_BOOL, offsetof(sim_args, o) + offsetof(mp_sim_opts, early), 0, 0 },
    { "previews", OPT_BOOL, offsetof(sim_args, o) + offsetof(mp_sim_opts, previews), 0, 0 }, { "overhead_ms", OPT_MS, offsetof(sim_args, o) + offsetof(mp_sim_opts, overhead), 0, 1e9 },
    { "history_ms", OPT_MS, offsetof(sim_args, o) + offsetof(mp_sim_opts, history), 0, 1e9 },
    { "host", OPT_TEXT, offsetof(sim_args, host), 0, 0 }, { "port", OPT_INT, offsetof(sim_args, port), 0, 65535 },
    { "delay_ms", OPT_NUMBER, offsetof(sim_args, delay), 0, 1e6 }, { "seed", OPT_NUMBER, offsetof(sim_args, seed), 0, 9e15 }, { NULL, 0, 0, 0, 0 }
};

/* sim(options) -> sim, or nil, err when the port cannot be had or the catalogue cannot be read */
static int sim_new(lua_State *L) {
    sim_args a = { .host = "127.0.0.1", .seed = 1 };
    mp_err e = { 0 };
    mp_buf costs = { 0 };
    lua_settop(L, 1);
    l_options(L, 1, sim_opts, &a, "sim");
    if (lua_istable(L, 1) && lua_getfield(L, 1, "costs") != LUA_TNIL) {
        if (!lua_istable(L, -1)) return luaL_error(L, "sim: option 'costs': a table of class = ms (or {ms =, step_ms =}) expected, got %s", luaL_typename(L, -1));
        l_to_json(L, -1, &costs, "sim: option 'costs'");
        lua_pushlstring(L, costs.p, costs.n);
        mp_buf_free(&costs);
        a.o.costs = lua_tostring(L, -1);
    }
    mp_loop *loop = l_loop(L);
    l_sim *u = lua_newuserdatauv(L, sizeof *u, 0);
    u->s = NULL;
    u->observer = LUA_NOREF;
    u->ctx = l_context(L);
    luaL_setmetatable(L, SIM);
    u->s = mp_sim_server_open(loop, a.host, a.port, &a.o, (uint64_t)a.seed, &e);
    if (!u->s) return l_fail(L, e.code, e.msg, NULL);
    if (a.delay > 0) mp_sim_server_delay(u->s, (mp_time)(a.delay * 1000));
    return 1;
}

static l_sim *check(lua_State *L) {
    l_sim *u = l_self(L, 1, SIM);
    luaL_argcheck(L, u->s, 1, "the sim is closed");
    return u;
}

/* What tears the ground from under a step of the sim is not for its observer. */
static l_sim *check_idle(lua_State *L) {
    l_sim *u = check(L);
    if (mp_sim_server_busy(u->s)) luaL_error(L, "not from inside the sim's observer: it is in the middle of what is observed (use a task: moonpool.spawn)");
    return u;
}

static mp_time now_of(const l_sim *u) { return mp_loop_now(u->ctx->loop); }

static int sim_drop(lua_State *L) {
    l_sim *u = check_idle(L);
    mp_sim_drop(mp_sim_server_sim(u->s), now_of(u));
    mp_sim_server_pump(u->s);
    return 0;
}

static mp_time milliseconds(lua_State *L) {
    double ms = luaL_checknumber(L, 2);
    luaL_argcheck(L, ms >= 0 && ms <= 1e12, 2, "milliseconds from 0 to 1e12 expected");
    return (mp_time)(ms * 1000);
}

/* sim:restart(ms): everything in memory is gone; connections are refused for that long */
static int sim_restart(lua_State *L) {
    l_sim *u = check_idle(L);
    mp_sim_server_down(u->s, lua_isnoneornil(L, 2) ? 0 : milliseconds(L));
    return 0;
}

/* sim:stall(ms): answers nothing and does nothing for that long */
static int sim_stall(lua_State *L) {
    l_sim *u = check(L);
    mp_sim_stall(mp_sim_server_sim(u->s), now_of(u) + milliseconds(L));
    return 0;
}

static int sim_wedge(lua_State *L) {
    mp_sim_wedge(mp_sim_server_sim(check(L)->s));
    return 0;
}

typedef struct { const char *class_type, *type, *message; int times; } fail_args;
static const opt fail_opts[] = { { "class", OPT_TEXT, offsetof(fail_args, class_type), 0, 0 }, { "type", OPT_TEXT, offsetof(fail_args, type), 0, 0 },
    { "message", OPT_TEXT, offsetof(fail_args, message), 0, 0 }, { "times", OPT_INT, offsetof(fail_args, times), 1, 1e9 }, { NULL, 0, 0, 0, 0 } };

/* sim:fail{class=, type=, message=, times=}: the next runs of that class raise */
static int sim_fail(lua_State *L) {
    fail_args a = { .times = 1 };
    l_sim *u = check(L);
    l_options(L, 2, fail_opts, &a, "sim:fail");
    mp_sim_fail(mp_sim_server_sim(u->s), a.class_type, a.times, a.type, a.message);
    return 0;
}

/* sim:lose_interrupts(n): so many do nothing */
static int sim_lose(lua_State *L) {
    mp_sim_deafen(mp_sim_server_sim(check(L)->s), (int)luaL_checkinteger(L, 2));
    return 0;
}

/* sim:late_interrupt(): the next one hits whatever runs after its prompt */
static int sim_late(lua_State *L) {
    mp_sim_late(mp_sim_server_sim(check(L)->s));
    return 0;
}

typedef struct { int times; double bytes; mp_time over; } frames_args;
static const opt frames_opts[] = { { "bytes", OPT_NUMBER, offsetof(frames_args, bytes), 0, 1e9 }, { "ms", OPT_MS, offsetof(frames_args, over), 0, 1e9 },
    { "times", OPT_INT, offsetof(frames_args, times), 1, 1e9 }, { NULL, 0, 0, 0, 0 } };

/* sim:frames{bytes=, ms=, times=}: the next frames are as long as that at least, and take so long to come */
static int sim_frames(lua_State *L) {
    frames_args a = { .times = 1 };
    l_sim *u = check(L);
    l_options(L, 2, frames_opts, &a, "sim:frames");
    mp_sim_frames(mp_sim_server_sim(u->s), a.times, (size_t)a.bytes, a.over);
    return 0;
}

/* sim:set_clock(ms): its wall clock moves by so much */
static int sim_clock(lua_State *L) {
    mp_sim_clock(mp_sim_server_sim(check(L)->s), (mp_time)(luaL_checknumber(L, 2) * 1000));
    return 0;
}

/* Told with the moment at which it is done: the loop wakes a sim up to a millisecond after its own, exact one. */
static void on_deed(void *ud, const char *mark, const char *node, const char *root, mp_sim_deed what, mp_time planned) {
    static const char *const words[] = { "begins", "waits", "ends", "cached", "stops" };
    const l_sim *u = ud;
    lua_State *L = u->ctx->L;
    (void)planned;
    if (u->observer == LUA_NOREF || !lua_checkstack(L, 10)) return;
    lua_rawgeti(L, LUA_REGISTRYINDEX, u->observer);
    lua_pushstring(L, mark);
    lua_pushstring(L, node);
    lua_pushstring(L, root);
    lua_pushstring(L, words[what]);
    lua_pushnumber(L, (double)(now_of(u) + mp_loop_epoch(u->ctx->loop)) / 1000);
    l_pcall(L, 5, 0, "sim observer");
}

/* sim:observe(fn): fn(prompt id as sent, node, submitted node it came from, "begins"|"waits"|"ends"|"cached"|"stops", ms since the
 * epoch) for all that its worker does; nil: no more */
static int sim_observe(lua_State *L) {
    l_sim *u = check(L);
    if (!lua_isnoneornil(L, 2)) luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    luaL_unref(L, LUA_REGISTRYINDEX, u->observer);
    u->observer = lua_isnil(L, 2) ? LUA_NOREF : luaL_ref(L, LUA_REGISTRYINDEX);
    mp_sim_observe(mp_sim_server_sim(u->s), on_deed, u);
    return 0;
}

static int sim_record(lua_State *L) {
    mp_sim_record r;
    mp_sim_get_record(mp_sim_server_sim(check(L)->s), &r);
    struct { const char *name; size_t v; } fields[] = { { "requests", r.requests }, { "prompts", r.prompts }, { "executed", r.executed }, { "cached", r.cached }, { "failed", r.failed }, { "interrupted", r.interrupted }, { "frees", r.frees }, { "uploads", r.uploads } };
    lua_newtable(L);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) { lua_pushinteger(L, (lua_Integer)fields[i].v); lua_setfield(L, -2, fields[i].name); }
    lua_createtable(L, (int)r.gaps, 0);
    for (size_t i = 0; i < r.gaps; i++) { lua_pushnumber(L, (double)r.gap[i] / 1000); lua_rawseti(L, -2, (lua_Integer)i + 1); }
    lua_setfield(L, -2, "gaps_ms");
    lua_pushinteger(L, (lua_Integer)mp_sim_waiting(mp_sim_server_sim(check(L)->s)));
    lua_setfield(L, -2, "waiting");
    return 1;
}

static int sim_index(lua_State *L) {
    const char *k = luaL_checkstring(L, 2);
    luaL_getmetafield(L, 1, "methods");
    if (lua_getfield(L, -1, k) != LUA_TNIL) return 1;
    l_sim *u = check(L);
    if (strcmp(k, "port") == 0) lua_pushinteger(L, mp_sim_server_port(u->s));
    else if (strcmp(k, "url") == 0) lua_pushfstring(L, "http://127.0.0.1:%d", mp_sim_server_port(u->s));
    else lua_pushnil(L);
    return 1;
}

static int sim_close(lua_State *L) {
    l_sim *u = luaL_checkudata(L, 1, SIM);
    if (u->s) mp_sim_observe(mp_sim_server_sim(u->s), NULL, NULL);
    luaL_unref(L, LUA_REGISTRYINDEX, u->observer);
    u->observer = LUA_NOREF;
    if (u->ctx->loop) mp_sim_server_close(u->s);
    u->s = NULL;
    return 0;
}

void l_open_sim(lua_State *L) {
    static const luaL_Reg methods[] = { { "drop", sim_drop }, { "restart", sim_restart }, { "stall", sim_stall }, { "wedge", sim_wedge }, { "fail", sim_fail },
        { "lose_interrupts", sim_lose }, { "late_interrupt", sim_late }, { "frames", sim_frames }, { "set_clock", sim_clock }, { "record", sim_record },
        { "observe", sim_observe }, { "close", sim_close }, { NULL, NULL } };
    static const luaL_Reg meta[] = { { "__index", sim_index }, { "__gc", sim_close }, { "__close", sim_close }, { NULL, NULL } };
    l_class(L, SIM, methods, meta);
    lua_pushcfunction(L, sim_new);
    lua_setfield(L, -2, "sim");
}
