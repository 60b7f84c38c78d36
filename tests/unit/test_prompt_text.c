/* A prefix that begins as a text: the model with it says what the bare model says behind that text. The keys and values are the
 * bare model's own, so that nothing but the order of the sums in attention differs. */
#include "support/model_support.h"
#include "support/sft_run.h"

#include <math.h>

#include "graft/tokenizer.h"

enum { N_PREFIX = 5, N_OWN = 9 };

/* A tokenizer of the letters from token 1 on. */
static const char *tokenizer_path(void) {
    const char *dir = test_path("%s/tokenizer", test_temp_dir());
    gr_buf b;
    assert_ok(gr_make_dirs(dir, &err));
    gr_buf_init(&b, NULL);
    gr_buf_add_text(&b, "{\"version\": \"1.0\", \"added_tokens\": [], \"model\": {\"type\": \"Unigram\", \"unk_id\": 0, \"vocab\": [[\"?\", -9.0]");
    for (int i = 0; i < 26; i++) gr_buf_add_format(&b, ", [\"%c\", -1.0]", 'a' + i);
    gr_buf_add_text(&b, "]}}");
    assert_ok(gr_write_file(NULL, test_path("%s/tokenizer/tokenizer.json", test_temp_dir()), b.data, b.len, &err));
    gr_buf_free(&b);
    return test_path("%s/tokenizer", test_temp_dir());
}

static char *config_of(char *into, size_t size, const char *text, const char *more) {
    snprintf(into, size, "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": %d, \"prompt_tuning_init\": \"TEXT\", "
             "\"prompt_tuning_init_text\": \"%s\", \"tokenizer_name_or_path\": \"%s\"%s}", N_PREFIX, text, tokenizer_path(), more);
    return into;
}

/* The tokens of the text, repeated or cut to fit. */
static void prefix_ids(graft_context *ctx, const char *text, int32_t *out) {
    graft_tokenizer *tok;
    int32_t *ids;
    size_t n;
    assert_ok(graft_tokenizer_load(ctx, tokenizer_path(), &tok, &err));
    assert_ok(graft_tokenizer_encode(tok, text, strlen(text), GRAFT_TOK_ADD_SPECIAL, &ids, &n, &err));
    for (size_t i = 0; i < N_PREFIX; i++) out[i] = ids[i % n];
    graft_free(ctx, ids);
    graft_tokenizer_free(tok);
}

static void compare(const char *model, graft_dtype dtype, const char *text) {
    char config[2048];
    graft_context *ctx = test_context(NULL, 2, NULL);
    graft_model *m = test_load(ctx, model, dtype);
    const size_t vocab = (size_t)graft_model_vocab_size(m);
    int32_t ids[N_PREFIX + N_OWN];
    prefix_ids(ctx, text, ids);
    for (int i = 0; i < N_OWN; i++) ids[N_PREFIX + i] = (i * 31 + 7) % (int32_t)vocab;
    assert_ok(graft_adapter_new(m, "a", config_of(config, sizeof config, text, ""), 7, &err));

    const int32_t whole[2] = {0, N_PREFIX + N_OWN}, own[2] = {0, N_OWN};
    const gr_batch behind = {.n_tokens = whole[1], .n_seqs = 1, .bounds = whole, .ids = ids, .one_adapter = -1};
    const gr_batch with = {.n_tokens = own[1], .n_seqs = 1, .bounds = own, .ids = ids + N_PREFIX, .one_adapter = 0};
    float *x = test_logits(m->model, m->hooks, &behind), *y = test_logits(m->model, m->hooks, &with);
    const double limit = dtype == GRAFT_DTYPE_F32 ? 2e-5 : 5e-2;
    double largest = 0, worst = 0;
    for (size_t i = 0; i < N_OWN * vocab; i++) {
        largest = fmax(largest, fabs((double)x[N_PREFIX * vocab + i]));
        worst = fmax(worst, fabs((double)x[N_PREFIX * vocab + i] - (double)y[i]));
    }
    if (!(worst <= limit * largest)) fail_msg("%s: logits differ by %g of %g", model, worst, largest);
    free(x);
    free(y);
    graft_model_free(m);
    graft_context_free(ctx);
}

static void it_says_what_the_model_says_behind_the_text(void **state) {
    (void)state;
    const char *const models[] = {"models/llama", "models/llama_bias", "models/qwen3", "models/mistral", "models/llama_one_kv", "models/g_q4_0.gguf",
                                  "families/gpt2"};
    for (size_t i = 0; i < GR_COUNT(models); i++) {
        compare(test_golden(models[i]), GRAFT_DTYPE_F32, "a");
        compare(test_golden(models[i]), GRAFT_DTYPE_F32, "redblueyellow");
        compare(test_golden(models[i]), GRAFT_DTYPE_BF16, "redb");
    }
}

static void what_cannot_begin_so_is_refused(void **state) {
    (void)state;
    const struct {
        const char *model, *text, *more, *says;
    } wrong[] = {
        {"models/llama", "", "", "has no tokens"},
        {"models/llama", "a", ", \"prefix_projection\": true, \"encoder_hidden_size\": 4", "prefix_projection would make"},
        {"models/llama", "a", ", \"init_weights\": \"zero\"", "init_weights would make"},
        {"families/bert", "a", "", "prompt_tuning_init TEXT of a prefix"},
    };
    char config[2048];
    graft_context *ctx = test_context(NULL, 1, NULL);
    for (size_t i = 0; i < GR_COUNT(wrong); i++) {
        graft_model *m = test_load(ctx, test_golden(wrong[i].model), GRAFT_DTYPE_F32);
        config_of(config, sizeof config, wrong[i].text, wrong[i].more);
        graft_error err = {0};
        assert_true(graft_adapter_new(m, "a", config, 7, &err) != GRAFT_OK);
        if (!strstr(err.text, wrong[i].says)) fail_msg("%s: '%s' does not say '%s'", config, err.text, wrong[i].says);
        graft_model_free(m);
    }
    graft_context_free(ctx);
}

static void failed_allocations_leak_nothing(void **state) {
    char config[2048];
    test_fresh_adapter f = {.model = "models/llama", .config = config_of(config, sizeof config, "red", "")};
    (void)state;
    test_allocation_sweep(test_open_fresh_adapter, &f, 0, 7);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_says_what_the_model_says_behind_the_text),
        cmocka_unit_test(what_cannot_begin_so_is_refused),
        cmocka_unit_test(failed_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
