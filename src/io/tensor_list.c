/* Sorted lists of named tensors. */
#include "io/tensor_list.h"

#include <stdlib.h>

static int by_name(const void *a, const void *b) {
    return strcmp(((const gr_named_tensor *)a)->name, ((const gr_named_tensor *)b)->name);
}

const gr_named_tensor *gr_tensor_list_find(const gr_tensor_list *list, const char *name) {
    if (!list->n) return NULL;
    gr_named_tensor key = {.name = name};
    return bsearch(&key, list->items, list->n, sizeof key, by_name);
}

int64_t gr_tensor_list_sort(gr_named_tensor *items, size_t n) {
    if (n) qsort(items, n, sizeof *items, by_name);
    for (size_t i = 1; i < n; i++)
        if (strcmp(items[i - 1].name, items[i].name) == 0) return (int64_t)i;
    return -1;
}
