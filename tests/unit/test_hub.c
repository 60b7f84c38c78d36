/* Room io: the Hub client, against servers on the loopback interface. One plays the Hub, the other (another port, so
 * another host) the content network to which the Hub sends for large files. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/hub.h"
#include "support/corrupt.h"
#include "support/server.h"

enum { LARGE = 200000 };
static const char commit[] = "0123456789abcdef0123456789abcdef01234567";
static const char config_text[] = "{\"model_type\":\"llama\"}";

typedef struct world {
    test_server hub, cdn;
    unsigned char large[LARGE];
    char sha[65];
    const char *list; /* answer to the list request */
    int status;       /* of everything, when not 0; `error_code` with it */
    const char *error_code;
    int busy;          /* that many requests of the large file's content get 503 first */
    int cut[8], n_cut; /* the next contents end after that many bytes */
    bool no_range, bad_range, wrong_content, loop, slow, bad_etag, other_commit, no_size;
    /* What was asked. */
    int lists, heads, gets, cdn_gets;
    char hub_token[256], cdn_token[256], ranges[256];
    graft_context *ctx;
    char cache[900];
    graft_hub_options options;
} world;

static const char list_two[] =
    "{\"sha\":\"0123456789abcdef0123456789abcdef01234567\",\"siblings\":[{\"rfilename\":\".gitattributes\"},"
    "{\"rfilename\":\"README.md\"},{\"rfilename\":\"config.json\"},{\"rfilename\":\"model.safetensors\"},"
    "{\"rfilename\":\"consolidated.safetensors\"},{\"rfilename\":\"onnx/model.json\"}]}";

static void serve_large(world *w, const test_request *r, int fd) {
    char headers[256] = "Accept-Ranges: bytes\r\n";
    long from = 0;
    w->cdn_gets++;
    snprintf(w->cdn_token, sizeof w->cdn_token, "%s", r->authorization);
    size_t used = strlen(w->ranges);
    snprintf(w->ranges + used, sizeof w->ranges - used, "%s;", r->range);
    if (w->busy > 0) {
        w->busy--;
        test_respond(fd, r, 503, "", "later", 5);
        return;
    }
    if (!w->no_range) sscanf(r->range, "bytes=%ld-", &from);
    if (from >= LARGE) {
        test_respond(fd, r, 416, "", "", 0);
        return;
    }
    if (from)
        snprintf(headers, sizeof headers, "Content-Range: bytes %ld-%d/%d\r\n", w->bad_range ? from + 1 : from,
                 LARGE - 1, LARGE);
    unsigned char *body = w->large;
    if (w->wrong_content) {
        body = gr_alloc(NULL, LARGE);
        memset(body, 7, LARGE);
    }
    size_t n = (size_t)(LARGE - from);
    if (w->n_cut > 0) { /* promise all, send a part */
        char head[512];
        int k =
            snprintf(head, sizeof head, "HTTP/1.1 %d X\r\n%sContent-Length: %zu\r\n\r\n", from ? 206 : 200, headers, n);
        test_send(fd, head, (size_t)k);
        test_send(fd, body + from, (size_t)w->cut[--w->n_cut]);
    } else if (w->slow) {
        char head[512];
        int k = snprintf(head, sizeof head, "HTTP/1.1 200 X\r\nContent-Length: %zu\r\n\r\n", n);
        test_send(fd, head, (size_t)k);
        test_send(fd, body, 1000);
        graft_context_cancel(w->ctx);
        usleep(300000);
    } else {
        test_respond(fd, r, from ? 206 : 200, headers, body + from, n);
    }
    if (w->wrong_content) gr_free(NULL, body);
}

static void on_cdn(test_server *s, const test_request *r, int fd, void *user) {
    (void)s;
    world *w = user;
    if (strncmp(r->path, "/content?signed", 15) == 0)
        serve_large(w, r, fd);
    else
        test_respond(fd, r, 404, "", "", 0);
}

