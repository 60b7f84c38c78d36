/* Tests: x is name. */
#include "text/jinja_run.h"
#include "text/jinja_str.h"

#define TEST(name) static graft_status name(gr_jrun *run, gr_jv *args, bool *out)
#define IS(name, condition)                                                                                            \
    TEST(name) {                                                                                                       \
        (void)run;                                                                                                     \
        gr_jv v = args[0];                                                                                             \
        *out = (condition);                                                                                            \
        return GRAFT_OK;                                                                                               \
    }

IS(test_boolean, v.kind == GR_JBOOL)
IS(test_defined, v.kind != GR_JUNDEFINED)
IS(test_undefined, v.kind == GR_JUNDEFINED)
IS(test_none, v.kind == GR_JNONE)
IS(test_true, v.kind == GR_JBOOL && v.b)
IS(test_false, v.kind == GR_JBOOL && !v.b)
IS(test_integer, v.kind == GR_JINT)
IS(test_float, v.kind == GR_JFLOAT)
IS(test_number, gr_j_is_number(v))
IS(test_string, v.kind == GR_JSTR)
IS(test_mapping, v.kind == GR_JDICT)
IS(test_escaped, v.kind == GR_JSTR && v.str->safe)
IS(test_sameas, gr_j_same(v, args[1]))
/* What has a length and can be indexed. */
IS(test_sequence, v.kind == GR_JSTR || v.kind == GR_JLIST || v.kind == GR_JTUPLE || v.kind == GR_JDICT ||
                      v.kind == GR_JRANGE || v.kind == GR_JUNDEFINED)
IS(test_iterable, (v.kind >= GR_JSTR && v.kind <= GR_JITER) || v.kind == GR_JUNDEFINED || v.kind == GR_JLOOP)
/* An undefined value has the method that makes it callable, although every call of it fails. */
IS(test_callable, v.kind == GR_JMACRO || v.kind == GR_JMETHOD || v.kind == GR_JGLOBAL || v.kind == GR_JLOOP ||
                      v.kind == GR_JJOINER || v.kind == GR_JBLOCK || v.kind == GR_JUNDEFINED)

static graft_status modulo_is(gr_jrun *run, gr_jv v, gr_jv by, int64_t rest, bool *out) {
    GR_TRY(gr_j_binary(run, GR_JT_MOD, v, by, &v));
    return gr_j_equal(run, v, gr_j_int(rest), out);
}
TEST(test_odd) { return modulo_is(run, args[0], gr_j_int(2), 1, out); }
TEST(test_even) { return modulo_is(run, args[0], gr_j_int(2), 0, out); }
TEST(test_divisibleby) { return modulo_is(run, args[0], args[1], 0, out); }

static graft_status cased(gr_jrun *run, gr_jv v, gr_jcase how, bool *out) {
    GR_TRY(gr_j_soft_str(run, v, &v));
    *out = gr_j_is_cased_as(v.str, how);
    return gr_j_char_work(run, v.str->len);
}
TEST(test_lower) { return cased(run, args[0], GR_JLOWER, out); }
TEST(test_upper) { return cased(run, args[0], GR_JUPPER, out); }

TEST(test_eq) { return gr_j_equal(run, args[0], args[1], out); }
TEST(test_ne) {
    GR_TRY(gr_j_equal(run, args[0], args[1], out));
    *out = !*out;
    return GRAFT_OK;
}
TEST(test_lt) { return gr_j_ordered(run, '<', args[0], args[1], out); }
TEST(test_le) { return gr_j_ordered(run, 'l', args[0], args[1], out); }
TEST(test_gt) { return gr_j_ordered(run, '>', args[0], args[1], out); }
TEST(test_ge) { return gr_j_ordered(run, 'g', args[0], args[1], out); }
TEST(test_in) { return gr_j_contains(run, args[1], args[0], out); }

/* Whether a filter (test) of that name exists; only what can be a key of a dictionary may be asked for. */
static graft_status exists(gr_jrun *run, gr_jv name, bool filter, bool *out) {
    uint64_t hash;
    GR_TRY(gr_j_hash(run, name, &hash));
    *out = name.kind == GR_JSTR && (filter ? gr_j_find_filter(name.str->p, name.str->len) != NULL
                                           : gr_j_find_test(name.str->p, name.str->len) != NULL);
    return GRAFT_OK;
}
TEST(test_filter) { return exists(run, args[0], true, out); }
TEST(test_test) { return exists(run, args[0], false, out); }

static const gr_jtest tests[] = {
    {"!=", "b /", test_ne},
    {"<", "b /", test_lt},
    {"<=", "b /", test_le},
    {"==", "b /", test_eq},
    {">", "b /", test_gt},
    {">=", "b /", test_ge},
    {"boolean", "", test_boolean},
    {"callable", "", test_callable},
    {"defined", "", test_defined},
    {"divisibleby", "num", test_divisibleby},
    {"eq", "b /", test_eq},
    {"equalto", "b /", test_eq},
    {"escaped", "", test_escaped},
    {"even", "", test_even},
    {"false", "", test_false},
    {"filter", "", test_filter},
    {"float", "", test_float},
    {"ge", "b /", test_ge},
    {"greaterthan", "b /", test_gt},
    {"gt", "b /", test_gt},
    {"in", "seq", test_in},
    {"integer", "", test_integer},
    {"iterable", "", test_iterable},
    {"le", "b /", test_le},
    {"lessthan", "b /", test_lt},
    {"lower", "", test_lower},
    {"lt", "b /", test_lt},
    {"mapping", "", test_mapping},
    {"ne", "b /", test_ne},
    {"none", "", test_none},
    {"number", "", test_number},
    {"odd", "", test_odd},
    {"sameas", "other", test_sameas},
    {"sequence", "", test_sequence},
    {"string", "", test_string},
    {"test", "", test_test},
    {"true", "", test_true},
    {"undefined", "", test_undefined},
    {"upper", "", test_upper},
};

const gr_jtest *gr_j_find_test(const char *name, size_t len) {
    for (size_t i = 0; i < GR_COUNT(tests); i++)
        if (strlen(tests[i].name) == len && !memcmp(tests[i].name, name, len)) return &tests[i];
    return NULL;
}

graft_status gr_j_call_test(gr_jrun *run, const gr_jtest *t, gr_jv value, const gr_jargs *args, bool *out) {
    gr_jv bound[GR_JMAX_PARAMS + 1];
    bound[0] = value;
    GR_TRY(gr_j_bind(run, t->name, t->spec, args, bound + 1));
    return t->fn(run, bound, out);
}
