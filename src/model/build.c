/* Building the module tables of a model: finds the tensors that a family declares, checks their shapes, fuses the parts
 * of a product into one matrix. Norms and biases are small and read at every step, so they are decoded here; matrices stay
 * mapped in their stored format. */
#include <float.h>
#include <stdio.h>

#include "io/paths.h"
#include "model/family.h"
#include "quant/scaled.h"

/* Rows of Hugging Face's matrix that are columns of the view: what is stored is decoded row by row, blocks and all. */
static graft_status decode_columns(const gr_tensor_view *v, int64_t column, int64_t n, float *out, graft_error *err) {
    enum { PIECE = 256 };
    float piece[PIECE];
    int64_t rows = v->shape.d[0], block = (int64_t)gr_dtype_get(v->dtype)->block_elements;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = column - column % block, end; c < column + n; c = end) {
            end = GR_MIN(c + PIECE, v->shape.d[1]);
            GR_TRY(gr_view_decode(v, r * v->shape.d[1] + c, end - c, piece, err));
            for (int64_t i = GR_MAX(c, column); i < GR_MIN(end, column + n); i++) out[(i - column) * rows + r] = piece[i - c];
        }
    return GRAFT_OK;
}

graft_status gr_weight_decode(const gr_weight *w, int64_t row, int64_t n, float *out, graft_error *err) {
    const gr_tensor_view *v = &w->view;
    if (w->turned && v->shape.n == 2) return decode_columns(v, row, n, out, err);
    if (v->shape.n == 1) { /* one row for gr_tensor_row; its elements may be permuted */
        if (!w->permuted_heads && row == 0 && n == v->shape.d[0])
            return gr_dequantize_row(v->dtype, v->data, (size_t)n, out, err);
        size_t size = gr_dtype_bytes(v->dtype, 1);
        for (int64_t i = 0; i < n; i++)
            GR_TRY(gr_dequantize_row(v->dtype, (const char *)v->data + (size_t)gr_weight_row(w, row + i) * size, 1,
                                     out + i, err));
        return GRAFT_OK;
    }
    int64_t columns = gr_tensor_row_size(v);
    for (int64_t i = 0; i < n; i++)
        GR_TRY(gr_view_decode(v, gr_weight_row(w, row + i) * columns, columns, out + i * columns, err));
    return GRAFT_OK;
}

graft_status gr_weight_decode_outputs(const gr_weight *w, bool transposed, int64_t row, int64_t n, float *out,
                                      graft_error *err) {
    if (transposed && !w->turned) return decode_columns(&w->view, row, n, out, err);
    gr_weight plain = *w;
    plain.turned = false;
    return gr_weight_decode(&plain, row, n, out, err);
}

graft_status gr_weight_decode_all(const graft_allocator *a, const gr_weight *w, gr_dtype dt, void *out, graft_error *err) {
    gr_shape shape = gr_weight_shape(w);
    int64_t rows = shape.n ? shape.d[0] : 1, columns = shape.n > 1 ? shape.d[1] : 1;
    if (dt == GR_F32) return gr_weight_decode(w, 0, rows, out, err);
    float *row = gr_alloc(a, (size_t)columns * sizeof *row);
    if (!row) return gr_fail_memory(err);
    graft_status st = GRAFT_OK;
    for (int64_t r = 0; r < rows && st == GRAFT_OK; r++) {
        st = gr_weight_decode(w, r, 1, row, err);
        for (int64_t c = 0; c < columns && st == GRAFT_OK; c++) ((double *)out)[r * columns + c] = row[c];
    }
    gr_free(a, row);
    return st;
}

/* The name of a norm's tensor in files of the first transformers; false: it is none. */
static bool old_name(const char *name, char *out, size_t size) {
    static const char *const pairs[][2] = {{"LayerNorm.weight", "LayerNorm.gamma"}, {"LayerNorm.bias", "LayerNorm.beta"}};
    for (size_t i = 0; i < GR_COUNT(pairs); i++) {
        if (!gr_ends_with(name, pairs[i][0])) continue;
        int n = snprintf(out, size, "%.*s%s", (int)(strlen(name) - strlen(pairs[i][0])), name, pairs[i][1]);
        return n > 0 && (size_t)n < size;
    }
    return false;
}

