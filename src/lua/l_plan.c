/* lua/l_plan.c -- floor 7, lua: plans in virtual time. The words and the arrivals are in lua/moonpool/plan.lua. */
#include "lua/inside.h"
#include "world/plan.h"
#include <stdlib.h>

#define MOST 10000000                                /* jobs of one plan */

static void made(void *ud, mp_pool *pool, const mp_time *now) {
    l_pool *lp = ud;
    lp->pool = pool;
    lp->now = now;
}

/* The numbers of list `name` in the table at 1, as userdata kept on the stack; *n of them. */
static double *list_of(lua_State *L, const char *name, size_t *n) {
    if (lua_getfield(L, 1, name) != LUA_TTABLE) luaL_error(L, "plan: %s: a list of numbers expected, got %s", name, luaL_typename(L, -1));
    *n = lua_rawlen(L, -1);
    if (*n > MOST) luaL_error(L, "plan: %s: more than %d", name, MOST);
    double *v = lua_newuserdatauv(L, *n * sizeof *v + 1, 0);
    lua_insert(L, -2);
    for (size_t i = 0; i < *n; i++) {
        int ok;
        lua_rawgeti(L, -1, (lua_Integer)i + 1);
        v[i] = lua_tonumberx(L, -1, &ok);
        if (!ok || !(v[i] >= 0 && v[i] < 1e10)) luaL_error(L, "plan: %s: item %d: a number from 0 to 1e10 expected", name, (int)i + 1);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return v;
}

static double field(lua_State *L, int t, const char *name, double otherwise, double lo, double hi) {
    double v = otherwise;
    if (lua_getfield(L, t, name) != LUA_TNIL) {
        int ok;
        v = lua_tonumberx(L, -1, &ok);
        if (!ok || !(v >= lo && v <= hi)) luaL_error(L, "plan: option '%s': a number from %f to %f expected", name, lo, hi);
    }
    lua_pop(L, 1);
    return v;
}

static void push_times(lua_State *L, const mp_plan *p, size_t offset) {
    lua_createtable(L, (int)p->n_jobs, 0);
    for (size_t i = 0; i < p->n_jobs; i++) {
        mp_time t = *(const mp_time *)(const void *)((const char *)&p->jobs[i] + offset);
        lua_pushnumber(L, t < 0 ? -1 : (double)t / 1000);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

/* plan{arrivals, services, kinds (from 1), cold, clients = {{speed, priority, slots}}, delay_ms, seed, policy}: all times in
 * ms. -> {begun, ended, client, busy, ran, makespan, taken_back}, or nil, err */
static int plan(lua_State *L) {
    mp_err e;
    size_t n_services, n_kinds, n_cold;
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    mp_plan p = { 0 };
    double *arrivals = list_of(L, "arrivals", &p.n_jobs), *services = list_of(L, "services", &n_services), *kinds = list_of(L, "kinds", &n_kinds), *cold = list_of(L, "cold", &n_cold);
    if (n_services != p.n_jobs || n_kinds != p.n_jobs) return luaL_error(L, "plan: arrivals, services and kinds must be as many");
    p.delay = (mp_time)(field(L, 1, "delay_ms", 0, 0, 300) * 1000);
    p.seed = (uint64_t)field(L, 1, "seed", 1, 0, 9e15);
    if (lua_getfield(L, 1, "clients") != LUA_TTABLE) return luaL_error(L, "plan: clients: a list expected");
    p.n_clients = lua_rawlen(L, -1);
    if (p.n_clients < 1 || p.n_clients > 10000) return luaL_error(L, "plan: clients: 1 to 10000 expected");
    p.clients = lua_newuserdatauv(L, p.n_clients * sizeof *p.clients, 0);
    for (size_t i = 0; i < p.n_clients; i++) {
        if (lua_rawgeti(L, -2, (lua_Integer)i + 1) != LUA_TTABLE) return luaL_error(L, "plan: clients: item %d: a table expected", (int)i + 1);
        int t = lua_gettop(L);
        p.clients[i] = (mp_plan_client){ .speed = field(L, t, "speed", 1, 0.001, 1000), .priority = field(L, t, "priority", 0, -1e9, 1e9), .slots = (int)field(L, t, "slots", 0, 0, 64) };
        lua_pop(L, 1);
    }
    p.jobs = lua_newuserdatauv(L, p.n_jobs * sizeof *p.jobs + 1, 0);
    for (size_t i = 0; i < p.n_jobs; i++) {
        if (!(kinds[i] >= 1 && kinds[i] <= (double)n_cold)) return luaL_error(L, "plan: kinds: item %d: a number from 1 to %d expected", (int)i + 1, (int)n_cold);
        p.jobs[i] = (mp_plan_job){ .arrival = (mp_time)(arrivals[i] * 1000 + 0.5), .service = (mp_time)(services[i] * 1000 + 0.5), .kind = (int)kinds[i] - 1 };
        if (i && p.jobs[i].arrival < p.jobs[i - 1].arrival) return luaL_error(L, "plan: arrivals: item %d comes before the one before it", (int)i + 1);
    }
    mp_time *extra = lua_newuserdatauv(L, n_cold * sizeof *extra + 1, 0);
    for (size_t i = 0; i < n_cold; i++) extra[i] = (mp_time)(cold[i] * 1000 + 0.5);
    p.cold = extra;
    p.n_kinds = n_cold;
    if (lua_getfield(L, 1, "policy") == LUA_TNIL) lua_pushliteral(L, "default");
    l_pool *lp = l_bare_pool(L, lua_gettop(L), p.seed, L_LIMITS, MP_LOG_WARN);
    p.policy = &lp->hooks;
    p.made = made;
    p.ud = lp;
    if (mp_plan_run(&p, &e)) return l_fail(L, e.code, e.msg, NULL);
    lua_createtable(L, 0, 8);
    push_times(L, &p, offsetof(mp_plan_job, begun));
    lua_setfield(L, -2, "begun");
    push_times(L, &p, offsetof(mp_plan_job, ended));
    lua_setfield(L, -2, "ended");
    lua_createtable(L, (int)p.n_jobs, 0);
    for (size_t i = 0; i < p.n_jobs; i++) { lua_pushinteger(L, p.jobs[i].client + 1); lua_rawseti(L, -2, (lua_Integer)i + 1); }
    lua_setfield(L, -2, "client");
    lua_createtable(L, (int)p.n_clients, 0);
    lua_createtable(L, (int)p.n_clients, 0);
    for (size_t i = 0; i < p.n_clients; i++) {
        lua_pushnumber(L, (double)p.clients[i].busy / 1000);
        lua_rawseti(L, -3, (lua_Integer)i + 1);
        lua_pushinteger(L, (lua_Integer)p.clients[i].ran);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_setfield(L, -3, "ran");
    lua_setfield(L, -2, "busy");
    lua_pushnumber(L, (double)p.makespan / 1000);
    lua_setfield(L, -2, "makespan");
    lua_pushinteger(L, (lua_Integer)p.taken_back);
    lua_setfield(L, -2, "taken_back");
    return 1;
}

void l_open_plan(lua_State *L) {
    lua_pushcfunction(L, plan);
    lua_setfield(L, -2, "plan");
}
