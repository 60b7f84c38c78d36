/* Room io: the Hub client: what it asks for, what it keeps, and how it goes on. */
#define _GNU_SOURCE
#include <sys/stat.h>
#include <unistd.h>

#include "io/hub.h"
#include "support/hub_world.h"

typedef struct seen {
    int calls;
    uint64_t done, total;
} seen;

static void on_progress(void *user, const char *file, uint64_t done, uint64_t total) {
    seen *s = user;
    if (strcmp(file, "model.safetensors") != 0) return;
    s->calls++;
    s->done = done;
    s->total = total;
}

static void cache_has_the_shared_layout(void **state) {
    (void)state;
    hub_world w;
    char *path, at[1300], target[1300] = {0}, *text;
    seen s = {0};
    hub_world_start(&w, "layout");
    w.options.progress = on_progress;
    w.options.progress_user = &s;
    assert_ok(graft_hub_download(w.ctx, "org/tiny", &w.options, &path, &err));
    snprintf(at, sizeof at, "%s/models--org--tiny/snapshots/%s", w.cache, hub_commit);
    assert_string_equal(path, at);
    snprintf(at, sizeof at, "%s/model.safetensors", path);
    assert_true(readlink(at, target, sizeof target - 1) > 0);
    snprintf(at, sizeof at, "../../blobs/%s", w.sha);
    assert_string_equal(target, at);
    snprintf(at, sizeof at, "%s/config.json", path);
    assert_ok(gr_read_file(NULL, at, 1000, &text, NULL, &err));
    assert_string_equal(text, hub_config);
    gr_free(NULL, text);
    snprintf(at, sizeof at, "%s/models--org--tiny/refs/main", w.cache);
    assert_ok(gr_read_file(NULL, at, 1000, &text, NULL, &err));
    assert_string_equal(text, hub_commit);
    gr_free(NULL, text);
    static const char *const unwanted[] = {"README.md", "onnx", "consolidated.safetensors", ".gitattributes"};
    for (size_t i = 0; i < GR_COUNT(unwanted); i++) {
        snprintf(at, sizeof at, "%s/%s", path, unwanted[i]);
        assert_false(gr_path_exists(at));
    }
    hub_check_large(&w);
    assert_true(s.calls >= 1 && s.done == HUB_LARGE && s.total == HUB_LARGE);
    assert_string_equal(w.hub_token, "Bearer secret");
    assert_string_equal(w.cdn_token, ""); /* the token stays with the Hub */
    assert_int_equal(w.cdn_gets, 1);
    assert_ok(hub_get(&w, &err)); /* the second time only the list is asked for */
    assert_int_equal(w.cdn_gets, 1);
    assert_int_equal(w.heads, 2);
    assert_int_equal(w.lists, 2);
    graft_free(w.ctx, path);
    hub_world_stop(&w);
}

static void interrupted_transfers_go_on(void **state) {
    (void)state;
    hub_world w;
    graft_error failure;
    hub_world_start(&w, "resume");
    w.cut[0] = 30000;
    w.cut[1] = 50000;
    w.n_cut = 2;
    assert_ok(hub_get(&w, &err));
    hub_check_large(&w);
    assert_string_equal(w.ranges, ";bytes=50000-;bytes=80000-;");
    hub_world_stop(&w);

    hub_world_start(&w, "resume2"); /* across calls */
    w.options.max_retries = -1;
    w.cut[0] = 70000;
    w.n_cut = 1;
    assert_int_equal(hub_get(&w, &failure), GRAFT_ERR_NETWORK);
    assert_non_null(strstr(failure.text, "model.safetensors of org/tiny"));
    assert_true(gr_path_exists(hub_blob_path(&w, ".incomplete")));
    assert_false(gr_path_exists(hub_blob_path(&w, "")));
    assert_ok(hub_get(&w, &err));
    hub_check_large(&w);
    assert_string_equal(w.ranges, ";bytes=70000-;");
    hub_world_stop(&w);
}

static void servers_without_ranges_are_endured(void **state) {
    (void)state;
    hub_world w;
    graft_error failure;
    hub_world_start(&w, "norange");
    w.no_range = true;
    w.cut[0] = 70000;
    w.n_cut = 1;
    assert_ok(hub_get(&w, &err));
    hub_check_large(&w);
    hub_world_stop(&w);
    hub_world_start(&w, "badrange");
    w.bad_range = true;
    w.cut[0] = 70000;
    w.n_cut = 1;
    assert_int_equal(hub_get(&w, &failure), GRAFT_ERR_FORMAT);
    assert_non_null(strstr(failure.text, "expected bytes from 70000 on"));
    hub_world_stop(&w);
    hub_world_start(&w, "nosize");
    w.no_size = true;
    assert_ok(hub_get(&w, &err));
    hub_check_large(&w);
    hub_world_stop(&w);
}

