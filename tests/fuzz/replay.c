/* Runs a libFuzzer target over every file of the folders and files named on the command line: the kept corpus is a
 * test in every build, also with compilers that have no fuzzer. */
#include <stdint.h>
#include <stdio.h>

#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path) {
    char *text;
    size_t n;
    graft_error err;
    if (gr_read_file(NULL, path, (size_t)64 << 20, &text, &n, &err) != GRAFT_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    /* A copy of the exact size lets AddressSanitizer see a read past the end. */
    uint8_t *exact = gr_alloc(NULL, n);
    memcpy(exact, text, n);
    gr_free(NULL, text);
    LLVMFuzzerTestOneInput(exact, n);
    gr_free(NULL, exact);
    return 0;
}

int main(int argc, char **argv) {
    int failed = 0;
    size_t total = 0;
    for (int i = 1; i < argc; i++) {
        if (!gr_is_dir(argv[i])) {
            failed |= replay_file(argv[i]);
            total++;
            continue;
        }
        char **names;
        size_t n;
        if (gr_list_dir(NULL, argv[i], &names, &n, NULL) != GRAFT_OK) return 1;
        for (size_t k = 0; k < n; k++) {
            char *path = gr_path_join(NULL, argv[i], names[k]);
            failed |= replay_file(path);
            gr_free(NULL, path);
        }
        total += n;
        gr_free_names(NULL, names, n);
    }
    printf("%zu inputs\n", total);
    return failed || total == 0;
}
