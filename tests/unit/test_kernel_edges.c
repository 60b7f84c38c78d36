/* Nothing is read or written outside of what a kernel is given: every array ends where memory ends, then begins where it begins,
 * and the results are the same. Weights are mapped files, whose last row may end with the last page. */
#define _GNU_SOURCE
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#include "quant/scaled.h"
#include "support/kernel_cases.h"

/* --- Arrays between pages that nobody may touch ---------------------------------------------------------------------- */

typedef struct fence {
    char *base;
    size_t bytes;
} fence;

typedef struct yard {
    bool at_end;
    fence fences[24];
    int n;
    uint64_t seed;
} yard;

/* `from` NULL: zeros. */
static void *fenced(yard *y, const void *from, size_t bytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), inside = (bytes + page - 1) / page * page;
    assert_true(y->n < (int)GR_COUNT(y->fences));
    fence *f = &y->fences[y->n++];
    f->bytes = inside + 2 * page;
    f->base = mmap(NULL, f->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(f->base != MAP_FAILED && mprotect(f->base + page, inside, PROT_READ | PROT_WRITE) == 0);
    char *to = f->base + page + (y->at_end ? inside - bytes : 0);
    if (from) memcpy(to, from, bytes);
    return to;
}

static void open_gates(yard *y) {
    for (int i = 0; i < y->n; i++) munmap(y->fences[i].base, y->fences[i].bytes);
    y->n = 0;
}

static void *random_bytes(yard *y, size_t bytes) {
    uint8_t *to = fenced(y, NULL, bytes);
    y->seed++;
    for (size_t i = 0; i < bytes; i++) to[i] = (uint8_t)gr_rng_u64(y->seed, 1, i);
    return to;
}

static void *random_values(yard *y, gr_device *d, gr_dtype dt, int64_t n) {
    float *x = gr_alloc(NULL, (size_t)n * sizeof *x);
    void *to = fenced(y, NULL, gr_dtype_bytes(dt, (size_t)n));
    assert_non_null(x);
    y->seed++;
    for (int64_t i = 0; i < n; i++) x[i] = (float)gr_rng_normal(y->seed, 2, (uint64_t)i);
    d->k->convert(d, GR_F32, x, dt, to, n);
    gr_free(NULL, x);
    return to;
}

/* --- Stored matrices ------------------------------------------------------------------------------------------------- */

typedef struct matrix_case {
    gr_device *d;
    gr_dtype dt, stored;
    int64_t rows, in, out;
    bool integer, transposed, nested, heads;
} matrix_case;

static gr_scales scales_of(yard *y, gr_device *d, const matrix_case *c) {
    const bool by_rows = !gr_is_4bit(c->stored);
    gr_scales s = {.block = by_rows ? c->in : 32};
    const int64_t n = (c->out * c->in + s.block - 1) / s.block;
    if (!c->nested || by_rows) {
        s.absmax = random_values(y, d, GR_F32, n);
        return s;
    }
    s.codes = random_bytes(y, (size_t)n);
    s.map = fenced(y, gr_dynamic_map, 256 * sizeof(float));
    s.nested_block = 64;
    s.nested = random_values(y, d, GR_F32, (n + s.nested_block - 1) / s.nested_block);
    return s;
}

/* All products, one behind the other, to `out`. */
static void run_matrix(const matrix_case *c, bool at_end, float *out) {
    static const int32_t last_first[] = {-1, 0};
    yard y = {.at_end = at_end};
    const size_t bytes = gr_dtype_bytes(c->stored, (size_t)(c->in * c->out));
    const gr_scales scales = gr_scaled_get(c->stored) ? scales_of(&y, c->d, c) : (gr_scales){0};
    const gr_matrix_spec spec = {
        .name = "w", .n_parts = 1, .dt = c->dt, .integer = c->integer,
        .part = {{.view = {c->stored, c->transposed ? gr_shape2(c->in, c->out) : gr_shape2(c->out, c->in), random_bytes(&y, bytes), bytes,
                           gr_scaled_get(c->stored) ? &scales : NULL},
                  .permuted_heads = c->heads && c->out % 2 == 0, .transposed = c->transposed}}};
    const void *x = random_values(&y, c->d, c->dt, c->rows * c->in), *dy = random_values(&y, c->d, c->dt, c->rows * c->out);
    const int64_t sizes[] = {c->rows * c->out, c->rows * c->in, 2 * c->in};
    void *to[3];
    const int32_t ids[] = {(int32_t)c->out + last_first[0], last_first[1]};
    gr_matrix *w;
    for (int i = 0; i < 3; i++) to[i] = fenced(&y, NULL, gr_dtype_bytes(c->dt, (size_t)sizes[i]));
    assert_ok(gr_matrix_new(c->d, &spec, &w, &err));
    assert_ok(gr_matrix_forward(w, c->rows, x, c->in, c->dt, to[0], c->out, false, &err));
    assert_ok(gr_matrix_backward(w, c->rows, dy, c->out, to[1], c->in, false, &err));
    assert_ok(gr_matrix_gather(w, 2, ids, c->dt, to[2], c->in, &err));
    for (int i = 0; i < 3; out += sizes[i++]) c->d->k->convert(c->d, c->dt, to[i], GR_F32, out, sizes[i]);
    gr_matrix_free(w);
    open_gates(&y);
}

