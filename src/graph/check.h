/* graph/check.h -- floor 2, graph: what is wrong with a document that should be a workflow, and where.
 * Sees: base. Seen by: graph and above. */
#ifndef MP_CHECK_H
#define MP_CHECK_H
#include "base/json.h"

/* 0, or a negative code and one sentence with the path of the first wrong thing. */
int mp_graph_check(const mp_json *root, mp_err *e);
#endif
