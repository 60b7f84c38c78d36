/* The tape on random programs: gradients against differences; with recomputation (checkpoints, also nested, and of cheap
 * ops) the same bits as without; dry peaks equal real ones; no allocation in a step like the last; variables that somebody
 * still holds are never written. */
#include <math.h>

#include "graph/graph.h"
#include "support/support.h"

enum { ROWS = 10, C = 8, RANK = 2, GROUPS = 3, MAX_LIVE = 4 };

static const int32_t bounds[GROUPS + 1] = {0, 4, 5, ROWS};

/* Parameters of all programs, of the parameter type of dt. */
enum { P_NORM, P_BIAS, P_WEIGHT, P_A, P_B, P_WIDE, N_PARAMS };
static const int64_t param_shapes[N_PARAMS][2] = {{C, 0}, {C, 0}, {C, C}, {RANK, C}, {C, RANK}, {2 * C, C}};

typedef struct world {
    graft_context *ctx;
    gr_device *dev;
    gr_dtype dt;
    gr_array param[N_PARAMS];
    void *grad[N_PARAMS];
    gr_matrix *square, *wide;
} world;

static double normal(uint64_t stream, uint64_t i) { return gr_rng_normal(9, gr_rng_stream(GR_RNG_TEST, stream), i); }
static uint64_t draw(uint64_t seed, uint64_t i, uint64_t below) {
    return gr_rng_below(seed, gr_rng_stream(GR_RNG_TEST, 77), i, below);
}

static void put(gr_dtype dt, void *x, int64_t i, double v) {
    if (dt == GR_F64)
        ((double *)x)[i] = v;
    else if (dt == GR_F32)
        ((float *)x)[i] = (float)v;
    else
        ((uint16_t *)x)[i] = gr_f32_to_bf16((float)v);
}

static int64_t count(const gr_shape *s) {
    int64_t n = 0;
    gr_shape_elements(s, &n);
    return n;
}

static graft_status world_matrix(world *w, int p, gr_matrix **out, graft_error *err) {
    const gr_array *a = &w->param[p];
    gr_matrix_spec spec = {.name = "test", .n_parts = 1, .dt = w->dt};
    spec.part[0].view = (gr_tensor_view){a->dtype, a->shape, a->data, gr_dtype_bytes(a->dtype, (size_t)count(&a->shape)), NULL};
    return gr_matrix_new(w->dev, &spec, out, err);
}

static graft_status world_open(const graft_allocator *a, gr_dtype dt, world *w, graft_error *err) {
    graft_context_options o = {.n_threads = 2, .cpu = getenv("GRAFT_CPU")};
    if (a) o.allocator = *a;
    *w = (world){.dt = dt};
    gr_dtype pdt = gr_param_dtype(dt);
    for (int p = 0; p < N_PARAMS; p++) {
        const int64_t *s = param_shapes[p];
        w->param[p] = (gr_array){pdt, s[1] ? gr_shape2(s[0], s[1]) : gr_shape1(s[0]), NULL};
        int64_t n = count(&w->param[p].shape);
        w->param[p].data = malloc((size_t)n * 8);
        w->grad[p] = calloc((size_t)n, 8);
        for (int64_t i = 0; i < n; i++) put(pdt, w->param[p].data, i, 0.3 * normal((uint64_t)p, (uint64_t)i) + (p == P_NORM));
    }
    GR_TRY(graft_context_new(&o, &w->ctx, err));
    GR_TRY(gr_device_get(w->ctx, &w->dev, err));
    GR_TRY(world_matrix(w, P_WEIGHT, &w->square, err));
    return world_matrix(w, P_WIDE, &w->wide, err);
}

static void world_close(world *w) {
    gr_matrix_free(w->square);
    gr_matrix_free(w->wide);
    graft_context_free(w->ctx);
    for (int p = 0; p < N_PARAMS; p++) {
        free(w->param[p].data);
        free(w->grad[p]);
    }
}

