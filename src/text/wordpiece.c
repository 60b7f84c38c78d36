/* WordPiece (Wu et al. 2016, as BERT has it): from the left, the longest token that begins here; behind the first, tokens
 * that carry the prefix ("##") are meant. A word that cannot be cut that way, or that has more than
 * max_input_chars_per_word characters, is the unknown token as a whole.
 *
 * Tokens with the prefix are found by walking the trie from the node that the prefix leads to. */
#include "text/json_out.h"
#include "text/token_model.h"
#include "text/trie.h"

struct gr_token_model {
    const graft_allocator *a;
    gr_trie trie;
    bool has_inside;
    uint32_t inside; /* the node behind the prefix */
    char *unk_token, *prefix;
    int32_t unk_id;
    size_t max_chars;
};

typedef struct part {
    int32_t id;
    uint32_t end;
} part;

static size_t count_chars(const char *text, size_t len) {
    size_t n = 0;
    for (size_t i = 0; i < len; i++) n += ((unsigned char)text[i] & 0xC0) != 0x80;
    return n;
}

/* The longest token from `node` at text[at..]; -1: none. */
static int32_t longest(const gr_token_model *m, uint32_t node, const char *text, size_t len, size_t at, size_t *end) {
    int32_t id = -1;
    for (const gr_trie_edge *e; at < len && (e = gr_trie_step(&m->trie, node, (unsigned char)text[at])); at++) {
        node = e->child;
        if (e->value < 0) continue;
        id = e->value;
        *end = at + 1;
    }
    return id;
}

static graft_status encode(const gr_token_model *m, gr_token_scratch *scratch, const char *text, size_t len,
                           gr_token_sink sink, void *user, graft_error *err) {
    if (len >= INT32_MAX) return gr_fail(err, GRAFT_ERR_LIMIT, "a piece of %zu bytes is too long for the model", len);
    if (len > m->max_chars && count_chars(text, len) > m->max_chars) return sink(user, m->unk_id, 0, len, err);
    size_t n = 0;
    for (size_t at = 0, end = 0; at < len; at = end) {
        const int32_t id = at && !m->has_inside ? -1 : longest(m, at ? m->inside : GR_TRIE_ROOT, text, len, at, &end);
        if (id < 0) return sink(user, m->unk_id, 0, len, err);
        GR_TRY(gr_grow(scratch->a, &scratch->memory[0], &scratch->cap[0], n + 1, sizeof(part), err));
        ((part *)scratch->memory[0])[n++] = (part){id, (uint32_t)end};
    }
    const part *parts = scratch->memory[0];
    for (size_t i = 0, start = 0; i < n; start = parts[i++].end)
        GR_TRY(sink(user, parts[i].id, start, parts[i].end, err));
    return GRAFT_OK;
}

static void free_model(gr_token_model *m) {
    if (!m) return;
    gr_trie_free(&m->trie);
    gr_free(m->a, m->unk_token);
    gr_free(m->a, m->prefix);
    gr_free(m->a, m);
}

static graft_status fill(gr_token_model *m, const gr_tokenizer_spec *spec, const gr_vocab *vocab, graft_error *err) {
    m->unk_token = gr_strdup(m->a, spec->unk_token ? spec->unk_token : "[UNK]");
    m->prefix = gr_strdup(m->a, spec->prefix ? spec->prefix : "##");
    if (!m->unk_token || !m->prefix) return gr_fail_memory(err);
    m->unk_id = gr_vocab_find(vocab, m->unk_token, strlen(m->unk_token));
    if (m->unk_id < 0)
        return gr_fail(err, GRAFT_ERR_FORMAT, "WordPiece model: unk_token '%.80s' is not in the vocabulary of %zu tokens",
                       m->unk_token, vocab->n_tokens);
    m->max_chars = (size_t)spec->max_input_chars;
    for (size_t id = 0; id < vocab->n; id++) {
        size_t len;
        const char *text = gr_vocab_text(vocab, (int64_t)id, &len);
        if (text) GR_TRY(gr_trie_add(&m->trie, text, len, (int32_t)id, err));
    }
    m->has_inside = true;
    for (const char *c = m->prefix; *c && m->has_inside; c++) {
        const gr_trie_edge *e = gr_trie_step(&m->trie, m->inside, (unsigned char)*c);
        m->has_inside = e != NULL;
        if (e) m->inside = e->child;
    }
    return GRAFT_OK;
}

static graft_status build(const graft_allocator *a, gr_tokenizer_spec *spec, const gr_vocab *vocab, bool bytes,
                          gr_token_model **out, graft_error *err) {
    (void)bytes;
    gr_token_model *m = gr_calloc(a, 1, sizeof *m);
    if (!m) return gr_fail_memory(err);
    m->a = a;
    m->inside = GR_TRIE_ROOT;
    gr_trie_init(&m->trie, a);
    graft_status st = fill(m, spec, vocab, err);
    if (st != GRAFT_OK) {
        free_model(m);
        return st;
    }
    *out = m;
    return GRAFT_OK;
}

static graft_status save(const gr_token_model *m, const gr_vocab *vocab, gr_buf *out, graft_error *err) {
    gr_buf_add_text(out, "{\"type\": \"WordPiece\", \"unk_token\": ");
    gr_json_add_text(out, m->unk_token, strlen(m->unk_token));
    gr_buf_add_text(out, ", \"continuing_subword_prefix\": ");
    gr_json_add_text(out, m->prefix, strlen(m->prefix));
    gr_buf_add_format(out, ", \"max_input_chars_per_word\": %zu, \"vocab\": ", m->max_chars);
    gr_json_add_vocab(out, vocab);
    gr_buf_add_char(out, '}');
    return gr_buf_status(out, err);
}

const gr_token_model_type gr_wordpiece_type = {
    .name = "WordPiece",
    .build = build,
    .encode = encode,
    .save = save,
    .free = free_model,
};
