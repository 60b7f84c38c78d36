/* Variables, and ops applied to them. */
#include "graph/tape.h"

/* --- Buffers ---------------------------------------------------------------------------------------------------------- */

static gr_buffer *new_buffer(gr_tape *t) {
    gr_buffer *b = t->free;
    if (b) {
        t->free = b->next;
        *b = (gr_buffer){.refs = 1};
    } else {
        b = gr_arena_alloc(&t->arena, sizeof *b);
        if (!b) return NULL;
        b->refs = 1;
    }
    b->next = t->live;
    b->link = &t->live;
    if (b->next) b->next->link = &b->next;
    t->live = b;
    return b;
}

void gr_buffer_drop(gr_tape *t, gr_buffer *b) {
    if (!b || --b->refs > 0) return;
    gr_pool_give(t->pool, b->block);
    *b->link = b->next;
    if (b->next) b->next->link = b->link;
    b->next = t->free;
    t->free = b;
}

graft_status gr_buffer_new(gr_tape *t, gr_dtype dt, const gr_shape *shape, gr_buffer **out, graft_error *err) {
    size_t bytes;
    void *block;
    GR_TRY(gr_tensor_bytes(dt, shape, &bytes, err));
    GR_TRY(gr_pool_take(t->pool, bytes, &block, err));
    gr_buffer *b = new_buffer(t);
    if (!b) {
        gr_pool_give(t->pool, block);
        return gr_fail_memory(err);
    }
    b->block = block;
    b->data = t->options.dry ? NULL : block;
    *out = b;
    return GRAFT_OK;
}

/* --- Variables -------------------------------------------------------------------------------------------------------- */

graft_status gr_var_new(gr_tape *t, gr_dtype dt, const gr_shape *shape, gr_buffer *buffer, gr_var **out, graft_error *err) {
    gr_var *v = gr_arena_alloc(&t->arena, sizeof *v);
    if (!v) return gr_fail_memory(err);
    *v = (gr_var){.tape = t, .handles = 1, .array = {dt, *shape, buffer->data}, .buffer = buffer};
    *out = v;
    return GRAFT_OK;
}

const gr_array *gr_var_array(const gr_var *v) { return &v->array; }
bool gr_var_needs_grad(const gr_var *v) { return v->needs_grad; }

gr_var *gr_var_keep(gr_var *v) {
    v->handles++;
    return v;
}

void gr_var_drop(gr_var *v) {
    if (!v || --v->handles > 0) return;
    gr_buffer_drop(v->tape, v->buffer);
    v->buffer = NULL;
    v->array.data = NULL;
}

graft_status gr_tape_leaf(gr_tape *t, const gr_array *a, void *grad, gr_var **out, graft_error *err) {
    gr_buffer *b = new_buffer(t);
    if (!b) return gr_fail_memory(err);
    b->data = t->options.dry ? NULL : a->data;
    gr_var *v;
    graft_status st = gr_var_new(t, a->dtype, &a->shape, b, &v, err);
    if (st != GRAFT_OK) {
        gr_buffer_drop(t, b);
        return st;
    }
    v->needs_grad = grad && t->options.record;
    v->has_accumulator = grad != NULL;
    v->accumulator = grad;
    *out = v;
    return GRAFT_OK;
}

graft_status gr_tape_input(gr_tape *t, gr_dtype dt, const gr_shape *shape, bool needs_grad, gr_var **out, graft_error *err) {
    gr_buffer *b;
    GR_TRY(gr_buffer_new(t, dt, shape, &b, err));
    gr_var *v;
    graft_status st = gr_var_new(t, dt, shape, b, &v, err);
    if (st != GRAFT_OK) {
        gr_buffer_drop(t, b);
        return st;
    }
    v->needs_grad = needs_grad && t->options.record;
    *out = v;
    return GRAFT_OK;
}

/* --- The tape --------------------------------------------------------------------------------------------------------- */

graft_status gr_tape_new(gr_device *d, gr_pool *pool, const gr_tape_options *o, gr_tape **out, graft_error *err) {
    const graft_allocator *a = gr_allocator(d->ctx);
    gr_tape *t = gr_calloc(a, 1, sizeof *t);
    if (!t) return gr_fail_memory(err);
    *t = (gr_tape){.dev = d, .pool = pool, .options = *o};
    gr_arena_init(&t->arena, a, 0);
    *out = t;
    return GRAFT_OK;
}

static void drop_all(gr_tape *t) {
    for (gr_buffer *b = t->live; b; b = b->next) gr_pool_give(t->pool, b->block);
    t->live = t->free = NULL;
    t->last = NULL;
    t->paused = 0;
    t->n_groups = 0;
    t->group = NULL;
}

