/* Low-rank updates of rows by many frozen adapters at once (kernel.h), after SGMV and BGMV (Chen et al. 2023, Punica;
 * Sheng et al. 2023, S-LoRA): one loop over chunks of rows, each of which goes through its own factors from x to y, so
 * that no thread waits for another between the two products and nothing is converted or packed on the way. Where there
 * are fewer chunks than threads, the two products are a loop each, over columns.
 *
 * The kernels over the level's block products are here: a factor that the drivers would multiply in dot form lies as
 * rows, one of outer form as packed panels. */
#include "kernel/cpu/low_rank.h"

/* --- Over block products ------------------------------------------------------------------------------------------ */

enum { DOT_MIN_K = 64 }; /* as gr_gemm */

static const gr_product_kernels *products(const gr_low_rank *f) { return gr_cpu(f->d)->products[gr_type_index(f->dt)]; }

static size_t panel_bytes(const gr_low_rank *f, int64_t k) {
    return (size_t)(gr_round_up(k, products(f)->step) * GR_PANEL) * products(f)->packed_size;
}

/* Bytes of a factor of n rows along k. */
static size_t factor_bytes(const gr_low_rank *f, int64_t n, int64_t k) {
    if (k >= DOT_MIN_K) return gr_round64((size_t)(n * k) * gr_type_size(f->dt));
    return gr_round64((size_t)((n + GR_PANEL - 1) / GR_PANEL) * panel_bytes(f, k));
}

static void pack_factor(const gr_low_rank *f, int64_t n, int64_t k, const void *from, char *to) {
    if (k >= DOT_MIN_K) {
        memcpy(to, from, (size_t)(n * k) * gr_type_size(f->dt));
        return;
    }
    for (int64_t j = 0; j < n; j += GR_PANEL, to += panel_bytes(f, k))
        products(f)->pack_panel(k, GR_MIN(n - j, (int64_t)GR_PANEL), gr_at_const(from, f->dt, j * k), 1, k, to);
}

static size_t a_bytes(const gr_low_rank *f) { return factor_bytes(f, f->rank, f->in); }
static size_t b_bytes(const gr_low_rank *f, int64_t rank, int64_t out) { return factor_bytes(f, out, rank); }
static void pack_a(const gr_low_rank *f, const void *a) { pack_factor(f, f->rank, f->in, a, f->data); }
static void pack_b(const gr_low_rank *f, int part, const void *b) {
    const gr_low_rank_part *p = &f->part[part];
    pack_factor(f, p->out, p->rank, b, f->data + p->b_bytes);
}

static void begin(void *space) { (void)space; }
static void end(void) {}
static int64_t unit(const gr_low_rank *f) {
    (void)f;
    return GR_PANEL;
}

/* sums (m, n) = a (m, k) times columns j .. j+n-1 of the factor, n <= GR_PANEL, j a multiple of it. */
static void multiply(const gr_low_rank *f, const char *factor, int64_t j, int64_t n, int64_t k, int64_t m,
                     const void *a, int64_t lda, void *sums, void *packed) {
    const gr_product_kernels *p = products(f);
    const int64_t size = (int64_t)gr_type_size(f->dt);
    if (k >= DOT_MIN_K) {
        const void *rows[GR_PANEL];
        for (int64_t s = 0; s < k; s += GR_DOT_BLOCK) {
            for (int64_t c = 0; c < n; c++) rows[c] = factor + ((j + c) * k + s) * size;
            p->dot(m, n, GR_MIN(k - s, (int64_t)GR_DOT_BLOCK), gr_at_const(a, f->dt, s), lda, rows, sums, n, s > 0);
        }
        return;
    }
    int64_t row = lda * size, step = size * p->step;
    if (p->pack_a[0]) {
        p->pack_a[0](m, k, a, lda, packed);
        step = (int64_t)p->packed_size * p->step;
        row = gr_round_up(k, p->step) / p->step * step;
        a = packed;
    }
    p->outer(m, n, k, a, row, step, factor + (size_t)(j / GR_PANEL) * panel_bytes(f, k), sums, n, false);
}

