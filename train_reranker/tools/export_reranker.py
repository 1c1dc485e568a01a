"""Export a trained reranker to ONNX, and compare the export with its folder: scores, order and metrics.

    pip install -r ../requirements-onnx.txt
    python -m tools.export_reranker --model_path ./output --output_dir ./output_onnx
    python -m tools.export_reranker --model_path ./output --output_dir ./output_int8 --precision int8

The new folder has what sentence-transformers' and Optimum's ONNX backends, TEI's and onnxruntime look for.
"""

import argparse

from utils import cli
from utils.config import load_config
from utils.data.first_stage import read_test_data
from utils.errors import EXIT_REGRESSION
from utils.files import new_output
from utils.report.serving import serving_text
from utils.scoring import open_reranker
from utils.serving.agreement import Bounds
from utils.serving.diagnosis import verify
from utils.serving.exported import export_onnx, open_served


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0], parents=(cli.agreement_flags(),))
    add = parser.add_argument
    add("--model_path", default="./output_new", help="folder of the trained reranker")
    add("--output_dir", default="./output_onnx", help="new folder for the export")
    add("--precision", choices=("fp32", "int8"), default="fp32", help="of the weights of matrix products")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Export, compare on the test data, and return 3 where the export scores or orders otherwise."""
    args = parse_args(argv)
    config = load_config(args.config) if args.config else None
    test = read_test_data(args.test_data, args.run, config, args.depth)
    reranker = open_reranker(args.model_path, half=False, batch_size=args.batch_size)
    with new_output(args.output_dir, "--output_dir") as output:
        export_onnx(args.model_path, output, args.precision == "int8")
    print(f"the export is in {args.output_dir}")
    served = open_served(args.output_dir, batch_size=args.batch_size)
    result = verify(reranker, served, test.pools, Bounds(args.min_tau, args.tolerance), vars(args))
    print(serving_text(result))
    return 0 if result.faithful else EXIT_REGRESSION


if __name__ == "__main__":
    cli.run(main)
