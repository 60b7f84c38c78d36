/* spiece.model of the T5 family: a SentencePiece model, behind whose pieces stand the sentinels <extra_id_N>, N from
 * extra_ids - 1 down to 0, and whose texts end with </s> (transformers 5.23, T5Tokenizer). Other families that call their
 * model so get what the model says. */
#include "base/json.h"
#include "io/tokenizer_files.h"

enum { MAX_CONFIG = 64 << 20, DEFAULT_EXTRA_IDS = 100, MAX_EXTRA_IDS = 100000 };

typedef struct family {
    bool known, t5; /* known: tokenizer_class says which */
    int64_t extra_ids;
} family;

static bool is_one_of(const gr_json_value *v, const char *const *names) {
    for (; v && v->kind == GR_JSON_STRING && *names; names++)
        if (!strcmp(v->text, *names)) return true;
    return false;
}

static graft_status take_config(const gr_json_value *config, const char *path, family *f, graft_error *err) {
    static const char *const classes[] = {"T5Tokenizer", "T5TokenizerFast", "MT5Tokenizer", "MT5TokenizerFast", NULL};
    const gr_json_value *name = gr_json_get(config, "tokenizer_class"), *n = gr_json_get(config, "extra_ids");
    if (name && name->kind == GR_JSON_STRING) {
        f->known = true;
        f->t5 = is_one_of(name, classes);
    }
    if (!n) return GRAFT_OK;
    if (n->kind != GR_JSON_NUMBER || !n->number.is_int || n->number.i < 0 || n->number.i > MAX_EXTRA_IDS)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: 'extra_ids' is not a whole number up to %d", path, MAX_EXTRA_IDS);
    f->extra_ids = n->number.i;
    return GRAFT_OK;
}

/* A directory without tokenizer_config.json: the model's type decides. */
static graft_status take_model(const gr_json_value *config, const char *path, family *f, graft_error *err) {
    static const char *const types[] = {"t5", "mt5", "longt5", "switch_transformers", NULL};
    (void)path, (void)err;
    if (!f->known) f->t5 = is_one_of(gr_json_get(config, "model_type"), types);
    return GRAFT_OK;
}

typedef graft_status (*taker)(const gr_json_value *config, const char *path, family *f, graft_error *err);

static graft_status read_config(gr_tokenizer_spec *spec, const char *dir, const char *name, taker take, family *f,
                                graft_error *err) {
    char *path = gr_path_join(spec->a, dir, name), *text = NULL;
    size_t len;
    const gr_json_value *config;
    gr_arena arena;
    if (!path) return gr_fail_memory(err);
    gr_arena_init(&arena, spec->a, (size_t)1 << 30);
    graft_status st = GRAFT_OK;
    if (gr_path_exists(path)) {
        st = gr_read_file(spec->a, path, MAX_CONFIG, &text, &len, err);
        if (st == GRAFT_OK) st = gr_json_parse(&arena, path, text, len, &config, err);
        if (st == GRAFT_OK) st = take(config, path, f, err);
    }
    gr_arena_free(&arena);
    gr_free(spec->a, text);
    gr_free(spec->a, path);
    return st;
}

static graft_status add_sentinels(gr_tokenizer_spec *spec, int64_t n, graft_error *err) {
    while (n-- > 0) {
        char text[32];
        const gr_added_spec t = {.text = text, .len = (size_t)snprintf(text, sizeof text, "<extra_id_%lld>", (long long)n),
                                 .special = true};
        GR_TRY(gr_spec_add_added(spec, &t, err));
    }
    spec->add_bos = 0;
    spec->add_eos = 1;
    return GRAFT_OK;
}

graft_status gr_tokenizer_t5_read(gr_tokenizer_spec *spec, const char *dir, graft_error *err) {
    family f = {.extra_ids = DEFAULT_EXTRA_IDS};
    GR_TRY(read_config(spec, dir, "tokenizer_config.json", take_config, &f, err));
    GR_TRY(read_config(spec, dir, "config.json", take_model, &f, err));
    return f.t5 ? add_sentinels(spec, f.extra_ids, err) : GRAFT_OK;
}
