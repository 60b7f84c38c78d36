/* OFT (Qiu et al. 2023; Cayley-Neumann form: Qiu et al. 2025, OFTv2): the input of a product is turned, y = (x R) W^T + b, R a
 * block diagonal of rotations, each made of the upper triangle of a skew matrix Q: R = (I - Q) (I + Q)^-1, or a few terms of a
 * series, I + 2 Q + 2 Q^2 + ... + Q^p. Reference: peft 0.21 tuners/oft; coft keeps ||Q|| within eps / sqrt(blocks), where the
 * reference too writes the shortened Q back in front of each step.
 *
 * The product itself stays, and x (R - I) W^T is added to it (op rotate): so modules that share an input, and sequences of other
 * adapters, need nothing of their own. R is made once a step, in double. */
#include <math.h>

#include "adapter/lora.h"

enum { MAX_TERMS = 64, MAX_BLOCK = 1024 };

typedef struct rotation {
    const gr_site *site;
    int64_t block, n_blocks; /* n_blocks: of its own, 1 where all share it */
    gr_param *q;             /* oft_R.weight (n_blocks, block (block - 1) / 2) */
    gr_param *d;             /* R - I, (n_blocks block, block) */
    gr_matrix *w;
} rotation;

struct oft {
    gr_lora_config chosen;
    int64_t r, block_size, terms;
    bool coft, share, neumann, init;
    double eps, module_dropout;
    rotation *of;
    size_t n;
    int *of_site; /* -1: none */
};

static const char *const known[] = {"auto_mapping", "base_model_name_or_path", "bias", "block_share", "coft", "eps", "exclude_modules",
                                    "fan_in_fan_out", "inference_mode", "init_weights", "layers_pattern", "layers_to_transform",
                                    "module_dropout", "modules_to_save", "num_cayley_neumann_terms", "oft_block_size", "peft_type",
                                    "peft_version", "r", "revision", "target_modules", "task_type", "use_cayley_neumann", NULL};

static graft_status read_config(gr_adapter *a, const gr_json_value *json, bool fresh, graft_error *err) {
    struct oft *s = a->state;
    const char *bias = "none";
    s->block_size = 32;
    s->terms = 5;
    s->neumann = s->init = true;
    s->eps = 6e-5;
    if (fresh) GR_TRY(gr_config_known(a, json, known, err));
    if (a->scale != 1)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: rotations cannot be scaled by %g", a->where, a->scale);
    GR_TRY(gr_config_text(a, json, "bias", &bias, err));
    if (strcmp(bias, "none") != 0)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: bias '%s' is not supported with OFT, expected none", a->where, bias);
    GR_TRY(gr_config_int(a, json, "r", 0, INT32_MAX, &s->r, err));
    GR_TRY(gr_config_int(a, json, "oft_block_size", 0, INT32_MAX, &s->block_size, err));
    GR_TRY(gr_config_int(a, json, "num_cayley_neumann_terms", 0, MAX_TERMS, &s->terms, err));
    GR_TRY(gr_config_bool(a, json, "coft", &s->coft, err));
    GR_TRY(gr_config_bool(a, json, "block_share", &s->share, err));
    GR_TRY(gr_config_bool(a, json, "use_cayley_neumann", &s->neumann, err));
    GR_TRY(gr_config_bool(a, json, "init_weights", &s->init, err));
    GR_TRY(gr_config_number(a, json, "eps", 0, 1e9, &s->eps, err));
    GR_TRY(gr_config_number(a, json, "module_dropout", 0, 1, &s->module_dropout, err));
    if (!fresh) GR_TRY(gr_config_bool(a, json, "fan_in_fan_out", &s->chosen.fan_in_fan_out, err));
    if ((s->r != 0) == (s->block_size != 0))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected one of r and oft_block_size, the other 0, found %lld and %lld", a->where,
                       (long long)s->r, (long long)s->block_size);
    if (fresh && s->module_dropout > 0) /* the reference has it in its layers of other kinds only */
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: 'module_dropout' has no effect on the products that OFT adapts", a->where);
    if (fresh && s->neumann && s->terms < 2)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: num_cayley_neumann_terms is %lld, fewer than 2 turn nothing", a->where, (long long)s->terms);
    return gr_lora_read_chosen(a, json, &s->chosen, err);
}

/* --- Modules ------------------------------------------------------------------------------------------------------------ */

