#include "eval/verbaliser.h"

graft_status gr_verbaliser_open(gr_verbaliser *v, const graft_model *m, const graft_tokenizer *tok,
                                const char *prompt_template, gr_class_tally *tally, graft_error *err) {
    *v = (gr_verbaliser){.a = gr_allocator(m->ctx), .model = m->model};
    if (!prompt_template || gr_model_get_config(m->model)->task != GR_TASK_MASKED_LM) return GRAFT_OK;
    gr_arena_init(&v->arena, v->a, 0);
    GR_TRY(gr_slots_parse(&v->arena, "template", prompt_template, &v->slots, err));
    if (!v->slots.n_words) return GRAFT_OK;
    GR_TRY(gr_slots_word_ids(tok, v->a, &v->arena, &v->slots, &v->ids, err));
    if (!(v->scores = gr_arena_alloc(&v->arena, v->slots.n_words * sizeof *v->scores))) return gr_fail_memory(err);
    return gr_class_tally_init(tally, v->a, GRAFT_PROBLEM_SINGLE, v->slots.n_words, err);
}

void gr_verbaliser_close(gr_verbaliser *v) {
    gr_free(v->a, v->rows);
    gr_free(v->a, v->classes);
    gr_arena_free(&v->arena);
}

/* The masks, and which word is the answer; an answer of a data set is one of them. */
static graft_status find_masks(gr_verbaliser *v, const gr_batch *b, size_t *n, graft_error *err) {
    *n = 0;
    for (int64_t i = 0; i < b->n_tokens; i++) {
        if (b->labels[i] < 0) continue;
        size_t class = 0;
        while (class < v->slots.n_words && v->ids[class] != b->labels[i]) class++;
        if (class == v->slots.n_words) continue;
        GR_TRY(gr_grow(v->a, (void **)&v->rows, &v->rows_cap, *n + 1, sizeof *v->rows, err));
        GR_TRY(gr_grow(v->a, (void **)&v->classes, &v->classes_cap, *n + 1, sizeof *v->classes, err));
        v->rows[*n] = (int32_t)i;
        v->classes[(*n)++] = (int32_t)class;
    }
    return GRAFT_OK;
}

graft_status gr_verbaliser_count(gr_verbaliser *v, gr_pass *pass, gr_tape *tape, const gr_batch *b,
                                 const gr_pass_options *o, gr_class_tally *tally, graft_error *err) {
    gr_device *dev = gr_model_device(v->model);
    const int64_t vocab = gr_model_get_config(v->model)->vocab_size;
    gr_var *logits = NULL;
    size_t n;
    GR_TRY(find_masks(v, b, &n, err));
    if (!n) return GRAFT_OK;
    graft_status st = gr_pass_logits(pass, tape, b, o, v->rows, (int64_t)n, &logits, err);
    for (size_t r = 0; st == GRAFT_OK && r < n; r++) {
        const gr_array *x = gr_var_array(logits);
        for (size_t i = 0; i < v->slots.n_words; i++) {
            const char *at = (const char *)x->data + gr_dtype_bytes(x->dtype, r * (size_t)vocab + (size_t)v->ids[i]);
            dev->k->convert(dev, x->dtype, at, GR_F32, &v->scores[i], 1);
        }
        gr_class_tally_add(tally, v->scores, v->classes[r], NULL);
    }
    gr_var_drop(logits);
    gr_tape_reset(tape);
    return st;
}
