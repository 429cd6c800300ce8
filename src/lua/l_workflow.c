/* lua/l_workflow.c -- floor 7, lua: workflows for scripts. Changing methods return the workflow, so they chain. */
#include "lua/inside.h"
#include "graph/hash.h"
#include <stdlib.h>

#define WORKFLOW "moonpool.workflow"
typedef struct { mp_workflow *w; } l_workflow;       /* w NULL: closed */

/* An empty one on the stack's top, made before what it will own: making it may raise. */
static l_workflow *place(lua_State *L) {
    l_workflow *u = lua_newuserdatauv(L, sizeof *u, 0);
    u->w = NULL;
    luaL_setmetatable(L, WORKFLOW);
    return u;
}

void l_push_workflow(lua_State *L, mp_workflow *w) { place(L)->w = w; }

void l_close_workflow(lua_State *L, int i) {
    l_workflow *u = luaL_checkudata(L, i, WORKFLOW);
    mp_workflow_unref(u->w);
    u->w = NULL;
}

mp_workflow *l_test_workflow(lua_State *L, int i) {
    l_workflow *u = luaL_testudata(L, i, WORKFLOW);
    return u ? u->w : NULL;
}

static l_workflow *check(lua_State *L, int i) {
    l_workflow *u = l_self(L, i, WORKFLOW);
    luaL_argcheck(L, u->w, i, "workflow is closed");
    return u;
}

mp_workflow *l_check_workflow(lua_State *L, int i) { return check(L, i)->w; }

/* workflow.from(text or table) -> workflow, or nil, err that says what it is or where it breaks. */
static int workflow_from(lua_State *L) {
    mp_err e = { 0 };
    if (lua_type(L, 1) != LUA_TSTRING) luaL_checktype(L, 1, LUA_TTABLE);
    l_workflow *u = place(L);
    if (lua_type(L, 1) == LUA_TSTRING) {
        size_t n;
        const char *text = lua_tolstring(L, 1, &n);
        u->w = mp_workflow_from_file(text, n, &e);
    } else {
        mp_buf *b = l_box(L);
        l_to_json(L, 1, b, "workflow.from");
        u->w = mp_workflow_parse(b->p, b->n, &e);
        mp_buf_free(b);
        lua_pop(L, 1);
    }
    return u->w ? 1 : l_fail(L, e.code, e.msg, NULL);
}

static mp_str check_str(lua_State *L, int i) {
    size_t n;
    const char *p = luaL_checklstring(L, i, &n);
    return mp_str_make(p, n);
}

/* Sets one input from the Lua value at `value`; raises. The caller has checked its arguments. */
static void set_value(lua_State *L, l_workflow *u, mp_str node, mp_str input, int value) {
    mp_err e = { 0 };
    value = lua_absindex(L, value);
    mp_buf *b = l_box(L);
    l_to_json(L, value, b, "workflow:input");
    l_charge(L, b->n + input.n + 64);
    u->w = mp_workflow_own(u->w);
    int rc = mp_workflow_set(u->w, node, input, mp_buf_view(b), &e);
    mp_buf_free(b);
    if (rc) luaL_error(L, "%s", e.msg);
    lua_pop(L, 1);
}

/* Option strict of wf:input: only an input that the node has. */
static void check_strict(lua_State *L, int t, const l_workflow *u, mp_str node, mp_str name) {
    static const opt opts[] = { { "strict", OPT_BOOL, 0, 0, 0 }, { NULL, 0, 0, 0, 0 } };
    int strict = 0;
    mp_str json;
    l_options(L, t, opts, &strict, "workflow:input");
    long at = mp_workflow_index(u->w, node);
    if (!strict || at < 0 || mp_workflow_get(u->w, (size_t)at, name, &json)) return;
    mp_buf *b = l_box(L);
    for (size_t i = 0; mp_workflow_input_at(u->w, (size_t)at, i, &name, &json); i++) mp_buf_printf(b, "%s\"%.*s\"", i ? ", " : "", (int)name.n, name.p);
    luaL_error(L, "node \"%s\" has no input \"%s\"; it has %s", node.p, lua_tostring(L, 3), b->n ? b->p : "none");
}

