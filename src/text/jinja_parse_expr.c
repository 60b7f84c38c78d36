/* Expressions, by recursive descent. Precedence from loose to tight, as in Jinja: x if y else z; or; and; not;
 * comparisons, in, not in; + -; ~; * / // %; **; unary + and -; then .name [item] (call) |filter and `is` tests. Unlike
 * in Python ** groups from the left and binds looser than a unary minus. */
#include "text/jinja_ast.h"

typedef graft_status (*parse_fn)(gr_jparse *p, gr_jnode **out);

static graft_status parse_or(gr_jparse *p, gr_jnode **out);
static graft_status parse_primary(gr_jparse *p, bool with_namespace, gr_jnode **out);
static graft_status parse_unary(gr_jparse *p, bool with_filter, gr_jnode **out);
static graft_status parse_postfix(gr_jparse *p, gr_jnode **node);

static graft_status binary(gr_jparse *p, gr_jnode_kind kind, uint8_t op, uint32_t line, gr_jnode *a, gr_jnode *b,
                           gr_jnode **out) {
    gr_jnode *n;
    GR_TRY(gr_jp_node(p, kind, line, &n));
    n->op = op;
    n->a = a;
    n->b = b;
    GR_TRY(gr_jp_close(p, n));
    *out = n;
    return GRAFT_OK;
}

graft_status gr_jp_expression(gr_jparse *p, bool with_cond, gr_jnode **out) {
    GR_TRY(gr_jp_enter(p));
    uint32_t line = gr_jp_peek(p)->line;
    gr_jnode *node;
    GR_TRY(parse_or(p, &node));
    while (with_cond && gr_jp_skip_name(p, "if")) {
        gr_jnode *test, *other = NULL, *cond;
        GR_TRY(parse_or(p, &test));
        if (gr_jp_skip_name(p, "else")) GR_TRY(gr_jp_expression(p, true, &other));
        GR_TRY(gr_jp_node(p, GR_JN_COND, line, &cond));
        cond->a = test;
        cond->b = node;
        cond->c = other;
        GR_TRY(gr_jp_close(p, cond));
        node = cond;
        line = gr_jp_peek(p)->line;
    }
    p->depth--;
    *out = node;
    return GRAFT_OK;
}

/* left (`word` right)* */
static graft_status parse_words(gr_jparse *p, const char *word, gr_jnode_kind kind, parse_fn operand, gr_jnode **out) {
    uint32_t line = gr_jp_peek(p)->line;
    gr_jnode *left, *right;
    GR_TRY(operand(p, &left));
    while (gr_jp_skip_name(p, word)) {
        GR_TRY(operand(p, &right));
        GR_TRY(binary(p, kind, 0, line, left, right, &left));
        line = gr_jp_peek(p)->line;
    }
    *out = left;
    return GRAFT_OK;
}

/* left (operator right)* for the operators in `ops`, which ends with GR_JT_EOF. */
static graft_status parse_ops(gr_jparse *p, const gr_jtok *ops, parse_fn operand, gr_jnode **out) {
    uint32_t line = gr_jp_peek(p)->line;
    gr_jnode *left, *right;
    GR_TRY(operand(p, &left));
    for (;;) {
        gr_jtok type = gr_jp_peek(p)->type;
        const gr_jtok *op = ops;
        while (*op != GR_JT_EOF && *op != type) op++;
        if (*op == GR_JT_EOF) break;
        gr_jp_next(p);
        GR_TRY(operand(p, &right));
        GR_TRY(binary(p, GR_JN_BINARY, (uint8_t)type, line, left, right, &left));
        line = gr_jp_peek(p)->line;
    }
    *out = left;
    return GRAFT_OK;
}

static graft_status parse_unary_filtered(gr_jparse *p, gr_jnode **out) { return parse_unary(p, true, out); }

static graft_status parse_pow(gr_jparse *p, gr_jnode **out) {
    static const gr_jtok ops[] = {GR_JT_POW, GR_JT_EOF};
    return parse_ops(p, ops, parse_unary_filtered, out);
}

static graft_status parse_product(gr_jparse *p, gr_jnode **out) {
    static const gr_jtok ops[] = {GR_JT_MUL, GR_JT_DIV, GR_JT_FLOORDIV, GR_JT_MOD, GR_JT_EOF};
    return parse_ops(p, ops, parse_pow, out);
}

