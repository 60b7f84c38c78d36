/* Low-rank updates of frozen factors: on every level a row has the bits of the two products that the op takes, whatever
 * other rows and factors are in the call, and for any number of threads. */
#include "support/kernel_cases.h"

enum { PARTS = 3, USES = 7, ROWS = 75, TRAIL = 5 };

typedef struct factors {
    int n;
    gr_low_rank_pair pair[PARTS];
    double scale[PARTS];
} factors;

typedef struct lcase {
    kcase t;
    gr_dtype dt;
    int64_t in, width, x_ld, y_ld;
    factors of[USES];
    int64_t begin[USES], end[USES];
    void *x, *y;
} lcase;

static float *floats(lcase *c, int64_t n, double spread) { return kcase_random(&c->t, GR_F32, n, spread).x; }

static void make(lcase *c, int64_t in, const int64_t *rank, int64_t spread_rows) {
    static const int64_t outs[PARTS] = {48, 70, 321};
    const double spread = c->t.seed % 4 == 3 ? 3e-19 : 1; /* products in and out of the range of normal numbers */
    int64_t row = 0;
    c->in = in;
    c->width = outs[0] + outs[1] + outs[2];
    c->x_ld = in + TRAIL;
    c->y_ld = c->width + TRAIL;
    for (int i = 0; i < USES; i++) {
        factors *f = &c->of[i];
        int64_t column = 0;
        for (int p = 0; p < PARTS; column += outs[p++]) {
            if (i % 3 == 1 && p == 1) continue; /* a module that this adapter leaves alone */
            const int64_t r = rank[(i + p) % 3];
            f->scale[f->n] = 0.25 * (i + 1) + p;
            f->pair[f->n++] = (gr_low_rank_pair){
                .rank = r, .out = outs[p], .column = column, .a = floats(c, r * in, spread),
                .b = floats(c, outs[p] * r, spread)};
        }
        row = GR_MIN(row + i % 2, (int64_t)ROWS); /* rows of nobody */
        c->begin[i] = row;
        row += spread_rows ? 1 + (int64_t)kcase_draw(&c->t, (uint64_t)spread_rows) : 1;
        if (i == 4) row = c->begin[i]; /* an adapter without rows */
        row = GR_MIN(row, (int64_t)ROWS);
        c->end[i] = row;
    }
    c->x = kcase_random(&c->t, c->dt, ROWS * c->x_ld, 1).x;
    c->y = kcase_random(&c->t, c->dt, ROWS * c->y_ld, spread < 1 ? 0 : 1).x;
}

/* As the op does it. */
static void expect(lcase *c, void *y) {
    kcase *t = &c->t;
    enum { MOST_RANK = 80, MOST = 2100 * MOST_RANK };
    void *a = kcase_alloc(t, MOST * sizeof(float)), *b = kcase_alloc(t, MOST * sizeof(float)),
         *u = kcase_alloc(t, ROWS * MOST_RANK * 4);
    for (int i = 0; i < USES; i++)
        for (int p = 0; p < c->of[i].n; p++) {
            const gr_low_rank_pair *q = &c->of[i].pair[p];
            const int64_t rows = c->end[i] - c->begin[i];
            t->dev->k->convert(t->dev, GR_F32, q->a, c->dt, a, q->rank * c->in);
            t->dev->k->convert(t->dev, GR_F32, q->b, c->dt, b, q->out * q->rank);
            assert_ok(gr_gemm(t->dev, false, true, rows, q->rank, c->in, 1, c->dt,
                              kelement(c->dt, c->x, c->begin[i] * c->x_ld), c->x_ld, a, c->in, 0, c->dt, u, q->rank,
                              &err));
            assert_ok(gr_gemm(t->dev, false, true, rows, q->out, q->rank, c->of[i].scale[p], c->dt, u, q->rank, b,
                              q->rank, 1, c->dt, kelement(c->dt, y, c->begin[i] * c->y_ld + q->column), c->y_ld, &err));
        }
}

