/* Room 8, data: from files of records to batches. source.h reads bytes (plain, gzip, standard input), reader.h cuts
 * them into records, record.h understands their formats, chat.h renders conversations and finds what the assistant
 * says in them, encode.h makes tokens and labels, dataset.c keeps them all, loader.h orders and packs them into batches
 * for the engine. The public side is graft/data.h. */
#ifndef GR_DATA_H
#define GR_DATA_H

#include "base/base.h"
#include "base/json.h"
#include "graft/data.h"

/* Bytes of somebody else; data NULL: absent. */
typedef struct gr_slice {
    const char *data;
    size_t len;
} gr_slice;

#endif
