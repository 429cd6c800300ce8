/* tests/world/cases.c -- what once went wrong in hours that no spec can wait for, one case each: pool and simulated servers in virtual time.
 * Prints one line, or what was wrong first.
 *   cases [NAME]     that one only, with what happens in it */
#include "world/world.h"
#include "wrong.h"
#include <stdio.h>
#include <stdlib.h>

#define S MP_MS(1000)
enum { JOBS = 64 };

typedef struct {
    uint64_t id;
    mp_time started, ended, retried;                 /* first start, first retry; 0: not yet */
    mp_event_kind how;
    int retries;
} tracked;

typedef struct {
    mp_world *w;
    tracked jobs[JOBS];
    size_t n, ended, lost;                           /* lost: how often a client went offline */
    mp_time online, taken;                           /* the newest; taken: the newest take-back, 0: none */
} play;

static int telling;

static void on_event(void *ud, const mp_event *e) {
    play *x = ud;
    mp_time now = mp_world_now(x->w);
    if (telling) printf("  %10.3f s  job %llx, client %u: event %d %s\n", (double)now / 1e6, (unsigned long long)e->job, e->client, e->kind, e->data ? e->data : "");
    if (e->kind == MP_EV_CLIENT_STATE) {
        const mp_client *c = mp_pool_client(mp_world_pool(x->w), e->client);
        if (c && mp_client_get_state(c) == MP_CLIENT_ONLINE) x->online = now;
        else x->lost++;
    }
    if (e->kind == MP_EV_JOB_TAKEN_BACK) x->taken = now;
    for (size_t i = 0; i < x->n; i++) {
        tracked *t = &x->jobs[i];
        if (t->id != e->job) continue;
        if (e->kind == MP_EV_JOB_STARTED && !t->started) t->started = now;
        if (e->kind == MP_EV_JOB_RETRYING && t->retries++ == 0) t->retried = now;
        if (!mp_event_ends(e->kind)) continue;
        t->ended = now;
        t->how = e->kind;
        x->ended++;
    }
}

static void on_step(void *ud) { (void)ud; }

static mp_world_opts usual(void) {
    mp_world_opts o = { .seed = 7, .delay_min = MP_MS(1), .delay_max = MP_MS(5) };
    mp_pool_defaults(&o.pool);
    return o;
}

static void begin(play *x, const mp_world_opts *o, const mp_sim_opts *s, int slots) {
    mp_client_opts c = { .slots = slots };
    memset(x, 0, sizeof *x);
    x->w = mp_world_new(o);
    mp_world_add_sim(x->w, s, &c);
    mp_world_watch(x->w, on_event, on_step, x);
    mp_pool_want(mp_world_pool(x->w), 1u << MP_EV_JOB_RETRYING | 1u << MP_EV_JOB_STARTED | 1u << MP_EV_JOB_TAKEN_BACK);
}

static const char *over(play *x, const char *bad) {
    mp_world_free(x->w);
    return bad;
}

/* ---- what happens ------------------------------------------------------------------------------------------------------------------- */

#define PICTURE "{\"4\":{\"class_type\":\"CheckpointLoaderSimple\",\"inputs\":{\"ckpt_name\":\"sd15.safetensors\"}}," \
    "\"5\":{\"class_type\":\"EmptyLatentImage\",\"inputs\":{\"width\":512,\"height\":512,\"batch_size\":1}}," \
    "\"6\":{\"class_type\":\"CLIPTextEncode\",\"inputs\":{\"text\":\"x\",\"clip\":[\"4\",1]}}," \
    "\"3\":{\"class_type\":\"KSampler\",\"inputs\":{\"seed\":%zu,\"steps\":%d,\"cfg\":7,\"sampler_name\":\"euler\",\"scheduler\":\"normal\",\"denoise\":1," \
    "\"model\":[\"4\",0],\"positive\":[\"6\",0],\"negative\":[\"6\",0],\"latent_image\":[\"5\",0]}}," \
    "\"8\":{\"class_type\":\"VAEDecode\",\"inputs\":{\"samples\":[\"3\",0],\"vae\":[\"4\",2]}}," \
    "\"9\":{\"class_type\":\"SaveImage\",\"inputs\":{\"images\":[\"8\",0],\"filename_prefix\":\"a\"}}}"
