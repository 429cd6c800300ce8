/* lua/l_json.c -- floor 7, lua: JSON for scripts, exact. Integers beyond Lua's 64 bits become a literal (an object
 * that holds the number's text); null is json.null; arrays carry a mark, so that an empty one stays an array. */
#include "lua/inside.h"
#include <math.h>
#include <stdlib.h>

#define LITERAL "moonpool.literal"
#define ARRAY "moonpool.array"

static int whole(const char *z) {
    if (*z == '-') z++;
    for (; *z; z++)
        if (*z < '0' || *z > '9') return 0;
    return 1;
}

static void push_number(lua_State *L, const mp_json *j) {
    char tmp[40];
    const char *z = mp_json_literal(j, tmp);
    if (whole(z)) {
        if (lua_stringtonumber(L, z) && lua_isinteger(L, -1)) return;
        lua_pop(L, 1);
        char **u = lua_newuserdatauv(L, sizeof *u, 0);
        *u = NULL;
        luaL_setmetatable(L, LITERAL);
        *u = mp_strdup(z);
    } else lua_pushnumber(L, mp_json_number(j, 0));
}

void l_push_json(lua_State *L, const mp_json *j) {
    lua_Integer i = 0;
    luaL_checkstack(L, 6, "JSON is too deep");
    switch (mp_json_type(j)) {
    case MP_JSON_NONE: lua_pushnil(L); break;
    case MP_JSON_NULL: lua_pushlightuserdata(L, NULL); break;
    case MP_JSON_BOOL: lua_pushboolean(L, mp_json_true(j)); break;
    case MP_JSON_NUMBER: push_number(L, j); break;
    case MP_JSON_STRING: lua_pushstring(L, mp_json_string(j)); break;
    case MP_JSON_ARRAY:
        lua_createtable(L, (int)mp_json_count(j), 0);
        luaL_setmetatable(L, ARRAY);
        for (const mp_json *c = mp_json_first(j); c; c = mp_json_next(c)) {
            l_push_json(L, c);
            lua_rawseti(L, -2, ++i);
        }
        break;
    case MP_JSON_OBJECT:
        lua_createtable(L, 0, (int)mp_json_count(j));
        for (const mp_json *c = mp_json_first(j); c; c = mp_json_next(c)) {
            l_push_json(L, c);
            lua_setfield(L, -2, mp_json_name(c));
        }
        break;
    }
}

/* The tree is held by a userdata while Lua values are made, so that a memory error cannot leak it. */
static int free_tree(lua_State *L) {
    mp_json **j = lua_touserdata(L, 1);
    mp_json_free(*j);
    *j = NULL;
    return 0;
}

static mp_json **hold_tree(lua_State *L) {
    mp_json **j = lua_newuserdatauv(L, sizeof *j, 0);
    *j = NULL;
    luaL_setmetatable(L, "moonpool.tree");
    return j;
}

void l_push_json_text(lua_State *L, const char *text, size_t n) {
    mp_json **j = hold_tree(L);
    *j = mp_json_parse(text, n, NULL);
    l_push_json(L, *j);
    mp_json_free(*j);
    *j = NULL;
    lua_remove(L, -2);
}

static int json_decode(lua_State *L) {
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    mp_err e = { 0 };
    mp_json **j = hold_tree(L);
    *j = mp_json_parse(text, n, &e);
    if (!*j) return l_fail(L, e.code, e.msg, NULL);
    l_push_json(L, *j);
    mp_json_free(*j);
    *j = NULL;
    return 1;
}

/* ---- out ------------------------------------------------------------------------------------------------------- */

static void no(lua_State *L, mp_buf *b, const char *what, const char *why, const char *type) {
    mp_buf_free(b);
    luaL_error(L, "%s: %s%s%s cannot be written as JSON", what, why, *type ? " " : "", type);
}

