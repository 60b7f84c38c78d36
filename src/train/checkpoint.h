/* Checkpoints: output_dir/checkpoint-N holds everything to go on from step N bit for bit.
 *
 *   adapter_config.json, adapter_model.safetensors   method lora, as peft reads them (method full: a whole model)
 *   optimizer.safetensors                            the optimiser's state, "exp_avg.NAME", "exp_avg_sq.NAME"; of 8-bit
 *                                                    ones, as bitsandbytes has them, "state1.NAME", "absmax1.NAME" ...
 *   trainer_state.json                               see state.h
 *   training_args.json                               the options, for people
 *
 * A checkpoint is written into checkpoint-N.tmp, flushed to the disk and renamed, so that at any instant a directory
 * with its name is whole. What a killed run leaves behind under other names is removed when the next one starts. */
#ifndef GR_TRAIN_CHECKPOINT_H
#define GR_TRAIN_CHECKPOINT_H

#include "train/trainer.h"

/* Makes and locks output_dir, cleans it, and finds the checkpoint to resume, whose state it reads. */
graft_status gr_output_open(gr_trainer *t, graft_error *err);
/* Values of the parameters and the optimiser's state from t->resumed_from. */
graft_status gr_checkpoint_restore(gr_trainer *t, graft_error *err);
/* Values of the parameters alone, from a checkpoint of this output_dir. */
graft_status gr_checkpoint_load_step(gr_trainer *t, int64_t step, graft_error *err);
bool gr_checkpoint_exists(const gr_trainer *t, int64_t step);
/* Saves at state.global_step, then removes what save_total_limit allows to be removed. */
graft_status gr_checkpoint_save(gr_trainer *t, graft_error *err);

/* options_json.c: all options as a JSON object, for training_args.json. */
void gr_options_json(const graft_sft_options *o, gr_buf *out);

#endif
