/* lua/l_policy.c -- floor 7, lua: routing, mutation and admission by scripts, which cannot take the pool down.
 * A policy given by name or file runs in a Lua state of its own: allow-listed libraries, bounded strings and
 * patterns, a memory limit in its allocator, an instruction budget per call. Inline functions run in the user's
 * state under the instruction budget only; that cannot stop a long pattern match or a huge string.
 * Whatever goes wrong is logged with its traceback, counted, and answered as "no opinion". */
#include "lua/inside.h"
#include "prof/runs.h"
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#define SUBJECT 65536                                /* bytes a pattern may be matched against */
#define REPEATS 8                                    /* quantifiers in a pattern */
#define PATTERN_COST 5e7                             /* what backtracking may come to: about half a second */
#define LENGTH (1 << 20)                             /* of tables that functions in C walk through */
#define CHUNK 1000                                   /* instructions between two looks at budget and clock */
#define CALL_CPU_MS 2000                             /* CPU of one call: for what is slow in C, where no instructions are counted */
#define CHARGE (16u << 20)                           /* bytes that one call may put into workflows */
#define SOURCE (1u << 20)                            /* bytes of a file */

enum { ADMIT, RANK, ROUTE, MUTATE, ON_FAILURE, HOOKS };
static const char *const hook_names[HOOKS] = { "admit", "rank", "route", "mutate", "on_failure" };

typedef struct entry {
    char *name, *folder;                             /* folder: where require looks; NULL: nowhere */
    lua_State *S;
    int own, off, faults, refs[HOOKS];
    uint64_t told[8];                                /* what was logged, by the first line of its words: once is enough */
    int n_told;
    size_t used, charged;                            /* charged: bytes of ours that a call put into workflows */
    l_pool *lp;
    const mp_runs *runs;                             /* what a formatter is called with, while it runs */
} entry;

struct l_policy { entry **e; size_t n, cap; l_pool *lp; };

/* ---- limits ---------------------------------------------------------------------------------------------------- */

static void *limited(void *ud, void *p, size_t old, size_t n) {
    entry *e = ud;
    if (!p) old = 0;
    if (n > old && e->used + (n - old) > e->lp->limits.memory) return NULL;
    void *q = n ? realloc(p, n) : NULL;
    if (!n) free(p);
    if (q || !n) e->used = e->used - old + n;
    return q;
}

/* Of the call that runs in this thread; a hook may reach the hooks of another pool. */
static _Thread_local struct { int64_t left; double until; } budget;

static double cpu_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1000 + (double)t.tv_nsec / 1e6;
}

/* Once over the budget every instruction raises, so that no pcall inside the policy can swallow it. */
static void on_count(lua_State *S, lua_Debug *d) {
    (void)d;
    budget.left -= CHUNK;
    if (budget.until == 0) budget.until = cpu_ms() + CALL_CPU_MS;         /* asking is dear: only of calls that are long */
    if (budget.left > 0 && cpu_ms() < budget.until) return;
    lua_sethook(S, on_count, LUA_MASKCOUNT, 1);
    if (budget.left > 0) luaL_error(S, "it takes too long: more than %d ms of CPU", CALL_CPU_MS);
    luaL_error(S, "the instruction budget is used up");
}

/* Before a call in C that may be long: such calls count as one instruction each. */
static void look_at_clock(lua_State *S) {
    if (budget.until == 0) budget.until = cpu_ms() + CALL_CPU_MS;
    if (cpu_ms() < budget.until) return;
    lua_sethook(S, on_count, LUA_MASKCOUNT, 1);
    luaL_error(S, "it takes too long: more than %d ms of CPU", CALL_CPU_MS);
}

typedef struct { int64_t left; double until; lua_Hook hook; int mask, count; } held_budget;

static held_budget spend(lua_State *S, int64_t instructions) {
    held_budget h = { budget.left, budget.until, lua_gethook(S), lua_gethookmask(S), lua_gethookcount(S) };
    budget.left = instructions;
    budget.until = 0;
    lua_sethook(S, on_count, LUA_MASKCOUNT, CHUNK);
    return h;
}

static void restore(lua_State *S, const held_budget *h) {
    lua_sethook(S, h->hook, h->mask, h->count);
    budget.left = h->left;
    budget.until = h->until;
}

/* One call of a hook, arguments and answer included: everything that touches the policy's state runs inside one
 * protected call, because memory may run out and metamethods may raise at any point. */
typedef struct hook_call {
    entry *e;
    int hook;
    mp_job *job;
    mp_client *client;
    mp_client *const *clients;
    size_t n;
    int stage, attempts;
    const mp_failure *failure;
    mp_workflow *workflow;                           /* MUTATE: a clone, owned by the callee's userdata; out: what to send, a new reference */
    int known, pick;
    double rank;
    char why[300];
} hook_call;

