/* tests/bench/floor.c -- the floor: on the same loop, posts the same bytes and reads the same frames without looking at
 * them. usage: floor BODY FRAMES_PER_JOB JOBS URL...   Prints CPU microseconds per job. Two posts are under way per server. */
#include "base/buf.h"
#include "net/http.h"
#include "net/ws.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct { char *url; mp_ws *ws; int frames, open; } server;

static mp_loop *loop;
static char *body;
static size_t n_body;
static int per_job, jobs, sent, done, greeted;

static void post(server *s);
static void on_reply(void *ud, const mp_http_reply *r) { (void)ud; (void)r; }
static void post(server *s) {
    if (sent >= jobs) return;
    sent++;
    mp_http_opts o = { .method = "POST", .url = s->url, .body = body, .n_body = n_body };
    mp_http_start(loop, &o, on_reply, s, NULL);
}
static void on_open(void *ud) { ((server *)ud)->open = 1; }
static void on_message(void *ud, int binary, const char *p, size_t n) {
    server *s = ud;
    (void)binary;
    (void)p;
    (void)n;
    if (s->open == 1) {                              /* the greeting; when all have come the work begins */
        s->open = 2;
        greeted++;
        return;
    }
    if (++s->frames % per_job == 0) { done++; post(s); }
}
static void on_close(void *ud, int code, int status, const char *words) { (void)ud; (void)code; (void)status; fprintf(stderr, "floor: %s\n", words); exit(1); }

static double cpu(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

int main(int argc, char **argv) {
    mp_buf b = { 0 };
    FILE *f = argc > 4 ? fopen(argv[1], "rb") : NULL;
    if (!f) return fprintf(stderr, "usage: floor BODY FRAMES_PER_JOB JOBS URL...\n"), 2;
    for (size_t got; (got = fread(mp_buf_room(&b, 65536), 1, 65536, f)) > 0;) b.n += got;
    fclose(f);
    body = mp_buf_take(&b, &n_body);
    per_job = atoi(argv[2]);
    jobs = atoi(argv[3]);
    loop = mp_loop_new(NULL);
    server *all = mp_alloc((size_t)argc * sizeof *all);
    for (int i = 4; i < argc; i++) {
        server *s = &all[i - 4];
        char *ws = mp_format("%s/ws?clientId=floor", argv[i]);
        s->url = mp_format("%s/prompt", argv[i]);
        mp_ws_opts o = { .url = ws, .on_open = on_open, .on_message = on_message, .on_close = on_close };
        s->ws = mp_ws_open(loop, &o, s, NULL);
        free(ws);
    }
    while (greeted < argc - 4) mp_loop_step(loop, 100);
    double before = cpu();                           /* starting libraries and connections is not counted, there as here */
    for (int i = 0; i < argc - 4; i++) { post(&all[i]); post(&all[i]); }
    while (done < jobs) mp_loop_step(loop, 100);
    printf("%.1f\n", (cpu() - before) / jobs);
    return 0;
}