static void down(const gr_low_rank *f, int64_t m, const void *x, int64_t x_ld, int64_t first, int64_t last, void *u,
                 void *space) {
    char *sums = (char *)space + 64, *packed = (char *)space + GR_LOW_RANK_SUMS;
    for (int64_t j = first; j < last; j += GR_PANEL) {
        const int64_t n = GR_MIN(last - j, (int64_t)GR_PANEL);
        multiply(f, f->data, j, n, f->in, m, x, x_ld, sums, packed);
        gr_low_rank_put(f, m, j, n, sums, n, u);
    }
}

static void up(const gr_low_rank *f, int part, int64_t m, const void *u, double scale, int64_t first, int64_t last,
               void *y, int64_t y_ld, void *space) {
    const gr_low_rank_part *p = &f->part[part];
    char *sums = (char *)space + 64, *packed = (char *)space + GR_LOW_RANK_SUMS;
    for (int64_t j = first; j < last; j += GR_PANEL) {
        const int64_t n = GR_MIN(last - j, (int64_t)GR_PANEL);
        multiply(f, f->data + p->b_bytes, j, n, p->rank, m, gr_at_const(u, f->dt, p->u_at), f->u_width, sums, packed);
        products(f)->finish(m, n, scale, sums, n, 1, f->dt, gr_at(y, f->dt, p->column + j), y_ld);
    }
}

static const gr_low_rank_kernels over_products = {.a_bytes = a_bytes,
                                                  .b_bytes = b_bytes,
                                                  .pack_a = pack_a,
                                                  .pack_b = pack_b,
                                                  .begin = begin,
                                                  .end = end,
                                                  .unit = unit,
                                                  .down = down,
                                                  .up = up};

void gr_low_rank_put(const gr_low_rank *f, int64_t m, int64_t begin_at, int64_t n, const void *sums, int64_t ld,
                     void *u) {
    for (int i = 0; i < f->n_parts; i++) {
        const gr_low_rank_part *p = &f->part[i];
        const int64_t from = GR_MAX(begin_at, p->at), to = GR_MIN(begin_at + n, p->at + p->rank);
        if (from >= to) continue;
        char *at = gr_at(u, f->dt, p->u_at + from - p->at);
        products(f)->finish(m, to - from, 1, gr_at_const(sums, gr_param_type(f->dt), from - begin_at), ld, 0, f->dt, at,
                            f->u_width);
        if (to < p->at + p->rank || p->rank % GR_LOW_RANK_STEP == 0) continue;
        const size_t rest = (size_t)(GR_LOW_RANK_STEP - p->rank % GR_LOW_RANK_STEP) * gr_type_size(f->dt);
        for (int64_t r = 0; r < m; r++) memset(gr_at(u, f->dt, r * f->u_width + p->u_at + p->rank), 0, rest);
    }
}

/* --- Factors ------------------------------------------------------------------------------------------------------ */

static bool add_bytes(size_t *sum, size_t n) { return !__builtin_add_overflow(*sum, n, sum); }

static graft_status lay_out(gr_low_rank *f, int n, const gr_low_rank_pair *pairs, graft_error *err) {
    f->n_parts = n;
    for (int i = 0; i < n; i++) {
        f->part[i] = (gr_low_rank_part){
            .rank = pairs[i].rank, .out = pairs[i].out, .column = pairs[i].column, .at = f->rank, .u_at = f->u_width};
        f->rank += pairs[i].rank;
        f->u_width += gr_round_up(pairs[i].rank, GR_LOW_RANK_STEP);
    }
    bool fits = add_bytes(&f->bytes, f->k->a_bytes(f));
    for (int i = 0; i < n; i++) {
        f->part[i].b_bytes = f->bytes;
        fits = fits && add_bytes(&f->bytes, f->k->b_bytes(f, pairs[i].rank, pairs[i].out));
    }
    return fits && f->bytes <= SIZE_MAX - 63 ? GRAFT_OK : gr_fail_memory(err);
}

