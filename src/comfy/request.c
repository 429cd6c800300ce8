/* comfy/request.c -- floor 3, comfy: what we ask of a server: paths and bodies. */
#include "comfy/request.h"

void mp_request_prompt(mp_buf *b, const mp_workflow *w, const mp_prompt_opts *o) {
    mp_buf_puts(b, "{\"client_id\":");
    mp_buf_json(b, mp_str_of(o->client_id));
    mp_buf_puts(b, ",\"prompt_id\":");
    mp_buf_json(b, mp_str_of(o->prompt_id));
    if (o->front) mp_buf_puts(b, ",\"front\":true");
    mp_buf_puts(b, ",\"extra_data\":{\"moonpool\":");
    mp_buf_json(b, mp_str_of(o->prompt_id));
    if (o->api_key) {
        mp_buf_puts(b, ",\"api_key_comfy_org\":");
        mp_buf_json(b, mp_str_of(o->api_key));
    }
    if (o->extra_data && strlen(o->extra_data) > 2) {            /* "{}" adds nothing */
        mp_buf_putc(b, ',');
        mp_buf_puts(b, o->extra_data + 1);                       /* brings the closing brace */
    } else mp_buf_putc(b, '}');
    mp_buf_puts(b, ",\"prompt\":");
    mp_workflow_write(b, w);
    mp_buf_putc(b, '}');
}

void mp_request_delete(mp_buf *b, const char *id) {
    mp_buf_puts(b, "{\"delete\":[");
    mp_buf_json(b, mp_str_of(id));
    mp_buf_puts(b, "]}");
}

void mp_request_interrupt(mp_buf *b, const char *id) {
    mp_buf_puts(b, "{\"prompt_id\":");
    mp_buf_json(b, mp_str_of(id));
    mp_buf_putc(b, '}');
}

void mp_request_history(mp_buf *path, const char *id) {
    mp_buf_puts(path, "/history/");
    mp_buf_url(path, mp_str_of(id));
}

void mp_request_view(mp_buf *path, mp_str filename, mp_str subfolder, mp_str type) {
    mp_buf_puts(path, "/view?filename=");
    mp_buf_url(path, filename);
    mp_buf_puts(path, "&subfolder=");
    mp_buf_url(path, subfolder);
    mp_buf_puts(path, "&type=");
    mp_buf_url(path, type);
}
