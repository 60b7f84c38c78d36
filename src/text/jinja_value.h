/* Values of the template language: Python's, as far as a template can see them. All of them live in the arena of one
 * rendering and die together; strings may share bytes with other strings, with the template or with the input. Values
 * never change after they were made, except namespaces, cyclers, joiners, loops and iterators. */
#ifndef GR_TEXT_JINJA_VALUE_H
#define GR_TEXT_JINJA_VALUE_H

#include "base/base.h"

typedef struct gr_jrun gr_jrun; /* one rendering: jinja_run.h */

typedef enum gr_jkind {
    GR_JMISSING, /* a variable slot or an argument without a value; never seen by templates */
    GR_JUNDEFINED,
    GR_JNONE,
    GR_JBOOL,
    GR_JINT,
    GR_JFLOAT,
    GR_JSTR,
    GR_JLIST,
    GR_JTUPLE,
    GR_JDICT,
    GR_JRANGE,
    GR_JVIEW, /* dict.keys(), dict.values(), dict.items() */
    GR_JITER, /* a generator or another one-pass iterator */
    GR_JNAMESPACE,
    GR_JMACRO,
    GR_JMETHOD, /* a method bound to its object */
    GR_JGLOBAL, /* a global function */
    GR_JLOOP,
    GR_JCYCLER,
    GR_JJOINER,
    GR_JSELF,  /* `self`: the template's blocks */
    GR_JBLOCK, /* self.name */
    GR_JSLICE  /* only as argument of a subscript */
} gr_jkind;

typedef struct gr_jstr gr_jstr;
typedef struct gr_jseq gr_jseq;
typedef struct gr_jdict gr_jdict;
typedef struct gr_jiter gr_jiter;

typedef struct gr_jv {
    gr_jkind kind;
    union {
        bool b;
        int64_t i;
        double f;
        gr_jstr *str;
        gr_jseq *seq;   /* list and tuple */
        gr_jdict *dict; /* dict and namespace */
        struct gr_jrange *range;
        struct gr_jview *view;
        gr_jiter *iter;
        struct gr_jundef *undef; /* NULL: nothing more is known */
        struct gr_jmacro *macro;
        struct gr_jmethod *method;
        const struct gr_jglobal *global;
        struct gr_jloop *loop;
        struct gr_jcycler *cycler;
        struct gr_jjoiner *joiner;
        const struct gr_jnode *block;
        struct gr_jslice *slice;
        void *p;
    };
} gr_jv;

struct gr_jstr {
    const char *p; /* UTF-8, not NUL-terminated */
    size_t len;
    size_t chars; /* SIZE_MAX: not counted yet */
    bool safe;    /* Markup */
};

struct gr_jseq {
    gr_jv *items;
    size_t n, cap;
    bool group; /* what groupby yields: a tuple with the attributes grouper and list */
};

typedef struct gr_jentry {
    gr_jv key, value;
    uint64_t hash;
} gr_jentry;

/* In insertion order; the hash index appears with the ninth key. */
struct gr_jdict {
    gr_jentry *entries;
    size_t n, cap;
    uint32_t *slots; /* entry + 1, 0 empty */
    size_t n_slots;
};

struct gr_jrange {
    int64_t start, stop, step;
    size_t n;
};

/* Item i; wraps where the way there leaves 64 bits, the item itself never does. */
static inline int64_t gr_j_range_at(const struct gr_jrange *r, uint64_t i) {
    return (int64_t)((uint64_t)r->start + i * (uint64_t)r->step);
}

struct gr_jview {
    gr_jdict *dict;
    char which; /* 'k', 'v' or 'i' */
};

struct gr_jslice {
    gr_jv start, stop, step;
};

/* Why a value is undefined; the sentence is made only when it is asked for. */
struct gr_jundef {
    const char *hint;  /* the whole sentence, or NULL */
    const char *owner; /* type name of the object without the attribute; NULL: a variable */
    gr_jv name;
};

