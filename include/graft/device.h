/* What computes: the kernels chosen for this machine. */
#ifndef GRAFT_DEVICE_H
#define GRAFT_DEVICE_H

#include <stddef.h>
#include "graft/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct graft_device_info {
    char kernels[32];       /* "amx", "avx512bf16", "avx512", "avx2", "generic" */
    char default_dtype[8];  /* compute type of "auto": "bf16" or "f32" */
    int n_threads;
    size_t memory;          /* bytes that the process may use: the machine's, or its control group's limit */
    char compiler[64];      /* that built the library */
} graft_device_info;

graft_status graft_device_get_info(graft_context *ctx, graft_device_info *out, graft_error *err);

#ifdef __cplusplus
}
#endif
#endif