/* --- Random programs -------------------------------------------------------------------------------------------------- */

typedef struct program {
    world *w;
    uint64_t seed;
    int n_steps;
    int depth; /* > 0: two halves */
    bool checkpoint;
} program;

static graft_status leaf(gr_tape *t, world *w, int p, gr_var **out, graft_error *err) {
    return gr_tape_leaf(t, &w->param[p], w->grad[p], out, err);
}

static graft_status apply_linear(gr_tape *t, world *w, gr_var *x, bool wide, bool trained, gr_var **out, graft_error *err) {
    gr_linear_params p = {.w = wide ? w->wide : w->square};
    gr_var *in[2] = {x, NULL};
    if (trained) GR_TRY(leaf(t, w, wide ? P_WIDE : P_WEIGHT, &in[1], err));
    return gr_tape_apply(t, &gr_op_linear, in, 2, &p, out, err);
}

/* One step on v (not given up): another variable of the same shape. */
static graft_status one_op(gr_tape *t, world *w, uint64_t op, gr_var *v, gr_var *other, gr_var **out, graft_error *err) {
    gr_var *y, *p[2];
    switch (op) {
    case 0:
        GR_TRY(leaf(t, w, P_NORM, &p[0], err));
        return gr_tape_apply(t, &gr_op_rmsnorm, (gr_var *[]){v, p[0]}, 2, &(gr_rmsnorm_params){.eps = 1e-3}, out, err);
    case 1:
        return gr_tape_apply(t, &gr_op_add, (gr_var *[]){v, other}, 2, NULL, out, err);
    case 2:
        GR_TRY(apply_linear(t, w, v, true, false, &y, err));
        GR_TRY(gr_tape_apply(t, &gr_op_swiglu, &y, 1, NULL, out, err));
        gr_var_drop(y);
        return GRAFT_OK;
    case 3:
        return apply_linear(t, w, v, false, true, out, err);
    case 4:
        GR_TRY(leaf(t, w, P_A, &p[0], err));
        GR_TRY(leaf(t, w, P_B, &p[1], err));
        GR_TRY(apply_linear(t, w, other, false, false, &y, err));
        return gr_tape_apply_consume(t, &gr_op_lora, (gr_var *[]){y, v, p[0], p[1]}, 4,
                                     &(gr_lora_params){.scale = {2}, .dropout = 0.2}, out, err);
    case 5:
        GR_TRY(leaf(t, w, P_BIAS, &p[0], err));
        return gr_tape_apply_consume(t, &gr_op_bias, (gr_var *[]){gr_var_keep(v), p[0]}, 2, &(gr_bias_params){0}, out, err);
    case 6: /* keeps x; keeps y, over x */
        return gr_tape_apply(t, &gr_op_activation, &v, 1, &(gr_activation_params){GR_ACTIVATION_GELU}, out, err);
    case 7:
        return gr_tape_apply_consume(t, &gr_op_activation, (gr_var *[]){gr_var_keep(v)}, 1,
                                     &(gr_activation_params){GR_ACTIVATION_TANH}, out, err);
    default:
        return gr_tape_apply_consume(t, &gr_op_dropout, (gr_var *[]){gr_var_keep(v)}, 1, &(gr_dropout_params){.p = 0.1}, out,
                                     err);
    }
}

static graft_status run_steps(gr_tape *t, const program *g, gr_var *x, gr_var **out, graft_error *err) {
    gr_var *live[MAX_LIVE] = {gr_var_keep(x)};
    int n = 1;
    for (int i = 0; i < g->n_steps; i++) {
        uint64_t at = 10 * (uint64_t)i;
        gr_var *v = live[draw(g->seed, at, (uint64_t)n)], *other = live[draw(g->seed, at + 1, (uint64_t)n)], *y;
        GR_TRY(one_op(t, g->w, draw(g->seed, at + 2, 9), v, other, &y, err));
        uint64_t slot = draw(g->seed, at + 3, MAX_LIVE);
        if (n < MAX_LIVE) {
            live[n++] = y;
        } else {
            gr_var_drop(live[slot]);
            live[slot] = y;
        }
    }
    /* The sum of all, each handed over. */
    while (n > 1) {
        gr_var *in[2] = {live[n - 2], live[n - 1]};
        GR_TRY(gr_tape_apply_consume(t, &gr_op_add, in, 2, NULL, &live[n - 2], err));
        gr_var_drop(live[--n]);
    }
    *out = live[0];
    return GRAFT_OK;
}

