/* lua/l_call.c -- floor 7, lua: the one way into Lua, protected and with a traceback; and what all classes share. */
#include "lua/inside.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int l_traceback(lua_State *L) {
    const char *words = lua_tostring(L, 1);
    if (!words && !luaL_callmeta(L, 1, "__tostring")) lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
    if (words && lua_type(L, 1) != LUA_TSTRING) lua_pushvalue(L, 1);
    luaL_traceback(L, L, lua_tostring(L, words ? 1 : -1), 1);
    return 1;
}

int l_is_interrupt(const char *words) {
    static const char word[] = "interrupted!";
    size_t n = strcspn(words, "\n"), k = sizeof word - 1;
    if (n < k || memcmp(words + n - k, word, k) != 0) return 0;
    return n == k || (n > k + 3 && memcmp(words + n - k - 2, ": ", 2) == 0 && words[n - k - 3] >= '0' && words[n - k - 3] <= '9');
}

void l_write_log(l_ctx *c, int level, const char *line) {
    if (c->log) c->log(c->log_ud, level, line);
    else if (!c->quiet) fprintf(stderr, "moonpool: %s: %s\n", mp_log_name(level), line);
}

int l_pcall(lua_State *L, int nargs, int nresults, const char *what) {
    int base = lua_gettop(L) - nargs;
    l_ctx *c = l_context(L);
    if (c->closing) {
        lua_settop(L, base - 1);
        return LUA_ERRRUN;
    }
    lua_pushcfunction(L, l_traceback);
    lua_insert(L, base);
    c->callbacks++;
    int rc = lua_pcall(L, nargs, nresults, base);
    c->callbacks--;
    lua_remove(L, base);
    if (rc == LUA_OK) return 0;
    const char *words = lua_tostring(L, -1);
    if (words && l_is_interrupt(words)) {    /* what lua raises at SIGINT must not end here */
        c->interrupted = 1;
        lua_pop(L, 1);
        return rc;
    }
    char *line = mp_format("%s: %s", what, words ? words : "an error without words");
    l_write_log(c, MP_LOG_ERROR, line);
    free(line);
    lua_pop(L, 1);
    return rc;
}

void *l_self(lua_State *L, int i, const char *class_name) {
    void *u = lua_touserdata(L, i);
    lua_Debug d;
    if (u && lua_getmetatable(L, i)) {               /* by the name's address, most often: without looking a text up */
        lua_rawgetp(L, LUA_REGISTRYINDEX, class_name);
        int same = lua_rawequal(L, -1, -2);
        lua_pop(L, 2);
        if (same) return u;
    }
    u = luaL_testudata(L, i, class_name);
    const char *word = strchr(class_name, '.') ? strchr(class_name, '.') + 1 : class_name;
    if (u) return u;
    if (i == 1 && lua_getstack(L, 0, &d) && lua_getinfo(L, "n", &d) && d.name && strcmp(d.namewhat, "method") != 0)
        luaL_error(L, "%s:%s: called without its %s; write %s:%s(...), with a colon", word, d.name, word, word, d.name);
    return luaL_checkudata(L, i, class_name);
}

void l_class(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *meta) {
    luaL_newmetatable(L, name);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, name);         /* for l_self */
    luaL_setfuncs(L, meta, 0);
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    lua_setfield(L, -2, "methods");                  /* init.lua adds the ones that wait */
    lua_pop(L, 1);
}
