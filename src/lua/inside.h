/* lua/inside.h -- floor 7, lua: shared by the bindings only.
 * One context per Lua state: the loop, and what to call after each turn. C never yields; lua/moonpool/task.lua waits. */
#ifndef MP_LUA_INSIDE_H
#define MP_LUA_INSIDE_H
#include "base/log.h"
#include "net/loop.h"
#include "pool/pool.h"
#include "wire/wire.h"
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

/* What older Luas do not have may be missing: the module loads into any of them, and luaopen_moonpool says what is wrong, which
 * beats the linker's "undefined symbol". */
#define DIRECTIVE(d) _Pragma(#d)
#define WEAK(f) DIRECTIVE(weak f)
WEAK(luaL_buffinitsize) WEAK(luaL_checkversion_) WEAK(luaL_getsubtable) WEAK(luaL_loadbufferx) WEAK(luaL_loadfilex) WEAK(luaL_pushresultsize)
WEAK(luaL_requiref) WEAK(luaL_setfuncs) WEAK(luaL_setmetatable) WEAK(luaL_testudata) WEAK(luaL_tolstring) WEAK(luaL_traceback) WEAK(lua_absindex)
WEAK(lua_callk) WEAK(lua_compare) WEAK(lua_copy) WEAK(lua_getglobal) WEAK(lua_getiuservalue) WEAK(lua_isinteger) WEAK(lua_newuserdatauv)
WEAK(lua_pcallk) WEAK(lua_rawgetp) WEAK(lua_rawlen) WEAK(lua_rawsetp) WEAK(lua_rotate) WEAK(lua_setglobal) WEAK(lua_setiuservalue) WEAK(lua_setwarnf)
WEAK(lua_stringtonumber) WEAK(lua_tointegerx) WEAK(lua_tonumberx) WEAK(luaopen_utf8)
#undef WEAK
#undef DIRECTIVE

typedef struct l_pool l_pool;
/* What a policy may use: VM instructions per call (ten times that to load), bytes of memory of a file's own state, and how
 * many errors it may make before it is switched off. */
typedef struct { int instructions, faults; size_t memory; } l_limits;
#define L_LIMITS ((l_limits){ 1000000, 10, 64u << 20 })

typedef struct l_ctx {
    mp_loop *loop;
    lua_State *L;                                    /* the main thread: callbacks run here */
    int turn;                                        /* registry: called after each step */
    int interrupted;                                 /* a host's interrupt was raised inside a callback: raised again by the step */
    int closing;                                     /* the state is being closed: no more callbacks into Lua */
    int stepping;                                    /* a step is under way, tasks included */
    int callbacks;                                   /* depth of callbacks running: nothing may wait there */
    void (*log)(void *ud, int level, const char *line);          /* a host's; NULL: stderr, or with `quiet` nowhere */
    int quiet;
    void *log_ud;
} l_ctx;

struct l_pool {
    l_ctx *ctx;
    mp_pool *pool;                                   /* NULL: closed */
    mp_wire *wire;
    struct l_policy *policy;
    l_limits limits;
    mp_policy hooks;
    mp_log log;
    int log_shown, log_told;                         /* level that is written; somebody listens */
    int handler;                                     /* registry: called with every event */
    mp_job *routed;                                  /* the job a hook is being asked about, or NULL */
    const mp_time *now;                              /* the time of a plan; NULL: the loop's */
};

l_ctx *l_context(lua_State *L);                      /* made when first asked for */
mp_loop *l_loop(lua_State *L);                       /* raises when there is none to be had */
void l_write_log(l_ctx *c, int level, const char *line);
struct moonpool_image;
void l_host_preview(l_ctx *c, const struct moonpool_image *image);                   /* to the host, if it wants them */

/* l_call.c: the function and nargs arguments are on the stack; 0, or the error with traceback was logged. */
int l_pcall(lua_State *L, int nargs, int nresults, const char *what);
int l_traceback(lua_State *L);
/* Whether an error is what lua itself raises at Ctrl-C: that word alone, or behind a place in a file; on its first line. */
int l_is_interrupt(const char *words);