static graft_status program_body(gr_tape *t, void *arg, gr_var *const *in, int n_in, gr_var **out, graft_error *err) {
    const program *g = arg;
    (void)n_in;
    if (!g->depth) return run_steps(t, g, in[0], out, err);
    const program *halves = (const program *)arg + 1; /* laid out by make_programs */
    int below = (1 << g->depth) - 1; /* programs in one half's subtree */
    gr_var *middle;
    const program *first = halves, *second = halves + below;
    if (g->checkpoint)
        GR_TRY(gr_tape_checkpoint(t, program_body, (void *)(uintptr_t)first, in, 1, &middle, err));
    else
        GR_TRY(program_body(t, (void *)(uintptr_t)first, in, 1, &middle, err));
    graft_status st = g->checkpoint ? gr_tape_checkpoint(t, program_body, (void *)(uintptr_t)second, &middle, 1, out, err)
                                    : program_body(t, (void *)(uintptr_t)second, &middle, 1, out, err);
    gr_var_drop(middle);
    return st;
}

/* A binary tree of programs in prefix order; leaves have the steps. Returns how many were written. */
static int make_programs(program *to, world *w, uint64_t seed, int n_steps, int depth, bool checkpoint) {
    *to = (program){w, seed, n_steps, depth, checkpoint};
    if (!depth) return 1;
    int n = 1;
    n += make_programs(to + n, w, seed * 2 + 1, n_steps, depth - 1, checkpoint);
    n += make_programs(to + n, w, seed * 2 + 2, n_steps, depth - 1, checkpoint);
    return n;
}

/* --- Running them -------------------------------------------------------------------------------------------------------- */

enum { MAX_DEPTH = 3, MAX_PROGRAMS = 1 << (MAX_DEPTH + 1) };

typedef struct outcome {
    char out[ROWS * C * 8], dx[ROWS * C * 8], grad[N_PARAMS][2 * C * C * 8];
    size_t peak, bytes, left;
} outcome;

typedef struct mode {
    int depth, n_steps;
    bool checkpoint, cheap, dry;
    size_t pool_bytes;
} mode;

static graft_status step(world *w, gr_tape *t, program *g, outcome *o, graft_error *err) {
    size_t size = gr_dtype_bytes(w->dt, 1);
    bool dry = gr_tape_is_dry(t);
    gr_var *x, *y;
    gr_shape shape = gr_shape2(ROWS, C);
    GR_TRY(gr_tape_input(t, w->dt, &shape, true, &x, err));
    for (int64_t i = 0; !dry && i < ROWS * C; i++) put(w->dt, gr_var_array(x)->data, i, normal(50, (uint64_t)i));
    gr_tape_set_groups(t, GROUPS, bounds);
    GR_TRY(program_body(t, g, &x, 1, &y, err));
    if (!dry) memcpy(o->out, gr_var_array(y)->data, ROWS * C * size);
    GR_TRY(gr_tape_backward(t, y, NULL, err));
    gr_var_drop(y);
    gr_var_drop(x);
    const gr_array *dx = gr_tape_grad(t, x);
    if (dx && !dry) memcpy(o->dx, dx->data, ROWS * C * size);
    return GRAFT_OK;
}

