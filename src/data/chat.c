#define _GNU_SOURCE
#include "data/chat.h"

enum { PLAIN, TOOLS, N_TEMPLATES };

struct gr_chat {
    graft_context *ctx;
    const graft_tokenizer *tok;
    graft_template *template[N_TEMPLATES]; /* TOOLS: one of its own for requests with tools, or NULL */
    bool marks[N_TEMPLATES];
    struct tm now;
    gr_buf tokens; /* the special tokens as members of a JSON object */
};

/* "{% generation %}" with any of the marks that trim white space. */
static bool has_generation(const char *text) {
    for (const char *p = text; (p = strstr(p, "{%")) != NULL; p += 2) {
        const char *q = p + 2;
        if (*q == '-' || *q == '+') q++;
        q += strspn(q, " \t\r\n");
        if (strncmp(q, "generation", 10) != 0) continue;
        q += 10;
        q += strspn(q, " \t\r\n");
        if (strncmp(q, "%}", 2) == 0 || strncmp(q, "-%}", 3) == 0 || strncmp(q, "+%}", 3) == 0) return true;
    }
    return false;
}

static graft_status parse(gr_chat *c, int which, const char *text, const char *name, graft_error *err) {
    c->marks[which] = has_generation(text);
    return graft_template_parse(c->ctx, text, strlen(text), name, &c->template[which], err);
}

static graft_status parse_own(gr_chat *c, graft_error *err) {
    size_t n = graft_tokenizer_n_chat_templates(c->tok);
    const char *plain = graft_tokenizer_chat_template(c->tok, NULL, NULL);
    if (!plain)
        return gr_fail(
            err, GRAFT_ERR_MISMATCH,
            "the model has %zu chat templates, none of them called \"default\": expected one to be chosen",
            n);
    GR_TRY(parse(c, PLAIN, plain, "chat template", err));
    for (size_t i = 0; i < n && n > 1; i++)
        if (strcmp(graft_tokenizer_chat_template_name(c->tok, i), "tool_use") == 0)
            return parse(c, TOOLS, graft_tokenizer_chat_template(c->tok, "tool_use", NULL),
                         "chat template tool_use", err);
    return GRAFT_OK;
}

static void add_special_tokens(gr_chat *c) {
    static const struct { graft_special_token which; const char *name; } tokens[] = {
        {GRAFT_TOKEN_BOS, "bos_token"}, {GRAFT_TOKEN_EOS, "eos_token"}, {GRAFT_TOKEN_UNK, "unk_token"},
        {GRAFT_TOKEN_SEP, "sep_token"}, {GRAFT_TOKEN_PAD, "pad_token"}, {GRAFT_TOKEN_CLS, "cls_token"},
        {GRAFT_TOKEN_MASK, "mask_token"}};
    for (size_t i = 0; i < GR_COUNT(tokens); i++) {
        size_t len;
        const char *text =
            graft_tokenizer_token_text(c->tok, graft_tokenizer_special_id(c->tok, tokens[i].which), &len);
        if (!text) continue;
        gr_buf_add_format(&c->tokens, "\"%s\": ", tokens[i].name);
        gr_json_add_text(&c->tokens, text, len);
        gr_buf_add_text(&c->tokens, ", ");
    }
}

graft_status gr_chat_new(graft_context *ctx, const graft_tokenizer *tok, const char *text, int64_t now, gr_chat **out,
                         graft_error *err) {
    if (!text && graft_tokenizer_n_chat_templates(tok) == 0) {
        *out = NULL;
        return GRAFT_OK;
    }
    gr_chat *c = gr_calloc(gr_allocator(ctx), 1, sizeof *c);
    if (!c) return gr_fail_memory(err);
    c->ctx = ctx;
    c->tok = tok;
    gr_buf_init(&c->tokens, gr_allocator(ctx));
    time_t seconds = (time_t)now;
    graft_status st = GRAFT_OK;
    if (!localtime_r(&seconds, &c->now))
        st = gr_fail(err, GRAFT_ERR_ARGUMENT, "expected a time in seconds since 1970, found %lld", (long long)now);
    add_special_tokens(c);
    if (st == GRAFT_OK) st = gr_buf_status(&c->tokens, err);
    if (st == GRAFT_OK) st = text ? parse(c, PLAIN, text, "chat template", err) : parse_own(c, err);
    if (st != GRAFT_OK) {
        gr_chat_free(c);
        return st;
    }
    *out = c;
    return GRAFT_OK;
}

