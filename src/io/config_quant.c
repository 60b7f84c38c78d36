/* quantization_config: what bitsandbytes and compressed-tensors say of a model's weights and activations. What would
 * change a result and is not known here is refused by name. */
#include <float.h>
#include <stdio.h>

#include "io/config_parts.h"

static void read_bitsandbytes(gr_fields *q, gr_model_config *c) {
    c->int8_threshold = gr_field_double(q, "llm_int8_threshold", GR_INT8_THRESHOLD, 0, FLT_MAX);
}

/* --- compressed-tensors 0.20 -------------------------------------------------------------------------------------- */

static void refuse_other_keys(gr_fields *f, const char *const *known) {
    for (const gr_json_value *v = f->object->child; v && f->st == GRAFT_OK; v = v->next) {
        const char *const *k = known;
        while (*k && strcmp(*k, v->key) != 0) k++;
        if (!*k && v->kind != GR_JSON_NULL)
            gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, v->key, "is not known: expected it absent or null");
    }
}

static void want_empty(gr_fields *f, const char *key) {
    const gr_json_value *v = gr_field(f, key);
    if (!v || (v->kind == GR_JSON_OBJECT && !v->child)) return;
    const gr_json_value *format = gr_json_get(v, "format");
    if (format && format->kind == GR_JSON_STRING && strcmp(format->text, "dense") == 0) return;
    gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, key, "is not supported: expected it absent or null");
}

/* NULL: it is none of the names, which has failed then. */
static const char *want_text(gr_fields *f, const char *key, const char *first, const char *second) {
    const char *text = gr_field_text(f, key);
    if (f->st != GRAFT_OK) return NULL;
    if (text && (strcmp(text, first) == 0 || (second && strcmp(text, second) == 0))) return text;
    gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, key, "expected \"%s\"%s%s%s, found %.60s", first, second ? " or \"" : "",
                  second ? second : "", second ? "\"" : "", text ? text : "none");
    return NULL;
}

/* What weights and activations have in common: symmetric integers of 8 bits, without groups. */
static void read_numbers(gr_fields *f) {
    static const char *const known[] = {"num_bits",        "type",     "symmetric", "strategy", "group_size",
                                        "block_structure", "dynamic",  "actorder",  "observer", "observer_kwargs",
                                        "scale_dtype",     "zp_dtype", NULL};
    refuse_other_keys(f, known);
    const int64_t bits = gr_field_int(f, "num_bits", 8, 1, 64);
    if (bits != 8) gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "num_bits", "expected 8, found %lld", (long long)bits);
    if (gr_field(f, "type")) want_text(f, "type", "int", NULL);
    if (!gr_field_bool(f, "symmetric", true))
        gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "symmetric", "expected true, found false");
    /* -1 is a row. */
    if (gr_field(f, "group_size") && gr_field_int(f, "group_size", -1, INT32_MIN, INT32_MAX) != -1)
        gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "group_size", "groups are not supported: expected null");
    if (gr_field(f, "block_structure"))
        gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "block_structure", "blocks are not supported: expected null");
    /* The order in which columns were rounded is nothing that a file of whole rows keeps. */
    const gr_json_value *order = gr_field(f, "actorder");
    if (order && order->kind != GR_JSON_FALSE) want_text(f, "actorder", "weight", "static");
}

static gr_compressed read_activations(gr_fields *f) {
    read_numbers(f);
    const gr_json_value *v = gr_field(f, "dynamic");
    if (v && v->kind == GR_JSON_STRING)
        gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "dynamic", "expected true or false, found \"%.60s\"", v->text);
    const bool dynamic = gr_field_bool(f, "dynamic", false);
    want_text(f, "strategy", dynamic ? "token" : "tensor", NULL);
    return dynamic ? GR_COMPRESSED_DYNAMIC : GR_COMPRESSED_STATIC;
}

/* A member that is an object, as fields of its own; false: it is absent, or has failed. */
static bool open_fields(gr_fields *f, const char *key, char *where, size_t size, gr_fields *out) {
    const gr_json_value *v = gr_field(f, key);
    if (!v || f->st != GRAFT_OK) return false;
    if (v->kind != GR_JSON_OBJECT) {
        gr_field_fail(f, GRAFT_ERR_FORMAT, key, "expected an object, found %s", gr_json_kind_name(v->kind));
        return false;
    }
    snprintf(where, size, "%s%.60s.", f->where, key);
    *out = (gr_fields){.file = f->file, .where = where, .object = v, .err = f->err};
    return true;
}

