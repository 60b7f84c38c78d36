/* Writing the vocabulary of a tokenizer.json. */
#include "text/json_out.h"

void gr_json_add_vocab(gr_buf *out, const gr_vocab *v) {
    bool first = true;
    gr_buf_add_char(out, '{');
    for (size_t id = 0; id < v->n; id++) {
        size_t len;
        const char *text = gr_vocab_text(v, (int64_t)id, &len);
        if (!text) continue;
        gr_buf_add_text(out, first ? "\n" : ",\n");
        gr_json_add_text(out, text, len);
        gr_buf_add_format(out, ": %zu", id);
        first = false;
    }
    gr_buf_add_char(out, '}');
}
