/* The chain of normalisers. Each step writes the text anew through a gr_edit, by the transformations of the reference
 * library, so that spans come out as its offsets do. */
#include "text/normalizer.h"
#include "text/json_field.h"
#include "text/bytelevel.h"
#include "text/unicode.h"

enum { MAX_STEPS = 64, MAX_DEPTH = 16 };

typedef struct step step;
typedef graft_status (*step_fn)(const step *s, gr_normalizer_state *state, gr_edit *e, graft_error *err);

struct step {
    step_fn run;
    bool (*keeps)(const step *s, const gr_piece *p); /* a quick "nothing to do"; may be NULL */
    bool left, right;                                /* Strip; NFx: composes, compatibility */
    gr_regex *regex;
    gr_charsmap *charsmap;
    char *text; /* what Prepend puts in front, what Replace puts in place */
    size_t len;
};

struct gr_normalizer {
    const graft_allocator *a;
    step steps[MAX_STEPS];
    size_t n;
};

static bool next_char(const gr_edit *e, size_t *at, int32_t *cp) {
    if (*at >= e->in.len) return false;
    *at += gr_utf8_decode(e->in.text + *at, e->in.len - *at, cp);
    return true;
}

/* --- filters and maps, character by character --- */

/* NormalizedString::filter: a character that stays takes the dropped ones behind it along. */
static graft_status filter(gr_edit *e, bool (*keep)(int32_t cp), graft_error *err) {
    size_t at = 0;
    long dropped = 0;
    int32_t cp, last = -1;
    while (next_char(e, &at, &cp)) {
        if (!keep(cp)) {
            dropped++;
            continue;
        }
        if (last >= 0) gr_edit_push(e, last, -dropped);
        else gr_edit_skip(e, (size_t)dropped);
        last = cp;
        dropped = 0;
    }
    if (last >= 0) gr_edit_push(e, last, -dropped);
    return gr_edit_end(e, err);
}

static graft_status map_chars(gr_edit *e, int32_t (*map)(int32_t cp), graft_error *err) {
    size_t at = 0;
    int32_t cp;
    while (next_char(e, &at, &cp)) gr_edit_push(e, map(cp), 0);
    return gr_edit_end(e, err);
}

static bool not_mark(int32_t cp) { return !gr_cp_is_mark(cp); }
static bool not_nonspacing(int32_t cp) { return !gr_cp_is_nonspacing(cp); }

static bool is_bert_control(int32_t cp) { return cp != '\t' && cp != '\n' && cp != '\r' && gr_cp_is_other(cp); }
static bool bert_keeps(int32_t cp) { return cp != 0 && cp != 0xFFFD && !is_bert_control(cp); }
static int32_t bert_space(int32_t cp) { return gr_cp_is_space(cp) ? ' ' : cp; }

static bool nmt_keeps(int32_t cp) {
    return !((cp >= 1 && cp <= 8) || cp == 0xB || (cp >= 0xE && cp <= 0x1F) || cp == 0x7F || cp == 0x8F || cp == 0x9F);
}

static int32_t nmt_space(int32_t cp) {
    switch (cp) {
    case 9: case 0xA: case 0xC: case 0xD: case 0x1680: case 0x200B: case 0x200C: case 0x200D: case 0x200E: case 0x200F:
    case 0x2028: case 0x2029: case 0x2581: case 0xFEFF: case 0xFFFD: return ' ';
    default: return cp;
    }
}

/* --- steps --- */

static graft_status run_strip_accents(const step *s, gr_normalizer_state *state, gr_edit *e, graft_error *err) {
    (void)s, (void)state;
    return filter(e, not_mark, err);
}
static graft_status run_strip_nonspacing(const step *s, gr_normalizer_state *state, gr_edit *e, graft_error *err) {
    (void)s, (void)state;
    return filter(e, not_nonspacing, err);
}
static graft_status run_bert_filter(const step *s, gr_normalizer_state *state, gr_edit *e, graft_error *err) {
    (void)s, (void)state;
    return filter(e, bert_keeps, err);
}
static graft_status run_bert_space(const step *s, gr_normalizer_state *state, gr_edit *e, graft_error *err) {
    (void)s, (void)state;
    return map_chars(e, bert_space, err);
}
static graft_status run_nmt_filter(const step *s, gr_normalizer_state *state, gr_edit *e, graft_error *err) {
    (void)s, (void)state;
    return filter(e, nmt_keeps, err);
}
static graft_status run_nmt_space(const step *s, gr_normalizer_state *state, gr_edit *e, graft_error *err) {
    (void)s, (void)state;
    return map_chars(e, nmt_space, err);
}

