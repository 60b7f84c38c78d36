/* Filters, spread over several files; the table stands in jinja_filter.c. */
#ifndef GR_TEXT_JINJA_FILTER_H
#define GR_TEXT_JINJA_FILTER_H

#include "text/jinja_run.h"

#define GR_JFILTER(name) graft_status name(gr_jrun *run, gr_jv *args, const gr_jargs *raw, gr_jv *out)

/* jinja_filter_text.c */
GR_JFILTER(gr_j_filter_capitalize);
GR_JFILTER(gr_j_filter_center);
GR_JFILTER(gr_j_filter_escape);
GR_JFILTER(gr_j_filter_forceescape);
GR_JFILTER(gr_j_filter_format);
GR_JFILTER(gr_j_filter_indent);
GR_JFILTER(gr_j_filter_join);
GR_JFILTER(gr_j_filter_lower);
GR_JFILTER(gr_j_filter_replace);
GR_JFILTER(gr_j_filter_safe);
GR_JFILTER(gr_j_filter_string);
GR_JFILTER(gr_j_filter_title);
GR_JFILTER(gr_j_filter_trim);
GR_JFILTER(gr_j_filter_truncate);
GR_JFILTER(gr_j_filter_upper);
GR_JFILTER(gr_j_filter_wordcount);

/* jinja_filter_web.c */
GR_JFILTER(gr_j_filter_striptags);
GR_JFILTER(gr_j_filter_urlencode);
GR_JFILTER(gr_j_filter_xmlattr);

/* jinja_filter_wrap.c */
GR_JFILTER(gr_j_filter_wordwrap);

/* jinja_filter_seq.c */
GR_JFILTER(gr_j_filter_dictsort);
GR_JFILTER(gr_j_filter_first);
GR_JFILTER(gr_j_filter_groupby);
GR_JFILTER(gr_j_filter_last);
GR_JFILTER(gr_j_filter_length);
GR_JFILTER(gr_j_filter_list);
GR_JFILTER(gr_j_filter_max);
GR_JFILTER(gr_j_filter_min);
GR_JFILTER(gr_j_filter_reverse);
GR_JFILTER(gr_j_filter_sort);
GR_JFILTER(gr_j_filter_sum);

/* jinja_filter_lazy.c: those that give generators */
GR_JFILTER(gr_j_filter_batch);
GR_JFILTER(gr_j_filter_items);
GR_JFILTER(gr_j_filter_map);
GR_JFILTER(gr_j_filter_reject);
GR_JFILTER(gr_j_filter_rejectattr);
GR_JFILTER(gr_j_filter_select);
GR_JFILTER(gr_j_filter_selectattr);
GR_JFILTER(gr_j_filter_slice);
GR_JFILTER(gr_j_filter_unique);

/* jinja_pprint.c */
GR_JFILTER(gr_j_filter_pprint);

/* Strings in lower case, everything else as it is. */
graft_status gr_j_ignore_case(gr_jrun *run, gr_jv v, gr_jv *out);

#endif
