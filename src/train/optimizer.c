/* What all optimisers share: state memory, the norm of the gradients, clipping, registry. */
#include <math.h>

#include "train/optimizer.h"

struct gr_optimizer {
    gr_device *dev;
    const gr_optimizer_rule *rule;
    gr_optimizer_options options;
    int n_states;
    gr_param *const *params;
    size_t n;
    float *memory; /* state s of all parameters behind that of state s - 1 */
    int64_t total; /* elements of all parameters */
    int64_t steps;
};

static graft_status read_bool(const char *name, const char *value, size_t len, bool *out, graft_error *err) {
    static const char *const words[] = {"false", "False", "0", "true", "True", "1"};
    for (size_t i = 0; i < GR_COUNT(words); i++)
        if (strlen(words[i]) == len && !memcmp(words[i], value, len)) {
            *out = i >= GR_COUNT(words) / 2;
            return GRAFT_OK;
        }
    return gr_fail(err, GRAFT_ERR_ARGUMENT, "optim_args: %s: expected true or false, found %.*s", name,
                   (int)GR_MIN(len, (size_t)40), value);
}

static graft_status read_args(const char *args, const gr_optimizer_rule *rule, gr_optimizer_options *o,
                              graft_error *err) {
    const char *at = args;
    while (*at) {
        at += strspn(at, ", ");
        size_t n = strcspn(at, ","), name = strcspn(at, "=,");
        if (n == 0) break;
        const char *value = at + GR_MIN(name + 1, n);
        size_t len = n - GR_MIN(name + 1, n);
        while (len && value[len - 1] == ' ') len--;
        bool sgd = rule == &gr_optimizer_sgd;
        if (sgd && name == 8 && !memcmp(at, "momentum", 8)) {
            if (!gr_parse_double(value, len, &o->momentum) || !(o->momentum >= 0) || !(o->momentum < 1))
                return gr_fail(err, GRAFT_ERR_ARGUMENT, "optim_args: momentum: expected a number in [0, 1), found %.*s",
                               (int)GR_MIN(len, (size_t)40), value);
        } else if (sgd && name == 8 && !memcmp(at, "nesterov", 8)) {
            GR_TRY(read_bool("nesterov", value, len, &o->nesterov, err));
        } else
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "optim_args: %s has no setting %.*s", rule->names[0],
                           (int)GR_MIN(name, (size_t)40), at);
        at += n;
    }
    if (o->nesterov && !(o->momentum > 0)) /* as torch.optim.SGD */
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "optim_args: nesterov: expected a momentum above 0 too");
    return GRAFT_OK;
}

graft_status gr_optimizer_find(const char *name, const char *args, gr_optimizer_options *options,
                               const gr_optimizer_rule **out, graft_error *err) {
    static const gr_optimizer_rule *const rules[] = {
#define X(id) &gr_optimizer_##id,
#include "train/optimizer.def"
#undef X
    };
    for (size_t i = 0; name && i < GR_COUNT(rules); i++)
        for (size_t k = 0; rules[i]->names[k]; k++)
            if (!strcmp(rules[i]->names[k], name)) {
                if (args) GR_TRY(read_args(args, rules[i], options, err));
                *out = rules[i];
                return GRAFT_OK;
            }
    return gr_fail(err, GRAFT_ERR_ARGUMENT, "optim: expected adamw_torch or sgd, found %s", name ? name : "nothing");
}

size_t gr_optimizer_bytes(const gr_optimizer_rule *rule, const gr_optimizer_options *options, int64_t n_elements) {
    return (size_t)n_elements * sizeof(float) * (size_t)rule->n_states(options);
}

graft_status gr_optimizer_new(gr_device *d, const gr_optimizer_rule *rule, const gr_optimizer_options *options,
                              gr_param *const *params, size_t n, gr_optimizer **out, graft_error *err) {
    const graft_allocator *a = gr_allocator(d->ctx);
    int64_t total = 0;
    for (size_t i = 0; i < n; i++) {
        if (params[i]->dtype != GR_F32 || !params[i]->grad)
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: expected an F32 parameter with a gradient, found %s",
                           params[i]->name, gr_dtype_name(params[i]->dtype));
        total += params[i]->n;
    }
    gr_optimizer *o = gr_calloc(a, 1, sizeof *o);
    if (!o) return gr_fail_memory(err);
    *o = (gr_optimizer){.dev = d,
                        .rule = rule,
                        .options = *options,
                        .n_states = rule->n_states(options),
                        .params = params,
                        .n = n,
                        .total = total};
    size_t bytes = gr_optimizer_bytes(rule, options, total);
    if (bytes) {
        o->memory = gr_alloc_aligned(a, bytes);
        if (!o->memory) {
            gr_free(a, o);
            return gr_fail_memory(err);
        }
        memset(o->memory, 0, bytes);
    }
    *out = o;
    return GRAFT_OK;
}

void gr_optimizer_free(gr_optimizer *o) {
    if (!o) return;
    const graft_allocator *a = gr_allocator(o->dev->ctx);
    gr_free_aligned(a, o->memory);
    gr_free(a, o);
}

void gr_optimizer_zero_grad(gr_optimizer *o) {
    for (size_t i = 0; i < o->n; i++) memset(o->params[i]->grad, 0, (size_t)o->params[i]->n * sizeof(float));
}

double gr_optimizer_grad_norm(const gr_optimizer *o) {
    double sum = 0;
    for (size_t i = 0; i < o->n; i++) sum += o->dev->k->sum_squares(o->dev, o->params[i]->n, o->params[i]->grad);
    return sqrt(sum);
}

double gr_clip_factor(double norm, double max_norm) {
    if (!(max_norm > 0)) return 1;
    double factor = max_norm / (norm + 1e-6);
    return factor < 1 ? factor : 1;
}

float *gr_optimizer_state(const gr_optimizer *o, size_t param, int state) {
    int64_t at = (int64_t)state * o->total;
    for (size_t i = 0; i < param; i++) at += o->params[i]->n;
    return o->memory + at;
}

void gr_optimizer_step(gr_optimizer *o, double lr, double grad_scale) {
    o->steps++;
    int64_t at = 0;
    for (size_t i = 0; i < o->n; i++) {
        gr_update u = {.dev = o->dev,
                       .options = &o->options,
                       .param = o->params[i],
                       .lr = o->params[i]->lr_factor ? lr * o->params[i]->lr_factor : lr,
                       .grad_scale = grad_scale,
                       .step = o->steps};
        for (int s = 0; s < o->n_states; s++) u.state[s] = o->memory + (int64_t)s * o->total + at;
        o->rule->update(&u);
        at += o->params[i]->n;
        gr_param_changed(o->params[i]);
    }
}

int64_t gr_optimizer_steps(const gr_optimizer *o) { return o->steps; }
void gr_optimizer_set_steps(gr_optimizer *o, int64_t steps) { o->steps = steps; }
const gr_optimizer_rule *gr_optimizer_get_rule(const gr_optimizer *o) { return o->rule; }
int gr_optimizer_n_states(const gr_optimizer *o) { return o->n_states; }
size_t gr_optimizer_n_params(const gr_optimizer *o) { return o->n; }
gr_param *gr_optimizer_param(const gr_optimizer *o, size_t i) { return o->params[i]; }
