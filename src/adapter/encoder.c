/* Layers of prompt encoders on a tape. Each takes the caller's reference to *x and gives the result there. */
#include "adapter/prompt.h"

/* A row of the table for each virtual token. */
graft_status gr_encoder_embedding(gr_adapter *a, gr_tape *t, const gr_param *table, gr_var **x, graft_error *err) {
    const gr_prompt *p = a->state;
    gr_put_rows_params params = {
        .dt = table->dtype, .rows = p->n_rows, .n = p->n_rows, .at = p->places, .id = p->places, .stride = 1};
    gr_var *in[2] = {NULL, NULL};
    GR_TRY(gr_nn_leaf(t, table, &in[1], err));
    GR_TRY(gr_tape_apply(t, &gr_op_put_rows, in, 2, &params, x, err));
    gr_var_drop(in[1]);
    return GRAFT_OK;
}

graft_status gr_encoder_affine(gr_tape *t, const gr_param *w, const gr_param *b, gr_var **x, graft_error *err) {
    gr_var *in[3] = {*x, NULL, NULL}, *y;
    GR_TRY(gr_nn_leaf(t, w, &in[1], err));
    GR_TRY(gr_nn_leaf(t, b, &in[2], err));
    GR_TRY(gr_tape_apply(t, &gr_op_affine, in, 3, NULL, &y, err));
    for (int i = 0; i < 3; i++) gr_var_drop(in[i]);
    *x = y;
    return GRAFT_OK;
}

graft_status gr_encoder_activation(gr_tape *t, gr_activation f, gr_var **x, graft_error *err) {
    gr_activation_params params = {f};
    gr_var *in[1] = {*x};
    return gr_tape_apply_consume(t, &gr_op_activation, in, 1, &params, x, err);
}
