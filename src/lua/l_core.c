/* lua/l_core.c -- floor 7, lua: the module's C half, its context, and the C API of moonpool.h. */
#include "lua/inside.h"
#include "base/digest.h"
#include "moonpool.h"
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define CONTEXT "moonpool.context"

struct moonpool {                                    /* also the context's userdata */
    l_ctx c;
    int own;                                         /* made by moonpool_open */
    moonpool_event on_event;
    void *event_ud;
    moonpool_preview on_preview;
    void *preview_ud;
    mp_buf warning;                                  /* pieces of one of Lua's warnings */
};

static int context_gc(lua_State *L) {
    moonpool *m = luaL_checkudata(L, 1, CONTEXT);
    m->c.closing = 1;
    mp_loop_free(m->c.loop);
    m->c.loop = NULL;
    mp_buf_free(&m->warning);
    return 0;
}

l_ctx *l_context(lua_State *L) {
    if (lua_getfield(L, LUA_REGISTRYINDEX, CONTEXT ".at") == LUA_TUSERDATA) {
        moonpool *m = lua_touserdata(L, -1);
        lua_pop(L, 1);
        return &m->c;
    }
    lua_pop(L, 1);
    moonpool *m = lua_newuserdatauv(L, sizeof *m, 0);
    memset(m, 0, sizeof *m);
    m->c.turn = LUA_NOREF;
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    m->c.L = lua_tothread(L, -1);                    /* the main thread, not whoever happened to load us */
    lua_pop(L, 1);
    luaL_newmetatable(L, CONTEXT);
    lua_pushcfunction(L, context_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lua_setfield(L, LUA_REGISTRYINDEX, CONTEXT ".at");
    return &m->c;
}

mp_loop *l_loop(lua_State *L) {
    l_ctx *c = l_context(L);
    mp_err e = { 0 };
    if (!c->loop && !c->closing && !(c->loop = mp_loop_new(&e))) luaL_error(L, "moonpool: %s", e.msg);
    return c->loop;
}

/* ---- signals: only for the interpreter, which asks for them ---------------------------------------------------------- */

static volatile sig_atomic_t signals, hangups;
static mp_loop *signal_loop;

static void on_signal(int number) {
    if (signals++) _exit(128 + number);              /* the second one leaves at once */
    if (signal_loop) mp_loop_wake(signal_loop);
}

static void on_hangup(int number) {
    (void)number;
    hangups = 1;
    if (signal_loop) mp_loop_wake(signal_loop);
}

/* SIGINT, SIGTERM and SIGHUP; see interrupted and hangup. */
static int core_catch_signals(lua_State *L) {
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_signal;
    signal_loop = l_loop(L);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    a.sa_handler = on_hangup;
    sigaction(SIGHUP, &a, NULL);
    return 0;
}

/* interrupted(again): whether SIGINT or SIGTERM came; it is told once. again: the next one is a first one. */
static int core_interrupted(lua_State *L) {
    static int told;
    int yes = signals && !told;
    if (yes) told = 1;
    if (yes && lua_toboolean(L, 1)) signals = told = 0;
    lua_pushboolean(L, yes);
    return 1;
}

/* hangup(): whether SIGHUP came since it was last asked */
static int core_hangup(lua_State *L) {
    lua_pushboolean(L, hangups);
    hangups = 0;
    return 1;
}

/* ---- steps -------------------------------------------------------------------------------------------------------------- */

static int step(l_ctx *c, int wait_ms) {
    if (!c->loop) return 0;
    if (c->stepping) return MP_EBUSY;
    c->stepping = 1;
    int rc = mp_loop_step(c->loop, wait_ms);
    if (rc == 0 && c->turn != LUA_NOREF && lua_checkstack(c->L, 4)) {
        lua_rawgeti(c->L, LUA_REGISTRYINDEX, c->turn);
        c->callbacks--;                              /* tasks are resumed here: they may wait */
        l_pcall(c->L, 0, 0, "tasks");
        c->callbacks++;
    }
    c->stepping = 0;
    return rc;
}

/* step(wait_ms): raises inside a step or a callback. */
static int core_step(lua_State *L) {
    l_ctx *c = l_context(L);
    l_loop(L);
    if (c->callbacks > 0) return luaL_error(L, "a step inside a step: callbacks and hooks may not wait (use moonpool.spawn)");
    if (step(c, (int)luaL_optinteger(L, 1, 0)) == MP_EBUSY) return luaL_error(L, "a step inside a step: callbacks and hooks may not wait (use moonpool.spawn)");
    if (c->interrupted) {
        c->interrupted = 0;
        return luaL_error(L, "interrupted!");
    }
    return 0;
}

static int core_wake(lua_State *L) { mp_loop_wake(l_loop(L)); return 0; }

static int core_on_turn(lua_State *L) {
    l_ctx *c = l_context(L);
    luaL_checktype(L, 1, LUA_TFUNCTION);
    luaL_unref(L, LUA_REGISTRYINDEX, c->turn);
    lua_settop(L, 1);
    c->turn = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

static int core_is_interrupt(lua_State *L) { lua_pushboolean(L, l_is_interrupt(luaL_checkstring(L, 1))); return 1; }

static int core_in_callback(lua_State *L) { lua_pushboolean(L, l_context(L)->callbacks > 0); return 1; }

static int core_now(lua_State *L) {
    lua_pushnumber(L, (double)mp_loop_now(l_loop(L)) / 1000);
    return 1;
}

static int core_wall(lua_State *L) {
    mp_loop *l = l_loop(L);
    lua_pushnumber(L, (double)(mp_loop_now(l) + mp_loop_epoch(l)) / 1000);
    return 1;
}

static int core_fd(lua_State *L) { lua_pushinteger(L, mp_loop_fd(l_loop(L))); return 1; }
static int core_timeout(lua_State *L) { lua_pushinteger(L, mp_loop_timeout_ms(l_loop(L))); return 1; }

static int core_log(lua_State *L) {
    int level = mp_log_level(luaL_checkstring(L, 1));
    luaL_argcheck(L, level >= 0, 1, "debug, info, warn or error expected");
    l_write_log(l_context(L), level, luaL_checkstring(L, 2));
    return 0;
}

/* host_event(name, json): for moonpool_on_event; false when nobody listens */
static int core_host_event(lua_State *L) {
    moonpool *m = (moonpool *)l_context(L);
    if (lua_gettop(L) == 0) { lua_pushboolean(L, m->on_event != NULL); return 1; }
    if (m->on_event) m->on_event(m->event_ud, luaL_checkstring(L, 1), luaL_checkstring(L, 2));
    return 0;
}

/* distance(a, b): edit distance */
static int core_distance(lua_State *L) {
    lua_pushinteger(L, l_distance(luaL_checkstring(L, 1), luaL_checkstring(L, 2)));
    return 1;
}

/* digest(bytes): SHA-256 in hex */
static int core_digest(lua_State *L) {
    size_t n;
    char hex[MP_DIGEST_HEX];
    const char *z = luaL_checklstring(L, 1, &n);
    mp_sha256_hex(z, n, hex);
    lua_pushstring(L, hex);
    return 1;
}

/* list_folder(path): names of what is in it but . and .., at most 1,000,000; nil, words */
static int core_list_folder(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    DIR *d = opendir(path);
    if (!d) {
        lua_pushnil(L);
        lua_pushfstring(L, "%s: %s", path, strerror(errno));
        return 2;
    }
    lua_newtable(L);
    mp_buf names = { 0 };                            /* nothing of Lua may raise while the folder is open */
    size_t n = 0;
    for (struct dirent *e; n < 1000000 && (e = readdir(d)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        mp_buf_add(&names, e->d_name, strlen(e->d_name) + 1);
        n++;
    }
    closedir(d);
    const char *z = names.p;
    for (size_t i = 1; i <= n; i++, z += strlen(z) + 1) {
        lua_pushstring(L, z);
        lua_rawseti(L, -2, (lua_Integer)i);
    }
    mp_buf_free(&names);
    return 1;
}

/* ---- standard input, beside the loop ------------------------------------------------------------------------------------ */

typedef struct { l_ctx *c; mp_watch *watch; int fn; } l_input;

static void on_input(void *ud) {
    l_input *in = ud;
    lua_State *L = in->c->L;
    if (in->fn == LUA_NOREF || !lua_checkstack(L, 4)) return;
    lua_rawgeti(L, LUA_REGISTRYINDEX, in->fn);
    mp_watch_free(in->watch);
    luaL_unref(L, LUA_REGISTRYINDEX, in->fn);
    in->watch = NULL;
    in->fn = LUA_NOREF;
    l_pcall(L, 0, 0, "input");
}

/* readable(fn): calls fn once when standard input has something, or has ended; at once false when it is a plain file */
static int core_readable(lua_State *L) {
    static const char key = 0;
    mp_loop *loop = l_loop(L);
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_settop(L, 1);
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &key) != LUA_TUSERDATA) {
        l_input *made = lua_newuserdatauv(L, sizeof *made, 0);
        *made = (l_input){ l_context(L), NULL, LUA_NOREF };
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &key);
    }
    l_input *in = lua_touserdata(L, -1);
    if (in->watch) return luaL_error(L, "standard input is waited for already");
    in->watch = mp_watch_new(loop, 0, on_input, in);
    lua_settop(L, 1);
    if (in->watch) in->fn = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushboolean(L, in->watch != NULL);
    return 1;
}

