/* trainer_log.jsonl to a chart: any text is read or refused, and what was read can be drawn. */
#include "train/plot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    gr_curves c;
    gr_buf svg;
    graft_error err;
    gr_curves_init(&c, NULL);
    gr_buf_init(&svg, NULL);
    (void)gr_curves_read_log(&c, "fuzz", (const char *)data, size, &err);
    c.name = gr_strdup(NULL, "run");
    if (c.name) (void)gr_plot_draw(&c, 1, &svg, &err);
    gr_buf_free(&svg);
    gr_curves_free(&c);
    return 0;
}
