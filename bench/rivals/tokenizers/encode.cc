// Seconds that Refrain takes to encode a text with one thread, in documents as encode.py cuts it.
//
// usage: bench_encode TOKENIZER.json TEXT BYTES     reads "\n" and answers with the seconds and the
//                                                   number of ids, until its input ends
#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/io/file.h"
#include "refrain/text/tokenizer.h"

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  try {
    const auto tokenizer = refrain::text::Tokenizer::load(argv[1]);
    const std::string text = refrain::io::read_file(argv[2]);
    const size_t bytes = std::stoul(argv[3]);
    std::vector<std::string_view> documents;
    for (size_t at = 0; at < text.size();) {
      const size_t end = text.find('\n', at + bytes);
      const size_t size = end == text.npos ? text.size() - at : end + 1 - at;
      documents.push_back(std::string_view(text).substr(at, size));
      at += size;
    }
    for (std::string line; std::getline(std::cin, line);) {
      size_t ids = 0;
      const auto start = std::chrono::steady_clock::now();
      for (const std::string_view document : documents)
        ids += tokenizer.encode(document, true).size();
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      std::printf("%.6f %zu\n", seconds.count(), ids);
      std::fflush(stdout);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_encode: %s\n", error.what());
    return 2;
  }
}