void gr_chat_free(gr_chat *c) {
    if (!c) return;
    for (int i = 0; i < N_TEMPLATES; i++) graft_template_free(c->template[i]);
    gr_buf_free(&c->tokens);
    gr_free(gr_allocator(c->ctx), c);
}

graft_context *gr_chat_context(const gr_chat *c) { return c->ctx; }
const graft_tokenizer *gr_chat_tokenizer(const gr_chat *c) { return c->tok; }

static int pick(const gr_chat *c, const gr_chat_input *in) {
    return in->tools.data && c->template[TOOLS] ? TOOLS : PLAIN;
}

bool gr_chat_marks_assistant(const gr_chat *c, const gr_chat_input *in) { return c->marks[pick(c, in)]; }

/* The record's own variables come first: they may replace the special tokens (the later of two equal names counts), but
 * not the conversation. */
static graft_status add_kwargs(gr_buf *b, gr_slice kwargs, graft_error *err) {
    static const char *const taken[] = {"messages", "tools", "add_generation_prompt"};
    gr_json_reader r;
    bool more;
    gr_json_init(&r, "chat_template_kwargs", kwargs.data, kwargs.len);
    GR_TRY(gr_json_open(&r, GR_JSON_OBJECT, err));
    for (;;) {
        gr_json_text key;
        GR_TRY(gr_json_next(&r, &more, err));
        if (!more) return GRAFT_OK;
        GR_TRY(gr_json_read_key(&r, &key, err));
        size_t start = r.at;
        GR_TRY(gr_json_skip(&r, err));
        bool own = true;
        for (size_t i = 0; i < GR_COUNT(taken); i++) own = own && !gr_json_text_is(&key, taken[i]);
        if (!own) continue;
        gr_buf_add(b, key.raw - 1, key.len + 2);
        gr_buf_add_text(b, ": ");
        gr_buf_add(b, r.text + start, r.at - start);
        gr_buf_add_text(b, ", ");
    }
}

graft_status gr_chat_render(const gr_chat *c, const gr_chat_input *in, bool generation_prompt, char **out,
                            size_t *out_len, graft_spans *spans, graft_error *err) {
    gr_buf b;
    gr_buf_init(&b, gr_allocator(c->ctx));
    gr_buf_add_text(&b, "{");
    gr_buf_add_text(
        &b, "\"documents\": null, "); /* transformers gives it always; a record's variables may replace it */
    gr_buf_add(&b, gr_buf_text(&c->tokens), c->tokens.len);
    graft_status st = in->kwargs.data ? add_kwargs(&b, in->kwargs, err) : GRAFT_OK;
    gr_buf_add_text(&b, "\"messages\": [");
    for (size_t i = 0; i < in->n; i++) {
        if (i) gr_buf_add_text(&b, ", ");
        gr_buf_add(&b, in->messages[i].json.data, in->messages[i].json.len);
    }
    gr_buf_add_text(&b, "], \"tools\": ");
    if (in->tools.data) gr_buf_add(&b, in->tools.data, in->tools.len);
    else gr_buf_add_text(&b, "null");
    gr_buf_add_format(&b, ", \"add_generation_prompt\": %s}", generation_prompt ? "true" : "false");
    if (st == GRAFT_OK) st = gr_buf_status(&b, err);
    graft_template_options options = {.now = &c->now};
    if (st == GRAFT_OK)
        st = graft_template_render(c->template[pick(c, in)], b.data, b.len, &options, out, out_len, spans, err);
    gr_buf_free(&b);
    return st;
}

/* A span covers every token that holds one of its bytes. (transformers stops at the first token of the last
 * character, and so leaves out the rest of a character that is several tokens.) Tokens stand in the order of
 * the text, so that the first is found by halving. */
static void mark(const gr_rendering *r, graft_span span, uint8_t *mask) {
    size_t low = 0, high = r->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (r->spans[mid].end <= span.start) low = mid + 1;
        else high = mid;
    }
    for (size_t t = low; t < r->n && r->spans[t].start < span.end; t++) mask[t] = 1;
}

graft_status gr_chat_mask(const gr_chat *c, const gr_chat_input *in, const gr_rendering *r, const graft_spans *marks,
                          uint8_t *mask, graft_error *err) {
    graft_spans found = {0};
    const graft_spans *spans = marks;
    if (!gr_chat_marks_assistant(c, in)) {
        GR_TRY(gr_chat_find_assistant(c, in, r, &found, err));
        spans = &found;
    }
    memset(mask, 0, r->n);
    for (size_t i = 0; i < spans->n; i++) mark(r, spans->items[i], mask);
    gr_free(gr_allocator(c->ctx), found.items);
    return GRAFT_OK;
}
