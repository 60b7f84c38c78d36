/* LoRA adapters as GGUF files and back (graft/convert.h), as llama.cpp's convert_lora_to_gguf.py writes them:
 * NAME.lora_a (r, in) and NAME.lora_b (out, r) under the GGUF name of the weight, rows of B in the order that the
 * weight has there; the delta is adapter.lora.alpha / r times B A. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "adapter/method.h"
#include "graft/convert.h"
#include "io/gguf_export.h"
#include "io/paths.h"
#include "model/public.h"

enum { CONFIG_LIMIT = 1 << 20, NAME_SIZE = 512 };

typedef struct lora {
    const gr_model *m;
    const graft_allocator *a;
    gr_arena arena;
    const char *from; /* for errors */
    double alpha;
    gr_named_tensor *out; /* what is to be written */
    size_t n, cap;
} lora;

static int heads_of(const gr_model_config *c, const char *module) {
    if (c->type != GR_MODEL_LLAMA && c->type != GR_MODEL_MISTRAL && c->type != GR_MODEL_SMOLLM3) return 0;
    if (gr_ends_with(module, ".q_proj")) return c->n_heads;
    return gr_ends_with(module, ".k_proj") ? c->n_kv_heads : 0;
}

/* Rows of B in llama.cpp's order, or back to transformers'. */
static graft_status permute(lora *l, const char *module, bool back, gr_tensor_view *v, graft_error *err) {
    const int heads = heads_of(gr_model_get_config(l->m), module);
    const int64_t rows = v->shape.d[0], dim = heads ? rows / heads : 0, half = dim / 2;
    if (!heads) return GRAFT_OK;
    const size_t row_bytes = v->bytes / (size_t)rows;
    char *to = gr_arena_alloc(&l->arena, v->bytes);
    if (!to) return gr_fail_memory(err);
    for (int64_t r = 0; r < rows; r++) {
        const int64_t in = r % dim, paired = r - in + (in < half ? 2 * in : 2 * (in - half) + 1);
        memcpy(to + (size_t)(back ? r : paired) * row_bytes,
               (const char *)v->data + (size_t)(back ? paired : r) * row_bytes, row_bytes);
    }
    v->data = to;
    return GRAFT_OK;
}

static graft_status add(lora *l, const char *name, const gr_tensor_view *v, graft_error *err) {
    char *copy = gr_arena_strndup(&l->arena, name, strlen(name));
    if (!copy) return gr_fail_memory(err);
    GR_TRY(gr_grow(l->a, (void **)&l->out, &l->cap, l->n + 1, sizeof *l->out, err));
    l->out[l->n++] = (gr_named_tensor){.name = copy, .file = l->from, .view = *v};
    return GRAFT_OK;
}

/* Checks a factor against the module of the base that it belongs to. */
static graft_status check(const lora *l, const char *name, const char *module, bool b, const gr_tensor_view *v,
                          graft_error *err) {
    const gr_site *s = gr_model_find_site(l->m, module);
    char shape[GR_SHAPE_TEXT];
    if (!s || s->role == GR_ROLE_NORM || s->role == GR_ROLE_EMBED || s->role == GR_ROLE_TABLE)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: tensor %s: the base has no product '%s'", l->from, name,
                       module);
    if (v->dtype != GR_F32 && v->dtype != GR_F16 && v->dtype != GR_BF16)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: tensor %s: expected F32, F16 or BF16, found %s", l->from, name,
                       gr_dtype_name(v->dtype));
    if (v->shape.n != 2 || v->shape.d[b ? 1 : 0] < 1 || v->shape.d[b ? 0 : 1] != (b ? s->out : s->in))
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: tensor %s: expected %s of %lld, found shape %s", l->from, name,
                       b ? "rows" : "columns", (long long)(b ? s->out : s->in),
                       gr_shape_format(&v->shape, shape, sizeof shape));
    return GRAFT_OK;
}

/* NaN and infinity are numbers to JSON as Python writes it, and to GGUF. An alpha of 0 is no update in peft and a scale of 1 in
 * llama.cpp. */