static graft_status parse_concat(gr_jparse *p, gr_jnode **out) {
    uint32_t line = gr_jp_peek(p)->line;
    gr_jnode *first, *node;
    GR_TRY(parse_product(p, &first));
    *out = first;
    if (gr_jp_peek(p)->type != GR_JT_TILDE) return GRAFT_OK;
    GR_TRY(gr_jp_node(p, GR_JN_CONCAT, line, &node));
    gr_jlist_end list = {.last = &node->list};
    gr_jp_append(&list, first);
    while (gr_jp_skip(p, GR_JT_TILDE)) {
        gr_jnode *part;
        GR_TRY(parse_product(p, &part));
        gr_jp_append(&list, part);
    }
    node->n = list.n;
    *out = node;
    return gr_jp_close(p, node);
}

static graft_status parse_sum(gr_jparse *p, gr_jnode **out) {
    static const gr_jtok ops[] = {GR_JT_ADD, GR_JT_SUB, GR_JT_EOF};
    return parse_ops(p, ops, parse_concat, out);
}

/* The comparison at the current token, consumed, or GR_JT_EOF. */
static gr_jtok comparison(gr_jparse *p) {
    gr_jtok type = gr_jp_peek(p)->type;
    if (type >= GR_JT_EQ && type <= GR_JT_LE) {
        gr_jp_next(p);
        return type;
    }
    if (gr_jp_skip_name(p, "in")) return GR_JT_NAME;
    if (gr_jp_is_name(gr_jp_peek(p), "not") && gr_jp_is_name(gr_jp_look(p), "in")) {
        gr_jp_next(p);
        gr_jp_next(p);
        return GR_JT_STRING;
    }
    return GR_JT_EOF;
}

static graft_status parse_compare(gr_jparse *p, gr_jnode **out) {
    uint32_t line = gr_jp_peek(p)->line;
    gr_jnode *first, *node = NULL;
    GR_TRY(parse_sum(p, &first));
    gr_jlist_end list = {0};
    for (gr_jtok op; (op = comparison(p)) != GR_JT_EOF;) {
        if (!node) {
            GR_TRY(gr_jp_node(p, GR_JN_COMPARE, line, &node));
            node->a = first;
            list.last = &node->list;
        }
        gr_jnode *operand;
        GR_TRY(gr_jp_node(p, GR_JN_OPERAND, gr_jp_peek(p)->line, &operand));
        operand->op = (uint8_t)op;
        GR_TRY(parse_sum(p, &operand->a));
        GR_TRY(gr_jp_close(p, operand));
        gr_jp_append(&list, operand);
    }
    *out = node ? node : first;
    return node ? gr_jp_close(p, node) : GRAFT_OK;
}

static graft_status parse_not(gr_jparse *p, gr_jnode **out) {
    if (!gr_jp_is_name(gr_jp_peek(p), "not")) return parse_compare(p, out);
    GR_TRY(gr_jp_enter(p));
    gr_jnode *node;
    GR_TRY(gr_jp_node(p, GR_JN_NOT, gr_jp_next(p)->line, &node));
    GR_TRY(parse_not(p, &node->a));
    p->depth--;
    *out = node;
    return gr_jp_close(p, node);
}

static graft_status parse_and(gr_jparse *p, gr_jnode **out) { return parse_words(p, "and", GR_JN_AND, parse_not, out); }

static graft_status parse_or(gr_jparse *p, gr_jnode **out) { return parse_words(p, "or", GR_JN_OR, parse_and, out); }

