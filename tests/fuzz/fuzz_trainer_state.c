/* trainer_state.json: what is read can be written, and reads back as the same. */
#include <stdlib.h>

#include "train/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const gr_state_facts facts = {0};
    gr_train_state s, back;
    gr_buf first, second;
    graft_error err;
    gr_state_init(&s, NULL);
    gr_state_init(&back, NULL);
    gr_buf_init(&first, NULL);
    gr_buf_init(&second, NULL);
    if (gr_state_read(&s, "fuzz", (const char *)data, size, &err) == GRAFT_OK) {
        if (gr_state_write(&s, &facts, &first, &err) != GRAFT_OK) abort();
        if (gr_state_read(&back, "again", first.data, first.len, &err) != GRAFT_OK) abort();
        if (gr_state_write(&back, &facts, &second, &err) != GRAFT_OK) abort();
        if (first.len != second.len || memcmp(first.data, second.data, first.len)) abort();
        (void)gr_state_check_options(&s, &back.options, "fuzz", &err);
    }
    gr_buf_free(&first);
    gr_buf_free(&second);
    gr_state_free(&s);
    gr_state_free(&back);
    return 0;
}
