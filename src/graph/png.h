/* graph/png.h -- floor 2, graph: text chunks of a PNG file.
 * Sees: base. Seen by: graph and above. */
#ifndef MP_PNG_H
#define MP_PNG_H
#include "base/base.h"

int mp_png_is(const char *bytes, size_t n);          /* starts with the signature */
/* The text of the first tEXt (or uncompressed iTXt) chunk named `keyword`; 0 when there is none. */
int mp_png_text(const char *bytes, size_t n, const char *keyword, mp_str *text);
#endif
