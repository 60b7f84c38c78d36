/* Data: records in files to token sequences with a loss mask, exactly as trl 1.16's SFTTrainer prepares them.
 *
 * A file is JSON Lines (blank lines, CR LF and a byte order mark are fine), or one JSON array of objects; either may be
 * compressed with gzip. "-" is standard input. The format is found out record by record, and a file may mix them; a
 * field that is null counts as absent, and other fields are ignored. In order of precedence:
 *
 *   {"input_ids", "labels"?}                    tokens as they are; also "completion_mask", "assistant_masks"
 *   {"prompt", "completion"}                    two texts, or two lists of messages
 *   {"messages": [{"role", "content", ...}]}    a conversation; beside it "tools" and "chat_template_kwargs"
 *   {"conversations": [{"from", "value"}]}      the same in ShareGPT's words (human is user, gpt is assistant, ...)
 *   {"instruction", "input"?, "output"}         Alpaca; see graft_data_options.instruction_chat
 *   {"text"}                                    plain text
 *
 * Classification records ({"text", "text_pair", "label"}) are for models that classify (graft_data_options.learn). Preference
 * records ({"prompt", "chosen", "rejected"}, {"prompt", "completions", "ranks"}) are read, but a data set for fine-tuning
 * refuses them. Images are refused. */
#ifndef GRAFT_DATA_H
#define GRAFT_DATA_H

#include <stddef.h>
#include <stdint.h>
#include "graft/context.h"
#include "graft/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GRAFT_IGNORE_LABEL (-100)

struct graft_model;

typedef enum graft_choice { GRAFT_AUTO, GRAFT_YES, GRAFT_NO } graft_choice;

/* What is learnt of a record. */
typedef enum graft_learn {
    GRAFT_LEARN_TEXT,   /* what follows each token */
    GRAFT_LEARN_MASKED, /* tokens that are hidden: {"text"}, or {"input_ids", "labels"} as they stand, labels not shifted */
    GRAFT_LEARN_CLASSES /* the label: {"text", "text_pair"?, "label"} */
} graft_learn;

/* Of what kind labels are. */
typedef enum graft_problem {
    GRAFT_PROBLEM_AUTO,
    GRAFT_PROBLEM_SINGLE,    /* one class: its name, or its number */
    GRAFT_PROBLEM_MULTI,     /* any number of classes: a list of names, or a number from 0 to 1 for each class */
    GRAFT_PROBLEM_REGRESSION /* numbers */
} graft_problem;

/* Zero-initialise for the defaults (trl's). */
typedef struct graft_data_options {
    const char *const *paths; /* read one after the other */
    size_t n_paths;
    const char *text_field;    /* the field of plain text; NULL: "text" */
    const char *chat_template; /* Jinja text; NULL: the tokenizer's own */
    int64_t max_length;        /* tokens that an example keeps; 0: 1024; negative: all */
    int truncate_start;        /* a longer example loses its start, not its end */
    /* For models with an encoder: the prompt is the source and the answer the target, each tokenised for itself as
     * transformers' seq2seq examples do it, with an end of text; max_length is of the source. Conversations are split
     * in front of their last message. {"input_ids", "labels"} may differ in length. */
    int seq2seq;
    int64_t max_target_length; /* tokens that a target keeps; 0: 128; negative: all */
    /* Prompt and completion: the loss is on the completion only. AUTO is YES. Other formats: no effect. */
    graft_choice completion_only_loss;
    /* The loss is on what the assistant says, for any chat template: the template's own {% generation %} blocks where
     * it has them, else found by comparing renderings. A record that is no conversation is then an error. */
    int assistant_only_loss;
    /* Alpaca records as a user's and an assistant's message. AUTO: where there is a chat template. Otherwise as the
     * text "Below is an instruction that describes a task. ..." of the Alpaca release. */
    graft_choice instruction_chat;
    int skip_bad_records;    /* count them and go on, instead of failing at the first */
    int skip_unanswerable;   /* prompts only: leave out records without a prompt or an answer; there may be none left */
    size_t max_record_bytes; /* a longer record is bad; 0: 64 MiB */
    size_t max_records;      /* stop after that many; 0: all */
    /* A template with pseudo-tokens (docs/methods.md): every record is its fields, put into it, as `learn` and `seq2seq` (or `model`)
     * say that the model takes it. NULL: none. */
    const char *prompt_template;
    /* Not NULL: a record's "adapter" names one of this model's adapters (absent or null: `adapter`, where that is not NULL), whose
     * template applies and, in a data set, whose virtual tokens stand in front. */
    const struct graft_model *model;
    const char *adapter;
    int n_tasks; /* a record's "task_ids" says which of so many tasks it is, whose virtual tokens it gets; 0: there are none */
    int64_t now; /* what strftime_now in a template shows, in seconds since 1970; 0: the current time */
    graft_learn learn;
    graft_problem problem;      /* of classes; AUTO: by the number of labels and the first record */
    const char *const *labels;  /* n_labels names, in the order of the classes; NULL: numbers only */
    size_t n_labels;
    int64_t vocab_size; /* without a tokenizer: ids of records are below; 0: any */
} graft_data_options;

