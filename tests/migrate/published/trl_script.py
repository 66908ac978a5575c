"""The keys of scripts that train with trl.experimental.orpo; never run."""

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

MODEL = "Qwen/Qwen2-0.5B-Instruct"
batch = 2
model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
tokenizer = AutoTokenizer.from_pretrained(MODEL)
dataset = load_dataset("trl-lib/ultrafeedback_binarized")

peft_config = LoraConfig(
    r=16,
    lora_alpha=32,
    lora_dropout=0.05,
    target_modules=["q_proj", "v_proj"],
    bias="none",
    task_type="CAUSAL_LM",
)
args = ORPOConfig(
    output_dir="Qwen2-0.5B-ORPO",
    beta=0.2,
    max_length=1536,
    learning_rate=5e-6,
    lr_scheduler_type="cosine",
    warmup_steps=0.05,
    per_device_train_batch_size=batch,
    gradient_accumulation_steps=16 // batch,
    num_train_epochs=2,
    weight_decay=0.01,
    seed=7,
    eval_strategy="steps",
    eval_steps=0.2,
    logging_steps=5,
)
trainer = ORPOTrainer(
    model=model,
    args=args,
    processing_class=tokenizer,
    train_dataset=dataset["train"],
    eval_dataset=dataset["test"],
    peft_config=peft_config,
)
trainer.train()
