/* tests/bench/player.c -- a server that answers every prompt with a fixed list of frames, as fast as it can, so that
 * what is measured is the client. usage: player FRAMES COUNT [own]   (own: chooses prompt ids itself)
 * Prints the ports; runs until killed. `@PROMPT@` in the list stands for the prompt's id. */
#include "base/buf.h"
#include "base/rng.h"
#include "net/serve.h"
#include <stdio.h>
#include <stdlib.h>

static char *frames[4096];
static size_t n_frames;
static int own;
static mp_rng rng;
static mp_peer *peers[64];

static void read_frames(const char *path) {
    FILE *f = fopen(path, "r");
    char *line = NULL;
    size_t cap = 0;
    if (!f) { perror(path); exit(2); }
    for (ssize_t n; (n = getline(&line, &cap, f)) > 0 && n_frames < 4096;) frames[n_frames++] = mp_strndup(line, (size_t)n - 1);
    fclose(f);
    free(line);
}

static void play(mp_peer *p, const char *id) {
    mp_buf b = { 0 };
    for (size_t i = 0; i < n_frames; i++) {
        mp_buf_clear(&b);
        for (const char *z = frames[i], *at; *z; z = at ? at + 8 : z + strlen(z)) {
            at = strstr(z, "@PROMPT@");
            mp_buf_add(&b, z, at ? (size_t)(at - z) : strlen(z));
            if (at) mp_buf_puts(&b, id);
        }
        mp_peer_send(p, 0, b.p, b.n, 0);
    }
    mp_buf_free(&b);
}

static void on_request(void *ud, mp_exchange *x, const mp_serve_request *r) {
    size_t k = (size_t)(uintptr_t)ud;
    char id[MP_UUID_SIZE] = "", reply[200];
    if (!mp_str_is(r->path, "/prompt")) {
        static const char stats[] = "{\"system\": {\"comfyui_version\": \"0.18.1\"}, \"devices\": []}", queue[] = "{\"queue_running\": [], \"queue_pending\": []}";
        int q = mp_str_is(r->path, "/queue");
        mp_serve_reply(x, 200, "application/json", NULL, q ? queue : stats, q ? sizeof queue - 1 : sizeof stats - 1);
        return;
    }
    const char *at = memmem(r->body.p, r->body.n, "\"prompt_id\":\"", 13);
    if (at && !own) snprintf(id, sizeof id, "%.36s", at + 13);
    else mp_uuid(&rng, id);
    int n = snprintf(reply, sizeof reply, "{\"prompt_id\": \"%s\", \"number\": 0, \"node_errors\": {}}", id);
    mp_serve_reply(x, 200, "application/json", NULL, reply, (size_t)n);
    if (peers[k]) play(peers[k], id);
}

static void on_request_gone(void *ud, mp_exchange *x) { (void)ud; (void)x; }
static void on_text(void *ud, mp_peer *p, mp_str t) { (void)ud; (void)p; (void)t; }
static void on_open(void *ud, mp_peer *p, mp_str path) {
    static const char hello[] = "{\"type\": \"status\", \"data\": {\"status\": {\"exec_info\": {\"queue_remaining\": 0}}, \"sid\": \"x\"}}";
    (void)path;
    peers[(size_t)(uintptr_t)ud] = p;
    mp_peer_send(p, 0, hello, sizeof hello - 1, 0);
}
static void on_gone(void *ud, mp_peer *p) {
    if (peers[(size_t)(uintptr_t)ud] == p) peers[(size_t)(uintptr_t)ud] = NULL;
}

int main(int argc, char **argv) {
    static const mp_serve_handler handler = { on_request, on_request_gone, NULL, on_open, on_text, on_gone };
    mp_err e = { 0 };
    if (argc < 3) return fprintf(stderr, "usage: player FRAMES COUNT [own]\n"), 2;
    read_frames(argv[1]);
    own = argc > 3;
    mp_rng_seed(&rng, 1);
    mp_loop *l = mp_loop_new(&e);
    for (int i = 0; l && i < atoi(argv[2]) && i < 64; i++) {
        mp_server *s = mp_serve_open(l, "127.0.0.1", 0, &handler, (void *)(uintptr_t)i, &e);
        if (!s) return fprintf(stderr, "%s\n", e.msg), 1;
        printf("http://127.0.0.1:%d\n", mp_serve_port(s));
    }
    fflush(stdout);
    for (;;) mp_loop_step(l, 1000);
}
