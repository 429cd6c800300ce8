/* scripts/embed/threads.c -- four threads, each with a state of its own: a simulated server, a pool and twenty jobs, five times
 * over. Run under ThreadSanitizer it shows that states share nothing. */
#include "moonpool.h"
#include <pthread.h>
#include <stdio.h>

#define THREADS 4
#define ROUNDS 5
#define JOBS 20

static const char script[] =
    "local moonpool = require 'moonpool'\n"
    "sim = assert(moonpool.sim { speed = 200 })\n"
    "pool = moonpool.pool { log_level = 'error' }\n"
    "assert(pool:add_client(sim.url))\n"
    "for i = 1, 20 do assert(pool:submit(moonpool.workflow.from {\n"
    "  ['1'] = { class_type = 'EmptyImage', inputs = { width = 64, height = 64, batch_size = 1, color = i } },\n"
    "  ['2'] = { class_type = 'SaveImage', inputs = { images = { '1', 0 }, filename_prefix = 'x' } } })) end\n"
    "moonpool.spawn(function() for r in pool:results() do assert(r.status == 'completed') done = (done or 0) + 1 end end)\n";

static void *run(void *left) {
    for (int i = 0; i < ROUNDS; i++) {
        moonpool *m = moonpool_open(NULL, NULL);
        if (!m || moonpool_run(m, script, "=script")) return NULL;
        for (int turns = 0; moonpool_unfinished(m) && turns < 6000; turns++) moonpool_step(m, 10);
        *(size_t *)left += moonpool_unfinished(m);
        moonpool_step(m, 0);
        if (moonpool_run(m, "assert(done == 20, tostring(done))", "=end")) *(size_t *)left += 1;
        moonpool_close(m);
        if (i == ROUNDS - 1) return left;
    }
    return NULL;
}

int main(void) {
    pthread_t t[THREADS];
    size_t left[THREADS] = { 0 }, bad = 0;
    for (int i = 0; i < THREADS; i++) pthread_create(&t[i], NULL, run, &left[i]);
    for (int i = 0; i < THREADS; i++) {
        void *ok;
        pthread_join(t[i], &ok);
        bad += !ok || left[i];
    }
    printf("%d threads, %d rounds of %d jobs: %s\n", THREADS, ROUNDS, JOBS, bad ? "BROKEN" : "all done");
    return bad != 0;
}
