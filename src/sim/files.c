/* sim/files.c -- floor 5, sim: the files of a server: uploads, and pictures drawn when somebody looks at them.
 * Rules: protocol 2.8 (view) and 2.9 (upload). */
#include "sim/inside.h"
#include "base/digest.h"
#include <stdio.h>
#include <stdlib.h>

static char *place_of(const char *type, const char *subfolder, const char *name) { return mp_format("%s/%s%s%s", type, subfolder, *subfolder ? "/" : "", name); }

file *file_find(mp_sim *s, const char *type, const char *subfolder, const char *name) {
    file *f;
    char *copy = mp_strdup(name), *key;
    size_t n = strlen(copy);
    static const char *const marks[] = { " [output]", " [input]", " [temp]" }, *const types[] = { "output", "input", "temp" };
    for (int i = 0; i < 3; i++) {                    /* "x.png [temp]" names a file elsewhere */
        size_t m = strlen(marks[i]);
        if (n > m && strcmp(copy + n - m, marks[i]) == 0) { copy[n - m] = 0; type = types[i]; break; }
    }
    key = place_of(type, subfolder, copy);
    HASH_FIND_STR(s->files, key, f);
    free(key);
    free(copy);
    return f;
}

file *file_add(mp_sim *s, const char *type, const char *subfolder, const char *name) {
    file *f = file_find(s, type, subfolder, name);
    if (f) return f;
    f = mp_alloc(sizeof *f);
    f->key = place_of(type, subfolder, name);
    HASH_ADD_KEYPTR(hh, s->files, f->key, strlen(f->key), f);
    return f;
}

void file_free(mp_sim *s, file *f) {
    HASH_DEL(s->files, f);
    free(f->key);
    free(f->bytes);
    free(f->prompt);
    free(f->pnginfo);
    free(f);
}

mp_str mp_sim_file(mp_sim *s, const char *name) {
    file *f = file_find(s, "input", "", name);
    return f && f->bytes ? mp_str_make(f->bytes, f->n) : mp_str_of("");
}

void files_free(mp_sim *s) {
    file *f, *next;
    HASH_ITER(hh, s->files, f, next) file_free(s, f);
}

