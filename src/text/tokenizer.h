/* The tokenizer itself: building it from its neutral description. */
#ifndef GR_TEXT_TOKENIZER_H
#define GR_TEXT_TOKENIZER_H

#include "text/spec.h"

/* Takes the vocabulary out of `spec` (which stays to be freed by the caller). */
graft_status gr_tokenizer_new(graft_context *ctx, gr_tokenizer_spec *spec, graft_tokenizer **out, graft_error *err);

#endif
