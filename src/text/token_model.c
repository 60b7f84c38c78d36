/* The registry of models. */
#include "text/token_model.h"

#define X(name, object) extern const gr_token_model_type object;
#include "text/token_model.def"
#undef X

graft_status gr_token_model_find(const char *name, const gr_token_model_type **out, graft_error *err) {
    static const gr_token_model_type *const known[] = {
#define X(name, object) &object,
#include "text/token_model.def"
#undef X
    };
    for (size_t i = 0; i < GR_COUNT(known); i++)
        if (!strcmp(known[i]->name, name)) {
            *out = known[i];
            return GRAFT_OK;
        }
    return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "tokenizer model '%.60s' is not known", name);
}

void gr_token_scratch_free(gr_token_scratch *s) {
    for (size_t i = 0; i < GR_COUNT(s->memory); i++) gr_free(s->a, s->memory[i]);
    *s = (gr_token_scratch){.a = s->a};
}
