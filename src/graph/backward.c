/* The backward: nodes from the last recorded to the first. The gradient of a variable is allocated at the first
 * contribution; an op that hands its output's gradient on unchanged shares it; a shared gradient is copied before it is
 * written. A node's saved data is given back as soon as its backward is done, so memory falls all the way down. */
#include "graph/tape.h"

/* --- Gradients of variables --------------------------------------------------------------------------------------------- */

static gr_array grad_array(const gr_tape *t, const gr_var *v) {
    return (gr_array){v->array.dtype, v->array.shape, gr_buffer_data(t, v->grad)};
}

static int64_t elements(const gr_shape *shape) {
    int64_t n = 0;
    gr_shape_elements(shape, &n);
    return n;
}

static void add_arrays(gr_tape *t, const gr_var *v, const gr_buffer *a, const gr_buffer *b, const gr_buffer *out) {
    if (!t->options.dry)
        t->dev->k->add(t->dev, v->array.dtype, elements(&v->array.shape), a->data, b->data, out->data);
}

/* v's gradient += b. Takes over the caller's reference to b. */
static graft_status accumulate(gr_tape *t, gr_var *v, gr_buffer *b, graft_error *err) {
    if (!v->grad) {
        v->grad = b;
        return GRAFT_OK;
    }
    gr_buffer *sum = v->grad->refs == 1 ? v->grad : b->refs == 1 ? b : NULL;
    if (!sum) {
        graft_status st = gr_buffer_new(t, v->array.dtype, &v->array.shape, &sum, err);
        if (st != GRAFT_OK) {
            gr_buffer_drop(t, b);
            return st;
        }
    }
    add_arrays(t, v, v->grad, b, sum);
    if (sum != v->grad) gr_buffer_drop(t, v->grad);
    if (sum != b) gr_buffer_drop(t, b);
    v->grad = sum;
    return GRAFT_OK;
}

/* A gradient that may be added to: parameters that are no leaves start from zero. */
static graft_status open_parameter(gr_tape *t, gr_var *v, const char *op, graft_error *err) {
    if (v->grad && v->grad->refs == 1) return GRAFT_OK;
    if (v->array.dtype != GR_F32 && v->array.dtype != GR_F64)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: a trained parameter must be F32 or F64, found %s", op,
                       gr_dtype_name(v->array.dtype));
    gr_buffer *b;
    GR_TRY(gr_buffer_new(t, v->array.dtype, &v->array.shape, &b, err));
    if (!t->options.dry) {
        size_t bytes = gr_dtype_bytes(v->array.dtype, (size_t)elements(&v->array.shape));
        if (v->grad)
            memcpy(b->data, v->grad->data, bytes);
        else
            memset(b->data, 0, bytes);
    }
    gr_buffer_drop(t, v->grad);
    v->grad = b;
    return GRAFT_OK;
}

/* --- What a node saved --------------------------------------------------------------------------------------------------- */

static graft_status saved_input(gr_tape *t, gr_node *n, int i, void **data, graft_error *err);

/* Runs the forward of v's producer again. */
static graft_status repeat(gr_tape *t, gr_var *v, graft_error *err) {
    gr_node *n = v->producer;
    gr_op_call c = {.dev = t->dev, .n_in = n->n_in, .n_out = n->n_out, .params = n->params, .n_groups = n->n_groups,
                    .group = n->group};
    for (int i = 0; i < n->n_in; i++) {
        if (!n->in[i]) continue;
        c.in[i] = (gr_array){n->in[i]->array.dtype, n->in[i]->array.shape, NULL};
        GR_TRY(saved_input(t, n, i, &c.in[i].data, err));
    }
    gr_buffer *b;
    GR_TRY(gr_buffer_new(t, v->array.dtype, &v->array.shape, &b, err));
    for (int i = 0; i < n->n_out; i++) c.out[i] = n->out_array[i];
    c.out[0].data = gr_buffer_data(t, b);
    graft_status st = gr_tape_run(t, n->op, &c, false, err);
    if (st != GRAFT_OK) {
        gr_buffer_drop(t, b);
        return st;
    }
    v->again = b;
    return GRAFT_OK;
}

