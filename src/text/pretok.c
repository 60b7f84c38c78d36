/* The chain of pre-tokenisers.
 *
 * A splitting stage turns a text into an alternation of matches and what lies between, and a behaviour decides what
 * becomes of the matches (tokenizers, SplitDelimiterBehavior). Stages are called depth first: the first piece of the
 * first stage has gone through all others, and through the model, before the second is looked for. */
#include "text/pretok.h"
#include "text/json_field.h"
#include "text/bytelevel.h"
#include "text/unicode.h"

enum { MAX_DEPTH = 16 };

typedef enum behaviour { REMOVED, ISOLATED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS } behaviour;

typedef struct stage {
    enum { SPLIT_CHARS, SPLIT_REGEX, SPLIT_LENGTH, SPLIT_SCRIPTS, PREFIX_SPACE, METASPACE, BYTE_MAP } kind;
    behaviour behaviour;
    bool invert;
    bool (*is_match)(int32_t cp); /* SPLIT_CHARS; NULL: equal to `cp` */
    int32_t cp;                   /* SPLIT_CHARS, METASPACE: the character */
    gr_regex *regex;
    size_t length;                                            /* SPLIT_LENGTH, in characters */
    enum { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS } prepend; /* METASPACE */
} stage;

struct gr_pretok {
    const graft_allocator *a;
    stage stages[GR_PRETOK_MAX_STAGES];
    size_t n;
};

/* --- running --- */

static graft_status run_from(const gr_pretok *p, gr_pretok_state *s, size_t k, const gr_piece *in, graft_error *err);

/* Receives matches and gaps in order and passes on pieces. At most one of them waits for its neighbour. */
typedef struct splitter {
    const gr_pretok *p;
    gr_pretok_state *s;
    size_t k;
    const gr_piece *in;
    behaviour behaviour;
    bool invert, before_is_match, waiting;
    size_t wait_start, wait_end;
} splitter;

static graft_status pass_on(splitter *x, size_t start, size_t end, graft_error *err) {
    if (start == end) return GRAFT_OK;
    const gr_piece piece = gr_piece_slice(x->in, start, end);
    return run_from(x->p, x->s, x->k + 1, &piece, err);
}

static graft_status replace_waiting(splitter *x, size_t start, size_t end, graft_error *err) {
    const size_t a = x->wait_start, b = x->wait_end;
    const bool waiting = x->waiting;
    x->waiting = true;
    x->wait_start = start;
    x->wait_end = end;
    return waiting ? pass_on(x, a, b, err) : GRAFT_OK;
}

static graft_status segment(splitter *x, size_t start, size_t end, bool is_match, graft_error *err) {
    is_match ^= x->invert;
    const bool before = x->before_is_match;
    x->before_is_match = is_match;
    switch (x->behaviour) {
    case REMOVED: return is_match ? GRAFT_OK : pass_on(x, start, end, err);
    case ISOLATED: return pass_on(x, start, end, err);
    case CONTIGUOUS:
    case MERGED_WITH_PREVIOUS: {
        const bool joins = x->behaviour == CONTIGUOUS ? is_match == before : is_match && !before;
        if (joins && x->waiting) {
            x->wait_end = end;
            return GRAFT_OK;
        }
        return replace_waiting(x, start, end, err);
    }
    case MERGED_WITH_NEXT:
        if (is_match) return replace_waiting(x, start, end, err);
        if (x->waiting) start = x->wait_start;
        x->waiting = false;
        return pass_on(x, start, end, err);
    }
    return GRAFT_OK;
}

static graft_status end_split(splitter *x, graft_error *err) {
    return x->waiting ? pass_on(x, x->wait_start, x->wait_end, err) : GRAFT_OK;
}

static graft_status split_chars(splitter *x, const stage *st, graft_error *err) {
    const char *text = x->in->text;
    const size_t len = x->in->len;
    size_t gap = 0;
    for (size_t i = 0; i < len;) {
        int32_t cp;
        size_t n = gr_utf8_decode(text + i, len - i, &cp);
        if (st->is_match ? st->is_match(cp) : cp == st->cp) {
            if (gap < i) GR_TRY(segment(x, gap, i, false, err));
            GR_TRY(segment(x, i, i + n, true, err));
            gap = i + n;
        }
        i += n;
    }
    if (gap < len) GR_TRY(segment(x, gap, len, false, err));
    return end_split(x, err);
}

