/* A record's fields put into a template with pseudo-tokens (text/slots.h). Nothing is added to what the template says but the
 * end of text behind the answer. */
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

static graft_status add_slot(fill *f, const gr_slot *s, graft_error *err) {
    gr_slice value;
    int32_t id;
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
        if ((id = graft_tokenizer_special_id(f->e->tok, s->special)) < 0)
            return gr_fail(err, GRAFT_ERR_MISMATCH, "the adapter's template has [%s], the tokenizer has no such token", s->text);
        GR_TRY(room(f, 1, err));
        f->ids[f->n++] = id;
        return GRAFT_OK;
    default: return end_run(f, err);
    }
}

static graft_status add_slots(fill *f, const gr_slots *slots, gr_slice *answer, bool needed, graft_error *err) {
    for (size_t i = 0; i < slots->n; i++) {
        const gr_slot *s = &slots->items[i];
        GR_TRY(add_slot(f, s, err));
        if (s->kind != GR_SLOT_ANSWER) continue;
        if (i + 1 < slots->n)
            return gr_fail(err, GRAFT_ERR_MISMATCH, "the adapter's template goes on behind [MASK]: expected it last, for this model writes "
                           "its answer at the end");
        GR_TRY(field(f, s->text, needed, answer, err));
    }
    return GRAFT_OK;
}

static size_t count_tokens(const int32_t *ids, size_t n) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) k += ids[i] >= 0;
    return k;
}

/* Pseudo-tokens, anchors and the answer stay: it is the longest text of the record that is cut. */
static graft_status shorten(fill *f, size_t *begin, gr_tokens *t, graft_error *err) {
    size_t tokens = count_tokens(f->ids, f->n), most = f->e->max_length;
    if (!most || tokens <= most) return GRAFT_OK;
    size_t over = tokens - most;
    if (over > f->long_n)
        return gr_fail(err, GRAFT_ERR_LIMIT, "%zu tokens without the longest text, expected at most %zu (max_length)", tokens - f->long_n,
                       most);
    size_t from = f->e->truncate_start ? f->long_at : f->long_at + f->long_n - over;
    memmove(f->ids + from, f->ids + from + over, (f->n - from - over) * sizeof *f->ids);
    f->n -= over;
    *begin -= over;
    t->truncated = true;
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
    gr_slice answer;
    GR_TRY(add_slots(f, slots, &answer, true, err));
    size_t begin = f->n;
    GR_TRY(add_answer(f, answer, err));
    GR_TRY(shorten(f, &begin, t, err));
    t->ids = f->ids;
    t->n = f->n;
    if (!(t->labels = gr_arena_alloc(f->arena, (f->n + 1) * sizeof *t->labels))) return gr_fail_memory(err);
    for (size_t i = 0; i < f->n; i++)
        t->labels[i] = f->ids[i] >= 0 && (i >= begin || f->e->completion_only == GRAFT_NO) ? f->ids[i] : GRAFT_IGNORE_LABEL;
    return GRAFT_OK;
}

static fill begin_fill(const gr_encoder *e, gr_arena *arena, const gr_record *record) {
    fill f = {.e = e, .arena = arena, .record = record};
    gr_buf_init(&f.run, gr_allocator(e->ctx));
    return f;
}

graft_status gr_fill_record(const gr_encoder *e, gr_arena *arena, const gr_record *record, const gr_slots *slots, gr_tokens *out,
                            graft_error *err) {
    fill f = begin_fill(e, arena, record);
    graft_status st = e->assistant_only ? gr_fail(err, GRAFT_ERR_MISMATCH, "a loss on the assistant only needs messages, found a template")
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
        if (slots->items[i].kind == GR_SLOT_FIELD || slots->items[i].kind == GR_SLOT_TEXT) gr_buf_add(&f->run, value.data, value.len);
    }
    GR_TRY(gr_buf_status(&f->run, err));
    *out = (gr_slice){gr_arena_strndup(f->arena, gr_buf_text(&f->run), f->run.len), f->run.len};
    return out->data ? GRAFT_OK : gr_fail_memory(err);
}

graft_status gr_fill_question(const gr_encoder *e, gr_arena *arena, const gr_record *record, const gr_slots *slots, gr_question *out,
                              graft_error *err) {
    fill f = begin_fill(e, arena, record);
    graft_status st = add_slots(&f, slots, &out->reference, false, err);
    out->ids = f.ids;
    out->n = f.n;
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
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "prompt: the adapter's template has %zu fields: expected a JSON object with them, found a text",
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