static graft_status saved_input(gr_tape *t, gr_node *n, int i, void **data, graft_error *err) {
    gr_var *v = n->in[i];
    if (n->again >> i & 1) {
        if (!v->buffer && !v->again) GR_TRY(repeat(t, v, err));
        *data = gr_buffer_data(t, v->buffer ? v->buffer : v->again);
    } else {
        *data = gr_buffer_data(t, n->saved_in[i]);
    }
    return GRAFT_OK;
}

static void release(gr_tape *t, gr_node *n) {
    for (int i = 0; i < n->n_in; i++) {
        gr_buffer_drop(t, n->saved_in[i]);
        n->saved_in[i] = NULL;
    }
    for (int i = 0; i < n->n_out; i++) {
        gr_buffer_drop(t, n->saved_out[i]);
        n->saved_out[i] = NULL;
        gr_var *v = n->out[i];
        if (!v) continue;
        gr_buffer_drop(t, v->grad);
        gr_buffer_drop(t, v->again);
        v->grad = v->again = NULL;
        v->producer = NULL;
    }
}

/* --- One node -------------------------------------------------------------------------------------------------------------- */

/* Where din[i] is to be written without adding: over the output's gradient or over the saved input where the op can and
 * nobody else needs them, else new memory. */
static graft_status fresh_gradient(gr_tape *t, gr_node *n, int i, gr_buffer **out, graft_error *err) {
    const gr_op *op = n->op;
    if (i == 0 && op->grad_in_place && n->out[0]->grad && n->out[0]->grad->refs == 1 &&
        gr_shape_equal(&n->out[0]->array.shape, &n->in[0]->array.shape) &&
        n->out[0]->array.dtype == n->in[0]->array.dtype) {
        *out = gr_buffer_keep(n->out[0]->grad);
        return GRAFT_OK;
    }
    if (i == 0 && op->grad_over_in && n->saved_in[0] && n->saved_in[0]->refs == 1 && n->saved_in[0]->block) {
        *out = gr_buffer_keep(n->saved_in[0]);
        return GRAFT_OK;
    }
    return gr_buffer_new(t, n->in[i]->array.dtype, &n->in[i]->array.shape, out, err);
}

/* Fills din[i] and add[i]. *fresh: what afterwards becomes the variable's gradient or is added to it; it stays NULL where
 * the op writes into its final place. */
static graft_status choose_target(gr_tape *t, gr_node *n, gr_op_call *c, int i, gr_buffer **fresh, graft_error *err) {
    gr_var *v = n->in[i];
    const gr_op *op = n->op;
    gr_array *din = &c->din[i];
    *din = (gr_array){v->array.dtype, v->array.shape, NULL};
    if (v->has_accumulator) {
        if (!(op->parameters >> i & 1))
            return gr_fail(err, GRAFT_ERR_INTERNAL, "%s: input %d is a parameter, but the op gives no parameter gradient",
                           op->name, i);
        din->dtype = gr_param_dtype(v->array.dtype);
        din->data = t->options.dry ? GR_DRY_MARK : v->accumulator;
        c->add[i] = true;
    } else if (op->parameters >> i & 1) {
        GR_TRY(open_parameter(t, v, op->name, err));
        din->data = gr_buffer_data(t, v->grad);
        c->add[i] = true;
    } else {
        for (int k = 0; k < i; k++)
            if (n->in[k] == v && c->din[k].data) { /* joint */
                din->data = c->din[k].data;
                c->add[i] = c->add[k];
                return GRAFT_OK;
            }
        if (v->grad && v->grad->refs == 1 && (op->adds >> i & 1)) {
            din->data = gr_buffer_data(t, v->grad);
            c->add[i] = true;
        } else {
            GR_TRY(fresh_gradient(t, n, i, fresh, err));
            din->data = gr_buffer_data(t, *fresh);
        }
    }
    return GRAFT_OK;
}

/* Gradients that the op hands on unchanged. */
static graft_status pass_gradient(gr_tape *t, gr_node *n, graft_error *err) {
    gr_buffer *dout = n->out[0]->grad;
    for (int i = 0; dout && i < n->n_in; i++) {
        if (!(n->wants >> i & 1) || !(n->op->passes >> i & 1)) continue;
        gr_var *v = n->in[i];
        if (v->has_accumulator)
            return gr_fail(err, GRAFT_ERR_INTERNAL, "%s: input %d is a parameter, but the op gives no parameter gradient",
                           n->op->name, i);
        GR_TRY(accumulate(t, v, gr_buffer_keep(dout), err));
    }
    return GRAFT_OK;
}

