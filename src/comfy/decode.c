/* comfy/decode.c -- floor 3, comfy: frames into messages. No allocation; whatever is malformed is refused whole. */
#include "comfy/message.h"
#include <stdio.h>

/* A string value: as it stands, or decoded into the scratch space when it has escapes. Null and others: empty. */
static int text_into(mp_scan *s, mp_str *out, char *scratch, size_t cap, size_t *used) {
    mp_str raw;
    s->escaped = 0;
    if (!mp_scan_string(s, &raw)) {
        *out = mp_str_make(NULL, 0);
        return !s->bad && mp_scan_skip(s, NULL);
    }
    *out = raw;
    if (!s->escaped) return 1;
    long n = mp_scan_unescape(raw, scratch + *used, cap - *used);
    if (n < 0) return 1;                             /* too long or wrong: stays as it was sent */
    *out = mp_str_make(scratch + *used, (size_t)n);
    *used += (size_t)n + 1;
    return 1;
}

static int text(mp_scan *s, mp_msg *m, mp_str *out) { return text_into(s, out, m->scratch, sizeof m->scratch, &m->used); }

static int number(mp_scan *s, double *v) { return mp_scan_peek(s) == '0' ? mp_scan_number(s, v) : mp_scan_skip(s, NULL); }

static int string_raw(mp_scan *s, mp_str *out) { return mp_scan_peek(s) == '"' ? mp_scan_string(s, out) : mp_scan_skip(s, NULL); }

/* {"status": {"exec_info": {"queue_remaining": N}}, "sid": "..."} */
static int status(mp_scan *s, mp_msg *m) {
    mp_str name;
    if (!mp_scan_open(s, '{')) return mp_scan_skip(s, NULL);
    while (mp_scan_member(s, &name)) {
        double v = -1;
        if (mp_str_is(name, "status") || mp_str_is(name, "exec_info")) { if (!status(s, m)) return 0; }
        else if (mp_str_is(name, "queue_remaining")) { if (!number(s, &v)) return 0; m->queue_remaining = (long)v; }
        else if (mp_str_is(name, "sid")) { if (!text(s, m, &m->sid)) return 0; }
        else if (!mp_scan_skip(s, NULL)) return 0;
    }
    return !s->bad;
}

static int member(mp_scan *s, mp_msg *m, mp_str name) {
    switch (name.n ? name.p[0] : 0) {
    case 'c': break;
    case 'd': if (mp_str_is(name, "display_node")) return text(s, m, &m->display_node); break;
    case 'e':
        if (mp_str_is(name, "exception_type")) return text(s, m, &m->exception_type);
        if (mp_str_is(name, "exception_message")) return string_raw(s, &m->exception_message);
        break;
    case 'm': if (mp_str_is(name, "max")) return number(s, &m->max); break;
    case 'n':
        if (mp_str_is(name, "node") || mp_str_is(name, "node_id")) return text(s, m, &m->node);
        if (mp_str_is(name, "node_type")) return text(s, m, &m->node_type);
        if (mp_str_is(name, "nodes")) return mp_scan_skip(s, &m->nodes);
        break;
    case 'o':
        if (mp_str_is(name, "output")) {
            if (!mp_scan_skip(s, &m->output)) return 0;
            if (mp_str_is(m->output, "null")) m->output = mp_str_make(NULL, 0);
            return 1;
        }
        break;
    case 'p': if (mp_str_is(name, "prompt_id")) return text(s, m, &m->prompt_id); break;
    case 't': if (mp_str_is(name, "timestamp")) return number(s, &m->timestamp); break;
    case 'v': if (mp_str_is(name, "value")) return number(s, &m->value); break;
    }
    return mp_scan_skip(s, NULL);
}

static const struct { const char *name; size_t n; mp_msg_kind kind; char nodes; } kinds[] = {
    { "status", 6, MP_MSG_STATUS, 0 }, { "progress_state", 14, MP_MSG_STATE, '{' }, { "progress", 8, MP_MSG_PROGRESS, 0 },
    { "executing", 9, MP_MSG_EXECUTING, 0 }, { "executed", 8, MP_MSG_EXECUTED, 0 }, { "execution_start", 15, MP_MSG_START, 0 },
    { "execution_cached", 16, MP_MSG_CACHED, '[' }, { "execution_success", 17, MP_MSG_SUCCESS, 0 },
    { "execution_error", 15, MP_MSG_ERROR, 0 }, { "execution_interrupted", 21, MP_MSG_INTERRUPTED, 0 },
    { "feature_flags", 13, MP_MSG_FEATURES, 0 }
};