static void on_hub(test_server *s, const test_request *r, int fd, void *user) {
    world *w = user;
    char headers[1024];
    snprintf(w->hub_token, sizeof w->hub_token, "%s", r->authorization);
    if (w->status) {
        snprintf(headers, sizeof headers, "%s%s%s", w->error_code ? "X-Error-Code: " : "",
                 w->error_code ? w->error_code : "", w->error_code ? "\r\n" : "");
        test_respond(fd, r, w->status, headers, "no", 2);
    } else if (w->loop) {
        test_respond(fd, r, 302, "Location: /again\r\n", "", 0);
    } else if (strncmp(r->path, "/api/models/org/tiny/revision/", 30) == 0) {
        w->lists++;
        test_respond(fd, r, 200, "", w->list, strlen(w->list));
    } else if (strstr(r->path, "/config.json") && strncmp(r->path, "/api/resolve-cache/", 19) != 0) {
        test_respond(fd, r, 307, "Location: /api/resolve-cache/config.json\r\n", "",
                     0); /* as the Hub does for small files */
    } else if (strcmp(r->path, "/api/resolve-cache/config.json") == 0) {
        *(strcmp(r->method, "HEAD") ? &w->gets : &w->heads) += 1;
        test_respond(fd, r, 200, "ETag: W/\"c0ffee\"\r\n", config_text, sizeof config_text - 1);
    } else if (strstr(r->path, "/resolve/") && (strstr(r->path, ".safetensors") || strstr(r->path, ".gguf"))) {
        *(strcmp(r->method, "HEAD") ? &w->gets : &w->heads) += 1;
        char size[64] = "";
        if (!w->no_size) snprintf(size, sizeof size, "X-Linked-Size: %d\r\n", LARGE);
        snprintf(headers, sizeof headers,
                 "X-Repo-Commit: %s\r\nX-Linked-Etag: \"%s%s\"\r\n%sLocation: %s/content?signed=1\r\n",
                 w->other_commit ? "ffffffffffffffffffffffffffffffffffffffff" : commit, w->bad_etag ? "../" : "",
                 w->sha, size, w->cdn.url);
        test_respond(fd, r, 302, headers, "", 0);
    } else {
        test_respond(fd, r, 404, "X-Error-Code: EntryNotFound\r\n", "", 0);
    }
    (void)s;
}

static void world_start(world *w, const char *name) {
    static const char *const variables[] = {"HF_HOME",
                                            "HF_TOKEN",
                                            "HF_TOKEN_PATH",
                                            "HF_ENDPOINT",
                                            "HF_HUB_CACHE",
                                            "HF_HUB_OFFLINE",
                                            "XDG_CACHE_HOME",
                                            "HUGGING_FACE_HUB_TOKEN",
                                            "HUGGINGFACE_HUB_CACHE",
                                            "TRANSFORMERS_OFFLINE",
                                            "http_proxy",
                                            "HTTP_PROXY",
                                            "all_proxy",
                                            "ALL_PROXY"};
    for (size_t i = 0; i < GR_COUNT(variables); i++) unsetenv(variables[i]);
    *w = (world){.list = list_two};
    setenv("HOME", test_temp_dir(), 1);
    for (size_t i = 0; i < LARGE; i++) w->large[i] = (unsigned char)gr_rng_u64(1, 2, i);
    gr_sha256 s;
    gr_sha256_init(&s);
    gr_sha256_add(&s, w->large, LARGE);
    gr_sha256_end_hex(&s, w->sha);
    test_server_start(&w->hub, on_hub, w);
    test_server_start(&w->cdn, on_cdn, w);
    snprintf(w->cache, sizeof w->cache, "%s/%s", test_temp_dir(), name);
    w->options =
        (graft_hub_options){.endpoint = w->hub.url, .cache_dir = w->cache, .token = "secret", .retry_milliseconds = 1};
    assert_ok(graft_context_new(NULL, &w->ctx, &err));
}

static void world_stop(world *w) {
    test_server_stop(&w->hub);
    test_server_stop(&w->cdn);
    graft_context_free(w->ctx);
}