static void check_matrix(const matrix_case *c) {
    const size_t n = (size_t)(c->rows * (c->in + c->out) + 2 * c->in);
    float *x[2];
    for (int i = 0; i < 2; i++) {
        assert_non_null(x[i] = gr_alloc(NULL, n * sizeof *x[i]));
        run_matrix(c, i, x[i]);
    }
    for (size_t i = 0; i < n; i++)
        if (memcmp(&x[0][i], &x[1][i], sizeof(float)) != 0 && !(isnan(x[0][i]) && isnan(x[1][i])))
            fail_msg("%s, %s in %s, %d rows, %d to %d: element %zu depends on what is around", gr_cpu_level_name(c->d->level),
                     gr_dtype_name(c->stored), gr_dtype_name(c->dt), (int)c->rows, (int)c->in, (int)c->out, i);
    for (int i = 0; i < 2; i++) gr_free(NULL, x[i]);
}

static const gr_dtype stored_types[] = {GR_F32, GR_F16, GR_BF16, GR_NF4, GR_FP4, GR_INT8, GR_CHANNEL8,
#define X(name) GR_##name,
#include "quant/quant.def"
#undef X
};

/* Widths of whole steps and others. */
static void check_stored(gr_device *d, gr_dtype dt, gr_dtype stored) {
    static const int64_t rows[] = {1, 17, 70}, outs[] = {16, 34}, widths[] = {2, 32, 62, 100};
    const int64_t block = gr_dtype_get(stored)->block_elements;
    const bool blocks = block > 1 && !gr_scaled_get(stored);
    const int variants = 1 + (gr_can_multiply_integers(stored) || (!blocks && !gr_scaled_get(stored)) || gr_is_4bit(stored));
    for (size_t k = 0; k < GR_COUNT(rows) * GR_COUNT(outs) * GR_COUNT(widths) * (size_t)variants; k++) {
        const size_t w = k / GR_COUNT(rows) / GR_COUNT(outs) % GR_COUNT(widths);
        const bool other = k / GR_COUNT(rows) / GR_COUNT(outs) / GR_COUNT(widths);
        if (blocks && w > 1) continue;
        check_matrix(&(matrix_case){.d = d, .dt = dt, .stored = stored, .rows = rows[k % GR_COUNT(rows)],
                                    .out = outs[k / GR_COUNT(rows) % GR_COUNT(outs)], .in = blocks ? block * (1 + 2 * (int64_t)w) : widths[w],
                                    .integer = other && gr_can_multiply_integers(stored), .nested = other,
                                    .transposed = other && !blocks && !gr_scaled_get(stored), .heads = k % 2 && !(other && !blocks)});
    }
}

static void matrices_are_read_to_their_end(void **state) {
    (void)state;
    for (int level = 0; level < GR_CPU_LEVEL_COUNT; level++)
        for (size_t i = 0; i < 2 * GR_COUNT(stored_types); i++) {
            gr_device *d = kcase_device((gr_cpu_level)level, 2);
            if (d) check_stored(d, i % 2 ? GR_BF16 : GR_F32, stored_types[i / 2]);
        }
}

/* --- Attention over rows as they are kept ---------------------------------------------------------------------------- */

typedef struct attention_case {
    gr_device *d;
    gr_dtype dt;
    gr_kv_format format;
    int n_heads, n_kv_heads, dim;
    int64_t keys, queries;
} attention_case;

static void run_attention(const attention_case *c, bool at_end, float *out) {
    yard y = {.at_end = at_end};
    const int64_t width = (int64_t)c->n_kv_heads * c->dim, ld = (int64_t)c->n_heads * c->dim, size = gr_kv_head_size(c->format, c->dim);
    const size_t bytes = gr_kv_row_bytes(c->dt, c->format, c->n_kv_heads, c->dim) * (size_t)c->keys;
    void *rows[2];
    for (int i = 0; i < 2; i++) { /* each head's rows by themselves */
        const void *x = random_values(&y, c->d, c->dt, c->keys * width);
        rows[i] = fenced(&y, NULL, bytes);
        c->d->k->keep_kv(c->d, c->dt, c->format, c->keys, c->n_kv_heads, c->dim, x, width, rows[i], size, size * c->keys);
    }
    gr_kv_segment segment = {.format = c->format, .k = rows[0], .v = rows[1], .k_ld = size, .v_ld = size, .head = size * c->keys, .n = c->keys};
    const gr_attention_seq seq = {.q_len = c->queries, .q_pos = c->keys - c->queries, .n_segments = 1, .segments = &segment};
    gr_attention a = {.dt = c->dt, .n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads, .head_dim = c->dim, .scale = 0.125, .causal = true,
                      .q = random_values(&y, c->d, c->dt, c->queries * ld), .q_ld = ld, .out_ld = ld, .n_seqs = 1, .seqs = &seq};
    a.out = fenced(&y, NULL, gr_dtype_bytes(c->dt, (size_t)(c->queries * ld)));
    a.scratch = gr_alloc_aligned(NULL, gr_attention_scratch(&a, 2, false));
    assert_non_null(a.scratch);
    c->d->k->attention(c->d, &a);
    c->d->k->convert(c->d, c->dt, a.out, GR_F32, out, c->queries * ld);
    gr_free_aligned(NULL, a.scratch);
    open_gates(&y);
}

