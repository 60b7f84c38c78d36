/* A parsed template: tokens, the syntax tree and the variable scopes. The tree lives in the template's arena, is
 * complete after gr_j_parse and gr_j_resolve, and is never written again, so that threads may render it together. */
#ifndef GR_TEXT_JINJA_AST_H
#define GR_TEXT_JINJA_AST_H

#include "text/jinja_value.h"

enum {
    GR_JMAX_TEMPLATE = 1 << 20, /* bytes of template text */
    GR_JMAX_NESTING = 200,      /* parentheses, statements and operators inside each other */
};

/* A name or attribute of the template, one object for equal spellings. */
typedef struct gr_jname {
    gr_jstr str;
    uint64_t hash; /* of the string as a dict key */
} gr_jname;

typedef enum gr_jtok {
    GR_JT_EOF,
    GR_JT_DATA,
    GR_JT_BLOCK_BEGIN,
    GR_JT_BLOCK_END,
    GR_JT_VAR_BEGIN,
    GR_JT_VAR_END,
    GR_JT_NAME,
    GR_JT_STRING,
    GR_JT_INT,
    GR_JT_FLOAT,
    /* operators */
    GR_JT_ADD,
    GR_JT_SUB,
    GR_JT_DIV,
    GR_JT_FLOORDIV,
    GR_JT_MUL,
    GR_JT_MOD,
    GR_JT_POW,
    GR_JT_TILDE,
    GR_JT_LBRACKET,
    GR_JT_RBRACKET,
    GR_JT_LPAREN,
    GR_JT_RPAREN,
    GR_JT_LBRACE,
    GR_JT_RBRACE,
    GR_JT_EQ,
    GR_JT_NE,
    GR_JT_GT,
    GR_JT_GE,
    GR_JT_LT,
    GR_JT_LE,
    GR_JT_ASSIGN,
    GR_JT_DOT,
    GR_JT_COLON,
    GR_JT_PIPE,
    GR_JT_COMMA,
    GR_JT_SEMICOLON
} gr_jtok;

typedef struct gr_jtoken {
    gr_jtok type;
    uint32_t line;
    gr_jv value; /* DATA, NAME, STRING: a string; INT, FLOAT: the number */
} gr_jtoken;

typedef enum gr_jnode_kind {
    /* statements */
    GR_JN_DATA,        /* value */
    GR_JN_OUTPUT,      /* list: expressions */
    GR_JN_IF,          /* a: test; body; list: elif nodes of this kind; other: else */
    GR_JN_FOR,         /* a: target; b: iterable; c: test or NULL; body; other: else; loop */
    GR_JN_MACRO,       /* name; ref: where it is stored; macro */
    GR_JN_CALLBLOCK,   /* a: the call; macro: the block, which the call gets as `caller` */
    GR_JN_GENERATION,  /* macro: the block, without parameters */
    GR_JN_FILTERBLOCK, /* a: filters over NULL; body; scope */
    GR_JN_WITH,        /* list: targets; list2: values; body; scope */
    GR_JN_SET,         /* a: target; b: value */
    GR_JN_SETBLOCK,    /* a: target; b: filters over NULL, or NULL; body; scope */
    GR_JN_BLOCK,       /* name; body; scope; flag: scoped; op: required */
    GR_JN_AUTOESCAPE,  /* a: on or off; body; scope */
    GR_JN_BREAK,
    GR_JN_CONTINUE,
    GR_JN_LOADER, /* extends, include, import, from: a: template; list: names that it would set; name: the tag */
    /* expressions */
    GR_JN_CONST,   /* value */
    GR_JN_NAME,    /* name; ref; op: gr_jname_use */
    GR_JN_NSREF,   /* name.attr as assignment target; ref */
    GR_JN_TUPLE,   /* list, n */
    GR_JN_LIST,    /* list, n */
    GR_JN_DICT,    /* list: key, value, key, value ... */
    GR_JN_COND,    /* b if a else c (or NULL) */
    GR_JN_AND,     /* a, b */
    GR_JN_OR,      /* a, b */
    GR_JN_NOT,     /* a */
    GR_JN_NEG,     /* a */
    GR_JN_POS,     /* a */
    GR_JN_BINARY,  /* a op b; op: ADD SUB DIV FLOORDIV MUL MOD POW of gr_jtok */
    GR_JN_CONCAT,  /* list */
    GR_JN_COMPARE, /* a; list: operands */
    GR_JN_OPERAND, /* op: a comparison of gr_jtok, GR_JT_NAME for `in`, GR_JT_STRING for `not in`; a */
    GR_JN_GETATTR, /* a.name */
    GR_JN_GETITEM, /* a[b] */
    GR_JN_SLICE,   /* a:b:c, each may be NULL; only as b of GETITEM or inside its tuple */
    GR_JN_CALL,    /* a(args) */
    GR_JN_FILTER,  /* a|name(args); a NULL: the text of the block around it; def */
    GR_JN_TEST,    /* a is name(args); def */
} gr_jnode_kind;

typedef enum gr_jname_use { GR_JLOAD, GR_JSTORE, GR_JPARAM } gr_jname_use;

/* Where a variable lives: `up` frames outwards, slot number there. */
typedef struct gr_jref {
    uint32_t up, slot;
} gr_jref;

typedef struct gr_jnode gr_jnode;

typedef struct gr_jcall_args {
    gr_jnode *pos, *kw_values; /* lists */
    size_t n_pos, n_kw;
    const gr_jname **kw_names;
    gr_jnode *star, *star_star; /* *args, **kwargs; NULL */
} gr_jcall_args;

