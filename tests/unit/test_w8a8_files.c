/* Files and configurations of compressed-tensors' 8 bits that lie, or say what is not supported. */
#include <math.h>

#include "io/hf_config.h"
#include "support/model_support.h"
#include "support/sft_run.h"

enum { STATIC, DYNAMIC };

static const char *folder(size_t kind) {
    return test_golden(kind == STATIC ? "quant/w8a8_static" : "quant/w8a8_dynamic");
}

/* --- Tensors ------------------------------------------------------------------------------------------------------ */

typedef struct lie {
    size_t kind;
    const char *tensor; /* of layer 0's q_proj; one that is not there is added */
    gr_dtype dtype;     /* GR_DTYPE_COUNT: it is left out */
    int64_t rows, columns;
    double value; /* of its elements */
    const char *error;
} lie;

static const lie lies[] = {
    {STATIC, "weight", GR_U8, 32, 32, 0, "expected a matrix of I8"},
    {STATIC, "weight", GR_I8, 32, 31, 0, "expected shape"},
    {STATIC, "weight", GR_I8, 1024, 0, 0, "expected a matrix of I8"},
    {STATIC, "weight", GR_DTYPE_COUNT, 0, 0, 0, "is missing"},
    {STATIC, "weight_scale", GR_DTYPE_COUNT, 0, 0, 0, "q_proj.weight"},
    {STATIC, "weight_scale", GR_F32, 31, 1, 1, "expected 32 scales, or one,"},
    {STATIC, "weight_scale", GR_F32, 16, 2, 1, "expected 32 scales, or one,"},
    {STATIC, "weight_scale", GR_F64, 32, 1, 1, "expected 32 scales, or one,"},
    {STATIC, "weight_scale", GR_F32, 32, 1, 0, "expected a positive number, found 0"},
    {STATIC, "weight_scale", GR_F32, 32, 1, -1, "expected a positive number, found -1"},
    {STATIC, "weight_scale", GR_F32, 32, 1, NAN, "expected a positive number, found"},
    {STATIC, "weight_scale", GR_F32, 32, 1, INFINITY, "expected a positive number, found inf"},
    {STATIC, "weight_scale", GR_F32, 32, 1, 1e-39, "expected a positive number, found 1e-39"},
    {STATIC, "input_scale", GR_DTYPE_COUNT, 0, 0, 0, "input_scale is missing"},
    {STATIC, "input_scale", GR_F32, 1, 0, 0, "expected a positive number"},
    {STATIC, "input_scale", GR_F32, 1, 0, NAN, "expected a positive number"},
    {STATIC, "input_scale", GR_F32, 1, 0, -0.5, "expected a positive number"},
    {STATIC, "input_scale", GR_F32, 32, 0, 1, "expected 1 scale in F32, BF16 or F16, found F32 of shape [32]"},
    {STATIC, "weight_zero_point", GR_I8, 32, 1, 1, "zero point"},
    {STATIC, "input_zero_point", GR_I8, 1, 0, 1, "zero point"},
    {STATIC, "weight_g_idx", GR_I32, 32, 0, 0, "q_proj.weight_g_idx"},
    {STATIC, "weight_packed", GR_I32, 32, 8, 0, "q_proj.weight_packed"},
    {STATIC, "output_scale", GR_F32, 1, 0, 1, "q_proj.output_scale"},
    {DYNAMIC, "input_scale", GR_F32, 1, 0, 1, "expected no input_scale"},
};