static graft_status parse_call_args(gr_jparse *p, gr_jcall_args **out) {
    gr_jtoken *open;
    GR_TRY(gr_jp_expect(p, GR_JT_LPAREN, &open));
    uint32_t line = open->line;
    gr_jcall_args *args = gr_jp_alloc(p, sizeof *args);
    if (!args) return gr_fail_memory(p->err);
    gr_jlist_end pos = {.last = &args->pos}, kw = {.last = &args->kw_values};
    size_t cap = 0;
    for (bool first = true; gr_jp_peek(p)->type != GR_JT_RPAREN; first = false) {
        if (!first) {
            GR_TRY(gr_jp_expect(p, GR_JT_COMMA, NULL));
            if (gr_jp_peek(p)->type == GR_JT_RPAREN) break;
        }
        bool star = gr_jp_skip(p, GR_JT_MUL), star_star = !star && gr_jp_skip(p, GR_JT_POW), wrong;
        gr_jnode *value;
        if (star || star_star) {
            wrong = args->star_star || (star && args->star);
            GR_TRY(gr_jp_expression(p, true, &value));
            *(star ? &args->star : &args->star_star) = value;
        } else if (gr_jp_peek(p)->type == GR_JT_NAME && gr_jp_look(p)->type == GR_JT_ASSIGN) {
            wrong = args->star_star != NULL;
            if (args->n_kw == cap) {
                size_t more = cap ? cap * 2 : 4;
                const gr_jname **names = gr_jp_alloc(p, more * sizeof *names);
                if (!names) return gr_fail_memory(p->err);
                if (cap) memcpy(names, args->kw_names, cap * sizeof *names);
                args->kw_names = names;
                cap = more;
            }
            gr_jtoken *key = gr_jp_next(p);
            GR_TRY(gr_jp_name(p, key->value.str->p, key->value.str->len, &args->kw_names[args->n_kw]));
            for (size_t i = 0; i < args->n_kw; i++) wrong |= args->kw_names[i] == args->kw_names[args->n_kw];
            args->n_kw++;
            gr_jp_next(p);
            GR_TRY(gr_jp_expression(p, true, &value));
            gr_jp_append(&kw, value);
        } else {
            wrong = args->star || args->star_star || args->n_kw;
            GR_TRY(gr_jp_expression(p, true, &value));
            gr_jp_append(&pos, value);
            args->n_pos++;
        }
        if (wrong) return gr_jp_fail(p, GRAFT_ERR_FORMAT, line, "invalid syntax for function call expression");
    }
    GR_TRY(gr_jp_expect(p, GR_JT_RPAREN, NULL));
    *out = args;
    return GRAFT_OK;
}

static graft_status parse_slice_part(gr_jparse *p, gr_jnode **out) {
    gr_jtok type = gr_jp_peek(p)->type;
    if (type == GR_JT_COLON || type == GR_JT_RBRACKET || type == GR_JT_COMMA) return GRAFT_OK;
    return gr_jp_expression(p, true, out);
}

/* One piece between the commas of [...]: an expression or a slice. */
static graft_status parse_subscribed(gr_jparse *p, gr_jnode **out) {
    uint32_t line = gr_jp_peek(p)->line;
    gr_jnode *start = NULL, *slice;
    if (gr_jp_peek(p)->type != GR_JT_COLON) {
        GR_TRY(gr_jp_expression(p, true, &start));
        if (gr_jp_peek(p)->type != GR_JT_COLON) {
            *out = start;
            return GRAFT_OK;
        }
    }
    gr_jp_next(p);
    GR_TRY(gr_jp_node(p, GR_JN_SLICE, line, &slice));
    slice->a = start;
    GR_TRY(parse_slice_part(p, &slice->b));
    if (gr_jp_skip(p, GR_JT_COLON)) GR_TRY(parse_slice_part(p, &slice->c));
    *out = slice;
    return gr_jp_close(p, slice);
}

static graft_status parse_subscript(gr_jparse *p, gr_jnode **node) {
    gr_jtoken *token = gr_jp_next(p);
    uint32_t line = token->line;
    gr_jnode *n;
    if (token->type == GR_JT_DOT) {
        gr_jtoken *attr = gr_jp_next(p);
        if (attr->type == GR_JT_NAME) {
            GR_TRY(gr_jp_node(p, GR_JN_GETATTR, line, &n));
            n->a = *node;
            *node = n;
            GR_TRY(gr_jp_name(p, attr->value.str->p, attr->value.str->len, &n->name));
            return gr_jp_close(p, n);
        }
        if (attr->type != GR_JT_INT) return gr_jp_fail(p, GRAFT_ERR_FORMAT, attr->line, "expected name or number");
        GR_TRY(gr_jp_node(p, GR_JN_CONST, attr->line, &n));
        n->value = attr->value;
        return binary(p, GR_JN_GETITEM, 0, line, *node, n, node);
    }
    gr_jnode *tuple;
    GR_TRY(gr_jp_node(p, GR_JN_TUPLE, line, &tuple));
    gr_jlist_end list = {.last = &tuple->list};
    while (gr_jp_peek(p)->type != GR_JT_RBRACKET) {
        if (list.n) GR_TRY(gr_jp_expect(p, GR_JT_COMMA, NULL));
        GR_TRY(parse_subscribed(p, &n));
        gr_jp_append(&list, n);
    }
    GR_TRY(gr_jp_expect(p, GR_JT_RBRACKET, NULL));
    tuple->n = list.n;
    GR_TRY(gr_jp_close(p, tuple));
    return binary(p, GR_JN_GETITEM, 0, line, *node, list.n == 1 ? tuple->list : tuple, node);
}

