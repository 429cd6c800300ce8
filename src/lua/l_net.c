/* lua/l_net.c -- floor 7, lua: HTTP, WebSocket, timers and downloads, by callback; init.lua makes them wait. */
#include "lua/inside.h"
#include "net/http.h"
#include "net/ws.h"
#include "wire/transfer.h"
#include <stdlib.h>

#define TIMER "moonpool.timer"
#define WS "moonpool.ws"

/* An operation under way is anchored in the registry by its callback and let go in its completion. */
typedef struct { l_ctx *ctx; int ref; mp_http *h; } request;

static void on_reply(void *ud, const mp_http_reply *r) {
    request *q = ud;
    lua_State *L = q->ctx->L;
    int top = lua_gettop(L);
    if (lua_checkstack(L, 12)) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, q->ref);
        lua_createtable(L, 0, 6);
        lua_pushinteger(L, r->status);
        lua_setfield(L, -2, "status");
        lua_pushlstring(L, r->body ? r->body : "", r->n);
        lua_setfield(L, -2, "body");
        lua_pushstring(L, r->content_type);
        lua_setfield(L, -2, "content_type");
        lua_pushstring(L, r->headers);
        lua_setfield(L, -2, "raw_headers");
        if (r->code) {
            lua_pushstring(L, mp_err_kind(r->code));
            lua_setfield(L, -2, "kind");
            lua_pushstring(L, r->message);
            lua_setfield(L, -2, "message");
        }
        l_pcall(L, 1, 0, "HTTP callback");
    }
    lua_settop(L, top);
    luaL_unref(L, LUA_REGISTRYINDEX, q->ref);
    free(q);
}

typedef struct { const char *method, *url, *userpwd, *ca_file; mp_time timeout, connect_timeout, silence; double max_body; int insecure; } http_args;
static const opt http_opts[] = {
    { "method", OPT_TEXT, offsetof(http_args, method), 0, 0 }, { "url", OPT_TEXT, offsetof(http_args, url), 0, 0 }, { "body", OPT_BYTES, 0, 0, 0 },
    { "userpwd", OPT_TEXT, offsetof(http_args, userpwd), 0, 0 }, { "ca_file", OPT_TEXT, offsetof(http_args, ca_file), 0, 0 },
    { "timeout_ms", OPT_MS, offsetof(http_args, timeout), 1, 1e12 }, { "connect_timeout_ms", OPT_MS, offsetof(http_args, connect_timeout), 1, 1e12 },
    { "silence_ms", OPT_MS, offsetof(http_args, silence), 1, 1e12 }, { "max_body", OPT_NUMBER, offsetof(http_args, max_body), 1, 4e9 }, { "insecure", OPT_BOOL, offsetof(http_args, insecure), 0, 0 },
    { "headers", OPT_ANY, NO_PLACE, 0, 0 }, { "parts", OPT_ANY, NO_PLACE, 0, 0 }, { NULL, 0, 0, 0, 0 }
};

static mp_http_part *parts_of(lua_State *L, int t, size_t *n) {
    if (lua_getfield(L, t, "parts") == LUA_TNIL) { *n = 0; return NULL; }
    luaL_argcheck(L, lua_istable(L, -1), t, "option 'parts': a list expected");
    int at = lua_gettop(L);
    *n = lua_rawlen(L, at);
    mp_http_part *v = lua_newuserdatauv(L, (*n + 1) * sizeof *v, 0);
    for (size_t i = 0; i < *n; i++) {
        lua_rawgeti(L, at, (lua_Integer)i + 1);
        luaL_argcheck(L, lua_istable(L, -1), t, "option 'parts': tables {name=, data=, filename=, type=} expected");
        v[i] = (mp_http_part){ 0 };
        lua_getfield(L, -1, "name");
        lua_getfield(L, -2, "filename");
        lua_getfield(L, -3, "type");
        lua_getfield(L, -4, "data");
        v[i].name = lua_tostring(L, -4);
        v[i].filename = lua_tostring(L, -3);
        v[i].type = lua_tostring(L, -2);
        v[i].data = lua_tolstring(L, -1, &v[i].n);
        if (!v[i].name || !v[i].data) luaL_error(L, "option 'parts': item %d needs name and data", (int)i + 1);
        lua_pop(L, 5);
    }
    return v;
}

/* http(options, callback): callback gets {status, body, content_type, raw_headers} or also {kind, message}; once, later. */
static int net_http(lua_State *L) {
    http_args a = { 0 };
    mp_err e = { 0 };
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    l_options(L, 1, http_opts, &a, "http.request");
    if (!a.url) return luaL_error(L, "http.request: option 'url' is missing");
    mp_http_opts o = { .method = a.method, .url = a.url, .userpwd = a.userpwd, .ca_file = a.ca_file, .timeout = a.timeout, .connect_timeout = a.connect_timeout, .silence = a.silence, .max_body = (size_t)a.max_body, .insecure = a.insecure };
    if (lua_getfield(L, 1, "body") == LUA_TSTRING) o.body = lua_tolstring(L, -1, &o.n_body);
    o.headers = l_headers(L, 1, "http.request", 1);
    o.parts = parts_of(L, 1, &o.n_parts);
    mp_loop *loop = l_loop(L);
    request *q = mp_alloc(sizeof *q);
    q->ctx = l_context(L);
    lua_pushvalue(L, 2);
    q->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    q->h = mp_http_start(loop, &o, on_reply, q, &e);
    if (q->h) { lua_pushboolean(L, 1); return 1; }
    luaL_unref(L, LUA_REGISTRYINDEX, q->ref);
    free(q);
    return l_fail(L, e.code, e.msg, NULL);
}

