/* Building a tokenizer, and what can be asked of one. */
#include <stdlib.h>

#include "base/ctx.h"
#include "text/tokenizer_impl.h"

/* --- added tokens --- */

static int by_id(const void *x, const void *y) {
    const gr_added_entry *a = x, *b = y;
    return a->id < b->id ? -1 : a->id > b->id;
}

const gr_added_entry *gr_tokenizer_added(const graft_tokenizer *tok, int32_t id) {
    if (id < 0 || (size_t)id >= tok->n_ids || !(tok->id_flags[id] & GR_ID_ADDED)) return NULL;
    const gr_added_entry key = {.id = id};
    return bsearch(&key, tok->added, tok->n_added, sizeof key, by_id);
}

/* Ids as the tokenizers library gives them, whatever number the file names: the vocabulary's for a text that it holds,
 * else the next free one after the vocabulary. */
static graft_status number_added(graft_tokenizer *tok, const gr_tokenizer_spec *spec, graft_error *err) {
    int64_t next = (int64_t)tok->vocab.n_tokens;
    gr_map_init(&tok->added_index, tok->a);
    for (size_t i = 0; i < spec->n_added; i++) {
        const gr_added_spec *s = &spec->added[i];
        if (s->len == 0) continue;
        int32_t id = gr_vocab_find(&tok->vocab, s->text, s->len);
        if (id < 0) {
            /* A vocabulary with holes has ids beyond its size: never one that is taken. */
            while (gr_vocab_text(&tok->vocab, next, NULL)) next++;
            if (next >= INT32_MAX) return gr_fail(err, GRAFT_ERR_LIMIT, "too many added tokens");
            id = (int32_t)next++;
        }
        GR_TRY(gr_grow(tok->a, (void **)&tok->added, &tok->added_cap, tok->n_added + 1, sizeof *tok->added, err));
        gr_added_entry *e = &tok->added[tok->n_added];
        *e = (gr_added_entry){.id = id, .len = s->len, .special = s->special, .normalized = s->normalized,
                              .lstrip = s->lstrip, .rstrip = s->rstrip, .single_word = s->single_word};
        e->text = e->decoded = gr_arena_strndup(&tok->arena, s->text, s->len);
        e->decoded_len = e->len;
        if (!e->text) return gr_fail_memory(err);
        GR_TRY(gr_map_set(&tok->added_index, s->text, s->len, id, err));
        tok->n_added++;
    }
    if (tok->n_added) qsort(tok->added, tok->n_added, sizeof *tok->added, by_id);
    return GRAFT_OK;
}

static graft_status normalize_added(graft_tokenizer *tok, gr_added_entry *e, graft_error *err) {
    gr_normalizer_state state;
    gr_normalizer_state_init(&state, tok->a);
    const gr_piece in = {.text = e->text, .len = e->len};
    gr_piece out;
    graft_status st = gr_normalize(tok->normalizer, &state, &in, false, &out, err);
    if (st == GRAFT_OK && (out.len != e->len || memcmp(out.text, e->text, e->len))) {
        e->decoded = gr_arena_strndup(&tok->arena, out.text, out.len);
        e->decoded_len = out.len;
        if (!e->decoded) st = gr_fail_memory(err);
    }
    gr_normalizer_state_free(&state);
    return st;
}

static graft_status add_pattern(graft_tokenizer *tok, gr_matcher **m, const char *text, size_t len,
                                const gr_added_entry *e, graft_error *err) {
    if (len == 0) return GRAFT_OK;
    if (!*m) GR_TRY(gr_matcher_new(tok->a, m, err));
    const gr_added_token t = {.id = e->id, .special = e->special, .lstrip = e->lstrip, .rstrip = e->rstrip,
                              .single_word = e->single_word};
    return gr_matcher_add(*m, text, len, &t, err);
}

static bool is_special_text(const graft_tokenizer *tok, const char *text, size_t len) {
    int64_t id;
    if (!gr_map_get(&tok->added_index, text, len, &id)) return false;
    const gr_added_entry *e = gr_tokenizer_added(tok, (int32_t)id);
    return e && e->special;
}