static graft_status split_regex(splitter *x, const stage *st, graft_error *err) {
    gr_regex_iter it = gr_regex_matches(st->regex, &x->s->regex, x->in->text, x->in->len);
    size_t gap = 0;
    for (;;) {
        bool found;
        size_t start, end;
        GR_TRY(gr_regex_next(&it, &found, &start, &end, err));
        if (!found) break;
        if (start < gap) start = gap; /* \K in a look-behind: never go back */
        if (end < start) end = start;
        if (gap < start) GR_TRY(segment(x, gap, start, false, err));
        GR_TRY(segment(x, start, end, true, err));
        gap = end;
    }
    if (gap < x->in->len) GR_TRY(segment(x, gap, x->in->len, false, err));
    return end_split(x, err);
}

static graft_status split_length(splitter *x, const stage *st, graft_error *err) {
    size_t start = 0, chars = 0;
    for (size_t i = 0; i < x->in->len;) {
        int32_t cp;
        i += gr_utf8_decode(x->in->text + i, x->in->len - i, &cp);
        if (++chars == st->length || i == x->in->len) {
            GR_TRY(pass_on(x, start, i, err));
            start = i;
            chars = 0;
        }
    }
    return GRAFT_OK;
}

/* Cuts where the script changes; spaces (script Any) go with what stands before them. */
static graft_status split_scripts(splitter *x, graft_error *err) {
    size_t start = 0;
    int last = -1; /* none yet; 0 is Any */
    for (size_t i = 0; i < x->in->len;) {
        int32_t cp;
        const size_t at = i;
        i += gr_utf8_decode(x->in->text + i, x->in->len - i, &cp);
        const int script = gr_cp_script(cp);
        if (script == 0) continue;
        if (last != script) {
            /* Before the first script there is nothing to keep: leading spaces are dropped, as the reference does. */
            if (last >= 0) GR_TRY(pass_on(x, start, at, err));
            start = at;
        }
        last = script;
    }
    return last >= 0 ? pass_on(x, start, x->in->len, err) : GRAFT_OK;
}

static graft_status text_of(gr_pretok_state *s, size_t k, gr_nstr **out, graft_error *err) {
    if (!s->texts) {
        s->texts = gr_calloc(s->a, GR_PRETOK_MAX_STAGES, sizeof *s->texts);
        if (!s->texts) return gr_fail_memory(err);
        for (size_t i = 0; i < GR_PRETOK_MAX_STAGES; i++) gr_nstr_init(&s->texts[i], s->a);
    }
    *out = &s->texts[k];
    return GRAFT_OK;
}

static graft_status run_prefix(const gr_pretok *p, gr_pretok_state *s, size_t k, const gr_piece *in,
                               graft_error *err) {
    if (in->text[0] == ' ') return run_from(p, s, k + 1, in, err);
    gr_nstr *text;
    GR_TRY(text_of(s, k, &text, err));
    GR_TRY(gr_nstr_prepend(text, in, " ", 1, s->track, err));
    const gr_piece piece = gr_nstr_piece(text);
    return run_from(p, s, k + 1, &piece, err);
}

