#include "data/record.h"

/* The fields that have a meaning; FIELD_TEXT's name is an option. */
#define FIELDS(X)                                                                                                      \
    X(INPUT_IDS, "input_ids") X(LABELS, "labels") X(COMPLETION_MASK, "completion_mask")                                \
    X(ASSISTANT_MASKS, "assistant_masks") X(ATTENTION_MASK, "attention_mask") X(PROMPT, "prompt")                      \
    X(COMPLETION, "completion") X(CHOSEN, "chosen") X(REJECTED, "rejected") X(COMPLETIONS, "completions")              \
    X(RANKS, "ranks") X(MESSAGES, "messages") X(CONVERSATIONS, "conversations") X(INSTRUCTION, "instruction")          \
    X(INPUT, "input") X(OUTPUT, "output") X(SYSTEM, "system") X(TEXT_PAIR, "text_pair") X(LABEL, "label")              \
    X(TOOLS, "tools") X(KWARGS, "chat_template_kwargs") X(IMAGE, "image") X(IMAGES, "images")

typedef enum field {
#define X(name, text) FIELD_##name,
    FIELDS(X)
#undef X
    FIELD_TEXT, N_FIELDS
} field;

static const char *const field_names[] = {
#define X(name, text) text,
    FIELDS(X)
#undef X
};

typedef struct parse {
    gr_arena *arena;
    const char *place, *text_field;
    gr_slice value[N_FIELDS]; /* JSON text */
} parse;

const char *gr_record_kind_name(gr_record_kind kind) {
    static const char *const names[] = {
        "a record of tokens (input_ids)", "a text (text)", "a prompt with its completion (prompt, completion)",
        "a conversation (messages)", "an instruction (instruction, input, output)", "a prompt alone (prompt)",
        "a preference (chosen, rejected)", "a ranking (prompt, completions, ranks)",
        "a labelled text (text, text_pair, label)", "a record of other fields"};
    return names[kind];
}

static const char *name_of(const parse *p, field f) { return f == FIELD_TEXT ? p->text_field : field_names[f]; }

static bool has(const parse *p, field f) { return p->value[f].data != NULL; }

static gr_json_kind kind_of(const parse *p, field f) {
    gr_json_reader r;
    gr_json_init(&r, p->place, p->value[f].data, p->value[f].len);
    return gr_json_peek(&r);
}

static graft_status wrong_kind(const parse *p, field f, const char *expected, graft_error *err) {
    return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected \"%s\" to be %s, found %s", p->place, name_of(p, f), expected,
                   gr_json_kind_name(kind_of(p, f)));
}

static graft_status read_fields(parse *p, const char *json, size_t len, graft_error *err) {
    gr_json_reader r;
    gr_json_init(&r, p->place, json, len);
    GR_TRY(gr_json_open(&r, GR_JSON_OBJECT, err));
    for (;;) {
        bool more;
        gr_json_text key;
        GR_TRY(gr_json_next(&r, &more, err));
        if (!more) break;
        GR_TRY(gr_json_read_key(&r, &key, err));
        int f = gr_json_text_is(&key, p->text_field) ? FIELD_TEXT : 0;
        while (f < FIELD_TEXT && !gr_json_text_is(&key, field_names[f])) f++;
        if (f == FIELD_TEXT && !gr_json_text_is(&key, p->text_field)) f = N_FIELDS;
        bool null = gr_json_peek(&r) == GR_JSON_NULL;
        size_t start = r.at;
        GR_TRY(gr_json_skip(&r, err));
        if (f < N_FIELDS) p->value[f] = null ? (gr_slice){0} : (gr_slice){json + start, r.at - start};
    }
    return gr_json_end(&r, err);
}

static graft_status decode(gr_arena *arena, const char *place, gr_slice value, gr_slice *out, graft_error *err) {
    gr_json_reader r;
    gr_json_text text;
    gr_json_init(&r, place, value.data, value.len);
    GR_TRY(gr_json_read_text(&r, &text, err));
    char *copy = gr_arena_alloc(arena, text.len + 1);
    if (!copy) return gr_fail_memory(err);
    *out = (gr_slice){copy, gr_json_unescape(&text, copy)};
    return GRAFT_OK;
}

static graft_status read_text(const parse *p, field f, gr_slice *out, graft_error *err) {
    if (!has(p, f))
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected the field \"%s\" in the record", p->place, name_of(p, f));
    if (kind_of(p, f) != GR_JSON_STRING) return wrong_kind(p, f, "a string", err);
    return decode(p->arena, p->place, p->value[f], out, err);
}

