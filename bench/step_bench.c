/* One training step of a Llama-shaped model made of ops alone, with random weights: where the time of a step goes, op by op,
 * and what the tape itself costs. Sizes of SmolLM2-135M unless told otherwise.
 *
 * step_bench [--layers 30] [--seqs 4] [--length 256] [--rank 8] [--lora qv|all|none] [--full 0|1] [--dtype bf16|f32]
 *            [--recompute none|cheap|layers] [--labels 1.0] [--chunk 0] [--steps 3] [--threads 0]
 *            [--clock wall|cpu]; --steps 0 plans only. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "graph/graph.h"

/* --- Time of every op ------------------------------------------------------------------------------------------------- */

enum {
#define X(name) OP_##name,
#include "op/op.def"
#undef X
    N_OPS
};

/* Time on the clock, or processor time of all threads, which other programs on the machine change little. */
static bool processor_time;
static double now(void) {
    struct timespec t;
    if (!processor_time) return gr_now_seconds();
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static struct { const char *name; double seconds[2]; long calls[2]; } spent[N_OPS];

#define X(name)                                                                                                        \
    static graft_status forward_##name(gr_op_call *c, graft_error *err) {                                              \
        double t = now();                                                                                   \
        graft_status st = gr_op_##name.forward(c, err);                                                                \
        spent[OP_##name].seconds[0] += now() - t;                                                           \
        spent[OP_##name].calls[0]++;                                                                                   \
        return st;                                                                                                     \
    }                                                                                                                  \
    static graft_status backward_##name(gr_op_call *c, graft_error *err) {                                             \
        double t = now();                                                                                   \
        graft_status st = gr_op_##name.backward(c, err);                                                               \
        spent[OP_##name].seconds[1] += now() - t;                                                           \
        spent[OP_##name].calls[1]++;                                                                                   \
        return st;                                                                                                     \
    }
#include "op/op.def"
#undef X

static gr_op timed[N_OPS];

static void time_ops(void) {
#define X(op)                                                                                                          \
    timed[OP_##op] = gr_op_##op;                                                                                       \
    timed[OP_##op].forward = forward_##op;                                                                             \
    timed[OP_##op].backward = backward_##op;                                                                           \
    spent[OP_##op].name = #op;
#include "op/op.def"
#undef X
}

/* --- Sizes and weights -------------------------------------------------------------------------------------------------- */

enum { HIDDEN = 576, HEADS = 9, KV_HEADS = 3, DIM = 64, FFN = 1536, VOCAB = 49152, QKV = (HEADS + 2 * KV_HEADS) * DIM };

typedef struct options {
    int layers, seqs, length, rank, steps, threads, full, chunk;
    const char *lora, *dtype, *recompute, *clock;
    double labels;
} options;

/* One product: its weight, the weight's gradient where all is trained, and up to three low-rank pairs. */
typedef struct product {
    int64_t out, in;
    void *data;
    float *grad;
    gr_matrix *w;
    int n_pairs;
    int64_t column[GR_LORA_PAIRS];
    gr_array a[GR_LORA_PAIRS], b[GR_LORA_PAIRS];
    float *da[GR_LORA_PAIRS], *db[GR_LORA_PAIRS];
} product;

typedef struct layer {
    product qkv, o, gate_up, down;
    struct model *m;
} layer;

typedef struct model {
    options o;
    gr_device *dev;
    gr_dtype dt;
    layer *layers;
    product table; /* the embedding and the head */
    float *norm, *norm_grad, *cos_sin;
    int64_t rows, n_labels;
    int32_t *ids, *labels, *bounds, *wanted, *wanted_bounds;
    float *weight;
    gr_kv_rows *kv;
    gr_attention_rows *attention;
} model;

static void die(const graft_error *err) {
    fprintf(stderr, "step_bench: %s\n", err->text);
    exit(1);
}

#define MUST(expr)                                                                                                     \
    do {                                                                                                               \
        graft_error err = {0};                                                                                         \
        if ((expr) != GRAFT_OK) die(&err);                                                                             \
    } while (0)

static void *get(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    if (!p) abort();
    memset(p, 0, bytes);
    return p;
}

/* Even numbers of about the spread of a trained weight; the quality of the numbers is no matter here. */
static float next_value(void) {
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return ((float)(state >> 8) / (float)(1 << 24) - 0.5f) * 0.1f;
}

static void fill(gr_dtype dt, void *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (dt == GR_BF16)
            ((uint16_t *)x)[i] = gr_f32_to_bf16(next_value());
        else
            ((float *)x)[i] = next_value();
    }
}

static void make_product(model *m, product *p, int64_t out, int64_t in, int n_pairs, const int64_t *columns) {
    gr_dtype stored = m->o.full ? GR_F32 : m->dt;
    size_t bytes = gr_dtype_bytes(stored, (size_t)(out * in));
    *p = (product){.out = out, .in = in, .data = get(bytes)};
    fill(stored, p->data, out * in);
    if (m->o.full) p->grad = get((size_t)(out * in) * sizeof(float));
    gr_matrix_spec spec = {.name = "bench", .n_parts = 1, .dt = m->dt};
    spec.part[0].view = (gr_tensor_view){.dtype = stored, .shape = gr_shape2(out, in), .data = p->data, .bytes = bytes};
    MUST(gr_matrix_new(m->dev, &spec, &p->w, &err));
    if (m->o.steps) MUST(gr_matrix_prepare(p->w, true, true, &err));
    p->n_pairs = strcmp(m->o.lora, "none") == 0 ? 0 : n_pairs;
    for (int i = 0; i < p->n_pairs; i++) {
        int64_t width = columns[i + 1] - columns[i], r = m->o.rank;
        p->column[i] = columns[i];
        p->a[i] = (gr_array){GR_F32, gr_shape2(r, in), get((size_t)(r * in) * 4)};
        p->b[i] = (gr_array){GR_F32, gr_shape2(width, r), get((size_t)(width * r) * 4)};
        p->da[i] = get((size_t)(r * in) * 4);
        p->db[i] = get((size_t)(width * r) * 4);
        fill(GR_F32, p->a[i].data, r * in);
        fill(GR_F32, p->b[i].data, width * r);
    }
}

static void make_layers(model *m) {
    static const int64_t qkv[] = {0, HEADS * DIM, (HEADS + KV_HEADS) * DIM, QKV}, gate_up[] = {0, FFN, 2 * FFN},
                         whole[] = {0, HIDDEN};
    bool all = strcmp(m->o.lora, "all") == 0;
    m->layers = get((size_t)m->o.layers * sizeof *m->layers);
    for (int l = 0; l < m->o.layers; l++) {
        layer *k = &m->layers[l];
        k->m = m;
        make_product(m, &k->qkv, QKV, HIDDEN, 3, qkv);
        if (!all && k->qkv.n_pairs) { /* q and v */
            k->qkv.n_pairs = 2;
            k->qkv.column[1] = k->qkv.column[2];
        }
        make_product(m, &k->o, HIDDEN, HIDDEN, all, whole);
        make_product(m, &k->gate_up, 2 * FFN, HIDDEN, all ? 2 : 0, gate_up);
        make_product(m, &k->down, HIDDEN, FFN, all, whole);
    }
    make_product(m, &m->table, VOCAB, HIDDEN, 0, NULL);
}

static void make_batch(model *m) {
    int n = m->o.seqs, len = m->o.length;
    m->rows = (int64_t)n * len;
    m->ids = get((size_t)m->rows * 4);
    m->labels = get((size_t)m->rows * 4);
    m->wanted = get((size_t)m->rows * 4);
    m->weight = get((size_t)m->rows * 4);
    m->bounds = get((size_t)(n + 1) * 4);
    m->wanted_bounds = get((size_t)(n + 1) * 4);
    m->kv = get((size_t)n * sizeof *m->kv);
    m->attention = get((size_t)n * sizeof *m->attention);
    m->cos_sin = get((size_t)m->rows * DIM * 4);
    m->norm = get(HIDDEN * 4);
    m->norm_grad = m->o.full ? get(HIDDEN * 4) : NULL;
    for (int i = 0; i < HIDDEN; i++) m->norm[i] = 1;
    for (int s = 0; s < n; s++) {
        m->bounds[s + 1] = m->bounds[s] + len;
        m->kv[s] = (gr_kv_rows){.begin = (int64_t)s * len, .n = len};
        m->attention[s] = (gr_attention_rows){.q_begin = (int64_t)s * len, .q_len = len, .n_rows = 1, .rows = &m->kv[s]};
        for (int i = (int)((1 - m->o.labels) * len); i < len; i++) m->wanted[m->n_labels++] = s * len + i;
        m->wanted_bounds[s + 1] = (int32_t)m->n_labels;
    }
    for (int64_t r = 0; r < m->rows; r++) {
        m->ids[r] = (int32_t)((r * 7919) % VOCAB);
        m->labels[r] = (int32_t)((r * 104729) % VOCAB);
        m->weight[r] = 1.0f / (float)m->n_labels;
        for (int i = 0; i < DIM / 2; i++) {
            double angle = (double)(r % len) / pow(1e5, 2.0 * i / DIM);
            m->cos_sin[r * DIM + i] = (float)cos(angle);
            m->cos_sin[r * DIM + DIM / 2 + i] = (float)sin(angle);
        }
    }
}

/* --- The model ------------------------------------------------------------------------------------------------------------ */

static gr_var *leaf(gr_tape *t, const gr_array *a, void *grad) {
    gr_var *v;
    MUST(gr_tape_leaf(t, a, grad, &v, &err));
    return v;
}

static gr_var *apply_linear(gr_tape *t, const product *p, gr_var *x) {
    gr_var *in[2] = {x}, *y, *factors[2 + 2 * GR_LORA_PAIRS];
    gr_array weight = {GR_F32, gr_shape2(p->out, p->in), p->data};
    if (p->grad) in[1] = leaf(t, &weight, p->grad);
    MUST(gr_tape_apply(t, &timed[OP_linear], in, 2, &(gr_linear_params){.w = p->w}, &y, &err));
    if (!p->n_pairs) return y;
    gr_lora_params lora = {0};
    factors[0] = y;
    factors[1] = x;
    for (int i = 0; i < p->n_pairs; i++) {
        lora.column[i] = p->column[i];
        lora.scale[i] = 2;
        factors[2 + 2 * i] = leaf(t, &p->a[i], p->da[i]);
        factors[3 + 2 * i] = leaf(t, &p->b[i], p->db[i]);
    }
    MUST(gr_tape_apply_consume(t, &timed[OP_lora], factors, 2 + 2 * p->n_pairs, &lora, &y, &err));
    return y;
}

static gr_var *apply_norm(gr_tape *t, const model *m, gr_var *x) {
    gr_array w = {GR_F32, gr_shape1(HIDDEN), m->norm};
    gr_var *in[2] = {x, leaf(t, &w, m->norm_grad)}, *y;
    MUST(gr_tape_apply(t, &timed[OP_rmsnorm], in, 2, &(gr_rmsnorm_params){.eps = 1e-5}, &y, &err));
    return y;
}

static gr_var *apply_attention(gr_tape *t, const model *m, gr_var *qkv) {
    gr_rope_params rope = {.n_heads = HEADS + KV_HEADS, .head_dim = DIM, .cos_sin = m->cos_sin};
    gr_attention_params p = {.n_heads = HEADS, .n_kv_heads = KV_HEADS, .head_dim = DIM, .k_column = HEADS * DIM,
                             .v_column = (HEADS + KV_HEADS) * DIM, .scale = 1 / sqrt(DIM), .causal = true,
                             .n_seqs = m->o.seqs, .seqs = m->attention};
    gr_var *y;
    MUST(gr_tape_apply_consume(t, &timed[OP_rope], &qkv, 1, &rope, &qkv, &err));
    MUST(gr_tape_apply(t, &timed[OP_attention], (gr_var *[]){qkv, qkv, qkv}, 3, &p, &y, &err));
    gr_var_drop(qkv);
    return y;
}

/* x is not given up. */
static graft_status layer_body(gr_tape *t, void *arg, gr_var *const *in, int n_in, gr_var **out, graft_error *e) {
    const layer *l = arg;
    (void)n_in, (void)e;
    gr_var *h = apply_norm(t, l->m, in[0]), *qkv = apply_linear(t, &l->qkv, h);
    gr_var_drop(h);
    gr_var *heads = apply_attention(t, l->m, qkv), *x = apply_linear(t, &l->o, heads);
    gr_var_drop(heads);
    gr_var *sum[2] = {x, in[0]};
    MUST(gr_tape_apply_consume(t, &timed[OP_add], sum, 2, NULL, &x, &err));
    h = apply_norm(t, l->m, x);
    gr_var *wide = apply_linear(t, &l->gate_up, h), *act;
    gr_var_drop(h);
    MUST(gr_tape_apply(t, &timed[OP_swiglu], &wide, 1, NULL, &act, &err));
    gr_var_drop(wide);
    sum[0] = apply_linear(t, &l->down, act);
    sum[1] = x;
    gr_var_drop(act);
    MUST(gr_tape_apply_consume(t, &timed[OP_add], sum, 2, NULL, out, &err));
    gr_var_drop(x);
    return GRAFT_OK;
}

static double run_step(model *m, gr_tape *t) {
    gr_array table = {GR_F32, gr_shape2(VOCAB, HIDDEN), m->table.data};
    gr_var *tied = m->o.full ? leaf(t, &table, m->table.grad) : NULL, *x, *y, *loss;
    gr_embedding_params embedding = {.table = m->table.w, .n = m->rows, .ids = m->ids};
    gr_tape_set_groups(t, m->o.seqs, m->bounds);
    MUST(gr_tape_apply(t, &timed[OP_embedding], &tied, 1, &embedding, &x, &err));
    for (int l = 0; l < m->o.layers; l++) {
        if (strcmp(m->o.recompute, "layers") == 0)
            MUST(gr_tape_checkpoint(t, layer_body, &m->layers[l], &x, 1, &y, &err));
        else
            MUST(layer_body(t, &m->layers[l], &x, 1, &y, &err));
        gr_var_drop(x);
        x = y;
    }
    gr_gather_rows_params gather = {.n = m->n_labels, .rows = m->wanted};
    MUST(gr_tape_apply(t, &timed[OP_gather_rows], &x, 1, &gather, &y, &err));
    gr_var_drop(x);
    gr_tape_set_groups(t, m->o.seqs, m->wanted_bounds);
    x = apply_norm(t, m, y);
    gr_var_drop(y);
    gr_cross_entropy_params head = {.head = m->table.w, .chunk = m->o.chunk, .labels = m->labels, .weight = m->weight};
    MUST(gr_tape_apply(t, &timed[OP_cross_entropy_head], (gr_var *[]){x, tied}, 2, &head, &loss, &err));
    gr_var_drop(x);
    double value = gr_tape_is_dry(t) ? 0 : *(const double *)gr_var_array(loss)->data;
    MUST(gr_tape_backward(t, loss, NULL, &err));
    gr_tape_reset(t);
    return value;
}

/* --- The program ------------------------------------------------------------------------------------------------------------ */

static void parse(int argc, char **argv, options *o) {
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *k = argv[i], *v = argv[i + 1];
        if (strcmp(k, "--layers") == 0) o->layers = atoi(v);
        else if (strcmp(k, "--seqs") == 0) o->seqs = atoi(v);
        else if (strcmp(k, "--length") == 0) o->length = atoi(v);
        else if (strcmp(k, "--rank") == 0) o->rank = atoi(v);
        else if (strcmp(k, "--steps") == 0) o->steps = atoi(v);
        else if (strcmp(k, "--threads") == 0) o->threads = atoi(v);
        else if (strcmp(k, "--chunk") == 0) o->chunk = atoi(v);
        else if (strcmp(k, "--full") == 0) o->full = atoi(v);
        else if (strcmp(k, "--lora") == 0) o->lora = v;
        else if (strcmp(k, "--dtype") == 0) o->dtype = v;
        else if (strcmp(k, "--recompute") == 0) o->recompute = v;
        else if (strcmp(k, "--clock") == 0) o->clock = v;
        else if (strcmp(k, "--labels") == 0) o->labels = atof(v);
        else {
            fprintf(stderr, "step_bench: unknown option %s\n", k);
            exit(2);
        }
    }
    if (o->full) o->lora = "none";
}

static void report(const model *m, double seconds, int steps) {
    double ops = 0;
    printf("%-20s %10s %6s %10s %6s\n", "op", "forward ms", "calls", "back ms", "calls");
    for (int i = 0; i < N_OPS; i++) {
        if (!spent[i].calls[0]) continue;
        ops += spent[i].seconds[0] + spent[i].seconds[1];
        printf("%-20s %10.1f %6ld %10.1f %6ld\n", spent[i].name, spent[i].seconds[0] * 1e3 / steps, spent[i].calls[0] / steps,
               spent[i].seconds[1] * 1e3 / steps, spent[i].calls[1] / steps);
    }
    printf("%-20s %10.1f ms\n", "tape itself", (seconds - ops) * 1e3 / steps);
    printf("%-20s %10.1f ms, %.0f tokens/s\n", "step", seconds * 1e3 / steps, (double)m->rows * steps / seconds);
}

int main(int argc, char **argv) {
    model m = {.o = {.layers = 30, .seqs = 4, .length = 256, .rank = 8, .steps = 3, .lora = "qv", .dtype = "bf16",
                     .recompute = "none", .labels = 1, .clock = "wall"}};
    parse(argc, argv, &m.o);
    processor_time = strcmp(m.o.clock, "cpu") == 0;
    m.dt = strcmp(m.o.dtype, "f32") == 0 ? GR_F32 : GR_BF16;
    graft_context *ctx;
    gr_pool *dry, *pool;
    gr_tape *t;
    time_ops();
    MUST(graft_context_new(&(graft_context_options){.n_threads = m.o.threads, .cpu = getenv("GRAFT_CPU")}, &ctx, &err));
    MUST(gr_device_get(ctx, &m.dev, &err));
    make_layers(&m);
    make_batch(&m);

    gr_tape_options how = {.record = true, .dry = true, .recompute_cheap = strcmp(m.o.recompute, "cheap") == 0};
    MUST(gr_pool_new(NULL, 0, true, &dry, &err));
    MUST(gr_tape_new(m.dev, dry, &how, &t, &err));
    double begin = now();
    run_step(&m, t);
    printf("planned peak of the step: %.1f MiB, %.1f KiB a token, planned in %.1f ms\n", (double)gr_pool_peak(dry) / 0x1p20,
           (double)gr_pool_peak(dry) / 0x1p10 / (double)m.rows, (now() - begin) * 1e3);
    gr_tape_free(t);
    if (m.o.steps == 0) return 0;

    how.dry = false;
    MUST(gr_pool_new(NULL, gr_pool_peak(dry), false, &pool, &err));
    MUST(gr_tape_new(m.dev, pool, &how, &t, &err));
    printf("loss %.6f\n", run_step(&m, t)); /* warm-up: pages and packed weights */
    for (int i = 0; i < N_OPS; i++) spent[i].seconds[0] = spent[i].seconds[1] = 0, spent[i].calls[0] = spent[i].calls[1] = 0;
    begin = now();
    for (int i = 0; i < m.o.steps; i++) run_step(&m, t);
    report(&m, now() - begin, m.o.steps);
    printf("peak %.1f MiB of the pool, %.1f MiB resident\n", (double)gr_pool_peak(pool) / 0x1p20,
           (double)gr_peak_rss_bytes() / 0x1p20);
    gr_tape_free(t);
    gr_pool_free(pool);
    gr_pool_free(dry);
    return 0; /* the weights die with the process */
}
