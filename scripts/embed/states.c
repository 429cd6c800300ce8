/* scripts/embed/states.c -- two independent states in one process, opened and closed over and over, in a host that has
 * a SIGPIPE handler of its own. */
#include "moonpool.h"
#include <signal.h>
#include <stdio.h>

static void on_pipe(int number) { (void)number; }

static const char script[] =
    "local moonpool = require 'moonpool'\n"
    "local sim <close> = assert(moonpool.sim { speed = 100 })\n"
    "local pool <close> = moonpool.pool { log_level = 'error' }\n"
    "assert(pool:add_client(sim.url))\n"
    "local wf = assert(moonpool.workflow.from [[{\"1\":{\"class_type\":\"EmptyImage\",\"inputs\":{\"width\":64,\"height\":64,\"batch_size\":1,\"color\":0}},"
    "\"2\":{\"class_type\":\"SaveImage\",\"inputs\":{\"images\":[\"1\",0],\"filename_prefix\":\"x\"}}}]])\n"
    "assert(pool:submit(wf):wait().status == 'completed')\n";

int main(void) {
    struct sigaction mine = { .sa_handler = on_pipe }, now;
    sigaction(SIGPIPE, &mine, NULL);
    for (int i = 0; i < 100; i++) {
        moonpool *a = moonpool_open(NULL, NULL), *b = moonpool_open(NULL, NULL);
        if (!a || !b) return 1;
        if (i % 20 == 0 && (moonpool_run(a, script, "=a") || moonpool_run(b, script, "=b"))) return 2;
        moonpool_step(a, 0);
        moonpool_close(a);
        moonpool_step(b, 0);
        moonpool_close(b);
    }
    sigaction(SIGPIPE, NULL, &now);
    if (now.sa_handler != on_pipe) return puts("the SIGPIPE handler is gone"), 3;
    puts("100 rounds, SIGPIPE handler intact");
    return 0;
}
