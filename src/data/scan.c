#include "data/scan.h"
#include "data/reader.h"

enum { MAX_RECORD = 64 << 20, CANCEL_EVERY = 64 };

typedef struct state {
    graft_context *ctx;
    const graft_data_options *options;
    size_t vocab;
    gr_scan_fn fn;
    void *user;
    gr_scan *scan;
    gr_arena arena;
    gr_buf place;
    size_t file;
} state;

void gr_scan_free(gr_scan *scan) {
    for (int i = 0; i < GR_SCAN_REASONS; i++) {
        gr_free(scan->a, scan->reason[i]);
        scan->reason[i] = NULL;
    }
}

/* Whether it is the record that is wrong, and not the machine or the caller. */
static bool is_about_record(graft_status st) {
    return st == GRAFT_ERR_FORMAT || st == GRAFT_ERR_MISMATCH || st == GRAFT_ERR_UNSUPPORTED || st == GRAFT_ERR_LIMIT ||
           st == GRAFT_ERR_ARGUMENT;
}

/* Counts a bad record and forgets its error, or hands it on. */
static graft_status judge(state *s, const graft_error *found, graft_error *err) {
    gr_scan *scan = s->scan;
    if (!is_about_record(found->status) || !s->options->skip_bad_records) {
        if (err) *err = *found;
        return found->status;
    }
    if (scan->bad < GR_SCAN_REASONS && !(scan->reason[scan->bad] = gr_strdup(scan->a, found->text)))
        return gr_fail_memory(err);
    scan->bad++;
    return GRAFT_OK;
}

static graft_status visit(state *s, gr_reader *r, const gr_piece *piece, graft_error *err) {
    gr_record record;
    graft_error found = {0};
    gr_buf_clear(&s->place);
    gr_buf_add_format(&s->place, "%s:%zu", gr_reader_name(r), piece->line);
    GR_TRY(gr_buf_status(&s->place, err));
    gr_scan_place place = {s->place.data, s->file, piece->line};
    graft_status st = gr_record_parse(&s->arena, place.text, piece->text.data, piece->text.len, s->options->text_field,
                                      s->vocab, &record, &found);
    graft_error unread = found;
    if (st == GRAFT_ERR_FORMAT && (s->options->prompt_template || s->options->model)) {
        record = (gr_record){.kind = GR_RECORD_OTHER, .json = {piece->text.data, piece->text.len}, .unread = &unread};
        st = GRAFT_OK;
    }
    if (st == GRAFT_OK) {
        st = s->fn(s->user, &s->arena, &place, &record, &found);
        if (st != GRAFT_OK && is_about_record(st) && strncmp(found.text, place.text, strlen(place.text)) != 0)
            gr_error_prefix(&found, st, "%s", place.text);
    }
    gr_arena_free(&s->arena);
    return st == GRAFT_OK ? GRAFT_OK : judge(s, &found, err);
}

static graft_status read_file(state *s, const char *path, graft_error *err) {
    gr_reader *r;
    gr_piece piece;
    bool more = true;
    size_t line, max = s->options->max_record_bytes ? s->options->max_record_bytes : MAX_RECORD;
    GR_TRY(gr_reader_open(gr_allocator(s->ctx), path, max, &r, err));
    graft_status st = GRAFT_OK;
    while (st == GRAFT_OK && (s->options->max_records == 0 || s->scan->records < s->options->max_records)) {
        graft_error found;
        if (s->scan->records % CANCEL_EVERY == 0) GR_GO(done, gr_check_cancel(s->ctx, err));
        st = gr_reader_next(r, &piece, &more, &line, &found);
        if (st != GRAFT_OK && st != GRAFT_ERR_LIMIT) {
            if (err) *err = found;
            break;
        }
        if (st == GRAFT_OK && !more) break;
        s->scan->records++;
        st = st == GRAFT_OK ? visit(s, r, &piece, err) : judge(s, &found, err);
    }
done:
    gr_reader_close(r);
    return st;
}

graft_status gr_scan_records(graft_context *ctx, const graft_data_options *options, size_t vocab, gr_scan_fn fn,
                             void *user, gr_scan *scan, graft_error *err) {
    const graft_allocator *a = gr_allocator(ctx);
    state s = {.ctx = ctx, .options = options, .vocab = vocab, .fn = fn, .user = user, .scan = scan};
    *scan = (gr_scan){.a = a};
    if (options->n_paths == 0) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected at least one file of records");
    gr_arena_init(&s.arena, a, 0);
    gr_buf_init(&s.place, a);
    graft_status st = GRAFT_OK;
    for (; s.file < options->n_paths && st == GRAFT_OK; s.file++) st = read_file(&s, options->paths[s.file], err);
    gr_arena_free(&s.arena);
    gr_buf_free(&s.place);
    return st;
}

graft_status gr_scan_fail_empty(const gr_scan *scan, const graft_data_options *options, const char *why,
                                graft_error *err) {
    const char *first = options->paths[0], *others = options->n_paths > 1 ? " and the other files" : "";
    if (scan->records == 0)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s%s: expected at least one record, found none", first, others);
    if (scan->bad)
        return gr_fail(err, GRAFT_ERR_FORMAT,
                       "%s%s: of %zu records %zu are bad and the others %s; the first bad one: %s", first,
                       others, scan->records, scan->bad, why, scan->reason[0]);
    return gr_fail(err, GRAFT_ERR_FORMAT, "%s%s: all %zu records %s", first, others, scan->records, why);
}
