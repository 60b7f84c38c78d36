/* Small runs of fine-tuning on tests/golden/train/model, for the tests of room train. */
#ifndef TEST_SFT_RUN_H
#define TEST_SFT_RUN_H

#include "graft/train.h"
#include "support/support.h"

/* Paths in static memory, a few calls deep. */
const char *test_path(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Defaults on the tiny model in f32 and one of its data files ("pairs.jsonl"), into a folder of that name under the
 * temporary one. */
typedef struct sft_case {
    graft_sft_options o;
    const char *data[1], *eval[1];
    char output[1024], path[1024]; /* path: of the records; a copy of the case points into the original */
} sft_case;
void sft_case_init(sft_case *c, const char *data, const char *output);

/* One call of graft_sft in a context of its own. */
graft_status sft_run(const sft_case *c, int threads, graft_train_result *result, graft_error *err);
/* Fails the test when the files of the two output folders that decide the result differ: final weights, and the log
 * without its times. */
void sft_assert_same(const char *a, const char *b);
/* Bytes of a file, freed with gr_free. */
char *sft_read(const char *path, size_t *len);

#endif