/* A divisor of n near `wanted`: the lower one where both are as near. */
static int64_t divisor(int64_t n, int64_t wanted) {
    int64_t higher = wanted, lower = wanted;
    if (wanted >= n) return n;
    while (n % higher) higher++;
    while (lower > 1 && n % lower) lower--;
    return wanted - lower <= higher - wanted ? lower : higher;
}

/* Of a new adapter, once for each number of inputs. */
static void tell_block(const gr_adapter *a, const rotation *t, int64_t wanted, int64_t size) {
    const struct oft *s = a->state;
    for (size_t i = 0; i < s->n; i++)
        if (s->of[i].site->in == t->site->in) return;
    gr_log(gr_model_context(a->model), GRAFT_LOG_WARNING, "%s: %s %lld does not divide the %lld inputs of '%s': %lld is taken", a->where,
           s->r ? "r" : "oft_block_size", (long long)wanted, (long long)t->site->in, t->site->name, (long long)size);
}

static graft_status choose_block(gr_adapter *a, rotation *t, bool fresh, graft_error *err) {
    const struct oft *s = a->state;
    int64_t in = t->site->in, wanted = s->r ? s->r : s->block_size, size = divisor(in, wanted);
    if (fresh && size != wanted) tell_block(a, t, wanted, size);
    t->block = s->r ? in / size : size;
    t->n_blocks = s->share ? 1 : in / t->block;
    if (t->block > MAX_BLOCK)
        return gr_fail(err, GRAFT_ERR_LIMIT, "%s: blocks of %lld for '%s', OFT takes %d at most", a->where, (long long)t->block, t->site->name,
                       MAX_BLOCK);
    if (t->block < 2)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: blocks of one element for '%s' turn nothing", a->where, t->site->name);
    return GRAFT_OK;
}

static graft_status add_site(gr_adapter *a, const gr_site *site, bool fresh, uint64_t seed, graft_error *err) {
    struct oft *s = a->state;
    rotation *t = &s->of[s->n];
    if (site->role == GR_ROLE_EMBED || site->role == GR_ROLE_HEAD)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: target module '%s' is the %s, which OFT cannot turn", a->where, site->name,
                       site->role == GR_ROLE_HEAD ? "head" : "embedding");
    t->site = site;
    GR_TRY(choose_block(a, t, fresh, err));
    GR_TRY(gr_kin_param(a, site, "oft_R.weight", gr_shape2(t->n_blocks, t->block * (t->block - 1) / 2), 0, fresh, seed, &t->q, err));
    if (fresh && !s->init) gr_adapter_fill(t->q, seed, true, 0.1);
    const gr_shape shape = gr_shape2(t->n_blocks * t->block, t->block);
    GR_TRY(gr_adapter_new_param(a, site->name, &shape, false, &t->d, err));
    s->of_site[site->index] = (int)s->n++;
    return gr_lora_make_matrix(a, site, &t->w, err);
}

static graft_status create(gr_adapter *a, const gr_json_value *config, bool fresh, uint64_t seed, graft_error *err) {
    struct oft *s = a->state;
    const gr_site **sites;
    const char **tensors, **stored;
    size_t n, n_extra;
    GR_TRY(read_config(a, config, fresh, err));
    GR_TRY(gr_lora_find_targets(a, &s->chosen, fresh, &sites, &n, err));
    s->of = gr_arena_alloc(&a->arena, n * sizeof *s->of);
    s->of_site = gr_arena_alloc(&a->arena, gr_model_n_sites(a->model) * sizeof *s->of_site);
    if (!s->of || !s->of_site) return gr_fail_memory(err);
    for (size_t i = 0; i < gr_model_n_sites(a->model); i++) s->of_site[i] = -1;
    for (size_t i = 0; i < n; i++) GR_TRY(add_site(a, sites[i], fresh, seed, err));
    GR_TRY(gr_lora_find_extra(a, &s->chosen, sites, n, &tensors, &stored, &n_extra, err));
    return n_extra ? gr_adapter_add_variant(a, tensors, stored, n_extra, true, err) : GRAFT_OK;
}

static void free_oft(gr_adapter *a) {
    struct oft *s = a->state;
    for (size_t i = 0; s->of && s->of_site && i < s->n; i++) gr_matrix_free(s->of[i].w);
    gr_lora_free_config(&s->chosen);
}

/* --- Rotations and their gradient, block by block ---------------------------------------------------------------------------- */

typedef struct block_job {
    const struct oft *s;
    const rotation *t;
    bool collect;
    int64_t first; /* block of this turn */
    double *space;
} block_job;

/* Powers of Q that the series goes to; the last counts once, the others twice. A series of four terms is one of three, as in the
 * reference. */
