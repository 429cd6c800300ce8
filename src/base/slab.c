/* base/slab.c -- floor 0, base: records of one size. */
#include "base/slab.h"
#include <stdlib.h>

typedef struct spare { struct spare *next; } spare;  /* what a free record holds */
struct mp_slab_block {
    mp_slab_block *next, *before;                    /* while it has room */
    spare *spares;
    uint32_t used, fresh;                            /* fresh: so many of its records have been in use some time */
};
#define HEAD ((sizeof(mp_slab_block) + 63) & ~(size_t)63)

void mp_slab_init(mp_slab *s, size_t size, size_t block) {
    memset(s, 0, sizeof *s);
    size_t to = size > 32 ? 64 : 16;                 /* whole lines of the cache, so that a record touches no more than it must */
    s->size = (size + to - 1) & ~(to - 1);
    s->block = block;                                /* and its alignment: a record's address gives its block */
}

#ifdef __has_feature                                 /* clang says it so, gcc by a macro */
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__
#endif
#endif

#ifdef __SANITIZE_ADDRESS__
void mp_slab_close(mp_slab *s) { (void)s; }
void *mp_slab_take(mp_slab *s) { return mp_alloc(s->size); }
void mp_slab_give(mp_slab *s, void *x) { (void)s; free(x); }
#else

static uint32_t room(const mp_slab *s) { return (uint32_t)((s->block - HEAD) / s->size); }

static void link_open(mp_slab *s, mp_slab_block *b) {
    b->before = NULL;
    b->next = s->open;
    if (b->next) b->next->before = b;
    s->open = b;
}

static void unlink_open(mp_slab *s, mp_slab_block *b) {
    if (b->before) b->before->next = b->next;
    else s->open = b->next;
    if (b->next) b->next->before = b->before;
}

void mp_slab_close(mp_slab *s) {
    for (mp_slab_block *b; (b = s->open) != NULL; free(b)) s->open = b->next;
    s->n_blocks = s->n_empty = 0;
}

void *mp_slab_take(mp_slab *s) {
    mp_slab_block *b = s->open;
    if (!b) {
        b = mp_aligned(s->block, s->block);
        memset(b, 0, sizeof *b);
        link_open(s, b);
        s->n_blocks++;
        s->n_empty++;
    }
    if (!b->used++) s->n_empty--;
    void *x = b->spares;
    if (x) b->spares = b->spares->next;
    else x = (char *)b + HEAD + s->size * b->fresh++;
    if (!b->spares && b->fresh == room(s)) unlink_open(s, b);
    return memset(x, 0, s->size);
}

void mp_slab_give(mp_slab *s, void *x) {
    if (!x) return;
    mp_slab_block *b = (mp_slab_block *)((uintptr_t)x & ~(uintptr_t)(s->block - 1));
    if (!b->spares && b->fresh == room(s)) link_open(s, b);
    spare *z = x;
    z->next = b->spares;
    b->spares = z;
    if (--b->used) return;
    if (s->n_empty) {
        unlink_open(s, b);
        free(b);
        s->n_blocks--;
    } else s->n_empty = 1;
}
#endif
