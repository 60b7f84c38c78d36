/* graft_device_get_info: facts for people, and the memory that a run may plan with. */
#include <stdio.h>

#include "graft/device.h"
#include "kernel/kernel.h"

/* cgroup v2: a number of bytes or "max". */
static size_t cgroup_limit(void) {
    FILE *f = fopen("/sys/fs/cgroup/memory.max", "r");
    if (!f) return SIZE_MAX;
    size_t bytes;
    int got = fscanf(f, "%zu", &bytes);
    fclose(f);
    return got == 1 && bytes ? bytes : SIZE_MAX;
}

static size_t machine_memory(void) {
    FILE *f = fopen("/proc/meminfo", "r");
    if (!f) return 0;
    size_t kib = 0;
    int got = fscanf(f, "MemTotal: %zu kB", &kib);
    fclose(f);
    return got == 1 ? kib * 1024 : 0;
}

graft_status graft_device_get_info(graft_context *ctx, graft_device_info *out, graft_error *err) {
    gr_device *d;
    GR_TRY(gr_device_get(ctx, &d, err));
    graft_device_info info = {.n_threads = d->n_threads, .memory = GR_MIN(machine_memory(), cgroup_limit())};
    snprintf(info.kernels, sizeof info.kernels, "%s", gr_cpu_level_name(d->level));
    snprintf(info.default_dtype, sizeof info.default_dtype, "%s", d->fast_bf16 ? "bf16" : "f32");
#ifdef __clang__
    snprintf(info.compiler, sizeof info.compiler, "%s", __VERSION__);
#else
    snprintf(info.compiler, sizeof info.compiler, "gcc %s", __VERSION__);
#endif
    *out = info;
    return GRAFT_OK;
}
