/* Curves of runs: read from logs and event files, drawn as SVG. */
#ifndef GR_TRAIN_PLOT_H
#define GR_TRAIN_PLOT_H

#include "base/base.h"

typedef enum gr_curve_kind { GR_CURVE_LOSS, GR_CURVE_EVAL_LOSS, GR_CURVE_LEARNING_RATE, GR_CURVE_COUNT } gr_curve_kind;

typedef struct gr_point {
    double step, value; /* below 1e15 and 1e30 */
} gr_point;

typedef struct gr_curve {
    gr_point *points; /* in order of step, one a step: what was written last */
    size_t n, cap;
} gr_curve;

typedef struct gr_curves {
    const graft_allocator *a;
    char *name; /* of the run, for the legend */
    gr_curve curve[GR_CURVE_COUNT];
} gr_curves;

void gr_curves_init(gr_curves *c, const graft_allocator *a);
void gr_curves_free(gr_curves *c);
graft_status gr_curves_add(gr_curves *c, gr_curve_kind kind, double step, double value, graft_error *err);
/* An output_dir, a trainer_log.jsonl, an event file or a folder of event files; sets the name. No curve in it at all is
 * GRAFT_ERR_NOT_FOUND. */
graft_status gr_curves_read(gr_curves *c, const char *path, graft_error *err);
/* The text of a trainer_log.jsonl; `name` stands in errors. A last line without newline may be cut. */
graft_status gr_curves_read_log(gr_curves *c, const char *name, const char *text, size_t len, graft_error *err);
graft_status gr_curves_read_events(gr_curves *c, const char *name, const void *data, size_t size, graft_error *err);

graft_status gr_plot_draw(const gr_curves *runs, size_t n, gr_buf *svg, graft_error *err);

#endif
