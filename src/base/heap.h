/* base/heap.h -- floor 0, base: a heap of pointers that can remove from the middle.
 * Sees: base. Seen by: all. */
#ifndef MP_HEAP_H
#define MP_HEAP_H
#include "base/base.h"

/* Each element holds its own place: a size_t at byte `offset`, MP_HEAP_OUT when in no heap. */
#define MP_HEAP_OUT ((size_t)-1)
typedef struct mp_heap {
    void **v;
    size_t n, cap, offset;
    int (*before)(const void *a, const void *b);     /* true: a comes out first; must be a strict order */
} mp_heap;

void mp_heap_init(mp_heap *h, size_t offset, int (*before)(const void *, const void *));
void mp_heap_close(mp_heap *h);                      /* elements stay the owner's */
void mp_heap_push(mp_heap *h, void *x);
void *mp_heap_top(const mp_heap *h);                 /* NULL when empty */
void *mp_heap_pop(mp_heap *h);
void mp_heap_remove(mp_heap *h, void *x);            /* x must be in this heap */
#endif
