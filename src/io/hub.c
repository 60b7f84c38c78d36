/* Downloading a model: ask for the commit and its files, choose, load each, note the commit under the revision. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "io/hub_blob.h"
#include "io/paths.h"

enum { MAX_LIST = 64 << 20, MAX_FILES = 100000 };

static const char public_hub[] = "https://huggingface.co";

char *gr_hub_encode(const graft_allocator *a, const char *text, bool keep_slashes) {
    char *out = gr_alloc(a, 3 * strlen(text) + 1), *p = out;
    if (!out) return NULL;
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-_.~", c) ||
                     (c == '/' && keep_slashes);
        if (plain) {
            *p++ = (char)c;
        } else {
            *p++ = '%';
            *p++ = "0123456789ABCDEF"[c >> 4];
            *p++ = "0123456789ABCDEF"[c & 15];
        }
    }
    *p = '\0';
    return out;
}

bool gr_hub_passing(graft_status st, const gr_http_reply *reply) {
    bool busy = reply->status == 408 || reply->status == 429 || reply->status >= 500;
    bool denied = reply->status == 401 || reply->status == 403;
    return st == GRAFT_OK || (st == GRAFT_ERR_NETWORK && !denied) || busy;
}

int gr_hub_max_retries(const gr_hub_session *s) {
    int n = s->options->max_retries;
    return n == 0 ? 5 : n < 0 ? 0 : n;
}

graft_status gr_hub_wait(const gr_hub_session *s, int attempt, graft_error *err) {
    int64_t ms = s->options->retry_milliseconds > 0 ? s->options->retry_milliseconds : 1000;
    ms <<= GR_MIN(attempt, 6);
    for (; ms > 0; ms -= 50) {
        GR_TRY(gr_check_cancel(s->ctx, err));
        nanosleep(&(struct timespec){.tv_nsec = (long)GR_MIN(ms, 50) * 1000000}, NULL);
    }
    return gr_check_cancel(s->ctx, err);
}

graft_status gr_hub_fail(const gr_hub_session *s, const char *file, const gr_http_reply *reply, graft_error *err) {
    const char *code = reply->error_code, *revision = s->options->revision ? s->options->revision : "main";
    if (strcmp(code, "RevisionNotFound") == 0)
        return gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s: has no revision %s", s->name, revision);
    if (strcmp(code, "GatedRepo") == 0)
        return gr_fail(err, GRAFT_ERR_NETWORK,
                       "%s: access is restricted: accept the model's terms on its page of the Hub and "
                       "give an access token (HF_TOKEN)",
                       s->name);
    if (reply->status == 404 && file && strcmp(code, "RepoNotFound") != 0)
        return gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s: has no file %s in revision %s", s->name, file, revision);
    if (reply->status == 404 || strcmp(code, "RepoNotFound") == 0)
        return gr_fail(err, GRAFT_ERR_NOT_FOUND,
                       "%s: the Hub at %s has no such model, or only for those with another access "
                       "token (HF_TOKEN)",
                       s->name, s->endpoint);
    if (reply->status == 401 || reply->status == 403)
        return gr_fail(err, GRAFT_ERR_NETWORK,
                       "%s: the Hub at %s denies access (status %d): check the access token (HF_TOKEN)", s->name,
                       s->endpoint, reply->status);
    return gr_fail(err, GRAFT_ERR_NETWORK, "%s%s%s: the Hub at %s answered with status %d", file ? file : "",
                   file ? " of " : "", s->name, s->endpoint, reply->status);
}

static graft_status collect(void *user, const gr_http_reply *reply, const void *bytes, size_t n, graft_error *err) {
    gr_buf *b = user;
    (void)reply;
    gr_buf_add(b, bytes, n);
    return gr_buf_status(b, err);
}

graft_status gr_hub_get(gr_hub_session *s, const char *file, const char *url, gr_buf *body, gr_http_reply *reply,
                        graft_error *err) {
    char what[1400];
    snprintf(what, sizeof what, "%s%s%s", file ? file : "", file ? " of " : "", s->name);
    for (int attempt = 0;; attempt++) {
        if (body) gr_buf_clear(body); /* a failed try may have left its beginning */
        graft_status st = gr_http_request(s->http, what, url, 0, body ? collect : NULL, body, reply, err);
        bool redirected = !body && reply->status >= 300 && reply->status <= 399;
        if (st == GRAFT_OK && (reply->status == 200 || redirected)) return GRAFT_OK;
        if (st == GRAFT_OK) st = gr_hub_fail(s, file, reply, err);
        if (attempt == gr_hub_max_retries(s) || !gr_hub_passing(st, reply)) return st;
        GR_TRY(gr_hub_wait(s, attempt, err));
    }
}

