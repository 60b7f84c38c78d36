/* HTTP by libcurl. Redirects are walked here, not in libcurl, so that the rule "no token to other hosts" is one visible
 * line. libcurl allocates through the C library: it has no allocator per handle. */
#define _GNU_SOURCE
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>

#include "io/hub.h"

enum { MAX_REDIRECTS = 10 };

struct gr_http {
    graft_context *ctx;
    CURL *curl;
    const char *endpoint, *token;
    /* Of the running request. */
    gr_http_reply *reply;
    gr_http_sink sink;
    void *user;
    graft_status sink_status;
    graft_error sink_error;
};

graft_status gr_http_new(graft_context *ctx, const char *endpoint, const char *token, gr_http **out, graft_error *err) {
    gr_http *h = gr_calloc(gr_allocator(ctx), 1, sizeof *h);
    if (!h) return gr_fail_memory(err);
    *h = (gr_http){.ctx = ctx, .endpoint = endpoint, .token = token};
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0) {
        gr_free(gr_allocator(ctx), h);
        return gr_fail(err, GRAFT_ERR_INTERNAL, "libcurl cannot be initialised");
    }
    h->curl = curl_easy_init();
    if (!h->curl) {
        gr_http_free(h);
        return gr_fail_memory(err);
    }
    *out = h;
    return GRAFT_OK;
}

void gr_http_free(gr_http *h) {
    if (!h) return;
    if (h->curl) curl_easy_cleanup(h->curl);
    curl_global_cleanup();
    gr_free(gr_allocator(h->ctx), h);
}

/* Copies a header's value when the line has that name. */
static bool header_is(const char *line, size_t n, const char *name, char *out, size_t size) {
    size_t k = strlen(name);
    if (n <= k || strncasecmp(line, name, k) != 0 || line[k] != ':') return false;
    line += k + 1;
    n -= k + 1;
    while (n && (*line == ' ' || *line == '\t')) line++, n--;
    while (n && (line[n - 1] == '\r' || line[n - 1] == '\n' || line[n - 1] == ' ')) n--;
    if (n >= size) n = size - 1;
    memcpy(out, line, n);
    out[n] = '\0';
    return true;
}

static int64_t parse_int(const char *text) {
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    return errno || end == text || v < 0 ? -1 : v;
}

static size_t on_header(char *line, size_t size, size_t count, void *user) {
    gr_http *h = user;
    gr_http_reply *r = h->reply;
    size_t n = size * count;
    char value[256];
    if (n > 5 && strncmp(line, "HTTP/", 5) == 0) { /* a new response (after "100 Continue" or a proxy's) */
        *r = (gr_http_reply){.length = -1, .linked_size = -1, .range_start = -1};
        return n;
    }
    if (header_is(line, n, "ETag", r->etag, sizeof r->etag) ||
        header_is(line, n, "X-Linked-Etag", r->linked_etag, sizeof r->linked_etag) ||
        header_is(line, n, "X-Repo-Commit", r->commit, sizeof r->commit) ||
        header_is(line, n, "X-Error-Code", r->error_code, sizeof r->error_code) ||
        header_is(line, n, "X-Error-Message", r->error_message, sizeof r->error_message))
        return n;
    if (header_is(line, n, "Content-Length", value, sizeof value)) r->length = parse_int(value);
    if (header_is(line, n, "X-Linked-Size", value, sizeof value)) r->linked_size = parse_int(value);
    if (header_is(line, n, "Content-Range", value, sizeof value) && strncasecmp(value, "bytes ", 6) == 0)
        r->range_start = parse_int(value + 6);
    return n;
}

static size_t on_body(char *bytes, size_t size, size_t count, void *user) {
    gr_http *h = user;
    long status = 0;
    curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &status);
    if (!h->sink || (status != 200 && status != 206)) return size * count; /* an error's or a redirect's page */
    h->reply->status = (int)status;
    h->sink_status = h->sink(h->user, h->reply, bytes, size * count, &h->sink_error);
    return h->sink_status == GRAFT_OK ? size * count : 0;
}

static int on_progress(void *user, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d) {
    (void)a, (void)b, (void)c, (void)d;
    return graft_context_is_cancelled(((gr_http *)user)->ctx);
}