/* wf:input(node, name, value, {strict}) -> wf; wf:input(node, name) -> value */
static int workflow_input(lua_State *L) {
    l_workflow *u = check(L, 1);
    mp_str node = check_str(L, 2), name = check_str(L, 3), json;
    if (lua_gettop(L) >= 4) {
        luaL_argcheck(L, !lua_isnil(L, 4), 4, "a value expected (json.null for null)");
        check_strict(L, 5, u, node, name);
        set_value(L, u, node, name, 4);
        lua_settop(L, 1);
        return 1;
    }
    long at = mp_workflow_index(u->w, node);
    if (at < 0) return luaL_error(L, "the workflow has no node \"%s\"", node.p);
    if (!mp_workflow_get(u->w, (size_t)at, name, &json)) return 0;
    l_push_json_text(L, json.p, json.n);
    return 1;
}

/* wf:inputs(node, {name = value, ...}) or wf:inputs{node = {name = value}} -> wf */
static int workflow_inputs(lua_State *L) {
    l_workflow *u = check(L, 1);
    if (lua_istable(L, 2)) {
        for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
            luaL_argcheck(L, lua_type(L, -2) == LUA_TSTRING && lua_istable(L, -1), 2, "a table of node = {input = value} expected");
            lua_pushcfunction(L, workflow_inputs);
            lua_pushvalue(L, 1);
            lua_pushvalue(L, -4);
            lua_pushvalue(L, -4);
            lua_call(L, 3, 0);
        }
    } else {
        mp_str node = check_str(L, 2);
        luaL_checktype(L, 3, LUA_TTABLE);
        for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1)) {
            luaL_argcheck(L, lua_type(L, -2) == LUA_TSTRING, 3, "names of inputs expected as keys");
            size_t n;
            const char *name = lua_tolstring(L, -2, &n);
            set_value(L, u, node, mp_str_make(name, n), lua_gettop(L));
        }
    }
    lua_settop(L, 1);
    return 1;
}

/* wf:set("6.inputs.text", value) or wf:set("6.text", value) -> wf. Node ids may contain dots: the longest match wins. */
static int workflow_set(lua_State *L) {
    l_workflow *u = check(L, 1);
    mp_str path = check_str(L, 2);
    luaL_argcheck(L, !lua_isnoneornil(L, 3), 3, "a value expected (json.null for null)");
    for (size_t i = path.n; i-- > 1;) {
        if (path.p[i] != '.' || mp_workflow_index(u->w, mp_str_make(path.p, i)) < 0) continue;
        mp_str name = mp_str_make(path.p + i + 1, path.n - i - 1);
        if (name.n > 7 && memcmp(name.p, "inputs.", 7) == 0) { name.p += 7; name.n -= 7; }
        set_value(L, u, mp_str_make(path.p, i), name, 3);
        lua_settop(L, 1);
        return 1;
    }
    return luaL_error(L, "the workflow has no node that \"%s\" begins with", path.p);
}

/* wf:output("9"), wf:output("final:9"), wf:output("final", "9") -> wf */
static int workflow_output(lua_State *L) {
    l_workflow *u = check(L, 1);
    mp_str a = check_str(L, 2), id = a, alias = { 0 };
    mp_err e = { 0 };
    if (!lua_isnoneornil(L, 3)) { alias = a; id = check_str(L, 3); }
    else if (mp_workflow_index(u->w, a) < 0) {       /* ids may contain colons themselves */
        const char *colon = memchr(a.p, ':', a.n);
        if (colon) { alias = mp_str_make(a.p, (size_t)(colon - a.p)); id = mp_str_make(colon + 1, a.n - alias.n - 1); }
    }
    l_charge(L, alias.n + id.n + 64);
    u->w = mp_workflow_own(u->w);
    if (mp_workflow_output(u->w, alias, id, &e)) return luaL_error(L, "%s", e.msg);
    lua_settop(L, 1);
    return 1;
}