static graft_status read_value_turns(const parse *p, field f, gr_slice value, gr_turns *out, graft_error *err) {
    gr_json_reader r;
    gr_json_init(&r, p->place, value.data, value.len);
    gr_json_kind kind = gr_json_peek(&r);
    if (kind == GR_JSON_ARRAY) return gr_messages_parse(p->arena, p->place, name_of(p, f), value, out, err);
    if (kind != GR_JSON_STRING)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected \"%s\" to be a string or a list of messages, found %s",
                       p->place, name_of(p, f), gr_json_kind_name(kind));
    gr_turns t = {0};
    GR_TRY(decode(p->arena, p->place, value, &t.text, err));
    *out = t;
    return GRAFT_OK;
}

static graft_status read_turns(const parse *p, field f, gr_turns *out, graft_error *err) {
    return read_value_turns(p, f, p->value[f], out, err);
}

static graft_status same_kind(const parse *p, const gr_turns *a, field fa, const gr_turns *b, field fb,
                              graft_error *err) {
    if ((a->n == 0) == (b->n == 0)) return GRAFT_OK;
    return gr_fail(
        err, GRAFT_ERR_FORMAT,
        "%s: expected \"%s\" and \"%s\" to be both strings or both lists of messages, found %s and %s",
        p->place, name_of(p, fa), name_of(p, fb), a->n ? "messages" : "a string",
        b->n ? "messages" : "a string");
}

/* An array of whole numbers (or booleans) in [low, high); `also` is allowed beside them. */
static graft_status read_ints(const parse *p, field f, int64_t low, int64_t high, int64_t also, int32_t **out,
                              size_t *n, graft_error *err) {
    if (kind_of(p, f) != GR_JSON_ARRAY) return wrong_kind(p, f, "an array of integers", err);
    gr_json_reader r, counter;
    bool more;
    size_t count = 0;
    gr_json_init(&r, p->place, p->value[f].data, p->value[f].len);
    GR_TRY(gr_json_open(&r, GR_JSON_ARRAY, err));
    for (counter = r;; count++) {
        GR_TRY(gr_json_next(&counter, &more, err));
        if (!more) break;
        GR_TRY(gr_json_skip(&counter, err));
    }
    int32_t *items = gr_arena_alloc(p->arena, count * sizeof *items);
    if (!items) return gr_fail_memory(err);
    for (size_t i = 0; i < count; i++) {
        gr_json_number v = {0};
        bool flag;
        GR_TRY(gr_json_next(&r, &more, err));
        gr_json_kind kind = gr_json_peek(&r);
        if (kind == GR_JSON_TRUE || kind == GR_JSON_FALSE) {
            GR_TRY(gr_json_read_bool(&r, &flag, err));
            v = (gr_json_number){.is_int = true, .i = flag};
        } else if (kind == GR_JSON_NUMBER) {
            GR_TRY(gr_json_read_number(&r, &v, err));
        } else {
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected integers in \"%s\", found %s at index %zu", p->place,
                           name_of(p, f), gr_json_kind_name(kind), i);
        }
        if (!v.is_int || ((v.i < low || v.i >= high) && v.i != also))
            return gr_fail(err, GRAFT_ERR_FORMAT,
                           "%s: expected integers of %lld to %lld in \"%s\", found %.17g at index %zu", p->place,
                           (long long)low, (long long)high - 1, name_of(p, f), v.is_int ? (double)v.i : v.d, i);
        items[i] = (int32_t)v.i;
    }
    *out = items;
    *n = count;
    return GRAFT_OK;
}

static graft_status read_beside(const parse *p, field f, int64_t low, int64_t high, int64_t also, size_t n_ids,
                                int32_t **out, graft_error *err) {
    size_t n;
    GR_TRY(read_ints(p, f, low, high, also, out, &n, err));
    if (n != n_ids)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected \"%s\" as long as \"input_ids\" (%zu), found %zu", p->place,
                       name_of(p, f), n_ids, n);
    return GRAFT_OK;
}

static graft_status read_mask(const parse *p, field f, size_t n_ids, uint8_t **out, graft_error *err) {
    int32_t *bits;
    GR_TRY(read_beside(p, f, 0, 2, 0, n_ids, &bits, err));
    uint8_t *mask = (uint8_t *)bits; /* in place: byte i is written after int i was read */
    for (size_t i = 0; i < n_ids; i++) mask[i] = bits[i] != 0;
    *out = mask;
    return GRAFT_OK;
}