static graft_status run_metaspace(const gr_pretok *p, gr_pretok_state *s, size_t k, const gr_piece *in,
                                  graft_error *err) {
    const stage *st = &p->stages[k];
    char meta[4];
    const size_t n_meta = gr_utf8_encode((uint32_t)st->cp, meta);
    const bool starts = in->text[0] == ' ' || (in->len >= n_meta && !memcmp(in->text, meta, n_meta));
    const bool prepend = !starts && (st->prepend == PREPEND_ALWAYS || (st->prepend == PREPEND_FIRST && in->base == 0));
    gr_nstr *text;
    GR_TRY(text_of(s, k, &text, err));
    gr_edit e;
    gr_edit_begin(&e, in, text, s->track);
    if (prepend) {
        /* Shares the range of the first character: written as a replacement that is taken back. */
        gr_edit_push(&e, st->cp, 0);
        e.offset = 0;
    }
    while (e.offset < in->len) {
        const char *space = memchr(in->text + e.offset, ' ', in->len - e.offset);
        gr_edit_copy(&e, (space ? (size_t)(space - in->text) : in->len) - e.offset);
        if (space) gr_edit_push(&e, st->cp, 0);
    }
    GR_TRY(gr_edit_end(&e, err));
    const gr_piece piece = gr_nstr_piece(text);
    return run_from(p, s, k + 1, &piece, err);
}

static graft_status run_byte_map(const gr_pretok *p, gr_pretok_state *s, size_t k, const gr_piece *in,
                                 graft_error *err) {
    gr_nstr *text;
    GR_TRY(text_of(s, k, &text, err));
    gr_edit e;
    gr_edit_begin(&e, in, text, s->track);
    while (e.offset < in->len) {
        int32_t cp;
        const char *from = in->text + e.offset;
        const size_t n = gr_utf8_decode(from, in->len - e.offset, &cp);
        for (size_t i = 0; i < n; i++) gr_edit_push(&e, gr_byte_to_char((unsigned char)from[i]), i > 0);
    }
    GR_TRY(gr_edit_end(&e, err));
    const gr_piece piece = gr_nstr_piece(text);
    return run_from(p, s, k + 1, &piece, err);
}

static graft_status run_from(const gr_pretok *p, gr_pretok_state *s, size_t k, const gr_piece *in, graft_error *err) {
    if (in->len == 0) return GRAFT_OK;
    if (!p || k == p->n) return s->sink(s->user, in, err);
    const stage *st = &p->stages[k];
    splitter x = {.p = p, .s = s, .k = k, .in = in, .behaviour = st->behaviour, .invert = st->invert};
    switch (st->kind) {
    case SPLIT_CHARS: return split_chars(&x, st, err);
    case SPLIT_REGEX: return split_regex(&x, st, err);
    case SPLIT_LENGTH: return split_length(&x, st, err);
    case SPLIT_SCRIPTS: return split_scripts(&x, err);
    case PREFIX_SPACE: return run_prefix(p, s, k, in, err);
    case METASPACE: return run_metaspace(p, s, k, in, err);
    case BYTE_MAP: return run_byte_map(p, s, k, in, err);
    }
    return GRAFT_OK;
}

graft_status gr_pretok_run(const gr_pretok *p, gr_pretok_state *s, const gr_piece *in, graft_error *err) {
    return run_from(p, s, 0, in, err);
}

void gr_pretok_state_init(gr_pretok_state *s, const graft_allocator *a) {
    *s = (gr_pretok_state){.a = a, .regex.a = a};
}

void gr_pretok_state_free(gr_pretok_state *s) {
    for (size_t i = 0; s->texts && i < GR_PRETOK_MAX_STAGES; i++) gr_nstr_free(&s->texts[i]);
    gr_free(s->a, s->texts);
    gr_regex_state_free(&s->regex);
    gr_pretok_state_init(s, s->a);
}

/* --- building --- */

static graft_status add(gr_pretok *p, stage s, graft_error *err) {
    if (p->n == GR_PRETOK_MAX_STAGES)
        return gr_fail(err, GRAFT_ERR_LIMIT, "pre_tokenizer: more than %d stages", GR_PRETOK_MAX_STAGES);
    p->stages[p->n++] = s;
    return GRAFT_OK;
}

static graft_status build(gr_pretok *p, const gr_json_value *json, int depth, graft_error *err);

static graft_status read_behaviour(const gr_json_value *json, behaviour *out, graft_error *err) {
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const gr_json_value *v = gr_json_get(json, "behavior");
    const char *text = gr_json_string(v, NULL);
    for (size_t i = 0; text && i < GR_COUNT(names); i++)
        if (!strcmp(text, names[i])) {
            *out = (behaviour)i;
            return GRAFT_OK;
        }
    if (!v) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_FORMAT, "pre_tokenizer: 'behavior' is none of Removed, Isolated, MergedWithPrevious, "
                                          "MergedWithNext, Contiguous");
}

