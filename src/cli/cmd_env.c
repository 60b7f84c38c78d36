/* graft env: what this build and this machine are, for bug reports. */
#include <sys/utsname.h>

#include "base/json.h"
#include "cli/cli.h"
#include "graft/device.h"

static graft_status defaults(cli_args *args, graft_error *err) {
    args->base[0] = gr_arena_alloc(&args->arena, sizeof(cli_common));
    return args->base[0] ? GRAFT_OK : gr_fail_memory(err);
}

static void cpu_name(char *buf, size_t size) {
    snprintf(buf, size, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "r");
    if (!f) return;
    char line[512];
    while (fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        snprintf(buf, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    fclose(f);
}

static graft_status run(graft_context *ctx, cli_args *args, graft_error *err) {
    bool json = ((const cli_common *)args->base[0])->json != 0;
    graft_device_info info;
    GR_TRY(graft_device_get_info(ctx, &info, err));
    struct utsname u = {0};
    uname(&u);
    char cpu[256], system[256], memory[64];
    cpu_name(cpu, sizeof cpu);
    snprintf(system, sizeof system, "%s %s %s", u.sysname, u.release, u.machine);
    if (json) {
        gr_buf b;
        gr_buf_init(&b, NULL);
        gr_buf_add_format(&b, "{\"graft\": \"%s\", \"system\": ", graft_version());
        gr_json_add_text(&b, system, strlen(system));
        gr_buf_add_text(&b, ", \"cpu\": ");
        gr_json_add_text(&b, cpu, strlen(cpu));
        gr_buf_add_format(
            &b, ", \"threads\": %d, \"kernels\": \"%s\", \"dtype\": \"%s\", \"memory\": %zu, \"compiler\": ",
            info.n_threads, info.kernels, info.default_dtype, info.memory);
        gr_json_add_text(&b, info.compiler, strlen(info.compiler));
        gr_buf_add_text(&b, "}\n");
        graft_status st = gr_buf_status(&b, err);
        if (st == GRAFT_OK) st = cli_write_stdout(b.data, b.len, err);
        gr_buf_free(&b);
        return st;
    }
    printf("graft     %s\nsystem    %s\ncpu       %s\nthreads   %d\nkernels   %s\ndtype     %s\nmemory    "
           "%s\ncompiler  %s\n",
           graft_version(), system, cpu, info.n_threads, info.kernels, info.default_dtype,
           cli_bytes_text((double)info.memory, memory, sizeof memory), info.compiler);
    return cli_write_stdout("", 0, err);
}

const cli_command cli_command_env = {
    .name = "env",
    .summary = "tell what this build and this machine are",
    .synopsis = "[--json]",
    .groups = {&cli_common_group},
    .n_groups = 1,
    .defaults = defaults,
    .run = run,
};
