#include "data/labels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "data/scan.h"

enum { MOST_LABELS = 65536 };

graft_status gr_label_rule_init(gr_label_rule *r, const graft_allocator *a, graft_problem problem,
                                const char *const *names, size_t n, graft_error *err) {
    *r = (gr_label_rule){.problem = problem, .n = n, .names = names};
    gr_map_init(&r->index, a);
    for (size_t i = 0; names && i < n; i++)
        if (!gr_map_get_text(&r->index, names[i], NULL))
            GR_TRY(gr_map_set(&r->index, names[i], strlen(names[i]), (int64_t)i, err));
    return GRAFT_OK;
}

void gr_label_rule_free(gr_label_rule *r) {
    if (r->index.a) gr_map_free(&r->index);
}

/* --- One label ---------------------------------------------------------------------------------------------------- */

/* A value of the label: a name, or a number. */
typedef struct label_item {
    bool is_name;
    char *name; /* on the caller's stack or arena; NUL-terminated */
    size_t len;
    double number;
} label_item;

static graft_status read_item(gr_json_reader *r, char *name, size_t size, label_item *out, graft_error *err) {
    gr_json_kind kind = gr_json_peek(r);
    bool truth;
    gr_json_number number;
    *out = (label_item){.name = name};
    if (kind == GR_JSON_STRING) {
        gr_json_text text;
        GR_TRY(gr_json_read_text(r, &text, err));
        if (text.len >= size)
            return gr_fail(err, GRAFT_ERR_LIMIT, "a label of %zu bytes, expected at most %zu", text.len, size - 1);
        out->is_name = true;
        out->len = gr_json_unescape(&text, name);
        name[out->len] = '\0';
        return GRAFT_OK;
    }
    if (kind == GR_JSON_TRUE || kind == GR_JSON_FALSE) {
        GR_TRY(gr_json_read_bool(r, &truth, err));
        out->number = truth;
        return GRAFT_OK;
    }
    if (kind != GR_JSON_NUMBER)
        return gr_fail(err, GRAFT_ERR_FORMAT, "expected \"label\" to be names or numbers, found %s",
                       gr_json_kind_name(kind));
    GR_TRY(gr_json_read_number(r, &number, err));
    out->number = number.d;
    return GRAFT_OK;
}

enum { NAME_BYTES = 4096 };

/* Records that only a template can read have one too. */
static graft_status label_json(const gr_record *record, gr_slice *out, graft_error *err) {
    gr_json_kind kind;
    *out = record->label_json;
    return out->data || !record->json.data ? GRAFT_OK : gr_record_value(record->json, "label", &kind, out, err);
}

/* Calls `fn` for each value of a record's label. */
typedef graft_status (*item_fn)(void *user, const label_item *item, size_t i, bool list, graft_error *err);
static graft_status each_item(const gr_record *record, item_fn fn, void *user, graft_error *err) {
    gr_json_reader r;
    char name[NAME_BYTES];
    label_item item;
    bool more;
    gr_slice label;
    GR_TRY(label_json(record, &label, err));
    if (!label.data) return gr_fail(err, GRAFT_ERR_FORMAT, "expected the field \"label\" in the record");
    gr_json_init(&r, "label", label.data, label.len);
    if (gr_json_peek(&r) != GR_JSON_ARRAY) {
        GR_TRY(read_item(&r, name, sizeof name, &item, err));
        return fn(user, &item, 0, false, err);
    }
    GR_TRY(gr_json_open(&r, GR_JSON_ARRAY, err));
    for (size_t i = 0;; i++) {
        GR_TRY(gr_json_next(&r, &more, err));
        if (!more) return GRAFT_OK;
        GR_TRY(read_item(&r, name, sizeof name, &item, err));
        GR_TRY(fn(user, &item, i, true, err));
    }
}

graft_problem gr_label_problem(const gr_record *record, size_t n_labels) {
    gr_slice label;
    bool list = label_json(record, &label, NULL) == GRAFT_OK && label.len && label.data[0] == '[';
    return n_labels == 1 ? GRAFT_PROBLEM_REGRESSION : list ? GRAFT_PROBLEM_MULTI : GRAFT_PROBLEM_SINGLE;
}

