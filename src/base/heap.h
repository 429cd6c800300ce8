/* base/heap.h -- floor 0, base: a heap of pointers that can remove from the middle. What decides the order stands in the
 * heap itself: elements that wait for long are cold memory, and are not looked at.
 * Sees: base. Seen by: all. */
#ifndef MP_HEAP_H
#define MP_HEAP_H
#include "base/base.h"

/* Each element holds its own place: a size_t at byte `offset`, MP_HEAP_OUT when in no heap. */
#define MP_HEAP_OUT ((size_t)-1)
typedef struct { int64_t first; uint64_t then; void *x; } mp_heap_entry;
typedef struct mp_heap {
    mp_heap_entry *v;
    size_t n, cap, offset;
} mp_heap;

void mp_heap_init(mp_heap *h, size_t offset);
void mp_heap_close(mp_heap *h);                      /* elements stay the owner's */
/* The smallest `first` comes out first; among equals the smallest `then`. Pairs must differ. */
void mp_heap_push(mp_heap *h, void *x, int64_t first, uint64_t then);
static inline int mp_heap_before(const mp_heap_entry *a, const mp_heap_entry *b) { return a->first != b->first ? a->first < b->first : a->then < b->then; }
static inline void *mp_heap_top(const mp_heap *h) { return h->n ? h->v[0].x : NULL; }
void *mp_heap_pop(mp_heap *h);                       /* NULL when empty */
void mp_heap_remove(mp_heap *h, void *x);            /* x must be in this heap */
int64_t mp_heap_key(double v);                       /* as `first`: larger numbers have larger keys; not NaN */
#endif
