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
    const char *version, *reported, *os;
    int progress_state, own_ids, missing_node_type, features, targeted_interrupt, throttled, empty_object, create_time, preview_method;
} traits;

typedef struct conn { uint64_t tag; char *sid; int in_table, spoke, metadata; struct conn *next; } conn;
typedef struct cached { char key[MP_DIGEST_HEX]; char *ui, *id; UT_hash_handle hh; } cached;   /* id: the node it was run as */
typedef struct file { char *key; char *bytes; size_t n; int width, height; uint64_t look; char *prompt, *pnginfo; UT_hash_handle hh; } file;
typedef struct model { char *name; double gb; uint64_t used; struct model *next; } model;

typedef struct job {
    double number;
    int number_given;
    char *id, *client_id;
    mp_json *body;
    const mp_json *prompt, *extra;
    char **outputs;
    size_t n_outputs;
    mp_time created;
} job;

typedef struct entry { char *id, *json; struct entry *next; } entry;
typedef struct sim_failure { char *class_type, *type, *message; int times; struct sim_failure *next; } sim_failure;

typedef enum { N_IDLE, N_WANTED, N_DONE, N_CACHED } node_state;
typedef struct node {
    const char *id, *class_type;
    const mp_json *inputs;
    const mp_json *def;
    char key[MP_DIGEST_HEX];
    int keyed, is_output, requested, touched;
    node_state state;
    double value, max;
} node;

typedef enum { R_CACHED, R_NEXT, R_STEP, R_END } phase;
typedef struct run {
    job *j;
    node *nodes;
    size_t n, at;
    phase phase;
    int step, steps, shown_step, verdict;            /* verdict: 0 success, 1 error, 2 interrupted */
    mp_time step_cost, rest, shown_at;
    mp_buf outputs, messages, meta;
} run;

struct mp_sim {
    mp_sim_opts o;
    const traits *v;
    mp_rng rng;
    mp_json *catalogue, *costs;
    char *name;
    uint64_t counter, uses;
    job **queue;                                     /* a binary heap, in Python's order */
    size_t n_queue, cap_queue;
    run *run;
    mp_time at, stalled;                             /* at: the worker's next moment */
    int interrupt, wedged, free_nodes, lost_interrupts, late_interrupt;
    void (*on_start)(void *, const char *);
    void *on_start_ud;
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
    mp_sim_record record;
    mp_time *gaps;
    size_t cap_gaps;
    mp_time idle_since;
};

/* server.c */
void reply(mp_sim *s, uint64_t tag, int status, const char *type, const char *body, size_t n);
void emit(mp_sim *s, const char *sid, mp_buf *text);             /* sid NULL: to all; takes the text */
void emit_binary(mp_sim *s, const conn *c, mp_buf *bytes);
void emit_status(mp_sim *s);
conn *conn_of(mp_sim *s, const char *sid);
job *queue_pop(mp_sim *s);
void queue_put(mp_sim *s, job *j);
void extra_data(mp_sim *s, mp_buf *b, const job *j);      /* as queue and history show it */
void job_number(mp_buf *b, const job *j);
int queue_delete(mp_sim *s, const char *id);
void job_drop(job *j);
double wall_ms(const mp_sim *s, mp_time now);

/* http.c */
void serve(mp_sim *s, const mp_sim_request *r, mp_time now);

/* validate.c: what POST /prompt would refuse. 0: accepted, outputs set; else status and the body of the reply. */
int validate(mp_sim *s, const mp_json *prompt, char ***outputs, size_t *n_outputs, mp_buf *node_errors, mp_buf *error);

/* catalogue.c */
extern const char mp_sim_catalogue[];
const mp_json *class_def(const mp_sim *s, const char *class_type);
int is_output_class(const mp_sim *s, const mp_json *prompt, const char *id, const char *class_type);

/* executor.c */
void cache_clear(mp_sim *s);
void run_start(mp_sim *s, job *j, mp_time now);
void run_step(mp_sim *s, mp_time now);
void run_free(run *r);

/* cost.c */
void node_cost(mp_sim *s, const mp_json *prompt, const node *n, mp_time *once, int *steps, mp_time *per_step);
int is_link(const mp_json *v);
void size_of(const mp_json *prompt, const node *n, int *width, int *height, int *batch);

/* image.c */
void png_make(mp_buf *b, int width, int height, uint64_t look, const char *prompt, const char *pnginfo_json);
extern const unsigned char sim_jpeg[];
extern const size_t sim_jpeg_size;

/* files.c */
file *file_find(mp_sim *s, const char *type, const char *subfolder, const char *name);
file *file_add(mp_sim *s, const char *type, const char *subfolder, const char *name);
void upload(mp_sim *s, const mp_sim_request *r, int mask);
void view(mp_sim *s, const mp_sim_request *r);
char *url_decode(mp_str raw);                        /* caller frees */
char *query_arg(mp_str path, const char *name);      /* decoded; NULL when absent; caller frees */
void file_free(mp_sim *s, file *f);
void files_free(mp_sim *s);
#endif
