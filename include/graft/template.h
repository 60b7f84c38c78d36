/* Chat templates: a Jinja interpreter that renders a conversation to text as transformers' apply_chat_template does.
 *
 * Reference: transformers 5.x utils/chat_template_utils.py on Jinja2 3.1.6: ImmutableSandboxedEnvironment with
 * trim_blocks and lstrip_blocks, the extensions loopcontrols and {% generation %}, the globals raise_exception,
 * strftime_now, range, dict, namespace, cycler and joiner, and tojson with json.dumps's own escaping.
 * Deliberately different: integers have 64 bits (a larger one is an error) and there are no complex numbers; lipsum and
 * the filters random and urlize are refused, as are str.encode, str.translate and \N{} and surrogate escapes; a slice
 * of a constant that cannot be sliced raises. extends, include and import fail as they do there: there is no loader.
 *
 * A template is untrusted code: time, memory, output and nesting are bounded, and it reaches nothing but its input. */
#ifndef GRAFT_TEMPLATE_H
#define GRAFT_TEMPLATE_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include "graft/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct graft_template graft_template;

typedef struct graft_span {
    size_t start, end; /* byte offsets, end exclusive */
} graft_span;

typedef struct graft_spans {
    graft_span *items; /* freed with graft_free; NULL when n == 0 */
    size_t n;
} graft_spans;

/* Zero-initialise for the defaults. */
typedef struct graft_template_options {
    const struct tm *now; /* what strftime_now formats, local calendar time; NULL: the system clock */
    size_t max_output;    /* bytes of rendered text; 0: 64 MiB */
    size_t max_memory;    /* bytes of values made while rendering; 0: 256 MiB */
    uint64_t max_steps;   /* evaluated nodes and touched 64-byte pieces of text; 0: 20 million (a few seconds) */
    unsigned max_depth;   /* nested evaluations, four for a macro call; 0: 2,000 (1 MiB of stack), at most 5,000 */
} graft_template_options;

/* Parses `text` (UTF-8, `len` bytes; at most 1 MiB). `name` stands in error messages as "name:line" (NULL:
 * "template"). The context must outlive the template. Errors: GRAFT_ERR_FORMAT for a syntax error or an unknown
 * filter, test or tag, GRAFT_ERR_LIMIT for nesting that is too deep. */
graft_status graft_template_parse(graft_context *ctx, const char *text, size_t len, const char *name,
                                  graft_template **out, graft_error *err);
void graft_template_free(graft_template *t);

/* Renders with the variables of the JSON object `json` (`len` bytes): messages, tools, documents,
 * add_generation_prompt, bos_token, eos_token and any other. As in the reference tools and documents are none and
 * add_generation_prompt is false where absent, and a message's reasoning_content, thinking and reasoning stand in for
 * each other. `options` may be NULL. `*out` is NUL-terminated UTF-8, freed with graft_free; out_len may be NULL.
 * `spans` (may be NULL) gets the ranges of the output that {% generation %} blocks wrote, in the order in which the
 * blocks ended. A template may be rendered from several threads at once.
 * Errors: GRAFT_ERR_FORMAT when json is malformed (NaN is read, a lone surrogate is not), GRAFT_ERR_MISMATCH when the
 * template raises (raise_exception or a wrong type), GRAFT_ERR_LIMIT (also for an integer over 64 bits),
 * GRAFT_ERR_UNSUPPORTED, GRAFT_ERR_CANCELLED; the text names template and line. */
graft_status graft_template_render(const graft_template *t, const char *json, size_t len,
                                   const graft_template_options *options, char **out, size_t *out_len,
                                   graft_spans *spans, graft_error *err);

#ifdef __cplusplus
}
#endif
#endif
