#include "data/encode.h"

#include <math.h>

#include "model/public.h"
#include "text/slots.h"

enum { USUAL_LENGTH = 1024 };

/* The words of Stanford Alpaca's release, which the models trained on such records know. */
#define ALPACA_INPUT                                                                                                   \
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "      \
    "response that appropriately completes the request.\n\n### Instruction:\n"
#define ALPACA_PLAIN                                                                                                   \
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"    \
    "### Instruction:\n"

static graft_status find_adapter(const graft_model *m, const char *name, int32_t *out, graft_error *err) {
    int at = m->hooks->find(m->hooks->self, name);
    if (at < 0)
        return gr_fail(err, GRAFT_ERR_NOT_FOUND,
                       "adapter %s: expected one that was loaded, found none of that name", name);
    *out = at;
    return GRAFT_OK;
}

/* Templates are filled as the model takes them. */
static void know_model(gr_encoder *e, const gr_model_config *c) {
    e->seq2seq = c->task == GR_TASK_SEQ_2_SEQ_LM;
    if (c->task == GR_TASK_MASKED_LM) e->learn = GRAFT_LEARN_MASKED;
    if (c->task == GR_TASK_SEQ_CLS || c->task == GR_TASK_FEATURES) e->learn = GRAFT_LEARN_CLASSES;
    e->positions = (size_t)gr_config_places(c);
}

graft_status gr_data_fit(const gr_model *m, const gr_hooks *h, int adapter, graft_data_options *d, graft_error *err) {
    const int64_t places = gr_config_places(gr_model_get_config(m)), ahead = gr_hooks_ahead(h, adapter),
                  most = places - ahead;
    if (!places) return GRAFT_OK;
    if (most < 1)
        return gr_fail(err, GRAFT_ERR_LIMIT,
                       "%lld virtual tokens, expected fewer than the model's %lld positions",
                       (long long)ahead, (long long)places);
    const int64_t asked = d->max_length ? d->max_length : USUAL_LENGTH;
    if (asked < 0 || asked > most) d->max_length = most;
    return GRAFT_OK;
}

graft_status gr_encoder_open(gr_encoder *e, graft_context *ctx, const graft_tokenizer *tok,
                             const graft_data_options *o, int64_t now, graft_error *err) {
    gr_encoder made = {.ctx = ctx,
                       .tok = tok,
                       .completion_only = o->completion_only_loss,
                       .instruction_chat = o->instruction_chat,
                       .assistant_only = o->assistant_only_loss != 0,
                       .learn = o->learn,
                       .truncate_start = o->truncate_start != 0,
                       .prompt_template = o->prompt_template,
                       .model = o->model,
                       .n_tasks = o->n_tasks,
                       .adapter = -1,
                       .max_length = o->max_length == 0 ? USUAL_LENGTH : o->max_length < 0 ? 0 : (size_t)o->max_length,
                       .seq2seq = o->seq2seq != 0,
                       .max_target = o->max_target_length == 0  ? 128
                                     : o->max_target_length < 0 ? 0
                                                                : (size_t)o->max_target_length};
    if (made.seq2seq && (made.assistant_only || made.completion_only == GRAFT_NO))
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "%s means nothing to a model with an encoder: it learns targets and nothing else",
                       made.assistant_only ? "assistant_only_loss" : "completion_only_loss false");
    if (o->model) know_model(&made, gr_model_get_config(o->model->model));
    if (o->model && o->adapter) GR_TRY(find_adapter(o->model, o->adapter, &made.adapter, err));
    const int32_t eos = tok ? graft_tokenizer_special_id(tok, GRAFT_TOKEN_EOS) : -1;
    if (tok) made.eos.data = graft_tokenizer_token_text(tok, eos, &made.eos.len);
    if (!made.eos.data) made.eos = (gr_slice){0};
    if (tok) GR_TRY(gr_chat_new(ctx, tok, o->chat_template, now, &made.chat, err));
    if (!made.chat && o->instruction_chat == GRAFT_YES)
        return gr_fail(err, GRAFT_ERR_MISMATCH,
                       "instructions as messages need a chat template, and the model has none");
    *e = made;
    return GRAFT_OK;
}

