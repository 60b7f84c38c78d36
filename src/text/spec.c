/* Building and freeing the neutral description. */
#include "text/spec.h"

void gr_spec_init(gr_tokenizer_spec *s, const graft_allocator *a) {
    *s = (gr_tokenizer_spec){.a = a, .unk_id = -1, .max_input_chars = 100, .add_bos = -1, .add_eos = -1};
    gr_arena_init(&s->arena, a, 0);
    gr_vocab_init(&s->vocab, a);
    gr_buf_init(&s->merge_texts, a);
    gr_map_init(&s->added_index, a);
    for (size_t i = 0; i < GR_N_SPECIAL; i++) s->special_id[i] = -1;
}

void gr_spec_free(gr_tokenizer_spec *s) {
    gr_vocab_free(&s->vocab);
    gr_buf_free(&s->merge_texts);
    gr_free(s->a, s->merges);
    gr_free(s->a, s->scores);
    gr_free(s->a, s->types);
    gr_free(s->a, s->added);
    gr_map_free(&s->added_index);
    gr_free(s->a, s->eos);
    gr_free(s->a, s->templates);
    gr_arena_free(&s->arena);
    gr_spec_init(s, s->a);
}

graft_status gr_spec_add_merge(gr_tokenizer_spec *s, const char *left, size_t n_left, const char *right,
                               size_t n_right, graft_error *err) {
    if (n_left + n_right + s->merge_texts.len >= UINT32_MAX)
        return gr_fail(err, GRAFT_ERR_LIMIT, "merges take more than 4 GiB");
    GR_TRY(gr_grow(s->a, (void **)&s->merges, &s->merges_cap, s->n_merges + 1, sizeof *s->merges, err));
    gr_merge m = {(uint32_t)s->merge_texts.len, (uint32_t)n_left, (uint32_t)n_right};
    gr_buf_add(&s->merge_texts, left, n_left);
    gr_buf_add(&s->merge_texts, right, n_right);
    GR_TRY(gr_buf_status(&s->merge_texts, err));
    s->merges[s->n_merges++] = m;
    return GRAFT_OK;
}

graft_status gr_spec_text(gr_tokenizer_spec *s, const char *text, size_t len, const char **out, graft_error *err) {
    char *copy = gr_arena_strndup(&s->arena, text, len);
    if (!copy) return gr_fail_memory(err);
    *out = copy;
    return GRAFT_OK;
}

graft_status gr_spec_add_added(gr_tokenizer_spec *s, const gr_added_spec *token, graft_error *err) {
    int64_t at;
    if (gr_map_get(&s->added_index, token->text, token->len, &at)) {
        char *text = s->added[at].text;
        s->added[at] = *token;
        s->added[at].text = text;
        return GRAFT_OK;
    }
    GR_TRY(gr_grow(s->a, (void **)&s->added, &s->added_cap, s->n_added + 1, sizeof *s->added, err));
    char *text = gr_arena_strndup(&s->arena, token->text, token->len);
    if (!text) return gr_fail_memory(err);
    GR_TRY(gr_map_set(&s->added_index, token->text, token->len, (int64_t)s->n_added, err));
    s->added[s->n_added] = *token;
    s->added[s->n_added++].text = text;
    return GRAFT_OK;
}

graft_status gr_spec_add_eos(gr_tokenizer_spec *s, int32_t id, graft_error *err) {
    for (size_t i = 0; i < s->n_eos; i++)
        if (s->eos[i] == id) return GRAFT_OK;
    GR_TRY(gr_grow(s->a, (void **)&s->eos, &s->eos_cap, s->n_eos + 1, sizeof *s->eos, err));
    s->eos[s->n_eos++] = id;
    return GRAFT_OK;
}

graft_status gr_spec_add_template(gr_tokenizer_spec *s, const char *name, const char *text, size_t len,
                                  graft_error *err) {
    for (size_t i = 0; i < s->n_templates; i++)
        if (!strcmp(s->templates[i].name, name)) return GRAFT_OK;
    GR_TRY(gr_grow(s->a, (void **)&s->templates, &s->templates_cap, s->n_templates + 1, sizeof *s->templates, err));
    gr_template_spec t = {.len = len};
    t.name = gr_arena_strndup(&s->arena, name, strlen(name));
    t.text = gr_arena_strndup(&s->arena, text, len);
    if (!t.name || !t.text) return gr_fail_memory(err);
    s->templates[s->n_templates++] = t;
    return GRAFT_OK;
}