/* ---- WebSocket -------------------------------------------------------------------------------------------------------- */

typedef struct { l_ctx *ctx; mp_ws *ws; int ref; } l_ws;     /* ref: the callback; ws NULL: ended */

static void tell(l_ws *u, const char *what, const char *p, size_t n, int number) {
    lua_State *L = u->ctx->L;
    int top = lua_gettop(L);
    if (u->ref == LUA_NOREF || !lua_checkstack(L, 8)) return;
    lua_rawgeti(L, LUA_REGISTRYINDEX, u->ref);
    lua_pushstring(L, what);
    lua_pushlstring(L, p ? p : "", n);
    lua_pushinteger(L, number);
    l_pcall(L, 3, 0, "WebSocket callback");
    lua_settop(L, top);
}

static void ws_opened(void *ud) { tell(ud, "open", "", 0, 101); }
static void ws_message(void *ud, int binary, const char *p, size_t n) { tell(ud, binary ? "binary" : "text", p, n, 0); }
static void ws_closed(void *ud, int code, int status, const char *words) {
    l_ws *u = ud;
    u->ws = NULL;
    tell(u, "close", words, strlen(words), status && status != 101 ? status : code);
    luaL_unref(u->ctx->L, LUA_REGISTRYINDEX, u->ref);
    u->ref = LUA_NOREF;
    lua_pushnil(u->ctx->L);
    lua_rawsetp(u->ctx->L, LUA_REGISTRYINDEX, u);    /* the operation is over: let the object go */
}

static const opt ws_opts[] = {
    { "url", OPT_TEXT, offsetof(http_args, url), 0, 0 }, { "userpwd", OPT_TEXT, offsetof(http_args, userpwd), 0, 0 }, { "ca_file", OPT_TEXT, offsetof(http_args, ca_file), 0, 0 },
    { "timeout_ms", OPT_MS, offsetof(http_args, timeout), 1, 1e12 }, { "max_message", OPT_NUMBER, offsetof(http_args, max_body), 1, 4e9 },
    { "insecure", OPT_BOOL, offsetof(http_args, insecure), 0, 0 }, { "headers", OPT_ANY, NO_PLACE, 0, 0 }, { NULL, 0, 0, 0, 0 }
};

/* ws(options, callback) -> object with send and close; callback(what, data, number) */
static int net_ws(lua_State *L) {
    http_args a = { 0 };
    mp_err e = { 0 };
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    l_options(L, 1, ws_opts, &a, "ws.connect");
    if (!a.url) return luaL_error(L, "ws.connect: option 'url' is missing");
    mp_ws_opts o = { .url = a.url, .userpwd = a.userpwd, .ca_file = a.ca_file, .timeout = a.timeout, .max_message = (size_t)a.max_body, .insecure = a.insecure,
                     .on_open = ws_opened, .on_message = ws_message, .on_close = ws_closed };
    o.headers = l_headers(L, 1, "ws.connect", 1);
    mp_loop *loop = l_loop(L);
    l_ws *u = lua_newuserdatauv(L, sizeof *u, 0);
    *u = (l_ws){ l_context(L), NULL, LUA_NOREF };
    luaL_setmetatable(L, WS);
    lua_pushvalue(L, 2);
    u->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    u->ws = mp_ws_open(loop, &o, u, &e);
    if (!u->ws) {
        luaL_unref(L, LUA_REGISTRYINDEX, u->ref);
        u->ref = LUA_NOREF;
        return l_fail(L, e.code, e.msg, NULL);
    }
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, u);
    return 1;
}

static int ws_send(lua_State *L) {
    l_ws *u = luaL_checkudata(L, 1, WS);
    size_t n;
    const char *p = luaL_checklstring(L, 2, &n);
    if (u->ws) mp_ws_send(u->ws, lua_toboolean(L, 3), p, n);
    lua_pushboolean(L, u->ws != NULL);
    return 1;
}

static int ws_close(lua_State *L) {
    l_ws *u = luaL_checkudata(L, 1, WS);
    if (u->ws && u->ctx->loop) mp_ws_close(u->ws, (int)luaL_optinteger(L, 2, 1000), luaL_optstring(L, 3, ""));
    return 0;
}

/* ---- timers ------------------------------------------------------------------------------------------------------------- */

typedef struct { l_ctx *ctx; mp_timer *t; int ref; } l_timer;