static graft_status run_mode(world *w, uint64_t seed, const mode *m, outcome *o, graft_error *err) {
    program tree[MAX_PROGRAMS];
    make_programs(tree, w, seed, m->n_steps, m->depth, m->checkpoint);
    const graft_allocator *a = gr_allocator(w->ctx);
    gr_tape_options options = {.record = true, .dry = m->dry, .recompute_cheap = m->cheap};
    gr_pool *pool = NULL;
    gr_tape *t = NULL;
    graft_status st;
    memset(o, 0, sizeof *o);
    for (int p = 0; p < N_PARAMS; p++) memset(w->grad[p], 0, (size_t)count(&w->param[p].shape) * 8);
    GR_GO(end, gr_pool_new(a, m->pool_bytes, m->dry, &pool, err));
    GR_GO(end, gr_tape_new(w->dev, pool, &options, &t, err));
    GR_GO(end, step(w, t, tree, o, err));
    for (int p = 0; p < N_PARAMS; p++) memcpy(o->grad[p], w->grad[p], (size_t)count(&w->param[p].shape) * 4);
    o->peak = gr_pool_peak(pool);
    o->bytes = gr_pool_bytes(pool);
    o->left = gr_pool_used(pool);
end:
    gr_tape_free(t);
    gr_pool_free(pool);
    return st;
}

static void recomputation_keeps_the_bits(void **state) {
    (void)state;
    for (gr_dtype dt = GR_F32;; dt = GR_BF16) {
        world w;
        assert_ok(world_open(NULL, dt, &w, &err));
        size_t plain_sum = 0, checked_sum = 0, cheap_sum = 0;
        for (uint64_t seed = 0; seed < 40; seed++)
            for (int depth = 1; depth <= MAX_DEPTH; depth++) {
                static outcome plain, other;
                mode m = {.depth = depth, .n_steps = 8};
                assert_ok(run_mode(&w, seed, &m, &plain, &err));
                for (int variant = 1; variant < 4; variant++) {
                    m.checkpoint = variant & 1;
                    m.cheap = variant & 2;
                    assert_ok(run_mode(&w, seed, &m, &other, &err));
                    assert_memory_equal(plain.out, other.out, sizeof plain.out);
                    assert_memory_equal(plain.dx, other.dx, sizeof plain.dx);
                    assert_memory_equal(plain.grad, other.grad, sizeof plain.grad);
                    assert_int_equal(other.left, ((size_t)ROWS * C * gr_dtype_bytes(dt, 1) + 63) / 64 * 64); /* dx */
                    if (depth == MAX_DEPTH && variant == 1) checked_sum += other.peak;
                    if (depth == MAX_DEPTH && variant == 2) cheap_sum += other.peak;
                }
                if (depth == MAX_DEPTH) plain_sum += plain.peak;
            }
        if (!(checked_sum < plain_sum * 3 / 4) || !(cheap_sum < plain_sum))
            fail_msg("peaks: %zu plain, %zu with checkpoints, %zu with cheap ops repeated", plain_sum, checked_sum, cheap_sum);
        world_close(&w);
        if (dt == GR_BF16) break;
    }
}

static void dry_peaks_are_real_peaks(void **state) {
    (void)state;
    world w;
    assert_ok(world_open(NULL, GR_BF16, &w, &err));
    for (uint64_t seed = 100; seed < 150; seed++)
        for (int variant = 0; variant < 4; variant++) {
            static outcome dry, real;
            mode m = {.depth = (int)(seed % MAX_DEPTH) + 1, .n_steps = 12, .checkpoint = variant & 1, .cheap = variant & 2, .dry = true};
            assert_ok(run_mode(&w, seed, &m, &dry, &err));
            m.dry = false;
            m.pool_bytes = dry.peak;
            assert_ok(run_mode(&w, seed, &m, &real, &err));
            assert_int_equal(real.peak, dry.peak);
            assert_int_equal(real.bytes, dry.peak); /* exactly enough */
        }
    world_close(&w);
}