static graft_status class_of(const gr_label_rule *r, const label_item *item, size_t *out, graft_error *err) {
    int64_t at;
    if (item->is_name && gr_map_get(&r->index, item->name, item->len, &at)) {
        *out = (size_t)at;
        return GRAFT_OK;
    }
    if (item->is_name)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "label \"%.60s\" is none of the %zu labels \"%.40s\"%s", item->name,
                       r->n, r->names ? r->names[0] : "", r->n > 1 ? ", ..." : "");
    if (!(item->number >= 0 && item->number < (double)r->n) || item->number != floor(item->number))
        return gr_fail(err, GRAFT_ERR_MISMATCH, "label %g, expected a class from 0 to %zu", item->number, r->n - 1);
    *out = (size_t)item->number;
    return GRAFT_OK;
}

typedef struct reading {
    const gr_label_rule *r;
    int32_t *class;
    float *values;
    size_t n, numbers;
} reading;

static graft_status take_item(void *user, const label_item *item, size_t i, bool list, graft_error *err) {
    reading *x = user;
    const gr_label_rule *r = x->r;
    size_t class;
    x->n = i + 1;
    if (r->problem == GRAFT_PROBLEM_SINGLE) {
        if (list) return gr_fail(err, GRAFT_ERR_MISMATCH, "a list of labels, expected one class of %zu", r->n);
        GR_TRY(class_of(r, item, &class, err));
        *x->class = (int32_t)class;
        return GRAFT_OK;
    }
    if (r->problem == GRAFT_PROBLEM_MULTI && item->is_name) {
        GR_TRY(class_of(r, item, &class, err));
        x->values[class] = 1;
        return GRAFT_OK;
    }
    if (item->is_name) return gr_fail(err, GRAFT_ERR_MISMATCH, "label \"%.60s\", expected a number", item->name);
    if (i >= r->n)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "more numbers in the label than the %zu labels of the model", r->n);
    if (!isfinite((float)item->number))
        return gr_fail(err, GRAFT_ERR_MISMATCH, "label %g is out of range", item->number);
    if (r->problem == GRAFT_PROBLEM_MULTI && !(item->number >= 0 && item->number <= 1))
        return gr_fail(err, GRAFT_ERR_MISMATCH, "label %g, expected 0 to 1 for each of %zu labels", item->number, r->n);
    x->values[i] = (float)item->number;
    x->numbers++;
    return GRAFT_OK;
}

graft_status gr_label_read(const gr_label_rule *r, const gr_record *record, int32_t *class, float *values,
                           graft_error *err) {
    reading x = {.r = r, .class = class, .values = values};
    *class = GRAFT_IGNORE_LABEL;
    for (size_t i = 0; r->problem != GRAFT_PROBLEM_SINGLE && i < r->n; i++) values[i] = 0;
    GR_TRY(each_item(record, take_item, &x, err));
    bool numbers = r->problem == GRAFT_PROBLEM_REGRESSION || x.numbers;
    if (r->problem != GRAFT_PROBLEM_SINGLE && numbers && x.numbers != r->n)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%zu numbers in the label, expected %zu", x.numbers, r->n);
    return GRAFT_OK;
}

/* --- Labels of a data set ----------------------------------------------------------------------------------------- */

typedef struct collecting {
    gr_map names;
    bool lists, singles, fractions;
    size_t numbers;  /* values that are numbers */
    double highest;
    size_t longest;  /* list of numbers */
} collecting;

static graft_status collect_item(void *user, const label_item *item, size_t i, bool list, graft_error *err) {
    collecting *c = user;
    c->lists |= list;
    c->singles |= !list;
    if (item->is_name) {
        if (c->names.n >= MOST_LABELS)
            return gr_fail(err, GRAFT_ERR_LIMIT, "more than %d different labels", MOST_LABELS);
        return gr_map_set(&c->names, item->name, item->len, 0, err);
    }
    c->numbers++;
    c->fractions |= item->number != floor(item->number) || item->number < 0;
    c->highest = GR_MAX(c->highest, item->number);
    c->longest = GR_MAX(c->longest, i + 1);
    return GRAFT_OK;
}

