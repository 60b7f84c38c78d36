/* What fewer bits cost, tensor by tensor (graft_quantize_report), and what merging into few bits does. */
#include <math.h>

#include "adapter/calibration.h"
#include "adapter/merged.h"
#include "adapter/method.h"
#include "graft/convert.h"
#include "model/public.h"
#include "quant/scaled.h"

void gr_cost_add(gr_cost *c, const float *wanted, const float *written, const float *base, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const double off = (double)written[i] - wanted[i], change = base ? (double)wanted[i] - base[i] : 0;
        c->error += off * off;
        c->values += (double)wanted[i] * wanted[i];
        c->change += change * change;
        if (base) c->kept += ((double)written[i] - base[i]) * change;
        c->most = GR_MAX(c->most, fabs(off));
    }
    c->n += n;
}

void gr_cost_join(gr_cost *c, const gr_cost *more) {
    c->error += more->error;
    c->values += more->values;
    c->change += more->change;
    c->kept += more->kept;
    c->most = GR_MAX(c->most, more->most);
    c->n += more->n;
}

void gr_cost_write(gr_buf *b, const gr_cost *c) {
    gr_buf_add_text(b, "\"rmse\": ");
    gr_json_add_double(b, sqrt(c->error / (double)GR_MAX(c->n, (int64_t)1)));
    gr_buf_add_text(b, ", \"max\": ");
    gr_json_add_double(b, c->most);
    gr_buf_add_text(b, ", \"relative\": ");
    gr_json_add_double(b, c->values > 0 ? sqrt(c->error / c->values) : 0);
    if (!(c->change > 0)) return;
    gr_buf_add_text(b, ", \"of_change\": ");
    gr_json_add_double(b, sqrt(c->error / c->change));
    gr_buf_add_text(b, ", \"change_kept\": ");
    gr_json_add_double(b, c->kept / c->change);
}

void gr_cost_list(gr_buf *b, const char *name, gr_dtype type, const gr_cost *c) {
    gr_buf_add_text(b, b->len && b->data[b->len - 1] != '[' ? ", {\"name\": " : "{\"name\": ");
    gr_json_add_text(b, name, strlen(name));
    gr_buf_add_format(b, ", \"type\": \"%s\", ", gr_dtype_name(type));
    gr_cost_write(b, c);
    gr_buf_add_char(b, '}');
}

void gr_merge_note(gr_merge_report *r, const char *name, gr_dtype type, const gr_cost *c) {
    if (type == GR_F32 || type == GR_F16 || type == GR_BF16) r->plain++;
    else r->encoded++;
    gr_cost_list(r->list, name, type, c);
    gr_cost_join(&r->all, c);
}

typedef struct reporter {
    gr_model *m;
    const graft_allocator *a;
    gr_device *dev;
    gr_dtype type; /* of a GGUF file */
    const graft_w8a8 *w8a8; /* of CHANNEL8 */
} reporter;

enum { ROWS = 64 }; /* at once: columns of a matrix that stands turned are decoded by blocks */

static graft_status read_rows(const reporter *s, const char *name, const gr_weight *w, bool stored, int64_t row, int64_t n,
                              float *x, graft_error *err) {
    const int64_t columns = gr_tensor_row_size(&w->view);
    if (gr_turned_site(s->m, name) && (!stored || !w->turned)) return gr_merged_outputs(s->m, NULL, name, row, n, x, err);
    if (!stored) return gr_weight_decode(w, row, n, x, err);
    return gr_view_decode(&w->view, row * columns, n * columns, x, err);
}

/* `there`: the tensor in its new form, NULL: encoded row by row, as a GGUF file has them, as `type`. */
static graft_status measure(const reporter *s, const char *name, const gr_weight *w, gr_dtype type,
                            const gr_tensor_view *there, gr_cost *out, graft_error *err) {
    const bool turned = !w->turned && gr_turned_site(s->m, name);
    const int64_t rows = w->view.shape.d[turned], columns = w->view.shape.d[!turned];
    float *x = gr_alloc(s->a, 2 * (size_t)(ROWS * columns) * sizeof *x), *y = x ? x + ROWS * columns : NULL;
    char *bytes = gr_alloc(s->a, (size_t)columns * sizeof *x + 512);
    graft_status st = x && bytes ? GRAFT_OK : gr_fail_memory(err);
    for (int64_t r = 0; r < rows && st == GRAFT_OK; r += ROWS) {
        const int64_t n = GR_MIN(ROWS, rows - r);
        st = gr_check_cancel(gr_model_context(s->m), err);
        if (st == GRAFT_OK) st = read_rows(s, name, w, !there, r, n, x, err);
        if (st == GRAFT_OK && there) st = gr_view_decode(there, r * columns, n * columns, y, err);
        for (int64_t i = 0; !there && i < n && st == GRAFT_OK; i++) {
            st = gr_quantize_row(type, x + i * columns, (size_t)columns, bytes, err);
            if (st == GRAFT_OK) st = gr_dequantize_row(type, bytes, (size_t)columns, y + i * columns, err);
        }
        if (st == GRAFT_OK) gr_cost_add(out, x, y, NULL, n * columns);
    }
    gr_free(s->a, x);
    gr_free(s->a, bytes);
    return st;
}

