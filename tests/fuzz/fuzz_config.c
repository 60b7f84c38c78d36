/* config.json: refused, or a configuration that is written and read again. */
#include "io/hf_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    gr_model_config c, again;
    graft_error err;
    char *text;
    const gr_config_edit edits[] = {{"architectures", "[\"BertForSequenceClassification\"]"}, {"id2label", "{\"0\": \"a\"}"}};
    gr_arena arena;
    gr_labels labels;
    if (gr_model_config_from_json(NULL, "fuzz", (const char *)data, size, &c, &err) != GRAFT_OK) return 0;
    gr_arena_init(&arena, NULL, (size_t)256 << 20);
    if (gr_labels_from_json(&arena, "fuzz", (const char *)data, size, c.n_labels, &labels, &err) == GRAFT_OK)
        for (int i = 0; i < labels.n; i++)
            if (!labels.names[i]) __builtin_trap();
    gr_arena_free(&arena);
    if (gr_model_config_edit_keys(NULL, "fuzz", (const char *)data, size, edits, GR_COUNT(edits), &text, &err) == GRAFT_OK) {
        if (gr_model_config_from_json(NULL, "edited", text, strlen(text), &again, &err) == GRAFT_OK &&
            (again.task != GR_TASK_SEQ_CLS || again.n_labels != 1))
            __builtin_trap();
        gr_free(NULL, text);
    }
    if (gr_model_config_to_json(NULL, &c, c.dtype, &text, &err) != GRAFT_OK) return 0;
    if (gr_model_config_from_json(NULL, "written", text, strlen(text), &again, &err) != GRAFT_OK) __builtin_trap();
    if (again.head_dim != c.head_dim || again.rope.type != c.rope.type || again.rope.theta != c.rope.theta)
        __builtin_trap();
    gr_free(NULL, text);
    return 0;
}
