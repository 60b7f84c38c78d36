/* Statements of a template, and what both halves of the parser share. */
#include "text/jinja_ast.h"

enum { MAX_HEIGHT = 1000 }; /* of the syntax tree: chains such as a + b + c are as high as they are long */

void *gr_jp_alloc(gr_jparse *p, size_t n) { return gr_arena_alloc(&p->t->arena, n); }

graft_status gr_jp_fail(gr_jparse *p, graft_status status, uint32_t line, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    gr_j_repair(text);
    return gr_fail(p->err, status, "%s:%u: %s", p->t->name, (unsigned)line, text);
}

graft_status gr_jp_str(gr_jparse *p, const char *text, size_t n, bool copy, gr_jv *out) {
    gr_jstr *s = gr_jp_alloc(p, sizeof *s);
    const char *bytes = copy ? gr_arena_strndup(&p->t->arena, text, n) : text;
    if (!s || !bytes) return gr_fail_memory(p->err);
    *s = (gr_jstr){.p = bytes, .len = n, .chars = SIZE_MAX};
    gr_j_chars(s); /* now, because rendering threads share the tree */
    *out = gr_j_of_str(s);
    return GRAFT_OK;
}

graft_status gr_jp_name(gr_jparse *p, const char *text, size_t n, const gr_jname **out) {
    int64_t at;
    if (gr_map_get(&p->names, text, n, &at)) {
        *out = (const gr_jname *)(intptr_t)at;
        return GRAFT_OK;
    }
    gr_jname *name = gr_jp_alloc(p, sizeof *name);
    const char *bytes = gr_arena_strndup(&p->t->arena, text, n);
    if (!name || !bytes) return gr_fail_memory(p->err);
    name->str = (gr_jstr){.p = bytes, .len = n, .chars = SIZE_MAX};
    gr_j_chars(&name->str);
    GR_TRY(gr_map_set(&p->names, text, n, (int64_t)(intptr_t)name, p->err));
    *out = name;
    return GRAFT_OK;
}

gr_jtoken *gr_jp_look(gr_jparse *p) { return &p->tokens[GR_MIN(p->at + 1, p->n_tokens - 1)]; }

gr_jtoken *gr_jp_next(gr_jparse *p) {
    gr_jtoken *t = gr_jp_peek(p);
    if (p->at + 1 < p->n_tokens) p->at++;
    return t;
}

bool gr_jp_is_name(const gr_jtoken *t, const char *name) { return t->type == GR_JT_NAME && gr_j_str_is(t->value, name); }

bool gr_jp_skip_name(gr_jparse *p, const char *name) {
    if (!gr_jp_is_name(gr_jp_peek(p), name)) return false;
    gr_jp_next(p);
    return true;
}

bool gr_jp_skip(gr_jparse *p, gr_jtok type) {
    if (gr_jp_peek(p)->type != type) return false;
    gr_jp_next(p);
    return true;
}

static graft_status unexpected(gr_jparse *p, const char *expected) {
    const gr_jtoken *t = gr_jp_peek(p);
    if (t->type == GR_JT_NAME)
        return gr_jp_fail(p, GRAFT_ERR_FORMAT, t->line, "expected '%s', got '%.*s'", expected,
                          (int)GR_MIN(t->value.str->len, 100), t->value.str->p);
    return gr_jp_fail(p, GRAFT_ERR_FORMAT, t->line, "expected '%s', got '%s'", expected, gr_jp_token_text(t->type));
}

graft_status gr_jp_expect(gr_jparse *p, gr_jtok type, gr_jtoken **out) {
    if (gr_jp_peek(p)->type != type) return unexpected(p, gr_jp_token_text(type));
    gr_jtoken *t = gr_jp_next(p);
    if (out) *out = t;
    return GRAFT_OK;
}

graft_status gr_jp_expect_name(gr_jparse *p, const char *name) {
    return gr_jp_skip_name(p, name) ? GRAFT_OK : unexpected(p, name);
}

graft_status gr_jp_node(gr_jparse *p, gr_jnode_kind kind, uint32_t line, gr_jnode **out) {
    gr_jnode *n = gr_jp_alloc(p, sizeof *n);
    if (!n) return gr_fail_memory(p->err);
    n->kind = kind;
    n->line = line;
    n->height = 1;
    *out = n;
    return GRAFT_OK;
}

static unsigned height_of(const gr_jnode *list) {
    unsigned h = 0;
    for (; list; list = list->next) h = GR_MAX(h, list->height);
    return h;
}