/* read_input(): what standard input has, up to 64 KiB; nil at its end */
static int core_read_input(lua_State *L) {
    luaL_Buffer b;
    char *to = luaL_buffinitsize(L, &b, 65536);
    ssize_t n;
    do n = read(0, to, 65536);
    while (n < 0 && errno == EINTR);
    if (n <= 0) return 0;
    luaL_pushresultsize(&b, (size_t)n);
    return 1;
}

static int core_host_preview(lua_State *L) {
    lua_pushboolean(L, ((moonpool *)l_context(L))->on_preview != NULL);
    return 1;
}

static int core_url(lua_State *L) {
    size_t n;
    const char *z = luaL_checklstring(L, 1, &n);
    mp_buf b = { 0 };
    mp_buf_url(&b, mp_str_make(z, n));
    lua_pushlstring(L, b.p ? b.p : "", b.n);
    mp_buf_free(&b);
    return 1;
}

static int core_isatty(lua_State *L) { lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1))); return 1; }
static int core_cpu(lua_State *L) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    lua_pushnumber(L, (double)t.tv_sec * 1000 + (double)t.tv_nsec / 1e6);
    return 1;
}

/* methods(class): the method table of a C class, for init.lua to add what waits */
static int core_methods(lua_State *L) {
    luaL_getmetatable(L, luaL_checkstring(L, 1));
    lua_getfield(L, -1, "methods");
    return 1;
}

