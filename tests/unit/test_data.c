/* Room data: records to tokens and labels as trl's SFTTrainer makes them, the assistant found in any template, packing and
 * the loader's order (goldens of tools/golden/make_data.py). */
#include "data/dataset.h"
#include "data/loader.h"
#include "data/pack.h"
#include "support/support.h"

static graft_context *ctx;

static const char *write_temp(const char *name, const char *text, size_t n) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s", test_temp_dir(), name);
    assert_ok(gr_write_file(NULL, path, text, n, &err));
    return path;
}

/* The JSON text of a tree: records of a golden file are given to the reader as lines again. */
static void put_value(gr_buf *b, const gr_json_value *v) {
    const gr_json_value *c;
    switch (v->kind) {
    case GR_JSON_STRING: gr_json_add_text(b, v->text, v->len); break;
    case GR_JSON_NUMBER: gr_buf_add_format(b, "%lld", (long long)v->number.i); break;
    case GR_JSON_ARRAY:
    case GR_JSON_OBJECT:
        gr_buf_add_char(b, v->kind == GR_JSON_ARRAY ? '[' : '{');
        for (c = v->child; c; c = c->next) {
            if (c->key) {
                gr_json_add_text(b, c->key, c->key_len);
                gr_buf_add_char(b, ':');
            }
            put_value(b, c);
            if (c->next) gr_buf_add_char(b, ',');
        }
        gr_buf_add_char(b, v->kind == GR_JSON_ARRAY ? ']' : '}');
        break;
    default: gr_buf_add_text(b, v->kind == GR_JSON_TRUE ? "true" : v->kind == GR_JSON_FALSE ? "false" : "null");
    }
}

static graft_tokenizer *load_tokenizer(const char *name) {
    char path[256];
    graft_tokenizer *tok;
    snprintf(path, sizeof path, "data/%s", name);
    assert_ok(graft_tokenizer_load(ctx, test_golden(path), &tok, &err));
    return tok;
}

static char *load_template(const char *name, bool marked) {
    char path[256], *text;
    snprintf(path, sizeof path, "data/templates/%s%s.jinja", name, marked ? ".marked" : "");
    assert_ok(gr_read_file(NULL, test_golden(path), 1 << 20, &text, NULL, &err));
    return text;
}

typedef void (*line_fn)(size_t line, const gr_json_value *v);

static void each_line(const char *name, line_fn fn) {
    char *text;
    assert_ok(gr_read_file(NULL, test_golden(name), 1 << 24, &text, NULL, &err));
    size_t n = 0;
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        gr_arena arena;
        const gr_json_value *v;
        gr_arena_init(&arena, NULL, 0);
        assert_ok(gr_json_parse(&arena, name, line, (size_t)(end - line), &v, &err));
        fn(++n, v);
        gr_arena_free(&arena);
    }
    assert_true(n > 20);
    gr_free(NULL, text);
}

static int64_t number(const gr_json_value *v, const char *key) { return gr_json_get(v, key)->number.i; }

static void check_example(size_t line, size_t i, const graft_dataset *ds, const gr_json_value *expected) {
    graft_example e;
    graft_dataset_get(ds, i, &e);
    int32_t *labels = malloc((e.n + 1) * sizeof *labels), *shifted = malloc((e.n + 1) * sizeof *labels);
    graft_dataset_get_labels(ds, i, labels);
    size_t n_shifted = gr_dataset_shifted_labels(ds, i, shifted), n_labels = 0;
    const gr_json_value *ids = gr_json_get(expected, "ids"), *want = gr_json_get(expected, "labels"), *run = gr_json_get(expected, "learnt");
    if (e.n != ids->len) fail_msg("case %zu example %zu: expected %zu tokens, found %zu", line, i, ids->len, e.n);
    ids = ids->child;
    want = want ? want->child : NULL;
    run = run ? run->child : NULL;
    for (size_t t = 0; t < e.n; t++, ids = ids->next) {
        if (e.ids[t] != ids->number.i) fail_msg("case %zu example %zu token %zu: expected %lld, found %d", line, i, t, (long long)ids->number.i, e.ids[t]);
        while (run && (int64_t)t >= run->child->next->number.i) run = run->next;
        int64_t label = want ? want->number.i : run && (int64_t)t >= run->child->number.i ? e.ids[t] : GRAFT_IGNORE_LABEL;
        if (labels[t] != label) fail_msg("case %zu example %zu token %zu: expected label %lld, found %d", line, i, t, (long long)label, labels[t]);
        if (t) {
            assert_int_equal(shifted[t - 1], labels[t]);
            n_labels += labels[t] != GRAFT_IGNORE_LABEL;
        }
        if (want) want = want->next;
    }
    assert_int_equal(shifted[e.n - 1], GRAFT_IGNORE_LABEL);
    assert_int_equal(n_shifted, n_labels);
    free(labels);
    free(shifted);
}

