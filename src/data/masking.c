/* Finds what the assistant says in the rendering R of a conversation, for a template that does not mark it.
 *
 * 1. Prefixes. Let A be the messages before message i with the generation prompt, B those up to and with i.
 * If both are prefixes of R, the assistant writes R[|A|, |B|): its whole turn as a model that is served would
 * write it.
 * 2. Many templates rewrite history (thoughts dropped from earlier turns, an end of text after the last one),
 * so A or B is no prefix. Then message i is replaced by two different sentinels in turn. What all three
 * renderings share before and behind is not from message i, so its text lies between: [at, end). A turn that
 * starts earlier than that (an empty thought, a channel) starts where the generation prompt ends, found
 * between the previous message and `at`. What ends the turn is what stands behind the message in B's
 * rendering and in R alike, in whole tokens. Each result is checked (the text of the message stands in it, or
 * the sentinel appears in exactly one place; turns in order, none empty); where no way gives one, that is an
 * error that names the message, never a guess. */
#define _GNU_SOURCE
#include "data/chat.h"

static const char *const sentinels[2] = {"Qx7ZkV0Qx7ZkV0Q", "Wy3JpN9Wy3JpN9W"};

typedef struct finder {
    const gr_chat *chat;
    const gr_chat_input *in;
    const gr_rendering *r;
    const graft_allocator *a;
} finder;

typedef struct text {
    char *data;
    size_t len;
} text;

/* Where something stands in R. */
typedef struct place {
    bool found;
    size_t at, end, text; /* text: where the template goes on behind the message's own text; 0: not known */
} place;

static size_t common_prefix(const char *a, size_t n, const char *b, size_t m) {
    size_t i = 0;
    while (i < n && i < m && a[i] == b[i]) i++;
    return i;
}

static size_t common_suffix(const char *a, size_t n, const char *b, size_t m) {
    size_t i = 0;
    while (i < n && i < m && a[n - 1 - i] == b[m - 1 - i]) i++;
    return i;
}

static bool is_prefix(const text *t, const gr_rendering *r) {
    return t->data && t->len <= r->len && memcmp(t->data, r->text, t->len) == 0;
}

/* Renders the first n messages, message `changed` (if less than n) with other JSON. A template that raises gives
 * out->data NULL: a shorter conversation need not be one that it accepts. */
static graft_status render(const finder *f, size_t n, size_t changed, gr_slice json, bool prompt, text *out,
                           graft_error *err) {
    *out = (text){0};
    if (n == 0 && !prompt) return GRAFT_OK;
    gr_message *copy = NULL;
    gr_chat_input in = *f->in;
    in.n = n;
    if (changed < n) {
        if (!(copy = gr_alloc(f->a, n * sizeof *copy))) return gr_fail_memory(err);
        memcpy(copy, in.messages, n * sizeof *copy);
        copy[changed].json = json;
        in.messages = copy;
    }
    graft_error inner;
    graft_status st = gr_chat_render(f->chat, &in, prompt, &out->data, &out->len, NULL, &inner);
    gr_free(f->a, copy);
    if (st == GRAFT_ERR_MISMATCH) return GRAFT_OK;
    if (st != GRAFT_OK && err) *err = inner;
    return st;
}

static bool contains_trimmed(const char *in, size_t n, gr_slice s) {
    while (s.len && strchr(" \t\r\n", s.data[0])) s.data++, s.len--;
    while (s.len && strchr(" \t\r\n", s.data[s.len - 1])) s.len--;
    return s.len == 0 || memmem(in, n, s.data, s.len) != NULL;
}

static graft_status by_prefixes(const finder *f, size_t i, place *out, graft_error *err) {
    text before, with;
    GR_TRY(render(f, i, i, (gr_slice){0}, true, &before, err));
    size_t at = before.len;
    bool ok = is_prefix(&before, f->r);
    gr_free(f->a, before.data);
    *out = (place){0};
    if (!ok) return GRAFT_OK;
    size_t end = f->r->len;
    if (i + 1 < f->in->n) {
        GR_TRY(render(f, i + 1, i + 1, (gr_slice){0}, false, &with, err));
        ok = is_prefix(&with, f->r);
        end = with.len;
        gr_free(f->a, with.data);
    }
    if (ok && end > at && contains_trimmed(f->r->text + at, end - at, f->in->messages[i].content))
        *out = (place){.found = true, .at = at, .end = end};
    return GRAFT_OK;
}

