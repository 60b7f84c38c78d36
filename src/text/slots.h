/* Prompt templates with pseudo-tokens: `[P0..P4] premise [P5] "?" [P6] [MASK]`. Parts stand one after the other, white space
 * between them is only for the eye:
 *
 *   [P3], [P0..P4]   pseudo-tokens, trained rows of an adapter; each number from 0 to the highest stands somewhere
 *   "text"           a fixed anchor, with the escapes of JSON
 *   name             the record's field of that name
 *   [MASK]           where the answer stands, once; [MASK:name]: the answer is the field `name`, else "completion"
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

typedef struct gr_slots {
    gr_slot *items;
    size_t n;
    int n_virtual; /* pseudo-tokens */
} gr_slots;

/* Everything is put into the arena. `where` begins the sentence of errors, which are GRAFT_ERR_FORMAT. */
graft_status gr_slots_parse(gr_arena *arena, const char *where, const char *text, gr_slots *out, graft_error *err);

#endif