static graft_status read_char(const gr_json_value *json, const char *key, int32_t *out, graft_error *err) {
    if (!gr_json_char(gr_json_get(json, key), out))
        return gr_fail(err, GRAFT_ERR_FORMAT, "pre_tokenizer: '%s' is not one character", key);
    return GRAFT_OK;
}

static graft_status add_chars(gr_pretok *p, bool (*is_match)(int32_t cp), behaviour b, graft_error *err) {
    return add(p, (stage){.kind = SPLIT_CHARS, .behaviour = b, .is_match = is_match}, err);
}

static graft_status build_bert(gr_pretok *p, const gr_json_value *json, int depth, graft_error *err) {
    (void)json, (void)depth;
    GR_TRY(add_chars(p, gr_cp_is_space, REMOVED, err));
    return add_chars(p, gr_cp_is_punctuation, ISOLATED, err);
}

static graft_status build_byte_level(gr_pretok *p, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    if (gr_json_flag(json, "add_prefix_space", true)) GR_TRY(add(p, (stage){.kind = PREFIX_SPACE}, err));
    if (gr_json_flag(json, "use_regex", true)) {
        GR_TRY(add(p, (stage){.kind = SPLIT_REGEX, .behaviour = ISOLATED}, err));
        GR_TRY(gr_regex_new(p->a, gpt2, strlen(gpt2), GR_REGEX_ONIGURUMA, &p->stages[p->n - 1].regex, err));
    }
    return add(p, (stage){.kind = BYTE_MAP}, err);
}

static graft_status build_delimiter(gr_pretok *p, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    stage s = {.kind = SPLIT_CHARS, .behaviour = REMOVED};
    GR_TRY(read_char(json, "delimiter", &s.cp, err));
    return add(p, s, err);
}

static graft_status build_digits(gr_pretok *p, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    return add_chars(p, gr_cp_is_numeric, gr_json_flag(json, "individual_digits", false) ? ISOLATED : CONTIGUOUS, err);
}

static graft_status build_fixed_length(gr_pretok *p, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    int64_t length = 5;
    gr_json_integer(gr_json_get(json, "length"), &length);
    if (length < 1) return gr_fail(err, GRAFT_ERR_FORMAT, "pre_tokenizer FixedLength: 'length' is not positive");
    return add(p, (stage){.kind = SPLIT_LENGTH, .length = (size_t)length}, err);
}

static graft_status build_metaspace(gr_pretok *p, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    stage s = {.kind = METASPACE, .prepend = PREPEND_ALWAYS};
    GR_TRY(read_char(json, "replacement", &s.cp, err));
    const char *scheme = gr_json_string(gr_json_get(json, "prepend_scheme"), NULL);
    if (scheme) {
        if (!strcmp(scheme, "first")) s.prepend = PREPEND_FIRST;
        else if (!strcmp(scheme, "never")) s.prepend = PREPEND_NEVER;
        else if (strcmp(scheme, "always"))
            return gr_fail(err, GRAFT_ERR_FORMAT, "pre_tokenizer Metaspace: 'prepend_scheme' is '%.40s'", scheme);
    }
    if (!gr_json_flag(json, "add_prefix_space", true)) s.prepend = PREPEND_NEVER;
    GR_TRY(add(p, s, err));
    if (!gr_json_flag(json, "split", true)) return GRAFT_OK;
    return add(p, (stage){.kind = SPLIT_CHARS, .behaviour = MERGED_WITH_NEXT, .cp = s.cp}, err);
}

static graft_status build_punctuation(gr_pretok *p, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    behaviour b = ISOLATED;
    GR_TRY(read_behaviour(json, &b, err));
    return add_chars(p, gr_cp_is_punctuation, b, err);
}

