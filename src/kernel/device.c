/* The CPU device: which level the machine and the caller's cap allow, and the context's device object. */
#define _GNU_SOURCE
#include <unistd.h>

#include "kernel/cpu/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>

/* Leaf 7, ECX bit 11: not all that have AVX-512 have it, and where it is missing AVX2 serves. */
static bool has_avx512vnni(void) {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ecx >> 11 & 1);
}

/* Leaf 7, EDX bit 25; the registers are those of has_amx. */
static bool has_amx_int8(void) {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx >> 25 & 1);
}
#endif

static void fill(gr_cpu_kernels *k, gr_cpu_level level) {
    gr_cpu_fill_generic(k);
#if defined(__x86_64__)
    if (level >= GR_CPU_AVX2) gr_cpu_fill_avx2(k);
    if (level >= GR_CPU_AVX512) gr_cpu_fill_avx512(k);
    if (level >= GR_CPU_AVX512 && has_avx512vnni()) gr_cpu_fill_avx512vnni_integer(k);
    if (level >= GR_CPU_AVX512BF16) gr_cpu_fill_avx512bf16(k);
    if (level >= GR_CPU_AMX) gr_cpu_fill_amx(k);
    if (level >= GR_CPU_AMX) gr_cpu_fill_amx_low_rank(k);
    if (level >= GR_CPU_AMX && has_avx512vnni() && has_amx_int8()) gr_cpu_fill_amx_integer(k);
#else
    (void)level;
#endif
}

static const char *const level_names[GR_CPU_LEVEL_COUNT] = {"generic", "avx2", "avx512", "avx512bf16", "amx"};

const char *gr_cpu_level_name(gr_cpu_level level) { return level_names[level]; }

#if defined(__x86_64__)

/* Leaf 7, sub-leaf 1, EAX bit 5. Read directly: __builtin_cpu_supports does not know the name in every compiler that
 * graft is built with. Whether the system saves the registers is what its check of avx512f has asked already. */
static bool has_avx512bf16(void) {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 5 & 1);
}

static bool has_f16c(void) {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx >> 29 & 1);
}

/* Tiles and their BF16 products, whose registers the system saves (XCR0) and lets this process use: their size is not part
 * of what a thread gets by default, so Linux wants to be asked, once a process. Only a device that may have the level asks. */
static bool has_amx(void) {
#if defined(__linux__)
    enum { ASK = 0x1023, TILE_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    unsigned eax, ebx, ecx, edx, low, high;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(edx >> 24 & 1) || !(edx >> 22 & 1)) return false;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx >> 27 & 1)) return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low >> 17 & 3) == 3 && syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
#else
    return false;
#endif
}

/* The best that the machine has, up to `cap`. */
static gr_cpu_level best_level(gr_cpu_level cap) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c()) return GR_CPU_GENERIC;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return GR_CPU_AVX2;
    if (!has_avx512bf16()) return GR_CPU_AVX512;
    return cap >= GR_CPU_AMX && has_amx() ? GR_CPU_AMX : GR_CPU_AVX512BF16;
}
#else
static gr_cpu_level best_level(gr_cpu_level cap) {
    (void)cap;
    return GR_CPU_GENERIC;
}
#endif

static graft_status choose_level(const graft_context *ctx, gr_cpu_level *out, graft_error *err) {
    if (!ctx->cpu[0]) {
        *out = best_level(GR_CPU_LEVEL_COUNT - 1);
        return GRAFT_OK;
    }
    for (int i = 0; i < GR_CPU_LEVEL_COUNT; i++)
        if (strcmp(ctx->cpu, level_names[i]) == 0) {
            *out = GR_MIN((gr_cpu_level)i, best_level((gr_cpu_level)i));
            return GRAFT_OK;
        }
    return gr_fail(err, GRAFT_ERR_ARGUMENT, "cpu level: expected generic, avx2, avx512, avx512bf16 or amx, found %s", ctx->cpu);
}

static void device_free(graft_context *ctx, void *device) {
    gr_cpu_device *d = device;
    gr_free_aligned(gr_allocator(ctx), atomic_load(&d->workspace));
    gr_team_free(d->base.team);
    gr_free(gr_allocator(ctx), d);
}

graft_status gr_device_get(graft_context *ctx, gr_device **out, graft_error *err) {
    void *device = atomic_load(&ctx->device);
    if (!device) {
        gr_cpu_level level = GR_CPU_GENERIC;
        GR_TRY(choose_level(ctx, &level, err));
        gr_cpu_device *d = gr_calloc(gr_allocator(ctx), 1, sizeof *d);
        if (!d) return gr_fail_memory(err);
        d->base = (gr_device){.ctx = ctx,
                              .n_threads = GR_MAX(ctx->n_threads, 1),
                              .level = level,
                              .fast_bf16 = level >= GR_CPU_AVX512BF16,
                              .k = &gr_cpu_table};
        fill(&d->cpu, level);
        graft_status st = gr_team_new(gr_allocator(ctx), d->base.n_threads, &d->base.team, err);
        if (st != GRAFT_OK) {
            gr_free(gr_allocator(ctx), d);
            return st;
        }
        ctx->device_free = device_free;
        /* Two threads may have come here at once: the first one's device stays. */
        if (atomic_compare_exchange_strong(&ctx->device, &device, (void *)d))
            device = d;
        else
            device_free(ctx, d);
    }
    *out = device;
    return GRAFT_OK;
}
