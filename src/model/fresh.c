/* Weights of a head that the files do not have, with the initial values of transformers: matrices normal with deviation
 * initializer_range (t5: its factor over the root of the width), biases zero, norms one. They depend
 * on the seed and the tensor's name. */
#include <math.h>

#include "io/paths.h"
#include "model/family.h"

graft_status gr_model_make_weight(gr_model *m, const char *name, const gr_shape *shape, graft_error *err) {
    int64_t n;
    GR_TRY(gr_grow(m->a, (void **)&m->fresh, &m->cap_fresh, m->n_fresh + 1, sizeof *m->fresh, err));
    if (!gr_shape_elements(shape, &n)) return gr_fail(err, GRAFT_ERR_LIMIT, "tensor '%s' is too large", name);
    char *copy = gr_arena_strndup(&m->names, name, strlen(name));
    float *data = copy ? gr_alloc_aligned(m->a, (size_t)n * sizeof *data) : NULL;
    if (!data) return gr_fail_memory(err);
    bool norm = strstr(name, "norm") || strstr(name, "Norm"), weight = gr_ends_with(name, ".weight");
    const gr_model_config *c = &m->config;
    double deviation = c->initializer_range / (c->type == GR_MODEL_T5 ? sqrt((double)c->hidden_size) : 1);
    uint64_t stream = gr_rng_stream(GR_RNG_INIT, gr_hash_bytes(name, strlen(name), 0));
    for (int64_t i = 0; i < n; i++)
        data[i] = shape->n > 1 ? (float)(deviation * gr_rng_normal(m->seed, stream, (uint64_t)i)) : norm && weight;
    m->fresh[m->n_fresh++] = (gr_weight){.name = copy, .stored_name = copy, .file = gr_weights_path(m->weights),
                                         .view = {GR_F32, *shape, data, (size_t)n * sizeof *data, NULL}};
    return GRAFT_OK;
}

bool gr_model_is_fresh(const gr_model *m, const char *tensor) {
    for (size_t i = 0; i < m->n_fresh && !m->is_shape; i++)
        if (strcmp(m->fresh[i].name, tensor) == 0) return true;
    return false;
}