static graft_status read_tokens(const parse *p, size_t vocab, gr_record *out, graft_error *err) {
    int64_t high = (int64_t)GR_MIN(vocab, (size_t)INT32_MAX);
    GR_TRY(read_ints(p, FIELD_INPUT_IDS, 0, high, 0, &out->ids, &out->n_ids, err));
    size_t n = out->n_ids;
    if (has(p, FIELD_LABELS))
        GR_TRY(read_ints(p, FIELD_LABELS, 0, high, GRAFT_IGNORE_LABEL, &out->labels, &out->n_labels, err));
    if (has(p, FIELD_COMPLETION_MASK)) GR_TRY(read_mask(p, FIELD_COMPLETION_MASK, n, &out->completion_mask, err));
    if (has(p, FIELD_ASSISTANT_MASKS)) GR_TRY(read_mask(p, FIELD_ASSISTANT_MASKS, n, &out->assistant_mask, err));
    if (has(p, FIELD_ATTENTION_MASK)) {
        uint8_t *mask;
        GR_TRY(read_mask(p, FIELD_ATTENTION_MASK, n, &mask, err));
        for (size_t i = 0; i < n; i++)
            if (!mask[i])
                return gr_fail(
                    err, GRAFT_ERR_UNSUPPORTED,
                    "%s: expected tokens without padding, found 0 at index %zu of \"attention_mask\"",
                    p->place, i);
    }
    out->kind = GR_RECORD_TOKENS;
    return GRAFT_OK;
}

static graft_status read_ranked(const parse *p, gr_record *out, graft_error *err) {
    gr_json_reader r;
    bool more;
    size_t n;
    if (kind_of(p, FIELD_COMPLETIONS) != GR_JSON_ARRAY) return wrong_kind(p, FIELD_COMPLETIONS, "an array", err);
    if (!has(p, FIELD_RANKS))
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected the field \"ranks\" beside \"completions\"", p->place);
    GR_TRY(read_ints(p, FIELD_RANKS, 1, INT32_MAX, 1, &out->ranks, &n, err));
    if (n < 2)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected at least two ranked completions, found %zu",
                       p->place, n);
    /* An answer has at least two characters: the memory asked for stays in proportion to the record. */
    if (n > p->value[FIELD_COMPLETIONS].len / 2)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected as many \"completions\" as \"ranks\" (%zu), found fewer",
                       p->place, n);
    gr_turns *answers = gr_arena_alloc(p->arena, n * sizeof *answers);
    if (!answers) return gr_fail_memory(err);
    gr_json_init(&r, p->place, p->value[FIELD_COMPLETIONS].data, p->value[FIELD_COMPLETIONS].len);
    GR_TRY(gr_json_open(&r, GR_JSON_ARRAY, err));
    for (size_t i = 0;; i++) {
        GR_TRY(gr_json_next(&r, &more, err));
        if (more != (i < n))
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected as many \"completions\" as \"ranks\" (%zu), found %s",
                           p->place, n, more ? "more" : "fewer");
        if (!more) break;
        gr_json_peek(&r);
        size_t start = r.at;
        GR_TRY(gr_json_skip(&r, err));
        GR_TRY(read_value_turns(p, FIELD_COMPLETIONS, (gr_slice){r.text + start, r.at - start}, &answers[i], err));
    }
    GR_TRY(read_turns(p, FIELD_PROMPT, &out->prompt, err));
    out->answers = answers;
    out->n_answers = n;
    out->kind = GR_RECORD_RANKED;
    return GRAFT_OK;
}

static graft_status read_preference(const parse *p, gr_record *out, graft_error *err) {
    if (!has(p, FIELD_CHOSEN) || !has(p, FIELD_REJECTED))
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected both fields \"chosen\" and \"rejected\"", p->place);
    GR_TRY(read_turns(p, FIELD_CHOSEN, &out->completion, err));
    GR_TRY(read_turns(p, FIELD_REJECTED, &out->rejected, err));
    GR_TRY(same_kind(p, &out->completion, FIELD_CHOSEN, &out->rejected, FIELD_REJECTED, err));
    if (has(p, FIELD_PROMPT)) {
        GR_TRY(read_turns(p, FIELD_PROMPT, &out->prompt, err));
        GR_TRY(same_kind(p, &out->prompt, FIELD_PROMPT, &out->completion, FIELD_CHOSEN, err));
    }
    out->kind = GR_RECORD_PREFERENCE;
    return GRAFT_OK;
}