/* What of a message is replaced by a sentinel. */
typedef enum part { CONTENT, CALL_NAMES } part;

/* Message i with a sentinel as its content, or as the names of its tool calls. *out is empty when it has no
 * such part. */
static graft_status put_sentinel(const finder *f, size_t i, part which, const char *sentinel, gr_buf *out,
                                 graft_error *err) {
    const gr_message *m = &f->in->messages[i];
    gr_buf_clear(out);
    if (which == CONTENT) {
        if (m->content_len == 0) return GRAFT_OK;
        gr_buf_add(out, m->json.data, m->content_at);
        gr_buf_add_format(out, "\"%s\"", sentinel);
        gr_buf_add(out, m->json.data + m->content_at + m->content_len, m->json.len - m->content_at - m->content_len);
        return gr_buf_status(out, err);
    }
    gr_json_reader r;
    gr_json_init(&r, "message", m->json.data, m->json.len);
    size_t copied = 0;
    while (r.at < r.len) { /* every string is looked at; a name is a key "name" followed by a string */
        if (r.text[r.at] != '"') {
            r.at++;
            continue;
        }
        gr_json_text key, value;
        GR_TRY(gr_json_read_text(&r, &key, err));
        if (!gr_json_text_is(&key, "name")) continue;
        size_t colon = r.at + strspn(r.text + r.at, " \t\r\n");
        if (r.text[colon] != ':') continue;
        r.at = colon + 1;
        if (gr_json_peek(&r) != GR_JSON_STRING) continue;
        GR_TRY(gr_json_read_text(&r, &value, err));
        gr_buf_add(out, r.text + copied, (size_t)(value.raw - r.text) - copied);
        gr_buf_add_text(out, sentinel);
        copied = (size_t)(value.raw - r.text) + value.len;
    }
    if (copied) gr_buf_add(out, m->json.data + copied, m->json.len - copied);
    return gr_buf_status(out, err);
}

/* First and last place of `what` in t; NULL where there is none. */
static const char *find_first(const text *t, const char *what) {
    return t->data ? memmem(t->data, t->len, what, strlen(what)) : NULL;
}

static const char *find_last(const text *t, const char *what) {
    const char *last = NULL;
    for (const char *p = find_first(t, what); p;
         p = memmem(p + 1, t->len - (size_t)(p + 1 - t->data), what, strlen(what)))
        last = p;
    return last;
}

/* What follows message i when it is the last one: the text behind the sentinel that `json` holds. */
static graft_status find_tail(const finder *f, size_t i, gr_slice json, const char *sentinel, text *out,
                              graft_error *err) {
    text t;
    GR_TRY(render(f, i + 1, i, json, false, &t, err));
    const char *hit = find_last(&t, sentinel);
    graft_status st = GRAFT_OK;
    *out = (text){0};
    if (hit) {
        hit += strlen(sentinel);
        out->len = (size_t)(t.data + t.len - hit);
        if (!(out->data = gr_strndup(f->a, hit, out->len))) st = gr_fail_memory(err);
    }
    gr_free(f->a, t.data);
    return st;
}

/* The bytes of R that come from one part of message i. `at` may be more than `end`: where the part is empty,
 * what stands between can be counted to either side. `tail`: NULL, or gets what find_tail gives. */
static graft_status by_sentinels(const finder *f, size_t i, part which, place *out, text *tail, graft_error *err) {
    size_t prefix = SIZE_MAX, suffix = SIZE_MAX;
    gr_buf json;
    gr_buf_init(&json, f->a);
    graft_status st = GRAFT_OK;
    bool ok = true;
    *out = (place){0};
    for (int k = 0; k < 2 && ok; k++) {
        text t;
        GR_GO(done, put_sentinel(f, i, which, sentinels[k], &json, err));
        ok = json.len > 0;
        if (!ok) break;
        GR_GO(done, render(f, f->in->n, i, (gr_slice){json.data, json.len}, false, &t, err));
        const char *first = find_first(&t, sentinels[k]), *last = find_last(&t, sentinels[k]);
        ok = first != NULL;
        if (ok) {
            prefix = GR_MIN(prefix, common_prefix(f->r->text, f->r->len, t.data, t.len));
            suffix = GR_MIN(suffix, common_suffix(f->r->text, f->r->len, t.data, t.len));
            /* All that differs stands between the shared parts, or something else than the message changed. */
            ok = prefix <= (size_t)(first - t.data) && suffix <= t.len - (size_t)(last - t.data) - strlen(sentinels[k]);
        }
        gr_free(f->a, t.data);
    }
    if (ok) *out = (place){.found = true, .at = prefix, .end = f->r->len - suffix};
    if (ok && tail) st = find_tail(f, i, (gr_slice){json.data, json.len}, sentinels[1], tail, err);
done:
    gr_buf_free(&json);
    return st;
}

