// The settings of one mixer: its kind and that kind's own struct.
#pragma once
#include <any>
#include <string>
#include <utility>

namespace refrain {

class MixerConfig {
 public:
  MixerConfig() = default;
  // settings: what the kind is registered with, an AttentionConfig of "attention".
  template <class Config>
  MixerConfig(std::string kind, Config settings)
      : kind_(std::move(kind)), settings_(std::move(settings)) {}

  const std::string& kind() const { return kind_; }

  // The struct; Config must be the kind's.
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
