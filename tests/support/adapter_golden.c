/* Adapters that peft wrote, with what it computes, against ours. See adapter_golden.h. */
#include "support/adapter_golden.h"
#include "support/sft_run.h"

#include <math.h>

#include "graft/generate.h"

/* Small tensors are whole, others every stride-th element. */
static double error_of(const gr_tensor_view *golden, const gr_tensor_view *ours, size_t stride) {
    return test_worst_error(golden, ours, golden->bytes == ours->bytes ? 1 : stride);
}

static void compare_gradients(const char *name, const gr_tensor_list *want, const gr_tensor_list *got, size_t stride) {
    size_t grads = 0;
    for (size_t i = 0; i < want->n; i++) {
        if (strncmp(want->items[i].name, "grad.", 5) != 0) continue;
        const gr_named_tensor *g = gr_tensor_list_find(got, want->items[i].name);
        if (!g) fail_msg("%s: no %s", name, want->items[i].name);
        bool whole = want->items[i].view.bytes == g->view.bytes;
        double e = test_gradient_error(&want->items[i].view, &g->view, whole ? 1 : stride, test_largest_gradient(want));
        if (!(e < 1e-4)) fail_msg("%s: %s is off by %g", name, want->items[i].name, e);
        grads++;
    }
    for (size_t i = 0; i < got->n; i++) grads -= strncmp(got->items[i].name, "grad.", 5) == 0;
    if (grads) fail_msg("%s: %td gradients more than expected", name, -(ptrdiff_t)grads);
}

double test_logits_within = 1e-5; /* of the largest */
static double penalty;            /* that the golden's loss has beside that of the logits */

void test_compare(const char *name, graft_model *m, const gr_tensor_list *want, int stride, const char *logits,
                    bool backward) {
    char out[1200];
    gr_safetensors *ours;
    snprintf(out, sizeof out, "%s/out.safetensors", test_temp_dir());
    graft_forward_options o = {.input = test_write_inputs(want), .output = out, .backward = backward};
    assert_ok(graft_forward(m, &o, &err));
    assert_ok(gr_safetensors_open(NULL, out, &ours, &err));
    const gr_tensor_list *got = gr_safetensors_tensors(ours);
    const gr_named_tensor *exact = gr_tensor_list_find(want, "exact"); /* to which ours must be nearer than the reference's */
    const gr_named_tensor *golden = exact ? exact : gr_tensor_list_find(want, logits);
    double e = error_of(&golden->view, &gr_tensor_list_find(got, "logits")->view, (size_t)stride);
    if (!(e < test_logits_within)) fail_msg("%s: %s are off by %g", name, logits, e);
    double theirs = exact ? test_worst_error(&exact->view, &gr_tensor_list_find(want, logits)->view, 1) : 1;
    if (!(e < theirs)) fail_msg("%s: %s are off by %g, the reference's by %g", name, logits, e, theirs);
    double loss = test_scalar(got, "loss") + penalty, expected = test_scalar(want, "loss");
    bool same = strcmp(logits, "merged") == 0; /* rounded apart */
    if (!(fabs(loss - expected) < (same ? 2e-5 : 2e-6) * expected))
        fail_msg("%s: loss %.8g, expected %.8g", name, loss, expected);
    if (backward) compare_gradients(name, want, got, (size_t)stride);
    gr_safetensors_close(ours);
}

float **test_new_moments(const graft_model *m) {
    const size_t n = gr_adapter_n_params(m->adapters, 0);
    float **moments = calloc(2 * n, sizeof *moments);
    for (size_t i = 0; i < 2 * n; i++) moments[i] = calloc((size_t)gr_adapter_param(m->adapters, 0, i / 2)->n, sizeof(float));
    return moments;
}

void test_update(graft_model *m, float **moments, int step) {
    gr_device *d = gr_model_device(m->model);
    for (size_t i = 0; i < gr_adapter_n_params(m->adapters, 0); i++) {
        gr_param *p = gr_adapter_param(m->adapters, 0, i);
        d->k->adamw(d, p->n, p->value, p->grad, moments[2 * i], moments[2 * i + 1], 1, 1e-2, 0.9, 0.999, 1e-8, 0.01,
                    1 - pow(0.9, step), 1 - pow(0.999, step));
        gr_param_changed(p);
    }
}

