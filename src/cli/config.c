/* --config FILE and --jobs FILE: a YAML mapping from option names to scalars, lists of scalars, or (for patterns) flat mappings, as trl
 * and axolotl users write. A nested mapping under a name that is no option ("training:") groups options. */
#include <stdio.h>

#include <yaml.h>

#include "base/json.h"
#include "cli/cli.h"

enum { MAX_DEPTH = 3 }; /* groups of options nest once or twice; aliases cannot blow up below this */

typedef struct reader {
    cli_args *args;
    const char *path;
    yaml_document_t doc;
} reader;

static graft_status place(const reader *r, const yaml_node_t *node, char *out, size_t size) {
    snprintf(out, size, "%s:%zu", r->path, node->start_mark.line + 1);
    return GRAFT_OK;
}

static const char *scalar(const yaml_node_t *node) { return (const char *)node->data.scalar.value; }

/* A NUL inside would cut the value short. */
static bool is_text(const yaml_node_t *node) {
    return node && node->type == YAML_SCALAR_NODE && strlen(scalar(node)) == node->data.scalar.length;
}

static bool is_null(const yaml_node_t *node) {
    static const char *const names[] = {"", "~", "null", "Null", "NULL"};
    for (size_t i = 0; i < GR_COUNT(names); i++)
        if (node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && !strcmp(scalar(node), names[i])) return true;
    return false;
}

/* {a: 1, b: 2} for an option such as rank_pattern becomes its JSON text. */
static graft_status mapping_text(reader *r, yaml_node_t *node, gr_buf *b, graft_error *err) {
    gr_buf_add_char(b, '{');
    bool first = true;
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        yaml_node_t *key = yaml_document_get_node(&r->doc, p->key), *value = yaml_document_get_node(&r->doc, p->value);
        if (!key || !value || key->type != YAML_SCALAR_NODE || value->type != YAML_SCALAR_NODE)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s:%zu: expected a mapping of scalars", r->path, node->start_mark.line + 1);
        if (!first) gr_buf_add_text(b, ", ");
        first = false;
        gr_json_add_text(b, scalar(key), key->data.scalar.length);
        gr_buf_add_text(b, ": ");
        gr_buf_add(b, scalar(value), value->data.scalar.length);
    }
    gr_buf_add_char(b, '}');
    return gr_buf_status(b, err);
}

static graft_status read_mapping(reader *r, yaml_node_t *node, int depth, graft_error *err);

/* A list for an option that takes one value may only hold that one. */
static graft_status read_list(reader *r, yaml_node_t *list, const char *name, const char *where, graft_error *err) {
    const cli_option *o = cli_find_option(r->args, name);
    size_t n = (size_t)(list->data.sequence.items.top - list->data.sequence.items.start);
    if (o && o->kind != CLI_LIST && n > 1)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: %s: expected one value, found a list of %zu", where, name, n);
    for (size_t i = 0; i < n; i++) {
        yaml_node_t *item = yaml_document_get_node(&r->doc, list->data.sequence.items.start[i]);
        if (!is_text(item) || is_null(item))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: %s: expected a list of scalars", where, name);
        GR_TRY(cli_set(r->args, name, scalar(item), i == 0, where, err));
    }
    return GRAFT_OK;
}

static graft_status read_pair(reader *r, yaml_node_t *key, yaml_node_t *value, int depth, graft_error *err) {
    char where[600];
    place(r, key, where, sizeof where);
    if (!is_text(key)) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected an option's name", where);
    const char *name = scalar(key);
    if (value->type == YAML_SCALAR_NODE) {
        if (is_null(value)) return GRAFT_OK;
        if (!is_text(value)) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: %s: expected text without NUL", where, name);
        return cli_set(r->args, name, scalar(value), true, where, err);
    }
    if (value->type == YAML_SEQUENCE_NODE) return read_list(r, value, name, where, err);
    if (!cli_find_option(r->args, name)) return read_mapping(r, value, depth + 1, err);
    gr_buf b;
    gr_buf_init(&b, NULL);
    graft_status st = mapping_text(r, value, &b, err);
    if (st == GRAFT_OK) st = cli_set(r->args, name, gr_buf_text(&b), true, where, err);
    gr_buf_free(&b);
    return st;
}

static graft_status read_mapping(reader *r, yaml_node_t *node, int depth, graft_error *err) {
    if (depth > MAX_DEPTH) return gr_fail(err, GRAFT_ERR_LIMIT, "%s: nested deeper than %d", r->path, MAX_DEPTH);
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        yaml_node_t *key = yaml_document_get_node(&r->doc, p->key), *value = yaml_document_get_node(&r->doc, p->value);
        if (!key || !value) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: broken YAML document", r->path);
        GR_TRY(read_pair(r, key, value, depth, err));
    }
    return GRAFT_OK;
}

/* A second document would be left unread. */
static graft_status expect_end(yaml_parser_t *parser, const char *path, graft_error *err) {
    yaml_document_t next;
    if (!yaml_parser_load(parser, &next))
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s:%zu: %s", path, parser->problem_mark.line + 1,
                       parser->problem ? parser->problem : "broken YAML");
    bool more = yaml_document_get_root_node(&next) != NULL;
    yaml_document_delete(&next);
    return more ? gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected one YAML document, found another", path) : GRAFT_OK;
}

