/* The context: what every call into the library shares. Allocator, threads, CPU level, log sink, cancellation.
 * The library has no mutable globals; two contexts in one process do not know of each other. */
#ifndef GRAFT_CONTEXT_H
#define GRAFT_CONTEXT_H

#include <stddef.h>
#include <stdint.h>
#include "graft/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Replaceable allocator with the meaning of realloc: resize(user, NULL, n) allocates, resize(user, p, 0) frees and
 * returns NULL, otherwise p is resized. Returns NULL when out of memory (p stays valid). Must be thread-safe. */
typedef struct graft_allocator {
    void *(*resize)(void *user, void *ptr, size_t size);
    void *user;
} graft_allocator;

typedef enum graft_log_level { GRAFT_LOG_DEBUG, GRAFT_LOG_INFO, GRAFT_LOG_WARNING } graft_log_level;

/* Receives one line without a newline. Called from the thread that called into the library. */
typedef void (*graft_log_fn)(void *user, graft_log_level level, const char *line);

typedef struct graft_context_options {
    graft_allocator allocator; /* resize == NULL: the C library's */
    int n_threads;             /* 0: one per available CPU */
    const char *cpu;           /* NULL: the best; "generic", "avx2", "avx512", "avx512bf16", "amx" cap the kernels */
    graft_log_fn log;          /* NULL: silent */
    void *log_user;
} graft_context_options;

typedef struct graft_context graft_context;

/* `options` may be NULL for the defaults. */
graft_status graft_context_new(const graft_context_options *options, graft_context **out, graft_error *err);
void graft_context_free(graft_context *ctx);

/* Asks every running call on this context to stop at its next safe point with GRAFT_ERR_CANCELLED (a trainer saves a
 * checkpoint first). Async-signal-safe. graft_context_reset_cancel clears it. */
void graft_context_cancel(graft_context *ctx);
void graft_context_reset_cancel(graft_context *ctx);
int graft_context_is_cancelled(const graft_context *ctx);

int graft_context_n_threads(const graft_context *ctx);

/* Frees memory that a graft function handed to the caller ("the caller frees with graft_free"). */
void graft_free(graft_context *ctx, void *ptr);

const char *graft_version(void);

#ifdef __cplusplus
}
#endif
#endif