/* Where the generation prompt ends in R[from, to): at its longest part, from its beginning, that stands
 * there, for a prompt may go on with something that a written turn does not have (an opened thought). Less
 * than half of it is none. */
static bool match_prompt(const finder *f, size_t from, size_t to, const char *prompt, size_t n, size_t *out) {
    size_t best = 0;
    for (size_t at = from; at < to && best < n; at++) {
        size_t same = common_prefix(f->r->text + at, to - at, prompt, n);
        if (same > best) {
            best = same;
            *out = at + same;
        }
    }
    return best > n / 2;
}

/* Moves the start back over what the template puts between the generation prompt and the message's text.
 * *found is false when no generation prompt stands there. */
static graft_status find_start(const finder *f, size_t i, size_t floor, size_t at, size_t *out, bool *found,
                               graft_error *err) {
    text without = {0}, prompt;
    place previous = {0};
    *out = at;
    *found = false;
    GR_TRY(render(f, i, i, (gr_slice){0}, true, &prompt, err));
    if (!prompt.data) return GRAFT_OK;
    graft_status st = render(f, i, i, (gr_slice){0}, false, &without, err);
    if (st == GRAFT_OK && i > 0) st = by_sentinels(f, i - 1, CONTENT, &previous, NULL, err);
    if (st == GRAFT_OK) {
        size_t skip = common_prefix(prompt.data, prompt.len, without.data ? without.data : "", without.len), where;
        size_t from = previous.found ? GR_MAX(floor, previous.end) : floor;
        if (prompt.len > skip && match_prompt(f, from, at, prompt.data + skip, prompt.len - skip, &where)) {
            *out = where;
            *found = true;
        }
    }
    gr_free(f->a, without.data);
    gr_free(f->a, prompt.data);
    return st;
}

/* Token that holds byte `at` of R, or r->n. */
static size_t token_at(const gr_rendering *r, size_t at) {
    size_t low = 0, high = r->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (r->spans[mid].end <= at) low = mid + 1;
        else high = mid;
    }
    return low;
}

static bool is_space(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n", s[i])) return false;
    return true;
}

/* The generation prompt alone, "" where it cannot be had; freed by the caller. */
static graft_status generation_prompt(const finder *f, size_t i, char **out, graft_error *err) {
    text without, with;
    GR_TRY(render(f, i, i, (gr_slice){0}, true, &with, err));
    graft_status st = render(f, i, i, (gr_slice){0}, false, &without, err);
    if (st == GRAFT_OK) {
        bool whole = with.data && (i == 0 || is_prefix(&without, &(gr_rendering){.text = with.data, .len = with.len}));
        size_t skip = whole ? without.len : with.len;
        char *copy = gr_strndup(f->a, with.data ? with.data + skip : "", with.len - skip);
        if (copy) *out = copy;
        else st = gr_fail_memory(err);
        gr_free(f->a, without.data);
    }
    gr_free(f->a, with.data);
    return st;
}

/* Some templates end a turn only where the next one begins: the turn [from, *end) of message i then has no
 * special token at its end (its own text, before `from`, may well have some), and one that follows it ends
 * it, if generation stops there or if it is not one that starts a turn. */
