/* base/line.h -- floor 0, base: a waiting line of very many: by rank, and by arrival among equals. Most come in the order of
 * their arrival and with one of a few ranks: those stand in rows, one rank each, which neither search nor look at their elements,
 * because what waits for long is cold memory. The others, those that come back or have a rank of their own, stand in a heap.
 * Sees: base. Seen by: all. */
#ifndef MP_LINE_H
#define MP_LINE_H
#include "base/heap.h"

#define MP_LINE_ROWS 8
#define MP_LINE_IN_ROW ((size_t)-2)                  /* the place of an element that stands in a row */

typedef struct mp_row {
    int64_t first;                                   /* the rank of all in it */
    uint64_t then;                                   /* its head, as in v: rows are compared without a look at what they hold */
    void *x;
    struct mp_row_place { uint64_t then; void *x; } *v;      /* in order; x NULL: has left */
    uint32_t head, end, cap, n;                      /* the first that is there; behind the last; how many are there */
} mp_row;

typedef struct mp_line {
    mp_heap_entry top;                               /* of all; x NULL when empty */
    mp_row *rows;
    mp_heap *late;                                   /* NULL: none was yet */
    uint32_t n, n_rows, offset;
} mp_line;

void mp_line_init(mp_line *l, size_t offset);        /* each element holds its own place, as in a heap */
void mp_line_close(mp_line *l);                      /* elements stay the owner's */
/* The smallest `first` comes out first; among equals the smallest `then`. Pairs must differ. */
void mp_line_push(mp_line *l, void *x, int64_t first, uint64_t then);
void mp_line_remove(mp_line *l, void *x, int64_t first, uint64_t then);  /* x must be in this line, with these */
size_t mp_line_all(const mp_line *l, void **out);    /* all l->n, in no order; returns how many */
#endif