static void check_case(size_t line, const gr_json_value *v) {
    graft_tokenizer *tok = load_tokenizer(gr_json_get(v, "tokenizer")->text);
    const gr_json_value *chat = gr_json_get(v, "template");
    bool find = gr_json_get(v, "find")->kind == GR_JSON_TRUE;
    char *text = chat->kind == GR_JSON_STRING ? load_template(chat->text, !find) : NULL;
    gr_buf records;
    gr_buf_init(&records, NULL);
    for (const gr_json_value *r = gr_json_get(v, "records")->child; r; r = r->next) {
        put_value(&records, r);
        gr_buf_add_char(&records, '\n');
    }
    const char *path = write_temp("case.jsonl", records.data, records.len);
    graft_data_options o = {.paths = &path,
                            .n_paths = 1,
                            .chat_template = text,
                            .max_length = number(v, "max_length"),
                            .truncate_start = (int)number(v, "keep_end"),
                            .completion_only_loss = (graft_choice)number(v, "completion_only"),
                            .assistant_only_loss = (int)number(v, "assistant_only")};
    graft_dataset *ds;
    graft_error err = {0};
    const gr_json_value *expected = gr_json_get(v, "expected");
    graft_status st = graft_dataset_load(ctx, tok, &o, &ds, &err);
    if (st != GRAFT_OK) fail_msg("case %zu: %s", line, err.text);
    if (graft_dataset_count(ds) != expected->len) fail_msg("case %zu: expected %zu examples, found %zu", line, expected->len, graft_dataset_count(ds));
    size_t i = 0;
    for (const gr_json_value *e = expected->child; e; e = e->next) check_example(line, i++, ds, e);
    graft_dataset_free(ds);
    gr_buf_free(&records);
    gr_free(NULL, text);
    graft_tokenizer_free(tok);
}

static void examples_equal_trl(void **state) {
    (void)state;
    each_line("data/cases.jsonl", check_case);
}

static void check_prompt(size_t line, const gr_json_value *v) {
    graft_tokenizer *tok = load_tokenizer("tok-bos");
    char *text = load_template(gr_json_get(v, "template")->text, line % 2);
    gr_buf record;
    gr_buf_init(&record, NULL);
    put_value(&record, gr_json_get(v, "record"));
    const char *path = write_temp("prompt.jsonl", record.data, record.len);
    graft_data_options o = {.paths = &path, .n_paths = 1, .chat_template = text};
    graft_prompts *ps;
    graft_prompt p;
    assert_ok(graft_prompts_load(ctx, tok, &o, &ps, &err));
    assert_int_equal(graft_prompts_count(ps), 1);
    graft_prompts_get(ps, 0, &p);
    assert_string_equal(p.text, gr_json_get(v, "text")->text);
    const gr_json_value *id = gr_json_get(v, "ids"), *reference = gr_json_get(v, "reference");
    assert_int_equal(p.n, id->len);
    id = id->child;
    for (size_t t = 0; t < p.n; t++, id = id->next) assert_int_equal(p.ids[t], id->number.i);
    if (reference->kind == GR_JSON_STRING) assert_string_equal(p.reference, reference->text);
    else assert_null(p.reference);
    graft_prompts_free(ps);
    gr_buf_free(&record);
    gr_free(NULL, text);
    graft_tokenizer_free(tok);
}

static void prompts_equal_transformers(void **state) {
    (void)state;
    each_line("data/prompts.jsonl", check_prompt);
}

