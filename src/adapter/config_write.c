/* Writing adapter configurations as json.dumps(indent=2, sort_keys=True) does: members in the order of their keys, which is
 * the caller's care. */
#include <math.h>

#include "adapter/method.h"

static void add_key(gr_buf *b, const char *key) { gr_buf_add_format(b, "%s  \"%s\": ", b->len ? "" : "{\n", key); }

void gr_config_add_text(gr_buf *b, const char *key, const char *text) {
    add_key(b, key);
    if (text)
        gr_json_add_text(b, text, strlen(text));
    else
        gr_buf_add_text(b, "null");
    gr_buf_add_text(b, ",\n");
}

void gr_config_add_bool(gr_buf *b, const char *key, bool value) {
    add_key(b, key);
    gr_buf_add_text(b, value ? "true,\n" : "false,\n");
}

void gr_config_add_int(gr_buf *b, const char *key, int64_t value) {
    add_key(b, key);
    gr_buf_add_format(b, "%lld,\n", (long long)value);
}

void gr_config_add_float(gr_buf *b, const char *key, double value) {
    add_key(b, key);
    gr_json_add_double(b, value);
    gr_buf_add_text(b, ",\n");
}

void gr_config_write_targets(gr_buf *b, const gr_targets *t) {
    if (!t->given) {
        gr_buf_add_text(b, "null");
        return;
    }
    if (t->regex) {
        gr_json_add_text(b, t->regex, strlen(t->regex));
        return;
    }
    gr_buf_add_text(b, t->n ? "[" : "[]");
    for (size_t i = 0; i < t->n; i++) {
        gr_buf_add_text(b, i ? ",\n    " : "\n    ");
        gr_json_add_text(b, t->names[i], strlen(t->names[i]));
    }
    if (t->n) gr_buf_add_text(b, "\n  ]");
}

void gr_config_add_targets(gr_buf *b, const char *key, const gr_targets *t) {
    add_key(b, key);
    gr_config_write_targets(b, t);
    gr_buf_add_text(b, ",\n");
}

void gr_config_close(gr_buf *b) {
    if (b->len >= 2) b->len -= 2;
    gr_buf_add_text(b, "\n}");
}