void test_free_moments(const graft_model *m, float **moments) {
    for (size_t i = 0; i < 2 * gr_adapter_n_params(m->adapters, 0); i++) free(moments[i]);
    free(moments);
}

size_t test_each_case(const char *folder, test_load_base load, test_case_check check) {
    char name[64], base[64], format[16], *text, *rest = NULL;
    size_t len, n = 0;
    graft_context *ctx = test_context(NULL, 2, NULL);
    assert_ok(gr_read_file(NULL, test_golden(test_path("%s/cases.txt", folder)), 1 << 20, &text, &len, &err));
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest), n++) {
        gr_safetensors *golden;
        assert_int_equal(sscanf(line, "%63s %63s %15s", name, base, format), 3);
        const char *dir = test_path("%s", test_golden(test_path("%s/%s", folder, name)));
        graft_model *m = load(ctx, test_golden(base), format);
        assert_ok(graft_adapter_load_trainable(m, "a", dir, &err));
        assert_ok(gr_safetensors_open(NULL, test_path("%s/golden.safetensors", dir), &golden, &err));
        check(name, m, gr_safetensors_tensors(golden));
        gr_safetensors_close(golden);
        graft_model_free(m);
    }
    gr_free(NULL, text);
    graft_context_free(ctx);
    return n;
}

/* AdamW as the golden's: same batch every step. */
void test_compare_steps(const char *name, graft_model *m, const gr_tensor_list *want) {
    const gr_named_tensor *steps = gr_tensor_list_find(want, "steps");
    gr_adapter_set *set = m->adapters;
    size_t n = gr_adapter_n_params(set, 0);
    if (!steps) return;
    float **moments = test_new_moments(m);
    char out[1200];
    snprintf(out, sizeof out, "%s/step.safetensors", test_temp_dir());
    graft_forward_options o = {.input = test_write_inputs(want), .output = out, .backward = 1};
    for (int step = 1; step <= (int)steps->view.shape.d[0]; step++) {
        gr_safetensors *ours;
        float expected;
        assert_ok(graft_forward(m, &o, &err)); /* leaves the gradients in the parameters */
        assert_ok(gr_safetensors_open(NULL, out, &ours, &err));
        double loss = test_scalar(gr_safetensors_tensors(ours), "loss");
        gr_safetensors_close(ours);
        memcpy(&expected, (const char *)steps->view.data + 4 * (step - 1), 4);
        if (!(fabs(loss - expected) < 2e-4 * expected))
            fail_msg("%s: step %d: loss %.8g, expected %.8g", name, step, loss, expected);
        test_update(m, moments, step);
        assert_ok(gr_adapter_stepped(set, 0, step - 1, 1, &err));
        assert_ok(gr_adapter_refresh(set, 0, 0, false, &err));
    }
    for (size_t i = 0; i < n; i++) {
        char final[400];
        const gr_param *p = gr_adapter_param(set, 0, i);
        snprintf(final, sizeof final, "final.%s", p->name);
        const gr_named_tensor *golden = gr_tensor_list_find(want, final);
        for (int64_t k = 0; golden && k < p->n; k++) {
            float x = ((const float *)p->value)[k], expected;
            memcpy(&expected, (const char *)golden->view.data + 4 * k, 4);
            if ((x == 0) != (expected == 0) || fabsf(x - expected) > 1e-4f)
                fail_msg("%s: %s: element %d is %.8g, expected %.8g", name, p->name, (int)k, (double)x, (double)expected);
        }
    }
    test_free_moments(m, moments);
}

/* Equal tensors bit for bit; `within`: rounded otherwise. */
static void compare_tensors(const char *ours_path, const char *theirs_path, double within) {
    gr_safetensors *ours, *theirs;
    assert_ok(gr_safetensors_open(NULL, ours_path, &ours, &err));
    assert_ok(gr_safetensors_open(NULL, theirs_path, &theirs, &err));
    const gr_tensor_list *a = gr_safetensors_tensors(ours), *b = gr_safetensors_tensors(theirs);
    size_t k = 0;
    for (size_t i = 0; i < b->n; i++) {
        /* Copies of the base, and of what stands there under another name. */
        if (strstr(b->items[i].name, ".base_layer.weight") || strstr(b->items[i].name, ".modules_to_save.") ||
            strstr(b->items[i].name, ".original_module."))
            continue;
        assert_true(k < a->n);
        assert_string_equal(a->items[k].name, b->items[i].name);
        assert_true(gr_shape_equal(&a->items[k].view.shape, &b->items[i].view.shape));
        if (within > 0)
            assert_true(b->items[i].view.bytes == 0 || test_worst_error(&b->items[i].view, &a->items[k].view, 1) < within);
        else
            assert_memory_equal(a->items[k].view.data, b->items[i].view.data, a->items[k].view.bytes);
        k++;
    }
    assert_int_equal(k, a->n);
    gr_safetensors_close(ours);
    gr_safetensors_close(theirs);
}

