/* Products of a training step, one by one: the least time of many calls with operands that stand in the caches, and the
 * rate that it makes. Weights of random bits in Q4_1 and BF16, results in bf16; the thin products of LoRA beside them.
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
        if (q4_1)
            x[i] = (uint16_t)(i % 10 < 2 ? 0x2000 + (state >> 28) : state >> 16);
        else
            x[i] = (uint16_t)(0x3c00 + (state >> 24) + (state >> 31 << 15));
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

enum { RANK = 8 };
static const char *const kinds[] = {"y = x W^T",  "dx = dy W",    "u = x A^T",
                                    "y += u B^T", "dA += du^T x", "dB += dy^T u"};

/* The thin products: (m, n) = or += of k terms. */
static void thin(const call *c, bool ta, bool tb, int64_t m, int64_t n, int64_t k, gr_dtype to) {
    const double beta = c->kind > 2;
    MUST(gr_gemm(c->dev, ta, tb, m, n, k, 1, GR_BF16, c->x, ta ? m : k, c->x, tb ? k : n, beta, to, c->y, n, &err));
}

static void run(const call *c) {
    switch (c->kind) {
        case 0: MUST(gr_matrix_forward(c->w, c->rows, c->x, c->in, GR_BF16, c->y, c->out, false, &err)); break;
        case 1: MUST(gr_matrix_backward(c->w, c->rows, c->x, c->out, c->y, c->in, false, &err)); break;
        case 2: thin(c, false, true, c->rows, RANK, c->in, GR_BF16); break;
        case 3: thin(c, false, true, c->rows, c->out, RANK, GR_BF16); break;
        case 4: thin(c, true, false, RANK, c->in, c->rows, GR_F32); break;
        default: thin(c, true, false, c->out, RANK, c->rows, GR_F32);
    }
}

/* Multiplications and additions of a call. */
static double operations(const call *c) {
    const double rows = (double)c->rows, out = (double)c->out, in = (double)c->in;
    return 2 * rows * (c->kind < 2 ? out * in : RANK * (c->kind == 2 || c->kind == 4 ? in : out));
}

int main(int argc, char **argv) {
    static const int64_t shapes[][2] = {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}};
    const int64_t rows = argc > 1 ? atol(argv[1]) : 512;
    const int rounds = argc > 2 ? atoi(argv[2]) : 30;
    graft_context *ctx;
    gr_device *dev;
    const graft_context_options options = {.n_threads = argc > 3 ? atoi(argv[3]) : 1, .cpu = getenv("GRAFT_CPU")};
    MUST(graft_context_new(&options, &ctx, &err));
    MUST(gr_device_get(ctx, &dev, &err));
    for (size_t s = 0; s < GR_COUNT(shapes); s++)
        for (int f = 0; f < 2; f++) {
            call c = {.dev = dev, .rows = rows, .out = shapes[s][0], .in = shapes[s][1]};
            const gr_dtype stored = f ? GR_BF16 : GR_Q4_1;
            const size_t bytes = (size_t)(c.out * c.in) / 32 * (f ? 64 : 20);
            void *w = random_bytes(bytes, !f);
            gr_matrix_spec spec = {.name = "w", .n_parts = 1, .dt = GR_BF16};
            spec.part[0].view =
                (gr_tensor_view){.dtype = stored, .shape = {2, {c.out, c.in}}, .data = w, .bytes = bytes};
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
                const double n = operations(&c);
                printf("%-13s %4d x %4d x %4d %-5s %7.1f us %7.0f GFLOP/s\n", kinds[c.kind], (int)rows, (int)c.out,
                       (int)c.in, c.kind > 1 ? "" : f ? "BF16" : "Q4_1", best * 1e6, n / best * 1e-9);
            }
            gr_matrix_free(c.w);
            free(w);
            free(c.x);
            free(c.y);
        }
    graft_context_free(ctx);
    return 0;
}
