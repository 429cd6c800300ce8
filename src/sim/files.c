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

char *url_decode(mp_str raw, int plus) {
    char *z = mp_alloc(raw.n + 1), *o = z;
    for (size_t i = 0; i < raw.n; i++) {
        if (raw.p[i] == '%' && i + 2 < raw.n && hex(raw.p[i + 1]) >= 0 && hex(raw.p[i + 2]) >= 0) {
            *o++ = (char)(hex(raw.p[i + 1]) << 4 | hex(raw.p[i + 2]));
            i += 2;
        } else *o++ = plus && raw.p[i] == '+' ? ' ' : raw.p[i];
    }
    return z;
}

char *query_arg(mp_str path, const char *name) {
    const char *q = path.n ? memchr(path.p, '?', path.n) : NULL, *end = path.p + path.n;
    size_t n = strlen(name);
    while (q && ++q < end) {
        const char *amp = memchr(q, '&', (size_t)(end - q));
        size_t len = (size_t)((amp ? amp : end) - q);
        if (len > n && q[n] == '=' && memcmp(q, name, n) == 0) return url_decode(mp_str_make(q + n + 1, len - n - 1), 1);
        q = amp;
    }
    return NULL;
}

/* ---- GET /view --------------------------------------------------------------------------------------- */

static const char *const days[] = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" };
static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";

static int before(const date *a, const date *b) {
    const int x[] = { a->year, a->month, a->day, a->hour, a->minute, a->second }, y[] = { b->year, b->month, b->day, b->hour, b->minute, b->second };
    for (int i = 0; i < 6; i++)
        if (x[i] != y[i]) return x[i] < y[i];
    return 0;
}

/* "Fri, 01 Jan 2100 00:00:00 GMT" (RFC 9110, the one form that is written today) */
static int http_date(mp_str text, date *t) {
    char copy[40], name[4];
    if (text.n >= sizeof copy) return 0;
    snprintf(copy, sizeof copy, "%.*s", (int)text.n, text.n ? text.p : "");
    if (sscanf(copy, "%*3c, %2d %3s %4d %2d:%2d:%2d GMT", &t->day, name, &t->year, &t->hour, &t->minute, &t->second) != 6) return 0;
    const char *at = strstr(months, name);
    t->month = at ? (int)(at - months) / 3 + 1 : 0;
    return at && strlen(name) == 3 && (at - months) % 3 == 0;
}

/* "bytes=0-15", "bytes=16-", "bytes=-16". 0: none of these, or outside of the file. */
static int range_of(mp_str text, size_t n, size_t *from, size_t *to) {
    char copy[60], *end;
    if (text.n <= 6 || text.n >= sizeof copy || memcmp(text.p, "bytes=", 6) != 0) return 0;
    snprintf(copy, sizeof copy, "%.*s", (int)text.n - 6, text.p + 6);
    char *dash = strchr(copy, '-');
    if (!dash || strspn(copy, "0123456789-") != strlen(copy) || strchr(dash + 1, '-')) return 0;
    if (dash == copy) {
        size_t last = strtoull(dash + 1, &end, 10);
        *from = last < n ? n - last : 0;
        *to = n;
        return last && !*end && n;
    }
    *from = strtoull(copy, &end, 10);
    if (end != dash) return 0;
    *to = dash[1] ? strtoull(dash + 1, &end, 10) : n - 1;
    if (dash[1] && *end) return 0;
    *to = *to < n ? *to + 1 : n;
    return *from < *to;
}

/* A file as it is: whole, in part, or not at all when it has not changed. */
static void send_file(mp_sim *s, const mp_sim_request *r, const file *f, const char *shown, const char *type, mp_str bytes) {
    long made = (long)(wall_ms(s, f->made) / 1000);
    date t = date_of(made), since;
    mp_buf h = { 0 };
    size_t from = 0, to = bytes.n;
    int status = 200;
    if (http_date(r->since, &since) && !before(&since, &t)) status = 304;
    else if (r->range.n) status = range_of(r->range, bytes.n, &from, &to) ? 206 : 416;
    if (status == 416) {
        mp_buf_printf(&h, "Content-Range: bytes */%zu\r\n", bytes.n);
        reply_with(s, r->tag, 416, "application/octet-stream", mp_buf_take(&h, NULL), "", 0);
        return;
    }
    if (shown) mp_buf_printf(&h, "Content-Disposition: filename=\"%s\"\r\n", shown);
    if (status == 206) mp_buf_printf(&h, "Content-Range: bytes %zu-%zu/%zu\r\n", from, to - 1, bytes.n);
    if (status != 304) mp_buf_puts(&h, "Accept-Ranges: bytes\r\n");
    mp_buf_printf(&h, "ETag: \"%llx-%zx\"\r\nLast-Modified: %s, %02d %.3s %d %02d:%02d:%02d GMT\r\n", (unsigned long long)(f->made + s->o.epoch) * 1000, bytes.n, days[t.weekday], t.day,
                  months + 3 * (t.month - 1), t.year, t.hour, t.minute, t.second);
    /* Older servers came with an older HTTP library, which leaves the type out of a 304. */
    reply_with(s, r->tag, status, status == 304 && !s->v->jobs ? NULL : type, mp_buf_take(&h, NULL), status == 304 ? "" : bytes.p + from, status == 304 ? 0 : to - from);
}

