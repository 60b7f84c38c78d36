/* Building the BPE model: the table of pairs from merges, or from scores. See bpe.c. */
#include <stdlib.h>

#include "text/bpe.h"
#include "text/bytelevel.h"
#include "text/json_out.h"

enum { MAX_SCORED_LEN = 1024 };

static graft_status make_pairs(gr_token_model *m, size_t n, graft_error *err) {
    size_t n_slots = 16;
    int bits = 4;
    while (n_slots < n + n / 2) {
        n_slots *= 2;
        bits++;
    }
    m->pairs = gr_alloc(m->a, n_slots * sizeof *m->pairs);
    if (!m->pairs) return gr_fail_memory(err);
    for (size_t i = 0; i < n_slots; i++) m->pairs[i].result = GR_BPE_NONE;
    m->n_slots = n_slots;
    m->shift = 64 - bits;
    return GRAFT_OK;
}

/* The table has room for every pair announced to make_pairs. */
static void set_pair(gr_token_model *m, uint32_t left, uint32_t right, uint32_t rank, int32_t result, bool replace) {
    size_t i = gr_bpe_pair_slot(m, left, right);
    while (m->pairs[i].result != GR_BPE_NONE && (m->pairs[i].left != left || m->pairs[i].right != right))
        i = (i + 1) & (m->n_slots - 1);
    if (m->pairs[i].result != GR_BPE_NONE && !replace) return;
    m->n_pairs += m->pairs[i].result == GR_BPE_NONE;
    m->pairs[i] = (gr_bpe_pair){left, right, rank, result};
}

static graft_status pseudo_of(gr_token_model *m, const char *text, size_t len, int32_t *id, graft_error *err) {
    *id = gr_bpe_symbol(m, text, len);
    if (*id >= 0) return GRAFT_OK;
    const size_t next = m->vocab->n + m->pseudo.n;
    if (next >= INT32_MAX) return gr_fail(err, GRAFT_ERR_LIMIT, "too many pieces in the merges");
    GR_TRY(gr_map_set(&m->pseudo, text, len, (int64_t)next, err));
    *id = (int32_t)next;
    return GRAFT_OK;
}

static graft_status need_token(gr_token_model *m, const gr_tokenizer_spec *spec, size_t i, const char *text,
                               size_t len, int32_t *id, graft_error *err) {
    if (spec->lenient) return pseudo_of(m, text, len, id, err);
    *id = gr_vocab_find(m->vocab, text, len);
    if (*id >= 0) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_FORMAT, "merge %zu: '%.*s' is not in the vocabulary", i, (int)GR_MIN(len, 80), text);
}

static graft_status add_merges(gr_token_model *m, const gr_tokenizer_spec *spec, graft_error *err) {
    const size_t n_prefix = m->prefix ? strlen(m->prefix) : 0;
    gr_buf joined;
    gr_buf_init(&joined, m->a);
    graft_status st = make_pairs(m, spec->n_merges, err);
    for (size_t i = 0; i < spec->n_merges && st == GRAFT_OK; i++) {
        const gr_merge *g = &spec->merges[i];
        const char *left = spec->merge_texts.data + g->offset, *right = left + g->left_len;
        int32_t l, r, whole;
        if ((st = need_token(m, spec, i, left, g->left_len, &l, err)) != GRAFT_OK) break;
        if ((st = need_token(m, spec, i, right, g->right_len, &r, err)) != GRAFT_OK) break;
        if (n_prefix == 0) {
            st = need_token(m, spec, i, left, (size_t)g->left_len + g->right_len, &whole, err);
        } else if (g->right_len < n_prefix) {
            st = gr_fail(err, GRAFT_ERR_FORMAT, "merge %zu: '%.*s' is shorter than the prefix '%s'", i,
                         (int)g->right_len, right, m->prefix);
        } else {
            gr_buf_clear(&joined);
            gr_buf_add(&joined, left, g->left_len);
            gr_buf_add(&joined, right + n_prefix, g->right_len - n_prefix);
            if ((st = gr_buf_status(&joined, err)) == GRAFT_OK)
                st = need_token(m, spec, i, gr_buf_text(&joined), joined.len, &whole, err);
        }
        /* The tokenizers library lets the last of equal merges win, llama.cpp the first. */
        if (st == GRAFT_OK) set_pair(m, (uint32_t)l, (uint32_t)r, (uint32_t)i, whole, !spec->lenient);
    }
    gr_buf_free(&joined);
    return st;
}

typedef struct scored {
    double score;
    int32_t id;
    uint32_t rank;
} scored;