static int64_t highest(const struct oft *s) { return s->terms < 2 ? 0 : s->terms == 2 ? 1 : GR_MAX(s->terms - 1, 3); }
static double factor(const struct oft *s, int64_t power) { return s->terms > 2 && power == highest(s) ? 1 : 2; }

/* c = a b, or with the first or second turned; += with `add`. (n,n). */
static void multiply(int64_t n, const double *a, bool turn_a, const double *b, bool turn_b, bool add, double *c) {
    for (int64_t i = 0; i < n; i++) {
        double *to = c + i * n;
        for (int64_t j = 0; !add && j < n; j++) to[j] = 0;
        for (int64_t k = 0; k < n; k++) {
            double x = turn_a ? a[k * n + i] : a[i * n + k];
            for (int64_t j = 0; j < n; j++) to[j] += x * (turn_b ? b[j * n + k] : b[k * n + j]);
        }
    }
}

/* m = (I + Q)^-1, which there is for every skew Q. `work` (n,n). */
static void invert(int64_t n, const double *q, double *work, double *m) {
    for (int64_t i = 0; i < n * n; i++) {
        m[i] = i % (n + 1) == 0;
        work[i] = q[i] + m[i];
    }
    for (int64_t k = 0; k < n; k++) {
        int64_t pivot = k;
        for (int64_t i = k + 1; i < n; i++)
            if (fabs(work[i * n + k]) > fabs(work[pivot * n + k])) pivot = i;
        for (int64_t j = 0; pivot != k && j < n; j++) {
            double x = work[k * n + j], y = m[k * n + j];
            work[k * n + j] = work[pivot * n + j];
            m[k * n + j] = m[pivot * n + j];
            work[pivot * n + j] = x;
            m[pivot * n + j] = y;
        }
        double by = 1 / work[k * n + k];
        for (int64_t j = 0; j < n; j++) {
            work[k * n + j] *= by;
            m[k * n + j] *= by;
        }
        for (int64_t i = 0; i < n; i++) {
            double x = work[i * n + k];
            for (int64_t j = 0; i != k && x != 0 && j < n; j++) {
                work[i * n + j] -= x * work[k * n + j];
                m[i * n + j] -= x * m[k * n + j];
            }
        }
    }
}

/* Q of block k, shortened where coft asks for it. */
static void skew(const struct oft *s, const rotation *t, int64_t k, double *q) {
    int64_t n = t->block, width = t->q->shape.d[1], at = k * width;
    double sum = 0, times = 1, limit = s->eps / sqrt((double)t->n_blocks);
    for (int64_t i = 0; i < width; i++) sum += gr_param_at(t->q, at + i) * gr_param_at(t->q, at + i);
    if (s->coft && sqrt(2 * sum) > limit) times = limit / sqrt(2 * sum);
    for (int64_t i = 0; i < n; i++) {
        q[i * n + i] = 0;
        for (int64_t j = i + 1; j < n; j++) {
            q[i * n + j] = times * gr_param_at(t->q, at++);
            q[j * n + i] = -q[i * n + j];
        }
    }
}

/* R - I by the series; power p of Q at powers + (p - 1) n^2, the first of which is there. */
static void series(const struct oft *s, int64_t n, double *powers, double *d) {
    for (int64_t i = 0; i < n * n; i++) d[i] = 0;
    for (int64_t p = 1; p <= highest(s); p++) {
        double *power = powers + (p - 1) * n * n;
        if (p > 1) multiply(n, power - n * n, false, powers, false, false, power);
        for (int64_t i = 0; i < n * n; i++) d[i] += factor(s, p) * power[i];
    }
}

/* dq of a gradient g of R by the series, from the highest power down; `down` has room for two matrices. */
static void series_gradient(const struct oft *s, int64_t n, const double *powers, const double *g, double *down, double *dq) {
    double *at = down, *next = down + n * n;
    int64_t most = highest(s);
    for (int64_t i = 0; i < n * n; i++) {
        dq[i] = 0;
        at[i] = most ? factor(s, most) * g[i] : 0;
    }
    for (int64_t p = most; p > 1; p--) {
        multiply(n, powers + (p - 2) * n * n, true, at, false, true, dq);
        multiply(n, at, false, powers, true, false, next);
        for (int64_t i = 0; i < n * n; i++) at[i] = factor(s, p - 1) * g[i] + next[i];
    }
    for (int64_t i = 0; i < n * n; i++) dq[i] += at[i];
}