static void check_attention(const attention_case *c) {
    const size_t n = (size_t)(c->queries * c->n_heads * c->dim);
    float *x[2];
    for (int i = 0; i < 2; i++) {
        assert_non_null(x[i] = gr_alloc(NULL, n * sizeof *x[i]));
        run_attention(c, i, x[i]);
    }
    if (memcmp(x[0], x[1], n * sizeof **x) != 0)
        fail_msg("%s, %s, format %d, heads of %d, %d keys, %d queries: depends on what is around", gr_cpu_level_name(c->d->level),
                 gr_dtype_name(c->dt), (int)c->format, c->dim, (int)c->keys, (int)c->queries);
    for (int i = 0; i < 2; i++) gr_free(NULL, x[i]);
}

static void kept_rows_are_read_to_their_end(void **state) {
    (void)state;
    static const int dims[] = {8, 33, 64, 96}, heads[][2] = {{9, 3}, {40, 1}};
    static const int64_t keys[] = {1, 64, 130}, queries[] = {1, 2, 20};
    const size_t n = GR_COUNT(dims) * GR_COUNT(heads) * GR_COUNT(keys) * GR_COUNT(queries) * 6;
    for (int level = 0; level < GR_CPU_LEVEL_COUNT; level++)
        for (size_t i = 0; i < n; i++) {
            size_t k = i;
            attention_case c = {.d = kcase_device((gr_cpu_level)level, 2)};
            c.dt = k % 2 ? GR_BF16 : GR_F32, k /= 2;
            c.format = (gr_kv_format)(k % 3), k /= 3;
            c.dim = dims[k % GR_COUNT(dims)], k /= GR_COUNT(dims);
            c.n_heads = heads[k % GR_COUNT(heads)][0], c.n_kv_heads = heads[k % GR_COUNT(heads)][1], k /= GR_COUNT(heads);
            c.keys = keys[k % GR_COUNT(keys)], k /= GR_COUNT(keys);
            c.queries = GR_MIN(queries[k], c.keys);
            if (c.d) check_attention(&c);
        }
}

/* --- Low-rank updates -------------------------------------------------------------------------------------------------- */

static void run_low_rank(gr_device *d, gr_dtype dt, int64_t in, int64_t rank, int64_t rows, bool at_end, float *out) {
    enum { OUT = 37 };
    yard y = {.at_end = at_end};
    const gr_low_rank_pair pair = {.rank = rank, .out = OUT, .a = random_values(&y, d, GR_F32, rank * in), .b = random_values(&y, d, GR_F32, rank * OUT)};
    gr_low_rank *f;
    assert_ok(gr_low_rank_new(d, dt, in, 1, &pair, NULL, &f, &err));
    const gr_low_rank_use use = {.f = f, .scale = {0.5}, .end = rows};
    const void *x = random_values(&y, d, dt, rows * in);
    void *to = random_values(&y, d, dt, rows * OUT);
    assert_ok(gr_low_rank_apply(d, 1, &use, x, in, to, OUT, &err));
    d->k->convert(d, dt, to, GR_F32, out, rows * OUT);
    gr_low_rank_free(f);
    open_gates(&y);
}

static void low_rank_updates_stay_in_their_rows(void **state) {
    (void)state;
    enum { MOST = 40 * 37 };
    static const int64_t ins[] = {31, 64, 100}, ranks[] = {1, 8, 33, 70}, rows[] = {1, 5, 40};
    static float x[2][MOST];
    for (int level = 0; level < GR_CPU_LEVEL_COUNT; level++)
        for (size_t i = 0; i < GR_COUNT(ins) * GR_COUNT(ranks) * GR_COUNT(rows) * 2; i++) {
            gr_device *d = kcase_device((gr_cpu_level)level, 2);
            const int64_t m = rows[i / 2 / GR_COUNT(ins) / GR_COUNT(ranks)];
            for (int k = 0; d && k < 2; k++)
                run_low_rank(d, i % 2 ? GR_BF16 : GR_F32, ins[i / 2 % GR_COUNT(ins)], ranks[i / 2 / GR_COUNT(ins) % GR_COUNT(ranks)], m, k, x[k]);
            assert_memory_equal(x[0], x[1], (size_t)m * 37 * sizeof(float));
        }
}

static int close_devices(void **state) {
    (void)state;
    kcase_close();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(matrices_are_read_to_their_end),
                                       cmocka_unit_test(kept_rows_are_read_to_their_end),
                                       cmocka_unit_test(low_rank_updates_stay_in_their_rows)};
    return cmocka_run_group_tests(tests, NULL, close_devices);
}