static graft_status make_added(graft_tokenizer *tok, const gr_tokenizer_spec *spec, graft_error *err) {
    GR_TRY(number_added(tok, spec, err));
    tok->n_ids = tok->vocab.n;
    if (tok->n_added && (size_t)tok->added[tok->n_added - 1].id >= tok->n_ids)
        tok->n_ids = (size_t)tok->added[tok->n_added - 1].id + 1;
    tok->id_flags = gr_calloc(tok->a, tok->n_ids + 1, 1);
    if (!tok->id_flags) return gr_fail_memory(err);
    for (size_t id = 0; id < tok->vocab.n; id++)
        if (gr_vocab_text(&tok->vocab, (int64_t)id, NULL)) tok->id_flags[id] = GR_ID_TOKEN;
    for (size_t i = 0; i < tok->n_added; i++) {
        gr_added_entry *e = &tok->added[i];
        tok->id_flags[e->id] |= GR_ID_TOKEN | GR_ID_ADDED | (e->special ? GR_ID_SPECIAL : 0);
        if (!e->normalized) {
            GR_TRY(add_pattern(tok, &tok->raw, e->text, e->len, e, err));
            continue;
        }
        if (tok->normalizer) GR_TRY(normalize_added(tok, e, err));
        GR_TRY(add_pattern(tok, &tok->normalized, e->decoded, e->decoded_len, e, err));
    }
    /* Decoding leaves a token out when the text that it would decode is the text of a special token. */
    for (size_t i = 0; i < tok->n_added; i++)
        if (is_special_text(tok, tok->added[i].decoded, tok->added[i].decoded_len))
            tok->id_flags[tok->added[i].id] |= GR_ID_SKIPPED;
    for (size_t id = 0; id < tok->vocab.n && tok->vocab.last; id++) { /* pieces behind another of the same text */
        size_t len;
        const char *text = gr_vocab_text(&tok->vocab, (int64_t)id, &len);
        if (text && gr_vocab_find(&tok->vocab, text, len) != (int32_t)id && is_special_text(tok, text, len))
            tok->id_flags[id] |= GR_ID_SKIPPED;
    }
    return GRAFT_OK;
}

/* --- special tokens, end of generation, templates --- */

static graft_status set_specials(graft_tokenizer *tok, const gr_tokenizer_spec *spec, graft_error *err) {
    for (size_t i = 0; i < GR_N_SPECIAL; i++) {
        tok->special_id[i] = spec->special[i] ? graft_tokenizer_token_id(tok, spec->special[i], strlen(spec->special[i]))
                                              : spec->special_id[i];
        if (tok->special_id[i] >= (int32_t)tok->n_ids) tok->special_id[i] = -1;
    }
    tok->eos = gr_alloc(tok->a, (spec->n_eos + 1) * sizeof *tok->eos);
    if (!tok->eos) return gr_fail_memory(err);
    for (size_t i = 0; i <= spec->n_eos; i++) {
        const int32_t id = i < spec->n_eos ? spec->eos[i] : tok->special_id[GRAFT_TOKEN_EOS];
        if (id < 0 || (size_t)id >= tok->n_ids) continue;
        size_t at = tok->n_eos;
        while (at > 0 && tok->eos[at - 1] > id) at--;
        if (at > 0 && tok->eos[at - 1] == id) continue;
        memmove(tok->eos + at + 1, tok->eos + at, (tok->n_eos - at) * sizeof *tok->eos);
        tok->eos[at] = id;
        tok->n_eos++;
    }
    return GRAFT_OK;
}

/* add_bos_token and add_eos_token of a configuration take the place of the whole post-processor. */
static graft_status override_postproc(graft_tokenizer *tok, const gr_tokenizer_spec *spec, graft_error *err) {
    if (spec->add_bos < 0 && spec->add_eos < 0) return GRAFT_OK;
    const int32_t bos = tok->special_id[GRAFT_TOKEN_BOS], eos = tok->special_id[GRAFT_TOKEN_EOS];
    gr_postproc_free(&tok->postproc);
    if (spec->add_bos == 1 && bos >= 0) GR_TRY(gr_postproc_add_front(&tok->postproc, bos, err));
    if (spec->add_eos == 1 && eos >= 0) GR_TRY(gr_postproc_add_back(&tok->postproc, eos, err));
    return GRAFT_OK;
}