static int core_metatable(lua_State *L) { luaL_getmetatable(L, luaL_checkstring(L, 1)); return 1; }

const l_embedded *l_find_embedded(const char *name) {
    for (const l_embedded *e = l_embedded_files; e->name; e++)
        if (strcmp(e->name, name) == 0) return e;
    return NULL;
}

/* source(name): text of an embedded module or nil */
static int core_source(lua_State *L) {
    const l_embedded *e = l_find_embedded(luaL_checkstring(L, 1));
    if (!e) return 0;
    lua_pushlstring(L, e->text, e->n);
    return 1;
}

static int error_text(lua_State *L) {
    lua_getfield(L, 1, "kind");
    lua_getfield(L, 1, "message");
    lua_pushfstring(L, "%s: %s", luaL_optstring(L, -2, "error"), luaL_optstring(L, -1, ""));
    return 1;
}

int l_open_core(lua_State *L) {
    static const luaL_Reg functions[] = {
        { "step", core_step }, { "wake", core_wake }, { "on_turn", core_on_turn }, { "in_callback", core_in_callback }, { "is_interrupt", core_is_interrupt }, { "now", core_now }, { "wall", core_wall }, { "fd", core_fd },
        { "next_timeout_ms", core_timeout }, { "log", core_log }, { "host_event", core_host_event }, { "host_preview", core_host_preview }, { "url_encode", core_url }, { "isatty", core_isatty },
        { "cpu_ms", core_cpu }, { "methods", core_methods }, { "metatable", core_metatable }, { "source", core_source }, { "catch_signals", core_catch_signals },
        { "interrupted", core_interrupted }, { "hangup", core_hangup }, { "distance", core_distance }, { "formatter", l_formatter }, { "digest", core_digest }, { "list_folder", core_list_folder }, { "readable", core_readable }, { "read_input", core_read_input }, { NULL, NULL }
    };
    l_context(L);
    luaL_newmetatable(L, "moonpool.error");
    lua_pushcfunction(L, error_text);
    lua_setfield(L, -2, "__tostring");
    lua_pop(L, 1);
    luaL_newlib(L, functions);
    l_open_json(L);
    l_open_workflow(L);
    l_open_job(L);
    l_open_pool(L);
    l_open_sim(L);
    l_open_net(L);
    l_open_profile(L);
    l_open_plan(L);
    return 1;
}

