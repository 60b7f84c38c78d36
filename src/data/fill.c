/* A record's fields put into a template with pseudo-tokens (text/slots.h). Nothing is added to what the
 * template says but the end of text behind the answer. Where the answer goes is the model's affair: a decoder
 * writes it at the end, a masked language model says it in the place of a mask token, an encoder-decoder
 * writes it into its target, a classifier has it as a label. */
#include "data/encode.h"
#include "text/slots.h"

typedef struct fill {
    const gr_encoder *e;
    gr_arena *arena;
    const gr_record *record;
    int32_t *ids;
    size_t n, cap;
    gr_buf run; /* texts and fields that touch */
    bool run_has_field;
    size_t answer_at; /* of a masked language model: the mask token */
    size_t long_at, long_n; /* the longest run with a field: where a record that is too long is cut */
} fill;

static graft_status room(fill *f, size_t n, graft_error *err) {
    if (f->n + n <= f->cap) return GRAFT_OK;
    size_t cap = GR_MAX(2 * f->cap, f->n + n + 64);
    int32_t *more = gr_arena_alloc(f->arena, cap * sizeof *more);
    if (!more) return gr_fail_memory(err);
    if (f->n) memcpy(more, f->ids, f->n * sizeof *more);
    f->ids = more;
    f->cap = cap;
    return GRAFT_OK;
}

static graft_status add_text(fill *f, const char *text, size_t len, graft_error *err) {
    int32_t *ids;
    size_t n;
    GR_TRY(graft_tokenizer_encode(f->e->tok, text, len, 0, &ids, &n, err));
    graft_status st = room(f, n, err);
    if (st == GRAFT_OK && n) memcpy(f->ids + f->n, ids, n * sizeof *ids);
    if (st == GRAFT_OK) f->n += n;
    gr_free(gr_allocator(f->e->ctx), ids);
    return st;
}

static graft_status end_run(fill *f, graft_error *err) {
    size_t at = f->n;
    GR_TRY(gr_buf_status(&f->run, err));
    if (f->run.len) GR_TRY(add_text(f, f->run.data, f->run.len, err));
    if (f->run_has_field && f->n - at > f->long_n) {
        f->long_at = at;
        f->long_n = f->n - at;
    }
    f->run_has_field = false;
    gr_buf_clear(&f->run);
    return GRAFT_OK;
}

/* The text of a field; a number stands for its characters. */
static graft_status field(const fill *f, const char *name, bool needed, gr_slice *out, graft_error *err) {
    GR_TRY(gr_record_field(f->arena, f->record->json, name, out, err));
    if (out->data || !needed) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_FORMAT, "expected the field \"%s\", which the adapter's template names", name);
}

static graft_status put(fill *f, int32_t id, const char *name, graft_error *err) {
    if (id < 0)
        return gr_fail(err, GRAFT_ERR_MISMATCH,
                       "the adapter's template has [%s], the tokenizer has no such token", name);
    GR_TRY(room(f, 1, err));
    f->ids[f->n++] = id;
    return GRAFT_OK;
}

static graft_status add_slot(fill *f, const gr_slot *s, graft_error *err) {
    gr_slice value;
    switch (s->kind) {
    case GR_SLOT_TEXT: gr_buf_add(&f->run, s->text, s->len); return GRAFT_OK;
    case GR_SLOT_FIELD:
        GR_TRY(field(f, s->text, true, &value, err));
        gr_buf_add(&f->run, value.data, value.len);
        f->run_has_field = true;
        return GRAFT_OK;
    case GR_SLOT_VIRTUAL:
        GR_TRY(end_run(f, err));
        GR_TRY(room(f, (size_t)(s->last - s->first + 1), err));
        for (int k = s->first; k <= s->last; k++) f->ids[f->n++] = -1 - k;
        return GRAFT_OK;
    case GR_SLOT_SPECIAL:
        GR_TRY(end_run(f, err));
        return put(f, graft_tokenizer_special_id(f->e->tok, s->special), s->text, err);
    default:
        GR_TRY(end_run(f, err));
        f->answer_at = f->n;
        return f->e->learn == GRAFT_LEARN_MASKED
                   ? put(f, graft_tokenizer_special_id(f->e->tok, GRAFT_TOKEN_MASK), "MASK", err)
                   : GRAFT_OK;
    }
}

/* What the field says, or its word. */
static graft_status find_answer(const fill *f, const gr_slots *slots, const char *name, bool needed,
                                gr_slice *out, graft_error *err) {
    gr_slice said;
    GR_TRY(field(f, name, needed, &said, err));
    for (size_t i = 0; said.data && i < slots->n_words; i++) {
        const gr_slot_word *w = &slots->words[i];
        if (w->label_len != said.len || memcmp(w->label, said.data, said.len) != 0) continue;
        *out = (gr_slice){w->word, w->word_len};
        return GRAFT_OK;
    }
    if (said.data && slots->n_words)
        return gr_fail(err, GRAFT_ERR_FORMAT,
                       "expected \"%s\" to be one of the %zu labels of [MASK], found \"%.*s\"", name,
                       slots->n_words, (int)GR_MIN(said.len, (size_t)40), said.data);
    *out = said;
    return GRAFT_OK;
}