struct gr_jcycler {
    gr_jv *items;
    size_t n, pos;
};

struct gr_jjoiner {
    gr_jv sep;
    bool used;
};

/* Walks over any iterable. Made by gr_j_cursor, advanced by gr_j_next. */
typedef struct gr_jcursor {
    gr_jv over;
    size_t pos;
} gr_jcursor;

typedef graft_status (*gr_jnext)(gr_jrun *run, gr_jiter *it, gr_jv *out, bool *more);

struct gr_jiter {
    gr_jnext next;
    const char *type; /* Python's name of the type */
    bool done;
    gr_jcursor source;
    size_t count;
    gr_jv extra;
    void *data;
};

/* jinja_value.c: making. Everything returns GRAFT_ERR_MEMORY or GRAFT_ERR_LIMIT when the arena has no room. */
void *gr_j_new(gr_jrun *run, size_t n); /* zeroed; NULL: return gr_j_no_memory(run) */
graft_status gr_j_no_memory(gr_jrun *run);

void gr_j_repair(char *text); /* bytes of a cut character become '?' */

static inline gr_jv gr_j_none(void) { return (gr_jv){.kind = GR_JNONE}; }
static inline gr_jv gr_j_bool(bool b) { return (gr_jv){.kind = GR_JBOOL, .b = b}; }
static inline gr_jv gr_j_int(int64_t i) { return (gr_jv){.kind = GR_JINT, .i = i}; }
static inline gr_jv gr_j_float(double f) { return (gr_jv){.kind = GR_JFLOAT, .f = f}; }
static inline gr_jv gr_j_of_str(gr_jstr *s) { return (gr_jv){.kind = GR_JSTR, .str = s}; }
static inline bool gr_j_is_missing(gr_jv v) { return v.kind == GR_JMISSING; }

graft_status gr_j_str_view(gr_jrun *run, const char *p, size_t n, gr_jv *out); /* shares the bytes */
graft_status gr_j_str_copy(gr_jrun *run, const char *p, size_t n, gr_jv *out);
graft_status gr_j_str_text(gr_jrun *run, const char *literal, gr_jv *out); /* shares a C literal */
graft_status gr_j_str_sub(gr_jrun *run, const gr_jstr *of, const char *p, size_t n, gr_jv *out); /* keeps `safe` */
graft_status gr_j_seq(gr_jrun *run, gr_jkind kind, size_t cap, gr_jv *out); /* an empty list or tuple */
graft_status gr_j_push(gr_jrun *run, gr_jseq *seq, gr_jv item);
graft_status gr_j_pair(gr_jrun *run, gr_jv a, gr_jv b, gr_jv *out);
graft_status gr_j_undefined(gr_jrun *run, const char *hint, gr_jv *out);
graft_status gr_j_undefined_name(gr_jrun *run, const char *owner, gr_jv name, gr_jv *out);
graft_status gr_j_iter(gr_jrun *run, gr_jnext next, const char *type, gr_jv *out);

size_t gr_j_chars(gr_jstr *s);                  /* code points */
size_t gr_j_offset(gr_jstr *s, size_t index);   /* byte offset of code point `index` (<= chars) */
bool gr_j_str_is(gr_jv v, const char *text);
const char *gr_j_type(gr_jv v); /* Python's name of the type */
bool gr_j_is_number(gr_jv v);   /* bool, int, float */
bool gr_j_as_int(gr_jv v, int64_t *out); /* int and bool */

/* jinja_dict.c */
graft_status gr_j_dict(gr_jrun *run, gr_jv *out);
graft_status gr_j_dict_set(gr_jrun *run, gr_jdict *d, gr_jv key, gr_jv value);
graft_status gr_j_dict_get(gr_jrun *run, const gr_jdict *d, gr_jv key, gr_jv *out, bool *found);
bool gr_j_dict_get_text(const gr_jdict *d, const char *key, size_t len, gr_jv *out);
graft_status gr_j_dict_merge(gr_jrun *run, gr_jdict *d, gr_jv from); /* as dict.update: a dict or pairs */
graft_status gr_j_hash(gr_jrun *run, gr_jv v, uint64_t *out);        /* lists and dicts have none: an error */

