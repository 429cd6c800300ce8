/* main.c -- floor 8: the interpreter and the command line. A script's name and arguments run it as `lua` would;
 * anything else is a command of lua/moonpool/cli. */
#include "moonpool.h"
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>

static int traceback(lua_State *L) {
    const char *words = lua_tostring(L, 1);
    if (!words) {
        if (luaL_callmeta(L, 1, "__tostring") && lua_type(L, -1) == LUA_TSTRING) return 1;
        words = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
    }
    luaL_traceback(L, L, words, 1);
    return 1;
}

/* Everything else is Lua: moonpool.cli gets the arguments and answers the exit code. */
static int run(lua_State *L) {
    int argc = (int)lua_tointeger(L, 1);
    char **argv = lua_touserdata(L, 2);
    luaL_openlibs(L);
    luaL_requiref(L, "moonpool", luaopen_moonpool, 0);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "moonpool.cli.main");
    lua_call(L, 1, 1);
    lua_createtable(L, argc, 1);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i);
    }
    lua_call(L, 1, 1);
    return 1;
}

int main(int argc, char **argv) {
    lua_State *L = luaL_newstate();
    if (!L) {
        fputs("moonpool: out of memory\n", stderr);
        return 1;
    }
    if (getenv("MOONPOOL_GC") && *getenv("MOONPOOL_GC")) lua_gc(L, LUA_GCGEN, 1, 1);     /* the specs' eager collector */
    lua_pushcfunction(L, traceback);
    lua_pushcfunction(L, run);
    lua_pushinteger(L, argc);
    lua_pushlightuserdata(L, argv);
    int code = 1;
    if (lua_pcall(L, 2, 1, 1) == LUA_OK) code = lua_isinteger(L, -1) ? (int)lua_tointeger(L, -1) : 0;
    else fprintf(stderr, "moonpool: %s\n", lua_tostring(L, -1));
    lua_close(L);
    return code;
}
