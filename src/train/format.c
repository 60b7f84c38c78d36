/* The format of frozen weights, where `memory` may choose it: as they come, then 8 bits, then 4. Fewer bits change results a
 * little; weights that are read for each product cost several times the time. So bits go first, and only of floats: what somebody
 * has quantised stays as it is. */
#include <string.h>

#include "base/json.h"
#include "model/shape.h"
#include "train/trainer.h"

static const gr_quantize_spec formats[] = {{.dtype = GR_INT8}, {.dtype = GR_NF4, .nested = true}};

static bool may_choose(const gr_trainer *t) {
    const graft_sft_options *o = t->o;
    return o->memory && o->quantize_to_fit != GRAFT_NO && !gr_trainer_quantization(o) && !t->base && !(o->method && !strcmp(o->method, "full"));
}

static void use(gr_trainer *t, const gr_quantize_spec *s) {
    const bool four = s->dtype != GR_INT8;
    if (t->o != &t->chosen) t->chosen = *t->o;
    t->chosen.load_in_8bit = !four;
    t->chosen.load_in_4bit = four;
    t->chosen.bnb_4bit_quant_type = !four ? NULL : s->dtype == GR_FP4 ? "fp4" : "nf4";
    t->chosen.bnb_4bit_use_double_quant = s->nested;
    t->o = &t->chosen;
}

/* A resumed run's weights are what they were: its checkpoint says it. */
static graft_status use_saved(gr_trainer *t, graft_error *err) {
    gr_arena arena;
    const gr_json_value *root;
    gr_arena_init(&arena, t->a, 0);
    graft_status st = gr_json_parse(&arena, t->resumed_from, gr_buf_text(&t->state.options), t->state.options.len, &root, err);
    if (st == GRAFT_OK) {
        const gr_json_value *name = gr_json_get(root, "quantization"), *nested = gr_json_get(root, "double_quant");
        if (name && name->kind == GR_JSON_STRING)
            use(t, &(gr_quantize_spec){.dtype = !strcmp(name->text, "int8")  ? GR_INT8
                                                : !strcmp(name->text, "fp4") ? GR_FP4
                                                                             : GR_NF4,
                                       .nested = nested && nested->kind == GR_JSON_STRING && !strcmp(nested->text, "true")});
    }
    gr_arena_free(&arena);
    return st;
}

/* The run in one of the formats in which it would fit; GRAFT_ERR_LIMIT: in none, or the run cannot have them. */
static graft_status load_smaller(gr_trainer *t, graft_train_plan *plan, graft_error *err) {
    bool fits[GR_COUNT(formats)] = {false};
    graft_error why;
    for (size_t i = 0; i < GR_COUNT(formats); i++) {
        const size_t saved = gr_model_saved_by(t->model, &formats[i]);
        if (saved) GR_TRY(gr_trainer_would_fit(t, saved, &fits[i], err));
    }
    for (size_t i = 0; i < GR_COUNT(formats); i++) {
        if (!fits[i]) continue;
        use(t, &formats[i]);
        graft_status st = gr_trainer_reload(t, &why);
        if (st == GRAFT_OK) st = gr_trainer_fit(t, plan, &why);
        /* A tensor or a setting that goes with floats alone, or values that 8 bits cannot hold. */
        const bool next = st == GRAFT_ERR_LIMIT || st == GRAFT_ERR_ARGUMENT || st == GRAFT_ERR_UNSUPPORTED ||
                          st == GRAFT_ERR_NUMERIC;
        if (!next && st != GRAFT_OK && err) *err = why;
        if (!next) return st;
        gr_log(t->ctx, GRAFT_LOG_INFO, "memory: weights are not held in %s: %s", gr_dtype_name(formats[i].dtype), why.text);
    }
    return GRAFT_ERR_LIMIT;
}

graft_status gr_trainer_load_to_fit(gr_trainer *t, graft_train_plan *plan, graft_error *err) {
    const graft_sft_options *asked = t->o;
    if (asked->quantize_to_fit != GRAFT_AUTO && !asked->memory)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "quantize_to_fit: expected memory too, which is to be kept, found none");
    if (asked->quantize_to_fit == GRAFT_YES && !may_choose(t))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "quantize_to_fit: expected a run of its own that leaves the weights as they are and does not say their format, found %s",
                       t->base ? "one of several jobs" : gr_trainer_quantization(asked) ? "load_in_4bit or load_in_8bit" : "method full");
    bool choose = may_choose(t);
    if (choose && t->resumed_from) {
        GR_TRY(use_saved(t, err));
        choose = false;
    }
    GR_TRY(gr_trainer_load(t, err));
    t->keeps_weights = choose; /* weights are read again where no format does */
    graft_status st = gr_trainer_fit(t, plan, err);
    if (choose && st == GRAFT_ERR_LIMIT) st = load_smaller(t, plan, err);
    t->keeps_weights = false;
    if (!choose || st != GRAFT_ERR_LIMIT) return st;
    if (t->o != asked) {
        t->o = asked;
        GR_TRY(gr_trainer_reload(t, err));
    }
    return gr_trainer_fit(t, plan, err);
}
