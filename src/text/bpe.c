/* Byte-pair encoding (Sennrich et al. 2016): a piece starts as its characters; the pair with the lowest rank, leftmost
 * among equals, becomes one token, until no pair is left that has a rank.
 *
 * A table gives rank and result for each pair of ids, so that the loop never touches text. SentencePiece's variant
 * (merge the pair whose result scores best) is the same loop over a table that is made from the vocabulary: every way
 * to cut a piece in two is a pair, ranked by the piece's score. Short pieces, which is what pre-tokenisers leave, are
 * merged in arrays on the stack; long ones with a heap, O(n log n).
 *
 * Most words are one token. Whether a token comes out of merging its own text is a property of the vocabulary, so it is
 * remembered per token: a word whose answer is known costs one look-up. The memo holds only what any thread would find
 * again, and is written with relaxed atomics. */
#include "text/bpe.h"

enum { SHORT = 48 };

/* Ids that are none: a symbol that no pair holds and that is no token, and one that went into its neighbour. */
#define UNKNOWN UINT32_MAX
#define GONE (UINT32_MAX - 1)

typedef struct symbol {
    uint32_t id, start, end; /* bytes of the piece; characters without a symbol leave gaps */
    int32_t prev, next;      /* merge_long only */
} symbol;

typedef struct symbols {
    const graft_allocator *a;
    symbol *list;
    size_t n, cap;
    symbol *stack; /* where the list begins: SHORT symbols */
    gr_token_scratch *scratch;
} symbols;

static graft_status push(symbols *s, uint32_t id, size_t start, size_t end, graft_error *err) {
    if (s->n == s->cap) {
        const bool first = s->list == s->stack;
        GR_TRY(gr_grow(s->a, &s->scratch->memory[0], &s->scratch->cap[0], s->n * 2, sizeof(symbol), err));
        if (first) memcpy(s->scratch->memory[0], s->stack, s->n * sizeof(symbol));
        s->list = s->scratch->memory[0];
        s->cap = s->scratch->cap[0];
    }
    s->list[s->n++] = (symbol){.id = id, .start = (uint32_t)start, .end = (uint32_t)end};
    return GRAFT_OK;
}

typedef struct unknown_run {
    bool open;
    size_t start, end;
} unknown_run;

static graft_status flush_unknown(const gr_token_model *m, symbols *s, unknown_run *run, graft_error *err) {
    if (!run->open) return GRAFT_OK;
    run->open = false;
    return push(s, (uint32_t)m->unk_id, run->start, run->end, err);
}

static bool has_fallback(const gr_token_model *m, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (m->fallback_id[(unsigned char)text[i]] < 0) return false;
    return m->byte_fallback;
}

/* One character that is no symbol, at bytes [start, end), dressed as `text`: its bytes, or the unknown token, or nothing. */
static graft_status add_unknown(const gr_token_model *m, symbols *s, unknown_run *run, const char *text, size_t n,
                                size_t start, size_t end, graft_error *err) {
    if (m->keep_unknown) return push(s, UNKNOWN, start, end, err);
    if (has_fallback(m, text, n)) {
        for (size_t i = 0; i < n; i++) {
            const size_t at = GR_MIN(start + i, end - 1);
            GR_TRY(push(s, (uint32_t)m->fallback_id[(unsigned char)text[i]], at, at + 1, err));
        }
        return GRAFT_OK;
    }
    if (!m->unk_token) return GRAFT_OK;
    if (m->unk_id < 0)
        return gr_fail(err, GRAFT_ERR_FORMAT, "unk_token '%.80s' is not in the vocabulary", m->unk_token);
    if (!m->fuse_unk) GR_TRY(flush_unknown(m, s, run, err));
    if (!run->open) run->start = start;
    run->end = end;
    run->open = true;
    return GRAFT_OK;
}

/* A character with what continuing_subword_prefix and end_of_word_suffix put around it. */
static graft_status dressed(const gr_token_model *m, const char *text, size_t n, bool first, bool last, gr_buf *out,
                            graft_error *err) {
    gr_buf_clear(out);
    if (m->prefix && !first) gr_buf_add_text(out, m->prefix);
    gr_buf_add(out, text, n);
    if (m->suffix && last) gr_buf_add_text(out, m->suffix);
    return gr_buf_status(out, err);
}