static void bins_equal_trl(void **state) {
    (void)state;
    char *text;
    size_t len;
    gr_arena arena;
    const gr_json_value *v;
    gr_arena_init(&arena, NULL, 0);
    assert_ok(gr_read_file(NULL, test_golden("data/packing.json"), 1 << 24, &text, &len, &err));
    assert_ok(gr_json_parse(&arena, "packing.json", text, len, &v, &err));
    const gr_json_value *lengths = gr_json_get(v, "lengths"), *bin = gr_json_get(v, "bins");
    size_t n = lengths->len, bins = bin->len, total = 0;
    size_t *bounds = calloc(n + 1, sizeof *bounds);
    lengths = lengths->child;
    for (size_t i = 0; i < n; i++, lengths = lengths->next) bounds[i + 1] = total += (size_t)lengths->number.i;
    int32_t *ids = malloc(total * sizeof *ids);
    for (size_t i = 0; i < n; i++)
        for (size_t t = bounds[i]; t < bounds[i + 1]; t++) ids[t] = (int32_t)i;
    graft_dataset *ds;
    gr_loader *l;
    gr_data_cursor cursor = {0};
    assert_ok(gr_dataset_from_tokens(ctx, ids, ids, bounds, n, &ds, &err));
    assert_ok(gr_loader_new(ctx, ds, &(gr_loader_options){.batch_size = 1, .packing = true, .max_length = 64}, &l, &err));
    assert_int_equal(gr_loader_rows(l), bins);
    for (bin = bin->child; bin; bin = bin->next) {
        gr_data_batch b;
        assert_ok(gr_loader_next(l, &cursor, &b, &err));
        assert_int_equal(b.n_seqs, bin->len);
        const gr_json_value *member = bin->child;
        for (size_t s = 0; s < b.n_seqs; s++, member = member->next) {
            assert_int_equal(b.examples[s], member->number.i);
            assert_int_equal(b.ids[b.bounds[s]], member->number.i);
            assert_int_equal(b.labels[b.bounds[s + 1] - 1], GRAFT_IGNORE_LABEL);
        }
        assert_true(b.n_tokens <= 64);
    }
    assert_int_equal(cursor.epoch, 1);
    gr_loader_free(l);
    assert_int_equal(gr_loader_new(ctx, ds, &(gr_loader_options){.batch_size = 1, .packing = true, .max_length = 63}, &l, NULL), GRAFT_ERR_MISMATCH);
    graft_dataset_free(ds);
    gr_arena_free(&arena);
    gr_free(NULL, text);
    free(bounds);
    free(ids);
}

enum { SMALL = 23 };

/* Example i has 2 + i % 5 tokens, all of id i. */
static graft_dataset *small_dataset(void) {
    int32_t ids[SMALL * 7];
    size_t bounds[SMALL + 1] = {0};
    for (size_t i = 0; i < SMALL; i++) {
        bounds[i + 1] = bounds[i] + 2 + i % 5;
        for (size_t t = bounds[i]; t < bounds[i + 1]; t++) ids[t] = (int32_t)i;
    }
    graft_dataset *ds;
    assert_ok(gr_dataset_from_tokens(ctx, ids, ids, bounds, SMALL, &ds, &err));
    return ds;
}

/* The examples of n batches from *cursor on. */
static size_t take(gr_loader *l, gr_data_cursor *cursor, size_t n, uint32_t *out) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        gr_data_batch b;
        assert_ok(gr_loader_next(l, cursor, &b, &err));
        assert_true(b.n_tokens <= gr_loader_max_tokens(l));
        size_t labels = 0;
        for (size_t t = 0; t < b.n_tokens; t++) labels += b.labels[t] != GRAFT_IGNORE_LABEL;
        assert_int_equal(labels, b.n_labels);
        assert_int_equal(b.bounds[b.n_seqs], b.n_tokens);
        for (size_t s = 0; s < b.n_seqs; s++) out[count++] = b.examples[s];
    }
    return count;
}