static graft_status check_alpha(const lora *l, const char *where, graft_error *err) {
    if (fabs(l->alpha) <= 1e9 && l->alpha != 0) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_FORMAT,
                   "%s: lora_alpha (with use_rslora times the root of r): expected -1e9 to 1e9 and not 0, found %g",
                   where, l->alpha);
}

/* --- To GGUF ------------------------------------------------------------------------------------------------------ */

/* llama.cpp divides one alpha by the rank of each tensor. */
static graft_status read_config(lora *l, const char *dir, graft_error *err) {
    char *path = gr_path_join(l->a, dir, "adapter_config.json"), *text = NULL;
    size_t len;
    const gr_json_value *root;
    graft_status st = path ? gr_read_file(l->a, path, CONFIG_LIMIT, &text, &len, err) : gr_fail_memory(err);
    if (st == GRAFT_OK) st = gr_json_parse(&l->arena, "adapter_config.json", text, len, &root, err);
    if (st == GRAFT_OK) {
        const gr_json_value *type = gr_json_get(root, "peft_type"), *alpha = gr_json_get(root, "lora_alpha");
        const gr_json_value *r = gr_json_get(root, "r"), *pattern = gr_json_get(root, "alpha_pattern");
        const gr_json_value *ranks = gr_json_get(root, "rank_pattern"), *rs = gr_json_get(root, "use_rslora");
        const gr_json_value *dora = gr_json_get(root, "use_dora");
        const bool rslora = rs && rs->kind == GR_JSON_TRUE;
        const char *not = !type || type->kind != GR_JSON_STRING || strcmp(type->text, "LORA")
                            ? "another method than LORA"
                        : dora && dora->kind == GR_JSON_TRUE ? "use_dora"
                        : pattern && pattern->len            ? "alpha_pattern"
                        : rslora && ranks && ranks->len      ? "use_rslora with rank_pattern"
                                                             : NULL;
        l->alpha = alpha && alpha->kind == GR_JSON_NUMBER ? alpha->number.d : 8;
        if (rslora) l->alpha *= sqrt(r && r->kind == GR_JSON_NUMBER ? r->number.d : 8);
        st = not ? gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: GGUF files have no place for %s", path, not )
                 : check_alpha(l, path, err);
    }
    gr_free(l->a, text);
    gr_free(l->a, path);
    return st;
}

static graft_status list_factors(lora *l, const gr_tensor_list *list, graft_error *err) {
    static const char prefix[] = "base_model.model.";
    for (size_t i = 0; i < list->n; i++) {
        const char *name = list->items[i].name;
        char module[NAME_SIZE], weight[NAME_SIZE + 8], gguf[NAME_SIZE + 16];
        gr_tensor_view v = list->items[i].view;
        const bool b = gr_ends_with(name, ".lora_B.weight");
        const size_t n = strlen(name), tail = strlen(".lora_A.weight"), head = strlen(prefix);
        if ((!b && !gr_ends_with(name, ".lora_A.weight")) || n <= head + tail || strncmp(name, prefix, head) ||
            n - head - tail >= NAME_SIZE)
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: GGUF files have no place for tensor %s of an adapter",
                           l->from, name);
        snprintf(module, sizeof module, "%.*s", (int)(n - head - tail), name + head);
        GR_TRY(check(l, name, module, b, &v, err));
        snprintf(weight, sizeof weight, "%s.weight", module);
        if (!gr_name_to_gguf(weight, gguf, NAME_SIZE))
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: %s has no name in GGUF files", l->from, weight);
        strcat(gguf, b ? ".lora_b" : ".lora_a");
        if (b) GR_TRY(permute(l, module, false, &v, err));
        GR_TRY(add(l, gguf, &v, err));
    }
    return GRAFT_OK;
}

