/* sim/inside.h -- floor 5, sim: the inside, shared by the files of this room only. */
#ifndef MP_SIM_INSIDE_H
#define MP_SIM_INSIDE_H
#include "base/digest.h"
#include "base/json.h"
#include "sim/server.h"
#include <uthash.h>

#define SIM_HISTORY 10000                            /* protocol 2.6 */
#define SIM_BODY (100u << 20)                        /* max_upload_size */
#define SIM_GAPS 100000

typedef struct traits {                              /* what a version does: protocol 7 */
    const char *version, *reported, *os, *features;  /* features: what it says of itself; NULL: nothing, and it takes no flags */
    const char *frontend;                            /* what /system_stats tells beyond the oldest; NULL: nothing */
    int unions, progress_state, own_ids, missing_node_type, targeted_interrupt, throttled, empty_object, create_time, preview_method, jobs;
    int none_keeps;                                  /* without a cache, results are kept as long as they are needed */
    int lists_told;                                  /* the history has what this run made, and what it told its client from the cache; else all that the cache has of the prompt */
} traits;

typedef struct conn { uint64_t tag; char *sid; int in_table, spoke, metadata; struct conn *next; } conn;
/* What a node gives on: an opaque picture, a plain value, or a blocker (nothing behind it runs). */
typedef enum { V_IMAGE, V_PLAIN, V_BLOCKER } value_kind;
typedef struct value { value_kind kind; int width, height, batch; uint64_t look; char *text; } value;       /* text: JSON, or what a blocker says; owned */
typedef struct slot { value *v; size_t n; int is_list; } slot;
typedef struct result { int refs; slot *slots; size_t n_slots; char *ui, *id; } result;      /* id: the node it was run as; ui may be NULL */
typedef struct cached { char key[MP_DIGEST_HEX]; result *res; UT_hash_handle hh; } cached;
typedef struct file { char *key; char *bytes; size_t n; int width, height; uint64_t look; mp_time made; char *prompt, *pnginfo; UT_hash_handle hh; } file;
typedef struct model { char *name; double gb; uint64_t used; struct model *next; } model;

typedef struct job {
    double number;
    int number_given;
    char *id, *client_id;
    mp_json *body, *made;                            /* made: the prompt, values converted */
    const mp_json *prompt, *extra;
    char **outputs;
    size_t n_outputs;
    mp_time created;
} job;

typedef struct entry { char *id, *json; double number; mp_time created, began, ended; struct entry *next; } entry;
typedef struct sim_failure { char *class_type, *type, *message; int times; struct sim_failure *next; } sim_failure;

typedef enum { N_IDLE, N_WANTED, N_RUNNING, N_EXPANDED, N_DONE, N_CACHED } node_state;
typedef struct node {
    char *id;
    const char *class_type;
    struct node *parent;                             /* it was expanded from that one; NULL: of the prompt */
    mp_json *own;                                    /* the document of an expanded node */
    const mp_json *inputs, *def;
    char key[MP_DIGEST_HEX];
    int keyed, is_output, requested, touched, whole, visits, told;   /* whole: progress is told in whole numbers; told: among the outputs */
    node_state state;
    double value, max;
    result *res;
    char *answer;                                    /* expanded: whose first output is ours */
} node;

typedef struct call_args { const char *name; const value *v; } call_args;       /* v NULL: nothing arrived (an empty list) */

/* One node at work: a call per list element, each with its own time and steps. */
typedef struct exec {
    node *n;
    struct { const char *name; const value **v; size_t n; value own; } *in;
    size_t n_in, calls, call;
    int step, steps, shown_step, preview, png, deaf;
    mp_time at, step_cost, shown_at;
    mp_buf ui[8];                                    /* per key: its list so far */
    const char *ui_key[8];
    size_t n_ui;
    struct exec *next;
} exec;

