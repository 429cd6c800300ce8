/* lua/l_profile.c -- floor 7, lua: a profile as plain Lua tables, straight from the visitor. */
#include "lua/inside.h"

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
    if (v == (double)(lua_Integer)v && v < 1e15 && v > -1e15) lua_pushinteger(b->L, (lua_Integer)v);
    else lua_pushnumber(b->L, v);
    put(b, name);
}
static void on_string(void *ud, const char *name, mp_str s) { builder *b = ud; lua_pushlstring(b->L, s.p, s.n); put(b, name); }
static void on_boolean(void *ud, const char *name, int v) { builder *b = ud; lua_pushboolean(b->L, v); put(b, name); }
static void on_json(void *ud, const char *name, mp_str s) { builder *b = ud; l_push_json_text(b->L, s.p, s.n); put(b, name); }

void l_push_profile(lua_State *L, const mp_profile *p, mp_time epoch) {
    builder b = { L, 0, { 0 } };
    mp_sink s = { &b, on_open, on_close, on_number, on_string, on_boolean, on_json };
    mp_profile_visit(p, epoch, &s);
}