static void order_goes_on_from_any_cursor(void **state) {
    (void)state;
    graft_dataset *ds = small_dataset();
    for (int packing = 0; packing < 2; packing++)
        for (int shuffle = 0; shuffle < 2; shuffle++)
            for (size_t batch = 1; batch <= 8; batch += 3) {
                gr_loader_options o = {.batch_size = batch, .packing = packing, .max_length = 9, .shuffle = shuffle, .seed = 5};
                gr_loader *l, *other;
                uint32_t all[4 * SMALL], again[4 * SMALL], seen[SMALL] = {0};
                gr_data_cursor from = {0}, middle;
                assert_ok(gr_loader_new(ctx, ds, &o, &l, &err));
                size_t batches = gr_loader_batches(l), n = take(l, &from, 3 * batches, all);
                assert_int_equal(n, 3 * SMALL);
                assert_int_equal(from.epoch, 3);
                assert_int_equal(from.row, 0);
                for (size_t i = 0; i < SMALL; i++) seen[all[i]]++;
                for (size_t i = 0; i < SMALL; i++) assert_int_equal(seen[i], 1);
                if (shuffle) assert_memory_not_equal(all, all + SMALL, SMALL * sizeof *all);
                for (size_t cut = 0; cut < 3 * batches; cut += 2) { /* stop after `cut` batches, go on with a new loader */
                    from = (gr_data_cursor){0};
                    size_t m = take(l, &from, cut, again);
                    middle = from;
                    assert_ok(gr_loader_new(ctx, ds, &o, &other, &err));
                    m += take(other, &middle, 3 * batches - cut, again + m);
                    assert_int_equal(m, n);
                    assert_memory_equal(all, again, n * sizeof *all);
                    gr_loader_free(other);
                }
                from = (gr_data_cursor){1, gr_loader_rows(l)};
                gr_data_batch b;
                assert_int_equal(gr_loader_next(l, &from, &b, NULL), GRAFT_ERR_MISMATCH);
                gr_loader_free(l);
            }
    graft_dataset_free(ds);
}

/* Batches of 8 are two batches of 4 one after the other, until the end of an epoch. */
static void batch_size_does_not_change_the_order(void **state) {
    (void)state;
    graft_dataset *ds = small_dataset();
    uint32_t a[2 * SMALL], b[2 * SMALL];
    gr_loader *l;
    for (int i = 0; i < 2; i++) {
        gr_data_cursor cursor = {0};
        assert_ok(gr_loader_new(ctx, ds, &(gr_loader_options){.batch_size = i ? 4 : 8, .shuffle = true, .seed = 9}, &l, &err));
        assert_int_equal(take(l, &cursor, gr_loader_batches(l), i ? b : a), SMALL);
        gr_loader_free(l);
    }
    assert_memory_equal(a, b, SMALL * sizeof *a);
    graft_dataset_free(ds);
}

static void assistant_that_is_not_shown_is_an_error(void **state) {
    (void)state;
    graft_tokenizer *tok = load_tokenizer("tok-plain");
    const struct { const char *template, *says; } cases[] = {
        {"{% for m in messages %}{% if m.role != 'assistant' %}{{ m.content }}{% endif %}{% endfor %}", ":1: cannot find what the chat template writes for message 2 (assistant) of 2"},
        {"{{ messages | length }}", "cannot find"},
        {"{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}{{ messages | length }}{{ messages[0].content }}", NULL},
        {"{{ raise_exception('never') }}", "never"},
        {"{% for m in messages", "chat template:1"},
    };
    const char *record = "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"a b\"}]}";
    const char *path = write_temp("hidden.jsonl", record, strlen(record));
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_data_options o = {.paths = &path, .n_paths = 1, .chat_template = cases[i].template, .assistant_only_loss = 1};
        graft_dataset *ds = NULL;
        graft_error e = {0};
        graft_status st = graft_dataset_load(ctx, tok, &o, &ds, &e);
        graft_dataset_free(ds);
        if (cases[i].says && (st == GRAFT_OK || !strstr(e.text, cases[i].says))) fail_msg("%s: expected \"%s\", found \"%s\"", cases[i].template, cases[i].says, e.text);
    }
    graft_tokenizer_free(tok);
}

