/* The bytes are a chat template, and after a zero byte, where there is one, the variables as JSON. Bounds are small, so
 * that slow inputs show. */
#include <stdlib.h>

#include "base/base.h"
#include "graft/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char conversation[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"s \\u00e9\"},{\"role\":\"user\",\"content\":\"a b\\nc\"},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"abc123XYZ\",\"type\":\"function\",\"function\":"
    "{\"name\":\"f\",\"arguments\":{\"x\":[1,2.5,null,true]}}}]},{\"role\":\"tool\",\"content\":\"7\"}],"
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\",\"properties\":{}}}}],"
    "\"x\":5,\"s\":\"h\\u00e9llo\",\"l\":[3,1,2],\"d\":{\"b\":1,\"a\":[]},\"add_generation_prompt\":true,\"bos_token\":\"<s>\"}";

static bool at_boundary(const char *text, size_t at) { return ((unsigned char)text[at] & 0xC0) != 0x80; }

static void check_error(const graft_error *err) {
    if (!err->text[0] || !gr_utf8_valid(err->text, strlen(err->text))) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n = zero ? (size_t)(zero - data) : size, json_len = zero ? size - n - 1 : sizeof conversation - 1;
    const char *json = zero ? (const char *)zero + 1 : conversation;
    graft_context_options o = {.n_threads = 1};
    graft_context *ctx;
    graft_error err = {0};
    if (graft_context_new(&o, &ctx, NULL) != GRAFT_OK) return 0;
    graft_template *t;
    if (graft_template_parse(ctx, (const char *)data, n, "fuzz", &t, &err) != GRAFT_OK) {
        check_error(&err);
        graft_context_free(ctx);
        return 0;
    }
    static const struct tm now = {.tm_year = 125, .tm_mday = 1};
    graft_template_options limits = {.now = &now, .max_output = 1 << 20, .max_memory = 16 << 20, .max_steps = 300000};
    char *out;
    size_t len;
    graft_spans spans;
    if (graft_template_render(t, json, json_len, &limits, &out, &len, &spans, &err) == GRAFT_OK) {
        if (!gr_utf8_valid(out, len) || out[len]) abort();
        for (size_t i = 0; i < spans.n; i++) {
            graft_span s = spans.items[i];
            if (s.start > s.end || s.end > len || !at_boundary(out, s.start) || !at_boundary(out, s.end)) abort();
        }
        graft_free(ctx, out);
        graft_free(ctx, spans.items);
    } else {
        check_error(&err);
    }
    graft_template_free(t);
    graft_context_free(ctx);
    return 0;
}
