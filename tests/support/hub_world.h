/* A Hub for the tests of its client: two servers on the loopback interface. One plays the Hub, the other (another port,
 * so another host) the content network to which the Hub sends for large files. */
#ifndef TEST_HUB_WORLD_H
#define TEST_HUB_WORLD_H

#include "io/hub.h"
#include "support/server.h"

enum { HUB_LARGE = 200000 };
extern const char hub_commit[], hub_config[]; /* of the one model, org/tiny, and its config.json */

/* An answer to the list request: config.json and one more. */
#define HUB_LIST(name)                                                                                                 \
    "{\"sha\":\"0123456789abcdef0123456789abcdef01234567\",\"siblings\":["                                             \
    "{\"rfilename\":\"config.json\"},{\"rfilename\":\"" name "\"}]}"

typedef struct hub_world {
    test_server hub, cdn;
    unsigned char large[HUB_LARGE];
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
} hub_world;

/* `name`: of the cache, an empty directory. What the environment says of caches and tokens is forgotten. */
void hub_world_start(hub_world *w, const char *name);
void hub_world_stop(hub_world *w);

/* Downloads the model. */
graft_status hub_get(hub_world *w, graft_error *failure);
/* Where the large file's content lies in the cache; `tail` is added. Good until the next call. */
char *hub_blob_path(hub_world *w, const char *tail);
/* It lies there whole. */
void hub_check_large(hub_world *w);

#endif
