/* One rendering: the state of the interpreter and what its parts call of each other. */
#ifndef GR_TEXT_JINJA_RUN_H
#define GR_TEXT_JINJA_RUN_H

#include "graft/template.h"
#include "text/jinja_ast.h"
#include "text/jinja_value.h"

enum { GR_JMAX_VALUE_NESTING = 500 }; /* lists inside lists when printed or compared, generators inside generators */

typedef struct gr_jframe {
    struct gr_jframe *up;
    const gr_jscope *scope;
    gr_jv slots[];
} gr_jframe;

/* Where a generation block began in the output, and how many characters it wrote. */
typedef struct gr_jspan {
    size_t start, chars;
} gr_jspan;

struct gr_jrun {
    const graft_template *t;
    gr_arena arena;
    size_t asked; /* the last request that the arena refused */
    gr_buf out;
    gr_buf scratch; /* a stack of texts under construction: gr_j_mark, gr_j_take */
    gr_buf *to;     /* where output goes: &out or &scratch */
    gr_jdict *vars;
    gr_jdict *exported; /* what the top level has set, for {% block %} */
    bool track;
    struct gr_jspan *spans;
    size_t n_spans, cap_spans;
    struct tm now;
    bool has_now;
    uint64_t steps, max_steps;
    unsigned depth, max_depth;
    unsigned value_depth;
    uint32_t line;
    gr_jv block_text; /* what the filters of a filter or set block begin with */
    bool autoescape;
    graft_error *err;
};

