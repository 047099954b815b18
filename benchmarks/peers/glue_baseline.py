"""Fine-tuning a BERT checkpoint in PyTorch with transformers: an independent run of a cell of the GLUE table.

    python -m benchmarks.peers.glue_baseline CHECKPOINT EXAMPLES.json

A request names learning rate, epochs and seed, and is answered by the predictions for the evaluation examples. Model:
transformers' BertModel, the mean of its token vectors, and the classification head of its RoFormer (dropout, dense,
GELU, dropout, output). Batches of 32 in a new order every epoch, padded to the longest; AdamW with decay 0.01 but of
biases and norms, gradients clipped to 1, linear warm-up over a tenth and linear decay.
"""

import json
import random
import sys
from pathlib import Path

import torch
from transformers import BertModel, get_linear_schedule_with_warmup

from benchmarks.peers.process import answer, versions

EXAMPLES, WARM_UP, DECAY, CLIP = 32, 0.1, 0.01, 1.0


class Classifier(torch.nn.Module):
    """Encoder, mean of the tokens, head."""

    def __init__(self, checkpoint: str, outputs: int):
        super().__init__()
        self.bert = BertModel.from_pretrained(checkpoint, add_pooling_layer=False)
        width = self.bert.config.hidden_size
        self.dropout = torch.nn.Dropout(self.bert.config.hidden_dropout_prob)
        self.dense, self.output = torch.nn.Linear(width, width), torch.nn.Linear(width, outputs)
        for layer in (self.dense, self.output):
            torch.nn.init.normal_(layer.weight, std=self.bert.config.initializer_range)
            torch.nn.init.zeros_(layer.bias)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """Outputs [examples, outputs]."""
        states = self.bert(ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.output(self.dropout(torch.nn.functional.gelu(self.dense(self.dropout(pooled)))))


def batch_of(examples: list[dict]) -> tuple[torch.Tensor, ...]:
    """Ids, mask and token types, padded to the longest."""
    length = max(len(example["ids"]) for example in examples)
    ids, mask, types = (torch.zeros(len(examples), length, dtype=torch.long) for _ in range(3))
    for row, example in enumerate(examples):
        size = len(example["ids"])
        ids[row, :size], types[row, :size] = torch.tensor(example["ids"]), torch.tensor(example["token_type_ids"])
        mask[row, :size] = 1
    return ids, mask, types


def fine_tuned(checkpoint: str, data: dict, request: dict) -> Classifier:
    """The model after training on data["train"]."""
    random.seed(request["seed"])
    torch.manual_seed(request["seed"])
    model = Classifier(checkpoint, max(data["classes"], 1))
    decayed = [p for n, p in model.named_parameters() if not n.endswith("bias") and "LayerNorm" not in n]
    others = [p for n, p in model.named_parameters() if n.endswith("bias") or "LayerNorm" in n]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=request["learning_rate"])
    updates = round(request["epochs"]) * -(-len(data["train"]) // EXAMPLES)
    schedule = get_linear_schedule_with_warmup(optimizer, round(WARM_UP * updates), updates)
    model.train()
    for _ in range(round(request["epochs"])):
        order = random.sample(data["train"], len(data["train"]))
        for start in range(0, len(order), EXAMPLES):
            examples = order[start : start + EXAMPLES]
            labels = torch.tensor([example["label"] for example in examples])
            outputs = model(*batch_of(examples))
            loss = (
                torch.nn.functional.cross_entropy(outputs, labels)
                if data["classes"]
                else torch.nn.functional.mse_loss(outputs[:, 0], labels)
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
    return model.eval()


def main() -> None:
    checkpoint, file = sys.argv[1:]
    data = json.loads(Path(file).read_text())

    @torch.no_grad()
    def predictions(model: Classifier) -> list[list[float]]:
        evaluation = data["evaluation"]
        parts = [evaluation[i : i + EXAMPLES] for i in range(0, len(evaluation), EXAMPLES)]
        return [row for part in parts for row in model(*batch_of(part)).tolist()]

    answer(lambda request: predictions(fine_tuned(checkpoint, data, request)), about=versions("transformers", "torch"))


if __name__ == "__main__":
    main()