/* Counts it, and logs it when nothing of the kind was. Too many, and the policy is asked no more. */
static void fault(entry *e, const char *what, const char *words) {
    uint64_t hash = 14695981039346656037u;
    int known = 0;
    for (const char *z = what; *z; z++) hash = (hash ^ (unsigned char)*z) * 1099511628211u;
    for (const char *z = words; *z && *z != '\n'; z++) hash = (hash ^ (unsigned char)*z) * 1099511628211u;
    for (int i = 0; i < e->n_told; i++) known |= e->told[i] == hash;
    if (!known) mp_logf(&e->lp->log, MP_LOG_ERROR, "policy %s: %s: %s", e->name, what, words);
    if (!known && e->n_told < 8) e->told[e->n_told++] = hash;
    if (++e->faults < e->lp->limits.faults || e->off) return;
    e->off = 1;
    mp_logf(&e->lp->log, MP_LOG_ERROR, "policy %s: switched off after %d errors; the same words are logged once", e->name, e->faults);
}

/* Runs body(ud) under the limits. Not LUA_OK: the words stand on the stack's top. */
static int attempt(lua_State *S, entry *e, lua_CFunction body, void *ud) {
    int top = lua_gettop(S);
    lua_pushcfunction(S, l_traceback);
    lua_pushcfunction(S, body);
    lua_pushlightuserdata(S, ud);
    e->charged = 0;
    held_budget held = spend(S, e->lp->limits.instructions);
    e->lp->ctx->callbacks++;                         /* nothing may wait in a hook */
    int rc = lua_pcall(S, 1, 0, top + 1);
    e->lp->ctx->callbacks--;
    restore(S, &held);
    return rc;
}

static const char *words_on(lua_State *S) { return lua_type(S, -1) == LUA_TSTRING ? lua_tostring(S, -1) : "an error without words"; }

static int protected(lua_State *S, entry *e, lua_CFunction body, void *ud, const char *what) {
    int top = lua_gettop(S), rc = attempt(S, e, body, ud);
    if (rc != LUA_OK) fault(e, what, words_on(S));
    lua_settop(S, top);
    return rc;
}

static void nonsense(entry *e, const char *hook, const char *wanted) {
    char words[200];
    snprintf(words, sizeof words, "returned nonsense (%s expected, got %s)", wanted, luaL_typename(e->S, -1));
    fault(e, hook, words);
}

/* ---- the sandbox ------------------------------------------------------------------------------------------------- */

static entry *entry_of(lua_State *S) {
    lua_getfield(S, LUA_REGISTRYINDEX, "moonpool.entry");
    entry *e = lua_touserdata(S, -1);
    lua_pop(S, 1);
    return e;
}

static int s_rep(lua_State *S) {
    size_t n, m = 0;
    luaL_checklstring(S, 1, &n);
    lua_Integer k = luaL_checkinteger(S, 2);
    if (!lua_isnoneornil(S, 3)) luaL_checklstring(S, 3, &m);
    if (k > 1 << 20 || (k > 0 && (double)(n + m) * (double)k > 1 << 20)) return luaL_error(S, "string.rep: more than 1 MiB is not allowed in a policy");
    lua_pushvalue(S, lua_upvalueindex(1));
    lua_insert(S, 1);
    lua_call(S, lua_gettop(S) - 1, 1);
    return 1;
}

static int s_match(lua_State *S) {
    size_t n, m;
    luaL_checklstring(S, 1, &n);
    const char *p = luaL_checklstring(S, 2, &m);
    int repeats = 0;
    for (size_t i = 0; i < m; i++)
        if (p[i] == '%') repeats += i + 1 < m && p[++i] == 'b';
        else repeats += p[i] == '*' || p[i] == '+' || p[i] == '-' || p[i] == '?';
    double cost = m && *p == '^' ? 1 : (double)n;    /* tried from each place */
    for (int i = 0; i < repeats; i++) cost *= (double)n;
    if (n > SUBJECT || repeats > REPEATS || cost > PATTERN_COST) return luaL_error(S, "in a policy a pattern has at most %d repetitions and a subject of %d bytes, and with many of the first only few of the second", REPEATS, SUBJECT);
    if (cost > 1e5) look_at_clock(S);
    lua_pushvalue(S, lua_upvalueindex(1));
    lua_insert(S, 1);
    lua_call(S, lua_gettop(S) - 1, LUA_MULTRET);
    return lua_gettop(S);
}

/* Loops in C see no instruction budget: lengths must be the real ones, and ranges bounded. */
static int s_table(lua_State *S) {
    static const char *const magic[] = { "__len", "__index", "__newindex" };
    for (int i = 0; i < 3 && lua_istable(S, 1); i++)
        if (luaL_getmetafield(S, 1, magic[i]) != LUA_TNIL) return luaL_error(S, "in a policy the table functions take no table with %s", magic[i]);
    if (lua_istable(S, 1) && lua_rawlen(S, 1) > LENGTH) return luaL_error(S, "in a policy the table functions take at most %d items", LENGTH);
    if (lua_istable(S, 1) && lua_rawlen(S, 1) > 1000) look_at_clock(S);
    for (int i = 3; i <= 4 && i <= lua_gettop(S); i++)                                   /* of concat */
        if (lua_type(S, i) == LUA_TNUMBER && (lua_tonumber(S, i) > LENGTH || lua_tonumber(S, i) < -LENGTH) && lua_type(S, 2) == LUA_TSTRING)
            return luaL_error(S, "in a policy the table functions take at most %d items", LENGTH);
    lua_pushvalue(S, lua_upvalueindex(1));
    lua_insert(S, 1);
    lua_call(S, lua_gettop(S) - 1, LUA_MULTRET);
    return lua_gettop(S);
}

