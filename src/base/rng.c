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

/* The sixteen digits of x, the highest first: each half is spread to a byte per digit, and all bytes become letters at once. */
static void hex16(uint64_t x, char out[16]) {
    for (int half = 0; half < 2; half++) {
        uint64_t v = half ? x & 0xffffffff : x >> 32;
        v = (v | v << 16) & 0x0000ffff0000ffff;
        v = (v | v << 8) & 0x00ff00ff00ff00ff;
        v = (v | v << 4) & 0x0f0f0f0f0f0f0f0f;
        uint64_t letters = (v + 0x0606060606060606) >> 4 & 0x0101010101010101;        /* 1 in each byte that is over 9 */
        v += 0x3030303030303030 + letters * ('a' - '0' - 10);
        for (int i = 0; i < 8; i++) out[half * 8 + i] = (char)(v >> (56 - 8 * i));
    }
}

void mp_uuid(mp_rng *r, char out[MP_UUID_SIZE]) {
    uint64_t a = mp_rng_u64(r), b = mp_rng_u64(r);
    a = (a & ~0xf000ull) | 0x4000ull;
    b = (b & ~(3ull << 62)) | (2ull << 62);
    char digits[32];
    hex16(a, digits);
    hex16(b, digits + 16);
    memcpy(out, digits, 8);                          /* 8-4-4-4-12 digits */
    memcpy(out + 9, digits + 8, 4);
    memcpy(out + 14, digits + 12, 4);
    memcpy(out + 19, digits + 16, 4);
    memcpy(out + 24, digits + 20, 12);
    out[8] = out[13] = out[18] = out[23] = '-';
    out[MP_UUID_SIZE - 1] = 0;
}