static graft_status check_postproc(const graft_tokenizer *tok, graft_error *err) {
    const gr_postproc *p = &tok->postproc;
    for (size_t i = 0; i < p->n_front + p->n_back; i++) {
        const int32_t id = i < p->n_front ? p->front[i] : p->back[i - p->n_front];
        if ((size_t)id >= tok->n_ids)
            return gr_fail(err, GRAFT_ERR_MISMATCH, "post_processor adds token %d, but the vocabulary ends at %zu", id,
                           tok->n_ids);
    }
    return GRAFT_OK;
}

static graft_status copy_templates(graft_tokenizer *tok, const gr_tokenizer_spec *spec, graft_error *err) {
    tok->templates = gr_arena_alloc(&tok->arena, (spec->n_templates + 1) * sizeof *tok->templates);
    if (!tok->templates) return gr_fail_memory(err);
    for (size_t i = 0; i < spec->n_templates; i++) {
        gr_template_spec t = spec->templates[i];
        t.name = gr_arena_strndup(&tok->arena, t.name, strlen(t.name));
        t.text = gr_arena_strndup(&tok->arena, t.text, t.len);
        if (!t.name || !t.text) return gr_fail_memory(err);
        tok->templates[tok->n_templates++] = t;
    }
    return GRAFT_OK;
}

static graft_status keep_json(graft_tokenizer *tok, const char *json, const char **out, graft_error *err) {
    *out = gr_arena_strndup(&tok->arena, json ? json : "null", json ? strlen(json) : 4);
    return *out ? GRAFT_OK : gr_fail_memory(err);
}

/* The four components from their JSON. */
static graft_status build_chain(graft_tokenizer *tok, const gr_tokenizer_spec *spec, gr_arena *arena,
                                graft_error *err) {
    const char *const texts[] = {spec->normalizer, spec->pre_tokenizer, spec->post_processor, spec->decoder};
    static const char *const names[] = {"normalizer", "pre_tokenizer", "post_processor", "decoder"};
    const gr_json_value *json[4] = {0};
    for (size_t i = 0; i < 4; i++)
        if (texts[i]) GR_TRY(gr_json_parse(arena, names[i], texts[i], strlen(texts[i]), &json[i], err));
    GR_TRY(gr_normalizer_new(tok->a, json[0], &tok->normalizer, err));
    GR_TRY(gr_pretok_new(tok->a, json[1], &tok->pretok, err));
    GR_TRY(gr_postproc_init(&tok->postproc, tok->a, json[2], err));
    return gr_decoder_new(tok->a, json[3], &tok->decoder, err);
}

static graft_status build(graft_tokenizer *tok, gr_tokenizer_spec *spec, graft_error *err) {
    GR_TRY(gr_token_model_find(spec->model ? spec->model : "", &tok->type, err));
    tok->vocab = spec->vocab;
    gr_vocab_init(&spec->vocab, spec->a);
    if (tok->vocab.n_tokens == 0 && spec->n_added == 0)
        return gr_fail(err, GRAFT_ERR_FORMAT, "the vocabulary is empty");
    if (tok->vocab.n >= INT32_MAX / 4) return gr_fail(err, GRAFT_ERR_LIMIT, "vocabulary of %zu tokens", tok->vocab.n);
    GR_TRY(gr_vocab_index(&tok->vocab, err));
    gr_arena arena;
    gr_arena_init(&arena, tok->a, (size_t)1 << 30);
    graft_status st = build_chain(tok, spec, &arena, err);
    gr_arena_free(&arena);
    if (st != GRAFT_OK) return st;
    tok->bytes = gr_pretok_ends_in_bytes(tok->pretok) && tok->type->takes_bytes && tok->type->takes_bytes(spec);
    if (tok->bytes) gr_pretok_take_bytes(tok->pretok);
    tok->needs_origin = gr_pretok_needs_origin(tok->pretok);
    GR_TRY(tok->type->build(tok->a, spec, &tok->vocab, tok->bytes, &tok->model, err));
    GR_TRY(make_added(tok, spec, err));
    GR_TRY(set_specials(tok, spec, err));
    GR_TRY(override_postproc(tok, spec, err));
    GR_TRY(check_postproc(tok, err));
    GR_TRY(copy_templates(tok, spec, err));
    GR_TRY(keep_json(tok, spec->normalizer, &tok->normalizer_json, err));
    GR_TRY(keep_json(tok, spec->pre_tokenizer, &tok->pretok_json, err));
    if (spec->add_bos < 0 && spec->add_eos < 0) GR_TRY(keep_json(tok, spec->post_processor, &tok->postproc_json, err));
    return keep_json(tok, spec->decoder, &tok->decoder_json, err);
}