/* What table.sort compares with when it is given nothing: strings may be long, and there may be many. */
static int s_less(lua_State *S) {
    static _Thread_local unsigned calls;
    if (++calls % 256 == 0) look_at_clock(S);
    lua_pushboolean(S, lua_compare(S, 1, 2, LUA_OPLT));
    return 1;
}

static int s_sort(lua_State *S) {
    lua_settop(S, 2);
    if (lua_isnil(S, 2)) {
        lua_pushcfunction(S, s_less);
        lua_replace(S, 2);
    }
    return s_table(S);
}

/* Metatables of ours are not for scripts: a __gc in one would run outside of every limit. */
static int s_getmetatable(lua_State *S) {
    luaL_checkany(S, 1);
    int ours = lua_isuserdata(S, 1);
    if (lua_istable(S, 1) && lua_getmetatable(S, 1)) {
        luaL_getmetatable(S, "moonpool.array");
        luaL_getmetatable(S, "moonpool.error");
        ours = lua_rawequal(S, -1, -3) || lua_rawequal(S, -2, -3);
    }
    lua_settop(S, 1);
    if (ours) { lua_pushboolean(S, 0); return 1; }
    lua_pushvalue(S, lua_upvalueindex(1));
    lua_insert(S, 1);
    lua_call(S, 1, 1);
    return 1;
}

static int s_setmetatable(lua_State *S) {
    if (lua_istable(S, 2)) {                         /* finalizers run outside of every limit */
        lua_pushliteral(S, "__gc");
        if (lua_rawget(S, 2) != LUA_TNIL) return luaL_error(S, "a policy may not set __gc");
        lua_pop(S, 1);
    }
    lua_pushvalue(S, lua_upvalueindex(1));
    lua_insert(S, 1);
    lua_call(S, lua_gettop(S) - 1, 1);
    return 1;
}

static int s_log(lua_State *S) {
    mp_logf(&entry_of(S)->lp->log, MP_LOG_INFO, "policy %s: %s", entry_of(S)->name, luaL_tolstring(S, 1, NULL));
    return 0;
}

static int s_time(lua_State *S) {
    entry *e = entry_of(S);
    mp_time t = l_now(e->lp) + mp_loop_epoch(e->lp->ctx->loop);
    lua_pushinteger(S, (lua_Integer)(t / 1000000));
    return 1;
}

static int s_clock(lua_State *S) {
    lua_pushnumber(S, (double)l_now(entry_of(S)->lp) / 1e6);
    return 1;
}

/* A file of Lua text; a byte order mark and a first line #! are skipped, as by loadfile. NULL: *words says why, the taker's. */
static char *slurp(const char *path, size_t *n, char **words) {
    FILE *f = fopen(path, "rb");
    mp_buf b = { 0 };
    *words = NULL;
    if (f)
        for (size_t got; b.n <= SOURCE && (got = fread(mp_buf_room(&b, 16384), 1, 16384, f)) > 0;) b.n += got;
    if (!f || ferror(f)) *words = mp_format("%s cannot be read: %s", path, strerror(errno));
    else if (b.n > SOURCE) *words = mp_format("%s is longer than 1 MiB", path);
    if (f) fclose(f);
    if (*words) { mp_buf_free(&b); return NULL; }
    char *text = mp_buf_take(&b, n);
    size_t skip = *n >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    memset(text, ' ', skip);
    if (*n > skip && text[skip] == '#')
        for (size_t i = skip; i < *n && text[i] != '\n'; i++) text[i] = ' ';
    return text;
}

/* require "name": a module beside the policy's file, once. */
static int s_require(lua_State *S) {
    entry *e = entry_of(S);
    const char *name = luaL_checkstring(S, 1);
    lua_settop(S, 1);
    lua_getfield(S, LUA_REGISTRYINDEX, "moonpool.loaded");
    if (lua_getfield(S, -1, name) != LUA_TNIL) return 1;
    lua_pop(S, 1);
    if (!e->folder || strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != strlen(name)) return luaL_error(S, "a policy may only require modules beside its file; '%s' is none", name);
    char *path = mp_format("%s/%s.lua", e->folder, name), *words;
    size_t n;
    char *text = slurp(path, &n, &words);
    lua_pushfstring(S, "@%s", path);
    free(path);
    free(words);
    if (!text) return luaL_error(S, "no module '%s' beside the policy's file", name);
    lua_pushboolean(S, 1);                           /* a module that requires itself, by whatever way, gets true */
    lua_setfield(S, 2, name);
    int rc = luaL_loadbufferx(S, text, n, lua_tostring(S, -1), "t");
    free(text);
    if (rc) return lua_error(S);
    lua_call(S, 0, 1);
    if (lua_isnil(S, -1)) { lua_pop(S, 1); lua_pushboolean(S, 1); }
    lua_pushvalue(S, -1);
    lua_setfield(S, 2, name);
    return 1;
}

