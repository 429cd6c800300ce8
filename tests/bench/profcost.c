/* tests/bench/profcost.c -- decodes a list of frames over and over, with or without feeding a profile; under callgrind the
 * difference is what profiling costs. usage: profcost WORKFLOW FRAMES ROUNDS on|off; prints the number of events. */
#include "prof/profile.h"
#include <stdio.h>
#include <stdlib.h>

static char *slurp(const char *path, size_t *n) {
    mp_buf b = { 0 };
    FILE *f = fopen(path, "rb");
    if (!f) { perror(path); exit(2); }
    for (size_t got; (got = fread(mp_buf_room(&b, 65536), 1, 65536, f)) > 0;) b.n += got;
    fclose(f);
    return mp_buf_take(&b, n);
}

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    size_t n, m, events = 0;
    char *wf = slurp(argv[1], &n), *frames = slurp(argv[2], &m);
    int rounds = atoi(argv[3]), on = strcmp(argv[4], "on") == 0;
    mp_workflow *w = mp_workflow_parse(wf, n, NULL);
    mp_msg msg;
    for (int r = 0; r < rounds; r++) {
        mp_time now = 0;
        mp_profile *p = mp_profile_new(w, now, 256);
        mp_profile_attempt(p, w, "bench", now, now);
        for (char *z = frames, *nl; (nl = strchr(z, '\n')) != NULL; z = nl + 1) {
            if (mp_decode_text(mp_str_make(z, (size_t)(nl - z)), &msg, NULL) != 0) return 1;
            if (on) mp_profile_message(p, &msg, now += 1000);
            events++;
        }
        if (on) { mp_profile_end_attempt(p, "completed", NULL, now); mp_profile_close(p, now); }
        mp_profile_free(p);
    }
    printf("%zu\n", events);
    mp_workflow_unref(w);
    free(wf);
    free(frames);
    return 0;
}