/* Fails with "name:line: sentence". */
graft_status gr_j_fail(gr_jrun *run, graft_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* A Python exception of any kind: GRAFT_ERR_MISMATCH. */
#define gr_j_raise(run, ...) gr_j_fail(run, GRAFT_ERR_MISMATCH, __VA_ARGS__)
/* Using an undefined value: says why it is undefined. */
graft_status gr_j_raise_undefined(gr_jrun *run, gr_jv v);
/* Counts work: n bytes or items looked at. An error over the limit or when the context was cancelled. */
graft_status gr_j_work(gr_jrun *run, size_t n);
/* The same for n bytes that are decoded and looked up one character at a time, which costs about 16 times as much. */
static inline graft_status gr_j_char_work(gr_jrun *run, size_t n) { return gr_j_work(run, n < SIZE_MAX / 16 ? n * 16 : n); }
/* Guards recursion over nested values; leave with run->value_depth--. */
graft_status gr_j_enter_value(gr_jrun *run);

/* Text is built at the end of run->scratch: mark, append, take (which copies it into a string and removes it). */
static inline size_t gr_j_mark(const gr_jrun *run) { return run->scratch.len; }
graft_status gr_j_take(gr_jrun *run, size_t mark, gr_jv *out);

/* Arguments of a call. */
typedef struct gr_jargs {
    gr_jv *pos;
    size_t n_pos;
    const gr_jname **kw_names;
    gr_jv *kw_values;
    size_t n_kw;
} gr_jargs;

enum { GR_JMAX_PARAMS = 8 };

/* Binds arguments to the parameters that `spec` names, separated by spaces; "name?" is optional, names before "/" are
 * positional only. Absent ones become GR_JMISSING. `what` names the function in errors. */
graft_status gr_j_bind(gr_jrun *run, const char *what, const char *spec, const gr_jargs *args,
                       gr_jv out[GR_JMAX_PARAMS]);
/* Typed access to a bound argument; a missing one leaves *out. */
graft_status gr_j_arg_int(gr_jrun *run, const char *what, gr_jv arg, int64_t *out);
graft_status gr_j_arg_truth(gr_jrun *run, gr_jv arg, bool *out);
graft_status gr_j_arg_str(gr_jrun *run, const char *what, gr_jv arg, gr_jstr **out);

/* A filter: `args[0]` is the value, the others are bound by spec; with spec NULL `raw` holds the others unbound. */
typedef graft_status (*gr_jfilter_fn)(gr_jrun *run, gr_jv *args, const gr_jargs *raw, gr_jv *out);
typedef struct gr_jfilter {
    const char *name;
    const char *spec; /* of the arguments after the value */
    gr_jfilter_fn fn;
} gr_jfilter;
const gr_jfilter *gr_j_find_filter(const char *name, size_t len);
graft_status gr_j_call_filter(gr_jrun *run, const gr_jfilter *f, gr_jv value, const gr_jargs *args, gr_jv *out);

typedef graft_status (*gr_jtest_fn)(gr_jrun *run, gr_jv *args, bool *out);
typedef struct gr_jtest {
    const char *name;
    const char *spec;
    gr_jtest_fn fn;
} gr_jtest;
const gr_jtest *gr_j_find_test(const char *name, size_t len);
graft_status gr_j_call_test(gr_jrun *run, const gr_jtest *t, gr_jv value, const gr_jargs *args, bool *out);

/* A method; `args` are bound by spec, with spec NULL they are in `raw`. */
typedef graft_status (*gr_jmethod_fn)(gr_jrun *run, gr_jv self, gr_jv *args, const gr_jargs *raw, gr_jv *out);
typedef struct gr_jmethod_def {
    const char *name;
    const char *spec;
    gr_jmethod_fn fn; /* NULL: it would change the object, which the sandbox refuses */
} gr_jmethod_def;
typedef struct gr_jmethod {
    gr_jv self;
    const gr_jmethod_def *def;
} gr_jmethod;
const gr_jmethod_def *gr_j_find_str_method(const char *name, size_t len);
const gr_jmethod_def *gr_j_find_method(gr_jv self, const char *name, size_t len);

typedef struct gr_jglobal {
    const char *name;
    graft_status (*fn)(gr_jrun *run, const gr_jargs *args, gr_jv *out);
} gr_jglobal;
const gr_jglobal *gr_j_find_global(const char *name, size_t len);

typedef struct gr_jmacro {
    const gr_jmacro_code *code;
    gr_jframe *frame; /* where it was defined */
} gr_jmacro;

typedef struct gr_jloop {
    const gr_jnode *node;
    gr_jframe *frame; /* around the loop */
    gr_jcursor cursor;
    gr_jv current, before, after, last_changed; /* missing where there is none */
    int64_t index0, length;                     /* length -1: not known yet */
    unsigned depth0;
} gr_jloop;

/* jinja_attr.c */
graft_status gr_j_getattr(gr_jrun *run, gr_jv obj, const gr_jstr *name, gr_jv *out); /* obj.name */
graft_status gr_j_getitem(gr_jrun *run, gr_jv obj, gr_jv key, gr_jv *out);           /* obj[key] */
/* The attribute without falling back to obj[name]; *found false where there is none. */
graft_status gr_j_attribute(gr_jrun *run, gr_jv obj, const gr_jstr *name, gr_jv *out, bool *found);
graft_status gr_j_slice(gr_jrun *run, gr_jv obj, const struct gr_jslice *s, gr_jv *out);
/* The item that `path` ("a.b.0", an int, or none) leads to, undefined replaced by a given default. */
graft_status gr_j_path(gr_jrun *run, gr_jv item, gr_jv path, gr_jv fallback, gr_jv *out);

/* jinja_loop.c */
graft_status gr_j_loop_attr(gr_jrun *run, gr_jloop *loop, const gr_jstr *name, gr_jv *out, bool *found);
graft_status gr_j_loop_advance(gr_jrun *run, gr_jloop *loop, bool *more);
graft_status gr_j_loop_length(gr_jrun *run, gr_jloop *loop, int64_t *out);
graft_status gr_j_exec_for(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, int *flow);
graft_status gr_j_call_loop(gr_jrun *run, gr_jloop *loop, const gr_jargs *args, gr_jv *out);

/* jinja_op.c */
graft_status gr_j_binary(gr_jrun *run, gr_jtok op, gr_jv a, gr_jv b, gr_jv *out);
graft_status gr_j_negate(gr_jrun *run, gr_jv v, gr_jv *out);
graft_status gr_j_plus(gr_jrun *run, gr_jv v, gr_jv *out);

/* jinja_eval.c, jinja_exec.c */
graft_status gr_j_enter(gr_jrun *run); /* one level deeper; leave with run->depth-- */
enum { GR_JFLOW_ON, GR_JFLOW_BREAK, GR_JFLOW_CONTINUE };
graft_status gr_j_eval(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out);
graft_status gr_j_assign(gr_jrun *run, gr_jframe *frame, const gr_jnode *target, gr_jv value);
graft_status gr_j_exec(gr_jrun *run, gr_jframe *frame, const gr_jnode *list, int *flow);
graft_status gr_j_frame(gr_jrun *run, gr_jframe *up, const gr_jscope *scope, gr_jframe **out);
graft_status gr_j_enter_frame(gr_jrun *run, gr_jframe *frame); /* loads its variables */
void gr_j_leave_frame(gr_jframe *frame);
graft_status gr_j_lookup(gr_jrun *run, const gr_jname *name, gr_jv *out); /* context; missing when not there */
graft_status gr_j_call_block(gr_jrun *run, const gr_jnode *block, gr_jv *out);

/* jinja_call.c */
graft_status gr_j_call(gr_jrun *run, gr_jv callee, const gr_jargs *args, gr_jv *out);
/* `caller` (may be NULL) is added as the keyword argument of that name. */
graft_status gr_j_eval_args(gr_jrun *run, gr_jframe *frame, const gr_jcall_args *code, const gr_jv *caller,
                            gr_jargs *out);
graft_status gr_j_call_macro(gr_jrun *run, const gr_jmacro *m, const gr_jargs *args, gr_jv *out);
bool gr_j_name_is(const gr_jname *name, const char *text);

/* jinja_format.c: "text" % value; jinja_format_spec.c: str.format and format specifications. */
graft_status gr_j_percent(gr_jrun *run, gr_jv format, gr_jv value, gr_jv *out);
graft_status gr_j_str_format(gr_jrun *run, gr_jstr *format, const gr_jargs *args, gr_jdict *map, gr_jv *out);
graft_status gr_j_add_formatted(gr_jrun *run, gr_jv v, const char *spec, size_t n);

/* jinja_json.c */
graft_status gr_j_read_vars(gr_jrun *run, const char *json, size_t len); /* fills run->vars */
graft_status gr_j_filter_tojson(gr_jrun *run, gr_jv *args, const gr_jargs *raw, gr_jv *out);

/* jinja_time.c */
graft_status gr_j_strftime(gr_jrun *run, const gr_jstr *format, gr_jv *out);

/* Helpers of string methods that filters share: jinja_str.c, jinja_str_case.c */
typedef enum gr_jcase { GR_JUPPER, GR_JLOWER, GR_JCAPITALIZE, GR_JTITLE, GR_JSWAP, GR_JFOLD } gr_jcase;
graft_status gr_j_case(gr_jrun *run, gr_jstr *s, gr_jcase how, gr_jv *out);
graft_status gr_j_strip(gr_jrun *run, gr_jstr *s, const gr_jstr *chars, int sides, gr_jv *out); /* 1 left, 2 right */
graft_status gr_j_replace(gr_jrun *run, gr_jstr *s, const gr_jstr *from, const gr_jstr *to, int64_t count, gr_jv *out);
graft_status gr_j_pad(gr_jrun *run, gr_jstr *s, int64_t width, const gr_jstr *fill, char side, gr_jv *out);
/* Appends the k bytes of `fill` n times to run->scratch. */
graft_status gr_j_add_fill(gr_jrun *run, const char *fill, size_t k, int64_t n);
graft_status gr_j_splitlines(gr_jrun *run, gr_jstr *s, bool keep, gr_jv *out);
graft_status gr_j_join(gr_jrun *run, gr_jv sep, gr_jv items, gr_jv *out); /* str.join: items must be strings */
graft_status gr_j_repeat(gr_jrun *run, gr_jstr *s, int64_t times, gr_jv *out);
/* First occurrence of `what` in p[0..n), NULL when there is none. */
const char *gr_j_find(const char *p, size_t n, const char *what, size_t k);
const char *gr_j_rfind(const char *p, size_t n, const char *what, size_t k);

#endif
