"""Compare what serves a trained reranker with its folder: scores, order and metrics on the same pools.

    python -m tools.verify_served --model_path ./output --url http://localhost:8080/rerank
    python -m tools.verify_served --model_path ./output --folder ./output_onnx --test_data ./scifact --run ./bm25.trec

The address is of TEI, vLLM, infinity or whatever else has their /rerank; RERANK_API_KEY is sent if it is set. A folder
may hold an ONNX or OpenVINO graph, or a model for transformers.
"""

import argparse
import json
from typing import Any

from utils import cli
from utils.config import load_config
from utils.data.first_stage import read_test_data
from utils.errors import EXIT_REGRESSION
from utils.files import check_output, locked, write_json
from utils.report.serving import serving_text
from utils.scoring import open_reranker
from utils.serving.agreement import Bounds
from utils.serving.diagnosis import verify
from utils.serving.endpoint import RerankEndpoint
from utils.serving.exported import open_served


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0], parents=(cli.agreement_flags(),))
    add = parser.add_argument
    add("--model_path", default="./output_new", help="folder of the trained reranker")
    served = parser.add_mutually_exclusive_group(required=True)
    served.add_argument("--url", help="address of the /rerank endpoint that serves it (default: --folder does)")
    served.add_argument("--folder", help="folder, or graph, that serves it (default: --url does)")
    add("--request_fields", type=fields, default={}, metavar="JSON", help='more fields of each request, such as '
        '{"model": "my-reranker"}, or {"truncate_prompt_tokens": 512} for vLLM (default: none)')  # fmt: skip
    add("--request_size", type=cli.positive, default=32, help="passages in a request, which servers limit")
    add("--output_file", default="./served_results.json", help="JSON file of the results; replaced if it exists")
    return parser.parse_args(argv)


def fields(text: str) -> dict[str, Any]:
    """Read a JSON object, for argparse's ``type``."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text} must be a JSON object")
    return value


def main(argv: list[str] | None = None) -> int:
    """Score the pools twice, print and write how far the scores agree, and return 3 where they do not."""
    args = parse_args(argv)
    output = check_output(args.output_file)
    with locked(output):
        config = load_config(args.config) if args.config else None
        cli.use_gpus(config.gpu_id if config else None)
        test = read_test_data(args.test_data, args.run, config, args.depth)
        reranker = open_reranker(args.model_path, half=False, batch_size=args.batch_size)
        served = (
            RerankEndpoint(args.url, args.request_fields, args.request_size)
            if args.url
            else open_served(args.folder, batch_size=args.batch_size)
        )
        settings = {key: value for key, value in vars(args).items() if value not in (None, {})}
        result = verify(reranker, served, test.pools, Bounds(args.min_tau, args.tolerance), settings)
        write_json(output, result.to_json())
    print(serving_text(result))
    print(f"results are in {output}")
    return 0 if result.faithful else EXIT_REGRESSION


if __name__ == "__main__":
    cli.run(main)