/* The saved model with one tensor changed, in a folder of its own. */
static const char *write_lie(const lie *l) {
    static const char module[] = "model.layers.0.self_attn.q_proj.";
    static double filler[1024];
    gr_named_tensor items[256];
    gr_safetensors *f;
    char name[100];
    const char *dir = test_path("%s/lie", test_temp_dir());
    size_t n = 0;
    for (size_t i = 0; i < GR_COUNT(filler); i++) {
        if (l->dtype == GR_F32)
            ((float *)(void *)filler)[i] = (float)l->value;
        else if (l->dtype == GR_F64)
            filler[i] = l->value;
        else
            ((int8_t *)(void *)filler)[i] = (int8_t)l->value;
    }
    gr_tensor_view view = {.dtype = l->dtype,
                           .shape =
                               l->columns || l->rows == 1024 ? gr_shape2(l->rows, l->columns) : gr_shape1(l->rows),
                           .data = filler};
    if (l->dtype != GR_DTYPE_COUNT) assert_ok(gr_tensor_bytes(l->dtype, &view.shape, &view.bytes, &err));
    snprintf(name, sizeof name, "%s%s", module, l->tensor);
    assert_ok(gr_safetensors_open(NULL, folder(l->kind), &f, &err));
    const gr_tensor_list *list = gr_safetensors_tensors(f);
    for (size_t i = 0; i < list->n; i++)
        if (strcmp(list->items[i].name, name) != 0) items[n++] = list->items[i];
    if (l->dtype != GR_DTYPE_COUNT) items[n++] = (gr_named_tensor){.name = name, .file = "lie", .view = view};
    test_copy_config(folder(l->kind), dir);
    char *weights = gr_path_join(NULL, dir, "model.safetensors");
    assert_ok(gr_safetensors_save(NULL, weights, items, n, NULL, &err));
    gr_free(NULL, weights);
    gr_safetensors_close(f);
    return dir;
}

static void lies_are_refused_by_name(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    for (size_t i = 0; i < GR_COUNT(lies); i++)
        test_lie_is_refused(ctx, write_lie(&lies[i]), i, lies[i].tensor, lies[i].error);
    /* Zero points that are zero say nothing. */
    const lie harmless[] = {{STATIC, "weight_zero_point", GR_I8, 32, 1, 0, NULL},
                            {STATIC, "weight_scale", GR_F32, 1, 0, 0.25, NULL}};
    for (size_t i = 0; i < GR_COUNT(harmless); i++) {
        graft_model *m;
        assert_ok(graft_model_load(ctx, write_lie(&harmless[i]), NULL, &m, &err));
        graft_model_free(m);
    }
    graft_context_free(ctx);
}

/* --- Configurations ----------------------------------------------------------------------------------------------- */

/* One value in another's place. */
static const struct {
    size_t kind;
    const char *from, *to, *error; /* NULL: it is read */
} configurations[] = {
    {STATIC, "\"num_bits\": 8", "\"num_bits\": 4", "weights.num_bits: expected 8, found 4"},
    {STATIC, "\"type\": \"int\"", "\"type\": \"float\"", "weights.type"},
    {STATIC, "\"symmetric\": true", "\"symmetric\": false", "weights.symmetric"},
    {STATIC, "\"group_size\": null", "\"group_size\": 128", "weights.group_size"},
    {STATIC, "\"strategy\": \"channel\"", "\"strategy\": \"group\"", "weights.strategy"},
    {STATIC, "\"strategy\": \"channel\"", "\"strategy\": \"tensor\"", NULL},
    {STATIC, "\"strategy\": \"channel\"", "\"strategy\": \"channel\", \"actorder\": \"group\"",
     "weights.actorder"},
    {STATIC, "\"strategy\": \"channel\"", "\"strategy\": \"channel\", \"actorder\": \"static\"", NULL},
    {STATIC, "\"strategy\": \"channel\"", "\"strategy\": \"channel\", \"actorder\": false, \"observer\": \"mse\"",
     NULL},
    {STATIC, "\"strategy\": \"channel\"", "\"strategy\": \"channel\", \"block_structure\": [8, 8]",
     "weights.block_structure"},
    {STATIC, "\"strategy\": \"channel\"", "\"strategy\": \"channel\", \"novelty\": 1", "weights.novelty"},
    {STATIC, "\"strategy\": \"tensor\"", "\"strategy\": \"token\"", "input_activations.strategy"},
    {DYNAMIC, "\"strategy\": \"token\"", "\"strategy\": \"tensor\"", "input_activations.strategy"},
    {DYNAMIC, "\"dynamic\": true", "\"dynamic\": \"local\"", "input_activations.dynamic"},
    {STATIC, "\"output_activations\": null", "\"output_activations\": {\"num_bits\": 8}", "output_activations"},
    {STATIC, "\"format\": \"int-quantized\"", "\"format\": \"pack-quantized\"", "found pack-quantized"},
    {STATIC, "\"format\": \"int-quantized\"", "\"format\": \"naive-quantized\"", NULL},
    {STATIC, "\"quantization_status\": \"compressed\"", "\"quantization_status\": \"frozen\"", NULL},
    {STATIC, "\"group_size\": null", "\"group_size\": -1", NULL},
    {STATIC, "\"quantization_status\": \"compressed\"", "\"quantization_status\": \"initialized\"",
     "found initialized"},
    {STATIC, "\"kv_cache_scheme\": null", "\"kv_cache_scheme\": {\"num_bits\": 8}", "kv_cache_scheme"},
    {STATIC, "\"kv_cache_scheme\": null", "\"sparsity_config\": {\"format\": \"sparse-24-bitmask\"}",
     "sparsity_config"},
    {STATIC, "\"kv_cache_scheme\": null",
     "\"sparsity_config\": {\"format\": \"dense\"}, \"transform_config\": {}", NULL},
    {STATIC, "\"kv_cache_scheme\": null", "\"transform_config\": {\"config_groups\": {\"a\": 1}}",
     "transform_config"},
    {STATIC, "\"kv_cache_scheme\": null", "\"surprise\": {}", "quantization_config.surprise"},
    {STATIC, "\"config_groups\": {",
     "\"config_groups\": {\"other\": {\"weights\": {\"strategy\": \"channel\"}}, ", "config_groups.group_0"},
    {STATIC, "\"config_groups\": {", "\"config_groups\": {\"W8A8\": [\"Linear\"], ", "config_groups.W8A8"},
    {STATIC, "\"config_groups\": {", "\"config_grups\": {", "config_grups"},
    {STATIC, "\"compressed-tensors\"", "\"gptq\"", "quantised by gptq"},
};