graft_status gr_tokenizer_new(graft_context *ctx, gr_tokenizer_spec *spec, graft_tokenizer **out, graft_error *err) {
    const graft_allocator *a = gr_allocator(ctx);
    graft_tokenizer *tok = gr_calloc(a, 1, sizeof *tok);
    if (!tok) return gr_fail_memory(err);
    tok->ctx = ctx;
    tok->a = a;
    tok->postproc.a = a;
    gr_arena_init(&tok->arena, a, 0);
    gr_vocab_init(&tok->vocab, a);
    gr_map_init(&tok->added_index, a);
    graft_status st = build(tok, spec, err);
    if (st != GRAFT_OK) {
        graft_tokenizer_free(tok);
        return st;
    }
    *out = tok;
    return GRAFT_OK;
}

void graft_tokenizer_free(graft_tokenizer *tok) {
    if (!tok) return;
    if (tok->model) tok->type->free(tok->model);
    gr_normalizer_free(tok->normalizer);
    gr_pretok_free(tok->pretok);
    gr_postproc_free(&tok->postproc);
    gr_decoder_free(tok->decoder);
    gr_matcher_free(tok->raw);
    gr_matcher_free(tok->normalized);
    gr_map_free(&tok->added_index);
    gr_vocab_free(&tok->vocab);
    gr_free(tok->a, tok->added);
    gr_free(tok->a, tok->id_flags);
    gr_free(tok->a, tok->eos);
    gr_arena_free(&tok->arena);
    gr_free(tok->a, tok);
}

/* --- questions --- */

size_t graft_tokenizer_vocab_size(const graft_tokenizer *tok) { return tok->n_ids; }

const char *graft_tokenizer_token_text(const graft_tokenizer *tok, int32_t id, size_t *len) {
    const gr_added_entry *e = gr_tokenizer_added(tok, id);
    if (!e) return gr_vocab_text(&tok->vocab, id, len);
    if (len) *len = e->len;
    return e->text;
}

int32_t graft_tokenizer_token_id(const graft_tokenizer *tok, const char *text, size_t len) {
    int64_t id;
    return gr_map_get(&tok->added_index, text, len, &id) ? (int32_t)id : gr_vocab_find(&tok->vocab, text, len);
}

int32_t graft_tokenizer_special_id(const graft_tokenizer *tok, graft_special_token which) {
    return (unsigned)which < GR_N_SPECIAL ? tok->special_id[which] : -1;
}

const int32_t *graft_tokenizer_eos_ids(const graft_tokenizer *tok, size_t *n) {
    *n = tok->n_eos;
    return tok->eos;
}

int graft_tokenizer_is_eos(const graft_tokenizer *tok, int32_t id) {
    for (size_t i = 0; i < tok->n_eos; i++)
        if (tok->eos[i] == id) return 1;
    return 0;
}

int graft_tokenizer_is_special(const graft_tokenizer *tok, int32_t id) {
    return id >= 0 && (size_t)id < tok->n_ids && (tok->id_flags[id] & GR_ID_SPECIAL);
}

int graft_tokenizer_adds_bos(const graft_tokenizer *tok) {
    const gr_postproc *p = &tok->postproc;
    return p->n_front > 0 && p->front[0] == tok->special_id[GRAFT_TOKEN_BOS];
}

int graft_tokenizer_adds_eos(const graft_tokenizer *tok) {
    const gr_postproc *p = &tok->postproc;
    return p->n_back > 0 && p->back[p->n_back - 1] == tok->special_id[GRAFT_TOKEN_EOS];
}

size_t graft_tokenizer_n_chat_templates(const graft_tokenizer *tok) { return tok->n_templates; }

const char *graft_tokenizer_chat_template_name(const graft_tokenizer *tok, size_t i) {
    return i < tok->n_templates ? tok->templates[i].name : NULL;
}

const char *graft_tokenizer_chat_template(const graft_tokenizer *tok, const char *name, size_t *len) {
    for (size_t i = 0; i < tok->n_templates; i++)
        if (!strcmp(tok->templates[i].name, name ? name : "default") || (!name && tok->n_templates == 1)) {
            if (len) *len = tok->templates[i].len;
            return tok->templates[i].text;
        }
    return NULL;
}