static char kind_of(mp_msg *m) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].n == m->type.n && memcmp(kinds[i].name, m->type.p, m->type.n) == 0) {
            m->kind = kinds[i].kind;
            return kinds[i].nodes;
        }
    return 0;
}

/* The value of `data`, read where it stands: most of a frame's bytes are looked at once. */
static int data(mp_scan *s, mp_msg *m) {
    mp_str name;
    if (m->kind == MP_MSG_OTHER || m->kind == MP_MSG_FEATURES) return mp_scan_skip(s, &m->data);
    if (mp_scan_peek(s) != '{') return mp_scan_skip(s, &m->data);
    const char *from = s->p;
    if (m->kind == MP_MSG_STATUS) status(s, m);
    else {
        mp_scan_open(s, '{');
        while (mp_scan_member(s, &name))
            if (!member(s, m, name)) break;
    }
    m->data = mp_str_make(from, (size_t)(s->p - from));
    return !s->bad;
}

/* All but the scratch space, field by field: for so few bytes compilers make of memset what takes longer than the reading. */
static void clear(mp_msg *m) {
    const mp_str none = { 0 };
    m->kind = MP_MSG_OTHER;
    m->type = m->prompt_id = m->node = m->display_node = m->real_node = m->node_type = none;
    m->value = m->max = m->timestamp = 0;
    m->queue_remaining = -1;
    m->sid = m->exception_type = m->exception_message = m->output = m->nodes = m->data = m->image = none;
    m->format = NULL;
    m->used = 0;
}

int mp_decode_text(mp_str frame, mp_msg *m, mp_err *e) {
    mp_scan s = mp_scan_of(frame);
    mp_str name, none = { 0 };
    char nodes = 0;
    int read_yet = 0;
    clear(m);
    if (!mp_scan_open(&s, '{')) return mp_fail(e, MP_EPARSE, "a text frame that is no JSON object");
    while (mp_scan_member(&s, &name)) {
        if (mp_str_is(name, "type")) { if (!text(&s, m, &m->type)) break; nodes = kind_of(m); }
        else if (mp_str_is(name, "data")) { read_yet = m->type.p != NULL; if (!(read_yet ? data(&s, m) : mp_scan_skip(&s, &m->data))) break; }
        else if (!mp_scan_skip(&s, NULL)) break;
    }
    if (s.bad) return mp_fail(e, MP_EPARSE, "a text frame with broken JSON");
    if (!m->type.p) return mp_fail(e, MP_EPARSE, "a text frame without a type");
    if (m->kind == MP_MSG_OTHER || m->kind == MP_MSG_FEATURES) return 0;
    if (!m->data.n || m->data.p[0] != '{') return mp_fail(e, MP_EPARSE, "a frame of type %.*s whose data is no object", (int)m->type.n, m->type.p);
    mp_scan d = mp_scan_of(m->data);                 /* data stood before type: no server does that, but JSON allows it */
    if (!read_yet && !data(&d, m)) return mp_fail(e, MP_EPARSE, "a frame of type %.*s with broken data", (int)m->type.n, m->type.p);
    if (nodes && (!m->nodes.n || m->nodes.p[0] != nodes)) m->nodes = none;
    if (m->kind == MP_MSG_ERROR && mp_str_is(m->exception_type, "ExecutionBlocked")) m->kind = MP_MSG_BLOCKED;
    return 0;
}

/* By content: image_type says image/jpeg for everything but PNG (protocol 4). */
static const char *sniff(mp_str image) {
    if (image.n >= 8 && memcmp(image.p, "\x89PNG", 4) == 0) return "png";
    if (image.n >= 12 && memcmp(image.p, "RIFF", 4) == 0 && memcmp(image.p + 8, "WEBP", 4) == 0) return "webp";
    return "jpeg";
}

static int le16(const unsigned char *p) { return p[0] | p[1] << 8; }
static int be16(const unsigned char *p) { return p[0] << 8 | p[1]; }

static int png_size(const unsigned char *p, size_t n, int *w, int *h) {
    if (n < 24 || p[16] || p[20]) return -1;         /* nobody's preview is wider than 16 million */
    *w = p[17] << 16 | p[18] << 8 | p[19];
    *h = p[21] << 16 | p[22] << 8 | p[23];
    return 0;
}

