/* All of graft's public interface. */
#ifndef GRAFT_H
#define GRAFT_H

#include "graft/adapter.h"
#include "graft/calibrate.h"
#include "graft/context.h"
#include "graft/data.h"
#include "graft/device.h"
#include "graft/encode.h"
#include "graft/eval.h"
#include "graft/generate.h"
#include "graft/hub.h"
#include "graft/lora.h"
#include "graft/metrics.h"
#include "graft/model.h"
#include "graft/status.h"
#include "graft/template.h"
#include "graft/tokenizer.h"
#include "graft/train.h"

#endif