/* A weight by the model's name for it. Files of the bare base model leave the family's prefix out, and a bare base model may
 * be read from files that have it. */
static const gr_weight *weight_in_file(const gr_model *m, const char *name) {
    const char *prefix = m->family->prefix;
    size_t n = prefix ? strlen(prefix) : 0;
    char longer[512], old[512];
    const char *names[3] = {name, n && strncmp(name, prefix, n) == 0 ? name + n : NULL, NULL};
    if (n && !names[1] && snprintf(longer, sizeof longer, "%s%s", prefix, name) < (int)sizeof longer) names[2] = longer;
    const gr_weight *w = NULL;
    for (int i = 0; i < 3 && !w; i++) {
        if (!names[i]) continue;
        w = gr_weights_find(m->weights, names[i]);
        if (!w && old_name(names[i], old, sizeof old)) w = gr_weights_find(m->weights, old);
    }
    return w;
}

graft_status gr_model_file_weight(const gr_model *m, const char *name, const gr_shape *shape, const gr_weight **out,
                                  graft_error *err) {
    const gr_weight *w = weight_in_file(m, name);
    for (size_t i = 0; !w && i < m->n_fresh; i++)
        if (strcmp(m->fresh[i].name, name) == 0) w = &m->fresh[i];
    return gr_weights_check(m->weights, name, w, shape, out, err);
}

bool gr_model_has_weight(const gr_model *m, const char *name) { return weight_in_file(m, name) != NULL; }

static graft_status find_weight(gr_model *m, const char *name, const gr_shape *shape, const gr_weight **out,
                                graft_error *err) {
    const gr_weight *w;
    if (m->is_shape) GR_TRY(gr_shape_weight(m, name, shape, err));
    else if (m->may_make && !weight_in_file(m, name)) GR_TRY(gr_model_make_weight(m, name, shape, err));
    GR_TRY(gr_model_file_weight(m, name, shape, &w, err));
    if (!gr_can_decode(w->view.dtype))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: tensor '%s' has type %s, expected numbers that are weights",
                       w->file, w->stored_name, gr_dtype_name(w->view.dtype));
    *out = w;
    return GRAFT_OK;
}

/* Memory for a vector of n parameters, zeroed, owned by the model. */
static graft_status new_vector(gr_model *m, int64_t n, void **out, graft_error *err) {
    size_t bytes = gr_dtype_bytes(m->param_dtype, (size_t)n);
    GR_TRY(gr_grow(m->a, (void **)&m->vectors, &m->cap_vectors, m->n_vectors + 1, sizeof *m->vectors, err));
    void *p = gr_alloc_aligned(m->a, bytes);
    if (!p) return gr_fail_memory(err);
    memset(p, 0, bytes);
    m->vectors[m->n_vectors++] = p;
    m->vector_bytes += bytes;
    *out = p;
    return GRAFT_OK;
}

/* Of compressed-tensors' weights; the others are asked for together. */
static bool is_integer(const gr_model *m, const gr_matrix_part *p) {
    const bool says = m->config.compressed == GR_COMPRESSED_STATIC || m->config.compressed == GR_COMPRESSED_DYNAMIC;
    return p->view.dtype == GR_CHANNEL8 && m->dtype != GR_F64 &&
           (m->activations.integer || (says && !m->activations.decoded));
}

static graft_status new_matrix(gr_model *m, const gr_matrix_spec *spec, gr_matrix **out, graft_error *err) {
    gr_matrix_spec made = *spec;
    made.integer = m->activations.integer;
    made.outliers = m->activations.threshold > 0 ? (float)GR_MIN(m->activations.threshold, (double)FLT_MAX) : 0;
    for (int i = 0; i < spec->n_parts; i++) {
        made.integer = made.integer && gr_can_multiply_integers(spec->part[i].view.dtype) && !spec->part[i].transposed;
        made.part[i].integer = is_integer(m, &spec->part[i]);
    }
    GR_TRY(gr_grow(m->a, (void **)&m->matrices, &m->cap_matrices, m->n_matrices + 1, sizeof *m->matrices, err));
    GR_TRY(gr_matrix_new(m->dev, &made, &m->matrices[m->n_matrices], err));
    *out = m->matrices[m->n_matrices++];
    return GRAFT_OK;
}