static graft_status run_op(gr_tape *t, gr_node *n, graft_error *err) {
    const gr_op *op = n->op;
    gr_op_call c = {.dev = t->dev, .n_in = n->n_in, .n_out = n->n_out, .params = n->params, .n_groups = n->n_groups,
                    .group = n->group, .wants = n->wants};
    for (int i = 0; i < n->n_out; i++) {
        c.out[i] = n->out_array[i];
        c.out[i].data = gr_buffer_data(t, n->saved_out[i]);
        if (n->out[i]) c.dout[i] = grad_array(t, n->out[i]);
    }
    uint32_t wanted = n->wants & ~op->passes;
    if (wanted) {
        for (int i = 0; i < n->n_in; i++) {
            if (!n->in[i]) continue;
            c.in[i] = (gr_array){n->in[i]->array.dtype, n->in[i]->array.shape, NULL};
            GR_TRY(saved_input(t, n, i, &c.in[i].data, err));
        }
        gr_buffer *fresh[GR_OP_MAX_IN] = {0};
        graft_status st = GRAFT_OK;
        for (int i = 0; i < n->n_in && st == GRAFT_OK; i++)
            if (wanted >> i & 1) st = choose_target(t, n, &c, i, &fresh[i], err);
        if (st == GRAFT_OK) st = gr_tape_run(t, op, &c, true, err);
        for (int i = 0; i < n->n_in; i++) {
            if (!fresh[i]) continue;
            if (st != GRAFT_OK)
                gr_buffer_drop(t, fresh[i]);
            else
                st = accumulate(t, n->in[i], fresh[i], err);
        }
        if (st != GRAFT_OK) return st;
    }
    return pass_gradient(t, n, err);
}

static graft_status run_back(gr_tape *t, graft_error *err);

/* Runs a checkpoint's body again, now recorded, and the backward of that. The inputs are the very variables of the
 * first run, given their buffers back for the time. */
static graft_status run_checkpoint(gr_tape *t, gr_node *n, graft_error *err) {
    int n_groups = t->n_groups;
    const int32_t *group = t->group;
    gr_node *below = t->last;
    gr_var *out = NULL;
    graft_status st;
    for (int i = 0; i < n->n_in; i++) {
        gr_var *v = n->in[i];
        if (!v) continue;
        v->handles++;
        if (!v->buffer) {
            v->buffer = gr_buffer_keep(n->saved_in[i]);
            v->array.data = v->buffer->data;
        }
    }
    t->last = NULL;
    gr_tape_set_groups(t, n->n_groups, n->group);
    GR_GO(end, n->body(t, n->arg, n->in, n->n_in, &out, err));
    if (!gr_shape_equal(&out->array.shape, &n->out_array[0].shape) || out->array.dtype != n->out_array[0].dtype) {
        st = gr_fail(err, GRAFT_ERR_INTERNAL, "a recomputed part gave another shape than in the forward");
        goto end;
    }
    gr_buffer *dout = n->out[0]->grad;
    n->out[0]->grad = NULL;
    gr_var_drop(out);
    GR_GO(end, accumulate(t, out, dout, err));
    GR_GO(end, run_back(t, err));
end:
    for (int i = 0; i < n->n_in; i++) gr_var_drop(n->in[i]);
    t->last = below;
    gr_tape_set_groups(t, n_groups, group);
    return st;
}

static graft_status run_back(gr_tape *t, graft_error *err) {
    while (t->last) {
        gr_node *n = t->last;
        bool reached = false;
        for (int i = 0; i < n->n_out; i++) reached |= n->out[i] && n->out[i]->grad;
        t->last = n->below;
        if (reached) GR_TRY(n->op ? run_op(t, n, err) : run_checkpoint(t, n, err));
        release(t, n);
    }
    return GRAFT_OK;
}

/* --- Entry points ------------------------------------------------------------------------------------------------------------ */