static int hex(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

char *url_decode(mp_str raw) {
    char *z = mp_alloc(raw.n + 1), *o = z;
    for (size_t i = 0; i < raw.n; i++) {
        if (raw.p[i] == '%' && i + 2 < raw.n && hex(raw.p[i + 1]) >= 0 && hex(raw.p[i + 2]) >= 0) {
            *o++ = (char)(hex(raw.p[i + 1]) << 4 | hex(raw.p[i + 2]));
            i += 2;
        } else *o++ = raw.p[i] == '+' ? ' ' : raw.p[i];
    }
    return z;
}

char *query_arg(mp_str path, const char *name) {
    const char *q = path.n ? memchr(path.p, '?', path.n) : NULL, *end = path.p + path.n;
    size_t n = strlen(name);
    while (q && ++q < end) {
        const char *amp = memchr(q, '&', (size_t)(end - q));
        size_t len = (size_t)((amp ? amp : end) - q);
        if (len > n && q[n] == '=' && memcmp(q, name, n) == 0) return url_decode(mp_str_make(q + n + 1, len - n - 1));
        q = amp;
    }
    return NULL;
}

void view(mp_sim *s, const mp_sim_request *r) {
    char *name = query_arg(r->path, "filename"), *type = query_arg(r->path, "type"), *sub = query_arg(r->path, "subfolder");
    const char *t = type ? type : "output";
    int status = 200;
    file *f = NULL;
    if (!name || !*name) status = 404;
    else if (name[0] == '/' || strstr(name, "..") || (strcmp(t, "output") && strcmp(t, "input") && strcmp(t, "temp"))) status = 400;
    else if (sub && (sub[0] == '/' || strstr(sub, ".."))) status = 403;
    else {
        const char *slash = strrchr(name, '/');
        if (!(f = file_find(s, t, sub ? sub : "", slash ? slash + 1 : name))) status = 404;
    }
    const char *last = name ? strrchr(name, '/') : NULL;
    char *shown = f ? mp_strdup(last ? last + 1 : name) : NULL, *mark = shown ? strstr(shown, " [") : NULL, *headers = NULL;
    if (mark) *mark = 0;
    if (f && !strpbrk(shown, "\"\r\n")) headers = mp_format("Content-Disposition: filename=\"%s\"\r\n", shown);
    free(shown);
    if (f && f->bytes) reply_with(s, r->tag, 200, mp_str_make(f->bytes, f->n).n > 3 && memcmp(f->bytes, "\x89PNG", 4) == 0 ? "image/png" : "application/octet-stream", headers, f->bytes, f->n);
    else if (f) {
        mp_buf b = { 0 };
        png_make(&b, f->width, f->height, f->look, f->prompt, f->pnginfo);
        reply_with(s, r->tag, 200, "image/png", headers, b.p, b.n);
        mp_buf_free(&b);
    } else reply(s, r->tag, status, "application/octet-stream", "", 0);
    free(name);
    free(type);
    free(sub);
}

/* ---- multipart/form-data (RFC 7578) ------------------------------------------------------------------- */

typedef struct { mp_str name, filename, body; } part;

static mp_str attribute(mp_str head, const char *name) {
    char needle[40];
    snprintf(needle, sizeof needle, "; %s=\"", name);
    char *at = memmem(head.p, head.n, needle, strlen(needle));
    if (!at) return mp_str_make(NULL, 0);
    at += strlen(needle);
    char *end = memchr(at, '"', (size_t)(head.p + head.n - at));
    return end ? mp_str_make(at, (size_t)(end - at)) : mp_str_make(NULL, 0);
}

static size_t parts_of(const mp_sim_request *r, part *out, size_t cap) {
    const char *b = r->content_type.n ? memmem(r->content_type.p, r->content_type.n, "boundary=", 9) : NULL;
    size_t n = 0;
    if (!b) return 0;
    b += 9;
    size_t nb = (size_t)(r->content_type.p + r->content_type.n - b);
    if (nb > 1 && *b == '"') { b++; nb -= 2; }
    char *mark = mp_format("--%.*s", (int)nb, b);
    size_t nm = strlen(mark);
    const char *p = r->body.n ? memmem(r->body.p, r->body.n, mark, nm) : NULL, *end = r->body.p + r->body.n;
    while (p && n < cap && end - p > (long)nm + 4) {
        const char *head = p + nm + 2, *gap = memmem(head, (size_t)(end - head), "\r\n\r\n", 4);
        const char *next = gap ? memmem(gap, (size_t)(end - gap), mark, nm) : NULL;
        if (!next) break;
        mp_str h = mp_str_make(head, (size_t)(gap - head));
        out[n++] = (part){ attribute(h, "name"), attribute(h, "filename"), mp_str_make(gap + 4, (size_t)(next - gap) - 6) };
        p = next;
    }
    free(mark);
    return n;
}

/* A name that is free, or whose file has these very bytes: "cat.png", "cat (1).png", ... */
static char *free_name(mp_sim *s, const char *type, const char *sub, const char *name, mp_str bytes) {
    const char *dot = strrchr(name, '.');
    size_t stem = dot ? (size_t)(dot - name) : strlen(name);
    char *at = mp_strdup(name);
    for (int i = 1;; i++) {
        file *f = file_find(s, type, sub, at);
        if (!f || (f->bytes && mp_str_eq(mp_str_make(f->bytes, f->n), bytes))) return at;
        free(at);
        at = mp_format("%.*s (%d)%s", (int)stem, name, i, dot ? dot : "");
    }
}

void upload(mp_sim *s, const mp_sim_request *r, int mask) {
    part parts[16];
    size_t n = parts_of(r, parts, 16);
    s->record.uploads++;
    const part *image = NULL;
    char type[16] = "input", sub[256] = "";
    int overwrite = 0;
    for (size_t i = 0; i < n; i++) {
        if (mp_str_is(parts[i].name, "image")) image = &parts[i];
        if (mp_str_is(parts[i].name, "type")) snprintf(type, sizeof type, "%.*s", (int)parts[i].body.n, parts[i].body.p);
        if (mp_str_is(parts[i].name, "subfolder")) snprintf(sub, sizeof sub, "%.*s", (int)parts[i].body.n, parts[i].body.p);
        if (mp_str_is(parts[i].name, "overwrite")) overwrite = mp_str_is(parts[i].body, "true") || mp_str_is(parts[i].body, "1");
    }
    if (!image || !image->filename.n || strstr(sub, "..") || sub[0] == '/' || memmem(image->filename.p, image->filename.n, "..", 2)) { reply(s, r->tag, 400, "application/octet-stream", "", 0); return; }
    if (strcmp(type, "input") && strcmp(type, "temp") && strcmp(type, "output")) {
        reply(s, r->tag, 500, "text/plain; charset=utf-8", "500 Internal Server Error\n\nServer got itself in trouble", 55);
        return;
    }
    if (mask) {                                      /* the alpha itself is not merged: the mask's bytes become the file */
        mp_str ref = { 0 };
        for (size_t i = 0; i < n; i++)
            if (mp_str_is(parts[i].name, "original_ref")) ref = parts[i].body;
        mp_json *o = ref.n ? mp_json_parse(ref.p, ref.n, NULL) : NULL;
        const char *file_name = mp_json_string(mp_json_get(o, "filename")), *in = mp_json_string(mp_json_get(o, "subfolder")), *kind = mp_json_string(mp_json_get(o, "type"));
        int there = file_name && file_find(s, kind ? kind : "output", in ? in : "", file_name) != NULL, asked = o != NULL;
        mp_json_free(o);
        if (!asked) { reply(s, r->tag, 500, "text/plain; charset=utf-8", "500 Internal Server Error\n\nServer got itself in trouble", 55); return; }
        if (!there) {                                /* answered like a success, and nothing is written (protocol 2.9) */
            mp_buf b = { 0 };
            mp_buf_puts(&b, "{\"name\": ");
            mp_buf_json(&b, image->filename);
            mp_buf_puts(&b, ", \"subfolder\": ");
            mp_buf_json(&b, mp_str_of(sub));
            mp_buf_printf(&b, ", \"type\": \"%s\"}", type);
            reply(s, r->tag, 200, "application/json; charset=utf-8", b.p, b.n);
            mp_buf_free(&b);
            return;
        }
    }
    char *wanted = mp_strndup(image->filename.p, image->filename.n), *name = overwrite ? mp_strdup(wanted) : free_name(s, type, sub, wanted, image->body);
    file *f = file_add(s, type, sub, name);
    free(f->bytes);
    f->bytes = mp_strndup(image->body.p, image->body.n);
    f->n = image->body.n;
    mp_buf b = { 0 };
    mp_buf_puts(&b, "{\"name\": ");
    mp_buf_json(&b, mp_str_of(name));
    mp_buf_puts(&b, ", \"subfolder\": ");
    mp_buf_json(&b, mp_str_of(sub));
    mp_buf_printf(&b, ", \"type\": \"%s\"}", type);
    reply(s, r->tag, 200, "application/json; charset=utf-8", b.p, b.n);
    mp_buf_free(&b);
    free(wanted);
    free(name);
}