static graft_status enter_tensor(gr_model *m, const gr_site *site, const char *name, graft_error *err) {
    GR_TRY(gr_grow(m->a, (void **)&m->tensors, &m->cap_tensors, m->n_tensors + 1, sizeof *m->tensors, err));
    GR_TRY(gr_map_set(&m->site_of_tensor, name, strlen(name), site->index, err));
    m->tensors[m->n_tensors++] = name;
    return GRAFT_OK;
}

static graft_status add_tensor(gr_model *m, const gr_site *site, const char *kind, const char **out, graft_error *err) {
    *out = strcmp(kind, ".bias") == 0 ? site->bias_tensor : site->weight_tensor;
    return enter_tensor(m, site, *out, err);
}

static const char *tensor_name(gr_model *m, const char *site, const char *kind) {
    size_t n = strlen(site);
    char *name = gr_arena_alloc(&m->names, n + strlen(kind) + 1);
    if (!name) return NULL;
    memcpy(name, site, n);
    memcpy(name + n, kind, strlen(kind) + 1);
    return name;
}

static graft_status add_site(gr_model *m, gr_role role, int layer, const char *name, int64_t in, int64_t out,
                             bool bias, gr_site **site, graft_error *err) {
    char full[256];
    int first = m->config.n_encoder_layers;
    const char *prefix = m->family->prefix;
    size_t skip = prefix && strncmp(name, prefix, strlen(prefix)) == 0 ? strlen(prefix) : 0;
    bool encoder = layer >= 0 ? layer < first : first && strncmp(name + skip, "encoder.", 8) == 0;
    int n = layer < 0 ? snprintf(full, sizeof full, "%s", name)
                      : snprintf(full, sizeof full, "%s.%d.%s", encoder ? m->encoder_layers : m->layers,
                                 encoder ? layer : layer - first, name);
    if (n < 0 || (size_t)n >= sizeof full) return gr_fail(err, GRAFT_ERR_INTERNAL, "module name '%s' is too long", name);
    GR_TRY(gr_grow(m->a, (void **)&m->sites, &m->cap_sites, m->n_sites + 1, sizeof *m->sites, err));
    gr_site *s = gr_arena_alloc(&m->names, sizeof *s);
    char *copy = gr_arena_strndup(&m->names, full, (size_t)n);
    if (!s || !copy) return gr_fail_memory(err);
    *s = (gr_site){.index = (int)m->n_sites, .role = role, .layer = layer, .name = copy, .in = in, .out = out,
                   .bias = bias, .encoder = encoder, .module = -1, .below = layer < 0 && !m->has_layers,
                   .weight_tensor = tensor_name(m, copy, ".weight"), .bias_tensor = tensor_name(m, copy, ".bias")};
    if (!s->weight_tensor || !s->bias_tensor) return gr_fail_memory(err);
    m->has_layers |= layer >= 0;
    GR_TRY(gr_map_set(&m->site_of_name, copy, (size_t)n, s->index, err));
    m->sites[m->n_sites++] = s;
    *site = s;
    return GRAFT_OK;
}

/* What a module becomes CHANNEL8 with; `takes` false: it does not. */
static graft_status plan_channel8(const gr_model *m, const gr_site *s, const gr_weight *w, gr_quantize_spec *spec,
                                  bool *takes, graft_error *err) {
    const gr_channel8_plan *plan = m->quantize.channel8;
    float most = 0;
    *takes = true;
    if (plan) GR_TRY(plan->choose(plan->self, s->name, s->in, takes, &most, err));
    if (*takes && s->transposed)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "%s: module %s: compressed-tensors takes Linear modules only, this is a Conv1D", w->file,
                       s->name);
    spec->scale = gr_channel8_scale_type(w->view.dtype);
    if (plan && plan->is_static) spec->input = gr_channel8_scale(most, spec->scale);
    return GRAFT_OK;
}