/* jinja_compare.c */
graft_status gr_j_truth(gr_jrun *run, gr_jv v, bool *out);
graft_status gr_j_equal(gr_jrun *run, gr_jv a, gr_jv b, bool *out);
/* a < b ('<'), a <= b ('l'), a > b ('>'), a >= b ('g'), as Python orders them. */
graft_status gr_j_ordered(gr_jrun *run, char op, gr_jv a, gr_jv b, bool *out);
graft_status gr_j_contains(gr_jrun *run, gr_jv container, gr_jv item, bool *out);
bool gr_j_same(gr_jv a, gr_jv b); /* `is` */
/* Stable, by the order of keys[i]; `items` and `keys` are permuted together. */
graft_status gr_j_sort(gr_jrun *run, gr_jv *items, gr_jv *keys, size_t n, bool reverse);

/* jinja_iter.c */
graft_status gr_j_cursor(gr_jrun *run, gr_jv over, gr_jcursor *out);
graft_status gr_j_next(gr_jrun *run, gr_jcursor *c, gr_jv *out, bool *more);
graft_status gr_j_to_list(gr_jrun *run, gr_jv over, gr_jv *out); /* always a new list */
bool gr_j_has_len(gr_jv v);
graft_status gr_j_len(gr_jrun *run, gr_jv v, size_t *out);
graft_status gr_j_reversed(gr_jrun *run, gr_jv v, gr_jv *out, bool *ok); /* ok false: Python's reversed() refuses */
graft_status gr_j_iter_over(gr_jrun *run, gr_jv over, const char *type, gr_jv *out);

/* jinja_repr.c: str() and repr(), appended. */
graft_status gr_j_add_str(gr_jrun *run, gr_buf *to, gr_jv v);
graft_status gr_j_add_repr(gr_jrun *run, gr_buf *to, gr_jv v);
graft_status gr_j_to_str(gr_jrun *run, gr_jv v, gr_jv *out);      /* a string stays as it is, `safe` is dropped */
graft_status gr_j_soft_str(gr_jrun *run, gr_jv v, gr_jv *out);    /* the same, `safe` is kept */
graft_status gr_j_to_repr(gr_jrun *run, gr_jv v, gr_jv *out);
void gr_j_add_quoted(gr_buf *to, const char *p, size_t n, bool ascii); /* repr of a str */
void gr_j_add_escaped(gr_buf *to, const char *p, size_t n);            /* & < > ' " as HTML */
graft_status gr_j_escape(gr_jrun *run, gr_jv v, gr_jv *out);           /* markupsafe.escape */

/* jinja_number.c */
/* Shortest digits that read back as f (finite): value = 0.d1d2d3... * 10^point. Returns how many. */
int gr_j_float_digits(double f, char digits[20], int *point);
void gr_j_add_float(gr_buf *to, double f); /* Python's repr */
bool gr_j_parse_float(const char *p, size_t n, double *out); /* Python's float(str) */
/* Python's int(str, base): 1 read, 0 malformed, -1 outside 64 bits. */
int gr_j_parse_int(const char *p, size_t n, int base, int64_t *out);
graft_status gr_j_float_to_int(gr_jrun *run, double f, gr_jv *out); /* trunc; outside 64 bits is an error */
double gr_j_round(double f, int64_t ndigits); /* half to even on the exact decimal value, as Python's round */
/* printf's %e, %f or %g with `precision`, without a locale: "-" and digits; `alt` as '#'. */
void gr_j_add_decimal(gr_buf *to, char type, int precision, bool alt, double f);

#endif
