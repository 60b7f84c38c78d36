/* Keys and values in the formats that a cache keeps them in: their rounding against the formula in double; attention over them
 * on every level against the portable one in double over what was decoded apart from it; one sequence gets the same bits in one
 * pass or in many, alone or among others, on any number of threads, and over blocks that it shares. */
#include <math.h>

#include "graft/generate.h"
#include "infer/infer.h"
#include "support/kernel_cases.h"
#include "support/model_support.h"

/* --- Rounding --------------------------------------------------------------------------------------------------------- */

static double half_of(const uint8_t *p) {
    const int bits = p[0] | p[1] << 8, exponent = bits >> 10 & 31;
    const double m = exponent ? 1 + (bits & 1023) / 1024.0 : (bits & 1023) / 1024.0;
    return ldexp(m, exponent ? exponent - 15 : -14) * (bits & 0x8000 ? -1 : 1);
}

/* Element c of a head as its blocks say. */
static double kept_value(gr_kv_format f, const void *head, int64_t c) {
    if (f == GR_KV_BF16) return kvalue(GR_BF16, head, c);
    const uint8_t *block = (const uint8_t *)head + c / 32 * 34;
    return half_of(block) * (int8_t)block[2 + c % 32];
}

static int64_t kept_size(gr_kv_format f, int dim) { return f == GR_KV_INT8 ? (dim + 31) / 32 : dim; }
static size_t unit_bytes(const kcase *t, gr_kv_format f) { return f == GR_KV_INT8 ? 34 : gr_dtype_bytes(f == GR_KV_BF16 ? GR_BF16 : t->dt, 1); }

/* Blocks of 32: the scale is the largest magnitude over 127, in half precision; codes are x over the scale before that, to the
 * nearest, halves away from zero. */
static void check_block(const double *x, int n, const uint8_t *block) {
    double top = 0;
    for (int i = 0; i < n; i++) top = fmax(top, fabs(x[i]));
    const double scale = half_of(block);
    assert_true(fabs(scale - top / 127) <= top / 127 * 0x1p-11 + 0x1p-25);
    for (int i = 0; i < 32; i++) {
        const double quotient = i < n && top > 0 ? x[i] / (top / 127) : 0;
        assert_true(fabs((int8_t)block[2 + i] - quotient) <= 0.5 + 1e-4);
        if (i < n) assert_true(fabs((int8_t)block[2 + i] * scale - x[i]) <= top / 254 * 1.0001 + top * 0x1p-11 + 127 * 0x1p-25);
    }
}

static void rounding_is_the_formula(void **state) {
    (void)state;
    static const int dims[] = {1, 16, 32, 33, 64, 80, 128};
    static const gr_dtype types[] = {GR_F32, GR_BF16};
    enum { ROWS = 70, HEADS = 3 };
    for (size_t i = 0; i < GR_COUNT(dims) * GR_COUNT(types); i++) {
        const int dim = dims[i / 2], blocks = (dim + 31) / 32;
        kcase t = {.dev = kcase_device(GR_CPU_GENERIC, 2), .dt = types[i % 2], .seed = i};
        kpair x = kcase_random(&t, t.dt, ROWS * HEADS * dim, i % 3 ? 3 : 1e-4);
        memset(x.x, 0, gr_dtype_bytes(t.dt, (size_t)dim));
        memset(x.ref, 0, (size_t)dim * sizeof(double));
        uint8_t *to = kcase_alloc(&t, ROWS * HEADS * (size_t)blocks * 34);
        assert_int_equal(gr_kv_row_bytes(t.dt, GR_KV_INT8, HEADS, dim), HEADS * blocks * 34);
        t.dev->k->keep_kv(t.dev, t.dt, GR_KV_INT8, ROWS, HEADS, dim, x.x, HEADS * dim, to, HEADS * blocks, 0);
        for (int h = 0; h < ROWS * HEADS; h++)
            for (int b = 0; b < blocks; b++) check_block(x.ref + h * dim + 32 * b, GR_MIN(dim - 32 * b, 32), to + (h * blocks + b) * 34);
        for (int k = 0; k < t.n_owned; k++) gr_free_aligned(NULL, t.owned[k]);
    }
}

/* What is not finite is not made a number. */
static void not_finite_stays(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    gr_device *d = kcase_device(GR_CPU_GENERIC, 1);
    for (size_t i = 0; i < GR_COUNT(bad); i++) {
        float x[64] = {0};
        uint8_t to[68];
        x[5] = bad[i];
        x[40] = 2;
        d->k->keep_kv(d, GR_F32, GR_KV_INT8, 1, 1, 64, x, 64, to, 2, 0);
        float out[64];
        assert_ok(gr_dequantize_row(GR_Q8_0, to, 64, out, &err));
        assert_true(isnan(out[5]) && isnan(out[0]) && fabsf(out[40] - 2) < 1e-3f && out[41] == 0);
    }
}

