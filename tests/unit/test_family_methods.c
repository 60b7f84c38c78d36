/* Adaptation methods on every family against peft: the cells of tests/golden/family_methods (tools/golden/make_family_methods.py).
 * docs/cells.md is the table of what is proven here; GRAFT_WRITE_CELLS=FILE writes it anew. */
#include "support/adapter_golden.h"

#include <stdlib.h>

/* Starts that change the base: they are saved in the converted form, not as they were read. */
static const char *const converted[] = {"gpt2_pissa",  "gpt2_pissa_initial", "llama_pissa", "llama_pissa_initial",
                                        "llama_olora", "llama_olora_initial"};

typedef struct cell {
    char name[64], base[64], method[32], task[16];
} cell;

static bool among(const char *name, const char *const *names, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return false;
}

/* The reference has no BitFit: its golden holds transformers' names. `out`: an adapter directory with ours, and the golden. */
static void make_bitfit(const char *golden, const char *task, const char *out) {
    char path[1300], names[80][160], config[200];
    gr_safetensors *f;
    for (int file = 0; file < 2; file++) {
        gr_named_tensor t[80];
        snprintf(path, sizeof path, "%s/%s.safetensors", golden, file ? "golden" : "bitfit");
        assert_ok(gr_safetensors_open(NULL, path, &f, &err));
        const gr_tensor_list *list = gr_safetensors_tensors(f);
        assert_true(list->n <= GR_COUNT(t));
        for (size_t i = 0; i < list->n; i++) {
            const char *name = list->items[i].name;
            bool grad = strncmp(name, "grad.", 5) == 0;
            t[i] = list->items[i];
            if (!file || grad) snprintf(names[i], sizeof names[i], "%sbase_model.model.%s", grad ? "grad." : "", grad ? name + 5 : name);
            if (!file || grad) t[i].name = names[i];
        }
        const char *stride = gr_safetensors_metadata(f, "stride"), *const metadata[] = {"stride", stride ? stride : "1", NULL};
        assert_ok(gr_make_dirs(out, &err));
        snprintf(path, sizeof path, "%s/%s.safetensors", out, file ? "golden" : "adapter_model");
        assert_ok(gr_safetensors_save(NULL, path, t, list->n, metadata, &err));
        gr_safetensors_close(f);
    }
    bool classifies = strcmp(task, "SEQ_CLS") == 0;
    int n = snprintf(config, sizeof config, "{\"peft_type\": \"BITFIT\", \"task_type\": \"%s\", \"modules_to_save\": %s}", task,
                     classifies ? "[\"classifier\", \"score\"]" : "null");
    snprintf(path, sizeof path, "%s/adapter_config.json", out);
    assert_ok(gr_write_file(NULL, path, config, (size_t)n, &err));
}

static size_t read_cells(cell **out) {
    char *text;
    size_t len, n = 0;
    assert_ok(gr_read_file(NULL, test_golden("family_methods/cases.txt"), 1 << 20, &text, &len, &err));
    cell *cells = calloc(len / 8 + 1, sizeof *cells);
    assert_non_null(cells);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        cell *c = &cells[n++];
        assert_int_equal(sscanf(line, "%63s %63s %31s %15s", c->name, c->base, c->method, c->task), 4);
    }
    gr_free(NULL, text);
    *out = cells;
    return n;
}

static void every_cell_agrees_with_peft(void **state) {
    (void)state;
    cell *cells;
    size_t n = read_cells(&cells), proven = 0;
    graft_context *ctx = test_context(NULL, 1, NULL);
    for (size_t i = 0; i < n; i++) {
        char dir[1024], base[1024], rest[200];
        snprintf(rest, sizeof rest, "family_methods/%s", cells[i].name);
        snprintf(dir, sizeof dir, "%s", test_golden(rest));
        snprintf(base, sizeof base, "%s", test_golden(cells[i].base));
        bool bitfit = strcmp(cells[i].method, "BITFIT") == 0;
        if (bitfit) {
            char golden[1024];
            snprintf(golden, sizeof golden, "%s", dir);
            snprintf(dir, sizeof dir, "%s/bitfit", test_temp_dir());
            make_bitfit(golden, cells[i].task, dir);
        }
        if (bitfit || among(cells[i].name, converted, GR_COUNT(converted)))
            test_adapter_computes(ctx, cells[i].name, base, dir);
        else
            test_adapter_agrees(ctx, cells[i].name, base, dir, false);
        proven++;
    }
    assert_true(proven >= 100);
    graft_context_free(ctx);
    free(cells);
}

