/* What tests of models share: contexts, loading, comparing tensors with goldens, random batches. */
#ifndef TEST_MODEL_SUPPORT_H
#define TEST_MODEL_SUPPORT_H

#include "support/support.h"

#include "adapter/adapter.h"
#include "graft/adapter.h"
#include "model/public.h"

/* `a` NULL: the C library's. `cpu` NULL: GRAFT_CPU, else the best. */
graft_context *test_context(const graft_allocator *a, int threads, const char *cpu);
/* "models/NAME" under the goldens. */
const char *test_model_path(const char *name);
graft_model *test_load(graft_context *ctx, const char *path, graft_dtype dtype);

/* Largest error relative to the golden's largest magnitude; the golden holds every stride-th element of `ours`. */
double test_worst_error(const gr_tensor_view *golden, const gr_tensor_view *ours, size_t stride);
/* The same of a gradient, relative to the largest of all where it is zero but for rounding. */
double test_gradient_error(const gr_tensor_view *golden, const gr_tensor_view *ours, size_t stride, double largest);
double test_largest_gradient(const gr_tensor_list *golden);
double test_scalar(const gr_tensor_list *list, const char *name);
/* Copies the inputs of a golden into a file of their own under the temporary folder; the path lives until the next call. */
const char *test_write_inputs(const gr_tensor_list *golden);

/* Fails at the first element whose bits differ. */
void test_assert_same_floats(const float *a, const float *b, size_t n, const char *what);

/* Body of an allocation sweep: a model under the goldens is loaded, a new adapter made for it, all freed. */
typedef struct test_fresh_adapter {
    const char *model, *config;
    graft_model_options options;
} test_fresh_adapter;
graft_status test_open_fresh_adapter(const graft_allocator *a, void *arg);

/* A batch over memory of its own: sequences of the given lengths with ids and labels from a fixed generator. */
typedef struct test_batch {
    gr_batch batch;
    int32_t bounds[65], ids[4096], labels[4096], adapter[64];
    float weight[4096];
    uint64_t key[4096];
} test_batch;
/* Sequence i of any batch with the same seed[i] has the same tokens and dropout keys. */
void test_fill_batch(test_batch *b, int64_t vocab, int n, const int *lengths, const int *seeds);

/* Logits of all tokens, (n_tokens, vocab) floats, freed with free. */
float *test_logits(gr_model *m, const gr_hooks *hooks, const gr_batch *b);
/* Loss of a batch; with `backward` gradients are added to the adapter's parameters. */
double test_loss(gr_model *m, const gr_hooks *hooks, const gr_batch *b, bool backward, bool recompute);
/* A training step over the batch in a pool of the size that was planned without ids: it needs that and no more. `source`: the
 * batch's, or NULL. */
void test_plan_is_exact(gr_model *m, const gr_pass_options *o, gr_batch *b, gr_batch *source);

/* config.json of one folder into another, which is made. */
void test_copy_config(const char *from_dir, const char *dir);
/* The model in `dir`, whose file lies about `tensor` of layer 0's q_proj, is not loaded, and the error says where and
 * `expected`. */
void test_lie_is_refused(graft_context *ctx, const char *dir, size_t i, const char *tensor, const char *expected);

#endif
