/* How much memory there is, as Linux tells it. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "train/trainer.h"

size_t gr_resident_bytes(void) {
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f) return 0;
    unsigned long long size = 0, resident = 0;
    int n = fscanf(f, "%llu %llu", &size, &resident);
    fclose(f);
    return n == 2 ? (size_t)resident * (size_t)sysconf(_SC_PAGESIZE) : 0;
}

/* One number, SIZE_MAX for "max" or an absent file. */
static size_t read_number(const char *path) {
    FILE *f = fopen(path, "r");
    if (!f) return SIZE_MAX;
    char text[64] = "";
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    char *end;
    unsigned long long v = strtoull(text, &end, 10);
    return n > 0 && end != text ? (size_t)v : SIZE_MAX;
}

static size_t machine_available(void) {
    FILE *f = fopen("/proc/meminfo", "r");
    if (!f) return 0;
    char line[256];
    unsigned long long kib = 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1) break;
    fclose(f);
    return (size_t)kib * 1024;
}

size_t gr_available_bytes(void) {
    size_t machine = machine_available();
    size_t limit = read_number("/sys/fs/cgroup/memory.max"), used = read_number("/sys/fs/cgroup/memory.current");
    if (limit == SIZE_MAX) {
        limit = read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes");
        used = read_number("/sys/fs/cgroup/memory/memory.usage_in_bytes");
    }
    if (limit == SIZE_MAX || used == SIZE_MAX) return machine;
    size_t group = limit > used ? limit - used : 0;
    return machine ? GR_MIN(machine, group) : group;
}
