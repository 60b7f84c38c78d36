/* Broken copies of a good file: a reader must refuse or read each of them, never crash. */
#ifndef TEST_CORRUPT_H
#define TEST_CORRUPT_H

#include "support/support.h"

/* Reads `n` bytes, allocated to their exact size so that sanitizers see every overrun; the result is not judged. */
typedef void (*test_reader)(const unsigned char *bytes, size_t n, void *arg);

/* Calls `read` with every prefix of the bytes. */
void test_truncations(const unsigned char *bytes, size_t n, test_reader read, void *arg);
/* Calls `read` with `rounds` copies in which 1 to 4 bits or bytes of the first `head` bytes differ (0: anywhere). */
void test_flips(const unsigned char *bytes, size_t n, size_t head, int rounds, test_reader read, void *arg);
/* Whole file as bytes, allocated with gr_alloc(NULL, ...). */
unsigned char *test_read_file(const char *path, size_t *n);

#endif