typedef struct graft_data_stats {
    size_t records;      /* read, bad ones included */
    size_t bad;          /* skipped because of skip_bad_records */
    size_t examples;     /* kept */
    size_t empty;        /* left out: no token to learn (for example a prompt that alone fills max_length) */
    size_t truncated;    /* cut to max_length, left out ones included */
    size_t split_prompt; /* the tokens of the prompt are no prefix of those of prompt and completion */
    uint64_t tokens;     /* of the kept examples */
    uint64_t labels;     /* of them, tokens to predict: the first token of an example never is one */
    size_t longest;      /* tokens of the longest kept example */
    uint64_t fingerprint; /* of all kept ids and labels in order; a resumed run compares it */
    int64_t now;         /* see graft_data_options */
} graft_data_stats;

/* One example, borrowed from its data set. */
typedef struct graft_example {
    const int32_t *ids;
    size_t n;
    size_t n_source;  /* of them, the source's, in front of the target's; 0 without seq2seq */
    const char *path; /* of its record */
    size_t line;      /* 1-based; of the record's first character */
} graft_example;

/* Labels of records. */
typedef struct graft_label_set {
    graft_problem problem;
    char **names;
    size_t n;
} graft_label_set;
/* What labels the records have: their names, sorted; of numbers LABEL_0, LABEL_1, ... up to the highest, and where one has a
 * fraction (or `problem` says so) a regression. Freed by graft_label_set_free. */
graft_status graft_labels_collect(graft_context *ctx, const graft_data_options *options, graft_label_set *out,
                                  graft_error *err);
void graft_label_set_free(graft_context *ctx, graft_label_set *labels);

typedef struct graft_dataset graft_dataset;

/* Reads and tokenises everything. Errors name file, line and reason; a data set without any example is
 * GRAFT_ERR_FORMAT. Warnings (truncated and left out records, prompts that are no prefix) go to the context's log.
 * The context must outlive the data set; the tokenizer need not, and where all records are tokens it may be NULL. */
graft_status graft_dataset_load(graft_context *ctx, const graft_tokenizer *tok, const graft_data_options *options,
                                graft_dataset **out, graft_error *err);
void graft_dataset_free(graft_dataset *ds);
size_t graft_dataset_count(const graft_dataset *ds);
void graft_dataset_get_stats(const graft_dataset *ds, graft_data_stats *out);
/* The reasons of the first few bad records (file, line, reason); NULL when i is too large. */
const char *graft_dataset_bad_reason(const graft_dataset *ds, size_t i);
/* i < graft_dataset_count. */
void graft_dataset_get(const graft_dataset *ds, size_t i, graft_example *out);
/* Writes n labels: the id where the token itself is to be predicted (from those before it), else GRAFT_IGNORE_LABEL. */
void graft_dataset_get_labels(const graft_dataset *ds, size_t i, int32_t *out);

/* What is needed to let a model answer the records: the prompt as the model sees it, and the expected answer. The prompt
 * is the record's prompt, or all messages before the last one if that is the assistant's, with the generation prompt
 * of the chat template; records of plain text are bad here, unless the options have a model that classifies or fills masks:
 * then the text is the prompt, and a label the answer. max_length and the loss options have no effect. */
typedef struct graft_prompt {
    const int32_t *ids;
    size_t n;
    const char *text; /* the same before tokenisation; NUL-terminated */
    size_t text_len;
    const char *pair; /* the second text of a classification, NUL-terminated; NULL: none */
    size_t pair_len;
    const char *reference; /* the expected answer; NULL where the record has none */
    size_t reference_len;
    const char *adapter; /* name, where the options have a model; NULL: none */
    int32_t task_id;     /* of an adapter that has tasks; -1: none */
    const char *path;
    size_t line;
} graft_prompt;

typedef struct graft_prompts graft_prompts;
graft_status graft_prompts_load(graft_context *ctx, const graft_tokenizer *tok, const graft_data_options *options,
                                graft_prompts **out, graft_error *err);
void graft_prompts_free(graft_prompts *ps);
size_t graft_prompts_count(const graft_prompts *ps);
void graft_prompts_get(const graft_prompts *ps, size_t i, graft_prompt *out);
/* One prompt as an adapter (NULL: none) takes it: the text with the tokenizer's own special tokens; where the adapter has a
 * template, the JSON object whose fields fill it, or the text of its field where it names one only. The ids are freed with
 * graft_free; pseudo-tokens are -1, -2, ... */
graft_status graft_prompt_fill(const struct graft_model *m, const graft_tokenizer *tok, const char *adapter, const char *text,
                               size_t len, int32_t **ids, size_t *n, graft_error *err);
size_t graft_prompts_bad_count(const graft_prompts *ps);

#ifdef __cplusplus
}
#endif
#endif