static void leave_incomplete(hub_world *w, size_t n) {
    char dir[1100];
    char *junk = gr_calloc(NULL, n, 1);
    snprintf(dir, sizeof dir, "%s/models--org--tiny/blobs", w->cache);
    assert_ok(gr_make_dirs(dir, &err));
    assert_ok(gr_write_file(NULL, hub_blob_path(w, ".incomplete"), junk, n, &err));
    gr_free(NULL, junk);
}

static void wrong_leftovers_are_loaded_again(void **state) {
    (void)state;
    static const size_t sizes[] = {1000, HUB_LARGE, HUB_LARGE + 5};
    for (size_t i = 0; i < GR_COUNT(sizes); i++) {
        hub_world w;
        char name[32];
        snprintf(name, sizeof name, "junk%zu", i);
        hub_world_start(&w, name);
        leave_incomplete(&w, sizes[i]);
        assert_ok(hub_get(&w, &err));
        hub_check_large(&w);
        hub_world_stop(&w);
    }
}

static void busy_servers_are_asked_again(void **state) {
    (void)state;
    hub_world w;
    graft_error failure;
    hub_world_start(&w, "busy");
    w.busy = 3;
    assert_ok(hub_get(&w, &err));
    hub_check_large(&w);
    assert_int_equal(w.cdn_gets, 4);
    hub_world_stop(&w);
    hub_world_start(&w, "busier");
    w.busy = 100;
    w.options.max_retries = 2;
    assert_int_equal(hub_get(&w, &failure), GRAFT_ERR_NETWORK);
    assert_int_equal(w.cdn_gets, 3);
    w.options.endpoint = "http://127.0.0.1:1"; /* nobody listens there */
    assert_int_equal(hub_get(&w, &failure), GRAFT_ERR_NETWORK);
    hub_world_stop(&w);
}

static void patterns_choose(void **state) {
    (void)state;
    static const char *const only[] = {"con*.json", NULL};
    hub_world w;
    char *path, at[1300];
    hub_world_start(&w, "patterns");
    w.options.patterns = only;
    assert_ok(graft_hub_download(w.ctx, "org/tiny", &w.options, &path, &err));
    assert_int_equal(w.cdn_gets, 0);
    graft_free(w.ctx, path);
    hub_world_stop(&w);
    hub_world_start(&w, "gguf"); /* the only GGUF file of a model without safetensors is wanted */
    w.list = HUB_LIST("tiny.gguf");
    assert_ok(graft_hub_download(w.ctx, "org/tiny", &w.options, &path, &err));
    snprintf(at, sizeof at, "%s/tiny.gguf", path);
    assert_true(gr_path_exists(at));
    graft_free(w.ctx, path);
    hub_world_stop(&w);
    hub_world_start(&w, "ggufs"); /* all parts of a split one too */
    w.list = HUB_LIST("t-00001-of-00002.gguf\"},{\"rfilename\":\"t-00002-of-00002.gguf");
    assert_ok(graft_hub_download(w.ctx, "org/tiny", &w.options, &path, &err));
    snprintf(at, sizeof at, "%s/t-00002-of-00002.gguf", path);
    assert_true(gr_path_exists(at));
    graft_free(w.ctx, path);
    hub_world_stop(&w);
}

static void cached_models_need_no_network(void **state) {
    (void)state;
    hub_world w;
    char *path;
    graft_error failure;
    hub_world_start(&w, "offline");
    assert_int_equal(graft_hub_find(w.ctx, "org/tiny", &w.options, &path, &failure), GRAFT_ERR_NOT_FOUND);
    assert_non_null(strstr(failure.text, "is not in the cache"));
    assert_ok(hub_get(&w, &err));
    assert_ok(graft_hub_find(w.ctx, "org/tiny", &w.options, &path, &err));
    graft_free(w.ctx, path);
    w.options.revision = hub_commit;
    assert_ok(graft_hub_find(w.ctx, "org/tiny", &w.options, &path, &err));
    graft_free(w.ctx, path);
    w.options.revision = "other";
    assert_int_equal(graft_hub_find(w.ctx, "org/tiny", &w.options, &path, &failure), GRAFT_ERR_NOT_FOUND);
    w.options.revision = NULL;
    int before = w.lists;
    w.options.offline = 1;
    assert_ok(hub_get(&w, &err));
    w.options.offline = 0;
    setenv("HF_HUB_OFFLINE", "1", 1);
    assert_ok(hub_get(&w, &err));
    unsetenv("HF_HUB_OFFLINE");
    assert_int_equal(w.lists, before);
    w.status = 500; /* no news from the Hub: what is there will do */
    w.options.max_retries = -1;
    assert_ok(hub_get(&w, &err));
    assert_int_equal(unlink(hub_blob_path(&w, "")), 0); /* a link without its content is not a file */
    assert_int_equal(graft_hub_find(w.ctx, "org/tiny", &w.options, &path, &failure), GRAFT_ERR_NOT_FOUND);
    assert_non_null(strstr(failure.text, "not all of it"));
    hub_world_stop(&w);
}

