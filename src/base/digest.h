/* base/digest.h -- floor 0, base: SHA-256; the door to OpenSSL.
 * Sees: base, OpenSSL. Seen by: all. */
#ifndef MP_DIGEST_H
#define MP_DIGEST_H
#include "base/base.h"

#define MP_DIGEST_HEX 65
void mp_sha256_hex(const void *p, size_t n, char out[MP_DIGEST_HEX]);   /* lower case, terminated */
/* Of a file, read to its end; *n gets its size. -1 with errno set when it cannot be read. */
int mp_sha256_file(const char *path, size_t *n, char out[MP_DIGEST_HEX]);
#endif
