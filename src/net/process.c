/* net/process.c -- floor 1, net: the few things that are process-wide whatever we do, all in one place.
 *   - curl and OpenSSL are started once.
 *   - Creating a libwebsockets context sets SIGPIPE to ignore. A handler of the host's is put back; the default
 *     action (death) is not, because OpenSSL writes to sockets without MSG_NOSIGNAL.
 *   - The log hook of libwebsockets: kept silent but for errors, the newest of which explains a refused handshake.
 *   - Contexts are created and destroyed under a lock, as that touches global state of the libraries. */
#include "net/inside.h"
#include <pthread.h>
#include <signal.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction before;
static __thread char newest[200];

static void on_log(int level, const char *line) {
    (void)level;
    snprintf(newest, sizeof newest, "%.*s", (int)strcspn(line, "\n"), line);
}

const char *process_newest_error(void) { return newest; }

void process_enter(void) {
    static int started;
    pthread_mutex_lock(&lock);
    if (!started) {
        curl_global_init(CURL_GLOBAL_ALL);
        lws_set_log_level(LLL_ERR, on_log);
        started = 1;
    }
    sigaction(SIGPIPE, NULL, &before);
}

void process_leave(void) {
    if (before.sa_handler != SIG_DFL) sigaction(SIGPIPE, &before, NULL);
    pthread_mutex_unlock(&lock);
}