/* ShareGPT files may give the system's message beside the conversation. */
static graft_status add_system(const parse *p, gr_turns *t, graft_error *err) {
    gr_slice text;
    if (!has(p, FIELD_SYSTEM) || (t->messages[0].role.len == 6 && memcmp(t->messages[0].role.data, "system", 6) == 0))
        return GRAFT_OK;
    GR_TRY(read_text(p, FIELD_SYSTEM, &text, err));
    if (text.len == 0) return GRAFT_OK;
    gr_message *all = gr_arena_alloc(p->arena, (t->n + 1) * sizeof *all);
    if (!all) return gr_fail_memory(err);
    memcpy(all + 1, t->messages, t->n * sizeof *all);
    GR_TRY(gr_message_make(p->arena, "system", text, &all[0], err));
    *t = (gr_turns){.messages = all, .n = t->n + 1};
    return GRAFT_OK;
}

static graft_status read_chat(const parse *p, gr_record *out, graft_error *err) {
    field f = has(p, FIELD_MESSAGES) ? FIELD_MESSAGES : FIELD_CONVERSATIONS;
    if (kind_of(p, f) != GR_JSON_ARRAY) return wrong_kind(p, f, "a list of messages", err);
    GR_TRY(read_turns(p, f, &out->completion, err));
    if (f == FIELD_CONVERSATIONS) GR_TRY(add_system(p, &out->completion, err));
    out->kind = GR_RECORD_CHAT;
    return GRAFT_OK;
}

static graft_status read_instruction(const parse *p, gr_record *out, graft_error *err) {
    GR_TRY(read_text(p, FIELD_INSTRUCTION, &out->instruction, err));
    if (has(p, FIELD_INPUT)) GR_TRY(read_text(p, FIELD_INPUT, &out->input, err));
    if (has(p, FIELD_SYSTEM)) GR_TRY(read_text(p, FIELD_SYSTEM, &out->system, err));
    GR_TRY(read_text(p, FIELD_OUTPUT, &out->completion.text, err));
    out->kind = GR_RECORD_INSTRUCTION;
    return GRAFT_OK;
}

static graft_status read_label(const parse *p, gr_record *out, graft_error *err) {
    gr_json_kind kind = kind_of(p, FIELD_LABEL);
    if (kind == GR_JSON_STRING) GR_TRY(read_text(p, FIELD_LABEL, &out->label, err));
    else if (kind == GR_JSON_OBJECT) return wrong_kind(p, FIELD_LABEL, "a string, a number or a list of them", err);
    else out->label = p->value[FIELD_LABEL];
    out->label_json = p->value[FIELD_LABEL];
    return GRAFT_OK;
}

static graft_status read_plain(const parse *p, gr_record *out, graft_error *err) {
    GR_TRY(read_text(p, FIELD_TEXT, &out->text, err));
    if (has(p, FIELD_TEXT_PAIR)) GR_TRY(read_text(p, FIELD_TEXT_PAIR, &out->text_pair, err));
    if (has(p, FIELD_LABEL)) GR_TRY(read_label(p, out, err));
    out->kind = has(p, FIELD_TEXT_PAIR) || has(p, FIELD_LABEL) ? GR_RECORD_LABELLED : GR_RECORD_TEXT;
    return GRAFT_OK;
}

/* Tools and template variables go with every kind of record that has messages. Tools may be JSON inside a string. */
static graft_status read_beside_chat(const parse *p, gr_record *out, graft_error *err) {
    if (has(p, FIELD_TOOLS)) {
        gr_slice tools = p->value[FIELD_TOOLS];
        if (kind_of(p, FIELD_TOOLS) == GR_JSON_STRING) GR_TRY(decode(p->arena, p->place, tools, &tools, err));
        gr_json_reader r;
        gr_json_init(&r, p->place, tools.data, tools.len);
        gr_json_kind kind = gr_json_peek(&r);
        graft_status st = gr_json_skip(&r, err);
        if (st == GRAFT_OK) st = gr_json_end(&r, err);
        if (st != GRAFT_OK)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected the text of \"tools\" to be JSON", p->place);
        if (kind == GR_JSON_ARRAY) out->tools = tools;
        else if (kind != GR_JSON_NULL) return wrong_kind(p, FIELD_TOOLS, "an array", err);
    }
    if (has(p, FIELD_KWARGS)) {
        if (kind_of(p, FIELD_KWARGS) != GR_JSON_OBJECT) return wrong_kind(p, FIELD_KWARGS, "an object", err);
        out->kwargs = p->value[FIELD_KWARGS];
    }
    return GRAFT_OK;
}

