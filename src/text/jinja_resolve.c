/* Variables, filters and tests of a parsed template.
 *
 * A scope is what Jinja compiles to a set of Python locals: the template, a loop body, its else and its filter, a macro,
 * a call, generation, filter, set, with or autoescape block; `if` is not one. Before a scope's children are looked
 * at, all its own names are known: a name that is assigned in it lives there (and starts, each time the scope is
 * entered, as a copy of the outer variable of that name), a name that is only read lives in the nearest scope around
 * that has it, and else comes from the context. A name whose first appearance is an unconditional assignment starts
 * undefined even if the context has it. */
#include "text/jinja_ast.h"
#include "text/jinja_run.h"

enum { MAX_BLOCKS = 1000 };

typedef struct place {
    gr_jscope *scope;
    bool soft;    /* directly under an if: unknown filters and tests fail only when they are reached */
    bool in_loop; /* break and continue have a loop */
} place;

static graft_status resolve(gr_jparse *p, place at, gr_jnode *n);

static size_t index_of(const gr_jscope *s, const gr_jname *name) {
    size_t mask = s->n_index - 1;
    uintptr_t h = (uintptr_t)name;
    size_t i = ((h >> 4) ^ (h >> 12)) & mask;
    while (s->index[i] && s->slots[s->index[i] - 1].name != name) i = (i + 1) & mask;
    return i;
}

static gr_jslot *find_local(const gr_jscope *s, const gr_jname *name) {
    if (!s->n_index) return NULL;
    uint32_t at = s->index[index_of(s, name)];
    return at ? &s->slots[at - 1] : NULL;
}

static bool find_ref(const gr_jscope *s, const gr_jname *name, gr_jref *out) {
    for (uint32_t up = 0; s; s = s->up, up++) {
        const gr_jslot *slot = find_local(s, name);
        if (!slot) continue;
        if (out) *out = (gr_jref){.up = up, .slot = (uint32_t)(slot - s->slots)};
        return true;
    }
    return false;
}

/* A NULL name reserves a slot that nobody finds. */
static graft_status add_slot(gr_jparse *p, gr_jscope *s, const gr_jname *name, gr_jload load, gr_jslot **out) {
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 8;
        gr_jslot *slots = gr_jp_alloc(p, cap * sizeof *slots);
        uint32_t *index = gr_jp_alloc(p, cap * 2 * sizeof *index);
        if (!slots || !index) return gr_fail_memory(p->err);
        if (s->n) memcpy(slots, s->slots, s->n * sizeof *slots);
        *s = (gr_jscope){.up = s->up, .slots = slots, .n = s->n, .cap = cap, .index = index, .n_index = cap * 2};
        for (size_t i = 0; i < s->n; i++)
            if (slots[i].name) index[index_of(s, slots[i].name)] = (uint32_t)i + 1;
    }
    s->slots[s->n] = (gr_jslot){.name = name, .load = load};
    if (name) s->index[index_of(s, name)] = (uint32_t)s->n + 1;
    if (out) *out = &s->slots[s->n];
    s->n++;
    return GRAFT_OK;
}

static graft_status new_scope(gr_jparse *p, gr_jscope *up, gr_jscope **out) {
    gr_jscope *s = gr_jp_alloc(p, sizeof *s);
    if (!s) return gr_fail_memory(p->err);
    s->up = up;
    *out = s;
    return GRAFT_OK;
}

static graft_status note_load(gr_jparse *p, gr_jscope *s, const gr_jname *name) {
    return find_ref(s, name, NULL) ? GRAFT_OK : add_slot(p, s, name, GR_JLOAD_RESOLVE, NULL);
}

