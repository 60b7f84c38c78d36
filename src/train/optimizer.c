/* What all optimisers share: state memory, the norm of the gradients, clipping, registry. */
#include <math.h>
#include <stdio.h>

#include "base/scratch.h"
#include "train/optimizer.h"

struct gr_optimizer {
    gr_device *dev;
    const gr_optimizer_rule *rule;
    gr_optimizer_options options;
    int n_states;
    gr_param *const *params;
    size_t n;
    char *memory;         /* the states of one parameter behind those of the one before */
    size_t *at;           /* where they begin; n + 1 */
    gr_scratch scratch;   /* paged: memory is its data */
    gr_dynamic_code *code; /* one a state, NULL: F32 */
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

static graft_status none_found(const char *name, const gr_optimizer_rule *const *rules, size_t n, graft_error *err) {
    char list[512];
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        const char *const both[] = {rules[i]->names[0], rules[i]->paged_name};
        for (size_t k = 0; k < GR_COUNT(both) && both[k] && len < sizeof list; k++)
            len += (size_t)snprintf(list + len, sizeof list - len, "%s%s", len ? ", " : "", both[k]);
    }
    return gr_fail(err, GRAFT_ERR_ARGUMENT, "optim: expected one of %s, found %s", list, name ? name : "nothing");
}

graft_status gr_optimizer_find(const char *name, const char *args, gr_optimizer_options *options,
                               const gr_optimizer_rule **out, graft_error *err) {
    static const gr_optimizer_rule *const rules[] = {
#define X(id) &gr_optimizer_##id,
#include "train/optimizer.def"
#undef X
    };
    for (size_t i = 0; name && i < GR_COUNT(rules); i++) {
        const bool paged = rules[i]->paged_name && !strcmp(rules[i]->paged_name, name);
        bool found = paged;
        for (size_t k = 0; rules[i]->names[k] && !found; k++) found = !strcmp(rules[i]->names[k], name);
        if (!found) continue;
        if (args) GR_TRY(read_args(args, rules[i], options, err));
        options->paged = paged;
        *out = rules[i];
        return GRAFT_OK;
    }
    return none_found(name, rules, GR_COUNT(rules), err);
}

/* --- Where states lie --- */

enum { ALIGN = 64 };

static size_t aligned(size_t bytes) { return (bytes + ALIGN - 1) / ALIGN * ALIGN; }

static bool in_8bit(const gr_optimizer_rule *rule, int64_t n) { return rule->absmax[0] && n >= GR_LEAST_8BIT; }

static size_t n_blocks(int64_t n) { return (size_t)((n + GR_DYNAMIC_BLOCK - 1) / GR_DYNAMIC_BLOCK); }

/* One state of a parameter of n elements: its numbers, behind them its absmax. */
static size_t state_bytes(const gr_optimizer_rule *rule, int64_t n) {
    if (!in_8bit(rule, n)) return aligned((size_t)n * sizeof(float));
    return aligned((size_t)n) + aligned(n_blocks(n) * sizeof(float));
}

static gr_optimizer_state state_at(const gr_optimizer_rule *rule, int64_t n, char *memory) {
    if (!in_8bit(rule, n)) return (gr_optimizer_state){.data = memory, .bytes = (size_t)n * sizeof(float)};
    return (gr_optimizer_state){
        .data = memory, .absmax = (float *)(memory + aligned((size_t)n)), .bytes = (size_t)n, .n_absmax = n_blocks(n)};
}

size_t gr_optimizer_bytes(const gr_optimizer_rule *rule, const gr_optimizer_options *options, gr_param *const *params,
                          size_t n) {
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) bytes += (size_t)rule->n_states(options) * state_bytes(rule, params[i]->n);
    return bytes;
}

gr_optimizer_state gr_optimizer_get_state(const gr_optimizer *o, size_t param, int state) {
    const int64_t n = o->params[param]->n;
    return state_at(o->rule, n, o->memory + o->at[param] + (size_t)state * state_bytes(o->rule, n));
}

/* A fault brings in the pages around it, too, which lie in others' states. */
void gr_optimizer_release(const gr_optimizer *o, const void *data, size_t bytes) {
    enum { AROUND = 64 << 10 };
    if (!o->scratch.size) return;
    const size_t at = (size_t)((const char *)data - o->memory), from = at > AROUND ? at - AROUND : 0;
    gr_scratch_release(o->memory + from, GR_MIN(at + bytes + AROUND, o->scratch.size) - from);
}

static graft_status make_memory(gr_optimizer *o, graft_error *err) {
    const graft_allocator *a = gr_allocator(o->dev->ctx);
    const size_t bytes = gr_optimizer_bytes(o->rule, &o->options, o->params, o->n);
    o->at = gr_calloc(a, o->n + 1, sizeof *o->at);
    if (!o->at) return gr_fail_memory(err);
    for (size_t i = 0; i < o->n; i++)
        o->at[i + 1] = o->at[i] + (size_t)o->n_states * state_bytes(o->rule, o->params[i]->n);
    if (o->rule->absmax[0]) {
        o->code = gr_calloc(a, GR_OPTIMIZER_MAX_STATES, sizeof *o->code);
        if (!o->code) return gr_fail_memory(err);
        for (int s = 0; s < o->n_states; s++) gr_dynamic_code_init(&o->code[s], o->rule->map[s]);
    }
    if (!bytes) return GRAFT_OK;
    if (o->options.paged && o->options.paged_dir) {
        graft_status st = gr_scratch_map(o->options.paged_dir, bytes, &o->scratch, err);
        if (st != GRAFT_OK) return gr_error_prefix(err, st, "paged optimiser state");
        o->memory = o->scratch.data;
        return GRAFT_OK;
    }
    o->memory = gr_alloc_aligned(a, bytes);
    if (!o->memory) return gr_fail_memory(err);
    memset(o->memory, 0, bytes);
    return GRAFT_OK;
}

