#include "support/model_support.h"

#include <math.h>

graft_context *test_context(const graft_allocator *a, int threads, const char *cpu) {
    graft_context_options o = {.n_threads = threads, .cpu = cpu ? cpu : getenv("GRAFT_CPU")};
    graft_context *ctx = NULL;
    if (a) o.allocator = *a;
    assert_ok(graft_context_new(&o, &ctx, &err));
    return ctx;
}

const char *test_model_path(const char *name) {
    char rest[200];
    snprintf(rest, sizeof rest, "models/%s", name);
    return test_golden(rest);
}

graft_model *test_load(graft_context *ctx, const char *path, graft_dtype dtype) {
    graft_model *m = NULL;
    assert_ok(graft_model_load(ctx, path, &(graft_model_options){.dtype = dtype}, &m, &err));
    return m;
}

static double largest_of(const gr_tensor_view *v) {
    double largest = 0;
    for (size_t i = 0; i < v->bytes / 4; i++) {
        float x;
        memcpy(&x, (const char *)v->data + i * 4, 4);
        largest = fmax(largest, fabs(x));
    }
    return largest;
}

double test_largest_gradient(const gr_tensor_list *golden) {
    double largest = 0;
    for (size_t i = 0; i < golden->n; i++)
        if (strncmp(golden->items[i].name, "grad.", 5) == 0) largest = fmax(largest, largest_of(&golden->items[i].view));
    return largest;
}

double test_gradient_error(const gr_tensor_view *golden, const gr_tensor_view *ours, size_t stride, double largest) {
    double own = largest_of(golden), worst = test_worst_error(golden, ours, stride);
    return own < 1e-6 * largest ? worst * fmax(own, 1e-30) / largest : worst;
}

double test_worst_error(const gr_tensor_view *golden, const gr_tensor_view *ours, size_t stride) {
    const char *g = golden->data, *o = ours->data;
    size_t n = golden->bytes / 4, m = ours->bytes / 4;
    double scale = 0, worst = 0;
    assert_int_equal((m + stride - 1) / stride, n);
    for (size_t i = 0; i < n; i++) {
        float x, y;
        memcpy(&x, g + i * 4, 4);
        memcpy(&y, o + i * stride * 4, 4);
        if (!isfinite(y)) return INFINITY;
        scale = fmax(scale, fabs(x));
        worst = fmax(worst, fabs((double)x - y));
    }
    return worst / fmax(scale, 1e-30);
}

double test_scalar(const gr_tensor_list *list, const char *name) {
    const gr_named_tensor *t = gr_tensor_list_find(list, name);
    float x;
    assert_non_null(t);
    memcpy(&x, t->view.data, 4);
    return x;
}

const char *test_write_inputs(const gr_tensor_list *golden) {
    static char path[1100];
    static const char *const inputs[] = {"input_ids", "attention_mask", "token_type_ids", "labels", "decoder_input_ids",
                                        "decoder_attention_mask", "task_ids"};
    gr_named_tensor t[GR_COUNT(inputs)];
    size_t n = 0;
    for (size_t i = 0; i < GR_COUNT(inputs); i++) {
        const gr_named_tensor *found = gr_tensor_list_find(golden, inputs[i]);
        if (found) t[n++] = *found;
    }
    snprintf(path, sizeof path, "%s/in.safetensors", test_temp_dir());
    assert_ok(gr_safetensors_save(NULL, path, t, n, NULL, &err));
    return path;
}

void test_fill_batch(test_batch *b, int64_t vocab, int n, const int *lengths, const int *seeds) {
    int32_t at = 0;
    memset(b, 0, sizeof *b);
    for (int s = 0; s < n; s++) {
        uint64_t stream = gr_rng_stream(GR_RNG_TEST, (uint64_t)seeds[s]);
        b->bounds[s] = at;
        for (int i = 0; i < lengths[s]; i++, at++) {
            assert_in_range(at, 0, 4095);
            b->ids[at] = (int32_t)gr_rng_below(11, stream, (uint64_t)i, (uint64_t)vocab);
            b->labels[at] = (int32_t)gr_rng_below(12, stream, (uint64_t)i, (uint64_t)vocab);
            if (i % 3 == 1 || i == lengths[s] - 1) b->labels[at] = -100;
            b->weight[at] = 0.125f;
            b->key[at] = (uint64_t)seeds[s] * 10000 + (uint64_t)i;
        }
    }
    b->bounds[n] = at;
    b->batch = (gr_batch){.n_tokens = at, .n_seqs = n, .bounds = b->bounds, .ids = b->ids, .labels = b->labels,
                          .weight = b->weight, .dropout_key = b->key, .one_adapter = -1};
}

