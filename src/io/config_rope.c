/* Rotary embedding parameters from config.json.
 *
 * transformers 5 writes one object rope_parameters with rope_theta inside; older versions write rope_theta beside an
 * object rope_scaling (null: none), whose kind is called "type" or "rope_type". rope_scaling wins where both stand. */
#include <math.h>
#include <stdio.h>

#include "io/config_parts.h"

static const char *const names[] = {"default", "linear", "dynamic", "llama3", "yarn"};

const char *gr_rope_type_name(gr_rope_type type) { return type == GR_ROPE_NONE ? "none" : names[type]; }

static bool read_type(gr_fields *r, gr_rope_type *out) {
    const char *key = gr_field(r, "rope_type") ? "rope_type" : "type", *text = gr_field_text(r, key);
    *out = GR_ROPE_DEFAULT;
    if (!text) return r->st == GRAFT_OK;
    for (size_t i = 0; i < GR_COUNT(names); i++)
        if (strcmp(text, names[i]) == 0) return *out = (gr_rope_type)i, true;
    gr_field_fail(r, GRAFT_ERR_UNSUPPORTED, key, "expected default, linear, dynamic, llama3 or yarn, found \"%.60s\"",
                  text);
    return false;
}

static double required(gr_fields *r, const char *key, double min) {
    if (!gr_field(r, key)) gr_field_fail(r, GRAFT_ERR_FORMAT, key, "is missing");
    return gr_field_double(r, key, 1, min, 1e9);
}

static void read_llama3(gr_fields *r, gr_rope_config *rope) {
    rope->low_freq_factor = required(r, "low_freq_factor", 1e-6);
    rope->high_freq_factor = required(r, "high_freq_factor", 1e-6);
    if (r->st == GRAFT_OK && rope->high_freq_factor <= rope->low_freq_factor)
        gr_field_fail(r, GRAFT_ERR_FORMAT, "high_freq_factor", "expected more than low_freq_factor (%g), found %g",
                      rope->low_freq_factor, rope->high_freq_factor);
}

static void read_yarn(gr_fields *r, gr_rope_config *rope) {
    rope->attention_factor = gr_field_double(r, "attention_factor", 0, 1e-6, 1e6);
    rope->beta_fast = gr_field_double(r, "beta_fast", 32, 0, 1e6);
    rope->beta_slow = gr_field_double(r, "beta_slow", 1, 0, 1e6);
    if (rope->beta_fast == 0) rope->beta_fast = 32; /* the reference takes 0 as absent */
    if (rope->beta_slow == 0) rope->beta_slow = 1;
    rope->mscale = gr_field_double(r, "mscale", 0, 0, 1e6);
    rope->mscale_all_dim = gr_field_double(r, "mscale_all_dim", 0, 0, 1e6);
    rope->truncate = gr_field_bool(r, "truncate", true);
}

static void read_scaled(gr_fields *f, gr_fields *r, gr_model_config *c) {
    gr_rope_config *rope = &c->rope;
    rope->original_max_position_embeddings = c->max_position_embeddings;
    if (rope->type == GR_ROPE_LLAMA3 || rope->type == GR_ROPE_YARN) {
        /* The same key beside the object wins, as in the reference. */
        bool outside = gr_field(f, "original_max_position_embeddings") != NULL;
        rope->original_max_position_embeddings =
            gr_field_int(outside ? f : r, "original_max_position_embeddings", c->max_position_embeddings, 1, INT32_MAX);
        if (f->st != GRAFT_OK) return;
    }
    if (rope->type == GR_ROPE_YARN && !gr_field(r, "factor")) {
        rope->factor = (double)c->max_position_embeddings / (double)rope->original_max_position_embeddings;
        if (rope->factor < 1)
            gr_field_fail(r, GRAFT_ERR_FORMAT, "original_max_position_embeddings",
                          "expected at most max_position_embeddings (%lld) where there is no factor, found %lld",
                          (long long)c->max_position_embeddings, (long long)rope->original_max_position_embeddings);
    } else {
        rope->factor = required(r, "factor", 1);
    }
    if (rope->type == GR_ROPE_LLAMA3) read_llama3(r, rope);
    if (rope->type == GR_ROPE_YARN) read_yarn(r, rope);
}

void gr_rope_from_json(gr_fields *f, double default_theta, gr_model_config *c) {
    const gr_json_value *scaling = gr_field(f, "rope_scaling"), *parameters = gr_field(f, "rope_parameters");
    bool old = scaling && scaling->len;
    gr_fields r = *f;
    r.where = old ? "rope_scaling." : "rope_parameters.";
    r.object = old ? scaling : parameters;
    if (f->st != GRAFT_OK) return;
    if (r.object && r.object->kind != GR_JSON_OBJECT) {
        gr_field_fail(f, GRAFT_ERR_FORMAT, old ? "rope_scaling" : "rope_parameters", "expected an object, found %s",
                      gr_json_kind_name(r.object->kind));
        return;
    }
    if (gr_field(&r, "full_attention") || gr_field(&r, "sliding_attention"))
        gr_field_fail(&r, GRAFT_ERR_UNSUPPORTED, "full_attention", "parameters for each layer type are not supported");
    double partial = gr_field_double(gr_field(&r, "partial_rotary_factor") ? &r : f, "partial_rotary_factor", 1, 0, 1);
    if (partial != 1)
        gr_field_fail(&r, GRAFT_ERR_UNSUPPORTED, "partial_rotary_factor", "expected 1, found %g", partial);
    c->rope.theta = gr_field_double(gr_field(&r, "rope_theta") ? &r : f, "rope_theta", default_theta, 1e-3, 1e15);
    if (f->st != GRAFT_OK) return;
    if (r.st == GRAFT_OK && read_type(&r, &c->rope.type) && c->rope.type != GR_ROPE_DEFAULT) read_scaled(f, &r, c);
    if (f->st == GRAFT_OK) f->st = r.st;
}

void gr_llama3_divisors(const gr_rope_config *rope, int head_dim, double *out) {
    const double two_pi = 6.283185307179586476925286766559;
    double length = (double)rope->original_max_position_embeddings, low = rope->low_freq_factor,
           high = rope->high_freq_factor;
    for (int i = 0; i < head_dim / 2; i++) {
        double wave = two_pi * pow(rope->theta, 2.0 * i / head_dim);
        if (wave < length / high) {
            out[i] = 1;
        } else if (wave > length / low) {
            out[i] = rope->factor;
        } else {
            double smooth = (length / wave - low) / (high - low);
            out[i] = 1 / ((1 - smooth) / rope->factor + smooth);
        }
    }
}
