/* What a graft_context holds. Rooms above base reach the allocator and the thread count through it. */
#ifndef GR_BASE_CTX_H
#define GR_BASE_CTX_H

#include <stdatomic.h>
#include "graft/context.h"

struct graft_context {
    graft_allocator alloc;
    int n_threads;
    char cpu[16]; /* the cap asked for, "" for the best */
    graft_log_fn log;
    void *log_user;
    atomic_int cancelled;
    /* Owned by room kernel, made on first use (gr_kernel_device); freed through the hook. */
    _Atomic(void *) device;
    void (*device_free)(graft_context *ctx, void *device);
};

static inline const graft_allocator *gr_allocator(const graft_context *ctx) { return &ctx->alloc; }

void gr_log(const graft_context *ctx, graft_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* GRAFT_ERR_CANCELLED with a sentence when the context was cancelled. */
graft_status gr_check_cancel(const graft_context *ctx, graft_error *err);

#endif
