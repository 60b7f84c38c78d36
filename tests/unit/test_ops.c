/* Every op of op.def on its cases (tests/ops): an op without cases does not link.
 *
 * Laws: the gradient agrees with central differences in double; F32 and BF16 agree with double; the bits do not depend on
 * the number of threads, on how a batch is cut between groups (rows and sums into parameters alike), or on whether the
 * input was handed over; a dry run has the peak of the real one; a failed allocation leaks nothing; wrong shapes and
 * types are refused with the op's name. */
#include <math.h>

#include "support/op_case.h"

static const op_case *const all_cases[] = {
#define X(name) op_cases_##name,
#include "op/op.def"
#undef X
};

const int32_t op_bounds[OP_GROUPS + 1] = {0, 3, 4, 9, 9, 11, 16, 18, 23};

double op_normal(uint64_t stream, uint64_t index) { return gr_rng_normal(5, gr_rng_stream(GR_RNG_TEST, stream), index); }
uint64_t op_draw(uint64_t stream, uint64_t index, uint64_t below) {
    return gr_rng_below(6, gr_rng_stream(GR_RNG_TEST, stream), index, below);
}

/* --- Devices -------------------------------------------------------------------------------------------------------- */

typedef struct device {
    graft_context *ctx;
    gr_device *dev;
} device;

static graft_status device_open(const graft_allocator *a, int threads, device *out, graft_error *err) {
    graft_context_options o = {.n_threads = threads, .cpu = getenv("GRAFT_CPU")};
    if (a) o.allocator = *a;
    out->ctx = NULL;
    GR_TRY(graft_context_new(&o, &out->ctx, err));
    return gr_device_get(out->ctx, &out->dev, err);
}

/* --- Values --------------------------------------------------------------------------------------------------------- */

static double get(gr_dtype dt, const void *x, int64_t i) {
    return dt == GR_F64 ? ((const double *)x)[i] : dt == GR_F32 ? ((const float *)x)[i] : gr_bf16_to_f32(((const uint16_t *)x)[i]);
}

/* Rounded to bfloat16 whatever the type, so that all types start from the same numbers. */
static void put(gr_dtype dt, void *x, int64_t i, double v) {
    uint16_t h = gr_f32_to_bf16((float)v);
    if (dt == GR_BF16)
        ((uint16_t *)x)[i] = h;
    else if (dt == GR_F32)
        ((float *)x)[i] = gr_bf16_to_f32(h);
    else
        ((double *)x)[i] = gr_bf16_to_f32(h);
}

static size_t size_of(gr_dtype dt) { return gr_dtype_bytes(dt, 1); }

static bool is_param(const op_input *in) { return in->kind == OP_PARAM || in->kind == OP_FROZEN; }
static bool present(const op_input *in) { return in->kind != OP_NONE && in->kind != OP_SAME; }
static gr_dtype type_of(const op_input *in, gr_dtype dt) { return is_param(in) ? gr_param_dtype(dt) : dt; }

static int64_t picked(const op_case *k, int groups, int64_t rows) { return k->picks ? groups * k->picks : rows; }

static gr_shape shape_of(const op_case *k, const op_input *in, const op_batch *b) {
    int64_t rows = in->kind == OP_ROWS ? b->rows : in->kind == OP_PICKS ? picked(k, b->n_groups, b->rows) : in->rows;
    return in->cols ? gr_shape2(rows, in->cols) : gr_shape1(rows);
}

static int64_t count(const gr_shape *s) {
    int64_t n;
    assert_true(gr_shape_elements(s, &n));
    return n;
}

/* First row of input (or output) of a batch within the whole. */
static int64_t first_row(const op_case *k, op_input_kind kind, const op_batch *b) {
    return kind == OP_ROWS ? b->row0 : kind == OP_PICKS ? picked(k, b->first_group, b->row0) : 0;
}

static void *make_value(const op_case *k, int i, const op_batch *b) {
    const op_input *in = &k->in[i];
    gr_shape s = shape_of(k, in, b);
    gr_dtype dt = type_of(in, b->dt);
    int64_t n = count(&s), base = first_row(k, in->kind, b) * (in->cols ? in->cols : 1);
    void *x = malloc((size_t)n * size_of(dt) + 1);
    for (int64_t e = 0; e < n; e++) put(dt, x, e, op_normal((uint64_t)i, (uint64_t)(base + e)) + in->shift);
    return x;
}

