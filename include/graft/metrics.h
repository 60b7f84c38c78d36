/* Metrics of text against references, equal to those of the packages that the field uses. All are pure functions. */
#ifndef GRAFT_METRICS_H
#define GRAFT_METRICS_H

#include <stddef.h>
#include <stdint.h>
#include "graft/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct graft_score {
    double precision, recall, fmeasure; /* 0 to 1 */
} graft_score;

typedef struct graft_rouge {
    graft_score rouge1, rouge2; /* n-gram overlap */
    graft_score rougeL;         /* longest common subsequence of the whole texts */
    graft_score rougeLsum;      /* union of the longest common subsequences of their lines */
} graft_rouge;

/* ROUGE (Lin 2004) as rouge-score 0.1.2's RougeScorer.score(target, prediction) with its default tokenizer. Texts are
 * UTF-8. `stem` is use_stemmer: Porter's algorithm with nltk's extensions. */
graft_status graft_rouge_score(graft_context *ctx, const char *target, size_t target_len, const char *prediction,
                               size_t prediction_len, int stem, graft_rouge *out, graft_error *err);

enum {
    GRAFT_MATCH_IGNORE_CASE = 1,        /* Unicode lower case */
    GRAFT_MATCH_IGNORE_PUNCTUATION = 2, /* ASCII punctuation is removed */
    GRAFT_MATCH_IGNORE_NUMBERS = 4,     /* the digits 0 to 9 are removed */
    GRAFT_MATCH_STRIP = 8               /* white space at both ends is removed */
};
/* *out is 1 when the texts are equal after the changes that `flags` asks for (lm-eval's exact_match, plus STRIP). */
graft_status graft_exact_match(graft_context *ctx, const char *target, size_t target_len, const char *prediction,
                               size_t prediction_len, unsigned flags, int *out, graft_error *err);

/* SQuAD 1.1's F1 over words, after lower case, without ASCII punctuation and the articles a, an, the. Two texts that
 * have no word left score 0, as the official script gives. */
graft_status graft_token_f1(graft_context *ctx, const char *target, size_t target_len, const char *prediction,
                            size_t prediction_len, graft_score *out, graft_error *err);

/* BLEU (Papineni et al. 2002) of a corpus, equal to sacrebleu 2.6's corpus_bleu with its defaults and one reference each:
 * begin with zeros, add every pair of texts, take the score. */
enum { GRAFT_BLEU_ORDER = 4 };
typedef struct graft_bleu {
    uint64_t correct[GRAFT_BLEU_ORDER], total[GRAFT_BLEU_ORDER]; /* n-grams of the predictions, and those found in the targets */
    uint64_t prediction_length, target_length;                   /* words */
} graft_bleu;
graft_status graft_bleu_add(graft_context *ctx, const char *target, size_t target_len, const char *prediction,
                            size_t prediction_len, graft_bleu *b, graft_error *err);
double graft_bleu_score(const graft_bleu *b); /* 0 to 100 */

#ifdef __cplusplus
}
#endif
#endif
