/* The pre-tokenisers that GGUF names (tokenizer.ggml.pre). */
#ifndef GR_IO_GGUF_PRE_H
#define GR_IO_GGUF_PRE_H

#include "base/base.h"

enum {
    GR_PRE_IGNORE_MERGES = 1,  /* a piece that is a token needs no merging */
    GR_PRE_ADD_BOS = 2,        /* unless the file says otherwise */
    GR_PRE_NO_BOS = 4,         /* there is no BOS, whatever the default number */
    GR_PRE_SPACES = 8,         /* raw text with U+2581 for spaces and <0x00> bytes, no byte-level alphabet */
    GR_PRE_NEWLINE_TOKENS = 16 /* tokens of newlines only are found before merging */
};

typedef struct gr_gguf_pre {
    const char *name;
    const char *const *patterns; /* Oniguruma syntax, NULL-terminated */
    unsigned flags;
} gr_gguf_pre;

/* GRAFT_ERR_UNSUPPORTED naming it when there is none of that name. */
graft_status gr_gguf_pre_find(const char *name, size_t len, const gr_gguf_pre **out, graft_error *err);
/* Number i of them, in the order of gguf_pre.def; NULL past the end. */
const gr_gguf_pre *gr_gguf_pre_at(size_t i);
/* Appends the pre_tokenizer component that does the splitting. */
void gr_gguf_pre_json(const gr_gguf_pre *pre, gr_buf *out);

#endif
