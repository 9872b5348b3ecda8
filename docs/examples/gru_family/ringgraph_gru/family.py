"""What the machine asks of the family: fields, checkpoint, serving. Everything else is as `ModelFamily` has it by default."""

from pathlib import Path

from runner import CheckpointLayout, ModelFamily, Serving, TensorSpec, Vocabulary

SIZE = {"type": ["integer", "string"], "minimum": 1}
MODEL = {
    "vocabulary": {**SIZE, "description": "number of token ids"},
    "width": {**SIZE, "description": "values of a token's row, and of a hidden state"},
    "depth": {**SIZE, "description": "number of layers"},
}
RUNNING = {
    "batch": {**SIZE, "description": "requests of a call; set by the deployment"},
    "seq": {**SIZE, "description": "tokens of a request in a call; set by the deployment"},
    "requests": {**SIZE, "description": "requests whose hidden states are kept at a time"},
}


class Layout(CheckpointLayout):
    """A checkpoint holds the state_dict of a module with `tokens` (Embedding), `rnn` (GRU) and `scores` (Linear)."""

    def expected(self, values, dtype="f32"):
        table = (values["vocabulary"], values["width"])
        shapes = {"tokens.weight": table, "scores.weight": table, "scores.bias": table[:1]}
        for layer in range(values["depth"]):
            for source in ("ih", "hh"):  # from the layer's input, and from its hidden state
                shapes[f"rnn.weight_{source}_l{layer}"] = 3 * table[1], table[1]
                shapes[f"rnn.bias_{source}_l{layer}"] = (3 * table[1],)
        return {name: TensorSpec(dtype, shape) for name, shape in shapes.items()}

    def random(self, name, spec, values, generator):
        import torch

        return torch.randn(spec.shape, generator=generator) * (1 if name.startswith("tokens") else spec.shape[-1] ** -0.5)

    def config_json(self, values, dtype, flavour, described):
        return {**described, "model_type": "gru", **{name: values[name] for name in MODEL}}


class Gru(ModelFamily):
    name = "gru"
    model_types = ("gru",)
    base_layer = Path(__file__).with_name("gru.yaml")
    layout = Layout()

    def fields(self):
        return MODEL | RUNNING

    def serving(self, config, decode=None):
        configs = {"prefill": config.with_(deploy="prefill"), "decode": config.with_(deploy=decode or "decode")}
        graphs = {"prefill": "gru_prefill", "decode": "gru_decode"}
        batch, chunk = configs["decode"]["batch"], configs["prefill"]["seq"]
        return Serving(config, graphs, configs, logits="scores", batch=batch, seq=1, prefill_tokens=chunk)

    def fitting(self, config, lengths, max_new_tokens, decode=None):
        return config.with_(sets=[f"requests={config.with_(deploy=decode or 'decode')['batch']}"])

    def vocabulary(self, config):
        return Vocabulary(config["vocabulary"], end=())
