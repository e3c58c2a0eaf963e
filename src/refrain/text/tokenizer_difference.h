// Whether two tokenizers mean the same by their ids, as two models that work on one text must.
#pragma once
#include <string>

#include "refrain/text/tokenizer.h"

namespace refrain::text {

// How they differ in what an id means, in words; empty if they do not.
std::string difference(const Tokenizer& expected, const Tokenizer& found);

}  // namespace refrain::text