static int compare_names(const void *a, const void *b) {
    const mp_str *x = a, *y = b;
    int c = memcmp(x->p, y->p, x->n < y->n ? x->n : y->n);
    return c ? c : x->n < y->n ? -1 : x->n > y->n;
}

static _Thread_local size_t text_limit;              /* of the text that is being written */

static void write_value(lua_State *L, int i, mp_buf *b, const char *what, int depth);

static void write_table(lua_State *L, int i, mp_buf *b, const char *what, int depth) {
    int array = 0;
    if (lua_getmetatable(L, i)) {
        luaL_getmetatable(L, ARRAY);
        array = lua_rawequal(L, -1, -2);
        lua_pop(L, 2);
    }
    size_t n = lua_rawlen(L, i), names = 0;
    if (n || array) {
        size_t keys = 0;
        for (lua_pushnil(L); lua_next(L, i); lua_pop(L, 1)) keys++;
        if (keys != n) no(L, b, what, "a table that is list and object at once, or a list with holes,", "");
        mp_buf_putc(b, '[');
        for (size_t k = 1; k <= n; k++) {
            if (k > 1) mp_buf_putc(b, ',');
            lua_rawgeti(L, i, (lua_Integer)k);
            write_value(L, lua_gettop(L), b, what, depth + 1);
            lua_pop(L, 1);
        }
        mp_buf_putc(b, ']');
        return;
    }
    for (lua_pushnil(L); lua_next(L, i); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING) no(L, b, what, "a table with a key of type", luaL_typename(L, -2));
        names++;
    }
    mp_str *v = lua_newuserdatauv(L, names * sizeof *v + 1, 0);          /* sorted, so that the same table gives the same text */
    names = 0;
    for (lua_pushnil(L); lua_next(L, i); lua_pop(L, 1)) {
        size_t len;
        const char *z = lua_tolstring(L, -2, &len);
        v[names++] = mp_str_make(z, len);
    }
    if (names) qsort(v, names, sizeof *v, compare_names);
    mp_buf_putc(b, '{');
    for (size_t k = 0; k < names; k++) {
        if (k) mp_buf_putc(b, ',');
        lua_pushlstring(L, v[k].p, v[k].n);
        lua_rawget(L, i);
        mp_buf_json(b, v[k]);
        mp_buf_putc(b, ':');
        write_value(L, lua_gettop(L), b, what, depth + 1);
        lua_pop(L, 1);
    }
    mp_buf_putc(b, '}');
    lua_pop(L, 1);
}

static void write_value(lua_State *L, int i, mp_buf *b, const char *what, int depth) {
    size_t n;
    if (b->n > text_limit) no(L, b, what, "so much", "");
    if (depth > MP_JSON_DEPTH) no(L, b, what, "a value nested deeper than 200 levels (or containing itself)", "");
    luaL_checkstack(L, 8, NULL);
    switch (lua_type(L, i)) {
    case LUA_TNIL: mp_buf_puts(b, "null"); break;
    case LUA_TBOOLEAN: mp_buf_puts(b, lua_toboolean(L, i) ? "true" : "false"); break;
    case LUA_TNUMBER:
        if (lua_isinteger(L, i)) mp_buf_printf(b, "%lld", (long long)lua_tointeger(L, i));
        else {
            size_t from = b->n;
            mp_buf_double(b, lua_tonumber(L, i));
            if (isfinite(lua_tonumber(L, i)) && !strpbrk(b->p + from, ".e")) mp_buf_puts(b, ".0");   /* a float stays one */
        }
        break;
    case LUA_TSTRING: {
        const char *z = lua_tolstring(L, i, &n);
        mp_buf_json(b, mp_str_make(z, n));
        break;
    }
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, i)) no(L, b, what, "a", luaL_typename(L, i));
        mp_buf_puts(b, "null");
        break;
    case LUA_TUSERDATA: {
        char **literal = luaL_testudata(L, i, LITERAL);
        mp_workflow *w = literal ? NULL : l_test_workflow(L, i);
        if (literal) mp_buf_puts(b, *literal);
        else if (w) mp_workflow_write(b, w);
        else no(L, b, what, "a", luaL_typename(L, i));
        break;
    }
    case LUA_TTABLE: write_table(L, i, b, what, depth); break;
    default: no(L, b, what, "a", luaL_typename(L, i));
    }
}

