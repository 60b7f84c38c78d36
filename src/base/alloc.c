#include <stdlib.h>
#include <sys/mman.h>

#include "base/base.h"

static void *libc_resize(void *ptr, size_t size) {
    if (size == 0) {
        free(ptr);
        return NULL;
    }
    return realloc(ptr, size);
}

static void *resize(const graft_allocator *a, void *ptr, size_t size) {
    return a && a->resize ? a->resize(a->user, ptr, size) : libc_resize(ptr, size);
}

void *gr_alloc(const graft_allocator *a, size_t n) { return resize(a, NULL, n ? n : 1); }

void *gr_calloc(const graft_allocator *a, size_t count, size_t size) {
    size_t n;
    if (__builtin_mul_overflow(count, size, &n)) return NULL;
    void *p = gr_alloc(a, n);
    if (p) memset(p, 0, n);
    return p;
}

void *gr_realloc(const graft_allocator *a, void *ptr, size_t n) { return resize(a, ptr, n ? n : 1); }

void *gr_realloc_array(const graft_allocator *a, void *ptr, size_t count, size_t size) {
    size_t n;
    if (__builtin_mul_overflow(count, size, &n)) return NULL;
    return gr_realloc(a, ptr, n);
}

void gr_free(const graft_allocator *a, void *ptr) {
    if (ptr) resize(a, ptr, 0);
}

/* The distance back to the true start stands in the bytes just before the aligned address. */
void *gr_alloc_aligned(const graft_allocator *a, size_t n) {
    size_t total;
    if (__builtin_add_overflow(n, 64 + sizeof(size_t), &total)) return NULL;
    char *raw = gr_alloc(a, total);
    if (!raw) return NULL;
    char *p = (char *)(((uintptr_t)raw + sizeof(size_t) + 63) & ~(uintptr_t)63);
    size_t back = (size_t)(p - raw);
    memcpy(p - sizeof back, &back, sizeof back);
    return p;
}

void gr_free_aligned(const graft_allocator *a, void *ptr) {
    if (!ptr) return;
    size_t back;
    memcpy(&back, (char *)ptr - sizeof back, sizeof back);
    gr_free(a, (char *)ptr - back);
}

void *gr_alloc_huge(const graft_allocator *a, size_t n, void **owner) {
    enum { HUGE = 2 << 20 };
    size_t total;
    if (n < HUGE) return *owner = gr_alloc_aligned(a, n);
    if (__builtin_add_overflow(n, HUGE, &total) || !(*owner = gr_alloc_aligned(a, total))) return *owner = NULL;
    char *p = (char *)(((uintptr_t)*owner + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
    madvise(p, n, MADV_HUGEPAGE); /* a hint: without huge pages the memory is as good */
    return p;
}

char *gr_strndup(const graft_allocator *a, const char *text, size_t n) {
    char *p = gr_alloc(a, n + 1);
    if (!p) return NULL;
    if (n) memcpy(p, text, n);
    p[n] = '\0';
    return p;
}

char *gr_strdup(const graft_allocator *a, const char *text) { return gr_strndup(a, text, strlen(text)); }

graft_status gr_grow(const graft_allocator *a, void **items, size_t *cap, size_t need, size_t size, graft_error *err) {
    if (need <= *cap) return GRAFT_OK;
    size_t want = *cap < 8 ? 8 : *cap * 2;
    if (want < need) want = need;
    void *p = gr_realloc_array(a, *items, want, size);
    if (!p) return gr_fail_memory(err);
    *items = p;
    *cap = want;
    return GRAFT_OK;
}

struct gr_arena_block {
    gr_arena_block *below;
    size_t used, size;
    _Alignas(16) char bytes[];
};

void gr_arena_init(gr_arena *arena, const graft_allocator *a, size_t limit) {
    *arena = (gr_arena){.a = a, .limit = limit};
}

void *gr_arena_alloc(gr_arena *arena, size_t n) {
    size_t rounded;
    if (__builtin_add_overflow(n ? n : 1, 15, &rounded)) return NULL;
    rounded &= ~(size_t)15;
    if (arena->limit && (rounded > arena->limit || arena->used > arena->limit - rounded)) return NULL;
    gr_arena_block *top = arena->top;
    if (!top || top->size - top->used < rounded) {
        size_t size = top ? GR_MIN(top->size * 2, (size_t)1 << 20) : GR_MAX(arena->first, 4096);
        if (size < rounded) size = rounded;
        gr_arena_block *block = gr_alloc(arena->a, sizeof *block + size);
        if (!block) return NULL;
        *block = (gr_arena_block){.below = top, .size = size};
        arena->top = top = block;
    }
    void *p = top->bytes + top->used;
    top->used += rounded;
    arena->used += rounded;
    memset(p, 0, rounded);
    return p;
}

char *gr_arena_strndup(gr_arena *arena, const char *text, size_t n) {
    if (n == SIZE_MAX) return NULL;
    char *p = gr_arena_alloc(arena, n + 1);
    if (p && n) memcpy(p, text, n);
    return p;
}

void gr_arena_free(gr_arena *arena) {
    while (arena->top) {
        gr_arena_block *below = arena->top->below;
        gr_free(arena->a, arena->top);
        arena->top = below;
    }
    arena->used = 0;
}

void gr_arena_rewind(gr_arena *arena) {
    if (!arena->top) return;
    if (arena->top->below) { /* several blocks: one as large as all of them from now on */
        size_t all = 0;
        for (const gr_arena_block *b = arena->top; b; b = b->below) all += b->size;
        gr_arena_free(arena);
        arena->first = all;
        return;
    }
    arena->top->used = 0;
    arena->used = 0;
}
