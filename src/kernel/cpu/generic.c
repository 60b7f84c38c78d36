/* Portable row kernels: one text (generic_rows.h) for F32, BF16 and F64. Sums in float (double for F64), libm's exp. */
#include <math.h>

#include "kernel/cpu/cpu.h"

#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)

#define NAME(x) PASTE(x, f32)
#define T float
#define S float
#define LOAD(t) (t)
#define STORE(s) (s)
#define EXP expf
#define SQRT sqrtf
#define TANH tanhf
#define ERFC erfcf
#include "kernel/cpu/generic_rows.h"
#undef NAME
#undef T
#undef LOAD
#undef STORE

#define NAME(x) PASTE(x, bf16)
#define T uint16_t
#define LOAD(t) gr_bf16_to_f32(t)
#define STORE(s) gr_f32_to_bf16(s)
#include "kernel/cpu/generic_rows.h"
#undef NAME
#undef T
#undef S
#undef LOAD
#undef STORE
#undef EXP
#undef SQRT
#undef TANH
#undef ERFC

#define NAME(x) PASTE(x, f64)
#define T double
#define S double
#define LOAD(t) (t)
#define STORE(s) (s)
#define EXP exp
#define SQRT sqrt
#define TANH tanh
#define ERFC erfc
#include "kernel/cpu/generic_rows.h"

static double load_any(gr_dtype dt, const void *p, int64_t i) {
    switch (dt) {
    case GR_F32: return ((const float *)p)[i];
    case GR_F64: return ((const double *)p)[i];
    case GR_F16: return gr_f16_to_f32(((const uint16_t *)p)[i]);
    default: return gr_bf16_to_f32(((const uint16_t *)p)[i]);
    }
}

/* To the 16-bit types through float: a double rounds twice, as torch's conversion does. */
static void store_any(gr_dtype dt, void *p, int64_t i, double v) {
    switch (dt) {
    case GR_F32: ((float *)p)[i] = (float)v; break;
    case GR_F64: ((double *)p)[i] = v; break;
    case GR_F16: ((uint16_t *)p)[i] = gr_f32_to_f16((float)v); break;
    default: ((uint16_t *)p)[i] = gr_f32_to_bf16((float)v); break;
    }
}

void gr_generic_convert(gr_dtype from_dt, const void *from, gr_dtype to_dt, void *to, int64_t n) {
    if (from_dt == to_dt) {
        if (n > 0) memmove(to, from, (size_t)n * gr_type_size(to_dt));
        return;
    }
    for (int64_t i = 0; i < n; i++) store_any(to_dt, to, i, load_any(from_dt, from, i));
}

static double sum_squares(int64_t n, const float *x) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}

/* torch.optim.AdamW (2.13, single tensor, float): param.mul_(1 - lr wd); exp_avg.lerp_(grad, 1 - beta1);
 * exp_avg_sq.mul_(beta2).addcmul_(grad, grad, 1 - beta2); denom = sqrt(exp_avg_sq) / sqrt(bias2) + eps;
 * param.addcdiv_(exp_avg, denom, -lr / bias1). lerp_ takes the form that is exact at the nearer end. */
static void adamw(int64_t n, float *p, const float *g, float *m, float *v, const gr_adamw_coef *c) {
    for (int64_t i = 0; i < n; i++) {
        float grad = g[i] * c->g_scale, diff = grad - m[i];
        m[i] = c->beta1_weight < 0.5f ? m[i] + c->beta1_weight * diff : grad - diff * (1.0f - c->beta1_weight);
        v[i] = v[i] * c->beta2 + c->beta2_weight * grad * grad;
        float denom = sqrtf(v[i]) / c->bias2_root + c->eps;
        p[i] = p[i] * c->decay + c->step * m[i] / denom;
    }
}

/* bitsandbytes 0.50 on torch 2.13's vector units: m.mul_(beta1).add_(g, 1 - beta1); v.mul_(beta2).addcmul_(g, g, 1 -
 * beta2), the additions fused; p.mul_(1 - lr wd).addcdiv_(m, sqrt(v) / sqrt(bias2) + eps, -lr / bias1). */
static void adamw_fused(int64_t n, float *p, const float *g, float *m, float *v, const gr_adamw_coef *c) {
    for (int64_t i = 0; i < n; i++) {
        float grad = g[i] * c->g_scale;
        m[i] = fmaf(grad, c->beta1_weight, m[i] * c->beta1);
        v[i] = fmaf(c->beta2_weight * grad, grad, v[i] * c->beta2);
        float denom = sqrtf(v[i]) / c->bias2_root + c->eps;
        p[i] = p[i] * c->decay + c->step * m[i] / denom;
    }
}

void gr_cpu_fill_generic(gr_cpu_kernels *k) {
    k->rows[GR_TYPE_F32] = &rows_f32;
    k->rows[GR_TYPE_BF16] = &rows_bf16;
    k->rows[GR_TYPE_F64] = &rows_f64;
    k->convert = gr_generic_convert;
    k->sum_squares = sum_squares;
    k->adamw = adamw;
    k->adamw_fused = adamw_fused;
    for (int i = 0; i < GR_DTYPE_COUNT; i++) {
        k->to_f32[i] = gr_quant_get((gr_dtype)i)->to_f32;
        k->to_bf16[i] = gr_quant_get((gr_dtype)i)->to_bf16;
        const gr_scaled_ops *scaled = gr_scaled_get((gr_dtype)i);
        if (scaled) k->scaled[i] = *scaled;
    }
    gr_cpu_fill_generic_attention(k);
    gr_cpu_fill_generic_products(k);
    gr_cpu_fill_generic_integer(k);
}
