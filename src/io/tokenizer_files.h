/* Reading tokenizers from their files into the neutral description of text/spec.h. */
#ifndef GR_IO_TOKENIZER_FILES_H
#define GR_IO_TOKENIZER_FILES_H

#include "text/spec.h"

/* Fills `spec` from the text of a tokenizer.json; `path` stands in errors. */
graft_status gr_tokenizer_json_read(gr_tokenizer_spec *spec, const char *path, const char *text, size_t len,
                                    graft_error *err);
/* From a vocab.json ({"token": id}) alone. */
graft_status gr_tokenizer_vocab_json_read(gr_tokenizer_spec *spec, const char *path, const char *text, size_t len,
                                          graft_error *err);
/* From vocab.json at `path` with merges.txt and tokenizer_config.json beside it. */
graft_status gr_tokenizer_vocab_read(gr_tokenizer_spec *spec, const char *path, graft_error *err);
/* From a SentencePiece model (tokenizer.model). */
graft_status gr_tokenizer_model_read(gr_tokenizer_spec *spec, const char *path, const void *data, size_t size,
                                     graft_error *err);
/* From the metadata of a GGUF file. */
struct gr_gguf;
graft_status gr_tokenizer_gguf_read(gr_tokenizer_spec *spec, const struct gr_gguf *gguf, graft_error *err);
/* tokenizer_config.json and the files beside it, applied to what the vocabulary files gave. */
graft_status gr_tokenizer_config_read(gr_tokenizer_spec *spec, const char *dir, graft_error *err);

/* Any of them, by what `path` is. */
graft_status gr_tokenizer_read(gr_tokenizer_spec *spec, const char *path, graft_error *err);

#endif