/* Every product but the head, as bitsandbytes takes them. What was made is trained in floats in any case. */
static graft_status quantize(gr_model *m, const gr_site *s, const gr_weight *w, graft_error *err) {
    gr_tensor_view view;
    void *memory;
    size_t bytes;
    gr_quantize_spec spec = m->quantize;
    bool takes = true;
    if (m->quantize.dtype == GR_F32 || s->role == GR_ROLE_HEAD || gr_model_is_fresh(m, w->name)) return GRAFT_OK;
    if (spec.dtype == GR_CHANNEL8) GR_TRY(plan_channel8(m, s, w, &spec, &takes, err));
    if (!takes) return GRAFT_OK;
    if (gr_scaled_get(w->view.dtype))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: tensor %s is %s already: the model is used as it is, without load_in_4bit or load_in_8bit", w->file,
                       w->stored_name, gr_dtype_name(w->view.dtype));
    if (m->is_shape) return gr_shape_quantize(m, w, s->transposed, err);
    GR_TRY(gr_check_cancel(m->ctx, err));
    GR_TRY(gr_quantize_weight(m->dev, w, s->transposed, &spec, &view, &memory, &bytes, err));
    gr_release_mapped(w->view.data, w->view.bytes);
    graft_status st = gr_weights_replace(m->weights, w, &view, s->transposed, memory, bytes, err);
    if (st != GRAFT_OK) gr_free_aligned(m->a, memory);
    return st;
}

/* Tensors and quantization_config must say the same of a product's weight in compressed-tensors' format. */
static graft_status check_channel8(const gr_model *m, const gr_weight *w, graft_error *err) {
    const gr_compressed says = m->config.compressed;
    if (w->view.dtype != GR_CHANNEL8) return GRAFT_OK;
    const float input = w->view.scales->input;
    if (says == GR_COMPRESSED_NONE)
        return gr_fail(err, GRAFT_ERR_MISMATCH,
                       "%s: tensor %s is in 8 bits with a weight_scale: expected a quantization_config of "
                       "compressed-tensors, found none",
                       w->file, w->stored_name);
    if (says == GR_COMPRESSED_STATIC && !(input > 0))
        return gr_fail(
            err, GRAFT_ERR_NOT_FOUND,
            "%s: tensor %s: its input_scale is missing, which quantization_config expects (dynamic is false)",
            w->file, w->stored_name);
    if (says != GR_COMPRESSED_STATIC && input > 0)
        return gr_fail(err, GRAFT_ERR_MISMATCH,
                       "%s: tensor %s: expected no input_scale, as quantization_config has it, found one", w->file,
                       w->stored_name);
    return GRAFT_OK;
}

static graft_status refuse_channel8(const gr_weight *w, graft_error *err) {
    if (w->view.dtype != GR_CHANNEL8) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                   "%s: tensor %s: expected an embedding in floats, found compressed-tensors' 8 bits", w->file,
                   w->stored_name);
}

/* Weight of one site as a matrix part. */
static graft_status add_weight(gr_model *m, const gr_site *s, gr_matrix_part *part, graft_error *err) {
    const char *name;
    const gr_weight *w;
    gr_shape shape = s->transposed ? gr_shape2(s->in, s->out) : gr_shape2(s->out, s->in);
    GR_TRY(add_tensor(m, s, ".weight", &name, err));
    if (s->transposed && weight_in_file(m, name)) {
        GR_TRY(gr_model_file_weight(m, name, NULL, &w, err));
        if (w->view.scales && !w->turned) gr_weights_set_turned(m->weights, w); /* so transformers hands them to bitsandbytes */
    }
    GR_TRY(find_weight(m, name, &shape, &w, err));
    if (s->role != GR_ROLE_HEAD && !gr_model_is_fresh(m, w->name))
        gr_count_product(&m->products, w->view.dtype, w->view.bytes, s->out, s->in);
    GR_TRY(quantize(m, s, w, err));
    GR_TRY(check_channel8(m, w, err));
    *part = (gr_matrix_part){.view = w->view, .permuted_heads = w->permuted_heads,
                             .transposed = s->transposed && !w->turned};
    m->n_params += s->out * s->in;
    return GRAFT_OK;
}

