/* Event files: the bytes as they are, and with their checksums put right, so that the messages inside are reached. */
#include <stdlib.h>

#include "train/events.h"
#include "train/plot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_once(const void *data, size_t size) {
    gr_curves c;
    gr_curves_init(&c, NULL);
    graft_error err;
    (void)gr_curves_read_events(&c, "fuzz", data, size, &err);
    gr_curves_free(&c);
}

static void put_crc(uint8_t *to, const uint8_t *bytes, size_t n) {
    uint32_t crc = gr_crc32c(bytes, n);
    crc = (crc >> 15 | crc << 17) + 0xa282ead8u;
    for (int i = 0; i < 4; i++) to[i] = (uint8_t)(crc >> (8 * i));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    read_once(data, size);
    if (size < 16) return 0;
    uint8_t *fixed = malloc(size);
    if (!fixed) return 0;
    memcpy(fixed, data, size);
    for (size_t at = 0; size - at >= 16;) {
        size_t len = (size_t)fixed[at] | (size_t)fixed[at + 1] << 8;
        memset(fixed + at + 2, 0, 6);
        put_crc(fixed + at + 8, fixed + at, 8);
        if (len > size - at - 16) break;
        put_crc(fixed + at + 12 + len, fixed + at + 12, len);
        at += 16 + len;
    }
    read_once(fixed, size);
    free(fixed);
    return 0;
}