/* Same files: equal tensors (those of steps within `within`), equal settings. */
static void compare_saved(const char *name, graft_model *m, const char *golden_dir, double within) {
    char dir[1100], ours_path[1300], theirs_path[1300], *ours_text, *theirs_text;
    size_t n;
    snprintf(dir, sizeof dir, "%s/saved", test_temp_dir());
    assert_ok(gr_remove_tree(dir, &err));
    assert_ok(graft_adapter_save(m, "a", dir, &err));
    snprintf(ours_path, sizeof ours_path, "%s/adapter_config.json", dir);
    snprintf(theirs_path, sizeof theirs_path, "%s/adapter_config.json", golden_dir);
    assert_ok(gr_read_file(NULL, ours_path, 1 << 20, &ours_text, &n, &err));
    assert_ok(gr_read_file(NULL, theirs_path, 1 << 20, &theirs_text, &n, &err));
    size_t same = 0;
    while (ours_text[same] && ours_text[same] == theirs_text[same]) same++;
    if (ours_text[same] || (theirs_text[same] && strcmp(theirs_text + same, "\n") != 0)) /* scripts may end the last line */
        fail_msg("%s: adapter_config.json differs at byte %zu:\n%.200s\nexpected\n%.200s", name, same,
                 ours_text + same - GR_MIN(same, (size_t)40), theirs_text + same - GR_MIN(same, (size_t)40));
    gr_free(NULL, ours_text);
    gr_free(NULL, theirs_text);
    snprintf(ours_path, sizeof ours_path, "%s/prompt_encoder.safetensors", dir);
    snprintf(theirs_path, sizeof theirs_path, "%s/prompt_encoder.safetensors", golden_dir);
    bool encoder = gr_path_exists(theirs_path);
    assert_int_equal(encoder, gr_path_exists(ours_path));
    if (encoder) compare_tensors(ours_path, theirs_path, 0);
    snprintf(ours_path, sizeof ours_path, "%s/adapter_model.safetensors", dir);
    snprintf(theirs_path, sizeof theirs_path, "%s/adapter_model.safetensors", golden_dir);
    compare_tensors(ours_path, theirs_path, encoder ? 2e-6 : within); /* an encoder's output is rounded otherwise */
}

void test_compare_merged(const char *name, graft_context *ctx, graft_model *m, const gr_tensor_list *want, int stride) {
    char dir[1100];
    snprintf(dir, sizeof dir, "%s/merged", test_temp_dir());
    assert_ok(gr_remove_tree(dir, &err));
    assert_ok(graft_model_merge(m, "a", dir, GRAFT_DTYPE_F32, &err));
    graft_model *merged = test_load(ctx, dir, GRAFT_DTYPE_F32);
    penalty = gr_adapter_penalty(m->adapters, 0);
    test_compare(name, merged, want, stride, gr_tensor_list_find(want, "merged") ? "merged" : "logits", false);
    penalty = 0;
    graft_model_free(merged);
}

/* What is generated for row `row`: of decoders tokens 3 to 11 are continued, of encoder-decoders the visible ones
 * answered. */
static size_t prompt_of(graft_model *m, const gr_tensor_list *want, int64_t row, int32_t *out, size_t most) {
    const gr_tensor_view *ids = &gr_tensor_list_find(want, "input_ids")->view;
    const gr_named_tensor *mask = gr_tensor_list_find(want, "attention_mask");
    bool encoder = gr_model_get_config(m->model)->n_encoder_layers > 0;
    int64_t columns = ids->shape.d[1], id, visible = 1;
    size_t n = 0;
    for (int64_t i = encoder ? 0 : 3; i < (encoder ? columns : 12); i++) {
        memcpy(&id, (const char *)ids->data + 8 * (row * columns + i), 8);
        if (encoder && mask) memcpy(&visible, (const char *)mask->view.data + 8 * (row * columns + i), 8);
        assert_true(n < most);
        if (visible) out[n++] = (int32_t)id;
    }
    return n;
}

