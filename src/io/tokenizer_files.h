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
/* What T5's tokenizer adds to the model in `dir` that was read, if `dir` says that it is T5's. */
graft_status gr_tokenizer_t5_read(gr_tokenizer_spec *spec, const char *dir, graft_error *err);
/* From vocab.txt at `path` with tokenizer_config.json beside it. */
graft_status gr_tokenizer_txt_read(gr_tokenizer_spec *spec, const char *path, graft_error *err);
/* BERT's chain; strip_accents is "true", "false" or "null" (as lower). */
graft_status gr_tokenizer_bert_describe(gr_tokenizer_spec *spec, bool lower, const char *strip_accents, bool chinese,
                                        graft_error *err);
/* cls and sep, which are tokens of the vocabulary, around a text. */
graft_status gr_tokenizer_bert_template(gr_tokenizer_spec *spec, int32_t cls, int32_t sep, graft_error *err);

/* SentencePiece's way to prepare a text and to put pieces together again, as components of `spec`. */
typedef struct gr_piece_rules {
    const unsigned char *charsmap;
    size_t n_charsmap; /* 0: none */
    bool dummy_prefix, remove_extra, escape;
    bool keep; /* user-defined pieces pass the character map unchanged */
} gr_piece_rules;
graft_status gr_tokenizer_pieces_describe(gr_tokenizer_spec *spec, const gr_piece_rules *rules, graft_error *err);
/* From the metadata of a GGUF file. */
struct gr_gguf;
graft_status gr_tokenizer_gguf_read(gr_tokenizer_spec *spec, const struct gr_gguf *gguf, graft_error *err);
/* tokenizer_config.json and the files beside it, applied to what the vocabulary files gave. */
graft_status gr_tokenizer_config_read(gr_tokenizer_spec *spec, const char *dir, graft_error *err);

/* Any of them, by what `path` is. */
graft_status gr_tokenizer_read(gr_tokenizer_spec *spec, const char *path, graft_error *err);

#endif