static graft_status add_bias(gr_model *m, const gr_site *s, gr_linear *l, int64_t offset, graft_error *err) {
    const char *name;
    const gr_weight *w;
    gr_shape shape = gr_shape1(s->out);
    GR_TRY(add_tensor(m, s, ".bias", &name, err));
    GR_TRY(find_weight(m, name, &shape, &w, err));
    if (!l->bias) GR_TRY(new_vector(m, l->out, &l->bias, err));
    m->n_params += s->out;
    return gr_weight_decode_all(m->a, w, m->param_dtype, (char *)l->bias + gr_dtype_bytes(m->param_dtype, (size_t)offset),
                                err);
}

graft_status gr_build_linear(gr_model *m, int layer, int64_t in, const gr_part *parts, int n_parts, graft_error *err) {
    gr_modules *mods = &m->modules;
    gr_linear l = {.n_parts = n_parts, .in = in};
    gr_matrix_spec spec = {.n_parts = n_parts, .dt = m->dtype};
    for (int i = 0; i < n_parts; i++) {
        gr_site *s;
        GR_TRY(add_site(m, parts[i].role, layer, parts[i].name, in, parts[i].out, parts[i].bias, &s, err));
        s->module = mods->n_linears;
        s->part = i;
        s->transposed = parts[i].transposed;
        l.site[i] = s;
        l.out = l.offset[i + 1] = l.offset[i] + s->out;
        GR_TRY(add_weight(m, s, &spec.part[i], err));
    }
    for (int i = 0; i < n_parts; i++)
        if (parts[i].bias) GR_TRY(add_bias(m, l.site[i], &l, l.offset[i], err));
    spec.name = l.site[0]->name;
    GR_TRY(gr_grow(m->a, (void **)&mods->linears, &m->cap_linears, (size_t)mods->n_linears + 1, sizeof l, err));
    GR_TRY(new_matrix(m, &spec, &l.matrix, err));
    mods->linears[mods->n_linears++] = l;
    return GRAFT_OK;
}

/* A vector of a norm, decoded. */
static graft_status norm_vector(gr_model *m, const gr_site *s, const char *kind, void **out, graft_error *err) {
    const char *tensor;
    const gr_weight *w;
    gr_shape shape = gr_shape1(s->out);
    GR_TRY(add_tensor(m, s, kind, &tensor, err));
    GR_TRY(find_weight(m, tensor, &shape, &w, err));
    GR_TRY(new_vector(m, s->out, out, err));
    m->n_params += s->out;
    return gr_weight_decode_all(m->a, w, m->param_dtype, *out, err);
}

static graft_status build_norm(gr_model *m, int layer, const char *name, int64_t size, bool bias, graft_error *err) {
    gr_modules *mods = &m->modules;
    gr_norm n = {.size = size};
    gr_site *s;
    GR_TRY(add_site(m, GR_ROLE_NORM, layer, name, size, size, bias, &s, err));
    s->module = mods->n_norms;
    n.site = s;
    GR_TRY(norm_vector(m, s, ".weight", &n.weight, err));
    if (bias) GR_TRY(norm_vector(m, s, ".bias", &n.bias, err));
    GR_TRY(gr_grow(m->a, (void **)&mods->norms, &m->cap_norms, (size_t)mods->n_norms + 1, sizeof n, err));
    mods->norms[mods->n_norms++] = n;
    return GRAFT_OK;
}

graft_status gr_build_norm(gr_model *m, int layer, const char *name, int64_t size, graft_error *err) {
    return build_norm(m, layer, name, size, false, err);
}

graft_status gr_build_layernorm(gr_model *m, int layer, const char *name, int64_t size, graft_error *err) {
    return build_norm(m, layer, name, size, true, err);
}

