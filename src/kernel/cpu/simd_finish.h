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

static void finish(int64_t m, int64_t n, double alpha, const void *acc, int64_t ld, double beta, gr_dtype c_dt, void *c,
                   int64_t ldc) {
    if (c_dt == GR_BF16)
        finish_bf16(m, n, v_set1((float)alpha), acc, ld, v_set1((float)beta), beta != 0, c, ldc);
    else
        finish_f32(m, n, v_set1((float)alpha), acc, ld, v_set1((float)beta), beta != 0, c, ldc);
}
