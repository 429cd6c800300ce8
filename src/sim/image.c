/* sim/image.c -- floor 5, sim: real pictures: a PNG of the right size that differs from seed to seed, with the text
 * chunks that ComfyUI writes; PNG read back; one-coloured JPEG and WebP for previews. Formats: PNG specification (W3C),
 * WebP Lossless Bitstream Specification, ITU T.81. */
#include "sim/inside.h"
#include <stdlib.h>
#include <zlib.h>

static void chunk(mp_buf *b, const char *type, const void *p, size_t n) {
    mp_buf_u32be(b, (uint32_t)n);
    size_t from = b->n;
    mp_buf_add(b, type, 4);
    mp_buf_add(b, p, n);
    mp_buf_u32be(b, (uint32_t)crc32(0, (const unsigned char *)b->p + from, (uInt)(b->n - from)));
}

static void text_chunk(mp_buf *b, const char *keyword, const char *text, size_t n) {
    mp_buf t = { 0 };
    mp_buf_add(&t, keyword, strlen(keyword) + 1);
    mp_buf_add(&t, text, n);
    chunk(b, "tEXt", t.p, t.n);
    mp_buf_free(&t);
}

static mp_str packed_rows(const pixels *x, int alpha) {
    size_t bytes = alpha ? 4 : 3, row = 1 + (size_t)x->w * bytes;
    unsigned char *raw = mp_alloc(row * (size_t)x->h);
    for (size_t y = 0; y < (size_t)x->h; y++)
        for (size_t k = 0; k < (size_t)x->w; k++) memcpy(raw + row * y + 1 + k * bytes, x->rgba + 4 * ((size_t)x->w * y + k), bytes);
    uLongf n = compressBound((uLong)(row * (size_t)x->h));
    unsigned char *packed = mp_alloc(n);
    compress2(packed, &n, raw, (uLong)(row * (size_t)x->h), 1);
    free(raw);
    return mp_str_make((char *)packed, n);
}

void png_write(mp_buf *b, const pixels *x, int alpha, const char *prompt, const char *pnginfo) {
    mp_buf head = { 0 };
    mp_str packed = packed_rows(x, alpha);
    mp_buf_add(b, "\x89PNG\r\n\x1a\n", 8);
    mp_buf_u32be(&head, (uint32_t)x->w);
    mp_buf_u32be(&head, (uint32_t)x->h);
    mp_buf_add(&head, alpha ? "\x08\x06\0\0\0" : "\x08\x02\0\0\0", 5);        /* 8 bits, RGBA or RGB */
    chunk(b, "IHDR", head.p, head.n);
    if (prompt) text_chunk(b, "prompt", prompt, strlen(prompt));
    mp_json *info = pnginfo ? mp_json_parse(pnginfo, strlen(pnginfo), NULL) : NULL;
    for (const mp_json *c = mp_json_first(info); c; c = mp_json_next(c)) {
        mp_buf t = { 0 };
        mp_json_write(&t, c);
        text_chunk(b, mp_json_name(c), t.p, t.n);
        mp_buf_free(&t);
    }
    mp_json_free(info);
    chunk(b, "IDAT", packed.p, packed.n);
    chunk(b, "IEND", "", 0);
    mp_buf_free(&head);
    free((char *)packed.p);
}

static void new_pixels(pixels *x, int w, int h) { *x = (pixels){ w, h, mp_alloc((size_t)w * (size_t)h * 4) }; }

/* Two slow gradients over a colour of the seed's own. */
void draw(pixels *out, int w, int h, uint64_t look) {
    unsigned char base[3] = { (unsigned char)look, (unsigned char)(look >> 8), (unsigned char)(look >> 16) };
    new_pixels(out, w, h);
    unsigned char *p = out->rgba;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++, p += 4) {
            p[0] = (unsigned char)(base[0] + x * 128 / w);
            p[1] = (unsigned char)(base[1] + y * 128 / h);
            p[2] = (unsigned char)(base[2] + ((x >> 5) + (y >> 5)) % 2 * 24);
            p[3] = 255;
        }
}