static graft_status get(world *w, graft_error *failure) {
    char *path;
    graft_status st = graft_hub_download(w->ctx, "org/tiny", &w->options, &path, failure);
    if (st == GRAFT_OK) graft_free(w->ctx, path);
    return st;
}

static char *blob_path(world *w, const char *tail) {
    static char path[1200];
    snprintf(path, sizeof path, "%s/models--org--tiny/blobs/%s%s", w->cache, w->sha, tail);
    return path;
}

static void check_large(world *w) {
    size_t n;
    unsigned char *bytes = test_read_file(blob_path(w, ""), &n);
    assert_int_equal(n, LARGE);
    assert_memory_equal(bytes, w->large, LARGE);
    gr_free(NULL, bytes);
    assert_false(gr_path_exists(blob_path(w, ".incomplete")));
}

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
    world w;
    char *path, at[1300], target[1300] = {0}, *text;
    seen s = {0};
    world_start(&w, "layout");
    w.options.progress = on_progress;
    w.options.progress_user = &s;
    assert_ok(graft_hub_download(w.ctx, "org/tiny", &w.options, &path, &err));
    snprintf(at, sizeof at, "%s/models--org--tiny/snapshots/%s", w.cache, commit);
    assert_string_equal(path, at);
    snprintf(at, sizeof at, "%s/model.safetensors", path);
    assert_true(readlink(at, target, sizeof target - 1) > 0);
    snprintf(at, sizeof at, "../../blobs/%s", w.sha);
    assert_string_equal(target, at);
    snprintf(at, sizeof at, "%s/config.json", path);
    assert_ok(gr_read_file(NULL, at, 1000, &text, NULL, &err));
    assert_string_equal(text, config_text);
    gr_free(NULL, text);
    snprintf(at, sizeof at, "%s/models--org--tiny/refs/main", w.cache);
    assert_ok(gr_read_file(NULL, at, 1000, &text, NULL, &err));
    assert_string_equal(text, commit);
    gr_free(NULL, text);
    static const char *const unwanted[] = {"README.md", "onnx", "consolidated.safetensors", ".gitattributes"};
    for (size_t i = 0; i < GR_COUNT(unwanted); i++) {
        snprintf(at, sizeof at, "%s/%s", path, unwanted[i]);
        assert_false(gr_path_exists(at));
    }
    check_large(&w);
    assert_true(s.calls >= 1 && s.done == LARGE && s.total == LARGE);
    assert_string_equal(w.hub_token, "Bearer secret");
    assert_string_equal(w.cdn_token, ""); /* the token stays with the Hub */
    assert_int_equal(w.cdn_gets, 1);
    assert_ok(get(&w, &err)); /* the second time only the list is asked for */
    assert_int_equal(w.cdn_gets, 1);
    assert_int_equal(w.heads, 2);
    assert_int_equal(w.lists, 2);
    graft_free(w.ctx, path);
    world_stop(&w);
}

static void interrupted_transfers_go_on(void **state) {
    (void)state;
    world w;
    graft_error failure;
    world_start(&w, "resume");
    w.cut[0] = 30000;
    w.cut[1] = 50000;
    w.n_cut = 2;
    assert_ok(get(&w, &err));
    check_large(&w);
    assert_string_equal(w.ranges, ";bytes=50000-;bytes=80000-;");
    world_stop(&w);

    world_start(&w, "resume2"); /* across calls */
    w.options.max_retries = -1;
    w.cut[0] = 70000;
    w.n_cut = 1;
    assert_int_equal(get(&w, &failure), GRAFT_ERR_NETWORK);
    assert_non_null(strstr(failure.text, "model.safetensors of org/tiny"));
    assert_true(gr_path_exists(blob_path(&w, ".incomplete")));
    assert_false(gr_path_exists(blob_path(&w, "")));
    assert_ok(get(&w, &err));
    check_large(&w);
    assert_string_equal(w.ranges, ";bytes=70000-;");
    world_stop(&w);
}