static graft_status read_kind(const parse *p, size_t vocab, gr_record *out, graft_error *err) {
    if (has(p, FIELD_IMAGE) || has(p, FIELD_IMAGES))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: expected a record of text, found \"%s\"", p->place,
                       has(p, FIELD_IMAGE) ? "image" : "images");
    if (has(p, FIELD_INPUT_IDS)) return read_tokens(p, vocab, out, err);
    GR_TRY(read_beside_chat(p, out, err));
    if (has(p, FIELD_CHOSEN) || has(p, FIELD_REJECTED)) return read_preference(p, out, err);
    if (has(p, FIELD_PROMPT) && has(p, FIELD_COMPLETIONS)) return read_ranked(p, out, err);
    if (has(p, FIELD_PROMPT) && has(p, FIELD_COMPLETION)) {
        GR_TRY(read_turns(p, FIELD_PROMPT, &out->prompt, err));
        GR_TRY(read_turns(p, FIELD_COMPLETION, &out->completion, err));
        out->kind = GR_RECORD_PAIR;
        return same_kind(p, &out->prompt, FIELD_PROMPT, &out->completion, FIELD_COMPLETION, err);
    }
    if (has(p, FIELD_MESSAGES) || has(p, FIELD_CONVERSATIONS)) return read_chat(p, out, err);
    if (has(p, FIELD_INSTRUCTION)) return read_instruction(p, out, err);
    if (has(p, FIELD_TEXT)) return read_plain(p, out, err);
    if (has(p, FIELD_PROMPT)) {
        out->kind = GR_RECORD_PROMPT;
        return read_turns(p, FIELD_PROMPT, &out->prompt, err);
    }
    return gr_fail(err, GRAFT_ERR_FORMAT,
                   "%s: expected \"%s\", \"prompt\" and \"completion\", \"messages\", \"conversations\", "
                   "\"instruction\" and "
                   "\"output\", or \"input_ids\"; found none of these fields",
                   p->place, p->text_field);
}

graft_status gr_record_parse(gr_arena *arena, const char *place, const char *json, size_t len, const char *text_field,
                             size_t vocab, gr_record *out, graft_error *err) {
    parse p = {.arena = arena, .place = place, .text_field = text_field ? text_field : "text"};
    gr_record record = {.json = {json, len}};
    GR_TRY(read_fields(&p, json, len, err));
    GR_TRY(read_kind(&p, vocab, &record, err));
    *out = record;
    return GRAFT_OK;
}

graft_status gr_record_value(gr_slice json, const char *name, gr_json_kind *kind, gr_slice *out, graft_error *err) {
    gr_json_reader r;
    gr_slice found = {0};
    gr_json_kind found_kind = GR_JSON_NULL;
    gr_json_init(&r, "record", json.data, json.len);
    GR_TRY(gr_json_open(&r, GR_JSON_OBJECT, err));
    for (bool more;;) {
        gr_json_text key;
        GR_TRY(gr_json_next(&r, &more, err));
        if (!more) break;
        GR_TRY(gr_json_read_key(&r, &key, err));
        bool same = gr_json_text_is(&key, name);
        gr_json_kind here = gr_json_peek(&r);
        size_t start = r.at;
        GR_TRY(gr_json_skip(&r, err));
        if (!same) continue;
        found = here == GR_JSON_NULL ? (gr_slice){0} : (gr_slice){json.data + start, r.at - start};
        found_kind = here;
    }
    GR_TRY(gr_json_end(&r, err));
    *kind = found_kind;
    *out = found;
    return GRAFT_OK;
}

graft_status gr_record_field(gr_arena *arena, gr_slice json, const char *name, gr_slice *out, graft_error *err) {
    gr_json_kind kind;
    gr_slice value;
    GR_TRY(gr_record_value(json, name, &kind, &value, err));
    if (kind == GR_JSON_STRING) return decode(arena, "record", value, out, err);
    if (kind != GR_JSON_NULL && kind != GR_JSON_NUMBER)
        return gr_fail(err, GRAFT_ERR_FORMAT, "expected \"%s\" to be a string or a number, found %s", name,
                       gr_json_kind_name(kind));
    *out = value;
    return GRAFT_OK;
}
