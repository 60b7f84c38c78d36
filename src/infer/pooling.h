/* How sentence-transformers makes one vector of a text: what stands beside a model for it. */
#ifndef GR_INFER_POOLING_H
#define GR_INFER_POOLING_H

#include "base/base.h"

typedef struct gr_pooling {
    enum { GR_POOL_MEAN, GR_POOL_MEAN_SQRT, GR_POOL_MAX, GR_POOL_FIRST, GR_POOL_LAST } how;
    bool normalize;
    size_t max_length; /* tokens of a text; 0: says nothing */
} gr_pooling;

/* modules.json, the pooling's config.json and sentence_bert_config.json of a directory; without them the mean over the
 * tokens, of length 1. Modules that are none of these are refused by name. */
graft_status gr_pooling_load(const graft_allocator *a, const char *dir, gr_pooling *out, graft_error *err);

#endif