static graft_status write_gguf(lora *l, const char *path, graft_error *err) {
    gr_gguf_writer *w;
    const char *arch = gr_gguf_arch(gr_model_get_config(l->m));
    graft_status st;
    if (!arch)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: adapters of a %s model are not written as GGUF", l->from,
                       gr_model_type_name(gr_model_get_config(l->m)->type));
    GR_TRY(gr_gguf_writer_new(l->a, path, &w, err));
    GR_GO(fail, gr_gguf_add_text(w, "general.architecture", arch, strlen(arch), err));
    GR_GO(fail, gr_gguf_add_text(w, "general.type", "adapter", 7, err));
    GR_GO(fail, gr_gguf_add_text(w, "adapter.type", "lora", 4, err));
    GR_GO(fail, gr_gguf_add_f32(w, "adapter.lora.alpha", (float)l->alpha, err));
    for (size_t i = 0; i < l->n; i++)
        GR_GO(fail, gr_gguf_declare(w, l->out[i].name, l->out[i].view.dtype, &l->out[i].view.shape, err));
    GR_GO(fail, gr_gguf_writer_begin(w, err));
    for (size_t i = 0; i < l->n; i++) GR_GO(fail, gr_gguf_write(w, l->out[i].view.data, l->out[i].view.bytes, err));
    return gr_gguf_writer_commit(w, err);
fail:
    gr_gguf_writer_abort(w);
    return st;
}

graft_status graft_adapter_to_gguf(graft_model *m, const char *dir, const char *path, graft_error *err) {
    lora l = {.m = m->model, .a = gr_allocator(m->ctx), .from = dir};
    gr_safetensors *f = NULL;
    gr_arena_init(&l.arena, l.a, 0);
    graft_status st = read_config(&l, dir, err);
    if (st == GRAFT_OK) st = gr_safetensors_open(l.a, dir, &f, err);
    if (st == GRAFT_OK) st = list_factors(&l, gr_safetensors_tensors(f), err);
    if (st == GRAFT_OK) st = write_gguf(&l, path, err);
    gr_safetensors_close(f);
    gr_free(l.a, l.out);
    gr_arena_free(&l.arena);
    return st;
}

/* --- From GGUF ---------------------------------------------------------------------------------------------------- */

static graft_status check_kind(lora *l, const gr_gguf *g, graft_error *err) {
    static const struct { const char *key, *value; } wanted[] = {{"general.type", "adapter"}, {"adapter.type", "lora"}};
    for (size_t i = 0; i < GR_COUNT(wanted); i++) {
        gr_text t;
        GR_TRY(gr_gguf_get_text(g, wanted[i].key, &t, err));
        if (t.len != strlen(wanted[i].value) || memcmp(t.text, wanted[i].value, t.len))
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: key %s: expected %s, found %.*s", l->from, wanted[i].key,
                           wanted[i].value, (int)GR_MIN(t.len, (size_t)60), t.text);
    }
    GR_TRY(gr_gguf_get_float(g, "adapter.lora.alpha", &l->alpha, err));
    return check_alpha(l, l->from, err);
}

/* The factor of a GGUF tensor under peft's name. */
static graft_status add_factor(lora *l, const char *arch, const gr_named_tensor *t, graft_error *err) {
    const bool b = gr_ends_with(t->name, ".lora_b");
    const size_t n = strlen(t->name), tail = strlen(".lora_a");
    char gguf[NAME_SIZE], hf[NAME_SIZE], name[NAME_SIZE + 64];
    gr_tensor_view v = t->view;
    if ((!b && !gr_ends_with(t->name, ".lora_a")) || n - tail >= sizeof gguf)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: tensor %s: expected NAME.lora_a or NAME.lora_b", l->from,
                       t->name);
    snprintf(gguf, sizeof gguf, "%.*s", (int)(n - tail), t->name);
    if (!gr_name_from_gguf(arch, gguf, hf, sizeof hf) || !gr_ends_with(hf, ".weight"))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: tensor %s: %s is not known", l->from, t->name, gguf);
    hf[strlen(hf) - strlen(".weight")] = '\0';
    GR_TRY(check(l, t->name, hf, b, &v, err));
    if (b) GR_TRY(permute(l, hf, true, &v, err));
    snprintf(name, sizeof name, "base_model.model.%s.lora_%c.weight", hf, b ? 'B' : 'A');
    return add(l, name, &v, err);
}