graft_status gr_build_position_bias(gr_model *m, int layer, const char *name, int64_t buckets, int64_t heads,
                                    graft_error *err) {
    const char *tensor;
    const gr_weight *w;
    gr_shape shape = gr_shape2(buckets, heads);
    gr_site *s;
    GR_TRY(add_site(m, GR_ROLE_POSITION_BIAS, layer, name, buckets, heads, false, &s, err));
    s->module = !s->encoder;
    gr_bias_table *b = &m->modules.position_bias[s->module];
    GR_TRY(add_tensor(m, s, ".weight", &tensor, err));
    GR_TRY(find_weight(m, tensor, &shape, &w, err));
    GR_TRY(new_vector(m, buckets * heads, &b->weight, err));
    b->site = s;
    m->n_params += buckets * heads;
    return gr_weight_decode_all(m->a, w, m->param_dtype, b->weight, err);
}

graft_status gr_build_constants(gr_model *m, int64_t n, double value, void **out, graft_error *err) {
    GR_TRY(new_vector(m, n, out, err));
    for (int64_t i = 0; i < n; i++)
        if (m->param_dtype == GR_F64)
            ((double *)*out)[i] = value;
        else
            ((float *)*out)[i] = (float)value;
    return GRAFT_OK;
}

graft_status gr_build_table(gr_model *m, const char *name, int64_t rows, int64_t size, graft_error *err) {
    gr_modules *mods = &m->modules;
    gr_embedding e = {.vocab = rows, .size = size, .pad_id = -1};
    gr_site *s;
    const char *tensor;
    const gr_weight *w;
    gr_shape shape = gr_shape2(rows, size);
    GR_TRY(add_site(m, GR_ROLE_TABLE, -1, name, rows, size, false, &s, err));
    s->module = mods->n_tables;
    e.site = s;
    GR_TRY(add_tensor(m, s, ".weight", &tensor, err));
    GR_TRY(find_weight(m, tensor, &shape, &w, err));
    GR_TRY(refuse_channel8(w, err));
    gr_matrix_spec spec = {.name = s->name, .n_parts = 1, .dt = m->dtype,
                           .part = {{.view = w->view, .permuted_heads = w->permuted_heads}}};
    GR_TRY(new_matrix(m, &spec, &e.matrix, err));
    GR_TRY(gr_grow(m->a, (void **)&mods->tables, &m->cap_tables, (size_t)mods->n_tables + 1, sizeof e, err));
    mods->tables[mods->n_tables++] = e;
    m->n_params += rows * size;
    return GRAFT_OK;
}

/* Of a tied pair the file may hold either one alone. */
static const char *tied_name(const gr_model *m, const char *name, const char *other) {
    return weight_in_file(m, name) || !gr_weights_find(m->weights, other) ? name : other;
}

graft_status gr_build_embedding(gr_model *m, const char *name, int64_t vocab, int64_t size, graft_error *err) {
    gr_site *s;
    const char *tensor;
    const gr_weight *w;
    gr_shape shape = gr_shape2(vocab, size);
    GR_TRY(add_site(m, GR_ROLE_EMBED, -1, name, vocab, size, false, &s, err));
    GR_TRY(add_tensor(m, s, ".weight", &tensor, err));
    if (m->config.tie_word_embeddings) tensor = tied_name(m, tensor, "lm_head.weight");
    GR_TRY(find_weight(m, tensor, &shape, &w, err));
    GR_TRY(refuse_channel8(w, err));
    gr_matrix_spec spec = {.name = s->name, .n_parts = 1, .dt = m->dtype,
                           .part = {{.view = w->view, .permuted_heads = w->permuted_heads}}};
    GR_TRY(new_matrix(m, &spec, &m->modules.embedding.matrix, err));
    m->modules.embedding.site = s;
    m->modules.embedding.vocab = vocab;
    m->modules.embedding.size = size;
    /* As the reference: the pad that config.json names trains nothing; of GGUF metadata it takes no pad. */
    bool pads = m->family->padding_idx && !gr_weights_gguf(m->weights);
    m->modules.embedding.pad_id = pads ? (int32_t)m->config.pad_token_id : -1;
    m->embedding_weight = w;
    m->n_params += vocab * size;
    return GRAFT_OK;
}

