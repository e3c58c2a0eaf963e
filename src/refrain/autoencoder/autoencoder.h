// A sequence autoencoder. A recurrent encoder reads a window of vectors. Its last state is squeezed
// into a few numbers, the bottleneck. A recurrent decoder makes the window again.
//
//   m[t] = encoder(x[0 .. t])                 rnn, lstm or gru, some layers
//   z = W_z m[last] + b_z, or its RMS norm    [B, Z]
//   y = decoder(z; m; x where it is forced)   autoencoder/decoder.h
//
// Vectors x are given (an embedding of words), or they are rows of a table that is learned with the
// model. The loss is per token (kernels/loss/reconstruction_loss.h). There is no padding: words
// that a mask hides are not in the window, so the last state is the last valid one. A decoder with
// cross attention can read the encoder's states past the bottleneck: docs/models/autoencoder.md.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "refrain/autoencoder/decoder.h"
#include "refrain/layers/recurrent.h"
#include "refrain/model/parameters/parameter_store.h"

namespace refrain {

class Autoencoder {
 public:
  // kLater: load_weights() allocates memory, after it has checked that the file contains the whole
  // model.
  enum class Memory { kTaken, kLater };

  // Weights are zero until initialised or loaded.
  explicit Autoencoder(const AutoencoderConfig&, Memory memory = Memory::kTaken);
  Autoencoder(const Autoencoder&) = delete;
  Autoencoder& operator=(const Autoencoder&) = delete;

  const AutoencoderConfig& config() const { return config_; }
  ParameterStore& parameters() { return parameters_; }
  const ParameterStore& parameters() const { return parameters_; }
  // [vocab_size, width] when it is learned.
  ConstTensor table() const { return table_.w; }

  // What a window is trained on.
  struct TrainingBatch {
    ConstTensor x;                      // [R, E]
    std::span<const uint8_t> forced{};  // per step: its input is the true vector before it
    float scale = 1;                    // of the loss
    std::span<const int32_t> tokens{};  // [R]: x's rows of the learned table, to teach it too
    int64_t longest = 0;                // Decoder::Input
  };
  // Adds the gradients of scale * (sum of the rows' losses); losses and cosines [R]. As a target x
  // is constant: the table only gets the gradient of x as an input. Of the context:
  //   dropout  on what every layer of cells reads, in the encoder and in the decoder
  //   compute_type  of the products over all rows; the decoder's loop is float32
  //   checkpoint_interval  the encoder saves its states so often and its output, and what else it
  //     had is computed again when the decoder's memory is free (the decoder's backward follows its
  //     forward at once)
  //   recompute  Recompute::kProbabilities: the decoder's probabilities, where they are kept (flash
  //   off)
  void train(const ExecutionContext&, const RaggedBatch&, const TrainingBatch&, Tensor losses,
             Tensor cosines, Arena& saved);

  // y [R, E] from x with no forced step. `map`, if given, gets for each row how much it has read of
  // the rows of its own sequence, as a mean over the heads (cross attention only).
  void reconstruct(ExecutionContext&, const RaggedBatch&, ConstTensor x, Tensor y,
                   std::vector<std::vector<float>>* map = nullptr) const;
  // Losses and cosines of rows of y.
  void score(ConstTensor y, ConstTensor x, Tensor losses, Tensor cosines) const;

  // config.json and model.safetensors of a directory.
  static bool is_model(const std::string& directory);
  static AutoencoderConfig read_config(const std::string& directory);
  static std::unique_ptr<Autoencoder> load(const std::string& directory);
  void save_config(const std::string& directory) const;
  void save_weights(const std::string& path) const { parameters_.save(path); }
  void load_weights(const std::string& directory);

 private:
  struct Encoded {
    std::vector<Recurrent::Activations> runs;
    Tensor m, last, z, r, normed;  // [R, H], [B, H], [B, Z], [B], [B, Z]
    ConstTensor code() const { return normed.rank > 0 ? normed : z; }
  };
  Encoded encode(ExecutionContext&, const RaggedBatch&, ConstTensor x, Arena* saved,
                 Arena& rows) const;
  // What the decoder reads: m, or m[t] + code(t). The gradient is the same for both.
  ConstTensor memory(ExecutionContext&, const RaggedBatch&, const Encoded&, Arena&) const;
  // What layer l of the encoder reads of the rows below it, [R, ...]: with dropout a copy in
  // scratch.
  ConstTensor layer_input(ExecutionContext&, const RaggedBatch&, ConstTensor below, size_t l) const;
  // dm is used up; dx [R, E] is overwritten.
  void encode_backward(ExecutionContext&, const RaggedBatch&, ConstTensor x, const Encoded&,
                       const Decoder::Gradients&, Tensor dx) const;
  void visit(const ParamVisitor&);

  AutoencoderConfig config_;
  std::vector<Recurrent> encoder_;
  Linear squeeze_;  // [Z, H]
  Param norm_;      // [Z]
  Decoder decoder_;
  Param table_;
  ParameterStore parameters_;
};

}  // namespace refrain
