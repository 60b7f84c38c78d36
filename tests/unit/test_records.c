/* Room data: bytes to records. Every way in which a file can be wrong is named with its place. */
#define _GNU_SOURCE
#include <zlib.h>

#include "data/reader.h"
#include "data/record.h"
#include "data/scan.h"
#include "support/support.h"

static const char *write_temp(const char *name, const void *bytes, size_t n) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s", test_temp_dir(), name);
    assert_ok(gr_write_file(NULL, path, bytes, n, &err));
    return path;
}

static size_t gzip(const void *bytes, size_t n, unsigned char *out, size_t room) {
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (unsigned char *)bytes;
    z.avail_in = (unsigned)n;
    z.next_out = out;
    z.avail_out = (unsigned)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t len = z.total_out;
    deflateEnd(&z);
    return len;
}

/* All pieces as "line:text" joined with '|', or "!" and the error. */
static const char *pieces(const char *path, size_t max) {
    static char out[4096];
    size_t n = 0;
    graft_error err = {0};
    gr_reader *r;
    graft_status st = gr_reader_open(NULL, path, max, &r, &err);
    out[0] = '\0';
    if (st != GRAFT_OK) {
        snprintf(out, sizeof out, "!%s", err.text);
        return out;
    }
    for (int i = 0; i < 100; i++) {
        gr_piece p;
        bool more;
        size_t line;
        st = gr_reader_next(r, &p, &more, &line, &err);
        if (st == GRAFT_OK && !more) break;
        if (st == GRAFT_OK) n += (size_t)snprintf(out + n, sizeof out - n, "%s%zu:%s", n ? "|" : "", p.line, p.text.data);
        else n += (size_t)snprintf(out + n, sizeof out - n, "%s!%s", n ? "|" : "", strstr(err.text, "in.")) ;
        if (st != GRAFT_OK && st != GRAFT_ERR_LIMIT) break;
    }
    gr_reader_close(r);
    return out;
}