static graft_status parse_call(gr_jparse *p, gr_jnode **node) {
    gr_jnode *call;
    GR_TRY(gr_jp_node(p, GR_JN_CALL, gr_jp_peek(p)->line, &call));
    call->a = *node;
    GR_TRY(parse_call_args(p, &call->args));
    *node = call;
    return gr_jp_close(p, call);
}

static graft_status parse_postfix(gr_jparse *p, gr_jnode **node) {
    for (;;) {
        gr_jtok type = gr_jp_peek(p)->type;
        if (type == GR_JT_DOT || type == GR_JT_LBRACKET)
            GR_TRY(parse_subscript(p, node));
        else if (type == GR_JT_LPAREN)
            GR_TRY(parse_call(p, node));
        else
            return GRAFT_OK;
    }
}

/* name(.name)* of a filter or test. */
static graft_status parse_dotted(gr_jparse *p, const gr_jname **out) {
    gr_jtoken *token;
    GR_TRY(gr_jp_expect(p, GR_JT_NAME, &token));
    GR_TRY(gr_jp_name(p, token->value.str->p, token->value.str->len, out));
    while (gr_jp_skip(p, GR_JT_DOT)) {
        GR_TRY(gr_jp_expect(p, GR_JT_NAME, &token));
        gr_buf b;
        gr_buf_init(&b, p->t->arena.a);
        gr_buf_add(&b, (*out)->str.p, (*out)->str.len);
        gr_buf_add_char(&b, '.');
        gr_buf_add(&b, token->value.str->p, token->value.str->len);
        graft_status st = gr_buf_status(&b, p->err);
        if (st == GRAFT_OK) st = gr_jp_name(p, b.data, b.len, out);
        gr_buf_free(&b);
        GR_TRY(st);
    }
    return GRAFT_OK;
}

graft_status gr_jp_filters(gr_jparse *p, gr_jnode *over, bool inline_first, gr_jnode **out) {
    gr_jnode *node = over;
    while (inline_first || gr_jp_peek(p)->type == GR_JT_PIPE) {
        if (!inline_first) gr_jp_next(p);
        inline_first = false;
        gr_jnode *filter;
        GR_TRY(gr_jp_node(p, GR_JN_FILTER, gr_jp_peek(p)->line, &filter));
        GR_TRY(parse_dotted(p, &filter->name));
        if (gr_jp_peek(p)->type == GR_JT_LPAREN) GR_TRY(parse_call_args(p, &filter->args));
        filter->a = node;
        GR_TRY(gr_jp_close(p, filter));
        node = filter;
    }
    *out = node;
    return GRAFT_OK;
}

/* `is` without parentheses takes one argument where a primary can begin: x is divisibleby 3. */
static bool test_argument_begins(gr_jparse *p) {
    const gr_jtoken *t = gr_jp_peek(p);
    if (t->type == GR_JT_NAME) return !gr_jp_is_name(t, "else") && !gr_jp_is_name(t, "or") && !gr_jp_is_name(t, "and");
    return t->type == GR_JT_STRING || t->type == GR_JT_INT || t->type == GR_JT_FLOAT || t->type == GR_JT_LBRACKET ||
           t->type == GR_JT_LBRACE;
}

