#define _GNU_SOURCE
#include "support/hub_world.h"

#include <unistd.h>

#include "support/corrupt.h"
#include "support/support.h"

const char hub_commit[] = "0123456789abcdef0123456789abcdef01234567", hub_config[] = "{\"model_type\":\"llama\"}";

static const char list_two[] =
    "{\"sha\":\"0123456789abcdef0123456789abcdef01234567\",\"siblings\":[{\"rfilename\":\".gitattributes\"},"
    "{\"rfilename\":\"README.md\"},{\"rfilename\":\"config.json\"},{\"rfilename\":\"model.safetensors\"},"
    "{\"rfilename\":\"consolidated.safetensors\"},{\"rfilename\":\"onnx/model.json\"}]}";

static void serve_large(hub_world *w, const test_request *r, int fd) {
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
    if (from >= HUB_LARGE) {
        test_respond(fd, r, 416, "", "", 0);
        return;
    }
    if (from)
        snprintf(headers, sizeof headers, "Content-Range: bytes %ld-%d/%d\r\n", w->bad_range ? from + 1 : from,
                 HUB_LARGE - 1, HUB_LARGE);
    unsigned char *body = w->large;
    if (w->wrong_content) {
        body = gr_alloc(NULL, HUB_LARGE);
        memset(body, 7, HUB_LARGE);
    }
    size_t n = (size_t)(HUB_LARGE - from);
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
    hub_world *w = user;
    if (strncmp(r->path, "/content?signed", 15) == 0)
        serve_large(w, r, fd);
    else
        test_respond(fd, r, 404, "", "", 0);
}

static void on_hub(test_server *s, const test_request *r, int fd, void *user) {
    hub_world *w = user;
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
        test_respond(fd, r, 200, "ETag: W/\"c0ffee\"\r\n", hub_config, strlen(hub_config));
    } else if (strstr(r->path, "/resolve/") && (strstr(r->path, ".safetensors") || strstr(r->path, ".gguf"))) {
        *(strcmp(r->method, "HEAD") ? &w->gets : &w->heads) += 1;
        char size[64] = "";
        if (!w->no_size) snprintf(size, sizeof size, "X-Linked-Size: %d\r\n", HUB_LARGE);
        snprintf(headers, sizeof headers,
                 "X-Repo-Commit: %s\r\nX-Linked-Etag: \"%s%s\"\r\n%sLocation: %s/content?signed=1\r\n",
                 w->other_commit ? "ffffffffffffffffffffffffffffffffffffffff" : hub_commit, w->bad_etag ? "../" : "",
                 w->sha, size, w->cdn.url);
        test_respond(fd, r, 302, headers, "", 0);
    } else {
        test_respond(fd, r, 404, "X-Error-Code: EntryNotFound\r\n", "", 0);
    }
    (void)s;
}

void hub_world_start(hub_world *w, const char *name) {
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
    *w = (hub_world){.list = list_two};
    setenv("HOME", test_temp_dir(), 1);
    for (size_t i = 0; i < HUB_LARGE; i++) w->large[i] = (unsigned char)gr_rng_u64(1, 2, i);
    gr_sha256 s;
    gr_sha256_init(&s);
    gr_sha256_add(&s, w->large, HUB_LARGE);
    gr_sha256_end_hex(&s, w->sha);
    test_server_start(&w->hub, on_hub, w);
    test_server_start(&w->cdn, on_cdn, w);
    snprintf(w->cache, sizeof w->cache, "%s/%s", test_temp_dir(), name);
    w->options =
        (graft_hub_options){.endpoint = w->hub.url, .cache_dir = w->cache, .token = "secret", .retry_milliseconds = 1};
    assert_ok(graft_context_new(NULL, &w->ctx, &err));
}

void hub_world_stop(hub_world *w) {
    test_server_stop(&w->hub);
    test_server_stop(&w->cdn);
    graft_context_free(w->ctx);
}

graft_status hub_get(hub_world *w, graft_error *failure) {
    char *path;
    graft_status st = graft_hub_download(w->ctx, "org/tiny", &w->options, &path, failure);
    if (st == GRAFT_OK) graft_free(w->ctx, path);
    return st;
}

char *hub_blob_path(hub_world *w, const char *tail) {
    static char path[1200];
    snprintf(path, sizeof path, "%s/models--org--tiny/blobs/%s%s", w->cache, w->sha, tail);
    return path;
}

void hub_check_large(hub_world *w) {
    size_t n;
    unsigned char *bytes = test_read_file(hub_blob_path(w, ""), &n);
    assert_int_equal(n, HUB_LARGE);
    assert_memory_equal(bytes, w->large, HUB_LARGE);
    gr_free(NULL, bytes);
    assert_false(gr_path_exists(hub_blob_path(w, ".incomplete")));
}
