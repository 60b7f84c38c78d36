/* Records to source and target. Reference: transformers 5.24's run_summarization: each text is tokenised for itself
 * with the special tokens that the tokenizer adds, which stay where the text is cut. */
#include "data/encode.h"

/* As many tokens as `max` allows; the last one stays unless the tokenizer adds no EOS. */
static void cut(const gr_encoder *e, int32_t **ids, size_t *n, size_t max, bool from_start, bool *truncated) {
    if (!max || *n <= max) return;
    if (from_start)
        *ids += *n - max;
    else if (!e->tok || graft_tokenizer_adds_eos(e->tok))
        (*ids)[max - 1] = (*ids)[*n - 1];
    *n = max;
    *truncated = true;
}

/* The answer's tokens, closed by EOS. */
static graft_status encode_answer(const gr_encoder *e, gr_arena *arena, gr_slice text, int32_t **out, size_t *n,
                                  graft_error *err) {
    int32_t *ids, eos = graft_tokenizer_special_id(e->tok, GRAFT_TOKEN_EOS);
    size_t count;
    GR_TRY(graft_tokenizer_encode(e->tok, text.data, text.len, GRAFT_TOK_ADD_SPECIAL, &ids, &count, err));
    int32_t *copy = gr_arena_alloc(arena, (count + 1) * sizeof *copy);
    if (copy && count) memcpy(copy, ids, count * sizeof *copy);
    gr_free(gr_allocator(e->ctx), ids);
    if (!copy) return gr_fail_memory(err);
    if (eos >= 0 && !graft_tokenizer_adds_eos(e->tok)) copy[count++] = eos;
    *out = copy;
    *n = count;
    return GRAFT_OK;
}

/* Tokens as they are: "input_ids" and "labels" of their own lengths. */
static graft_status take_tokens(const gr_encoder *e, const gr_record *record, int32_t **source, size_t *n_source,
                                int32_t **target, size_t *n_target, graft_error *err) {
    (void)e;
    if (!record->labels)
        return gr_fail(err, GRAFT_ERR_MISMATCH,
                       "expected \"labels\" beside \"input_ids\": a model with an encoder learns them");
    if (record->completion_mask || record->assistant_mask)
        return gr_fail(err, GRAFT_ERR_MISMATCH,
                       "masks of \"input_ids\" mean nothing to a model with an encoder, which learns \"labels\"");
    *source = record->ids;
    *n_source = record->n_ids;
    *target = record->labels;
    *n_target = record->n_labels;
    return GRAFT_OK;
}

static graft_status join(gr_arena *arena, const int32_t *source, size_t n_source,
                         const int32_t *target, size_t n_target, gr_tokens *t, graft_error *err) {
    t->n_source = n_source;
    t->n = n_source + n_target;
    t->ids = gr_arena_alloc(arena, t->n * sizeof *t->ids);
    t->labels = gr_arena_alloc(arena, t->n * sizeof *t->labels);
    if (!t->ids || !t->labels) return gr_fail_memory(err);
    memcpy(t->ids, source, n_source * sizeof *source);
    for (size_t i = 0; i < n_source; i++) t->labels[i] = GRAFT_IGNORE_LABEL;
    for (size_t i = 0; i < n_target; i++) {
        t->ids[n_source + i] = GR_MAX(target[i], 0); /* the loader has a pad for ignored ones */
        t->labels[n_source + i] = target[i];
        t->n_labels += target[i] != GRAFT_IGNORE_LABEL;
    }
    return GRAFT_OK;
}

graft_status gr_encode_source_target(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_tokens *out,
                                     graft_error *err) {
    gr_tokens t = {0};
    int32_t *source, *target;
    size_t n_source, n_target;
    bool filled = false;
    if (record->kind == GR_RECORD_TOKENS && !e->prompt_template)
        GR_TRY(take_tokens(e, record, &source, &n_source, &target, &n_target, err));
    else {
        gr_question q;
        GR_TRY(gr_encode_question(e, arena, record, &q, err));
        if (!q.reference.data)
            return gr_fail(err, GRAFT_ERR_MISMATCH,
                           "expected an answer to learn: a completion, or an assistant's message at the end");
        if (q.filled) GR_TRY(gr_fill_shorten(e, &q, e->max_length, &t.truncated, err));
        source = q.ids;
        n_source = q.n;
        filled = q.filled;
        GR_TRY(encode_answer(e, arena, q.reference, &target, &n_target, err));
    }
    if (!n_source) return gr_fail(err, GRAFT_ERR_FORMAT, "expected a prompt of at least one token, found none");
    if (!filled) cut(e, &source, &n_source, e->max_length, e->truncate_start, &t.truncated);
    cut(e, &target, &n_target, e->max_target, false, &t.truncated);
    GR_TRY(join(arena, source, n_source, target, n_target, &t, err));
    *out = t;
    return GRAFT_OK;
}
