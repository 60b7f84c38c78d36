/* What a call of graft_generate works on. Inside room infer only. */
#ifndef GR_INFER_JOB_H
#define GR_INFER_JOB_H

#include "infer/beam.h"
#include "infer/text_stream.h"

/* What an encoder reads, with the keys and values that the decoder takes from it; sequences of one prompt share it. */
typedef struct gr_source {
    int users;
    int32_t *ids; /* virtual tokens, then the prompt */
    size_t n;
    gr_kv_seq kv; /* filled once it is encoded */
} gr_source;

/* A prompt that beams continue. */
typedef struct gr_beam_group {
    gr_beams beams;
    size_t number; /* of its first sequence, in the caller's order */
    bool ready;    /* all its beams were offered in this step */
} gr_beam_group;

/* One running sequence. */
typedef struct gr_row {
    gr_kv_seq kv;
    gr_source *source; /* NULL: the model has no encoder */
    int32_t *ids;      /* virtual tokens and prompt (with a source: the start token), then what was generated */
    size_t n, cap, n_prompt;
    size_t number; /* in the caller's order */
    int32_t adapter;
    int64_t identity; /* of the adapter */
    size_t n_virtual; /* virtual tokens in front of ids */
    int64_t limit;    /* new tokens */
    bool copies;      /* its prompt is continued by the sequences number + 1 .. too */
    gr_beam_group *group; /* NULL: no beam search */
    size_t beam;          /* its number there */
    int64_t feed;     /* tokens that it has in the current step, proposed ones included */
    size_t n_proposed; /* of prompt lookup, behind the n tokens of ids */
    size_t reach;      /* how many it may propose; 0: nothing was proposed yet */
    gr_text_stream text;
    graft_finish finish;
    bool done;
} gr_row;

struct graft_session {
    graft_model *m;
    const graft_tokenizer *tok;
    const graft_allocator *a;
    gr_kv_store *store;
    gr_pool *pool;
    gr_tape *tape;
    gr_pass *pass;
    gr_sampler sampler;
    /* The last prompt and its first continuation. */
    gr_kv_seq kept;
    int32_t *kept_ids;
    int64_t kept_adapter; /* its identity */
    graft_generate_stats stats;
};

typedef struct gr_job {
    graft_session *s;
    const graft_input_ids *prompts;
    size_t n_prompts, n_return, next;
    size_t n_beams; /* 1: no beam search */
    const graft_generate_options *o;
    graft_piece_fn piece;
    void *user;
    graft_generation *out;
    gr_row *rows; /* running */
    size_t n_rows, max_rows;
    gr_beam_group **groups;
    size_t n_groups;
    double begin;
    /* Arrays of the batch. */
    gr_batch source;
    int32_t *ids, *bounds, *wanted, *adapters, *reads, *source_ids, *source_bounds, *source_adapters, *banned;
    const gr_kv **kv, **source_kv, **encoded_kv;
    gr_source **sources; /* those that are encoded in this step */
    size_t cap_ids, cap_bounds, cap_wanted, cap_adapters, cap_kv, cap_reads, cap_source_ids, cap_source_bounds,
        cap_source_adapters, cap_banned, cap_source_kv, cap_encoded_kv, cap_sources;
} gr_job;

/* rows.c: a row of its own for a prompt; `from`: it shares that row's source. */
graft_status gr_row_init(gr_job *j, gr_row *r, size_t number, const int32_t *ids, size_t n, const gr_row *from,
                         graft_error *err);
void gr_row_free(graft_session *s, gr_row *r);
/* What may not follow a row's tokens: ends before min_new_tokens, and n-grams that were there. Borrowed until the next
 * call. */
graft_status gr_row_banned(gr_job *j, const gr_row *r, size_t made, const int32_t **out, size_t *n, graft_error *err);
/* The name of a prompt's adapter, NULL: none. */
const char *gr_job_adapter(const gr_job *j, size_t prompt);
/* Positions of the model that a prompt and its continuation may take. */
int64_t gr_job_positions(const graft_session *s, int32_t adapter);

/* sources.c: the source side of a step's batch. */
graft_status gr_job_add_source(gr_job *j, gr_row *r, int seq, graft_error *err);
graft_status gr_job_finish_sources(gr_job *j, gr_batch *b, graft_error *err);
/* After the pass. */
graft_status gr_job_keep_sources(gr_job *j, graft_error *err);
void gr_source_drop(graft_session *s, gr_source *x);

/* lookup.c: proposes up to `most` tokens that may follow r's, behind them in r->ids. */
graft_status gr_row_propose(gr_job *j, gr_row *r, size_t most, graft_error *err);

/* beams.c */
graft_status gr_group_new(gr_job *j, gr_row *r, graft_error *err);
void gr_group_free(gr_job *j, gr_beam_group *g);
graft_status gr_group_offer(gr_job *j, gr_row *r, const float *logits, graft_error *err);
/* Moves on every group whose beams were offered: its rows are replaced, or its results handed over. */
graft_status gr_groups_advance(gr_job *j, graft_error *err);

#endif
