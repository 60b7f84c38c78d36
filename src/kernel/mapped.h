/* Matrices over mapped files that are larger than memory. */
#ifndef GR_KERNEL_MAPPED_H
#define GR_KERNEL_MAPPED_H

#include "kernel/kernel.h"

/* From now on the pages of the parts leave memory with each product and are read again for the next. Only for parts that lie in
 * a mapped file: what was written into them would be lost. */
void gr_matrix_stream(gr_matrix *w, bool on);
/* w does what `other`, which outlives it, does: they are over the same parts. */
void gr_matrix_follow(gr_matrix *w, const gr_matrix *other);
bool gr_matrix_streams(const gr_matrix *w);
size_t gr_matrix_stored_bytes(const gr_matrix *w); /* of the parts, as they are stored */

#endif
