/* SHA-256 (FIPS 180-4). */
#ifndef GR_BASE_SHA256_H
#define GR_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct gr_sha256 {
    uint32_t h[8];
    uint64_t bytes;
    unsigned char block[64];
} gr_sha256;

void gr_sha256_init(gr_sha256 *s);
void gr_sha256_add(gr_sha256 *s, const void *bytes, size_t n);
void gr_sha256_end(gr_sha256 *s, unsigned char out[32]);
/* As 64 lower-case hexadecimal digits and a NUL. */
void gr_sha256_end_hex(gr_sha256 *s, char out[65]);

#endif