static void servers_without_ranges_are_endured(void **state) {
    (void)state;
    world w;
    graft_error failure;
    world_start(&w, "norange");
    w.no_range = true;
    w.cut[0] = 70000;
    w.n_cut = 1;
    assert_ok(get(&w, &err));
    check_large(&w);
    world_stop(&w);
    world_start(&w, "badrange");
    w.bad_range = true;
    w.cut[0] = 70000;
    w.n_cut = 1;
    assert_int_equal(get(&w, &failure), GRAFT_ERR_FORMAT);
    assert_non_null(strstr(failure.text, "expected bytes from 70000 on"));
    world_stop(&w);
    world_start(&w, "nosize");
    w.no_size = true;
    assert_ok(get(&w, &err));
    check_large(&w);
    world_stop(&w);
}

static void leave_incomplete(world *w, size_t n) {
    char dir[1100];
    char *junk = gr_calloc(NULL, n, 1);
    snprintf(dir, sizeof dir, "%s/models--org--tiny/blobs", w->cache);
    assert_ok(gr_make_dirs(dir, &err));
    assert_ok(gr_write_file(NULL, blob_path(w, ".incomplete"), junk, n, &err));
    gr_free(NULL, junk);
}

static void wrong_leftovers_are_loaded_again(void **state) {
    (void)state;
    static const size_t sizes[] = {1000, LARGE, LARGE + 5};
    for (size_t i = 0; i < GR_COUNT(sizes); i++) {
        world w;
        char name[32];
        snprintf(name, sizeof name, "junk%zu", i);
        world_start(&w, name);
        leave_incomplete(&w, sizes[i]);
        assert_ok(get(&w, &err));
        check_large(&w);
        world_stop(&w);
    }
}

static void wrong_hashes_are_refused(void **state) {
    (void)state;
    world w;
    graft_error failure;
    char at[1300];
    world_start(&w, "hash");
    w.wrong_content = true;
    assert_int_equal(get(&w, &failure), GRAFT_ERR_FORMAT);
    assert_non_null(strstr(failure.text, "model.safetensors of org/tiny: expected SHA-256"));
    assert_false(gr_path_exists(blob_path(&w, "")));
    assert_false(gr_path_exists(blob_path(&w, ".incomplete")));
    snprintf(at, sizeof at, "%s/models--org--tiny/refs/main", w.cache);
    assert_false(gr_path_exists(at));
    w.wrong_content = false;
    assert_ok(get(&w, &err));
    check_large(&w);
    world_stop(&w);
}