/* Same values, whatever the formats are. */
static graft_status same_values(const graft_allocator *a, const gr_weight *x, const gr_weight *y, bool *same,
                                graft_error *err) {
    int64_t rows = x->view.shape.d[0], columns = x->view.shape.d[1];
    if (x->view.dtype == y->view.dtype && !x->view.scales) {
        *same = memcmp(x->view.data, y->view.data, x->view.bytes) == 0;
        return GRAFT_OK;
    }
    float *row = gr_alloc(a, 2 * (size_t)columns * sizeof *row);
    if (!row) return gr_fail_memory(err);
    graft_status st = GRAFT_OK;
    bool equal = true;
    for (int64_t r = 0; r < rows && equal && st == GRAFT_OK; r++) {
        st = gr_weight_decode(x, r, 1, row, err);
        if (st == GRAFT_OK) st = gr_weight_decode(y, r, 1, row + columns, err);
        equal = memcmp(row, row + columns, (size_t)columns * sizeof *row) == 0;
    }
    gr_free(a, row);
    if (st == GRAFT_OK) *same = equal;
    return st;
}

graft_status gr_build_head(gr_model *m, const char *name, int64_t in, int64_t vocab, bool tied, graft_error *err) {
    gr_linear l = {.n_parts = 1, .in = in, .out = vocab, .offset = {0, vocab}};
    gr_site *s;
    gr_matrix_spec spec = {.name = name, .n_parts = 1, .dt = m->dtype};
    GR_TRY(add_site(m, GR_ROLE_HEAD, -1, name, in, vocab, false, &s, err));
    l.site[0] = s;
    const gr_weight *w = weight_in_file(m, s->weight_tensor);
    if (tied && w && w != m->embedding_weight) {
        gr_shape shape = gr_shape2(vocab, in);
        GR_TRY(find_weight(m, s->weight_tensor, &shape, &w, err));
        GR_TRY(same_values(m->a, m->embedding_weight, w, &tied, err));
        if (!tied)
            gr_log(m->ctx, GRAFT_LOG_WARNING,
                   "%s: the configuration ties the head to the embedding, but both are stored and differ: not tied",
                   gr_weights_path(m->weights));
    }
    m->head_tied = tied;
    if (tied)
        l.matrix = m->modules.embedding.matrix;
    else {
        GR_TRY(add_weight(m, s, &spec.part[0], err));
        GR_TRY(new_matrix(m, &spec, &l.matrix, err));
    }
    m->modules.head = l;
    return GRAFT_OK;
}

graft_status gr_build_head_bias(gr_model *m, const char *tensor, const char *other, graft_error *err) {
    gr_linear *l = &m->modules.head;
    gr_site *s = m->sites[l->site[0]->index];
    char *name = gr_arena_strndup(&m->names, tensor, strlen(tensor));
    const gr_weight *w;
    gr_shape shape = gr_shape1(l->out);
    if (!name) return gr_fail_memory(err);
    s->bias = true;
    s->bias_tensor = name;
    GR_TRY(enter_tensor(m, s, name, err));
    GR_TRY(find_weight(m, other && !weight_in_file(m, name) && weight_in_file(m, other) ? other : name, &shape, &w, err));
    GR_TRY(new_vector(m, l->out, &l->bias, err));
    m->n_params += l->out;
    return gr_weight_decode_all(m->a, w, m->param_dtype, l->bias, err);
}

graft_status gr_build_classifier(gr_model *m, const char *name, int64_t in, bool bias, graft_error *err) {
    char tensor[300];
    bool made = m->may_make;
    m->may_make = m->make_head;
    graft_status st = gr_build_head(m, name, in, m->config.n_labels, false, err);
    snprintf(tensor, sizeof tensor, "%s.bias", name);
    if (st == GRAFT_OK && bias) st = gr_build_head_bias(m, tensor, NULL, err);
    m->may_make = made;
    return st;
}

graft_status gr_build_top(gr_model *m, const char *name, graft_error *err) {
    const gr_model_config *c = &m->config;
    if (c->task == GR_TASK_SEQ_CLS) return gr_build_classifier(m, "score", c->hidden_size, false, err);
    return gr_build_head(m, name, c->hidden_size, c->vocab_size, c->tie_word_embeddings, err);
}
