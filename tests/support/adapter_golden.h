/* Adapters that peft wrote, with what it computes (tools/golden/make_adapters.py, make_methods.py, make_family_methods.py). */
#ifndef TEST_ADAPTER_GOLDEN_H
#define TEST_ADAPTER_GOLDEN_H

#include "support/model_support.h"

/* The adapter in `dir` gives on the model `base` the golden's logits, loss, gradients, losses of training steps and greedy
 * tokens; merged it gives the golden's "merged" where there are any, with `merges` else its logits; saved again it is the same
 * files. Fails the test with `name`. */
void test_adapter_agrees(graft_context *ctx, const char *name, const char *base, const char *dir, bool merges);

/* Parts of it, for the model's first adapter, "a". */
extern double test_logits_within; /* error of logits, of the largest */
void test_compare(const char *name, graft_model *m, const gr_tensor_list *want, int stride, const char *logits, bool backward);
void test_compare_steps(const char *name, graft_model *m, const gr_tensor_list *want);
void test_compare_merged(const char *name, graft_context *ctx, graft_model *m, const gr_tensor_list *want, int stride);
/* All of that but saving. */
void test_adapter_computes(graft_context *ctx, const char *name, const char *base, const char *dir);

#endif