/* --- One run of a case over some groups -------------------------------------------------------------------------------- */

static int n_inputs(const op_case *k) {
    int n = 0;
    for (int i = 0; i < GR_OP_MAX_IN; i++)
        if (k->in[i].kind != OP_NONE) n = i + 1;
    return n;
}

graft_status op_apply(op_batch *b, gr_tape *t, const gr_op *op, gr_var *const *in, int n_in, const void *params,
                      gr_var **out, graft_error *err) {
    gr_var *copy[GR_OP_MAX_IN] = {0};
    for (int i = 0; i < n_in; i++) copy[i] = in[i];
    if (b->consume) return gr_tape_apply_consume(t, op, copy, n_in, params, out, err);
    return gr_tape_apply(t, op, copy, n_in, params, out, err);
}

graft_status op_matrix(op_batch *b, const op_case *k, int first, int n, const bool *transposed, gr_matrix **out,
                       graft_error *err) {
    gr_matrix_spec spec = {.name = "test", .n_parts = n, .dt = b->dt};
    for (int i = 0; i < n; i++) {
        const op_input *in = &k->in[first + i];
        gr_dtype dt = type_of(in, b->dt);
        gr_shape s = gr_shape2(in->rows, in->cols);
        spec.part[i].view = (gr_tensor_view){dt, s, b->value[first + i], (size_t)count(&s) * size_of(dt), NULL};
        spec.part[i].transposed = transposed && transposed[i];
    }
    assert_true(b->n_matrices < OP_MAX_MATRICES);
    gr_matrix *m;
    GR_TRY(gr_matrix_new(b->dev, &spec, &m, err));
    b->matrix[b->n_matrices++] = m;
    *out = m;
    return GRAFT_OK;
}

static void free_matrices(op_batch *b) {
    while (b->n_matrices) gr_matrix_free(b->matrix[--b->n_matrices]);
}

typedef struct run_options {
    gr_dtype dt;
    const int *cuts; /* groups where batches begin, ended by OP_GROUPS */
    bool consume, dry, recompute, no_record;
} run_options;

typedef struct result {
    gr_dtype out_dt;
    int64_t out_rows, out_cols, n_grad[GR_OP_MAX_IN];
    void *out, *grad[GR_OP_MAX_IN];
    size_t peak;
} result;

static void result_free(result *r) {
    free(r->out);
    for (int i = 0; i < GR_OP_MAX_IN; i++) free(r->grad[i]);
    *r = (result){0};
}

static void result_open(const op_case *k, gr_dtype dt, result *r) {
    op_batch whole = {.dt = dt, .n_groups = OP_GROUPS, .rows = op_bounds[OP_GROUPS]};
    *r = (result){0};
    for (int i = 0; i < n_inputs(k); i++) {
        if (!present(&k->in[i])) continue;
        gr_shape s = shape_of(k, &k->in[i], &whole);
        r->n_grad[i] = count(&s);
        r->grad[i] = calloc((size_t)r->n_grad[i] + 1, 8);
    }
}

static graft_status make_vars(const op_case *k, const op_batch *b, gr_tape *t, const run_options *o, result *r,
                              gr_var **vars, graft_error *err) {
    for (int i = 0; i < n_inputs(k); i++) {
        const op_input *in = &k->in[i];
        if (in->kind == OP_SAME) vars[i] = vars[0];
        if (!present(in)) continue;
        gr_array a = {type_of(in, b->dt), shape_of(k, in, b), o->dry ? NULL : b->value[i]};
        if (is_param(in)) {
            GR_TRY(gr_tape_leaf(t, &a, in->kind == OP_PARAM ? r->grad[i] : NULL, &vars[i], err));
            continue;
        }
        GR_TRY(gr_tape_input(t, a.dtype, &a.shape, true, &vars[i], err));
        if (!o->dry) memcpy(gr_var_array(vars[i])->data, b->value[i], (size_t)count(&a.shape) * size_of(a.dtype));
    }
    return GRAFT_OK;
}

/* The gradient that comes from above: by place in the whole output. */
static gr_array make_seed(const op_case *k, const op_batch *b, const gr_array *out) {
    gr_array seed = *out;
    int64_t n = count(&seed.shape), cols = seed.shape.n > 1 ? seed.shape.d[1] : 1;
    int64_t base = k->scalar ? 0 : (k->picks ? picked(k, b->first_group, 0) : b->row0) * cols;
    seed.data = malloc((size_t)n * size_of(seed.dtype) + 1);
    for (int64_t e = 0; e < n; e++) put(seed.dtype, seed.data, e, op_normal(99, (uint64_t)(base + e)));
    return seed;
}

