/* What a masked language model says by the words of a template: at each mask the word with the largest logit, and the label that
 * it stands for. */
#ifndef GR_EVAL_VERBALISER_H
#define GR_EVAL_VERBALISER_H

#include "data/labels.h"
#include "graft/tokenizer.h"
#include "model/public.h"
#include "text/slots.h"

typedef struct gr_verbaliser {
    const graft_allocator *a;
    gr_model *model;
    gr_arena arena;
    gr_slots slots; /* n_words 0: none */
    int32_t *ids;   /* of the words */
    int32_t *rows, *classes; /* of a batch: its masks, and their right labels */
    float *scores;
    size_t rows_cap, classes_cap;
} gr_verbaliser;

/* Nothing where the model is none for masks or the template (NULL: none) has no words; else begins the tally over the words too. */
graft_status gr_verbaliser_open(gr_verbaliser *v, const graft_model *m, const graft_tokenizer *tok, const char *prompt_template,
                                gr_class_tally *tally, graft_error *err);
void gr_verbaliser_close(gr_verbaliser *v);
/* Runs the batch and enters what is said at each token with a label. Resets the tape. */
graft_status gr_verbaliser_count(gr_verbaliser *v, gr_pass *pass, gr_tape *tape, const gr_batch *b, const gr_pass_options *o,
                                 gr_class_tally *tally, graft_error *err);

#endif
