/* Best fit decreasing in O(n log capacity). A tree over the values 1..capacity knows which amounts of room exist; for
 * each amount the bins that have it wait in a queue. Ties are broken as trl's _pack_bfd breaks them (stable sort, first
 * in first out), so that the bins are the same. */
#include "data/pack.h"

#define NONE UINT32_MAX

typedef struct packer {
    uint32_t size;         /* leaves: a power of two over capacity */
    uint8_t *tree;         /* node k: whether any room below it exists; leaf of room r is size + r */
    uint32_t *head, *tail; /* of the queue for each amount of room */
    uint32_t *next;        /* bin behind this one in its queue; later: sequence behind this one in its bin */
    uint32_t *room, *first, *last; /* of each bin; first and last sequence */
    uint32_t *chain;       /* sequence behind this one in its bin */
    uint32_t *sorted;
} packer;

static void set_room(packer *p, uint32_t room, bool there) {
    uint32_t k = p->size + room;
    p->tree[k] = there;
    while (k > 1) {
        k >>= 1;
        p->tree[k] = p->tree[2 * k] | p->tree[2 * k + 1];
    }
}

/* The least room of at least `need` that exists, or NONE. */
static uint32_t find_room(const packer *p, uint32_t need) {
    uint32_t k = p->size + need;
    if (p->tree[k]) return need;
    while (k > 1 && !((k & 1) == 0 && p->tree[k + 1])) k >>= 1;
    if (k == 1) return NONE;
    k++;
    while (k < p->size) k = p->tree[2 * k] ? 2 * k : 2 * k + 1;
    return k - p->size;
}

static void enqueue(packer *p, uint32_t bin) {
    uint32_t room = p->room[bin];
    p->next[bin] = NONE;
    if (room == 0) return;
    if (p->head[room] == NONE) {
        p->head[room] = bin;
        set_room(p, room, true);
    } else {
        p->next[p->tail[room]] = bin;
    }
    p->tail[room] = bin;
}

static uint32_t dequeue(packer *p, uint32_t room) {
    uint32_t bin = p->head[room];
    p->head[room] = p->next[bin];
    if (p->head[room] == NONE) set_room(p, room, false);
    return bin;
}

/* Longest first; equal lengths keep their order (counting sort). */
static void sort_lengths(packer *p, const uint32_t *lengths, size_t n, uint32_t capacity) {
    uint32_t *count = p->head; /* borrowed: the queues start later */
    memset(count, 0, ((size_t)capacity + 1) * sizeof *count);
    for (size_t i = 0; i < n; i++) count[lengths[i]]++;
    uint32_t at = 0;
    for (uint32_t length = capacity + 1; length-- > 0;) {
        uint32_t c = count[length];
        count[length] = at;
        at += c;
    }
    for (size_t i = 0; i < n; i++) p->sorted[count[lengths[i]]++] = (uint32_t)i;
}

static size_t fill(packer *p, const uint32_t *lengths, size_t n, uint32_t capacity) {
    size_t bins = 0;
    memset(p->head, 0xFF, ((size_t)capacity + 1) * sizeof *p->head);
    for (size_t i = 0; i < n; i++) {
        uint32_t sequence = p->sorted[i], length = lengths[sequence], bin, room = find_room(p, length);
        p->chain[sequence] = NONE;
        if (room == NONE) {
            bin = (uint32_t)bins++;
            p->room[bin] = capacity;
            p->first[bin] = sequence;
        } else {
            bin = dequeue(p, room);
            p->chain[p->last[bin]] = sequence;
        }
        p->last[bin] = sequence;
        p->room[bin] -= length;
        enqueue(p, bin);
    }
    return bins;
}

graft_status gr_pack_bins(const graft_allocator *a, const uint32_t *lengths, size_t n, uint32_t capacity,
                          uint32_t *order, uint32_t *starts, size_t *n_bins, graft_error *err) {
    packer p = {.size = 1};
    if (capacity == 0 || capacity >= UINT32_MAX / 4 || n >= NONE)
        return gr_fail(err, GRAFT_ERR_LIMIT, "expected rows of 1 to %u tokens to pack, found %u",
                       UINT32_MAX / 4 - 1, capacity);
    for (size_t i = 0; i < n; i++)
        if (lengths[i] == 0 || lengths[i] > capacity)
            return gr_fail(err, GRAFT_ERR_MISMATCH, "expected examples of 1 to %u tokens to pack, found %u",
                           capacity, lengths[i]);
    while (p.size <= capacity) p.size *= 2;
    size_t rooms = (size_t)capacity + 1;
    uint32_t *block = gr_calloc(a, 2 * rooms + 6 * n, sizeof *block);
    p.tree = gr_calloc(a, 2 * (size_t)p.size, 1);
    if (block && p.tree) {
        p.head = block;
        p.tail = p.head + rooms;
        p.next = p.tail + rooms;
        p.room = p.next + n;
        p.first = p.room + n;
        p.last = p.first + n;
        p.chain = p.last + n;
        p.sorted = p.chain + n;
        sort_lengths(&p, lengths, n, capacity);
        size_t bins = fill(&p, lengths, n, capacity), at = 0;
        for (size_t b = 0; b < bins; b++) {
            starts[b] = (uint32_t)at;
            for (uint32_t s = p.first[b]; s != NONE; s = p.chain[s]) order[at++] = s;
        }
        starts[bins] = (uint32_t)at;
        *n_bins = bins;
    }
    bool made = block && p.tree;
    gr_free(a, block);
    gr_free(a, p.tree);
    return made ? GRAFT_OK : gr_fail_memory(err);
}
