/* graph/file.h -- floor 2, graph: a file that a workflow needs on the server that runs it: bytes in memory, or a path
 * that is read when it is sent. Shared by reference; what it is, its digest says.
 * Sees: base. Seen by: comfy, pool, wire, world, lua. */
#ifndef MP_FILE_H
#define MP_FILE_H
#include "base/digest.h"
#include "base/err.h"

typedef struct mp_file {
    uint32_t refs;
    char *name, *subfolder, *type;                   /* type: "input", "temp" or "output"; subfolder may be "" */
    char *path;                                      /* NULL: the bytes are here */
    char *bytes;
    size_t n;
    char *mask_of;                                   /* JSON object that names the picture this is the mask of, or NULL */
    int overwrite;
    int64_t changed;                                 /* of the file at `path`, when it was read */
    char key[MP_DIGEST_HEX];                         /* of content, place and kind: equal keys need one upload only */
} mp_file;

/* A file of these bytes (copied), or of what is at `path` now (read once for its digest). Names may not leave their
 * folder. NULL with words. */
mp_file *mp_file_new(const char *bytes, size_t n, const char *path, const char *name, const char *subfolder, const char *type, const char *mask_of, int overwrite, mp_err *e);
int mp_file_check(const mp_file *f, mp_err *e);      /* whether what is at its path is still what it was */
mp_file *mp_file_ref(mp_file *f);
void mp_file_unref(mp_file *f);                      /* NULL is fine */
#endif
