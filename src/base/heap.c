/* base/heap.c -- floor 0, base: a heap of pointers that can remove from the middle. */
#include "base/heap.h"
#include <stdlib.h>

static size_t *place(const mp_heap *h, void *x) { return (size_t *)((char *)x + h->offset); }

void mp_heap_init(mp_heap *h, size_t offset, int (*before)(const void *, const void *)) {
    memset(h, 0, sizeof *h);
    h->offset = offset;
    h->before = before;
}

void mp_heap_close(mp_heap *h) {
    free(h->v);
    h->v = NULL;
    h->n = h->cap = 0;
}

static void put(mp_heap *h, size_t i, void *x) {
    h->v[i] = x;
    *place(h, x) = i;
}

#define WAYS 4                                       /* children per place: fewer levels, so fewer cache misses, than with two */

static void up(mp_heap *h, size_t i) {
    void *x = h->v[i];
    for (; i > 0 && h->before(x, h->v[(i - 1) / WAYS]); i = (i - 1) / WAYS) put(h, i, h->v[(i - 1) / WAYS]);
    put(h, i, x);
}

static void down(mp_heap *h, size_t i) {
    void *x = h->v[i];
    for (;;) {
        size_t first = WAYS * i + 1, end = first + WAYS < h->n ? first + WAYS : h->n, best = first;
        if (first >= h->n) break;
        for (size_t c = first + 1; c < end; c++)
            if (h->before(h->v[c], h->v[best])) best = c;
        if (!h->before(h->v[best], x)) break;
        put(h, i, h->v[best]);
        i = best;
    }
    put(h, i, x);
}

void mp_heap_push(mp_heap *h, void *x) {
    h->v = mp_grow(h->v, h->n, &h->cap, sizeof *h->v);
    put(h, h->n, x);
    up(h, h->n++);
}

void *mp_heap_top(const mp_heap *h) { return h->n ? h->v[0] : NULL; }

void *mp_heap_pop(mp_heap *h) {
    void *x = mp_heap_top(h);
    if (x) mp_heap_remove(h, x);
    return x;
}

void mp_heap_remove(mp_heap *h, void *x) {
    size_t i = *place(h, x);
    void *last = h->v[--h->n];
    *place(h, x) = MP_HEAP_OUT;
    if (i == h->n) return;
    put(h, i, last);
    up(h, i);
    down(h, *place(h, last));
}