/* --- Prompts that begin from another adapter's --------------------------------------------------------------------------------- */

static graft_status start_from(graft_context *ctx, const char *start, const char *source, const char *more, const char *out, graft_error *e) {
    char config[2048];
    graft_model *m = test_load(ctx, test_golden("models/llama"), GRAFT_DTYPE_F32);
    snprintf(config, sizeof config, "{\"peft_type\": \"MULTITASK_PROMPT_TUNING\", \"num_virtual_tokens\": 4, \"num_ranks\": 2, "
             "\"prompt_tuning_init\": \"%s\", \"prompt_tuning_init_state_dict_path\": \"%s\"%s}", start, source, more);
    graft_status st = graft_adapter_new(m, "a", config, 7, e);
    if (st == GRAFT_OK) st = graft_adapter_save(m, "a", out, e);
    graft_model_free(m);
    return st;
}

static void compare_tensors(const char *ours, const char *theirs, const char *only) {
    gr_safetensors *a, *b;
    assert_ok(gr_safetensors_open(NULL, ours, &a, &err));
    assert_ok(gr_safetensors_open(NULL, theirs, &b, &err));
    const gr_tensor_list *list = gr_safetensors_tensors(b);
    for (size_t i = 0; i < list->n; i++) {
        const gr_named_tensor *x = gr_tensor_list_find(gr_safetensors_tensors(a), list->items[i].name);
        if (only && strcmp(only, list->items[i].name) != 0) continue;
        assert_non_null(x);
        assert_true(gr_shape_equal(&x->view.shape, &list->items[i].view.shape));
        double e = test_worst_error(&list->items[i].view, &x->view, 1);
        if (!(e < 1e-6)) fail_msg("%s: %s is off by %g", theirs, x->name, e);
    }
    gr_safetensors_close(a);
    gr_safetensors_close(b);
}

static void multitask_prompts_begin_from_a_source(void **state) {
    (void)state;
    char source[1024], golden[1024], out[1200];
    graft_context *ctx = test_context(NULL, 1, NULL);
    snprintf(source, sizeof source, "%s", test_golden("family_methods/llama_multitask/adapter_model.safetensors"));
    static const char *const starts[] = {"AVERAGE_SOURCE_TASKS", "EXACT_SOURCE_TASK", "ONLY_SOURCE_SHARED"};
    for (size_t i = 0; i < GR_COUNT(starts); i++) {
        bool shared = i == 2;
        snprintf(golden, sizeof golden, "%s/%s.safetensors", test_golden("family_methods/llama_multitask"), starts[i]);
        assert_ok(start_from(ctx, starts[i], source, shared ? ", \"num_tasks\": 5" : ", \"prompt_tuning_init_task\": 1", test_temp_dir(), &err));
        snprintf(out, sizeof out, "%s/adapter_model.safetensors", test_temp_dir());
        compare_tensors(out, shared ? source : golden, shared ? "prompt_embeddings" : NULL);
    }
    const struct {
        const char *start, *source, *more, *says;
    } wrong[] = {
        {"EXACT_SOURCE_TASK", source, ", \"prompt_tuning_init_task\": 3", "has 3 tasks"},
        {"EXACT_SOURCE_TASK", source, ", \"prompt_tuning_init_task\": -1", "prompt_tuning_init_task"},
        {"EXACT_SOURCE_TASK", source, ", \"num_tasks\": 2", "of one task"},
        {"AVERAGE_SOURCE_TASKS", source, ", \"num_ranks\": 1", "prefix_task_cols"},
        {"ONLY_SOURCE_SHARED", test_golden("models/llama/model.safetensors"), "", "'prompt_embeddings' is missing"},
        {"ONLY_SOURCE_SHARED", "none.safetensors", "", "none.safetensors"},
        {"RANDOM", source, "", "does not use"},
    };
    for (size_t i = 0; i < GR_COUNT(wrong); i++) {
        graft_error e = {0};
        char from[1024];
        snprintf(from, sizeof from, "%s", wrong[i].source);
        assert_true(start_from(ctx, wrong[i].start, from, wrong[i].more, test_temp_dir(), &e) != GRAFT_OK);
        if (!strstr(e.text, wrong[i].says)) fail_msg("%s%s: '%s' does not say '%s'", wrong[i].start, wrong[i].more, e.text, wrong[i].says);
    }
    graft_context_free(ctx);
}