static graft_status add_stop(const finder *f, size_t i, size_t from, size_t *end, graft_error *err) {
    const gr_rendering *r = f->r;
    const graft_tokenizer *tok = gr_chat_tokenizer(f->chat);
    size_t t = token_at(r, *end), last = t;
    if (t >= r->n || r->spans[t].start != *end || !graft_tokenizer_is_special(tok, r->ids[t])) return GRAFT_OK;
    while (last > 0 && r->spans[last - 1].start >= from) {
        last--;
        if (graft_tokenizer_is_special(tok, r->ids[last])) return GRAFT_OK;
        if (!is_space(r->text + r->spans[last].start, r->spans[last].end - r->spans[last].start)) break;
    }
    bool stops = graft_tokenizer_is_eos(tok, r->ids[t]);
    if (!stops && r->ids[t] != graft_tokenizer_special_id(tok, GRAFT_TOKEN_BOS)) {
        char *prompt;
        size_t n = r->spans[t].end - *end;
        GR_TRY(generation_prompt(f, i, &prompt, err));
        stops = prompt[0] && strncmp(prompt, r->text + *end, n) != 0;
        gr_free(f->a, prompt);
    }
    if (stops) *end = r->spans[t].end;
    return GRAFT_OK;
}

/* As many whole tokens behind the message as stand there too when it is the last one (`tail`). */
static size_t shared_end(const finder *f, size_t end, const text *tail) {
    const gr_rendering *r = f->r;
    size_t limit = end + common_prefix(r->text + end, r->len - end, tail->data ? tail->data : "", tail->len);
    for (size_t t = token_at(r, end); t < r->n && r->spans[t].end <= limit; t++) end = GR_MAX(end, r->spans[t].end);
    return end;
}

static graft_status by_part(const finder *f, size_t i, size_t floor, part which, place *out, graft_error *err) {
    place own;
    text tail = {0};
    bool prompt, last = i + 1 == f->in->n;
    *out = (place){0};
    graft_status st = by_sentinels(f, i, which, &own, &tail, err);
    if (st == GRAFT_OK && own.found && own.at >= floor) {
        place p = {.end = last ? f->r->len : shared_end(f, own.end, &tail), .text = GR_MAX(own.at, own.end)};
        st = find_start(f, i, floor, own.at, &p.at, &prompt, err);
        /* The name of a tool call stands somewhere inside the turn: alone it does not say where that starts. */
        p.found = st == GRAFT_OK && (which == CONTENT || prompt) && p.end > p.at;
        *out = p;
    }
    gr_free(f->a, tail.data);
    return st;
}

static graft_status find_message(const finder *f, size_t i, size_t floor, place *out, graft_error *err) {
    place p;
    GR_TRY(by_prefixes(f, i, &p, err));
    if (p.found && p.at < floor) p.found = false;
    if (!p.found) GR_TRY(by_part(f, i, floor, CONTENT, &p, err));
    if (!p.found) GR_TRY(by_part(f, i, floor, CALL_NAMES, &p, err));
    if (p.found && i + 1 < f->in->n) GR_TRY(add_stop(f, i, GR_MAX(p.at, p.text), &p.end, err));
    *out = p;
    return GRAFT_OK;
}

graft_status gr_chat_find_assistant(const gr_chat *c, const gr_chat_input *in, const gr_rendering *r, graft_spans *out,
                                    graft_error *err) {
    finder f = {c, in, r, gr_allocator(gr_chat_context(c))};
    size_t n = 0, floor = 0;
    graft_span *items = gr_alloc(f.a, in->n * sizeof *items);
    if (!items) return gr_fail_memory(err);
    graft_status st = GRAFT_OK;
    for (size_t i = 0; i < in->n && st == GRAFT_OK; i++) {
        const gr_message *m = &in->messages[i];
        if (m->role.len != 9 || memcmp(m->role.data, "assistant", 9) != 0) continue;
        place p;
        st = find_message(&f, i, floor, &p, err);
        if (st == GRAFT_OK && !p.found)
            st = gr_fail(err, GRAFT_ERR_MISMATCH,
                         "cannot find what the chat template writes for message %zu (assistant) of %zu; expected a "
                         "template that shows it, or one with {%% generation %%} blocks", i + 1, in->n);
        if (st != GRAFT_OK) break;
        items[n++] = (graft_span){p.at, p.end};
        floor = p.end;
    }
    if (st != GRAFT_OK) {
        gr_free(f.a, items);
        return st;
    }
    *out = (graft_spans){items, n};
    return GRAFT_OK;
}
