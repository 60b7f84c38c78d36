/* Unigram (Kudo 2018): of all ways to cut a piece of text into tokens the one with the largest sum of scores,
 *
 *     best(0) = 0,   best(e) = max over tokens t that end at e of best(e - |t|) + score(t),
 *
 * found from the left; of equal sums the one found first stays. A character that is no token by itself may be the unknown
 * token, ten below the worst score; neighbouring unknowns are one.
 *
 * Two readings of this exist. The tokenizers library adds in double precision and knows no kinds of token: a run of unknown
 * characters that spells a token is that token. SentencePiece (and what is read from its files, which name kinds of
 * token) adds in single precision, matches normal and user-defined tokens only, and gives a user-defined token its length
 * times the best score, less 0.1, so that it is nearly always taken. */
#include <math.h>

#include "base/json.h"
#include "text/token_model.h"
#include "text/trie.h"

#define UNKNOWN_PENALTY 10.0
#define NOWHERE UINT32_MAX

struct gr_token_model {
    const graft_allocator *a;
    const gr_vocab *vocab;
    gr_trie trie;
    double *scores;  /* what matching a token adds; with `kinds` those of user-defined ones are made up */
    double *written; /* with `kinds`: as the file has them */
    double unk_score;
    int32_t unk_id; /* -1: none */
    int32_t byte_id[256];
    bool kinds, byte_fallback;
};

/* The best way to the end of a stretch of text: its last token and where that starts. */
typedef struct node {
    double score;
    int32_t id;
    uint32_t start;
} node;

static inline void offer(const gr_token_model *m, node *to, double score, int32_t id, size_t start) {
    if (m->kinds) score = (float)score;
    if (to->start != NOWHERE && !(score > to->score)) return;
    *to = (node){score, id, (uint32_t)start};
}

static graft_status find_path(const gr_token_model *m, node *nodes, const char *text, size_t len, graft_error *err) {
    for (size_t i = 0; i <= len; i++) nodes[i].start = NOWHERE;
    nodes[0].score = 0;
    for (size_t start = 0; start < len;) {
        int32_t cp;
        const size_t one = start + gr_utf8_decode(text + start, len - start, &cp);
        const double here = nodes[start].score;
        bool single = false;
        uint32_t at = GR_TRIE_ROOT;
        const gr_trie_edge *e;
        for (size_t i = start; i < len && (e = gr_trie_step(&m->trie, at, (unsigned char)text[i])); i++) {
            at = e->child;
            if (e->value < 0) continue;
            offer(m, &nodes[i + 1], m->scores[e->value] + here, e->value, start);
            single |= i + 1 == one;
        }
        if (!single) {
            if (m->unk_id < 0)
                return gr_fail(err, GRAFT_ERR_FORMAT, "Unigram model: no token for U+%04X, and no unk_id", (unsigned)cp);
            offer(m, &nodes[one], m->kinds ? (float)m->unk_score + (float)here : m->unk_score + here, m->unk_id, start);
        }
        start = one;
    }
    return GRAFT_OK;
}

/* A run of unknown characters: the token that it spells, its bytes, or the unknown token. */
static graft_status emit_run(const gr_token_model *m, const char *text, size_t start, size_t end, gr_token_sink sink,
                             void *user, graft_error *err) {
    const int32_t id = m->kinds ? -1 : gr_vocab_find(m->vocab, text + start, end - start);
    if (id >= 0) return sink(user, id, start, end, err);
    bool bytes = m->byte_fallback;
    for (size_t i = start; i < end && bytes; i++) bytes = m->byte_id[(unsigned char)text[i]] >= 0;
    if (!bytes) return sink(user, m->unk_id, start, end, err);
    for (size_t i = start; i < end; i++) GR_TRY(sink(user, m->byte_id[(unsigned char)text[i]], start, end, err));
    return GRAFT_OK;
}

static graft_status encode(const gr_token_model *m, gr_token_scratch *scratch, const char *text, size_t len,
                           gr_token_sink sink, void *user, graft_error *err) {
    if (len == 0) return GRAFT_OK;
    if (len >= INT32_MAX) return gr_fail(err, GRAFT_ERR_LIMIT, "a piece of %zu bytes is too long for the model", len);
    GR_TRY(gr_grow(scratch->a, &scratch->memory[0], &scratch->cap[0], len + 1, sizeof(node), err));
    node *nodes = scratch->memory[0];
    GR_TRY(find_path(m, nodes, text, len, err));
    /* Turns the way round: `start` becomes where the following token ends. */
    uint32_t next = NOWHERE;
    for (uint32_t end = (uint32_t)len; end > 0;) {
        const uint32_t start = nodes[end].start;
        nodes[end].start = next;
        next = end;
        end = start;
    }
    size_t from = 0, run = 0;
    bool open = false; /* an unknown run begins at `run` */
    for (uint32_t end = next; end != NOWHERE; from = end, end = nodes[end].start) {
        const bool unknown = nodes[end].id == m->unk_id;
        if (open && !unknown) GR_TRY(emit_run(m, text, run, from, sink, user, err));
        if (!unknown) GR_TRY(sink(user, nodes[end].id, from, end, err));
        else if (!open) run = from;
        open = unknown;
    }
    return open ? emit_run(m, text, run, len, sink, user, err) : GRAFT_OK;
}

/* --- building --- */

static void free_model(gr_token_model *m) {
    if (!m) return;
    gr_trie_free(&m->trie);
    gr_free(m->a, m->scores);
    gr_free(m->a, m->written);
    gr_free(m->a, m);
}

