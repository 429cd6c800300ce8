/* pool/block.c -- floor 5, pool: workflows that a client does not get.
 *
 *   hard   a node class or a model file is missing there. Looked at again (GET /object_info/CLASS) after every
 *          reconnect and every `catalogue`; lifted when it is there. A file that is there under the other path
 *          separator is no block at all: its name is respelled for this server (protocol 8, pitfall 29).
 *   soft   the workflow failed there `max_failures` times in a row: it rests for the cooldown, as long as another
 *          client may run it. A poisonous workflow ends up resting everywhere, which is the same as nowhere. */
#include "pool/inside.h"
#include "base/scan.h"
#include <stdlib.h>

static void tell(mp_client *c, const shape *s, mp_event_kind kind, const char *words, mp_time now) {
    if (!wanted(c->pool, kind)) return;
    mp_event *e = event(c->pool, kind, NULL, c, now);
    e->node = mp_strdup(s->hash);
    if (words) event_data(e, words, strlen(words));
}

static void block_free(block *b) {
    free(b->reason);
    free(b->class_type);
    free(b->input);
    free(b->value);
    free(b);
}

void block_clear(mp_client *c, known *k) {
    (void)c;
    if (!k->block) return;
    if (k->block->hard) k->s->blocks--;
    else k->s->softs--;
    block_free(k->block);
    k->block = NULL;
}

static block *put(mp_client *c, known *k, const char *reason, int hard, mp_time until) {
    block_clear(c, k);
    block *b = k->block = mp_alloc(sizeof *b);
    b->reason = mp_strdup(reason);
    b->hard = hard;
    b->until = until;
    if (hard) k->s->blocks++;
    else k->s->softs++;
    if (until < c->block_at) c->block_at = until;
    return b;
}

void block_lift(mp_client *c, known *k, mp_time now) {
    shape *s = shape_ref(k->s);
    int looking = k->block->looking;
    block_clear(c, k);
    if (!looking) tell(c, s, MP_EV_CLIENT_UNBLOCKED, NULL, now);
    shape_changed(c->pool, s, now);
    shape_unref(c->pool, s);
    queue_presence(c->pool, now);
}

static void look(mp_client *c, known *k, mp_time now) {
    mp_buf path = { 0 };
    if (c->looking || c->state != MP_CLIENT_ONLINE || c->removed) return;
    mp_buf_puts(&path, "/object_info/");
    mp_buf_url(&path, mp_str_of(k->block->class_type));
    c->looking = act(c->pool, c, DO_LOOK, NULL, "GET", &path, NULL, c->pool->o.request_timeout);
    under_way *u = action_under_way(c->pool, c->looking);
    u->s = shape_ref(k->s);
    if (k->block->until <= now) k->block->until = now + (c->pool->o.catalogue ? c->pool->o.catalogue : MP_NEVER - now);
}

int block_may_spell(const mp_client *c, const mp_failure *f) {
    spelling *sp = NULL;
    if (!f->node_type || !f->input || !f->value || !strpbrk(f->value, "/\\") || c->state != MP_CLIENT_ONLINE) return 0;
    HASH_FIND_STR(c->spellings, f->value, sp);
    return !sp;
}

/* Something is missing there. With a path separator in the value it may only be spelled otherwise: that is looked
 * up at once, and until it is settled nobody is told. */
void block_hard(mp_client *c, shape *s, const mp_failure *f, mp_time now) {
    known *k = client_known(c, s, 1);
    mp_time again = c->pool->o.catalogue ? now + (c->pool->o.catalogue << (k->refusals < 6 ? k->refusals : 6)) : MP_NEVER;   /* offered and refused again: not so soon */
    if (k->refusals < 255) k->refusals++;
    block *b = put(c, k, f->message, 1, again);
    b->class_type = mp_strdup(f->node_type);
    b->input = mp_strdup(f->input);
    b->value = mp_strdup(f->value);
    b->looking = b->class_type && b->value && strpbrk(b->value, "/\\") != NULL;
    b->by_value = !f->by_shape;
    if (b->looking) look(c, k, now);
    if (b->looking && c->state != MP_CLIENT_ONLINE) b->looking = 0;
    if (!b->looking && b->by_value) { block_clear(c, k); return; }
    if (!b->looking) tell(c, s, MP_EV_CLIENT_BLOCKED, f->message, now);
    shape_changed(c->pool, s, now);
    queue_presence(c->pool, now);
}