static void reader_cuts_lines_and_arrays(void **state) {
    (void)state;
    const struct { const char *in, *out; } cases[] = {
        {"", ""},
        {"\n\n \t\r\n", ""},
        {"{}", "1:{}"},
        {"{\"a\":1}\n{}\n", "1:{\"a\":1}|2:{}"},
        {"{\"a\":1}\r\n\r\n{}\r\n", "1:{\"a\":1}\r|3:{}\r"},
        {"\xEF\xBB\xBF{}\n", "1:{}"},
        {"\xEF\xBB\xBF[{}]", "1:{}"},
        {"[]", ""},
        {" [\n{\"a\": [1, \"]\"]},\n\n {\"b\": \"\\\"}\"} ]\n", "2:{\"a\": [1, \"]\"]}|4:{\"b\": \"\\\"}\"}"},
        {"[1, 2]", "1:1|1:2"},
        {"[{} {}]", "1:{}|!in.txt:1: expected ',' or ']' between the records of an array"},
        {"[{}", "1:{}|!in.txt:1: the array of records does not end: expected ']'"},
        {"[\n{\"a\"", "!in.txt:2: the array of records does not end: expected ']'"},
        {"[{}] x", "1:{}|!in.txt:1: expected the end of the file after the array"},
        {"[{}, ]", "1:{}|1:"},
        {"[}, {}]", "1:}|1:{}"},
        {"{\"long\": \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}\n{}",
         "!in.txt:1: the record has 68 bytes, expected at most 60|2:{}"},
        {"[{\"long\": \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}, {}]",
         "!in.txt:1: the record has 70 bytes, expected at most 60|1:{}"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        const char *path = write_temp("in.txt", cases[i].in, strlen(cases[i].in));
        assert_string_equal(pieces(path, 60), cases[i].out);
        unsigned char packed[1024];
        size_t n = gzip(cases[i].in, strlen(cases[i].in), packed, sizeof packed);
        assert_string_equal(pieces(write_temp("in.txt", packed, n), 60), cases[i].out);
    }
    assert_non_null(strstr(pieces(write_temp("in.txt", "\xFF\xFE{\0", 4), 60), "UTF-16"));
    assert_non_null(strstr(pieces(write_temp("in.txt", "\xEF\xBB", 2), 60), "found byte 0xEF"));
    assert_non_null(strstr(pieces("/nonexistent/x", 60), "!/nonexistent/x: cannot be opened: No such file"));
    assert_non_null(strstr(pieces(test_temp_dir(), 60), "cannot be read: Is a directory"));
}

static void gzip_is_checked(void **state) {
    (void)state;
    char text[20000];
    unsigned char packed[40000];
    memset(text, ' ', sizeof text);
    for (size_t i = 0; i < sizeof text; i += 20) memcpy(text + i, "{\"a\": 1}\n", 9);
    size_t n = gzip(text, 200, packed, sizeof packed), m = gzip(text + 200, 100, packed + n, sizeof packed - n);
    char plain[1024];
    strcpy(plain, pieces(write_temp("in.txt", text, 300), 60));
    assert_string_equal(pieces(write_temp("in.gz", packed, n + m), 60), plain);
    memset(packed + n + m, 0, 512);
    assert_string_equal(pieces(write_temp("in.gz", packed, n + m + 512), 60), plain);
    packed[n + m] = 'x';
    assert_non_null(strstr(pieces(write_temp("in.gz", packed, n + m + 1), 60), "another gzip member"));
    for (size_t cut = 2; cut < n; cut++) assert_non_null(strstr(pieces(write_temp("in.gz", packed, cut), 60), "in the middle"));
    strcpy(plain, pieces(write_temp("in.gz", packed, n), 60));
    for (size_t i = 10; i < n; i++) { /* damage is found by the check sum at the latest, or is in unused bits */
        packed[i] ^= 0x10;
        const char *found = pieces(write_temp("in.gz", packed, n), 60);
        if (!strchr(found, '!')) assert_string_equal(found, plain);
        packed[i] ^= 0x10;
    }
}

/* What a record says, in short; or its error. */
static const char *describe_turns(const gr_turns *t) {
    static char text[4][1024];
    static int next;
    char *out = text[next++ & 3];
    size_t n = 0;
    if (!t->n) {
        snprintf(out, 1024, "%s", t->text.data ? t->text.data : "-");
        return out;
    }
    for (size_t i = 0; i < t->n; i++) n += (size_t)snprintf(out + n, 1024 - n, "%.*s", (int)t->messages[i].json.len, t->messages[i].json.data);
    return out;
}

static const char *describe(const char *json) {
    static char out[8192];
    gr_arena arena;
    gr_record r;
    graft_error err = {0};
    gr_arena_init(&arena, NULL, 0);
    graft_status st = gr_record_parse(&arena, "f:1", json, strlen(json), NULL, 100, &r, &err);
    if (st != GRAFT_OK) {
        snprintf(out, sizeof out, "%s", err.text);
    } else {
        switch (r.kind) {
        case GR_RECORD_TOKENS:
            snprintf(out, sizeof out, "tokens %zu%s%s%s", r.n_ids, r.labels ? " labels" : "", r.completion_mask ? " completion" : "",
                     r.assistant_mask ? " assistant" : "");
            break;
        case GR_RECORD_OTHER: break; /* made by the caller */
        case GR_RECORD_TEXT: snprintf(out, sizeof out, "text %s", r.text.data); break;
        case GR_RECORD_PAIR:
            snprintf(out, sizeof out, "pair %s => %s", describe_turns(&r.prompt), describe_turns(&r.completion));
            break;
        case GR_RECORD_CHAT:
            snprintf(out, sizeof out, "chat %s%s%.*s%s%.*s", describe_turns(&r.completion), r.tools.data ? " tools " : "",
                     (int)r.tools.len, r.tools.data ? r.tools.data : "", r.kwargs.data ? " with " : "", (int)r.kwargs.len,
                     r.kwargs.data ? r.kwargs.data : "");
            break;
        case GR_RECORD_INSTRUCTION:
            snprintf(out, sizeof out, "instruction %s input %s output %s system %s", r.instruction.data,
                     r.input.data ? r.input.data : "-", r.completion.text.data, r.system.data ? r.system.data : "-");
            break;
        case GR_RECORD_PROMPT: snprintf(out, sizeof out, "prompt %s", describe_turns(&r.prompt)); break;
        case GR_RECORD_PREFERENCE:
            snprintf(out, sizeof out, "preference %s => %s over %s", describe_turns(&r.prompt), describe_turns(&r.completion),
                     describe_turns(&r.rejected));
            break;
        case GR_RECORD_RANKED:
            snprintf(out, sizeof out, "ranked %s => %zu: %s %d, %s %d", describe_turns(&r.prompt), r.n_answers,
                     describe_turns(&r.answers[0]), r.ranks[0], describe_turns(&r.answers[1]), r.ranks[1]);
            break;
        case GR_RECORD_LABELLED:
            snprintf(out, sizeof out, "labelled %s + %s is %.*s", r.text.data, r.text_pair.data ? r.text_pair.data : "-",
                     (int)r.label.len, r.label.data);
            break;
        }
    }
    gr_arena_free(&arena);
    return out;
}

static void records_of_every_format(void **state) {
    (void)state;
    const struct { const char *json, *says; } cases[] = {
        {"{\"text\": \"a\\u00e9\\n\"}", "text a\xC3\xA9\n"},
        {"{\"text\": \"a\", \"label\": 3}", "labelled a + - is 3"},
        {"{\"text\": \"a\", \"text_pair\": \"b\", \"label\": \"yes\"}", "labelled a + b is yes"},
        {"{\"prompt\": \"p\", \"completion\": \"c\", \"text\": \"t\"}", "pair p => c"},
        {"{\"prompt\": \"p\", \"completion\": null, \"text\": \"t\"}", "text t"},
        {"{\"prompt\": \"p\"}", "prompt p"},
        {"{\"prompt\": \"p\", \"messages\": [{\"role\": \"user\"}]}", "chat {\"role\": \"user\"}"},
        {"{\"prompt\": [{\"role\":\"user\",\"content\":\"q\"}], \"completion\": [{\"role\":\"assistant\",\"content\":\"a\"}]}",
         "pair {\"role\": \"user\", \"content\": \"q\"} => {\"role\": \"assistant\", \"content\": \"a\"}"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": null, \"x\": 1.50, \"y\": {\"k\": null}}]}",
         "chat {\"role\": \"user\", \"x\": 1.50, \"y\": {\"k\": null}}"},
        {"{\"messages\": [{\"role\": \"user\"}], \"tools\": \"[{\\\"a\\\": 1}]\", \"chat_template_kwargs\": {\"b\": 2}}",
         "chat {\"role\": \"user\"} tools [{\"a\": 1}] with {\"b\": 2}"},
        {"{\"conversations\": [{\"from\": \"human\", \"value\": \"q\"}, {\"from\": \"gpt\", \"value\": \"a\"}], \"system\": \"s\"}",
         "chat {\"role\": \"system\", \"content\": \"s\"}{\"role\": \"user\", \"content\": \"q\"}"
         "{\"role\": \"assistant\", \"content\": \"a\"}"},
        {"{\"conversations\": [{\"from\": \"system\", \"value\": \"s\"}, {\"role\": \"human\", \"content\": \"q\"}], \"system\": \"t\"}",
         "chat {\"role\": \"system\", \"content\": \"s\"}{\"role\": \"human\", \"content\": \"q\"}"},
        {"{\"instruction\": \"i\", \"input\": \"\", \"output\": \"o\"}", "instruction i input  output o system -"},
        {"{\"instruction\": \"i\", \"output\": \"o\", \"system\": \"s\"}", "instruction i input - output o system s"},
        {"{\"input_ids\": [1, 2, 99], \"attention_mask\": [1, 1, true]}", "tokens 3"},
        {"{\"input_ids\": [1, 2], \"labels\": [-100, 2], \"text\": \"t\"}", "tokens 2 labels"},
        {"{\"input_ids\": [], \"completion_mask\": [], \"assistant_masks\": []}", "tokens 0 completion assistant"},
        {"{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\"}", "preference p => c over r"},
        {"{\"chosen\": \"c\", \"rejected\": \"r\"}", "preference - => c over r"},
        {"{\"prompt\": \"p\", \"completions\": [\"a\", \"b\"], \"ranks\": [2, 1]}", "ranked p => 2: a 2, b 1"},
        /* the later of two equal names counts */
        {"{\"text\": \"a\", \"text\": \"b\"}", "text b"},
        {"{\"\\u0074ext\": \"a\"}", "text a"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) assert_string_equal(describe(cases[i].json), cases[i].says);
}

static void bad_records_are_named(void **state) {
    (void)state;
    const struct { const char *json, *says; } cases[] = {
        {"", "f:1: JSON at byte 0: expected an object, found the end"},
        {"\"text\"", "f:1: JSON at byte 0: expected an object, found a string"},
        {"{\"text\": \"a\"", "expected ',' or '}', found the end"},
        {"{\"text\": \"a\"} {}", "expected the end, found '{'"},
        {"{\"text\": \"\xff\"}", "expected valid UTF-8, found byte 0xFF"},
        {"{\"text\": \"\\ud800\"}", "expected a valid escape"},
        {"{}", "f:1: expected \"text\", \"prompt\" and \"completion\""},
        {"{\"text\": 3}", "f:1: expected \"text\" to be a string, found a number"},
        {"{\"prompt\": 3, \"completion\": \"a\"}", "expected \"prompt\" to be a string or a list of messages, found a number"},
        {"{\"prompt\": \"p\", \"completion\": [{\"role\": \"assistant\"}]}", "found a string and messages"},
        {"{\"messages\": \"a\"}", "expected \"messages\" to be a list of messages, found a string"},
        {"{\"messages\": []}", "expected at least one message in \"messages\""},
        {"{\"messages\": [1, 2, 3, 4, 5, 6, 7, 8]}", "messages with a role"},
        {"{\"messages\": [\"aaaaaaaaaaaaaaaaaa\"]}", "expected \"messages\" to hold messages (objects), found a string"},
        {"{\"messages\": [{\"content\": \"a\", \"role\": null}]}", "a message of \"messages\" has no role"},
        {"{\"messages\": [{\"content\": \"a\", \"role\": 1}]}", "expected the role of a message to be a string, found a number"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]}", "part of type \"image_url\""},
        {"{\"instruction\": \"a\"}", "expected the field \"output\""},
        {"{\"image\": \"a.png\", \"text\": \"a\"}", "expected a record of text, found \"image\""},
        {"{\"input_ids\": \"a\"}", "expected \"input_ids\" to be an array of integers, found a string"},
        {"{\"input_ids\": [1, 100]}", "expected integers of 0 to 99 in \"input_ids\", found 100 at index 1"},
        {"{\"input_ids\": [1.0]}", "expected integers of 0 to 99 in \"input_ids\", found 1 at index 0"},
        {"{\"input_ids\": [[1]]}", "expected integers in \"input_ids\", found an array at index 0"},
        {"{\"input_ids\": [1], \"labels\": [-1]}", "found -1 at index 0"},
        {"{\"input_ids\": [1, 2], \"attention_mask\": [1, 0]}", "expected tokens without padding"},
        {"{\"chosen\": \"a\"}", "expected both fields \"chosen\" and \"rejected\""},
        {"{\"prompt\": \"p\", \"completions\": [\"a\", \"b\"]}", "expected the field \"ranks\""},
        {"{\"prompt\": \"p\", \"completions\": [\"a\"], \"ranks\": [1, 2]}", "fewer"},
        {"{\"prompt\": \"p\", \"completions\": [\"a\", \"b\", \"c\"], \"ranks\": [1, 2]}", "found more"},
        {"{\"prompt\": \"p\", \"completions\": [\"a\", \"b\"], \"ranks\": [0, 2]}", "expected integers of 1 to"},
        {"{\"messages\": [{\"role\": \"user\"}], \"tools\": \"[\"}", "expected the text of \"tools\" to be JSON"},
        {"{\"messages\": [{\"role\": \"user\"}], \"tools\": {}}", "expected \"tools\" to be an array, found an object"},
        {"{\"messages\": [{\"role\": \"user\"}], \"chat_template_kwargs\": 1}", "to be an object, found a number"},
        {"{\"text\": \"a\", \"label\": {}}", "expected \"label\" to be a string, a number or a list of them, found an object"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++)
        if (!strstr(describe(cases[i].json), cases[i].says))
            fail_msg("%s: expected \"%s\", found \"%s\"", cases[i].json, cases[i].says, describe(cases[i].json));
    char deep[1000] = "{\"text\": ";
    memset(deep + 9, '[', 900);
    assert_non_null(strstr(describe(deep), "expected at most 128 levels"));
}

static graft_status count_record(void *user, gr_arena *arena, const gr_scan_place *place, const gr_record *record,
                                 graft_error *err) {
    (void)arena;
    (void)place;
    if (record->text.len == 1) return gr_fail(err, GRAFT_ERR_MISMATCH, "too short");
    ++*(int *)user;
    return GRAFT_OK;
}

static void scan_skips_or_stops(void **state) {
    (void)state;
    char first[1024], second[1024];
    const char *text = "{\"text\": \"aa\"}\n{\"text\": \"a\"}\n\n{\"text\": 1}\n{\"text\": \"bb\"}\n";
    strcpy(first, write_temp("first.jsonl", text, strlen(text)));
    strcpy(second, write_temp("second.json", "[{\"text\": \"cc\"}, {}]", 20));
    const char *paths[] = {first, second};
    graft_context *ctx;
    assert_ok(graft_context_new(NULL, &ctx, &err));
    gr_scan scan;
    int n = 0;
    graft_error e = {0};
    graft_data_options o = {.paths = paths, .n_paths = 2};
    assert_int_equal(gr_scan_records(ctx, &o, 10, count_record, &n, &scan, &e), GRAFT_ERR_MISMATCH);
    assert_non_null(strstr(e.text, "first.jsonl:2: too short"));
    gr_scan_free(&scan);
    o.skip_bad_records = 1;
    n = 0;
    assert_ok(gr_scan_records(ctx, &o, 10, count_record, &n, &scan, &err));
    assert_int_equal(n, 3);
    assert_int_equal(scan.records, 6);
    assert_int_equal(scan.bad, 3);
    assert_non_null(strstr(scan.reason[0], "first.jsonl:2: too short"));
    assert_non_null(strstr(scan.reason[1], "first.jsonl:4: expected \"text\" to be a string"));
    assert_non_null(strstr(scan.reason[2], "second.json:1: expected"));
    gr_scan_free(&scan);
    o.max_records = 1;
    assert_ok(gr_scan_records(ctx, &o, 10, count_record, &n, &scan, &err));
    assert_int_equal(scan.records, 1);
    gr_scan_free(&scan);
    o.max_records = 0;
    graft_context_cancel(ctx);
    assert_int_equal(gr_scan_records(ctx, &o, 10, count_record, &n, &scan, &e), GRAFT_ERR_CANCELLED);
    gr_scan_free(&scan);
    paths[1] = "/nonexistent/a.jsonl";
    graft_context_reset_cancel(ctx);
    assert_int_equal(gr_scan_records(ctx, &o, 10, count_record, &n, &scan, &e), GRAFT_ERR_NOT_FOUND);
    gr_scan_free(&scan);
    graft_context_free(ctx);
}

static graft_status scan_all(const graft_allocator *a, void *arg) {
    const char *path = arg;
    graft_context *ctx;
    int n = 0;
    GR_TRY(graft_context_new(&(graft_context_options){.allocator = *a, .n_threads = 1}, &ctx, NULL));
    gr_scan scan;
    graft_data_options o = {.paths = &path, .n_paths = 1, .skip_bad_records = 1};
    graft_status st = gr_scan_records(ctx, &o, 100, count_record, &n, &scan, NULL);
    gr_scan_free(&scan);
    graft_context_free(ctx);
    return st;
}

static void scan_survives_failing_allocations(void **state) {
    (void)state;
    const char *text =
        "{\"text\": \"aa\"}\n{\"text\": 1}\n{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}], \"tools\": \"[]\"}\n"
        "{\"conversations\": [{\"from\": \"human\", \"value\": \"q\"}], \"system\": \"s\"}\n"
        "{\"input_ids\": [1, 2], \"labels\": [1, 2], \"completion_mask\": [1, 1]}\n"
        "{\"prompt\": \"p\", \"completions\": [\"a\", \"b\"], \"ranks\": [2, 1]}\n"
        "{\"instruction\": \"p\", \"output\": \"p\"}\n{\"prompt\": \"p\", \"chosen\": \"p\", \"rejected\": \"p\"}\n";
    unsigned char packed[2048];
    char path[1024];
    strcpy(path, write_temp("all.jsonl.gz", packed, gzip(text, strlen(text), packed, sizeof packed)));
    test_allocation_sweep(scan_all, path, 0, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reader_cuts_lines_and_arrays), cmocka_unit_test(gzip_is_checked),
        cmocka_unit_test(records_of_every_format),      cmocka_unit_test(bad_records_are_named),
        cmocka_unit_test(scan_skips_or_stops),          cmocka_unit_test(scan_survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
