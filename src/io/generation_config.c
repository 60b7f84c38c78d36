/* generation_config.json. */
#include "io/config_fields.h"
#include "io/hf_config.h"

enum { MAX_FILE = 1 << 20 };

static graft_status read_json(const graft_allocator *a, const char *path, const char *text, size_t len,
                              gr_generation_config *out, graft_error *err) {
    gr_arena arena;
    const gr_json_value *root;
    gr_generation_config c = *out;
    gr_arena_init(&arena, a, (size_t)64 << 20);
    graft_status st = gr_json_parse(&arena, path, text, len, &root, err);
    if (st == GRAFT_OK) {
        gr_fields f = {.file = path, .where = "", .object = root, .err = err};
        int64_t one[1];
        c.do_sample = gr_field_bool(&f, "do_sample", c.do_sample);
        c.temperature = gr_field_double(&f, "temperature", c.temperature, 0, 1e6);
        c.top_p = gr_field_double(&f, "top_p", c.top_p, 0, 1);
        c.min_p = gr_field_double(&f, "min_p", c.min_p, 0, 1);
        c.repetition_penalty = gr_field_double(&f, "repetition_penalty", c.repetition_penalty, 1e-6, 1e6);
        c.top_k = gr_field_int(&f, "top_k", c.top_k, 0, INT32_MAX);
        if (gr_field_ids(&f, "bos_token_id", one, 1)) c.bos_token_id = one[0];
        if (gr_field_ids(&f, "pad_token_id", one, 1)) c.pad_token_id = one[0];
        if (gr_field(&f, "eos_token_id")) c.n_eos = gr_field_ids(&f, "eos_token_id", c.eos_token_ids, GR_MAX_EOS);
        st = f.st;
    }
    gr_arena_free(&arena);
    if (st == GRAFT_OK) *out = c;
    return st;
}

graft_status gr_generation_config_load(const graft_allocator *a, const char *dir, const gr_model_config *config,
                                       gr_generation_config *out, graft_error *err) {
    gr_generation_config c = {.temperature = 1,
                              .top_p = 1,
                              .repetition_penalty = 1,
                              .top_k = 50,
                              .bos_token_id = config->bos_token_id,
                              .pad_token_id = config->pad_token_id,
                              .n_eos = config->n_eos};
    memcpy(c.eos_token_ids, config->eos_token_ids, sizeof c.eos_token_ids);
    char *path = gr_path_join(a, dir, "generation_config.json"), *text = NULL;
    size_t len;
    if (!path) return gr_fail_memory(err);
    graft_status st = GRAFT_OK;
    if (gr_is_dir(dir) && gr_path_exists(path)) {
        st = gr_read_file(a, path, MAX_FILE, &text, &len, err);
        if (st == GRAFT_OK) st = read_json(a, path, text, len, &c, err);
    }
    gr_free(a, text);
    gr_free(a, path);
    if (st == GRAFT_OK) *out = c;
    return st;
}

graft_status gr_generation_config_to_json(const graft_allocator *a, const gr_generation_config *c, char **out,
                                          graft_error *err) {
    gr_buf b;
    gr_buf_init(&b, a);
    gr_buf_add_text(&b, "{\n");
    if (c->bos_token_id >= 0) gr_buf_add_format(&b, "  \"bos_token_id\": %lld,\n", (long long)c->bos_token_id);
    if (c->do_sample) gr_buf_add_text(&b, "  \"do_sample\": true,\n");
    if (c->n_eos == 1) gr_buf_add_format(&b, "  \"eos_token_id\": %lld,\n", (long long)c->eos_token_ids[0]);
    if (c->n_eos > 1) {
        gr_buf_add_text(&b, "  \"eos_token_id\": [");
        for (int i = 0; i < c->n_eos; i++)
            gr_buf_add_format(&b, "%s\n    %lld", i ? "," : "", (long long)c->eos_token_ids[i]);
        gr_buf_add_text(&b, "\n  ],\n");
    }
    if (c->pad_token_id >= 0) gr_buf_add_format(&b, "  \"pad_token_id\": %lld,\n", (long long)c->pad_token_id);
    const struct {
        const char *name;
        double value, plain;
    } numbers[] = {{"min_p", c->min_p, 0},
                   {"repetition_penalty", c->repetition_penalty, 1},
                   {"temperature", c->temperature, 1},
                   {"top_p", c->top_p, 1}};
    for (size_t i = 0; i < GR_COUNT(numbers); i++) {
        if (numbers[i].value == numbers[i].plain) continue;
        gr_buf_add_format(&b, "  \"%s\": ", numbers[i].name);
        gr_json_add_double(&b, numbers[i].value);
        gr_buf_add_text(&b, ",\n");
    }
    if (c->top_k != 50) gr_buf_add_format(&b, "  \"top_k\": %lld,\n", (long long)c->top_k);
    gr_buf_add_text(&b, "  \"_from_model_config\": false\n}\n");
    graft_status st = gr_buf_take(&b, out, NULL, err);
    if (st != GRAFT_OK) gr_buf_free(&b);
    return st;
}
