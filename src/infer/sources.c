/* Sources of a step: those of rows that begin are encoded beside everything else, and what the decoder takes of them is
 * kept. */
#include "infer/job.h"

/* Target `seq` of the batch reads r's source: one that is encoded in this step, or kept keys and values. */
graft_status gr_job_add_source(gr_job *j, gr_row *r, int seq, graft_error *err) {
    const graft_allocator *a = j->s->a;
    gr_source *x = r->source;
    gr_batch *b = &j->source;
    size_t targets = (size_t)seq + 1, n = (size_t)b->n_seqs;
    GR_TRY(gr_grow(a, (void **)&j->reads, &j->cap_reads, targets, sizeof *j->reads, err));
    GR_TRY(gr_grow(a, (void **)&j->source_kv, &j->cap_source_kv, targets, sizeof *j->source_kv, err));
    j->source_kv[seq] = x->kv.length ? &x->kv.kv : NULL;
    j->reads[seq] = (int32_t)n;
    if (x->kv.length) return GRAFT_OK;
    GR_TRY(gr_grow(a, (void **)&j->source_ids, &j->cap_source_ids, (size_t)b->n_tokens + x->n, sizeof *j->source_ids,
                   err));
    GR_TRY(gr_grow(a, (void **)&j->source_bounds, &j->cap_source_bounds, n + 2, sizeof *j->source_bounds, err));
    GR_TRY(gr_grow(a, (void **)&j->source_adapters, &j->cap_source_adapters, n + 1, sizeof *j->source_adapters, err));
    GR_TRY(gr_grow(a, (void **)&j->encoded_kv, &j->cap_encoded_kv, n + 1, sizeof *j->encoded_kv, err));
    GR_TRY(gr_grow(a, (void **)&j->sources, &j->cap_sources, n + 1, sizeof *j->sources, err));
    GR_TRY(gr_kv_seq_extend(&x->kv, (int64_t)x->n, err));
    memcpy(j->source_ids + b->n_tokens, x->ids, x->n * sizeof *x->ids);
    j->source_bounds[0] = 0;
    j->source_bounds[n + 1] = (int32_t)(b->n_tokens + (int64_t)x->n);
    j->source_adapters[n] = r->adapter;
    j->encoded_kv[n] = &x->kv.kv;
    j->sources[n] = x;
    b->n_tokens += (int64_t)x->n;
    b->n_seqs++;
    return GRAFT_OK;
}

graft_status gr_job_finish_sources(gr_job *j, gr_batch *b, graft_error *err) {
    (void)err;
    b->reads = j->reads;
    b->source_kv = j->source_kv;
    if (!j->source.n_seqs) return GRAFT_OK;
    j->source.bounds = j->source_bounds;
    j->source.ids = j->source_ids;
    j->source.adapter = j->source_adapters;
    j->source.one_adapter = -1;
    j->source.kv = j->encoded_kv;
    b->source = &j->source;
    return GRAFT_OK;
}

graft_status gr_job_keep_sources(gr_job *j, graft_error *err) {
    for (int i = 0; i < j->source.n_seqs; i++) {
        gr_kv_seq *kv = &j->sources[i]->kv;
        kv->length = (int64_t)j->sources[i]->n;
        GR_TRY(gr_kv_seq_extend(kv, 0, err)); /* the view of what is there now */
    }
    return GRAFT_OK;
}