/* Greedy tokens for rows 0 and 2. Between virtual tokens and those of row 2 an encoder's golden has pads, which count
 * as distance. */
static void compare_generated(const char *name, graft_context *ctx, graft_model *m, const gr_tensor_list *want) {
    const gr_named_tensor *golden = gr_tensor_list_find(want, "generated"), *tasks = gr_tensor_list_find(want, "task_ids");
    graft_tokenizer *tok;
    graft_session *session;
    if (!golden) return;
    int64_t n_new = golden->view.shape.d[1];
    assert_ok(graft_tokenizer_load(ctx, test_golden("train/model"), &tok, &err));
    assert_ok(graft_session_new(m, tok, &session, &err));
    bool encoder = gr_model_get_config(m->model)->n_encoder_layers > 0;
    for (int64_t r = 0; r < (encoder && gr_adapter_n_virtual(m->adapters, 0) ? 1 : 2); r++) {
        int32_t prompt[64];
        graft_generation g;
        graft_generate_options o = graft_generate_options_default();
        graft_input_ids in = {prompt, prompt_of(m, want, 2 * r, prompt, GR_COUNT(prompt))};
        int64_t task = -1;
        if (tasks) memcpy(&task, (const char *)tasks->view.data + 8 * 2 * r, 8);
        int32_t task_id = (int32_t)task;
        o.adapter = "a";
        o.task_ids = tasks ? &task_id : NULL;
        o.max_new_tokens = n_new;
        o.ignore_eos = 1;
        assert_ok(graft_generate(session, &in, 1, 1, &o, NULL, NULL, &g, &err));
        assert_int_equal(g.n_ids, n_new);
        for (int64_t i = 0; i < n_new; i++) {
            int64_t id;
            memcpy(&id, (const char *)golden->view.data + 8 * (r * n_new + i), 8);
            if (g.ids[i] != id) fail_msg("%s: row %d, token %d is %d, expected %d", name, (int)(2 * r), (int)i, g.ids[i], (int)id);
        }
        graft_generation_free(ctx, &g);
    }
    graft_session_free(session);
    graft_tokenizer_free(tok);
}

static void agree(graft_context *ctx, const char *name, const char *base, const char *dir, bool merges, bool saved) {
    char golden_path[1200];
    gr_safetensors *golden;
    snprintf(golden_path, sizeof golden_path, "%s/golden.safetensors", dir);
    assert_ok(gr_safetensors_open(NULL, golden_path, &golden, &err));
    const gr_tensor_list *want = gr_safetensors_tensors(golden);
    int stride = atoi(gr_safetensors_metadata(golden, "stride"));
    graft_model *m = test_load(ctx, base, GRAFT_DTYPE_F32);
    graft_error refused = {0};
    if (graft_adapter_load(m, "a", dir, 1, &refused) != GRAFT_OK) fail_msg("%s: %s", name, refused.text);
    test_compare(name, m, want, stride, "logits", false);
    compare_generated(name, ctx, m, want);
    if (merges || gr_tensor_list_find(want, "merged")) test_compare_merged(name, ctx, m, want, stride);
    assert_ok(graft_adapter_remove(m, "a", &err));
    assert_ok(graft_adapter_load_trainable(m, "a", dir, &err));
    if (saved) compare_saved(name, m, dir, 0);
    bool gradients = false; /* some goldens are of logits only */
    for (size_t i = 0; i < want->n; i++) gradients |= strncmp(want->items[i].name, "grad.", 5) == 0;
    if (gradients) test_compare(name, m, want, stride, "logits", true);
    test_compare_steps(name, m, want);
    char trained[1200];
    snprintf(trained, sizeof trained, "%s_trained", dir);
    if (gr_path_exists(trained)) compare_saved(name, m, trained, 5e-4);
    graft_model_free(m);
    gr_safetensors_close(golden);
}

void test_adapter_agrees(graft_context *ctx, const char *name, const char *base, const char *dir, bool merges) {
    agree(ctx, name, base, dir, merges, true);
}

void test_adapter_computes(graft_context *ctx, const char *name, const char *base, const char *dir) {
    agree(ctx, name, base, dir, false, false);
}
