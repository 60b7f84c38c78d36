#include "io/paths.h"

bool gr_ends_with(const char *text, const char *tail) {
    size_t n = strlen(text), k = strlen(tail);
    return n >= k && memcmp(text + n - k, tail, k) == 0;
}

bool gr_plain_file_name(const char *name) {
    return name[0] && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && !strchr(name, '/');
}

char *gr_path_dir(const graft_allocator *a, const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return gr_strdup(a, ".");
    return slash == path ? gr_strdup(a, "/") : gr_strndup(a, path, (size_t)(slash - path));
}

const char *gr_path_base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}