void gr_encoder_close(gr_encoder *e) {
    gr_chat_free(e->chat);
    e->chat = NULL;
}

/* Copies what the library gave (freed here) into the arena. */
static graft_status keep_ids(const gr_encoder *e, gr_arena *arena, int32_t *ids, size_t n, int32_t **out,
                             graft_error *err) {
    int32_t *copy = gr_arena_alloc(arena, n * sizeof *copy);
    if (copy && n) memcpy(copy, ids, n * sizeof *copy);
    gr_free(gr_allocator(e->ctx), ids);
    if (!copy) return gr_fail_memory(err);
    *out = copy;
    return GRAFT_OK;
}

static graft_status encode_text(const gr_encoder *e, gr_arena *arena, gr_slice text, unsigned flags, int32_t **out,
                                size_t *n, graft_error *err) {
    int32_t *ids;
    GR_TRY(graft_tokenizer_encode(e->tok, text.data, text.len, flags, &ids, n, err));
    return keep_ids(e, arena, ids, *n, out, err);
}

static bool ends_with(gr_slice text, gr_slice end) {
    return text.len >= end.len && memcmp(text.data + text.len - end.len, end.data, end.len) == 0;
}

static graft_status join(gr_arena *arena, const gr_slice *parts, size_t n, gr_slice *out, graft_error *err) {
    size_t len = 0;
    for (size_t i = 0; i < n; i++)
        if (__builtin_add_overflow(len, parts[i].len, &len)) return gr_fail_memory(err);
    char *text = gr_arena_alloc(arena, len + 1), *to = text;
    if (!text) return gr_fail_memory(err);
    for (size_t i = 0; i < n; to += parts[i++].len)
        if (parts[i].len) memcpy(to, parts[i].data, parts[i].len);
    *out = (gr_slice){text, len};
    return GRAFT_OK;
}

static graft_status add_eos(const gr_encoder *e, gr_arena *arena, gr_slice text, gr_slice *out, graft_error *err) {
    gr_slice parts[2] = {text, e->eos};
    return join(arena, parts, e->eos.data && !ends_with(text, e->eos) ? 2 : 1, out, err);
}

static graft_status need_template(const gr_encoder *e, graft_error *err) {
    if (e->chat) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_MISMATCH,
                   "the record is a conversation, but the model has no chat template; expected one to be given");
}

/* Renders a conversation and tokenises it as it stands (the template writes BOS itself). `mask`: not NULL to get the
 * assistant's tokens. `text`: not NULL to get the rendering. */
static graft_status encode_chat(const gr_encoder *e, gr_arena *arena, const gr_chat_input *in, bool prompt,
                                int32_t **ids, size_t *n, uint8_t **mask, gr_slice *text, graft_error *err) {
    const graft_allocator *a = gr_allocator(e->ctx);
    gr_rendering r = {0};
    char *rendered = NULL;
    int32_t *raw = NULL;
    graft_token_span *spans = NULL;
    graft_spans marks = {0};
    graft_status st;
    GR_GO(done, gr_chat_render(e->chat, in, prompt, &rendered, &r.len, mask ? &marks : NULL, err));
    if (!mask) {
        GR_GO(done, graft_tokenizer_encode(e->tok, rendered, r.len, 0, &raw, &r.n, err));
    } else {
        GR_GO(done, graft_tokenizer_encode_spans(e->tok, rendered, r.len, 0, &raw, &spans, &r.n, err));
        uint8_t *bits = gr_arena_alloc(arena, r.n);
        if (!bits) {
            st = gr_fail_memory(err);
            goto done;
        }
        r.text = rendered;
        r.ids = raw;
        r.spans = spans;
        GR_GO(done, gr_chat_mask(e->chat, in, &r, &marks, bits, err));
        *mask = bits;
    }
    if (text) {
        *text = (gr_slice){gr_arena_strndup(arena, rendered, r.len), r.len};
        if (!text->data) {
            st = gr_fail_memory(err);
            goto done;
        }
    }
    st = keep_ids(e, arena, raw, r.n, ids, err);
    raw = NULL;
    *n = r.n;
done:
    gr_free(a, rendered);
    gr_free(a, raw);
    gr_free(a, spans);
    gr_free(a, marks.items);
    return st;
}