typedef enum { R_CACHED, R_NODES, R_END } phase;
typedef struct run {
    job *j;
    node **nodes;
    size_t n, cap, n_prompt;
    node **listed;                                   /* those that progress_state has, as they came: by their starts */
    size_t n_listed, cap_listed;
    exec *active;                                    /* at most one that is not asynchronous */
    phase phase;
    int verdict;                                     /* 0 success, 1 error, 2 interrupted */
    const char *shown;                               /* display id of the last `executing` */
    mp_time began;
    mp_buf outputs, messages, meta;
} run;

/* What a class does, beyond making an opaque picture (behave.c). All but `name` may be absent. */
typedef struct behaviour {
    const char *name;
    void (*time)(mp_sim *s, exec *x, mp_time *once);
    /* 1: it raises, with type and message (the taker's to free) */
    int (*raises)(const exec *x, const char **type, char **message);
    void (*outputs)(const exec *x, result *res);
    void (*ui)(mp_sim *s, run *r, exec *x);
    const char *(*asks)(const exec *x);              /* a lazy input that it needs and lacks */
    char *(*expand)(const exec *x, char **answer);   /* JSON of the nodes it becomes; whose output is its own */
    int async, never_cached, key_has_id, hidden, embeds, no_ui, text;       /* hidden: gets prompt and extra_pnginfo; embeds: puts them into pictures; text: sends binary text */
} behaviour;

struct mp_sim {
    mp_sim_opts o;
    const traits *v;
    mp_rng rng;
    mp_json *catalogue, *costs;
    char *name;
    uint64_t counter, uses, letters;
    job **queue;                                     /* a binary heap, in Python's order */
    size_t n_queue, cap_queue;
    run *run;
    mp_time at, stalled;                             /* at: the worker's next moment */
    int cache_mode;                                  /* 0 classic, 1 lru, 2 none */
    int odd_frames;
    size_t odd_bytes;
    mp_time odd_over;
    int interrupt, wedged, free_nodes, lost_interrupts, late_interrupt;
    void (*on_start)(void *, const char *);
    void *on_start_ud;
    void (*on_deed)(void *, const char *, const char *, const char *, mp_sim_deed, mp_time);
    void *on_deed_ud;
    conn *conns;
    cached *cache;
    file *files;
    model *models;
    entry *history;
    size_t n_history;
    const mp_json *targets;                          /* partial_execution_targets of the prompt being validated */
    sim_failure *failures;
    mp_sim_request *held;                            /* while stalled; texts owned */
    size_t n_held, cap_held;
    mp_sim_out *out;
    size_t out_head, out_n, out_cap;
    void (*on_out)(void *);
    void *on_out_ud;
    mp_sim_record record;
    mp_time *gaps;
    size_t cap_gaps;
    mp_time idle_since;
};

/* server.c */
void reply(mp_sim *s, uint64_t tag, int status, const char *type, const char *body, size_t n);
void reply_with(mp_sim *s, uint64_t tag, int status, const char *type, char *headers, const char *body, size_t n);    /* takes the headers */
void emit(mp_sim *s, const char *sid, mp_buf *text);             /* sid NULL: to all; takes the text */
void emit_binary(mp_sim *s, const conn *c, mp_buf *bytes);
void emit_status(mp_sim *s);
conn *conn_of(mp_sim *s, const char *sid);
job *queue_pop(mp_sim *s);
void queue_put(mp_sim *s, job *j);
void queue_item(mp_sim *s, mp_buf *b, const job *j);         /* as /queue and the history show a prompt */
int queue_delete(mp_sim *s, const char *id);
void job_drop(job *j);
double wall_ms(const mp_sim *s, mp_time now);
void work_till(mp_sim *s, mp_time now);              /* all that the worker has to do by now */
typedef struct date { int year, month, day, hour, minute, second, weekday; } date;      /* UTC; month from 1, weekday from 0, Sunday */
date date_of(long seconds);                          /* since the Unix epoch */

/* http.c */
void trouble(mp_sim *s, uint64_t tag);               /* the 500 of the real server's HTTP library */
void serve(mp_sim *s, const mp_sim_request *r, mp_time now);

