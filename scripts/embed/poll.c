/* scripts/embed/poll.c -- a program with an event loop of its own: it waits with poll(2) on its files and on moonpool_fd, for as
 * long as moonpool_next_timeout_ms allows, and steps only then. usage: poll URL [JOBS] */
#include "moonpool.h"
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int finished;

static void on_event(void *ud, const char *name, const char *json) {
    (void)ud;
    (void)json;
    if (strcmp(name, "job:completed") == 0) finished++;
}

static void on_log(void *ud, int level, const char *line) { (void)ud; fprintf(stderr, "[%d] %s\n", level, line); }

static const char batch[] =
    "local moonpool = require 'moonpool'\n"
    "pool = moonpool.pool { log_level = 'error' }\n"
    "assert(pool:add_client(url))\n"
    "for i = 1, jobs do assert(pool:submit(moonpool.workflow.from {\n"
    "  ['1'] = { class_type = 'EmptyImage', inputs = { width = 64, height = 64, batch_size = 1, color = i } },\n"
    "  ['2'] = { class_type = 'SaveImage', inputs = { images = { '1', 0 }, filename_prefix = 'poll' } } })) end\n";

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "usage: poll URL [JOBS]\n"), 2;
    int jobs = argc > 2 ? atoi(argv[2]) : 8, steps = 0;
    char head[400];
    moonpool *m = moonpool_open(on_log, NULL);
    if (!m) return 1;
    moonpool_on_event(m, on_event, NULL);
    snprintf(head, sizeof head, "url, jobs = '%.300s', %d", argv[1], jobs);
    if (moonpool_run(m, head, "=arguments") || moonpool_run(m, batch, "=batch")) return 1;
    while (moonpool_unfinished(m) && steps < 1000000) {
        struct pollfd files[] = { { moonpool_fd(m), POLLIN, 0 } };       /* and those of the program */
        int n = poll(files, 1, moonpool_next_timeout_ms(m));
        if (n < 0) break;
        moonpool_step(m, 0);                         /* something is there, or the time is over */
        steps++;
    }
    moonpool_close(m);
    printf("%d of %d jobs finished in %d steps\n", finished, jobs, steps);
    return finished != jobs;
}
