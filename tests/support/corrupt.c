#include "support/corrupt.h"

void test_truncations(const unsigned char *bytes, size_t n, test_reader read, void *arg) {
    for (size_t k = 0; k < n; k++) {
        unsigned char *copy = gr_alloc(NULL, k);
        memcpy(copy, bytes, k);
        read(copy, k, arg);
        gr_free(NULL, copy);
    }
}

void test_flips(const unsigned char *bytes, size_t n, size_t head, int rounds, test_reader read, void *arg) {
    uint64_t stream = gr_rng_stream(GR_RNG_TEST, gr_hash_bytes(bytes, n, 1)), index = 0;
    if (head == 0 || head > n) head = n;
    for (int round = 0; round < rounds; round++) {
        unsigned char *copy = gr_alloc(NULL, n);
        memcpy(copy, bytes, n);
        int changes = 1 + (int)gr_rng_below(1, stream, index++, 4);
        for (int i = 0; i < changes; i++) {
            size_t at = (size_t)gr_rng_below(1, stream, index++, head);
            uint64_t r = gr_rng_u64(1, stream, index++);
            copy[at] = r & 256 ? (unsigned char)r : (unsigned char)(copy[at] ^ 1u << (r & 7));
        }
        read(copy, n, arg);
        gr_free(NULL, copy);
    }
}

unsigned char *test_read_file(const char *path, size_t *n) {
    char *text;
    assert_ok(gr_read_file(NULL, path, (size_t)1 << 30, &text, n, &err));
    unsigned char *exact = gr_alloc(NULL, *n);
    memcpy(exact, text, *n);
    gr_free(NULL, text);
    return exact;
}
