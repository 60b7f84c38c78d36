/* The bytes are a file of records: cut into records, each parsed. The first byte chooses limits. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "data/reader.h"
#include "data/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    size_t max = data[0] & 1 ? 40 : (size_t)1 << 20;
    int fd = memfd_create("records", 0);
    if (fd < 0 || write(fd, data + 1, size - 1) != (ssize_t)(size - 1)) abort();
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    gr_reader *r;
    if (gr_reader_open(NULL, path, max, &r, NULL) == GRAFT_OK) {
        for (;;) {
            gr_piece piece;
            bool more;
            size_t line;
            graft_status st = gr_reader_next(r, &piece, &more, &line, NULL);
            if (st == GRAFT_ERR_LIMIT) continue;
            if (st != GRAFT_OK || !more) break;
            gr_arena arena;
            gr_record record;
            graft_error err;
            gr_arena_init(&arena, NULL, 0);
            st = gr_record_parse(&arena, "file:1", piece.text.data, piece.text.len, data[0] & 2 ? "label" : NULL, 1000,
                                 &record, &err);
            if (st == GRAFT_OK && arena.used > 64 * piece.text.len + 4096) abort(); /* memory in proportion */
            if (st != GRAFT_OK && !gr_utf8_valid(err.text, strlen(err.text))) abort();
            gr_arena_free(&arena);
        }
        gr_reader_close(r);
    }
    close(fd);
    return 0;
}
