/* The one way to memory. Every allocation of the library goes through the context's graft_allocator, so that tests
 * can fail allocation number k for every k. */
#ifndef GR_BASE_ALLOC_H
#define GR_BASE_ALLOC_H

#include <stddef.h>
#include "graft/context.h"

/* NULL when out of memory; n == 0 gives a valid pointer. `a` NULL means the C library's allocator. */
void *gr_alloc(const graft_allocator *a, size_t n);
void *gr_calloc(const graft_allocator *a, size_t count, size_t size);                  /* zeroed; NULL on overflow */
void *gr_realloc(const graft_allocator *a, void *ptr, size_t n);                       /* n > 0 */
void *gr_realloc_array(const graft_allocator *a, void *ptr, size_t count, size_t size); /* NULL on overflow */
void gr_free(const graft_allocator *a, void *ptr);

/* 64-byte aligned, for tensors. Freed with gr_free_aligned only. */
void *gr_alloc_aligned(const graft_allocator *a, size_t n);
void gr_free_aligned(const graft_allocator *a, void *ptr);
/* As gr_alloc_aligned, for memory that is read from end to end again and again: on huge pages, as far as the system has them
 * and n fills some. *owner, not what is returned, goes to gr_free_aligned. */
void *gr_alloc_huge(const graft_allocator *a, size_t n, void **owner);

/* Copies; NULL when out of memory. */
char *gr_strdup(const graft_allocator *a, const char *text);
char *gr_strndup(const graft_allocator *a, const char *text, size_t n);

/* Growable typed arrays: makes room for `need` elements; doubles, so that pushes are amortised O(1).
 * Usage: GR_TRY(gr_grow(a, (void **)&v->items, &v->cap, v->n + 1, sizeof *v->items, err)); */
graft_status gr_grow(const graft_allocator *a, void **items, size_t *cap, size_t need, size_t size, graft_error *err);

/* Bump arena: many small objects that die together. Memory is aligned to 16 bytes; gr_arena_align64 gives 64. */
typedef struct gr_arena_block gr_arena_block;
typedef struct gr_arena {
    const graft_allocator *a;
    gr_arena_block *top;
    size_t used, limit; /* bytes handed out; allocation beyond limit fails (0: no limit) */
    size_t first;       /* size of the next first block, learnt by gr_arena_rewind */
} gr_arena;

void gr_arena_init(gr_arena *arena, const graft_allocator *a, size_t limit);
void *gr_arena_alloc(gr_arena *arena, size_t n); /* zeroed; NULL when out of memory or over the limit */
char *gr_arena_strndup(gr_arena *arena, const char *text, size_t n);
void gr_arena_free(gr_arena *arena); /* all of it; the arena may be used again */
/* Forgets all objects and keeps the memory: an arena that is filled alike again and again soon calls no allocator. */
void gr_arena_rewind(gr_arena *arena);

#endif
