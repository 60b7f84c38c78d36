#include <math.h>

#include "train/state.h"

void gr_state_init(gr_train_state *s, const graft_allocator *a) {
    *s = (gr_train_state){.best_metric = NAN, .last_eval_loss = NAN, .last_eval_accuracy = NAN};
    gr_buf_init(&s->history, a);
    gr_buf_init(&s->options, a);
}

void gr_state_free(gr_train_state *s) {
    gr_buf_free(&s->history);
    gr_buf_free(&s->options);
}

/* --- Fields: one list for writing and reading --- */

typedef enum field_kind { FIELD_INT, FIELD_NUMBER, FIELD_BOOL } field_kind; /* NUMBER: NaN is written as null */

typedef struct field {
    const char *name;
    field_kind kind;
    size_t offset;
} field;

#define AT(member) offsetof(gr_train_state, member)

/* Of graft's own part. */
static const field own_fields[] = {
    {"cursor_epoch", FIELD_INT, AT(cursor.epoch)},
    {"cursor_row", FIELD_INT, AT(cursor.row)},
    {"window_loss", FIELD_NUMBER, AT(window_loss)},
    {"window_steps", FIELD_INT, AT(window_steps)},
    {"window_labels", FIELD_INT, AT(window_labels)},
    {"window_correct", FIELD_INT, AT(window_correct)},
    {"total_loss", FIELD_NUMBER, AT(total_loss)},
    {"patience", FIELD_INT, AT(patience)},
    {"pending", FIELD_BOOL, AT(pending)},
    {"stopped", FIELD_BOOL, AT(stopped)},
    {"data_now", FIELD_INT, AT(data_now)},
    {"last_eval_loss", FIELD_NUMBER, AT(last_eval_loss)},
    {"last_eval_accuracy", FIELD_NUMBER, AT(last_eval_accuracy)},
};

/* Of transformers' part. */
static const field state_fields[] = {
    {"best_global_step", FIELD_INT, AT(best_step)},
    {"best_metric", FIELD_NUMBER, AT(best_metric)},
    {"epoch", FIELD_NUMBER, AT(epoch)},
    {"global_step", FIELD_INT, AT(global_step)},
    {"max_steps", FIELD_INT, AT(max_steps)},
    {"num_input_tokens_seen", FIELD_INT, AT(num_tokens)},
};

static void add_number(gr_buf *b, double value) {
    if (isfinite(value))
        gr_json_add_double(b, value);
    else
        gr_buf_add_text(b, "null");
}

static void add_field(gr_buf *b, const gr_train_state *s, const field *f, const char *indent) {
    const char *at = (const char *)s + f->offset;
    gr_buf_add_format(b, "%s\"%s\": ", indent, f->name);
    if (f->kind == FIELD_INT) {
        int64_t v;
        memcpy(&v, at, sizeof v);
        gr_buf_add_format(b, "%lld", (long long)v);
    } else if (f->kind == FIELD_NUMBER) {
        double v;
        memcpy(&v, at, sizeof v);
        add_number(b, v);
    } else
        gr_buf_add_text(b, *(const bool *)at ? "true" : "false");
    gr_buf_add_text(b, ",\n");
}

static void add_history(gr_buf *b, const gr_buf *lines) {
    gr_buf_add_text(b, "  \"log_history\": [");
    const char *text = gr_buf_text(lines);
    for (size_t at = 0; at < lines->len;) {
        size_t n = strcspn(text + at, "\n");
        gr_buf_add_text(b, at ? ",\n    " : "\n    ");
        gr_buf_add(b, text + at, n);
        at += n + 1;
    }
    gr_buf_add_text(b, lines->len ? "\n  ],\n" : "],\n");
}

