/* graph/hash.h -- floor 2, graph: the structural hash of a workflow.
 * The rule is the one of the library we keep hashes compatible with: SHA-256 of a canonical JSON in which
 * literals are reduced to their kind, model file names are kept, and names stand in JavaScript's order.
 * Sees: base. Seen by: graph and above. */
#ifndef MP_HASH_H
#define MP_HASH_H
#include "base/digest.h"
#include "base/json.h"

/* Of any JSON object, also one that is no valid workflow. */
void mp_graph_hash(const mp_json *root, char out[MP_DIGEST_HEX]);
/* What one input's value contributes to the hash, appended to b. */
void mp_graph_canonical(mp_buf *b, const mp_json *value);
int mp_graph_is_model(mp_str file);                  /* ends in one of the kept suffixes, ignoring case */
#endif