static graft_status note_store(gr_jparse *p, gr_jscope *s, const gr_jname *name, bool branch) {
    gr_jslot *slot = find_local(s, name);
    gr_jref outer;
    if (slot) return GRAFT_OK;
    if (s->up && find_ref(s->up, name, &outer)) {
        GR_TRY(add_slot(p, s, name, GR_JLOAD_ALIAS, &slot));
        outer.up++;
        slot->outer = outer;
        return GRAFT_OK;
    }
    return add_slot(p, s, name, branch ? GR_JLOAD_RESOLVE : GR_JLOAD_UNDEFINED, NULL);
}

static graft_status note_param(gr_jparse *p, gr_jscope *s, const gr_jname *name) {
    gr_jslot *slot = find_local(s, name);
    if (!slot) return add_slot(p, s, name, GR_JLOAD_PARAM, NULL);
    slot->load = GR_JLOAD_PARAM;
    return GRAFT_OK;
}

static graft_status note(gr_jparse *p, gr_jscope *s, const gr_jnode *n, bool branch);

static graft_status note_list(gr_jparse *p, gr_jscope *s, const gr_jnode *list, bool branch) {
    for (; list; list = list->next) GR_TRY(note(p, s, list, branch));
    return GRAFT_OK;
}

static graft_status note_args(gr_jparse *p, gr_jscope *s, const gr_jcall_args *args, bool branch) {
    if (!args) return GRAFT_OK;
    GR_TRY(note_list(p, s, args->pos, branch));
    GR_TRY(note_list(p, s, args->kw_values, branch));
    GR_TRY(note(p, s, args->star, branch));
    return note(p, s, args->star_star, branch);
}

static graft_status note_params(gr_jparse *p, gr_jscope *s, const gr_jnode *target) {
    if (target->kind == GR_JN_NAME) return note_param(p, s, target->name);
    for (const gr_jnode *item = target->list; item; item = item->next) GR_TRY(note_params(p, s, item));
    return GRAFT_OK;
}

/* Enters the names of `n` that belong to scope s itself. */
static graft_status note(gr_jparse *p, gr_jscope *s, const gr_jnode *n, bool branch) {
    if (!n) return GRAFT_OK;
    switch (n->kind) {
    case GR_JN_NAME:
        if (n->op == GR_JLOAD) return note_load(p, s, n->name);
        return n->op == GR_JSTORE ? note_store(p, s, n->name, branch) : note_param(p, s, n->name);
    case GR_JN_NSREF: return note_load(p, s, n->name);
    case GR_JN_IF:
        GR_TRY(note(p, s, n->a, branch));
        GR_TRY(note_list(p, s, n->body, true));
        GR_TRY(note_list(p, s, n->list, true));
        return note_list(p, s, n->other, true);
    case GR_JN_MACRO: return note_store(p, s, n->name, branch);
    case GR_JN_FOR: return note(p, s, n->b, branch);
    case GR_JN_CALLBLOCK:
    case GR_JN_FILTERBLOCK: return note(p, s, n->a, branch);
    case GR_JN_WITH: return note_list(p, s, n->list2, branch);
    case GR_JN_SET:
    case GR_JN_SETBLOCK:
        GR_TRY(note(p, s, n->b, branch));
        return note(p, s, n->a, branch);
    case GR_JN_LOADER:
        GR_TRY(note(p, s, n->a, branch));
        return note_list(p, s, n->list, branch);
    case GR_JN_GENERATION:
    case GR_JN_AUTOESCAPE:
    case GR_JN_BLOCK: return GRAFT_OK;
    default:
        GR_TRY(note(p, s, n->a, branch));
        GR_TRY(note(p, s, n->b, branch));
        GR_TRY(note(p, s, n->c, branch));
        GR_TRY(note_list(p, s, n->list, branch));
        return note_args(p, s, n->args, branch);
    }
}

/* Calls fn for every name under `n` in Jinja's order of fields, except inside {% block %}. */
typedef void (*name_fn)(void *arg, const gr_jnode *name);
static void walk(const gr_jnode *n, name_fn fn, void *arg);

static void walk_list(const gr_jnode *list, name_fn fn, void *arg) {
    for (; list; list = list->next) walk(list, fn, arg);
}

