/* base/slab.h -- floor 0, base: records of one size that come and go by the million. They stand in blocks without anything between
 * them; taking and giving touch the record and the head of its block only, where an allocator of all sizes looks at neighbours, which
 * are cold memory. A block goes back to the system when it is empty, but for one. Built with AddressSanitizer each record is an
 * allocation of its own, so that it notices what is used too late.
 * Sees: base. Seen by: all. */
#ifndef MP_SLAB_H
#define MP_SLAB_H
#include "base/base.h"

typedef struct mp_slab_block mp_slab_block;
typedef struct mp_slab {
    size_t size, block;
    mp_slab_block *open;                             /* blocks with room, the one to take from first */
    size_t n_blocks, n_empty;
} mp_slab;

void mp_slab_init(mp_slab *s, size_t size, size_t block);    /* size: of a record; block: a power of two, some times as much */
void mp_slab_close(mp_slab *s);                      /* all records must have been given back */
void *mp_slab_take(mp_slab *s);                      /* zeroed; as mp_alloc it comes back or the program ends */
void mp_slab_give(mp_slab *s, void *x);              /* NULL is fine */
#endif