static void add_callbacks(gr_buf *b, const gr_train_state *s, const gr_state_facts *f) {
    gr_buf_add_text(b, "  \"stateful_callbacks\": {\n");
    if (f->early_stopping_patience > 0) {
        gr_buf_add_format(b, "    \"EarlyStoppingCallback\": {\"args\": {\"early_stopping_patience\": %lld, "
                             "\"early_stopping_threshold\": ",
                          (long long)f->early_stopping_patience);
        gr_json_add_double(b, f->early_stopping_threshold);
        gr_buf_add_format(b, "}, \"attributes\": {\"early_stopping_patience_counter\": %lld}},\n", (long long)s->patience);
    }
    gr_buf_add_text(b, "    \"graft\": {\n      \"args\": ");
    gr_buf_add_text(b, s->options.len ? gr_buf_text(&s->options) : "{}");
    gr_buf_add_text(b, ",\n      \"attributes\": {\n");
    for (size_t i = 0; i < GR_COUNT(own_fields); i++) add_field(b, s, &own_fields[i], "        ");
    gr_buf_add_text(b, "        \"run_name\": ");
    gr_json_add_text(b, s->run_name, strlen(s->run_name));
    gr_buf_add_text(b, ",\n        \"version\": 1\n      }\n    }\n  },\n");
}

graft_status gr_state_write(const gr_train_state *s, const gr_state_facts *f, gr_buf *out, graft_error *err) {
    gr_buf_add_text(out, "{\n");
    for (size_t i = 0; i < GR_COUNT(state_fields); i++) add_field(out, s, &state_fields[i], "  ");
    gr_buf_add_text(out, "  \"best_model_checkpoint\": ");
    if (f->best_checkpoint)
        gr_json_add_text(out, f->best_checkpoint, strlen(f->best_checkpoint));
    else
        gr_buf_add_text(out, "null");
    gr_buf_add_text(out, ",\n  \"is_hyper_param_search\": false,\n  \"is_local_process_zero\": true,\n"
                         "  \"is_world_process_zero\": true,\n");
    add_history(out, &s->history);
    const struct {
        const char *name;
        double value;
    } facts[] = {{"logging_steps", f->logging_steps}, {"eval_steps", f->eval_steps},
                 {"save_steps", f->save_steps},       {"num_train_epochs", f->num_train_epochs}};
    for (size_t i = 0; i < GR_COUNT(facts); i++) {
        gr_buf_add_format(out, "  \"%s\": ", facts[i].name);
        if (facts[i].value == floor(facts[i].value) && fabs(facts[i].value) < 1e15)
            gr_buf_add_format(out, "%lld", (long long)facts[i].value);
        else
            add_number(out, facts[i].value);
        gr_buf_add_text(out, ",\n");
    }
    add_callbacks(out, s, f);
    gr_buf_add_format(out, "  \"total_flos\": 0,\n  \"train_batch_size\": %lld,\n  \"trial_name\": null,\n"
                           "  \"trial_params\": null\n}\n",
                      (long long)f->train_batch_size);
    return gr_buf_status(out, err);
}

/* --- Reading --- */

/* One value into the field; *found says whether `key` is one of the list. */
static graft_status read_field(gr_train_state *s, gr_json_reader *r, const gr_json_text *key, const field *fields,
                               size_t n, bool *found, graft_error *err) {
    *found = false;
    for (size_t i = 0; i < n && !*found; i++) {
        if (!gr_json_text_is(key, fields[i].name)) continue;
        char *at = (char *)s + fields[i].offset;
        *found = true;
        if (fields[i].kind == FIELD_BOOL) {
            GR_TRY(gr_json_read_bool(r, (bool *)at, err));
        } else if (gr_json_peek(r) == GR_JSON_NULL) {
            GR_TRY(gr_json_skip(r, err));
            int64_t zero = 0;
            double none = NAN;
            memcpy(at, fields[i].kind == FIELD_INT ? (void *)&zero : (void *)&none, 8);
        } else {
            gr_json_number v;
            GR_TRY(gr_json_read_number(r, &v, err));
            if (fields[i].kind == FIELD_INT && (!v.is_int || v.i < 0))
                return gr_fail(err, GRAFT_ERR_FORMAT, "%s: %s: expected a whole number >= 0, found %g", r->name,
                               fields[i].name, v.d);
            memcpy(at, fields[i].kind == FIELD_INT ? (void *)&v.i : (void *)&v.d, 8);
        }
    }
    return GRAFT_OK;
}