static int by_score(const void *x, const void *y) {
    const scored *a = x, *b = y;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

static bool is_mergeable(const gr_tokenizer_spec *spec, size_t id) {
    const int type = spec->types ? spec->types[id] : GR_TOKEN_NORMAL;
    return type == GR_TOKEN_NORMAL || type == GR_TOKEN_UNUSED || type == GR_TOKEN_UNDEFINED;
}

/* A half of a piece: a token, or a single character that is none. GR_BPE_NONE: merging never makes it. */
static graft_status half(gr_token_model *m, const gr_tokenizer_spec *spec, const char *text, size_t len, int32_t *id,
                         graft_error *err) {
    *id = gr_bpe_symbol(m, text, len);
    if (*id >= 0 && ((size_t)*id >= m->vocab->n || is_mergeable(spec, (size_t)*id))) return GRAFT_OK;
    const bool one_char = gr_bpe_char_len(text, len) == len;
    if (*id >= 0 || !one_char) {
        if (!one_char) *id = GR_BPE_NONE;
        return GRAFT_OK;
    }
    return pseudo_of(m, text, len, id, err);
}

static graft_status add_scored_piece(gr_token_model *m, const gr_tokenizer_spec *spec, const scored *s,
                                     graft_error *err) {
    size_t len;
    const char *text = gr_vocab_text(m->vocab, s->id, &len);
    for (size_t cut = gr_bpe_char_len(text, len); cut < len; cut += gr_bpe_char_len(text + cut, len - cut)) {
        int32_t l, r;
        GR_TRY(half(m, spec, text, cut, &l, err));
        if (l < 0) continue;
        GR_TRY(half(m, spec, text + cut, len - cut, &r, err));
        if (r >= 0) set_pair(m, (uint32_t)l, (uint32_t)r, s->rank, s->id, false);
    }
    return GRAFT_OK;
}

/* Ranks are places in the order of scores; equal scores share one, and then the leftmost pair goes first. */
static graft_status add_scored(gr_token_model *m, const gr_tokenizer_spec *spec, graft_error *err) {
    const size_t n = m->vocab->n;
    scored *list = gr_alloc(m->a, n * sizeof *list);
    if (!list) return gr_fail_memory(err);
    size_t n_list = 0, n_cuts = 0;
    graft_status st = GRAFT_OK;
    for (size_t id = 0; id < n && st == GRAFT_OK; id++) {
        size_t len;
        const char *text = gr_vocab_text(m->vocab, (int64_t)id, &len);
        if (!text || len == 0 || !is_mergeable(spec, id) || gr_vocab_find(m->vocab, text, len) != (int32_t)id) continue;
        if (len > MAX_SCORED_LEN)
            st = gr_fail(err, GRAFT_ERR_LIMIT, "token %zu is %zu bytes long (at most %d)", id, len, MAX_SCORED_LEN);
        list[n_list++] = (scored){.score = spec->scores ? spec->scores[id] : 0, .id = (int32_t)id};
        for (size_t i = 0; i < len; i++) n_cuts += ((unsigned char)text[i] & 0xC0) != 0x80;
    }
    if (st == GRAFT_OK && n_cuts > 0) {
        qsort(list, n_list, sizeof *list, by_score);
        for (size_t i = 1; i < n_list; i++)
            list[i].rank = list[i].score == list[i - 1].score ? list[i - 1].rank : (uint32_t)i;
    }
    if (st == GRAFT_OK) st = make_pairs(m, n_cuts, err);
    for (size_t i = 0; i < n_list && st == GRAFT_OK; i++) st = add_scored_piece(m, spec, &list[i], err);
    gr_free(m->a, list);
    return st;
}

static graft_status index_bytes(gr_token_model *m, graft_error *err) {
    gr_buf text;
    gr_buf_init(&text, m->a);
    m->raw.expected = m->vocab->n;
    graft_status st = gr_vocab_reserve(&m->raw, m->vocab->n, m->vocab->texts.len, err);
    for (size_t id = 0; id < m->vocab->n && st == GRAFT_OK; id++) {
        size_t len;
        const char *token = gr_vocab_text(m->vocab, (int64_t)id, &len);
        gr_buf_clear(&text);
        if (!token || gr_vocab_find(m->vocab, token, len) != (int32_t)id || !gr_bytelevel_decode(token, len, &text))
            continue;
        st = gr_buf_status(&text, err);
        if (st == GRAFT_OK) st = gr_vocab_add(&m->raw, (int64_t)id, gr_buf_text(&text), text.len, err);
    }
    gr_buf_free(&text);
    return st == GRAFT_OK ? gr_vocab_index(&m->raw, err) : st;
}

static graft_status index_characters(gr_token_model *m, graft_error *err) {
    for (int b = 0; b < 256; b++) {
        char text[8];
        const size_t n = gr_utf8_encode((uint32_t)(m->bytes ? gr_byte_to_char((unsigned char)b) : b), text);
        m->char_id[b] = !m->bytes && b >= 128 ? GR_BPE_NONE : gr_bpe_symbol(m, text, n);
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)b);
        m->fallback_id[b] = gr_vocab_find(m->vocab, text, 6);
    }
    return m->bytes ? index_bytes(m, err) : GRAFT_OK;
}

static graft_status copy_text(const graft_allocator *a, const char *text, char **out, graft_error *err) {
    if (!text) return GRAFT_OK;
    *out = gr_strdup(a, text);
    return *out ? GRAFT_OK : gr_fail_memory(err);
}

