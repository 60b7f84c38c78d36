/* Writing the vocabulary of a tokenizer.json. */
#ifndef GR_TEXT_JSON_OUT_H
#define GR_TEXT_JSON_OUT_H

#include "base/json.h"
#include "text/vocab.h"

/* {"token": id, ...} by ascending id. */
void gr_json_add_vocab(gr_buf *out, const gr_vocab *v);

#endif