/* labels = ids where every mask that is given has 1. */
static graft_status set_labels(gr_arena *arena, const uint8_t *first, const uint8_t *second, gr_tokens *t,
                               graft_error *err) {
    t->labels = gr_arena_alloc(arena, t->n * sizeof *t->labels);
    if (!t->labels) return gr_fail_memory(err);
    for (size_t i = 0; i < t->n; i++)
        t->labels[i] = (first && !first[i]) || (second && !second[i]) ? GRAFT_IGNORE_LABEL : t->ids[i];
    return GRAFT_OK;
}

/* Where the completion starts: the tokens of the prompt alone and of both are compared, for a token may span the
 * boundary and a template may end a prompt in another way than it goes on. */
static graft_status mask_prompt(const gr_encoder *e, gr_arena *arena, const int32_t *prompt, size_t n_prompt,
                                const uint8_t *assistant, gr_tokens *t, graft_error *err) {
    size_t n = 0;
    while (n < n_prompt && n < t->n && prompt[n] == t->ids[n]) n++;
    t->split_prompt = n < n_prompt;
    uint8_t *mask = gr_arena_alloc(arena, t->n);
    if (!mask) return gr_fail_memory(err);
    memset(mask + n, 1, t->n - n);
    return set_labels(arena, e->completion_only == GRAFT_NO ? NULL : mask, assistant, t, err);
}

static graft_status encode_pair_text(const gr_encoder *e, gr_arena *arena, gr_slice prompt, gr_slice completion,
                                     gr_tokens *t, graft_error *err) {
    gr_slice parts[2] = {prompt}, whole;
    int32_t *ids;
    size_t n;
    GR_TRY(add_eos(e, arena, completion, &parts[1], err));
    GR_TRY(join(arena, parts, 2, &whole, err));
    GR_TRY(encode_text(e, arena, prompt, GRAFT_TOK_ADD_SPECIAL, &ids, &n, err));
    GR_TRY(encode_text(e, arena, whole, GRAFT_TOK_ADD_SPECIAL, &t->ids, &t->n, err));
    return mask_prompt(e, arena, ids, n, NULL, t, err);
}

/* Prompt and completion as one conversation. */
static graft_status join_turns(gr_arena *arena, const gr_turns *a, const gr_turns *b, gr_turns *out, graft_error *err) {
    gr_message *all = gr_arena_alloc(arena, (a->n + b->n) * sizeof *all);
    if (!all) return gr_fail_memory(err);
    memcpy(all, a->messages, a->n * sizeof *all);
    memcpy(all + a->n, b->messages, b->n * sizeof *all);
    *out = (gr_turns){.messages = all, .n = a->n + b->n};
    return GRAFT_OK;
}

static graft_status encode_pair_chat(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_turns prompt,
                                     gr_turns completion, gr_tokens *t, graft_error *err) {
    gr_turns all;
    int32_t *ids;
    size_t n;
    uint8_t *assistant = NULL;
    GR_TRY(join_turns(arena, &prompt, &completion, &all, err));
    gr_chat_input in = {prompt.messages, prompt.n, record->tools, record->kwargs};
    GR_TRY(encode_chat(e, arena, &in, true, &ids, &n, NULL, NULL, err));
    in.messages = all.messages;
    in.n = all.n;
    GR_TRY(encode_chat(e, arena, &in, false, &t->ids, &t->n, e->assistant_only ? &assistant : NULL, NULL, err));
    return mask_prompt(e, arena, ids, n, assistant, t, err);
}

static bool instruction_is_chat(const gr_encoder *e) {
    return e->instruction_chat == GRAFT_YES || (e->instruction_chat == GRAFT_AUTO && e->chat);
}

