/* graph/file.c -- floor 2, graph: a file that a workflow needs on the server that runs it. */
#include "graph/file.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static int leaves(const char *path) { return strstr(path, "..") != NULL || path[0] == '/' || path[0] == '\\' || strchr(path, ':') != NULL; }

static int64_t stamp(const struct stat *s) { return (int64_t)s->st_mtim.tv_sec * 1000000000 + s->st_mtim.tv_nsec; }

int mp_file_check(const mp_file *f, mp_err *e) {
    struct stat s;
    if (!f->path) return 0;
    if (stat(f->path, &s) != 0) return mp_fail(e, MP_EIO, "the attached file %s cannot be read: %s", f->path, strerror(errno));
    if ((size_t)s.st_size != f->n || stamp(&s) != f->changed) return mp_fail(e, MP_EIO, "the attached file %s has changed since it was attached", f->path);
    FILE *open_it = fopen(f->path, "rb");
    if (!open_it) return mp_fail(e, MP_EIO, "the attached file %s cannot be read: %s", f->path, strerror(errno));
    fclose(open_it);
    return 0;
}

mp_file *mp_file_new(const char *bytes, size_t n, const char *path, const char *name, const char *subfolder, const char *type, const char *mask_of, int overwrite, mp_err *e) {
    char sum[MP_DIGEST_HEX];
    if (!*name || strpbrk(name, "/\\\r\n\"") || leaves(name)) return mp_fail(e, MP_EINVAL, "\"%s\" is no name for a file on a server", name), NULL;
    if (leaves(subfolder) || strpbrk(subfolder, "\r\n")) return mp_fail(e, MP_EINVAL, "the subfolder \"%s\" leaves the server's folder", subfolder), NULL;
    if (strcmp(type, "input") && strcmp(type, "temp") && strcmp(type, "output")) return mp_fail(e, MP_EINVAL, "a file is put into input, temp or output, not \"%s\"", type), NULL;
    struct stat at = { 0 };
    if (path) stat(path, &at);
    if (path && mp_sha256_file(path, &n, sum)) return mp_fail(e, MP_EIO, "%s: %s", path, strerror(errno)), NULL;
    if (!path) mp_sha256_hex(bytes, n, sum);
    mp_file *f = mp_alloc(sizeof *f);
    f->refs = 1;
    f->name = mp_strdup(name);
    f->subfolder = mp_strdup(subfolder);
    f->type = mp_strdup(type);
    f->mask_of = mp_strdup(mask_of);
    f->path = mp_strdup(path);
    f->bytes = path ? NULL : mp_strndup(bytes, n);
    f->n = n;
    f->changed = stamp(&at);
    f->overwrite = overwrite;
    char *all = mp_format("%s\n%s\n%s\n%s\n%s", sum, name, subfolder, type, mask_of ? mask_of : "");
    mp_sha256_hex(all, strlen(all), f->key);
    free(all);
    return f;
}

mp_file *mp_file_ref(mp_file *f) { f->refs++; return f; }

void mp_file_unref(mp_file *f) {
    if (!f || --f->refs) return;
    free(f->name);
    free(f->subfolder);
    free(f->type);
    free(f->mask_of);
    free(f->path);
    free(f->bytes);
    free(f);
}