/* All at once, or a row of one adapter at a time. */
static void apply(lcase *c, gr_device *d, bool alone, void *y) {
    gr_low_rank *f[USES];
    void *memory[USES];
    gr_low_rank_use uses[USES];
    for (int i = 0; i < USES; i++) {
        size_t bytes;
        assert_ok(gr_low_rank_planned_bytes(d, c->dt, c->in, c->of[i].n, c->of[i].pair, &bytes, &err));
        memory[i] = i % 2 ? gr_alloc_aligned(NULL, bytes) : NULL; /* the caller's, or its own */
        assert_ok(gr_low_rank_new(d, c->dt, c->in, c->of[i].n, c->of[i].pair, memory[i], &f[i], &err));
        assert_true(gr_low_rank_bytes(f[i]) > 0 && bytes % 64 == 0);
        uses[i] = (gr_low_rank_use){.f = f[i], .begin = c->begin[i], .end = c->end[i]};
        memcpy(uses[i].scale, c->of[i].scale, sizeof c->of[i].scale);
    }
    if (!alone) assert_ok(gr_low_rank_apply(d, USES, uses, c->x, c->x_ld, y, c->y_ld, &err));
    for (int i = 0; alone && i < USES; i++)
        for (int64_t r = c->begin[i]; r < c->end[i]; r++) {
            gr_low_rank_use one = uses[i];
            one.begin = r;
            one.end = r + 1;
            assert_ok(gr_low_rank_apply(d, 1, &one, c->x, c->x_ld, y, c->y_ld, &err));
        }
    for (int i = 0; i < USES; i++) {
        gr_low_rank_free(f[i]);
        gr_free_aligned(NULL, memory[i]);
    }
}

static void one_level(gr_cpu_level level, gr_dtype dt, int64_t in, const int64_t *rank, int64_t spread_rows,
                      uint64_t seed) {
    gr_device *d = kcase_device(level, 2);
    if (!d) return;
    lcase c = {.t = {.dev = d, .dt = dt, .seed = seed}, .dt = dt};
    make(&c, in, rank, spread_rows);
    const size_t bytes = gr_dtype_bytes(dt, (size_t)(ROWS * c.y_ld));
    void *want = kcase_alloc(&c.t, bytes), *got = kcase_alloc(&c.t, bytes);
    memcpy(want, c.y, bytes);
    expect(&c, want);
    for (int threads = 1; threads <= 3; threads++)
        for (int alone = 0; alone < 2; alone++) {
            memcpy(got, c.y, bytes);
            apply(&c, kcase_device(level, threads), alone, got);
            if (memcmp(want, got, bytes) != 0)
                fail_msg("level %s, %s, in %d, ranks from %d, %d threads%s: not the bits of the products",
                         gr_cpu_level_name(level), gr_dtype_name(dt), (int)in, (int)rank[0], threads,
                         alone ? ", rows alone" : "");
        }
    for (int i = 0; i < c.t.n_owned; i++) gr_free_aligned(NULL, c.t.owned[i]);
}

static void updates_are_those_of_products(void **state) {
    (void)state;
    static const int64_t ins[] = {576, 40, 65, 2100},
                         ranks[][3] = {{8, 8, 8}, {4, 16, 1}, {24, 3, 64}, {33, 80, 17}, {1, 1, 1}};
    for (int level = 0; level < GR_CPU_LEVEL_COUNT; level++)
        for (size_t i = 0; i < GR_COUNT(ins); i++)
            for (size_t r = 0; r < GR_COUNT(ranks); r++)
                for (int type = 0; type < 2; type++)
                    one_level((gr_cpu_level)level, type ? GR_BF16 : GR_F32, ins[i], ranks[r], (i + r) % 3 ? 40 : 0,
                              10 * i + r);
}

static void other_types_are_refused(void **state) {
    (void)state;
    static const float one = 1;
    const gr_low_rank_pair pair = {.rank = 1, .out = 1, .a = &one, .b = &one};
    gr_low_rank *f = NULL;
    graft_error err;
    gr_device *d = kcase_device(GR_CPU_GENERIC, 1);
    assert_int_equal(gr_low_rank_new(d, GR_F64, 1, 1, &pair, NULL, &f, &err), GRAFT_ERR_UNSUPPORTED);
    assert_null(f);
}

static int close_devices(void **state) {
    (void)state;
    kcase_close();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(updates_are_those_of_products),
                                       cmocka_unit_test(other_types_are_refused)};
    return cmocka_run_group_tests(tests, NULL, close_devices);
}
