"""Transformers of the Hugging Face library, built from small configurations: random plans keep the outputs.

Root-mean-square norms, rotary tables and the scan of Mamba compute in float32 inside a float64 model, which bounds the
error of those families from below.
"""

import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

from .harness import check_family, negative_control, randomize  # noqa: E402

IDS = torch.arange(2 * 7).reshape(2, 7) * 5 % 50
IMAGES = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
UPCASTS = 1e-6
TEXT = {"vocab_size": 50, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GROUPED_QUERIES = {**TEXT, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6,
                   "num_key_value_heads": 3, "intermediate_size": 40}  # fmt: skip


class Logits(torch.nn.Module):
    """Only the logits of a model: other outputs, such as the states of an encoder, keep what they show in place."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, **inputs):
        return self.model(**inputs).logits


def bert():
    config = hf.BertConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, **TEXT)
    return hf.BertForSequenceClassification(config), {"input_ids": IDS}


def distilbert():
    config = hf.DistilBertConfig(dim=24, n_layers=2, n_heads=3, hidden_dim=40, **TEXT)
    return hf.DistilBertForSequenceClassification(config), {"input_ids": IDS}


def gpt2():
    config = hf.GPT2Config(n_embd=24, n_layer=2, n_head=3, n_positions=16, **{**TEXT, "max_position_embeddings": 16})
    return hf.GPT2LMHeadModel(config), {"input_ids": IDS}


def llama():
    return hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED_QUERIES)), {"input_ids": IDS}


def qwen2():
    return hf.Qwen2ForCausalLM(hf.Qwen2Config(**GROUPED_QUERIES)), {"input_ids": IDS}


def t5():
    config = hf.T5Config(vocab_size=50, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=3)
    return Logits(hf.T5ForConditionalGeneration(config)), {"input_ids": IDS, "decoder_input_ids": IDS}


def mamba():
    config = hf.MambaConfig(vocab_size=50, hidden_size=24, state_size=5, num_hidden_layers=2)
    return hf.MambaForCausalLM(config), {"input_ids": IDS}


def vit():
    config = hf.ViTConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
                          image_size=32, patch_size=8)  # fmt: skip
    return hf.ViTForImageClassification(config), {"pixel_values": IMAGES}


def convnext():
    config = hf.ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1], image_size=32)
    return hf.ConvNextForImageClassification(config), {"pixel_values": IMAGES}


# name: (model and inputs, groups, local ones, tolerance)
MODELS = {
    "bert": (bert, 10, 4, 1e-9),
    "distilbert": (distilbert, 10, 4, 1e-9),
    "gpt2": (gpt2, 9, 4, 1e-9),
    "llama": (llama, 9, 4, UPCASTS),
    "qwen2": (qwen2, 9, 4, UPCASTS),
    "t5": (t5, 21, 12, UPCASTS),
    "mamba": (mamba, 7, 0, UPCASTS),
    "vit": (vit, 9, 4, 1e-9),
    "convnext": (convnext, None, 0, 1e-9),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_random_plan_moves_the_parameters_and_keeps_the_outputs(name):
    make, groups, local, tolerance = MODELS[name]
    torch.manual_seed(0)
    model, inputs = make()
    report = check_family(model, inputs, tolerance=tolerance)
    if groups is not None:
        assert report.counts == (groups, local), str(report.graph)


def test_an_encoder_whose_states_are_an_output_keeps_its_residual_stream():
    torch.manual_seed(0)
    model, inputs = t5()
    report = check_family(model.model, inputs)
    assert report.counts[0] == MODELS["t5"][1] - 1


@pytest.mark.parametrize(("name", "unseen"), [("distilbert", "k_lin.bias"), ("gpt2", None), ("t5", None)])
def test_permuting_one_axis_alone_changes_the_outputs(name, unseen):
    """A bias of keys adds the same to all scores of a query, which the softmax takes away; all else is seen."""
    torch.manual_seed(0)
    model, inputs = MODELS[name][0]()
    model = model if isinstance(model, Logits) else Logits(model)
    blind = negative_control(randomize(model.double().eval()), inputs)
    assert all(unseen is not None and unseen in place for place in blind), blind


@pytest.mark.slow
def test_a_large_language_model_on_meta_takes_seconds():
    config = hf.LlamaConfig(num_hidden_layers=16, hidden_size=2048, intermediate_size=8192, num_attention_heads=32,
                            num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=True)  # fmt: skip
    with torch.device("meta"):
        model = hf.LlamaForCausalLM(config)
        ids = torch.zeros(1, 7, dtype=torch.int64)
    from rebasin_torch.tracing import trace

    assert len(trace(model, {"input_ids": ids}).groups) == 16 * 4 + 1