static graft_status collect_record(void *user, gr_arena *arena, const gr_scan_place *place, const gr_record *record,
                                   graft_error *err) {
    (void)arena, (void)place;
    return each_item(record, collect_item, user, err);
}

static int by_bytes(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static graft_status make_names(const graft_allocator *a, const collecting *c, size_t n, graft_label_set *out,
                               graft_error *err) {
    char text[32];
    if (!(out->names = gr_calloc(a, n, sizeof *out->names))) return gr_fail_memory(err);
    for (size_t i = 0; i < n; i++) {
        snprintf(text, sizeof text, "LABEL_%zu", i);
        out->names[i] = c->names.n ? gr_strdup(a, c->names.entries[i].key) : gr_strdup(a, text);
        if (!out->names[i]) return gr_fail_memory(err);
        out->n++;
    }
    if (c->names.n) qsort(out->names, n, sizeof *out->names, by_bytes);
    return GRAFT_OK;
}

/* What all labels together are: names or numbers, one or several a record. */
static graft_status conclude(const graft_allocator *a, const collecting *c, graft_problem asked, graft_label_set *out,
                             graft_error *err) {
    size_t n = c->names.n;
    out->problem = c->lists ? GRAFT_PROBLEM_MULTI : GRAFT_PROBLEM_SINGLE;
    if (n && c->numbers)
        return gr_fail(err, GRAFT_ERR_FORMAT, "labels: expected names only or numbers only, found both");
    if (c->lists && c->singles)
        return gr_fail(err, GRAFT_ERR_FORMAT, "labels: expected a list in every record or in none, found both");
    if (!n && c->numbers) {
        bool regression = asked == GRAFT_PROBLEM_REGRESSION || (!c->lists && c->fractions);
        if (regression) out->problem = GRAFT_PROBLEM_REGRESSION;
        if (!regression && !c->lists && c->highest >= MOST_LABELS)
            return gr_fail(err, GRAFT_ERR_LIMIT, "label %g, expected classes below %d", c->highest, MOST_LABELS);
        n = c->lists ? c->longest : regression ? 1 : GR_MAX((size_t)c->highest + 1, (size_t)2);
    }
    if (asked != GRAFT_PROBLEM_AUTO && asked != out->problem)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "problem_type: the labels are not what it says");
    return make_names(a, c, n, out, err);
}

graft_status graft_labels_collect(graft_context *ctx, const graft_data_options *options, graft_label_set *out,
                                  graft_error *err) {
    const graft_allocator *a = gr_allocator(ctx);
    collecting c = {0};
    graft_label_set made = {0};
    gr_scan scan;
    for (size_t i = 0; i < options->n_paths; i++)
        if (strcmp(options->paths[i], "-") == 0)
            return gr_fail(err, GRAFT_ERR_ARGUMENT,
                           "labels: standard input can be read once only, expected their names as an option");
    gr_map_init(&c.names, a);
    graft_status st = gr_scan_records(ctx, options, INT32_MAX, collect_record, &c, &scan, err);
    if (st == GRAFT_OK && !c.names.n && !c.numbers) st = gr_scan_fail_empty(&scan, options, "have no label", err);
    if (st == GRAFT_OK) st = conclude(a, &c, options->problem, &made, err);
    gr_scan_free(&scan);
    gr_map_free(&c.names);
    if (st == GRAFT_OK)
        *out = made;
    else
        graft_label_set_free(ctx, &made);
    return st;
}

void graft_label_set_free(graft_context *ctx, graft_label_set *s) {
    if (!s->names) return; /* never filled: there may be no context either */
    const graft_allocator *a = gr_allocator(ctx);
    for (size_t i = 0; i < s->n; i++) gr_free(a, s->names[i]);
    gr_free(a, s->names);
    *s = (graft_label_set){0};
}

