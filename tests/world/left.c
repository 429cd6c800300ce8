/* tests/world/left.c -- the time left and the progress that a pool tells, against when jobs really end: on servers where each node takes
 * ten per cent more or less than usual, at half way, after five runs. In virtual time, so that no machine decides it.
 *   left [--seeds N] */
#include "world/world.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define LEARNT 5
#define ASKED 5

static const char text[] = "{\"4\": {\"class_type\": \"CheckpointLoaderSimple\", \"inputs\": {\"ckpt_name\": \"sd15.safetensors\"}}, \"5\": {\"class_type\": \"EmptyLatentImage\", \"inputs\": {\"width\": 512, \"height\": 512, \"batch_size\": 1}},"
    " \"6\": {\"class_type\": \"CLIPTextEncode\", \"inputs\": {\"text\": \"a\", \"clip\": [\"4\", 1]}}, \"3\": {\"class_type\": \"KSampler\", \"inputs\": {\"seed\": -1, \"steps\": 20, \"cfg\": 7, \"sampler_name\": \"euler\","
    " \"scheduler\": \"normal\", \"denoise\": 1, \"model\": [\"4\", 0], \"positive\": [\"6\", 0], \"negative\": [\"6\", 0], \"latent_image\": [\"5\", 0]}},"
    " \"8\": {\"class_type\": \"VAEDecode\", \"inputs\": {\"samples\": [\"3\", 0], \"vae\": [\"4\", 2]}}, \"9\": {\"class_type\": \"SaveImage\", \"inputs\": {\"images\": [\"8\", 0], \"filename_prefix\": \"x\"}}}";

typedef struct {
    mp_world *w;
    mp_workflow *wf;
    int ran, asked;                                  /* asked: of the job that runs */
    mp_time at, left, low, high;
    double progress;                                 /* as told last of the job that runs */
    int back;                                        /* progress that went back */
    double *errors;
    size_t n, in_range;
} trial;

static void next(mp_world *w, void *ud, size_t arg) {
    trial *x = ud;
    mp_job_opts o;
    (void)arg;
    mp_job_defaults(&o);
    x->asked = 0;
    x->progress = 0;
    mp_pool_submit(mp_world_pool(w), x->wf, &o, mp_world_now(w), NULL);
}

static void on_event(void *ud, const mp_event *e) {
    trial *x = ud;
    mp_time now = mp_world_now(x->w);
    const mp_job *j = mp_pool_job(mp_world_pool(x->w), e->job);
    if (e->kind == MP_EV_JOB_PROGRESS) {
        x->back |= e->overall < x->progress;
        x->progress = e->overall;
        if (x->ran >= LEARNT && !x->asked && e->overall >= 0.5) {
            x->asked = mp_job_left(j, now, &x->left, &x->low, &x->high);
            x->at = now;
        }
    }
    if (e->kind != MP_EV_JOB_COMPLETED) return;
    if (x->asked) {
        mp_time really = now - x->at;
        x->errors[x->n++] = fabs((double)(x->left - really)) / (double)really;
        x->in_range += x->low <= really && really <= x->high;
    }
    if (++x->ran < LEARNT + ASKED) mp_world_at(x->w, now + MP_MS(1), next, x, 0);
}

static int by_size(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : *(const double *)a > *(const double *)b; }

int main(int argc, char **argv) {
    static const char *const versions[] = { "0.18.1", "0.3.75", "0.3.64", "2024-10" };
    size_t seeds = argc > 2 ? strtoull(argv[2], NULL, 10) : 200;
    trial x = { .wf = mp_workflow_parse(text, sizeof text - 1, NULL), .errors = mp_alloc(seeds * ASKED * sizeof *x.errors) };
    for (size_t seed = 1; seed <= seeds; seed++) {
        mp_world_opts o = { .seed = seed, .delay_min = MP_MS(1), .delay_max = MP_MS(5) };
        mp_sim_opts s = { .version = versions[seed % 4], .noise = 0.1 };
        mp_client_opts c = { 0 };
        mp_pool_defaults(&o.pool);
        x.w = mp_world_new(&o);
        x.ran = 0;
        mp_world_add_sim(x.w, &s, &c);
        mp_world_watch(x.w, on_event, NULL, &x);
        mp_pool_want(mp_world_pool(x.w), 1u << MP_EV_JOB_PROGRESS);
        mp_world_at(x.w, MP_MS(1000), next, &x, 0);
        mp_world_run(x.w, MP_MS(3600000));
        mp_world_free(x.w);
    }
    qsort(x.errors, x.n, sizeof *x.errors, by_size);
    double median = x.n ? x.errors[x.n / 2] : 1, held = x.n ? (double)x.in_range / (double)x.n : 0;
    int bad = x.n != seeds * ASKED || median > 0.1 || held < 0.8 || x.back;
    printf("left: %zu jobs asked at half way, noise 10 %%: median error %.1f %%, nine of ten below %.1f %%, %.0f %% in the range: %s\n", x.n, 100 * median,
           x.n ? 100 * x.errors[x.n * 9 / 10] : 100, 100 * held, bad ? "BROKEN" : "well");
    mp_workflow_unref(x.wf);
    free(x.errors);
    return bad;
}
