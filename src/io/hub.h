/* Pieces of the Hub client that its files share: HTTP with the Hub's rules for redirects and tokens, names and paths of
 * the cache. The cache's layout is huggingface_hub 2.4's:
 *
 *   CACHE/models--ORG--NAME/refs/REVISION            the commit, 40 hexadecimal digits
 *   CACHE/models--ORG--NAME/snapshots/COMMIT/FILE    relative link to ...
 *   CACHE/models--ORG--NAME/blobs/ETAG               ... the content; ETAG.incomplete while it is loaded
 *   CACHE/.locks/models--ORG--NAME/ETAG.lock         flock(2) while ETAG is loaded */
#ifndef GR_IO_HUB_H
#define GR_IO_HUB_H

#include "base/base.h"
#include "graft/hub.h"

/* "ORG/NAME" or "NAME" as the Hub allows them (letters, digits, '-', '_', '.'). Used to tell a model's name from a
 * path. */
bool gr_hub_valid_name(const char *name);
/* A relative path whose every segment is a plain file name without control characters: safe below a directory. */
bool gr_hub_valid_path(const char *path);
bool gr_hub_is_hex(const char *text, size_t digits);

/* The directory CACHE/models--ORG--NAME, and CACHE. Freed with gr_free. */
graft_status gr_hub_cache_dir(const graft_allocator *a, const char *given, char **out, graft_error *err);
graft_status gr_hub_model_dir(const graft_allocator *a, const char *cache, const char *name, char **out,
                              graft_error *err);
/* The token to send, NULL when there is none. */
graft_status gr_hub_token(const graft_allocator *a, const char *given, char **out, graft_error *err);
bool gr_hub_offline(const graft_hub_options *options);
/* Whether `name` matches one of the patterns (NULL: graft's own choice, without .gguf). */
bool gr_hub_wanted(const char *name, const char *const *patterns);
/* "DIR/a/b" formatted, NULL when out of memory. */
char *gr_format_path(const graft_allocator *a, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* HTTP. */
typedef struct gr_http gr_http;
/* `endpoint` is where the token may go; both must outlive the client. */
graft_status gr_http_new(graft_context *ctx, const char *endpoint, const char *token, gr_http **out, graft_error *err);
void gr_http_free(gr_http *h);

typedef struct gr_http_reply {
    int status; /* of the last response */
    char etag[256], linked_etag[256], commit[64], error_code[64], error_message[256];
    int64_t length, linked_size; /* Content-Length, X-Linked-Size; -1: not given */
    int64_t range_start;         /* of a 206 response; -1: not given */
} gr_http_reply;

/* Receives the body of a 200 or 206 response in pieces; `reply` is filled up to there. */
typedef graft_status (*gr_http_sink)(void *user, const gr_http_reply *reply, const void *bytes, size_t n,
                                     graft_error *err);

/* HEAD (sink NULL) or GET. Redirects: within the endpoint's host they are followed with the token; to another host
 * without it, and only by GET (HEAD stops there: the Hub describes the file in the redirect itself). From https to
 * http is refused. `what` names the request in errors. GRAFT_ERR_NETWORK: no complete answer (worth a retry); an
 * answer with an error status is GRAFT_OK with that status in reply. */
graft_status gr_http_request(gr_http *h, const char *what, const char *url, int64_t from, gr_http_sink sink, void *user,
                             gr_http_reply *reply, graft_error *err);

#endif
