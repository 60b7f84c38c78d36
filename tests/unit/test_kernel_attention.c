/* Room kernel: attention. The portable kernel in double against the formula written out and against finite differences;
 * every level, in F32 and BF16, against the portable one in double; the same bits for any number of threads, for a query
 * alone or among others, and for the same keys in other segments. */
#include <math.h>

#include "support/kernel_cases.h"

enum { MAX_SEQS = 4, MAX_SEGMENTS = 4 };

/* One random problem. Arrays in the type under test and in double; segments own their rows. */
typedef struct problem {
    gr_attention a, ref;
    gr_attention_seq seq[MAX_SEQS], ref_seq[MAX_SEQS];
    gr_kv_segment seg[MAX_SEQS][MAX_SEGMENTS], ref_seg[MAX_SEQS][MAX_SEGMENTS];
    kpair q, out, lse, dout, dq, table, dtable, k[MAX_SEQS][MAX_SEGMENTS], v[MAX_SEQS][MAX_SEGMENTS], dk[MAX_SEQS][MAX_SEGMENTS],
        dv[MAX_SEQS][MAX_SEGMENTS];
    int64_t rows;
} problem;

static void make_segment(kcase *t, problem *p, int s, int i, int64_t n, int64_t pos, bool always) {
    const int64_t width = (int64_t)p->a.n_kv_heads * p->a.head_dim, ld = width + (int64_t)kcase_draw(t, 3);
    const bool add = kcase_draw(t, 4) == 0, wants = kcase_draw(t, 5) > 0;
    p->k[s][i] = kcase_random(t, t->dt, n * ld, 1);
    p->v[s][i] = kcase_random(t, t->dt, n * ld, 1);
    p->dk[s][i] = kcase_random(t, t->dt, n * ld, 1);
    p->dv[s][i] = kcase_random(t, t->dt, n * ld, 1);
    gr_kv_segment seg = {.k = p->k[s][i].x, .v = p->v[s][i].x, .k_ld = ld, .v_ld = ld, .n = n, .pos = pos, .always = always,
                         .dk = wants ? p->dk[s][i].x : NULL, .dv = wants ? p->dv[s][i].x : NULL, .dk_ld = ld, .dv_ld = ld,
                         .add = add};
    p->seg[s][i] = p->ref_seg[s][i] = seg;
    p->ref_seg[s][i].k = p->k[s][i].ref;
    p->ref_seg[s][i].v = p->v[s][i].ref;
    p->ref_seg[s][i].dk = wants ? p->dk[s][i].ref : NULL;
    p->ref_seg[s][i].dv = wants ? p->dv[s][i].ref : NULL;
}

/* Virtual rows, then history, then the sequence's own rows. */
static void make_sequence(kcase *t, problem *p, int s, int64_t max_len) {
    gr_attention_seq *seq = &p->seq[s];
    *seq = (gr_attention_seq){.q_begin = p->rows, .q_len = 1 + (int64_t)kcase_draw(t, (uint64_t)max_len), .segments = p->seg[s]};
    if (kcase_draw(t, 6) == 0) seq->q_len = 1;
    int64_t pos = 0;
    if (kcase_draw(t, 3) == 0) make_segment(t, p, s, seq->n_segments++, (int64_t)kcase_draw(t, 20), 0, true);
    for (int i = (int)kcase_draw(t, 3); i > 0; i--) {
        int64_t n = (int64_t)kcase_draw(t, (uint64_t)max_len);
        make_segment(t, p, s, seq->n_segments++, n, pos, false);
        pos += n;
    }
    seq->q_pos = pos;
    make_segment(t, p, s, seq->n_segments++, seq->q_len, pos, false);
    p->rows += seq->q_len;
    p->ref_seq[s] = *seq;
    p->ref_seq[s].segments = p->ref_seg[s];
}

/* A position bias of any shape that the kernel takes. */
static void make_bias(kcase *t, problem *p) {
    gr_position_bias *b = &p->a.bias;
    *b = (gr_position_bias){.buckets = 4 + (int)kcase_draw(t, 40), .bidirectional = kcase_draw(t, 2)};
    b->max_distance = b->buckets / (b->bidirectional ? 4 : 2) + 1 + (int)kcase_draw(t, 130);
    const int64_t table = (int64_t)b->buckets * p->a.n_heads;
    p->table = kcase_random(t, GR_F32, table, 1);
    p->dtable = kcase_random(t, GR_F32, table * p->a.n_seqs, 1); /* overwritten */
    b->table = p->table.x;
    if (kcase_draw(t, 4)) b->dtable = p->dtable.x;
}

