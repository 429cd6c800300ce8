/* base/digest.c -- floor 0, base: SHA-256; the door to OpenSSL. */
#include "base/digest.h"
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdio.h>

static void hex_of(const unsigned char d[SHA256_DIGEST_LENGTH], char out[MP_DIGEST_HEX]) {
    static const char hex[] = "0123456789abcdef";
    for (int i = 0; i < SHA256_DIGEST_LENGTH; i++) {
        out[2 * i] = hex[d[i] >> 4];
        out[2 * i + 1] = hex[d[i] & 15];
    }
    out[64] = 0;
}

void mp_sha256_hex(const void *p, size_t n, char out[MP_DIGEST_HEX]) {
    unsigned char d[SHA256_DIGEST_LENGTH];
    SHA256(p, n, d);
    hex_of(d, out);
}

int mp_sha256_file(const char *path, size_t *n, char out[MP_DIGEST_HEX]) {
    unsigned char d[SHA256_DIGEST_LENGTH], block[65536];
    FILE *f = fopen(path, "rb");
    if (!f) return -1;
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    EVP_DigestInit_ex(c, EVP_sha256(), NULL);
    *n = 0;
    for (size_t got; (got = fread(block, 1, sizeof block, f)) > 0; *n += got) EVP_DigestUpdate(c, block, got);
    int bad = ferror(f) ? errno : 0;                 /* a folder opens, and fails only here */
    EVP_DigestFinal_ex(c, d, NULL);
    EVP_MD_CTX_free(c);
    fclose(f);
    hex_of(d, out);
    errno = bad;
    return bad ? -1 : 0;
}
