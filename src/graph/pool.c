/* The step arena: best-fit blocks out of a region, neighbours merged.
 *
 * A region is holes and live blocks below `top`, and nothing above. A request takes the smallest hole that is large enough
 * (the lowest of equals), else the space at `top`. The space above `top` is never a hole, so its size decides nothing:
 * that makes a dry pool, whose region has no end, choose the same offsets. The largest `top` is the peak. */
#include "graph/graph.h"

#include <assert.h>

typedef struct region {
    char *base; /* dry: an address that is never touched */
    size_t size, top;
} region;

typedef struct block {
    char *at;
    size_t bytes;
} block;

/* Ascending by address. */
typedef struct block_list {
    block *items;
    size_t n, cap;
} block_list;

struct gr_pool {
    const graft_allocator *a;
    bool dry;
    region *regions;
    size_t n_regions, cap_regions;
    block_list live, holes;
    size_t used;
    size_t top, peak; /* sum of the regions' tops, and its largest value */
};

enum { ALIGN = 64 };

/* Dry addresses begin where no process maps anything. */
#define DRY_BASE ((char *)(uintptr_t)ALIGN)

static graft_status add_region(gr_pool *p, size_t bytes, graft_error *err) {
    GR_TRY(gr_grow(p->a, (void **)&p->regions, &p->cap_regions, p->n_regions + 1, sizeof *p->regions, err));
    char *base = gr_alloc_aligned(p->a, bytes);
    if (!base) return gr_fail(err, GRAFT_ERR_MEMORY, "out of memory: no %zu bytes for activations", bytes);
    p->regions[p->n_regions++] = (region){.base = base, .size = bytes};
    return GRAFT_OK;
}

graft_status gr_pool_new(const graft_allocator *a, size_t bytes, bool dry, gr_pool **out, graft_error *err) {
    gr_pool *p = gr_calloc(a, 1, sizeof *p);
    if (!p) return gr_fail_memory(err);
    p->a = a;
    p->dry = dry;
    graft_status st = GRAFT_OK;
    if (dry) {
        GR_GO(fail, gr_grow(a, (void **)&p->regions, &p->cap_regions, 1, sizeof *p->regions, err));
        p->regions[p->n_regions++] = (region){.base = DRY_BASE, .size = SIZE_MAX / 2};
    } else if (bytes) {
        GR_GO(fail, add_region(p, (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1), err));
    }
    *out = p;
    return GRAFT_OK;
fail:
    gr_pool_free(p);
    return st;
}

static void free_regions(gr_pool *p) {
    if (!p->dry)
        for (size_t i = 0; i < p->n_regions; i++) gr_free_aligned(p->a, p->regions[i].base);
    p->n_regions = 0;
}

void gr_pool_free(gr_pool *p) {
    if (!p) return;
    free_regions(p);
    gr_free(p->a, p->regions);
    gr_free(p->a, p->live.items);
    gr_free(p->a, p->holes.items);
    gr_free(p->a, p);
}

size_t gr_pool_peak(const gr_pool *p) { return p->peak; }
void gr_pool_reset_peak(gr_pool *p) { p->peak = p->top; }

size_t gr_pool_used(const gr_pool *p) { return p->used; }

size_t gr_pool_bytes(const gr_pool *p) {
    size_t n = 0;
    for (size_t i = 0; !p->dry && i < p->n_regions; i++) n += p->regions[i].size;
    return n;
}

/* Index of the first block at or above `at`. */
static size_t lower_bound(const block_list *l, const char *at) {
    size_t low = 0, high = l->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (l->items[mid].at < at)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* The list has room. */
static void insert(block_list *l, size_t i, block b) {
    memmove(l->items + i + 1, l->items + i, (l->n - i) * sizeof b);
    l->items[i] = b;
    l->n++;
}

static void erase(block_list *l, size_t i) {
    l->n--;
    memmove(l->items + i, l->items + i + 1, (l->n - i) * sizeof *l->items);
}

static region *region_of(gr_pool *p, const char *at) {
    size_t i = 0;
    while (at < p->regions[i].base || (size_t)(at - p->regions[i].base) >= p->regions[i].size) i++;
    return &p->regions[i];
}

static char *take_hole(gr_pool *p, size_t bytes) {
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < p->holes.n; i++)
        if (p->holes.items[i].bytes >= bytes && (best == SIZE_MAX || p->holes.items[i].bytes < p->holes.items[best].bytes))
            best = i;
    if (best == SIZE_MAX) return NULL;
    block *hole = &p->holes.items[best];
    char *at = hole->at;
    if (hole->bytes == bytes) {
        erase(&p->holes, best);
    } else {
        hole->at += bytes;
        hole->bytes -= bytes;
    }
    return at;
}

static char *take_top(gr_pool *p, size_t bytes) {
    for (size_t i = 0; i < p->n_regions; i++) {
        region *r = &p->regions[i];
        if (r->size - r->top < bytes) continue;
        char *at = r->base + r->top;
        r->top += bytes;
        p->top += bytes;
        p->peak = GR_MAX(p->peak, p->top);
        return at;
    }
    return NULL;
}

graft_status gr_pool_take(gr_pool *p, size_t bytes, void **out, graft_error *err) {
    size_t n;
    if (__builtin_add_overflow(bytes ? bytes : 1, ALIGN - 1, &n) || n > PTRDIFF_MAX / 2)
        return gr_fail(err, GRAFT_ERR_LIMIT, "a block of %zu bytes is too large for this machine", bytes);
    n &= ~(size_t)(ALIGN - 1);
    /* Room for one more live block, and for the hole that each live block may become: giving back cannot fail. */
    GR_TRY(gr_grow(p->a, (void **)&p->live.items, &p->live.cap, p->live.n + 1, sizeof(block), err));
    GR_TRY(gr_grow(p->a, (void **)&p->holes.items, &p->holes.cap, p->holes.n + p->live.n + 1, sizeof(block), err));
    if (!p->live.n && p->n_regions > 1) {
        size_t all = gr_pool_bytes(p);
        free_regions(p);
        GR_TRY(add_region(p, GR_MAX(all, n), err));
    }
    char *at = take_hole(p, n);
    if (!at) at = take_top(p, n);
    if (!at) {
        GR_TRY(add_region(p, GR_MAX(n, gr_pool_bytes(p)), err));
        at = take_top(p, n);
    }
    insert(&p->live, lower_bound(&p->live, at), (block){at, n});
    p->used += n;
    *out = at;
    return GRAFT_OK;
}

void gr_pool_give(gr_pool *p, void *address) {
    if (!address) return;
    size_t i = lower_bound(&p->live, address);
    assert(i < p->live.n && p->live.items[i].at == address);
    block b = p->live.items[i];
    erase(&p->live, i);
    p->used -= b.bytes;
    region *r = region_of(p, b.at);
    size_t h = lower_bound(&p->holes, b.at);
    /* Two regions never touch: an allocation keeps its header between them. */
    if (h < p->holes.n && b.at + b.bytes == p->holes.items[h].at) {
        b.bytes += p->holes.items[h].bytes;
        erase(&p->holes, h);
    }
    if (h > 0 && p->holes.items[h - 1].at + p->holes.items[h - 1].bytes == b.at) {
        h--;
        b.at = p->holes.items[h].at;
        b.bytes += p->holes.items[h].bytes;
        erase(&p->holes, h);
    }
    if (b.at + b.bytes == r->base + r->top) {
        r->top -= b.bytes;
        p->top -= b.bytes;
    } else {
        insert(&p->holes, h, b);
    }
}