/* {"instruction", "input"} as a prompt: a user's message, or Alpaca's text. */
static graft_status instruction_prompt(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_turns *out,
                                       graft_error *err) {
    bool input = record->input.len > 0, chat = instruction_is_chat(e), system = record->system.len > 0;
    gr_slice text, gap = {"\n\n", 2};
    if (!chat) {
        gr_slice head = input ? (gr_slice){ALPACA_INPUT, sizeof ALPACA_INPUT - 1}
                              : (gr_slice){ALPACA_PLAIN, sizeof ALPACA_PLAIN - 1};
        gr_slice parts[7] = {record->system, gap, head, record->instruction, {"\n\n### Input:\n", 13}, record->input,
                             {"\n\n### Response:\n", 16}};
        if (!input) parts[4].len = 0;
        if (!system) parts[1].len = 0;
        GR_TRY(join(arena, parts, 7, &text, err));
        *out = (gr_turns){.text = text};
        return GRAFT_OK;
    }
    gr_slice parts[3] = {record->instruction, gap, record->input};
    GR_TRY(join(arena, parts, input ? 3 : 1, &text, err));
    gr_message *messages = gr_arena_alloc(arena, 2 * sizeof *messages);
    if (!messages) return gr_fail_memory(err);
    if (system) GR_TRY(gr_message_make(arena, "system", record->system, &messages[0], err));
    GR_TRY(gr_message_make(arena, "user", text, &messages[system], err));
    *out = (gr_turns){.messages = messages, .n = 1 + (size_t)system};
    return GRAFT_OK;
}

static graft_status instruction_pair(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_turns *prompt,
                                     gr_turns *completion, graft_error *err) {
    GR_TRY(instruction_prompt(e, arena, record, prompt, err));
    *completion = record->completion;
    if (!prompt->n) return GRAFT_OK;
    gr_message *answer = gr_arena_alloc(arena, sizeof *answer);
    if (!answer) return gr_fail_memory(err);
    GR_TRY(gr_message_make(arena, "assistant", record->completion.text, answer, err));
    *completion = (gr_turns){.messages = answer, .n = 1};
    return GRAFT_OK;
}

static graft_status encode_pair(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_tokens *t,
                                graft_error *err) {
    gr_turns prompt = record->prompt, completion = record->completion;
    if (record->kind == GR_RECORD_INSTRUCTION) GR_TRY(instruction_pair(e, arena, record, &prompt, &completion, err));
    if (!prompt.n) return encode_pair_text(e, arena, prompt.text, completion.text, t, err);
    GR_TRY(need_template(e, err));
    return encode_pair_chat(e, arena, record, prompt, completion, t, err);
}

static graft_status encode_conversation(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_tokens *t,
                                        graft_error *err) {
    uint8_t *mask = NULL;
    gr_chat_input in = {record->completion.messages, record->completion.n, record->tools, record->kwargs};
    GR_TRY(need_template(e, err));
    GR_TRY(encode_chat(e, arena, &in, false, &t->ids, &t->n, e->assistant_only ? &mask : NULL, NULL, err));
    return set_labels(arena, mask, NULL, t, err);
}

static graft_status encode_plain(const gr_encoder *e, gr_arena *arena, gr_slice text, gr_tokens *t, graft_error *err) {
    gr_slice whole;
    GR_TRY(add_eos(e, arena, text, &whole, err));
    GR_TRY(encode_text(e, arena, whole, GRAFT_TOK_ADD_SPECIAL, &t->ids, &t->n, err));
    return set_labels(arena, NULL, NULL, t, err);
}

static graft_status encode_tokens(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_tokens *t,
                                  graft_error *err) {
    if (record->labels && record->n_labels != record->n_ids)
        return gr_fail(err, GRAFT_ERR_FORMAT, "expected \"labels\" as long as \"input_ids\" (%zu), found %zu",
                       record->n_ids, record->n_labels);
    t->ids = record->ids;
    t->labels = record->labels;
    t->n = record->n_ids;
    if (t->labels) return GRAFT_OK;
    return set_labels(arena, e->completion_only == GRAFT_NO ? NULL : record->completion_mask,
                      record->assistant_mask, t, err);
}

static graft_status encode_kind(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_tokens *t,
                                graft_error *err) {
    if (record->kind == GR_RECORD_OTHER) {
        if (err) *err = *record->unread;
        return record->unread->status;
    }
    bool chat = record->prompt.n || record->completion.n ||
                (record->kind == GR_RECORD_INSTRUCTION && instruction_is_chat(e)) || record->kind == GR_RECORD_TOKENS;
    if (e->assistant_only && !chat)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "a loss on the assistant only needs messages, found %s",
                       gr_record_kind_name(record->kind));
    switch (record->kind) {
    case GR_RECORD_TOKENS: return encode_tokens(e, arena, record, t, err);
    case GR_RECORD_PAIR:
    case GR_RECORD_INSTRUCTION: return encode_pair(e, arena, record, t, err);
    case GR_RECORD_CHAT: return encode_conversation(e, arena, record, t, err);
    case GR_RECORD_TEXT:
    case GR_RECORD_LABELLED:
        if (!record->text_pair.data) return encode_plain(e, arena, record->text, t, err);
        break;
    default: break;
    }
    return gr_fail(err, GRAFT_ERR_MISMATCH,
                   "expected a text, a prompt with its completion or a conversation to learn from, found %s",
                   gr_record_kind_name(record->kind));
}