static void make_problem(kcase *t, problem *p, int64_t max_len) {
    static const int dims[] = {1, 2, 5, 8, 16, 24, 32, 33, 64, 64, 80, 96, 128};
    static const int heads[][2] = {{1, 1}, {2, 1}, {3, 1}, {4, 2}, {6, 2}, {9, 3}, {4, 4}, {8, 1}};
    const int *h = heads[kcase_draw(t, GR_COUNT(heads))];
    memset(p, 0, sizeof *p);
    p->a = (gr_attention){.dt = t->dt, .n_heads = h[0], .n_kv_heads = h[1], .head_dim = dims[kcase_draw(t, GR_COUNT(dims))],
                          .causal = kcase_draw(t, 4) > 0, .n_seqs = 1 + (int)kcase_draw(t, MAX_SEQS), .seqs = p->seq};
    p->a.scale = 1 / sqrt(p->a.head_dim);
    if (kcase_draw(t, 4) == 0) p->a.window = 1 + (int64_t)kcase_draw(t, 100);
    for (int s = 0; s < p->a.n_seqs; s++) make_sequence(t, p, s, max_len);
    const int64_t ld = (int64_t)p->a.n_heads * p->a.head_dim + (int64_t)kcase_draw(t, 3);
    p->q = kcase_random(t, t->dt, p->rows * ld, 1.5);
    p->out = kcase_zeros(t, t->dt, p->rows * ld);
    p->dout = kcase_random(t, t->dt, p->rows * ld, 1);
    p->dq = kcase_zeros(t, t->dt, p->rows * ld);
    p->lse = kcase_zeros(t, GR_F32, p->rows * p->a.n_heads);
    p->a.q = p->q.x, p->a.out = p->out.x, p->a.dout = p->dout.x, p->a.dq = p->dq.x, p->a.lse = p->lse.x;
    p->a.q_ld = p->a.out_ld = p->a.dout_ld = p->a.dq_ld = ld;
    if (kcase_draw(t, 2)) make_bias(t, p);
    if (kcase_draw(t, 3) == 0) { /* identities of the rows that are not their numbers, in every other case */
        uint64_t *key = kcase_alloc(t, (size_t)p->rows * sizeof *key);
        for (int64_t i = 0; i < p->rows; i++) key[i] = 1000 + 77 * (uint64_t)i;
        p->a.drop = (gr_attention_dropout){kcase_draw(t, 2) ? 0.3 : 0.05, 9, 5, kcase_draw(t, 2) ? key : NULL};
    }
    p->ref = p->a;
    p->ref.bias.table = p->table.ref;
    p->ref.bias.dtable = p->a.bias.dtable ? p->dtable.ref : NULL;
    p->ref.dt = GR_F64;
    p->ref.seqs = p->ref_seq;
    p->ref.q = p->q.ref, p->ref.out = p->out.ref, p->ref.dout = p->dout.ref, p->ref.dq = p->dq.ref;
    p->ref.lse = (float *)(void *)p->lse.ref;
}

static void give_scratch(kcase *t, gr_attention *a, bool backward) {
    a->scratch = kcase_alloc(t, gr_attention_scratch(a, 3, backward));
}

/* Each query in a call of its own. */
static void forward_one_by_one(kcase *t, const gr_attention *a) {
    for (int s = 0; s < a->n_seqs; s++)
        for (int64_t i = 0; i < a->seqs[s].q_len; i++) {
            gr_attention_seq seq = a->seqs[s];
            seq.q_begin += i;
            seq.q_pos += i;
            seq.q_len = 1;
            gr_attention one = *a;
            one.n_seqs = 1;
            one.seqs = &seq;
            t->dev->k->attention(t->dev, &one);
        }
}

