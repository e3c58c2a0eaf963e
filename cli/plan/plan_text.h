// Budgets and plans as people read them.
#pragma once
#include <string>
#include <vector>

#include "refrain/train/plan.h"

namespace refrain::cli {

// The bytes that --memory names. An Error when the machine has fewer.
size_t parse_budget(const std::string& text, const char* flag = "--memory");

std::vector<std::string> describe_plan(const Plan&);  // a table, line by line

std::string micro_batch_text(const Plan&);  // "4 sequences", "2048 tokens"

}  // namespace refrain::cli