/* wf:find{class = "KSampler"}, wf:find{title = "Positive"} -> list of node ids, in the order of the file */
static int workflow_find(lua_State *L) {
    struct { const char *class_type, *title; } o = { 0 };
    static const opt opts[] = { { "class", OPT_TEXT, 0, 0, 0 }, { "title", OPT_TEXT, sizeof(char *), 0, 0 }, { NULL, 0, 0, 0, 0 } };
    l_workflow *u = check(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    l_options(L, 2, opts, &o, "workflow:find");
    lua_newtable(L);
    for (size_t i = 0, n = 0; i < mp_workflow_count(u->w); i++) {
        const mp_node *at = mp_workflow_node(u->w, i);
        if (o.class_type && strcmp(at->class_type, o.class_type) != 0) continue;
        if (o.title && (!at->title || strcmp(at->title, o.title) != 0)) continue;
        lua_pushstring(L, at->id);
        lua_rawseti(L, -2, (lua_Integer)++n);
    }
    return 1;
}

static int workflow_clone(lua_State *L) {
    l_workflow *of = check(L, 1), *u = place(L);
    u->w = mp_workflow_clone(of->w);
    return 1;
}

static int workflow_to_json(lua_State *L) {
    l_workflow *u = check(L, 1);
    mp_buf *b = l_box(L);
    mp_workflow_write(b, u->w);
    lua_pushlstring(L, b->p, b->n);
    mp_buf_free(b);
    return 1;
}

static int workflow_nodes(lua_State *L) {
    l_workflow *u = check(L, 1);
    lua_newtable(L);
    for (size_t i = 0; i < mp_workflow_count(u->w); i++) {
        const mp_node *n = mp_workflow_node(u->w, i);
        lua_createtable(L, 0, 3);
        lua_pushstring(L, n->id);
        lua_setfield(L, -2, "id");
        lua_pushstring(L, n->class_type);
        lua_setfield(L, -2, "class");
        if (n->title) { lua_pushstring(L, n->title); lua_setfield(L, -2, "title"); }
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static void add_model(void *ud, mp_str file) {
    lua_State *L = ud;
    lua_pushlstring(L, file.p, file.n);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
}

static int workflow_index(lua_State *L) {
    l_workflow *u = check(L, 1);
    const char *k = luaL_checkstring(L, 2);
    if (strcmp(k, "structure_hash") == 0) lua_pushstring(L, mp_workflow_hash(u->w));
    else if (strcmp(k, "models") == 0) { lua_newtable(L); mp_workflow_models(u->w, add_model, L); }
    else {
        luaL_getmetafield(L, 1, "methods");
        lua_getfield(L, -1, k);
    }
    return 1;
}

static int workflow_gc(lua_State *L) {
    l_workflow *u = luaL_checkudata(L, 1, WORKFLOW);
    mp_workflow_unref(u->w);
    u->w = NULL;
    return 0;
}

static int workflow_text(lua_State *L) {
    l_workflow *u = luaL_checkudata(L, 1, WORKFLOW);
    if (!u->w) lua_pushliteral(L, "workflow (closed)");
    else lua_pushfstring(L, "workflow (%d nodes, %s)", (int)mp_workflow_count(u->w), mp_workflow_hash(u->w));
    return 1;
}

/* The structural hash of any JSON text, also of graphs that workflow.from refuses. */
static int graph_hash(lua_State *L) {
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    char out[65];
    mp_err e = { 0 };
    mp_json *j = mp_json_parse(text, n, &e);
    if (!j) return l_fail(L, e.code, e.msg, NULL);
    int object = mp_json_type(j) == MP_JSON_OBJECT;
    if (object) mp_graph_hash(j, out);
    mp_json_free(j);
    if (!object) return l_fail(L, MP_EINVAL, "a graph is a JSON object", NULL);
    lua_pushstring(L, out);
    return 1;
}

/* Each id of a string or a list at argument 2. */
static int each_id(lua_State *L, int (*fn)(lua_State *L, l_workflow *u, mp_str id)) {
    l_workflow *u = check(L, 1);
    u->w = mp_workflow_own(u->w);
    if (lua_type(L, 2) == LUA_TSTRING) fn(L, u, check_str(L, 2));
    else {
        luaL_checktype(L, 2, LUA_TTABLE);
        for (size_t i = 1; i <= lua_rawlen(L, 2); i++) {
            if (lua_rawgeti(L, 2, (lua_Integer)i) != LUA_TSTRING) return luaL_error(L, "a list of node ids expected; item %d is a %s", (int)i, luaL_typename(L, -1));
            fn(L, u, check_str(L, -1));
            lua_pop(L, 1);
        }
    }
    lua_settop(L, 1);
    return 1;
}

static int bypass_one(lua_State *L, l_workflow *u, mp_str id) {
    mp_err e = { 0 };
    mp_buf info = { 0 };
    long at = mp_workflow_index(u->w, id);
    const char *class_type = at >= 0 ? mp_workflow_node(u->w, (size_t)at)->class_type : "";
    if (lua_istable(L, 3) && lua_getfield(L, 3, class_type) == LUA_TTABLE) l_to_json(L, -1, &info, "object_info");
    int rc = mp_workflow_bypass(u->w, id, info.p, &e);
    size_t n = info.n;
    mp_buf_free(&info);
    l_charge(L, n + id.n + 64);
    return rc ? luaL_error(L, "%s", e.msg) : 0;
}

static int reinstate_one(lua_State *L, l_workflow *u, mp_str id) {
    mp_err e = { 0 };
    return mp_workflow_reinstate(u->w, id, &e) ? luaL_error(L, "%s", e.msg) : 0;
}

/* wf:bypass(id or ids, object_info) -> wf: these nodes are left out, and what took their outputs takes what they were fed.
 * object_info (as client:object_info() gives it) tells the types; without it output k stands for the k-th linked input. */
static int workflow_bypass(lua_State *L) {
    lua_settop(L, 3);
    return each_id(L, bypass_one);
}

/* wf:reinstate(id or ids) -> wf: as if they had not been bypassed */
static int workflow_reinstate(lua_State *L) { return each_id(L, reinstate_one); }

/* wf:_attach(node, input, {data=, path=, name=, subfolder=, type=, overwrite=, mask_of=}) -> wf, or nil, err when the file
 * cannot be read; node "": it only has to be on the server */
static int workflow_attach(lua_State *L) {
    struct { const char *path, *name, *subfolder, *type, *mask_of; int overwrite; } o = { .subfolder = "", .type = "input" };
    static const opt opts[] = {
        { "path", OPT_TEXT, 0, 0, 0 }, { "name", OPT_TEXT, sizeof(char *), 0, 0 }, { "subfolder", OPT_TEXT, 2 * sizeof(char *), 0, 0 }, { "type", OPT_TEXT, 3 * sizeof(char *), 0, 0 },
        { "mask_of", OPT_TEXT, 4 * sizeof(char *), 0, 0 }, { "overwrite", OPT_BOOL, 5 * sizeof(char *), 0, 0 }, { "data", OPT_ANY, NO_PLACE, 0, 0 }, { NULL, 0, 0, 0, 0 }
    };
    l_workflow *u = check(L, 1);
    mp_str node = check_str(L, 2), input = check_str(L, 3);
    mp_err e = { 0 };
    size_t n = 0;
    const char *data = NULL;
    luaL_checktype(L, 4, LUA_TTABLE);
    l_options(L, 4, opts, &o, "attach");
    if (lua_getfield(L, 4, "data") == LUA_TSTRING) data = lua_tolstring(L, -1, &n);
    if (!data && !o.path) return luaL_error(L, "attach: bytes or {path = file} expected");
    mp_file *f = mp_file_new(data, n, data ? NULL : o.path, o.name, o.subfolder, o.type, o.mask_of, o.overwrite, &e);
    if (!f && e.code == MP_EIO) return l_fail(L, e.code, e.msg, NULL);
    if (!f) return luaL_error(L, "%s", e.msg);
    u->w = mp_workflow_own(u->w);
    int rc = mp_workflow_attach(u->w, node, input, f, &e);
    mp_file_unref(f);
    if (rc) return luaL_error(L, "%s", e.msg);
    lua_settop(L, 1);
    return 1;
}

void l_open_workflow(lua_State *L) {
    static const luaL_Reg methods[] = { { "input", workflow_input }, { "inputs", workflow_inputs }, { "set", workflow_set }, { "output", workflow_output },
        { "find", workflow_find }, { "_attach", workflow_attach }, { "bypass", workflow_bypass }, { "reinstate", workflow_reinstate }, { "clone", workflow_clone }, { "to_json", workflow_to_json }, { "nodes", workflow_nodes }, { NULL, NULL } };
    static const luaL_Reg meta[] = { { "__index", workflow_index }, { "__gc", workflow_gc }, { "__close", workflow_gc }, { "__tostring", workflow_text }, { NULL, NULL } };
    static const luaL_Reg functions[] = { { "from", workflow_from }, { "hash", graph_hash }, { NULL, NULL } };
    l_class(L, WORKFLOW, methods, meta);
    luaL_newlib(L, functions);
    lua_setfield(L, -2, "workflow");
}
