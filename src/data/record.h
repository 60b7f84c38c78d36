/* What one record says, whatever its format; the formats are listed in graft/data.h. */
#ifndef GR_DATA_RECORD_H
#define GR_DATA_RECORD_H

#include "data/data.h"

typedef enum gr_record_kind {
    GR_RECORD_TOKENS,      /* ids, labels, masks */
    GR_RECORD_TEXT,        /* text */
    GR_RECORD_PAIR,        /* prompt, completion */
    GR_RECORD_CHAT,        /* completion.messages; prompt is absent */
    GR_RECORD_INSTRUCTION, /* instruction, input, completion (a text), system */
    GR_RECORD_PROMPT,      /* prompt */
    GR_RECORD_PREFERENCE,  /* prompt (may be absent), completion (chosen), rejected */
    GR_RECORD_RANKED,      /* prompt, answers, ranks */
    GR_RECORD_LABELLED,    /* text, text_pair (may be absent), label */
    GR_RECORD_OTHER        /* an object whose fields only a template knows */
} gr_record_kind;
const char *gr_record_kind_name(gr_record_kind kind); /* "a preference record (prompt, chosen, rejected)" */

typedef struct gr_message {
    gr_slice role;
    gr_slice content; /* as text, when it is one; else absent */
    /* The object as JSON, without its null members. content_at and content_len are the value of "content" in it
     * (with quotes), whatever its kind; content_len 0 when there is none. */
    gr_slice json;
    size_t content_at, content_len;
} gr_message;

/* A text, or a conversation of n > 0 messages (then text is absent), or nothing. */
typedef struct gr_turns {
    gr_slice text;
    gr_message *messages;
    size_t n;
} gr_turns;

/* Everything is borrowed from the arena and the text that were given to gr_record_parse. */
typedef struct gr_record {
    gr_record_kind kind;
    gr_slice json; /* all of it */
    const graft_error *unread; /* GR_RECORD_OTHER: why it is none of the others */
    gr_turns prompt, completion, rejected;
    gr_slice text, text_pair, instruction, input, system;
    gr_turns *answers; /* n_answers, with their ranks (1 is best) */
    int32_t *ranks;
    size_t n_answers;
    gr_slice label;  /* text of the label; where it was a number or a list, that one's characters */
    gr_slice label_json;
    gr_slice tools;  /* JSON array */
    gr_slice kwargs; /* JSON object: chat_template_kwargs */
    int32_t *ids, *labels;                  /* n_ids and n_labels; labels NULL: absent */
    uint8_t *completion_mask, *assistant_mask; /* n_ids each; NULL: absent */
    size_t n_ids, n_labels;
} gr_record;

/* `place` ("file:line") stands before the sentence of every error. text_field: see graft_data_options. `vocab`: ids must
 * be less. */
graft_status gr_record_parse(gr_arena *arena, const char *place, const char *json, size_t len, const char *text_field,
                             size_t vocab, gr_record *out, graft_error *err);

/* The text of a field of the object `json`, a number's characters; absent or null: *out is absent. */
graft_status gr_record_field(gr_arena *arena, gr_slice json, const char *name, gr_slice *out, graft_error *err);
/* The field as it stands. */
graft_status gr_record_value(gr_slice json, const char *name, gr_json_kind *kind, gr_slice *out, graft_error *err);

/* The messages of `value` (a JSON array of them; `from` and `value` may stand for role and content). `name` is what
 * errors call it. */
graft_status gr_messages_parse(gr_arena *arena, const char *place, const char *name, gr_slice value, gr_turns *out,
                               graft_error *err);
/* One message of text. */
graft_status gr_message_make(gr_arena *arena, const char *role, gr_slice content, gr_message *out, graft_error *err);

#endif