static graft_status check_piece(const gr_token_model *m, const gr_tokenizer_spec *spec, size_t id, graft_error *err) {
    size_t len;
    const char *text = gr_vocab_text(m->vocab, (int64_t)id, &len);
    if (!text) return gr_fail(err, GRAFT_ERR_FORMAT, "Unigram model: there is no piece %zu", id);
    const int32_t found = gr_vocab_find(m->vocab, text, len);
    if (found != (int32_t)id && m->kinds)
        return gr_fail(err, GRAFT_ERR_FORMAT, "Unigram model: pieces %d and %zu are both '%.80s'; expected each once",
                       found, id, text);
    if (!isfinite(spec->scores[id]))
        return gr_fail(err, GRAFT_ERR_FORMAT, "Unigram model: the score of piece %zu '%.80s' is %g; expected a finite number",
                       id, text, spec->scores[id]);
    return GRAFT_OK;
}

/* SentencePiece's own: see the head of this file. */
static graft_status weigh_kinds(gr_token_model *m, const gr_tokenizer_spec *spec, float best, graft_error *err) {
    m->written = gr_alloc(m->a, m->vocab->n * sizeof *m->written);
    if (!m->written) return gr_fail_memory(err);
    memcpy(m->written, m->scores, m->vocab->n * sizeof *m->written);
    for (size_t id = 0; id < m->vocab->n; id++) {
        size_t len;
        gr_vocab_text(m->vocab, (int64_t)id, &len);
        if (spec->types[id] == GR_TOKEN_USER_DEFINED) m->scores[id] = (double)((float)len * best) - 0.1;
    }
    return GRAFT_OK;
}

static graft_status fill(gr_token_model *m, gr_tokenizer_spec *spec, graft_error *err) {
    const size_t n = m->vocab->n;
    if (!spec->scores) return gr_fail(err, GRAFT_ERR_FORMAT, "Unigram model: its vocabulary is no list of [piece, score]");
    if (spec->unk_id >= 0 && (uint64_t)spec->unk_id >= n)
        return gr_fail(err, GRAFT_ERR_FORMAT, "Unigram model: unk_id is %lld; expected less than the %zu pieces",
                       (long long)spec->unk_id, n);
    m->unk_id = spec->unk_id >= 0 ? (int32_t)spec->unk_id : -1;
    m->kinds = spec->types != NULL;
    m->byte_fallback = spec->byte_fallback;
    double worst = INFINITY, best = -INFINITY;
    for (size_t id = 0; id < n; id++) {
        size_t len;
        GR_TRY(check_piece(m, spec, id, err));
        const char *text = gr_vocab_text(m->vocab, (int64_t)id, &len);
        const int kind = m->kinds ? spec->types[id] : GR_TOKEN_NORMAL;
        const bool hidden = gr_vocab_find(m->vocab, text, len) != (int32_t)id; /* behind a later piece of the same text */
        if (!hidden && (kind == GR_TOKEN_NORMAL || kind == GR_TOKEN_USER_DEFINED))
            GR_TRY(gr_trie_add(&m->trie, text, len, (int32_t)id, err));
        if (kind != GR_TOKEN_NORMAL) continue;
        worst = GR_MIN(worst, spec->scores[id]);
        best = GR_MAX(best, spec->scores[id]);
    }
    if (!isfinite(worst)) worst = best = 0; /* nothing but special tokens */
    m->unk_score = m->kinds ? (double)((float)worst - (float)UNKNOWN_PENALTY) : worst - UNKNOWN_PENALTY;
    for (int b = 0; b < 256; b++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)b);
        m->byte_id[b] = gr_vocab_find(m->vocab, text, 6);
    }
    m->scores = spec->scores;
    spec->scores = NULL;
    return m->kinds ? weigh_kinds(m, spec, (float)best, err) : GRAFT_OK;
}

static graft_status build(const graft_allocator *a, gr_tokenizer_spec *spec, const gr_vocab *vocab, bool bytes,
                          gr_token_model **out, graft_error *err) {
    (void)bytes;
    gr_token_model *m = gr_calloc(a, 1, sizeof *m);
    if (!m) return gr_fail_memory(err);
    m->a = a;
    m->vocab = vocab;
    gr_trie_init(&m->trie, a);
    graft_status st = fill(m, spec, err);
    if (st != GRAFT_OK) {
        free_model(m);
        return st;
    }
    *out = m;
    return GRAFT_OK;
}

static graft_status save(const gr_token_model *m, const gr_vocab *vocab, gr_buf *out, graft_error *err) {
    const double *scores = m->written ? m->written : m->scores;
    gr_buf_add_text(out, "{\"type\": \"Unigram\", \"unk_id\": ");
    if (m->unk_id >= 0) gr_buf_add_format(out, "%d", m->unk_id);
    else gr_buf_add_text(out, "null");
    gr_buf_add_format(out, ", \"byte_fallback\": %s, \"vocab\": [", m->byte_fallback ? "true" : "false");
    for (size_t id = 0; id < vocab->n; id++) {
        size_t len;
        const char *text = gr_vocab_text(vocab, (int64_t)id, &len);
        gr_buf_add_text(out, id ? ",\n[" : "\n[");
        gr_json_add_text(out, text, len);
        gr_buf_add_format(out, ", %.17g]", scores[id]);
    }
    gr_buf_add_text(out, "]}");
    return gr_buf_status(out, err);
}

const gr_token_model_type gr_unigram_type = {
    .name = "Unigram",
    .build = build,
    .encode = encode,
    .save = save,
    .free = free_model,
};
