/* tests/world/rooms.c -- what base/ keeps very many things in, each against a plain list; and a simulated server that is called directly, where
 * sockets would blur an order or 10,000 requests take long. Prints a line for each, or what was wrong first and the seed.
 *   line   random pushes, removals from the middle, ranks few and many, elements that come back
 *   slab   random takes and gives: records are zeroed, apart from each other, and blocks that are empty go back
 *   sim    the history keeps 10,000 prompts, the newest; told early, a prompt's messages come before the reply to it */
#include "base/json.h"
#include "base/line.h"
#include "base/rng.h"
#include "base/slab.h"
#include "sim/server.h"
#include <stdio.h>
#include <stdlib.h>

typedef struct { size_t place; int64_t rank; uint64_t then; int in; } element;

static const element *first_of(const element *e, size_t n) {
    const element *best = NULL;
    for (size_t i = 0; i < n; i++)
        if (e[i].in && (!best || e[i].rank < best->rank || (e[i].rank == best->rank && e[i].then < best->then))) best = &e[i];
    return best;
}

/* 0, or what is wrong. */
static const char *compare(const mp_line *l, const element *e, size_t n) {
    void *all[64];
    size_t in = 0;
    for (size_t i = 0; i < n; i++) {
        in += (size_t)e[i].in;
        if ((e[i].place != MP_HEAP_OUT) != e[i].in) return "an element's place";
    }
    if (l->n != in) return "how many there are";
    if (l->top.x != (const void *)first_of(e, n)) return "who is first";
    if (mp_line_all(l, all) != in) return "all of them";
    for (size_t i = 0; i < in; i++)
        if (!((element *)all[i])->in) return "one that has left";
    return NULL;
}

static int try_line(void) {
    size_t steps = 0;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        mp_rng r;
        mp_line l;
        element e[64];
        uint64_t ranks = seed % 3 ? 1 + seed % 12 : 1000000, next = 0;
        mp_rng_seed(&r, seed);
        mp_line_init(&l, offsetof(element, place));
        for (size_t i = 0; i < 64; i++) e[i] = (element){ .place = MP_HEAP_OUT };
        for (int step = 0; step < 3000; step++, steps++) {
            element *x = mp_rng_below(&r, 3) == 0 && l.n ? l.top.x : &e[mp_rng_below(&r, 64)];
            if (x->in) mp_line_remove(&l, x, x->rank, x->then);
            else if (mp_rng_below(&r, 4) || !x->then) {          /* new; else it comes back, with the place in the order that it had */
                x->rank = (int64_t)mp_rng_below(&r, ranks);
                x->then = ++next;
            }
            if (!x->in) mp_line_push(&l, x, x->rank, x->then);
            x->in = !x->in;
            const char *wrong = compare(&l, e, 64);
            if (wrong) return printf("seed %llu, step %d: %s\n", (unsigned long long)seed, step, wrong), 1;
        }
        mp_line_close(&l);
    }
    printf("line: %zu steps as a plain list does them\n", steps);
    return 0;
}

enum { HELD = 2000 };

/* Each record is filled with the number of its place, so that two that overlap give themselves away. */
static const char *fill(unsigned char *x, size_t size, unsigned char with) {
    for (size_t i = 0; i < size; i++)
        if (x[i]) return "a record that is not zeroed";
    memset(x, with, size);
    return NULL;
}

static const char *whole(const unsigned char *x, size_t size, unsigned char with) {
    for (size_t i = 0; i < size; i++)
        if (x[i] != with) return "a record that somebody wrote into";
    return NULL;
}

static const char *try_slab_of(size_t size, uint64_t seed, size_t *steps) {
    static unsigned char *held[HELD];
    const char *wrong = NULL;
    size_t n = 0;
    mp_slab s;
    mp_rng r;
    mp_rng_seed(&r, seed);
    mp_slab_init(&s, size, 16384);
    for (int step = 0; step < 40000 && !wrong; step++, ++*steps) {
        size_t i = mp_rng_below(&r, step / 10000 % 2 ? HELD : HELD / 20);        /* few and many, by turns */
        if (held[i]) {
            wrong = whole(held[i], size, (unsigned char)i);
            mp_slab_give(&s, held[i]);
            held[i] = NULL;
            n--;
        } else {
            wrong = fill(held[i] = mp_slab_take(&s), size, (unsigned char)i);
            n++;
        }
        if (!wrong && s.n_blocks && s.n_blocks * 16384 < n * size) wrong = "more records than its blocks hold";
    }
    for (size_t i = 0; i < HELD; i++) {
        if (held[i] && !wrong) wrong = whole(held[i], size, (unsigned char)i);
        mp_slab_give(&s, held[i]);
        held[i] = NULL;
    }
    if (!wrong && s.n_blocks > 1) wrong = "an empty block that was kept beside another";
    mp_slab_close(&s);
    return wrong;
}