static graft_status encode_with_specials(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_tokens *t,
                                         graft_error *err) {
    const gr_slice *pair = &record->text_pair;
    int32_t *ids, *types;
    size_t n;
    GR_TRY(graft_tokenizer_encode_pair(e->tok, record->text.data, record->text.len, pair->data, pair->len, 0,
                                       &ids, &types, &n, err));
    if (e->max_length && n > e->max_length) {
        gr_free(gr_allocator(e->ctx), ids);
        gr_free(gr_allocator(e->ctx), types);
        t->truncated = true;
        GR_TRY(graft_tokenizer_encode_pair(e->tok, record->text.data, record->text.len, pair->data, pair->len,
                                           e->max_length, &ids, &types, &n, err));
    }
    t->n = n;
    graft_status st = keep_ids(e, arena, ids, n, &t->ids, err);
    if (st != GRAFT_OK) {
        gr_free(gr_allocator(e->ctx), types);
        return st;
    }
    return keep_ids(e, arena, types, n, &t->types, err);
}

/* Labels of tokens that may be hidden; special tokens may not. */
static graft_status encode_masked(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_tokens *t,
                                  graft_error *err) {
    if (record->kind == GR_RECORD_TOKENS) {
        GR_TRY(encode_tokens(e, arena, record, t, err));
        t->given = record->labels != NULL;
        if (!t->given && !e->tok)
            return gr_fail(err, GRAFT_ERR_MISMATCH,
                           "expected \"labels\": there is no tokenizer to say which tokens may be hidden");
    } else if (record->kind == GR_RECORD_TEXT || record->kind == GR_RECORD_LABELLED) {
        GR_TRY(encode_with_specials(e, arena, record, t, err));
        GR_TRY(set_labels(arena, NULL, NULL, t, err));
    } else
        return gr_fail(err, GRAFT_ERR_MISMATCH, "expected a text, or tokens with labels, to hide tokens of, found %s",
                       gr_record_kind_name(record->kind));
    if (e->max_length && t->n > e->max_length) {
        t->n = e->max_length;
        t->truncated = true;
    }
    for (size_t i = 0; i < t->n; i++) {
        if (!t->given && graft_tokenizer_is_special(e->tok, t->ids[i])) t->labels[i] = GRAFT_IGNORE_LABEL;
        t->n_labels += t->labels[i] != GRAFT_IGNORE_LABEL;
    }
    return GRAFT_OK;
}

static graft_status encode_classified(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_tokens *t,
                                      graft_error *err) {
    if (record->kind != GR_RECORD_TEXT && record->kind != GR_RECORD_LABELLED)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "expected a text with its label, found %s",
                       gr_record_kind_name(record->kind));
    GR_TRY(encode_with_specials(e, arena, record, t, err));
    t->labels = gr_arena_alloc(arena, t->n * sizeof *t->labels);
    if (!t->labels) return gr_fail_memory(err);
    for (size_t i = 0; i < t->n; i++) t->labels[i] = GRAFT_IGNORE_LABEL;
    t->n_labels = t->n > 0;
    return GRAFT_OK;
}

/* Whose record it is: the adapter's index and name, the template that it has. */
typedef struct owner {
    int32_t adapter;
    const char *name, *text;
    gr_slots slots;
    size_t n_virtual;
    int32_t task; /* -1: there are none */
} owner;

