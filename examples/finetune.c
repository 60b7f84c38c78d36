/* Loads a model, attaches LoRA, trains a few steps on a file of records, answers a question, saves the adapter.
 *
 *   cc finetune.c $(pkg-config --cflags --libs graft) -o finetune
 *   ./finetune MODEL RECORDS.jsonl OUTPUT_DIR "PROMPT"
 */
#include <stdio.h>
#include <string.h>

#include <graft/graft.h>

static graft_error err;

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, err.text);
    return 1;
}

static int say(void *user, size_t sequence, const char *piece, size_t len) {
    (void)user;
    (void)sequence;
    fwrite(piece, 1, len, stdout);
    return 0; /* anything else would end the answer */
}

static void show(void *user, const graft_train_progress *p) {
    (void)user;
    if (p->phase == GRAFT_TRAIN_STEPPING && p->done == p->step)
        printf("step %lld of %lld: loss %.3f\n", (long long)p->step, (long long)p->total_steps, p->loss);
}

int main(int argc, char **argv) {
    if (argc != 5) return fprintf(stderr, "usage: finetune MODEL RECORDS.jsonl OUTPUT_DIR PROMPT\n"), 2;
    graft_context *ctx;
    if (graft_context_new(NULL, &ctx, &err)) return failed("context");

    /* Train: the same options as graft sft. The adapter ends up in OUTPUT_DIR, as peft would write it. */
    const char *files[] = {argv[2]};
    graft_sft_options o = graft_sft_options_default();
    o.model = argv[1];
    o.data = (graft_texts){files, 1};
    o.output_dir = argv[3];
    o.overwrite_output_dir = 1;
    o.max_steps = 5;
    o.learning_rate = 1e-3;
    o.per_device_train_batch_size = 2;
    o.save_strategy = GRAFT_STRATEGY_NO;
    graft_train_callbacks callbacks = {.progress = show};
    if (graft_sft(ctx, &o, &callbacks, NULL, &err)) return failed("training");

    /* Use it: the base model with the new adapter. */
    graft_model *model;
    graft_tokenizer *tok;
    graft_session *session;
    if (graft_model_load(ctx, argv[1], NULL, &model, &err)) return failed("model");
    if (graft_adapter_load(model, "mine", argv[3], 1.0, &err)) return failed("adapter");
    if (graft_tokenizer_load(ctx, argv[1], &tok, &err)) return failed("tokenizer");
    if (graft_session_new(model, tok, &session, &err)) return failed("session");

    graft_input_ids prompt;
    int32_t *ids;
    if (graft_tokenizer_encode(tok, argv[4], strlen(argv[4]), GRAFT_TOK_ADD_SPECIAL, &ids, &prompt.n, &err)) return failed("prompt");
    prompt.ids = ids;
    graft_generate_options g = graft_generate_options_default();
    g.adapter = "mine";
    g.max_new_tokens = 20;
    graft_generation answer;
    if (graft_generate(session, &prompt, 1, 1, &g, say, NULL, &answer, &err)) return failed("generation");
    printf("\n");

    graft_generation_free(ctx, &answer);
    graft_free(ctx, ids);
    graft_session_free(session);
    graft_tokenizer_free(tok);
    graft_model_free(model);
    graft_context_free(ctx);
    return 0;
}