static void keep_output(const op_case *k, const op_batch *b, const gr_array *out, result *r) {
    int64_t rows = k->scalar ? out->shape.d[0] : picked(k, OP_GROUPS, op_bounds[OP_GROUPS]);
    r->out_dt = out->dtype;
    r->out_rows = rows;
    r->out_cols = out->shape.n > 1 ? out->shape.d[1] : 1;
    if (!r->out) r->out = calloc((size_t)(rows * r->out_cols) + 1, 8);
    size_t row = (size_t)r->out_cols * size_of(out->dtype);
    int64_t at = k->scalar ? 0 : k->picks ? picked(k, b->first_group, 0) : b->row0;
    memcpy((char *)r->out + (size_t)at * row, out->data, (size_t)count(&out->shape) * size_of(out->dtype));
}

static void keep_gradients(const op_case *k, const op_batch *b, gr_tape *t, gr_var **vars, result *r) {
    for (int i = 0; i < n_inputs(k); i++) {
        const op_input *in = &k->in[i];
        if (!present(in) || is_param(in)) continue;
        const gr_array *g = gr_tape_grad(t, vars[i]);
        if (!g) continue;
        size_t size = size_of(g->dtype);
        int64_t at = first_row(k, in->kind, b) * in->cols;
        memcpy((char *)r->grad[i] + (size_t)at * size, g->data, (size_t)count(&g->shape) * size);
    }
}

static graft_status run_batch(const op_case *k, op_batch *b, gr_tape *t, const run_options *o, result *r, graft_error *err) {
    gr_var *vars[GR_OP_MAX_IN] = {0}, *out;
    gr_tape_set_groups(t, b->n_groups, b->bounds);
    GR_TRY(make_vars(k, b, t, o, r, vars, err));
    GR_TRY(k->apply(b, t, vars, &out, err));
    if (!o->dry) keep_output(k, b, gr_var_array(out), r);
    if (o->no_record) return GRAFT_OK;
    gr_array seed = *gr_var_array(out);
    if (!o->dry) seed = make_seed(k, b, &seed);
    graft_status st = gr_tape_backward(t, out, o->dry ? NULL : &seed, err);
    if (!o->dry) free(seed.data);
    if (st == GRAFT_OK && !o->dry) keep_gradients(k, b, t, vars, r);
    return st;
}

static graft_status run_case(const op_case *k, gr_device *dev, const run_options *o, result *r, graft_error *err) {
    const graft_allocator *a = gr_allocator(dev->ctx);
    gr_pool *pool = NULL;
    gr_tape *t = NULL;
    graft_status st;
    result_open(k, o->dt, r);
    gr_tape_options options = {.record = !o->no_record, .dry = o->dry, .recompute_cheap = o->recompute};
    GR_GO(end, gr_pool_new(a, 0, o->dry, &pool, err));
    GR_GO(end, gr_tape_new(dev, pool, &options, &t, err));
    for (const int *cut = o->cuts; *cut < OP_GROUPS && st == GRAFT_OK; cut++) {
        int32_t bounds[OP_GROUPS + 1];
        op_batch b = {.dev = dev, .dt = o->dt, .first_group = cut[0], .n_groups = cut[1] - cut[0],
                      .row0 = op_bounds[cut[0]], .rows = op_bounds[cut[1]] - op_bounds[cut[0]], .bounds = bounds,
                      .consume = o->consume};
        for (int g = 0; g <= b.n_groups; g++) bounds[g] = op_bounds[cut[0] + g] - op_bounds[cut[0]];
        for (int i = 0; i < n_inputs(k); i++)
            if (present(&k->in[i])) b.value[i] = make_value(k, i, &b);
        st = run_batch(k, &b, t, o, r, err);
        free_matrices(&b);
        for (int i = 0; i < GR_OP_MAX_IN; i++) free(b.value[i]);
        gr_tape_reset(t);
    }
    r->peak = gr_pool_peak(pool);
end:
    gr_tape_free(t);
    gr_pool_free(pool);
    if (st != GRAFT_OK) result_free(r);
    return st;
}