void gr_tape_free(gr_tape *t) {
    if (!t) return;
    drop_all(t);
    gr_arena_free(&t->arena);
    gr_free(gr_allocator(t->dev->ctx), t);
}

void gr_tape_reset(gr_tape *t) {
    drop_all(t);
    gr_arena_rewind(&t->arena);
}

gr_device *gr_tape_device(const gr_tape *t) { return t->dev; }
bool gr_tape_is_dry(const gr_tape *t) { return t->options.dry; }
bool gr_tape_records(const gr_tape *t) { return t->options.record; }

void gr_tape_set_groups(gr_tape *t, int n, const int32_t *bounds) {
    t->n_groups = n;
    t->group = bounds;
}

/* --- Applying an op --------------------------------------------------------------------------------------------------- */

graft_status gr_tape_run(gr_tape *t, const gr_op *op, gr_op_call *c, bool backward, graft_error *err) {
    void *block = NULL;
    size_t bytes = op->scratch ? op->scratch(c, backward) : 0;
    if (bytes) {
        GR_TRY(gr_pool_take(t->pool, bytes, &block, err));
        c->scratch = block;
    }
    graft_status st = GRAFT_OK;
    if (!t->options.dry) st = backward ? op->backward(c, err) : op->forward(c, err);
    if (st != GRAFT_OK) st = gr_error_prefix(err, st, "%s", op->name);
    c->scratch = NULL;
    gr_pool_give(t->pool, block);
    return st;
}

static graft_status check_inputs(const gr_op *op, gr_var *const *in, int n_in, graft_error *err) {
    if (n_in < 0 || n_in > GR_OP_MAX_IN)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: at most %d inputs, got %d", op->name, GR_OP_MAX_IN, n_in);
    for (int i = 0; i < n_in; i++) {
        if (!in[i]) continue;
        if (!in[i]->buffer)
            return gr_fail(err, GRAFT_ERR_INTERNAL, "%s: input %d was dropped before its use", op->name, i);
        uint32_t shared = op->passes;
        for (int k = 0; k < i && !op->joint; k++)
            if (in[k] == in[i] && in[i]->needs_grad && !((shared >> i & 1) && (shared >> k & 1)))
                return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: inputs %d and %d are one variable, whose gradient it cannot give",
                               op->name, k, i);
    }
    return GRAFT_OK;
}

/* The buffer of in[0] when the op may write into it: nobody else will read what stands there. */
static gr_buffer *reusable(const gr_op *op, const gr_op_call *c, gr_var *const *in, bool consume, uint32_t save_in) {
    if (!consume || !op->in_place || !in[0] || (save_in & 1)) return NULL;
    const gr_var *v = in[0];
    if (v->handles != 1 || v->buffer->refs != 1 || !v->buffer->block) return NULL;
    if (v->array.dtype != c->out[0].dtype || !gr_shape_equal(&v->array.shape, &c->out[0].shape)) return NULL;
    for (int i = 1; i < c->n_in; i++)
        if (in[i] && in[i] == in[0]) return NULL;
    return v->buffer;
}

/* An input that its producer can compute again from what it has saved itself. */
static bool can_repeat(const gr_tape *t, const gr_var *v) {
    const gr_node *n = v->producer;
    return t->options.recompute_cheap && n && n->op && n->op->cheap && v->buffer->block &&
           (n->saved_in[0] || (n->again & 1));
}

static gr_node *new_node(gr_tape *t, const gr_op *op, const gr_op_call *c, gr_var *const *in) {
    gr_node *n = gr_arena_alloc(&t->arena, sizeof *n);
    if (!n) return NULL;
    n->op = op;
    if (op->params_size && c->params) {
        void *copy = gr_arena_alloc(&t->arena, op->params_size);
        if (!copy) return NULL;
        memcpy(copy, c->params, op->params_size);
        n->params = copy;
    }
    n->n_in = c->n_in;
    n->n_out = c->n_out;
    n->wants = c->wants;
    n->n_groups = c->n_groups;
    n->group = c->group;
    for (int i = 0; i < c->n_in; i++) n->in[i] = in[i];
    for (int i = 0; i < c->n_out; i++) n->out_array[i] = (gr_array){c->out[i].dtype, c->out[i].shape, NULL};
    return n;
}

typedef struct application {
    const gr_op *op;
    gr_op_call c;
    int n_out;       /* that the caller gets */
    bool record;
    uint32_t save_in, save_out;
    gr_buffer *buffer[GR_OP_MAX_OUT];
    gr_var *out[GR_OP_MAX_OUT];
    bool over;       /* buffer[0] is in[0]'s */
} application;