static void gradients_agree_with_differences(void **state) {
    (void)state;
    world w;
    double values[ROWS * C];
    assert_ok(world_open(NULL, GR_F64, &w, &err));
    for (uint64_t seed = 200; seed < 210; seed++) {
        program tree[MAX_PROGRAMS];
        double worst = INFINITY;
        for (int i = 0; i < ROWS * C; i++) values[i] = normal(51, (uint64_t)i);
        gr_array in = {GR_F64, gr_shape2(ROWS, C), values};
        make_programs(tree, &w, seed, 6, 1, seed % 2);
        assert_ok(gr_grad_check(w.dev, program_body, tree, &in, 1, 1e-6, &worst, &err));
        if (!(worst < 1e-6)) fail_msg("program %d: gradient is off by %g", (int)seed, worst);
    }
    world_close(&w);
}

/* --- Memory -------------------------------------------------------------------------------------------------------------- */

static void steps_like_the_last_allocate_nothing(void **state) {
    (void)state;
    test_allocator a;
    test_allocator_init(&a);
    a.allocator.user = &a;
    world w;
    program tree[MAX_PROGRAMS];
    gr_pool *pool;
    gr_tape *t;
    static outcome o;
    assert_ok(world_open(&a.allocator, GR_BF16, &w, &err));
    make_programs(tree, &w, 7, 30, 2, true);
    assert_ok(gr_pool_new(&a.allocator, 0, false, &pool, &err));
    assert_ok(gr_tape_new(w.dev, pool, &(gr_tape_options){.record = true}, &t, &err));
    long calls = 0;
    for (int i = 0; i < 6; i++) {
        if (i == 3) calls = a.calls;
        assert_ok(step(&w, t, tree, &o, &err));
        gr_tape_reset(t);
    }
    assert_int_equal(a.calls, calls);
    gr_tape_free(t);
    gr_pool_free(pool);
    world_close(&w);
    assert_int_equal(a.live, 0);
}

/* What a node saved goes as soon as its backward is done: the backward of a chain needs two gradients more than the
 * forward has left, however long the chain is. */
static void memory_falls_in_the_backward(void **state) {
    (void)state;
    enum { LENGTH = 50, BLOCK = 64 * 1024 };
    world w;
    gr_pool *pool;
    gr_tape *t;
    gr_var *x, *y, *norm;
    gr_shape shape = gr_shape2(BLOCK / C / 4, C);
    assert_ok(world_open(NULL, GR_F32, &w, &err));
    assert_ok(gr_pool_new(NULL, 0, true, &pool, &err));
    assert_ok(gr_tape_new(w.dev, pool, &(gr_tape_options){.record = true, .dry = true}, &t, &err));
    assert_ok(gr_tape_input(t, GR_F32, &shape, true, &x, &err));
    for (int i = 0; i < LENGTH; i++) {
        assert_ok(leaf(t, &w, P_NORM, &norm, &err));
        assert_ok(gr_tape_apply(t, &gr_op_rmsnorm, (gr_var *[]){x, norm}, 2, &(gr_rmsnorm_params){0}, &y, &err));
        gr_var_drop(x);
        x = y;
    }
    size_t kept = gr_pool_used(pool);
    assert_true(kept > LENGTH * BLOCK);
    assert_ok(gr_tape_backward(t, x, NULL, &err));
    assert_true(gr_pool_peak(pool) <= kept + 2 * BLOCK);
    assert_true(gr_pool_used(pool) <= 2 * BLOCK);
    gr_tape_free(t);
    gr_pool_free(pool);
    world_close(&w);
}

static graft_status sweep_body(const graft_allocator *a, void *arg) {
    static outcome o;
    world w;
    graft_status st = world_open(a, GR_F32, &w, NULL);
    if (st == GRAFT_OK) st = run_mode(&w, 11, arg, &o, NULL);
    world_close(&w);
    return st;
}