static void walk(const gr_jnode *n, name_fn fn, void *arg) {
    if (!n || n->kind == GR_JN_BLOCK) return;
    if (n->kind == GR_JN_NAME) fn(arg, n);
    bool late_test = n->kind == GR_JN_FOR, late_filter = n->kind == GR_JN_FILTERBLOCK;
    if (!late_filter) walk(n->a, fn, arg);
    walk(n->b, fn, arg);
    if (!late_test) walk(n->c, fn, arg);
    if (n->args) {
        walk_list(n->args->pos, fn, arg);
        walk_list(n->args->kw_values, fn, arg);
        walk(n->args->star, fn, arg);
        walk(n->args->star_star, fn, arg);
    }
    if (n->macro) {
        walk_list(n->macro->params, fn, arg);
        walk_list(n->macro->defaults, fn, arg);
        walk_list(n->macro->body, fn, arg);
    }
    if (n->kind != GR_JN_IF) walk_list(n->list, fn, arg);
    walk_list(n->list2, fn, arg);
    walk_list(n->body, fn, arg);
    if (n->kind == GR_JN_IF) walk_list(n->list, fn, arg);
    walk_list(n->other, fn, arg);
    if (late_test) walk(n->c, fn, arg);
    if (late_filter) walk(n->a, fn, arg);
}

typedef struct name_search {
    const char *name;
    bool declared, read, stored;
} name_search;

static void search_name(void *arg, const gr_jnode *n) {
    name_search *s = arg;
    if (strcmp(n->name->str.p, s->name) != 0) return;
    if (n->op == GR_JSTORE) s->stored = true;
    if (n->op == GR_JLOAD)
        s->read |= !s->declared;
    else
        s->declared = true;
}

static bool reads(const gr_jnode *list, const char *name) {
    name_search s = {.name = name};
    walk_list(list, search_name, &s);
    return s.read;
}

static graft_status resolve_list(gr_jparse *p, place at, gr_jnode *list) {
    for (; list; list = list->next) GR_TRY(resolve(p, at, list));
    return GRAFT_OK;
}

static graft_status resolve_args(gr_jparse *p, place at, gr_jcall_args *args) {
    if (!args) return GRAFT_OK;
    GR_TRY(resolve_list(p, at, args->pos));
    GR_TRY(resolve_list(p, at, args->kw_values));
    GR_TRY(resolve(p, at, args->star));
    return resolve(p, at, args->star_star);
}

static graft_status resolve_for(gr_jparse *p, place at, gr_jnode *n) {
    gr_jloop_code *loop = n->loop;
    name_search stored = {.name = "loop"};
    walk(n, search_name, &stored);
    if (stored.stored)
        return gr_jp_fail(p, GRAFT_ERR_FORMAT, n->line, "cannot assign to special loop variable in for-loop");
    GR_TRY(resolve(p, at, n->b));
    loop->uses_loop = loop->recursive || reads(n->body, "loop");
    GR_TRY(new_scope(p, at.scope, &loop->body_scope));
    if (loop->uses_loop) {
        const gr_jname *name;
        GR_TRY(gr_jp_name(p, "loop", 4, &name));
        loop->loop_slot = (uint32_t)loop->body_scope->n;
        GR_TRY(note_param(p, loop->body_scope, name));
    }
    GR_TRY(note_params(p, loop->body_scope, n->a));
    GR_TRY(note_list(p, loop->body_scope, n->body, false));
    GR_TRY(resolve(p, (place){.scope = loop->body_scope}, n->a));
    if (n->c) {
        GR_TRY(new_scope(p, at.scope, &loop->test_scope));
        /* The target's variables get the same slot numbers as in the body. */
        if (loop->uses_loop) GR_TRY(add_slot(p, loop->test_scope, NULL, GR_JLOAD_PARAM, NULL));
        GR_TRY(note_params(p, loop->test_scope, n->a));
        GR_TRY(note(p, loop->test_scope, n->c, false));
        GR_TRY(resolve(p, (place){.scope = loop->test_scope}, n->c));
    }
    GR_TRY(resolve_list(p, (place){.scope = loop->body_scope, .in_loop = true}, n->body));
    if (!n->flag) return GRAFT_OK;
    GR_TRY(new_scope(p, at.scope, &loop->else_scope));
    GR_TRY(note_list(p, loop->else_scope, n->other, false));
    return resolve_list(p, (place){.scope = loop->else_scope, .in_loop = at.in_loop && !loop->recursive}, n->other);
}