static graft_status pack(gr_low_rank *f, const gr_low_rank_pair *pairs, graft_error *err) {
    int64_t most = f->rank * f->in;
    for (int i = 0; i < f->n_parts; i++) most = GR_MAX(most, pairs[i].rank * pairs[i].out);
    char *rounded = gr_alloc_aligned(gr_allocator(f->d->ctx), (size_t)most * gr_type_size(f->dt));
    if (!rounded) return gr_fail_memory(err);
    for (int i = 0; i < f->n_parts; i++)
        f->d->k->convert(f->d, GR_F32, pairs[i].a, f->dt, gr_at(rounded, f->dt, f->part[i].at * f->in),
                         pairs[i].rank * f->in);
    f->k->pack_a(f, rounded);
    for (int i = 0; i < f->n_parts; i++) {
        f->d->k->convert(f->d, GR_F32, pairs[i].b, f->dt, rounded, pairs[i].rank * pairs[i].out);
        f->k->pack_b(f, i, rounded);
    }
    gr_free_aligned(gr_allocator(f->d->ctx), rounded);
    return GRAFT_OK;
}

static graft_status start(gr_low_rank *f, gr_device *d, gr_dtype dt, int64_t in, int n_pairs,
                          const gr_low_rank_pair *pairs, graft_error *err) {
    *f = (gr_low_rank){
        .d = d, .dt = dt, .in = in, .k = dt == GR_BF16 && gr_cpu(d)->low_rank ? gr_cpu(d)->low_rank : &over_products};
    if (dt != GR_F32 && dt != GR_BF16)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "low-rank factors of %s: expected F32 or BF16", gr_dtype_name(dt));
    return lay_out(f, n_pairs, pairs, err);
}

graft_status gr_low_rank_planned_bytes(gr_device *d, gr_dtype dt, int64_t in, int n_pairs,
                                       const gr_low_rank_pair *pairs, size_t *bytes, graft_error *err) {
    gr_low_rank f;
    GR_TRY(start(&f, d, dt, in, n_pairs, pairs, err));
    *bytes = gr_round64(f.bytes);
    return GRAFT_OK;
}

graft_status gr_low_rank_new(gr_device *d, gr_dtype dt, int64_t in, int n_pairs, const gr_low_rank_pair *pairs,
                             void *memory, gr_low_rank **out, graft_error *err) {
    gr_low_rank *f = gr_calloc(gr_allocator(d->ctx), 1, sizeof *f);
    if (!f) return gr_fail_memory(err);
    graft_status st = start(f, d, dt, in, n_pairs, pairs, err);
    f->lent = memory != NULL;
    if (st == GRAFT_OK) f->data = memory ? memory : gr_alloc_aligned(gr_allocator(d->ctx), f->bytes);
    if (st == GRAFT_OK && !f->data) st = gr_fail_memory(err);
    if (st == GRAFT_OK) st = pack(f, pairs, err);
    if (st != GRAFT_OK) {
        gr_low_rank_free(f);
        return st;
    }
    *out = f;
    return GRAFT_OK;
}

void gr_low_rank_free(gr_low_rank *f) {
    if (!f) return;
    if (!f->lent) gr_free_aligned(gr_allocator(f->d->ctx), f->data);
    gr_free(gr_allocator(f->d->ctx), f);
}

size_t gr_low_rank_bytes(const gr_low_rank *f) { return sizeof *f + f->bytes; }

/* --- Applying them ------------------------------------------------------------------------------------------------ */

typedef struct job {
    const gr_low_rank_use *uses;
    int n;
    const char *x;
    char *y;
    int64_t x_ld, y_ld;
    int64_t chunks, units,
        blocks; /* of rows; of a chunk: at most so many units of columns of u, and blocks of columns of y */
    size_t u_bytes, thread_bytes; /* u of a chunk */
    char *u, *workspace;          /* u NULL: it is the thread's */
} job;