static result must_run(const op_case *k, gr_device *dev, run_options o) {
    graft_error err = {0};
    result r;
    graft_status st = run_case(k, dev, &o, &r, &err);
    if (st != GRAFT_OK) fail_msg("%s: %s: %s", k->name, graft_status_text(st), err.text);
    return r;
}

static void same_bits(const op_case *k, const char *law, gr_dtype dt, const result *a, const result *b, bool gradients) {
    if (!k->scalar && memcmp(a->out, b->out, (size_t)(a->out_rows * a->out_cols) * size_of(a->out_dt)) != 0)
        fail_msg("%s, %s, %s: outputs differ", k->name, gr_dtype_name(dt), law);
    for (int i = 0; gradients && i < n_inputs(k); i++)
        if (present(&k->in[i]) && k->in[i].kind != OP_FIXED &&
            memcmp(a->grad[i], b->grad[i], (size_t)a->n_grad[i] * size_of(type_of(&k->in[i], dt))) != 0)
            fail_msg("%s, %s, %s: gradients of input %d differ", k->name, gr_dtype_name(dt), law, i);
}

#define FOR_EACH_CASE(k)                                                                                               \
    for (size_t op_ = 0; op_ < GR_COUNT(all_cases); op_++)                                                             \
        for (const op_case *k = all_cases[op_]; k->name; k++)

static const int whole[] = {0, OP_GROUPS}, halves[] = {0, 4, OP_GROUPS}, singles[] = {0, 1, 2, 3, 4, 5, 6, 7, OP_GROUPS};

/* --- Gradients in double ------------------------------------------------------------------------------------------------ */

typedef struct checked {
    const op_case *k;
    op_batch *b;
    const int *input; /* of each checked array */
} checked;

static graft_status checked_body(gr_tape *t, void *arg, gr_var *const *in, int n_in, gr_var **out, graft_error *err) {
    const checked *c = arg;
    gr_var *vars[GR_OP_MAX_IN] = {0};
    for (int i = 0; i < n_in; i++) vars[c->input[i]] = in[i];
    for (int i = 0; i < n_inputs(c->k); i++) {
        if (c->k->in[i].kind == OP_SAME) vars[i] = vars[0];
        if (c->k->in[i].kind != OP_FROZEN) continue;
        gr_array a = {GR_F64, shape_of(c->k, &c->k->in[i], c->b), c->b->value[i]};
        GR_TRY(gr_tape_leaf(t, &a, NULL, &vars[i], err));
    }
    gr_tape_set_groups(t, c->b->n_groups, c->b->bounds);
    graft_status st = c->k->apply(c->b, t, vars, out, err);
    if (!gr_tape_records(t)) free_matrices(c->b);
    return st;
}

static void gradients_agree_with_differences(void **state) {
    device d;
    (void)state;
    assert_ok(device_open(NULL, 1, &d, &err));
    FOR_EACH_CASE(k) {
        op_batch b = {.dev = d.dev, .dt = GR_F64, .n_groups = OP_GROUPS, .rows = op_bounds[OP_GROUPS], .bounds = op_bounds};
        gr_array in[GR_OP_MAX_IN];
        int input[GR_OP_MAX_IN], n = 0;
        for (int i = 0; i < n_inputs(k); i++) {
            if (!present(&k->in[i])) continue;
            b.value[i] = make_value(k, i, &b);
            if (k->in[i].kind == OP_FROZEN) continue;
            in[n] = (gr_array){GR_F64, shape_of(k, &k->in[i], &b), b.value[i]};
            input[n++] = i;
        }
        double worst = INFINITY;
        checked c = {k, &b, input};
        assert_ok(gr_grad_check(d.dev, checked_body, &c, in, n, 1e-5, &worst, &err));
        if (!(worst < 1e-7)) fail_msg("%s: gradient is off by %g", k->name, worst);
        free_matrices(&b);
        for (int i = 0; i < GR_OP_MAX_IN; i++) free(b.value[i]);
    }
    graft_context_free(d.ctx);
}

/* --- F32 and BF16 against double ------------------------------------------------------------------------------------------ */

/* Largest difference relative to the largest value of the reference. */
static double distance(gr_dtype dt, const void *x, gr_dtype ref_dt, const void *ref, int64_t n) {
    double most = 0, scale = 1e-30;
    for (int64_t i = 0; i < n; i++) {
        double r = get(ref_dt, ref, i), e = fabs(get(dt, x, i) - r);
        if (!isfinite(e)) return INFINITY;
        most = fmax(most, e);
        scale = fmax(scale, fabs(r));
    }
    return most / fmax(scale, 1e-3);
}