/* l_opt.c: option tables. Each raises with the option's name. */
typedef enum { OPT_INT, OPT_NUMBER, OPT_MS, OPT_BOOL, OPT_TEXT, OPT_BYTES, OPT_ANY } opt_kind;
typedef struct { const char *name; opt_kind kind; size_t at; double lo, hi; } opt;   /* at: offset into the struct, or NO_PLACE */
#define NO_PLACE ((size_t)-1)
/* Fills `to` from the table at `t` (nil: nothing). OPT_INT int, OPT_NUMBER double, OPT_MS mp_time, OPT_BOOL int, OPT_TEXT const char*
 * without zero bytes (anchored by the table); OPT_BYTES only checks that it is a string. */
void l_options(lua_State *L, int t, const opt *opts, void *to, const char *what);
/* Field "headers" of the table at t ({Name = value}; with `lines` also {"Name: value"}) as NULL-ended lines, kept alive by
 * the stack's top; NULL when there is none. */
const char **l_headers(lua_State *L, int t, const char *what, int lines);
/* The object at argument i; of a method that was called without it (i 1) the error says so. */
void *l_self(lua_State *L, int i, const char *class_name);
int l_distance(const char *a, const char *b);        /* edit distance of two short names; 99: b is too long */
int l_fail(lua_State *L, int code, const char *message, const char *client);         /* pushes nil, err; 2 */
int l_fail_kind(lua_State *L, const char *kind, const char *message, const char *client);

/* values */
void l_push_json(lua_State *L, const mp_json *j);
void l_push_json_text(lua_State *L, const char *text, size_t n);                     /* nil when it is none */
void l_to_json(lua_State *L, int i, mp_buf *b, const char *what);                    /* raises for what JSON cannot hold */
mp_buf *l_box(lua_State *L);                         /* a buffer that the collector frees at the latest; pushed */
mp_workflow *l_check_workflow(lua_State *L, int i);
mp_workflow *l_test_workflow(lua_State *L, int i);
void l_push_workflow(lua_State *L, mp_workflow *w);                                  /* takes the reference */
void l_close_workflow(lua_State *L, int i);
void l_push_profile(lua_State *L, const mp_profile *p, mp_time epoch);
void l_push_job(lua_State *L, l_pool *lp, uint64_t id, int pin);
void l_push_client(lua_State *L, l_pool *lp, const mp_client *c);
void l_push_job_id(lua_State *L, const mp_job *j, uint64_t id);                      /* the user's own, else hex; j may be NULL */
mp_client *l_test_client(lua_State *L, int i, const l_pool *lp);                     /* NULL: no client of that pool, or gone */
int l_client_is(lua_State *L, int i, const l_pool *lp, uint32_t serial);             /* the value at i is a handle of that client */
l_pool *l_check_pool(lua_State *L, int i);
mp_time l_now(const l_pool *lp);
/* A pool object with the policy at `policy` (or none), without a pool yet; pushed. Raises when it cannot be loaded. */
l_pool *l_bare_pool(lua_State *L, int policy, uint64_t seed, l_limits limits, int log_shown);

/* modules */
int l_open_core(lua_State *L);
void l_open_json(lua_State *L);
void l_open_workflow(lua_State *L);
void l_open_pool(lua_State *L);
void l_open_job(lua_State *L);
void l_open_sim(lua_State *L);
void l_open_net(lua_State *L);
void l_open_profile(lua_State *L);
void l_open_plan(lua_State *L);
void l_class(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *meta);

/* l_policy.c */
struct l_policy *l_policy_new(lua_State *L, int i, l_pool *lp, uint64_t seed);       /* raises when it cannot be loaded */
void l_policy_free(struct l_policy *p);
int l_formatter(lua_State *L);
void l_charge(lua_State *L, size_t n);

void l_policy_hooks(struct l_policy *p, mp_policy *hooks);

typedef struct l_embedded { const char *name; const char *text; size_t n; } l_embedded;
extern const l_embedded l_embedded_files[];          /* NULL-ended; generated from lua/ */
const l_embedded *l_find_embedded(const char *name);
#endif
