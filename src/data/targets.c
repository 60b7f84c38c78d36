#include "data/targets.h"

#include "data/dataset.h"

void gr_target_rows_free(gr_target_rows *r, const graft_allocator *a) {
    gr_free(a, r->pooled);
    gr_free(a, r->weight);
    gr_free(a, r->row);
}

graft_status gr_targets_check(const gr_model *m, const graft_dataset *ds, graft_error *err) {
    for (size_t i = 0; gr_dataset_learn(ds) == GRAFT_LEARN_CLASSES && i < graft_dataset_count(ds); i++) {
        graft_example x;
        graft_dataset_get(ds, i, &x);
        if (gr_model_pooled_token(m, x.ids, (int64_t)x.n, false) < 0)
            return gr_fail(err, GRAFT_ERR_MISMATCH,
                           "%s:%zu: expected an end of text (token %lld), where the model's classifier "
                           "looks, found none",
                           x.path, x.line, (long long)gr_model_get_config(m)->eos_token_ids[0]);
    }
    return GRAFT_OK;
}

graft_status gr_target_rows_fill(gr_target_rows *r, const graft_allocator *a, const gr_model *m, const gr_data_batch *b,
                                 size_t from, gr_batch *out, graft_error *err) {
    size_t n = (size_t)out->n_seqs;
    if (!b->n_values) return GRAFT_OK;
    GR_TRY(gr_grow(a, (void **)&r->pooled, &r->pooled_cap, n, sizeof *r->pooled, err));
    GR_TRY(gr_grow(a, (void **)&r->weight, &r->weight_cap, n, sizeof *r->weight, err));
    GR_TRY(gr_grow(a, (void **)&r->row, &r->row_cap, b->n_values, sizeof *r->row, err));
    float weight = (float)(1.0 / (double)GR_MAX(b->n_labels, (size_t)1));
    for (size_t s = 0; s < n; s++) {
        int32_t begin = out->bounds[s], len = out->bounds[s + 1] - begin;
        bool has_virtual = false; /* what has no ids is not looked at for pads */
        for (int32_t i = begin; i < begin + len; i++) has_virtual |= out->ids[i] < 0;
        const int64_t at = gr_model_pooled_token(m, out->ids + begin, len, has_virtual);
        if (at < 0)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "record %u has no end of text, where the classifier looks",
                           b->examples[from + s]);
        r->pooled[s] = begin + (int32_t)at;
        r->weight[s] = weight;
    }
    r->targets = (gr_class_targets){.n = (int64_t)n, .rows = r->pooled, .problem = (gr_problem)b->problem,
                                    .classes = b->classes ? b->classes + from : NULL,
                                    .values = b->values ? b->values + from * b->n_values : NULL, .weight = r->weight};
    out->targets = &r->targets;
    if (gr_model_get_config(m)->type_vocab_size > 1) out->token_types = b->types + (out->labels - b->labels);
    return GRAFT_OK;
}

/* Logits are F32, or F64 in tests. */
void gr_target_rows_count(const gr_target_rows *r, const gr_loss *loss, gr_class_tally *t) {
    const gr_class_targets *g = &r->targets;
    const gr_array *x = gr_var_array(loss->logits);
    for (int64_t i = 0; i < g->n; i++) {
        for (size_t k = 0; k < t->n; k++)
            r->row[k] = x->dtype == GR_F64 ? (float)((const double *)x->data)[(size_t)i * t->n + k]
                                           : ((const float *)x->data)[(size_t)i * t->n + k];
        gr_class_tally_add(t, r->row, g->classes ? g->classes[i] : 0, g->values ? g->values + (size_t)i * t->n : NULL);
    }
}