/* A table of many tasks is far larger than the files, and no reason to doubt them. */
static void many_tasks_are_loaded_again(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_golden("models/llama"), GRAFT_DTYPE_F32);
    const char *config = "{\"peft_type\": \"MULTITASK_PROMPT_TUNING\", \"num_virtual_tokens\": 600, \"num_tasks\": 1000}";
    assert_ok(graft_adapter_new(m, "a", config, 7, &err));
    assert_ok(graft_adapter_save(m, "a", test_temp_dir(), &err));
    assert_ok(graft_adapter_load(m, "b", test_temp_dir(), 1, &err));
    graft_model_free(m);
    graft_context_free(ctx);
}

/* --- The table ------------------------------------------------------------------------------------------------------------ */

static const char *family_of(const cell *c) { return strchr(c->base, '/') + 1; }

/* Rows: methods; columns: bases, in the order in which the list has them first. */
static void the_table_of_cells_is_up_to_date(void **state) {
    (void)state;
    cell *cells;
    size_t n = read_cells(&cells), n_rows = 0, n_columns = 0, len;
    const char **rows = calloc(n, sizeof *rows), **columns = calloc(n, sizeof *columns);
    gr_buf b;
    gr_buf_init(&b, NULL);
    assert_true(rows && columns);
    for (size_t i = 0; i < n; i++) {
        size_t r = 0, k = 0;
        while (r < n_rows && strcmp(rows[r], cells[i].method) != 0) r++;
        if (r == n_rows) rows[n_rows++] = cells[i].method;
        while (k < n_columns && strcmp(columns[k], family_of(&cells[i])) != 0) k++;
        if (k == n_columns) columns[n_columns++] = family_of(&cells[i]);
    }
    gr_buf_add_text(&b, "# Methods and families\n\nCases of each method on each model that the tests hold against peft (logits, loss, "
                        "every gradient, ten optimiser steps, greedy\ntokens, the saved files); `tests/unit/test_family_methods.c` "
                        "writes this page. The Llama family has many more in `tests/unit/test_adapter.c`.\n\n| method |");
    for (size_t k = 0; k < n_columns; k++) gr_buf_add_format(&b, " %s |", columns[k]);
    gr_buf_add_text(&b, "\n|---|");
    for (size_t k = 0; k < n_columns; k++) gr_buf_add_text(&b, "---|");
    for (size_t r = 0; r < n_rows; r++) {
        gr_buf_add_format(&b, "\n| `%s` |", rows[r]);
        for (size_t k = 0; k < n_columns; k++) {
            int proven = 0;
            for (size_t i = 0; i < n; i++)
                proven += !strcmp(cells[i].method, rows[r]) && !strcmp(family_of(&cells[i]), columns[k]);
            if (proven)
                gr_buf_add_format(&b, " %d |", proven);
            else
                gr_buf_add_text(&b, " |");
        }
    }
    gr_buf_add_char(&b, '\n');
    assert_ok(gr_buf_status(&b, &err));
    const char *out = getenv("GRAFT_WRITE_CELLS");
    if (out) {
        FILE *f = fopen(out, "w");
        assert_non_null(f);
        fputs(gr_buf_text(&b), f);
        fclose(f);
    } else {
        char *text;
        assert_ok(gr_read_file(NULL, TEST_SOURCE_DIR "/../docs/cells.md", 1 << 20, &text, &len, &err));
        assert_string_equal(gr_buf_text(&b), text);
        gr_free(NULL, text);
    }
    gr_buf_free(&b);
    free(rows);
    free(columns);
    free(cells);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cell_agrees_with_peft),
        cmocka_unit_test(multitask_prompts_begin_from_a_source),
        cmocka_unit_test(many_tasks_are_loaded_again),
        cmocka_unit_test(the_table_of_cells_is_up_to_date),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
