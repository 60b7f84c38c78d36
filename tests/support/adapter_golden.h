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
/* Moments of AdamW for all parameters of the adapter, and its update number `step` (from 1) with the goldens' settings. */
float **test_new_moments(const graft_model *m);
void test_update(graft_model *m, float **moments, int step);
void test_free_moments(const graft_model *m, float **moments);
/* Each line "NAME BASE FORMAT" of golden FOLDER/cases.txt: the adapter FOLDER/NAME over what `load` makes of the other two, and
 * its golden.safetensors. Returns how many there were. */
typedef graft_model *(*test_load_base)(graft_context *ctx, const char *base, const char *format);
typedef void (*test_case_check)(const char *name, graft_model *m, const gr_tensor_list *golden);
size_t test_each_case(const char *folder, test_load_base load, test_case_check check);
void test_compare_steps(const char *name, graft_model *m, const gr_tensor_list *want);
void test_compare_merged(const char *name, graft_context *ctx, graft_model *m, const gr_tensor_list *want, int stride);
/* All of that but saving. */
void test_adapter_computes(graft_context *ctx, const char *name, const char *base, const char *dir);

#endif