#define PLAIN "{\"1\":{\"class_type\":\"EmptyImage\",\"inputs\":{\"width\":64,\"height\":64,\"batch_size\":1,\"color\":%zu}}," \
    "\"2\":{\"class_type\":\"SaveImage\",\"inputs\":{\"images\":[\"1\",0],\"filename_prefix\":\"a\"}}}"
#define FOR_EVER "{\"KSampler\":{\"ms\":36000000}}"             /* ten hours, silently */
#define STEPS "{\"KSampler\":{\"ms\":0,\"step_ms\":1000}}"

/* What hangs there hears no interrupt either. */
static void deafen(play *x) { mp_sim_deafen(mp_world_sim(x->w, 0), 1000000); }

static void submit_within(play *x, const char *text, int attempts, mp_time silence) {
    mp_job_opts o;
    mp_workflow *wf = mp_workflow_parse(text, strlen(text), NULL);
    mp_job_defaults(&o);
    o.max_attempts = attempts;
    o.node_silence = silence;
    const mp_job *j = mp_pool_submit(mp_world_pool(x->w), wf, &o, mp_world_now(x->w), NULL);
    x->jobs[x->n++].id = mp_job_id(j);
    mp_workflow_unref(wf);
}

static void submit_text(play *x, const char *text, int attempts) { submit_within(x, text, attempts, 0); }

static void picture(play *x, size_t steps, int attempts, mp_time silence) {
    char text[2000];
    snprintf(text, sizeof text, PICTURE, x->n + 1, (int)steps);
    submit_within(x, text, attempts, silence);
}

static void submit_picture(mp_world *w, void *ud, size_t steps) { (void)w; picture(ud, steps, 1, 0); }
static void submit_again(mp_world *w, void *ud, size_t steps) { (void)w; picture(ud, steps, 3, 0); }           /* with three attempts */
static void submit_brief(mp_world *w, void *ud, size_t steps) { (void)w; picture(ud, steps, 1, 60 * S); }      /* a minute of silence is too much for it */
static void submit_endless(mp_world *w, void *ud, size_t steps) { (void)w; picture(ud, steps, 1, MP_NEVER); }  /* it may be silent for ever */

static void submit_plain(mp_world *w, void *ud, size_t unused) {
    char text[1000];
    play *x = ud;
    (void)w;
    (void)unused;
    snprintf(text, sizeof text, PLAIN, x->n + 1);
    submit_text(x, text, 1);
}

static void foreign(mp_world *w, void *ud, size_t steps) {           /* somebody else's */
    char text[2000], body[2100];
    (void)ud;
    if (steps) snprintf(text, sizeof text, PICTURE, (size_t)999, (int)steps);
    else snprintf(text, sizeof text, PLAIN, (size_t)999);
    snprintf(body, sizeof body, "{\"client_id\":\"other\",\"prompt\":%s}", text);
    mp_world_foreign(w, 0, "POST", "/prompt", body);
}

static void cancel(mp_world *w, void *ud, size_t i) {
    play *x = ud;
    mp_pool_cancel(mp_world_pool(w), mp_pool_job(mp_world_pool(w), x->jobs[i].id), mp_world_now(w));
}

static void cut(mp_world *w, void *ud, size_t linger_ms) { (void)ud; mp_world_cut(w, 0, MP_MS((mp_time)linger_ms)); }
static void restart(mp_world *w, void *ud, size_t unused) { (void)ud; (void)unused; mp_world_down(w, 0, mp_world_now(w) + MP_MS(500)); }
static void darken(mp_world *w, void *ud, size_t s) { (void)ud; mp_world_dark(w, 0, mp_world_now(w) + (mp_time)s * S); }
static void lose_reply(mp_world *w, void *ud, size_t unused) { (void)ud; (void)unused; mp_world_lose_replies(w, 0, 1); }
static void mute(mp_world *w, void *ud, size_t s) { (void)ud; mp_world_mute(w, 0, mp_world_now(w) + (mp_time)s * S); }
static void only_ask(mp_world *w, void *ud, size_t s) {              /* no socket, and slow replies */
    (void)ud;
    mp_world_no_socket(w, 0, (mp_time)s * S);
    mp_world_slow(w, 0, (mp_time)s * S, MP_MS(1200));
}
static void break_replies(mp_world *w, void *ud, size_t s) { (void)ud; mp_world_break(w, 0, mp_world_now(w) + (mp_time)s * S); }

