/* config.json: refused, or a configuration that is written and read again. */
#include "io/hf_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    gr_model_config c, again;
    graft_error err;
    char *text;
    if (gr_model_config_from_json(NULL, "fuzz", (const char *)data, size, &c, &err) != GRAFT_OK) return 0;
    if (gr_model_config_to_json(NULL, &c, c.dtype, &text, &err) != GRAFT_OK) return 0;
    if (gr_model_config_from_json(NULL, "written", text, strlen(text), &again, &err) != GRAFT_OK) __builtin_trap();
    if (again.head_dim != c.head_dim || again.rope.type != c.rope.type || again.rope.theta != c.rope.theta)
        __builtin_trap();
    gr_free(NULL, text);
    return 0;
}
