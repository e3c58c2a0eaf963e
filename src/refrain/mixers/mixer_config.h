// The settings of one mixer: its kind and that kind's own struct.
#pragma once
#include <any>
#include <string>
#include <utility>

#include "refrain/base/error.h"

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

  // The settings; an Error if Config is not the kind's struct.
  template <class Config>
  const Config& as() const {
    if (const auto* settings = std::any_cast<Config>(&settings_)) return *settings;
    throw_error("{}: has the settings of another kind of mixer", kind_);
  }
  template <class Config>
  Config& as() {
    return const_cast<Config&>(std::as_const(*this).as<Config>());
  }

 private:
  std::string kind_;
  std::any settings_;
};

}  // namespace refrain