/* Loads an embedded module; MOONPOOL_LUA names a folder whose files stand before the embedded ones. */
static int load_embedded(lua_State *L) {
    const char *name = lua_tostring(L, lua_upvalueindex(1)), *folder = getenv("MOONPOOL_LUA");
    if (folder) {
        char *file = mp_strdup(name), *path;
        for (char *p = file; *p; p++) if (*p == '.') *p = '/';
        path = mp_format("%s/%s%s.lua", folder, file, strcmp(name, "moonpool") == 0 ? "/init" : "");
        int rc = luaL_loadfilex(L, path, "t");
        free(file);
        free(path);
        if (rc == LUA_OK) { lua_pushstring(L, name); lua_call(L, 1, 1); return 1; }
        if (rc != LUA_ERRFILE) return lua_error(L);
        lua_pop(L, 1);
    }
    const l_embedded *e = l_find_embedded(name);
    lua_pushfstring(L, "=%s", name);
    if (luaL_loadbufferx(L, e->text, e->n, lua_tostring(L, -1), "t") != LUA_OK) return lua_error(L);
    lua_pushstring(L, name);
    lua_call(L, 1, 1);
    return 1;
}

int luaopen_moonpool(lua_State *L) {
    if (!lua_newuserdatauv || !lua_setwarnf) return luaL_error(L, "moonpool needs Lua 5.4, and this is an older one: run it with lua5.4, or with the moonpool program");
    luaL_checkversion(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    for (const l_embedded *e = l_embedded_files; e->name; e++) {
        lua_pushstring(L, e->name);
        lua_pushcclosure(L, load_embedded, 1);
        lua_setfield(L, -2, e->name);
    }
    lua_pushcfunction(L, l_open_core);
    lua_setfield(L, -2, "moonpool.core");
    lua_pop(L, 1);
    lua_pushstring(L, "moonpool");
    lua_pushcclosure(L, load_embedded, 1);
    lua_call(L, 0, 1);
    return 1;
}

/* ---- moonpool.h ------------------------------------------------------------------------------------------------------------ */

static int protected_open(lua_State *L) {
    luaL_openlibs(L);
    luaL_requiref(L, "moonpool", luaopen_moonpool, 1);
    l_loop(L);
    return 0;
}

/* Lua's warnings are lines of the log; its own control messages ("@on") are not needed. */
static void on_warning(void *ud, const char *piece, int more) {
    moonpool *m = ud;
    if (!m->warning.n && !more && *piece == '@') return;
    if (m->c.closing) return;
    mp_buf_puts(&m->warning, piece);
    if (more) return;
    l_write_log(&m->c, MP_LOG_WARN, m->warning.p);
    mp_buf_clear(&m->warning);
}

moonpool *moonpool_open(moonpool_log log, void *ud) {
    lua_State *L = luaL_newstate();
    if (!L) return NULL;
    lua_pushcfunction(L, protected_open);
    if (lua_pcall(L, 0, 0, 0) != LUA_OK) {
        if (log) log(ud, MP_LOG_ERROR, lua_tostring(L, -1));
        lua_close(L);
        return NULL;
    }
    moonpool *m = (moonpool *)l_context(L);
    m->own = 1;
    moonpool_on_log(m, log, ud);
    lua_setwarnf(L, on_warning, m);
    return m;
}

moonpool *moonpool_of(lua_State *L) {
    int there = lua_getfield(L, LUA_REGISTRYINDEX, CONTEXT ".at") == LUA_TUSERDATA;
    moonpool *m = there ? lua_touserdata(L, -1) : NULL;
    lua_pop(L, 1);
    return m;
}

int moonpool_run(moonpool *m, const char *source, const char *name) {
    lua_State *L = m->c.L;
    if (m->c.callbacks > 0) return MOONPOOL_EBUSY;
    if (luaL_loadbufferx(L, source, strlen(source), name, "t") != LUA_OK) {
        l_write_log(&m->c, MP_LOG_ERROR, lua_tostring(L, -1));
        lua_pop(L, 1);
        return MOONPOOL_ERROR;
    }
    m->c.callbacks--;                                /* a script may wait */
    int rc = l_pcall(L, 0, 0, name);
    m->c.callbacks++;
    return rc ? MOONPOOL_ERROR : MOONPOOL_OK;
}

void moonpool_on_event(moonpool *m, moonpool_event fn, void *ud) {
    m->on_event = fn;
    m->event_ud = ud;
}

void moonpool_on_preview(moonpool *m, moonpool_preview fn, void *ud) {
    m->on_preview = fn;
    m->preview_ud = ud;
}

void l_host_preview(l_ctx *c, const moonpool_image *image) {
    moonpool *m = (moonpool *)c;
    if (m->on_preview) m->on_preview(m->preview_ud, image);
}

void moonpool_on_log(moonpool *m, moonpool_log log, void *ud) {
    m->c.log = log;
    m->c.log_ud = ud;
    m->c.quiet = log == NULL;
}

int moonpool_step(moonpool *m, int wait_ms) { return m->c.callbacks > 0 ? MOONPOOL_EBUSY : step(&m->c, wait_ms); }
int moonpool_fd(const moonpool *m) { return m->c.loop ? mp_loop_fd(m->c.loop) : -1; }
int moonpool_next_timeout_ms(const moonpool *m) { return m->c.loop ? mp_loop_timeout_ms(m->c.loop) : -1; }

size_t moonpool_unfinished(const moonpool *m) {
    lua_State *L = m->c.L;
    size_t n = 0;
    if (!lua_checkstack(L, 6)) return 0;
    lua_getfield(L, LUA_REGISTRYINDEX, "moonpool.pools");
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        l_pool *lp = luaL_testudata(L, -1, "moonpool.pool");
        mp_pool_stats s;
        if (!lp || !lp->pool) continue;
        mp_pool_get_stats(lp->pool, &s);
        n += s.pending + s.assigned + s.running;
    }
    lua_pop(L, 1);
    return n;
}

const char *moonpool_version(void) { return MOONPOOL_VERSION; }

void moonpool_close(moonpool *m) {
    if (m && m->own) lua_close(m->c.L);
}
