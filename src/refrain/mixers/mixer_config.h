// The settings of one mixer: its kind and that kind's own struct.
#pragma once
#include <any>
#include <string>
#include <utility>

namespace refrain {

class MixerConfig {
 public:
  MixerConfig() = default;
  // settings: the struct that the kind is registered with, for example an AttentionConfig for
  // "attention".
  template <class Config>
  MixerConfig(std::string kind, Config settings)
      : kind_(std::move(kind)), settings_(std::move(settings)) {}

  const std::string& kind() const { return kind_; }

  // The settings; Config must be the kind's struct.
  template <class Config>
  const Config& as() const {
    return std::any_cast<const Config&>(settings_);
  }
  template <class Config>
  Config& as() {
    return std::any_cast<Config&>(settings_);
  }

 private:
  std::string kind_;
  std::any settings_;
};

}  // namespace refrain