static graft_status add_slots(fill *f, const gr_slots *slots, gr_slice *answer, bool needed, graft_error *err) {
    const bool last = !f->e->seq2seq && f->e->learn == GRAFT_LEARN_TEXT;
    *answer = (gr_slice){0};
    GR_TRY(gr_slots_check_answer(slots, "the adapter's template", f->e->learn != GRAFT_LEARN_CLASSES, err));
    for (size_t i = 0; i < slots->n; i++) {
        const gr_slot *s = &slots->items[i];
        GR_TRY(add_slot(f, s, err));
        if (s->kind != GR_SLOT_ANSWER) continue;
        if (last && i + 1 < slots->n)
            return gr_fail(
                err, GRAFT_ERR_MISMATCH,
                "the adapter's template goes on behind [MASK]: expected it last, for this model writes "
                "its answer at the end");
        GR_TRY(find_answer(f, slots, s->text, needed, answer, err));
    }
    GR_TRY(end_run(f, err));
    int32_t mask = f->e->learn == GRAFT_LEARN_MASKED ? f->ids[f->answer_at] : -1;
    for (size_t i = 0; mask >= 0 && i < f->n; i++)
        if (f->ids[i] == mask && i != f->answer_at)
            return gr_fail(
                err, GRAFT_ERR_FORMAT,
                "a text of the record or of the template has a mask token: expected that of [MASK] alone");
    return GRAFT_OK;
}

static size_t count_tokens(const int32_t *ids, size_t n) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) k += ids[i] >= 0;
    return k;
}

/* Pseudo-tokens, anchors and the answer stay: it is the longest text of the record that is cut. */
graft_status gr_fill_shorten(const gr_encoder *e, gr_question *q, size_t most, bool *truncated, graft_error *err) {
    size_t tokens = count_tokens(q->ids, q->n);
    if (!most || tokens <= most) return GRAFT_OK;
    size_t over = tokens - most;
    if (over > q->long_n)
        return gr_fail(err, GRAFT_ERR_LIMIT,
                       "%zu tokens without the longest text, expected at most %zu (max_length)",
                       tokens - q->long_n, most);
    size_t from = e->truncate_start ? q->long_at : q->long_at + q->long_n - over;
    memmove(q->ids + from, q->ids + from + over, (q->n - from - over) * sizeof *q->ids);
    q->n -= over;
    q->long_n -= over;
    *truncated = true;
    return GRAFT_OK;
}

/* Moves `at` along. */
static graft_status shorten(fill *f, size_t *at, bool *truncated, graft_error *err) {
    gr_question q = {.ids = f->ids, .n = f->n, .long_at = f->long_at, .long_n = f->long_n};
    GR_TRY(gr_fill_shorten(f->e, &q, f->e->max_length, truncated, err));
    if (*at > f->long_at) *at -= f->n - q.n;
    f->n = q.n;
    return GRAFT_OK;
}

static graft_status add_answer(fill *f, gr_slice answer, graft_error *err) {
    gr_slice eos = f->e->eos;
    bool ends = eos.data && answer.len >= eos.len && memcmp(answer.data + answer.len - eos.len, eos.data, eos.len) == 0;
    gr_buf_add(&f->run, answer.data, answer.len);
    if (eos.data && !ends) gr_buf_add(&f->run, eos.data, eos.len);
    return end_run(f, err);
}

static graft_status fill_tokens(fill *f, const gr_slots *slots, gr_tokens *t, graft_error *err) {
    const bool text = f->e->learn == GRAFT_LEARN_TEXT, masked = f->e->learn == GRAFT_LEARN_MASKED;
    gr_slice answer;
    int32_t word = GRAFT_IGNORE_LABEL;
    GR_TRY(add_slots(f, slots, &answer, true, err));
    size_t at = masked ? f->answer_at : f->n;
    if (text) GR_TRY(add_answer(f, answer, err));
    if (masked) GR_TRY(gr_slots_word_id(f->e->tok, gr_allocator(f->e->ctx), answer.data, answer.len, &word, err));
    GR_TRY(shorten(f, &at, &t->truncated, err));
    t->ids = f->ids;
    t->n = f->n;
    t->given = masked; /* nothing else is hidden */
    if (!(t->labels = gr_arena_alloc(f->arena, (f->n + 1) * sizeof *t->labels))) return gr_fail_memory(err);
    for (size_t i = 0; i < f->n; i++) {
        bool learnt = text && f->ids[i] >= 0 && (i >= at || f->e->completion_only == GRAFT_NO);
        t->labels[i] = learnt ? f->ids[i] : masked && i == at ? word : GRAFT_IGNORE_LABEL;
    }
    return GRAFT_OK;
}