/* Declares caller, kwargs or varargs where the body uses it. */
static graft_status special_param(gr_jparse *p, gr_jmacro_code *m, const char *text, bool *takes, uint32_t *slot) {
    const gr_jname *name;
    *takes = false;
    if (!reads(m->body, text)) return GRAFT_OK;
    for (const gr_jnode *param = m->params; param; param = param->next)
        if (!strcmp(param->name->str.p, text)) return GRAFT_OK;
    GR_TRY(gr_jp_name(p, text, strlen(text), &name));
    GR_TRY(note_param(p, m->scope, name));
    gr_jref ref;
    find_ref(m->scope, name, &ref);
    *slot = ref.slot;
    *takes = true;
    return GRAFT_OK;
}

static graft_status resolve_macro(gr_jparse *p, place at, gr_jnode *n) {
    gr_jmacro_code *m = n->macro;
    GR_TRY(new_scope(p, at.scope, &m->scope));
    GR_TRY(note_list(p, m->scope, m->params, false));
    GR_TRY(note_list(p, m->scope, m->defaults, false));
    GR_TRY(note_list(p, m->scope, m->body, false));
    size_t i = 0;
    for (const gr_jnode *param = m->params; param; param = param->next, i++) {
        if (strcmp(param->name->str.p, "caller") != 0) continue;
        m->explicit_caller = true;
        if (reads(m->body, "caller") && i < m->n_params - m->n_defaults)
            return gr_jp_fail(p, GRAFT_ERR_FORMAT, n->line,
                              "the special \"caller\" argument must be omitted or be given a default");
    }
    GR_TRY(special_param(p, m, "caller", &m->takes_caller, &m->caller_slot));
    GR_TRY(special_param(p, m, "kwargs", &m->takes_kwargs, &m->kwargs_slot));
    GR_TRY(special_param(p, m, "varargs", &m->takes_varargs, &m->varargs_slot));
    place inside = {.scope = m->scope};
    GR_TRY(resolve_list(p, inside, m->params));
    GR_TRY(resolve_list(p, inside, m->defaults));
    return resolve_list(p, inside, m->body);
}

/* A scope around n->body and, when `head` is given, around that expression. */
static graft_status resolve_inner(gr_jparse *p, place at, gr_jnode *n, gr_jnode *head) {
    GR_TRY(new_scope(p, at.scope, &n->scope));
    for (gr_jnode *target = n->kind == GR_JN_WITH ? n->list : NULL; target; target = target->next)
        GR_TRY(note_params(p, n->scope, target));
    GR_TRY(note_list(p, n->scope, n->body, false));
    GR_TRY(note(p, n->scope, head, false));
    place inside = {.scope = n->scope, .in_loop = at.in_loop};
    if (n->kind == GR_JN_WITH) GR_TRY(resolve_list(p, inside, n->list));
    GR_TRY(resolve(p, inside, head));
    return resolve_list(p, inside, n->body);
}

