/* lua/l_opt.c -- floor 7, lua: option tables whose errors name the option, and errors of the world as values. */
#include "lua/inside.h"
#include <math.h>

/* Edit distance, for "did you mean". Names are short. */
int l_distance(const char *a, const char *b) {
    int row[64], n = (int)strlen(b);
    if (n > 62) return 99;
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int up = row[j], cost = diagonal + (a[i - 1] != b[j - 1]);
            row[j] = cost < up + 1 ? cost : up + 1;
            if (row[j - 1] + 1 < row[j]) row[j] = row[j - 1] + 1;
            diagonal = up;
        }
    }
    return row[n];
}

static void unknown(lua_State *L, const char *name, const opt *opts, const char *what) {
    const char *near = NULL;
    int best = 4, n = (int)strlen(name);
    for (const opt *o = opts; o->name; o++) {
        int d = l_distance(name, o->name);
        if (d < best && 2 * d <= n + 1) { best = d; near = o->name; }      /* no more than half of it may be wrong */
    }
    if (near) luaL_error(L, "%s: unknown option '%s' (did you mean '%s'?)", what, name, near);
    luaL_error(L, "%s: unknown option '%s'", what, name);
}

static void range(lua_State *L, const opt *o, double v, const char *what) {
    if (o->hi > o->lo && (v < o->lo || v > o->hi || isnan(v))) {
        const char *got = luaL_tolstring(L, -1, NULL);
        char low[32], high[32];
        snprintf(low, sizeof low, "%.15g", o->lo);
        snprintf(high, sizeof high, "%.15g", o->hi);
        luaL_error(L, "%s: option '%s': a number from %s to %s expected, got %s", what, o->name, low, high, got);
    }
}

static void wrong(lua_State *L, const opt *o, const char *wanted, const char *what) {
    luaL_error(L, "%s: option '%s': %s expected, got %s", what, o->name, wanted, luaL_typename(L, -1));
}

static void take(lua_State *L, const opt *o, char *to, const char *what) {
    int is_number = lua_type(L, -1) == LUA_TNUMBER;
    switch (o->kind) {
    case OPT_INT:
        if (!lua_isinteger(L, -1) && !(is_number && lua_tonumber(L, -1) == floor(lua_tonumber(L, -1)))) wrong(L, o, "a whole number", what);
        range(L, o, lua_tonumber(L, -1), what);
        *(int *)(to + o->at) = (int)lua_tonumber(L, -1);
        break;
    case OPT_NUMBER:
        if (!is_number) wrong(L, o, "a number", what);
        range(L, o, lua_tonumber(L, -1), what);
        *(double *)(to + o->at) = lua_tonumber(L, -1);
        break;
    case OPT_MS:
        if (!is_number) wrong(L, o, "milliseconds", what);
        range(L, o, lua_tonumber(L, -1), what);
        *(mp_time *)(to + o->at) = (mp_time)(lua_tonumber(L, -1) * 1000);
        break;
    case OPT_BOOL:
        if (lua_type(L, -1) != LUA_TBOOLEAN) wrong(L, o, "true or false", what);
        *(int *)(to + o->at) = lua_toboolean(L, -1);
        break;
    case OPT_TEXT:
        if (lua_type(L, -1) != LUA_TSTRING) wrong(L, o, "a string", what);
        if (strlen(lua_tostring(L, -1)) != lua_rawlen(L, -1)) luaL_error(L, "%s: option '%s': a string without zero bytes expected", what, o->name);
        *(const char **)(to + o->at) = lua_tostring(L, -1);
        break;
    case OPT_BYTES: if (lua_type(L, -1) != LUA_TSTRING) wrong(L, o, "a string", what); break;
    case OPT_ANY: break;
    }
}

void l_options(lua_State *L, int t, const opt *opts, void *to, const char *what) {
    if (lua_isnoneornil(L, t)) return;
    if (!lua_istable(L, t)) luaL_error(L, "%s: a table of options expected, got %s", what, luaL_typename(L, t));
    t = lua_absindex(L, t);
    luaL_checkstack(L, 8, NULL);
    for (lua_pushnil(L); lua_next(L, t); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING) luaL_error(L, "%s: options have names; found the key %s", what, luaL_tolstring(L, -2, NULL));
        const char *name = lua_tostring(L, -2);
        const opt *o = opts;
        while (o->name && strcmp(o->name, name) != 0) o++;
        if (!o->name) unknown(L, name, opts, what);
        if (o->at != NO_PLACE) take(L, o, to, what);
    }
}

const char **l_headers(lua_State *L, int t, const char *what, int lines) {
    if (!lua_istable(L, t) || lua_getfield(L, t, "headers") == LUA_TNIL) { lua_pushnil(L); return NULL; }
    if (!lua_istable(L, -1)) luaL_error(L, "%s: option 'headers': a table expected, got %s", what, luaL_typename(L, -1));
    int h = lua_gettop(L), k = 0;
    lua_newtable(L);                                 /* keeps the lines */
    for (lua_pushnil(L); lua_next(L, h); lua_pop(L, 1)) {
        int named = lua_type(L, -2) == LUA_TSTRING;
        if ((!named && !lines) || !lua_isstring(L, -1)) luaL_error(L, "%s: option 'headers': names and values are strings", what);
        if (named) lua_pushfstring(L, "%s: %s", lua_tostring(L, -2), lua_tostring(L, -1));
        else lua_pushvalue(L, -1);
        if (strpbrk(lua_tostring(L, -1), "\r\n")) luaL_error(L, "%s: option 'headers': a header may not contain line ends", what);
        lua_rawseti(L, h + 1, ++k);
    }
    const char **v = lua_newuserdatauv(L, ((size_t)k + 1) * sizeof *v, 1);
    for (int i = 0; i < k; i++) {
        lua_rawgeti(L, h + 1, i + 1);
        v[i] = lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    v[k] = NULL;
    lua_pushvalue(L, h + 1);
    lua_setiuservalue(L, -2, 1);
    return v;
}

int l_fail_kind(lua_State *L, const char *kind, const char *message, const char *client) {
    lua_pushnil(L);
    lua_createtable(L, 0, 3);
    lua_pushstring(L, kind);
    lua_setfield(L, -2, "kind");
    lua_pushstring(L, message);
    lua_setfield(L, -2, "message");
    if (client) { lua_pushstring(L, client); lua_setfield(L, -2, "client"); }
    luaL_setmetatable(L, "moonpool.error");
    return 2;
}

int l_fail(lua_State *L, int code, const char *message, const char *client) { return l_fail_kind(L, mp_err_kind(code), message, client); }
