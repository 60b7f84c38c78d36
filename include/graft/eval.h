/* Evaluation: a model, with or without an adapter, on records. */
#ifndef GRAFT_EVAL_H
#define GRAFT_EVAL_H

#include "graft/data.h"
#include "graft/generate.h"
#include "graft/metrics.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What is measured; combine with |. */
enum {
    GRAFT_EVAL_LOSS = 1,     /* mean cross-entropy over the label tokens, its exponential (perplexity), token accuracy; of a masked
                                language model over tokens that are hidden; of a classification also accuracy, F1 and the like */
    GRAFT_EVAL_EXACT = 2,    /* generated answer equals the reference (white space at both ends aside) */
    GRAFT_EVAL_ROUGE = 4,    /* ROUGE-1, -2, -L and -Lsum F-measure of the generated answer */
    GRAFT_EVAL_TOKEN_F1 = 8, /* SQuAD's F1 of the generated answer */
    GRAFT_EVAL_BLEU = 64,    /* BLEU of all generated answers together */
    GRAFT_EVAL_GENERATES = GRAFT_EVAL_EXACT | GRAFT_EVAL_ROUGE | GRAFT_EVAL_TOKEN_F1 | GRAFT_EVAL_BLEU
};

typedef struct graft_eval_sample {
    size_t index;                   /* of the record among those evaluated */
    const char *path;
    size_t line;
    const char *prompt, *reference, *output; /* NUL-terminated, borrowed */
    size_t prompt_len, reference_len, output_len;
    int exact;                      /* 0 or 1 where measured */
    graft_rouge rouge;
    graft_score token_f1;
} graft_eval_sample;

typedef struct graft_eval_options {
    unsigned what;
    graft_data_options data;
    /* For answers; without a metric of these whatever is not as in graft_eval_options_default is refused. Its adapter
     * and the seed of its sampling also apply to the loss. */
    graft_generate_options generate;
    size_t batch_size;               /* records at a time for the loss; 0: 8 */
    unsigned match_flags;            /* GRAFT_MATCH_... for exact; STRIP is always added */
    int rouge_stem;
    void *user;
    void (*progress)(void *user, size_t done, size_t total);      /* may be NULL */
    void (*sample)(void *user, const graft_eval_sample *sample);  /* each answered record, in order; may be NULL */
    /* Of a classification, once: counts of true class by predicted (n, n), or of several labels (n, 4): true negatives, false
     * positives, false negatives, true positives of each. May be NULL. */
    void (*confusion)(void *user, graft_problem problem, size_t n, const int64_t *counts);
    double mlm_probability; /* 0: 0.15 */
} graft_eval_options;
graft_eval_options graft_eval_options_default(void); /* loss, exact match, ROUGE; greedy answers of at most 128 tokens */

typedef struct graft_eval_result {
    size_t n_records, n_answers;             /* for the loss; with a generated answer and a reference */
    uint64_t n_tokens, n_labels, n_correct;  /* for the loss */
    double loss, perplexity, token_accuracy; /* NaN where not measured, as all below */
    double accuracy, macro_f1; /* of a classification; as scikit-learn's accuracy_score and f1_score(average="macro") */
    double mse, pearson;       /* of a regression */
    double exact_match, rouge1, rouge2, rougeL, rougeLsum, token_f1; /* means, 0 to 1 */
    double bleu;                                                     /* of the corpus, 0 to 100 */
    double seconds;
} graft_eval_result;

graft_status graft_eval(graft_model *m, const graft_tokenizer *tok, const graft_eval_options *options,
                        graft_eval_result *out, graft_error *err);

#ifdef __cplusplus
}
#endif
#endif