/* --- Attention -------------------------------------------------------------------------------------------------------- */

typedef struct kept_case {
    gr_attention a, ref;
    gr_attention_seq seq, ref_seq;
    gr_kv_segment seg[3], ref_seg[3];
    kpair q, out, lse;
} kept_case;

/* One segment in format f, and in double what its rows say. */
static void add_segment(kcase *t, kept_case *p, gr_kv_format f, int64_t n, int64_t pos) {
    const int heads = p->a.n_kv_heads, dim = p->a.head_dim, at = p->seq.n_segments++;
    const int64_t width = (int64_t)heads * dim;
    kpair x[2] = {kcase_random(t, t->dt, n * width, 1), kcase_random(t, t->dt, n * width, 1)};
    const size_t unit = unit_bytes(t, f);
    const int64_t size = kept_size(f, dim), more = (int64_t)kcase_draw(t, 2);
    const bool apart = kcase_draw(t, 2); /* each head's rows by themselves */
    const int64_t ld = apart ? size + more : heads * size + more, head = apart ? n * ld : size;
    char *to[2];
    for (int w = 0; w < 2; w++) {
        to[w] = kcase_alloc(t, (size_t)(heads * n * (size + 1) + n) * unit);
        t->dev->k->keep_kv(t->dev, t->dt, f, n, heads, dim, x[w].x, width, to[w], ld, apart ? head : 0);
        for (int64_t i = 0; f != GR_KV_COMPUTED && i < n * width; i++)
            x[w].ref[i] = kept_value(f, to[w] + (size_t)(i / width * ld + i % width / dim * head) * unit, i % dim);
    }
    p->seg[at] = (gr_kv_segment){.format = f, .k = to[0], .v = to[1], .k_ld = ld, .v_ld = ld, .head = apart ? head : 0, .n = n, .pos = pos};
    p->ref_seg[at] = (gr_kv_segment){.k = x[0].ref, .v = x[1].ref, .k_ld = width, .v_ld = width, .n = n, .pos = pos};
}

static void kept_rows_case(kcase *t) {
    static const int dims[] = {8, 16, 32, 48, 64, 64, 80, 96, 128};
    static const int heads[][2] = {{1, 1}, {4, 2}, {9, 3}, {8, 1}};
    const int *h = heads[kcase_draw(t, GR_COUNT(heads))];
    kept_case p = {.a = {.dt = t->dt, .n_heads = h[0], .n_kv_heads = h[1], .head_dim = dims[kcase_draw(t, GR_COUNT(dims))],
                         .causal = true, .n_seqs = 1}};
    p.a.scale = 1 / sqrt(p.a.head_dim);
    if (kcase_draw(t, 3) == 0) p.a.window = 1 + (int64_t)kcase_draw(t, 100);
    int64_t pos = 0;
    for (int i = 0; i < 3; i++) {
        const int64_t n = 1 + (int64_t)kcase_draw(t, 130);
        add_segment(t, &p, (gr_kv_format)kcase_draw(t, 3), n, pos);
        pos += n;
    }
    const int64_t ld = (int64_t)h[0] * p.a.head_dim;
    p.seq.q_len = 1 + (int64_t)kcase_draw(t, 60);
    p.seq.q_pos = pos - p.seq.q_len;
    if (p.seq.q_pos < 0) p.seq.q_pos = 0;
    p.seq.segments = p.seg;
    p.q = kcase_random(t, t->dt, p.seq.q_len * ld, 1.5);
    p.out = kcase_zeros(t, t->dt, p.seq.q_len * ld);
    p.lse = kcase_zeros(t, GR_F32, p.seq.q_len * h[0]);
    p.a.q = p.q.x, p.a.out = p.out.x, p.a.lse = p.lse.x, p.a.q_ld = p.a.out_ld = ld, p.a.seqs = &p.seq;
    p.ref = p.a;
    p.ref_seq = p.seq;
    p.ref_seq.segments = p.ref_seg;
    p.ref.dt = GR_F64, p.ref.q = p.q.ref, p.ref.out = p.out.ref, p.ref.lse = (float *)(void *)p.lse.ref, p.ref.seqs = &p.ref_seq;
    t->rows = p.seq.q_len;
    t->cols = p.a.head_dim;
    p.a.scratch = kcase_alloc(t, gr_attention_scratch(&p.a, 3, false));
    p.ref.scratch = kcase_alloc(t, gr_attention_scratch(&p.ref, 3, false));
    for (int64_t i = 0, m = t->split ? 1 : p.seq.q_len; i < p.seq.q_len; i += m) {
        gr_attention_seq part = p.seq;
        part.q_begin = i, part.q_pos += i, part.q_len = m;
        gr_attention one = p.a;
        one.seqs = &part;
        t->dev->k->attention(t->dev, &one);
    }
    t->ref->k->attention(t->ref, &p.ref);
    if (t->seed % 6 == 0) return; /* poisoned: a masked key that is not finite may spoil its block */
    kcase_check(t, "attention over kept rows", p.out, t->dt == GR_BF16 ? 1.2e-2 : 3e-6, 1);
    kcase_check(t, "lse over kept rows", p.lse, t->dt == GR_BF16 ? 4e-3 : 3e-6, 1);
}

