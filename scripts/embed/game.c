/* scripts/embed/game.c -- a game with Lua of its own: it loads the module into its state, and steps it once per frame for as
 * long as there is work. Previews reach it as bytes. It says how long the steps took.
 * usage: game [--frames N] [--frame-us N] URL... */
#include "moonpool.h"
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int previews, width, height;

static void on_preview(void *ud, const moonpool_image *image) {
    (void)ud;
    previews++;
    width = image->width;                            /* a game would decode image->bytes into a texture here */
    height = image->height;
}

static void on_log(void *ud, int level, const char *line) {
    (void)ud;
    fprintf(stderr, "[%d] %s\n", level, line);
}

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_size(const void *a, const void *b) { double x = *(const double *)a, y = *(const double *)b; return x < y ? -1 : x > y; }

/* The game's own script: a job for each server, and a new one whenever one ends, till it says stop. */
static const char script[] =
    "local moonpool, urls = require 'moonpool', ...\n"
    "done, failed, stop = 0, 0, false\n"
    "local pool = moonpool.pool { log_level = 'error' }\n"
    "for _, url in ipairs(urls) do assert(pool:add_client(url)) end\n"
    "local n = 0\n"
    "local function next_job()\n"
    "  n = n + 1\n"
    "  assert(pool:submit(moonpool.workflow.from {\n"
    "    ['4'] = { class_type = 'CheckpointLoaderSimple', inputs = { ckpt_name = 'sd15.safetensors' } },\n"
    "    ['5'] = { class_type = 'EmptyLatentImage', inputs = { width = 512, height = 512, batch_size = 1 } },\n"
    "    ['6'] = { class_type = 'CLIPTextEncode', inputs = { text = 'a castle, number ' .. n, clip = { '4', 1 } } },\n"
    "    ['3'] = { class_type = 'KSampler', inputs = { seed = n, steps = 20, cfg = 7.0, sampler_name = 'euler', scheduler = 'normal', denoise = 1.0,\n"
    "      model = { '4', 0 }, positive = { '6', 0 }, negative = { '6', 0 }, latent_image = { '5', 0 } } },\n"
    "    ['8'] = { class_type = 'VAEDecode', inputs = { samples = { '3', 0 }, vae = { '4', 2 } } },\n"
    "    ['9'] = { class_type = 'SaveImage', inputs = { images = { '8', 0 }, filename_prefix = 'game' } } }))\n"
    "end\n"
    "for _, name in ipairs { 'job:completed', 'job:failed' } do\n"
    "  pool:on(name, function()\n"
    "    if name == 'job:completed' then done = done + 1 else failed = failed + 1 end\n"
    "    if not stop then moonpool.spawn(next_job) end\n"
    "  end)\n"
    "end\n"
    "pool:on('job:progress', function(p) overall = p.overall end)\n"
    "for _ = 1, 2 * #urls do next_job() end\n";

static int number(lua_State *L, const char *name) {
    lua_getglobal(L, name);
    int n = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    return n;
}

int main(int argc, char **argv) {
    int frames = 600, frame_us = 16667, i = 1;
    for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
        if (strcmp(argv[i], "--frames") == 0) frames = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--frame-us") == 0) frame_us = atoi(argv[i + 1]);
        else break;
    }
    if (i >= argc || argv[i][0] == '-' || frames < 1) return fprintf(stderr, "usage: game [--frames N] [--frame-us N] URL...\n"), 2;
    double *took = malloc((size_t)frames * sizeof *took);
    lua_State *L = luaL_newstate();
    if (!L || !took) return 1;
    luaL_openlibs(L);
    luaL_requiref(L, "moonpool", luaopen_moonpool, 0);
    lua_pop(L, 1);
    moonpool *m = moonpool_of(L);
    moonpool_on_log(m, on_log, NULL);
    moonpool_on_preview(m, on_preview, NULL);
    if (luaL_loadstring(L, script) != LUA_OK) return fprintf(stderr, "%s\n", lua_tostring(L, -1)), 1;
    lua_newtable(L);
    for (int k = i; k < argc; k++) { lua_pushstring(L, argv[k]); lua_rawseti(L, -2, k - i + 1); }
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) return fprintf(stderr, "%s\n", luaL_tolstring(L, -1, NULL)), 1;

    double due = now_us();
    for (int f = 0; f < frames; f++) {
        double began = now_us();
        moonpool_step(m, 0);
        took[f] = now_us() - began;
        due += frame_us;                             /* what a game would draw in the meantime */
        double left = due - now_us();
        struct timespec t = { 0, left > 0 ? (long)(left * 1000) : 0 };
        if (left > 0) nanosleep(&t, NULL);
    }
    lua_pushboolean(L, 1);
    lua_setglobal(L, "stop");
    for (int f = 0; moonpool_unfinished(m) && f < 3000; f++) moonpool_step(m, 10);
    qsort(took, (size_t)frames, sizeof *took, by_size);
    printf("%d frames, %d jobs done, %d failed, %d previews of %dx%d\n", frames, number(L, "done"), number(L, "failed"), previews, width, height);
    printf("a step took %.0f us at p50, %.0f at p99, %.0f at worst\n", took[frames / 2], took[(size_t)(frames * 0.99)], took[frames - 1]);
    int bad = moonpool_unfinished(m) > 0 || number(L, "failed") > 0 || number(L, "done") == 0;
    lua_close(L);
    free(took);
    return bad;
}