static void failed_allocations_leak_nothing(void **state) {
    (void)state;
    for (int variant = 0; variant < 4; variant++)
        test_allocation_sweep(sweep_body, &(mode){.depth = 2, .n_steps = 8, .checkpoint = variant & 1, .cheap = variant & 2}, 0, 1);
}

/* --- Copy on write ---------------------------------------------------------------------------------------------------------- */

static void held_variables_are_not_written(void **state) {
    (void)state;
    world w;
    gr_pool *pool;
    gr_tape *t;
    gr_var *x, *b, *y, *z;
    assert_ok(world_open(NULL, GR_F32, &w, &err));
    assert_ok(gr_pool_new(NULL, 0, false, &pool, &err));
    assert_ok(gr_tape_new(w.dev, pool, &(gr_tape_options){.record = false}, &t, &err));
    gr_shape shape = gr_shape2(ROWS, C);
    assert_ok(gr_tape_input(t, GR_F32, &shape, false, &x, &err));
    float *data = gr_var_array(x)->data;
    for (int i = 0; i < ROWS * C; i++) data[i] = (float)i;
    assert_ok(leaf(t, &w, P_BIAS, &b, &err));
    gr_bias_params p = {0};
    gr_var *in[2] = {gr_var_keep(x), b};
    assert_ok(gr_tape_apply_consume(t, &gr_op_bias, in, 2, &p, &y, &err)); /* x is still held here */
    assert_ptr_not_equal(gr_var_array(y)->data, data);
    assert_true(data[3] == 3);
    in[0] = x;
    assert_ok(gr_tape_apply_consume(t, &gr_op_bias, in, 2, &p, &z, &err));
    assert_ptr_equal(gr_var_array(z)->data, data);
    assert_memory_equal(gr_var_array(z)->data, gr_var_array(y)->data, ROWS * C * sizeof(float));
    gr_var_drop(NULL);
    gr_tape_free(t);
    gr_pool_free(pool);
    world_close(&w);
}

/* --- Errors ----------------------------------------------------------------------------------------------------------------- */

static void misuse_is_an_error(void **state) {
    (void)state;
    world w;
    gr_pool *pool;
    gr_tape *t;
    gr_var *x, *y, *weight;
    graft_error found = {0};
    assert_ok(world_open(NULL, GR_F32, &w, &err));
    assert_ok(gr_pool_new(NULL, 0, false, &pool, &err));
    assert_ok(gr_tape_new(w.dev, pool, &(gr_tape_options){.record = true}, &t, &err));
    gr_shape shape = gr_shape2(ROWS, C), narrow = gr_shape2(ROWS, C - 1);
    assert_ok(gr_tape_input(t, GR_F32, &shape, true, &x, &err));
    memset(gr_var_array(x)->data, 0, ROWS * C * 4);

    /* One variable at two inputs of an op that cannot add their gradients. */
    gr_var *twice[] = {x, x};
    gr_lora_params lora = {0};
    assert_int_equal(gr_tape_apply(t, &gr_op_lora, twice, 2, &lora, &y, &found), GRAFT_ERR_ARGUMENT);
    assert_non_null(strstr(found.text, "lora: inputs 0 and 1"));
    /* A shape, named. */
    assert_ok(gr_tape_input(t, GR_F32, &narrow, true, &y, &err));
    gr_var *uneven[] = {x, y};
    assert_int_equal(gr_tape_apply(t, &gr_op_add, uneven, 2, NULL, &y, &found), GRAFT_ERR_MISMATCH);
    assert_string_equal(found.text, "add: b must have shape [10, 8], found [10, 7]");
    /* A missing input. */
    gr_var *missing[] = {x, NULL};
    assert_int_equal(gr_tape_apply(t, &gr_op_rmsnorm, missing, 2, &(gr_rmsnorm_params){0}, &y, &found), GRAFT_ERR_MISMATCH);
    assert_string_equal(found.text, "rmsnorm: weight is missing, expected shape [8]");
    assert_int_equal(gr_tape_apply(t, &gr_op_add, missing, GR_OP_MAX_IN + 1, NULL, &y, &found), GRAFT_ERR_ARGUMENT);

    /* Groups that do not cover the rows of a sum into parameters. */
    static const int32_t short_bounds[] = {0, 4};
    gr_tape_set_groups(t, 1, short_bounds);
    assert_ok(apply_linear(t, &w, x, false, true, &y, &err));
    gr_array seed = *gr_var_array(x);
    seed.shape = narrow;
    assert_int_equal(gr_tape_backward(t, y, &seed, &found), GRAFT_ERR_MISMATCH);
    assert_int_equal(gr_tape_backward(t, y, NULL, &found), GRAFT_ERR_MISMATCH);
    assert_non_null(strstr(found.text, "linear: row groups cover rows 0 to 4 of 10"));
    gr_tape_reset(t);

    /* A parameter where an op gives no parameter gradient. */
    assert_ok(gr_tape_input(t, GR_F32, &shape, true, &x, &err));
    gr_array a = *gr_var_array(x);
    assert_ok(gr_tape_leaf(t, &a, w.grad[P_WIDE], &weight, &err));
    gr_var *sum[] = {x, weight};
    assert_ok(gr_tape_apply(t, &gr_op_add, sum, 2, NULL, &y, &err));
    assert_int_equal(gr_tape_backward(t, y, NULL, &found), GRAFT_ERR_INTERNAL);
    gr_tape_free(t);
    gr_pool_free(pool);
    world_close(&w);
}