void block_failed(mp_client *c, shape *s, const mp_failure *f, mp_time now) {
    const mp_pool_opts *o = &c->pool->o;
    known *k = client_known(c, s, 1);
    if (k->block && k->block->hard) return;
    if (!o->max_failures || !o->cooldown || ++k->fails < (uint32_t)o->max_failures) return;
    int was = k->block != NULL;
    put(c, k, f->message, 0, now + o->cooldown);
    if (!was) tell(c, s, MP_EV_CLIENT_BLOCKED, f->message, now);
    shape_changed(c->pool, s, now);
}

void spelling_free(spelling *sp) {
    free(sp->from);
    free(sp->to);
    free(sp);
}

/* ---- the catalogue ------------------------------------------------------------------------------------------- */

/* The choices of an input: old-style lists and the options of COMBO (protocol 2.10). */
static const mp_json *choices(const mp_json *def, const char *input) {
    static const char *const groups[] = { "required", "optional" };
    for (int i = 0; i < 2; i++) {
        const mp_json *d = mp_json_get(mp_json_get(mp_json_get(def, "input"), groups[i]), input);
        if (!d) continue;
        const mp_json *first = mp_json_first(d);
        return mp_json_type(first) == MP_JSON_ARRAY ? first : mp_json_get(mp_json_at(d, 1), "options");
    }
    return NULL;
}

static int same_but_separators(const char *a, const char *b) {
    for (; *a && *b; a++, b++)
        if (*a != *b && !((*a == '/' || *a == '\\') && (*b == '/' || *b == '\\'))) return 0;
    return *a == *b;
}

/* 1: it is there; the choice that differs in separators only goes to *other. */
static int offered(const mp_json *list, const char *value, const char **other) {
    *other = NULL;
    for (const mp_json *x = mp_json_first(list); x; x = mp_json_next(x)) {
        const char *z = mp_json_string(x);
        if (!z) continue;
        if (strcmp(z, value) == 0) return 1;
        if (same_but_separators(z, value)) *other = z;
    }
    return 0;
}

/* What led to a name that is refused now leads to the other one: else two spellings would lead to each other for ever. */
static void respelled(mp_client *c, const char *from, const char *to) {
    for (spelling *sp = c->spellings, *next; sp; sp = next) {
        next = sp->hh.next;
        if (strcmp(sp->to, from) != 0) continue;
        if (strcmp(sp->from, to) == 0) {
            HASH_DEL(c->spellings, sp);
            spelling_free(sp);
            continue;
        }
        free(sp->to);
        sp->to = mp_strdup(to);
    }
}

static void spell(mp_client *c, const char *from, const char *to) {
    spelling *sp;
    respelled(c, from, to);
    HASH_FIND_STR(c->spellings, from, sp);
    if (!sp) {
        if (HASH_COUNT(c->spellings) >= 10000) return;
        sp = mp_alloc(sizeof *sp);
        sp->from = mp_strdup(from);
        HASH_ADD_KEYPTR(hh, c->spellings, sp->from, strlen(sp->from), sp);
    }
    free(sp->to);
    sp->to = mp_strdup(to);
}

