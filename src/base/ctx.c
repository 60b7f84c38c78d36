#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"

#ifndef GRAFT_VERSION
#define GRAFT_VERSION "0.0.0"
#endif

const char *graft_version(void) { return GRAFT_VERSION; }

graft_status graft_context_new(const graft_context_options *options, graft_context **out, graft_error *err) {
    static const graft_context_options none;
    const graft_context_options *o = options ? options : &none;
    if (o->n_threads < 0 || o->n_threads > 1024)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "threads: expected 1 to 1024, found %d", o->n_threads);
    if (o->cpu && strlen(o->cpu) >= sizeof(((graft_context *)0)->cpu))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "cpu level: expected generic, avx2, avx512, avx512bf16 or amx, found %s", o->cpu);
    graft_context *ctx = gr_calloc(&o->allocator, 1, sizeof *ctx);
    if (!ctx) return gr_fail_memory(err);
    ctx->alloc = o->allocator;
    ctx->n_threads = o->n_threads ? o->n_threads : gr_cpu_count();
    if (o->cpu) strcpy(ctx->cpu, o->cpu);
    ctx->log = o->log;
    ctx->log_user = o->log_user;
    *out = ctx;
    return GRAFT_OK;
}

void graft_context_free(graft_context *ctx) {
    if (!ctx) return;
    void *device = atomic_load(&ctx->device);
    if (device && ctx->device_free) ctx->device_free(ctx, device);
    graft_allocator a = ctx->alloc;
    gr_free(&a, ctx);
}

void graft_context_cancel(graft_context *ctx) { atomic_store(&ctx->cancelled, 1); }
void graft_context_reset_cancel(graft_context *ctx) { atomic_store(&ctx->cancelled, 0); }
int graft_context_is_cancelled(const graft_context *ctx) { return atomic_load(&ctx->cancelled); }
int graft_context_n_threads(const graft_context *ctx) { return ctx->n_threads; }
void graft_free(graft_context *ctx, void *ptr) { gr_free(gr_allocator(ctx), ptr); }

void gr_log(const graft_context *ctx, graft_log_level level, const char *format, ...) {
    if (!ctx->log) return;
    char line[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    ctx->log(ctx->log_user, level, line);
}

graft_status gr_check_cancel(const graft_context *ctx, graft_error *err) {
    if (!graft_context_is_cancelled(ctx)) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_CANCELLED, "cancelled");
}