#define TEXT_LIMIT (1u << 30)
#define POLICY_TEXT_LIMIT (4u << 20)

void l_to_json(lua_State *L, int i, mp_buf *b, const char *what) {
    i = lua_absindex(L, i);
    text_limit = lua_getfield(L, LUA_REGISTRYINDEX, "moonpool.entry") == LUA_TLIGHTUSERDATA ? POLICY_TEXT_LIMIT : TEXT_LIMIT;
    lua_pop(L, 1);
    write_value(L, i, b, what, 0);
}

/* A buffer that the collector frees, should anything raise; on the stack's top. Its user frees it, too: that is safe twice. */
static int box_free(lua_State *L) { mp_buf_free(lua_touserdata(L, 1)); return 0; }
mp_buf *l_box(lua_State *L) {
    mp_buf *b = lua_newuserdatauv(L, sizeof *b, 0);
    memset(b, 0, sizeof *b);
    if (luaL_newmetatable(L, "moonpool.box")) {
        lua_pushcfunction(L, box_free);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return b;
}

static int json_encode(lua_State *L) {
    luaL_checkany(L, 1);
    mp_buf *b = l_box(L);
    l_to_json(L, 1, b, "json.encode");
    lua_pushlstring(L, b->p, b->n);
    mp_buf_free(b);
    return 1;
}

static int json_array(lua_State *L) {
    if (lua_isnoneornil(L, 1)) lua_newtable(L);
    else { luaL_checktype(L, 1, LUA_TTABLE); lua_settop(L, 1); }
    luaL_setmetatable(L, ARRAY);
    return 1;
}

static int literal_text(lua_State *L) {
    char **u = luaL_checkudata(L, 1, LITERAL);
    lua_pushstring(L, *u);
    return 1;
}

static int literal_eq(lua_State *L) {
    char **a = luaL_testudata(L, 1, LITERAL), **b = luaL_testudata(L, 2, LITERAL);
    lua_pushboolean(L, a && b && strcmp(*a, *b) == 0);
    return 1;
}

static int literal_gc(lua_State *L) {
    char **u = luaL_checkudata(L, 1, LITERAL);
    free(*u);
    *u = NULL;
    return 0;
}

static int json_number(lua_State *L) {
    const char *z = luaL_checkstring(L, 1);
    mp_json *j = mp_json_parse(z, strlen(z), NULL);
    int ok = mp_json_type(j) == MP_JSON_NUMBER;
    mp_json_free(j);
    luaL_argcheck(L, ok, 1, "the text of a JSON number expected");
    char **u = lua_newuserdatauv(L, sizeof *u, 0);
    *u = NULL;
    luaL_setmetatable(L, LITERAL);
    *u = mp_strdup(z);
    return 1;
}

/* {decode, encode, array, number, null} onto the stack's top table as `json`. */
void l_open_json(lua_State *L) {
    static const luaL_Reg functions[] = { { "decode", json_decode }, { "encode", json_encode }, { "array", json_array }, { "number", json_number }, { NULL, NULL } };
    static const luaL_Reg literal[] = { { "__tostring", literal_text }, { "__eq", literal_eq }, { "__gc", literal_gc }, { NULL, NULL } };
    static const luaL_Reg none[] = { { NULL, NULL } }, tree[] = { { "__gc", free_tree }, { NULL, NULL } };
    l_class(L, LITERAL, none, literal);
    l_class(L, ARRAY, none, none);
    l_class(L, "moonpool.tree", none, tree);
    luaL_newlib(L, functions);
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    lua_setfield(L, -2, "json");
}
