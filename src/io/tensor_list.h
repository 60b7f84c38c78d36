/* Named tensors in name order: what every tensor file gives. */
#ifndef GR_IO_TENSOR_LIST_H
#define GR_IO_TENSOR_LIST_H

#include "tensor/tensor.h"

typedef struct gr_named_tensor {
    const char *name; /* NUL-terminated UTF-8, as stored */
    const char *file; /* path of the file (shard) that holds it */
    gr_tensor_view view;
} gr_named_tensor;

typedef struct gr_tensor_list {
    const gr_named_tensor *items; /* ascending bytewise by name, no name twice */
    size_t n;
} gr_tensor_list;

/* NULL when absent. O(log n). */
const gr_named_tensor *gr_tensor_list_find(const gr_tensor_list *list, const char *name);

/* For readers: sorts in place; the index of a name that stands there twice, or -1. */
int64_t gr_tensor_list_sort(gr_named_tensor *items, size_t n);

#endif