graft_status gr_jp_close(gr_jparse *p, gr_jnode *n) {
    unsigned h = 0;
    if (n->a) h = GR_MAX(h, n->a->height);
    if (n->b) h = GR_MAX(h, n->b->height);
    if (n->c) h = GR_MAX(h, n->c->height);
    h = GR_MAX(h, height_of(n->list));
    h = GR_MAX(h, height_of(n->list2));
    h = GR_MAX(h, height_of(n->body));
    h = GR_MAX(h, height_of(n->other));
    if (n->args) {
        h = GR_MAX(h, height_of(n->args->pos));
        h = GR_MAX(h, height_of(n->args->kw_values));
        h = GR_MAX(h, height_of(n->args->star));
        h = GR_MAX(h, height_of(n->args->star_star));
    }
    if (n->macro) h = GR_MAX(h, GR_MAX(height_of(n->macro->body), height_of(n->macro->defaults)));
    if (h >= MAX_HEIGHT) return gr_jp_fail(p, GRAFT_ERR_LIMIT, n->line, "expression of more than %d levels", MAX_HEIGHT);
    n->height = (uint16_t)(h + 1);
    return GRAFT_OK;
}

void gr_jp_append(gr_jlist_end *l, gr_jnode *node) {
    *l->last = node;
    l->last = &node->next;
    l->n++;
}

graft_status gr_jp_enter(gr_jparse *p) {
    if (p->depth >= GR_JMAX_NESTING)
        return gr_jp_fail(p, GRAFT_ERR_LIMIT, gr_jp_peek(p)->line, "nested over %d deep", GR_JMAX_NESTING);
    p->depth++;
    return GRAFT_OK;
}

static graft_status parse_list(gr_jparse *p, const char *const *ends, gr_jnode **out);

/* ":"? "%}" statements, until one of `ends` (which stays the current token; consumed with `drop`). */
static graft_status parse_body(gr_jparse *p, const char *const *ends, bool drop, gr_jnode **out) {
    gr_jp_skip(p, GR_JT_COLON);
    GR_TRY(gr_jp_expect(p, GR_JT_BLOCK_END, NULL));
    GR_TRY(parse_list(p, ends, out));
    if (gr_jp_peek(p)->type == GR_JT_EOF)
        return gr_jp_fail(p, GRAFT_ERR_FORMAT, gr_jp_peek(p)->line, "unexpected end of template, expected '%s'",
                          ends[0]);
    if (drop) gr_jp_next(p);
    return GRAFT_OK;
}

static graft_status parse_until(gr_jparse *p, const char *end, gr_jnode **out) {
    return parse_body(p, (const char *const[]){end, NULL}, true, out);
}

static bool assignable(const gr_jnode *n) {
    if (n->kind == GR_JN_TUPLE) {
        for (const gr_jnode *item = n->list; item; item = item->next)
            if (!assignable(item)) return false;
        return true;
    }
    return n->kind == GR_JN_NAME || n->kind == GR_JN_NSREF;
}

static void mark_stored(gr_jnode *n, gr_jname_use use) {
    n->op = n->kind == GR_JN_NAME ? (uint8_t)use : n->op;
    if (n->kind == GR_JN_TUPLE)
        for (gr_jnode *item = n->list; item; item = item->next) mark_stored(item, use);
}

graft_status gr_jp_target(gr_jparse *p, bool name_only, const char *end, bool with_namespace, gr_jnode **out) {
    gr_jnode *target;
    uint32_t line = gr_jp_peek(p)->line;
    if (name_only) {
        gr_jtoken *t = NULL;
        GR_TRY(gr_jp_expect(p, GR_JT_NAME, &t));
        GR_TRY(gr_jp_node(p, GR_JN_NAME, t->line, &target));
        GR_TRY(gr_jp_name(p, t->value.str->p, t->value.str->len, &target->name));
        static const char *const constants[] = {"true", "false", "none", "True", "False", "None"};
        for (size_t i = 0; i < GR_COUNT(constants); i++)
            if (gr_jp_is_name(t, constants[i]))
                return gr_jp_fail(p, GRAFT_ERR_FORMAT, line, "cannot assign to %s", constants[i]);
    } else {
        GR_TRY(gr_jp_tuple(p, (gr_jtuple_rules){.simple = true, .end = end, .with_namespace = with_namespace}, &target));
    }
    if (!assignable(target)) return gr_jp_fail(p, GRAFT_ERR_FORMAT, line, "cannot assign to an expression");
    mark_stored(target, GR_JSTORE);
    *out = target;
    return GRAFT_OK;
}

