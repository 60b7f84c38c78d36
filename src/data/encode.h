/* Records to tokens and labels, step by step as trl 1.16's SFTTrainer._prepare_dataset. */
#ifndef GR_DATA_ENCODE_H
#define GR_DATA_ENCODE_H

#include "data/chat.h"

typedef struct gr_encoder {
    graft_context *ctx;
    const graft_tokenizer *tok; /* NULL: records must be tokens */
    gr_chat *chat; /* NULL: the model has no chat template */
    graft_choice completion_only, instruction_chat;
    bool assistant_only, truncate_start;
    size_t max_length; /* 0: no limit */
    bool seq2seq;
    size_t max_target; /* likewise */
    gr_slice eos;      /* text that ends a text or a completion; absent: none */
    graft_learn learn;
    const char *prompt_template;    /* see graft_data_options */
    size_t positions;               /* tokens that the model can take, of encoders with a template; 0: no matter */
    const struct graft_model *model;
    int32_t adapter;                /* index; -1: none */
    int n_tasks;                    /* where no adapter is known: see graft_data_options */
} gr_encoder;

struct gr_model;
struct gr_hooks;
/* max_length of records for an encoder: at most what it has positions for, beside an adapter's own rows (index -1: none). */
graft_status gr_data_fit(const struct gr_model *m, const struct gr_hooks *h, int adapter, graft_data_options *d, graft_error *err);

/* From the options, with everything checked. The tokenizer and ctx must outlive it. */
graft_status gr_encoder_open(gr_encoder *e, graft_context *ctx, const graft_tokenizer *tok,
                             const graft_data_options *o, int64_t now, graft_error *err);
void gr_encoder_close(gr_encoder *e);

/* labels[t] is ids[t], another id, or GRAFT_IGNORE_LABEL: the label of token t itself, not shifted. */
typedef struct gr_tokens {
    int32_t *ids, *labels;
    size_t n;
    size_t n_source; /* with seq2seq: of n, those of the source, whose labels do not count; the others' all do */
    size_t n_labels; /* labels that count: not ignored, and not the first token's */
    bool truncated, split_prompt;
    int32_t *types; /* token types; NULL: all 0 */
    bool given;     /* masked: labels are the record's own, nothing is to be hidden */
    int32_t adapter; /* index, -1: none or the caller's affair */
    int32_t task;    /* 0 where there are none */
} gr_tokens;

/* The arrays are borrowed from the arena and the record. Errors name no place: the caller does. */
graft_status gr_encode_record(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_tokens *out,
                              graft_error *err);

/* encode_seq2seq.c: the same where e->seq2seq. */
graft_status gr_encode_source_target(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_tokens *out,
                                     graft_error *err);

/* The prompt that a model is to answer, as text and tokens, and the expected answer (absent: none). */
typedef struct gr_question {
    gr_slice text, pair, reference; /* pair: the second text of a classification */
    int32_t *ids;
    size_t n;
    const char *adapter; /* name, NULL: none or the caller's affair */
    int32_t task;        /* -1: none */
    bool filled;         /* by a template */
    size_t long_at, long_n; /* of that the longest text, where it may be cut */
} gr_question;
graft_status gr_encode_question(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_question *out,
                                graft_error *err);

/* fill.c: a record in a template. The text as a record, an object as it stands, else that of the template's only field. */
struct gr_slots;
graft_status gr_fill_from_text(gr_arena *arena, const struct gr_slots *slots, const char *text, size_t len, gr_record *out,
                               graft_error *err);
graft_status gr_fill_record(const gr_encoder *e, gr_arena *arena, const gr_record *record, const struct gr_slots *slots,
                            gr_tokens *out, graft_error *err);
graft_status gr_fill_question(const gr_encoder *e, gr_arena *arena, const gr_record *record, const struct gr_slots *slots,
                              gr_question *out, graft_error *err);
/* Leaves at most `most` real tokens of a filled question, by cutting its longest text. */
graft_status gr_fill_shorten(const gr_encoder *e, gr_question *q, size_t most, bool *truncated, graft_error *err);

#endif