static gr_compressed read_group(gr_fields *f) {
    static const char *const known[] = {"targets", "weights", "input_activations", "output_activations",
                                        "format",  NULL};
    gr_compressed found = GR_COMPRESSED_FLOAT;
    char where[256];
    gr_fields part;
    refuse_other_keys(f, known);
    if (gr_field(f, "output_activations"))
        gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "output_activations", "is not supported: expected null");
    if (gr_field(f, "format")) want_text(f, "format", "int-quantized", "naive-quantized");
    if (open_fields(f, "weights", where, sizeof where, &part)) {
        read_numbers(&part);
        want_text(&part, "strategy", "channel", "tensor");
        if (gr_field_bool(&part, "dynamic", false))
            gr_field_fail(&part, GRAFT_ERR_UNSUPPORTED, "dynamic", "expected false, found true");
        f->st = part.st;
    } else if (f->st == GRAFT_OK) {
        gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "weights", "expected weights in 8 bits, found none");
    }
    if (open_fields(f, "input_activations", where, sizeof where, &part)) {
        found = read_activations(&part);
        f->st = part.st;
    }
    return found;
}

static void read_compressed(gr_fields *q, gr_model_config *c) {
    static const char *const known[] = {"quant_method",
                                        "format",
                                        "quantization_status",
                                        "config_groups",
                                        "ignore",
                                        "kv_cache_scheme",
                                        "sparsity_config",
                                        "transform_config",
                                        "version",
                                        "run_compressed",
                                        "dequantize",
                                        "moe_sparsity_config",
                                        "use_optimized_inference",
                                        "global_compression_ratio",
                                        NULL};
    char where[200], inner[200];
    gr_fields groups, group;
    refuse_other_keys(q, known);
    want_text(q, "format", "int-quantized", "naive-quantized");
    /* Older files say "frozen" of weights that are compressed; the tensors tell. */
    want_text(q, "quantization_status", "compressed", "frozen");
    want_empty(q, "kv_cache_scheme");
    want_empty(q, "sparsity_config");
    want_empty(q, "moe_sparsity_config");
    want_empty(q, "transform_config");
    if (!open_fields(q, "config_groups", where, sizeof where, &groups)) {
        if (q->st == GRAFT_OK) gr_field_fail(q, GRAFT_ERR_FORMAT, "config_groups", "is missing");
        return;
    }
    for (const gr_json_value *v = groups.object->child; v && groups.st == GRAFT_OK; v = v->next) {
        if (!open_fields(&groups, v->key, inner, sizeof inner, &group)) continue;
        const gr_compressed found = read_group(&group);
        groups.st = group.st;
        if (groups.st == GRAFT_OK && c->compressed && c->compressed != found)
            gr_field_fail(&groups, GRAFT_ERR_UNSUPPORTED, v->key,
                          "expected the activations of the groups before it, found others");
        c->compressed = found;
    }
    if (groups.st == GRAFT_OK && !c->compressed)
        gr_field_fail(q, GRAFT_ERR_FORMAT, "config_groups", "expected a group, found none");
    if (groups.st != GRAFT_OK) q->st = groups.st;
}

void gr_config_read_quantization(gr_fields *f, gr_model_config *c) {
    const gr_json_value *quant = gr_field(f, "quantization_config"), *method = gr_json_get(quant, "quant_method");
    const char *name = method && method->kind == GR_JSON_STRING ? method->text : "an unnamed method";
    const bool bnb = strcmp(name, "bitsandbytes") == 0, compressed = strcmp(name, "compressed-tensors") == 0;
    if (!quant || f->st != GRAFT_OK) return;
    if (!bnb && !compressed) {
        gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "quantization_config", "weights quantised by %.60s are not supported",
                      name);
        return;
    }
    gr_fields q = {.file = f->file, .where = "quantization_config.", .object = quant, .err = f->err};
    if (bnb)
        read_bitsandbytes(&q, c);
    else
        read_compressed(&q, c);
    f->st = q.st;
}