static void timer_done(l_timer *u) {
    if (!u->t) return;
    mp_timer_free(u->t);
    u->t = NULL;
    luaL_unref(u->ctx->L, LUA_REGISTRYINDEX, u->ref);
    u->ref = LUA_NOREF;
    lua_pushnil(u->ctx->L);
    lua_rawsetp(u->ctx->L, LUA_REGISTRYINDEX, u);
}

static void on_timer(void *ud) {
    l_timer *u = ud;
    lua_State *L = u->ctx->L;
    lua_rawgetp(L, LUA_REGISTRYINDEX, u);            /* alive until we are through */
    lua_rawgeti(L, LUA_REGISTRYINDEX, u->ref);
    timer_done(u);
    l_pcall(L, 0, 0, "timer");
    lua_pop(L, 1);
}

/* timer(ms, fn) -> object with cancel */
static int net_timer(lua_State *L) {
    double ms = luaL_checknumber(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    mp_loop *loop = l_loop(L);
    l_timer *u = lua_newuserdatauv(L, sizeof *u, 0);
    *u = (l_timer){ l_context(L), NULL, LUA_NOREF };
    luaL_setmetatable(L, TIMER);
    lua_pushvalue(L, 2);
    u->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, u);
    u->t = mp_timer_new(loop, on_timer, u);
    mp_timer_set(u->t, mp_loop_now(loop) + (mp_time)((ms < 0 ? 0 : ms > 8e10 ? 8e10 : ms) * 1000));
    return 1;
}

static int timer_cancel(lua_State *L) {
    l_timer *u = luaL_checkudata(L, 1, TIMER);
    if (u->ctx->loop) timer_done(u);
    return 0;
}

/* ---- downloads ---------------------------------------------------------------------------------------------------------- */

static void on_transfer(void *ud, const mp_http_reply *r, const char *words) {
    request *q = ud;
    lua_State *L = q->ctx->L;
    int top = lua_gettop(L);
    if (lua_checkstack(L, 8)) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, q->ref);
        lua_createtable(L, 0, 3);
        lua_pushinteger(L, r->status);
        lua_setfield(L, -2, "status");
        if (words || r->code) {
            lua_pushstring(L, words ? "io" : mp_err_kind(r->code));
            lua_setfield(L, -2, "kind");
            lua_pushstring(L, words ? words : r->message);
            lua_setfield(L, -2, "message");
        }
        l_pcall(L, 1, 0, "download callback");
    }
    lua_settop(L, top);
    luaL_unref(L, LUA_REGISTRYINDEX, q->ref);
    free(q);
}

/* download(options, path, callback): as http, the body streamed into a file; callback gets {status} or also {kind, message}. */
static int net_download(lua_State *L) {
    http_args a = { 0 };
    mp_err e = { 0 };
    luaL_checktype(L, 1, LUA_TTABLE);
    const char *path = luaL_checkstring(L, 2);
    luaL_checktype(L, 3, LUA_TFUNCTION);
    lua_settop(L, 3);
    l_options(L, 1, http_opts, &a, "download");
    if (!a.url) return luaL_error(L, "download: option 'url' is missing");
    mp_http_opts o = { .url = a.url, .userpwd = a.userpwd, .ca_file = a.ca_file, .timeout = a.timeout, .connect_timeout = a.connect_timeout, .silence = a.silence, .insecure = a.insecure };
    o.headers = l_headers(L, 1, "download", 1);
    mp_loop *loop = l_loop(L);
    request *q = mp_alloc(sizeof *q);
    q->ctx = l_context(L);
    lua_pushvalue(L, 3);
    q->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    if (mp_transfer_start(loop, &o, path, on_transfer, q, &e) == 0) { lua_pushboolean(L, 1); return 1; }
    luaL_unref(L, LUA_REGISTRYINDEX, q->ref);
    free(q);
    return l_fail(L, e.code, e.msg, NULL);
}

/* beside(path) -> where what will be there is written until it is whole; the folders are made */
static int net_beside(lua_State *L) {
    char *path = mp_strdup(luaL_checkstring(L, 1)), *beside = mp_beside(path);
    mp_make_folders(path);
    lua_pushstring(L, beside);
    free(beside);
    free(path);
    return 1;
}

void l_open_net(lua_State *L) {
    static const luaL_Reg none[] = { { NULL, NULL } }, timer[] = { { "cancel", timer_cancel }, { NULL, NULL } }, ws[] = { { "send", ws_send }, { "close", ws_close }, { NULL, NULL } };
    static const luaL_Reg functions[] = { { "http", net_http }, { "ws", net_ws }, { "timer", net_timer }, { "download", net_download }, { "beside", net_beside }, { NULL, NULL } };
    l_class(L, TIMER, timer, none);
    l_class(L, WS, ws, none);
    const char *names[] = { TIMER, WS };
    for (int i = 0; i < 2; i++) {
        luaL_getmetatable(L, names[i]);
        lua_getfield(L, -1, "methods");
        lua_setfield(L, -2, "__index");
        lua_pop(L, 1);
    }
    luaL_setfuncs(L, functions, 0);
}
