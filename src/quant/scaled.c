/* NF4, FP4, INT8 and CHANNEL8. */
#include "quant/scaled.h"

#include <float.h>
#include <math.h>

/* FP4's codes by ascending value; of the two zeros the positive one first. */
static const uint8_t fp4_order[16] = {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3};

/* --- Decoding ----------------------------------------------------------------------------------------------------- */

static inline float nibble_at(const float *values, const uint8_t *codes, size_t i, float scale) {
    return values[i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4] * scale;
}

static inline float int8_at(const int8_t *codes, size_t i, float scale) {
    float product = (float)codes[i] * scale;
    return product * GR_INT8_STEP;
}

static void nf4_to_f32(const void *codes, size_t n, float scale, float *out) {
    const float *values = gr_scaled_values(GR_NF4);
    for (size_t i = 0; i < n; i++) out[i] = nibble_at(values, codes, i, scale);
}

static void nf4_to_bf16(const void *codes, size_t n, float scale, uint16_t *out) {
    const float *values = gr_scaled_values(GR_NF4);
    for (size_t i = 0; i < n; i++) out[i] = gr_f32_to_bf16(nibble_at(values, codes, i, scale));
}

static void fp4_to_f32(const void *codes, size_t n, float scale, float *out) {
    const float *values = gr_scaled_values(GR_FP4);
    for (size_t i = 0; i < n; i++) out[i] = nibble_at(values, codes, i, scale);
}

static void fp4_to_bf16(const void *codes, size_t n, float scale, uint16_t *out) {
    const float *values = gr_scaled_values(GR_FP4);
    for (size_t i = 0; i < n; i++) out[i] = gr_f32_to_bf16(nibble_at(values, codes, i, scale));
}

static void int8_to_f32(const void *codes, size_t n, float scale, float *out) {
    for (size_t i = 0; i < n; i++) out[i] = int8_at(codes, i, scale);
}

static void int8_to_bf16(const void *codes, size_t n, float scale, uint16_t *out) {
    for (size_t i = 0; i < n; i++) out[i] = gr_f32_to_bf16(int8_at(codes, i, scale));
}

static void channel8_to_f32(const void *codes, size_t n, float scale, float *out) {
    for (size_t i = 0; i < n; i++) out[i] = (float)((const int8_t *)codes)[i] * scale;
}

static void channel8_to_bf16(const void *codes, size_t n, float scale, uint16_t *out) {
    for (size_t i = 0; i < n; i++) out[i] = gr_f32_to_bf16((float)((const int8_t *)codes)[i] * scale);
}

const gr_scaled_ops *gr_scaled_get(gr_dtype dtype) {
    static const gr_scaled_ops ops[] = {{nf4_to_f32, nf4_to_bf16},
                                        {fp4_to_f32, fp4_to_bf16},
                                        {int8_to_f32, int8_to_bf16},
                                        {channel8_to_f32, channel8_to_bf16}};
    return dtype == GR_NF4        ? &ops[0]
           : dtype == GR_FP4      ? &ops[1]
           : dtype == GR_INT8     ? &ops[2]
           : dtype == GR_CHANNEL8 ? &ops[3]
                                  : NULL;
}

bool gr_can_decode(gr_dtype dtype) { return gr_can_dequantize(dtype) || gr_scaled_get(dtype); }

graft_status gr_view_decode(const gr_tensor_view *v, int64_t first, int64_t n, float *out, graft_error *err) {
    const gr_scaled_ops *ops = gr_scaled_get(v->dtype);
    const char *data = v->data;
    if (!ops) return gr_dequantize_row(v->dtype, data + gr_dtype_bytes(v->dtype, (size_t)first), (size_t)n, out, err);
    for (int64_t at = first, end = first + n; at < end;) {
        int64_t block = at / v->scales->block, stop = GR_MIN(end, (block + 1) * v->scales->block);
        ops->to_f32(data + gr_dtype_bytes(v->dtype, (size_t)at), (size_t)(stop - at), gr_scale_at(v->scales, block),
                    out + (at - first));
        at = stop;
    }
    return GRAFT_OK;
}

