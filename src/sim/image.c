/* sim/image.c -- floor 5, sim: real pictures: a PNG of the right size that differs from seed to seed, with the text
 * chunks that ComfyUI writes, and a JPEG for previews. Format: PNG specification (W3C), chunks and filters. */
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

void png_make(mp_buf *b, int w, int h, uint64_t look, const char *prompt, const char *pnginfo) {
    mp_buf head = { 0 };
    size_t row = 1 + (size_t)w * 3;
    unsigned char *raw = mp_alloc(row * (size_t)h), base[3] = { (unsigned char)look, (unsigned char)(look >> 8), (unsigned char)(look >> 16) };
    for (int y = 0; y < h; y++) {                    /* two slow gradients over a colour of the seed's own */
        unsigned char *p = raw + row * (size_t)y + 1;
        for (int x = 0; x < w; x++, p += 3) {
            p[0] = (unsigned char)(base[0] + x * 128 / w);
            p[1] = (unsigned char)(base[1] + y * 128 / h);
            p[2] = (unsigned char)(base[2] + ((x >> 5) + (y >> 5)) % 2 * 24);
        }
    }
    uLongf n = compressBound((uLong)(row * (size_t)h));
    unsigned char *packed = mp_alloc(n);
    compress2(packed, &n, raw, (uLong)(row * (size_t)h), 1);
    mp_buf_add(b, "\x89PNG\r\n\x1a\n", 8);
    mp_buf_u32be(&head, (uint32_t)w);
    mp_buf_u32be(&head, (uint32_t)h);
    mp_buf_add(&head, "\x08\x02\0\0\0", 5);          /* 8 bits, RGB */
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
    chunk(b, "IDAT", packed, n);
    chunk(b, "IEND", "", 0);
    mp_buf_free(&head);
    free(raw);
    free(packed);
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