static fill begin_fill(const gr_encoder *e, gr_arena *arena, const gr_record *record) {
    fill f = {.e = e, .arena = arena, .record = record};
    gr_buf_init(&f.run, gr_allocator(e->ctx));
    return f;
}

graft_status gr_fill_record(const gr_encoder *e, gr_arena *arena, const gr_record *record,
                            const gr_slots *slots, gr_tokens *out, graft_error *err) {
    fill f = begin_fill(e, arena, record);
    graft_status st = e->assistant_only
                          ? gr_fail(err, GRAFT_ERR_MISMATCH,
                                    "a loss on the assistant only needs messages, found a template")
                          : fill_tokens(&f, slots, out, err);
    gr_buf_free(&f.run);
    return st;
}

/* What people see of the prompt: its texts, without the pseudo-tokens. */
static graft_status shown_text(fill *f, const gr_slots *slots, gr_slice *out, graft_error *err) {
    gr_buf_clear(&f->run);
    for (size_t i = 0; i < slots->n; i++) {
        gr_slice value = {slots->items[i].text, slots->items[i].len};
        if (slots->items[i].kind == GR_SLOT_FIELD) GR_TRY(field(f, slots->items[i].text, true, &value, err));
        if (slots->items[i].kind == GR_SLOT_FIELD || slots->items[i].kind == GR_SLOT_TEXT)
            gr_buf_add(&f->run, value.data, value.len);
    }
    GR_TRY(gr_buf_status(&f->run, err));
    *out = (gr_slice){gr_arena_strndup(f->arena, gr_buf_text(&f->run), f->run.len), f->run.len};
    return out->data ? GRAFT_OK : gr_fail_memory(err);
}

graft_status gr_fill_question(const gr_encoder *e, gr_arena *arena, const gr_record *record,
                              const gr_slots *slots, gr_question *out, graft_error *err) {
    fill f = begin_fill(e, arena, record);
    graft_status st = add_slots(&f, slots, &out->reference, false, err);
    bool truncated;
    *out = (gr_question){.reference = out->reference,
                         .adapter = out->adapter,
                         .task = out->task,
                         .ids = f.ids,
                         .n = f.n,
                         .filled = true,
                         .long_at = f.long_at,
                         .long_n = f.long_n};
    size_t pseudo = f.n - count_tokens(f.ids, f.n);
    if (st == GRAFT_OK && e->positions && e->positions <= pseudo)
        st = gr_fail(err, GRAFT_ERR_LIMIT, "%zu pseudo-tokens, expected fewer than the model's %zu positions",
                     pseudo, e->positions);
    if (st == GRAFT_OK && e->positions) st = gr_fill_shorten(e, out, e->positions - pseudo, &truncated, err);
    if (st == GRAFT_OK) st = shown_text(&f, slots, &out->text, err);
    gr_buf_free(&f.run);
    return st;
}

graft_status gr_fill_from_text(gr_arena *arena, const gr_slots *slots, const char *text, size_t len, gr_record *out,
                               graft_error *err) {
    const char *only = NULL;
    size_t start = 0, n = 0;
    while (start < len && strchr(" \t\r\n", text[start])) start++;
    *out = (gr_record){.kind = GR_RECORD_OTHER, .json = {text, len}};
    if (start < len && text[start] == '{') return GRAFT_OK;
    for (size_t i = 0; i < slots->n; i++) {
        const gr_slot *s = &slots->items[i];
        if (s->kind != GR_SLOT_FIELD || (only && strcmp(only, s->text) == 0)) continue;
        only = s->text;
        n++;
    }
    if (n != 1)
        return gr_fail(
            err, GRAFT_ERR_ARGUMENT,
            "prompt: the adapter's template has %zu fields: expected a JSON object with them, found a text",
            n);
    gr_buf b;
    gr_buf_init(&b, arena->a);
    gr_buf_add_text(&b, "{");
    gr_json_add_text(&b, only, strlen(only));
    gr_buf_add_text(&b, ": ");
    gr_json_add_text(&b, text, len);
    gr_buf_add_text(&b, "}");
    graft_status st = gr_buf_status(&b, err);
    const char *copy = st == GRAFT_OK ? gr_arena_strndup(arena, b.data, b.len) : NULL;
    if (st == GRAFT_OK && !copy) st = gr_fail_memory(err);
    out->json = (gr_slice){copy, b.len};
    gr_buf_free(&b);
    return st;
}