/* --- Encoding to 4 bits ------------------------------------------------------------------------------------------- */

/* How many of 15 ascending bounds are smaller than v. */
static inline int count_below(const float bounds[15], float v) {
    int i = v > bounds[7] ? 8 : 0;
    i += v > bounds[i + 3] ? 4 : 0;
    i += v > bounds[i + 1] ? 2 : 0;
    return i + (v > bounds[i]);
}

static float absmax_of(const float *x, int64_t n) {
    float most = 0;
    for (int64_t i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
    return most;
}

void gr_quantize_4bit(gr_dtype dtype, const float *x, int64_t n, int64_t block, uint8_t *codes, float *absmax) {
    const float *values = gr_scaled_values(dtype);
    float bounds[15];
    for (int i = 0; i < 15; i++) {
        const float low = values[dtype == GR_NF4 ? i : fp4_order[i]],
                    high = values[dtype == GR_NF4 ? i + 1 : fp4_order[i + 1]];
        bounds[i] = (low + high) / 2;
    }
    for (int64_t at = 0; at < n; at += block, absmax++) {
        const int64_t k = GR_MIN(block, n - at);
        /* Whole blocks are multiplied by the inverse, a last part is divided. */
        const float most = absmax_of(x + at, k), safe = fmaxf(most, 1e-38f), inverse = 1.0f / safe;
        *absmax = k == block ? most : safe;
        for (int64_t i = 0; i < k; i++) {
            const float v = k == block ? x[at + i] * inverse : x[at + i] / safe;
            int q = count_below(bounds, fminf(fmaxf(v, -1.0f), 1.0f));
            if (dtype == GR_FP4) q = fp4_order[q];
            uint8_t *to = codes + (at + i) / 2;
            if ((at + i) % 2 == 0)
                *to = (uint8_t)(q << 4);
            else
                *to |= (uint8_t)q;
        }
    }
    if (n % 2) { /* the nibble behind the end is that of zero */
        int q = count_below(bounds, 0.0f);
        codes[n / 2] |= (uint8_t)(dtype == GR_FP4 ? fp4_order[q] : q);
    }
}

/* --- Double quantisation ------------------------------------------------------------------------------------------ */

enum { LANES = 8, ROWS = 4, LEVELS = 4 };

/* Sum in the order of torch's on one thread: eight lanes times four rows, in blocks whose sums are carried up four
 * levels. */
typedef struct cascade {
    float sum[LEVELS][ROWS][LANES];
} cascade;

static void add_lanes(float *to, const float *from) {
    for (int l = 0; l < LANES; l++) to[l] += from[l];
}

static void carry(cascade *c, int64_t done, int power) {
    for (int level = 1; level < LEVELS; level++) {
        for (int r = 0; r < ROWS; r++) {
            add_lanes(c->sum[level][r], c->sum[level - 1][r]);
            memset(c->sum[level - 1][r], 0, sizeof c->sum[level - 1][r]);
        }
        if (done & (((int64_t)1 << power) - 1) << level * power) break;
    }
}

static int ceil_log2(int64_t n) {
    int bits = 0;
    while (((int64_t)1 << bits) < n) bits++;
    return bits;
}

static float cascade_sum(const float *x, int64_t n) {
    cascade c = {0};
    const int64_t vectors = n / LANES, steps = vectors / ROWS;
    const int power = GR_MAX(ceil_log2(steps) / LEVELS, 4);
    for (int64_t i = 0; i < steps; i++) {
        for (int r = 0; r < ROWS; r++) add_lanes(c.sum[0][r], x + (i * ROWS + r) * LANES);
        if ((i + 1) % ((int64_t)1 << power) == 0) carry(&c, i + 1, power);
    }
    for (int level = 1; level < LEVELS; level++)
        for (int r = 0; r < ROWS; r++) add_lanes(c.sum[0][r], c.sum[level][r]);
    for (int64_t i = steps * ROWS; i < vectors; i++) add_lanes(c.sum[0][0], x + i * LANES);
    for (int r = 1; r < ROWS; r++) add_lanes(c.sum[0][0], c.sum[0][r]);
    float sum = 0;
    for (int64_t i = vectors * LANES; i < n; i++) sum += x[i];
    for (int l = 0; l < LANES; l++) sum += c.sum[0][0][l];
    return sum;
}

/* The nearest entry of the dynamic map to v, after v is rounded to one of 65,536 steps from -1 to 1. */
static uint8_t dynamic_code(float v) {
    const int step = (int)((v + 1.0f) * 32767.5f + 0.5f);
    const double x = step / 32767.5 - 1;
    int low = 0, high = 255; /* the first entry whose middle with the next is not below x */
    while (low < high) {
        const int mid = (low + high) / 2;
        if (((double)gr_dynamic_map[mid] + gr_dynamic_map[mid + 1]) / 2 < x)
            low = mid + 1;
        else
            high = mid;
    }
    return (uint8_t)low;
}

void gr_quantize_absmax(const float *absmax, int64_t n, uint8_t *codes, float *nested, float *offset) {
    const float mean = cascade_sum(absmax, n) / (float)n;
    for (int64_t at = 0; at < n; at += GR_NESTED_BLOCK, nested++) {
        float x[GR_NESTED_BLOCK];
        const int64_t k = GR_MIN((int64_t)GR_NESTED_BLOCK, n - at);
        for (int64_t i = 0; i < k; i++) x[i] = absmax[at + i] - mean;
        *nested = absmax_of(x, k);
        const float inverse = 1.0f / *nested;
        for (int64_t i = 0; i < k; i++)
            codes[at + i] = *nested > 0 ? dynamic_code(fminf(fmaxf(x[i] * inverse, -1.0f), 1.0f)) : 0;
    }
    *offset = mean;
}

/* --- Rows of 8 bits ----------------------------------------------------------------------------------------------- */

float gr_quantize_int8_row(const float *x, int64_t n, int8_t *codes) {
    float most = 0;
    for (int64_t i = 0; i < n; i++) most = fmaxf(most, fabsf(gr_f16_to_f32(gr_f32_to_f16(x[i]))));
    const float inverse = 1.0f / most * 127.0f; /* rounded twice, as torch divides a number by a tensor */
    for (int64_t i = 0; i < n; i++)
        codes[i] = most > 0 && most < INFINITY ? (int8_t)nearbyintf(gr_f16_to_f32(gr_f32_to_f16(x[i])) * inverse) : 0;
    return most;
}

float gr_channel8_scale(float most, gr_dtype dtype) {
    const float scale = most / 127.5f;
    const float rounded = dtype == GR_BF16  ? gr_bf16_to_f32(gr_f32_to_bf16(scale))
                          : dtype == GR_F16 ? gr_f16_to_f32(gr_f32_to_f16(scale))
                                            : scale;
    if (isinf(rounded)) return scale;
    if (rounded >= FLT_MIN) return rounded; /* its inverse is finite */
    return dtype == GR_BF16 ? 0x1p-7f : dtype == GR_F16 ? 0x1p-10f : FLT_EPSILON;
}

gr_dtype gr_channel8_scale_type(gr_dtype stored) { return stored == GR_BF16 || stored == GR_F16 ? stored : GR_F32; }

float gr_quantize_channel8_row(const float *x, int64_t n, gr_dtype dtype, int8_t *codes) {
    const float scale = gr_channel8_scale(absmax_of(x, n), dtype);
    for (int64_t i = 0; i < n; i++) codes[i] = (int8_t)fminf(fmaxf(nearbyintf(x[i] / scale), -128), 127);
    return scale;
}
