/* The text of one growing sequence: tokens in, certain text out, cut at the first stop text. */
#ifndef GR_INFER_TEXT_STREAM_H
#define GR_INFER_TEXT_STREAM_H

#include "infer/infer.h"

typedef struct gr_text_stream {
    graft_detokenizer *detok;
    gr_buf text;       /* everything decoded, cut before the stop text */
    size_t emitted;    /* bytes handed out */
    const char *const *stop;
    size_t n_stop;
    bool stopped;
} gr_text_stream;

graft_status gr_text_stream_init(gr_text_stream *t, const graft_allocator *a, const graft_tokenizer *tok, bool keep_special,
                                 const char *const *stop, size_t n_stop, graft_error *err);
void gr_text_stream_free(gr_text_stream *t);
/* Sets t->stopped when a stop text is complete. */
graft_status gr_text_stream_push(gr_text_stream *t, int32_t id, graft_error *err);
/* Nothing more will come: what was held back becomes certain. */
graft_status gr_text_stream_finish(gr_text_stream *t, graft_error *err);
/* Text that is certain and was not handed out yet; it cannot become part of a stop text any more. Borrowed. */
const char *gr_text_stream_next(gr_text_stream *t, bool finished, size_t *len);

#endif