static void levels_agree(void **state) {
    (void)state;
    kcase_run("kept rows", kept_rows_case, 18);
}

/* --- Sequences through a model ------------------------------------------------------------------------------------------ */

static const char *const decoders[] = {"llama", "llama_dynamic", "mistral", "qwen3", "smollm3_sliding"};
enum { N = 75, MATES = 2 };

/* Logits of the sequence's rows begin .. end-1 with `q` as its history, in a batch behind `mates` other sequences. */
static void run_part(graft_model *m, gr_kv_seq *q, int begin, int end, int mates, float *out) {
    static const int mate_lengths[MATES] = {3, 11}, mate_seeds[MATES] = {7, 8}, seed = 1, n = N;
    int lengths[MATES + 1], seeds[MATES + 1];
    const gr_kv *kv[MATES + 1] = {NULL};
    const int64_t vocab = graft_model_vocab_size(m);
    test_batch b, whole;
    for (int i = 0; i < mates; i++) lengths[i] = mate_lengths[i], seeds[i] = mate_seeds[i];
    lengths[mates] = end - begin, seeds[mates] = seed;
    test_fill_batch(&b, vocab, mates + 1, lengths, seeds);
    test_fill_batch(&whole, vocab, 1, &n, &seed);
    const int first = b.bounds[mates];
    memcpy(b.ids + first, whole.ids + begin, (size_t)(end - begin) * sizeof *b.ids);
    assert_int_equal(q->length, begin);
    assert_ok(gr_kv_seq_extend(q, end - begin, &err));
    kv[mates] = &q->kv;
    b.batch.kv = kv;
    float *y = test_logits(m->model, NULL, &b.batch);
    memcpy(out + begin * vocab, y + first * vocab, (size_t)((end - begin) * vocab) * sizeof *out);
    free(y);
    q->length += end - begin;
}

/* Cut at random, part of it behind other sequences; from half of it on as a fork whose blocks another one goes on with, too. */
static void run_cut(graft_model *m, gr_kv_store *store, uint64_t seed, float *out, float *spare) {
    gr_kv_seq q[2];
    kcase t = {.seed = seed};
    gr_kv_seq_init(&q[0], store);
    gr_kv_seq_init(&q[1], store);
    int at = 0;
    while (at < N / 2) {
        const int step = 1 + (int)kcase_draw(&t, 13), end = GR_MIN(at + step, N / 2);
        run_part(m, &q[0], at, end, (int)kcase_draw(&t, MATES + 1), out);
        at = end;
    }
    assert_ok(gr_kv_seq_fork(&q[1], &q[0], at, &err));
    run_part(m, &q[0], at, at + 2, 0, spare);
    gr_kv_seq_truncate(&q[0], at); /* as tokens that were proposed and dropped */
    run_part(m, &q[0], at, at + 5, 0, spare);
    while (at < N) {
        const int step = 1 + (int)kcase_draw(&t, 20), end = GR_MIN(at + step, N);
        run_part(m, &q[1], at, end, (int)kcase_draw(&t, MATES + 1), out);
        at = end;
    }
    gr_kv_seq_free(&q[0]);
    gr_kv_seq_free(&q[1]);
}

static void check_decoder(const char *name, graft_dtype dtype, gr_kv_format format) {
    float *first = NULL;
    for (int threads = 1; threads <= 2; threads++) {
        graft_context *ctx = test_context(NULL, threads, NULL);
        graft_model *m = test_load(ctx, test_model_path(name), dtype);
        const int64_t vocab = graft_model_vocab_size(m);
        const size_t n = (size_t)(N * vocab);
        float *cut = calloc(n, sizeof *cut), *spare = calloc(n, sizeof *spare), *once = calloc(n, sizeof *once);
        gr_kv_store *store;
        gr_kv_seq q;
        assert_ok(gr_kv_store_new(m->model, format, &store, &err));
        gr_kv_seq_init(&q, store);
        run_part(m, &q, 0, N, 0, once);
        gr_kv_seq_free(&q);
        for (uint64_t seed = 1; seed <= 3 && strcmp(name, "llama_dynamic") != 0; seed++) { /* whose angles go by what there is */
            run_cut(m, store, seed, cut, spare);
            test_assert_same_floats(once, cut, n, name);
        }
        if (first) test_assert_same_floats(first, once, n, name);
        gr_kv_store_free(store);
        graft_model_free(m);
        graft_context_free(ctx);
        free(cut);
        free(spare);
        free(first);
        first = once;
    }
    free(first);
}

