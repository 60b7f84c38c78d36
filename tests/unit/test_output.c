/* The folder of a run: checkpoints appear and go whole; the state survives writing and reading. */
#include "support/support.h"

#include <math.h>

#include "train/output.h"
#include "train/state.h"

static char *make_checkpoint(const char *dir, const char *name, const char *content) {
    char path[1400];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_ok(gr_make_dirs(path, &err));
    char *made = gr_strdup(NULL, path);
    strcat(path, "/trainer_state.json");
    if (content) assert_ok(gr_write_file(NULL, path, content, strlen(content), &err));
    return made;
}

static void fresh_dir(char *dir, size_t size, const char *name) {
    snprintf(dir, size, "%s/%s", test_temp_dir(), name);
    assert_ok(gr_make_dirs(dir, &err));
}

static void expect_steps(const char *dir, const char *expected) {
    int64_t *steps;
    size_t n;
    char got[256] = "";
    assert_ok(gr_list_checkpoints(NULL, dir, &steps, &n, &err));
    for (size_t i = 0; i < n; i++) snprintf(got + strlen(got), sizeof got - strlen(got), "%lld ", (long long)steps[i]);
    assert_string_equal(got, expected);
    gr_free(NULL, steps);
}

static void only_complete_checkpoints_count(void **state) {
    (void)state;
    char dir[1024];
    fresh_dir(dir, sizeof dir, "list");
    expect_steps(dir, "");
    const char *const names[] = {"checkpoint-100", "checkpoint-20", "checkpoint-3.tmp", "checkpoint-", "checkpoint-4x",
                                 "checkpoint-99999999999999999999", "checkpoint--5", "other"};
    for (size_t i = 0; i < GR_COUNT(names); i++) gr_free(NULL, make_checkpoint(dir, names[i], "{}"));
    gr_free(NULL, make_checkpoint(dir, "checkpoint-7", NULL));
    expect_steps(dir, "20 100 ");
}

static void publishing_replaces_whole_folders(void **state) {
    (void)state;
    char dir[1024], file[2048];
    fresh_dir(dir, sizeof dir, "publish");
    char *old = make_checkpoint(dir, "checkpoint-5", "old"), *temp = make_checkpoint(dir, "checkpoint-5.tmp", "new");
    assert_ok(gr_publish_dir(NULL, temp, old, &err));
    snprintf(file, sizeof file, "%s/trainer_state.json", old);
    char *text;
    assert_ok(gr_read_file(NULL, file, 10, &text, NULL, &err));
    assert_string_equal(text, "new");
    assert_false(gr_path_exists(temp));
    gr_free(NULL, text);
    gr_free(NULL, old);
    gr_free(NULL, temp);
}

static void rotation_spares_the_newest_and_the_best(void **state) {
    (void)state;
    char dir[1024], name[32];
    fresh_dir(dir, sizeof dir, "rotate");
    for (int i = 10; i <= 60; i += 10) {
        snprintf(name, sizeof name, "checkpoint-%d", i);
        gr_free(NULL, make_checkpoint(dir, name, "{}"));
    }
    assert_ok(gr_rotate_checkpoints(NULL, dir, 4, 60, 20, &err));
    expect_steps(dir, "20 40 50 60 ");
    assert_ok(gr_rotate_checkpoints(NULL, dir, 1, 60, 20, &err));
    expect_steps(dir, "20 60 ");
    assert_ok(gr_rotate_checkpoints(NULL, dir, 1, 60, 0, &err));
    expect_steps(dir, "60 ");
}

static void leftovers_are_cleaned(void **state) {
    (void)state;
    char dir[1024], path[2048];
    fresh_dir(dir, sizeof dir, "clean");
    const char *const names[] = {"checkpoint-5.tmp", "checkpoint-6.old", "checkpoint-7.old", "checkpoint-7", "mine.tmp"};
    for (size_t i = 0; i < GR_COUNT(names); i++) gr_free(NULL, make_checkpoint(dir, names[i], "{}"));
    const char *const files[] = {".adapter_model.safetensors.tmp-123", ".hidden", ".x.tmp-12a"};
    for (size_t i = 0; i < GR_COUNT(files); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        assert_ok(gr_write_file(NULL, path, "x", 1, &err));
    }
    assert_ok(gr_clean_output(NULL, dir, &err));
    char **left;
    size_t n;
    char got[256] = "";
    assert_ok(gr_list_dir(NULL, dir, &left, &n, &err));
    for (size_t i = 0; i < n; i++) snprintf(got + strlen(got), sizeof got - strlen(got), "%s ", left[i]);
    gr_free_names(NULL, left, n);
    assert_string_equal(got, ".hidden .x.tmp-12a checkpoint-6 checkpoint-7 mine.tmp ");
}

/* --- State --- */

static void fill(gr_train_state *s, const graft_allocator *a) {
    gr_state_init(s, a);
    s->global_step = 37;
    s->max_steps = 100;
    s->cursor = (gr_data_cursor){2, 24};
    s->epoch = 2.1000000000000001;
    s->num_tokens = 123456789012;
    s->window_loss = 1.0 / 3;
    s->window_steps = 7;
    s->window_labels = 70;
    s->window_correct = 30;
    s->total_loss = 1e-300;
    s->best_metric = 2.5;
    s->best_step = 30;
    s->patience = 1;
    s->pending = true;
    s->data_now = 1700000000;
    gr_buf_add_text(&s->history, "{\"loss\": 0.1, \"step\": 10}\n{\"loss\": 1e-05, \"text\": \"a\\nb\", \"step\": 20}\n");
    gr_buf_add_text(&s->options, "{\"seed\": 42, \"learning_rate\": 2e-05}");
    snprintf(s->run_name, sizeof s->run_name, "a \"b\" \xC3\xA4");
}