/* Pairs of one rank; the configuration names them all. */
static graft_status describe(lora *l, gr_buf *b, graft_error *err) {
    const size_t head = strlen("base_model.model."), tail = strlen(".lora_A.weight");
    gr_buf ranks;
    int64_t r = 0;
    gr_buf_init(&ranks, l->a);
    gr_buf_add_format(b, "{\n  \"base_model_name_or_path\": ");
    gr_json_add_text(b, gr_model_path(l->m), strlen(gr_model_path(l->m)));
    gr_buf_add_text(b, ",\n  \"bias\": \"none\",\n  \"peft_type\": \"LORA\",\n  \"task_type\": \"CAUSAL_LM\",\n  "
                       "\"target_modules\": [");
    for (size_t i = 0; i < l->n; i += 2) { /* by name: A before B */
        const char *name = l->out[i].name;
        const int64_t rank = l->out[i].view.shape.d[0];
        const size_t n = strlen(name);
        bool pair = i + 1 < l->n && strncmp(name, l->out[i + 1].name, n - strlen("A.weight")) == 0 &&
                    gr_ends_with(name, ".lora_A.weight") && gr_ends_with(l->out[i + 1].name, ".lora_B.weight") &&
                    l->out[i + 1].view.shape.d[1] == rank;
        if (!pair) {
            gr_buf_free(&ranks);
            return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: tensor %s: expected a factor of the same rank beside it",
                           l->from, name);
        }
        if (!r) r = rank;
        gr_buf_add_text(b, i ? ", " : "");
        gr_json_add_text(b, name + head, n - head - tail);
        if (rank == r) continue;
        gr_buf_add_text(&ranks, ranks.len ? ", " : "");
        gr_json_add_text(&ranks, name + head, n - head - tail);
        gr_buf_add_format(&ranks, ": %lld", (long long)rank);
    }
    gr_buf_add_format(b, "],\n  \"r\": %lld,\n  \"lora_alpha\": ", (long long)r);
    if (l->alpha == floor(l->alpha) && fabs(l->alpha) < 1e15)
        gr_buf_add_format(b, "%lld", (long long)l->alpha);
    else
        gr_json_add_double(b, l->alpha);
    gr_buf_add_format(b, ",\n  \"lora_dropout\": 0.0,\n  \"rank_pattern\": {%s}\n}\n",
                      ranks.len ? gr_buf_text(&ranks) : "");
    graft_status st = gr_buf_status(&ranks, err);
    gr_buf_free(&ranks);
    return st == GRAFT_OK ? gr_buf_status(b, err) : st;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const gr_named_tensor *)a)->name, ((const gr_named_tensor *)b)->name);
}

static graft_status write_dir(lora *l, const char *dir, graft_error *err) {
    gr_buf config;
    gr_buf_init(&config, l->a);
    char *to = gr_path_join(l->a, dir, "adapter_config.json"),
         *weights = gr_path_join(l->a, dir, "adapter_model.safetensors");
    graft_status st = to && weights ? describe(l, &config, err) : gr_fail_memory(err);
    if (st == GRAFT_OK) st = gr_make_dirs(dir, err);
    if (st == GRAFT_OK) st = gr_write_file(l->a, to, config.data, config.len, err);
    if (st == GRAFT_OK) st = gr_safetensors_save(l->a, weights, l->out, l->n, NULL, err);
    gr_free(l->a, to);
    gr_free(l->a, weights);
    gr_buf_free(&config);
    return st;
}

graft_status graft_adapter_from_gguf(graft_model *m, const char *path, const char *dir, graft_error *err) {
    lora l = {.m = m->model, .a = gr_allocator(m->ctx), .from = path};
    const char *arch = gr_gguf_arch(gr_model_get_config(m->model));
    gr_gguf *g;
    GR_TRY(gr_gguf_open(l.a, path, &g, err));
    gr_arena_init(&l.arena, l.a, 0);
    graft_status st = check_kind(&l, g, err);
    const gr_tensor_list *list = gr_gguf_tensors(g);
    for (size_t i = 0; i < list->n && st == GRAFT_OK; i++) st = add_factor(&l, arch ? arch : "", &list->items[i], err);
    if (st == GRAFT_OK && !l.n)
        st = gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected factors of a LoRA, found no tensor", path);
    if (l.n) qsort(l.out, l.n, sizeof *l.out, by_name);
    if (st == GRAFT_OK) st = write_dir(&l, dir, err);
    gr_gguf_close(g);
    gr_free(l.a, l.out);
    gr_arena_free(&l.arena);
    return st;
}
