/* tests/embed/contract.c -- what a host with Lua of its own may rely on: what Lua owns comes from its allocator and goes back
 * to it, its warning and panic functions stay its own, and an allocator that has nothing more to give ends in an error that the
 * script or the log gets, never in a panic or a job that is never heard of again.
 *   contract [every [from]]   fails each `every`-th allocation in turn, beginning with the one numbered `from`; 0: none */
#include "moonpool.h"
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { size_t bytes, most; long calls, fail_at, failed; } account;

/* A failure is met by a full collection and one more try, so three in a row fail. */
static void *allocate(void *ud, void *p, size_t old, size_t size) {
    account *a = ud;
    if (!p) old = 0;
    if (size == 0) { a->bytes -= old; free(p); return NULL; }
    if (size > old && a->fail_at && ++a->calls >= a->fail_at && a->failed < 3) { a->failed++; return NULL; }
    void *q = realloc(p, size);
    if (q) a->bytes += size - old;
    if (a->bytes > a->most) a->most = a->bytes;
    return q;
}

static long at_place;
static void no_end(int signal) {
    char words[80];
    int n = snprintf(words, sizeof words, "allocation %ld: a wait without end\n", at_place);
    if (signal && write(2, words, (size_t)n) > 0) _exit(1);
    _exit(1);
}

static jmp_buf after_panic;
static int panics, warned, hit;
static int on_panic(lua_State *L) { (void)L; panics++; longjmp(after_panic, 1); }
static void on_warning(void *ud, const char *text, int more) { (void)ud; (void)more; warned += strcmp(text, "for the host") == 0; }
static void on_log(void *ud, int level, const char *line) { (void)level; (void)line; ++*(int *)ud; }

static const char script[] =
    "local moonpool = require 'moonpool'\n"
    "sim = assert(moonpool.sim { speed = 1000, catalogue = nil })\n"
    "pool = moonpool.pool { retry_delay_ms = 1, reconnect_base_ms = 1, policy = 'default' }\n"
    "pool:on('job:completed', function(e) done = (done or 0) + 1 end)\n"
    "assert(pool:add_client(sim.url))\n"
    "local w = assert(moonpool.workflow.from { ['1'] = { class_type = 'EmptyLatentImage', inputs = { width = 64, height = 64, batch_size = 1 } },\n"
    "  ['2'] = { class_type = 'CheckpointLoaderSimple', inputs = { ckpt_name = 'sd15.safetensors' } },\n"
    "  ['3'] = { class_type = 'VAEDecode', inputs = { samples = { '1', 0 }, vae = { '2', 2 } } },\n"
    "  ['4'] = { class_type = 'SaveImage', inputs = { images = { '3', 0 }, filename_prefix = 'x' } } })\n"
    "moonpool.spawn(function() for r in pool:results() do local o = r.outputs[1] end end)\n"
    "for i = 1, 2 do pool:submit(w, { metadata = { i = i } }) end\n";

static int shut_down(lua_State *L) {
    if (luaL_dostring(L, "if pool then pool:shutdown { timeout_ms = 50 } end")) return lua_error(L);
    return 0;
}

static int run(lua_State *L) {
    luaL_openlibs(L);
    luaL_requiref(L, "moonpool", luaopen_moonpool, 0);
    if (luaL_loadbuffer(L, script, sizeof script - 1, "=script") || lua_pcall(L, 0, 0, 0)) return lua_error(L);
    return 0;
}

/* One life of a state in which the allocation numbered fail_at fails (0: none). The places there were, or -1 and words. */
static long live(long fail_at) {
    account a = { .fail_at = fail_at ? fail_at : -1 };
    int lines = 0;
    volatile int steps = 0;
    lua_State *L;
    a.fail_at = 0;
    if (!(L = lua_newstate(allocate, &a))) return fprintf(stderr, "no state\n"), -1;
    lua_atpanic(L, on_panic);
    lua_setwarnf(L, on_warning, NULL);
    a.fail_at = fail_at ? fail_at : 1000000000;
    if (setjmp(after_panic)) return fprintf(stderr, "allocation %ld: a panic\n", fail_at), -1;
    lua_pushcfunction(L, run);
    int rc = lua_pcall(L, 0, 0, 0);
    at_place = fail_at;
    alarm(60);                                       /* a wait that never ends ends the program */
    if (rc && !a.failed) return fprintf(stderr, "the script: %s\n", lua_tostring(L, -1)), -1;
    moonpool *m = moonpool_of(L);
    if (m) moonpool_on_log(m, on_log, &lines);
    while (!rc && m && moonpool_unfinished(m) && ++steps < 20000) moonpool_step(m, 10);
    if (steps >= 20000) return fprintf(stderr, "allocation %ld: %zu jobs are stuck\n", fail_at, moonpool_unfinished(m)), -1;
    volatile long places = a.calls;
    a.fail_at = fail_at ? a.calls + fail_at % 400 : 1000000000;   /* once more, in the middle of a wait: of a shutdown in a protected call */
    int reached = a.failed > 0;
    a.failed = 0;
    lua_settop(L, 0);
    lua_pushcfunction(L, shut_down);
    lua_pcall(L, 0, 0, 0);
    lua_settop(L, 0);
    a.fail_at = 1000000000;
    if (!fail_at) {
        lua_warning(L, "for the host", 0);
        lua_getglobal(L, "done");
        if (lua_tointeger(L, -1) != 2) return fprintf(stderr, "%lld of 2 jobs completed\n", (long long)lua_tointeger(L, -1)), -1;
        if (lua_atpanic(L, on_panic) != on_panic) return fprintf(stderr, "the panic function is another\n"), -1;
        if (warned != 1) return fprintf(stderr, "the warning function is another\n"), -1;
        lua_pushinteger(L, 1);
        if (!setjmp(after_panic)) lua_error(L);      /* unprotected: the host's panic function, as in any Lua */
        if (panics != 1) return fprintf(stderr, "the panic function was not called\n"), -1;
    }
    hit += reached;
    if (setjmp(after_panic)) return fprintf(stderr, "allocation %ld: a panic at the end\n", fail_at), -1;
    lua_close(L);
    if (a.bytes) return fprintf(stderr, "allocation %ld: %zu bytes were not given back\n", fail_at, a.bytes), -1;
    if (!fail_at && a.most < 200000) return fprintf(stderr, "only %zu bytes came from the host's allocator\n", a.most), -1;
    return places;
}

int main(int argc, char **argv) {
    signal(SIGALRM, no_end);
    long every = argc > 1 ? atol(argv[1]) : 0, from = argc > 2 ? atol(argv[2]) : 1, tried = 0, places = live(0);
    if (places < 0) return 1;
    for (long at = from; every && at <= places; at += every, tried++)
        if (live(at) < 0) return 1;
    if (strcmp(moonpool_version(), MOONPOOL_VERSION) != 0) return fprintf(stderr, "the library is version %s, its header %s\n", moonpool_version(), MOONPOOL_VERSION), 1;
    if (hit < tried - tried / 20) return fprintf(stderr, "only %d of %ld places were reached\n", hit, tried), 1;
    printf("%d of %ld places failed one at a time: no panic, nothing stuck, all given back\n", hit, places);
    return 0;
}
