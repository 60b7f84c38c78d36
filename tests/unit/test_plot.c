/* Charts of runs: what is read, and that the drawing is complete, bounded and well-formed. */
#include "support/support.h"

#include "graft/train.h"
#include "train/events.h"
#include "train/plot.h"

static void log_is_read(void **state) {
    (void)state;
    static const char log[] = "{\"loss\": 3.5, \"grad_norm\": 1, \"learning_rate\": 1e-05, \"step\": 10}\n"
                              "{\"eval_loss\": 3.25, \"step\": 10, \"x\": [1, {\"loss\": 9}]}\r\n\n"
                              "{\"loss\": 3.0, \"step\": 20}\n"
                              "{\"loss\": NaN, \"step\": 30}\n"
                              "{\"train_loss\": 3.2, \"step\": 30}\n"
                              "{\"loss\": 2.5, \"step\": 20}\n"
                              "{\"loss\": 2";
    gr_curves c;
    gr_curves_init(&c, NULL);
    assert_ok(gr_curves_read_log(&c, "log", log, sizeof log - 1, &err));
    assert_int_equal(c.curve[GR_CURVE_LOSS].n, 2);
    assert_true(c.curve[GR_CURVE_LOSS].points[1].step == 20 && c.curve[GR_CURVE_LOSS].points[1].value == 2.5);
    assert_int_equal(c.curve[GR_CURVE_EVAL_LOSS].n, 1);
    assert_int_equal(c.curve[GR_CURVE_LEARNING_RATE].n, 1);
    graft_error err;
    assert_int_equal(gr_curves_read_log(&c, "log", "{\"step\": 1}\n{\"step\": }\n", 24, &err), GRAFT_ERR_FORMAT);
    assert_non_null(strstr(err.text, "line 2"));
    gr_curves_free(&c);
}

static void fill(gr_curves *c, double scale, size_t n) {
    gr_curves_init(c, NULL);
    c->name = gr_strdup(NULL, "a<b>&\"c\"\x01\xff");
    for (size_t i = 0; i < n; i++) {
        assert_ok(gr_curves_add(c, GR_CURVE_LOSS, (double)i, scale * (double)(i % 7), &err));
        assert_ok(gr_curves_add(c, GR_CURVE_LEARNING_RATE, (double)i, scale, &err));
        if (i % 5 == 0) assert_ok(gr_curves_add(c, GR_CURVE_EVAL_LOSS, (double)i, scale, &err));
    }
}

/* Tags are balanced, no control character or broken UTF-8, no number that is none. */
static void check_svg(const gr_buf *b) {
    int depth = 0;
    assert_true(gr_utf8_valid(b->data, b->len));
    assert_null(strstr(b->data, "nan"));
    assert_null(strstr(b->data, "inf"));
    for (const char *p = b->data; *p; p++) {
        assert_true((unsigned char)*p >= 0x20 || *p == '\n');
        if (*p == '<') depth += p[1] == '/' ? -1 : 1;
        if (*p == '/' && p[1] == '>') depth--;
    }
    assert_int_equal(depth, 0);
}

static void drawing_is_well_formed(void **state) {
    (void)state;
    const double scales[] = {1, 0, -3, 1e-20, 1e29, 1e16};
    const size_t counts[] = {1, 2, 50, 5000};
    for (size_t i = 0; i < GR_COUNT(scales); i++)
        for (size_t k = 0; k < GR_COUNT(counts); k++)
            for (size_t n = 1; n <= 2; n++) {
                gr_curves runs[2];
                gr_buf b;
                gr_buf_init(&b, NULL);
                for (size_t r = 0; r < 2; r++) fill(&runs[r], scales[i], counts[k]);
                assert_ok(gr_plot_draw(runs, n, &b, &err));
                check_svg(&b);
                assert_true(b.len < 200000);
                if (n == 2) assert_non_null(strstr(b.data, "a&#60;b&#62;&#38;&#34;c&#34;?? loss"));
                gr_buf_free(&b);
                for (size_t r = 0; r < 2; r++) gr_curves_free(&runs[r]);
            }
}

static graft_status draw_files(const graft_allocator *a, void *arg) {
    graft_context_options o = {.allocator = *a};
    graft_context *ctx;
    GR_TRY(graft_context_new(&o, &ctx, NULL));
    const char *const dirs[] = {arg, arg};
    char svg[1200];
    snprintf(svg, sizeof svg, "%s/out.svg", (const char *)arg);
    graft_status st = graft_plot_svg(ctx, (graft_texts){dirs, 2}, svg, NULL);
    graft_context_free(ctx);
    return st;
}

static void files_are_drawn(void **state) {
    (void)state;
    char dir[900], path[1024];
    snprintf(dir, sizeof dir, "%s/run", test_temp_dir());
    snprintf(path, sizeof path, "%s/runs/x", dir);
    gr_events *w;
    assert_ok(gr_events_open(NULL, path, -1, &w, &err));
    assert_ok(gr_events_write(w, 5, (gr_scalar[]){{"train/loss", 2}, {"eval/loss", 3}}, 2, &err));
    assert_ok(gr_events_write(w, 6, (gr_scalar[]){{"train/loss", 1}}, 1, &err));
    gr_events_close(w);
    test_allocation_sweep(draw_files, dir, 0, 1);
    snprintf(path, sizeof path, "%s/trainer_log.jsonl", dir);
    assert_ok(gr_write_file(NULL, path, "{\"loss\": 1, \"step\": 2}\n", 23, &err));
    test_allocation_sweep(draw_files, dir, 0, 1);
    graft_context *ctx;
    graft_error wrong;
    assert_ok(graft_context_new(NULL, &ctx, &err));
    const char *const missing[] = {"/nonexistent/run"};
    assert_int_equal(graft_plot_svg(ctx, (graft_texts){missing, 1}, path, &wrong), GRAFT_ERR_NOT_FOUND);
    snprintf(path, sizeof path, "%s/none", test_temp_dir());
    assert_ok(gr_make_dirs(path, &err));
    const char *const none[] = {path};
    assert_int_equal(graft_plot_svg(ctx, (graft_texts){none, 1}, path, &wrong), GRAFT_ERR_NOT_FOUND);
    graft_context_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log_is_read),
        cmocka_unit_test(drawing_is_well_formed),
        cmocka_unit_test(files_are_drawn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