void gr_bpe_free(gr_token_model *m) {
    if (!m) return;
    gr_vocab_free(&m->raw);
    gr_free(m->a, m->pairs);
    gr_map_free(&m->pseudo);
    gr_free(m->a, m->unk_token);
    gr_free(m->a, m->prefix);
    gr_free(m->a, m->suffix);
    gr_free(m->a, m->memo);
    gr_free(m->a, m);
}

static graft_status fill(gr_token_model *m, gr_tokenizer_spec *spec, graft_error *err) {
    GR_TRY(copy_text(m->a, spec->unk_token, &m->unk_token, err));
    GR_TRY(copy_text(m->a, spec->prefix && *spec->prefix ? spec->prefix : NULL, &m->prefix, err));
    GR_TRY(copy_text(m->a, spec->suffix && *spec->suffix ? spec->suffix : NULL, &m->suffix, err));
    m->unk_id = m->unk_token ? gr_vocab_find(m->vocab, m->unk_token, strlen(m->unk_token)) : GR_BPE_NONE;
    GR_TRY(spec->by_scores ? add_scored(m, spec, err) : add_merges(m, spec, err));
    GR_TRY(index_characters(m, err));
    m->memo = gr_calloc(m->a, m->vocab->n + 1, sizeof *m->memo);
    return m->memo ? GRAFT_OK : gr_fail_memory(err);
}

graft_status gr_bpe_build(const graft_allocator *a, gr_tokenizer_spec *spec, const gr_vocab *vocab, bool bytes,
                          gr_token_model **out, graft_error *err) {
    gr_token_model *m = gr_calloc(a, 1, sizeof *m);
    if (!m) return gr_fail_memory(err);
    m->a = a;
    m->vocab = vocab;
    m->bytes = bytes;
    m->fuse_unk = spec->fuse_unk;
    m->byte_fallback = spec->byte_fallback;
    m->ignore_merges = spec->ignore_merges;
    m->keep_unknown = spec->by_scores;
    gr_vocab_init(&m->raw, a);
    gr_map_init(&m->pseudo, a);
    graft_status st = fill(m, spec, err);
    if (st != GRAFT_OK) {
        gr_bpe_free(m);
        return st;
    }
    *out = m;
    return GRAFT_OK;
}

bool gr_bpe_takes_bytes(const gr_tokenizer_spec *spec) {
    return !spec->byte_fallback && !(spec->prefix && *spec->prefix) && !(spec->suffix && *spec->suffix);
}

/* --- saving --- */

static int by_rank(const void *x, const void *y) {
    const gr_bpe_pair *a = x, *b = y;
    if (a->rank != b->rank) return a->rank < b->rank ? -1 : 1;
    if (a->left != b->left) return a->left < b->left ? -1 : 1;
    return a->right < b->right ? -1 : a->right > b->right;
}

static void save_text(gr_buf *out, const char *key, const char *text) {
    gr_buf_add_format(out, ", \"%s\": ", key);
    if (text) gr_json_add_text(out, text, strlen(text));
    else gr_buf_add_text(out, "null");
}

graft_status gr_bpe_save(const gr_token_model *m, const gr_vocab *vocab, gr_buf *out, graft_error *err) {
    gr_bpe_pair *list = gr_alloc(m->a, m->n_pairs * sizeof *list);
    if (!list) return gr_fail_memory(err);
    size_t n = 0;
    for (size_t i = 0; i < m->n_slots; i++) {
        const gr_bpe_pair *p = &m->pairs[i];
        const size_t limit = vocab->n;
        if (p->result != GR_BPE_NONE && p->left < limit && p->right < limit && (size_t)p->result < limit) list[n++] = *p;
    }
    if (n > 0) qsort(list, n, sizeof *list, by_rank);
    gr_buf_add_text(out, "{\"type\": \"BPE\", \"dropout\": null");
    save_text(out, "unk_token", m->unk_token);
    save_text(out, "continuing_subword_prefix", m->prefix);
    save_text(out, "end_of_word_suffix", m->suffix);
    gr_buf_add_format(out, ", \"fuse_unk\": %s, \"byte_fallback\": %s, \"ignore_merges\": %s, \"vocab\": ",
                      m->fuse_unk ? "true" : "false", m->byte_fallback ? "true" : "false",
                      m->ignore_merges ? "true" : "false");
    gr_json_add_vocab(out, vocab);
    gr_buf_add_text(out, ", \"merges\": [");
    for (size_t i = 0; i < n; i++) {
        size_t n_left, n_right;
        const char *left = gr_vocab_text(vocab, list[i].left, &n_left);
        const char *right = gr_vocab_text(vocab, list[i].right, &n_right);
        gr_buf_add_text(out, i ? ",\n[" : "\n[");
        gr_json_add_text(out, left, n_left);
        gr_buf_add_text(out, ", ");
        gr_json_add_text(out, right, n_right);
        gr_buf_add_char(out, ']');
    }
    gr_buf_add_text(out, "]}");
    gr_free(m->a, list);
    return gr_buf_status(out, err);
}