/* --- Agreement ---------------------------------------------------------------------------------------------------- */

graft_status gr_class_tally_init(gr_class_tally *t, const graft_allocator *a, graft_problem problem, size_t n,
                                 graft_error *err) {
    *t = (gr_class_tally){.a = a, .problem = problem, .n = n};
    if (problem == GRAFT_PROBLEM_REGRESSION) return GRAFT_OK;
    size_t per_label = problem == GRAFT_PROBLEM_SINGLE ? n : 4;
    if (!(t->counts = gr_calloc(a, n * per_label, sizeof *t->counts))) return gr_fail_memory(err);
    return GRAFT_OK;
}

void gr_class_tally_free(gr_class_tally *t) {
    gr_free(t->a, t->counts);
    *t = (gr_class_tally){0};
}

void gr_class_tally_add(gr_class_tally *t, const float *logits, int32_t class, const float *values) {
    size_t best = 0, right = 0;
    if (t->problem == GRAFT_PROBLEM_SINGLE && class < 0) return;
    t->n_rows++;
    for (size_t i = 0; i < t->n; i++) {
        double x = logits[i];
        if (t->problem == GRAFT_PROBLEM_SINGLE) {
            if (logits[i] > logits[best]) best = i;
            continue;
        }
        double y = values[i];
        if (t->problem == GRAFT_PROBLEM_MULTI) {
            bool said = x > 0, truth = y > 0.5;
            t->counts[4 * i + 2 * truth + said]++;
            right += said == truth;
            continue;
        }
        const double terms[] = {x, y, x * x, y * y, x * y};
        for (int k = 0; k < 5; k++) t->sum[k] += terms[k];
        t->squares += (x - y) * (x - y);
        t->n_numbers++;
    }
    if (t->problem == GRAFT_PROBLEM_SINGLE) t->counts[(size_t)class * t->n + best]++;
    t->n_right += t->problem == GRAFT_PROBLEM_SINGLE ? best == (size_t) class
                                                     : t->problem == GRAFT_PROBLEM_MULTI && right == t->n;
}

double gr_class_accuracy(const gr_class_tally *t) {
    return t->problem == GRAFT_PROBLEM_REGRESSION || !t->n_rows ? NAN : (double)t->n_right / (double)t->n_rows;
}

/* A class that stands neither among the labels nor among the predictions is left out, as scikit-learn does;
 * of several labels all are there. */
double gr_class_f1(const gr_class_tally *t) {
    double sum = 0;
    size_t there = 0;
    if (t->problem == GRAFT_PROBLEM_REGRESSION || !t->n_rows) return NAN;
    for (size_t i = 0; i < t->n; i++) {
        int64_t hit = 0, truth = 0, said = 0;
        if (t->problem == GRAFT_PROBLEM_MULTI) {
            const int64_t *c = t->counts + 4 * i;
            hit = c[3];
            truth = c[2] + c[3];
            said = c[1] + c[3];
        } else
            for (size_t k = 0; k < t->n; k++) {
                truth += t->counts[i * t->n + k];
                said += t->counts[k * t->n + i];
                if (k == i) hit = t->counts[i * t->n + i];
            }
        if (t->problem == GRAFT_PROBLEM_SINGLE && !truth && !said) continue;
        there++;
        if (truth + said) sum += 2.0 * (double)hit / (double)(truth + said);
    }
    return there ? sum / (double)there : NAN;
}

double gr_class_mse(const gr_class_tally *t) { return t->n_numbers ? t->squares / (double)t->n_numbers : NAN; }

double gr_class_pearson(const gr_class_tally *t) {
    double n = (double)t->n_numbers, x = t->sum[0] / n, y = t->sum[1] / n;
    if (t->n_numbers < 2 || t->n != 1) return NAN;
    double xx = t->sum[2] / n - x * x, yy = t->sum[3] / n - y * y, xy = t->sum[4] / n - x * y;
    return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : NAN;
}
