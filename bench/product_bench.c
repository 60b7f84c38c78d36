/* Products of a training step, one by one: the least time of many calls with operands that stand in the caches, and the rate
 * that it makes. Weights of random bits in Q4_1 and BF16, results in bf16; the thin products of LoRA beside them.
 *
 * product_bench [rows 512] [rounds 30] [threads 1] */
#include <stdio.h>
#include <stdlib.h>

#include "kernel/kernel.h"

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        if ((call) != GRAFT_OK) {                                                                                      \
            fprintf(stderr, "%s\n", err.text);                                                                      \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static graft_error err;

/* Small numbers as bf16, and blocks of Q4_1 whose scales are small too. */
static void *random_bytes(size_t n, bool q4_1) {
    uint16_t *x = aligned_alloc(4096, (n + 4095) / 4096 * 4096);
    if (!x) exit(1);
    uint32_t state = 1;
    for (size_t i = 0; i < n / 2; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = q4_1 ? (uint16_t)(i % 10 < 2 ? 0x2000 + (state >> 28) : state >> 16) : (uint16_t)(0x3c00 + (state >> 24) + (state >> 31 << 15));
    }
    return x;
}

typedef struct call {
    gr_matrix *w;
    gr_device *dev;
    int64_t rows, out, in;
    void *x, *y;
    int kind;
} call;

static void run(const call *c) {
    switch (c->kind) {
        case 0: MUST(gr_matrix_forward(c->w, c->rows, c->x, c->in, GR_BF16, c->y, c->out, false, &err)); break;
        case 1: MUST(gr_matrix_backward(c->w, c->rows, c->x, c->out, c->y, c->in, false, &err)); break;
        case 2: /* u = x A^T */
            MUST(gr_gemm(c->dev, false, true, c->rows, 8, c->in, 1, GR_BF16, c->x, c->in, c->x, c->in, 0, GR_BF16, c->y, 8, &err));
            break;
        case 3: /* y += u B^T */
            MUST(gr_gemm(c->dev, false, true, c->rows, c->out, 8, 2, GR_BF16, c->x, 8, c->x, 8, 1, GR_BF16, c->y, c->out, &err));
            break;
        case 4: /* dA += du^T x */
            MUST(gr_gemm(c->dev, true, false, 8, c->in, c->rows, 2, GR_BF16, c->x, 8, c->x, c->in, 1, GR_F32, c->y, c->in, &err));
            break;
        default: /* dB += dy^T u */
            MUST(gr_gemm(c->dev, true, false, c->out, 8, c->rows, 2, GR_BF16, c->x, c->out, c->x, 8, 1, GR_F32, c->y, 8, &err));
    }
}

int main(int argc, char **argv) {
    static const char *const kinds[] = {"y = x W^T", "dx = dy W", "u = x A^T", "y += u B^T", "dA += du^T x", "dB += dy^T u"};
    static const int64_t shapes[][2] = {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}};
    const int64_t rows = argc > 1 ? atol(argv[1]) : 512;
    const int rounds = argc > 2 ? atoi(argv[2]) : 30;
    graft_context *ctx;
    gr_device *dev;
    MUST(graft_context_new(&(graft_context_options){.n_threads = argc > 3 ? atoi(argv[3]) : 1, .cpu = getenv("GRAFT_CPU")}, &ctx, &err));
    MUST(gr_device_get(ctx, &dev, &err));
    for (size_t s = 0; s < GR_COUNT(shapes); s++)
        for (int f = 0; f < 2; f++) {
            call c = {.dev = dev, .rows = rows, .out = shapes[s][0], .in = shapes[s][1]};
            const gr_dtype stored = f ? GR_BF16 : GR_Q4_1;
            const size_t bytes = (size_t)(c.out * c.in) / 32 * (f ? 64 : 20);
            void *w = random_bytes(bytes, !f);
            gr_matrix_spec spec = {.name = "w", .n_parts = 1, .dt = GR_BF16};
            spec.part[0].view = (gr_tensor_view){.dtype = stored, .shape = {2, {c.out, c.in}}, .data = w, .bytes = bytes};
            MUST(gr_matrix_new(dev, &spec, &c.w, &err));
            c.x = random_bytes((size_t)(rows * GR_MAX(c.out, c.in)) * 2, false);
            c.y = random_bytes((size_t)(GR_MAX(rows, c.out) * GR_MAX(c.out, c.in)) * 4, false);
            for (c.kind = 0; c.kind < (f ? 2 : 6); c.kind++) {
                double best = 1e9;
                for (int r = 0; r < rounds; r++) {
                    const double begin = gr_now_seconds();
                    run(&c);
                    best = GR_MIN(best, gr_now_seconds() - begin);
                }
                const double n = 2.0 * (double)(rows * c.out * c.in) / (c.kind == 2 || c.kind == 4 ? (double)c.out / 8 : c.kind > 2 ? (double)c.in / 8 : 1);
                printf("%-13s %4d x %4d x %4d %-5s %7.1f us %7.0f GFLOP/s\n", kinds[c.kind], (int)rows, (int)c.out, (int)c.in,
                       c.kind > 1 ? "" : f ? "BF16" : "Q4_1", best * 1e6, n / best * 1e-9);
            }
            gr_matrix_free(c.w);
            free(w);
            free(c.x);
            free(c.y);
        }
    graft_context_free(ctx);
    return 0;
}
