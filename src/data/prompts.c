#include <time.h>

#include "data/encode.h"
#include "data/scan.h"
#include "model/public.h"
#include "text/slots.h"

typedef struct item {
    size_t text, text_len, pair, pair_len, reference, reference_len; /* in chars; SIZE_MAX: there is none */
    size_t ids, n, adapter;                                          /* adapter: its name, likewise */
    int32_t task;
    uint32_t file;
    size_t line;
} item;

struct graft_prompts {
    const graft_allocator *a;
    char **paths;
    size_t n_paths;
    item *items;
    size_t n, item_cap;
    int32_t *ids;
    size_t n_ids, id_cap;
    gr_buf chars;
    gr_scan scan;
};

void graft_prompts_free(graft_prompts *ps) {
    if (!ps) return;
    const graft_allocator *a = ps->a;
    for (size_t i = 0; i < ps->n_paths; i++) gr_free(a, ps->paths[i]);
    gr_free(a, ps->paths);
    gr_free(a, ps->items);
    gr_free(a, ps->ids);
    gr_buf_free(&ps->chars);
    gr_scan_free(&ps->scan);
    gr_free(a, ps);
}

typedef struct loading {
    graft_prompts *ps;
    gr_encoder encoder;
    bool skip_unanswerable;
} loading;

static bool has_prompt(const gr_record *r) {
    return r->kind == GR_RECORD_PAIR || r->kind == GR_RECORD_INSTRUCTION || r->kind == GR_RECORD_CHAT;
}

static size_t add_text(gr_buf *b, gr_slice text) {
    size_t at = b->len;
    gr_buf_add(b, text.data, text.len);
    gr_buf_add_char(b, '\0');
    return at;
}

static graft_status load_record(void *user, gr_arena *arena, const gr_scan_place *place, const gr_record *record,
                                graft_error *err) {
    loading *l = user;
    graft_prompts *ps = l->ps;
    gr_question q;
    bool filled = l->encoder.prompt_template || record->kind == GR_RECORD_OTHER;
    if (l->skip_unanswerable && !filled && !has_prompt(record)) return GRAFT_OK;
    GR_TRY(gr_encode_question(&l->encoder, arena, record, &q, err));
    if (l->skip_unanswerable && !q.reference.data) return GRAFT_OK;
    if (q.n == 0) return gr_fail(err, GRAFT_ERR_FORMAT, "expected a prompt of at least one token, found none");
    GR_TRY(gr_grow(ps->a, (void **)&ps->items, &ps->item_cap, ps->n + 1, sizeof *ps->items, err));
    GR_TRY(gr_grow(ps->a, (void **)&ps->ids, &ps->id_cap, ps->n_ids + q.n, sizeof *ps->ids, err));
    item made = {.ids = ps->n_ids, .n = q.n, .file = (uint32_t)place->file, .line = place->line, .task = q.task,
                 .text_len = q.text.len, .pair_len = q.pair.len, .reference_len = q.reference.len,
                 .pair = SIZE_MAX, .reference = SIZE_MAX, .adapter = SIZE_MAX};
    made.text = add_text(&ps->chars, q.text);
    if (q.pair.data) made.pair = add_text(&ps->chars, q.pair);
    if (q.reference.data) made.reference = add_text(&ps->chars, q.reference);
    if (q.adapter) made.adapter = add_text(&ps->chars, (gr_slice){q.adapter, strlen(q.adapter)});
    GR_TRY(gr_buf_status(&ps->chars, err));
    memcpy(ps->ids + ps->n_ids, q.ids, q.n * sizeof *q.ids);
    ps->n_ids += q.n;
    ps->items[ps->n++] = made;
    return GRAFT_OK;
}

static graft_status copy_paths(graft_prompts *ps, const graft_data_options *o, graft_error *err) {
    ps->paths = gr_calloc(ps->a, o->n_paths, sizeof *ps->paths);
    if (!ps->paths) return gr_fail_memory(err);
    for (; ps->n_paths < o->n_paths; ps->n_paths++)
        if (!(ps->paths[ps->n_paths] = gr_strdup(ps->a, o->paths[ps->n_paths]))) return gr_fail_memory(err);
    return GRAFT_OK;
}