static void ids_and_labels_are_checked(void **state) {
    (void)state;
    world w;
    gr_pool *pool;
    gr_tape *t;
    gr_var *x, *y;
    graft_error found = {0};
    assert_ok(world_open(NULL, GR_F32, &w, &err));
    assert_ok(gr_pool_new(NULL, 0, false, &pool, &err));
    assert_ok(gr_tape_new(w.dev, pool, &(gr_tape_options){.record = false}, &t, &err));
    static const int32_t ids[] = {0, C, 1}, negative[] = {0, -1}, rows[] = {ROWS};
    assert_int_equal(gr_tape_apply(t, &gr_op_embedding, NULL, 0, &(gr_embedding_params){.table = w.square, .n = 3, .ids = ids}, &y, &found),
                     GRAFT_ERR_ARGUMENT);
    assert_string_equal(found.text, "embedding: id 8 at row 1 is outside a table of 8 rows");
    assert_int_equal(gr_tape_apply(t, &gr_op_embedding, NULL, 0, &(gr_embedding_params){.table = w.square, .n = 2, .ids = negative}, &y, &found),
                     GRAFT_ERR_ARGUMENT);
    gr_shape shape = gr_shape2(3, C);
    assert_ok(gr_tape_input(t, GR_F32, &shape, false, &x, &err));
    memset(gr_var_array(x)->data, 0, 3 * C * 4);
    assert_int_equal(gr_tape_apply(t, &gr_op_cross_entropy_head, &x, 1, &(gr_cross_entropy_params){.head = w.square, .labels = ids}, &y, &found),
                     GRAFT_ERR_ARGUMENT);
    assert_int_equal(gr_tape_apply(t, &gr_op_gather_rows, &x, 1, &(gr_gather_rows_params){.n = 1, .rows = rows}, &y, &found),
                     GRAFT_ERR_ARGUMENT);
    gr_tape_free(t);
    gr_pool_free(pool);
    world_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_agree_with_differences),
        cmocka_unit_test(recomputation_keeps_the_bits),
        cmocka_unit_test(dry_peaks_are_real_peaks),
        cmocka_unit_test(steps_like_the_last_allocate_nothing),
        cmocka_unit_test(memory_falls_in_the_backward),
        cmocka_unit_test(failed_allocations_leak_nothing),
        cmocka_unit_test(held_variables_are_not_written),
        cmocka_unit_test(misuse_is_an_error),
        cmocka_unit_test(ids_and_labels_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