static void state_survives_writing_and_reading(void **state) {
    (void)state;
    const gr_state_facts facts = {.logging_steps = 10, .eval_steps = 0.5, .early_stopping_patience = 3, .best_checkpoint = "x/y"};
    gr_train_state s, back;
    gr_buf text, again;
    fill(&s, NULL);
    gr_state_init(&back, NULL);
    gr_buf_init(&text, NULL);
    gr_buf_init(&again, NULL);
    assert_ok(gr_state_write(&s, &facts, &text, &err));
    assert_ok(gr_state_read(&back, "state", text.data, text.len, &err));
    assert_ok(gr_state_write(&back, &facts, &again, &err));
    assert_string_equal(text.data, again.data);
    assert_string_equal(s.history.data, back.history.data);
    assert_string_equal(s.options.data, back.options.data);
    assert_string_equal(s.run_name, back.run_name);
    assert_true(s.window_loss == back.window_loss && s.total_loss == back.total_loss && s.epoch == back.epoch);
    assert_true(back.pending && isnan(back.last_eval_loss) && back.cursor.epoch == 2 && back.cursor.row == 24);
    for (size_t n = 0; n < text.len - 2; n++) {
        gr_train_state cut;
        graft_error err;
        gr_state_init(&cut, NULL);
        assert_int_equal(gr_state_read(&cut, "state", text.data, n, &err), GRAFT_ERR_FORMAT);
        gr_state_free(&cut);
    }
    gr_buf_free(&text);
    gr_buf_free(&again);
    gr_state_free(&s);
    gr_state_free(&back);
}

static void other_options_are_named(void **state) {
    (void)state;
    gr_train_state s;
    gr_buf now;
    graft_error wrong;
    fill(&s, NULL);
    gr_buf_init(&now, NULL);
    gr_buf_add_text(&now, "{\"seed\": 42, \"learning_rate\": 2e-05}");
    assert_ok(gr_state_check_options(&s, &now, "out/checkpoint-37", &err));
    gr_buf_clear(&now);
    gr_buf_add_text(&now, "{\"seed\": 42, \"learning_rate\": 3e-05}");
    assert_int_equal(gr_state_check_options(&s, &now, "out/checkpoint-37", &wrong), GRAFT_ERR_MISMATCH);
    assert_non_null(strstr(wrong.text, "out/checkpoint-37: learning_rate: the run was started with 2e-05, found 3e-05"));
    gr_buf_clear(&now);
    gr_buf_add_text(&now, "{\"seed\": 42}");
    assert_int_equal(gr_state_check_options(&s, &now, "out/checkpoint-37", &wrong), GRAFT_ERR_MISMATCH);
    gr_buf_free(&now);
    gr_state_free(&s);
}

static void states_of_other_programs_are_refused(void **state) {
    (void)state;
    static const char text[] = "{\"epoch\": 1.0, \"global_step\": 5, \"log_history\": [], \"stateful_callbacks\": {}}";
    gr_train_state s;
    graft_error err;
    gr_state_init(&s, NULL);
    assert_int_equal(gr_state_read(&s, "state", text, sizeof text - 1, &err), GRAFT_ERR_FORMAT);
    assert_non_null(strstr(err.text, "another program"));
    gr_state_free(&s);
}

static graft_status write_and_read(const graft_allocator *a, void *arg) {
    (void)arg;
    const gr_state_facts facts = {0};
    gr_train_state s, back;
    gr_buf text;
    fill(&s, a);
    gr_state_init(&back, a);
    gr_buf_init(&text, a);
    graft_status st = gr_buf_status(&s.history, NULL);
    if (st == GRAFT_OK) st = gr_buf_status(&s.options, NULL);
    if (st == GRAFT_OK) st = gr_state_write(&s, &facts, &text, NULL);
    if (st == GRAFT_OK) st = gr_state_read(&back, "state", text.data, text.len, NULL);
    gr_buf_free(&text);
    gr_state_free(&s);
    gr_state_free(&back);
    return st;
}

static graft_status rotate_and_clean(const graft_allocator *a, void *arg) {
    GR_TRY(gr_clean_output(a, arg, NULL));
    return gr_rotate_checkpoints(a, arg, 4, 60, 20, NULL);
}

static void failing_allocations_leak_nothing(void **state) {
    (void)state;
    char dir[1024];
    fresh_dir(dir, sizeof dir, "sweep");
    gr_free(NULL, make_checkpoint(dir, "checkpoint-5", "{}"));
    gr_free(NULL, make_checkpoint(dir, "checkpoint-6.tmp", "{}"));
    test_allocation_sweep(write_and_read, NULL, 0, 1);
    test_allocation_sweep(rotate_and_clean, dir, 0, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_complete_checkpoints_count),
        cmocka_unit_test(publishing_replaces_whole_folders),
        cmocka_unit_test(rotation_spares_the_newest_and_the_best),
        cmocka_unit_test(leftovers_are_cleaned),
        cmocka_unit_test(state_survives_writing_and_reading),
        cmocka_unit_test(other_options_are_named),
        cmocka_unit_test(states_of_other_programs_are_refused),
        cmocka_unit_test(failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
