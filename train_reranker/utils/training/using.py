"""How to use a trained folder elsewhere: the one source of the model card's examples and of docs/using.md."""

from utils.models.lengths import Lengths

# By library; MODEL, PAIR and QUERY stand for the folder and its lengths.
EXAMPLES = {
    "FlagEmbedding": '''
from FlagEmbedding import FlagReranker

# It reads no length from the folder.
reranker = FlagReranker("MODEL", max_length=PAIR, query_max_length=QUERY)
scores = reranker.compute_score([("query", "passage")])
''',
    "sentence-transformers": '''
from sentence_transformers import CrossEncoder

model = CrossEncoder("MODEL")
ranking = model.rank("query", ["a passage", "another passage"])  # corpus_id and score, best first
''',
    "transformers": '''
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("MODEL")
model = AutoModelForSequenceClassification.from_pretrained("MODEL").eval()
inputs = tokenizer(["query"], ["passage"], truncation="only_second", padding=True, return_tensors="pt")
with torch.inference_mode():
    scores = model(**inputs).logits.flatten()
''',
    "LangChain": '''
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_community.cross_encoders import HuggingFaceCrossEncoder
from langchain_core.documents import Document

compressor = CrossEncoderReranker(model=HuggingFaceCrossEncoder(model_name="MODEL"), top_n=5)
documents = [Document("a passage"), Document("another passage")]
best = compressor.compress_documents(documents, "query")
# In a chain: ContextualCompressionRetriever(base_compressor=compressor, base_retriever=...)
''',
    "LlamaIndex": '''
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.sbert_rerank import SentenceTransformerRerank

reranker = SentenceTransformerRerank(model="MODEL", top_n=5)
nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("a passage", "another passage")]
best = reranker.postprocess_nodes(nodes, query_str="query")
# In an engine: index.as_query_engine(similarity_top_k=50, node_postprocessors=[reranker])
''',
    "Haystack": '''
from haystack import Document
from haystack_integrations.components.rankers.sentence_transformers import SentenceTransformersSimilarityRanker

ranker = SentenceTransformersSimilarityRanker(model="MODEL", top_k=5)
documents = [Document(content="a passage"), Document(content="another passage")]
best = ranker.run(query="query", documents=documents)["documents"]
''',
}  # fmt: skip


def examples(model: str, lengths: Lengths) -> dict[str, str]:
    """Return runnable Python by library for a folder and the lengths that it was trained at."""
    values = {"MODEL": model, "PAIR": str(lengths.pair), "QUERY": str(lengths.query)}
    filled = dict(EXAMPLES)
    for name, value in values.items():
        filled = {library: code.replace(name, value) for library, code in filled.items()}
    return {library: code.strip() for library, code in filled.items()}


def using(model: str, lengths: Lengths, heading: str = "###") -> str:
    """Return the examples as Markdown, each under the name of its library."""
    parts = [f"{heading} {library}\n\n```python\n{code}\n```" for library, code in examples(model, lengths).items()]
    return "\n\n".join(parts)
