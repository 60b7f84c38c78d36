/* Tokenizers as GGUF metadata; tokenizer_gguf.c reads them. */
#include <stdio.h>

#include "io/gguf_export.h"
#include "io/gguf_pre.h"
#include "io/tokenizer_files.h"
#include "text/tokenizer_impl.h"

/* Letters of many scripts, numbers of many lengths, contractions, spaces, signs and code: splitting rules that differ
 * anywhere give different ids here. In normal form C. */
static const char telltale[] =
    "Hello World! I'm, you're; WE'LL he'd They'VE don't O'Neil 'S 'tis 1 12 123 1234 12345 1234567890 3.14 1,000,000 "
    "0x1F a1b2 "
    "x86_64 v2.0.1 ½ ² ٣٤٥ Ⅷ  two   three    four\ttab \t mixed\n\nlines\n \n  indented\r\nreturn\r \n\n\n"
    "def f(x):\n    return x**2  # comment\n\tif (a&&b) { c[i++] -= 'q'; }\n<html>&nbsp;</html> http://a.b/c?d=e&f=g "
    "user@mail.org "
    "snake_case camelCase HTTPServer iPhone ÀÉÎõü naïve Straße ŁÓDŹ ПРИВЕТ мир Ελληνικά עברית العربية हिन्दी ภาษาไทย "
    "中文字符,日本語のテキスト、한국어 텍스트。 „quotes“ «guillemets» —dash– …dots... !!! ??? ?!? ((())) [[]] {{}} ## "
    "$$ %% ^^ ~~ `` ||"
    " 😀👍🏽 🇩🇪 👨‍👩‍👧 €5 £6 ¥7 ™® ♥ → ∑∞ A.B.C. e.g. i.e. Mr. end\n";

typedef struct writer {
    gr_gguf_writer *w;
    graft_context *ctx;
    const graft_allocator *a;
    const char *path;
    const gr_model_config *c;
    gr_tokenizer_spec spec; /* what the files say */
    graft_tokenizer *tok;
    bool pieces; /* SentencePiece's kind, else byte-level BPE */
} writer;

static graft_status fail_kind(const writer *w, const char *why, graft_error *err) {
    return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: this tokenizer is not written to GGUF files: %s", w->path, why);
}

static graft_status find_kind(writer *w, graft_error *err) {
    const gr_tokenizer_spec *s = &w->spec;
    if (strcmp(s->model, "BPE")) return fail_kind(w, "its model is not BPE", err);
    if (s->prefix || s->suffix) return fail_kind(w, "its tokens have prefixes or suffixes", err);
    w->pieces = s->by_scores || s->byte_fallback;
    return GRAFT_OK;
}

/* --- The vocabulary ----------------------------------------------------------------------------------------------- */

static int type_of(const writer *w, int32_t id, const char *text) {
    const gr_added_entry *added = gr_tokenizer_added(w->tok, id);
    if (!text) return GR_TOKEN_UNUSED;
    if (w->pieces && id == graft_tokenizer_special_id(w->tok, GRAFT_TOKEN_UNK)) return GR_TOKEN_UNKNOWN;
    if (added) return added->special ? GR_TOKEN_CONTROL : GR_TOKEN_USER_DEFINED;
    if (w->pieces && w->spec.types && (size_t)id < w->spec.vocab.n) return w->spec.types[id];
    unsigned byte;
    if (w->pieces && strlen(text) == 6 && sscanf(text, "<0x%2X>", &byte) == 1) return GR_TOKEN_BYTE;
    return GR_TOKEN_NORMAL;
}

/* SentencePiece merges what scores best; the earlier a token comes out of a merge, the higher. */
static graft_status fill_scores(const writer *w, float *scores, size_t n, graft_error *err) {
    const gr_tokenizer_spec *s = &w->spec;
    for (size_t i = 0; i < n; i++) scores[i] = s->scores && i < s->vocab.n ? (float)s->scores[i] : 0;
    if (s->scores) return GRAFT_OK;
    for (size_t i = s->n_merges; i-- > 0;) {
        const gr_merge *m = &s->merges[i];
        char text[1024];
        size_t len = m->left_len + m->right_len;
        if (len > sizeof text) return fail_kind(w, "a token is longer than 1024 bytes", err);
        memcpy(text, s->merge_texts.data + m->offset, len);
        int32_t id = graft_tokenizer_token_id(w->tok, text, len);
        if (id >= 0 && (size_t)id < n) scores[id] = -(float)(i + 1);
    }
    return GRAFT_OK;
}

