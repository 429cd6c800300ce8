/* base/heap.c -- floor 0, base: a heap of pointers that can remove from the middle. */
#include "base/heap.h"
#include <stdlib.h>

static size_t *place(const mp_heap *h, void *x) { return (size_t *)((char *)x + h->offset); }

void mp_heap_init(mp_heap *h, size_t offset) {
    memset(h, 0, sizeof *h);
    h->offset = offset;
}

void mp_heap_close(mp_heap *h) {
    free(h->v);
    h->v = NULL;
    h->n = h->cap = 0;
}

static void put(mp_heap *h, size_t i, mp_heap_entry e) {
    h->v[i] = e;
    *place(h, e.x) = i;
}

#define WAYS 4                                       /* children per place: fewer levels, so fewer cache misses, than with two */

static size_t up(mp_heap *h, size_t i) {
    mp_heap_entry e = h->v[i];
    for (; i > 0 && mp_heap_before(&e, &h->v[(i - 1) / WAYS]); i = (i - 1) / WAYS) put(h, i, h->v[(i - 1) / WAYS]);
    put(h, i, e);
    return i;
}

static void down(mp_heap *h, size_t i) {
    mp_heap_entry e = h->v[i];
    for (;;) {
        size_t first = WAYS * i + 1, end = first + WAYS < h->n ? first + WAYS : h->n, best = first;
        if (first >= h->n) break;
        for (size_t c = first + 1; c < end; c++)
            if (mp_heap_before(&h->v[c], &h->v[best])) best = c;
        if (!mp_heap_before(&h->v[best], &e)) break;
        put(h, i, h->v[best]);
        i = best;
    }
    put(h, i, e);
}

void mp_heap_push(mp_heap *h, void *x, int64_t first, uint64_t then) {
    h->v = mp_grow(h->v, h->n, &h->cap, sizeof *h->v);
    h->v[h->n] = (mp_heap_entry){ first, then, x };
    up(h, h->n++);
}

void *mp_heap_pop(mp_heap *h) {
    void *x = mp_heap_top(h);
    if (x) mp_heap_remove(h, x);
    return x;
}

void mp_heap_remove(mp_heap *h, void *x) {
    size_t i = *place(h, x);
    *place(h, x) = MP_HEAP_OUT;
    if (i == --h->n) return;
    h->v[i] = h->v[h->n];
    down(h, up(h, i));
}

int64_t mp_heap_key(double v) {
    int64_t bits;
    v += 0.0;                                        /* one zero only */
    memcpy(&bits, &v, sizeof bits);
    return bits < 0 ? bits ^ INT64_MAX : bits;
}
