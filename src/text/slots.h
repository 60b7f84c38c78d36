/* Prompt templates with pseudo-tokens: `[P0..P4] premise [P5] "?" [P6] [MASK]`. Parts stand one after the other, white space
 * between them is only for the eye:
 *
 *   [P3], [P0..P4]   pseudo-tokens, trained rows of an adapter; each number from 0 to the highest stands somewhere
 *   "text"           a fixed anchor, with the escapes of JSON
 *   name             the record's field of that name
 *   [MASK]           where the answer stands, at most once; [MASK:name]: the answer is the field `name`, else "completion".
 *                    [MASK:name yes="Yes" "not at all"="No"]: where the field has the label before a sign of equality, the
 *                    answer is the word behind it (a verbaliser)
 *   [BOS] [EOS] [CLS] [SEP]   the tokenizer's own; none of them is added otherwise
 *
 * Texts and fields that touch are tokenised as one text. */
#ifndef GR_TEXT_SLOTS_H
#define GR_TEXT_SLOTS_H

#include "base/base.h"
#include "graft/tokenizer.h"

typedef enum gr_slot_kind { GR_SLOT_VIRTUAL, GR_SLOT_TEXT, GR_SLOT_FIELD, GR_SLOT_ANSWER, GR_SLOT_SPECIAL } gr_slot_kind;

typedef struct gr_slot {
    gr_slot_kind kind;
    int first, last;  /* VIRTUAL: numbers of the pseudo-tokens */
    const char *text; /* TEXT; the field's name of FIELD and ANSWER; the name of SPECIAL. NUL-terminated */
    size_t len;
    graft_special_token special;
} gr_slot;

/* A label, and the word that says it. NUL-terminated. */
typedef struct gr_slot_word {
    const char *label, *word;
    size_t label_len, word_len;
} gr_slot_word;

typedef struct gr_slots {
    gr_slot *items;
    size_t n;
    int n_virtual; /* pseudo-tokens */
    bool has_answer;
    gr_slot_word *words; /* the verbaliser: n_words, each label and each word once */
    size_t n_words;      /* 0: the answer is the field's text */
} gr_slots;

/* Everything is put into the arena. `where` begins the sentence of errors, which are GRAFT_ERR_FORMAT. */
graft_status gr_slots_parse(gr_arena *arena, const char *where, const char *text, gr_slots *out, graft_error *err);
/* GRAFT_ERR_MISMATCH unless the answer stands in it, or, where the label says it, does not. */
graft_status gr_slots_check_answer(const gr_slots *s, const char *where, bool answers, graft_error *err);
/* The token that a word is in the place of [MASK]; GRAFT_ERR_MISMATCH where it is several. `a`: the tokenizer's allocator. */
graft_status gr_slots_word_id(const graft_tokenizer *tok, const graft_allocator *a, const char *word, size_t len, int32_t *out, graft_error *err);
/* Those of the verbaliser's words, in the arena. */
graft_status gr_slots_word_ids(const graft_tokenizer *tok, const graft_allocator *a, gr_arena *arena, const gr_slots *slots, int32_t **out,
                               graft_error *err);

#endif