typedef enum gr_jload {
    GR_JLOAD_PARAM,     /* set by the construct itself */
    GR_JLOAD_RESOLVE,   /* from the context when the frame is entered */
    GR_JLOAD_ALIAS,     /* copied from an outer frame when the frame is entered */
    GR_JLOAD_UNDEFINED, /* nothing until it is assigned */
} gr_jload;

typedef struct gr_jslot {
    const gr_jname *name;
    gr_jload load;
    gr_jref outer; /* ALIAS */
    bool stored;
} gr_jslot;

typedef struct gr_jscope {
    struct gr_jscope *up;
    gr_jslot *slots;
    size_t n, cap;
    uint32_t *index; /* open addressing by name address: slot + 1 */
    size_t n_index;
} gr_jscope;

/* The callable part of a macro, a call block or a generation block. */
typedef struct gr_jmacro_code {
    const gr_jname *name; /* NULL: a block */
    gr_jnode *params;     /* list of NAME */
    gr_jnode *defaults;   /* list; they belong to the last parameters */
    size_t n_params, n_defaults;
    gr_jnode *body;
    gr_jscope *scope;
    uint32_t caller_slot, kwargs_slot, varargs_slot; /* where accessed */
    bool takes_caller, takes_kwargs, takes_varargs;
    bool explicit_caller; /* a parameter is named caller */
} gr_jmacro_code;

typedef struct gr_jloop_code {
    gr_jscope *body_scope, *else_scope, *test_scope; /* the last two may be NULL */
    uint32_t loop_slot;
    bool recursive, uses_loop;
} gr_jloop_code;

struct gr_jnode {
    gr_jnode_kind kind;
    uint8_t op;
    bool flag;
    uint16_t height; /* longest way down through a, b, c and lists */
    uint32_t line;
    uint32_t n;
    gr_jref ref;
    gr_jnode *next; /* in the list that holds this node */
    gr_jnode *a, *b, *c, *list, *list2, *body, *other;
    const gr_jname *name, *attr;
    gr_jv value;
    gr_jcall_args *args;
    const void *def; /* gr_jfilter or gr_jtest; NULL: unknown, an error when it is reached */
    gr_jscope *scope;
    gr_jmacro_code *macro;
    gr_jloop_code *loop;
};

struct graft_template {
    graft_context *ctx;
    char *name;
    gr_arena arena; /* all below */
    gr_jnode *body;
    gr_jscope *scope;
    gr_jnode **blocks; /* {% block %} nodes */
    size_t n_blocks, cap_blocks;
};

typedef struct graft_template graft_template;

/* What lexer, parser and resolver share. */
typedef struct gr_jparse {
    graft_template *t;
    const char *source; /* newlines normalised, the last one dropped */
    size_t len;
    gr_jtoken *tokens;
    size_t n_tokens, cap_tokens, at;
    gr_map names; /* spelling -> gr_jname */
    unsigned depth;
    graft_error *err;
} gr_jparse;

void *gr_jp_alloc(gr_jparse *p, size_t n); /* zeroed, in the template's arena; NULL when out of memory */
graft_status gr_jp_fail(gr_jparse *p, graft_status status, uint32_t line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
graft_status gr_jp_name(gr_jparse *p, const char *text, size_t n, const gr_jname **out);
graft_status gr_jp_str(gr_jparse *p, const char *text, size_t n, bool copy, gr_jv *out);
const char *gr_jp_token_text(gr_jtok type);

graft_status gr_j_lex(gr_jparse *p);
graft_status gr_j_parse(gr_jparse *p); /* statements: fills t->body */
graft_status gr_j_resolve(gr_jparse *p); /* scopes, filters, tests */

/* Between the two halves of the parser. */
typedef struct gr_jlist_end {
    gr_jnode *first, **last;
    uint32_t n;
    uint16_t height;
} gr_jlist_end;

static inline gr_jtoken *gr_jp_peek(gr_jparse *p) { return &p->tokens[p->at]; }
gr_jtoken *gr_jp_look(gr_jparse *p);  /* the token after the current one */
gr_jtoken *gr_jp_next(gr_jparse *p);  /* returns the current token and moves on */
bool gr_jp_is_name(const gr_jtoken *t, const char *name);
bool gr_jp_skip_name(gr_jparse *p, const char *name);
bool gr_jp_skip(gr_jparse *p, gr_jtok type);
graft_status gr_jp_expect(gr_jparse *p, gr_jtok type, gr_jtoken **out);
graft_status gr_jp_expect_name(gr_jparse *p, const char *name);
graft_status gr_jp_node(gr_jparse *p, gr_jnode_kind kind, uint32_t line, gr_jnode **out);
/* Sets node->height from its children; an error when it is over the limit. */
graft_status gr_jp_close(gr_jparse *p, gr_jnode *node);
void gr_jp_append(gr_jlist_end *l, gr_jnode *node);
graft_status gr_jp_enter(gr_jparse *p); /* one level deeper; leave with p->depth-- */

graft_status gr_jp_expression(gr_jparse *p, bool with_cond, gr_jnode **out);
/* `end` (may be NULL) is a name that ends the tuple; simple: names and literals only (assignment targets). */
typedef struct gr_jtuple_rules {
    bool simple, with_cond, parentheses, with_namespace;
    const char *end;
} gr_jtuple_rules;
graft_status gr_jp_tuple(gr_jparse *p, gr_jtuple_rules rules, gr_jnode **out);
graft_status gr_jp_target(gr_jparse *p, bool name_only, const char *end, bool with_namespace, gr_jnode **out);
graft_status gr_jp_filters(gr_jparse *p, gr_jnode *over, bool inline_first, gr_jnode **out);

#endif