/* The rows of a chunk. */
typedef struct chunk {
    const gr_low_rank_use *use;
    const gr_low_rank *f;
    int64_t begin, m;
} chunk;

static int64_t chunks_of(const gr_low_rank_use *use) {
    return (use->end - use->begin + GR_LOW_RANK_ROWS - 1) / GR_LOW_RANK_ROWS;
}

static chunk find_chunk(const job *w, int64_t i) {
    const gr_low_rank_use *use = w->uses;
    for (; i >= chunks_of(use); use++) i -= chunks_of(use);
    const int64_t first = use->begin + i * GR_LOW_RANK_ROWS;
    return (chunk){use, use->f, first, GR_MIN(use->end - first, (int64_t)GR_LOW_RANK_ROWS)};
}

static char *space_of(const job *w, int thread) { return w->workspace + (size_t)thread * w->thread_bytes; }
static const void *x_of(const job *w, const chunk *c) { return gr_at_const(w->x, c->f->dt, c->begin * w->x_ld); }
static void *y_of(const job *w, const chunk *c) { return gr_at(w->y, c->f->dt, c->begin * w->y_ld); }

/* The factors that come next, up to where the kernels' own fetching takes over. */
static void fetch(const gr_low_rank *f) {
    for (size_t i = 0; i < GR_FETCH_AHEAD && i < f->bytes; i += 64) __builtin_prefetch(f->data + i);
}

static void up_parts(const job *w, const chunk *c, const void *u, void *space) {
    for (int p = 0; p < c->f->n_parts; p++)
        c->f->k->up(c->f, p, c->m, u, c->use->scale[p], 0, c->f->part[p].out, y_of(w, c), w->y_ld, space);
}

/* Chunks i and on, before `last`, that are single rows whose factors are alike; at least one. */
static int find_group(const job *w, size_t i, size_t last, chunk *c) {
    int n = 1;
    c[0] = find_chunk(w, (int64_t)i);
    for (; n < GR_LOW_RANK_GROUP && i + (size_t)n < last && c[0].f->k->down_rows; n++) {
        c[n] = find_chunk(w, (int64_t)i + n);
        if (c[0].m > 1 || c[n].m > 1 || c[n].f->rank != c[0].f->rank) break;
    }
    return n;
}

static void whole_item(void *arg, size_t first, size_t last, int thread) {
    const job *w = arg;
    char *u = space_of(w, thread), *space = u + w->u_bytes;
    w->uses[0].f->k->begin(space);
    for (size_t i = first; i < last;) {
        chunk c[GR_LOW_RANK_GROUP];
        const gr_low_rank *f[GR_LOW_RANK_GROUP];
        const void *x[GR_LOW_RANK_GROUP];
        void *to[GR_LOW_RANK_GROUP];
        const int n = find_group(w, i, last, c);
        for (int j = 0; j < n; j++) {
            f[j] = c[j].f;
            x[j] = x_of(w, &c[j]);
            to[j] = u + (size_t)j * (w->u_bytes / GR_LOW_RANK_ROWS);
        }
        if (n > 1)
            f[0]->k->down_rows(n, f, x, to, space);
        else
            f[0]->k->down(f[0], c[0].m, x[0], w->x_ld, 0, f[0]->rank, u, space);
        i += (size_t)n;
        for (int j = 0; j < n; j++) {
            if (i + (size_t)j < (size_t)w->chunks) fetch(find_chunk(w, (int64_t)i + j).f);
            up_parts(w, &c[j], to[j], space);
        }
    }
    w->uses[0].f->k->end();
}

