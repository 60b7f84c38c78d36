/* Models from the Hugging Face Hub, in the cache that transformers and other programs share. */
#ifndef GRAFT_HUB_H
#define GRAFT_HUB_H

#include "graft/context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Called now and then while `file` is loaded: bytes there so far, and in all (0: not known). */
typedef void (*graft_hub_progress_fn)(void *user, const char *file, uint64_t done, uint64_t total);

/* All members may be 0. Environment variables are those of huggingface_hub: HF_TOKEN (else the file HF_TOKEN_PATH or
 * HF_HOME/token), HF_ENDPOINT, HF_HUB_CACHE (else HF_HOME/hub; HF_HOME is ~/.cache/huggingface where it is not set, or
 * huggingface under XDG_CACHE_HOME), HF_HUB_OFFLINE, HF_HUB_DISABLE_IMPLICIT_TOKEN. */
typedef struct graft_hub_options {
    const char *revision;  /* branch, tag or commit; NULL: "main" */
    const char *token;     /* NULL: as the environment says; "": none */
    const char *endpoint;  /* NULL: as the environment says, else the public Hub */
    const char *cache_dir; /* NULL: as the environment says */
    /* Names with * and ?, ended by NULL: only files that match one. NULL: what graft reads of a model (configurations,
     * tokenizer, chat template, safetensors; else the one .gguf file). */
    const char *const *patterns;
    int offline; /* 1: only look into the cache */
    graft_hub_progress_fn progress;
    void *progress_user;
    int max_retries;        /* of a request that fails for a passing reason; 0: 5; below 0: none */
    int retry_milliseconds; /* before the first retry, doubled for each further one; 0: 1000 */
} graft_hub_options;

/* Makes sure that the files of model `name` ("ORG/NAME") are in the cache and gives the directory that holds them,
 * which the caller frees with graft_free. What an earlier, interrupted call left is gone on with; files whose SHA-256
 * the Hub knows are checked. The token is sent to the endpoint's host only. GRAFT_ERR_NOT_FOUND: no such model,
 * revision or file (or offline and not in the cache); GRAFT_ERR_NETWORK: no answer, or access denied. */
graft_status graft_hub_download(graft_context *ctx, const char *name, const graft_hub_options *options,
                                char **local_path, graft_error *err);

/* Only looks into the cache: GRAFT_ERR_NOT_FOUND when the model is not there, or not all of it. */
graft_status graft_hub_find(graft_context *ctx, const char *name, const graft_hub_options *options, char **local_path,
                            graft_error *err);

#ifdef __cplusplus
}
#endif
#endif
