#!/usr/bin/env python3
"""Some steps of fine-tuning in PyTorch, with adapters by PEFT or whole. Prints a line of JSON: the
losses of the steps, tokens per second without the first, parameters that learn.

usage: step.py MODEL SEQUENCES.jsonl --mode lora|full --dtype bf16|f32 --steps N --rank R
         --learning-rate X --threads T
"""
import argparse
import json
import statistics
import time

import torch
from transformers import AutoModelForCausalLM


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("sequences")
    parser.add_argument("--mode", choices=["lora", "full"], required=True)
    parser.add_argument("--dtype", choices=["bf16", "f32"], required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(1)
    with open(arguments.sequences, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    ids = torch.tensor([row["input"] for row in rows])
    targets = torch.tensor([row["target"] for row in rows])
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    if arguments.mode == "lora":
        from peft import LoraConfig, get_peft_model
        model = get_peft_model(model, LoraConfig(
            task_type="CAUSAL_LM", r=arguments.rank, lora_alpha=16, lora_dropout=0,
            target_modules="all-linear"))
    model.train()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=arguments.learning_rate, betas=(0.9, 0.95), eps=1e-8,
                                  weight_decay=0, fused=True)
    losses, seconds = [], []
    for _ in range(arguments.steps):
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.dtype == "bf16"):
            logits = model(input_ids=ids).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begin)
    print(json.dumps({"losses": losses, "parameters": sum(p.numel() for p in learned),
                      "tokens_per_second": ids.numel() / statistics.median(seconds[1:])}))


if __name__ == "__main__":
    main()
