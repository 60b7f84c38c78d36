/* Defaults of the training options: those of trl 1.16's SFTConfig (transformers 5.23) and peft 0.21's LoraConfig. The
 * one difference: gradient_checkpointing, on in trl, is automatic here, because it changes memory and time only. */
#include "graft/train.h"

graft_lora_options graft_lora_options_default(void) { return (graft_lora_options){.r = 8, .lora_alpha = 8}; }

graft_sft_options graft_sft_options_default(void) {
    return (graft_sft_options){
        .method = "lora",
        .lora = graft_lora_options_default(),
        .methods.orth_reg_weight = 0.5,
        .max_length = 1024,
        .max_target_length = -1,
        .num_train_epochs = 3,
        .max_steps = -1,
        .per_device_train_batch_size = 8,
        .per_device_eval_batch_size = 8,
        .gradient_accumulation_steps = 1,
        .optim = "adamw_torch",
        .learning_rate = 2e-5,
        .adam_beta1 = 0.9,
        .adam_beta2 = 0.999,
        .adam_epsilon = 1e-8,
        .max_grad_norm = 1,
        .lr_scheduler_type = "linear",
        .logging_strategy = GRAFT_STRATEGY_STEPS,
        .logging_steps = 10,
        .eval_strategy = GRAFT_STRATEGY_NO,
        .save_strategy = GRAFT_STRATEGY_STEPS,
        .save_steps = 500,
        .seed = 42,
    };
}