static void wrap(lua_State *S, const char *name, lua_CFunction f) {
    lua_getfield(S, -1, name);
    lua_pushcclosure(S, f, 1);
    lua_setfield(S, -2, name);
}

static int open_sandbox(lua_State *S) {
    static const char *const dropped[] = { "dofile", "loadfile", "load", "collectgarbage", "print", "warn", "xpcall" };     /* xpcall: its handler runs where no hook counts */
    static const luaL_Reg os_functions[] = { { "time", s_time }, { "clock", s_clock }, { NULL, NULL } };
    static const char *const kept_from[] = { "_attach", "clone" };       /* files of this machine, and memory that no limit sees */
    entry *e = lua_touserdata(S, 1);
    lua_pushlightuserdata(S, e);
    lua_setfield(S, LUA_REGISTRYINDEX, "moonpool.entry");
    luaL_requiref(S, "_G", luaopen_base, 1);
    lua_getfield(S, -1, "setmetatable");
    lua_pushcclosure(S, s_setmetatable, 1);
    lua_setfield(S, -2, "setmetatable");
    wrap(S, "getmetatable", s_getmetatable);
    luaL_requiref(S, "table", luaopen_table, 1);
    wrap(S, "insert", s_table);
    wrap(S, "remove", s_table);
    wrap(S, "concat", s_table);
    wrap(S, "sort", s_sort);
    lua_pushnil(S);
    lua_setfield(S, -2, "move");                     /* any range, in C */
    luaL_requiref(S, "math", luaopen_math, 1);
    luaL_requiref(S, "utf8", luaopen_utf8, 1);
    luaL_requiref(S, "string", luaopen_string, 1);
    wrap(S, "rep", s_rep);
    wrap(S, "find", s_match);
    wrap(S, "match", s_match);
    wrap(S, "gmatch", s_match);
    wrap(S, "gsub", s_match);
    lua_pushnil(S);
    lua_setfield(S, -2, "dump");
    for (size_t i = 0; i < sizeof dropped / sizeof *dropped; i++) {
        lua_pushnil(S);
        lua_setglobal(S, dropped[i]);
    }
    luaL_newlib(S, os_functions);
    lua_setglobal(S, "os");
    lua_newtable(S);
    lua_setfield(S, LUA_REGISTRYINDEX, "moonpool.loaded");
    lua_newtable(S);                                 /* views of clients by serial; weak, because clients come and go */
    lua_createtable(S, 0, 1);
    lua_pushliteral(S, "v");
    lua_setfield(S, -2, "__mode");
    lua_setmetatable(S, -2);
    lua_rawsetp(S, LUA_REGISTRYINDEX, e);
    lua_register(S, "log", s_log);
    lua_register(S, "require", s_require);
    lua_newtable(S);
    l_open_json(S);
    l_open_workflow(S);
    l_open_job(S);
    luaL_newmetatable(S, "moonpool.error");
    luaL_getmetatable(S, "moonpool.workflow");
    lua_getfield(S, -1, "methods");
    for (size_t i = 0; i < sizeof kept_from / sizeof *kept_from; i++) {
        lua_pushnil(S);
        lua_setfield(S, -2, kept_from[i]);
    }
    return 0;
}

/* ---- loading ------------------------------------------------------------------------------------------------------- */

/* Raises for what is no hook, or no function. The table is at t. */
static void check_hooks(lua_State *L, int t, const char *what) {
    for (lua_pushnil(L); lua_next(L, t); lua_pop(L, 1)) {
        int known = 0;
        for (int i = 0; i < HOOKS; i++) known |= lua_type(L, -2) == LUA_TSTRING && strcmp(lua_tostring(L, -2), hook_names[i]) == 0;
        if (!known) luaL_error(L, "%s: unknown hook '%s' (admit, rank, route, mutate, on_failure)", what, luaL_tolstring(L, -2, NULL));
        if (!lua_isfunction(L, -1)) luaL_error(L, "%s: hook '%s': a function expected, got %s", what, lua_tostring(L, -2), luaL_typename(L, -1));
    }
}

static void take_hooks(entry *e, lua_State *S) {     /* the table on the stack's top is popped */
    for (int i = 0; i < HOOKS; i++) {
        lua_pushstring(S, hook_names[i]);            /* raw: a metatable of the script's must not run here */
        if (lua_rawget(S, -2) == LUA_TFUNCTION) e->refs[i] = luaL_ref(S, LUA_REGISTRYINDEX);
        else { e->refs[i] = LUA_NOREF; lua_pop(S, 1); }
    }
    lua_pop(S, 1);
}

static entry *entry_new(struct l_policy *p, const char *name) {
    entry *e = mp_alloc(sizeof *e);
    e->name = mp_strdup(name);
    e->lp = p->lp;
    for (int i = 0; i < HOOKS; i++) e->refs[i] = LUA_NOREF;
    p->e = mp_grow(p->e, p->n, &p->cap, sizeof *p->e);
    p->e[p->n++] = e;
    return e;
}

typedef struct { entry *e; const char *text, *chunk_name, *options; size_t n; uint64_t seed; int formatter; } loading;