static graft_status next_key(gr_json_reader *r, bool *more, gr_json_text *key, graft_error *err) {
    GR_TRY(gr_json_next(r, more, err));
    return *more ? gr_json_read_key(r, key, err) : GRAFT_OK;
}

static graft_status read_slice(gr_json_reader *r, gr_json_kind kind, const char **text, size_t *len, graft_error *err) {
    gr_json_kind found = gr_json_peek(r);
    if (found != kind)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: byte %zu: expected %s, found %s", r->name, r->at,
                       gr_json_kind_name(kind), gr_json_kind_name(found));
    *text = r->text + r->at;
    GR_TRY(gr_json_skip(r, err));
    *len = (size_t)(r->text + r->at - *text);
    return GRAFT_OK;
}

/* The lines as they were written, so that the log of a resumed run has the same bytes. */
static graft_status read_history(gr_train_state *s, gr_json_reader *r, graft_error *err) {
    GR_TRY(gr_json_open(r, GR_JSON_ARRAY, err));
    for (bool more;;) {
        const char *text;
        size_t len;
        GR_TRY(gr_json_next(r, &more, err));
        if (!more) return gr_buf_status(&s->history, err);
        GR_TRY(read_slice(r, GR_JSON_OBJECT, &text, &len, err));
        size_t start = s->history.len;
        gr_buf_add(&s->history, text, len);
        /* A file that something else has written may break its lines elsewhere. */
        for (size_t i = start; i < s->history.len; i++)
            if (s->history.data[i] == '\n' || s->history.data[i] == '\r') s->history.data[i] = ' ';
        gr_buf_add_char(&s->history, '\n');
    }
}

static graft_status read_attributes(gr_train_state *s, gr_json_reader *r, unsigned *seen, graft_error *err) {
    GR_TRY(gr_json_open(r, GR_JSON_OBJECT, err));
    for (bool more;;) {
        gr_json_text key;
        bool found;
        GR_TRY(next_key(r, &more, &key, err));
        if (!more) return GRAFT_OK;
        GR_TRY(read_field(s, r, &key, own_fields, GR_COUNT(own_fields), &found, err));
        if (found)
            (*seen)++;
        else if (gr_json_text_is(&key, "run_name")) {
            gr_json_text name;
            GR_TRY(gr_json_read_text(r, &name, err));
            if (name.len >= sizeof s->run_name)
                return gr_fail(err, GRAFT_ERR_FORMAT, "%s: run_name: expected at most %zu bytes, found %zu", r->name,
                               sizeof s->run_name - 1, name.len);
            s->run_name[gr_json_unescape(&name, s->run_name)] = '\0';
        } else
            GR_TRY(gr_json_skip(r, err));
    }
}

static graft_status read_own(gr_train_state *s, gr_json_reader *r, unsigned *seen, graft_error *err) {
    GR_TRY(gr_json_open(r, GR_JSON_OBJECT, err));
    for (bool more;;) {
        gr_json_text key;
        GR_TRY(next_key(r, &more, &key, err));
        if (!more) return GRAFT_OK;
        if (gr_json_text_is(&key, "attributes"))
            GR_TRY(read_attributes(s, r, seen, err));
        else if (gr_json_text_is(&key, "args")) {
            const char *text;
            size_t len;
            GR_TRY(read_slice(r, GR_JSON_OBJECT, &text, &len, err));
            gr_buf_clear(&s->options);
            gr_buf_add(&s->options, text, len);
        } else
            GR_TRY(gr_json_skip(r, err));
    }
}

static graft_status read_callbacks(gr_train_state *s, gr_json_reader *r, unsigned *seen, graft_error *err) {
    GR_TRY(gr_json_open(r, GR_JSON_OBJECT, err));
    for (bool more;;) {
        gr_json_text key;
        GR_TRY(next_key(r, &more, &key, err));
        if (!more) return GRAFT_OK;
        GR_TRY(gr_json_text_is(&key, "graft") ? read_own(s, r, seen, err) : gr_json_skip(r, err));
    }
}

