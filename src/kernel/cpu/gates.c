/* The LSTM cell for small networks that stand beside a model (prompt encoders): portable, a few thousand numbers a call. */
#include <math.h>

#include "kernel/cpu/cpu.h"

#define AS_IS(x) (x)
#define KERNELS(NAME, T, S, LOAD, STORE, TANH, EXP)                                                                    \
    static S sigmoid_##NAME(S x) { return 1 / (1 + EXP(-x)); }                                                         \
    static void cell_##NAME(int64_t n, T *gates, const T *c_prev, T *c, T *h) {                                        \
        for (int64_t k = 0; k < n; k++) {                                                                              \
            S i = sigmoid_##NAME(LOAD(gates[k])), f = sigmoid_##NAME(LOAD(gates[n + k]));                              \
            S g = TANH(LOAD(gates[2 * n + k])), o = sigmoid_##NAME(LOAD(gates[3 * n + k]));                            \
            S state = (c_prev ? f * LOAD(c_prev[k]) : 0) + i * g;                                                      \
            gates[k] = STORE(i);                                                                                       \
            gates[n + k] = STORE(f);                                                                                   \
            gates[2 * n + k] = STORE(g);                                                                               \
            gates[3 * n + k] = STORE(o);                                                                               \
            c[k] = STORE(state);                                                                                       \
            h[k] = STORE(o * TANH(state));                                                                             \
        }                                                                                                              \
    }                                                                                                                  \
    static void cell_backward_##NAME(int64_t n, const T *gates, const T *c_prev, const T *c, const T *dh, T *dc,       \
                                     T *dgates) {                                                                      \
        for (int64_t k = 0; k < n; k++) {                                                                              \
            S i = LOAD(gates[k]), f = LOAD(gates[n + k]), g = LOAD(gates[2 * n + k]), o = LOAD(gates[3 * n + k]);      \
            S t = TANH(LOAD(c[k])), d = LOAD(dh[k]), state = LOAD(dc[k]) + d * o * (1 - t * t);                        \
            S before = c_prev ? LOAD(c_prev[k]) : 0;                                                                   \
            dgates[k] = STORE(state * g * i * (1 - i));                                                                \
            dgates[n + k] = STORE(state * before * f * (1 - f));                                                       \
            dgates[2 * n + k] = STORE(state * i * (1 - g * g));                                                        \
            dgates[3 * n + k] = STORE(d * t * o * (1 - o));                                                            \
            dc[k] = STORE(state * f);                                                                                  \
        }                                                                                                              \
    }
KERNELS(f32, float, float, AS_IS, AS_IS, tanhf, expf)
KERNELS(bf16, uint16_t, float, gr_bf16_to_f32, gr_f32_to_bf16, tanhf, expf)
KERNELS(f64, double, double, AS_IS, AS_IS, tanh, exp)

void gr_cpu_lstm_cell(gr_device *d, gr_dtype dt, int64_t n, void *gates, const void *c_prev, void *c, void *h) {
    (void)d;
    if (dt == GR_F32)
        cell_f32(n, gates, c_prev, c, h);
    else if (dt == GR_BF16)
        cell_bf16(n, gates, c_prev, c, h);
    else
        cell_f64(n, gates, c_prev, c, h);
}

void gr_cpu_lstm_cell_backward(gr_device *d, gr_dtype dt, int64_t n, const void *gates, const void *c_prev, const void *c,
                               const void *dh, void *dc, void *dgates) {
    (void)d;
    if (dt == GR_F32)
        cell_backward_f32(n, gates, c_prev, c, dh, dc, dgates);
    else if (dt == GR_BF16)
        cell_backward_bf16(n, gates, c_prev, c, dh, dc, dgates);
    else
        cell_backward_f64(n, gates, c_prev, c, dh, dc, dgates);
}
