#include <stdio.h>

#include "base/json.h"
#include "text/slots.h"

enum { MAX_VIRTUAL = 1 << 20, MAX_SLOTS = 1 << 16, MAX_NAME = 64, MAX_WORDS = 1024 };

typedef struct parse {
    gr_arena *arena;
    const char *where, *text, *at;
    gr_slots *out;
    size_t cap;
} parse;

static graft_status fail(const parse *p, const char *expected, graft_error *err) {
    return gr_fail(err, GRAFT_ERR_FORMAT, "%s: prompt_template, byte %zu: expected %s, found '%.20s'", p->where,
                   (size_t)(p->at - p->text), expected, p->at);
}

static graft_status add(parse *p, gr_slot slot, graft_error *err) {
    if (p->out->n == p->cap) {
        if (p->cap == MAX_SLOTS) return gr_fail(err, GRAFT_ERR_LIMIT, "%s: prompt_template has more than %d parts", p->where, MAX_SLOTS);
        size_t cap = p->cap ? 2 * p->cap : 16;
        gr_slot *more = gr_arena_alloc(p->arena, cap * sizeof *more);
        if (!more) return gr_fail_memory(err);
        if (p->out->n) memcpy(more, p->out->items, p->out->n * sizeof *more);
        p->out->items = more;
        p->cap = cap;
    }
    p->out->items[p->out->n++] = slot;
    return GRAFT_OK;
}

static bool is_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
}

/* A field's name at p->at. */
static graft_status read_name(parse *p, gr_slot *slot, graft_error *err) {
    size_t n = 0;
    while (is_name(p->at[n])) n++;
    if (!n || n > MAX_NAME) return fail(p, "the name of a field", err);
    if (!(slot->text = gr_arena_strndup(p->arena, p->at, n))) return gr_fail_memory(err);
    slot->len = n;
    p->at += n;
    return GRAFT_OK;
}

static graft_status read_quoted(parse *p, const char **out, size_t *len, graft_error *err) {
    gr_json_reader r;
    gr_json_text text;
    gr_json_init(&r, p->where, p->at, strlen(p->at));
    if (gr_json_read_text(&r, &text, NULL) != GRAFT_OK) return fail(p, "a text in double quotes, with the escapes of JSON", err);
    char *copy = gr_arena_alloc(p->arena, text.len + 1);
    if (!copy) return gr_fail_memory(err);
    *len = gr_json_unescape(&text, copy);
    copy[*len] = '\0';
    *out = copy;
    p->at += r.at;
    return GRAFT_OK;
}

static graft_status read_text(parse *p, graft_error *err) {
    gr_slot slot = {.kind = GR_SLOT_TEXT};
    GR_TRY(read_quoted(p, &slot.text, &slot.len, err));
    return add(p, slot, err);
}

