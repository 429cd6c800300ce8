/* tests/world/campaign.c -- the fault campaign: seeds first..first+count-1, each run once; every tenth twice, to
 * compare its log and to see that memory is given back. A seed that breaks, however it does, is shrunk, and prints the one
 * command that repeats it. Seeds run in processes of their own, so that a crash ends only one of them.
 *   world [--seeds N] [--first K] [--procs P] [--skip MASK] [--limit JOBS] [--quick] [--log] */
#include "world/load.h"
#include <malloc.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct { size_t jobs, completed, failed, canceled, retries, taken_back; int bad; } totals;
/* Shared with the process that runs the seeds: what it got to, if it does not come back. */
typedef struct { mp_trial trial; totals sum; uint64_t next; } shared;

static const char *program;
static uint64_t skip, limit;
static int logging, quick;                           /* quick: stop at the first broken seed, as it is */

int __lsan_do_recoverable_leak_check(void) __attribute__((weak));        /* there when built with AddressSanitizer */

static void print(void *ud, const char *line) { (void)ud; puts(line); }

static mp_trial trial_of(uint64_t seed) { return (mp_trial){ .seed = seed, .faults = seed % 5 != 0, .skip = skip, .limit = (size_t)limit }; }

/* One more time: the same log, and nothing kept. The first run has made what is made once. */
static void again(mp_trial *t) {
    mp_trial second = *t;
    size_t before = mallinfo2().uordblks;
    mp_trial_run(&second);
    ptrdiff_t grown = (ptrdiff_t)(mallinfo2().uordblks - before);
    if (strcmp(second.digest, t->digest) != 0) snprintf(t->broken, sizeof t->broken, "the same seed gave another log");
    else if (grown > 0) snprintf(t->broken, sizeof t->broken, "%td bytes of memory were not given back", grown);
    else if (__lsan_do_recoverable_leak_check && __lsan_do_recoverable_leak_check()) snprintf(t->broken, sizeof t->broken, "memory was lost");
}

/* 1: it broke; t->broken says how. */
static int breaks(mp_trial *t) {
    mp_trial_run(t);
    if (!t->broken[0] && t->seed % 10 == 3) again(t);
    return t->broken[0] != 0;
}

/* In a process of its own; it leaves by exit, so that its memory is looked at. 1: it broke or crashed. */
static int breaks_apart(mp_trial *t) {
    int status = 0;
    shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    s->trial = *t;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(3);            /* what sanitizers say has been said */
        exit(breaks(&s->trial));
    }
    waitpid(child, &status, 0);
    *t = s->trial;
    munmap(s, sizeof *s);
    if (WIFSIGNALED(status)) snprintf(t->broken, sizeof t->broken, "crashed with signal %d", WTERMSIG(status));
    else if (status && !t->broken[0]) snprintf(t->broken, sizeof t->broken, "ended with status %d", WEXITSTATUS(status));
    return status != 0;
}

static void report(mp_trial *t) {
    mp_trial least = *t;
    if (!skip && !limit && !quick) mp_trial_shrink(&least, breaks_apart);
    printf("seed %llu: %s\n  repeat with: %s --first %llu --seeds 1", (unsigned long long)t->seed, least.broken, program, (unsigned long long)t->seed);
    if (least.skip) printf(" --skip 0x%llx", (unsigned long long)least.skip);
    if (least.limit) printf(" --limit %zu", least.limit);
    puts(" --log");
    fflush(stdout);
}

static void run(uint64_t seed, shared *at) {
    mp_trial *t = &at->trial;
    totals *sum = &at->sum;
    *t = trial_of(seed);
    t->log = logging ? print : NULL;
    int broken = breaks(t);
    if (broken) report(t);
    sum->jobs += t->jobs;
    sum->completed += t->completed;
    sum->failed += t->failed;
    sum->canceled += t->canceled;
    sum->retries += t->retries;
    sum->taken_back += t->taken_back;
    sum->bad += broken != 0;
}

static void add(totals *to, const totals *from) {
    to->jobs += from->jobs;
    to->completed += from->completed;
    to->failed += from->failed;
    to->canceled += from->canceled;
    to->retries += from->retries;
    to->taken_back += from->taken_back;
    to->bad += from->bad;
}

static int enough(const totals *sum) { return sum->bad >= (quick ? 1 : 3); }