/* "https://host:port" of a URL: what decides who sees the token. */
static bool origin_of(const char *url, char *out, size_t size, bool *https) {
    CURLU *u = curl_url();
    char *scheme = NULL, *host = NULL, *port = NULL;
    bool ok = u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
              curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
              curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
              curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK;
    if (ok) {
        int n = snprintf(out, size, "%s://%s:%s", scheme, host, port);
        ok = n > 0 && (size_t)n < size;
        *https = strcasecmp(scheme, "https") == 0;
    }
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(u);
    return ok;
}

static bool same_origin(const char *a, const char *b) {
    char x[512], y[512];
    bool https;
    return origin_of(a, x, sizeof x, &https) && origin_of(b, y, sizeof y, &https) && strcasecmp(x, y) == 0;
}

static void set_options(gr_http *h, const char *url, int64_t from) {
    static const char *const ca_variables[] = {"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"};
    CURL *c = h->curl;
    curl_easy_reset(c);
    curl_easy_setopt(c, CURLOPT_URL, url);
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(c, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, 15L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, 60L);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "graft");
    curl_easy_setopt(c, CURLOPT_ACCEPT_ENCODING, "identity");
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, h);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, h);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, h);
    if (!h->sink) curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
    if (from > 0) {
        char range[32];
        snprintf(range, sizeof range, "%lld-", (long long)from);
        curl_easy_setopt(c, CURLOPT_RANGE, range);
    }
    for (size_t i = 0; i < GR_COUNT(ca_variables); i++) {
        const char *file = getenv(ca_variables[i]);
        if (!file || !*file) continue;
        curl_easy_setopt(c, CURLOPT_CAINFO, file);
        break;
    }
}

/* One request without redirects. `next` gets the redirect's target (valid until the next request) or NULL. */
static graft_status perform(gr_http *h, const char *what, const char *url, int64_t from, char **next,
                            graft_error *err) {
    struct curl_slist *headers = NULL;
    char line[4200];
    set_options(h, url, from);
    if (h->token && same_origin(url, h->endpoint)) { /* nobody else sees the token */
        int n = snprintf(line, sizeof line, "Authorization: Bearer %s", h->token);
        if (n < 0 || (size_t)n >= sizeof line) return gr_fail(err, GRAFT_ERR_ARGUMENT, "the access token is too long");
        if (!(headers = curl_slist_append(NULL, line))) return gr_fail_memory(err);
        curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, headers);
    }
    *h->reply = (gr_http_reply){.length = -1, .linked_size = -1, .range_start = -1};
    h->sink_status = GRAFT_OK;
    CURLcode code = curl_easy_perform(h->curl);
    long status = 0;
    curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &status);
    h->reply->status = (int)status;
    *next = NULL;
    curl_easy_getinfo(h->curl, CURLINFO_REDIRECT_URL, next);
    curl_slist_free_all(headers);
    if (code == CURLE_OK) return GRAFT_OK;
    if (h->sink_status != GRAFT_OK) {
        if (err) *err = h->sink_error;
        return h->sink_status;
    }
    GR_TRY(gr_check_cancel(h->ctx, err));
    if (code == CURLE_OUT_OF_MEMORY) return gr_fail_memory(err);
    return gr_fail(err, GRAFT_ERR_NETWORK, "%s: %s", what, curl_easy_strerror(code));
}

graft_status gr_http_request(gr_http *h, const char *what, const char *url, int64_t from, gr_http_sink sink, void *user,
                             gr_http_reply *reply, graft_error *err) {
    const graft_allocator *a = gr_allocator(h->ctx);
    char *at = gr_strdup(a, url);
    if (!at) return gr_fail_memory(err);
    h->reply = reply;
    h->sink = sink;
    h->user = user;
    graft_status st = GRAFT_OK;
    for (int i = 0;; i++) {
        char *next, origin[512];
        bool was_https = false, is_https = false;
        GR_GO(done, perform(h, what, at, from, &next, err));
        if (!next || reply->status < 300 || reply->status > 399) break;
        if (!sink && !same_origin(next, h->endpoint)) break;
        if (!origin_of(at, origin, sizeof origin, &was_https) || !origin_of(next, origin, sizeof origin, &is_https) ||
            (was_https && !is_https) || i == MAX_REDIRECTS) {
            st = gr_fail(err, GRAFT_ERR_NETWORK, "%s: %s", what,
                         i == MAX_REDIRECTS ? "too many redirects" : "redirected to an address that is not secure");
            break;
        }
        char *copy = gr_strdup(a, next);
        if (!copy) {
            st = gr_fail_memory(err);
            break;
        }
        gr_free(a, at);
        at = copy;
    }
done:
    gr_free(a, at);
    return st;
}