graft_status gr_state_read(gr_train_state *s, const char *name, const char *text, size_t len, graft_error *err) {
    gr_json_reader r;
    unsigned seen = 0, own = 0;
    gr_json_init(&r, name, text, len);
    GR_TRY(gr_json_open(&r, GR_JSON_OBJECT, err));
    for (bool more;;) {
        gr_json_text key;
        bool found;
        GR_TRY(next_key(&r, &more, &key, err));
        if (!more) break;
        GR_TRY(read_field(s, &r, &key, state_fields, GR_COUNT(state_fields), &found, err));
        if (found)
            seen++;
        else if (gr_json_text_is(&key, "log_history"))
            GR_TRY(read_history(s, &r, err));
        else if (gr_json_text_is(&key, "stateful_callbacks"))
            GR_TRY(read_callbacks(s, &r, &own, err));
        else
            GR_TRY(gr_json_skip(&r, err));
    }
    GR_TRY(gr_json_end(&r, err));
    if (own < GR_COUNT(own_fields))
        return gr_fail(err, GRAFT_ERR_FORMAT,
                       "%s: expected the state that graft writes under stateful_callbacks, found %u of its %zu values: "
                       "a checkpoint of another program cannot be resumed bit for bit (start from it with --adapter)",
                       name, own, GR_COUNT(own_fields));
    if (seen < GR_COUNT(state_fields))
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected %zu values of the trainer's state, found %u", name,
                       GR_COUNT(state_fields), seen);
    return gr_buf_status(&s->options, err);
}

/* Two objects of the same members in the same order, up to the first that differs, at any depth. */
static graft_status compare_options(gr_json_reader *a, gr_json_reader *b, const char *checkpoint, graft_error *err) {
    GR_TRY(gr_json_open(a, GR_JSON_OBJECT, err));
    GR_TRY(gr_json_open(b, GR_JSON_OBJECT, err));
    for (bool more_a, more_b;;) {
        gr_json_text ka, kb;
        GR_TRY(next_key(a, &more_a, &ka, err));
        GR_TRY(next_key(b, &more_b, &kb, err));
        if (!more_a && !more_b) return GRAFT_OK;
        if (!more_a || !more_b || ka.len != kb.len || memcmp(ka.raw, kb.raw, ka.len)) break;
        gr_json_kind kind_a = gr_json_peek(a), kind_b = gr_json_peek(b);
        gr_json_reader from_a = *a, from_b = *b;
        const char *va = a->text + a->at, *vb = b->text + b->at;
        GR_TRY(gr_json_skip(a, err));
        GR_TRY(gr_json_skip(b, err));
        size_t na = (size_t)(a->text + a->at - va), nb = (size_t)(b->text + b->at - vb);
        if (na == nb && !memcmp(va, vb, na)) continue;
        if (kind_a == GR_JSON_OBJECT && kind_b == GR_JSON_OBJECT && ka.len == 14 && !memcmp(ka.raw, "adapter_config", 14))
            return compare_options(&from_a, &from_b, checkpoint, err);
        return gr_fail(err, GRAFT_ERR_MISMATCH,
                       "%s: %.*s: the run was started with %.*s, found %.*s: a resumed run keeps its options; to go on "
                       "with others start a new run from this checkpoint's weights",
                       checkpoint, (int)ka.len, ka.raw, (int)GR_MIN(na, (size_t)200), va, (int)GR_MIN(nb, (size_t)200), vb);
    }
    return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: the checkpoint is of another version of graft, which kept other options",
                   checkpoint);
}

graft_status gr_state_check_options(const gr_train_state *saved, const gr_buf *now, const char *checkpoint,
                                    graft_error *err) {
    gr_json_reader a, b;
    if (saved->options.len == now->len && !memcmp(gr_buf_text(&saved->options), gr_buf_text(now), now->len))
        return GRAFT_OK;
    gr_json_init(&a, checkpoint, gr_buf_text(&saved->options), saved->options.len);
    gr_json_init(&b, "options", gr_buf_text(now), now->len);
    return compare_options(&a, &b, checkpoint, err);
}
