/* base/digest.c -- floor 0, base: SHA-256; the door to OpenSSL. */
#include "base/digest.h"
#include <openssl/sha.h>

void mp_sha256_hex(const void *p, size_t n, char out[MP_DIGEST_HEX]) {
    static const char hex[] = "0123456789abcdef";
    unsigned char d[SHA256_DIGEST_LENGTH];
    SHA256(p, n, d);
    for (int i = 0; i < SHA256_DIGEST_LENGTH; i++) {
        out[2 * i] = hex[d[i] >> 4];
        out[2 * i + 1] = hex[d[i] & 15];
    }
    out[64] = 0;
}