static int webp_size(const unsigned char *p, size_t n, int *w, int *h) {
    if (n < 30) return -1;
    if (memcmp(p + 12, "VP8 ", 4) == 0) { *w = le16(p + 26) & 0x3fff; *h = le16(p + 28) & 0x3fff; }
    else if (memcmp(p + 12, "VP8L", 4) == 0) { *w = 1 + (le16(p + 21) & 0x3fff); *h = 1 + ((le16(p + 22) >> 6 | p[24] << 10) & 0x3fff); }
    else if (memcmp(p + 12, "VP8X", 4) == 0) { *w = 1 + (le16(p + 24) | p[26] << 16); *h = 1 + (le16(p + 27) | p[29] << 16); }
    else return -1;
    return 0;
}

/* Segments up to the frame's head: markers C0 to CF but C4, C8 and CC. */
static int jpeg_size(const unsigned char *p, size_t n, int *w, int *h) {
    if (n < 4 || p[0] != 0xff || p[1] != 0xd8) return -1;
    for (size_t i = 2; i + 9 <= n && p[i] == 0xff;) {
        int marker = p[i + 1];
        if (marker == 0xff) { i++; continue; }
        if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc) { *h = be16(p + i + 5); *w = be16(p + i + 7); return 0; }
        if (be16(p + i + 2) < 2) return -1;
        i += 2 + (size_t)be16(p + i + 2);
    }
    return -1;
}

int mp_image_size(mp_str image, int *width, int *height) {
    const unsigned char *p = (const unsigned char *)image.p;
    const char *format = sniff(image);
    *width = *height = 0;
    return *format == 'p' ? png_size(p, image.n, width, height) : *format == 'w' ? webp_size(p, image.n, width, height) : jpeg_size(p, image.n, width, height);
}

static int preview_metadata(mp_str json, mp_msg *m) {
    mp_scan s = mp_scan_of(json);
    mp_str name;
    if (!mp_scan_open(&s, '{')) return 0;
    while (mp_scan_member(&s, &name)) {
        mp_str *to = mp_str_is(name, "node_id") ? &m->node : mp_str_is(name, "display_node_id") ? &m->display_node
                     : mp_str_is(name, "real_node_id") ? &m->real_node : mp_str_is(name, "prompt_id") ? &m->prompt_id : NULL;
        if (!(to ? text(&s, m, to) : mp_scan_skip(&s, NULL))) return 0;
    }
    return !s.bad;
}

int mp_decode_binary(mp_str f, mp_msg *m, mp_err *e) {
    clear(m);
    if (f.n < 8) return mp_fail(e, MP_EPARSE, "a binary frame of %zu bytes, too short for any kind", f.n);
    uint32_t event = mp_be32(f.p), n = mp_be32(f.p + 4);
    mp_str rest = mp_str_make(f.p + 8, f.n - 8);
    switch (event) {
    case 1:
        m->kind = MP_MSG_PREVIEW;
        m->type = mp_str_of("b_preview");
        m->image = rest;
        break;
    case 3: case 4:
        if (n > rest.n) return mp_fail(e, MP_EPARSE, "a binary frame of type %u whose inner length %u is past its end", event, n);
        m->image = mp_str_make(rest.p + n, rest.n - n);
        if (event == 3) {
            m->kind = MP_MSG_TEXT;
            m->type = mp_str_of("b_text");
            m->node = mp_str_make(rest.p, n);
            return 0;
        }
        m->kind = MP_MSG_PREVIEW;
        m->type = mp_str_of("b_preview_with_metadata");
        if (!preview_metadata(mp_str_make(rest.p, n), m)) return mp_fail(e, MP_EPARSE, "a preview frame with broken metadata");
        break;
    default: m->type = mp_str_of("b_unknown"); return 0;
    }
    m->format = sniff(m->image);
    return 0;
}

int mp_msg_next_cached(mp_scan *s, int first, mp_str *id, char *scratch, size_t cap) {
    size_t used = 0;
    if (first && !mp_scan_open(s, '[')) return 0;
    return mp_scan_item(s) && text_into(s, id, scratch, cap, &used);
}

/* ---- the one hot shape ---------------------------------------------------------------------------------------------
 * An entry exactly as servers write it today: members in this order, Python's spacing, ids without escapes. Anything
 * else is left to the general reader below. */
#define WORD(w) ((size_t)(end - p) >= sizeof w - 1 && memcmp(p, w, sizeof w - 1) == 0 && (p += sizeof w - 1) != NULL)     /* lengths known to the compiler: no call */