static int run_file(lua_State *S) {
    loading *l = lua_touserdata(S, 1);
    lua_getglobal(S, "math");
    lua_getfield(S, -1, "randomseed");
    lua_pushinteger(S, (lua_Integer)l->seed);
    lua_call(S, 1, 0);
    if (luaL_loadbufferx(S, l->text, l->n, l->chunk_name, "t") != LUA_OK) return lua_error(S);
    if (l->options) l_push_json_text(S, l->options, strlen(l->options));
    else lua_newtable(S);
    lua_call(S, 1, 1);
    if (l->formatter) {
        if (!lua_isfunction(S, -1)) return luaL_error(S, "it must return a function, not a %s", luaL_typename(S, -1));
        l->e->refs[0] = luaL_ref(S, LUA_REGISTRYINDEX);
        return 0;
    }
    if (!lua_istable(S, -1)) return luaL_error(S, "it must return a table of functions, not a %s", luaL_typename(S, -1));
    check_hooks(S, lua_gettop(S), "what it returns");
    take_hooks(l->e, S);
    return 0;
}

/* By name (built in) or path. `options`: JSON text passed to the file, or NULL. formatter: a function is wanted instead of
 * hooks. Words on failure, else NULL. */
static char *load(struct l_policy *p, const char *what, const char *options, uint64_t seed, int formatter) {
    const char *kind = formatter ? "report" : "policy", *slash = strrchr(what, '/');
    int path = slash != NULL || (strlen(what) >= 4 && strcmp(what + strlen(what) - 4, ".lua") == 0);
    char *module = mp_format("moonpool.policy.%s", what), *text = NULL, *words = NULL, *why = NULL;
    const l_embedded *built_in = path || formatter ? NULL : l_find_embedded(module);
    size_t n = built_in ? built_in->n : 0;
    free(module);
    if (path && !(text = slurp(what, &n, &why))) {
        words = mp_format("the %s file %s", kind, why);
        free(why);
        return words;
    }
    if (formatter && !path) return mp_format("there is no report called '%s' (a path to a .lua file is expected)", what);
    if (!path && !built_in) return mp_format("there is no policy called '%s' (default, first_free, least_busy, round_robin; or a path to a .lua file)", what);
    entry *e = entry_new(p, what);
    e->own = 1;
    e->folder = path ? slash ? mp_strndup(what, (size_t)(slash - what)) : mp_strdup(".") : NULL;
    e->S = lua_newstate(limited, e);
    char *chunk_name = mp_format("%s%s", path ? "@" : "=", what);
    loading l = { e, built_in ? built_in->text : text, chunk_name, options, n, seed, formatter };
    if (!e->S) words = mp_strdup("out of memory");
    else {
        lua_pushcfunction(e->S, open_sandbox);
        lua_pushlightuserdata(e->S, e);
        int rc = lua_pcall(e->S, 1, 0, 0);
        int64_t all = 10 * (int64_t)e->lp->limits.instructions;
        if (rc == LUA_OK) {
            held_budget held = spend(e->S, all);
            lua_pushcfunction(e->S, l_traceback);
            lua_pushcfunction(e->S, run_file);
            lua_pushlightuserdata(e->S, &l);
            rc = lua_pcall(e->S, 1, 0, 1);
            restore(e->S, &held);
        }
        if (rc != LUA_OK) {
            static const char no_trace[] = "\nstack traceback:\n\t[C]: in ?";      /* it did not come to run */
            const char *w = words_on(e->S);
            size_t len = strlen(w), cut = sizeof no_trace - 1;
            if (len > cut && strcmp(w + len - cut, no_trace) == 0) len -= cut;
            words = mp_format("%s %s: %.*s", kind, what, (int)len, w);
        }
        lua_settop(e->S, 0);
    }
    free(text);
    free(chunk_name);
    return words;
}

static void inline_functions(lua_State *L, int t, struct l_policy *p) {
    check_hooks(L, t, "pool: option 'policy'");
    entry *e = entry_new(p, "(inline)");
    e->S = p->lp->ctx->L;
    lua_pushvalue(L, t);
    if (L != e->S) lua_xmove(L, e->S, 1);
    take_hooks(e, e->S);
}

