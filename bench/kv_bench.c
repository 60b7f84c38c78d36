/* Keys and values in each format that a cache may have: perplexity of a text whose history is read from the cache, bytes a token,
 * and processor time of a decoding step behind histories of some lengths.
 *
 * kv_bench MODEL TEXT [--tokens 2048] [--dtype bf16|f32] [--cpu LEVEL] [--steps 12] [--history 128,2048,8000]
 *
 * One thread. What the attention of a step costs is the same whatever its history says: histories are the text's first rows,
 * repeated. A step's time is the shortest of the steps, in turn over the formats. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/file.h"
#include "infer/infer.h"

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        if ((call) != GRAFT_OK) {                                                                                      \
            fprintf(stderr, "kv_bench: %s\n", err.text);                                                               \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

enum { CHUNK = 128, N_FORMATS = 3, MAX_HISTORIES = 8 };
static const char *const names[N_FORMATS] = {"computed", "bf16", "int8"};
static graft_error err;

typedef struct bench {
    graft_context *ctx;
    graft_model *m;
    gr_pool *pool;
    gr_tape *tape;
    gr_pass *pass;
    int64_t vocab;
} bench;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Tokens behind the history; their logits, or only the last ones', are borrowed until the tape is reset. */
static const float *run(bench *b, gr_kv_seq *q, const int32_t *ids, int32_t n, bool last) {
    const int32_t bounds[2] = {0, n}, wanted = n - 1;
    const gr_kv *kv;
    gr_var *x;
    MUST(gr_kv_seq_extend(q, n, &err));
    kv = &q->kv;
    gr_batch batch = {.n_tokens = n, .n_seqs = 1, .bounds = bounds, .ids = ids, .one_adapter = -1, .kv = &kv};
    gr_pass_options o = {.hooks = b->m->hooks};
    MUST(gr_pass_logits(b->pass, b->tape, &batch, &o, last ? &wanted : NULL, last, &x, &err));
    q->length += n;
    return gr_var_array(x)->data;
}

static double perplexity(bench *b, gr_kv_store *store, const int32_t *ids, int32_t n) {
    gr_kv_seq q;
    double sum = 0;
    gr_kv_seq_init(&q, store);
    for (int32_t at = 0; at + 1 < n; at += CHUNK) {
        const int32_t now_n = GR_MIN(n - 1 - at, CHUNK);
        const float *logits = run(b, &q, ids + at, now_n, false);
        for (int32_t i = 0; i < now_n; i++) {
            const float *row = logits + i * b->vocab;
            double top = -INFINITY, total = 0;
            for (int64_t c = 0; c < b->vocab; c++) top = fmax(top, (double)row[c]);
            for (int64_t c = 0; c < b->vocab; c++) total += exp((double)row[c] - top);
            sum += top + log(total) - (double)row[ids[at + i + 1]];
        }
        gr_tape_reset(b->tape);
    }
    gr_kv_seq_free(&q);
    return exp(sum / (n - 1));
}

/* A history of n rows, whole blocks of the first 64 rows again and again. */
static void grow(bench *b, gr_kv_seq *q, const int32_t *ids, int64_t n, int64_t row_bytes) {
    run(b, q, ids, GR_KV_ROWS, true);
    gr_tape_reset(b->tape);
    while (q->length < n) {
        MUST(gr_kv_seq_extend(q, GR_KV_ROWS, &err));
        for (int l = 0; l < q->kv.n_layers; l++) {
            const gr_kv_layer *layer = &q->kv.layers[l];
            memcpy(layer->targets[0].k, layer->segments[0].k, (size_t)(GR_KV_ROWS * row_bytes));
            memcpy(layer->targets[0].v, layer->segments[0].v, (size_t)(GR_KV_ROWS * row_bytes));
        }
        q->length += GR_KV_ROWS;
    }
}

static double step(bench *b, gr_kv_seq *q, const int32_t *ids) {
    const int64_t length = q->length;
    const double begin = now();
    run(b, q, ids, 1, true);
    gr_tape_reset(b->tape);
    const double seconds = now() - begin;
    gr_kv_seq_truncate(q, length);
    return seconds;
}

