/* Loading one file of a model into the cache. For hub.c. */
#ifndef GR_IO_HUB_BLOB_H
#define GR_IO_HUB_BLOB_H

#include "io/hub.h"

/* What all requests of one download share. */
typedef struct gr_hub_session {
    graft_context *ctx;
    const graft_allocator *a;
    const graft_hub_options *options;
    const char *name, *endpoint; /* model; where the Hub is */
    gr_http *http;
    char *cache, *model; /* CACHE and CACHE/models--ORG--NAME */
    char commit[41];
} gr_hub_session;

/* Percent-encoded; '/' too unless keep_slashes. NULL when out of memory; freed with gr_free. */
char *gr_hub_encode(const graft_allocator *a, const char *text, bool keep_slashes);

/* One request with the session's retries: GET into `body`, or HEAD when that is NULL. An answer with an error status
 * becomes an error that says what it means; `file` NULL: the request is for the list of files. */
graft_status gr_hub_get(gr_hub_session *s, const char *file, const char *url, gr_buf *body, gr_http_reply *reply,
                        graft_error *err);
/* What an error status means, as a failure. */
graft_status gr_hub_fail(const gr_hub_session *s, const char *file, const gr_http_reply *reply, graft_error *err);
/* Whether a failure may pass by itself, and the waiting before try number `attempt` + 1 (from 0). */
bool gr_hub_passing(graft_status st, const gr_http_reply *reply);
int gr_hub_max_retries(const gr_hub_session *s);
graft_status gr_hub_wait(const gr_hub_session *s, int attempt, graft_error *err);

/* Makes the snapshot hold `file`: nothing to do when it does, else loads it (or goes on with what is there). */
graft_status gr_hub_fetch(gr_hub_session *s, const char *file, graft_error *err);

#endif