/* The names of the files that are wanted, in the list's order. */
typedef struct wanted {
    const char **names;
    size_t n, cap;
} wanted;

static graft_status add(const gr_hub_session *s, wanted *w, const char *name, graft_error *err) {
    GR_TRY(gr_grow(s->a, (void **)&w->names, &w->cap, w->n + 1, sizeof *w->names, err));
    w->names[w->n++] = name;
    return GRAFT_OK;
}

/* A model that comes as GGUF: its only file, or the parts of its only split one. */
static graft_status add_gguf(const gr_hub_session *s, wanted *w, const gr_json_value *siblings, graft_error *err) {
    size_t before = w->n, stem = 0;
    for (const gr_json_value *v = siblings->child; v; v = v->next) {
        const char *name = gr_json_get(v, "rfilename")->text, *tail = strstr(name, "-of-");
        if (strchr(name, '/') || !gr_ends_with(name, ".gguf")) continue;
        size_t own = tail && tail - name > 6 ? (size_t)(tail - name) - 6 : 0; /* length before "-00001-of-" */
        bool same_set = w->n > before && own > 0 && own == stem && strncmp(name, w->names[before], own) == 0;
        if (w->n > before && !same_set)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: holds several .gguf files (%s, %s, ...): name one", s->name,
                           w->names[before], name);
        stem = own;
        GR_TRY(add(s, w, name, err));
    }
    return GRAFT_OK;
}

/* Checks the list and chooses. Names come from the network: nothing outside the snapshot may be named. */
static graft_status choose(gr_hub_session *s, const gr_json_value *root, wanted *w, graft_error *err) {
    const gr_json_value *sha = gr_json_get(root, "sha"), *siblings = gr_json_get(root, "siblings");
    if (!sha || sha->kind != GR_JSON_STRING || !gr_hub_is_hex(sha->text, 40) || !siblings ||
        siblings->kind != GR_JSON_ARRAY || siblings->len > MAX_FILES)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: the Hub at %s sent no list of files", s->name, s->endpoint);
    memcpy(s->commit, sha->text, 41);
    bool standard = false, weights = false, binary = false;
    for (const gr_json_value *v = siblings->child; v; v = v->next) {
        const gr_json_value *name = gr_json_get(v, "rfilename");
        if (!name || name->kind != GR_JSON_STRING || strlen(name->text) != name->len || !gr_hub_valid_path(name->text))
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: the list of files holds an unsafe name: \"%.200s\"", s->name,
                           name && name->kind == GR_JSON_STRING ? name->text : "(none)");
        standard =
            standard || !strcmp(name->text, "model.safetensors") || !strcmp(name->text, "model.safetensors.index.json");
        binary = binary || !strncmp(name->text, "pytorch_model", 13);
    }
    for (const gr_json_value *v = siblings->child; v; v = v->next) {
        const char *name = gr_json_get(v, "rfilename")->text;
        if (!gr_hub_wanted(name, s->options->patterns)) continue;
        /* Mistral's own layout beside the common one holds the same weights again. */
        if (!s->options->patterns && standard && !strncmp(name, "consolidated", 12)) continue;
        weights = weights || gr_ends_with(name, ".safetensors");
        GR_TRY(add(s, w, name, err));
    }
    if (!s->options->patterns && !weights) {
        size_t before = w->n;
        GR_TRY(add_gguf(s, w, siblings, err));
        if (w->n == before && binary)
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: holds pytorch_model.bin only: expected safetensors or GGUF",
                           s->name);
    }
    if (w->n == 0) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s: no file of the model is wanted", s->name);
    return GRAFT_OK;
}

/* The name under refs/ is written last: whoever finds it finds all files. */
static graft_status note_revision(const gr_hub_session *s, graft_error *err) {
    const char *revision = s->options->revision ? s->options->revision : "main";
    if (gr_hub_is_hex(revision, 40)) return GRAFT_OK;
    char *path = gr_format_path(s->a, "%s/refs/%s", s->model, revision), *dir = path ? gr_path_dir(s->a, path) : NULL;
    char *old = NULL;
    graft_status st = dir ? GRAFT_OK : gr_fail_memory(err);
    if (st == GRAFT_OK && gr_read_file(s->a, path, 256, &old, NULL, NULL) == GRAFT_OK && strcmp(old, s->commit) == 0)
        goto done;
    if (st == GRAFT_OK) st = gr_make_dirs(dir, err);
    if (st == GRAFT_OK) st = gr_write_file(s->a, path, s->commit, 40, err);
done:
    gr_free(s->a, old);
    gr_free(s->a, path);
    gr_free(s->a, dir);
    return st;
}

