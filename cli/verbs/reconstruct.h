// A sequence autoencoder as verbs use it.
#pragma once
#include <string>
#include <vector>

#include "refrain/autoencoder/word_autoencoder.h"
#include "refrain/io/json.h"

namespace refrain::cli {

// The documents of files as ids of the words that have a vector; how many have none is told on
// standard error. An Error when all are hidden.
Documents visible_documents(const std::vector<std::string>& files, const Embeddings& words);
Documents visible_documents(const std::vector<Words>& documents, const Embeddings& words,
                            const std::string& name);

// eval's: loss, cosine, recovery, tokens.
io::Json reconstruction_scores(const std::string& model, const std::vector<std::string>& data);
std::string reconstruction_text(const io::Json& scores);

}  // namespace refrain::cli
