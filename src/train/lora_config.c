/* graft_lora_options as the adapter_config.json that peft would write for them. */
#include "train/trainer.h"

static void add_key(gr_buf *b, const char *key) { gr_buf_add_format(b, ", \"%s\": ", key); }

static void add_text(gr_buf *b, const char *key, const char *text) {
    add_key(b, key);
    gr_json_add_text(b, text, strlen(text));
}

static void add_list(gr_buf *b, const char *key, graft_texts list) {
    add_key(b, key);
    for (size_t i = 0; i < list.n; i++) {
        gr_buf_add_text(b, i ? ", " : "[");
        gr_json_add_text(b, list.items[i], strlen(list.items[i]));
    }
    gr_buf_add_char(b, ']');
}

/* A single text that is no plain module name is "all-linear" or a regular expression. */
static void add_modules(gr_buf *b, const char *key, graft_texts list) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    if (list.n == 0) return;
    if (list.n == 1 && list.items[0][strspn(list.items[0], plain)])
        add_text(b, key, list.items[0]);
    else
        add_list(b, key, list);
}

static void add_patterns(gr_buf *b, const char *key, const graft_lora_pattern *items, size_t n) {
    if (n == 0) return;
    add_key(b, key);
    for (size_t i = 0; i < n; i++) {
        gr_buf_add_text(b, i ? ", " : "{");
        gr_json_add_text(b, items[i].key, strlen(items[i].key));
        gr_buf_add_text(b, ": ");
        if (items[i].value == (double)(int64_t)items[i].value)
            gr_buf_add_format(b, "%lld", (long long)items[i].value);
        else
            gr_json_add_double(b, items[i].value);
    }
    gr_buf_add_char(b, '}');
}

static void add_lora(gr_buf *b, const graft_lora_options *l) {
    gr_buf_add_format(b, "{\"peft_type\": \"LORA\", \"task_type\": \"CAUSAL_LM\", \"r\": %d", l->r);
    add_key(b, "lora_alpha");
    if (l->lora_alpha == (double)(int64_t)l->lora_alpha)
        gr_buf_add_format(b, "%lld", (long long)l->lora_alpha);
    else
        gr_json_add_double(b, l->lora_alpha);
    add_key(b, "lora_dropout");
    gr_json_add_double(b, l->lora_dropout);
    if (l->use_rslora) gr_buf_add_text(b, ", \"use_rslora\": true");
    if (l->use_dora) gr_buf_add_text(b, ", \"use_dora\": true");
    if (l->bias) add_text(b, "bias", l->bias);
    add_modules(b, "target_modules", l->target_modules);
    add_modules(b, "exclude_modules", l->exclude_modules);
    if (l->layers_to_transform) {
        add_key(b, "layers_to_transform");
        for (size_t i = 0; i < l->n_layers_to_transform; i++)
            gr_buf_add_format(b, "%s%d", i ? ", " : "[", l->layers_to_transform[i]);
        gr_buf_add_text(b, l->n_layers_to_transform ? "]" : "[]");
    }
    add_patterns(b, "rank_pattern", l->rank_pattern, l->n_rank_pattern);
    add_patterns(b, "alpha_pattern", l->alpha_pattern, l->n_alpha_pattern);
    if (l->modules_to_save.n) add_list(b, "modules_to_save", l->modules_to_save);
    const char *init = l->init_lora_weights;
    if (init && (!strcmp(init, "true") || !strcmp(init, "false")))
        gr_buf_add_format(b, ", \"init_lora_weights\": %s", init);
    else if (init)
        add_text(b, "init_lora_weights", init);
    gr_buf_add_char(b, '}');
}

graft_status gr_lora_config(const graft_sft_options *o, gr_buf *out, graft_error *err) {
    if (o->method && !strcmp(o->method, "full"))
        gr_buf_add_text(out, "{\"peft_type\": \"FULL\"}");
    else
        add_lora(out, &o->lora);
    return gr_buf_status(out, err);
}
