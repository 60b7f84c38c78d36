/* safetensors: reading (one file or a sharded directory, mapped) and writing.
 *
 * The format, as the safetensors library 0.8 checks it: 8 bytes little-endian header size N (N <= 100,000,000), N bytes
 * of JSON starting with '{' and possibly padded with spaces, then the data. Each key but "__metadata__" (strings to
 * strings) is a tensor {"dtype", "shape", "data_offsets": [begin, end)} with offsets into the data; tensors cover the
 * data without holes or overlaps, and each one's size is its shape times its dtype. A file with a dtype that graft
 * does not know (8-bit floats, complex) is refused by name. */
#ifndef GR_IO_SAFETENSORS_H
#define GR_IO_SAFETENSORS_H

#include "io/tensor_list.h"

typedef struct gr_safetensors gr_safetensors;

/* `path`: a .safetensors file, an index file (NAME.safetensors.index.json), or a directory that holds (tried in this
 * order, as transformers does) model.safetensors, model.safetensors.index.json or adapter_model.safetensors. The
 * mappings live until close. With an index every name of its weight_map must be in the shard that it names. */
graft_status gr_safetensors_open(const graft_allocator *a, const char *path, gr_safetensors **out, graft_error *err);
void gr_safetensors_close(gr_safetensors *f);
const gr_tensor_list *gr_safetensors_tensors(const gr_safetensors *f);
/* __metadata__ of the (first) file; NULL when the key is absent. */
const char *gr_safetensors_metadata(const gr_safetensors *f, const char *key);
/* All pairs, in the file's order: key i and its value; n is their number. */
size_t gr_safetensors_n_metadata(const gr_safetensors *f);
void gr_safetensors_metadata_at(const gr_safetensors *f, size_t i, const char **key, const char **value);

/* Reads a whole file image in memory (fuzzing, tests); `name` stands in errors. `data` must outlive the result. */
graft_status gr_safetensors_parse(const graft_allocator *a, const char *name, const void *data, size_t size,
                                  gr_safetensors **out, graft_error *err);

/* Writing. Declare every tensor, then begin, then write each tensor's bytes in the order that
 * gr_safetensors_writer_begin gives. Within a file that is the library's own order (widest dtype first, then by name),
 * so that the same tensors give the same bytes as safetensors.serialize_file. Files appear only on commit. */
typedef struct gr_safetensors_writer gr_safetensors_writer;

typedef struct gr_safetensors_options {
    const char *stem;            /* file name without ".safetensors"; NULL: "model" */
    bool exact;                  /* `stem` is the whole name of the one file, and no index of that name is removed */
    uint64_t max_shard_bytes;    /* 0: one file. Else shards "STEM-00001-of-00003.safetensors" and an index file */
    const char *const *metadata; /* key, value, key, value, ..., NULL; NULL: {"format": "pt"} */
} gr_safetensors_options;

graft_status gr_safetensors_writer_new(const graft_allocator *a, const char *dir, const gr_safetensors_options *options,
                                       gr_safetensors_writer **out, graft_error *err);
graft_status gr_safetensors_declare(gr_safetensors_writer *w, const char *name, gr_dtype dtype, const gr_shape *shape,
                                    graft_error *err);
/* Fixes the order and opens the first file. `order[i]` is the index (in order of declaration) of the i-th tensor to
 * write; it belongs to the writer. */
graft_status gr_safetensors_writer_begin(gr_safetensors_writer *w, const size_t **order, graft_error *err);
/* Appends n bytes of the current tensor; moves on when it is complete. Crossing its end is GRAFT_ERR_ARGUMENT. */
graft_status gr_safetensors_write(gr_safetensors_writer *w, const void *bytes, size_t n, graft_error *err);
/* Checks that everything was written, makes the last file and the index appear, and removes what would contradict them:
 * an older index beside a single file, an older single file beside an index. Frees w either way. */
graft_status gr_safetensors_writer_commit(gr_safetensors_writer *w, graft_error *err);
void gr_safetensors_writer_abort(gr_safetensors_writer *w); /* NULL allowed */

/* All of it for tensors in memory, into the single file `path`. */
graft_status gr_safetensors_save(const graft_allocator *a, const char *path, const gr_named_tensor *tensors, size_t n,
                                 const char *const *metadata, graft_error *err);

#endif
