/* Block products on vectors (contract: product.h). Included once per operand type by products_*.c with
 *   NAME(x)      the function's name
 *   T            type of A and B in memory: float or uint16_t (BF16)
 *   STEP         elements of K in one lane of an operand register: 2 where the hardware multiplies BF16 pairs, else 1
 *   OP           operand register of VW * STEP elements
 *   OP_LOAD(p), OP_LOAD_N(p, n)   the next VW * STEP elements of a row along K, or the first n and zeros
 *   OP_BROADCAST(p), OP_BROADCAST_1(p)   step *p of packed A in every lane; its first element only
 *   OP_PANEL(p)  VW columns of one step of a packed panel
 *   MAC(acc, a, b)
 *   PACKED       type of packed elements
 * and simd_avx2.h or simd_avx512.h before.
 *
 * Tiles keep DOT_M x 4 or OUTER_M x OUTER_V accumulators in registers (24 of 32 with AVX-512, 12 of 16 with AVX2); rows
 * and columns at the edge take smaller tiles with the same order of additions. */

#if defined(__AVX512F__)
enum { NAME(DOT_M) = 6, NAME(OUTER_M) = 6, NAME(OUTER_V) = 4 };
#else
enum { NAME(DOT_M) = 3, NAME(OUTER_M) = 6, NAME(OUTER_V) = 2 };
#endif

/* --- Dot form ----------------------------------------------------------------------------------------------------- */

static inline __attribute__((always_inline)) void NAME(dot_tile)(const int m, const int n, int64_t k, const T *a,
                                                                 int64_t lda, const void *const *b, float *c,
                                                                 int64_t ldc, bool add) {
    vf acc[6][4];
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int j = 0; j < 4; j++) acc[i][j] = v_zero();
    int64_t s = 0;
    for (; s + VW * STEP <= k; s += VW * STEP) {
        OP y[4];
        UNROLL for (int j = 0; j < n; j++) y[j] = OP_LOAD((const T *)b[j] + s);
        UNROLL for (int i = 0; i < m; i++) {
            OP x = OP_LOAD(a + i * lda + s);
            UNROLL for (int j = 0; j < n; j++) acc[i][j] = MAC(acc[i][j], x, y[j]);
        }
    }
    if (s < k) {
        OP y[4];
        UNROLL for (int j = 0; j < n; j++) y[j] = OP_LOAD_N((const T *)b[j] + s, k - s);
        UNROLL for (int i = 0; i < m; i++) {
            OP x = OP_LOAD_N(a + i * lda + s, k - s);
            UNROLL for (int j = 0; j < n; j++) acc[i][j] = MAC(acc[i][j], x, y[j]);
        }
    }
    if (n == 4 && !add) {
        UNROLL for (int i = 0; i < m; i++)
            _mm_storeu_ps(c + i * ldc, v_sum4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]));
        return;
    }
    UNROLL for (int i = 0; i < m; i++) {
        float lane[4];
        _mm_storeu_ps(lane, v_sum4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]));
        for (int j = 0; j < n; j++) c[i * ldc + j] = add ? c[i * ldc + j] + lane[j] : lane[j];
    }
}

#define DOT_CASE(m_, n_)                                                                                               \
    case (m_) * 8 + (n_): NAME(dot_tile)(m_, n_, k, a, lda, b, c, ldc, add); break;

/* The tiles at the right and lower edge. */
static __attribute__((noinline)) void NAME(dot_edge)(int m, int n, int64_t k, const T *a, int64_t lda,
                                                     const void *const *b, float *c, int64_t ldc, bool add) {
    switch (m * 8 + n) {
        DOT_CASE(1, 1) DOT_CASE(1, 2) DOT_CASE(1, 3) DOT_CASE(1, 4) DOT_CASE(2, 1) DOT_CASE(2, 2) DOT_CASE(2, 3)
        DOT_CASE(2, 4) DOT_CASE(3, 1) DOT_CASE(3, 2) DOT_CASE(3, 3)
#if defined(__AVX512F__)
        DOT_CASE(3, 4) DOT_CASE(4, 1) DOT_CASE(4, 2) DOT_CASE(4, 3) DOT_CASE(4, 4) DOT_CASE(5, 1) DOT_CASE(5, 2)
        DOT_CASE(5, 3) DOT_CASE(5, 4) DOT_CASE(6, 1) DOT_CASE(6, 2) DOT_CASE(6, 3)
#endif
    }
}
#undef DOT_CASE

static void NAME(dot)(int64_t m, int64_t n, int64_t k, const void *a_, int64_t lda, const void *const *b, void *c_,
                      int64_t ldc, bool add) {
    const T *a = a_;
    float *c = c_;
    for (int64_t j = 0; j < n; j += 4)
        for (int64_t i = 0; i < m; i += NAME(DOT_M)) {
            int mt = (int)(m - i < NAME(DOT_M) ? m - i : NAME(DOT_M)), nt = (int)(n - j < 4 ? n - j : 4);
            if (mt == NAME(DOT_M) && nt == 4)
                NAME(dot_tile)(NAME(DOT_M), 4, k, a + i * lda, lda, b + j, c + i * ldc + j, ldc, add);
            else
                NAME(dot_edge)(mt, nt, k, a + i * lda, lda, b + j, c + i * ldc + j, ldc, add);
        }
}

