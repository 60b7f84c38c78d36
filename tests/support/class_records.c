#include "support/class_records.h"

#include "base/base.h"
#include "support/sft_run.h"

const char *test_write_records(const char *name, const char *text) {
    const char *path = test_path("%s/%s", test_temp_dir(), name);
    assert_ok(gr_write_file(NULL, path, text, strlen(text), &err));
    return path;
}

const char *test_class_records(const char *name, int n, char kind) {
    static const char *const words[] = {"good", "bad", "film", "actor", "plot", "very", "slow", "great", "dull", "the"};
    gr_buf b;
    gr_buf_init(&b, NULL);
    for (int i = 0; i < n; i++) {
        bool good = false, film = false;
        gr_buf_add_text(&b, "{\"text\": \"");
        int length = 3 + (int)gr_rng_below(1, 2, (uint64_t)i, 7);
        for (int k = 0; k < length; k++) {
            size_t w = (size_t)gr_rng_below(3, (uint64_t)i, (uint64_t)k, GR_COUNT(words));
            good |= w == 0 || w == 7;
            film |= w == 2;
            gr_buf_add_format(&b, "%s%s", k ? " " : "", words[w]);
        }
        gr_buf_add_text(&b, i % 3 == 2 && kind != 't' ? "\", \"text_pair\": \"not very dull" : "");
        if (kind == 's') gr_buf_add_format(&b, "\", \"label\": \"%s\"}\n", good ? "positive" : "negative");
        if (kind == 'n') gr_buf_add_format(&b, "\", \"label\": %d}\n", good + film);
        if (kind == 'm')
            gr_buf_add_format(&b, "\", \"label\": [%s%s%s]}\n", good ? "\"good\"" : "", good && film ? ", " : "",
                              film ? "\"film\"" : "");
        if (kind == 'r') gr_buf_add_format(&b, "\", \"label\": %g}\n", good - 0.25 * film);
        if (kind == 't') gr_buf_add_text(&b, "\"}\n");
    }
    const char *path = test_write_records(name, gr_buf_text(&b));
    gr_buf_free(&b);
    return path;
}