static void environment_is_honoured(void **state) {
    (void)state;
    hub_world w;
    char home[1100], at[1200], *path;
    hub_world_start(&w, "env");
    snprintf(home, sizeof home, "%s/home", w.cache);
    assert_ok(gr_make_dirs(home, &err));
    snprintf(at, sizeof at, "%s/token", home);
    assert_ok(gr_write_file(NULL, at, " from-file\n", 11, &err));
    setenv("HF_HOME", home, 1);
    setenv("HF_ENDPOINT", w.hub.url, 1);
    graft_hub_options o = {.retry_milliseconds = 1};
    assert_ok(graft_hub_download(w.ctx, "org/tiny", &o, &path, &err));
    snprintf(at, sizeof at, "%s/hub/models--org--tiny/snapshots/%s", home, hub_commit);
    assert_string_equal(path, at);
    graft_free(w.ctx, path);
    assert_string_equal(w.hub_token, "Bearer from-file");
    setenv("HF_TOKEN", "from-env", 1);
    assert_ok(graft_hub_download(w.ctx, "org/tiny", &o, &path, &err));
    graft_free(w.ctx, path);
    assert_string_equal(w.hub_token, "Bearer from-env");
    o.token = "";
    assert_ok(graft_hub_download(w.ctx, "org/tiny", &o, &path, &err));
    graft_free(w.ctx, path);
    assert_string_equal(w.hub_token, "");
    graft_error failure;
    o.token = "a\r\nX-Evil: 1";
    assert_int_equal(graft_hub_download(w.ctx, "org/tiny", &o, &path, &failure), GRAFT_ERR_ARGUMENT);
    unsetenv("HF_TOKEN");
    o.token = NULL;
    snprintf(at, sizeof at, "%s/elsewhere", w.cache);
    setenv("HF_HUB_CACHE", at, 1);
    assert_ok(graft_hub_download(w.ctx, "org/tiny", &o, &path, &err));
    assert_non_null(strstr(path, "/elsewhere/models--org--tiny/"));
    graft_free(w.ctx, path);
    unsetenv("HF_HUB_CACHE");
    unsetenv("HF_HOME");
    unsetenv("HF_ENDPOINT");
    hub_world_stop(&w);
}

static void cancelled_transfers_stop_and_go_on(void **state) {
    (void)state;
    hub_world w;
    graft_error failure;
    hub_world_start(&w, "cancel");
    w.slow = true;
    assert_int_equal(hub_get(&w, &failure), GRAFT_ERR_CANCELLED);
    graft_context_reset_cancel(w.ctx);
    w.slow = false;
    assert_ok(hub_get(&w, &err));
    hub_check_large(&w);
    hub_world_stop(&w);
}

static graft_status sweep(const graft_allocator *a, void *arg) {
    hub_world *w = arg;
    graft_context *ctx;
    graft_context_options o = {.allocator = *a};
    char *path;
    gr_remove_tree(w->cache, NULL);
    GR_TRY(graft_context_new(&o, &ctx, NULL));
    graft_status st = graft_hub_download(ctx, "org/tiny", &w->options, &path, NULL);
    if (st == GRAFT_OK) {
        graft_free(ctx, path);
        st = graft_hub_find(ctx, "org/tiny", &w->options, &path, NULL);
        if (st == GRAFT_OK) graft_free(ctx, path);
    }
    graft_context_free(ctx);
    return st;
}

static void failed_allocations_leak_nothing(void **state) {
    (void)state;
    hub_world w;
    hub_world_start(&w, "sweep");
    test_allocation_sweep(sweep, &w, 0, 1);
    hub_world_stop(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cache_has_the_shared_layout),
        cmocka_unit_test(interrupted_transfers_go_on),
        cmocka_unit_test(servers_without_ranges_are_endured),
        cmocka_unit_test(wrong_leftovers_are_loaded_again),
        cmocka_unit_test(busy_servers_are_asked_again),
        cmocka_unit_test(patterns_choose),
        cmocka_unit_test(cached_models_need_no_network),
        cmocka_unit_test(environment_is_honoured),
        cmocka_unit_test(cancelled_transfers_stop_and_go_on),
        cmocka_unit_test(failed_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
