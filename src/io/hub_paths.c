/* Names, the environment and the cache of the Hub client. */
#define _GNU_SOURCE
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "io/hub.h"
#include "io/paths.h"

char *gr_format_path(const graft_allocator *a, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *out = n < 0 ? NULL : gr_alloc(a, (size_t)n + 1);
    if (!out) return NULL;
    va_start(args, format);
    vsnprintf(out, (size_t)n + 1, format, args);
    va_end(args);
    return out;
}

bool gr_hub_is_hex(const char *text, size_t digits) {
    return strlen(text) == digits && strspn(text, "0123456789abcdef") == digits;
}

bool gr_hub_valid_name(const char *name) {
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
    int parts = 0;
    if (strstr(name, "--") || strstr(name, "..")) return false;
    for (const char *p = name;; p++) {
        size_t n = strspn(p, allowed);
        if (n == 0 || n > 96 || strchr("-.", p[0]) || strchr("-.", p[n - 1]) || ++parts > 2) return false;
        p += n;
        if (!*p) return true;
        if (*p != '/') return false;
    }
}

bool gr_hub_valid_path(const char *path) {
    if (strlen(path) > 1000 || !gr_utf8_valid(path, strlen(path))) return false;
    for (const char *p = path;; p++) {
        size_t n = strcspn(p, "/");
        if (n == 0 || n > 255 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.')) return false;
        for (size_t i = 0; i < n; i++)
            if ((unsigned char)p[i] < 0x20 || p[i] == '\\' || p[i] == 0x7F) return false;
        p += n;
        if (!*p) return true;
    }
}

static const char *variable(const char *name) {
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

static bool is_true(const char *v) {
    return v && (!strcasecmp(v, "1") || !strcasecmp(v, "on") || !strcasecmp(v, "yes") || !strcasecmp(v, "true"));
}

bool gr_hub_offline(const graft_hub_options *options) {
    return options->offline || is_true(variable("HF_HUB_OFFLINE")) || is_true(variable("TRANSFORMERS_OFFLINE"));
}

/* A path with a leading "~" resolved. */
static char *expand(const graft_allocator *a, const char *path, const char *tail) {
    const char *home = variable("HOME");
    if (path[0] == '~' && (path[1] == '/' || !path[1]) && home)
        return gr_format_path(a, "%s%s%s", home, path + 1, tail);
    return gr_format_path(a, "%s%s", path, tail);
}

/* HF_HOME with `tail` after it. */
static char *hub_home(const graft_allocator *a, const char *tail) {
    if (variable("HF_HOME")) return expand(a, variable("HF_HOME"), tail);
    if (variable("XDG_CACHE_HOME")) return gr_format_path(a, "%s/huggingface%s", variable("XDG_CACHE_HOME"), tail);
    return gr_format_path(a, "%s/.cache/huggingface%s", variable("HOME") ? variable("HOME") : ".", tail);
}

graft_status gr_hub_cache_dir(const graft_allocator *a, const char *given, char **out, graft_error *err) {
    const char *cache = given                      ? given
                        : variable("HF_HUB_CACHE") ? variable("HF_HUB_CACHE")
                                                   : variable("HUGGINGFACE_HUB_CACHE");
    char *path = cache ? expand(a, cache, "") : hub_home(a, "/hub");
    if (!path) return gr_fail_memory(err);
    *out = path;
    return GRAFT_OK;
}

graft_status gr_hub_model_dir(const graft_allocator *a, const char *cache, const char *name, char **out,
                              graft_error *err) {
    const char *slash = strchr(name, '/');
    char *path = slash ? gr_format_path(a, "%s/models--%.*s--%s", cache, (int)(slash - name), name, slash + 1)
                       : gr_format_path(a, "%s/models--%s", cache, name);
    if (!path) return gr_fail_memory(err);
    *out = path;
    return GRAFT_OK;
}

/* Line ends would let a token add headers of its own. */
static graft_status clean_token(const graft_allocator *a, const char *text, char **out, graft_error *err) {
    while (*text && strchr(" \t\r\n", *text)) text++;
    size_t n = strlen(text);
    while (n && strchr(" \t\r\n", text[n - 1])) n--;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < 0x21 || (unsigned char)text[i] > 0x7E)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "the access token holds characters that no token has");
    char *copy = NULL;
    if (n && !(copy = gr_strndup(a, text, n))) return gr_fail_memory(err);
    *out = copy;
    return GRAFT_OK;
}

graft_status gr_hub_token(const graft_allocator *a, const char *given, char **out, graft_error *err) {
    if (given) return clean_token(a, given, out, err);
    if (is_true(variable("HF_HUB_DISABLE_IMPLICIT_TOKEN"))) return *out = NULL, GRAFT_OK;
    const char *token = variable("HF_TOKEN") ? variable("HF_TOKEN") : variable("HUGGING_FACE_HUB_TOKEN");
    if (token) return clean_token(a, token, out, err);
    char *path = variable("HF_TOKEN_PATH") ? expand(a, variable("HF_TOKEN_PATH"), "") : hub_home(a, "/token"),
         *text = NULL;
    if (!path) return gr_fail_memory(err);
    graft_status st = gr_path_exists(path) ? gr_read_file(a, path, 4096, &text, NULL, err) : GRAFT_OK;
    if (st == GRAFT_OK) st = clean_token(a, text ? text : "", out, err);
    gr_free(a, text);
    gr_free(a, path);
    return st;
}

bool gr_hub_wanted(const char *name, const char *const *patterns) {
    static const char *const standard[] = {"*.json",     "*.safetensors", "*.jinja", "*.model",
                                           "merges.txt", "vocab.txt",     NULL};
    if (!patterns && strchr(name, '/')) return false; /* other formats lie in folders of their own */
    for (const char *const *p = patterns ? patterns : standard; *p; p++)
        if (fnmatch(*p, name, 0) == 0) return true;
    return false;
}
