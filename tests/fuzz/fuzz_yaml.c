/* The bytes are a YAML file of options for graft sft, and one of jobs: read or refused with a sentence. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli/cli.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int fd = memfd_create("options", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) abort();
    char path[64], option[] = "--config";
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    char *argv[] = {option, path, NULL};
    cli_args args = {.command = &cli_command_sft};
    graft_error err = {0};
    gr_arena_init(&args.arena, NULL, 0);
    if (cli_parse(&args, 2, argv, &err) != GRAFT_OK && (!err.text[0] || !gr_utf8_valid(err.text, strlen(err.text)))) abort();
    cli_args_free(&args);
    size_t n;
    if (cli_count_jobs(path, &n, &err) == GRAFT_OK) {
        cli_args job = {.command = &cli_command_sft, .job_file = path, .job = n - 1};
        gr_arena_init(&job.arena, NULL, 0);
        if (cli_parse(&job, 0, argv, &err) != GRAFT_OK && (!err.text[0] || !gr_utf8_valid(err.text, strlen(err.text)))) abort();
        cli_args_free(&job);
    }
    close(fd);
    return 0;
}