static void add(lua_State *L, int i, struct l_policy *p, uint64_t seed, int depth) {
    i = lua_absindex(L, i);
    char *words = NULL;
    luaL_checkstack(L, 10, NULL);
    if (depth > 8) luaL_error(L, "pool: option 'policy': a list inside of lists, more than 8 deep");
    if (lua_type(L, i) == LUA_TSTRING) words = load(p, lua_tostring(L, i), NULL, seed, 0);
    else if (!lua_istable(L, i)) luaL_error(L, "pool: option 'policy': a name, file, table of functions, or a list of these expected, got %s", luaL_typename(L, i));
    else if (lua_rawlen(L, i) == 0) inline_functions(L, i, p);
    else {
        int named = 0;
        for (lua_pushnil(L); lua_next(L, i); lua_pop(L, 1)) named |= lua_type(L, -2) != LUA_TNUMBER;
        lua_rawgeti(L, i, 1);
        if (named) {                                 /* {"file.lua", option = value, ...} */
            mp_buf b = { 0 };
            if (lua_rawlen(L, i) > 1 || lua_type(L, -1) != LUA_TSTRING)
                luaL_error(L, "pool: option 'policy': {name or file, option = value, ...}, or a list of such, expected: this has a name and a list in one");
            const char *file = lua_tostring(L, -1);
            lua_newtable(L);
            for (lua_pushnil(L); lua_next(L, i);) {
                if (lua_type(L, -2) == LUA_TSTRING) { lua_pushvalue(L, -2); lua_insert(L, -2); lua_settable(L, -4); }
                else lua_pop(L, 1);
            }
            l_to_json(L, -1, &b, "policy options");
            words = load(p, file, b.p, seed, 0);
            mp_buf_free(&b);
        } else
            for (size_t k = 1; k <= lua_rawlen(L, i); k++) {
                lua_rawgeti(L, i, (lua_Integer)k);
                add(L, -1, p, seed + k, depth + 1);
                lua_pop(L, 1);
            }
    }
    if (words) {
        lua_pushstring(L, words);
        free(words);
        luaL_error(L, "%s", lua_tostring(L, -1));
    }
}

/* A workflow in a policy's state is given n more bytes; raises when a call gives away too many. */
void l_charge(lua_State *L, size_t n) {
    int there = lua_getfield(L, LUA_REGISTRYINDEX, "moonpool.entry") == LUA_TLIGHTUSERDATA;
    entry *e = there ? lua_touserdata(L, -1) : NULL;
    lua_pop(L, 1);
    if (e && (e->charged += n) > CHARGE) luaL_error(L, "in a policy a call may put at most 16 MiB into workflows");
}

struct l_policy *l_policy_new(lua_State *L, int i, l_pool *lp, uint64_t seed) {
    struct l_policy *p = mp_alloc(sizeof *p);
    p->lp = lp;
    lp->policy = p;                                  /* owned from here on, also if loading raises */
    add(L, i, p, seed, 0);
    return p;
}

void l_policy_free(struct l_policy *p) {
    if (!p) return;
    for (size_t i = 0; i < p->n; i++) {
        entry *e = p->e[i];
        if (e->own && e->S) lua_close(e->S);
        else
            for (int k = 0; k < HOOKS; k++) luaL_unref(e->S, LUA_REGISTRYINDEX, e->refs[k]);
        free(e->name);
        free(e->folder);
        free(e);
    }
    free(p->e);
    free(p);
}

/* ---- the hooks ------------------------------------------------------------------------------------------------------- */

static void answer_route(hook_call *h, lua_State *S) {
    h->pick = MP_ROUTE_ANY;
    if (lua_isnil(S, -1)) return;
    if (lua_isboolean(S, -1) && !lua_toboolean(S, -1)) { h->pick = MP_ROUTE_HOLD; return; }
    for (size_t k = 0; k < h->n; k++)
        if (l_client_is(S, -1, h->e->lp, mp_client_serial(h->clients[k]))) { h->pick = (int)k; return; }
    nonsense(h->e, "route", "one of the clients it was offered, false or nil");
}

static void push_failure(lua_State *S, const hook_call *h) {
    const mp_failure *f = h->failure;
    const char *fields[] = { "kind", mp_failure_name(f->kind), "message", f->message, "node", f->node, "client", mp_client_name(h->client) };
    lua_createtable(S, 0, 5);
    for (int i = 0; i < 8; i += 2) {
        lua_pushstring(S, fields[i + 1]);
        lua_setfield(S, -2, fields[i]);
    }
    lua_pushinteger(S, h->attempts);
    lua_setfield(S, -2, "attempts");
}

static void answer(hook_call *h, lua_State *S) {
    const char *word = lua_type(S, -1) == LUA_TSTRING ? lua_tostring(S, -1) : NULL;
    switch (h->hook) {
    case ADMIT:
        h->known = lua_isboolean(S, -2) && !lua_toboolean(S, -2);
        if (!lua_isboolean(S, -2) && !lua_isnil(S, -2)) { lua_settop(S, -2); nonsense(h->e, "admit", "true, false (and words) or nil"); break; }
        snprintf(h->why, sizeof h->why, "%s", word ? word : "");
        break;
    case RANK:
        if (lua_isnil(S, -1)) break;
        h->rank = lua_tonumber(S, -1);
        h->known = lua_type(S, -1) == LUA_TNUMBER && h->rank == h->rank;
        if (!h->known) nonsense(h->e, "rank", "a number or nil");
        break;
    case ROUTE: answer_route(h, S); break;
    case MUTATE: {
        mp_workflow *w = lua_isnil(S, -1) ? l_test_workflow(S, 2) : l_test_workflow(S, -1);
        if (w) h->workflow = mp_workflow_ref(w);
        else nonsense(h->e, "mutate", "the workflow or nil");
        break;
    }
    case ON_FAILURE:
        if (word && strcmp(word, "retry") == 0) h->pick = MP_AGAIN_YES;
        else if (word && strcmp(word, "fail") == 0) h->pick = MP_AGAIN_NO;
        else if (!lua_isnil(S, -1)) nonsense(h->e, "on_failure", "\"retry\", \"fail\" or nil");
        break;
    }
}