graft_status graft_prompts_load(graft_context *ctx, const graft_tokenizer *tok, const graft_data_options *options,
                                graft_prompts **out, graft_error *err) {
    loading l = {.skip_unanswerable = options->skip_unanswerable != 0};
    const graft_allocator *a = gr_allocator(ctx);
    GR_TRY(gr_encoder_open(&l.encoder, ctx, tok, options, options->now ? options->now : (int64_t)time(NULL), err));
    graft_prompts *ps = l.ps = gr_calloc(a, 1, sizeof *ps);
    graft_status st = ps ? GRAFT_OK : gr_fail_memory(err);
    if (ps) {
        ps->a = ps->scan.a = a;
        gr_buf_init(&ps->chars, a);
        st = copy_paths(ps, options, err);
    }
    if (st == GRAFT_OK)
        st = gr_scan_records(ctx, options, graft_tokenizer_vocab_size(tok), load_record, &l, &ps->scan, err);
    if (st == GRAFT_OK && ps->n == 0 && !l.skip_unanswerable)
        st = gr_scan_fail_empty(&ps->scan, options, "are empty", err);
    if (st == GRAFT_OK && ps->scan.bad)
        gr_log(ctx, GRAFT_LOG_WARNING, "%zu of %zu records are bad and were skipped; the first: %s", ps->scan.bad,
               ps->scan.records, ps->scan.reason[0]);
    gr_encoder_close(&l.encoder);
    if (st != GRAFT_OK) graft_prompts_free(ps);
    else *out = ps;
    return st;
}

size_t graft_prompts_count(const graft_prompts *ps) { return ps->n; }

size_t graft_prompts_bad_count(const graft_prompts *ps) { return ps->scan.bad; }

void graft_prompts_get(const graft_prompts *ps, size_t i, graft_prompt *out) {
    const item *it = &ps->items[i];
    bool reference = it->reference != SIZE_MAX, pair = it->pair != SIZE_MAX;
    *out = (graft_prompt){.ids = ps->ids + it->ids,
                          .n = it->n,
                          .text = ps->chars.data + it->text,
                          .text_len = it->text_len,
                          .pair = pair ? ps->chars.data + it->pair : NULL,
                          .pair_len = pair ? it->pair_len : 0,
                          .reference = reference ? ps->chars.data + it->reference : NULL,
                          .adapter = it->adapter == SIZE_MAX ? NULL : ps->chars.data + it->adapter,
                          .task_id = it->task,
                          .reference_len = reference ? it->reference_len : 0,
                          .path = ps->paths[it->file],
                          .line = it->line};
}

static graft_status fill_prompt(gr_arena *arena, const graft_model *m, const graft_tokenizer *tok,
                                const char *template, const char *text, size_t len, int32_t **ids, size_t *n,
                                graft_error *err) {
    gr_encoder e;
    gr_slots slots;
    gr_record record;
    gr_question q = {0};
    const graft_data_options o = {.prompt_template = template, .model = m};
    GR_TRY(gr_slots_parse(arena, "template", template, &slots, err));
    GR_TRY(gr_fill_from_text(arena, &slots, text, len, &record, err));
    GR_TRY(gr_encoder_open(&e, m->ctx, tok, &o, 0, err));
    graft_status st = gr_fill_question(&e, arena, &record, &slots, &q, err);
    gr_encoder_close(&e);
    if (st != GRAFT_OK) return st;
    int32_t *copy = gr_alloc(gr_allocator(m->ctx), (q.n + 1) * sizeof *copy);
    if (!copy) return gr_fail_memory(err);
    memcpy(copy, q.ids, q.n * sizeof *copy);
    *ids = copy;
    *n = q.n;
    return GRAFT_OK;
}

graft_status graft_prompt_fill(const graft_model *m, const graft_tokenizer *tok, const char *adapter,
                               const char *text, size_t len, int32_t **ids, size_t *n, graft_error *err) {
    const gr_hooks *h = m->hooks;
    int at = adapter ? h->find(h->self, adapter) : -1;
    if (adapter && at < 0)
        return gr_fail(err, GRAFT_ERR_NOT_FOUND,
                       "adapter %s: expected one that was loaded, found none of that name", adapter);
    const char *template = at < 0 ? NULL : h->prompt_template(h->self, at);
    if (!template) return graft_tokenizer_encode(tok, text, len, GRAFT_TOK_ADD_SPECIAL, ids, n, err);
    gr_arena arena;
    gr_arena_init(&arena, gr_allocator(m->ctx), (size_t)256 << 20);
    graft_status st = fill_prompt(&arena, m, tok, template, text, len, ids, n, err);
    gr_arena_free(&arena);
    return st;
}