static graft_status list_files(gr_hub_session *s, gr_arena *arena, wanted *w, graft_error *err) {
    gr_buf b;
    gr_http_reply reply;
    const gr_json_value *root;
    gr_buf_init(&b, s->a);
    b.limit = MAX_LIST;
    char *revision = gr_hub_encode(s->a, s->options->revision ? s->options->revision : "main", false);
    char *url = revision ? gr_format_path(s->a, "%s/api/models/%s/revision/%s", s->endpoint, s->name, revision) : NULL;
    graft_status st = url ? gr_hub_get(s, NULL, url, &b, &reply, err) : gr_fail_memory(err);
    if (st == GRAFT_OK) st = gr_json_parse(arena, s->name, gr_buf_text(&b), b.len, &root, err);
    if (st == GRAFT_OK) st = choose(s, root, w, err);
    gr_free(s->a, revision);
    gr_free(s->a, url);
    gr_buf_free(&b);
    return st;
}

static graft_status download(gr_hub_session *s, char **local_path, graft_error *err) {
    gr_arena arena;
    wanted w = {0};
    char *snapshot = NULL;
    gr_arena_init(&arena, s->a, (size_t)512 << 20);
    graft_status st = list_files(s, &arena, &w, err);
    for (size_t i = 0; i < w.n && st == GRAFT_OK; i++) st = gr_hub_fetch(s, w.names[i], err);
    if (st == GRAFT_OK && !(snapshot = gr_format_path(s->a, "%s/snapshots/%s", s->model, s->commit)))
        st = gr_fail_memory(err);
    if (st == GRAFT_OK) st = note_revision(s, err);
    if (st == GRAFT_OK)
        *local_path = snapshot;
    else
        gr_free(s->a, snapshot);
    gr_free(s->a, w.names);
    gr_arena_free(&arena);
    return st;
}

/* Where the Hub is: without a slash at the end. */
static char *endpoint_of(const graft_allocator *a, const char *given) {
    const char *e = given ? given : getenv("HF_ENDPOINT");
    if (!e || !*e) e = public_hub;
    size_t n = strlen(e);
    while (n && e[n - 1] == '/') n--;
    return gr_strndup(a, e, n);
}

graft_status graft_hub_download(graft_context *ctx, const char *name, const graft_hub_options *options,
                                char **local_path, graft_error *err) {
    graft_hub_options given = options ? *options : (graft_hub_options){0};
    const char *revision = given.revision ? given.revision : "main";
    gr_hub_session s = {.ctx = ctx, .a = gr_allocator(ctx), .options = &given, .name = name};
    char *token = NULL, *endpoint = NULL;
    graft_status st;
    if (!gr_hub_valid_name(name) || !gr_hub_valid_path(revision))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%.200s (revision %.200s): expected a model's name, ORG/NAME", name,
                       revision);
    if (gr_hub_offline(&given)) return graft_hub_find(ctx, name, &given, local_path, err);
    if (!(endpoint = endpoint_of(s.a, given.endpoint))) {
        st = gr_fail_memory(err);
        goto done;
    }
    s.endpoint = endpoint;
    GR_GO(done, gr_hub_cache_dir(s.a, given.cache_dir, &s.cache, err));
    GR_GO(done, gr_hub_model_dir(s.a, s.cache, name, &s.model, err));
    GR_GO(done, gr_hub_token(s.a, given.token, &token, err));
    GR_GO(done, gr_http_new(ctx, endpoint, token, &s.http, err));
    st = download(&s, local_path, err);
    if (st == GRAFT_ERR_NETWORK && !s.commit[0] && graft_hub_find(ctx, name, &given, local_path, NULL) == GRAFT_OK) {
        gr_log(ctx, GRAFT_LOG_WARNING, "%s: the Hub at %s cannot be asked for news; taking the model from the cache",
               name, endpoint);
        st = GRAFT_OK;
    }
done:
    gr_http_free(s.http);
    gr_free(s.a, token);
    gr_free(s.a, endpoint);
    gr_free(s.a, s.cache);
    gr_free(s.a, s.model);
    return st;
}