float *test_logits(gr_model *m, const gr_hooks *hooks, const gr_batch *b) {
    gr_pool *pool;
    gr_tape *t;
    gr_pass *p;
    gr_var *logits;
    gr_pass_options o = {.hooks = hooks};
    assert_ok(gr_pool_new(NULL, 0, false, &pool, &err));
    assert_ok(gr_tape_new(gr_model_device(m), pool, &(gr_tape_options){0}, &t, &err));
    assert_ok(gr_pass_new(m, &p, &err));
    assert_ok(gr_pass_logits(p, t, b, &o, NULL, 0, &logits, &err));
    const gr_array *x = gr_var_array(logits);
    size_t n = (size_t)(x->shape.d[0] * x->shape.d[1]);
    float *out = malloc(n * sizeof *out);
    assert_non_null(out);
    if (x->dtype == GR_F32) memcpy(out, x->data, n * sizeof *out);
    for (size_t i = 0; x->dtype == GR_F64 && i < n; i++) out[i] = (float)((const double *)x->data)[i];
    gr_tape_free(t);
    gr_pass_free(p);
    gr_pool_free(pool);
    return out;
}

double test_loss(gr_model *m, const gr_hooks *hooks, const gr_batch *b, bool backward, bool recompute) {
    gr_pool *pool;
    gr_tape *t;
    gr_pass *p;
    gr_loss loss;
    gr_pass_options o = {.hooks = hooks, .recompute = recompute};
    assert_ok(gr_pool_new(NULL, 0, false, &pool, &err));
    assert_ok(gr_tape_new(gr_model_device(m), pool, &(gr_tape_options){.record = backward}, &t, &err));
    assert_ok(gr_pass_new(m, &p, &err));
    assert_ok(gr_pass_loss(p, t, b, &o, &loss, &err));
    if (backward) assert_ok(gr_tape_backward(t, loss.var, NULL, &err));
    gr_tape_free(t);
    gr_pass_free(p);
    gr_pool_free(pool);
    return loss.sum;
}

void test_assert_same_floats(const float *a, const float *b, size_t n, const char *what) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            fail_msg("%s: element %zu of %zu is %.9g and %.9g", what, i, n, (double)a[i], (double)b[i]);
}

graft_status test_open_fresh_adapter(const graft_allocator *a, void *arg) {
    const test_fresh_adapter *f = arg;
    graft_context_options o = {.n_threads = 1, .cpu = getenv("GRAFT_CPU"), .allocator = *a};
    graft_context *ctx = NULL;
    graft_model *m = NULL;
    graft_status st = graft_context_new(&o, &ctx, NULL);
    if (st == GRAFT_OK) st = graft_model_load(ctx, test_golden(f->model), &f->options, &m, NULL);
    if (st == GRAFT_OK) st = graft_adapter_new(m, "a", f->config, 1, NULL);
    graft_model_free(m);
    graft_context_free(ctx);
    return st;
}

void test_plan_is_exact(gr_model *m, const gr_pass_options *o, gr_batch *b, gr_batch *source) {
    const int32_t *ids = b->ids, *source_ids = source ? source->ids : NULL;
    const gr_tape_options to = {.record = true, .recompute_cheap = o->recompute_cheap};
    gr_pass *pass;
    gr_pool *pool;
    gr_tape *tape;
    gr_loss loss;
    size_t planned;
    assert_ok(gr_pass_new(m, &pass, &err));
    b->ids = NULL;
    if (source) source->ids = NULL;
    assert_ok(gr_pass_plan(pass, b, o, true, &planned, &err));
    b->ids = ids;
    if (source) source->ids = source_ids;
    assert_ok(gr_pool_new(NULL, planned, false, &pool, &err));
    const size_t given = gr_pool_bytes(pool);
    assert_ok(gr_tape_new(gr_model_device(m), pool, &to, &tape, &err));
    assert_ok(gr_pass_loss(pass, tape, b, o, &loss, &err));
    assert_ok(gr_tape_backward(tape, loss.var, NULL, &err));
    assert_int_equal(gr_pool_peak(pool), planned);
    assert_int_equal(gr_pool_bytes(pool), given);
    gr_tape_free(tape);
    gr_pass_free(pass);
    gr_pool_free(pool);
}

void test_copy_config(const char *from_dir, const char *dir) {
    char *from = gr_path_join(NULL, from_dir, "config.json"), *to = gr_path_join(NULL, dir, "config.json"), *text;
    size_t len;
    assert_ok(gr_make_dirs(dir, &err));
    assert_ok(gr_read_file(NULL, from, 1 << 20, &text, &len, &err));
    assert_ok(gr_write_file(NULL, to, text, len, &err));
    gr_free(NULL, text);
    gr_free(NULL, from);
    gr_free(NULL, to);
}

void test_lie_is_refused(graft_context *ctx, const char *dir, size_t i, const char *tensor, const char *expected) {
    graft_error failure = {0};
    graft_model *m;
    if (graft_model_load(ctx, dir, NULL, &m, &failure) == GRAFT_OK)
        fail_msg("lie %zu about %s was not noticed", i, tensor);
    if (!strstr(failure.text, expected) || !strstr(failure.text, "layers.0.self_attn.q_proj"))
        fail_msg("lie %zu about %s: \"%s\", expected it to hold \"%s\"", i, tensor, failure.text, expected);
}