static void at(play *x, mp_time t, void (*fn)(mp_world *, void *, size_t), size_t arg) { mp_world_at(x->w, t, fn, x, arg); }

/* ---- what must hold ------------------------------------------------------------------------------------------------------------------ */

/* It ended so, and between these instants. */
static const char *ends(const play *x, size_t i, mp_event_kind how, mp_time from, mp_time to) {
    const tracked *t = &x->jobs[i];
    if (!t->ended) return wrong("job %zu has not ended", i + 1);
    if (t->how != how) return wrong("job %zu has %s, at %.1f s", i + 1, t->how == MP_EV_JOB_COMPLETED ? "completed" : t->how == MP_EV_JOB_FAILED ? "failed" : "been canceled", (double)t->ended / 1e6);
    if (t->ended < from || t->ended > to) return wrong("job %zu ended at %.1f s, due from %.1f to %.1f", i + 1, (double)t->ended / 1e6, (double)from / 1e6, (double)to / 1e6);
    return NULL;
}

static const char *all_end(const play *x, size_t first, mp_event_kind how, mp_time from, mp_time to) {
    const char *bad = NULL;
    for (size_t i = first; i < x->n && !bad; i++) bad = ends(x, i, how, from, to);
    return bad;
}

/* ---- ends that nobody told of --------------------------------------------------------------------------------------------------------- */

static const mp_sim_opts a_minute = { .speed = 1, .costs = "{\"KSampler\":{\"ms\":60000}}" };

/* The old connection goes late and takes the new socket along: it is open and deaf, and the prompt ends at 63 s. */
static const char *found_behind_a_deaf_socket(void) {
    mp_world_opts o = usual();
    play x;
    begin(&x, &o, &a_minute, 2);
    at(&x, 3 * S, submit_picture, 1);
    at(&x, 10 * S, cut, 3000);
    mp_world_run(x.w, 7200 * S);
    return over(&x, ends(&x, 0, MP_EV_JOB_COMPLETED, 63 * S, 123 * S));
}

/* The reply to the POST never comes, nor any message: it is found when the POST has run out of time, and its end by asking. */
static const char *found_without_a_reply(void) {
    mp_world_opts o = usual();
    play x;
    begin(&x, &o, &a_minute, 2);
    at(&x, 3 * S, lose_reply, 0);
    at(&x, 3 * S, mute, 7200);
    at(&x, 3 * S, submit_picture, 1);
    mp_world_run(x.w, 7200 * S);
    return over(&x, ends(&x, 0, MP_EV_JOB_COMPLETED, 63 * S, 123 * S));
}

/* ---- behind somebody else's ------------------------------------------------------------------------------------------------------------ */

static void wait_behind(play *x, const mp_world_opts *o, size_t steps) {
    static const mp_sim_opts by_steps = { .speed = 1, .costs = "{\"KSampler\":{\"ms\":0,\"step_ms\":1000},\"EmptyImage\":{\"ms\":360000000}}" };
    begin(x, o, &by_steps, 2);
    at(x, 3 * S, submit_picture, 5);                 /* from now on 300 s of silence are too many */
    at(x, 20 * S, foreign, steps);
    for (int i = 0; i < 4; i++) at(x, 21 * S + i, submit_picture, 5);
    mp_world_run(x->w, 360000 * S);
}

static const char *behind_a_long_one(void) {
    mp_world_opts o = usual();
    play x;
    wait_behind(&x, &o, 1200);
    const char *bad = all_end(&x, 1, MP_EV_JOB_COMPLETED, 1220 * S, 1260 * S);
    for (size_t i = 0; i < x.n && !bad; i++)
        if (x.jobs[i].retries) bad = wrong("job %zu was sent again", i + 1);
    return over(&x, bad);
}

