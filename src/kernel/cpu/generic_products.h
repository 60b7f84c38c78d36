/* Portable block products, included by generic_products.c once for each compute type (macros as in generic_rows.h). */

static void NAME(dot)(int64_t m, int64_t n, int64_t k, const void *a_, int64_t lda, const void *const *b_, void *c_,
                      int64_t ldc, bool add) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            const T *a = (const T *)a_ + i * lda, *b = b_[j];
            S lane[8] = {0}, *c = (S *)c_ + i * ldc + j;
            int64_t s = 0;
            for (; s + 8 <= k; s += 8)
                for (int l = 0; l < 8; l++) lane[l] += LOAD(a[s + l]) * LOAD(b[s + l]);
            for (int l = 0; s + l < k; l++) lane[l] += LOAD(a[s + l]) * LOAD(b[s + l]);
            S sum = ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
            *c = add ? *c + sum : sum;
        }
}

static void NAME(outer)(int64_t m, int64_t n, int64_t k, const void *a_, int64_t a_row, int64_t a_step,
                        const void *panel_, void *c_, int64_t ldc, bool add) {
    const T *panel = panel_;
    for (int64_t i = 0; i < m; i++) {
        S acc[GR_PANEL] = {0}, *c = (S *)c_ + i * ldc;
        for (int64_t j = 0; add && j < n; j++) acc[j] = c[j];
        const char *a = (const char *)a_ + i * a_row;
        for (int64_t s = 0; s < k; s++, a += a_step) {
            const S x = LOAD(*(const T *)(const void *)a);
            const T *row = panel + s * GR_PANEL;
            for (int j = 0; j < GR_PANEL; j++) acc[j] += x * LOAD(row[j]);
        }
        for (int64_t j = 0; j < n; j++) c[j] = acc[j];
    }
}

static void NAME(pack_panel)(int64_t k, int64_t n, const void *b_, int64_t b_k, int64_t b_j, void *panel_) {
    const T *b = b_;
    T *panel = panel_;
    for (int64_t s = 0; s < k; s++, panel += GR_PANEL)
        for (int64_t j = 0; j < GR_PANEL; j++) panel[j] = j < n ? b[s * b_k + j * b_j] : 0;
}

static void NAME(finish)(int64_t m, int64_t n, double alpha_, const void *acc_, int64_t ld, double beta_, gr_dtype c_dt,
                         void *c_, int64_t ldc) {
    const S alpha = (S)alpha_, beta = (S)beta_;
    for (int64_t i = 0; i < m; i++) {
        const S *acc = (const S *)acc_ + i * ld;
        if (c_dt == GR_BF16) {
            uint16_t *c = (uint16_t *)c_ + i * ldc;
            for (int64_t j = 0; j < n; j++) {
                S v = alpha * acc[j];
                c[j] = gr_f32_to_bf16((float)(beta_ == 0 ? v : v + beta * (S)gr_bf16_to_f32(c[j])));
            }
        } else {
            S *c = (S *)c_ + i * ldc;
            for (int64_t j = 0; j < n; j++) c[j] = beta_ == 0 ? alpha * acc[j] : alpha * acc[j] + beta * c[j];
        }
    }
}

static const gr_product_kernels NAME(products) = {
    .dot = NAME(dot),
    .outer = NAME(outer),
    .step = 1,
    .packed_size = sizeof(T),
    .pack_panel = NAME(pack_panel),
    .finish = NAME(finish),
};