void png_make(mp_buf *b, int w, int h, uint64_t look, const char *prompt, const char *pnginfo) {
    pixels x;
    draw(&x, w, h, look);
    png_write(b, &x, 0, prompt, pnginfo);
    free(x.rgba);
}

/* ---- reading --------------------------------------------------------------------------------------------- */

#define PIXEL_BYTES (128u << 20)                     /* of a picture that is read */

static int paeth(int a, int b, int c) {
    int p = a + b - c, pa = abs(p - a), pb = abs(p - b), pc = abs(p - c);
    return pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
}

static int unfilter(unsigned char *row, const unsigned char *above, size_t n, size_t bytes, int how) {
    if (how > 4) return 0;
    for (size_t i = 0; i < n; i++) {
        int a = i >= bytes ? row[i - bytes] : 0, b = above ? above[i] : 0, c = above && i >= bytes ? above[i - bytes] : 0;
        row[i] = (unsigned char)(row[i] + (how == 1 ? a : how == 2 ? b : how == 3 ? (a + b) / 2 : how == 4 ? paeth(a, b, c) : 0));
    }
    return 1;
}

/* PNG of 8 bits a channel, not interlaced, grey or colour, with or without alpha. 0: something else, or broken. */
int png_read(mp_str f, pixels *out) {
    static const int channels[] = { 1, 0, 3, 0, 2, 0, 4 };
    mp_buf packed = { 0 };
    if (f.n < 33 || memcmp(f.p, "\x89PNG\r\n\x1a\n", 8) != 0 || memcmp(f.p + 12, "IHDR", 4) != 0) return 0;
    uint32_t w = mp_be32(f.p + 16), h = mp_be32(f.p + 20);
    int kind = f.p[25], bytes = kind >= 0 && kind < 7 ? channels[kind] : 0;
    if (!w || !h || w > 16384 || h > 16384 || f.p[24] != 8 || !bytes || f.p[28]) return 0;
    for (size_t at = 8, n; at + 12 <= f.n; at += n + 12) {
        n = mp_be32(f.p + at);
        if (n > f.n - at - 12) break;
        if (memcmp(f.p + at + 4, "IDAT", 4) == 0) mp_buf_add(&packed, f.p + at + 8, n);
    }
    size_t row = (size_t)w * (size_t)bytes;
    uLongf got = (uLongf)((row + 1) * h);
    if (got > PIXEL_BYTES || got / 1032 > packed.n) {   /* nothing packs better (zlib), so it is no picture of that size */
        mp_buf_free(&packed);
        return 0;
    }
    unsigned char *raw = mp_alloc(got);
    int good = packed.n && uncompress(raw, &got, (const unsigned char *)packed.p, (uLong)packed.n) == Z_OK && got == (row + 1) * h;
    for (uint32_t y = 0; good && y < h; y++) good = unfilter(raw + y * (row + 1) + 1, y ? raw + (y - 1) * (row + 1) + 1 : NULL, row, (size_t)bytes, raw[y * (row + 1)]);
    if (good) {
        new_pixels(out, (int)w, (int)h);
        for (size_t i = 0; i < (size_t)w * h; i++) {
            const unsigned char *p = raw + i / w * (row + 1) + 1 + i % w * (size_t)bytes;
            unsigned char *o = out->rgba + 4 * i;
            for (int k = 0; k < 3; k++) o[k] = bytes < 3 ? p[0] : p[k];
            o[3] = bytes == 2 || bytes == 4 ? p[bytes - 1] : 255;
        }
    }
    mp_buf_free(&packed);
    free(raw);
    return good;
}

/* ---- previews of the right size and one colour ------------------------------------------------------------- */

typedef struct { mp_buf *b; uint32_t bits; int n; } bit_writer;