static int try_slab(void) {
    static const size_t sizes[] = { 1, 16, 40, 176, 360, 1000 };
    size_t steps = 0;
    for (uint64_t seed = 1; seed <= 24; seed++) {
        const char *wrong = try_slab_of(sizes[seed % 6], seed, &steps);
        if (wrong) return printf("slab, seed %llu: %s\n", (unsigned long long)seed, wrong), 1;
    }
    printf("slab: %zu steps\n", steps);
    return 0;
}

/* The reply's body, the caller's to free; *before and *after: how many messages came around it. */
static char *ask(mp_sim *s, const char *method, const char *path, const char *body, mp_time now, int *before, int *after) {
    mp_sim_request r = { .tag = 2, .method = mp_str_of(method), .path = mp_str_of(path), .body = mp_str_of(body) };
    mp_sim_out o;
    char *reply = NULL;
    *before = *after = 0;
    mp_sim_ask(s, &r, now);
    mp_sim_tick(s, now + MP_MS(1));
    while (mp_sim_take(s, &o)) {
        if (o.kind == MP_SIM_REPLY) reply = o.body;
        else {
            ++*(reply ? after : before);
            free(o.body);
        }
        free(o.headers);
    }
    return reply;
}

static char *post(mp_sim *s, int i, mp_time now, int *before, int *after) {
    char *body = mp_format("{\"client_id\": \"a\", \"prompt_id\": \"p%d\", \"prompt\": {\"1\": {\"class_type\": \"X\", \"inputs\": {}}}}", i);
    char *reply = ask(s, "POST", "/prompt", body, now, before, after);
    free(body);
    return reply;
}

static const char *try_early(int early, mp_time now) {
    mp_sim_opts o = { .any_node = 1, .any_ms = 0.001, .early = early };
    mp_sim *s = mp_sim_new(&o, 1, now, NULL);
    int before[2], after[2];
    mp_sim_connect(s, 1, mp_str_of("a"), now);
    free(ask(s, "GET", "/prompt", "", now, before, after));          /* the status of the connection */
    free(post(s, 1, now, before, after));
    free(post(s, 1, now + MP_MS(1000), before + 1, after + 1));      /* wholly cached */
    mp_sim_free(s);
    if (early) return before[0] == 6 && before[1] == 9 && after[1] == 0 ? NULL : "messages that should be early";
    return before[0] == 1 && before[1] == 1 ? NULL : "messages that are early";
}

static const char *try_history(int n) {
    mp_sim_opts o = { .any_node = 1, .any_ms = 0.001 };
    mp_sim *s = mp_sim_new(&o, 1, 0, NULL);
    int before, after, i = n - 10000;
    for (int k = 1; k <= n; k++) free(post(s, k, k * MP_MS(10), &before, &after));
    char *text = ask(s, "GET", "/history", "", (n + 1) * MP_MS(10), &before, &after), id[20];
    mp_json *all = mp_json_parse(text, strlen(text), NULL);
    const char *wrong = mp_json_count(all) == 10000 ? NULL : "how many prompts the history keeps";
    for (const mp_json *e = mp_json_first(all); e && !wrong; e = mp_json_next(e)) {
        snprintf(id, sizeof id, "p%d", ++i);
        if (strcmp(mp_json_name(e), id) != 0) wrong = "which prompts the history keeps";
    }
    mp_json_free(all);
    free(text);
    mp_sim_free(s);
    return wrong;
}

static int try_sim(void) {
    const char *wrong = try_early(0, 0);
    if (!wrong) wrong = try_early(1, 0);
    if (!wrong) wrong = try_history(10003);
    printf("sim: %s\n", wrong ? wrong : "10000 of 10003 prompts are kept; a cached one is told to its end before the reply");
    return wrong != NULL;
}

int main(void) { return try_line() || try_slab() || try_sim(); }
