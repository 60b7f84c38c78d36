/* Chat templates for the rooms above, which hold their conversations as jansson values. */
#ifndef GR_TEXT_TEMPLATE_H
#define GR_TEXT_TEMPLATE_H

#include <jansson.h>
#include "graft/template.h"

/* As graft_template_render with the variables of the object `vars` (borrowed, not changed). */
graft_status gr_template_render(const graft_template *t, const json_t *vars, const graft_template_options *options,
                                char **out, size_t *out_len, graft_spans *spans, graft_error *err);

#endif
