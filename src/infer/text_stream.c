#include "infer/text_stream.h"

graft_status gr_text_stream_init(gr_text_stream *t, const graft_allocator *a, const graft_tokenizer *tok,
                                 bool keep_special, const char *const *stop, size_t n_stop,
                                 graft_error *err) {
    *t = (gr_text_stream){.stop = stop, .n_stop = n_stop};
    gr_buf_init(&t->text, a);
    return graft_detokenizer_new(tok, keep_special ? 0 : GRAFT_TOK_SKIP_SPECIAL, &t->detok, err);
}

void gr_text_stream_free(gr_text_stream *t) {
    graft_detokenizer_free(t->detok);
    gr_buf_free(&t->text);
    t->detok = NULL;
}

/* Looks for a stop text that ends in the bytes from `from` on; the earliest beginning wins. */
static void cut_at_stop(gr_text_stream *t, size_t from) {
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < t->n_stop; i++) {
        size_t n = strlen(t->stop[i]);
        if (n == 0) continue;
        size_t start = from > n - 1 ? from - (n - 1) : 0;
        for (size_t k = start; k + n <= t->text.len && k < best; k++)
            if (!memcmp(t->text.data + k, t->stop[i], n)) best = k;
    }
    if (best == SIZE_MAX) return;
    t->stopped = true;
    t->text.len = best;
    t->text.data[best] = '\0';
}

static graft_status add(gr_text_stream *t, const char *piece, size_t len, graft_error *err) {
    if (t->stopped || len == 0) return GRAFT_OK;
    size_t from = t->text.len;
    gr_buf_add(&t->text, piece, len);
    GR_TRY(gr_buf_status(&t->text, err));
    cut_at_stop(t, from);
    return GRAFT_OK;
}

graft_status gr_text_stream_push(gr_text_stream *t, int32_t id, graft_error *err) {
    const char *piece;
    size_t len;
    GR_TRY(graft_detokenizer_push(t->detok, id, &piece, &len, err));
    return add(t, piece, len, err);
}

graft_status gr_text_stream_finish(gr_text_stream *t, graft_error *err) {
    const char *piece;
    size_t len;
    GR_TRY(graft_detokenizer_finish(t->detok, &piece, &len, err));
    return add(t, piece, len, err);
}

/* Length of the longest end of the text that is the beginning of a stop text. */
static size_t held_back(const gr_text_stream *t) {
    size_t most = 0;
    for (size_t i = 0; i < t->n_stop; i++) {
        size_t n = strlen(t->stop[i]);
        for (size_t k = GR_MIN(n ? n - 1 : 0, t->text.len); k > most; k--)
            if (!memcmp(t->text.data + t->text.len - k, t->stop[i], k)) most = k;
    }
    return most;
}

const char *gr_text_stream_next(gr_text_stream *t, bool finished, size_t *len) {
    size_t certain = t->text.len - (finished || t->stopped ? 0 : held_back(t));
    const char *at = gr_buf_text(&t->text) + t->emitted;
    *len = certain > t->emitted ? certain - t->emitted : 0;
    t->emitted += *len;
    return at;
}
