/* Tokenizers: text to token ids and back, with the exact ids of the model's own tokenizer (the Hugging Face
 * `tokenizers` library for tokenizer.json and vocab.json + merges.txt, SentencePiece for tokenizer.model, llama.cpp for
 * GGUF).
 *
 * A tokenizer is constant after loading: any number of threads may encode and decode with the same one at once. It
 * keeps a pointer to its context, which must outlive it. Everything that a function hands to the caller is freed with
 * graft_free of that context.
 *
 * Text is UTF-8, given with its length (it may hold NUL bytes). Bytes that are not UTF-8 are read as Python's
 * bytes.decode("utf-8", "replace") reads them: each maximal subpart of an ill-formed sequence becomes one U+FFFD; spans
 * still point into the bytes that the caller gave. */
#ifndef GRAFT_TOKENIZER_H
#define GRAFT_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>
#include "graft/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct graft_tokenizer graft_tokenizer;

/* `path` is a Hugging Face directory (tokenizer.json, or vocab.json + merges.txt, or tokenizer.model; beside it
 * tokenizer_config.json, special_tokens_map.json, added_tokens.json, chat_template.jinja, generation_config.json and
 * config.json are read where present), a tokenizer.json or tokenizer.model file, or a .gguf file, which may hold a
 * vocabulary only. A kind of model or component that graft does not know gives GRAFT_ERR_UNSUPPORTED naming it. */
graft_status graft_tokenizer_load(graft_context *ctx, const char *path, graft_tokenizer **out, graft_error *err);
void graft_tokenizer_free(graft_tokenizer *tok);

enum {
    /* Adds BOS, EOS and the like as the model's own configuration says. */
    GRAFT_TOK_ADD_SPECIAL = 1,
    /* The text of special tokens inside the input is ordinary text (added tokens that are not special still match). */
    GRAFT_TOK_NO_PARSE_SPECIAL = 2,
    /* Decoding leaves special tokens out. */
    GRAFT_TOK_SKIP_SPECIAL = 4
};

/* Bytes [start, end) of the text that a token came from; start == end for a token that was added. */
typedef struct graft_token_span {
    size_t start, end;
} graft_token_span;

/* *ids gets *n ids (never NULL, even when *n is 0). */
graft_status graft_tokenizer_encode(const graft_tokenizer *tok, const char *text, size_t len, unsigned flags,
                                    int32_t **ids, size_t *n, graft_error *err);
/* The same with the span of every token. Tokens that share a character (bytes of one character) share its span. */
graft_status graft_tokenizer_encode_spans(const graft_tokenizer *tok, const char *text, size_t len, unsigned flags,
                                          int32_t **ids, graft_token_span **spans, size_t *n, graft_error *err);

/* One text, or two (`pair` not NULL and not empty), with the special tokens that the model puts around them, and the token type of each
 * token. max_length > 0: as many tokens at most; of two texts the longer one is cut first, special tokens stay. What
 * transformers gives for tokenizer(text, pair, truncation=True). */
graft_status graft_tokenizer_encode_pair(const graft_tokenizer *tok, const char *text, size_t len, const char *pair,
                                         size_t pair_len, size_t max_length, int32_t **ids, int32_t **types, size_t *n,
                                         graft_error *err);

/* *text is NUL-terminated valid UTF-8 of *len bytes (bytes that are no character become U+FFFD). An id outside the
 * vocabulary is GRAFT_ERR_ARGUMENT. */
graft_status graft_tokenizer_decode(const graft_tokenizer *tok, const int32_t *ids, size_t n, unsigned flags,
                                    char **text, size_t *len, graft_error *err);

/* Decodes token by token and hands out text as soon as it is certain: the concatenation of all pieces is what
 * graft_tokenizer_decode gives for all ids together, and every piece is complete UTF-8. Not thread-safe itself. */
typedef struct graft_detokenizer graft_detokenizer;
graft_status graft_detokenizer_new(const graft_tokenizer *tok, unsigned flags, graft_detokenizer **out,
                                   graft_error *err);
/* *text is borrowed until the next call on `d`; NUL-terminated, *len may be 0. */
graft_status graft_detokenizer_push(graft_detokenizer *d, int32_t id, const char **text, size_t *len,
                                    graft_error *err);
/* What is still held back (an incomplete character becomes U+FFFD); afterwards `d` is as new. */
graft_status graft_detokenizer_finish(graft_detokenizer *d, const char **text, size_t *len, graft_error *err);
void graft_detokenizer_free(graft_detokenizer *d);

/* One more than the highest id, added tokens included. */
size_t graft_tokenizer_vocab_size(const graft_tokenizer *tok);
/* The token as it stands in the vocabulary (byte-level vocabularies: in their alphabet; SentencePiece: with U+2581 for
 * a space). NULL for an id that is none. Borrowed; NUL-terminated; `len` may be NULL. */
const char *graft_tokenizer_token_text(const graft_tokenizer *tok, int32_t id, size_t *len);
/* The id of a token as it stands in the vocabulary (or an added token), -1 where there is none. */
int32_t graft_tokenizer_token_id(const graft_tokenizer *tok, const char *text, size_t len);

typedef enum graft_special_token {
    GRAFT_TOKEN_BOS,
    GRAFT_TOKEN_EOS,
    GRAFT_TOKEN_PAD,
    GRAFT_TOKEN_UNK,
    GRAFT_TOKEN_SEP,
    GRAFT_TOKEN_CLS,
    GRAFT_TOKEN_MASK
} graft_special_token;
/* -1 where the model has none. */
int32_t graft_tokenizer_special_id(const graft_tokenizer *tok, graft_special_token which);
/* Every id that ends a generation (EOS, end of turn, those of generation_config.json), ascending, EOS included.
 * Borrowed. */
const int32_t *graft_tokenizer_eos_ids(const graft_tokenizer *tok, size_t *n);
int graft_tokenizer_is_eos(const graft_tokenizer *tok, int32_t id); /* one of graft_tokenizer_eos_ids */
int graft_tokenizer_is_special(const graft_tokenizer *tok, int32_t id);
/* Whether GRAFT_TOK_ADD_SPECIAL puts BOS in front / EOS behind. */
int graft_tokenizer_adds_bos(const graft_tokenizer *tok);
int graft_tokenizer_adds_eos(const graft_tokenizer *tok);

/* Chat templates, as Jinja text. The unnamed one is called "default". */
size_t graft_tokenizer_n_chat_templates(const graft_tokenizer *tok);
const char *graft_tokenizer_chat_template_name(const graft_tokenizer *tok, size_t i); /* NULL when i is too large */
/* `name` NULL: "default", or the only one. NULL where there is none. Borrowed; NUL-terminated; `len` may be NULL. */
const char *graft_tokenizer_chat_template(const graft_tokenizer *tok, const char *name, size_t *len);

/* Writes tokenizer.json, tokenizer_config.json and, where there is one, chat_template.jinja into the directory, so that
 * transformers loads the same tokenizer (whatever kind of file it was loaded from). */
graft_status graft_tokenizer_save(const graft_tokenizer *tok, const char *dir, graft_error *err);

#ifdef __cplusplus
}
#endif
#endif