static void bad_data_sets_are_named(void **state) {
    (void)state;
    graft_tokenizer *tok = load_tokenizer("tok-plain");
    const struct { const char *records; graft_data_options o; const char *says; } cases[] = {
        {"", {0}, "bad.jsonl: expected at least one record, found none"},
        {"{\"text\": \"\"}", {0}, "bad.jsonl: all 1 records have no token to learn"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", {0}, "bad.jsonl:1: the record is a conversation, but the model has no chat template"},
        {"{\"text\": \"aa\"}", {.assistant_only_loss = 1}, "bad.jsonl:1: a loss on the assistant only needs messages, found a text"},
        {"{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}", {0}, "found a preference (chosen, rejected)"},
        {"{\"text\": \"a\", \"text_pair\": \"b\"}", {0}, "found a labelled text"},
        {"{\"text\": \"a\"}", {.instruction_chat = GRAFT_YES}, "instructions as messages need a chat template"},
        {"{\"text\": 1}\n{\"prompt\": \"a\"}\n{\"text\": \"\"}", {.skip_bad_records = 1}, "of 3 records 2 are bad and the others have no token to learn; the first bad one: "},
        {"{\"prompt\": \"hello hello hello\", \"completion\": \"a\"}", {.max_length = 2}, "are longer than max_length, and what is left has no token to learn"},
        {"{\"input_ids\": [1, 100000]}", {0}, "found 100000 at index 1"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_dataset *ds;
        graft_error e = {0};
        graft_data_options o = cases[i].o;
        const char *path = write_temp("bad.jsonl", cases[i].records, strlen(cases[i].records));
        o.paths = &path;
        o.n_paths = 1;
        graft_status st = graft_dataset_load(ctx, tok, &o, &ds, &e);
        if (st == GRAFT_OK || !strstr(e.text, cases[i].says)) fail_msg("%s: expected \"%s\", found \"%s\"", cases[i].records, cases[i].says, e.text);
    }
    graft_tokenizer_free(tok);
}

static void statistics_count(void **state) {
    (void)state;
    graft_tokenizer *tok = load_tokenizer("tok-plain");
    const char *text = "{\"text\": \"hello world hello world hello world\"}\n{\"text\": 3}\n\n{\"prompt\": \"hello wor\", \"completion\": \"ld\"}\n{\"text\": \"\"}\n";
    const char *path = write_temp("stats.jsonl", text, strlen(text));
    graft_data_options o = {.paths = &path, .n_paths = 1, .max_length = 6, .skip_bad_records = 1, .now = 5};
    graft_dataset *ds;
    graft_data_stats s, t;
    graft_example e;
    assert_ok(graft_dataset_load(ctx, tok, &o, &ds, &err));
    graft_dataset_get_stats(ds, &s);
    assert_int_equal(s.records, 4);
    assert_int_equal(s.bad, 1);
    assert_int_equal(s.empty, 1);
    assert_int_equal(s.examples, graft_dataset_count(ds));
    assert_int_equal(s.examples, 2);
    assert_true(s.truncated >= 1 && s.split_prompt == 1 && s.longest == 6 && s.now == 5);
    assert_non_null(strstr(graft_dataset_bad_reason(ds, 0), "stats.jsonl:2: "));
    assert_null(graft_dataset_bad_reason(ds, 1));
    assert_null(graft_dataset_bad_reason(ds, 1000));
    graft_dataset_get(ds, 1, &e);
    assert_int_equal(e.line, 4);
    assert_string_equal(e.path, path);
    graft_dataset_free(ds);
    o.truncate_start = 1; /* other tokens, another fingerprint */
    assert_ok(graft_dataset_load(ctx, tok, &o, &ds, &err));
    graft_dataset_get_stats(ds, &t);
    assert_true(s.fingerprint != t.fingerprint);
    graft_dataset_free(ds);
    graft_tokenizer_free(tok);
}

static graft_status load_and_batch(graft_context *c, const graft_tokenizer *tok, const graft_data_options *o) {
    graft_dataset *ds;
    gr_loader *l = NULL;
    gr_data_batch b;
    gr_data_cursor cursor = {0};
    GR_TRY(graft_dataset_load(c, tok, o, &ds, NULL));
    gr_loader_options lo = {.batch_size = 2, .packing = true, .max_length = 1024, .shuffle = true};
    graft_status st = gr_loader_new(c, ds, &lo, &l, NULL);
    if (st == GRAFT_OK) st = gr_loader_next(l, &cursor, &b, NULL);
    gr_loader_free(l);
    graft_dataset_free(ds);
    return st;
}

static graft_status load_prompts(graft_context *c, const graft_tokenizer *tok, const graft_data_options *o) {
    graft_prompts *ps;
    GR_TRY(graft_prompts_load(c, tok, o, &ps, NULL));
    graft_prompts_free(ps);
    return GRAFT_OK;
}

/* As test_allocation_sweep, but the tokenizer, which has a sweep of its own, is loaded before allocations fail. */
static void sweep(graft_status (*body)(graft_context *, const graft_tokenizer *, const graft_data_options *), const graft_data_options *o) {
    graft_status st = GRAFT_ERR_MEMORY;
    for (long k = 1; st != GRAFT_OK; k++) {
        test_allocator t;
        graft_context *c;
        graft_tokenizer *tok;
        test_allocator_init(&t);
        assert_ok(graft_context_new(&(graft_context_options){.allocator = t.allocator, .n_threads = 1}, &c, &err));
        assert_ok(graft_tokenizer_load(c, test_golden("data/tok-plain"), &tok, &err));
        long live = t.live;
        t.calls = 0;
        t.fail_at = k;
        st = body(c, tok, o);
        t.fail_at = 0;
        long leaked = t.live - live;
        graft_tokenizer_free(tok);
        graft_context_free(c);
        if (st != GRAFT_OK && st != GRAFT_ERR_MEMORY) fail_msg("allocation %ld failed: expected out of memory, got %s", k, graft_status_text(st));
        if (leaked) fail_msg("allocation %ld failed: %ld blocks leaked", k, leaked);
    }
}

static void loading_survives_failing_allocations(void **state) {
    (void)state;
    const char *chats = "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"a b\"}, "
                        "{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"c\"}], \"chat_template_kwargs\": {\"x\": 1}}\n"
                        "{\"instruction\": \"i\", \"input\": \"j\", \"output\": \"o\"}\n{\"input_ids\": [1, 2, 3], \"labels\": [1, 5, 3]}\n";
    const char *plain = "{\"prompt\": \"p\", \"completion\": \"q\"}\n{\"instruction\": \"i\", \"output\": \"o\"}\n";
    char path[1024];
    const char *paths = path;
    graft_data_options o = {.paths = &paths, .n_paths = 1, .assistant_only_loss = 1};
    strcpy(path, write_temp("sweep.jsonl", chats, strlen(chats)));
    char *text = load_template("final-eos", false); /* history differs: both ways of finding the assistant run */
    o.chat_template = text;
    sweep(load_and_batch, &o);
    gr_free(NULL, text);
    strcpy(path, write_temp("sweep.jsonl", plain, strlen(plain)));
    o = (graft_data_options){.paths = &paths, .n_paths = 1};
    sweep(load_and_batch, &o);
    sweep(load_prompts, &o);
}

static void load_labels(const graft_tokenizer *tok, const char *path, bool marked, int32_t *labels, size_t *n) {
    char *text = load_template("channels", marked);
    graft_data_options o = {.paths = &path, .n_paths = 1, .chat_template = text, .assistant_only_loss = 1};
    graft_dataset *ds;
    graft_example e;
    assert_ok(graft_dataset_load(ctx, tok, &o, &ds, &err));
    graft_dataset_get(ds, 0, &e);
    assert_true(e.n < 256);
    *n = e.n;
    graft_dataset_get_labels(ds, 0, labels);
    graft_dataset_free(ds);
    gr_free(NULL, text);
}

/* The end of an earlier turn is learnt even where the turn's own text is empty, or ends with a special token. */
static void turn_without_words_keeps_its_end(void **state) {
    (void)state;
    static const char *const says[] = {"", "</s>", "one<|message|>"};
    graft_tokenizer *tok = load_tokenizer("tok-plain");
    for (size_t i = 0; i < GR_COUNT(says); i++) {
        char record[512];
        int32_t expected[256], found[256];
        size_t n, m;
        snprintf(record, sizeof record,
                 "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"%s\"}, "
                 "{\"role\": \"user\", \"content\": \"\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}", says[i]);
        const char *path = write_temp("turns.jsonl", record, strlen(record));
        load_labels(tok, path, true, expected, &n);
        load_labels(tok, path, false, found, &m);
        assert_int_equal(n, m);
        assert_memory_equal(expected, found, n * sizeof *found);
    }
    graft_tokenizer_free(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(examples_equal_trl),
        cmocka_unit_test(prompts_equal_transformers),
        cmocka_unit_test(bins_equal_trl),
        cmocka_unit_test(order_goes_on_from_any_cursor),
        cmocka_unit_test(batch_size_does_not_change_the_order),
        cmocka_unit_test(assistant_that_is_not_shown_is_an_error),
        cmocka_unit_test(turn_without_words_keeps_its_end),
        cmocka_unit_test(bad_data_sets_are_named),
        cmocka_unit_test(statistics_count),
        cmocka_unit_test(loading_survives_failing_allocations),
    };
    if (graft_context_new(&(graft_context_options){.n_threads = 1}, &ctx, NULL) != GRAFT_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    graft_context_free(ctx);
    return failed;
}
