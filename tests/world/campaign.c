/* tests/world/campaign.c -- the fault campaign: seeds first..first+count-1, each run once; every tenth twice, to
 * compare its log. A seed that breaks is shrunk, and prints the one command that repeats it.
 *   world [--seeds N] [--first K] [--procs P] [--skip MASK] [--limit JOBS] [--log] */
#include "world/load.h"
#include <malloc.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct { size_t jobs, completed, failed, canceled, retries, taken_back; int bad; } totals;
static const char *program;
static uint64_t skip, limit;
static int logging, quick;                           /* quick: stop at the first broken seed, as it is */

static uint64_t current;

/* A crash must name its seed too. */
static void crashed(int number) {
    char words[80];
    int n = snprintf(words, sizeof words, "seed %llu: crashed with signal %d\n", (unsigned long long)current, number);
    if (write(2, words, (size_t)n) < 0) _exit(3);
    signal(number, SIG_DFL);
    raise(number);
}

static void print(void *ud, const char *line) { (void)ud; puts(line); }

static mp_trial trial_of(uint64_t seed) { return (mp_trial){ .seed = seed, .faults = seed % 5 != 0, .skip = skip, .limit = (size_t)limit }; }

static void report(mp_trial *t) {
    mp_trial least = *t;
    if (!skip && !limit && !quick) mp_trial_shrink(&least);
    printf("seed %llu: %s\n  repeat with: %s --first %llu --seeds 1", (unsigned long long)t->seed, least.broken, program, (unsigned long long)t->seed);
    if (least.skip) printf(" --skip 0x%llx", (unsigned long long)least.skip);
    if (least.limit) printf(" --limit %zu", least.limit);
    puts(" --log");
    fflush(stdout);
}

static void run(uint64_t seed, totals *sum) {
    mp_trial t = trial_of(current = seed);
    t.log = logging ? print : NULL;
    int broken = mp_trial_run(&t);
    if (broken) report(&t);
    else if (seed % 10 == 0) {
        mp_trial again = trial_of(seed);
        size_t before = mallinfo2().uordblks;
        mp_trial_run(&again);
        size_t grown = mallinfo2().uordblks - before;                    /* the first run has filled the allocator's pockets */
        broken = strcmp(again.digest, t.digest) != 0 || (ptrdiff_t)grown > 65536;
        if (broken) printf("seed %llu: %s\n", (unsigned long long)seed, (ptrdiff_t)grown > 65536 ? "memory was not given back" : "the same seed gave another log");
    }
    sum->jobs += t.jobs;
    sum->completed += t.completed;
    sum->failed += t.failed;
    sum->canceled += t.canceled;
    sum->retries += t.retries;
    sum->taken_back += t.taken_back;
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

/* Every procs-th seed in a process of its own; sums come back through a pipe. */
static int share(uint64_t first, uint64_t count, uint64_t procs, totals *sum) {
    int lost = 0;
    int (*pipes)[2] = malloc(procs * sizeof *pipes);
    for (uint64_t i = 0; i < procs; i++) {
        if (pipe(pipes[i])) { perror("pipe"); exit(2); }
        fflush(stdout);
        if (fork() == 0) {
            totals mine = { 0 };
            for (uint64_t s = first + i; s < first + count && mine.bad < (quick ? 1 : 3); s += procs) run(s, &mine);
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

int main(int argc, char **argv) {
    uint64_t first = 1, count = 100, procs = 0;
    struct { const char *name; uint64_t *to; } options[] = { { "--seeds", &count }, { "--first", &first }, { "--procs", &procs }, { "--skip", &skip }, { "--limit", &limit } };
    program = argv[0];
    signal(SIGSEGV, crashed);
    signal(SIGABRT, crashed);
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
    if (procs == 1) for (uint64_t s = first; s < first + count && sum.bad < (quick ? 1 : 3); s++) run(s, &sum);
    else lost = share(first, count, procs, &sum);
    if (lost) printf("%d of %llu processes crashed\n", lost, (unsigned long long)procs);
    printf("%llu seeds, %zu jobs: %zu completed, %zu failed, %zu canceled, %zu retries, %zu taken back; %d seeds broke an invariant\n", (unsigned long long)count, sum.jobs, sum.completed, sum.failed,
           sum.canceled, sum.retries, sum.taken_back, sum.bad);
    return sum.bad != 0 || lost != 0;
}
