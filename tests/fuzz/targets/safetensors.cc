// A safetensors file, read whole.
#include "refrain/io/safetensors.h"

#include "fuzz/target.h"
#include "refrain/base/error.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) {
  const io::Safetensors file(put(input));
  for (const io::TensorInfo& info : file.tensors()) {
    expect(file.find(info.name) == &info, "a tensor is not found by its name");
    expect(file.bytes(info).size() == info.end - info.begin, "a tensor has other bytes");
    expect(info.size() == 0 || info.end > info.begin, "a tensor's elements have no bytes");
    std::vector<float> values(static_cast<size_t>(info.size()));
    try {
      file.read(info, values);
    } catch (const Error&) {  // of a type that is none of numbers
    }
  }
}

// With a header of its own.
std::string with(std::string header, size_t bytes) {
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(header.size() >> 8 * i);
  return file + header + std::string(bytes, '\x3c');
}

std::vector<std::string> seeds() {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  const std::string path = folder() / "seed";
  io::write_safetensors(path,
                        std::vector<io::TensorToWrite>{{"a", {2, 2}, values.data()},
                                                       {"b.weight", {2}, values.data()}},
                        {{"format", "pt"}});
  return {bytes_of(path), with(R"({"h":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},)"
                               R"("b":{"dtype":"BF16","shape":[1,2],"data_offsets":[4,8]},)"
                               R"("d":{"dtype":"F64","shape":[1],"data_offsets":[8,16]},)"
                               R"("i":{"dtype":"I64","shape":[],"data_offsets":[16,24]},)"
                               R"("l":{"dtype":"BOOL","shape":[3],"data_offsets":[24,27]},)"
                               R"("e":{"dtype":"U8","shape":[0,5],"data_offsets":[27,27]}})",
                               27)};
}

const Register registered({"safetensors", run, seeds});

}  // namespace
}  // namespace refrain::fuzz
