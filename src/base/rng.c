/* base/rng.c -- floor 0, base: seeded randomness. */
#include "base/rng.h"

static uint64_t splitmix(uint64_t *x) {
    uint64_t z = (*x += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void mp_rng_seed(mp_rng *r, uint64_t seed) {
    for (int i = 0; i < 4; i++) r->s[i] = splitmix(&seed);
}

static uint64_t rotl(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

uint64_t mp_rng_u64(mp_rng *r) {
    uint64_t *s = r->s, out = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0]; s[3] ^= s[1]; s[1] ^= s[2]; s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return out;
}

uint64_t mp_rng_below(mp_rng *r, uint64_t n) {
    uint64_t limit = UINT64_MAX - UINT64_MAX % n, x;
    do x = mp_rng_u64(r); while (x >= limit);
    return x % n;
}

double mp_rng_unit(mp_rng *r) { return (double)(mp_rng_u64(r) >> 11) * 0x1p-53; }

void mp_uuid(mp_rng *r, char out[MP_UUID_SIZE]) {
    uint64_t a = mp_rng_u64(r), b = mp_rng_u64(r);
    a = (a & ~0xf000ull) | 0x4000ull;
    b = (b & ~(3ull << 62)) | (2ull << 62);
    static const char digits[] = "0123456789abcdef";
    for (int k = 0, i = 0; k < 16; k++) {            /* 8-4-4-4-12 digits */
        unsigned byte = (unsigned)(k < 8 ? a >> (56 - 8 * k) : b >> (120 - 8 * k)) & 255;
        if (k == 4 || k == 6 || k == 8 || k == 10) out[i++] = '-';
        out[i++] = digits[byte >> 4];
        out[i++] = digits[byte & 15];
    }
    out[MP_UUID_SIZE - 1] = 0;
}
