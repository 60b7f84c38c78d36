/* A chart of runs: losses above, learning rate below, steps along the bottom. Training loss is a solid line,
 * evaluation loss a dashed one with marks. One run has one colour a curve, several runs one colour a run (Okabe and
 * Ito's palette, which colour-blind readers can tell apart). A long noisy loss is drawn pale with its moving mean on
 * top. */
#include <math.h>
#include <stdio.h>

#include "graft/train.h"
#include "train/plot.h"

enum { WIDTH = 960, LEFT = 74, RIGHT = 24, GAP = 44, LOSS_HEIGHT = 330, RATE_HEIGHT = 130, LEGEND_ROW = 20 };
enum { MAX_DRAWN = 1200, SMOOTH_FROM = 80, MAX_TICKS = 30 };

static const char *const palette[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#4d4d4d"};
static const char *const labels[GR_CURVE_COUNT] = {"loss", "eval_loss", "learning_rate"};

typedef struct panel {
    double top, height;
    double x0, x1, y0, y1; /* ranges of steps and values */
} panel;

static double px(const panel *p, double step) {
    return LEFT + (step - p->x0) / (p->x1 - p->x0) * (WIDTH - LEFT - RIGHT);
}
static double py(const panel *p, double value) {
    return p->top + p->height - (value - p->y0) / (p->y1 - p->y0) * p->height;
}

static void add_escaped(gr_buf *b, const char *text) {
    size_t n = strlen(text);
    for (size_t at = 0; at < n;) {
        int32_t cp;
        size_t len = gr_utf8_decode(text + at, n - at, &cp);
        if (cp < 0x20)
            gr_buf_add_char(b, '?');
        else if (cp == '<' || cp == '>' || cp == '&' || cp == '"')
            gr_buf_add_format(b, "&#%d;", (int)cp);
        else
            gr_buf_add(b, text + at, len);
        at += len;
    }
}

/* 1, 2 or 5 times a power of ten, so that about `want` of them fit the range. */
static double tick_size(double range, double want) {
    double raw = range / want, unit = pow(10, floor(log10(raw)));
    double m = raw / unit;
    return (m < 1.5 ? 1 : m < 3.5 ? 2 : m < 7.5 ? 5 : 10) * unit;
}

static void widen(double *low, double *high, double share) {
    double range = *high - *low;
    if (!(range > 0)) range = fabs(*high) > 0 ? fabs(*high) : 1;
    *low -= share * range;
    *high += share * range;
}

/* Range of the points of `kinds` (bits) over all runs; false when there is none. */
static bool find_range(const gr_curves *runs, size_t n, unsigned kinds, panel *p) {
    bool any = false;
    for (size_t r = 0; r < n; r++)
        for (int k = 0; k < GR_CURVE_COUNT; k++) {
            const gr_curve *c = &runs[r].curve[k];
            for (size_t i = 0; kinds >> k & 1 && i < c->n; i++) {
                double x = c->points[i].step, y = c->points[i].value;
                p->x0 = any ? GR_MIN(p->x0, x) : x;
                p->x1 = any ? GR_MAX(p->x1, x) : x;
                p->y0 = any ? GR_MIN(p->y0, y) : y;
                p->y1 = any ? GR_MAX(p->y1, y) : y;
                any = true;
            }
        }
    return any;
}

static void add_grid(gr_buf *b, const panel *p, bool with_steps, const char *title) {
    int right = WIDTH - RIGHT;
    double bottom = p->top + p->height;
    double ty = tick_size(p->y1 - p->y0, GR_MAX(4.0, p->height / 55)), tx = GR_MAX(1.0, tick_size(p->x1 - p->x0, 9));
    double v = ceil(p->y0 / ty);
    for (int i = 0; i < MAX_TICKS && v * ty <= p->y1; i++, v++) {
        double at = py(p, v * ty), value = fabs(v * ty) < ty / 2 ? 0 : v * ty;
        gr_buf_add_format(b, "<line class=\"grid\" x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\"/>\n", LEFT, at, right, at);
        gr_buf_add_format(b, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.6g</text>\n", LEFT - 8, at + 4, value);
    }
    v = ceil(p->x0 / tx);
    for (int i = 0; i < MAX_TICKS && v * tx <= p->x1; i++, v++) {
        double at = px(p, v * tx);
        gr_buf_add_format(b, "<line class=\"axis\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", at, bottom, at,
                          bottom + 5);
        if (with_steps)
            gr_buf_add_format(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%.10g</text>\n", at, bottom + 19,
                              fabs(v * tx) < tx / 2 ? 0.0 : v * tx);
    }
    gr_buf_add_format(b, "<path class=\"axis\" d=\"M%d %.1fV%.1fH%d\"/>\n", LEFT, p->top, bottom, right);
    gr_buf_add_format(b, "<text class=\"title\" x=\"%d\" y=\"%.1f\">%s</text>\n", LEFT, p->top - 10, title);
    if (with_steps)
        gr_buf_add_format(b, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">step</text>\n", right, bottom + 36);
}

/* Draws means over groups where there are more points than can be seen. half > 0: each point is the mean of the `half`
 * points before and after it. */
static void add_line(gr_buf *b, const panel *p, const gr_curve *c, const char *style, size_t half) {
    size_t group = c->n / MAX_DRAWN + 1, from = 0, to = 0;
    double sum = 0;
    gr_buf_add_format(b, "<path class=\"line\" %s d=\"", style);
    for (size_t i = 0; i < c->n; i += group) {
        size_t end = GR_MIN(i + group, c->n);
        double x = 0, y = 0;
        for (size_t k = i; k < end; k++) {
            while (to < GR_MIN(k + half + 1, c->n)) sum += c->points[to++].value;
            while (from + half < k) sum -= c->points[from++].value;
            x += c->points[k].step / (double)(end - i);
            y += sum / (double)(to - from) / (double)(end - i);
        }
        gr_buf_add_format(b, "%c%.1f %.1f", i ? 'L' : 'M', px(p, x), py(p, y));
    }
    gr_buf_add_text(b, "\"/>\n");
}

static void add_marks(gr_buf *b, const panel *p, const gr_curve *c, const char *color) {
    size_t every = c->n / 60 + 1;
    for (size_t i = 0; i < c->n; i += every)
        gr_buf_add_format(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", px(p, c->points[i].step),
                          py(p, c->points[i].value), color);
}

static const char *color_of(size_t n_runs, size_t run, gr_curve_kind kind) {
    return palette[(n_runs == 1 ? (size_t)kind : run) % GR_COUNT(palette)];
}

static void add_curve(gr_buf *b, const panel *p, const gr_curves *run, gr_curve_kind kind, const char *color) {
    const gr_curve *c = &run->curve[kind];
    char style[128];
    if (c->n == 0) return;
    bool dashed = kind == GR_CURVE_EVAL_LOSS, noisy = kind == GR_CURVE_LOSS && c->n >= SMOOTH_FROM;
    snprintf(style, sizeof style, "stroke=\"%s\"%s%s", color, dashed ? " stroke-dasharray=\"6 4\"" : "",
             noisy ? " stroke-opacity=\"0.3\"" : "");
    if (c->n > 1) add_line(b, p, c, style, 0);
    if (noisy) {
        snprintf(style, sizeof style, "stroke=\"%s\"", color);
        add_line(b, p, c, style, c->n / 30);
    }
    if (dashed || c->n == 1) add_marks(b, p, c, color);
}

/* One entry a drawn loss curve, from left to right and then down; returns the height used. */
static double add_legend(gr_buf *b, const gr_curves *runs, size_t n) {
    double x = LEFT, y = 24;
    for (size_t r = 0; r < n; r++)
        for (int k = 0; k < GR_CURVE_COUNT; k++) {
            if (runs[r].curve[k].n == 0 || (k == GR_CURVE_LEARNING_RATE && n > 1)) continue;
            size_t chars = strlen(labels[k]) + (n > 1 ? strlen(runs[r].name) + 1 : 0);
            double width = 44 + 7.2 * (double)chars;
            if (x > LEFT && x + width > WIDTH - RIGHT) {
                x = LEFT;
                y += LEGEND_ROW;
            }
            gr_buf_add_format(b, "<path class=\"line\" stroke=\"%s\"%s d=\"M%.1f %.1fh26\"/>\n",
                              color_of(n, r, (gr_curve_kind)k),
                              k == GR_CURVE_EVAL_LOSS ? " stroke-dasharray=\"6 4\"" : "", x, y - 4);
            gr_buf_add_format(b, "<text x=\"%.1f\" y=\"%.1f\">", x + 32, y);
            if (n > 1) {
                add_escaped(b, runs[r].name);
                gr_buf_add_char(b, ' ');
            }
            gr_buf_add_format(b, "%s</text>\n", labels[k]);
            x += width + 10;
        }
    return y;
}

graft_status gr_plot_draw(const gr_curves *runs, size_t n, gr_buf *svg, graft_error *err) {
    gr_buf body;
    gr_buf_init(&body, svg->a);
    panel loss = {0}, rate = {0};
    bool has_loss = find_range(runs, n, 1u << GR_CURVE_LOSS | 1u << GR_CURVE_EVAL_LOSS, &loss);
    bool has_rate = find_range(runs, n, 1u << GR_CURVE_LEARNING_RATE, &rate);
    double y = add_legend(&body, runs, n) + GAP;
    panel *const panels[] = {&loss, &rate};
    const bool has[] = {has_loss, has_rate};
    double x0 = has_loss ? loss.x0 : rate.x0, x1 = has_loss ? loss.x1 : rate.x1;
    if (has_loss && has_rate) x0 = GR_MIN(x0, rate.x0), x1 = GR_MAX(x1, rate.x1);
    if (!(x1 > x0)) widen(&x0, &x1, 0.5);
    for (int i = 0; i < 2; i++) {
        panel *p = panels[i];
        if (!has[i]) continue;
        p->x0 = x0, p->x1 = x1;
        widen(&p->y0, &p->y1, 0.05);
        p->top = y;
        p->height = i == 0 ? LOSS_HEIGHT : RATE_HEIGHT;
        add_grid(&body, p, i == 1 || !has_rate, i == 0 ? "loss" : "learning rate");
        for (size_t r = 0; r < n; r++)
            for (int k = 0; k < GR_CURVE_COUNT; k++)
                if ((k == GR_CURVE_LEARNING_RATE) == (i == 1))
                    add_curve(&body, p, &runs[r], (gr_curve_kind)k, color_of(n, r, (gr_curve_kind)k));
        y += p->height + GAP;
    }
    gr_buf_add_format(svg,
                      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%.0f\" viewBox=\"0 0 %d %.0f\" "
                      "font-family=\"sans-serif\" font-size=\"13\" fill=\"#333\">\n"
                      "<style>.grid{stroke:#ddd}.axis{stroke:#777;fill:none}.line{fill:none;stroke-width:1.8;"
                      "stroke-linejoin:round}.title{font-weight:bold}</style>\n<rect width=\"100%%\" height=\"100%%\" "
                      "fill=\"#fff\"/>\n",
                      WIDTH, y, WIDTH, y);
    gr_buf_add_text(svg, gr_buf_text(&body));
    gr_buf_add_text(svg, "</svg>\n");
    graft_status st = gr_buf_status(&body, err);
    gr_buf_free(&body);
    return st != GRAFT_OK ? st : gr_buf_status(svg, err);
}

graft_status graft_plot_svg(graft_context *ctx, graft_texts dirs, const char *out_path, graft_error *err) {
    const graft_allocator *a = gr_allocator(ctx);
    if (dirs.n == 0) return gr_fail(err, GRAFT_ERR_ARGUMENT, "plot: expected at least one run, found none");
    gr_curves *runs = gr_calloc(a, dirs.n, sizeof *runs);
    if (!runs) return gr_fail_memory(err);
    gr_buf svg;
    gr_buf_init(&svg, a);
    graft_status st = GRAFT_OK;
    for (size_t i = 0; i < dirs.n; i++) gr_curves_init(&runs[i], a);
    for (size_t i = 0; i < dirs.n && st == GRAFT_OK; i++) st = gr_curves_read(&runs[i], dirs.items[i], err);
    if (st == GRAFT_OK) st = gr_plot_draw(runs, dirs.n, &svg, err);
    if (st == GRAFT_OK) st = gr_write_file(a, out_path, svg.data, svg.len, err);
    gr_buf_free(&svg);
    for (size_t i = 0; i < dirs.n; i++) gr_curves_free(&runs[i]);
    gr_free(a, runs);
    return st;
}