static graft_status parse_set(gr_jparse *p, gr_jnode *n) {
    GR_TRY(gr_jp_target(p, false, NULL, true, &n->a));
    if (gr_jp_skip(p, GR_JT_ASSIGN)) return gr_jp_tuple(p, (gr_jtuple_rules){.with_cond = true}, &n->b);
    n->kind = GR_JN_SETBLOCK;
    GR_TRY(gr_jp_filters(p, NULL, false, &n->b));
    return parse_until(p, "endset", &n->body);
}

static graft_status parse_for(gr_jparse *p, gr_jnode *n) {
    n->loop = gr_jp_alloc(p, sizeof *n->loop);
    if (!n->loop) return gr_fail_memory(p->err);
    GR_TRY(gr_jp_target(p, false, "in", false, &n->a));
    GR_TRY(gr_jp_expect_name(p, "in"));
    GR_TRY(gr_jp_tuple(p, (gr_jtuple_rules){.end = "recursive"}, &n->b));
    if (gr_jp_skip_name(p, "if")) GR_TRY(gr_jp_expression(p, true, &n->c));
    n->loop->recursive = gr_jp_skip_name(p, "recursive");
    GR_TRY(parse_body(p, (const char *const[]){"endfor", "else", NULL}, false, &n->body));
    if (gr_jp_is_name(gr_jp_next(p), "endfor")) return GRAFT_OK;
    n->flag = true; /* there is an else, even if it is empty */
    return parse_until(p, "endfor", &n->other);
}

static graft_status parse_if(gr_jparse *p, gr_jnode *n) {
    gr_jlist_end elifs = {.last = &n->list};
    for (gr_jnode *branch = n;;) {
        GR_TRY(gr_jp_tuple(p, (gr_jtuple_rules){0}, &branch->a));
        GR_TRY(parse_body(p, (const char *const[]){"endif", "elif", "else", NULL}, false, &branch->body));
        if (branch != n) {
            GR_TRY(gr_jp_close(p, branch));
            gr_jp_append(&elifs, branch);
        }
        gr_jtoken *t = gr_jp_next(p);
        if (gr_jp_is_name(t, "else")) return parse_until(p, "endif", &n->other);
        if (!gr_jp_is_name(t, "elif")) return GRAFT_OK;
        GR_TRY(gr_jp_node(p, GR_JN_IF, gr_jp_peek(p)->line, &branch));
    }
}

static graft_status new_macro(gr_jparse *p, gr_jnode *n) {
    n->macro = gr_jp_alloc(p, sizeof *n->macro);
    return n->macro ? GRAFT_OK : gr_fail_memory(p->err);
}

static graft_status parse_signature(gr_jparse *p, gr_jmacro_code *m) {
    gr_jlist_end params = {.last = &m->params}, defaults = {.last = &m->defaults};
    GR_TRY(gr_jp_expect(p, GR_JT_LPAREN, NULL));
    while (gr_jp_peek(p)->type != GR_JT_RPAREN) {
        if (params.n) GR_TRY(gr_jp_expect(p, GR_JT_COMMA, NULL));
        gr_jnode *param, *value;
        GR_TRY(gr_jp_target(p, true, NULL, false, &param));
        mark_stored(param, GR_JPARAM);
        for (const gr_jnode *other = m->params; other; other = other->next)
            if (other->name == param->name)
                return gr_jp_fail(p, GRAFT_ERR_FORMAT, param->line, "duplicate parameter '%s'", param->name->str.p);
        if (gr_jp_skip(p, GR_JT_ASSIGN)) {
            GR_TRY(gr_jp_expression(p, true, &value));
            gr_jp_append(&defaults, value);
        } else if (defaults.n) {
            return gr_jp_fail(p, GRAFT_ERR_FORMAT, param->line, "non-default argument follows default argument");
        }
        gr_jp_append(&params, param);
    }
    m->n_params = params.n;
    m->n_defaults = defaults.n;
    return gr_jp_expect(p, GR_JT_RPAREN, NULL);
}

static graft_status parse_macro(gr_jparse *p, gr_jnode *n) {
    gr_jnode *name;
    GR_TRY(new_macro(p, n));
    GR_TRY(gr_jp_target(p, true, NULL, false, &name));
    n->name = n->macro->name = name->name;
    GR_TRY(parse_signature(p, n->macro));
    return parse_until(p, "endmacro", &n->macro->body);
}

static graft_status parse_call_block(gr_jparse *p, gr_jnode *n) {
    GR_TRY(new_macro(p, n));
    if (gr_jp_peek(p)->type == GR_JT_LPAREN) GR_TRY(parse_signature(p, n->macro));
    GR_TRY(gr_jp_expression(p, true, &n->a));
    if (n->a->kind != GR_JN_CALL) return gr_jp_fail(p, GRAFT_ERR_FORMAT, n->line, "expected call");
    return parse_until(p, "endcall", &n->macro->body);
}