static graft_status cut_characters(const gr_token_model *m, symbols *s, const char *text, size_t len,
                                   graft_error *err) {
    unknown_run run = {0};
    gr_buf buf;
    gr_buf_init(&buf, s->a);
    graft_status st = GRAFT_OK;
    for (size_t i = 0; i < len && st == GRAFT_OK;) {
        const char *c = text + i;
        const unsigned char byte = (unsigned char)*c;
        const size_t n = m->bytes || byte < 128 ? 1 : gr_bpe_char_len(c, len - i);
        size_t n_c = n;
        const size_t end = i + n;
        int32_t id;
        if (m->prefix || m->suffix) {
            if ((st = dressed(m, c, n, i == 0, end == len, &buf, err)) != GRAFT_OK) break;
            c = gr_buf_text(&buf);
            n_c = buf.len;
            id = gr_bpe_symbol(m, c, n_c);
        } else {
            id = m->bytes || byte < 128 ? m->char_id[byte] : gr_bpe_symbol(m, c, n);
        }
        if (id < 0) {
            st = add_unknown(m, s, &run, c, n_c, i, end, err);
        } else {
            st = flush_unknown(m, s, &run, err);
            if (st == GRAFT_OK) st = push(s, (uint32_t)id, i, end, err);
        }
        i = end;
    }
    if (st == GRAFT_OK) st = flush_unknown(m, s, &run, err);
    gr_buf_free(&buf);
    return st;
}

static void merge_short(const gr_token_model *m, symbols *s) {
    const gr_bpe_pair *best[SHORT];
    symbol *list = s->list;
    size_t n = s->n;
    for (size_t i = 0; i + 1 < n; i++) best[i] = gr_bpe_find_pair(m, list[i].id, list[i + 1].id);
    while (n > 1) {
        uint32_t rank = UINT32_MAX;
        size_t at = n;
        for (size_t i = 0; i + 1 < n; i++)
            if (best[i] && best[i]->rank < rank) {
                rank = best[i]->rank;
                at = i;
            }
        if (at == n) break;
        list[at].id = (uint32_t)best[at]->result;
        list[at].end = list[at + 1].end;
        n--;
        memmove(list + at + 1, list + at + 2, (n - at - 1) * sizeof *list);
        if (at + 1 < n) {
            memmove(best + at + 1, best + at + 2, (n - at - 2) * sizeof *best);
            best[at] = gr_bpe_find_pair(m, list[at].id, list[at + 1].id);
        }
        if (at > 0) best[at - 1] = gr_bpe_find_pair(m, list[at - 1].id, list[at].id);
    }
    s->n = n;
}

typedef struct candidate {
    uint32_t rank, at;
    uint32_t result;
} candidate;

static inline bool before(const candidate *a, const candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void sift_down(candidate *heap, size_t n, size_t i) {
    const candidate c = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(&heap[child + 1], &heap[child])) child++;
        if (!before(&heap[child], &c)) break;
        heap[i] = heap[child];
    }
    heap[i] = c;
}

