/* JSON in and out. Out is Python's json.dumps: ", " and ": " between items, "," before a line break when indented,
 * keys that are numbers, true, false or null as strings, NaN and Infinity as such. */
#include <math.h>

#include "base/json.h"
#include "text/jinja_run.h"

static graft_status read_value(gr_jrun *run, gr_json_reader *r, gr_jv *out);

/* A string without escapes shares the bytes of the JSON text. */
static graft_status text_value(gr_jrun *run, const gr_json_text *text, gr_jv *out) {
    if (!text->escaped) return gr_j_str_view(run, text->raw, text->len, out);
    char *bytes = gr_j_new(run, text->len);
    if (!bytes) return gr_j_no_memory(run);
    return gr_j_str_view(run, bytes, gr_json_unescape(text, bytes), out);
}

static graft_status read_number(gr_jrun *run, gr_json_reader *r, gr_jv *out) {
    gr_json_number number;
    size_t from = r->at;
    GR_TRY(gr_json_read_number(r, &number, run->err));
    if (number.is_int) {
        *out = gr_j_int(number.i);
        return GRAFT_OK;
    }
    bool whole = true; /* digits only, but too many */
    for (size_t i = from; i < r->at; i++) whole &= strchr("-0123456789", r->text[i]) != NULL;
    if (whole)
        return gr_j_fail(run, GRAFT_ERR_LIMIT, "variables: integer %.*s outside 64 bits", (int)GR_MIN(r->at - from, 60),
                         r->text + from);
    *out = gr_j_float(number.d);
    return GRAFT_OK;
}

static graft_status read_container(gr_jrun *run, gr_json_reader *r, gr_json_kind kind, gr_jv *out) {
    gr_jv v, value, name;
    gr_json_text key;
    bool object = kind == GR_JSON_OBJECT, more;
    GR_TRY(gr_json_open(r, kind, run->err));
    GR_TRY(object ? gr_j_dict(run, &v) : gr_j_seq(run, GR_JLIST, 0, &v));
    for (;;) {
        GR_TRY(gr_json_next(r, &more, run->err));
        if (!more) break;
        if (object) {
            GR_TRY(gr_json_read_key(r, &key, run->err));
            GR_TRY(text_value(run, &key, &name));
        }
        GR_TRY(read_value(run, r, &value));
        GR_TRY(object ? gr_j_dict_set(run, v.dict, name, value) : gr_j_push(run, v.seq, value));
    }
    *out = v;
    return GRAFT_OK;
}

/* The reader bounds the depth. */
static graft_status read_value(gr_jrun *run, gr_json_reader *r, gr_jv *out) {
    gr_json_text text;
    bool truth;
    gr_json_kind kind = gr_json_peek(r);
    switch (kind) {
    case GR_JSON_TRUE:
    case GR_JSON_FALSE:
        GR_TRY(gr_json_read_bool(r, &truth, run->err));
        *out = gr_j_bool(truth);
        return GRAFT_OK;
    case GR_JSON_NUMBER: return read_number(run, r, out);
    case GR_JSON_STRING:
        GR_TRY(gr_json_read_text(r, &text, run->err));
        return text_value(run, &text, out);
    case GR_JSON_ARRAY:
    case GR_JSON_OBJECT: return read_container(run, r, kind, out);
    default:
        *out = gr_j_none();
        return gr_json_skip(r, run->err);
    }
}

/* A message's reasoning under whichever name it came is there under the other names too: `thinking` comes first unless
 * the message has one, `reasoning_content` is overwritten or comes last. */
static graft_status alias_reasoning(gr_jrun *run, gr_jv *message) {
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    gr_jv reasoning = gr_j_none(), copy, name;
    if (message->kind != GR_JDICT) return GRAFT_OK;
    for (size_t i = 0; i < GR_COUNT(names) && reasoning.kind == GR_JNONE; i++)
        gr_j_dict_get_text(message->dict, names[i], strlen(names[i]), &reasoning);
    if (reasoning.kind == GR_JNONE) return GRAFT_OK;
    GR_TRY(gr_j_dict(run, &copy));
    GR_TRY(gr_j_str_text(run, "thinking", &name));
    GR_TRY(gr_j_dict_set(run, copy.dict, name, reasoning));
    GR_TRY(gr_j_dict_merge(run, copy.dict, *message));
    GR_TRY(gr_j_str_text(run, "reasoning_content", &name));
    GR_TRY(gr_j_dict_set(run, copy.dict, name, reasoning));
    *message = copy;
    return GRAFT_OK;
}

