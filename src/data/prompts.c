#include <time.h>

#include "data/encode.h"
#include "data/scan.h"

typedef struct item {
    size_t text, text_len, reference, reference_len; /* in chars; reference SIZE_MAX: none */
    size_t ids, n;
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
    if (l->skip_unanswerable && !has_prompt(record)) return GRAFT_OK;
    GR_TRY(gr_encode_question(&l->encoder, arena, record, &q, err));
    if (l->skip_unanswerable && !q.reference.data) return GRAFT_OK;
    if (q.n == 0) return gr_fail(err, GRAFT_ERR_FORMAT, "expected a prompt of at least one token, found none");
    GR_TRY(gr_grow(ps->a, (void **)&ps->items, &ps->item_cap, ps->n + 1, sizeof *ps->items, err));
    GR_TRY(gr_grow(ps->a, (void **)&ps->ids, &ps->id_cap, ps->n_ids + q.n, sizeof *ps->ids, err));
    item made = {.ids = ps->n_ids, .n = q.n, .file = (uint32_t)place->file, .line = place->line,
                 .text_len = q.text.len, .reference = SIZE_MAX, .reference_len = q.reference.len};
    made.text = add_text(&ps->chars, q.text);
    if (q.reference.data) made.reference = add_text(&ps->chars, q.reference);
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
    if (st == GRAFT_OK && ps->n == 0 && !l.skip_unanswerable) st = gr_scan_fail_empty(&ps->scan, options, "are empty", err);
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
    bool reference = it->reference != SIZE_MAX;
    *out = (graft_prompt){.ids = ps->ids + it->ids,
                          .n = it->n,
                          .text = ps->chars.data + it->text,
                          .text_len = it->text_len,
                          .reference = reference ? ps->chars.data + it->reference : NULL,
                          .reference_len = reference ? it->reference_len : 0,
                          .path = ps->paths[it->file],
                          .line = it->line};
}
