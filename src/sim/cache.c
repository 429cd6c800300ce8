/* sim/cache.c -- floor 5, sim: results of nodes by content (protocol 5.3). The id of a node is not part of its key, unless
 * its class asks for it; so twins run once and renumbered prompts hit. */
#include "sim/inside.h"
#include <stdlib.h>

static int by_name(const void *a, const void *b) { return strcmp(mp_json_name(*(const mp_json *const *)a), mp_json_name(*(const mp_json *const *)b)); }

/* Class, literal inputs, and recursively the same of all ancestors. */
void key_of(mp_sim *s, run *r, node *n) {
    mp_buf b = { 0 };
    const behaviour *how = behaviour_of(n->class_type);
    if (n->keyed) return;
    n->keyed = 1;
    mp_buf_puts(&b, n->class_type);
    if (how && how->key_has_id) mp_buf_printf(&b, " %s", n->id);
    if (how && how->never_cached) mp_buf_printf(&b, " %llu", (unsigned long long)++s->uses);     /* a new one each time */
    size_t count = mp_json_count(n->inputs), k = 0;
    const mp_json **sorted = mp_alloc(count * sizeof *sorted + 1);       /* the order of inputs does not matter */
    for (const mp_json *i = mp_json_first(n->inputs); i; i = mp_json_next(i)) sorted[k++] = i;
    if (k) qsort(sorted, k, sizeof *sorted, by_name);
    for (k = 0; k < count; k++) {
        const mp_json *i = sorted[k];
        node *from = is_link(i) ? node_by_id(r, mp_json_string(mp_json_first(i))) : NULL;
        mp_buf_printf(&b, "\n%s=", mp_json_name(i));
        if (from) {
            key_of(s, r, from);
            mp_buf_printf(&b, "%s:", from->key);
            mp_json_write(&b, mp_json_at(i, 1));
        } else mp_json_write(&b, i);
    }
    free(sorted);
    const char *image = strcmp(n->class_type, "LoadImage") == 0 ? mp_json_string(mp_json_get(n->inputs, "image")) : NULL;
    file *f = image ? file_find(s, "input", "", image) : NULL;
    if (f && f->bytes) {
        char sum[MP_DIGEST_HEX];
        mp_sha256_hex(f->bytes, f->n, sum);
        mp_buf_puts(&b, sum);
    }
    mp_sha256_hex(b.p, b.n, n->key);
    mp_buf_free(&b);
}

/* ---- results ------------------------------------------------------------------------------------------------ */

result *result_new(const node *n) {
    result *res = mp_alloc(sizeof *res);
    const mp_json *lists = mp_json_get(n->def, "output_is_list");
    res->refs = 1;
    res->n_slots = n->def ? mp_json_count(mp_json_get(n->def, "output")) : 1;
    res->slots = mp_alloc((res->n_slots + 1) * sizeof *res->slots);
    for (size_t i = 0; i < res->n_slots; i++) res->slots[i].is_list = mp_json_true(mp_json_at(lists, i));
    res->id = mp_strdup(n->id);
    return res;
}

void result_free(result *res) {
    if (!res || --res->refs) return;
    for (size_t i = 0; i < res->n_slots; i++) {
        for (size_t k = 0; k < res->slots[i].n; k++) free(res->slots[i].v[k].text);
        free(res->slots[i].v);
    }
    free(res->slots);
    free(res->ui);
    free(res->id);
    free(res);
}

value *slot_add(result *res, size_t at, value v) {
    if (at >= res->n_slots) { free(v.text); return NULL; }
    slot *s = &res->slots[at];
    s->v = mp_realloc(s->v, (s->n + 1) * sizeof *s->v);
    s->v[s->n] = v;
    return &s->v[s->n++];
}

/* ---- the store ---------------------------------------------------------------------------------------------------- */

static void forget(mp_sim *s, cached *c) {
    HASH_DEL(s->cache, c);
    result_free(c->res);
    free(c);
}

cached *cache_find(mp_sim *s, const node *n) {
    cached *c;
    HASH_FIND_STR(s->cache, n->key, c);
    if (c && s->cache_mode == 1) {                   /* used last: to the end of the line */
        HASH_DEL(s->cache, c);
        HASH_ADD_STR(s->cache, key, c);
    }
    return c;
}

void cache_keep(mp_sim *s, const node *n) {
    unsigned most = s->o.cache_size > 0 ? (unsigned)s->o.cache_size : 100;
    /* expanded nodes are not in the next prompt: they would be evicted */
    if ((s->cache_mode == 2 && !s->v->none_keeps) || n->parent || cache_find(s, n)) return;
    if (s->cache_mode == 1 && HASH_COUNT(s->cache) >= most) forget(s, s->cache);
    cached *c = mp_alloc(sizeof *c);
    memcpy(c->key, n->key, sizeof c->key);
    c->res = n->res;
    c->res->refs++;
    HASH_ADD_STR(s->cache, key, c);
}

void cache_clear(mp_sim *s) {
    while (s->cache) forget(s, s->cache);
}

static int needs(const node *n, const node *from) {
    for (const mp_json *i = mp_json_first(n->inputs); i; i = mp_json_next(i))
        if (is_link(i) && strcmp(mp_json_string(mp_json_first(i)), from->id) == 0) return 1;
    return 0;
}

/* "none" before 0.3.66: a result goes when all that needs it has run (protocol 5.3). */
void cache_used(mp_sim *s, const run *r, const node *n) {
    for (size_t i = 0; s->cache_mode == 2 && i < r->n_prompt; i++) {
        const node *from = r->nodes[i];
        int open = from->state != N_DONE || !needs(n, from);
        for (size_t k = 0; !open && k < r->n_prompt; k++) open = r->nodes[k]->state != N_DONE && needs(r->nodes[k], from);
        cached *c = open ? NULL : cache_find(s, from);
        if (c) forget(s, c);
    }
}

void cache_evict(mp_sim *s, const run *r) {
    cached *c, *next;
    if (s->cache_mode == 1) return;
    if (s->cache_mode == 2) cache_clear(s);
    HASH_ITER(hh, s->cache, c, next) {
        int keep = 0;
        for (size_t i = 0; i < r->n && !keep; i++) keep = strcmp(r->nodes[i]->key, c->key) == 0;
        /* cppcheck-suppress uninitvar ; set by HASH_ITER */
        if (!keep) forget(s, c);
    }
}