static void attention_case(kcase *t) {
    problem p;
    make_problem(t, &p, 120);
    t->rows = p.rows;
    t->cols = p.a.head_dim;
    const bool poisoned = t->seed % 6 == 0; /* a masked key that is not finite may spoil its block: only no crash */
    give_scratch(t, &p.a, false);
    if (t->split)
        forward_one_by_one(t, &p.a);
    else
        t->dev->k->attention(t->dev, &p.a);
    give_scratch(t, &p.ref, false);
    t->ref->k->attention(t->ref, &p.ref);
    if (poisoned) return;
    const double tol = t->dt == GR_BF16 ? 8e-3 : 3e-6;
    kcase_check(t, "attention", p.out, tol, 1);
    kcase_check(t, "attention lse", p.lse, t->dt == GR_BF16 ? 1e-5 : 3e-6, 1);

    /* The backward from the reference's own results, rounded. */
    t->ref->k->convert(t->ref, GR_F64, p.out.ref, t->dt, p.out.x, p.out.n);
    t->ref->k->convert(t->ref, GR_F64, p.lse.ref, GR_F32, p.lse.x, p.lse.n);
    t->ref->k->convert(t->ref, t->dt, p.out.x, GR_F64, p.out.ref, p.out.n);
    give_scratch(t, &p.a, true);
    t->dev->k->attention_backward(t->dev, &p.a);
    give_scratch(t, &p.ref, true);
    t->ref->k->attention_backward(t->ref, &p.ref);
    const double back = t->dt == GR_BF16 ? 2e-2 : 2e-5;
    kcase_check(t, "attention_backward dq", p.dq, back, 1);
    kcase_check(t, "attention_backward bias", p.dtable, back, 8);
    for (int s = 0; s < p.a.n_seqs; s++)
        for (int i = 0; i < p.seq[s].n_segments; i++) {
            kcase_check(t, "attention_backward dk", p.dk[s][i], back, 4);
            kcase_check(t, "attention_backward dv", p.dv[s][i], back, 4);
        }
}

static void levels_agree(void **state) {
    (void)state;
    kcase_run("attention", attention_case, 14);
}

/* --- The same bits for the same keys in other segments ------------------------------------------------------------- */

static void segments_do_not_matter(void **state) {
    (void)state;
    static const gr_dtype types[] = {GR_F32, GR_BF16};
    enum { HEADS = 4, KV = 2, DIM = 32, N = 200, Q = 70, LD = KV * DIM };
    for (int level = 0; level < GR_CPU_LEVEL_COUNT; level++)
        for (size_t which = 0; which < 2 * GR_COUNT(types); which++) {
            const size_t type = which / 2;
            const bool with_bias = which % 2;
            gr_device *d = kcase_device((gr_cpu_level)level, 2);
            if (!d) continue;
            kcase t = {.dev = d, .dt = types[type], .seed = 5};
            kpair q = kcase_random(&t, t.dt, Q * HEADS * DIM, 1), k = kcase_random(&t, t.dt, N * LD, 1),
                  v = kcase_random(&t, t.dt, N * LD, 1);
            kpair table = kcase_random(&t, GR_F32, 32 * HEADS, 1);
            kpair one = kcase_zeros(&t, t.dt, q.n), three = kcase_zeros(&t, t.dt, q.n);
            gr_kv_segment whole = {.k = k.x, .v = v.x, .k_ld = LD, .v_ld = LD, .n = N}, cut[3] = {whole, whole, whole};
            const int64_t at[4] = {0, 37, 150, N};
            for (int i = 0; i < 3; i++) {
                cut[i].k = kelement(t.dt, k.x, at[i] * LD);
                cut[i].v = kelement(t.dt, v.x, at[i] * LD);
                cut[i].n = at[i + 1] - at[i];
                cut[i].pos = at[i];
            }
            gr_attention_seq seq = {.q_len = Q, .q_pos = N - Q, .n_segments = 1, .segments = &whole};
            gr_attention a = {.dt = t.dt, .n_heads = HEADS, .n_kv_heads = KV, .head_dim = DIM, .scale = 0.2, .causal = true,
                              .q = q.x, .q_ld = HEADS * DIM, .out = one.x, .out_ld = HEADS * DIM, .n_seqs = 1, .seqs = &seq};
            if (with_bias) a.bias = (gr_position_bias){.table = table.x, .buckets = 32, .max_distance = 128};
            a.scratch = kcase_alloc(&t, gr_attention_scratch(&a, 2, false));
            d->k->attention(d, &a);
            seq.n_segments = 3;
            seq.segments = cut;
            a.out = three.x;
            d->k->attention(d, &a);
            assert_memory_equal(one.x, three.x, gr_dtype_bytes(t.dt, (size_t)q.n));
            for (int i = 0; i < t.n_owned; i++) gr_free_aligned(NULL, t.owned[i]);
        }
}

/* --- The portable kernel in double -------------------------------------------------------------------------------- */

/* Dropout's factor of one probability, from the generator itself. */
static double keeps(const gr_attention *a, int64_t row, int head, int64_t key) {
    uint32_t draw[4];
    if (a->drop.p == 0) return 1;
    const uint64_t place = ((uint64_t)head + 1) << 32 | (uint64_t)key / 64;
    const uint64_t stream = a->drop.stream ^ place * 0xD6E8FEB86659FD93u ^ ((uint64_t)key % 64 / 4) * 0x9E3779B97F4A7C15u;
    gr_rng_draw4(a->drop.seed, stream, a->drop.key ? a->drop.key[row] : (uint64_t)row, draw);
    return draw[key % 4] < (uint32_t)(a->drop.p * 0x1p32) ? 0 : 1 / (1 - a->drop.p);
}

