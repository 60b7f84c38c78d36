/* Room 9, eval: how good a model's text is. eval.c runs a model over records; the metrics stand on nothing but text:
 * words.h turns text into words, rouge.c and match.c compare them (graft/metrics.h). */
#ifndef GR_EVAL_METRICS_H
#define GR_EVAL_METRICS_H

#include "base/base.h"
#include "graft/metrics.h"

/* Stems a word of lower-case ASCII letters and digits in place, as nltk 3.10's PorterStemmer does by default (Porter,
 * "An algorithm for suffix stripping", 1980, with nltk's changes). Returns the new length, never more than n. */
size_t gr_porter_stem(char *word, size_t n);

/* Text as str.lower() of Python gives it; ill-formed bytes become U+FFFD. */
void gr_text_lower(gr_buf *out, const char *text, size_t len);
bool gr_is_white(int32_t cp);        /* str.isspace */
bool gr_is_alphanumeric(int32_t cp); /* str.isalnum */
bool gr_is_punctuation(int32_t cp);  /* string.punctuation: ASCII only */

#endif
