/* Writing models and adapters in other formats: Hugging Face directories, bitsandbytes' serialisation, GGUF. */
#ifndef GRAFT_CONVERT_H
#define GRAFT_CONVERT_H

#include "graft/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Writes a Hugging Face directory without changing a value. Weights that are held in bitsandbytes' formats (read from
 * such a directory, or loaded with load_in_4bit or load_in_8bit) are written in them. All others get one type: that
 * of the base's embeddings where it holds every value, else float32 (GGUF's block formats decode to float32). */
graft_status graft_model_save(graft_model *m, const char *dir, graft_error *err);

/* Writes a .gguf file that llama.cpp loads. `type` NULL: no value changes (float types stay, norms become F32, what
 * is bitsandbytes' decodes to F32; block formats of a GGUF file stay). Else every matrix gets this format ("Q4_0" ..
 * "Q6_K", "F16", ...), the one that makes the logits at least Q6_K; one whose rows are not whole blocks of 256 gets
 * the next better format of 32 (Q2_K, Q3_K: Q4_0; Q4_K: Q5_0; Q5_K: Q5_1; Q6_K: Q8_0), or F16 where they are not that
 * either; norms and biases become F32. */
graft_status graft_model_save_gguf(graft_model *m, const char *path, const char *type, graft_error *err);

/* Writes the base with an adapter (NULL: none, or the only one) merged in. `type` NULL: in the formats that the base is
 * held in: what the adapter changes is decoded, added to in float and encoded again, all else keeps its bytes. `path`
 * that ends in .gguf: a GGUF file; block formats stay, bitsandbytes' become F32; a type is as in graft_model_save_gguf.
 * Else a directory: bitsandbytes' formats stay, block formats become float16; a type ("f32", "bf16", "f16") decodes
 * everything. A model that was loaded with load_in_4bit or load_in_8bit is what these made of it, not what its file
 * holds. `report` (may be NULL; freed with graft_free): a JSON object with `base` (its path), `quantized_while_loading`,
 * `formats` (of few bits, in the base), `encoded` (tensors that were encoded again), `changed`, `kept`, and for each changed tensor
 * of a GGUF file or in bitsandbytes' formats, and in `total`: rmse, max, relative (rmse over the root mean square of the wanted
 * values), of_change (over that of what the adapter adds) and change_kept: the part of what the adapter adds that is in what was
 * written, by projection; 1 is all, 0 where rounding took every weight back to what the base has. */
graft_status graft_model_merge_stored(graft_model *m, const char *adapter, const char *path, const char *type,
                                      char **report, graft_error *err);

/* What rounding costs each tensor: the model's own values against those in `type` ("nf4", "fp4", "int8" or a GGUF
 * type), as a JSON object (freed with graft_free) with one entry a matrix: rmse, largest error, rmse over the root
 * mean square of the values. Nothing is written. */
graft_status graft_quantize_report(graft_model *m, const char *type, int double_quant, int blocksize, char **json,
                                   graft_error *err);

/* A LoRA adapter directory of this base as a GGUF file that llama.cpp loads, and back. GRAFT_ERR_UNSUPPORTED names
 * what such files have no place for (DoRA, embeddings, modules_to_save, biases, alpha_pattern). */
graft_status graft_adapter_to_gguf(graft_model *m, const char *dir, const char *path, graft_error *err);
graft_status graft_adapter_from_gguf(graft_model *m, const char *path, const char *dir, graft_error *err);

#ifdef __cplusplus
}
#endif
#endif