/* preview=webp;90, preview=jpeg;60, channel=rgb, channel=a: made of the picture for this reply. */
static void send_made(mp_sim *s, const mp_sim_request *r, const pixels *x, const char *shown, const char *preview, const char *channel) {
    mp_buf b = { 0 };
    char *headers = shown ? mp_format("Content-Disposition: filename=\"%s\"\r\n", shown) : NULL;
    const char *type = "image/png";
    int jpeg = preview && strncmp(preview, "jpeg", 4) == 0 && (!preview[4] || preview[4] == ';') && !(channel && strchr(channel, 'a'));
    if (preview && jpeg) { type = "image/jpeg"; jpeg_write(&b, x); }
    else if (preview) { type = "image/webp"; webp_write(&b, x); }
    else {
        int alpha = strcmp(channel, "a") == 0;
        for (size_t i = 0; alpha && i < (size_t)x->w * (size_t)x->h; i++) memset(x->rgba + 4 * i, 0, 3);
        png_write(&b, x, alpha, NULL, NULL);
    }
    reply_with(s, r->tag, 200, type, headers, b.p, b.n);
    mp_buf_free(&b);
}

static void show(mp_sim *s, const mp_sim_request *r, const file *f, const char *shown) {
    char *preview = query_arg(r->path, "preview"), *channel = query_arg(r->path, "channel");
    int made = preview || (channel && (strcmp(channel, "rgb") == 0 || strcmp(channel, "a") == 0));
    pixels x;
    mp_buf b = { 0 };
    if (f->bytes) mp_buf_add(&b, f->bytes, f->n);
    else if (!made) png_make(&b, f->width, f->height, f->look, f->prompt, f->pnginfo);
    else draw(&x, f->width, f->height, f->look);
    if (!made) send_file(s, r, f, shown, b.n > 3 && memcmp(b.p, "\x89PNG", 4) == 0 ? "image/png" : "application/octet-stream", mp_buf_view(&b));
    else if (f->bytes && !png_read(mp_buf_view(&b), &x)) trouble(s, r->tag);
    else {
        send_made(s, r, &x, shown, preview, channel);
        free(x.rgba);
    }
    mp_buf_free(&b);
    free(preview);
    free(channel);
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
    char *shown = f ? mp_strdup(last ? last + 1 : name) : NULL, *mark = shown ? strstr(shown, " [") : NULL;
    if (mark) *mark = 0;
    if (f) show(s, r, f, strpbrk(shown, "\"\r\n") ? NULL : shown);
    else reply(s, r->tag, status, "application/octet-stream", "", 0);
    free(shown);
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

/* The original with the alpha of what was sent. 0: one of them is no picture that can be read. */
static int merge(const file *original, mp_str mask, mp_buf *out) {
    pixels x, m;
    if (original->bytes) { if (!png_read(mp_str_make(original->bytes, original->n), &x)) return 0; }
    else draw(&x, original->width, original->height, original->look);
    int good = png_read(mask, &m), same = good && x.w == m.w && x.h == m.h;
    for (size_t i = 0; same && i < (size_t)x.w * (size_t)x.h; i++) x.rgba[4 * i + 3] = m.rgba[4 * i + 3];
    if (same) png_write(out, &x, 1, original->prompt, original->pnginfo);
    if (good) free(m.rgba);
    free(x.rgba);
    return same;
}

void upload(mp_sim *s, const mp_sim_request *r, int mask, mp_time now) {
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
        trouble(s, r->tag);
        return;
    }
    mp_buf merged = { 0 };
    mp_str bytes = image->body;
    if (mask) {
        mp_str ref = { 0 };
        for (size_t i = 0; i < n; i++)
            if (mp_str_is(parts[i].name, "original_ref")) ref = parts[i].body;
        mp_json *o = ref.n ? mp_json_parse(ref.p, ref.n, NULL) : NULL;
        const char *file_name = mp_json_string(mp_json_get(o, "filename")), *in = mp_json_string(mp_json_get(o, "subfolder")), *kind = mp_json_string(mp_json_get(o, "type"));
        const file *original = file_name ? file_find(s, kind ? kind : "output", in ? in : "", file_name) : NULL;
        int there = original != NULL, asked = o != NULL, good = !there || merge(original, image->body, &merged);
        bytes = mp_buf_view(&merged);
        mp_json_free(o);
        if (!asked || !good) { trouble(s, r->tag); return; }
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
    char *wanted = mp_strndup(image->filename.p, image->filename.n), *name = overwrite ? mp_strdup(wanted) : free_name(s, type, sub, wanted, bytes);
    file *f = file_add(s, type, sub, name);
    free(f->bytes);
    f->bytes = mp_strndup(bytes.p, bytes.n);
    f->n = bytes.n;
    f->made = now;
    mp_buf_free(&merged);
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