/* R = (I - Q) M with M = (I + Q)^-1, into d as R - I: R - I = -2 Q M. */
static void cayley(int64_t n, const double *q, double *work, double *m, double *d) {
    invert(n, q, work, m);
    multiply(n, q, false, m, false, false, d);
    for (int64_t i = 0; i < n * n; i++) d[i] *= -2;
}

/* dQ = -(I + R)^T G M^T. `work` has I + R at first. */
static void cayley_gradient(int64_t n, const double *m, const double *g, double *work, double *more, double *dq) {
    multiply(n, work, true, g, false, false, more);
    multiply(n, more, false, m, true, false, dq);
    for (int64_t i = 0; i < n * n; i++) dq[i] = -dq[i];
}

/* A block's space: the powers (or Q, and two more for its inverse), R - I, its gradient, Q's, and two to go down with. */
static int64_t n_powers(const struct oft *s) { return GR_MAX(highest(s), 3); }
static size_t space_of(const struct oft *s, int64_t n) { return (size_t)((n_powers(s) + 5) * n * n); }

static void turn_block(const block_job *j, int64_t k, double *q) {
    const rotation *t = j->t;
    int64_t n = t->block, width = t->q->shape.d[1], size = n * n;
    double *d = q + n_powers(j->s) * size, *g = d + size, *dq = g + size, *down = dq + size;
    skew(j->s, t, k, q);
    if (j->s->neumann)
        series(j->s, n, q, d);
    else
        cayley(n, q, q + size, q + 2 * size, d);
    for (int64_t i = 0; !j->collect && i < size; i++) gr_param_put(t->d, k * size + i, d[i]);
    if (!j->collect) return;
    for (int64_t i = 0; i < size; i++) g[i] = gr_param_grad_at(t->d, k * size + i);
    if (j->s->neumann)
        series_gradient(j->s, n, q, g, down, dq);
    else {
        for (int64_t i = 0; i < n; i++) d[i * n + i] += 2;
        cayley_gradient(n, q + 2 * size, g, d, down, dq);
    }
    int64_t at = k * width;
    for (int64_t x = 0; x < n; x++)
        for (int64_t y = x + 1; y < n; y++) gr_param_add_grad(t->q, at++, dq[x * n + y] - dq[y * n + x]);
}

static void turn_blocks(void *arg, size_t begin, size_t end, int thread) {
    const block_job *j = arg;
    (void)thread;
    for (size_t i = begin; i < end; i++) turn_block(j, j->first + (int64_t)i, j->space + i * space_of(j->s, j->t->block));
}

/* All blocks of a module, a few at a time, so that what they take stays small. */
static graft_status each_block(gr_adapter *a, const rotation *t, bool collect, graft_error *err) {
    enum { AT_ONCE = 16 };
    block_job job = {.s = a->state, .t = t, .collect = collect};
    size_t at_once = GR_MIN((size_t)t->n_blocks, (size_t)(t->block > 256 ? 1 : AT_ONCE));
    if (!(job.space = gr_alloc(a->a, at_once * space_of(job.s, t->block) * sizeof *job.space))) return gr_fail_memory(err);
    for (; job.first < t->n_blocks; job.first += (int64_t)at_once)
        gr_parallel_for(gr_model_device(a->model)->team, GR_MIN(at_once, (size_t)(t->n_blocks - job.first)), 1, turn_blocks, &job);
    gr_free(a->a, job.space);
    return GRAFT_OK;
}

/* --- Around and in the passes of a step --------------------------------------------------------------------------------------- */

/* coft: what goes beyond the limit is written back shortened. */
static void shorten(const struct oft *s, const rotation *t) {
    int64_t width = t->q->shape.d[1];
    double limit = s->eps / sqrt((double)t->n_blocks);
    for (int64_t k = 0; k < t->n_blocks; k++) {
        double sum = 0;
        for (int64_t i = k * width; i < (k + 1) * width; i++) sum += gr_param_at(t->q, i) * gr_param_at(t->q, i);
        for (int64_t i = k * width; sqrt(2 * sum) > limit && i < (k + 1) * width; i++)
            gr_param_put(t->q, i, gr_param_at(t->q, i) * (limit / sqrt(2 * sum)));
    }
}

static graft_status refresh(gr_adapter *a, uint64_t key, bool training, graft_error *err) {
    const struct oft *s = a->state;
    (void)key;
    for (size_t i = 0; i < s->n; i++) {
        const rotation *t = &s->of[i];
        if (training && s->coft) shorten(s, t);
        GR_TRY(each_block(a, t, false, err));
        if (training) memset(t->d->grad, 0, gr_dtype_bytes(t->d->dtype, (size_t)t->d->n));
    }
    return GRAFT_OK;
}