static graft_status run_bert_cjk(const step *s, gr_normalizer_state *state, gr_edit *e, graft_error *err) {
    (void)s, (void)state;
    size_t at = 0;
    int32_t cp;
    while (next_char(e, &at, &cp)) {
        if (gr_cp_is_cjk(cp)) {
            gr_edit_push(e, ' ', 0);
            gr_edit_push(e, cp, 1);
            gr_edit_push(e, ' ', 1);
        } else {
            gr_edit_push(e, cp, 0);
        }
    }
    return gr_edit_end(e, err);
}

static graft_status run_lowercase(const step *s, gr_normalizer_state *state, gr_edit *e, graft_error *err) {
    (void)s, (void)state;
    size_t at = 0;
    int32_t cp, lower[2];
    while (next_char(e, &at, &cp)) {
        size_t n = gr_cp_lower(cp, lower);
        for (size_t i = 0; i < n; i++) gr_edit_push(e, lower[i], i > 0);
    }
    return gr_edit_end(e, err);
}

static graft_status run_byte_level(const step *s, gr_normalizer_state *state, gr_edit *e, graft_error *err) {
    (void)s, (void)state;
    while (e->offset < e->in.len) {
        int32_t cp;
        const char *text = e->in.text + e->offset;
        size_t n = gr_utf8_decode(text, e->in.len - e->offset, &cp);
        for (size_t i = 0; i < n; i++) gr_edit_push(e, gr_byte_to_char((unsigned char)text[i]), i > 0);
    }
    return gr_edit_end(e, err);
}

static graft_status run_form(const step *s, gr_normalizer_state *state, gr_edit *e, graft_error *err) {
    GR_TRY(gr_normalize_form(state->regex.a, e, s->left, s->right, err));
    return gr_edit_end(e, err);
}

static bool form_keeps(const step *s, const gr_piece *p) {
    return gr_normalize_form_is_identity(p->text, p->len, s->left, s->right);
}

static graft_status run_strip(const step *s, gr_normalizer_state *state, gr_edit *e, graft_error *err) {
    (void)state;
    size_t at = 0, first = e->in.len, last_end = 0, leading = 0;
    int32_t cp;
    while (at < e->in.len) {
        size_t start = at;
        next_char(e, &at, &cp);
        if (gr_cp_is_space(cp)) continue;
        if (first == e->in.len) first = start;
        last_end = at;
    }
    if (first == e->in.len && e->in.len > 0 && (s->left || s->right)) return gr_edit_end(e, err); /* only spaces */
    if (!s->left) first = 0;
    if (!s->right) last_end = e->in.len;
    for (at = 0; at < first; leading++) next_char(e, &at, &cp);
    gr_edit_skip(e, leading);
    gr_edit_copy(e, last_end - first);
    return gr_edit_end(e, err);
}

static bool strip_keeps(const step *s, const gr_piece *p) {
    if (p->len == 0) return true;
    int32_t cp;
    gr_utf8_decode(p->text, p->len, &cp);
    if (s->left && gr_cp_is_space(cp)) return false;
    size_t at = p->len - 1;
    while (at > 0 && ((unsigned char)p->text[at] & 0xC0) == 0x80) at--;
    gr_utf8_decode(p->text + at, p->len - at, &cp);
    return !(s->right && gr_cp_is_space(cp));
}

static graft_status run_prepend(const step *s, gr_normalizer_state *state, gr_edit *e, graft_error *err) {
    (void)state;
    const gr_piece in = e->in;
    return gr_nstr_prepend(e->out, &in, s->text, s->len, e->out->aligned, err);
}

static graft_status run_replace(const step *s, gr_normalizer_state *state, gr_edit *e, graft_error *err) {
    gr_regex_iter it = gr_regex_matches(s->regex, &state->regex, e->in.text, e->in.len);
    for (;;) {
        bool found;
        size_t start, end;
        GR_TRY(gr_regex_next(&it, &found, &start, &end, err));
        if (!found) break;
        gr_edit_copy(e, start - e->offset);
        e->offset = end;
        gr_edit_insert(e, s->text, s->len);
    }
    gr_edit_copy(e, e->in.len - e->offset);
    return gr_edit_end(e, err);
}