static int plain_number(const char **p, const char *end, double *v) {
    const char *q = *p, *from = q;
    int64_t x = 0, scale = 1;
    for (; q < end && (unsigned)*q - '0' < 10; q++) x = x * 10 + (*q - '0');
    if (end - q > 2 && q[0] == '.' && q[1] == '0' && (unsigned)q[2] - '0' >= 10) q += 2;    /* whole, as most are */
    else if (q < end && *q == '.')
        for (q++; q < end && (unsigned)*q - '0' < 10; q++) { x = x * 10 + (*q - '0'); scale *= 10; }
    if (q == from || q - from > 15) return 0;
    *v = scale == 1 ? (double)x : (double)x / (double)scale;
    *p = q;
    return 1;
}

static int plain_id(const char **p, const char *end, mp_str *id) {
    const char *q = mp_scan_special(*p, end);
    if (q >= end || *q != '"') return 0;
    *id = mp_str_make(*p, (size_t)(q - *p));
    *p = q + 1;
    return 1;
}

static int values(const char **at, const char *end, mp_node_state *st) {
    const char *p = *at;
    if (!plain_number(&p, end, &st->value) || !WORD(", \"max\": ") || !plain_number(&p, end, &st->max)) return 0;
    st->finished = WORD(", \"state\": \"finished\"");
    if (!st->finished && !WORD(", \"state\": \"running\"")) return 0;
    *at = p;
    return 1;
}

int mp_msg_reread_state(mp_scan *s, uint32_t head, mp_node_state *st) {
    const char *p = s->p + head, *end = s->end;
    if (!head || p >= end || !values(&p, end, st) || !(p = memchr(p, '}', (size_t)(end - p)))) return 0;
    if (p + 1 >= end || (p[1] != ',' && p[1] != '}')) return 0;
    s->p = p + 1;
    return 1;
}

static int quick_state(mp_scan *s, mp_node_state *st) {
    const char *p = s->p, *end = s->end;
    mp_str ignored;
    (void)WORD(", ");
    if (!WORD("\"") || !plain_id(&p, end, &st->node) || !WORD(": {\"value\": ")) return 0;
    st->head = (uint32_t)(p - s->p);
    if (!values(&p, end, st)) return 0;
    if (!WORD(", \"node_id\": \"") || !plain_id(&p, end, &st->node) || !WORD(", \"prompt_id\": \"") || !plain_id(&p, end, &ignored)) return 0;
    if (!WORD(", \"display_node_id\": \"") || !plain_id(&p, end, &st->display_node) || !WORD(", \"parent_node_id\": ")) return 0;
    if (!WORD("null") && !(WORD("\"") && plain_id(&p, end, &ignored))) return 0;
    if (!WORD(", \"real_node_id\": \"") || !plain_id(&p, end, &st->real_node) || !WORD("}")) return 0;
    s->p = p;
    return 1;
}

int mp_msg_next_state(mp_scan *s, int first, mp_node_state *st) {
    mp_str name, state = { 0 };
    if (first && !mp_scan_open(s, '{')) return 0;
    st->finished = 0;
    st->head = 0;
    if (quick_state(s, st)) return 1;
    memset(st, 0, offsetof(mp_node_state, scratch));
    st->used = 0;
    if (!mp_scan_member(s, &st->node)) return 0;
    if (!mp_scan_open(s, '{')) return mp_scan_skip(s, NULL);
    while (mp_scan_member(s, &name)) {
        int ok;
        switch (name.n) {
        case 3: ok = number(s, &st->max); break;                                       /* max */
        case 5: ok = mp_str_is(name, "value") ? number(s, &st->value) : string_raw(s, &state); break;
        case 7: ok = mp_str_is(name, "node_id") ? text_into(s, &st->node, st->scratch, sizeof st->scratch, &st->used) : mp_scan_skip(s, NULL); break;
        case 15: ok = mp_str_is(name, "display_node_id") ? text_into(s, &st->display_node, st->scratch, sizeof st->scratch, &st->used) : mp_scan_skip(s, NULL); break;
        case 12: ok = mp_str_is(name, "real_node_id") ? text_into(s, &st->real_node, st->scratch, sizeof st->scratch, &st->used) : mp_scan_skip(s, NULL); break;
        default: ok = mp_scan_skip(s, NULL);
        }
        if (!ok) return 0;
    }
    st->finished = mp_str_is(state, "finished");
    return !s->bad;
}
