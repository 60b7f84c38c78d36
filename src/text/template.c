/* Public face of the template interpreter: parse once, render many times. */
#include "graft/template.h"

#include "text/jinja_ast.h"
#include "text/jinja_run.h"

enum {
    DEFAULT_OUTPUT = 64 << 20,
    DEFAULT_MEMORY = 256 << 20,
    DEFAULT_STEPS = 20000000,
    DEFAULT_DEPTH = 2000,
    MAX_DEPTH = 5000,
};

/* Newlines as "\n", without the last one: what Jinja's lexer sees. */
static graft_status normalise(gr_jparse *p, const char *text, size_t len) {
    char *copy = gr_jp_alloc(p, len + 1);
    if (!copy) return gr_fail_memory(p->err);
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\r' && i + 1 < len && text[i + 1] == '\n') continue;
        copy[n++] = text[i] == '\r' ? '\n' : text[i];
    }
    if (n && copy[n - 1] == '\n') n--;
    p->source = copy;
    p->len = n;
    return GRAFT_OK;
}

static graft_status parse(gr_jparse *p, const char *text, size_t len) {
    if (len > GR_JMAX_TEMPLATE)
        return gr_fail(p->err, GRAFT_ERR_LIMIT, "%s: a template of %zu bytes; at most %d are read", p->t->name, len,
                       GR_JMAX_TEMPLATE);
    if (!gr_utf8_valid(text, len)) return gr_fail(p->err, GRAFT_ERR_FORMAT, "%s: not valid UTF-8", p->t->name);
    GR_TRY(normalise(p, text, len));
    GR_TRY(gr_j_lex(p));
    GR_TRY(gr_j_parse(p));
    return gr_j_resolve(p);
}

graft_status graft_template_parse(graft_context *ctx, const char *text, size_t len, const char *name,
                                  graft_template **out, graft_error *err) {
    const graft_allocator *a = gr_allocator(ctx);
    graft_template *t = gr_calloc(a, 1, sizeof *t);
    if (!t) return gr_fail_memory(err);
    t->ctx = ctx;
    gr_arena_init(&t->arena, a, 0);
    gr_jparse p = {.t = t, .err = err};
    gr_map_init(&p.names, a);
    t->name = gr_strdup(a, name ? name : "template");
    graft_status st = t->name ? parse(&p, text, len) : gr_fail_memory(err);
    gr_map_free(&p.names);
    gr_free(a, p.tokens);
    if (st != GRAFT_OK) {
        graft_template_free(t);
        return st;
    }
    *out = t;
    return GRAFT_OK;
}

void graft_template_free(graft_template *t) {
    if (!t) return;
    const graft_allocator *a = gr_allocator(t->ctx);
    gr_arena_free(&t->arena);
    gr_free(a, t->name);
    gr_free(a, t);
}

static void begin(gr_jrun *run, const graft_template *t, const graft_template_options *o, graft_error *err) {
    const graft_allocator *a = gr_allocator(t->ctx);
    static const graft_template_options none = {0};
    if (!o) o = &none;
    *run = (gr_jrun){.t = t, .err = err, .line = 1};
    gr_arena_init(&run->arena, a, o->max_memory ? o->max_memory : DEFAULT_MEMORY);
    gr_buf_init(&run->out, a);
    gr_buf_init(&run->scratch, a);
    run->out.limit = o->max_output ? o->max_output : DEFAULT_OUTPUT;
    run->scratch.limit = run->arena.limit;
    run->to = &run->out;
    run->max_steps = o->max_steps ? o->max_steps : DEFAULT_STEPS;
    run->max_depth = o->max_depth ? GR_MIN(o->max_depth, MAX_DEPTH) : DEFAULT_DEPTH;
    run->has_now = o->now != NULL;
    if (o->now) run->now = *o->now;
}

static graft_status execute(gr_jrun *run, const char *json, size_t len) {
    gr_jframe *frame;
    int flow;
    GR_TRY(gr_check_cancel(run->t->ctx, run->err));
    GR_TRY(gr_j_read_vars(run, json, len));
    if (run->t->n_blocks) {
        gr_jv exported;
        GR_TRY(gr_j_dict(run, &exported));
        run->exported = exported.dict;
    }
    GR_TRY(gr_j_frame(run, NULL, run->t->scope, &frame));
    GR_TRY(gr_j_enter_frame(run, frame));
    return gr_j_exec(run, frame, run->t->body, &flow);
}

/* Spans count characters until the whole output is there: a block inside a macro or a set block need not have put its
 * text where it is said to begin, and the range must lie in the output and on character boundaries all the same. */
static graft_status finish_spans(gr_jrun *run, graft_spans *out) {
    graft_span *items = run->n_spans ? gr_calloc(run->arena.a, run->n_spans, sizeof *items) : NULL;
    if (run->n_spans && !items) return gr_fail_memory(run->err);
    for (size_t i = 0; i < run->n_spans; i++) {
        size_t at = GR_MIN(run->spans[i].start, run->out.len), chars = run->spans[i].chars;
        items[i].start = at;
        for (; chars && at < run->out.len; chars--) {
            at++;
            while (at < run->out.len && ((unsigned char)run->out.data[at] & 0xC0) == 0x80) at++;
        }
        items[i].end = at;
    }
    *out = (graft_spans){.items = items, .n = run->n_spans};
    return GRAFT_OK;
}

graft_status graft_template_render(const graft_template *t, const char *json, size_t len,
                                   const graft_template_options *options, char **out, size_t *out_len,
                                   graft_spans *spans, graft_error *err) {
    gr_jrun run;
    begin(&run, t, options, err);
    run.track = spans != NULL;
    graft_status st = execute(&run, json, len);
    graft_spans found = {0};
    if (st == GRAFT_OK) st = finish_spans(&run, &found);
    if (st == GRAFT_OK) st = gr_buf_take(&run.out, out, out_len, err);
    if (st == GRAFT_OK && spans)
        *spans = found;
    else
        gr_free(run.arena.a, found.items);
    gr_free(run.arena.a, run.spans);
    gr_buf_free(&run.out);
    gr_buf_free(&run.scratch);
    gr_arena_free(&run.arena);
    return st;
}