/* Theirs counts as hanging after four times the longest silence (an hour); five minutes of silence later the client rests, and after ten
 * more nobody counts on it. */
static const char *behind_one_that_hangs(void) {
    mp_world_opts o = usual();
    play x;
    wait_behind(&x, &o, 0);
    return over(&x, all_end(&x, 1, MP_EV_JOB_FAILED, 3600 * S, 5400 * S));
}

/* Looks are answered later than the next one is due: by asking alone, and beside a socket. */
static const char *behind_one_that_hangs_far_away(void) {
    static const mp_sim_opts hangs = { .speed = 1, .costs = "{\"EmptyImage\":{\"ms\":360000000}}" };
    const char *bad = NULL;
    for (int asked = 0; asked < 2 && !bad; asked++) {
        mp_world_opts o = usual();
        play x;
        if (!asked) {
            o.pool.poll = MP_MS(100);
            o.delay_min = MP_MS(60);
            o.delay_max = MP_MS(80);
        }
        begin(&x, &o, &hangs, 2);
        if (asked) at(&x, 0, only_ask, 100000);
        at(&x, 20 * S, foreign, 0);
        at(&x, 21 * S, submit_picture, 5);
        mp_world_run(x.w, 36000 * S);
        bad = over(&x, ends(&x, 0, MP_EV_JOB_FAILED, 3600 * S, 6000 * S));
    }
    return bad;
}

/* With all bounds off nothing of theirs hangs; a job with a bound of its own waits its turn. */
static const char *behind_one_with_nothing_bounded(void) {
    static const mp_sim_opts by_steps = { .speed = 1, .costs = "{\"KSampler\":{\"ms\":0,\"step_ms\":1000}}" };
    mp_world_opts o = usual();
    play x;
    o.pool.node_silence = o.pool.cold_silence = 0;
    begin(&x, &o, &by_steps, 2);
    at(&x, 20 * S, foreign, 200);
    at(&x, 21 * S, submit_brief, 5);
    mp_world_run(x.w, 36000 * S);
    return over(&x, x.jobs[0].retries ? "it was sent again" : ends(&x, 0, MP_EV_JOB_COMPLETED, 220 * S, 240 * S));
}

/* It ends while the client rests for its sake: within a minute the rest is over. */
static const char *behind_one_that_seemed_to_hang(void) {
    mp_world_opts o = usual();
    play x;
    wait_behind(&x, &o, 4000);
    return over(&x, all_end(&x, 1, MP_EV_JOB_COMPLETED, 4020 * S, 4020 * S + 120 * S));
}

/* ---- hanging nodes -------------------------------------------------------------------------------------------------------------------- */

static void one_silent(play *x, const mp_world_opts *o, const char *costs) {
    mp_sim_opts s = { .speed = 1, .costs = costs };
    begin(x, o, &s, 2);
    deafen(x);
    at(x, 3 * S, submit_again, 1);
    for (int i = 0; i < 5; i++) at(x, 3 * S + 1 + i, submit_plain, 0);
    mp_world_run(x->w, 36000 * S);
}

/* 15 minutes of silence end the attempt of the first; its node ends after 20, and then there is a server for all of them. */
static const char *one_silent_for_a_while(void) {
    mp_world_opts o = usual();
    play x;
    one_silent(&x, &o, "{\"KSampler\":{\"ms\":1200000}}");
    return over(&x, all_end(&x, 0, MP_EV_JOB_COMPLETED, 1203 * S, 1210 * S + 60 * S));
}

static const char *one_silent_for_ever(void) {
    mp_world_opts o = usual();
    play x;
    one_silent(&x, &o, FOR_EVER);
    return over(&x, all_end(&x, 0, MP_EV_JOB_FAILED, 903 * S, 903 * S + 300 * S + 180 * S));
}