static void narrow_types_agree_with_double(void **state) {
    static const struct { gr_dtype dt; double out, grad; } types[] = {{GR_F32, 2e-6, 1e-5}, {GR_BF16, 1.2e-2, 2.5e-2}};
    device d;
    (void)state;
    assert_ok(device_open(NULL, 2, &d, &err));
    FOR_EACH_CASE(k) {
        result ref = must_run(k, d.dev, (run_options){.dt = GR_F64, .cuts = whole});
        for (size_t i = 0; i < GR_COUNT(types); i++) {
            gr_dtype dt = types[i].dt;
            result r = must_run(k, d.dev, (run_options){.dt = dt, .cuts = whole});
            double e = distance(r.out_dt, r.out, ref.out_dt, ref.out, ref.out_rows * ref.out_cols);
            if (!(e <= types[i].out)) fail_msg("%s: %s output is off by %g", k->name, gr_dtype_name(dt), e);
            for (int g = 0; g < n_inputs(k); g++) {
                if (!present(&k->in[g]) || k->in[g].kind == OP_FROZEN) continue;
                e = distance(type_of(&k->in[g], dt), r.grad[g], GR_F64, ref.grad[g], ref.n_grad[g]);
                if (!(e <= types[i].grad))
                    fail_msg("%s: %s gradient of input %d is off by %g", k->name, gr_dtype_name(dt), g, e);
            }
            result_free(&r);
        }
        result_free(&ref);
    }
    graft_context_free(d.ctx);
}

/* --- Laws ------------------------------------------------------------------------------------------------------------------ */

static void bits_do_not_depend_on_threads(void **state) {
    device one, other;
    (void)state;
    assert_ok(device_open(NULL, 1, &one, &err));
    for (int threads = 2; threads <= 3; threads++) {
        assert_ok(device_open(NULL, threads, &other, &err));
        FOR_EACH_CASE(k)
            for (gr_dtype dt = GR_F32;; dt = GR_BF16) {
                result a = must_run(k, one.dev, (run_options){.dt = dt, .cuts = whole});
                result b = must_run(k, other.dev, (run_options){.dt = dt, .cuts = whole});
                same_bits(k, "threads", dt, &a, &b, true);
                result_free(&a);
                result_free(&b);
                if (dt == GR_BF16) break;
            }
        graft_context_free(other.ctx);
    }
    graft_context_free(one.ctx);
}

static void bits_do_not_depend_on_batches(void **state) {
    device d;
    (void)state;
    assert_ok(device_open(NULL, 2, &d, &err));
    FOR_EACH_CASE(k)
        for (gr_dtype dt = GR_F32;; dt = GR_BF16) {
            result a = must_run(k, d.dev, (run_options){.dt = dt, .cuts = whole});
            result b;
            if (k->step <= 4) {
                b = must_run(k, d.dev, (run_options){.dt = dt, .cuts = halves});
                same_bits(k, "8 groups or 2 x 4", dt, &a, &b, true);
                result_free(&b);
            }
            if (k->step <= 1) {
                b = must_run(k, d.dev, (run_options){.dt = dt, .cuts = singles});
                same_bits(k, "8 groups or 8 x 1", dt, &a, &b, true);
                result_free(&b);
            }
            result_free(&a);
            if (dt == GR_BF16) break;
        }
    graft_context_free(d.ctx);
}

static void handing_over_and_not_recording_change_nothing(void **state) {
    device d;
    (void)state;
    assert_ok(device_open(NULL, 2, &d, &err));
    FOR_EACH_CASE(k)
        for (gr_dtype dt = GR_F32;; dt = GR_BF16) {
            result a = must_run(k, d.dev, (run_options){.dt = dt, .cuts = whole});
            result b = must_run(k, d.dev, (run_options){.dt = dt, .cuts = whole, .no_record = true});
            same_bits(k, "not recorded", dt, &a, &b, false);
            result_free(&b);
            bool can = k->in[0].kind == OP_ROWS;
            for (int i = 1; i < GR_OP_MAX_IN; i++) can &= k->in[i].kind != OP_SAME;
            if (can) {
                b = must_run(k, d.dev, (run_options){.dt = dt, .cuts = whole, .consume = true});
                same_bits(k, "handed over", dt, &a, &b, true);
                result_free(&b);
            }
            result_free(&a);
            if (dt == GR_BF16) break;
        }
    graft_context_free(d.ctx);
}