/* What the input of a module is like, in its place in the list. */
static void add_input(const reporter *s, const char *module, gr_buf *b) {
    const graft_calibration *c = s->w8a8 ? s->w8a8->calibration : NULL;
    const gr_input_range *r = c ? gr_calibration_find(c, module) : NULL;
    if (!r || !r->rows || !b->len) return;
    const double n = (double)r->rows * (double)r->columns, size = sqrt(r->squares / n);
    b->len--; /* the object is open again */
    gr_buf_add_text(b, ", \"input_max\": ");
    gr_json_add_double(b, (double)r->most);
    gr_buf_add_text(b, ", \"input_outlier_ratio\": ");
    gr_json_add_double(b, size > 0 ? (double)r->most / size : 0);
    if (r->measured) {
        gr_buf_add_text(b, ", \"input_error\": ");
        gr_json_add_double(b, r->squares > 0 ? sqrt(r->error / r->squares) : 0);
        gr_buf_add_text(b, ", \"input_error_dynamic\": ");
        gr_json_add_double(b, r->squares > 0 ? sqrt(r->error_dynamic / r->squares) : 0);
        gr_buf_add_text(b, ", \"input_clipped\": ");
        gr_json_add_double(b, (double)r->clipped / n);
    }
    gr_buf_add_char(b, '}');
}

/* CHANNEL8 as the model would be opened with it; `takes` false: this module stays as it is. */
static graft_status plan_one(const reporter *s, const gr_site *site, const gr_weight *w, gr_quantize_spec *spec,
                             bool *takes, graft_error *err) {
    const gr_channel8_plan plan = gr_w8a8_plan(s->w8a8);
    float most;
    spec->scale = gr_channel8_scale_type(w->view.dtype);
    return plan.choose(plan.self, site->name, site->in, takes, &most, err);
}

static graft_status report_one(const reporter *s, size_t i, const gr_quantize_spec *wanted, gr_buf *b,
                               graft_error *err) {
    const char *name = gr_model_tensor_name(s->m, i);
    const gr_weight *w;
    gr_cost c = {0};
    bool bias, takes = true;
    const gr_site *site = gr_model_site_of_tensor(s->m, name, &bias);
    gr_quantize_spec spec = *wanted;
    GR_TRY(gr_model_get_weight(s->m, name, &w, err));
    if (w->view.shape.n != 2) return GRAFT_OK;
    gr_dtype type = spec.dtype;
    if (type != GR_F32) {
        gr_tensor_view view;
        void *memory;
        size_t bytes;
        if (!site || !gr_model_linear(s->m, site) || site->role == GR_ROLE_EMBED || site->role == GR_ROLE_HEAD)
            return GRAFT_OK;
        if (s->w8a8) GR_TRY(plan_one(s, site, w, &spec, &takes, err));
        if (!takes) return GRAFT_OK;
        GR_TRY(gr_quantize_weight(s->dev, w, site->transposed, &spec, &view, &memory, &bytes, err));
        graft_status st = measure(s, name, w, type, &view, &c, err);
        gr_free_aligned(s->a, memory);
        GR_TRY(st);
    } else {
        bool output =
            site && (site->role == GR_ROLE_HEAD || (site->role == GR_ROLE_EMBED && gr_model_head_is_tied(s->m)));
        const bool table = site && site->role == GR_ROLE_TABLE; /* kept */
        const int64_t row = gr_turned_site(s->m, name) && !w->turned ? w->view.shape.d[0] : gr_tensor_row_size(&w->view);
        type = gr_gguf_matrix_type(table ? GR_DTYPE_COUNT : s->type, &w->view, row, output);
        GR_TRY(measure(s, name, w, type, NULL, &c, err));
    }
    gr_cost_list(b, name, type, &c);
    if (site) add_input(s, site->name, b);
    return gr_buf_status(b, err);
}

static graft_status report_all(const reporter *s, const gr_quantize_spec *spec, char **json, graft_error *err) {
    gr_buf b;
    gr_buf_init(&b, s->a);
    gr_buf_add_text(&b, "{\"tensors\": [");
    graft_status st = gr_buf_status(&b, err);
    for (size_t i = 0; i < gr_model_n_tensors(s->m) && st == GRAFT_OK; i++) st = report_one(s, i, spec, &b, err);
    gr_buf_add_text(&b, "]}");
    if (st == GRAFT_OK) st = gr_buf_take(&b, json, NULL, err);
    if (st != GRAFT_OK) gr_buf_free(&b);
    return st;
}

graft_status graft_w8a8_report(graft_model *m, const graft_w8a8 *how, char **json, graft_error *err) {
    const reporter s = {.m = m->model, .a = gr_allocator(m->ctx), .dev = gr_model_device(m->model), .w8a8 = how};
    const gr_quantize_spec spec = {.dtype = GR_CHANNEL8};
    GR_TRY(gr_w8a8_check(m->model, how, err));
    return report_all(&s, &spec, json, err);
}

graft_status graft_quantize_report(graft_model *m, const char *type, int double_quant, int blocksize, char **json,
                                   graft_error *err) {
    reporter s = {.m = m->model, .a = gr_allocator(m->ctx), .dev = gr_model_device(m->model)};
    gr_quantize_spec spec = {.dtype = GR_F32};
    bool four = type && (!strcmp(type, "nf4") || !strcmp(type, "fp4")), eight = type && !strcmp(type, "int8");
    if (!type) return gr_fail(err, GRAFT_ERR_ARGUMENT, "type: expected a format, found none");
    if (four || eight || double_quant || blocksize)
        GR_TRY(gr_quantize_options(four, eight, four ? type : NULL, double_quant, blocksize, &spec, err));
    if (!four && !eight) GR_TRY(gr_gguf_type_of(type, &s.type, err));
    return report_all(&s, &spec, json, err);
}