static void down_item(void *arg, size_t first, size_t last, int thread) {
    const job *w = arg;
    char *space = space_of(w, thread) + w->u_bytes;
    w->uses[0].f->k->begin(space);
    for (size_t i = first; i < last; i++) {
        const int64_t at = (int64_t)i / w->units;
        const chunk c = find_chunk(w, at);
        const int64_t width = c.f->k->unit(c.f), j = (int64_t)i % w->units * width;
        if (j < c.f->rank)
            c.f->k->down(c.f, c.m, x_of(w, &c), w->x_ld, j, GR_MIN(j + width, c.f->rank),
                         w->u + (size_t)at * w->u_bytes, space);
    }
    w->uses[0].f->k->end();
}

static int64_t blocks_of(int64_t out) { return (out + GR_LOW_RANK_COLUMNS - 1) / GR_LOW_RANK_COLUMNS; }

static void up_item(void *arg, size_t first, size_t last, int thread) {
    const job *w = arg;
    char *space = space_of(w, thread) + w->u_bytes;
    w->uses[0].f->k->begin(space);
    for (size_t i = first; i < last; i++) {
        const int64_t at = (int64_t)i / w->blocks;
        const chunk c = find_chunk(w, at);
        int64_t block = (int64_t)i % w->blocks;
        int p = 0;
        for (; p < c.f->n_parts && block >= blocks_of(c.f->part[p].out); p++) block -= blocks_of(c.f->part[p].out);
        if (p == c.f->n_parts) continue;
        const int64_t j = block * GR_LOW_RANK_COLUMNS;
        c.f->k->up(c.f, p, c.m, w->u + (size_t)at * w->u_bytes, c.use->scale[p], j,
                   GR_MIN(j + GR_LOW_RANK_COLUMNS, c.f->part[p].out), y_of(w, &c), w->y_ld, space);
    }
    w->uses[0].f->k->end();
}

static void plan(job *w) {
    for (int i = 0; i < w->n; i++) {
        const gr_low_rank *f = w->uses[i].f;
        int64_t blocks = 0;
        for (int p = 0; p < f->n_parts; p++) blocks += blocks_of(f->part[p].out);
        w->chunks += chunks_of(&w->uses[i]);
        w->units = GR_MAX(w->units, (f->rank + f->k->unit(f) - 1) / f->k->unit(f));
        w->blocks = GR_MAX(w->blocks, blocks);
        w->u_bytes = GR_MAX(w->u_bytes, gr_round64((size_t)(GR_LOW_RANK_ROWS * f->u_width) * gr_type_size(f->dt)));
        w->thread_bytes = GR_MAX(w->thread_bytes, gr_low_rank_space(f));
    }
    w->thread_bytes = gr_round64(w->thread_bytes + w->u_bytes);
}

graft_status gr_low_rank_apply(gr_device *d, int n, const gr_low_rank_use *uses, const void *x, int64_t x_ld, void *y,
                               int64_t y_ld, graft_error *err) {
    job w = {.uses = uses, .n = n, .x = x, .y = y, .x_ld = x_ld, .y_ld = y_ld};
    plan(&w);
    if (!w.chunks) return GRAFT_OK;
    const bool parts = w.chunks < d->n_threads;
    const size_t all = w.thread_bytes * (size_t)d->n_threads;
    gr_workspace *space;
    GR_TRY(gr_workspace_take(d, all + (parts ? w.u_bytes * (size_t)w.chunks : 0), &space, err));
    w.workspace = space->data;
    if (parts) {
        w.u = space->data + all;
        gr_parallel_for(d->team, (size_t)(w.chunks * w.units), 1, down_item, &w);
        gr_parallel_for(d->team, (size_t)(w.chunks * w.blocks), 1, up_item, &w);
    } else {
        const int64_t grain = GR_MIN(w.chunks / d->n_threads, (int64_t)GR_LOW_RANK_GROUP);
        gr_parallel_for(d->team, (size_t)w.chunks, (size_t)GR_MAX(grain, (int64_t)1), whole_item, &w);
    }
    gr_workspace_give(d, space);
    return GRAFT_OK;
}