static graft_status fill_ones(gr_dtype dt, void *data, int64_t n, graft_error *err) {
    for (int64_t i = 0; i < n; i++) switch (dt) {
        case GR_F32: ((float *)data)[i] = 1; break;
        case GR_F64: ((double *)data)[i] = 1; break;
        case GR_BF16: ((uint16_t *)data)[i] = gr_f32_to_bf16(1); break;
        default: return gr_fail(err, GRAFT_ERR_ARGUMENT, "backward from a variable of type %s", gr_dtype_name(dt));
        }
    return GRAFT_OK;
}

graft_status gr_tape_backward(gr_tape *t, gr_var *root, const gr_array *seed, graft_error *err) {
    if (seed && (seed->dtype != root->array.dtype || !gr_shape_equal(&seed->shape, &root->array.shape))) {
        char want[GR_SHAPE_TEXT], got[GR_SHAPE_TEXT];
        return gr_fail(err, GRAFT_ERR_MISMATCH, "backward: the seed must be %s %s like the variable, found %s %s",
                       gr_dtype_name(root->array.dtype), gr_shape_format(&root->array.shape, want, sizeof want),
                       gr_dtype_name(seed->dtype), gr_shape_format(&seed->shape, got, sizeof got));
    }
    if (root->needs_grad) {
        gr_buffer *b;
        GR_TRY(gr_buffer_new(t, root->array.dtype, &root->array.shape, &b, err));
        graft_status st = GRAFT_OK;
        int64_t n = elements(&root->array.shape);
        if (!t->options.dry) {
            if (seed)
                memcpy(b->data, seed->data, gr_dtype_bytes(seed->dtype, (size_t)n));
            else
                st = fill_ones(root->array.dtype, b->data, n, err);
        }
        if (st != GRAFT_OK) {
            gr_buffer_drop(t, b);
            return st;
        }
        GR_TRY(accumulate(t, root, b, err));
    }
    return run_back(t, err);
}

const gr_array *gr_tape_grad(const gr_tape *t, const gr_var *v) {
    if (!v->grad) return NULL;
    gr_var *w = (gr_var *)v; /* the struct that is given out lies in the variable */
    w->grad_array = (gr_array){v->array.dtype, v->array.shape, t->options.dry ? NULL : v->grad->data};
    return &w->grad_array;
}

static gr_node *new_checkpoint(gr_tape *t, gr_tape_body body, void *arg, gr_var *const *in, int n_in, const gr_var *out) {
    gr_node *n = gr_arena_alloc(&t->arena, sizeof *n);
    if (!n) return NULL;
    n->body = body;
    n->arg = arg;
    n->n_in = n_in;
    n->n_out = 1;
    n->n_groups = t->n_groups;
    n->group = t->group;
    n->out_array[0] = (gr_array){out->array.dtype, out->array.shape, NULL};
    for (int i = 0; i < n_in; i++) n->in[i] = in[i];
    return n;
}

graft_status gr_tape_checkpoint(gr_tape *t, gr_tape_body body, void *arg, gr_var *const *in, int n_in, gr_var **out,
                                graft_error *err) {
    if (!t->options.record || t->paused) return body(t, arg, in, n_in, out, err);
    if (n_in > GR_OP_MAX_IN)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "checkpoint: at most %d inputs, got %d", GR_OP_MAX_IN, n_in);
    int n_groups = t->n_groups;
    const int32_t *group = t->group;
    gr_var *inner, *outer;
    t->paused++;
    graft_status st = body(t, arg, in, n_in, &inner, err);
    t->paused--;
    if (st != GRAFT_OK) return st;
    gr_tape_set_groups(t, n_groups, group);
    if (!inner->needs_grad) {
        *out = inner;
        return GRAFT_OK;
    }
    gr_node *n = new_checkpoint(t, body, arg, in, n_in, inner);
    if (!n) {
        gr_var_drop(inner);
        return gr_fail_memory(err);
    }
    GR_TRY(gr_var_new(t, inner->array.dtype, &inner->array.shape, inner->buffer, &outer, err));
    gr_buffer_keep(inner->buffer);
    gr_var_drop(inner);
    outer->needs_grad = true;
    outer->producer = n;
    n->out[0] = outer;
    for (int i = 0; i < n_in; i++)
        if (in[i]) n->saved_in[i] = gr_buffer_keep(in[i]->buffer);
    n->below = t->last;
    t->last = n;
    *out = outer;
    return GRAFT_OK;
}
