/* Rows of keys and values in the formats that a cache keeps them in (gr_kv_format). They are written by portable code and
 * decoded by each level's decoders, which give the same bits. */
#include "kernel/cpu/attention.h"
#include "quant/quant.h"

enum { GRAIN = 16 }; /* rows */

typedef struct call {
    gr_dtype dt;
    gr_kv_format format;
    int n_heads, head_dim;
    const void *x;
    int64_t x_ld;
    char *to;
    int64_t to_ld, to_head;
} call;

/* One block of a head; n elements, then zeros. Encoders take finite numbers: others go into the scale. */
static void put_block(const float *x, char *to) {
    const uint16_t not_a_number = 0x7E00;
    float zero = 0;
    for (int i = 0; i < GR_KV_BLOCK; i++) zero += x[i] * 0.0f;
    if (zero == 0) {
        gr_quant_get(GR_Q8_0)->from_f32(x, GR_KV_BLOCK, to);
    } else {
        memset(to, 0, GR_KV_BLOCK_BYTES);
        memcpy(to, &not_a_number, sizeof not_a_number);
    }
}

static void put_head(const call *c, const void *x, char *to) {
    for (int64_t i = 0; i < c->head_dim; i += GR_KV_BLOCK, to += GR_KV_BLOCK_BYTES) {
        float block[GR_KV_BLOCK] = {0};
        gr_generic_convert(c->dt, gr_at_const(x, c->dt, i), GR_F32, block, GR_MIN(c->head_dim - i, (int64_t)GR_KV_BLOCK));
        put_block(block, to);
    }
}

static void keep_item(void *arg, size_t begin, size_t end, int thread) {
    const call *c = arg;
    (void)thread;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
        const void *x = gr_at_const(c->x, c->dt, r * c->x_ld);
        for (int h = 0; h < c->n_heads; h++) {
            const void *from = gr_at_const(x, c->dt, (int64_t)h * c->head_dim);
            const int64_t at = r * c->to_ld + h * c->to_head;
            const gr_dtype to = c->format == GR_KV_BF16 ? GR_BF16 : c->dt;
            if (c->format == GR_KV_INT8)
                put_head(c, from, c->to + at * GR_KV_BLOCK_BYTES);
            else
                gr_generic_convert(c->dt, from, to, gr_at(c->to, to, at), c->head_dim);
        }
    }
}

void gr_cpu_keep_kv(gr_device *d, gr_dtype dt, gr_kv_format format, int64_t rows, int n_heads, int head_dim, const void *x,
                    int64_t x_ld, void *to, int64_t to_ld, int64_t to_head) {
    call c = {dt, format, n_heads, head_dim, x, x_ld, to, to_ld, gr_kv_head_step(format, head_dim, to_head)};
    gr_parallel_for(d->team, (size_t)rows, GRAIN, keep_item, &c);
}

/* A block beyond the last whole one is decoded apart. In F64 by way of floats, which hold every decoded number. */
static void decode_head(const gr_cpu_kernels *k, gr_dtype dt, int64_t dim, const char *from, void *to) {
    gr_dequantize_fn to_f32 = k ? k->to_f32[GR_Q8_0] : gr_quant_get(GR_Q8_0)->to_f32;
    gr_dequantize_bf16_fn to_bf16 = k ? k->to_bf16[GR_Q8_0] : gr_quant_get(GR_Q8_0)->to_bf16;
    const int64_t whole = dt == GR_F64 ? 0 : dim / GR_KV_BLOCK * GR_KV_BLOCK;
    if (whole && dt == GR_F32) to_f32(from, (size_t)whole, to);
    if (whole && dt == GR_BF16) to_bf16(from, (size_t)whole, to);
    for (int64_t i = whole; i < dim; i += GR_KV_BLOCK) {
        float block[GR_KV_BLOCK];
        to_f32(from + i / GR_KV_BLOCK * GR_KV_BLOCK_BYTES, GR_KV_BLOCK, block);
        gr_generic_convert(GR_F32, block, dt, gr_at(to, dt, i), GR_MIN(dim - i, (int64_t)GR_KV_BLOCK));
    }
}

void gr_kept_row(const gr_cpu_kernels *k, const gr_attention *a, const gr_kv_segment *seg, bool values, int kv_head, int64_t j,
                 void *to) {
    const int64_t ld = values ? seg->v_ld : seg->k_ld, dim = a->head_dim;
    const char *from = values ? seg->v : seg->k;
    const int64_t at = j * ld + kv_head * gr_kv_head_step(seg->format, dim, seg->head);
    if (seg->format == GR_KV_INT8) {
        decode_head(k, a->dt, dim, from + at * GR_KV_BLOCK_BYTES, to);
        return;
    }
    const void *row = gr_at_const(from, GR_BF16, at);
    if (k)
        k->convert(GR_BF16, row, a->dt, to, dim);
    else
        gr_generic_convert(GR_BF16, row, a->dt, to, dim);
}
