/* u[t] = scale * A[:, ids[t]] on the covered rows. dA[:, ids[t]] += scale * du[t], row after row, rows of the pad left out.
 *
 * A is kept as it is saved, (r, V), so that a look-up goes through memory with large strides; r numbers a token are nothing
 * beside the rest of a step. */
#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    const gr_pick_columns_params *p = c->params;
    GR_TRY(gr_op_want_parameter(c, 0, "A", gr_shape2(-1, -1), p->dt, err));
    if (p->n < 0) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%lld ids", (long long)p->n);
    if (p->n_ranges < 0) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%d row ranges", p->n_ranges);
    c->out[0] = (gr_array){p->dt, gr_shape2(p->n, gr_rows(&c->in[0])), NULL};
    return GRAFT_OK;
}

static gr_row_range range_at(const gr_pick_columns_params *p, int i) {
    return p->n_ranges ? p->ranges[i] : (gr_row_range){0, p->n};
}

/* One row in the parameters' type. */
static size_t scratch(const gr_op_call *c, bool backward) {
    (void)backward;
    return gr_op_bytes(c->in[0].dtype, gr_rows(&c->in[0]));
}

static double value_at(const gr_array *a, int64_t i) {
    return a->dtype == GR_F64 ? ((const double *)a->data)[i] : (double)((const float *)a->data)[i];
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    const gr_pick_columns_params *p = c->params;
    const gr_array *a = &c->in[0], *u = &c->out[0];
    int64_t rank = gr_rows(a), vocab = gr_cols(a);
    gr_op_zero(c->dev, u->dtype, 1, p->n * rank, u->data, 0);
    for (int i = 0; i < (p->n_ranges ? p->n_ranges : 1); i++)
        for (int64_t t = range_at(p, i).begin; t < range_at(p, i).end; t++) {
            if (p->ids[t] < 0 || p->ids[t] >= vocab)
                return gr_fail(err, GRAFT_ERR_ARGUMENT, "id %d at row %lld is outside %lld columns", p->ids[t], (long long)t,
                               (long long)vocab);
            for (int64_t k = 0; k < rank; k++) {
                double x = p->scale * value_at(a, k * vocab + p->ids[t]);
                if (a->dtype == GR_F64)
                    ((double *)c->scratch)[k] = x;
                else
                    ((float *)c->scratch)[k] = (float)x;
            }
            c->dev->k->convert(c->dev, a->dtype, c->scratch, u->dtype, gr_op_at(u->data, u->dtype, t * rank), rank);
        }
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_pick_columns_params *p = c->params;
    const gr_array *du = &c->dout[0], *da = &c->din[0];
    int64_t rank = gr_rows(da), vocab = gr_cols(da);
    for (int i = 0; i < (p->n_ranges ? p->n_ranges : 1); i++)
        for (int64_t t = range_at(p, i).begin; t < range_at(p, i).end; t++) {
            if (p->has_pad && p->ids[t] == p->pad_id) continue;
            c->dev->k->convert(c->dev, du->dtype, gr_op_at(du->data, du->dtype, t * rank), da->dtype, c->scratch, rank);
            for (int64_t k = 0; k < rank; k++) {
                int64_t at = k * vocab + p->ids[t];
                if (da->dtype == GR_F64)
                    ((double *)da->data)[at] += p->scale * ((const double *)c->scratch)[k];
                else
                    ((float *)da->data)[at] += (float)p->scale * ((const float *)c->scratch)[k];
            }
        }
    return GRAFT_OK;
}

const gr_op gr_op_pick_columns = {.name = "pick_columns",
                                  .params_size = sizeof(gr_pick_columns_params),
                                  .shape = shape,
                                  .forward = forward,
                                  .backward = backward,
                                  .scratch = scratch,
                                  .parameters = 1};