static void sift_up(candidate *heap, size_t i) {
    const candidate c = heap[i];
    for (; i > 0 && before(&c, &heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = c;
}

/* Adds the pair that begins at symbol i to the heap, which has room. */
static void offer(const gr_token_model *m, const symbol *list, candidate *heap, size_t *n, int32_t i) {
    if (i < 0 || list[i].next < 0) return;
    const gr_bpe_pair *p = gr_bpe_find_pair(m, list[i].id, list[list[i].next].id);
    if (!p) return;
    heap[*n] = (candidate){p->rank, (uint32_t)i, (uint32_t)p->result};
    sift_up(heap, (*n)++);
}

static graft_status merge_long(const gr_token_model *m, symbols *s, graft_error *err) {
    /* Each merge takes one candidate out and brings at most two. */
    GR_TRY(gr_grow(s->a, &s->scratch->memory[1], &s->scratch->cap[1], 2 * s->n, sizeof(candidate), err));
    candidate *heap = s->scratch->memory[1];
    symbol *list = s->list;
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        list[i].prev = (int32_t)i - 1;
        list[i].next = i + 1 < s->n ? (int32_t)i + 1 : -1;
    }
    for (size_t i = 0; i + 1 < s->n; i++) {
        const gr_bpe_pair *p = gr_bpe_find_pair(m, list[i].id, list[i + 1].id);
        if (p) heap[n++] = (candidate){p->rank, (uint32_t)i, (uint32_t)p->result};
    }
    for (size_t i = n / 2; i-- > 0;) sift_down(heap, n, i);
    while (n > 0) {
        const candidate top = heap[0];
        heap[0] = heap[--n];
        if (n) sift_down(heap, n, 0);
        symbol *left = &list[top.at];
        if (left->id == GONE || left->next < 0) continue;
        symbol *right = &list[left->next];
        const gr_bpe_pair *p = gr_bpe_find_pair(m, left->id, right->id);
        if (!p || (uint32_t)p->result != top.result) continue; /* one of the two has changed since */
        left->id = top.result;
        left->end = right->end;
        left->next = right->next;
        right->id = GONE;
        if (left->next >= 0) list[left->next].prev = (int32_t)top.at;
        offer(m, list, heap, &n, left->prev);
        offer(m, list, heap, &n, (int32_t)top.at);
    }
    size_t kept = 0;
    for (int32_t i = 0; i >= 0; i = list[i].next) {
        const int32_t next = list[i].next;
        list[kept++] = list[i];
        if (next < 0) break;
    }
    s->n = kept;
    return GRAFT_OK;
}

/* A symbol that is no token (SentencePiece, and pieces of merges that are none): its bytes, or the unknown token. */
static graft_status emit_unknown(const gr_token_model *m, const char *text, size_t start, size_t end, bool *unk_before,
                                 size_t *unk_start, gr_token_sink sink, void *user, graft_error *err) {
    if (has_fallback(m, text + start, end - start)) {
        for (size_t i = start; i < end; i++)
            GR_TRY(sink(user, m->fallback_id[(unsigned char)text[i]], i, i + 1, err));
        return GRAFT_OK;
    }
    if (m->unk_id >= 0) {
        if (!*unk_before) *unk_start = start;
        *unk_before = true;
        return GRAFT_OK;
    }
    for (size_t i = start; i < end; i++) {
        const int32_t id = m->char_id[(unsigned char)text[i]];
        if (id >= 0 && (size_t)id < m->vocab->n) GR_TRY(sink(user, id, i, i + 1, err));
    }
    return GRAFT_OK;
}

static graft_status emit(const gr_token_model *m, const symbols *s, const char *text, gr_token_sink sink, void *user,
                         graft_error *err) {
    size_t unk_start = 0, before = 0;
    bool unk = false;
    for (size_t i = 0; i < s->n; i++) {
        const uint32_t id = s->list[i].id;
        const size_t start = s->list[i].start, end = s->list[i].end;
        const bool known = id < m->vocab->n;
        const bool falls_back = !known && has_fallback(m, text + start, end - start);
        if (unk && (known || falls_back || !m->fuse_unk)) {
            GR_TRY(sink(user, m->unk_id, unk_start, before, err));
            unk = false;
        }
        if (known) GR_TRY(sink(user, (int32_t)id, start, end, err));
        else GR_TRY(emit_unknown(m, text, start, end, &unk, &unk_start, sink, user, err));
        before = end;
    }
    return unk ? sink(user, m->unk_id, unk_start, before, err) : GRAFT_OK;
}

static graft_status encode(const gr_token_model *m, gr_token_scratch *scratch, const char *text, size_t len,
                               gr_token_sink sink, void *user, graft_error *err) {
    if (len >= INT32_MAX) return gr_fail(err, GRAFT_ERR_LIMIT, "a piece of %zu bytes is too long for the model", len);
    const int32_t whole = gr_vocab_find(m->bytes ? &m->raw : m->vocab, text, len);
    unsigned char memo = 0;
    if (whole >= 0) {
        memo = atomic_load_explicit(&m->memo[whole], memory_order_relaxed);
        if (m->ignore_merges || memo == 1) return sink(user, whole, 0, len, err);
    }
    symbol stack[SHORT];
    symbols s = {.a = scratch->a, .list = stack, .cap = SHORT, .stack = stack, .scratch = scratch};
    GR_TRY(cut_characters(m, &s, text, len, err));
    if (s.n == 0) return GRAFT_OK;
    if (s.n <= SHORT) merge_short(m, &s);
    else GR_TRY(merge_long(m, &s, err));
    if (whole >= 0 && memo == 0) {
        const bool itself = s.n == 1 && s.list[0].id == (uint32_t)whole && s.list[0].start == 0 && s.list[0].end == len;
        atomic_store_explicit(&m->memo[whole], itself ? 1 : 2, memory_order_relaxed);
    }
    return emit(m, &s, text, sink, user, err);
}

const gr_token_model_type gr_bpe_type = {
    .name = "BPE",
    .build = gr_bpe_build,
    .encode = encode,
    .save = gr_bpe_save,
    .takes_bytes = gr_bpe_takes_bytes,
    .free = gr_bpe_free,
};
