/* Adapters that peft wrote, with what it computes (tools/golden/make_adapters.py, make_methods.py, make_family_methods.py). */
#ifndef TEST_ADAPTER_GOLDEN_H
#define TEST_ADAPTER_GOLDEN_H

#include "support/model_support.h"

/* The adapter in `dir` gives on the model `base` the golden's logits, loss, gradients, losses of training steps and greedy
 * tokens; merged it gives the golden's "merged" where there are any, with `merges` else its logits; saved again it is the same
 * files. Fails the test with `name`. */
void test_adapter_agrees(graft_context *ctx, const char *name, const char *base, const char *dir, bool merges);

#endif
