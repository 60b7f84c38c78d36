/* Ids to text, all at once or token by token. */
#include "base/ctx.h"
#include "text/tokenizer_impl.h"

static graft_status push_id(const graft_tokenizer *tok, gr_decoding *g, int32_t id, unsigned flags, gr_buf *out,
                            graft_error *err) {
    if (id < 0 || (size_t)id >= tok->n_ids)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "token id %d is outside the vocabulary of %zu", id, tok->n_ids);
    const uint8_t f = tok->id_flags[id];
    if (!(f & GR_ID_TOKEN) || ((flags & GRAFT_TOK_SKIP_SPECIAL) && (f & GR_ID_SKIPPED))) return GRAFT_OK;
    size_t len = 0;
    const char *text;
    if (f & GR_ID_ADDED) {
        const gr_added_entry *e = gr_tokenizer_added(tok, id);
        text = e->decoded;
        len = e->decoded_len;
    } else {
        text = gr_vocab_text(&tok->vocab, id, &len);
    }
    return gr_decoding_push(g, text, len, out, err);
}

graft_status graft_tokenizer_decode(const graft_tokenizer *tok, const int32_t *ids, size_t n, unsigned flags,
                                    char **text, size_t *len, graft_error *err) {
    if (!tok || (!ids && n) || !text) return gr_fail(err, GRAFT_ERR_ARGUMENT, "decode: an argument is NULL");
    gr_decoding *g;
    GR_TRY(gr_decoding_new(tok->a, tok->decoder, &g, err));
    gr_buf out;
    gr_buf_init(&out, tok->a);
    graft_status st = GRAFT_OK;
    for (size_t i = 0; i < n && st == GRAFT_OK; i++) st = push_id(tok, g, ids[i], flags, &out, err);
    if (st == GRAFT_OK) st = gr_decoding_finish(g, &out, err);
    if (st == GRAFT_OK) st = gr_buf_take(&out, text, len, err);
    gr_buf_free(&out);
    gr_decoding_free(g);
    return st;
}

struct graft_detokenizer {
    const graft_tokenizer *tok;
    unsigned flags;
    gr_decoding *decoding;
    gr_buf out;
};

graft_status graft_detokenizer_new(const graft_tokenizer *tok, unsigned flags, graft_detokenizer **out,
                                   graft_error *err) {
    if (!tok || !out) return gr_fail(err, GRAFT_ERR_ARGUMENT, "detokenizer: an argument is NULL");
    graft_detokenizer *d = gr_calloc(tok->a, 1, sizeof *d);
    if (!d) return gr_fail_memory(err);
    d->tok = tok;
    d->flags = flags;
    gr_buf_init(&d->out, tok->a);
    graft_status st = gr_decoding_new(tok->a, tok->decoder, &d->decoding, err);
    if (st != GRAFT_OK) {
        graft_detokenizer_free(d);
        return st;
    }
    *out = d;
    return GRAFT_OK;
}

void graft_detokenizer_free(graft_detokenizer *d) {
    if (!d) return;
    gr_decoding_free(d->decoding);
    gr_buf_free(&d->out);
    gr_free(d->tok->a, d);
}

graft_status graft_detokenizer_push(graft_detokenizer *d, int32_t id, const char **text, size_t *len,
                                    graft_error *err) {
    gr_buf_clear(&d->out);
    GR_TRY(push_id(d->tok, d->decoding, id, d->flags, &d->out, err));
    *text = gr_buf_text(&d->out);
    *len = d->out.len;
    return GRAFT_OK;
}

graft_status graft_detokenizer_finish(graft_detokenizer *d, const char **text, size_t *len, graft_error *err) {
    gr_buf_clear(&d->out);
    GR_TRY(gr_decoding_finish(d->decoding, &d->out, err));
    *text = gr_buf_text(&d->out);
    *len = d->out.len;
    return GRAFT_OK;
}