static graft_status parse_generation(gr_jparse *p, gr_jnode *n) {
    GR_TRY(new_macro(p, n));
    return parse_until(p, "endgeneration", &n->macro->body);
}

static graft_status parse_filter_block(gr_jparse *p, gr_jnode *n) {
    GR_TRY(gr_jp_filters(p, NULL, true, &n->a));
    return parse_until(p, "endfilter", &n->body);
}

static graft_status parse_with(gr_jparse *p, gr_jnode *n) {
    gr_jlist_end targets = {.last = &n->list}, values = {.last = &n->list2};
    while (gr_jp_peek(p)->type != GR_JT_BLOCK_END) {
        gr_jnode *target, *value;
        if (targets.n) GR_TRY(gr_jp_expect(p, GR_JT_COMMA, NULL));
        GR_TRY(gr_jp_target(p, false, NULL, false, &target));
        mark_stored(target, GR_JPARAM);
        gr_jp_append(&targets, target);
        GR_TRY(gr_jp_expect(p, GR_JT_ASSIGN, NULL));
        GR_TRY(gr_jp_expression(p, true, &value));
        gr_jp_append(&values, value);
    }
    return parse_until(p, "endwith", &n->body);
}

static graft_status parse_autoescape(gr_jparse *p, gr_jnode *n) {
    GR_TRY(gr_jp_expression(p, true, &n->a));
    return parse_until(p, "endautoescape", &n->body);
}

static graft_status parse_print(gr_jparse *p, gr_jnode *n) {
    gr_jlist_end list = {.last = &n->list};
    while (gr_jp_peek(p)->type != GR_JT_BLOCK_END) {
        gr_jnode *item;
        if (list.n) GR_TRY(gr_jp_expect(p, GR_JT_COMMA, NULL));
        GR_TRY(gr_jp_expression(p, true, &item));
        gr_jp_append(&list, item);
    }
    return GRAFT_OK;
}

/* Whether a required block holds only comments and whitespace. */
static bool is_blank(const gr_jnode *list) {
    for (; list; list = list->next) {
        if (list->kind != GR_JN_DATA) return false;
        for (size_t i = 0; i < list->value.str->len; i++)
            if (!strchr(" \t\n\v\f\r", list->value.str->p[i])) return false;
    }
    return true;
}

static graft_status parse_block(gr_jparse *p, gr_jnode *n) {
    gr_jtoken *t = NULL;
    GR_TRY(gr_jp_expect(p, GR_JT_NAME, &t));
    GR_TRY(gr_jp_name(p, t->value.str->p, t->value.str->len, &n->name));
    n->flag = gr_jp_skip_name(p, "scoped");
    n->op = gr_jp_skip_name(p, "required");
    GR_TRY(parse_until(p, "endblock", &n->body));
    if (n->op && !is_blank(n->body))
        return gr_jp_fail(p, GRAFT_ERR_FORMAT, n->line, "required blocks can only contain comments or whitespace");
    gr_jp_skip_name(p, n->name->str.p);
    return GRAFT_OK;
}

static void skip_context(gr_jparse *p) {
    const gr_jtoken *t = gr_jp_peek(p);
    if (!gr_jp_is_name(t, "with") && !gr_jp_is_name(t, "without")) return;
    if (!gr_jp_is_name(gr_jp_look(p), "context")) return;
    gr_jp_next(p);
    gr_jp_next(p);
}

/* extends, include, import, from: they parse, and fail when they are reached, for there is nothing to load from. */
static graft_status parse_loader(gr_jparse *p, gr_jnode *n) {
    gr_jlist_end names = {.last = &n->list};
    gr_jnode *name;
    const char *tag = n->name->str.p;
    GR_TRY(gr_jp_expression(p, true, &n->a));
    if (!strcmp(tag, "include")) {
        if (gr_jp_is_name(gr_jp_peek(p), "ignore") && gr_jp_is_name(gr_jp_look(p), "missing")) {
            gr_jp_next(p);
            gr_jp_next(p);
        }
    } else if (!strcmp(tag, "import")) {
        GR_TRY(gr_jp_expect_name(p, "as"));
        GR_TRY(gr_jp_target(p, true, NULL, false, &name));
        gr_jp_append(&names, name);
    } else if (!strcmp(tag, "from")) {
        GR_TRY(gr_jp_expect_name(p, "import"));
        do {
            GR_TRY(gr_jp_target(p, true, NULL, false, &name));
            if (name->name->str.p[0] == '_')
                return gr_jp_fail(p, GRAFT_ERR_FORMAT, n->line, "names starting with an underline can not be imported");
            if (gr_jp_skip_name(p, "as")) GR_TRY(gr_jp_target(p, true, NULL, false, &name));
            gr_jp_append(&names, name);
        } while (gr_jp_skip(p, GR_JT_COMMA));
    }
    skip_context(p);
    return GRAFT_OK;
}