static graft_status prepare(gr_tape *t, application *p, gr_var *const *in, int n_in, const void *params, graft_error *err) {
    gr_op_call *c = &p->c;
    *c = (gr_op_call){.dev = t->dev, .n_in = n_in, .n_out = p->n_out + p->op->n_aux, .params = params,
                      .n_groups = t->n_groups, .group = t->group};
    uint32_t wants = 0;
    for (int i = 0; i < n_in; i++) {
        if (!in[i]) continue;
        c->in[i] = (gr_array){in[i]->array.dtype, in[i]->array.shape, gr_buffer_data(t, in[i]->buffer)};
        if (in[i]->needs_grad) wants |= 1u << i;
    }
    p->record = wants && !t->paused;
    if (p->record) c->wants = wants;
    graft_status st = p->op->shape(c, err);
    if (st != GRAFT_OK) return gr_error_prefix(err, st, "%s", p->op->name);
    if (p->record) {
        p->save_in = p->op->save_in;
        p->save_out = p->op->save_out;
        if (p->op->saves) p->op->saves(c, &p->save_in, &p->save_out);
    }
    return GRAFT_OK;
}

static graft_status allocate(gr_tape *t, application *p, gr_var *const *in, bool consume, graft_error *err) {
    gr_op_call *c = &p->c;
    for (int i = 0; i < c->n_out; i++) {
        if (i >= p->n_out && !p->record) continue;
        gr_buffer *over = i == 0 ? reusable(p->op, c, in, consume, p->save_in) : NULL;
        if (over) {
            p->buffer[0] = over;
            p->over = true;
        } else {
            GR_TRY(gr_buffer_new(t, c->out[i].dtype, &c->out[i].shape, &p->buffer[i], err));
        }
        c->out[i].data = gr_buffer_data(t, p->buffer[i]);
        if (i < p->n_out) GR_TRY(gr_var_new(t, c->out[i].dtype, &c->out[i].shape, p->buffer[i], &p->out[i], err));
    }
    return GRAFT_OK;
}

static void record(gr_tape *t, application *p, gr_node *n) {
    for (int i = 0; i < n->n_in; i++) {
        if (!n->in[i] || !(p->save_in >> i & 1)) continue;
        if (can_repeat(t, n->in[i]))
            n->again |= 1u << i;
        else
            n->saved_in[i] = gr_buffer_keep(n->in[i]->buffer);
    }
    for (int i = 0; i < n->n_out; i++) {
        if (p->save_out >> i & 1) n->saved_out[i] = gr_buffer_keep(p->buffer[i]);
        if (i < p->n_out) {
            n->out[i] = p->out[i];
            p->out[i]->producer = n;
        }
    }
    n->below = t->last;
    t->last = n;
}

static graft_status apply(gr_tape *t, const gr_op *op, gr_var *const *in, int n_in, const void *params, bool consume,
                          gr_var **out, graft_error *err) {
    application p = {.op = op, .n_out = op->n_out ? op->n_out : 1};
    gr_node *node = NULL;
    graft_status st;
    GR_TRY(check_inputs(op, in, n_in, err));
    GR_TRY(prepare(t, &p, in, n_in, params, err));
    GR_GO(fail, allocate(t, &p, in, consume, err));
    if (p.record && !(node = new_node(t, op, &p.c, in))) {
        st = gr_fail_memory(err);
        goto fail;
    }
    GR_GO(fail, gr_tape_run(t, op, &p.c, false, err));
    bool needs_grad = false;
    for (int i = 0; i < n_in; i++) needs_grad |= in[i] && in[i]->needs_grad;
    for (int i = 0; i < p.n_out; i++) p.out[i]->needs_grad = needs_grad;
    if (node) record(t, &p, node);
    for (int i = p.n_out; i < p.c.n_out; i++) gr_buffer_drop(t, p.buffer[i]); /* kept where it is saved */
    if (consume) {
        if (p.over) in[0]->buffer = NULL;
        gr_var_drop(in[0]);
    }
    for (int i = 0; i < p.n_out; i++) out[i] = p.out[i];
    return GRAFT_OK;
fail:
    for (int i = p.over ? 1 : 0; i < p.c.n_out; i++) gr_buffer_drop(t, p.buffer[i]);
    return st;
}

graft_status gr_tape_apply(gr_tape *t, const gr_op *op, gr_var *const *in, int n_in, const void *params, gr_var **out,
                           graft_error *err) {
    return apply(t, op, in, n_in, params, false, out, err);
}

graft_status gr_tape_apply_consume(gr_tape *t, const gr_op *op, gr_var **in, int n_in, const void *params, gr_var **out,
                                   graft_error *err) {
    return apply(t, op, in, n_in, params, true, out, err);
}