static void bits(bit_writer *o, uint32_t v, int n) {
    for (int i = 0; i < n; i++) {
        o->bits |= (v >> i & 1) << o->n;
        if (++o->n == 8) { mp_buf_putc(o->b, (char)o->bits); o->bits = 0; o->n = 0; }
    }
}

static void le32(mp_buf *b, uint32_t v) {
    char x[4] = { (char)v, (char)(v >> 8), (char)(v >> 16), (char)(v >> 24) };
    mp_buf_add(b, x, 4);
}

/* WebP without loss (VP8L bitstream specification): five codes of one symbol each, so no pixel takes a bit. */
void webp_write(mp_buf *b, const pixels *x) {
    mp_buf data = { 0 };
    bit_writer o = { &data, 0, 0 };
    const unsigned char *c = x->rgba + 4 * ((size_t)x->w * (size_t)(x->h / 2) + (size_t)x->w / 2), order[] = { c[1], c[0], c[2], 255 };
    mp_buf_putc(&data, 0x2f);
    bits(&o, (uint32_t)x->w - 1, 14);
    bits(&o, (uint32_t)x->h - 1, 14);
    bits(&o, 0, 1 + 3);                              /* no alpha; version 0 */
    bits(&o, 0, 3);                                  /* no transform, no colour cache, no groups of codes */
    for (int i = 0; i < 4; i++) {                    /* green, red, blue, alpha: a simple code, one symbol, of 8 bits */
        bits(&o, 1 | 0 << 1 | 1 << 2, 3);
        bits(&o, order[i], 8);
    }
    bits(&o, 1, 4);                                  /* distances: a simple code, one symbol, of 1 bit, 0 */
    while (o.n) bits(&o, 0, 1);
    mp_buf_add(b, "RIFF", 4);
    le32(b, (uint32_t)(12 + data.n + data.n % 2));
    mp_buf_add(b, "WEBPVP8L", 8);
    le32(b, (uint32_t)data.n);
    mp_buf_add(b, data.p, data.n);
    if (data.n % 2) mp_buf_putc(b, 0);
    mp_buf_free(&data);
}

/* A grey square of 64 by 64: one quantisation table of ones, Huffman tables with one code each, all blocks flat. */
#define ONES8 1, 1, 1, 1, 1, 1, 1, 1
#define ZERO15 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
const unsigned char sim_jpeg[] = {
    0xff, 0xd8, 0xff, 0xdb, 0, 67, 0, ONES8, ONES8, ONES8, ONES8, ONES8, ONES8, ONES8, ONES8,
    0xff, 0xc0, 0, 11, 8, 0, 64, 0, 64, 1, 1, 0x11, 0, 0xff, 0xc4, 0, 20, 0x00, 1, ZERO15, 0, 0xff, 0xc4, 0, 20, 0x10, 1, ZERO15, 0,
    0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xd9
};
const size_t sim_jpeg_size = sizeof sim_jpeg;

/* The same for any size: two bits a block, all zero, the last byte filled up with ones. */
void jpeg_write(mp_buf *b, const pixels *x) {
    size_t head = sizeof sim_jpeg - 2 - 16, blocks = (size_t)((x->w + 7) / 8) * (size_t)((x->h + 7) / 8), from = b->n;
    mp_buf_add(b, sim_jpeg, head);
    for (size_t at = 0; at + 9 < head; at++)
        if (sim_jpeg[at] == 0xff && sim_jpeg[at + 1] == 0xc0) {
            unsigned char *to = (unsigned char *)b->p + from + at + 5;
            to[0] = (unsigned char)(x->h >> 8), to[1] = (unsigned char)x->h, to[2] = (unsigned char)(x->w >> 8), to[3] = (unsigned char)x->w;
        }
    for (size_t i = 0; i < blocks / 4; i++) mp_buf_putc(b, 0);
    if (blocks % 4) mp_buf_putc(b, (char)(0xff >> 2 * (blocks % 4)));
    mp_buf_add(b, "\xff\xd9", 2);
}
