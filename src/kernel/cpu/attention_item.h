/* Attention in blocks of keys: what attention.c and attention_few.c share. */
#ifndef GR_KERNEL_CPU_ATTENTION_ITEM_H
#define GR_KERNEL_CPU_ATTENTION_ITEM_H

#include "kernel/cpu/attention.h"
#include "kernel/cpu/product.h"

enum {
    GR_KEYS = GR_PANEL,     /* of a block */
    GR_TILE = 48,           /* query rows of a tile: whole register tiles */
    GR_STEP = 32,           /* query rows of a tile on tile registers: a step, and the longest step of any level */
    GR_CHUNK_ROWS = 18 * GR_TILE, /* query rows, all heads of the group, that use a packed block before the next is packed */
    GR_LANES = 16,
    GR_FEW = 16 /* rows of a tile that keys are multiplied with as they lie */
};

/* Arrays of one thread. Sums are float; packed elements are float or bf16 by level. */
typedef struct gr_attention_space {
    float *acc;         /* (heads of the group, chunk, dim): O, or dQ */
    float *max, *lanes; /* (heads, chunk), (heads, chunk, GR_LANES); backward: max holds D */
    float *s, *dp;      /* (GR_TILE, GR_KEYS) */
    char *p, *ds;       /* (GR_TILE, GR_KEYS) packed type */
    char *pt;           /* transposed P or dS where pairs must be interleaved */
    char *keys, *values; /* (GR_KEYS, dim) of a block that spans segments */
    char *k_t, *v_t, *k_panels, *v_panels;
    char *q_rows, *do_rows;     /* (heads, chunk, dim) packed type where A must be packed */
    char *q_panels, *do_panels; /* backward: (heads, tiles, panels of dim) */
    char *q_few;                /* forward: a panel of GR_FEW columns */
    float *s_t;                 /* forward: (GR_KEYS, GR_FEW) */
    float *dk, *dv;             /* backward: (keys of the sequence, dim) */
    float *dbias;               /* backward: (heads of the group, gr_bias_span) */
    size_t bytes;
} gr_attention_space;

/* A chunk of the queries of one sequence, and one key/value head. */
typedef struct gr_attention_item {
    const gr_attention *a;
    const gr_attention_seq *seq;
    const gr_cpu_kernels *cpu;
    const gr_product_kernels *k;
    const gr_attention_rows *rows;
    const gr_row_kernels *plain; /* F32 */
    gr_attention_space w;
    int kv_head, group, dim;
    int64_t tile;           /* query rows of a tile, at most GR_TILE */
    int64_t q0, n_q;        /* the chunk, within the sequence's queries */
    int64_t stride;         /* rows of a head in acc, max, lanes and q_rows */
    bool few;               /* q_few is filled */
    int64_t key0, n_keys;   /* the block */
    int seg0;               /* the first segment that reaches into it, and the number of that one's first key */
    int64_t first0;
    int64_t key_pos;        /* position of its first key where all stand in order of position */
    bool in_order;
    size_t packed, step_bytes;
} gr_attention_item;

/* Segment s, whose first key is number `first`, over those of the block. */
#define GR_FOR_SEGMENTS(t, s, first)                                                                                   \
    for (int64_t s = (t)->seg0, first = (t)->first0; s < (t)->seq->n_segments && first < (t)->key0 + (t)->n_keys;      \
         first += (t)->seq->segments[s++].n)

/* The segment that holds the whole block in a form that the tile of few rows is multiplied with as it lies; NULL: none does. */
const gr_kv_segment *gr_few_lies_whole(const gr_attention_item *t);
/* S of that tile. */
void gr_few_scores(const gr_attention_item *t, const gr_kv_segment *seg);
/* Panels of the block's values, which are kept in blocks. */
void gr_few_values(const gr_attention_item *t, const gr_kv_segment *seg);
/* Fetches keys and values of the block after this one. */
void gr_few_fetch_next(const gr_attention_item *t);

#endif
