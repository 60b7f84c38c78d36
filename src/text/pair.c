/* One or two texts with the special tokens around them, token types, and truncation that leaves the special tokens in place:
 * transformers' tokenizer(text, text_pair, truncation=True), which cuts the longer of two texts first. */
#include "text/tokenizer_impl.h"

typedef struct parts {
    int32_t *ids[2];
    size_t n[2];
} parts;

/* How many tokens of each text stay, of `room` for both; as tokenizers' LongestFirst. */
static void truncate_longest(parts *p, size_t room) {
    if (p->n[0] + p->n[1] <= room) return;
    size_t shorter = p->n[0] <= p->n[1] ? 0 : 1, longer = 1 - shorter;
    if (2 * p->n[shorter] > room) {
        p->n[shorter] = room / 2;
        p->n[longer] = room - room / 2;
    } else
        p->n[longer] = room - p->n[shorter];
}

typedef struct output {
    int32_t *ids, *types;
    size_t n;
} output;

static void put(output *o, const int32_t *ids, size_t n, int32_t type) {
    for (size_t i = 0; i < n; i++, o->n++) {
        o->ids[o->n] = ids[i];
        o->types[o->n] = type;
    }
}

/* Without a layout of its own a pair is two sequences with what stands around each, but for what stands in front of both. */
static size_t lay_out(const gr_postproc *post, const parts *p, bool pair, output *o) {
    size_t specials = 0;
    if (pair && post->n_pair) {
        for (size_t i = 0; i < post->n_pair; i++) {
            const gr_pair_piece *x = &post->pair[i];
            specials += x->sequence < 0;
            if (o && x->sequence < 0) put(o, &x->id, 1, x->type);
            if (o && x->sequence >= 0) put(o, p->ids[x->sequence], p->n[x->sequence], x->type);
        }
        return specials;
    }
    for (int s = 0; s <= pair; s++) {
        if (o && s == 0) put(o, post->front, post->n_front, 0);
        if (o) put(o, p->ids[s], p->n[s], s);
        if (o) put(o, post->back, post->n_back, s);
        specials += (s == 0 ? post->n_front : 0) + post->n_back;
    }
    return specials;
}

static graft_status assemble(const graft_tokenizer *tok, parts *p, bool pair, size_t max_length, output *o,
                             graft_error *err) {
    const gr_postproc *post = &tok->postproc;
    size_t specials = lay_out(post, p, pair, NULL);
    if (max_length && max_length < specials)
        return gr_fail(err, GRAFT_ERR_LIMIT, "at most %zu tokens, of which %zu would be special tokens", max_length,
                       specials);
    if (max_length && pair)
        truncate_longest(p, max_length - specials);
    else if (max_length)
        p->n[0] = GR_MIN(p->n[0], max_length - specials);
    size_t n = specials + p->n[0] + p->n[1];
    o->ids = gr_realloc_array(tok->a, NULL, n + 1, sizeof *o->ids);
    o->types = gr_realloc_array(tok->a, NULL, n + 1, sizeof *o->types);
    if (!o->ids || !o->types) return gr_fail_memory(err);
    lay_out(post, p, pair, o);
    return GRAFT_OK;
}

graft_status graft_tokenizer_encode_pair(const graft_tokenizer *tok, const char *text, size_t len, const char *pair,
                                         size_t pair_len, size_t max_length, int32_t **ids, int32_t **types, size_t *n,
                                         graft_error *err) {
    parts p = {0};
    output o = {0};
    if (pair && !pair_len) pair = NULL; /* as there */
    if (!ids || !types || !n) return gr_fail(err, GRAFT_ERR_ARGUMENT, "encode: an argument is NULL");
    graft_status st = graft_tokenizer_encode(tok, text, len, 0, &p.ids[0], &p.n[0], err);
    if (st == GRAFT_OK && pair) st = graft_tokenizer_encode(tok, pair, pair_len, 0, &p.ids[1], &p.n[1], err);
    if (st == GRAFT_OK) st = assemble(tok, &p, pair != NULL, max_length, &o, err);
    if (tok) gr_free(tok->a, p.ids[0]);
    if (tok) gr_free(tok->a, p.ids[1]);
    if (st != GRAFT_OK) {
        if (tok) gr_free(tok->a, o.ids);
        if (tok) gr_free(tok->a, o.types);
        return st;
    }
    *ids = o.ids;
    *types = o.types;
    *n = o.n;
    return GRAFT_OK;
}