static void open_bench(bench *b, const char *model, const char *dtype, const char *cpu) {
    graft_context_options c = {.n_threads = 1, .cpu = cpu};
    graft_model_options o = {.dtype = !strcmp(dtype, "f32") ? GRAFT_DTYPE_F32 : GRAFT_DTYPE_BF16};
    MUST(graft_context_new(&c, &b->ctx, &err));
    MUST(graft_model_load(b->ctx, model, &o, &b->m, &err));
    MUST(gr_pool_new(gr_allocator(b->ctx), 0, false, &b->pool, &err));
    MUST(gr_tape_new(gr_model_device(b->m->model), b->pool, &(gr_tape_options){0}, &b->tape, &err));
    MUST(gr_pass_new(b->m->model, &b->pass, &err));
    b->vocab = gr_model_get_config(b->m->model)->vocab_size;
}

static void time_steps(bench *b, gr_kv_store **stores, const int32_t *ids, int64_t length, int steps) {
    const gr_model_config *c = gr_model_get_config(b->m->model);
    double best[N_FORMATS] = {0};
    gr_kv_seq q[N_FORMATS];
    for (int f = 0; f < N_FORMATS; f++) {
        if (!stores[f]) continue;
        gr_kv_seq_init(&q[f], stores[f]);
        grow(b, &q[f], ids, length, (int64_t)gr_kv_row_bytes(gr_model_dtype(b->m->model), (gr_kv_format)f, c->n_kv_heads, c->head_dim));
    }
    for (int k = 0; k < steps; k++)
        for (int f = 0; f < N_FORMATS; f++) {
            if (!stores[f]) continue;
            const double s = step(b, &q[f], ids);
            best[f] = k == 0 || s < best[f] ? s : best[f];
        }
    for (int f = 0; f < N_FORMATS; f++) {
        if (!stores[f]) continue;
        printf("history %6lld  %-8s  %7.2f ms a step\n", (long long)q[f].length, names[f], best[f] * 1e3);
        gr_kv_seq_free(&q[f]);
    }
}

int main(int argc, char **argv) {
    const char *dtype = "bf16", *cpu = NULL, *histories = "128,2048,8000";
    int tokens = 2048, steps = 12;
    if (argc < 3) return 2;
    for (int i = 3; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--tokens")) tokens = atoi(argv[i + 1]);
        if (!strcmp(argv[i], "--steps")) steps = atoi(argv[i + 1]);
        if (!strcmp(argv[i], "--dtype")) dtype = argv[i + 1];
        if (!strcmp(argv[i], "--cpu")) cpu = argv[i + 1];
        if (!strcmp(argv[i], "--history")) histories = argv[i + 1];
    }
    bench b = {0};
    graft_tokenizer *tok;
    gr_kv_store *stores[N_FORMATS] = {NULL};
    char *text;
    size_t len, n;
    int32_t *ids;
    open_bench(&b, argv[1], dtype, cpu);
    MUST(graft_tokenizer_load(b.ctx, argv[1], &tok, &err));
    MUST(gr_read_file(NULL, argv[2], (size_t)1 << 24, &text, &len, &err));
    MUST(graft_tokenizer_encode(tok, text, len, 0, &ids, &n, &err));
    if (n < GR_KV_ROWS || (size_t)tokens > n) tokens = (int)n;
    const gr_model_config *c = gr_model_get_config(b.m->model);
    for (int f = 0; f < N_FORMATS; f++) {
        if (f == GR_KV_BF16 && gr_model_dtype(b.m->model) == GR_BF16) continue; /* as computed */
        MUST(gr_kv_store_new(b.m->model, (gr_kv_format)f, &stores[f], &err));
        const size_t row = gr_kv_row_bytes(gr_model_dtype(b.m->model), (gr_kv_format)f, c->n_kv_heads, c->head_dim);
        printf("%-8s  %6zu bytes a token", names[f], row * 2 * (size_t)gr_model_kv_layers(b.m->model));
        if (tokens > 1) printf("  perplexity %.4f of %d tokens", perplexity(&b, stores[f], ids, tokens), tokens);
        printf("\n");
        fflush(stdout);
    }
    for (const char *at = histories; *at; at += strcspn(at, ","), at += *at == ',') time_steps(&b, stores, ids, atol(at), steps);
    for (int f = 0; f < N_FORMATS; f++) gr_kv_store_free(stores[f]);
    gr_free(NULL, text);
    graft_free(b.ctx, ids);
    gr_pass_free(b.pass);
    gr_tape_free(b.tape);
    gr_pool_free(b.pool);
    graft_tokenizer_free(tok);
    graft_model_free(b.m);
    graft_context_free(b.ctx);
    return 0;
}
