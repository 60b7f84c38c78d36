/* Conversations through a model's chat template, as transformers' apply_chat_template does it, and the parts of the
 * rendering that the assistant wrote. */
#ifndef GR_DATA_CHAT_H
#define GR_DATA_CHAT_H

#include "data/record.h"
#include "graft/template.h"

typedef struct gr_chat gr_chat;

/* `text` (Jinja) stands for the tokenizer's own templates; NULL: those. *out is NULL when there is no template at all.
 * The tokenizer must outlive it. `now`: seconds since 1970. */
graft_status gr_chat_new(graft_context *ctx, const graft_tokenizer *tok, const char *text, int64_t now, gr_chat **out,
                         graft_error *err);
void gr_chat_free(gr_chat *c);

/* What is rendered: messages, and what comes with them. */
typedef struct gr_chat_input {
    const gr_message *messages;
    size_t n;
    gr_slice tools, kwargs; /* JSON; absent: none */
} gr_chat_input;

/* *out is freed with gr_free of the context's allocator. spans: see graft_template_render. */
graft_status gr_chat_render(const gr_chat *c, const gr_chat_input *in, bool generation_prompt, char **out,
                            size_t *out_len, graft_spans *spans, graft_error *err);
/* Whether the template that would render `in` has {% generation %} blocks. */
bool gr_chat_marks_assistant(const gr_chat *c, const gr_chat_input *in);

/* A rendering with its tokens, and for each token whether the assistant says it. */
typedef struct gr_rendering {
    const char *text;
    size_t len;
    const int32_t *ids;
    const graft_token_span *spans;
    size_t n;
} gr_rendering;

/* Sets mask[t] to 1 for the tokens of the assistant's messages, with what ends a turn, else to 0. `r` is what
 * gr_chat_render made of `in`, `marks` the spans that it gave. */
graft_status gr_chat_mask(const gr_chat *c, const gr_chat_input *in, const gr_rendering *r, const graft_spans *marks,
                          uint8_t *mask, graft_error *err);

/* The same for templates without marks: finds the messages' bytes in the rendering (masking.c). */
graft_status gr_chat_find_assistant(const gr_chat *c, const gr_chat_input *in, const gr_rendering *r,
                                    graft_spans *out, graft_error *err);
graft_context *gr_chat_context(const gr_chat *c);
const graft_tokenizer *gr_chat_tokenizer(const gr_chat *c);

#endif
