/* moonpool.h -- Moonpool for C programs.
 *
 * A host with Lua 5.4 of its own calls luaopen_moonpool and, per frame, moonpool_step. A host without Lua opens a
 * state with moonpool_open and gives it scripts. One thread per state; several states in one process are
 * independent. Nothing exits, no signal handler is set (but SIGPIPE is ignored, if nobody handles it) and nothing is
 * printed, except by scripts. Callbacks run inside moonpool_step and moonpool_run, and may not call them. What Lua owns
 * goes through the host's allocator; jobs, sockets and buffers of the runtime are malloc's. */
#ifndef MOONPOOL_H
#define MOONPOOL_H
#include <stddef.h>

#if defined(__GNUC__)
#define MOONPOOL_API __attribute__((visibility("default")))
#else
#define MOONPOOL_API
#endif
#ifdef __cplusplus
extern "C" {
#endif

struct lua_State;
typedef struct moonpool moonpool;

/* Levels of log lines: 0 debug, 1 info, 2 warning, 3 error. */
typedef void (*moonpool_log)(void *ud, int level, const char *line);
/* Every event that scripts see by pool:on, of every pool: its name ("job:completed", ...) and its payload as JSON. */
typedef void (*moonpool_event)(void *ud, const char *name, const char *json);

/* A preview of a running job, valid during the call: bytes as the server sent them. width and height are 0 when the bytes do
 * not tell. */
typedef struct moonpool_image {
    const char *job_id, *node;                       /* node: may be NULL (servers before 0.3.40) */
    const char *format;                              /* "jpeg", "png" or "webp" */
    const void *bytes;
    size_t size;
    int width, height;
} moonpool_image;
typedef void (*moonpool_preview)(void *ud, const moonpool_image *image);

#define MOONPOOL_VERSION "0.1"
/* Of the library that is there, where MOONPOOL_VERSION is that of the header it was compiled with: they should be equal. */
MOONPOOL_API const char *moonpool_version(void);

#define MOONPOOL_OK 0
#define MOONPOOL_EBUSY (-3)                          /* called from inside a callback of the same state */
#define MOONPOOL_ERROR (-8)                          /* a script raised; words went to the log */

/* A state with the standard libraries and the module loaded. log: gets lines of the pools and Lua's warnings; NULL: they are
 * dropped. NULL: out of memory or no event loop. */
MOONPOOL_API moonpool *moonpool_open(moonpool_log log, void *ud);
/* The state that module `moonpool` made in this Lua state. NULL when it was not loaded there. Valid as long as L. */
MOONPOOL_API moonpool *moonpool_of(struct lua_State *L);
/* Runs Lua source text (not compiled chunks). `name` stands in error messages. */
MOONPOOL_API int moonpool_run(moonpool *m, const char *source, const char *name);
/* Before the pools are made whose events are wanted; fn NULL: no more. */
MOONPOOL_API void moonpool_on_event(moonpool *m, moonpool_event fn, void *ud);
/* Before the pools are made whose previews are wanted. The newest 32 wait for a host that steps too rarely. */
MOONPOOL_API void moonpool_on_preview(moonpool *m, moonpool_preview fn, void *ud);
/* For a host with Lua of its own (its lines go to stderr until it asks for them); NULL: they are dropped. */
MOONPOOL_API void moonpool_on_log(moonpool *m, moonpool_log log, void *ud);
/* Does what is due. wait_ms (0: none) bounds the waiting, not the work. MOONPOOL_EBUSY inside a step. */
MOONPOOL_API int moonpool_step(moonpool *m, int wait_ms);
MOONPOOL_API int moonpool_fd(const moonpool *m);     /* readable: step. For a host's own poll loop */
MOONPOOL_API int moonpool_next_timeout_ms(const moonpool *m);    /* step at the latest after this; -1: no need */
/* Jobs of all pools that have not ended. */
MOONPOOL_API size_t moonpool_unfinished(const moonpool *m);
/* Only for states made by moonpool_open. Cancels what is under way without waiting for servers. NULL is fine. */
MOONPOOL_API void moonpool_close(moonpool *m);

MOONPOOL_API int luaopen_moonpool(struct lua_State *L);
#ifdef __cplusplus
}
#endif
#endif
