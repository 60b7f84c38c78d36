/* Packing of operands as floats, and storing of results (contract: product.h). Included once per operand type like
 * simd_products.h, with NAME, T and
 *   FLOATS_N(p, n)  the first n elements at p as floats. */

/* rows x cols elements as floats, rows `ld` apart. */
static inline void NAME(pack_rows)(int64_t rows, int64_t cols, const T *from, int64_t from_ld, float *to, int64_t ld) {
    for (int64_t r = 0; r < rows; r++, from += from_ld, to += ld)
        for (int64_t c = 0; c < cols; c += VW) {
            int64_t n = cols - c < VW ? cols - c : VW;
            v_store_n(to + c, FLOATS_N(from + c, n), n);
        }
}

/* Panel of a B whose rows run along K: blocks of VW x VW, transposed. */
static void NAME(pack_transposed)(int64_t k, int64_t n, const T *b, int64_t ld, float *panel) {
    for (int64_t j = 0; j < GR_PANEL; j += VW)
        for (int64_t s = 0; s < k; s += VW) {
            int64_t steps = k - s < VW ? k - s : VW;
            vf x[VW];
            for (int64_t c = 0; c < VW; c++) x[c] = j + c < n ? FLOATS_N(b + (j + c) * ld + s, steps) : v_zero();
            v_transpose(x);
            for (int64_t c = 0; c < steps; c++) v_store(panel + (s + c) * GR_PANEL + j, x[c]);
        }
}

static void NAME(pack_panel)(int64_t k, int64_t n, const void *b_, int64_t b_k, int64_t b_j, void *panel_) {
    const T *b = b_;
    float *panel = panel_;
    if (b_j != 1) {
        NAME(pack_transposed)(k, n, b, b_j, panel);
        return;
    }
    for (int64_t s = 0; s < k; s++, b += b_k, panel += GR_PANEL)
        for (int64_t j = 0; j < GR_PANEL; j += VW) {
            int64_t left = n - j < 0 ? 0 : n - j < VW ? n - j : VW;
            v_store(panel + j, FLOATS_N(b + j, left));
        }
}
