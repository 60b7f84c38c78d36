/* What the files of str's methods share. */
#ifndef GR_TEXT_JINJA_STR_H
#define GR_TEXT_JINJA_STR_H

#include "text/jinja_run.h"

bool gr_j_is_cased_as(const gr_jstr *s, gr_jcase how); /* GR_JLOWER, GR_JUPPER, GR_JTITLE */
bool gr_j_is_all(const gr_jstr *s, bool (*property)(int32_t cp), bool when_empty);
bool gr_j_is_identifier(const gr_jstr *s);

/* str.split and str.rsplit; sep NULL: runs of whitespace; max < 0: no limit. */
graft_status gr_j_split(gr_jrun *run, gr_jstr *s, const gr_jstr *sep, int64_t max, bool from_right, gr_jv *out);
graft_status gr_j_partition(gr_jrun *run, gr_jstr *s, const gr_jstr *sep, bool from_right, gr_jv *out);
graft_status gr_j_expandtabs(gr_jrun *run, gr_jstr *s, int64_t size, gr_jv *out);

#endif
