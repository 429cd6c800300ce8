/* tests/world/campaign.c -- the fault campaign: seeds first..first+count-1, each run once; every tenth twice, to
 * compare its log. A seed that breaks prints the one command that repeats it.
 *   world [--seeds N] [--first K] [--log] */
#include "world/load.h"
#include <stdio.h>
#include <stdlib.h>

static void print(void *ud, const char *line) { (void)ud; puts(line); }

int main(int argc, char **argv) {
    uint64_t first = 1, count = 100;
    int log = 0, bad = 0;
    size_t jobs = 0, completed = 0, failed = 0, canceled = 0, retries = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc) count = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--first") == 0 && i + 1 < argc) first = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--log") == 0) log = 1;
        else { fprintf(stderr, "usage: world [--seeds N] [--first K] [--log]\n"); return 2; }
    }
    for (uint64_t s = first; s < first + count; s++) {
        mp_trial t = { .seed = s, .faults = s % 5 != 0, .log = log ? print : NULL };
        int broken = mp_trial_run(&t);
        if (!broken && s % 10 == 0) {
            mp_trial again = { .seed = s, .faults = t.faults };
            mp_trial_run(&again);
            if (strcmp(again.digest, t.digest) != 0) { broken = 1; snprintf(t.broken, sizeof t.broken, "the same seed gave another log"); }
        }
        jobs += t.jobs;
        completed += t.completed;
        failed += t.failed;
        canceled += t.canceled;
        retries += t.retries;
        if (!broken) continue;
        bad++;
        printf("seed %llu: %s\n  repeat with: %s --first %llu --seeds 1 --log\n", (unsigned long long)s, t.broken, argv[0], (unsigned long long)s);
        if (bad >= 10) break;
    }
    printf("%llu seeds, %zu jobs: %zu completed, %zu failed, %zu canceled, %zu retries; %d seeds broke an invariant\n", (unsigned long long)count, jobs, completed, failed, canceled, retries, bad);
    return bad != 0;
}