void block_looked(mp_client *c, uint64_t action, shape *s, const mp_result *r, mp_time now) {
    if (c->looking == action) c->looking = 0;
    known *k = client_known(c, s, 0);
    if (k && k->block && k->block->hard && k->block->class_type) {
        block *b = k->block;
        mp_json *own = r->code == 0 && r->status == 200 && !r->doc ? mp_json_parse(r->body.p, r->body.n, NULL) : NULL;
        const mp_json *def = mp_json_get(r->code || r->status != 200 ? NULL : r->doc ? r->doc : own, b->class_type);
        const char *other = NULL;
        int there = def && (!b->value || !b->input || offered(choices(def, b->input), b->value, &other));
        if (other) spell(c, b->value, other);
#if MP_MUTANT == 11
        there = 0, other = NULL;
#endif
        if (!other && b->by_value && def) spell(c, b->value, b->value);           /* looked for in vain: not again for every job */
        if (other || b->by_value || (there && !b->looking)) block_lift(c, k, now);
        else if (b->looking) {                       /* refused what it offers by that very name, or does not have it: a real block */
            b->looking = 0;
            tell(c, s, MP_EV_CLIENT_BLOCKED, b->reason, now);
            queue_presence(c->pool, now);            /* perhaps nobody is left who takes it */
        }
        mp_json_free(own);
    }
    for (known *o = c->known; o && !c->looking; o = o->next)          /* one at a time: who waits for its look? */
        if (o->block && o->block->looking && o->block->class_type) look(c, o, now);
    shape_unref(c->pool, s);
    client_rearm(c, now);
}

void block_recheck(mp_client *c, mp_time now) {
    for (known *k = c->known; k; k = k->next) {
        if (!k->block || !k->block->hard) continue;
        if (!k->block->class_type) { block_lift(c, k, now); continue; }   /* nothing to look for: it gets another chance */
        k->block->until = now;
        c->block_at = now;
    }
}

void block_tick(mp_client *c, mp_time now) {
    if (c->block_at > now || c->state != MP_CLIENT_ONLINE) return;
    mp_time soonest = MP_NEVER;
    for (known *k = c->known; k; k = k->next) {
        block *b = k->block;
        if (!b) continue;
        if (b->until <= now && !b->hard) { block_lift(c, k, now); continue; }
        if (b->until <= now && b->class_type && !c->looking) look(c, k, now);
        mp_time t = b->until <= now ? now + MP_MS(1000) : b->until;  /* one look at a time */
        if (t < soonest) soonest = t;
    }
    c->block_at = soonest;
}

/* ---- spelling --------------------------------------------------------------------------------------------------- */

mp_workflow *respell(mp_client *c, mp_workflow *w) {
    mp_str name, json;
    char file[1024];
    if (!c->spellings) return w;
    for (size_t n = 0; n < mp_workflow_count(w); n++)
        for (size_t i = 0; mp_workflow_input_at(w, n, i, &name, &json); i++) {
            spelling *sp;
            if (json.n < 2 || json.p[0] != '"') continue;
            long len = mp_scan_unescape(mp_str_make(json.p + 1, json.n - 2), file, sizeof file);
            if (len <= 0) continue;
            HASH_FIND(hh, c->spellings, file, (size_t)len, sp);
            if (!sp || strcmp(sp->from, sp->to) == 0) continue;
            mp_buf text = { 0 };
            char *input = mp_strndup(name.p, name.n);
            mp_buf_json(&text, mp_str_of(sp->to));
            w = mp_workflow_own(w);
            mp_workflow_set(w, mp_str_of(mp_workflow_node(w, n)->id), mp_str_of(input), mp_buf_view(&text), NULL);
            mp_buf_free(&text);
            free(input);
        }
    return w;
}

void mp_client_blocks(const mp_client *c, void (*fn)(void *, const char *, const char *, mp_time), void *ud) {
    for (const known *k = c->known; k; k = k->next)
        if (k->block && !k->block->looking) fn(ud, k->s->hash, k->block->reason, k->block->hard ? MP_NEVER : k->block->until);
}