/* Seeds from, from + step ... in a process; after a crash the rest of them in a new one. */
static void stretch(uint64_t from, uint64_t end, uint64_t step, totals *sum) {
    shared *at = mmap(NULL, sizeof *at, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    at->next = from;
    while (at->next < end && !enough(&at->sum)) {
        int status = 0;
        uint64_t before = at->next;
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            for (; at->next < end && !enough(&at->sum); at->next += step) run(at->next, at);
            exit(0);
        }
        waitpid(child, &status, 0);
        if (status == 0) break;
        mp_trial t = at->trial;
        if (at->next >= end || enough(&at->sum)) printf("seeds %llu to %llu: ended with status %d, perhaps for memory that was lost\n", (unsigned long long)before, (unsigned long long)end - 1, WEXITSTATUS(status));
        else {
            if (WIFSIGNALED(status)) snprintf(t.broken, sizeof t.broken, "crashed with signal %d", WTERMSIG(status));
            else snprintf(t.broken, sizeof t.broken, "ended with status %d", WEXITSTATUS(status));
            t.log = NULL;
            report(&t);
        }
        at->sum.bad++;
        at->next += step;
    }
    *sum = at->sum;
    munmap(at, sizeof *at);
}

/* Every procs-th seed in a process of its own; sums come back through a pipe. */
static int share(uint64_t first, uint64_t count, uint64_t procs, totals *sum) {
    int lost = 0;
    int (*pipes)[2] = malloc(procs * sizeof *pipes);
    for (uint64_t i = 0; i < procs; i++) {
        if (pipe(pipes[i])) { perror("pipe"); exit(2); }
        fflush(stdout);
        if (fork() == 0) {
            totals mine = { 0 };
            stretch(first + i, first + count, procs, &mine);
            fflush(stdout);
            _exit(write(pipes[i][1], &mine, sizeof mine) != sizeof mine);
        }
        close(pipes[i][1]);
    }
    for (uint64_t i = 0; i < procs; i++) {
        totals mine;
        if (read(pipes[i][0], &mine, sizeof mine) == sizeof mine) add(sum, &mine);
        else lost++;
        close(pipes[i][0]);
    }
    while (wait(NULL) > 0) {}
    free(pipes);
    return lost;
}

/* The allocator keeps small blocks for each thread and counts them as used: without that its numbers are exact. */
static void exact_memory(char **argv) {
    if (getenv("GLIBC_TUNABLES")) return;
    setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0", 1);
    execv("/proc/self/exe", argv);
}

int main(int argc, char **argv) {
    exact_memory(argv);
    uint64_t first = 1, count = 100, procs = 0;
    struct { const char *name; uint64_t *to; } options[] = { { "--seeds", &count }, { "--first", &first }, { "--procs", &procs }, { "--skip", &skip }, { "--limit", &limit } };
    program = argv[0];
    for (int i = 1; i < argc; i++) {
        size_t k = 0, n = sizeof options / sizeof *options;
        while (k < n && strcmp(argv[i], options[k].name) != 0) k++;
        if (k < n && i + 1 < argc) *options[k].to = strtoull(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--log") == 0) logging = 1;
        else if (strcmp(argv[i], "--quick") == 0) quick = 1;
        else { fprintf(stderr, "usage: world [--seeds N] [--first K] [--procs P] [--skip MASK] [--limit JOBS] [--quick] [--log]\n"); return 2; }
    }
    if (!procs) procs = logging || count < 8 ? 1 : (uint64_t)sysconf(_SC_NPROCESSORS_ONLN);
    totals sum = { 0 };
    int lost = 0;
    shared here = { 0 };
    if (logging) for (uint64_t s = first; s < first + count && !enough(&sum); sum = here.sum) run(s++, &here);     /* here, where a debugger sees it */
    else if (procs == 1) stretch(first, first + count, 1, &sum);
    else lost = share(first, count, procs, &sum);
    if (lost) printf("%d of %llu processes crashed\n", lost, (unsigned long long)procs);
    printf("%llu seeds, %zu jobs: %zu completed, %zu failed, %zu canceled, %zu retries, %zu taken back; %d seeds broke an invariant\n", (unsigned long long)count, sum.jobs, sum.completed, sum.failed,
           sum.canceled, sum.retries, sum.taken_back, sum.bad);
    return sum.bad != 0 || lost != 0;
}