/* A canceled prompt that never ends holds the only slot. */
static const char *canceled_and_endless(void) {
    mp_world_opts o = usual();
    mp_sim_opts s = { .speed = 1, .costs = FOR_EVER };
    play x;
    begin(&x, &o, &s, 1);
    deafen(&x);
    at(&x, 3 * S, submit_picture, 1);
    at(&x, 10 * S, cancel, 0);
    at(&x, 11 * S, submit_picture, 1);
    mp_world_run(x.w, 36000 * S);
    const char *bad = ends(&x, 0, MP_EV_JOB_CANCELED, 10 * S, 10 * S);
    return over(&x, bad ? bad : ends(&x, 1, MP_EV_JOB_FAILED, 11 * S, 903 * S + 300 * S + 180 * S));
}

/* The client rests from 33 s on; its server is restarted at 36 s and has nothing that hangs any more. */
static const char *restarted_at_rest(void) {
    mp_world_opts o = usual();
    mp_sim_opts s = { .speed = 1, .costs = FOR_EVER };
    play x;
    o.pool.node_silence = o.pool.cold_silence = 30 * S;
    begin(&x, &o, &s, 2);
    deafen(&x);
    at(&x, 3 * S, submit_picture, 1);
    for (int i = 0; i < 2; i++) at(&x, 3 * S + 1 + i, submit_plain, 0);
    at(&x, 36 * S, restart, 0);
    mp_world_run(x.w, 3600 * S);
    const char *bad = ends(&x, 0, MP_EV_JOB_FAILED, 33 * S, 34 * S);
    return over(&x, bad ? bad : all_end(&x, 1, MP_EV_JOB_COMPLETED, 36 * S, 40 * S));
}

/* For 110 s the link comes up and falls at once, a dozen times: what was not heard meanwhile counts once, not a dozen times. */
static const char *silent_while_the_link_flaps(void) {
    mp_world_opts o = usual();
    mp_sim_opts s = { .speed = 1, .no_orphans = 1, .costs = FOR_EVER };
    play x;
    o.pool.node_silence = o.pool.cold_silence = 60 * S;
    begin(&x, &o, &s, 2);
    at(&x, 3 * S, submit_again, 1);
    at(&x, 10 * S, break_replies, 110);
    at(&x, 10 * S + 1000, cut, 0);
    mp_world_run(x.w, 3600 * S);
    const tracked *t = &x.jobs[0];
    const char *bad = x.lost < 10 ? wrong("the link fell %zu times only", x.lost) : NULL;
    if (!bad && (t->retried < 3 * S + 60 * S || t->retried > x.online + 61 * S)) bad = wrong("given up %.1f s after the last connection, with node_silence 60 s", (double)(t->retried - x.online) / 1e6);
    return over(&x, bad);
}

/* ---- moved while they wait ------------------------------------------------------------------------------------------------------------- */

/* 20 jobs at 100 s, when both servers know the workflow; the second is four times as fast. */
static void begin_batch(play *x, const mp_world_opts *o) {
    static const mp_sim_opts slow = { .speed = 1, .costs = STEPS }, fast = { .speed = 4, .costs = STEPS };
    mp_client_opts c = { .slots = 2 };
    begin(x, o, &slow, 2);
    mp_world_add_sim(x->w, &fast, &c);
    for (int i = 0; i < 4; i++) at(x, (3 + i) * S, submit_again, 10);
    for (int i = 0; i < 20; i++) at(x, 100 * S + i, submit_again, 10);
}

static mp_time makespan(int take_backs, uint64_t seed, int *bad) {
    mp_world_opts o = usual();
    mp_time last = 0;
    play x;
    o.seed = seed;
    o.pool.take_backs = take_backs;
    begin_batch(&x, &o);
    mp_world_run(x.w, 3600 * S);
    for (size_t i = 0; i < x.n; i++) {
        *bad |= x.jobs[i].how != MP_EV_JOB_COMPLETED;
        last = x.jobs[i].ended > last ? x.jobs[i].ended : last;
    }
    over(&x, NULL);
    return last - 100 * S;
}