static graft_status build_split(gr_pretok *p, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    stage s = {.kind = SPLIT_REGEX, .behaviour = ISOLATED, .invert = gr_json_flag(json, "invert", false)};
    GR_TRY(read_behaviour(json, &s.behaviour, err));
    GR_TRY(add(p, s, err));
    return gr_regex_from_json(p->a, gr_json_get(json, "pattern"), &p->stages[p->n - 1].regex, err);
}

static graft_status build_unicode_scripts(gr_pretok *p, const gr_json_value *json, int depth, graft_error *err) {
    (void)json, (void)depth;
    return add(p, (stage){.kind = SPLIT_SCRIPTS}, err);
}

/* \w+|[^\w\s]+ */
static graft_status build_whitespace(gr_pretok *p, const gr_json_value *json, int depth, graft_error *err) {
    (void)json, (void)depth;
    GR_TRY(add_chars(p, gr_cp_is_space, REMOVED, err));
    return add_chars(p, gr_cp_is_word, CONTIGUOUS, err);
}

static graft_status build_whitespace_split(gr_pretok *p, const gr_json_value *json, int depth, graft_error *err) {
    (void)json, (void)depth;
    return add_chars(p, gr_cp_is_space, REMOVED, err);
}

static graft_status build_sequence(gr_pretok *p, const gr_json_value *json, int depth, graft_error *err) {
    const gr_json_value *list = gr_json_get(json, "pretokenizers"), *item;
    if (!list || list->kind != GR_JSON_ARRAY)
        return gr_fail(err, GRAFT_ERR_FORMAT, "pre_tokenizer Sequence: 'pretokenizers' is not a list");
    for (item = list->child; item; item = item->next) GR_TRY(build(p, item, depth + 1, err));
    return GRAFT_OK;
}

static graft_status build(gr_pretok *p, const gr_json_value *json, int depth, graft_error *err) {
    static const struct {
        const char *name;
        graft_status (*build)(gr_pretok *p, const gr_json_value *json, int depth, graft_error *err);
    } known[] = {
#define X(name, fn) {name, build_##fn},
#include "text/pretok.def"
#undef X
    };
    const char *type = gr_json_string(gr_json_get(json, "type"), NULL);
    if (!type) return gr_fail(err, GRAFT_ERR_FORMAT, "pre_tokenizer: 'type' is missing");
    if (depth > MAX_DEPTH) return gr_fail(err, GRAFT_ERR_LIMIT, "pre_tokenizer: nested more than %d deep", MAX_DEPTH);
    for (size_t i = 0; i < GR_COUNT(known); i++)
        if (!strcmp(type, known[i].name)) return known[i].build(p, json, depth, err);
    return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "pre_tokenizer '%.60s' is not known", type);
}

graft_status gr_pretok_new(const graft_allocator *a, const gr_json_value *json, gr_pretok **out, graft_error *err) {
    if (!json || json->kind == GR_JSON_NULL) {
        *out = NULL;
        return GRAFT_OK;
    }
    gr_pretok *p = gr_calloc(a, 1, sizeof *p);
    if (!p) return gr_fail_memory(err);
    p->a = a;
    graft_status st = build(p, json, 0, err);
    if (st != GRAFT_OK) {
        gr_pretok_free(p);
        return st;
    }
    *out = p;
    return GRAFT_OK;
}

void gr_pretok_free(gr_pretok *p) {
    if (!p) return;
    for (size_t i = 0; i < p->n; i++) gr_regex_free(p->stages[i].regex);
    gr_free(p->a, p);
}

bool gr_pretok_ends_in_bytes(const gr_pretok *p) { return p && p->n > 0 && p->stages[p->n - 1].kind == BYTE_MAP; }

void gr_pretok_take_bytes(gr_pretok *p) {
    if (gr_pretok_ends_in_bytes(p)) p->n--;
}

bool gr_pretok_needs_origin(const gr_pretok *p) {
    for (size_t i = 0; p && i < p->n; i++)
        if (p->stages[i].kind == METASPACE && p->stages[i].prepend == PREPEND_FIRST) return true;
    return false;
}