/* Of n_tasks. */
static graft_status find_task(gr_arena *arena, const gr_record *record, int n_tasks, int32_t *out, graft_error *err) {
    gr_slice text = {0};
    double task = 0;
    *out = -1;
    if (!n_tasks) return GRAFT_OK;
    GR_TRY(gr_record_field(arena, record->json, "task_ids", &text, err));
    if (!text.data && n_tasks > 1)
        return gr_fail(err, GRAFT_ERR_FORMAT,
                       "expected \"task_ids\", one of the adapter's tasks 0 to %d, found none", n_tasks - 1);
    if (text.data &&
        (!gr_parse_double(text.data, text.len, &task) || task != floor(task) || task < 0 || task >= n_tasks))
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "\"task_ids\": expected one of the adapter's tasks 0 to %d, found %.*s", n_tasks - 1,
                       (int)GR_MIN(text.len, (size_t)40), text.data);
    *out = (int32_t)task;
    return GRAFT_OK;
}

static graft_status find_owner(const gr_encoder *e, gr_arena *arena, const gr_record *record, owner *o,
                               graft_error *err) {
    gr_slice name = {0};
    int n_tasks = e->n_tasks;
    *o = (owner){.adapter = e->adapter, .text = e->prompt_template};
    if (e->model) {
        const gr_hooks *h = e->model->hooks;
        GR_TRY(gr_record_field(arena, record->json, "adapter", &name, err));
        if (name.data) {
            if (!(o->name = gr_arena_strndup(arena, name.data, name.len))) return gr_fail_memory(err);
            if ((o->adapter = h->find(h->self, o->name)) < 0)
                return gr_fail(err, GRAFT_ERR_ARGUMENT,
                               "\"adapter\": expected the name of one that was loaded, found \"%s\"",
                               o->name);
        }
        if (o->adapter >= 0) {
            o->text = h->prompt_template(h->self, o->adapter);
            o->n_virtual = (size_t)h->n_virtual(h->self, o->adapter);
        }
        n_tasks = o->adapter >= 0 ? h->n_tasks(h->self, o->adapter) : 0;
    }
    GR_TRY(find_task(arena, record, n_tasks, &o->task, err));
    return o->text ? gr_slots_parse(arena, "template", o->text, &o->slots, err) : GRAFT_OK;
}

static graft_status put_in_front(gr_arena *arena, size_t n, int32_t task, gr_tokens *t, graft_error *err) {
    int32_t *ids = gr_arena_alloc(arena, (n + t->n + 1) * sizeof *ids),
            *labels = gr_arena_alloc(arena, (n + t->n + 1) * sizeof *labels);
    if (!ids || !labels) return gr_fail_memory(err);
    for (size_t i = 0; i < n; i++) {
        ids[i] = -1 - task * (int32_t)n - (int32_t)i;
        labels[i] = GRAFT_IGNORE_LABEL;
    }
    if (t->n) memcpy(ids + n, t->ids, t->n * sizeof *ids);
    if (t->n) memcpy(labels + n, t->labels, t->n * sizeof *labels);
    t->ids = ids;
    t->labels = labels;
    t->n += n;
    return GRAFT_OK;
}

/* A record in a template of an encoder: the word at the mask, or a label. Token types are all 0. */
static graft_status encode_filled(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_tokens *t,
                                  graft_error *err) {
    owner o;
    GR_TRY(find_owner(e, arena, record, &o, err));
    GR_TRY(gr_fill_record(e, arena, record, &o.slots, t, err));
    t->n_labels = t->n > 0;
    return GRAFT_OK;
}