static graft_status parse_test(gr_jparse *p, gr_jnode **node) {
    uint32_t line = gr_jp_next(p)->line;
    bool negated = gr_jp_skip_name(p, "not");
    gr_jnode *test;
    GR_TRY(gr_jp_node(p, GR_JN_TEST, line, &test));
    test->a = *node;
    GR_TRY(parse_dotted(p, &test->name));
    if (gr_jp_peek(p)->type == GR_JT_LPAREN) {
        GR_TRY(parse_call_args(p, &test->args));
    } else if (test_argument_begins(p)) {
        if (gr_jp_is_name(gr_jp_peek(p), "is"))
            return gr_jp_fail(p, GRAFT_ERR_FORMAT, line, "you cannot chain multiple tests with is");
        gr_jnode *arg;
        GR_TRY(parse_primary(p, false, &arg));
        GR_TRY(parse_postfix(p, &arg));
        test->args = gr_jp_alloc(p, sizeof *test->args);
        if (!test->args) return gr_fail_memory(p->err);
        test->args->pos = arg;
        test->args->n_pos = 1;
    }
    GR_TRY(gr_jp_close(p, test));
    *node = test;
    return negated ? binary(p, GR_JN_NOT, 0, line, test, NULL, node) : GRAFT_OK;
}

static graft_status parse_filter_expr(gr_jparse *p, gr_jnode **node) {
    for (;;) {
        const gr_jtoken *t = gr_jp_peek(p);
        if (t->type == GR_JT_PIPE)
            GR_TRY(gr_jp_filters(p, *node, false, node));
        else if (gr_jp_is_name(t, "is"))
            GR_TRY(parse_test(p, node));
        else if (t->type == GR_JT_LPAREN)
            GR_TRY(parse_call(p, node));
        else
            return GRAFT_OK;
    }
}

static graft_status parse_unary(gr_jparse *p, bool with_filter, gr_jnode **out) {
    gr_jtoken *t = gr_jp_peek(p);
    gr_jnode *node;
    if (t->type == GR_JT_SUB || t->type == GR_JT_ADD) {
        GR_TRY(gr_jp_enter(p));
        GR_TRY(gr_jp_node(p, t->type == GR_JT_SUB ? GR_JN_NEG : GR_JN_POS, gr_jp_next(p)->line, &node));
        GR_TRY(parse_unary(p, false, &node->a));
        GR_TRY(gr_jp_close(p, node));
        p->depth--;
    } else {
        GR_TRY(parse_primary(p, false, &node));
    }
    GR_TRY(parse_postfix(p, &node));
    if (with_filter) GR_TRY(parse_filter_expr(p, &node));
    *out = node;
    return GRAFT_OK;
}

static graft_status parse_name(gr_jparse *p, bool with_namespace, gr_jnode **out) {
    static const struct {
        const char *name;
        gr_jv value;
    } constants[] = {
        {"true", {.kind = GR_JBOOL, .b = true}},   {"True", {.kind = GR_JBOOL, .b = true}},
        {"false", {.kind = GR_JBOOL, .b = false}}, {"False", {.kind = GR_JBOOL, .b = false}},
        {"none", {.kind = GR_JNONE}},              {"None", {.kind = GR_JNONE}},
    };
    gr_jtoken *t = gr_jp_next(p);
    for (size_t i = 0; i < GR_COUNT(constants); i++) {
        if (!gr_jp_is_name(t, constants[i].name)) continue;
        GR_TRY(gr_jp_node(p, GR_JN_CONST, t->line, out));
        (*out)->value = constants[i].value;
        return GRAFT_OK;
    }
    bool dotted = with_namespace && gr_jp_peek(p)->type == GR_JT_DOT;
    GR_TRY(gr_jp_node(p, dotted ? GR_JN_NSREF : GR_JN_NAME, t->line, out));
    GR_TRY(gr_jp_name(p, t->value.str->p, t->value.str->len, &(*out)->name));
    if (!dotted) return GRAFT_OK;
    gr_jp_next(p);
    GR_TRY(gr_jp_expect(p, GR_JT_NAME, &t));
    return gr_jp_name(p, t->value.str->p, t->value.str->len, &(*out)->attr);
}

/* Neighbouring string literals are one string. Equal ones are one object, which `is sameas` can see. */
static graft_status parse_string(gr_jparse *p, gr_jnode **out) {
    const gr_jname *text = NULL;
    gr_buf b;
    gr_buf_init(&b, p->t->arena.a);
    GR_TRY(gr_jp_node(p, GR_JN_CONST, gr_jp_peek(p)->line, out));
    while (gr_jp_peek(p)->type == GR_JT_STRING) {
        const gr_jstr *s = gr_jp_next(p)->value.str;
        gr_buf_add(&b, s->p, s->len);
    }
    graft_status st = gr_buf_status(&b, p->err);
    if (st == GRAFT_OK) st = gr_jp_name(p, gr_buf_text(&b), b.len, &text);
    gr_buf_free(&b);
    if (st == GRAFT_OK) (*out)->value = gr_j_of_str((gr_jstr *)&text->str);
    return st;
}

