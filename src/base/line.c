/* base/line.c -- floor 0, base: a waiting line of very many. */
#include "base/line.h"
#include <stdlib.h>

static size_t *place(const mp_line *l, void *x) { return (size_t *)((char *)x + l->offset); }

void mp_line_init(mp_line *l, size_t offset) {
    memset(l, 0, sizeof *l);
    l->offset = (uint32_t)offset;
}

void mp_line_close(mp_line *l) {
    for (uint32_t i = 0; i < l->n_rows; i++) free(l->rows[i].v);
    free(l->rows);
    if (l->late) mp_heap_close(l->late);
    free(l->late);
    memset(l, 0, sizeof *l);
}

static void find_top(mp_line *l) {
    l->top.x = NULL;
    if (l->late && l->late->n) l->top = l->late->v[0];
    for (uint32_t i = 0; i < l->n_rows; i++) {
        const mp_row *r = &l->rows[i];
        if (!r->n) continue;
        mp_heap_entry e = { r->first, r->then, r->x };
        if (!l->top.x || mp_heap_before(&e, &l->top)) l->top = e;
    }
}

/* The row of this rank; an empty one for it; NULL: there is none to be had. */
static mp_row *row_for(mp_line *l, int64_t first) {
    mp_row *empty = NULL;
    for (uint32_t i = 0; i < l->n_rows; i++) {
        if (l->rows[i].n && l->rows[i].first == first) return &l->rows[i];
        if (!l->rows[i].n) empty = &l->rows[i];
    }
    if (!empty && l->n_rows < MP_LINE_ROWS) {
        l->rows = mp_realloc(l->rows, (l->n_rows + 1u) * sizeof *l->rows);
        empty = &l->rows[l->n_rows++];
        memset(empty, 0, sizeof *empty);
    }
    if (empty) { empty->first = first; empty->head = empty->end = 0; }
    return empty;
}

/* Closes the gaps when half of the memory or more is gaps, so that each element is moved about once. */
static void make_room(mp_row *r) {
    size_t cap = r->cap;
    if (r->end == r->cap && r->n <= r->cap / 2) {
        uint32_t k = 0;
        for (uint32_t i = r->head; i < r->end; i++)
            if (r->v[i].x) r->v[k++] = r->v[i];
        r->head = 0;
        r->end = k;
    }
    r->v = mp_grow(r->v, r->end, &cap, sizeof *r->v);
    r->cap = (uint32_t)cap;
}

static void push_late(mp_line *l, void *x, int64_t first, uint64_t then) {
    if (!l->late) mp_heap_init(l->late = mp_alloc(sizeof *l->late), l->offset);
    mp_heap_push(l->late, x, first, then);
}

void mp_line_push(mp_line *l, void *x, int64_t first, uint64_t then) {
    mp_row *r = row_for(l, first);
    if (!r || (r->n && r->v[r->end - 1].then > then)) push_late(l, x, first, then);
    else {
        make_room(r);
        r->v[r->end++] = (struct mp_row_place){ then, x };
        if (!r->n++) { r->then = then; r->x = x; }
        *place(l, x) = MP_LINE_IN_ROW;
    }
    l->n++;
    mp_heap_entry e = { first, then, x };
    if (!l->top.x || mp_heap_before(&e, &l->top)) l->top = e;
}

static void leave_row(mp_row *r, uint64_t then) {
    uint32_t low = r->head, high = r->end;
    while (r->v[low].then != then) {                 /* it is there: most often at the head, which is looked at first */
        uint32_t middle = low + (high - low) / 2;
        if (r->v[middle].then > then) high = middle;
        else if (r->v[middle].then == then) low = middle;
        else low = middle + 1;
    }
    r->v[low].x = NULL;
    r->n--;
    while (r->head < r->end && !r->v[r->head].x) r->head++;
    while (r->end > r->head && !r->v[r->end - 1].x) r->end--;
    if (!r->n) return;
    r->then = r->v[r->head].then;
    r->x = r->v[r->head].x;
}

void mp_line_remove(mp_line *l, void *x, int64_t first, uint64_t then) {
    if (*place(l, x) == MP_LINE_IN_ROW) {
        leave_row(row_for(l, first), then);
        *place(l, x) = MP_HEAP_OUT;
    } else mp_heap_remove(l->late, x);
    l->n--;
    if (l->top.x == x) find_top(l);
}

size_t mp_line_all(const mp_line *l, void **out) {
    size_t k = 0;
    for (size_t i = 0; l->late && i < l->late->n; i++) out[k++] = l->late->v[i].x;
    for (uint32_t i = 0; i < l->n_rows; i++)
        for (uint32_t at = l->rows[i].head; l->rows[i].n && at < l->rows[i].end; at++)
            if (l->rows[i].v[at].x) out[k++] = l->rows[i].v[at].x;
    return k;
}