graft_status gr_j_read_vars(gr_jrun *run, const char *json, size_t len) {
    static const struct {
        const char *name;
        gr_jv value;
    } defaults[] = {{"tools", {.kind = GR_JNONE}},
                    {"documents", {.kind = GR_JNONE}},
                    {"add_generation_prompt", {.kind = GR_JBOOL, .b = false}}};
    gr_jv vars, messages, name;
    gr_json_reader r;
    gr_buf what;
    gr_buf_init(&what, run->scratch.a);
    gr_buf_add_format(&what, "%s: variables", run->t->name);
    gr_json_init(&r, gr_buf_text(&what), json, len);
    graft_status st = gr_buf_status(&what, run->err);
    if (st == GRAFT_OK) st = read_container(run, &r, GR_JSON_OBJECT, &vars);
    if (st == GRAFT_OK) st = gr_json_end(&r, run->err);
    gr_buf_free(&what);
    GR_TRY(st);
    run->vars = vars.dict;
    for (size_t i = 0; i < GR_COUNT(defaults); i++) {
        if (gr_j_dict_get_text(vars.dict, defaults[i].name, strlen(defaults[i].name), NULL)) continue;
        GR_TRY(gr_j_str_text(run, defaults[i].name, &name));
        GR_TRY(gr_j_dict_set(run, vars.dict, name, defaults[i].value));
    }
    if (gr_j_dict_get_text(vars.dict, "messages", 8, &messages) && messages.kind == GR_JLIST)
        for (size_t i = 0; i < messages.seq->n; i++) GR_TRY(alias_reasoning(run, &messages.seq->items[i]));
    return GRAFT_OK;
}

typedef struct writer {
    gr_jrun *run;
    gr_buf *to;
    bool ascii, sort_keys, pretty;
    const gr_jstr *item_separator, *key_separator;
    const gr_jstr *indent; /* of one level */
} writer;

static void add_json_string(const writer *w, const gr_jstr *s) {
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    gr_buf_add_char(w->to, '"');
    for (size_t i = 0; i < s->len;) {
        int32_t cp;
        size_t k = gr_utf8_decode(s->p + i, s->len - i, &cp);
        const char *known = cp > 0 && cp < 0x80 ? strchr(from, cp) : NULL;
        if (known) {
            gr_buf_add_char(w->to, '\\');
            gr_buf_add_char(w->to, to[known - from]);
        } else if (cp < ' ' || (w->ascii && cp >= 0x7F && cp < 0x10000 && cp != 0x7F)) {
            gr_buf_add_format(w->to, "\\u%04x", (unsigned)cp);
        } else if (w->ascii && cp >= 0x10000) {
            uint32_t v = (uint32_t)cp - 0x10000;
            gr_buf_add_format(w->to, "\\u%04x\\u%04x", 0xD800 + (v >> 10), 0xDC00 + (v & 0x3FF));
        } else {
            gr_buf_add(w->to, s->p + i, k);
        }
        i += k;
    }
    gr_buf_add_char(w->to, '"');
}

static void add_json_float(const writer *w, double f) {
    if (isnan(f))
        gr_buf_add_text(w->to, "NaN");
    else if (isinf(f))
        gr_buf_add_text(w->to, f > 0 ? "Infinity" : "-Infinity");
    else
        gr_j_add_float(w->to, f);
}

static graft_status add_json(const writer *w, gr_jv v, size_t level);

static void new_line(const writer *w, size_t level) {
    if (!w->pretty) return;
    gr_buf_add_char(w->to, '\n');
    for (size_t i = 0; i < level; i++) gr_buf_add(w->to, w->indent->p, w->indent->len);
}

static graft_status add_key(const writer *w, gr_jv key) {
    if (key.kind == GR_JSTR) {
        add_json_string(w, key.str);
        return GRAFT_OK;
    }
    if (key.kind != GR_JNONE && !gr_j_is_number(key))
        return gr_j_raise(w->run, "keys must be str, int, float, bool or None, not %s", gr_j_type(key));
    gr_buf_add_char(w->to, '"');
    GR_TRY(add_json(w, key, 0));
    gr_buf_add_char(w->to, '"');
    return GRAFT_OK;
}

