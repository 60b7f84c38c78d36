/* Models without weights, and weights that do not fit memory: what plans need to know of both. */
#ifndef GR_MODEL_SHAPE_H
#define GR_MODEL_SHAPE_H

#include "model/model.h"

/* Whether a directory holds a config.json and no weights. */
bool gr_path_is_shape(const graft_allocator *a, const char *path);
/* As gr_model_open, of such a directory: every tensor has the type that config.json names and reads as zeros, which take
 * no memory. For dry passes; parameters of adapters over it share one piece of memory. */
graft_status gr_model_open_shape(graft_context *ctx, const char *path, const gr_model_options *options, gr_model **out,
                                 graft_error *err);
bool gr_model_is_shape(const gr_model *m);
/* Memory of a shape for values that nobody reads: valid until the model is closed, the same for all who ask. */
graft_status gr_model_shape_scratch(gr_model *m, size_t bytes, void **out, graft_error *err);

/* Bytes of weights that are (of a shape, would be) read from mapped files, and of those that were made while loading. */
size_t gr_model_mapped_bytes(const gr_model *m);
size_t gr_model_made_bytes(const gr_model *m);

/* Bytes of memory that `spec` (INT8, or NF4 with double quantisation) would save; 0: nothing, or products in other than floats. */
size_t gr_model_saved_by(const gr_model *m, const gr_quantize_spec *spec);

/* The pages of a site's weight, of which somebody has read rows, leave memory again where those of its product do, where the table
 * is one that is only looked up, or `anyway`. What does not lie in a file stays. */
void gr_model_leave(const gr_model *m, const gr_site *s, bool anyway);

/* Keeps at most `budget` bytes of the mapped weights in memory: of matrices that find no room the pages leave with each
 * product and are read again for the next. The same bits. *kept, *streamed (may be NULL): bytes of either kind; `apply`
 * false only counts. */
graft_status gr_model_stream(gr_model *m, size_t budget, bool apply, size_t *kept, size_t *streamed, graft_error *err);
/* The smallest budget: all that is no matrix and the largest of them; where weights were made while loading, everything. */
size_t gr_model_least_mapped(const gr_model *m);
/* What loading touched of the mapped weights need not stay in memory. */
void gr_model_release(const gr_model *m);

#endif