static graft_status add_vocabulary(writer *w, graft_error *err) {
    const size_t n = (size_t)w->c->vocab_size;
    if (graft_tokenizer_vocab_size(w->tok) > n)
        return gr_fail(err, GRAFT_ERR_MISMATCH,
                       "%s: expected a tokenizer of at most vocab_size (%zu) tokens, found %zu", w->path, n,
                       graft_tokenizer_vocab_size(w->tok));
    gr_text *texts = gr_calloc(w->a, n, sizeof *texts);
    int32_t *types = gr_calloc(w->a, n, sizeof *types);
    float *scores = gr_calloc(w->a, n, sizeof *scores);
    char *names = gr_alloc(w->a, n * 24);
    graft_status st = texts && types && scores && names ? GRAFT_OK : gr_fail_memory(err);
    for (size_t i = 0; i < n && st == GRAFT_OK; i++) {
        texts[i].text = graft_tokenizer_token_text(w->tok, (int32_t)i, &texts[i].len);
        types[i] = type_of(w, (int32_t)i, texts[i].text);
        if (texts[i].text) continue;
        texts[i].text = names + 24 * i;
        texts[i].len = (size_t)snprintf(names + 24 * i, 24, "[PAD%zu]", i);
    }
    if (st == GRAFT_OK) st = gr_gguf_add_texts(w->w, "tokenizer.ggml.tokens", texts, n, err);
    if (st == GRAFT_OK && w->pieces) st = fill_scores(w, scores, n, err);
    if (st == GRAFT_OK && w->pieces) st = gr_gguf_add_array(w->w, "tokenizer.ggml.scores", GR_GGUF_F32, scores, n, err);
    if (st == GRAFT_OK) st = gr_gguf_add_array(w->w, "tokenizer.ggml.token_type", GR_GGUF_I32, types, n, err);
    gr_free(w->a, texts);
    gr_free(w->a, types);
    gr_free(w->a, scores);
    gr_free(w->a, names);
    return st;
}

static graft_status add_merges(writer *w, graft_error *err) {
    const gr_tokenizer_spec *s = &w->spec;
    gr_buf all;
    gr_buf_init(&all, w->a);
    gr_text *texts = gr_calloc(w->a, s->n_merges + 1, sizeof *texts);
    graft_status st = texts ? GRAFT_OK : gr_fail_memory(err);
    for (size_t i = 0; i < s->n_merges && st == GRAFT_OK; i++) {
        const gr_merge *m = &s->merges[i];
        const char *left = s->merge_texts.data + m->offset;
        texts[i].len = m->left_len + 1u + m->right_len;
        gr_buf_add(&all, left, m->left_len);
        gr_buf_add_char(&all, ' ');
        gr_buf_add(&all, left + m->left_len, m->right_len);
    }
    if (st == GRAFT_OK) st = gr_buf_status(&all, err);
    for (size_t i = 0, at = 0; i < s->n_merges && st == GRAFT_OK; at += texts[i++].len) texts[i].text = all.data + at;
    if (st == GRAFT_OK) st = gr_gguf_add_texts(w->w, "tokenizer.ggml.merges", texts, s->n_merges, err);
    gr_free(w->a, texts);
    gr_buf_free(&all);
    return st;
}

/* --- The pre-tokeniser -------------------------------------------------------------------------------------------- */

/* Whether the rules of `pre` give the ids of the tokenizer itself. */
static graft_status agrees(const writer *w, const gr_gguf_pre *pre, const int32_t *want, size_t n, bool *out,
                           graft_error *err) {
    gr_tokenizer_spec spec;
    gr_buf json;
    graft_tokenizer *tok = NULL;
    int32_t *ids = NULL;
    size_t found = 0;
    gr_spec_init(&spec, w->a);
    gr_buf_init(&json, w->a);
    graft_status st = gr_tokenizer_read(&spec, w->path, err);
    if (st == GRAFT_OK) {
        gr_gguf_pre_json(pre, &json);
        st = gr_buf_status(&json, err);
    }
    if (st == GRAFT_OK) {
        spec.pre_tokenizer = gr_buf_text(&json);
        spec.normalizer = NULL;
        spec.ignore_merges = (pre->flags & GR_PRE_IGNORE_MERGES) != 0;
        st = gr_tokenizer_new(w->ctx, &spec, &tok, err);
        /* Rules that this vocabulary, or the regular expressions, do not take are none of it. */
        if (st == GRAFT_ERR_FORMAT || st == GRAFT_ERR_UNSUPPORTED) {
            *out = false;
            gr_spec_free(&spec);
            gr_buf_free(&json);
            return GRAFT_OK;
        }
    }
    if (st == GRAFT_OK) st = graft_tokenizer_encode(tok, telltale, sizeof telltale - 1, 0, &ids, &found, err);
    if (st == GRAFT_OK) *out = found == n && memcmp(ids, want, n * sizeof *ids) == 0;
    graft_free(w->ctx, ids);
    graft_tokenizer_free(tok);
    gr_spec_free(&spec);
    gr_buf_free(&json);
    return st;
}

