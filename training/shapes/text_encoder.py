"""Teach the CLIP text model to read captions: each must tell the attributes of the scene that it was written for.

Stable Diffusion takes a text encoder that learnt from pictures and freezes it; ours learns to name what a caption says
before the denoiser sees a word. Trained on the denoising loss alone, words are learnt last and slowest.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.shapes.captions import random_caption
from training.shapes.loop import DEVICE, settings, train
from training.shapes.scenes import ATTRIBUTES, attributes, random_training_scene
from training.shapes.tokenizer import MAX_TOKENS, tokenize


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers, 128 wide."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class AttributeLoss(nn.Module):
    """The text model and one linear classifier for each attribute; its forward is the loss."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        width = text_encoder.config.hidden_size
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in ATTRIBUTES.items()})

    def forward(self, input_ids: Tensor, labels: dict[str, Tensor]) -> Tensor:
        """Cross-entropy summed over attributes; input_ids [N, MAX_TOKENS], each label [N].

        The classifiers read the mean over the end token and the padding behind it, each of which sees the whole
        caption. What a caption leaves unsaid is guessed evenly at the optimum.
        """
        hidden = self.text_encoder(input_ids)[0]
        after = (input_ids == self.text_encoder.config.eos_token_id)[..., None]
        summary = (hidden * after).sum(1) / after.sum(1)
        return sum(functional.cross_entropy(head(summary), labels[name]) for name, head in self.heads.items())


def train_text_encoder(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return the trained text model."""
    chosen = settings("text_encoder")

    def loss_of(module: nn.Module, choose: np.random.Generator, noise: torch.Generator) -> Tensor:
        scenes = [random_training_scene(choose) for _ in range(chosen["batch"])]
        ids = tokenize(tokenizer, [random_caption(scene, choose) for scene in scenes])
        said = [attributes(scene) for scene in scenes]
        labels = {
            name: torch.tensor([values.index(each[name]) for each in said]).to(DEVICE)
            for name, values in ATTRIBUTES.items()
        }
        return module(ids.long().to(DEVICE), labels)

    return train("text_encoder", AttributeLoss(text_encoder), loss_of, chosen).text_encoder