/* Calls `use` with the document's root, which is a mapping; not at all for an empty document. */
static graft_status with_file(reader *r, graft_status (*use)(reader *r, yaml_node_t *root, void *arg, graft_error *err), void *arg,
                              graft_error *err) {
    char *text;
    size_t len;
    GR_TRY(gr_read_file(NULL, r->path, (size_t)1 << 20, &text, &len, err));
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) {
        gr_free(NULL, text);
        return gr_fail_memory(err);
    }
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
    graft_status st = GRAFT_OK;
    if (!yaml_parser_load(&parser, &r->doc)) {
        st = gr_fail(err, GRAFT_ERR_FORMAT, "%s:%zu: %s", r->path, parser.problem_mark.line + 1,
                     parser.problem ? parser.problem : "broken YAML");
    } else {
        yaml_node_t *root = yaml_document_get_root_node(&r->doc);
        if (root && root->type != YAML_MAPPING_NODE)
            st = gr_fail(err, GRAFT_ERR_FORMAT, "%s:1: expected a mapping of options", r->path);
        else if (root)
            st = use(r, root, arg, err);
        yaml_document_delete(&r->doc);
        if (st == GRAFT_OK) st = expect_end(&parser, r->path, err);
    }
    yaml_parser_delete(&parser);
    gr_free(NULL, text);
    return st;
}

static graft_status use_options(reader *r, yaml_node_t *root, void *arg, graft_error *err) {
    (void)arg;
    return read_mapping(r, root, 0, err);
}

graft_status cli_load_config(cli_args *args, const char *path, graft_error *err) {
    reader r = {.args = args, .path = path};
    return with_file(&r, use_options, NULL, err);
}

/* --- Jobs --------------------------------------------------------------------------------------------------------------- */

static bool is_key(reader *r, const yaml_node_pair_t *p, const char *name) {
    const yaml_node_t *key = yaml_document_get_node(&r->doc, p->key);
    return key && key->type == YAML_SCALAR_NODE && !strcmp(scalar(key), name);
}

static graft_status find_jobs(reader *r, const yaml_node_t *root, yaml_node_t **out, graft_error *err) {
    for (yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top; p++) {
        if (!is_key(r, p, "jobs")) continue;
        yaml_node_t *list = yaml_document_get_node(&r->doc, p->value);
        if (!list || list->type != YAML_SEQUENCE_NODE) break;
        *out = list;
        return GRAFT_OK;
    }
    return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected a list of jobs under \"jobs\", found none", r->path);
}

static graft_status use_count(reader *r, yaml_node_t *root, void *arg, graft_error *err) {
    yaml_node_t *list = NULL;
    GR_TRY(find_jobs(r, root, &list, err));
    *(size_t *)arg = (size_t)(list->data.sequence.items.top - list->data.sequence.items.start);
    return GRAFT_OK;
}

graft_status cli_count_jobs(const char *path, size_t *n, graft_error *err) {
    reader r = {.path = path};
    *n = 0;
    GR_TRY(with_file(&r, use_count, n, err));
    return *n ? GRAFT_OK : gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected at least one job, found none", path);
}

/* All but the key that is none of an option; its value, where that is a text. */
static graft_status read_but(reader *r, yaml_node_t *node, const char *but, const char **value, graft_error *err) {
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        yaml_node_t *k = yaml_document_get_node(&r->doc, p->key), *v = yaml_document_get_node(&r->doc, p->value);
        if (!k || !v) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: broken YAML document", r->path);
        if (!is_key(r, p, but)) GR_TRY(read_pair(r, k, v, 0, err));
        else if (value && !is_text(v))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s:%zu: %s: expected a text", r->path, v->start_mark.line + 1, but);
        else if (value && !(*value = gr_arena_strndup(&r->args->arena, scalar(v), v->data.scalar.length)))
            return gr_fail_memory(err);
    }
    return GRAFT_OK;
}

static graft_status use_job(reader *r, yaml_node_t *root, void *arg, graft_error *err) {
    yaml_node_t *list = NULL;
    cli_args *args = arg;
    GR_TRY(find_jobs(r, root, &list, err));
    if (args->job >= (size_t)(list->data.sequence.items.top - list->data.sequence.items.start))
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: the file has changed", r->path);
    yaml_node_t *job = yaml_document_get_node(&r->doc, list->data.sequence.items.start[args->job]);
    if (!job || job->type != YAML_MAPPING_NODE)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s:%zu: expected a mapping of options for job %zu", r->path,
                       (job ? job : list)->start_mark.line + 1, args->job + 1);
    GR_TRY(read_but(r, root, "jobs", NULL, err));
    return read_but(r, job, "name", &args->job_name, err);
}

graft_status cli_load_job(cli_args *args, graft_error *err) {
    reader r = {.args = args, .path = args->job_file};
    return with_file(&r, use_job, args, err);
}
