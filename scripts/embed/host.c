/* scripts/embed/host.c -- a C program without any Lua of its own: it opens a state, gives it a batch as text, hears of its jobs
 * through the event callback, and steps until all have ended. usage: host URL [JOBS]; prints one line per finished job. */
#include "moonpool.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int finished;

static void on_event(void *ud, const char *name, const char *json) {
    (void)ud;
    if (strcmp(name, "job:completed") != 0 && strcmp(name, "job:failed") != 0) return;
    printf("%s %s\n", name, json);
    finished++;
}

static void on_log(void *ud, int level, const char *line) {
    (void)ud;
    fprintf(stderr, "[%d] %s\n", level, line);
}

static const char batch[] =
    "local moonpool = require 'moonpool'\n"
    "pool = moonpool.pool { log_level = 'error' }\n"
    "assert(pool:add_client(url))\n"
    "local wf = assert(moonpool.workflow.from {\n"
    "  ['1'] = { class_type = 'EmptyImage', inputs = { width = 64, height = 64, batch_size = 1, color = 0 } },\n"
    "  ['2'] = { class_type = 'SaveImage', inputs = { images = { '1', 0 }, filename_prefix = 'embed' } } })\n"
    "for i = 1, jobs do assert(pool:submit(wf:clone():input('1', 'color', i))) end\n";

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "usage: host URL [JOBS]\n"), 2;
    int jobs = argc > 2 ? atoi(argv[2]) : 8;
    char head[400];
    moonpool *m = moonpool_open(on_log, NULL);
    if (!m) return 1;
    moonpool_on_event(m, on_event, NULL);
    snprintf(head, sizeof head, "url, jobs = '%s', %d", argv[1], jobs);
    if (moonpool_run(m, head, "=arguments") || moonpool_run(m, batch, "=batch")) return 1;
    for (int turns = 0; moonpool_unfinished(m) && turns < 6000; turns++) moonpool_step(m, 10);
    int left = (int)moonpool_unfinished(m);
    moonpool_close(m);
    printf("%d of %d jobs finished\n", finished, jobs);
    return left || finished != jobs;
}