static graft_status add_pre(writer *w, graft_error *err) {
    int32_t *want;
    size_t n;
    bool found = false;
    const gr_gguf_pre *pre, *last = NULL;
    GR_TRY(graft_tokenizer_encode(w->tok, telltale, sizeof telltale - 1, 0, &want, &n, err));
    graft_status st = GRAFT_OK;
    size_t all = 0;
    while (gr_gguf_pre_at(all)) all++;
    for (size_t i = 0; st == GRAFT_OK && !found && i < all; i++) {
        pre = gr_gguf_pre_at((i + 1) % all); /* "default", of which llama.cpp warns, last */
        if (pre->flags & GR_PRE_SPACES) continue;
        /* Names of the same rules follow one another. */
        if (last && last->patterns == pre->patterns &&
            (last->flags & GR_PRE_IGNORE_MERGES) == (pre->flags & GR_PRE_IGNORE_MERGES))
            continue;
        last = pre;
        st = agrees(w, pre, want, n, &found, err);
        if (st == GRAFT_OK && found)
            st = gr_gguf_add_text(w->w, "tokenizer.ggml.pre", pre->name, strlen(pre->name), err);
    }
    graft_free(w->ctx, want);
    if (st == GRAFT_OK && !found) st = fail_kind(w, "no pre-tokeniser of llama.cpp splits texts as it does", err);
    return st;
}

/* --- The rest ----------------------------------------------------------------------------------------------------- */

static graft_status add_special(writer *w, graft_error *err) {
    static const char *const keys[GR_N_SPECIAL] = {
        [GRAFT_TOKEN_BOS] = "tokenizer.ggml.bos_token_id",       [GRAFT_TOKEN_EOS] = "tokenizer.ggml.eos_token_id",
        [GRAFT_TOKEN_PAD] = "tokenizer.ggml.padding_token_id",   [GRAFT_TOKEN_UNK] = "tokenizer.ggml.unknown_token_id",
        [GRAFT_TOKEN_SEP] = "tokenizer.ggml.seperator_token_id", [GRAFT_TOKEN_CLS] = "tokenizer.ggml.cls_token_id",
        [GRAFT_TOKEN_MASK] = "tokenizer.ggml.mask_token_id",
    };
    for (size_t i = 0; i < GR_N_SPECIAL; i++) {
        int64_t id = graft_tokenizer_special_id(w->tok, (graft_special_token)i);
        if (id < 0 && i == GRAFT_TOKEN_BOS) id = w->c->bos_token_id;
        if (id < 0 && i == GRAFT_TOKEN_EOS && w->c->n_eos) id = w->c->eos_token_ids[0];
        if (id >= 0) GR_TRY(gr_gguf_add_u32(w->w, keys[i], (uint32_t)id, err));
    }
    GR_TRY(gr_gguf_add_bool(w->w, "tokenizer.ggml.add_bos_token", graft_tokenizer_adds_bos(w->tok) != 0, err));
    return gr_gguf_add_bool(w->w, "tokenizer.ggml.add_eos_token", graft_tokenizer_adds_eos(w->tok) != 0, err);
}

static graft_status add_templates(writer *w, graft_error *err) {
    for (size_t i = 0; i < graft_tokenizer_n_chat_templates(w->tok); i++) {
        const char *name = graft_tokenizer_chat_template_name(w->tok, i);
        size_t len;
        const char *text = graft_tokenizer_chat_template(w->tok, name, &len);
        char key[300];
        bool unnamed = strcmp(name, "default") == 0;
        snprintf(key, sizeof key, "tokenizer.chat_template%s%s", unnamed ? "" : ".", unnamed ? "" : name);
        GR_TRY(gr_gguf_add_text(w->w, key, text, len, err));
    }
    return GRAFT_OK;
}

static graft_status add_all(writer *w, graft_error *err) {
    GR_TRY(find_kind(w, err));
    const char *model = w->pieces ? "llama" : "gpt2";
    GR_TRY(gr_gguf_add_text(w->w, "tokenizer.ggml.model", model, strlen(model), err));
    if (w->pieces)
        GR_TRY(gr_gguf_add_text(w->w, "tokenizer.ggml.pre", "default", 7, err));
    else
        GR_TRY(add_pre(w, err));
    GR_TRY(add_vocabulary(w, err));
    if (!w->pieces) GR_TRY(add_merges(w, err));
    GR_TRY(add_special(w, err));
    return add_templates(w, err);
}

graft_status gr_gguf_add_tokenizer(gr_gguf_writer *gguf, graft_context *ctx, const char *path, const gr_model_config *c,
                                   graft_error *err) {
    writer w = {.w = gguf, .ctx = ctx, .a = gr_allocator(ctx), .path = path, .c = c};
    gr_spec_init(&w.spec, w.a);
    graft_error why = {0};
    graft_status st = gr_tokenizer_read(&w.spec, path, &why);
    if (st == GRAFT_ERR_NOT_FOUND) { /* a model alone */
        gr_log(ctx, GRAFT_LOG_WARNING, "%s: the GGUF file gets no tokenizer", why.text);
        st = gr_gguf_add_text(gguf, "tokenizer.ggml.model", "no_vocab", 8, err);
    } else if (st == GRAFT_OK) {
        st = graft_tokenizer_load(ctx, path, &w.tok, err);
        if (st == GRAFT_OK) st = add_all(&w, err);
    } else if (err) {
        *err = why;
    }
    graft_tokenizer_free(w.tok);
    gr_spec_free(&w.spec);
    return st;
}
