/* llama.cpp's library as a peer: bench/common.py and tools/check_llama_cpp.py compile this against an installed libllama.
 *
 *   llama_peer logits MODEL IDS OUT [LORA]       logits of every token, float32 (tokens, vocabulary)
 *   llama_peer perplexity MODEL IDS WINDOW THREADS   the second half of each window counts, as in llama-perplexity
 *   llama_peer first MODEL THREADS N   loads the model and computes N tokens: the time of the whole process is measured
 *   llama_peer speed MODEL THREADS SEQUENCES PROMPT GENERATE   tokens a second, as llama-bench and llama-batched-bench count
 *
 * IDS: a file of int32. Settings are llama.cpp's own, but of `logits`: keys and values in float32, attention apart and one
 * thread, so that what is left to differ is the weights and how they are multiplied. */
#include <llama.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void quiet(enum ggml_log_level level, const char *text, void *user) {
    (void)user;
    if (level >= GGML_LOG_LEVEL_WARN && level != GGML_LOG_LEVEL_CONT) fputs(text, stderr);
}

static void fail(const char *what) {
    fprintf(stderr, "llama_peer: %s\n", what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int32_t *read_ids(const char *path, int *n) {
    FILE *in = fopen(path, "rb");
    if (!in) fail("the tokens were not opened");
    fseek(in, 0, SEEK_END);
    *n = (int)(ftell(in) / (long)sizeof(int32_t));
    rewind(in);
    int32_t *ids = malloc(sizeof *ids * (size_t)(*n + 1));
    if (!ids || *n < 1 || fread(ids, sizeof *ids, (size_t)*n, in) != (size_t)*n) fail("no tokens were read");
    fclose(in);
    return ids;
}

static struct llama_model *load(const char *path) {
    struct llama_model_params p = llama_model_default_params();
    p.n_gpu_layers = 0;
    struct llama_model *m = llama_model_load_from_file(path, p);
    if (!m) fail("the model was not loaded");
    return m;
}

static void put(struct llama_batch *b, int32_t id, int pos, int sequence, bool wanted) {
    const int i = b->n_tokens++;
    b->token[i] = id;
    b->pos[i] = pos;
    b->n_seq_id[i] = 1;
    b->seq_id[i][0] = sequence;
    b->logits[i] = wanted;
}

static void decode(struct llama_context *ctx, struct llama_batch b) {
    if (llama_decode(ctx, b) != 0) fail("the tokens were not decoded");
}

static struct llama_context *context(struct llama_model *m, struct llama_context_params p) {
    struct llama_context *ctx = llama_init_from_model(m, p);
    if (!ctx) fail("no context was made");
    return ctx;
}

static size_t vocabulary(const struct llama_model *m) {
    return (size_t)llama_vocab_n_tokens(llama_model_get_vocab(m));
}

static void logits(char **argv, int argc) {
    int n;
    const int32_t *ids = read_ids(argv[1], &n);
    struct llama_model *m = load(argv[0]);
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = p.n_batch = p.n_ubatch = (uint32_t)n;
    p.n_threads = p.n_threads_batch = 1;
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    p.type_k = p.type_v = GGML_TYPE_F32;
    struct llama_context *ctx = context(m, p);
    struct llama_adapter_lora *lora = argc > 3 ? llama_adapter_lora_init(m, argv[3]) : NULL;
    float scale = 1;
    if (argc > 3 && !lora) fail("the adapter was not loaded");
    if (lora && llama_set_adapters_lora(ctx, &lora, 1, &scale) != 0) fail("the adapter was not applied");
    struct llama_batch b = llama_batch_init(n, 0, 1);
    for (int i = 0; i < n; i++) put(&b, ids[i], i, 0, true);
    decode(ctx, b);
    FILE *out = fopen(argv[2], "wb");
    if (!out) fail("the output was not opened");
    for (int i = 0; i < n; i++)
        if (fwrite(llama_get_logits_ith(ctx, i), sizeof(float), vocabulary(m), out) != vocabulary(m))
            fail("the output was not written");
    if (fclose(out)) fail("the output was not written");
}

static double cost_of(const float *x, size_t n, int32_t id) {
    double most = x[0], sum = 0;
    for (size_t i = 1; i < n; i++) most = x[i] > most ? x[i] : most;
    for (size_t i = 0; i < n; i++) sum += exp((double)x[i] - most);
    return most + log(sum) - (double)x[id];
}

static void perplexity(char **argv) {
    int n;
    const int32_t *ids = read_ids(argv[1], &n);
    const int window = atoi(argv[2]), threads = atoi(argv[3]);
    struct llama_model *m = load(argv[0]);
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = p.n_batch = (uint32_t)window;
    p.n_threads = p.n_threads_batch = threads;
    struct llama_context *ctx = context(m, p);
    struct llama_batch b = llama_batch_init(window, 0, 1);
    double sum = 0;
    long counted = 0;
    for (int at = 0; at + window <= n; at += window) {
        llama_memory_clear(llama_get_memory(ctx), true);
        b.n_tokens = 0;
        for (int i = 0; i < window; i++) put(&b, ids[at + i], i, 0, i >= window / 2 && i < window - 1);
        decode(ctx, b);
        for (int i = window / 2; i < window - 1; i++, counted++)
            sum += cost_of(llama_get_logits_ith(ctx, i), vocabulary(m), ids[at + i + 1]);
    }
    printf("{\"perplexity\": %.6f, \"counted\": %ld}\n", exp(sum / (double)counted), counted);
}

static void first(char **argv) {
    const int threads = atoi(argv[1]), n = atoi(argv[2]);
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = 512;
    p.n_threads = p.n_threads_batch = threads;
    struct llama_context *ctx = context(load(argv[0]), p);
    struct llama_batch b = llama_batch_init(n, 0, 1);
    for (int i = 0; i < n; i++) put(&b, 100 + i, i, 0, i == n - 1);
    decode(ctx, b);
    printf("{\"logit\": %.6f}\n", (double)llama_get_logits_ith(ctx, n - 1)[0]);
}

/* Greedy choice is left out, as llama-bench leaves it out: tokens are drawn from a fixed list. */
static void speed(char **argv) {
    const int threads = atoi(argv[1]), sequences = atoi(argv[2]), prompt = atoi(argv[3]), generate = atoi(argv[4]);
    struct llama_model *m = load(argv[0]);
    const int32_t vocab = (int32_t)vocabulary(m);
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = (uint32_t)(sequences * (prompt + generate + 32));
    p.n_seq_max = (uint32_t)sequences;
    p.n_batch = (uint32_t)(sequences > 512 ? sequences : 512);
    p.n_threads = p.n_threads_batch = threads;
    struct llama_context *ctx = context(m, p);
    struct llama_batch b = llama_batch_init((int32_t)p.n_batch, 0, 1);
    unsigned state = 1;
    double prefill = 0, decoding = 0;
    for (int round = 0; round < 2; round++) { /* a short one to warm up */
        const int tokens = round ? prompt : prompt < 32 ? prompt : 32, steps = round ? generate : 2;
        llama_memory_clear(llama_get_memory(ctx), true);
        double begin = now();
        for (int s = 0; s < sequences; s++)
            for (int at = 0; at < tokens; at += (int)p.n_batch) {
                b.n_tokens = 0;
                for (int i = at; i < tokens && i < at + (int)p.n_batch; i++) {
                    state = state * 1664525u + 1013904223u;
                    put(&b, (int32_t)(state >> 8) % vocab, i, s, i == tokens - 1);
                }
                decode(ctx, b);
            }
        prefill = now() - begin;
        begin = now();
        for (int k = 0; k < steps; k++) {
            b.n_tokens = 0;
            for (int s = 0; s < sequences; s++) {
                state = state * 1664525u + 1013904223u;
                put(&b, (int32_t)(state >> 8) % vocab, tokens + k, s, true);
            }
            decode(ctx, b);
        }
        decoding = now() - begin;
    }
    printf("{\"prefill\": %.3f, \"decode\": %.3f}\n", sequences * prompt / prefill, sequences * generate / decoding);
}

int main(int argc, char **argv) {
    llama_log_set(quiet, NULL);
    llama_backend_init();
    if (argc >= 5 && !strcmp(argv[1], "logits"))
        logits(argv + 2, argc - 2);
    else if (argc == 6 && !strcmp(argv[1], "perplexity"))
        perplexity(argv + 2);
    else if (argc == 7 && !strcmp(argv[1], "speed"))
        speed(argv + 2);
    else if (argc == 5 && !strcmp(argv[1], "first"))
        first(argv + 2);
    else
        fail("expected logits, perplexity, first or speed and their arguments");
    return 0;
}