/* The last on the slow server waits there behind another, while the fast one has nothing left: moved, it is done before the other is. */
static const char *moved_to_who_is_free(void) {
    double with = 0, without = 0;
    int bad = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        with += (double)makespan(1, seed, &bad) / 20e6;
        without += (double)makespan(0, seed, &bad) / 20e6;
    }
    if (telling) printf("  20 jobs take %.1f s with take-backs, %.1f s without\n", with, without);
    if (bad) return "a job did not complete";
    return with < 0.9 * without ? NULL : wrong("20 jobs take %.1f s with take-backs, %.1f s without", with, without);
}

/* A server goes out of reach while a prompt is being taken back from it, and is restarted: that nothing is known of the prompt afterwards is
 * no proof that it never ran. At each millisecond around the take-back of the run in which nothing happens. */
static const char *lost_while_being_moved(void) {
    mp_world_opts o = usual();
    const char *bad = NULL;
    play quiet, x;
    begin_batch(&quiet, &o);
    mp_world_run(quiet.w, 3600 * S);
    mp_time when = quiet.taken;
    over(&quiet, NULL);
    if (!when) return "nothing is taken back";
    for (int ms = 0; ms <= 30 && !bad; ms++) {
        begin_batch(&x, &o);
        at(&x, when - MP_MS(ms), darken, 2);
        at(&x, when + S, restart, 0);
        mp_world_run(x.w, 3600 * S);
        if (x.taken > when + S) bad = wrong("dark %d ms before: taken back from a server that was restarted", ms);
        if (!bad) bad = all_end(&x, 0, MP_EV_JOB_COMPLETED, 0, 3600 * S);
        over(&x, NULL);
    }
    return bad;
}

/* ---- who has no bound does not take that of others away ----------------------------------------------------------------------------------- */

static const char *canceled_without_a_bound(void) {
    mp_world_opts o = usual();
    mp_sim_opts s = { .speed = 1, .costs = FOR_EVER };
    play x;
    begin(&x, &o, &s, 2);
    deafen(&x);
    at(&x, 3 * S, submit_endless, 1);
    at(&x, 4 * S, submit_plain, 0);
    at(&x, 10 * S, cancel, 0);
    mp_world_run(x.w, 36000 * S);
    return over(&x, ends(&x, 1, MP_EV_JOB_FAILED, 11 * S, 903 * S + 300 * S + 180 * S));
}

/* The pool allows any silence, one job does not: the client rests for its sake, and in the end nobody counts on it. */
static const char *hopeless_without_a_bound(void) {
    mp_world_opts o = usual();
    mp_sim_opts s = { .speed = 1, .costs = FOR_EVER };
    play x;
    o.pool.node_silence = 0;
    begin(&x, &o, &s, 2);
    deafen(&x);
    at(&x, 3 * S, submit_brief, 1);
    at(&x, 100 * S, submit_plain, 0);
    mp_world_run(x.w, 36000 * S);
    return over(&x, ends(&x, 1, MP_EV_JOB_FAILED, 100 * S, 400 * S));
}

typedef struct { const char *name; const char *(*run)(void); } one_case;
static const one_case cases[] = {
    { "deaf", found_behind_a_deaf_socket }, { "reply", found_without_a_reply }, { "long", behind_a_long_one }, { "hangs", behind_one_that_hangs }, { "seemed", behind_one_that_seemed_to_hang },
    { "far", behind_one_that_hangs_far_away }, { "nothing", behind_one_with_nothing_bounded }, { "tomb", canceled_without_a_bound }, { "hopeless", hopeless_without_a_bound },
   
    { "silent", one_silent_for_a_while }, { "for_ever", one_silent_for_ever }, { "canceled", canceled_and_endless }, { "restarted", restarted_at_rest },
    { "flaps", silent_while_the_link_flaps }, { "moved", moved_to_who_is_free }, { "moving", lost_while_being_moved },
};

int main(int argc, char **argv) {
    size_t n = 0;
    telling = argc > 1;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (argc > 1 && strcmp(argv[1], cases[i].name) != 0) continue;
        const char *bad = cases[i].run();
        if (bad) return printf("cases: %s: %s\n", cases[i].name, bad), 1;
        n++;
    }
    printf("cases: %zu hold\n", n);
    return n == 0;
}