/* --- Outer form --------------------------------------------------------------------------------------------------- */

/* m rows by v vectors of columns, the last with n_last columns. */
static inline __attribute__((always_inline)) void NAME(outer_tile)(const int m, const int v, int64_t n_last, int64_t k,
                                                                   const char *a, int64_t a_row, int64_t a_step,
                                                                   const PACKED *panel, float *c, int64_t ldc, bool add) {
    vf acc[6][4];
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int j = 0; j < v; j++)
            acc[i][j] = !add ? v_zero() : j + 1 < v ? v_load(c + i * ldc + j * VW) : v_load_n(c + i * ldc + j * VW, n_last);
    int64_t s = 0;
    for (; s + STEP <= k; s += STEP) {
        OP y[4];
        UNROLL for (int j = 0; j < v; j++) y[j] = OP_PANEL(panel + j * VW * STEP);
        UNROLL for (int i = 0; i < m; i++) {
            OP x = OP_BROADCAST(a + i * a_row);
            UNROLL for (int j = 0; j < v; j++) acc[i][j] = MAC(acc[i][j], x, y[j]);
        }
        a += a_step;
        panel += GR_PANEL * STEP;
    }
    if (STEP > 1 && s < k) {
        OP y[4];
        UNROLL for (int j = 0; j < v; j++) y[j] = OP_PANEL(panel + j * VW * STEP);
        UNROLL for (int i = 0; i < m; i++) {
            OP x = OP_BROADCAST_1(a + i * a_row);
            UNROLL for (int j = 0; j < v; j++) acc[i][j] = MAC(acc[i][j], x, y[j]);
        }
    }
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int j = 0; j < v; j++) {
            if (j + 1 < v || n_last == VW)
                v_store(c + i * ldc + j * VW, acc[i][j]);
            else
                v_store_n(c + i * ldc + j * VW, acc[i][j], n_last);
        }
}

#define OUTER_CASE(m_, v_)                                                                                             \
    case (m_) * 8 + (v_): NAME(outer_tile)(m_, v_, n_last, k, a, a_row, a_step, panel, c, ldc, add); break;

static __attribute__((noinline)) void NAME(outer_edge)(int m, int v, int64_t n_last, int64_t k, const char *a,
                                                       int64_t a_row, int64_t a_step, const PACKED *panel, float *c,
                                                       int64_t ldc, bool add) {
    switch (m * 8 + v) {
        OUTER_CASE(1, 1) OUTER_CASE(1, 2) OUTER_CASE(2, 1) OUTER_CASE(2, 2) OUTER_CASE(3, 1) OUTER_CASE(3, 2)
        OUTER_CASE(4, 1) OUTER_CASE(4, 2) OUTER_CASE(5, 1) OUTER_CASE(5, 2) OUTER_CASE(6, 1) OUTER_CASE(6, 2)
#if defined(__AVX512F__)
        OUTER_CASE(1, 3) OUTER_CASE(2, 3) OUTER_CASE(3, 3) OUTER_CASE(4, 3) OUTER_CASE(5, 3) OUTER_CASE(6, 3)
        OUTER_CASE(1, 4) OUTER_CASE(2, 4) OUTER_CASE(3, 4) OUTER_CASE(4, 4) OUTER_CASE(5, 4) OUTER_CASE(6, 4)
#endif
    }
}
#undef OUTER_CASE

static void NAME(outer)(int64_t m, int64_t n, int64_t k, const void *a_, int64_t a_row, int64_t a_step,
                        const void *panel_, void *c_, int64_t ldc, bool add) {
    const char *a = a_;
    const int64_t width = NAME(OUTER_V) * VW;
    for (int64_t j = 0; j < n; j += width) {
        int64_t left = n - j < width ? n - j : width, v = (left + VW - 1) / VW, n_last = left - (v - 1) * VW;
        const PACKED *panel = (const PACKED *)panel_ + j * STEP;
        for (int64_t i = 0; i < m; i += NAME(OUTER_M)) {
            int mt = (int)(m - i < NAME(OUTER_M) ? m - i : NAME(OUTER_M));
            float *c = (float *)c_ + i * ldc + j;
            if (mt == NAME(OUTER_M) && left == width)
                NAME(outer_tile)(NAME(OUTER_M), NAME(OUTER_V), VW, k, a + i * a_row, a_row, a_step, panel, c, ldc, add);
            else
                NAME(outer_edge)(mt, (int)v, n_last, k, a + i * a_row, a_row, a_step, panel, c, ldc, add);
        }
    }
}
