#include <stdio.h>

#include "base/json.h"
#include "text/slots.h"

enum { MAX_VIRTUAL = 1 << 20, MAX_SLOTS = 1 << 16, MAX_NAME = 64 };

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

static graft_status read_text(parse *p, graft_error *err) {
    gr_json_reader r;
    gr_json_text text;
    gr_slot slot = {.kind = GR_SLOT_TEXT};
    gr_json_init(&r, p->where, p->at, strlen(p->at));
    if (gr_json_read_text(&r, &text, NULL) != GRAFT_OK) return fail(p, "a text in double quotes, with the escapes of JSON", err);
    char *copy = gr_arena_alloc(p->arena, text.len + 1);
    if (!copy) return gr_fail_memory(err);
    slot.text = copy;
    slot.len = gr_json_unescape(&text, copy);
    p->at += r.at;
    return add(p, slot, err);
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

/* Each pseudo-token stands somewhere, and the answer in one place. */
static graft_status check(const parse *p, graft_error *err) {
    const gr_slots *s = p->out;
    size_t answers = 0;
    for (size_t i = 0; i < s->n; i++) answers += s->items[i].kind == GR_SLOT_ANSWER;
    if (answers != 1)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: prompt_template: expected [MASK], where the answer stands, once, found it %zu times",
                       p->where, answers);
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
        if (*p.at == ' ' || *p.at == '\t' || *p.at == '\n' || *p.at == '\r')
            p.at++;
        else if (*p.at == '[')
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
