/* Writing a tokenizer as a Hugging Face directory. */
#include "base/ctx.h"
#include "text/json_out.h"
#include "text/tokenizer_impl.h"

static void add_flag(gr_buf *out, const char *key, bool value) {
    gr_buf_add_format(out, ", \"%s\": %s", key, value ? "true" : "false");
}

static void add_added(gr_buf *out, const gr_added_entry *e) {
    gr_buf_add_format(out, "{\"id\": %d, \"content\": ", e->id);
    gr_json_add_text(out, e->text, e->len);
    add_flag(out, "single_word", e->single_word);
    add_flag(out, "lstrip", e->lstrip);
    add_flag(out, "rstrip", e->rstrip);
    add_flag(out, "normalized", e->normalized);
    add_flag(out, "special", e->special);
    gr_buf_add_char(out, '}');
}

static void add_special_pieces(const graft_tokenizer *tok, gr_buf *out, const int32_t *ids, size_t n, int type_id,
                               bool *first) {
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *text = graft_tokenizer_token_text(tok, ids[i], &len);
        gr_buf_add_text(out, *first ? "{\"SpecialToken\": {\"id\": " : ", {\"SpecialToken\": {\"id\": ");
        gr_json_add_text(out, text ? text : "", text ? len : 0);
        gr_buf_add_format(out, ", \"type_id\": %d}}", type_id);
        *first = false;
    }
}

static void add_sequence(const graft_tokenizer *tok, gr_buf *out, char which, int type_id, bool *first) {
    const gr_postproc *p = &tok->postproc;
    add_special_pieces(tok, out, p->front, p->n_front, type_id, first);
    gr_buf_add_format(out, "%s{\"Sequence\": {\"id\": \"%c\", \"type_id\": %d}}", *first ? "" : ", ", which, type_id);
    *first = false;
    add_special_pieces(tok, out, p->back, p->n_back, type_id, first);
}

static void add_special_map(const graft_tokenizer *tok, gr_buf *out) {
    const gr_postproc *p = &tok->postproc;
    bool first = true;
    for (size_t i = 0; i < p->n_front + p->n_back; i++) {
        const int32_t id = i < p->n_front ? p->front[i] : p->back[i - p->n_front];
        bool again = false;
        for (size_t k = 0; k < i && !again; k++) again = id == (k < p->n_front ? p->front[k] : p->back[k - p->n_front]);
        if (again) continue;
        size_t len = 0;
        const char *text = graft_tokenizer_token_text(tok, id, &len);
        if (!first) gr_buf_add_text(out, ", ");
        gr_json_add_text(out, text ? text : "", len);
        gr_buf_add_text(out, ": {\"id\": ");
        gr_json_add_text(out, text ? text : "", len);
        gr_buf_add_format(out, ", \"ids\": [%d], \"tokens\": [", id);
        gr_json_add_text(out, text ? text : "", len);
        gr_buf_add_text(out, "]}");
        first = false;
    }
}

/* As it was read, or what it comes down to where add_bos_token and add_eos_token took its place. */
static void add_postproc(const graft_tokenizer *tok, gr_buf *out) {
    const gr_postproc *p = &tok->postproc;
    if (tok->postproc_json) {
        gr_buf_add_text(out, tok->postproc_json);
        return;
    }
    const bool specials = p->n_front + p->n_back > 0;
    if (!specials && !p->trim) {
        gr_buf_add_text(out, "null");
        return;
    }
    if (specials && p->trim) gr_buf_add_text(out, "{\"type\": \"Sequence\", \"processors\": [");
    if (p->trim)
        gr_buf_add_format(out, "{\"type\": \"ByteLevel\", \"add_prefix_space\": %s, \"trim_offsets\": true, \"use_regex\": true}",
                          p->trim_prefix_space ? "true" : "false");
    if (specials) {
        bool first = true;
        gr_buf_add_format(out, "%s{\"type\": \"TemplateProcessing\", \"single\": [", p->trim ? ", " : "");
        add_sequence(tok, out, 'A', 0, &first);
        gr_buf_add_text(out, "], \"pair\": [");
        first = true;
        add_sequence(tok, out, 'A', 0, &first);
        add_sequence(tok, out, 'B', 1, &first);
        gr_buf_add_text(out, "], \"special_tokens\": {");
        add_special_map(tok, out);
        gr_buf_add_text(out, "}}");
    }
    if (specials && p->trim) gr_buf_add_text(out, "]}");
}

