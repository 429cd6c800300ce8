/* base/rng.h -- floor 0, base: seeded randomness. Nobody else makes any.
 * Sees: base. Seen by: all. */
#ifndef MP_RNG_H
#define MP_RNG_H
#include "base/base.h"

typedef struct mp_rng { uint64_t s[4]; } mp_rng;

void mp_rng_seed(mp_rng *r, uint64_t seed);        /* xoshiro256** by Blackman and Vigna, filled by splitmix64 */
uint64_t mp_rng_u64(mp_rng *r);
uint64_t mp_rng_below(mp_rng *r, uint64_t n);      /* 0 .. n-1, unbiased; n > 0 */
double mp_rng_unit(mp_rng *r);                     /* [0, 1) */
/* A lower-case UUIDv4 (RFC 9562) with its final zero: 37 bytes. */
#define MP_UUID_SIZE 37
void mp_uuid(mp_rng *r, char out[MP_UUID_SIZE]);
#endif
