/* Rows times a row of factors (the level's row kernels), and sums of products over rows: what scales activations column by
 * column. The latter are portable code that the compiler turns into vectors; the work is memory traffic. */
#include "kernel/cpu/cpu.h"

enum { GRAIN = 16384, COLUMN_GRAIN = 256 };

typedef struct call {
    const gr_row_kernels *k; /* of dt */
    gr_dtype dt;
    int64_t rows, cols, a_ld, b_ld;
    const void *a, *b, *shift;
    void *out;
} call;

#define AS_IS(x) (x)
#define KERNELS(NAME, T, S, LOAD)                                                                                      \
    static void mul_sum_##NAME(int64_t n, const T *a, const T *b, S *restrict sum) {                                   \
        for (int64_t i = 0; i < n; i++) sum[i] += LOAD(a[i]) * LOAD(b[i]);                                             \
    }
KERNELS(f32, float, float, AS_IS)
KERNELS(bf16, uint16_t, float, gr_bf16_to_f32)
KERNELS(f64, double, double, AS_IS)

static void mul_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    const call *c = arg;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++)
        c->k->mul(c->cols, gr_at_const(c->a, c->dt, r * c->a_ld), c->b, c->shift, gr_at(c->out, c->dt, r * c->b_ld));
}

void gr_cpu_mul_columns(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const void *x, int64_t x_ld, const void *w,
                        const void *shift, void *y, int64_t y_ld) {
    size_t grain = cols >= GRAIN ? 1 : (size_t)(GRAIN / GR_MAX(cols, 1));
    call c = {.k = gr_cpu(d)->rows[gr_type_index(dt)], .dt = dt, .cols = cols, .a = x, .a_ld = x_ld, .b = w, .shift = shift,
              .out = y, .b_ld = y_ld};
    gr_parallel_for(d->team, (size_t)rows, grain, mul_item, &c);
}

static void mul_sum_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    const call *c = arg;
    int64_t at = (int64_t)begin, n = (int64_t)(end - begin);
    void *sum = gr_at(c->out, gr_param_type(c->dt), at);
    for (int64_t r = 0; r < c->rows; r++) {
        const void *a = gr_at_const(c->a, c->dt, r * c->a_ld + at), *b = gr_at_const(c->b, c->dt, r * c->b_ld + at);
        if (c->dt == GR_F32)
            mul_sum_f32(n, a, b, sum);
        else if (c->dt == GR_BF16)
            mul_sum_bf16(n, a, b, sum);
        else
            mul_sum_f64(n, a, b, sum);
    }
}

void gr_cpu_mul_column_sum(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const void *a, int64_t a_ld, const void *b,
                           int64_t b_ld, void *sum) {
    call c = {.dt = dt, .rows = rows, .cols = cols, .a = a, .a_ld = a_ld, .b = b, .b_ld = b_ld, .out = sum};
    gr_parallel_for(d->team, (size_t)cols, COLUMN_GRAIN, mul_sum_item, &c);
}