static graft_status resolve_block(gr_jparse *p, place at, gr_jnode *n) {
    graft_template *t = p->t;
    if (t->n_blocks == MAX_BLOCKS)
        return gr_jp_fail(p, GRAFT_ERR_LIMIT, n->line, "more than %d blocks", MAX_BLOCKS);
    for (size_t i = 0; i < t->n_blocks; i++)
        if (t->blocks[i]->name == n->name)
            return gr_jp_fail(p, GRAFT_ERR_FORMAT, n->line, "block '%s' defined twice", n->name->str.p);
    if (t->n_blocks == t->cap_blocks) {
        size_t cap = t->cap_blocks ? t->cap_blocks * 2 : 8;
        gr_jnode **blocks = gr_jp_alloc(p, cap * sizeof(gr_jnode *));
        if (!blocks) return gr_fail_memory(p->err);
        if (t->n_blocks) memcpy(blocks, t->blocks, t->n_blocks * sizeof(gr_jnode *));
        t->blocks = blocks;
        t->cap_blocks = cap;
    }
    t->blocks[t->n_blocks++] = n;
    /* Other variables than the context's are seen by a scoped block only. */
    place outside = {.scope = n->flag ? at.scope : NULL};
    return resolve_inner(p, outside, n, NULL);
}

static graft_status resolve_callable(gr_jparse *p, place at, gr_jnode *n) {
    const gr_jstr *name = &n->name->str;
    n->def = n->kind == GR_JN_FILTER ? (const void *)gr_j_find_filter(name->p, name->len)
                                     : (const void *)gr_j_find_test(name->p, name->len);
    if (!n->def && !at.soft)
        return gr_jp_fail(p, GRAFT_ERR_FORMAT, n->line, "no %s named '%s'", n->kind == GR_JN_FILTER ? "filter" : "test",
                          name->p);
    GR_TRY(resolve(p, at, n->a));
    return resolve_args(p, at, n->args);
}

static graft_status resolve(gr_jparse *p, place at, gr_jnode *n) {
    if (!n) return GRAFT_OK;
    switch (n->kind) {
    case GR_JN_NAME:
    case GR_JN_NSREF:
        if (!find_ref(at.scope, n->name, &n->ref))
            return gr_jp_fail(p, GRAFT_ERR_INTERNAL, n->line, "name '%s' has no scope", n->name->str.p);
        return GRAFT_OK;
    case GR_JN_IF:
    case GR_JN_COND: at.soft = true; break;
    case GR_JN_FOR: return resolve_for(p, at, n);
    case GR_JN_MACRO:
        find_ref(at.scope, n->name, &n->ref);
        return resolve_macro(p, at, n);
    case GR_JN_CALLBLOCK: GR_TRY(resolve(p, at, n->a)); return resolve_macro(p, at, n);
    case GR_JN_GENERATION: return resolve_macro(p, at, n);
    case GR_JN_FILTERBLOCK:
    case GR_JN_AUTOESCAPE: return resolve_inner(p, at, n, n->a);
    case GR_JN_WITH: GR_TRY(resolve_list(p, at, n->list2)); return resolve_inner(p, at, n, NULL);
    case GR_JN_SETBLOCK: GR_TRY(resolve(p, at, n->a)); return resolve_inner(p, at, n, n->b);
    case GR_JN_BLOCK: return resolve_block(p, at, n);
    case GR_JN_BREAK:
    case GR_JN_CONTINUE:
        if (!at.in_loop) return gr_jp_fail(p, GRAFT_ERR_FORMAT, n->line, "'%s' outside loop", n->name->str.p);
        return GRAFT_OK;
    case GR_JN_FILTER:
    case GR_JN_TEST: return resolve_callable(p, at, n);
    default: break;
    }
    GR_TRY(resolve(p, at, n->a));
    GR_TRY(resolve(p, at, n->b));
    GR_TRY(resolve(p, at, n->c));
    GR_TRY(resolve_list(p, at, n->list));
    GR_TRY(resolve_args(p, at, n->args));
    GR_TRY(resolve_list(p, at, n->body));
    return resolve_list(p, at, n->other);
}

graft_status gr_j_resolve(gr_jparse *p) {
    GR_TRY(new_scope(p, NULL, &p->t->scope));
    GR_TRY(note_list(p, p->t->scope, p->t->body, false));
    return resolve_list(p, (place){.scope = p->t->scope}, p->t->body);
}