static graft_status collect(gr_adapter *a, graft_error *err) {
    const struct oft *s = a->state;
    for (size_t i = 0; i < s->n; i++) GR_TRY(each_block(a, &s->of[i], true, err));
    return GRAFT_OK;
}

static graft_status linear(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, const gr_linear *l, gr_var *x, gr_var **y,
                           graft_error *err) {
    const struct oft *s = a->state;
    for (int i = 0; i < l->n_parts; i++) {
        int at = s->of_site[l->site[i]->index];
        if (at < 0) continue;
        gr_rotate_params params = {.w = s->of[at].w, .column = l->offset[i], .n_ranges = rows->n_ranges, .ranges = rows->ranges};
        gr_var *in[3] = {*y, x, NULL};
        GR_TRY(gr_nn_leaf(run->tape, s->of[at].d, &in[2], err));
        GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_rotate, in, 3, &params, y, err));
        gr_var_drop(in[2]);
    }
    return GRAFT_OK;
}

/* A row w becomes w R^T. */
static graft_status merge(const gr_adapter *a, const gr_site *site, int64_t row, int64_t n, float *w, graft_error *err) {
    const struct oft *s = a->state;
    int at = s->of_site[site->index];
    (void)row;
    if (at < 0) return GRAFT_OK;
    const rotation *t = &s->of[at];
    if (t->d->dtype != GR_F32) return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "merging is done in F32 or BF16 models");
    double *more = gr_alloc(a->a, (size_t)t->block * sizeof *more);
    if (!more) return gr_fail_memory(err);
    for (int64_t r = 0; r < n; r++)
        for (int64_t k = 0; k < site->in / t->block; k++) {
            const float *d = (const float *)t->d->value + (t->n_blocks > 1 ? k * t->block * t->block : 0);
            float *part = w + r * site->in + k * t->block;
            for (int64_t i = 0; i < t->block; i++) {
                more[i] = 0;
                for (int64_t c = 0; c < t->block; c++) more[i] += (double)part[c] * (double)d[i * t->block + c];
            }
            for (int64_t i = 0; i < t->block; i++) part[i] = (float)((double)part[i] + more[i]);
        }
    gr_free(a->a, more);
    return GRAFT_OK;
}

static void write_config(const gr_adapter *a, gr_buf *b) {
    const struct oft *s = a->state;
    const gr_lora_config *c = &s->chosen;
    gr_config_add_auto_mapping(b, &c->common);
    gr_config_add_text(b, "base_model_name_or_path", c->common.base_model);
    gr_config_add_text(b, "bias", "none");
    gr_config_add_bool(b, "block_share", s->share);
    gr_config_add_bool(b, "coft", s->coft);
    gr_config_add_float(b, "eps", s->eps);
    gr_config_add_targets(b, "exclude_modules", &c->exclude);
    gr_config_add_bool(b, "fan_in_fan_out", c->fan_in_fan_out);
    gr_config_add_bool(b, "inference_mode", true);
    gr_config_add_bool(b, "init_weights", s->init);
    gr_lora_write_layers(b, c);
    gr_config_add_float(b, "module_dropout", s->module_dropout);
    gr_config_add_targets(b, "modules_to_save", &c->modules_to_save);
    gr_config_add_int(b, "num_cayley_neumann_terms", s->terms);
    gr_config_add_int(b, "oft_block_size", s->block_size);
    gr_config_add_text(b, "peft_type", "OFT");
    gr_config_add_text(b, "peft_version", GR_PEFT_VERSION);
    gr_config_add_int(b, "r", s->r);
    gr_config_add_text(b, "revision", c->common.revision);
    gr_config_add_targets(b, "target_modules", &c->targets);
    gr_config_add_text(b, "task_type", c->common.task_type);
    gr_config_add_bool(b, "use_cayley_neumann", s->neumann);
    gr_config_close(b);
}

static void facts(const gr_adapter *a, gr_buf *b) {
    const struct oft *s = a->state;
    gr_buf_add_format(b, "\"modules\": %zu, ", s->n);
}

const gr_adapter_method gr_adapter_oft = {.name = "oft", .peft_type = "OFT", .state_size = sizeof(struct oft), .create = create,
                                          .free = free_oft, .write_config = write_config, .merge = merge, .facts = facts,
                                          .linear = linear, .refresh = refresh, .collect = collect};