static void answers_are_explained(void **state) {
    (void)state;
    static const struct {
        int status;
        const char *code;
        graft_status st;
        const char *says;
    } cases[] = {
        {401, NULL, GRAFT_ERR_NETWORK, "denies access (status 401): check the access token"},
        {401, "RepoNotFound", GRAFT_ERR_NOT_FOUND, "has no such model"},
        {403, "GatedRepo", GRAFT_ERR_NETWORK, "accept the model's terms"},
        {403, NULL, GRAFT_ERR_NETWORK, "status 403"},
        {404, NULL, GRAFT_ERR_NOT_FOUND, "has no such model"},
        {404, "RevisionNotFound", GRAFT_ERR_NOT_FOUND, "org/tiny: has no revision main"},
        {500, NULL, GRAFT_ERR_NETWORK, "answered with status 500"},
        {429, NULL, GRAFT_ERR_NETWORK, "answered with status 429"},
        {302, NULL, GRAFT_ERR_NETWORK, "answered with status 302"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        world w;
        graft_error failure;
        world_start(&w, "answers");
        w.status = cases[i].status;
        w.error_code = cases[i].code;
        graft_status st = get(&w, &failure);
        if (st != cases[i].st || !strstr(failure.text, cases[i].says))
            fail_msg("case %zu: %s: %s", i, graft_status_text(st), failure.text);
        assert_null(strstr(failure.text, "secret"));
        world_stop(&w);
    }
}

static void busy_servers_are_asked_again(void **state) {
    (void)state;
    world w;
    graft_error failure;
    world_start(&w, "busy");
    w.busy = 3;
    assert_ok(get(&w, &err));
    check_large(&w);
    assert_int_equal(w.cdn_gets, 4);
    world_stop(&w);
    world_start(&w, "busier");
    w.busy = 100;
    w.options.max_retries = 2;
    assert_int_equal(get(&w, &failure), GRAFT_ERR_NETWORK);
    assert_int_equal(w.cdn_gets, 3);
    w.options.endpoint = "http://127.0.0.1:1"; /* nobody listens there */
    assert_int_equal(get(&w, &failure), GRAFT_ERR_NETWORK);
    world_stop(&w);
}

static void hostile_answers_are_refused(void **state) {
    (void)state;
#define LIST(name)                                                                                                               \
    "{\"sha\":\"0123456789abcdef0123456789abcdef01234567\",\"siblings\":[{\"rfilename\":\"config.json\"},{\"rfilename\":\"" name \
    "\"}]}"
    static const struct {
        const char *list;
        graft_status st;
        const char *says;
    } cases[] = {
        {LIST("../../evil.json"), GRAFT_ERR_FORMAT, "unsafe name: \"../../evil.json\""},
        {LIST("/etc/x.json"), GRAFT_ERR_FORMAT, "unsafe name"},
        {LIST("a/../b.json"), GRAFT_ERR_FORMAT, "unsafe name"},
        {LIST("a//b.json"), GRAFT_ERR_FORMAT, "unsafe name"},
        {LIST(".."), GRAFT_ERR_FORMAT, "unsafe name"},
        {LIST(""), GRAFT_ERR_FORMAT, "unsafe name"},
        {LIST("a\\\\b.json"), GRAFT_ERR_FORMAT, "unsafe name"},
        {LIST("a\\u0000.json"), GRAFT_ERR_FORMAT, "unsafe name"},
        {LIST("a\\n.json"), GRAFT_ERR_FORMAT, "unsafe name"},
        {"{\"sha\":\"../../x\",\"siblings\":[]}", GRAFT_ERR_FORMAT, "no list of files"},
        {"{\"siblings\":[]}", GRAFT_ERR_FORMAT, "no list of files"},
        {"[]", GRAFT_ERR_FORMAT, "no list of files"},
        {"<html>", GRAFT_ERR_FORMAT, "JSON at byte 0"},
        {LIST("pytorch_model.bin"), GRAFT_ERR_UNSUPPORTED, "expected safetensors or GGUF"},
        {"{\"sha\":\"0123456789abcdef0123456789abcdef01234567\",\"siblings\":[]}", GRAFT_ERR_NOT_FOUND, "no file"},
        {LIST("a.gguf\"},{\"rfilename\":\"b.gguf"), GRAFT_ERR_ARGUMENT, "several .gguf files (a.gguf, b.gguf"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        world w;
        graft_error failure;
        world_start(&w, "hostile");
        w.list = cases[i].list;
        graft_status st = get(&w, &failure);
        if (st != cases[i].st || !strstr(failure.text, cases[i].says))
            fail_msg("%s: %s: %s", cases[i].list, graft_status_text(st), failure.text);
        world_stop(&w);
    }
    world w;
    graft_error failure;
    world_start(&w, "hostile2");
    w.loop = true;
    assert_int_equal(get(&w, &failure), GRAFT_ERR_NETWORK);
    assert_non_null(strstr(failure.text, "too many redirects"));
    w.loop = false;
    w.bad_etag = true;
    assert_int_equal(get(&w, &failure), GRAFT_ERR_FORMAT);
    assert_non_null(strstr(failure.text, "plain ETag"));
    w.bad_etag = false;
    w.other_commit = true;
    assert_int_equal(get(&w, &failure), GRAFT_ERR_FORMAT);
    assert_non_null(strstr(failure.text, "expected commit"));
    world_stop(&w);
}

static void patterns_choose(void **state) {
    (void)state;
    static const char *const only[] = {"con*.json", NULL};
    world w;
    char *path, at[1300];
    world_start(&w, "patterns");
    w.options.patterns = only;
    assert_ok(graft_hub_download(w.ctx, "org/tiny", &w.options, &path, &err));
    assert_int_equal(w.cdn_gets, 0);
    graft_free(w.ctx, path);
    world_stop(&w);
    world_start(&w, "gguf"); /* the only GGUF file of a model without safetensors is wanted */
    w.list = LIST("tiny.gguf");
    assert_ok(graft_hub_download(w.ctx, "org/tiny", &w.options, &path, &err));
    snprintf(at, sizeof at, "%s/tiny.gguf", path);
    assert_true(gr_path_exists(at));
    graft_free(w.ctx, path);
    world_stop(&w);
    world_start(&w, "ggufs"); /* all parts of a split one too */
    w.list = LIST("t-00001-of-00002.gguf\"},{\"rfilename\":\"t-00002-of-00002.gguf");
    assert_ok(graft_hub_download(w.ctx, "org/tiny", &w.options, &path, &err));
    snprintf(at, sizeof at, "%s/t-00002-of-00002.gguf", path);
    assert_true(gr_path_exists(at));
    graft_free(w.ctx, path);
    world_stop(&w);
}

static void cached_models_need_no_network(void **state) {
    (void)state;
    world w;
    char *path;
    graft_error failure;
    world_start(&w, "offline");
    assert_int_equal(graft_hub_find(w.ctx, "org/tiny", &w.options, &path, &failure), GRAFT_ERR_NOT_FOUND);
    assert_non_null(strstr(failure.text, "is not in the cache"));
    assert_ok(get(&w, &err));
    assert_ok(graft_hub_find(w.ctx, "org/tiny", &w.options, &path, &err));
    graft_free(w.ctx, path);
    w.options.revision = commit;
    assert_ok(graft_hub_find(w.ctx, "org/tiny", &w.options, &path, &err));
    graft_free(w.ctx, path);
    w.options.revision = "other";
    assert_int_equal(graft_hub_find(w.ctx, "org/tiny", &w.options, &path, &failure), GRAFT_ERR_NOT_FOUND);
    w.options.revision = NULL;
    int before = w.lists;
    w.options.offline = 1;
    assert_ok(get(&w, &err));
    w.options.offline = 0;
    setenv("HF_HUB_OFFLINE", "1", 1);
    assert_ok(get(&w, &err));
    unsetenv("HF_HUB_OFFLINE");
    assert_int_equal(w.lists, before);
    w.status = 500; /* no news from the Hub: what is there will do */
    w.options.max_retries = -1;
    assert_ok(get(&w, &err));
    assert_int_equal(unlink(blob_path(&w, "")), 0); /* a link without its content is not a file */
    assert_int_equal(graft_hub_find(w.ctx, "org/tiny", &w.options, &path, &failure), GRAFT_ERR_NOT_FOUND);
    assert_non_null(strstr(failure.text, "not all of it"));
    world_stop(&w);
}

static void environment_is_honoured(void **state) {
    (void)state;
    world w;
    char home[1100], at[1200], *path;
    world_start(&w, "env");
    snprintf(home, sizeof home, "%s/home", w.cache);
    assert_ok(gr_make_dirs(home, &err));
    snprintf(at, sizeof at, "%s/token", home);
    assert_ok(gr_write_file(NULL, at, " from-file\n", 11, &err));
    setenv("HF_HOME", home, 1);
    setenv("HF_ENDPOINT", w.hub.url, 1);
    graft_hub_options o = {.retry_milliseconds = 1};
    assert_ok(graft_hub_download(w.ctx, "org/tiny", &o, &path, &err));
    snprintf(at, sizeof at, "%s/hub/models--org--tiny/snapshots/%s", home, commit);
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
    world_stop(&w);
}

static void names_are_checked(void **state) {
    (void)state;
    static const char *const good[] = {"gpt2", "org/name", "HuggingFaceTB/SmolLM2-135M-Instruct", "a_b/c.d-e", "0/1"};
    static const char *const bad[] = {"",       "/",    "a/",   "/a",  "a/b/c",      "../x", "a/..",    "a b",
                                      "a/b--c", "-a/b", "a/b.", "./a", "a/\xC3\xA4", "a\\b", "~/model", "a/b\n"};
    for (size_t i = 0; i < GR_COUNT(good); i++) assert_true(gr_hub_valid_name(good[i]));
    for (size_t i = 0; i < GR_COUNT(bad); i++)
        if (gr_hub_valid_name(bad[i])) fail_msg("%s was accepted", bad[i]);
    world w;
    char *path;
    graft_error failure;
    world_start(&w, "names");
    assert_int_equal(graft_hub_download(w.ctx, "../../x", &w.options, &path, &failure), GRAFT_ERR_ARGUMENT);
    w.options.revision = "../../x";
    assert_int_equal(graft_hub_download(w.ctx, "org/tiny", &w.options, &path, &failure), GRAFT_ERR_ARGUMENT);
    assert_int_equal(graft_hub_find(w.ctx, "org/tiny", &w.options, &path, &failure), GRAFT_ERR_ARGUMENT);
    w.options.revision = "refs/pr/1";
    assert_ok(get(&w, &err));
    assert_ok(graft_hub_find(w.ctx, "org/tiny", &w.options, &path, &err));
    graft_free(w.ctx, path);
    world_stop(&w);
}

static void full_disks_and_wrong_places_are_named(void **state) {
    (void)state;
    world w;
    graft_error failure;
    char at[1100];
    world_start(&w, "blocked");
    snprintf(at, sizeof at, "%s/file", test_temp_dir());
    assert_ok(gr_write_file(NULL, at, "x", 1, &err));
    w.options.cache_dir = at;
    assert_int_equal(get(&w, &failure), GRAFT_ERR_IO);
    assert_non_null(strstr(failure.text, at));
    w.options.cache_dir = w.cache;
    struct rlimit old, small = {.rlim_cur = 65536};
    getrlimit(RLIMIT_FSIZE, &old);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    graft_status st = get(&w, &failure);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(st, GRAFT_ERR_IO);
    assert_non_null(strstr(failure.text, "incomplete: cannot write: File too large"));
    assert_ok(get(&w, &err)); /* with room again it goes on */
    check_large(&w);
    assert_non_null(strstr(w.ranges, "bytes=65536-"));
    world_stop(&w);
}

static void cancelled_transfers_stop_and_go_on(void **state) {
    (void)state;
    world w;
    graft_error failure;
    world_start(&w, "cancel");
    w.slow = true;
    assert_int_equal(get(&w, &failure), GRAFT_ERR_CANCELLED);
    graft_context_reset_cancel(w.ctx);
    w.slow = false;
    assert_ok(get(&w, &err));
    check_large(&w);
    world_stop(&w);
}

static graft_status sweep(const graft_allocator *a, void *arg) {
    world *w = arg;
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
    world w;
    world_start(&w, "sweep");
    test_allocation_sweep(sweep, &w, 0, 1);
    world_stop(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cache_has_the_shared_layout),
        cmocka_unit_test(interrupted_transfers_go_on),
        cmocka_unit_test(servers_without_ranges_are_endured),
        cmocka_unit_test(wrong_leftovers_are_loaded_again),
        cmocka_unit_test(wrong_hashes_are_refused),
        cmocka_unit_test(answers_are_explained),
        cmocka_unit_test(busy_servers_are_asked_again),
        cmocka_unit_test(hostile_answers_are_refused),
        cmocka_unit_test(patterns_choose),
        cmocka_unit_test(cached_models_need_no_network),
        cmocka_unit_test(environment_is_honoured),
        cmocka_unit_test(names_are_checked),
        cmocka_unit_test(full_disks_and_wrong_places_are_named),
        cmocka_unit_test(cancelled_transfers_stop_and_go_on),
        cmocka_unit_test(failed_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
