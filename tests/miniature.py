"""The miniature corpora, models and rerankers of the tests, and a corpus out of templates as large as wanted."""

from __future__ import annotations

import json
import random
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from utils.data.rows import read_examples

CORPUS = Path(__file__).parent / "fixtures" / "corpus.jsonl"
TOWNS = ["Arden", "Belmont", "Corwen", "Dunmore", "Elgin", "Falmouth", "Girvan", "Harlech"]
WORDS = [
    "salt", "slate", "lake", "harbour", "lens", "fair", "ice", "river", "bridge", "abbey", "poem", "kite", "canal",
    "comet", "herring", "wool", "storm", "tide",
]  # fmt: skip
FACTS = ["was founded by miners", "lies on a river", "holds a market each week"]


def save_tiny_bert(folder: Path, head: bool, seed: int = 0) -> Path:
    """Save a BERT with two layers of 32, random weights, a one-label head if asked for, and its tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

    texts = [*TOWNS, *FACTS, CORPUS.read_text(encoding="utf-8")]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'-"
    words = sorted({word for text in texts for word in re.findall(r"[a-z]+", text.lower())})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *words]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        num_labels=1,
        initializer_range=0.02 if head else 0.5,  # small weights would give all texts nearly the same vector
    )
    model = BertForSequenceClassification(config) if head else BertModel(config)
    model.save_pretrained(folder)
    BertTokenizer(vocab=vocab, model_max_length=512).save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path, special: list[str], pair: str, **config: Any) -> int:
    """Save a tokenizer of whole words that joins a pair as ``pair`` says; return the size of its vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokens = list(dict.fromkeys([*special, *WORDS]))
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(special)
    single, _, _ = pair.partition(" $B")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, number) for number, token in enumerate(special)]
    )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(tokens)


def t5(folder: Path) -> None:
    from transformers import T5Config, T5ForSequenceClassification

    size = save_tokenizer(
        folder, ["<pad>", "</s>", "<unk>"], "$A </s> $B </s>", pad_token="<pad>", eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    config = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
    T5ForSequenceClassification(T5Config(vocab_size=size, num_labels=1, **config)).save_pretrained(folder)


def write_beir(folder: Path) -> Path:
    """Write a BEIR folder: of each town's facts, the first has grade 2, the second 1, the third none."""
    (folder / "qrels").mkdir(parents=True)
    facts = [(f"{town}-{i}", f"{town} {fact}.", i) for town in TOWNS for i, fact in enumerate(FACTS)]
    corpus = [{"_id": key, "title": "", "text": text} for key, text, _ in facts]
    queries = [{"_id": f"q-{town}", "text": f"what of {town} and its founders?"} for town in TOWNS]
    (folder / "corpus.jsonl").write_bytes(lines(*corpus))
    (folder / "queries.jsonl").write_bytes(lines(*queries))
    judged = [f"q-{key.partition('-')[0]}\t{key}\t{2 - i}\n" for key, _, i in facts if i < 2]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    return folder


def write_run(path: Path, depth: int = 10, seed: int = 0) -> Path:
    """Write a TREC run of that folder: for each query, documents drawn at random."""
    rng, names = random.Random(seed), [f"{town}-{i}" for town in TOWNS for i in range(len(FACTS))]
    with path.open("w") as out:
        for town in TOWNS:
            for rank, name in enumerate(rng.sample(names, depth), 1):
                out.write(f"q-{town} Q0 {name} {rank} {1 / rank:.3f} drawn\n")
    return path


def row(name: str, **more: Any) -> dict[str, Any]:
    """Return one row of a data file."""
    return {"query": name, "pos": [f"{name} is so"], "neg": [f"{name} is not"]} | more


def lines(*rows: dict[str, Any]) -> bytes:
    """Return rows as a file of JSON Lines."""
    return b"".join(json.dumps(one).encode() + b"\n" for one in rows)


def queries(path: Path, told: list[str]) -> list[str]:
    """Read a data file; return its queries."""
    return [example.query for example in read_examples([path], warn=told.append)]


class LengthReranker:
    """Scores by a rule that a reader can check: how often the query's words stand in the passage, less its length."""

    def __init__(self, sign: int) -> None:
        self.sign = sign

    def score(self, pairs: list[tuple[str, str]], desc: str | None = None) -> np.ndarray:
        """One score a pair."""
        return np.array([self.sign * (sum(p.count(w) for w in q.split()) - len(p) / 1000) for q, p in pairs])


HUBS = 8  # documents that all others mention; the fewer, the more candidates are usable

KINDS = ["market town", "river port", "mountain pass", "weaving guild", "stone bridge", "coastal fort"]
THINGS = ["wool", "amber", "slate", "cider", "copper", "barley", "timber", "salt"]
DEEDS = [
    "its merchants carried {a} and {b} every spring until the old toll road was closed by heavy floods",
    "a council of masons, millers and boatmen still settles quarrels over {a}, {b} and the rights to fish",
    "the first printed almanac of the valley lists prices for {a} and {b} beside tides, weddings and eclipses",
    "travellers praised the quiet inns, where bread, {a} and songs about {b} cost less than anywhere northward",
    "an earthquake broke the great warehouse of {a}, and the ruins were rebuilt with profits made from {b}",
]


def write_corpus(path: Path, count: int, seed: int = 0) -> Path:
    """Write ``count`` documents of three sentences, the later two of which each mention another document twice."""
    rng = random.Random(seed)
    syllables = ["".join(letters) for letters in product("bdfgklmnprstv", "aeiou", "lnrsm")]
    names = [f"{a}{b}".capitalize() for a, b in rng.sample(list(product(syllables, syllables)), count)]
    with path.open("w", encoding="utf-8") as out:
        for number, name in enumerate(names):
            first, second = rng.sample([hub for hub in names[:HUBS] if hub != name], 2)
            sentences = [
                f"{name} is a {rng.choice(KINDS)} that grew rich on {rng.choice(THINGS)}, and {_deed(rng)}.",
                f"In those years the road from {name} to {first} was rebuilt by {first}, and {_deed(rng)}.",
                f"Old letters of {second} tell how families of {name} and {second} quarrelled, and {_deed(rng)}.",
            ]
            row = {"id": str(number), "title": name, "contents": " ".join(sentences)}
            out.write(json.dumps(row) + "\n")
    return path


def _deed(rng: random.Random) -> str:
    a, b = rng.sample(THINGS, 2)
    return rng.choice(DEEDS).format(a=a, b=b)