static void dry_runs_have_the_same_peak(void **state) {
    device d;
    (void)state;
    assert_ok(device_open(NULL, 2, &d, &err));
    FOR_EACH_CASE(k) {
        result a = must_run(k, d.dev, (run_options){.dt = GR_BF16, .cuts = halves});
        result b = must_run(k, d.dev, (run_options){.dt = GR_BF16, .cuts = halves, .dry = true});
        if (a.peak != b.peak) fail_msg("%s: peak %zu, dry %zu", k->name, a.peak, b.peak);
        result_free(&a);
        result_free(&b);
    }
    graft_context_free(d.ctx);
}

/* --- Failures ---------------------------------------------------------------------------------------------------------------- */

static graft_status sweep_body(const graft_allocator *a, void *arg) {
    device d;
    result r = {0};
    graft_status st = device_open(a, 2, &d, NULL);
    if (st == GRAFT_OK) st = run_case(arg, d.dev, &(run_options){.dt = GR_BF16, .cuts = whole}, &r, NULL);
    result_free(&r);
    graft_context_free(d.ctx);
    return st;
}

static void failed_allocations_leak_nothing(void **state) {
    (void)state;
    FOR_EACH_CASE(k) test_allocation_sweep(sweep_body, (void *)(uintptr_t)k, 0, 1);
}

/* One input too wide, or of a type that no op takes: refused, or fine for the op, but never worse. */
static void wrong_inputs_are_refused(void **state) {
    device d;
    int refused = 0;
    (void)state;
    assert_ok(device_open(NULL, 1, &d, &err));
    FOR_EACH_CASE(k)
        for (int wrong = 0; wrong < 2 * n_inputs(k); wrong++) {
            int at = wrong / 2;
            if (!present(&k->in[at]) || k->in[at].kind == OP_FROZEN) continue;
            op_batch b = {.dev = d.dev, .dt = GR_F32, .n_groups = OP_GROUPS, .rows = op_bounds[OP_GROUPS], .bounds = op_bounds};
            gr_var *vars[GR_OP_MAX_IN] = {0}, *out;
            gr_pool *pool;
            gr_tape *t;
            result r;
            result_open(k, GR_F32, &r);
            assert_ok(gr_pool_new(NULL, 0, false, &pool, &err));
            assert_ok(gr_tape_new(d.dev, pool, &(gr_tape_options){.record = true}, &t, &err));
            gr_tape_set_groups(t, b.n_groups, b.bounds);
            for (int i = 0; i < n_inputs(k); i++)
                if (present(&k->in[i])) b.value[i] = make_value(k, i, &b);
            assert_ok(make_vars(k, &b, t, &(run_options){.dt = GR_F32}, &r, vars, &err));
            gr_shape s = gr_var_array(vars[at])->shape;
            s.d[s.n - 1] += wrong % 2 == 0;
            assert_ok(gr_tape_input(t, wrong % 2 ? GR_I32 : GR_F32, &s, false, &vars[at], &err));
            memset(gr_var_array(vars[at])->data, 0, (size_t)count(&s) * 4);
            graft_error err = {0};
            graft_status st = k->apply(&b, t, vars, &out, &err);
            if (st != GRAFT_OK) {
                refused++;
                assert_int_equal(st, GRAFT_ERR_MISMATCH);
                if (strncmp(err.text, k->op->name, strlen(k->op->name)) != 0)
                    fail_msg("%s: the error does not name the op: %s", k->name, err.text);
            } else if (wrong % 2) {
                fail_msg("%s: input %d of type I32 was taken", k->name, at);
            }
            gr_tape_free(t);
            gr_pool_free(pool);
            free_matrices(&b);
            result_free(&r);
            for (int i = 0; i < GR_OP_MAX_IN; i++) free(b.value[i]);
        }
    assert_true(refused > 20);
    graft_context_free(d.ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_agree_with_differences),
        cmocka_unit_test(narrow_types_agree_with_double),
        cmocka_unit_test(bits_do_not_depend_on_threads),
        cmocka_unit_test(bits_do_not_depend_on_batches),
        cmocka_unit_test(handing_over_and_not_recording_change_nothing),
        cmocka_unit_test(dry_runs_have_the_same_peak),
        cmocka_unit_test(failed_allocations_leak_nothing),
        cmocka_unit_test(wrong_inputs_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