/* The views of clients, kept from call to call: the same ones each time. In a user's state they are handles like any other. */
static void push_views(lua_State *S, entry *e) {
    if (e->own) lua_rawgetp(S, LUA_REGISTRYINDEX, e);
    else lua_pushnil(S);
}

/* The views stand on the stack's top; behind it comes that of c. */
static void push_view(lua_State *S, entry *e, const mp_client *c) {
    if (!e->own) { l_push_client(S, e->lp, c); return; }
    if (lua_rawgeti(S, -1, (lua_Integer)mp_client_serial(c)) != LUA_TNIL) return;
    lua_pop(S, 1);
    l_push_client(S, e->lp, c);
    lua_pushvalue(S, -1);
    lua_rawseti(S, -3, (lua_Integer)mp_client_serial(c));
}

static int run_hook(lua_State *S) {
    hook_call *h = lua_touserdata(S, 1);
    l_pool *lp = h->e->lp;
    luaL_checkstack(S, 40, NULL);
    if (h->hook == MUTATE) {                         /* at place 2, for when nothing is returned */
        mp_workflow *w = h->workflow;
        h->workflow = NULL;
        l_push_workflow(S, w);
    }
    lua_rawgeti(S, LUA_REGISTRYINDEX, h->e->refs[h->hook]);
    l_push_job(S, lp, mp_job_id(h->job), 0);
    int n = 1;
    if (h->hook == ROUTE) {
        lua_createtable(S, (int)h->n, 0);
        push_views(S, h->e);
        for (size_t k = 0; k < h->n; k++) {
            push_view(S, h->e, h->clients[k]);
            lua_rawseti(S, -3, (lua_Integer)k + 1);
        }
        lua_pop(S, 1);
        lua_pushinteger(S, h->stage);
        n = 3;
    } else if (h->hook == MUTATE) {
        push_views(S, h->e);
        push_view(S, h->e, h->client);
        lua_remove(S, -2);
        lua_pushvalue(S, 2);
        n = 3;
    } else if (h->hook == ON_FAILURE) {
        push_failure(S, h);
        n = 2;
    }
    lua_call(S, n, h->hook == ADMIT ? 2 : 1);
    answer(h, S);
    if (h->hook == MUTATE) l_close_workflow(S, 2);   /* a script that keeps it keeps an empty shell */
    return 0;
}

/* Asks the next policy that has this hook, from *i on. 0: there is none left. */
static int ask_next(struct l_policy *p, size_t *i, hook_call *h, int hook) {
    h->hook = hook;
    for (; p && *i < p->n; ++*i) {
        entry *e = p->e[*i];
        if (e->off || e->refs[hook] == LUA_NOREF || !lua_checkstack(e->S, 8)) continue;
        ++*i;
        h->e = e;
        e->lp->routed = h->job;
        protected(e->S, e, run_hook, h, hook_names[hook]);
        e->lp->routed = NULL;
        return 1;
    }
    return 0;
}

static int hook_admit(void *ud, mp_pool *pool, mp_job *j, char *why, size_t cap) {
    hook_call h = { .job = j };
    size_t i = 0;
    (void)pool;
    while (!h.known && ask_next(ud, &i, &h, ADMIT)) {}
    if (h.known) snprintf(why, cap, "%s", h.why);
    return !h.known;
}

static int hook_rank(void *ud, mp_pool *pool, mp_job *j, double *rank) {
    hook_call h = { .job = j };
    size_t i = 0;
    (void)pool;
    while (!h.known && ask_next(ud, &i, &h, RANK)) {}
    if (h.known) *rank = h.rank;
    return h.known;
}

static int hook_route(void *ud, mp_pool *pool, mp_job *j, mp_client *const *c, size_t n, int stage) {
    hook_call h = { .job = j, .clients = c, .n = n, .stage = stage, .pick = MP_ROUTE_ANY };
    size_t i = 0;
    (void)pool;
    while (h.pick == MP_ROUTE_ANY && ask_next(ud, &i, &h, ROUTE)) {}
    return h.pick;
}

static int hook_mutate(void *ud, mp_pool *pool, mp_job *j, mp_client *c, mp_workflow **w, mp_err *err) {
    hook_call h = { .job = j, .client = c };
    size_t i = 0;
    (void)pool;
    (void)err;
    for (;;) {
        h.workflow = mp_workflow_clone(*w);          /* run_hook takes it over and gives back what the policy made of it */
        if (!ask_next(ud, &i, &h, MUTATE)) {
            mp_workflow_unref(h.workflow);
            return 0;
        }
        if (!h.workflow) continue;                   /* it failed: *w stands */
        mp_workflow_unref(*w);
        *w = h.workflow;
    }
}

static int hook_on_failure(void *ud, mp_pool *pool, mp_job *j, mp_client *c, const mp_failure *f, int attempts) {
    hook_call h = { .job = j, .client = c, .failure = f, .attempts = attempts, .pick = MP_AGAIN_ANY };
    size_t i = 0;
    (void)pool;
    while (h.pick == MP_AGAIN_ANY && ask_next(ud, &i, &h, ON_FAILURE)) {}
    return h.pick;
}