graft_status gr_optimizer_new(gr_device *d, const gr_optimizer_rule *rule, const gr_optimizer_options *options,
                              gr_param *const *params, size_t n, gr_optimizer **out, graft_error *err) {
    for (size_t i = 0; i < n; i++)
        if (params[i]->dtype != GR_F32 || !params[i]->grad)
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: expected an F32 parameter with a gradient, found %s",
                           params[i]->name, gr_dtype_name(params[i]->dtype));
    gr_optimizer *o = gr_calloc(gr_allocator(d->ctx), 1, sizeof *o);
    if (!o) return gr_fail_memory(err);
    *o = (gr_optimizer){
        .dev = d, .rule = rule, .options = *options, .n_states = rule->n_states(options), .params = params, .n = n};
    graft_status st = make_memory(o, err);
    if (st != GRAFT_OK) {
        gr_optimizer_free(o);
        return st;
    }
    *out = o;
    return GRAFT_OK;
}

void gr_optimizer_free(gr_optimizer *o) {
    if (!o) return;
    const graft_allocator *a = gr_allocator(o->dev->ctx);
    if (o->scratch.size)
        gr_scratch_unmap(&o->scratch);
    else
        gr_free_aligned(a, o->memory);
    gr_free(a, o->code);
    gr_free(a, o->at);
    gr_free(a, o);
}

/* --- A step --- */

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

/* Elements a window's states of a parameter have. */
enum { RANGE = GR_OPTIMIZER_WINDOW / (int)sizeof(float) / GR_OPTIMIZER_MAX_STATES };

/* Elements [at, at + n) of a parameter. */
static void update_range(gr_optimizer *o, size_t param, int64_t at, int64_t n, double lr, double grad_scale) {
    const gr_param *p = o->params[param];
    gr_update u = {.dev = o->dev,
                   .options = &o->options,
                   .n = n,
                   .value = (float *)p->value + at,
                   .grad = (float *)p->grad + at,
                   .decay = p->decay,
                   .lr = p->lr_factor ? lr * p->lr_factor : lr,
                   .grad_scale = grad_scale,
                   .step = o->steps};
    for (int s = 0; s < o->n_states; s++) {
        gr_optimizer_state state = gr_optimizer_get_state(o, param, s);
        const size_t width = state.absmax ? 1 : sizeof(float);
        u.code[s] = o->code ? &o->code[s] : NULL;
        u.state[s] = (gr_optimizer_state){.data = (char *)state.data + (size_t)at * width, .bytes = (size_t)n * width};
        if (!state.absmax) continue;
        u.state[s].absmax = state.absmax + at / GR_DYNAMIC_BLOCK;
        u.state[s].n_absmax = n_blocks(n);
    }
    o->rule->update(&u);
    /* Short ranges leave with the window. */
    for (int s = 0; s < o->n_states && n == RANGE; s++) gr_optimizer_release(o, u.state[s].data, u.state[s].bytes);
}

static size_t move_window(const gr_optimizer *o, size_t from, size_t to) {
    if (o->scratch.size) {
        gr_scratch_release(o->memory + from, to - from);
        gr_scratch_fetch(o->memory + to, GR_MIN((size_t)GR_OPTIMIZER_WINDOW, o->at[o->n] - to));
    }
    return to;
}

void gr_optimizer_step(gr_optimizer *o, double lr, double grad_scale) {
    o->steps++;
    size_t from = 0; /* what is before it has left memory */
    for (size_t i = 0; i < o->n; i++) {
        const int64_t n = o->params[i]->n, range = o->scratch.size ? RANGE : n;
        if (o->at[i + 1] - from > GR_OPTIMIZER_WINDOW) from = move_window(o, from, o->at[i]);
        for (int64_t at = 0; at < n; at += range) update_range(o, i, at, GR_MIN(range, n - at), lr, grad_scale);
        gr_param_changed(o->params[i]);
    }
    move_window(o, from, o->at[o->n]);
}

int64_t gr_optimizer_steps(const gr_optimizer *o) { return o->steps; }
void gr_optimizer_set_steps(gr_optimizer *o, int64_t steps) { o->steps = steps; }
const gr_optimizer_rule *gr_optimizer_get_rule(const gr_optimizer *o) { return o->rule; }
int gr_optimizer_n_states(const gr_optimizer *o) { return o->n_states; }
size_t gr_optimizer_n_params(const gr_optimizer *o) { return o->n; }
gr_param *gr_optimizer_param(const gr_optimizer *o, size_t i) { return o->params[i]; }