/* dropout(softmax(scale Q K^T + mask)) V, written out. Returns sum(out * weight). */
static double formula(const gr_attention *a, double *out) {
    double total = 0;
    for (int s = 0; s < a->n_seqs; s++)
        for (int64_t i = 0; i < a->seqs[s].q_len; i++)
            for (int h = 0; h < a->n_heads; h++) {
                const gr_attention_seq *seq = &a->seqs[s];
                const int64_t row = seq->q_begin + i, pos = seq->q_pos + i, kv = (int64_t)(h / (a->n_heads / a->n_kv_heads)) * a->head_dim;
                const double *q = (const double *)a->q + row * a->q_ld + h * a->head_dim;
                double denom = 0, sum[128] = {0};
                int64_t number = 0;
                for (int g = 0; g < seq->n_segments; g++)
                    for (int64_t j = 0; j < seq->segments[g].n; j++) {
                        const gr_kv_segment *seg = &seq->segments[g];
                        int64_t key = seg->pos + j;
                        const double kept = keeps(a, row, h, number++);
                        if (!seg->always && ((a->causal && key > pos) || (a->window > 0 && key <= pos - a->window))) continue;
                        double dot = 0;
                        for (int c = 0; c < a->head_dim; c++) dot += q[c] * ((const double *)seg->k)[j * seg->k_ld + kv + c];
                        double bias = 0;
                        if (a->bias.table)
                            bias = ((const double *)a->bias.table)[gr_position_bucket(&a->bias, key - pos) * a->n_heads + h];
                        double e = exp(dot * a->scale + bias);
                        denom += e;
                        for (int c = 0; c < a->head_dim; c++) sum[c] += kept * e * ((const double *)seg->v)[j * seg->v_ld + kv + c];
                    }
                for (int c = 0; c < a->head_dim; c++) {
                    int64_t at = row * a->out_ld + h * a->head_dim + c;
                    double o = denom > 0 ? sum[c] / denom : 0;
                    if (out) out[at] = o;
                    total += o * ((const double *)a->dout)[at];
                }
            }
    return total;
}

static void check_gradient(const gr_attention *a, double *x, const double *grad, int64_t n, kcase *t) {
    for (int tries = 0; tries < 12 && n > 0; tries++) {
        int64_t i = (int64_t)kcase_draw(t, (uint64_t)n);
        const double step = 1e-5, held = x[i];
        x[i] = held + step;
        double up = formula(a, NULL);
        x[i] = held - step;
        double down = formula(a, NULL);
        x[i] = held;
        if (fabs((up - down) / (2 * step) - grad[i]) > 1e-6) fail_msg("gradient %g, by differences %g", grad[i], (up - down) / (2 * step));
    }
}

static void portable_is_the_formula(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 25; seed++) {
        kcase t = {.dev = kcase_device(GR_CPU_GENERIC, 2), .dt = GR_F32, .seed = seed};
        problem p;
        make_problem(&t, &p, 20);
        double *want = kcase_alloc(&t, (size_t)p.out.n * sizeof *want);
        formula(&p.ref, want);
        give_scratch(&t, &p.ref, false);
        t.dev->k->attention(t.dev, &p.ref);
        for (int64_t i = 0; i < p.out.n; i++) assert_true(fabs(p.out.ref[i] - want[i]) < 1e-12);
        give_scratch(&t, &p.ref, true);
        for (int s = 0; s < p.a.n_seqs; s++)
            for (int i = 0; i < p.seq[s].n_segments; i++) {
                memset(p.dk[s][i].ref, 0, (size_t)p.dk[s][i].n * 8);
                memset(p.dv[s][i].ref, 0, (size_t)p.dv[s][i].n * 8);
            }
        t.dev->k->attention_backward(t.dev, &p.ref);
        check_gradient(&p.ref, p.q.ref, p.dq.ref, p.q.n, &t);
        for (int s = 1; p.a.bias.dtable && s < p.a.n_seqs; s++)
            for (int64_t i = 0; i < p.table.n; i++) p.dtable.ref[i] += p.dtable.ref[s * p.table.n + i];
        if (p.a.bias.dtable) check_gradient(&p.ref, p.table.ref, p.dtable.ref, p.table.n, &t);
        for (int s = 0; s < p.a.n_seqs; s++)
            for (int i = 0; i < p.seq[s].n_segments; i++) {
                if (!p.seg[s][i].dk) continue;
                check_gradient(&p.ref, p.k[s][i].ref, p.dk[s][i].ref, p.k[s][i].n, &t);
                check_gradient(&p.ref, p.v[s][i].ref, p.dv[s][i].ref, p.v[s][i].n, &t);
            }
        for (int i = 0; i < t.n_owned; i++) gr_free_aligned(NULL, t.owned[i]);
    }
}

