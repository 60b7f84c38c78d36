/* Everything that decides the bits of a run, as a JSON object that a checkpoint keeps and a resumed run compares. Not in
 * it, because they change no bit: threads, the cut of a batch into micro-batches, recomputation, and when to log,
 * evaluate and save. */
#include "model/shape.h"
#include "train/trainer.h"

static void add_key(gr_buf *b, const char *key) {
    if (b->len > 1) gr_buf_add_text(b, ", ");
    gr_buf_add_format(b, "\"%s\": ", key);
}

static void add_text(gr_buf *b, const char *key, const char *text) {
    add_key(b, key);
    if (text)
        gr_json_add_text(b, text, strlen(text));
    else
        gr_buf_add_text(b, "null");
}

static void add_int(gr_buf *b, const char *key, int64_t value) {
    add_key(b, key);
    gr_buf_add_format(b, "%lld", (long long)value);
}

static void add_double(gr_buf *b, const char *key, double value) {
    add_key(b, key);
    gr_json_add_double(b, value);
}

static void add_hash(gr_buf *b, const char *key, uint64_t value) {
    add_key(b, key);
    gr_buf_add_format(b, "\"%016llx\"", (unsigned long long)value);
}

/* Names, shapes and the first bytes of all tensors, as the files have them: tells models apart without reading them whole. */
static uint64_t model_fingerprint(const gr_model *m) {
    enum { HEAD = 1024 };
    const gr_weights *w = gr_model_weights(m);
    uint64_t h = 0;
    for (size_t i = 0; i < gr_weights_count(w); i++) {
        const gr_weight t = gr_weight_in_file(gr_weights_at(w, i));
        h = gr_hash_bytes(t.name, strlen(t.name), h);
        for (int d = 0; d < t.view.shape.n; d++) h = gr_hash_bytes(&t.view.shape.d[d], sizeof(int64_t), h);
        h = gr_hash_bytes(t.view.data, GR_MIN(t.view.bytes, (size_t)HEAD), h);
        if (t.file_view.data) gr_release_mapped(t.view.data, t.view.bytes);
        if (i % 16 == 15) gr_model_release(m); /* a fault brings in far more than is read */
    }
    gr_model_release(m);
    return h;
}

/* The adapter's configuration but for the base model's name: that changes no bit, and the model may have been moved. */
static graft_status add_config(gr_buf *b, const char *config, graft_error *err) {
    gr_json_reader r;
    add_key(b, "adapter_config");
    gr_json_init(&r, "adapter_config", config, strlen(config));
    GR_TRY(gr_json_open(&r, GR_JSON_OBJECT, err));
    const char *separator = "{";
    for (;;) {
        bool more;
        gr_json_text key;
        GR_TRY(gr_json_next(&r, &more, err));
        if (!more) break;
        GR_TRY(gr_json_read_key(&r, &key, err));
        gr_json_peek(&r);
        const size_t at = r.at;
        GR_TRY(gr_json_skip(&r, err));
        if (gr_json_text_is(&key, "base_model_name_or_path")) continue;
        gr_buf_add_format(b, "%s\"%.*s\": ", separator, (int)key.len, key.raw);
        gr_buf_add(b, r.text + at, r.at - at);
        separator = ", ";
    }
    gr_buf_add_text(b, *separator == '{' ? "{}" : "}");
    return gr_buf_status(b, err);
}

const char *gr_trainer_quantization(const graft_sft_options *o) {
    if (o->load_in_8bit) return "int8";
    return !o->load_in_4bit ? NULL : o->bnb_4bit_quant_type ? o->bnb_4bit_quant_type : "nf4";
}

/* Members are always the same ones: what differs is named by its key. */
graft_status gr_trainer_options_text(const gr_trainer *t, gr_buf *b, graft_error *err) {
    const graft_sft_options *o = t->o;
    const gr_optimizer_options *p = &t->optimizer_options;
    gr_buf_clear(b);
    gr_buf_add_char(b, '{');
    add_hash(b, "model", model_fingerprint(t->model));
    add_text(b, "dtype", gr_dtype_name(gr_model_dtype(t->model)));
    add_text(b, "quantization", gr_trainer_quantization(o));
    add_text(b, "double_quant", o->bnb_4bit_use_double_quant ? "true" : "false");
    add_text(b, "method", gr_adapter_method_name(t->set, t->adapter));
    GR_TRY(add_config(b, gr_adapter_config(t->set, t->adapter), err));
    add_text(b, "adapter", o->adapter);
    add_int(b, "records", (int64_t)t->stats.examples);
    add_hash(b, "data", t->stats.fingerprint);
    add_int(b, "max_length", o->max_length);
    add_text(b, "task_type", gr_task_name(gr_model_get_config(t->model)->task));
    add_double(b, "mlm_probability", o->mlm_probability);
    add_key(b, "packing");
    gr_buf_add_text(b, o->packing ? "true" : "false");
    add_key(b, "shuffle");
    gr_buf_add_text(b, o->no_shuffle ? "false" : "true");
    add_key(b, "seed");
    gr_buf_add_format(b, "%llu", (unsigned long long)o->seed);
    add_int(b, "records_per_step", o->per_device_train_batch_size * o->gradient_accumulation_steps);
    add_int(b, "max_steps", t->state.max_steps);
    add_text(b, "optim", t->rule->names[0]);
    add_double(b, "learning_rate", o->learning_rate);
    add_double(b, "loraplus_lr_ratio", o->lora.loraplus_lr_ratio);
    add_double(b, "loraplus_lr_embedding", o->lora.loraplus_lr_embedding);
    add_double(b, "weight_decay", p->weight_decay);
    add_double(b, "adam_beta1", p->beta1);
    add_double(b, "adam_beta2", p->beta2);
    add_double(b, "adam_epsilon", p->epsilon);
    add_double(b, "momentum", p->momentum);
    add_key(b, "nesterov");
    gr_buf_add_text(b, p->nesterov ? "true" : "false");
    add_double(b, "max_grad_norm", o->max_grad_norm);
    add_text(b, "lr_scheduler_type", o->lr_scheduler_type ? o->lr_scheduler_type : "linear");
    add_text(b, "lr_scheduler_kwargs", o->lr_scheduler_kwargs);
    add_int(b, "warmup_steps", t->warmup);
    gr_buf_add_char(b, '}');
    return gr_buf_status(b, err);
}