/* validate.c: what POST /prompt would refuse. 0: accepted, outputs set; else status and the body of the reply. */
int validate(mp_sim *s, const mp_json *prompt, char ***outputs, size_t *n_outputs, mp_buf *node_errors, mp_buf *error);

/* The prompt as it runs, and as history and queue show it: values converted to their declared types. */
mp_json *coerce(mp_sim *s, const mp_json *prompt);

/* catalogue.c */
extern const char mp_sim_catalogue[];
const mp_json *class_def(const mp_sim *s, const char *class_type);
int is_output_class(const mp_sim *s, const mp_json *prompt, const char *id, const char *class_type);

/* executor.c */
void run_start(mp_sim *s, job *j, mp_time now);
void run_step(mp_sim *s, mp_time now);
void run_free(run *r);
const char *run_shows(const run *r);                 /* display id of the node that works now, or NULL */

/* cache.c */
void cache_clear(mp_sim *s);
cached *cache_find(mp_sim *s, const node *n);
void cache_keep(mp_sim *s, const node *n);
void cache_evict(mp_sim *s, const run *r);           /* whatever this prompt does not contain goes */
void cache_used(mp_sim *s, const run *r, const node *n);     /* n has run */
void key_of(mp_sim *s, run *r, node *n);
result *result_new(const node *n);
void result_free(result *res);                       /* drops a reference; NULL is fine */
value *slot_add(result *res, size_t at, value v);    /* takes the text */

/* behave.c */
const behaviour *behaviour_of(const char *class_type);
const value *arg(const exec *x, const char *name);   /* of this call; NULL: absent */
double arg_number(const exec *x, const char *name, double otherwise);
int arg_true(const exec *x, const char *name);
const char *arg_text(const exec *x, const char *name, mp_buf *b);        /* of a string; NULL: none */
void ui_add(exec *x, const char *key, const char *json);
void py_repr(mp_buf *b, const mp_json *j);

/* jobs.c */
void jobs_list(mp_sim *s, const mp_sim_request *r);
void jobs_one(mp_sim *s, const mp_sim_request *r, const char *id);

/* executor.c */
node *node_by_id(run *r, const char *id);
void save_images(mp_sim *s, run *r, exec *x);
/* `as`: the id it was run under; another one when the answer comes from the cache and nodes were renumbered since. */
void to_outputs(run *r, node *n, const char *ui, const char *as);

/* history.c */
void history_add(mp_sim *s, run *r, mp_time now);
void history_remove(mp_sim *s, const char *id);      /* NULL: all */

/* cost.c */
void node_cost(mp_sim *s, const mp_json *prompt, const node *n, mp_time *once, int *steps, mp_time *per_step);
int is_link(const mp_json *v);
void size_of(const mp_json *prompt, const node *n, int *width, int *height, int *batch);

/* image.c */
typedef struct pixels { int w, h; unsigned char *rgba; } pixels;      /* rgba: the holder's to free */
void draw(pixels *out, int width, int height, uint64_t look);
int png_read(mp_str file, pixels *out);              /* 0: nothing that can be read */
void png_write(mp_buf *b, const pixels *x, int alpha, const char *prompt, const char *pnginfo_json);
void webp_write(mp_buf *b, const pixels *x);         /* one colour only */
void jpeg_write(mp_buf *b, const pixels *x);         /* grey */
void png_make(mp_buf *b, int width, int height, uint64_t look, const char *prompt, const char *pnginfo_json);
extern const unsigned char sim_jpeg[];
extern const size_t sim_jpeg_size;

/* files.c */
file *file_find(mp_sim *s, const char *type, const char *subfolder, const char *name);
file *file_add(mp_sim *s, const char *type, const char *subfolder, const char *name);
void upload(mp_sim *s, const mp_sim_request *r, int mask, mp_time now);
void view(mp_sim *s, const mp_sim_request *r);
char *url_decode(mp_str raw, int plus);               /* plus: "+" is a space, as in queries; the caller frees */
char *query_arg(mp_str path, const char *name);      /* decoded; NULL when absent; caller frees */
void file_free(mp_sim *s, file *f);
void files_free(mp_sim *s);
#endif