static graft_status add_tokenizer(const graft_tokenizer *tok, gr_buf *out, graft_error *err) {
    gr_buf_add_text(out, "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [");
    for (size_t i = 0; i < tok->n_added; i++) {
        gr_buf_add_text(out, i ? ",\n" : "\n");
        add_added(out, &tok->added[i]);
    }
    gr_buf_add_format(out, "],\n\"normalizer\": %s,\n\"pre_tokenizer\": %s,\n\"post_processor\": ", tok->normalizer_json,
                      tok->pretok_json);
    add_postproc(tok, out);
    gr_buf_add_format(out, ",\n\"decoder\": %s,\n\"model\": ", tok->decoder_json);
    GR_TRY(tok->type->save(tok->model, &tok->vocab, out, err));
    gr_buf_add_text(out, "}\n");
    return gr_buf_status(out, err);
}

static graft_status add_config(const graft_tokenizer *tok, gr_buf *out, graft_error *err) {
    static const char *const roles[GR_N_SPECIAL] = {
        [GRAFT_TOKEN_BOS] = "bos_token", [GRAFT_TOKEN_EOS] = "eos_token", [GRAFT_TOKEN_PAD] = "pad_token",
        [GRAFT_TOKEN_UNK] = "unk_token", [GRAFT_TOKEN_SEP] = "sep_token", [GRAFT_TOKEN_CLS] = "cls_token",
        [GRAFT_TOKEN_MASK] = "mask_token",
    };
    gr_buf_add_text(out, "{\n  \"clean_up_tokenization_spaces\": false");
    for (size_t i = 0; i < GR_N_SPECIAL; i++) {
        size_t len;
        const char *text = graft_tokenizer_token_text(tok, tok->special_id[i], &len);
        if (!text) continue;
        gr_buf_add_format(out, ",\n  \"%s\": ", roles[i]);
        gr_json_add_text(out, text, len);
    }
    const bool alone = tok->n_templates == 1 && !strcmp(tok->templates[0].name, "default");
    if (tok->n_templates > 0 && !alone) {
        gr_buf_add_text(out, ",\n  \"chat_template\": [");
        for (size_t i = 0; i < tok->n_templates; i++) {
            gr_buf_add_text(out, i ? ",\n    {\"name\": " : "\n    {\"name\": ");
            gr_json_add_text(out, tok->templates[i].name, strlen(tok->templates[i].name));
            gr_buf_add_text(out, ", \"template\": ");
            gr_json_add_text(out, tok->templates[i].text, tok->templates[i].len);
            gr_buf_add_char(out, '}');
        }
        gr_buf_add_text(out, "\n  ]");
    }
    gr_buf_add_text(out, ",\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n");
    return gr_buf_status(out, err);
}

static graft_status write(const graft_tokenizer *tok, const char *dir, const char *name, const char *text, size_t len,
                          graft_error *err) {
    char *path = gr_path_join(tok->a, dir, name);
    if (!path) return gr_fail_memory(err);
    graft_status st = gr_write_file(tok->a, path, text, len, err);
    gr_free(tok->a, path);
    return st;
}

static graft_status write_made(const graft_tokenizer *tok, const char *dir, const char *name,
                               graft_status (*make)(const graft_tokenizer *tok, gr_buf *out, graft_error *err),
                               graft_error *err) {
    gr_buf text;
    gr_buf_init(&text, tok->a);
    graft_status st = make(tok, &text, err);
    if (st == GRAFT_OK) st = write(tok, dir, name, gr_buf_text(&text), text.len, err);
    gr_buf_free(&text);
    return st;
}

graft_status graft_tokenizer_save(const graft_tokenizer *tok, const char *dir, graft_error *err) {
    if (!tok || !dir) return gr_fail(err, GRAFT_ERR_ARGUMENT, "tokenizer: an argument is NULL");
    GR_TRY(write_made(tok, dir, "tokenizer.json", add_tokenizer, err));
    GR_TRY(write_made(tok, dir, "tokenizer_config.json", add_config, err));
    if (tok->n_templates != 1 || strcmp(tok->templates[0].name, "default")) return GRAFT_OK;
    return write(tok, dir, "chat_template.jinja", tok->templates[0].text, tok->templates[0].len, err);
}