static graft_status run_charsmap(const step *s, gr_normalizer_state *state, gr_edit *e, graft_error *err) {
    (void)state;
    GR_TRY(gr_charsmap_apply(s->charsmap, e, err));
    return gr_edit_end(e, err);
}

/* --- building --- */

static graft_status add(gr_normalizer *n, step s, graft_error *err) {
    if (n->n == MAX_STEPS) return gr_fail(err, GRAFT_ERR_LIMIT, "normalizer: more than %d steps", MAX_STEPS);
    n->steps[n->n++] = s;
    return GRAFT_OK;
}

static graft_status build(gr_normalizer *n, const gr_json_value *json, int depth, graft_error *err);

static graft_status build_bert(gr_normalizer *n, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    const bool lower = gr_json_flag(json, "lowercase", true);
    if (gr_json_flag(json, "clean_text", true)) {
        GR_TRY(add(n, (step){.run = run_bert_filter}, err));
        GR_TRY(add(n, (step){.run = run_bert_space}, err));
    }
    if (gr_json_flag(json, "handle_chinese_chars", true)) GR_TRY(add(n, (step){.run = run_bert_cjk}, err));
    if (gr_json_flag(json, "strip_accents", lower)) {
        GR_TRY(add(n, (step){.run = run_form, .keeps = form_keeps}, err));
        GR_TRY(add(n, (step){.run = run_strip_nonspacing}, err));
    }
    return lower ? add(n, (step){.run = run_lowercase}, err) : GRAFT_OK;
}

static graft_status build_byte_level(gr_normalizer *n, const gr_json_value *json, int depth, graft_error *err) {
    (void)json, (void)depth;
    return add(n, (step){.run = run_byte_level}, err);
}

static graft_status build_lowercase(gr_normalizer *n, const gr_json_value *json, int depth, graft_error *err) {
    (void)json, (void)depth;
    return add(n, (step){.run = run_lowercase}, err);
}

#define FORM(name, composes, compat)                                                                                   \
    static graft_status build_##name(gr_normalizer *n, const gr_json_value *json, int depth, graft_error *err) {              \
        (void)json, (void)depth;                                                                                       \
        return add(n, (step){.run = run_form, .keeps = form_keeps, .left = composes, .right = compat}, err);           \
    }
FORM(nfc, true, false)
FORM(nfd, false, false)
FORM(nfkc, true, true)
FORM(nfkd, false, true)

static graft_status build_nmt(gr_normalizer *n, const gr_json_value *json, int depth, graft_error *err) {
    (void)json, (void)depth;
    GR_TRY(add(n, (step){.run = run_nmt_filter}, err));
    return add(n, (step){.run = run_nmt_space}, err);
}

static graft_status build_strip(gr_normalizer *n, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    step s = {.run = run_strip, .keeps = strip_keeps};
    s.left = gr_json_flag(json, "strip_left", false);
    s.right = gr_json_flag(json, "strip_right", false);
    return add(n, s, err);
}

static graft_status build_strip_accents(gr_normalizer *n, const gr_json_value *json, int depth, graft_error *err) {
    (void)json, (void)depth;
    return add(n, (step){.run = run_strip_accents}, err);
}

static graft_status build_precompiled(gr_normalizer *n, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    const gr_json_value *map = gr_json_get(json, "precompiled_charsmap");
    size_t len = 0;
    const char *text = gr_json_string(map, &len);
    if (gr_json_is_none(map) || (text && len == 0)) return GRAFT_OK;
    if (!text)
        return gr_fail(err, GRAFT_ERR_FORMAT, "normalizer Precompiled: 'precompiled_charsmap' is not a string");
    GR_TRY(add(n, (step){.run = run_charsmap}, err));
    const bool longest = gr_json_flag(json, "longest_match", false);
    gr_charsmap **to = &n->steps[n->n - 1].charsmap;
    GR_TRY(gr_charsmap_new(n->a, text, len, longest, to, err));
    const gr_json_value *keep = gr_json_get(json, "keep");
    for (const gr_json_value *v = keep && keep->kind == GR_JSON_ARRAY ? keep->child : NULL; v; v = v->next)
        if (v->kind == GR_JSON_STRING) GR_TRY(gr_charsmap_keep(*to, v->text, v->len, err));
    return GRAFT_OK;
}

