/* Zero-initialised gating (Zhang et al. 2023, LLaMA-Adapter): y = x + s g u on the covered rows, one g for all of them.
 * dx = dy; du = s g dy there and zero elsewhere; dg = s * sum of dy u, each group of rows summed by itself first. */
#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    const gr_gated_add_params *p = c->params;
    GR_TRY(gr_op_want(c, 0, "x", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "x", err));
    GR_TRY(gr_op_want(c, 1, "u", c->in[0].shape, err));
    GR_TRY(gr_op_want_type(c, 1, "u", c->in[0].dtype, err));
    GR_TRY(gr_op_want_parameter(c, 2, "gate", gr_shape1(1), c->in[0].dtype, err));
    GR_TRY(gr_op_want_ranges(p->n_ranges, p->ranges, gr_rows(&c->in[0]), err));
    c->out[0] = (gr_array){c->in[0].dtype, c->in[0].shape, NULL};
    return GRAFT_OK;
}

static void saves(const gr_op_call *c, uint32_t *in, uint32_t *out) {
    *in = (c->wants & 4 ? 2u : 0) | (c->wants & 2 ? 4u : 0);
    *out = 0;
}

/* Sums over rows, column by column. */
static size_t scratch(const gr_op_call *c, bool backward) {
    return backward && c->din[2].data ? gr_op_bytes(gr_param_dtype(c->in[0].dtype), gr_cols(&c->in[0])) : 0;
}

static double gate_of(const gr_op_call *c) {
    const gr_gated_add_params *p = c->params;
    const void *g = c->in[2].data;
    return p->factor * (c->in[2].dtype == GR_F64 ? *(const double *)g : (double)*(const float *)g);
}

/* Covered rows of to (+)= s g from. */
static void scale_rows(const gr_op_call *c, const void *from, void *to, bool add) {
    const gr_gated_add_params *p = c->params;
    gr_dtype dt = c->in[0].dtype;
    int64_t rows = gr_rows(&c->in[0]), cols = gr_cols(&c->in[0]);
    double g = gate_of(c);
    for (int i = 0; i < gr_op_n_ranges(p->n_ranges); i++) {
        gr_row_range r = gr_op_range(p->n_ranges, p->ranges, rows, i);
        c->dev->k->scale(c->dev, dt, (r.end - r.begin) * cols, g, gr_op_at(from, dt, r.begin * cols),
                         gr_op_at(to, dt, r.begin * cols), add);
    }
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    (void)err;
    gr_op_carry(c);
    scale_rows(c, c->in[1].data, c->out[0].data, true);
    return GRAFT_OK;
}

static void gate_gradient(const gr_op_call *c, gr_row_range r) {
    const gr_gated_add_params *p = c->params;
    gr_dtype dt = c->in[0].dtype, param = gr_param_dtype(dt);
    int64_t cols = gr_cols(&c->in[0]);
    gr_op_zero(c->dev, param, 1, cols, c->scratch, cols);
    c->dev->k->mul_column_sum(c->dev, dt, r.end - r.begin, cols, gr_op_at(c->dout[0].data, dt, r.begin * cols), cols,
                              gr_op_at(c->in[1].data, dt, r.begin * cols), cols, c->scratch);
    c->dev->k->scale(c->dev, param, cols, p->factor, c->scratch, c->scratch, false);
    c->dev->k->column_sum(c->dev, param, cols, 1, c->scratch, 1, c->din[2].data);
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    const gr_gated_add_params *p = c->params;
    int64_t rows = gr_rows(&c->in[0]), cols = gr_cols(&c->in[0]);
    if (c->din[1].data) {
        if (p->n_ranges) gr_op_zero(c->dev, c->in[0].dtype, rows, cols, c->din[1].data, cols);
        scale_rows(c, c->dout[0].data, c->din[1].data, false);
    }
    if (!c->din[2].data) return GRAFT_OK;
    gr_op_groups groups;
    GR_TRY(gr_op_get_groups(c, rows, &groups, err));
    for (int i = 0; i < gr_op_n_ranges(p->n_ranges); i++)
        for (int g = 0; g < groups.n; g++) {
            gr_row_range r = gr_op_range(p->n_ranges, p->ranges, rows, i), part = gr_op_group(&groups, g);
            part = (gr_row_range){GR_MAX(part.begin, r.begin), GR_MIN(part.end, r.end)};
            if (part.begin < part.end) gate_gradient(c, part);
        }
    return GRAFT_OK;
}

const gr_op gr_op_gated_add = {.name = "gated_add",
                               .params_size = sizeof(gr_gated_add_params),
                               .shape = shape,
                               .forward = forward,
                               .backward = backward,
                               .scratch = scratch,
                               .save_in = 6,
                               .saves = saves,
                               .parameters = 4,
                               .passes = 1,
                               .in_place = true};
