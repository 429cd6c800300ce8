/* graph/bypass.h -- floor 2, graph: a prompt without some of its nodes, as if they were bypassed in the editor: what took
 * their outputs takes what they were fed instead (protocol 6.6).
 * Sees: base. Seen by: workflow.c. */
#ifndef MP_BYPASS_H
#define MP_BYPASS_H
#include "base/json.h"

/* info: the class's definition as GET /object_info gives it (JSON text), for the types; NULL: unknown, then output k
 * stands for the k-th linked input. */
typedef struct mp_bypass { char *id, *info; } mp_bypass;

/* Writes the prompt `root` without these nodes. An input that nothing is left for is left out. */
void mp_bypass_write(mp_buf *out, const mp_json *root, const mp_bypass *list, size_t n);
#endif
