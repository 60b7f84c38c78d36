/* c = alpha * acc + beta * c on vectors (contract: product.h). */

static inline vf finish_value(vf alpha, const float *acc, int64_t n) { return v_mul(alpha, v_load_n(acc, n)); }

static void finish_f32(int64_t m, int64_t n, vf alpha, const float *acc, int64_t ld, vf beta, bool add, float *c, int64_t ldc) {
    for (int64_t i = 0; i < m; i++, acc += ld, c += ldc)
        for (int64_t j = 0; j < n; j += VW) {
            int64_t w = n - j < VW ? n - j : VW;
            vf v = finish_value(alpha, acc + j, w);
            v_store_n(c + j, add ? v_add(v, v_mul(beta, v_load_n(c + j, w))) : v, w);
        }
}

static void finish_bf16(int64_t m, int64_t n, vf alpha, const float *acc, int64_t ld, vf beta, bool add, uint16_t *c,
                        int64_t ldc) {
    for (int64_t i = 0; i < m; i++, acc += ld, c += ldc)
        for (int64_t j = 0; j < n; j += VW) {
            int64_t w = n - j < VW ? n - j : VW;
            vf v = finish_value(alpha, acc + j, w);
            if (add) v = v_add(v, v_mul(beta, v_load_bf16_n(c + j, w)));
            v_store_bf16_n(c + j, v, w);
        }
}

/* The most frequent case: store the sums as they are. 1 * x is x, so this gives the bits of the others. */
static void store_sums(int64_t m, int64_t n, const float *acc, int64_t ld, gr_dtype c_dt, void *c_, int64_t ldc) {
    for (int64_t i = 0; i < m; i++, acc += ld) {
        float *f = (float *)c_ + i * ldc;
        uint16_t *h = (uint16_t *)c_ + i * ldc;
        int64_t j = 0;
        for (; c_dt == GR_F32 && j + VW <= n; j += VW) v_store(f + j, v_load(acc + j));
        for (; c_dt == GR_BF16 && j + VW <= n; j += VW) v_store_bf16(h + j, v_load(acc + j));
        if (c_dt == GR_F32)
            v_store_n(f + j, v_load_n(acc + j, n - j), n - j);
        else
            v_store_bf16_n(h + j, v_load_n(acc + j, n - j), n - j);
    }
}

static void finish(int64_t m, int64_t n, double alpha, const void *acc, int64_t ld, double beta, gr_dtype c_dt, void *c,
                   int64_t ldc) {
    if (alpha == 1 && beta == 0)
        store_sums(m, n, acc, ld, c_dt, c, ldc);
    else if (c_dt == GR_BF16)
        finish_bf16(m, n, v_set1((float)alpha), acc, ld, v_set1((float)beta), beta != 0, c, ldc);
    else
        finish_f32(m, n, v_set1((float)alpha), acc, ld, v_set1((float)beta), beta != 0, c, ldc);
}