graft_status gr_encode_record(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_tokens *out,
                              graft_error *err) {
    gr_tokens t = {0};
    owner o;
    if (!e->tok && (record->kind != GR_RECORD_TOKENS || e->prompt_template))
        return gr_fail(err, GRAFT_ERR_MISMATCH,
                       "expected \"input_ids\", found %s: there is no tokenizer to read it with",
                       gr_record_kind_name(record->kind));
    if (e->seq2seq || e->learn != GRAFT_LEARN_TEXT) {
        GR_TRY((e->seq2seq                            ? gr_encode_source_target
                : e->prompt_template                  ? encode_filled
                : e->learn == GRAFT_LEARN_MASKED ? encode_masked
                                                 : encode_classified)(e, arena, record, &t, err));
        GR_TRY(find_task(arena, record, e->n_tasks, &t.task, err));
        t.task = GR_MAX(t.task, 0);
        t.adapter = -1;
        *out = t;
        return GRAFT_OK;
    }
    GR_TRY(find_owner(e, arena, record, &o, err));
    if (o.text)
        GR_TRY(gr_fill_record(e, arena, record, &o.slots, &t, err));
    else
        GR_TRY(encode_kind(e, arena, record, &t, err));
    t.adapter = o.adapter;
    t.task = GR_MAX(o.task, 0);
    if (!o.text && e->max_length && t.n > e->max_length) {
        size_t drop = e->truncate_start ? t.n - e->max_length : 0;
        t.ids += drop;
        t.labels += drop;
        t.n = e->max_length;
        t.truncated = true;
    }
    for (size_t i = 1; i < t.n; i++) t.n_labels += t.labels[i] != GRAFT_IGNORE_LABEL;
    if (o.n_virtual) GR_TRY(put_in_front(arena, o.n_virtual, t.task, &t, err));
    *out = t;
    return GRAFT_OK;
}

/* The answer of a conversation is its last message, if that is the assistant's text. */
static void split_answer(gr_turns *turns, gr_slice *reference) {
    const gr_message *last = &turns->messages[turns->n - 1];
    if (last->role.len == 9 && memcmp(last->role.data, "assistant", 9) == 0 && turns->n > 1) {
        *reference = last->content;
        turns->n--;
    }
}

/* What an encoder or a classifier is asked is the text itself, whole. */
static graft_status text_question(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_question *q,
                                  graft_error *err) {
    gr_tokens t = {0};
    gr_encoder whole = *e;
    whole.max_length = 0;
    GR_TRY(encode_with_specials(&whole, arena, record, &t, err));
    q->text = record->text;
    q->pair = record->text_pair;
    q->reference = record->label;
    q->ids = t.ids;
    q->n = t.n;
    return GRAFT_OK;
}

graft_status gr_encode_question(const gr_encoder *e, gr_arena *arena, const gr_record *record, gr_question *out,
                                graft_error *err) {
    gr_question q = {0};
    gr_turns prompt = record->prompt, answer = record->completion;
    owner o;
    GR_TRY(find_owner(e, arena, record, &o, err));
    q.adapter = o.name;
    q.task = o.task;
    if (o.text) {
        GR_TRY(gr_fill_question(e, arena, record, &o.slots, &q, err));
        *out = q;
        return GRAFT_OK;
    }
    if (e->learn != GRAFT_LEARN_TEXT && (record->kind == GR_RECORD_TEXT || record->kind == GR_RECORD_LABELLED)) {
        GR_TRY(text_question(e, arena, record, &q, err));
        *out = q;
        return GRAFT_OK;
    }
    switch (record->kind) {
    case GR_RECORD_OTHER:
        if (err) *err = *record->unread;
        return record->unread->status;
    case GR_RECORD_PROMPT:
    case GR_RECORD_RANKED:
    case GR_RECORD_PAIR: break;
    case GR_RECORD_INSTRUCTION: GR_TRY(instruction_prompt(e, arena, record, &prompt, err)); break;
    case GR_RECORD_CHAT:
        prompt = record->completion;
        answer = (gr_turns){0};
        split_answer(&prompt, &q.reference);
        break;
    default:
        return gr_fail(err, GRAFT_ERR_MISMATCH, "expected a prompt or a conversation to answer, found %s",
                       gr_record_kind_name(record->kind));
    }
    if (answer.text.data) q.reference = answer.text;
    else if (answer.n) q.reference = answer.messages[answer.n - 1].content;
    if (prompt.n) {
        GR_TRY(need_template(e, err));
        gr_chat_input in = {prompt.messages, prompt.n, record->tools, record->kwargs};
        GR_TRY(encode_chat(e, arena, &in, true, &q.ids, &q.n, NULL, &q.text, err));
    } else {
        q.text = prompt.text;
        GR_TRY(encode_text(e, arena, q.text, GRAFT_TOK_ADD_SPECIAL, &q.ids, &q.n, err));
        /* A tokenizer that closes its texts with EOS would end the answer before it begins. A source has an end. */
        if (q.n && !e->seq2seq && graft_tokenizer_adds_eos(e->tok)) q.n--;
    }
    *out = q;
    return GRAFT_OK;
}
