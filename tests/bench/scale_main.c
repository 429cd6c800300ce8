/* tests/bench/scale_main.c -- the size bench: built-in choice, then the default policy in Lua with all its limits.
 *   scale [jobs] */
#include "bench/scale.h"
#include "lua/inside.h"
#include "moonpool.h"
#include <stdlib.h>

/* The policy of a Lua pool works on ours for a while. */
typedef struct { l_pool *lp; mp_pool *own; } borrowed;

static void made(void *ud, mp_pool *p) {
    borrowed *b = ud;
    b->own = b->lp->pool;
    b->lp->pool = p;
}

static void unmade(void *ud) {
    borrowed *b = ud;
    mp_pool_free(b->lp->pool);
    b->lp->pool = b->own;
}

int main(int argc, char **argv) {
    size_t jobs = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
    if (argc > 2) { scale_run(&(scale_case){ .name = argv[2], .clients = 1000, .workflows = 1000, .jobs = jobs, .affinity = argv[2][0] == 'a' }, NULL); return 0; }
    scale_run(&(scale_case){ .name = "general", .clients = 1000, .workflows = 1000, .jobs = jobs }, NULL);
    scale_run(&(scale_case){ .name = "affinity", .clients = 1000, .workflows = 1000, .jobs = jobs, .affinity = 1 }, NULL);
    scale_run(&(scale_case){ .name = "profiled", .clients = 1000, .workflows = 1000, .jobs = jobs / 5, .profiling = 1 }, NULL);
    moonpool *m = moonpool_open(NULL, NULL);
    if (!m || moonpool_run(m, "pool = require 'moonpool'.pool { policy = 'default', log_level = 'error' }", "=bench")) return 1;
    lua_State *L = ((l_ctx *)m)->L;                    /* a moonpool begins with its context */
    lua_getglobal(L, "pool");
    borrowed b = { .lp = l_check_pool(L, -1) };
    scale_run(&(scale_case){ .name = "lua-default", .clients = 1000, .workflows = 1000, .jobs = jobs, .made = made, .unmade = unmade, .ud = &b }, &b.lp->hooks);
    moonpool_close(m);
    return 0;
}