static int any(const struct l_policy *p, int hook) {
    for (size_t i = 0; p && i < p->n; i++)
        if (p->e[i]->refs[hook] != LUA_NOREF) return 1;
    return 0;
}

/* Which hooks exist is noted once, so that what no policy has costs nothing. */
void l_policy_hooks(struct l_policy *p, mp_policy *h) {
    memset(h, 0, sizeof *h);
    h->ud = p;
    if (any(p, ADMIT)) h->admit = hook_admit;
    if (any(p, RANK)) h->rank = hook_rank;
    if (any(p, ROUTE)) h->route = hook_route;
    if (any(p, MUTATE)) h->mutate = hook_mutate;
    if (any(p, ON_FAILURE)) h->on_failure = hook_on_failure;
}

/* ---- formatters of reports: a file that returns a function, under the same kind of limits -------------------------------- */

typedef struct { entry *e; mp_str argument; mp_buf text; int good; } format_call;

static int runs_length(lua_State *S) {
    const entry *e = entry_of(S);
    lua_pushinteger(S, e->runs ? (lua_Integer)mp_runs_count(e->runs) : 0);
    return 1;
}

static int runs_at(lua_State *S) {
    const entry *e = entry_of(S);
    lua_Integer i = lua_tointeger(S, 2);
    if (!e->runs || i < 1 || (size_t)i > mp_runs_count(e->runs)) return 0;
    mp_str t = mp_runs_text(e->runs, (size_t)i - 1);
    l_push_json_text(S, t.p, t.n);
    return 1;
}

static int run_formatter(lua_State *S) {
    static const luaL_Reg meta[] = { { "__len", runs_length }, { "__index", runs_at }, { NULL, NULL } };
    format_call *f = lua_touserdata(S, 1);
    int n = 1;
    lua_rawgeti(S, LUA_REGISTRYINDEX, f->e->refs[0]);
    l_push_json_text(S, f->argument.p, f->argument.n);
    if (f->e->runs) {
        lua_newtable(S);
        luaL_newlib(S, meta);
        lua_setmetatable(S, -2);
        n = 2;
    }
    lua_call(S, n, 1);
    if (lua_type(S, -1) != LUA_TSTRING) return luaL_error(S, "a text expected, got %s", luaL_typename(S, -1));
    size_t len;
    const char *z = lua_tolstring(S, -1, &len);
    mp_buf_add(&f->text, z, len);
    return 0;
}

/* The closure's upvalue is a pool without servers that owns the file's state. (JSON text, runs or nil) -> text; nil, words. */
static int call_formatter(lua_State *L) {
    l_pool *lp = lua_touserdata(L, lua_upvalueindex(1));
    entry *e = lp->policy->e[0];
    format_call f = { .e = e };
    size_t n;
    f.argument.p = luaL_checklstring(L, 1, &n);
    f.argument.n = n;
    mp_runs **runs = lua_isnoneornil(L, 2) ? NULL : luaL_checkudata(L, 2, "moonpool.runs");
    if (e->off || !lua_checkstack(e->S, 8)) {
        lua_pushnil(L);
        lua_pushfstring(L, "switched off after %d errors", e->faults);
        return 2;
    }
    e->runs = runs ? *runs : NULL;
    int rc = attempt(e->S, e, run_formatter, &f);
    e->runs = NULL;
    if (rc != LUA_OK) {
        if (++e->faults >= lp->limits.faults) e->off = 1;
        lua_pushnil(L);
        lua_pushstring(L, words_on(e->S));
    } else lua_pushlstring(L, f.text.p ? f.text.p : "", f.text.n);
    mp_buf_free(&f.text);
    lua_settop(e->S, 0);
    return rc == LUA_OK ? 1 : 2;
}

/* formatter(path, {instructions =, memory_mb =}) -> function; raises when it does not load */
int l_formatter(lua_State *L) {
    struct formatter_limits { int instructions; double memory_mb; } o = { 20000000, 256 };
    static const opt opts[] = { { "instructions", OPT_INT, offsetof(struct formatter_limits, instructions), 1000, 2e9 },
        { "memory_mb", OPT_NUMBER, offsetof(struct formatter_limits, memory_mb), 1, 1e6 }, { NULL, 0, 0, 0, 0 } };
    const char *path = luaL_checkstring(L, 1);
    l_options(L, 2, opts, &o, "report");
    lua_pushboolean(L, 0);
    l_pool *lp = l_bare_pool(L, lua_gettop(L), 1, (l_limits){ o.instructions, L_LIMITS.faults, (size_t)(o.memory_mb * (1 << 20)) }, MP_LOG_WARN);
    lp->policy = mp_alloc(sizeof *lp->policy);
    lp->policy->lp = lp;
    char *words = load(lp->policy, path, NULL, 1, 1);
    if (words) {
        lua_pushstring(L, words);
        free(words);
        return luaL_error(L, "%s", lua_tostring(L, -1));
    }
    lua_pushcclosure(L, call_formatter, 1);
    return 1;
}