static void configurations_are_refused_by_name(void **state) {
    (void)state;
    char path[600];
    for (size_t i = 0; i < GR_COUNT(configurations); i++) {
        char *text;
        size_t len;
        gr_model_config c;
        gr_buf b;
        graft_error failure = {0};
        snprintf(path, sizeof path, "%s/config.json", folder(configurations[i].kind));
        assert_ok(gr_read_file(NULL, path, 1 << 20, &text, &len, &err));
        const char *at = strstr(text, configurations[i].from);
        assert_non_null(at);
        gr_buf_init(&b, NULL);
        gr_buf_add(&b, text, (size_t)(at - text));
        gr_buf_add_text(&b, configurations[i].to);
        gr_buf_add_text(&b, at + strlen(configurations[i].from));
        const graft_status st = gr_model_config_from_json(NULL, "config.json", gr_buf_text(&b), b.len, &c, &failure);
        if (configurations[i].error ? st == GRAFT_OK || !strstr(failure.text, configurations[i].error)
                           : st != GRAFT_OK || c.compressed != GR_COMPRESSED_STATIC)
            fail_msg("case %zu: \"%s\", expected it to hold \"%s\"", i, failure.text,
                     configurations[i].error ? configurations[i].error : "nothing");
        gr_buf_free(&b);
        gr_free(NULL, text);
    }
}

/* A configuration without such weights, and such weights without a configuration. */
static void both_sides_must_say_the_same(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    const char *dir = test_path("%s/halves", test_temp_dir());
    static const struct {
        const char *weights, *config, *error;
    } cases[] = {{"train/model", "quant/w8a8_static", "found none"},
                 {"quant/w8a8_dynamic", "train/model", "expected a quantization_config"}};
    for (size_t i = 0; i < 2; i++) {
        graft_error failure = {0};
        graft_model *m;
        char *text, *from = gr_path_join(NULL, test_golden(cases[i].weights), "model.safetensors"),
                    *to = gr_path_join(NULL, dir, "model.safetensors");
        size_t len;
        test_copy_config(test_golden(cases[i].config), dir);
        assert_ok(gr_read_file(NULL, from, 1 << 20, &text, &len, &err));
        assert_ok(gr_write_file(NULL, to, text, len, &err));
        assert_int_equal(graft_model_load(ctx, dir, NULL, &m, &failure), GRAFT_ERR_MISMATCH);
        if (!strstr(failure.text, cases[i].error)) fail_msg("%s", failure.text);
        gr_free(NULL, text);
        gr_free(NULL, from);
        gr_free(NULL, to);
    }
    graft_context_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lies_are_refused_by_name),
        cmocka_unit_test(configurations_are_refused_by_name),
        cmocka_unit_test(both_sides_must_say_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