static void sequences_get_the_same_bits(void **state) {
    (void)state;
    for (size_t i = 0; i < GR_COUNT(decoders); i++) {
        check_decoder(decoders[i], GRAFT_DTYPE_F32, GR_KV_COMPUTED);
        check_decoder(decoders[i], GRAFT_DTYPE_F32, GR_KV_BF16);
        check_decoder(decoders[i], GRAFT_DTYPE_F32, GR_KV_INT8);
        check_decoder(decoders[i], GRAFT_DTYPE_BF16, GR_KV_INT8);
    }
}

/* Root mean square of what a format changes in the logits, over that of the logits. */
static double change(graft_model *m, gr_kv_format format) {
    const int64_t n = N * graft_model_vocab_size(m);
    float *x = calloc((size_t)n, sizeof *x), *y = calloc((size_t)n, sizeof *y);
    double difference = 0, size = 0;
    for (int k = 0; k < 2; k++) {
        gr_kv_store *store;
        gr_kv_seq q;
        assert_ok(gr_kv_store_new(m->model, k ? format : GR_KV_COMPUTED, &store, &err));
        gr_kv_seq_init(&q, store);
        run_part(m, &q, 0, N, 0, k ? y : x);
        gr_kv_seq_free(&q);
        gr_kv_store_free(store);
    }
    for (int64_t i = 0; i < n; i++) {
        difference += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        size += (double)x[i] * (double)x[i];
    }
    free(x);
    free(y);
    return sqrt(difference / size);
}

static void logits_change_little(void **state) {
    (void)state;
    for (size_t i = 0; i < GR_COUNT(decoders); i++) {
        graft_context *ctx = test_context(NULL, 1, NULL);
        graft_model *m = test_load(ctx, test_model_path(decoders[i]), GRAFT_DTYPE_F32);
        const double bf16 = change(m, GR_KV_BF16), int8 = change(m, GR_KV_INT8);
        if (!(bf16 > 0 && bf16 < 4e-3 && int8 > 0 && int8 < 1e-2)) fail_msg("%s: bf16 changes %g, int8 %g", decoders[i], bf16, int8);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

/* --- What a batch may hold ------------------------------------------------------------------------------------------------ */

static void wrong_batches_are_refused(void **state) {
    (void)state;
    static const int lengths[] = {4, 3}, seeds[] = {1, 2};
    static const int32_t parent[] = {-1, 0};
    static const bool blind[] = {true, false};
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_model_path("llama"), GRAFT_DTYPE_F32);
    const int layers = gr_model_kv_layers(m->model);
    gr_kv_store *store;
    gr_kv_seq q;
    test_batch b;
    assert_ok(gr_kv_store_new(m->model, GR_KV_INT8, &store, &err));
    gr_kv_seq_init(&q, store);
    assert_ok(gr_kv_seq_extend(&q, 4, &err));
    const gr_kv *const kv[] = {&q.kv, NULL};
    for (int k = 0; k < 3; k++) {
        test_fill_batch(&b, 96, 2, lengths, seeds);
        b.batch.kv = kv;
        if (k == 0) b.batch.parent = parent;
        if (k == 1) b.batch.blind = blind;
        if (k == 2) assert_ok(gr_kv_seq_extend(&q, 0, &err)); /* the sequence's own rows are not there */
        graft_error wrong;
        assert_int_equal(gr_batch_check(&b.batch, 96, layers, 0, &wrong), GRAFT_ERR_ARGUMENT);
        assert_non_null(strstr(wrong.text, k < 2 ? "as they are kept" : "rows"));
    }
    gr_kv_seq_free(&q);
    gr_kv_store_free(store);
    graft_model_free(m);
    graft_context_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounding_is_the_formula),
        cmocka_unit_test(not_finite_stays),
        cmocka_unit_test(levels_agree),
        cmocka_unit_test(sequences_get_the_same_bits),
        cmocka_unit_test(logits_change_little),
        cmocka_unit_test(wrong_batches_are_refused),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    kcase_close();
    return failed;
}