static void skip_space(parse *p) {
    while (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r') p->at++;
}

static bool is_same(const char *a, size_t n, const char *b, size_t m) { return n == m && memcmp(a, b, n) == 0; }

/* A label and its word, as yes="Yes". */
static graft_status read_word(parse *p, gr_slot_word *out, graft_error *err) {
    gr_slot name;
    if (*p->at == '"')
        GR_TRY(read_quoted(p, &out->label, &out->label_len, err));
    else {
        GR_TRY(read_name(p, &name, err));
        out->label = name.text;
        out->label_len = name.len;
    }
    if (*p->at != '=') return fail(p, "'=' behind a label", err);
    p->at++;
    GR_TRY(read_quoted(p, &out->word, &out->word_len, err));
    if (!out->word_len) return fail(p, "a word that is not empty", err);
    for (size_t i = 0; i < p->out->n_words; i++) {
        const gr_slot_word *w = &p->out->words[i];
        if (is_same(w->label, w->label_len, out->label, out->label_len) || is_same(w->word, w->word_len, out->word, out->word_len))
            return fail(p, "each label and each word of [MASK] once", err);
    }
    return GRAFT_OK;
}

static graft_status read_words(parse *p, graft_error *err) {
    gr_slots *s = p->out;
    for (skip_space(p); *p->at && *p->at != ']'; skip_space(p)) {
        if (s->n_words == MAX_WORDS)
            return gr_fail(err, GRAFT_ERR_LIMIT, "%s: prompt_template: [MASK] has more than %d words", p->where, MAX_WORDS);
        if (!s->words && !(s->words = gr_arena_alloc(p->arena, MAX_WORDS * sizeof *s->words))) return gr_fail_memory(err);
        GR_TRY(read_word(p, &s->words[s->n_words], err));
        s->n_words++;
    }
    return s->n_words == 1 ? fail(p, "two or more words of [MASK]", err) : GRAFT_OK;
}

/* The number of a pseudo-token. */
static bool read_number(parse *p, int *out) {
    int n = 0;
    const char *at = p->at;
    if (*at != 'P') return false;
    for (at++; *at >= '0' && *at <= '9' && n <= MAX_VIRTUAL; at++) n = 10 * n + (*at - '0');
    if (at == p->at + 1 || n >= MAX_VIRTUAL) return false;
    p->at = at;
    *out = n;
    return true;
}

static graft_status read_virtual(parse *p, graft_error *err) {
    gr_slot slot = {.kind = GR_SLOT_VIRTUAL};
    if (!read_number(p, &slot.first)) return fail(p, "a pseudo-token as [P0] or [P0..P4]", err);
    slot.last = slot.first;
    if (p->at[0] == '.' && p->at[1] == '.') {
        p->at += 2;
        if (!read_number(p, &slot.last) || slot.last < slot.first) return fail(p, "the last of the pseudo-tokens, as in [P0..P4]", err);
    }
    p->out->n_virtual = GR_MAX(p->out->n_virtual, slot.last + 1);
    return add(p, slot, err);
}

static graft_status read_bracket(parse *p, graft_error *err) {
    static const struct {
        const char *name;
        graft_special_token token;
    } specials[] = {{"BOS", GRAFT_TOKEN_BOS}, {"EOS", GRAFT_TOKEN_EOS}, {"CLS", GRAFT_TOKEN_CLS}, {"SEP", GRAFT_TOKEN_SEP}};
    size_t n = 0;
    p->at++;
    while (p->at[n] >= 'A' && p->at[n] <= 'Z') n++;
    if (n == 4 && memcmp(p->at, "MASK", 4) == 0) {
        gr_slot slot = {.kind = GR_SLOT_ANSWER, .text = "completion", .len = strlen("completion")};
        p->at += n;
        if (*p->at == ':') {
            p->at++;
            GR_TRY(read_name(p, &slot, err));
        }
        if (p->out->has_answer) return fail(p, "[MASK], where the answer stands, once", err);
        GR_TRY(read_words(p, err));
        p->out->has_answer = true;
        GR_TRY(add(p, slot, err));
    } else {
        size_t i = 0;
        while (i < GR_COUNT(specials) && (strlen(specials[i].name) != n || memcmp(p->at, specials[i].name, n) != 0)) i++;
        if (i < GR_COUNT(specials)) {
            p->at += n;
            GR_TRY(add(p, (gr_slot){.kind = GR_SLOT_SPECIAL, .text = specials[i].name, .len = n, .special = specials[i].token}, err));
        } else
            GR_TRY(read_virtual(p, err));
    }
    if (*p->at != ']') return fail(p, "']'", err);
    p->at++;
    return GRAFT_OK;
}

/* Each pseudo-token stands somewhere. */
static graft_status check(const parse *p, graft_error *err) {
    const gr_slots *s = p->out;
    if (!s->n_virtual) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: prompt_template: expected pseudo-tokens as [P0], found none", p->where);
    for (int next = 0; next < s->n_virtual;) { /* the runs that hold `next` reach further */
        int end = next;
        for (size_t i = 0; i < s->n; i++)
            if (s->items[i].kind == GR_SLOT_VIRTUAL && s->items[i].first <= next) end = GR_MAX(end, s->items[i].last + 1);
        if (end == next)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: prompt_template: expected all of [P0..P%d], found no [P%d]", p->where,
                           s->n_virtual - 1, next);
        next = end;
    }
    return GRAFT_OK;
}

graft_status gr_slots_parse(gr_arena *arena, const char *where, const char *text, gr_slots *out, graft_error *err) {
    gr_slots slots = {0};
    parse p = {.arena = arena, .where = where, .text = text, .at = text, .out = &slots};
    while (*p.at) {
        gr_slot slot = {.kind = GR_SLOT_FIELD};
        skip_space(&p);
        if (!*p.at) break;
        if (*p.at == '[')
            GR_TRY(read_bracket(&p, err));
        else if (*p.at == '"')
            GR_TRY(read_text(&p, err));
        else {
            GR_TRY(read_name(&p, &slot, err));
            GR_TRY(add(&p, slot, err));
        }
    }
    GR_TRY(check(&p, err));
    *out = slots;
    return GRAFT_OK;
}

graft_status gr_slots_check_answer(const gr_slots *s, const char *where, bool answers, graft_error *err) {
    if (s->has_answer == answers) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_MISMATCH,
                   answers ? "%s: prompt_template: expected [MASK], where the answer stands, once, found it 0 times"
                           : "%s: prompt_template: expected no [MASK]: of a classification the answer is the label", where);
}

graft_status gr_slots_word_id(const graft_tokenizer *tok, const graft_allocator *a, const char *word, size_t len, int32_t *out, graft_error *err) {
    int32_t *ids;
    size_t n;
    GR_TRY(graft_tokenizer_encode(tok, word, len, 0, &ids, &n, err));
    int32_t id = n == 1 ? ids[0] : -1;
    gr_free(a, ids);
    *out = id;
    if (n == 1) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_MISMATCH, "the answer \"%.*s\" is %zu tokens, expected the one that stands at [MASK]", (int)GR_MIN(len, (size_t)40),
                   word, n);
}

graft_status gr_slots_word_ids(const graft_tokenizer *tok, const graft_allocator *a, gr_arena *arena, const gr_slots *slots, int32_t **out,
                              graft_error *err) {
    int32_t *ids = gr_arena_alloc(arena, (slots->n_words + 1) * sizeof *ids);
    if (!ids) return gr_fail_memory(err);
    for (size_t i = 0; i < slots->n_words; i++) {
        GR_TRY(gr_slots_word_id(tok, a, slots->words[i].word, slots->words[i].word_len, &ids[i], err));
        for (size_t k = 0; k < i; k++)
            if (ids[k] == ids[i])
                return gr_fail(err, GRAFT_ERR_MISMATCH, "the words \"%s\" and \"%s\" of [MASK] are the same token %d, expected two",
                               slots->words[k].word, slots->words[i].word, ids[i]);
    }
    *out = ids;
    return GRAFT_OK;
}
