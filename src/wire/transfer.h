/* wire/transfer.h -- floor 6, wire: a reply's body streamed into a file: written beside its place in the thread pool,
 * renamed when it is whole, gone when it is not.
 * Sees: net, base. Seen by: lua. */
#ifndef MP_TRANSFER_H
#define MP_TRANSFER_H
#include "net/http.h"

/* Folders above `path` are made. `done` gets the reply (its body is empty for 2xx) and, when the file could not be
 * written, words; the file is there only when reply->code is 0, the status is 2xx and words is NULL. NULL: the options
 * are wrong, `done` is not called. At most 8 MiB wait in memory; then the server has to wait too. */
int mp_transfer_start(mp_loop *l, const mp_http_opts *o, const char *path, void (*done)(void *ud, const mp_http_reply *r, const char *words), void *ud, mp_err *e);
void mp_make_folders(char *path);                    /* all folders above a file; path is as before afterwards */
/* Where what will be at `path` is written until it is whole: in the same folder, under a name that no other transfer uses and that is
 * no longer than any other, "moonpool-DIGITS-N.part". The caller frees. */
char *mp_beside(const char *path);
#endif