/* The items of [...] or {...}, after the opening bracket; `closing` is consumed. */
static graft_status parse_items(gr_jparse *p, gr_jnode *node, gr_jtok closing) {
    gr_jlist_end list = {.last = &node->list};
    gr_jp_next(p);
    while (gr_jp_peek(p)->type != closing) {
        if (list.n) GR_TRY(gr_jp_expect(p, GR_JT_COMMA, NULL));
        if (gr_jp_peek(p)->type == closing) break;
        gr_jnode *item;
        GR_TRY(gr_jp_expression(p, true, &item));
        gr_jp_append(&list, item);
        if (closing != GR_JT_RBRACE) continue;
        GR_TRY(gr_jp_expect(p, GR_JT_COLON, NULL));
        GR_TRY(gr_jp_expression(p, true, &item));
        gr_jp_append(&list, item);
    }
    GR_TRY(gr_jp_expect(p, closing, NULL));
    node->n = list.n;
    return gr_jp_close(p, node);
}

static graft_status parse_primary(gr_jparse *p, bool with_namespace, gr_jnode **out) {
    gr_jtoken *t = gr_jp_peek(p);
    switch (t->type) {
    case GR_JT_NAME: return parse_name(p, with_namespace, out);
    case GR_JT_STRING: return parse_string(p, out);
    case GR_JT_INT:
    case GR_JT_FLOAT:
        GR_TRY(gr_jp_node(p, GR_JN_CONST, t->line, out));
        (*out)->value = gr_jp_next(p)->value;
        return GRAFT_OK;
    case GR_JT_LPAREN:
        gr_jp_next(p);
        GR_TRY(gr_jp_tuple(p, (gr_jtuple_rules){.with_cond = true, .parentheses = true}, out));
        return gr_jp_expect(p, GR_JT_RPAREN, NULL);
    case GR_JT_LBRACKET:
        GR_TRY(gr_jp_node(p, GR_JN_LIST, t->line, out));
        return parse_items(p, *out, GR_JT_RBRACKET);
    case GR_JT_LBRACE:
        GR_TRY(gr_jp_node(p, GR_JN_DICT, t->line, out));
        return parse_items(p, *out, GR_JT_RBRACE);
    default:
        return gr_jp_fail(p, GRAFT_ERR_FORMAT, t->line, "unexpected '%s'", gr_jp_token_text(t->type));
    }
}

graft_status gr_jp_tuple(gr_jparse *p, gr_jtuple_rules rules, gr_jnode **out) {
    uint32_t line = gr_jp_peek(p)->line;
    gr_jnode *tuple, *item;
    GR_TRY(gr_jp_enter(p));
    GR_TRY(gr_jp_node(p, GR_JN_TUPLE, line, &tuple));
    gr_jlist_end list = {.last = &tuple->list};
    bool is_tuple = false;
    for (;;) {
        if (list.n) GR_TRY(gr_jp_expect(p, GR_JT_COMMA, NULL));
        const gr_jtoken *t = gr_jp_peek(p);
        if (t->type == GR_JT_VAR_END || t->type == GR_JT_BLOCK_END || t->type == GR_JT_RPAREN) break;
        if (rules.end && gr_jp_is_name(t, rules.end)) break;
        GR_TRY(rules.simple ? parse_primary(p, rules.with_namespace, &item)
                            : gr_jp_expression(p, rules.with_cond, &item));
        gr_jp_append(&list, item);
        if (gr_jp_peek(p)->type != GR_JT_COMMA) break;
        is_tuple = true;
    }
    p->depth--;
    tuple->n = list.n;
    if (!is_tuple && list.n) {
        *out = tuple->list;
        return GRAFT_OK;
    }
    if (!is_tuple && !rules.parentheses)
        return gr_jp_fail(p, GRAFT_ERR_FORMAT, line, "expected an expression, got '%s'",
                          gr_jp_token_text(gr_jp_peek(p)->type));
    *out = tuple;
    return gr_jp_close(p, tuple);
}