static graft_status set_text(gr_normalizer *n, const gr_json_value *text, const char *where, graft_error *err) {
    step *s = &n->steps[n->n - 1];
    const char *from = gr_json_string(text, &s->len);
    if (!from) return gr_fail(err, GRAFT_ERR_FORMAT, "normalizer %s: its text is missing", where);
    s->text = gr_strndup(n->a, from, s->len);
    return s->text ? GRAFT_OK : gr_fail_memory(err);
}

static graft_status build_prepend(gr_normalizer *n, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    GR_TRY(add(n, (step){.run = run_prepend}, err));
    return set_text(n, gr_json_get(json, "prepend"), "Prepend", err);
}

static graft_status build_replace(gr_normalizer *n, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    GR_TRY(add(n, (step){.run = run_replace}, err));
    GR_TRY(set_text(n, gr_json_get(json, "content"), "Replace", err));
    return gr_regex_from_json(n->a, gr_json_get(json, "pattern"), &n->steps[n->n - 1].regex, err);
}

static graft_status build_sequence(gr_normalizer *n, const gr_json_value *json, int depth, graft_error *err) {
    const gr_json_value *list = gr_json_get(json, "normalizers"), *item;
    if (!list || list->kind != GR_JSON_ARRAY) return gr_fail(err, GRAFT_ERR_FORMAT, "normalizer Sequence: 'normalizers' is not a list");
    for (item = list->child; item; item = item->next) GR_TRY(build(n, item, depth + 1, err));
    return GRAFT_OK;
}

static graft_status build(gr_normalizer *n, const gr_json_value *json, int depth, graft_error *err) {
    static const struct {
        const char *name;
        graft_status (*build)(gr_normalizer *n, const gr_json_value *json, int depth, graft_error *err);
    } known[] = {
#define X(name, fn) {name, build_##fn},
#include "text/normalizer.def"
#undef X
    };
    const char *type = gr_json_string(gr_json_get(json, "type"), NULL);
    if (!type) return gr_fail(err, GRAFT_ERR_FORMAT, "normalizer: 'type' is missing");
    if (depth > MAX_DEPTH) return gr_fail(err, GRAFT_ERR_LIMIT, "normalizer: nested more than %d deep", MAX_DEPTH);
    for (size_t i = 0; i < GR_COUNT(known); i++)
        if (!strcmp(type, known[i].name)) return known[i].build(n, json, depth, err);
    return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "normalizer '%.60s' is not known", type);
}

graft_status gr_normalizer_new(const graft_allocator *a, const gr_json_value *json, gr_normalizer **out, graft_error *err) {
    if (!json || json->kind == GR_JSON_NULL) {
        *out = NULL;
        return GRAFT_OK;
    }
    gr_normalizer *n = gr_calloc(a, 1, sizeof *n);
    if (!n) return gr_fail_memory(err);
    n->a = a;
    graft_status st = build(n, json, 0, err);
    if (st != GRAFT_OK) {
        gr_normalizer_free(n);
        return st;
    }
    *out = n;
    return GRAFT_OK;
}

void gr_normalizer_free(gr_normalizer *n) {
    if (!n) return;
    for (size_t i = 0; i < n->n; i++) {
        gr_regex_free(n->steps[i].regex);
        gr_charsmap_free(n->steps[i].charsmap);
        gr_free(n->a, n->steps[i].text);
    }
    gr_free(n->a, n);
}

void gr_normalizer_state_init(gr_normalizer_state *s, const graft_allocator *a) {
    gr_nstr_init(&s->text[0], a);
    gr_nstr_init(&s->text[1], a);
    s->regex = (gr_regex_state){.a = a};
}

void gr_normalizer_state_free(gr_normalizer_state *s) {
    gr_nstr_free(&s->text[0]);
    gr_nstr_free(&s->text[1]);
    gr_regex_state_free(&s->regex);
}

graft_status gr_normalize(const gr_normalizer *n, gr_normalizer_state *s, const gr_piece *in, bool track,
                          gr_piece *out, graft_error *err) {
    gr_piece now = *in;
    int to = 0;
    for (size_t i = 0; n && i < n->n; i++) {
        const step *st = &n->steps[i];
        if (st->keeps && st->keeps(st, &now)) continue;
        gr_edit e;
        gr_edit_begin(&e, &now, &s->text[to], track);
        GR_TRY(st->run(st, s, &e, err));
        now = gr_nstr_piece(&s->text[to]);
        to = 1 - to;
    }
    *out = now;
    return GRAFT_OK;
}