static graft_status parse_nothing(gr_jparse *p, gr_jnode *n) {
    (void)p;
    (void)n;
    return GRAFT_OK;
}

static const struct {
    const char *tag;
    gr_jnode_kind kind;
    graft_status (*parse)(gr_jparse *p, gr_jnode *n);
} tags[] = {
    {"if", GR_JN_IF, parse_if},
    {"for", GR_JN_FOR, parse_for},
    {"set", GR_JN_SET, parse_set},
    {"macro", GR_JN_MACRO, parse_macro},
    {"call", GR_JN_CALLBLOCK, parse_call_block},
    {"generation", GR_JN_GENERATION, parse_generation},
    {"filter", GR_JN_FILTERBLOCK, parse_filter_block},
    {"with", GR_JN_WITH, parse_with},
    {"autoescape", GR_JN_AUTOESCAPE, parse_autoescape},
    {"print", GR_JN_OUTPUT, parse_print},
    {"block", GR_JN_BLOCK, parse_block},
    {"break", GR_JN_BREAK, parse_nothing},
    {"continue", GR_JN_CONTINUE, parse_nothing},
    {"extends", GR_JN_LOADER, parse_loader},
    {"include", GR_JN_LOADER, parse_loader},
    {"import", GR_JN_LOADER, parse_loader},
    {"from", GR_JN_LOADER, parse_loader},
};

static graft_status parse_statement(gr_jparse *p, gr_jnode **out) {
    gr_jtoken *t = gr_jp_peek(p);
    if (t->type != GR_JT_NAME) return gr_jp_fail(p, GRAFT_ERR_FORMAT, t->line, "tag name expected");
    GR_TRY(gr_jp_enter(p));
    for (size_t i = 0; i < GR_COUNT(tags); i++) {
        if (!gr_jp_is_name(t, tags[i].tag)) continue;
        gr_jnode *n;
        GR_TRY(gr_jp_node(p, tags[i].kind, t->line, &n));
        GR_TRY(gr_jp_name(p, t->value.str->p, t->value.str->len, &n->name));
        gr_jp_next(p);
        GR_TRY(tags[i].parse(p, n));
        p->depth--;
        *out = n;
        return gr_jp_close(p, n);
    }
    return gr_jp_fail(p, GRAFT_ERR_FORMAT, t->line, "unknown tag '%.*s'", (int)GR_MIN(t->value.str->len, 100),
                      t->value.str->p);
}

static bool at_end(gr_jparse *p, const char *const *ends) {
    for (; ends && *ends; ends++)
        if (gr_jp_is_name(gr_jp_peek(p), *ends)) return true;
    return false;
}

static graft_status parse_list(gr_jparse *p, const char *const *ends, gr_jnode **out) {
    gr_jlist_end list = {.last = out};
    *out = NULL;
    for (;;) {
        gr_jtoken *t = gr_jp_peek(p);
        gr_jnode *n = NULL;
        if (t->type == GR_JT_EOF) return GRAFT_OK;
        if (t->type == GR_JT_DATA) {
            GR_TRY(gr_jp_node(p, GR_JN_DATA, t->line, &n));
            n->value = gr_jp_next(p)->value;
        } else if (t->type == GR_JT_VAR_BEGIN) {
            gr_jp_next(p);
            GR_TRY(gr_jp_node(p, GR_JN_OUTPUT, t->line, &n));
            GR_TRY(gr_jp_tuple(p, (gr_jtuple_rules){.with_cond = true}, &n->list));
            GR_TRY(gr_jp_expect(p, GR_JT_VAR_END, NULL));
            GR_TRY(gr_jp_close(p, n));
        } else {
            gr_jp_next(p);
            if (at_end(p, ends)) return GRAFT_OK;
            GR_TRY(parse_statement(p, &n));
            GR_TRY(gr_jp_expect(p, GR_JT_BLOCK_END, NULL));
        }
        gr_jp_append(&list, n);
    }
}

graft_status gr_j_parse(gr_jparse *p) { return parse_list(p, NULL, &p->t->body); }