/* A key segment that several sequences share, with its gradient added up. */
static void shared_segment_gets_every_gradient(void **state) {
    (void)state;
    enum { DIM = 16, P = 10, Q = 5, SEQS = 3 };
    for (int level = 0; level < GR_CPU_LEVEL_COUNT; level++) {
        gr_device *d = kcase_device((gr_cpu_level)level, 3);
        if (!d) continue;
        kcase t = {.dev = d, .dt = GR_F32, .seed = 3};
        kpair q = kcase_random(&t, GR_F32, SEQS * Q * DIM, 1), k = kcase_random(&t, GR_F32, P * DIM, 1), v = kcase_random(&t, GR_F32, P * DIM, 1),
              dout = kcase_random(&t, GR_F32, SEQS * Q * DIM, 1), out = kcase_zeros(&t, GR_F32, q.n), dq = kcase_zeros(&t, GR_F32, q.n);
        kpair dk = kcase_zeros(&t, GR_F32, k.n), dv = kcase_zeros(&t, GR_F32, k.n), lse = kcase_zeros(&t, GR_F32, SEQS * Q);
        gr_kv_segment seg = {.k = k.x, .v = v.x, .k_ld = DIM, .v_ld = DIM, .n = P, .always = true, .dk = dk.x, .dv = dv.x, .dk_ld = DIM,
                             .dv_ld = DIM, .add = true};
        gr_attention_seq seqs[SEQS];
        for (int s = 0; s < SEQS; s++) seqs[s] = (gr_attention_seq){.q_begin = s * Q, .q_len = Q, .n_segments = 1, .segments = &seg};
        gr_attention a = {.dt = GR_F32, .n_heads = 1, .n_kv_heads = 1, .head_dim = DIM, .scale = 0.25, .q = q.x, .q_ld = DIM, .out = out.x, .out_ld = DIM,
                          .lse = lse.x, .n_seqs = SEQS, .seqs = seqs, .dout = dout.x, .dout_ld = DIM, .dq = dq.x, .dq_ld = DIM};
        give_scratch(&t, &a, true);
        d->k->attention(d, &a);
        d->k->attention_backward(d, &a);
        /* One sequence of all queries is the same sum. */
        kpair dk1 = kcase_zeros(&t, GR_F32, k.n), dv1 = kcase_zeros(&t, GR_F32, k.n);
        seg.dk = dk1.x, seg.dv = dv1.x;
        a.n_seqs = 1;
        seqs[0].q_len = SEQS * Q;
        d->k->attention_backward(d, &a);
        for (int64_t i = 0; i < k.n; i++) {
            assert_true(fabsf(((float *)dk.x)[i] - ((float *)dk1.x)[i]) < 1e-5f);
            assert_true(fabsf(((float *)dv.x)[i] - ((float *)dv1.x)[i]) < 1e-5f);
        }
        for (int i = 0; i < t.n_owned; i++) gr_free_aligned(NULL, t.owned[i]);
    }
}

/* tools/golden/make_position_buckets.py */
static void buckets_are_those_of_transformers(void **state) {
    (void)state;
    gr_position_bias b = {0};
    FILE *f = fopen(test_golden("attention/position_buckets.txt"), "r");
    int both, runs, settings = 0;
    assert_non_null(f);
    while (fscanf(f, "%d %d %d %d", &both, &b.buckets, &b.max_distance, &runs) == 4) {
        b.bidirectional = both;
        settings++;
        for (int at = -2500, end, bucket; runs > 0; runs--) {
            assert_int_equal(fscanf(f, "%d %d", &end, &bucket), 2);
            for (; at <= end; at++)
                if (gr_position_bucket(&b, at) != bucket)
                    fail_msg("distance %d of %d buckets to %d (both ways: %d): expected %d, got %d", at, b.buckets,
                             b.max_distance, both, bucket, gr_position_bucket(&b, at));
        }
    }
    assert_true(settings > 60);
    fclose(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(portable_is_the_formula),
        cmocka_unit_test(levels_agree),
        cmocka_unit_test(segments_do_not_matter),
        cmocka_unit_test(shared_segment_gets_every_gradient),
        cmocka_unit_test(buckets_are_those_of_transformers),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    kcase_close();
    return failed;
}