static graft_status add_json_dict(const writer *w, const gr_jdict *d, size_t level) {
    gr_jv keys, values;
    GR_TRY(gr_j_seq(w->run, GR_JLIST, d->n, &keys));
    GR_TRY(gr_j_seq(w->run, GR_JLIST, d->n, &values));
    for (size_t i = 0; i < d->n; i++) {
        keys.seq->items[i] = d->entries[i].key;
        values.seq->items[i] = d->entries[i].value;
    }
    if (w->sort_keys) GR_TRY(gr_j_sort(w->run, values.seq->items, keys.seq->items, d->n, false));
    gr_buf_add_char(w->to, '{');
    for (size_t i = 0; i < d->n; i++) {
        if (i) gr_buf_add(w->to, w->item_separator->p, w->item_separator->len);
        new_line(w, level + 1);
        GR_TRY(add_key(w, keys.seq->items[i]));
        gr_buf_add(w->to, w->key_separator->p, w->key_separator->len);
        GR_TRY(add_json(w, values.seq->items[i], level + 1));
    }
    if (d->n) new_line(w, level);
    gr_buf_add_char(w->to, '}');
    return GRAFT_OK;
}

static graft_status add_json_list(const writer *w, const gr_jseq *seq, size_t level) {
    gr_buf_add_char(w->to, '[');
    for (size_t i = 0; i < seq->n; i++) {
        if (i) gr_buf_add(w->to, w->item_separator->p, w->item_separator->len);
        new_line(w, level + 1);
        GR_TRY(add_json(w, seq->items[i], level + 1));
    }
    if (seq->n) new_line(w, level);
    gr_buf_add_char(w->to, ']');
    return GRAFT_OK;
}

static graft_status add_json(const writer *w, gr_jv v, size_t level) {
    GR_TRY(gr_j_enter_value(w->run));
    switch (v.kind) {
    case GR_JNONE: gr_buf_add_text(w->to, "null"); break;
    case GR_JBOOL: gr_buf_add_text(w->to, v.b ? "true" : "false"); break;
    case GR_JINT: gr_buf_add_format(w->to, "%lld", (long long)v.i); break;
    case GR_JFLOAT: add_json_float(w, v.f); break;
    case GR_JSTR:
        add_json_string(w, v.str);
        GR_TRY(gr_j_char_work(w->run, v.str->len));
        break;
    case GR_JLIST:
    case GR_JTUPLE: GR_TRY(add_json_list(w, v.seq, level)); break;
    case GR_JDICT: GR_TRY(add_json_dict(w, v.dict, level)); break;
    default: return gr_j_raise(w->run, "Object of type %s is not JSON serializable", gr_j_type(v));
    }
    w->run->value_depth--;
    return w->to->failed == GRAFT_ERR_MEMORY ? gr_fail_memory(w->run->err) : GRAFT_OK;
}

static graft_status read_separators(gr_jrun *run, gr_jv v, gr_jv value, writer *w) {
    gr_jv pair;
    if (gr_j_is_missing(v) || v.kind == GR_JNONE) return GRAFT_OK;
    GR_TRY(gr_j_to_list(run, v, &pair));
    if (pair.seq->n != 2) return gr_j_raise(run, "tojson: separators must be two strings");
    if (value.kind == GR_JSTR) return GRAFT_OK; /* a lone string is written without looking at them */
    if (pair.seq->items[0].kind != GR_JSTR || pair.seq->items[1].kind != GR_JSTR)
        return gr_j_raise(run, "tojson: separators must be two strings");
    w->item_separator = pair.seq->items[0].str;
    w->key_separator = pair.seq->items[1].str;
    return GRAFT_OK;
}

graft_status gr_j_filter_tojson(gr_jrun *run, gr_jv *args, const gr_jargs *raw, gr_jv *out) {
    (void)raw;
    static const gr_jstr comma_space = {.p = ", ", .len = 2}, comma = {.p = ",", .len = 1},
                         colon_space = {.p = ": ", .len = 2};
    writer w = {.run = run, .to = &run->scratch, .key_separator = &colon_space, .item_separator = &comma_space};
    GR_TRY(gr_j_arg_truth(run, args[1], &w.ascii));
    GR_TRY(gr_j_arg_truth(run, args[4], &w.sort_keys));
    gr_jv indent = args[2];
    gr_jstr space = {.p = " ", .len = 1, .chars = 1};
    w.pretty = !gr_j_is_missing(indent) && indent.kind != GR_JNONE;
    if (w.pretty && args[0].kind != GR_JSTR) {
        int64_t n = 0;
        w.item_separator = &comma;
        if (indent.kind != GR_JSTR) {
            GR_TRY(gr_j_arg_int(run, "tojson", indent, &n));
            GR_TRY(gr_j_repeat(run, &space, n, &indent));
        }
        w.indent = indent.str;
    }
    GR_TRY(read_separators(run, args[3], args[0], &w));
    size_t mark = gr_j_mark(run);
    GR_TRY(add_json(&w, args[0], 0));
    return gr_j_take(run, mark, out);
}
