#include "support/sft_run.h"

const char *test_path(const char *format, ...) {
    static char paths[16][1024];
    static int next;
    char *p = paths[next++ & 15];
    va_list args;
    va_start(args, format);
    vsnprintf(p, sizeof paths[0], format, args);
    va_end(args);
    return p;
}

void sft_case_init(sft_case *c, const char *data, const char *output) {
    *c = (sft_case){.o = graft_sft_options_default()};
    snprintf(c->path, sizeof c->path, "%s", test_golden(test_path("train/%s", data)));
    c->data[0] = c->eval[0] = c->path;
    snprintf(c->output, sizeof c->output, "%s/%s", test_temp_dir(), output);
    static char model[1024];
    snprintf(model, sizeof model, "%s", test_golden("train/model"));
    c->o.model = model;
    c->o.dtype = "f32";
    c->o.logging_steps = 1;
    c->o.no_shuffle = 1;
    c->o.max_length = 64;
    c->o.save_strategy = GRAFT_STRATEGY_NO;
}

graft_status sft_run(const sft_case *c, int threads, graft_train_result *result, graft_error *err) {
    graft_context_options co = {.n_threads = threads, .cpu = getenv("GRAFT_CPU")};
    graft_sft_options o = c->o;
    graft_context *ctx;
    o.data = (graft_texts){c->data, 1};
    if (o.eval_strategy != GRAFT_STRATEGY_NO) o.eval_data = (graft_texts){c->eval, 1};
    o.output_dir = c->output;
    GR_TRY(graft_context_new(&co, &ctx, err));
    graft_status st = graft_sft(ctx, &o, NULL, result, err);
    graft_context_free(ctx);
    return st;
}

char *sft_read(const char *path, size_t *len) {
    char *text;
    assert_ok(gr_read_file(NULL, path, (size_t)64 << 20, &text, len, &err));
    return text;
}

/* Values of keys that hold times become 0. */
static void drop_times(char *log) {
    for (char *p = log; (p = strpbrk(p, "\"")); p++) {
        char *end = strchr(p + 1, '"');
        if (!end) return;
        *end = '\0';
        bool time = strstr(p, "_runtime") || strstr(p, "_per_second");
        *end = '"';
        p = end;
        if (!time) continue;
        for (p++; *p && *p != ',' && *p != '}'; p++) *p = *p == ':' ? ':' : ' ';
    }
}

static void squeeze(char *text) {
    char *to = text;
    for (char *p = text; *p; p++)
        if (*p != ' ') *to++ = *p;
    *to = '\0';
}

static void assert_same_file(const char *a, const char *b, const char *name) {
    size_t na, nb;
    char *x = sft_read(test_path("%s/%s", a, name), &na), *y = sft_read(test_path("%s/%s", b, name), &nb);
    if (na != nb || memcmp(x, y, na)) fail_msg("%s/%s and %s/%s differ", a, name, b, name);
    gr_free(NULL, x);
    gr_free(NULL, y);
}

void sft_assert_same(const char *a, const char *b) {
    const char *name = gr_path_exists(test_path("%s/adapter_model.safetensors", a)) ? "adapter_model.safetensors"
                                                                                     : "model.safetensors";
    assert_same_file(a, b, name);
    char *x = sft_read(test_path("%s/trainer_log.jsonl", a), NULL), *y = sft_read(test_path("%s/trainer_log.jsonl", b), NULL);
    drop_times(x), drop_times(y);
    squeeze(x), squeeze(y);
    if (strcmp(x, y) != 0) fail_msg("the logs of %s and %s differ:\n%s\n%s", a, b, x, y);
    gr_free(NULL, x);
    gr_free(NULL, y);
}
